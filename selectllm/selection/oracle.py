"""The oracle (PAPER: baselines): what a selection that knew who is right would reach."""

import jax
import jax.numpy as jnp


def select(labels: jax.Array, observed: jax.Array, latency_s: jax.Array) -> jax.Array:
  """The LLM that the oracle calls for each query: the fastest that is right, the fastest of all where none is.

  Args:
    labels: float32[N, K], right (or the score) of each LLM.
    observed: bool[N, K].
    latency_s: float32[N, K], of this very query: the oracle sees everything.

  Returns:
    bool[N, K], at most one LLM a query; none where no LLM was observed.
  """
  best = jnp.max(jnp.where(observed, labels, -jnp.inf), axis=-1, keepdims=True)
  latency = jnp.where(observed & (labels == best), latency_s, jnp.inf)
  fastest = jnp.argmin(latency, axis=-1)
  return jax.nn.one_hot(fastest, labels.shape[-1], dtype=bool) & observed
