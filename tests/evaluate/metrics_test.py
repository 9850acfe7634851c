import itertools
import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from selectllm.evaluate import metrics, statistics


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
  with pytest.raises(ValueError, match=r'not \(3, 2\), \(3, 1\)'):
    statistics.bootstrap_ci(np.ones((3, 2)), np.ones((3, 1), dtype=bool))
  with pytest.raises(ValueError, match=r'not \(2,\) and \(3,\)'):
    metrics.pareto(np.ones(2), np.ones(3))


def test_masked_mean_skips_what_is_not_valid():
  values = np.array([[1.0, np.nan], [0.0, np.nan], [np.nan, np.nan]])
  np.testing.assert_array_equal(metrics.masked_mean(values, np.isfinite(values)), [0.5, np.nan])


def test_bootstrap_interval_covers_the_true_mean_about_as_often_as_it_says():
  # Column j is an experiment of its own: 150 queries, a true accuracy of 0.7, one query in five missing.
  rng = np.random.default_rng(0)
  right = rng.random((150, 600)) < 0.7
  interval = statistics.bootstrap_ci(right, rng.random(right.shape) < 0.8, resamples=500)
  covered = (interval[:, 0] <= 0.7) & (interval[:, 1] >= 0.7)
  assert 0.90 < covered.mean() < 0.98


def test_bootstrap_interval_has_the_width_of_the_normal_approximation():
  rng = np.random.default_rng(1)
  values = rng.normal(size=(2000, 3)).astype(np.float32)
  valid = np.ones(values.shape, dtype=bool)
  for level in (0.5, 0.95):
    interval = statistics.bootstrap_ci(values, valid, level=level)
    half = scipy.stats.norm.ppf((1 + level) / 2) * values.std(axis=0) / math.sqrt(2000)
    np.testing.assert_allclose(interval[:, 1] - interval[:, 0], 2 * half, rtol=0.1)
    np.testing.assert_allclose(interval.mean(axis=1), values.mean(axis=0), atol=0.2 * half.max())


def test_bootstrap_in_many_blocks_has_the_distribution_of_one_block(monkeypatch):
  rng = np.random.default_rng(2)
  values, valid = rng.random((500, 4)), rng.random((500, 4)) < 0.7
  whole = statistics.bootstrap_ci(values, valid, resamples=4000)
  monkeypatch.setattr(statistics, '_BLOCK_CELLS', 4000 * 3)  # 500 is no multiple of 3
  cut = statistics.bootstrap_ci(values, valid, resamples=4000)
  np.testing.assert_allclose(cut, whole, atol=0.004)  # intervals about 0.06 wide


def test_many_queries_are_resampled_by_value_with_the_distribution_of_one_by_one(monkeypatch):
  rng = np.random.default_rng(2)
  values = np.stack([rng.random(600) < 0.7, rng.integers(-1, 2, 600), np.zeros(600), rng.random(600)], 1)
  valid = rng.random(values.shape) < 0.7
  valid[:, 2] = False
  one_by_one = statistics.bootstrap_ci(values, valid, resamples=4000)
  monkeypatch.setattr(statistics, 'MANY', 500)
  by_value = statistics.bootstrap_ci(values, valid, resamples=4000)
  np.testing.assert_allclose(by_value[:2], one_by_one[:2], atol=0.005)  # intervals about 0.1 wide
  assert np.isnan(by_value[2]).all()
  np.testing.assert_allclose(by_value[3], one_by_one[3], atol=0.005)  # too many values: query by query


def test_resamples_draw_as_many_queries_as_there_are(monkeypatch):
  monkeypatch.setattr(statistics, '_BLOCK_CELLS', 50 * 3)
  drawn = [weight for _, weight in statistics._resample_weights(10, 50, np.random.default_rng(0))]
  assert [weight.shape for weight in drawn] == [(50, 3), (50, 3), (50, 3), (50, 1)]
  np.testing.assert_array_equal(np.hstack(drawn).sum(axis=1), 10)


def test_bootstrap_of_equal_values_has_zero_width():
  values = np.tile([0.0, 1.0, 0.1, 1e9 / 3], (400, 1))
  interval = statistics.bootstrap_ci(values, np.random.default_rng(0).random(values.shape) < 0.9)
  np.testing.assert_array_equal(interval[:, 0], interval[:, 1])
  np.testing.assert_allclose(interval[:, 0], values[0], rtol=1e-12)


def test_columns_share_the_resampled_queries():
  values = np.random.default_rng(3).random((200, 1))
  interval = statistics.bootstrap_ci(np.hstack([values, values, 1 - values]), np.ones((200, 3), dtype=bool))
  np.testing.assert_array_equal(interval[0], interval[1])
  np.testing.assert_allclose(interval[2], 1 - interval[0, ::-1])


def test_bootstrap_depends_on_the_seed_alone():
  values, valid = np.random.default_rng(4).random((100, 2)), np.ones((100, 2), dtype=bool)
  np.testing.assert_array_equal(
    statistics.bootstrap_ci(values, valid, seed=7), statistics.bootstrap_ci(values, valid, seed=7)
  )
  assert (statistics.bootstrap_ci(values, valid, seed=7) != statistics.bootstrap_ci(values, valid, seed=8)).any()


def test_bootstrap_of_degenerate_columns():
  # No valid query; one, which many resamples miss; and no query at all.
  values = np.array([[np.nan, 3.0], [np.nan, np.nan], [np.nan, np.nan]])
  np.testing.assert_array_equal(statistics.bootstrap_ci(values, np.isfinite(values)), [[np.nan, np.nan], [3.0, 3.0]])
  assert np.isnan(statistics.bootstrap_ci(np.empty((0, 2)), np.empty((0, 2), dtype=bool))).all()


@pytest.mark.parametrize(('name', 'bad'), [('level', 95), ('level', 0.0), ('resamples', 0)])
def test_bootstrap_names_a_setting_out_of_range(name, bad):
  with pytest.raises(ValueError, match=f'{name} must .* not {bad}'):
    statistics.bootstrap_ci(np.ones((2, 1)), np.ones((2, 1), dtype=bool), **{name: bad})


def test_a_valid_value_that_is_not_finite_is_named():
  with pytest.raises(ValueError, match=r'value at \(1, 0\) is nan'):
    statistics.bootstrap_ci(np.array([[1.0], [np.nan]]), np.ones((2, 1), dtype=bool))
  with pytest.raises(ValueError, match=r'value at \(1,\) is inf'):
    statistics.paired_test(np.zeros(2), np.array([0.0, np.inf]), np.ones(2, dtype=bool))


@pytest.mark.parametrize(('wins', 'count'), [(0, 7), (3, 10), (50, 50), (700, 2407)])
def test_wilson_s_interval_is_scipy_s(wins, count):
  expected = scipy.stats.binomtest(wins, count).proportion_ci(method='wilson')
  assert statistics.wilson_ci(wins / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize('bad', [(0.5, 0), (1.1, 3), (math.nan, 3)])
def test_wilson_s_interval_names_what_is_out_of_range(bad):
  with pytest.raises(ValueError, match=f'share={bad[0]}.*count={bad[1]}'):
    statistics.wilson_ci(*bad)


def test_holm_adjusts_step_by_step():
  # 4 x 0.01; 3 x 0.02 = 0.06; 2 x 0.03 is raised to no less than that; the largest is not adjusted.
  adjusted = statistics.holm(np.array([0.03, 0.01, np.nan, 0.8, 0.02]))
  np.testing.assert_allclose(adjusted, [0.06, 0.04, np.nan, 0.8, 0.06])
  np.testing.assert_allclose(statistics.holm(np.array([0.6, 0.7])), [1, 1])


@pytest.mark.parametrize(('wins', 'losses'), [(1, 0), (3, 9), (9, 3), (7, 7), (60, 41), (4000, 3800)])
def test_right_and_wrong_answers_are_compared_by_the_exact_mcnemar_test(wins, losses):
  a = np.concatenate([np.ones(wins), np.zeros(losses), np.ones(20), np.zeros(5)])
  b = np.concatenate([np.zeros(wins), np.ones(losses), np.ones(20), np.zeros(5)])
  result = statistics.paired_test(a, b, np.ones(len(a), dtype=bool))
  assert result.delta == pytest.approx((wins - losses) / len(a))
  assert result.p == pytest.approx(scipy.stats.binomtest(wins, wins + losses).pvalue)


def test_booleans_are_compared_like_zeros_and_ones():
  a, b = np.array([True, True, True, False]), np.array([False, False, True, True])
  assert statistics.paired_test(a, b, np.ones(4, dtype=bool)) == statistics.PairedTest(delta=0.25, p=1.0)


def test_sign_flips_find_the_p_value_of_all_sign_flips():
  difference = np.array([0.3, 0.5, -0.1, 0.7, 0.2, 0.1, 0.4, -0.2, 0.6])
  sums = np.array([np.dot(signs, difference) for signs in itertools.product([-1, 1], repeat=len(difference))])
  exact = np.mean(np.abs(sums) >= abs(difference.sum()) - 1e-9)
  result = statistics.paired_test(difference, np.zeros(9), np.ones(9, dtype=bool), draws=100_000)
  assert result.delta == pytest.approx(difference.mean())
  assert result.p == pytest.approx(exact, abs=0.005)


def test_signs_of_many_queries_are_flipped_by_value_with_the_same_p_value(monkeypatch):
  rng = np.random.default_rng(5)
  a, b = rng.integers(0, 5, 400) / 4, rng.integers(0, 5, 400) / 4 + 0.03
  one_by_one = statistics.paired_test(a, b, np.ones(400, dtype=bool), draws=20_000)
  monkeypatch.setattr(statistics, 'MANY', 300)
  by_value = statistics.paired_test(a, b, np.ones(400, dtype=bool), draws=20_000)
  assert by_value.delta == one_by_one.delta
  assert by_value.p == pytest.approx(one_by_one.p, abs=0.015)
  assert 0.01 < by_value.p < 0.9


def test_sign_flips_in_many_blocks_agree_with_scipy(monkeypatch):
  monkeypatch.setattr(statistics, '_BLOCK_CELLS', 20_000 * 11)  # neither bytes nor blocks divide 300
  rng = np.random.default_rng(5)
  a, b = rng.random(300), rng.random(300) + 0.03
  result = statistics.paired_test(a, b, np.ones(300, dtype=bool), draws=20_000)
  theirs = scipy.stats.permutation_test(
    (a - b,), np.mean, permutation_type='samples', n_resamples=20_000, rng=np.random.default_rng(6)
  )
  assert 0.05 < theirs.pvalue < 0.95
  assert result.p == pytest.approx(theirs.pvalue, abs=0.02)


def test_a_monte_carlo_p_value_is_never_zero():
  a = np.linspace(0.5, 0.9, 100)
  assert statistics.paired_test(a, np.zeros(100), np.ones(100, dtype=bool), draws=999).p == 1 / 1000


def test_p_values_are_uniform_where_methods_do_not_differ():
  rng = np.random.default_rng(7)
  p = [statistics.paired_test(*rng.random((2, 40)), np.ones(40, dtype=bool), draws=400, seed=i).p for i in range(300)]
  assert scipy.stats.kstest(p, 'uniform').pvalue > 0.01


@pytest.mark.parametrize('step', [1.0, 0.25])
def test_swapping_the_methods_turns_the_sign_and_keeps_p(step):
  rng = np.random.default_rng(8)
  a, b = rng.integers(0, round(1 / step) + 1, size=(2, 60)) * step
  valid = rng.random(60) < 0.9
  forth, back = statistics.paired_test(a, b, valid), statistics.paired_test(b, a, valid)
  assert forth.delta == -back.delta
  assert forth.p == back.p


def test_queries_without_both_scores_and_their_order_do_not_matter():
  rng = np.random.default_rng(9)
  a, b = (rng.random((2, 80)) < 0.6).astype(np.float32)
  valid = rng.random(80) < 0.7
  result = statistics.paired_test(a[valid], b[valid], np.ones(valid.sum(), dtype=bool))
  a[~valid] = np.nan
  order = rng.permutation(80)
  assert statistics.paired_test(a[order], b[order], valid[order]) == result


def test_methods_that_differ_nowhere_or_share_no_query():
  a = np.array([0.2, 1.0, 0.0])
  assert statistics.paired_test(a, a, np.ones(3, dtype=bool)) == statistics.PairedTest(delta=0.0, p=1.0)
  nothing = statistics.paired_test(a, a, np.zeros(3, dtype=bool))
  assert math.isnan(nothing.delta)
  assert nothing.p == 1.0


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


def test_cost_save_is_the_largest_saving_without_losing_accuracy():
  cost, accuracy = np.array([1.0, 3.0, 4.0, 9.0]), np.array([0.5, 0.8, 0.7, 0.95])
  assert metrics.cost_save(cost, accuracy, reference_cost=4.0, reference_accuracy=0.7) == pytest.approx(0.25)
  assert metrics.cost_save(cost, accuracy, reference_cost=5.0, reference_accuracy=0.8) == pytest.approx(0.4)
  assert metrics.cost_save(cost, accuracy, reference_cost=3.0, reference_accuracy=0.8) == 0
  assert metrics.cost_save(cost, accuracy, reference_cost=9.0, reference_accuracy=0.99) == 0
  assert metrics.cost_save(cost, accuracy, reference_cost=0.0, reference_accuracy=0.1) == 0
  assert metrics.cost_save(np.empty(0), np.empty(0), reference_cost=1.0, reference_accuracy=0.5) == 0
  with pytest.raises(ValueError, match='cost >= 0'):
    metrics.cost_save(cost, accuracy, reference_cost=-1.0, reference_accuracy=0.5)


def test_gap_to_oracle():
  assert metrics.gap_to_oracle(0.6, 0.8) == pytest.approx(0.25)
  assert metrics.gap_to_oracle(0.8, 0.8) == 0
  assert metrics.gap_to_oracle(0.0, 0.0) == 0
