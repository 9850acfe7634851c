"""A whole batch of queries under one budget: the assignment problem of OptLLM (Liu et al. 2024, arXiv 2405.15130).

Every query gets one of M options, such as a strategy's operating points, each with an estimated chance to be right and
an expected cost. A Lagrange multiplier on the budget makes the queries independent: each takes the option worth most at
it. Bisection finds the lowest multiplier that keeps the budget; what it leaves then buys the upgrades that bring most
for their cost.
"""

import jax
import jax.numpy as jnp
import numpy as np

from selectllm.infra.typing import Array

# So many halvings, and the multiplier is as exact as float32 can be.
_HALVINGS = 40
# The device adds costs up in float32; so much of the budget is left to the host, which adds in float64.
_ROUNDING = 1e-5


@jax.jit
def _bisect(value: jax.Array, cost: jax.Array, budget: float | jax.Array) -> jax.Array:
  """Chooses the options worth most at the lowest multiplier that keeps the budget, int32[N].

  The multiplier is t / (1 - t): at t = 0 all queries take the option of most value, at t = 1 the cheapest.
  """

  def choose(t: Array) -> Array:
    return jnp.argmax((1 - t) * value - t * cost, -1)

  def halve(_: Array, bounds: Array) -> tuple[Array, Array]:
    low, high = bounds
    middle = (low + high) / 2
    keeps = jnp.take_along_axis(cost, choose(middle)[:, None], -1).sum() <= budget
    return jnp.where(keeps, low, middle), jnp.where(keeps, middle, high)

  return choose(jax.lax.fori_loop(0, _HALVINGS, halve, (jnp.float32(0), jnp.float32(1)))[1])


def _upgrade(choice: np.ndarray, value: np.ndarray, cost: np.ndarray, budget: float) -> np.ndarray:
  """Returns the choice after one round of upgrades: those of most value for their cost that fit, one for a query."""
  rows = np.arange(len(choice))
  left = budget - cost[rows, choice].sum()
  gain = value - value[rows, choice][:, None]
  extra = np.maximum(cost - cost[rows, choice][:, None], 0)
  worth = np.where((gain > 0) & (extra <= left), gain / np.maximum(extra, np.finfo(float).tiny), 0)
  option = worth.argmax(1)
  order = np.argsort(-worth[rows, option], kind='stable')[: np.count_nonzero(worth.any(1))]
  bought = order[: np.searchsorted(extra[order, option[order]].cumsum(), left, side='right')]
  while len(bought):
    upgraded = choice.copy()
    upgraded[bought] = option[bought]
    if cost[rows, upgraded].sum() <= budget:
      return upgraded
    bought = bought[:-1]  # sums of the same costs in another order differ in the last bits
  return choice


def assign(value: np.ndarray, cost: np.ndarray, budget: float) -> np.ndarray:
  """Chooses an option for every query, of the most value in all that the budget allows.

  The total value is at most one query's gain below the optimum, which vanishes in a batch of more than a few queries.

  Args:
    value: float[N, M], what each option is worth, such as the estimated chance to be right.
    cost: float[N, M], what each option is expected to take, in the unit of the budget.
    budget: What all N queries may take together.

  Returns:
    int32[N], the chosen options; their costs, added up in float64, never exceed the budget.

  Raises:
    ValueError: If even the cheapest options exceed the budget, or values and costs are not finite and of one shape.
  """
  value, cost = np.asarray(value, np.float64), np.asarray(cost, np.float64)
  if value.ndim != 2 or value.shape != cost.shape or not (np.isfinite(value).all() and np.isfinite(cost).all()):
    raise ValueError(f'values {value.shape} and costs {cost.shape} must be finite numbers of one shape [N, M]')
  order = cost.argsort(1, kind='stable')  # from the cheapest, so that of equal options the cheapest is the first
  value, cost = np.take_along_axis(value, order, 1), np.take_along_axis(cost, order, 1)
  rows, choice = np.arange(len(cost)), np.zeros(len(cost), np.int32)
  least = float(cost[rows, choice].sum())
  if not least <= budget:
    raise ValueError(f'a budget of {budget:g} for {len(cost)} queries; the cheapest options take {least:g}')
  scale = float(abs(cost).max(initial=0)) or 1.0
  found = np.asarray(_bisect(value, cost / scale, budget / scale * (1 - _ROUNDING)))
  if cost[rows, found].sum() <= budget:  # rounded, it may not be where the budget is all but the least
    choice = found
  while ((better := _upgrade(choice, value, cost, budget)) != choice).any():
    choice = better
  return np.take_along_axis(order, choice[:, None], 1)[:, 0].astype(np.int32)
