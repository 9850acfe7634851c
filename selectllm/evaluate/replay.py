"""Replays every method on recorded responses: how it fared, and what it called, query by query."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from selectllm.data import dataset
from selectllm.infra import batching
from selectllm.selection import baselines, policies, voting

# What names a method: a name and a size, None where size means nothing.
MethodKey = tuple[str, int | None]


class QueryMetrics(NamedTuple):
  """How a method fared on N queries; a call asks one LLM for its S samples.

  Attributes:
    correct: float32[N], 1 where its answer is right (an expectation for random methods, a score for scores-only data).
    valid: bool[N], false where none of the LLMs to call was observed; such queries are not counted.
    calls: float32[N], LLMs called.
    latency_parallel_s: float32[N], the slowest call's seconds, NaN where unknown.
    latency_sequential_s: float32[N], all calls' seconds.
    cost_usd: float32[N], all calls' dollars, NaN where unknown.
  """

  correct: policies.Array
  valid: policies.Array
  calls: policies.Array
  latency_parallel_s: policies.Array
  latency_sequential_s: policies.Array
  cost_usd: policies.Array


def concatenate(parts: list[QueryMetrics], axis: int = 0) -> QueryMetrics:
  """The outcomes of all parts, one after the other."""
  return parts[0] if len(parts) == 1 else QueryMetrics(*(np.concatenate(of, axis) for of in zip(*parts, strict=True)))


@functools.partial(jax.jit, static_argnames='over')
def replay(
  responses: dataset.Responses, mask: jax.Array, weight: jax.Array | None, latency_s: jax.Array, *, over: str
) -> QueryMetrics:
  """Calls the selected LLMs, lets them vote and keeps the accounts.

  Args:
    responses: N queries.
    mask: bool[N, M, K], M selections for each query; LLMs missing for a query are not called.
    weight: float32[N, M, K], what their votes count; None where each counts 1.
    latency_s: float32[K], expected; breaks ties in the vote.
    over: See `voting.vote`.

  Returns:
    An Outcome of arrays [N, M].
  """
  weight = jnp.ones(mask.shape, jnp.float32) if weight is None else weight

  def one(mask, weight, answers, reference, labels, observed, latency, cost) -> QueryMetrics:
    called = mask & observed
    count = called.sum()
    if answers.shape[-1]:
      correct = (voting.vote(answers, called, weight, latency_s, over=over) == reference).astype(jnp.float32)
    else:
      correct = jnp.sum(labels * called) / jnp.maximum(count, 1)
    return QueryMetrics(
      correct=jnp.where(count > 0, correct, 0.0),
      valid=count > 0,
      calls=count.astype(jnp.float32),
      latency_parallel_s=jnp.max(jnp.where(called, latency, 0.0)),
      latency_sequential_s=jnp.sum(jnp.where(called, latency, 0.0)),
      cost_usd=jnp.sum(jnp.where(called, cost, 0.0)),
    )

  selections = jax.vmap(one, in_axes=(0, 0, None, None, None, None, None, None))
  return jax.vmap(selections)(
    mask,
    weight,
    responses.answers,
    responses.reference,
    responses.labels,
    responses.observed,
    responses.latency_s,
    responses.cost_usd,
  )


class MethodResults(NamedTuple):
  """How M methods, each at a size, fared on T queries.

  Attributes:
    keys: Their names and sizes.
    outcome: Arrays [M, T].
    selected: Policy name -> int64[M, K], for how many queries it selects each LLM, at M sizes.
  """

  keys: list[MethodKey]
  outcome: QueryMetrics
  selected: dict[str, np.ndarray]

  def of(self, key: MethodKey) -> QueryMetrics:
    """The outcome of one method, arrays [T]."""
    return QueryMetrics(*(array[self.keys.index(key)] for array in self.outcome))


def _replay_block(
  asked: dataset.Responses,
  confidences: np.ndarray,
  knn: np.ndarray,
  known: baselines.FittedBaselines,
  draws: list[np.random.Generator],
  llms: tuple[str, ...],
  config: ml_collections.ConfigDict,
) -> Iterator[tuple[str, Any, QueryMetrics, np.ndarray | None]]:
  """Plays every method on one block of queries: its name, its sizes, its outcomes [N, M] and a policy's mask."""
  sizes, count = baselines.sizes_of(asked), len(llms)

  def played(mask: Any, weight: Any = None) -> QueryMetrics:
    mask = mask if weight is not None else np.broadcast_to(mask, (len(asked.labels), *mask.shape[-2:]))
    return jax.device_get(replay(asked, mask, weight, known.latency_s, over=config.vote))

  selecting = policies.PolicyOptions(known.latency_s, sizes, config.threshold)
  selections = policies.select_all(confidences, asked.observed, selecting)
  for name in policies.POLICIES:
    mask, weight = selections[name]
    yield name, sizes, played(mask, weight), np.asarray(mask)
  yield 'top_s', sizes, played(np.argsort(known.top) < sizes[:, None]), None
  if known.best is not None:
    yield 'best_s', sizes, played(known.best), None
    yield 'all_llms', [count], played(np.ones((1, count), bool)), None
  drawn = [played(baselines.random_ranks(draw, asked.observed)[:, None] < sizes[:, None]) for draw in draws]
  mean = (np.mean(fields, 0) for fields in zip(*drawn, strict=True))
  yield 'random', sizes, QueryMetrics(*mean)._replace(valid=drawn[0].valid), None
  nearest = np.where(asked.observed, knn, -np.inf).argmax(-1)
  yield 'knn_top1', [1], played(np.eye(count, dtype=bool)[nearest][:, None]), None
  alone = played(np.eye(count, dtype=bool))
  for column, llm in enumerate(llms):
    yield f'single:{llm}', [1], QueryMetrics(*(array[:, column : column + 1] for array in alone)), None
  # Of unknown latencies, the last that an oracle which looks for the fastest takes.
  latency_s = np.nan_to_num(asked.latency_s, nan=float(np.finfo(np.float32).max))
  best = np.asarray(policies.oracle(*map(jnp.asarray, (asked.labels, asked.observed, latency_s))))
  yield 'oracle', [None], played(best[:, None]), None


def replay_methods(
  responses: dataset.Responses,
  rows: np.ndarray,
  confidences: np.ndarray,
  known: baselines.FittedBaselines,
  llms: tuple[str, ...],
  config: ml_collections.ConfigDict,
) -> MethodResults:
  """Plays every method on the queries `rows`, int[T], block by block.

  Args:
    responses: All N queries.
    rows: Those to play on.
    confidences: float32[N, K].
    known: From `baselines.fit_baselines`.
    llms: K names.
    config: `config.evaluate`.

  Returns:
    Policies and baselines at all sizes, then the LLMs alone, then the oracle.
  """
  ballots = len(llms) * (responses.answers.shape[2] if config.vote == 'samples' else 1)
  cuts, size = batching.blocks(len(rows), batching.block_size(ballots))
  draws = [np.random.default_rng(draw) for draw in range(config.random_draws)]
  keys: list[MethodKey] = []
  parts: list[QueryMetrics] = []
  selected = {name: np.zeros((len(baselines.sizes_of(responses)), len(llms)), np.int64) for name in policies.POLICIES}
  for cut in cuts:
    at, queries = batching.pad(rows[cut], size), cut.stop - cut.start
    asked = responses.rows(at)
    if responses.has_answers:
      asked = asked._replace(answers=asked.ballots(config.vote))
    played = list(_replay_block(asked, confidences[at], known.knn[at], known, draws, llms, config))
    keys = [(name, size if size is None else int(size)) for name, sizes, _, _ in played for size in sizes]
    fields = zip(*(outcome for _, _, outcome, _ in played), strict=True)
    parts.append(QueryMetrics(*(np.concatenate([array[:queries].T for array in arrays]) for arrays in fields)))
    for name, _, _, mask in played:
      if mask is not None:
        selected[name] += mask[:queries].sum(0)
  return MethodResults(keys, concatenate(parts, axis=1), selected)
