import json

import msgspec
import numpy as np
import pytest

from selectllm.data import dataset
from selectllm.evaluate import context, error_analysis, evaluator, metrics, outcomes, results, statistics
from selectllm.selection import confidence, policies

# Two LLMs; queries 0 to 3 train, 4 and 5 validate, 6 to 11 test. Ids: 0 is right.
SPLIT = np.array([0] * 4 + [1] * 2 + [2] * 6, np.int8)
ANSWERS = np.array(
  [[0, 1], [1, 0], [0, 0], [1, 1], [0, 1], [0, 1], [0, 1], [1, 0], [1, 0], [1, 2], [-1, 0], [0, 0]], np.int16
)
CONFIDENCES = np.array(
  [[0.5, 0.5]] * 4 + [[0.9, 0.1]] * 2 + [[0.9, 0.2], [0.8, 0.3], [0.3, 0.8], [0.6, 0.5], [0.7, 0.1], [0.6, 0.4]],
  np.float32,
)
# The test queries' categories: b, b, b, a, a, none.
TASK = np.array([0, 1, 2, 0, 1, 2, 1, 1, 1, 0, 0, 2], np.int16)
OPTIONS = results.EvaluateConfig(
  batch_size=1,
  knn_neighbours=[2],
  near_duplicates=0.8,
  resamples=5,
  threshold=0.5,
  ties='confident',
  vote='majority',
)


def _table(answers=ANSWERS, observed=None, labels=None, tasks=('a', 'b', '')) -> dataset.Dataset:
  observed = np.ones(ANSWERS.shape, bool) if observed is None else observed
  count = len(ANSWERS)
  samples = answers[..., None] if answers.shape[-1] else answers.reshape(count, 2, 0)
  data = dataset.Responses(
    answers=samples,
    majority=dataset.majorities(samples),
    accepted=np.full((count, 1), 0 if answers.shape[-1] else -1, np.int16),
    labels=((answers == 0) & observed).astype(np.float32) if labels is None else labels,
    observed=observed,
    latency_s=np.tile(np.float32([1, 2]), (count, 1)),
    cost_usd=np.full(ANSWERS.shape, np.nan, np.float32),
    completion_tokens=np.full(ANSWERS.shape, np.nan, np.float32),
    task=TASK if len(tasks) > 1 else np.zeros(count, np.int16),
  )
  ids = [f'q{n}' for n in range(count)]
  return dataset.Dataset(
    'toy',
    ('x', 'y'),
    tasks,
    ids,
    [f'query {n}' for n in range(count)],
    data,
    'measured',
    answers=[('7', '8', '9')] * 12,
  )


def _gathered(table: dataset.Dataset, folds: int = 1, over: str = 'majority'):
  run = context.RunContext(
    table, np.stack([SPLIT] * folds), np.stack([CONFIDENCES] * folds), [confidence.TEMPLATE] * folds,
    np.eye(len(SPLIT), dtype=np.float32), msgspec.structs.replace(OPTIONS, vote=over),
  )  # fmt: skip
  evaluation = evaluator.evaluate([run])
  return error_analysis.gather(run, evaluation), evaluation


def _by_task(table: dataset.Dataset, cases: error_analysis.Cases, evaluation: evaluator.Evaluation) -> list[dict]:
  return json.loads(msgspec.json.encode(error_analysis.by_task(table, cases, evaluation)))


def _explain(table: dataset.Dataset, cases: error_analysis.Cases, tokens: np.ndarray) -> dict:
  return json.loads(msgspec.json.encode(error_analysis.explain(table, cases, tokens)))


def test_the_cases_are_those_of_the_headline_policy():
  cases, evaluation = _gathered(_table())
  assert next(iter(policies.POLICIES)) == policies.HEADLINE
  assert cases.sizes == [1]  # x alone is right on validation
  assert cases.rows.tolist() == [6, 7, 8, 9, 10, 11]
  assert cases.called.tolist() == [
    [True, False],
    [True, False],
    [False, True],
    [True, False],
    [True, False],
    [True, False],
  ]
  np.testing.assert_array_equal(cases.first, cases.called)
  assert cases.elected.tolist() == [0, 1, 0, 1, -1, 0]
  assert cases.right.tolist() == [1, 0, 1, 0, 0, 1]
  assert cases.oracle.tolist() == [1, 1, 1, 0, 1, 1]
  assert cases.lost.tolist() == [0, 1, 0, 0, 1, 0]
  kept = evaluation.outcomes
  np.testing.assert_array_equal(cases.elected == 0, kept.correct[:, kept.column(policies.HEADLINE, outcomes.CHOSEN)])


def test_folds_follow_each_other():
  cases, _ = _gathered(_table(), folds=2)
  assert cases.sizes == [1, 1]
  assert cases.rows.tolist() == [6, 7, 8, 9, 10, 11] * 2
  assert cases.lost.tolist() == [0, 1, 0, 0, 1, 0] * 2


def test_categories_one_by_one():
  table = _table()
  rows = _by_task(table, *_gathered(table))
  assert [(row['task'], row['queries']) for row in rows] == [('(none)', 1), ('a', 2), ('b', 3)]
  _, a, b = rows
  assert list(a['methods']) == [
    'weighted_max_conf', 'max_conf', 'labelled_max_conf', 'single:x', 'all_llms', 'oracle',
  ]  # fmt: skip
  assert a['methods']['oracle']['accuracy'] == pytest.approx(1 / 2)
  assert b['methods']['weighted_max_conf']['accuracy'] == pytest.approx(2 / 3)
  assert b['methods']['single:x'] == {
    'accuracy': pytest.approx(1 / 3), 'accuracy_ci': pytest.approx(statistics.wilson_ci(1 / 3, 3)),
  }  # fmt: skip
  assert b['llms'] == {
    'x': {'accuracy': pytest.approx(1 / 3), 'first': pytest.approx(2 / 3), 'called': pytest.approx(2 / 3)},
    'y': {'accuracy': pytest.approx(2 / 3), 'first': pytest.approx(1 / 3), 'called': pytest.approx(1 / 3)},
  }


def test_one_category_is_none():
  table = _table(tasks=('a',))
  assert _by_task(table, *_gathered(table)) == []


def test_the_smallest_of_many_categories_are_put_together(monkeypatch):
  monkeypatch.setattr(error_analysis, 'MOST_CATEGORIES', 1)
  table = _table()
  rows = _by_task(table, *_gathered(table))
  assert [(row['task'], row['queries']) for row in rows] == [('b', 3), ('(2 smaller ones)', 3)]


def test_a_missing_llm_counts_in_no_accuracy_and_a_query_without_any_counts_nowhere():
  observed = np.ones(ANSWERS.shape, bool)
  observed[7, 1] = False
  observed[9] = False
  table = _table(observed=observed)
  cases, evaluation = _gathered(table)
  assert cases.valid.tolist() == [True, True, True, False, True, True]
  assert cases.oracle.tolist() == [1, 0, 1, 0, 1, 1]
  _, a, b = _by_task(table, cases, evaluation)
  assert a['queries'] == 1
  assert b['llms']['y']['accuracy'] == pytest.approx(1 / 2)
  assert _explain(table, cases, np.arange(12))['queries'] == 5


@pytest.mark.parametrize(
  ('values', 'labels', 'index'),
  [
    ([0, 0, 0, 0, 3, 5], ['0', '3', '5'], [0, 0, 0, 0, 1, 2]),
    ([0, 1, 1, 1, 1, 2], ['0', '1', '2'], [0, 1, 1, 1, 1, 2]),
    ([0, 1, 2, 2, 2, 2, 3, 4, 5, 9], ['0 to 1', '2', '3 to 4', '5 to 9'], [0, 0, 1, 1, 1, 1, 2, 2, 3, 3]),
    ([4, np.nan, 4], ['4'], [0, -1, 0]),
    ([np.nan], [], [-1]),
    (range(10, 20), ['10 to 11', '12 to 13', '14 to 15', '16 to 17', '18 to 19'], np.arange(10) // 2),
    ([-30, 5, -12], ['-30', '-12', '5'], [0, 2, 1]),
  ],
)
def test_quantile_bins(values, labels, index):
  found, places = error_analysis.quantile_bins(np.array(values, float))
  assert found == labels
  assert places.tolist() == list(index)


def test_bins_are_never_empty_and_at_most_five():
  rng = np.random.default_rng(0)
  for _ in range(50):
    values = np.round(rng.exponential(rng.choice([0.3, 3, 30]), rng.integers(1, 200)))
    labels, index = error_analysis.quantile_bins(values)
    assert np.bincount(index, minlength=len(labels)).min() > 0
    assert len(labels) <= 5
    assert all(values[index == b].max() < values[index == b + 1].min() for b in range(len(labels) - 1))


def test_agreement_is_of_the_observed():
  majorities = np.array([[0, 0, 1], [2, -1, -1], [-1, -1, -1], [5, 5, 5]])
  observed = np.array([[True, True, True], [True, True, False], [True, True, True], [True, False, True]])
  assert error_analysis.agreement(majorities, observed).tolist() == [67, 50, 0, 100]


def _feature(found, name):
  return next((feature for feature in found['features'] if feature['name'] == name), None)


def test_the_gap_in_the_bins_of_a_feature():
  table = _table()
  cases, _ = _gathered(table)
  tokens = np.array([0] * 6 + [5, 9, 5, 5, 9, 5])
  found = _explain(table, cases, tokens)
  assert (found['policy'], found['queries'], found['lost']) == ('weighted_max_conf', 6, pytest.approx(1 / 3))
  assert found['lost_ci'] == pytest.approx(statistics.wilson_ci(1 / 3, 6))
  tokens = _feature(found, 'tokens')
  assert tokens['correlation'] == pytest.approx(1)
  assert not tokens['hindsight']
  assert [row['bin'] for row in tokens['bins']] == ['5', '9']
  assert tokens['bins'][0] == {
    'bin': '5', 'queries': 4, 'accuracy': 0.75, 'oracle': 0.75, 'lost': 0, 'lost_ci': list(statistics.wilson_ci(0, 4)),
  }  # fmt: skip
  assert tokens['bins'][1]['lost'] == 1
  right = _feature(found, 'llms_right')
  assert right['hindsight']
  assert [(row['bin'], row['queries'], row['oracle']) for row in right['bins']] == [
    ('0', 1, 0),
    ('1', 4, 1),
    ('2', 1, 1),
  ]
  assert [row['bin'] for row in _feature(found, 'category')['bins']] == ['(none)', 'a', 'b']
  assert _feature(found, 'category')['correlation'] is None
  assert _feature(found, 'words') is None  # all have as many


def test_p_values_are_those_of_the_chi_square_test_adjusted():
  table = _table()
  cases, _ = _gathered(table)
  repeated = cases.select(np.repeat(np.arange(6), 10))
  noise = np.zeros(12, int)
  found = _explain(table._replace(tasks=('a', 'a', 'a')), repeated, noise)
  alone = _explain(table, repeated, np.array([0] * 6 + [5, 9, 5, 5, 9, 5]))
  assert len(alone['features']) == len(found['features']) + 1
  tokens = _feature(alone, 'tokens')
  # The table [[40, 0], [0, 20]] has chi-square 60; Kruskal and Wallis take 59 of 60 of it.
  from_chi_square = metrics.scipy.stats.chi2.sf(59, 1)
  assert tokens['p'] == pytest.approx(from_chi_square * len(alone['features']), rel=1e-6)


def test_nothing_lost_is_no_difference():
  table = _table(answers=np.zeros_like(ANSWERS))
  cases, _ = _gathered(table)
  found = _explain(table, cases, np.arange(12))
  assert found['lost'] == 0
  assert {feature['p'] for feature in found['features']} == {None}
  assert {feature['correlation'] for feature in found['features']} == {None}


def test_scores_have_a_gap_and_no_agreement():
  labels = np.tile(np.float32([0.25, 1.0]), (12, 1))
  table = _table(answers=np.zeros((12, 0), np.int16), labels=labels)
  cases, evaluation = _gathered(table)
  assert cases.lost.tolist() == [0.75, 0.75, 0, 0.75, 0.75, 0.75]
  found = _explain(table, cases, np.arange(12))
  assert _feature(found, 'agreement') is None
  assert found['lost'] == pytest.approx(0.625)
  assert 'all_llms' not in _by_task(table, cases, evaluation)[0]['methods']
  listed = error_analysis.listing(table, cases, 'majority')
  assert not listed['votes']
  assert listed['queries'][0] == {
    'id': 'q6', 'query': 'query 6', 'task': 1, 'references': [], 'tally': [], 'elected': None,
    'right': 0.25, 'oracle': 1.0,
    'llms': [
      {'confidence': 0.9, 'answers': [], 'right': 0.25, 'called': True, 'weight': 0.9},
      {'confidence': 0.2, 'answers': [], 'right': 1.0, 'called': False, 'weight': None},
    ],
  }  # fmt: skip


def test_queries_are_listed_with_answers_and_votes():
  observed = np.ones(ANSWERS.shape, bool)
  observed[6, 1] = False
  table = _table(observed=observed)
  cases, _ = _gathered(table)
  listed = error_analysis.listing(table, cases._replace(called=table.responses.observed[cases.rows]), 'majority')
  assert (listed['tested'], listed['llms'], listed['tasks'], listed['votes']) == (
    6,
    ['x', 'y'],
    ['a', 'b', '(none)'],
    True,
  )
  first, second = listed['queries'][:2]
  assert first['llms'][1] == {'confidence': 0.2, 'answers': [['8', 1]], 'right': None, 'called': False, 'weight': None}
  assert first['tally'] == [['7', 0.9]]
  assert second == {
    'id': 'q7', 'query': 'query 7', 'task': 1, 'references': ['7'], 'tally': [['8', 0.8], ['7', 0.3]], 'elected': '8',
    'right': 0, 'oracle': 1,
    'llms': [
      {'confidence': 0.8, 'answers': [['8', 1]], 'right': 0, 'called': True, 'weight': 0.8},
      {'confidence': 0.3, 'answers': [['7', 1]], 'right': 1, 'called': True, 'weight': 0.3},
    ],
  }  # fmt: skip
  assert listed['queries'][4]['elected'] is None


def test_samples_are_counted_one_by_one_where_they_vote():
  table = _table()
  sampled = np.stack([ANSWERS, np.zeros_like(ANSWERS), np.zeros_like(ANSWERS)], -1)
  table = table._replace(responses=table.responses._replace(answers=sampled, majority=dataset.majorities(sampled)))
  cases, _ = _gathered(table, over='samples')
  over = {over: error_analysis.listing(table, cases, over)['queries'][1] for over in ('majority', 'samples')}
  assert over['samples']['llms'][0]['answers'] == [['7', 2], ['8', 1]]
  assert over['samples']['tally'] == [['7', 1.6], ['8', 0.8]]
  assert over['majority']['tally'] == [['7', 0.8]]


def test_too_many_queries_are_sampled_and_counted(monkeypatch):
  monkeypatch.setattr(error_analysis, 'MOST_LISTED', 4)
  table = _table()
  cases, _ = _gathered(table)
  listed = error_analysis.listing(table, cases, 'majority')
  assert listed['tested'] == 6
  ids = [query['id'] for query in listed['queries']]
  assert len(ids) == 4
  assert ids == sorted(ids, key=lambda name: int(name[1:]))
  assert listed == error_analysis.listing(table, cases, 'majority')
