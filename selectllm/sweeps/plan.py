"""Plans a sweep: the points of its grid, and the runs that they need, each of them once."""

import copy
import difflib
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterable
from typing import Any, NamedTuple

import ml_collections
import msgspec

from selectllm import config as config_lib
from selectllm.evaluate import results
from selectllm.infra import paths, run_dir
from selectllm.sweeps import grid

# What the experiment itself is called on axes that do not name it.
BASE = 'base'
# With the scores, which come last, the directory is one to evaluate.
SHARED = ('config.json', 'data.json', 'predictions.npz')

_LONGEST_NAME = 100
# Commas separate the runs that the mode `compare` is given, so a name has none.
_JOINER = '--'
# These say which responses are used, and `pool.llms` too where each LLM has a published file of its own.
_DATA = ('name', 'path', 'task', 'extractor', 'query_includes_options')
_A_FILE_EACH = ('mmlu_pro_pool',)


class Run(NamedTuple):
  """One run of the main command.

  Attributes:
    name: Its directory below the sweep's.
    overrides: Fields that it sets, dotted names -> values.
    config: All fields.
  """

  name: str
  overrides: dict[str, Any]
  config: ml_collections.ConfigDict


class Point(NamedTuple):
  """One point of the grid, as tables name it.

  Attributes:
    axis: What is varied; empty for the experiment itself.
    variant: To what.
    seed: Of the run.
    run: The name of the run that it is read from; points whose configs are equal share one.
  """

  axis: str
  variant: str
  seed: int
  run: str


class Plan(NamedTuple):
  """A sweep.

  Attributes:
    points: In the grid's order.
    runs: By name.
    base: Names of the runs that differ from the experiment in nothing but the seed.
  """

  points: list[Point]
  runs: dict[str, Run]
  base: list[str]


def make(base: ml_collections.ConfigDict, spanned: grid.Grid, given: dict[str, Any]) -> Plan:
  """Expands a grid around an experiment, and checks every point of it.

  Args:
    base: The experiment.
    spanned: From a config's `get_hyper`.
    given: Fields of `base` that the command line set.

  Raises:
    ValueError: for a point that cannot be run, that is there twice, or a given field that no run would use.
  """
  if not spanned:
    raise ValueError('the sweep has no points')
  config_lib.check_options(base)
  points: list[Point] = []
  runs: dict[str, Run] = {}
  for labelled in spanned:
    axis, variant, overrides = _labels_and_overrides(labelled)
    config = _overridden(base, overrides, labelled)
    if (variant or BASE) == BASE and _differing(base, config):
      raise ValueError(f'{labelled}: {BASE!r} is what the experiment itself is called; name the variant otherwise')
    run = Run(_name(base, config), overrides, config)
    point = Point(axis, variant, config.seed, run.name)
    if any(point[:3] == other[:3] for other in points):
      raise ValueError(f'the sweep holds two points of the same axis, variant and seed: {labelled}')
    points.append(point)
    if runs.setdefault(run.name, run).config != config:
      raise ValueError(f'{labelled} and {runs[run.name].overrides} would be in the same directory, {run.name}')
  if unused := [field for field in given if all(field in run.overrides for run in runs.values())]:
    raise ValueError(f'config.{unused[0]}={given[unused[0]]!r} would be used nowhere: all points of the sweep set it')
  return Plan(points, runs, [run.name for run in runs.values() if not _differing(base, run.config)])


def _labels_and_overrides(point: grid.Point) -> tuple[str, str, dict[str, Any]]:
  """Returns axis, variant, and overrides by field; points without labels are named after what they override."""
  overrides = {name.removeprefix('config.'): value for name, value in point.items() if name.startswith('config.')}
  if strange := [name for name in point if name not in ('axis', 'variant') and not name.startswith('config.')]:
    raise ValueError(f'{point}: {strange[0]!r} is neither a field, config.{strange[0]}, nor axis or variant')
  varied = {name: value for name, value in overrides.items() if name != 'seed'}
  axis = point.get('axis', ', '.join(varied))
  variant = ', '.join(f'{name.rpartition(".")[-1]}={_text(value)}' for name, value in varied.items())
  return axis, point.get('variant', variant), overrides


def _overridden(
  base: ml_collections.ConfigDict, overrides: dict[str, Any], point: grid.Point
) -> ml_collections.ConfigDict:
  fields = run_dir.flatten(base.to_dict())
  for name in overrides:
    if name not in fields:
      near = difflib.get_close_matches(name, fields, n=1)
      raise ValueError(f'{point}: no such config field: {name}' + (f'; did you mean {near[0]}?' if near else ''))
    if not run_dir.own_fields({name: None}):
      raise ValueError(f'{point}: config.{name} cannot be swept, because it does not decide what a run finds')
  config, parse = copy.deepcopy(base), config_lib.TupleParser().parse
  overrides = {name: parse(value) if isinstance(fields[name], tuple) else value for name, value in overrides.items()}
  try:
    config.update_from_flattened_dict(overrides)
    config_lib.check_options(config)
  except (TypeError, ValueError) as error:
    raise ValueError(f'{point}: {error}') from error
  return config


def _text(value: Any) -> str:
  return '+'.join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _differing(base: ml_collections.ConfigDict, config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the fields but for the seed that differ from the experiment's."""
  before = run_dir.flatten(base.to_dict())
  after = run_dir.flatten(config.to_dict())
  return {name: value for name, value in after.items() if value != before[name] and name != 'seed'}


def _name(base: ml_collections.ConfigDict, config: ml_collections.ConfigDict) -> str:
  """Names a run's folder after what the run is, the same in every sweep around the same experiment; without comma."""
  differing = _differing(base, config)
  told = _JOINER.join(f'{name}={_text(value)}' for name, value in differing.items())
  name = re.sub(r'[^\w.=+-]+', '_', told)
  if name != told or len(name) > _LONGEST_NAME:
    name = f'{name[:_LONGEST_NAME]}-{hashlib.sha256(json.dumps(differing).encode()).hexdigest()[:8]}'
  return _JOINER.join(filter(None, [name, f'seed={config.seed}']))


def _own_fields(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the fields that decide a run's results, as JSON knows them."""
  return run_dir.own_fields(json.loads(json.dumps(run_dir.flatten(config.to_dict()))))


def _scored_by(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the fields that a run's classifier and its scores depend on: all but how they are evaluated."""
  return {name: value for name, value in _own_fields(config).items() if not name.startswith('evaluate.')}


def trainers(plan: Plan, workdir: pathlib.Path) -> dict[str, str]:
  """Finds for every run the one whose classifier it uses: the first of equals, or one that is trained already."""
  groups: dict[str, list[str]] = {}
  for run in plan.runs.values():
    groups.setdefault(json.dumps(_scored_by(run.config), sort_keys=True), []).append(run.name)
  chosen: dict[str, str] = {}
  for names in groups.values():
    trained = [name for name in names if is_scored(workdir / name)]
    chosen |= dict.fromkeys(names, (trained or names)[0])
  return chosen


def is_scored(directory: pathlib.Path) -> bool:
  """Returns True where a run directory holds the scores that an evaluation starts from."""
  return (directory / 'predictions.npz').exists()


def is_done(run: Run, workdir: pathlib.Path) -> bool:
  """Returns True where the report of a run is there and is of its config, and what else is read of it."""
  if not is_scored(workdir / run.name) or not (workdir / run.name / 'outcomes.npz').exists():
    return False
  try:
    found = results.load(workdir / run.name / 'report.json')
  except (OSError, ValueError):  # not there, not all of it, or of another version
    return False
  # The config of a run stays the one that it was trained with; the report says how it was evaluated.
  return msgspec.to_builtins(found.evaluate_config) == json.loads(json.dumps(run.config.evaluate.to_dict()))


def check_directories(plan: Plan, workdir: pathlib.Path) -> None:
  """Refuses to mix runs of this sweep with those of another experiment that are in the same directories.

  Raises:
    ValueError: with the first difference.
    run_dir.RunDirError: for a file that is damaged.
  """
  trained_by = trainers(plan, workdir)
  for run in plan.runs.values():
    path = workdir / run.name / 'config.json'
    if not path.exists():
      continue
    # Once there are scores they can be evaluated in any way; a training goes on with the config that it began with.
    trains = trained_by[run.name] == run.name and not is_scored(path.parent)
    there, here = run_dir.flatten(run_dir.read(path)), _own_fields(run.config) if trains else _scored_by(run.config)
    if differing := [name for name, value in here.items() if there.get(name) != value]:
      name = differing[0]
      raise ValueError(
        f'{path.parent} holds a run of another experiment: config.{name} is {there.get(name)!r} there, '
        f'{here[name]!r} now. Take another --workdir, or give these values.'
      )
  check_data(plan.runs.values(), workdir)


def check_data(runs: Iterable[Run], workdir: pathlib.Path) -> None:
  """Refuses to put runs into one table that were on other data than others, unless their configs say so.

  Raises:
    ValueError: with the first difference, and the directories of both runs.
    run_dir.RunDirError: for a file that is damaged.
  """
  first: dict[tuple[str, str], tuple[pathlib.Path, Any]] = {}
  for run in runs:
    directory = workdir / run.name
    if not (directory / 'data.json').exists():
      continue
    for what, here in _data_of(run, run_dir.read(directory / 'data.json')).items():
      other, there = first.setdefault(what, (directory, here))
      if here != there:
        raise ValueError(
          f'the runs of this sweep are not on the same data: {what[1]} is {there!r} in {other}, {here!r} in '
          f'{directory}. What they find cannot be compared: remove the run that is on the wrong data, or take another '
          '--workdir.'
        )


def _data_of(run: Run, data: dict[str, Any]) -> dict[tuple[str, str], Any]:
  """Returns what must be the same in all runs that have it: (the fields that say which data, its name) -> its value."""
  options = run.config.dataset
  fields = [options[name] for name in _DATA]
  read = [*fields, sorted(run.config.pool.llms)] if options.name in _A_FILE_EACH else fields
  facts = run_dir.flatten(data.get('llms', {}), 'llms')
  return {
    (str(fields), 'the data set'): data.get('name'),
    (str(read), 'its identity'): data.get('identity'),
    **{(str(fields), name): value for name, value in facts.items()},
  }


def share_classifier(trained: pathlib.Path, directory: pathlib.Path) -> None:
  """Makes a run directory of the scores of another run, to be evaluated in another way."""
  if is_scored(directory):
    return
  directory.mkdir(parents=True, exist_ok=True)
  for name in SHARED:
    with paths.atomic_write(directory / name) as partial:
      try:
        os.link(trained / name, partial)
      except OSError:  # another file system, or one without links
        shutil.copyfile(trained / name, partial)


def save(plan: Plan, workdir: pathlib.Path, **found: Any) -> None:
  """Writes which point is in which directory, and what was found, sweep.json."""
  points = [{**point._asdict(), 'overrides': plan.runs[point.run].overrides} for point in plan.points]
  with paths.atomic_write(workdir / 'sweep.json') as partial:
    partial.write_text(json.dumps({'points': points, **found}, indent=1, allow_nan=False) + '\n')
