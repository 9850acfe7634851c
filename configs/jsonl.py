"""Your own pool: responses (or scores) in JSONL files, one query a line (docs/data.md).

python -m selectllm.main --config=configs/jsonl.py --config.dataset.path=my_responses.jsonl

Ready-made sweeps are in configs/ablations.py:

  python -m selectllm.sweeps.main --config=configs/jsonl.py:ablations --config.dataset.path=my_responses.jsonl
"""

import types

import ml_collections

from selectllm.configs import ablations, common


def _parse(argument: str) -> dict:
  return common.parse_argument(argument, words=ablations.WORDS, folds=0, **ablations.KEYS)


def get_config(argument: str = '') -> ml_collections.ConfigDict:
  """The experiment; `argument` may set folds=N, or name a sweep."""
  options = _parse(argument)
  config = common.get_config()
  config.dataset.name = 'jsonl_pool'
  config.dataset.folds = options['folds']
  return config


def get_hyper(hyper: types.ModuleType, argument: str = '') -> list[dict]:
  """The sweeps `:ablations` and `:ablation=NAME`, each with seeds=N; see configs/ablations.py."""
  return ablations.get_hyper(hyper, _parse(argument), llms=())
