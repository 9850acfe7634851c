"""Sums up strategies: what was estimated for them in cross-validation, and what was measured on test."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from selectllm.data import dataset
from selectllm.evaluate import metrics, replay, results, statistics, strategies
from selectllm.evaluate import options as options_lib
from selectllm.selection import batch_budget, calibration, constraints

_COVERAGE = np.linspace(0.05, 1, 20)
_BATCH_BUDGETS = (0.05, 0.1, 0.2, 0.35, 0.5)

Folds = Sequence[strategies.FoldResult]


class Chosen(NamedTuple):
  """Holds a strategy at one operating point in each fold.

  Attributes:
    points: One for each fold.
    estimated: Means over the folds.
    metrics: On all test queries.
  """

  points: list[int]
  estimated: results.Estimate
  metrics: replay.QueryMetrics


def _choose(of_folds: Sequence[strategies.StrategyResult], points: Sequence[int]) -> Chosen:
  """Returns a strategy (or one in each fold) at given operating points."""
  pairs = list(zip(of_folds, points, strict=True))
  means = [strategies.mean_metrics(replay.at(of.fitting, point)) for of, point in pairs]
  measured = replay.concatenate([replay.at(of.test, point) for of, point in pairs])
  return Chosen(list(points), _mean_estimate(means), measured)


def _mean_estimate(means: Sequence[strategies.MeanMetrics]) -> results.Estimate:
  def mean(values: list[float | None]) -> float | None:
    return None if None in values else float(np.mean(values))  # type: ignore[arg-type]

  return results.Estimate(**{name: mean([of[name] for of in means]) for name in means[0]})


def best(folds: Folds) -> dict[str, Chosen]:
  """Returns every strategy at the operating points that are estimated to be most accurate."""
  chosen = {}
  for name in folds[0].strategies:
    if name in strategies.STRATEGIES:
      of_folds = [fold.strategies[name] for fold in folds]
      points = [strategies.most_accurate(of.fitting) for of in of_folds]
      chosen[name] = _choose(of_folds, points)
  return chosen


def _measure(measured: Sequence[replay.QueryMetrics], resamples: int) -> list[dict[str, Any]]:
  """Returns the fields of `results.Measurement` of several methods on the same queries."""
  tests: list[dict[str, Any]] = []
  columns: list[np.ndarray] = []
  for of in measured:
    test: dict[str, Any] = dict(strategies.mean_metrics(of))
    values = strategies.quantities(of)
    known = {name: np.where(of.valid, values[name], 0) for name in values if test[name] is not None}
    tests.append(test | {f'{name}_ci': len(columns) + place for place, name in enumerate(known)})
    columns += known.values()
  valid = np.stack([of.valid for of in measured], 1)
  of_column = [(place, name) for place, test in enumerate(tests) for name in test if name.endswith('_ci')]
  stacked, valid = np.stack(columns, 1), valid[:, [place for place, _ in of_column]]
  shares = np.array([name == 'accuracy_ci' for _, name in of_column])
  intervals = np.full((len(shares), 2), np.nan)
  intervals[shares] = statistics.accuracy_ci(stacked[:, shares], valid[:, shares], resamples=resamples)
  intervals[~shares] = statistics.bootstrap_ci(stacked[:, ~shares], valid[:, ~shares], resamples=resamples)
  return [
    {name: results.interval(intervals[value]) if name.endswith('_ci') else value for name, value in test.items()}
    for test in tests
  ]


def _measurement(measured: replay.QueryMetrics, resamples: int) -> results.Measurement:
  return results.Measurement(**_measure([measured], resamples)[0])


def _p95_interval(measured: replay.QueryMetrics, resamples: int) -> results.Interval:
  """Returns the 95 % bootstrap interval of the 95th percentile of the wall clock."""
  known = measured.wall_clock_s[measured.valid]
  drawn = np.random.default_rng(0).choice(known, (resamples, len(known)))
  return results.interval(np.quantile(np.quantile(drawn, 0.95, axis=1), (0.025, 0.975)))


Others = dict[str, replay.QueryMetrics]


def _compare(measured: replay.QueryMetrics, others: Others) -> dict[str, results.Comparison | None]:
  """Compares a method with others on the same queries."""
  theirs, valid = (np.stack([getattr(other, name) for other in others.values()], 1) for name in ('correct', 'valid'))
  ours = np.broadcast_to(measured.correct[:, None], theirs.shape)
  return dict(zip(others, metrics.compare_pairs(ours, theirs, measured.valid[:, None] & valid), strict=True))


def _judge_constraint(
  folds: Folds,
  limit: constraints.Constraint,
  references: dict[str, results.Measurement],
  others: Others,
  resamples: int,
) -> results.ConstraintResult:
  """Chooses by a constraint in every fold, and judges what the test gives."""
  choices = [strategies.choose(fold.rules, limit) for fold in folds]
  if any(choice is None for choice in choices):
    return results.ConstraintResult(limit.text, *[None] * 8)
  names, points = zip(*choices, strict=True)
  of_folds = [fold.strategies[name] for fold, name in zip(folds, names, strict=True)]
  chosen = _choose(of_folds, points)
  test = _measure([chosen.metrics], resamples)[0]
  if limit.quantity == 'p95_wall_seconds':
    test['p95_wall_seconds_ci'] = _p95_interval(chosen.metrics, resamples)
  if limit.quantity == 'query_compute_seconds':
    expected = [of.expected_cost[:, point] for of, point in zip(of_folds, points, strict=True)]
    test['query_compute_seconds'] = float(np.concatenate(expected).max())
  target = constraints.target(limit, {name: msgspec.structs.asdict(of) for name, of in references.items()})
  unknown = limit.quantity != 'none' and (target is None or test.get(limit.quantity) is None)
  met, within = (None, None) if unknown else constraints.judge(limit, test, target)
  return results.ConstraintResult(
    constraint=limit.text,
    strategy=', '.join(sorted({'adaptive' if name == limit.text else name for name in names})),
    operating_points=chosen.points,
    estimated=chosen.estimated,
    measured=results.Measurement(**test),
    target=target,
    met=met,
    within=within,
    versus=_compare(chosen.metrics, others),
  )


def _judge_probability(folds: Folds, name: str, chosen: Chosen) -> results.AnswerProbability:
  """Judges P(the answer is right), and what leaving the least sure queries unanswered brings."""
  pairs = zip(folds, chosen.points, strict=True)
  sure = np.concatenate([fold.strategies[name].p_right[:, point] for fold, point in pairs])
  right, valid = chosen.metrics.correct[:, None], chosen.metrics.valid[:, None]
  judged = (right, sure[:, None], valid)
  order = np.argsort(-sure[valid[:, 0]], kind='stable')
  running = np.cumsum(right[valid[:, 0], 0][order], dtype=np.float64) / np.arange(1, len(order) + 1)
  coverage = [(float(share), float(running[max(1, round(share * len(order))) - 1])) for share in _COVERAGE]
  kept = max(1, round(0.8 * len(order)))
  return results.AnswerProbability(
    strategy=name,
    ece=metrics.ece(*judged),
    brier=metrics.brier(*judged),
    reliability=metrics.reliability(*judged).summary(),
    coverage=coverage,
    abstain_20=results.Abstention(
      float(running[kept - 1]),
      statistics.wilson_ci(float(running[kept - 1]), kept),
      float(running[kept - 1] - running[-1]),
    ),
  )


def _judge_confidences(data: dataset.Dataset, folds: Folds) -> dict[str, results.ConfidenceCalibration]:
  """Judges each LLM's confidences on test, before and after calibration."""
  labels, observed = (
    np.concatenate([array[fold.test_rows] for fold in folds])
    for array in (data.responses.labels, data.responses.observed)
  )
  before, after = (
    1 / (1 + np.exp(-np.concatenate([getattr(fold.confidences, name)[fold.test_rows] for fold in folds])))
    for name in ('uncalibrated', 'logits')
  )
  judged = {}
  for column, llm in enumerate(data.llms):
    one = slice(column, column + 1)
    kinds = sorted({calibration.KINDS[fold.confidences.estimator.calibrators.kinds[column]] for fold in folds})
    pairs = [(labels[:, one], values[:, one], observed[:, one]) for values in (before, after)]
    quality = [results.CalibrationQuality(metrics.ece(*of), metrics.brier(*of)) for of in pairs]
    judged[llm] = results.ConfidenceCalibration(', '.join(kinds), *quality)
  return judged


def _spend(folds: Folds, share: float, resamples: int) -> results.BatchBudget | None:
  """Gives every test query the subset that is worth its cost under one budget; None where not even the cheapest fit.

  Args:
    folds: Their strategies include `subset`.
    share: The budget, as a share of calling all LLMs.
    resamples: Of the bootstrap.
  """
  estimated, tested = [], []
  for fold in folds:
    options = fold.strategies['subset']
    most = share * float(fold.rules.expected_cost.sum()) * len(fold.test_rows)
    if options.expected_cost.min(1).sum() > most:
      return None
    choice = batch_budget.assign(options.p_right, options.expected_cost, most)
    place = np.arange(len(choice))
    estimated.append((options.p_right[place, choice].mean(), options.expected_cost[place, choice].mean()))
    tested.append(replay.QueryMetrics(*(array[place, choice] for array in options.test)))
  accuracy, cost = map(float, np.mean(estimated, 0))
  return results.BatchBudget(
    share, results.BudgetEstimate(accuracy, cost), _measurement(replay.concatenate(tested), resamples)
  )


def _curve(of_folds: Sequence[strategies.StrategyResult], resamples: int) -> list[results.OperatingPoint]:
  """Returns all operating points of a strategy, as many as it has in every fold."""
  count = min(of.test.correct.shape[1] for of in of_folds)
  points = [_choose(of_folds, [point] * len(of_folds)) for point in range(count)]
  measured = _measure([point.metrics for point in points], resamples)
  return [
    results.OperatingPoint(place, point.estimated, results.Measurement(**test))
    for place, (point, test) in enumerate(zip(points, measured, strict=True))
  ]


def summarise(
  data: dataset.Dataset, folds: Folds, chosen: dict[str, Chosen], options: options_lib.TradeoffOptions
) -> results.Tradeoff:
  """Sums up all strategies of a run.

  Args:
    data: The data set.
    folds: From `strategies.fit_and_replay`, one for each split.
    chosen: From `best`.
    options: With which the strategies were fitted.
  """
  resamples = options.resamples
  others = {
    name: replay.concatenate([replay.at(fold.strategies[fold.references[name]].test, 0) for fold in folds])
    for name in constraints.REFERENCES
  }
  measured = _measure(list(others.values()), resamples)
  references = {name: results.Measurement(**test) for name, test in zip(others, measured, strict=True)}
  rule = next((name for name in strategies.RULES if name in chosen), None)
  everybody = others | {name: each.metrics for name, each in chosen.items()}
  limits = map(constraints.parse, options.limits if rule else ())
  budgets = [_spend(folds, share, resamples) for share in _BATCH_BUDGETS] if 'subset' in chosen else []
  return results.Tradeoff(
    cost_unit=options.cost_unit,
    cost_is=data.latency_is if options.timed else 'known',
    references=references,
    curves={name: _curve([fold.strategies[name] for fold in folds], resamples) for name in chosen},
    best={
      name: results.StrategySummary(
        each.points, each.estimated, _measurement(each.metrics, resamples), _compare(each.metrics, others)
      )
      for name, each in chosen.items()
    },
    confidence=options.confidence,
    constraints=[_judge_constraint(folds, limit, references, everybody, resamples) for limit in limits],
    p_right=_judge_probability(folds, rule, chosen[rule]) if rule else None,
    confidences=_judge_confidences(data, folds),
    batch_budgets=[budget for budget in budgets if budget],
  )
