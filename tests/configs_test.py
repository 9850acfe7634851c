import importlib
import json
import pathlib
import subprocess
import sys

import ml_collections
import pytest

from configs import common, gsm8k, jsonl, mmlu
from selectllm.data import load

ROOT = pathlib.Path(__file__).parents[1]
NAMES = sorted(
  path.stem for path in (ROOT / 'configs').glob('*.py') if path.stem not in ('__init__', 'ablations', 'common')
)

# The real flags, without the run that follows them.
PARSE = """
import sys
from selectllm import main
main.parse_flags(sys.argv)
print(main._CONFIG.value.to_json_best_effort())
assert 'jax' not in sys.modules
"""


def flatten(value, prefix=''):
  if not isinstance(value, dict):
    return {prefix: value}
  return {
    name: leaf for key, child in value.items() for name, leaf in flatten(child, f'{prefix}.{key}'.strip('.')).items()
  }


def another(value):
  """Some other value of the same type."""
  if value is None:
    return 2.5  # a budget in dollars
  if isinstance(value, bool):
    return not value
  if isinstance(value, int):
    return value + 3
  if isinstance(value, float):
    return value + 0.25
  if isinstance(value, str):
    return 'a=b, "ç":d'
  return (7, 9) if value and isinstance(value[0], int) else ('phi-3.5', 'b/c')


def python(*arguments, cwd=ROOT):
  return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd)


def parse(*arguments):
  done = python('-c', PARSE, *arguments)
  assert done.returncode == 0, done.stderr
  return flatten(json.loads(done.stdout))


def main(*arguments):
  """Runs the real command with what it must refuse before anything is started; returns what it says."""
  done = python('-m', 'selectllm.main', *arguments)
  assert done.returncode == 1
  assert not done.stdout
  return done.stderr


@pytest.mark.parametrize('name', NAMES)
def test_every_config_says_what_it_is(name):
  module = importlib.import_module(f'configs.{name}')
  config = module.get_config()
  assert isinstance(config, ml_collections.ConfigDict)
  assert f'--config=configs/{name}.py' in module.__doc__
  assert config.dataset.name in load.BUILDERS
  assert config.mode == 'train_and_evaluate'
  if config.pool.file:
    assert pathlib.Path(config.pool.file).is_file()
  # All have the same fields, so that what is said of one holds for all.
  assert flatten(config.to_dict()).keys() == flatten(common.get_config().to_dict()).keys()


def test_a_config_is_made_anew_each_time():
  gsm8k.get_config().train.epochs = 99
  assert gsm8k.get_config().train.epochs != 99


@pytest.mark.parametrize('module', [gsm8k, jsonl])
def test_folds(module):
  assert module.get_config().dataset.folds == 0
  assert module.get_config('folds=5').dataset.folds == 5


def test_the_papers_experiments():
  for config, task, epochs in ((gsm8k.get_config('sldata'), 'gsm8k', 10), (mmlu.get_config(), 'mmlu', 5)):
    dataset, train, encoder = config.dataset, config.train, config.encoder
    assert (dataset.name, dataset.task, dataset.split, dataset.fallback) == ('sldata', task, 'published', 'none')
    assert config.pool.file.endswith(f'paper_{task}.yaml')
    assert (train.epochs, train.batch_size, train.learning_rate, train.head_learning_rate) == (epochs, 128, 2e-5, 2e-5)
    assert (encoder.name, encoder.max_length, encoder.pooling) == ('FacebookAI/roberta-base', 128, 'cls')
  assert gsm8k.get_config().dataset.split == 'hash'
  assert mmlu.get_config('collect').mode == 'collect'


@pytest.mark.parametrize('argument', [None, '', ','])
def test_no_argument(argument):
  assert common.parse_argument(argument, ('big',), folds=3) == {'folds': 3, 'words': []}


def test_arguments():
  def parse(argument):
    return common.parse_argument(argument, ('big', 'frozen'), folds=0, rate=1.0, name='x')

  assert parse('frozen,folds=5,big') == {'folds': 5, 'rate': 1.0, 'name': 'x', 'words': ['frozen', 'big']}
  assert parse('rate=2,name=a=b') == {'folds': 0, 'rate': 2.0, 'name': 'a=b', 'words': []}
  assert isinstance(parse('rate=2')['rate'], float)


@pytest.mark.parametrize('argument', ['fold=5', 'bigger', 'folds', 'big=1', '=5', 'folds=5,nope', ' big', 'words=3'])
def test_unknown_arguments_are_refused(argument):
  with pytest.raises(ValueError, match=r'is not one of: big, folds=\.\.\.') as error:
    common.parse_argument(argument, ('big',), folds=0)
  assert repr(argument.split(',')[-1]) in str(error.value)


@pytest.mark.parametrize('argument', ['folds=five', 'folds=', 'folds=1.5'])
def test_arguments_of_another_type_are_refused(argument):
  with pytest.raises(ValueError, match=f"config argument '{argument}': folds must be of type int"):
    gsm8k.get_config(argument)


@pytest.mark.parametrize('name', NAMES)
def test_every_field_can_be_overridden(name):
  default = flatten(importlib.import_module(f'configs.{name}').get_config().to_dict())
  wanted = {field: another(value) for field, value in default.items()}
  parsed = parse(f'--config=configs/{name}.py', *(f'--config.{field}={value}' for field, value in wanted.items()))
  expected = {field: list(value) if isinstance(value, tuple) else value for field, value in wanted.items()}
  assert parsed == expected


def test_fields_that_are_not_named_keep_their_defaults():
  default = flatten(json.loads(jsonl.get_config('folds=5').to_json_best_effort()))
  changed = parse('--config=configs/jsonl.py:folds=5', '--config.train.epochs=2', '--config.pool.llms=one')
  assert changed == default | {'train.epochs': 2, 'pool.llms': ['one']}


@pytest.mark.parametrize(
  ('given', 'llms'),
  [
    ('Yi-34B,Qwen1.5-72B-Chat,gemma-7b', ['Yi-34B', 'Qwen1.5-72B-Chat', 'gemma-7b']),
    ("('Yi-34B', 'a, b')", ['Yi-34B', 'a, b']),
    ('"gpt-4o ($2.5 in, $10 out)",llama3.2:latest', ['gpt-4o ($2.5 in, $10 out)', 'llama3.2:latest']),
    ("'a, b' , org/model-1.0_x", ['a, b', 'org/model-1.0_x']),
    ("it's,two words,", ["it's", 'two words']),
    ('"a, b"', ['a, b']),
    ('gpt-4-1106', ['gpt-4-1106']),
    ('', []),
  ],
)
def test_names_are_given_with_commas_between_or_as_python_has_them(given, llms):
  assert parse('--config=configs/mmlu_pro.py', f'--config.pool.llms={given}')['pool.llms'] == llms
  assert parse('--config=configs/mmlu_pro.py', '--config.pool.llms', given)['pool.llms'] == llms


def test_all_fields_of_several_texts_are_read_alike():
  parsed = parse('--config.tradeoff.limits=accuracy>=all_llms,seconds<=10%', '--config.evaluate.knn_neighbours=5,10')
  assert parsed['tradeoff.limits'] == ['accuracy>=all_llms', 'seconds<=10%']
  assert parsed['evaluate.knn_neighbours'] == [5, 10]


def test_default_config():
  assert parse('--config.seed=3') == flatten(json.loads(gsm8k.get_config().to_json_best_effort())) | {'seed': 3}


@pytest.mark.parametrize(
  ('arguments', 'nearest'),
  [
    (['--config.dataset.manul_dir=x'], 'manual_dir'),
    (['--config.datset.manual_dir=x'], 'dataset'),
    (['--config=configs/jsonl.py', '--config.dataset.paths=x'], 'path'),
    (['--config', 'configs/jsonl.py:folds=5', '--config.train.epoch', '3'], 'epochs'),
  ],
)
def test_a_mistyped_field_is_refused_with_the_nearest(arguments, nearest):
  said = main(*arguments)
  assert f'did you mean {nearest!r}?' in said
  assert said.count('\n') == 1


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (['--config.no_such_thing_at_all=1'], ['no_such_thing_at_all']),
    (['--config.train.epochs=ten'], ['--config.train.epochs=ten']),
    (['--config.encoder.freeze=maybe'], ["config.encoder.freeze='maybe': one of auto, true, false"]),
    (['--config.encoder.remat=maybe'], ['--config.encoder.remat=maybe']),
    (['--config=configs/gsm8k.py:fold=5'], ["'fold=5' is not one of: sldata, collect, ", 'folds=...']),
    (['--wrokdir=x'], ['wrokdir', 'workdir']),
  ],
)
def test_other_mistakes_are_refused(arguments, words):
  said = main(*arguments)
  assert all(word in said for word in words), said
