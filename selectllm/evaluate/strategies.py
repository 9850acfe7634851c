"""Fits everything that chooses calls past the paper's policies, and replays it on the same queries.

Strategies are fitted on the fitting queries (train and validation) and replayed on the test queries. What an operating
point of theirs reaches is *estimated* by cross-fitting on the fitting queries: fitted on two thirds, replayed on the
rest. What the calls of a rule take is estimated by the very rule that plays, replayed on all fitting queries: the same
operating point of another fit may call twice as much, while costs, unlike accuracy, do not look better on queries that
were fitted on. Operating points are chosen by these estimates alone; test labels are only counted.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from typing import NamedTuple

import numpy as np
import scipy.special

from selectllm.data import answer_features, dataset, splits
from selectllm.evaluate import metrics, replay
from selectllm.evaluate import options as options_lib
from selectllm.selection import (
  adaptive,
  baselines,
  calibration,
  cascades,
  confidence,
  constraints,
  learned_vote,
  routers,
  subset_router,
  types,
)

OURS = ('learned_vote', 'bayes_vote', 'adaptive', 'adaptive_stages', 'subset')
BASELINES = {**cascades.STRATEGIES, **routers.STRATEGIES}
STRATEGIES = (*OURS, *BASELINES)
# Those that a constraint may choose, and a selector may hold, beside every single LLM and the votes of all LLMs.
RULES = ('adaptive', 'adaptive_stages')
VOTES_OF_ALL = ('all_llms', 'static_weighted')
_CROSS = 3
FITS = _CROSS + 1  # of one split
# A single LLM is an operating point where it was observed on this share of the fitting queries, the votes of all LLMs
# where all were: of fewer, its accuracy would be held against those on other queries.
_SEEN = 0.9

# Means in the units of constraints, see `mean_metrics`; None where unknown.
MeanMetrics = dict[str, float | None]


class StrategyResult(NamedTuple):
  """Holds how one strategy fares on one split, at M operating points.

  Attributes:
    fitting: On the D fitting queries, cross-fitted (but for costs of rules, see the module): arrays [D, M].
    test: On the T test queries: arrays [T, M].
    p_right: float32[T, M], how likely each answer on test is right, calibrated on the fitting queries; NaN where the
      strategy does not say.
    expected_cost: float32[T, M], what the calls that it made on test were expected to cost.
  """

  fitting: replay.QueryMetrics
  test: replay.QueryMetrics
  p_right: np.ndarray
  expected_cost: np.ndarray


class Rules(NamedTuple):
  """Holds what is fitted on all fitting queries of one split and needed by a selector.

  Attributes:
    weights: Of the learned vote.
    vote: That of `VOTES_OF_ALL`.
    rules: By name, those of `RULES` that were fitted.
    calibrators: Of P(the answer is right), by the names of `estimated`; one for each operating point along the first
      dimension.
    estimated: For each rule, each single LLM, each of `VOTES_OF_ALL` and each constraint on single queries, see
      `estimate_points`.
    references: The same of each of `constraints.REFERENCES`, on the fitting queries.
    confidence: How likely a constraint is to be kept.
    horizon: On how many new queries.
    expected_cost: float32[K], of a call.
    cost_unit: What that is in.
  """

  weights: learned_vote.Weights
  vote: baselines.FixedVote
  rules: dict[str, adaptive.Rule]
  calibrators: dict[str, calibration.Calibrator]
  estimated: dict[str, list[constraints.Point]]
  references: dict[str, constraints.Point]
  confidence: float
  horizon: int
  expected_cost: np.ndarray
  cost_unit: str


class FoldResult(NamedTuple):
  """Holds how all strategies fare on one split.

  Attributes:
    confidences: Calibrated, of all queries.
    fitting_rows: int[D].
    test_rows: int[T].
    strategies: By name; those under a constraint on single queries by its text.
    rules: What a selector is made of.
    references: Each of `constraints.REFERENCES` -> its name among the strategies, of one operating point.
  """

  confidences: confidence.Confidences
  fitting_rows: np.ndarray
  test_rows: np.ndarray
  strategies: dict[str, StrategyResult]
  rules: Rules
  references: dict[str, str]


def queries_of(
  data: dataset.Dataset, confidences: confidence.Confidences, embeddings: np.ndarray, split: np.ndarray, cost_unit: str
) -> types.StrategyQueries:
  """Returns all queries of a data set as strategies see them, with what only fitting queries may tell."""
  responses = data.responses
  prices = {
    'compute_seconds': responses.latency_s,
    'usd': responses.cost_usd,
    'calls': np.ones_like(responses.latency_s),
  }
  price = prices[cost_unit]
  price = np.where(responses.observed, price, np.nan).astype(np.float32)
  develops = (split == splits.TRAIN) | (split == splits.VALIDATION)
  with np.errstate(invalid='ignore'):
    expected = np.nansum(price[develops], 0) / np.sum(responses.observed[develops], 0)
  return types.StrategyQueries(
    confidences.logits, embeddings, responses.answers, responses.majority, responses.observed, responses.accepted,
    responses.labels, price,
    np.nan_to_num(expected, nan=float(np.nanmax(expected))).astype(np.float32),
    answer_features.of(data.queries, data.answers, responses), confidences.fold,
  )  # fmt: skip


def _hidden(asked: types.StrategyQueries) -> types.StrategyQueries:
  """Returns queries without what only their future tells."""
  unknown = np.full(asked.labels.shape, np.nan, np.float32)
  return asked._replace(accepted=np.full_like(asked.accepted, -2), labels=unknown, cost=unknown)


class _Fitted(NamedTuple):
  """Holds the learned vote, the fixed one of all LLMs, and the rules that stop by the learned one."""

  weights: learned_vote.Weights
  vote: baselines.FixedVote
  rules: dict[str, adaptive.Rule]


def _fit(known: types.StrategyQueries, vote: baselines.FixedVote, options: options_lib.TradeoffOptions) -> _Fitted:
  """Fits the learned vote and the rules; LLMs are called together only where that saves time."""
  weights = learned_vote.fit(known.logits, known.answers, known.accepted, known.observed, seed=options.seed)
  rules = {'adaptive': adaptive.fit(weights, known, seed=options.seed)}
  if options.timed and 'adaptive_stages' in options.strategies:
    rules['adaptive_stages'] = adaptive.fit(weights, known, seed=options.seed, at_once=2, parallel=True)
  return _Fitted(weights, vote, rules)


def _replay_rules(
  fitted: _Fitted, hidden: types.StrategyQueries, options: options_lib.TradeoffOptions
) -> dict[str, types.Decisions]:
  """Replays the rules, and `adaptive` under each constraint on single queries."""
  weights, rules = fitted.weights, fitted.rules
  decisions = {name: adaptive.replay(rule, weights, hidden) for name, rule in rules.items()}
  for text, most in options.budgets.items():
    decisions[text] = adaptive.replay(rules['adaptive'], weights, hidden, budget=most)
  return decisions


def _replay(
  fitted: _Fitted,
  known: types.StrategyQueries,
  asked: types.StrategyQueries,
  options: options_lib.TradeoffOptions,
  llms: Sequence[str],
) -> dict[str, types.Decisions]:
  """Replays all strategies, the rule `adaptive` under each constraint on single queries, and fixed choices of LLMs."""
  (weights, vote, _), hidden, seed = fitted, _hidden(asked), options.seed
  players: dict[str, Callable[[], types.Decisions]] = {
    'learned_vote': lambda: learned_vote.by_confidence(weights, hidden),
    'bayes_vote': lambda: learned_vote.by_confidence(learned_vote.bayes(hidden.observed.shape[1]), hidden),
    'subset': lambda: subset_router.subset(known, hidden, seed=seed),
    **{name: functools.partial(baseline, known, hidden, seed=seed) for name, baseline in BASELINES.items()},
  }
  decisions = {name: players[name]() for name in options.strategies if name in players}
  decisions |= _replay_rules(fitted, hidden, options)
  alone = learned_vote.alone(weights, hidden)
  for column, llm in enumerate(llms):
    decisions[f'single:{llm}'] = types.Decisions(*(array[:, column : column + 1] for array in alone))
  for name in VOTES_OF_ALL:
    decisions[name] = learned_vote.vote_of_all(weights, hidden, *vote.of(name), over=options.vote)
  return decisions


def quantities(of: replay.QueryMetrics) -> dict[str, np.ndarray]:
  """Returns what the means of constraints are over, query by query, of metrics [N]."""
  return {
    'accuracy': of.correct,
    'wall_seconds': of.wall_clock_s,
    'compute_seconds': of.compute_s,
    'usd': of.cost_usd,
    'calls': of.calls,
  }


def mean_metrics(of: replay.QueryMetrics) -> MeanMetrics:
  """Returns the means of metrics [N], in the units of constraints; None where unknown."""
  p95 = metrics.known_quantile(of.wall_clock_s, of.valid, 0.95)
  means = {name: metrics.known_mean(values, of.valid) for name, values in quantities(of).items()}
  return means | {'p95_wall_seconds': p95}


def estimate_points(
  measured: replay.QueryMetrics, references: dict[str, replay.QueryMetrics], *, confidence: float, horizon: int
) -> list[constraints.Point]:
  """Estimates every operating point from metrics [N, M], beside those of references [N] on the same queries.

  Args:
    measured: Held out, or of what nothing was fitted for.
    references: By name.
    confidence: Of the bound on the 95th percentile: an order statistic further up by z standard errors of a share.
    horizon: How many new queries that is over.
  """
  return [
    _estimate_point(replay.at(measured, point), references, confidence=confidence, horizon=horizon)
    for point in range(measured.correct.shape[1])
  ]


def _estimate_point(
  of: replay.QueryMetrics, references: dict[str, replay.QueryMetrics], *, confidence: float, horizon: int
) -> constraints.Point:
  means = mean_metrics(of)
  known = {name: values.astype(np.float64) for name, values in quantities(of).items() if means[name] is not None}
  count = max(int(of.valid.sum()), 1)
  z = scipy.special.ndtri(confidence)
  share = min(0.95 + z * np.sqrt(0.95 * 0.05 * (1 / count + 1 / horizon)), 1.0)
  p95 = metrics.known_quantile(of.wall_clock_s, of.valid, share)
  covariance = {}
  for name, other in references.items():
    both, others = of.valid & other.valid, quantities(other)
    covariance[name] = {
      quantity: float(np.mean(known[quantity][both] * others[quantity][both]))
      - float(np.mean(known[quantity][both])) * float(np.mean(others[quantity][both], dtype=np.float64))
      for quantity in known
      if both.any() and not np.isnan(others[quantity][both]).any()
    }
  return constraints.Point(
    means=means,
    spread={name: float(np.std(values[of.valid])) for name, values in known.items()},
    covariance=covariance,
    bounds={} if p95 is None else {'p95_wall_seconds': p95},
    queries=count,
  )


def fit_and_replay(
  data: dataset.Dataset,
  split: np.ndarray,
  confidences: confidence.Confidences,
  embeddings: np.ndarray,
  options: options_lib.TradeoffOptions,
  complete: Callable[[types.StrategyQueries], types.StrategyQueries] = lambda known: known,
  told: Callable[[], None] = lambda: None,
) -> FoldResult:
  """Fits all strategies on the fitting queries of one split and replays them on its test queries.

  Args:
    data: The data set; it has answers.
    split: int8[N].
    confidences: Of all queries, out of fold on the fitting queries.
    embeddings: float32[N, D], unit vectors of the pretrained encoder.
    options: Which strategies, and how.
    complete: Makes of fitting queries what strategies are fitted on; recorded responses alone are replayed.
    told: Is called after each of the `FITS`.
  """
  queries = queries_of(data, confidences, embeddings, split, options.cost_unit)
  rows, test = np.flatnonzero(confidences.fold >= 0), np.flatnonzero(split == splits.TEST)
  fold = confidences.fold[rows] % _CROSS
  cuts = [(rows[fold != part], rows[fold == part]) for part in range(_CROSS)]
  latency_s = baselines.expected_latency_s(data.responses, split)

  def fit_and_decide(cut: tuple[np.ndarray, np.ndarray]) -> tuple[_Fitted, dict[str, types.Decisions]]:
    known = complete(queries.rows(cut[0]))
    recorded = data.responses.rows(baselines.subsample(cut[0]))
    vote = baselines.fit_vote(recorded, latency_s, over=options.vote, ties=options.ties)
    fitted = _fit(known, vote, options)
    return fitted, _replay(fitted, known, queries.rows(cut[1]), options, data.llms)

  # The fits know nothing of each other, and XLA computes without Python's lock. Two at a time, for memory's sake.
  results = []
  with futures.ThreadPoolExecutor(2) as pool:
    for result in pool.map(fit_and_decide, [*cuts, (rows, test)]):
      results.append(result)
      told()
  *crossed, (fitted, decisions) = results
  held_out = _HeldOut([parts for _, parts in crossed], np.argsort(np.concatenate([out for _, out in cuts])))
  fitting, tested = data.responses.rows(rows), data.responses.rows(test)
  strategies, calibrators = {}, {}
  for name, decided in decisions.items():
    strategies[name], calibrators[name] = _strategy_result(
      fitting, held_out.join(name, decided.answer.shape[1]), tested, decided, queries.expected_cost
    )
  for name, played in _replay_rules(fitted, _hidden(queries.rows(rows)), options).items():
    costs = replay.replay_decisions(fitting, played)
    strategies[name] = strategies[name]._replace(fitting=costs._replace(correct=strategies[name].fitting.correct))
  best = int(baselines.by_accuracy(fitting.labels, fitting.observed, latency_s)[0])
  references = {name: name for name in VOTES_OF_ALL} | {'best_single': f'single:{data.llms[best]}'}
  others = {name: replay.at(strategies[of].fitting, 0) for name, of in references.items()}
  seen = fitting.observed.mean(0) >= _SEEN
  fixed = [f'single:{llm}' for llm, enough in zip(data.llms, seen, strict=True) if enough]
  fixed += VOTES_OF_ALL if seen.all() else ()
  selectable = {name: of for name in (*fitted.rules, *options.budgets, *fixed) if (of := calibrators[name]) is not None}
  bounded = functools.partial(estimate_points, references=others, confidence=options.confidence, horizon=len(test))
  rules = Rules(
    weights=fitted.weights,
    vote=fitted.vote,
    rules=fitted.rules,
    calibrators=selectable,
    estimated={name: bounded(strategies[name].fitting) for name in selectable},
    references={name: bounded(strategies[of].fitting)[0] for name, of in references.items()},
    confidence=options.confidence,
    horizon=len(test),
    expected_cost=queries.expected_cost,
    cost_unit=options.cost_unit,
  )
  return FoldResult(confidences, rows, test, strategies, rules, references)


class _HeldOut(NamedTuple):
  """Holds what strategies decide for fitting queries that they were not fitted on.

  Attributes:
    parts: One for each part of the queries: by name.
    order: int[D], the places of the queries, in their order, among all parts.
  """

  parts: list[dict[str, types.Decisions]]
  order: np.ndarray

  def join(self, name: str, points: int) -> types.Decisions:
    """Returns one strategy's decisions at so many operating points: the most expensive again where a part has fewer."""

    def joined(arrays: Iterable[np.ndarray]) -> np.ndarray:
      widened = [array[:, np.minimum(np.arange(points), array.shape[1] - 1)] for array in arrays]
      return np.concatenate(widened)[self.order]

    return types.Decisions(*map(joined, zip(*(part[name] for part in self.parts), strict=True)))


def _strategy_result(
  fitting: dataset.Responses,
  on_fitting: types.Decisions,
  tested: dataset.Responses,
  on_test: types.Decisions,
  expected_cost: np.ndarray,
) -> tuple[StrategyResult, calibration.Calibrator | None]:
  """Counts what a strategy did, and calibrates how sure it is, point by point, on fitting queries."""
  measured, sure = replay.replay_decisions(fitting, on_fitting), on_fitting.p_right
  p_right, calibrators = np.full(on_test.p_right.shape, np.nan, np.float32), []
  if not np.isnan(sure).any():
    for point in range(sure.shape[1]):
      fitted = calibration.fit(confidence.log_odds(sure[:, point]), measured.correct[:, point], 'platt')
      calibrators.append(fitted)
      p_right[:, point] = probability(fitted, on_test.p_right[:, point])
  stacked = calibration.Calibrator(*map(np.stack, zip(*calibrators, strict=True))) if calibrators else None
  result = StrategyResult(measured, replay.replay_decisions(tested, on_test), p_right, on_test.mask @ expected_cost)
  return result, stacked


def probability(calibrator: calibration.Calibrator, sure: np.ndarray) -> np.ndarray:
  """Calibrates how likely answers are right, float[N] in [0, 1]."""
  return 1 / (1 + np.exp(-np.asarray(calibration.apply(calibrator, confidence.log_odds(sure)))))


def most_accurate(measured: replay.QueryMetrics) -> int:
  """Returns the operating point, of metrics [N, M], that is most accurate; of equals the cheapest."""
  accuracy = [mean_metrics(replay.at(measured, point))['accuracy'] or 0.0 for point in range(measured.correct.shape[1])]
  return int(np.argmax(accuracy))


def choose(rules: Rules, limit: constraints.Constraint) -> tuple[str, int] | None:
  """Returns who keeps a constraint with the run's probability: a rule, an LLM or a vote of all, at an operating point.

  Args:
    rules: As estimated.
    limit: To be kept.

  Returns:
    The most accurate, or for a target of accuracy the cheapest; None where none keeps it. For a constraint on single
    queries the name is its text: it is known only where it was among the run's `config.tradeoff.limits`.
  """
  return choose_from(
    rules.estimated, rules.references, limit,
    cost_unit=rules.cost_unit, confidence=rules.confidence, horizon=rules.horizon,
  )  # fmt: skip


def choose_from(
  estimated: Mapping[str, Sequence[constraints.Point]],
  references: Mapping[str, constraints.Point],
  limit: constraints.Constraint,
  *,
  cost_unit: str,
  confidence: float,
  horizon: int,
) -> tuple[str, int] | None:
  """`choose`, from estimates by name."""
  candidates = [(name, place) for name in estimated for place in range(len(estimated[name]))]
  if limit.quantity == 'query_compute_seconds':
    if limit.text not in estimated:
      return None
    # It changes what a rule calls, so that is replayed, and estimated, by itself; a fixed choice takes what it takes.
    candidates = [
      (name, place)
      for name, place in candidates
      if name == limit.text
      or (is_fixed(name) and (estimated[name][place].means['compute_seconds'] or np.inf) <= (limit.value or 0))
    ]
    limit = constraints.parse('none')
  else:
    candidates = [(name, place) for name, place in candidates if name in RULES or is_fixed(name)]
  points = [estimated[name][place] for name, place in candidates]
  best = constraints.choose(limit, points, references, cost_unit=cost_unit, confidence=confidence, horizon=horizon)
  return None if best is None else candidates[best]


def is_single(name: str) -> bool:
  """Tells whether a name is that of calling one LLM for all queries."""
  return name.startswith('single:')


def is_fixed(name: str) -> bool:
  """Tells whether a name is that of calling the same LLMs for all queries."""
  return is_single(name) or name in VOTES_OF_ALL
