"""The vote of the called LLMs of SelectLLM (arXiv 2408.08545), written for one query."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from selectllm.data import dataset
from selectllm.infra import batching
from selectllm.infra.typing import Array
from selectllm.selection import policies

NO_ANSWER = dataset.NO_ANSWER
VOTES = ('majority', 'samples')
# Whose answer wins a tie: the most confident LLM's (of fixed choices the most accurate one's), or the fastest one's.
TIES = ('confident', 'fastest')


def majority(answers: Int[Array, 'K S']) -> Int[Array, ' K']:
  """Returns each LLM's majority answer, int32[K], of samples int[K, S], by the rule of `dataset.majorities`."""
  samples = answers.shape[1]
  same = (answers[:, :, None] == answers[:, None, :]) & (answers != NO_ANSWER)[:, :, None]  # [K, S, S]
  reached = jnp.tril(same).sum(axis=-1)  # [K, S]: how often a sample's answer had been given when the sample came
  merit = reached * samples - jnp.arange(samples)  # of equals, the first
  return jnp.sum(jnp.where(merit == merit.max(axis=-1, keepdims=True), answers, 0), axis=-1, dtype=jnp.int32)


def vote(
  answers: Int[Array, 'K S'],
  mask: Bool[Array, ' K'],
  weight: Float[Array, ' K'],
  priority: Float[Array, ' K'],
  *,
  over: str = 'majority',
) -> Int[Array, '']:
  """Elects the answer of the called LLMs.

  Args:
    answers: int[K, S], ids of answers to this query; -1 for none, which casts no vote.
    mask: bool[K], the called LLMs.
    weight: float32[K], what each vote counts.
    priority: float32[K]; a tie goes to the answer backed by the LLM of the lowest, see `tie_order`.
    over: `majority`: each LLM casts one vote, for the majority of its samples; `samples`: one for each sample.

  Returns:
    int32[], the elected answer's id; -1 where nobody called has an answer.
  """
  own = majority(answers)
  if over == 'majority':
    answers = own[:, None]
  elif over != 'samples':
    raise ValueError(f'vote over {over!r}; it must be one of {", ".join(VOTES)}')
  samples = answers.shape[1]
  ballots = answers.reshape(-1).astype(jnp.int32)  # [K * S]
  cast = jnp.repeat(mask, samples) & (ballots != NO_ANSWER)
  # A product, so that many selections of one query share the comparison of its ballots.
  same = (ballots[:, None] == ballots[None, :]).astype(jnp.float32)
  weights = jnp.where(cast, jnp.repeat(weight, samples), 0.0)
  support = jnp.where(cast, jnp.dot(weights, same, precision=jax.lax.Precision.HIGHEST), -jnp.inf)
  # Sums of the same weights in another order may differ in the last bits; that is still a tie.
  most = support.max()
  tied = cast & (support >= most - 1e-6 * jnp.abs(most))
  # Where samples of the first LLM tie, its majority wins: so one LLM alone always elects its majority answer.
  earlier = jnp.sum(priority[:, None] > priority, axis=-1)  # LLMs
  place = 2 * jnp.repeat(earlier, samples) + (ballots != jnp.repeat(own, samples))
  place = place * ballots.size + jnp.arange(ballots.size)
  first = jnp.min(jnp.where(tied, place, jnp.iinfo(place.dtype).max))
  return jnp.where(cast.any(), jnp.sum(jnp.where(place == first, ballots, 0)), NO_ANSWER)


def tie_order(confidences: Float[Array, ' K'], latency_s: Float[Array, ' K'], *, ties: str) -> Float[Array, ' K']:
  """Returns whose answer wins a tie in one query's vote, the lowest number first, float32[K].

  Args:
    confidences: float32[K], of this query.
    latency_s: float32[K], expected.
    ties: `confident`: the most confident LLM, of equals the fastest; `fastest`: the fastest (the paper's rule).
  """
  if ties == 'fastest':
    return jnp.asarray(latency_s, jnp.float32)
  if ties != 'confident':
    raise ValueError(f'ties {ties!r}; it must be one of {", ".join(TIES)}')
  return policies.rank(confidences, latency_s, jnp.ones(confidences.shape, bool)).astype(jnp.float32)


@functools.partial(jax.jit, static_argnames='ties')
def tie_orders(confidences: Float[Array, 'N K'], latency_s: Float[Array, ' K'], *, ties: str) -> Float[Array, 'N K']:
  """Applies `tie_order` to N queries."""
  return jax.vmap(functools.partial(tie_order, latency_s=latency_s, ties=ties))(confidences)


# Numbers of one block's queries, confidences and answers together: a few MB, which stay in a processor's cache.
_NUMBERS = 1 << 22


def shortlist(
  confidences: Float[Array, ' K'], latency_s: Float[Array, ' K'], available: Bool[Array, ' K'], *, size: int
) -> Int[Array, ' {size}']:
  """Returns the `size` LLMs that `policies.rank` puts first, int32[size], in that order; written for one query.

  Args:
    confidences: float32[K] in [0, 1].
    latency_s: float32[K], expected; breaks ties.
    available: bool[K].
    size: At most K.
  """
  # Of more LLMs than are ranked by counting, the first are taken one by one, as often as LLMs are called.
  if confidences.size <= policies.MOST_COUNTED:
    rank = policies.rank(confidences, latency_s, available)
    return jnp.sum(jnp.where(rank == jnp.arange(size)[:, None], jnp.arange(rank.size), 0), axis=-1)
  fastest = jnp.argsort(latency_s)
  place = jnp.argsort(fastest).astype(jnp.float32)  # float, so that its minimum vectorises

  def take(left: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
    first = jnp.min(jnp.where(left == left.max(), place, jnp.inf))
    return jnp.where(place == first, -jnp.inf, left), first

  left = jnp.where(available, confidences, -1.0)  # above those that are taken
  return fastest[jax.lax.scan(take, left, length=size)[1].astype(jnp.int32)]


@functools.partial(jax.jit, static_argnames=('size', 'over'))
def _ballots(
  confidences: Array, answers: Array, available: Array, latency_s: Array, size: int, over: str
) -> tuple[jax.Array, ...]:
  """Returns what policy and vote need of each query's shortlist; of all LLMs where they are no more than that."""
  place = jnp.argsort(jnp.argsort(latency_s)).astype(jnp.float32)

  def one(confidences: Array, answers: Array, available: Array) -> tuple[jax.Array, ...]:
    listed = jnp.arange(size)
    if size < confidences.size:
      listed = shortlist(confidences, latency_s, available, size=size)
    if over == 'samples':
      # The vote looks at the samples of equally fast LLMs together, in the order of the pool.
      listed = jnp.sort(listed)
      return confidences[listed], answers[listed], available[listed], latency_s[listed]
    # Places instead of latencies: of equally fast LLMs the first of the pool, wherever it is listed.
    return confidences[listed], majority(answers[listed])[:, None], available[listed], place[listed]

  return jax.vmap(one)(confidences, answers, available)


@functools.partial(jax.jit, static_argnames=('policy', 'over', 'ties'))
def _vote(
  confidences: Array, answers: Array, available: Array, latency_s: Array,
  threshold: Array, policy: str, over: str, ties: str,
) -> jax.Array:  # fmt: skip
  def one(confidences: Array, answers: Array, available: Array, latency_s: Array) -> jax.Array:
    selection = policies.POLICIES[policy](confidences, latency_s, available, size=confidences.size, threshold=threshold)
    priority = tie_order(confidences, latency_s, ties=ties)
    return vote(answers, selection.mask, selection.weight, priority, over=over)

  return jax.vmap(one)(confidences, answers, available, latency_s)


def elect(
  confidences: Float[Array, 'N K'],
  answers: Int[Array, 'N K S'],
  available: Bool[Array, 'N K'],
  latency_s: Float[Array, ' K'],
  *,
  policy: str,
  size: int,
  threshold: float = 0.5,
  over: str = 'majority',
  ties: str = 'confident',
) -> Int[Array, ' N']:
  """Elects the answers of the LLMs that a policy selects, block by block.

  No policy selects an LLM that is not among the `size` most confident, so only their answers are looked at.

  Args:
    confidences: float32[N, K].
    answers: int16[N, K, S], see `vote`; mapped into memory (`np.memmap`), if they are too large for it.
    available: bool[N, K], false for an LLM that cannot be called.
    latency_s: float32[K], expected.
    policy: One of `policies.POLICIES`.
    size: The most LLMs to call.
    threshold: The confidence above which an LLM is predicted to be right.
    over: See `vote`.
    ties: See `tie_order`.

  Returns:
    int32[N], -1 where nobody called has an answer.
  """
  count, samples = answers.shape[1:]
  size = min(size, count)
  ballots = size * samples if over == 'samples' else size
  rows = min(batching.block_size(ballots), max(1, _NUMBERS // (count * (samples + 2))))

  def step(*queries: np.ndarray) -> jax.Array:
    # Two calls of the device: compiled as one, the majorities would be counted again for every comparison of ballots.
    return _vote(*_ballots(*queries, latency_s, size, over), threshold, policy, over, ties)

  return batching.apply(step, (confidences, answers, available), rows=rows)
