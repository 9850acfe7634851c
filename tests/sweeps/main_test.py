"""Sweeps through the real command: killed and resumed, on a Ray cluster, and what is refused."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]

EIGHT = """hyper.product([
    hyper.chainit([
      hyper.fixed('config.evaluate.threshold', 0.5),
      hyper.fixed('config.evaluate.threshold', 0.9),
      hyper.fixed('config.evaluate.vote', 'samples'),
      hyper.fixed('config.encoder.pooling', 'cls'),
    ]),
    hyper.sweep('config.seed', range(2)),
  ])"""


def _children(pid: int) -> list[int]:
  """All processes that a process started, and those that they did."""
  found = []
  for path in pathlib.Path('/proc').glob('[0-9]*/stat'):
    try:
      state, parent = path.read_text().rpartition(')')[2].split()[:2]
    except OSError:  # it has ended meanwhile
      continue
    if int(parent) == pid and state != 'Z':
      found += [int(path.parent.name), *_children(int(path.parent.name))]
  return found


def _reports(workdir: pathlib.Path) -> dict[str, int]:
  return {path.parent.name: path.stat().st_mtime_ns for path in workdir.glob('*/report.json')}


def _trained(workdir: pathlib.Path) -> set[str]:
  """The runs that made a classifier, and did not evaluate another run's scores."""
  return {path.parent.name for path in workdir.glob('*/log.txt') if 'Encoder: frozen' in path.read_text()}


def _results(run: pathlib.Path) -> dict:
  report = json.loads((run / 'report.json').read_text())
  del report['timing']
  return report


def test_killed_in_the_middle_it_goes_on_with_what_is_left(start, environment, config_file, tmp_path):
  workdir = tmp_path / 'sweep'
  arguments = (f'--config={config_file(EIGHT)}', f'--workdir={workdir}', '--at_once=2')
  sweep = start(*arguments)
  while len(_reports(workdir)) < 2 and sweep.poll() is None:
    time.sleep(0.05)
  runs = _children(sweep.pid)
  for pid in (sweep.pid, *runs):
    os.kill(pid, signal.SIGKILL)
  assert sweep.wait() == -signal.SIGKILL, sweep.stderr.read()
  assert len(runs) >= 1
  before = _reports(workdir)
  assert 2 <= len(before) < 8

  again = start(*arguments)
  out, said = again.communicate()
  assert again.returncode == 0, said
  assert f'8 points, 8 runs: {len(before)} done' in said
  after = _reports(workdir)
  assert len(after) == 8
  assert {name: after[name] for name in before} == before
  logs = {path.parent.name: path.read_text() for path in workdir.glob('*/log.txt')}
  assert all(logs.values())
  # Four classifiers: thresholds and votes are evaluated with the experiment's.
  assert _trained(workdir) == {
    name for seed in range(2) for name in (f'seed={seed}', f'encoder.pooling=cls--seed={seed}')
  }
  for other in ('evaluate.threshold=0.9', 'evaluate.vote=samples'):
    shared = workdir / f'{other}--seed=1'
    assert (shared / 'predictions.npz').read_bytes() == (workdir / 'seed=1' / 'predictions.npz').read_bytes()
  threshold = _results(workdir / 'evaluate.threshold=0.9--seed=1')
  assert threshold['evaluate_config']['threshold'] == 0.9
  assert threshold['classifier']['auroc'] == _results(workdir / 'seed=1')['classifier']['auroc']
  assert threshold['classifier']['confusion'] != _results(workdir / 'seed=1')['classifier']['confusion']
  _check_report(workdir, out)

  # Once more it runs nothing, and reports the same.
  table = (workdir / 'sweep.csv').read_text()
  nothing = start(*arguments)
  assert '8 done, 0 to train, 0 to evaluate' in nothing.communicate()[1]
  assert nothing.returncode == 0
  assert _reports(workdir) == after
  assert (workdir / 'sweep.csv').read_text() == table

  # What is printed goes on from the scores that are there.
  report = workdir / 'evaluate.vote=samples--seed=1' / 'report.json'
  report.unlink()
  printed = _sweep(*arguments, '--print').stdout
  assert printed.count('\n') == 1
  subprocess.run(printed, shell=True, cwd=ROOT, env=environment, check=True, capture_output=True)
  assert report.exists()


def _check_report(workdir: pathlib.Path, out: str) -> None:
  found = json.loads((workdir / 'sweep.json').read_text())
  assert not found['missing']
  directories = [point['run'] for point in found['points']]
  assert len(directories) == 8
  assert all((workdir / name / 'report.json').exists() for name in directories)
  with (workdir / 'sweep.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert {(row['axis'], row['variant'], row['seeds']) for row in rows if row['measure'] == 'top-1'} == {
    ('evaluate.threshold', 'threshold=0.5', '2'),
    ('evaluate.threshold', 'threshold=0.9', '2'),
    ('evaluate.vote', 'base', '2'),
    ('evaluate.vote', 'vote=samples', '2'),
    ('encoder.pooling', 'base', '2'),
    ('encoder.pooling', 'pooling=cls', '2'),
  }
  assert 'threshold=0.5 (base)' in out
  text = (workdir / 'sweep.md').read_text()
  assert text.startswith('# Sweep of Sums: 3 LLMs, ')
  assert '## Policy and subset size' in text
  assert (workdir / 'gains.png').stat().st_size > 10_000


FOUR = """hyper.chainit([
    hyper.fixed('config.seed', 0),
    hyper.fixed('config.evaluate.threshold', 0.3),
    hyper.fixed('config.encoder.name', '/no/such/encoder'),
    hyper.fixed('config.evaluate.vote', 'samples'),
  ])"""


@pytest.mark.long
def test_on_a_ray_cluster_with_a_run_that_crashes(start, config_file, tmp_path):
  pytest.importorskip('ray')
  workdir = tmp_path / 'sweep'
  sweep = start(f'--config={config_file(FOUR)}', f'--workdir={workdir}', '--ray=local', '--cpus_per_run=0.5')
  out, said = sweep.communicate()
  assert sweep.returncode == 1
  assert len(_reports(workdir)) == 3, said
  assert len(_trained(workdir)) == 1
  [crashed] = [path.name for path in workdir.iterdir() if path.name.startswith('encoder.name=_no_such_encoder')]
  log = (workdir / crashed / 'log.txt').read_text()
  assert log.count("error: no encoder '/no/such/encoder' was found") == 2
  assert f'failed: {crashed}: ended with 1, 2 times. The end of ' in said
  assert "no encoder '/no/such/encoder' was found" in said
  assert json.loads((workdir / 'sweep.json').read_text())['missing'] == {crashed: 'ended with 1, 2 times'}
  text = (workdir / 'sweep.md').read_text()
  assert '**Missing runs: 1**' in text
  assert f'- {crashed}: ended with 1, 2 times' in text
  assert 'evaluate.vote' in out


def _sweep(*arguments: object) -> subprocess.CompletedProcess:
  command = [sys.executable, '-m', 'selectllm.sweeps.main', *map(str, arguments)]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config=configs/common.py'], 'configs/common.py has no get_hyper(hyper, argument), so there is nothing to'),
    (['--config=configs/lost.py'], "error: [Errno 2] No such file or directory: '"),
    (['--config=configs/mini.py'], 'the config argument names no sweep: say :ablations, or :ablation=NAME'),
    (['--config=configs/mini.py:ablation=lost'], "ablation='lost' is not one of threshold, vote, "),
    (['--config=configs/mini.py:ablations,collect'], "config.mode='collect': a sweep trains and evaluates"),
    (['--config=configs/mini.py:ablations', '--config.seed=4'], 'config.seed=4 would be used nowhere'),
    (['--config=configs/mini.py:ablations', '--config.train.epochs=0'], 'config.train.epochs=0: at least 1'),
  ],
)
def test_what_cannot_be_swept_is_refused_before_anything_runs(arguments, message, tmp_path):
  done = _sweep(*arguments, f'--workdir={tmp_path / "sweep"}')
  assert done.returncode == 1
  assert message in done.stderr
  assert 'Traceback' not in done.stderr
  assert not (tmp_path / 'sweep').exists()


def test_a_report_on_nothing_is_an_error(config_file, tmp_path):
  done = _sweep(f'--config={config_file(FOUR)}', f'--workdir={tmp_path}', '--report')
  assert done.returncode == 1
  assert done.stderr == f'error: no run of this sweep has finished in {tmp_path}; there is nothing to report\n'


def test_printed_it_is_a_script_that_does_what_the_sweep_would(config_file, tmp_path):
  workdir = tmp_path / 'sweep'
  done = _sweep(
    f'--config={config_file(FOUR)}', f'--workdir={workdir}', '--print', "--config.pool.llms=('adder', 'guesser')"
  )
  assert done.returncode == 0, done.stderr
  assert not workdir.exists()
  lines = done.stdout.splitlines()
  assert len(lines) == 4
  assert all("'--config.pool.llms=('\"'\"'adder'" in line and '-m selectllm.main' in line for line in lines)
  assert f' --workdir={workdir}/seed=0 ' in lines[0]
  assert lines[0].endswith('--config.seed=0 --config.mode=train_and_evaluate')
  assert lines[1].startswith(f'mkdir -p {workdir}/evaluate.threshold=0.3--seed=0 && cp {workdir}/seed=0/config.json ')
  assert lines[1].endswith('--config.evaluate.threshold=0.3 --config.mode=evaluate')


def test_a_directory_that_another_sweep_is_using_is_refused(start, config_file, tmp_path):
  import filelock

  workdir = tmp_path / 'sweep'
  workdir.mkdir()
  with filelock.FileLock(workdir / '.lock'):
    done = _sweep(f'--config={config_file(FOUR)}', f'--workdir={workdir}')
  assert done.returncode == 1
  assert f'another run is using {workdir}' in done.stderr
  assert [path.name for path in workdir.iterdir()] == ['.lock']
