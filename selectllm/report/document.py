"""The written report: report.json, report.md, the figures, and a table on the console."""

import json
import pathlib
from typing import Any

import rich.console

from selectllm.report import figures, tables

# Accuracies of one LLM that differ by more between splits (in points) hint at data that it has seen.
SHIFT_POINTS = 10


def title(results: dict[str, Any]) -> str:
  """Data set, pool, queries, and where responses and latencies come from."""
  dataset = results['dataset']
  tested = f'{dataset["queries_per_split"]["test"]:,} test queries'
  if dataset['folds']:
    tested += f' in {dataset["folds"]} folds'
  return (
    f'{dataset["name"]}: {len(dataset["llms"])} LLMs, {tested} of {dataset["queries"]:,}, '
    f'{dataset["responses"]} responses, {dataset["latency"]} latencies'
  )


def warnings(results: dict[str, Any]) -> list[str]:
  """What a reader should know before believing the numbers."""
  found = []
  if asked_for := results['dataset']['in_place_of']:
    found.append(
      f'{asked_for} could be neither found nor downloaded: all of this is about {results["dataset"]["name"]}, '
      'which ships with selectllm; its own config is configs/mini.py, its pool file configs/pools/mini.yaml.'
    )
  found += results['dataset']['notes']
  if truncated := results['dataset']['truncated']:
    found.append(f'{truncated} queries were longer than the encoder reads; their ends were cut off.')
  for llm, row in results['llms'].items():
    known = {
      part: row['accuracy'][part] for part in ('train', 'validation', 'test') if row['accuracy'][part] is not None
    }
    if known and 100 * (max(known.values()) - min(known.values())) > SHIFT_POINTS:
      shares = ', '.join(f'{part} {tables.percent(value)}' for part, value in known.items())
      found.append(f'{llm} differs by more than {SHIFT_POINTS} points between splits: {shares} %.')
  if results['dataset']['latency'] == 'estimated':
    found.append('Latencies are estimates from response lengths and model sizes; nobody measured them.')
    if assumed := results['dataset']['sizes_assumed']:
      found.append(f'The sizes of {", ".join(assumed)} are not published but assumed; so are their latencies.')
  if all(row['cost_usd'] is None for row in results['llms'].values()):
    found.append('No prices are known, so no costs are shown.')
  return found


def _verdict(row: dict[str, Any], reference: str, name: str) -> str:
  comparison = row['versus'][reference]
  if comparison is None:
    return ''
  points, p = 100 * comparison['delta'], comparison['p']
  if p > tables.SIGNIFICANT:
    return f'a tie with {name} ({points:+.1f} points, p={p:.2g})'
  return f'{"better" if points > 0 else "worse"} than {name} by {abs(points):.1f} points (p={p:.1g})'


def summary(results: dict[str, Any]) -> list[str]:
  """The findings in plain words, one sentence each."""
  by_name = {row['name']: row for row in tables.headline_rows(results)}
  lines = [
    f'**{name}** answers {tables.percent(by_name[name]["accuracy"])} % of the test queries right.'
    for name in [*results['best_single'], 'all_llms', 'oracle']
    if name in by_name
  ]
  whole = by_name.get('all_llms')
  for policy in tables.policies(results):
    row = by_name[policy]
    verdicts = [
      _verdict(row, 'best_single', 'the best single LLM'),
      _verdict(row, 'all_llms', 'the vote of all LLMs'),
      _verdict(row, 'top_s', 'as many of the most accurate LLMs'),
      _verdict(row, 'best_s', 'the best subset of that size'),
    ]
    share = ''
    if whole and row['latency_sequential_s'] is not None and whole['latency_sequential_s']:
      share = f' and {100 * row["latency_sequential_s"] / whole["latency_sequential_s"]:.0f} % of its summed latency'
    calls = f'{row["calls"]:.1f} calls' + (f' instead of {whole["calls"]:.1f}{share}' if whole else '')
    lines.append(
      f'**{policy}** (s={tables.size_of(row)}, chosen on validation) answers {tables.percent(row["accuracy"])} % right '
      f'with {calls}: {"; ".join(filter(None, verdicts))}.'
    )
  return lines


_EXPLANATION = """\
*Accuracy* is the share of test queries whose elected answer is right, with a 95 % bootstrap interval over queries.
*Seconds*: parallel waits for the slowest called LLM, sequential asks one after the other; both include the
classifier's own {own} s (measured here, one query at a time) where it takes part. *s* is the subset size; in this
table policies and subsets have the size that was most accurate on validation. *vs* columns give points gained on the
same queries (`top_s` at the same size); a difference that a paired test finds inside the noise (p > {significant}) is
a tie. The *oracle* is right when any LLM is. `top_s` asks the s LLMs most accurate on train, `best_s` the subset of
size s whose vote was most accurate on train and validation, `random` any s, `knn_top1` the LLM most often right on the
{neighbours} most similar training queries. *Missing* responses are left out; an answer that could not be extracted is
wrong.
"""


def markdown(results: dict[str, Any]) -> str:
  """The report as Markdown."""
  explanation = _EXPLANATION.format(
    own=tables.seconds(results['timing']['classifier_latency_s']),
    significant=tables.SIGNIFICANT,
    neighbours=' or '.join(str(n) for n in sorted(set(results['knn_neighbours']))),
  )
  found = warnings(results)
  sections = [
    f'# {title(results)}\n',
    '\n'.join(f'- {line}' for line in summary(results)) + '\n',
    *(['**Note**\n', '\n'.join(f'- {line}' for line in found) + '\n'] if found else []),
    tables.methods_table(tables.headline_rows(results), results).markdown(),
    explanation,
    '## What the policies gain\n',
    'Over fixed choices on the same queries (`top_s`, `best_s`: of the same size), with 95 % bootstrap intervals.\n',
    tables.gains_table(results).markdown(),
    '![Accuracy against latency](figures/accuracy_latency.png)\n',
    *([tables.trade_off_table(results).markdown()] if results['trade_off'] else []),
    '## The LLMs\n',
    tables.llms_table(results).markdown(),
    '## The classifier\n',
    tables.classifier_table(results).markdown(),
    '![Reliability](figures/reliability.png)\n',
    '![Confusion of predicted and true labels](figures/confusion.png)\n',
    '## Who is called\n',
    '![How often each LLM is called](figures/selection.png)\n',
    '## Every method at every size\n',
    tables.methods_table(results['methods'], results).markdown(),
  ]
  return '\n'.join(sections)


def write(workdir: pathlib.Path, results: dict[str, Any]) -> None:
  """Writes the report into the run directory and shows its main table on the console.

  Args:
    workdir: Takes report.json, report.md and figures/.
    results: From `evaluate.evaluate`, with `timing`.
  """
  (workdir / 'report.json').write_text(json.dumps(results, indent=1, allow_nan=False) + '\n')
  (workdir / 'report.md').write_text(markdown(results), encoding='utf-8')
  figures.draw(results, workdir / 'figures')
  console = rich.console.Console()
  console.print(tables.console_table(results).rich(title(results)))
  for line in warnings(results):
    console.print(f'[yellow]Note:[/] {line}', highlight=False)
  console.print(f'Report: {workdir / "report.md"}', highlight=False)
