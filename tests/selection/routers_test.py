import numpy as np

from selectllm.selection import routers
from tests.helpers import strategy_queries


def test_a_query_is_not_its_own_neighbour():
  """Where similar queries tell nothing, many neighbours are best: nobody's chance is far from the mean."""
  rng = np.random.default_rng(0)
  train = strategy_queries.make(rng.random((800, 3)) < 0.5, np.float32([1, 1, 1]), 0)
  decisions = routers.knn_router(
    train, strategy_queries.hide(strategy_queries.make(rng.random((100, 3)) < 0.5, np.float32([1, 1, 1]), 1)), seed=0
  )
  assert np.abs(decisions.p_right - 0.5).max() < 0.15


def test_three_llms_of_a_cluster_vote_where_that_is_better():
  rng = np.random.default_rng(0)
  train = strategy_queries.make(rng.random((1000, 4)) < [0.7, 0.7, 0.7, 0.1], np.float32([1, 1, 1, 1]), 0)
  decisions = routers.clusters(train, strategy_queries.hide(train), seed=0)
  assert (decisions.mask[:, -1] == [True, True, True, False]).all()
  assert np.isnan(decisions.p_right[:, -1]).all()
  right = (decisions.answer == train.accepted).mean(0)
  assert right[-1] > right[0] + 0.05
