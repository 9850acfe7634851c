import gzip
import json
import lzma
import os

import numpy as np
import pytest

from configs import jsonl
from selectllm.data import load, records


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  monkeypatch.setenv('SELECTLLM_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setenv('HOME', str(tmp_path))
  return tmp_path


def line(name, right=True):
  samples = {'a': [{'text': '1', 'answer': '1' if right else '2'}], 'b': [{'text': '3', 'answer': '3'}]}
  return {'query_id': name, 'query': f'what is {name}?', 'reference': '1', 'responses': samples}


def write(path, *lines):
  path.write_text(''.join(json.dumps(value) + '\n' for value in lines))
  return path


def load_table(*paths, beam=''):
  config = jsonl.get_config()
  config.dataset.path = ','.join(map(str, paths))
  config.dataset.beam = beam
  return load.load(config)[0]


def test_own_responses(folder):
  table = load_table(write(folder / 'r.jsonl', line('x'), line('w', right=False)))
  assert table.query_ids == ['x', 'w']
  assert table.queries == ['what is x?', 'what is w?']
  assert table.llms == ('a', 'b')
  assert table.responses.labels.tolist() == [[1, 0], [0, 0]]


def test_a_changed_file_is_read_anew(folder):
  path = write(folder / 'r.jsonl', line('x'))
  before = path.stat()
  assert load_table(path).responses.labels.tolist() == [[1, 0]]
  # Neither its size nor its time tells that it changed.
  path.write_text(path.read_text().replace('"answer": "1"', '"answer": "2"'))
  os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
  assert path.stat().st_size == before.st_size
  assert load_table(path).responses.labels.tolist() == [[0, 0]]
  write(path, line('x'), line('y'))
  assert load_table(path).query_ids == ['x', 'y']
  write(path, line('x'))
  assert load_table(path).responses.labels.tolist() == [[1, 0]]


def test_an_unchanged_file_is_prepared_once(folder, monkeypatch):
  path = write(folder / 'r.jsonl', line('x'))
  load_table(path)
  monkeypatch.setattr(records, 'read_part', lambda part: pytest.fail(f'reads {part} again'))
  assert load_table(path).query_ids == ['x']


def test_several_files(folder):
  for name in ('one', 'two', 'three'):
    write(folder / f'{name}.jsonl', line(name))
  (folder / 'notes.txt').write_text('no records')
  assert load_table(folder / '*.jsonl').query_ids == ['one', 'three', 'two']
  assert load_table(folder / 't*.jsonl', folder / 'one.jsonl').query_ids == ['three', 'two', 'one']
  assert load_table('~/two.jsonl', ' ~/one.jsonl ', '').query_ids == ['two', 'one']


@pytest.mark.parametrize('name', ['[2024] run.jsonl', 'a,b.jsonl', 'what?.jsonl', 'all*.jsonl'])
def test_a_file_is_read_whatever_its_name(folder, name):
  (folder / 'sub').mkdir()
  path = write(folder / 'sub' / name, line('x'))
  write(folder / 'sub' / 'all.jsonl', line('y'))
  assert load_table(path).query_ids == ['x']
  if ',' not in name:
    assert load_table(path, folder / 'sub' / 'all.jsonl').query_ids == ['x', 'y']
    assert load_table(folder / 'sub' / 'al?.jsonl').query_ids == ['y']


def test_files_of_other_forms(folder):
  lines = ''.join(json.dumps(line(name)) + '\n' for name in 'xy')
  forms = {
    'r.jsonl.gz': gzip.compress(lines.encode()),
    'bom.jsonl': b'\xef\xbb\xbf' + lines.encode(),
    'array.json': json.dumps([line('x'), line('y')], indent=1).encode(),
    'array.json.gz': gzip.compress(b'\xef\xbb\xbf \n' + json.dumps([line('x'), line('y')]).encode()),
    'named otherwise.jsonl': lzma.compress(lines.encode()),
  }
  for name, content in forms.items():
    (folder / name).write_bytes(content)
    assert load_table(folder / name).query_ids == ['x', 'y'], name


def test_ids_references_and_verdicts_through_the_stored_form(folder):
  one = line(1) | {'query': 'a', 'reference': ['1', 'one'], 'task': None, 'scores': None}
  one['responses'] = {'a': [{'answer': 'one'}], 'b': [{'answer': '', 'text': None}], 'c': None}
  two = line('2') | {'query': 'b', 'reference': None}
  two['responses'] = {'a': [{'text': 'x = 1', 'correct': True}], 'b': [{'text': 'x = 2', 'correct': False}]}
  table = load_table(write(folder / 'r.jsonl', one, two, line('3') | {'reference': ''}))
  assert table.query_ids == ['1', '2', '3']
  assert table.llms == ('a', 'b', 'c')
  assert table.responses.labels.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]
  assert table.responses.observed.tolist() == [[True, True, False]] * 3


def test_a_query_id_in_two_files_names_both(folder):
  one, two = write(folder / '1.jsonl', line('x')), write(folder / '2.jsonl', line('y'), line('x'))
  with pytest.raises(records.RecordError) as error:
    load_table(folder / '*.jsonl')
  assert f"{two}:2: query_id 'x' already stands at {one}:1" in str(error.value)


def test_a_cut_off_file_is_refused_and_read_when_it_is_whole(folder):
  path = write(folder / 'r.jsonl', line('x'), line('y'))
  whole = path.read_bytes()
  path.write_bytes(whole[:-20])
  for _ in range(2):  # a failure leaves nothing behind that a second try would take for prepared
    with pytest.raises(records.RecordError, match=r'r\.jsonl:2: not valid JSON .* the file ends within this line'):
      load_table(path)
  path.write_bytes(whole)
  assert load_table(path).query_ids == ['x', 'y']


@pytest.mark.parametrize('path', ['', ' ', ','])
def test_no_path(path):
  with pytest.raises(ValueError, match=r'jsonl_pool needs --config\.dataset\.path=FILE'):
    load_table(path)


def test_a_path_that_matches_nothing(folder):
  write(folder / 'r.jsonl', line('x'))
  for pattern in ('nowhere.jsonl', '*.json'):
    with pytest.raises(FileNotFoundError) as error:
      load_table(folder / 'r.jsonl', folder / pattern)
    assert str(error.value) == f"--config.dataset.path: no file matches '{folder / pattern}'"


@pytest.mark.parametrize('content', ['', '\n \n'])
def test_an_empty_file(folder, content):
  (folder / 'r.jsonl').write_text(content)
  with pytest.raises(ValueError, match=r'jsonl_pool holds no queries: Responses from .*r\.jsonl'):
    load_table(folder / 'r.jsonl')


def test_missing_wrong_and_silent_through_the_stored_form(folder):
  """Absent or failed is missing; a null answer is observed, wrong, and casts no vote."""
  lines = [
    line('x') | {'responses': {'a': [{'answer': '1'}], 'b': [{'error': 'timeout'}, {'error': 'timeout'}]}},
    line('y') | {'responses': {'a': [{'answer': None}], 'b': [{'error': 'timeout'}, {'answer': '1'}]}},
    line('z') | {'responses': {'b': [{'answer': '2'}, {'answer': None}]}},
    line('w') | {'responses': {'a': [], 'b': [{}]}},
  ]
  votes = load_table(write(folder / 'r.jsonl', *lines)).responses
  assert votes.observed.tolist() == [[True, False], [True, True], [False, True], [False, True]]
  assert votes.labels.tolist() == [[1, 0], [0, 1], [0, 0], [0, 0]]
  assert (votes.answers >= 0).sum(axis=2).tolist() == [[1, 0], [0, 1], [0, 1], [0, 0]]


def test_own_scores(folder):
  lines = [
    {'query_id': 'x', 'query': 'x', 'scores': {'b': 0.25, 'a': 1}},
    {'query_id': 'y', 'query': 'y', 'scores': {'b': 0.5}},
  ]
  table = load_table(write(folder / 'r.jsonl', *lines))
  assert not table.responses.has_answers
  assert table.responses.labels.tolist() == [[1, 0.25], [0, 0.5]]
  assert table.responses.observed.tolist() == [[True, True], [False, True]]
  assert table.latency_is == 'unknown'


@pytest.mark.parametrize('scores_first', [True, False])
def test_responses_and_scores_do_not_mix(folder, scores_first):
  lines = [line('x'), {'query_id': 'y', 'query': 'y', 'scores': {'a': 1, 'b': 0}}]
  with pytest.raises(ValueError, match=r"query 'y' has scores: .* either responses or scores"):
    load_table(write(folder / 'r.jsonl', *(lines[::-1] if scores_first else lines)))


BEAM = '--runner=DirectRunner --direct_num_workers=2 --direct_running_mode={}'


@pytest.fixture
def small_parts(monkeypatch):
  """Files of a few lines come in many parts, as large ones do."""
  monkeypatch.setattr(records, '_PART', 300)


@pytest.mark.parametrize('mode', ['multi_threading', 'multi_processing'])
def test_workers_of_beam_build_the_same(folder, monkeypatch, small_parts, mode):
  pytest.importorskip('apache_beam')
  lines = [line(f'q{number}', right=number % 3) for number in range(40)]
  lines[20]['responses']['late'] = [{'answer': '1'}] * 3
  one, two = write(folder / '1.jsonl', *lines[:25]), write(folder / '2.jsonl', *lines[25:])
  alone = load_table(one, two)
  assert len(list((folder / 'cache').glob('jsonl_pool/*/*/*array_record*'))) > 11  # of which TFDS mistakes the order
  monkeypatch.setenv('SELECTLLM_CACHE', str(folder / 'other'))
  table = load_table(one, two, beam=BEAM.format(mode))
  assert table.query_ids == alone.query_ids == [f'q{number}' for number in range(40)]
  assert (table.queries, table.llms, table.answers) == (alone.queries, ('a', 'b', 'late'), alone.answers)
  for name, array in alone.responses._asdict().items():
    np.testing.assert_array_equal(getattr(table.responses, name), array)
  files = [sorted(p.name for p in (folder / name).rglob('*array_record*')) for name in ('cache', 'other')]
  assert files[0] == files[1]


@pytest.mark.parametrize('beam', ['', BEAM.format('multi_threading')])
def test_what_is_refused_names_its_line_also_across_parts(folder, small_parts, beam):
  if beam:
    pytest.importorskip('apache_beam')
  lines = [line(f'q{number}') for number in range(30)]
  one, two = write(folder / '1.jsonl', *lines[:20]), folder / '2.jsonl'
  write(two, *lines[20:], line('q3'), {'query_id': 'bad'})
  with pytest.raises(records.RecordError) as error:
    load_table(one, two, beam=beam)
  assert str(error.value) == f"{two}:11: query_id 'q3' already stands at {one}:4"
  write(two, *lines[20:], {'query_id': 'bad'}, line('q3'))
  with pytest.raises(records.RecordError) as error:
    load_table(one, two, beam=beam)
  assert str(error.value) == f'{two}:11: query is missing'
  write(two, *lines[20:])
  assert len(load_table(one, two, beam=beam).queries) == 30
