"""Writes the page that lists test queries one by one, queries.html: one file that needs no other."""

import html
import json
import pathlib
from importlib import resources
from typing import Any


def page(title: str, listed: dict[str, Any], template_name: str = 'browser_template.html') -> str:
  """Returns the page as HTML; scripts show texts as text, so nothing in a query can become part of the page.

  Args:
    title: Of the report.
    listed: From `error_analysis.listing`, or what else the template shows.
    template_name: A file beside this one.
  """
  files = resources.files('selectllm.report')
  template, style = ((files / name).read_text(encoding='utf-8') for name in (template_name, 'page.css'))
  template = template.replace('{{style}}\n', style)
  # Nothing in the data can end the script element that holds them; ASCII, so that unpaired surrogates can be written.
  data = json.dumps(listed, ensure_ascii=True, allow_nan=False, separators=(',', ':'))
  for sign in '<>&':
    data = data.replace(sign, f'\\u{ord(sign):04x}')
  before, after = (part.replace('{{title}}', html.escape(title)) for part in template.split('{{data}}'))
  return before + data + after


def write(path: pathlib.Path, title: str, listed: dict[str, Any]) -> None:
  """Writes the page; see `page`."""
  path.write_text(page(title, listed), encoding='utf-8')
