"""GSM8K with ten LLMs whose responses were published (1,319 questions, one sample each).

  python -m selectllm.main --config=configs/gsm8k.py
  python -m selectllm.main --config=configs/gsm8k.py:folds=5    # every query is tested once

About five minutes on two CPU cores, five times that with folds. To expect with folds: weighted_max_conf at s=3 answers
91.3 % right, the best single LLM 89.0, the vote of all ten 87.0 (README).

Or collect the paper's pool anew (six LLMs on vLLM servers of yours, ten samples each; `--config.collect.dry_run=True`
says what it takes), and train on it. `--config.collect.queries=gsm8k:test` adds the test questions to the collection.

  python -m selectllm.main --config=configs/gsm8k.py:collect --workdir=runs/collected
  python -m selectllm.main --config=configs/jsonl.py --config.dataset.path=runs/collected/responses.jsonl
"""

import ml_collections

from configs import common


def get_config(argument: str = '') -> ml_collections.ConfigDict:
  """The experiment; `argument` may set folds=N, or ask to collect."""
  options = common.parse_argument(argument, words=('collect',), folds=0)
  config = common.get_config()
  config.dataset.name = 'gsm8k_pool'
  config.dataset.title = 'GSM8K'
  config.dataset.fallback = 'mini_pool'
  config.dataset.folds = options['folds']
  config.pool.file = str(common.POOLS / 'gsm8k.yaml')
  # With 900 training queries the validation loss is lowest after 2 to 4 epochs.
  config.train.epochs = 4
  if 'collect' in options['words']:
    common.collect(config, pool='paper_gsm8k.yaml', queries='gsm8k:train', extractor='number-v1')
  return config
