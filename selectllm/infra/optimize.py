"""Fits the parameters of small smooth models: L-BFGS on the host, losses and gradients on the device."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax import flatten_util


def minimise(loss: Callable[..., jax.Array], start: Any, *data: Any, steps: int = 200) -> Any:
  """Minimises `loss(parameters, *data)`.

  Args:
    loss: A pure function of a pytree and of arrays; jitted once for all data of the same shapes.
    start: Where to begin, a pytree of float32 arrays.
    *data: What the loss looks at.
    steps: The most steps.

  Returns:
    The parameters, a pytree like `start`, of numpy arrays.
  """
  flat, restore = flatten_util.ravel_pytree(start)
  data = jax.device_put(data)

  def on_host(point: np.ndarray) -> tuple[float, np.ndarray]:
    value, slope = _value_and_gradient(loss, restore(jnp.asarray(point, jnp.float32)), *data)
    return float(value), np.asarray(flatten_util.ravel_pytree(slope)[0], np.float64)

  found = scipy.optimize.minimize(
    on_host, np.asarray(flat, np.float64), jac=True, method='L-BFGS-B', options={'maxiter': steps}
  )
  return jax.tree.map(np.asarray, restore(jnp.asarray(found.x, jnp.float32)))


@functools.partial(jax.jit, static_argnums=0)
def _value_and_gradient(loss: Callable[..., jax.Array], parameters: Any, *data: Any) -> tuple[jax.Array, Any]:
  return jax.value_and_grad(loss)(parameters, *data)
