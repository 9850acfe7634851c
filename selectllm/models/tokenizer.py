"""Turns texts into tokens, once, and lays them into rows of static length."""

import collections.abc
import itertools
import os
import pathlib
from typing import NamedTuple

import numpy as np

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
    """Returns the tokens in each query, int32[N]."""
    return np.diff(self.offsets).astype(np.int32)

  def rows(self, index: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Lays queries into rows, those of a row one after the other.

    Args:
      index: int[R, S], the queries of each row, -1 for none.
      length: Of a row (L); longer queries are cut, and together they fit.

    Returns:
      Tokens int32[R, L], zeros where no query is, and segments int32[R, L], which of the row's S places in `index` a
      token's query has, -1 where no query is.
    """
    lengths = np.where(index >= 0, np.minimum(self.lengths[index], length), 0)
    ends = lengths.cumsum(axis=1)  # [R, S]
    place = np.arange(length)
    segments = np.sum(place >= ends[..., None], axis=1)  # [R, L], S behind the last query
    inside = segments < index.shape[1]
    segments = np.where(inside, segments, 0)
    first = np.where(index >= 0, self.offsets[index], 0) - (ends - lengths)  # [R, S]
    source = np.where(inside, np.take_along_axis(first, segments, axis=1) + place, 0)
    tokens, segments = np.where(inside, self.values[source], 0), np.where(inside, segments, -1)
    return tokens.astype(np.int32), segments.astype(np.int32)


class Tokenizer:
  """Wraps a Hugging Face tokenizer, cutting at the encoder's limit."""

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
