"""The mini pool: eight ways to ask two small LLMs, recorded on 900 word problems, and shipped with the package.

  python -m selectllm.main --config=configs/mini.py
  python -m selectllm.main --config=configs/mini.py:folds=5    # every query is tested once

Less than three minutes on two CPU cores, five times that with folds. `tools/record_mini_pool.sh` records it anew with
the variant `:collect`; `launch/local_pool.sh` serves the two LLMs, to be asked live (docs/mini_pool.md).

Ready-made sweeps are in configs/ablations.py:

  python -m selectllm.sweeps.main --config=configs/mini.py:ablations
"""

import types

import ml_collections

from selectllm.configs import ablations, common

# From the most accurate on the training queries to the least: the order in which the sweep `pool_size` adds them.
_BY_TRAINING_ACCURACY = (
  'gemma-calculator-measures',
  'gemma-calculator-products',
  'gemma-calculator-sums',
  'gemma-calculator-money',
  'smollm2-calculator-parts',
  'smollm2-thinking',
  'smollm2-chat',
  'smollm2-direct',
)


def _parse(argument: str) -> dict:
  return common.parse_argument(argument, words=('collect', *ablations.WORDS), folds=0, **ablations.KEYS)


def get_config(argument: str = '') -> ml_collections.ConfigDict:
  """The experiment; `argument` may set folds=N, ask to collect, or name a sweep."""
  options = _parse(argument)
  config = common.get_config()
  config.dataset.name = 'mini_pool'
  config.dataset.title = 'Mini pool'
  config.dataset.folds = options['folds']
  config.pool.file = str(common.POOLS / 'mini.yaml')
  # Fine-tuned: who is right shows in the question, and the validation loss still falls after as many epochs.
  config.train.epochs = 6
  config.train.learning_rate = 2e-4
  if 'collect' in options['words']:
    config.mode = 'collect'
    config.collect.samples = 2
  return config


def get_hyper(hyper: types.ModuleType, argument: str = '') -> list[dict]:
  """The sweeps `:ablations` and `:ablation=NAME`, each with seeds=N; see configs/ablations.py."""
  return ablations.get_hyper(hyper, _parse(argument), _BY_TRAINING_ACCURACY)
