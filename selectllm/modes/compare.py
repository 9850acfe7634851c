"""Runs the mode that compares finished runs on the queries that all of them tested."""

import glob
import pathlib

import ml_collections

from selectllm.evaluate import comparison, finished_runs
from selectllm.report import comparison as comparison_report


def compare(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Writes comparison.json, comparison.md and a figure, and shows the table on the console.

  Raises:
    FileNotFoundError: for a directory that is not there or holds no finished run.
    ValueError: for less than two runs, or runs without a query in common.
  """
  compared = finished_runs.load_runs(_find(config.compare.runs))
  comparison_report.write(workdir, comparison.compare_runs(compared, resamples=config.evaluate.resamples))


def _find(patterns: str) -> list[pathlib.Path]:
  """Returns the run directories that `config.compare.runs` names, each once, in its order."""
  found: dict[pathlib.Path, pathlib.Path] = {}
  for pattern in filter(None, map(str.strip, patterns.split(','))):
    pattern = str(pathlib.Path(pattern).expanduser())
    paths = [pathlib.Path(pattern)]
    if '*' in pattern and not paths[0].exists():  # may also match what is no run
      paths = [path for match in sorted(glob.glob(pattern)) if (path := pathlib.Path(match) / 'config.json').is_file()]
      paths = [path.parent for path in paths]
      if not paths:
        raise FileNotFoundError(f'config.compare.runs: no run directory matches {pattern!r}')
    for path in paths:
      found.setdefault(path.resolve(), path)
  if len(found) < 2:
    raise ValueError(
      f'config.compare.runs={patterns!r} names {len(found) or "no"} run: give at least two directories of finished '
      'runs, comma-separated, the one to compare with first'
    )
  return list(found.values())
