"""Names the arrays of nested NamedTuples, dicts and lists, so that one .npz file holds them; without JAX."""

from collections.abc import Mapping
from typing import Any


def _parts(tree: Any) -> dict[Any, Any] | None:
  """Returns the parts of a tree by name; None of an array."""
  if hasattr(tree, '_asdict'):
    return tree._asdict()
  return tree if isinstance(tree, dict) else dict(enumerate(tree)) if isinstance(tree, list) else None


def named(tree: Any, prefix: str = '') -> dict[str, Any]:
  """Returns the arrays of a tree by their paths, such as `rules/adaptive/weights`."""
  parts = _parts(tree)
  if parts is None:
    return {prefix: tree}
  begin = f'{prefix}/' if prefix else ''
  return {name: array for key, part in parts.items() for name, array in named(part, f'{begin}{key}').items()}


def restore(template: Any, arrays: Mapping[str, Any], prefix: str = '') -> Any:
  """Returns a tree of the template's structure, whose arrays are found by their paths; KeyError where one is absent."""
  parts = _parts(template)
  if parts is None:
    return arrays[prefix]
  begin = f'{prefix}/' if prefix else ''
  restored = {key: restore(part, arrays, f'{begin}{key}') for key, part in parts.items()}
  if hasattr(template, '_asdict'):
    return type(template)(**restored)
  return restored if isinstance(template, dict) else list(restored.values())
