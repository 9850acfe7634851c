import json
from typing import Any

import msgspec
import numpy as np
import pytest

from selectllm.data import dataset, splits
from selectllm.evaluate import contamination, outcomes, statistics

LONG = 'Every other week a gardener plants seven rows of carrots. How many rows are there after half a year of work?'
# The last four test: word for word in train, nearly in train, nearly in validation, nowhere.
QUESTIONS = [LONG, 'Who?', 'A list:\n' + LONG[::-1], LONG, LONG + '!', 'A list: ' + LONG[::-1] + '!', 'Why? `|`']
SPLIT = np.int8([[0, 0, 1, 2, 2, 2, 2]])


def _table(questions: list[str]) -> dataset.Dataset:
  ids = [f'q{n}' for n in range(len(questions))]
  nothing = dataset.Responses(*(np.zeros(0),) * len(dataset.Responses._fields))
  return dataset.Dataset(
    'toy', ('a', 'b'), ('sums',), ids, ['What?'] * len(ids), nothing, 'unknown', questions=questions
  )


def _played(split: np.ndarray) -> outcomes.Outcomes:
  """The policy remembers and guesses: right wherever it met the question, and else on no query."""
  tested = int((split == splits.TEST).sum())
  return outcomes.Outcomes(
    query_ids=np.arange(tested).astype(str),
    names=np.array(['max_conf', 'all_llms', 'single:a', 'single:b', 'max_conf', 'random']),
    sizes=np.array([1, 2, 1, 1, outcomes.CHOSEN, outcomes.CHOSEN], np.int16),
    correct=np.stack(
      [np.arange(tested) < 3, *[np.arange(tested) % 2 == 1] * 3, np.arange(tested) < 3, np.ones(tested)], 1
    ),
    valid=np.ones((tested, 6), bool),
  )


def _find(questions: list[str] = QUESTIONS, split: np.ndarray = SPLIT, **changes: Any) -> dict[str, Any]:
  options = {'near': 0.8, 'resamples': 50} | changes
  found = contamination.find(_table(questions), split, ['single:b'], _played(split), **options)
  return json.loads(json.dumps(msgspec.to_builtins(found), allow_nan=False))


def test_duplicates_are_counted_by_the_questions_not_by_what_the_classifier_reads():
  assert _find()['duplicates'] == [
    {'of': 'test', 'within': 'train', 'queries': 4, 'exact': 1, 'near': 1},
    {'of': 'test', 'within': 'validation', 'queries': 4, 'exact': 0, 'near': 1},
    {'of': 'validation', 'within': 'train', 'queries': 1, 'exact': 0, 'near': 0},
  ]


def test_methods_are_judged_again_without_the_affected_queries():
  found = _find()
  assert (found['tested'], found['clean']) == (4, 1)
  assert [row['name'] for row in found['methods']] == ['max_conf', 'all_llms', 'single:b']
  policy, whole, _ = found['methods']
  assert (policy['accuracy'], policy['clean_accuracy']) == (0.75, 0)
  assert policy['clean_ci'] == pytest.approx(statistics.wilson_ci(0, 1))
  assert (whole['accuracy'], whole['clean_accuracy']) == (0.5, 1)
  assert whole['clean_ci'] == pytest.approx(statistics.wilson_ci(1, 1))


def test_where_every_test_query_is_affected_nothing_is_known_of_the_rest():
  found = _find(QUESTIONS[:6], SPLIT[:, :6])
  assert found['clean'] == 0
  assert [(row['clean_accuracy'], row['clean_ci']) for row in found['methods']] == [(None, [None, None])] * 3


def test_without_the_search_equal_questions_alone_are_affected():
  found = _find(near=0.0)
  assert [(row['exact'], row['near']) for row in found['duplicates']] == [(1, None), (0, None), (0, None)]
  assert found['clean'] == 3


def test_folds_are_counted_together_and_judged_on_their_own_test_queries():
  split = np.concatenate([SPLIT, np.int8([[2, 2, 0, 0, 0, 1, 0]])])
  found = _find(split=split)
  assert [row['queries'] for row in found['duplicates']] == [6, 6, 2]
  assert [row['exact'] for row in found['duplicates']] == [2, 0, 0]  # the first question trains once and tests once
  assert found['clean'] == 1 + 1


def test_examples_show_where_long_texts_differ():
  questions = [
    f'{"blah " * 60}and {LONG}',
    'short one, long enough',
    f'{"blah " * 60}nor {LONG}',
    'short one, long enough!',
  ]
  found = _find(questions, np.int8([[0, 0, 2, 2]]))
  short, long = found['examples']
  assert short['ids'] == ['q3', 'q1']
  assert short['texts'] == [questions[3], questions[1]]
  assert long['ids'] == ['q2', 'q0']
  assert (long['of'], long['within']) == ('test', 'train')
  assert [text[:1] + text[-1:] for text in long['texts']] == ['……', '……']
  assert 'nor Every other week' in long['texts'][0]
  assert 'and Every other week' in long['texts'][1]
  assert 0.8 <= long['similarity'] < short['similarity'] < 1


@pytest.mark.parametrize(('pairs', 'shown'), [(3, 3), (40, 10)])
def test_ten_examples_at_most(pairs, shown):
  questions = [f'{n} {LONG.replace("seven", str(n) * 9)} {n}' for n in range(100, 100 + pairs)]
  split = np.int8([[0] * pairs + [2] * pairs])
  found = _find([*questions, *(question + '!' for question in questions)], split)
  assert len(found['examples']) == shown
  similarities = [example['similarity'] for example in found['examples']]
  assert similarities == sorted(similarities, reverse=True)
