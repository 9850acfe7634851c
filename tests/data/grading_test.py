import re
import time

import pytest

from selectllm.data import grading

_UNITS = (
  *(
    '9',
    '1,',
    '1.',
    '1..',
    '1/',
    '1:',
    '1-',
    '1 1/2 ',
    '1e',
    '10^',
    'million ',
    '½',
    '⁶',
    '-',
    '$',
    '=',
    '= ',
    '_',
    '**',
  ),
  *('(', '{', '}', '\\boxed{', '\\frac{', '\\text{', '<<', '<<=', '####', '#### ', '\n', '\0', '\ud800', '.. ', '\\'),
  *(
    'answer is ',
    'answer: ',
    'A:\n',
    'answer to a ',
    'answer is the ',
    'option ',
    '(A) ',
    '(C)',
    '**C',
    'C is correct ',
  ),
  *(
    '```output\n',
    '5 a. ',
    ' 111',
    '1\\,111',
    '#### 5 ',
    '5? ',
    'if 5 ',
    '(5) ',
    '"answer": 5, ',
    '<answer>',
    '<think>',
  ),
  *(
    '</think>',
    '</s>',
    'Question: a\n',
    'Q: 5\nA: 5\n',
    'How many? #### 5 ',
    'wait no ',
    'not (A) ',
    '\\sqrt{',
    '২ ',
    '*a* ',
  ),
  *(
    'the answer is not ',
    'I pick ',
    'A. a\n',
    '(A) is wrong. ',
    'so B. ',
    "'answer': 'C",
    '\\boxed',
    '\\boxed{5} ',
    'lakh ',
  ),
)


@pytest.mark.parametrize('name', [name for name in grading.EXTRACTORS if name != 'math-v1'])
@pytest.mark.parametrize('unit', _UNITS)
def test_hostile_texts_are_read_to_the_end_in_time_that_grows_with_their_length(name, unit):
  extract = grading.get_extractor(name)
  hostile = unit * (10_000 // len(unit))
  start = time.process_time()
  for text in (hostile, f'```output\n{hostile}', f'The answer is {hostile}\nThe answer is (5'):
    answer = extract(text, hostile[:1_000])
    assert answer is None or re.fullmatch(r'[A-J]|-?\d{1,310}(\.\d{1,6})?', answer)
  assert time.process_time() - start < 3  # one that is quadratic takes more, or minutes


@pytest.mark.parametrize('name', [name for name in grading.EXTRACTORS if name != 'math-v1'])
def test_of_a_very_long_text_only_the_ends_are_read(name):
  start = time.process_time()
  grading.get_extractor(name)('1,000 apples. ' * 1_000_000, '')
  assert time.process_time() - start < 5


def test_extractor_names_carry_a_version():
  assert all(re.fullmatch(r'[a-z_]+-v\d+', name) for name in grading.EXTRACTORS)
  assert grading.get_extractor('number-v1')('so 5', '') == '5'


def test_unknown_extractor_names_the_nearest():
  with pytest.raises(ValueError, match=r"'numbers'; known are number-v2, option_letter-v2, .*did you mean 'number-v"):
    grading.get_extractor('numbers')


@pytest.mark.parametrize(
  ('reference', 'extractor', 'expected'),
  [
    ('$1,200.00', 'program_output-v1', '1200'),
    ('18', 'program_output-v1', '18'),
    ('five', 'program_output-v1', None),
    ('5 apples', 'calculation-v1', '5'),
    ('1,200', 'number-v1', '1200'),
    ('She has 9 * 2 = <<9*2=18>>18.\n#### 18', 'number-v1', '18'),
    ('1,200', 'number-v2', '1200'),
    ('₹1,50,000', 'number-v2', '150000'),
    ('$\\frac{3}{4}$', 'number-v2', '0.75'),
    ('\\boxed{18}', 'number-v2', '18'),
    ('She has 9 * 2 = <<9*2=18>>18.\n#### 18', 'number-v2', '18'),
    ('18 cm^2', 'number-v2', '18'),
    ('(C)', 'option_letter-v1', 'C'),
    ('(C)', 'option_letter-v2', 'C'),
    ('c', 'option_letter-v2', 'C'),
    ('C. Paris', 'option_letter-v2', 'C'),
    ('Paris', 'option_letter-v2', None),
    ('A city', 'option_letter-v2', None),
    ('', 'option_letter-v2', None),
  ],
)
def test_canonical_reference(reference, extractor, expected):
  assert grading.canonical_reference(reference, extractor) == expected


@pytest.mark.parametrize('extractor', ['number-v1', 'number-v2'])
@pytest.mark.parametrize(
  'reference',
  [
    '2\\sqrt{3}',
    'x^2+3x+2',
    '(3,\\frac{\\pi}{2})',
    '5-10',
    '3x',
    '\\frac{\\sqrt{3}}{2}',
    '2\\pi',
    '[1, 2)',
    '5, 10',
    '5 or 6',
    '',
  ],
)
def test_a_reference_that_is_more_than_a_number_is_none(reference, extractor):
  assert grading.canonical_reference(reference, extractor) is None


def test_equal_answers_have_one_name_where_strings_do_not_tell():
  maths = grading.get_extractor('math-v1')
  assert grading.known_as('\\sqrt{12}', ['3', '2\\sqrt{3}'], maths) == '2\\sqrt{3}'
  assert grading.known_as('4', ['3', '2\\sqrt{3}'], maths) == '4'
  assert grading.known_as('3.0', ['3'], grading.get_extractor('number-v2')) == '3.0'
