"""Hooks of the documentation site (mkdocs.yml): the parts that are generated when it is built."""

import json
import pathlib
import re
from typing import Any

import ml_collections

from selectllm.configs import common
from selectllm.evaluate import results

_SOURCE = pathlib.Path(common.__file__)
_ASSIGNED = re.compile(r'^  config\.([\w.]+) = .*?(?:  # (.*))?$', re.MULTILINE)


def field_comments(source: str) -> dict[str, str]:
  """Reads the comment behind each first assignment `config.section.field = default  # comment`.

  Args:
    source: Text of configs/common.py.

  Returns:
    Field, such as `train.epochs`, to its comment, in the order of the source; empty where there is none.
  """
  comments: dict[str, str] = {}
  for field, comment in _ASSIGNED.findall(source):
    comments.setdefault(field, comment)
  return comments


def _default(config: ml_collections.ConfigDict, field: str) -> str:
  for part in field.split('.'):
    config = config[part]
  return f'`{config!r}`'.replace('|', r'\|')


def config_fields() -> str:
  """Returns the fields of configs/common.py as Markdown: a table for each section, with defaults and comments.

  Raises:
    ValueError: for a field of the config that no line of the source assigns.
  """
  config, comments = common.get_config(), field_comments(_SOURCE.read_text(encoding='utf-8'))
  sections = [name for name in comments if isinstance(config.get(name), ml_collections.ConfigDict)]
  fields = [name for name in config if name not in sections]
  fields += [f'{section}.{name}' for section in sections for name in config[section]]
  if unknown := set(fields) - set(comments):
    raise ValueError(f'{_SOURCE} has no line that assigns {", ".join(sorted(unknown))}')
  lines = []
  for section in ('', *sections):
    lines += [f'## {section or "The experiment"}', '', '| field | default | meaning |', '| --- | --- | --- |']
    for field, comment in comments.items():
      if field in fields and field.rpartition('.')[0] == section:
        meaning = re.sub(r'([<*|_])', r'\\\1', comment)
        lines.append(f'| `config.{field}` | {_default(config, field)} | {meaning} |')
    lines.append('')
  return '\n'.join(lines)


def report_schema() -> str:
  """Returns the JSON schema of report.json as a block of Markdown."""
  return f'```json\n{json.dumps(results.schema(), indent=1)}\n```'


GENERATED = {'<!-- config fields -->': config_fields, '<!-- report schema -->': report_schema}


def on_page_markdown(markdown: str, **_: Any) -> str:
  """Puts the generated parts in the place of their marks."""
  for mark, generate in GENERATED.items():
    if mark in markdown:
      markdown = markdown.replace(mark, generate())
  return markdown
