"""Writes the report of a sweep: sweep.md, sweep.csv, sweep.json, figures, and tables on the console."""

import csv
import pathlib
from collections.abc import Sequence
from typing import Any

import msgspec
import rich.console

from selectllm.evaluate import finished_runs, outcomes
from selectllm.evaluate import results as evaluate_results
from selectllm.infra import paths
from selectllm.report import figures as report_figures
from selectllm.report import tables
from selectllm.sweeps import figures, plan, results

_SIZED = ('max_conf', 'labelled_max_conf', 'weighted_max_conf', 'top_s', 'static_weighted', 'best_s', 'random')
# Headline -> column.
_ON_CONSOLE = {'weighted_max_conf': 's chosen %', 'top-1': 'top-1 %'}
# The axis that the policies and sizes of the experiment itself are, in sweep.csv.
_POLICY_AND_SIZE = 'policy and size'
_AS_THEY_ARE = ('AUROC, validation', 'weighted F1', 'AUROC', 'ECE')


def _cell(name: str, value: results.Measured) -> str:
  """Returns mean ± standard deviation: shares as percent, others as they are."""
  if value.mean is None:
    return '-'
  scale, digits = (1, 3) if name in _AS_THEY_ARE else (1, 1) if name == 'minutes' else (100, 1)
  spread = '' if value.std is None or name == 'minutes' else f' ± {scale * value.std:.{digits}f}'
  return f'{scale * value.mean:.{digits}f}{spread}'


def _name(row: results.Row) -> str:
  return f'{row.variant} (base)' if row.is_base and row.variant != plan.BASE else row.variant


def measures_table(axis: results.Axis) -> tables.Table:
  """Tabulates every measure of every variant."""
  names = list(axis.rows[0].measures)
  header = [name if name in (*_AS_THEY_ARE, 'minutes') else f'{name} %' for name in names]
  rows = [[_name(row), str(len(row.seeds)), *(_cell(name, row.measures[name]) for name in names)] for row in axis.rows]
  return tables.Table([axis.name or 'experiment', 'seeds', *header], rows)


def _gain_cells(found: evaluate_results.Comparison | None) -> list[str]:
  return [tables.gain(found), tables.gain_interval(found)]


def gains_table(axis: results.Axis) -> tables.Table:
  """Tabulates the gains of every variant over the reference, in points, with intervals."""
  header = [text for name in results.HEADLINES for text in (f'{name}, points', '95 % interval')]
  rows = [
    [row.variant, *(cell for name in results.HEADLINES for cell in _gain_cells(row.gains[name]))]
    for row in axis.rows
    if any(row.gains.values())
  ]
  return tables.Table([f'gained over {axis.reference}', *header], rows)


def policies_table(runs: Sequence[finished_runs.Run]) -> tables.Table:
  """Tabulates the accuracy of policies and fixed choices by subset size, over the seeds of the experiment itself."""
  count = max(len(run.results.dataset.llms) for run in runs)
  rows = []
  for size in (*range(1, count + 1), outcomes.CHOSEN):
    cells = [results.summary([results.accuracy(run, name, size) for run in runs]) for name in _SIZED]
    if any(cell.mean is not None for cell in cells):
      rows.append([_size(size), *(_cell('', cell) for cell in cells)])
  return tables.Table(['s', *(f'{name} %' for name in _SIZED)], rows)


def choices_table(choices: Sequence[results.Choice]) -> tables.Table:
  """Tabulates the gains of every policy at every size over the first policy at the size chosen for it."""
  by_key = {(choice.policy, choice.size): choice.gain for choice in choices}
  names = list(dict.fromkeys(choice.policy for choice in choices))
  rows = [
    [_size(size), *(cell for name in names for cell in _gain_cells(by_key.get((name, size))))]
    for size in sorted({choice.size for choice in choices}, key=lambda size: (size == outcomes.CHOSEN, size))
  ]
  header = [text for name in names for text in (f'{name}, points', '95 % interval')]
  return tables.Table([f'gained over {names[0]}, s chosen; s', *header], rows)


def _size(size: int) -> str:
  return 'chosen' if size == outcomes.CHOSEN else str(size)


_EXPLANATION = """\
Accuracies are on the test queries, mean ± standard deviation over seeds, with policies at the subset size chosen on
validation, `weighted_max_conf` at s=3, and the single most confident LLM (top-1). Choose between variants by the
validation columns; the test columns then measure the choice. *Minutes* are those of the run itself: runs that
share a classifier only evaluate.

Gains are in points on the same queries: every query's correctness is averaged over the seeds that both variants
finished. A gain whose 95 % interval holds 0, which is where a paired test has p >= 0.05, is *not resolved*. Intervals
and p-values are of one comparison; *not after Holm* is what is no longer resolved once corrected for the number of
variants on the axis (the policies and sizes of the experiment itself are one axis). Seeds change what training draws,
not the split. Intervals and tests are about other queries, not about other trainings: they hold for these trained
classifiers, and the standard deviation over seeds says how much training itself varies.
"""


def markdown(
  axes: list[results.Axis],
  base: Sequence[finished_runs.Run],
  choices: Sequence[results.Choice],
  missing: dict[str, str],
  drawn: Sequence[str],
) -> str:
  """Returns the sweep as Markdown."""
  title = f'# Sweep of {base[0].results.dataset.title}\n' if base else '# Sweep\n'
  sections = [title]
  if missing:
    sections += [f'**Missing runs: {len(missing)}**\n', '\n'.join(f'- {run}: {why}' for run, why in missing.items())]
    sections[-1] += '\n'
  sections.append(_EXPLANATION)
  sections += [f'![{name}]({name}.png)\n' for name in drawn]
  if base:
    sections += ['## Policy and subset size\n', policies_table(base).markdown(), choices_table(choices).markdown()]
  for axis in axes:
    if not axis.rows:
      continue
    sections += [f'## {axis.name or "The experiment"}\n', measures_table(axis).markdown()]
    gains = gains_table(axis)
    sections += [gains.markdown()] if gains.rows else []
  return '\n'.join(sections)


def _write_csv(path: pathlib.Path, axes: list[results.Axis], choices: Sequence[results.Choice]) -> None:
  """Writes a line for each variant and measure, policies and sizes among the variants; gains where there are some."""
  with path.open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(
      ['axis', 'variant', 'seeds', 'measure', 'mean', 'std', 'gain', 'gain_low', 'gain_high', 'p', 'p_holm']
    )
    for axis in axes:
      for row in axis.rows:
        gains = {_measure_of(name): gain for name, gain in row.gains.items()}
        for name, value in row.measures.items():
          writer.writerow([axis.name, row.variant, len(row.seeds), name, *value, *_compared(gains.get(name))])
    for choice in choices:
      variant = f'{choice.policy}, s={_size(choice.size)}'
      writer.writerow([_POLICY_AND_SIZE, variant, choice.seeds, 'accuracy', *choice.accuracy, *_compared(choice.gain)])


def _compared(found: evaluate_results.Comparison | None) -> list[Any]:
  return [''] * 5 if found is None else [found.delta, *found.ci, found.p, found.p_holm]


def _measure_of(headline: str) -> str:
  return f'{headline}, s chosen' if results.HEADLINES[headline][1] == outcomes.CHOSEN else headline


def _choice_as_json(choice: results.Choice) -> dict[str, Any]:
  return {**choice._asdict(), 'accuracy': choice.accuracy._asdict(), 'gain': msgspec.to_builtins(choice.gain)}


def _as_json(axis: results.Axis) -> dict[str, Any]:
  rows = []
  for row in axis.rows:
    gains = msgspec.to_builtins(row.gains)
    measured = {name: value._asdict() for name, value in row.measures.items()}
    rows.append({**row._asdict(), 'measures': measured, 'gains': gains})
  return {'axis': axis.name, 'reference': axis.reference, 'variants': rows}


def _console(axes: list[results.Axis]) -> None:
  """Prints the columns that fit a terminal."""
  console = rich.console.Console()
  for axis in filter(lambda axis: axis.rows, axes):
    cells = []
    for row in axis.rows:
      cells.append([_name(row), str(len(row.seeds))])
      for name in _ON_CONSOLE:
        cells[-1] += [_cell(name, row.measures[_measure_of(name)]), tables.gain(row.gains[name])]
    header = [axis.name or 'experiment', 'seeds', *(text for name in _ON_CONSOLE.values() for text in (name, 'gain'))]
    console.print(tables.Table(header, cells).rich(''))


def write(sweep: plan.Plan, workdir: pathlib.Path, failed: dict[str, str]) -> dict[str, str]:
  """Writes sweep.md, sweep.csv, sweep.json and figures of what has finished, and shows the tables on the console.

  Args:
    sweep: The plan.
    workdir: Where its runs are, and where this goes.
    failed: Why runs failed, by name.

  Returns:
    Why runs are missing in all of this, by name.

  Raises:
    ValueError: when no run has finished, or runs cannot stand in one table, see `results.load`.
  """
  runs, missing = results.load(sweep, workdir, failed)
  if not runs:
    raise ValueError(f'no run of this sweep has finished in {workdir}; there is nothing to report')
  axes = results.collect(sweep, runs)
  base = {sweep.runs[name].config.seed: runs[name] for name in sweep.base if name in runs}
  choices = results.choices(base) if base else []
  drawn = []
  for name, make in figures.FIGURES.items():
    if figure := make(axes):
      report_figures.save(figure, workdir / f'{name}.png')
      drawn.append(name)
  with paths.atomic_write(workdir / 'sweep.md') as partial:
    partial.write_text(markdown(axes, list(base.values()), choices, missing, drawn), encoding='utf-8')
  with paths.atomic_write(workdir / 'sweep.csv') as partial:
    _write_csv(partial, axes, choices)
  found = {'axes': [_as_json(axis) for axis in axes], 'policies_and_sizes': [_choice_as_json(each) for each in choices]}
  plan.save(sweep, workdir, **found, missing=missing)
  _console(axes)
  if missing:
    print(f'Missing runs: {len(missing)} of {len(sweep.runs)}')
  print(f'Sweep: {workdir / "sweep.md"}')
  return missing
