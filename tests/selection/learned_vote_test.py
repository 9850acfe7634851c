"""Votes that weigh evidence."""

import numpy as np
import pytest

from selectllm.data import dataset
from selectllm.selection import learned_vote, types


def _posterior(weights, logits, answers, called) -> learned_vote.Posterior:
  says = learned_vote.count_votes(np.asarray(answers, np.int16))
  return learned_vote.posterior(weights, np.asarray(logits, np.float32), says, np.asarray(called, bool))


def _voters(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Three LLMs, the second of which repeats the first, errors and all: log-odds, answers and right answers."""
  reference = rng.integers(0, 5, count).astype(np.int16)
  logits = np.broadcast_to(np.array([0.4, 0.4, 0.8], np.float32), (count, 3)).copy()
  right = rng.random((count, 3)) < 1 / (1 + np.exp(-logits))
  wrong = (reference[:, None] + rng.integers(1, 5, (count, 3))) % 5
  answers = np.where(right, reference[:, None], wrong).astype(np.int16)
  answers[:, 1] = answers[:, 0]
  return logits, answers[:, :, None], reference[:, None]


def test_with_bayes_weights_the_posterior_is_that_of_independent_errors():
  logits, answers = np.array([0.3, -0.5, 1.2], np.float32), [[7], [7], [2]]
  right = 1 / (1 + np.exp(-logits))
  wrong = (1 - right) / 8  # of eight wrong answers, each alike
  likelihood = np.array([right[0] * right[1] * wrong[2], wrong[0] * wrong[1] * right[2], wrong.prod() * 8])
  found = _posterior(learned_vote.bayes(3), logits, answers, [True] * 3)
  assert int(found.answer) == 7
  assert float(found.top) == pytest.approx(likelihood[0] / likelihood.sum(), rel=1e-4)
  assert float(found.second) == pytest.approx(likelihood[1] / likelihood.sum(), rel=1e-4)


def test_who_was_not_called_says_nothing():
  called = [True, False, True]
  found = [_posterior(learned_vote.bayes(3), [0.3, 2.0, 0.1], [[1], [other], [2]], called) for other in (1, 2, -1)]
  assert len({(int(f.answer), float(f.top), float(f.second)) for f in found}) == 1


def test_nobody_called_or_no_answer_given_elects_nothing():
  for called, answers in (([False] * 2, [[1], [2]]), ([True] * 2, [[-1], [-1]])):
    found = _posterior(learned_vote.bayes(2), [1.0, 1.0], answers, called)
    assert int(found.answer) == -1
    assert float(found.top) == float(found.second) == 0


def test_an_llm_whose_samples_agree_is_believed_more():
  tops = [
    float(_posterior(learned_vote.bayes(2), [0.5, 0.5], [[3, 3, 3, other], [-1] * 4], [True, False]).top)
    for other in (3, 4)
  ]
  assert tops[0] > tops[1]


def test_a_fitted_vote_discounts_llms_that_err_alike_and_is_calibrated():
  rng = np.random.default_rng(0)
  logits, answers, accepted = _voters(3000, rng)
  observed = np.ones(logits.shape, bool)
  weights = learned_vote.fit(logits[:2000], answers[:2000], accepted[:2000], observed[:2000], seed=0)
  assert weights.pair[0, 1] < -0.5
  np.testing.assert_array_equal(weights.pair, weights.pair.T)
  held_out = types.StrategyQueries(
    logits[2000:], np.zeros((1000, 1), np.float32), answers[2000:], dataset.majorities(answers[2000:]),
    observed[2000:], accepted[2000:], np.zeros((1000, 3)), np.ones((1000, 3)), np.ones(3),
  )  # fmt: skip
  for name, vote, most in (('fitted', weights, 0.05), ('bayes', learned_vote.bayes(3), None)):
    played = learned_vote.by_confidence(vote, held_out)
    right = played.answer[:, 2] == held_out.accepted[:, 0]
    gap = abs(played.p_right[:, 2].mean() - right.mean())
    assert (gap < most) if most else (gap > 0.05), name


def test_the_most_confident_are_called_first_and_missing_ones_never():
  asked = types.StrategyQueries(
    np.array([[0.1, 2.0, 1.0], [0.1, 2.0, 1.0]], np.float32), np.zeros((2, 1)), np.zeros((2, 3, 1), np.int16),
    np.zeros((2, 3), np.int16), np.array([[True] * 3, [True, False, True]]), np.zeros(2),
    np.zeros((2, 3)), np.ones((2, 3)), np.ones(3),
  )  # fmt: skip
  mask = learned_vote.by_confidence(learned_vote.bayes(3), asked).mask
  np.testing.assert_array_equal(mask[0], [[False, True, False], [False, True, True], [True] * 3])
  np.testing.assert_array_equal(mask[1], [[False, False, True], [True, False, True], [True, False, True]])
