import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from selectllm.models import classifier, encoder

CONFIG = encoder.EncoderConfig(
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
TOKENS = jnp.array([[5, 6, 7, 8], [9, 3, 0, 0], [4, 4, 4, 0]])
SEGMENTS = jnp.array([[0, 0, 0, 0], [0, 0, -1, -1], [0, 0, 0, -1]])


def make(**options):
  return classifier.Classifier(CONFIG, 5, rngs=nnx.Rngs(0), **options)


def loss_of(graphdef):
  def loss(params):
    model = nnx.merge(graphdef, params)
    logits = model(TOKENS, SEGMENTS, deterministic=False, rngs=nnx.Rngs(dropout=1))
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, jnp.ones_like(logits)))

  return loss


def test_pools_only_what_counts():
  hidden = jnp.array([[[1.0, 2.0], [3.0, 4.0], [jnp.nan, 9.0]], [[5.0, 6.0], [7.0, 8.0], [9.0, 10.0]]])
  segments = jnp.array([[0, 0, -1], [-1, -1, -1]])
  np.testing.assert_array_equal(classifier.pool(hidden, segments, 1, 'mean'), [[[2, 3]], [[0, 0]]])
  np.testing.assert_array_equal(classifier.pool(hidden, segments, 1, 'cls'), [[[1, 2]], [[0, 0]]])


def test_pools_each_query_of_a_row():
  hidden = jnp.array([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [jnp.inf, 9.0]]])
  segments = jnp.array([[0, 0, 1, -1]])
  np.testing.assert_array_equal(classifier.pool(hidden, segments, 4, 'mean'), [[[2, 3], [5, 6], [0, 0], [0, 0]]])
  np.testing.assert_array_equal(classifier.pool(hidden, segments, 2, 'cls'), [[[1, 2], [5, 6]]])


def test_refuses_another_pooling():
  with pytest.raises(ValueError, match="cls, mean, not 'max'"):
    classifier.pool(jnp.zeros((1, 2, 3)), jnp.zeros((1, 2), int), 1, 'max')
  with pytest.raises(ValueError, match="cls, mean, not 'max'"):
    make(pooling='max')


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('pooling', classifier.POOLINGS)
def test_embeddings_and_logits_are_float32(dtype, pooling):
  model = make(dtype=dtype, pooling=pooling)
  embedding, logits = model.embed(TOKENS, SEGMENTS), model(TOKENS, SEGMENTS)
  assert (embedding.shape, embedding.dtype) == ((3, 1, 16), jnp.float32)
  assert (logits.shape, logits.dtype) == ((3, 1, 5), jnp.float32)
  np.testing.assert_allclose(logits, model.head(embedding), rtol=1e-6)


def test_logits_start_near_zero():
  assert jnp.max(jnp.abs(make()(TOKENS, SEGMENTS))) < 0.5


def test_the_head_alone_is_that_of_the_classifier():
  model = make()
  graphdef, params = nnx.split(model.head)
  assert [path for path, _ in nnx.to_flat_state(params)] == [('bias',), ('kernel',)]
  embedding = model.embed(TOKENS, SEGMENTS)
  for options in ({}, {'deterministic': False, 'rngs': nnx.Rngs(dropout=1)}):
    logits = nnx.merge(graphdef, params)(embedding, **options)
    assert jnp.allclose(logits, model(TOKENS, SEGMENTS)) == (not options)


def test_param_groups_label_the_parameters_for_optax():
  graphdef, params = nnx.split(make())
  optimizer = optax.multi_transform(
    {'encoder': optax.set_to_zero(), 'head': optax.adamw(0.1, weight_decay=1.0)}, classifier.param_groups
  )
  updates, _ = optimizer.update(jax.grad(loss_of(graphdef))(params), optimizer.init(params), params)
  after = optax.apply_updates(params, updates)
  jax.tree.map(np.testing.assert_array_equal, after['encoder'], params['encoder'])
  assert not jnp.allclose(after['head']['kernel'][...], params['head']['kernel'][...])


def test_the_dropout_rate_is_the_configs():
  model = classifier.Classifier(dataclasses.replace(CONFIG, dropout=0.0), 5, rngs=nnx.Rngs(0))
  np.testing.assert_array_equal(
    model(TOKENS, SEGMENTS, deterministic=False, rngs=nnx.Rngs(dropout=1)), model(TOKENS, SEGMENTS)
  )
