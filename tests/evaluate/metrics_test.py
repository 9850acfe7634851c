import itertools

import numpy as np
import pytest
import sklearn.metrics

from selectllm.evaluate import metrics


def _classifier_data(seed: int, queries: int = 300, llms: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Labels, confidences (rounded, so that they tie) and a mask; what is masked holds NaN."""
  rng = np.random.default_rng(seed)
  labels = (rng.random((queries, llms)) < np.linspace(0.2, 0.9, llms)).astype(np.float32)
  noise = rng.normal(size=labels.shape)
  confidences = np.round(1 / (1 + np.exp(-(labels - 0.3 + noise))), 2).astype(np.float32)
  observed = rng.random(labels.shape) < 0.8
  labels[~observed] = np.nan
  confidences[~observed] = np.nan
  return labels, confidences, observed


# One LLM is right twice in four queries, the other's only observed query is wrong.
LABELS = np.array([[1.0, 0.0], [1.0, np.nan], [0.0, np.nan], [0.0, np.nan]])
CONFIDENCES = np.array([[0.9, 0.7], [0.4, np.nan], [0.6, np.nan], [0.1, np.nan]])
OBSERVED = np.isfinite(LABELS)


@pytest.mark.parametrize('seed', range(3))
def test_f1_is_that_of_scikit_learn_over_the_observed_entries_of_each_llm(seed):
  labels, confidences, observed = _classifier_data(seed)
  f1, support = [], []
  for k in range(labels.shape[1]):
    right = labels[observed[:, k], k] == 1
    f1.append(sklearn.metrics.f1_score(right, confidences[observed[:, k], k] > 0.5))
    support.append(right.sum())
  assert metrics.macro_f1(labels, confidences, observed) == pytest.approx(np.mean(f1))
  assert metrics.weighted_f1(labels, confidences, observed) == pytest.approx(np.average(f1, weights=support))


@pytest.mark.parametrize('average', ['weighted', 'macro'])
def test_f1_is_the_multilabel_average_of_scikit_learn_where_nothing_is_missing(average):
  labels, confidences, observed = _classifier_data(3)
  labels, confidences = np.nan_to_num(labels), np.nan_to_num(confidences)
  labels[:, 0] = 0  # never right but predicted
  labels[:, 1] = confidences[:, 1] = 0  # never right and never predicted
  ours = {'weighted': metrics.weighted_f1, 'macro': metrics.macro_f1}[average]
  theirs = sklearn.metrics.f1_score(labels, confidences > 0.5, average=average, zero_division=0)
  assert ours(labels, confidences, np.ones_like(observed)) == pytest.approx(theirs)


@pytest.mark.parametrize('seed', range(3))
def test_auroc_and_brier_are_those_of_scikit_learn(seed):
  labels, confidences, observed = _classifier_data(seed)
  areas = [sklearn.metrics.roc_auc_score(labels[seen, k], confidences[seen, k]) for k, seen in enumerate(observed.T)]
  assert metrics.auroc(labels, confidences, observed) == pytest.approx(np.mean(areas))
  brier = sklearn.metrics.brier_score_loss(labels[observed], confidences[observed])
  assert metrics.brier(labels, confidences, observed) == pytest.approx(brier)


def test_confusion_is_that_of_scikit_learn_at_any_threshold():
  labels, confidences, observed = _classifier_data(4)
  confidences[0, 0], labels[0, 0], observed[0, 0] = 0.7, 1, True  # on the threshold: predicted wrong
  threshold = confidences[0, 0]
  ours = metrics.confusion(labels, confidences, observed, threshold)
  for k, seen in enumerate(observed.T):
    theirs = sklearn.metrics.confusion_matrix(labels[seen, k], confidences[seen, k] > threshold)
    np.testing.assert_array_equal(ours[k], theirs)


def test_classifier_report_of_a_hand_computed_example():
  report = metrics.classifier_report(LABELS, CONFIDENCES, OBSERVED)
  assert report == pytest.approx(
    {
      'weighted_f1': 0.5,  # the second LLM has no support
      'macro_f1': 0.25,
      'auroc': 0.75,  # the second LLM has one class only
      'brier': (0.01 + 0.36 + 0.36 + 0.01 + 0.49) / 5,
      'ece': (0.1 + 0.6 + 0.6 + 0.1 + 0.7) / 5,  # every entry has a bin of its own
    }
  )


def test_confusion_of_a_hand_computed_example():
  counts = metrics.confusion(LABELS, CONFIDENCES, OBSERVED)
  np.testing.assert_array_equal(counts, [[[1, 1], [1, 1]], [[0, 1], [0, 0]]])


def test_reliability_bins_are_closed_on_the_left_and_the_last_holds_one():
  confidences = np.array([[0.0], [0.25], [0.2], [0.75], [1.0], [0.9]])
  labels = np.array([[0.0], [1.0], [0.0], [1.0], [0.0], [1.0]])
  observed = np.array([[True], [True], [True], [True], [True], [False]])
  diagram = metrics.reliability(labels, confidences, observed, bins=4)
  np.testing.assert_array_equal(diagram.count, [2, 1, 0, 2])
  np.testing.assert_allclose(diagram.mean_confidence, [0.1, 0.25, np.nan, 0.875])
  np.testing.assert_allclose(diagram.frequency, [0, 1, np.nan, 0.5])


def test_ece_pools_the_llms_and_weighs_bins_by_count():
  # Bin [0.4, 0.467): confidence 0.45, right in 2 of 4; bin [0.933, 1]: confidence 0.95, right in 1 of 2.
  confidences = np.array([[0.45, 0.45], [0.45, 0.45], [0.95, 0.95]])
  labels = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
  observed = np.ones_like(labels, dtype=bool)
  assert metrics.ece(labels, confidences, observed) == pytest.approx((4 * 0.05 + 2 * 0.45) / 6)


def test_scores_count_as_a_class_from_one_half_on_and_as_they_are_for_calibration():
  scores = np.array([[0.5], [0.4]])
  confidences = np.array([[0.6], [0.4]])
  observed = np.ones_like(scores, dtype=bool)
  assert metrics.macro_f1(scores, confidences, observed) == 1
  assert metrics.auroc(scores, confidences, observed) == 1
  assert metrics.brier(scores, confidences, observed) == pytest.approx(0.005)
  assert metrics.ece(scores, confidences, observed) == pytest.approx(0.05)


@pytest.mark.parametrize('queries', [0, 3])
def test_nothing_observed_leaves_the_whole_classifier_report_undefined(queries):
  nothing = np.full((queries, 2), np.nan)
  observed = np.zeros((queries, 2), dtype=bool)
  assert set(metrics.classifier_report(nothing, nothing, observed).values()) == {None}
  diagram = metrics.reliability(nothing, nothing, observed)
  assert diagram.count.sum() == 0
  assert np.isnan(diagram.frequency).all()
  assert metrics.confusion(nothing, nothing, observed).sum() == 0


def test_an_llm_without_observed_queries_does_not_lower_the_macro_f1():
  labels, confidences, observed = _classifier_data(5)
  before = metrics.classifier_report(labels, confidences, observed)
  missing = np.full((len(labels), 1), np.nan)
  after = metrics.classifier_report(
    np.hstack([labels, missing]), np.hstack([confidences, missing]), np.hstack([observed, missing == 0])
  )
  assert after == before


@pytest.mark.parametrize('label', [0.0, 1.0])
def test_one_class_only_has_no_auroc_but_all_else(label):
  labels, confidences = np.full((4, 2), label), np.full((4, 2), 0.8)
  report = metrics.classifier_report(labels, confidences, np.ones((4, 2), dtype=bool))
  assert report.pop('auroc') is None
  assert report == pytest.approx(
    {'weighted_f1': label, 'macro_f1': label, 'brier': 0.04 + 0.6 * (1 - label), 'ece': 0.2 + 0.6 * (1 - label)}
  )


def test_order_of_queries_does_not_change_the_classifier_report():
  labels, confidences, observed = _classifier_data(6)
  order = np.random.default_rng(0).permutation(len(labels))
  shuffled = metrics.classifier_report(labels[order], confidences[order], observed[order])
  assert shuffled == pytest.approx(metrics.classifier_report(labels, confidences, observed))


@pytest.mark.parametrize(('bad', 'shown'), [(np.nan, 'nan'), (1.5, '1.5'), (-0.1, '-0.1')])
def test_an_observed_value_that_is_no_confidence_is_named(bad, shown):
  confidences = CONFIDENCES.copy()
  confidences[2, 0] = bad
  with pytest.raises(ValueError, match=f'confidence of query 2, LLM 0 is {shown}'):
    metrics.brier(LABELS, confidences, OBSERVED)
  with pytest.raises(ValueError, match=f'label of query 2, LLM 0 is {shown}'):
    metrics.auroc(confidences, CONFIDENCES, OBSERVED)


def test_shapes_that_differ_are_named():
  with pytest.raises(ValueError, match=r'\(4, 2\), \(4, 1\) and \(4, 2\)'):
    metrics.ece(LABELS, CONFIDENCES[:, :1], OBSERVED)
  with pytest.raises(ValueError, match=r'not \(2,\) and \(3,\)'):
    metrics.pareto(np.ones(2), np.ones(3))


def test_masked_mean_skips_what_is_not_valid():
  values = np.array([[1.0, np.nan], [0.0, np.nan], [np.nan, np.nan]])
  np.testing.assert_array_equal(metrics.masked_mean(values, np.isfinite(values)), [0.5, np.nan])


def test_pareto_keeps_what_nothing_dominates():
  #                 tradeoff, its twin, dearer, tradeoff, worse and cheaper: tradeoff, same cost but worse
  cost = np.array([2.0, 2.0, 3.0, 4.0, 1.0, 1.0])
  accuracy = np.array([0.6, 0.6, 0.6, 0.9, 0.5, 0.4])
  np.testing.assert_array_equal(metrics.pareto(cost, accuracy), [True, True, False, True, True, False])
  assert metrics.pareto(np.empty(0), np.empty(0)).shape == (0,)


def test_frontier_refuses_unknown_costs():
  cost, accuracy = np.array([1.0, np.nan]), np.array([0.5, 0.6])
  for function in (metrics.pareto, metrics.aiq):
    with pytest.raises(ValueError, match='point 1 has cost nan'):
      function(cost, accuracy)


def test_aiq_of_hand_computed_hulls():
  # A straight line; then one that bends at cost 2, with points below it and a dearest one that is worse.
  assert metrics.aiq(np.array([1.0, 3.0]), np.array([0.4, 0.8])) == pytest.approx(0.6)
  cost = np.array([5.0, 1.0, 2.0, 1.5, 3.0, 1.0])
  accuracy = np.array([0.7, 0.4, 0.8, 0.5, 0.8, 0.1])
  assert metrics.aiq(cost, accuracy) == pytest.approx((0.6 * 1 + 0.8 * 3) / 4)


def test_aiq_is_the_mean_height_of_the_best_mixtures():
  rng = np.random.default_rng(10)
  cost, accuracy = rng.random((2, 12))
  grid = np.linspace(cost.min(), cost.max(), 4001)
  height = np.zeros_like(grid)
  for i, j in itertools.product(range(12), repeat=2):
    if cost[i] < cost[j]:
      mixed = np.interp(grid, cost[[i, j]], accuracy[[i, j]], left=0)
      height = np.maximum(height, mixed)
  height = np.maximum.accumulate(height)
  assert metrics.aiq(cost, accuracy) == pytest.approx(height.mean(), abs=1e-3)


def test_aiq_without_a_range_of_cost():
  assert metrics.aiq(np.array([2.0]), np.array([0.3])) == 0.3
  assert metrics.aiq(np.array([2.0, 2.0]), np.array([0.3, 0.5])) == 0.5
  with pytest.raises(ValueError, match='at least one point'):
    metrics.aiq(np.empty(0), np.empty(0))


def test_gap_to_oracle():
  assert metrics.gap_to_oracle(0.6, 0.8) == pytest.approx(0.25)
  assert metrics.gap_to_oracle(0.8, 0.8) == 0
  assert metrics.gap_to_oracle(0.0, 0.0) == 0
