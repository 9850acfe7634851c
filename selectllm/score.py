"""Scoring: from tokens to confidences and selections in one jitted call, on the mesh."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from selectllm import sharding
from selectllm.data import batches
from selectllm.selection import policies


class Selecting(NamedTuple):
  """What the policies need beside confidences.

  Attributes:
    latency_s: float32[K], expected.
    sizes: int32[M], the subset sizes wanted; none where only confidences are.
    threshold: The confidence above which an LLM is predicted to be right.
  """

  latency_s: policies.Array
  sizes: policies.Array
  threshold: float


class Scores(NamedTuple):
  """What the classifier makes of N queries.

  Attributes:
    confidences: float32[N, K].
    selections: Policy name -> Selection of mask bool[N, M, K] and weight float32[N, M, K], for M sizes.
  """

  confidences: policies.Array
  selections: dict[str, policies.Selection]


ScoreStep = Callable[..., Scores]


def make_score_step(graphdef: nnx.GraphDef, mesh: jax.sharding.Mesh) -> ScoreStep:
  """Makes the jitted step of one batch, whose R rows hold up to S queries each.

  It maps `(params, tokens[R, L], segments[R, L], available[R, S, K], Selecting)` to the `Scores` of all R x S places.
  """

  def step(params, tokens, segments, available, selecting: Selecting) -> Scores:
    logits = nnx.merge(graphdef, params)(tokens, segments, available.shape[1])
    confidences = jax.nn.sigmoid(logits.reshape(-1, logits.shape[-1]))
    return Scores(confidences, select(confidences, available.reshape(confidences.shape), selecting))

  return jax.jit(step, out_shardings=sharding.replicated(mesh))


def make_embed_step(graphdef: nnx.GraphDef, mesh: jax.sharding.Mesh) -> Callable[..., jax.Array]:
  """Makes the jitted `(params, tokens[R, L], segments[R, L], wanted[R, S, 1]) -> float32[R * S, D]`."""

  def step(params, tokens, segments, wanted) -> jax.Array:
    embedding = nnx.merge(graphdef, params).embed(tokens, segments, wanted.shape[1])
    return embedding.reshape(-1, embedding.shape[-1])

  return jax.jit(step, out_shardings=sharding.replicated(mesh))


@jax.jit
def select(confidences: jax.Array, available: jax.Array, selecting: Selecting) -> dict[str, policies.Selection]:
  """Applies every policy at every size: confidences float32[N, K], available bool[N, K] -> `Scores.selections`."""

  def apply(policy: policies.Policy) -> policies.Selection:
    def one(confidences, available, size):
      return policy(confidences, selecting.latency_s, available, size=size, threshold=selecting.threshold)

    sizes = jax.vmap(one, in_axes=(None, None, 0))
    return jax.vmap(sizes, in_axes=(0, 0, None))(confidences, available, selecting.sizes)

  return {name: apply(policy) for name, policy in policies.POLICIES.items()}


def over_queries(
  step: Callable,
  mesh: jax.sharding.Mesh,
  tokens: batches.Tokens,
  rows: np.ndarray,
  available: np.ndarray,
  *,
  batch_size: int,
  max_length: int,
):
  """Runs a jitted step over queries, as many in a row of tokens as fit, and puts the results in order again.

  All processes of a job call it with the same arguments, and all get the results.

  Args:
    step: `(tokens[R, L], segments[R, L], available[R, S, K])` to a tree of arrays [R * S, ...], which are replicated.
    mesh: What batches are laid over.
    tokens: All queries.
    rows: int[N], the queries wanted.
    available: bool[N, K], cut into batches too.
    batch_size: The most rows R of a batch, taken up to a multiple of the devices.
    max_length: The encoder's limit.

  Returns:
    The step's results as numpy arrays, with the N queries along the first dimension.
  """
  place = sharding.batch_sharding(mesh)
  parts, order = [], []
  for index, *arrays in batches.scoring_batches(
    tokens, rows, batch_size=batch_size, multiple=mesh.size, max_length=max_length
  ):
    # Every process has the whole batch at hand, and feeds its own devices with their rows.
    arrays.append(available[index])
    parts.append(step(*(jax.make_array_from_callback(a.shape, place, a.__getitem__) for a in arrays)))
    order.append(index.reshape(-1))
  back = np.argsort(np.concatenate([index[index >= 0] for index in order]))
  return jax.tree.map(
    lambda *arrays: np.concatenate([np.asarray(a)[i >= 0] for a, i in zip(arrays, order, strict=True)])[back], *parts
  )
