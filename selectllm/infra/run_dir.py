"""Ties a run directory to a config and to data, and notes what it was made with."""

import contextlib
import datetime
import importlib.metadata
import json
import logging
import pathlib
import platform
import subprocess
from collections.abc import Iterator
from typing import Any

import filelock
import ml_collections

from selectllm.infra import paths

_LOG = logging.getLogger(__name__)

# These say where to look, not what to do: a run may change them.
_LOCATIONS = ('mode', 'dataset.manual_dir', 'dataset.base_url', 'dataset.fallback', 'pool.file')
# And these say on what machines to do it, in what portions, and what to note meanwhile.
_DEVICES = ('mesh', 'profile', 'dataset.beam', 'evaluate.batch_size')
# And these are other modes' business.
_OTHER_MODES = ('collect', 'answer', 'compare', 'select', 'add_llm')
_FREE = (*_LOCATIONS, *_DEVICES, *_OTHER_MODES)
# What configs of earlier versions had where today's have `tradeoff`.
_EARLIER = 'frontier'
_PACKAGES = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'grain',
  'numpy',
  'transformers',
  'tensorflow-datasets',
)


class RunDirError(RuntimeError):
  """A run directory that belongs to another run."""


def default_workdir(config_name: str) -> pathlib.Path:
  """Names a new directory for a run of this config, runs/<config>/<date-time>."""
  return pathlib.Path('runs') / config_name / datetime.datetime.now().strftime('%Y-%m-%d_%H-%M-%S')


def flatten(value: Any, prefix: str = '') -> dict[str, Any]:
  """Flattens nested dicts into one dict from dotted names to leaves."""
  if not isinstance(value, dict):
    return {prefix: value}
  leaves: dict[str, Any] = {}
  for name, child in value.items():
    leaves |= flatten(child, f'{prefix}.{name}' if prefix else name)
  return leaves


def _within(field: str, sections: tuple[str, ...]) -> bool:
  """Tells whether a dotted name is one of these fields, or in one of these sections."""
  return f'{field}.'.startswith(tuple(f'{section}.' for section in sections))


def own_fields(config: dict[str, Any]) -> dict[str, Any]:
  """Keeps of a flattened config what decides the run's results; places, devices and other modes' fields do not."""
  return {field: value for field, value in config.items() if not _within(field, _FREE)}


def read(path: pathlib.Path) -> dict[str, Any]:
  """Reads what identifies a run, config.json or data.json.

  Raises:
    RunDirError: when it is damaged, or of a version whose runs this one does not understand.
  """
  try:
    content = json.loads(path.read_text())
  except ValueError as error:
    raise RunDirError(
      f'{path} is no JSON ({error}), so nobody knows whose run it is. Take another --workdir.'
    ) from error
  if _EARLIER in content and 'tradeoff' not in content:
    raise RunDirError(
      f'{path.parent} holds a run of an earlier version of selectllm, whose fields and reports had other names: make a '
      'new run in another directory, or check out the version that wrote it (git_commit in its environment.json)'
    )
  return content


def _claim(path: pathlib.Path, content: dict[str, Any], exempt: tuple[str, ...]) -> None:
  """Writes what identifies a run, or refuses to go on with a run that was something else.

  Args:
    path: Where it stands, or will.
    content: What identifies this run, as JSON knows it.
    exempt: Fields and sections that may differ.
  """
  content = json.loads(json.dumps(content))
  if not path.exists():
    with paths.atomic_write(path) as partial:
      partial.write_text(json.dumps(content, indent=2, sort_keys=True) + '\n')
    return
  there, here = flatten(read(path)), flatten(content)
  changed = [
    f'  {name}: {there.get(name, "absent")!r} there, {here.get(name, "absent")!r} now'
    for name in sorted(there.keys() | here.keys())
    if there.get(name) != here.get(name) and not _within(name, exempt)
  ]
  if changed:
    raise RunDirError(
      f'{path.parent} holds a run that differs:\n'
      + '\n'.join(changed)
      + '\nTake another --workdir, or give these values.'
    )


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[None]:
  """Keeps other runs out of the run directory, which is made if needed, for as long as the context lasts.

  There are no locks on gs://; the log says so.

  Raises:
    RunDirError: when another run is using it.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  if paths.is_remote(workdir):
    _LOG.info('%s cannot be locked: see to it that no other run uses it', workdir)
    yield
    return
  held = filelock.FileLock(workdir / '.lock')
  try:
    held.acquire(timeout=0)
  except filelock.Timeout as error:
    raise RunDirError(f'another run is using {workdir}; wait for it, or take another --workdir') from error
  with held:
    yield


def claim(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
  """Makes the run directory this config's, and notes versions and devices.

  Raises:
    RunDirError: when it is another config's, with the difference.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  claim_config(workdir, config)
  (workdir / 'environment.json').write_text(json.dumps(environment(), indent=2) + '\n')


def claim_config(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
  """Ties the run directory to its config.

  Raises:
    RunDirError: when it is another config's, with the difference.
  """
  # Evaluation is done anew in seconds, so it may differ from the run's first one; so may what is added to a run.
  exempt: tuple[str, ...] = _FREE
  if config.mode in ('evaluate', 'add_llm'):
    exempt = (*exempt, 'evaluate', 'tradeoff')
  _claim(workdir / 'config.json', json.loads(config.to_json_best_effort()), exempt)


def begun_with(workdir: pathlib.Path) -> str:
  """Reads the name of the data set that the run directory is tied to; empty for a new one."""
  path = workdir / 'data.json'
  return read(path)['name'] if path.exists() else ''


def claim_data(workdir: pathlib.Path, identity: dict[str, Any]) -> None:
  """Ties the run directory to its data, so that no run goes on with other data than it began with."""
  _claim(workdir / 'data.json', identity, ())


def environment() -> dict[str, Any]:
  """Collects versions, devices and the git commit, for the record."""
  import jax  # who only reads runs needs no devices

  try:
    here = pathlib.Path(__file__).parents[1]
    commit = subprocess.run(
      ['git', 'describe', '--always', '--dirty', '--abbrev=40'], cwd=here, capture_output=True, text=True, check=True
    ).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    commit = None
  return {
    'python': platform.python_version(),
    'platform': platform.platform(),
    'packages': {name: importlib.metadata.version(name) for name in _PACKAGES},
    'backend': jax.default_backend(),
    'devices': [str(device) for device in jax.devices()],
    'processes': jax.process_count(),
    'git_commit': commit,
  }
