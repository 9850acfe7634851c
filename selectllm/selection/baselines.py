"""What a policy must beat (PAPER: baselines): fixed subsets, random subsets, nearest neighbours."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from selectllm.selection import voting

# Above so many subsets of one size, the best one is searched greedily: the best smaller one and one LLM more.
MOST_SUBSETS = 5_000
# Arrays of subsets x queries x LLMs are kept to about so many entries.
_BLOCK = 1 << 24


def mean_by_llm(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
  """Means over the queries that each LLM was observed on, float64[K]; NaN where there are none."""
  with np.errstate(invalid='ignore'):
    return np.where(observed, values, 0).sum(0, dtype=np.float64) / observed.sum(0)


def by_accuracy(labels: np.ndarray, observed: np.ndarray, latency_s: np.ndarray) -> np.ndarray:
  """LLMs from the most to the least accurate, int[K]; ties to the faster one.

  Args:
    labels: float32[N, K] of the queries to choose on.
    observed: bool[N, K].
    latency_s: float32[K], expected.
  """
  accuracy = mean_by_llm(labels, observed)
  return np.lexsort((latency_s, -np.where(np.isnan(accuracy), -np.inf, accuracy)))


@functools.partial(jax.jit, static_argnames='over')
def _subset_accuracy(subsets, answers, reference, observed, latency_s, over):
  """The vote's accuracy, float32[M], of every subset bool[M, K], over queries that it was observed on."""

  def right(subset, answers, reference, observed):
    elected = voting.vote(answers, subset & observed, jnp.ones_like(latency_s), latency_s, over=over)
    return elected == reference

  def accuracy(subset):
    rights = jax.vmap(right, in_axes=(None, 0, 0, 0))(subset, answers, reference, observed)
    return rights.mean(where=(subset & observed).any(-1))

  return jax.lax.map(accuracy, subsets, batch_size=16)


def best_subsets(
  answers: np.ndarray,
  reference: np.ndarray,
  observed: np.ndarray,
  latency_s: np.ndarray,
  *,
  over: str = 'majority',
) -> np.ndarray:
  """For every size, the subset whose vote was most accurate on the given queries; ties to the faster one.

  Args:
    answers: int16[N, K, S] of train and validation queries.
    reference: int16[N].
    observed: bool[N, K].
    latency_s: float32[K], expected.
    over: See `voting.vote`.

  Returns:
    bool[K, K], row s - 1 for size s; exact up to `MOST_SUBSETS` subsets of a size, greedy beyond.
  """
  count = observed.shape[1]
  majority = voting.majorities(answers)[..., None] if over == 'majority' else answers
  best = np.zeros((count, count), bool)
  for size in range(1, count + 1):
    if math.comb(count, size) <= MOST_SUBSETS:
      subsets = np.zeros((math.comb(count, size), count), bool)
      for row, members in enumerate(itertools.combinations(range(count), size)):
        subsets[row, list(members)] = True
    else:
      subsets = best[size - 2] | np.eye(count, dtype=bool)[~best[size - 2]]
    # Filled up to a few shapes, so that not every size is compiled anew.
    filled = np.resize(subsets, (-(-len(subsets) // 128) * 128, count))
    accuracy = np.asarray(_subset_accuracy(filled, majority, reference, observed, latency_s, over))[: len(subsets)]
    best[size - 1] = subsets[np.lexsort((subsets @ latency_s, -accuracy))[0]]
  return best


def random_ranks(seed: int, available: np.ndarray) -> np.ndarray:
  """One random order of the LLMs for each query, int[N, K]: `random_ranks < s` is a random subset of size s."""
  noise = np.random.default_rng(seed).random(available.shape)
  return np.where(available, noise, np.inf).argsort(-1).argsort(-1)


@functools.partial(jax.jit, static_argnames='neighbours')
def _knn_block(embeddings, bank, labels, observed, neighbours):
  similarity = embeddings @ bank.T
  _, nearest = jax.lax.top_k(similarity, neighbours)
  seen = observed[nearest]  # [N, neighbours, K]
  # An LLM that no neighbour knows is taken to be as good as it is on average.
  prior = jnp.sum(labels * observed, 0) / jnp.maximum(observed.sum(0), 1)
  return (jnp.sum(labels[nearest] * seen, 1) + prior) / (seen.sum(1) + 1)


def knn_scores(
  embeddings: np.ndarray, bank: np.ndarray, labels: np.ndarray, observed: np.ndarray, *, neighbours: int
) -> np.ndarray:
  """Each LLM's accuracy on the most similar training queries, float32[N, K], with the mean as one more neighbour.

  Args:
    embeddings: float32[N, D], unit vectors.
    bank: float32[T, D], unit vectors of the training queries.
    labels: float32[T, K].
    observed: bool[T, K].
    neighbours: How many; at most T.
  """
  neighbours = min(neighbours, len(bank))
  rows = max(1, _BLOCK // max(len(bank), neighbours * labels.shape[1]))
  blocks = [
    np.asarray(_knn_block(embeddings[start : start + rows], bank, labels, observed, neighbours))
    for start in range(0, len(embeddings), rows)
  ]
  return np.concatenate(blocks) if blocks else np.zeros((0, labels.shape[1]), np.float32)
