import gzip
import json
import math

import pytest

from configs import jsonl
from selectllm.data import load, records

Record, Sample = records.Record, records.Sample

# Latencies and scores are sums of powers of two, which the float32 of the stored form holds exactly.
ANSWERED = [
  Record('q/1', 'Was ist 2 + 2? 🧮', 'sums', '4', {'b': [Sample('vier: 4', '4', None, 1.5, 'measured', 12, 3)]}),
  Record('q/0', 'lines\nand\u2028separators\u2029and\x85next\x0bones\r\n', '', 'ja', {
    'a': [Sample('\u2028 "quoted" \\ \t', None), Sample('', 'nein', None, 0.25, 'estimated', 0, 0)],
    'b': [Sample(error='timeout\nafter 60 s'), Sample(error='again', latency_s=60.0, latency_is='measured')],
  }),
  Record('judged', '?', reference=('4', ''), responses={'a': [Sample('I', '', correct=True), Sample(correct=False)]}),
  Record('open', 'Who knows?', responses={'a': [Sample('I', 'a')], 'b': [Sample('I', 'b')]}),
  Record('Ünïcode', '日本語の質問', '算数', '⅓', {'a.b/c-d': [Sample('x' * 100_000, '-1.5', latency_s=0.0)]}),
]  # fmt: skip
SCORED = [
  Record('s1', 'first', 'trivia', scores={'gemma-2-9b-it': 1.0, 'mistral-7b': 0.0}),
  Record('s2', 'second\nA. or B.', scores={'mistral-7b': 0.375}, question='second', split='validation'),
]


def line(**changes):
  """A good record as decoded JSON, with changes; None takes a field away."""
  record = {'query_id': 'q', 'query': 'what?', 'reference': '4', 'responses': {'a': [{'text': '4', 'answer': '4'}]}}
  return {name: value for name, value in (record | changes).items() if value is not None}


def sample(**fields):
  return line(responses={'a': [fields]})


def written(path, *lines):
  path.write_text(''.join(value if isinstance(value, str) else json.dumps(value) + '\n' for value in lines))
  return path


def test_compressed_files(tmp_path):
  path = tmp_path / 'responses.jsonl.xz'
  records.write_jsonl(path, ANSWERED)
  assert list(records.read_jsonl(path)) == ANSWERED
  whole = path.read_bytes()
  for damaged in (whole[:-20], whole[:30] + b'?' + whole[31:], b'{"query_id": "not compressed"}'):
    path.write_bytes(damaged)
    with pytest.raises(records.RecordError, match=r'responses\.jsonl\.xz is damaged or no xz file'):
      list(records.read_jsonl(path))


@pytest.mark.parametrize('recorded', [ANSWERED, SCORED, []])
def test_jsonl_round_trip(tmp_path, recorded):
  path = tmp_path / 'responses.jsonl'
  records.write_jsonl(path, recorded)
  assert path.read_bytes().count(b'\n') == len(recorded)
  assert list(records.read_jsonl(path)) == recorded
  assert [json.loads(line)['query_id'] for line in path.read_bytes().split(b'\n')[:-1]] == [
    r.query_id for r in recorded
  ]


@pytest.mark.parametrize('recorded', [ANSWERED, SCORED])
def test_tfds_round_trip(tmp_path, monkeypatch, recorded):
  monkeypatch.setenv('SELECTLLM_CACHE', str(tmp_path / 'cache'))
  records.write_jsonl(tmp_path / 'responses.jsonl', recorded)
  config = jsonl.get_config()
  config.dataset.path = str(tmp_path / 'responses.jsonl')
  builder = load.make_builder('jsonl_pool', config)
  builder.download_and_prepare()
  source = builder.as_data_source(split='full')
  assert [records.from_example(source[i]) for i in range(len(source))] == recorded


def test_a_line_may_leave_out_what_is_unknown(tmp_path):
  path = written(tmp_path / 'r.jsonl', line(task=None, responses={'a': [{'text': 'four'}, {'latency_s': 2}], 'b': []}))
  [record] = records.read_jsonl(path)
  assert record.task == ''
  assert record.responses == {'a': [Sample('four'), Sample(latency_s=2, latency_is='measured')], 'b': []}


def test_lines_of_other_hands(tmp_path):
  """Raw U+2028 is no line end, CRLF is one, blank lines are none's record, the last line needs no end."""
  path = tmp_path / 'r.jsonl'
  one, two = (json.dumps(line(query_id=name, query=f'a\u2028b {name}'), ensure_ascii=False) for name in '12')
  path.write_bytes(f'{one}\r\n\r\n   \n{two}'.encode())
  assert [(r.query_id, r.query) for r in records.read_jsonl(path)] == [('1', 'a\u2028b 1'), ('2', 'a\u2028b 2')]


def test_records_come_one_at_a_time(tmp_path):
  path = written(tmp_path / 'r.jsonl', line(), 'not JSON\n')
  assert next(records.read_jsonl(path)).query_id == 'q'


@pytest.mark.parametrize(
  ('text', 'key'),
  [
    ('{"query_id": "q", "query": "?", "reference": "4", "reference": "5", "responses": {"a": []}}', 'reference'),
    ('{"query_id": "q", "query": "?", "responses": {"a": [{"answer": "4"}], "b": [], "a" : [{"answer": "5"}]}}', 'a'),
    ('{"query_id": "q", "query": "?", "responses": {"a": [{"answer": "4", "text": "x", "answer": "5"}]}}', 'answer'),
    ('{"query_id": "q", "query": "?", "scores": {"\\u0061": 1, "b": 0, "a": 0}}', 'a'),
    ('{"query_id": "q", "query": "?", "responses": {"a\\\\": [], "a\\\\": []}}', 'a\\'),
    ('{"query_id": "q", "query": "it says: \\"a\\": 1", "scores": {"a": 1}, "scores": {"b": 0}}', 'scores'),
  ],
)
@pytest.mark.parametrize('form', ['{}\n', '[{}]', '[\n{}\n]'])
def test_a_key_that_stands_twice_is_refused_with_its_line(tmp_path, text, key, form):
  path = written(tmp_path / 'r.jsonl', form.replace('{}', text))
  with pytest.raises(records.RecordError) as error:
    list(records.read_jsonl(path))
  assert str(error.value) == f'{path}:{1 + form.startswith("[" + chr(10))}: {key!r} stands twice in one object'


def test_texts_that_look_like_keys_are_no_keys(tmp_path):
  texts = ['": "', ':', '{"a": 1, "a": 2}', 'say "a" : "b"']
  path = written(tmp_path / 'r.jsonl', *(line(query_id=text, query=text) for text in texts))
  assert [record.query for record in records.read_jsonl(path)] == texts


@pytest.mark.parametrize(
  ('content', 'problem'),
  [
    ('{"a": 1}'.encode('utf-16'), r'r\.jsonl:1: not valid JSON: the file is UTF-16.*save it as UTF-8'),
    ('{"a": 1}'.encode('utf-16-be'), 'the file is UTF-16'),
    (b'PAR1\x15\x04', r'r\.jsonl is Parquet; JSON lines are read'),
    (b'PK\x03\x04\x14', 'is a zip archive'),
    (gzip.compress(b'{"query_id": "q"}', mtime=0)[:-6], r'r\.jsonl is damaged or no gzip file'),
    (f'[{json.dumps(line())},\n{{"query_id": '.encode(), r'r\.jsonl: not a valid JSON array \(.*line 2'),
    (f'[{json.dumps(line())}] [2]'.encode(), "not a valid JSON array .*the one ']' that ends the array"),
    (b'[1, 2,]', 'the record must be an object, not 1'),
    (b'[' * 5000, 'not a valid JSON array'),
    (b'{"a":' * 5000, 'r\\.jsonl:1: not valid JSON'),
  ],
)
def test_what_a_file_is_instead_is_said(tmp_path, content, problem):
  path = tmp_path / 'r.jsonl'
  path.write_bytes(content)
  with pytest.raises(records.RecordError, match=problem):
    list(records.read_jsonl(path))


def test_an_array_names_the_line_of_each_element(tmp_path):
  path = written(
    tmp_path / 'r.json', '\n[\n' + json.dumps(line(), indent=2) + ',\n\n  ' + json.dumps(line(query_id='')) + ']'
  )
  parts = [where for where, _ in records.read_objects(records.Part(str(path)))]
  assert parts == [f'{path}:3', f'{path}:{3 + len(json.dumps(line(), indent=2).splitlines()) + 1}']
  assert records.cut(str(path)) == [records.Part(str(path))]
  assert not list(records.read_jsonl(written(tmp_path / 'none.json', ' [ \n ] ')))


def test_compressed_by_gzip(tmp_path):
  records.write_jsonl(tmp_path / 'r.jsonl.gz', ANSWERED)
  assert (tmp_path / 'r.jsonl.gz').read_bytes()[:2] == b'\x1f\x8b'
  assert list(records.read_jsonl(tmp_path / 'r.jsonl.gz')) == ANSWERED


@pytest.mark.parametrize('keep', [1, 20, 60, -2])
def test_a_truncated_last_line_names_file_line_and_likely_cause(tmp_path, keep):
  path = written(tmp_path / 'r.jsonl', line(query_id='1'), '\n', json.dumps(line(query_id='2'))[:keep])
  with pytest.raises(records.RecordError) as error:
    list(records.read_jsonl(path))
  assert f'{path}:3: not valid JSON' in str(error.value)
  assert 'the file ends within this line' in str(error.value)


def test_a_broken_line_within_the_file_is_not_called_cut_off(tmp_path):
  path = written(tmp_path / 'r.jsonl', line(query_id='1'), json.dumps(line())[:30] + '\n', line(query_id='3'))
  with pytest.raises(records.RecordError) as error:
    list(records.read_jsonl(path))
  assert f'{path}:2: not valid JSON' in str(error.value)
  assert 'ends within' not in str(error.value)


@pytest.mark.parametrize(
  'content', [b'\xff\xfe', b'{"query_id": "\xff"}', b'{"query": "\\ud800"}', b'NaN', b'{"latency_s": 1e999}']
)
def test_text_that_is_not_json_names_its_line(tmp_path, content):
  path = tmp_path / 'r.jsonl'
  path.write_bytes(content + b'\n')
  with pytest.raises(records.RecordError, match=r'r\.jsonl:1: not valid JSON'):
    list(records.read_jsonl(path))


def test_duplicate_query_ids_name_both_places(tmp_path):
  here = written(tmp_path / 'here.jsonl', line(query_id='1'), '\n', line(query_id='twin'))
  there = written(tmp_path / 'there.jsonl', line(query_id='twin'))
  with pytest.raises(records.RecordError) as error:
    list(records.read_jsonl(here, there))
  assert str(error.value) == f"{there}:1: query_id 'twin' already stands at {here}:3"
  same = written(tmp_path / 'same.jsonl', line(), line(query='another'))
  with pytest.raises(records.RecordError) as error:
    list(records.read_jsonl(same))
  assert str(error.value) == f"{same}:2: query_id 'q' already stands at {same}:1"


def test_a_file_that_is_not_there(tmp_path):
  with pytest.raises(FileNotFoundError, match='nowhere'):
    list(records.read_jsonl(tmp_path / 'nowhere.jsonl'))


@pytest.mark.parametrize(
  ('value', 'problem'),
  [
    ([1], 'the record must be an object, not [1]'),
    (line(query_id=None), 'query_id is missing'),
    (line(query_id=''), 'query_id is empty'),
    (line(query_id=' \t'), 'query_id is empty'),
    (line(query_id=17.5), 'query_id must be str or int, not 17.5'),
    (line(query_id=True), 'query_id must be str or int, not True'),
    (line(query=None), 'query is missing'),
    (line(query='\n '), 'query is empty'),
    (line(query=['a']), "query must be str, not ['a']"),
    (line(querry='x'), "unknown field 'querry'; the fields are query_id, query, task"),
    (line(task=3), 'task must be str or null, not 3'),
    (line(reference=4), 'reference must be str or list or null, not 4'),
    (line(reference=['4', 4]), 'reference is a list that holds 4; it may hold texts only'),
    (line(responses={' ': []}), 'an LLM without a name'),
    (line(scores={'a': 1}), 'either responses or scores, this one both'),
    (line(responses=None), 'either responses or scores, this one neither'),
    (line(responses={}, scores={}), 'either responses or scores, this one neither'),
    (line(responses=[]), 'responses must be dict or null, not []'),
    (line(responses={'a': {'text': 'x'}}), "responses['a'] must be a list of samples, not {'text': 'x'}"),
    (line(responses={'a': ['x']}), "a sample of 'a' must be an object, not 'x'"),
    (sample(txt='4'), "a sample of 'a' has an unknown field 'txt'; the fields are text, answer"),
    (sample(answer=4), 'answer must be str or null, not 4'),
    (sample(correct=1, answer='4'), 'correct must be bool or null, not 1'),
    (sample(correct=True), "correct=True is a verdict on a response of 'a' which says nothing"),
    (sample(correct=False, error='timeout'), "correct=False is a verdict on a response of 'a' which failed"),
    (sample(error=''), "error of 'a' is empty; give null"),
    (sample(error=False), 'error must be str or null, not False'),
    (sample(latency_s='1'), "latency_s must be float or int or null, not '1'"),
    (sample(latency_s=True), 'latency_s must be float or int or null, not True'),
    (sample(latency_s=-0.5), 'finite number of seconds >= 0, not -0.5'),
    (sample(latency_s=math.inf), 'finite number of seconds >= 0, not inf'),
    (sample(latency_s=math.nan), 'finite number of seconds >= 0, not nan'),
    (sample(latency_s=1.0, latency_is='guessed'), "one of measured, published, estimated, unknown, not 'guessed'"),
    (sample(prompt_tokens=1.5), 'prompt_tokens must be int or null, not 1.5'),
    (sample(completion_tokens=True), 'completion_tokens must be int or null, not True'),
    (sample(prompt_tokens=-1), "prompt_tokens of 'a' must be from 0 to 2147483647, not -1"),
    (sample(completion_tokens=2**31), 'must be from 0 to 2147483647, not 2147483648'),
    (line(reference=None, responses=None, scores={'a': 1.01}), "score of 'a' must be a number in [0, 1], not 1.01"),
    (line(reference=None, responses=None, scores={'a': -1}), 'number in [0, 1], not -1'),
    (line(reference=None, responses=None, scores={'a': math.nan}), 'number in [0, 1], not nan'),
    (line(reference=None, responses=None, scores={'a': True}), 'number in [0, 1], not True'),
    (line(reference=None, responses=None, scores={'a': None}), 'either responses or scores, this one neither'),
    (line(reference=None, responses=None, scores={'a': '1'}), "number in [0, 1], not '1'"),
  ],
)
def test_what_is_no_record_is_refused(value, problem):
  with pytest.raises(records.RecordError) as error:
    records.from_json(value, 'file.jsonl:7')
  assert str(error.value).startswith('file.jsonl:7: ')
  assert problem in str(error.value)


def test_parts_of_a_file_are_its_lines(tmp_path, monkeypatch):
  monkeypatch.setattr(records, '_PART', 200)
  lines = [json.dumps(line(query_id=str(number), query='?' * number)) for number in range(1, 40)]
  lines.insert(3, '')
  path = tmp_path / 'r.jsonl'
  for end in ('', '\n'):
    path.write_text('\n'.join(lines) + end)
    parts = records.cut(str(path))
    assert len(parts) > 9
    read = [(where, record.query_id) for part in parts for where, record in records.read_part(part)]
    assert read == [(f'{path}:{n}', json.loads(text)['query_id']) for n, text in enumerate(lines, 1) if text]
  compressed = tmp_path / 'r.jsonl.xz'
  records.write_jsonl(compressed, records.read_jsonl(path))
  assert records.cut(str(compressed)) == [records.Part(str(compressed))]


def test_an_llm_without_samples_is_stored():
  record = Record('q', '?', responses={'b': [Sample('x', None)], 'a': []}, reference='1')
  stored = {
    name: value if isinstance(value, bytes) else value.encode() for name, value in records.to_example(record).items()
  }
  assert records.from_example(stored) == record
  assert list(json.loads(stored['responses'])) == ['b', 'a']
