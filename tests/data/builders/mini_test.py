import collections
import dataclasses
import json
import pathlib
import random
import re
import subprocess
import sys

import numpy as np
import pytest

from configs import mini as mini_config
from selectllm.data import grading, load, pool_file, records
from selectllm.data.builders import mini
from tools import mini_pool_questions, pack_mini_pool

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture(scope='module')
def recorded() -> list[records.Record]:
  return list(records.read_jsonl(mini.RECORDING))


@pytest.fixture(scope='module')
def pool() -> pool_file.Pool:
  return pool_file.read_pool(mini_config.get_config().pool.file)


def test_the_recording_is_complete(recorded, pool):
  assert len(recorded) == mini_pool_questions.COUNT
  for record in recorded:
    assert record.responses.keys() == pool.llms.keys()
    for samples in record.responses.values():
      assert len(samples) == 2
      for sample in samples:
        assert sample.error is None
        assert sample.latency_is == 'measured'
        assert 0 < sample.latency_s < 60
        assert sample.prompt_tokens > 0
  assert mini.RECORDING.stat().st_size < 3_000_000


def test_answers_follow_from_the_texts(recorded, pool):
  """Whoever changes an extractor sees here what becomes of what was recorded."""
  own = {name: grading.get_extractor(llm.endpoint.extractor or 'number-v1') for name, llm in pool.llms.items()}
  for record in recorded:
    for name, samples in record.responses.items():
      assert [sample.answer for sample in samples] == [own[name](sample.text, record.query) for sample in samples]


def test_the_questions_can_be_made_again(recorded):
  made = list(mini_pool_questions.generate(mini_pool_questions.SEED, mini_pool_questions.COUNT))
  assert [(q['query_id'], q['query'], q['task'], q['reference']) for q in made] == [
    (r.query_id, r.query, r.task, r.reference) for r in recorded
  ]


def test_members_are_good_at_different_families(recorded, pool):
  """What there is to learn: who is right depends on the question."""
  right = collections.defaultdict(list)
  for record in recorded:
    for name, samples in record.responses.items():
      right[record.task, name] += [sample.answer == record.reference for sample in samples]
  best = {
    family: max(pool.llms, key=lambda name: np.mean(right[family, name])) for family in mini_pool_questions.FAMILIES
  }
  assert len(set(best.values())) >= 4
  by_family = np.mean([np.mean(right[family, name]) for family, name in best.items()])
  single = max(np.mean([np.mean(right[family, name]) for family in best]) for name in pool.llms)
  assert by_family > single + 0.15


def test_the_worked_examples_are_not_among_the_questions(recorded, pool):
  shown = {shot['query'] for llm in pool.llms.values() for shot in llm.endpoint.prompt.few_shot}
  assert len(shown) > 30
  assert shown.isdisjoint(record.query for record in recorded)


def test_the_card_tells_what_is_in_the_recording(recorded, pool):
  """The card's tables are those of the recording that ships."""
  again = pack_mini_pool.card(recorded, '2026-01-31', 'llama_cpp_python==0')
  tables = [line for line in again.splitlines() if line.startswith('|')]
  assert len(tables) == len(mini_pool_questions.FAMILIES) + 3 + 3
  assert all(name in tables[0] for name in pool.llms)
  assert [line for line in pack_mini_pool.CARD.read_text().splitlines() if line.startswith('|')] == tables


def test_what_is_not_complete_is_not_packed(recorded):
  first, *rest = recorded
  some = dataclasses.replace(first, responses={**first.responses, 'smollm2-chat': first.responses['smollm2-chat'][:1]})
  with pytest.raises(ValueError, match=f'smollm2-chat has not answered {first.query_id} 2 times'):
    pack_mini_pool.card([some, *rest], '2026-01-31', '')


def test_as_a_table(tmp_path, monkeypatch, recorded, pool):
  monkeypatch.setenv('SELECTLLM_CACHE', str(tmp_path))
  table, identity = load.load(mini_config.get_config())
  assert table.name == 'Mini pool'
  assert table.latency_is == 'measured'
  assert table.llms == tuple(pool.llms)
  assert table.tasks == tuple(mini_pool_questions.FAMILIES)
  assert table.responses.observed.all()
  assert identity['name'] == 'mini_pool'
  elected = collections.Counter()
  for record in recorded:
    for name, (one, other) in record.responses.items():
      # Of two answers that differ the first has the vote; one without an answer has none.
      elected[name] += (one.answer or other.answer) == record.reference
  labels = dict(zip(table.llms, table.responses.labels.sum(0), strict=True))
  assert labels == {name: elected[name] for name in table.llms}


@pytest.mark.parametrize('family', mini_pool_questions.FAMILIES)
def test_a_familys_questions_are_sound(family):
  place = list(mini_pool_questions.FAMILIES).index(family)
  some = list(mini_pool_questions.generate(1, 200 * len(mini_pool_questions.FAMILIES)))[
    place :: len(mini_pool_questions.FAMILIES)
  ]
  assert {question['task'] for question in some} == {family}
  things = '|'.join([*mini_pool_questions._THINGS, *mini_pool_questions._GOODS, 'bus|train|ferry|stop|station|pier'])
  forms = {re.sub(rf'\b[A-Z][a-z]+\b|[0-9]+|{things}', '', question['query'].split('. ')[-2]) for question in some}
  assert len(forms) >= 2
  for question in some:
    assert re.fullmatch('[1-9][0-9]*', question['reference']), question
    assert question['query'].endswith('?')
    assert '{' not in question['query']
    assert '  ' not in question['query']


@pytest.mark.parametrize('family', mini_pool_questions.FAMILIES)
def test_a_calculation_uses_the_numbers_that_are_told(family):
  for seed in range(20):
    problem = mini_pool_questions.FAMILIES[family](mini_pool_questions.Draw(random.Random(seed)))
    told = set(re.findall('[0-9]+', f'{problem.facts} {problem.asks}'))
    used = set(re.findall('[0-9]+', problem.calculation))
    assert told <= used <= told | {'2', '3', '60', '100'}  # twice or half, a mean of three, an hour, a per cent
    steps = len(re.findall(r'[-+*/]', problem.calculation))
    assert 1 <= steps <= 4


def test_a_seed_gives_the_same_questions_whatever_their_number():
  assert list(mini_pool_questions.generate(5, 40))[:25] == list(mini_pool_questions.generate(5, 25))
  assert list(mini_pool_questions.generate(5, 25)) != list(mini_pool_questions.generate(6, 25))


def test_a_family_that_has_no_more_questions(monkeypatch):
  problem = mini_pool_questions.Problem('There is 1 apple.', 'How many are there?', '1')
  monkeypatch.setattr(mini_pool_questions, 'FAMILIES', {'one': lambda draw: problem})
  with pytest.raises(ValueError, match='the family one has no more than'):
    list(mini_pool_questions.generate(1, 10_000))


def test_the_command_prints_questions_that_can_be_asked():
  command = [sys.executable, '-m', 'tools.mini_pool_questions', '--seed=7', '--count=20']
  done = subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
  assert [json.loads(line) for line in done.stdout.splitlines()] == list(mini_pool_questions.generate(7, 20))
