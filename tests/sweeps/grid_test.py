import pytest

from selectllm.sweeps import grid


def test_sweep_and_fixed():
  assert grid.sweep('config.seed', range(2)) == [{'config.seed': 0}, {'config.seed': 1}]
  assert grid.fixed('config.pool.llms', ('a', 'b')) == [{'config.pool.llms': ('a', 'b')}]
  with pytest.raises(ValueError, match=r'config\.seed needs at least one value'):
    grid.sweep('config.seed', ())


def test_product_takes_every_combination_the_last_grid_fastest():
  spanned = grid.product([grid.sweep('a', 'xy'), grid.sweep('b', (1, 2)), grid.fixed('c', 0)])
  assert spanned == [{'a': a, 'b': b, 'c': 0} for a in 'xy' for b in (1, 2)]
  assert grid.product([]) == [{}]


def test_zipit_goes_side_by_side():
  spanned = grid.zipit([grid.sweep('a', 'xy'), grid.sweep('b', (1, 2)), grid.fixed('c', 0)])
  assert spanned == [{'a': 'x', 'b': 1, 'c': 0}, {'a': 'y', 'b': 2, 'c': 0}]
  with pytest.raises(ValueError, match='grids of 2, 3 points'):
    grid.zipit([grid.sweep('a', 'xy'), grid.sweep('b', 'xyz')])


def test_chainit_goes_one_after_the_other():
  base = [{}]
  assert grid.chainit([base, grid.sweep('a', 'xy'), grid.fixed('b', 1)]) == [{}, {'a': 'x'}, {'a': 'y'}, {'b': 1}]


@pytest.mark.parametrize('combine', [grid.product, grid.zipit])
def test_a_field_that_is_set_twice_is_refused(combine):
  with pytest.raises(ValueError, match='a is set twice'):
    combine([grid.sweep('a', 'xy'), grid.sweep('a', 'xy')])


def test_points_are_not_shared():
  one = grid.fixed('a', 1)
  spanned = grid.product([one, grid.sweep('b', (1, 2))])
  spanned[0]['a'] = 2
  assert one == [{'a': 1}]
  assert spanned[1]['a'] == 1
