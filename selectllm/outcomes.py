"""How every method fared on every test query (outcomes.npz): what paired comparisons between runs need."""

from typing import NamedTuple

import numpy as np

NO_SIZE, CHOSEN = -1, 0


class Outcomes(NamedTuple):
  """How M methods fared on T test queries.

  Attributes:
    query_ids: str[T].
    names: str[M], methods.
    sizes: int16[M], their subset sizes; `NO_SIZE` where size means nothing, `CHOSEN` for the one chosen on validation.
    correct: float32[T, M], see `playing.Outcome.correct`.
    valid: bool[T, M].
  """

  query_ids: np.ndarray
  names: np.ndarray
  sizes: np.ndarray
  correct: np.ndarray
  valid: np.ndarray

  def column(self, name: str, size: int) -> int | None:
    """Where a method of that size stands; None where there is none."""
    found = np.flatnonzero((self.names == name) & (self.sizes == size))
    return int(found[0]) if len(found) else None
