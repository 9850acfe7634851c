"""The command: what it refuses by itself, and what it does not import."""

import pathlib
import subprocess
import sys

import pytest

from configs import jsonl
from selectllm import main, modes

ROOT = pathlib.Path(__file__).parents[1]
# The real command in this process, whatever it says of its arguments.
COMMAND = """
import sys
from absl import app
from selectllm import main
from selectllm.sweeps import main as sweeps
command = sweeps if '--print' in sys.argv else main
try:
  app.run(command.main, flags_parser=main.parse_flags)
except SystemExit as end:
  print(end.code)
print(*sorted(name for name in sys.modules if name.partition('.')[0] in ('jax', 'flax')))
"""
IMPORTS = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(getattr(package, '__path__', ()), f'{package.__name__}.'):
  importlib.import_module(module.name)
print(*sorted(name for name in sys.modules if name.partition('.')[0] in ('jax', 'flax')))
"""


def _last_line(code: str, *arguments: str) -> str:
  done = subprocess.run([sys.executable, '-c', code, *arguments], capture_output=True, text=True, cwd=ROOT)
  assert done.returncode == 0, done.stderr
  return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
  'arguments',
  [
    ['--help'],
    ['--config.mode=collect', '--workdir=nowhere', '--config.pool.file=none.yaml'],
    ['--config.mode=compare', '--workdir=nowhere', '--config.compare.runs=none'],
    ['--config=configs/mini.py:ablation=loss', '--workdir=nowhere', '--print'],
  ],
)
def test_commands_that_compute_nothing_do_without_jax(arguments):
  assert not _last_line(COMMAND, *arguments)
  assert not (ROOT / 'nowhere').exists()


@pytest.mark.parametrize('package', ['data', 'client', 'report', 'config', 'sweeps', 'modes.collect', 'modes.compare'])
def test_modules_that_compute_nothing_do_without_jax(package):
  assert not _last_line(IMPORTS, f'selectllm.{package}')


def test_an_unknown_mode_is_refused():
  config = jsonl.get_config()
  config.mode = 'predict'
  with pytest.raises(
    ValueError, match="'predict' is not one of train_and_evaluate, evaluate, collect, select, answer, compare, add_llm"
  ):
    main._run(config, None)


def test_every_mode_is_there():
  for name, mode in modes.MODES.items():
    assert callable(mode.load()), name


@pytest.mark.parametrize('mode', ['evaluate', 'collect', 'answer', 'add_llm'])
def test_a_mode_that_needs_a_workdir_says_so(mode):
  config = jsonl.get_config()
  config.mode = mode
  with pytest.raises(main.app.UsageError, match=f'--config.mode={mode} needs a --workdir'):
    main._run(config, None)
