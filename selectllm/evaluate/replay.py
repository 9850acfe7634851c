"""Replays every method on recorded responses: how it fared, and what it called, query by query."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from selectllm.data import dataset
from selectllm.evaluate import options as options_lib
from selectllm.evaluate import results
from selectllm.infra import batching
from selectllm.infra.typing import Array
from selectllm.selection import baselines, policies, types, voting

# What names a method: a name and a size, None where size means nothing.
MethodKey = tuple[str, int | None]


class QueryMetrics(NamedTuple):
  """Holds how a method fares on N queries; a call asks one LLM for its S samples.

  Attributes:
    correct: float32[N], 1 where its answer is right (an expectation for random methods, a score for scores-only data).
    valid: bool[N], false where none of the LLMs to call was observed; such queries are not counted.
    calls: float32[N], LLMs called.
    wall_clock_s: float32[N], seconds that the query takes: calls of one stage in parallel, stages one after the other;
      NaN where unknown.
    compute_s: float32[N], summed compute, the seconds of all calls; likewise.
    cost_usd: float32[N], all calls' dollars, NaN where unknown.
  """

  correct: Array
  valid: Array
  calls: Array
  wall_clock_s: Array
  compute_s: Array
  cost_usd: Array


def concatenate(parts: list[QueryMetrics], axis: int = 0) -> QueryMetrics:
  """Returns the metrics of all parts, one after the other."""
  return parts[0] if len(parts) == 1 else QueryMetrics(*(np.concatenate(of, axis) for of in zip(*parts, strict=True)))


def mean(parts: list[QueryMetrics]) -> QueryMetrics:
  """Returns the means of several metrics on the same queries, of those that count in all of them."""
  means = QueryMetrics(*(np.mean(of, axis=0, dtype=np.float64) for of in zip(*parts, strict=True)))
  return means._replace(valid=means.valid == 1)


def at(measured: QueryMetrics, point: int) -> QueryMetrics:
  """Returns the metrics [N] of one of the operating points of metrics [N, M]."""
  return QueryMetrics(*(array[:, point] for array in measured))


class Replayed(NamedTuple):
  """Holds how M selections for each of N queries fare: metrics [N, M], elected answers int32[N, M] or -1."""

  metrics: QueryMetrics
  answer: Array


@functools.partial(jax.jit, static_argnames='over')
def replay(
  responses: dataset.Responses, mask: jax.Array, weight: jax.Array, priority: jax.Array, *, over: str
) -> Replayed:
  """Calls the selected LLMs, lets them vote and keeps the accounts.

  Args:
    responses: N queries.
    mask: bool[N, M, K], M selections for each query; LLMs missing for a query are not called.
    weight: float32[N, M, K], [M, K] or [K], what their votes count.
    priority: float32[K] or [N, K], whose answer wins a tie; see `voting.vote`.
    over: See `voting.vote`.
  """
  weight = jnp.broadcast_to(weight, mask.shape)
  priority = jnp.broadcast_to(priority, responses.labels.shape)

  def one(mask: jax.Array, weight: jax.Array, *of_query: Array) -> Replayed:
    priority, answers, accepted, labels, observed, latency, cost = of_query
    called = mask & observed
    count = called.sum()
    answer = jnp.int32(voting.NO_ANSWER)
    if answers.shape[-1]:
      answer = voting.vote(answers, called, weight, priority, over=over)
      correct = dataset.is_right(answer, accepted).astype(jnp.float32)
    else:
      correct = jnp.sum(labels * called) / jnp.maximum(count, 1)
    compute_s = jnp.sum(jnp.where(called, latency, 0.0))
    metrics = QueryMetrics(
      correct=jnp.where(count > 0, correct, 0.0),
      valid=count > 0,
      calls=count.astype(jnp.float32),
      # A maximum may pass over NaN, a sum never does.
      wall_clock_s=jnp.where(jnp.isnan(compute_s), jnp.nan, jnp.max(jnp.where(called, latency, 0.0))),
      compute_s=compute_s,
      cost_usd=jnp.sum(jnp.where(called, cost, 0.0)),
    )
    return Replayed(metrics, answer)

  selections = jax.vmap(one, in_axes=(0, 0, *[None] * 7))
  return jax.vmap(selections)(
    mask,
    weight,
    priority,
    responses.answers,
    responses.accepted,
    responses.labels,
    responses.observed,
    responses.latency_s,
    responses.cost_usd,
  )


def replay_decisions(responses: dataset.Responses, decided: types.Decisions) -> QueryMetrics:
  """Keeps the accounts of what a strategy decided for N queries at M operating points, arrays [N, M]."""
  called = decided.mask & responses.observed[:, None]
  valid = called.any(-1)
  stages = int(decided.stage.max(initial=0)) + 1

  def total(values: np.ndarray) -> np.ndarray:
    return np.sum(np.where(called, values[:, None], 0), -1)

  slowest = sum(
    np.max(np.where(called & (decided.stage == stage), responses.latency_s[:, None], 0), -1) for stage in range(stages)
  )
  return QueryMetrics(
    correct=(dataset.is_right(decided.answer, responses.accepted[:, None]) & valid).astype(np.float32),
    valid=valid,
    calls=called.sum(-1).astype(np.float32),
    wall_clock_s=np.asarray(slowest, np.float32),
    compute_s=total(responses.latency_s).astype(np.float32),
    cost_usd=total(responses.cost_usd).astype(np.float32),
  )


class PolicyDecisions(NamedTuple):
  """Holds what a policy does with T queries at one size.

  Attributes:
    first: bool[T, K], the LLM that is called where only one is.
    called: bool[T, K].
    weight: float32[T, K], what each LLM's vote counts.
    elected: int32[T], id of the elected answer; `voting.NO_ANSWER` for none, and for scores.
  """

  first: np.ndarray
  called: np.ndarray
  weight: np.ndarray
  elected: np.ndarray


class MethodResults(NamedTuple):
  """Holds how M methods, each at a size, fare on T queries.

  Attributes:
    keys: Their names and sizes.
    metrics: Arrays [M, T].
    selected: Policy name -> int64[M, K], for how many queries it selects each LLM, at M sizes.
    headline: Of `policies.HEADLINE`, at the size that was asked for.
  """

  keys: list[MethodKey]
  metrics: QueryMetrics
  selected: dict[str, np.ndarray]
  headline: PolicyDecisions

  def of(self, key: MethodKey) -> QueryMetrics:
    """Returns the metrics of one method, arrays [T]."""
    return QueryMetrics(*(array[self.keys.index(key)] for array in self.metrics))


class _Replayed(NamedTuple):
  """Holds a method on one block of queries: its metrics are [N, M]; policies have a selection and answers too."""

  name: str
  sizes: Sequence[int | None] | np.ndarray
  metrics: QueryMetrics
  selection: policies.Selection | None = None
  answer: np.ndarray | None = None


def _random(asked: dataset.Responses, right: np.ndarray, sizes: np.ndarray) -> QueryMetrics:
  """Returns what random subsets of each size do on average; how often they are `right` is known, float32[N, M]."""
  count = asked.observed.sum(1)[:, None]
  calls = np.minimum(sizes, count).astype(np.float32)

  def total(values: np.ndarray) -> np.ndarray:
    return np.sum(values, 1, where=asked.observed)[:, None] * calls / np.maximum(count, 1)

  return QueryMetrics(
    correct=right.astype(np.float32),
    valid=np.broadcast_to(count > 0, right.shape),
    calls=calls,
    wall_clock_s=baselines.expected_slowest(asked.latency_s, asked.observed, sizes),
    compute_s=total(asked.latency_s),
    cost_usd=total(asked.cost_usd),
  )


def _replay_block(
  asked: dataset.Responses,
  confidences: np.ndarray,
  knn: np.ndarray,
  fitted: baselines.FittedBaselines,
  draws: list[np.random.Generator],
  llms: tuple[str, ...],
  options: results.EvaluateConfig,
) -> Iterator[_Replayed]:
  """Replays every method on one block of queries."""
  sizes, count = baselines.sizes_of(asked), len(llms)

  def replayed(mask: np.ndarray, weight: np.ndarray = np.ones(len(llms), np.float32)) -> QueryMetrics:  # noqa: B008
    mask = np.broadcast_to(mask, (len(asked.labels), *mask.shape[-2:]))
    return jax.device_get(replay(asked, mask, weight, fitted.vote.priority, over=options.vote).metrics)

  selections = policies.select_all(
    confidences, asked.observed, policies.PolicyOptions(fitted.latency_s, sizes, options.threshold)
  )
  priority = voting.tie_orders(confidences, fitted.latency_s, ties=options.ties)
  for name in policies.POLICIES:
    selection = selections[name]
    metrics, answer = jax.device_get(replay(asked, *selection, priority, over=options.vote))
    yield _Replayed(name, sizes, metrics, selection, answer)
  top = np.argsort(fitted.top) < sizes[:, None]
  yield _Replayed('top_s', sizes, replayed(top))
  if fitted.best is not None:
    yield _Replayed('static_weighted', sizes, replayed(top, fitted.vote.weight))
    yield _Replayed('best_s', sizes, replayed(fitted.best))
    yield _Replayed('all_llms', [count], replayed(np.ones((1, count), bool)))
  if not asked.has_answers:
    right = np.sum(asked.labels, 1, where=asked.observed)[:, None] / np.maximum(asked.observed.sum(1), 1)[:, None]
  elif count <= options_lib.MOST_ENUMERATED:
    right = baselines.random_accuracy(asked, fitted.vote.priority, over=options.vote)
  else:
    ranks = [baselines.random_ranks(draw, asked.observed)[:, None] for draw in draws]
    right = np.mean([replayed(rank < sizes[:, None]).correct for rank in ranks], 0)
  yield _Replayed('random', sizes, _random(asked, right, sizes))
  nearest = np.where(asked.observed, knn, -np.inf).argmax(-1)
  yield _Replayed('knn_top1', [1], replayed(np.eye(count, dtype=bool)[nearest][:, None]))
  alone = replayed(np.eye(count, dtype=bool))
  for column, llm in enumerate(llms):
    yield _Replayed(f'single:{llm}', [1], QueryMetrics(*(array[:, column : column + 1] for array in alone)))
  # Of unknown latencies, the last that an oracle which looks for the fastest takes.
  latency_s = np.nan_to_num(asked.latency_s, nan=float(np.finfo(np.float32).max))
  best = np.asarray(policies.oracle(*map(jnp.asarray, (asked.labels, asked.observed, latency_s))))
  yield _Replayed('oracle', [None], replayed(best[:, None]))


def _decisions(headline: _Replayed, observed: np.ndarray, size: int) -> PolicyDecisions:
  """Returns what the headline policy does with one block of queries at a size."""
  assert headline.selection is not None
  assert headline.answer is not None
  place = list(headline.sizes).index(size)
  mask = np.asarray(headline.selection.mask) & observed[:, None]
  return PolicyDecisions(
    mask[:, 0], mask[:, place], np.asarray(headline.selection.weight)[:, place], headline.answer[:, place]
  )


def replay_methods(
  responses: dataset.Responses,
  rows: np.ndarray,
  confidences: np.ndarray,
  fitted: baselines.FittedBaselines,
  llms: tuple[str, ...],
  options: results.EvaluateConfig,
  *,
  headline_size: int = 1,
) -> MethodResults:
  """Replays every method on the queries `rows`, int[T], block by block.

  Args:
    responses: All N queries.
    rows: Those to replay.
    confidences: float32[N, K].
    fitted: From `baselines.fit_baselines`.
    llms: K names.
    options: The fields of `config.evaluate`.
    headline_size: The size at which the decisions of the headline policy are kept.

  Returns:
    Policies and baselines at all sizes, then the LLMs alone, then the oracle.
  """
  ballots = len(llms) * (responses.answers.shape[2] if options.vote == 'samples' else 1)
  cuts, size = batching.blocks(len(rows), batching.block_size(ballots))
  draws = [np.random.default_rng(draw) for draw in range(options_lib.RANDOM_DRAWS)]
  keys: list[MethodKey] = []
  metrics: list[QueryMetrics] = []
  headline: list[PolicyDecisions] = []
  selected = {name: np.zeros((len(baselines.sizes_of(responses)), len(llms)), np.int64) for name in policies.POLICIES}
  for cut in cuts:
    at, queries = batching.pad(rows[cut], size), cut.stop - cut.start
    asked = responses.rows(at)
    if responses.has_answers:
      asked = asked._replace(answers=asked.ballots(options.vote))
    replayed = list(_replay_block(asked, confidences[at], fitted.knn[at], fitted, draws, llms, options))
    keys = [(of.name, size if size is None else int(size)) for of in replayed for size in of.sizes]
    fields = zip(*(of.metrics for of in replayed), strict=True)
    metrics.append(QueryMetrics(*(np.concatenate([array[:queries].T for array in arrays]) for arrays in fields)))
    for of in replayed:
      if of.selection is not None:
        selected[of.name] += np.asarray(of.selection.mask)[:queries].sum(0)
      if of.name == policies.HEADLINE:
        headline.append(PolicyDecisions(*(array[:queries] for array in _decisions(of, asked.observed, headline_size))))
  return MethodResults(keys, concatenate(metrics, axis=1), selected, _join_decisions(headline))


def _join_decisions(parts: list[PolicyDecisions]) -> PolicyDecisions:
  return PolicyDecisions(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
