"""Calls LLMs for queries, stage after stage, and others in place of those that fail."""

import asyncio
import collections.abc
import dataclasses
import functools

from selectllm.client import runner, store
from selectllm.data import queries

ON_FAILURE = ('next', 'fewer')

Responses = dict[str, list[store.Response]]  # LLM -> the terminal records of its samples
Decide = collections.abc.Callable[[str, Responses], collections.abc.Awaitable[tuple[str, ...]]]


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
  """LLMs to call for one query, at first.

  Attributes:
    query: The query.
    llms: The LLMs of the first stage.
    reserves: Others, most confident first, to take the place of LLMs that fail; none where failures are decided upon.
  """

  query: queries.Query
  llms: tuple[str, ...]
  reserves: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Called:
  """Outcome of the calls for one query.

  Attributes:
    selection: The LLMs to call, at first.
    responses: Of each called LLM, in the order in which they were called.
    stages: The LLMs called at once, stage after stage; all calls of a stage had ended when the next one began.
    replaced: LLM that failed -> the reserve called in its place, within the same stage.
  """

  selection: Selection
  responses: Responses
  stages: tuple[tuple[str, ...], ...]
  replaced: dict[str, str]

  def failed(self) -> list[str]:
    """Returns the LLMs that were called and gave no response at all."""
    return [llm for llm, samples in self.responses.items() if has_failed(samples)]

  def chain(self, llm: str) -> list[str]:
    """Returns an LLM of a stage, and those that were called one after the other in its place."""
    return [llm, *(self.chain(self.replaced[llm]) if llm in self.replaced else ())]


def has_failed(samples: list[store.Response]) -> bool:
  """Tells whether an LLM gave no response at all."""
  return all(sample.error is not None for sample in samples)


async def call_selected(
  asking: runner.Runner,
  selections: collections.abc.AsyncIterable[Selection],
  *,
  samples: int,
  on_failure: str,
  at_once: int,
  decide: Decide | None = None,
) -> collections.abc.AsyncIterator[Called]:
  """Yields the outcome of the calls, query by query as they finish.

  A selection is drawn when a place gets free, while the others are being called, so selections may be made in
  batches. Answers that the journal already holds are not asked for again; what failed is.

  Args:
    asking: The runner, entered.
    selections: The LLMs to call.
    samples: Responses of each called LLM.
    on_failure: `next`: an LLM that fails is replaced by the first reserve not yet called; `fewer`: it is not.
    at_once: Queries that are worked on at the same time.
    decide: Names the LLMs of a query's next stage, none to end; None where no query has another stage. It is called
      when all calls of a stage have ended, with the query's id and what its LLMs gave so far, failures too. It has to
      decide alike on the same responses: then a second run goes the same way, on what the journal holds.

  Raises:
    rate_limits.Stopped: the runner was stopped; what was answered before has been yielded.
    ValueError: `decide` names an LLM that has been called.
  """
  call = functools.partial(_call, asking, samples=samples, replace=on_failure == 'next', decide=decide)
  finished: asyncio.Queue[Called | None] = asyncio.Queue()
  working = asyncio.create_task(_work_off(selections, call, at_once, finished))
  try:
    while called := await finished.get():
      yield called
    await working  # raises what went wrong
  finally:
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


async def _work_off(
  selections: collections.abc.AsyncIterable[Selection],
  call: collections.abc.Callable[[Selection], collections.abc.Awaitable[Called]],
  at_once: int,
  finished: asyncio.Queue[Called | None],
) -> None:
  """Calls for all selections, so many at once, and puts the outcomes into a queue as they come; None at the end."""
  chosen, drawing = aiter(selections), asyncio.Lock()

  async def work() -> None:
    while True:
      async with drawing:
        selection = await anext(chosen, None)
      if selection is None:
        return
      finished.put_nowait(await call(selection))

  workers = [asyncio.create_task(work()) for _ in range(at_once)]
  try:
    await asyncio.gather(*workers)
  finally:
    for worker in workers:
      worker.cancel()
    finished.put_nowait(None)


async def _call(
  asking: runner.Runner, selection: Selection, *, samples: int, replace: bool, decide: Decide | None
) -> Called:
  query, reserves = selection.query, list(selection.reserves) if replace else []
  responses: Responses = {}
  stages: list[tuple[str, ...]] = []
  replaced: dict[str, str] = {}

  async def ask(llm: str) -> None:
    responses[llm] = []  # keeps the order of the calls
    responses[llm] = await asyncio.gather(*(asking.ask(query, llm, index) for index in range(samples)))
    if reserves and has_failed(responses[llm]):
      replaced[llm] = reserves.pop(0)
      await ask(replaced[llm])

  llms = selection.llms
  while llms:
    if again := [llm for llm in llms if llm in responses]:
      raise ValueError(f'stage {len(stages) + 1} of query {query.query_id!r} calls {", ".join(again)} a second time')
    stages.append(llms)
    await asyncio.gather(*(ask(llm) for llm in llms))
    llms = await decide(query.query_id, responses) if decide else ()
  return Called(selection, responses, tuple(stages), replaced)
