import collections.abc
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FAKE = pathlib.Path(__file__).parents[1] / 'helpers' / 'fake_gcloud.py'
FLAGS = ['--name=pod', '--zone=us-west4-a', '--type=v5litepod-16']
GS = ['--', '--workdir=gs://bucket/run']


class Cloud:
  """A checkout, a cloud to run it on, and what was asked of that."""

  def __init__(self, folder: pathlib.Path):
    self.folder, self.checkout, path = folder / 'cloud', folder / 'checkout', folder / 'path'
    for each in (self.folder, path, self.checkout / 'runs' / 'old', self.checkout / '.venv'):
      each.mkdir(parents=True)
    shutil.copytree(ROOT / 'launch', self.checkout / 'launch', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(ROOT / 'pyproject.toml', self.checkout)
    (self.checkout / 'runs' / 'old' / 'secret').touch()
    for name, script in {'gcloud': f'exec {sys.executable} -S {FAKE} "$@"', 'sleep': 'exit 0'}.items():
      (path / name).write_text(f'#!/bin/sh\n{script}\n')
      (path / name).chmod(0o755)
    path_list = f'{path}:{os.environ["PATH"]}'
    self._environment = {**os.environ, 'PATH': path_list, 'FAKE_CLOUD': str(self.folder), 'PYTHON': sys.executable}
    self._state = {
      'project': 'mine',
      'vm': None,
      'queued': None,
      'queue': [],
      'refuse': '',
      'broken': False,
      'workers': 2,
      'runs': [],
    }

  def start(self, *arguments: str, **state: object) -> subprocess.Popen:
    """Starts the script in a cloud of this state."""
    (self.folder / 'state.json').write_text(json.dumps({**self._state, **state}))
    command, pipe = ['bash', 'launch/tpu_vm.sh', *arguments], subprocess.PIPE
    return subprocess.Popen(
      command, cwd=self.checkout, env=self._environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )

  def run(self, *arguments: str, **state: object) -> subprocess.CompletedProcess:
    """Runs the script to its end."""
    process = self.start(*arguments, **state)
    try:
      output = process.communicate(timeout=120)
    finally:
      process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, *output)

  def state(self) -> dict:
    return json.loads((self.folder / 'state.json').read_text())

  def calls(self) -> list[list[str]]:
    try:
      return [json.loads(line) for line in (self.folder / 'calls.jsonl').read_text().splitlines()]
    except FileNotFoundError:
      return []

  def verbs(self) -> list[str]:
    """What was asked for, but for questions: create, scp, ssh install, ..."""
    verbs = []
    for call in self.calls():
      if call[1] == 'compute' and call[4] != 'describe':
        command = next((each for each in call if each.startswith('--command=')), '')
        verbs.append(f'{call[4]} {command.split()[2]}' if 'tpu_worker' in command else call[4])
    return verbs

  def jobs(self) -> list[list[str]]:
    """Worker and arguments of all jobs that were started, worker by worker."""
    return sorted(line.split('\0')[:-1] for line in (self.folder / 'jobs').read_text().splitlines() if line)


def wait_for(what: collections.abc.Callable[[], object]) -> None:
  deadline = time.monotonic() + 20
  while not what():
    assert time.monotonic() < deadline
    time.sleep(0.02)


@pytest.fixture
def cloud(tmp_path) -> Cloud:
  return Cloud(tmp_path)


def test_from_nothing_to_a_report_on_all_workers_and_deleted(cloud):
  arguments = ['--workdir=gs://bucket/run', '--config.dataset.title=it\'s  $5 "now"', '--config.pool.llms=(a,)', 'x\ny']
  done = cloud.run(*FLAGS, '--delete', '--', *arguments, runs=['report'])
  assert done.returncode == 0, done.stderr
  assert cloud.verbs() == ['create', 'scp', 'ssh install', 'ssh run', 'delete']
  create = next(call for call in cloud.calls() if 'create' in call)
  assert {'pod', '--accelerator-type=v5litepod-16', '--version=v2-alpha-tpuv5-lite'} < set(create)
  assert '--spot' not in create
  jobs = (cloud.folder / 'jobs').read_text()
  defaults = ['--workdir=runs/pod'], ['--config.mesh.distributed=True']
  expected = '\0'.join(['-m', 'selectllm.main', *defaults[0], *arguments, *defaults[1], '\n'])
  assert jobs.count(expected) == 2  # every argument arrives as it was given
  assert '[worker 0] step 1' in done.stdout
  assert '[worker 1] step 1' in done.stdout
  assert 'The run directory: gs://bucket/run' in done.stderr
  assert cloud.state()['vm'] is None
  assert 'costs money' not in done.stderr


def test_a_vm_is_kept_and_used_again_and_its_run_directory_fetched(cloud):
  done = cloud.run(*FLAGS, '--', '--config=configs/gsm8k.py', runs=['report'], workers=1)
  assert done.returncode == 0, done.stderr
  assert (cloud.checkout / 'runs' / 'pod' / 'report.json').exists()
  sent = cloud.folder / 'worker-0' / 'selectllm'
  assert (sent / 'launch' / 'install.sh').exists()
  assert not (sent / 'runs' / 'old').exists()
  assert 'pod costs money until: bash launch/tpu_vm.sh down --name=pod --zone=us-west4-a' in done.stderr
  (sent / 'stale.py').touch()
  done = cloud.run(*FLAGS[:2], '--', '--config=configs/mini.py', runs=['report'], vm='READY', workers=1)
  assert done.returncode == 0, done.stderr
  assert cloud.verbs().count('create') == 1
  assert not (sent / 'stale.py').exists()
  assert cloud.run('down', *FLAGS[:2], vm='READY').returncode == 0
  assert cloud.verbs()[-1] == 'delete'


def test_a_dry_run_touches_nothing_and_prints_what_the_real_run_does(cloud):
  arguments = [*FLAGS, '--spot', '--queued', '--create_flag=--network=a b', '--delete', *GS, "--config.seed=it's $5"]
  dry = cloud.run('--dry_run', *arguments)
  assert dry.returncode == 0, dry.stderr
  assert not cloud.calls()
  assert not (cloud.checkout / 'build').exists()
  assert cloud.run(*arguments, runs=['report']).returncode == 0
  printed = [shlex.split(line) for line in dry.stdout.splitlines()]
  assert [command for command in printed if command[0] == 'gcloud'] == cloud.calls()[1:]  # the first reads the project


def test_after_a_preemption_it_waits_in_the_queue_again_and_the_job_goes_on(cloud):
  queue = ['WAITING_FOR_RESOURCES', 'WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE', 'PROVISIONING']
  done = cloud.run(*FLAGS, '--spot', '--queued', *GS, queue=queue, runs=['preempt', 'report'])
  assert done.returncode == 0, done.stderr
  attempt = ['create', 'scp', 'ssh install', 'ssh run']
  assert cloud.verbs() == [*attempt, 'delete', *attempt]
  created = [call for call in cloud.calls() if 'create' in call]
  assert created[0] == created[1]
  assert {'queued-resources', '--node-id=pod', '--spot', '--runtime-version=v2-alpha-tpuv5-lite'} < set(created[0])
  assert {'queued-resources', '--force'} < set(next(call for call in cloud.calls() if 'delete' in call))
  assert done.stderr.count('pod: WAITING_FOR_RESOURCES; waiting') == 1
  assert 'taken away (SUSPENDED)' in done.stderr
  first, second = cloud.jobs()[0], cloud.jobs()[1]
  assert first == second  # the same command, on the same worker


def test_a_job_that_was_told_to_end_goes_on_where_it_is(cloud):
  done = cloud.run(*FLAGS, *GS, runs=['end', 'report'])
  assert done.returncode == 0, done.stderr
  assert cloud.verbs() == ['create', *['scp', 'ssh install', 'ssh run'] * 2]
  assert 'ended before its report was written' in done.stderr


def test_a_lost_connection_finds_the_job_again(cloud):
  done = cloud.run(*FLAGS, *GS, runs=['lose', 'report'])
  assert done.returncode == 0, done.stderr
  assert 'The connection broke (gcloud ended with 255)' in done.stderr
  assert [job[0] for job in cloud.jobs()] == ['0', '1']  # started once


def test_interruptions_are_bounded(cloud):
  done = cloud.run(*FLAGS, '--restarts=1', *GS, runs=['end', 'end', 'report'])
  assert done.returncode == 1
  assert cloud.verbs().count('ssh run') == 2
  assert '--restarts=N allows more than 1' in done.stderr


@pytest.mark.parametrize('delete', [[], ['--delete']])
def test_a_job_that_failed_is_not_repeated(cloud, delete):
  done = cloud.run(*FLAGS, *delete, '--', runs=['fail'], workers=1)
  assert done.returncode == 1
  assert '[worker 0] The job ended with status 3.' in done.stderr
  assert 'the job failed' in done.stderr
  assert cloud.verbs().count('ssh run') == 1
  assert (cloud.state()['vm'] is None) == bool(delete)
  assert ('costs money' in done.stderr) == (not delete)


def test_ctrl_c_leaves_the_job_running_until_it_is_stopped(cloud):
  script = cloud.start(*FLAGS, '--delete', *GS, runs=['wait'], workers=1)
  home = cloud.folder / 'worker-0'
  wait_for(lambda: (cloud.folder / 'jobs').exists())
  os.killpg(script.pid, signal.SIGINT)
  said = script.communicate(timeout=20)[1]
  assert script.returncode == 130
  assert 'is running goes on' in said
  assert 'costs money until' in said
  other = cloud.run(*FLAGS[:2], '--', '--workdir=gs://bucket/other', vm='READY', workers=1, runs=['report'])
  assert other.returncode == 1
  assert 'Another job is running here: --workdir=runs/pod --workdir=gs://bucket/run' in other.stderr
  assert not (home / 'selectllm_job' / 'status').exists()
  assert cloud.run('stop', *FLAGS[:2], vm='READY', workers=1).returncode == 0
  wait_for(lambda: (home / 'selectllm_job' / 'status').exists())
  assert len(cloud.jobs()) == 1
  again = cloud.run(*FLAGS, *GS, vm='READY', workers=1, runs=['report'])
  assert again.returncode == 0, again.stderr
  assert len(cloud.jobs()) == 2


def test_who_watches_a_job_that_is_stopped_does_not_start_it_again(cloud):
  script = cloud.start(*FLAGS, *GS, runs=['wait'], workers=1)
  wait_for(lambda: (cloud.folder / 'jobs').exists())
  assert cloud.run('stop', *FLAGS[:2], vm='READY', workers=1).returncode == 0
  assert 'The job was stopped; the same command goes on' in script.communicate(timeout=60)[1]
  assert script.returncode == 1
  assert len(cloud.jobs()) == 1


@pytest.mark.parametrize(
  ('arguments', 'state', 'message'),
  [
    (['--name=pod', *GS], {}, '--zone is needed'),
    ([*FLAGS, '--workdir=gs://bucket/run'], {}, 'no such flag: --workdir=gs://bucket/run'),
    ([*FLAGS, '--restarts=many'], {}, '--restarts=many is no number'),
    (FLAGS, {'project': ''}, 'no project'),
    (FLAGS, {'broken': True}, 'Cloud TPU API has not been used'),
    (FLAGS[:2], {}, 'there is no pod in us-west4-a; --type says what to create'),
    ([*FLAGS, *GS], {'refuse': 'There is no more capacity in the zone'}, 'no more capacity'),
  ],
)
def test_what_cannot_be_done_is_said_at_once(cloud, arguments, state, message):
  done = cloud.run(*arguments, **state)
  assert done.returncode == 1
  assert message in done.stderr
  assert 'costs money' not in done.stderr
  assert not [verb for verb in cloud.verbs() if verb != 'create']


def test_a_request_that_failed_is_said_and_kept(cloud):
  done = cloud.run(*FLAGS, '--queued', *GS, queue=['WAITING_FOR_RESOURCES', 'FAILED'])
  assert done.returncode == 1
  assert 'the request for pod failed' in done.stderr
  assert 'bash launch/tpu_vm.sh down --name=pod --zone=us-west4-a' in done.stderr
  assert cloud.verbs() == ['create']


def test_workers_that_share_no_disk_need_a_shared_run_directory(cloud):
  done = cloud.run(*FLAGS, '--', '--workdir', 'runs/mine')
  assert done.returncode == 1
  assert 'pod has 2 workers, which share no disk: --workdir must be on gs://' in done.stderr
  assert 'scp' not in cloud.verbs()
