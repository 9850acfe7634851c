"""GSM8K with ten LLMs whose responses were published (1,319 questions, one sample each).

  python -m selectllm.main --config=configs/gsm8k.py
  python -m selectllm.main --config=configs/gsm8k.py:folds=5    # every query is tested once

One to two minutes on two CPU cores, five times that with folds. To expect: GPT-4 alone answers 94 % right, the vote of
all ten 91 %, and little can be gained over GPT-4 (docs/results).

Or the paper's own experiment, on the answers that its authors recorded: six LLMs, ten samples each, the published
splits and training recipe. SLData.zip is theirs (github.com/kaushal0494/SelectLLM); it is read as it is. The report
tabulates every policy and baseline at every size with its accuracy and latency, as the paper does.

  python -m selectllm.main --config=configs/gsm8k.py:sldata --config.dataset.path=SLData.zip

Or collect the paper's pool anew (six LLMs on vLLM servers of yours, ten samples each; `--config.collect.dry_run=True`
says what it takes), and train on it. `--config.collect.queries=gsm8k:test` adds the test questions to the collection.

  python -m selectllm.main --config=configs/gsm8k.py:collect --workdir=runs/collected
  python -m selectllm.main --config=configs/jsonl.py --config.dataset.path=runs/collected/responses.jsonl

Ready-made sweeps are in configs/ablations.py:

  python -m selectllm.sweeps.main --config=configs/gsm8k.py:ablations
"""

import types

import ml_collections

from selectllm.configs import ablations, common

# From the most accurate on the training queries to the least: the order in which the sweep `pool_size` adds them.
_BY_TRAINING_ACCURACY = (
  'gpt-4-1106',
  'tora-70b',
  'tora-code-34b',
  'codex-pot-fewshot',
  'mixtral-8x7b-instruct',
  'gpt3-175b-verification',
  'codex-pot-zeroshot',
  'gpt3-6b-verification',
  'gpt3-175b-finetuning',
  'gpt3-6b-finetuning',
)


def _parse(argument: str) -> dict:
  return common.parse_argument(argument, words=('sldata', 'collect', *ablations.WORDS), folds=0, **ablations.KEYS)


def get_config(argument: str = '') -> ml_collections.ConfigDict:
  """The experiment; `argument` may set folds=N, ask for sldata or to collect, or name a sweep."""
  options = _parse(argument)
  config = common.get_config()
  config.dataset.name = 'gsm8k_pool'
  config.dataset.title = 'GSM8K'
  config.dataset.fallback = 'mini_pool'
  config.dataset.folds = options['folds']
  config.pool.file = str(common.POOLS / 'gsm8k.yaml')
  # With 900 training queries the validation loss is lowest after 2 to 4 epochs.
  config.train.epochs = 4
  if 'sldata' in options['words']:
    common.paper(config, task='gsm8k', epochs=10)
  if 'collect' in options['words']:
    common.collect(config, pool='paper_gsm8k.yaml', queries='gsm8k:train', extractor='number-v2')
  return config


def get_hyper(hyper: types.ModuleType, argument: str = '') -> list[dict]:
  """The sweeps `:ablations` and `:ablation=NAME`, each with seeds=N; see configs/ablations.py."""
  options = _parse(argument)
  return ablations.get_hyper(hyper, options, () if 'sldata' in options['words'] else _BY_TRAINING_ACCURACY)
