"""Routers: one LLM for each query (or the vote of a few), chosen before any is called, each as a strategy.

An LLM's answer is the majority of its samples.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.special

from selectllm.data import dataset
from selectllm.infra import batching
from selectllm.infra.typing import Array
from selectllm.selection import operating_points, types, voting

NEIGHBOURS = np.array([5, 10, 20, 40, 80, 160, 320])
CLUSTERS = (1, 2, 4, 8, 16, 32, 64)
DECAYS = np.array([1e-4, 3e-4, 1e-3], np.float32)
# Queries that the choice of a number looks at, where there are more.
_MOST_TRIED = 2_000
# Queries that are replayed together; a fit takes a multiple of it.
_BLOCK = 1024
_FACTORS, _STEPS, _BATCH, _RATE = 16, 400, 512, 1e-2
# Factorisations, from different starts, whose chances are averaged.
_FITS = 5
# Rounds of k-means, and the LLMs that vote in a cluster.
_ROUNDS, _VOTERS = 10, 3
# Queries of average accuracy that a cluster's accuracies are shrunk with.
_SHRINK = 10


def _brier_score(estimate: np.ndarray, queries: types.StrategyQueries) -> float:
  """Returns the mean squared error of estimated chances float[N, K] to be right (Brier 1950)."""
  return float(np.mean((estimate - queries.right())[queries.observed] ** 2))


def _route(merit: np.ndarray, test: types.StrategyQueries, cost_weights: np.ndarray) -> types.Decisions:
  """Calls one LLM per query: the one of most merit float[N, K] (its chance to be right) minus cost."""
  value = merit[:, None] - cost_weights[:, None] * test.expected_cost
  # The cheaper one first, for it wins ties.
  cheap = np.argsort(test.expected_cost, kind='stable')
  llm = cheap[np.argmax(np.where(test.observed[:, None], value, -np.inf)[..., cheap], -1)]  # [N, M]
  mask = (llm[..., None] == np.arange(merit.shape[1])) & test.observed[:, None]
  called = mask.any(-1)
  answer = np.where(called, np.take_along_axis(test.majority, llm, 1), voting.NO_ANSWER)
  p_right = np.where(called, np.take_along_axis(merit, llm, 1), np.nan)
  return types.Decisions(mask, answer.astype(np.int16), p_right.astype(np.float32), np.zeros(mask.shape, np.int8))


def _accuracy_nearby(
  embeddings: np.ndarray, train: types.StrategyQueries, sizes: np.ndarray, own: np.ndarray | None = None
) -> np.ndarray:
  """Returns each LLM's accuracy on the most similar training queries, float32[N, sizes, K], and the mean as one more.

  Args:
    embeddings: float32[N, D].
    train: The queries to look among.
    sizes: int[sizes], ascending: how many neighbours to take.
    own: int[N], the rows of `train` that the queries are themselves, to leave out.
  """
  right, mean, most, blocks = train.right(), train.accuracy(), int(sizes[-1]), []
  for start in range(0, len(embeddings), _BLOCK):
    similarity = embeddings[start : start + _BLOCK] @ train.embeddings.T
    rows = np.arange(len(similarity))[:, None]
    if own is not None:
      similarity[rows[:, 0], own[start : start + _BLOCK]] = -np.inf
    nearest = np.argpartition(-similarity, most - 1, 1)[:, :most]
    nearest = nearest[rows, np.argsort(-similarity[rows, nearest], 1)]
    total, seen = (np.cumsum(array[nearest], 1, dtype=np.float32)[:, sizes - 1] for array in (right, train.observed))
    blocks.append((total + mean) / (seen + 1))
  return np.concatenate(blocks).astype(np.float32)


def knn_router(train: types.StrategyQueries, test: types.StrategyQueries, *, seed: int) -> types.Decisions:
  """Routes to the LLM of the best accuracy on the k most similar training queries minus its cost.

  After Hu et al. (2024), RouterBench. The k is the one whose estimates have the least squared error on training
  queries, each left out of its own neighbours.
  """
  count = len(train.embeddings)
  sizes = np.unique(np.minimum(NEIGHBOURS, count - 1))
  tried = np.random.default_rng(seed).permutation(count)[:_MOST_TRIED]
  estimates = _accuracy_nearby(train.embeddings[tried], train, sizes, tried)
  best = np.argmin([_brier_score(estimates[:, number], train.rows(tried)) for number in range(len(sizes))])
  accuracy = _accuracy_nearby(test.embeddings, train, sizes[[best]])[:, 0]
  return _route(accuracy, test, operating_points.cost_weights(train))


class Factors(NamedTuple):
  """The parameters of `mf_router`, for K LLMs, embeddings of D numbers and F factors.

  Attributes:
    llm: float32[K, F].
    project: float32[D, F].
    shift: float32[F].
    weight: float32[F].
  """

  llm: Array
  project: Array
  shift: Array
  weight: Array


def _scores(factors: Factors, embedding: jax.Array) -> jax.Array:
  """Returns the log-odds that each LLM is right on one query, float32[K]."""
  return (factors.llm * (embedding @ factors.project + factors.shift)) @ factors.weight


@jax.jit
def _factorise(
  start: Factors, embeddings: Array, right: Array, observed: Array, batches: Array, decay: Array
) -> Factors:
  """Fits factors by Adam on the cross-entropy of minibatches int[steps, B], with a pull of all towards 0."""
  optimiser = optax.adam(optax.cosine_decay_schedule(_RATE, len(batches)))

  def loss(factors: Factors, rows: jax.Array) -> jax.Array:
    scores = jax.vmap(_scores, in_axes=(None, 0))(factors, embeddings[rows])
    losses = optax.sigmoid_binary_cross_entropy(scores, right[rows])
    return losses.mean(where=observed[rows]) + decay * sum(jnp.sum(leaf**2) for leaf in factors)

  def step(carry: Array, rows: Array) -> tuple[Array, None]:
    factors, state = carry
    updates, state = optimiser.update(jax.grad(loss)(factors, rows), state)
    return (optax.apply_updates(factors, updates), state), None

  (factors, _), _ = jax.lax.scan(step, (start, optimiser.init(start)), batches)
  return factors


def _fit_factors(train: types.StrategyQueries, rows: np.ndarray, decay: float, seed: tuple[int, ...]) -> Factors:
  """Fits the factors on some rows of `train`, from a start that `seed` draws."""
  rng = np.random.default_rng(seed)
  (count, width), llms = train.embeddings.shape, train.observed.shape[1]
  shapes = (llms, _FACTORS), (width, _FACTORS), (_FACTORS,), (_FACTORS,)
  start = Factors(*(rng.standard_normal(shape).astype(np.float32) for shape in shapes))
  start = start._replace(weight=start.weight / np.float32(_FACTORS**0.5))
  batches = rng.choice(rows, (_STEPS, _BATCH))
  filled = train.rows(batching.pad_to_multiple(np.arange(count), _BLOCK))
  return _factorise(start, filled.embeddings, filled.right(), filled.observed, batches, decay)


def _chances(factors: Factors, embeddings: np.ndarray) -> np.ndarray:
  """Returns each LLM's chance to be right, float[N, K]."""
  return scipy.special.expit(((embeddings @ factors.project + factors.shift) * factors.weight) @ factors.llm.T)


def mf_router(train: types.StrategyQueries, test: types.StrategyQueries, *, seed: int) -> types.Decisions:
  """Routes by matrix factorisation, the score being w . (E_llm * (P q + b)) of a query's embedding q and an LLM.

  After Ong et al. (2024), RouteLLM: there two LLMs' scores are compared and learnt from preferences, here each is the
  log-odds that the LLM is right, learnt from labels. The decay is the one that does best on a fifth of `train`. What
  one fit finds depends on where it starts: the chances are the mean over several.
  """
  order = np.random.default_rng(seed).permutation(len(train.embeddings))
  fifth = len(order) // 5 + 1
  held, rest = train.rows(order[:fifth]), order[fifth:]

  def chances(rows: np.ndarray, decay: float, fit: int, queries: types.StrategyQueries) -> np.ndarray:
    return _chances(_fit_factors(train, rows, decay, (seed, fit)), queries.embeddings)

  decay = DECAYS[np.argmin([_brier_score(chances(rest, decay, 0, held), held) for decay in DECAYS])]
  mean = np.mean([chances(order, decay, fit, test) for fit in range(_FITS)], 0)
  return _route(mean, test, operating_points.cost_weights(train))


def _cluster(embeddings: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
  """Finds centres float32[count, D] by k-means, from centres drawn far from each other (k-means++)."""
  centres = embeddings[rng.integers(len(embeddings), size=1)]
  distance = np.full(len(embeddings), np.inf)
  while len(centres) < count:
    distance = np.minimum(distance, np.maximum(1 - embeddings @ centres[-1], 0))  # of unit vectors, halved and squared
    weight = distance + 1e-9  # were all queries the same
    chosen = rng.choice(len(embeddings), p=weight / weight.sum())
    centres = np.concatenate([centres, embeddings[[chosen]]])
  for _ in range(_ROUNDS):
    members = np.eye(count, dtype=np.float32)[_nearest(embeddings, centres)]
    sizes = members.sum(0)[:, None]
    centres = np.where(sizes > 0, members.T @ embeddings / np.maximum(sizes, 1), centres)
  return centres


def _nearest(embeddings: np.ndarray, centres: np.ndarray) -> np.ndarray:
  """Returns the nearest centre of each query, int[N]."""
  return np.argmax(embeddings @ centres.T - np.sum(centres**2, 1) / 2, 1)


def _cluster_accuracies(centres: np.ndarray, train: types.StrategyQueries) -> np.ndarray:
  """Returns each LLM's accuracy in each cluster, float[C, K], shrunk to its accuracy everywhere."""
  members = np.eye(len(centres), dtype=np.float32)[_nearest(train.embeddings, centres)].T
  return (members @ train.right() + _SHRINK * train.accuracy()) / (members @ train.observed + _SHRINK)


_vote = jax.jit(jax.vmap(jax.vmap(voting.vote, in_axes=(None, 0, None, None)), in_axes=(0, 0, 0, None)))


def _call_by_cluster(
  accuracy: np.ndarray, queries: types.StrategyQueries, cost_weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Calls those of most accuracy float[N, K] minus cost: one LLM at each cost weight, then `_VOTERS` at each.

  Returns:
    The LLMs called bool[N, 2M, K], the answers int32[N, 2M], and how likely they are right: of one LLM, not of a vote.
  """
  value = accuracy[:, None] - cost_weights[:, None] * queries.expected_cost
  value = np.where(queries.observed[:, None], value, -np.inf)
  place = np.argsort(np.lexsort((np.broadcast_to(queries.expected_cost, value.shape), -value)))
  mask = np.concatenate([place < 1, place < _VOTERS], 1) & queries.observed[:, None]
  of_queries = (queries.majority[..., None], mask, accuracy)
  answer = batching.apply_padded(lambda *block: _vote(*block, queries.expected_cost), of_queries, rows=_BLOCK)
  p_right = np.where(mask.sum(-1) == 1, np.sum(mask * accuracy[:, None], -1), np.nan)
  return mask, answer, p_right


def clusters(train: types.StrategyQueries, test: types.StrategyQueries, *, seed: int) -> types.Decisions:
  """Calls the LLM that did best in the query's cluster minus its cost, or lets the best three vote.

  After Zhang et al. (2025), The Avengers, whose only parameter is the number of clusters, and Avengers-Pro, which
  weighs accuracy against cost. A vote counts its LLM's accuracy in the cluster. A quarter of `train`, held out, tells
  the number of clusters, and within each limit whether one LLM or the vote is better, and at which cost weight.
  """
  train, cost_weights, rng = train.with_all_costs(), operating_points.cost_weights(train), np.random.default_rng(seed)
  order = rng.permutation(len(train.embeddings))
  quarter = len(order) // 4 + 1
  held, rest = train.rows(order[:quarter]), train.rows(order[quarter:])

  def estimate(on: types.StrategyQueries, count: int, queries: types.StrategyQueries) -> np.ndarray:
    sample = on.embeddings[rng.permutation(len(on.embeddings))[:_MOST_TRIED]]
    centres = _cluster(sample, min(count, len(sample)), rng)
    return _cluster_accuracies(centres, on)[_nearest(queries.embeddings, centres)]

  estimates = [estimate(rest, count, held) for count in CLUSTERS]
  number = int(np.argmin([_brier_score(each, held) for each in estimates]))
  mask, answer, _ = _call_by_cluster(estimates[number], held, cost_weights)
  right = dataset.is_right(answer, held.accepted[:, None]).mean(0)
  cost = np.sum(mask * held.cost[:, None], -1).mean(0)
  best = operating_points.best_within(right, cost, operating_points.cost_limits(train))
  mask, answer, p_right = _call_by_cluster(estimate(train, CLUSTERS[number], test), test, cost_weights)
  mask, answer, p_right = mask[:, best], answer[:, best].astype(np.int16), p_right[:, best].astype(np.float32)
  return types.Decisions(mask, answer, p_right, np.zeros(mask.shape, np.int8))


STRATEGIES: dict[str, types.Strategy] = {'knn_router': knn_router, 'mf_router': mf_router, 'clusters': clusters}
