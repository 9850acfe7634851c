import gzip
import pathlib

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest

from selectllm.client import endpoints
from selectllm.data import grading, pool_file, queries

POOLS = pathlib.Path(__file__).parents[2] / 'configs' / 'pools'
NUMBER, LETTER = 'number-v2', 'option_letter-v2'


def write_parquet(path: pathlib.Path, rows: list[dict]) -> None:
  path.parent.mkdir(parents=True)
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.fixture
def published(tmp_path):
  """Local copies in the form of the published files."""
  question = {'question': 'A pen costs $500. How much are 2?', 'answer': 'Two cost <<2*500=1000>>.\n#### 1,000'}
  write_parquet(tmp_path / 'openai/gsm8k/main/test-00000-of-00001.parquet', [question])
  options = {'question': 'Which is even?', 'subject': 'number_theory', 'choices': ['1', '2', '3', '5'], 'answer': 1}
  write_parquet(tmp_path / 'cais/mmlu/all/dev-00000-of-00001.parquet', [options])
  return str(tmp_path)


def test_gsm8k_questions_come_with_their_final_number(published):
  (query,) = queries.read('gsm8k:test', published, NUMBER)
  assert query == queries.Query('gsm8k/test/0', 'A pen costs $500. How much are 2?', 'gsm8k', '1000')


def test_mmlu_questions_come_with_options_subject_and_letter(published):
  (query,) = queries.read('mmlu:dev', published, LETTER)
  assert query.query == 'Which is even?\nA. 1\nB. 2\nC. 3\nD. 5'
  assert (query.task, query.reference, query.fields) == ('number_theory', 'B', {'subject': 'number theory'})


def test_an_unknown_source_lists_the_known_ones():
  with pytest.raises(queries.QueryError, match=r'gsm8k:train, .*mmlu:test'):
    queries.read('squad:test')


def test_every_query_is_in_one_shard():
  asked = [queries.Query(f'q{i}', 'x') for i in range(300)]
  shards = [{q.query_id for q in asked if queries.in_shard(q, (i, 3))} for i in (1, 2, 3)]
  assert set.union(*shards) == {q.query_id for q in asked}
  assert sum(map(len, shards)) == 300
  assert min(map(len, shards)) > 60


@pytest.mark.parametrize(
  ('file', 'source', 'extract', 'count'), [('gsm8k', 'gsm8k:test', NUMBER, 6), ('mmlu', 'mmlu:dev', LETTER, 7)]
)
def test_the_paper_s_pools_can_ask_the_published_queries(published, file, source, extract, count):
  pool = pool_file.read_pool(POOLS / f'paper_{file}.yaml')
  assert len(pool.llms) == count
  (query,) = queries.read(source, published, extract)
  for llm in pool.llms.values():
    assert llm.endpoint is not None
    assert (llm.endpoint.sampling.temperature, llm.endpoint.sampling.max_tokens) == (0.7, 750)
    assert llm.endpoint.prompt.fields() <= query.texts().keys()
    request = endpoints.Endpoint(llm).request(query, 0)
    assert query.query.splitlines()[0].encode() in request.body
    assert request.max_tokens < (llm.endpoint.context_tokens or 0)
    assert (llm.endpoint.api == 'completions') == bool(llm.endpoint.prompt.few_shot)


@pytest.mark.parametrize(
  ('file', 'extract', 'answers'), [('gsm8k', NUMBER, ['13', '135', '46', '30']), ('mmlu', LETTER, ['B', 'C', 'D', 'A'])]
)
def test_the_worked_examples_answer_what_they_say(file, extract, answers):
  endpoint = pool_file.read_pool(POOLS / f'paper_{file}.yaml').llms['gemma-7b'].endpoint
  assert endpoint is not None
  read = grading.get_extractor(extract)
  assert [read(shot['answer'], '') for shot in endpoint.prompt.few_shot] == answers


def test_a_published_file_is_held_to_what_it_was_at_first(tmp_path, monkeypatch):
  monkeypatch.setenv('SELECTLLM_CACHE', str(tmp_path / 'cache'))
  file = tmp_path / 'questions.parquet'
  monkeypatch.setattr(huggingface_hub, 'hf_hub_download', lambda *args, **options: str(file))

  def publish(question: str) -> None:
    rows = {'question': [question], 'answer': ['so #### 5']}
    pyarrow.parquet.write_table(pyarrow.table(rows), file)

  publish('2 + 3?')
  assert [query.query for query in queries.read('gsm8k:test', '')] == ['2 + 3?']
  publish('What is 2 + 3?')
  with pytest.raises(queries.QueryError, match=r'when it was first used\. Delete .*digest\.json'):
    queries.read('gsm8k:test', '')


def test_own_files_are_read_as_they_come(tmp_path):
  lines = b'\xef\xbb\xbf{"query_id": 7, "query": "2 + 2?", "reference": null, "subject": null, "level": 3}\n'
  for name, content in (('q.jsonl', lines), ('q.jsonl.gz', gzip.compress(lines))):
    (tmp_path / name).write_bytes(content)
    assert queries.read(str(tmp_path / name)) == [queries.Query('7', '2 + 2?', fields={'level': '3'})]
  (tmp_path / 'q.jsonl').write_text('{"query_id": "a", "query": "b", "query": "c"}\n')
  with pytest.raises(queries.QueryError, match=r"q\.jsonl:1: 'query' stands twice in one object"):
    queries.read(str(tmp_path / 'q.jsonl'))
