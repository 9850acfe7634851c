"""The figures of a report, drawn from report.json alone."""

import pathlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import matplotlib.axes
import matplotlib.figure
import matplotlib.ticker
import matplotlib.transforms
import numpy as np

from selectllm.evaluate import metrics
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
_BETTER, _WORSE, _TIE = '#0b6e4f', '#c1121f', '#777777'
_BLUE = _STYLES['max_conf'][0]
# Above so many subset sizes, colours alone tell how often an LLM is called.
_MOST_NUMBERS = 12
# Small panels in a row.
_PANELS = 3


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
  """Accuracy against sequential latency: policies by size, single LLMs, and the tradeoff of them all."""
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
  tradeoff = metrics.pareto(x, y)
  order = np.lexsort((y[tradeoff], x[tradeoff]))
  axes.step(
    x[tradeoff][order], y[tradeoff][order], where='post', color='#bbbbbb', linewidth=6, alpha=0.45, label='tradeoff'
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
  figure = matplotlib.figure.Figure(figsize=(5.2, 6), layout='constrained')
  top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
  reliability_panels(top, bottom, bins['mean_confidence'], bins['frequency'], bins['count'])
  ece = results['classifier']['ece']
  top.set(ylabel='share of right answers', title='Reliability on test' + ('' if ece is None else f' (ECE {ece:.3f})'))
  bottom.set(xlabel='confidence', ylabel='pairs')
  return figure


def reliability_panels(
  top: matplotlib.axes.Axes,
  bottom: matplotlib.axes.Axes,
  confidence: Sequence[Any],
  frequency: Sequence[Any],
  count: Sequence[int],
  colour: str = _BLUE,
) -> None:
  """Draws bins of confidence: above, how often it came true (empty bins have None), below, how many there are."""
  kept = [i for i, n in enumerate(count) if n]
  top.plot((0, 1), (0, 1), ':', color='black', linewidth=1)
  top.plot([confidence[i] for i in kept], [frequency[i] for i in kept], 'o-', color=colour)
  top.set(xlim=(0, 1), ylim=(0, 1))
  top.grid(alpha=0.25)
  edges = np.linspace(0, 1, len(count) + 1)
  bottom.bar(edges[:-1], count, width=np.diff(edges), align='edge', color=colour, alpha=0.6)


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


def by_category(results: dict[str, Any]) -> matplotlib.figure.Figure | None:
  """Whom the headline policy calls for queries of each category, beside who is right; None for one category."""
  rows = results['by_task']
  if not rows:
    return None
  policy, llms = tables.policies(results)[0], results['dataset']['llms']
  chosen = next(row for row in results['chosen'] if row['name'] == policy)
  panels = {'first': 'first choice (s=1)', 'accuracy': 'accuracy'}
  if max(chosen['sizes']) > 1 and min(chosen['sizes']) < len(llms):  # else the same as first, or all of them
    panels = {'first': panels['first'], 'called': f'called (s={tables.size_of(chosen)})', 'accuracy': 'accuracy'}
  numbers = len(llms) <= _MOST_NUMBERS
  width, height = (0.42, 0.3) if numbers else (0.16, 0.24)
  figure = matplotlib.figure.Figure(
    figsize=(2.8 + (width * len(llms) + 0.3) * len(panels), 2.4 + height * len(rows)), layout='constrained'
  )
  grid = figure.subplots(1, len(panels), sharey=True)
  for axes, (field, name) in zip(grid, panels.items(), strict=True):
    # NaN where an LLM was not observed.
    share = 100 * np.array([[row['llms'][llm][field] for llm in llms] for row in rows], float)
    image = axes.imshow(share, cmap='YlGnBu', vmin=0, vmax=100, aspect='auto')
    for (row, column), value in np.ndenumerate(share) if numbers else ():
      if not np.isnan(value):
        colour, weight = 'white' if value > 60 else 'black', 'bold' if value == np.nanmax(share[row]) else 'normal'
        axes.text(column, row, f'{value:.0f}', ha='center', va='center', fontsize=7, color=colour, weight=weight)
    axes.set_title(name, fontsize=10)
    axes.set_xticks(range(len(llms)), llms, fontsize=8 if numbers else 6, rotation=90)
  grid[0].set_yticks(range(len(rows)), [f'{row["task"]} ({row["queries"]:,})' for row in rows], fontsize=8)
  if not numbers:
    figure.colorbar(image, ax=grid, label='%')
  figure.suptitle(f'Whom {policy} calls and who is right, % of test queries', fontsize=11)
  return figure


def _gap_panel(axes: matplotlib.axes.Axes, feature: dict[str, Any], policy: str) -> None:
  """The bins of one feature: the gap with its intervals, and what it lies between."""
  bins, place = feature['bins'], np.arange(len(feature['bins']))
  lost, oracle, accuracy = (100 * np.array([row[key] for row in bins]) for key in ('lost', 'oracle', 'accuracy'))
  reach = np.abs(100 * np.array([row['lost_ci'] for row in bins]).T - lost)
  axes.bar(place - 0.2, lost, width=0.4, color='#d95f02', alpha=0.6, label='only the oracle right')
  axes.errorbar(place - 0.2, lost, yerr=reach, fmt='none', ecolor='#555555', elinewidth=0.8, capsize=2)
  line = '' if feature['name'] == 'category' else ':'  # categories have no order
  axes.plot(place + 0.2, oracle, f'k{line}_', markersize=8, linewidth=1, label='oracle')
  axes.plot(place + 0.2, accuracy, f'{line}o', color=_STYLES[policy][0], markersize=4, linewidth=1, label=policy)
  axes.set_xticks(place, [row['bin'] for row in bins], fontsize=7)
  if feature['name'] == 'category':
    for label in axes.get_xticklabels():
      label.set(rotation=35, ha='right', rotation_mode='anchor')
  shown = tables.p_value(feature['p'])
  axes.set_title(f'{tables.FEATURES[feature["name"]]} ({shown})', fontsize=9)
  axes.tick_params(axis='y', labelsize=7)
  axes.set_ylim(0, 105)
  axes.grid(alpha=0.25, axis='y')


def oracle_gap(results: dict[str, Any]) -> matplotlib.figure.Figure | None:
  """The rate at which the oracle is right and the headline policy is not, by what the queries are like."""
  found = results['error_analysis']
  if not found['features']:
    return None
  small = [feature for feature in found['features'] if feature['name'] != 'category']
  wide = [feature for feature in found['features'] if feature['name'] == 'category']
  above = -(-len(small) // _PANELS)
  figure = matplotlib.figure.Figure(figsize=(11.5, 2.4 * above + 3.4 * len(wide) + 0.6), layout='constrained')
  grid = figure.add_gridspec(above + len(wide), _PANELS, height_ratios=[2.4] * above + [3.4] * len(wide))
  for place, feature in enumerate(small):
    _gap_panel(figure.add_subplot(grid[divmod(place, _PANELS)]), feature, found['policy'])
  for feature in wide:
    _gap_panel(figure.add_subplot(grid[-1, :]), feature, found['policy'])
  for axes in figure.axes[::_PANELS]:
    axes.set_ylabel('% of queries', fontsize=8)
  figure.legend(*figure.axes[0].get_legend_handles_labels(), fontsize=8, loc='outside upper right', ncols=3)
  return figure


# Makes a figure of the results, None where they have nothing for it.
Maker = Callable[[dict[str, Any]], matplotlib.figure.Figure | None]

FIGURES: dict[str, Maker] = {
  'accuracy_latency': accuracy_and_latency,
  'reliability': reliability,
  'selection': selection,
  'confusion': confusion,
  'by_category': by_category,
  'oracle_gap': oracle_gap,
}


def draw(results: dict[str, Any], directory: pathlib.Path, makers: dict[str, Maker] = FIGURES) -> None:
  """Draws the figures that the results have something for as PNG files."""
  directory.mkdir(exist_ok=True)
  for name, make in makers.items():
    if figure := make(results):
      save(figure, directory / f'{name}.png')


class Gain(NamedTuple):
  """A point of a forest plot: a mean gain with its interval, and whether it is inside the noise."""

  delta: float
  ci: Sequence[float]
  tie: bool


def forest(axes: matplotlib.axes.Axes, gains: Sequence[Gain | None], headings: Collection[int]) -> None:
  """Draws gains in points, one below the other, hollow and grey where they are ties; a line stands above a heading."""
  axes.axvline(0, color='black', linewidth=1)
  for place, gain in enumerate(gains):
    if place in headings:
      axes.axhline(place - 0.5, color='#dddddd', linewidth=0.8)
    elif gain:
      colour = _TIE if gain.tie else _BETTER if gain.delta > 0 else _WORSE
      axes.plot([100 * bound for bound in gain.ci], [place, place], color=colour, linewidth=1.6)
      axes.plot(
        100 * gain.delta, place, 'o', color=colour, markersize=5, markerfacecolor='white' if gain.tie else colour
      )
  axes.set_ylim(len(gains) - 0.5, -0.5)
  axes.tick_params(axis='y', length=0)
  axes.grid(axis='x', alpha=0.25)


def save(figure: matplotlib.figure.Figure, path: pathlib.Path) -> None:
  """Writes a figure as PNG, without metadata, so that the same results give the same bytes."""
  with path.open('wb') as file:
    figure.savefig(file, format='png', dpi=130, metadata={'Software': None})
