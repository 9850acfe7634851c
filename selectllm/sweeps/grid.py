"""Combines grids; a config's `get_hyper(hyper, argument)` writes its sweeps with these functions.

A grid is a list of points, a point a dict of overrides: {'config.seed': 1, 'config.train.loss': 'balanced_bce'}. Two
further keys, `axis` and `variant`, name what a point is about in tables; without them, its overrides do.
"""

import collections.abc
import itertools
from typing import Any

Point = dict[str, Any]
Grid = list[Point]


def fixed(name: str, value: Any) -> Grid:
  """Returns a grid of one point."""
  return [{name: value}]


def sweep(name: str, values: collections.abc.Iterable[Any]) -> Grid:
  """Returns a point for each value of a field.

  Raises:
    ValueError: without values, for then nothing would be run.
  """
  grid = [{name: value} for value in values]
  if not grid:
    raise ValueError(f'a sweep over {name} needs at least one value')
  return grid


def product(grids: collections.abc.Sequence[Grid]) -> Grid:
  """Returns every combination of a point from each grid; the last grid varies fastest.

  Raises:
    ValueError: when two grids set the same field.
  """
  return [_merge(points) for points in itertools.product(*grids)]


def zipit(grids: collections.abc.Sequence[Grid]) -> Grid:
  """Puts the first points of all grids together, then the second ones, and so on; a grid of one point goes with each.

  Raises:
    ValueError: when grids of several points differ in length, or two set the same field.
  """
  lengths = {len(grid) for grid in grids} - {1}
  if len(lengths) > 1:
    raise ValueError(f'grids of {", ".join(str(len(grid)) for grid in grids)} points cannot go side by side')
  length = max(lengths, default=1)
  return [_merge(points) for points in zip(*(grid * length if len(grid) == 1 else grid for grid in grids), strict=True)]


def chainit(grids: collections.abc.Iterable[Grid]) -> Grid:
  """Returns the points of all grids, one grid after the other."""
  return list(itertools.chain.from_iterable(grids))


def _merge(points: collections.abc.Iterable[Point]) -> Point:
  merged: Point = {}
  for point in points:
    if twice := merged.keys() & point.keys():
      raise ValueError(f'{", ".join(sorted(twice))} is set twice: by {merged} and by {point}')
    merged |= point
  return merged
