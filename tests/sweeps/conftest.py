"""A small experiment with a grid, and the command that sweeps it."""

import collections.abc
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

CONFIG = """
from configs import jsonl


def get_config(argument=''):
  config = jsonl.get_config()
  config.update_from_flattened_dict({fields!r})
  return config


def get_hyper(hyper, argument=''):
  return {grid}
"""


@pytest.fixture
def config_file(
  tiny_encoder: pathlib.Path, responses_file: pathlib.Path, tmp_path: pathlib.Path
) -> collections.abc.Callable[[str], pathlib.Path]:
  """Writes a config file whose sweep is the grid, an expression, that is given."""
  fields = {
    'dataset.path': str(responses_file),
    'dataset.title': 'Sums',
    'encoder.name': str(tiny_encoder),
    'mesh.data': 1,
    'encoder.freeze': 'true',
    'evaluate.resamples': 50,
    'evaluate.knn_neighbours': (5, 20),
    'tradeoff.strategies': (),
  }

  def write(grid: str) -> pathlib.Path:
    path = tmp_path / 'tiny.py'
    path.write_text(CONFIG.format(fields=fields, grid=grid))
    return path

  return write


@pytest.fixture
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
  """One device and quick compilation for the runs, and one cache for all of them."""
  cache = tmp_path_factory.getbasetemp() / 'cache'
  return {**os.environ, 'SELECTLLM_CACHE': str(cache), 'XLA_FLAGS': '--xla_backend_optimization_level=0'}


@pytest.fixture
def start(environment) -> collections.abc.Iterator[collections.abc.Callable[..., subprocess.Popen]]:
  """Starts `python -m selectllm.sweeps.main` with arguments."""
  children = []

  def run(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, '-m', 'selectllm.sweeps.main', *map(str, arguments)]
    pipe = subprocess.PIPE
    children.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True))
    return children[-1]

  yield run
  for child in children:
    if child.poll() is None:
      child.terminate()
    child.communicate()
