"""Names the methods of a run and holds how each fared on every test query (outcomes.npz); NumPy only."""

from typing import NamedTuple

import numpy as np

NO_SIZE, CHOSEN = -1, 0


class Outcomes(NamedTuple):
  """Holds how M methods fared on T test queries.

  Attributes:
    query_ids: str[T].
    names: str[M], methods.
    sizes: int16[M], their subset sizes; `NO_SIZE` where size means nothing, `CHOSEN` for the one chosen on validation.
    correct: float32[T, M], see `replay.QueryMetrics.correct`.
    valid: bool[T, M].
  """

  query_ids: np.ndarray
  names: np.ndarray
  sizes: np.ndarray
  correct: np.ndarray
  valid: np.ndarray

  def column(self, name: str, size: int) -> int | None:
    """Returns the column of a method of that size; None where there is none."""
    found = np.flatnonzero((self.names == name) & (self.sizes == size))
    return int(found[0]) if len(found) else None
