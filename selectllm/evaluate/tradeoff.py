"""What the strategies of `selectllm.evaluate.strategies` estimated on development queries, and what the test gave."""

from typing import Any, NamedTuple

import ml_collections
import numpy as np

from selectllm.data import dataset
from selectllm.evaluate import metrics, replay, statistics, strategies
from selectllm.selection import batch_budget, calibration, constraints

_COVERAGE = np.linspace(0.05, 1, 20)
_BATCH_BUDGETS = (0.05, 0.1, 0.2, 0.35, 0.5)


def _at(outcome: replay.QueryMetrics, setting: int) -> replay.QueryMetrics:
  return replay.QueryMetrics(*(array[:, setting] for array in outcome))


class Chosen(NamedTuple):
  """A strategy at the setting chosen in each of P splits.

  Attributes:
    strategy: Its name.
    settings: P of them.
    estimated: Means over the splits of what was estimated.
    outcome: On all test queries.
  """

  strategy: str
  settings: list[int]
  estimated: strategies.MeanMetrics
  outcome: replay.QueryMetrics


def _pick(parts: list[strategies.FoldResult], name: str, settings: list[int]) -> Chosen:
  worth = [
    strategies.mean_metrics(part.contests[name].development, setting)
    for part, setting in zip(parts, settings, strict=True)
  ]
  tested = [_at(part.contests[name].test, setting) for part, setting in zip(parts, settings, strict=True)]
  return Chosen(name, settings, _mean_worth(worth), replay.concatenate(tested))


def _mean_worth(worths: list[strategies.MeanMetrics]) -> strategies.MeanMetrics:
  return {
    key: None if any(worth[key] is None for worth in worths) else float(np.mean([worth[key] for worth in worths]))
    for key in worths[0]
  }


def best(parts: list[strategies.FoldResult]) -> dict[str, Chosen]:
  """Every strategy at the setting that is most accurate on development queries."""
  names = [name for name in parts[0].contests if name in strategies.STRATEGIES]
  return {
    name: _pick(
      parts,
      name,
      [strategies.most_accurate(strategies.mean_metrics_by_setting(part.contests[name].development)) for part in parts],
    )
    for name in names
  }


def _measured(outcomes: list[replay.QueryMetrics], resamples: int) -> list[dict[str, Any]]:
  """What a test gave, with 95 % intervals, of outcomes on the same queries."""
  tests: list[dict[str, Any]] = []
  columns: list[np.ndarray] = []
  for outcome in outcomes:
    test: dict[str, Any] = dict(strategies.mean_metrics(replay.QueryMetrics(*(array[:, None] for array in outcome)), 0))
    means = {
      'accuracy': outcome.correct, 'seconds': outcome.latency_sequential_s, 'usd': outcome.cost_usd,
      'calls': outcome.calls,
    }  # fmt: skip
    known = {name: np.where(outcome.valid, means[name], 0) for name in means if test[name] is not None}
    tests.append(test | {f'{name}_ci': len(columns) + place for place, name in enumerate(known)})
    columns += known.values()
  valid = np.stack([outcome.valid for outcome in outcomes], 1)
  of_column = [place for place, test in enumerate(tests) for name in test if name.endswith('_ci')]
  intervals = statistics.bootstrap_ci(np.stack(columns, 1), valid[:, of_column], resamples=resamples)
  return [
    {name: [float(bound) for bound in intervals[value]] if name.endswith('_ci') else value for name, value in t.items()}
    for t in tests
  ]


def _p95_interval(outcome: replay.QueryMetrics, resamples: int) -> list[float]:
  """The 95 % bootstrap interval of the 95th percentile of latency, calls being parallel."""
  parallel = outcome.latency_parallel_s[outcome.valid]
  drawn = np.random.default_rng(0).choice(parallel, (resamples, len(parallel)))
  return [float(bound) for bound in np.quantile(np.quantile(drawn, 0.95, axis=1), (0.025, 0.975))]


def _versus(outcome: replay.QueryMetrics, others: dict[str, replay.QueryMetrics]) -> dict[str, dict[str, float]]:
  """Paired tests against others on the same queries: the gain, and its p-value."""
  tests = {
    name: statistics.paired_test(outcome.correct, other.correct, outcome.valid & other.valid)
    for name, other in others.items()
  }
  return {name: {'delta': test.delta, 'p': test.p} for name, test in tests.items()}


def _limit_row(
  parts: list[strategies.FoldResult],
  limit: constraints.Constraint,
  references: dict[str, Any],
  others: dict[str, replay.QueryMetrics],
  resamples: int,
) -> dict[str, Any]:
  """What was asked for, what was estimated, and what the test gave."""
  row: dict[str, Any] = {
    'constraint': limit.text,
    'strategy': None,
    'operating_points': None,
    'estimated': None,
    'measured': None,
  }
  row |= {'target': None, 'met': None, 'within': None, 'versus': None}
  choices = [strategies.choose(part.rules.estimated, part.rules.references, limit) for part in parts]
  if any(choice is None for choice in choices):
    return row
  played, settings = zip(*choices, strict=True)  # type: ignore[misc]
  picked = [_pick([part], name, [setting]) for part, name, setting in zip(parts, played, settings, strict=True)]
  outcome = replay.concatenate([each.outcome for each in picked])
  test = _measured([outcome], resamples)[0]
  if limit.quantity == 'p95_seconds':
    test['p95_seconds_ci'] = _p95_interval(outcome, resamples)
  if limit.quantity == 'query_seconds':
    spent = [
      part.contests[name].expected[:, setting] for part, name, setting in zip(parts, played, settings, strict=True)
    ]
    test['query_seconds'] = float(np.concatenate(spent).max())
  target = constraints.target(limit, references)
  unknown = limit.quantity != 'none' and (target is None or test.get(limit.quantity) is None)
  met, within = (None, None) if unknown else constraints.judge(limit, test, target)
  return row | {
    'strategy': ', '.join(sorted({'adaptive' if name == limit.text else name for name in played})),
    'operating_points': list(settings),
    'estimated': _mean_worth([each.estimated for each in picked]),
    'measured': test,
    'target': target,
    'met': met,
    'within': within,
    'versus': _versus(outcome, others),
  }


def _p_right(parts: list[strategies.FoldResult], chosen: Chosen) -> dict[str, Any]:
  """How far P(the answer is right) can be trusted, and what leaving the least sure queries unanswered brings."""
  sure = np.concatenate(
    [part.contests[chosen.strategy].p_right[:, setting] for part, setting in zip(parts, chosen.settings, strict=True)]
  )
  right, valid = chosen.outcome.correct[:, None], chosen.outcome.valid[:, None]
  judged = (right, sure[:, None], valid)
  order = np.argsort(-sure[valid[:, 0]], kind='stable')
  running = np.cumsum(right[valid[:, 0], 0][order], dtype=np.float64) / np.arange(1, len(order) + 1)
  coverage = [[float(share), float(running[max(1, round(share * len(order))) - 1])] for share in _COVERAGE]
  answered = running[max(1, round(0.8 * len(order))) - 1]
  return {
    'strategy': chosen.strategy,
    'ece': metrics.ece(*judged),
    'brier': metrics.brier(*judged),
    'reliability': {
      name: [strategies.known_or_none(value) for value in column]
      for name, column in metrics.reliability(*judged)._asdict().items()
    },
    'coverage': coverage,
    'abstain_20': {'accuracy': float(answered), 'gain': float(answered - running[-1])},
  }


def _confidences(data: dataset.Dataset, parts: list[strategies.FoldResult]) -> dict[str, Any]:
  """ECE and Brier score of each LLM's confidences on test, before and after calibration."""
  labels, observed = (
    np.concatenate([array[part.test] for part in parts]) for array in (data.responses.labels, data.responses.observed)
  )
  before, after = (
    1 / (1 + np.exp(-np.concatenate([getattr(part.development, name)[part.test] for part in parts])))
    for name in ('blended', 'logits')
  )
  rows = {}
  for column, llm in enumerate(data.llms):
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


def _batch(parts: list[strategies.FoldResult], resamples: int) -> list[dict[str, Any]]:
  """What all test queries together reach under one budget, each getting the subset that is worth its price there."""
  rows = []
  for share in _BATCH_BUDGETS:
    estimated, tested = [], []
    for part in parts:
      options = part.contests['subset']
      most = share * float(part.rules.expected.sum()) * len(part.test)
      if options.expected.min(1).sum() > most:
        break
      choice = batch_budget.assign(options.p_right, options.expected, most)
      place = np.arange(len(choice))
      estimated.append((options.p_right[place, choice].mean(), options.expected[place, choice].mean()))
      tested.append(replay.QueryMetrics(*(array[place, choice] for array in options.test)))
    else:
      accuracy, price = np.mean(estimated, 0)
      rows.append(
        {
          'budget': share,
          'estimated': {'accuracy': float(accuracy), 'cost': float(price)},
          'measured': _measured([replay.concatenate(tested)], resamples)[0],
        }
      )
  return rows


def summarise(
  data: dataset.Dataset,
  parts: list[strategies.FoldResult],
  chosen: dict[str, Chosen],
  config: ml_collections.ConfigDict,
) -> dict[str, Any]:
  """What the report says of the tradeoff, see WORKSPACE.md.

  Args:
    data: The data set.
    parts: From `hold`, one for each split.
    chosen: From `best`.
    config: The whole config.
  """
  resamples = config.evaluate.resamples
  cost_unit = strategies.cost_unit_of(data.responses, config.tradeoff.cost_unit)
  together = replay.concatenate([part.references for part in parts])
  of_references = [_at(together, place) for place in range(len(constraints.REFERENCES))]
  references = dict(zip(constraints.REFERENCES, _measured(of_references, resamples), strict=True))
  others = dict(zip(constraints.REFERENCES, of_references, strict=True))
  everybody = others | {name: each.outcome for name, each in chosen.items()}
  curves = {}
  for name in chosen:
    count = min(part.contests[name].test.correct.shape[1] for part in parts)
    picked = [_pick(parts, name, [setting] * len(parts)) for setting in range(count)]
    tests = _measured([each.outcome for each in picked], resamples)
    curves[name] = [
      {'operating_point': setting, 'estimated': each.estimated, 'measured': test}
      for setting, (each, test) in enumerate(zip(picked, tests, strict=True))
    ]
  rule = next((chosen[name] for name in strategies.RULES if name in chosen), None)
  return {
    'cost_unit': cost_unit,
    'cost_is': data.latency_is if cost_unit == 'seconds' else 'known',
    'references': references,
    'curves': curves,
    'best': {
      name: {
        'operating_points': each.settings,
        'estimated': each.estimated,
        'measured': _measured([each.outcome], resamples)[0],
        'versus': _versus(each.outcome, others),
      }
      for name, each in chosen.items()
    },
    'constraints': [
      _limit_row(parts, constraints.parse(text), references, everybody, resamples)
      for text in config.tradeoff.limits
      if rule
    ],
    'p_right': _p_right(parts, rule) if rule else None,
    'confidences': _confidences(data, parts),
    'batch_budgets': _batch(parts, resamples) if 'subset' in chosen else [],
  }
