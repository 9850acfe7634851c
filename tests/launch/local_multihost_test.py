"""One job as several processes: how it ends, and that it ends in the report of one process."""

import collections.abc
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import ml_collections
import pytest

from configs import jsonl
from selectllm.modes import experiment

ROOT = pathlib.Path(__file__).parents[2]


JOB = """
import os, sys
from launch import local_multihost
environments = [{**os.environ, 'ME': str(number)} for number in range(int(sys.argv[2]))]
sys.exit(local_multihost.run([sys.executable, '-c', sys.argv[1]], environments))
"""


def _job(code: str, processes: int = 2) -> subprocess.Popen:
  """Starts a job of processes that run this code, in which `me` is the process's number."""
  code = f'import os, time; me = int(os.environ["ME"]); {code}'
  return subprocess.Popen(
    [sys.executable, '-c', JOB, code, str(processes)], cwd=ROOT, stderr=subprocess.PIPE, text=True
  )


def test_what_processes_print_stands_under_their_numbers():
  job = _job('print(f"line of {me}"); print("\\xe9")', processes=3)
  lines = job.communicate()[1].splitlines()
  assert job.returncode == 0
  assert sorted(lines) == sorted(f'[{me}] {line}' for me in range(3) for line in (f'line of {me}', 'é'))


def test_who_is_killed_is_named_not_who_aborts_for_it():
  job = _job('os.kill(os.getpid(), 9) if me else (time.sleep(0.3), os.abort())')
  assert 'Process 1 of 2 was killed by SIGKILL, and the others were ended' in job.communicate()[1]
  assert job.returncode == 128 + signal.SIGKILL


def test_nobody_waits_for_who_ended_with_an_error():
  job = _job('exit(3) if me else time.sleep(600)')
  assert 'Process 1 of 2 ended with exit code 3' in job.communicate(timeout=60)[1]
  assert job.returncode == 3


@pytest.mark.parametrize(('number', 'expected'), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_signals_are_passed_on(number, expected, tmp_path):
  """To processes that end well then, as a training does that SIGTERM lets save."""
  listen = f'signal.signal({int(number)}, lambda *_: exit(0)); open(f"{tmp_path}/{{me}}", "w"); time.sleep(600)'
  job = _job(f'import signal; {listen}')
  while len(list(tmp_path.iterdir())) < 2:
    assert job.poll() is None
    time.sleep(0.01)
  job.send_signal(number)
  assert f'{number.name} is passed on to 2 processes' in job.communicate(timeout=60)[1]
  assert job.returncode == expected


OVERRIDES = {
  'encoder.max_length': 8,  # one shape to compile
  'train.epochs': 4,
  'train.batch_size': 16,
  'train.checkpoint_every_steps': 3,
  'train.log_every_steps': 1,
  'evaluate.resamples': 100,
  'evaluate.knn_neighbours': (5,),
  'tradeoff.strategies': (),
}


@pytest.fixture(scope='module')
def fields(tiny_encoder, responses_file) -> dict[str, object]:
  return {'encoder.name': str(tiny_encoder), 'dataset.path': str(responses_file), **OVERRIDES}


@pytest.fixture(scope='module', autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> collections.abc.Iterator[None]:
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('SELECTLLM_CACHE', str(tmp_path_factory.getbasetemp() / 'cache'))
    yield


def _config(fields: dict[str, object], **mesh: int) -> ml_collections.ConfigDict:
  config = jsonl.get_config()
  config.update_from_flattened_dict({**fields, **{f'mesh.{axis}': size for axis, size in mesh.items()}})
  return config.lock()


@pytest.fixture(scope='module')
def alone(fields, tmp_path_factory) -> dict:
  """The report of one process with one device."""
  workdir = tmp_path_factory.mktemp('alone')
  experiment.run(_config(fields, data=1), workdir)
  return _report(workdir)


def _report(workdir: pathlib.Path) -> dict:
  report = json.loads((workdir / 'report.json').read_text())
  del report['timing']
  return report


def _assert_close(there, here, path: str = 'report') -> None:
  """Equal but for numbers, which may differ by 1e-4."""
  if isinstance(there, dict):
    assert there.keys() == here.keys(), path
    for name in there:
      _assert_close(there[name], here[name], f'{path}.{name}')
  elif isinstance(there, list):
    assert len(there) == len(here), path
    for place, pair in enumerate(zip(there, here, strict=True)):
      _assert_close(*pair, f'{path}[{place}]')
  elif isinstance(there, float):
    assert here == pytest.approx(there, abs=1e-4), path
  else:
    assert here == there, path


def _start(fields: dict[str, object], workdir: pathlib.Path) -> subprocess.Popen:
  command = [sys.executable, '-m', 'launch.local_multihost', '--processes=2', '--', '--config=configs/jsonl.py']
  command += [f'--workdir={workdir}', *(f'--config.{name}={value}' for name, value in fields.items())]
  return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def _wait_for_steps(job: subprocess.Popen, workdir: pathlib.Path, steps: int) -> None:
  written = workdir / 'metrics.jsonl'
  while job.poll() is None and not (written.exists() and written.read_text().count('loss') >= steps):
    time.sleep(0.005)
  assert job.poll() is None, job.communicate()[1][-3000:]


def _second_process(launcher: int) -> int:
  children = pathlib.Path(f'/proc/{launcher}/task/{launcher}/children').read_text().split()
  return next(
    int(child) for child in children if b'JAX_PROCESS_ID=1\0' in pathlib.Path(f'/proc/{child}/environ').read_bytes()
  )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='finds the process in /proc')
def test_a_process_is_killed_and_the_same_command_ends_in_the_report_of_one_process(fields, alone, tmp_path):
  job = _start(fields, tmp_path)
  _wait_for_steps(job, tmp_path, 8)
  os.kill(_second_process(job.pid), signal.SIGKILL)
  said = job.communicate(timeout=60)[1]
  assert job.returncode == 128 + signal.SIGKILL
  assert 'Process 1 of 2 was killed by SIGKILL' in said.splitlines()[-1]
  assert 'The same command goes on' in said.splitlines()[-1]
  assert not (tmp_path / 'report.json').exists()
  job = _start(fields, tmp_path)
  said = job.communicate()[1]
  assert job.returncode == 0, said[-3000:]
  assert '[0] ' in said
  assert 'Resumed from step' in said
  assert not [line for line in said.splitlines() if line.startswith('[1] I')]  # only the first narrates
  _assert_close(alone, _report(tmp_path))


@pytest.mark.long
def test_sigterm_saves_and_one_process_goes_on_on_another_mesh(fields, alone, tmp_path):
  job = _start(fields, tmp_path)
  _wait_for_steps(job, tmp_path, 4)
  job.send_signal(signal.SIGTERM)
  said = job.communicate()[1]
  assert job.returncode == 0, said[-3000:]
  assert 'Stopped by SIGTERM: step' in said
  assert not (tmp_path / 'report.json').exists()
  experiment.run(_config(fields, data=1, fsdp=2), tmp_path)
  _assert_close(alone, _report(tmp_path))
