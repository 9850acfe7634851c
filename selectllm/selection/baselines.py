"""What a policy must beat (PAPER: baselines): fixed subsets, random subsets, nearest neighbours."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from selectllm.infra import batching
from selectllm.selection import voting

# Above so many subsets of one size, the best one is searched greedily: the best smaller one and one LLM more.
MOST_SUBSETS = 5_000
# Of more known queries a random sample is enough to choose subsets by, whose accuracies it tells to a third of a point,
# and to look for neighbours in. With all of a million both would take hours.
MOST_KNOWN = 20_000
# Arrays of subsets x queries x LLMs are kept to about so many entries.
_BLOCK = 1 << 24


def some(rows: np.ndarray) -> np.ndarray:
  """At most `MOST_KNOWN` of the rows int[N], chosen at random, in their order."""
  return rows if len(rows) <= MOST_KNOWN else np.sort(np.random.default_rng(0).choice(rows, MOST_KNOWN, replace=False))


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


def random_ranks(rng: int | np.random.Generator, available: np.ndarray) -> np.ndarray:
  """One random order of the LLMs for each query, int[N, K]: `random_ranks < s` is a random subset of size s.

  Args:
    rng: A seed; or a generator, which goes on where it stopped at the last block of queries.
    available: bool[N, K].
  """
  noise = np.random.default_rng(rng).random(available.shape)
  order = np.where(available, noise, np.inf).argsort(-1)
  ranks = np.empty_like(order)
  np.put_along_axis(ranks, order, np.arange(order.shape[-1])[None], -1)
  return ranks


@functools.partial(jax.jit, static_argnames='neighbours')
def _nearest(embeddings, bank, neighbours):
  return jax.lax.top_k(embeddings @ bank.T, neighbours)[1]


def nearest(embeddings: np.ndarray, bank: np.ndarray, *, neighbours: int) -> np.ndarray:
  """The most similar known queries, from the most similar one, int32[N, neighbours].

  Args:
    embeddings: float32[N, D], unit vectors.
    bank: float32[T, D], unit vectors of the known queries.
    neighbours: How many; at most T.
  """
  neighbours = min(neighbours, len(bank))
  step = functools.partial(_nearest, bank=jnp.asarray(bank), neighbours=neighbours)
  return batching.apply(step, (embeddings,), rows=max(1, _BLOCK // len(bank)))


@jax.jit
def _knn_scores(near, labels, observed):
  seen = observed[near]  # [N, neighbours, K]
  # An LLM that no neighbour knows is taken to be as good as it is on average.
  prior = jnp.sum(labels * observed, 0) / jnp.maximum(observed.sum(0), 1)
  return (jnp.sum(labels[near] * seen, 1) + prior) / (seen.sum(1) + 1)


def knn_scores(near: np.ndarray, labels: np.ndarray, observed: np.ndarray) -> np.ndarray:
  """Each LLM's accuracy on the most similar known queries, float32[N, K], with the mean as one more neighbour.

  Args:
    near: int32[N, neighbours], from `nearest`.
    labels: float32[T, K].
    observed: bool[T, K].
  """
  step = functools.partial(_knn_scores, labels=jnp.asarray(labels), observed=jnp.asarray(observed))
  return batching.apply(step, (near,), rows=max(1, _BLOCK // (near.shape[1] * labels.shape[1])))
