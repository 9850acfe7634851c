"""A learned vote: how likely each answer is right, given who gave it.

A conditional logit over the answers that the called LLMs gave, and over "another one": an LLM adds to the utility of
its answer what its log-odds say, pairs of LLMs that agree add what their agreement is worth (less, where they err
alike), and what is left for other answers depends on who has been called. Bayes' rule with independent errors is the
special case that the fit is shrunk towards: then an LLM's vote weighs its log-odds.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from selectllm.data import dataset
from selectllm.infra import batching, optimize
from selectllm.infra.typing import Array
from selectllm.selection import types, voting

# An LLM that errs is taken to choose evenly among so many wrong answers, where nothing better is known.
_DISTRACTORS = 8.0
# Queries that a fit looks at; more change nothing.
_MOST_QUERIES = 20_000
# Random sets of called LLMs for each query of a fit, beside all of them: the vote must know what few answers are worth.
_CALLED_SETS = 5
_SHRINK, _SHRINK_PAIRS = 5.0, 5.0
# Queries that are replayed together, and of which a fit takes a multiple: of few shapes, so that not every number of
# queries is compiled anew.
_BLOCK = 512
# Of more LLMs, agreement of pairs is not looked at: time would grow with their third power, and pairs with the second.
MOST_PAIRED = 50


class Votes(NamedTuple):
  """The votes of K LLMs on one query, called or not.

  Attributes:
    candidates: int32[K], each LLM's majority answer; -1 for none.
    support: float32[K, K], the share of the row's samples that give the column's answer.
  """

  candidates: Int[Array, '*query K']
  support: Float[Array, '*query K K']


class Weights(NamedTuple):
  """The parameters of the vote, for K LLMs.

  Attributes:
    bias: float32[K], the weight of an LLM's answer beside its log-odds.
    slope: float32[], the weight of its log-odds.
    pair: float32[K, K], symmetric, 0 on the diagonal: what agreement of two LLMs adds; 0 in pools of more than
      `MOST_PAIRED`.
    other: float32[], the utility of an answer that nobody called gave.
    other_called: float32[K], what each called LLM adds to it.
    other_distinct: float32[], what log(1 + different answers) adds to it.
    other_logit: float32[], what the mean log-odds of the called LLMs add to it.
  """

  bias: Array
  slope: Array
  pair: Array
  other: Array
  other_called: Array
  other_distinct: Array
  other_logit: Array


class Posterior(NamedTuple):
  """The likeliest answers, given those of the called LLMs.

  Attributes:
    answer: int32[], the likeliest answer; -1 where nobody called gave one.
    top: float32[], its probability; 0 without one.
    second: float32[], that of the next likeliest answer given; 0 without one.
  """

  answer: Array
  top: Array
  second: Array


def count_votes(answers: Int[Array, 'K S']) -> Votes:
  """Counts the votes in the answers int[K, S] to one query."""
  candidates = voting.majority(answers)
  given = answers != voting.NO_ANSWER
  says = (answers[:, :, None] == candidates[None, None, :]) & given[:, :, None]  # [K, S, K]
  return Votes(candidates, jnp.sum(says, 1) / jnp.maximum(given.sum(1), 1)[:, None])


def bayes(num_llms: int) -> Weights:
  """Returns Bayes' rule for LLMs that err independently: a vote weighs its log-odds (and an even prior)."""
  prior = np.float32(np.log(_DISTRACTORS))
  zeros = np.zeros(num_llms, np.float32)
  none = np.float32(0)
  return Weights(zeros + prior, np.float32(1), np.zeros((num_llms, num_llms), np.float32), prior, zeros, none, none)


def _log_probabilities(
  weights: Weights, logits: Float[Array, ' K'], votes: Votes, called: Bool[Array, ' K']
) -> tuple[Float[Array, ' K'], Float[Array, '']]:
  """Returns log-probabilities of candidates float32[K] (-inf but for the first called LLM with one), of others."""
  support = votes.support * called[:, None]
  utility = (weights.bias + weights.slope * logits) @ support
  if logits.size <= MOST_PAIRED:
    utility += 0.5 * jnp.einsum('kc,kj,jc->c', support, weights.pair, support)
  same = (votes.candidates[:, None] == votes.candidates[None, :]) & called[:, None]
  first = jnp.argmax(same, 0) == jnp.arange(logits.size)
  stands = called & (votes.candidates != voting.NO_ANSWER) & first
  other = weights.other + weights.other_called @ called + weights.other_distinct * jnp.log1p(stands.sum())
  other += weights.other_logit * jnp.sum(called * logits) / jnp.maximum(called.sum(), 1)
  utility = jnp.where(stands, utility, -jnp.inf)
  total = jnp.logaddexp(jax.nn.logsumexp(utility), other)
  return utility - total, other - total


def posterior(weights: Weights, logits: Float[Array, ' K'], votes: Votes, called: Bool[Array, ' K']) -> Posterior:
  """Returns how likely the likeliest answers to one query are right.

  Args:
    weights: Of the vote.
    logits: float32[K], calibrated log-odds that each LLM is right.
    votes: From `count_votes`.
    called: bool[K], whose answers are known; those of the others are not looked at.
  """
  given, _ = _log_probabilities(weights, logits, votes, called)
  best = jnp.argmax(given)
  rest = jnp.where(jnp.arange(given.size) == best, -jnp.inf, given)
  answer = jnp.where(jnp.isfinite(given[best]), votes.candidates[best], voting.NO_ANSWER)
  return Posterior(answer, jnp.exp(given[best]), jnp.exp(rest.max()))


def _loss(weights: Weights, logits: Array, votes: Votes, called: Array, accepted: Array, counted: Array) -> jax.Array:
  """Returns the negative log-likelihood of right answers under random sets of called LLMs, shrunk towards Bayes."""
  pair = (weights.pair + weights.pair.T) / 2 * (1 - jnp.eye(logits.shape[1]))
  shaped = weights._replace(pair=pair)

  def one(logits: Array, votes: Votes, called: Array, accepted: Array) -> jax.Array:
    given, other = _log_probabilities(shaped, logits, votes, called)
    right = jnp.isfinite(given) & dataset.is_right(votes.candidates, accepted)
    found = jax.nn.logsumexp(jnp.where(right, given, jnp.where(right.any(), -jnp.inf, 0.0)))
    return -jnp.where(right.any(), found, other)

  of_sets = jax.vmap(one, in_axes=(None, None, 0, None))
  losses = jax.vmap(of_sets)(logits, votes, called, accepted).mean(1)
  spread = jnp.sum((weights.bias - weights.bias.mean()) ** 2) + jnp.sum(weights.other_called**2)
  rest = (weights.slope - 1) ** 2 + weights.other_distinct**2 + weights.other_logit**2
  shrink = _SHRINK * (spread + rest) + _SHRINK_PAIRS * jnp.sum(pair**2) / 2
  return jnp.sum(losses * counted) + shrink / 2


@jax.jit
def count_all_votes(answers: Int[Array, 'N K S']) -> Votes:
  """Applies `count_votes` to N queries, int[N, K, S]."""
  return jax.vmap(count_votes)(answers)


def fit(
  logits: Float[Array, 'N K'],
  answers: Int[Array, 'N K S'],
  accepted: Int[Array, 'N R'],
  observed: Bool[Array, 'N K'],
  *,
  seed: int,
) -> Weights:
  """Fits the vote on queries whose right answers are known.

  Args:
    logits: float32[N, K], out of fold.
    answers: int16[N, K, S].
    accepted: int16[N, R].
    observed: bool[N, K].
    seed: Of the sets of LLMs that are taken to be called.
  """
  rng = np.random.default_rng(seed)
  count, num_llms = observed.shape
  rows = rng.permutation(count)[:_MOST_QUERIES]
  filled = batching.pad_to_multiple(rows, _BLOCK if num_llms <= MOST_PAIRED else 64)
  counted = (np.arange(len(filled)) < len(rows)).astype(np.float32)
  sizes = rng.integers(1, num_llms + 1, (len(filled), _CALLED_SETS, 1))
  places = rng.random((len(filled), _CALLED_SETS, num_llms)).argsort(-1).argsort(-1)
  called = np.concatenate([places < sizes, np.ones((len(filled), 1, num_llms), bool)], 1) & observed[filled, None]
  votes = count_all_votes(answers[filled])
  data = (logits[filled].astype(np.float32), votes, called, accepted[filled].astype(np.int32), counted)
  found = optimize.minimise(_loss, bayes(num_llms), *data)
  return found._replace(pair=(found.pair + found.pair.T) / 2 * (1 - np.eye(num_llms, dtype=np.float32)))


@functools.partial(jax.jit, static_argnames='sizes')
def _by_confidence(
  weights: Weights, logits: Array, answers: Array, observed: Array, expected: Array, sizes: tuple[int, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
  def one(logits: Array, answers: Array, observed: Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    order = jnp.lexsort((expected, -jnp.where(observed, logits, -jnp.inf)))
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(order.size))
    mask = (rank < jnp.array(sizes)[:, None]) & observed
    found = jax.vmap(posterior, in_axes=(None, None, None, 0))(weights, logits, count_votes(answers), mask)
    return mask, found.answer.astype(jnp.int16), found.top

  return jax.vmap(one)(logits, answers, observed)


def by_confidence(weights: Weights, test: types.StrategyQueries) -> types.Decisions:
  """Calls the s most confident LLMs, s = 1..K being the operating points, and takes their likeliest answer."""
  sizes = tuple(range(1, test.observed.shape[1] + 1))

  def step(*of_queries: np.ndarray) -> tuple[jax.Array, ...]:
    return _by_confidence(weights, *of_queries, test.expected_cost, sizes)

  return _decide(step, test)


@jax.jit
def _alone(weights: Weights, logits: Array, answers: Array, observed: Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  def one(logits: Array, answers: Array, observed: Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    mask = jnp.eye(logits.size, dtype=bool) & observed
    found = jax.vmap(posterior, in_axes=(None, None, None, 0))(weights, logits, count_votes(answers), mask)
    return mask, found.answer.astype(jnp.int16), found.top

  return jax.vmap(one)(logits, answers, observed)


@functools.partial(jax.jit, static_argnames='over')
def elect(
  weights: Weights,
  logits: Float[Array, 'N K'],
  answers: Int[Array, 'N K S'],
  called: Bool[Array, 'N K'],
  weight: Float[Array, ' K'],
  priority: Float[Array, ' K'],
  *,
  over: str,
) -> tuple[Int[Array, ' N'], Float[Array, ' N']]:
  """Elects answers by a fixed vote, and judges them by the learned one.

  Args:
    weights: Of the learned vote.
    logits: float32[N, K].
    answers: int16[N, K, S].
    called: bool[N, K].
    weight: float32[K], what a vote counts; see `voting.vote` for this and the next two.
    priority: float32[K].
    over: What the vote is over.

  Returns:
    int16[N], the elected answers; float32[N], how likely they are right, 0 where one is no LLM's majority answer.
  """

  def one(logits: Array, answers: Array, called: Array) -> tuple[Array, Array]:
    elected, votes = voting.vote(answers, called, weight, priority, over=over), count_votes(answers)
    given, _ = _log_probabilities(weights, logits, votes, called)
    return elected.astype(jnp.int16), jnp.sum(jnp.where(votes.candidates == elected, jnp.exp(given), 0.0))

  return jax.vmap(one)(logits, answers, called)


def alone(weights: Weights, test: types.StrategyQueries) -> types.Decisions:
  """Calls one and the same LLM for all queries, each of the K being an operating point, and takes its answer."""
  return _decide(functools.partial(_alone, weights), test)


def vote_of_all(
  weights: Weights, test: types.StrategyQueries, weight: np.ndarray, priority: np.ndarray, *, over: str
) -> types.Decisions:
  """Calls all LLMs, and elects by a fixed vote; the one operating point is that."""

  def step(logits: np.ndarray, answers: np.ndarray, observed: np.ndarray) -> tuple[jax.Array, ...]:
    answer, likely = elect(weights, logits, answers, observed, weight, priority, over=over)
    return jnp.asarray(observed)[:, None], answer[:, None], likely[:, None]

  return _decide(step, test)


def _decide(step: Callable[..., tuple[Array, ...]], test: types.StrategyQueries) -> types.Decisions:
  """Applies a step to log-odds, answers and observed of all queries; all calls are made at once."""
  mask, answer, top = batching.apply_padded(step, (test.logits, test.answers, test.observed), rows=_BLOCK)
  return types.Decisions(mask, answer, top, np.zeros(mask.shape, np.int8))
