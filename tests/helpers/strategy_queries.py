"""Queries that strategies are tried on."""

import numpy as np

from selectllm.selection import types

ACCURACY = np.array([[0.35, 0.4, 0.95, 0.5], [0.35, 0.9, 0.3, 0.8]])  # [topics, K]
COST = np.float32([1, 4, 6, 9])


def make(
  right: np.ndarray, cost: np.ndarray, seed: int, *, topic=None, logits=None, wrong=None
) -> types.StrategyQueries:
  """Queries of which each LLM answers the `right` ones rightly, others as in `wrong`, or with an answer of its own."""
  rng = np.random.default_rng(seed)
  queries, llms = right.shape
  reference = rng.integers(0, 5, queries)
  wrong = 10 + np.arange(llms) if wrong is None else wrong
  answers = np.where(right, reference[:, None], wrong)[..., None].astype(np.int16)
  embeddings = rng.standard_normal((queries, 8)) / 4
  if topic is not None:
    embeddings[np.arange(queries), topic] += 1
  embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
  logits = np.zeros(right.shape) if logits is None else logits
  paid = np.tile(cost.astype(np.float32), (queries, 1))
  return types.StrategyQueries(
    logits.astype(np.float32), embeddings.astype(np.float32), answers, answers[..., 0], np.ones(right.shape, bool),
    reference[:, None].astype(np.int16), right.astype(np.float32), paid, cost.astype(np.float32),
    rng.standard_normal((*right.shape, 2)).astype(np.float32),
  )  # fmt: skip


def hide(queries: types.StrategyQueries) -> types.StrategyQueries:
  nothing = np.full(queries.labels.shape, np.nan, np.float32)
  return queries._replace(accepted=np.full_like(queries.accepted, -2), labels=nothing, cost=nothing)


def topics(seed: int, queries: int, missing: float = 0.0) -> types.StrategyQueries:
  """Two topics, each with an LLM that is best at it; LLM 0 is cheap and poor at both."""
  rng = np.random.default_rng(seed)
  topic = rng.integers(0, 2, queries)
  chance = ACCURACY[topic]
  right = rng.random(chance.shape) < chance
  wrong = rng.choice([-1, 10, 11, 12], right.shape)
  made = make(right, COST, seed, topic=topic, logits=np.log(chance / (1 - chance)), wrong=wrong)
  observed = rng.random(right.shape) >= missing
  return made._replace(
    observed=observed,
    answers=np.where(observed[..., None], made.answers, -1).astype(np.int16),
    majority=np.where(observed, made.majority, -1).astype(np.int16),
    labels=np.where(observed, made.labels, np.nan).astype(np.float32),
    cost=np.where(observed, made.cost, np.nan).astype(np.float32),
  )
