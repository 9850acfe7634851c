"""Holds what every part of an evaluation looks at."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from selectllm.data import dataset, splits
from selectllm.evaluate import results
from selectllm.selection import confidence


class Fold(NamedTuple):
  """Holds one split, and the confidences of what was trained on it.

  Attributes:
    split: int8[N], see `splits.assign`.
    confidences: float32[N, K], what policies select by; those of train queries are not looked at.
    estimates: What strategies select by.
  """

  split: np.ndarray
  confidences: np.ndarray
  estimates: confidence.Confidences

  @property
  def test_rows(self) -> np.ndarray:
    """Returns the test queries, int[T]."""
    return np.flatnonzero(self.split == splits.TEST)


class RunContext(NamedTuple):
  """Holds the predictions of a run for N queries and K LLMs, in F folds, and how they are evaluated.

  Attributes:
    data: The data set.
    split: int8[F, N], one split or all folds of a cross-validation, whose test queries together are what is reported.
    confidences: float32[F, N, K], see `Fold`.
    estimates: F, likewise.
    embeddings: float32[N, D], unit vectors of the pretrained encoder.
    options: The fields of `config.evaluate`.
  """

  data: dataset.Dataset
  split: np.ndarray
  confidences: np.ndarray
  estimates: Sequence[confidence.Confidences]
  embeddings: np.ndarray
  options: results.EvaluateConfig

  def folds(self) -> Iterator[Fold]:
    """Yields the folds one by one."""
    return map(Fold, self.split, self.confidences, self.estimates)
