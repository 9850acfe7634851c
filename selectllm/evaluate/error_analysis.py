"""Explains a run: by category, by features of the queries, and query by query.

Everything is about the headline policy at the size chosen on validation, on test queries alone. T test queries, K LLMs.
"""

import collections
from typing import Any, NamedTuple

import msgspec
import numpy as np
import scipy.stats

from selectllm.data import dataset, text_features
from selectllm.evaluate import context, evaluator, outcomes, results, statistics
from selectllm.selection import policies, voting

# Bins of a feature hold about as many queries each.
MOST_BINS = 5
# Categories beyond so many, the smallest, are put together.
MOST_CATEGORIES = 60
# The page lists a random sample of more queries than this.
MOST_LISTED = 5_000
# Features that are known only once all LLMs have answered.
HINDSIGHT = ('agreement', 'llms_right')


class Cases(NamedTuple):
  """Holds what the headline policy makes of T test queries.

  Attributes:
    sizes: The size chosen on validation, one for each fold.
    rows: int[T], where the queries stand in the data set.
    confidences: float32[T, K].
    first: bool[T, K], see `replay.PolicyDecisions`.
    called: bool[T, K], likewise.
    weight: float32[T, K], likewise.
    elected: int32[T], likewise.
    right: float32[T], 1 where the elected answer is right (a score for scores-only data).
    oracle: float32[T], 1 where any LLM is right (the best score).
    valid: bool[T], false where no LLM was observed: such queries count nowhere.
  """

  sizes: list[int]
  rows: np.ndarray
  confidences: np.ndarray
  first: np.ndarray
  called: np.ndarray
  weight: np.ndarray
  elected: np.ndarray
  right: np.ndarray
  oracle: np.ndarray
  valid: np.ndarray

  @property
  def lost(self) -> np.ndarray:
    """Returns float32[T], 1 where the oracle is right and the policy is not; of scores, what it falls short by."""
    return np.maximum(self.oracle - self.right, 0)

  def select(self, index: np.ndarray | int) -> 'Cases':
    """Returns some of the cases, by index or mask."""
    return Cases(self.sizes, *(array[index] for array in self[1:]))


def gather(run: context.RunContext, evaluation: evaluator.Evaluation) -> Cases:
  """Gathers the headline policy's cases of all folds, in the order of the evaluation's outcomes."""
  kept = evaluation.outcomes
  ours, oracle = kept.column(policies.HEADLINE, outcomes.CHOSEN), kept.column('oracle', outcomes.NO_SIZE)
  decisions = [fold.methods.headline for fold in evaluation.folds]
  first, called, weight, elected = (np.concatenate(arrays) for arrays in zip(*decisions, strict=True))
  return Cases(
    [fold.chosen_sizes[policies.HEADLINE] for fold in evaluation.folds],
    evaluation.test_rows,
    np.concatenate([fold.confidences[fold.test_rows] for fold in run.folds()]),
    first,
    called,
    weight,
    elected,
    right=kept.correct[:, ours],
    oracle=kept.correct[:, oracle],
    valid=kept.valid[:, ours],
  )


def _share(values: np.ndarray) -> tuple[float, results.Interval]:
  """Returns the mean of some values, and Wilson's interval."""
  mean = float(np.mean(values, dtype=np.float64))
  return mean, statistics.wilson_ci(mean, len(values))


def _categories(data: dataset.Dataset, rows: np.ndarray) -> tuple[list[str], np.ndarray]:
  """Returns the names of some queries' categories in alphabetical order, and which of them each is of, int[T]."""
  task = data.responses.task[rows]
  counts = np.bincount(task, minlength=len(data.tasks))
  largest = np.argsort(-counts, kind='stable')[:MOST_CATEGORIES]
  kept = sorted((' '.join(data.tasks[place].split()) or '(none)', place) for place in largest if counts[place])
  names = [name for name, _ in kept]
  index = np.full(len(data.tasks), len(kept))
  index[[place for _, place in kept]] = np.arange(len(kept))
  if others := int(np.sum(counts > 0)) - len(kept):
    names.append(f'({others} smaller ones)')
  return names, index[task]


def by_task(data: dataset.Dataset, cases: Cases, evaluation: evaluator.Evaluation) -> list[results.TaskResult]:
  """Tells how the headline methods fare, and whom the headline policy calls, category by category.

  Args:
    data: The data set.
    cases: From `gather`.
    evaluation: From `evaluator.evaluate`.

  Returns:
    The categories in alphabetical order; nothing where all queries are of one category.
  """
  names, index = _categories(data, cases.rows)
  if len(names) == 1:
    return []
  wanted = [(name, outcomes.CHOSEN) for name in policies.POLICIES]
  wanted += [(name, 1) for name in evaluation.best_single]
  wanted += [('all_llms', len(data.llms)), ('oracle', outcomes.NO_SIZE)]
  kept = evaluation.outcomes
  columns = {name: column for name, size in wanted if (column := kept.column(name, size)) is not None}
  rows = []
  for place, task in enumerate(names):
    of = (index == place) & cases.valid
    if of.any():
      methods = _task_methods(of, kept, columns)
      rows.append(results.TaskResult(task, int(of.sum()), methods, _task_llms(data, cases.select(of))))
  return rows


def _task_methods(of: np.ndarray, kept: outcomes.Outcomes, columns: dict[str, int]) -> dict[str, results.TaskMethod]:
  """Returns the accuracies of methods, by their columns, on the queries bool[T]."""
  methods = {}
  for name, column in columns.items():
    counted = of & kept.valid[:, column]
    if counted.any():
      methods[name] = results.TaskMethod(*_share(kept.correct[counted, column]))
  return methods


def _task_llms(data: dataset.Dataset, cases: Cases) -> dict[str, results.TaskLLM]:
  """Tells of each LLM how accurate it is on some queries, and how often it is called."""
  labels, observed = data.responses.labels[cases.rows], data.responses.observed[cases.rows]
  llms = {}
  for column, llm in enumerate(data.llms):
    seen = observed[:, column]
    llms[llm] = results.TaskLLM(
      accuracy=float(labels[seen, column].mean()) if seen.any() else None,
      first=float(cases.first[:, column].mean()),
      called=float(cases.called[:, column].mean()),
    )
  return llms


def agreement(majorities: np.ndarray, observed: np.ndarray) -> np.ndarray:
  """Returns the share of observed LLMs that give the most common answer, in whole %, float64[T]; NaN for none.

  Args:
    majorities: int[T, K], each LLM's majority answer; `voting.NO_ANSWER` for none.
    observed: bool[T, K].
  """
  given = observed & (majorities != voting.NO_ANSWER)
  ids = int(majorities.max(initial=0)) + 1
  query, _ = np.nonzero(given)
  backers = np.bincount(query * ids + majorities[given], minlength=len(majorities) * ids)
  most = backers.reshape(len(majorities), ids).max(1)
  with np.errstate(invalid='ignore'):
    return np.round(100 * most / observed.sum(1))


def quantile_bins(values: np.ndarray) -> tuple[list[str], np.ndarray]:
  """Cuts whole numbers into at most `MOST_BINS` ranges that hold about as many queries each; equal ones stay together.

  Where there are no more different numbers than that, each stands for itself.

  Args:
    values: float[T], whole numbers or NaN.

  Returns:
    The ranges' labels, ascending, and which of them each value is in, int[T]; -1 for NaN.
  """
  index, known = np.full(len(values), -1), ~np.isnan(values)
  if not known.any():
    return [], index
  of = values[known]
  edges = np.unique(of)
  if len(edges) > MOST_BINS:
    edges = np.unique(np.quantile(of, np.arange(1, MOST_BINS) / MOST_BINS, method='inverted_cdf'))
  _, index[known] = np.unique(np.searchsorted(edges, of), return_inverse=True)
  labels = []
  for place in range(index.max() + 1):
    low, high = (f'{bound(values[index == place]):.0f}' for bound in (np.min, np.max))
    labels.append(low if low == high else f'{low} to {high}')
  return labels, index


class _Feature(NamedTuple):
  """Holds a feature of the queries: its name, its bins, which one each query is in (-1 for none), its values."""

  name: str
  labels: list[str]
  place: np.ndarray
  values: np.ndarray | None


def _features(data: dataset.Dataset, cases: Cases, tokens: np.ndarray) -> list[_Feature]:
  """Returns the features that vary between queries."""
  asked = data.responses.rows(cases.rows)
  values = text_features.of([data.queries[row] for row in cases.rows])
  values = {'words': values.pop('words'), 'tokens': tokens[cases.rows].astype(float), **values}
  if data.responses.has_answers:
    values['agreement'] = agreement(asked.majority, asked.observed)
  values['llms_right'] = np.sum(asked.observed & (asked.labels >= 0.5), axis=1).astype(float)
  features = [_Feature(name, *quantile_bins(of), of) for name, of in values.items()]
  features.append(_Feature('category', *_categories(data, cases.rows), None))
  return [feature for feature in features if len(feature.labels) > 1]


def _bin(label: str, cases: Cases) -> results.FeatureBin:
  return results.FeatureBin(
    label, len(cases.rows), float(cases.right.mean()), float(cases.oracle.mean()), *_share(cases.lost)
  )


def _explain_feature(feature: _Feature, cases: Cases) -> results.FeatureResult:
  """Tells how the gap to the oracle differs between the bins of a feature; its p-value is not adjusted yet."""
  parts = [cases.select(feature.place == place) for place in range(len(feature.labels))]
  known, correlation, p = feature.place >= 0, None, None
  if np.ptp(cases.lost[known]) > 0:
    p = float(scipy.stats.kruskal(*(part.lost for part in parts)).pvalue)
    if feature.values is not None:
      correlation = float(scipy.stats.spearmanr(feature.values[known], cases.lost[known]).statistic)
  bins = [_bin(label, part) for label, part in zip(feature.labels, parts, strict=True)]
  return results.FeatureResult(feature.name, feature.name in HINDSIGHT, correlation, p, bins)


def explain(data: dataset.Dataset, cases: Cases, tokens: np.ndarray) -> results.ErrorAnalysis:
  """Tells on which queries the oracle is right and the headline policy is not, by features of the queries.

  Whether the rate differs between a feature's bins is tested by Kruskal and Wallis (1952; of right and wrong it is the
  chi-square test of independence), adjusted for the number of features (Holm 1979). The correlation is Spearman's,
  between the feature and the gap. Intervals are Wilson's.

  Args:
    data: The data set.
    cases: From `gather`.
    tokens: int[N], of all queries.

  Returns:
    The analysis; a feature that does not vary is left out.
  """
  cases = cases.select(cases.valid)
  count = len(cases.rows)
  if not count:
    return results.ErrorAnalysis(policies.HEADLINE, cases.sizes, 0, None, (None, None), [])
  features = [_explain_feature(feature, cases) for feature in _features(data, cases, tokens)]
  adjusted = statistics.holm(np.array([np.nan if feature.p is None else feature.p for feature in features]))
  features = [
    msgspec.structs.replace(feature, p=results.known(p)) for feature, p in zip(features, adjusted, strict=True)
  ]
  return results.ErrorAnalysis(policies.HEADLINE, cases.sizes, count, *_share(cases.lost), features)


def _votes_cast(answers: np.ndarray, own: int, over: str) -> collections.Counter[int]:
  """Counts the votes of one LLM, should it be called, by answer: its samples int[S], or their majority `own`."""
  cast = answers.tolist() if over == 'samples' else [own]
  return collections.Counter(answer for answer in cast if answer != voting.NO_ANSWER)


def _listed(data: dataset.Dataset, case: Cases, own: np.ndarray, over: str) -> dict[str, Any]:
  """Returns one query of the page; `case` holds it without the first dimension, `own` int[K] the majorities."""
  row, asked = int(case.rows), data.responses.rows(case.rows)
  texts = {voting.NO_ANSWER: None} | dict(enumerate(data.answers[row] if data.responses.has_answers else ()))
  tally: dict[int, float] = collections.defaultdict(float)
  llms = []
  for column, seen in enumerate(asked.observed):
    called, weight = bool(case.called[column]), float(case.weight[column])
    for answer, count in _votes_cast(asked.answers[column], own[column], over).items() if called else ():
      tally[answer] += weight * count
    given = _votes_cast(asked.answers[column], voting.NO_ANSWER, 'samples')
    llms.append(
      {
        'confidence': round(float(case.confidences[column]), 3),
        'answers': [[texts[answer], count] for answer, count in given.most_common()],
        'right': float(asked.labels[column]) if seen else None,
        'called': called,
        'weight': round(weight, 3) if called else None,
      }
    )
  return {
    'id': data.query_ids[row],
    'query': data.queries[row],
    'task': int(asked.task),
    'references': [texts[answer] for answer in asked.accepted.tolist() if answer >= 0],
    'llms': llms,
    'tally': [[texts[answer], round(weight, 3)] for answer, weight in sorted(tally.items(), key=lambda each: -each[1])],
    'elected': texts[int(case.elected)],
    'right': float(case.right) if case.valid else None,
    'oracle': float(case.oracle) if case.valid else None,
  }


def listing(data: dataset.Dataset, cases: Cases, over: str) -> dict[str, Any]:
  """Lists the test queries for the page that shows them one by one; a random sample where they are too many.

  Args:
    data: The data set.
    cases: From `gather`.
    over: See `voting.vote`.

  Returns:
    `policy`, `sizes`, `llms`, `tasks`, `votes` (whether there are any), `tested` (how many queries were) and `queries`.
  """
  tested = len(cases.rows)
  if tested > MOST_LISTED:
    cases = cases.select(np.sort(np.random.default_rng(0).choice(tested, MOST_LISTED, replace=False)))
  majority = data.responses.majority[cases.rows]
  return {
    'policy': policies.HEADLINE,
    'sizes': cases.sizes,
    'llms': list(data.llms),
    'tasks': [task or '(none)' for task in data.tasks],
    'votes': data.responses.has_answers,
    'tested': tested,
    'queries': [_listed(data, cases.select(place), own.tolist(), over) for place, own in enumerate(majority)],
  }
