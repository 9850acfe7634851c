"""The classifier: which LLMs of the pool will answer a query right.

An encoder reads the query, its hidden states are pooled into one vector, and a linear head gives every LLM of the
pool a logit; its sigmoid is the confidence that the LLM answers right.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from selectllm.models import encoder

POOLINGS = ('cls', 'mean')


def pool(hidden: jax.Array, lengths: jax.Array, how: str) -> jax.Array:
  """Pools hidden states into one vector per query.

  Args:
    hidden: [B, L, D], of any float type.
    lengths: int32[B], how many of each row's positions count.
    how: `cls` takes the first position, `mean` averages those that count.

  Returns:
    float32[B, D]; `mean` gives zeros where the length is zero.

  Raises:
    ValueError: for another `how`.
  """
  hidden = hidden.astype(jnp.float32)
  if how == 'cls':
    return hidden[:, 0]
  if how == 'mean':
    counts = jnp.arange(hidden.shape[1]) < lengths[:, None]  # [B, L]
    return jnp.sum(hidden, axis=1, where=counts[..., None]) / jnp.maximum(lengths, 1)[:, None]
  raise ValueError(f'pooling must be one of {", ".join(POOLINGS)}, not {how!r}')


class Classifier(nnx.Module):
  """An encoder with one logit per LLM over its pooled hidden states.

  Args:
    config: The encoder's shape; its dropout rate also serves the head.
    num_llms: LLMs in the pool (K).
    pooling: `cls` or `mean`.
    dtype: What the encoder computes in, `jnp.float32` or `jnp.bfloat16`; the head computes in float32.
    remat: Whether the backward pass recomputes the encoder's inner activations.
    freeze_encoder: Whether the encoder is a fixed feature extractor: no gradient reaches it, and no dropout.
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
    freeze_encoder: bool = False,
    rngs: nnx.Rngs,
  ):
    if pooling not in POOLINGS:
      raise ValueError(f'pooling must be one of {", ".join(POOLINGS)}, not {pooling!r}')
    self.pooling = pooling
    self.freeze_encoder = freeze_encoder
    self.encoder = encoder.Encoder(config, dtype=dtype, remat=remat, rngs=rngs)
    self.dropout = nnx.Dropout(config.dropout)
    self.head = nnx.Linear(config.hidden_size, num_llms, kernel_init=encoder.initializer('embed', 'llm'), rngs=rngs)

  def embed(
    self, tokens: jax.Array, lengths: jax.Array, *, deterministic: bool = True, rngs: nnx.Rngs | None = None
  ) -> jax.Array:
    """Embeds a batch of right-padded queries as float32[B, D]; see `Encoder.__call__` for the arguments."""
    deterministic = deterministic or self.freeze_encoder
    hidden = self.encoder(tokens, lengths, deterministic=deterministic, rngs=rngs)  # [B, L, D]
    embedding = pool(hidden, lengths, self.pooling)  # [B, D]
    return jax.lax.stop_gradient(embedding) if self.freeze_encoder else embedding

  def __call__(
    self, tokens: jax.Array, lengths: jax.Array, *, deterministic: bool = True, rngs: nnx.Rngs | None = None
  ) -> jax.Array:
    """Gives logits float32[B, K] for a batch of right-padded queries; see `Encoder.__call__` for the arguments."""
    embedding = self.embed(tokens, lengths, deterministic=deterministic, rngs=rngs)  # [B, D]
    return self.head(self.dropout(embedding, deterministic=deterministic, rngs=rngs))  # [B, K]


def param_groups(params: nnx.State) -> Any:
  """Says of every parameter of a `Classifier` whether it belongs to the `encoder` or to the `head`.

  Args:
    params: The classifier's parameters, or any tree of their structure.

  Returns:
    The same tree with `encoder` or `head` at its leaves: the labels for `optax.multi_transform`.
  """
  return jax.tree.map_with_path(lambda path, _: path[0].key, params)
