"""The report of a comparison of runs: comparison.json, comparison.md, a figure, and a table on the console."""

import json
import pathlib
from typing import Any

import matplotlib.figure
import rich.console

from selectllm.report import figures, tables


def _interval(ci: list[float]) -> str:
  return ' to '.join(f'{100 * bound:+.1f}' for bound in ci)


def _p(value: float) -> str:
  return '<0.001' if value < 0.001 else f'{value:.2g}'


def title(found: dict[str, Any]) -> str:
  """How many runs, against which, on how many queries."""
  first, *others = (run['name'] for run in found['runs'])
  whom = others[0] if len(others) == 1 else f'{len(others)} runs'
  return f'{whom} against {first} on {found["shared_queries"]:,} shared queries'


def _same(method: dict[str, Any]) -> bool:
  """Whether all runs have the method, and it answers alike in all of them."""
  first, *others = method['runs']
  return first is not None and all(
    row and row['gain'] and row['sizes'] == first['sizes'] and row['gain']['ci'] == [0, 0] for row in others
  )


def methods_table(found: dict[str, Any]) -> tables.Table:
  """Every method in every run that has it, and what the run gains over the first one."""
  corrected = len(found['runs']) > 2
  names = [run['name'] for run in found['runs']]
  cells = []
  for method in found['methods']:
    rows = [('all the same', method['runs'][0])] if _same(method) else zip(names, method['runs'], strict=True)
    for name, row in rows:
      if row is None:
        continue
      interval = ' to '.join(tables.percent(bound) for bound in row['accuracy_ci'])
      compared = ['-'] * (3 + corrected)
      if gain := row['gain']:
        compared = [tables.gain(gain['delta'], gain['p_holm']), _interval(gain['ci']), _p(gain['p'])]
        compared += [_p(gain['p_holm'])] * corrected
      sizes = ', '.join(map(str, row['sizes'])) or '-'
      cells.append([method['name'], name, sizes, tables.percent(row['accuracy']), interval, *compared])
  header = ['method', 'run', 's', 'accuracy %', '95 % interval', 'gain, points', 'its 95 % interval', 'p']
  return tables.Table([*header, *(["p, Holm's"] * corrected)], cells)


def console_table(found: dict[str, Any]) -> tables.Table:
  """What of the table fits a terminal."""
  table, kept = methods_table(found), (0, 1, 2, 3, 5)
  return tables.Table([table.header[i] for i in kept], [[cells[i] for i in kept] for cells in table.rows])


def runs_table(found: dict[str, Any]) -> tables.Table:
  """Which runs these are."""
  rows = [
    [run['name'], run['path'], run['title'], f'{run["tested"]:,}', f'{found["shared_queries"]:,}']
    for run in found['runs']
  ]
  return tables.Table(['run', 'directory', 'what', 'tested', 'of these shared'], rows)


def differences_table(found: dict[str, Any]) -> tables.Table:
  """The fields of config and data that differ, with every run's value."""
  rows = [[field, *map(str, values)] for field, values in found['differences'].items()]
  return tables.Table(['field', *(run['name'] for run in found['runs'])], rows)


def gains(found: dict[str, Any]) -> matplotlib.figure.Figure:
  """What every run gains over the first, policy by policy, with intervals; grey where it is a tie."""
  first, *others = found['runs']
  lines: list[tuple[str, dict[str, Any] | None]] = []
  for method in found['methods']:
    if method['name'].partition(',')[0] in found['policies']:
      lines.append((method['name'], None))
      lines += [
        (run['name'], row['gain'])
        for run, row in zip(others, method['runs'][1:], strict=True)
        if row is not None and row['gain']
      ]
  figure = matplotlib.figure.Figure(figsize=(7.5, 1.2 + 0.26 * len(lines)), layout='constrained')
  axes = figure.subplots()
  points = [
    None if gain is None else figures.Gain(gain['delta'], gain['ci'], gain['p_holm'] > tables.SIGNIFICANT)
    for _, gain in lines
  ]
  figures.forest(axes, points, [place for place, gain in enumerate(points) if gain is None])
  axes.set_yticks(range(len(lines)), [name for name, _ in lines], fontsize=8)
  for label, (_, gain) in zip(axes.get_yticklabels(), lines, strict=True):
    label.set_fontweight('bold' if gain is None else 'normal')
  axes.set_xlabel('points of accuracy, with 95 % interval; hollow and grey: a tie')
  axes.set_title(f'Gain over {first["name"]} on {found["shared_queries"]:,} shared queries', fontsize=10)
  return figure


_EXPLANATION = """\
*Accuracy* and *gain* are over the queries that all runs tested, with 95 % bootstrap intervals over these queries. A
*gain* is over {first} on the same queries; one that a paired test finds inside the noise (p > {significant}) is a tie.
{corrected}*s* is the subset size: without a number behind its name, a method has the size that was most accurate on
validation in the run (in each of its folds). A method that answers every query alike in all runs stands there once.
"""
_CORRECTED = """\
The p-value beside a gain, which makes it a tie or not, is corrected (Holm) for there being {tests} runs to compare,
method by method; `p` is the test's own.
"""


def markdown(found: dict[str, Any]) -> str:
  """The comparison as Markdown."""
  tests = len(found['runs']) - 1
  explanation = _EXPLANATION.format(
    first=found['runs'][0]['name'],
    significant=tables.SIGNIFICANT,
    corrected=_CORRECTED.format(tests=tests) if tests > 1 else '',
  )
  different = differences_table(found).markdown() if found['differences'] else 'Nothing in their configs or data.\n'
  sections = [
    f'# {title(found)}\n',
    runs_table(found).markdown(),
    *(['**Note**\n', '\n'.join(f'- {line}' for line in found['warnings']) + '\n'] if found['warnings'] else []),
    methods_table(found).markdown(),
    explanation,
    '![Gains over the first run](figures/comparison.png)\n',
    '## What differs\n',
    different,
  ]
  return '\n'.join(sections)


def write(workdir: pathlib.Path, found: dict[str, Any]) -> None:
  """Writes the comparison and shows its tables on the console.

  Args:
    workdir: Takes comparison.json, comparison.md and figures/comparison.png; made where needed.
    found: From `compare.comparison`.
  """
  (workdir / 'figures').mkdir(parents=True, exist_ok=True)
  (workdir / 'comparison.json').write_text(json.dumps(found, indent=1, allow_nan=False) + '\n')
  (workdir / 'comparison.md').write_text(markdown(found), encoding='utf-8')
  figures.save(gains(found), workdir / 'figures' / 'comparison.png')
  console = rich.console.Console()
  console.print(console_table(found).rich(title(found)))
  if found['differences']:
    console.print(differences_table(found).rich('What differs'))
  for line in found['warnings']:
    console.print(f'[yellow]Note:[/] {line}', highlight=False)
  console.print(f'Comparison: {workdir / "comparison.md"}', highlight=False)
