import itertools
import random

import numpy as np
import pytest

from selectllm.data import near_duplicates, splits

TEST_IN_TRAIN, TEST_IN_VALIDATION, VALIDATION_IN_TRAIN = range(3)
TRAIN, VALIDATION, TEST, UNUSED = splits.TRAIN, splits.VALIDATION, splits.TEST, splits.UNUSED
LONG = (
  'A baker sells twelve loaves of bread in the morning and nine more in the afternoon, and then gives away a third of '
  'those that are left on the shelf. How many does she sell on that day?'
)


def _find(*placed: tuple[str, int], near: float = 0.8) -> near_duplicates.Overlap:
  questions, split = zip(*placed, strict=True)
  return near_duplicates.find(questions, np.int8([split]), near)


def _flagged(found: np.ndarray) -> list[tuple[int, int]]:
  """Rows and pairs of splits of the one split."""
  return [(int(row), int(place)) for row, place in np.argwhere(found[0])]


def _unlike(count: int, seed: int = 0) -> list[str]:
  rng = random.Random(seed)
  return [' '.join(''.join(rng.choices('abcdefghij', k=6)) for _ in range(12)) for _ in range(count)]


def test_the_same_question_is_found_in_every_split_that_must_not_hold_it():
  found = _find(
    ('What is a cell?', TRAIN), ('  what IS a\ncell?', TEST), ('Ｗhat is a cell?', VALIDATION), ('No', TEST)
  )
  assert _flagged(found.exact) == [(1, TEST_IN_TRAIN), (1, TEST_IN_VALIDATION), (2, VALIDATION_IN_TRAIN)]
  assert not found.near.any()
  assert found.distinct == 2


@pytest.mark.parametrize(
  'other',
  [
    LONG.replace(',', ';'),
    LONG.replace('bread in', 'breadin'),
    LONG.replace('baker', 'woman'),
    LONG.replace('twelve', 'eleven'),  # a template, with another answer
    'Please: ' + LONG,
  ],
)
def test_a_question_that_is_nearly_the_same_is_found(other):
  found = _find(*((text, TRAIN) for text in _unlike(20)), (LONG, TRAIN), (other, TEST))
  assert _flagged(found.near) == [(21, TEST_IN_TRAIN)]
  assert not found.exact.any()
  ((of, within, place, similarity),) = found.pairs
  assert (of, within, place) == (21, 20, TEST_IN_TRAIN)
  assert 0.8 <= similarity < 1
  assert similarity == near_duplicates.jaccard(
    *(near_duplicates.shingles(splits.normalise(text)) for text in (LONG, other))
  )


@pytest.mark.parametrize(
  ('one', 'other'),
  [
    ('What is the capital of France?', 'What is the capital of Spain?'),
    ('Find log 0.0364.', 'Find log 0.364.'),
    ('−4 + (−3) =', '−4 + (−5) ='),
    ('Which of the following is true?', 'Which of the following is not true?'),
    ('cat', 'cats'),
    ('', 'a'),
    (LONG, ' '.join(reversed(LONG.split()))),
    (LONG, LONG + ' ' + _unlike(1)[0]),
  ],
)
def test_another_question_is_not(one, other):
  found = _find((one, TRAIN), (other, TEST))
  assert not found.exact.any()
  assert not found.near.any()
  assert found.pairs == []


def test_short_and_empty_texts_are_like_their_equals_alone():
  texts = ['', ' ', '7', '77', '7 7', 'abcd', 'abcde', '👍', '\ud800']
  found = _find(*((text, TRAIN) for text in texts), *((text, TEST) for text in ('\n', '77', '👍', '\ud801')))
  assert _flagged(found.exact) == [(9, TEST_IN_TRAIN), (10, TEST_IN_TRAIN), (11, TEST_IN_TRAIN)]
  assert not found.near.any()


def test_a_query_is_counted_as_the_same_before_as_nearly_the_same():
  found = _find((LONG, TRAIN), (LONG + '!', TRAIN), (LONG, TEST), (LONG + '!', VALIDATION))
  assert _flagged(found.exact) == [(2, TEST_IN_TRAIN), (3, VALIDATION_IN_TRAIN)]
  assert _flagged(found.near) == [(2, TEST_IN_VALIDATION)]


def test_twins_in_one_split_and_unused_queries_are_nobodys_duplicates():
  found = _find((LONG, TEST), (LONG + '!', TEST), (LONG, UNUSED), (LONG + '?', UNUSED), ('Something else', TRAIN))
  assert not (found.exact | found.near).any()
  assert found.distinct == found.searched == 3


def test_every_fold_is_looked_at():
  questions = [LONG, LONG + '!', *_unlike(4)]
  split = np.int8([[TEST, TRAIN, TRAIN, TRAIN, VALIDATION, TEST], [TRAIN, TEST, TRAIN, TRAIN, TEST, VALIDATION]])
  found = near_duplicates.find(questions, split, 0.8)
  assert np.argwhere(found.near).tolist() == [[0, 0, TEST_IN_TRAIN], [1, 1, TEST_IN_TRAIN]]
  assert {(pair.of, pair.within) for pair in found.pairs} == {(0, 1), (1, 0)}


def test_off_at_zero_but_for_equal_questions():
  found = _find((LONG, TRAIN), (LONG + '!', TEST), (LONG, TEST), near=0)
  assert _flagged(found.exact) == [(2, TEST_IN_TRAIN)]
  assert not found.near.any()
  assert found.searched == 0


def test_nothing_that_comparing_all_pairs_finds_is_missed():
  rng = random.Random(1)
  words = [text.split() for text in _unlike(120)]
  questions = [
    ' '.join(word if rng.random() > 0.04 * changed else word[::-1] for word in base)
    for base in words
    for changed in range(3)
  ]
  split = splits.assign([str(n) for n in range(len(questions))], seed=0, validation=0.2, test=0.3)[None]
  pieces = [near_duplicates.shingles(splits.normalise(question)) for question in questions]
  expected = np.zeros((len(questions), len(near_duplicates.SPLIT_PAIRS)), bool)
  exact = np.zeros_like(expected)
  for (i, one), (j, other) in itertools.permutations(enumerate(pieces), 2):
    for place, (of, within) in enumerate(near_duplicates.SPLIT_PAIRS):
      if split[0, i] == of and split[0, j] == within:
        expected[i, place] |= near_duplicates.jaccard(one, other) >= 0.8
        exact[i, place] |= questions[i] == questions[j]
  found = near_duplicates.find(questions, split, 0.8)
  assert expected.sum() > exact.sum() > 20
  np.testing.assert_array_equal(found.exact[0], exact)
  np.testing.assert_array_equal(found.near[0], expected & ~exact)
  for pair in found.pairs:
    assert pair.similarity == near_duplicates.jaccard(pieces[pair.of], pieces[pair.within])
    assert (split[0, pair.of], split[0, pair.within]) == near_duplicates.SPLIT_PAIRS[pair.splits]


def test_a_crowd_from_one_template_is_found_without_comparing_all():
  questions = [LONG.replace('twelve', str(n)) for n in range(300)]
  split = np.repeat(np.int8([[TRAIN, VALIDATION, TEST]]), 100, axis=1)  # in order, as published files are
  found = near_duplicates.find(questions, split, 0.8)
  assert found.near[0, 200:, TEST_IN_TRAIN].all()
  assert found.near[0, 200:, TEST_IN_VALIDATION].all()
  assert found.near[0, 100:200, VALIDATION_IN_TRAIN].all()
  assert found.near.sum() == 300
  assert len(found.pairs) <= 3 * len(questions)


def test_who_is_in_a_crowd_that_is_only_somewhat_alike_is_counted(monkeypatch):
  monkeypatch.setattr(near_duplicates, 'MOST_COMPARED', 4)
  tails = _unlike(200)
  questions = [LONG * 2 + tail[:60] for tail in tails]
  split = np.repeat(np.int8([[TRAIN, TEST]]), 100, axis=1)
  found = near_duplicates.find(questions, split, 0.8)
  assert not found.near.any()
  assert found.crowded > 0


def test_of_too_many_a_sample_is_searched_for_near_duplicates(monkeypatch):
  monkeypatch.setattr(near_duplicates, 'MOST_TEXTS', 30)
  texts = _unlike(40)
  questions = [*texts, *(text + '!' for text in texts), *texts[:5]]
  split = np.int8([[TRAIN] * 40 + [TEST] * 45])
  found = near_duplicates.find(questions, split, 0.8)
  assert (found.distinct, found.searched) == (80, 30)
  assert found.exact.sum() == 5  # all of them all the same
  assert 0 < found.near.sum() < 40


def test_two_searches_are_equal():
  questions = [LONG.replace('twelve', str(n % 40)) for n in range(120)]
  split = splits.assign([str(n) for n in range(120)], seed=0, validation=0.2, test=0.3)[None]
  one, other = (near_duplicates.find(questions, split, 0.8) for _ in range(2))
  assert one.pairs == other.pairs
  np.testing.assert_array_equal(one.near, other.near)


@pytest.mark.parametrize('near', [0.5, 1.0])
def test_the_threshold_is_the_callers(near):
  found = _find((LONG, TRAIN), (LONG.replace('baker', 'woman').replace('bread', 'cakes'), TEST), near=near)
  assert found.near.any() == (near == 0.5)
