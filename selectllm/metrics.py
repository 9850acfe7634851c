"""How good a classifier and the methods built on it are, and how sure we may be: pure functions of arrays.

Shapes: N queries, K LLMs, M methods, B bins. Everything is computed in float64 on the host, whatever the dtype of the
input. An entry that is not observed or not valid is never read, so it may hold NaN. What is undefined (no entry to
average, one class only) is None where a single number is returned and NaN within an array or a NamedTuple. Work that
would need N x resamples numbers is cut into blocks of queries, so memory does not grow with the resamples times N.
"""

import collections.abc
import typing

import numpy as np
import scipy.stats

ECE_BINS = 15

# Above so many queries nothing is drawn query by query, but how often each value is: in distribution the same, and
# while 2,000 resamples of 10,000 queries take a second, those of a million take minutes.
MANY = 50_000
# Columns of more values than this are drawn query by query, however many queries there are.
_FEW_VALUES = 256

# Numbers held at once, for all resamples of one block of queries: 16 MiB of float64.
_BLOCK_CELLS = 2**21


class Reliability(typing.NamedTuple):
  """A reliability diagram: how often an LLM was right, by how confident the classifier was that it would be.

  Attributes:
    mean_confidence: float[B], NaN for an empty bin.
    frequency: float[B], the mean label, NaN for an empty bin.
    count: int[B], observed entries in the bin.
  """

  mean_confidence: np.ndarray
  frequency: np.ndarray
  count: np.ndarray  # type: ignore[assignment]  # the field's own word, at the price of tuple.count


class PairedTest(typing.NamedTuple):
  """Two methods compared on the same queries.

  Attributes:
    delta: Mean of a - b over the valid queries, NaN when there is none.
    p: Two-sided p-value of the hypothesis that a and b are exchangeable.
  """

  delta: float
  p: float


# The classifier: labels[N, K] against confidences[N, K].


def classifier_report(labels: np.ndarray, confidences: np.ndarray, observed: np.ndarray) -> dict[str, float | None]:
  """Summarises a multi-label classifier in the numbers that go into the report.

  Args:
    labels: float[N, K] in [0, 1]; 1 where the LLM was right. A score counts as right from 0.5 on where a class is
      needed (F1, AUROC) and as it is elsewhere (Brier, ECE).
    confidences: float[N, K] in [0, 1].
    observed: bool[N, K], False where the LLM is missing.

  Returns:
    `weighted_f1`, `macro_f1`, `auroc`, `brier` and `ece`, None where undefined.

  Raises:
    ValueError: if the shapes differ, or an observed label or confidence is outside [0, 1]. This holds for every
      function that takes these three arguments.
  """
  return {
    'weighted_f1': weighted_f1(labels, confidences, observed),
    'macro_f1': macro_f1(labels, confidences, observed),
    'auroc': auroc(labels, confidences, observed),
    'brier': brier(labels, confidences, observed),
    'ece': ece(labels, confidences, observed),
  }


def confusion(
  labels: np.ndarray, confidences: np.ndarray, observed: np.ndarray, threshold: float = 0.5
) -> np.ndarray:  # [K, 2, 2]
  """Counts each LLM's observed queries by true and predicted class.

  An LLM is predicted to be right when its confidence is *above* the threshold, as in the selection policies.

  Args:
    labels: float[N, K], right from 0.5 on.
    confidences: float[N, K].
    observed: bool[N, K].
    threshold: Confidence above which the positive class is predicted.

  Returns:
    int[K, 2, 2]; entry [k, t, p] counts the queries of class t that were predicted as p (0 wrong, 1 right).
  """
  labels, confidences, observed = _checked(labels, confidences, observed)
  right = labels >= 0.5
  predicted = confidences > threshold
  cells = [(observed & (right == t) & (predicted == p)).sum(axis=0) for t in (False, True) for p in (False, True)]
  return np.stack(cells, axis=-1).reshape(-1, 2, 2)


def weighted_f1(labels: np.ndarray, confidences: np.ndarray, observed: np.ndarray) -> float | None:
  """F1 of "will be right" for each LLM at threshold 0.5, averaged with weight = how often the LLM was right.

  The multi-label `average='weighted'` of scikit-learn, over observed entries: an LLM neither right nor ever predicted
  to be has F1 0, and so has the average when no LLM was ever right. None when nothing is observed.
  """
  f1, support = _f1_and_support(labels, confidences, observed)
  if not f1.size:
    return None
  return float(f1 @ support / support.sum()) if support.any() else 0.0


def macro_f1(labels: np.ndarray, confidences: np.ndarray, observed: np.ndarray) -> float | None:
  """The same F1 as in `weighted_f1`, every LLM with an observed query weighing the same; None when there is none."""
  f1, _ = _f1_and_support(labels, confidences, observed)
  return float(f1.mean()) if f1.size else None


def auroc(labels: np.ndarray, confidences: np.ndarray, observed: np.ndarray) -> float | None:
  """Area under the ROC curve, averaged over the LLMs that were both right and wrong on observed queries.

  Per LLM it is the chance that a query it gets right has a higher confidence than one it gets wrong, ties counting
  half (the Mann-Whitney statistic). None when no LLM has both classes.
  """
  areas = []
  for label, confidence in _per_llm(labels, confidences, observed):
    right = label >= 0.5
    positives = int(right.sum())
    negatives = len(right) - positives
    if positives and negatives:
      ranks = scipy.stats.rankdata(confidence)
      wins = ranks[right].sum() - positives * (positives + 1) / 2
      areas.append(wins / (positives * negatives))
  return float(np.mean(areas)) if areas else None


def brier(labels: np.ndarray, confidences: np.ndarray, observed: np.ndarray) -> float | None:
  """Mean squared difference of confidence and label over all observed entries; None when there is none."""
  error, count = 0.0, 0
  for label, confidence in _per_llm(labels, confidences, observed):
    error += float(np.square(confidence - label).sum())
    count += len(label)
  return error / count if count else None


def ece(labels: np.ndarray, confidences: np.ndarray, observed: np.ndarray) -> float | None:
  """Expected calibration error over all observed entries, all LLMs together; None when there is none.

  Sum over the bins of `reliability` (15, of equal width) of count / total * |frequency - mean confidence|;
  Guo et al. 2017, eq. 3, for the confidence of "will be right" instead of that of the predicted class.
  """
  diagram = reliability(labels, confidences, observed)
  total = diagram.count.sum()
  if not total:
    return None
  gap = np.abs(diagram.frequency - diagram.mean_confidence)
  return float(np.nansum(gap * diagram.count) / total)


def reliability(labels: np.ndarray, confidences: np.ndarray, observed: np.ndarray, bins: int = ECE_BINS) -> Reliability:
  """Groups the observed entries of all LLMs by confidence into bins of equal width.

  Args:
    labels: float[N, K] in [0, 1].
    confidences: float[N, K] in [0, 1].
    observed: bool[N, K].
    bins: B; bin b holds b / B <= confidence < (b + 1) / B, the last one confidence 1 as well.

  Returns:
    The diagram, its bins in order of confidence.
  """
  if bins < 1:
    raise ValueError(f'bins must be at least 1, not {bins}')
  confidence_sum, label_sum, count = np.zeros(bins), np.zeros(bins), np.zeros(bins, dtype=np.int64)
  for label, confidence in _per_llm(labels, confidences, observed):
    bin_of = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    confidence_sum += np.bincount(bin_of, weights=confidence, minlength=bins)
    label_sum += np.bincount(bin_of, weights=label, minlength=bins)
    count += np.bincount(bin_of, minlength=bins)
  return Reliability(_ratio(confidence_sum, count), _ratio(label_sum, count), count)


# Uncertainty: what the same experiment on other queries might have shown.


def masked_mean(values: np.ndarray, valid: np.ndarray) -> np.ndarray:  # [M]
  """Mean of each column over its valid queries, such as the accuracies of M methods.

  Args:
    values: float or bool[N, M].
    valid: bool[N, M].

  Returns:
    float[M], NaN for a column without a valid query.

  Raises:
    ValueError: if the shapes differ or a valid value is not finite.
  """
  values, valid = _checked_values(values, valid)
  return _ratio(np.asarray(values.sum(axis=0, where=valid, dtype=np.float64)), valid.sum(axis=0))


def bootstrap_ci(
  values: np.ndarray, valid: np.ndarray, *, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> np.ndarray:  # [M, 2]
  """Percentile bootstrap interval of the mean of each column (Efron and Tibshirani 1993, chapter 13).

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
  values, valid = _checked_values(values, valid)
  if len(values) > MANY:
    return _many_bootstrap_ci(values, valid, resamples, seed, level)
  return _bootstrap_ci(values, valid, resamples, seed, level)


def _bootstrap_ci(values: np.ndarray, valid: np.ndarray, resamples: int, seed: int, level: float) -> np.ndarray:
  """The interval of each column, from resamples drawn query by query."""
  # Resampling distances from the mean keeps the interval of equal values at zero width, free of rounding.
  centre = masked_mean(values, valid)
  sums = np.zeros((resamples, values.shape[1]))  # [R, M]
  counts = np.zeros_like(sums)
  for block, weight in _resample_weights(len(values), resamples, np.random.default_rng(seed)):
    sums += weight @ np.where(valid[block], values[block] - centre, 0.0)
    counts += weight @ valid[block].astype(np.float64)
  intervals = [_percentiles(*column, level) for column in zip(centre, sums.T, counts.T, strict=True)]
  return np.array(intervals).reshape(-1, 2)


def _percentiles(centre: float, sums: np.ndarray, counts: np.ndarray, level: float) -> np.ndarray:
  """The interval of one column, from its resamples' sums and valid queries; NaN where none has any."""
  drawn = counts > 0
  if not drawn.any():
    return np.full(2, np.nan)
  return centre + np.quantile(sums[drawn] / counts[drawn], [(1 - level) / 2, (1 + level) / 2])


def _many_bootstrap_ci(values: np.ndarray, valid: np.ndarray, resamples: int, seed: int, level: float) -> np.ndarray:
  """The interval of each column, from how often a resample draws each of its values."""
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
  """Wilson's score interval (1927) of a share: for few queries or shares near 0 or 1, where resampling is too sure.

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
  a, valid = _checked_values(a, valid, dimensions=1)
  b, _ = _checked_values(b, valid, dimensions=1)
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


# The frontier: what accuracy costs.


def pareto(cost: np.ndarray, accuracy: np.ndarray) -> np.ndarray:  # [M]
  """Marks the methods that no other method dominates.

  A method dominates another when it costs no more and is no less accurate, and better in one of the two. Methods equal
  in both share their fate.

  Args:
    cost: float[M], in any unit, such as seconds or dollars a query.
    accuracy: float[M].

  Returns:
    bool[M].

  Raises:
    ValueError: if the shapes differ or a number is not finite; leave out methods of unknown cost.
  """
  cost, accuracy = _checked_points(cost, accuracy)
  no_worse = (cost[:, None] <= cost) & (accuracy[:, None] >= accuracy)  # [M, M], row against column
  better = (cost[:, None] < cost) | (accuracy[:, None] > accuracy)
  dominated = np.any(no_worse & better, axis=0)
  return np.logical_not(dominated)


def aiq(cost: np.ndarray, accuracy: np.ndarray) -> float:
  """Average improvement in quality: the mean height of the cost-accuracy hull (RouterBench, arXiv 2403.12031).

  AIQ = 1 / (c_max - c_min) * integral of h(c) from c_min to c_max, where c_min and c_max are the lowest and highest
  cost given and h is the least non-decreasing concave function on or above all points: what can be reached at an
  expected cost c by tossing a coin between methods. When all costs are the same, as with a single point, it is the
  limit of a vanishing range: the highest accuracy.

  Args:
    cost: float[M], M >= 1, in any unit. Compare two routers over the same range of cost.
    accuracy: float[M].

  Returns:
    The mean accuracy along the hull.

  Raises:
    ValueError: if there is no point, the shapes differ or a number is not finite.
  """
  cost, accuracy = _checked_points(cost, accuracy)
  if not cost.size:
    raise ValueError('aiq needs at least one point, got none')
  order = np.argsort(cost)
  cost, best = cost[order], np.maximum.accumulate(accuracy[order])
  if cost[0] == cost[-1]:
    return float(best[-1])
  hull: list[tuple[float, float]] = []
  for c, q in zip(cost.tolist(), best.tolist(), strict=True):
    while len(hull) > 1 and _on_or_below(hull[-2], hull[-1], (c, q)):
      hull.pop()
    hull.append((c, q))
  hull_cost, hull_accuracy = np.array(hull).T
  return float(np.trapezoid(hull_accuracy, hull_cost) / (cost[-1] - cost[0]))


def cost_save(cost: np.ndarray, accuracy: np.ndarray, reference_cost: float, reference_accuracy: float) -> float:
  """The largest saving at no loss: 1 - cost / reference cost, over methods at least as accurate as the reference.

  Args:
    cost: float[M], in the unit of `reference_cost`.
    accuracy: float[M].
    reference_cost: What the reference costs, usually the best single LLM; >= 0.
    reference_accuracy: How accurate it is.

  Returns:
    In [0, 1] for costs >= 0; 0 when no method as accurate is cheaper, so also when the reference is free.

  Raises:
    ValueError: if the shapes differ, a number is not finite, or the reference cost is negative.
  """
  cost, accuracy = _checked_points(cost, accuracy)
  if not (np.isfinite(reference_cost) and np.isfinite(reference_accuracy) and reference_cost >= 0):
    raise ValueError(
      f'the reference needs a finite cost >= 0 and a finite accuracy, not {reference_cost} and {reference_accuracy}'
    )
  cheapest = float(cost[accuracy >= reference_accuracy].min(initial=reference_cost))
  return 1 - cheapest / reference_cost if cheapest < reference_cost else 0.0


def gap_to_oracle(accuracy: float, oracle: float) -> float:
  """Gap@O = 1 - accuracy / oracle: the share of what the pool could answer that was not answered.

  0 for a method as good as the oracle, 1 for one that is never right. With an oracle that is never right there is
  nothing to miss and the gap is 0.
  """
  return 1 - accuracy / oracle if oracle else 0.0


def _f1_and_support(labels: np.ndarray, confidences: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """F1 and number of positives of each LLM that has an observed query."""
  counts = confusion(labels, confidences, observed)
  counts = counts[counts.sum(axis=(1, 2)) > 0]
  true_positive = counts[:, 1, 1]
  support, predicted = counts[:, 1, :].sum(axis=1), counts[:, :, 1].sum(axis=1)
  return 2 * true_positive / np.maximum(support + predicted, 1), support


def _per_llm(
  labels: np.ndarray, confidences: np.ndarray, observed: np.ndarray
) -> collections.abc.Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields each LLM's observed labels and confidences; one at a time, so that float64 copies stay of length N."""
  labels, confidences, observed = _checked(labels, confidences, observed)
  for label, confidence, seen in zip(labels.T, confidences.T, observed.T, strict=True):
    yield label[seen].astype(np.float64), confidence[seen].astype(np.float64)


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


def _on_or_below(left: tuple[float, float], middle: tuple[float, float], right: tuple[float, float]) -> bool:
  """Whether `middle` lies on or below the line from `left` to `right`, and so adds nothing to the hull."""
  return (middle[1] - left[1]) * (right[0] - left[0]) <= (right[1] - left[1]) * (middle[0] - left[0])


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
  return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _checked(
  labels: np.ndarray, confidences: np.ndarray, observed: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  labels, confidences, observed = np.asarray(labels), np.asarray(confidences), np.asarray(observed, dtype=bool)
  if labels.ndim != 2 or not labels.shape == confidences.shape == observed.shape:
    raise ValueError(
      'labels, confidences and observed must share one shape [N, K], '
      f'not {labels.shape}, {confidences.shape} and {observed.shape}'
    )
  for name, array in (('label', labels), ('confidence', confidences)):
    outside = observed & ~((array >= 0) & (array <= 1))
    if outside.any():
      n, k = np.argwhere(outside)[0]
      raise ValueError(f'the {name} of query {n}, LLM {k} is {array[n, k]}; observed ones lie in [0, 1]')
  return labels, confidences, observed


def _checked_values(values: np.ndarray, valid: np.ndarray, dimensions: int = 2) -> tuple[np.ndarray, np.ndarray]:
  values, valid = np.asarray(values), np.asarray(valid, dtype=bool)
  if values.ndim != dimensions or values.shape != valid.shape:
    raise ValueError(f'values and valid must share one shape of {dimensions} axes, not {values.shape}, {valid.shape}')
  broken = valid & ~np.isfinite(values)
  if broken.any():
    where = tuple(np.argwhere(broken)[0].tolist())
    raise ValueError(f'the value at {where} is {values[where]}; valid ones are finite')
  return values, valid


def _checked_points(cost: np.ndarray, accuracy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  cost, accuracy = np.asarray(cost, dtype=np.float64), np.asarray(accuracy, dtype=np.float64)
  if cost.ndim != 1 or cost.shape != accuracy.shape:
    raise ValueError(f'cost and accuracy must share one shape [M], not {cost.shape} and {accuracy.shape}')
  broken = ~(np.isfinite(cost) & np.isfinite(accuracy))
  if broken.any():
    m = int(np.argmax(broken))
    raise ValueError(f'point {m} has cost {cost[m]} and accuracy {accuracy[m]}; both must be finite')
  return cost, accuracy
