import msgspec
import numpy as np
import pytest

from selectllm.evaluate import answers
from selectllm.report import answers as answers_report


def call(latency_s=1.0, cost_usd=0.001, *, correct=True, error=None):
  return {
    'answers': ['1'],
    'confidence': 0.5,
    'latency_s': None if error else latency_s,
    'cost_usd': None if error else cost_usd,
    'error': error,
    'correct': None if error else correct,
  }


def line(calls, *, correct=True, **fields):
  good = [one for one in calls.values() if not one['error']]
  return {
    'answer': '1',
    'reference': None,
    'p_right': None,
    'abstained': False,
    'calls': calls,
    'correct': correct,
    'failed': [llm for llm, one in calls.items() if one['error']],
    'unanswered': not good,
    'wall_clock_s': max((one['latency_s'] for one in good), default=None),
    'compute_s': sum(one['latency_s'] for one in good) or None,
    'cost_usd': None if any(one['cost_usd'] is None for one in good) else sum(one['cost_usd'] for one in good),
    **fields,
  }


def facts(expected_cost=0.005, asked=2):
  return answers.DeciderFacts(
    ('a', 'b', 'c'), 'max_conf', 2, asked, np.array([9.0, 9.0, 4.0]), np.array([9.0, 9.0, expected_cost]), 0.02
  )


def test_what_calling_all_would_have_taken():
  lines = [line({'a': call(1.0, 0.001), 'b': call(2.0, 0.002)}), line({'a': call(3.0, 0.003)}, correct=False)]
  found = answers.summarise(lines, facts())
  # b takes 2 s where it was not called, as it did on average; c was never called, so 4 s, as expected of it.
  assert msgspec.to_builtins(found.savings.calling_all) == pytest.approx(
    {
      'calls': 6,
      'wall_clock_s': 4.0,
      'compute_s': (7 + 9) / 2,
      'cost_usd': 0.003 + 0.005 + 0.005 + 0.005,
    }
  )
  assert msgspec.to_builtins(found.savings.made) == pytest.approx(
    {'calls': 3, 'wall_clock_s': 2.5, 'compute_s': 3.0, 'cost_usd': 0.006}
  )
  (method,) = found.methods
  assert method.accuracy == 0.5
  assert method.calls == 1.5
  assert msgspec.to_builtins(found.llms['c']) == {
    'calls': 0,
    'missing': 0,
    'accuracy': {'train': None, 'validation': None, 'test': None},
    'latency_s': None,
    'cost_usd': None,
  }


def test_unknown_costs_are_not_shown():
  lines = [line({'a': call(cost_usd=None)})]
  savings = answers.summarise(lines, facts()).savings
  assert savings.made.cost_usd is None
  assert savings.calling_all.cost_usd is None
  assert answers.summarise([line({'a': call()})], facts(np.nan)).savings.calling_all.cost_usd is None


def test_an_llm_of_which_no_time_is_known_takes_none_that_is():
  savings = answers.summarise([line({'a': call()})], facts()._replace(expected_latency_s=np.zeros(3))).savings
  assert savings.made.compute_s is not None
  assert savings.calling_all.wall_clock_s is savings.calling_all.compute_s is None


def test_failures_and_nothing_at_all_are_written(tmp_path, capsys):
  answers_report.write(tmp_path, [line({'a': call(error='http_400')}, correct=False)], facts(asked=3))
  out = capsys.readouterr().out
  assert '1 of 3 queries were asked' in out
  assert 'For 1 of them every call failed' in out
  assert '| a | 1 | 1 | - | - | - |' in (tmp_path / 'report.md').read_text()
  answers_report.write(tmp_path, [], facts(asked=3))
  assert '0 of 3 queries were asked' in capsys.readouterr().out


def unsure(**fields):
  return line({'a': call()}, correct=None, answer=None, abstained=True, answer_unsure='1', **fields)


def test_how_likely_answers_are_right_is_held_against_the_references(tmp_path, capsys):
  sure = [line({'a': call()}, correct=n != 0, p_right=0.9, reference='1' if n else '2') for n in range(40)]
  withheld = [unsure(p_right=0.3, reference='1' if n < 4 else '2') for n in range(16)]
  unknown = [line({'a': call()}, correct=None, p_right=0.5)] * 4
  found = answers.summarise([*sure, *withheld, *unknown], facts())
  assert msgspec.to_builtins(found.p_right) == pytest.approx(
    {
      'mean': (40 * 0.9 + 16 * 0.3 + 4 * 0.5) / 60,
      'queries': 60,
      'references': 56,
      'accuracy': 43 / 56,
      'ece': (40 * (39 / 40 - 0.9) + 16 * (0.3 - 4 / 16)) / 56,
      'brier': (39 * 0.1**2 + 0.9**2 + 4 * 0.7**2 + 12 * 0.3**2) / 56,
    }
  )
  (method,) = found.methods
  assert (method.abstained, method.queries, method.accuracy) == (16, 40, 39 / 40)
  answers_report.write(tmp_path, [*sure, *withheld, *unknown], facts()._replace(size=None))
  out = ' '.join(capsys.readouterr().out.split())
  assert 'For 16 of them the answer is withheld' in out
  assert 'with an estimated probability of 71.3 % on average' in out
  assert 'Of the 56 with a reference, withheld ones included, 76.8 % are right' in out
  assert (tmp_path / 'report.md').read_text().startswith('# max_conf on 2 new queries')


def test_few_references_say_nothing_of_calibration():
  lines = [line({'a': call()}, p_right=0.9, reference='1')] * 49
  found = answers.summarise(lines, facts()).p_right
  assert (found.references, found.accuracy, found.ece, found.brier) == (49, 1.0, None, None)
  assert answers.summarise([line({'a': call()})], facts()).p_right is None
