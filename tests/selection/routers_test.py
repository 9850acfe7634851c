import numpy as np
import pytest

from selectllm.selection import routers, types, voting

NAMES = tuple(routers.STRATEGIES)
ROUTERS = ('knn_router', 'mf_router')
ACCURACY = np.array([[0.35, 0.4, 0.95, 0.5], [0.35, 0.9, 0.3, 0.8]])  # [topics, K]
PRICE = np.float32([1, 4, 6, 9])


def _make(
  right: np.ndarray, price: np.ndarray, seed: int, *, topic=None, logits=None, wrong=None
) -> types.StrategyQueries:
  """Queries of which each LLM answers the `right` ones rightly, others as in `wrong`, or with an answer of its own."""
  rng = np.random.default_rng(seed)
  queries, llms = right.shape
  reference = rng.integers(0, 5, queries)
  wrong = 10 + np.arange(llms) if wrong is None else wrong
  answers = np.where(right, reference[:, None], wrong)[..., None].astype(np.int16)
  embeddings = rng.standard_normal((queries, 8)) / 4
  if topic is not None:
    embeddings[np.arange(queries), topic] += 1
  embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
  logits = np.zeros(right.shape) if logits is None else logits
  paid = np.tile(price.astype(np.float32), (queries, 1))
  return types.StrategyQueries(
    logits.astype(np.float32), embeddings.astype(np.float32), answers, answers[..., 0], np.ones(right.shape, bool),
    reference.astype(np.int16), right.astype(np.float32), paid, price.astype(np.float32),
  )  # fmt: skip


def _hide(queries: types.StrategyQueries) -> types.StrategyQueries:
  nothing = np.full(queries.labels.shape, np.nan, np.float32)
  return queries._replace(reference=np.full_like(queries.reference, -2), labels=nothing, cost=nothing)


def _topics(seed: int, queries: int, missing: float = 0.0) -> types.StrategyQueries:
  """Two topics, each with an LLM that is best at it; LLM 0 is cheap and poor at both."""
  rng = np.random.default_rng(seed)
  topic = rng.integers(0, 2, queries)
  chance = ACCURACY[topic]
  right = rng.random(chance.shape) < chance
  wrong = rng.choice([-1, 10, 11, 12], right.shape)
  made = _make(right, PRICE, seed, topic=topic, logits=np.log(chance / (1 - chance)), wrong=wrong)
  observed = rng.random(right.shape) >= missing
  return made._replace(
    observed=observed,
    answers=np.where(observed[..., None], made.answers, -1).astype(np.int16),
    majority=np.where(observed, made.majority, -1).astype(np.int16),
    labels=np.where(observed, made.labels, np.nan).astype(np.float32),
    cost=np.where(observed, made.cost, np.nan).astype(np.float32),
  )


def _same(one: types.Decisions, other: types.Decisions) -> None:
  np.testing.assert_array_equal(one.mask, other.mask)
  np.testing.assert_array_equal(one.answer, other.answer)
  np.testing.assert_array_equal(one.p_right, other.p_right)
  np.testing.assert_array_equal(np.where(one.mask, one.stage, 0), np.where(other.mask, other.stage, 0))


def _price(played: types.Decisions) -> np.ndarray:
  return (played.mask @ PRICE).mean(0)


@pytest.mark.parametrize('name', NAMES)
def test_only_llms_that_can_be_called_are_called_and_only_they_are_heard(name):
  known, asked = _topics(0, 300, missing=0.3), _topics(1, 80, missing=0.3)
  asked.observed[:3], asked.observed[3:6] = False, [True, False, False, False]
  played = routers.STRATEGIES[name](known, _hide(asked), seed=0)
  settings = len(routers.COST_WEIGHTS)
  assert played.mask.shape == played.stage.shape == (80, settings, 4)
  assert played.answer.shape == played.p_right.shape == (80, settings)
  assert (played.answer.dtype, played.p_right.dtype, played.stage.dtype) == (np.int16, np.float32, np.int8)
  assert not (played.mask & ~asked.observed[:, None]).any()
  assert not played.mask[:3].any()
  assert (played.answer[:3] == voting.NO_ANSWER).all()
  assert (played.mask.any(-1) == asked.observed.any(1)[:, None]).all()
  assert (played.mask[3:6] == [True, False, False, False]).all()
  heard = (played.mask & (asked.answers[:, None, :, 0] == played.answer[..., None])).any(-1)
  assert (heard | (played.answer == voting.NO_ANSWER)).all()


@pytest.mark.parametrize('name', NAMES)
def test_what_only_the_future_tells_changes_nothing(name):
  known, asked = _topics(0, 300), _topics(1, 60)
  rng = np.random.default_rng(2)
  honest = routers.STRATEGIES[name](known, _hide(asked), seed=0)
  told = asked._replace(cost=rng.random(asked.cost.shape).astype(np.float32))
  _same(honest, routers.STRATEGIES[name](known, told, seed=0))
  for setting in (0, 7, 13, 19):
    uncalled = ~honest.mask[:, setting, :, None]
    other = np.where(uncalled, rng.integers(-1, 13, asked.answers.shape), asked.answers).astype(np.int16)
    hidden = _hide(asked)._replace(answers=other, majority=other[..., 0])
    played = routers.STRATEGIES[name](known, hidden, seed=0)
    _same(*(types.Decisions(*(array[:, [setting]] for array in each)) for each in (honest, played)))


@pytest.mark.parametrize('name', NAMES)
def test_settings_go_from_the_cheapest_llm_to_more_accurate_and_dearer_choices(name):
  known = _topics(0, 600)
  played = routers.STRATEGIES[name](known, _hide(known), seed=0)
  price = _price(played)
  # Clusters are chosen on a part of the queries and fitted anew on all, so that their prices move a little.
  assert (np.diff(price) >= (-0.05 * PRICE.sum() if name == 'clusters' else -1e-6)).all()
  assert price[0] == PRICE[0]
  right = (played.answer == known.reference[:, None]).mean(0)
  assert right[-1] > 0.85 > 0.45 > right[0]


@pytest.mark.parametrize('name', NAMES)
def test_the_same_seed_plays_the_same(name):
  known, asked = _topics(0, 200), _hide(_topics(1, 50))
  _same(*(routers.STRATEGIES[name](known, asked, seed=3) for _ in range(2)))


@pytest.mark.parametrize('name', NAMES)
def test_a_price_that_is_not_known_is_the_expected_one(name):
  known, asked = _topics(0, 200), _hide(_topics(1, 50))
  forgotten = known._replace(cost=np.where(np.arange(200)[:, None] % 3 == 0, np.nan, known.cost))
  _same(*(routers.STRATEGIES[name](each, asked, seed=0) for each in (known, forgotten)))


@pytest.mark.parametrize('name', NAMES)
def test_two_llms_are_a_pool_and_may_be_free(name):
  rng = np.random.default_rng(0)
  known = _make(rng.random((120, 2)) < [0.3, 0.8], np.float32([0, 0]), 0)
  played = routers.STRATEGIES[name](known, _hide(known), seed=0)
  assert (played.answer[:, -1] == known.reference).mean() > 0.7


@pytest.mark.parametrize('name', [*ROUTERS, 'clusters'])
def test_at_no_price_the_llm_that_is_best_at_a_topic_is_called(name):
  known, asked = _topics(0, 1200), _topics(1, 200)
  played = routers.STRATEGIES[name](known, _hide(asked), seed=0)
  topic = asked.embeddings[:, :2].argmax(1)
  best = ACCURACY.argmax(1)[topic]
  assert played.mask[np.arange(200), -1, best].mean() > 0.95
  if name in ROUTERS:
    assert (played.mask.sum(-1) == 1).all()
    assert (played.stage == 0).all()
    # It says how likely the answer is right.
    assert np.abs(played.p_right[:, -1] - ACCURACY.max(1)[topic]).mean() < 0.1


def test_a_chain_asks_on_where_its_llms_disagree():
  """LLMs 0 and 1, cheap, are right together or wrong apart; 2 and 3, dear, err on different queries."""
  hard, row = np.arange(400) % 2 == 0, np.arange(400)
  right = np.stack([~hard, ~hard, row % 20 != 1, row % 20 != 3], 1)
  known = _make(right, np.float32([1, 1, 10, 10]), 0)
  played = routers.chain(known, _hide(known), seed=0)
  assert (played.answer[:, -1] == known.reference).all()
  assert played.mask[:, -1, :2].all()
  assert (played.mask[:, -1, 2:] == hard[:, None]).all()
  order = np.where(played.mask[:, -1], played.stage[:, -1], -1)
  assert np.sort(order[hard], 1).tolist() == [[0, 1, 2, 3]] * hard.sum()
  assert np.sort(order[~hard], 1).tolist() == [[-1, -1, 0, 1]] * (~hard).sum()


def test_the_called_llms_of_a_chain_vote_and_a_tie_goes_to_the_earlier_answer():
  known, asked = _topics(0, 300), _topics(1, 60)
  played = routers.chain(known, _hide(asked), seed=0)
  for query, setting in np.ndindex(played.answer.shape):
    called = np.flatnonzero(played.mask[query, setting])
    votes = [int(asked.answers[query, llm, 0]) for llm in called[np.argsort(played.stage[query, setting, called])]]
    given = [answer for answer in votes if answer != voting.NO_ANSWER]
    # All answers with the most votes; of these, the one that had as many first.
    reached = [given[: place + 1].count(answer) for place, answer in enumerate(given)]
    assert played.answer[query, setting] == (given[int(np.argmax(reached))] if given else voting.NO_ANSWER)


def test_a_cascade_passes_on_what_its_scorer_doubts_and_takes_the_last_answer():
  doubted = np.arange(300) % 5 < 2
  right = np.stack([~doubted, np.ones(300, bool)], 1)
  logits = np.stack([np.where(doubted, -3, 3), np.full(300, 2)], 1)
  known = _make(right, np.float32([1, 5]), 0, logits=logits)
  played = routers.frugal_cascade(known, _hide(known), seed=0)
  assert (played.mask[:, -1] == np.stack([np.ones(300, bool), doubted], 1)).all()
  assert (played.answer[:, -1] == known.reference).all()
  assert (played.stage[doubted, -1] == [0, 1]).all()
  np.testing.assert_allclose(played.p_right[~doubted, -1], 1 / (1 + np.exp(-3)), rtol=1e-5)


def test_an_answer_that_agrees_with_an_earlier_one_is_likelier_right():
  """On every other query the first LLM looks poor, and is; there it gives another answer than the second, or none."""
  rng, doubted = np.random.default_rng(0), np.arange(600) % 2 == 0
  right = np.stack([rng.random(600) < np.where(doubted, 0.3, 0.9), rng.random(600) < 0.7], 1)
  logits = np.stack([np.where(doubted, -1, 2), np.ones(600)], 1)
  known = _make(right, np.float32([1, 2]), 0, logits=logits)
  known.answers[~right[:, 0] & (np.arange(600) % 4 == 0), 0] = -1
  played = routers.frugal_cascade(known, _hide(known), seed=0)
  assert (played.mask[doubted, -1]).all()
  first, second = known.answers[doubted, :, 0].T
  sure = played.p_right[doubted, -1]
  agrees, silent = first == second, first == -1
  differs = ~agrees & ~silent
  assert sure[differs].max() < sure[silent].min() <= sure[silent].max() < sure[agrees].min()


def test_a_query_is_not_its_own_neighbour():
  """Where similar queries tell nothing, many neighbours are best: nobody's chance is far from the mean."""
  rng = np.random.default_rng(0)
  known = _make(rng.random((800, 3)) < 0.5, np.float32([1, 1, 1]), 0)
  played = routers.knn_router(known, _hide(_make(rng.random((100, 3)) < 0.5, np.float32([1, 1, 1]), 1)), seed=0)
  assert np.abs(played.p_right - 0.5).max() < 0.15


def test_three_llms_of_a_cluster_vote_where_that_is_better():
  rng = np.random.default_rng(0)
  known = _make(rng.random((1000, 4)) < [0.7, 0.7, 0.7, 0.1], np.float32([1, 1, 1, 1]), 0)
  played = routers.clusters(known, _hide(known), seed=0)
  assert (played.mask[:, -1] == [True, True, True, False]).all()
  assert np.isnan(played.p_right[:, -1]).all()
  right = (played.answer == known.reference[:, None]).mean(0)
  assert right[-1] > right[0] + 0.05


@pytest.mark.parametrize('name', ['chain', 'frugal_cascade'])
def test_a_large_pool_is_searched_from_its_promising_llms(name):
  rng = np.random.default_rng(0)
  accuracy, price = np.linspace(0.2, 0.9, 12), np.linspace(1, 6, 12)
  accuracy[5:7], price[5:7] = 0.1, 9  # poor and dear
  known = _make(rng.random((60, 12)) < accuracy, price, 0)
  played = routers.STRATEGIES[name](known, _hide(known), seed=0)
  assert not played.mask[..., 5:7].any()
  assert (played.mask[:, 0] == (np.arange(12) == 0)).all()
  assert (played.answer[:, -1] == known.reference).mean() > 0.85
