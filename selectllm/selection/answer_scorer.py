"""How likely an answer is right once it is there, from query, answer, response, and the answers before it.

A logistic regression: an LLM's log-odds on the query, a bias of the LLM, the query's embedding, what the response looks
like (`data.answer_features`), and what earlier answers add by agreeing or not, as if independent (naive Bayes). It is
shrunk towards the plain sum of log-odds and naive Bayes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from selectllm.infra import batching, optimize
from selectllm.infra.typing import Array
from selectllm.selection import types, voting

# Parts of the queries; each is scored by what was fitted on the others.
_PARTS = 3
# Of the numbers of an embedding, which are many and small, more is shrunk.
_SHRINK, _SHRINK_EMBEDDING = 5.0, 50.0
# Queries that a fit looks at; more change little.
_MOST_QUERIES = 5_000
# Fits of about as many queries have one shape.
_BLOCK = 1024


class Weights(NamedTuple):
  """The parameters of the regression, for K LLMs, F features and embeddings of D numbers.

  Attributes:
    bias: float32[K].
    slope: float32[], of an LLM's log-odds on the query.
    features: float32[F].
    embedding: float32[D].
    agreement: float32[2], of what agreement adds, after one and after two earlier answers.
  """

  bias: Array
  slope: Array
  features: Array
  embedding: Array
  agreement: Array


class Scorer(NamedTuple):
  """A fitted regression.

  Attributes:
    weights: Of the regression.
    centre: float32[K, F], the features' means.
    scale: float32[K, F], 1 / their standard deviations; 0 for those that do not vary.
    agreement: float32[K, K, 2], what another's answer adds to the log-odds of an LLM's own: differing, agreeing.
  """

  weights: Weights
  centre: np.ndarray
  scale: np.ndarray
  agreement: np.ndarray


class Scores(NamedTuple):
  """What is needed to score the answers to N queries, in whatever order they come.

  Attributes:
    alone: float32[N, K], the log-odds that each LLM's answer is right, no other one being known.
    scorer: int[N], which of the scorers scores a query.
    agreement: float32[S, 2, K, K, 2], what an earlier answer adds, by scorer and number of earlier answers, see
      `Scorer.agreement`.
  """

  alone: np.ndarray
  scorer: np.ndarray
  agreement: np.ndarray


def _given(queries: types.StrategyQueries) -> np.ndarray:
  return queries.observed & (queries.majority != voting.NO_ANSWER)


def _agreement(queries: types.StrategyQueries) -> np.ndarray:
  """Returns `Scorer.agreement`."""
  answers, given = queries.majority, _given(queries)
  right = (queries.right() > 0.5) & given
  same = answers[:, :, None] == answers[:, None, :]
  both = given[:, :, None] & given[:, None, :]

  def likelihood(of: np.ndarray) -> np.ndarray:
    counted = both & of[:, :, None]
    agree = (counted & same).sum(0)
    return (np.stack([counted.sum(0) - agree, agree], -1) + 1) / (counted.sum(0) + 2)[..., None]

  return np.log(likelihood(right) / likelihood(given & ~right)).astype(np.float32)


def _draw_earlier(queries: types.StrategyQueries, agreement: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Returns what no, one and two earlier answers add to each LLM's log-odds, float32[N, K, 3]: of others at random."""
  (count, llms), given = queries.logits.shape, _given(queries)
  steps = rng.integers(1, llms, (count, llms))
  other_steps = 1 + (steps - 1 + rng.integers(1, max(llms - 1, 2), steps.shape)) % (llms - 1)
  own, rows = np.arange(llms)[:, None], np.arange(count)[:, None, None]
  earlier = (own + np.stack([steps, other_steps], -1)) % llms
  agree = queries.majority[..., None] == queries.majority[rows, earlier]
  added = np.where(given[..., None] & given[rows, earlier], agreement[own, earlier, agree.astype(int)], 0)
  added[..., 1] *= llms > 2  # of two LLMs, there is no second earlier answer
  return np.concatenate([np.zeros((count, llms, 1)), np.cumsum(added, -1)], -1).astype(np.float32)


def _standard(features: np.ndarray, centre: np.ndarray, scale: np.ndarray) -> np.ndarray:
  """Returns features in standard deviations; 0 for what is not known."""
  return np.nan_to_num((features - centre) * scale).astype(np.float32)


def _features(queries: types.StrategyQueries) -> np.ndarray:
  return np.zeros((*queries.logits.shape, 0), np.float32) if queries.features is None else queries.features


def _loss(
  weights: Weights, logits: Array, features: Array, embeddings: Array, agreement: Array, right: Array, counted: Array
) -> jax.Array:
  """Returns the cross-entropy of N queries' answers after no, one and two earlier ones, shrunk as the module says."""
  alone = (
    weights.bias + weights.slope * logits + features @ weights.features + (embeddings @ weights.embedding)[:, None]
  )
  scores = alone[..., None] + agreement * jnp.append(0.0, weights.agreement)  # [N, K, 3]
  losses = jax.nn.softplus(scores) - right[..., None] * scores
  away = (weights.bias, weights.slope - 1, weights.features, weights.agreement - 1)
  shrink = _SHRINK * sum(jnp.sum(leaf**2) for leaf in away) + _SHRINK_EMBEDDING * jnp.sum(weights.embedding**2)
  return jnp.sum(losses * counted[..., None]) / logits.shape[1] + shrink / 2


def fit(train: types.StrategyQueries, *, seed: int) -> Scorer:
  """Fits the scorer on queries whose labels are known; earlier answers are those of LLMs drawn at random."""
  rng = np.random.default_rng(seed)
  rows = rng.permutation(len(train.logits))[:_MOST_QUERIES]
  counted = np.arange(-(-len(rows) // _BLOCK) * _BLOCK) < len(rows)
  queries = train.rows(batching.pad_to_multiple(rows, _BLOCK))
  known, features = train.rows(rows), _features(queries)
  given = np.where(_given(known)[..., None], _features(known), np.nan)
  seen = np.maximum(np.sum(~np.isnan(given), 0), 1)
  centre = np.nansum(given, 0) / seen
  spread = np.sqrt(np.nansum((given - centre) ** 2, 0) / seen)
  scale = np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0)
  agreement = _agreement(known)
  zeros = (np.zeros(size, np.float32) for size in (features.shape[1], features.shape[2], queries.embeddings.shape[1]))
  bias, of_features, of_embedding = zeros
  weights = optimize.minimise(
    _loss,
    Weights(bias, np.float32(1), of_features, of_embedding, np.ones(2, np.float32)),
    queries.logits,
    _standard(features, centre, scale),
    queries.embeddings.astype(np.float32),
    _draw_earlier(queries, agreement, rng),
    queries.right(),
    (counted[:, None] & _given(queries)).astype(np.float32),
  )
  return Scorer(weights, centre, scale, agreement)


def score(scorers: list[Scorer], queries: types.StrategyQueries, scorer: np.ndarray) -> Scores:
  """Scores the answers to N queries, each by one of some scorers, int[N]."""
  alone = np.zeros(queries.logits.shape, np.float32)
  for number, (weights, centre, scale, _) in enumerate(scorers):
    of = scorer == number
    some = queries.rows(of)
    features = _standard(_features(some), centre, scale) @ weights.features
    alone[of] = weights.bias + weights.slope * some.logits + features + (some.embeddings @ weights.embedding)[:, None]
  agreement = np.stack([each.weights.agreement[:, None, None, None] * each.agreement for each in scorers])
  return Scores(alone, scorer, agreement)


def cross_fit(train: types.StrategyQueries, *, seed: int) -> Scores:
  """Scores the answers to the queries that the scorer is fitted on, each by what was fitted on others."""
  apart = np.arange(len(train.logits)) if train.fold is None else np.unique(train.fold, return_inverse=True)[1]
  part = np.random.default_rng(seed).permutation(apart.max() + 1)[apart] % _PARTS
  return score([fit(train.rows(part != number), seed=seed) for number in range(_PARTS)], train, part)
