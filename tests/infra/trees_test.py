from typing import Any, NamedTuple

import numpy as np
import pytest

from selectllm.infra import trees


class Pair(NamedTuple):
  first: Any
  second: Any


TREE = Pair({'a': np.arange(3), 'b': [np.zeros(2), Pair(np.ones(1), {})]}, np.array(7))


def test_arrays_go_by_their_paths():
  assert list(trees.named(TREE)) == ['first/a', 'first/b/0', 'first/b/1/first', 'second']


def test_a_file_gives_back_the_tree_that_was_written(tmp_path):
  np.savez(tmp_path / 'tree.npz', **trees.named(TREE))
  with np.load(tmp_path / 'tree.npz') as stored:
    found = trees.restore(Pair({'a': 0, 'b': [0, Pair(0, {})]}, 0), stored)
  assert isinstance(found, Pair)
  assert isinstance(found.first['b'][1], Pair)
  expected = trees.named(TREE)
  assert trees.named(found).keys() == expected.keys()
  for name, array in trees.named(found).items():
    np.testing.assert_array_equal(array, expected[name])


def test_what_is_absent_is_named():
  with pytest.raises(KeyError, match='first/b'):
    trees.restore(Pair({'b': 0}, 0), {'second': 0})
