"""Train, validation and test: as published, or by a stable hash of the question (no file of indices, no luck)."""

import collections.abc
import hashlib
import unicodedata

import numpy as np

TRAIN, VALIDATION, TEST, UNUSED = range(4)
NAMES = ('train', 'validation', 'test')  # what is unused is in no split
KINDS = ('hash', 'published')


def normalise(question: str) -> str:
  """Folds what does not change a question (case, white space, compatibility characters)."""
  return ' '.join(unicodedata.normalize('NFKC', question).casefold().split())


def uniform_hash(questions: collections.abc.Iterable[str], salt: str) -> np.ndarray:
  """Hashes each question to a number in [0, 1), float64[N]; equal questions get equal numbers."""
  digests = (
    hashlib.blake2b(f'{salt}\n{normalise(q)}'.encode(errors='replace'), digest_size=8).digest() for q in questions
  )
  # 53 bits are what a float64 holds exactly, so that no hash rounds up to 1.
  return np.array([int.from_bytes(d, 'big') >> 11 for d in digests], np.float64) / 2**53


def assign(
  questions: collections.abc.Sequence[str],
  *,
  seed: int,
  validation: float,
  test: float,
  folds: int = 0,
  fold: int = 0,
) -> np.ndarray:
  """Assigns every question to a split.

  Args:
    questions: N texts; equal ones (see `normalise`) always share a split.
    seed: Another seed gives another, independent split.
    validation: Share of the questions that validate; with folds, of those that do not test.
    test: Share that tests; unused with folds.
    folds: 0 for one split; else the number of folds, each of which tests once.
    fold: Which fold tests.

  Returns:
    int8[N] of TRAIN, VALIDATION, TEST.

  Raises:
    ValueError: for shares that leave no training data, or a fold that does not exist.
  """
  if not (validation > 0 and test > 0 and validation + test < 1):
    raise ValueError(f'validation={validation} and test={test} must be above 0 and leave a share for train')
  if folds == 1 or folds < 0 or not 0 <= fold < max(folds, 1):
    raise ValueError(f'folds={folds}, fold={fold}: there must be 0 or at least 2 folds, and fold below folds')
  position = uniform_hash(questions, f'split/{seed}')
  if not folds:
    bounds = (1 - validation - test, 1 - test)
    return np.digitize(position, bounds).astype(np.int8)
  split = np.where(uniform_hash(questions, f'validation/{seed}') < validation, VALIDATION, TRAIN)
  split[np.floor(position * folds).astype(int) == fold] = TEST
  return split.astype(np.int8)


def published(split: np.ndarray, query_ids: collections.abc.Sequence[str]) -> np.ndarray:
  """Takes every query's split as it was published.

  Args:
    split: int8[N] of TRAIN, VALIDATION, TEST; -1 where none was published.
    query_ids: N ids, for the message.

  Returns:
    int8[N].

  Raises:
    ValueError: when queries lack a published split; says how many, and names one.
  """
  if len(lacking := np.flatnonzero(split < 0)):
    raise ValueError(
      f'config.dataset.split=published, but {len(lacking):,} of {len(split):,} queries name no split, '
      f'{query_ids[lacking[0]]!r} for one; take --config.dataset.split=hash'
    )
  return split


def thin_train(split: np.ndarray, questions: collections.abc.Sequence[str], *, share: float, seed: int) -> np.ndarray:
  """Leaves out training questions, so that only a share of them is used.

  Args:
    split: int8[N].
    questions: N texts; equal ones are used or left out together.
    share: From 0 to 1. What a smaller share keeps, a larger one keeps too.
    seed: Another seed keeps others.

  Returns:
    int8[N], UNUSED where a training question is left out.
  """
  left_out = (split == TRAIN) & (uniform_hash(questions, f'train_share/{seed}') >= share)
  return np.where(left_out, UNUSED, split).astype(np.int8)
