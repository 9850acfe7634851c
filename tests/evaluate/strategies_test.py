"""The trade-off: estimated on fitting queries, and measured on test queries."""

import json

import msgspec
import numpy as np
import pytest

from selectllm.data import dataset, splits
from selectllm.evaluate import options, replay, results, strategies, tradeoff
from selectllm.selection import adaptive, confidence, constraints, types

LLMS = ('cheap', 'middling', 'dear')


def _table(count: int = 400, seed: int = 0) -> tuple[dataset.Dataset, np.ndarray, confidence.Confidences, np.ndarray]:
  """Three LLMs on queries of two kinds, which the embeddings tell apart: table, split, estimates, embeddings."""
  rng = np.random.default_rng(seed)
  kind = rng.integers(0, 2, count)
  chance = np.stack([np.where(kind, 0.9, 0.2), np.full(count, 0.6), np.full(count, 0.85)], 1)
  reference = rng.integers(0, 6, count).astype(np.int16)
  right = rng.random(chance.shape) < chance
  answers = np.where(right, reference[:, None], (reference[:, None] + rng.integers(1, 6, chance.shape)) % 6)
  data = dataset.Responses(
    answers=answers.astype(np.int16)[:, :, None],
    majority=answers.astype(np.int16),
    accepted=reference[:, None],
    labels=right.astype(np.float32),
    observed=np.ones(chance.shape, bool),
    latency_s=np.broadcast_to(np.array([1, 2, 10], np.float32), chance.shape).copy(),
    cost_usd=np.full(chance.shape, np.nan, np.float32),
    completion_tokens=rng.integers(20, 90, chance.shape).astype(np.float32),
    task=np.zeros(count, np.int16),
  )
  queries = [f'How many eggs are {place} and {"two" if k else "3"}?' for place, k in enumerate(kind)]
  table = dataset.Dataset('sums', LLMS, ('sums',), [str(q) for q in range(count)], queries, data, 'measured')
  table = table._replace(answers=[tuple('012345')] * count)
  split = np.repeat(np.array([0, 0, 1, 2], np.int8), count // 4)
  embeddings = np.eye(2, dtype=np.float32)[kind]
  return table, split, _estimates(table, split, embeddings), embeddings


def _estimates(table: dataset.Dataset, split: np.ndarray, embeddings: np.ndarray) -> confidence.Confidences:
  responses = table.responses
  return confidence.fit(table.queries, embeddings, responses.labels, responses.observed, split, seed=0)


def _options(
  *strategies: str, limits: tuple[str, ...] = ('none',), cost_unit: str = 'compute_seconds'
) -> options.TradeoffOptions:
  return options.TradeoffOptions(cost_unit, strategies, limits, resamples=100)


@pytest.fixture(scope='module')
def fitted():
  """A table, its split, estimates and embeddings, and what `adaptive` and `chain` reach on it."""
  made = _table()
  return *made, strategies.fit_and_replay(*made, _options('adaptive', 'chain'))


def _builtins(summary: results.Tradeoff) -> dict:
  return json.loads(json.dumps(msgspec.to_builtins(summary), allow_nan=False))


def test_test_labels_change_what_is_counted_and_nothing_that_is_done():
  table, split, estimates, embeddings = _table()
  wanted = _options('learned_vote', 'adaptive', 'subset', 'chain', 'knn_router')
  before = strategies.fit_and_replay(table, split, estimates, embeddings, wanted)
  test = split == splits.TEST
  data = table.responses
  swapped = data._replace(
    labels=np.where(test[:, None], 1 - data.labels, data.labels),
    accepted=np.where(test[:, None], (data.accepted + 1) % 6, data.accepted).astype(np.int16),
  )
  table = table._replace(responses=swapped)
  after = strategies.fit_and_replay(table, split, _estimates(table, split, embeddings), embeddings, wanted)
  for name, held in before.strategies.items():
    np.testing.assert_array_equal(held.expected_cost, after.strategies[name].expected_cost, err_msg=name)
    np.testing.assert_array_equal(held.fitting.correct, after.strategies[name].fitting.correct, err_msg=name)
    assert not np.array_equal(held.test.correct, after.strategies[name].test.correct), name
  assert before.rules.estimated == after.rules.estimated


def test_the_summary_holds_promises_against_the_test():
  table, split, estimates, embeddings = _table()
  limits = (
    'none', 'compute_seconds<=60%', 'wall_seconds<=60%', 'accuracy>=best_single', 'accuracy>=0.999',
    'query_compute_seconds<=4', 'p95_wall_seconds<=13',
  )  # fmt: skip
  wanted = _options(*strategies.STRATEGIES, limits=limits)
  part = strategies.fit_and_replay(table, split, estimates, embeddings, wanted)
  chosen = tradeoff.best([part])
  summary = _builtins(tradeoff.summarise(table, [part], chosen, wanted))
  assert summary['cost_unit'] == 'compute_seconds'
  assert set(summary['curves']) == set(strategies.STRATEGIES)
  rows = {row['constraint']: row for row in summary['constraints']}
  assert rows['none']['measured']['accuracy'] > summary['references']['all_llms']['accuracy'] - 0.1
  assert rows['compute_seconds<=60%']['estimated']['compute_seconds'] <= 0.6 * 13
  limited, everybody = rows['wall_seconds<=60%'], summary['references']['all_llms']
  assert limited['target'] == pytest.approx(0.6 * everybody['wall_seconds'])
  assert limited['met'] == (limited['measured']['wall_seconds'] <= limited['target'])
  assert limited['measured']['wall_seconds_ci'][0] < limited['measured']['wall_seconds']
  assert rows['accuracy>=0.999']['operating_points'] is None
  assert rows['query_compute_seconds<=4']['measured']['compute_seconds'] <= 4
  assert rows['query_compute_seconds<=4']['measured']['query_compute_seconds'] <= 4
  assert rows['query_compute_seconds<=4']['met']
  assert rows['p95_wall_seconds<=13']['measured']['p95_wall_seconds_ci'][0] <= 13
  low, high = rows['none']['measured']['accuracy_ci']
  assert low <= rows['none']['measured']['accuracy'] <= high
  coverage = dict(map(tuple, summary['p_right']['coverage']))
  assert coverage[1.0] == pytest.approx(rows['none']['measured']['accuracy'], abs=0.05)
  assert summary['p_right']['abstain_20']['gain'] >= 0
  assert set(summary['confidences']) == set(LLMS)
  for row in summary['batch_budgets']:
    assert row['estimated']['cost'] <= row['budget'] * 13 + 1e-4


def test_accounts_add_stages_and_take_the_slowest_of_each():
  table, *_ = _table(4)
  mask = np.array([[[True, True, False]], [[True, False, True]], [[False] * 3], [[True, True, True]]])
  stage = np.array([[[0, 0, 0]], [[0, 0, 1]], [[0, 0, 0]], [[1, 0, 0]]], np.int8)
  answer = np.full((4, 1), -1, np.int16)
  answer[0] = table.responses.accepted[0, 0]
  outcome = replay.replay_decisions(table.responses, types.Decisions(mask, answer, np.ones((4, 1)), stage))
  np.testing.assert_array_equal(outcome.wall_clock_s[:, 0], [2, 11, 0, 11])
  np.testing.assert_array_equal(outcome.compute_s[:, 0], [3, 11, 0, 13])
  np.testing.assert_array_equal(outcome.valid[:, 0], [True, True, False, True])
  np.testing.assert_array_equal(outcome.correct[:, 0], [1, 0, 0, 0])
  np.testing.assert_array_equal(outcome.calls[:, 0], [2, 2, 0, 3])


def test_calls_are_paid_in_what_is_known():
  data = _table()[0].responses
  assert options.cost_unit_of(data, '') == 'compute_seconds'
  unknown = data._replace(latency_s=data.latency_s * np.nan)
  assert options.cost_unit_of(unknown, '') == 'calls'
  assert options.cost_unit_of(unknown._replace(cost_usd=data.latency_s), '') == 'usd'
  with pytest.raises(ValueError, match=r"config\.tradeoff\.cost_unit='usd'"):
    options.cost_unit_of(data, 'usd')


def test_two_splits_are_counted_together():
  table, split, estimates, embeddings = _table()
  wanted = _options('adaptive', limits=('compute_seconds<=60%',))
  parts = [strategies.fit_and_replay(table, each, estimates, embeddings, wanted) for each in (split, split)]
  summary = _builtins(tradeoff.summarise(table, parts, tradeoff.best(parts), wanted))
  alone = _builtins(tradeoff.summarise(table, parts[:1], tradeoff.best(parts[:1]), wanted))
  assert len(summary['constraints'][0]['operating_points']) == 2
  assert summary['constraints'][0]['measured']['accuracy'] == pytest.approx(
    alone['constraints'][0]['measured']['accuracy']
  )
  assert isinstance(parts[0].strategies['adaptive'].test, replay.QueryMetrics)


def test_what_a_selector_holds_is_played_whoever_contends():
  table, split, estimates, embeddings = _table()
  part = strategies.fit_and_replay(table, split, estimates, embeddings, _options('learned_vote'))
  assert list(part.rules.rules) == ['adaptive']
  assert list(part.rules.estimated) == ['adaptive', *(f'single:{llm}' for llm in LLMS), 'all_llms', 'static_weighted']


def test_limits_that_nothing_can_keep_or_judge_are_said_not_raised():
  table, split, estimates, embeddings = _table()
  unknown = table.responses.latency_s.copy()
  unknown[np.flatnonzero(split == splits.TEST)[0]] = np.nan
  table = table._replace(responses=table.responses._replace(latency_s=unknown))
  limits, cost_unit = ('query_compute_seconds<=0.5', 'compute_seconds<=100%'), options.cost_unit_of(table.responses, '')
  wanted = _options('adaptive', limits=limits, cost_unit=cost_unit)
  parts = [strategies.fit_and_replay(table, split, estimates, embeddings, wanted)]
  rows = {
    row['constraint']: row
    for row in _builtins(tradeoff.summarise(table, parts, tradeoff.best(parts), wanted))['constraints']
  }
  assert rows['query_compute_seconds<=0.5']['operating_points'] is None
  assert rows['compute_seconds<=100%']['met'] is None


def test_a_limit_never_takes_more_than_the_cheapest_single_llm_that_keeps_it():
  table, split, _, embeddings = _table()
  limits = ('accuracy>=best_single', 'accuracy>=0.4', 'compute_seconds<=1', 'none')
  wanted = _options('adaptive', limits=limits)
  part = strategies.fit_and_replay(table, split, _estimates(table, split, embeddings), embeddings, wanted)
  rules = part.rules
  for text in limits[:2]:
    limit = constraints.parse(text)
    name, point = strategies.choose(rules, limit)
    keeping = [
      of[0].means['compute_seconds']
      for single, of in rules.estimated.items()
      if strategies.is_single(single)
      and constraints.margin(limit, of[0], rules.references, confidence=0.9, horizon=rules.horizon) >= -1e-9
    ]
    assert keeping  # the best single LLM reaches its own accuracy, whatever the noise
    assert rules.estimated[name][point].means['compute_seconds'] <= min(keeping) + 1e-6
  summary = tradeoff.summarise(table, [part], tradeoff.best([part]), wanted)
  rows = {row.constraint: row for row in summary.constraints}
  assert rows['compute_seconds<=1'].measured.compute_seconds == 1  # the cheap one, which always takes that, alone
  assert rows['compute_seconds<=1'].met


def test_the_votes_of_all_keep_what_they_themselves_are_the_reference_of(fitted):
  table, split, _, _, part = fitted
  for name in strategies.VOTES_OF_ALL:
    estimated = {name: part.rules.estimated[name]}
    for text in (f'accuracy>={name}', 'none'):
      limit = constraints.parse(text)
      assert strategies.choose(part.rules._replace(estimated=estimated), limit) == (name, 0)
  everybody = part.strategies['all_llms'].test
  calls = np.full((int(np.sum(split == splits.TEST)), 1), len(LLMS))
  np.testing.assert_array_equal(everybody.calls, calls)
  np.testing.assert_array_equal(everybody.wall_clock_s, calls * 0 + 10)
  majority = table.responses.majority[part.test_rows]
  agree = (majority[:, :, None] == majority[:, None]).sum(1)  # how many say what each says
  clear, place = (agree > 1).any(1), agree.argmax(1)
  voted = np.take_along_axis(majority, place[:, None], 1) == table.responses.accepted[part.test_rows]
  np.testing.assert_array_equal(everybody.correct[clear], voted[clear])


def test_an_llm_that_few_queries_know_is_no_operating_point_and_neither_is_the_vote_of_all():
  table, split, _, embeddings = _table()
  observed = table.responses.observed.copy()
  observed[np.flatnonzero(split != splits.TEST)[30:], 2] = False  # asked for 30 queries
  table = table._replace(responses=table.responses._replace(observed=observed))
  part = strategies.fit_and_replay(
    table, split, _estimates(table, split, embeddings), embeddings, _options('adaptive', limits=('none',))
  )
  assert list(part.rules.estimated) == ['adaptive', 'single:cheap', 'single:middling']
  assert set(part.rules.references) == set(constraints.REFERENCES)  # these are still known on what was observed


def test_what_the_calls_of_a_rule_take_is_estimated_by_the_rule_that_plays(fitted):
  table, split, estimates, embeddings, part = fitted
  queries = strategies.queries_of(table, estimates, embeddings, split, 'compute_seconds').rows(part.fitting_rows)
  played = adaptive.replay(part.rules.rules['adaptive'], part.rules.weights, strategies._hidden(queries))
  costs = replay.replay_decisions(table.responses.rows(part.fitting_rows), played)
  estimated = part.strategies['adaptive'].fitting
  for name in ('calls', 'wall_clock_s', 'compute_s'):
    np.testing.assert_array_equal(getattr(estimated, name), getattr(costs, name))
  assert not np.array_equal(estimated.correct, costs.correct)  # that is held out


def test_reports_name_the_baselines_that_are_played():
  assert tuple(strategies.BASELINES) == results.BASELINES  # reports know no JAX, and so not the strategies
