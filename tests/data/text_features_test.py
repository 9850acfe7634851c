import numpy as np
import pytest

from selectllm.data import text_features


@pytest.mark.parametrize(
  ('query', 'count'),
  [('', 0), ('It costs $1,200.50, or 3 x 4.', 3), ('Two of 12 and 7/8', 3), ('x2 and 10%', 2)],
)
def test_numbers(query, count):
  assert text_features.numbers(query) == count


@pytest.mark.parametrize(
  ('query', 'count'),
  [
    ('What is 3 + 4 * (2-1)?', 3),
    ('x^2 − 3x', 2),
    ('a well-known and/or rule - that is, no operation', 1),  # a rule between words, set off by spaces, counts as minus
    ('-5 degrees on 3 May', 0),
    ('He buys twice as many, at 5% off, per day', 3),
    ('Each of them has MORE', 2),
    ('seventimes', 0),
  ],
)
def test_operations_are_signs_between_operands_and_words(query, count):
  assert text_features.operations(query) == count


@pytest.mark.parametrize(
  ('query', 'count'),
  [
    ('Where did Marie Curie work? In Paris.', 2),
    ('Tom and Jerry met in the World Health Organization, France.', 3),
    ("I think I'm right.", 0),
    ('Name the capital:\nA. Paris\nB. London', 0),
    ("We saw O'Neill and Jean-Luc", 2),
    ('Берлин и Москва', 1),
  ],
)
def test_entities_are_runs_of_capitals_that_begin_no_sentence(query, count):
  assert text_features.entities(query) == count


@pytest.mark.parametrize(
  ('word', 'count'),
  [('the', 1), ('table', 2), ('baked', 1), ('wanted', 2), ('horses', 2), ('makes', 1), ('mathematics', 4), ('hmm', 1)],
)
def test_syllables(word, count):
  assert text_features.syllables(word) == count


def test_reading_ease_is_flesch_s():
  # Ten words in two sentences, twelve syllables; the dot in 3.5 ends none.
  query = 'The cat sat on the mat. It was very happy 3.5'
  assert text_features.reading_ease(query) == pytest.approx(206.835 - 1.015 * 10 / 1 - 84.6 * 12 / 10)
  assert text_features.reading_ease(query + '!') == pytest.approx(206.835 - 1.015 * 10 / 2 - 84.6 * 12 / 10)
  assert text_features.reading_ease('a.') > text_features.reading_ease('incomprehensibility notwithstanding')


def test_all_features_are_whole_numbers_and_unknown_ones_nan():
  queries = ['', '12 + 7 = ?', 'Does anybody know it?', '\ud800 <b>', '\n']
  found = text_features.of(queries)
  assert list(found) == list(text_features.FEATURES)
  for values in found.values():
    assert values.shape == (5,)
    known = values[~np.isnan(values)]
    np.testing.assert_array_equal(known, np.round(known))
  np.testing.assert_array_equal(np.isnan(found['reading_ease']), [True, True, False, False, True])
  assert found['words'].tolist() == [0, 5, 4, 2, 0]
