"""Holds what commands that call LLMs share: exit codes, refusals, the loop and signals."""

import asyncio
import collections.abc
import contextlib
import os
import signal
import sys
from typing import Any

import uvloop

from selectllm.client import journal, preflight, runner, store
from selectllm.data import pool_file, queries

REFUSED, INCOMPLETE = 2, 1  # exit codes; an interrupted command ends with 128 + the signal's number
REFUSALS = (
  pool_file.PoolError,
  queries.QueryError,
  journal.JournalError,
  store.CollectionError,
  FileNotFoundError,
)


def run(main: collections.abc.Coroutine[Any, Any, int]) -> int:
  """Runs a command's coroutine to its end and returns its exit code."""
  with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
    return loop.run(main)


def refused(error: Exception) -> int:
  """Prints why a command was refused and returns its exit code."""
  print(f'error: {error}', file=sys.stderr)
  return REFUSED


@contextlib.asynccontextmanager
async def running(
  asking: runner.Runner, llms: collections.abc.Iterable[str], drain_s: float
) -> collections.abc.AsyncIterator[list[int]]:
  """Enters a runner that signals can stop, once the endpoints of these LLMs have been found in order.

  Yields:
    The signals that came, none at first.

  Raises:
    pool_file.PoolError: an endpoint cannot be used.
  """
  with _stop_on_signals(asking, drain_s) as interrupted:
    async with asking:
      preflight.refuse(await asking.problems(llms))
      yield interrupted


@contextlib.contextmanager
def _stop_on_signals(asking: runner.Runner, drain_s: float) -> collections.abc.Iterator[list[int]]:
  """Lets the first Ctrl-C or SIGTERM end what is in flight, and the second end everything now."""
  loop = asyncio.get_running_loop()
  interrupted: list[int] = []

  def interrupt(signum: int) -> None:
    if interrupted:
      os._exit(128 + signum)  # what was acknowledged is on the disk
    interrupted.append(signum)
    name = signal.Signals(signum).name
    print(f'{name}: waiting up to {drain_s:g} s for what is in flight; once more to leave now', file=sys.stderr)
    asking.stop(f'interrupted by {name}', drain_s)

  for signum in (signal.SIGINT, signal.SIGTERM):
    loop.add_signal_handler(signum, interrupt, signum)
  try:
    yield interrupted
  finally:
    for signum in (signal.SIGINT, signal.SIGTERM):
      loop.remove_signal_handler(signum)
