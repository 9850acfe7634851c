import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import pytest

from selectllm.sweeps import backends

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def job(tmp_path):
  def make(name: str, script: str, after: str = '') -> backends.Job:
    return backends.Job(name, 'trained', ['sh', '-c', script], tmp_path / name / 'log.txt', after)

  return make


def log(tmp_path, name: str) -> list[str]:
  return (tmp_path / name / 'log.txt').read_text().split()


def wait_for(what, seconds=20.0):
  deadline = time.monotonic() + seconds
  while not (found := what()):
    assert time.monotonic() < deadline
    time.sleep(0.02)
  return found


def is_alive(pid: int) -> bool:
  try:
    return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
  except FileNotFoundError:
    return False


def test_crashed_jobs_are_tried_again_once_and_the_others_go_on(job, tmp_path, capsys):
  jobs = [
    job('lost', 'echo tried; exit 3'),
    job('heir', 'echo tried', after='lost'),
    job('second', 'echo tried; test -e second || { touch second; exit 1; }'.replace('second', f'{tmp_path}/mark')),
    job('third', 'echo tried; kill -9 $$', after='second'),
    job('good', 'echo tried', after='second'),
  ]
  failed = backends.run_all(jobs, backends.Local(2), 2)
  assert failed == {
    'lost': 'ended with 3, 2 times',
    'heir': 'it needs the classifier of lost, which failed',
    'third': 'ended with -9, 2 times',
  }
  attempts = {name: log(tmp_path, name).count('tried') for name in ('lost', 'second', 'third', 'good')}
  assert attempts == {'lost': 2, 'second': 2, 'third': 2, 'good': 1}
  assert not (tmp_path / 'heir').exists()
  said = capsys.readouterr().err
  assert 'trained lost: ended with 3 after' in said
  assert '[2/5] trained good' in said


def test_jobs_wait_for_what_they_need_and_no_more_than_asked_for_run_at_once(job, tmp_path):
  mark = f'echo $(date +%s%N) >>{tmp_path}/at-'
  jobs = [job(f'{n}', f'{mark}{n}; sleep 0.3; {mark}{n}') for n in range(4)]
  jobs.insert(0, job('last', f'{mark}last', after='3'))
  assert not backends.run_all(jobs, backends.Local(2), 2)
  times = {path.name: [int(t) for t in path.read_text().split()] for path in tmp_path.glob('at-*')}
  assert times.pop('at-last')[0] > times['at-3'][1]
  for begin, _ in times.values():
    assert sum(b <= begin < e for b, e in times.values()) <= 2


def test_a_job_that_is_prepared_when_it_starts(job, tmp_path):
  first, second = job('first', f'echo made >{tmp_path}/file'), job('second', f'cat {tmp_path}/copy', after='first')
  second = second._replace(prepare=lambda: (tmp_path / 'file').rename(tmp_path / 'copy'))
  assert not backends.run_all([second, first], backends.Local(1), 1)
  assert log(tmp_path, 'second') == ['made']


@pytest.mark.parametrize('at_once', [1, 2])
def test_runs_at_the_same_time_share_the_cores(job, tmp_path, at_once, monkeypatch):
  monkeypatch.delenv('NPROC', raising=False)
  monkeypatch.setattr(os, 'cpu_count', lambda: 6)
  assert not backends.run_all([job('one', 'echo threads=$NPROC')], backends.Local(at_once), at_once)
  assert log(tmp_path, 'one') == ['threads=' + ('3' if at_once > 1 else '')]


# Two jobs, each of which starts a child that would outlive it and does not listen.
SWEEP = """
import pathlib, signal, sys
from selectllm.sweeps import backends
folder = pathlib.Path(sys.argv[1])
script = 'echo $$ >{0}/$$.pid; sleep 60 & echo $! >{0}/$!.pid; wait'.format(folder)
jobs = [backends.Job(n, 'trained', ['sh', '-c', script], folder / f'{n}.txt') for n in 'ab']
backends.run_all(jobs, BACKEND, 2)
"""
LOCAL, RAY = 'backends.Local(2)', "backends.Cluster('local', cpus=0.1, gpus=0)"


@pytest.mark.parametrize(
  ('backend', 'number'), [(LOCAL, signal.SIGINT), (LOCAL, signal.SIGTERM), (RAY, signal.SIGTERM)]
)
def test_stopped_it_leaves_nothing_running(tmp_path, backend, number):
  if backend == RAY:
    pytest.importorskip('ray')
  command = [sys.executable, '-c', SWEEP.replace('BACKEND', backend), str(tmp_path)]
  sweep = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
  wait_for(lambda: len(list(tmp_path.glob('*.pid'))) == 4, seconds=60)
  pids = [int(path.stem) for path in tmp_path.glob('*.pid')]
  assert all(map(is_alive, pids))
  sweep.send_signal(number)
  assert 'Stopping 2 runs' in sweep.communicate(timeout=30)[1]
  assert sweep.returncode
  assert not any(map(is_alive, pids))


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux tells a process that its parent was killed')
def test_killed_it_leaves_no_run_behind(tmp_path):
  childless = SWEEP.replace('BACKEND', LOCAL).replace('& echo $! >{0}/$!.pid; wait', '')
  sweep = subprocess.Popen([sys.executable, '-c', childless, str(tmp_path)], cwd=ROOT)
  wait_for(lambda: len(list(tmp_path.glob('*.pid'))) == 2)
  pids = [int(path.stem) for path in tmp_path.glob('*.pid')]
  sweep.kill()
  sweep.wait()
  wait_for(lambda: not any(map(is_alive, pids)))


def test_without_ray_the_message_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'ray', None)
  with pytest.raises(RuntimeError, match=r"--ray needs Ray: pip install 'selectllm\[ray\]'"):
    backends.Cluster('auto', cpus=1, gpus=0)


def test_runs_that_no_machine_has_room_for_are_refused(monkeypatch):
  machines = [{'Alive': True, 'Resources': {'CPU': 4.0, 'GPU': 1.0}}, {'Alive': True, 'Resources': {'CPU': 16.0}}]
  machines.append({'Alive': False, 'Resources': {'CPU': 64.0, 'GPU': 8.0}})
  ray = types.SimpleNamespace(
    init=lambda *_, **__: None, nodes=lambda: machines, remote=lambda **_: lambda function: function
  )
  monkeypatch.setitem(sys.modules, 'ray', ray)
  backends.Cluster('auto', cpus=4, gpus=1)
  backends.Cluster('auto', cpus=16, gpus=0)
  with pytest.raises(
    RuntimeError, match=r'--cpus_per_run=16 --gpus_per_run=1: no machine .* they have 4 cores and 1 GPUs'
  ):
    backends.Cluster('auto', cpus=16, gpus=1)


def test_the_end_of_a_log(tmp_path):
  path = tmp_path / 'log.txt'
  assert backends.tail(path) == ''
  path.write_bytes(b''.join(b'line %d \xff\n' % i for i in range(30)))
  assert backends.tail(path, 2) == 'line 28 �\nline 29 �'
