import jax
import numpy as np
import pytest

from selectllm.infra import batching


@pytest.mark.parametrize(('count', 'rows', 'sizes'), [(10, 4, [4, 4, 2]), (9, 4, [3, 3, 3]), (3, 8, [3]), (1, 1, [1])])
def test_blocks_hold_every_query_once_and_are_alike(count, rows, sizes):
  blocks, size = batching.blocks(count, rows)
  assert [block.stop - block.start for block in blocks] == sizes
  assert size == sizes[0] <= rows
  assert np.concatenate([np.arange(count)[block] for block in blocks]).tolist() == list(range(count))


def test_a_function_sees_one_shape_and_gives_what_it_gives_of_all_at_once():
  shapes = []

  @jax.jit
  def step(values, factors):
    shapes.append(values.shape)  # when it is traced
    return {'product': values * factors, 'sum': (values + factors).sum(-1)}

  values, factors = np.arange(22.0, dtype=np.float32).reshape(11, 2), np.ones((11, 2), np.float32)
  found = batching.apply(step, (values, factors), rows=4)
  assert shapes == [(4, 2)]
  np.testing.assert_array_equal(found['product'], values)
  np.testing.assert_array_equal(found['sum'], values.sum(-1) + 2)


def test_fewer_queries_vote_at_once_the_more_ballots_each_has():
  assert batching.block_size(4) > batching.block_size(40) > batching.block_size(10**6) == 1
