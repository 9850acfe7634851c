"""The vote of the called LLMs (PAPER: policy), written for one query."""

import jax
import jax.numpy as jnp

NO_ANSWER = -1
VOTES = ('majority', 'samples')


def majority(answers: jax.Array) -> jax.Array:
  """Each LLM's majority answer, int32[K], from its samples int[K, S]; a tie goes to the answer first to reach it."""
  samples = answers.shape[1]
  same = (answers[:, :, None] == answers[:, None, :]) & (answers != NO_ANSWER)[:, :, None]  # [K, S, S]
  reached = jnp.tril(same).sum(axis=-1)  # [K, S]: how often a sample's answer had been given when the sample came
  merit = reached * samples - jnp.arange(samples)  # of equals, the first
  return jnp.sum(jnp.where(merit == merit.max(axis=-1, keepdims=True), answers, 0), axis=-1, dtype=jnp.int32)


majorities = jax.jit(jax.vmap(majority))  # of N queries, int[N, K, S] -> int32[N, K]


def vote(
  answers: jax.Array, mask: jax.Array, weight: jax.Array, latency_s: jax.Array, *, over: str = 'majority'
) -> jax.Array:
  """The answer that the called LLMs elect.

  Args:
    answers: int[K, S], ids of answers to this query; -1 for none, which casts no vote.
    mask: bool[K], the called LLMs.
    weight: float32[K], what each vote counts.
    latency_s: float32[K], expected; a tie goes to the answer backed by the fastest LLM.
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
  tied = cast & (support >= support.max() * (1 - 1e-6))
  # Where samples of the fastest LLM tie, its majority wins: so one LLM alone always elects its majority answer.
  faster = jnp.sum(latency_s[:, None] > latency_s, axis=-1)  # LLMs
  place = 2 * jnp.repeat(faster, samples) + (ballots != jnp.repeat(own, samples))
  place = place * ballots.size + jnp.arange(ballots.size)
  first = jnp.min(jnp.where(tied, place, jnp.iinfo(place.dtype).max))
  return jnp.where(cast.any(), jnp.sum(jnp.where(place == first, ballots, 0)), NO_ANSWER)
