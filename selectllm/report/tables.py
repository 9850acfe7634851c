"""Makes the tables of a report, as cells: the document writes them as Markdown, the console draws them."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import rich.box
import rich.markup
import rich.table

from selectllm.evaluate import results

# Heads of columns of the two times of a query.
WALL_CLOCK, COMPUTE = 'wall clock, s', 'summed compute, s'
OVERLOOKED = 'reference ends wrong responses %'
SECONDS_A_CALL = 'seconds a call'
REFERENCES = {
  'best_single': 'best single LLM',
  'all_llms': 'all LLMs',
  'static_weighted': 'all LLMs, weighted',
  'top_s': 'top_s',
  'best_s': 'best_s',
}
# Titles of the features of `error_analysis.explain`.
FEATURES = {
  'words': 'length in words',
  'tokens': 'length in tokens that the encoder read',
  'numbers': 'numbers',
  'operations': 'arithmetic operations',
  'reading_ease': 'reading ease (Flesch)',
  'entities': 'named entities',
  'agreement': 'LLMs that agree, %',
  'llms_right': 'LLMs that are right',
  'category': 'category',
}


class Table(NamedTuple):
  """A header and rows of text, all of the same length."""

  header: Sequence[str]
  rows: list[list[str]]

  def markdown(self) -> str:
    """Returns the table in Markdown; numbers are aligned to the right."""
    rule = ['---', *['---:'] * (len(self.header) - 1)]
    lines = [[plain(cell).replace('|', r'\|') for cell in cells] for cells in [self.header, rule, *self.rows]]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines) + '\n'

  def rich(self, title: str) -> rich.table.Table:
    """Returns the table for a console."""
    table = rich.table.Table(title=rich.markup.escape(title), title_justify='left', box=rich.box.SIMPLE)
    for position, name in enumerate(self.header):
      table.add_column(
        rich.markup.escape(name), justify='right' if position else 'left', no_wrap=not position, overflow='fold'
      )
    for cells in self.rows:
      table.add_row(*map(rich.markup.escape, cells))
    return table

  def columns(self, places: Iterable[int]) -> 'Table':
    """Returns the table with these columns only."""
    places = list(places)
    return Table([self.header[place] for place in places], [[cells[place] for place in places] for cells in self.rows])


def plain(text: str) -> str:
  """Returns a text for Markdown, in one line: no name in it is taken for HTML, but for what stands as code."""
  return re.sub('(`[^`]*`)|<(?=[A-Za-z/!?])', lambda found: found[1] or '&lt;', ' '.join(text.splitlines()))


# Numbers as text; `-` for what is not known.


def known(value: float | None, show: Callable[[float], str]) -> str:
  """Returns a number as text, `-` where it is not known."""
  return '-' if value is None else show(value)


def percent(share: float | None) -> str:
  """Returns a share as percent with one decimal."""
  return known(share, lambda share: f'{100 * share:z.1f}')


def interval(bounds: results.Interval) -> str:
  """Returns an interval of shares in percent."""
  return ' to '.join(map(percent, bounds))


def with_interval(share: float | None, bounds: results.Interval) -> str:
  """Returns a share as percent with its interval in brackets."""
  return known(share, lambda share: f'{percent(share)} ({interval(bounds)})')


def seconds(value: float | None) -> str:
  """Returns seconds, or calls, with three significant digits."""
  return known(value, lambda value: f'{value:#.3g}'.rstrip('.'))


def dollars(value: float | None) -> str:
  """Returns dollars a query as dollars per 1,000 queries."""
  return seconds(None if value is None else 1000 * value)


def measure(value: float | None) -> str:
  """Returns a measure such as an ECE or an AUROC with three decimals."""
  return known(value, lambda value: f'{value:.3f}')


def p_value(p: float | None) -> str:
  """Returns a p-value with two digits; None stands for the test of what did not vary."""
  if p is None:
    return 'the same everywhere'
  # As many digits more as it takes to stay on its side of 0.05.
  digits = next(
    digits for digits in range(2, 18) if (float(f'{p:.{digits}g}') < results.SIGNIFICANT) == (p < results.SIGNIFICANT)
  )
  return 'p<0.001' if p < 0.001 else f'p={p:.{digits}g}'


def gain(of: results.Comparison | None) -> str:
  """Returns a gain in points with what its test says; `-` where nothing compares."""
  if of is None:
    return '-'
  said = 'not resolved' if of.differ else 'same'
  if of.resolved:
    said = p_value(of.p) + ('' if of.holds else ', not after Holm')
  return f'{100 * of.delta:+z.1f} ({said})'


def gain_interval(of: results.Comparison | None) -> str:
  """Returns the interval of a gain in points; `-` where nothing compares."""
  return '-' if of is None else ' to '.join(f'{100 * bound:+z.1f}' for bound in of.ci)


def versus(row: results.MethodResult, reference: str) -> str:
  """Returns a method's gain over a reference, `-` where there is no such reference."""
  return gain(row.versus[reference])


def joined(numbers: Iterable[int]) -> str:
  """Returns the different numbers that the folds chose, in order."""
  return ', '.join(map(str, sorted(set(numbers))))


def size_of(row: results.MethodResult) -> str:
  """Returns the size of a method, or the sizes that its folds chose."""
  return joined(row.sizes) if row.sizes is not None else '-' if row.size is None else str(row.size)


# Methods.


def of_kind(header: Iterable[str], found: results.Results) -> list[str]:
  """Returns a header whose columns of seconds are marked where these are estimated."""
  estimated = found.dataset.latency == 'estimated'
  return [
    f'{name} (estimated)' if estimated and name in (WALL_CLOCK, COMPUTE, SECONDS_A_CALL) else name for name in header
  ]


def policies(found: results.Results) -> list[str]:
  """Returns the names of the policies, the headline policy first."""
  return list(found.selected)


def headline_rows(found: results.Results) -> list[results.MethodResult]:
  """Returns the rows of the main table: methods with sizes at the size chosen on validation, then the others.

  Random subsets would always choose all LLMs; they are as large as the first policy's.
  """
  chosen = {row.name: row for row in found.chosen}
  by_key = {(row.name, row.size): row for row in found.methods}
  by_name = {row.name: row for row in found.methods}
  rows = [chosen[name] for name in policies(found)]
  sizes = rows[0].sizes or []
  rows += [by_name['knn_top1'], *(chosen[name] for name in ('top_s', 'static_weighted', 'best_s') if name in chosen)]
  rows.append(by_key['random', max(sizes, key=sizes.count)])
  return rows + [by_name[name] for name in ('all_llms', *found.best_single, 'oracle') if name in by_name]


def methods_table(rows: Sequence[results.MethodResult], found: results.Results) -> Table:
  """Tabulates methods as the paper does, with intervals and paired comparisons."""
  with_cost = any(row.cost_usd is not None for row in rows)
  header = ['method', 's', 'accuracy %', '95 % interval', 'calls', WALL_CLOCK, COMPUTE]
  header += ['$ per 1,000'] * with_cost + ['of the oracle %', 'vs best single', 'vs all LLMs', 'vs top_s']
  classified = (*policies(found), 'knn_top1')  # the classifier, or its encoder, takes part

  def cells(row: results.MethodResult) -> list[str]:
    own = found.timing.classifier_latency_s if row.name in classified else 0.0
    times = (row.wall_clock_s, row.compute_s)
    return [
      row.name,
      size_of(row),
      percent(row.accuracy),
      interval(row.accuracy_ci),
      known(row.calls, lambda calls: f'{calls:.2f}'),
      *(seconds(None if time is None else time + own) for time in times),
      *([dollars(row.cost_usd)] * with_cost),
      percent(None if row.gap_to_oracle is None else 1 - row.gap_to_oracle),
      *(versus(row, reference) for reference in ('best_single', 'all_llms', 'top_s')),
    ]

  return Table(of_kind(header, found), [cells(row) for row in rows])


def gains_table(found: results.Results) -> Table:
  """Tabulates what each policy gains over fixed choices, in points, with 95 % intervals.

  What is not resolved has in square brackets the smallest gain that so many queries would show.
  """

  def cell(row: results.MethodResult, reference: str) -> str:
    of = row.versus[reference]
    if of is None or not of.differ:
      return gain(of)
    detectable = '' if of.resolved or of.detectable is None else f' [{100 * of.detectable:.1f}]'
    return f'{gain(of)}, {gain_interval(of)}{detectable}'

  by_name = {row.name: row for row in found.chosen}
  rows = [by_name[policy] for policy in policies(found)]
  cells = [[row.name, size_of(row), *(cell(row, reference) for reference in REFERENCES)] for row in rows]
  return Table(['points gained over', 's', *REFERENCES.values()], cells)


def console_table(found: results.Results) -> Table:
  """Returns the columns of the main table that fit a terminal; gains that do not hold are in brackets."""
  names, references = ['method', 's', 'accuracy %', WALL_CLOCK, COMPUTE], ('best_single', 'all_llms')
  rows = headline_rows(found)
  table = methods_table(rows, found)
  table = table.columns(map(table.header.index, of_kind(names, found)))

  def short(of: results.Comparison | None) -> str:
    if of is None:
      return '-'
    return f'{100 * of.delta:+.1f}' if of.holds else f'({100 * of.delta:+.1f})'

  gains = [[short(row.versus[reference]) for reference in references] for row in rows]
  cells = [[name.removeprefix('single:'), *rest, *last] for (name, *rest), last in zip(table.rows, gains, strict=True)]
  return Table([*table.header, 'vs best single', 'vs all LLMs'], cells)


def oracle_table(found: results.Results) -> Table:
  """Tabulates the oracle beside what of it is more than luck, and how much each is over the best single LLM."""
  single = [row.accuracy for row in found.methods if row.name in found.best_single and len(found.best_single) == 1]
  rows = []
  for words, accuracy in (
    ('any LLM is right', found.oracle.accuracy),
    ('two LLMs or more give the same right answer', found.oracle.supported),
    ('an LLM is right, and again in another sample', found.oracle.repeated),
  ):
    if accuracy is not None:
      over = f'{100 * (accuracy - single[0]):+.1f}' if single and single[0] is not None else '-'
      rows.append([words, percent(accuracy), over])
  return Table(['the oracle, where', 'right %', 'points over the best single LLM'], rows)


def policy_tradeoff_table(tradeoff: dict[str, results.PolicyTradeoff]) -> Table:
  """Tabulates what all sizes of a policy reach together."""
  rows = [[name, percent(values.aiq)] for name, values in tradeoff.items()]
  return Table(['policy', 'mean accuracy on test over the range of summed compute (AIQ) %'], rows)


# LLMs and the classifier.


def llms_table(found: results.Results) -> Table:
  """Tabulates every LLM's accuracy in each split, with 95 % intervals, what may be misread, and what a call takes."""
  header = ['LLM', 'all %', 'train %', 'validation %', 'test %', 'missing', OVERLOOKED, SECONDS_A_CALL, '$ per 1,000']
  rows = []
  for name, row in found.llms.items():
    splits = ('all', 'train', 'validation', 'test')
    accuracy = [with_interval(row.accuracy[split], row.accuracy_ci[split]) for split in splits]
    misread = percent(row.overlooked.share if row.overlooked else None)
    rows.append([name, *accuracy, str(row.missing), misread, seconds(row.latency_s), dollars(row.cost_usd)])
  return Table(of_kind(header, found), rows)


def classifier_table(classifier: results.ClassifierQuality) -> Table:
  """Tabulates how well the confidences predict which LLM is right, on test."""
  rows = [
    ['weighted F1', measure(classifier.weighted_f1)],
    ['macro F1', measure(classifier.macro_f1)],
    ['AUROC', measure(classifier.auroc)],
    ['Brier score', measure(classifier.brier)],
    ['calibration error (ECE)', measure(classifier.ece)],
  ]
  return Table(['measure', 'test'], rows)


# Contamination.


def duplicates_table(contamination: results.Contamination) -> Table:
  """Tabulates how many queries of one split have their question, or nearly theirs, in another."""

  def share(count: int | None, of: int) -> str:
    return known(count, lambda count: f'{count:,} ({percent(count / of)} %)')

  rows = [
    [f'{row.of} in {row.within}', f'{row.queries:,}', share(row.exact, row.queries), share(row.near, row.queries)]
    for row in contamination.duplicates
  ]
  return Table(['queries of one split in another', 'queries', 'the same question', 'nearly the same'], rows)


def duplicate_examples_table(contamination: results.Contamination) -> Table:
  """Tabulates pairs of similar queries."""
  rows = []
  for pair in contamination.examples:
    # As code, so that no sign in them is taken for markup.
    texts = ['`' + text.replace('`', "'") + '`' for text in pair.texts]
    cells = [
      f'{id_} ({split}): {text}' for id_, split, text in zip(pair.ids, (pair.of, pair.within), texts, strict=True)
    ]
    rows.append([f'{pair.similarity:.2f}', *cells])
  return Table(['similarity', 'query', 'is like'], rows)


def clean_table(contamination: results.Contamination) -> Table:
  """Tabulates accuracies on the test queries without a duplicate in train or validation."""
  rows = []
  for row in contamination.methods:
    clean, change = with_interval(row.clean_accuracy, row.clean_ci), '-'
    if row.accuracy is not None and row.clean_accuracy is not None:
      change = f'{100 * (row.clean_accuracy - row.accuracy):+.1f}'
    rows.append([row.name, percent(row.accuracy), clean, change])
  return Table(['method', 'all test queries %', 'without duplicates %', 'change, points'], rows)


# Categories and the error analysis.


def by_task_table(rows: Sequence[results.TaskResult]) -> Table:
  """Tabulates accuracy by category, with intervals."""
  names = list(dict.fromkeys(name for row in rows for name in row.methods))

  def cell(method: results.TaskMethod | None) -> str:
    return with_interval(method.accuracy, method.accuracy_ci) if method else '-'

  cells = [[row.task, f'{row.queries:,}', *(cell(row.methods.get(name)) for name in names)] for row in rows]
  return Table(['category', 'queries', *names], cells)


def gap_table(analysis: results.ErrorAnalysis) -> Table:
  """Tabulates every bin of every feature: the accuracy of oracle and policy, and the gap between them."""
  header = ['feature', 'bin', 'queries', 'oracle right %', f'{analysis.policy} right %', 'only the oracle %']
  cells = [
    [
      '' if place else FEATURES[feature.name],
      row.bin,
      f'{row.queries:,}',
      *map(percent, (row.oracle, row.accuracy, row.lost)),
      interval(row.lost_ci),
    ]
    for feature in analysis.features
    for place, row in enumerate(feature.bins)
  ]
  return Table([*header, '95 % interval'], cells)
