"""Calibration: confidences that mean what they say, by one map of log-odds for each LLM (or for whatever else is sure).

Maps are fitted on the host, on queries that the log-odds themselves were not fitted on, and applied on the device.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special
from jaxtyping import Bool, Float, Int

from selectllm.infra.typing import Array

KINDS = ('identity', 'temperature', 'platt', 'isotonic')
KNOTS = 32
# On fewer queries nothing is fitted: it would tell more about them than about the LLM.
FEWEST = 50
_QUERIES_A_KNOT = 10


class Calibrator(NamedTuple):
  """The map z -> slope * z + intercept + s(z), where s is linear between its knots and constant beyond them.

  Attributes:
    slope: float32[], at least 0.
    intercept: float32[].
    x: float32[KNOTS], ascending; where fewer are needed, the last one is repeated.
    y: float32[KNOTS], ascending, s at the knots.
  """

  slope: Float[Array, '']
  intercept: Float[Array, '']
  x: Float[Array, ' knots']
  y: Float[Array, ' knots']


class Pool(NamedTuple):
  """The calibrators of K LLMs.

  Attributes:
    kinds: int8[K], indices into `KINDS`.
    calibrators: Their arrays, with the K LLMs along the first dimension.
  """

  kinds: Int[Array, ' K']
  calibrators: Calibrator


def _calibrator(slope: float, intercept: float, x: Array = (0.0,), y: Array = (0.0,)) -> Calibrator:
  knots = (np.pad(np.asarray(values, np.float32), (0, KNOTS - len(values)), mode='edge') for values in (x, y))
  return Calibrator(np.float32(slope), np.float32(intercept), *knots)


def _targets(labels: np.ndarray) -> np.ndarray:
  """Returns labels as if one query more had been right, one more wrong (Platt 1999): never 0 or 1, so that fits end."""
  right = labels.sum()
  wrong = len(labels) - right
  return labels * (right + 1) / (right + 2) + (1 - labels) / (wrong + 2)


def _logistic(columns: np.ndarray, targets: np.ndarray) -> np.ndarray:
  """Returns weights float64[P] of the logistic regression of targets float64[N] in (0, 1) on columns float64[N, P]."""

  def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
    logits = columns @ weights
    value = np.sum(np.logaddexp(0, logits) - targets * logits)
    return value, columns.T @ (scipy.special.expit(logits) - targets)

  def curvature(weights: np.ndarray) -> np.ndarray:
    right = scipy.special.expit(columns @ weights)
    return (columns.T * (right * (1 - right))) @ columns

  start = np.zeros(columns.shape[1])
  return scipy.optimize.minimize(loss, start, jac=True, hess=curvature, method='trust-exact').x


def _platt(logits: np.ndarray, labels: np.ndarray) -> Calibrator:
  targets = _targets(labels)
  slope, intercept = _logistic(np.stack([logits, np.ones_like(logits)], 1), targets)
  if slope < 0 or np.ptp(labels) == 0:  # the order of confidences is not turned round, nor made of nothing
    slope, intercept = 0.0, scipy.special.logit(targets.mean())
  return _calibrator(slope, intercept)


def _temperature(logits: np.ndarray, labels: np.ndarray) -> Calibrator:
  (slope,) = _logistic(logits[:, None], _targets(labels))
  return _calibrator(max(slope, 0.0), 0.0)


def _isotonic(logits: np.ndarray, labels: np.ndarray) -> Calibrator:
  groups = min(KNOTS, max(1, len(logits) // _QUERIES_A_KNOT))
  edges = np.quantile(logits, np.arange(1, groups) / groups)
  _, group = np.unique(np.searchsorted(edges, logits, side='right'), return_inverse=True)  # equal ones stay together
  count = np.bincount(group)
  prior = (labels.sum() + 1) / (len(labels) + 2)
  share = (np.bincount(group, weights=labels) + prior) / (count + 1)
  share = scipy.optimize.isotonic_regression(share, weights=count).x
  return _calibrator(0.0, 0.0, np.bincount(group, weights=logits) / count, scipy.special.logit(share))


def fit(logits: np.ndarray, labels: np.ndarray, kind: str) -> Calibrator:
  """Fits a map by log loss.

  `temperature` fits the slope (Guo et al. 2017), `platt` slope and intercept (Platt 1999). `isotonic` cuts the log-odds
  into at most KNOTS groups of about equal size, takes each group's share of right answers, drawn towards the overall
  share as if by one query more, pools adjacent violators (Ayer et al. 1955) and joins the groups' means by lines.

  Args:
    logits: float[N], log-odds, finite.
    labels: float[N] in [0, 1].
    kind: One of `KINDS`.

  Returns:
    The map; it never decreases.

  Raises:
    ValueError: for another kind, no queries, log-odds that are not finite or labels outside [0, 1].
  """
  logits, labels = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
  if kind not in KINDS:
    raise ValueError(f'kind={kind!r} is not one of {", ".join(KINDS)}')
  if logits.ndim != 1 or logits.shape != labels.shape or not logits.size:
    raise ValueError(f'logits {logits.shape} and labels {labels.shape} must be of the same N queries, at least one')
  if not np.isfinite(logits).all():
    raise ValueError(f'log-odds must be finite, not {logits[~np.isfinite(logits)][0]}; clip confidences of 0 and 1')
  if not ((labels >= 0) & (labels <= 1)).all():
    raise ValueError(f'labels must lie in [0, 1], not {labels[~((labels >= 0) & (labels <= 1))][0]}')
  if kind == 'identity':
    return _calibrator(1.0, 0.0)
  return {'temperature': _temperature, 'platt': _platt, 'isotonic': _isotonic}[kind](logits, labels)


def apply(calibrator: Calibrator, logits: Float[Array, '*N']) -> Float[Array, '*N']:
  """Returns calibrated log-odds, of any shape; `identity` changes no bit, and NaN stays NaN."""
  return calibrator.slope * logits + calibrator.intercept + jnp.interp(logits, calibrator.x, calibrator.y)


def log_losses(logits: Float[Array, '*N'], labels: Float[Array, '*N']) -> Float[Array, '*N']:
  """Returns the log loss of each of the log-odds, on the host."""
  return np.logaddexp(0, logits) - labels * logits


def _log_losses(calibrator: Calibrator, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Returns the log losses of a map, on the host: every fold has another shape, and would be compiled anew."""
  calibrated = calibrator.slope * logits + calibrator.intercept + np.interp(logits, calibrator.x, calibrator.y)
  return log_losses(calibrated, labels)


def choose(logits: Float[Array, ' N'], labels: Float[Array, ' N'], *, folds: int = 5, seed: int = 0) -> str:
  """Chooses the simplest kind whose cross-validated log loss none betters by over a standard error of the difference.

  Args:
    logits: float[N], log-odds, finite.
    labels: float[N] in [0, 1].
    folds: How many, at least 2.
    seed: Which query is in which fold.

  Returns:
    One of `KINDS`, which go from the simplest to the most flexible; `identity` on fewer than FEWEST queries; `platt`,
    which is constant then, where all labels are the same.
  """
  if len(labels) and np.ptp(labels) == 0:
    return 'platt'
  if len(labels) < FEWEST:
    return 'identity'
  fold = np.random.default_rng(seed).permutation(len(labels)) % folds

  def losses(kind: str) -> np.ndarray:
    found = np.zeros(len(labels))
    for part in range(folds):
      rest, out = fold != part, fold == part
      found[out] = _log_losses(fit(logits[rest], labels[rest], kind), logits[out], labels[out])
    return found

  best, best_losses = KINDS[0], losses(KINDS[0])
  for kind in KINDS[1:]:
    gain = best_losses - (tried := losses(kind))
    if gain.mean() > gain.std() / math.sqrt(len(gain)):
      best, best_losses = kind, tried
  return best


def fit_pool(
  logits: Float[Array, 'N K'],
  labels: Float[Array, 'N K'],
  observed: Bool[Array, 'N K'],
  *,
  folds: int = 5,
  seed: int = 0,
) -> Pool:
  """Fits every LLM's map, of the kind that `choose` chooses for it.

  Args:
    logits: float[N, K], log-odds on queries that they were not fitted on; one column for a single P(right).
    labels: float[N, K] in [0, 1].
    observed: bool[N, K]; where False, neither is looked at.
    folds: See `choose`.
    seed: Likewise.

  Returns:
    The pool; an LLM observed nowhere keeps its log-odds.

  Raises:
    ValueError: see `fit`.
  """
  kinds, calibrators = [], []
  for column, label, seen in zip(logits.T, labels.T, observed.T, strict=True):
    kind = choose(column[seen], label[seen], folds=folds, seed=seed)
    kinds.append(KINDS.index(kind))
    calibrators.append(_calibrator(1.0, 0.0) if kind == 'identity' else fit(column[seen], label[seen], kind))
  return Pool(np.array(kinds, np.int8), Calibrator(*map(np.stack, zip(*calibrators, strict=True))))


@jax.jit
def apply_pool(pool: Pool, logits: Float[Array, '*N K']) -> Float[Array, '*N K']:
  """Maps every LLM's log-odds through its own map: float32[..., K] to float32[..., K]."""
  return jax.vmap(apply, in_axes=(0, -1), out_axes=-1)(pool.calibrators, logits)
