"""The tables of a report, as cells: the document writes them as Markdown, the console draws them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import rich.box
import rich.markup
import rich.table

# A difference with a p-value above this is reported as a tie.
SIGNIFICANT = 0.05


class Table(NamedTuple):
  """A header and rows of text, all of the same length."""

  header: Sequence[str]
  rows: list[list[str]]

  def markdown(self) -> str:
    """The table in Markdown; numbers stand to the right."""
    rule = ['---', *['---:'] * (len(self.header) - 1)]
    lines = [[cell.replace('|', r'\|') for cell in cells] for cells in [self.header, rule, *self.rows]]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines) + '\n'

  def rich(self, title: str) -> rich.table.Table:
    """The table for a console."""
    table = rich.table.Table(title=title, title_justify='left', box=rich.box.SIMPLE)
    for position, name in enumerate(self.header):
      table.add_column(name, justify='right' if position else 'left', no_wrap=not position, overflow='fold')
    for cells in self.rows:
      table.add_row(*map(rich.markup.escape, cells))
    return table


def percent(share: float | None) -> str:
  """A share as percent with one decimal, `-` where unknown."""
  return '-' if share is None else f'{100 * share:z.1f}'


def with_interval(share: float | None, interval: Sequence[float | None]) -> str:
  """A share as percent with its interval in brackets, `-` where unknown."""
  return '-' if share is None else f'{percent(share)} ({" to ".join(map(percent, interval))})'


def seconds(value: float | None) -> str:
  """Seconds with three significant digits, `-` where unknown."""
  return '-' if value is None else f'{value:#.3g}'.rstrip('.')


def dollars(value: float | None) -> str:
  """Dollars per 1,000 queries, `-` where no price is known."""
  return '-' if value is None else f'{1000 * value:#.3g}'.rstrip('.')


def versus(row: dict[str, Any], reference: str) -> str:
  """The gain over a reference in points, `tie` inside the noise, `-` where there is none."""
  comparison = row['versus'][reference]
  return '-' if comparison is None else gain(comparison['delta'], comparison['p'])


def p_value(p: float | None) -> str:
  """A p-value with two digits, None where nothing varied."""
  return 'the same everywhere' if p is None else 'p<0.001' if p < 0.001 else f'p={p:.2g}'


def gain(delta: float, p: float) -> str:
  """A gain in points with its p-value, `tie` inside the noise."""
  points = f'{100 * delta:+.1f}'
  if p > SIGNIFICANT:
    return f'{points} (tie)'
  return f'{points} (p<0.001)' if p < 0.001 else f'{points} (p={p:.2g})'


def policies(results: dict[str, Any]) -> list[str]:
  """Names of the policies, the one that stands for them all first."""
  return list(results['selected'])


def headline_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
  """The rows of the main table: what depends on a size at the one chosen on validation, then what does not.

  Random subsets would always choose all LLMs; they are as large as the first policy's.
  """
  chosen = {row['name']: row for row in results['chosen']}
  by_key = {(row['name'], row['size']): row for row in results['methods']}
  by_name = {row['name']: row for row in results['methods']}
  rows = [chosen[name] for name in policies(results)]
  sizes = rows[0]['sizes']
  rows += [by_name['knn_top1'], *(chosen[name] for name in ('top_s', 'best_s') if name in chosen)]
  rows.append(by_key['random', max(sizes, key=sizes.count)])
  rows += [by_name[name] for name in ('all_llms', *results['best_single'], 'oracle') if name in by_name]
  return rows


def size_of(row: dict[str, Any]) -> str:
  """The size of a row; of a chosen one the size, or the sizes of the folds."""
  if 'sizes' in row:
    return ', '.join(str(size) for size in sorted(set(row['sizes'])))
  return '-' if row['size'] is None else str(row['size'])


def methods_table(rows: list[dict[str, Any]], results: dict[str, Any]) -> Table:
  """Methods as the paper tabulates them, with intervals and paired comparisons."""
  own = results['timing']['classifier_latency_s']
  classified = (*policies(results), 'knn_top1')  # the classifier, or its encoder, takes part
  with_cost = any(row['cost_usd'] is not None for row in rows)
  header = ['method', 's', 'accuracy %', '95 % interval', 'calls', 'seconds, parallel', 'seconds, sequential']
  header += ['$ per 1,000'] * with_cost + ['of the oracle %', 'vs best single', 'vs all LLMs', 'vs top_s']
  cells = []
  for row in rows:
    low, high = row['accuracy_ci']
    extra = own if row['name'] in classified else 0.0
    times = [row['latency_parallel_s'], row['latency_sequential_s']]
    cells.append(
      [
        row['name'],
        size_of(row),
        percent(row['accuracy']),
        f'{percent(low)} to {percent(high)}',
        '-' if row['calls'] is None else f'{row["calls"]:.2f}',
        *(seconds(None if value is None else value + extra) for value in times),
        *([dollars(row['cost_usd'])] * with_cost),
        percent(None if row['gap_to_oracle'] is None else 1 - row['gap_to_oracle']),
        *(versus(row, reference) for reference in ('best_single', 'all_llms', 'top_s')),
      ]
    )
  return Table(header, cells)


def gains_table(results: dict[str, Any]) -> Table:
  """What each policy gains over fixed choices, subsets of its own size among them, in points, with 95 % intervals."""
  names = {'best_single': 'best single LLM', 'all_llms': 'all LLMs', 'top_s': 'top_s', 'best_s': 'best_s'}
  by_name = {row['name']: row for row in results['chosen']}
  cells = []
  for policy in policies(results):
    row = by_name[policy]
    gains = []
    for reference in names:
      comparison = row['versus'][reference]
      low, high = comparison['ci'] if comparison else (None, None)
      interval = '' if low is None or high is None else f', {100 * low:+.1f} to {100 * high:+.1f}'
      gains.append(versus(row, reference) + interval)
    cells.append([policy, size_of(row), *gains])
  return Table(['points gained over', 's', *names.values()], cells)


def console_table(results: dict[str, Any]) -> Table:
  """The main table's most telling columns: what fits a terminal."""
  table = methods_table(headline_rows(results), results)
  columns = ['method', 's', 'accuracy %', 'calls', 'seconds, sequential', 'vs best single', 'vs all LLMs']
  kept = [table.header.index(name) for name in columns]
  header = [name.removesuffix(', sequential') for name in columns]
  return Table(header, [[cells[place] for place in kept] for cells in table.rows])


def llms_table(results: dict[str, Any]) -> Table:
  """Every LLM's accuracy in each split, side by side with 95 % intervals, and what a call of it takes."""
  header = ['LLM', 'all %', 'train %', 'validation %', 'test %', 'missing', 'seconds a call', '$ per 1,000']
  rows = []
  for name, row in results['llms'].items():
    parts = ('all', 'train', 'validation', 'test')
    accuracy = [with_interval(row['accuracy'][part], row['accuracy_ci'][part]) for part in parts]
    rows.append([name, *accuracy, str(row['missing']), seconds(row['latency_s']), dollars(row['cost_usd'])])
  return Table(header, rows)


def leaks_table(results: dict[str, Any]) -> Table:
  """How many queries of one split have their question, or nearly theirs, in another."""

  def share(count: int | None, of: int) -> str:
    return '-' if count is None else f'{count:,} ({percent(count / of)} %)'

  rows = [
    [
      f'{row["of"]} in {row["within"]}',
      f'{row["queries"]:,}',
      share(row['exact'], row['queries']),
      share(row['near'], row['queries']),
    ]
    for row in results['contamination']['leaks']
  ]
  return Table(['queries of one split in another', 'queries', 'the same question', 'nearly the same'], rows)


def leak_examples_table(results: dict[str, Any]) -> Table:
  """Pairs of queries that are alike, to look at."""
  rows = []
  for pair in results['contamination']['examples']:
    # As code, so that no sign in them is taken for markup.
    texts = ['`' + text.replace('`', "'") + '`' for text in pair['texts']]
    cells = [f'{id_} ({split})' for id_, split in zip(pair['ids'], (pair['of'], pair['within']), strict=True)]
    rows.append([f'{pair["similarity"]:.2f}', f'{cells[0]}: {texts[0]}', f'{cells[1]}: {texts[1]}'])
  return Table(['similarity', 'query', 'is like'], rows)


def clean_table(results: dict[str, Any]) -> Table:
  """What methods reach on the test queries that neither train nor validation holds."""
  rows = []
  for row in results['contamination']['methods']:
    known = None not in (row['accuracy'], row['clean_accuracy'])
    change = f'{100 * (row["clean_accuracy"] - row["accuracy"]):+.1f}' if known else '-'
    clean = with_interval(row['clean_accuracy'], row['clean_ci'])
    rows.append([row['name'], percent(row['accuracy']), clean, change])
  return Table(['method', 'all test queries %', 'without duplicates %', 'change, points'], rows)


# What the features of `analysis.explain` are called.
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


def by_task_table(results: dict[str, Any]) -> Table:
  """Accuracy by category, with intervals."""
  rows = results['by_task']
  names = list(dict.fromkeys(name for row in rows for name in row['methods']))
  cells = []
  for row in rows:
    accuracies = []
    for name in names:
      method = row['methods'].get(name)
      interval = ' to '.join(map(percent, method['accuracy_ci'])) if method else ''
      accuracies.append(f'{percent(method["accuracy"])} ({interval})' if method else '-')
    cells.append([row['task'], f'{row["queries"]:,}', *accuracies])
  return Table(['category', 'queries', *names], cells)


def gap_table(results: dict[str, Any]) -> Table:
  """Where the oracle is right and the headline policy is not: every bin of every feature."""
  found = results['error_analysis']
  header = ['feature', 'bin', 'queries', 'oracle right %', f'{found["policy"]} right %', 'only the oracle %']
  cells = []
  for feature in found['features']:
    for place, row in enumerate(feature['bins']):
      cells.append(
        [
          '' if place else FEATURES[feature['name']],
          row['bin'],
          f'{row["queries"]:,}',
          *(percent(row[field]) for field in ('oracle', 'accuracy', 'lost')),
          ' to '.join(map(percent, row['lost_ci'])),
        ]
      )
  return Table([*header, '95 % interval'], cells)


def policy_tradeoff_table(results: dict[str, Any]) -> Table:
  """What all sizes of a policy buy together."""
  rows = [
    [name, f'{100 * values["aiq"]:.1f}', percent(values['save'])] for name, values in results['policy_tradeoff'].items()
  ]
  return Table(
    ['policy', 'mean accuracy over the latency range (AIQ) %', 'latency saved at best-single accuracy %'], rows
  )


def classifier_table(results: dict[str, Any]) -> Table:
  """How well the confidences predict who is right, on test."""
  names = {
    'weighted_f1': 'weighted F1',
    'macro_f1': 'macro F1',
    'auroc': 'AUROC',
    'brier': 'Brier score',
    'ece': 'calibration error (ECE)',
  }
  values = results['classifier']
  return Table(
    ['measure', 'test'], [[label, '-' if values[key] is None else f'{values[key]:.3f}'] for key, label in names.items()]
  )
