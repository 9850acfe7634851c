import math
import pathlib
import subprocess
import sys

import pytest

from selectllm.data import pool_file

ROOT = pathlib.Path(__file__).parents[2]

POOL = """
llms:
  - name: small
    parameters_b: 7
  - name: big.one-2
    parameters_b: 70
    parameters_assumed: true
    seconds_per_token: 0.02
    samples_drawn: 100
    price: {prompt_usd_per_million: 0.5, completion_usd_per_million: 1, read_on: 2025-01-31}
  - name: unknown
    parameters_b:
    samples_drawn:
"""


@pytest.fixture
def read(tmp_path):
  def read(text):
    (tmp_path / 'pool.yaml').write_text(text, encoding='utf-8')
    return pool_file.read_pool(tmp_path / 'pool.yaml')

  return read


def test_facts(read):
  pool = read(POOL)
  assert list(pool.llms) == ['small', 'big.one-2', 'unknown']
  price = pool_file.Price(0.5, 1, '2025-01-31')  # YAML's date as text, which can be written down again
  assert pool.facts('big.one-2') == pool_file.LLM('big.one-2', 70, True, 0.02, 100, price)
  assert pool.facts('small') == pool_file.LLM('small', 7)
  assert pool.facts('unknown') == pool_file.LLM('unknown')
  assert pool.facts('not listed') == pool_file.LLM('not listed')


def test_estimated_latency(read):
  pool = read(POOL)
  assert pool.facts('small').estimated_latency_s(1000, 200) == pytest.approx(0.3 + 7 * (0.013 + 0.2))
  # Its own speed of writing; drawn in parallel.
  assert pool.facts('big.one-2').estimated_latency_s(1000, 200) == pytest.approx(0.3 + 70 * 0.013 + 4)
  assert pool.facts('small').estimated_latency_s(0, 0) == 0.3
  assert pool.facts('unknown').estimated_latency_s(1000, 200) is None


def test_the_file_states_how_latencies_are_estimated(read):
  model = 'latency: {overhead_s: 0.5, seconds_per_prompt_token_and_billion: 0, seconds_per_token_and_billion: 0.002}'
  pool = read(model + POOL + '  - {name: timed, seconds_per_token: 0.1, overhead_s: 0}\n')
  assert pool.facts('small').estimated_latency_s(1000, 200) == pytest.approx(0.5 + 7 * 0.4)
  assert pool.facts('timed').estimated_latency_s(1000, 200) == pytest.approx(20)
  assert pool.latency.in_words().startswith('0.5 s a call + 0 ms a prompt token + 2 ms a written token')
  # Of an LLM whose speed of writing alone is known, reading is as much faster as in the model.
  fast = read('llms: [{name: fast, seconds_per_token: 0.1}]').facts('fast')
  assert fast.estimated_latency_s(1000, 0) == pytest.approx(0.3 + 1000 * 0.1 * 0.013)


@pytest.mark.parametrize(
  ('text', 'problem'),
  [
    ('latency: {overhead: 1}', r"latency has an unknown field 'overhead'; did you mean 'overhead_s'"),
    ('latency: {overhead_s: -1}', r'latency\.overhead_s must be a number of at least 0, not -1'),
    ('latency: {seconds_per_token_and_billion: 0}', r'seconds_per_token_and_billion must be a number above 0, not 0'),
    ('latency: fast', r"latency must be a mapping, not 'fast'"),
  ],
)
def test_a_model_of_latency_that_cannot_be(read, text, problem):
  with pytest.raises(pool_file.PoolError, match=problem):
    read(text + POOL)


def test_cost(read):
  pool = read(POOL)
  assert pool.facts('big.one-2').cost_usd(1000, 10) == pytest.approx((1000 * 0.5 + 10 * 100) / 1e6)
  assert pool.facts('small').cost_usd(1000, 10) is None
  free = pool_file.LLM('free', price=pool_file.Price(0, 0, '2025-01-31'))
  assert free.cost_usd(1000, 10) == 0


def test_published_pool_files():
  files = sorted((ROOT / 'configs' / 'pools').glob('*.yaml'))
  assert files
  for file in files:
    pool = pool_file.read_pool(file)
    assert len(pool.llms) >= 2
    for llm in pool.llms.values():
      latency_s = llm.estimated_latency_s(1, 1)
      assert latency_s is None or (math.isfinite(latency_s) and latency_s > 0)


@pytest.mark.parametrize(
  ('name', 'seconds'), [('gsm8k', {0.7, 7.1, 1.8, 4.7, 1.0, 3.7}), ('mmlu', {1, 3, 4.8, 2.3, 2.4, 1.1, 1.8})]
)
def test_the_papers_pools_hold_its_latencies(name, seconds):
  pool = pool_file.read_pool(ROOT / 'configs' / 'pools' / f'paper_{name}.yaml')
  assert {llm.published_latency_s for llm in pool.llms.values()} == seconds


PRICED = 'llms: [{name: a, price: {prompt_usd_per_million: %s, completion_usd_per_million: 1, read_on: "2025-01-31"}}]'


@pytest.mark.parametrize(
  ('text', 'problem'),
  [
    ('', 'pool.yaml needs a list `llms`'),
    ('[a, b]', 'needs a list `llms`'),
    ('llms: {a: {parameters_b: 7}}', 'needs a list `llms`'),
    ('llms: []', 'needs a list `llms`'),
    ('llms: [', 'pool.yaml is not valid YAML'),
    ('llms: [a]', "pool.yaml: llms[0] must be a mapping, not 'a'"),
    ('llms: [{name: a}, {parameters_b: 7}]', 'llms[1] lacks name'),
    ('llms: [{name: }]', 'llms[0] lacks name'),
    ('llms: [{name: 7}]', 'llms[0].name must be text, not 7; put it in quotes'),
    ('llms: [{name: on}]', 'llms[0].name must be text, not True'),
    ('llms: [{name: a}, {name: b}, {name: a}]', "llms[2]: the name 'a' is already taken"),
    ('llms: [{name: a, parameter_b: 7}]', "unknown field 'parameter_b'; did you mean 'parameters_b'?"),
    ('llms: [{name: a, 7: 7}]', 'unknown field 7'),
    ('llms: [{name: a, parameters_b: 7B}]', "llms[0].parameters_b must be a number above 0, not '7B'"),
    ('llms: [{name: a, parameters_b: 0}]', 'parameters_b must be a number above 0, not 0'),
    ('llms: [{name: a, parameters_b: true}]', 'parameters_b must be a number above 0, not True'),
    ('llms: [{name: a, seconds_per_token: -1}]', 'seconds_per_token must be a number above 0, not -1'),
    ('llms: [{name: a, seconds_per_token: .nan}]', 'seconds_per_token must be a number above 0, not nan'),
    ('llms: [{name: a, seconds_per_token: .inf}]', 'seconds_per_token must be a number above 0, not inf'),
    ('llms: [{name: a, published_latency_s: 0}]', 'published_latency_s must be a number above 0, not 0'),
    ('llms: [{name: a, samples_drawn: 0}]', 'samples_drawn must be a number above 0, not 0'),
    ('llms: [{name: a, price: 3}]', 'llms[0].price must be a mapping, not 3'),
    ('llms: [{name: a, price: {}}]', 'llms[0].price lacks prompt_usd_per_million, completion_usd_per_million, read_on'),
    ('llms: [{name: a, price: {promt_usd_per_million: 1}}]', "did you mean 'prompt_usd_per_million'?"),
    (PRICED % '-1', 'llms[0].price.prompt_usd_per_million must be a number of at least 0, not -1'),
    (PRICED % '$1', "price.prompt_usd_per_million must be a number of at least 0, not '$1'"),
  ],
)
def test_a_bad_file_is_refused(read, text, problem):
  with pytest.raises(pool_file.PoolError) as error:
    read(text)
  assert problem in str(error.value)
  assert 'pool.yaml' in str(error.value)


ENDPOINT = 'llms: [{name: a, endpoint: {base_url: "http://127.0.0.1/v1", api: completions, model: m, extractor: %s}}]'


def test_an_extractor_of_ones_own(read):
  endpoint = read(ENDPOINT % 'calculation-v1').llms['a'].endpoint
  assert endpoint.extractor == 'calculation-v1'
  # Texts can be read again: how they are read is no part of what was asked.
  assert endpoint.identity() == read(ENDPOINT % 'null').llms['a'].endpoint.identity()
  with pytest.raises(
    pool_file.PoolError, match=r"llms\[0\]\.endpoint\.extractor: no extractor 'calculator'.*calculation-v1"
  ):
    read(ENDPOINT % 'calculator')


def test_a_file_that_is_not_there(tmp_path):
  with pytest.raises(FileNotFoundError, match='nowhere'):
    pool_file.read_pool(tmp_path / 'nowhere.yaml')


def test_pool_never_imports_jax():
  """Whoever collects responses needs no accelerator's libraries."""
  code = 'import sys; import selectllm.data.pool_file; sys.exit("jax" in sys.modules)'
  assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0
