import numpy as np
import pytest

from selectllm.selection import policies, voting

QUERIES, LLMS, SAMPLES = 200, 6, 3


def _queries(seed: int) -> dict[str, np.ndarray]:
  """Random queries, full of equal confidences, equal latencies, unavailable LLMs and tied votes."""
  rng = np.random.default_rng(seed)
  return {
    'confidences': rng.choice(np.float32([0, 0.25, 0.5, 0.75, 1]), (QUERIES, LLMS)),
    'answers': rng.choice(np.int16([-1, 0, 1, 2]), (QUERIES, LLMS, SAMPLES)),
    'available': rng.random((QUERIES, LLMS)) < 0.75,
    'latency_s': rng.choice(np.float32([0.5, 1, 2]), LLMS),
  }


def _one_by_one(policy: str, size: int, over: str, ties: str, confidences, answers, available, latency_s) -> list[int]:
  elected = []
  for of_query in zip(confidences, answers, available, strict=True):
    confidence, answer, callable_ = of_query
    chosen = policies.POLICIES[policy](confidence, latency_s, callable_, size=size, threshold=0.5)
    priority = voting.tie_order(confidence, latency_s, ties=ties)
    elected.append(int(voting.vote(answer, chosen.mask, chosen.weight, priority, over=over)))
  return elected


@pytest.mark.parametrize('ties', voting.TIES)
@pytest.mark.parametrize('over', voting.VOTES)
@pytest.mark.parametrize('policy', policies.POLICIES)
def test_a_shortlist_elects_what_the_whole_pool_does(policy, over, ties, monkeypatch):
  monkeypatch.setattr(voting, '_NUMBERS', 16 * LLMS * (SAMPLES + 2))  # blocks of at most 16 queries
  queries = {name: values[:20] if name != 'latency_s' else values for name, values in _queries(0).items()}
  for size in (1, 3, LLMS + 1):
    elected = voting.elect(**queries, policy=policy, size=size, over=over, ties=ties)
    assert elected.tolist() == _one_by_one(policy, size, over, ties, **queries), size


@pytest.mark.parametrize('most_ranked', [0, LLMS])
def test_the_shortlist_is_those_that_rank_first(most_ranked, monkeypatch):
  monkeypatch.setattr(policies, 'MOST_COUNTED', most_ranked)
  queries = _queries(1)
  for confidences, available in zip(queries['confidences'][:50], queries['available'], strict=False):
    rank = np.asarray(policies.rank(confidences, queries['latency_s'], available))
    listed = voting.shortlist(confidences, queries['latency_s'], available, size=4)
    assert listed.tolist() == np.argsort(rank)[:4].tolist()


def test_answers_may_be_mapped_into_memory(tmp_path):
  queries = _queries(2)
  np.save(tmp_path / 'answers.npy', queries['answers'])
  mapped = np.load(tmp_path / 'answers.npy', mmap_mode='r')
  expected = voting.elect(**queries, policy='max_conf', size=2)
  np.testing.assert_array_equal(voting.elect(**(queries | {'answers': mapped}), policy='max_conf', size=2), expected)
