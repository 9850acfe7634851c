"""The modes of the command, --config.mode; nothing is imported for a mode that is not run."""

import importlib
from collections.abc import Callable
from typing import NamedTuple


class Mode(NamedTuple):
  """One mode.

  Attributes:
    module: Its module in this package.
    function: Takes the config and the workdir; returns the exit code, None for 0.
    jax: Whether it computes on devices.
    workdir: Whether it needs to be told one.
    default: Where below runs/ a workdir is made if none is told, `{config}` being the config's name; empty: nowhere.
    bucket: Whether the workdir may be on gs://.
    distributed: Whether it may run as several processes.
  """

  module: str
  function: str
  jax: bool = True
  workdir: bool = False
  default: str = ''
  bucket: bool = False
  distributed: bool = False

  def load(self) -> Callable[..., int | None]:
    """Imports the function."""
    return getattr(importlib.import_module(f'{__name__}.{self.module}'), self.function)


MODES = {
  'train_and_evaluate': Mode('experiment', 'run', default='{config}', bucket=True, distributed=True),
  'evaluate': Mode('experiment', 'run', workdir=True, bucket=True, distributed=True),
  'collect': Mode('collect', 'collect', jax=False, workdir=True),
  'select': Mode('select', 'select'),
  'answer': Mode('answer', 'answer', workdir=True),
  'compare': Mode('compare', 'compare', jax=False, default='compare'),
  'add_llm': Mode('add_llm', 'add_llm', workdir=True),
  'grade_audit': Mode('grade_audit', 'grade_audit', jax=False, default='{config}-grade_audit'),
}


def find(name: str) -> Mode:
  """Looks a mode up.

  Raises:
    ValueError: where there is none of that name.
  """
  if name not in MODES:
    raise ValueError(f'config.mode={name!r} is not one of {", ".join(MODES)}')
  return MODES[name]
