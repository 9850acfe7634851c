import json
import pathlib

import ml_collections
import pytest

from configs import gsm8k, jsonl, mini, mmlu, mmlu_pro
from selectllm.evaluate import results
from selectllm.infra import run_dir
from selectllm.sweeps import grid, plan
from tests.helpers import made_results

SEEDS = grid.sweep('config.seed', (0, 1))
EVALUATED = grid.sweep('config.evaluate.threshold', (0.3, 0.5))
TRAINED = grid.fixed('config.train.loss', 'balanced_bce')


@pytest.fixture
def base() -> ml_collections.ConfigDict:
  return jsonl.get_config().lock()


def make(base, spanned, **given):
  return plan.make(base, grid.product([spanned, SEEDS]), given)


def test_points_and_runs(base):
  sweep = make(base, grid.chainit([[{}], EVALUATED, TRAINED]))
  # Where a point says what the experiment says, it is the experiment's run.
  assert list(sweep.runs) == [
    'seed=0',
    'seed=1',
    'evaluate.threshold=0.3--seed=0',
    'evaluate.threshold=0.3--seed=1',
    'train.loss=balanced_bce--seed=0',
    'train.loss=balanced_bce--seed=1',
  ]
  assert sweep.points[4:6] == [
    plan.Point('evaluate.threshold', 'threshold=0.5', 0, 'seed=0'),
    plan.Point('evaluate.threshold', 'threshold=0.5', 1, 'seed=1'),
  ]
  assert sweep.base == ['seed=0', 'seed=1']
  assert sweep.runs['train.loss=balanced_bce--seed=1'].config.train.loss == 'balanced_bce'
  assert base.train.loss == 'bce'


def test_classifiers_are_shared_by_what_differs_in_evaluation_alone(base, tmp_path):
  sweep = make(base, grid.chainit([EVALUATED, TRAINED]))
  assert plan.trainers(sweep, tmp_path) == {
    'evaluate.threshold=0.3--seed=0': 'evaluate.threshold=0.3--seed=0',
    'seed=0': 'evaluate.threshold=0.3--seed=0',
    'evaluate.threshold=0.3--seed=1': 'evaluate.threshold=0.3--seed=1',
    'seed=1': 'evaluate.threshold=0.3--seed=1',
    'train.loss=balanced_bce--seed=0': 'train.loss=balanced_bce--seed=0',
    'train.loss=balanced_bce--seed=1': 'train.loss=balanced_bce--seed=1',
  }
  # One that is there is not trained again under another name.
  (tmp_path / 'seed=1').mkdir()
  (tmp_path / 'seed=1' / 'predictions.npz').touch()
  assert plan.trainers(sweep, tmp_path)['evaluate.threshold=0.3--seed=1'] == 'seed=1'


def test_names_are_those_of_folders_and_differ(base):
  pools = [('a b', 'c/d'), ('a_b', 'c_d'), tuple(f'llm-{i}' for i in range(40)), tuple(f'llm-{i}' for i in range(41))]
  sweep = make(base, grid.sweep('config.pool.llms', pools))
  assert len(sweep.runs) == 8
  assert all(not set('/ ,') & set(name) and len(name) < 130 for name in sweep.runs)
  assert list(make(base, grid.sweep('config.pool.llms', pools[::-1])).runs)[:2] == list(sweep.runs)[-2:]


def test_names_in_a_grid_may_be_one_text(base):
  sweep = make(base, grid.sweep('config.pool.llms', ['Yi-34B,gemma-1.1-7b', '"a, b",c', ('x,y', 'z')]))
  pools = [run.config.pool.llms for run in sweep.runs.values()]
  assert {('Yi-34B', 'gemma-1.1-7b'), ('a, b', 'c'), ('x,y', 'z')} <= set(pools)


@pytest.mark.parametrize(
  ('spanned', 'message'),
  [
    (grid.fixed('config.train.los', 'bce'), r'no such config field: train\.los; did you mean train\.loss\?'),
    (grid.fixed('config.train', 'bce'), 'no such config field: train'),
    (grid.fixed('train.loss', 'bce'), r"'train\.loss' is neither a field, config\.train\.loss, nor axis"),
    (grid.fixed('config.train.epochs', 'ten'), "'config.train.epochs': 'ten'.*<class 'int'>"),
    (grid.fixed('config.train.epochs', 0), 'config.train.epochs=0: at least 1'),
    (grid.fixed('config.evaluate.vote', 'loudest'), "config.evaluate.vote='loudest': one of"),
    (grid.fixed('config.mode', 'evaluate'), r'config\.mode cannot be swept'),
    (grid.fixed('config.pool.file', 'a.yaml'), r'config\.pool\.file cannot be swept'),
    (grid.sweep('config.pool.llms', [('a', 'b'), ('a+b',)]), 'two points of the same axis, variant and seed'),
    (
      [{'variant': 'two', 'config.pool.llms': ('a', 'b')}, {'variant': 'one', 'config.pool.llms': ('a+b',)}],
      r'would be in the same directory, pool\.llms=a\+b--seed=0',
    ),
    ([{'axis': 'a', 'variant': 'base', 'config.train.epochs': 1}], "'base' is what the experiment itself is called"),
    ([{}, {}], 'two points of the same axis, variant and seed'),
    ([{'axis': 'a', 'config.train.epochs': 1, 'variant': 'few'}, {'axis': 'a', 'variant': 'few'}], 'two points of the'),
    ([], 'no points'),
  ],
)
def test_what_cannot_be_run_is_refused(base, spanned, message):
  with pytest.raises(ValueError, match=message):
    make(base, spanned)


def test_a_field_given_in_vain_is_refused(base):
  with pytest.raises(ValueError, match=r'config\.seed=3 would be used nowhere'):
    make(base, TRAINED, seed=3)
  make(base, grid.chainit([[{}], TRAINED]), **{'train.loss': 'bce'})


def _write_run(workdir: pathlib.Path, run: plan.Run, **settings) -> None:
  directory = workdir / run.name
  directory.mkdir()
  (directory / 'predictions.npz').touch()
  (directory / 'outcomes.npz').touch()
  (directory / 'config.json').write_text(run.config.to_json_best_effort())
  found = made_results.make(run.config, ['a', 'b'], evaluate_config=settings)
  (directory / 'report.json').write_text(results.to_json(found))


def test_a_run_is_done_when_its_report_is_all_there_and_its_own(base, tmp_path):
  run = make(base, TRAINED).runs['train.loss=balanced_bce--seed=0']
  assert not plan.is_done(run, tmp_path)
  _write_run(tmp_path, run)
  assert plan.is_done(run, tmp_path)
  for name in ('predictions.npz', 'outcomes.npz'):
    (tmp_path / run.name / name).unlink()
    assert not plan.is_done(run, tmp_path)
    (tmp_path / run.name / name).touch()
  report = tmp_path / run.name / 'report.json'
  report.write_text(report.read_text()[:-5])
  assert not plan.is_done(run, tmp_path)


def test_a_report_of_another_evaluation_is_not_the_runs(base, tmp_path):
  run = make(base, TRAINED).runs['train.loss=balanced_bce--seed=0']
  _write_run(tmp_path, run, threshold=0.9)
  assert not plan.is_done(run, tmp_path)


def test_runs_of_another_experiment_are_not_mixed_in(base, tmp_path):
  sweep = make(base, TRAINED)
  _write_run(tmp_path, sweep.runs['train.loss=balanced_bce--seed=1'])
  plan.check_directories(sweep, tmp_path)
  base.train.epochs = 7
  with pytest.raises(ValueError, match=r'seed=1 holds a run of another experiment: config\.train\.epochs is 10 there'):
    plan.check_directories(make(base, TRAINED), tmp_path)
  (tmp_path / 'train.loss=balanced_bce--seed=1' / 'config.json').write_text('{')
  with pytest.raises(run_dir.RunDirError, match=r'seed=1/config\.json is no JSON'):
    plan.check_directories(sweep, tmp_path)


def test_a_training_goes_on_with_the_evaluation_that_it_began_with(base, tmp_path):
  sweep = make(base, TRAINED)
  name = 'train.loss=balanced_bce--seed=1'
  _write_run(tmp_path, sweep.runs[name])
  base.evaluate.threshold = 0.3
  other = make(base, TRAINED)
  plan.check_directories(other, tmp_path)
  (tmp_path / name / 'predictions.npz').unlink()
  with pytest.raises(ValueError, match=r'config\.evaluate\.threshold is 0\.5 there, 0\.3 now'):
    plan.check_directories(other, tmp_path)


def _write_data(workdir: pathlib.Path, run: plan.Run, identity: str, **facts) -> None:
  (workdir / run.name).mkdir(exist_ok=True)
  data = {'name': 'some_pool', 'identity': identity, 'llms': facts}
  (workdir / run.name / 'data.json').write_text(json.dumps(data))


def test_runs_on_other_data_are_not_mixed_in(base, tmp_path):
  one, other = make(base, [{}]).runs.values()
  _write_data(tmp_path, one, 'a', adder={'size': 7}, guesser={'size': 1})
  for identity, facts, difference in [
    ('b', {}, "its identity is 'a' in .*/seed=0, 'b' in .*/seed=1"),
    ('a', {'adder': {'size': 8}, 'guesser': {'size': 1}}, r'llms\.adder\.size is 7 in .*/seed=0, 8 in .*/seed=1'),
  ]:
    _write_data(tmp_path, other, identity, **facts)
    with pytest.raises(ValueError, match=difference):
      plan.check_directories(make(base, [{}]), tmp_path)
  # What only one of them has, or knows, differs in nothing.
  _write_data(tmp_path, other, 'a', adder={}, multiplier={'size': 8})
  plan.check_directories(make(base, [{}]), tmp_path)


@pytest.mark.parametrize(
  ('name', 'field', 'value', 'refused'),
  [
    ('jsonl_pool', 'config.pool.llms', ('adder',), True),
    ('mmlu_pro_pool', 'config.pool.llms', ('adder',), False),  # other files are read
    ('jsonl_pool', 'config.dataset.path', 'other.jsonl', False),
    ('jsonl_pool', 'config.dataset.train_share', 0.5, True),
  ],
)
def test_a_sweep_may_vary_the_data_on_purpose(base, tmp_path, name, field, value, refused):
  base.dataset.name = name
  sweep = plan.make(base, [{}, {field: value}], {})
  for run, identity in zip(sweep.runs.values(), 'ab', strict=True):
    _write_data(tmp_path, run, identity)
  if refused:
    with pytest.raises(ValueError, match='its identity'):
      plan.check_directories(sweep, tmp_path)
  else:
    plan.check_directories(sweep, tmp_path)


def test_sharing_goes_on_where_it_was_interrupted(tmp_path):
  trained, other = tmp_path / 'trained', tmp_path / 'other'
  trained.mkdir()
  for name in plan.SHARED:
    (trained / name).write_text(name)
  other.mkdir()
  (other / 'config.json').hardlink_to(trained / 'config.json')  # killed after the first
  (other / 'data.json.1f00.part').write_text('half')
  plan.share_classifier(trained, other)
  (other / 'data.json.1f00.part').unlink()
  assert {path.name: path.read_text() for path in other.iterdir()} == {name: name for name in plan.SHARED}
  # What is there stays.
  (trained / 'predictions.npz').unlink()
  plan.share_classifier(trained, other)
  assert plan.is_scored(other)


ALL = ['threshold', 'vote', 'encoder', 'pooling', 'loss', 'train_share', 'pool_size', 'pool_without']


@pytest.mark.parametrize('module', [gsm8k, mini, mmlu_pro])
def test_ready_made_ablations(module, tmp_path):
  argument = 'ablations,seeds=2'
  config = module.get_config(argument)
  assert config.to_dict() == module.get_config().to_dict()
  sweep = plan.make(config.lock(), module.get_hyper(grid, argument), {})
  assert list(dict.fromkeys(point.axis for point in sweep.points)) == ['', *ALL]
  by_axis = {axis: {p.variant: p.run for p in sweep.points if p.axis == axis and not p.seed} for axis in ALL}
  # All axes but leave-one-out name the experiment itself, which is then not run again.
  for axis in ALL[:-1]:
    assert 'seed=0' in by_axis[axis].values(), axis
  # The whole pool without its worst LLM is the pool grown to all but one.
  assert len(set(by_axis['pool_without'].values()) & set(by_axis['pool_size'].values())) == 1
  pools = [sweep.runs[run].config.pool.llms for run in by_axis['pool_without'].values()]
  assert all(len(pool) == len(pools) - 1 for pool in pools)
  trained = set(plan.trainers(sweep, tmp_path).values())
  assert 'vote' not in ' '.join(trained)
  assert 'threshold' not in ' '.join(trained)
  assert len(sweep.runs) - len(trained) == 2 * 5  # four more thresholds and the other vote


def test_the_whole_pool_is_all_of_it_also_where_the_experiment_has_less():
  config = mini.get_config()
  config.pool.llms = ('smollm2-chat', 'smollm2-direct')
  sweep = plan.make(config.lock(), mini.get_hyper(grid, 'ablation=pool_size,seeds=1'), {})
  [whole] = [point for point in sweep.points if point.variant == 'all 8']
  assert sweep.runs[whole.run].config.pool.llms == ()
  assert whole.run not in sweep.base


def test_ablations_one_by_one():
  spanned = mini.get_hyper(grid, 'ablation=loss,seeds=1')
  assert [point.get('variant') for point in spanned] == [None, 'bce', 'balanced_bce']
  assert mini.get_hyper(grid, 'ablation=size') == [{'config.seed': seed} for seed in range(3)]
  assert not any('config.pool.llms' in point for point in gsm8k.get_hyper(grid, 'sldata,ablations'))
  for module in (jsonl, mmlu):
    sweep = plan.make(module.get_config('ablations').lock(), module.get_hyper(grid, 'ablations'), {})
    assert list(dict.fromkeys(point.axis for point in sweep.points)) == ['', *ALL[:-2]]
  for argument, message in {
    '': 'names no sweep: say :ablations',
    'folds=5': 'names no sweep',
    'ablation=lost': "ablation='lost' is not one of threshold, ",
    'ablations,seeds=0': r'config\.seed needs at least one value',
  }.items():
    with pytest.raises(ValueError, match=message):
      mini.get_hyper(grid, argument)
