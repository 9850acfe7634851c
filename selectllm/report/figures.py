"""The figures of a report, drawn from report.json alone."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib.axes
import matplotlib.figure
import matplotlib.ticker
import matplotlib.transforms
import numpy as np

from selectllm import metrics
from selectllm.report import tables

# Colour and style of each method's points, in the order they are drawn. From size to size a fixed subset's latency goes
# up and down: points, not a line. What often coincides stays visible: dashes over a line.
_STYLES = {
  'random': ('#999999', '.-'),
  'max_conf': ('#1f77b4', '.-'),
  'labelled_max_conf': ('#9467bd', '.--'),
  'weighted_max_conf': ('#0b6e4f', '.-'),
  'top_s': ('#d95f02', 'x'),
  'best_s': ('#7a4b00', '+'),
  'knn_top1': ('#c1121f', 'D'),
  'all_llms': ('#c1121f', '*'),
}
_SINGLE = '#444444'
_BLUE = _STYLES['max_conf'][0]
# Above so many subset sizes, colours alone tell how often an LLM is called.
_MOST_NUMBERS = 12


class _Label(NamedTuple):
  """Text beside a point; its offset is in points (1/72 inch)."""

  text: str
  x: float
  y: float
  offset: tuple[float, float]
  colour: str


def _annotate(axes: matplotlib.axes.Axes, labels: list[_Label]) -> None:
  """Writes the labels, but for those that would cover an earlier one."""
  to_points = axes.transData + matplotlib.transforms.Affine2D().scale(72 / axes.figure.dpi)
  kept: list[matplotlib.transforms.Bbox] = []
  for label in labels:
    left, bottom = to_points.transform((label.x, label.y)) + label.offset
    box = matplotlib.transforms.Bbox.from_bounds(left, bottom, 4 * len(label.text), 7)  # about what size 7 takes
    if not any(box.overlaps(other) for other in kept):
      kept.append(box)
      axes.annotate(
        label.text, (label.x, label.y), label.offset, textcoords='offset points', fontsize=7, color=label.colour
      )


def accuracy_and_latency(results: dict[str, Any]) -> matplotlib.figure.Figure:
  """Accuracy against sequential latency: policies by size, single LLMs, and the frontier of them all."""
  kind = results['dataset']['latency']
  across = 'calls' if kind == 'unknown' else 'latency_sequential_s'
  points = [
    (row['name'], row['size'], row[across], 100 * row['accuracy'])
    for row in results['methods']
    if row['name'] != 'oracle' and None not in (row['accuracy'], row[across])
  ]
  figure = matplotlib.figure.Figure(figsize=(10, 5.6), layout='constrained')
  axes = figure.subplots()
  x, y = (np.array(column) for column in list(zip(*points, strict=True))[2:])
  frontier = metrics.pareto(x, y)
  order = np.lexsort((y[frontier], x[frontier]))
  axes.step(
    x[frontier][order], y[frontier][order], where='post', color='#bbbbbb', linewidth=6, alpha=0.45, label='frontier'
  )
  for name, (colour, style) in _STYLES.items():
    if line := [point[2:] for point in points if point[0] == name]:
      size = 10 if style == '*' else 6
      axes.plot(*zip(*line, strict=True), style, color=colour, label=name, linewidth=1.4, markersize=size)
  single = sorted((p for p in points if p[0].startswith('single:')), key=lambda point: -point[3])
  axes.plot(*([point[i] for point in single] for i in (2, 3)), 'o', color=_SINGLE, markersize=4, label='single LLM')
  if (oracle := results['oracle']['accuracy']) is not None:
    axes.axhline(100 * oracle, color='black', linestyle=':', linewidth=1, label=f'oracle {100 * oracle:.1f} %')
  if kind == 'unknown':
    axes.set_xlabel('LLMs called per query')
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
  else:
    axes.set_xscale('log')
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f'{value:g}'))
    axes.set_xlabel(f'LLM latency per query, sum over the called LLMs, seconds ({kind})')
  _annotate(
    axes,
    [
      *(_Label(name.removeprefix('single:'), x, y, (5, 2), _SINGLE) for name, _, x, y in single),
      *(_Label(str(s), x, y, (-2, 5), _STYLES[name][0]) for name, s, x, y in points if name == 'weighted_max_conf'),
      *(_Label(str(s), x, y, (3, -9), _STYLES[name][0]) for name, s, x, y in points if name == 'top_s'),
    ],
  )
  axes.set_ylabel('accuracy on test, %')
  axes.set_title('What accuracy takes (small numbers: subset size s)')
  axes.grid(alpha=0.25)
  figure.legend(fontsize=8, loc='outside right upper')
  return figure


def reliability(results: dict[str, Any]) -> matplotlib.figure.Figure:
  """Confidence against how often it came true, and how many confidences there are of each."""
  bins = results['classifier']['reliability']
  kept = [i for i, count in enumerate(bins['count']) if count]
  confidence, frequency = ([bins[key][i] for i in kept] for key in ('mean_confidence', 'frequency'))
  figure = matplotlib.figure.Figure(figsize=(5.2, 6), layout='constrained')
  top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
  top.plot((0, 1), (0, 1), ':', color='black', linewidth=1)
  top.plot(confidence, frequency, 'o-', color=_BLUE)
  ece = results['classifier']['ece']
  top.set(ylabel='share of right answers', title='Reliability on test' + ('' if ece is None else f' (ECE {ece:.3f})'))
  top.set(xlim=(0, 1), ylim=(0, 1))
  top.grid(alpha=0.25)
  edges = np.linspace(0, 1, len(bins['count']) + 1)
  bottom.bar(edges[:-1], bins['count'], width=np.diff(edges), align='edge', color=_BLUE, alpha=0.6)
  bottom.set(xlabel='confidence', ylabel='pairs')
  return figure


def selection(results: dict[str, Any]) -> matplotlib.figure.Figure:
  """How often each LLM is called, by policy and subset size."""
  llms = results['dataset']['llms']
  names = [name for name in tables.policies(results) if name != 'weighted_max_conf']  # calls the same as max_conf
  sizes = len(results['selected'][names[0]])
  numbers = sizes <= _MOST_NUMBERS
  width = max(1.9, (0.62 if numbers else 0.22) * sizes)
  figure = matplotlib.figure.Figure(
    figsize=(2.5 + width * len(names), 1.4 + (0.34 if numbers else 0.22) * len(llms)), layout='constrained'
  )
  grid = figure.subplots(1, len(names), sharey=True)
  for axes, name in zip(grid, names, strict=True):
    share = 100 * np.array(results['selected'][name]).T  # [K, M]
    image = axes.imshow(share, cmap='YlGnBu', vmin=0, vmax=100, aspect='auto')
    for (row, column), value in np.ndenumerate(share) if numbers else ():
      axes.text(
        column, row, f'{value:.0f}', ha='center', va='center', fontsize=7, color='white' if value > 60 else 'black'
      )
    axes.set_title(name, fontsize=10)
    axes.set_xlabel('subset size s')
    axes.set_xticks(range(sizes), range(1, sizes + 1), fontsize=8 if numbers else 6)
    axes.set_yticks(range(len(llms)), llms, fontsize=8)
  if not numbers:
    figure.colorbar(image, ax=grid, label='%')
  figure.suptitle('How often each LLM is called, % of test queries', fontsize=11)
  return figure


def confusion(results: dict[str, Any]) -> matplotlib.figure.Figure:
  """Predicted against true labels of each LLM: counts, shaded by their share of the true label."""
  matrices = results['classifier']['confusion']
  columns = min(5, len(matrices))
  rows = -(-len(matrices) // columns)
  figure = matplotlib.figure.Figure(figsize=(2.1 * columns, 2.3 * rows + 0.4), layout='constrained')
  for axes in figure.subplots(rows, columns, squeeze=False).flat[len(matrices) :]:
    axes.remove()
  for axes, (llm, matrix) in zip(figure.axes, matrices.items(), strict=True):
    counts = np.array(matrix)
    axes.imshow(counts / np.maximum(counts.sum(1, keepdims=True), 1), cmap='YlGnBu', vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(counts):
      dark = value > 0.6 * counts[row].sum()
      axes.text(column, row, str(value), ha='center', va='center', fontsize=9, color='white' if dark else 'black')
    axes.set_xticks((0, 1), ('wrong', 'right'), fontsize=7)
    axes.set_yticks((0, 1), ('wrong', 'right'), fontsize=7, rotation=90, va='center')
    axes.set_title(llm, fontsize=8)
  figure.supxlabel('predicted', fontsize=9)
  figure.supylabel('true', fontsize=9)
  return figure


FIGURES: dict[str, Callable[[dict[str, Any]], matplotlib.figure.Figure]] = {
  'accuracy_latency': accuracy_and_latency,
  'reliability': reliability,
  'selection': selection,
  'confusion': confusion,
}


def draw(results: dict[str, Any], directory: pathlib.Path) -> None:
  """Draws all figures as PNG files."""
  directory.mkdir(exist_ok=True)
  for name, make in FIGURES.items():
    # Without metadata, so that the same results give the same bytes.
    make(results).savefig(directory / f'{name}.png', dpi=130, metadata={'Software': None})
