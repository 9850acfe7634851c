import dataclasses
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from selectllm.models import encoder

BERT = encoder.EncoderConfig(
  family='bert',
  vocab_size=50,
  hidden_size=16,
  num_layers=2,
  num_heads=4,
  intermediate_size=24,
  max_positions=12,
  type_vocab_size=2,
  layer_norm_eps=1e-12,
  dropout=0.1,
  pad_token_id=0,
)
ROBERTA = dataclasses.replace(BERT, family='roberta', type_vocab_size=1, pad_token_id=1)
TOKENS = jnp.array([[5, 6, 7, 8], [9, 3, 1, 1]])
SEGMENTS = jnp.array([[0, 0, 0, 0], [0, 0, -1, -1]])


def make(config=BERT, **options):
  """An encoder with weights large enough for attention to matter."""
  made = encoder.Encoder(config, rngs=nnx.Rngs(0), **options)
  nnx.update(made, jax.tree.map(lambda x: 10 * x if x.ndim == 2 else x, nnx.state(made)))
  return made


@nnx.jit
def run(model, tokens, segments):
  return model(tokens, segments)


def hugging_face_config(family='bert', **changes):
  path = pathlib.Path(__file__).parent / 'reference' / family / 'config.json'
  return {**json.loads(path.read_text()), **changes}


def test_reads_a_hugging_face_config():
  config = encoder.EncoderConfig.from_hugging_face(hugging_face_config('roberta'))
  assert config.family == 'roberta'
  assert (config.num_layers, config.num_heads, config.hidden_size) == (2, 4, 32)
  assert (config.max_positions, config.position_offset, config.max_length) == (20, 2, 18)


def test_bert_positions_start_at_zero():
  config = encoder.EncoderConfig.from_hugging_face(hugging_face_config('bert'))
  assert (config.position_offset, config.max_length) == (0, 20)


@pytest.mark.parametrize(
  ('field', 'value'),
  [('model_type', 'gpt2'), ('hidden_act', 'gelu_new'), ('position_embedding_type', 'relative_key')],
)
def test_refuses_what_it_does_not_compute(field, value):
  with pytest.raises(ValueError, match=rf"some/config.json: {field} must be .*, not '{value}'"):
    encoder.EncoderConfig.from_hugging_face(hugging_face_config(**{field: value}), 'some/config.json')


def test_names_missing_fields():
  values = hugging_face_config()
  del values['hidden_act'], values['vocab_size']
  with pytest.raises(ValueError, match=re.escape('config.json has no hidden_act, vocab_size')):
    encoder.EncoderConfig.from_hugging_face(values)


def test_heads_must_divide_the_hidden_size():
  with pytest.raises(ValueError, match='3 attention heads do not divide a hidden size of 16'):
    dataclasses.replace(BERT, num_heads=3)


@pytest.mark.parametrize('config', [BERT, ROBERTA], ids=['bert', 'roberta'])
def test_padding_does_not_matter(config):
  model = make(config)
  alone = run(model, TOKENS[1:, :2], SEGMENTS[1:, :2])
  padded = run(model, TOKENS, SEGMENTS)[1:, :2]
  other_padding = run(model, TOKENS.at[1, 2:].set(42), SEGMENTS)[1:, :2]
  np.testing.assert_allclose(padded, alone, atol=1e-5)
  np.testing.assert_array_equal(other_padding, padded)


@pytest.mark.parametrize('config', [BERT, ROBERTA], ids=['bert', 'roberta'])
def test_queries_that_share_a_row_do_not_see_each_other(config):
  model = make(config)
  tokens = jnp.array([[9, 3, 5, 6, 7, 8, 1, 1]])
  packed = run(model, tokens, jnp.array([[0, 0, 1, 1, 1, 1, -1, -1]]))[0]
  for part in (slice(0, 2), slice(2, 6)):
    alone = run(model, tokens[:, part], jnp.zeros((1, part.stop - part.start), int))[0]
    np.testing.assert_allclose(packed[part], alone, atol=1e-5)


def test_positions_begin_anew_with_every_query():
  segments = jnp.array([[0, 0, 0, 1, 1, 2, -1, -1], [0, 1, 1, 1, 1, 1, 1, 1]])
  assert encoder.positions_within(segments).tolist() == [[0, 1, 2, 0, 1, 0, 0, 1], [0, 0, 1, 2, 3, 4, 5, 6]]


def test_attention_is_that_of_jax():
  query, key, value = jax.random.normal(jax.random.key(0), (3, 2, 4, 5, 8))
  same = jax.random.bernoulli(jax.random.key(1), 0.5, (2, 5, 5)) | jnp.eye(5, dtype=bool)

  def theirs(*arrays):
    swapped = (jnp.swapaxes(array, 1, 2) for array in arrays)
    return jnp.swapaxes(jax.nn.dot_product_attention(*swapped, mask=same[:, None]), 1, 2)

  def loss(attend, *arrays):
    return jnp.sum(jnp.sin(attend(*arrays)))

  def ours(*arrays):
    return encoder.attend(*arrays, same)

  np.testing.assert_allclose(ours(query, key, value), theirs(query, key, value), atol=1e-6)
  for one, other in zip(
    *(jax.grad(loss, argnums=(1, 2, 3))(attend, query, key, value) for attend in (ours, theirs)), strict=True
  ):
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_gelu_is_exact():
  x = jnp.linspace(-12, 12, 2001)
  np.testing.assert_allclose(encoder.gelu(x), jax.nn.gelu(x, approximate=False), atol=1e-6)


def test_a_row_without_tokens_stays_finite():
  assert jnp.isfinite(run(make(), TOKENS, SEGMENTS.at[1].set(-1))).all()


@pytest.mark.parametrize('config', [BERT, ROBERTA], ids=['bert', 'roberta'])
def test_reads_queries_up_to_its_limit(config):
  model = make(config)
  longest = jnp.full((1, config.max_length), 5)
  assert jnp.isfinite(run(model, longest, jnp.zeros_like(longest))).all()
  with pytest.raises(ValueError, match=f'queries of {config.max_length + 1} tokens .* at most {config.max_length}'):
    model(jnp.full((1, config.max_length + 1), 5), jnp.zeros((1, config.max_length + 1), int))


def test_bfloat16_computes_near_float32_with_float32_parameters():
  exact, rough = encoder.Encoder(BERT, rngs=nnx.Rngs(0)), encoder.Encoder(BERT, dtype='bfloat16', rngs=nnx.Rngs(0))
  assert {x.dtype for x in jax.tree.leaves(nnx.state(rough))} == {jnp.dtype('float32')}
  hidden = run(rough, TOKENS, SEGMENTS)
  assert hidden.dtype == jnp.bfloat16
  np.testing.assert_allclose(hidden.astype(jnp.float32), run(exact, TOKENS, SEGMENTS), atol=0.05)


def test_the_state_is_parameters_only():
  _, state = nnx.split(make())
  variables = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, nnx.Variable))
  assert {type(variable) for variable in variables} == {nnx.Param}


def test_dropout_follows_its_key():
  model = make()

  def hidden(seed):
    return model(TOKENS, SEGMENTS, deterministic=False, rngs=nnx.Rngs(dropout=seed))

  np.testing.assert_array_equal(hidden(1), hidden(1))
  assert not jnp.allclose(hidden(1), hidden(2))
  assert not jnp.allclose(hidden(1), model(TOKENS, SEGMENTS))


def test_dropout_needs_its_keys():
  with pytest.raises(ValueError, match='needs rngs with a `dropout` stream'):
    make()(TOKENS, SEGMENTS, deterministic=False)


@pytest.mark.slow
def test_remat_stores_less_and_changes_no_value_and_no_gradient():
  def value_and_grads_and_stored(remat):
    graphdef, params = nnx.split(make(remat=remat))

    def loss(params):
      hidden = nnx.merge(graphdef, params)(TOKENS, SEGMENTS, deterministic=False, rngs=nnx.Rngs(dropout=3))
      return jnp.sum(jnp.sin(hidden))

    value, backward = jax.jit(jax.vjp, static_argnums=0)(loss, params)
    return value, backward(1.0)[0], sum(x.size for x in jax.tree.leaves(backward))

  value, grads, stored = value_and_grads_and_stored(False)
  remat_value, remat_grads, remat_stored = value_and_grads_and_stored(True)
  np.testing.assert_allclose(remat_value, value, rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), remat_grads, grads)
  assert remat_stored < 0.7 * stored
