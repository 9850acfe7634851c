"""What the fields of a config may be, and that the modules that act on them know the same."""

import subprocess
import sys

import pytest

from configs import common, gsm8k, mini
from selectllm import config as config_lib
from selectllm.data import splits
from selectllm.evaluate import strategies
from selectllm.models import classifier, inference
from selectllm.selection import voting
from selectllm.train import loop, optimizers


def _refusal(config) -> str:
  with pytest.raises(ValueError, match=r'^invalid options:') as error:
    config_lib.check_options(config)
  return str(error.value)


def test_the_choices_are_those_that_are_acted_on():
  assert {
    'encoder.freeze': ('auto', 'true', 'false'),
    'encoder.pooling': classifier.POOLINGS,
    'encoder.dtype': tuple(inference.DTYPES),
    'train.schedule': tuple(optimizers.SCHEDULES),
    'train.loss': loop.LOSSES,
    'evaluate.vote': voting.VOTES,
    'evaluate.ties': voting.TIES,
    'dataset.split': splits.KINDS,
    'dataset.labels': ('reference', 'agreement'),
  } == config_lib.CHOICES
  assert config_lib.STRATEGIES == strategies.STRATEGIES == common.STRATEGIES


def test_strategies_units_and_limits_that_there_are_not_are_named():
  config = common.get_config()
  config_lib.check_options(config)
  config.tradeoff.strategies = ('adaptive', 'guess')
  config.tradeoff.cost_unit = 'euros'
  config.tradeoff.limits = ('compute_seconds<20',)
  found = _refusal(config)
  assert 'config.tradeoff.strategies names guess; there are learned_vote' in found
  assert "config.tradeoff.cost_unit='euros'" in found
  assert 'compute_seconds<20' in found


def test_all_problems_are_said_at_once():
  config = common.get_config()
  config.update_from_flattened_dict(
    {'train.epochs': 0, 'encoder.pooling': 'max', 'encoder.dropout': 1.5, 'dataset.train_share': 0.0}
  )
  assert _refusal(config).splitlines() == [
    'invalid options:',
    '  config.train.epochs=0: at least 1',
    '  config.encoder.dropout=1.5: from 0 to 1',
    "  config.encoder.pooling='max': one of cls, mean",
    '  config.dataset.train_share=0.0: above 0, at most 1',
  ]


@pytest.mark.parametrize(('field', 'value'), [('labels', 'agreement'), ('split', 'published')])
def test_folds_need_a_split_of_their_own_and_references(field, value):
  config = common.get_config()
  config.dataset.folds, config.dataset[field] = 5, value
  assert f'config.dataset.folds=5: 0 with dataset.{field}={value}' in _refusal(config)


@pytest.mark.parametrize('given', ['False', 'FALSE', 'false'])
def test_how_the_encoder_is_trained_is_said_in_any_case(given):
  config = common.get_config()
  config.encoder.freeze = given
  config_lib.check_options(config)
  assert config.encoder.freeze == 'false'


def test_a_data_set_that_takes_another_s_place_brings_its_training_settings_but_for_those_that_were_set():
  config, own = gsm8k.get_config(), mini.get_config()
  config.train.warmup_share = 0.2
  taken = config_lib.train_like(config, 'mini_pool')
  assert taken == [f'config.train.epochs={own.train.epochs}', f'config.train.learning_rate={own.train.learning_rate}']
  own.train.warmup_share = 0.2
  assert config.train.to_dict() == own.train.to_dict()
  config = gsm8k.get_config()
  config.train.learning_rate = 1e-5
  assert config_lib.train_like(config, 'mini_pool') == taken[:1]
  assert config.train.learning_rate == 1e-5


def test_options_are_checked_without_jax():
  code = """
import sys
from configs import common, gsm8k, mini
from selectllm import config
config.check_options(common.get_config())
assert 'jax' not in sys.modules
"""
  assert not subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stderr
