"""Selects the LLMs to call first for new queries, by a saved selector; calls nobody."""

import json
import pathlib

import ml_collections
import rich.console
import rich.table

from selectllm.data import queries
from selectllm.infra import paths
from selectllm.serve import selector

# As many are shown; with a workdir all are written.
_SHOWN = 20


def select(config: ml_collections.ConfigDict, workdir: pathlib.Path | None) -> None:
  """Prints the LLMs to call first for each query, and writes them to `selections.jsonl` where there is a workdir.

  Raises:
    selector.SelectorError: when the directory holds no selector that keeps the constraint.
    queries.QueryError: for queries that cannot be read.
  """
  options = config.select
  asked = queries.read(options.queries, options.manual_dir)
  chooser = selector.load(options.selector, options.limit, config.mesh)
  choices = chooser.select([query.query for query in asked])
  chosen = list(zip(asked, choices, strict=True))
  console = rich.console.Console(markup=False)  # names and ids are shown as they are
  console.print(_table(chooser, chosen[:_SHOWN]))
  if len(asked) > _SHOWN:
    console.print(f'... and {len(asked) - _SHOWN:,} more')
  console.print(_estimate(chooser), highlight=False)
  if workdir is None:
    return
  workdir.mkdir(parents=True, exist_ok=True)
  path = workdir / 'selections.jsonl'
  with paths.atomic_write(path) as partial, partial.open('w') as lines:
    for query, choice in chosen:
      line = {'query_id': query.query_id, 'query': choice.query, 'call': choice.llms, 'confidences': choice.confidences}
      lines.write(json.dumps(line, ensure_ascii=False) + '\n')
  console.print(f'Written: {path}')


def _table(chooser: selector.Selector, chosen: list[tuple[queries.Query, selector.Choice]]) -> rich.table.Table:
  table = rich.table.Table(title=f'LLMs to call first: {chooser.rule}, {chooser.limit.text}')
  for column in ('query', 'call first', 'likely right'):
    table.add_column(column, overflow='fold')
  for query, choice in chosen:
    likely = ', '.join(f'{llm} {100 * p:.0f} %' for llm, p in list(choice.confidences.items())[:3])
    table.add_row(query.query_id, ', '.join(choice.llms), likely)
  return table


def _estimate(chooser: selector.Selector) -> str:
  """Returns what to expect of the operating point, in words."""
  estimated = chooser.estimated
  text = f'In cross-validation this operating point answered {100 * (estimated["accuracy"] or 0):.1f} % right'
  if estimated['calls'] is not None:
    text += f' with {estimated["calls"]:.1f} calls'
  wall_clock, compute = estimated['wall_seconds'], estimated['compute_seconds']
  if wall_clock is not None and compute is not None:
    text += f', {wall_clock:.3g} s of wall clock and {compute:.3g} s of summed compute ({chooser.latency_is} latencies)'
  return text + '. Later calls depend on what the first ones answer.'
