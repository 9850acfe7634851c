"""Estimates how likely each LLM is right on a query: calibrated confidences, out of fold wherever they are fitted on.

A logistic regression reads the pretrained encoder's embedding of a query and what shows in its text. Fitting queries
(train and validation) are estimated by the regression on all folds but their own, new queries by the one on all folds.
So votes and rules are fitted on confidences of the kind that they meet later: as sure, and as often wrong.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from selectllm.data import splits, text_features
from selectllm.infra import optimize
from selectllm.infra.typing import Array
from selectllm.selection import calibration

FOLDS = 6
_RIDGES = (0.3, 1.0, 3.0, 10.0)
# What a standardised text feature counts beside an embedding of length 1: tried on GSM8K's fitting queries.
_TEXT_SCALE = 0.15


class Text(NamedTuple):
  """Means and spreads that standardise text features, float32[T] each: see `text_features.FEATURES`."""

  mean: np.ndarray
  spread: np.ndarray


class Estimator(NamedTuple):
  """Turns an embedding and a text into calibrated log-odds for K LLMs.

  Attributes:
    text: Of the fitting queries.
    probe: float32[D + T + 1, K], the regression, its intercept last.
    calibrators: One for each LLM, fitted on log-odds out of fold.
    added: float32[A, K + 1], what the log-odds of LLMs added later weigh those of the K and 1, see
      `selectllm.selection.new_llm`; none by default.
  """

  text: Text
  probe: np.ndarray
  calibrators: calibration.Pool
  added: np.ndarray


class Confidences(NamedTuple):
  """Calibrated log-odds on one split of N queries.

  Attributes:
    estimator: For new queries.
    logits: float32[N, K], NaN for unused queries; out of fold on fitting queries. (The calibration, a few numbers, has
      seen these.)
    uncalibrated: float32[N, K], the same before calibration.
    fold: int8[N], in which fold a fitting query was held out; -1 for all others.
    ridge: float64[], what the regression's weights are shrunk by.
  """

  estimator: Estimator
  logits: np.ndarray
  uncalibrated: np.ndarray
  fold: np.ndarray
  ridge: np.ndarray


_NOTHING: Any = None
# The structure of `Confidences`, with nothing in it; for `selectllm.infra.trees.restore`.
TEMPLATE = Confidences(
  Estimator(
    Text(*[_NOTHING] * 2), _NOTHING, calibration.Pool(_NOTHING, calibration.Calibrator(*[_NOTHING] * 4)), _NOTHING
  ),
  *[_NOTHING] * 4,
)


def log_odds(confidences: np.ndarray) -> np.ndarray:
  """Returns the log-odds of confidences in [0, 1], kept finite."""
  clipped = np.clip(confidences, 1e-4, 1 - 1e-4)
  return (np.log(clipped) - np.log1p(-clipped)).astype(np.float32)


def _columns(queries: list[str]) -> np.ndarray:
  """Returns text features of N queries, float64[N, T], on a scale where differences matter evenly."""
  columns = np.stack([*text_features.of(queries).values(), np.array([len(query) for query in queries], float)], 1)
  return np.log1p(np.maximum(np.nan_to_num(columns), 0))


def _inputs(embeddings: np.ndarray, columns: np.ndarray, text: Text) -> np.ndarray:
  """Returns the inputs of the regression, float32[N, D + T + 1]."""
  standard = np.clip((columns - text.mean) / text.spread, -3, 3) * _TEXT_SCALE
  return np.concatenate([embeddings, standard, np.ones((len(embeddings), 1))], 1).astype(np.float32)


def _total_loss(logits: Array, labels: Array, counted: Array) -> jax.Array:
  return jnp.sum(counted * (jax.nn.softplus(logits) - labels * logits))


def _probe_loss(weights: jax.Array, inputs: Array, labels: Array, counted: Array, ridge: Array) -> jax.Array:
  return _total_loss(inputs @ weights, labels, counted) + ridge / 2 * jnp.sum(weights[:-1] ** 2)


def fit_probe(
  inputs: np.ndarray, labels: np.ndarray, counted: np.ndarray, ridge: float, start: np.ndarray | None = None
) -> np.ndarray:
  """Fits a logistic regression for each LLM, shrunk towards its mean accuracy.

  Args:
    inputs: float32[N, F], 1 in the last column.
    labels: float32[N, K].
    counted: float32 or bool[N, K], what each label counts.
    ridge: Half of it times the squared weights (but the last) is added to the summed log loss.
    start: Where to begin, float32[F, K]; what is found does not depend on it.

  Returns:
    float32[F, K].
  """
  if start is None:
    start = np.zeros((inputs.shape[1], labels.shape[1]), np.float32)
  return optimize.minimise(
    _probe_loss, start, inputs, labels.astype(np.float32), counted.astype(np.float32), np.float32(ridge)
  )


def _log_loss(logits: np.ndarray, labels: np.ndarray, observed: np.ndarray) -> float:
  losses = calibration.log_losses(logits, labels)
  return float(np.sum(losses, where=observed) / max(observed.sum(), 1))


def _folds(texts: Sequence[str], rows: np.ndarray, seed: int) -> np.ndarray:
  """Assigns the rows to folds at random, int8[N], -1 for all others; equal texts share a fold."""
  fold = np.full(len(texts), -1, np.int8)
  places: dict[str, int] = {}
  group = [places.setdefault(splits.normalise(texts[int(row)]), len(places)) for row in rows]
  fold[rows] = (np.random.default_rng(seed).permutation(len(places)) % FOLDS)[group]
  return fold


def _cross_fit(
  inputs: np.ndarray, labels: np.ndarray, observed: np.ndarray, fold: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
  """Fits the regression without each fold, then with all, shrunk as does best on the first fold.

  Args:
    inputs: float32[D, F], 1 in the last column.
    labels: float32[D, K].
    observed: bool[D, K].
    fold: int8[D].

  Returns:
    Out-of-fold log-odds float32[D, K]; the weights float32[F, K]; the ridge.
  """

  def without(part: int, ridge: float, start: np.ndarray | None = None) -> np.ndarray:
    # Left out by weight: of one shape, all fits are compiled once.
    return fit_probe(inputs, labels, observed & (fold != part)[:, None], ridge, start)

  tried: dict[float, np.ndarray] = {}
  for ridge in sorted(_RIDGES, reverse=True):  # each fit begins where the one before ended
    tried[ridge] = without(0, ridge, tried[min(tried)] if tried else None)
  out = fold == 0
  ridge = min(tried, key=lambda ridge: _log_loss(inputs[out] @ tried[ridge], labels[out], observed[out]))
  logits = inputs @ tried[ridge]
  for part in range(1, FOLDS):
    logits[fold == part] = inputs[fold == part] @ without(part, ridge, tried[ridge])
  return logits, without(-1, ridge, tried[ridge]), ridge


def fit(
  queries: list[str],
  embeddings: np.ndarray,
  labels: np.ndarray,
  observed: np.ndarray,
  split: np.ndarray,
  *,
  seed: int,
  questions: Sequence[str] = (),
) -> Confidences:
  """Fits the estimator on the fitting queries, and estimates all queries with it.

  Args:
    queries: N texts.
    embeddings: float32[N, D], unit vectors of the pretrained encoder.
    labels: float32[N, K]; those of test are not looked at.
    observed: bool[N, K].
    split: int8[N].
    seed: Of the folds.
    questions: N texts; equal ones share a fold. The queries themselves by default.
  """
  columns = _columns(queries)
  rows = np.flatnonzero((split == splits.TRAIN) | (split == splits.VALIDATION))
  test = np.flatnonzero(split == splits.TEST)
  text = Text(columns[rows].mean(0).astype(np.float32), np.maximum(columns[rows].std(0), 1e-3).astype(np.float32))
  inputs = _inputs(embeddings, columns, text)
  fold = _folds(questions or queries, rows, seed)
  uncalibrated = np.full(labels.shape, np.nan, np.float32)
  uncalibrated[rows], probe, ridge = _cross_fit(inputs[rows], labels[rows], observed[rows], fold[rows])
  uncalibrated[test] = inputs[test] @ probe
  calibrators = calibration.fit_pool(uncalibrated[rows], labels[rows], observed[rows], seed=seed)
  logits = np.asarray(calibration.apply_pool(calibrators, uncalibrated))
  added = np.zeros((0, labels.shape[1] + 1), np.float32)
  return Confidences(Estimator(text, probe, calibrators, added), logits, uncalibrated, fold, np.array(ridge))


def estimate(estimator: Estimator, queries: list[str], embeddings: np.ndarray) -> np.ndarray:
  """Returns calibrated log-odds of new queries, float32[N, K + A], from texts and embeddings float32[N, D]."""
  uncalibrated = _inputs(embeddings, _columns(queries), estimator.text) @ estimator.probe
  logits = np.asarray(calibration.apply_pool(estimator.calibrators, uncalibrated))
  return np.concatenate([logits, logits @ estimator.added[:, :-1].T + estimator.added[:, -1]], 1)
