"""The strategy `subset`: for each query, the LLMs whose vote was right on the most similar known queries.

Confidences say how good each LLM is, not whether two of them err together. Recorded answers do: on every known query
the vote of each candidate subset is right or wrong, so that one matrix product estimates how good every subset's vote
is near every asked query. What is chosen maximises that estimate minus a rate times the expected price.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from selectllm.selection import learned_vote, types, voting

# What a call of mean price must add to the chance of a right vote: the settings, from the cheapest to the dearest.
RATES = 2.0 ** (-np.arange(25) / 2)
# Up to so many LLMs every subset is a candidate; beyond, those that a greedy search passes.
MOST_EXACT = 10
# How many of the most similar queries to look at: what does best on known queries.
NEIGHBOURS = (200, 400, 700, 1000)
# A subset's accuracy on all known queries counts like so many neighbours.
PRIOR = 50
# Known queries that the greedy search and the number of neighbours are tried on.
_TRIED = 1_500
_BLOCK = 128


def elect(subsets: jax.Array, answers: jax.Array, weight: jax.Array, price: jax.Array) -> jax.Array:
  """The answer that each subset elects for one query, int32[M]; -1 where no member has one.

  Args:
    subsets: bool[M, K].
    answers: int[K], each LLM's answer; -1 for none.
    weight: float32[K], what each vote counts; it may be negative.
    price: float32[K], expected; a tie goes to the answer of the cheapest LLM.
  """
  given = answers != voting.NO_ANSWER
  same = answers[:, None] == answers[None, :]
  support = (subsets * weight) @ same.astype(weight.dtype)  # [M, K], of each LLM's answer
  support = jnp.where(subsets & given, support, -jnp.inf)
  tied = subsets & given & (support == support.max(-1, keepdims=True))
  winner = jnp.argmin(jnp.where(tied, price, jnp.inf), -1)
  return jnp.where(tied.any(-1), answers[winner], voting.NO_ANSWER).astype(jnp.int32)


def local_accuracy(
  embedding: jax.Array, own: jax.Array, bank: jax.Array, right: jax.Array, neighbours: jax.Array, *, most: int
) -> jax.Array:
  """How often each subset's vote is right on the known queries most similar to one query, float32[G, M].

  Args:
    embedding: float32[D], a unit vector.
    own: int32[], the query's place among the known ones, which is not looked at; -1 if it is none of them.
    bank: float32[T, D], unit vectors of the known queries.
    right: float32[T, M], whether each subset's vote is right on each known query.
    neighbours: int32[G], how many to look at.
    most: The largest of them.
  """
  similarity = jnp.where(jnp.arange(len(bank)) == own, -jnp.inf, bank @ embedding)
  furthest = jax.lax.top_k(similarity, most)[0][neighbours - 1]
  near = (similarity >= furthest[:, None]).astype(right.dtype)  # [G, T]
  return (near @ right + PRIOR * right.mean(0)) / (near.sum(-1, keepdims=True) + PRIOR)


def choose(accuracy: jax.Array, price: jax.Array, rates: jax.Array, possible: jax.Array) -> jax.Array:
  """The best subset for one query at each rate, int32[R]; a tie goes to the first.

  Args:
    accuracy: float32[M], estimated for this query.
    price: float32[M], expected for each subset.
    rates: float32[R], what a unit of price must add to the accuracy.
    possible: bool[M], the subsets all of whose LLMs can be called.
  """
  return jnp.argmax(jnp.where(possible, accuracy - rates[:, None] * price, -jnp.inf), -1)


def _possible(subsets: jax.Array, observed: jax.Array) -> jax.Array:
  return ~(subsets & ~observed).any(-1)


@jax.jit
def _right(subsets, price, weight, answers, observed, reference):
  """Whether each subset's vote is right, float32[T, M]; its mean (or 0) where a member was not observed."""

  def one(query):
    weight, answers, observed, reference = query
    return elect(subsets, answers, weight, price) == reference, _possible(subsets, observed)

  right, counts = jax.lax.map(one, (weight, answers, observed, reference), batch_size=_BLOCK)
  mean = (right & counts).sum(0) / jnp.maximum(counts.sum(0), 1)
  return jnp.where(counts, right, mean)


@functools.partial(jax.jit, static_argnames='most')
def _gain(own, bank, right, price, rates, neighbours, most):
  """What choosing for some of the known queries brings, mean of right - rate * price, for each number of neighbours."""

  def one(own):
    accuracy = local_accuracy(bank[own], own, bank, right, neighbours, most=most)
    chosen = jax.vmap(choose, in_axes=(0, None, None, None))(accuracy, price, rates, jnp.ones(price.shape, bool))
    return jnp.mean(right[own][chosen] - rates * price[chosen], -1)

  return jax.lax.map(one, own, batch_size=_BLOCK).mean(0)


@functools.partial(jax.jit, static_argnames='neighbours')
def _play(subsets, price, rates, bank, right, weight, answers, embeddings, observed, neighbours):
  """The LLMs called, what they answer, and how accurate their vote is estimated to be, for every query and rate."""

  def one(query):
    weight, answers, embedding, observed = query
    accuracy = local_accuracy(embedding, jnp.int32(-1), bank, right, jnp.array([neighbours]), most=neighbours)[0]
    possible = _possible(subsets, observed)
    chosen = choose(accuracy, subsets @ price, rates, possible)
    mask = subsets[chosen] & observed
    return mask, elect(mask, answers, weight, price), jnp.where(possible.any(), accuracy[chosen], 0.0)

  return jax.lax.map(one, (weight, answers, embeddings, observed), batch_size=_BLOCK)


def family(weight: np.ndarray, answers: np.ndarray, known: types.StrategyQueries, rates: np.ndarray) -> np.ndarray:
  """The candidate subsets, bool[M, K], from the cheapest to the dearest.

  All subsets of up to `MOST_EXACT` LLMs. Beyond, all that a greedy search passes that starts from every single LLM, at
  every rate, and adds the LLM that helps most until none helps.

  Args:
    weight: float32[T, K], what each vote counts.
    answers: int[T, K], each LLM's answer.
    known: The same T queries.
    rates: float[R], what a unit of price must add to the accuracy.
  """
  count = len(known.expected_cost)
  if count <= MOST_EXACT:
    subsets = np.array(list(itertools.product([False, True], repeat=count)))[1:]
  else:
    single, passed = np.eye(count, dtype=bool), []
    grown, rate = np.tile(single, (len(rates), 1)), np.repeat(rates, count)  # [C, K], [C]: C searches at once
    while len(grown):
      passed.append(grown)
      more = grown[:, None] | single  # [C, K, K]; where a member is added again, the subset is as it was
      distinct, where = np.unique(more.reshape(-1, count), axis=0, return_inverse=True)
      # Filled up to a few shapes, so that not every step is compiled anew.
      filled = np.resize(distinct, (-(-len(distinct) // 256) * 256, count))
      right = _right(filled, known.expected_cost, weight, answers, known.observed, known.reference)
      accuracy = np.asarray(right.mean(0))[where].reshape(more.shape[:-1])
      best = np.argmax(accuracy - rate[:, None] * (more @ known.expected_cost), -1)
      helped = more[np.arange(len(more)), best]
      goes_on = (helped != grown).any(-1)
      grown, rate = helped[goes_on], rate[goes_on]
    subsets = np.unique(np.concatenate(passed), axis=0)
  return subsets[np.argsort(subsets @ known.expected_cost, kind='stable')]


@jax.jit
def _vote_weights(logits):
  """Returns what each LLM's vote counts if LLMs err independently, float32[N, K]."""
  bayes = learned_vote.bayes(logits.shape[1])
  return bayes.bias + bayes.slope * logits


def subset(known: types.StrategyQueries, asked: types.StrategyQueries, *, seed: int) -> types.Decisions:
  """A `types.Strategy`, its settings being `RATES`; all LLMs of a subset are called at once.

  `Played.p_right` is the estimated accuracy of the chosen subset's vote, which no answer to the query has entered.
  """
  rates = RATES / max(float(known.expected_cost.mean()), 1e-12)
  weight, answers = _vote_weights(known.logits), known.majority
  tried = np.random.default_rng(seed).permutation(len(known.logits))[:_TRIED]
  subsets = family(weight[tried], answers[tried], known.rows(tried), rates[::6])
  right = _right(subsets, known.expected_cost, weight, answers, known.observed, known.reference)
  numbers = np.unique(np.minimum(NEIGHBOURS, max(len(right) - 1, 1)))
  gain = _gain(tried, known.embeddings, right, subsets @ known.expected_cost, rates, numbers, most=int(numbers[-1]))
  mask, answer, p_right = jax.device_get(
    _play(
      subsets,
      asked.expected_cost,
      rates,
      known.embeddings,
      right,
      _vote_weights(asked.logits),
      asked.majority,
      asked.embeddings,
      asked.observed,
      neighbours=int(numbers[np.argmax(gain)]),
    )
  )
  return types.Decisions(mask, answer.astype(np.int16), p_right, np.zeros(mask.shape, np.int8))
