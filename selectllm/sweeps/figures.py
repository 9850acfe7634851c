"""Draws the figures of a sweep."""

from collections.abc import Callable, Sequence

import matplotlib.axes
import matplotlib.figure
import matplotlib.ticker
import numpy as np

from selectllm.report import figures
from selectllm.sweeps import results

# Measure -> colour and style of its curve.
_CURVES = {
  'weighted_max_conf, s chosen': ('#0b6e4f', 'o-'),
  'top-1': ('#1f77b4', 'o-'),
  'all LLMs': ('#c1121f', 's--'),
  'best single': ('#444444', 's--'),
  'oracle': ('black', ':'),
}


def gains(axes: Sequence[results.Axis]) -> matplotlib.figure.Figure | None:
  """Draws the gains of every variant over the experiment, with intervals, a panel for each headline."""
  lines: list[tuple[str, results.Row | None]] = []
  for axis in axes:
    if rows := [row for row in axis.rows if any(row.gains.values())]:
      lines += [(f'{axis.name}, against {axis.reference}', None), *((row.variant, row) for row in rows)]
  if not lines:
    return None
  headings = [at for at, (_, row) in enumerate(lines) if row is None]
  panels = [name for name in results.HEADLINES if any(row and row.gains[name] for _, row in lines)]
  figure = matplotlib.figure.Figure(figsize=(3 + 2.8 * len(panels), 1.4 + 0.24 * len(lines)), layout='constrained')
  grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
  for panel, name in zip(grid, panels, strict=True):
    figures.forest(panel, [label for label, _ in lines], [row and row.gains[name] for _, row in lines], headings)
    panel.set_title(name, fontsize=10)
  figure.supxlabel(f'points of accuracy gained, with 95 % interval; {figures.FOREST}', fontsize=9)
  return figure


def _curves(
  title: str, rows: Sequence[results.Row], x: Sequence[int], names: Sequence[str]
) -> tuple[matplotlib.figure.Figure, matplotlib.axes.Axes]:
  """Draws accuracies by name against a number, with a band of one standard deviation over the seeds."""
  figure = matplotlib.figure.Figure(figsize=(7.5, 4.4), layout='constrained')
  axes = figure.subplots()
  for name in names:
    colour, style = _CURVES[name]
    points = [(at, row.measures[name]) for at, row in zip(x, rows, strict=True)]
    known = [(at, 100 * value.mean, 100 * (value.std or 0.0)) for at, value in points if value.mean is not None]
    if not known:
      continue
    at, mean, std = np.array(known).T
    axes.plot(at, mean, style, color=colour, label=name, linewidth=1.4, markersize=4)
    if style.startswith('o'):  # what is trained
      axes.fill_between(at, mean - std, mean + std, color=colour, alpha=0.18, linewidth=0)
  axes.set_ylabel('accuracy on test, %')
  seeds = sorted({len(row.seeds) for row in rows})
  if seeds[-1] > 1:
    title += f' (bands: one standard deviation over {" or ".join(map(str, seeds))} seeds)'
  axes.set_title(title, fontsize=10)
  axes.grid(alpha=0.25)
  figure.legend(fontsize=8, loc='outside right upper')
  return figure, axes


def _rows_of(axes: Sequence[results.Axis], name: str) -> list[results.Row]:
  return [row for axis in axes if axis.name == name for row in axis.rows]


def learning_curve(axes: Sequence[results.Axis]) -> matplotlib.figure.Figure | None:
  """Draws accuracy against the number of training queries."""
  rows = sorted(_rows_of(axes, 'train_share'), key=lambda row: row.queries)
  if len(rows) < 2:
    return None
  varying = [name for name in _CURVES if name != 'oracle']
  figure, panel = _curves('Learning curve', rows, [row.queries for row in rows], varying)
  panel.set_xscale('log')
  panel.set_xticks([row.queries for row in rows], [f'{row.queries:,}' for row in rows])
  panel.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
  panel.set_xlabel('training queries')
  return figure


def pool_size(axes: Sequence[results.Axis]) -> matplotlib.figure.Figure | None:
  """Draws accuracy against the size of the pool, which grows from the best LLM to the worst."""
  rows = sorted(_rows_of(axes, 'pool_size'), key=lambda row: row.llms)
  if len(rows) < 2:
    return None
  figure, panel = _curves('Pool size', rows, [row.llms for row in rows], list(_CURVES))
  panel.set_xticks([row.llms for row in rows])
  panel.set_xlabel('LLMs in the pool, the most accurate on train first')
  return figure


FIGURES: dict[str, Callable[[Sequence[results.Axis]], matplotlib.figure.Figure | None]] = {
  'gains': gains,
  'learning_curve': learning_curve,
  'pool_size': pool_size,
}
