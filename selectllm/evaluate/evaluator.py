"""Evaluation: what a report says of how every policy and baseline played.

What is fitted or chosen here (expected latencies, subsets, neighbours, sizes) is fitted on train or chosen on train
and validation; test labels are only counted.
"""

from typing import Any, NamedTuple

import ml_collections
import numpy as np

from selectllm.data import dataset, splits
from selectllm.evaluate import metrics, outcomes, replay, statistics
from selectllm.selection import baselines, policies

REFERENCES = ('best_single', 'all_llms', 'top_s', 'best_s')
# Gains of methods over their references, query by query, that are held at once.
_GAINS = 1 << 25


class FoldPredictions(NamedTuple):
  """One train/validation/test split, and what the classifier trained on it says of all N queries.

  Attributes:
    split: int8[N], see `splits.assign`.
    confidences: float32[N, K]; those of train queries are not looked at.
  """

  split: np.ndarray
  confidences: np.ndarray


class Evaluation(NamedTuple):
  """What `evaluate` returns: the content of report.json but its timing, and that of outcomes.npz."""

  results: dict[str, Any]
  played: outcomes.Outcomes


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
  methods: list[replay.QueryMetrics], references: list[dict[str, replay.QueryMetrics | None]], resamples: int
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
  width = max(1, _GAINS // len(pairs[0][2].valid))
  for start in range(0, len(pairs), width):
    some = pairs[start : start + width]
    gains = np.stack([method.correct - reference.correct for _, _, method, reference in some], 1)
    both = np.stack([method.valid & reference.valid for _, _, method, reference in some], 1)
    intervals = statistics.bootstrap_ci(gains, both, resamples=resamples)
    for (versus, name, method, reference), valid, interval in zip(some, both.T, intervals, strict=True):
      test = statistics.paired_test(method.correct, reference.correct, valid)
      versus[name] = {'delta': test.delta, 'ci': _bounds(interval), 'p': test.p}
  return compared


def _row(
  key: replay.MethodKey,
  outcome: replay.QueryMetrics,
  interval: np.ndarray,
  versus: dict[str, dict[str, Any] | None],
  oracle_outcome: replay.QueryMetrics,
) -> dict[str, Any]:
  """One row of a report's table: means, interval and paired comparisons of a method."""
  name, size = key
  accuracy = _mean(outcome.correct, outcome.valid)
  best_possible = _mean(oracle_outcome.correct, oracle_outcome.valid)
  return {
    'name': name,
    'size': size,
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


class _FoldEvaluation(NamedTuple):
  """One split, evaluated."""

  test: np.ndarray
  known: baselines.FittedBaselines
  played: replay.MethodResults
  chosen_sizes: dict[str, int]


def _policy_tradeoff(
  rows: list[dict[str, Any]], best_single: replay.QueryMetrics | None
) -> dict[str, dict[str, float]] | None:
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
  policy_tradeoff = {}
  for name in policies.POLICIES:
    of = [(row['latency_sequential_s'], row['accuracy']) for row in rows if row['name'] == name]
    # Areas compare over one range only: with more time than it takes, a policy stays as accurate as it is.
    of.append((longest, max(accuracy for _, accuracy in of)))
    latency, accuracy = np.array(of).T
    policy_tradeoff[name] = {
      'aiq': metrics.aiq(latency, accuracy),
      'save': metrics.cost_save(latency, accuracy, *reference),
    }
  return policy_tradeoff


def _chosen_sizes(played: replay.MethodResults) -> dict[str, int]:
  """The size at which each method with sizes was most accurate."""
  best: dict[str, tuple[tuple[float, float], int]] = {}
  for (name, size), *of in zip(played.keys, *played.outcome, strict=True):
    if size is None or name.startswith('single:') or name in ('all_llms', 'knn_top1'):
      continue
    outcome = replay.QueryMetrics(*of)
    # As accurate, fewer calls are better.
    merit = (_mean(outcome.correct, outcome.valid) or 0.0, -float(outcome.calls.mean()))
    best[name] = max(best.get(name, (merit, size)), (merit, size), key=lambda entry: entry[0])
  return {name: size for name, (_, size) in best.items()}


def _evaluate_fold(
  data: dataset.Dataset, part: FoldPredictions, embeddings: np.ndarray, config: Any
) -> _FoldEvaluation:
  known = baselines.fit_baselines(data.responses, part.split, embeddings, config)
  validation, test = (np.flatnonzero(part.split == which) for which in (splits.VALIDATION, splits.TEST))
  # On validation first, so that all that is kept of it are the sizes.
  sizes = _chosen_sizes(replay.replay_methods(data.responses, validation, part.confidences, known, data.llms, config))
  return _FoldEvaluation(
    test, known, replay.replay_methods(data.responses, test, part.confidences, known, data.llms, config), sizes
  )


def _accuracy_bounds(interval: np.ndarray, accuracy: float | None, count: int) -> list[float | None]:
  """The bootstrap's bounds; Wilson's where all answers were right or all wrong, and resampling sees no doubt."""
  return list(statistics.wilson_ci(accuracy, count)) if accuracy in (0, 1) else _bounds(interval)


def _llm_rows(data: dataset.Dataset, parts: list[FoldPredictions], resamples: int) -> dict[str, dict[str, Any]]:
  """Each LLM's accuracy by split, with 95 % intervals, and what a call of it takes.

  With folds a query counts once in each split that it is in in any fold: counted once for each fold it would be
  resampled as if it were several queries, and the intervals would be too narrow.
  """
  responses = data.responses
  members = {
    name: np.any([part.split == which for part in parts], axis=0) for which, name in enumerate(splits.NAMES)
  } | {'all': np.ones(len(responses.labels), bool)}
  intervals = {
    name: statistics.bootstrap_ci(responses.labels[member], responses.observed[member], resamples=resamples)
    for name, member in members.items()
  }
  rows = {}
  for column, llm in enumerate(data.llms):
    observed = responses.observed[:, column]
    accuracy = {name: _mean(responses.labels[:, column], observed & member) for name, member in members.items()}
    rows[llm] = {
      'accuracy': accuracy,
      'accuracy_ci': {
        name: _accuracy_bounds(intervals[name][column], accuracy[name], int((observed & member).sum()))
        for name, member in members.items()
      },
      'missing': int((~observed).sum()),
      'latency_s': _mean(responses.latency_s[:, column], observed),
      'cost_usd': _mean(responses.cost_usd[:, column], observed),
    }
  return rows


def evaluate(
  data: dataset.Dataset,
  parts: list[FoldPredictions],
  embeddings: np.ndarray,
  config: ml_collections.ConfigDict,
  further: dict[str, replay.QueryMetrics] | None = None,
) -> Evaluation:
  """Everything a report says but its timing.

  Args:
    data: The data set.
    parts: One split, or all folds of a cross-validation: their test queries together are what is reported.
    embeddings: float32[N, D], unit vectors of the pretrained encoder, for nearest neighbours.
    config: `config.evaluate`.
    further: Strategies of `selectllm.evaluate.strategies` at the setting chosen on development, on all test queries.

  Returns:
    The results, see WORKSPACE.md, and the outcomes that they sum up.
  """
  results = [_evaluate_fold(data, part, embeddings, config) for part in parts]
  responses, test = data.responses, np.concatenate([result.test for result in results])

  def joined(keys: list[replay.MethodKey]) -> replay.QueryMetrics:
    """The outcomes of a method, given by its key in each fold."""
    return replay.concatenate([result.played.of(key) for result, key in zip(results, keys, strict=True)])

  def known(keys: list[replay.MethodKey]) -> replay.QueryMetrics | None:
    """The same; None where there is no such method."""
    return joined(keys) if set(keys) <= set(results[0].played.keys) else None

  single = [f'single:{data.llms[result.known.best_single]}' for result in results]
  references = {
    'best_single': joined([(name, 1) for name in single]),
    'all_llms': known([('all_llms', len(data.llms))] * len(results)),
  }
  # All methods at all sizes; then those with a size again, at the size that was most accurate on validation.
  keys = [[key] * len(results) for key in results[0].played.keys]
  chosen: list[list[replay.MethodKey]] = [
    [(name, result.chosen_sizes[name]) for result in results] for name in results[0].chosen_sizes
  ]
  further = further or {}
  named = [key[0] for key in keys] + [(name, None) for name in (*results[0].chosen_sizes, *further)]
  played = [*map(joined, keys + chosen), *further.values()]
  correct, valid = (np.stack([getattr(outcome, name) for outcome in played], 1) for name in ('correct', 'valid'))
  intervals = statistics.bootstrap_ci(correct, valid, resamples=config.resamples)
  sized = [
    references | {name: known([(name, size) for _, size in key]) for name in ('top_s', 'best_s')}
    for key in keys + chosen
  ]
  # The number of LLMs that a strategy calls differs from query to query.
  sized += [references | dict.fromkeys(('top_s', 'best_s'))] * len(further)
  versus = _versus(played, sized, config.resamples)
  oracle_outcome = joined([('oracle', None)] * len(results))
  rows = [_row(*each, oracle_outcome) for each in zip(named, played, intervals, versus, strict=True)]
  confidences = np.concatenate([part.confidences[result.test] for part, result in zip(parts, results, strict=True)])
  judged = (responses.labels[test], confidences, responses.observed[test])
  kept = outcomes.Outcomes(
    query_ids=np.array(data.query_ids)[test],
    names=np.array([name for name, _ in named]),
    sizes=np.array(
      [outcomes.NO_SIZE if size is None else size for _, size in named[: len(keys)]]
      + [outcomes.CHOSEN] * len(named[len(keys) :]),
      np.int16,
    ),
    correct=correct,
    valid=valid,
  )
  results_json = {
    'dataset': {
      'name': data.name,
      'llms': list(data.llms),
      'tasks': list(data.tasks),
      'responses': 'recorded',
      'latency': data.latency_is,
      'sizes_assumed': list(data.sizes_assumed),
      'in_place_of': data.in_place_of,
      'notes': list(data.notes),
      'folds': len(parts) if len(parts) > 1 else 0,
      'queries': len(data.queries),
      'queries_per_split': {
        name: int(np.mean([np.sum(part.split == which) for part in parts])) if name != 'test' else len(test)
        for which, name in enumerate(splits.NAMES)
      },
      'unused': int(np.mean([np.sum(part.split == splits.UNUSED) for part in parts])),
    },
    'llms': _llm_rows(data, parts, config.resamples),
    'classifier': {
      **metrics.classifier_report(*judged),
      'reliability': {
        name: [None if np.isnan(v) else float(v) for v in column]
        for name, column in metrics.reliability(*judged)._asdict().items()
      },
      'confusion': dict(zip(data.llms, metrics.confusion(*judged, threshold=config.threshold).tolist(), strict=True)),
    },
    'oracle': next(
      {'accuracy': row['accuracy'], 'latency_s': row['latency_sequential_s']} for row in rows if row['name'] == 'oracle'
    ),
    'best_single': sorted(set(single)),
    'policy_tradeoff': _policy_tradeoff(rows[: len(keys)], references['best_single']),
    'knn_neighbours': [result.known.neighbours for result in results],
    'methods': rows[: len(keys)],
    'chosen': [
      {**row, 'sizes': [size for _, size in key]}
      for row, key in zip(rows[len(keys) :], [*chosen, *([()] * len(further))], strict=True)
    ],
    'selected': {
      name: (np.sum([result.played.selected[name] for result in results], 0) / len(test)).tolist()
      for name in policies.POLICIES
    },
  }
  return Evaluation(results_json, kept)
