"""GSM8K with ten LLMs whose responses were published (1,319 questions, one sample each).

python -m selectllm.main --config=configs/gsm8k.py
python -m selectllm.main --config=configs/gsm8k.py:folds=5    # every query is tested once
"""

import ml_collections

from configs import common


def get_config(argument: str = '') -> ml_collections.ConfigDict:
  """The experiment; `argument` may set folds=N."""
  options = common.parse_argument(argument, folds=0)
  config = common.get_config()
  config.dataset.name = 'gsm8k_pool'
  config.dataset.title = 'GSM8K'
  config.dataset.folds = options['folds']
  config.pool.file = str(common.POOLS / 'gsm8k.yaml')
  # With 900 training queries the validation loss is lowest after 2 to 4 epochs.
  config.train.epochs = 4
  return config
