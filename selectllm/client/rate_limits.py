"""Limits how fast one endpoint is asked: concurrency, pauses, pace, circuit breaker, budget; by monotonic clocks."""

import asyncio
import collections
import collections.abc
import email.utils
import logging
import math
import random
import time

from selectllm.data import pool_file

_LOG = logging.getLogger(__name__)

LONGEST_RETRY_AFTER_S = 3600.0  # a server that asks for more than this is not believed
_FIRST_CONCURRENCY = 4
_BREAKER_FAILURES = 10  # in a row, and the breaker opens
_COOLDOWN_S = (1.0, 30.0)  # first, longest
_BURST_S = 1.0  # how much lateness a paced sender may catch up on


class Failure(Exception):  # noqa: N818 - a failed attempt is an expected outcome
  """One attempt that brought no answer.

  Attributes:
    kind: The typed reason, as recorded.
    detail: What was seen, for people.
    retry: Whether asking again may help.
    stops: Whether nothing that this endpoint is asked can succeed until somebody acts.
    alive: Whether the server answered in a way that shows it is in order.
    billed: Whether the attempt may have been charged for.
    retry_after_s: The server's wish, None when it had none that makes sense.
  """

  def __init__(
    self,
    kind: str,
    detail: str,
    *,
    retry: bool = False,
    stops: bool = False,
    alive: bool = True,
    billed: bool = False,
    retry_after_s: float | None = None,
  ):
    super().__init__(f'{kind}: {detail}')
    self.kind, self.detail = kind, detail
    self.retry, self.stops, self.alive, self.billed = retry, stops, alive, billed
    self.retry_after_s = retry_after_s


class Stopped(Exception):  # noqa: N818
  """The runner stops: what was not asked stays unasked, and unrecorded."""


def retry_after_s(headers: collections.abc.Mapping[str, str]) -> float | None:
  """Returns the seconds that a `Retry-After` header asks to wait, None when it is absent or makes no sense.

  A date is compared with the server's own `Date`, so that neither clock need be right.
  """
  value = headers.get('Retry-After')
  if value is None:
    return None
  try:
    seconds = float(value)
  except ValueError:
    try:
      until = email.utils.parsedate_to_datetime(value).timestamp()
      date = headers.get('Date')
      seconds = until - (email.utils.parsedate_to_datetime(date).timestamp() if date else time.time())
    except (ValueError, OverflowError):
      return None
  return seconds if math.isfinite(seconds) and 0 < seconds <= LONGEST_RETRY_AFTER_S else None


def backoff_s(failures: int, limits: pool_file.Limits) -> float:
  """Draws the seconds to wait after so many failures in a row: exponential, with full jitter."""
  return random.uniform(0, min(limits.longest_backoff_s, limits.first_backoff_s * 2 ** min(failures - 1, 30)))


class Gate:
  """Lets the workers of one endpoint through, at the rate that the endpoint bears.

  Concurrency starts low, doubles until the first 429, and from then on grows by one per round and is halved by each
  episode of 429s. A pause, the pace per minute and an open breaker hold everybody back.
  """

  def __init__(self, name: str, limits: pool_file.Limits):
    self.name = name
    self.in_flight = 0
    self.stopped: Exception | None = None  # raised to everyone who comes
    self.cuts = 0
    self._limits = limits
    self._concurrency = float(min(limits.concurrency, _FIRST_CONCURRENCY))
    self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()
    self._timer: asyncio.TimerHandle | None = None
    self._timer_at = math.inf
    self._pause_until = -math.inf
    self._episode_at = -math.inf
    self._episodes = 0  # of 429s, since the last success
    self._next_request = self._next_token = -math.inf
    self._failures = 0  # in a row
    self._failing_since = 0.0
    self._opened_at: float | None = None  # when the breaker opened
    self._cooldown_s = _COOLDOWN_S[0]

  @property
  def concurrency(self) -> int:
    """Returns how many may be in flight now; one probe at a time while the breaker is open."""
    return 1 if self._opened_at is not None else int(self._concurrency)

  async def enter(self, tokens: int) -> float:
    """Waits for permission to send a request of about so many tokens; returns the time of entry, for `leave`.

    Raises:
      Failure: the endpoint has been stopped.
      Stopped: the runner is stopping.
    """
    while True:
      if self.stopped:
        raise self.stopped.with_traceback(None)  # else it would remember everybody it was raised to
      now = time.monotonic()
      opens_at = max(self._pause_until, self._next_request, self._next_token)
      if self.in_flight < self.concurrency and opens_at <= now:
        break
      if now < opens_at < self._timer_at:
        self._set_timer(opens_at)
      waiter = asyncio.get_running_loop().create_future()
      self._waiting.append(waiter)
      try:
        await waiter
      except asyncio.CancelledError:
        self._wake_one()  # it may have been our turn already
        raise
    if self._limits.requests_per_minute:
      self._next_request = max(self._next_request, now - _BURST_S) + 60 / self._limits.requests_per_minute
    if self._limits.tokens_per_minute:
      self._next_token = max(self._next_token, now - _BURST_S) + tokens * 60 / self._limits.tokens_per_minute
    self.in_flight += 1
    if self.in_flight < self.concurrency:
      self._wake_one()
    return now

  def leave(self, entered: float, failure: Failure | None = None, unused_tokens: int = 0) -> None:
    """Ends what `enter` began and learns from the outcome."""
    self.in_flight -= 1
    if self._limits.tokens_per_minute:
      self._next_token -= unused_tokens * 60 / self._limits.tokens_per_minute
    if failure is None:
      self._succeeded()
    elif failure.kind == 'rate_limited':
      self._rate_limited(entered, failure)
    elif not failure.alive:
      self._failed(entered, failure)
    self._wake_one()

  def abandon(self) -> None:
    """Ends what `enter` began when the attempt was cancelled and says nothing about the endpoint."""
    self.in_flight -= 1
    self._wake_one()

  def stop(self, reason: Exception) -> None:
    """Lets nobody through any more; everyone who waits or comes gets the reason."""
    self.stopped = self.stopped or reason
    if self._timer:
      self._timer.cancel()
    while self._waiting:
      self._wake_one()

  def _succeeded(self) -> None:
    self._failures = self._episodes = 0
    if self._opened_at is not None:
      self._opened_at, self._cooldown_s = None, _COOLDOWN_S[0]
      _LOG.info('%s answers again', self.name)
    growth = 1 / self._concurrency if self.cuts else 1
    self._concurrency = min(self._limits.concurrency, self._concurrency + growth)

  def _rate_limited(self, entered: float, failure: Failure) -> None:
    now = time.monotonic()
    if entered > self._episode_at:  # what was sent before the cut belongs to the same episode
      self._episode_at = now
      self._episodes += 1
      self.cuts += 1
      self._concurrency = max(1.0, self._concurrency / 2)
    wait = failure.retry_after_s or backoff_s(self._episodes, self._limits)
    self._pause_until = max(self._pause_until, now + wait)

  def _failed(self, entered: float, failure: Failure) -> None:
    now = time.monotonic()
    if failure.retry_after_s:
      self._pause_until = max(self._pause_until, now + failure.retry_after_s)
    if not self._failures:
      self._failing_since = entered
    self._failures += 1
    if self._failures < _BREAKER_FAILURES:
      return
    if now - self._failing_since > self._limits.give_up_s:
      seconds = now - self._failing_since
      _LOG.error('%s is given up: nothing but failures for %.0f s, the last one %s', self.name, seconds, failure)
      self.stop(Failure('endpoint_down', f'nothing but failures for {seconds:.0f} s, the last one {failure}'))
      return
    if self._opened_at is None:
      _LOG.warning('%s: %d failures in a row, the last one %s', self.name, self._failures, failure)
    elif entered < self._opened_at:
      return  # sent before the breaker opened: no probe
    else:
      self._cooldown_s = min(self._cooldown_s * 2, _COOLDOWN_S[1])
    self._opened_at = now
    give_up_in = self._failing_since + self._limits.give_up_s - now
    self._pause_until = max(self._pause_until, now + min(self._cooldown_s, give_up_in + 0.01))

  def _wake_one(self) -> None:
    """Lets the longest waiting look again; whoever gets in wakes the next."""
    while self._waiting:
      waiter = self._waiting.popleft()
      if not waiter.done():
        waiter.set_result(None)
        return

  def _set_timer(self, when: float) -> None:
    if self._timer:
      self._timer.cancel()
    self._timer_at = when
    self._timer = asyncio.get_running_loop().call_later(when - time.monotonic(), self._timer_fired)

  def _timer_fired(self) -> None:
    self._timer_at = math.inf
    self._wake_one()


class Budget:
  """Dollars that may be spent. What a call could cost at most is set aside before it is made."""

  def __init__(self, limit_usd: float | None, spent_usd: float = 0.0):
    self.limit_usd = limit_usd
    self.spent_usd = spent_usd
    self._reserved_usd = 0.0
    self._settled = asyncio.Event()

  async def reserve(self, usd: float) -> None:
    """Sets dollars aside, waiting for calls in flight to settle when there is not enough left.

    Raises:
      Stopped: nothing is in flight and the rest of the budget is too small.
    """
    while self.limit_usd is not None and self.spent_usd + self._reserved_usd + usd > self.limit_usd + 1e-9:
      if self._reserved_usd <= 1e-12:
        raise Stopped(f'the budget of ${self.limit_usd:g} is used up: ${self.spent_usd:.4f} spent, ${usd:.4f} needed')
      self._settled.clear()
      await self._settled.wait()
    self._reserved_usd += usd

  def settle(self, reserved_usd: float, spent_usd: float) -> None:
    """Replaces what was set aside by what was spent."""
    self._reserved_usd -= reserved_usd
    self.spent_usd += spent_usd
    self._settled.set()
