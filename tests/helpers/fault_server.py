"""An OpenAI-compatible server on loopback that misbehaves as it is told.

A fault is an async function from the request to the response. `script` lists what the next requests get, one fault
each; `rule` may choose by the request's body; everything else is answered properly. The text of a proper answer
follows from the request's body alone, so that two runs can be compared.

As a command (`python tests/pool/fault_server.py`) it prints its port and serves until it is killed.
"""

import argparse
import asyncio
import collections.abc
import contextlib
import hashlib
import json
import ssl
import threading
import time
import zlib
from typing import Any

from aiohttp import web

Fault = collections.abc.Callable[[web.Request], collections.abc.Awaitable[web.StreamResponse]]


class FaultServer:
  """Use as an async context manager.

  Attributes:
    script: What the next requests get.
    rule: Chooses a fault by the decoded body, None for a proper answer.
    latency_s: How long a proper answer takes.
    seen: Arrival time (monotonic) and decoded body of every request for a response.
    in_flight: Requests that are being answered.
    most_in_flight: Most of them at any time.
    served_models: What the list of models says; None for status 404.
  """

  def __init__(self, *script: Fault, rule: collections.abc.Callable[[Any], Fault | None] = lambda body: None):
    self.script = list(script)
    self.rule = rule
    self.latency_s = 0.0
    self.seen: list[tuple[float, Any]] = []
    self.keep_seen = True
    self.in_flight = self.most_in_flight = 0
    self.served_models: list[str] | None = ['m']

  async def start(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
    app = web.Application(client_max_size=1 << 26)
    app.router.add_get('/v1/models', self._models)
    app.router.add_post('/v1/chat/completions', self._respond)
    app.router.add_post('/v1/completions', self._respond)
    self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await self._runner.setup()
    site = web.TCPSite(self._runner, '127.0.0.1', port, ssl_context=tls)
    await site.start()
    self.port = site._server.sockets[0].getsockname()[1]
    self.url = f'http{"s" if tls else ""}://127.0.0.1:{self.port}/v1'

  async def __aenter__(self) -> 'FaultServer':
    await self.start()
    return self

  async def __aexit__(self, *exc_info: object) -> None:
    await self._runner.cleanup()

  async def _models(self, request: web.Request) -> web.Response:
    if self.served_models is None:
      return web.Response(status=404)
    return web.json_response({'data': [{'id': model} for model in self.served_models]})

  async def _respond(self, request: web.Request) -> web.StreamResponse:
    body = json.loads(await request.read())
    if self.keep_seen:
      self.seen.append((time.monotonic(), body))
    self.in_flight += 1
    self.most_in_flight = max(self.most_in_flight, self.in_flight)
    try:
      fault = self.script.pop(0) if self.script else self.rule(body)
      if fault:
        return await fault(request)
      if self.latency_s:
        await asyncio.sleep(self.latency_s)
      return web.Response(body=json.dumps(proper(body)).encode(), content_type='application/json')
    finally:
      self.in_flight -= 1


@contextlib.contextmanager
def in_thread(server: FaultServer) -> collections.abc.Iterator[FaultServer]:
  """Serves from a thread of its own, for tests whose subject runs an event loop itself."""
  started, end = threading.Event(), []

  async def serve() -> None:
    stop = asyncio.Event()
    end.append((asyncio.get_running_loop(), stop))
    async with server:
      started.set()
      await stop.wait()

  thread = threading.Thread(target=lambda: asyncio.run(serve()))
  thread.start()
  started.wait()
  try:
    yield server
  finally:
    loop, stop = end[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join()


def proper(body: Any) -> dict[str, Any]:
  """A proper answer to a request: it ends on a number that follows from the body."""
  number = int(hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:4], 16) % 10
  return with_text(f'After some thought, the answer is {number}.', body.get('model', 'm'))


def with_text(text: str | None, model: str = 'm') -> dict[str, Any]:
  """An answer of this text, in the form of both APIs at once."""
  choice = {'index': 0, 'message': {'role': 'assistant', 'content': text}, 'text': text, 'finish_reason': 'stop'}
  usage = {'prompt_tokens': 20, 'completion_tokens': 10, 'total_tokens': 30}
  return {'id': 'x', 'object': 'chat.completion', 'model': model, 'choices': [choice], 'usage': usage}


def replies(body: bytes | dict[str, Any], status: int = 200, **headers: str) -> Fault:
  """Answers with this body and status; underscores in header names stand for hyphens."""
  raw = body if isinstance(body, bytes) else json.dumps(body).encode()
  named = {name.replace('_', '-'): value for name, value in headers.items()}

  async def fault(request: web.Request) -> web.Response:
    return web.Response(body=raw, status=status, headers={'Content-Type': 'application/json', **named})

  return fault


def status(code: int, **headers: str) -> Fault:
  """Answers with an error of this status."""
  return replies({'error': {'message': f'status {code}', 'type': 'test'}}, code, **headers)


async def hangs(request: web.Request) -> web.StreamResponse:
  """Accepts and never answers."""
  await asyncio.sleep(3600)
  raise AssertionError


async def resets_mid_body(request: web.Request) -> web.StreamResponse:
  """Sends a part of the body, then resets the connection."""
  response = web.StreamResponse(headers={'Content-Length': '1000'})
  await response.prepare(request)
  await response.write(b'{"choices": [')
  assert request.transport is not None
  request.transport.abort()
  return response


async def ends_short(request: web.Request) -> web.StreamResponse:
  """Promises more bytes than it sends, then closes."""
  response = web.StreamResponse(headers={'Content-Length': '1000'})
  await response.prepare(request)
  await response.write(json.dumps(with_text('the answer is 1')).encode())
  assert request.transport is not None
  request.transport.close()
  return response


async def drips(request: web.Request) -> web.StreamResponse:
  """Sends a byte every 20 ms, for ever."""
  response = web.StreamResponse()
  await response.prepare(request)
  with contextlib.suppress(ConnectionError):
    while True:
      await response.write(b' ')
      await asyncio.sleep(0.02)
  return response


def floods(size: int, declared: bool = False) -> Fault:
  """Sends a body of this many bytes; it may say so beforehand."""

  async def fault(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={'Content-Length': str(size)} if declared else {})
    await response.prepare(request)
    chunk = b'x' * (1 << 20)
    with contextlib.suppress(ConnectionError):
      for _ in range(size // len(chunk)):
        await response.write(chunk)
    return response

  return fault


def gzip_bomb(size: int) -> Fault:
  """Sends a small body that decompresses to this many bytes."""
  pressed = zlib.compressobj(wbits=31)
  parts = [pressed.compress(bytes(1 << 20)) for _ in range(size >> 20)]
  return replies(b''.join([*parts, pressed.flush()]), Content_Encoding='gzip')


async def _serve(port: int, latency_s: float) -> None:
  server = FaultServer()
  server.latency_s, server.keep_seen = latency_s, False
  await server.start(port)
  print(server.port, flush=True)
  await asyncio.Event().wait()


if __name__ == '__main__':
  parser = argparse.ArgumentParser()
  parser.add_argument('--port', type=int, default=0)
  parser.add_argument('--latency_s', type=float, default=0.0)
  args = parser.parse_args()
  asyncio.run(_serve(args.port, args.latency_s))
