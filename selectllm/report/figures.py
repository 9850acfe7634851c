"""Draws the figures of a report from its results alone."""

import pathlib
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import matplotlib
import matplotlib.axes
import matplotlib.figure
import matplotlib.ticker
import matplotlib.transforms
import numpy as np

from selectllm.evaluate import metrics, results
from selectllm.report import tables

# Names stand in figures as they are: a `$` in one begins no formula.
matplotlib.rcParams['text.parse_math'] = False
# Colour and style of each method's points, in the order they are drawn. From size to size a fixed subset's latency goes
# up and down: points, not a line. What often coincides stays visible: dashes over a line.
_STYLES = {
  'random': ('#999999', '.-'),
  'max_conf': ('#1f77b4', '.-'),
  'labelled_max_conf': ('#9467bd', '.--'),
  'weighted_max_conf': ('#0b6e4f', '.-'),
  'top_s': ('#d95f02', 'x'),
  'static_weighted': ('#17a2b8', '1'),
  'best_s': ('#7a4b00', '+'),
  'knn_top1': ('#c1121f', 'D'),
  'all_llms': ('#c1121f', '*'),
}
_SINGLE = '#444444'
_BETTER, _WORSE, _NOT_RESOLVED = '#0b6e4f', '#c1121f', '#777777'
_BLUE = _STYLES['max_conf'][0]
# Above so many subset sizes, colours alone tell how often an LLM is called.
_MOST_NUMBERS = 12
# Small panels in a row.
_PANELS = 3


class _Label(NamedTuple):
  """A text beside a point; its offset is in points (1/72 inch)."""

  text: str
  x: float
  y: float
  offset: tuple[float, float]
  colour: str


def _annotate(axes: matplotlib.axes.Axes, labels: list[_Label]) -> None:
  """Writes the labels, without those that would cover an earlier one."""
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


class _Point(NamedTuple):
  """A method on the plane of a time (or calls) and accuracy in %."""

  name: str
  size: int | None
  x: float
  y: float


def _points(rows: Sequence[results.MethodResult], field: str) -> list[_Point]:
  """Returns where the methods lie, but for the oracle and what is not known."""
  points = []
  for row in rows:
    x = getattr(row, field)
    if row.name != 'oracle' and row.accuracy is not None and x is not None:
      points.append(_Point(row.name, row.size, x, 100 * row.accuracy))
  return points


def _draw_methods(axes: matplotlib.axes.Axes, points: list[_Point], single: list[_Point]) -> None:
  """Draws the trade-off of all methods, a line or marks for each method, and the single LLMs."""
  x, y = (np.array(column) for column in list(zip(*points, strict=True))[2:])
  best = metrics.pareto(x, y)
  order = np.lexsort((y[best], x[best]))
  axes.step(x[best][order], y[best][order], where='post', color='#bbbbbb', linewidth=6, alpha=0.45, label='trade-off')
  for name, (colour, style) in _STYLES.items():
    if line := [(point.x, point.y) for point in points if point.name == name]:
      size = 10 if style == '*' else 6
      axes.plot(*zip(*line, strict=True), style, color=colour, label=name, linewidth=1.4, markersize=size)
  axes.plot([p.x for p in single], [p.y for p in single], 'o', color=_SINGLE, markersize=4, label='single LLM')


def accuracy_and_time(found: results.Results) -> matplotlib.figure.Figure:
  """Draws accuracy against wall clock and summed compute: policies by size, single LLMs, and the trade-off of all."""
  kind = found.dataset.latency
  times = {'wall_clock_s': f'wall clock of a query, s ({kind})', 'compute_s': f'summed compute of a query, s ({kind})'}
  if kind == 'unknown':
    times = {'calls': 'LLMs called per query'}
  figure = matplotlib.figure.Figure(figsize=(6.4 * len(times) - 0.8, 5.6), layout='constrained')
  panels = figure.subplots(1, len(times), sharey=True, squeeze=False)[0]
  points = [_points(found.methods, field) for field in times]
  for axes, of, (field, words) in zip(panels, points, times.items(), strict=True):
    _draw_panel(axes, of, found.oracle.accuracy)
    axes.set_xlabel(words)
    if field == 'calls':
      axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    else:
      axes.set_xscale('log')
      axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
      axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
      axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f'{value:g}'))
  panels[0].set_ylabel('accuracy on test, %')
  title = f'Accuracy and {"calls" if kind == "unknown" else "time"} (small numbers: subset size s)'
  figure.suptitle(title, fontsize=11, x=0.01, horizontalalignment='left')  # beside a legend as high
  figure.legend(*panels[0].get_legend_handles_labels(), fontsize=8, loc='outside right upper')
  figure.draw_without_rendering()  # labels keep apart from each other where the panels really are
  for axes, of in zip(panels, points, strict=True):
    _annotate(axes, _labels(of))
  return figure


def _draw_panel(axes: matplotlib.axes.Axes, points: list[_Point], oracle: float | None) -> None:
  _draw_methods(axes, points, [point for point in points if point.name.startswith('single:')])
  if oracle is not None:
    axes.axhline(100 * oracle, color='black', linestyle=':', linewidth=1, label=f'oracle {100 * oracle:.1f} %')
  axes.grid(alpha=0.25)


def _labels(points: list[_Point]) -> list[_Label]:
  """Returns the names of single LLMs, the most accurate first, and the sizes of two methods."""
  single = sorted((point for point in points if point.name.startswith('single:')), key=lambda point: -point.y)
  labels = [_Label(point.name.removeprefix('single:'), point.x, point.y, (5, 2), _SINGLE) for point in single]
  for name, offset in (('weighted_max_conf', (-2, 5)), ('top_s', (3, -9))):
    labels += [_Label(str(p.size), p.x, p.y, offset, _STYLES[name][0]) for p in points if p.name == name]
  return labels


def reliability(found: results.Results) -> matplotlib.figure.Figure:
  """Draws confidences against the share of right answers, and the number of confidences in each bin."""
  figure = matplotlib.figure.Figure(figsize=(5.2, 6), layout='constrained')
  top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
  reliability_panels(top, bottom, found.classifier.reliability)
  ece = found.classifier.ece
  top.set(ylabel='share of right answers', title='Reliability on test' + ('' if ece is None else f' (ECE {ece:.3f})'))
  bottom.set(xlabel='confidence', ylabel='pairs')
  return figure


def reliability_panels(
  top: matplotlib.axes.Axes, bottom: matplotlib.axes.Axes, bins: results.Reliability, colour: str = _BLUE
) -> None:
  """Draws a reliability diagram, without its empty bins, above the counts of its bins."""
  filled = [place for place, count in enumerate(bins.count) if count]
  top.plot((0, 1), (0, 1), ':', color='black', linewidth=1)
  confidence, frequency = np.array([bins.mean_confidence, bins.frequency], float)[:, filled]
  top.plot(confidence, frequency, 'o-', color=colour)
  top.set(xlim=(0, 1), ylim=(0, 1))
  top.grid(alpha=0.25)
  edges = np.linspace(0, 1, len(bins.count) + 1)
  bottom.bar(edges[:-1], bins.count, width=np.diff(edges), align='edge', color=colour, alpha=0.6)


def selection(found: results.Results) -> matplotlib.figure.Figure:
  """Draws how often each LLM is called, by policy and subset size."""
  llms = found.dataset.llms
  names = [name for name in tables.policies(found) if name != 'weighted_max_conf']  # calls the same as max_conf
  sizes = len(found.selected[names[0]])
  numbers = sizes <= _MOST_NUMBERS
  width = max(1.9, (0.62 if numbers else 0.22) * sizes)
  figure = matplotlib.figure.Figure(
    figsize=(2.5 + width * len(names), 1.4 + (0.34 if numbers else 0.22) * len(llms)), layout='constrained'
  )
  grid = figure.subplots(1, len(names), sharey=True)
  for axes, name in zip(grid, names, strict=True):
    share = 100 * np.array(found.selected[name]).T  # [K, M]
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


def confusion(found: results.Results) -> matplotlib.figure.Figure:
  """Draws predicted against true labels of each LLM: counts, shaded by their share of the true label."""
  matrices = found.classifier.confusion
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


def by_category(found: results.Results) -> matplotlib.figure.Figure | None:
  """Draws the LLMs that the headline policy calls in each category, and their accuracy; None for one category."""
  rows = found.by_task
  if not rows:
    return None
  policy, llms = tables.policies(found)[0], found.dataset.llms
  sizes = next(row.sizes for row in found.chosen if row.name == policy) or []
  panels = {'first': 'first choice (s=1)', 'accuracy': 'accuracy'}
  if max(sizes) > 1 and min(sizes) < len(llms):  # else the same as first, or all of them
    panels = {'first': panels['first'], 'called': f'called (s={tables.joined(sizes)})', 'accuracy': 'accuracy'}
  numbers = len(llms) <= _MOST_NUMBERS
  width, height = (0.42, 0.3) if numbers else (0.16, 0.24)
  figure = matplotlib.figure.Figure(
    figsize=(2.8 + (width * len(llms) + 0.3) * len(panels), 2.4 + height * len(rows)), layout='constrained'
  )
  grid = figure.subplots(1, len(panels), sharey=True)
  for axes, (field, name) in zip(grid, panels.items(), strict=True):
    # NaN where an LLM was not observed.
    share = 100 * np.array([[getattr(row.llms[llm], field) for llm in llms] for row in rows], float)
    image = axes.imshow(share, cmap='YlGnBu', vmin=0, vmax=100, aspect='auto')
    for (row, column), value in np.ndenumerate(share) if numbers else ():
      if not np.isnan(value):
        colour, weight = 'white' if value > 60 else 'black', 'bold' if value == np.nanmax(share[row]) else 'normal'
        axes.text(column, row, f'{value:.0f}', ha='center', va='center', fontsize=7, color=colour, weight=weight)
    axes.set_title(name, fontsize=10)
    axes.set_xticks(range(len(llms)), llms, fontsize=8 if numbers else 6, rotation=90)
  grid[0].set_yticks(range(len(rows)), [f'{row.task} ({row.queries:,})' for row in rows], fontsize=8)
  if not numbers:
    figure.colorbar(image, ax=grid, label='%')
  figure.suptitle(f'LLMs that {policy} calls, and their accuracy, % of test queries', fontsize=11)
  return figure


def _gap_panel(axes: matplotlib.axes.Axes, feature: results.FeatureResult, policy: str) -> None:
  """Draws the bins of one feature: the gap with its intervals, and the accuracies of oracle and policy."""
  bins, place = feature.bins, np.arange(len(feature.bins))
  lost, oracle, accuracy = 100 * np.array([(row.lost, row.oracle, row.accuracy) for row in bins]).T
  reach = np.abs(100 * np.array([row.lost_ci for row in bins], float).T - lost)
  axes.bar(place - 0.2, lost, width=0.4, color='#d95f02', alpha=0.6, label='only the oracle right')
  axes.errorbar(place - 0.2, lost, yerr=reach, fmt='none', ecolor='#555555', elinewidth=0.8, capsize=2)
  line = '' if feature.name == 'category' else ':'  # categories have no order
  axes.plot(place + 0.2, oracle, f'k{line}_', markersize=8, linewidth=1, label='oracle')
  axes.plot(place + 0.2, accuracy, f'{line}o', color=_STYLES[policy][0], markersize=4, linewidth=1, label=policy)
  axes.set_xticks(place, [row.bin for row in bins], fontsize=7)
  if feature.name == 'category':
    for label in axes.get_xticklabels():
      label.set(rotation=35, ha='right', rotation_mode='anchor')
  axes.set_title(f'{tables.FEATURES[feature.name]} ({tables.p_value(feature.p)})', fontsize=9)
  axes.tick_params(axis='y', labelsize=7)
  axes.set_ylim(0, 105)
  axes.grid(alpha=0.25, axis='y')


def oracle_gap(found: results.Results) -> matplotlib.figure.Figure | None:
  """Draws the rate at which the oracle is right and the headline policy is not, by features of the queries."""
  features, policy = found.error_analysis.features, found.error_analysis.policy
  if not features:
    return None
  small = [feature for feature in features if feature.name != 'category']
  wide = [feature for feature in features if feature.name == 'category']
  above = -(-len(small) // _PANELS)
  figure = matplotlib.figure.Figure(figsize=(11.5, 2.4 * above + 3.4 * len(wide) + 0.6), layout='constrained')
  grid = figure.add_gridspec(above + len(wide), _PANELS, height_ratios=[2.4] * above + [3.4] * len(wide))
  for place, feature in enumerate(small):
    _gap_panel(figure.add_subplot(grid[divmod(place, _PANELS)]), feature, policy)
  for feature in wide:
    _gap_panel(figure.add_subplot(grid[-1, :]), feature, policy)
  for axes in figure.axes[::_PANELS]:
    axes.set_ylabel('% of queries', fontsize=8)
  figure.legend(*figure.axes[0].get_legend_handles_labels(), fontsize=8, loc='outside upper right', ncols=3)
  return figure


# Makes a figure of the results, None where they have nothing for it.
Maker = Callable[[results.Results], matplotlib.figure.Figure | None]

FIGURES: dict[str, Maker] = {
  'accuracy_time': accuracy_and_time,
  'reliability': reliability,
  'selection': selection,
  'confusion': confusion,
  'by_category': by_category,
  'oracle_gap': oracle_gap,
}


def draw(found: results.Results, directory: pathlib.Path, makers: dict[str, Maker] = FIGURES) -> None:
  """Draws the figures that the results have something for as PNG files; the directory is made where needed."""
  directory.mkdir(exist_ok=True)
  for name, make in makers.items():
    if figure := make(found):
      save(figure, directory / f'{name}.png')


# What the marks of `forest` mean.
FOREST = 'grey: not resolved; hollow: not after Holm'


def forest(
  axes: matplotlib.axes.Axes,
  labels: Sequence[str],
  gains: Sequence[results.Comparison | None],
  headings: Collection[int],
) -> None:
  """Draws gains in points, one below the other, marked as `FOREST` says; a line separates headings."""
  axes.axvline(0, color='black', linewidth=1)
  for place, gain in enumerate(gains):
    if place in headings:
      axes.axhline(place - 0.5, color='#dddddd', linewidth=0.8)
    elif gain:
      colour = (_BETTER if gain.delta > 0 else _WORSE) if gain.resolved else _NOT_RESOLVED
      axes.plot(100 * np.array(gain.ci, float), [place, place], color=colour, linewidth=1.6)
      axes.plot(
        100 * gain.delta, place, 'o', color=colour, markersize=5, markerfacecolor=colour if gain.holds else 'white'
      )
  axes.set_ylim(len(gains) - 0.5, -0.5)
  axes.tick_params(axis='y', length=0)
  axes.grid(axis='x', alpha=0.25)
  axes.set_yticks(range(len(labels)), labels, fontsize=8)
  for place, label in enumerate(axes.get_yticklabels()):
    label.set_fontweight('bold' if place in headings else 'normal')


def save(figure: matplotlib.figure.Figure, path: pathlib.Path) -> None:
  """Writes a figure as PNG, without metadata, so that the same results give the same bytes."""
  with path.open('wb') as file:
    figure.savefig(file, format='png', dpi=130, metadata={'Software': None})
