"""Defines what chooses the calls of live queries: a run's policy, or a rule that decides anew as answers come in."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from selectllm.evaluate import answers

Array = Any  # of numpy on the host, of JAX on the device
State = Any  # a NamedTuple of arrays along N queries, one of them `confidences`, float32[N, K]


class Revealed(NamedTuple):
  """Outcomes of all calls for N queries so far.

  Attributes:
    answers: int16[N, K, S], ids of answers, counted for each query from 0 as they come up; -1 for none.
    called: bool[N, K], the LLMs that have given a response.
    available: bool[N, K], those that can still be called, and those of `called`; not those that failed.
  """

  answers: Array
  called: Array
  available: Array


class Finished(NamedTuple):
  """The answers to N queries.

  Attributes:
    answer: int32[N], the answer's id; -1 for none.
    p_right: float32[N], how likely it is right; NaN from what does not say.
  """

  answer: Array
  p_right: Array


class Decider(Protocol):
  """Chooses the calls for queries, and makes one answer of what they bring.

  All methods may be called from any thread. What is on a device is compiled once: `decide` and `finish` are given the
  same number of queries every time, some of them twice where there are fewer.
  """

  @property
  def llms(self) -> tuple[str, ...]:
    """Returns K names, the order of all arrays."""

  @property
  def in_stages(self) -> bool:
    """Tells whether `decide` is asked again after the calls; else LLMs that fail are replaced by confidence."""

  def facts(self, asked: int) -> answers.DeciderFacts:
    """Describes the decider, for so many queries to be answered."""

  def score(self, texts: list[str], available: np.ndarray, *, batch_size: int) -> State:
    """Returns what is known of N queries before any call.

    Args:
      texts: N queries, at most `batch_size`.
      available: bool[K], the LLMs that may be called at all.
      batch_size: Queries that are scored together.
    """

  def decide(self, state: State, revealed: Revealed) -> Array:
    """Returns the LLMs to call next, at once, bool[N, K]: none of those that have been called; nobody, to end."""

  def finish(self, state: State, revealed: Revealed) -> Finished:
    """Returns the answers in what the calls have brought."""


def row(arrays: Any, index: int) -> Any:
  """Returns one query of a NamedTuple of arrays along N queries, without the dimension N."""
  return type(arrays)(*(array[index] for array in arrays))


def stack(rows: Sequence[Any]) -> Any:
  """Returns queries, each as `row` gives it, as one NamedTuple of arrays along N queries."""
  return type(rows[0])(*(np.stack(arrays) for arrays in zip(*rows, strict=True)))


class DynamicBatcher:
  """Decides for all queries that wait for it at once, while the loop goes on.

  One call of the device is under way at a time; queries that come meanwhile share the next one.
  """

  def __init__(self, function: Callable[..., Array], size: int):
    """Wraps a function `(state, revealed) -> Array`, all along N queries; it is always given N = `size`."""
    self._function, self._size = function, size
    self._waiting: list[tuple[tuple[State, Revealed], asyncio.Future[np.ndarray]]] = []
    self._deciding = asyncio.Lock()

  async def __call__(self, state: State, revealed: Revealed) -> np.ndarray:
    """Decides for one query, its arrays without the dimension N."""
    decided = asyncio.get_running_loop().create_future()
    self._waiting.append(((state, revealed), decided))
    async with self._deciding:
      while not decided.done():
        await asyncio.sleep(0)  # so that those whose calls ended in the same turn of the loop are waiting too
        await self._decide()
    return decided.result()

  async def _decide(self) -> None:
    """Decides for those that have waited longest; when it fails or is cancelled, they still wait."""
    taken = self._waiting[: self._size]
    filled = [taken[place % len(taken)][0] for place in range(self._size)]
    states, revealed = zip(*filled, strict=True)
    found = await asyncio.to_thread(self._function, stack(states), stack(revealed))
    del self._waiting[: len(taken)]
    for (_, decided), chosen in zip(taken, np.asarray(found), strict=False):
      decided.set_result(chosen)
