"""The mode that compares finished runs on the queries that all of them tested."""

import functools
import glob
import json
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from selectllm.evaluate import metrics, outcomes, statistics
from selectllm.infra import run_dir
from selectllm.report import comparison, report, tables

# A method as `outcomes.Outcomes` names its columns: name and size.
Key = tuple[str, int]


class Run(NamedTuple):
  """A finished run.

  Attributes:
    name: Its directory's name, with as many parents as tell it from the other runs.
    path: The run directory.
    config: Its config, dotted names -> values; `evaluate` as it was last evaluated.
    data: What its data were, dotted names -> values; see `load.load`.
    results: Its report.json.
    outcomes: How every method fared on every test query.
  """

  name: str
  path: pathlib.Path
  config: dict[str, Any]
  data: dict[str, Any]
  results: dict[str, Any]
  outcomes: outcomes.Outcomes


class Aligned(NamedTuple):
  """A method of each of R runs on the Q queries that all of them tested.

  Attributes:
    query_ids: str[Q], sorted.
    correct: float32[Q, R].
    valid: bool[Q, R], false where the run does not count the query.
  """

  query_ids: np.ndarray
  correct: np.ndarray
  valid: np.ndarray


class Comparison(NamedTuple):
  """What one method gains over another on the same queries.

  Attributes:
    queries: How many both count.
    delta: The mean gain.
    ci: Its 95 % bootstrap interval.
    p: Of the paired test, see `statistics.paired_test`.
  """

  queries: int
  delta: float
  ci: tuple[float, float]
  p: float


def load_run(path: pathlib.Path) -> Run:
  """Reads what a finished run left.

  Raises:
    FileNotFoundError: when something is missing; says how to make it.
    ValueError: when something cannot be read.
  """
  for name in ('config.json', 'data.json'):
    if not (path / name).is_file():
      raise FileNotFoundError(f'{path} holds no run: it has no {name}')
  if not (path / 'report.json').is_file():
    raise FileNotFoundError(
      f'the run in {path} has not finished: it has no report.json. The command that began it goes on with it.'
    )
  config, data, results = (_read(path / name) for name in ('config.json', 'data.json', 'report.json'))
  fields = run_dir.flatten(config | {'evaluate': results['evaluate_config']})
  return Run(path.resolve().name, path, fields, run_dir.flatten(data), results, _read_outcomes(path))


def _read(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f'{path} is no JSON ({error})') from error


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


def shared_queries(played: Sequence[outcomes.Outcomes]) -> np.ndarray:
  """The ids of the queries that all runs tested, str[Q], sorted."""
  return functools.reduce(np.intersect1d, (each.query_ids for each in played))


def align(played: Sequence[outcomes.Outcomes], keys: Sequence[Key | None]) -> Aligned:
  """Brings the shared queries of R runs into one order.

  Args:
    played: Of R runs.
    keys: The method of each of them, not always the same; None where a run has none: it counts no query.

  Raises:
    KeyError: for a method that a run did not play.
  """
  shared = shared_queries(played)
  correct, valid = np.zeros((len(shared), len(played)), np.float32), np.zeros((len(shared), len(played)), bool)
  for run, (each, key) in enumerate(zip(played, keys, strict=True)):
    if key is None:
      continue
    column = each.column(*key)
    if column is None:
      raise KeyError(f'no method {key[0]!r} of size {key[1]}')
    order = np.argsort(each.query_ids)
    rows = order[np.searchsorted(each.query_ids, shared, sorter=order)]
    correct[:, run], valid[:, run] = each.correct[rows, column], each.valid[rows, column]
  return Aligned(shared, correct, valid)


def compare_pairs(a: np.ndarray, b: np.ndarray, valid: np.ndarray, *, resamples: int = 2000) -> list[Comparison | None]:
  """Compares P pairs of methods query by query: what each of b gains over that of a.

  Args:
    a: float32[Q, P], what one scored on each query.
    b: float32[Q, P], what the other scored.
    valid: bool[Q, P], queries that both count.
    resamples: Of the bootstrap.

  Returns:
    P gains; None where no query counts for both.
  """
  intervals = statistics.bootstrap_ci(b - a, valid, resamples=resamples).tolist()
  gains: list[Comparison | None] = []
  for one, other, both, (low, high) in zip(a.T, b.T, valid.T, intervals, strict=True):
    test = statistics.paired_test(other, one, both)
    gains.append(Comparison(int(both.sum()), test.delta, (low, high), test.p) if both.any() else None)
  return gains


def compare(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Runs the mode: writes comparison.json, comparison.md and a figure, and shows the table on the console.

  Raises:
    FileNotFoundError: for a directory that is not there or holds no finished run.
    ValueError: for less than two runs, or runs without a query in common.
  """
  runs = load_runs(_find(config.compare.runs))
  comparison.write(workdir, compare_runs(runs, resamples=config.evaluate.resamples))


def _find(patterns: str) -> list[pathlib.Path]:
  """The run directories that `config.compare.runs` names, each once, in its order."""
  found: dict[pathlib.Path, pathlib.Path] = {}
  for pattern in filter(None, map(str.strip, patterns.split(','))):
    pattern = str(pathlib.Path(pattern).expanduser())
    paths = [pathlib.Path(pattern)]
    if '*' in pattern:  # takes what else lies there for no run
      paths = [path for match in sorted(glob.glob(pattern)) if (path := pathlib.Path(match) / 'config.json').is_file()]
      paths = [path.parent for path in paths]
      if not paths:
        raise FileNotFoundError(f'config.compare.runs: no run directory matches {pattern!r}')
    for path in paths:
      found.setdefault(path.resolve(), path)
  if len(found) < 2:
    raise ValueError(
      f'config.compare.runs={patterns!r} names {len(found) or "no"} run: give at least two directories of finished '
      'runs, comma-separated, the one to compare with first'
    )
  return list(found.values())


def compare_runs(runs: Sequence[Run], *, resamples: int = 2000) -> dict[str, Any]:
  """Compares runs with the first of them, method by method: the content of comparison.json.

  All numbers of a method are over the same queries: those that all runs tested, and that count in every run that has
  the method. Holm's correction is over the runs that are compared with the first.

  Args:
    runs: R >= 2.
    resamples: Of the bootstrap.

  Raises:
    ValueError: when the runs have no query in common.
  """
  played = [run.outcomes for run in runs]
  shared = shared_queries(played)
  if not len(shared):
    tested = [f'  {run.name}: {len(run.outcomes.query_ids):,}, {run.outcomes.query_ids[0]} among them' for run in runs]
    raise ValueError('no query was tested by all of these runs:\n' + '\n'.join(tested))
  methods = _methods(runs)
  values, counted = _columns(played, list(methods.values()))
  intervals = statistics.bootstrap_ci(values, counted, resamples=resamples)
  first = np.repeat(np.arange(len(methods)) * len(runs), len(runs))
  gains = compare_pairs(values[:, first], values, counted[:, first] & counted, resamples=resamples)
  rows = []
  for number, (name, keys) in enumerate(methods.items()):
    of = slice(number * len(runs), (number + 1) * len(runs))
    rows.append(_row(name, keys, runs, values[:, of], counted[:, of], intervals[of], gains[of]))
  return {
    'runs': [
      {'name': run.name, 'path': str(run.path), 'title': report.title(run.results), 'tested': len(each.query_ids)}
      for run, each in zip(runs, played, strict=True)
    ],
    'shared_queries': len(shared),
    'policies': list(_policies(runs)),
    'warnings': warnings(runs),
    'differences': differences(runs),
    'methods': rows,
  }


def _policies(runs: Sequence[Run]) -> dict[str, None]:
  return dict.fromkeys(name for run in runs for name in tables.policies(run.results))


def _methods(runs: Sequence[Run]) -> dict[str, list[Key | None]]:
  """What is compared: a label -> where each run has it, None where it has it not."""
  wanted = {name: (name, outcomes.CHOSEN) for name in _policies(runs)}
  wanted |= {f'weighted_max_conf, s={size}': ('weighted_max_conf', size) for size in (1, 3)}
  wanted |= {'knn_top1': ('knn_top1', 1), 'best_s': ('best_s', outcomes.CHOSEN), 'all_llms': ('all_llms', 0)}
  wanted |= {name: (name, 1) for name in sorted({name for run in runs for name in run.results['best_single']})}
  wanted['oracle'] = ('oracle', outcomes.NO_SIZE)
  methods = {}
  for label, (name, size) in wanted.items():
    keys = [(name, len(run.results['dataset']['llms']) if name == 'all_llms' else size) for run in runs]
    found = [None if run.outcomes.column(*key) is None else key for run, key in zip(runs, keys, strict=True)]
    if any(found):
      methods[label] = found
  return methods


def _columns(
  played: Sequence[outcomes.Outcomes], methods: Sequence[Sequence[Key | None]]
) -> tuple[np.ndarray, np.ndarray]:
  """What every method (M) scored in every run (R), float32[Q, M R], and whether it counts, bool[Q, M R]."""
  correct, valid = [], []
  for keys in methods:
    aligned = align(played, keys)
    present = np.array([key is not None for key in keys])
    correct.append(aligned.correct)
    valid.append(aligned.valid[:, present].all(1, keepdims=True) & present)
  return np.concatenate(correct, 1), np.concatenate(valid, 1)


def _row(
  name: str,
  keys: Sequence[Key | None],
  runs: Sequence[Run],
  correct: np.ndarray,
  valid: np.ndarray,
  intervals: np.ndarray,
  gains: Sequence[Comparison | None],
) -> dict[str, Any]:
  """One method: its accuracy in every run, and what every other run gains over the first."""
  others = [gain if place else None for place, gain in enumerate(gains)]
  adjusted = statistics.holm(np.array([np.nan if gain is None else gain.p for gain in others]))
  cells: list[dict[str, Any] | None] = []
  for place, (run, key, accuracy) in enumerate(zip(runs, keys, metrics.masked_mean(correct, valid), strict=True)):
    if key is None or np.isnan(accuracy):
      cells.append(None)
      continue
    gain = others[place]
    chosen = {row['name']: sorted(set(row['sizes'])) for row in run.results['chosen']}
    cells.append(
      {
        'sizes': chosen[key[0]] if key[1] == outcomes.CHOSEN else [key[1]] if key[1] != outcomes.NO_SIZE else [],
        'accuracy': float(accuracy),
        'accuracy_ci': intervals[place].tolist(),
        'gain': gain and {'delta': gain.delta, 'ci': list(gain.ci), 'p': gain.p, 'p_holm': float(adjusted[place])},
      }
    )
  return {'name': name, 'queries': int(valid.any(1).sum()), 'runs': cells}


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
  """Fields of the configs and data that are not the same in all runs, with every run's value."""
  llms = set.intersection(*(set(run.results['dataset']['llms']) for run in runs))
  of_shared = tuple(f'llms.{llm}.' for llm in llms)
  described = [
    run_dir.own_fields(run.config)
    | {f'data.{name}': v for name, v in run.data.items() if not name.startswith('llms.') or name.startswith(of_shared)}
    for run in runs
  ]
  fields = sorted(set().union(*described))
  table = {field: [fields_of.get(field, 'absent') for fields_of in described] for field in fields}
  return {field: values for field, values in table.items() if any(value != values[0] for value in values)}


def warnings(runs: Sequence[Run]) -> list[str]:
  """What a reader should know before believing the comparison."""
  found, played = [], [run.outcomes for run in runs]
  tested = [len(each.query_ids) for each in played]
  shared = len(shared_queries(played))
  if 2 * shared < min(tested):
    found.append(
      f'Only {shared:,} queries are shared, fewer than half of what any of the runs tested: they may be a special sort.'
    )
  if shared < max(tested):
    found.append(
      'The runs do not test the same queries: one may have been trained on some that another tests. All numbers here '
      'are on the shared ones, which every run tested: no classifier is judged on queries that it was trained on.'
    )
  if len({(run.data['name'], run.data['identity']) for run in runs}) > 1:
    found.append('The runs are not on the same data: one query_id may stand for different queries or responses.')
  pools = [set(run.results['dataset']['llms']) for run in runs]
  for run, pool in zip(runs, pools, strict=True):
    if missing := sorted(set().union(*pools) - pool):
      found.append(f'The pool of {run.name} lacks {", ".join(missing)}.')
  differ = np.zeros(shared, bool)
  for llm in set.intersection(*pools):
    aligned = align(played, [(f'single:{llm}', 1)] * len(runs))
    differ |= aligned.valid.all(1) & (np.ptp(aligned.correct, axis=1) > 0)
  if differ.any():
    found.append(
      f'On {int(differ.sum()):,} of {shared:,} shared queries the same LLM is right in one run and wrong in another: '
      'references, responses, grading or vote differ, not only the selection.'
    )
  return found
