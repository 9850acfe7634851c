"""The frontier of accuracy and price: everything that chooses calls past the paper's policies, on the same queries.

Contenders are fitted on the development queries (train and validation) and play the test queries. What a setting of
theirs is worth is *promised* by cross-fitting on the development queries: fitted on two thirds, played on the rest.
Settings are chosen by these promises alone; test labels are only counted.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from selectllm import confidence, evaluate, limits, metrics
from selectllm.data import splits, votes
from selectllm.selection import adaptive, baselines, budget, calibration, contest, evidence, rivals, subsets

CURRENCIES = ('seconds', 'usd', 'calls')
OURS = ('learned_vote', 'bayes_vote', 'adaptive', 'adaptive_stages', 'subset')
CONTENDERS = (*OURS, *rivals.CONTENDERS)
# Those that a limit may choose, and a selector may hold.
RULES = ('adaptive', 'adaptive_stages')
REFERENCES = ('best_single', 'all_llms')
_CROSS = 3
_COVERAGE = np.linspace(0.05, 1, 20)
_BATCH_BUDGETS = (0.05, 0.1, 0.2, 0.35, 0.5)

# Means in the units of limits, see `_worth`; None where unknown.
Worth = dict[str, float | None]


class Contest(NamedTuple):
  """One contender on one split.

  Attributes:
    development: How its settings fared on development queries, cross-fitted: Outcome of arrays [D, M].
    test: How they fared on test queries: [T, M].
    sure: float32[D, M], how likely each answer on development is right, as the contender says; NaN where it does not.
    p_right: float32[T, M], the same on test, calibrated on development.
    expected: float32[T, M], what the calls that it made on test were expected to take.
  """

  development: evaluate.Outcome
  test: evaluate.Outcome
  sure: np.ndarray
  p_right: np.ndarray
  expected: np.ndarray


class Rules(NamedTuple):
  """What was fitted on all development queries of one split: what a selector needs.

  Attributes:
    weights: Of the vote.
    rules: One for each name of `RULES`.
    calibrators: Of P(the answer is right), for each rule; one for each setting along the first dimension.
    promised: For each rule and setting what it is worth, see `_promise`.
    references: What the best single LLM and all LLMs are worth on development queries.
    expected: float32[K], the price of a call.
  """

  weights: evidence.Weights
  rules: dict[str, adaptive.Rule]
  calibrators: dict[str, calibration.Calibrator]
  promised: dict[str, list[Worth]]
  references: dict[str, Worth]
  expected: np.ndarray


class Part(NamedTuple):
  """Everything on one split.

  Attributes:
    development: Its confidences.
    rows: int[D], the development queries.
    test: int[T].
    contests: By contender.
    rules: What a selector is made of.
    references: How the best single LLM and the plain vote of all fare on test, arrays [T, 2].
  """

  development: confidence.Development
  rows: np.ndarray
  test: np.ndarray
  contests: dict[str, Contest]
  rules: Rules
  references: evaluate.Outcome


def problems(options: ml_collections.ConfigDict) -> list[str]:
  """What of `config.frontier` cannot be, in words."""
  found = []
  if strange := [name for name in options.contenders if name not in CONTENDERS]:
    found.append(f'frontier.contenders names {", ".join(strange)}; there are {", ".join(CONTENDERS)}')
  if options.currency not in ('', *CURRENCIES):
    found.append(f'frontier.currency={options.currency!r}: one of {", ".join(CURRENCIES)}, or empty')
  for text in options.limits:
    try:
      limits.parse(text)
    except ValueError as error:
      found.append(f'frontier.limits: {error}')
  return found


def currency_of(data: votes.Votes, wanted: str) -> str:
  """What calls are paid in: as asked, or seconds where all are known, else dollars, else the number of calls.

  Raises:
    ValueError: when what is asked for is not known of all calls.
  """
  known = {
    'seconds': not np.isnan(data.latency_s[data.observed]).any(),
    'usd': not np.isnan(data.cost_usd[data.observed]).any(),
    'calls': True,
  }
  if not wanted:
    return next(name for name in CURRENCIES if known[name])
  if not known[wanted]:
    raise ValueError(f'config.frontier.currency={wanted!r}, but it is not known what every call took; take another')
  return wanted


def queries_of(
  table: votes.Table, development: confidence.Development, embeddings: np.ndarray, split: np.ndarray, currency: str
) -> contest.Queries:
  """All queries of a data set as contenders see them, with what only those to learn from may tell."""
  data = table.votes
  price = {'seconds': data.latency_s, 'usd': data.cost_usd, 'calls': np.ones_like(data.latency_s)}[currency]
  price = np.where(data.observed, price, np.nan).astype(np.float32)
  develops = (split == splits.TRAIN) | (split == splits.VALIDATION)
  with np.errstate(invalid='ignore'):
    expected = np.nansum(price[develops], 0) / np.sum(data.observed[develops], 0)
  return contest.Queries(
    development.logits, embeddings, data.answers, data.observed, data.reference, data.labels, price,
    np.nan_to_num(expected, nan=float(np.nanmax(expected))).astype(np.float32),
  )  # fmt: skip


def _hidden(asked: contest.Queries) -> contest.Queries:
  """Queries without what only their future tells."""
  unknown = np.full(asked.labels.shape, np.nan, np.float32)
  return asked._replace(reference=np.full(len(asked.reference), -2, np.int16), labels=unknown, price=unknown)


def _fit_rules(known: contest.Queries, seed: int, timed: bool) -> tuple[evidence.Weights, dict[str, adaptive.Rule]]:
  """The learned vote and the rules that stop by it; LLMs are called together only where that saves time."""
  weights = evidence.fit(known.logits, known.answers, known.reference, known.observed, seed=seed)
  rules = {'adaptive': adaptive.fit(weights, known, seed=seed)}
  if timed:
    rules['adaptive_stages'] = adaptive.fit(weights, known, seed=seed, at_once=2, parallel=True)
  return weights, rules


def _play(
  known: contest.Queries,
  asked: contest.Queries,
  fitted: tuple[evidence.Weights, dict[str, adaptive.Rule]],
  *,
  names: Iterable[str],
  limited: dict[str, float],
  seed: int,
) -> dict[str, contest.Played]:
  """Plays the named contenders, and the rule `adaptive` under each limit on single queries."""
  weights, rules = fitted
  hidden = _hidden(asked)
  players: dict[str, Callable[[], contest.Played]] = {
    'learned_vote': lambda: evidence.by_confidence(weights, hidden),
    'bayes_vote': lambda: evidence.by_confidence(evidence.bayes(hidden.observed.shape[1]), hidden),
    'subset': lambda: subsets.subset(known, hidden, seed=seed),
    **{name: functools.partial(adaptive.replay, rule, weights, hidden) for name, rule in rules.items()},
    **{name: functools.partial(rival, known, hidden, seed=seed) for name, rival in rivals.CONTENDERS.items()},
  }
  played = {name: players[name]() for name in names if name in players}
  for text, most in limited.items():
    played[text] = adaptive.replay(rules['adaptive'], weights, hidden, budget=most)
  return played


def accounts(data: votes.Votes, played: contest.Played) -> evaluate.Outcome:
  """What was right and what it took, arrays [N, M], of what a contender did with N queries."""
  called = played.mask & data.observed[:, None]
  valid = called.any(-1)
  stages = int(played.stage.max(initial=0)) + 1

  def total(values: np.ndarray) -> np.ndarray:
    return np.sum(np.where(called, values[:, None], 0), -1)

  slowest = sum(
    np.max(np.where(called & (played.stage == stage), data.latency_s[:, None], 0), -1) for stage in range(stages)
  )
  return evaluate.Outcome(
    correct=((played.answer == data.reference[:, None]) & valid).astype(np.float32),
    valid=valid,
    calls=called.sum(-1).astype(np.float32),
    latency_parallel_s=np.asarray(slowest, np.float32),
    latency_sequential_s=total(data.latency_s).astype(np.float32),
    cost_usd=total(data.cost_usd).astype(np.float32),
  )


def _known(value: float) -> float | None:
  return None if np.isnan(value) else float(value)


def _worth(outcome: evaluate.Outcome, setting: int) -> Worth:
  """The means of one setting, in the units of limits; None where unknown."""
  valid = outcome.valid[:, setting]
  if not valid.any():
    return dict.fromkeys(('accuracy', 'seconds', 'usd', 'calls', 'parallel_seconds', 'p95_seconds'))
  of = [array[valid, setting] for array in outcome]
  correct, _, calls, parallel, sequential, usd = of
  means = {'accuracy': correct, 'seconds': sequential, 'usd': usd, 'calls': calls, 'parallel_seconds': parallel}
  return {name: _known(np.mean(values, dtype=np.float64)) for name, values in means.items()} | {
    'p95_seconds': _known(np.quantile(parallel, 0.95))
  }


def _references(data: votes.Votes, best: int, latency_s: np.ndarray, over: str) -> evaluate.Outcome:
  """How the single LLM `best` and the plain vote of all fare, arrays [N, 2]."""
  count = data.observed.shape[1]
  mask = np.stack([np.arange(count) == best, np.ones(count, bool)])
  mask = np.broadcast_to(mask, (len(data.labels), 2, count))
  return evaluate.Outcome(
    *map(np.asarray, evaluate.play(data, mask, np.ones(mask.shape, np.float32), latency_s, over=over))
  )


def hold(
  table: votes.Table,
  split: np.ndarray,
  confidences: np.ndarray,
  embeddings: np.ndarray,
  config: ml_collections.ConfigDict,
) -> Part:
  """Fits all contenders on the development queries of one split and plays them.

  Args:
    table: The data set; it has answers.
    split: int8[N].
    confidences: float32[N, K], the classifier's, on validation and test.
    embeddings: float32[N, D], unit vectors of the pretrained encoder.
    config: The whole config.
  """
  data, seed = table.votes, config.seed
  development = confidence.develop(table.queries, embeddings, confidences, data.labels, data.observed, split, seed=seed)
  return contend(table, split, development, embeddings, config)


def contend(
  table: votes.Table,
  split: np.ndarray,
  development: confidence.Development,
  embeddings: np.ndarray,
  config: ml_collections.ConfigDict,
  complete: Callable[[contest.Queries], contest.Queries] = lambda known: known,
) -> Part:
  """`hold`, from confidences that are there already.

  Args:
    table: The data set; it has answers.
    split: int8[N].
    development: Its confidences.
    embeddings: float32[N, D], unit vectors of the pretrained encoder.
    config: The whole config.
    complete: Makes of development queries what contenders are fitted on; they always play what was recorded.
  """
  data, options, seed = table.votes, config.frontier, config.seed
  currency = currency_of(data, options.currency)
  queries = queries_of(table, development, embeddings, split, currency)
  rows, test = np.flatnonzero(development.fold >= 0), np.flatnonzero(split == splits.TEST)
  timed = currency == 'seconds' and 'adaptive_stages' in options.contenders
  players = functools.partial(_play, names=options.contenders, limited=_limited(options.limits), seed=seed)
  held_out: list[tuple[np.ndarray, dict[str, contest.Played]]] = []
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
    contests[name], calibrators[name] = _contest(data, rows, on_development, test, played, queries.expected)
  best = int(baselines.by_accuracy(known.labels, known.observed, known.expected)[0])
  latency_s, over = evaluate.expected_latency_s(data, split), config.evaluate.vote
  references = {
    where: _references(data.rows(of), best, latency_s, over) for where, of in (('development', rows), ('test', test))
  }
  return Part(
    development,
    rows,
    test,
    contests,
    Rules(
      weights,
      rules,
      {name: calibration.Calibrator(*map(np.stack, zip(*calibrators[name], strict=True))) for name in rules},
      {name: _promise(contests[name].development) for name in rules},
      dict(zip(REFERENCES, _promise(references['development']), strict=True)),
      queries.expected,
    ),
    references['test'],
  )


def _limited(texts: Iterable[str]) -> dict[str, float]:
  """The limits on single queries, and the most that the calls of one may be expected to take."""
  parsed = [limits.parse(text) for text in texts]
  return {limit.text: limit.value for limit in parsed if limit.quantity == 'query_seconds' and limit.value}


def _settings(played: contest.Played, count: int) -> contest.Played:
  """The same with `count` settings: the dearest again and again where there are fewer."""
  index = np.minimum(np.arange(count), played.answer.shape[1] - 1)
  return contest.Played(*(array[:, index] for array in played))


def _join(parts: list[contest.Played], order: np.ndarray) -> contest.Played:
  return contest.Played(*(np.concatenate(arrays)[order] for arrays in zip(*parts, strict=True)))


def _contest(
  data: votes.Votes,
  rows: np.ndarray,
  on_development: contest.Played,
  test: np.ndarray,
  on_test: contest.Played,
  expected: np.ndarray,
) -> tuple[Contest, list[calibration.Calibrator]]:
  """Counts what a contender did, and calibrates how sure it is, setting by setting, on development queries."""
  development, tested = accounts(data.rows(rows), on_development), accounts(data.rows(test), on_test)
  sure, p_right = on_development.p_right, np.full(on_test.p_right.shape, np.nan, np.float32)
  calibrators = []
  if not np.isnan(sure).any():
    for setting in range(sure.shape[1]):
      fitted = calibration.fit(confidence.log_odds(sure[:, setting]), development.correct[:, setting], 'platt')
      calibrators.append(fitted)
      p_right[:, setting] = probability(fitted, on_test.p_right[:, setting])
  return Contest(development, tested, sure, p_right, on_test.mask @ expected), calibrators


def probability(calibrator: calibration.Calibrator, sure: np.ndarray) -> np.ndarray:
  """Calibrates how likely answers are right, float[N] in [0, 1]."""
  return 1 / (1 + np.exp(-np.asarray(calibration.apply(calibrator, confidence.log_odds(sure)))))


def _promise(outcome: evaluate.Outcome) -> list[Worth]:
  return [_worth(outcome, setting) for setting in range(outcome.correct.shape[1])]


def _at(outcome: evaluate.Outcome, setting: int) -> evaluate.Outcome:
  return evaluate.Outcome(*(array[:, setting] for array in outcome))


def _most_accurate(promised: list[Worth]) -> int:
  """The setting most accurate on development; of equals the cheapest."""
  return int(np.argmax([worth['accuracy'] or 0.0 for worth in promised]))


class Chosen(NamedTuple):
  """A contender at the setting chosen in each of P splits.

  Attributes:
    contender: Its name.
    settings: P of them.
    promised: Means over the splits of what was promised.
    outcome: On all test queries.
  """

  contender: str
  settings: list[int]
  promised: Worth
  outcome: evaluate.Outcome


def _pick(parts: list[Part], name: str, settings: list[int]) -> Chosen:
  worth = [_worth(part.contests[name].development, setting) for part, setting in zip(parts, settings, strict=True)]
  tested = [_at(part.contests[name].test, setting) for part, setting in zip(parts, settings, strict=True)]
  return Chosen(name, settings, _mean_worth(worth), evaluate.join(tested))


def _mean_worth(worths: list[Worth]) -> Worth:
  return {
    key: None if any(worth[key] is None for worth in worths) else float(np.mean([worth[key] for worth in worths]))
    for key in worths[0]
  }


def best(parts: list[Part]) -> dict[str, Chosen]:
  """Every contender at the setting that is most accurate on development queries."""
  names = [name for name in parts[0].contests if name in CONTENDERS]
  return {
    name: _pick(parts, name, [_most_accurate(_promise(part.contests[name].development)) for part in parts])
    for name in names
  }


def choose(
  promised: dict[str, list[Worth]], references: dict[str, Worth], limit: limits.Limit
) -> tuple[str, int] | None:
  """The rule and the setting that keep a limit on development queries.

  Args:
    promised: What each setting of each rule is worth.
    references: What the best single LLM and all LLMs are worth.
    limit: To be kept.

  Returns:
    The most accurate, or for a target of accuracy the fastest; None where none keeps it.
  """
  if limit.quantity == 'query_seconds':  # kept query by query, whatever the setting
    return 'adaptive', _most_accurate(promised['adaptive'])
  found = {
    name: setting
    for name, worths in promised.items()
    if (setting := limits.choose(limit, worths, references)) is not None
  }
  if not found:
    return None

  def merit(name: str) -> tuple[float, float]:
    worth = promised[name][found[name]]
    accuracy, seconds = worth['accuracy'] or 0.0, worth['seconds'] or worth['usd'] or worth['calls'] or 0.0
    return (-seconds, accuracy) if limit.quantity == 'accuracy' else (accuracy, -seconds)

  name = max(found, key=merit)
  return name, found[name]


def _measured(outcomes: list[evaluate.Outcome], resamples: int) -> list[dict[str, Any]]:
  """What a test gave, with 95 % intervals, of outcomes on the same queries."""
  tests: list[dict[str, Any]] = []
  columns: list[np.ndarray] = []
  for outcome in outcomes:
    test: dict[str, Any] = dict(_worth(evaluate.Outcome(*(array[:, None] for array in outcome)), 0))
    means = {
      'accuracy': outcome.correct, 'seconds': outcome.latency_sequential_s, 'usd': outcome.cost_usd,
      'calls': outcome.calls,
    }  # fmt: skip
    known = {name: np.where(outcome.valid, means[name], 0) for name in means if test[name] is not None}
    tests.append(test | {f'{name}_ci': len(columns) + place for place, name in enumerate(known)})
    columns += known.values()
  valid = np.stack([outcome.valid for outcome in outcomes], 1)
  of_column = [place for place, test in enumerate(tests) for name in test if name.endswith('_ci')]
  intervals = metrics.bootstrap_ci(np.stack(columns, 1), valid[:, of_column], resamples=resamples)
  return [
    {name: [float(bound) for bound in intervals[value]] if name.endswith('_ci') else value for name, value in t.items()}
    for t in tests
  ]


def _p95_interval(outcome: evaluate.Outcome, resamples: int) -> list[float]:
  """The 95 % bootstrap interval of the 95th percentile of latency, calls being parallel."""
  parallel = outcome.latency_parallel_s[outcome.valid]
  drawn = np.random.default_rng(0).choice(parallel, (resamples, len(parallel)))
  return [float(bound) for bound in np.quantile(np.quantile(drawn, 0.95, axis=1), (0.025, 0.975))]


def _versus(outcome: evaluate.Outcome, others: dict[str, evaluate.Outcome]) -> dict[str, dict[str, float]]:
  """Paired tests against others on the same queries: the gain, and its p-value."""
  tests = {
    name: metrics.paired_test(outcome.correct, other.correct, outcome.valid & other.valid)
    for name, other in others.items()
  }
  return {name: {'delta': test.delta, 'p': test.p} for name, test in tests.items()}


def _limit_row(
  parts: list[Part],
  limit: limits.Limit,
  references: dict[str, Any],
  others: dict[str, evaluate.Outcome],
  resamples: int,
) -> dict[str, Any]:
  """What was asked for, what was promised, and what the test gave."""
  row: dict[str, Any] = {'limit': limit.text, 'contender': None, 'setting': None, 'promised': None, 'test': None}
  row |= {'target': None, 'met': None, 'within': None, 'versus': None}
  choices = [choose(part.rules.promised, part.rules.references, limit) for part in parts]
  if any(choice is None for choice in choices):
    return row
  names, settings = zip(*choices, strict=True)  # type: ignore[misc]
  played = [limit.text if limit.quantity == 'query_seconds' else name for name in names]
  picked = [_pick([part], name, [setting]) for part, name, setting in zip(parts, played, settings, strict=True)]
  outcome = evaluate.join([each.outcome for each in picked])
  test = _measured([outcome], resamples)[0]
  if limit.quantity == 'p95_seconds':
    test['p95_seconds_ci'] = _p95_interval(outcome, resamples)
  if limit.quantity == 'query_seconds':
    spent = [
      part.contests[name].expected[:, setting] for part, name, setting in zip(parts, played, settings, strict=True)
    ]
    test['query_seconds'] = float(np.concatenate(spent).max())
  target = limits.target(limit, references)
  met, within = limits.judge(limit, test, target)
  return row | {
    'contender': ', '.join(sorted(set(names))),
    'setting': list(settings),
    'promised': _mean_worth([each.promised for each in picked]),
    'test': test,
    'target': target,
    'met': met,
    'within': within,
    'versus': _versus(outcome, others),
  }


def _p_right(parts: list[Part], chosen: Chosen) -> dict[str, Any]:
  """How far P(the answer is right) can be trusted, and what leaving the least sure queries unanswered brings."""
  sure = np.concatenate(
    [part.contests[chosen.contender].p_right[:, setting] for part, setting in zip(parts, chosen.settings, strict=True)]
  )
  right, valid = chosen.outcome.correct[:, None], chosen.outcome.valid[:, None]
  judged = (right, sure[:, None], valid)
  order = np.argsort(-sure[valid[:, 0]], kind='stable')
  running = np.cumsum(right[valid[:, 0], 0][order], dtype=np.float64) / np.arange(1, len(order) + 1)
  coverage = [[float(share), float(running[max(1, round(share * len(order))) - 1])] for share in _COVERAGE]
  answered = running[max(1, round(0.8 * len(order))) - 1]
  return {
    'contender': chosen.contender,
    'ece': metrics.ece(*judged),
    'brier': metrics.brier(*judged),
    'reliability': {
      name: [_known(value) for value in column] for name, column in metrics.reliability(*judged)._asdict().items()
    },
    'coverage': coverage,
    'abstain_20': {'accuracy': float(answered), 'gain': float(answered - running[-1])},
  }


def _confidences(table: votes.Table, parts: list[Part]) -> dict[str, Any]:
  """ECE and Brier score of each LLM's confidences on test, before and after calibration."""
  labels, observed = (
    np.concatenate([array[part.test] for part in parts]) for array in (table.votes.labels, table.votes.observed)
  )
  before, after = (
    1 / (1 + np.exp(-np.concatenate([getattr(part.development, name)[part.test] for part in parts])))
    for name in ('blended', 'logits')
  )
  rows = {}
  for column, llm in enumerate(table.llms):
    one = slice(column, column + 1)
    kinds = sorted({calibration.KINDS[part.development.estimator.calibrators.kinds[column]] for part in parts})
    rows[llm] = {'kind': ', '.join(kinds)} | {
      when: {
        'ece': metrics.ece(labels[:, one], values[:, one], observed[:, one]),
        'brier': metrics.brier(labels[:, one], values[:, one], observed[:, one]),
      }
      for when, values in (('before', before), ('after', after))
    }
  return rows


def _batch(parts: list[Part], resamples: int) -> list[dict[str, Any]]:
  """What all test queries together reach under one budget, each getting the subset that is worth its price there."""
  rows = []
  for share in _BATCH_BUDGETS:
    promised, tested = [], []
    for part in parts:
      options = part.contests['subset']
      most = share * float(part.rules.expected.sum()) * len(part.test)
      if options.expected.min(1).sum() > most:
        break
      choice = budget.assign(options.p_right, options.expected, most)
      place = np.arange(len(choice))
      promised.append((options.p_right[place, choice].mean(), options.expected[place, choice].mean()))
      tested.append(evaluate.Outcome(*(array[place, choice] for array in options.test)))
    else:
      accuracy, price = np.mean(promised, 0)
      rows.append(
        {
          'budget': share,
          'promised': {'accuracy': float(accuracy), 'price': float(price)},
          'test': _measured([evaluate.join(tested)], resamples)[0],
        }
      )
  return rows


def summarise(
  table: votes.Table, parts: list[Part], chosen: dict[str, Chosen], config: ml_collections.ConfigDict
) -> dict[str, Any]:
  """What the report says of the frontier, see WORKSPACE.md.

  Args:
    table: The data set.
    parts: From `hold`, one for each split.
    chosen: From `best`.
    config: The whole config.
  """
  resamples = config.evaluate.resamples
  currency = currency_of(table.votes, config.frontier.currency)
  together = evaluate.join([part.references for part in parts])
  of_references = [_at(together, place) for place in range(len(REFERENCES))]
  references = dict(zip(REFERENCES, _measured(of_references, resamples), strict=True))
  others = dict(zip(REFERENCES, of_references, strict=True))
  everybody = others | {name: each.outcome for name, each in chosen.items()}
  curves = {}
  for name in chosen:
    count = min(part.contests[name].test.correct.shape[1] for part in parts)
    picked = [_pick(parts, name, [setting] * len(parts)) for setting in range(count)]
    tests = _measured([each.outcome for each in picked], resamples)
    curves[name] = [
      {'setting': setting, 'promised': each.promised, 'test': test}
      for setting, (each, test) in enumerate(zip(picked, tests, strict=True))
    ]
  rule = next((chosen[name] for name in RULES if name in chosen), None)
  return {
    'currency': currency,
    'price_is': table.latency_is if currency == 'seconds' else 'known',
    'references': references,
    'curves': curves,
    'best': {
      name: {
        'settings': each.settings,
        'promised': each.promised,
        'test': _measured([each.outcome], resamples)[0],
        'versus': _versus(each.outcome, others),
      }
      for name, each in chosen.items()
    },
    'limits': [
      _limit_row(parts, limits.parse(text), references, everybody, resamples) for text in config.frontier.limits if rule
    ],
    'p_right': _p_right(parts, rule) if rule else None,
    'confidences': _confidences(table, parts),
    'batch': _batch(parts, resamples) if 'subset' in chosen else [],
  }
