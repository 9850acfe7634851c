"""Makes training batches in which little is padding: queries are bucketed by length."""

import collections.abc
import functools
from typing import Any, NamedTuple

import grain
import numpy as np

from selectllm.models import tokenizer

# Training batches are padded to one of so many lengths: each costs one compilation, fewer would pad more.
MOST_BUCKETS = 6


Array = Any  # of numpy on the host, of JAX on the device


class Batch(NamedTuple):
  """One padded batch of B queries, each in a row of its own; rows without a query have weight 0.

  Attributes:
    inputs: Tokens int32[B, L], and segments int32[B, L]: 0 where the query is, -1 behind it.
    labels: float32[B, K].
    weight: float32[B, K], 0 where there is no query or the LLM is missing.
  """

  inputs: tuple[Array, ...]
  labels: Array
  weight: Array


def buckets(lengths: np.ndarray, max_length: int) -> np.ndarray:
  """Finds the padded lengths, ascending int[<= MOST_BUCKETS], that together pad the queries least."""
  rounded = -(-np.asarray(lengths) // tokenizer.LENGTH_MULTIPLE) * tokenizer.LENGTH_MULTIPLE
  present, counts = np.unique(np.minimum(rounded, max_length), return_counts=True)
  if not len(present):
    return np.array([max_length])
  upto = counts.cumsum()
  least = (present * upto).astype(float)  # tokens in the queries up to each length, padded, if a bucket ends there
  ahead = np.triu(np.ones((len(present),) * 2, bool), 1)
  before = []
  for _ in range(min(MOST_BUCKETS, len(present)) - 1):  # one bucket more, after the best one that ends before it
    padded = np.where(ahead, least[:, None] + present * (upto - upto[:, None]), np.inf)
    before.append(padded.argmin(axis=0))
    least = padded.min(axis=0)
  ends = [len(present) - 1]
  for best in reversed(before):
    ends.append(best[ends[-1]])
  return present[ends[::-1]]


def fitting(edges: np.ndarray, length: int) -> int:
  """Returns the shortest padded length that holds a sequence; the longest one where none does."""
  return int(edges[min(int(np.searchsorted(edges, length)), len(edges) - 1)])


class TrainingBatches:
  """The batches of all epochs by step, a random-access source for grain.

  What a step holds depends on the seed and the step alone, so a run continues anywhere as if it had never stopped.
  Queries are shuffled anew in each epoch, sorted by length within stretches of some batches, and these batches
  shuffled again: padding stays little and the order random.
  """

  _STRETCH = 16  # batches

  def __init__(
    self,
    tokens: tokenizer.Tokens,
    index: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray,
    *,
    batch_size: int,
    epochs: int,
    max_length: int,
    seed: int,
    process: tuple[int, int] = (0, 1),
  ):
    """Lays out the batches.

    Args:
      tokens: All N queries.
      index: int[T], the queries to train on.
      labels: float32[N, K].
      weight: float32[N, K], 0 where an LLM is missing.
      batch_size: B, over all processes; the last batch of an epoch is filled up with weightless rows.
      epochs: How often each query is seen.
      max_length: The encoder's limit.
      seed: Of the order.
      process: Which process this is, of how many; each reads its share of the rows of every batch.
    """
    self._tokens, self._index, self._labels, self._weight = tokens, index, labels, weight
    self._batch_size, self._epochs, self._seed = batch_size, epochs, seed
    self._edges = buckets(tokens.lengths[index], max_length)
    self._plan = functools.lru_cache(maxsize=2)(self._epoch_plan)
    rank, count = process
    self._rows = slice(rank * batch_size // count, (rank + 1) * batch_size // count)

  @property
  def steps_per_epoch(self) -> int:
    """Returns the number of batches that hold every query once."""
    return -(-len(self._index) // self._batch_size)

  def __len__(self) -> int:
    return self.steps_per_epoch * self._epochs

  def __getitem__(self, step: int) -> Batch:
    epoch, place = divmod(step, self.steps_per_epoch)
    rows = self._plan(epoch)[place]
    length = fitting(self._edges, self._tokens.lengths[rows].max())
    return _pad_batch(self._tokens, rows, length, self._batch_size, self._labels, self._weight, self._rows)

  def _epoch_plan(self, epoch: int) -> list[np.ndarray]:
    random = np.random.default_rng([self._seed, epoch])
    order = random.permutation(self._index)
    # At least two stretches, so that in small sets too other queries meet in each epoch.
    stretch = max(1, min(self._STRETCH, self.steps_per_epoch // 2)) * self._batch_size
    batches: list[np.ndarray] = []
    for start in range(0, len(order), stretch):
      part = order[start : start + stretch]
      part = part[np.argsort(self._tokens.lengths[part], kind='stable')]
      batches += [part[i : i + self._batch_size] for i in range(0, len(part), self._batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def _pad_batch(
  tokens: tokenizer.Tokens,
  index: np.ndarray,
  length: int,
  batch_size: int,
  labels: np.ndarray,
  weight: np.ndarray,
  rows: slice = slice(None),
) -> Batch:
  """Pads the queries `index` to a batch of static shape; `rows` takes one process's share."""
  filled = np.full(batch_size, -1)
  filled[: len(index)] = index
  filled = filled[rows]
  return Batch(
    inputs=tokens.rows(filled[:, None], length),
    labels=labels[filled].astype(np.float32),
    weight=(weight[filled] * (filled >= 0)[:, None]).astype(np.float32),
  )


def training_iterator(source: TrainingBatches, start: int) -> collections.abc.Iterator[Batch]:
  """Gives the batches of the steps after `start`, read ahead in a thread."""
  read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
  return iter(grain.MapDataset.source(source)[start:].to_iter_dataset(read))
