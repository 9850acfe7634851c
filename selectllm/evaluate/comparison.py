"""Compares runs, query by query, on the queries that all of them tested; NumPy only."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from selectllm.evaluate import finished_runs, metrics, outcomes, results, statistics
from selectllm.infra import run_dir

# A method as `outcomes.Outcomes` names its columns: name and size.
Key = tuple[str, int]


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


class _Struct(msgspec.Struct, frozen=True):
  """A JSON object of comparison.json."""


class ComparedRun(_Struct, frozen=True):
  """A run that is compared: its name, directory, data set in words, and number of test queries."""

  name: str
  path: str
  title: str
  tested: int


class MethodOfRun(_Struct, frozen=True):
  """A method in one run: its sizes, its accuracy on the shared queries, and its gain over the first run."""

  sizes: list[int]
  accuracy: float
  accuracy_ci: tuple[float, float]
  gain: results.Comparison | None


class ComparedMethod(_Struct, frozen=True):
  """A method in all runs, None where a run does not have it; `queries` count in every run that has it."""

  name: str
  queries: int
  runs: list[MethodOfRun | None]


class Comparison(_Struct, frozen=True):
  """The content of comparison.json.

  Attributes:
    runs: The first one is compared with.
    shared_queries: Queries that all runs tested.
    policies: Names of the methods that are policies.
    warnings: Sentences on what limits the comparison.
    differences: Fields of configs and data that are not the same in all runs, with every run's value.
    methods: With what every run gains over the first one.
  """

  runs: list[ComparedRun]
  shared_queries: int
  policies: list[str]
  warnings: list[str]
  differences: dict[str, list[Any]]
  methods: list[ComparedMethod]


def shared_queries(played: Sequence[outcomes.Outcomes]) -> np.ndarray:
  """Returns the ids of the queries that all runs tested, str[Q], sorted."""
  return functools.reduce(np.intersect1d, (each.query_ids for each in played))


def align(played: Sequence[outcomes.Outcomes], keys: Sequence[Key | None]) -> Aligned:
  """Brings the shared queries of R runs into one order.

  Args:
    played: Of R runs.
    keys: The method of each of them, not always the same; None where a run has none: it counts no query.

  Raises:
    KeyError: for a method that a run does not have.
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


def compare_runs(compared: Sequence[finished_runs.Run], *, resamples: int = 2000) -> Comparison:
  """Compares runs with the first of them, method by method.

  All numbers of a method are over the same queries: those that all runs tested, and that count in every run that has
  the method. Holm's correction is over the runs that are compared with the first.

  Args:
    compared: R >= 2 runs.
    resamples: Of the bootstrap.

  Raises:
    ValueError: when the runs have no query in common.
  """
  played = [run.outcomes for run in compared]
  shared = shared_queries(played)
  if not len(shared):
    tested = [
      f'  {run.name}: {len(run.outcomes.query_ids):,}, {run.outcomes.query_ids[0]} among them' for run in compared
    ]
    raise ValueError('no query was tested by all of these runs:\n' + '\n'.join(tested))
  methods = _methods(compared)
  values, counted = _columns(played, list(methods.values()))
  intervals = statistics.accuracy_ci(values, counted, resamples=resamples)
  first = np.repeat(np.arange(len(methods)) * len(compared), len(compared))
  gains = metrics.compare_pairs(values, values[:, first], counted[:, first] & counted)
  rows = []
  for number, (name, keys) in enumerate(methods.items()):
    of = slice(number * len(compared), (number + 1) * len(compared))
    rows.append(_row(name, keys, compared, values[:, of], counted[:, of], intervals[of], gains[of]))
  return Comparison(
    runs=[ComparedRun(r.name, str(r.path), r.results.dataset.title, len(r.outcomes.query_ids)) for r in compared],
    shared_queries=len(shared),
    policies=list(_policies(compared)),
    warnings=warnings(compared),
    differences=differences(compared),
    methods=rows,
  )


def _policies(compared: Sequence[finished_runs.Run]) -> dict[str, None]:
  return dict.fromkeys(name for run in compared for name in run.results.selected)


def _methods(compared: Sequence[finished_runs.Run]) -> dict[str, list[Key | None]]:
  """Returns the compared methods: a label -> the method in each run, None where a run does not have it."""
  wanted = {name: (name, outcomes.CHOSEN) for name in _policies(compared)}
  wanted |= {f'weighted_max_conf, s={size}': ('weighted_max_conf', size) for size in (1, 3)}
  wanted |= {'knn_top1': ('knn_top1', 1), 'best_s': ('best_s', outcomes.CHOSEN), 'all_llms': ('all_llms', 0)}
  wanted |= {name: (name, 1) for name in sorted({name for run in compared for name in run.results.best_single})}
  wanted['oracle'] = ('oracle', outcomes.NO_SIZE)
  methods = {}
  for label, (name, size) in wanted.items():
    keys = [(name, len(run.results.dataset.llms) if name == 'all_llms' else size) for run in compared]
    found = [None if run.outcomes.column(*key) is None else key for run, key in zip(compared, keys, strict=True)]
    if any(found):
      methods[label] = found
  return methods


def _columns(
  played: Sequence[outcomes.Outcomes], methods: Sequence[Sequence[Key | None]]
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the score of every method (M) in every run (R), float32[Q, M R], and where it counts, bool[Q, M R]."""
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
  compared: Sequence[finished_runs.Run],
  correct: np.ndarray,
  valid: np.ndarray,
  intervals: np.ndarray,
  gains: Sequence[results.Comparison | None],
) -> ComparedMethod:
  """Returns one method: its accuracy in every run, and the gain of every other run over the first."""
  others = metrics.correct_family([None, *gains[1:]])
  rows: list[MethodOfRun | None] = []
  for place, (run, key, accuracy) in enumerate(zip(compared, keys, metrics.masked_mean(correct, valid), strict=True)):
    if key is None or np.isnan(accuracy):
      rows.append(None)
      continue
    low, high = intervals[place].tolist()
    rows.append(MethodOfRun(_sizes(run, key), float(accuracy), (low, high), others[place]))
  return ComparedMethod(name, int(valid.any(1).sum()), rows)


def _sizes(run: finished_runs.Run, key: Key) -> list[int]:
  """Returns the sizes of a method: those that the folds chose, its own, or none."""
  name, size = key
  if size == outcomes.CHOSEN:
    return next(sorted(set(row.sizes or [])) for row in run.results.chosen if row.name == name)
  return [] if size == outcomes.NO_SIZE else [size]


def differences(compared: Sequence[finished_runs.Run]) -> dict[str, list[Any]]:
  """Returns the fields of configs and data that are not the same in all runs, with every run's value."""
  llms = set.intersection(*(set(run.results.dataset.llms) for run in compared))
  of_shared = tuple(f'llms.{llm}.' for llm in llms)
  described = [
    run_dir.own_fields(run.config)
    | {f'data.{name}': v for name, v in run.data.items() if not name.startswith('llms.') or name.startswith(of_shared)}
    for run in compared
  ]
  fields = sorted(set().union(*described))
  table = {field: [fields_of.get(field, 'absent') for fields_of in described] for field in fields}
  return {field: values for field, values in table.items() if any(value != values[0] for value in values)}


def warnings(compared: Sequence[finished_runs.Run]) -> list[str]:
  """Returns what limits the comparison, a sentence each."""
  found, played = [], [run.outcomes for run in compared]
  tested = [len(each.query_ids) for each in played]
  shared = len(shared_queries(played))
  if 2 * shared < min(tested):
    found.append(
      f'Only {shared:,} queries are shared, fewer than half of what any of the runs tested: they may not be '
      'representative.'
    )
  if shared < max(tested):
    found.append(
      'The runs do not test the same queries: one may have been trained on some that another tests. All numbers here '
      'are on the shared ones, which every run tested: no classifier is judged on queries that it was trained on.'
    )
  if len({(run.data['name'], run.data['identity']) for run in compared}) > 1:
    found.append('The runs are not on the same data: one query_id may stand for different queries or responses.')
  pools = [set(run.results.dataset.llms) for run in compared]
  for run, pool in zip(compared, pools, strict=True):
    if missing := sorted(set().union(*pools) - pool):
      found.append(f'The pool of {run.name} lacks {", ".join(missing)}.')
  differ = np.zeros(shared, bool)
  for llm in set.intersection(*pools):
    aligned = align(played, [(f'single:{llm}', 1)] * len(compared))
    differ |= aligned.valid.all(1) & (np.ptp(aligned.correct, axis=1) > 0)
  if differ.any():
    found.append(
      f'On {int(differ.sum()):,} of {shared:,} shared queries the same LLM is right in one run and wrong in another: '
      'references, responses, grading or vote differ, not only the selection.'
    )
  return found
