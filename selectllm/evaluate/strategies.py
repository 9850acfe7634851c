"""The tradeoff of accuracy and price: everything that chooses calls past the paper's policies, on the same queries.

Strategies are fitted on the development queries (train and validation) and play the test queries. What a setting of
theirs is worth is *estimated* by cross-fitting on the development queries: fitted on two thirds, played on the rest.
Settings are chosen by these promises alone; test labels are only counted.
"""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import ml_collections
import numpy as np

from selectllm.data import dataset, splits
from selectllm.evaluate import replay
from selectllm.selection import (
  adaptive,
  baselines,
  calibration,
  confidence,
  constraints,
  learned_vote,
  routers,
  subset_router,
  types,
)

COST_UNITS = ('seconds', 'usd', 'calls')
OURS = ('learned_vote', 'bayes_vote', 'adaptive', 'adaptive_stages', 'subset')
STRATEGIES = (*OURS, *routers.STRATEGIES)
# Those that a limit may choose, and a selector may hold.
RULES = ('adaptive', 'adaptive_stages')
_CROSS = 3

# Means in the units of limits, see `mean_metrics`; None where unknown.
MeanMetrics = dict[str, float | None]


class StrategyResult(NamedTuple):
  """One strategy on one split.

  Attributes:
    development: How its settings fared on development queries, cross-fitted: Outcome of arrays [D, M].
    test: How they fared on test queries: [T, M].
    sure: float32[D, M], how likely each answer on development is right, as the strategy says; NaN where it does not.
    p_right: float32[T, M], the same on test, calibrated on development.
    expected: float32[T, M], what the calls that it made on test were expected to take.
  """

  development: replay.QueryMetrics
  test: replay.QueryMetrics
  sure: np.ndarray
  p_right: np.ndarray
  expected: np.ndarray


class Rules(NamedTuple):
  """What was fitted on all development queries of one split: what a selector needs.

  Attributes:
    weights: Of the vote.
    rules: By name, those of `RULES` that were played.
    calibrators: Of P(the answer is right), for each rule and each limit on single queries; one for each setting along
      the first dimension.
    estimated: For each rule, each limit on single queries, and setting what it is worth, see `mean_metrics_by_setting`.
    references: What the best single LLM and all LLMs are worth on development queries.
    expected: float32[K], the price of a call.
  """

  weights: learned_vote.Weights
  rules: dict[str, adaptive.Rule]
  calibrators: dict[str, calibration.Calibrator]
  estimated: dict[str, list[MeanMetrics]]
  references: dict[str, MeanMetrics]
  expected: np.ndarray


class FoldResult(NamedTuple):
  """Everything on one split.

  Attributes:
    development: Its confidences.
    rows: int[D], the development queries.
    test: int[T].
    contests: By strategy.
    rules: What a selector is made of.
    references: How the best single LLM and the plain vote of all fare on test, arrays [T, 2].
  """

  development: confidence.Development
  rows: np.ndarray
  test: np.ndarray
  contests: dict[str, StrategyResult]
  rules: Rules
  references: replay.QueryMetrics


def timed_in(cost_unit: str) -> bool:
  """Whether calls are paid in time, so that calling at once saves some and a query may have too much of it."""
  return cost_unit == 'seconds'


def cost_unit_of(responses: dataset.Responses, wanted: str) -> str:
  """What calls are paid in: as asked, or seconds where all are known, else dollars, else the number of calls.

  Raises:
    ValueError: when what is asked for is not known of all calls.
  """
  known = {
    'seconds': not np.isnan(responses.latency_s[responses.observed]).any(),
    'usd': not np.isnan(responses.cost_usd[responses.observed]).any(),
    'calls': True,
  }
  if not wanted:
    return next(name for name in COST_UNITS if known[name])
  if not known[wanted]:
    raise ValueError(f'config.tradeoff.cost_unit={wanted!r}, but it is not known what every call took; take another')
  return wanted


def queries_of(
  data: dataset.Dataset, development: confidence.Development, embeddings: np.ndarray, split: np.ndarray, cost_unit: str
) -> types.StrategyQueries:
  """All queries of a data set as strategies see them, with what only those to learn from may tell."""
  responses = data.responses
  price = {'seconds': responses.latency_s, 'usd': responses.cost_usd, 'calls': np.ones_like(responses.latency_s)}[
    cost_unit
  ]
  price = np.where(responses.observed, price, np.nan).astype(np.float32)
  develops = (split == splits.TRAIN) | (split == splits.VALIDATION)
  with np.errstate(invalid='ignore'):
    expected = np.nansum(price[develops], 0) / np.sum(responses.observed[develops], 0)
  return types.StrategyQueries(
    development.logits, embeddings, responses.answers, responses.majority, responses.observed, responses.reference,
    responses.labels, price,
    np.nan_to_num(expected, nan=float(np.nanmax(expected))).astype(np.float32),
  )  # fmt: skip


def _hidden(asked: types.StrategyQueries) -> types.StrategyQueries:
  """Queries without what only their future tells."""
  unknown = np.full(asked.labels.shape, np.nan, np.float32)
  return asked._replace(reference=np.full(len(asked.reference), -2, np.int16), labels=unknown, cost=unknown)


def _fit_rules(
  known: types.StrategyQueries, seed: int, timed: bool
) -> tuple[learned_vote.Weights, dict[str, adaptive.Rule]]:
  """The learned vote and the rules that stop by it; LLMs are called together only where that saves time."""
  weights = learned_vote.fit(known.logits, known.answers, known.reference, known.observed, seed=seed)
  rules = {'adaptive': adaptive.fit(weights, known, seed=seed)}
  if timed:
    rules['adaptive_stages'] = adaptive.fit(weights, known, seed=seed, at_once=2, parallel=True)
  return weights, rules


def _replay_strategies(
  known: types.StrategyQueries,
  asked: types.StrategyQueries,
  fitted: tuple[learned_vote.Weights, dict[str, adaptive.Rule]],
  *,
  names: Iterable[str],
  limited: dict[str, float],
  seed: int,
) -> dict[str, types.Decisions]:
  """Plays the named strategies, and the rule `adaptive` under each limit on single queries."""
  weights, rules = fitted
  hidden = _hidden(asked)
  players: dict[str, Callable[[], types.Decisions]] = {
    'learned_vote': lambda: learned_vote.by_confidence(weights, hidden),
    'bayes_vote': lambda: learned_vote.by_confidence(learned_vote.bayes(hidden.observed.shape[1]), hidden),
    'subset': lambda: subset_router.subset(known, hidden, seed=seed),
    **{name: functools.partial(adaptive.replay, rule, weights, hidden) for name, rule in rules.items()},
    **{name: functools.partial(rival, known, hidden, seed=seed) for name, rival in routers.STRATEGIES.items()},
  }
  played = {name: players[name]() for name in names if name in players}
  for text, most in limited.items():
    played[text] = adaptive.replay(rules['adaptive'], weights, hidden, budget=most)
  return played


def accounts(responses: dataset.Responses, played: types.Decisions) -> replay.QueryMetrics:
  """What was right and what it took, arrays [N, M], of what a strategy did with N queries."""
  called = played.mask & responses.observed[:, None]
  valid = called.any(-1)
  stages = int(played.stage.max(initial=0)) + 1

  def total(values: np.ndarray) -> np.ndarray:
    return np.sum(np.where(called, values[:, None], 0), -1)

  slowest = sum(
    np.max(np.where(called & (played.stage == stage), responses.latency_s[:, None], 0), -1) for stage in range(stages)
  )
  return replay.QueryMetrics(
    correct=((played.answer == responses.reference[:, None]) & valid).astype(np.float32),
    valid=valid,
    calls=called.sum(-1).astype(np.float32),
    latency_parallel_s=np.asarray(slowest, np.float32),
    latency_sequential_s=total(responses.latency_s).astype(np.float32),
    cost_usd=total(responses.cost_usd).astype(np.float32),
  )


def known_or_none(value: float) -> float | None:
  """A number, None for NaN: what is not known."""
  return None if np.isnan(value) else float(value)


def mean_metrics(outcome: replay.QueryMetrics, setting: int) -> MeanMetrics:
  """The means of one setting, in the units of limits; None where unknown."""
  valid = outcome.valid[:, setting]
  if not valid.any():
    return dict.fromkeys(('accuracy', 'seconds', 'usd', 'calls', 'parallel_seconds', 'p95_seconds'))
  of = [array[valid, setting] for array in outcome]
  correct, _, calls, parallel, sequential, usd = of
  means = {'accuracy': correct, 'seconds': sequential, 'usd': usd, 'calls': calls, 'parallel_seconds': parallel}
  return {name: known_or_none(np.mean(values, dtype=np.float64)) for name, values in means.items()} | {
    'p95_seconds': known_or_none(np.quantile(parallel, 0.95))
  }


def _references(responses: dataset.Responses, best: int, latency_s: np.ndarray, over: str) -> replay.QueryMetrics:
  """How the single LLM `best` and the plain vote of all fare, arrays [N, 2]."""
  count = responses.observed.shape[1]
  mask = np.stack([np.arange(count) == best, np.ones(count, bool)])
  mask = np.broadcast_to(mask, (len(responses.labels), 2, count))
  return replay.QueryMetrics(*map(np.asarray, replay.replay(responses, mask, None, latency_s, over=over)))


def fit_and_replay(
  data: dataset.Dataset,
  split: np.ndarray,
  confidences: np.ndarray,
  embeddings: np.ndarray,
  config: ml_collections.ConfigDict,
) -> FoldResult:
  """Fits all strategies on the development queries of one split and plays them.

  Args:
    data: The data set; it has answers.
    split: int8[N].
    confidences: float32[N, K], the classifier's, on validation and test.
    embeddings: float32[N, D], unit vectors of the pretrained encoder.
    config: The whole config.
  """
  responses, seed = data.responses, config.seed
  development = confidence.develop(
    data.queries,
    embeddings,
    confidences,
    responses.labels,
    responses.observed,
    split,
    seed=seed,
    questions=data.questions,
  )
  return fit_and_replay_from(data, split, development, embeddings, config)


def fit_and_replay_from(
  data: dataset.Dataset,
  split: np.ndarray,
  development: confidence.Development,
  embeddings: np.ndarray,
  config: ml_collections.ConfigDict,
  complete: Callable[[types.StrategyQueries], types.StrategyQueries] = lambda known: known,
) -> FoldResult:
  """`fit_and_replay`, from confidences that are there already.

  Args:
    data: The data set; it has answers.
    split: int8[N].
    development: Its confidences.
    embeddings: float32[N, D], unit vectors of the pretrained encoder.
    config: The whole config.
    complete: Makes of development queries what strategies are fitted on; they always play what was recorded.
  """
  responses, options, seed = data.responses, config.tradeoff, config.seed
  cost_unit = cost_unit_of(responses, options.cost_unit)
  queries = queries_of(data, development, embeddings, split, cost_unit)
  rows, test = np.flatnonzero(development.fold >= 0), np.flatnonzero(split == splits.TEST)
  timed = timed_in(cost_unit) and 'adaptive_stages' in options.strategies
  names = dict.fromkeys((*options.strategies, 'adaptive'))  # what a selector holds is always played
  limited = _limited(options.limits) if timed_in(cost_unit) else {}
  players = functools.partial(_replay_strategies, names=names, limited=limited, seed=seed)
  held_out: list[tuple[np.ndarray, dict[str, types.Decisions]]] = []
  for part in range(_CROSS):
    out = development.fold[rows] % _CROSS == part
    known = complete(queries.rows(rows[~out]))
    held_out.append((rows[out], players(known, queries.rows(rows[out]), _fit_rules(known, seed, timed))))
  known = complete(queries.rows(rows))
  weights, rules = _fit_rules(known, seed, timed)
  on_test = players(known, queries.rows(test), (weights, rules))
  order = np.argsort(np.concatenate([out for out, _ in held_out]))
  contests, calibrators = {}, {}
  for name, played in on_test.items():
    on_development = _join([_settings(each[name], played.answer.shape[1]) for _, each in held_out], order)
    contests[name], calibrators[name] = _strategy_result(
      responses, rows, on_development, test, played, queries.expected_cost
    )
  recorded = responses.rows(rows)
  best = int(baselines.by_accuracy(recorded.labels, recorded.observed, queries.expected_cost)[0])
  latency_s, over = baselines.expected_latency_s(responses, split), config.evaluate.vote
  references = {
    where: _references(of, best, latency_s, over)
    for where, of in (('development', recorded), ('test', responses.rows(test)))
  }
  return FoldResult(
    development,
    rows,
    test,
    contests,
    Rules(
      weights,
      rules,
      {
        name: calibration.Calibrator(*map(np.stack, zip(*calibrators[name], strict=True)))
        for name in (*rules, *limited)
      },
      {name: mean_metrics_by_setting(contests[name].development) for name in (*rules, *limited)},
      dict(zip(constraints.REFERENCES, mean_metrics_by_setting(references['development']), strict=True)),
      queries.expected_cost,
    ),
    references['test'],
  )


def _limited(texts: Iterable[str]) -> dict[str, float]:
  """The limits on single queries, and the most that the calls of one may be expected to take."""
  parsed = [constraints.parse(text) for text in texts]
  return {limit.text: limit.value for limit in parsed if limit.quantity == 'query_seconds' and limit.value}


def _settings(played: types.Decisions, count: int) -> types.Decisions:
  """The same with `count` settings: the dearest again and again where there are fewer."""
  index = np.minimum(np.arange(count), played.answer.shape[1] - 1)
  return types.Decisions(*(array[:, index] for array in played))


def _join(parts: list[types.Decisions], order: np.ndarray) -> types.Decisions:
  return types.Decisions(*(np.concatenate(arrays)[order] for arrays in zip(*parts, strict=True)))


def _strategy_result(
  responses: dataset.Responses,
  rows: np.ndarray,
  on_development: types.Decisions,
  test: np.ndarray,
  on_test: types.Decisions,
  expected: np.ndarray,
) -> tuple[StrategyResult, list[calibration.Calibrator]]:
  """Counts what a strategy did, and calibrates how sure it is, setting by setting, on development queries."""
  development, tested = accounts(responses.rows(rows), on_development), accounts(responses.rows(test), on_test)
  sure, p_right = on_development.p_right, np.full(on_test.p_right.shape, np.nan, np.float32)
  calibrators = []
  if not np.isnan(sure).any():
    for setting in range(sure.shape[1]):
      fitted = calibration.fit(confidence.log_odds(sure[:, setting]), development.correct[:, setting], 'platt')
      calibrators.append(fitted)
      p_right[:, setting] = probability(fitted, on_test.p_right[:, setting])
  return StrategyResult(development, tested, sure, p_right, on_test.mask @ expected), calibrators


def probability(calibrator: calibration.Calibrator, sure: np.ndarray) -> np.ndarray:
  """Calibrates how likely answers are right, float[N] in [0, 1]."""
  return 1 / (1 + np.exp(-np.asarray(calibration.apply(calibrator, confidence.log_odds(sure)))))


def mean_metrics_by_setting(outcome: replay.QueryMetrics) -> list[MeanMetrics]:
  """What every setting is worth, outcome by outcome [N, M]."""
  return [mean_metrics(outcome, setting) for setting in range(outcome.correct.shape[1])]


def most_accurate(estimated: list[MeanMetrics]) -> int:
  """The setting most accurate on development; of equals the cheapest."""
  return int(np.argmax([worth['accuracy'] or 0.0 for worth in estimated]))


def choose(
  estimated: dict[str, list[MeanMetrics]], references: dict[str, MeanMetrics], limit: constraints.Constraint
) -> tuple[str, int] | None:
  """The rule and the setting that keep a limit on development queries.

  Args:
    estimated: What each setting of each rule is worth.
    references: What the best single LLM and all LLMs are worth.
    limit: To be kept.

  Returns:
    The most accurate, or for a target of accuracy the fastest; None where none keeps it. For a limit on single queries
    the name is the limit's text: it is known only where it was among the run's `config.tradeoff.limits`.
  """
  # A limit on single queries changes what is called, so it is played, and estimated, by itself.
  names = [limit.text] if limit.quantity == 'query_seconds' else RULES
  for_choice = constraints.parse('none') if limit.quantity == 'query_seconds' else limit
  found = {
    name: setting
    for name in names
    if name in estimated and (setting := constraints.choose(for_choice, estimated[name], references)) is not None
  }
  if not found:
    return None

  def merit(name: str) -> tuple[float, float]:
    worth = estimated[name][found[name]]
    accuracy, price = worth['accuracy'] or 0.0, constraints.cost(worth)
    return (-price, accuracy) if limit.quantity == 'accuracy' else (accuracy, -price)

  name = max(found, key=merit)
  return name, found[name]
