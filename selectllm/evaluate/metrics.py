"""Measures how good a classifier and the methods built on it are: pure functions of arrays.

Shapes: N queries, K LLMs, M methods, B bins. Everything is computed in float64 on the host, whatever the dtype of the
input. An entry that is not observed or not valid is never read, so it may hold NaN. What is undefined (no entry to
average, one class only) is None where a single number is returned and NaN within an array or a NamedTuple.
"""

import collections.abc
import typing

import msgspec
import numpy as np
import scipy.stats

from selectllm.evaluate import results, statistics

ECE_BINS = 15


class Reliability(typing.NamedTuple):
  """Holds a reliability diagram: how often an LLM was right, by how confident the classifier was that it would be.

  Attributes:
    mean_confidence: float[B], NaN for an empty bin.
    frequency: float[B], the mean label, NaN for an empty bin.
    count: int[B], observed entries in the bin.
  """

  mean_confidence: np.ndarray
  frequency: np.ndarray
  count: np.ndarray  # type: ignore[assignment]  # the field's own word, at the price of tuple.count

  def summary(self) -> results.Reliability:
    """Returns the diagram as reports hold it."""
    mean_confidence, frequency = (list(map(results.known, column)) for column in self[:2])
    return results.Reliability(mean_confidence, frequency, self.count.astype(float).tolist())


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
  """Returns F1 of "will be right" for each LLM at threshold 0.5, averaged with weight = how often the LLM was right.

  The multi-label `average='weighted'` of scikit-learn, over observed entries: an LLM neither right nor ever predicted
  to be has F1 0, and so has the average when no LLM was ever right. None when nothing is observed.
  """
  f1, support = _f1_and_support(labels, confidences, observed)
  if not f1.size:
    return None
  return float(f1 @ support / support.sum()) if support.any() else 0.0


def macro_f1(labels: np.ndarray, confidences: np.ndarray, observed: np.ndarray) -> float | None:
  """Returns the mean F1, as in `weighted_f1`, of the LLMs with an observed query; None when there is none."""
  f1, _ = _f1_and_support(labels, confidences, observed)
  return float(f1.mean()) if f1.size else None


def auroc(labels: np.ndarray, confidences: np.ndarray, observed: np.ndarray) -> float | None:
  """Returns the area under the ROC curve, averaged over the LLMs that were both right and wrong on observed queries.

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
  """Returns the mean squared difference of confidence and label over all observed entries; None when there is none."""
  error, count = 0.0, 0
  for label, confidence in _per_llm(labels, confidences, observed):
    error += float(np.square(confidence - label).sum())
    count += len(label)
  return error / count if count else None


def ece(labels: np.ndarray, confidences: np.ndarray, observed: np.ndarray) -> float | None:
  """Returns the expected calibration error over all observed entries, all LLMs together; None when there is none.

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
  return Reliability(statistics.ratio(confidence_sum, count), statistics.ratio(label_sum, count), count)


# Uncertainty: what the same experiment on other queries might have shown.


def masked_mean(values: np.ndarray, valid: np.ndarray) -> np.ndarray:  # [M]
  """Returns the mean of each column over its valid queries, such as the accuracies of M methods.

  Args:
    values: float or bool[N, M].
    valid: bool[N, M].

  Returns:
    float[M], NaN for a column without a valid query.

  Raises:
    ValueError: if the shapes differ or a valid value is not finite.
  """
  values, valid = statistics.check_values(values, valid)
  return statistics.ratio(np.asarray(values.sum(axis=0, where=valid, dtype=np.float64)), valid.sum(axis=0))


def known_mean(values: np.ndarray, valid: np.ndarray) -> float | None:
  """Returns the mean of values over valid ones, arrays [N]; None where there are none, or one of them is NaN."""
  return results.known(np.mean(values[valid], dtype=np.float64)) if valid.any() else None


def known_quantile(values: np.ndarray, valid: np.ndarray, share: float) -> float | None:
  """Returns a quantile of values over valid ones, likewise."""
  return results.known(np.quantile(values[valid], share)) if valid.any() else None


def compare_pairs(
  a: np.ndarray, b: np.ndarray, valid: np.ndarray, *, seed_variance: np.ndarray | float = 0.0
) -> list[results.Comparison | None]:
  """Returns the gains of a over b of P pairs of methods, arrays [N, P]; None where no query counts for both.

  See `statistics.paired_gains` for the arguments and the errors raised.
  """
  gains = statistics.paired_gains(a, b, valid, seed_variance=seed_variance)
  return [
    results.Comparison(queries, delta, (low, high), p, differ, results.known(detectable)) if queries else None
    for queries, (delta, low, high, p, differ, detectable) in zip(
      np.sum(valid, 0).tolist(), zip(*(field.tolist() for field in gains), strict=True), strict=True
    )
  ]


def correct_family(gains: collections.abc.Sequence[results.Comparison | None]) -> list[results.Comparison | None]:
  """Returns the comparisons of one family with their p-values after Holm's correction; None is no comparison."""
  adjusted = statistics.holm(np.array([np.nan if gain is None else gain.p for gain in gains])).tolist()
  return [gain and msgspec.structs.replace(gain, p_holm=p) for gain, p in zip(gains, adjusted, strict=True)]


# The tradeoff: what accuracy costs.


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
  """Returns the average improvement in quality: the mean height of the hull (RouterBench, arXiv 2403.12031).

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


def gap_to_oracle(accuracy: float, oracle: float) -> float:
  """Returns Gap@O = 1 - accuracy / oracle: the share of what the pool could answer that was not answered.

  0 for a method as good as the oracle, 1 for one that is never right. With an oracle that is never right there is
  nothing to miss and the gap is 0.
  """
  return 1 - accuracy / oracle if oracle else 0.0


def _f1_and_support(labels: np.ndarray, confidences: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns F1 and the number of positives of each LLM that has an observed query."""
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


def _on_or_below(left: tuple[float, float], middle: tuple[float, float], right: tuple[float, float]) -> bool:
  """Tells whether `middle` adds nothing to the hull: it lies on or below the line from `left` to `right`."""
  return (middle[1] - left[1]) * (right[0] - left[0]) <= (right[1] - left[1]) * (middle[0] - left[0])


def _checked_points(cost: np.ndarray, accuracy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  cost, accuracy = np.asarray(cost, dtype=np.float64), np.asarray(accuracy, dtype=np.float64)
  if cost.ndim != 1 or cost.shape != accuracy.shape:
    raise ValueError(f'cost and accuracy must share one shape [M], not {cost.shape} and {accuracy.shape}')
  broken = ~(np.isfinite(cost) & np.isfinite(accuracy))
  if broken.any():
    m = int(np.argmax(broken))
    raise ValueError(f'point {m} has cost {cost[m]} and accuracy {accuracy[m]}; both must be finite')
  return cost, accuracy


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
