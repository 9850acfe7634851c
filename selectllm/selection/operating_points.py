"""Operating points of strategies: from cheap to accurate, and the same whatever a strategy was fitted on.

Routers take what is best if the mean cost of a call must bring a cost weight of accuracy; cascades and clusters what
was most accurate within a limit on the mean cost, from the cheapest LLM's to none.
"""

import numpy as np

from selectllm.selection import types

# The accuracy that the mean cost of a call must bring, from the cheapest operating point to the most expensive.
COST_WEIGHTS = np.append(np.geomspace(10, 1e-3, 19), 0.0)


def cost_weights(train: types.StrategyQueries) -> np.ndarray:
  """Returns the accuracy that a unit of cost must bring at each operating point, float64[M]."""
  return COST_WEIGHTS / max(float(np.mean(train.expected_cost)), 1e-12)


def cost_limits(train: types.StrategyQueries) -> np.ndarray:
  """Returns limits on the mean cost, float64[M]: in even proportions from the cheapest LLM to all; the last is none."""
  total = max(float(np.sum(train.expected_cost)), 1e-12)
  limits = np.geomspace(max(float(np.min(train.expected_cost)), 1e-6 * total), total, len(COST_WEIGHTS))
  return np.append(limits[:-1], np.inf)


def best_within(accuracy: np.ndarray, cost: np.ndarray, limits: np.ndarray) -> np.ndarray:
  """Chooses the most accurate of C candidates within each limit, int[M], or the cheapest; ties to the cheaper one."""
  cheap = np.lexsort((-accuracy, cost))
  within = cost <= np.maximum(limits, cost.min())[:, None]
  return cheap[np.argmax(np.where(within, accuracy, -np.inf)[:, cheap], -1)]
