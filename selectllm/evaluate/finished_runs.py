"""Reads what finished runs left: their configs, results and outcomes; NumPy only."""

import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from selectllm.evaluate import outcomes, results
from selectllm.infra import run_dir


class Run(NamedTuple):
  """A finished run.

  Attributes:
    name: Its directory's name, with as many parents as tell it from the other runs.
    path: The run directory.
    config: Its config, dotted names -> values; `evaluate` as it was last evaluated.
    data: Facts about its data, dotted names -> values; see `load.load`.
    results: Its report.json.
    outcomes: The outcome of every method on every test query.
  """

  name: str
  path: pathlib.Path
  config: dict[str, Any]
  data: dict[str, Any]
  results: results.Results
  outcomes: outcomes.Outcomes


def load_run(path: pathlib.Path) -> Run:
  """Reads a finished run.

  Raises:
    FileNotFoundError: when something is missing; says how to make it.
    ValueError: when something cannot be read.
    run_dir.RunDirError: when config.json or data.json is damaged, or of another version.
  """
  for name in ('config.json', 'data.json'):
    if not (path / name).is_file():
      raise FileNotFoundError(f'{path} holds no run: it has no {name}')
  if not (path / 'report.json').is_file():
    raise FileNotFoundError(
      f'the run in {path} has not finished: it has no report.json. The command that began it goes on with it.'
    )
  config, data = (run_dir.read(path / name) for name in ('config.json', 'data.json'))
  found = results.load(path / 'report.json')
  evaluated = {name: getattr(found.evaluate_config, name) for name in found.evaluate_config.__struct_fields__}
  fields = run_dir.flatten(config | {'evaluate': evaluated})
  return Run(path.resolve().name, path, fields, run_dir.flatten(data), found, _read_outcomes(path))


def _read_outcomes(run: pathlib.Path) -> outcomes.Outcomes:
  path = run / 'outcomes.npz'
  anew = f'The config of the run with --config.mode=evaluate --workdir={run} writes it anew.'
  if not path.is_file():
    raise FileNotFoundError(f'the run in {run} has no outcomes.npz, which older versions did not write. {anew}')
  try:
    with np.load(path) as arrays:
      return outcomes.Outcomes(**arrays)
  except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
    raise ValueError(f'{path} cannot be read ({error}). {anew}') from error


def load_runs(paths: Sequence[pathlib.Path]) -> list[Run]:
  """Reads several runs, and names each by what tells it from the others."""
  parts = [path.resolve().parts for path in paths]
  depth = 1
  while len({each[-depth:] for each in parts}) < len(set(parts)):
    depth += 1
  return [load_run(path)._replace(name='/'.join(each[-depth:])) for path, each in zip(paths, parts, strict=True)]
