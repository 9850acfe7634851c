"""The mini pool: eight ways to ask two small LLMs, recorded on 900 word problems, and shipped with the package.

  python -m selectllm.main --config=configs/mini.py
  python -m selectllm.main --config=configs/mini.py:folds=5    # every query is tested once

Under three minutes on two CPU cores, five times that with folds. `launch/record_mini_pool.sh` records it anew with the
variant `:collect`; `launch/local_pool.sh` serves the two LLMs, to be asked live (README).
"""

import ml_collections

from configs import common


def get_config(argument: str = '') -> ml_collections.ConfigDict:
  """The experiment; `argument` may set folds=N, or ask to collect."""
  options = common.parse_argument(argument, words=('collect',), folds=0)
  config = common.get_config()
  config.dataset.name = 'mini_pool'
  config.dataset.title = 'Mini pool'
  config.dataset.folds = options['folds']
  config.pool.file = str(common.POOLS / 'mini.yaml')
  # Who is right shows in the question: the validation loss still falls after as many epochs as three minutes allow.
  config.train.epochs = 6
  config.train.learning_rate = 2e-4
  if 'collect' in options['words']:
    config.mode = 'collect'
    config.collect.samples = 2
  return config
