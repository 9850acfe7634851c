"""Checks the fields of a config before anything is done; without JAX, so that whoever only reads configs may ask."""

import ast
import re
from typing import Any

import ml_collections
from ml_collections.config_flags import tuple_parser

from selectllm.configs import common, gsm8k, mini, mmlu_pro
from selectllm.data import splits
from selectllm.evaluate import options as evaluate_options
from selectllm.infra import run_dir
from selectllm.selection import constraints

# Field -> what it may be, as the modules name it that act on it.
CHOICES = {
  'encoder.freeze': ('auto', 'true', 'false'),
  'encoder.pooling': ('cls', 'mean'),
  'encoder.dtype': ('float32', 'bfloat16'),
  'train.schedule': ('linear', 'cosine', 'constant'),
  'train.loss': ('bce', 'balanced_bce'),
  'evaluate.vote': ('majority', 'samples'),
  'evaluate.ties': ('confident', 'fastest'),
  'dataset.split': splits.KINDS,
  'dataset.labels': ('reference', 'agreement'),
}
STRATEGIES = (
  'learned_vote', 'bayes_vote', 'adaptive', 'adaptive_stages', 'subset',
  'chain', 'frugal_cascade', 'knn_router', 'mf_router', 'clusters',
)  # fmt: skip

_AT_LEAST = {
  'seeds': 1,
  'encoder.max_length': 8,
  'train.epochs': 1,
  'train.batch_size': 1,
  'train.log_every_steps': 1,
  'train.checkpoint_every_steps': 0,
  'evaluate.batch_size': 1,
  'evaluate.resamples': 1,
}
_SHARES = ('encoder.dropout', 'train.warmup_share', 'evaluate.threshold')


# One of several texts with commas between: in quotes, or as it stands.
_ITEM = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([^,]*?))\s*(?:,|$)""")


class TupleParser(tuple_parser.TupleParser):
  """Reads what a field of several texts is set to: `Yi-34B,"a, b"` or the tuple of Python, `('Yi-34B', 'a, b')`."""

  def parse(self, argument: Any) -> tuple[Any, ...]:
    """Returns the texts (or numbers); quotes are around those with a comma."""
    if not isinstance(argument, str):
      return tuple(argument) if isinstance(argument, list) else super().parse(argument)
    try:
      value = ast.literal_eval(argument.strip())
    except (ValueError, SyntaxError):
      value = None
    if isinstance(value, tuple | list):
      return tuple(value)
    if isinstance(value, int | float | str):
      return (value,)
    return tuple(filter(None, (''.join(item) for item in _ITEM.findall(argument))))


# Data set -> its own settings, where these are not the common ones.
_SETTINGS = {'gsm8k_pool': gsm8k, 'mmlu_pro_pool': mmlu_pro, 'mini_pool': mini}


def train_like(config: ml_collections.ConfigDict, name: str) -> list[str]:
  """Takes over the training settings of the data set that takes the place of the one asked for; returns which.

  Fields that are not as the config of the data set asked for has them are the user's own, and stay.
  """
  asked, own = (_SETTINGS.get(of, common).get_config().train for of in (config.dataset.name, name))
  taken = [field for field in own if config.train[field] == asked[field] != own[field]]
  config.train.update({field: own[field] for field in taken})
  return [f'config.train.{field}={own[field]}' for field in taken]


def check_options(config: ml_collections.ConfigDict) -> None:
  """Refuses, before anything is done, options that would fail after the training.

  `encoder.freeze` becomes lower case: on the command line it reads like the booleans beside it, True and False.

  Raises:
    ValueError: names every such field, its value and what it may be.
  """
  config.encoder.freeze = config.encoder.freeze.lower()
  fields = run_dir.flatten(config.to_dict())
  problems = [f'{name}={fields[name]}: at least {least}' for name, least in _AT_LEAST.items() if fields[name] < least]
  problems += [f'{name}={fields[name]}: from 0 to 1' for name in _SHARES if not 0 <= fields[name] <= 1]
  problems += [
    f'{name}={fields[name]!r}: one of {", ".join(choices)}'
    for name, choices in CHOICES.items()
    if fields[name] not in choices
  ]
  problems += [*_evaluate_problems(config.evaluate), *_dataset_problems(config.dataset)]
  problems += _tradeoff_problems(config.tradeoff)
  if problems:
    raise ValueError('invalid options:\n' + '\n'.join(f'  config.{problem}' for problem in problems))


def _evaluate_problems(options: ml_collections.ConfigDict) -> list[str]:
  problems = []
  near, neighbours = options.near_duplicates, options.knn_neighbours
  if near and not 0.5 <= near <= 1:
    problems.append(f'evaluate.near_duplicates={near}: from 0.5 to 1, or 0 to look for equal questions only')
  if not neighbours or min(neighbours) < 1:
    problems.append(f'evaluate.knn_neighbours={neighbours}: some numbers, each at least 1')
  return problems


def _dataset_problems(options: ml_collections.ConfigDict) -> list[str]:
  problems = []
  if not 0 < options.train_share <= 1:
    problems.append(f'dataset.train_share={options.train_share}: above 0, at most 1')
  if options.folds and options.split == 'published':
    problems.append(f'dataset.folds={options.folds}: 0 with dataset.split=published, which tests one split only')
  if options.folds and options.labels == 'agreement':
    problems.append(
      f'dataset.folds={options.folds}: 0 with dataset.labels=agreement, which judges one split by its references'
    )
  return problems


def _tradeoff_problems(options: ml_collections.ConfigDict) -> list[str]:
  problems = []
  if strange := [name for name in options.strategies if name not in STRATEGIES]:
    problems.append(f'tradeoff.strategies names {", ".join(strange)}; there are {", ".join(STRATEGIES)}')
  if constraints.ALIASES.get(options.cost_unit, options.cost_unit) not in ('', *(units := evaluate_options.COST_UNITS)):
    problems.append(f'tradeoff.cost_unit={options.cost_unit!r}: one of {", ".join(units)}, or empty')
  if not 0.5 <= options.confidence < 1:
    problems.append(f'tradeoff.confidence={options.confidence}: from 0.5, which is no better than chance, to below 1')
  for text in options.limits:
    try:
      constraints.parse(text)
    except ValueError as error:
      problems.append(f'tradeoff.limits: {error}')
  return problems
