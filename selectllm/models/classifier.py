"""The classifier: predicts which LLMs of the pool will answer a query right.

An encoder reads the query, its hidden states are pooled into one vector, and a linear head gives every LLM of the
pool a logit; its sigmoid is the confidence that the LLM answers right.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from selectllm.models import encoder

POOLINGS = ('cls', 'mean')


def pool(hidden: jax.Array, segments: jax.Array, slots: int, how: str) -> jax.Array:
  """Pools hidden states into one vector per query.

  Args:
    hidden: [R, L, D], of any float type.
    segments: int32[R, L], which of its row's queries a position belongs to; below 0 or from S up: to none.
    slots: The most queries that a row holds (S).
    how: `cls` takes a query's first position, `mean` averages all of its.

  Returns:
    float32[R, S, D]; zeros where a row holds fewer queries.

  Raises:
    ValueError: for another `how`.
  """
  if how not in POOLINGS:
    raise ValueError(f'pooling must be one of {", ".join(POOLINGS)}, not {how!r}')
  counts = segments[:, None, :] == jnp.arange(slots)[:, None]  # [R, S, L]
  if how == 'cls':
    counts &= encoder.positions_within(segments)[:, None, :] == 0
  # What fills rows up may be anything, and nothing times infinity would be something.
  hidden = jnp.where(counts.any(axis=1)[..., None], hidden.astype(jnp.float32), 0.0)
  total = jnp.einsum('rsl,rld->rsd', counts.astype(jnp.float32), hidden, precision=jax.lax.Precision.HIGHEST)
  return total / jnp.maximum(counts.sum(axis=-1, keepdims=True), 1)


class Head(nnx.Linear):
  """Dropout, then one logit for each LLM: embeddings [..., D] to logits [..., K], in float32.

  Args:
    config: The encoder's shape, and the dropout rate.
    num_llms: LLMs in the pool (K).
    rngs: Initialises the parameters from its `params` stream.
  """

  def __init__(self, config: encoder.EncoderConfig, num_llms: int, *, rngs: nnx.Rngs):
    super().__init__(config.hidden_size, num_llms, kernel_init=encoder.initializer('embed', 'llm'), rngs=rngs)
    self.dropout = nnx.Dropout(config.dropout)

  def __call__(  # type: ignore[override]
    self, embedding: jax.Array, *, deterministic: bool = True, rngs: nnx.Rngs | None = None
  ) -> jax.Array:
    """Gives logits; see `Encoder.__call__` for the options."""
    return super().__call__(self.dropout(embedding, deterministic=deterministic, rngs=rngs))


class Classifier(nnx.Module):
  """An encoder with one logit per LLM over its pooled hidden states.

  Args:
    config: The encoder's shape; its dropout rate also serves the head.
    num_llms: LLMs in the pool (K).
    pooling: `cls` or `mean`.
    dtype: What the encoder computes in, `jnp.float32` or `jnp.bfloat16`; the head computes in float32.
    remat: Whether the backward pass recomputes the encoder's inner activations.
    rngs: Initialises the parameters from its `params` stream.
  """

  def __init__(
    self,
    config: encoder.EncoderConfig,
    num_llms: int,
    *,
    pooling: str = 'mean',
    dtype: jax.typing.DTypeLike = jnp.float32,
    remat: bool = False,
    rngs: nnx.Rngs,
  ):
    if pooling not in POOLINGS:
      raise ValueError(f'pooling must be one of {", ".join(POOLINGS)}, not {pooling!r}')
    self.pooling = pooling
    self.encoder = encoder.Encoder(config, dtype=dtype, remat=remat, rngs=rngs)
    self.head = Head(config, num_llms, rngs=rngs)

  def embed(
    self,
    tokens: jax.Array,
    segments: jax.Array,
    slots: int = 1,
    *,
    deterministic: bool = True,
    rngs: nnx.Rngs | None = None,
  ) -> jax.Array:
    """Embeds rows of at most `slots` queries each as float32[R, S, D]; see `Encoder.__call__` for the arguments."""
    hidden = self.encoder(tokens, segments, deterministic=deterministic, rngs=rngs)  # [R, L, D]
    return pool(hidden, segments, slots, self.pooling)  # [R, S, D]

  def __call__(
    self,
    tokens: jax.Array,
    segments: jax.Array,
    slots: int = 1,
    *,
    deterministic: bool = True,
    rngs: nnx.Rngs | None = None,
  ) -> jax.Array:
    """Gives logits float32[R, S, K] for rows of at most `slots` queries each; see `Encoder.__call__`."""
    embedding = self.embed(tokens, segments, slots, deterministic=deterministic, rngs=rngs)  # [R, S, D]
    return self.head(embedding, deterministic=deterministic, rngs=rngs)  # [R, S, K]


def param_groups(params: nnx.State) -> Any:
  """Labels every parameter of a `Classifier` by whether it belongs to the `encoder` or to the `head`.

  Args:
    params: The classifier's parameters, or any tree of their structure.

  Returns:
    The same tree with `encoder` or `head` at its leaves: the labels for `optax.multi_transform`.
  """
  return jax.tree.map_with_path(lambda path, _: path[0].key, params)
