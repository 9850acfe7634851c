"""What the pretrained encoder makes of queries: neighbours are found by it, and a head is trained on it alone."""

import hashlib
import os
from typing import TYPE_CHECKING

import jax
import ml_collections
import numpy as np

from selectllm import score
from selectllm.data import batches
from selectllm.infra import distributed, paths
from selectllm.models import pretrained

if TYPE_CHECKING:
  from selectllm import train

# How embeddings are made: part of the identity of those that are kept.
_FORM = 'embeddings-v2'


def embed(model: 'train.Model', tokens: batches.Tokens, *, batch_size: int) -> np.ndarray:
  """Embeds all N queries with the pretrained encoder: pooled hidden states float32[N, D]."""
  wanted = np.ones((len(tokens.lengths), 1), bool)
  return score.over_queries(
    lambda *batch: model.embed_step(model.params, *batch),
    model.mesh,
    tokens,
    np.arange(len(wanted)),
    wanted,
    batch_size=batch_size,
    max_length=model.tokenize.max_length,
  )


def unit(embeddings: np.ndarray) -> np.ndarray:
  """Embeddings, float32[N, D], as vectors of length one."""
  return embeddings / np.maximum(np.linalg.norm(embeddings, axis=-1, keepdims=True), 1e-12)


def kept(config: ml_collections.ConfigDict, model: 'train.Model', tokens: batches.Tokens) -> np.ndarray:
  """What `embed` gives: the same for every run that reads these queries with this encoder, so kept in the cache."""
  folder = pretrained.find(config.encoder.name)
  encoder = ' '.join(paths.file_sha256(folder / name) for name in ('model.safetensors', 'config.json'))
  digest = hashlib.sha256(f'{_FORM} {encoder} {config.encoder.pooling} {config.encoder.dtype}'.encode())
  for array in (tokens.values, tokens.offsets):
    digest.update(array.tobytes())
  path = paths.cache_dir() / 'embeddings' / f'{digest.hexdigest()[:32]}.npy'
  if distributed.all_say(path.exists()):
    return np.load(path)
  embeddings = embed(model, tokens, batch_size=config.evaluate.batch_size)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_suffix(f'.{jax.process_index()}.{os.getpid()}.npy')
  np.save(partial, embeddings)
  partial.replace(path)
  return embeddings
