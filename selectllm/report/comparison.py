"""Writes the report of a comparison of runs: comparison.json, comparison.md, a figure, and a table on the console."""

import json
import pathlib

import matplotlib.figure
import msgspec
import rich.console
import rich.markup

from selectllm.evaluate import comparison, results
from selectllm.infra import paths
from selectllm.report import figures, tables


def _p(value: float | None) -> str:
  """Returns a p-value for a column that says what it is."""
  return tables.p_value(value).removeprefix('p').removeprefix('=')


def title(found: comparison.Comparison) -> str:
  """Returns which runs are compared with which, on how many queries."""
  first, *others = (run.name for run in found.runs)
  whom = others[0] if len(others) == 1 else f'{len(others)} runs'
  return f'{whom} against {first} on {found.shared_queries:,} shared queries'


def _same(method: comparison.ComparedMethod) -> bool:
  """Returns whether all runs have the method, and it answers alike in all of them."""
  first, *others = method.runs
  return first is not None and all(
    row is not None and row.gain is not None and row.sizes == first.sizes and not row.gain.differ for row in others
  )


def methods_table(found: comparison.Comparison) -> tables.Table:
  """Tabulates every method in every run that has it, and the gain of the run over the first one."""
  corrected = len(found.runs) > 2
  names = [run.name for run in found.runs]
  cells = []
  for method in found.methods:
    for name, row in [('all the same', method.runs[0])] if _same(method) else zip(names, method.runs, strict=True):
      if row is None:
        continue
      compared = ['-'] * (3 + corrected)
      if gain := row.gain:
        compared = [tables.gain(gain), tables.gain_interval(gain), _p(gain.p)]
        compared += [_p(gain.p_holm)] * corrected
      accuracy = [tables.percent(row.accuracy), tables.interval(row.accuracy_ci)]
      cells.append([method.name, name, tables.joined(row.sizes) or '-', *accuracy, *compared])
  header = ['method', 'run', 's', 'accuracy %', '95 % interval', 'gain, points', 'its 95 % interval', 'p']
  return tables.Table([*header, *(["p, Holm's"] * corrected)], cells)


def console_table(found: comparison.Comparison) -> tables.Table:
  """Returns the columns of the table that fit a terminal."""
  return methods_table(found).columns((0, 1, 2, 3, 5))


def runs_table(found: comparison.Comparison) -> tables.Table:
  """Tabulates the compared runs."""
  rows = [[run.name, run.path, run.title, f'{run.tested:,}', f'{found.shared_queries:,}'] for run in found.runs]
  return tables.Table(['run', 'directory', 'data set', 'tested', 'of these shared'], rows)


def differences_table(found: comparison.Comparison) -> tables.Table:
  """Tabulates the fields of config and data that differ, with every run's value."""
  rows = [[field, *map(str, values)] for field, values in found.differences.items()]
  return tables.Table(['field', *(run.name for run in found.runs)], rows)


def gains(found: comparison.Comparison) -> matplotlib.figure.Figure:
  """Draws the gain of every run over the first, policy by policy, with intervals."""
  first, *others = found.runs
  lines: list[tuple[str, results.Comparison | None]] = []
  for method in found.methods:
    if method.name.partition(',')[0] in found.policies:
      lines.append((method.name, None))
      lines += [(run.name, row.gain) for run, row in zip(others, method.runs[1:], strict=True) if row and row.gain]
  figure = matplotlib.figure.Figure(figsize=(7.5, 1.2 + 0.26 * len(lines)), layout='constrained')
  axes = figure.subplots()
  names, points = zip(*lines, strict=True)
  figures.forest(axes, names, points, [at for at, gain in enumerate(points) if gain is None])
  axes.set_xlabel(f'points of accuracy, with 95 % interval; {figures.FOREST}')
  axes.set_title(f'Gain over {first.name} on {found.shared_queries:,} shared queries', fontsize=10)
  return figure


_EXPLANATION = """\
*Accuracy* and *gain* are over the queries that all runs tested, with 95 % intervals over these queries. A *gain* is
over {first} on the same queries; one whose interval holds 0, which is where a paired test has p >= 0.05, is *not
resolved*.
{corrected}*s* is the subset size: without a number behind its name, a method has the size that was most accurate on
validation in the run (in each of its folds). A method that answers every query alike in all runs is listed once.
"""
_CORRECTED = """\
Intervals and p-values are of one comparison; *not after Holm* is said of what is no longer resolved once corrected for
the comparison of {tests} runs, method by method.
"""


def markdown(found: comparison.Comparison) -> str:
  """Returns the comparison as Markdown."""
  tests = len(found.runs) - 1
  explanation = _EXPLANATION.format(
    first=found.runs[0].name,
    corrected=_CORRECTED.format(tests=tests) if tests > 1 else '',
  )
  different = differences_table(found).markdown() if found.differences else 'Nothing in their configs or data.\n'
  sections = [
    f'# {title(found)}\n',
    runs_table(found).markdown(),
    *(['**Note**\n', '\n'.join(f'- {line}' for line in found.warnings) + '\n'] if found.warnings else []),
    methods_table(found).markdown(),
    explanation,
    '![Gains over the first run](figures/comparison.png)\n',
    '## Differences between the runs\n',
    different,
  ]
  return '\n'.join(sections)


def write(workdir: pathlib.Path, found: comparison.Comparison) -> None:
  """Writes the comparison and shows its tables on the console.

  Args:
    workdir: Takes comparison.json, comparison.md and figures/comparison.png; made where needed.
    found: From `comparison.compare_runs`.
  """
  (workdir / 'figures').mkdir(parents=True, exist_ok=True)
  with paths.atomic_write(workdir / 'comparison.json') as partial:
    partial.write_text(json.dumps(msgspec.to_builtins(found), indent=1, allow_nan=False) + '\n')
  (workdir / 'comparison.md').write_text(markdown(found), encoding='utf-8')
  figures.save(gains(found), workdir / 'figures' / 'comparison.png')
  console = rich.console.Console()
  console.print(console_table(found).rich(title(found)))
  if found.differences:
    console.print(differences_table(found).rich('Differences between the runs'))
  for line in found.warnings:
    console.print('[yellow]Note:[/]', rich.markup.escape(line), highlight=False)
  console.print(f'Comparison: {workdir / "comparison.md"}', highlight=False, markup=False)
