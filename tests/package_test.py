"""The wheel: built from a copy, unpacked elsewhere, and used there, in an empty folder."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import ml_collections
import pytest

import selectllm
from selectllm.data import load

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope='module')
def unpacked(tmp_path_factory):
  folder = tmp_path_factory.mktemp('wheel')
  source = folder / 'source'
  for name in ('selectllm', 'configs'):
    ignored = shutil.ignore_patterns('__pycache__')
    shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
  for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, source)
  pip = [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation']
  built = subprocess.run([*pip, f'--wheel-dir={folder}', source], capture_output=True, text=True)
  assert built.returncode == 0, built.stderr
  (wheel,) = folder.glob('*.whl')
  with zipfile.ZipFile(wheel) as file:
    file.extractall(folder / 'unpacked')
  return folder / 'unpacked'


@pytest.fixture
def python(unpacked, tmp_path):
  def run(*arguments):
    environment = os.environ | {'PYTHONPATH': str(unpacked)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment)

  return run


def test_holds_one_package_its_version_its_types_and_the_command(unpacked):
  about = unpacked / f'selectllm-{selectllm.__version__}.dist-info'
  assert {path.name for path in unpacked.iterdir()} == {'selectllm', about.name}
  assert 'selectllm = selectllm.__main__:run' in (about / 'entry_points.txt').read_text()
  assert (unpacked / 'selectllm' / 'py.typed').exists()


def test_holds_the_recording(unpacked, python):
  code = (
    'import ml_collections; from selectllm.data import load; print(load.__file__);'
    'print(sum(1 for _ in load.make_builder("mini_pool", ml_collections.ConfigDict()).read_records()))'
  )
  read = python('-c', code)
  path = unpacked / 'selectllm' / 'data' / 'load.py'
  here = sum(1 for _ in load.make_builder('mini_pool', ml_collections.ConfigDict()).read_records())
  assert read.stdout.split() == [str(path), str(here)], read.stderr


def test_configs_go_by_name(unpacked, python):
  code = (
    'import sys; from selectllm import main; main.parse_flags(sys.argv);'
    'print(main._CONFIG.value.pool.file, main._CONFIG.value.dataset.folds, main.config_name())'
  )
  pools = unpacked / 'selectllm' / 'configs' / 'pools'
  for arguments, expected in (
    (['--config=mini'], f'{pools}/mini.yaml 0 mini'),
    (['--config', 'gsm8k:folds=5'], f'{pools}/gsm8k.yaml 5 gsm8k-folds=5'),
    ([], f'{pools}/gsm8k.yaml 0 gsm8k'),
  ):
    done = python('-c', code, *arguments)
    assert done.stdout.strip() == expected, done.stderr
    assert pathlib.Path(expected.split()[0]).exists()


def test_a_config_that_is_not_there_is_refused_with_those_that_are(python):
  done = python('-m', 'selectllm', '--config=gsm9k:folds=5')
  assert done.returncode == 1
  assert done.stderr == (
    "error: --config=gsm9k:folds=5: 'gsm9k' is neither a .py file nor one of gsm8k, jsonl, mini, mmlu, mmlu_pro\n"
  )


def test_configs_of_ones_own_build_on_those_of_the_package(python, tmp_path):
  (tmp_path / 'settings.py').write_text('EPOCHS = 7\n')
  (tmp_path / 'mine.py').write_text(
    'import settings\nfrom selectllm.configs import mini\n\n\n'
    'def get_config(argument=""):\n  config = mini.get_config()\n  config.train.epochs = settings.EPOCHS\n'
    '  return config\n'
  )
  code = 'import sys; from selectllm import main; main.parse_flags(sys.argv); print(main._CONFIG.value.train.epochs)'
  assert python('-c', code, '--config=mine.py').stdout == '7\n'


def test_without_the_extra_an_error_names_it(python):
  code = (
    'import importlib.util, sys; find = importlib.util.find_spec;'
    'importlib.util.find_spec = lambda name: None if name == "yarl" else find(name);'
    'from selectllm import main; main.parse_flags(sys.argv); main.main([""])'
  )
  done = python('-c', code, '--config=gsm8k:collect', '--workdir=run')
  assert done.stderr == "error: asking LLMs needs yarl: pip install 'selectllm[collect]'\n"
  assert done.returncode == 1


def test_without_the_extra_all_that_asks_no_llm_can_be_imported(python):
  code = (
    'import sys; sys.modules |= dict.fromkeys(("aiohttp", "uvloop", "yarl"));'
    'import selectllm; from selectllm import modes; selectllm.load;'
    '[mode.load() for name, mode in modes.MODES.items() if name not in ("answer", "collect")]'
  )
  done = python('-c', code)
  assert done.returncode == 0, done.stderr
