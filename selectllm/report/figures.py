"""The figures of a report, drawn from report.json alone."""

import pathlib
from collections.abc import Callable
from typing import Any

import matplotlib.figure
import numpy as np

from selectllm import metrics
from selectllm.report import tables

_COLOURS = {
  'weighted_max_conf': '#0b6e4f',
  'max_conf': '#1f77b4',
  'labelled_max_conf': '#9467bd',
  'top_s': '#d95f02',
  'best_s': '#a6611a',
  'random': '#999999',
}


def _x(row: dict[str, Any]) -> float:
  """Where a method stands on the latency axis; calls where no latency is known."""
  return row['calls'] if row['latency_sequential_s'] is None else row['latency_sequential_s']


def accuracy_and_latency(results: dict[str, Any]) -> matplotlib.figure.Figure:
  """Accuracy against sequential latency: policies by size, single LLMs, and the frontier of them all."""
  figure = matplotlib.figure.Figure(figsize=(9, 5.6), layout='constrained')
  axes = figure.subplots()
  rows = [row for row in results['methods'] if row['accuracy'] is not None and row['name'] != 'oracle']
  for name, colour in _COLOURS.items():
    line = [row for row in rows if row['name'] == name]
    x, y = [_x(row) for row in line], [100 * row['accuracy'] for row in line]
    # From size to size a fixed subset's latency goes up and down: points, not a line.
    style = 'x' if name in ('top_s', 'best_s') else '.-'
    axes.plot(x, y, style, color=colour, label=name, linewidth=1.4, markersize=6)
    if name in ('weighted_max_conf', 'top_s'):
      for row, left, top in zip(line, x, y, strict=True):
        axes.annotate(str(row['size']), (left, top), (3, -9), textcoords='offset points', fontsize=7, color=colour)
  for row in rows:
    if row['name'].startswith('single:'):
      axes.plot(_x(row), 100 * row['accuracy'], 'o', color='#444444', markersize=4)
      label = row['name'].removeprefix('single:')
      axes.annotate(label, (_x(row), 100 * row['accuracy']), (5, 2), textcoords='offset points', fontsize=7)
    elif row['name'] in ('all_llms', 'knn_top1'):
      marker = '*' if row['name'] == 'all_llms' else 'D'
      axes.plot(
        _x(row),
        100 * row['accuracy'],
        marker,
        color='#c1121f',
        label=row['name'],
        markersize=10 if marker == '*' else 6,
      )
  best = metrics.pareto(np.array([_x(row) for row in rows]), np.array([row['accuracy'] for row in rows]))
  frontier = sorted((_x(row), 100 * row['accuracy']) for row, on in zip(rows, best, strict=True) if on)
  axes.step(
    *zip(*frontier, strict=True), where='post', color='#bbbbbb', linewidth=6, alpha=0.45, zorder=0, label='frontier'
  )
  if (oracle := results['oracle']['accuracy']) is not None:
    axes.axhline(100 * oracle, color='black', linestyle=':', linewidth=1)
    axes.annotate(f'oracle {100 * oracle:.1f}', (0.01, 100 * oracle), (0, -10), xycoords=('axes fraction', 'data'),
                  textcoords='offset points', fontsize=8)  # fmt: skip
  kind = results['dataset']['latency']
  if kind == 'unknown':
    axes.set_xlabel('LLMs called per query')
  else:
    axes.set_xscale('log')
    axes.set_xlabel(f'LLM latency per query, sum over the called LLMs, seconds ({kind})')
  axes.set_ylabel('accuracy on test, %')
  axes.set_title('What accuracy takes (small numbers: subset size s)')
  axes.grid(alpha=0.25)
  axes.legend(fontsize=8, loc='lower right')
  return figure


def reliability(results: dict[str, Any]) -> matplotlib.figure.Figure:
  """Confidence against how often it came true, and how many confidences there are of each."""
  bins = results['classifier']['reliability']
  kept = [i for i, count in enumerate(bins['count']) if count]
  confidence, frequency = ([bins[key][i] for i in kept] for key in ('mean_confidence', 'frequency'))
  figure = matplotlib.figure.Figure(figsize=(5.2, 6), layout='constrained')
  top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
  top.plot((0, 1), (0, 1), ':', color='black', linewidth=1)
  top.plot(confidence, frequency, 'o-', color=_COLOURS['max_conf'])
  ece = results['classifier']['ece']
  top.set(ylabel='share of right answers', title='Reliability on test' + ('' if ece is None else f' (ECE {ece:.3f})'))
  top.set(xlim=(0, 1), ylim=(0, 1))
  top.grid(alpha=0.25)
  edges = np.linspace(0, 1, len(bins['count']) + 1)
  bottom.bar(edges[:-1], bins['count'], width=np.diff(edges), align='edge', color=_COLOURS['max_conf'], alpha=0.6)
  bottom.set(xlabel='confidence', ylabel='pairs')
  return figure


def selection(results: dict[str, Any]) -> matplotlib.figure.Figure:
  """How often each LLM is called, by policy and subset size."""
  llms = results['dataset']['llms']
  names = [name for name in tables.POLICIES if name != 'weighted_max_conf']  # which calls the same LLMs as max_conf
  sizes = len(results['selected'][names[0]])
  figure = matplotlib.figure.Figure(
    figsize=(2.5 + 0.62 * sizes * len(names), 1.4 + 0.34 * len(llms)), layout='constrained'
  )
  for axes, name in zip(figure.subplots(1, len(names), sharey=True), names, strict=True):
    share = 100 * np.array(results['selected'][name]).T  # [K, M]
    axes.imshow(share, cmap='YlGnBu', vmin=0, vmax=100, aspect='auto')
    for (row, column), value in np.ndenumerate(share):
      axes.text(
        column, row, f'{value:.0f}', ha='center', va='center', fontsize=7, color='white' if value > 60 else 'black'
      )
    axes.set(title=name, xlabel='subset size s', xticks=range(sizes), xticklabels=range(1, sizes + 1))
    axes.set_yticks(range(len(llms)), llms, fontsize=8)
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
