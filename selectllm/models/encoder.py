"""The BERT and RoBERTa encoders, in Flax NNX.

One class serves both families: they differ in where position embeddings start and in nothing else that shows
here. Parameters are float32 and carry logical axis names, which `selectllm.sharding` maps onto a mesh; matrix
products run in `dtype`; layer norms and softmaxes run in float32.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import linen, nnx

FAMILIES = ('bert', 'roberta')

_SUPPORTED = {'model_type': FAMILIES, 'hidden_act': ('gelu',), 'position_embedding_type': ('absolute',)}
_HUGGING_FACE_NAMES = {
  'family': 'model_type',
  'vocab_size': 'vocab_size',
  'hidden_size': 'hidden_size',
  'num_layers': 'num_hidden_layers',
  'num_heads': 'num_attention_heads',
  'intermediate_size': 'intermediate_size',
  'max_positions': 'max_position_embeddings',
  'type_vocab_size': 'type_vocab_size',
  'layer_norm_eps': 'layer_norm_eps',
  'dropout': 'hidden_dropout_prob',
  'pad_token_id': 'pad_token_id',
}


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
  """The shape of an encoder.

  Attributes:
    family: `bert` or `roberta`.
    vocab_size: Tokens in the vocabulary (V).
    hidden_size: Width of the hidden states (D).
    num_layers: Transformer layers.
    num_heads: Attention heads; they divide `hidden_size`.
    intermediate_size: Width inside the feed-forward blocks.
    max_positions: Rows of the position embedding table.
    type_vocab_size: Rows of the token type table; only its first row is used, a query is one segment.
    layer_norm_eps: Added to the variance in layer norms.
    dropout: Rate of all dropouts.
    pad_token_id: The token that fills batches up; RoBERTa counts positions from the one after it.
  """

  family: str
  vocab_size: int
  hidden_size: int
  num_layers: int
  num_heads: int
  intermediate_size: int
  max_positions: int
  type_vocab_size: int
  layer_norm_eps: float
  dropout: float
  pad_token_id: int

  def __post_init__(self) -> None:
    if self.family not in FAMILIES:
      raise ValueError(f'an encoder is one of {", ".join(FAMILIES)}, not {self.family!r}')
    if self.hidden_size % self.num_heads:
      raise ValueError(f'{self.num_heads} attention heads do not divide a hidden size of {self.hidden_size}')

  @property
  def position_offset(self) -> int:
    """The row of the position embedding table that a query's first token uses."""
    return self.pad_token_id + 1 if self.family == 'roberta' else 0

  @property
  def max_length(self) -> int:
    """Tokens in the longest query that the encoder can read."""
    return self.max_positions - self.position_offset

  @classmethod
  def from_hugging_face(cls, values: Mapping[str, Any], where: str = 'config.json') -> Self:
    """Reads the decoded `config.json` of a Hugging Face model.

    Args:
      values: The decoded object.
      where: The file, for the message.

    Raises:
      ValueError: when a field is missing, or asks for something that `Encoder` does not compute.
    """
    for name, choices in _SUPPORTED.items():
      # A file without a `position_embedding_type` means absolute positions; the others are always written.
      if name in values and values[name] not in choices:
        raise ValueError(f'{where}: {name} must be {" or ".join(choices)}, not {values[name]!r}')
    if missing := [name for name in ('hidden_act', *_HUGGING_FACE_NAMES.values()) if name not in values]:
      raise ValueError(f'{where} has no {", ".join(missing)}')
    return cls(**{ours: values[theirs] for ours, theirs in _HUGGING_FACE_NAMES.items()})


def initializer(*axes: str | None) -> nnx.Initializer:
  """BERT's initialiser for a parameter whose dimensions have these logical axes, None for one never split."""
  # Not sharded eagerly, so that a module can also be made where there is no mesh.
  return nnx.with_partitioning(nnx.initializers.truncated_normal(0.02), axes, eager_sharding=False)


class Layer(nnx.Module):
  """One transformer layer: self-attention and a feed-forward block, each normalised after its residual."""

  def __init__(self, config: EncoderConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    def linear(inputs: int, outputs: int, *axes: str) -> nnx.Linear:
      return nnx.Linear(inputs, outputs, dtype=dtype, kernel_init=initializer(*axes), rngs=rngs)

    width, inner = config.hidden_size, config.intermediate_size
    self.num_heads = config.num_heads
    self.dtype = dtype
    self.query = linear(width, width, 'embed', 'heads')
    self.key = linear(width, width, 'embed', 'heads')
    self.value = linear(width, width, 'embed', 'heads')
    self.attention_out = linear(width, width, 'heads', 'embed')
    self.attention_norm = _layer_norm(config, rngs)
    self.mlp_in = linear(width, inner, 'embed', 'mlp')
    self.mlp_out = linear(inner, width, 'mlp', 'embed')
    self.mlp_norm = _layer_norm(config, rngs)
    self.dropout = nnx.Dropout(config.dropout, broadcast_dims=(1,))

  def __call__(
    self, x: jax.Array, lengths: jax.Array, *, deterministic: bool = True, rngs: nnx.Rngs | None = None
  ) -> jax.Array:
    """Maps hidden states [B, L, D] to hidden states [B, L, D]; see `Encoder`."""
    query, key, value = (self._heads(project(x)) for project in (self.query, self.key, self.value))  # [B, L, H, D/H]
    attended = jax.nn.dot_product_attention(query, key, value, key_value_seq_lengths=lengths)
    attended = self.attention_out(attended.reshape(x.shape))  # [B, L, D]
    attended = self.dropout(attended, deterministic=deterministic, rngs=rngs)
    x = _over_batch(self.attention_norm(x + attended).astype(self.dtype))
    inner = jax.nn.gelu(self.mlp_in(x), approximate=False)  # [B, L, intermediate_size]
    transformed = self.dropout(self.mlp_out(inner), deterministic=deterministic, rngs=rngs)  # [B, L, D]
    return _over_batch(self.mlp_norm(x + transformed).astype(self.dtype))

  def _heads(self, x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:-1], self.num_heads, -1)


class Encoder(nnx.Module):
  """A BERT or RoBERTa encoder (Devlin et al., 2019; Liu et al., 2019).

  Dropout is applied to the embeddings and to the outputs of the attention and feed-forward blocks. Unlike in the
  original, a dropped feature is dropped at all positions of a query, which takes fewer random numbers, and attention
  probabilities are not dropped: `jax.nn.dot_product_attention` keeps them to itself.

  Args:
    config: The encoder's shape.
    dtype: Of the matrix products and the hidden states, `jnp.float32` or `jnp.bfloat16`.
    remat: Whether the backward pass recomputes the layers' inner activations instead of storing them.
    rngs: Initialises the parameters from its `params` stream.
  """

  def __init__(
    self, config: EncoderConfig, *, dtype: jax.typing.DTypeLike = jnp.float32, remat: bool = False, rngs: nnx.Rngs
  ):
    def embed(rows: int, axis: str | None) -> nnx.Embed:
      return nnx.Embed(rows, config.hidden_size, embedding_init=initializer(axis, 'embed'), rngs=rngs)

    self.config = config
    self.dtype = jnp.dtype(dtype)
    self.remat = remat
    self.tokens = embed(config.vocab_size, 'vocab')
    self.positions = embed(config.max_positions, None)
    self.types = embed(config.type_vocab_size, None)
    self.norm = _layer_norm(config, rngs)
    self.dropout = nnx.Dropout(config.dropout, broadcast_dims=(1,))
    self.layers = nnx.List(Layer(config, dtype=self.dtype, rngs=rngs) for _ in range(config.num_layers))

  def __call__(
    self, tokens: jax.Array, lengths: jax.Array, *, deterministic: bool = True, rngs: nnx.Rngs | None = None
  ) -> jax.Array:
    """Encodes a batch of right-padded queries.

    Args:
      tokens: int32[B, L], with L at most `config.max_length`.
      lengths: int32[B], how many of each row's tokens are the query; the others are not attended to.
      deterministic: Whether dropout is off.
      rngs: Gives dropout its keys from its `dropout` stream.

    Returns:
      Hidden states `dtype`[B, L, D]; those after a query's end mean nothing.

    Raises:
      ValueError: when L exceeds `config.max_length`.
    """
    length, limit = tokens.shape[1], self.config.max_length
    if length > limit:
      raise ValueError(f'queries of {length} tokens do not fit the encoder, which reads at most {limit}')
    positions = self.config.position_offset + jnp.arange(length)
    # Looked up where the table is split, and laid out over the batch only then; XLA finds no such way by itself.
    x = _over_batch(linen.with_logical_constraint(self.tokens(tokens), ('replica', None, 'embed')))  # [B, L, D]
    x = self.norm(x + self.positions(positions) + self.types(jnp.zeros_like(positions)))
    x = _over_batch(self.dropout(x, deterministic=deterministic, rngs=rngs).astype(self.dtype))

    def apply(layer: Layer, x: jax.Array, lengths: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
      return layer(x, lengths, deterministic=deterministic, rngs=rngs)

    if self.remat:
      apply = nnx.remat(apply)
    for layer in self.layers:
      x = apply(layer, x, lengths, rngs)
    return x  # [B, L, D]


def _layer_norm(config: EncoderConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
  return nnx.LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps, dtype=jnp.float32, rngs=rngs)


def _over_batch(x: jax.Array) -> jax.Array:
  # Left alone, XLA splits activations like the parameters and gathers them, which takes several times the memory.
  return linen.with_logical_constraint(x, ('batch', *[None] * (x.ndim - 1)))
