"""Adaptive selection: which LLM to call next, and when to stop, as answers come in.

It is optimal stopping, fitted as Longstaff and Schwartz (2001) fit the value of going on: recorded responses tell what
every order of calls would have brought. Over the subsets of LLMs called so far, from the whole pool back to nobody, a
regression for every next call predicts, from what is known by then, what going on gains: the answer's chance to be
right at the end, minus the cost of all further calls. The rule calls what gains most, and stops when nothing gains.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from selectllm.data import dataset
from selectllm.infra import batching
from selectllm.infra.typing import Array
from selectllm.selection import learned_vote, types

# Subsets double with every LLM: a larger pool is cut to those whose votes do best together.
MOST_LLMS = {1: 10, 2: 8}  # by how many LLMs one stage may call
# The accuracy that calling the whole pool must bring, from few calls to many: the operating points of a rule.
COST_WEIGHTS = (
  *(6.0, 4.0, 3.0, 2.5, 2.0, 1.7, 1.5, 1.4, 1.3, 1.2, 1.1, 1.0, 0.9, 0.8, 0.65, 0.5, 0.4, 0.3, 0.2),
  *(0.16, 0.13, 0.1, 0.08, 0.065, 0.05, 0.03, 0.01, 0.0),
)
_RIDGE = 300.0
_MOST_QUERIES = 10_000
_FEATURES = 6
# Queries that are replayed together; a fit takes a multiple of it.
_BLOCK = 512


class Rule(NamedTuple):
  """A rule that says when to call whom, for k LLMs of the pool, A actions and P operating points.

  Attributes:
    llms: int32[k], which of the K LLMs it may call.
    actions: bool[A, k], the LLMs that one action calls at once.
    weights: float32[P, 2^k, A, F], the gain of each action after each subset (bit i: `llms[i]` was called), linear in
      `_features`.
  """

  llms: Array
  actions: Array
  weights: Array


def actions_of(count: int, at_once: int) -> np.ndarray:
  """Returns all sets of 1 to `at_once` LLMs of k, bool[A, k]; single LLMs first."""
  codes = sorted(range(1, 1 << count), key=lambda code: (code.bit_count(), code))
  codes = [code for code in codes if code.bit_count() <= at_once]
  return (np.array(codes)[:, None] >> np.arange(count) & 1).astype(bool)


def _features(found: learned_vote.Posterior, logits: jax.Array, actions: jax.Array) -> jax.Array:
  """Returns what each action's gain is predicted from, float32[A, F]: how sure the vote is, how good the next call."""
  best = jnp.max(jnp.where(actions, jax.nn.sigmoid(logits), 0.0), -1)
  of_query = jnp.stack([jnp.ones(()), found.top, found.top**2, found.second, logits.mean()])
  return jnp.concatenate(
    [jnp.broadcast_to(of_query, (len(actions), of_query.size)), ((1 - found.top) * best)[:, None]], -1
  )


def shortlist(weights: learned_vote.Weights, train: types.StrategyQueries, most: int) -> np.ndarray:
  """Chooses the LLMs that a rule may call, int32[k]: all, or those that do best together, added one by one."""
  count = train.observed.shape[1]
  if count <= most:
    return np.arange(count, dtype=np.int32)
  rows = batching.pad_to_multiple(np.arange(len(train.accepted)), _BLOCK)
  queries, counted = train.rows(rows), np.arange(len(rows)) < len(train.accepted)
  votes = learned_vote.count_all_votes(queries.answers)
  chosen: list[int] = []
  for size in range(1, most + 1):  # one shape for all rounds, so that it is compiled once
    sets = np.array([[*chosen, llm] + [llm] * (most - size) for llm in range(count)], np.int32)
    right = _count_right(
      weights, queries.logits, votes, queries.observed, queries.accepted, counted, sets, np.arange(most) < size
    )
    chosen.append(int(np.argmax(np.where(np.isin(np.arange(count), chosen), -1, right))))
  return np.sort(chosen).astype(np.int32)


@jax.jit
def _count_right(
  weights: learned_vote.Weights,
  logits: Array,
  votes: learned_vote.Votes,
  observed: Array,
  accepted: Array,
  counted: Array,
  sets: Array,
  taken: Array,
) -> Array:
  """Counts the queries that the vote of each set of LLMs is right on, int32[M]: of sets int[M, k], those `taken`."""

  def of_set(llms: Array) -> Array:
    within = jax.vmap(_within, in_axes=(0, None))(votes, llms)
    known = observed[:, llms] & taken
    found = jax.vmap(learned_vote.posterior, in_axes=(None, 0, 0, 0))(
      _cut(weights, llms), logits[:, llms], within, known
    )
    return jnp.sum(dataset.is_right(found.answer, accepted) & counted)

  return jax.lax.map(of_set, sets)


def _members(code: jax.Array, count: int) -> jax.Array:
  return (code >> jnp.arange(count) & 1).astype(bool)


def _cut(weights: learned_vote.Weights, llms: Array) -> learned_vote.Weights:
  """Returns the vote of some of the LLMs."""
  return weights._replace(
    bias=weights.bias[llms], pair=weights.pair[llms][:, llms], other_called=weights.other_called[llms]
  )


def _within(votes: learned_vote.Votes, llms: Array) -> learned_vote.Votes:
  """Returns the votes of some of the LLMs on one query."""
  return learned_vote.Votes(votes.candidates[llms], votes.support[llms][:, llms])


def _action_cost(cost: Array, actions: Array, parallel: bool) -> jax.Array:
  """Returns costs [..., A] of actions bool[A, k] where calls take [..., k]."""
  each = jnp.where(actions, cost[..., None, :], 0.0)
  return each.max(-1) if parallel else each.sum(-1)


@jax.jit
def _backward(
  weights: learned_vote.Weights,
  logits: Array,
  votes: learned_vote.Votes,
  observed: Array,
  accepted: Array,
  cost: Array,
  counted: Array,
  actions: Array,
  cost_weights: Array,
) -> Array:
  """Fits the regressions of `Rule.weights`, float32[2^k, A, F, P], from the full subset back to the empty one.

  Args:
    weights: Of the vote, cut to k LLMs.
    logits: float32[N, k].
    votes: Those of the k LLMs.
    observed: bool[N, k].
    accepted: int[N, R].
    cost: float32[N, A], what each action takes.
    counted: float32[N], 0 for rows that only fill up.
    actions: bool[A, k].
    cost_weights: float32[P].
  """
  count, subsets = actions.shape[1], 1 << actions.shape[1]
  codes = jnp.sum(actions << jnp.arange(count), -1)
  possible = jnp.all(observed[:, None] | ~actions, -1)  # [N, A]
  shrink = _RIDGE * jnp.eye(_FEATURES).at[0, 0].set(1e-5)

  def step(value: Array, code: Array) -> tuple[Array, Array]:
    known = observed & _members(code, count)
    found = jax.vmap(learned_vote.posterior, in_axes=(None, 0, 0, 0))(weights, logits, votes, known)
    features = jax.vmap(_features, in_axes=(0, 0, None))(found, logits, actions)  # [N, A, F]
    fresh = (codes & code) == 0
    usable = possible & fresh
    weight = usable * counted[:, None]
    total = jnp.maximum(weight.sum(0), 1.0)[:, None]
    mean = (jnp.einsum('na,naf->af', weight, features) / total).at[:, 0].set(0.0)
    spread = jnp.sqrt(jnp.einsum('na,naf->af', weight, (features - mean) ** 2) / total).at[:, 0].set(1.0) + 1e-6
    scaled = (features - mean) / spread
    later = value[codes | code]  # [A, N, P]
    target = jnp.moveaxis(later, 0, 1) - cost[:, :, None] * cost_weights - found.top[:, None, None]
    gram = jnp.einsum('na,naf,nag->afg', weight, scaled, scaled) + shrink
    solved = jnp.linalg.solve(gram, jnp.einsum('na,naf,nap->afp', weight, scaled, target)) / spread[:, :, None]
    solved = solved.at[:, 0].add(-jnp.einsum('af,afp->ap', mean, solved))
    gain = jnp.where(usable[:, :, None], jnp.einsum('naf,afp->nap', features, solved), -jnp.inf)
    best = gain.argmax(1)[:, None]
    goes = (jnp.take_along_axis(gain, best, 1)[:, 0] > 0) | ((code == 0) & usable.any(1)[:, None])
    brought = jnp.take_along_axis(target, best, 1)[:, 0] + found.top[:, None]
    right = dataset.is_right(found.answer, accepted).astype(jnp.float32)[:, None]
    return value.at[code].set(jnp.where(goes, brought, right)), solved

  value = jnp.zeros((subsets, logits.shape[0], cost_weights.size))
  _, solved = jax.lax.scan(step, value, jnp.arange(subsets - 1, -1, -1))
  return solved[::-1]


def fit(
  weights: learned_vote.Weights, train: types.StrategyQueries, *, seed: int, at_once: int = 1, parallel: bool = False
) -> Rule:
  """Fits the rule for every operating point of `COST_WEIGHTS`.

  Args:
    weights: Of the vote, from `learned_vote.fit`.
    train: Queries with labels, their logits out of fold.
    seed: Of the queries that are taken where there are very many.
    at_once: The most LLMs that one stage calls, a key of `MOST_LLMS`.
    parallel: Whether a stage's cost is that of its most expensive call (as for latency), not the sum (as for dollars).
  """
  llms = shortlist(weights, train, MOST_LLMS[at_once])
  rows = np.random.default_rng(seed).permutation(len(train.accepted))[:_MOST_QUERIES]
  filled = batching.pad_to_multiple(rows, _BLOCK)
  queries = train.with_all_costs().rows(filled)
  actions = actions_of(len(llms), at_once)
  cost_weights = np.array(COST_WEIGHTS, np.float32) / max(float(train.expected_cost.sum()), 1e-12)
  solved = _backward(
    _cut(weights, llms),
    queries.logits[:, llms],
    learned_vote.count_all_votes(queries.answers[:, llms]),
    queries.observed[:, llms],
    queries.accepted.astype(np.int32),
    np.asarray(_action_cost(queries.cost[:, llms], actions, parallel)),
    (np.arange(len(filled)) < len(rows)).astype(np.float32),
    actions,
    cost_weights,
  )
  return Rule(llms, actions, np.moveaxis(np.asarray(solved), -1, 0))


class State(NamedTuple):
  """The state of one query.

  Attributes:
    called: bool[K], the LLMs whose answers are known.
    action: int32[], what to do next, a row of `Rule.actions`; -1 to stop.
    found: What the answers so far make likely.
  """

  called: Array
  action: Array
  found: learned_vote.Posterior


def decide(
  rule: Rule,
  weights: learned_vote.Weights,
  point: jax.Array,
  logits: jax.Array,
  votes: learned_vote.Votes,
  called: jax.Array,
  available: jax.Array,
  expected: jax.Array,
  budget: jax.Array,
) -> State:
  """Decides what to do next for one query.

  Args:
    rule: From `fit`.
    weights: Of the vote.
    point: int32[], which of the operating points.
    logits: float32[K].
    votes: Looked at only where `called`.
    called: bool[K], whose answers are known.
    available: bool[K], who can still be called, those already called included.
    expected: float32[K], what a call of each LLM is expected to take.
    budget: float32[], the most that this query's calls may be expected to take in sum; infinite for no limit.
  """
  llms = rule.llms
  found = learned_vote.posterior(weights, logits, votes, called)
  # The rule was fitted on the LLMs that it may call, and knows the votes of these alone.
  within = _within(votes, llms)
  known = called[llms]
  seen = learned_vote.posterior(_cut(weights, llms), logits[llms], within, known)
  code = jnp.sum(known << jnp.arange(llms.size))
  features = _features(seen, logits[llms], rule.actions)
  possible = jnp.all((available[llms] & ~known) | ~rule.actions, -1)
  possible &= jnp.sum(called * expected) + rule.actions @ expected[llms] <= budget
  gain = jnp.where(possible, jnp.sum(rule.weights[point, code] * features, -1), -jnp.inf)
  best = jnp.argmax(gain)
  goes = (gain[best] > 0) | (~known.any() & possible.any())
  return State(called, jnp.where(goes, best, -1), found)


@functools.partial(jax.jit, static_argnames='points')
def _replay(
  rule: Rule,
  weights: learned_vote.Weights,
  logits: Array,
  answers: Array,
  observed: Array,
  expected: Array,
  budget: Array,
  points: int,
) -> tuple[Array, ...]:
  def one(logits: Array, answers: Array, observed: Array, point: Array) -> tuple[Array, Array, Array, Array]:
    votes = learned_vote.count_votes(answers)
    sets = jnp.zeros((len(rule.actions), logits.size), bool).at[:, rule.llms].set(rule.actions)

    def stage(carry: Array, number: Array) -> tuple[Array, None]:
      called, when = carry
      action = decide(rule, weights, point, logits, votes, called, observed, expected, budget).action
      fresh = sets[action] & (action >= 0)
      return (called | fresh, jnp.where(fresh, number, when)), None

    start = (jnp.zeros(logits.size, bool), jnp.zeros(logits.size, jnp.int8))
    (called, when), _ = jax.lax.scan(stage, start, jnp.arange(rule.llms.size, dtype=jnp.int8))
    found = learned_vote.posterior(weights, logits, votes, called)
    return called, found.answer.astype(jnp.int16), found.top, when

  of_points = jax.vmap(one, in_axes=(None, None, None, 0))
  return jax.vmap(of_points, in_axes=(0, 0, 0, None))(logits, answers, observed, jnp.arange(points))


def replay(
  rule: Rule, weights: learned_vote.Weights, test: types.StrategyQueries, *, budget: float = np.inf
) -> types.Decisions:
  """Replays the rule at every operating point; an answer is looked at only once its LLM has been called.

  Args:
    rule: From `fit`.
    weights: Of the vote.
    test: N queries with recorded responses.
    budget: The most that the calls of one query may be expected to take.
  """
  points = rule.weights.shape[0]

  def step(*of_queries: np.ndarray) -> tuple[jax.Array, ...]:
    return _replay(rule, weights, *of_queries, test.expected_cost, np.float32(budget), points)

  of_queries = (test.logits, test.answers, test.observed)
  return types.Decisions(*batching.apply_padded(step, of_queries, rows=_BLOCK))
