"""Reads the typed results of a run: python -m examples.read_report runs/own_data/run/report.json"""

import pathlib
import sys

from selectllm.evaluate import results


def main(report: pathlib.Path) -> list[str]:
  """Returns a line for each policy and for each constraint."""
  found = results.load(report)
  lines = []
  for name in found.selected:
    row = next(row for row in found.chosen if row.name == name)
    gain = row.versus['best_single']
    against = f', {100 * gain.delta:+.1f} points against the best single LLM (p={gain.p:.2g})' if gain else ''
    lines.append(f'{name}: {100 * row.accuracy:.1f} % right with {row.calls:.2f} calls{against}')
  for kept in found.tradeoff.constraints if found.tradeoff else ():
    if kept.measured:
      estimated, measured = kept.estimated.accuracy, kept.measured.accuracy
      lines.append(f'{kept.constraint}: {100 * estimated:.1f} % estimated, {100 * measured:.1f} % measured')
  print('\n'.join(lines))
  return lines


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
