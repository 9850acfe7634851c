import numpy as np
import pytest
import scipy.special

from selectllm.evaluate import metrics
from selectllm.selection import calibration

sigmoid = scipy.special.expit
FITTED = calibration.KINDS[1:]


def sample(true_logits, seed=0):
  """Labels that are right as often as the log-odds say."""
  return (np.random.default_rng(seed).random(np.shape(true_logits)) < sigmoid(true_logits)).astype(np.float64)


def spread(count, seed=1, scale=2.0):
  return np.random.default_rng(seed).normal(0, scale, count)


def log_loss(logits, labels):
  return np.mean(np.logaddexp(0, logits) - labels * logits)


def test_identity_changes_no_bit():
  logits = spread(1000).astype(np.float32)
  calibrated = calibration.apply(calibration.fit(logits, sample(logits), 'identity'), logits)
  assert calibrated.dtype == np.float32
  np.testing.assert_array_equal(calibrated, logits)


def test_temperature_and_platt_find_what_was_done_to_the_logits():
  logits = spread(20_000)
  found = calibration.fit(logits, sample(0.4 * logits), 'temperature')
  assert (found.slope, found.intercept) == (pytest.approx(0.4, abs=0.03), 0)
  found = calibration.fit(logits, sample(0.4 * logits - 1), 'platt')
  assert (found.slope, found.intercept) == (pytest.approx(0.4, abs=0.03), pytest.approx(-1, abs=0.05))


def test_isotonic_finds_what_no_line_does():
  logits = spread(20_000)
  truth = np.where(logits < 0, -1.5, 0.5) + 0.2 * logits
  labels = sample(truth)
  losses = {kind: log_loss(calibration.apply(calibration.fit(logits, labels, kind), logits), labels) for kind in FITTED}
  assert losses['isotonic'] < losses['platt'] - 0.005
  assert losses['isotonic'] < log_loss(truth, labels) + 0.002


@pytest.mark.parametrize('kind', FITTED)
@pytest.mark.parametrize('seed', range(5))
def test_maps_are_finite_and_never_decrease(kind, seed):
  random = np.random.default_rng(seed)
  logits = np.round(random.normal(0, 3, 80), random.integers(3))  # with equal ones
  labels = [sample(logits), sample(-logits), np.ones(80), (logits > 0).astype(float), random.random(80)][seed]
  found = calibration.fit(logits, labels, kind)
  assert np.all(np.diff(found.x) >= 0)
  calibrated = np.asarray(calibration.apply(found, np.linspace(-20, 20, 401)))
  assert np.isfinite(calibrated).all()
  assert np.all(np.diff(calibrated) >= -1e-6)


def test_isotonic_between_and_beyond_its_knots():
  logits = np.repeat([-1.0, 0.0, 2.0], [40, 20, 40])
  labels = np.concatenate([np.arange(40) < 10, np.arange(20) < 3, np.arange(40) < 30]).astype(float)
  found = calibration.fit(logits, labels, 'isotonic')
  # 10 of 40 and 3 of 20 are out of order, and pooled: each share is drawn towards 44 / 102 by one query first.
  low = (40 * (10 + 44 / 102) / 41 + 20 * (3 + 44 / 102) / 21) / 60
  high = (30 + 44 / 102) / 41
  at = calibration.apply(found, np.array([-9.0, -1.0, -0.5, 0.0, 2.0, 9.0]))
  np.testing.assert_allclose(sigmoid(np.asarray(at)), [low, low, low, low, high, high], rtol=1e-5)
  between = calibration.apply(found, np.array([1.0]))
  np.testing.assert_allclose(between, [(scipy.special.logit(low) + scipy.special.logit(high)) / 2], rtol=1e-5)


def test_confidences_that_are_the_wrong_way_round_say_nothing():
  logits = spread(2000)
  labels = sample(-logits + 1)
  found = calibration.fit(logits, labels, 'platt')
  assert found.slope == 0
  assert sigmoid(found.intercept) == pytest.approx(labels.mean(), abs=1e-3)
  assert calibration.fit(logits, labels, 'temperature').slope == 0


@pytest.mark.parametrize(
  ('truth', 'kinds'),
  [
    (lambda z: 0.3 * z, ('temperature', 'platt')),
    (lambda z: z - 1.5, ('platt',)),
    (lambda z: np.where(z < 0, -3.0, 1.0), ('isotonic',)),
  ],
)
def test_the_kind_that_fits_is_chosen(truth, kinds):
  logits = spread(4000)
  assert calibration.choose(logits, sample(truth(logits))) in kinds


def test_where_little_is_known_nothing_is_changed():
  logits = spread(60)
  labels = sample(logits - 3)
  assert calibration.choose(logits, labels) != 'identity'
  assert calibration.choose(logits[:49], labels[:49]) == 'identity'
  assert calibration.choose(np.zeros(60), np.arange(60) % 2.0) == 'identity'  # a tie of all kinds


@pytest.mark.parametrize(('right', 'count', 'expected'), [(1.0, 60, 61 / 62), (0.0, 60, 1 / 62), (1.0, 5, 6 / 7)])
def test_of_labels_that_are_all_the_same_the_confidence_is_constant(right, count, expected):
  logits = spread(count)[:, None].astype(np.float32)
  pool = calibration.fit_pool(logits, np.full((count, 1), right), np.ones((count, 1), bool))
  calibrated = np.asarray(calibration.apply_pool(pool, np.float32([[-20], [0], [35]])))
  np.testing.assert_allclose(1 / (1 + np.exp(-calibrated)), expected, rtol=1e-5)


def pool_of(count=3000):
  """Four LLMs: too sure, too good an opinion, a step, and one that is hardly observed; NaN where not observed."""
  logits = spread((count, 4)).astype(np.float32)
  truth = np.stack([0.3 * logits[:, 0], logits[:, 1] - 2, np.where(logits[:, 2] < 0, -3, 1), logits[:, 3]], 1)
  labels = sample(truth)
  observed = np.random.default_rng(2).random((count, 4)) < [0.9, 1, 1, 0.005]
  return np.where(observed, logits, np.nan), np.where(observed, labels, np.nan), observed


def test_each_llm_gets_its_own_map_and_is_better_calibrated_on_other_queries():
  logits, labels, observed = pool_of()
  known = np.arange(3000) < 1500
  pool = calibration.fit_pool(logits[known], labels[known], observed[known])
  kinds = [calibration.KINDS[kind] for kind in pool.kinds]
  assert kinds[2:] == ['isotonic', 'identity']
  calibrated = np.asarray(calibration.apply_pool(pool, logits))
  np.testing.assert_array_equal(calibrated[:, 3], logits[:, 3])
  for column in range(3):
    alone = calibration.Calibrator(*(array[column] for array in pool.calibrators))
    np.testing.assert_allclose(calibrated[:, column], calibration.apply(alone, logits[:, column]), rtol=1e-6)
    judged = [array[~known][:, [column]] for array in (labels, logits, calibrated, observed)]
    before, after = (metrics.ece(judged[0], sigmoid(of), judged[3]) for of in judged[1:3])
    assert after < before / 2


def test_a_pool_is_the_same_again_and_after_it_was_saved(tmp_path):
  logits, labels, observed = pool_of()
  pool = calibration.fit_pool(logits, labels, observed, seed=3)
  again = calibration.fit_pool(logits, labels, observed, seed=3)
  np.savez(tmp_path / 'pool.npz', kinds=pool.kinds, **pool.calibrators._asdict())
  with np.load(tmp_path / 'pool.npz') as arrays:
    saved = dict(arrays)
  loaded = calibration.Pool(saved.pop('kinds'), calibration.Calibrator(**saved))
  expected = np.asarray(calibration.apply_pool(pool, logits))
  for other in (again, loaded):
    np.testing.assert_array_equal(calibration.apply_pool(other, logits), expected)
  np.testing.assert_allclose(calibration.apply_pool(pool, logits[7]), expected[7], rtol=1e-6)  # one query


@pytest.mark.parametrize(
  ('logits', 'labels', 'kind', 'problem'),
  [
    ([0.0], [1.0], 'plat', "kind='plat' is not one of identity, temperature, platt, isotonic"),
    ([], [], 'platt', r'logits \(0,\) and labels \(0,\) must be of the same N queries, at least one'),
    ([0.0, 1.0], [1.0], 'platt', r'logits \(2,\) and labels \(1,\)'),
    ([0.0, np.inf], [1.0, 0.0], 'platt', 'log-odds must be finite, not inf; clip'),
    ([0.0, 1.0], [1.0, 1.5], 'platt', r'labels must lie in \[0, 1\], not 1.5'),
    ([0.0, 1.0], [1.0, np.nan], 'platt', r'labels must lie in \[0, 1\], not nan'),
  ],
)
def test_what_cannot_be_fitted(logits, labels, kind, problem):
  with pytest.raises(ValueError, match=problem):
    calibration.fit(np.array(logits), np.array(labels), kind)
