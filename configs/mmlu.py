"""MMLU with the paper's pool: seven LLMs whose ten answers to each question the paper's authors recorded.

  python -m selectllm.main --config=configs/mmlu.py --config.dataset.path=SLData.zip

SLData.zip is theirs (github.com/kaushal0494/SelectLLM); it is read as it is. Splits and training recipe are the
paper's too, and the report tabulates every policy and baseline at every size with its accuracy and latency, as it does.

Or ask the seven LLMs anew, on vLLM servers of yours, ten samples each, and train on what they answer:

  python -m selectllm.main --config=configs/mmlu.py:collect --workdir=runs/collected
  python -m selectllm.main --config=configs/jsonl.py --config.dataset.path=runs/collected/responses.jsonl

`--config.collect.queries=mmlu:dev` or `mmlu:validation` adds these questions to the same collection. To train on it by
the paper's recipe, give this config `--config.dataset.name=jsonl_pool --config.dataset.split=hash` and the path.

Ready-made sweeps are in configs/ablations.py:

  python -m selectllm.sweeps.main --config=configs/mmlu.py:ablations --config.dataset.path=SLData.zip
"""

import types

import ml_collections

from selectllm.configs import ablations, common


def _parse(argument: str) -> dict:
  return common.parse_argument(argument, words=('collect', *ablations.WORDS), **ablations.KEYS)


def get_config(argument: str = '') -> ml_collections.ConfigDict:
  """The experiment; `argument` may ask to collect, or name a sweep."""
  options = _parse(argument)
  config = common.get_config()
  config.dataset.title = 'MMLU'
  common.paper(config, task='mmlu', epochs=5)
  if 'collect' in options['words']:
    common.collect(config, pool='paper_mmlu.yaml', queries='mmlu:test', extractor='option_letter-v2')
  return config


def get_hyper(hyper: types.ModuleType, argument: str = '') -> list[dict]:
  """The sweeps `:ablations` and `:ablation=NAME`, each with seeds=N; see configs/ablations.py."""
  return ablations.get_hyper(hyper, _parse(argument), llms=())
