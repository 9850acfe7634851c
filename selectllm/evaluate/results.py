"""The content of report.json: typed, written and read in one place, with a JSON schema.

Accuracies and shares lie in [0, 1], times are in seconds, costs in dollars a query; None is what is not known. The
*wall clock* of a query (`wall_clock_s`, `wall_seconds`) is what its user waits: calls of one stage run in parallel,
stages one after the other. Its *summed compute* (`compute_s`, `compute_seconds`) is the seconds of all its calls.
Intervals are 95 % intervals. Every other module takes and gives these types: report.json itself is for other programs.
"""

import json
import math
import pathlib
from collections.abc import Iterable
from typing import Any

import msgspec

# Of report.json; raised when a field is renamed, removed or means something else.
SCHEMA_VERSION = 3

# Strategies of others, to compare with.
BASELINES = ('chain', 'frugal_cascade', 'knn_router', 'mf_router', 'clusters')
# Gains of which a test is less sure than this are not resolved.
SIGNIFICANT = 0.05

Interval = tuple[float | None, float | None]


class ResultsError(ValueError):
  """A report.json that another version wrote, or that is damaged."""


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
  """A JSON object with fixed fields."""


def known(value: Any) -> float | None:
  """Returns a number as JSON holds it; None for NaN, which is what is not known."""
  return None if math.isnan(value) else float(value)


def interval(bounds: Iterable[Any]) -> Interval:
  """Returns the ends of an interval; None where there was nothing to resample."""
  low, high = map(known, bounds)
  return low, high


class QueriesPerSplit(_Struct, frozen=True):
  """Numbers of queries; with folds the mean of train and validation, and all test queries."""

  train: int
  validation: int
  test: int


class DatasetSummary(_Struct, frozen=True):
  """The data set and the split.

  Attributes:
    name: For titles.
    llms: The K LLMs of the pool, in the order of all arrays.
    tasks: Categories of the queries.
    responses: `recorded`.
    latency: `measured`, `published`, `estimated` or `unknown`: the weakest kind among all calls.
    latency_model: By which formula latencies are estimated, in words; empty where none is, or others estimated them.
    sizes_assumed: LLMs whose size, from which latencies are estimated, is itself assumed.
    in_place_of: The data set that was asked for and could not be had; empty when this is the one.
    notes: What a reader of any result must know about the data.
    folds: 0 for one split.
    queries: In all splits.
    unused: Training queries that were left out.
    truncated: Queries that were longer than the encoder reads.
    labels: `reference` or `agreement`: who says which responses are right.
  """

  name: str
  llms: list[str]
  tasks: list[str]
  responses: str
  latency: str
  latency_model: str
  sizes_assumed: list[str]
  in_place_of: str
  notes: list[str]
  folds: int
  queries: int
  queries_per_split: QueriesPerSplit
  unused: int
  truncated: int
  labels: str

  @property
  def title(self) -> str:
    """The data set, its pool and queries, and how responses and latencies are known."""
    tested = f'{self.queries_per_split.test:,} test queries' + (f' in {self.folds} folds' if self.folds else '')
    return (
      f'{self.name}: {len(self.llms)} LLMs, {tested} of {self.queries:,}, {self.responses} responses, '
      f'{self.latency} latencies'
    )


class Overlooked(_Struct, frozen=True):
  """How often the reference stands in the last sentence of a response that was graded wrong.

  That is no proof, as a wrong response may name the right value by the way; but where it is often so, the extractor
  misreads the LLM.

  Attributes:
    wrong: Responses in all splits that were graded wrong, of those whose text is known.
    share: Of them; None where there are none.
    share_ci: Wilson's interval.
  """

  wrong: int
  share: float | None
  share_ci: Interval


class LLMSummary(_Struct, frozen=True):
  """One LLM alone.

  Attributes:
    accuracy: By split: train, validation, test, all.
    accuracy_ci: Likewise.
    missing: Queries without a response of it.
    latency_s: Mean of a call.
    cost_usd: Mean of a call.
    overlooked: Right answers that may not have been read; None for scores.
  """

  accuracy: dict[str, float | None]
  accuracy_ci: dict[str, Interval]
  missing: int
  latency_s: float | None
  cost_usd: float | None
  overlooked: Overlooked | None = None


class Reliability(_Struct, frozen=True):
  """A reliability diagram of B bins; None in an empty bin."""

  mean_confidence: list[float | None]
  frequency: list[float | None]
  count: list[float]


class ClassifierQuality(_Struct, frozen=True):
  """How good the confidences are, over all (query, LLM) pairs of test.

  Attributes:
    confusion: LLM -> counts [label][prediction].
  """

  weighted_f1: float | None
  macro_f1: float | None
  auroc: float | None
  brier: float | None
  ece: float | None
  reliability: Reliability
  confusion: dict[str, list[list[int]]]


class EncoderChoice(_Struct, frozen=True):
  """Which encoder the classifier reads queries with, and why.

  Attributes:
    frozen: Whether it is the pretrained one as it is, under a logistic regression, or a fine-tuned one.
    asked: `config.encoder.freeze`.
    foreseen_s: Seconds that fine-tuning was foreseen to take; None where it did not matter.
    frozen_loss: Log loss on validation; None where nothing was compared.
    fine_tuned_loss: Likewise.
  """

  frozen: bool
  asked: str
  foreseen_s: float | None = None
  frozen_loss: float | None = None
  fine_tuned_loss: float | None = None

  def sentence(self) -> str:
    """Says in words what was chosen, and how to choose otherwise."""
    kind = 'frozen' if self.frozen else 'fine-tuned'
    if self.asked != 'auto':
      return f'{kind}, as config.encoder.freeze={self.asked} asks.'
    if self.frozen_loss is None or self.fine_tuned_loss is None:
      return (
        f'{kind}; fine-tuning would take about {(self.foreseen_s or 0) / 60:.0f} minutes here. '
        '--config.encoder.freeze=false asks for it.'
      )
    return (
      f'{kind}, chosen by the log loss on validation: {self.frozen_loss:.3f} frozen, {self.fine_tuned_loss:.3f} '
      'fine-tuned (which has to be lower by more than a standard error of the difference).'
    )


class OracleSummary(_Struct, frozen=True):
  """The fastest right LLM of every query.

  Attributes:
    accuracy: Any LLM is right. The more LLMs, the more often one is by luck alone.
    supported: At least two LLMs give the same right answer; None for scores.
    repeated: An LLM that is right in one sample is right in another one too, the mean over all pairs of samples; None
      where there is one sample, and for scores.
    latency_s: Mean of the call.
  """

  accuracy: float | None
  supported: float | None
  repeated: float | None
  latency_s: float | None


class Comparison(_Struct, frozen=True):
  """A gain over another method on the same queries, see `statistics.paired_gains`.

  Attributes:
    queries: Those that both count.
    delta: The mean gain.
    ci: Its interval; 0 is outside exactly where `p` is below 0.05. Both are of this one comparison.
    p: Of the paired test.
    differ: Queries that the two score differently.
    detectable: The smallest gain that so many queries show with a power of 80 %; None where there are too few.
    p_holm: After Holm's correction, of a headline comparison: a policy at its chosen size, a strategy at its most
      accurate operating point, or the operating point of a constraint, against best_single, all_llms or
      static_weighted; and that of `none` against the best baseline strategy. All of these in a report are one family;
      None outside of it. In a comparison of runs, the family is a method in all runs.
  """

  queries: int
  delta: float
  ci: tuple[float, float]
  p: float
  differ: int
  detectable: float | None
  p_holm: float | None = None

  @property
  def resolved(self) -> bool:
    """Tells whether the test, and so the interval, excludes that there is no gain."""
    return self.p < SIGNIFICANT

  @property
  def holds(self) -> bool:
    """Tells whether it still does after Holm's correction, where there is one."""
    return self.resolved and (self.p_holm is None or self.p_holm < SIGNIFICANT)


class MethodResult(_Struct, frozen=True):
  """A policy or baseline at one subset size; see `replay.QueryMetrics` for the quantities.

  Attributes:
    size: None where a size means nothing, and in `Results.chosen`.
    queries: How many were counted.
    wall_clock_s: Mean; then the median and the 95th percentile.
    compute_s: Mean.
    versus: Gains over best_single, all_llms, static_weighted (of all LLMs), top_s and best_s; None where there is no
      such method.
    sizes: In `Results.chosen`: the size chosen on validation, one for each fold (of each seed); none for strategies.
    seeds: The accuracy with each seed of the training, of which `accuracy` is the mean; None where there is one.
  """

  name: str
  size: int | None
  queries: int
  accuracy: float | None
  accuracy_ci: Interval
  calls: float | None
  wall_clock_s: float | None
  wall_clock_p50_s: float | None
  wall_clock_p95_s: float | None
  compute_s: float | None
  cost_usd: float | None
  gap_to_oracle: float | None
  versus: dict[str, Comparison | None]
  sizes: list[int] | None = None
  seeds: list[float] | None = None


class PolicyTradeoff(_Struct, frozen=True):
  """What a policy's sizes buy together, read off the curve on test: AIQ (RouterBench, arXiv 2403.12031)."""

  aiq: float


class Estimate(_Struct, frozen=True):
  """Means over queries at one operating point.

  Attributes:
    compute_seconds: Summed compute: the seconds of all calls.
    wall_seconds: Wall clock: calls of one stage in parallel, stages one after the other.
    p95_wall_seconds: The 95th percentile of it.
  """

  accuracy: float | None
  wall_seconds: float | None
  p95_wall_seconds: float | None
  compute_seconds: float | None
  usd: float | None
  calls: float | None


class Measurement(Estimate, frozen=True):
  """The same, measured on test, with intervals of what is known.

  Attributes:
    query_compute_seconds: The most summed compute that any query was expected to take, under a constraint on it.
  """

  accuracy_ci: Interval | None = None
  wall_seconds_ci: Interval | None = None
  p95_wall_seconds_ci: Interval | None = None
  compute_seconds_ci: Interval | None = None
  usd_ci: Interval | None = None
  calls_ci: Interval | None = None
  query_compute_seconds: float | None = None


class OperatingPoint(_Struct, frozen=True):
  """One operating point of a strategy: estimated on train and validation, measured on test."""

  operating_point: int
  estimated: Estimate
  measured: Measurement


class StrategySummary(_Struct, frozen=True):
  """A strategy at the operating points that are most accurate in cross-validation, one for each fold."""

  operating_points: list[int]
  estimated: Estimate
  measured: Measurement
  versus: dict[str, Comparison | None]


class ConstraintResult(_Struct, frozen=True):
  """What a constraint led to; nothing where no operating point keeps it in cross-validation.

  Attributes:
    constraint: As stated, such as `compute_seconds<=35%`.
    target: The number that it comes to on test.
    met: Whether the measured number keeps it.
    within: Whether anything in its interval does.
  """

  constraint: str
  strategy: str | None
  operating_points: list[int] | None
  estimated: Estimate | None
  measured: Measurement | None
  target: float | None
  met: bool | None
  within: bool | None
  versus: dict[str, Comparison | None] | None


class Abstention(_Struct, frozen=True):
  """Accuracy where the least sure 20 % of the queries stay unanswered, Wilson's interval of it, and the gain."""

  accuracy: float
  accuracy_ci: Interval
  gain: float


class AnswerProbability(_Struct, frozen=True):
  """How far P(the answer is right) can be trusted.

  Attributes:
    coverage: Pairs: the share of queries that are answered, the surest first, and the accuracy on them.
  """

  strategy: str
  ece: float | None
  brier: float | None
  reliability: Reliability
  coverage: list[tuple[float, float]]
  abstain_20: Abstention


class CalibrationQuality(_Struct, frozen=True):
  """Expected calibration error and Brier score."""

  ece: float | None
  brier: float | None


class ConfidenceCalibration(_Struct, frozen=True):
  """An LLM's confidences before and after calibration of this kind (or kinds, with folds)."""

  kind: str
  before: CalibrationQuality
  after: CalibrationQuality


class BudgetEstimate(_Struct, frozen=True):
  """Expected accuracy and cost a query."""

  accuracy: float
  cost: float


class BatchBudget(_Struct, frozen=True):
  """All test queries under one budget, a share of calling all LLMs."""

  budget: float
  estimated: BudgetEstimate
  measured: Measurement


class Tradeoff(_Struct, frozen=True):
  """Strategies that choose calls by accuracy and cost.

  Attributes:
    cost_unit: `compute_seconds`, `usd` or `calls`.
    cost_is: How costs are known: a kind of latency, or `known`.
    references: best_single, all_llms and static_weighted (of all LLMs).
    curves: Strategy -> its operating points, cheapest first.
    best: Strategy -> its most accurate operating point.
    confidence: How likely each constraint was to be kept, `config.tradeoff.confidence`.
    constraints: In the order of `config.tradeoff.limits`.
    p_right: Of the first rule.
    confidences: By LLM.
    batch_budgets: Of the strategy `subset`.
  """

  cost_unit: str
  cost_is: str
  references: dict[str, Measurement]
  curves: dict[str, list[OperatingPoint]]
  best: dict[str, StrategySummary]
  confidence: float
  constraints: list[ConstraintResult]
  p_right: AnswerProbability | None
  confidences: dict[str, ConfidenceCalibration]
  batch_budgets: list[BatchBudget]

  @property
  def best_baseline(self) -> str | None:
    """The baseline strategy that is most accurate in cross-validation; None without one."""
    accuracy = {name: self.best[name].estimated.accuracy or 0.0 for name in BASELINES if name in self.best}
    return max(accuracy, key=accuracy.__getitem__) if accuracy else None


class TaskMethod(_Struct, frozen=True):
  """A method's accuracy on one category, with Wilson's interval."""

  accuracy: float
  accuracy_ci: Interval


class TaskLLM(_Struct, frozen=True):
  """An LLM on one category: its accuracy, and the shares of queries where it is the first choice and is called."""

  accuracy: float | None
  first: float
  called: float


class TaskResult(_Struct, frozen=True):
  """One category of queries."""

  task: str
  queries: int
  methods: dict[str, TaskMethod]
  llms: dict[str, TaskLLM]


class FeatureBin(_Struct, frozen=True):
  """Queries with a feature in one range; `lost` is how often the oracle is right and the policy is not."""

  bin: str
  queries: int
  accuracy: float
  oracle: float
  lost: float
  lost_ci: Interval


class FeatureResult(_Struct, frozen=True):
  """How the gap to the oracle varies with one feature of the queries.

  Attributes:
    hindsight: Whether it is known only once all LLMs have answered.
    correlation: Spearman's, with the gap.
    p: Kruskal and Wallis, after Holm.
  """

  name: str
  hindsight: bool
  correlation: float | None
  p: float | None
  bins: list[FeatureBin]


class ErrorAnalysis(_Struct, frozen=True):
  """Where the oracle is right and the headline policy is not."""

  policy: str
  sizes: list[int]
  queries: int
  lost: float | None
  lost_ci: Interval
  features: list[FeatureResult]


class DuplicateCount(_Struct, frozen=True):
  """Queries of one split whose question stands in another, exactly or nearly; None where that was not searched."""

  of: str
  within: str
  queries: int
  exact: int
  near: int | None


class DuplicateExample(_Struct, frozen=True):
  """Two questions that are nearly the same, and their Jaccard similarity."""

  of: str
  within: str
  ids: tuple[str, str]
  texts: tuple[str, str]
  similarity: float


class CleanAccuracy(_Struct, frozen=True):
  """A method's accuracy on all test queries, and on those without a duplicate in train or validation."""

  name: str
  accuracy: float | None
  clean_accuracy: float | None
  clean_ci: Interval


class Contamination(_Struct, frozen=True):
  """Questions that stand in two splits.

  Attributes:
    near_duplicates: Jaccard similarity from which questions are nearly the same; 0 for no search.
    distinct: Different questions.
    searched: How many of these were searched.
    crowded: Questions with so many like them that not all were compared.
    duplicates: Counts by pair of splits.
    tested: Test queries.
    clean: Test queries without any duplicate.
  """

  near_duplicates: float
  distinct: int
  searched: int
  crowded: int
  duplicates: list[DuplicateCount]
  examples: list[DuplicateExample]
  tested: int
  clean: int
  methods: list[CleanAccuracy]


class EvaluateConfig(_Struct, frozen=True):
  """The fields of `config.evaluate` that made this report."""

  batch_size: int
  knn_neighbours: list[int]
  near_duplicates: float
  resamples: int
  threshold: float
  ties: str
  vote: str


class Timing(_Struct, frozen=True):
  """Everything measured about ourselves, in seconds: it differs from run to run.

  Attributes:
    classifier_latency_s: From one query's text to its selection.
    train_and_score_s: Training and scoring; None where a report was written again before any was.
    evaluate_s: Evaluation.
  """

  classifier_latency_s: float
  evaluate_s: float
  train_and_score_s: float | None = None


class Results(_Struct, frozen=True):
  """The content of report.json.

  Attributes:
    schema_version: `SCHEMA_VERSION`.
    best_single: `single:<llm>`: the LLM most accurate on train and validation, of each fold.
    encoder: Of the classifier.
    policy_tradeoff: By policy; None where latencies are unknown.
    knn_neighbours: Tuned on validation, one for each fold.
    methods: Policies and baselines at every size, the single LLMs, the oracle.
    chosen: Those with sizes at the size chosen on validation, then strategies at their most accurate operating point.
    selected: Policy -> share of queries for which it selects each LLM, [size][llm].
    tradeoff: None without strategies.
    by_task: Nothing where all queries are of one category.
  """

  schema_version: int
  dataset: DatasetSummary
  llms: dict[str, LLMSummary]
  encoder: EncoderChoice
  classifier: ClassifierQuality
  oracle: OracleSummary
  best_single: list[str]
  policy_tradeoff: dict[str, PolicyTradeoff] | None
  knn_neighbours: list[int]
  methods: list[MethodResult]
  chosen: list[MethodResult]
  selected: dict[str, list[list[float]]]
  tradeoff: Tradeoff | None
  by_task: list[TaskResult]
  error_analysis: ErrorAnalysis
  contamination: Contamination
  evaluate_config: EvaluateConfig
  timing: Timing


def to_json(results: Results) -> str:
  """Writes results as JSON.

  Raises:
    ValueError: for a number that is not finite: what is not known is None.
  """
  return json.dumps(msgspec.to_builtins(results), indent=1, allow_nan=False) + '\n'


def from_builtins(content: dict[str, Any]) -> Results:
  """Makes results of decoded JSON.

  Raises:
    msgspec.ValidationError: names the field that is absent, unknown or of another type.
  """
  return msgspec.convert(content, Results)


def load(path: pathlib.Path) -> Results:
  """Reads a report.json.

  Raises:
    ResultsError: when another version wrote it, or it is damaged; says what to do.
  """
  try:
    content = json.loads(path.read_text())
  except json.JSONDecodeError as error:
    raise ResultsError(f'{path} is not JSON ({error}); write it again with --config.mode=evaluate') from error
  version = content.get('schema_version') if isinstance(content, dict) else None
  if version != SCHEMA_VERSION:
    raise ResultsError(
      f'{path} was written by another version (schema {version or 1}, this one reads {SCHEMA_VERSION}); make the run '
      'anew, or read it with the version that wrote it'
    )
  try:
    return from_builtins(content)
  except msgspec.ValidationError as error:
    raise ResultsError(f'{path}: {error}; write it again with --config.mode=evaluate') from error


def schema() -> dict[str, Any]:
  """Returns the JSON schema (2020-12) of report.json."""
  content = msgspec.json.schema(Results)
  content['$defs']['Results']['properties']['schema_version'] = {'const': SCHEMA_VERSION}
  return {
    '$schema': 'https://json-schema.org/draft/2020-12/schema',
    '$id': f'urn:selectllm:report:{SCHEMA_VERSION}',
    'title': 'report.json',
    **content,
  }
