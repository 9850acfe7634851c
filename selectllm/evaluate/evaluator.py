"""Evaluates every policy and baseline on the test queries of a run.

What is fitted or chosen here (expected latencies, subsets, neighbours, sizes) is fitted on train or chosen on train
and validation; test labels are only counted.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from selectllm.data import splits
from selectllm.evaluate import context, metrics, outcomes, replay, results, statistics
from selectllm.selection import baselines, policies

REFERENCES = ('best_single', 'all_llms', 'static_weighted', 'top_s', 'best_s')
# Of these, the votes of the whole pool.
_OF_ALL = ('all_llms', 'static_weighted')
# Gains of methods over their references, query by query, that are held at once.
_GAINS = 1 << 25

Versus = dict[str, results.Comparison | None]


class FoldEvaluation(NamedTuple):
  """Holds one split, evaluated.

  Attributes:
    test_rows: int[T].
    baselines: Fitted on its train and validation queries.
    methods: Of all methods on its test queries; the headline policy's decisions at its chosen size.
    chosen_sizes: Method -> the size that was most accurate on validation.
  """

  test_rows: np.ndarray
  baselines: baselines.FittedBaselines
  methods: replay.MethodResults
  chosen_sizes: dict[str, int]


class Evaluation(NamedTuple):
  """Holds how all methods fare on the test queries of all folds.

  Attributes:
    folds: One by one.
    methods: Every method at every size.
    chosen: Those with sizes at the sizes chosen on validation, then strategies.
    best_single: The names of the best single LLMs, as methods.
    outcomes: What `methods` and `chosen` sum up, query by query.
    policy_tradeoff: See `results.Results`.
  """

  folds: list[FoldEvaluation]
  methods: list[results.MethodResult]
  chosen: list[results.MethodResult]
  best_single: list[str]
  outcomes: outcomes.Outcomes
  policy_tradeoff: dict[str, results.PolicyTradeoff] | None

  @property
  def test_rows(self) -> np.ndarray:
    """Returns the test queries of all folds, int[T]."""
    return np.concatenate([fold.test_rows for fold in self.folds])


class _Method(NamedTuple):
  """Holds a method on all test queries.

  Attributes:
    key: Its name and size.
    sizes: The subset size that it has in each fold (of each seed).
    metrics: Means over seeds.
    references: By name, likewise.
    accuracies: Of each seed; None of one.
    variances: By reference, of the gains of several seeds.
  """

  key: replay.MethodKey
  sizes: list[int]
  metrics: replay.QueryMetrics
  references: dict[str, replay.QueryMetrics | None]
  accuracies: list[float] | None = None
  variances: Mapping[str, float] = {}


def _compare(methods: Sequence[_Method]) -> list[Versus]:
  """Compares each method with its own references, on the queries that both count; None where there are none."""
  compared: list[Versus] = [dict.fromkeys(REFERENCES) for _ in methods]
  pairs = [
    (versus, name, method.metrics, reference, method.variances.get(name, 0.0))
    for versus, method in zip(compared, methods, strict=True)
    for name in REFERENCES
    if (reference := method.references[name]) is not None
  ]
  if not pairs:
    return compared
  width = max(1, _GAINS // len(pairs[0][2].valid))
  for start in range(0, len(pairs), width):
    some = pairs[start : start + width]
    ours = np.stack([method.correct for _, _, method, *_ in some], 1)
    theirs = np.stack([reference.correct for *_, reference, _ in some], 1)
    both = np.stack([method.valid & reference.valid for _, _, method, reference, _ in some], 1)
    between = np.array([variance for *_, variance in some])
    gains = metrics.compare_pairs(ours, theirs, both, seed_variance=between)
    for (versus, name, *_), gain in zip(some, gains, strict=True):
      versus[name] = gain
  return compared


def _summarise(
  key: replay.MethodKey, measured: replay.QueryMetrics, interval: np.ndarray, versus: Versus, oracle: float | None
) -> results.MethodResult:
  """Sums up a method: means, interval and paired comparisons; `oracle` is the oracle's accuracy."""
  name, size = key
  valid, wall_clock_s = measured.valid, measured.wall_clock_s
  accuracy = metrics.known_mean(measured.correct, valid)
  return results.MethodResult(
    name=name,
    size=size,
    queries=int(valid.sum()),
    accuracy=accuracy,
    accuracy_ci=results.interval(interval),
    calls=metrics.known_mean(measured.calls, valid),
    wall_clock_s=metrics.known_mean(wall_clock_s, valid),
    wall_clock_p50_s=metrics.known_quantile(wall_clock_s, valid, 0.5),
    wall_clock_p95_s=metrics.known_quantile(wall_clock_s, valid, 0.95),
    compute_s=metrics.known_mean(measured.compute_s, valid),
    cost_usd=metrics.known_mean(measured.cost_usd, valid),
    gap_to_oracle=None if accuracy is None or oracle is None else metrics.gap_to_oracle(accuracy, oracle),
    versus=versus,
  )


def _policy_tradeoff(rows: list[results.MethodResult]) -> dict[str, results.PolicyTradeoff] | None:
  """Tells what each policy's sizes buy together, by summed compute; None where it is unknown."""
  points: dict[str, list[tuple[float, float]]] = {name: [] for name in policies.POLICIES}
  for row in rows:
    if row.name in points:
      if row.compute_s is None or row.accuracy is None:
        return None
      points[row.name].append((row.compute_s, row.accuracy))
  longest = max(compute for of in points.values() for compute, _ in of)
  policy_tradeoff = {}
  for name, of in points.items():
    # Areas compare over one range only: with more time than it takes, a policy stays as accurate as it is.
    compute, accuracy = np.array([*of, (longest, max(accuracy for _, accuracy in of))]).T
    policy_tradeoff[name] = results.PolicyTradeoff(metrics.aiq(compute, accuracy))
  return policy_tradeoff


def _choose_sizes(methods: replay.MethodResults) -> dict[str, int]:
  """Returns the size at which each method with sizes is most accurate; of equals, the one of fewer calls."""
  best: dict[str, tuple[tuple[float, float], int]] = {}
  for name, size in methods.keys:
    if size is None or name.startswith('single:') or name in ('all_llms', 'knn_top1'):
      continue
    measured = methods.of((name, size))
    merit = (metrics.known_mean(measured.correct, measured.valid) or 0.0, -float(measured.calls.mean()))
    best[name] = max(best.get(name, (merit, size)), (merit, size), key=lambda entry: entry[0])
  return {name: size for name, (_, size) in best.items()}


def _evaluate_fold(run: context.RunContext, fold: context.Fold) -> FoldEvaluation:
  responses = run.data.responses
  fitted = baselines.fit_baselines(
    responses, fold.split, run.embeddings,
    over=run.options.vote, ties=run.options.ties, knn_neighbours=run.options.knn_neighbours,
  )  # fmt: skip

  def replayed(rows: np.ndarray, headline_size: int) -> replay.MethodResults:
    return replay.replay_methods(
      responses, rows, fold.confidences, fitted, run.data.llms, run.options, headline_size=headline_size
    )

  # On validation first, so that all that is kept of it are the sizes.
  sizes = _choose_sizes(replayed(np.flatnonzero(fold.split == splits.VALIDATION), 1))
  return FoldEvaluation(fold.test_rows, fitted, replayed(fold.test_rows, sizes[policies.HEADLINE]), sizes)


def _join(folds: list[FoldEvaluation], keys: Sequence[replay.MethodKey]) -> replay.QueryMetrics | None:
  """Returns the metrics of a method on all test queries, by its key in each fold; None where there is none."""
  if not set(keys) <= set(folds[0].methods.keys):
    return None
  return replay.concatenate([fold.methods.of(key) for fold, key in zip(folds, keys, strict=True)])


def _methods(
  folds: list[FoldEvaluation],
  keys: Mapping[replay.MethodKey, Sequence[replay.MethodKey]],
  references: dict[str, replay.QueryMetrics | None],
) -> list[_Method]:
  """Gathers methods, given by their key in each fold, with references of the same sizes."""
  methods = []
  for key, of_folds in keys.items():
    sized = {name: _join(folds, [(name, size) for _, size in of_folds]) for name in ('top_s', 'best_s')}
    joined = _join(folds, of_folds)
    assert joined is not None
    methods.append(_Method(key, [size for _, size in of_folds if size is not None], joined, references | sized))
  return methods


class _Seed(NamedTuple):
  """Holds the methods of one seed of the training; see `Evaluation`."""

  folds: list[FoldEvaluation]
  single: list[str]
  every: list[_Method]
  chosen: list[_Method]


def _evaluate_seed(run: context.RunContext, strategies: Mapping[str, replay.QueryMetrics]) -> _Seed:
  folds = [_evaluate_fold(run, fold) for fold in run.folds()]
  llms, count = run.data.llms, len(folds)
  single = [f'single:{llms[fold.baselines.best_single]}' for fold in folds]
  best_single = _join(folds, [(name, 1) for name in single])
  references = {'best_single': best_single} | {name: _join(folds, [(name, len(llms))] * count) for name in _OF_ALL}
  sizes = {name: [(name, fold.chosen_sizes[name]) for fold in folds] for name in folds[0].chosen_sizes}
  every = _methods(folds, {key: [key] * count for key in folds[0].methods.keys}, references)
  chosen = _methods(folds, {(name, None): keys for name, keys in sizes.items()}, references)
  # The number of LLMs that a strategy calls differs from query to query.
  unsized = references | dict.fromkeys(('top_s', 'best_s'))
  chosen += [_Method((name, None), [], of, unsized) for name, of in strategies.items()]
  return _Seed(folds, single, every, chosen)


def _accuracy(measured: replay.QueryMetrics) -> float:
  return metrics.known_mean(measured.correct, measured.valid) or 0.0


def _over_seeds(seeds: Sequence[list[_Method]]) -> list[_Method]:
  """Returns each method as the mean of what it did with each seed, query by query."""
  if len(seeds) == 1:
    return seeds[0]
  combined = []
  for of in zip(*seeds, strict=True):
    accuracies = np.array([_accuracy(each.metrics) for each in of])
    references, variances = {}, {}
    for name, reference in of[0].references.items():
      others = [other for each in of if (other := each.references[name]) is not None]
      references[name] = reference and replay.mean(others)
      variances[name] = float(np.var(accuracies - [_accuracy(each) for each in others], ddof=1)) if others else 0.0
    sizes = [size for each in of for size in each.sizes]
    mean = replay.mean([each.metrics for each in of])
    combined.append(_Method(of[0].key, sizes, mean, references, accuracies.tolist(), variances))
  return combined


def evaluate(
  runs: Sequence[context.RunContext], strategies: Sequence[Mapping[str, replay.QueryMetrics]] = ()
) -> Evaluation:
  """Evaluates policies and baselines, and compares them and strategies with references.

  Args:
    runs: What was predicted, for each seed of the training; on the same splits.
    strategies: For each of these, name -> metrics on all test queries, at the operating points chosen in
      cross-validation.

  Returns:
    The evaluation; its test queries are those of all folds, one after the other. Methods are means over seeds, whose
    variance is in their intervals and tests; `folds` are those of the first.
  """
  seeds = [_evaluate_seed(run, chosen) for run, chosen in zip(runs, strategies or [{}] * len(runs), strict=True)]
  first, every, chosen = seeds[0], _over_seeds([of.every for of in seeds]), _over_seeds([of.chosen for of in seeds])
  kept = _outcomes(runs[0].data.query_ids, np.concatenate([fold.test_rows for fold in first.folds]), every, chosen)
  rows = _rows([*every, *chosen], kept, runs[0].options)
  tradeoff = _policy_tradeoff(rows[: len(every)])
  of_chosen = [msgspec.structs.replace(row, sizes=of.sizes) for row, of in zip(rows[len(every) :], chosen, strict=True)]
  return Evaluation(first.folds, rows[: len(every)], of_chosen, sorted(set(first.single)), kept, tradeoff)


def _outcomes(
  query_ids: Sequence[str], test_rows: np.ndarray, every: list[_Method], chosen: list[_Method]
) -> outcomes.Outcomes:
  sizes = [outcomes.NO_SIZE if of.key[1] is None else of.key[1] for of in every]
  methods = [*every, *chosen]
  return outcomes.Outcomes(
    query_ids=np.array(query_ids)[test_rows],
    names=np.array([of.key[0] for of in methods]),
    sizes=np.array(sizes + [outcomes.CHOSEN] * len(chosen), np.int16),
    correct=np.stack([of.metrics.correct for of in methods], 1),
    valid=np.stack([of.metrics.valid for of in methods], 1),
  )


def _rows(
  methods: list[_Method], kept: outcomes.Outcomes, options: results.EvaluateConfig
) -> list[results.MethodResult]:
  """Sums up all methods; one of them is the oracle."""
  intervals = statistics.accuracy_ci(kept.correct, kept.valid, resamples=options.resamples)
  if methods[0].accuracies is not None:
    seeds = np.array([of.accuracies for of in methods])
    intervals = statistics.widen(intervals, seeds.mean(1), seeds.var(1, ddof=1))
  versus = _compare(methods)
  oracle = next(of.metrics for of in methods if of.key[0] == 'oracle')
  accuracy = metrics.known_mean(oracle.correct, oracle.valid)
  return [
    msgspec.structs.replace(_summarise(of.key, of.metrics, interval, gains, accuracy), seeds=of.accuracies)
    for of, interval, gains in zip(methods, intervals, versus, strict=True)
  ]
