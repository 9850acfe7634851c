"""The section of a report on choosing calls past the paper: promises and the test, the tradeoff, when to abstain."""

import itertools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib.axes
import matplotlib.figure
import matplotlib.lines
import matplotlib.ticker
import numpy as np

from selectllm.evaluate import metrics
from selectllm.report import figures, tables

# What each strategy does; its settings trade accuracy for price.
_EXPLAINED = {
  'adaptive': 'asks one LLM after the other, next the one worth most for its price given the answers so far, '
  'until none is worth its price',
  'adaptive_stages': 'the same, but may ask two LLMs at once: as dear, but faster',
  'subset': 'asks several LLMs at once, for each query the subset whose vote promises most for its price',
  'learned_vote': 'asks the s most confident LLMs; what their votes weigh is learned',
  'bayes_vote': 'asks the s most confident LLMs; a vote weighs the log-odds of its being right',
  'chain': 'asks LLMs in a fixed order, the next one only where those before were unsure',
  'frugal_cascade': 'asks LLMs in a fixed order until an answer scores high enough (FrugalGPT)',
  'knn_router': 'asks the LLM that was right most often on the most similar queries, less its price',
  'mf_router': 'asks the LLM that a factorisation of queries and LLMs prefers, less its price',
  'clusters': "asks the LLMs that were right most often on the query's cluster (Avengers)",
}
_RIVALS = ('chain', 'frugal_cascade', 'knn_router', 'mf_router', 'clusters')


class _Scale(NamedTuple):
  """What prices are counted in.

  Attributes:
    cost_unit: The field of what a setting is worth that holds its price.
    unit: At the head of a column.
    words: In a sentence.
    text: Writes a price.
    of_all: The mean price of calling all LLMs on test.
  """

  cost_unit: str
  unit: str
  words: str
  text: Callable[[float | None], str]
  of_all: float


def _scale(results: dict[str, Any]) -> _Scale:
  """The cost_unit of the tradeoff."""
  cost_unit = results['tradeoff']['cost_unit']
  unit, words, text = {
    'seconds': ('seconds', f'summed {results["dataset"]["latency"]} seconds', tables.seconds),
    'usd': ('$ per 1,000', 'dollars', tables.dollars),
    'calls': ('calls', 'calls', tables.seconds),
  }[cost_unit]
  return _Scale(cost_unit, unit, words, text, results['tradeoff']['references']['all_llms'][cost_unit])


def _accuracy(row: dict[str, Any]) -> str:
  return tables.with_interval(row['accuracy'], row['accuracy_ci'])


def _gain(row: dict[str, Any], other: str) -> str:
  """How much more accurate a row is than another, in points."""
  return tables.gain(row['versus'][other]['delta'], row['versus'][other]['p'])


# In words.


def asked(row: dict[str, Any]) -> str:
  """What a limit asks for, in words."""
  what, *bound = re.split('[<>]=', row['constraint'])
  if what == 'none':
    return 'the most accurate, at any price'
  known = row['target'] is not None
  if what == 'accuracy':
    if name := {'best_single': 'the best single LLM', 'all_llms': 'the vote of all LLMs'}.get(bound[0]):
      return f'as accurate as {name}' + (f', {tables.percent(row["target"])} %' if known else '')
    return f'at least {tables.percent(float(bound[0]))} % right'

  def amount(value: float) -> str:
    return f'${tables.dollars(value)} per 1,000 queries' if what == 'usd' else f'{tables.seconds(value)} seconds'

  if bound[0].endswith('%'):
    most = f'{bound[0][:-1]} % of calling all' + (f', {amount(row["target"])}' if known else '')
  else:
    most = amount(float(bound[0]))
  return {
    'seconds': f'at most {most}, calls summed',
    'usd': f'at most {most}',
    'p95_seconds': f'95 % of the queries within {most}, calls in parallel',
    'query_seconds': f'no query expected to take more than {most}',
  }[what]


def kept(row: dict[str, Any]) -> str:
  """Whether the test kept a limit, in words."""
  if row['measured'] is None:
    return 'no operating point reached it in cross-validation'
  if row['constraint'] == 'none':
    return '-'
  return 'met' if row['met'] else 'missed, within the interval' if row['within'] else 'missed'


def _reached(row: dict[str, Any], key: str, other: dict[str, Any], name: str, scale: _Scale) -> str:
  """Whether the accuracy of a fixed choice was reached, and for what share of its price."""
  test = row['measured']
  if test is None:
    return f'**No operating point reached in cross-validation the accuracy of {name}.**'
  share = f'{100 * test[scale.cost_unit] / other[scale.cost_unit]:.0f} % of its {scale.words}'
  versus = row['versus'][key]
  verdict = 'beaten' if versus['delta'] > 0 and versus['p'] <= tables.SIGNIFICANT else 'reached'
  if not row['met']:
    points = 100 * (row['target'] - test['accuracy'])
    verdict = f'missed by {points:.1f} points' + (', within the interval,' if row['within'] else '')
  return (
    f'**{name[0].upper()}{name[1:]} is {verdict} at {share}**: {row["strategy"]} answers {_accuracy(test)} % right, '
    f'{name} {_accuracy(other)} %, {_gain(row, key)}.'
  )


def _most_accurate(row: dict[str, Any], results: dict[str, Any]) -> str:
  """What is had where no limit was set, against the vote of all LLMs and the rival that estimated most."""
  test, found, scale = row['measured'], results['tradeoff'], _scale(results)
  others = {'all_llms': 'the vote of all LLMs'}
  if rivals := [name for name in _RIVALS if name in found['best']]:
    rival = max(rivals, key=lambda name: found['best'][name]['estimated']['accuracy'])
    others[rival] = f'the best rival, {rival}'
  share = f'{100 * test[scale.cost_unit] / scale.of_all:.0f} % of the {scale.words} of calling all'
  gains = ', '.join(f'{_gain(row, other)} points against {name}' for other, name in others.items())
  return (
    f'**At any price, {row["strategy"]} answers {tables.percent(test["accuracy"])} % right** '
    f'({" to ".join(map(tables.percent, test["accuracy_ci"]))}) at {share}: {gains}.'
  )


def _kept_constraints(limits: list[dict[str, Any]]) -> str:
  """How many limits the test kept, and which it did not."""
  words = {row['constraint']: kept(row) for row in limits if row['constraint'] != 'none'}
  broken = [f'`{limit}`: {word}' for limit, word in words.items() if word != 'met']
  count = f'{len(words) - len(broken)} of {len(words)}'
  return f'**The test kept {count} limits**' + (f' ({"; ".join(broken)}).' if broken else '.')


def lead(results: dict[str, Any]) -> list[str]:
  """What choosing calls buys, in plain words, one sentence each."""
  found, lines = results['tradeoff'], []
  limits = {row['constraint']: row for row in found['constraints']}
  single = results['best_single']
  names = {
    'all_llms': f'the vote of all {len(results["dataset"]["llms"])} LLMs',
    # With folds there may be several.
    'best_single': 'the best single LLM' + (f' ({single[0].removeprefix("single:")})' if len(single) == 1 else ''),
  }
  for key, name in names.items():
    if row := limits.get(f'accuracy>={key}'):
      lines.append(_reached(row, key, found['references'][key], name, _scale(results)))
  if (row := limits.get('none')) and row['measured'] is not None:
    lines.append(_most_accurate(row, results))
  if set(limits) - {'none'}:
    lines.append(_kept_constraints(found['constraints']))
  if found['p_right']:
    rest = found['p_right']['abstain_20']
    lines.append(
      f'**Leaving the least sure 20 % unanswered raises accuracy by {100 * rest["gain"]:.1f} points**: '
      f'{found["p_right"]["strategy"]} answers {tables.percent(rest["accuracy"])} % of the rest right.'
      if rest['gain'] > 0
      else '**Leaving the least sure 20 % unanswered raises no accuracy.**'
    )
  return lines


# Tables.


def _header(scale: _Scale) -> list[str]:
  """The columns of `_cells`."""
  columns = ['cross-validated accuracy %', 'test accuracy % (95 % interval)', f'cross-validated {scale.unit}']
  columns += [f'test {scale.unit} (95 % interval)', 'of calling all %']
  others = {'calls': 'calls', 'seconds': 'seconds, sequential', 'usd': '$ per 1,000'}
  return [*columns, *(name for key, name in others.items() if key != scale.cost_unit), 'seconds, parallel (p95)']


def _cells(row: dict[str, Any], scale: _Scale) -> list[str]:
  """What a setting estimated and what the test gave; dashes where there is none."""
  estimated, test = row['estimated'], row['measured']
  if test is None:
    return ['-'] * len(_header(scale))
  price, bounds = scale.text(test[scale.cost_unit]), ' to '.join(map(scale.text, test[f'{scale.cost_unit}_ci']))
  others = {'calls': tables.seconds, 'seconds': tables.seconds, 'usd': tables.dollars}
  parallel = f'{tables.seconds(test["parallel_seconds"])} ({tables.seconds(test["p95_seconds"])})'
  return [
    tables.percent(estimated['accuracy']),
    _accuracy(test),
    scale.text(estimated[scale.cost_unit]),
    f'{price} ({bounds})',
    tables.percent(test[scale.cost_unit] / scale.of_all),
    *(text(test[key]) for key, text in others.items() if key != scale.cost_unit),
    '-' if test['p95_seconds'] is None else parallel,
  ]


def _known(header: list[str], rows: list[list[str]]) -> tables.Table:
  """A table without the columns that nothing is known of."""
  kept_columns = [place for place in range(len(header)) if any(row[place] != '-' for row in rows)]
  return tables.Table([header[i] for i in kept_columns], [[row[i] for i in kept_columns] for row in rows])


def _settings(settings: list[int]) -> str:
  """The setting, or the settings of the folds."""
  return ', '.join(map(str, sorted(set(settings))))


def limits_table(results: dict[str, Any]) -> tables.Table:
  """What was asked for, what was chosen for it and estimated, and what the test gave."""
  scale, rows = _scale(results), []
  for number, row in enumerate(results['tradeoff']['constraints'], 1):
    chosen = ['-', '-'] if row['measured'] is None else [row['strategy'], _settings(row['operating_points'])]
    rows.append([str(number), f'`{row["constraint"]}`: {asked(row)}', kept(row), *chosen, *_cells(row, scale)])
  return _known(['#', 'asked for', 'on test', 'chosen', 'operating point', *_header(scale)], rows)


def best_table(results: dict[str, Any]) -> tables.Table:
  """Every strategy at the setting that estimated most, the most promising first."""
  found, scale = results['tradeoff'], _scale(results)
  rows = [
    [name, _settings(row['operating_points']), _gain(row, 'all_llms'), *_cells(row, scale)]
    for name, row in sorted(found['best'].items(), key=lambda item: -item[1]['estimated']['accuracy'])
  ]
  return _known(['strategy', 'operating point', 'vs all LLMs', *_header(scale)], rows)


def pareto(results: dict[str, Any]) -> list[dict[str, Any]]:
  """The settings to choose from, cheapest first: none estimated to be more accurate for as little.

  Returns:
    Rows of the curves, with their `strategy`.
  """
  found = results['tradeoff']
  settings: dict[tuple[float, float], dict[str, Any]] = {}  # of equals the first
  for name, curve in found['curves'].items():
    for row in curve:
      settings.setdefault(
        (row['estimated'][found['cost_unit']], row['estimated']['accuracy']), row | {'strategy': name}
      )
  best = metrics.pareto(*np.array(list(settings)).T)
  return [settings[key] for key, kept in sorted(zip(settings, best, strict=True)) if kept]


def pareto_table(results: dict[str, Any]) -> tables.Table:
  """The tradeoff that was estimated, and what the test gave."""
  scale = _scale(results)
  rows = [[row['strategy'], str(row['operating_point']), *_cells(row, scale)] for row in pareto(results)]
  return _known(['strategy', 'operating point', *_header(scale)], rows)


def confidences_table(results: dict[str, Any]) -> tables.Table:
  """How far each LLM's confidences are off, before and after calibration."""
  names = {'ece': 'calibration error (ECE)', 'brier': 'Brier score'}
  pairs = [(key, when) for key in names for when in ('before', 'after')]
  rows = [
    [llm, row['kind'], *('-' if row[when][key] is None else f'{row[when][key]:.3f}' for key, when in pairs)]
    for llm, row in results['tradeoff']['confidences'].items()
  ]
  return tables.Table(['LLM', 'calibrated by', *(f'{names[key]} {when}' for key, when in pairs)], rows)


def batch_table(results: dict[str, Any]) -> tables.Table:
  """What a budget for all test queries together bought."""
  scale, rows = _scale(results), []
  for row in results['tradeoff']['batch_budgets']:
    estimated = row['estimated'] | {scale.cost_unit: row['estimated']['cost']}
    rows.append([tables.percent(row['budget']), *_cells(row | {'estimated': estimated}, scale)])
  return _known(['budget, % of calling all', *_header(scale)], rows)


# Figures.


class _Style(NamedTuple):
  colour: str
  line: str
  width: float


# Ours are bold, others thin, rivals broken. What may coincide stays visible: dashes over a line.
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


def _draw_curves(axes: matplotlib.axes.Axes, results: dict[str, Any]) -> None:
  """A line for each strategy, the most accurate on test first in the legend; one band, as many hide each other."""
  scale, curves = _scale(results), results['tradeoff']['curves']
  for name in sorted(curves, key=lambda name: -max(row['measured']['accuracy'] for row in curves[name])):
    style = _STYLES.get(name, _OTHER)
    tests = [row['measured'] for row in curves[name]]
    x = [100 * test[scale.cost_unit] / scale.of_all for test in tests]
    y, low, high = 100 * np.array([(test['accuracy'], *test['accuracy_ci']) for test in tests], float).T
    above = style.width + ('--' in style.line)
    axes.plot(x, y, style.line, color=style.colour, linewidth=style.width, markersize=5, label=name, zorder=above)
    if name == 'adaptive':
      axes.fill_between(x, low, high, color=style.colour, alpha=0.12, linewidth=0)


def _draw_fixed(axes: matplotlib.axes.Axes, results: dict[str, Any]) -> None:
  """The vote of all LLMs and the best single LLM, with 95 % intervals."""
  scale = _scale(results)
  for key, marker, size, colour in (('all_llms', '*', 14, '#c1121f'), ('best_single', 'D', 7, 'black')):
    row = results['tradeoff']['references'][key]
    x, y = 100 * row[scale.cost_unit] / scale.of_all, 100 * row['accuracy']
    axes.vlines(x, *(100 * bound for bound in row['accuracy_ci']), color=colour, linewidth=1)
    axes.plot(x, y, marker, color=colour, markersize=size, linestyle='none', label=key, zorder=5)


def _crop(axes: matplotlib.axes.Axes, results: dict[str, Any]) -> None:
  """Leaves out what is far less accurate than the rest, which it would press together.

  The fixed choices, what was chosen for limits and the best of each strategy stay in sight, with their intervals.
  """
  scale, found = _scale(results), results['tradeoff']
  curves = [[row['measured'] for row in curve] for curve in found['curves'].values()]
  kept = [max(curve, key=lambda test: test['accuracy']) for curve in curves] + list(found['references'].values())
  kept += [row['measured'] for row in found['constraints'] if row['measured'] is not None]
  floor = min(test['accuracy_ci'][0] for test in kept) - 0.01
  shown = [test for test in itertools.chain(*curves, kept) if test['accuracy'] >= floor]
  bottom, top = max(100 * floor, axes.get_ylim()[0]), axes.dataLim.y1
  axes.set_ylim(bottom, top + 0.05 * (top - bottom))
  axes.set_xlim(80 * min(test[scale.cost_unit] for test in shown) / scale.of_all, 125)


def _draw_oracle(above: matplotlib.axes.Axes, axes: matplotlib.axes.Axes, oracle: float | None) -> None:
  """The oracle in a strip of its own, cut off from what is far below."""
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


def _numbered(results: dict[str, Any]) -> dict[tuple[float, float], str]:
  """The points chosen for limits (% of the price of calling all, accuracy in %), with the limits' numbers."""
  scale = _scale(results)
  points: dict[tuple[float, float], str] = {}
  for number, row in enumerate(results['tradeoff']['constraints'], 1):
    if row['measured'] is not None:
      point = 100 * row['measured'][scale.cost_unit] / scale.of_all, 100 * row['measured']['accuracy']
      points[point] = f'{points[point]}, {number}' if point in points else str(number)
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


def adaptive(results: dict[str, Any]) -> matplotlib.figure.Figure | None:
  """Accuracy against price of all strategies at all settings, with what was chosen for each limit."""
  if not results.get('tradeoff'):
    return None
  scale = _scale(results)
  figure = matplotlib.figure.Figure(figsize=(11, 7), layout='constrained')
  above, axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 16))
  _draw_curves(axes, results)
  _draw_fixed(axes, results)
  axes.set_xscale('log')
  axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
  axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f'{value:g}'))
  axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
  _crop(axes, results)
  axes.set_xlabel(f'{scale.words} per query, % of calling all LLMs (100 % = {scale.text(scale.of_all)} {scale.unit})')
  axes.set_ylabel('accuracy on test, %')
  axes.grid(alpha=0.25)
  figure.legend(*axes.get_legend_handles_labels(), fontsize=8, loc='outside right upper')
  glyph: dict[str, Any] = {'markeredgewidth': 0, 'color': 'black', 'linestyle': ''}
  limits = [
    matplotlib.lines.Line2D([], [], marker=f'${n}$', markersize=3 + 3 * len(str(n)), label=row['constraint'], **glyph)
    for n, row in enumerate(results['tradeoff']['constraints'], 1)
    if row['measured'] is not None
  ]
  if limits:
    figure.legend(handles=limits, title='chosen for', fontsize=8, title_fontsize=8, loc='outside right lower')
  _draw_oracle(above, axes, results['oracle']['accuracy'])
  above.set_title('What choosing calls buys (shaded, bars: 95 % intervals; boxed: what was chosen for a limit)')
  figure.draw_without_rendering()
  _write_numbers(axes, _numbered(results))
  return figure


def abstain(results: dict[str, Any]) -> matplotlib.figure.Figure | None:
  """Accuracy where the least sure queries stay unanswered, beside how far P(answer is right) can be believed."""
  if not results.get('tradeoff') or not results['tradeoff']['p_right']:
    return None
  found = results['tradeoff']['p_right']
  colour = _STYLES.get(found['strategy'], _OTHER).colour
  figure = matplotlib.figure.Figure(figsize=(10, 5), layout='constrained')
  grid = figure.add_gridspec(2, 2, height_ratios=(3, 1), width_ratios=(1.3, 1))
  left, top = figure.add_subplot(grid[:, 0]), figure.add_subplot(grid[0, 1])
  bottom = figure.add_subplot(grid[1, 1], sharex=top)
  share, accuracy = 100 * np.array(found['coverage'], float).T
  left.plot(share, accuracy, color=colour, linewidth=2)
  rest, gain = 100 * found['abstain_20']['accuracy'], 100 * found['abstain_20']['gain']
  left.axhline(rest - gain, color='black', linestyle=':', linewidth=1)
  left.annotate(f'all answered: {rest - gain:.1f} %', (0, rest - gain), (4, 3), textcoords='offset points', fontsize=9)
  left.plot((80, 80), (rest - gain, rest), 'o-', color=colour, markersize=8, markevery=[1], linewidth=1)
  # Below the curve, which falls.
  text = f'80 % answered: {rest:.1f} % right\n({gain:+.1f} points)'
  left.annotate(text, (80, rest - gain / 2), (-6, 0), textcoords='offset points', ha='right', va='center', fontsize=9)
  left.set(xlabel='queries answered, the surest first, %', ylabel='accuracy on these, %', xlim=(0, 100))
  left.set_title(f'Leaving the least sure unanswered ({found["strategy"]})', fontsize=10)
  left.grid(alpha=0.25)
  bins = found['reliability']
  figures.reliability_panels(top, bottom, bins['mean_confidence'], bins['frequency'], bins['count'], colour)
  top.set_ylabel('share of right answers')
  top.set_title(f'Is P(answer is right) to be believed? (ECE {found["ece"]:.3f})', fontsize=10)
  bottom.set(xlabel='P(answer is right)', ylabel='queries')
  return figure


FIGURES: dict[str, figures.Maker] = {'adaptive': adaptive, 'abstain': abstain}


# The section.

_EXPLANATION = """\
Settings are tuned, and chosen for a limit, on development queries (train and validation) alone, with confidences that
never saw their labels (*cross-validated*); what the test gave stands beside it, with 95 % bootstrap
intervals over queries. A limit is *missed, within the interval* when the interval on test still holds it. A gain
inside the noise of a paired test is a *tie*. Settings are counted from 0, the cheapest. *Parallel* seconds: calls that
need not wait for each other go out at once (mean, and the 95th percentile). The figure leaves out settings that are
far less accurate than all that was chosen. Prices are {price}.{own}
"""


def section(results: dict[str, Any]) -> list[str]:
  """The section of report.md, paragraph by paragraph; empty where nothing was tried."""
  found = results.get('tradeoff')
  if not found:
    return []
  scale = _scale(results)
  price = 'dollars per 1,000 queries' if scale.cost_unit == 'usd' else f'{scale.words} a query'
  own = f' The classifier takes {tables.seconds(results["timing"]["classifier_latency_s"])} s more.'
  sections = [
    '## Past the paper: whom to ask next, and when to stop\n',
    '\n'.join(f'- {line}' for line in lead(results)) + '\n',
    '![Accuracy against price of all strategies](figures/adaptive.png)\n',
  ]
  if found['constraints']:
    sections += ['### Constraints: cross-validated and measured\n', limits_table(results).markdown()]
  sections += [
    _EXPLANATION.format(price=price, own=own if scale.cost_unit == 'seconds' else ''),
    '### Every strategy at its most accurate\n',
    '\n'.join(f'- **{name}** {_EXPLAINED[name]}.' for name in found['best'] if name in _EXPLAINED) + '\n',
    best_table(results).markdown(),
  ]
  settings, count = pareto(results), sum(map(len, found['curves'].values()))
  sections += [
    '### The tradeoff\n',
    f'{len(settings)} of {count} settings are worth choosing: no other was as accurate for as little.\n',
    pareto_table(results).markdown(),
  ]
  if found['p_right']:
    sections += [
      '### When to abstain\n',
      f'How likely its answer is right, {found["p_right"]["strategy"]} says with a calibration error (ECE) of '
      f'{found["p_right"]["ece"]:.3f} and a Brier score of {found["p_right"]["brier"]:.3f} on test.\n',
      '![Accuracy by the share answered, and how far P(answer is right) can be believed](figures/abstain.png)\n',
    ]
  if found['confidences']:
    sections += ['### Confidences of single LLMs\n', confidences_table(results).markdown()]
  if found['batch_budgets']:
    sections += ['### One budget for all test queries together\n', batch_table(results).markdown()]
  return sections
