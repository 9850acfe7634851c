"""Evaluation: every policy and baseline plays the same queries, by the same vote and the same accounts.

What is fitted or chosen here (expected latencies, subsets, neighbours, sizes) is fitted on train or chosen on train
and validation; test labels are only counted.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from selectllm import metrics, outcomes, score
from selectllm.data import splits, votes
from selectllm.selection import baselines, oracle, policies, voting

REFERENCES = ('best_single', 'all_llms', 'top_s', 'best_s')


class Outcome(NamedTuple):
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


class Method(NamedTuple):
  """One row of the table: a method at one size (None where size means nothing)."""

  name: str
  size: int | None
  outcome: Outcome


# What names a row: a method and its size.
Key = tuple[str, int | None]


class Part(NamedTuple):
  """One train/validation/test split, and what the classifier trained on it says of all N queries.

  Attributes:
    split: int8[N], see `splits.assign`.
    scores: Confidences float32[N, K] and selections at `sizes_of`.
  """

  split: np.ndarray
  scores: score.Scores


class Evaluation(NamedTuple):
  """What `evaluate` returns: the content of report.json but its timing, and that of outcomes.npz."""

  results: dict[str, Any]
  played: outcomes.Outcomes


class Fitted(NamedTuple):
  """What train (and, for choices, validation) says of the pool.

  Attributes:
    latency_s: float32[K], see `expected_latency_s`.
    top: int[K], LLMs from the most accurate on train.
    best_single: The LLM most accurate on train and validation.
    best: bool[K, K], the subset of each size whose vote was most accurate on train and validation; None without votes.
    knn: float32[N, K], nearest-neighbour scores of all queries.
    neighbours: How many neighbours did best on validation.
  """

  latency_s: np.ndarray
  top: np.ndarray
  best_single: int
  best: np.ndarray | None
  knn: np.ndarray
  neighbours: int


def sizes_of(data: votes.Votes) -> np.ndarray:
  """The subset sizes to evaluate: 1..K, or 1 alone where there are scores and no votes."""
  return np.arange(1, (data.labels.shape[1] if data.has_answers else 1) + 1, dtype=np.int32)


def expected_latency_s(data: votes.Votes, split: np.ndarray) -> np.ndarray:
  """Each LLM's mean latency on train, float32[K]; where it is unknown, as slow as any, so that it wins no tie."""
  train = data.rows(split == splits.TRAIN)
  mean = baselines.mean_by_llm(train.latency_s, train.observed & ~np.isnan(train.latency_s))
  slowest = np.max(mean, where=~np.isnan(mean), initial=0)
  return np.where(np.isnan(mean), slowest, mean).astype(np.float32)


@functools.partial(jax.jit, static_argnames='over')
def play(data: votes.Votes, mask: jax.Array, weight: jax.Array, latency_s: jax.Array, *, over: str) -> Outcome:
  """Calls the selected LLMs, lets them vote and keeps the accounts.

  Args:
    data: N queries.
    mask: bool[N, M, K], M selections for each query; LLMs missing for a query are not called.
    weight: float32[N, M, K], what their votes count.
    latency_s: float32[K], expected; breaks ties in the vote.
    over: See `voting.vote`.

  Returns:
    An Outcome of arrays [N, M].
  """

  def one(mask, weight, answers, reference, labels, observed, latency, cost) -> Outcome:
    called = mask & observed
    count = called.sum()
    if answers.shape[-1]:
      correct = (voting.vote(answers, called, weight, latency_s, over=over) == reference).astype(jnp.float32)
    else:
      correct = jnp.sum(labels * called) / jnp.maximum(count, 1)
    return Outcome(
      correct=jnp.where(count > 0, correct, 0.0),
      valid=count > 0,
      calls=count.astype(jnp.float32),
      latency_parallel_s=jnp.max(jnp.where(called, latency, 0.0)),
      latency_sequential_s=jnp.sum(jnp.where(called, latency, 0.0)),
      cost_usd=jnp.sum(jnp.where(called, cost, 0.0)),
    )

  selections = jax.vmap(one, in_axes=(0, 0, None, None, None, None, None, None))
  return jax.vmap(selections)(
    mask, weight, data.answers, data.reference, data.labels, data.observed, data.latency_s, data.cost_usd
  )


def fit(data: votes.Votes, split: np.ndarray, embeddings: np.ndarray, config: ml_collections.ConfigDict) -> Fitted:
  """Fits the baselines on train and validation.

  Args:
    data: All N queries.
    split: int8[N].
    embeddings: float32[N, D], unit vectors of the pretrained encoder.
    config: `config.evaluate`.
  """
  train, validation = split == splits.TRAIN, split == splits.VALIDATION
  latency_s = expected_latency_s(data, split)
  known, fit_on = data.rows(train), data.rows(train | validation)
  best = None
  if data.has_answers:
    best = baselines.best_subsets(fit_on.answers, fit_on.reference, fit_on.observed, latency_s, over=config.vote)

  def knn(neighbours: int) -> np.ndarray:
    bank = embeddings[train]
    return baselines.knn_scores(embeddings, bank, known.labels, known.observed, neighbours=neighbours)

  def validation_accuracy(neighbours: int) -> float:
    scores = np.where(data.observed, knn(neighbours), -np.inf)[validation]
    chosen = scores.argmax(-1)[:, None]
    return float(np.take_along_axis(data.labels[validation], chosen, 1).mean())

  # The first of equals, from many neighbours to few: the smoother one.
  neighbours = max(sorted(config.knn_neighbours, reverse=True), key=validation_accuracy)
  return Fitted(
    latency_s=latency_s,
    top=baselines.by_accuracy(known.labels, known.observed, latency_s),
    best_single=int(baselines.by_accuracy(fit_on.labels, fit_on.observed, latency_s)[0]),
    best=best,
    knn=knn(neighbours),
    neighbours=neighbours,
  )


def methods(
  data: votes.Votes, rows: np.ndarray, scores: score.Scores, fitted: Fitted, llms: tuple[str, ...], config: Any
) -> Iterator[Method]:
  """Plays every method on the queries `rows`, int[N].

  Args:
    data: All queries.
    rows: Those to play on.
    scores: Of all queries, with selections at `sizes_of(data)`.
    fitted: From `fit`.
    llms: K names.
    config: `config.evaluate`.

  Yields:
    Policies and baselines at all sizes, then the LLMs alone, then the oracle.
  """
  asked, sizes, count = data.rows(rows), sizes_of(data), len(llms)

  def played(name: str, mask: np.ndarray, of: Any, weight: np.ndarray | None = None) -> Iterator[Method]:
    mask = np.broadcast_to(mask, (len(rows), len(of), count))
    weight = np.ones(mask.shape, np.float32) if weight is None else weight
    outcome = jax.device_get(play(asked, mask, weight, fitted.latency_s, over=config.vote))
    for column, size in enumerate(of):
      label = f'{name}:{llms[column]}' if name == 'single' else name
      yield Method(label, size, Outcome(*(array[:, column] for array in outcome)))

  for name in policies.POLICIES:
    selection = scores.selections[name]
    yield from played(name, selection.mask[rows], sizes.tolist(), selection.weight[rows])
  place = np.argsort(fitted.top)
  yield from played('top_s', place < sizes[:, None], sizes.tolist())
  if fitted.best is not None:
    yield from played('best_s', fitted.best, sizes.tolist())
    yield from played('all_llms', np.ones((1, count), bool), [count])
  draws = []
  for draw in range(config.random_draws):
    ranks = baselines.random_ranks(draw, asked.observed)
    draws.append(list(played('random', ranks[:, None] < sizes[:, None], sizes.tolist())))
  for same_size in zip(*draws, strict=True):
    mean = (np.mean(fields, 0) for fields in zip(*(method.outcome for method in same_size), strict=True))
    yield Method('random', same_size[0].size, Outcome(*mean)._replace(valid=same_size[0].outcome.valid))
  nearest = np.where(asked.observed, fitted.knn[rows], -np.inf).argmax(-1)
  yield from played('knn_top1', np.eye(count, dtype=bool)[nearest][:, None], [1])
  yield from played('single', np.eye(count, dtype=bool), [1] * count)
  # Of unknown latencies, the last that an oracle which looks for the fastest takes.
  latency_s = np.nan_to_num(asked.latency_s, nan=float(np.finfo(np.float32).max))
  best = np.asarray(oracle.select(*map(jnp.asarray, (asked.labels, asked.observed, latency_s))))
  yield from played('oracle', best[:, None], [None])


def _mean(values: np.ndarray, valid: np.ndarray) -> float | None:
  """The mean over valid queries, None where something in it is unknown."""
  mean = float(np.mean(values[valid], dtype=np.float64)) if valid.any() else np.nan
  return None if np.isnan(mean) else mean


def _quantile(values: np.ndarray, valid: np.ndarray, share: float) -> float | None:
  quantile = float(np.quantile(values[valid], share)) if valid.any() else np.nan
  return None if np.isnan(quantile) else quantile


def _bounds(interval: np.ndarray) -> list[float | None]:
  """The ends of an interval, None where there was nothing to resample."""
  return [None if np.isnan(bound) else float(bound) for bound in interval]


def _versus(
  methods: list[Outcome], references: list[dict[str, Outcome | None]], resamples: int
) -> list[dict[str, dict[str, Any] | None]]:
  """Each method against its own references, on the queries that both count; None where there are none.

  `delta` is the mean gain, `ci` its 95 % bootstrap interval, `p` the paired test's.
  """
  compared: list[dict[str, dict[str, Any] | None]] = [dict.fromkeys(REFERENCES) for _ in methods]
  pairs = [
    (versus, name, method, reference)
    for versus, method, others in zip(compared, methods, references, strict=True)
    for name in REFERENCES
    if (reference := others[name]) is not None and (method.valid & reference.valid).any()
  ]
  if not pairs:
    return compared
  gains = np.stack([method.correct - reference.correct for _, _, method, reference in pairs], 1)
  both = np.stack([method.valid & reference.valid for _, _, method, reference in pairs], 1)
  intervals = metrics.bootstrap_ci(gains, both, resamples=resamples)
  for (versus, name, method, reference), valid, interval in zip(pairs, both.T, intervals, strict=True):
    test = metrics.paired_test(method.correct, reference.correct, valid)
    versus[name] = {'delta': test.delta, 'ci': _bounds(interval), 'p': test.p}
  return compared


def _row(
  method: Method, interval: np.ndarray, versus: dict[str, dict[str, Any] | None], oracle_outcome: Outcome | None
) -> dict[str, Any]:
  """One row of a report's table: means, interval and paired comparisons of a method."""
  outcome = method.outcome
  accuracy = _mean(outcome.correct, outcome.valid)
  best_possible = None if oracle_outcome is None else _mean(oracle_outcome.correct, oracle_outcome.valid)
  return {
    'name': method.name,
    'size': method.size,
    'queries': int(outcome.valid.sum()),
    'accuracy': accuracy,
    'accuracy_ci': _bounds(interval),
    'calls': _mean(outcome.calls, outcome.valid),
    'latency_parallel_s': _mean(outcome.latency_parallel_s, outcome.valid),
    'latency_parallel_p50_s': _quantile(outcome.latency_parallel_s, outcome.valid, 0.5),
    'latency_parallel_p95_s': _quantile(outcome.latency_parallel_s, outcome.valid, 0.95),
    'latency_sequential_s': _mean(outcome.latency_sequential_s, outcome.valid),
    'cost_usd': _mean(outcome.cost_usd, outcome.valid),
    'gap_to_oracle': None
    if accuracy is None or best_possible is None
    else metrics.gap_to_oracle(accuracy, best_possible),
    'versus': versus,
  }


def join(parts: list[Outcome]) -> Outcome:
  """The outcomes of all folds, one after the other."""
  return Outcome(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))


class _PartResult(NamedTuple):
  """One split, evaluated."""

  test: np.ndarray
  fitted: Fitted
  methods: dict[Key, Outcome]
  chosen_sizes: dict[str, int]


def _trade_off(rows: list[dict[str, Any]], best_single: Outcome | None) -> dict[str, dict[str, float]] | None:
  """What each policy's sizes together buy, by sequential latency; None where latencies are unknown.

  `aiq` is the area under the policy's accuracy hull, `save` the largest share of the best single LLM's latency that a
  size at least as accurate leaves out.
  """
  rows = [row for row in rows if row['name'] in policies.POLICIES]
  if best_single is None or any(row['latency_sequential_s'] is None for row in rows):
    return None
  longest = max(row['latency_sequential_s'] for row in rows)
  counted = best_single.valid
  reference = [float(values[counted].mean()) for values in (best_single.latency_sequential_s, best_single.correct)]
  trade_off = {}
  for name in policies.POLICIES:
    of = [(row['latency_sequential_s'], row['accuracy']) for row in rows if row['name'] == name]
    # Areas compare over one range only: with more time than it takes, a policy stays as accurate as it is.
    of.append((longest, max(accuracy for _, accuracy in of)))
    latency, accuracy = np.array(of).T
    trade_off[name] = {'aiq': metrics.aiq(latency, accuracy), 'save': metrics.cost_save(latency, accuracy, *reference)}
  return trade_off


def _evaluate_part(table: votes.Table, part: Part, embeddings: np.ndarray, config: Any) -> _PartResult:
  fitted = fit(table.votes, part.split, embeddings, config)
  on_validation, on_test = (
    {(m.name, m.size): m.outcome for m in methods(table.votes, rows, part.scores, fitted, table.llms, config)}
    for rows in (np.flatnonzero(part.split == which) for which in (splits.VALIDATION, splits.TEST))
  )
  best: dict[str, tuple[tuple[float, float], int]] = {}
  for (name, size), outcome in on_validation.items():
    if size is None or name.startswith('single:') or name in ('all_llms', 'knn_top1'):
      continue
    # As accurate, fewer calls are better.
    merit = (_mean(outcome.correct, outcome.valid) or 0.0, -float(outcome.calls.mean()))
    best[name] = max(best.get(name, (merit, size)), (merit, size), key=lambda entry: entry[0])
  chosen = {name: size for name, (_, size) in best.items()}
  return _PartResult(np.flatnonzero(part.split == splits.TEST), fitted, on_test, chosen)


def _accuracy_bounds(interval: np.ndarray, accuracy: float | None, count: int) -> list[float | None]:
  """The bootstrap's bounds; Wilson's where all answers were right or all wrong, and resampling sees no doubt."""
  return list(metrics.wilson_ci(accuracy, count)) if accuracy in (0, 1) else _bounds(interval)


def _llm_rows(table: votes.Table, parts: list[Part], resamples: int) -> dict[str, dict[str, Any]]:
  """Each LLM's accuracy by split, with 95 % intervals, and what a call of it takes.

  With folds a query counts once in each split that it is in in any fold: counted once for each fold it would be
  resampled as if it were several queries, and the intervals would be too narrow.
  """
  data = table.votes
  members = {
    name: np.any([part.split == which for part in parts], axis=0) for which, name in enumerate(splits.NAMES)
  } | {'all': np.ones(len(data.labels), bool)}
  intervals = {
    name: metrics.bootstrap_ci(data.labels[member], data.observed[member], resamples=resamples)
    for name, member in members.items()
  }
  rows = {}
  for column, llm in enumerate(table.llms):
    observed = data.observed[:, column]
    accuracy = {name: _mean(data.labels[:, column], observed & member) for name, member in members.items()}
    rows[llm] = {
      'accuracy': accuracy,
      'accuracy_ci': {
        name: _accuracy_bounds(intervals[name][column], accuracy[name], int((observed & member).sum()))
        for name, member in members.items()
      },
      'missing': int((~observed).sum()),
      'latency_s': _mean(data.latency_s[:, column], observed),
      'cost_usd': _mean(data.cost_usd[:, column], observed),
    }
  return rows


def evaluate(
  table: votes.Table,
  parts: list[Part],
  embeddings: np.ndarray,
  config: ml_collections.ConfigDict,
  further: dict[str, Outcome] | None = None,
) -> Evaluation:
  """Everything a report says but its timing.

  Args:
    table: The data set.
    parts: One split, or all folds of a cross-validation: their test queries together are what is reported.
    embeddings: float32[N, D], unit vectors of the pretrained encoder, for nearest neighbours.
    config: `config.evaluate`.
    further: Contenders of `selectllm.frontier` at the setting chosen on development, on all test queries.

  Returns:
    The results, see WORKSPACE.md, and the outcomes that they sum up.
  """
  results = [_evaluate_part(table, part, embeddings, config) for part in parts]
  data, test = table.votes, np.concatenate([result.test for result in results])

  def joined(keys: list[Key]) -> Outcome | None:
    """The outcomes of a method, given by its key in each fold; None where it does not exist."""
    found = [result.methods[key] for result, key in zip(results, keys, strict=True) if key in result.methods]
    return join(found) if len(found) == len(results) else None

  def everywhere(name: str, size: int | None) -> Outcome | None:
    return joined([(name, size)] * len(results))

  single = [f'single:{table.llms[result.fitted.best_single]}' for result in results]
  references = {
    'best_single': joined([(name, 1) for name in single]),
    'all_llms': everywhere('all_llms', len(table.llms)),
  }
  # All methods at all sizes; then those with a size again, at the size that was most accurate on validation.
  keys = [[key] * len(results) for key in results[0].methods]
  chosen: list[list[Key]] = [
    [(name, result.chosen_sizes[name]) for result in results] for name in results[0].chosen_sizes
  ]
  played = [Method(*key[0], join([r.methods[k] for r, k in zip(results, key, strict=True)])) for key in keys]
  played += [Method(key[0][0], None, join([r.methods[k] for r, k in zip(results, key, strict=True)])) for key in chosen]
  further = further or {}
  played += [Method(name, None, outcome) for name, outcome in further.items()]
  correct, valid = (np.stack([getattr(m.outcome, name) for m in played], 1) for name in ('correct', 'valid'))
  intervals = metrics.bootstrap_ci(correct, valid, resamples=config.resamples)
  sized = [
    references | {name: joined([(name, size) for _, size in key]) for name in ('top_s', 'best_s')}
    for key in keys + chosen
  ]
  # The number of LLMs that a contender calls differs from query to query.
  sized += [references | dict.fromkeys(('top_s', 'best_s'))] * len(further)
  versus = _versus([method.outcome for method in played], sized, config.resamples)
  oracle_outcome = everywhere('oracle', None)
  rows = [_row(*each, oracle_outcome) for each in zip(played, intervals, versus, strict=True)]
  confidences = np.concatenate(
    [part.scores.confidences[result.test] for part, result in zip(parts, results, strict=True)]
  )
  judged = (data.labels[test], confidences, data.observed[test])
  kept = outcomes.Outcomes(
    query_ids=np.array(table.query_ids)[test],
    names=np.array([method.name for method in played]),
    sizes=np.array(
      [outcomes.NO_SIZE if m.size is None else m.size for m in played[: len(keys)]]
      + [outcomes.CHOSEN] * len(played[len(keys) :]),
      np.int16,
    ),
    correct=correct,
    valid=valid,
  )
  results_json = {
    'dataset': {
      'name': table.name,
      'llms': list(table.llms),
      'tasks': list(table.tasks),
      'responses': 'recorded',
      'latency': table.latency_is,
      'sizes_assumed': list(table.sizes_assumed),
      'in_place_of': table.in_place_of,
      'notes': list(table.notes),
      'folds': len(parts) if len(parts) > 1 else 0,
      'queries': len(table.queries),
      'queries_per_split': {
        name: int(np.mean([np.sum(part.split == which) for part in parts])) if name != 'test' else len(test)
        for which, name in enumerate(splits.NAMES)
      },
      'unused': int(np.mean([np.sum(part.split == splits.UNUSED) for part in parts])),
    },
    'llms': _llm_rows(table, parts, config.resamples),
    'classifier': {
      **metrics.classifier_report(*judged),
      'reliability': {
        name: [None if np.isnan(v) else float(v) for v in column]
        for name, column in metrics.reliability(*judged)._asdict().items()
      },
      'confusion': dict(zip(table.llms, metrics.confusion(*judged, threshold=config.threshold).tolist(), strict=True)),
    },
    'oracle': next(
      {'accuracy': row['accuracy'], 'latency_s': row['latency_sequential_s']} for row in rows if row['name'] == 'oracle'
    ),
    'best_single': sorted(set(single)),
    'trade_off': _trade_off(rows[: len(keys)], references['best_single']),
    'knn_neighbours': [result.fitted.neighbours for result in results],
    'methods': rows[: len(keys)],
    'chosen': [
      {**row, 'sizes': [size for _, size in key]}
      for row, key in zip(rows[len(keys) :], [*chosen, *([()] * len(further))], strict=True)
    ],
    'selected': {
      name: np.concatenate([p.scores.selections[name].mask[r.test] for p, r in zip(parts, results, strict=True)])
      .mean(0)
      .tolist()
      for name in policies.POLICIES
    },
  }
  return Evaluation(results_json, kept)
