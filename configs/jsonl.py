"""Your own pool: responses (or scores) in JSONL files, one query a line (see README, "Your own pool").

python -m selectllm.main --config=configs/jsonl.py --config.dataset.path=my_responses.jsonl
"""

import ml_collections

from configs import common


def get_config(argument: str = '') -> ml_collections.ConfigDict:
  """The experiment; `argument` may set folds=N."""
  options = common.parse_argument(argument, folds=0)
  config = common.get_config()
  config.dataset.name = 'jsonl_pool'
  config.dataset.folds = options['folds']
  return config
