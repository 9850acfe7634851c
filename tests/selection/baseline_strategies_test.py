"""Routers and cascades: what all of them must do."""

import numpy as np
import pytest

from selectllm.selection import cascades, operating_points, routers, types, voting
from tests.helpers import strategy_queries

STRATEGIES = {**cascades.STRATEGIES, **routers.STRATEGIES}
NAMES = tuple(STRATEGIES)
ROUTERS = ('knn_router', 'mf_router')


def _same(one: types.Decisions, other: types.Decisions) -> None:
  np.testing.assert_array_equal(one.mask, other.mask)
  np.testing.assert_array_equal(one.answer, other.answer)
  np.testing.assert_array_equal(one.p_right, other.p_right)
  np.testing.assert_array_equal(np.where(one.mask, one.stage, 0), np.where(other.mask, other.stage, 0))


def _cost(decisions: types.Decisions) -> np.ndarray:
  return (decisions.mask @ strategy_queries.COST).mean(0)


@pytest.mark.parametrize('name', NAMES)
def test_only_llms_that_can_be_called_are_called_and_only_they_are_heard(name):
  train, test = strategy_queries.topics(0, 300, missing=0.3), strategy_queries.topics(1, 80, missing=0.3)
  test.observed[:3], test.observed[3:6] = False, [True, False, False, False]
  decisions = STRATEGIES[name](train, strategy_queries.hide(test), seed=0)
  points = len(operating_points.COST_WEIGHTS)
  assert decisions.mask.shape == decisions.stage.shape == (80, points, 4)
  assert decisions.answer.shape == decisions.p_right.shape == (80, points)
  assert (decisions.answer.dtype, decisions.p_right.dtype, decisions.stage.dtype) == (np.int16, np.float32, np.int8)
  assert not (decisions.mask & ~test.observed[:, None]).any()
  assert not decisions.mask[:3].any()
  assert (decisions.answer[:3] == voting.NO_ANSWER).all()
  assert (decisions.mask.any(-1) == test.observed.any(1)[:, None]).all()
  assert (decisions.mask[3:6] == [True, False, False, False]).all()
  heard = (decisions.mask & (test.answers[:, None, :, 0] == decisions.answer[..., None])).any(-1)
  assert (heard | (decisions.answer == voting.NO_ANSWER)).all()


@pytest.mark.parametrize('name', NAMES)
def test_what_only_the_future_tells_changes_nothing(name):
  train, test = strategy_queries.topics(0, 300), strategy_queries.topics(1, 60)
  rng = np.random.default_rng(2)
  honest = STRATEGIES[name](train, strategy_queries.hide(test), seed=0)
  told = test._replace(cost=rng.random(test.cost.shape).astype(np.float32))
  _same(honest, STRATEGIES[name](train, told, seed=0))
  for point in (0, 7, 13, 19):
    uncalled = ~honest.mask[:, point, :, None]
    other = np.where(uncalled, rng.integers(-1, 13, test.answers.shape), test.answers).astype(np.int16)
    features = np.where(uncalled, 9, test.features).astype(np.float32)
    hidden = strategy_queries.hide(test)._replace(answers=other, majority=other[..., 0], features=features)
    decisions = STRATEGIES[name](train, hidden, seed=0)
    _same(*(types.Decisions(*(array[:, [point]] for array in each)) for each in (honest, decisions)))


@pytest.mark.parametrize('name', NAMES)
def test_settings_go_from_the_cheapest_llm_to_more_accurate_and_dearer_choices(name):
  train = strategy_queries.topics(0, 600)
  decisions = STRATEGIES[name](train, strategy_queries.hide(train), seed=0)
  cost = _cost(decisions)
  # Clusters are chosen on a part of the queries and fitted anew on all, so that their prices move a little.
  assert (np.diff(cost) >= (-0.05 * strategy_queries.COST.sum() if name == 'clusters' else -1e-6)).all()
  assert cost[0] == strategy_queries.COST[0]
  right = (decisions.answer == train.accepted).mean(0)
  assert right[-1] > 0.85 > 0.45 > right[0]


@pytest.mark.parametrize('name', NAMES)
def test_the_same_seed_plays_the_same(name):
  train, test = strategy_queries.topics(0, 200), strategy_queries.hide(strategy_queries.topics(1, 50))
  _same(*(STRATEGIES[name](train, test, seed=3) for _ in range(2)))


@pytest.mark.parametrize('name', NAMES)
def test_a_price_that_is_not_known_is_the_expected_one(name):
  train, test = strategy_queries.topics(0, 200), strategy_queries.hide(strategy_queries.topics(1, 50))
  forgotten = train._replace(cost=np.where(np.arange(200)[:, None] % 3 == 0, np.nan, train.cost))
  _same(*(STRATEGIES[name](each, test, seed=0) for each in (train, forgotten)))


@pytest.mark.parametrize('name', NAMES)
def test_two_llms_are_a_pool_and_may_be_free(name):
  rng = np.random.default_rng(0)
  train = strategy_queries.make(rng.random((120, 2)) < [0.3, 0.8], np.float32([0, 0]), 0)
  decisions = STRATEGIES[name](train, strategy_queries.hide(train), seed=0)
  assert (decisions.answer[:, -1] == train.accepted[:, 0]).mean() > 0.7


@pytest.mark.parametrize('name', [*ROUTERS, 'clusters'])
def test_at_no_price_the_llm_that_is_best_at_a_topic_is_called(name):
  train, test = strategy_queries.topics(0, 1200), strategy_queries.topics(1, 200)
  decisions = STRATEGIES[name](train, strategy_queries.hide(test), seed=0)
  topic = test.embeddings[:, :2].argmax(1)
  best = strategy_queries.ACCURACY.argmax(1)[topic]
  assert decisions.mask[np.arange(200), -1, best].mean() > 0.95
  if name in ROUTERS:
    assert (decisions.mask.sum(-1) == 1).all()
    assert (decisions.stage == 0).all()
    # It says how likely the answer is right.
    assert np.abs(decisions.p_right[:, -1] - strategy_queries.ACCURACY.max(1)[topic]).mean() < 0.1


@pytest.mark.slow
def test_one_start_of_a_factorisation_is_not_the_last_word(monkeypatch):
  """The mean of several differs less from seed to seed."""
  train, test = strategy_queries.topics(0, 150), strategy_queries.hide(strategy_queries.topics(1, 80))

  def spread() -> float:
    played = [routers.mf_router(train, test, seed=seed) for seed in range(4)]
    return float(np.std([each.p_right[:, 0] for each in played], 0).mean())

  mean = spread()
  monkeypatch.setattr(routers, '_FITS', 1)
  assert mean < 0.7 * spread()
