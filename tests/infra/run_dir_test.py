import json
import pathlib

import ml_collections
import pytest

from selectllm.infra import run_dir


def _config(mode: str = 'train_and_evaluate') -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(
    {
      'mode': mode,
      'seed': 0,
      'dataset': {'name': 'toy', 'manual_dir': '', 'base_url': '', 'split_seed': 0},
      'pool': {'file': 'pools/toy.yaml', 'llms': ('a', 'b')},
      'train': {'epochs': 3, 'learning_rate': 5e-5},
      'evaluate': {'threshold': 0.5, 'knn_neighbours': (5, 10)},
    }
  )


def _refusal(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> str:
  with pytest.raises(run_dir.RunDirError) as error:
    run_dir.claim(workdir, config)
  return str(error.value)


def test_a_new_directory_becomes_the_configs_and_notes_what_it_was_made_with(tmp_path):
  workdir = tmp_path / 'deep' / 'run'
  run_dir.claim(workdir, _config())
  assert json.loads((workdir / 'config.json').read_text())['pool']['llms'] == ['a', 'b']
  environment = json.loads((workdir / 'environment.json').read_text())
  assert {'python', 'packages', 'backend', 'devices', 'processes', 'git_commit'} <= environment.keys()
  assert environment['packages']['jax']
  assert sorted(path.name for path in workdir.iterdir()) == ['config.json', 'environment.json']


def test_the_same_config_comes_back(tmp_path):
  run_dir.claim(tmp_path, _config())
  before = (tmp_path / 'config.json').read_bytes()
  run_dir.claim(tmp_path, _config())
  assert (tmp_path / 'config.json').read_bytes() == before


def test_another_config_is_refused_with_all_that_differs_and_nothing_else(tmp_path):
  run_dir.claim(tmp_path, _config())
  before = (tmp_path / 'config.json').read_bytes()
  config = _config()
  config.train.epochs = 4
  config.pool.llms = ('a', 'c')
  message = _refusal(tmp_path, config)
  assert str(tmp_path) in message
  assert 'train.epochs: 3 there, 4 now' in message
  assert "pool.llms: ['a', 'b'] there, ['a', 'c'] now" in message
  assert '--workdir' in message
  assert 'learning_rate' not in message
  assert (tmp_path / 'config.json').read_bytes() == before


def test_fields_that_only_one_of_the_configs_has_are_differences(tmp_path):
  run_dir.claim(tmp_path, _config())
  config = _config()
  config.train.clip_norm = 1.0
  del config.train.epochs
  message = _refusal(tmp_path, config)
  assert "train.clip_norm: 'absent' there, 1.0 now" in message
  assert "train.epochs: 3 there, 'absent' now" in message


def test_where_to_look_may_change(tmp_path):
  run_dir.claim(tmp_path, _config())
  config = _config(mode='evaluate')
  config.dataset.manual_dir = '/elsewhere'
  config.dataset.base_url = 'http://127.0.0.1/'
  config.pool.file = 'copied.yaml'
  run_dir.claim(tmp_path, config)


def test_a_field_whose_name_begins_like_a_location_is_none(tmp_path):
  """`mode` may differ, `model` may not."""
  config = _config()
  config.model = 'small'
  run_dir.claim(tmp_path, config)
  config.model = 'large'
  assert "model: 'small' there, 'large' now" in _refusal(tmp_path, config)


def test_only_an_evaluation_may_evaluate_otherwise(tmp_path):
  run_dir.claim(tmp_path, _config())
  evaluation, training = _config(mode='evaluate'), _config()
  for config in (evaluation, training):
    config.evaluate.threshold = 0.4
    config.evaluate.knn_neighbours = (3,)
  run_dir.claim(tmp_path, evaluation)
  assert 'evaluate.threshold: 0.5 there, 0.4 now' in _refusal(tmp_path, training)
  evaluation.train.epochs = 9
  message = _refusal(tmp_path, evaluation)
  assert 'train.epochs' in message
  assert 'evaluate.threshold' not in message


def test_other_data_are_refused_with_the_difference(tmp_path):
  identity = {'builder': 'toy', 'files': {'a.jsonl': 'sha256:12', 'b.jsonl': 'sha256:34'}}
  run_dir.claim_data(tmp_path, identity)
  run_dir.claim_data(tmp_path, identity)
  with pytest.raises(run_dir.RunDirError, match=r"files.b.jsonl: 'sha256:34' there, 'sha256:56' now") as error:
    run_dir.claim_data(tmp_path, {'builder': 'toy', 'files': {'a.jsonl': 'sha256:12', 'b.jsonl': 'sha256:56'}})
  assert 'a.jsonl' not in str(error.value)


def test_a_run_of_an_earlier_version_is_refused_with_what_to_do(tmp_path):
  earlier = _config().to_dict() | {'frontier': {'contenders': ['adaptive']}}
  (tmp_path / 'config.json').write_text(json.dumps(earlier))
  for mode in ('train_and_evaluate', 'evaluate', 'add_llm'):
    message = _refusal(tmp_path, _config(mode))
    assert message.startswith(f'{tmp_path} holds a run of an earlier version of selectllm')
    assert 'make a new run' in message
    assert 'check out the version that wrote it' in message
  assert json.loads((tmp_path / 'config.json').read_text()) == json.loads(json.dumps(earlier))


@pytest.mark.parametrize('content', ['', '{"mode": "train_and', '\x00\x00'])
def test_a_damaged_config_is_named_and_kept(tmp_path, content):
  (tmp_path / 'config.json').write_text(content)
  message = _refusal(tmp_path, _config())
  assert str(tmp_path / 'config.json') in message
  assert (tmp_path / 'config.json').read_text() == content


def test_a_run_killed_while_it_claims_leaves_a_directory_that_can_be_claimed(tmp_path, monkeypatch):
  write = pathlib.Path.write_text

  def killed(path, text, *args, **kwargs):
    write(path, text[: len(text) // 2])
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(pathlib.Path, 'write_text', killed)
    with pytest.raises(KeyboardInterrupt):
      run_dir.claim(tmp_path, _config())
  run_dir.claim(tmp_path, _config())
  assert json.loads((tmp_path / 'config.json').read_text())['seed'] == 0


def test_what_a_run_began_with(tmp_path):
  assert run_dir.begun_with(tmp_path) == ''
  run_dir.claim_data(tmp_path, {'name': 'mini_pool', 'identity': 'x'})
  assert run_dir.begun_with(tmp_path) == 'mini_pool'
  (tmp_path / 'data.json').write_text('')
  with pytest.raises(run_dir.RunDirError, match=r'data\.json is no JSON'):
    run_dir.begun_with(tmp_path)


def test_flatten_names_leaves_by_their_path():
  assert run_dir.flatten({'a': {'b': 1, 'c': {'d': [2, 3]}}, 'e': None}) == {'a.b': 1, 'a.c.d': [2, 3], 'e': None}


def test_the_default_directory_is_of_the_config_and_of_now():
  path = run_dir.default_workdir('gsm8k')
  assert path.parent == pathlib.Path('runs/gsm8k')
  assert path.name[:2] == '20'
