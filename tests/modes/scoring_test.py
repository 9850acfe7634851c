"""Which encoder a run gets: frozen, fine-tuned, or the better one."""

import itertools
import json
import pathlib

import ml_collections
import numpy as np
import pytest

from configs import jsonl
from selectllm.data import load, splits
from selectllm.evaluate import predictions
from selectllm.models import inference
from selectllm.modes import experiment, scoring
from selectllm.selection import policies
from selectllm.train import input_pipeline, loop

pytestmark = pytest.mark.usefixtures('no_figures')


@pytest.fixture
def config(
  tiny_encoder: pathlib.Path,
  responses_file: pathlib.Path,
  tmp_path_factory: pytest.TempPathFactory,
  monkeypatch: pytest.MonkeyPatch,
) -> ml_collections.ConfigDict:
  monkeypatch.setenv('SELECTLLM_CACHE', str(tmp_path_factory.getbasetemp() / 'cache'))
  config = jsonl.get_config()
  config.update_from_flattened_dict(
    {
      'dataset.path': str(responses_file),
      'encoder.name': str(tiny_encoder),
      'mesh.data': 1,
      'train.epochs': 2,
      'train.batch_size': 16,
      'train.checkpoint_every_steps': 3,
      'evaluate.resamples': 50,
      'evaluate.knn_neighbours': (5,),
      'tradeoff.strategies': (),
    }
  )
  return config.lock()


def _report(workdir: pathlib.Path) -> dict:
  report = json.loads((workdir / 'report.json').read_text())
  del report['timing']
  return report


def test_auto_keeps_the_encoder_frozen_where_fine_tuning_takes_long_and_says_so(config, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(scoring, 'MOST_FINE_TUNING_S', 0.0)
  experiment.run(config, tmp_path)
  assert not (tmp_path / 'checkpoints').exists()
  report = _report(tmp_path)
  assert report['encoder'] | {'foreseen_s': None} == {
    'frozen': True, 'asked': 'auto', 'foreseen_s': None, 'frozen_loss': None, 'fine_tuned_loss': None,
  }  # fmt: skip
  assert report['encoder']['foreseen_s'] > 0
  for shown in (' '.join(capsys.readouterr().out.split()), (tmp_path / 'report.md').read_text()):
    assert 'The encoder is frozen; fine-tuning would take about' in shown
    assert '--config.encoder.freeze=false asks for it.' in shown
  kept = predictions.read_predictions(tmp_path / 'predictions.npz')
  assert np.isfinite(kept.confidences).all()  # out of fold, on training queries too
  # Without what was kept, the same is made again.
  (tmp_path / 'predictions.npz').unlink()
  config.mode = 'evaluate'
  experiment.run(config, tmp_path)
  assert not (tmp_path / 'checkpoints').exists()
  again = _report(tmp_path)
  assert again.pop('encoder') | {'foreseen_s': None} == report.pop('encoder') | {'foreseen_s': None}
  assert again == report


@pytest.mark.slow
def test_a_fine_tuning_that_was_begun_goes_on_however_long_it_takes(config, tmp_path, monkeypatch):
  monkeypatch.setattr(scoring, 'MOST_FINE_TUNING_S', np.inf)
  experiment.run(config, tmp_path / 'undisturbed')
  expected = _report(tmp_path / 'undisturbed')
  assert expected['encoder']['asked'] == 'auto'
  assert min(expected['encoder']['frozen_loss'], expected['encoder']['fine_tuned_loss']) > 0
  whole = input_pipeline.training_iterator

  def broken(source, start):
    yield from itertools.islice(whole(source, start), 5)
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(input_pipeline, 'training_iterator', broken)
    with pytest.raises(KeyboardInterrupt):
      experiment.run(config, tmp_path / 'run')
  assert (tmp_path / 'run' / 'checkpoints' / '3').exists()
  monkeypatch.setattr(scoring, 'MOST_FINE_TUNING_S', 0.0)
  experiment.run(config, tmp_path / 'run')
  assert _report(tmp_path / 'run') == expected


@pytest.mark.parametrize('knows', [True, False])
def test_of_two_that_were_trained_validation_decides(config, tmp_path, monkeypatch, knows):
  data, _ = load.load(config)
  labels = data.responses.labels

  def score(model, params, tokens, rows, available, **_):
    says = np.where(labels[rows] > 0, 0.9, 0.1) if knows else np.full(available.shape, 0.5)
    return inference.Scores(says.astype(np.float32), dict.fromkeys(policies.POLICIES))

  monkeypatch.setattr(scoring, 'MOST_FINE_TUNING_S', np.inf)
  monkeypatch.setattr(loop, 'fit', lambda wanted, model, *_: (1, model.params))
  monkeypatch.setattr(inference, 'score_queries', score)
  split = np.array([place % 4 for place in range(len(labels))], np.int8)[None]
  split = np.where(split == 3, splits.TRAIN, split).astype(np.int8)
  found = scoring.predict(config, tmp_path, data, split, trains=True)
  choice = found.encoder_choice()
  assert choice.frozen != knows
  assert (choice.fine_tuned_loss < choice.frozen_loss) == knows
  fitting = split[0] != splits.TEST
  # What strategies play is out of fold, and the same whoever selects for the policies.
  assert np.isfinite(found.estimates[0].logits).all()
  np.testing.assert_array_equal(found.estimates[0].fold >= 0, fitting)
  expected = 1 / (1 + np.exp(-found.estimates[0].logits))
  if knows:
    assert np.isnan(found.confidences[0][split[0] == splits.TRAIN]).all()
    np.testing.assert_array_equal(found.confidences[0][~fitting] > 0.5, labels[~fitting] > 0)
  else:
    np.testing.assert_allclose(found.confidences[0], expected, atol=1e-6)


@pytest.mark.parametrize(('freeze', 'tunes'), [('true', False), pytest.param('false', True, marks=pytest.mark.slow)])
def test_what_is_asked_for_is_done_however_long_it_takes(config, tmp_path, monkeypatch, freeze, tunes):
  config.encoder.freeze, config.train.epochs = freeze, 1
  monkeypatch.setattr(scoring, 'MOST_FINE_TUNING_S', 0.0 if tunes else np.inf)
  experiment.run(config, tmp_path)
  assert (tmp_path / 'checkpoints').exists() == tunes
  report = _report(tmp_path)
  assert (report['encoder']['frozen'], report['encoder']['asked']) == (not tunes, freeze)
  trained = predictions.read_predictions(tmp_path / 'predictions.npz').split[0] == splits.TRAIN
  kept = predictions.read_predictions(tmp_path / 'predictions.npz').confidences[0]
  assert np.isnan(kept[trained]).all() == tunes


@pytest.mark.slow
def test_all_seeds_get_the_encoder_that_the_first_one_chose(config, tmp_path, monkeypatch):
  config.seeds, config.train.epochs = 2, 1
  # By now fine-tuning would seem to take too long, or not.
  monkeypatch.setattr(scoring, 'MOST_FINE_TUNING_S', 0.0)
  foreseen = itertools.count(-1.0)  # below the threshold at first
  monkeypatch.setattr(scoring, '_foresee_s', lambda *_: next(foreseen))
  experiment.run(config, tmp_path)
  report = _report(tmp_path)
  assert report['encoder']['frozen_loss'] is not None  # both were made
  choices = [
    predictions.read_predictions(path / 'predictions.npz').encoder_choice() for path in (tmp_path, tmp_path / 'seed_1')
  ]
  assert choices[0].frozen == choices[1].frozen == report['encoder']['frozen']
  row = next(row for row in report['chosen'] if row['name'] == 'weighted_max_conf')
  assert len(row['seeds']) == 2
  assert row['accuracy'] == pytest.approx(np.mean(row['seeds']))
