"""Shows which right answers may have been overlooked: a table, some examples, and a page to go through by hand."""

import json
import pathlib
from typing import Any

import msgspec
import rich.console
import rich.text

from selectllm.evaluate import overlooked, results
from selectllm.infra import paths
from selectllm.report import browser, tables

# Of each LLM so many are shown on the console.
_EXAMPLES = 3


def write(
  workdir: pathlib.Path, title: str, found: dict[str, results.Overlooked], listed: list[dict[str, Any]]
) -> None:
  """Writes grade_audit.json and grade_audit.html, and shows the shares with a few examples.

  Args:
    workdir: Takes the files.
    title: The data set's.
    found: LLM -> from `overlooked.summarise`.
    listed: From `overlooked.listing`.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  with paths.atomic_write(workdir / 'grade_audit.json') as partial:
    summary = {'title': title, 'llms': msgspec.to_builtins(found), 'listed': listed}
    partial.write_text(json.dumps(summary, indent=1, ensure_ascii=True), encoding='utf-8')
  shares = {llm: [one.wrong, tables.percent(one.share), tables.interval(one.share_ci)] for llm, one in found.items()}
  page = browser.page(title, {'llms': shares, 'cases': listed}, 'grade_audit_template.html')
  with paths.atomic_write(workdir / 'grade_audit.html') as partial:
    partial.write_text(page, encoding='utf-8')
  console = rich.console.Console(width=160)
  console.print(table(found).rich(f'{title}: references in the last sentence of responses that were graded wrong'))
  for llm in found:
    for case in [case for case in listed if case['llm'] == llm][:_EXAMPLES]:
      read = 'nothing' if case['read'] is None else case['read']
      line = f'{llm}, {case["id"]}: {" or ".join(case["references"])} is right, {read} was read of: {case["sentence"]}'
      console.print(rich.text.Text(line))
  for warning in filter(None, (overlooked.warning(llm, one) for llm, one in found.items())):
    console.print(rich.text.Text(f'Warning: {warning}'))
  console.print(rich.text.Text(f'Written: {workdir / "grade_audit.html"}'))


def table(found: dict[str, results.Overlooked]) -> tables.Table:
  """Tabulates the shares."""
  rows = [
    [
      llm,
      f'{one.wrong:,}',
      f'{round(one.wrong * (one.share or 0)):,}',
      tables.with_interval(one.share, one.share_ci),
    ]
    for llm, one in found.items()
  ]
  return tables.Table(['LLM', 'graded wrong', 'reference in the last sentence', '% of them'], rows)
