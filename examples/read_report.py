"""Reads the typed results of a run: `python -m examples.read_report runs/own_data/run/report.json`."""

import pathlib
import sys

from selectllm.evaluate import results
from selectllm.report import tables


def main(report: pathlib.Path) -> list[str]:
  """Returns a line for each policy and for each constraint."""
  found = results.load(report)
  chosen = {row.name: row for row in found.chosen}
  lines = []
  for name in tables.policies(found):
    gain = tables.versus(chosen[name], 'best_single')
    lines.append(f'{name}: {tables.percent(chosen[name].accuracy)} % right, {gain} points over the best single LLM')
  for row in found.tradeoff.constraints if found.tradeoff else ():
    if row.estimated and row.measured:
      estimated, measured = tables.percent(row.estimated.accuracy), tables.percent(row.measured.accuracy)
      lines.append(f'{row.constraint}: {estimated} % right estimated, {measured} % measured')
  print('\n'.join(lines))
  return lines


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
