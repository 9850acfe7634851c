"""Answering new queries with a trained classifier and live servers on loopback."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import ml_collections
import numpy as np
import pytest
import yaml

from configs import jsonl
from selectllm.client import command
from selectllm.data import records, splits
from selectllm.evaluate import answers
from selectllm.modes import answer
from selectllm.selection import policies
from selectllm.serve import decider, selector
from tests.helpers import asking, fault_server

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def trained(frozen_run: pathlib.Path) -> pathlib.Path:
  return frozen_run


@pytest.fixture(scope='module')
def recorded(responses_file) -> dict[str, records.Record]:
  """What each LLM answers, by query text."""
  return {record.query: record for record in records.read_jsonl(responses_file)}


@pytest.fixture
def config(trained, tmp_path) -> ml_collections.ConfigDict:
  config = jsonl.get_config()
  config.pool.file = str(tmp_path / 'pool.yaml')
  config.mesh.data = 1
  config.answer.update({'run': str(trained), 'queries': str(tmp_path / 'queries.jsonl'), 'batch_size': 16, 'size': 2})
  return config


def write_queries(path: pathlib.Path, recorded: dict[str, records.Record], *, references: bool = True) -> None:
  with path.open('w') as file:
    for record in recorded.values():
      line = {'query_id': record.query_id, 'query': record.query}
      file.write(json.dumps(line | ({'reference': record.reference} if references else {})) + '\n')


def serving(recorded: dict[str, records.Record], *, dead: tuple[str, ...] = ()) -> fault_server.FaultServer:
  """Answers as recorded; the system prompt says which LLM is asked."""

  def rule(body):
    llm, query = (message['content'] for message in body['messages'])
    if llm in dead:
      return fault_server.status(400)
    return fault_server.replies(fault_server.with_text(recorded[query].responses[llm][0].text))

  return fault_server.FaultServer(rule=rule)


def lines_of(workdir: pathlib.Path) -> list[dict]:
  return [json.loads(line) for line in (workdir / 'answers.jsonl').read_text().splitlines()]


LLMS = ('adder', 'guesser', 'multiplier')


def answered(config, recorded, folder, *, dead=(), references=True):
  """Runs the mode; returns its exit code, its lines, and the requests that the server saw."""
  with fault_server.in_thread(serving(recorded, dead=dead)) as server:
    asking.write_pool(folder / 'pool.yaml', dict.fromkeys(LLMS, server.url))
    write_queries(folder / 'queries.jsonl', recorded, references=references)
    code = answer.answer(config, folder / 'run')
    return code, lines_of(folder / 'run'), len(server.seen)


def test_calls_the_selected_and_reports_live(config, trained, recorded, tmp_path):
  code, lines, requests = answered(config, recorded, tmp_path)
  assert code == 0
  assert requests == 2 * len(recorded) == sum(len(line['calls']) for line in lines)
  assert [line['query_id'] for line in lines] == [record.query_id for record in recorded.values()]
  for line in lines:
    ranked = sorted(LLMS, key=lambda llm: -line['confidences'][llm])
    assert line['selected'] == ranked[:2] == list(line['calls'])
    given = {llm: call['answers'][0] for llm, call in line['calls'].items()}
    assert given == {llm: recorded[line['query']].responses[llm][0].answer for llm in line['selected']}
    # Of two votes the more confident one's counts more.
    assert line['answer'] == given[ranked[0]]
    assert line['correct'] == (line['answer'] == line['reference'])
    assert line['wall_clock_s'] == max(call['latency_s'] for call in line['calls'].values())
    assert line['stages'] == [line['selected']]
    assert (line['p_right'], line['abstained'], line['answer_unsure']) == (None, False, None)
    assert line['cost_usd'] == pytest.approx(2 * (20 * 1 + 10 * 2) / 1e6)
  report = json.loads((tmp_path / 'run' / 'report.json').read_text())
  assert report['dataset']['responses'] == 'live'
  assert report['p_right'] is None
  assert report['dataset']['latency'] == 'measured'
  (method,) = report['methods']
  assert method['accuracy'] == np.mean([line['correct'] for line in lines])
  assert method['calls'] == 2
  saved = report['savings']
  assert saved['made']['calls'] * 3 == saved['calling_all']['calls'] * 2
  never_called = {llm for llm, row in report['llms'].items() if not row['calls']}
  assert (saved['calling_all']['cost_usd'] is None) == bool(never_called)  # the training data had no prices
  assert saved['made']['compute_s'] < saved['calling_all']['compute_s']
  assert 'live responses, measured latencies' in (tmp_path / 'run' / 'report.md').read_text()
  # Confidences are those of the run.
  with np.load(trained / 'predictions.npz') as arrays:
    tested = arrays['split'][0] == splits.TEST
    expected = dict(zip(arrays['query_ids'][tested], arrays['confidences'][0][tested], strict=True))
  assert expected
  for line in lines:
    if line['query_id'] in expected:
      np.testing.assert_allclose(list(line['confidences'].values()), expected[line['query_id']], atol=1e-5)


def test_an_llm_can_have_an_extractor_of_its_own(config, recorded, tmp_path):
  few = dict(list(recorded.items())[:6])
  rule = fault_server.replies(fault_server.with_text('3 + 4 = 8'))
  with fault_server.in_thread(fault_server.FaultServer(rule=lambda body: rule)) as server:
    asking.write_pool(tmp_path / 'pool.yaml', dict.fromkeys(LLMS, server.url))
    pool = yaml.safe_load((tmp_path / 'pool.yaml').read_text())
    pool['llms'][0]['endpoint']['extractor'] = 'calculation-v1'
    (tmp_path / 'pool.yaml').write_text(yaml.safe_dump(pool))
    write_queries(tmp_path / 'queries.jsonl', few)
    config.answer.size = 3
    assert answer.answer(config, tmp_path / 'run') == 0
  for line in lines_of(tmp_path / 'run'):
    given = {llm: call['answers'] for llm, call in line['calls'].items()}
    assert given == {'adder': ['7'], 'guesser': ['8'], 'multiplier': ['8']}


@pytest.mark.parametrize('on_failure', ['next', 'fewer'])
def test_an_llm_that_fails_is_replaced_or_not(config, recorded, tmp_path, on_failure):
  config.answer.on_failure = on_failure
  code, lines, _ = answered(config, recorded, tmp_path, dead=('adder',))
  assert code == 0
  hit = [line for line in lines if 'adder' in line['selected']]
  assert hit
  for line in hit:
    assert line['failed'] == ['adder']
    assert line['calls']['adder']['error'] is not None
    replaced = [llm for llm in line['calls'] if llm not in line['selected']]
    if replaced:  # it was called after the failure, so their seconds add up
      in_turn = line['calls']['adder']['failed_after_s'] + line['calls'][replaced[0]]['latency_s']
      assert line['wall_clock_s'] >= in_turn > line['calls'][replaced[0]]['latency_s']
    assert len(line['calls']) == (3 if on_failure == 'next' else 2)
    assert line['answer'] in [call['answers'][0] for llm, call in line['calls'].items() if llm != 'adder']
    assert line['correct'] is not None


def test_nobody_answers_a_query(config, recorded, tmp_path):
  few = dict(list(recorded.items())[:5])
  code, lines, _ = answered(config, few, tmp_path, dead=LLMS)
  assert code != 0
  assert all(line['answer'] is None and line['unanswered'] for line in lines)
  assert all(line['correct'] is None for line in lines)  # a failure is no wrong answer
  report = json.loads((tmp_path / 'run' / 'report.json').read_text())
  assert (report['methods'][0]['unanswered'], report['methods'][0]['accuracy']) == (5, None)


def test_what_failed_calls_may_have_cost_is_counted(config, recorded, tmp_path):
  few = dict(list(recorded.items())[:2])
  server = fault_server.FaultServer(rule=lambda body: fault_server.ends_short)
  config.answer.size = 1
  config.pool.llms = ('adder',)
  with fault_server.in_thread(server):
    asking.write_pool(tmp_path / 'pool.yaml', {'adder': server.url})
    write_queries(tmp_path / 'queries.jsonl', few)
    assert answer.answer(config, tmp_path / 'run') == command.INCOMPLETE
  lost = {r.query_id: r.lost_usd for r in asking.recorded_responses(tmp_path / 'run' / 'journal.jsonl').values()}
  for line in lines_of(tmp_path / 'run'):
    assert line['cost_usd'] == line['calls']['adder']['cost_usd'] == lost[line['query_id']] > 0


def test_without_references_there_is_no_accuracy(config, recorded, tmp_path):
  code, lines, _ = answered(config, recorded, tmp_path, references=False)
  assert code == 0
  assert all(line['correct'] is None and line['answer'] is not None for line in lines)
  assert json.loads((tmp_path / 'run' / 'report.json').read_text())['methods'][0]['accuracy'] is None


def test_a_killed_run_goes_on_and_calls_nobody_twice(config, trained, recorded, tmp_path):
  with fault_server.in_thread(serving(recorded)) as server:
    server.latency_s = 0.0
    asking.write_pool(tmp_path / 'pool.yaml', dict.fromkeys(LLMS, server.url), concurrency=2)
    write_queries(tmp_path / 'queries.jsonl', recorded)
    fields = {f'answer.{name}': config.answer[name] for name in ('run', 'queries', 'batch_size', 'size')}
    fields |= {'mode': 'answer', 'pool.file': config.pool.file, 'mesh.data': 1, 'answer.at_once': 4}
    command = [
      *(sys.executable, '-m', 'selectllm.main', '--config=configs/jsonl.py', f'--workdir={tmp_path / "run"}'),
      *(f'--config.{name}={value}' for name, value in fields.items()),
    ]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(server.seen) < 40 and child.poll() is None:
      time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    seen = len(server.seen)
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    in_flight = 3 * 2  # three endpoints, two at a time
    assert 2 * len(recorded) <= len(server.seen) <= 2 * len(recorded) + in_flight
    assert seen < len(server.seen)
    lines = lines_of(tmp_path / 'run')
    assert len(lines) == len(recorded)
    assert all(line['answer'] == line['calls'][line['selected'][0]]['answers'][0] for line in lines)
    before = len(server.seen)
    config.answer.at_once = 4
    assert answer.answer(config, tmp_path / 'run') == 0
    assert len(server.seen) == before
    assert lines_of(tmp_path / 'run') == lines


@pytest.mark.parametrize('after', [1, 40])
def test_a_first_signal_writes_what_was_answered_and_the_next_run_the_rest(config, recorded, tmp_path, after):
  server = serving(recorded)
  proper = server.rule

  def rule(body):
    if len(server.seen) == after:
      os.kill(os.getpid(), signal.SIGINT)
    return proper(body)

  server.rule = rule
  with fault_server.in_thread(server):
    asking.write_pool(tmp_path / 'pool.yaml', dict.fromkeys(LLMS, server.url), concurrency=2)
    write_queries(tmp_path / 'queries.jsonl', recorded)
    config.answer.at_once = 4
    assert answer.answer(config, tmp_path / 'run') == 128 + signal.SIGINT
    some = lines_of(tmp_path / 'run')
    assert len(some) < len(recorded)
    # Of the first queries at work, those end whose calls were all on their way when the signal came.
    assert some if after == 40 else len(some) <= config.answer.at_once
    assert f'of {len(recorded)} queries were asked' in (tmp_path / 'run' / 'report.md').read_text()
    assert len(asking.recorded_responses(tmp_path / 'run' / 'journal.jsonl')) == len(server.seen)  # drained
    assert answer.answer(config, tmp_path / 'run') == 0
    assert len(server.seen) == 2 * len(recorded)
  every = {line['query_id']: line for line in lines_of(tmp_path / 'run')}
  assert len(every) == len(recorded)
  assert all(every[line['query_id']] == line for line in some)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'answer.run': 'nowhere'}, 'not a finished run: it has no config.json'),
    ({'answer.policy': 'best'}, f"'best' is not one of {', '.join(policies.POLICIES)}"),
    ({'answer.samples': 0}, 'config.answer.samples must be at least 1, not 0'),
    ({'answer.at_once': 0}, 'config.answer.at_once must be at least 1, not 0'),
    ({'answer.size': 9}, 'size=9: the run knows 3 LLMs'),
    ({'answer.abstain_below': 1.5}, 'config.answer.abstain_below must be from 0 to 1, not 1.5'),
    (
      {'answer.abstain_below': 0.5},
      'needs to know how likely an answer is right, which weighted_max_conf does not say',
    ),
    ({'answer.extractor': 'numbers'}, 'number-v1'),
    ({'answer.on_failure': 'retry'}, 'next or fewer'),
    ({'pool.llms': ('adder', 'oracle')}, 'names oracle; the run knows adder, guesser, multiplier'),
    ({'pool.file': 'half.yaml'}, 'lacks multiplier, which the run may select'),
  ],
)
def test_what_cannot_be_answered_is_refused_before_any_call(config, recorded, tmp_path, capsys, changes, message):
  with fault_server.in_thread(serving(recorded)) as server:
    asking.write_pool(tmp_path / 'pool.yaml', dict.fromkeys(LLMS, server.url))
    asking.write_pool(tmp_path / 'half.yaml', dict.fromkeys(LLMS[:2], server.url))
    write_queries(tmp_path / 'queries.jsonl', recorded)
    if 'pool.file' in changes:
      changes = {'pool.file': str(tmp_path / 'half.yaml')}
    config.update_from_flattened_dict(changes)
    assert answer.answer(config, tmp_path / 'run') == 2
    assert message in capsys.readouterr().err
    assert not server.seen


@pytest.mark.parametrize(
  ('line', 'old', 'new', 'message'),
  [
    ('{"query_id": "x"', '', '', 'queries.jsonl:6: not valid JSON'),
    ('{"query_id": "x", "query": "y", "reference": "none"}', '', '', "queries.jsonl:6: the reference 'none'"),
    ('', '{query}', '{subject}', "'adder': its prompt names {subject}, which query"),
    ('', 'api: chat', 'api: chat\n    context_tokens: 51', 'its context holds 51'),
    ('', 'model: m', 'model: other', "serves m; not 'other'"),
  ],
)
def test_bad_files_are_refused_before_any_call(config, recorded, tmp_path, capsys, line, old, new, message):
  few = dict(list(recorded.items())[:5])
  with fault_server.in_thread(serving(few)) as server:
    pool, asked = tmp_path / 'pool.yaml', tmp_path / 'queries.jsonl'
    asking.write_pool(pool, dict.fromkeys(LLMS, server.url))
    pool.write_text(pool.read_text().replace(old, new, 1))
    write_queries(asked, few)
    asked.write_text(asked.read_text() + line)
    assert answer.answer(config, tmp_path / 'run') == command.REFUSED
    assert message in capsys.readouterr().err
    assert not server.seen


def test_the_report_of_the_run_that_selects_is_not_replaced(config, trained, capsys):
  before = (trained / 'report.json').read_bytes()
  assert answer.answer(config, trained) == command.REFUSED
  assert 'is config.answer.run' in capsys.readouterr().err
  assert (trained / 'report.json').read_bytes() == before


def test_only_the_named_llms_are_selected_from(config, recorded, tmp_path):
  config.pool.llms = ('guesser', 'multiplier')
  few = dict(list(recorded.items())[:20])
  code, lines, _ = answered(config, few, tmp_path)
  assert code == 0
  assert all(set(line['calls']) == {'guesser', 'multiplier'} for line in lines)


class State(NamedTuple):
  confidences: np.ndarray


class UntilTwoAgree:
  """Calls the two most confident LLMs at once, and then whoever is left, until two answers are the same."""

  llms = LLMS
  in_stages = True

  def __init__(self):
    self.asked_about: list[int] = []

  def facts(self, asked):
    return answers.DeciderFacts(self.llms, 'until_two_agree', None, asked, np.ones(3), np.full(3, 0.001), 0.01)

  def score(self, texts, available, *, batch_size):
    return State(np.tile(np.array([0.4, 0.8, 0.6], np.float32), (len(texts), 1)))

  def decide(self, state, revealed):
    self.asked_about.append(len(state.confidences))
    return np.array([self.next(*row) for row in zip(state.confidences, *revealed, strict=True)])

  def next(self, confidences, answers, called, available):
    left = [place for place in np.argsort(-confidences) if available[place] and not called[place]]
    given = answers[called, 0].tolist()
    wanted = 0 if len(set(given)) < len(given) else max(1, 2 - len(given))
    return np.isin(np.arange(len(called)), left[:wanted])

  def finish(self, state, revealed):
    (given,) = (answers[called, 0] for answers, called in zip(revealed.answers, revealed.called, strict=True))
    votes = np.bincount(given) if given.size else np.zeros(1)
    answer_id = votes.argmax() if given.size else -1
    return decider.Finished(np.array([answer_id], np.int32), np.array([votes.max() / 3], np.float32))


IN_ORDER = ('guesser', 'multiplier', 'adder')


def stages_of(record, dead=()):
  """Whom that rule calls for a query, stage after stage."""
  stages, given = [], []
  while len(set(given)) == len(given) and (left := IN_ORDER[sum(map(len, stages)) :]):
    stages.append(list(left[: max(1, 2 - len(given))]))
    given += [record.responses[llm][0].answer for llm in stages[-1] if llm not in dead]
  return stages


@pytest.fixture
def staged(tmp_path) -> ml_collections.ConfigDict:
  config = jsonl.get_config()
  config.pool.file = str(tmp_path / 'pool.yaml')
  config.answer.update({'queries': str(tmp_path / 'queries.jsonl'), 'batch_size': 16})
  return config


def answered_in_stages(config, recorded, folder, *, dead=()):
  rule = UntilTwoAgree()
  with fault_server.in_thread(serving(recorded, dead=dead)) as server:
    asking.write_pool(folder / 'pool.yaml', dict.fromkeys(LLMS, server.url))
    write_queries(folder / 'queries.jsonl', recorded)
    code = answer.answer_with(rule, config, folder / 'run')
    return code, lines_of(folder / 'run'), len(server.seen), rule


@pytest.mark.parametrize('dead', [(), ('guesser',), ('guesser', 'multiplier')])
def test_stages_are_called_as_decided_and_accounted_one_after_the_other(staged, recorded, tmp_path, dead):
  code, lines, requests, rule = answered_in_stages(staged, recorded, tmp_path, dead=dead)
  assert code == 0
  assert requests == sum(len(line['calls']) for line in lines)
  assert len({len(line['stages']) for line in lines}) == (1 if dead else 2)
  for line in lines:
    record = recorded[line['query']]
    assert line['stages'] == stages_of(record, dead)
    assert line['selected'] == line['stages'][0]
    called = [llm for stage in line['stages'] for llm in stage]
    assert list(line['calls']) == called
    assert line['failed'] == [llm for llm in called if llm in dead]
    given = [record.responses[llm][0].answer for llm in called if llm not in dead]
    votes = {text: given.count(text) for text in given}
    assert line['answer'] == max(votes, key=lambda text: votes[text])
    assert line['p_right'] == pytest.approx(max(votes.values()) / 3, abs=1e-5)
    took = {llm: call['latency_s'] or call['failed_after_s'] for llm, call in line['calls'].items()}
    assert line['wall_clock_s'] == sum(max(took[llm] for llm in stage) for stage in line['stages'])
    assert line['compute_s'] == pytest.approx(sum(took.values()))
  assert set(rule.asked_about) == {16}  # always one shape
  report = json.loads((tmp_path / 'run' / 'report.json').read_text())
  assert report['p_right']['mean'] == pytest.approx(np.mean([line['p_right'] for line in lines]))
  assert report['p_right']['references'] == len(recorded)
  gap = abs(report['p_right']['mean'] - report['methods'][0]['accuracy'])
  assert gap - 1e-9 <= report['p_right']['ece'] <= 1
  assert (tmp_path / 'run' / 'report.md').read_text().startswith('# until_two_agree on 160 new queries')


def test_an_answer_that_is_too_unsure_is_withheld(staged, recorded, tmp_path):
  staged.answer.abstain_below = 0.5
  code, lines, _, _ = answered_in_stages(staged, recorded, tmp_path)
  assert code == 0
  withheld = [line for line in lines if line['abstained']]
  assert 0 < len(withheld) < len(lines)
  for line in lines:
    assert line['abstained'] == (line['p_right'] < 0.5)
    assert line['answer' if line['abstained'] else 'answer_unsure'] is None
    assert line['answer_unsure' if line['abstained'] else 'answer'] is not None
    assert (line['correct'] is None) == line['abstained']
  (method,) = json.loads((tmp_path / 'run' / 'report.json').read_text())['methods']
  assert (method['abstained'], method['queries']) == (len(withheld), len(lines) - len(withheld))
  assert method['unanswered'] == 0


def test_with_stages_nobody_may_answer_either(staged, recorded, tmp_path):
  staged.answer.abstain_below = 0.5
  few = dict(list(recorded.items())[:5])
  code, lines, requests, _ = answered_in_stages(staged, few, tmp_path, dead=LLMS)
  assert code == command.INCOMPLETE
  assert requests == 15
  for line in lines:
    assert line['stages'] == [['guesser', 'multiplier'], ['adder']]
    assert line['unanswered']
    assert (line['answer'], line['p_right'], line['abstained']) == (None, None, False)


def test_stages_go_on_where_a_signal_ended_them(staged, recorded, tmp_path):
  server = serving(recorded)
  proper = server.rule

  def rule(body):
    if len(server.seen) == 150:
      os.kill(os.getpid(), signal.SIGINT)
    return proper(body)

  server.rule = rule
  staged.answer.at_once = 8
  with fault_server.in_thread(server):
    asking.write_pool(tmp_path / 'pool.yaml', dict.fromkeys(LLMS, server.url), concurrency=2)
    write_queries(tmp_path / 'queries.jsonl', recorded)
    assert answer.answer_with(UntilTwoAgree(), staged, tmp_path / 'run') == 128 + signal.SIGINT
    some = lines_of(tmp_path / 'run')
    assert 0 < len(some) < len(recorded)
    assert answer.answer_with(UntilTwoAgree(), staged, tmp_path / 'run') == 0
    lines = lines_of(tmp_path / 'run')
    assert len(server.seen) == sum(len(line['calls']) for line in lines)
    assert answer.answer_with(UntilTwoAgree(), staged, tmp_path / 'run') == 0
    assert len(server.seen) == sum(len(line['calls']) for line in lines)
  assert lines_of(tmp_path / 'run') == lines
  every = {line['query_id']: line for line in lines}
  assert all(every[line['query_id']] == line for line in some)
  assert [line['stages'] for line in lines] == [stages_of(recorded[line['query']]) for line in lines]


def test_a_saved_selector_calls_stage_after_stage_as_the_replay_would(config, trained, recorded, tmp_path):
  config.answer.update({'run': '', 'selector': str(trained / 'selector'), 'limit': 'none'})
  code, lines, requests = answered(config, recorded, tmp_path)
  assert code == 0
  assert requests == sum(len(line['calls']) for line in lines)
  chooser = selector.load(trained / 'selector')
  first = {choice.query: choice.llms for choice in chooser.select([line['query'] for line in lines])}
  for line in lines:
    assert tuple(line['selected']) == first[line['query']]
    assert [llm for stage in line['stages'] for llm in stage] == list(line['calls'])
    assert 0 < line['p_right'] <= 1
    assert line['answer'] in {answer for call in line['calls'].values() for answer in call['answers']}
  assert max(len(line['stages']) for line in lines) > 1
  report = json.loads((tmp_path / 'run' / 'report.json').read_text())
  assert report['methods'][0]['name'] == f'{chooser.rule} (none)'
  assert report['p_right']['mean'] == pytest.approx(np.mean([line['p_right'] for line in lines]), abs=1e-5)


def test_a_selector_or_a_run_is_named_not_both(config, trained, tmp_path, capsys):
  for chosen in ({'selector': str(trained / 'selector')}, {'run': ''}):
    config.answer.update(chosen)
    assert answer.answer(config, tmp_path / 'run') == command.REFUSED
    assert 'name either config.answer.selector (RUN/selector) or config.answer.run' in capsys.readouterr().err
    config.answer.selector = ''
  config.answer.update({'run': '', 'selector': str(tmp_path)})
  assert answer.answer(config, tmp_path / 'run') == command.REFUSED
  assert 'holds no selector' in capsys.readouterr().err
