"""BERT and RoBERTa encoders (Devlin et al. 2019; Liu et al. 2019), in Flax NNX.

One class serves both families: they differ in where position embeddings start and in nothing else that shows
here. Parameters are float32 and carry logical axis names, which `selectllm.models.sharding` maps onto a mesh; matrix
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
    """Returns the row of the position embedding table that a query's first token uses."""
    return self.pad_token_id + 1 if self.family == 'roberta' else 0

  @property
  def max_length(self) -> int:
    """Returns the tokens of the longest query that the encoder can read."""
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
  """Makes BERT's initialiser for a parameter whose dimensions have these logical axes, None for one never split."""
  # Not sharded eagerly, so that a module can also be made where there is no mesh.
  return nnx.with_partitioning(nnx.initializers.truncated_normal(0.02), axes, eager_sharding=False)


def attend(query: jax.Array, key: jax.Array, value: jax.Array, same: jax.Array) -> jax.Array:
  """Computes softmax attention, normalised last, which spares CPUs much of what `jax.nn.dot_product_attention` does.

  Args:
    query: [R, H, L, D/H].
    key: [R, H, L, D/H].
    value: [R, H, L, D/H].
    same: bool[R, L, L], which positions each position attends to; at least one.

  Returns:
    [R, H, L, D/H], of the type of `value`; the softmax is computed in float32.
  """
  scale = query.shape[-1] ** -0.5
  scores = jnp.einsum('rhqd,rhkd->rhqk', query * scale, key, preferred_element_type=jnp.float32)
  scores = jnp.where(same[:, None], scores, -jnp.inf)
  weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
  attended = jnp.einsum('rhqk,rhkd->rhqd', weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
  return (attended / weights.sum(axis=-1, keepdims=True)).astype(value.dtype)


def gelu(x: jax.Array) -> jax.Array:
  """Computes the exact GELU by erf; erfc, which `jax.nn.gelu` takes, is slower on CPUs."""
  return x * (0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5))


def drop(x: jax.Array, rate: float, rngs: nnx.Rngs | None) -> jax.Array:
  """Drops features of hidden states [R, L, D], each at all positions of a row, and scales up the others."""
  if not rate:
    return x
  if rngs is None:
    raise ValueError('dropout needs rngs with a `dropout` stream')
  kept = jax.random.bernoulli(rngs.dropout(), 1 - rate, (x.shape[0], 1, x.shape[2]))
  return x * (kept / (1 - rate)).astype(x.dtype)


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
    self.dropout_rate = config.dropout

  def __call__(
    self, x: jax.Array, same: jax.Array, *, deterministic: bool = True, rngs: nnx.Rngs | None = None
  ) -> jax.Array:
    """Maps hidden states [R, L, D] to hidden states [R, L, D]; same, bool[R, L, L], says who may attend to whom."""
    query, key, value = (self._heads(project(x)) for project in (self.query, self.key, self.value))  # [R, H, L, D/H]
    attended = jnp.swapaxes(attend(query, key, value, same), 1, 2)  # [R, L, H, D/H]
    attended = self.attention_out(attended.reshape(x.shape))  # [R, L, D]
    attended = attended if deterministic else drop(attended, self.dropout_rate, rngs)
    x = _over_batch(self.attention_norm(x + attended).astype(self.dtype))
    transformed = self.mlp_out(gelu(self.mlp_in(x)))  # [R, L, D]
    transformed = transformed if deterministic else drop(transformed, self.dropout_rate, rngs)
    return _over_batch(self.mlp_norm(x + transformed).astype(self.dtype))

  def _heads(self, x: jax.Array) -> jax.Array:
    return jnp.swapaxes(x.reshape(*x.shape[:-1], self.num_heads, -1), 1, 2)


class Encoder(nnx.Module):
  """A BERT or RoBERTa encoder (Devlin et al., 2019; Liu et al., 2019).

  Dropout is applied to the embeddings and to the outputs of the attention and feed-forward blocks. Unlike in the
  original, a dropped feature is dropped at all positions of a row, which takes fewer random numbers, and attention
  probabilities are not dropped.

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
    self.dropout_rate = config.dropout
    self.layers = nnx.List(Layer(config, dtype=self.dtype, rngs=rngs) for _ in range(config.num_layers))

  def __call__(
    self, tokens: jax.Array, segments: jax.Array, *, deterministic: bool = True, rngs: nnx.Rngs | None = None
  ) -> jax.Array:
    """Encodes rows of queries; a row holds one, or several after one another, none of which sees the others.

    Args:
      tokens: int32[R, L], with L at most `config.max_length`.
      segments: int32[R, L], which of its row's queries a token belongs to; what fills a row up has another number.
      deterministic: Whether dropout is off.
      rngs: Gives dropout its keys from its `dropout` stream.

    Returns:
      Hidden states `dtype`[R, L, D]; those of what fills rows up mean nothing.

    Raises:
      ValueError: when L exceeds `config.max_length`.
    """
    length, limit = tokens.shape[1], self.config.max_length
    if length > limit:
      raise ValueError(f'queries of {length} tokens do not fit the encoder, which reads at most {limit}')
    positions = self.config.position_offset + positions_within(segments)  # [R, L]
    # Looked up where the table is split, and laid out over the batch only then; XLA finds no such way by itself.
    x = _over_batch(linen.with_logical_constraint(self.tokens(tokens), ('replica', None, 'embed')))  # [R, L, D]
    places = _over_batch(linen.with_logical_constraint(self.positions(positions), ('replica', None, 'embed')))
    x = self.norm(x + places + self.types(jnp.zeros(1, jnp.int32)))
    x = _over_batch((x if deterministic else drop(x, self.config.dropout, rngs)).astype(self.dtype))
    same = segments[:, :, None] == segments[:, None, :]  # [R, L, L]

    def apply(layer: Layer, x: jax.Array, same: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
      return layer(x, same, deterministic=deterministic, rngs=rngs)

    if self.remat:
      apply = nnx.remat(apply)
    for layer in self.layers:
      x = apply(layer, x, same, rngs)
    return x  # [R, L, D]


def positions_within(segments: jax.Array) -> jax.Array:
  """Counts each token's place in its own query from zero: int32[R, L] -> int32[R, L]."""
  place = jnp.arange(segments.shape[1], dtype=jnp.int32)
  begins = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
  return place - jax.lax.cummax(jnp.where(begins, place, 0), axis=1)


def _layer_norm(config: EncoderConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
  return nnx.LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps, dtype=jnp.float32, rngs=rngs)


def _over_batch(x: jax.Array) -> jax.Array:
  # Left alone, XLA splits activations like the parameters and gathers them, which takes several times the memory.
  return linen.with_logical_constraint(x, ('batch', *[None] * (x.ndim - 1)))
