import json
import logging
import pathlib

import ml_collections
import pytest

from configs import jsonl
from selectllm import main as command
from selectllm.infra import paths
from selectllm.modes import experiment


@pytest.fixture
def config(tiny_encoder, responses_file, tmp_path_factory, monkeypatch) -> ml_collections.ConfigDict:
  monkeypatch.setenv('SELECTLLM_CACHE', str(tmp_path_factory.getbasetemp() / 'cache'))
  config = jsonl.get_config()
  config.update_from_flattened_dict(
    {
      'dataset.path': str(responses_file),
      'encoder.name': str(tiny_encoder),
      'mesh.data': 1,
      'encoder.freeze': 'false',
      'train.epochs': 1,
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


def test_a_run_in_a_bucket_leaves_what_a_run_leaves_and_evaluates_again(config, bucket, caplog):
  caplog.set_level(logging.INFO, 'selectllm')
  workdir, there = paths.place('gs://bucket/run'), bucket / 'run'
  experiment.run(config, workdir)
  assert 'gs://bucket/run cannot be locked' in caplog.text
  report = _report(there)
  assert {path.name for path in there.iterdir()} == {
    'checkpoints', 'config.json', 'data.json', 'environment.json', 'figures', 'metrics.jsonl', 'outcomes.npz',
    'predictions.npz', 'queries.html', 'report.json', 'report.md', 'tensorboard',
  }  # fmt: skip
  assert all(path.read_bytes().startswith(b'\x89PNG') for path in (there / 'figures').iterdir())
  with config.unlocked():
    config.mode = 'evaluate'
  (there / 'report.json').unlink()
  experiment.run(config, workdir)
  assert _report(there) == report


def test_what_cannot_be_in_a_bucket_is_refused(config, bucket, monkeypatch):
  with config.unlocked():
    config.profile = True
  with pytest.raises(ValueError, match='need a --workdir on a disk, not gs:'):
    experiment.run(config, paths.place('gs://bucket/run'))
  config.mode = 'collect'
  with pytest.raises(command.app.UsageError, match='mode=collect needs one on a disk'):
    command._run(config, 'gs://bucket/run')
  monkeypatch.setattr(paths, 'REACHED_BY', 'no_such_package')
  with pytest.raises(ValueError, match='reached by no_such_package'):
    paths.place('gs://bucket/run')
  assert paths.place('runs/here') == pathlib.Path('runs/here')


@pytest.mark.parametrize('place', ['disk', 'bucket'])
def test_a_file_is_complete_or_as_it_was(place, bucket, tmp_path):
  path = paths.place('gs://bucket/file.json') if place == 'bucket' else tmp_path / 'file.json'
  for content in ('one', 'other'):
    with paths.atomic_write(path) as partial:
      partial.write_text(content)
      if content == 'other':
        assert path.read_text() == 'one'
    assert path.read_text() == content

  def fail():
    with paths.atomic_write(path) as partial:
      partial.write_text('half')
      raise OSError('the disk is full')

  with pytest.raises(OSError, match='the disk is full'):
    fail()
  assert path.read_text() == 'other'
  assert [each.name for each in path.parent.iterdir() if each.is_file()] == ['file.json']


def test_two_may_write_one_file_at_once(tmp_path):
  path = tmp_path / 'file.json'
  with paths.atomic_write(path) as one, paths.atomic_write(path) as other:
    one.write_text('one')
    other.write_text('other')
  assert path.read_text() == 'one'


def test_what_there_is_of_exactly_this_name_comes_before_what_a_pattern_matches(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  for name in ('run [2024]', 'run 2', 'a*', 'ab'):
    (tmp_path / name).touch()
  assert paths.matches(str(tmp_path / 'run [2024]')) == [tmp_path / 'run [2024]']
  assert paths.matches('~/a*') == [tmp_path / 'a*']
  assert paths.matches('~/a?') == [tmp_path / 'a*', tmp_path / 'ab']
  assert paths.matches('~/run [2]') == [tmp_path / 'run 2']
  assert paths.matches('~/none*') == []
