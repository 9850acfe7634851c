"""Confidences to decide by: out of fold wherever votes and rules are fitted on them, and like those of new queries."""

import numpy as np
import pytest

from selectllm.data import splits
from selectllm.selection import confidence

FITTING = (splits.TRAIN, splits.VALIDATION)


def _problem(count: int = 600, seed: int = 0, width: int = 8, signal: float = 6.0):
  """Queries whose embeddings say who is right: queries, embeddings, labels, observed, split; and the log-odds."""
  rng = np.random.default_rng(seed)
  embeddings = rng.normal(size=(count, width)).astype(np.float32)
  embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
  truth = signal * embeddings[:, :3]
  labels = (rng.random((count, 3)) < 1 / (1 + np.exp(-truth))).astype(np.float32)
  split = rng.choice([0, 0, 0, 1, 2], count).astype(np.int8)
  split[:5] = splits.UNUSED
  queries = [f'How much is {place} plus {place % 7}?' for place in range(count)]
  return (queries, embeddings, labels, np.ones(labels.shape, bool), split), truth


def _log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
  return float(np.mean(np.logaddexp(0, logits) - labels * logits))


def test_estimates_come_near_to_the_truth():
  (queries, embeddings, labels, observed, split), truth = _problem()
  found = confidence.fit(queries, embeddings, labels, observed, split, seed=0)
  test = split == splits.TEST
  constant = np.broadcast_to(confidence.log_odds(labels[np.isin(split, FITTING)].mean(0)), truth[test].shape)
  best, worst = _log_loss(truth[test], labels[test]), _log_loss(constant, labels[test])
  assert _log_loss(found.logits[test], labels[test]) < best + 0.25 * (worst - best)
  assert np.isnan(found.logits[split == splits.UNUSED]).all()
  assert np.isfinite(found.logits[split != splits.UNUSED]).all()
  np.testing.assert_array_equal(found.fold >= 0, np.isin(split, FITTING))


def test_fitting_queries_are_estimated_as_new_ones_are():
  # Wide enough to learn much by heart: estimates in fold would be surer than those of new queries, and better.
  (queries, embeddings, labels, observed, split), _ = _problem(3000, width=150, signal=15.0)
  found = confidence.fit(queries, embeddings, labels, observed, split, seed=0)
  fitting, test = np.isin(split, FITTING), split == splits.TEST
  for logits in (found.logits, found.uncalibrated):
    assert logits[fitting].std() == pytest.approx(logits[test].std(), rel=0.08)
    assert _log_loss(logits[fitting], labels[fitting]) == pytest.approx(_log_loss(logits[test], labels[test]), abs=0.03)
  again = confidence.estimate(found.estimator, queries, embeddings)
  assert _log_loss(again[fitting], labels[fitting]) < _log_loss(again[test], labels[test]) - 0.06


def test_no_query_s_own_label_is_in_its_estimate():
  (queries, embeddings, labels, observed, split), _ = _problem(300, width=200)
  labels = np.random.default_rng(2).integers(0, 2, labels.shape).astype(np.float32)  # nothing but to learn by heart
  found = confidence.fit(queries, embeddings, labels, observed, split, seed=0)
  for part in FITTING:
    assert _log_loss(found.uncalibrated[split == part], labels[split == part]) > 0.69
  held_out = found.fold == 2  # before calibration, what a query's own fold is labelled changes nothing for it
  changed = np.where(held_out[:, None], 1 - labels, labels)
  again = confidence.fit(queries, embeddings, changed, observed, split, seed=0)
  assert again.ridge == found.ridge  # chosen on another fold
  np.testing.assert_allclose(again.uncalibrated[held_out], found.uncalibrated[held_out], atol=1e-2)
  assert np.abs(again.uncalibrated - found.uncalibrated)[(found.fold >= 0) & ~held_out].max() > 0.1


def test_test_labels_touch_nothing():
  (queries, embeddings, labels, observed, split), _ = _problem()
  before = confidence.fit(queries, embeddings, labels, observed, split, seed=0)
  test = (split == splits.TEST)[:, None]
  after = confidence.fit(queries, embeddings, np.where(test, 1 - labels, labels), observed & ~test, split, seed=0)
  np.testing.assert_array_equal(before.logits, after.logits)
  np.testing.assert_array_equal(before.estimator.probe, after.estimator.probe)


def test_new_queries_get_what_the_same_queries_got_in_the_run():
  (queries, embeddings, labels, observed, split), _ = _problem()
  found = confidence.fit(queries, embeddings, labels, observed, split, seed=0)
  test = np.flatnonzero(split == splits.TEST)
  again = confidence.estimate(found.estimator, [queries[row] for row in test], embeddings[test])
  np.testing.assert_allclose(again, found.logits[test], atol=1e-5)


def test_what_shows_in_the_text_counts_too():
  (queries, embeddings, labels, observed, split), _ = _problem()
  long = np.random.default_rng(3).random(len(queries)) < 0.5
  queries = [query + ' And how much is the half of it?' * int(also) for query, also in zip(queries, long, strict=True)]
  labels = np.stack([long, ~long, labels[:, 2]], 1).astype(np.float32)
  found = confidence.fit(queries, embeddings, labels, observed, split, seed=0)
  test = split == splits.TEST
  assert ((found.logits[test, 0] > 0) == long[test]).mean() > 0.9


def test_an_llm_that_was_not_asked_is_learned_from_where_it_was():
  (queries, embeddings, labels, observed, split), _ = _problem()
  observed[::2, 0] = False
  found = confidence.fit(queries, embeddings, labels, observed, split, seed=0)
  wrong = np.where(observed, labels, 1 - labels)
  again = confidence.fit(queries, embeddings, wrong, observed, split, seed=0)
  np.testing.assert_array_equal(found.logits, again.logits)


def test_log_odds_are_finite():
  assert np.isfinite(confidence.log_odds(np.array([0.0, 0.5, 1.0]))).all()
  assert confidence.log_odds(np.array([0.5]))[0] == pytest.approx(0, abs=1e-6)


def test_equal_questions_are_held_out_together():
  (queries, embeddings, labels, observed, split), _ = _problem(300)
  half = len(queries) // 2
  twice = [np.concatenate([array[:half], array[:half]]) for array in (embeddings, labels, observed, split)]
  questions = [*queries[:half], *(f'  {query.upper()}' for query in queries[:half])]
  found = confidence.fit(queries, *twice, seed=0, questions=questions)
  np.testing.assert_array_equal(found.fold[:half], found.fold[half:])
