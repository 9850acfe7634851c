import pytest

from selectllm.data import dataset, grade_audit, records
from selectllm.data.records import Record, Sample


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('She has 5. She pays $64 for 16 glasses.\n', 'She pays $64 for 16 glasses.'),
    ('So 18.\n```output\n18\n```', '18'),
    ('<think>It is 5.</think>It is 6.', 'It is 6.'),
    ('', ''),
    ('...\n---', ''),
  ],
)
def test_last_sentence(text, expected):
  assert grade_audit.last_sentence(text) == expected


@pytest.mark.parametrize(
  ('sentence', 'reference', 'stands'),
  [
    ('She pays $64.00 for 16 glasses.', '64', True),
    ('She pays $1,640 for 16 glasses.', '64', False),
    ('She pays 1,5 or 15.', '5', False),
    ('It is \\frac{1}{2}', '0.5', True),
    ('So (C) it is, not (B).', 'C', True),
    ('So C it is.', 'C', True),
    ('A city it is.', 'A', False),
    ('It is (A).', 'A', True),
    ('Carbon it is.', 'C', False),
    ('I said yes, indeed.', 'yes', True),
    ('Yesterday.', 'yes', False),
    ('In New York City', 'new york', True),
    ('', '', False),
  ],
)
def test_values_are_looked_for_not_characters(sentence, reference, stands):
  assert grade_audit.names(sentence, reference) == stands


def test_wrong_responses_with_a_text_and_a_reference_are_counted():
  samples = {
    'a': [Sample('So 6 of 5.', answer='5'), Sample('It is 6.', answer='6'), Sample('It is 7.', answer='7')],
    'b': [Sample('', answer='5'), Sample('No.', error='lost'), Sample('It is a 6.')],
  }
  rows = [Record('q', 'x', 't', '6', samples), Record('p', 'x', 't', '9', samples)]
  data = dataset.build(rows, name='made', size=2, present=['a', 'b'], samples=3)
  assert data.audits == (grade_audit.Audit(5, ((0, 0),)), grade_audit.Audit(2, ((0, 1),)))
  assert data.audits[0].share == pytest.approx(0.2)


def test_scores_have_no_audit():
  rows = [Record('q', 'x', 't', scores={'a': 1.0, 'b': 0.0})]
  assert dataset.build(rows, name='made', size=1, present=['a', 'b'], samples=0).audits == ()


def test_an_llm_that_joins_is_audited_too():
  samples = {name: [Sample('So 6.', answer='6')] for name in 'ab'}
  data = dataset.build([Record('q', 'x', 't', '6', samples)], name='made', size=1, present=['a', 'b'], samples=1)
  joined = dataset.join(data, 'c', {0: [records.Sample('So 6 of 5.', answer='5')]})
  assert joined.audits == (*data.audits, grade_audit.Audit(1, ((0, 0),)))
