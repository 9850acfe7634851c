"""Collects the results of a sweep: axis by axis, the scores of its variants over the seeds, and their gains."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from selectllm.data import splits
from selectllm.evaluate import comparison, finished_runs, metrics, outcomes, results
from selectllm.infra import run_dir
from selectllm.sweeps import plan

# The methods that variants are compared by: a label -> method and size.
HEADLINES: dict[str, comparison.Key] = {
  'weighted_max_conf': ('weighted_max_conf', outcomes.CHOSEN),
  'labelled_max_conf': ('labelled_max_conf', outcomes.CHOSEN),  # the one that the threshold changes
  'top-1': ('max_conf', 1),
  's=3': ('weighted_max_conf', 3),
}


class Measured(NamedTuple):
  """Mean and standard deviation over the seeds that have it; None where there is none, or one alone."""

  mean: float | None
  std: float | None


class Row(NamedTuple):
  """One variant.

  Attributes:
    variant: Its name.
    is_base: Whether it is the experiment itself.
    seeds: That have finished.
    queries: That the classifier was trained on.
    llms: How many are in the pool.
    measures: By name, see `measures`.
    gains: Over the reference, by headline; None for the reference itself, and where nothing compares.
  """

  variant: str
  is_base: bool
  seeds: tuple[int, ...]
  queries: int
  llms: int
  measures: dict[str, Measured]
  gains: dict[str, results.Comparison | None]


class Axis(NamedTuple):
  """One axis.

  Attributes:
    name: What is varied.
    reference: The variant that the others are compared with: the experiment, or without it the first.
    rows: Those of which at least one seed has finished.
  """

  name: str
  reference: str
  rows: list[Row]


class Choice(NamedTuple):
  """A policy at a size, over the seeds of the experiment itself.

  Attributes:
    policy: Its name.
    size: Of its subsets; `outcomes.CHOSEN` for the one chosen on validation.
    seeds: How many have it.
    accuracy: On test.
    gain: Over the first policy at its chosen size; None for this one itself, and where nothing compares.
    p: The test's p-value, corrected for the number of choices (Holm).
  """

  policy: str
  size: int
  seeds: int
  accuracy: Measured
  gain: results.Comparison | None


def accuracy(run: finished_runs.Run, name: str, size: int) -> float | None:
  """Returns the accuracy of a method on the test queries; None where the run does not have it."""
  column = run.outcomes.column(name, size)
  if column is None:
    return None
  mean = float(metrics.masked_mean(run.outcomes.correct[:, [column]], run.outcomes.valid[:, [column]])[0])
  return None if np.isnan(mean) else mean


def _validation(run: finished_runs.Run) -> dict[str, float | None]:
  """Returns what a choice between variants may use: top-1 accuracy and AUROC on the validation queries."""
  with np.load(run.path / 'predictions.npz') as arrays:
    split, confidences = arrays['split'] == splits.VALIDATION, arrays['confidences']
    labels, observed = arrays['labels'], arrays['observed']
  top_1, auroc = [], []
  for rows, scores in zip(split, confidences, strict=True):
    first = np.where(observed, scores, -np.inf).argmax(1)[:, None]
    asked = rows & observed.any(1)
    top_1.append(np.take_along_axis(labels, first, 1)[asked].mean())
    auroc.append(metrics.auroc(labels[rows], scores[rows], observed[rows]))
  known = [value for value in auroc if value is not None]
  return {
    'top-1, validation': float(np.mean(top_1)),
    'AUROC, validation': float(np.mean(known)) if known else None,
  }


def measures(run: finished_runs.Run) -> dict[str, float | None]:
  """Returns the measures of a run, by name: accuracies as shares, then numbers as they are."""
  found = run.results
  classifier, singles, timing = found.classifier, found.best_single, found.timing
  return {
    **{f'{name}, s chosen': accuracy(run, name, outcomes.CHOSEN) for name in found.selected},
    'top-1': accuracy(run, *HEADLINES['top-1']),
    's=3': accuracy(run, *HEADLINES['s=3']),
    'best single': accuracy(run, singles[0], 1) if len(singles) == 1 else None,
    'all LLMs': accuracy(run, 'all_llms', len(found.dataset.llms)),
    'oracle': found.oracle.accuracy,
    **_validation(run),
    'weighted F1': classifier.weighted_f1,
    'AUROC': classifier.auroc,
    'ECE': classifier.ece,
    'minutes': ((timing.train_and_score_s or 0.0) + timing.evaluate_s) / 60,
  }


def summary(values: Sequence[float | None]) -> Measured:
  """Returns mean and standard deviation of the known values of all seeds."""
  known = [value for value in values if value is not None]
  if not known:
    return Measured(None, None)
  return Measured(float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None)


def gain(
  runs: dict[int, finished_runs.Run],
  key: comparison.Key,
  reference: dict[int, finished_runs.Run],
  reference_key: comparison.Key,
) -> results.Comparison | None:
  """Compares a variant with another: the correctness on each query is averaged over the seeds that both finished.

  Args:
    runs: By seed.
    key: Its method and size.
    reference: By seed.
    reference_key: Its method and size.

  Returns:
    The gain; None where they share no seed or no query, or one does not have its method.
  """
  seeds = sorted(runs.keys() & reference.keys())
  recorded = [side[seed].outcomes for side in (reference, runs) for seed in seeds]
  keys = [of for of in (reference_key, key) for _ in seeds]
  if not seeds or any(each.column(*of) is None for each, of in zip(recorded, keys, strict=True)):
    return None
  aligned = comparison.align(recorded, keys)
  if not len(aligned.query_ids):
    return None
  valid = np.all(aligned.valid, axis=1, keepdims=True)
  before, after = (aligned.correct[:, part].mean(1) for part in (slice(len(seeds)), slice(len(seeds), None)))
  return metrics.compare_pairs(after[:, None], before[:, None], valid)[0]


def _row(
  variant: str, is_base: bool, runs: dict[int, finished_runs.Run], reference: dict[int, finished_runs.Run]
) -> Row:
  by_seed = [measures(run) for run in runs.values()]
  first = next(iter(runs.values())).results.dataset
  return Row(
    variant=variant,
    is_base=is_base,
    seeds=tuple(runs),
    queries=first.queries_per_split.train,
    llms=len(first.llms),
    measures={name: summary([values[name] for values in by_seed]) for name in by_seed[0]},
    gains={name: None if runs is reference else gain(runs, key, reference, key) for name, key in HEADLINES.items()},
  )


def choices(base: dict[int, finished_runs.Run]) -> list[Choice]:
  """Compares policies and subset sizes with the first policy at the size chosen for it.

  Args:
    base: The runs of the experiment itself, by seed; at least one.
  """
  first = next(iter(base.values())).results
  sizes = (outcomes.CHOSEN, *range(1, len(first.dataset.llms) + 1))
  keys = [(name, size) for name in first.selected for size in sizes]
  found = []
  for key in keys:
    known = [accuracy(run, *key) for run in base.values()]
    compared = None if key == keys[0] else gain(base, key, base, keys[0])
    found.append(Choice(*key, sum(value is not None for value in known), summary(known), compared))
  corrected = metrics.correct_family([choice.gain for choice in found])
  return [choice._replace(gain=gain) for choice, gain in zip(found, corrected, strict=True) if choice.seeds]


def _corrected(rows: list[Row]) -> list[Row]:
  """Corrects the p-values of rows for the number of variants on an axis (Holm)."""
  for name in HEADLINES:
    for row, gain in zip(rows, metrics.correct_family([row.gains[name] for row in rows]), strict=True):
      row.gains[name] = gain
  return rows


def collect(sweep: plan.Plan, runs: dict[str, finished_runs.Run]) -> list[Axis]:
  """Brings the finished runs, by name, into axes and variants; of what has not finished there is nothing."""
  variants: dict[str, dict[str, dict[int, str]]] = {}
  for point in sweep.points:
    variants.setdefault(point.axis, {}).setdefault(point.variant, {})[point.seed] = point.run
  base = {sweep.runs[name].config.seed: name for name in sweep.base}
  found = []
  for axis, by_variant in variants.items():
    rows_of = {
      variant: {seed: runs[name] for seed, name in names.items() if name in runs}
      for variant, names in by_variant.items()
    }
    own = [variant for variant, names in by_variant.items() if set(names.values()) & set(base.values())]
    if base and not own:
      rows_of, own = (
        {plan.BASE: {seed: runs[name] for seed, name in base.items() if name in runs}, **rows_of},
        [plan.BASE],
      )
    reference = (own or list(rows_of))[0]
    rows = [
      _row(variant or plan.BASE, variant in own, of_seeds, rows_of[reference])
      for variant, of_seeds in rows_of.items()
      if of_seeds
    ]
    found.append(Axis(axis, reference or plan.BASE, _corrected(rows)))
  return found


def load(
  sweep: plan.Plan, workdir: pathlib.Path, failed: dict[str, str]
) -> tuple[dict[str, finished_runs.Run], dict[str, str]]:
  """Reads the runs that are done, and by name the reasons why others are missing.

  Raises:
    ValueError: when runs were not on the same data, see `plan.check_data`.
  """
  runs, missing = {}, {}
  for run in sweep.runs.values():
    if not plan.is_done(run, workdir):
      missing[run.name] = failed.get(run.name, 'not finished')
      continue
    try:
      runs[run.name] = finished_runs.load_run(workdir / run.name)
    except (FileNotFoundError, ValueError, run_dir.RunDirError) as error:
      missing[run.name] = str(error)
  plan.check_data([sweep.runs[name] for name in runs], workdir)
  return runs, missing
