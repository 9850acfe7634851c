"""Policies of SelectLLM (arXiv 2408.08545): the LLMs to call, from confidences; written for one query and vmapped.

A policy is a pure function `(confidences[K], latency_s[K], available[K], *, size, threshold) -> Selection`. It sees
the expected latency of each LLM, never what an LLM answered to this query or how long it took.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from selectllm.infra.typing import Array


class Selection(NamedTuple):
  """The LLMs to call for one query, and what their votes weigh.

  Attributes:
    mask: bool[K], the called LLMs.
    weight: float32[K], the weight of each LLM's vote, should it be called (a live one may be, in another's place).
  """

  mask: Bool[Array, '*query K']
  weight: Float[Array, '*query K']


@runtime_checkable
class Policy(Protocol):
  """A policy, called for one query, with K LLMs."""

  def __call__(
    self,
    confidences: Float[Array, ' K'],
    latency_s: Float[Array, ' K'],
    available: Bool[Array, ' K'],
    *,
    size: int | Int[Array, ''],
    threshold: float | Float[Array, ''],
  ) -> Selection:
    """Selects LLMs for one query.

    Args:
      confidences: float32[K] in [0, 1], the estimated probability that each LLM is right.
      latency_s: float32[K], expected seconds of a call, fitted on train; breaks ties between equal confidences.
      available: bool[K], false for an LLM that cannot be called; it is never selected.
      size: The most LLMs to call.
      threshold: The confidence above which an LLM is predicted to be right.
    """


# Of more LLMs than these, comparing each with each takes longer than sorting them.
MOST_COUNTED = 64


def rank(
  confidences: Float[Array, ' K'], latency_s: Float[Array, ' K'], available: Bool[Array, ' K']
) -> Int[Array, ' K']:
  """Ranks LLMs, int32[K], from the most confident (0); ties by latency, unavailable LLMs last."""
  confidences, llm = jnp.where(available, confidences, -jnp.inf), jnp.arange(confidences.size)
  if confidences.size > MOST_COUNTED:
    return jnp.argsort(jnp.lexsort((latency_s, -confidences))).astype(jnp.int32)
  # Counting who comes before vectorises as sorting does not, and what it compares is never held.
  faster = (latency_s[:, None] < latency_s) | ((latency_s[:, None] == latency_s) & (llm[:, None] < llm))
  before = (confidences[:, None] > confidences) | ((confidences[:, None] == confidences) & faster)
  return jnp.sum(before, axis=0, dtype=jnp.int32)


def max_conf(
  confidences: Float[Array, ' K'],
  latency_s: Float[Array, ' K'],
  available: Bool[Array, ' K'],
  *,
  size: int | Int[Array, ''],
  threshold: float | Float[Array, ''],
) -> Selection:
  """Selects the `size` most confident LLMs; every vote counts 1."""
  del threshold
  mask = available & (rank(confidences, latency_s, available) < size)
  return Selection(mask, jnp.ones_like(confidences))


def labelled_max_conf(
  confidences: Float[Array, ' K'],
  latency_s: Float[Array, ' K'],
  available: Bool[Array, ' K'],
  *,
  size: int | Int[Array, ''],
  threshold: float | Float[Array, ''],
) -> Selection:
  """Selects the `size` most confident of those predicted to be right; the `size` most confident where none is."""
  top = max_conf(confidences, latency_s, available, size=size, threshold=threshold)
  labelled = top.mask & (confidences > threshold)
  return Selection(jnp.where(labelled.any(), labelled, top.mask), top.weight)


def weighted_max_conf(
  confidences: Float[Array, ' K'],
  latency_s: Float[Array, ' K'],
  available: Bool[Array, ' K'],
  *,
  size: int | Int[Array, ''],
  threshold: float | Float[Array, ''],
) -> Selection:
  """Selects the same LLMs as `max_conf`; every vote counts its LLM's confidence."""
  top = max_conf(confidences, latency_s, available, size=size, threshold=threshold)
  return Selection(top.mask, confidences)


# In the order of reports.
POLICIES: dict[str, Policy] = {
  'weighted_max_conf': weighted_max_conf,
  'max_conf': max_conf,
  'labelled_max_conf': labelled_max_conf,
}
# The policy that reports explain, and whose size they compare at.
HEADLINE = 'weighted_max_conf'


def oracle(
  labels: Float[Array, 'N K'], observed: Bool[Array, 'N K'], latency_s: Float[Array, 'N K']
) -> Bool[Array, 'N K']:
  """Calls for each query the fastest LLM that is right, the fastest of all where none is.

  Args:
    labels: float32[N, K], right (or the score) of each LLM.
    observed: bool[N, K].
    latency_s: float32[N, K], of this very query: the oracle sees everything.

  Returns:
    bool[N, K], at most one LLM a query; none where no LLM was observed.
  """
  best = jnp.max(jnp.where(observed, labels, -jnp.inf), axis=-1, keepdims=True)
  latency = jnp.where(observed & (labels == best), latency_s, jnp.inf)
  fastest = jnp.argmin(latency, axis=-1)
  return jax.nn.one_hot(fastest, labels.shape[-1], dtype=bool) & observed


class PolicyOptions(NamedTuple):
  """The options of all policies.

  Attributes:
    latency_s: float32[K], expected.
    sizes: int32[M], the subset sizes wanted; none where only confidences are.
    threshold: The confidence above which an LLM is predicted to be right.
  """

  latency_s: Float[Array, ' K']
  sizes: Int[Array, ' M']
  threshold: float


@jax.jit
def select_all(
  confidences: Float[Array, 'N K'], available: Bool[Array, 'N K'], selecting: PolicyOptions
) -> dict[str, Selection]:
  """Applies every policy at every size: confidences float32[N, K], available bool[N, K] -> `Scores.selections`."""

  def apply(policy: Policy) -> Selection:
    def one(confidences: Array, available: Array, size: Array) -> Selection:
      return policy(confidences, selecting.latency_s, available, size=size, threshold=selecting.threshold)

    sizes = jax.vmap(one, in_axes=(None, None, 0))
    return jax.vmap(sizes, in_axes=(0, 0, None))(confidences, available, selecting.sizes)

  return {name: apply(policy) for name, policy in POLICIES.items()}
