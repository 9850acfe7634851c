"""Shows how far a collection is while it runs: a live table on a terminal, plain lines elsewhere."""

import asyncio
import collections.abc
import contextlib
import dataclasses
import sys
import time

import rich.console
import rich.live
import rich.table

from selectllm.client import runner

_LIVE_EVERY_S, _LINES_EVERY_S = 0.5, 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
  """One LLM's state: `wanted` responses, of which some are done and some have failed."""

  llm: str
  wanted: int
  done: int
  failed: int
  in_flight: int
  requests_per_s: float
  tokens_per_s: float
  cost_usd: float
  eta_s: float | None

  def cells(self) -> list[str]:
    """Returns the row as texts."""
    eta = '' if self.eta_s is None else _clock(self.eta_s)
    return [
      self.llm,
      f'{self.done:,}/{self.wanted:,}',
      f'{self.failed:,}',
      f'{self.in_flight:,}',
      f'{self.requests_per_s:,.1f}',
      f'{self.tokens_per_s:,.0f}',
      f'{self.cost_usd:,.4f}',
      eta,
    ]


_COLUMNS = ('LLM', 'done', 'failed', 'in flight', 'requests/s', 'tokens/s', 'cost $', 'left')


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{seconds:02}'


def rows(asking: runner.Runner, wanted: collections.abc.Mapping[str, int], seconds: float) -> list[Row]:
  """Returns the state of every LLM after so many seconds of asking."""
  result = []
  for llm, tally in asking.tallies.items():
    failed = tally.failed.total()
    finished = tally.answered + failed
    left = wanted[llm] - tally.recorded - finished
    eta = seconds * left / finished if finished and left else None
    result.append(
      Row(
        llm,
        wanted[llm],
        tally.recorded + tally.answered,
        failed,
        asking.gates[llm].in_flight,
        tally.attempts / seconds,
        tally.tokens / seconds,
        tally.cost_usd,
        eta,
      )
    )
  return result


def table(state: collections.abc.Iterable[Row]) -> rich.table.Table:
  """Returns the rows as a table."""
  shown = rich.table.Table(*_COLUMNS)
  for column in shown.columns[1:]:
    column.justify = 'right'
  for row in state:
    shown.add_row(*row.cells())
  return shown


@contextlib.asynccontextmanager
async def shown(
  asking: runner.Runner, wanted: collections.abc.Mapping[str, int]
) -> collections.abc.AsyncIterator[None]:
  """Shows the state of a runner as long as the context lasts; `wanted` responses of each LLM are complete."""
  display = asyncio.create_task(_show(asking, wanted))
  try:
    yield
  finally:
    display.cancel()
    await asyncio.gather(display, return_exceptions=True)


async def _show(asking: runner.Runner, wanted: collections.abc.Mapping[str, int]) -> None:
  begun = time.monotonic()

  def state() -> list[Row]:
    return rows(asking, wanted, max(time.monotonic() - begun, 1e-3))

  console = rich.console.Console(stderr=True)
  if console.is_terminal:
    with rich.live.Live(table(state()), console=console, auto_refresh=False) as live:
      while True:
        await asyncio.sleep(_LIVE_EVERY_S)
        live.update(table(state()), refresh=True)
  while True:
    await asyncio.sleep(_LINES_EVERY_S)
    for row in state():
      line = ', '.join(f'{name} {cell}' for name, cell in zip(_COLUMNS[1:], row.cells()[1:], strict=True) if cell)
      print(f'{row.llm}: {line}', file=sys.stderr, flush=True)
