"""Measures how sure one may be: bootstrap and Wilson intervals, exact and sign-flip paired tests, Holm's correction.

Shapes: N queries, M methods. Everything is computed in float64 on the host. An entry that is not valid is never read,
so it may hold NaN. Work that would need N x resamples numbers is cut into blocks of queries, so memory does not grow
with the resamples times N.
"""

import collections.abc
import typing

import numpy as np
import scipy.stats

# Above so many queries nothing is drawn query by query, but how often each value is: in distribution the same, and
# while 2,000 resamples of 10,000 queries take a second, those of a million take minutes.
MANY = 50_000
# Columns of more values than this are drawn query by query, however many queries there are.
_FEW_VALUES = 256

# Numbers held at once, for all resamples of one block of queries: 16 MiB of float64.
_BLOCK_CELLS = 2**21


class PairedTest(typing.NamedTuple):
  """Two methods compared on the same queries.

  Attributes:
    delta: Mean of a - b over the valid queries, NaN when there is none.
    p: Two-sided p-value of the hypothesis that a and b are exchangeable.
  """

  delta: float
  p: float


def bootstrap_ci(
  values: np.ndarray, valid: np.ndarray, *, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> np.ndarray:  # [M, 2]
  """Returns the percentile bootstrap interval of the mean of each column (Efron and Tibshirani 1993, chapter 13).

  A resample draws N queries with replacement and is shared by all columns. It enters as how often each query was drawn,
  so that all means of a block of queries are one matrix product; the blocks' totals are drawn first (multinomial),
  which leaves the distribution as it is. Of more than `MANY` queries a resample of each column is its own, and says how
  often each value was drawn (multinomial), unless the column has too many values. Resamples without a valid query of a
  column say nothing about that column.

  Args:
    values: float or bool[N, M].
    valid: bool[N, M]; the mean of a column is over its valid queries.
    resamples: Number of resamples.
    seed: Seeds the draw; equal input and seed give equal intervals.
    level: Coverage aimed at, in (0, 1).

  Returns:
    float[M, 2], lower and upper end; NaN for a column without a valid query.

  Raises:
    ValueError: if the shapes differ, a valid value is not finite, or `resamples` or `level` is out of range.
  """
  if resamples < 1:
    raise ValueError(f'resamples must be at least 1, not {resamples}')
  if not 0 < level < 1:
    raise ValueError(f'level must lie between 0 and 1, such as 0.95, not {level}')
  values, valid = check_values(values, valid)
  if len(values) > MANY:
    return _many_bootstrap_ci(values, valid, resamples, seed, level)
  return _bootstrap_ci(values, valid, resamples, seed, level)


def _bootstrap_ci(values: np.ndarray, valid: np.ndarray, resamples: int, seed: int, level: float) -> np.ndarray:
  """Returns the interval of each column, from resamples drawn query by query."""
  # Resampling distances from the mean keeps the interval of equal values at zero width, free of rounding.
  centre = ratio(np.asarray(values.sum(axis=0, where=valid, dtype=np.float64)), valid.sum(axis=0))
  sums = np.zeros((resamples, values.shape[1]))  # [R, M]
  counts = np.zeros_like(sums)
  for block, weight in _resample_weights(len(values), resamples, np.random.default_rng(seed)):
    sums += weight @ np.where(valid[block], values[block] - centre, 0.0)
    counts += weight @ valid[block].astype(np.float64)
  intervals = [_percentiles(*column, level) for column in zip(centre, sums.T, counts.T, strict=True)]
  return np.array(intervals).reshape(-1, 2)


def _percentiles(centre: float, sums: np.ndarray, counts: np.ndarray, level: float) -> np.ndarray:
  """Returns the interval of one column, from its resamples' sums and valid queries; NaN where none has any."""
  drawn = counts > 0
  if not drawn.any():
    return np.full(2, np.nan)
  return centre + np.quantile(sums[drawn] / counts[drawn], [(1 - level) / 2, (1 + level) / 2])


def _many_bootstrap_ci(values: np.ndarray, valid: np.ndarray, resamples: int, seed: int, level: float) -> np.ndarray:
  """Returns the interval of each column, from how often a resample draws each of its values."""
  intervals, many = np.zeros((values.shape[1], 2)), []
  for place, (column, counted) in enumerate(zip(values.T, valid.T, strict=True)):
    found, times = np.unique(column[counted], return_counts=True)
    if len(found) > _FEW_VALUES:
      many.append(place)
      continue
    found, times = found.astype(np.float64), np.append(times, len(column) - times.sum())
    centre = float(found @ times[:-1] / max(times[:-1].sum(), 1))
    drawn = np.random.default_rng(seed).multinomial(len(column), times / len(column), size=resamples)[:, :-1]
    intervals[place] = _percentiles(centre, drawn @ (found - centre), drawn.sum(axis=1), level)
  if many:
    intervals[many] = _bootstrap_ci(values[:, many], valid[:, many], resamples, seed, level)
  return intervals


def wilson_ci(share: float, count: int, *, level: float = 0.95) -> tuple[float, float]:
  """Returns Wilson's score interval (1927) of a share: for few queries or shares near 0 or 1.

  Args:
    share: Mean of values in [0, 1]; where they are not all 0 or 1, they vary less, and the interval is too wide.
    count: How many values, at least 1.
    level: Coverage aimed at, in (0, 1).

  Returns:
    Lower and upper end, within [0, 1].

  Raises:
    ValueError: if `share`, `count` or `level` is out of range.
  """
  if count < 1 or not 0 <= share <= 1 or not 0 < level < 1:
    raise ValueError(f'share={share} and level={level} must lie between 0 and 1, and count={count} be at least 1')
  z = scipy.stats.norm.ppf((1 + level) / 2)
  centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
  half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
  return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def holm(p: np.ndarray) -> np.ndarray:  # [M]
  """Adjusts the p-values float[M] of M tests to the chance that any of them errs (Holm 1979); NaN is no test."""
  p = np.asarray(p, dtype=np.float64)
  adjusted, tested = np.full(p.shape, np.nan), np.flatnonzero(~np.isnan(p))
  order = tested[np.argsort(p[tested], kind='stable')]
  adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
  return adjusted


def paired_test(a: np.ndarray, b: np.ndarray, valid: np.ndarray, *, draws: int = 10_000, seed: int = 0) -> PairedTest:
  """Tests whether two methods differ, query by query.

  Under the hypothesis every difference a - b is as likely to have the other sign. Where all differences are -1, 0 or 1
  (right or wrong answers) the p-value is exact: twice the smaller binomial tail of wins among wins and losses, at most
  1 (McNemar's test in its exact form). Otherwise signs are flipped at random, and
  p = (1 + draws at least as extreme as the observed sum) / (1 + draws), which is never 0 (Phipson and Smyth 2010). Of
  more than `MANY` queries it is drawn how many of each difference are flipped, unless there are too many differences.

  Args:
    a: float or bool[N], what one method scored on each query.
    b: float or bool[N], what the other scored.
    valid: bool[N], True where both have a score.
    draws: Number of random sign flips; not used by the exact test.
    seed: Seeds the sign flips.

  Returns:
    The mean difference and its p-value; p is 1 when the methods differ nowhere.

  Raises:
    ValueError: if the shapes differ, a valid score is not finite, or `draws` is less than 1.
  """
  if draws < 1:
    raise ValueError(f'draws must be at least 1, not {draws}')
  a, valid = check_values(a, valid, dimensions=1)
  b, _ = check_values(b, valid, dimensions=1)
  difference = a[valid].astype(np.float64) - b[valid]
  if not difference.size:
    return PairedTest(delta=float('nan'), p=1.0)
  delta = float(difference.mean())
  difference = difference[difference != 0]
  if not difference.size:
    return PairedTest(delta=0.0, p=1.0)
  if np.all(np.abs(difference) == 1):
    wins = int((difference > 0).sum())
    tail = scipy.stats.binom.cdf(min(wins, len(difference) - wins), len(difference), 0.5)
    return PairedTest(delta, p=min(1.0, 2 * float(tail)))
  return PairedTest(delta, _sign_flip_p(difference, draws, np.random.default_rng(seed)))


def _resample_weights(
  queries: int, resamples: int, rng: np.random.Generator
) -> collections.abc.Iterator[tuple[slice, np.ndarray]]:
  """Yields blocks of queries and float[R, block], how often each resample holds each query of the block."""
  blocks = _query_blocks(queries, resamples)
  widths = np.array([block.stop - block.start for block in blocks])
  totals = rng.multinomial(queries, widths / queries, size=resamples) if blocks else np.empty((resamples, 0))
  for block, width, total in zip(blocks, widths, totals.T, strict=True):
    row = np.repeat(np.arange(resamples), total)
    cell = row * width + rng.integers(width, size=len(row))
    yield block, np.bincount(cell, minlength=resamples * width).reshape(resamples, width).astype(np.float64)


def _sign_flip_p(difference: np.ndarray, draws: int, rng: np.random.Generator) -> float:
  """Monte Carlo p-value of the sum of `difference` under random signs."""
  flipped = np.zeros(draws)  # the sum of those differences whose sign a draw flips
  found, times = np.unique(difference, return_counts=True) if len(difference) > MANY else (difference, None)
  if times is not None and len(found) <= _FEW_VALUES:
    flipped = rng.binomial(times, 0.5, size=(draws, len(found))) @ found
  else:
    for block in _query_blocks(len(difference), draws):
      part = difference[block]
      random_bytes = rng.integers(256, size=(draws, -(-len(part) // 8)), dtype=np.uint8)
      flipped += np.unpackbits(random_bytes, axis=1, count=len(part)) @ part
  total = difference.sum()
  # Sums that differ by rounding alone are equal.
  tolerance = 1e-10 * np.abs(difference).sum()
  extreme = np.abs(total - 2 * flipped) >= np.abs(total) - tolerance
  return float((1 + extreme.sum()) / (1 + draws))


def _query_blocks(queries: int, repeats: int) -> list[slice]:
  """Cuts the queries so that `repeats` numbers for each query of a block stay within `_BLOCK_CELLS`."""
  width = max(1, _BLOCK_CELLS // repeats)
  return [slice(start, min(start + width, queries)) for start in range(0, queries, width)]


def check_values(values: np.ndarray, valid: np.ndarray, dimensions: int = 2) -> tuple[np.ndarray, np.ndarray]:
  """Returns values and their mask as arrays of one shape with so many axes.

  Raises:
    ValueError: if the shapes differ or a valid value is not finite.
  """
  values, valid = np.asarray(values), np.asarray(valid, dtype=bool)
  if values.ndim != dimensions or values.shape != valid.shape:
    raise ValueError(f'values and valid must share one shape of {dimensions} axes, not {values.shape}, {valid.shape}')
  broken = valid & ~np.isfinite(values)
  if broken.any():
    where = tuple(np.argwhere(broken)[0].tolist())
    raise ValueError(f'the value at {where} is {values[where]}; valid ones are finite')
  return values, valid


def ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
  """Returns total / count, float64; NaN where the count is 0."""
  return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
