import jax.numpy as jnp
import numpy as np
import pytest

from selectllm.infra import optimize


def _squared_error(parameters, inputs, targets):
  return jnp.mean((inputs @ parameters['weights'] + parameters['bias'] - targets) ** 2)


def _line(seed: int = 0):
  random = np.random.default_rng(seed)
  inputs = random.normal(size=(50, 3)).astype(np.float32)
  return inputs, (inputs @ np.array([1.0, -2.0, 0.5]) + 3).astype(np.float32)


START = {'weights': np.zeros(3, np.float32), 'bias': np.zeros((), np.float32)}


def test_finds_the_minimum_of_least_squares():
  inputs, targets = _line()
  found = optimize.minimise(_squared_error, START, inputs, targets)
  assert found.keys() == START.keys()
  assert all(isinstance(array, np.ndarray) and array.dtype == np.float32 for array in found.values())
  np.testing.assert_allclose(found['weights'], [1, -2, 0.5], atol=1e-3)
  assert found['bias'] == pytest.approx(3, abs=1e-3)


def test_takes_no_more_steps_than_allowed_and_leaves_the_start_alone():
  inputs, targets = _line()
  losses = [
    float(_squared_error(optimize.minimise(_squared_error, START, inputs, targets, steps=steps), inputs, targets))
    for steps in (1, 3, 200)
  ]
  assert losses == sorted(losses, reverse=True)
  assert losses[0] > 10 * losses[2]
  assert not START['weights'].any()


def test_the_same_data_give_the_same_parameters():
  one, other = (optimize.minimise(_squared_error, START, *_line()) for _ in range(2))
  np.testing.assert_array_equal(one['weights'], other['weights'])
  unlike = optimize.minimise(_squared_error, START, _line()[0], -_line()[1])
  np.testing.assert_allclose(unlike['weights'], -one['weights'], atol=2e-3)
