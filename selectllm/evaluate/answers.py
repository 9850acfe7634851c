"""Sums up queries that were answered live: accuracy, what was called, and what calling all LLMs would have taken."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from selectllm.evaluate import metrics, results, statistics

Line = dict[str, Any]  # of answers.jsonl
# Calibration is measured on at least so many queries with a reference.
_ENOUGH = 50


class DeciderFacts(NamedTuple):
  """A decider, as the report of the queries that it answered describes it.

  Attributes:
    llms: K names.
    policy: The policy or rule that selected.
    size: The most LLMs that it called at first, None where it has no such limit.
    asked: Queries to be answered.
    expected_latency_s: float32[K], of a call when the classifier was trained; for LLMs that were never called.
    expected_cost_usd: float32[K], likewise; NaN where unknown.
    classifier_latency_s: From one query's text to its selection, when the classifier was trained.
  """

  llms: tuple[str, ...]
  policy: str
  size: int | None
  asked: int
  expected_latency_s: np.ndarray
  expected_cost_usd: np.ndarray
  classifier_latency_s: float


class LiveDataset(msgspec.Struct, frozen=True):
  """The queries: all of them, and in the split `test` those that were answered."""

  name: str
  llms: list[str]
  responses: str
  latency: str
  queries: int
  queries_per_split: results.QueriesPerSplit


class CalledLLM(msgspec.Struct, frozen=True):
  """One LLM: its calls, those that failed, its accuracy where it was called, and the means of a call."""

  calls: int
  missing: int
  accuracy: dict[str, float | None]
  latency_s: float | None
  cost_usd: float | None


class LiveMethod(msgspec.Struct, frozen=True):
  """The policy or rule: its accuracy on the `queries` with a reference, and the means of all that were answered."""

  name: str
  size: int | None
  queries: int
  accuracy: float | None
  accuracy_ci: results.Interval
  unanswered: int
  abstained: int
  calls: float | None
  wall_clock_s: float | None
  compute_s: float | None
  cost_usd: float | None


class LiveProbability(msgspec.Struct, frozen=True):
  """P(the answer is right), answers set aside included, and its calibration on those with a reference."""

  mean: float
  queries: int
  references: int
  accuracy: float | None
  ece: float | None
  brier: float | None


class Spent(msgspec.Struct, frozen=True):
  """Calls and dollars of all queries, and the mean wall clock and summed compute of a query."""

  calls: int
  wall_clock_s: float | None
  compute_s: float | None
  cost_usd: float | None


class Savings(msgspec.Struct, frozen=True):
  """The calls that were made, beside calling every LLM."""

  made: Spent
  calling_all: Spent


class LiveTiming(msgspec.Struct, frozen=True):
  """Seconds from one query's text to its selection, when the classifier was trained."""

  classifier_latency_s: float


class LiveResults(msgspec.Struct, frozen=True):
  """The content of report.json of queries that were answered live: in the form of a run's, with one method."""

  dataset: LiveDataset
  llms: dict[str, CalledLLM]
  methods: list[LiveMethod]
  p_right: LiveProbability | None
  savings: Savings
  timing: LiveTiming


def _of_calls(lines: Sequence[Line], llms: tuple[str, ...], field: str) -> np.ndarray:
  """Returns a field of every call, float64[N, K]; NaN where there was no call, or it brought none."""
  values = np.full((len(lines), len(llms)), np.nan)
  for row, line in enumerate(lines):
    for llm, call in line['calls'].items():
      if call[field] is not None:
        values[row, llms.index(llm)] = call[field]
  return values


def _mean(values: np.ndarray) -> float | None:
  known = values[~np.isnan(values)]
  return float(known.mean()) if known.size else None


def _with_all(values: np.ndarray, expected: np.ndarray) -> np.ndarray:
  """Fills in calls that were not made: with the LLM's mean here, else with what was expected of it."""
  means = np.array([expected[place] if (m := _mean(column)) is None else m for place, column in enumerate(values.T)])
  return np.where(np.isnan(values), means, values)


def _p_right(lines: Sequence[Line]) -> LiveProbability | None:
  """Returns how likely the answers were estimated to be right, and how well this was calibrated."""
  said = [line for line in lines if line['p_right'] is not None]
  if not said:
    return None
  known = [line for line in said if line['reference'] is not None]
  likely = np.array([[line['p_right']] for line in known])
  elected = [line['answer_unsure'] if line['abstained'] else line['answer'] for line in known]
  right = np.array([[text == line['reference']] for text, line in zip(elected, known, strict=True)], float)
  enough = len(known) >= _ENOUGH
  return LiveProbability(
    mean=float(np.mean([line['p_right'] for line in said])),
    queries=len(said),
    references=len(known),
    accuracy=float(right.mean()) if known else None,
    ece=metrics.ece(right, likely, np.ones_like(right, bool)) if enough else None,
    brier=metrics.brier(right, likely, np.ones_like(right, bool)) if enough else None,
  )


def _method(lines: Sequence[Line], facts: DeciderFacts, spent: Spent) -> LiveMethod:
  right = np.array([float(line['correct']) for line in lines if line['correct'] is not None])
  interval: results.Interval = (None, None)
  if right.size:
    interval = statistics.wilson_ci(float(np.mean(right)), len(right))
  return LiveMethod(
    name=facts.policy,
    size=facts.size,
    queries=len(right),
    accuracy=float(np.mean(right)) if right.size else None,
    accuracy_ci=interval,
    unanswered=sum(line['unanswered'] for line in lines),
    abstained=sum(line['abstained'] for line in lines),
    calls=spent.calls / len(lines) if lines else None,
    wall_clock_s=spent.wall_clock_s,
    compute_s=spent.compute_s,
    cost_usd=None if spent.cost_usd is None else float(np.mean([line['cost_usd'] for line in lines])),
  )


def _savings(lines: Sequence[Line], facts: DeciderFacts, latency: np.ndarray, cost: np.ndarray) -> Savings:
  """Sums up the calls that were made, float64[N, K] each, and estimates those that calling all LLMs would add."""
  # No call takes no time: where nothing was known of any LLM, 0 is expected of all, to win no tie.
  expected_s = np.where(facts.expected_latency_s > 0, facts.expected_latency_s, np.nan)
  all_latency, all_cost = _with_all(latency, expected_s), _with_all(cost, facts.expected_cost_usd)
  priced = bool(lines) and not any(line['cost_usd'] is None for line in lines)
  return Savings(
    made=Spent(
      calls=sum(len(line['calls']) for line in lines),
      wall_clock_s=_mean(np.array([line['wall_clock_s'] for line in lines], float)),
      compute_s=_mean(np.array([line['compute_s'] for line in lines], float)),
      cost_usd=sum(line['cost_usd'] for line in lines) if priced else None,
    ),
    calling_all=Spent(
      calls=len(lines) * len(facts.llms),
      wall_clock_s=results.known(all_latency.max(1).mean()) if lines else None,
      compute_s=results.known(all_latency.sum(1).mean()) if lines else None,
      cost_usd=None if not priced or np.isnan(all_cost).any() else float(all_cost.sum()),
    ),
  )


def summarise(lines: Sequence[Line], facts: DeciderFacts) -> LiveResults:
  """Sums up the lines of answers.jsonl, and what the calls saved against calling every LLM."""
  latency, cost, labels = (_of_calls(lines, facts.llms, field) for field in ('latency_s', 'cost_usd', 'correct'))
  savings = _savings(lines, facts, latency, cost)
  llms = {
    llm: CalledLLM(
      calls=sum(llm in line['calls'] for line in lines),
      missing=sum(llm in line['failed'] for line in lines),
      accuracy={'train': None, 'validation': None, 'test': _mean(labels[:, place])},
      latency_s=_mean(latency[:, place]),
      cost_usd=_mean(cost[:, place]),
    )
    for place, llm in enumerate(facts.llms)
  }
  tested = results.QueriesPerSplit(0, 0, len(lines))
  return LiveResults(
    dataset=LiveDataset('new queries', list(facts.llms), 'live', 'measured', facts.asked, tested),
    llms=llms,
    methods=[_method(lines, facts, savings.made)],
    p_right=_p_right(lines),
    savings=savings,
    timing=LiveTiming(facts.classifier_latency_s),
  )
