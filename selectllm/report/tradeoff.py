"""Writes the section of a report on strategies: constraints, cross-validated and measured trade-offs, abstention."""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from selectllm.evaluate import metrics, results
from selectllm.report import tables

# The operating points of a strategy trade accuracy for cost.
_EXPLAINED = {
  'adaptive': 'calls one LLM after the other, next the one with the largest expected gain for its cost given the '
  'answers so far, until none is worth its cost',
  'adaptive_stages': 'does the same, but may call two LLMs at once: at the same cost, but faster',
  'subset': 'calls several LLMs at once, for each query the subset with the best expected accuracy for its cost',
  'learned_vote': 'calls the s most confident LLMs; the weights of their votes are learned',
  'bayes_vote': 'calls the s most confident LLMs; the weight of a vote is the log-odds of its being right',
  'chain': 'calls LLMs in a fixed order, the next one only where those before were unsure',
  'frugal_cascade': 'calls LLMs in a fixed order until query, answer and response score high enough (FrugalGPT)',
  'knn_router': 'calls the LLM that was right most often on the most similar queries, less its cost',
  'mf_router': 'calls the LLM that five matrix factorisations of queries and LLMs prefer on average, less its cost',
  'clusters': "calls the LLMs that were right most often on the query's cluster (Avengers)",
}
_VOTE_OF_ALL = 'the vote of all LLMs'
_WEIGHTED = 'their vote with fixed weights'
_REFERENCES = {'best_single': 'the best single LLM', 'all_llms': _VOTE_OF_ALL, 'static_weighted': _WEIGHTED}


class CostScale(NamedTuple):
  """What costs are counted in.

  Attributes:
    quantity: The field of `results.Estimate` that holds the cost.
    unit: Of it.
    words: In a sentence.
    text: Writes a cost.
    of_all: The mean cost of calling all LLMs on test.
    mark: Stands behind seconds that are estimated.
    wall_clock: The scale of the wall clock, to stand beside; None where that is not known.
  """

  quantity: str
  unit: str
  words: str
  text: Callable[[float | None], str]
  of_all: float
  mark: str = ''
  wall_clock: 'CostScale | None' = None

  @property
  def both(self) -> list['CostScale']:
    """Returns the wall clock, where it is known, and the costs."""
    return [self.wall_clock, self] if self.wall_clock else [self]

  @property
  def head(self) -> str:
    """Returns the head of a column."""
    return f'{self.words}, s{self.mark}' if self.unit == 's' else self.unit

  def of(self, estimate: results.Estimate) -> float:
    """Returns a cost, NaN where it is not known."""
    return number(getattr(estimate, self.quantity))

  def percent_of_all(self, estimate: results.Estimate) -> float:
    """Returns a cost in percent of calling all LLMs."""
    return 100 * self.of(estimate) / self.of_all


def number(value: float | None) -> float:
  """Returns a number, NaN where it is not known."""
  return math.nan if value is None else value


def cost_scale(tradeoff: results.Tradeoff) -> CostScale:
  """Returns what a trade-off's costs are counted in."""
  everybody, mark = tradeoff.references['all_llms'], ' (estimated)' if tradeoff.cost_is == 'estimated' else ''
  wall_clock = CostScale('wall_seconds', 's', 'wall clock', tables.seconds, number(everybody.wall_seconds), mark)
  unit, words, text = {
    'compute_seconds': ('s', 'summed compute', tables.seconds),
    'usd': ('$ per 1,000', 'dollars', tables.dollars),
    'calls': ('calls', 'calls', tables.seconds),
  }[tradeoff.cost_unit]
  of_all = number(getattr(everybody, tradeoff.cost_unit))
  return CostScale(
    tradeoff.cost_unit, unit, words, text, of_all, mark, None if everybody.wall_seconds is None else wall_clock
  )


def _accuracy(measured: results.Measurement) -> str:
  return tables.with_interval(measured.accuracy, measured.accuracy_ci or (None, None))


def _gain(versus: dict[str, results.Comparison | None] | None, other: str) -> str:
  """Returns a gain over another method in points."""
  return tables.gain(versus[other] if versus else None)


# In words.


def in_words(constraint: str, target: float | None) -> str:
  """Returns a constraint in words, with the number that it comes to on test where that is known."""
  what, *bound = re.split('[<>]=', constraint)
  if what == 'none':
    return 'the most accurate, at any cost'
  if what == 'accuracy':
    if name := _REFERENCES.get(bound[0]):
      return f'as accurate as {name}' + ('' if target is None else f', {tables.percent(target)} %')
    return f'at least {tables.percent(float(bound[0]))} % right'

  def amount(value: float) -> str:
    return f'${tables.dollars(value)} per 1,000 queries' if what == 'usd' else f'{tables.seconds(value)} s'

  if bound[0].endswith('%'):
    most = f'{bound[0][:-1]} % of calling all' + ('' if target is None else f', {amount(target)}')
  else:
    most = amount(float(bound[0]))
  return {
    'wall_seconds': f'wall clock of at most {most}',
    'compute_seconds': f'summed compute of at most {most}',
    'usd': f'at most {most}',
    'p95_wall_seconds': f'wall clock of at most {most} for 95 % of the queries',
    'query_compute_seconds': f'summed compute expected to be at most {most} for every query',
  }[what]


def _is_judged(row: results.ConstraintResult, tradeoff: results.Tradeoff) -> bool:
  """Tells whether what a constraint is on is known of every call."""
  quantity = re.split('[<>]=', row.constraint)[0].removeprefix('query_')
  return quantity == 'none' or getattr(tradeoff.references['all_llms'], quantity) is not None


def _verdict(row: results.ConstraintResult, tradeoff: results.Tradeoff) -> str:
  """Returns whether the measurement on test meets a constraint."""
  if not _is_judged(row, tradeoff):
    return 'cannot be judged: not known of every call'
  if row.measured is None:
    return 'nothing keeps it likely enough'
  if row.constraint == 'none':
    return '-'
  return 'met' if row.met else 'missed, within the interval' if row.within else 'missed'


def _reached(
  row: results.ConstraintResult, key: str, name: str, reference: results.Measurement, scale: CostScale
) -> str:
  """Returns a sentence on the accuracy of a fixed choice: reached or not, and for what share of its cost."""
  if row.measured is None or row.versus is None:
    return f'**No operating point is likely enough to reach the accuracy of {name}.**'
  shares = [f'{100 * each.of(row.measured) / each.of(reference):.0f} % of its {each.words}' for each in scale.both]
  versus = row.versus[key]
  verdict = 'exceeded' if versus and versus.delta > 0 and versus.holds else 'reached'
  if not row.met:
    points = 100 * (number(row.target) - number(row.measured.accuracy))
    verdict = f'missed by {points:.1f} points' + (', within the interval,' if row.within else '')
  return (
    f'**The accuracy of {name} is {verdict} at {" and ".join(shares)}**: '
    f'{row.strategy} answers {_accuracy(row.measured)} % right, {name} {_accuracy(reference)} %, '
    f'{_gain(row.versus, key)}.'
  )


def _most_accurate(row: results.ConstraintResult, tradeoff: results.Tradeoff, scale: CostScale) -> str:
  """Returns a sentence on what is reached without a constraint, against fixed choices and the best baseline."""
  assert row.measured is not None
  others = dict(_REFERENCES)
  if best := tradeoff.best_baseline:
    others[best] = f'{best}, the router or cascade that is best in cross-validation'
  gains = '; '.join(f'{_gain(row.versus, other)} points against {name}' for other, name in others.items())
  shares = ' and '.join(f'{each.percent_of_all(row.measured):.0f} % of the {each.words}' for each in scale.both)
  return (
    f'**At any cost, {row.strategy} answers {tables.percent(row.measured.accuracy)} % right** '
    f'({tables.interval(row.measured.accuracy_ci or (None, None))}) at {shares} of calling all: {gains}.'
  )


def _calls_the_same(names: str) -> bool:
  """Tells whether what was chosen, for all folds, calls the same LLMs for every query."""
  return all(name.startswith('single:') or name in _REFERENCES for name in names.split(', '))


def _met(tradeoff: results.Tradeoff) -> str:
  """Returns how many constraints are met on test, and which are not."""
  judged = [row for row in tradeoff.constraints if row.constraint != 'none' and _is_judged(row, tradeoff)]
  words = {row.constraint: _verdict(row, tradeoff) for row in judged}
  missed = [f'`{constraint}`: {word}' for constraint, word in words.items() if word != 'met']
  count = f'{len(words) - len(missed)} of {len(words)}'
  same = [row for row in judged if _calls_the_same(row.strategy or '')]
  text = f'**{count} constraints are met on test**' + (f' ({"; ".join(missed)})' if missed else '')
  return text + (f'; for {len(same)} the same LLMs are called for every query.' if same else '.')


def _on_abstention(p_right: results.AnswerProbability) -> str:
  rest = p_right.abstain_20
  if rest.gain <= 0:
    return '**Leaving the least sure 20 % unanswered does not raise accuracy.**'
  return (
    f'**Leaving the least sure 20 % unanswered raises accuracy by {100 * rest.gain:.1f} points**: '
    f'{p_right.strategy} answers {tables.with_interval(rest.accuracy, rest.accuracy_ci)} % of the rest right.'
  )


def summary(found: results.Results, tradeoff: results.Tradeoff) -> list[str]:
  """Returns what the strategies reach, one sentence each."""
  scale, lines = cost_scale(tradeoff), []
  rows = {row.constraint: row for row in tradeoff.constraints}
  single = found.best_single
  names = {
    'all_llms': f'the vote of all {len(found.dataset.llms)} LLMs',
    'static_weighted': _WEIGHTED,
    # With folds there may be several.
    'best_single': 'the best single LLM' + (f' ({single[0].removeprefix("single:")})' if len(single) == 1 else ''),
  }
  for key, name in names.items():
    if row := rows.get(f'accuracy>={key}'):
      lines.append(_reached(row, key, name, tradeoff.references[key], scale))
  if (row := rows.get('none')) and row.measured is not None:
    lines.append(_most_accurate(row, tradeoff, scale))
  if any(row.constraint != 'none' and _is_judged(row, tradeoff) for row in tradeoff.constraints):
    lines.append(_met(tradeoff))
  return [*lines, _on_abstention(tradeoff.p_right)] if tradeoff.p_right else lines


# Tables.


def _header(scale: CostScale, foreseen: str = 'cross-validated accuracy %') -> list[str]:
  """Returns the columns of `_cells`."""
  columns = [foreseen, 'test accuracy % (95 % interval)', f'expected {scale.head}']
  columns += [f'test {scale.head} (95 % interval)', f'{scale.words}, % of all']
  others = {'calls': 'calls', 'compute_seconds': f'{tables.COMPUTE}{scale.mark}', 'usd': '$ per 1,000'}
  columns += [name for key, name in others.items() if key != scale.quantity]
  return [*columns, f'{tables.WALL_CLOCK}{scale.mark} (p95)', 'wall clock, % of all']


def _cells(accuracy: float | None, cost: float | None, measured: results.Measurement, scale: CostScale) -> list[str]:
  """Returns the expected accuracy and cost of an operating point, and what was measured on test."""
  bounds = getattr(measured, f'{scale.quantity}_ci') or (None, None)
  others = {'calls': tables.seconds, 'compute_seconds': tables.seconds, 'usd': tables.dollars}
  wall_clock = f'{tables.seconds(measured.wall_seconds)} ({tables.seconds(measured.p95_wall_seconds)})'
  return [
    tables.percent(accuracy),
    _accuracy(measured),
    scale.text(cost),
    f'{scale.text(scale.of(measured))} ({" to ".join(map(scale.text, bounds))})',
    tables.percent(scale.percent_of_all(measured) / 100),
    *(text(getattr(measured, key)) for key, text in others.items() if key != scale.quantity),
    *([wall_clock, tables.percent(scale.wall_clock.percent_of_all(measured) / 100)] if scale.wall_clock else '--'),
  ]


def _both(estimated: results.Estimate, measured: results.Measurement, scale: CostScale) -> list[str]:
  return _cells(estimated.accuracy, scale.of(estimated), measured, scale)


def _known_columns(header: list[str], rows: list[list[str]]) -> tables.Table:
  """Returns a table without the columns that nothing is known of."""
  return tables.Table(header, rows).columns(
    place for place in range(len(header)) if any(row[place] != '-' for row in rows)
  )


def constraints_table(tradeoff: results.Tradeoff, scale: CostScale) -> tables.Table:
  """Tabulates each constraint, the operating point chosen for it, its expected and its measured values."""
  header, rows = ['#', 'constraint', 'on test', 'strategy', 'operating point', *_header(scale)], []
  for place, row in enumerate(tradeoff.constraints, 1):
    cells = [str(place), f'`{row.constraint}`: {in_words(row.constraint, row.target)}', _verdict(row, tradeoff)]
    if row.strategy and row.operating_points and row.estimated and row.measured:
      cells += [row.strategy, tables.joined(row.operating_points), *_both(row.estimated, row.measured, scale)]
    rows.append(cells + ['-'] * (len(header) - len(cells)))
  return _known_columns(header, rows)


def best_table(tradeoff: results.Tradeoff, scale: CostScale) -> tables.Table:
  """Tabulates every strategy at its most accurate operating point, the best in cross-validation first."""
  best = sorted(tradeoff.best.items(), key=lambda item: -number(item[1].estimated.accuracy))
  rows = [
    [
      name,
      tables.joined(row.operating_points),
      _gain(row.versus, 'all_llms'),
      *_both(row.estimated, row.measured, scale),
    ]
    for name, row in best
  ]
  return _known_columns(['strategy', 'operating point', 'vs all LLMs', *_header(scale)], rows)


def pareto(tradeoff: results.Tradeoff) -> list[tuple[str, results.OperatingPoint]]:
  """Returns the operating points worth choosing, cheapest first: none was estimated as accurate for as little.

  Returns:
    Pairs of strategy and operating point.
  """
  points: dict[tuple[float, float], tuple[str, results.OperatingPoint]] = {}  # of equals the first
  for name, curve in tradeoff.curves.items():
    for row in curve:
      cost = number(getattr(row.estimated, tradeoff.cost_unit))
      points.setdefault((cost, number(row.estimated.accuracy)), (name, row))
  best = metrics.pareto(*np.array(list(points)).T)
  return [points[key] for key, chosen in sorted(zip(points, best, strict=True)) if chosen]


def pareto_table(points: list[tuple[str, results.OperatingPoint]], scale: CostScale) -> tables.Table:
  """Tabulates operating points worth choosing."""
  rows = [[name, str(row.operating_point), *_both(row.estimated, row.measured, scale)] for name, row in points]
  return _known_columns(['strategy', 'operating point', *_header(scale)], rows)


def confidences_table(confidences: dict[str, results.ConfidenceCalibration]) -> tables.Table:
  """Tabulates the calibration of each LLM's confidences, before and after it is corrected."""
  columns = ['calibration error (ECE) before', 'calibration error (ECE) after', 'Brier score before']
  rows = [
    [llm, row.kind, *map(tables.measure, (row.before.ece, row.after.ece, row.before.brier, row.after.brier))]
    for llm, row in confidences.items()
  ]
  return tables.Table(['LLM', 'calibrated by', *columns, 'Brier score after'], rows)


def batch_table(budgets: list[results.BatchBudget], scale: CostScale) -> tables.Table:
  """Tabulates what one budget for all test queries together reaches."""
  rows = [
    [tables.percent(row.budget), *_cells(row.estimated.accuracy, row.estimated.cost, row.measured, scale)]
    for row in budgets
  ]
  return _known_columns(['budget, % of calling all', *_header(scale, 'predicted accuracy %')], rows)


# The section.

_EXPLANATION = """\
Strategies are fitted, and operating points are chosen for a constraint, on the fitting queries (train and validation)
alone, with confidences of classifiers that did not see the labels of these queries: accuracies are *cross-validated*,
and what the calls of a rule are *expected* to take is what the rule takes on these queries. Beside it stands what was
measured on test, with 95 % intervals over queries (Wilson's of accuracies, else the bootstrap's). For a constraint,
an operating point of a rule, a single LLM or a vote of all is chosen that is estimated to keep it with a probability
of {confidence} % on as many new queries as the test has. It is *missed, within the interval* when the interval on
test still meets it. Gains are *not resolved* where their interval holds 0, as above.
Operating points are counted from 0, the cheapest. *Wall clock* is what the user of one query waits: calls of one stage
run in parallel, stages one after the other (mean, and the 95th percentile); *summed compute* is the seconds of all
calls, added up; *% of all* is in per cent of calling all LLMs at once. The figure leaves out operating points that are
far less accurate than all that were chosen. Costs are {costs}.{own}
"""


def section(found: results.Results) -> list[str]:
  """Returns the section of report.md, paragraph by paragraph; empty without strategies."""
  tradeoff = found.tradeoff
  if tradeoff is None:
    return []
  scale = cost_scale(tradeoff)
  kind = f'{found.dataset.latency} ' if scale.unit == 's' else ''
  costs = 'dollars per 1,000 queries' if scale.quantity == 'usd' else f'{kind}{scale.words} a query'
  own = f' To both times the classifier adds {tables.seconds(found.timing.classifier_latency_s)} s, which percentages '
  own += 'and constraints leave out.'
  own = own if scale.unit == 's' else ''
  sections = [
    '## Strategies: which LLM to call next, and when to stop\n',
    '\n'.join(f'- {line}' for line in summary(found, tradeoff)) + '\n',
    '![Accuracy and cost of all strategies](figures/tradeoff.png)\n',
  ]
  if tradeoff.constraints:
    sections += ['### Constraints: expected and measured\n', constraints_table(tradeoff, scale).markdown()]
  if found.dataset.latency == 'estimated':
    own += ' All seconds are estimated, as the note at the top says.'
  points = pareto(tradeoff)
  return [
    *sections,
    _EXPLANATION.format(confidence=round(100 * tradeoff.confidence), costs=costs, own=own),
    '### Every strategy at its most accurate operating point\n',
    '\n'.join(f'- **{name}** {_EXPLAINED[name]}.' for name in tradeoff.best if name in _EXPLAINED) + '\n',
    best_table(tradeoff, scale).markdown(),
    '### The trade-off\n',
    f'{len(points)} of {sum(map(len, tradeoff.curves.values()))} operating points are worth choosing: in '
    f'cross-validation no other was as accurate for as little {scale.words}.\n',
    pareto_table(points, scale).markdown(),
    *_further(tradeoff, scale),
  ]


def _further(tradeoff: results.Tradeoff, scale: CostScale) -> list[str]:
  """Returns the sections on abstention, calibration and batch budgets, where there are such results."""
  sections = []
  if p_right := tradeoff.p_right:
    sections += [
      '### When to abstain\n',
      f'{p_right.strategy} estimates how likely its answer is right, with a calibration error (ECE) of '
      f'{tables.measure(p_right.ece)} and a Brier score of {tables.measure(p_right.brier)} on test.\n',
      '![Accuracy by the share of queries answered, and calibration of P(answer is right)](figures/abstention.png)\n',
    ]
  if tradeoff.confidences:
    sections += ['### Calibration of the confidences\n', confidences_table(tradeoff.confidences).markdown()]
  if tradeoff.batch_budgets:
    sections += [
      '### One budget for all test queries\n',
      'The subset of each query is chosen by the accuracy that is *predicted* for it; of what is chosen the prediction '
      'is too high, as it is the highest of many.\n',
      batch_table(tradeoff.batch_budgets, scale).markdown(),
    ]
  return sections
