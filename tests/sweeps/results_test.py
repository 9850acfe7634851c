import csv
import json
import pathlib
import re

import numpy as np
import pytest

from configs import mini
from selectllm.data import splits
from selectllm.evaluate import finished_runs, outcomes
from selectllm.evaluate import results as evaluate_results
from selectllm.sweeps import figures, grid, plan, report, results
from tests.helpers import made_results

QUERIES = 400
POLICIES = ('weighted_max_conf', 'max_conf', 'labelled_max_conf')


def make_run(path: pathlib.Path, config, accuracy: float, *, missing: int = 0) -> finished_runs.Run:
  """A run of which every policy is right with that probability; its first `missing` queries do not count."""
  llms = list(config.pool.llms) or [f'llm-{n}' for n in range(8)]
  # Runs are right on about the same queries, as variants of one classifier are.
  ease = np.random.default_rng(7).random(QUERIES)[:, None]
  random = np.random.default_rng(config.seed + 1)
  methods = [(name, size) for name in POLICIES for size in (*range(1, len(llms) + 1), outcomes.CHOSEN)]
  methods += [('all_llms', len(llms)), (f'single:{llms[0]}', 1)]
  correct = ease + random.normal(0, 0.05, (QUERIES, len(methods))) < accuracy
  valid = np.ones(correct.shape, bool)
  valid[:missing] = False
  played = outcomes.Outcomes(
    np.array([f'q{n}' for n in range(QUERIES)]),
    np.array([name for name, _ in methods]),
    np.array([size for _, size in methods], np.int16),
    correct.astype(np.float32),
    valid,
  )
  path.mkdir(parents=True, exist_ok=True)
  np.savez(
    path / 'predictions.npz',
    split=np.full((1, 4), splits.VALIDATION),
    confidences=np.array([[[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.9, 0.6]]], np.float32),
    labels=np.array([[1, 0], [0, 1], [0, 1], [1, 1]], np.float32),
    observed=np.array([[1, 1], [1, 1], [1, 1], [0, 1]], bool),
  )
  found = made_results.make(
    config,
    llms,
    dataset={
      'name': 'Made up', 'queries': 1000,
      'queries_per_split': {'train': int(500 * config.dataset.train_share), 'validation': 0, 'test': QUERIES},
    },
    oracle={'accuracy': 0.9},
    classifier={'weighted_f1': 0.7, 'auroc': None if config.seed else 0.75, 'ece': 0.05},
    selected={policy: [] for policy in POLICIES},
    timing={'train_and_score_s': 90.0, 'evaluate_s': 30.0},
  )  # fmt: skip
  return finished_runs.Run(path.name, path, {}, {}, found, played)


def make_sweep(tmp_path, argument, accuracy, seeds=2):
  """The runs of a sweep on the mini pool; `accuracy` says what a config reaches."""
  argument = f'{argument},seeds={seeds}'
  sweep = plan.make(mini.get_config().lock(), mini.get_hyper(grid, argument), {})
  runs = {run.name: make_run(tmp_path / run.name, run.config, accuracy(run.config)) for run in sweep.runs.values()}
  return sweep, runs


def row(axes: list[results.Axis], axis: str, variant: str) -> results.Row:
  return next(row for each in axes if each.name == axis for row in each.rows if row.variant == variant)


def test_gains_are_paired_by_query_over_the_seeds(tmp_path):
  gains = {'balanced_bce': 0.1, 'bce': 0.0}
  sweep, runs = make_sweep(tmp_path, 'ablation=loss', lambda config: 0.5 + gains[config.train.loss])
  axes = results.collect(sweep, runs)
  assert [(axis.name, axis.reference) for axis in axes] == [('', 'base'), ('loss', 'bce')]
  base, better = row(axes, 'loss', 'bce'), row(axes, 'loss', 'balanced_bce')
  assert base.is_base
  assert base.gains == dict.fromkeys(('weighted_max_conf', 'labelled_max_conf', 'top-1', 's=3'))
  assert not better.is_base
  found = better.gains['top-1']
  assert found.queries == QUERIES
  assert found.delta == pytest.approx(better.measures['top-1'].mean - base.measures['top-1'].mean, abs=1e-6)
  assert found.ci[0] < found.delta < found.ci[1]
  # Queries vary far more than the gain does from query to query: unpaired, the interval would be twice as wide.
  assert found.ci[1] - found.ci[0] < 0.1
  assert found.p_holm == found.p < 0.001  # one variant: nothing to correct


def test_means_and_deviations_are_over_seeds(tmp_path):
  sweep, runs = make_sweep(tmp_path, 'ablation=seed', lambda config: 0.5 + 0.2 * config.seed)
  [axis] = results.collect(sweep, runs)
  [base] = axis.rows
  singly = [results.measures(run) for run in runs.values()]
  values = [one['top-1'] for one in singly]
  assert base.seeds == (0, 1)
  assert base.measures['top-1'].mean == pytest.approx(np.mean(values))
  assert base.measures['top-1'].std == pytest.approx(abs(values[0] - values[1]) / np.sqrt(2))
  assert base.measures['AUROC'] == results.Measured(0.75, None)  # one of the seeds has none
  assert base.measures['minutes'].mean == 2.0
  # Right are the first, third and (the only one observed) fourth query.
  assert base.measures['top-1, validation'].mean == 0.75


def test_only_shared_seeds_and_queries_that_both_count_are_compared(tmp_path):
  sweep, runs = make_sweep(tmp_path, 'ablation=loss', lambda config: 0.5, seeds=3)
  name = 'train.loss=balanced_bce--seed={}'
  del runs[name.format(0)]
  runs[name.format(2)] = make_run(tmp_path / 'x', sweep.runs[name.format(2)].config, 0.5, missing=40)
  axes = results.collect(sweep, runs)
  other = row(axes, 'loss', 'balanced_bce')
  assert other.seeds == (1, 2)
  gain = other.gains['top-1']
  assert gain.queries == QUERIES - 40
  # Of these seeds the runs were drawn alike, and are no better than each other.
  assert (gain.delta, gain.p) == (0.0, 1.0)


def test_p_values_are_corrected_for_the_variants_of_an_axis(tmp_path):
  sweep, runs = make_sweep(tmp_path, 'ablation=threshold', lambda config: 0.5 + 0.02 * config.evaluate.threshold)
  axes = results.collect(sweep, runs)
  rows = [row(axes, 'threshold', f'{value}') for value in (0.3, 0.4, 0.6, 0.7)]
  own = np.array([each.gains['top-1'].p for each in rows])
  corrected = np.array([each.gains['top-1'].p_holm for each in rows])
  assert (corrected >= own).all()
  assert corrected.min() == pytest.approx(min(1, 4 * own.min()))


def test_without_the_experiment_itself_the_first_variant_is_the_reference(tmp_path):
  config = mini.get_config().lock()
  sweep = plan.make(config, grid.sweep('config.train.epochs', (2, 3)), {})
  runs = {run.name: make_run(tmp_path / run.name, run.config, 0.5) for run in sweep.runs.values()}
  [axis] = results.collect(sweep, runs)
  assert (axis.name, axis.reference) == ('train.epochs', 'epochs=2')
  assert not any(row.is_base for row in axis.rows)
  assert axis.rows[1].gains['top-1'].delta == 0.0


def write_runs(sweep: plan.Plan, runs: dict[str, finished_runs.Run]) -> None:
  """Makes the directories ones that are read again."""
  for name, run in runs.items():
    config = sweep.runs[name].config
    (run.path / 'config.json').write_text(config.to_json_best_effort())
    (run.path / 'data.json').write_text('{}')
    np.savez(run.path / 'outcomes.npz', **run.outcomes._asdict())
    (run.path / 'report.json').write_text(evaluate_results.to_json(run.results))


def test_what_is_missing_is_listed(tmp_path, capsys):
  sweep, runs = make_sweep(tmp_path, 'ablation=loss', lambda config: 0.5)
  del runs['train.loss=balanced_bce--seed=0'], runs['train.loss=balanced_bce--seed=1']
  write_runs(sweep, runs)
  (tmp_path / 'seed=1' / 'outcomes.npz').write_bytes(b'half')
  report.write(sweep, tmp_path, {'train.loss=balanced_bce--seed=0': 'ended with 1, 2 times'})
  text = (tmp_path / 'sweep.md').read_text()
  assert '**Missing runs: 3**' in text
  assert '- train.loss=balanced_bce--seed=0: ended with 1, 2 times' in text
  assert '- train.loss=balanced_bce--seed=1: not finished' in text
  assert 'outcomes.npz cannot be read' in text
  assert len(json.loads((tmp_path / 'sweep.json').read_text())['missing']) == 3
  out = capsys.readouterr().out
  assert 'bce (base)' in out
  assert 'Missing runs: 3 of 4' in out


def test_nothing_to_report(tmp_path):
  sweep, _ = make_sweep(tmp_path / 'elsewhere', 'ablation=loss', lambda config: 0.5)
  with pytest.raises(ValueError, match='nothing to report'):
    report.write(sweep, tmp_path, {})


def test_runs_on_other_data_are_not_put_into_one_table(tmp_path):
  sweep, runs = make_sweep(tmp_path, 'ablation=loss', lambda config: 0.5)
  write_runs(sweep, runs)
  (tmp_path / 'seed=0' / 'data.json').write_text('{"name": "mini_pool", "identity": "a"}')
  (tmp_path / 'seed=1' / 'data.json').write_text('{"name": "mini_pool", "identity": "b"}')
  with pytest.raises(ValueError, match=r"its identity is 'a' in .*seed=0, 'b' in .*seed=1"):
    results.load(sweep, tmp_path, {})
  # One that has not finished is in no table.
  (tmp_path / 'seed=1' / 'report.json').unlink()
  for path in tmp_path.glob('*/data.json'):
    if path.parent.name != 'seed=1':
      path.write_text('{"name": "mini_pool", "identity": "a"}')
  assert set(results.load(sweep, tmp_path, {})[1]) == {'seed=1'}


def test_policies_and_sizes_are_compared_with_the_first_policy(tmp_path):
  sweep, runs = make_sweep(tmp_path, 'ablation=size', lambda config: 0.5)
  runs = {sweep.runs[name].config.seed: run for name, run in runs.items()}
  for run in runs.values():
    run.outcomes.correct[:40, run.outcomes.column('max_conf', 2)] = 0
  first, *others = results.choices(runs)
  assert (first.policy, first.size, first.seeds, first.gain) == ('weighted_max_conf', outcomes.CHOSEN, 2, None)
  assert {(choice.policy, choice.size) for choice in others} == {
    (policy, size) for policy in POLICIES for size in range(9)
  } - {(first.policy, first.size)}
  [worse] = [choice for choice in others if choice[:2] == ('max_conf', 2)]
  assert worse.gain.delta == pytest.approx(worse.accuracy.mean - first.accuracy.mean, abs=1e-6)
  assert worse.gain.queries == QUERIES
  assert worse.gain.p < worse.gain.p_holm < 0.05
  assert all(choice.gain.p_holm >= choice.gain.p for choice in others)


def _reached(config) -> float:
  """Accuracies as a sweep might find them."""
  pool = len(config.pool.llms) or 8
  gain = {'balanced_bce': -0.04}.get(config.train.loss, 0) + {'cls': -0.01}.get(config.encoder.pooling, 0)
  return 0.35 + 0.02 * pool + 0.05 * config.dataset.train_share + gain - 0.06 * (config.encoder.freeze == 'true')


def test_tables_and_figures_of_all_ablations(tmp_path, capsys):
  sweep, runs = make_sweep(tmp_path, 'ablations', _reached)
  write_runs(sweep, runs)
  report.write(sweep, tmp_path, {})
  text = (tmp_path / 'sweep.md').read_text()
  assert 'Missing' not in text
  for axis in {point.axis for point in sweep.points}:
    assert f'## {axis or "The experiment"}\n' in text
  # The vote is the same as itself; a loss of four points is resolved.
  lines = [line for line in text.splitlines() if line.startswith('| all samples |')]
  assert '+0.0 (same)' in lines[1]
  [lost] = [line for line in text.splitlines() if line.startswith('| balanced_bce |') and ' to ' in line]
  assert re.search(r'\| -\d\.\d \(p<0\.001\) \|', lost)
  for name in figures.FIGURES:
    assert f'![{name}]({name}.png)' in text
    assert (tmp_path / f'{name}.png').stat().st_size > 10_000
  with (tmp_path / 'sweep.csv').open() as file:
    found = {(row['axis'], row['variant'], row['measure']): row for row in csv.DictReader(file)}
  assert float(found['pool_size', 'best 2', 'top-1']['gain']) < 0
  assert found['pool_size', 'all 8', 'top-1']['gain'] == ''
  assert found['loss', 'bce', 'ECE']['gain'] == ''
  gained = found['loss', 'balanced_bce', 'weighted_max_conf, s chosen']
  assert float(gained['gain_low']) < float(gained['gain']) < float(gained['gain_high']) < 0
  assert float(found['policy and size', 'max_conf, s=3', 'accuracy']['p_holm']) > 0.05
  assert found['policy and size', 'weighted_max_conf, s=chosen', 'accuracy']['gain'] == ''
  choices = json.loads((tmp_path / 'sweep.json').read_text())['policies_and_sizes']
  assert len(choices) == len(POLICIES) * 9
  assert [choice['policy'] for choice in choices if choice['gain'] is None] == ['weighted_max_conf']
  assert '| gained over weighted_max_conf, s chosen; s |' in text
  assert 'without gemma-calculator-sums' in capsys.readouterr().out


def test_curves_are_drawn_by_what_was_varied(tmp_path):
  axes = results.collect(*make_sweep(tmp_path, 'ablation=train_share', _reached))
  assert figures.pool_size(axes) is None
  [panel] = figures.learning_curve(axes).axes
  curves = {line.get_label(): line.get_xdata().tolist() for line in panel.lines}
  assert curves['top-1'] == [50, 150, 250, 500]
  axes = results.collect(*make_sweep(tmp_path, 'ablation=pool_size', _reached))
  assert figures.learning_curve(axes) is None
  [panel] = figures.pool_size(axes).axes
  assert panel.lines[0].get_xdata().tolist() == [2, 3, 4, 5, 6, 7, 8]
  assert figures.gains(results.collect(*make_sweep(tmp_path, 'ablation=seed', _reached))) is None
