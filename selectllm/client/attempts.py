"""Attempts at one request, until there is an answer or no hope; and what they cost."""

import collections.abc
import logging
import time

from selectllm.client import endpoints, rate_limits, store

_LOG = logging.getLogger(__name__)

Pause = collections.abc.Callable[[float], collections.abc.Awaitable[None]]


class Sender:
  """Sends the requests of one LLM, as its gate and the budget let them through."""

  def __init__(
    self, endpoint: endpoints.Endpoint, gate: rate_limits.Gate, budget: rate_limits.Budget, pause: Pause
  ) -> None:
    """Takes an endpoint that has been entered; `pause` waits so many seconds, and raises when the runner stops."""
    self._endpoint, self._limits = endpoint, endpoint.spec.limits
    self._gate, self._budget, self._pause = gate, budget, pause

  async def send(self, request: endpoints.Request, response: store.Response) -> None:
    """Attempts a request until its record is complete, with an answer or with the last failure.

    Raises:
      rate_limits.Stopped: the runner stopped before that.
    """
    throttled, began = 0, time.monotonic()
    while True:
      failure = await self._attempt(request, response)
      if failure is None:
        break
      throttled += failure.kind == 'rate_limited'
      failures = response.attempts - throttled
      hopeless = failures >= self._limits.attempts or throttled >= self._limits.rate_limited_attempts
      if not failure.retry or hopeless:
        response.error, response.detail = failure.kind, failure.detail
        break
      if failure.kind != 'rate_limited':  # for those the gate makes everybody wait
        await self._pause(rate_limits.backoff_s(failures, self._limits))
    response.elapsed_s = time.monotonic() - began

  async def _attempt(self, request: endpoints.Request, response: store.Response) -> rate_limits.Failure | None:
    """Makes one attempt and notes its outcome in the gate, the budget and the response."""
    most_usd = self._cost_usd(request.prompt_tokens, request.max_tokens - request.prompt_tokens) or 0.0
    await self._budget.reserve(most_usd)
    spent_usd = 0.0
    try:
      entered = await self._gate.enter(request.max_tokens)
      response.attempts += 1
      spent_usd = most_usd  # whatever ends the attempt now, it may have been charged for
      reply = await self._call(request, entered)
      if isinstance(reply, rate_limits.Failure):
        spent_usd = most_usd if reply.billed else 0.0
        response.lost_usd += spent_usd
        return reply
      response.latency_s = time.monotonic() - entered
      self._note(request, response, reply)
      spent_usd = response.cost_usd or 0.0
      self._gate.leave(entered, None, request.max_tokens - _used_tokens(response, request))
    except rate_limits.Failure as failure:  # the gate lets nobody through
      return failure
    finally:
      self._budget.settle(most_usd, spent_usd)
    return None

  async def _call(self, request: endpoints.Request, entered: float) -> endpoints.Reply | rate_limits.Failure:
    """Calls the endpoint; a call that brings no answer has left the gate."""
    try:
      return await self._endpoint.call(request.body)
    except rate_limits.Failure as failure:
      self._gate.leave(entered, failure, 0 if failure.billed else request.max_tokens)
      if failure.stops and self._gate.stopped is None:
        _LOG.error('%s is not asked any more: %s', self._endpoint.llm.name, failure)
        self._gate.stop(failure)
      return failure
    except BaseException:
      self._gate.abandon()
      raise

  def _note(self, request: endpoints.Request, response: store.Response, reply: endpoints.Reply) -> None:
    response.text, response.finish_reason = reply.text, reply.finish_reason
    response.prompt_tokens, response.completion_tokens = reply.prompt_tokens, reply.completion_tokens
    prompt, completion = reply.prompt_tokens, reply.completion_tokens
    response.cost_usd = self._cost_usd(
      request.prompt_tokens if prompt is None else prompt,
      request.max_tokens - request.prompt_tokens if completion is None else completion,
    )

  def _cost_usd(self, prompt_tokens: int, completion_tokens: int) -> float | None:
    return self._endpoint.llm.cost_usd(prompt_tokens, completion_tokens)


def _used_tokens(response: store.Response, request: endpoints.Request) -> int:
  if response.prompt_tokens is None or response.completion_tokens is None:
    return request.max_tokens
  return response.prompt_tokens + response.completion_tokens
