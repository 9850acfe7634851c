"""What train and validation say of the pool: expected latencies, and the baselines that a policy must beat."""

from typing import NamedTuple

import ml_collections
import numpy as np

from selectllm.data import dataset, splits
from selectllm.selection import baselines


class Fitted(NamedTuple):
  """What train (and, for choices, validation) says of the pool.

  Attributes:
    latency_s: float32[K], see `expected_latency_s`.
    top: int[K], LLMs from the most accurate on train.
    best_single: The LLM most accurate on train and validation.
    best: bool[K, K], the subset of each size whose vote was most accurate on train and validation; None without votes.
    knn: float32[N, K], nearest-neighbour scores of validation and test queries; 0 for others.
    neighbours: How many neighbours did best on validation.
  """

  latency_s: np.ndarray
  top: np.ndarray
  best_single: int
  best: np.ndarray | None
  knn: np.ndarray
  neighbours: int


def sizes_of(data: dataset.Responses) -> np.ndarray:
  """The subset sizes to evaluate: 1..K, or 1 alone where there are scores and no votes."""
  return np.arange(1, (data.labels.shape[1] if data.has_answers else 1) + 1, dtype=np.int32)


def expected_latency_s(data: dataset.Responses, split: np.ndarray) -> np.ndarray:
  """Each LLM's mean latency on train, float32[K]; where it is unknown, as slow as any, so that it wins no tie."""
  latency_s, observed = (array[split == splits.TRAIN] for array in (data.latency_s, data.observed))
  mean = baselines.mean_by_llm(latency_s, observed & ~np.isnan(latency_s))
  slowest = np.max(mean, where=~np.isnan(mean), initial=0)
  return np.where(np.isnan(mean), slowest, mean).astype(np.float32)


def fit(
  data: dataset.Responses, split: np.ndarray, embeddings: np.ndarray, config: ml_collections.ConfigDict
) -> Fitted:
  """Fits the baselines on train and validation; best subsets and neighbours on `baselines.some` of their queries.

  Args:
    data: All N queries.
    split: int8[N].
    embeddings: float32[N, D], unit vectors of the pretrained encoder.
    config: `config.evaluate`.
  """
  train, validation = split == splits.TRAIN, split == splits.VALIDATION
  latency_s = expected_latency_s(data, split)
  learned, best = train | validation, None
  if data.has_answers:
    of = data.rows(baselines.some(np.flatnonzero(learned)))
    best = baselines.best_subsets(of.answers, of.reference, of.observed, latency_s, over=config.vote)
  # Nothing asks for the neighbours of other queries.
  asked = np.flatnonzero(validation | (split == splits.TEST))
  bank = baselines.some(np.flatnonzero(train))
  nearest_rows = baselines.nearest(embeddings[asked], embeddings[bank], neighbours=max(config.knn_neighbours))

  def knn(neighbours: int, of: np.ndarray) -> np.ndarray:
    return baselines.knn_scores(nearest_rows[of, :neighbours], data.labels[bank], data.observed[bank])

  tuned_on = validation[asked]

  def validation_accuracy(neighbours: int) -> float:
    scores = np.where(data.observed[validation], knn(neighbours, tuned_on), -np.inf)
    chosen = scores.argmax(-1)[:, None]
    return float(np.take_along_axis(data.labels[validation], chosen, 1).mean())

  # The first of equals, from many neighbours to few: the smoother one.
  neighbours = max(sorted(config.knn_neighbours, reverse=True), key=validation_accuracy)
  scores = np.zeros(data.labels.shape, np.float32)
  scores[asked] = knn(neighbours, np.ones(len(asked), bool))
  return Fitted(
    latency_s=latency_s,
    top=baselines.by_accuracy(data.labels[train], data.observed[train], latency_s),
    best_single=int(baselines.by_accuracy(data.labels[learned], data.observed[learned], latency_s)[0]),
    best=best,
    knn=scores,
    neighbours=neighbours,
  )
