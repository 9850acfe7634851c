"""What all that chooses calls past the paper's policies shares: what it may know, and what it says whom it called.

A strategy is a function `(known, asked, seed) -> Played`: fitted on the queries `known`, it plays `asked` at each of
its settings, from the cheapest to the dearest. It looks at an answer in `asked` only of an LLM that it calls.
"""

from typing import Any, NamedTuple, Protocol

Array = Any  # of numpy on the host, of JAX on the device


class StrategyQueries(NamedTuple):
  """N queries as a strategy sees them.

  Attributes:
    logits: float32[N, K], calibrated log-odds that each LLM is right; out of fold where labels are known.
    embeddings: float32[N, D], unit vectors of the pretrained encoder.
    answers: int16[N, K, S], what each LLM would answer; -1 for none.
    majority: int16[N, K], see `dataset.majorities`.
    observed: bool[N, K], false for an LLM that cannot be called.
    reference: int16[N], the right answer's id; -2, which no answer equals, for queries that are asked.
    labels: float32[N, K], whether each LLM is right; NaN for queries that are asked.
    cost: float32[N, K], of each call (seconds, dollars or 1); NaN for queries that are asked.
    expected_cost: float32[K], each LLM's mean cost on fitting queries.
  """

  logits: Array
  embeddings: Array
  answers: Array
  majority: Array
  observed: Array
  reference: Array
  labels: Array
  cost: Array
  expected_cost: Array

  def rows(self, index: Array) -> 'StrategyQueries':
    """Returns some of the queries, by index or mask."""
    return StrategyQueries(*(array[index] for array in self[:-1]), self.expected_cost)


class Decisions(NamedTuple):
  """What a strategy did with N queries at M settings.

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
  """How a strategy is called."""

  def __call__(self, known: StrategyQueries, asked: StrategyQueries, *, seed: int) -> Decisions:
    """Fits on `known`, plays on `asked`."""
