"""The mini pool: eight ways to ask two small LLMs, recorded, and shipped with the package.

python -m selectllm.main --config=configs/mini.py
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
  if 'collect' in options['words']:
    common.collect(config, pool='mini.yaml', queries='', extractor='number-v1')
    config.collect.samples = 2
  return config
