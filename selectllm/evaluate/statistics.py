"""Measures how sure one may be: bootstrap and Wilson intervals, paired gains with interval and test, Holm's correction.

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


# Two-sided 5 % and, for what a test would have shown, 80 % power.
_LEVEL, _POWER = 0.95, 0.8
_Z, _Z_POWER = float(scipy.stats.norm.ppf((1 + _LEVEL) / 2)), float(scipy.stats.norm.ppf(_POWER))


class PairedGains(typing.NamedTuple):
  """P pairs of methods compared on the same queries, arrays [P].

  Attributes:
    delta: Mean of a - b over the valid queries, NaN when there is none.
    low: Lower end of its 95 % interval; above 0 or `high` below 0 exactly where p < 0.05.
    high: Upper end.
    p: Two-sided p-value of the hypothesis that the mean gain is 0; 1 where the methods differ nowhere.
    differ: Queries that the two score differently.
    detectable: The smallest gain that such a test finds with a power of 80 %; NaN where there are too few queries.
  """

  delta: np.ndarray
  low: np.ndarray
  high: np.ndarray
  p: np.ndarray
  differ: np.ndarray
  detectable: np.ndarray


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


def accuracy_ci(values: np.ndarray, valid: np.ndarray, *, resamples: int = 2000) -> np.ndarray:  # [M, 2]
  """Returns the 95 % interval of the mean of each column: Wilson's of right and wrong, the bootstrap's of other scores.

  Near 0 and 1 the bootstrap is too narrow, and of zero width where all are right (Brown, Cai and DasGupta 2001).

  Args:
    values: float or bool[N, M] in [0, 1].
    valid: bool[N, M].
    resamples: See `bootstrap_ci`, as for the errors raised.
  """
  values, valid = check_values(values, valid)
  binary = ((values == 0) | (values == 1) | ~valid).all(0)
  intervals = np.full((values.shape[1], 2), np.nan)
  if not binary.all():
    intervals[~binary] = bootstrap_ci(values[:, ~binary], valid[:, ~binary], resamples=resamples)
  for column in np.flatnonzero(binary & valid.any(0)):
    counted = values[valid[:, column], column]
    intervals[column] = wilson_ci(float(np.mean(counted, dtype=np.float64)), len(counted))
  return intervals


def widen(interval: np.ndarray, mean: np.ndarray, seed_variance: np.ndarray) -> np.ndarray:  # [..., 2]
  """Widens 95 % intervals over queries by what another seed of the training would change.

  The total variance is that of the sampled queries plus that between seeds. Each end is moved by itself, so that an
  interval that is not symmetric stays so (Zou and Donner 2008: variance estimates are recovered from the ends).

  Args:
    interval: float[..., 2], of one training, or of the mean over several.
    mean: float[...], the accuracy within it.
    seed_variance: float[...], the variance of the accuracies of several seeds (divided by their number less one): the
      interval is then of what one further training brings.
  """
  reach = np.sqrt((interval - mean[..., None]) ** 2 + _Z**2 * seed_variance[..., None])
  return np.clip(mean[..., None] + reach * (-1, 1), 0, 1)


def paired_gains(
  a: np.ndarray, b: np.ndarray, valid: np.ndarray, *, seed_variance: np.ndarray | float = 0.0
) -> PairedGains:
  """Compares pairs of methods query by query, with an interval and a test that never contradict each other.

  The test is McNemar's (1947, without a correction): the squared sum of the differences over the sum of their squares
  is chi-squared with one degree of freedom. It holds its level well and has more power than the exact one (Fagerland,
  Lydersen and Laake 2013). For scores other than right and wrong it is the same statistic, a self-normalised sum. The
  interval holds all gains that this test does not refute: Tango's (1998) score interval for right and wrong; otherwise,
  a gain of g leaves differences d - g, whose statistic is solved for g. Where both are means over several seeds of the
  training, the variance of the gain between seeds is added to that of its mean (see `widen`), in interval and test.

  What is detectable solves Miettinen's (1968; Connor 1987) sample size for the gain: n g^2 = (z_0.975 sqrt(q) + z_0.8
  sqrt(q - g^2))^2, where q is the observed mean squared difference (for right and wrong the share of queries on which
  the two differ), or g itself where less than that differ.

  Args:
    a: float or bool[N, P] in [0, 1], what one method of each pair scored on each query.
    b: float or bool[N, P], what the other scored.
    valid: bool[N, P], True where both have a score.
    seed_variance: float[P], of the gains of several seeds; 0 for one seed.

  Raises:
    ValueError: if the shapes differ, or a valid score is not finite or outside [0, 1].
  """
  a, valid = check_values(a, valid)
  b, _ = check_values(b, valid)
  for scores in (a, b):
    if (outside := valid & ((scores < 0) | (scores > 1))).any():
      raise ValueError(f'scores lie between 0 and 1, not {scores[outside][0]}')
  difference = np.where(valid, a.astype(np.float64) - b, 0.0)
  count, total, squares = valid.sum(0), difference.sum(0), np.square(difference).sum(0)
  count_or_1 = np.maximum(count, 1)
  mean, seed_variance = total / count_or_1, np.broadcast_to(seed_variance, count.shape)
  spread = np.maximum(squares / count_or_1 - mean**2, 0)  # the variance of the differences
  # The largest z^2 at which 0 is outside of mean -+ z sqrt(spread / (n - z^2) + seed_variance).
  linear = spread + count * seed_variance + mean**2
  root = linear + np.sqrt(np.maximum(linear**2 - 4 * seed_variance * mean**2 * count, 0))
  statistic = np.divide(2 * mean**2 * count, root, out=np.zeros_like(root), where=root > 0)
  low, high = _score_interval(mean, spread, count, seed_variance)
  binary = ((np.abs(difference) == 1) | (difference == 0)).all(0) & (seed_variance < 1e-12)
  wins, losses = (difference > 0).sum(0), (difference < 0).sum(0)
  low = np.where(binary, -_tango_upper_end(losses, wins, count_or_1), low)
  high = np.where(binary, _tango_upper_end(wins, losses, count_or_1), high)
  detectable = _detectable(squares / count_or_1, count_or_1, binary)
  detectable = np.sqrt(detectable**2 + ((_Z + _Z_POWER) ** 2) * seed_variance)
  mean, low, high = (np.where(count > 0, values, np.nan) for values in (mean, low, high))
  return PairedGains(mean, low, high, scipy.stats.chi2.sf(statistic, 1), wins + losses, detectable)


def _score_interval(
  mean: np.ndarray, spread: np.ndarray, count: np.ndarray, seed_variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the ends of the intervals of mean gains of any scores; everything that can be where queries are too few."""
  rest = count - _Z**2
  reach = np.where(rest > 0, _Z * np.sqrt(spread / np.where(rest > 0, rest, 1) + seed_variance), np.inf)
  return np.maximum(mean - reach, -1), np.minimum(mean + reach, 1)


def _tango_upper_end(wins: np.ndarray, losses: np.ndarray, count: np.ndarray) -> np.ndarray:
  """Returns the upper end of Tango's (1998) score interval of (wins - losses) / count, by bisection.

  Where the gain is g, the probability of a loss that is most likely solves 2 n q^2 + B q + C = 0.
  """
  low, high = (wins - losses) / count, np.ones(count.shape)
  for _ in range(60):
    gain = (low + high) / 2
    b = (2 * count - wins + losses) * gain - wins - losses
    c = -losses * gain * (1 - gain)
    loss = (np.sqrt(np.maximum(b**2 - 8 * count * c, 0)) - b) / (4 * count)
    deviation = np.sqrt(count * np.maximum(2 * loss + gain * (1 - gain), 0))
    inside = wins - losses - count * gain >= -_Z * deviation
    low, high = np.where(inside, gain, low), np.where(inside, high, gain)
  return low


def _detectable(squares: np.ndarray, count: np.ndarray, binary: np.ndarray) -> np.ndarray:
  """Returns the smallest gains that are found with a power of 80 %, of mean squared differences; NaN where none is."""
  root = np.sqrt(np.maximum(count + _Z_POWER**2 - _Z**2, 0))
  gain = np.sqrt(squares) * (_Z * np.sqrt(count) + _Z_POWER * root) / (count + _Z_POWER**2)
  least = np.zeros(gain.shape)  # where nothing differs but what the better one gains
  for _ in range(20):
    least = np.minimum((_Z + _Z_POWER * np.sqrt(1 - least)) ** 2 / count, 1)
  gain = np.where(binary & (gain >= squares), least, gain)
  return np.where((gain > 0) & (gain < 1) & (count > _Z**2), gain, np.nan)


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
