"""Questions that stand in two splits, word for word or nearly: what a classifier may remember instead of learn.

*The same* question: equal after `splits.normalise`. *Nearly the same*: the sets of five-character pieces of the two
normalised questions have a Jaccard similarity of at least `near`. Pieces of characters see through a lost space or
another comma and still tell short questions apart: at 0.8, nine tenths of a text must be left as it is, so that one
other word makes another question of any text below some hundred characters ("the capital of France", "of Spain").
Questions from one template that differ in their numbers alone are nearly the same when the numbers are a small part of
the text, though their answers differ: who knows one knows how to solve the other. So are questions about one long
passage that the text repeats.

Candidates come from MinHash signatures (Broder 1997) and locality-sensitive hashing in bands (Leskovec, Rajaraman and
Ullman, Mining of Massive Datasets, chapter 3); each is verified on the texts. Time and memory grow in proportion to the
questions: about 0.1 ms and 0.5 KB for each.
"""

import collections.abc
import zlib
from typing import NamedTuple

import datasketch
import numpy as np

from selectllm.data import splits

# Which queries must not be found where: (of, within).
SPLIT_PAIRS = ((splits.TEST, splits.TRAIN), (splits.TEST, splits.VALIDATION), (splits.VALIDATION, splits.TRAIN))
SHINGLE = 5  # characters
HASHES = 128  # of a MinHash signature
MISSED = 0.01  # the most pairs exactly at the threshold that the bands may miss, as a share
MOST_TEXTS = 1_000_000  # of more distinct questions, a random sample of so many is searched
# Most questions that one is compared with: bounds the time where all of them share a long text, such as an instruction.
MOST_COMPARED = 32

_OF, _WITHIN = np.array(SPLIT_PAIRS).T


class Pair(NamedTuple):
  """Two queries, one of a split that must not hold the other's question.

  Attributes:
    of: Row of the one.
    within: Row of the other.
    splits: Index into `SPLIT_PAIRS`.
    similarity: Jaccard; 1 where the questions are the same.
  """

  of: int
  within: int
  splits: int
  similarity: float


class Overlap(NamedTuple):
  """Duplicates found in F splits of N queries.

  Attributes:
    exact: bool[F, N, L], queries whose question the other split of each of `SPLIT_PAIRS` holds too.
    near: bool[F, N, L], queries that are not `exact` and have a near duplicate there.
    pairs: Where each was first found, in a fixed order; not all pairs that there are.
    distinct: How many different questions the splits hold.
    searched: Among how many of them near duplicates were searched; of fewer than all, `near` finds fewer than all.
    crowded: How many were like so many others that not all were compared; `near` may miss theirs.
  """

  exact: np.ndarray
  near: np.ndarray
  pairs: list[Pair]
  distinct: int
  searched: int
  crowded: int


def shingles(text: str) -> set[bytes]:
  """Cuts a text into all pieces of `SHINGLE` characters; a shorter one stays whole."""
  wide = text.encode('utf-32-le', 'surrogatepass')
  return {wide[at : at + 4 * SHINGLE] for at in range(0, max(1, len(wide) - 4 * (SHINGLE - 1)), 4)}


def jaccard(one: set[bytes], other: set[bytes]) -> float:
  """Returns the share of all pieces that both sets have; they hold one piece at least."""
  both = len(one & other)
  return both / (len(one) + len(other) - both)


def find(questions: collections.abc.Sequence[str], split: np.ndarray, near: float) -> Overlap:
  """Finds the questions that stand in two splits.

  Args:
    questions: N texts.
    split: int8[F, N], one split or all folds, see `splits.assign`; what is in no split is not looked at.
    near: Jaccard similarity from which two questions are nearly the same, from 0.5 to 1; 0 looks for equal ones only.

  Returns:
    The same for the same arguments.
  """
  index: dict[str, int] = {}
  text_of = np.array([index.setdefault(splits.normalise(question), len(index)) for question in questions], np.int64)
  texts = list(index)
  holds = np.zeros((len(texts), len(split), len(splits.NAMES)), bool)  # [U, F, 3]
  for fold, part in enumerate(split):
    for which in range(len(splits.NAMES)):
      holds[text_of[part == which], fold, which] = True
  same = holds[..., _OF] & holds[..., _WITHIN]  # [U, F, L]
  alike, found, searched, crowded = _near(texts, holds, near) if near else (np.zeros_like(same), [], 0, 0)
  member = split[..., None] == _OF  # [F, N, L]
  exact = member & same[text_of].swapaxes(0, 1)
  found = [(text, text, 1.0) for text in np.flatnonzero(same.any((1, 2))).tolist()] + found
  return Overlap(
    exact=exact,
    near=member & alike[text_of].swapaxes(0, 1) & ~exact,
    pairs=_pairs(found, text_of, split),
    distinct=int(holds.any((1, 2)).sum()),
    searched=searched,
    crowded=crowded,
  )


def _near(
  texts: list[str], holds: np.ndarray, near: float
) -> tuple[np.ndarray, list[tuple[int, int, float]], int, int]:
  """Finds near duplicates among U texts: bool[U, F, L], pairs (of, within, similarity), texts searched and crowded."""
  # In random order, so that of many alike texts, those compared are of all splits.
  order = np.random.default_rng(0).permutation(np.flatnonzero(holds.any((1, 2))))[:MOST_TEXTS]
  alike = np.zeros((*holds.shape[:2], len(SPLIT_PAIRS)), bool)
  compared = np.zeros(len(texts), np.int32)
  found = []

  def news(of: np.ndarray, within: np.ndarray) -> np.ndarray:
    return holds[of][..., _OF] & holds[within][..., _WITHIN] & ~alike[of]

  for left, right in _candidates(_signatures([texts[text] for text in order]), near):
    pairs = np.stack([order[left], order[right]])
    telling = news(*pairs).any((1, 2)) | news(*pairs[::-1]).any((1, 2))
    for pair in pairs[:, telling & (compared[pairs] < MOST_COMPARED).all(0)].T:
      compared[pair] += 1
      similarity = jaccard(*(shingles(texts[text]) for text in pair))
      for of, within in (pair, pair[::-1]) if similarity >= near else ():
        if (learned := news(of, within)).any():
          alike[of] |= learned
          found.append((int(of), int(within), similarity))
  return alike, found, len(order), int((compared >= MOST_COMPARED).sum())


def _signatures(texts: list[str]) -> np.ndarray:
  """Computes MinHash signatures, uint32[U, HASHES]."""
  sketches = datasketch.MinHash.generator(map(shingles, texts), num_perm=HASHES, seed=1, hashfunc=zlib.crc32)
  row = np.dtype((np.uint32, HASHES))
  return np.fromiter((sketch.hashvalues for sketch in sketches), row, count=len(texts))


def _candidates(signatures: np.ndarray, near: float) -> collections.abc.Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields int[P], int[P]: pairs whose signatures agree in a band; the wider a band, the fewer agree by chance."""
  width = max(w for w in range(1, HASHES + 1) if (1 - near**w) ** (HASHES // w) <= MISSED)
  mix = np.random.default_rng(0).integers(2**64, size=width, dtype=np.uint64)
  for start in range(0, HASHES - width + 1, width):
    key = signatures[:, start : start + width].astype(np.uint64) @ mix  # wraps around
    order = np.argsort(key, kind='stable')
    ordered = key[order]
    for step in range(1, MOST_COMPARED + 1):
      agree = ordered[step:] == ordered[:-step]
      if not agree.any():
        break
      yield order[:-step][agree], order[step:][agree]


def _pairs(found: list[tuple[int, int, float]], text_of: np.ndarray, split: np.ndarray) -> list[Pair]:
  """Turns pairs of texts into pairs of rows: the first rows of the two that share a question across splits."""
  by_text = np.argsort(text_of, kind='stable')
  ends = np.searchsorted(text_of[by_text], np.arange(text_of.max(initial=-1) + 2))

  def rows(text: int) -> np.ndarray:
    return by_text[ends[text] : ends[text + 1]]

  pairs = []
  for of, within, similarity in found:
    for place, (which, other) in enumerate(SPLIT_PAIRS):
      ones, others = (split[:, rows(text)] == part for text, part in ((of, which), (within, other)))
      if len(folds := np.flatnonzero(ones.any(1) & others.any(1))):
        fold = folds[0]
        pairs.append(
          Pair(int(rows(of)[ones[fold].argmax()]), int(rows(within)[others[fold].argmax()]), place, similarity)
        )
        break
  return pairs
