"""From texts to padded batches: tokenized once, bucketed by length so that little is padding, fed by grain."""

import collections.abc
import functools
import itertools
import os
import pathlib
from typing import Any, NamedTuple

import grain
import numpy as np

# Sequences are padded to one of so many lengths: each costs one compilation, fewer would pad more.
MOST_BUCKETS = 4
# Padded lengths are multiples of this, which vector units like.
LENGTH_MULTIPLE = 8


class Tokens(NamedTuple):
  """N tokenized queries, one after the other.

  Attributes:
    values: int32[sum of lengths].
    offsets: int64[N + 1], query i is `values[offsets[i]:offsets[i + 1]]`.
    truncated: How many queries were longer than the limit.
  """

  values: np.ndarray
  offsets: np.ndarray
  truncated: int

  @property
  def lengths(self) -> np.ndarray:
    """int32[N]."""
    return np.diff(self.offsets).astype(np.int32)

  def padded(self, index: np.ndarray, length: int) -> np.ndarray:
    """The queries `index` as int32[len(index), length], zeros behind their ends."""
    starts, lengths = self.offsets[index], self.lengths[index]
    place = np.arange(length)
    inside = place < lengths[:, None]
    return np.where(inside, self.values[np.where(inside, starts[:, None] + place, 0)], 0)


Array = Any  # of numpy on the host, of JAX on the device


class Batch(NamedTuple):
  """One padded batch of B queries; rows without a query have length 1 and weight 0.

  Attributes:
    tokens: int32[B, L].
    lengths: int32[B].
    labels: float32[B, K].
    weight: float32[B, K], 0 where there is no query or the LLM is missing.
  """

  tokens: Array
  lengths: Array
  labels: Array
  weight: Array


class Tokenizer:
  """A Hugging Face tokenizer, cutting at the encoder's limit."""

  def __init__(self, folder: pathlib.Path, max_length: int):
    os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')  # it would advise to install PyTorch
    import transformers  # a second to import, needed only where there is text

    self._backend = transformers.AutoTokenizer.from_pretrained(str(folder)).backend_tokenizer
    self._backend.no_padding()
    self._backend.enable_truncation(max_length)
    self.max_length = max_length

  def __call__(self, queries: collections.abc.Sequence[str]) -> Tokens:
    """Tokenizes N queries; those beyond the limit lose their ends and are counted."""
    encodings = self._backend.encode_batch(list(queries))
    offsets = np.cumsum([0, *(len(e.ids) for e in encodings)], dtype=np.int64)
    values = np.fromiter(itertools.chain.from_iterable(e.ids for e in encodings), np.int32, count=offsets[-1])
    return Tokens(values, offsets, sum(bool(e.overflowing) for e in encodings))


def buckets(lengths: np.ndarray, max_length: int) -> np.ndarray:
  """The padded lengths, ascending int[<= MOST_BUCKETS], that together pad the queries least."""
  rounded = -(-np.asarray(lengths) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
  present = np.unique(np.minimum(rounded, max_length))
  if len(present) <= MOST_BUCKETS:
    return present if len(present) else np.array([max_length])
  # Every choice of lengths below the longest; a query is padded to the next one chosen.
  chosen = np.array(list(itertools.combinations(range(len(present) - 1), MOST_BUCKETS - 1)))
  edges = np.concatenate([present[chosen], np.full((len(chosen), 1), present[-1])], axis=1)
  below = np.searchsorted(np.sort(rounded), edges, side='right')  # queries no longer than each edge
  padded = np.sum(edges * np.diff(below, axis=1, prepend=0), axis=1)
  return edges[np.argmin(padded)]


def fitting(edges: np.ndarray, length: int) -> int:
  """The shortest padded length that holds a sequence; the longest one where none does."""
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
    tokens: Tokens,
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
    """Batches that hold every query once."""
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
  tokens: Tokens,
  index: np.ndarray,
  length: int,
  batch_size: int,
  labels: np.ndarray,
  weight: np.ndarray,
  rows: slice = slice(None),
) -> Batch:
  """The queries `index` as a batch of static shape; `rows` takes one process's share."""
  filled = np.zeros(batch_size, np.int64)
  filled[: len(index)] = index
  real = np.arange(batch_size) < len(index)
  filled, real = filled[rows], real[rows]
  return Batch(
    tokens=np.where(real[:, None], tokens.padded(filled, length), 0).astype(np.int32),
    lengths=np.where(real, np.minimum(tokens.lengths[filled], length), 1).astype(np.int32),
    labels=labels[filled].astype(np.float32),
    weight=(weight[filled] * real[:, None]).astype(np.float32),
  )


def training_iterator(source: TrainingBatches, start: int) -> collections.abc.Iterator[Batch]:
  """Gives the batches of the steps after `start`, read ahead in a thread."""
  read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
  return iter(grain.MapDataset.source(source)[start:].to_iter_dataset(read))


def scoring_order(
  tokens: Tokens, rows: np.ndarray, *, batch_size: int, max_length: int
) -> collections.abc.Iterator[tuple[np.ndarray, int]]:
  """Cuts the queries `rows` into batches of like length: yields (positions in `rows`, padded length)."""
  lengths = tokens.lengths[rows]
  edges = buckets(lengths, max_length)
  order = np.argsort(lengths, kind='stable')
  for start in range(0, len(order), batch_size):
    part = order[start : start + batch_size]
    yield part, fitting(edges, lengths[part].max())
