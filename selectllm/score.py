"""Scoring: from tokens to confidences and selections in one jitted call, on the mesh."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
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
  """Makes the jitted `(params, tokens[B, L], lengths[B], available[B, K], Selecting) -> Scores` of one batch."""

  def step(params, tokens, lengths, available, selecting: Selecting) -> Scores:
    confidences = jax.nn.sigmoid(nnx.merge(graphdef, params)(tokens, lengths))
    return Scores(confidences, select(confidences, available, selecting))

  return jax.jit(step, out_shardings=sharding.replicated(mesh))


def make_embed_step(graphdef: nnx.GraphDef, mesh: jax.sharding.Mesh) -> Callable[..., jax.Array]:
  """Makes the jitted `(params, tokens[B, L], lengths[B]) -> float32[B, D]` of unit vectors."""

  def step(params, tokens, lengths) -> jax.Array:
    embedding = nnx.merge(graphdef, params).embed(tokens, lengths)
    return embedding / jnp.maximum(jnp.linalg.norm(embedding, axis=-1, keepdims=True), 1e-12)

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
  *,
  batch_size: int,
  max_length: int,
  available: np.ndarray | None = None,
  further: tuple = (),
):
  """Runs a jitted step over queries, those of like length together, and puts the results in order again.

  All processes of a job call it with the same arguments, and all get the results.

  Args:
    step: Called as `step(tokens, lengths, [available,] *further)` on arrays of one batch; its results are replicated.
    mesh: What batches are laid over.
    tokens: All queries.
    rows: int[N], the queries wanted.
    batch_size: B, taken up to a multiple of the devices; the last batch is filled up.
    max_length: The encoder's limit.
    available: bool[N, K], cut into batches too; None for a step that takes none.
    further: Arguments that are the same for all batches.

  Returns:
    The step's results as numpy arrays, with the N queries along the first dimension.
  """
  place, batch_size = sharding.batch_sharding(mesh), -(-batch_size // mesh.size) * mesh.size
  parts, order = [], []
  for at, length in batches.scoring_order(tokens, rows, batch_size=batch_size, max_length=max_length):
    filled = np.resize(at, batch_size)  # repeats queries where there are too few
    arrays = [tokens.padded(rows[filled], length), np.minimum(tokens.lengths[rows[filled]], length)]
    if available is not None:
      arrays.append(available[filled])
    # Every process has the whole batch at hand, and feeds its own devices with their rows.
    rows_on_mesh = (jax.make_array_from_callback(array.shape, place, array.__getitem__) for array in arrays)
    result = step(*rows_on_mesh, *further)
    parts.append(result)
    order.append(at)
  back = np.argsort(np.concatenate(order))
  sizes = [len(at) for at in order]
  return jax.tree.map(
    lambda *arrays: np.concatenate([np.asarray(a)[:n] for a, n in zip(arrays, sizes, strict=True)])[back], *parts
  )
