"""Strategies: what one may know, and what it says whom it called.

A strategy is a function `(train, test, seed) -> Decisions`: fitted on the queries `train`, it replays `test` at each of
its operating points, from the cheapest to the most expensive. It looks at a response in `test` only of an LLM that it
calls.
"""

from typing import NamedTuple, Protocol

import numpy as np

from selectllm.infra.typing import Array


class StrategyQueries(NamedTuple):
  """N queries as a strategy sees them.

  Attributes:
    logits: float32[N, K], calibrated log-odds that each LLM is right; out of fold where labels are known.
    embeddings: float32[N, D], unit vectors of the pretrained encoder.
    answers: int16[N, K, S], what each LLM would answer; -1 for none.
    majority: int16[N, K], see `dataset.majorities`.
    observed: bool[N, K], false for an LLM that cannot be called.
    accepted: int16[N, R], ids of the right answers, see `dataset.is_right`; -2 where they are not known.
    labels: float32[N, K], whether each LLM is right; NaN where it is not known.
    cost: float32[N, K], of each call (seconds, dollars or 1); NaN where it is not known.
    expected_cost: float32[K], each LLM's mean cost on fitting queries.
    features: float32[N, K, F], what each LLM's response looks like, see `data.answer_features`; None where unknown.
    fold: int8[N], in which fold a fitting query was held out (queries that ask the same share one); None where every
      query may be held out by itself.
  """

  logits: Array
  embeddings: Array
  answers: Array
  majority: Array
  observed: Array
  accepted: Array
  labels: Array
  cost: Array
  expected_cost: Array
  features: Array | None = None
  fold: Array | None = None

  def rows(self, index: Array) -> 'StrategyQueries':
    """Returns some of the queries, by index or mask."""
    arrays = {name: array for name, array in self._asdict().items() if name != 'expected_cost' and array is not None}
    return self._replace(**{name: array[index] for name, array in arrays.items()})

  def with_all_costs(self) -> 'StrategyQueries':
    """Returns the queries with what is expected for costs that are not known."""
    return self._replace(cost=np.where(np.isfinite(self.cost), self.cost, self.expected_cost))

  def right(self) -> np.ndarray:
    """Returns the labels, float32[N, K]; 0 for LLMs that were not observed."""
    return np.where(self.observed, self.labels, 0).astype(np.float32)

  def accuracy(self) -> np.ndarray:
    """Returns each LLM's accuracy, float64[K]; 0 for one that was never observed."""
    return self.right().sum(0, dtype=np.float64) / np.maximum(self.observed.sum(0), 1)


class Decisions(NamedTuple):
  """Decisions of a strategy on N queries at M operating points.

  Attributes:
    mask: bool[N, M, K], the LLMs called.
    answer: int16[N, M], the answer's id; -1 for none.
    p_right: float32[N, M], how likely the answer is right; NaN where the strategy does not say.
    stage: int8[N, M, K], when each called LLM was called: LLMs of one stage at once, stage after stage; all 0 where all
      were called at once. Of LLMs not called, it means nothing.
  """

  mask: Array
  answer: Array
  p_right: Array
  stage: Array


class Strategy(Protocol):
  """A way to choose the LLMs to call."""

  def __call__(self, train: StrategyQueries, test: StrategyQueries, *, seed: int) -> Decisions:
    """Fits on `train`, replays `test`."""
