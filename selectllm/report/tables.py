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
  return '-' if share is None else f'{100 * share:.1f}'


def seconds(value: float | None) -> str:
  """Seconds with three significant digits, `-` where unknown."""
  return '-' if value is None else f'{value:#.3g}'.rstrip('.')


def dollars(value: float | None) -> str:
  """Dollars per 1,000 queries, `-` where no price is known."""
  return '-' if value is None else f'{1000 * value:#.3g}'.rstrip('.')


def versus(row: dict[str, Any], reference: str) -> str:
  """The gain over a reference in points, `tie` inside the noise, `-` where there is none."""
  comparison = row['versus'][reference]
  if comparison is None:
    return '-'
  gain = f'{100 * comparison["delta"]:+.1f}'
  if comparison['p'] > SIGNIFICANT:
    return f'{gain} (tie)'
  return f'{gain} (p<0.001)' if comparison['p'] < 0.001 else f'{gain} (p={comparison["p"]:.2g})'


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
  """Every LLM's accuracy in each split, side by side, and what a call of it takes."""
  header = ['LLM', 'all %', 'train %', 'validation %', 'test %', 'missing', 'seconds a call', '$ per 1,000']
  rows = []
  for name, row in results['llms'].items():
    accuracy = [percent(row['accuracy'][part]) for part in ('all', 'train', 'validation', 'test')]
    rows.append([name, *accuracy, str(row['missing']), seconds(row['latency_s']), dollars(row['cost_usd'])])
  return Table(header, rows)


def trade_off_table(results: dict[str, Any]) -> Table:
  """What all sizes of a policy buy together."""
  rows = [
    [name, f'{100 * values["aiq"]:.1f}', percent(values['save'])] for name, values in results['trade_off'].items()
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
