"""Tests of intervals, paired gains and corrections."""

import math

import numpy as np
import pytest
import scipy.stats

from selectllm.evaluate import statistics


def test_shapes_that_differ_are_named():
  with pytest.raises(ValueError, match=r'not \(3, 2\), \(3, 1\)'):
    statistics.bootstrap_ci(np.ones((3, 2)), np.ones((3, 1), dtype=bool))


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
  with pytest.raises(ValueError, match=r'value at \(1, 0\) is inf'):
    statistics.paired_gains(np.zeros((2, 1)), np.array([[0.0], [np.inf]]), np.ones((2, 1), dtype=bool))
  with pytest.raises(ValueError, match=r'between 0 and 1, not 1\.5'):
    statistics.paired_gains(np.array([[1.5]]), np.zeros((1, 1)), np.ones((1, 1), dtype=bool))


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


def _of_differences(*differences: list[float]) -> statistics.PairedGains:
  """Compares pairs of methods whose scores differ by these numbers, all of them as many."""
  difference = np.array(differences).T
  return statistics.paired_gains(np.maximum(difference, 0), np.maximum(-difference, 0), np.ones(difference.shape, bool))


def _counts(wins: int, losses: int, queries: int) -> statistics.PairedGains:
  return _of_differences([1] * wins + [-1] * losses + [0] * (queries - wins - losses))


def _random_pairs(rng: np.random.Generator, kind: str, queries: int, pairs: int) -> tuple[np.ndarray, np.ndarray]:
  shape = (2, queries, pairs)
  if kind == 'scores':
    a, b = rng.random(shape)
  elif kind == 'thirds':
    a, b = rng.integers(0, 4, shape) / 3
  elif kind == 'right':
    a, b = (rng.random(shape) < rng.random((2, 1, pairs))).astype(np.float32)
  elif kind == 'nearly_the_same':
    a = (rng.random(shape[1:]) < 0.9).astype(float)
    b = np.where(rng.random(shape[1:]) < 0.05, 1 - a, a)
  else:  # right or wrong against an expectation
    a, b = (rng.random(shape[1:]) < rng.random(pairs)).astype(float), np.broadcast_to(rng.random(pairs), shape[1:])
  return a, b


@pytest.mark.parametrize('seeds', [False, True])
@pytest.mark.parametrize('kind', ['scores', 'thirds', 'right', 'nearly_the_same', 'expectation'])
def test_an_interval_excludes_0_exactly_where_the_test_refutes_it(kind, seeds):
  rng, refuted = np.random.default_rng(0), 0
  for queries in (1, 2, 4, 5, 10, 60, 500):
    a, b = _random_pairs(rng, kind, queries, 400)
    valid = rng.random(a.shape) < 0.9
    found = statistics.paired_gains(a, b, valid, seed_variance=rng.random(400) ** 4 / 100 if seeds else 0.0)
    known = valid.any(0)
    outside = (found.low > 0) | (found.high < 0)
    np.testing.assert_array_equal(outside[known], (found.p < 0.05)[known])
    assert np.all((found.low <= found.delta + 1e-12) & (found.delta <= found.high + 1e-12) | ~known)
    refuted += outside.sum()
  assert 0 < refuted < 2800


@pytest.mark.parametrize(('wins', 'losses'), [(1, 0), (3, 9), (9, 3), (7, 7), (60, 41), (4000, 3800)])
def test_right_and_wrong_answers_are_compared_by_mcnemar_s_test(wins, losses):
  found = _counts(wins, losses, wins + losses + 25)
  assert found.delta == pytest.approx((wins - losses) / (wins + losses + 25))
  assert found.p == pytest.approx(scipy.stats.chi2.sf((wins - losses) ** 2 / (wins + losses), 1))
  assert found.differ == wins + losses


def test_the_interval_of_right_and_wrong_holds_the_gains_that_tango_s_score_does_not_refute():
  wins, losses, queries = 9, 3, 40
  found = _counts(wins, losses, queries)
  for gain in (found.low[0], found.high[0]):
    # The likelihood of the four cells under this gain is largest at this probability of a loss, searched for here.
    loss = np.linspace(max(0, -gain) + 1e-9, (1 - gain) / 2 - 1e-9, 2_000_001)
    likelihood = wins * np.log(loss + gain) + losses * np.log(loss)
    likelihood += (queries - wins - losses) * np.log(1 - 2 * loss - gain)
    best = loss[likelihood.argmax()]
    score = (wins - losses - queries * gain) / math.sqrt(queries * (2 * best + gain * (1 - gain)))
    assert abs(score) == pytest.approx(1.959964, abs=1e-4)


@pytest.mark.parametrize(
  ('win', 'loss', 'queries'), [(0.1, 0.05, 180), (0.02, 0.02, 180), (0.03, 0.01, 1000), (0.3, 0, 60)]
)
def test_intervals_of_gains_cover_about_as_often_as_they_say(win, loss, queries):
  rng = np.random.default_rng(1)
  difference = rng.choice([1, -1, 0], (queries, 1000), p=[win, loss, 1 - win - loss])
  found = statistics.paired_gains(difference > 0, difference < 0, np.ones(difference.shape, bool))
  assert 0.92 < np.mean((found.low <= win - loss) & (win - loss <= found.high)) < 0.98


def test_other_scores_are_compared_about_as_by_student_s_test():
  rng = np.random.default_rng(2)
  a, b = rng.random((2, 200, 5))
  found = statistics.paired_gains(a, b + 0.05 * (1 - b), np.ones(a.shape, bool))
  theirs = scipy.stats.ttest_rel(a, b + 0.05 * (1 - b))
  np.testing.assert_allclose(found.p, theirs.pvalue, rtol=0.02, atol=1e-4)
  interval = theirs.confidence_interval()
  np.testing.assert_allclose([found.low, found.high], [interval.low, interval.high], atol=1e-3)


def test_p_values_are_uniform_where_methods_do_not_differ():
  a, b = np.random.default_rng(7).random((2, 60, 400))
  assert scipy.stats.kstest(statistics.paired_gains(a, b, np.ones(a.shape, bool)).p, 'uniform').pvalue > 0.01


def test_equal_gains_on_few_queries_show_nothing():
  found = _of_differences([0.5, 0.5, 0.5])
  assert (found.low, found.high) == (-1, 1)
  assert found.p > 0.05
  assert np.isnan(found.detectable)


@pytest.mark.parametrize('step', [1.0, 0.25])
def test_swapping_the_methods_turns_the_signs_and_keeps_p(step):
  rng = np.random.default_rng(8)
  a, b = rng.integers(0, round(1 / step) + 1, size=(2, 60, 1)) * step
  valid = rng.random((60, 1)) < 0.9
  forth, back = statistics.paired_gains(a, b, valid), statistics.paired_gains(b, a, valid)
  assert (forth.delta, forth.p, forth.differ) == (-back.delta, back.p, back.differ)
  np.testing.assert_allclose((forth.low, forth.high), (-back.high, -back.low))


def test_queries_without_both_scores_and_their_order_do_not_matter():
  rng = np.random.default_rng(9)
  a, b = (rng.random((2, 80, 1)) < 0.6).astype(np.float32)
  valid = rng.random((80, 1)) < 0.7
  kept = valid[:, 0]
  found = statistics.paired_gains(a[kept], b[kept], np.ones((kept.sum(), 1), bool))
  a[~valid] = np.nan
  order = rng.permutation(80)
  assert statistics.paired_gains(a[order], b[order], valid[order]) == found


def test_methods_that_differ_nowhere_or_share_no_query():
  a = np.array([[0.2], [1.0], [0.0]])
  same = statistics.paired_gains(a, a, np.ones((3, 1), bool))
  assert (same.delta, same.p, same.differ) == (0, 1, 0)
  assert same.low < 0 < same.high
  nothing = statistics.paired_gains(a, a, np.zeros((3, 1), bool))
  assert np.isnan([nothing.delta, nothing.low, nothing.high, nothing.detectable]).all()
  assert nothing.p == 1


@pytest.mark.parametrize(('queries', 'differ'), [(1319, 0.12), (180, 0.3), (400, 0.06)])
def test_a_detectable_gain_is_found_four_times_in_five(queries, differ):
  wins = round(queries * differ / 2)
  gain = _counts(wins, wins, queries).detectable[0]
  share, rng = 2 * wins / queries, np.random.default_rng(3)
  difference = rng.choice([1, -1, 0], (queries, 4000), p=[(share + gain) / 2, (share - gain) / 2, 1 - share])
  found = statistics.paired_gains(difference > 0, difference < 0, np.ones(difference.shape, bool))
  assert 0.77 < np.mean(found.p < 0.05) < 0.85  # the few that differ make steps


def test_where_nothing_differs_what_is_detectable_is_all_on_one_side():
  gain, rng = _counts(0, 0, 500).detectable[0], np.random.default_rng(4)
  won = rng.random((500, 4000)) < gain
  found = statistics.paired_gains(won, np.zeros_like(won), np.ones(won.shape, bool))
  assert 0.77 < np.mean(found.p < 0.05) < 0.97  # four of them are enough: steps are large


def test_right_and_wrong_have_wilson_s_interval_and_other_scores_the_bootstrap_s():
  rng = np.random.default_rng(5)
  values = np.stack([np.ones(40), rng.random(40) < 0.9, rng.random(40), np.ones(40)], 1)
  valid = np.ones(values.shape, bool)
  valid[:, 3] = False
  values[0, 1], valid[0, 1] = np.nan, False
  found = statistics.accuracy_ci(values, valid)
  assert tuple(found[0]) == pytest.approx(statistics.wilson_ci(1, 40))
  assert found[0, 0] < 1
  assert tuple(found[1]) == pytest.approx(statistics.wilson_ci(np.nanmean(values[:, 1]), 39))
  np.testing.assert_array_equal(found[2], statistics.bootstrap_ci(values[:, 2:3], valid[:, 2:3])[0])
  assert np.isnan(found[3]).all()


def test_the_variance_between_seeds_widens_an_interval_on_either_side():
  interval, mean = np.array([[0.85, 0.93], [0.85, 0.93], [0.97, 1.0]]), np.array([0.9, 0.9, 0.99])
  wide = statistics.widen(interval, mean, np.array([0.0, 0.02**2, 0.02**2]))
  np.testing.assert_allclose(wide[0], interval[0])
  np.testing.assert_allclose(0.9 - wide[1, 0], math.hypot(0.05, 1.959964 * 0.02))
  np.testing.assert_allclose(wide[1, 1] - 0.9, math.hypot(0.03, 1.959964 * 0.02))
  assert wide[2, 1] == 1


def test_the_variance_between_seeds_raises_p():
  rng = np.random.default_rng(6)
  a, b = rng.random((2, 300, 1))
  a = np.minimum(a + 0.06, 1)
  one, several = (statistics.paired_gains(a, b, np.ones(a.shape, bool), seed_variance=s) for s in (0.0, 0.03**2))
  assert one.p < 0.05 < several.p
  assert several.low < 0 < one.low
  assert several.detectable > one.detectable
