"""Which call comes next, and when to stop."""

import numpy as np
import pytest

from selectllm.data import dataset
from selectllm.selection import adaptive, learned_vote, types


def _queries(count: int = 800, seed: int = 0) -> types.StrategyQueries:
  """A cheap LLM that knows half of the queries (and the classifier which), a second cheap one, and a dear good one."""
  rng = np.random.default_rng(seed)
  easy = rng.random(count) < 0.5
  chance = np.stack([np.where(easy, 0.97, 0.1), np.full(count, 0.5), np.full(count, 0.95)], 1)
  reference = rng.integers(0, 6, count).astype(np.int16)
  right = rng.random(chance.shape) < chance
  wrong = (reference[:, None] + rng.integers(1, 6, chance.shape)) % 6
  price = np.broadcast_to(np.array([1.0, 1.0, 10.0], np.float32), chance.shape)
  return types.StrategyQueries(
    np.log(chance / (1 - chance)).astype(np.float32),
    np.zeros((count, 1), np.float32),
    np.where(right, reference[:, None], wrong).astype(np.int16)[:, :, None],
    np.where(right, reference[:, None], wrong).astype(np.int16),
    np.ones(chance.shape, bool),
    reference[:, None],
    right.astype(np.float32),
    price,
    np.array([1.0, 1.0, 10.0], np.float32),
  )


@pytest.fixture(scope='module')
def fitted() -> tuple[adaptive.Rule, learned_vote.Weights]:
  known = _queries()
  weights = learned_vote.fit(known.logits, known.answers, known.accepted, known.observed, seed=0)
  return adaptive.fit(weights, known, seed=0), weights


def test_it_pays_for_the_dear_llm_where_the_cheap_one_does_not_know(fitted):
  rule, weights = fitted
  asked = _queries(seed=1)
  played = adaptive.replay(rule, weights, asked)
  calls_dear = played.mask[:, :, 2]
  easy = asked.logits[:, 0] > 0
  setting = adaptive.COST_WEIGHTS.index(0.3)
  assert calls_dear[easy, setting].mean() < 0.15
  assert calls_dear[~easy, setting].mean() > 0.85
  right = played.answer == asked.accepted
  assert right[:, setting].mean() > 0.9
  price = (played.mask @ asked.expected_cost).mean(0)
  assert price[setting] < 0.65 * asked.expected_cost.sum()
  # Later operating points cost more, the last calls whoever may still help, and somebody is always called.
  assert price[0] < price[setting] < price[-1]
  assert played.mask.any(-1).all()


def test_answers_that_were_not_asked_for_change_nothing(fitted):
  rule, weights = fitted
  asked = _queries(100, seed=2)
  before = adaptive.replay(rule, weights, asked)
  setting = adaptive.COST_WEIGHTS.index(0.3)
  answers = asked.answers.copy()
  answers[~before.mask[:, setting]] = 31
  hidden = asked._replace(
    answers=answers,
    majority=dataset.majorities(answers),
    accepted=np.full((100, 1), -2, np.int16),
    labels=asked.labels * np.nan,
    cost=asked.cost * np.nan,
  )
  after = adaptive.replay(rule, weights, hidden)
  for field in ('mask', 'answer', 'p_right'):
    np.testing.assert_array_equal(getattr(before, field)[:, setting], getattr(after, field)[:, setting])


def test_who_cannot_be_called_never_is(fitted):
  rule, weights = fitted
  asked = _queries(100, seed=3)
  for lacking in range(3):
    observed = np.ones((100, 3), bool)
    observed[:, lacking] = False
    played = adaptive.replay(rule, weights, asked._replace(observed=observed))
    assert not played.mask[:, :, lacking].any()
    assert played.mask.any(-1).all()
  nobody = adaptive.replay(rule, weights, asked._replace(observed=np.zeros((100, 3), bool)))
  assert not nobody.mask.any()
  assert (nobody.answer == -1).all()


def test_no_query_is_expected_to_exceed_its_budget(fitted):
  rule, weights = fitted
  asked = _queries(100, seed=4)
  played = adaptive.replay(rule, weights, asked, budget=10.5)
  assert (played.mask @ asked.expected_cost).max() <= 10.5
  assert played.mask.any(-1).all()


def test_deciding_step_by_step_does_what_the_replay_did(fitted):
  rule, weights = fitted
  asked = _queries(30, seed=5)
  played = adaptive.replay(rule, weights, asked)
  setting = adaptive.COST_WEIGHTS.index(0.5)
  for row in range(30):
    called = np.zeros(3, bool)
    stages = np.zeros(3, int)
    for stage in range(4):
      known = np.where(called[:, None], asked.answers[row], -1)  # nobody else has said anything yet
      state = adaptive.decide(
        rule, weights, setting, asked.logits[row], learned_vote.count_votes(known), called, np.ones(3, bool),
        asked.expected_cost, np.inf,
      )  # fmt: skip
      if state.action < 0:
        break
      stages[rule.actions[state.action]] = stage
      called = called | rule.actions[state.action]
    np.testing.assert_array_equal(called, played.mask[row, setting])
    np.testing.assert_array_equal(stages[called], played.stage[row, setting][called])
    assert int(state.found.answer) == played.answer[row, setting]


def test_two_at_once_take_fewer_stages(fitted):
  _, weights = fitted
  known = _queries()
  rule = adaptive.fit(weights, known, seed=0, at_once=2, parallel=True)
  assert rule.actions.shape == (6, 3)
  played = adaptive.replay(rule, weights, _queries(100, seed=6))
  together = np.sum(played.mask & (played.stage == 0), -1)
  assert together.max() == 2
  assert np.where(played.mask, played.stage, 0).max() <= 2


def test_of_a_large_pool_those_are_kept_that_do_best_together():
  rng = np.random.default_rng(0)
  count, pool = 300, adaptive.MOST_LLMS[1] + 2
  chance = np.linspace(0.3, 0.8, pool)
  reference = rng.integers(0, 6, count).astype(np.int16)
  right = rng.random((count, pool)) < chance
  answers = np.where(right, reference[:, None], (reference[:, None] + rng.integers(1, 6, right.shape)) % 6)
  known = types.StrategyQueries(
    np.broadcast_to(np.log(chance / (1 - chance)), right.shape).astype(np.float32), np.zeros((count, 1)),
    answers.astype(np.int16)[:, :, None], answers.astype(np.int16), np.ones(right.shape, bool), reference[:, None],
    right.astype(np.float32), np.ones(right.shape, np.float32), np.ones(pool, np.float32),
  )  # fmt: skip
  weights = learned_vote.bayes(pool)
  llms = adaptive.shortlist(weights, known, 4)
  assert len(llms) == 4
  assert pool - 1 in llms
