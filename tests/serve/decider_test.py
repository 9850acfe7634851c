import asyncio
import threading
from typing import NamedTuple

import numpy as np
import pytest

from selectllm.serve import decider


class State(NamedTuple):
  confidences: np.ndarray


def row(number):
  """A query of two LLMs, told apart by its first confidence."""
  revealed = decider.Revealed(np.full((2, 1), -1, np.int16), np.zeros(2, bool), np.ones(2, bool))
  return State(np.array([number, 0], np.float32)), revealed


def above(state, revealed):
  assert revealed.answers.shape == (len(state.confidences), 2, 1)
  return state.confidences > 6


def test_queries_that_wait_are_decided_together_in_one_shape():
  sizes = []

  def decide(state, revealed):
    sizes.append(len(state.confidences))
    return above(state, revealed)

  async def main():
    together = decider.DynamicBatcher(decide, 4)
    return await asyncio.gather(*(together(*row(number)) for number in range(10)))

  found = asyncio.run(main())
  assert [mask.tolist() for mask in found] == [[number > 6, False] for number in range(10)]
  assert sizes == [4, 4, 4]


def test_queries_that_come_while_one_is_decided_share_the_next_call():
  calls, begun, go = [], threading.Event(), threading.Event()

  def decide(state, revealed):
    calls.append(sorted(set(state.confidences[:, 0].tolist())))
    begun.set()
    go.wait()
    return above(state, revealed)

  async def main():
    together = decider.DynamicBatcher(decide, 8)
    first = asyncio.create_task(together(*row(0)))
    await asyncio.to_thread(begun.wait)
    others = [asyncio.create_task(together(*row(number))) for number in (1, 7)]
    await asyncio.sleep(0)
    go.set()
    return [bool(mask[0]) for mask in await asyncio.gather(first, *others)]

  assert asyncio.run(main()) == [False, False, True]
  assert calls == [[0], [1, 7]]


def test_an_error_is_raised_and_those_who_still_wait_are_decided():
  calls = []

  def decide(state, revealed):
    calls.append(len(state.confidences))
    if len(calls) == 1:
      raise RuntimeError('the device is gone')
    return above(state, revealed)

  async def main():
    together = decider.DynamicBatcher(decide, 2)
    return await asyncio.gather(*(together(*row(number)) for number in (7, 8)), return_exceptions=True)

  error, mask = asyncio.run(main())
  with pytest.raises(RuntimeError, match='the device is gone'):
    raise error
  assert mask.tolist() == [True, False]


def test_a_query_that_is_given_up_holds_up_no_other():
  begun, go = threading.Event(), threading.Event()

  def decide(state, revealed):
    begun.set()
    go.wait()
    return above(state, revealed)

  async def main():
    together = decider.DynamicBatcher(decide, 2)
    given_up, other = (asyncio.create_task(together(*row(number))) for number in (0, 7))
    await asyncio.to_thread(begun.wait)
    given_up.cancel()
    go.set()
    await asyncio.gather(given_up, return_exceptions=True)
    assert given_up.cancelled()
    return await asyncio.wait_for(other, 10)

  assert asyncio.run(main()).tolist() == [True, False]
