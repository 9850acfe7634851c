"""Confidences to decide by: calibrated, and out of fold wherever something is fitted on them.

The classifier has seen its training queries; its confidences there are useless for fitting votes and rules. A second,
cheap estimate has not: a logistic regression on the pretrained encoder's embeddings and what shows in the text,
cross-fitted over the *fitting* queries (train and validation). On validation the two are blended and calibrated for
each LLM; new queries get the blend.
"""

from collections.abc import Sequence
from typing import NamedTuple

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
_SHRINK_BIAS, _SHRINK_BLEND = 10.0, 4.0


class Text(NamedTuple):
  """Means and spreads that standardise text features, float32[T] each: see `text_features.FEATURES`."""

  mean: np.ndarray
  spread: np.ndarray


class Estimator(NamedTuple):
  """Turns a classifier's confidences, an embedding and a text into calibrated log-odds for K LLMs.

  Attributes:
    text: Of the fitting queries.
    probe: float32[D + T + 1, K], the regression, its intercept last.
    blend: float32[2], what the classifier's and the regression's log-odds count.
    bias: float32[K].
    calibrators: One for each LLM, fitted on validation.
    added: float32[A, K + 1], what the log-odds of LLMs added later weigh those of the K and 1, see
      `selectllm.selection.new_llm`; none by default.
  """

  text: Text
  probe: np.ndarray
  blend: np.ndarray
  bias: np.ndarray
  calibrators: calibration.Pool
  added: np.ndarray


class Confidences(NamedTuple):
  """Calibrated log-odds on one split of N queries.

  Attributes:
    estimator: For new queries.
    logits: float32[N, K], NaN for unused queries. Train: the regression's, out of fold. Validation: blended with the
      classifier and calibrated, on these very queries (few numbers). Test: the same blend and calibration.
    blended: float32[N, K], the same before calibration, on validation and test alone.
    fold: int8[N], in which fold a fitting query was held out; -1 for all others.
    ridge: What the regression's weights are shrunk by.
  """

  estimator: Estimator
  logits: np.ndarray
  blended: np.ndarray
  fold: np.ndarray
  ridge: float


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


def _blend_loss(
  parameters: tuple[jax.Array, jax.Array], classifier: Array, probe: Array, labels: Array, counted: Array
) -> jax.Array:
  blend, bias = parameters
  logits = blend[0] * classifier + blend[1] * probe + bias
  loss = _total_loss(logits, labels, counted)
  return loss + _SHRINK_BLEND / 2 * jnp.sum((blend - 0.5) ** 2) + _SHRINK_BIAS / 2 * jnp.sum(bias**2)


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
    inputs: float32[N, F], 1 in the last column.
    labels: float32[N, K].
    observed: bool[N, K].
    fold: int8[N], -1 for queries that nothing is fitted on.

  Returns:
    Out-of-fold log-odds float32[N, K], NaN where there is no fold; the weights float32[F, K]; the ridge.
  """

  def without(part: int, ridge: float, start: np.ndarray | None = None) -> np.ndarray:
    on = (fold >= 0) & (fold != part)
    return fit_probe(inputs[on], labels[on], observed[on], ridge, start)

  tried: dict[float, np.ndarray] = {}
  for ridge in sorted(_RIDGES, reverse=True):  # each fit begins where the one before ended
    tried[ridge] = without(0, ridge, tried[min(tried)] if tried else None)
  out = fold == 0
  ridge = min(tried, key=lambda ridge: _log_loss(inputs[out] @ tried[ridge], labels[out], observed[out]))
  logits = np.full(labels.shape, np.nan, np.float32)
  for part in range(FOLDS):
    logits[fold == part] = inputs[fold == part] @ without(part, ridge, tried[ridge])
  return logits, without(-1, ridge, tried[ridge]), ridge


def fit(
  queries: list[str],
  embeddings: np.ndarray,
  confidences: np.ndarray,
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
    confidences: float32[N, K], the classifier's, on validation and test.
    labels: float32[N, K]; those of test are not looked at.
    observed: bool[N, K].
    split: int8[N].
    seed: Of the folds.
    questions: N texts; equal ones share a fold. The queries themselves by default.
  """
  columns = _columns(queries)
  rows = np.flatnonzero((split == splits.TRAIN) | (split == splits.VALIDATION))
  validation, test = np.flatnonzero(split == splits.VALIDATION), np.flatnonzero(split == splits.TEST)
  held = np.flatnonzero((split == splits.VALIDATION) | (split == splits.TEST))
  text = Text(columns[rows].mean(0).astype(np.float32), np.maximum(columns[rows].std(0), 1e-3).astype(np.float32))
  inputs = _inputs(embeddings, columns, text)
  fold = _folds(questions or queries, rows, seed)
  logits, probe, ridge = _cross_fit(inputs, labels, observed, fold)
  logits[test] = inputs[test] @ probe
  classifier = log_odds(confidences)
  start = (np.full(2, 0.5, np.float32), np.zeros(labels.shape[1], np.float32))
  data = (classifier[validation], logits[validation], labels[validation], observed[validation].astype(np.float32))
  blend, bias = optimize.minimise(_blend_loss, start, *data)
  blended = np.full(labels.shape, np.nan, np.float32)
  blended[held] = blend[0] * classifier[held] + blend[1] * logits[held] + bias
  calibrators = calibration.fit_pool(blended[validation], labels[validation], observed[validation], seed=seed)
  logits[held] = np.asarray(calibration.apply_pool(calibrators, blended[held]))
  added = np.zeros((0, labels.shape[1] + 1), np.float32)
  return Confidences(Estimator(text, probe, blend, bias, calibrators, added), logits, blended, fold, ridge)


def estimate(estimator: Estimator, queries: list[str], embeddings: np.ndarray, confidences: np.ndarray) -> np.ndarray:
  """Returns calibrated log-odds of new queries, float32[N, K + A], from texts, embeddings [N, D], confidences."""
  probe = _inputs(embeddings, _columns(queries), estimator.text) @ estimator.probe
  blended = estimator.blend[0] * log_odds(confidences) + estimator.blend[1] * probe + estimator.bias
  logits = np.asarray(calibration.apply_pool(estimator.calibrators, blended))
  return np.concatenate([logits, logits @ estimator.added[:, :-1].T + estimator.added[:, -1]], 1)
