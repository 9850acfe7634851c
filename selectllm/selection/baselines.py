"""Baselines of SelectLLM (arXiv 2408.08545): fixed subsets and weights, random subsets, nearest neighbours."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from selectllm.data import dataset, splits
from selectllm.infra import batching
from selectllm.infra.typing import Array
from selectllm.selection import voting

# Above so many subsets of one size, the best one is searched greedily: the best smaller one and one LLM more.
MOST_SUBSETS = 5_000
# Of more known queries a random sample is enough to choose subsets by, whose accuracies it tells to a third of a point,
# and to look for neighbours in. With all of a million both would take hours.
MOST_KNOWN = 20_000
# Answers that a query is taken to offer, of which the most accurate number on known queries weighs a fixed vote.
ALTERNATIVES = np.array([2, 3, 5, 9, 17, 33])
# Candidates of one call of the device, so that it is compiled once.
_CANDIDATES = 128
_QUERIES = 512
# Arrays of subsets x queries x LLMs are kept to about so many entries; of votes, that a processor's cache holds them.
_BLOCK = 1 << 24
_VOTES = 1 << 20


def subsample(rows: np.ndarray) -> np.ndarray:
  """Returns at most `MOST_KNOWN` of the rows int[N], chosen at random, in their order."""
  return rows if len(rows) <= MOST_KNOWN else np.sort(np.random.default_rng(0).choice(rows, MOST_KNOWN, replace=False))


def mean_by_llm(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
  """Returns means over the queries that each LLM was observed on, float64[K]; NaN where there are none."""
  with np.errstate(invalid='ignore'):
    return np.where(observed, values, 0).sum(0, dtype=np.float64) / observed.sum(0)


def by_accuracy(labels: np.ndarray, observed: np.ndarray, latency_s: np.ndarray) -> np.ndarray:
  """Ranks LLMs from the most to the least accurate, int[K]; ties to the faster one.

  Args:
    labels: float32[N, K] of the queries to choose on.
    observed: bool[N, K].
    latency_s: float32[K], expected.
  """
  accuracy = mean_by_llm(labels, observed)
  return np.lexsort((latency_s, -np.where(np.isnan(accuracy), -np.inf, accuracy)))


@functools.partial(jax.jit, static_argnames='over')
def _accuracies(
  subsets: Array, weights: Array, answers: Array, accepted: Array, observed: Array, priority: Array, over: str
) -> Array:
  """Returns the accuracy, float32[M], of every subset bool[M, K]'s vote, over queries that it was observed on."""

  def right(subset: Array, weight: Array, answers: Array, accepted: Array, observed: Array) -> Array:
    return dataset.is_right(voting.vote(answers, subset & observed, weight, priority, over=over), accepted)

  def accuracy(candidate: tuple[Array, Array]) -> Array:
    rights = jax.vmap(right, in_axes=(None, None, 0, 0, 0))(*candidate, answers, accepted, observed)
    return rights.mean(where=(candidate[0] & observed).any(-1))

  return jax.lax.map(accuracy, (subsets, weights), batch_size=16)


def _vote_accuracies(
  subsets: np.ndarray, weights: np.ndarray, known: dataset.Responses, priority: np.ndarray, over: str
) -> np.ndarray:
  """Returns the accuracy on known queries, float32[M], of the votes of subsets bool[M, K] weighted float32[M, K]."""
  filled = (batching.pad_to_multiple(array, _CANDIDATES) for array in (subsets, weights.astype(np.float32)))
  # Of few shapes, so that not every number of queries is compiled anew; nobody was observed on what fills up.
  voted = [batching.pad_to_multiple(of, _QUERIES) for of in (known.ballots(over), known.accepted, known.observed)]
  voted[2] = voted[2] & (np.arange(len(voted[2])) < len(known.observed))[:, None]
  return np.asarray(_accuracies(*filled, *voted, priority, over))[: len(subsets)]


class FixedVote(NamedTuple):
  """How LLMs vote whatever the query is.

  Attributes:
    priority: float32[K], whose answer wins a tie: the lowest; see `fit_vote`.
    weight: float32[K], what an LLM's vote counts in `static_weighted`; 1 without answers to vote for.
  """

  priority: np.ndarray
  weight: np.ndarray

  def of(self, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns weight and priority in `static_weighted`, or in `all_llms`, where all votes count the same."""
    return (self.weight if name == 'static_weighted' else np.ones_like(self.weight)), self.priority


def fit_vote(known: dataset.Responses, latency_s: np.ndarray, *, over: str, ties: str) -> FixedVote:
  """Fits the vote of fixed choices of LLMs on known queries.

  A tie goes to the LLM most accurate on them, or as `ties` says. A weight is log(p (m - 1) / (1 - p)), p being the
  LLM's smoothed accuracy and m how many answers there are to choose from, evenly by who errs (Ben-Yashar and Paroush
  2001); with m = 2 it is the log-odds of being right (Nitzan and Paroush 1982). The m is the one of `ALTERNATIVES`
  whose vote of all is most accurate on `known`, for errors are not made independently. No vote counts less than 0.

  Args:
    known: Train and validation queries.
    latency_s: float32[K], expected.
    over: See `voting.vote`.
    ties: See `voting.tie_order`.
  """
  accuracy = np.nan_to_num(mean_by_llm(known.labels, known.observed), nan=-1.0).astype(np.float32)
  priority = np.asarray(voting.tie_order(accuracy, latency_s, ties=ties))
  if not known.has_answers:
    return FixedVote(priority, np.ones_like(priority))
  seen, right = known.observed.sum(0), np.sum(known.labels, 0, where=known.observed)
  weights = np.maximum(np.log((right + 1) / (seen - right + 1)) + np.log(ALTERNATIVES - 1)[:, None], 0)
  accuracies = _vote_accuracies(np.ones(weights.shape, bool), weights, known, priority, over)
  return FixedVote(priority, weights[np.argmax(accuracies)].astype(np.float32))


def best_subsets(
  known: dataset.Responses, latency_s: np.ndarray, priority: np.ndarray, *, over: str = 'majority'
) -> np.ndarray:
  """Finds for every size the subset whose vote was most accurate on known queries; of equals, the faster one.

  Args:
    known: Train and validation queries.
    latency_s: float32[K], expected.
    priority: float32[K], see `FixedVote`.
    over: See `voting.vote`.

  Returns:
    bool[K, K], row s - 1 for size s; exact up to `MOST_SUBSETS` subsets of a size, greedy beyond.
  """
  count = known.observed.shape[1]
  best = np.zeros((count, count), bool)
  for size in range(1, count + 1):
    if math.comb(count, size) <= MOST_SUBSETS:
      subsets = np.zeros((math.comb(count, size), count), bool)
      for row, members in enumerate(itertools.combinations(range(count), size)):
        subsets[row, list(members)] = True
    else:
      subsets = best[size - 2] | np.eye(count, dtype=bool)[~best[size - 2]]
    accuracy = _vote_accuracies(subsets, np.ones(subsets.shape), known, priority, over)
    best[size - 1] = subsets[np.lexsort((subsets @ latency_s, -accuracy))[0]]
  return best


@functools.partial(jax.jit, static_argnames='over')
def _random_accuracy(
  subsets: Array, answers: Array, accepted: Array, observed: Array, priority: Array, over: str
) -> jax.Array:
  """Returns how often random subsets of each size, drawn from `subsets` bool[M, K], are right, float32[N, K]."""
  count = subsets.shape[1]
  even = jnp.ones(count)
  of_size = (subsets.sum(-1)[:, None] == jnp.arange(count + 1)).astype(jnp.float32)  # [M, K + 1]

  def one(answers: Array, accepted: Array, observed: Array) -> jax.Array:
    elected = jax.vmap(lambda subset: voting.vote(answers, subset, even, priority, over=over))(subsets)
    callable_ = ~(subsets & ~observed).any(-1)
    right = (dataset.is_right(elected, accepted) & callable_).astype(jnp.float32) @ of_size
    mean = right / jnp.maximum(callable_.astype(jnp.float32) @ of_size, 1)
    return mean[jnp.minimum(jnp.arange(1, count + 1), observed.sum())]

  return jax.vmap(one)(answers, accepted, observed)


def random_accuracy(asked: dataset.Responses, priority: np.ndarray, *, over: str) -> np.ndarray:
  """Returns how often the votes of all subsets of each size are right on each query, float32[N, K].

  Args:
    asked: N queries. Of a query that fewer LLMs can be called for, all of these are the subset.
    priority: float32[K], see `FixedVote`.
    over: See `voting.vote`.
  """
  count, ballots = asked.observed.shape[1], asked.ballots(over)
  subsets = np.array(list(itertools.product([False, True], repeat=count)))[1:]
  step = functools.partial(_random_accuracy, priority=priority, over=over)
  rows = max(1, _VOTES // (subsets.size * ballots.shape[2]))
  return batching.apply(lambda *of: step(subsets, *of), (ballots, asked.accepted, asked.observed), rows=rows)


def expected_slowest(seconds: np.ndarray, available: np.ndarray, sizes: np.ndarray) -> np.ndarray:
  """Returns the mean over all subsets of each size of their slowest call, float32[N, M]; NaN where one is unknown.

  Of n calls, C(i - 1, s - 1) of the C(n, s) subsets of size s have the i-th fastest call as their slowest.

  Args:
    seconds: float32[N, K].
    available: bool[N, K]; where fewer are than a size says, all of them are the subset.
    sizes: int[M].
  """
  calls = available.sum(1)[:, None, None]
  ordered = np.sort(np.where(available, seconds, -np.inf), 1)[:, None]  # unavailable ones first, unknown ones last
  faster = np.arange(seconds.shape[1]) - (seconds.shape[1] - calls)  # [N, 1, K], below 0 for unavailable ones
  size = np.minimum(sizes[:, None], calls)  # [N, M, 1]

  def log_choose(of: np.ndarray, some: np.ndarray) -> np.ndarray:
    return -scipy.special.betaln(1 + of - some, 1 + some) - np.log1p(of)

  possible = (faster >= size - 1) & (faster >= 0)
  chance = np.exp(
    log_choose(np.where(possible, faster, size), np.where(possible, size - 1, 0)) - log_choose(calls, size)
  )
  return np.sum(chance * ordered, -1, where=possible).astype(np.float32)


def random_ranks(rng: int | np.random.Generator, available: np.ndarray) -> np.ndarray:
  """Draws one random order of the LLMs for each query, int[N, K]: `random_ranks < s` is a random subset of size s.

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
def _nearest(embeddings: Array, bank: Array, neighbours: int) -> Array:
  return jax.lax.top_k(embeddings @ bank.T, neighbours)[1]


def nearest(embeddings: np.ndarray, bank: np.ndarray, *, neighbours: int) -> np.ndarray:
  """Finds the most similar known queries, from the most similar one, int32[N, neighbours].

  Args:
    embeddings: float32[N, D], unit vectors.
    bank: float32[T, D], unit vectors of the known queries.
    neighbours: How many; at most T.
  """
  neighbours = min(neighbours, len(bank))
  step = functools.partial(_nearest, bank=jnp.asarray(bank), neighbours=neighbours)
  return batching.apply(step, (embeddings,), rows=max(1, _BLOCK // len(bank)))


@jax.jit
def _knn_scores(near: Array, labels: Array, observed: Array) -> Array:
  seen = observed[near]  # [N, neighbours, K]
  # An LLM that no neighbour knows is taken to be as good as it is on average.
  prior = jnp.sum(labels * observed, 0) / jnp.maximum(observed.sum(0), 1)
  return (jnp.sum(labels[near] * seen, 1) + prior) / (seen.sum(1) + 1)


def knn_scores(near: np.ndarray, labels: np.ndarray, observed: np.ndarray) -> np.ndarray:
  """Returns each LLM's accuracy on the most similar known queries, float32[N, K], with the mean as one neighbour more.

  Args:
    near: int32[N, neighbours], from `nearest`.
    labels: float32[T, K].
    observed: bool[T, K].
  """
  step = functools.partial(_knn_scores, labels=jnp.asarray(labels), observed=jnp.asarray(observed))
  return batching.apply(step, (near,), rows=max(1, _BLOCK // (near.shape[1] * labels.shape[1])))


class FittedBaselines(NamedTuple):
  """The baselines, fitted on train (and, for choices, validation).

  Attributes:
    latency_s: float32[K], see `expected_latency_s`.
    top: int[K], LLMs from the most accurate on train.
    best_single: The LLM most accurate on train and validation.
    vote: Of fixed choices of LLMs, fitted on train and validation.
    best: bool[K, K], the subset of each size whose vote was most accurate on train and validation; None without votes.
    knn: float32[N, K], nearest-neighbour scores of validation and test queries; 0 for others.
    neighbours: How many neighbours did best on validation.
  """

  latency_s: np.ndarray
  top: np.ndarray
  best_single: int
  vote: FixedVote
  best: np.ndarray | None
  knn: np.ndarray
  neighbours: int


def sizes_of(responses: dataset.Responses) -> np.ndarray:
  """Returns the subset sizes to evaluate: 1..K, or 1 alone where there are scores and no votes."""
  return np.arange(1, (responses.labels.shape[1] if responses.has_answers else 1) + 1, dtype=np.int32)


def expected_latency_s(responses: dataset.Responses, split: np.ndarray) -> np.ndarray:
  """Returns each LLM's mean latency on train, float32[K]; where it is unknown, as slow as any, to win no tie."""
  latency_s, observed = (array[split == splits.TRAIN] for array in (responses.latency_s, responses.observed))
  mean = mean_by_llm(latency_s, observed & ~np.isnan(latency_s))
  slowest = np.max(mean, where=~np.isnan(mean), initial=0)
  return np.where(np.isnan(mean), slowest, mean).astype(np.float32)


def fit_baselines(
  responses: dataset.Responses,
  split: np.ndarray,
  embeddings: np.ndarray,
  *,
  over: str,
  ties: str,
  knn_neighbours: Sequence[int],
) -> FittedBaselines:
  """Fits the baselines on train and validation; best subsets and neighbours on `subsample` of their queries.

  Args:
    responses: All N queries.
    split: int8[N].
    embeddings: float32[N, D], unit vectors of the pretrained encoder.
    over: See `voting.vote`.
    ties: See `voting.tie_order`.
    knn_neighbours: Numbers of neighbours, of which the most accurate on validation is taken.
  """
  train, validation = split == splits.TRAIN, split == splits.VALIDATION
  latency_s = expected_latency_s(responses, split)
  learned = train | validation
  known = responses.rows(subsample(np.flatnonzero(learned)))
  vote = fit_vote(known, latency_s, over=over, ties=ties)
  best = best_subsets(known, latency_s, vote.priority, over=over) if responses.has_answers else None
  # Nothing asks for the neighbours of other queries.
  asked = np.flatnonzero(validation | (split == splits.TEST))
  bank = subsample(np.flatnonzero(train))
  nearest_rows = nearest(embeddings[asked], embeddings[bank], neighbours=max(knn_neighbours))

  def knn(neighbours: int, of: np.ndarray) -> np.ndarray:
    return knn_scores(nearest_rows[of, :neighbours], responses.labels[bank], responses.observed[bank])

  tuned_on = validation[asked]

  def validation_accuracy(neighbours: int) -> float:
    scores = np.where(responses.observed[validation], knn(neighbours, tuned_on), -np.inf)
    chosen = scores.argmax(-1)[:, None]
    return float(np.take_along_axis(responses.labels[validation], chosen, 1).mean())

  # The first of equals, from many neighbours to few: the smoother one.
  neighbours = max(sorted(knn_neighbours, reverse=True), key=validation_accuracy)
  scores = np.zeros(responses.labels.shape, np.float32)
  scores[asked] = knn(neighbours, np.ones(len(asked), bool))
  return FittedBaselines(
    latency_s=latency_s,
    top=by_accuracy(responses.labels[train], responses.observed[train], latency_s),
    best_single=int(by_accuracy(responses.labels[learned], responses.observed[learned], latency_s)[0]),
    vote=vote,
    best=best,
    knn=scores,
    neighbours=neighbours,
  )
