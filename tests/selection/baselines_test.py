import functools
import itertools

import jax
import numpy as np
import pytest

from selectllm.data import dataset
from selectllm.selection import baselines, voting

NO_LATENCY = np.zeros(4, np.float32)


def _answers(seed: int, queries: int, llms: int, samples: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Answers and who gave one; the reference is 0, and later LLMs are better."""
  rng = np.random.default_rng(seed)
  right = rng.random((queries, llms, samples)) < np.linspace(0.2, 0.6, llms)[:, None]
  answers = np.where(right, 0, rng.choice([-1, 1, 2], right.shape)).astype(np.int16)
  observed = rng.random((queries, llms)) < np.linspace(0.4, 1, llms)
  answers[~observed] = voting.NO_ANSWER
  return answers, np.zeros(queries, np.int16), observed


def _known(answers, reference, observed) -> dataset.Responses:
  majority, unknown = dataset.majorities(answers), np.full(observed.shape, np.nan, np.float32)
  labels = ((majority == reference[:, None]) & observed).astype(np.float32)
  return dataset.Responses(
    answers, majority, reference[:, None], labels, observed, unknown, unknown, unknown, reference
  )


@functools.cache
def _votes_of(over: str):
  return jax.jit(jax.vmap(functools.partial(voting.vote, over=over), in_axes=(0, 0, None, None)))


def _accuracy(members, answers, reference, observed, priority, over) -> float:
  """The vote's accuracy over the queries that any member was observed on."""
  called = observed & np.isin(np.arange(observed.shape[1]), members)
  elected = np.asarray(_votes_of(over)(answers, called, np.ones_like(priority), priority))
  counted = called.any(1)
  return (elected == reference)[counted].mean()


@pytest.mark.parametrize('over', voting.VOTES)
@pytest.mark.parametrize('seed', range(2))
def test_best_subsets_are_those_of_brute_force(over, seed):
  answers, reference, observed = _answers(seed, queries=40, llms=5)
  latency_s, priority = np.float32([3, 1, 4, 1.5, 9]), np.float32([4, 3, 2, 1, 0])
  best = baselines.best_subsets(_known(answers, reference, observed), latency_s, priority, over=over)
  assert best.shape == (5, 5)
  for size in range(1, 6):
    merit = {
      members: (_accuracy(members, answers, reference, observed, priority, over), -latency_s[list(members)].sum())
      for members in itertools.combinations(range(5), size)
    }
    assert tuple(np.flatnonzero(best[size - 1]).tolist()) == max(merit, key=lambda members: merit[members])


def test_of_equally_accurate_subsets_the_faster_one_is_best():
  answers, reference = np.zeros((6, 4, 1), np.int16), np.zeros(6, np.int16)
  latency_s = np.float32([4, 2, 1, 3])
  best = baselines.best_subsets(_known(answers, reference, np.ones((6, 4), bool)), latency_s, latency_s)
  assert [np.flatnonzero(row).tolist() for row in best] == [[2], [1, 2], [1, 2, 3], [0, 1, 2, 3]]


def test_a_missing_response_is_not_held_against_a_subset():
  """The first LLM is always right but missing on every other query, the second right on three of four."""
  answers = np.int16([[[0], [0]], [[-1], [0]], [[0], [1]], [[-1], [0]]])
  observed = np.array([[True, True], [False, True], [True, True], [False, True]])
  even = np.float32([1, 1])
  best = baselines.best_subsets(_known(answers, np.zeros(4, np.int16), observed), even, even)
  assert best[0].tolist() == [True, False]


def test_a_greedy_search_grows_good_subsets_one_llm_at_a_time(monkeypatch):
  answers, reference, observed = _answers(3, queries=40, llms=6)
  latency_s = np.ones(6, np.float32)
  known = _known(answers, reference, observed)
  exact = baselines.best_subsets(known, latency_s, latency_s)
  monkeypatch.setattr(baselines, 'MOST_SUBSETS', 10)  # of the sizes 2, 3 and 4 there are 15, 20 and 15
  greedy = baselines.best_subsets(known, latency_s, latency_s)
  assert greedy.sum(1).tolist() == [1, 2, 3, 4, 5, 6]
  np.testing.assert_array_equal(greedy[[0, 4, 5]], exact[[0, 4, 5]])
  for size in (2, 3, 4):
    smaller, larger = greedy[size - 2], greedy[size - 1]
    assert (smaller <= larger).all()
    chosen = _accuracy(np.flatnonzero(larger), answers, reference, observed, latency_s, 'majority')
    for llm in np.flatnonzero(~smaller):
      rival = [*np.flatnonzero(smaller), llm]
      assert chosen >= _accuracy(rival, answers, reference, observed, latency_s, 'majority') - 1e-6


def test_a_tie_of_fixed_choices_goes_to_the_llm_most_accurate_on_known_queries():
  known = _known(np.int16([[[0], [1], [0]]] * 3 + [[[1], [0], [0]]]), np.zeros(4, np.int16), np.ones((4, 3), bool))
  latency_s = np.float32([2, 1, 3])
  vote = baselines.fit_vote(known, latency_s, over='majority', ties='confident')
  assert np.argsort(vote.priority).tolist() == [2, 0, 1]
  fastest = baselines.fit_vote(known, latency_s, over='majority', ties='fastest')
  assert np.argsort(fastest.priority).tolist() == [1, 0, 2]


def _independent(accuracy: np.ndarray, wrong: int, queries: int = 4000) -> dataset.Responses:
  """LLMs that err independently, evenly among so many wrong answers."""
  rng = np.random.default_rng(0)
  right = rng.random((queries, len(accuracy))) < accuracy
  answers = np.where(right, 0, rng.integers(1, wrong + 1, right.shape)).astype(np.int16)
  return _known(answers[..., None], np.zeros(queries, np.int16), np.ones(right.shape, bool))


def test_fixed_weights_are_log_odds_where_there_are_two_answers():
  accuracy = np.array([0.9, 0.7, 0.6, 0.55, 0.3])
  known = _independent(accuracy, wrong=1)
  weight = baselines.fit_vote(known, np.ones(5, np.float32), over='majority', ties='confident').weight
  np.testing.assert_allclose(weight[:4], np.log(accuracy / (1 - accuracy))[:4], atol=0.15)
  assert weight[4] == 0  # never against its own answer


def test_weak_llms_count_where_they_choose_among_many_answers():
  """None is right on half of the queries, so that all log-odds are below 0; together they are far better."""
  accuracy = np.array([0.45, 0.4, 0.4, 0.35])
  known = _independent(accuracy, wrong=20)
  vote = baselines.fit_vote(known, np.ones(4, np.float32), over='majority', ties='confident')
  assert (np.diff(vote.weight) < 0.1).all()
  assert vote.weight.min() > 0
  elect = jax.vmap(voting.vote, in_axes=(0, None, None, None))
  elected = np.asarray(elect(known.answers, np.ones(4, bool), vote.weight, vote.priority))
  assert (elected == 0).mean() > 0.55


def test_a_fixed_vote_of_scores_has_an_order_and_even_weights():
  known = _independent(np.array([0.2, 0.8]), wrong=1, queries=50)
  scored = known._replace(answers=np.zeros((50, 2, 0), np.int16))
  vote = baselines.fit_vote(scored, np.ones(2, np.float32), over='majority', ties='confident')
  assert (vote.priority.tolist(), vote.weight.tolist()) == ([1, 0], [1, 1])


def test_mean_by_llm_is_over_the_observed_queries():
  values = np.float32([[1, 0, 9], [0, 0.5, 9]])
  observed = np.array([[True, True, False], [True, False, False]])
  np.testing.assert_array_equal(baselines.mean_by_llm(values, observed), [0.5, 0, np.nan])


def test_by_accuracy_breaks_ties_by_latency_and_puts_unobserved_llms_last():
  labels = np.float32([[1, 1, 0, 1], [1, 1, 0, 1]])
  observed = np.array([[True, True, True, False]] * 2)
  assert baselines.by_accuracy(labels, observed, np.float32([3, 2, 1, 0])).tolist() == [1, 0, 2, 3]
  assert baselines.by_accuracy(labels, observed, NO_LATENCY).tolist() == [0, 1, 2, 3]


def test_by_accuracy_does_not_count_missing_responses_as_wrong():
  labels = np.float32([[1, 1], [1, 0], [0, 1], [0, 1]])
  observed = np.array([[True, True], [True, True], [False, True], [False, True]])
  assert baselines.by_accuracy(labels, observed, np.float32([9, 1])).tolist() == [0, 1]


def test_the_slowest_of_a_random_subset_is_its_mean_over_all_subsets():
  seconds = np.float32([[5, 1, 3, 2], [4, 4, 9, 1], [7, 1, 1, 1], [1, np.nan, 2, 3]])
  available = np.array([[True] * 4, [True, True, False, True], [False] * 4, [True] * 4])
  slowest = baselines.expected_slowest(seconds, available, np.arange(1, 5))
  for row in (0, 1):
    those = seconds[row, available[row]]
    for size in range(1, 5):
      subsets = list(itertools.combinations(those, min(size, len(those))))
      assert slowest[row, size - 1] == pytest.approx(np.mean([max(subset) for subset in subsets]))
  assert slowest[2].tolist() == [0, 0, 0, 0]
  assert np.isnan(slowest[3]).all()


def test_random_ranks_never_put_an_unavailable_llm_before_an_available_one():
  available = np.random.default_rng(0).random((500, 6)) < 0.6
  ranks = baselines.random_ranks(1, available)
  np.testing.assert_array_equal(np.sort(ranks), np.tile(np.arange(6), (500, 1)))
  np.testing.assert_array_equal(ranks < available.sum(1, keepdims=True), available)


def test_random_subsets_are_uniform_and_follow_the_seed():
  available = np.ones((24_000, 4), bool)
  available[:, 3] = False
  ranks = baselines.random_ranks(0, available)
  orders, counts = np.unique(ranks, axis=0, return_counts=True)
  assert len(orders) == 6
  # Each of the 6 orders of the 3 available LLMs is expected 4,000 times; 300 are more than 5 standard deviations.
  assert (abs(counts - 4_000) < 300).all()
  np.testing.assert_array_equal(ranks, baselines.random_ranks(0, available))
  assert (ranks != baselines.random_ranks(1, available)).any()


def _unit(rng, *shape) -> np.ndarray:
  vectors = rng.normal(size=shape).astype(np.float32)
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _plain_knn(embeddings, bank, labels, observed, neighbours) -> np.ndarray:
  scores = np.zeros((len(embeddings), labels.shape[1]))
  for n, embedding in enumerate(embeddings):
    nearest = sorted(range(len(bank)), key=lambda t: -float(embedding @ bank[t]))[:neighbours]
    for k in range(labels.shape[1]):
      everywhere = [labels[t, k] for t in range(len(bank)) if observed[t, k]]
      seen = [labels[t, k] for t in nearest if observed[t, k]]
      scores[n, k] = np.mean([*seen, np.mean(everywhere) if everywhere else 0.0])
  return scores


@pytest.mark.parametrize('neighbours', [1, 7, 30, 1000])
def test_knn_scores_are_those_of_a_plain_loop(neighbours):
  rng = np.random.default_rng(neighbours)
  embeddings, bank = _unit(rng, 25, 8), _unit(rng, 30, 8)
  labels = rng.random((30, 4)).astype(np.float32)
  observed = rng.random((30, 4)) < 0.6
  observed[:, 3] = False  # never seen at all
  labels[~observed] = 0
  near = baselines.nearest(embeddings, bank, neighbours=neighbours)
  scores = baselines.knn_scores(near, labels, observed)
  np.testing.assert_allclose(scores, _plain_knn(embeddings, bank, labels, observed, neighbours), atol=1e-5)
  assert scores[:, 3].max() == 0


def test_an_llm_that_no_neighbour_knows_scores_its_mean():
  bank = np.float32([[1, 0], [0, 1], [0, -1]])
  labels, observed = np.float32([[0, 1], [1, 0], [0, 0]]), np.array([[False, True], [True, True], [True, True]])
  near = baselines.nearest(np.float32([[1, 0]]), bank, neighbours=1)
  scores = baselines.knn_scores(near, labels, observed)
  np.testing.assert_allclose(scores, [[0.5, (1 + 1 / 3) / 2]], rtol=1e-6)


def test_knn_scores_do_not_depend_on_how_queries_are_blocked(monkeypatch):
  rng = np.random.default_rng(0)
  embeddings, bank = _unit(rng, 10, 8), _unit(rng, 12, 8)
  labels, observed = (rng.random((12, 3)) < 0.5).astype(np.float32), np.ones((12, 3), bool)
  near = baselines.nearest(embeddings, bank, neighbours=4)
  scores = baselines.knn_scores(near, labels, observed)
  monkeypatch.setattr(baselines, '_BLOCK', 48)  # four queries at a time, two at last
  np.testing.assert_array_equal(baselines.nearest(embeddings, bank, neighbours=4), near)
  np.testing.assert_allclose(baselines.knn_scores(near, labels, observed), scores, rtol=1e-6)


def test_of_equally_similar_queries_the_first_are_near():
  bank = np.float32([[0, 1], [1, 0], [1, 0], [0, 1], [1, 0]])
  assert baselines.nearest(np.float32([[1, 0]]), bank, neighbours=2).tolist() == [[1, 2]]


def test_some_of_many_rows_are_a_random_sample_of_them(monkeypatch):
  monkeypatch.setattr(baselines, 'MOST_KNOWN', 50)
  assert baselines.subsample(np.arange(100, 150)).tolist() == list(range(100, 150))
  some = baselines.subsample(np.arange(100, 400))
  assert len(set(some.tolist())) == 50
  assert (np.diff(some) > 0).all()
  assert some.max() - some.min() > 200
