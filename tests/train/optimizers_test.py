import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs import common
from selectllm.train import optimizers, options


def _options(**changed) -> options.TrainOptions:
  return dataclasses.replace(options.from_config(common.get_config()), **changed)


def _params() -> nnx.State:
  matrix, vector = np.full((2, 2), 2.0, np.float32), np.full(2, 2.0, np.float32)
  return nnx.State(
    {
      part: {'kernel': nnx.Param(jnp.array(matrix)), 'bias': nnx.Param(jnp.array(vector))}
      for part in ('encoder', 'head')
    }
  )


def _update(optimizer: optax.GradientTransformation, gradient: float) -> dict:
  params = _params()
  updates, _ = optimizer.update(
    jax.tree.map(lambda p: jnp.full_like(p, gradient), params), optimizer.init(params), params
  )
  return {
    (part, name): float(np.abs(updates[part][name][...]).max())
    for part in ('encoder', 'head')
    for name in ('kernel', 'bias')
  }


def test_encoder_and_head_learn_at_rates_of_their_own():
  wanted = _options(learning_rate=1e-4, head_learning_rate=1e-2, weight_decay=0.0, warmup_share=0.0)
  step = _update(optimizers.make_optimizer(wanted, 10), 0.1)
  # Adam's first step is as long as the learning rate.
  assert step['encoder', 'bias'] == pytest.approx(1e-4, rel=1e-3)
  assert step['head', 'bias'] == pytest.approx(1e-2, rel=1e-3)


def test_decay_pulls_on_matrices_alone():
  wanted = _options(learning_rate=1e-2, head_learning_rate=1e-2, weight_decay=0.1, warmup_share=0.0)
  step = _update(optimizers.make_optimizer(wanted, 10), 0.0)
  assert step['head', 'bias'] == step['encoder', 'bias'] == 0
  assert step['head', 'kernel'] == step['encoder', 'kernel'] == pytest.approx(1e-2 * 0.1 * 2.0)


def test_long_gradients_are_clipped_to_one_length():
  wanted = _options(clip_norm=1.0)
  clip, params = optimizers.make_optimizer(wanted, 10), _params()
  states = []
  for size in (1e3, 1e6):
    _, state = clip.update(jax.tree.map(lambda p, size=size: jnp.full_like(p, size), params), clip.init(params), params)
    states.append(jax.tree.leaves([value for _, value in optax.tree_utils.tree_get_all_with_path(state, 'mu')]))
  jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5), *states)
  assert float(optax.tree.norm(states[0])) == pytest.approx(0.1, rel=1e-4)  # a tenth of it enters the mean


def test_the_first_step_is_above_zero_and_the_last_falls_to_it():
  rate = optimizers.make_schedule(_options(schedule='linear', warmup_share=0.0), 10, 1.0)
  np.testing.assert_allclose([float(rate(step)) for step in (0, 5, 10, 12)], [1.0, 0.5, 0.0, 0.0], atol=1e-6)
  rate = optimizers.make_schedule(_options(schedule='constant', warmup_share=0.3), 10, 1.0)
  np.testing.assert_allclose([float(rate(step)) for step in range(5)], [0.25, 0.5, 0.75, 1.0, 1.0], atol=1e-6)


def test_a_training_of_one_step_has_a_rate():
  for schedule in optimizers.SCHEDULES:
    rate = optimizers.make_schedule(_options(schedule=schedule, warmup_share=0.1), 1, 1.0)
    assert float(rate(0)) == 1.0
