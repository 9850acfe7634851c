import itertools

import numpy as np
import pytest
import scipy.optimize

from selectllm.selection import batch_budget


def _options(seed: int, queries: int, options: int) -> tuple[np.ndarray, np.ndarray]:
  """Dearer options are mostly, not always, worth more."""
  rng = np.random.default_rng(seed)
  price = np.sort(rng.lognormal(0, 1, (queries, options)), axis=1)
  value = np.clip(rng.random((queries, 1)) + 0.2 * np.log1p(price) + 0.1 * rng.normal(size=price.shape), 0, 1)
  return value, price


def _total(table: np.ndarray, choice: np.ndarray) -> float:
  return table[np.arange(len(choice)), choice].sum()


def _steps(value: np.ndarray) -> float:
  """The most that another option can bring a single query."""
  return (value.max(1) - value.min(1)).max()


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('share', [0.0, 0.1, 0.5, 0.9])
def test_few_queries_against_all_choices(seed, share):
  value, price = _options(seed, 5, 4)
  least, most = price.min(1).sum(), price.max(1).sum()
  limit = least + share * (most - least)
  choices = [np.array(choice) for choice in itertools.product(range(4), repeat=5)]
  best = max(_total(value, choice) for choice in choices if _total(price, choice) <= limit)
  choice = batch_budget.assign(value, price, limit)
  assert choice.shape == (5,)
  assert choice.dtype == np.int32
  assert _total(price, choice) <= limit
  assert best - _steps(value) <= _total(value, choice) <= best + 1e-9


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('share', [0.02, 0.2, 0.6])
def test_many_queries_against_an_integer_programme(seed, share):
  queries, options = 80, 6
  value, price = _options(seed, queries, options)
  least, most = price.min(1).sum(), _total(price, value.argmax(1))
  limit = least + share * (most - least)
  once = scipy.optimize.LinearConstraint(np.kron(np.eye(queries), np.ones(options)), 1, 1)
  kept = scipy.optimize.LinearConstraint(price.reshape(1, -1), -np.inf, limit)
  exact = scipy.optimize.milp(-value.ravel(), integrality=np.ones(value.size), bounds=(0, 1), constraints=[once, kept])
  choice = batch_budget.assign(value, price, limit)
  assert _total(price, choice) <= limit
  assert -exact.fun * 0.997 <= _total(value, choice) <= -exact.fun * (1 + 1e-3)  # the programme's own tolerance


def test_a_budget_for_everything_buys_the_best_and_no_dearer_equal():
  value = np.array([[0.1, 0.9, 0.9], [0.5, 0.2, 0.6]])
  price = np.array([[1.0, 3.0, 2.0], [1.0, 2.0, 3.0]])
  assert batch_budget.assign(value, price, 100).tolist() == [2, 2]


def test_the_least_budget_is_enough_and_less_is_refused():
  value, price = _options(3, 400, 5)
  least = price.min(1).sum()
  np.testing.assert_array_equal(batch_budget.assign(value, price, least), price.argmin(1))
  with pytest.raises(ValueError, match=rf'a budget of 5 for 400 queries; the cheapest options take {least:g}'):
    batch_budget.assign(value, price, 5)


def test_equal_queries_share_the_budget():
  """No multiplier tells 1,000 equal queries apart: all the upgrades are bought afterwards."""
  value, price = np.tile([0.2, 0.6, 0.7], (1000, 1)), np.tile([1.0, 2.0, 5.0], (1000, 1))
  counts = np.bincount(batch_budget.assign(value, price, 1300), minlength=3)
  assert counts.tolist() == [700, 300, 0]
  assert np.bincount(batch_budget.assign(value, price, 2300), minlength=3).tolist() == [0, 900, 100]


@pytest.mark.parametrize('unit', [1e-9, 1.0, 1e9])
def test_the_unit_of_price_does_not_matter(unit):
  value, price = _options(4, 300, 8)
  choice = batch_budget.assign(value, price * unit, 400 * unit)
  assert _total(price * unit, choice) <= 400 * unit
  assert _total(value, choice) == pytest.approx(_total(value, batch_budget.assign(value, price, 400)), rel=1e-3)


def test_free_options_and_no_queries_at_all():
  value = np.array([[0.1, 0.4], [0.3, 0.2]])
  assert batch_budget.assign(value, np.zeros((2, 2)), 0).tolist() == [1, 0]
  assert batch_budget.assign(value[:0], value[:0], 0).shape == (0,)


@pytest.mark.parametrize(
  ('value', 'price'), [([[0.1, np.nan]], [[1, 2]]), ([[0.1, 0.2]], [[1, np.inf]]), ([[0.1, 0.2]], [[1, 2, 3]])]
)
def test_numbers_that_cannot_be_compared_are_refused(value, price):
  with pytest.raises(ValueError, match='must be finite numbers of one shape'):
    batch_budget.assign(np.array(value, float), np.array(price, float), 10)
