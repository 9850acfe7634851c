"""A new LLM in a pool that has been learned: its confidence from few labelled responses, and answers to fit rules on.

The pool's confidences in a query tell much about a new LLM too: where the others are likely right, so is it,
and by default by as much. A regression on the pool's log-odds begins there and is moved by the labelled responses.
Votes and rules want its answers to many more queries than it was asked; those are drawn as it might have answered.
"""

from typing import NamedTuple

import numpy as np
import scipy.special

from selectllm.data import dataset
from selectllm.selection import types, voting

# Variances of what is not known beforehand: the intercept, beside the variance of the pool's own mean log-odds (an LLM
# unlike all others is not ruled out); the slope on the pool's mean log-odds (about 1); and what one LLM's log-odds
# count beyond the mean (about 0). Tried on the fitting queries of GSM8K and MMLU-Pro, each LLM of the pool taken
# for a new one: with any of them three times as large, log loss from 30 to 300 responses is higher by less than 0.005.
_INTERCEPT, _SLOPE, _DEVIATION = 0.25, 0.1, 0.1
# LLMs err together. What it adds to the log-odds that all others are right when none was expected to be (mean,
# variance), tried likewise.
_SURPRISE = (5.0, 2.0)
# How many wrong answers the pool's own habit of agreeing counts for, beside those of the new LLM.
_HABIT = 10.0


class Confidence(NamedTuple):
  """A new LLM's log-odds: `logits @ weights + bias`, of the pool's.

  Attributes:
    weights: float32[K].
    bias: float32[].
  """

  weights: np.ndarray
  bias: np.ndarray


def _regress(columns: np.ndarray, labels: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
  """Fits the most likely weights float64[P] of a logistic regression with a normal prior, by Newton's method."""
  weights = mean
  for _ in range(50):
    right = scipy.special.expit(columns @ weights)
    slope = columns.T @ (right - labels) + (weights - mean) / variance
    step = np.linalg.solve((columns.T * (right * (1 - right))) @ columns + np.diag(1 / variance), slope)
    weights = weights - step
    if np.abs(step).max() < 1e-6:
      break
  return weights


def _columns(logits: np.ndarray) -> np.ndarray:
  """Returns the pool's log-odds as the prior sees them, float64[N, K + 2]: 1, their mean, each deviation from it."""
  mean = logits.mean(1, keepdims=True, dtype=np.float64)
  return np.concatenate([np.ones_like(mean), mean, logits - mean], 1)


def _prior(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns prior means and variances of the weights of `_columns`."""
  rest = np.zeros(logits.shape[1])
  intercept = _INTERCEPT + logits.mean(0, dtype=np.float64).var()
  return np.array([0.0, 1.0, *rest]), np.array([intercept, _SLOPE, *(rest + _DEVIATION)])


def fit(logits: np.ndarray, labels: np.ndarray) -> Confidence:
  """Fits the confidence of a new LLM: the most likely one (MAP) under the prior, whose weight shrinks with n.

  Args:
    logits: float32[n, K], the pool's calibrated log-odds on n queries, out of fold.
    labels: float32[n], whether the new LLM was right.
  """
  num_llms = logits.shape[1]
  bias, slope, *deviations = _regress(_columns(logits), labels, *_prior(logits))
  weights = np.array(deviations) + (slope - np.sum(deviations)) / num_llms
  return Confidence(weights.astype(np.float32), np.asarray(bias, np.float32))


def log_odds(confidence: Confidence, logits: np.ndarray) -> np.ndarray:
  """Returns the new LLM's log-odds, float32[N], from the pool's, float32[N, K]."""
  return logits @ confidence.weights + confidence.bias


def learn(logits: np.ndarray, labels: np.ndarray, asked: np.ndarray, fold: np.ndarray) -> tuple[Confidence, np.ndarray]:
  """Fits a new LLM's confidence, and estimates it on all queries.

  Args:
    logits: float32[N, K], the pool's calibrated log-odds, out of fold where the new LLM was asked.
    labels: float32[N], whether the new LLM was right; looked at only where it was asked.
    asked: int[n], the queries that it was asked.
    fold: int[N].

  Returns:
    The confidence, and its log-odds float32[N]: on queries asked, by the responses to those in other folds.
  """
  fitted = fit(logits[asked], labels[asked])
  found = log_odds(fitted, logits)
  for part in np.unique(fold[asked]):
    out, rest = asked[fold[asked] == part], asked[fold[asked] != part]
    found[out] = log_odds(fit(logits[rest], labels[rest]), logits[out])
  return fitted, found


def _surprise(queries: types.StrategyQueries) -> np.ndarray:
  """Returns how many more LLMs of the pool were right than expected, as a share of those asked, float64[N]."""
  observed = queries.observed[:, :-1]
  beyond = queries.labels[:, :-1] - scipy.special.expit(queries.logits[:, :-1].astype(np.float64))
  return np.sum(np.where(observed, beyond, 0), 1) / np.maximum(observed.sum(1), 1)


def _rightness(queries: types.StrategyQueries) -> np.ndarray:
  """Returns how likely the new LLM is right, float64[N], where it is known who else was."""
  pool, asked = queries.logits[:, :-1], queries.observed[:, -1]
  columns = np.concatenate([_columns(pool), _surprise(queries)[:, None]], 1)
  mean, variance = (np.append(prior, more) for prior, more in zip(_prior(pool[asked]), _SURPRISE, strict=True))
  return scipy.special.expit(columns @ _regress(columns[asked], queries.labels[asked, -1], mean, variance))


def _agreement(majority: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Counts each LLM's wrong answers where others erred too, and those that another one gave, int[K]."""
  alike = (majority[:, :, None] == majority[:, None, :]) & wrong[:, :, None] & wrong[:, None, :]  # [N, K, K]
  alike &= ~np.eye(majority.shape[1], dtype=bool)
  together = wrong & (wrong.sum(1, keepdims=True) > 1)
  return together.sum(0), alike.any(2).sum(0)


def _shared_errors(queries: types.StrategyQueries, majority: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Draws the wrong answers of others that the new LLM gives too, int[N]; NO_ANSWER where it errs by itself."""
  asked = queries.observed[:, -1]
  wrong = queries.observed & (majority != voting.NO_ANSWER) & ~dataset.is_right(majority, queries.accepted[:, None])
  pool_erred, pool_agreed = (counts.sum() for counts in _agreement(majority[:, :-1], wrong[:, :-1]))
  erred, agreed = (counts[-1] for counts in _agreement(majority[asked], wrong[asked]))
  habit = (agreed + _HABIT * pool_agreed / max(pool_erred, 1)) / (erred + _HABIT)
  others = wrong[:, :-1]
  drawn = np.argmax(np.where(others, rng.random(others.shape), -1), 1)
  shares = others.any(1) & (rng.random(len(others)) < habit)
  return np.where(shares, majority[np.arange(len(others)), drawn], voting.NO_ANSWER)


def _samples(queries: types.StrategyQueries, right: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Draws for each query the new LLM's samples on a labelled one on which it was as right, int16[N, S]."""
  drawn = np.zeros((len(right), queries.answers.shape[2]), np.int16)  # where there is none, they all agree
  for outcome in (False, True):
    rows, like = right == outcome, queries.observed[:, -1] & (queries.labels[:, -1] == outcome)
    if like.any():
      drawn[rows] = rng.choice(queries.answers[like, -1], rows.sum())
  return drawn


def impute(queries: types.StrategyQueries, *, seed: int) -> types.StrategyQueries:
  """Draws answers of a new LLM, the last one of the pool, to the queries that it was not asked.

  It is right as likely as its labelled responses say, given the pool's log-odds and how many of the pool were right.
  When wrong, it errs like another LLM as often as it did on labelled queries, else it has an answer of its own. Whether
  its samples agree is taken over from a labelled query on which it was as right. Fit on these; measure nothing by them.

  Args:
    queries: Those with labels; `observed` says what the last LLM was asked.
    seed: Of the draws.

  Returns:
    The same queries, the last LLM observed wherever any other one was; costs remain unknown.
  """
  rng = np.random.default_rng(seed)
  answers = np.where(queries.observed[..., None], queries.answers, voting.NO_ANSWER)
  majority = np.where(queries.observed, queries.majority, voting.NO_ANSWER)
  right = (rng.random(len(majority)) < _rightness(queries)) & (queries.accepted[:, 0] >= 0)
  shared = _shared_errors(queries, majority, rng)
  samples = _samples(queries, right, rng)
  own = 1 + np.maximum(answers.max((1, 2)), queries.accepted.max(1))[:, None] + samples  # ids that nobody gave
  elected = np.where(right, queries.accepted[:, 0], shared)[:, None]
  elects = (samples == dataset.majorities(samples[:, None])) & (elected != voting.NO_ANSWER)
  drawn = np.where(samples == voting.NO_ANSWER, voting.NO_ANSWER, np.where(elects, elected, own))
  fresh = queries.observed.any(1) & ~queries.observed[:, -1]
  labels, observed = queries.labels.copy(), queries.observed.copy()
  answers[fresh, -1], labels[fresh, -1], observed[fresh, -1] = drawn[fresh], right[fresh], True
  majority[:, -1] = dataset.majorities(answers[:, -1:])[:, 0]
  return queries._replace(answers=answers, majority=majority, labels=labels, observed=observed)
