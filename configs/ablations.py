"""Ready-made sweeps: one factor at a time around an experiment, each variant with several seeds.

  python -m selectllm.sweeps.main --config=configs/mini.py:ablations                   # all axes, three seeds
  python -m selectllm.sweeps.main --config=configs/mini.py:ablation=encoder,seeds=5    # one axis

Policies and subset sizes are rows of every report: `ablation=policy` and `ablation=size` run the experiment alone.
"""

import types
from typing import Any

# What a config that has these sweeps lets its argument say; see `common.parse_argument`.
WORDS = ('ablations',)
KEYS: dict[str, Any] = {'ablation': '', 'seeds': 3}

_IN_EVERY_REPORT = ('policy', 'size', 'seed')
_MINILM, _ROBERTA = 'sentence-transformers/all-MiniLM-L6-v2', 'FacebookAI/roberta-base'

# axis -> variant -> overrides; also those that change nothing are said, so that tables name them.
Axes = dict[str, dict[str, dict[str, Any]]]


def axes(llms: tuple[str, ...]) -> Axes:
  """All axes.

  Args:
    llms: The pool, from the most accurate on the training queries to the least; empty for no axes that change it.
  """
  known: Axes = {
    'threshold': {f'{value}': {'config.evaluate.threshold': value} for value in (0.3, 0.4, 0.5, 0.6, 0.7)},
    'vote': {
      'majority answers': {'config.evaluate.vote': 'majority'},
      'all samples': {'config.evaluate.vote': 'samples'},
    },
    'encoder': {
      'MiniLM, as validation decides': {'config.encoder.name': _MINILM, 'config.encoder.freeze': 'auto'},
      'MiniLM, fine-tuned': {'config.encoder.name': _MINILM, 'config.encoder.freeze': 'false'},
      'MiniLM, frozen': {'config.encoder.name': _MINILM, 'config.encoder.freeze': 'true'},
      'RoBERTa-base, fine-tuned': {'config.encoder.name': _ROBERTA, 'config.encoder.freeze': 'false'},
      'RoBERTa-base, frozen': {'config.encoder.name': _ROBERTA, 'config.encoder.freeze': 'true'},
    },
    'pooling': {pooling: {'config.encoder.pooling': pooling} for pooling in ('mean', 'cls')},
    'loss': {loss: {'config.train.loss': loss} for loss in ('bce', 'balanced_bce')},
    'train_share': {f'{share:.0%}': {'config.dataset.train_share': share} for share in (0.1, 0.3, 0.5, 1.0)},
  }
  if llms:
    best = {f'best {size}': {'config.pool.llms': llms[:size]} for size in range(2, len(llms))}
    known['pool_size'] = {**best, f'all {len(llms)}': {'config.pool.llms': ()}}
    known['pool_without'] = {
      f'without {out}': {'config.pool.llms': tuple(llm for llm in llms if llm != out)} for out in llms
    }
  return known


def get_hyper(hyper: types.ModuleType, options: dict[str, Any], llms: tuple[str, ...]) -> list[dict[str, Any]]:
  """The grid that a config's argument asks for.

  Args:
    hyper: `selectllm.sweeps.grid`.
    options: What `common.parse_argument` read, with `WORDS` and `KEYS`.
    llms: See `axes`.

  Raises:
    ValueError: when the argument asks for no sweep, or for one that does not exist.
  """
  known, wanted = axes(llms), options['ablation']
  if not wanted and 'ablations' not in options['words']:
    raise ValueError('the config argument names no sweep: say :ablations, or :ablation=NAME for one of them')
  if wanted and wanted not in (*known, *_IN_EVERY_REPORT):
    raise ValueError(f'ablation={wanted!r} is not one of {", ".join((*known, *_IN_EVERY_REPORT))}')
  around = [
    [{'axis': axis, 'variant': variant, **overrides} for variant, overrides in variants.items()]
    for axis, variants in known.items()
    if 'ablations' in options['words'] or axis == wanted
  ]
  experiment: list[dict[str, Any]] = [{}]
  seeds = hyper.sweep('config.seed', range(options['seeds']))
  return hyper.product([hyper.chainit([experiment, *around]), seeds])
