"""The strategy `subset`: for each query, the LLMs whose vote was right on the most similar training queries.

Confidences say how good each LLM is, not whether two of them err together. Recorded answers do: on every training query
the vote of each candidate subset is right or wrong, so that one matrix product estimates how good every subset's vote
is near every test query. What is chosen maximises that estimate minus a cost weight times the expected cost.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from selectllm.data import dataset
from selectllm.infra import batching
from selectllm.infra.typing import Array
from selectllm.selection import learned_vote, types, voting

# What a call of mean cost must add to the chance of a right vote, from few calls to many: the operating points.
COST_WEIGHTS = 2.0 ** (-np.arange(25) / 2)
# Up to so many LLMs every subset is a candidate; beyond, those that a greedy search passes.
MOST_EXACT = 10
# How many of the most similar queries to look at: what does best on training queries.
NEIGHBOURS = (200, 400, 700, 1000)
# A subset's accuracy on all training queries counts like so many neighbours.
PRIOR = 50
# Training queries that the greedy search and the number of neighbours are tried on.
_TRIED = 1_500
_BLOCK = 128


def elect(subsets: jax.Array, answers: jax.Array, weight: jax.Array, cost: jax.Array) -> jax.Array:
  """Elects each subset's answer to one query, int32[M]; -1 where no member has one.

  Args:
    subsets: bool[M, K].
    answers: int[K], each LLM's answer; -1 for none.
    weight: float32[K], what each vote counts; it may be negative.
    cost: float32[K], expected; a tie goes to the answer of the cheapest LLM.
  """
  given = answers != voting.NO_ANSWER
  same = answers[:, None] == answers[None, :]
  support = (subsets * weight) @ same.astype(weight.dtype)  # [M, K], of each LLM's answer
  support = jnp.where(subsets & given, support, -jnp.inf)
  tied = subsets & given & (support == support.max(-1, keepdims=True))
  winner = jnp.argmin(jnp.where(tied, cost, jnp.inf), -1)
  return jnp.where(tied.any(-1), answers[winner], voting.NO_ANSWER).astype(jnp.int32)


def local_accuracy(
  embedding: jax.Array, own: jax.Array, bank: jax.Array, right: jax.Array, neighbours: jax.Array, *, most: int
) -> jax.Array:
  """Returns how often each subset's vote is right on the training queries most similar to one query, float32[G, M].

  Args:
    embedding: float32[D], a unit vector.
    own: int32[], the query's place among the training ones, which is not looked at; -1 if it is none of them.
    bank: float32[T, D], unit vectors of the training queries.
    right: float32[T, M], whether each subset's vote is right on each training query.
    neighbours: int32[G], how many to look at.
    most: The largest of them.
  """
  similarity = jnp.where(jnp.arange(len(bank)) == own, -jnp.inf, bank @ embedding)
  furthest = jax.lax.top_k(similarity, most)[0][neighbours - 1]
  near = (similarity >= furthest[:, None]).astype(right.dtype)  # [G, T]
  return (near @ right + PRIOR * right.mean(0)) / (near.sum(-1, keepdims=True) + PRIOR)


def choose(accuracy: jax.Array, cost: jax.Array, cost_weights: jax.Array, possible: jax.Array) -> jax.Array:
  """Chooses the best subset for one query at each cost weight, int32[R]; a tie goes to the first.

  Args:
    accuracy: float32[M], estimated for this query.
    cost: float32[M], expected for each subset.
    cost_weights: float32[R], what a unit of cost must add to the accuracy.
    possible: bool[M], the subsets all of whose LLMs can be called.
  """
  return jnp.argmax(jnp.where(possible, accuracy - cost_weights[:, None] * cost, -jnp.inf), -1)


def _possible(subsets: jax.Array, observed: jax.Array) -> jax.Array:
  return ~(subsets & ~observed).any(-1)


@jax.jit
def _right(subsets: Array, cost: Array, weight: Array, answers: Array, observed: Array, accepted: Array) -> jax.Array:
  """Returns whether each subset's vote is right, float32[T, M]; its mean (or 0) where a member was not observed."""

  def one(query: Array) -> tuple[Array, Array]:
    weight, answers, observed, accepted = query
    right = dataset.is_right(elect(subsets, answers, weight, cost), accepted)
    return right, _possible(subsets, observed)

  right, counts = jax.lax.map(one, (weight, answers, observed, accepted), batch_size=_BLOCK)
  mean = (right & counts).sum(0) / jnp.maximum(counts.sum(0), 1)
  return jnp.where(counts, right, mean)


@functools.partial(jax.jit, static_argnames='most')
def _gain(
  own: Array, bank: Array, right: Array, cost: Array, cost_weights: Array, neighbours: Array, most: int
) -> Array:
  """Returns what choosing for some training queries brings, mean of right - cost weight * cost, by neighbours."""

  def one(own: Array) -> Array:
    accuracy = local_accuracy(bank[own], own, bank, right, neighbours, most=most)
    chosen = jax.vmap(choose, in_axes=(0, None, None, None))(accuracy, cost, cost_weights, jnp.ones(cost.shape, bool))
    return jnp.mean(right[own][chosen] - cost_weights * cost[chosen], -1)

  return jax.lax.map(one, own, batch_size=_BLOCK).mean(0)


@functools.partial(jax.jit, static_argnames='neighbours')
def _replay(
  subsets: Array,
  cost: Array,
  cost_weights: Array,
  bank: Array,
  right: Array,
  weight: Array,
  answers: Array,
  embeddings: Array,
  observed: Array,
  neighbours: int,
) -> tuple[Array, ...]:
  """Returns the LLMs called, their answer, and the estimated accuracy of their vote, by query and cost weight."""

  def one(query: Array) -> tuple[Array, Array, Array]:
    weight, answers, embedding, observed = query
    accuracy = local_accuracy(embedding, jnp.int32(-1), bank, right, jnp.array([neighbours]), most=neighbours)[0]
    possible = _possible(subsets, observed)
    chosen = choose(accuracy, subsets @ cost, cost_weights, possible)
    mask = subsets[chosen] & observed
    return mask, elect(mask, answers, weight, cost), jnp.where(possible.any(), accuracy[chosen], 0.0)

  return jax.lax.map(one, (weight, answers, embeddings, observed), batch_size=_BLOCK)


def family(
  weight: np.ndarray, answers: np.ndarray, train: types.StrategyQueries, cost_weights: np.ndarray
) -> np.ndarray:
  """Lists the candidate subsets, bool[M, K], from the cheapest to the most expensive.

  All subsets of up to `MOST_EXACT` LLMs. Beyond, all that a greedy search passes that starts from every single LLM, at
  every cost weight, and adds the LLM that helps most until none helps.

  Args:
    weight: float32[T, K], what each vote counts.
    answers: int[T, K], each LLM's answer.
    train: The same T queries.
    cost_weights: float[R], what a unit of cost must add to the accuracy.
  """
  count = len(train.expected_cost)
  if count <= MOST_EXACT:
    subsets = np.array(list(itertools.product([False, True], repeat=count)))[1:]
  else:
    single, passed = np.eye(count, dtype=bool), []
    grown, cost_weight = (
      np.tile(single, (len(cost_weights), 1)),
      np.repeat(cost_weights, count),
    )  # [C, K], [C]: C searches at once
    while len(grown):
      passed.append(grown)
      more = grown[:, None] | single  # [C, K, K]; where a member is added again, the subset is as it was
      distinct, where = np.unique(more.reshape(-1, count), axis=0, return_inverse=True)
      right = _right(
        batching.pad_to_multiple(distinct, 256), train.expected_cost, weight, answers, train.observed, train.accepted
      )
      accuracy = np.asarray(right.mean(0))[where].reshape(more.shape[:-1])
      best = np.argmax(accuracy - cost_weight[:, None] * (more @ train.expected_cost), -1)
      helped = more[np.arange(len(more)), best]
      goes_on = (helped != grown).any(-1)
      grown, cost_weight = helped[goes_on], cost_weight[goes_on]
    subsets = np.unique(np.concatenate(passed), axis=0)
  return subsets[np.argsort(subsets @ train.expected_cost, kind='stable')]


@jax.jit
def _vote_weights(logits: Array) -> Array:
  """Returns what each LLM's vote counts if LLMs err independently, float32[N, K]."""
  bayes = learned_vote.bayes(logits.shape[1])
  return bayes.bias + bayes.slope * logits


def subset(train: types.StrategyQueries, test: types.StrategyQueries, *, seed: int) -> types.Decisions:
  """Chooses one subset a query, as a `types.Strategy` with the operating points `COST_WEIGHTS`; it is called at once.

  `Decisions.p_right` is the estimated accuracy of the chosen subset's vote, which no answer to the query has entered.
  """
  cost_weights = COST_WEIGHTS / max(float(train.expected_cost.mean()), 1e-12)
  weight, answers = _vote_weights(train.logits), train.majority
  tried = np.random.default_rng(seed).permutation(len(train.logits))[:_TRIED]
  subsets = family(weight[tried], answers[tried], train.rows(tried), cost_weights[::6])
  right = _right(subsets, train.expected_cost, weight, answers, train.observed, train.accepted)
  numbers = np.unique(np.minimum(NEIGHBOURS, max(len(right) - 1, 1)))
  gain = _gain(
    tried, train.embeddings, right, subsets @ train.expected_cost, cost_weights, numbers, most=int(numbers[-1])
  )
  mask, answer, p_right = jax.device_get(
    _replay(
      subsets,
      test.expected_cost,
      cost_weights,
      train.embeddings,
      right,
      _vote_weights(test.logits),
      test.majority,
      test.embeddings,
      test.observed,
      neighbours=int(numbers[np.argmax(gain)]),
    )
  )
  return types.Decisions(mask, answer.astype(np.int16), p_right, np.zeros(mask.shape, np.int8))
