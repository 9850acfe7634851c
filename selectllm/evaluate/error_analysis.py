"""A run explained: by category, by what the queries look like, and query by query.

Everything is about the headline policy (the first of `policies.POLICIES`) at the size chosen on validation, on test
queries alone. T test queries, K LLMs.
"""

import collections
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import scipy.stats

from selectllm.data import dataset, splits, text_features
from selectllm.evaluate import evaluator, outcomes, statistics
from selectllm.infra import batching
from selectllm.selection import baselines, policies, voting

# Bins of a feature hold about as many queries each.
MOST_BINS = 5
# Categories beyond so many, the smallest, are put together.
MOST_CATEGORIES = 60
# The page lists a random sample of more queries than this.
MOST_LISTED = 5_000
# Features that are known only once all LLMs have answered.
HINDSIGHT = ('agreement', 'llms_right')


class Cases(NamedTuple):
  """What the headline policy made of T test queries.

  Attributes:
    policy: Its name.
    sizes: The size chosen on validation, one for each fold.
    rows: int[T], where the queries stand in the table.
    confidences: float32[T, K].
    first: bool[T, K], the LLM that is called where only one is.
    called: bool[T, K].
    weight: float32[T, K], what each LLM's vote counts.
    elected: int32[T], id of the elected answer; `voting.NO_ANSWER` for none, and for scores.
    right: float32[T], 1 where it is right (a score for scores-only data).
    oracle: float32[T], 1 where any LLM is right (the best score).
    valid: bool[T], false where no LLM was observed: such queries count nowhere.
  """

  policy: str
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
    """float32[T], 1 where the oracle is right and the policy is not; of scores, what it falls short by."""
    return np.maximum(self.oracle - self.right, 0)

  def kept(self, index: np.ndarray | int) -> 'Cases':
    """Some of the cases, by index or mask."""
    return Cases(self.policy, self.sizes, *(array[index] for array in self[2:]))


@functools.partial(jax.jit, static_argnames=('policy', 'over'))
def _elect(confidences, answers, observed, selecting, policy, over):
  """Whom the policy calls at the first size, and at the second; its weights there, and what is elected."""
  selected = policies.select_all(confidences, observed, selecting)[policy]
  called = selected.mask & observed[:, None]  # [N, 2, K]
  weight = selected.weight[:, 1]
  elected = jnp.full(len(called), voting.NO_ANSWER, jnp.int32)
  if answers.shape[2]:
    vote = functools.partial(voting.vote, over=over)
    elected = jax.vmap(vote, in_axes=(0, 0, 0, None))(answers, called[:, 1], weight, selecting.latency_s)
  return called[:, 0], called[:, 1], weight, elected


def gather(
  data: dataset.Dataset,
  parts: list[evaluator.FoldPredictions],
  results: dict[str, Any],
  played: outcomes.Outcomes,
  config: ml_collections.ConfigDict,
) -> Cases:
  """Gathers the headline policy's cases of all folds, in the order of `played`.

  Args:
    data: The data set.
    parts: As for `evaluator.evaluate`.
    results: What it returned.
    played: Likewise.
    config: `config.evaluate`.
  """
  policy = next(iter(results['selected']))
  chosen = next(row['sizes'] for row in results['chosen'] if row['name'] == policy)
  ballots = data.responses.answers.shape[1] * (data.responses.answers.shape[2] if config.vote == 'samples' else 1)
  gathered = []
  for part, size in zip(parts, chosen, strict=True):
    rows = np.flatnonzero(part.split == splits.TEST)
    asked, confidences = data.responses.rows(rows), part.confidences[rows]
    sizes = np.array([1, size], np.int32)
    selecting = policies.PolicyOptions(
      baselines.expected_latency_s(data.responses, part.split), sizes, config.threshold
    )
    step = functools.partial(_elect, selecting=selecting, policy=policy, over=config.vote)
    arrays = (confidences, asked.answers, asked.observed)
    gathered.append((rows, confidences, *batching.apply(step, arrays, rows=batching.block_size(ballots))))
  ours, oracle = played.column(policy, outcomes.CHOSEN), played.column('oracle', outcomes.NO_SIZE)
  return Cases(
    policy,
    chosen,
    *(np.concatenate(arrays) for arrays in zip(*gathered, strict=True)),
    *[played.correct[:, ours], played.correct[:, oracle], played.valid[:, ours]],
  )


def _share(values: np.ndarray) -> tuple[float, list[float]]:
  """The mean of some values, and its interval."""
  mean = float(np.mean(values, dtype=np.float64))
  return mean, list(statistics.wilson_ci(mean, len(values)))


def _categories(data: dataset.Dataset, rows: np.ndarray) -> tuple[list[str], np.ndarray]:
  """Names of the categories of some queries in alphabetical order, and which of them each query is of, int[T]."""
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


def by_task(
  data: dataset.Dataset, cases: Cases, results: dict[str, Any], played: outcomes.Outcomes
) -> list[dict[str, Any]]:
  """How the headline methods fare, and whom the headline policy calls, category by category.

  Args:
    data: The data set.
    cases: From `gather`.
    results: From `evaluator.evaluate`.
    played: Likewise.

  Returns:
    A row for each category: `task`, `queries`, `methods` (name -> `accuracy` and `accuracy_ci`, Wilson), and for each
    LLM its `accuracy`, the share of queries for which it is the `first` choice, and for which it is `called`. Nothing
    where all queries are of one category.
  """
  wanted = [(name, outcomes.CHOSEN) for name in results['selected']]
  wanted += [(name, 1) for name in results['best_single']]
  wanted += [('all_llms', len(data.llms)), ('oracle', outcomes.NO_SIZE)]
  columns = {name: column for name, size in wanted if (column := played.column(name, size)) is not None}
  names, index = _categories(data, cases.rows)
  labels, observed = data.responses.labels[cases.rows], data.responses.observed[cases.rows]
  rows: list[dict[str, Any]] = []
  for place, task in enumerate(names if len(names) > 1 else []):
    of = (index == place) & cases.valid
    if not of.any():
      continue
    methods, llms = {}, {}
    for name, column in columns.items():
      if (counted := of & played.valid[:, column]).any():
        accuracy, interval = _share(played.correct[counted, column])
        methods[name] = {'accuracy': accuracy, 'accuracy_ci': interval}
    for column, llm in enumerate(data.llms):
      seen = of & observed[:, column]
      llms[llm] = {
        'accuracy': float(labels[seen, column].mean()) if seen.any() else None,
        'first': float(cases.first[of, column].mean()),
        'called': float(cases.called[of, column].mean()),
      }
    rows.append({'task': task, 'queries': int(of.sum()), 'methods': methods, 'llms': llms})
  return rows


def agreement(majorities: np.ndarray, observed: np.ndarray) -> np.ndarray:
  """The share of the observed LLMs that give the most common answer, in whole percent, float64[T]; NaN where none is.

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


def _feature(
  name: str, labels: list[str], index: np.ndarray, values: np.ndarray | None, cases: Cases
) -> dict[str, Any]:
  """The bins of one feature, the p-value of the gap's differing between them, and the rank correlation with it."""
  bins, groups, lost = [], [], cases.lost
  for place, label in enumerate(labels):
    of = index == place
    groups.append(lost[of])
    share, interval = _share(lost[of])
    bins.append(
      {
        'bin': label,
        'queries': int(of.sum()),
        'accuracy': float(cases.right[of].mean()),
        'oracle': float(cases.oracle[of].mean()),
        'lost': share,
        'lost_ci': interval,
      }
    )
  varies = np.ptp(np.concatenate(groups)) > 0
  correlation = None
  if values is not None and varies:
    correlation = float(scipy.stats.spearmanr(values[index >= 0], lost[index >= 0]).statistic)
  p = float(scipy.stats.kruskal(*groups).pvalue) if varies else None
  return {'name': name, 'hindsight': name in HINDSIGHT, 'correlation': correlation, 'p': p, 'bins': bins}


def explain(data: dataset.Dataset, cases: Cases, tokens: np.ndarray) -> dict[str, Any]:
  """On which queries the oracle is right and the headline policy is not, by what can be said of the queries.

  Whether the rate differs between a feature's bins is tested by Kruskal and Wallis (1952; of right and wrong it is the
  chi-square test of independence), adjusted for the number of features (Holm). `correlation` is Spearman's, between the
  feature and the gap. Intervals are Wilson's.

  Args:
    data: The data set.
    cases: From `gather`.
    tokens: int[N], of all queries.

  Returns:
    `policy`, `sizes`, `queries`, the rate `lost` with `lost_ci`, and `features`: each with its `bins`. A feature that
    does not vary is left out.
  """
  cases = cases.kept(cases.valid)
  found: dict[str, Any] = {'policy': cases.policy, 'sizes': cases.sizes, 'queries': len(cases.rows)}
  if not len(cases.rows):
    return found | {'lost': None, 'lost_ci': [None, None], 'features': []}
  asked = data.responses.rows(cases.rows)
  values = text_features.of([data.queries[row] for row in cases.rows])
  values = {'words': values.pop('words'), 'tokens': tokens[cases.rows].astype(float), **values}
  if data.responses.has_answers:
    values['agreement'] = agreement(asked.majority, asked.observed)
  values['llms_right'] = np.sum(asked.observed & (asked.labels >= 0.5), axis=1).astype(float)
  binned: list[tuple[str, list[str], np.ndarray, np.ndarray | None]] = [
    (name, *quantile_bins(of), of) for name, of in values.items()
  ]
  binned.append(('category', *_categories(data, cases.rows), None))
  kept = [_feature(*feature, cases) for feature in binned if len(feature[1]) > 1]
  known = statistics.holm(np.array([np.nan if feature['p'] is None else feature['p'] for feature in kept]))
  for feature, p in zip(kept, known.tolist(), strict=True):
    feature['p'] = None if np.isnan(p) else p
  share, interval = _share(cases.lost)
  return found | {'lost': share, 'lost_ci': interval, 'features': kept}


def _votes_cast(answers: np.ndarray, own: int, over: str) -> collections.Counter[int]:
  """How often one LLM votes for each answer id, should it be called: its samples int[S], or their majority `own`."""
  cast = answers.tolist() if over == 'samples' else [own]
  return collections.Counter(answer for answer in cast if answer != voting.NO_ANSWER)


def _listed(data: dataset.Dataset, case: Cases, own: np.ndarray, over: str) -> dict[str, Any]:
  """One query of the page: `case` holds its fields without the first dimension, `own` int[K] the majority answers."""
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
    'reference': texts[int(asked.reference)],
    'llms': llms,
    'tally': [[texts[answer], round(weight, 3)] for answer, weight in sorted(tally.items(), key=lambda each: -each[1])],
    'elected': texts[int(case.elected)],
    'right': float(case.right) if case.valid else None,
    'oracle': float(case.oracle) if case.valid else None,
  }


def listing(data: dataset.Dataset, cases: Cases, over: str) -> dict[str, Any]:
  """The test queries, query by query, for the page that lists them; a random sample where they are too many.

  Args:
    data: The data set.
    cases: From `gather`.
    over: See `voting.vote`.

  Returns:
    `policy`, `sizes`, `llms`, `tasks`, `votes` (whether there are any), `tested` (how many queries were) and `queries`.
  """
  tested = len(cases.rows)
  if tested > MOST_LISTED:
    cases = cases.kept(np.sort(np.random.default_rng(0).choice(tested, MOST_LISTED, replace=False)))
  majority = data.responses.majority[cases.rows]
  return {
    'policy': cases.policy,
    'sizes': cases.sizes,
    'llms': list(data.llms),
    'tasks': [task or '(none)' for task in data.tasks],
    'votes': data.responses.has_answers,
    'tested': tested,
    'queries': [_listed(data, cases.kept(place), own.tolist(), over) for place, own in enumerate(majority)],
  }
