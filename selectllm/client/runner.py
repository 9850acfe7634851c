"""Asks the LLMs of a pool: every request ends in one terminal record, whatever happens in between."""

import asyncio
import collections
import collections.abc
import contextlib
import dataclasses
from typing import Any

from selectllm.client import attempts, endpoints, journal, rate_limits, store
from selectllm.data import pool_file, queries

_GROUP_S = 0.005  # how long a group waits for company before it is committed
_MOST_UNACKNOWLEDGED = 4096  # more than this, and the disk is what everybody waits for


@dataclasses.dataclass(slots=True)
class Item:
  """One response that is wanted.

  Attributes:
    query: What is asked.
    llm: Who is asked.
    sample: Sample index, from 0.
    answered: Gets the terminal record when somebody waits for it.
  """

  query: queries.Query
  llm: str
  sample: int
  answered: asyncio.Future[store.Response] | None = None

  def key(self) -> store.Key:
    """Returns what the response belongs to."""
    return self.query.query_id, self.llm, self.sample


@dataclasses.dataclass(slots=True)
class Tally:
  """Counts what became of the items of one LLM in this run."""

  recorded: int = 0  # found in the journal
  answered: int = 0
  failed: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)  # by reason
  cut_off: int = 0  # answers that ended at max_tokens
  attempts: int = 0
  tokens: int = 0
  cost_usd: float = 0.0


class _Lane:
  """An LLM's endpoint, the gate before it, and the items that wait for a worker."""

  def __init__(self, endpoint: endpoints.Endpoint, budget: rate_limits.Budget, pause: attempts.Pause):
    self.endpoint = endpoint
    self.limits = endpoint.spec.limits
    self.gate = rate_limits.Gate(endpoint.llm.name, self.limits)
    self.sender = attempts.Sender(endpoint, self.gate, budget, pause)
    self.inbox: asyncio.Queue[Item] = asyncio.Queue(2 * self.limits.concurrency)
    self.tally = Tally()


class Runner:
  """Fixed workers per endpoint that ask, retry and record. Use as an async context manager.

  Leaving the context waits until every submitted item has its record or, once the runner is stopped, has been let go.

  Attributes:
    collection: Where everything is recorded.
    llms: Names of the LLMs that can be asked.
    stopped: Why the runner stopped early, None when it did not.
  """

  def __init__(
    self,
    recorded: store.Collection,
    llms: collections.abc.Iterable[pool_file.LLM],
    budget: rate_limits.Budget | None = None,
  ):
    """Makes an endpoint of each LLM.

    Raises:
      pool_file.PoolError: an LLM has no endpoint.
      store.CollectionError: recorded answers were asked for differently.
    """
    self.collection = recorded
    self.stopped: str | None = None
    self._budget = budget or rate_limits.Budget(None)
    self._endpoints = [endpoints.Endpoint(llm) for llm in llms]
    self.llms = [endpoint.llm.name for endpoint in self._endpoints]
    for endpoint in self._endpoints:
      recorded.add_llm(endpoint.llm.name, endpoint.spec.identity())
    self._lanes: dict[str, _Lane] = {}
    self._workers: list[asyncio.Task[None]] = []
    self._in_flight: dict[bytes, list[Item]] = {}  # identity -> the items that wait for it
    self._unacknowledged: list[tuple[_Lane, Item, store.Response]] = []  # recorded, but not committed
    self._recorded, self._acknowledged = asyncio.Event(), asyncio.Event()
    self._error: Exception | None = None
    self._stopping, self._ended = asyncio.Event(), False
    self._exits = contextlib.AsyncExitStack()

  async def __aenter__(self) -> 'Runner':
    """Opens the endpoints and starts their workers; `problems` tells whether they can be used."""
    async with contextlib.AsyncExitStack() as exits:
      for endpoint in self._endpoints:
        await exits.enter_async_context(endpoint)
        self._lanes[endpoint.llm.name] = _Lane(endpoint, self._budget, self._pause)
      self._exits = exits.pop_all()
    self._workers = [
      asyncio.create_task(self._work(lane)) for lane in self._lanes.values() for _ in range(lane.limits.concurrency)
    ]
    self._acknowledging = asyncio.create_task(self._acknowledge())
    return self

  async def __aexit__(self, *exc_info: object) -> None:
    """Finishes all that was submitted, as the class says.

    Raises:
      journal.JournalError: the journal could not be written.
    """
    if exc_info[0]:
      self.stop('interrupted')
    try:
      await self.finished()
    finally:
      tasks = [*self._workers, self._acknowledging]
      for task in tasks:
        task.cancel()
      await asyncio.gather(*tasks, return_exceptions=True)
      await self._exits.aclose()
    if self._error:
      raise self._error
    await self.collection.journal.commit()

  @property
  def tallies(self) -> dict[str, Tally]:
    """Returns what became of the items so far, by LLM."""
    return {name: lane.tally for name, lane in self._lanes.items()}

  @property
  def gates(self) -> dict[str, rate_limits.Gate]:
    """Returns the gates before the endpoints, by LLM."""
    return {name: lane.gate for name, lane in self._lanes.items()}

  async def problems(self, llms: collections.abc.Iterable[str]) -> list[str]:
    """Asks the endpoints of these LLMs whether they are there, open to us, and serve the right model."""
    found = await asyncio.gather(*(self._lanes[llm].endpoint.problem() for llm in llms))
    return [problem for problem in found if problem]

  async def finished(self) -> None:
    """Waits until every submitted item has its record or, once the runner is stopped, has been let go."""
    await asyncio.gather(*(lane.inbox.join() for lane in self._lanes.values()))

  async def run(self, items: collections.abc.Mapping[str, collections.abc.Iterable[Item]]) -> None:
    """Submits the items of each LLM at that LLM's own speed, until all are or the runner is stopped.

    Args:
      items: LLM name -> its items, drawn as there is room for them. Their queries must have been added to the
        collection.
    """

    async def feed(wanted: collections.abc.Iterable[Item]) -> None:
      for item in wanted:
        await self.submit(item)

    with contextlib.suppress(rate_limits.Stopped):
      await _first_of(asyncio.gather(*(feed(wanted) for wanted in items.values())), self._stopping)

  async def submit(self, item: Item) -> None:
    """Hands an item to the workers of its LLM, waiting while they have enough to do.

    Raises:
      rate_limits.Stopped: the runner is stopping.
    """
    if self.stopped:
      raise rate_limits.Stopped(self.stopped)
    await self._lanes[item.llm].inbox.put(item)
    if self._ended:  # while we waited
      self._let_all_go()

  async def ask(self, query: queries.Query, llm: str, sample: int = 0) -> store.Response:
    """Returns the terminal record of one response; a failure is a record too.

    Raises:
      rate_limits.Stopped: the runner stopped before there was one.
    """
    self.collection.add_queries([query])
    answered = asyncio.get_running_loop().create_future()
    await self.submit(Item(query, llm, sample, answered))
    return await answered

  def stop(self, reason: str, grace_s: float = 0.0) -> None:
    """Sends nothing more. What is in flight may take the grace period; what is not sent stays unrecorded."""
    self.stopped = self.stopped or reason
    self._stopping.set()
    for lane in self._lanes.values():
      lane.gate.stop(rate_limits.Stopped(reason))
    asyncio.get_running_loop().call_later(grace_s, self._end)

  def _end(self) -> None:
    self._ended = True
    for worker in self._workers:
      worker.cancel()
    self._let_all_go()

  def _let_all_go(self) -> None:
    for lane in self._lanes.values():
      while not lane.inbox.empty():
        _let_go(lane, lane.inbox.get_nowait(), self.stopped)

  async def _work(self, lane: _Lane) -> None:
    while True:
      item = await lane.inbox.get()
      try:
        await self._finish(lane, item)
      except rate_limits.Stopped as stopped:
        if not self.stopped:
          self.stop(str(stopped), lane.limits.timeout_s)
      except Exception as error:
        self._fail(error)

  async def _finish(self, lane: _Lane, item: Item) -> None:
    """Brings an item to its terminal record; equal requests in flight wait for the first of them."""
    try:
      request = lane.endpoint.request(item.query, item.sample)
    except BaseException:
      _let_go(lane, item, self.stopped)
      raise
    if waiting := self._in_flight.get(request.identity):
      waiting.append(item)
      return
    waiting = self._in_flight[request.identity] = [item]
    try:
      response = self.collection.find(request.identity, item.key())
      if response and response.key() == item.key():
        lane.tally.recorded += 1
        self._unacknowledged.append((lane, item, response))
      else:
        if response is None:
          response = store.Response(*item.key(), request.identity.hex())
          await lane.sender.send(request, response)
        self._record(lane, response, waiting)
    except BaseException:
      for waiter in waiting:
        _let_go(lane, waiter, self.stopped)
      raise
    finally:
      del self._in_flight[request.identity]
    self._recorded.set()
    while len(self._unacknowledged) >= _MOST_UNACKNOWLEDGED:
      await self._acknowledged.wait()

  def _record(self, lane: _Lane, response: store.Response, waiting: list[Item]) -> None:
    """Records a response for every key that waits for it."""
    recorded = {key: _for_key(response, key) for key in dict.fromkeys(item.key() for item in waiting)}
    for mine in recorded.values():
      self.collection.add(mine)
      _count(lane.tally, mine)
    self._unacknowledged += [(lane, item, recorded[item.key()]) for item in waiting]

  async def _acknowledge(self) -> None:
    """Commits in groups, and only then tells those who wait."""
    while True:
      await self._recorded.wait()
      await asyncio.sleep(_GROUP_S)
      self._recorded.clear()
      group, self._unacknowledged = self._unacknowledged, []
      try:
        await self.collection.journal.commit()
      except journal.JournalError as error:
        self._fail(error)
        for lane, item, _ in group:
          _let_go(lane, item, self.stopped)
      else:
        for lane, item, response in group:
          if item.answered and not item.answered.done():
            item.answered.set_result(response)
          lane.inbox.task_done()
      self._acknowledged.set()
      self._acknowledged.clear()

  def _fail(self, error: Exception) -> None:
    """Stops everything: nothing can be recorded any more, or there is a bug; the caller is told on leaving."""
    self._error = self._error or error
    self.stop(str(error))

  async def _pause(self, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
      await asyncio.wait_for(self._stopping.wait(), seconds)
    if self.stopped:
      raise rate_limits.Stopped(self.stopped)


async def _first_of(work: asyncio.Future[Any], event: asyncio.Event) -> None:
  """Waits for the work, and cancels it when the event comes first."""
  waiting = asyncio.ensure_future(event.wait())
  try:
    await asyncio.wait([work, waiting], return_when=asyncio.FIRST_COMPLETED)
    if work.done():
      work.result()
  finally:
    for task in (work, waiting):
      task.cancel()
    await asyncio.gather(work, waiting, return_exceptions=True)


def _for_key(response: store.Response, key: store.Key) -> store.Response:
  """Returns the response as that of an equal request, which cost nothing of its own."""
  if response.key() == key:
    return response
  return dataclasses.replace(
    response, query_id=key[0], llm=key[1], sample=key[2], cost_usd=response.cost_usd and 0.0, lost_usd=0.0, attempts=0
  )


def _let_go(lane: _Lane, item: Item, reason: str | None) -> None:
  """Ends an item without a record."""
  if item.answered and not item.answered.done():
    item.answered.set_exception(rate_limits.Stopped(reason or 'the runner was closed'))
  lane.inbox.task_done()


def _count(tally: Tally, response: store.Response) -> None:
  if response.error is None:
    tally.answered += 1
    tally.cut_off += response.finish_reason == 'length'
  else:
    tally.failed[response.error] += 1
  tally.attempts += response.attempts
  tally.tokens += (response.prompt_tokens or 0) + (response.completion_tokens or 0)
  tally.cost_usd += (response.cost_usd or 0.0) + response.lost_usd
