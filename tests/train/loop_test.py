"""Steps, losses and placement of the training."""

import jax
import numpy as np
import pytest

from configs import jsonl
from selectllm.models import inference, sharding
from selectllm.models import options as model_options
from selectllm.selection import policies
from selectllm.train import input_pipeline, loop, optimizers
from selectllm.train import options as train_options


@pytest.fixture
def config(tiny_encoder):
  config = jsonl.get_config()
  config.encoder.name = str(tiny_encoder)
  config.encoder.dropout = 0.1
  config.train.learning_rate = 1e-3
  config.mesh.data = 1
  config.train.batch_size = 16
  return config


QUERIES = [f'how many eggs {"cats " * (i % 9)}{i}' for i in range(45)]  # the last batch of an epoch is not full


def _data(model: inference.Model, seed: int = 0) -> input_pipeline.TrainingBatches:
  random = np.random.default_rng(seed)
  labels = random.integers(0, 2, (len(QUERIES), 4)).astype(np.float32)
  return input_pipeline.TrainingBatches(
    model.tokenize(QUERIES),
    np.arange(len(QUERIES)),
    labels,
    (random.random(labels.shape) < 0.9).astype(np.float32),
    batch_size=16,
    epochs=7,
    max_length=40,
    seed=0,
  )


def _train(config, steps: int) -> tuple[list[float], loop.TrainState]:
  model = inference.make_model(model_options.from_config(config), 4)
  source = _data(model)
  optimizer = optimizers.make_optimizer(train_options.from_config(config), steps)
  with sharding.use(model.mesh):
    state = loop.init_state(model, optimizer)
    step = loop.jit_train_step(model, optimizer, sharding.abstract(model.mesh, state), config.seed)
    losses = []
    for number in range(steps):
      state, scalars = step(state, loop.on_mesh(source[number], model.mesh))
      losses.append(float(scalars['loss']))
  return losses, state


def test_one_device_and_eight_give_the_same_loss_curve(config):
  expected, _ = _train(config, 20)
  config.mesh.data, config.mesh.fsdp = 4, 2
  losses, state = _train(config, 20)
  np.testing.assert_allclose(losses, expected, atol=1e-4)
  kernel = state.params['encoder']['layers'][0]['mlp_in']['kernel'][...]
  assert kernel.addressable_shards[0].data.size == kernel.size // 2, 'fsdp=2 halves what a device holds'


def test_masked_bce_is_the_mean_over_what_counts():
  logits = np.array([[0.0, 3.0], [-2.0, 50.0]], np.float32)
  labels = np.array([[1.0, 0.0], [0.5, 1.0]], np.float32)
  weight = np.array([[1.0, 0.0], [2.0, 0.0]], np.float32)
  p = 1 / (1 + np.exp(-logits.astype(float)))
  by_hand = -(labels * np.log(p) + (1 - labels) * np.log(1 - np.minimum(p, 1 - 1e-16)))
  expected = (by_hand[0, 0] + 2 * by_hand[1, 0]) / 3
  assert float(loop.masked_bce(logits, labels, weight)) == pytest.approx(expected, rel=1e-6)
  assert float(loop.masked_bce(logits, labels, 0 * weight)) == 0


def test_balanced_weights_come_from_train_alone():
  labels = np.array([[1, 0], [0, 0], [0, 1], [1, 1]], np.float32)
  observed = np.array([[1, 1], [1, 1], [1, 0], [1, 1]], bool)
  weight = loop.loss_weight(labels, observed, np.array([0, 1, 2]), 'balanced_bce')
  # The first LLM is right on one of three training queries; the second on none of the two where it was observed.
  np.testing.assert_allclose(weight[:, 0], [1.5, 0.75, 0.75, 1.5])
  assert weight[2, 1] == 0
  changed = labels.copy()
  changed[3] = 0
  np.testing.assert_array_equal(
    loop.loss_weight(changed, observed, np.array([0, 1, 2]), 'balanced_bce')[:3], weight[:3]
  )
  np.testing.assert_array_equal(loop.loss_weight(labels, observed, np.arange(3), 'bce'), observed)
  with pytest.raises(ValueError, match='bce, balanced_bce'):
    loop.loss_weight(labels, observed, np.arange(3), 'focal')


def test_one_call_scores_and_selects_as_two_do(config):
  model = inference.make_model(model_options.from_config(config), 4)
  tokens, random = model.tokenize(QUERIES), np.random.default_rng(0)
  rows = random.permutation(len(QUERIES))[:37]
  available = random.random((37, 4)) < 0.8
  selecting = policies.PolicyOptions(random.random(4).astype(np.float32), np.array([1, 2, 4], np.int32), 0.5)
  with sharding.use(model.mesh):
    scores = inference.score_queries(model, model.params, tokens, rows, available, batch_size=8, selecting=selecting)
    alone = inference.score_queries(model, model.params, tokens, rows, available, batch_size=1)
  np.testing.assert_allclose(scores.confidences, alone.confidences, atol=1e-5)
  expected = policies.select_all(scores.confidences, available, selecting)
  for name, selection in scores.selections.items():
    assert selection.mask.shape == (37, 3, 4)
    np.testing.assert_array_equal(selection.mask, expected[name].mask)
    np.testing.assert_array_equal(selection.weight, expected[name].weight)


def test_eight_devices_score_like_one(config):
  model = inference.make_model(model_options.from_config(config), 4)
  tokens, available = model.tokenize(QUERIES), np.ones((len(QUERIES), 4), bool)
  rows = np.arange(len(QUERIES))
  with sharding.use(model.mesh):
    expected = inference.score_queries(model, model.params, tokens, rows, available, batch_size=10)
  config.mesh.data = 8
  model = inference.make_model(model_options.from_config(config), 4)
  with sharding.use(model.mesh):
    scores = inference.score_queries(model, model.params, tokens, rows, available, batch_size=10)
  np.testing.assert_allclose(scores.confidences, expected.confidences, atol=1e-5)


def test_what_the_devices_cannot_do_is_refused(config):
  config.mesh.data = 64
  with pytest.raises(ValueError, match='data=64 x fsdp=1 takes 64 devices, there are 8'):
    inference.make_model(model_options.from_config(config), 4)
  config.mesh.data = 3
  model = inference.make_model(model_options.from_config(config), 4)  # scores on any number of devices
  tokens, none = model.tokenize(QUERIES), np.zeros(0, int)
  with pytest.raises(ValueError, match='batch_size=16 does not divide over 3 devices'):
    loop.fit(train_options.from_config(config), model, tokens, None, none, None)


def test_unknown_choices_are_refused(config):
  config.encoder.dtype = 'float8'
  with pytest.raises(ValueError, match='float32, bfloat16'):
    inference.make_model(model_options.from_config(config), 4)
  config.train.schedule = 'step'
  with pytest.raises(ValueError, match='linear, cosine, constant'):
    optimizers.make_optimizer(train_options.from_config(config), 10)


def test_bfloat16_trains(config):
  config.encoder.dtype = 'bfloat16'
  losses, state = _train(config, 6)
  assert np.isfinite(losses).all()
  assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize('schedule', optimizers.SCHEDULES)
def test_schedules_warm_up_to_the_peak_and_come_down(config, schedule):
  config.train.schedule = schedule
  rate = optimizers.make_schedule(train_options.from_config(config), 100, 1e-3)
  rates = np.array([float(rate(step)) for step in range(101)])
  assert 0 < rates[0] < rates[5] < rates[10] == pytest.approx(1e-3)
  assert rates[100] == pytest.approx(1e-3 if schedule == 'constant' else 0, abs=1e-9)
