"""Selects, query by query, the few LLMs of a pool whose vote is right."""

from typing import TYPE_CHECKING

__version__ = '0.2.0'

if TYPE_CHECKING:
  from selectllm.serve.selector import load as load


def __getattr__(name: str) -> object:
  # Not imported with the package: collecting responses needs no JAX.
  if name == 'load':
    from selectllm.serve import selector

    return selector.load
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
