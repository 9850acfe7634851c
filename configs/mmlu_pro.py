"""MMLU-Pro with seven LLMs whose responses were published (12,032 questions, one sample each).

  python -m selectllm.main --config=configs/mmlu_pro.py
  python -m selectllm.main --config=configs/mmlu_pro.py --config.pool.llms=Yi-34B,Qwen1.5-72B-Chat,gemma-7b

About five minutes on two CPU cores. To expect: the vote of all seven answers some 52 % right, the best single LLM 43 %
(docs/results).

Ready-made sweeps are in configs/ablations.py:

  python -m selectllm.sweeps.main --config=configs/mmlu_pro.py:ablations
"""

import types

import ml_collections

from selectllm.configs import ablations, common

# From the most accurate on the training queries to the least: the order in which the sweep `pool_size` adds them.
_BY_TRAINING_ACCURACY = (
  'Meta-Llama-3_1-8B-Instruct',
  'mathstral-7B',
  'Mixtral-8x7B-Instruct-v0.1',
  'Phi-3-mini-4k-instruct',
  'Yi-34B',
  'c4ai-command-r-v01',
  'gemma-7b',
)


def _parse(argument: str) -> dict:
  return common.parse_argument(argument, words=ablations.WORDS, folds=0, **ablations.KEYS)


def get_config(argument: str = '') -> ml_collections.ConfigDict:
  """The experiment; `argument` may set folds=N, or name a sweep."""
  options = _parse(argument)
  config = common.get_config()
  config.dataset.name = 'mmlu_pro_pool'
  config.dataset.title = 'MMLU-Pro'
  config.dataset.folds = options['folds']
  config.pool.file = str(common.POOLS / 'mmlu_pro.yaml')
  # A regression on the question selects as well as one on question and options (docs/results), and reads three times
  # as fast. Fine-tuning gains a little from them: a validation loss of 0.607 in place of 0.613.
  config.dataset.query_includes_options = False
  config.encoder.max_length = 160
  config.train.epochs = 2
  config.train.learning_rate = 7e-5
  return config


def get_hyper(hyper: types.ModuleType, argument: str = '') -> list[dict]:
  """The sweeps `:ablations` and `:ablation=NAME`, each with seeds=N; see configs/ablations.py."""
  return ablations.get_hyper(hyper, _parse(argument), _BY_TRAINING_ACCURACY)
