import re
from typing import Any

import matplotlib.image
import msgspec
import numpy as np
import pytest

from selectllm.evaluate import results
from selectllm.report import figures, report, tables, tradeoff, tradeoff_figures
from tests.helpers import made_results

Content = dict[str, Any]
ALL_SECONDS, ALL_USD = 8.0, 0.004


def _estimate(accuracy: float, share: float, cost_unit: str) -> Content:
  """An operating point at a share of the cost of calling all three LLMs; seconds are unknown where calls count."""
  seconds = None if cost_unit == 'calls' else share * ALL_SECONDS
  usd = share * ALL_USD if cost_unit == 'usd' else None
  return {
    'accuracy': accuracy,
    'compute_seconds': seconds,
    'usd': usd,
    'calls': 3 * share,
    'wall_seconds': seconds and seconds / 2,
    'p95_wall_seconds': seconds,
  }


def _measurement(accuracy: float, share: float, cost_unit: str) -> Content:
  estimate = _estimate(accuracy, share, cost_unit)
  known = [key for key in ('compute_seconds', 'usd', 'calls') if estimate[key] is not None]
  bounds = {f'{key}_ci': (0.9 * estimate[key], 1.1 * estimate[key]) for key in known}
  return estimate | bounds | {'accuracy_ci': (accuracy - 0.05, accuracy + 0.05)}


def _curve(cost_unit: str, *points: tuple[float, float]) -> list[Content]:
  """Operating points whose estimate is a point more than what was measured."""
  return [
    {
      'operating_point': place,
      'estimated': _estimate(a + 0.01, share, cost_unit),
      'measured': _measurement(a, share, cost_unit),
    }
    for place, (a, share) in enumerate(points)
  ]


def _versus(accuracy: float, p: float = 0.2) -> Content:
  others = {'best_single': 0.7, 'all_llms': 0.81, 'static_weighted': 0.82, 'chain': 0.7}
  return {name: made_results.comparison(accuracy - other, p) for name, other in others.items()}


def _tradeoff(cost_unit: str = 'compute_seconds') -> Content:
  """Two strategies and a baseline, and constraints of which three chose the same operating point."""
  curves = {
    'adaptive': _curve(cost_unit, (0.5, 0.1), (0.75, 0.25), (0.8, 0.5)),
    'learned_vote': _curve(cost_unit, (0.45, 0.2), (0.85, 1.0)),
    'chain': _curve(cost_unit, (0.4, 0.2), (0.7, 0.5)),
  }

  def constraint(text: str, place: int | None, target: float | None, met: bool = True, within: bool = True) -> Content:
    if place is None:
      return {'constraint': text} | dict.fromkeys(
        ('strategy', 'operating_points', 'estimated', 'measured', 'target', 'met', 'within', 'versus')
      )
    found = {'constraint': text, 'strategy': 'adaptive', 'target': target, 'met': met, 'within': within}
    row = {key: curves['adaptive'][place][key] for key in ('estimated', 'measured')}
    return row | found | {'operating_points': [place], 'versus': _versus(row['measured']['accuracy'])}

  return {
    'cost_unit': cost_unit,
    'cost_is': 'estimated',
    'references': {
      'best_single': _measurement(0.7, 0.5, cost_unit),
      'all_llms': _measurement(0.81, 1.0, cost_unit),
      'static_weighted': _measurement(0.82, 1.0, cost_unit),
    },
    'curves': curves,
    'constraints': [
      constraint('accuracy>=best_single', 1, 0.7),
      constraint('accuracy>=all_llms', 2, 0.81, met=False),
      constraint('compute_seconds<=35%', 1, 2.8),
      constraint('p95_wall_seconds<=1.5', 1, 1.5, met=False, within=False),
      constraint('accuracy>=0.99', None, None),
      constraint('none', 2, None),
    ],
    'best': {
      name: {key: curve[-1][key] for key in ('estimated', 'measured')}
      | {'operating_points': [curve[-1]['operating_point']] * 2, 'versus': _versus(curve[-1]['measured']['accuracy'])}
      for name, curve in curves.items()
    },
    'confidence': 0.9,
    'p_right': {
      'strategy': 'adaptive',
      'ece': 0.0213,
      'brier': 0.1234,
      'reliability': {'mean_confidence': [None, 0.45, 0.9], 'frequency': [None, 0.5, 0.875], 'count': [0, 4, 8]},
      'coverage': [(0.25, 1.0), (0.5, 0.95), (0.8, 0.9), (1.0, 0.8)],
      'abstain_20': {'accuracy': 0.9, 'accuracy_ci': (0.85, 0.93), 'gain': 0.1},
    },
    'confidences': {
      'a|b': {'kind': 'platt', 'before': {'ece': 0.1, 'brier': 0.25}, 'after': {'ece': 0.02, 'brier': 0.2}},
      'unseen': {'kind': 'temperature', 'before': {'ece': None, 'brier': None}, 'after': {'ece': None, 'brier': None}},
    },
    'batch_budgets': [
      {
        'budget': 0.25,
        'estimated': {'accuracy': 0.74, 'cost': curves['adaptive'][1]['measured'][cost_unit]},
        'measured': curves['adaptive'][1]['measured'],
      }
    ],
  }


@pytest.fixture
def content_of(results_of):
  """Makes results with a trade-off in a unit of cost, as JSON has them."""

  def make(cost_unit: str = 'compute_seconds', **changes: Any) -> Content:
    kind = 'priced' if cost_unit == 'usd' else 'estimated'
    # A copy, so that a test can change what several rows have in common in one of them.
    shared = _tradeoff(cost_unit) | changes
    return msgspec.to_builtins(results_of(kind=kind)) | {'tradeoff': msgspec.to_builtins(shared)}

  return make


@pytest.fixture
def made(content_of):
  """Makes the same, typed."""
  return lambda *args, **changes: results.from_builtins(content_of(*args, **changes))


def _table(make: Any, found: results.Results) -> tables.Table:
  return make(found.tradeoff, tradeoff.cost_scale(found.tradeoff))


def _summary(content: Content) -> list[str]:
  found = results.from_builtins(content)
  return tradeoff.summary(found, found.tradeoff)


def _section(content: Content) -> str:
  return '\n'.join(tradeoff.section(results.from_builtins(content)))


COST_UNITS = ['compute_seconds', 'usd', 'calls']


def _column(table: tables.Table, name: str) -> list[str]:
  place = list(table.header).index(name)
  return [row[place] for row in table.rows]


def test_without_strategies_there_is_nothing(results_of, tmp_path):
  found = results_of()
  assert found.tradeoff is None
  assert tradeoff.section(found) == []
  assert '## Strategies' not in report.markdown(found)
  figures.draw(found, tmp_path / 'figures', tradeoff_figures.FIGURES)
  assert not list((tmp_path / 'figures').iterdir())


@pytest.mark.parametrize('cost_unit', COST_UNITS)
def test_the_section_is_whole_in_every_unit_of_cost(content_of, cost_unit):
  text = _section(content_of(cost_unit))
  assert '{' not in text
  assert not re.search(r'\bnan\b|\bNone\b', text)
  for table in re.findall(r'(?:^\|.*\n)+', text, re.MULTILINE):
    assert len({len(re.findall(r'(?<!\\)\|', line)) for line in table.splitlines()}) == 1
  assert ('of its summed compute' in text) == (cost_unit == 'compute_seconds')
  assert ('of its dollars' in text) == (cost_unit == 'usd')
  assert ('of its calls' in text) == (cost_unit == 'calls')
  assert ('$ per 1,000' in text) == (cost_unit == 'usd')
  assert ('To both times the classifier adds 0.250 s, which' in text) == (cost_unit == 'compute_seconds')


def test_the_report_holds_section_and_figures(made, tmp_path, capsys):
  found = made()
  report.write(tmp_path, found)
  text = (tmp_path / 'report.md').read_text()
  assert '\n'.join(tradeoff.section(found)) in text
  for picture in re.findall(r'!\[.*?\]\((.*?)\)', text):
    assert (tmp_path / picture).is_file()
  assert {'tradeoff.png', 'abstention.png'} <= {path.name for path in (tmp_path / 'figures').iterdir()}


def test_what_was_reached_is_said_with_its_share_of_the_cost(content_of):
  vote, single, most, met, rest = _summary(content_of())
  assert vote.startswith(
    '**The accuracy of the vote of all 3 LLMs is missed by 1.0 points, within the interval, at 50 % of its wall clock '
    'and 50 % of its summed compute**: adaptive answers 80.0 (75.0 to 85.0) % right, the vote of all 3 LLMs 81.0 '
    '(76.0 to 86.0) %, -1.0 (not resolved)'
  )
  assert 'is reached at 50 % of its wall clock and 50 % of its summed compute**' in single
  assert 'adaptive answers 75.0' in single
  assert 'at 50 % of the wall clock and 50 % of the summed compute of calling all: +' in most
  assert '; -1.0 (not resolved) points against the vote of all LLMs; ' in most
  assert '; +10.0 (not resolved) points against chain, the router or cascade that is best in cross-validation' in most
  assert met.startswith('**2 of 5 constraints are met on test** (')
  for words in (
    '`accuracy>=all_llms`: missed, within the interval',
    '`p95_wall_seconds<=1.5`: missed;',
    '`accuracy>=0.99`: nothing keeps it likely enough',
  ):
    assert words in met
  assert 'raises accuracy by 10.0 points' in rest
  assert '90.0 (85.0 to 93.0) % of the rest right' in rest


def test_latencies_are_called_what_they_are(content_of):
  content = content_of()
  for kind in ('measured', 'published'):
    content['dataset']['latency'] = kind
    text = _section(content).replace('\n', ' ')
    assert f'Costs are {kind} summed compute a query.' in text
    assert 'estimated summed compute' not in text
    assert 'seconds are estimated' not in text


def test_a_clear_miss_a_clear_gain_and_no_operating_point_are_resolved(content_of):
  content = content_of()
  first, second, *_ = content['tradeoff']['constraints']
  first |= {'measured': first['measured'] | {'accuracy': 0.9}, 'versus': _versus(0.9, p=0.001)}
  second |= {'within': False, 'measured': second['measured'] | {'accuracy': 0.7}, 'versus': _versus(0.7, p=0.001)}
  vote, single, *_ = _summary(content)
  assert 'is missed by 11.0 points at 50 %' in vote
  assert 'is exceeded at 50 %' in single
  assert 'not resolved' not in vote + single
  second |= {'estimated': None, 'measured': None, 'operating_points': None, 'strategy': None}
  assert 'No operating point is likely enough to reach the accuracy of the vote of all 3 LLMs' in _summary(content)[0]
  assert tradeoff.in_words(second['constraint'], None) == 'as accurate as the vote of all LLMs'


def test_constraints_that_a_fixed_choice_keeps_are_counted(content_of):
  content = content_of()
  content['tradeoff']['constraints'][0]['strategy'] = 'single:a, static_weighted'
  content['tradeoff']['constraints'][2]['strategy'] = 'adaptive, single:a'  # of two folds
  assert _summary(content)[3].endswith('; for 1 the same LLMs are called for every query.')


def test_abstaining_in_vain_is_said(content_of):
  content = content_of()
  content['tradeoff']['p_right']['abstain_20'] |= {'accuracy': 0.79, 'gain': -0.01}
  assert 'does not raise accuracy' in _summary(content)[-1]


@pytest.mark.parametrize(
  ('constraint', 'target', 'words'),
  [
    ('accuracy>=best_single', 0.7, 'as accurate as the best single LLM, 70.0 %'),
    ('accuracy>=0.9', None, 'at least 90.0 % right'),
    ('compute_seconds<=20', 20, 'summed compute of at most 20.0 s'),
    ('compute_seconds<=35%', 2.8, 'summed compute of at most 35 % of calling all, 2.80 s'),
    ('wall_seconds<=35%', None, 'wall clock of at most 35 % of calling all'),
    ('usd<=0.001', 0.001, 'at most $1.00 per 1,000 queries'),
    ('usd<=10%', 0.0004, 'at most 10 % of calling all, $0.400 per 1,000 queries'),
    ('p95_wall_seconds<=30', 30, 'wall clock of at most 30.0 s for 95 % of the queries'),
    ('query_compute_seconds<=30', None, 'summed compute expected to be at most 30.0 s for every query'),
    ('none', None, 'the most accurate, at any cost'),
  ],
)
def test_constraints_are_told_in_words(constraint, target, words):
  assert tradeoff.in_words(constraint, target) == words


def test_constraints_stand_beside_estimates_and_measurements(made):
  table = _table(tradeoff.constraints_table, made())
  assert _column(table, '#') == ['1', '2', '3', '4', '5', '6']
  assert _column(table, 'on test') == [
    'met', 'missed, within the interval', 'met', 'missed', 'nothing keeps it likely enough', '-'
  ]  # fmt: skip
  assert table.rows[0][3:5] == ['adaptive', '1']
  assert table.rows[0][5:] == [
    '76.0', '75.0 (70.0 to 80.0)', '2.00', '2.00 (1.80 to 2.20)', '25.0', '0.750', '1.00 (2.00)', '25.0'
  ]  # fmt: skip
  assert set(table.rows[4][3:]) == {'-'}


def test_folds_that_chose_different_operating_points_show_them_all(content_of):
  content = content_of()
  content['tradeoff']['constraints'][0]['operating_points'] = [2, 1, 2]
  table = _table(tradeoff.constraints_table, results.from_builtins(content))
  assert _column(table, 'operating point')[0] == '1, 2'
  text = '\n'.join(_summary(content | {'best_single': ['single:a', 'single:b']}))
  assert '**The accuracy of the best single LLM is' in text


def test_in_dollars_seconds_stand_beside_them(made):
  table = _table(tradeoff.best_table, made('usd'))
  assert _column(table, 'test $ per 1,000 (95 % interval)')[0] == '4.00 (3.60 to 4.40)'
  assert _column(table, 'summed compute, s (estimated)')[0] == '8.00'
  assert 'summed compute, s (estimated)' not in _table(tradeoff.best_table, made()).header


def test_strategies_are_compared_from_the_best_in_cross_validation(made):
  table = _table(tradeoff.best_table, made())
  assert _column(table, 'strategy') == ['learned_vote', 'adaptive', 'chain']
  assert _column(table, 'vs all LLMs') == ['+4.0 (not resolved)', '-1.0 (not resolved)', '-11.0 (not resolved)']


def test_the_tradeoff_is_of_estimates_not_of_the_test(content_of):
  content = content_of()

  def worth_choosing() -> list[tuple[str, int]]:
    found = results.from_builtins(content).tradeoff
    return [(name, row.operating_point) for name, row in tradeoff.pareto(found)]

  assert worth_choosing() == [('adaptive', 0), ('adaptive', 1), ('adaptive', 2), ('learned_vote', 1)]
  content['tradeoff']['curves']['chain'][0]['estimated']['accuracy'] = 0.6
  content['tradeoff']['curves']['adaptive'][2]['measured']['accuracy'] = 0.1
  found = worth_choosing()
  assert found[1:4] == [('chain', 0), ('adaptive', 1), ('adaptive', 2)]
  typed = results.from_builtins(content)
  scale = tradeoff.cost_scale(typed.tradeoff)
  assert len(tradeoff.pareto_table(tradeoff.pareto(typed.tradeoff), scale).rows) == len(found)
  content['tradeoff']['curves']['newest'] = content['tradeoff']['curves']['adaptive']
  assert worth_choosing() == found
  assert '5 of 10 operating points are worth choosing' in _section(content)


def test_what_is_unknown_has_no_column(made):
  table = _table(tradeoff.constraints_table, made('calls'))
  assert not [name for name in table.header if 'compute' in name or 'clock' in name or '$' in name]
  assert _column(table, 'test calls (95 % interval)')[0] == '0.750 (0.675 to 0.825)'
  assert 'calls' not in table.header
  assert 'calls' in _table(tradeoff.constraints_table, made()).header


def test_confidences_and_batches_have_their_tables(content_of):
  content = content_of()
  found = results.from_builtins(content)
  assert tradeoff.confidences_table(found.tradeoff.confidences).rows == [
    ['a|b', 'platt', '0.100', '0.020', '0.250', '0.200'],
    ['unseen', 'temperature', '-', '-', '-', '-'],
  ]
  scale = tradeoff.cost_scale(found.tradeoff)
  table = tradeoff.batch_table(found.tradeoff.batch_budgets, scale)
  assert _column(table, 'budget, % of calling all') == ['25.0']
  assert _column(table, 'expected summed compute, s (estimated)') == ['2.00']
  assert _column(table, 'test accuracy % (95 % interval)') == ['75.0 (70.0 to 80.0)']
  headings = ('When to abstain', 'Calibration', 'One budget', 'Constraints')
  assert all(f'### {heading}' in _section(content) for heading in headings)
  content['tradeoff'] |= {'p_right': None, 'confidences': {}, 'batch_budgets': [], 'constraints': []}
  assert not any(f'### {heading}' in _section(content) for heading in headings)
  assert tradeoff_figures.abstention(results.from_builtins(content)) is None


@pytest.mark.filterwarnings('error')
def test_without_constraints_no_point_is_numbered(made):
  results = made(constraints=[_tradeoff()['constraints'][4]])
  figure = tradeoff_figures.accuracy_and_cost(results)
  assert not figure.axes[-1].texts
  assert len(figure.legends) == 1


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('cost_unit', COST_UNITS)
def test_figures_are_drawn_without_a_warning(made, cost_unit, tmp_path):
  for name in ('one', 'two'):
    figures.draw(made(cost_unit), tmp_path / name, tradeoff_figures.FIGURES)
  for path in (tmp_path / 'one').iterdir():
    height, width, _ = matplotlib.image.imread(path).shape
    assert 400 < height < 1600
    assert 800 < width < 1600
    assert path.read_bytes() == (tmp_path / 'two' / path.name).read_bytes()


@pytest.mark.parametrize('cost_unit', COST_UNITS)
def test_strategies_stand_at_their_share_and_accuracy(made, cost_unit):
  found = made(cost_unit, curves=_tradeoff(cost_unit)['curves'] | {'newest': _tradeoff(cost_unit)['curves']['chain']})
  axes = tradeoff_figures.accuracy_and_cost(found).axes[-1]
  lines = {line.get_label(): line for line in axes.get_lines()}
  np.testing.assert_allclose(lines['adaptive'].get_xydata(), [(10, 50), (25, 75), (50, 80)])
  np.testing.assert_allclose(lines['newest'].get_xydata(), lines['chain'].get_xydata())
  np.testing.assert_allclose(lines['all_llms'].get_xydata(), [(100, 81)])
  np.testing.assert_allclose(lines['static_weighted'].get_xydata(), [(100, 82)])
  np.testing.assert_allclose(lines['best_single'].get_xydata(), [(50, 70)])
  assert lines['adaptive'].get_linewidth() > lines['chain'].get_linewidth()


def test_the_wall_clock_stands_beside_the_cost_where_it_is_known(made):
  for cost_unit, words in (('compute_seconds', 'summed compute'), ('usd', 'dollars')):
    *_, beside, axes = tradeoff_figures.accuracy_and_cost(made(cost_unit)).axes
    assert beside.get_xlabel().startswith('wall clock')
    assert axes.get_xlabel().startswith(words)
    assert beside.get_ylim() == axes.get_ylim()
    lines = {line.get_label(): line for line in beside.get_lines()}
    np.testing.assert_allclose(lines['adaptive'].get_xydata(), [(10, 50), (25, 75), (50, 80)])
  assert len(tradeoff_figures.accuracy_and_cost(made('calls')).axes) == 2


def test_the_figure_is_of_what_is_near_the_references_and_the_chosen_operating_points(made, content_of):
  axes = tradeoff_figures.accuracy_and_cost(made()).axes[-1]
  assert axes.get_ylim()[0] == pytest.approx(64)  # a point below the interval of the best single LLM
  assert 10 < axes.get_xlim()[0] < 25  # the cheapest setting above it takes 25 %
  content = content_of()
  content['tradeoff']['constraints'][0]['measured'] = content['tradeoff']['curves']['adaptive'][0]['measured']
  figure = tradeoff_figures.accuracy_and_cost(results.from_builtins(content))
  assert figure.axes[-1].get_ylim()[0] < 45
  assert figure.axes[-1].get_xlim()[0] < 10


def test_the_legend_is_in_the_order_of_the_curves(made):
  figure = tradeoff_figures.accuracy_and_cost(made())
  names, constraints = ([text.get_text() for text in legend.get_texts()] for legend in figure.legends)
  assert names[:3] == ['learned_vote', 'adaptive', 'chain']
  chosen = [(n, row) for n, row in enumerate(_tradeoff()['constraints'], 1) if row['measured']]
  assert constraints == [f'{n}  {row["constraint"]}' for n, row in chosen]


def test_chosen_points_carry_the_numbers_of_their_constraints_and_cover_none(made):
  figure = tradeoff_figures.accuracy_and_cost(made())
  axes = figure.axes[-1]
  assert {text.get_text(): text.xy for text in axes.texts} == {
    '1, 3, 4': (25.0, 75.0), '2, 6': (50.0, 80.0)
  }  # fmt: skip
  figure.draw_without_rendering()
  boxes = [text.get_bbox_patch().get_window_extent() for text in axes.texts]
  assert not boxes[0].overlaps(boxes[1])
  for line in axes.get_lines():
    for point in axes.transData.transform(line.get_xydata()) if line.get_transform() == axes.transData else ():
      assert not any(box.contains(*point) for box in boxes)


def test_abstaining_marks_its_point_and_the_diagram_leaves_out_empty_bins(made):
  left, top, bottom = tradeoff_figures.abstention(made()).axes
  curve, everything, point = left.get_lines()
  np.testing.assert_allclose(curve.get_xydata(), [(25, 100), (50, 95), (80, 90), (100, 80)])
  np.testing.assert_allclose(everything.get_ydata(), 80)
  np.testing.assert_allclose(point.get_xydata(), [(80, 80), (80, 90)])
  np.testing.assert_allclose(top.get_lines()[1].get_xydata(), [(0.45, 0.5), (0.9, 0.875)])
  assert [bar.get_height() for bar in bottom.patches] == [0, 4, 8]
  assert '0.021' in top.get_title()


def test_a_limit_on_what_is_not_known_is_not_judged(content_of):
  unknown = [
    {'constraint': text} | dict.fromkeys(_tradeoff('calls')['constraints'][4].keys() - {'constraint'})
    for text in ('compute_seconds<=35%', 'p95_wall_seconds<=1.5', 'usd<=10%', 'query_compute_seconds<=2')
  ]
  known = [row for row in _tradeoff('calls')['constraints'] if 'seconds' not in row['constraint']]
  text = _section(content_of('calls', constraints=[*known, *unknown]))
  assert text.count('cannot be judged: not known of every call') == len(unknown)
  assert f'of {len(known) - 1} constraints are met on test' in text
  assert 'constraints are met' not in _section(content_of('calls', constraints=unknown))
