import functools
import http.server
import json
import shutil

import numpy as np
import pytest

from configs import gsm8k as gsm8k_config
from selectllm.data import load
from selectllm.data.builders import download, gsm8k

# As published, in percent of all 1,319 questions, extracted independently of us.
ACCURACY = {
  'gpt3-6b-finetuning': 21.7,
  'gpt3-6b-verification': 39.0,
  'gpt3-175b-finetuning': 34.7,
  'gpt3-175b-verification': 56.3,
  'mixtral-8x7b-instruct': 64.1,  # five end on another number, as 'it takes 2 hours to charge to 100 %'
  'gpt-4-1106': 94.2,  # its texts read, of which the last number is another in 70
  'tora-code-34b': 80.5,
  'tora-70b': 84.3,
  'codex-pot-fewshot': 71.4,
  'codex-pot-zeroshot': 56.7,
}
MISSING = {'codex-pot-fewshot': 1, 'codex-pot-zeroshot': 2}


def make_config(**dataset):
  config = gsm8k_config.get_config()
  config.dataset.update(dataset)
  return config


@pytest.fixture(scope='module')
def published(test_data):
  return test_data / 'gsm8k'


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  """A cache in which the data set is prepared once for all tests."""
  folder = tmp_path_factory.mktemp('cache')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('SELECTLLM_CACHE', str(folder))
    yield folder


@pytest.fixture(scope='module')
def table(cache, published):
  return load.load(make_config(manual_dir=str(published)))[0]


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
  monkeypatch.setenv('SELECTLLM_CACHE', str(tmp_path / 'cache'))
  return tmp_path / 'cache'


def test_all_queries_in_order(table):
  assert table.name == 'GSM8K'
  assert table.llms == tuple(ACCURACY)
  assert table.tasks == ('gsm8k',)
  assert table.query_ids == [f'gsm8k/{position}' for position in range(1319)]
  assert len(set(table.queries)) == 1319
  assert table.queries[0].startswith('Janet’s ducks lay 16 eggs per day.')
  assert table.latency_is == 'estimated'
  assert table.responses.answers.shape == (1319, 10, 1)


def test_accuracies_are_the_published_ones(table):
  ours = dict(zip(table.llms, 100 * table.responses.labels.mean(axis=0), strict=True))
  assert {llm: ours[llm] for llm in ACCURACY if abs(ours[llm] - ACCURACY[llm]) > 0.5} == {}
  assert 100 * table.responses.labels.any(axis=1).mean() == pytest.approx(97.7, abs=0.5)


def test_missing_rows_are_missing_and_failed_programs_are_wrong(table):
  votes = table.responses
  missing = dict(zip(table.llms, (~votes.observed).sum(axis=0).tolist(), strict=True))
  assert {llm: count for llm, count in missing.items() if count} == MISSING
  assert not votes.labels[~votes.observed].any()
  assert np.isnan(votes.latency_s[~votes.observed]).all()
  silent = votes.observed & (votes.answers[..., 0] < 0)
  counts = dict(zip(table.llms, silent.sum(axis=0).tolist(), strict=True))
  assert min(counts['codex-pot-fewshot'], counts['codex-pot-zeroshot']) >= 20
  # Texts that break off in a calculation, or say that there is no solution.
  assert {llm for llm, count in counts.items() if count > 5} == {
    'mixtral-8x7b-instruct',
    'codex-pot-fewshot',
    'codex-pot-zeroshot',
  }
  assert not votes.labels[silent].any()


def test_assumed_sizes_are_marked(table):
  assert set(table.sizes_assumed) == {'gpt-4-1106', 'codex-pot-fewshot', 'codex-pot-zeroshot'}


def test_programs_as_they_were_published(table, published):
  """Each printed number is an answer, 0 too; what a program printed took the LLM no time to write."""
  column = table.llms.index('codex-pot-fewshot')
  rows = map(json.loads, (published / gsm8k.CODEX_FEWSHOT.path).read_text(encoding='utf-8').splitlines())
  by_question = {row['question']: row for row in rows if 'question' in row}
  answers, latency_s = table.responses.answers[:, column, 0], table.responses.latency_s[:, column]
  for query, question in enumerate(table.queries):
    if question not in by_question:
      assert not table.responses.observed[query, column]
      continue
    program, printed = by_question[question]['generated'], by_question[question]['executed']
    program = program if isinstance(program, str) else program[0]
    tokens = round(len(program) / 4) + 0.013 * len(question) / 4
    assert latency_s[query] == pytest.approx(0.3 + tokens * 175 / 1000, rel=1e-5)
    if printed is None:
      assert answers[query] == -1
    elif isinstance(printed, int | float) and not isinstance(printed, bool):
      assert answers[query] >= 0


def test_latencies_follow_from_lengths_and_sizes(table):
  votes, column = table.responses, table.llms.index
  assert (votes.latency_s[votes.observed] > 0).all()
  assert np.isnan(votes.cost_usd).all()  # no price is known
  # Answers of like length, by LLMs of 175 and of 6 billion parameters; a call's overhead is the same.
  large, small = (votes.latency_s[:, column(f'gpt3-{size}b-finetuning')] - 0.3 for size in (175, 6))
  ratio = np.median(large / small)
  assert 20 < ratio < 40


def test_a_mirror_gives_the_same_table(table, published, serve, fresh_cache):
  requests = []

  class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
      requests.append(self.path)

  base_url = serve(functools.partial(Handler, directory=str(published)))
  mirrored, _ = load.load(make_config(base_url=base_url))
  assert sorted(requests) == sorted(f'/{source.path}' for source in gsm8k.SOURCES)
  assert mirrored._replace(responses=None, published_split=None) == table._replace(responses=None, published_split=None)
  for name, ours, theirs in zip(table.responses._fields, table.responses, mirrored.responses, strict=True):
    np.testing.assert_array_equal(theirs, ours, err_msg=name)
  load.load(make_config(base_url=base_url))
  assert len(requests) == len(gsm8k.SOURCES)


def test_what_is_prepared_needs_no_source(table, dead_url):
  again, _ = load.load(make_config(base_url=dead_url))
  np.testing.assert_array_equal(again.responses.labels, table.responses.labels)


def test_a_damaged_copy_is_an_error_although_the_data_are_prepared(table, published, tmp_path):
  copy = shutil.copytree(published, tmp_path / 'copy', copy_function=shutil.copyfile)
  damaged = copy / gsm8k.TORA_70B.path
  content = bytearray(damaged.read_bytes())
  content[len(content) // 2] ^= 1
  damaged.write_bytes(content)
  with pytest.raises(download.SourceError, match=r'tora-70b.* has SHA-256'):
    load.load(make_config(manual_dir=str(copy)))
  damaged.unlink()
  with pytest.raises(download.SourceError, match='lacks 1 of 7 files'):
    load.load(make_config(manual_dir=str(copy)))


def test_without_network_the_mini_pool_takes_its_place_and_says_so(dead_url, fresh_cache, caplog):
  table, identity = load.load(make_config(base_url=dead_url, title='My GSM8K', extractor='option_letter-v1'))
  assert (table.name, table.in_place_of) == ('Mini pool', 'My GSM8K')
  assert identity['name'] == 'mini_pool'
  assert 'smollm2-chat' in table.llms
  for words in (dead_url, 'gsm8k_pool can be neither found nor downloaded', '--config.dataset.fallback=none'):
    assert words in caplog.text


@pytest.mark.parametrize('change', ['no fallback', 'LLMs that the mini pool does not have'])
def test_without_network_and_without_a_way_out(dead_url, fresh_cache, change):
  config = make_config(base_url=dead_url)
  if change == 'no fallback':
    config.dataset.fallback = 'none'
  else:
    config.pool.llms = ('tora-70b', 'gpt-4-1106')
  with pytest.raises(download.UnavailableError) as error:
    load.load(config)
  for words in (dead_url, '--config.dataset.manual_dir', '--config.dataset.base_url'):
    assert words in str(error.value)


def test_what_is_not_the_published_file_is_no_reason_to_take_another_pool(serve, fresh_cache):
  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      self.send_response(200)
      self.end_headers()
      self.wfile.write(b'<html>Please log in</html>')

    def log_message(self, *args):
      del args

  with pytest.raises(download.SourceError, match='is not the published file'):
    load.load(make_config(base_url=serve(Handler)))


def test_a_run_keeps_to_the_data_that_it_began_with(dead_url, fresh_cache, monkeypatch):
  with pytest.raises(download.UnavailableError, match=dead_url):
    load.load(make_config(base_url=dead_url), begun_with='gsm8k_pool')
  monkeypatch.setattr(download, 'fetch', lambda *args, **options: pytest.fail('looks for GSM8K'))
  for fallback in ('mini_pool', 'none'):
    table, _ = load.load(make_config(fallback=fallback), begun_with='mini_pool')
    assert (table.name, table.in_place_of) == ('Mini pool', 'GSM8K')


def test_a_fallback_that_there_is_not(fresh_cache):
  with pytest.raises(ValueError, match=r"config\.dataset\.fallback='mini' is not one of none, mini_pool"):
    load.load(make_config(fallback='mini'))


def test_other_sources_or_graders_are_another_data_set(fresh_cache, monkeypatch):
  def identity():
    return load.make_builder('gsm8k_pool', gsm8k_config.get_config()).builder_config.name

  first = identity()
  assert identity() == first
  with monkeypatch.context() as patch:
    patch.setattr(gsm8k, 'TEXT_EXTRACTOR', 'number-v1')
    other_grader = identity()
  with monkeypatch.context() as patch:
    patch.setattr(gsm8k, 'SOURCES', gsm8k.SOURCES[1:])
    other_sources = identity()
  assert len({first, other_grader, other_sources}) == 3


def test_some_of_the_llms_graded_again(table, published, cache):
  config = make_config(manual_dir=str(published), extractor='number-v2')
  config.pool.llms = ('tora-70b', 'gpt-4-1106')
  some, _ = load.load(config)
  assert some.llms == ('tora-70b', 'gpt-4-1106')
  # What was graded by this extractor before is graded alike.
  np.testing.assert_array_equal(some.responses.labels[:, 1], table.responses.labels[:, table.llms.index('gpt-4-1106')])
  config.dataset.extractor = 'number-v1'  # as in old runs
  assert 100 * load.load(config)[0].responses.labels[:, 1].mean() == pytest.approx(88.9, abs=0.2)


def test_the_prompt_that_a_text_repeats_is_not_counted_as_written(table):
  seconds = dict(zip(table.llms, np.nanmean(table.responses.latency_s, axis=0).tolist(), strict=True))
  assert 20 < seconds['codex-pot-zeroshot'] < 22  # with the prompt it would be 42.7
