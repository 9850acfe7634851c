import concurrent.futures
import json
import pathlib

import pytest

from configs import jsonl
from selectllm.data import load, pool_file, records
from selectllm.infra import paths

LINE = (
  '{"query_id": "q", "query": "?", "reference": "1", "responses": {"a": [{"answer": "1"}], "b": [{"answer": "2"}]}}'
)


@pytest.fixture
def config(tmp_path, monkeypatch):
  monkeypatch.setenv('SELECTLLM_CACHE', str(tmp_path / 'cache'))
  (tmp_path / 'r.jsonl').write_text(LINE)
  config = jsonl.get_config()
  config.dataset.path = str(tmp_path / 'r.jsonl')
  return config


def test_where_data_are_kept(monkeypatch, tmp_path, config):
  load.load(config)
  assert (tmp_path / 'cache' / 'jsonl_pool').is_dir()
  monkeypatch.setenv('SELECTLLM_CACHE', '~/somewhere')
  assert paths.cache_dir() == pathlib.Path.home() / 'somewhere'
  monkeypatch.delenv('SELECTLLM_CACHE')
  assert paths.cache_dir() == pathlib.Path.home() / '.cache' / 'selectllm'


@pytest.mark.parametrize('name', ['', 'gsm8k', 'jsonl_pool.x', '../jsonl_pool'])
def test_a_name_that_is_no_builders(config, name):
  config.dataset.name = name
  with pytest.raises(
    ValueError, match=f"name='{name}' is not one of gsm8k_pool, mmlu_pro_pool, mini_pool, jsonl_pool, sldata"
  ):
    load.load(config)


def test_title(config):
  assert load.load(config)[0].name == 'jsonl_pool'
  config.dataset.title = 'Mine'
  assert load.load(config)[0].name == 'Mine'


def test_identity_tells_data_and_facts_apart(config, tmp_path):
  first = load.load(config)[1]
  assert load.load(config)[1] == first
  config.pool.file = str(tmp_path / 'pool.yaml')
  (tmp_path / 'pool.yaml').write_text('llms: [{name: b, parameters_b: 7}, {name: elsewhere}]')
  table, with_facts = load.load(config)
  assert table.llms == ('b', 'a')  # the file's order first
  assert with_facts['identity'] == first['identity']
  assert with_facts['llms']['b']['parameters_b'] == 7
  config.dataset.path = str(tmp_path / 'other.jsonl')
  (tmp_path / 'other.jsonl').write_text(LINE.replace('"?"', '"!"'))
  assert load.load(config)[1]['identity'] != first['identity']


def test_how_an_llm_is_asked_is_no_part_of_the_identity(config, tmp_path):
  config.pool.file = str(tmp_path / 'pool.yaml')
  identities = []
  for limit in (4, 8):
    endpoint = f'{{base_url: "http://127.0.0.1/v1", api: chat, model: m, limits: {{concurrency: {limit}}}}}'
    (tmp_path / 'pool.yaml').write_text(f'llms: [{{name: b, endpoint: {endpoint}}}]')
    identities.append(load.load(config)[1])
  assert identities[0] == identities[1]


def test_identity_can_be_written_down(config, tmp_path):
  price = 'price: {prompt_usd_per_million: 1, completion_usd_per_million: 2, read_on: 2025-01-31}'
  (tmp_path / 'pool.yaml').write_text(f'llms: [{{name: b, {price}}}]')
  config.pool.file = str(tmp_path / 'pool.yaml')
  identity = load.load(config)[1]
  assert json.loads(json.dumps(identity)) == identity


def test_a_bad_pool_file_is_named(config, tmp_path):
  config.pool.file = str(tmp_path / 'pool.yaml')
  with pytest.raises(FileNotFoundError, match=r'pool\.yaml'):
    load.load(config)
  (tmp_path / 'pool.yaml').write_text('llms: []')
  with pytest.raises(pool_file.PoolError, match=r'pool\.yaml needs a list'):
    load.load(config)


def test_runs_that_start_together_prepare_once(config, monkeypatch):
  read_part, reads = records.read_part, []

  def read(part):
    reads.append(part)
    return read_part(part)

  monkeypatch.setattr(records, 'read_part', read)
  with concurrent.futures.ThreadPoolExecutor(4) as threads:
    tables = list(threads.map(load.load, [config] * 4))
  assert len(reads) == 1
  assert all(table.responses.labels.tolist() == [[1, 0]] for table, _ in tables)
