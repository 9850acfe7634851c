"""The JSON schemas that ship with the package are those of the code, and say the same as what reads the files."""

import json
import lzma

import jsonschema
import pytest

from selectllm.data import records
from selectllm.data.builders import mini
from selectllm.evaluate import results
from tools import write_schemas


def _validator(name: str) -> jsonschema.Draft202012Validator:
  schema = json.loads((write_schemas.DIRECTORY / name).read_text())
  jsonschema.Draft202012Validator.check_schema(schema)
  return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize('name', ['report.schema.json', 'response_record.schema.json'])
def test_shipped_schemas_are_up_to_date(name):
  text = (write_schemas.DIRECTORY / name).read_text()
  assert text == write_schemas.schemas()[name], 'run `python -m tools.write_schemas`'


@pytest.mark.parametrize('kind', ['estimated', 'priced', 'scores', 'unseen', 'folds', 'tasks'])
def test_reports_are_valid(results_of, kind):
  validator = _validator('report.schema.json')
  content = json.loads(results.to_json(results_of(kind=kind)))
  validator.validate(content)
  assert not validator.is_valid(content | {'unknown': 1})
  assert not validator.is_valid(content | {'schema_version': results.SCHEMA_VERSION + 1})
  del content['timing']
  assert not validator.is_valid(content)


def test_the_records_of_the_mini_pool_are_valid():
  validator = _validator('response_record.schema.json')
  with lzma.open(mini.RECORDING) as lines:
    for line in list(lines)[::30]:
      validator.validate(json.loads(line))


SAMPLE = {'text': 'So 4.', 'answer': '4', 'latency_s': 0.5, 'prompt_tokens': 3}
RECORD = {'query_id': 'a', 'query': '2+2?', 'reference': '4', 'responses': {'small': [SAMPLE]}}
SCORES = {'query_id': 'a', 'query': '2+2?', 'scores': {'small': 1, 'big': 0.5}}


@pytest.mark.parametrize(
  'record',
  [
    RECORD,
    SCORES,
    RECORD | {'responses': {'small': [], 'big': [{}]}, 'scores': {}},
    RECORD | {'reference': None, 'task': 'sums', 'question': '2+2', 'split': 'test'},
    RECORD | {'responses': {'small': [{'error': 'http_500', 'latency_s': None, 'latency_is': 'published'}]}},
    SCORES | {'reference': None, 'responses': {}},
    SCORES | {'scores': {'small': 1, 'big': None}, 'responses': None, 'task': None, 'split': None},
    RECORD | {'query_id': 3, 'reference': ['4', ''], 'scores': None, 'responses': {'small': None, 'big': [SAMPLE]}},
    RECORD | {'reference': ''},
    RECORD | {'responses': {'small': [SAMPLE | {'text': None, 'answer': '', 'error': None, 'latency_is': None}]}},
    RECORD | {'responses': {'small': [SAMPLE | {'correct': True}], 'big': [{'text': 'x', 'correct': True}]}},
    RECORD | {'responses': {'small': [{'correct': False}, {'answer': '', 'correct': True}, {'correct': None}]}},
  ],
)
def test_schema_and_reader_accept_the_same_records(record):
  records.from_json(record, 'here')
  assert _validator('response_record.schema.json').is_valid(record)


@pytest.mark.parametrize(
  'record',
  [
    [],
    {},
    {'query_id': 'a', 'query': '2+2?'},
    RECORD | {'query': ' '},
    RECORD | {'query_id': 3.5},
    RECORD | {'reference': ['4', 4]},
    RECORD | {'responses': {'': [SAMPLE]}},
    SCORES | {'scores': {'small': None}},
    RECORD | {'unknown': 1},
    RECORD | {'split': 'tests'},
    RECORD | {'scores': {'small': 1}},
    SCORES | {'scores': {'small': 1.5}},
    SCORES | {'scores': {'small': True}},
    SCORES | {'responses': RECORD['responses']},
    *(
      RECORD | {'responses': {'small': samples}}
      for samples in (
        'text', [3], [{'texts': ''}], [SAMPLE | {'error': ''}],
        [SAMPLE | {'correct': 'yes'}], [{'correct': True}], [{'text': '', 'correct': True}],
        [SAMPLE | {'error': 'timeout', 'correct': False}],
        [SAMPLE | {'latency_s': -1}], [SAMPLE | {'latency_s': '1'}], [SAMPLE | {'latency_is': 'guessed'}],
        [SAMPLE | {'prompt_tokens': -1}], [SAMPLE | {'completion_tokens': 2**31}], [SAMPLE | {'prompt_tokens': 1.5}],
        [SAMPLE, SAMPLE | {'latency_s': True}],
      )
    ),
  ],
)  # fmt: skip
def test_schema_and_reader_refuse_the_same_records(record):
  with pytest.raises(records.RecordError):
    records.from_json(record, 'here')
  assert not _validator('response_record.schema.json').is_valid(record)
