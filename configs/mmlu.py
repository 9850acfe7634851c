"""MMLU with the paper's pool: seven LLMs on vLLM servers of yours, ten samples each, then the experiment on them.

  python -m selectllm.main --config=configs/mmlu.py:collect --workdir=runs/collected
  python -m selectllm.main --config=configs/mmlu.py --config.dataset.path=runs/collected/responses.jsonl

`--config.collect.queries=mmlu:dev` or `mmlu:validation` adds these questions to the same collection.
"""

import ml_collections

from configs import common


def get_config(argument: str = '') -> ml_collections.ConfigDict:
  """The experiment; `argument` may set folds=N, or ask to collect."""
  options = common.parse_argument(argument, words=('collect',), folds=0)
  config = common.get_config()
  config.dataset.name = 'jsonl_pool'
  config.dataset.title = 'MMLU'
  config.dataset.folds = options['folds']
  config.pool.file = str(common.POOLS / 'paper_mmlu.yaml')
  if 'collect' in options['words']:
    common.collect(config, pool='paper_mmlu.yaml', queries='mmlu:test', extractor='option_letter-v1')
  return config
