"""Functions of many queries, block by block: memory does not grow with their number, but for the results."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

# Comparisons of one ballot with another that are held at once.
_CELLS = 1 << 22


def block_size(ballots: int) -> int:
  """Returns how many queries, of so many ballots each, vote at once."""
  return max(1, _CELLS // max(1, ballots**2))


def blocks(count: int, rows: int) -> tuple[list[slice], int]:
  """Cuts `count` queries into blocks of at most `rows`, all but the last equally large; and how large."""
  rows = -(-count // max(1, -(-count // rows)))
  return [slice(start, min(start + rows, count)) for start in range(0, count, max(1, rows))], rows


def pad(array: Any, rows: int) -> Any:
  """Repeats queries until there are `rows`, so that a last block has the shape of the others."""
  return array if len(array) == rows else np.resize(array, (rows, *array.shape[1:]))


def pad_to_multiple(array: Any, rows: int) -> Any:
  """Repeats queries up to a multiple of `rows`: few shapes, so that not every number of queries is compiled anew."""
  return pad(array, -(-len(array) // rows) * rows)


def apply(function: Callable[..., Any], arrays: tuple[Any, ...], *, rows: int) -> Any:
  """Applies a jitted function to blocks of queries.

  Args:
    function: Of arrays of one shape [B, ...], to a tree of arrays [B, ...].
    arrays: Of N >= 1 queries, [N, ...], on the host; mapped into memory, if they are too large for it.
    rows: B at most.

  Returns:
    The function's results on the host, [N, ...].
  """
  cuts, rows = blocks(len(arrays[0]), rows)
  results: list[Any] = []
  for cut in cuts:
    # The device computes while the host cuts the next block, but no further ahead, where blocks would queue.
    if len(results) > 1:
      results[-2] = jax.device_get(results[-2])
    results.append(function(*(pad(array[cut], rows) for array in arrays)))
  sizes = [cut.stop - cut.start for cut in cuts]
  return jax.tree.map(
    lambda *parts: np.concatenate([np.asarray(part)[:size] for part, size in zip(parts, sizes, strict=True)]), *results
  )


def apply_padded(function: Callable[..., Any], arrays: tuple[Any, ...], *, rows: int) -> Any:
  """Applies a jitted function as `apply` does, but to blocks of exactly `rows`, whatever N is."""
  padded = tuple(pad_to_multiple(array, rows) for array in arrays)
  return jax.tree.map(lambda result: result[: len(arrays[0])], apply(function, padded, rows=rows))
