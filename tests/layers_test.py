"""What needs no JAX starts without it, which takes a second less; the contracts of import-linter say so of imports."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# Runs a module as a command, however it ends, and prints which of these packages were imported.
RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
  runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
finally:
  print('imported:', *sorted({'flax', 'jax', 'optax', 'orbax', 'tensorflow_datasets'} & sys.modules.keys()))
"""
IMPORT = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
  room = importlib.import_module(name)
  for module in pkgutil.walk_packages(getattr(room, '__path__', ()), f'{name}.'):
    importlib.import_module(module.name)
print('imported:', *sorted({'flax', 'jax', 'optax', 'orbax'} & sys.modules.keys()))
"""


def _imported(code, *arguments):
  done = subprocess.run([sys.executable, '-c', code, *arguments], capture_output=True, text=True, cwd=ROOT)
  assert 'imported:' in done.stdout, done.stderr
  return done.stdout.rpartition('imported:')[2].split()


@pytest.mark.parametrize(
  'arguments',
  [
    ('selectllm.sweeps.main', '--config=mini:ablations', '--print'),
    ('selectllm.main', '--help'),
    ('selectllm.main', '--config=gsm8k:collect', '--help'),
    ('selectllm.main', '--config.mode=collect', '--workdir=nowhere', '--config.pool.file=none.yaml'),
    ('selectllm.main', '--config=common', '--config.mode=compare', '--config.compare.runs=no/such,run/there'),
  ],
  ids=lambda arguments: arguments[1],
)
def test_commands_that_compute_nothing_start_without_jax(arguments):
  assert _imported(RUN, *arguments) == []
  assert not (ROOT / 'nowhere').exists()


@pytest.mark.parametrize('room', ['client', 'config', 'data', 'report', 'sweeps', 'modes.collect', 'modes.compare'])
def test_rooms_that_compute_nothing_import_no_jax(room):
  assert _imported(IMPORT, f'selectllm.{room}') == []
