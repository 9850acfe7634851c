"""MMLU-Pro with seven LLMs whose responses were published (12,032 questions, one sample each).

python -m selectllm.main --config=configs/mmlu_pro.py
"""

import ml_collections

from configs import common


def get_config(argument: str = '') -> ml_collections.ConfigDict:
  """The experiment; `argument` may set folds=N."""
  options = common.parse_argument(argument, folds=0)
  config = common.get_config()
  config.dataset.name = 'mmlu_pro_pool'
  config.dataset.title = 'MMLU-Pro'
  config.dataset.folds = options['folds']
  config.pool.file = str(common.POOLS / 'mmlu_pro.yaml')
  config.train.epochs = 2
  return config
