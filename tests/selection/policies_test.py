import functools
import itertools

import jax
import numpy as np
import pytest

from selectllm.selection import policies

LLMS = 6
QUERIES = 300


def _queries(seed: int) -> dict[str, np.ndarray]:
  """Random queries, full of equal confidences, equal latencies and unavailable LLMs; query 0 can call nobody."""
  rng = np.random.default_rng(seed)
  available = rng.random((QUERIES, LLMS)) < 0.75
  available[0] = False
  return {
    'confidences': rng.choice(np.float32([0, 0.125, 0.25, 0.5, 0.625, 1]), (QUERIES, LLMS)),
    'latency_s': rng.choice(np.float32([0.5, 1, 2, 30]), (QUERIES, LLMS)),
    'available': available,
    'size': rng.integers(1, LLMS + 3, QUERIES).astype(np.int32),
    'threshold': rng.choice(np.float32([0, 0.25, 0.5, 0.9, 1]), QUERIES),
  }


@functools.cache
def _vmapped(name: str):
  def one(confidences, latency_s, available, size, threshold):
    return policies.POLICIES[name](confidences, latency_s, available, size=size, threshold=threshold)

  return jax.jit(jax.vmap(one))


def _select(name: str, queries: dict[str, np.ndarray]) -> policies.Selection:
  return policies.Selection(*map(np.asarray, _vmapped(name)(**queries)))


def _most_confident(confidences, latency_s, llms, size) -> list[int]:
  return sorted(llms, key=lambda llm: (-confidences[llm], latency_s[llm], llm))[:size]


def _expected(name: str, confidences, latency_s, available, size, threshold) -> dict[int, float]:
  """The paper's rules in plain Python: the called LLMs and what their votes count."""
  callable_ = [llm for llm in range(len(confidences)) if available[llm]]
  if name == 'labelled_max_conf':
    positive = [llm for llm in callable_ if confidences[llm] > threshold]
    callable_ = positive or callable_
  called = _most_confident(confidences, latency_s, callable_, size)
  return {llm: float(confidences[llm]) if name == 'weighted_max_conf' else 1.0 for llm in called}


@pytest.mark.parametrize('name', policies.POLICIES)
@pytest.mark.parametrize('seed', range(3))
def test_policies_select_and_weigh_as_the_paper_says(name, seed):
  queries = _queries(seed)
  selection = _select(name, queries)
  for row in range(QUERIES):
    expected = _expected(name, *(values[row] for values in queries.values()))
    called = np.flatnonzero(selection.mask[row])
    assert {llm: selection.weight[row, llm] for llm in called.tolist()} == expected, row


def test_the_random_queries_hold_the_cases_that_matter():
  """Without these the comparison with the reference would prove little."""
  queries = _queries(0)
  confidences, available = queries['confidences'], queries['available']
  positive = available & (confidences > queries['threshold'][:, None])
  assert (~positive.any(1) & available.any(1)).sum() > 10
  assert (positive.sum(1) > queries['size']).sum() > 10
  assert ((positive.sum(1) < queries['size']) & positive.any(1)).sum() > 10
  assert (queries['size'] > available.sum(1)).sum() > 10
  assert (queries['size'] > LLMS).sum() > 10


@pytest.mark.parametrize('name', policies.POLICIES)
def test_equal_confidences_go_to_the_faster_llm_then_to_the_first(name):
  policy = policies.POLICIES[name]
  confidences, available = np.full(4, 0.75, np.float32), np.ones(4, bool)
  slow_first = np.float32([9, 2, 1, 2])
  assert policy(confidences, slow_first, available, size=1, threshold=0.5).mask.tolist() == [0, 0, 1, 0]
  assert policy(confidences, slow_first, available, size=2, threshold=0.5).mask.tolist() == [0, 1, 1, 0]
  assert policy(confidences, np.ones(4, np.float32), available, size=2, threshold=0.5).mask.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize('name', policies.POLICIES)
def test_latency_decides_nothing_between_different_confidences(name):
  queries = _queries(5)
  rng = np.random.default_rng(5)
  queries['confidences'] = rng.permuted(np.tile(np.linspace(0.1, 0.9, LLMS, dtype=np.float32), (QUERIES, 1)), axis=1)
  other = queries | {'latency_s': rng.permuted(queries['latency_s'], axis=1)}
  np.testing.assert_array_equal(_select(name, queries).mask, _select(name, other).mask)


def test_an_llm_exactly_at_the_threshold_is_predicted_to_be_wrong():
  confidences = np.float32([0.5, 0.75, 0.25])
  mask = policies.labelled_max_conf(confidences, np.ones(3), np.ones(3, bool), size=3, threshold=0.5).mask
  assert mask.tolist() == [False, True, False]


def test_an_unavailable_llm_above_the_threshold_leaves_the_fallback_to_the_others():
  confidences, available = np.float32([0.9, 0.2, 0.4]), np.array([False, True, True])
  mask = policies.labelled_max_conf(confidences, np.ones(3), available, size=1, threshold=0.5).mask
  assert mask.tolist() == [False, False, True]


@pytest.mark.parametrize('name', policies.POLICIES)
def test_a_missing_confidence_of_an_unavailable_llm_does_no_harm(name):
  confidences, available = np.float32([np.nan, 0.2, 0.4]), np.array([False, True, True])
  mask = policies.POLICIES[name](confidences, np.ones(3), available, size=2, threshold=0.1).mask
  assert mask.tolist() == [False, True, True]


@pytest.mark.parametrize('name', policies.POLICIES)
def test_permuting_the_llms_permutes_the_selection(name):
  queries = _queries(7)
  rng = np.random.default_rng(7)
  # All confidences of a query differ, so that order decides nothing.
  queries['confidences'] = rng.permuted(np.tile(np.linspace(0.1, 0.9, LLMS, dtype=np.float32), (QUERIES, 1)), axis=1)
  order = rng.permutation(LLMS)
  permuted = queries | {key: queries[key][:, order] for key in ('confidences', 'latency_s', 'available')}
  there, here = _select(name, permuted), _select(name, queries)
  np.testing.assert_array_equal(there.mask, here.mask[:, order])
  np.testing.assert_array_equal(there.weight, here.weight[:, order])


@pytest.mark.parametrize('name', policies.POLICIES)
def test_a_larger_size_adds_llms_and_drops_none(name):
  queries = _queries(8)
  masks = [_select(name, queries | {'size': np.full(QUERIES, size, np.int32)}).mask for size in range(1, LLMS + 2)]
  for smaller, larger in itertools.pairwise(masks):
    assert (smaller <= larger).all()


@pytest.mark.parametrize('seed', range(2))
def test_rank_is_a_permutation_with_unavailable_llms_last(seed):
  queries = _queries(seed)
  ranks = np.asarray(jax.vmap(policies.rank)(queries['confidences'], queries['latency_s'], queries['available']))
  np.testing.assert_array_equal(np.sort(ranks), np.tile(np.arange(LLMS), (QUERIES, 1)))
  np.testing.assert_array_equal(ranks < queries['available'].sum(1, keepdims=True), queries['available'])
