"""Fixtures for all tests, and the devices that they run on."""

import collections.abc
import http.server
import json
import os
import pathlib
import socket
import threading
from typing import TYPE_CHECKING

import jaxtyping
import pytest

if TYPE_CHECKING:
  import jax

# Read when jax is first imported: eight fake devices on the CPU, and compilation that is quick, not thorough.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('XLA_FLAGS', '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0')
# What one test has compiled no other does again, in whichever process; a bound on the size makes them take turns.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR', str(pathlib.Path(__file__).parents[1] / '.pytest_cache' / 'compiled')
)
os.environ.setdefault('JAX_COMPILATION_CACHE_MAX_SIZE', str(1 << 30))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')

# Types and shapes of what these functions are given and return are checked in tests alone.
jaxtyping.install_import_hook(
  [f'selectllm.selection.{name}' for name in ('calibration', 'learned_vote', 'policies', 'voting')], 'beartype.beartype'
)

# Files that look at the same finished runs: one process makes those for all of them.
SHARE_RUNS = (
  'serve/selector_test.py',
  'serve/fixed_policy_test.py',
  'modes/answer_test.py',
  'modes/add_llm_test.py',
  'modes/compare_test.py',
)
# Files that take longest, which come first: a process that got one of them last would work on alone.
LONGEST = (
  'modes/experiment_test.py',
  *SHARE_RUNS,
  'modes/scoring_test.py',
  'sweeps/main_test.py',
  'launch/local_multihost_test.py',
  'selection/pseudo_labels_test.py',
  'train/loop_test.py',
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Sorts the tests by file, and keeps those of a file in one process."""
  here = pathlib.Path(__file__).parent
  places = {here / name: place for place, name in enumerate(LONGEST)}
  items.sort(key=lambda item: places.get(item.path, len(places)))
  shared = {here / name for name in SHARE_RUNS}
  for item in items:
    item.add_marker(pytest.mark.xdist_group('shared runs' if item.path in shared else str(item.path.relative_to(here))))


@pytest.fixture
def mesh() -> 'jax.sharding.Mesh':
  """A mesh of one device."""
  from selectllm.models import sharding

  return sharding.make_mesh(data=1, fsdp=1)


@pytest.fixture
def bucket(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
  """The folder that is gs://bucket; Orbax, which finds its own way to the store, is led there."""
  import fsspec

  from selectllm.infra import paths
  from selectllm.train import checkpoints
  from tests.helpers import fake_store

  monkeypatch.setattr(fake_store.Store, 'root', tmp_path)
  monkeypatch.setattr(paths, 'REACHED_BY', 'fsspec')
  fsspec.register_implementation('gcs', fake_store.Store, clobber=True)
  here = checkpoints.address

  def address(directory: pathlib.Path) -> pathlib.Path:
    return tmp_path / str(directory).removeprefix('gs://') if paths.is_remote(directory) else here(directory)

  monkeypatch.setattr(checkpoints, 'address', address)
  return tmp_path / 'bucket'


@pytest.fixture(scope='session')
def test_data() -> pathlib.Path:
  """The folder with the published responses; tests on real rows are skipped without it."""
  folder = os.environ.get('SELECTLLM_TEST_DATA')
  if not folder:
    pytest.skip('SELECTLLM_TEST_DATA names no folder with the published responses')
  return pathlib.Path(folder)


@pytest.fixture(scope='session')
def serve() -> collections.abc.Iterator[collections.abc.Callable[..., str]]:
  """Starts an HTTP server on loopback with a request handler, and returns its address."""
  servers = []

  def start(handler: collections.abc.Callable[..., http.server.BaseHTTPRequestHandler]) -> str:
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.05}, daemon=True).start()
    servers.append(server)
    return f'http://127.0.0.1:{server.server_port}'

  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('NO_PROXY', '127.0.0.1')
    patch.setenv('no_proxy', '127.0.0.1')
    yield start
  for server in servers:
    server.shutdown()
    server.server_close()


@pytest.fixture
def dead_url() -> str:
  """An address on loopback at which nobody listens."""
  with socket.socket() as held:
    held.bind(('127.0.0.1', 0))
    return f'http://127.0.0.1:{held.getsockname()[1]}'


WORDS = ('apples', 'buys', 'cats', 'costs', 'dogs', 'eggs', 'gives', 'has', 'how', 'many', 'plus', 'sells', 'times')


@pytest.fixture(scope='session')
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A folder with a small BERT of random weights and a tokenizer of few words and all digits."""
  import numpy as np
  import safetensors.numpy
  import tokenizers

  folder = tmp_path_factory.mktemp('tiny_encoder')
  vocabulary = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', *WORDS, *'0123456789']
  size, inner, layers = 16, 32, 2
  config = {
    'model_type': 'bert',
    'vocab_size': len(vocabulary),
    'hidden_size': size,
    'num_hidden_layers': layers,
    'num_attention_heads': 2,
    'intermediate_size': inner,
    'max_position_embeddings': 40,
    'type_vocab_size': 2,
    'layer_norm_eps': 1e-12,
    'hidden_dropout_prob': 0.1,
    'hidden_act': 'gelu',
    'pad_token_id': 0,
  }
  (folder / 'config.json').write_text(json.dumps(config))
  random = np.random.default_rng(0)
  shapes = {
    'embeddings.word_embeddings.weight': (len(vocabulary), size),
    'embeddings.position_embeddings.weight': (40, size),
    'embeddings.token_type_embeddings.weight': (2, size),
  }
  norms = ['embeddings.LayerNorm']
  for layer in range(layers):
    name = f'encoder.layer.{layer}'
    norms += [f'{name}.attention.output.LayerNorm', f'{name}.output.LayerNorm']
    dense = {f'attention.self.{part}': (size, size) for part in ('query', 'key', 'value')}
    dense |= {
      'attention.output.dense': (size, size),
      'intermediate.dense': (inner, size),
      'output.dense': (size, inner),
    }
    for part, shape in dense.items():
      shapes |= {f'{name}.{part}.weight': shape, f'{name}.{part}.bias': shape[:1]}
  tensors = {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
  for name in norms:
    tensors |= {f'{name}.weight': np.ones(size, np.float32), f'{name}.bias': np.zeros(size, np.float32)}
  safetensors.numpy.save_file(tensors, folder / 'model.safetensors')
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token='[UNK]')
  )
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  tokenizer.post_processor = tokenizers.processors.BertProcessing(('[SEP]', 3), ('[CLS]', 2))
  tokenizer.save(str(folder / 'tokenizer.json'))
  special = {'pad_token': '[PAD]', 'unk_token': '[UNK]', 'cls_token': '[CLS]', 'sep_token': '[SEP]'}
  (folder / 'tokenizer_config.json').write_text(
    json.dumps({'tokenizer_class': 'PreTrainedTokenizerFast', 'model_max_length': 40, **special})
  )
  return folder


@pytest.fixture(scope='session')
def responses_file(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """160 queries answered by three LLMs, each good at another kind of query: what a classifier can learn."""
  import numpy as np

  random = np.random.default_rng(1)
  path = tmp_path_factory.mktemp('responses') / 'responses.jsonl'
  with path.open('w') as file:
    for number in range(160):
      kind = ('plus', 'times')[random.integers(2)]
      a, b = random.integers(1, 10, 2)
      filler = ' '.join(random.choice(WORDS[:9], random.integers(1, 8)))
      answer = str(a + b if kind == 'plus' else a * b)
      right = {'adder': 0.9 if kind == 'plus' else 0.2, 'multiplier': 0.9 if kind == 'times' else 0.2, 'guesser': 0.5}
      samples = {}
      for llm, chance in right.items():
        given = answer if random.random() < chance else str(random.integers(200, 300))
        samples[llm] = [
          {'text': f'The answer is {given}.', 'answer': given, 'latency_s': float(random.uniform(0.5, 2))}
        ]
      query = f'{filler} {a} {kind} {b} how many {number // 100} {number // 10 % 10} {number % 10}'
      record = {'query_id': f'q{number}', 'query': query, 'task': kind, 'reference': answer, 'responses': samples}
      file.write(json.dumps(record) + '\n')
  return path


def _finished(
  freeze: str, tiny_encoder: pathlib.Path, responses_file: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """A finished run with a selector, and no strategies but those that it holds."""
  from configs import jsonl
  from selectllm.modes import experiment

  config = jsonl.get_config()
  config.update_from_flattened_dict(
    {
      'dataset.path': str(responses_file),
      'encoder.name': str(tiny_encoder),
      'encoder.freeze': freeze,
      'mesh.data': 1,
      'train.epochs': 1,
      'train.batch_size': 16,
      'evaluate.resamples': 50,
      'evaluate.knn_neighbours': (5,),
      'tradeoff.strategies': ('adaptive', 'adaptive_stages'),
      'tradeoff.limits': (),
    }
  )
  workdir = tmp_path_factory.mktemp(f'freeze={freeze}')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('SELECTLLM_CACHE', str(tmp_path_factory.getbasetemp() / 'cache'))
    experiment.run(config.lock(), workdir)
  return workdir


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
  """Leaves out a run's figures, which take half the time of a small one; runs of the real command draw them."""
  from selectllm.report import figures

  monkeypatch.setattr(figures, 'draw', lambda *_: None)


@pytest.fixture(scope='session')
def frozen_run(
  tiny_encoder: pathlib.Path, responses_file: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """A finished run on the frozen encoder; tests change nothing in it."""
  return _finished('true', tiny_encoder, responses_file, tmp_path_factory)


@pytest.fixture(scope='session')
def tuned_run(
  tiny_encoder: pathlib.Path, responses_file: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """A finished run with a fine-tuned encoder; tests change nothing in it."""
  return _finished('false', tiny_encoder, responses_file, tmp_path_factory)
