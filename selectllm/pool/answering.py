"""Calls the LLMs that were selected for each query, and others in place of those that fail."""

import asyncio
import collections.abc
import dataclasses

from selectllm.pool import collection, queries, runner

ON_FAILURE = ('next', 'fewer')


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
  """Whom to call for one query.

  Attributes:
    query: The query.
    llms: The selected LLMs.
    reserves: The others, most confident first.
  """

  query: queries.Query
  llms: tuple[str, ...]
  reserves: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Called:
  """What the calls for one query brought.

  Attributes:
    selection: Whom to call.
    responses: LLM -> the terminal records of its samples, in the order in which the LLMs were called.
    chains: One for each selected LLM: it and those that were called one after the other in its place.
  """

  selection: Selection
  responses: dict[str, list[collection.Response]]
  chains: tuple[tuple[str, ...], ...]

  def failed(self) -> list[str]:
    """The LLMs that were called and gave no response at all."""
    return [llm for llm, samples in self.responses.items() if all(sample.error for sample in samples)]


async def call_selected(
  asking: runner.Runner,
  selections: collections.abc.AsyncIterable[Selection],
  *,
  samples: int,
  on_failure: str,
  at_once: int,
) -> collections.abc.AsyncIterator[Called]:
  """Yields what the calls brought, query by query as they finish.

  A selection is drawn when a place gets free, while the others are being called, so selections may be made in
  batches. Answers that the journal already holds are not asked for again; what failed is.

  Args:
    asking: The runner, entered.
    selections: Whom to call.
    samples: Responses of each called LLM.
    on_failure: `next`: an LLM that fails is replaced by the first reserve not yet called; `fewer`: it is not.
    at_once: Queries that are worked on at the same time.

  Raises:
    limits.Stopped: the runner was stopped; what was answered before has been yielded.
  """
  chosen, drawing = aiter(selections), asyncio.Lock()
  finished: asyncio.Queue[Called | None] = asyncio.Queue()

  async def work() -> None:
    while True:
      async with drawing:
        selection = await anext(chosen, None)
      if selection is None:
        return
      finished.put_nowait(await _call(asking, selection, samples, on_failure == 'next'))

  async def work_off() -> None:
    workers = [asyncio.create_task(work()) for _ in range(at_once)]
    try:
      await asyncio.gather(*workers)
    finally:
      for worker in workers:
        worker.cancel()
      finished.put_nowait(None)

  working = asyncio.create_task(work_off())
  try:
    while called := await finished.get():
      yield called
    await working  # raises what went wrong
  finally:
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


async def _call(asking: runner.Runner, selection: Selection, samples: int, replace: bool) -> Called:
  responses: dict[str, list[collection.Response]] = {}
  reserves = list(selection.reserves)

  async def ask(llm: str) -> tuple[str, ...]:
    chain = []
    while True:
      chain.append(llm)
      responses[llm] = []  # keeps the order of the calls
      responses[llm] = await asyncio.gather(*(asking.ask(selection.query, llm, index) for index in range(samples)))
      if not replace or not reserves or any(sample.error is None for sample in responses[llm]):
        return tuple(chain)
      llm = reserves.pop(0)

  chains = await asyncio.gather(*(ask(llm) for llm in selection.llms))
  return Called(selection, responses, tuple(chains))
