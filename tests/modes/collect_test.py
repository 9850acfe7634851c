import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
import yaml

from configs import common
from selectllm.client import command
from selectllm.data import grading, queries, records
from selectllm.modes import collect
from tests.helpers import asking, fault_server


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
  return tmp_path / 'run' / 'journal.jsonl'


def collected(
  folder: pathlib.Path,
  workdir: str = 'run',
  llms: tuple[str, ...] = (),
  labels: str = 'reference',
  **fields: object,
) -> int:
  config = common.get_config()
  config.dataset.labels = labels
  config.pool.update({'file': str(folder / 'pool.yaml'), 'llms': llms})
  config.collect.update({'queries': str(folder / 'queries.jsonl'), 'samples': 2, **fields})
  return collect.collect(config, folder / workdir)


@pytest.fixture
def served(tmp_path):
  """A server, a pool of two LLMs a and b on it, and ten queries."""
  with fault_server.in_thread(fault_server.FaultServer()) as server:
    asking.write_pool(tmp_path / 'pool.yaml', {'a': server.url, 'b': server.url})
    asking.write_queries(tmp_path / 'queries.jsonl', asking.some_queries(10))
    yield server


def test_the_exported_records_hold_every_response_graded(tmp_path, path, served):
  assert collected(tmp_path) == 0
  recorded = asking.recorded_responses(path)
  graded = list(records.read_jsonl(path.with_name('responses.jsonl')))
  assert [r.query_id for r in graded] == [f'q{i}' for i in range(10)]
  for record in graded:
    assert (record.task, record.reference) == ('sums', str(int(record.query_id[1:]) + 1))
    for llm, samples in record.responses.items():
      assert len(samples) == 2
      for index, sample in enumerate(samples):
        response = recorded[record.query_id, llm, index]
        assert sample.text == response.text
        assert sample.answer == response.text.rstrip('.').split()[-1]
        assert (sample.latency_s, sample.latency_is) == (response.latency_s, 'measured')
        assert (sample.prompt_tokens, sample.completion_tokens) == (20, 10)


def test_queries_without_a_reference_are_asked_where_the_pool_is_to_label_them(tmp_path, path, served):
  with open(tmp_path / 'queries.jsonl', 'a') as file:
    file.write('{"query_id": "open", "query": "what?"}\n')
  assert collected(tmp_path, labels='agreement') == 0
  recorded = {record.query_id: record for record in records.read_jsonl(path.with_name('responses.jsonl'))}
  assert recorded['open'].reference is None
  assert recorded['q0'].reference == '1'
  assert set(recorded['open'].responses) == {'a', 'b'}


def test_an_llm_can_have_an_extractor_of_its_own(tmp_path, path, served):
  served.rule = lambda body: fault_server.replies(fault_server.with_text('3 + 4 = 8'))
  pool = yaml.safe_load((tmp_path / 'pool.yaml').read_text())
  pool['llms'][1]['endpoint']['extractor'] = 'calculation-v1'
  (tmp_path / 'pool.yaml').write_text(yaml.safe_dump(pool))
  assert collected(tmp_path) == 0
  for record in records.read_jsonl(path.with_name('responses.jsonl')):
    assert {llm: sample.answer for llm, (sample, _) in record.responses.items()} == {'a': '8', 'b': '7'}


def test_samples_llms_and_queries_can_be_added(tmp_path, path, served):
  assert collected(tmp_path, llms=('a',)) == 0
  before = asking.recorded_responses(path)
  assert len(served.seen) == 20
  assert collected(tmp_path, llms=('a',), samples=3) == 0
  assert len(served.seen) == 30
  assert collected(tmp_path, llms=('a', 'b'), samples=3) == 0
  assert len(served.seen) == 60
  asking.write_queries(tmp_path / 'queries.jsonl', asking.some_queries(11))
  assert collected(tmp_path, samples=3) == 0
  after = asking.recorded_responses(path)
  assert len(served.seen) == len(after) == 66
  assert before.items() <= after.items()


def test_what_failed_is_asked_again_and_an_answer_replaces_the_failure(tmp_path, path, served):
  served.rule = lambda body: fault_server.status(400) if 'is 3' in body['messages'][-1]['content'] else None
  assert collected(tmp_path) == command.INCOMPLETE
  failed = [key for key, response in asking.recorded_responses(path).items() if response.error]
  assert sorted(failed) == [('q3', llm, s) for llm in 'ab' for s in range(2)]
  served.rule = lambda body: None
  seen = len(served.seen)
  assert collected(tmp_path) == 0
  assert len(served.seen) == seen + 4
  assert all(r.error is None for r in asking.recorded_responses(path).values())


def test_shards_part_the_queries_and_merge_into_the_whole(tmp_path, path, served):
  asking.write_queries(tmp_path / 'queries.jsonl', asking.some_queries(40))
  for shard in ('1/3', '2/3', '3/3'):
    assert collected(tmp_path, shard=shard) == 0
  assert len(served.seen) == 160
  parts = [asking.recorded_responses(p) for p in sorted(path.parent.glob('journal-?-of-3.jsonl'))]
  assert [bool(part) for part in parts] == [True] * 3
  assert sum(map(len, parts)) == 160
  merge = (str(path.parent / 'journal-*-of-3.jsonl'),)
  assert collected(tmp_path, merge=merge) == 0
  assert collected(tmp_path, merge=merge) == 0  # a second time changes nothing
  assert len(served.seen) == 160
  assert asking.recorded_responses(path) == {key: r for part in parts for key, r in part.items()}
  assert sum(1 for _ in records.read_jsonl(path.with_name('responses.jsonl'))) == 40


def test_merging_what_was_asked_differently_is_refused(tmp_path, path, served, capsys):
  assert collected(tmp_path) == 0
  pool = tmp_path / 'pool.yaml'
  pool.write_text(pool.read_text().replace('max_tokens: 50', 'max_tokens: 60'))
  assert collected(tmp_path, 'other', merge=(str(path),)) == command.REFUSED
  assert 'a.sampling.max_tokens was 50, is now 60' in capsys.readouterr().err
  assert len(served.seen) == 40


def test_a_complete_collection_is_merged_and_graded_without_its_endpoints(tmp_path, path, served, monkeypatch):
  assert collected(tmp_path) == 0
  before = [r.responses['a'][0].answer for r in records.read_jsonl(path.with_name('responses.jsonl'))]
  served.rule = lambda body: fault_server.status(500)
  served.served_models = []
  seen = len(served.seen)
  assert collected(tmp_path, 'elsewhere', merge=(str(path),), extractor='option_letter-v1') == command.REFUSED
  monkeypatch.setitem(grading.EXTRACTORS, 'last-digit-v1', lambda text, query: str(int(text.rstrip('.')[-1:]) + 100))
  assert collected(tmp_path, 'elsewhere', merge=(str(path),), extractor='last-digit-v1') == 0
  after = records.read_jsonl(tmp_path / 'elsewhere' / 'responses.jsonl')
  assert [int(r.responses['a'][0].answer) - 100 for r in after] == [int(answer) for answer in before]
  assert len(served.seen) == seen


def test_a_dry_run_tells_calls_tokens_and_cost_and_asks_nobody(tmp_path, served, capsys):
  assert collected(tmp_path, llms=('a',)) == 0
  capsys.readouterr()
  seen = len(served.seen)
  assert collected(tmp_path, samples=10, dry_run=True) == 0
  assert len(served.seen) == seen
  rows = [re.findall(r'[\w.,]+', line) for line in capsys.readouterr().out.splitlines()]
  counts = {row[0]: row[1:3] for row in rows if len(row) == 6}
  assert counts == {'a': ['20', '80'], 'b': ['0', '100'], 'all': ['20', '180']}


def test_a_budget_is_never_overspent_and_counts_earlier_runs(tmp_path, path, served, capsys):
  # One call costs 20 * 1 + 10 * 2 = 40 millionths of a dollar, and at most about 120.
  served.latency_s = 0.01
  assert collected(tmp_path, budget_usd=1e-3) == command.INCOMPLETE
  assert 'the budget of $0.001 is used up' in capsys.readouterr().out
  spent = sum(r.cost_usd + r.lost_usd for r in asking.recorded_responses(path).values())
  assert 0.5e-3 < spent <= 1e-3
  seen = len(served.seen)
  assert collected(tmp_path, budget_usd=1e-3) == command.INCOMPLETE
  assert len(served.seen) == seen
  assert collected(tmp_path, budget_usd=1.0) == 0


def test_a_budget_counts_what_a_lost_reply_may_have_cost(tmp_path, path, served):
  served.script = [fault_server.ends_short] * 5
  assert collected(tmp_path, budget_usd=1.0) == 0
  lost = [r.lost_usd for r in asking.recorded_responses(path).values() if r.lost_usd]
  assert len(lost) >= 2
  assert min(lost) > 100e-6  # all tokens that the reply might have had


def test_the_summary_names_what_is_missing_and_why(tmp_path, path, served, capsys):
  served.rule = lambda body: fault_server.status(422) if 'is 3' in body['messages'][-1]['content'] else None
  assert collected(tmp_path) == command.INCOMPLETE
  out = capsys.readouterr().out
  assert '2 bad_request' in out
  assert 'incomplete: a, b;' in out
  summary = json.loads(path.with_name('summary.json').read_bytes())
  assert summary['llms']['a'] == {
    'wanted': 20,
    'answered': 18,
    'missing': 2,
    'failed': {'bad_request': 2},
    'not_asked': 0,
    'cut_off': 0,
    'attempts': 20,
    'cost_usd': pytest.approx(18 * 40e-6),
  }


def test_progress_is_plain_lines_when_nobody_watches(tmp_path, served, capsys, monkeypatch):
  monkeypatch.setattr('selectllm.client.progress._LINES_EVERY_S', 0.02)
  served.latency_s = 0.05
  assert collected(tmp_path) == 0
  lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('a: done ')]
  assert lines
  for word in ('failed 0', 'in flight', 'requests/s', 'tokens/s', 'cost $', 'left 0:00:0'):
    assert word in lines[-2] + lines[-1]


def edited(folder, old, new, count=1):
  pool = folder / 'pool.yaml'
  assert old in pool.read_text()
  pool.write_text(pool.read_text().replace(old, new, count))


@pytest.mark.parametrize(
  ('old', 'new', 'said'),
  [
    ('api: chat', 'api: embeddings', "llms[0].endpoint.api must be chat or completions, not 'embeddings'"),
    ('api: chat', 'api: chat\n    api_key_env: NO_SUCH_KEY', "'a': the environment variable NO_SUCH_KEY"),
    ('{query}', '{question}', "'a': its prompt names {question}, which query 'q0' lacks; it has query"),
    ('{query}', '{query', 'is broken'),
    ('{query}', '{query.__class__}', "not 'query.__class__'"),
    ('api: chat', 'api: chat\n    context_tokens: 60', "'a': query 'q9' needs about"),
    ('model: m', 'model: other', "serves m; not 'other'"),
    ('concurrency: 8', 'concurrency: 0', 'limits.concurrency must be a number above 0, not 0'),
    ('concurrency: 8', 'concurrency: many', "limits.concurrency must be a whole number, not 'many'"),
    ('max_tokens: 50', 'max_tokens: -5', 'sampling.max_tokens must be a number above 0, not -5'),
    ('max_tokens: 50', 'max_tokens: 50\n      extra: {n: 2, messages: []}', 'sampling.extra may not hold messages, n'),
    ('max_tokens', 'max_token', "unknown field 'max_token'; did you mean 'max_tokens'?"),
  ],
)
def test_a_bad_pool_is_refused_before_money_is_spent(tmp_path, served, capsys, old, new, said):
  edited(tmp_path, old, new)
  assert collected(tmp_path) == command.REFUSED
  assert said in capsys.readouterr().err
  assert served.seen == []


@pytest.mark.parametrize(
  ('fields', 'said'),
  [
    ({'collect.samples': 0}, 'config.collect.samples must be at least 1, not 0'),
    ({'pool.file': ''}, "config.pool.file='' is not a file"),
  ],
)
def test_an_option_without_sense_is_refused(tmp_path, capsys, fields, said):
  prepared = common.get_config()
  asking.write_pool(tmp_path / 'pool.yaml', {'a': 'http://127.0.0.1:1/v1'})
  asking.write_queries(tmp_path / 'queries.jsonl', asking.some_queries(1))
  files = {'pool.file': str(tmp_path / 'pool.yaml'), 'collect.queries': str(tmp_path / 'queries.jsonl')}
  prepared.update_from_flattened_dict(files | fields)
  assert collect.collect(prepared, tmp_path / 'run') == command.REFUSED
  assert said in capsys.readouterr().err


def test_all_llms_without_an_endpoint_are_named(tmp_path, served, capsys):
  (tmp_path / 'pool.yaml').write_text('llms: [{name: a}, {name: b}]')
  assert collected(tmp_path) == command.REFUSED
  said = capsys.readouterr().err
  assert "'a' has no endpoint" in said
  assert "'b' has no endpoint" in said


def test_all_problems_are_listed_at_once(tmp_path, served, capsys):
  unused = 'http://127.0.0.1:1/v1'
  asking.write_pool(tmp_path / 'pool.yaml', {'a': unused, 'b': served.url, 'c': unused, 'd': served.url})
  edited(tmp_path, 'model: m', 'model: other', 2)
  assert collected(tmp_path) == command.REFUSED
  said = capsys.readouterr().err
  assert "'a' at http://127.0.0.1:1/v1: connection" in said
  assert "'b' at" in said
  assert "'c' at" in said
  assert "'d'" not in said
  assert served.seen == []


def test_an_endpoint_without_a_list_of_models_is_probed(tmp_path, served, capsys):
  served.served_models = None
  served.script = [fault_server.replies(fault_server.with_text('Hi', 'another'))]
  assert collected(tmp_path, llms=('a',)) == command.REFUSED
  assert "asked 'm', 'another' answered" in capsys.readouterr().err
  assert len(served.seen) == 1
  assert collected(tmp_path, llms=('a',)) == 0
  assert len(served.seen) == 1 + 1 + 20


def test_another_model_in_the_middle_stops_the_endpoint(tmp_path, path, served):
  served.script = [fault_server.replies(fault_server.with_text('the answer is 1', 'another'))]
  assert collected(tmp_path, llms=('a',)) == command.INCOMPLETE
  assert 'wrong_model' in {r.error for r in asking.recorded_responses(path).values()}
  assert len(served.seen) < 20


@pytest.mark.parametrize(
  ('line', 'said'),
  [
    ('{"query_id": "x", "query": "y"', 'queries.jsonl:11: not valid JSON'),
    ('["x"]', 'queries.jsonl:11: a query must be an object'),
    ('{"query_id": "q3", "query": "y", "reference": "1"}', "query_id 'q3' already stands at"),
    ('{"query_id": "x", "query": " ", "reference": "1"}', 'queries.jsonl:11: query is empty'),
    ('{"query_id": "x", "query": "y"}', "query 'x' has no reference; "),
    ('{"query_id": "x", "query": "y"}', '(--config.dataset.labels=agreement)'),
    ('{"query_id": "x", "query": "y", "reference": "none"}', "the reference 'none' of query 'x' is no answer"),
    ('{"query_id": "x", "query": "y", "reference": ["1"]}', 'reference must be a text'),
  ],
)
def test_a_bad_query_is_refused_with_its_line(tmp_path, served, capsys, line, said):
  with open(tmp_path / 'queries.jsonl', 'a') as file:
    file.write(line + '\n')
  assert collected(tmp_path) == command.REFUSED
  assert said in capsys.readouterr().err
  assert served.seen == []


def test_an_unknown_extractor_is_refused(tmp_path, served, capsys):
  assert collected(tmp_path, extractor='number-v0') == command.REFUSED
  assert "config.collect.extractor: no extractor 'number-v0'" in capsys.readouterr().err


@pytest.mark.parametrize('shard', ['0/3', '4/3', '1', 'a/b'])
def test_a_shard_that_does_not_exist_is_refused(tmp_path, served, capsys, shard):
  assert collected(tmp_path, shard=shard) == command.REFUSED
  assert repr(shard) in capsys.readouterr().err


def test_an_unknown_llm_and_a_budget_without_prices_are_refused(tmp_path, served, capsys):
  assert collected(tmp_path, llms=('a', 'z')) == command.REFUSED
  assert 'config.pool.llms names z; the pool file has a, b' in capsys.readouterr().err
  text = (tmp_path / 'pool.yaml').read_text()
  unpriced = [line for line in text.splitlines() if 'price' not in line and 'usd' not in line and 'read_on' not in line]
  (tmp_path / 'pool.yaml').write_text('\n'.join(unpriced))
  assert collected(tmp_path, budget_usd=1.0) == command.REFUSED
  assert "'a' lacks price or sampling.max_tokens, so no budget can be kept" in capsys.readouterr().err
  assert collected(tmp_path, dry_run=True) == 0
  assert 'unknown' in capsys.readouterr().out


def test_references_are_brought_to_canonical_form(tmp_path, path, served):
  asking.write_queries(tmp_path / 'queries.jsonl', [queries.Query('q', 'How much?', '', '$1,000.00')])
  assert collected(tmp_path) == 0
  (record,) = records.read_jsonl(path.with_name('responses.jsonl'))
  assert record.reference == '1000'


def test_a_query_may_be_corrected_before_it_is_answered(tmp_path, path, served, capsys):
  assert collected(tmp_path, dry_run=True) == 0
  assert path.read_bytes().count(b'\n') == 1  # nothing but the journal's own line
  served.rule = lambda body: fault_server.status(400)
  assert collected(tmp_path) == command.INCOMPLETE
  served.rule = lambda body: None
  changed = [queries.Query(q.query_id, q.query + '?', q.task, q.reference) for q in asking.some_queries(10)]
  asking.write_queries(tmp_path / 'queries.jsonl', changed)
  assert collected(tmp_path) == 0
  asking.write_queries(tmp_path / 'queries.jsonl', asking.some_queries(10))
  assert collected(tmp_path) == command.REFUSED
  assert "q0.query was 'What is 0 + 1??', is now 'What is 0 + 1?'" in capsys.readouterr().err


def test_a_terminal_shows_a_live_table(tmp_path, served):
  served.latency_s = 0.1
  terminal, child_s = os.openpty()
  child = asking.start(tmp_path, stderr=child_s)
  os.close(child_s)
  shown = b''
  with contextlib.suppress(OSError):  # the terminal is gone when the child is
    while chunk := os.read(terminal, 65536):
      shown += chunk
  os.close(terminal)
  assert child.wait() == 0
  assert b'requests/s' in shown
  assert b'\x1b[' in shown


def test_collecting_and_answering_do_not_load_jax():
  modules = 'selectllm.modes.collect', 'selectllm.client.dispatch'
  code = f'import sys, {", ".join(modules)}; sys.exit("jax" in sys.modules)'
  subprocess.run([sys.executable, '-c', code], cwd=asking.HERE.parents[1], check=True)
