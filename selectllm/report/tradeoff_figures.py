"""Draws the figures on strategies: their trade-off of accuracy and cost, and abstention."""

import itertools
from typing import Any, NamedTuple

import matplotlib.axes
import matplotlib.figure
import matplotlib.lines
import matplotlib.ticker
import numpy as np

from selectllm.evaluate import results
from selectllm.report import figures, tradeoff


class _Style(NamedTuple):
  colour: str
  line: str
  width: float


# Our strategies are bold, others thin, baselines broken. What may coincide stays visible: dashes over a line.
_BOLD = 2.2
_STYLES = {
  'adaptive': _Style('#0b6e4f', '.-', _BOLD),
  'adaptive_stages': _Style('#1f77b4', '.--', _BOLD),
  'subset': _Style('#9467bd', '.-', _BOLD),
  'learned_vote': _Style('#d95f02', '.-', _BOLD),
  'bayes_vote': _Style('#e0a458', '.-', 1.1),
  'chain': _Style('#7a4b00', 'x--', 1.1),
  'frugal_cascade': _Style('#d6249f', '+--', 1.1),
  'knn_router': _Style('#555555', '1:', 1.3),
  'mf_router': _Style('#17a2b8', '2-.', 1.1),
  'clusters': _Style('#8a9a00', '3:', 1.3),
}
_OTHER = _Style('#999999', '.:', 1.1)
# Name, marker, size and colour.
_REFERENCES = (
  ('all_llms', '*', 14, '#c1121f'),
  ('static_weighted', 'P', 9, '#c1121f'),
  ('best_single', 'D', 7, 'black'),
)


class _Plane(NamedTuple):
  """A trade-off on the plane of cost (in % of calling all LLMs) and accuracy on test (in %)."""

  content: results.Tradeoff
  scale: tradeoff.CostScale

  def point(self, measured: results.Measurement) -> tuple[float, float]:
    """Returns the place of a measurement."""
    return self.scale.percent_of_all(measured), 100 * tradeoff.number(measured.accuracy)

  def bounds(self, measured: results.Measurement) -> tuple[float, float]:
    """Returns the ends of the interval of its accuracy, in %."""
    low, high = 100 * np.array(measured.accuracy_ci, float)
    return low, high


def _draw_curves(axes: matplotlib.axes.Axes, plane: _Plane) -> None:
  """Draws a line for each strategy, the most accurate on test first in the legend, and a band for one of them."""
  curves = {name: [row.measured for row in curve] for name, curve in plane.content.curves.items()}
  for name in sorted(curves, key=lambda name: -max(plane.point(measured)[1] for measured in curves[name])):
    style = _STYLES.get(name, _OTHER)
    x, y = zip(*map(plane.point, curves[name]), strict=True)
    above = style.width + ('--' in style.line)
    axes.plot(x, y, style.line, color=style.colour, linewidth=style.width, markersize=5, label=name, zorder=above)
    if name == 'adaptive':  # many bands would hide each other
      low, high = zip(*map(plane.bounds, curves[name]), strict=True)
      axes.fill_between(x, low, high, color=style.colour, alpha=0.12, linewidth=0)


def _draw_references(axes: matplotlib.axes.Axes, plane: _Plane) -> None:
  """Draws the votes of all LLMs and the best single LLM, with 95 % intervals."""
  for key, marker, size, colour in _REFERENCES:
    measured = plane.content.references[key]
    x, y = plane.point(measured)
    axes.vlines(x, *plane.bounds(measured), color=colour, linewidth=1)
    axes.plot(x, y, marker, color=colour, markersize=size, linestyle='none', label=key, zorder=5)


def _crop(axes: matplotlib.axes.Axes, plane: _Plane) -> None:
  """Leaves out operating points far less accurate than the rest, which they would press together.

  References, operating points chosen for constraints and the best of each strategy stay in sight, with their intervals.
  """
  curves = [[row.measured for row in curve] for curve in plane.content.curves.values()]
  kept = [max(curve, key=lambda measured: plane.point(measured)[1]) for curve in curves]
  kept += plane.content.references.values()
  kept += [row.measured for row in plane.content.constraints if row.measured is not None]
  floor = min(plane.bounds(measured)[0] for measured in kept) - 1
  shown = [x for x, y in map(plane.point, itertools.chain(*curves, kept)) if y >= floor]
  bottom, top = max(floor, axes.get_ylim()[0]), axes.dataLim.y1
  axes.set_ylim(bottom, top + 0.05 * (top - bottom))
  axes.set_xlim(0.8 * min(shown), 1.25 * max(100, *shown))


def _draw_oracle(above: matplotlib.axes.Axes, axes: matplotlib.axes.Axes, oracle: float | None) -> None:
  """Draws the oracle in a strip of its own, cut off from what is far below."""
  if oracle is not None:
    above.axhline(100 * oracle, color='black', linestyle=':', linewidth=1)
    above.set(ylim=(100 * oracle - 1, 100 * oracle + 1), yticks=[100 * oracle], yticklabels=[f'{100 * oracle:.1f}'])
    above.text(0.01, 0.62, 'oracle', transform=above.transAxes, fontsize=8)
  above.spines.bottom.set_visible(False)
  axes.spines.top.set_visible(False)
  above.tick_params(axis='x', length=0, labelbottom=False)
  cut: dict[str, Any] = {'marker': [(-1, -0.5), (1, 0.5)], 'markersize': 9, 'linestyle': '', 'color': 'black'}
  above.plot((0, 1), (0, 0), transform=above.transAxes, clip_on=False, **cut)
  axes.plot((0, 1), (1, 1), transform=axes.transAxes, clip_on=False, **cut)


def _numbered(plane: _Plane) -> dict[tuple[float, float], str]:
  """Returns the points chosen for constraints, with the numbers of these constraints."""
  points: dict[tuple[float, float], str] = {}
  for place, row in enumerate(plane.content.constraints, 1):
    if row.measured is not None:
      point = plane.point(row.measured)
      points[point] = f'{points[point]}, {place}' if point in points else str(place)
  return points


def _write_numbers(axes: matplotlib.axes.Axes, points: dict[tuple[float, float], str]) -> None:
  """Writes the text of each point where there is room beside it; layout and lines must be final."""

  def place(corners: Any, transform: Any) -> np.ndarray:  # [P, 2] in points, 1/72 inch
    return transform.transform(corners) * 72 / axes.figure.dpi

  low, high = place([(0, 0), (1, 1)], axes.transAxes)
  taken = [place(np.reshape(list(points), (-1, 2)), axes.transData)]
  for line in axes.get_lines():
    corners = place(line.get_xydata(), line.get_transform())
    taken.append(corners)
    taken += [np.linspace(a, b, 2 + int(np.hypot(*(b - a)) / 4)) for a, b in itertools.pairwise(corners)]
  obstacles = np.concatenate(taken)
  angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
  around = np.stack([np.cos(angles), np.sin(angles)], 1)
  offsets = np.concatenate([radius * around for radius in (15, 22, 30, 40)])
  for (x, y), text in points.items():
    places = place([(x, y)], axes.transData) + offsets
    room = np.linalg.norm(places[:, None] - obstacles, axis=-1).min(1) - 0.2 * np.linalg.norm(offsets, axis=1)
    room[((places < low + 10) | (places > high - 10)).any(1)] = -np.inf
    best = int(room.argmax())
    obstacles = np.concatenate([obstacles, places[best] + 6 * around])
    axes.annotate(
      text, (x, y), offsets[best], textcoords='offset points', ha='center', va='center', fontsize=8, weight='bold',
      bbox={'boxstyle': 'round,pad=0.25', 'fc': 'white', 'ec': 'black', 'lw': 0.8}, zorder=6,
      arrowprops={'arrowstyle': '-', 'lw': 0.8},
    )  # fmt: skip


def _draw_legends(figure: matplotlib.figure.Figure, axes: matplotlib.axes.Axes, plane: _Plane) -> None:
  """Draws a legend of the strategies, and one of the constraints by their numbers."""
  figure.legend(*axes.get_legend_handles_labels(), fontsize=8, loc='outside right upper')
  constraints = [
    matplotlib.lines.Line2D([], [], linestyle='', label=f'{n}  {row.constraint}')
    for n, row in enumerate(plane.content.constraints, 1)
    if row.measured is not None
  ]
  if constraints:
    figure.legend(
      handles=constraints, title='chosen for', fontsize=8, title_fontsize=8, loc='outside right lower', handlelength=0
    )


def accuracy_and_cost(found: results.Results) -> matplotlib.figure.Figure | None:
  """Draws accuracy against cost of all strategies at all operating points, and those chosen for constraints."""
  if found.tradeoff is None:
    return None
  planes = [_Plane(found.tradeoff, scale) for scale in tradeoff.cost_scale(found.tradeoff).both]
  figure = matplotlib.figure.Figure(figsize=(12, 7) if len(planes) > 1 else (11, 7), layout='constrained')
  panels = figure.subplots(2, len(planes), sharex='col', sharey='row', squeeze=False, height_ratios=(1, 16))
  for above, axes, plane in zip(*panels, planes, strict=True):
    _draw_plane(axes, plane, estimated=found.dataset.latency == 'estimated')
    _draw_oracle(above, axes, found.oracle.accuracy)
  panels[1, 0].set_ylabel('accuracy on test, %')
  _draw_legends(figure, panels[1, -1], planes[-1])
  figure.suptitle(
    'Accuracy and cost of strategies (shaded, bars: 95 % intervals; boxed: chosen for a constraint)', fontsize=11
  )
  figure.draw_without_rendering()
  for axes, plane in zip(panels[1], planes, strict=True):
    _write_numbers(axes, _numbered(plane))
  return figure


def _draw_plane(axes: matplotlib.axes.Axes, plane: _Plane, *, estimated: bool) -> None:
  """Draws strategies and references over one kind of cost; estimated seconds are marked."""
  scale = plane.scale
  _draw_curves(axes, plane)
  _draw_references(axes, plane)
  axes.set_xscale('log')
  axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
  axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f'{value:g}'))
  axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
  _crop(axes, plane)
  kind = ' (estimated)' if estimated and scale.unit == 's' else ''
  axes.set_xlabel(
    f'{scale.words}{kind} of a query, % of calling all LLMs\n(100 % = {scale.text(scale.of_all)} {scale.unit})'
  )
  axes.grid(alpha=0.25)


def abstention(found: results.Results) -> matplotlib.figure.Figure | None:
  """Draws accuracy where the least sure queries stay unanswered, and the calibration of P(answer is right)."""
  p_right = found.tradeoff.p_right if found.tradeoff else None
  if p_right is None:
    return None
  colour = _STYLES.get(p_right.strategy, _OTHER).colour
  figure = matplotlib.figure.Figure(figsize=(10, 5), layout='constrained')
  grid = figure.add_gridspec(2, 2, height_ratios=(3, 1), width_ratios=(1.3, 1))
  left, top = figure.add_subplot(grid[:, 0]), figure.add_subplot(grid[0, 1])
  bottom = figure.add_subplot(grid[1, 1], sharex=top)
  _draw_coverage(left, p_right, colour)
  figures.reliability_panels(top, bottom, p_right.reliability, colour)
  top.set_ylabel('share of right answers')
  top.set_title(f'Calibration of P(answer is right) (ECE {tradeoff.number(p_right.ece):.3f})', fontsize=10)
  bottom.set(xlabel='P(answer is right)', ylabel='queries')
  return figure


def _draw_coverage(axes: matplotlib.axes.Axes, p_right: results.AnswerProbability, colour: str) -> None:
  """Draws the accuracy on the share of queries that are answered, and marks that on four fifths of them."""
  share, accuracy = 100 * np.array(p_right.coverage, float).T
  axes.plot(share, accuracy, color=colour, linewidth=2)
  rest, gain = 100 * p_right.abstain_20.accuracy, 100 * p_right.abstain_20.gain
  axes.axhline(rest - gain, color='black', linestyle=':', linewidth=1)
  axes.annotate(f'all answered: {rest - gain:.1f} %', (0, rest - gain), (4, 3), textcoords='offset points', fontsize=9)
  axes.plot((80, 80), (rest - gain, rest), 'o-', color=colour, markersize=8, markevery=[1], linewidth=1)
  # Below the curve, which falls.
  text = f'80 % answered: {rest:.1f} % right\n({gain:+.1f} points)'
  axes.annotate(text, (80, rest - gain / 2), (-6, 0), textcoords='offset points', ha='right', va='center', fontsize=9)
  axes.set(xlabel='queries answered, the surest first, %', ylabel='accuracy on these, %', xlim=(0, 100))
  axes.set_title(f'Accuracy with the least sure queries unanswered ({p_right.strategy})', fontsize=10)
  axes.grid(alpha=0.25)


FIGURES: dict[str, figures.Maker] = {'tradeoff': accuracy_and_cost, 'abstention': abstention}
