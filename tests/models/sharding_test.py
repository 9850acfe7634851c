import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from selectllm.models import classifier, encoder, sharding

CONFIG = encoder.EncoderConfig(
  family='bert',
  vocab_size=50,
  hidden_size=16,
  num_layers=1,
  num_heads=4,
  intermediate_size=24,
  max_positions=12,
  type_vocab_size=2,
  layer_norm_eps=1e-12,
  dropout=0.1,
  pad_token_id=0,
)


def make_classifier(rngs):
  return classifier.Classifier(CONFIG, 5, rngs=rngs)


def make_state(mesh, optimizer):
  graphdef, params = sharding.create_sharded(mesh, make_classifier, 0)
  return graphdef, (params, sharding.create(mesh, optimizer.init, params))


def make_batch(mesh, rows=16):
  tokens = jax.random.randint(jax.random.key(1), (rows, 12), 1, 50)
  lengths = jax.random.randint(jax.random.key(2), (rows,), 1, 13)
  labels = jax.random.bernoulli(jax.random.key(3), 0.5, (rows, 5)).astype(jnp.float32)
  segments = jnp.where(jnp.arange(12) < lengths[:, None], 0, -1)
  return jax.device_put((tokens, segments, labels), sharding.batch_sharding(mesh))


def make_step(mesh, graphdef, optimizer, state):
  def step(state, batch, key):
    params, opt_state = state
    tokens, segments, labels = batch

    def loss_of(params):
      model = nnx.merge(graphdef, params)
      logits = model(tokens, segments, deterministic=False, rngs=nnx.Rngs(dropout=key))[:, 0]
      return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, labels))

    loss, grads = jax.value_and_grad(loss_of)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss

  shardings = jax.tree.map(lambda array: array.sharding, state)
  return jax.jit(
    step,
    in_shardings=(shardings, sharding.batch_sharding(mesh), sharding.replicated(mesh)),
    out_shardings=(shardings, sharding.replicated(mesh)),
    donate_argnums=0,
  )


def train(mesh, steps):
  optimizer = optax.adamw(1e-3)
  graphdef, state = make_state(mesh, optimizer)
  step = make_step(mesh, graphdef, optimizer, state)
  batch = make_batch(mesh)
  losses = []
  with sharding.use(mesh):
    for key in jax.random.split(jax.random.key(4), steps):
      state, loss = step(state, batch, key)
      losses.append(float(loss))
  return losses, state


@pytest.mark.parametrize(
  ('data', 'fsdp', 'shape'),
  [(-1, 1, (8, 1)), (-1, 2, (4, 2)), (2, -1, (2, 4)), (4, 2, (4, 2)), (1, 1, (1, 1)), (1, 3, (1, 3))],
)
def test_mesh_sizes(data, fsdp, shape):
  mesh = sharding.make_mesh(data, fsdp)
  assert mesh.axis_names == ('data', 'fsdp')
  assert mesh.devices.shape == shape
  assert mesh.are_all_axes_auto


@pytest.mark.parametrize(
  ('data', 'fsdp', 'message'),
  [
    (4, 4, r'data=4 x fsdp=4 takes 16 devices, there are 8 \(cpu\)'),
    (-1, 3, '3 does not divide the 8 devices'),
    (-1, 16, '16 does not divide the 8 devices'),
    (-1, -1, 'at most one of them -1'),
    (0, 1, 'give positive numbers'),
    (1, -2, 'give positive numbers'),
  ],
)
def test_impossible_meshes_are_refused(data, fsdp, message):
  with pytest.raises(ValueError, match=message):
    sharding.make_mesh(data, fsdp)


def test_all_hosts_must_be_used(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  assert sharding.make_mesh(4, 2).size == 8
  with pytest.raises(ValueError, match='2 hosts have to use all 8'):
    sharding.make_mesh(4, 1)


def test_batches_are_split_over_all_devices():
  mesh = sharding.make_mesh(4, 2)
  batch = jax.device_put(jnp.zeros((16, 3)), sharding.batch_sharding(mesh))
  assert {shard.data.shape for shard in batch.addressable_shards} == {(2, 3)}


def test_parameters_are_split_along_their_embedding_dimension():
  _, params = sharding.create_sharded(sharding.make_mesh(2, 4), make_classifier, 0)

  def shard_shape(param):
    return param[...].addressable_shards[0].data.shape

  assert shard_shape(params['encoder']['tokens']['embedding']) == (50, 4)
  assert shard_shape(params['encoder']['layers'][0]['query']['kernel']) == (4, 16)
  assert shard_shape(params['encoder']['layers'][0]['mlp_out']['kernel']) == (24, 4)
  assert shard_shape(params['encoder']['norm']['scale']) == (16,)
  assert shard_shape(params['head']['kernel']) == (4, 5)


def test_every_matrix_is_split():
  params = sharding.abstract(sharding.make_mesh(1, 8), nnx.state(make_classifier(nnx.Rngs(0))))
  assert all(array.sharding.is_fully_replicated == (len(array.shape) < 2) for array in jax.tree.leaves(params))


@pytest.mark.slow
def test_a_seed_gives_the_same_parameters_on_any_mesh(mesh):
  _, expected = sharding.create_sharded(mesh, make_classifier, 3)
  for sizes in ((8, 1), (2, 4)):
    _, params = sharding.create_sharded(sharding.make_mesh(*sizes), make_classifier, 3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, expected)
  _, others = sharding.create_sharded(mesh, make_classifier, 4)
  assert not jnp.allclose(others['head']['kernel'][...], expected['head']['kernel'][...])


def test_no_device_holds_all_parameters_while_they_are_made():
  def temporary_bytes(mesh):
    def init():
      return nnx.state(make_classifier(nnx.Rngs(0)))

    shardings = jax.tree.map(lambda array: array.sharding, sharding.abstract(mesh, jax.eval_shape(init)))
    return jax.jit(init, out_shardings=shardings).lower().compile().memory_analysis().temp_size_in_bytes

  assert temporary_bytes(sharding.make_mesh(1, 8)) < 0.5 * temporary_bytes(sharding.make_mesh(1, 1))


def test_the_dimension_that_does_not_divide_is_named():
  with pytest.raises(ValueError, match=r'kernel.* has the shape \(16, .*its 16 does not divide over fsdp=5'):
    sharding.create_sharded(sharding.make_mesh(1, 5), make_classifier, 0)


def test_optimizer_state_is_laid_out_like_its_parameters():
  optimizer = optax.multi_transform(
    {'encoder': optax.set_to_zero(), 'head': optax.adamw(1e-3)}, classifier.param_groups
  )
  mesh = sharding.make_mesh(2, 4)
  _, (params, opt_state) = make_state(mesh, optimizer)
  moments = [array for array in jax.tree.leaves(opt_state) if array.shape == params['head']['kernel'].shape]
  assert len(moments) == 2
  assert all(array.sharding == params['head']['kernel'].sharding for array in moments)
  described = sharding.abstract(mesh, opt_state)
  assert jax.tree.structure(described) == jax.tree.structure(opt_state)
  assert all(
    (a.shape, a.dtype, a.sharding) == (b.shape, b.dtype, b.sharding)
    for a, b in zip(jax.tree.leaves(described), jax.tree.leaves(opt_state), strict=True)
  )


def test_what_a_device_holds_is_told():
  mesh = sharding.make_mesh(2, 4)
  split, whole = (
    jax.device_put(jnp.zeros((1000, 500)), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(axis)))
    for axis in ('fsdp', None)
  )
  assert sharding.bytes_held(mesh, {'a': split, 'b': whole}) == (
    '4.0 MB, 2.5 MB on each of 8 devices (data=2 x fsdp=4)'
  )


@pytest.mark.parametrize(
  'sizes', [pytest.param((8, 1), marks=pytest.mark.slow), (4, 2), pytest.param((1, 8), marks=pytest.mark.slow)]
)
def test_training_is_the_same_on_any_mesh(mesh, sizes):
  expected_losses, (expected, _) = train(mesh, steps=3)
  losses, (params, _) = train(sharding.make_mesh(*sizes), steps=3)
  np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), params, expected)


@pytest.mark.parametrize('sizes', [(4, 2), pytest.param((1, 8), marks=pytest.mark.slow)])
def test_a_step_never_gathers_activations(mesh, sizes, capfd):
  def temporary_bytes(mesh):
    optimizer = optax.adamw(1e-3)
    graphdef, state = make_state(mesh, optimizer)
    step = make_step(mesh, graphdef, optimizer, state)
    batch = make_batch(mesh, rows=256)
    with sharding.use(mesh):
      compiled = step.lower(state, batch, jax.random.key(0)).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporary_bytes(sharding.make_mesh(*sizes)) < 0.2 * temporary_bytes(mesh)
  assert 'rematerialization' not in capfd.readouterr().err  # XLA's warning that it copies a tensor whole
