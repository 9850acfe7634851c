"""Confidences to decide by."""

import numpy as np
import pytest

from selectllm.data import splits
from selectllm.selection import confidence


def _problem(count: int = 600, seed: int = 0):
  """Queries whose embeddings say who is right, and a classifier that knows a little more on validation and test."""
  rng = np.random.default_rng(seed)
  embeddings = rng.normal(size=(count, 8)).astype(np.float32)
  embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
  truth = 6 * embeddings[:, :3]
  labels = (rng.random((count, 3)) < 1 / (1 + np.exp(-truth))).astype(np.float32)
  split = rng.choice([0, 0, 0, 1, 2], count).astype(np.int8)
  split[:5] = splits.UNUSED
  confidences = (1 / (1 + np.exp(-0.5 * truth))).astype(np.float32)
  confidences[(split == splits.TRAIN) | (split == splits.UNUSED)] = np.nan
  queries = [f'How much is {place} plus {place % 7}?' for place in range(count)]
  return queries, embeddings, confidences, labels, np.ones(labels.shape, bool), split, truth


def test_the_blend_comes_nearer_to_the_truth_than_the_classifier():
  *problem, truth = _problem()
  developed = confidence.fit(*problem, seed=0)
  queries, _, confidences, labels, _, split = problem
  test = split == splits.TEST

  def log_loss(logits: np.ndarray) -> float:
    return float(np.mean(np.logaddexp(0, logits) - labels[test] * logits))

  assert log_loss(developed.logits[test]) < log_loss(confidence.log_odds(confidences[test]))
  assert np.isnan(developed.logits[split == splits.UNUSED]).all()
  assert np.isfinite(developed.logits[split != splits.UNUSED]).all()
  np.testing.assert_array_equal(developed.fold >= 0, (split == splits.TRAIN) | (split == splits.VALIDATION))
  del queries, truth


def test_test_labels_touch_nothing():
  *problem, _ = _problem()
  before = confidence.fit(*problem, seed=0)
  labels, split = problem[3].copy(), problem[5]
  labels[split == splits.TEST] = 1 - labels[split == splits.TEST]
  after = confidence.fit(*problem[:3], labels, *problem[4:], seed=0)
  np.testing.assert_array_equal(before.logits, after.logits)


def test_training_queries_are_scored_by_what_has_not_seen_them():
  queries, embeddings, confidences, labels, observed, split, _ = _problem(300)
  noise = np.random.default_rng(1).normal(size=(300, 200)).astype(np.float32)  # enough to learn any label by heart
  noise /= np.linalg.norm(noise, axis=1, keepdims=True)
  labels = np.random.default_rng(2).integers(0, 2, labels.shape).astype(np.float32)
  developed = confidence.fit(queries, noise, confidences, labels, observed, split, seed=0)
  train = split == splits.TRAIN
  loss = np.mean(np.logaddexp(0, developed.logits[train]) - labels[train] * developed.logits[train])
  assert loss > 0.69
  del embeddings


def test_new_queries_get_what_the_same_queries_got_in_the_run():
  *problem, _ = _problem()
  developed = confidence.fit(*problem, seed=0)
  queries, embeddings, confidences, _, _, split = problem
  test = np.flatnonzero(split == splits.TEST)
  again = confidence.estimate(developed.estimator, [queries[row] for row in test], embeddings[test], confidences[test])
  np.testing.assert_allclose(again[:, :3], developed.logits[test], atol=1e-5)


def test_log_odds_are_finite():
  assert np.isfinite(confidence.log_odds(np.array([0.0, 0.5, 1.0]))).all()
  assert confidence.log_odds(np.array([0.5]))[0] == pytest.approx(0, abs=1e-6)


def test_equal_questions_are_held_out_together():
  queries, embeddings, confidences, labels, observed, split, _ = _problem(300)
  half = len(queries) // 2
  twice = [np.concatenate([array[:half], array[:half]]) for array in (embeddings, confidences, labels, observed, split)]
  questions = [*queries[:half], *(f'  {query.upper()}' for query in queries[:half])]
  developed = confidence.fit(queries, *twice, seed=0, questions=questions)
  np.testing.assert_array_equal(developed.fold[:half], developed.fold[half:])
