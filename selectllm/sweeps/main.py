"""Runs a sweep: all runs of a grid that a config's `get_hyper` spans, then one table and figures.

  python -m selectllm.sweeps.main --config=mini:ablations                       # one run at a time
  python -m selectllm.sweeps.main --config=mini:ablation=encoder --at_once=4    # four at a time
  python -m selectllm.sweeps.main --config=mini:ablations --ray=auto            # on a Ray cluster
  python -m selectllm.sweeps.main --config=mini:ablations --print               # says what it would run

Fields that are set (--config.train.epochs=1) hold for all runs. The same command goes on where it was stopped; runs are
in --workdir, runs/sweeps/<config> by default, with their output in log.txt. Runs that differ only in how they are
evaluated share one classifier.
"""

import functools
import importlib.util
import pathlib
import shlex
import sys
import types
from typing import Any

import rich.console
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from selectllm import main as command
from selectllm.infra import run_dir
from selectllm.sweeps import backends, grid, plan, report

_AT_ONCE = flags.DEFINE_integer(
  'at_once', None, 'Runs at the same time; 1 by default, on a Ray cluster as many as it has room for.', lower_bound=1
)
_RAY = flags.DEFINE_string('ray', None, 'Run on the Ray cluster of this address; auto finds one, local starts one.')
_CPUS = flags.DEFINE_float('cpus_per_run', 1.0, 'Cores that Ray gives a run.', lower_bound=0.0)
_GPUS = flags.DEFINE_float('gpus_per_run', 0.0, 'GPUs that Ray gives a run.', lower_bound=0.0)
_PRINT = flags.DEFINE_bool('print', False, 'Print the commands of the runs that are left, and run nothing.')
_REPORT = flags.DEFINE_bool('report', False, 'Report on the runs that are done, and run nothing.')

# Mode of a run -> what it is said to have been.
_KINDS = {'train_and_evaluate': 'trained', 'evaluate': 'evaluated'}


def load_config_file(path: str) -> types.ModuleType:
  """Imports a config file, for what it holds beside `get_config`."""
  spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
  if spec is None or spec.loader is None:
    raise ValueError(f'{path} is no Python file')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def make_plan() -> plan.Plan:
  """Returns the sweep that the flags ask for.

  Raises:
    ValueError: when the config has no such sweep, or a point of it cannot be run.
  """
  flag = flags.FLAGS['config']
  path, _, argument = config_flags.get_config_filename(flag).partition(':')
  get_hyper = getattr(load_config_file(path), 'get_hyper', None)
  if get_hyper is None:
    raise ValueError(f'{path} has no get_hyper(hyper, argument), so there is nothing to sweep')
  config = flags.FLAGS.config
  if config.mode != 'train_and_evaluate':
    raise ValueError(f'config.mode={config.mode!r}: a sweep trains and evaluates')
  return plan.make(config, get_hyper(grid, argument), config_flags.get_override_values(flag))


def _command(run: plan.Run, directory: pathlib.Path, mode: str) -> list[str]:
  flag = flags.FLAGS['config']
  fields: dict[str, Any] = {**config_flags.get_override_values(flag), **run.overrides, 'mode': mode}
  return [
    *(sys.executable, '-m', 'selectllm.main'),
    *(f'--config={config_flags.get_config_filename(flag)}', f'--workdir={directory}'),
    *(f'--config.{name}={value}' for name, value in fields.items()),
  ]


def make_jobs(sweep: plan.Plan, workdir: pathlib.Path) -> list[backends.Job]:
  """Returns what is left to run: a classifier is trained once, and then only evaluated."""
  trainers, jobs = plan.trainers(sweep, workdir), []
  left = [run for run in sweep.runs.values() if not plan.is_done(run, workdir)]
  for run in left:
    directory, trainer = workdir / run.name, trainers[run.name]
    log = directory / 'log.txt'
    if trainer == run.name:
      mode = 'evaluate' if plan.is_scored(directory) else 'train_and_evaluate'
      jobs.append(backends.Job(run.name, _KINDS[mode], _command(run, directory, mode), log))
    else:
      after = trainer if any(trainer == other.name for other in left) else ''
      share = functools.partial(plan.share_classifier, workdir / trainer, directory)
      arguments = _command(run, directory, 'evaluate')
      jobs.append(backends.Job(run.name, _KINDS['evaluate'], arguments, log, after, share))
  return jobs


def _print(sweep: plan.Plan, jobs: list[backends.Job], workdir: pathlib.Path) -> None:
  """Prints the jobs as a shell script."""
  trainers = plan.trainers(sweep, workdir)
  for job in jobs:
    line, directory = shlex.join(job.command), workdir / job.name
    if trainers[job.name] != job.name and not plan.is_scored(directory):
      files = [str(workdir / trainers[job.name] / name) for name in plan.SHARED]
      line = f'mkdir -p {shlex.quote(str(directory))} && cp {shlex.join([*files, str(directory)])} && {line}'
    print(line)


def _run(sweep: plan.Plan, jobs: list[backends.Job]) -> dict[str, str]:
  """Runs the jobs; returns why some failed."""
  total = len(sweep.runs)
  trained = sum(job.kind == _KINDS['train_and_evaluate'] for job in jobs)
  print(
    f'{len(sweep.points)} points, {total} runs: {total - len(jobs)} done, {trained} to train, '
    f'{len(jobs) - trained} to evaluate',
    file=sys.stderr,
  )
  if not jobs:
    return {}
  backend: backends.Backend
  if _RAY.value is None:
    at_once = _AT_ONCE.value or 1
    backend = backends.Local(at_once)
  else:
    at_once = _AT_ONCE.value or len(jobs)
    backend = backends.Cluster(_RAY.value, cpus=_CPUS.value, gpus=_GPUS.value)
  return backends.run_all(jobs, backend, at_once)


def _sweep(workdir: pathlib.Path) -> int:
  """Does what the flags ask for; returns the exit code."""
  sweep = make_plan()
  plan.check_directories(sweep, workdir)
  if _PRINT.value:
    _print(sweep, make_jobs(sweep, workdir), workdir)
    return 0
  with run_dir.lock(workdir):
    plan.save(sweep, workdir)
    failed = {} if _REPORT.value else _run(sweep, make_jobs(sweep, workdir))
    _print_failures(failed, workdir)
    missing = report.write(sweep, workdir, failed)
  return 1 if missing and not _REPORT.value else 0


def _print_failures(failed: dict[str, str], workdir: pathlib.Path) -> None:
  console = rich.console.Console(stderr=True)
  for name, why in failed.items():
    log = workdir / name / 'log.txt'
    console.print(f'failed: {name}: {why}. The end of {log}:', highlight=False, markup=False, soft_wrap=True)
    console.print(backends.tail(log), highlight=False, markup=False, soft_wrap=True)


def main(argv: list[str]) -> None:
  """Runs the sweep that the flags ask for."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}: fields are set as --config.FIELD=VALUE')
  absl_logging.set_verbosity(absl_logging.ERROR)
  workdir = pathlib.Path(flags.FLAGS.workdir or f'runs/sweeps/{command.config_name()}')
  try:
    sys.exit(_sweep(workdir))
  except KeyboardInterrupt:
    print('Stopped. The same command goes on.', file=sys.stderr)
    sys.exit(130)
  except (ValueError, RuntimeError, OSError) as error:
    sys.exit(f'error: {error}')


if __name__ == '__main__':
  app.run(main, flags_parser=command.parse_flags)
