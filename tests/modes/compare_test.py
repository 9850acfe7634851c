"""Comparisons of runs: hand-made ones with exact numbers, and real ones through the command."""

import json
import os
import pathlib
import subprocess
import sys

import msgspec
import numpy as np
import pytest
import scipy.stats

from configs import common
from selectllm.evaluate import comparison, finished_runs, outcomes, results
from selectllm.modes import compare
from selectllm.report import comparison as comparison_report
from tests.helpers import made_results

ROOT = pathlib.Path(__file__).parents[2]
LLMS = ('big', 'small')


def write_run(
  path: pathlib.Path,
  queries: list[str],
  correct: dict[tuple[str, int], list[float]],
  *,
  llms: tuple[str, ...] = LLMS,
  best_single: tuple[str, ...] = ('single:big',),
  identity: str = 'a1',
  missing: tuple[str, ...] = (),
  **fields: object,
) -> pathlib.Path:
  """A finished run as the command leaves it, of methods (name, size) with what they scored on its queries."""
  path.mkdir(parents=True)
  config = common.get_config()
  config.update_from_flattened_dict({name.replace('__', '.'): value for name, value in fields.items()})
  chosen = [made_results.METHOD | {'name': name, 'sizes': [2]} for name, size in correct if size == outcomes.CHOSEN]
  found = made_results.make(
    config,
    list(llms),
    dataset={'queries_per_split': {'train': 0, 'validation': 0, 'test': len(queries)}},
    best_single=list(best_single),
    chosen=chosen,
    selected={row['name']: [] for row in chosen if row['name'].endswith('max_conf')},
  )
  (path / 'report.json').write_text(results.to_json(found))
  data = {'name': 'jsonl_pool', 'identity': identity, 'llms': {llm: {'price': None} for llm in llms}}
  for name, content in {'config': config.to_dict(), 'data': data}.items():
    (path / f'{name}.json').write_text(json.dumps(content))
  values = np.array(list(correct.values()), np.float32).T
  valid = ~np.isin(queries, missing)
  played = outcomes.Outcomes(
    np.array(queries),
    np.array([name for name, _ in correct]),
    np.array([size for _, size in correct], np.int16),
    np.where(valid[:, None], values, 0),
    np.broadcast_to(valid[:, None], values.shape),
  )
  np.savez(path / 'outcomes.npz', **played._asdict())
  return path


def methods(policy: list[float]) -> dict[tuple[str, int], list[float]]:
  """A policy, and methods that are the same in all runs: always wrong, always right."""
  wrong, right = [0.0] * len(policy), [1.0] * len(policy)
  return {
    ('max_conf', 1): policy,
    ('all_llms', 2): wrong,
    ('single:big', 1): wrong,
    ('single:small', 1): wrong,
    ('oracle', outcomes.NO_SIZE): right,
    ('max_conf', outcomes.CHOSEN): policy,
  }


def compared_runs(*paths: pathlib.Path) -> comparison.Comparison:
  return comparison.compare_runs(finished_runs.load_runs(paths), resamples=200)


def read_comparison(workdir: pathlib.Path) -> comparison.Comparison:
  return msgspec.json.decode((workdir / 'comparison.json').read_bytes(), type=comparison.Comparison)


def row_of(found: comparison.Comparison, name: str) -> comparison.ComparedMethod:
  return next(row for row in found.methods if row.name == name)


def ids(*numbers: int) -> list[str]:
  return [f'q{number:02}' for number in numbers]


def command(*arguments: str, cwd: pathlib.Path) -> subprocess.CompletedProcess[str]:
  """The real command, run elsewhere than in the checkout."""
  fixed = [sys.executable, '-m', 'selectllm.main', f'--config={ROOT}/configs/gsm8k.py', '--config.mode=compare']
  environment = os.environ | {'PYTHONPATH': str(ROOT), 'COLUMNS': '120'}
  return subprocess.run([*fixed, *arguments], capture_output=True, text=True, cwd=cwd, env=environment)


def test_gains_are_over_the_shared_queries_whatever_their_order(tmp_path):
  a = write_run(tmp_path / 'a', ids(*range(10)), methods([0, 0, 0, 0, 0, 0, 1, 1, 1, 1]))
  # Query by query: q08 and q09 stay right, q04 and q05 are won, q06 is lost; q20 and q21 are its own.
  b = write_run(tmp_path / 'b', ids(9, 20, 8, 6, 5, 4, 21), methods([1, 1, 1, 0, 1, 1, 1]))
  found = compared_runs(a, b)
  assert found.shared_queries == 5
  assert [run.tested for run in found.runs] == [10, 7]
  row = row_of(found, 'max_conf')
  assert row.queries == 5
  first, second = row.runs
  assert first.accuracy == pytest.approx(3 / 5)
  assert second.accuracy == pytest.approx(4 / 5)
  assert first.gain is None
  assert second.gain.delta == pytest.approx(1 / 5)
  # Two wins against one loss.
  assert second.gain.p == second.gain.p_holm == pytest.approx(scipy.stats.chi2.sf(1 / 3, 1))
  low, high = second.gain.ci
  assert low <= 1 / 5 <= high
  for same in ('all_llms', 'single:big', 'oracle'):
    gain = row_of(found, same).runs[1].gain
    assert (gain.delta, gain.differ, gain.p) == (0, 0, 1)


def test_alignment_pairs_each_query_with_itself():
  keys = [('max_conf', 1), ('top_s', 3)]
  played = [
    outcomes.Outcomes(
      np.array(queries), np.array([name]), np.int16([size]), np.float32([values]).T, np.array([counts]).T
    )
    for (name, size), queries, values, counts in zip(
      keys, (['c', 'a', 'b'], ['b', 'd', 'c']), ([0.3, 0.1, 0.2], [20, 40, 30]), ([1, 1, 0], [1, 1, 1]), strict=True
    )
  ]
  aligned = comparison.align(played, keys)
  assert aligned.query_ids.tolist() == ['b', 'c']
  np.testing.assert_array_equal(aligned.correct, np.float32([[0.2, 20], [0.3, 30]]))
  np.testing.assert_array_equal(aligned.valid, [[False, True], [True, True]])
  assert not comparison.align(played, [keys[0], None]).valid[:, 1].any()
  with pytest.raises(KeyError, match="'max_conf' of size 2"):
    comparison.align(played, [('max_conf', 2), keys[1]])


def test_a_query_that_one_run_does_not_count_is_left_out_of_all(tmp_path):
  a = write_run(tmp_path / 'a', ids(0, 1, 2, 3), methods([1, 1, 0, 0]))
  b = write_run(tmp_path / 'b', ids(0, 1, 2, 3), methods([1, 1, 1, 0]), missing=('q00',))
  row = row_of(compared_runs(a, b), 'max_conf')
  assert row.queries == 3
  assert [run.accuracy for run in row.runs] == pytest.approx([1 / 3, 2 / 3])
  assert row.runs[1].gain.delta == pytest.approx(1 / 3)


def test_with_several_runs_p_values_are_corrected_and_it_is_said_what_does_not_hold(tmp_path):
  queries = ids(*range(12))
  wins = (0, 5, 5)  # 5 wins and no loss: chi2 = 5, p = 0.025, twice that for two comparisons
  p = scipy.stats.chi2.sf(5, 1)
  paths = [
    write_run(tmp_path / name, queries, methods([1.0] * won + [0.0] * (12 - won)))
    for name, won in zip('abc', wins, strict=True)
  ]
  alone, both = compared_runs(*paths[:2]), compared_runs(*paths)
  gain = row_of(alone, 'max_conf').runs[1].gain
  assert gain.p == gain.p_holm == pytest.approx(p)
  assert 0 < gain.ci[0] < 5 / 12 < gain.ci[1]
  assert '+41.7 (p=0.025)' in comparison_report.markdown(alone)
  assert 'Holm' not in comparison_report.markdown(alone)
  gain = row_of(both, 'max_conf').runs[1].gain
  assert gain.p == pytest.approx(p)
  assert gain.p_holm == pytest.approx(2 * p)
  assert '+41.7 (p=0.025, not after Holm)' in comparison_report.markdown(both)
  assert 'Holm' in comparison_report.markdown(both)


def test_says_what_differs_and_nothing_else(tmp_path):
  a = write_run(tmp_path / 'a', ids(0, 1), methods([1, 0]), train__epochs=3)
  b = write_run(
    tmp_path / 'b', ids(0, 1), methods([1, 0]), train__epochs=5, dataset__manual_dir='x', collect__samples=3
  )
  found = compared_runs(a, b)
  assert found.differences == {'train.epochs': [3, 5]}
  assert found.warnings == []
  assert '| train.epochs | 3 | 5 |' in comparison_report.markdown(found)
  assert comparison_report.title(found) == 'b against a on 2 shared queries'


def test_facts_about_an_llm_that_all_runs_know_are_compared(tmp_path):
  a, b = (write_run(tmp_path / name, ids(0, 1), methods([1, 0])) for name in 'ab')
  data = json.loads((b / 'data.json').read_text())
  data['llms']['small']['price'] = 2.5
  (b / 'data.json').write_text(json.dumps(data))
  assert compared_runs(a, b).differences == {'data.llms.small.price': [None, 2.5]}


def test_an_evaluation_made_anew_is_told_by_its_own_settings(tmp_path):
  a = write_run(tmp_path / 'a', ids(0, 1), methods([1, 0]))
  b = write_run(tmp_path / 'b', ids(0, 1), methods([1, 0]))
  report = json.loads((b / 'report.json').read_text())
  report['evaluate_config']['vote'] = 'samples'  # config.json says what the run was made with at first
  (b / 'report.json').write_text(json.dumps(report))
  assert compared_runs(a, b).differences == {'evaluate.vote': ['majority', 'samples']}


def test_runs_of_different_pools(tmp_path):
  a = write_run(tmp_path / 'a', ids(0, 1, 2), methods([1, 0, 0]))
  other = methods([1, 1, 0])
  other = {name: other[name] for name in other if name not in (('single:small', 1), ('all_llms', 2))}
  other |= {('single:tiny', 1): [0, 1, 0], ('single:nano', 1): [0, 0, 0], ('all_llms', 3): [1, 1, 1]}
  b = write_run(
    tmp_path / 'b', ids(0, 1, 2), other, llms=('big', 'tiny', 'nano'), best_single=('single:nano', 'single:tiny')
  )
  found = compared_runs(a, b)
  assert 'The pool of a lacks nano, tiny.' in found.warnings
  assert 'The pool of b lacks small.' in found.warnings
  assert found.differences == {}  # facts of LLMs that not all runs know are no differences
  assert row_of(found, 'all_llms').runs[1].gain.delta == 1.0
  absent, tiny = row_of(found, 'single:tiny').runs
  assert absent is None
  assert tiny.accuracy == pytest.approx(1 / 3)
  assert tiny.gain is None
  assert row_of(found, 'single:big').runs[1].gain.delta == 0.0
  comparison_report.write(tmp_path / 'out', found)


def test_warns_of_other_references_and_other_data(tmp_path):
  a = write_run(tmp_path / 'a', ids(0, 1, 2), methods([1, 0, 0]))
  b = write_run(tmp_path / 'b', ids(0, 1, 2), methods([1, 0, 0]) | {('single:small', 1): [0, 1, 0]}, identity='b2')
  found = compared_runs(a, b)
  assert found.differences == {'data.identity': ['a1', 'b2']}
  assert any('not on the same data' in warning for warning in found.warnings)
  assert any('On 1 of 3 shared queries the same LLM is right' in warning for warning in found.warnings)


def test_warns_when_few_queries_are_shared_but_not_of_folds_beside_one_split(tmp_path):
  a = write_run(tmp_path / 'a', ids(*range(9)), methods([0] * 9), dataset__folds=3)
  inside = write_run(tmp_path / 'b', ids(3, 4), methods([0, 1]))
  beside = write_run(tmp_path / 'c', ids(8, 9, 10), methods([0, 1, 1]))
  mixed, apart = compared_runs(a, inside), compared_runs(a, beside)
  assert not any('fewer than half' in warning for warning in mixed.warnings)
  assert any('Only 1 queries are shared' in warning for warning in apart.warnings)
  for found in (mixed, apart):
    assert any('do not test the same queries' in warning for warning in found.warnings)


def test_no_shared_query_is_refused_with_what_each_tested(tmp_path):
  a = write_run(tmp_path / 'a', ids(0, 1), methods([1, 0]))
  b = write_run(tmp_path / 'b', ids(2, 3, 4), methods([1, 0, 0]))
  with pytest.raises(
    ValueError, match=r'no query was tested by all .*\n  a: 2, q00 among them\n  b: 3, q02 among them'
  ):
    compared_runs(a, b)


@pytest.mark.parametrize(
  ('name', 'said'),
  [
    ('config.json', r'holds no run: it has no config\.json'),
    ('data.json', r'holds no run: it has no data\.json'),
    ('report.json', 'has not finished: it has no report.json'),
    ('outcomes.npz', r'no outcomes\.npz.*--config\.mode=evaluate --workdir=\S+a writes it anew'),
  ],
)
def test_what_is_missing_is_named_with_how_to_make_it(tmp_path, name, said):
  a = write_run(tmp_path / 'a', ids(0, 1), methods([1, 0]))
  (a / name).unlink()
  with pytest.raises(FileNotFoundError, match=said):
    finished_runs.load_run(a)


@pytest.mark.parametrize('name', ['report.json', 'outcomes.npz'])
@pytest.mark.parametrize('size', [0, 40])
def test_what_is_damaged_is_named(tmp_path, name, size):
  a = write_run(tmp_path / 'a', ids(0, 1), methods([1, 0]))
  (a / name).write_bytes((a / name).read_bytes()[:size])
  with pytest.raises(ValueError, match=rf'a/{name} (is not JSON|cannot be read)'):
    finished_runs.load_run(a)


def test_runs_are_named_by_what_tells_them_apart(tmp_path):
  paths = [tmp_path / name for name in ('gsm8k/first', 'mmlu/first', 'mmlu/second')]
  for path in paths:
    write_run(path, ids(0, 1), methods([1, 0]))
  assert finished_runs.load_run(paths[0]).name == 'first'
  assert [run.name for run in finished_runs.load_runs(paths[1:])] == ['first', 'second']
  assert [run.name for run in finished_runs.load_runs(paths)] == ['gsm8k/first', 'mmlu/first', 'mmlu/second']


def test_the_command_reads_patterns_keeps_the_first_first_and_draws(tmp_path):
  for number, name in enumerate('abc'):
    write_run(tmp_path / 'sweep' / name, ids(*range(8)), methods([1.0] * number + [0.0] * (8 - number)))
  (tmp_path / 'sweep' / 'gathered').mkdir()
  (tmp_path / 'sweep' / 'table.md').write_text('')
  done = command('--config.compare.runs=sweep/b, sweep/*', cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  (workdir,) = (tmp_path / 'runs' / 'compare').iterdir()
  found = read_comparison(workdir)
  assert [run.name for run in found.runs] == ['b', 'a', 'c']
  assert (workdir / 'comparison.md').read_text().startswith('# 2 runs against b on 8 shared queries\n')
  assert (workdir / 'figures' / 'comparison.png').read_bytes().startswith(b'\x89PNG')
  assert 'max_conf' in done.stdout


def test_the_command_says_what_is_wrong_without_a_traceback(tmp_path):
  write_run(tmp_path / 'a', ids(0, 1), methods([1, 0]))
  done = command('--config.compare.runs=a,b', '--workdir=out', cwd=tmp_path)
  assert done.returncode == 1
  assert done.stderr == 'error: b holds no run: it has no config.json\n'
  assert [path.name for path in tmp_path.iterdir()] == ['a']


@pytest.mark.parametrize(
  ('runs', 'said'),
  [('', 'names no run'), ('a', 'names 1 run'), ('a,b/../a', 'names 1 run'), ('b*', "no run directory matches 'b")],
)
def test_less_than_two_runs_are_refused_and_leave_nothing(tmp_path, monkeypatch, runs, said):
  write_run(tmp_path / 'a', ids(0, 1), methods([1, 0]))
  monkeypatch.chdir(tmp_path)
  config = common.get_config()
  config.compare.runs = runs
  with pytest.raises((ValueError, FileNotFoundError), match=said):
    compare.compare(config, tmp_path / 'out')
  assert [path.name for path in tmp_path.iterdir()] == ['a']


def test_real_runs(frozen_run, tuned_run, tmp_path):
  runs = (frozen_run, tuned_run)
  config = common.get_config()
  config.compare.runs = ','.join(map(str, runs))
  config.evaluate.resamples = 100
  compare.compare(config, tmp_path / 'compared')
  found = read_comparison(tmp_path / 'compared')
  assert [run.tested for run in found.runs] == [found.shared_queries] * 2
  assert found.differences == {'encoder.freeze': ['true', 'false']}
  assert found.warnings == []
  # What depends on no classifier is the same in both runs; what does is what each run reported.
  for name in ('all_llms', 'oracle'):
    assert row_of(found, name).runs[1].gain.differ == 0
    assert f'| {name} | all the same |' in comparison_report.markdown(found)
  reported = [results.load(run / 'report.json') for run in runs]
  for policy in ('max_conf', 'labelled_max_conf', 'weighted_max_conf'):
    of = [next(row for row in report.chosen if row.name == policy).accuracy for report in reported]
    rows = row_of(found, policy).runs
    assert [row.accuracy for row in rows] == pytest.approx(of)
    assert rows[1].gain.delta == pytest.approx(of[1] - of[0])
  assert row_of(found, 'weighted_max_conf, s=3').runs[0].sizes == [3]
