"""Turns texts into outputs of the classifier: confidences and selections, and embeddings.

Queries are tokenized once and packed, several to a row, into batches of one shape.
"""

import collections.abc
import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from flax import nnx

from selectllm.infra import distributed, paths
from selectllm.infra.typing import Array
from selectllm.models import classifier, options, pretrained, sharding, tokenizer
from selectllm.selection import confidence, policies

DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}

# How embeddings are made: part of the identity of those that are kept.
_FORM = 'embeddings-v2'


class Scores(NamedTuple):
  """Confidences and selections of N queries.

  Attributes:
    confidences: float32[N, K].
    selections: Policy name -> Selection of mask bool[N, M, K] and weight float32[N, M, K], for M sizes.
  """

  confidences: Array
  selections: dict[str, policies.Selection]


class Model(NamedTuple):
  """A classifier on a mesh.

  Attributes:
    graphdef: Its structure; `nnx.merge(graphdef, params)` is the classifier.
    params: Pretrained encoder, fresh head; sharded.
    mesh: Where it lives.
    tokenize: Texts to `tokenizer.Tokens`.
    score_step: See `make_score_step`.
    embed_step: See `make_embed_step`.
    encoder: What it was built by.
  """

  graphdef: nnx.GraphDef
  params: nnx.State
  mesh: jax.sharding.Mesh
  tokenize: tokenizer.Tokenizer
  score_step: Callable[..., Scores]
  embed_step: Callable[..., jax.Array]
  encoder: options.EncoderOptions


def make_model(built_by: options.ModelOptions, num_llms: int) -> Model:
  """Builds a classifier on its mesh, with pretrained weights in the encoder.

  Raises:
    ValueError: for an unknown dtype or pooling, or a mesh that the devices do not make.
    FileNotFoundError: when there is no such encoder.
  """
  encoder = built_by.encoder
  if encoder.dtype not in DTYPES:
    raise ValueError(f'config.encoder.dtype={encoder.dtype!r} is not one of {", ".join(DTYPES)}')
  mesh = sharding.make_mesh(built_by.data, built_by.fsdp)
  folder = pretrained.find(encoder.name)
  shape = dataclasses.replace(pretrained.read_config(folder), dropout=encoder.dropout)

  def make(rngs: nnx.Rngs) -> classifier.Classifier:
    dtype = DTYPES[encoder.dtype]
    return classifier.Classifier(shape, num_llms, pooling=encoder.pooling, dtype=dtype, remat=encoder.remat, rngs=rngs)

  graphdef, params = sharding.create_sharded(mesh, make, built_by.seed)
  params['encoder'] = pretrained.load_encoder(folder, params['encoder'])
  tokenize = tokenizer.Tokenizer(folder, min(encoder.max_length, shape.max_length))
  score_step, embed_step = make_score_step(graphdef, mesh), make_embed_step(graphdef, mesh)
  return Model(graphdef, params, mesh, tokenize, score_step, embed_step, encoder)


def score_queries(
  model: Model,
  params: nnx.State,
  tokens: tokenizer.Tokens,
  rows: np.ndarray,
  available: np.ndarray,
  *,
  batch_size: int,
  selecting: policies.PolicyOptions | None = None,
) -> Scores:
  """Scores the queries `rows`, int[N], available bool[N, K]; without `selecting`, the selections are of no size."""
  if selecting is None:
    selecting = policies.PolicyOptions(np.zeros(available.shape[1], np.float32), np.zeros(0, np.int32), 0.5)
  step = functools.partial(model.score_step, params, selecting=selecting)
  return over_queries(step, model, tokens, rows, available, batch_size=batch_size)


def embed(model: Model, tokens: tokenizer.Tokens, *, batch_size: int) -> np.ndarray:
  """Embeds all N queries with the pretrained encoder: pooled hidden states float32[N, D]."""
  rows = np.arange(len(tokens.lengths))
  step = functools.partial(model.embed_step, model.params)
  return over_queries(step, model, tokens, rows, np.ones((len(rows), 1), bool), batch_size=batch_size)


def cached_embeddings(model: Model, tokens: tokenizer.Tokens, *, batch_size: int) -> np.ndarray:
  """Gives what `embed` does, which is kept in the cache: all runs on these queries with this encoder share it."""
  folder = pretrained.find(model.encoder.name)
  encoder = ' '.join(paths.file_sha256(folder / name) for name in ('model.safetensors', 'config.json'))
  digest = hashlib.sha256(f'{_FORM} {encoder} {model.encoder.pooling} {model.encoder.dtype}'.encode())
  for array in (tokens.values, tokens.offsets):
    digest.update(array.tobytes())
  path = paths.cache_dir() / 'embeddings' / f'{digest.hexdigest()[:32]}.npy'
  if distributed.all_true(path.exists()):
    return np.load(path)
  embeddings = embed(model, tokens, batch_size=batch_size)
  path.parent.mkdir(parents=True, exist_ok=True)
  with paths.atomic_write(path) as partial, partial.open('wb') as file:
    np.save(file, embeddings)
  return embeddings


def unit(embeddings: np.ndarray) -> np.ndarray:
  """Scales embeddings, float32[N, D], to vectors of length one."""
  return embeddings / np.maximum(np.linalg.norm(embeddings, axis=-1, keepdims=True), 1e-12)


class Scorer(NamedTuple):
  """A classifier of either kind: an estimator over the pretrained encoder, or a fine-tuned one.

  Attributes:
    model: On its mesh.
    estimator: Reads the pretrained encoder's embeddings; None for a fine-tuned encoder.
    params: Of the fine-tuned classifier; None for an estimator.
  """

  model: Model
  estimator: confidence.Estimator | None
  params: nnx.State | None

  def __call__(
    self, texts: Sequence[str], available: np.ndarray, selecting: policies.PolicyOptions, *, batch_size: int
  ) -> Scores:
    """Scores N queries, available bool[N, K], and selects for them; a fine-tuned classifier in one call."""
    tokens, rows = self.model.tokenize(texts), np.arange(len(texts))
    if self.estimator is None:
      assert self.params is not None
      return score_queries(self.model, self.params, tokens, rows, available, batch_size=batch_size, selecting=selecting)
    embeddings = unit(embed(self.model, tokens, batch_size=batch_size))
    confidences = scipy.special.expit(confidence.estimate(self.estimator, list(texts), embeddings))
    return Scores(confidences, jax.device_get(policies.select_all(confidences, available, selecting)))


def time_one_query(scorer: Scorer, queries: Sequence[str], selecting: policies.PolicyOptions) -> float:
  """Measures the seconds from the text of one query, asked alone, to its selection: the median over the queries."""
  available = np.ones((1, selecting.latency_s.size), bool)
  seconds = []
  for query in [*queries, *queries]:  # the first time round compiles
    begun = time.perf_counter()
    scorer([query], available, selecting, batch_size=1)
    seconds.append(time.perf_counter() - begun)
  return float(np.median(seconds[len(queries) :]))


def make_score_step(graphdef: nnx.GraphDef, mesh: jax.sharding.Mesh) -> Callable[..., Scores]:
  """Makes the jitted step of one batch, whose R rows hold up to S queries each.

  It maps `(params, tokens[R, L], segments[R, L], available[R, S, K], PolicyOptions)` to the `Scores` of R x S places.
  """

  def step(params, tokens, segments, available, selecting: policies.PolicyOptions) -> Scores:
    logits = nnx.merge(graphdef, params)(tokens, segments, available.shape[1])
    confidences = jax.nn.sigmoid(logits.reshape(-1, logits.shape[-1]))
    return Scores(confidences, policies.select_all(confidences, available.reshape(confidences.shape), selecting))

  return jax.jit(step, out_shardings=sharding.replicated(mesh))


def make_embed_step(graphdef: nnx.GraphDef, mesh: jax.sharding.Mesh) -> Callable[..., jax.Array]:
  """Makes the jitted `(params, tokens[R, L], segments[R, L], wanted[R, S, 1]) -> float32[R * S, D]`."""

  def step(params, tokens, segments, wanted) -> jax.Array:
    embedding = nnx.merge(graphdef, params).embed(tokens, segments, wanted.shape[1])
    return embedding.reshape(-1, embedding.shape[-1])

  return jax.jit(step, out_shardings=sharding.replicated(mesh))


def over_queries(
  step: Callable[..., Any],
  model: Model,
  tokens: tokenizer.Tokens,
  rows: np.ndarray,
  available: np.ndarray,
  *,
  batch_size: int,
) -> Any:
  """Runs a jitted step over queries, as many in a row of tokens as fit, and puts the results in order again.

  All processes of a job call it with the same arguments, and all get the results.

  Args:
    step: `(tokens[R, L], segments[R, L], available[R, S, K])` to a tree of arrays [R * S, ...], which are replicated.
    model: Its mesh is what batches are laid over.
    tokens: All queries.
    rows: int[N], the queries wanted.
    available: bool[N, K], cut into batches too.
    batch_size: The most rows R of a batch, taken up to a multiple of the devices.

  Returns:
    The step's results as numpy arrays, with the N queries along the first dimension.
  """
  place = sharding.batch_sharding(model.mesh)
  parts, order = [], []
  for index, *arrays in scoring_batches(
    tokens, rows, batch_size=batch_size, multiple=model.mesh.size, max_length=model.tokenize.max_length
  ):
    # Every process has the whole batch at hand, and feeds its own devices with their rows.
    arrays.append(available[index])
    parts.append(step(*(jax.make_array_from_callback(a.shape, place, a.__getitem__) for a in arrays)))
    order.append(index.reshape(-1))
  back = np.argsort(np.concatenate([index[index >= 0] for index in order]))
  return jax.tree.map(
    lambda *arrays: np.concatenate([np.asarray(a)[i >= 0] for a, i in zip(arrays, order, strict=True)])[back], *parts
  )


def scoring_batches(
  tokens: tokenizer.Tokens, rows: np.ndarray, *, batch_size: int, multiple: int, max_length: int
) -> collections.abc.Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Packs the queries `rows` into batches, all of one shape.

  Args:
    tokens: All queries.
    rows: int[N], those wanted.
    batch_size: The most rows of a batch, taken up to a multiple.
    multiple: What the rows of a batch are a multiple of, the number of devices.
    max_length: The encoder's limit.

  Yields:
    For each batch int[R, S], the positions in `rows` of the queries in it, -1 for none; then `Tokens.rows` of them.
  """
  lengths = tokens.lengths[rows]
  length = min(-(-int(lengths.max(initial=1)) // tokenizer.LENGTH_MULTIPLE) * tokenizer.LENGTH_MULTIPLE, max_length)
  packed = pack(lengths, length)
  count = -(-len(packed) // batch_size) or 1
  size = -(-len(packed) // (count * multiple)) * multiple or 1  # all batches alike, so that the last is nearly full too
  for start in range(0, len(packed), size):
    part = packed[start : start + size]
    part = np.pad(part, ((0, size - len(part)), (0, 0)), constant_values=-1)
    yield part, *tokens.rows(np.where(part >= 0, rows[part], -1), length)


def pack(lengths: np.ndarray, length: int) -> np.ndarray:
  """Packs queries into as few rows as it can: each, from the longest, into the fullest row that still has room.

  Args:
    lengths: int[N], of the queries.
    length: Of a row.

  Returns:
    int[R, S]: for each row the queries in it, -1 for none; S is a power of two.
  """
  rows: list[list[int]] = []
  by_room: list[list[list[int]]] = [[] for _ in range(length + 1)]  # rows by how many tokens still fit
  for query in np.argsort(-lengths, kind='stable').tolist():
    needed = min(int(lengths[query]), length)
    room = next((room for room in range(needed, length) if by_room[room]), length)
    row = by_room[room].pop() if by_room[room] else []
    if not row:
      rows.append(row)
    row.append(query)
    by_room[room - needed].append(row)
  slots = 1 << (max(map(len, rows), default=1) - 1).bit_length()
  return np.array([row + [-1] * (slots - len(row)) for row in rows], int).reshape(-1, slots)
