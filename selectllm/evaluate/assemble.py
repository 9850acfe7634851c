"""Puts the parts of an evaluation together: the one place that makes `results.Results`."""

import itertools

import numpy as np

from selectllm.data import dataset, splits
from selectllm.evaluate import (
  contamination,
  context,
  error_analysis,
  evaluator,
  metrics,
  overlooked,
  results,
  statistics,
)
from selectllm.selection import constraints, policies


def assemble(
  run: context.RunContext,
  evaluation: evaluator.Evaluation,
  cases: error_analysis.Cases,
  *,
  tradeoff: results.Tradeoff | None,
  encoder: results.EncoderChoice,
  tokens: np.ndarray,
  truncated: int,
  labels: str,
  timing: results.Timing,
) -> results.Results:
  """Returns the content of report.json.

  Args:
    run: What was predicted.
    evaluation: From `evaluator.evaluate`.
    cases: From `error_analysis.gather`.
    tradeoff: From `tradeoff.summarise`; None without strategies.
    encoder: Of the classifier.
    tokens: int[N], of all queries.
    truncated: See `results.DatasetSummary`.
    labels: Likewise.
    timing: What all that took.
  """
  _correct(evaluation.chosen, tradeoff)
  return results.Results(
    schema_version=results.SCHEMA_VERSION,
    dataset=_summarise_dataset(run, len(evaluation.test_rows), truncated, labels),
    llms=_summarise_llms(run),
    encoder=encoder,
    classifier=_judge_classifier(run, evaluation),
    oracle=_summarise_oracle(run, evaluation),
    best_single=evaluation.best_single,
    policy_tradeoff=evaluation.policy_tradeoff,
    knn_neighbours=[fold.baselines.neighbours for fold in evaluation.folds],
    methods=evaluation.methods,
    chosen=evaluation.chosen,
    selected={
      name: (np.sum([fold.methods.selected[name] for fold in evaluation.folds], 0) / len(evaluation.test_rows)).tolist()
      for name in policies.POLICIES
    },
    tradeoff=tradeoff,
    by_task=error_analysis.by_task(run.data, cases, evaluation),
    error_analysis=error_analysis.explain(run.data, cases, tokens),
    contamination=contamination.find(
      run.data,
      run.split,
      evaluation.best_single,
      evaluation.outcomes,
      near=run.options.near_duplicates,
      resamples=run.options.resamples,
    ),
    evaluate_config=run.options,
    timing=timing,
  )


def _correct(chosen: list[results.MethodResult], tradeoff: results.Tradeoff | None) -> None:
  """Fills in the p-values of the headline comparisons after Holm's correction, see `results.Comparison`."""
  strategies = tradeoff.best if tradeoff else {}
  family = [row.versus for row in chosen if row.name in policies.POLICIES or row.name in strategies]
  family += [row.versus for row in (tradeoff.constraints if tradeoff else []) if row.versus]
  places = [(versus, name) for versus in family for name in constraints.REFERENCES]
  if tradeoff and (best := tradeoff.best_baseline):
    places += [(row.versus, best) for row in tradeoff.constraints if row.constraint == 'none' and row.versus]
  corrected = metrics.correct_family([versus[name] for versus, name in places])
  for (versus, name), gain in zip(places, corrected, strict=True):
    versus[name] = gain
  for row in chosen:  # what is compared twice is one comparison
    for name in list(strategies[row.name].versus) if row.name in strategies else ():
      strategies[row.name].versus[name] = row.versus[name]


def _summarise_oracle(run: context.RunContext, evaluation: evaluator.Evaluation) -> results.OracleSummary:
  """Judges the oracle, and how much of it is more than luck."""
  row = next(row for row in evaluation.methods if row.name == 'oracle')
  responses = run.data.responses.rows(evaluation.test_rows)
  supported = repeated = None
  counted, samples = np.asarray(responses.observed.any(1)), responses.answers.shape[2]
  if samples:
    right = dataset.is_right(responses.majority, responses.accepted[:, None]) & responses.observed  # [T, K]
    same = responses.majority[:, :, None] == responses.majority[:, None]
    supporters = np.sum(same & right[:, None], 2) * right
    supported = metrics.known_mean(supporters.max(1) >= 2, counted)
  if samples > 1:
    right = dataset.is_right(responses.answers, responses.accepted[:, None, None]) & responses.observed[..., None]
    again = [np.any(right[..., a] & right[..., b], 1) for a, b in itertools.combinations(range(samples), 2)]
    repeated = metrics.known_mean(np.mean(again, 0), counted)
  return results.OracleSummary(row.accuracy, supported, repeated, row.compute_s)


def _summarise_dataset(run: context.RunContext, tested: int, truncated: int, labels: str) -> results.DatasetSummary:
  data, folds = run.data, len(run.split)

  def queries(which: int) -> int:
    return int(np.mean(np.sum(run.split == which, axis=1)))

  return results.DatasetSummary(
    name=data.name,
    llms=list(data.llms),
    tasks=list(data.tasks),
    responses='recorded',
    latency=data.latency_is,
    latency_model=data.latency_model,
    sizes_assumed=list(data.sizes_assumed),
    in_place_of=data.in_place_of,
    notes=list(data.notes),
    folds=folds if folds > 1 else 0,
    queries=len(data.queries),
    queries_per_split=results.QueriesPerSplit(queries(splits.TRAIN), queries(splits.VALIDATION), tested),
    unused=queries(splits.UNUSED),
    truncated=truncated,
    labels=labels,
  )


def _summarise_llms(run: context.RunContext) -> dict[str, results.LLMSummary]:
  """Sums up each LLM alone.

  With folds a query counts once in each split that it is in in any fold: counted once for each fold it would be
  resampled as if it were several queries, and the intervals would be too narrow.
  """
  responses = run.data.responses
  members = {name: np.any(run.split == which, axis=0) for which, name in enumerate(splits.NAMES)}
  members['all'] = np.ones(len(responses.labels), bool)
  intervals = {
    name: statistics.accuracy_ci(responses.labels[of], responses.observed[of], resamples=run.options.resamples)
    for name, of in members.items()
  }
  summaries = {}
  for column, llm in enumerate(run.data.llms):
    observed = responses.observed[:, column]
    counted = {name: observed & of for name, of in members.items()}
    summaries[llm] = results.LLMSummary(
      accuracy={name: metrics.known_mean(responses.labels[:, column], of) for name, of in counted.items()},
      accuracy_ci={name: results.interval(interval[column]) for name, interval in intervals.items()},
      missing=int((~observed).sum()),
      latency_s=metrics.known_mean(responses.latency_s[:, column], observed),
      cost_usd=metrics.known_mean(responses.cost_usd[:, column], observed),
      overlooked=overlooked.summarise(run.data.audits[column]) if run.data.audits else None,
    )
  return summaries


def _judge_classifier(run: context.RunContext, evaluation: evaluator.Evaluation) -> results.ClassifierQuality:
  """Judges the confidences of all (query, LLM) pairs of test."""
  responses, rows = run.data.responses, evaluation.test_rows
  confidences = np.concatenate([fold.confidences[fold.test_rows] for fold in run.folds()])
  judged = (responses.labels[rows], confidences, responses.observed[rows])
  confusion = metrics.confusion(*judged, threshold=run.options.threshold).tolist()
  return results.ClassifierQuality(
    **metrics.classifier_report(*judged),
    reliability=metrics.reliability(*judged).summary(),
    confusion=dict(zip(run.data.llms, confusion, strict=True)),
  )
