import functools

import jax
import numpy as np
import pytest

from selectllm.data import dataset
from selectllm.selection import subset_router, types, voting


def _unit(rng, *shape) -> np.ndarray:
  vectors = rng.normal(size=shape).astype(np.float32)
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _queries(embeddings, answers, expected, observed=None) -> types.StrategyQueries:
  """Queries whose right answer is 0, with confidences that tell nothing."""
  observed = np.ones(answers.shape, bool) if observed is None else observed
  answers = np.where(observed, answers, voting.NO_ANSWER).astype(np.int16)[..., None]
  expected = np.float32(expected)
  return types.StrategyQueries(
    logits=np.zeros(observed.shape, np.float32),
    embeddings=np.asarray(embeddings, np.float32),
    answers=answers,
    majority=dataset.majorities(answers),
    observed=observed,
    accepted=np.zeros((len(observed), 1), np.int16),
    labels=(answers[..., 0] == 0).astype(np.float32),
    cost=np.broadcast_to(expected, observed.shape),
    expected_cost=expected,
  )


def _as_asked(queries: types.StrategyQueries) -> types.StrategyQueries:
  unknown = np.full(queries.observed.shape, np.nan, np.float32)
  return queries._replace(accepted=np.full((len(unknown), 1), -2, np.int16), labels=unknown, cost=unknown)


def _random(seed: int, queries: int, llms: int, missing: float = 0.1) -> types.StrategyQueries:
  rng = np.random.default_rng(seed)
  wrong = rng.random((queries, llms)) > np.linspace(0.4, 0.8, llms)
  answers = np.where(wrong, rng.integers(1, 4, wrong.shape), 0)
  observed = rng.random(wrong.shape) > missing
  found = _queries(_unit(rng, queries, 6), answers, np.linspace(1, 3, llms) ** 2, observed)
  return found._replace(logits=rng.normal(size=wrong.shape).astype(np.float32))


def test_elected_answers_are_those_of_the_vote():
  rng = np.random.default_rng(0)
  members = rng.random((40, 5)) < 0.5
  price = np.float32([3, 1, 4, 1.5, 9])
  vote = jax.jit(jax.vmap(functools.partial(voting.vote, priority=price), in_axes=(None, 0, None)))
  for _ in range(30):
    answers = rng.integers(-1, 3, 5)
    weight = rng.integers(1, 4, 5).astype(np.float32)  # small whole numbers, so that votes tie
    expected = vote(answers[:, None], members, weight)
    np.testing.assert_array_equal(subset_router.elect(members, answers, weight, price), expected)


def test_a_vote_of_little_worth_elects_where_there_is_no_other():
  members = np.array([[True, False, False], [True, True, False], [True, True, True], [False, False, True]])
  elected = subset_router.elect(members, np.array([4, 7, -1]), np.float32([-3, -1, 5]), np.ones(3, np.float32))
  assert elected.tolist() == [4, 7, 7, voting.NO_ANSWER]


def test_local_accuracy_is_that_of_a_plain_loop():
  rng = np.random.default_rng(1)
  bank, right = _unit(rng, 60, 5), rng.random((60, 7)).astype(np.float32)
  numbers = np.array([3, 20, 59])
  for query, own in ((_unit(rng, 5), -1), (bank[7], 7)):
    found = subset_router.local_accuracy(query, np.int32(own), bank, right, numbers, most=59)
    order = [t for t in np.argsort(-(bank @ query)) if t != own]
    for row, number in zip(np.asarray(found), numbers, strict=True):
      expected = right[order[:number]].sum(0) + subset_router.PRIOR * right.mean(0)
      np.testing.assert_allclose(row, expected / (number + subset_router.PRIOR), rtol=1e-5)


def test_choose_weighs_accuracy_against_price_among_what_is_possible():
  accuracy, price = np.float32([0.5, 0.8, 0.8, 0.9]), np.float32([1, 2, 3, 10])
  rates = np.float32([1, 0.1, 0.001])
  assert subset_router.choose(accuracy, price, rates, np.ones(4, bool)).tolist() == [0, 1, 3]
  assert subset_router.choose(accuracy, price, rates, np.array([False, True, True, False])).tolist() == [1, 1, 1]
  assert subset_router.choose(accuracy, price, np.zeros(1), np.array([True, True, True, False])).tolist() == [1]


def _two_kinds(rng, queries: int) -> tuple[np.ndarray, np.ndarray]:
  """Kinds of queries, and unit vectors near one axis for each."""
  kind = rng.integers(2, size=queries)
  near = np.eye(2)[kind] + 0.05 * rng.normal(size=(queries, 2))
  return kind, near / np.linalg.norm(near, axis=1, keepdims=True)


def test_recorded_votes_tell_where_confidences_do_not():
  """The first LLM knows one kind of query, the second the other; the third is dear and right on most of both."""
  rng = np.random.default_rng(2)
  kind, near = _two_kinds(rng, 900)
  chance = np.stack([np.where(kind == 0, 0.95, 0.1), np.where(kind == 1, 0.95, 0.1), np.full(900, 0.8)], 1)
  answers = np.where(rng.random(chance.shape) < chance, 0, [1, 2, 3])
  both = _queries(near, answers, [1, 1, 4])
  played = subset_router.subset(both.rows(slice(600)), _as_asked(both.rows(slice(600, None))), seed=0)
  alone = played.mask.sum(-1) == 1
  knows = np.argmax(played.mask, -1) == kind[600:, None]
  assert (alone & knows).all(0).any()
  assert (played.answer == 0).mean(0).max() > 0.9


def test_llms_that_err_together_are_not_called_together():
  """Three are equally good and equally cheap, but the first two always say the same."""
  rng = np.random.default_rng(3)
  right = rng.random((1500, 4)) < 0.6
  right[:, 1] = right[:, 0]
  answers = np.where(right, 0, [1, 1, 2, 3])
  both = _queries(_unit(rng, 1500, 4), answers, np.ones(4))
  played = subset_router.subset(both.rows(slice(1200)), _as_asked(both.rows(slice(1200, None))), seed=0)
  three = played.mask.sum(-1) == 3
  assert three.any()
  assert not (played.mask[..., 0] & played.mask[..., 1])[three].any()


def test_only_what_a_contender_may_know_decides():
  known, asked = _random(4, 150, 4), _as_asked(_random(5, 40, 4))
  played = subset_router.subset(known, asked, seed=0)
  assert played.mask.shape == (40, len(subset_router.COST_WEIGHTS), 4)
  assert not (played.mask & ~asked.observed[:, None]).any()
  assert not played.stage.any()
  twos = asked._replace(answers=np.full_like(asked.answers, 2), majority=np.full_like(asked.majority, 2))
  others = subset_router.subset(known, twos, seed=0)
  np.testing.assert_array_equal(others.mask, played.mask)
  np.testing.assert_array_equal(others.p_right, played.p_right)
  for setting in range(0, len(subset_router.COST_WEIGHTS), 6):
    called = played.mask[:, setting]
    answers = np.where(called[..., None], asked.answers, 3).astype(np.int16)
    hidden = asked._replace(answers=answers, majority=dataset.majorities(answers))
    again = subset_router.subset(known, hidden, seed=0)
    np.testing.assert_array_equal(again.answer[:, setting], played.answer[:, setting])


def test_settings_go_from_cheap_to_dear_for_every_query():
  known, asked = _random(6, 200, 5), _as_asked(_random(7, 30, 5))
  price = subset_router.subset(known, asked, seed=0).mask @ known.expected_cost
  assert (np.diff(price, axis=1) >= -1e-6).all()
  assert price[:, -1].mean() > price[:, 0].mean()


def test_a_missing_response_is_not_held_against_a_subset():
  """The first LLM is always right, but was not asked about half of the known queries."""
  rng = np.random.default_rng(8)
  answers = np.stack([np.zeros(300), np.where(rng.random(300) < 0.7, 0, 1)], 1)
  observed = np.stack([rng.random(300) < 0.5, np.ones(300, bool)], 1)
  known = _queries(_unit(rng, 300, 4), answers, [1, 1], observed)
  played = subset_router.subset(known, _as_asked(_queries(_unit(rng, 20, 4), answers[:20], [1, 1])), seed=0)
  assert played.mask[:, 0].tolist() == [[True, False]] * 20
  np.testing.assert_allclose(played.p_right[:, 0], 1, atol=1e-5)


def test_llms_never_seen_together_are_not_called_together():
  rng = np.random.default_rng(9)
  observed = np.eye(2, dtype=bool)[np.arange(200) % 2]
  known = _queries(_unit(rng, 200, 4), np.zeros((200, 2)), [1, 2], observed)
  played = subset_router.subset(known, _as_asked(_queries(_unit(rng, 5, 4), np.zeros((5, 2)), [1, 2])), seed=0)
  assert (played.mask.sum(-1) == 1).all()
  assert np.isfinite(played.p_right).all()


def test_where_no_llm_can_be_called_there_is_no_answer():
  known, asked = _random(10, 60, 3), _as_asked(_random(11, 4, 3))
  observed = np.array([[True] * 3, [False] * 3, [False, True, False], [True, False, True]])
  played = subset_router.subset(known, asked._replace(observed=observed), seed=0)
  assert played.mask.any(-1).all(1).tolist() == [True, False, True, True]
  assert not played.mask[1].any()
  assert (played.answer[1] == voting.NO_ANSWER).all()
  assert (played.p_right[1] == 0).all()
  assert played.mask[2].tolist() == [[False, True, False]] * len(subset_router.COST_WEIGHTS)


def _family(known: types.StrategyQueries, rates) -> np.ndarray:
  weight = known.logits + np.float32(2)
  return subset_router.family(weight, known.answers[..., 0], known, np.asarray(rates))


def test_a_small_pool_has_all_its_subsets_the_cheapest_first():
  known = _random(12, 30, 4)
  found = _family(known, [0.1])
  assert len(np.unique(found, axis=0)) == len(found) == 15
  assert found.any(1).all()
  assert (np.diff(found @ known.expected_cost) >= 0).all()


@pytest.mark.parametrize('rate', [0.0, 0.02])
def test_a_greedy_search_adds_what_helps_most(monkeypatch, rate):
  known = _random(13, 200, 5, missing=0)
  weight = known.logits + np.float32(2)
  elect = jax.jit(jax.vmap(subset_router.elect, in_axes=(None, 0, 0, None)))

  def merit(members) -> np.ndarray:
    elected = elect(np.array(members), known.answers[..., 0], weight, known.expected_cost)
    return np.asarray(elected == 0).mean(0) - rate * (np.array(members) @ known.expected_cost)

  passed = set()
  for llm in range(5):
    subset = np.eye(5, dtype=bool)[llm]
    while True:
      passed.add(tuple(subset.tolist()))
      more = [subset | one for one in np.eye(5, dtype=bool)]
      if max(merit(more)) <= merit([subset])[0]:
        break
      subset = more[int(np.argmax(merit(more)))]
  monkeypatch.setattr(subset_router, 'MOST_EXACT', 3)
  found = _family(known, [rate])
  assert {tuple(row) for row in found.tolist()} == passed
  assert (np.diff(found @ known.expected_cost) >= 0).all()


def test_a_large_pool_is_played_on_what_the_search_passes(monkeypatch):
  known, asked = _random(14, 200, 5), _as_asked(_random(15, 30, 5))
  exact = subset_router.subset(known, asked, seed=0)
  monkeypatch.setattr(subset_router, 'MOST_EXACT', 3)
  greedy = subset_router.subset(known, asked, seed=0)
  assert greedy.mask.shape == exact.mask.shape
  assert (greedy.mask.any(-1) == asked.observed.any(-1, keepdims=True)).all()
  assert (greedy.p_right <= exact.p_right.max(-1, keepdims=True) + 1e-6).all()
