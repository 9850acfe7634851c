"""CPU time per request of the pool runner, journal included, against other clients; its memory; a dead neighbour.

Everything happens on loopback, in one run, against the same server: 64 requests in flight, of 0.7 KB, answered by
0.6 KB. Its peers are a bare aiohttp client with uvloop and orjson, which checks and records nothing, and the openai
SDK and litellm where a Python that has them is named (each should have an environment of its own):

  python -m benchmarks.runner --openai=/envs/openai/bin/python --litellm=/envs/litellm/bin/python

Every client runs in a process of its own; the rounds take turns, and the median over the rounds counts. Then follow a
long run whose memory is watched, and the throughput of an endpoint whose replies take 50 ms, alone and beside one that
refuses every connection.
"""

import argparse
import asyncio
import collections.abc
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

IN_FLIGHT = 64
PROMPT = 'Natalia sold clips to her friends. ' * 17
TEXT = 'She sold half as many clips in May, so we divide by two and add. ' * 5 + 'The answer is 72.'


def reply() -> bytes:
  """What the server answers to everything."""
  body = {
    'id': 'chatcmpl-0123456789',
    'object': 'chat.completion',
    'created': 1700000000,
    'model': 'm',
    'choices': [{'index': 0, 'message': {'role': 'assistant', 'content': TEXT}, 'finish_reason': 'stop'}],
    'usage': {'prompt_tokens': 160, 'completion_tokens': 88, 'total_tokens': 248},
  }
  raw = json.dumps(body, separators=(',', ':')).encode()
  return b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b' % (len(raw), raw)


class Server(asyncio.Protocol):
  """Answers every request alike, as cheaply as it can."""

  answer = reply()

  def __init__(self, delay_s: float):
    """Answers after so many seconds."""
    self.delay_s = delay_s

  def connection_made(self, transport: asyncio.BaseTransport) -> None:
    """Starts a connection."""
    self.transport: Any = transport
    self.received = b''

  def data_received(self, data: bytes) -> None:
    """Answers as soon as a request is complete."""
    self.received += data
    while (end := self.received.find(b'\r\n\r\n')) >= 0:
      head = self.received[:end].lower()
      at = head.find(b'content-length:')
      length = int(head[at + 15 :].split(b'\r\n', 1)[0]) if at >= 0 else 0
      if len(self.received) < end + 4 + length:
        return
      self.received = self.received[end + 4 + length :]
      if self.delay_s:
        asyncio.get_running_loop().call_later(self.delay_s, self.transport.write, self.answer)
      else:
        self.transport.write(self.answer)


async def serve(delay_s: float) -> None:
  """Prints the port and serves until killed."""
  server = await asyncio.get_running_loop().create_server(lambda: Server(delay_s), '127.0.0.1', 0)
  print(server.sockets[0].getsockname()[1], flush=True)
  await server.serve_forever()


async def in_workers(count: int, ask: Any) -> None:
  """Calls `ask(i)` for every i below count, with the given number in flight."""
  numbers = iter(range(count))

  async def work() -> None:
    for number in numbers:
      await ask(number)

  await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


async def bare(url: str, count: int) -> None:
  """An aiohttp client that does nothing but ask."""
  import aiohttp
  import orjson

  async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

    async def ask(number: int) -> None:
      body = {'model': 'm', 'messages': [{'role': 'user', 'content': f'{PROMPT}{number}'}], 'temperature': 0.7}
      headers = {'Content-Type': 'application/json'}
      async with session.post(f'{url}/chat/completions', data=orjson.dumps(body), headers=headers) as response:
        text = orjson.loads(await response.read())['choices'][0]['message']['content']
        assert text == TEXT

    await in_workers(count, ask)


async def ours(url: str, count: int) -> None:
  """The pool runner with its journal: `count` requests, ten samples a query."""
  from selectllm.client import runner, store
  from selectllm.data import pool_file, queries

  sampling = pool_file.Sampling(temperature=0.7)
  endpoint = pool_file.Endpoint(url, 'chat', 'm', sampling=sampling, limits=pool_file.Limits(concurrency=IN_FLIGHT))
  asked = [queries.Query(str(i), f'{PROMPT}{i}') for i in range(count // 10)]
  with tempfile.TemporaryDirectory() as folder:
    recorded = store.Collection(pathlib.Path(folder) / 'journal.jsonl')
    asking = runner.Runner(recorded, [pool_file.LLM('m', endpoint=endpoint)])
    recorded.add_queries(asked)
    async with asking:
      half = len(asked) // 20
      await asking.run({'m': (runner.Item(query, 'm', sample) for query in asked[:half] for sample in range(10))})
      before = resident_mb()
      await asking.run({'m': (runner.Item(query, 'm', sample) for query in asked[half:] for sample in range(10))})
      await asking.finished()
      growth = resident_mb() - before
    recorded.journal.close()
    assert asking.tallies['m'].answered == count // 10 * 10
    print(json.dumps({'growth_mb': growth, 'journal_mb': recorded.journal.path.stat().st_size / 1e6}))


async def throughput(url: str, count: int, dead: bool) -> None:
  """Prints the responses per second of a good endpoint, while a dead one has as much to do."""
  from selectllm.client import runner, store
  from selectllm.data import pool_file, queries

  urls = {'good': url} | ({'dead': 'http://127.0.0.1:1/v1'} if dead else {})
  limits = pool_file.Limits(concurrency=IN_FLIGHT)
  llms = [pool_file.LLM(name, endpoint=pool_file.Endpoint(at, 'chat', 'm', limits=limits)) for name, at in urls.items()]
  asked = [queries.Query(str(i), f'{PROMPT}{i}') for i in range(count)]
  with tempfile.TemporaryDirectory() as folder:
    recorded = store.Collection(pathlib.Path(folder) / 'journal.jsonl')
    recorded.add_queries(asked)
    async with runner.Runner(recorded, llms) as asking:
      began = time.perf_counter()
      running = asyncio.create_task(asking.run({name: [runner.Item(q, name, 0) for q in asked] for name in urls}))
      while asking.tallies['good'].answered < count:
        await asyncio.sleep(0.005)
      print(json.dumps({'per_s': count / (time.perf_counter() - began)}))
      asking.stop('measured')
      await running
    recorded.journal.close()


async def alone(url: str, count: int) -> None:
  """An endpoint by itself."""
  await throughput(url, count, dead=False)


async def beside_dead(url: str, count: int) -> None:
  """The same endpoint beside a dead one."""
  await throughput(url, count, dead=True)


def resident_mb() -> float:
  """Resident memory of this process."""
  return int(pathlib.Path('/proc/self/statm').read_text().split()[1]) * 4096 / 1e6


async def openai(url: str, count: int) -> None:
  """The openai SDK."""
  import openai as sdk

  async with sdk.AsyncOpenAI(base_url=url, api_key='none') as client:

    async def ask(number: int) -> None:
      messages: Any = [{'role': 'user', 'content': f'{PROMPT}{number}'}]
      response = await client.chat.completions.create(model='m', messages=messages, temperature=0.7)
      assert response.choices[0].message.content == TEXT

    await in_workers(count, ask)


async def litellm(url: str, count: int) -> None:
  """The litellm SDK."""
  os.environ['LITELLM_LOCAL_MODEL_COST_MAP'] = 'True'  # it would look for prices in the network
  import litellm as sdk

  async def ask(number: int) -> None:
    messages = [{'role': 'user', 'content': f'{PROMPT}{number}'}]
    response = await sdk.acompletion(model='openai/m', messages=messages, temperature=0.7, api_base=url, api_key='none')
    assert response.choices[0].message.content == TEXT

  await in_workers(count, ask)


def be_client(name: str, url: str, count: int) -> None:
  """Runs one client and prints its CPU time per request."""
  clients = {
    'ours': ours,
    'bare': bare,
    'alone': alone,
    'beside_dead': beside_dead,
    'openai': openai,
    'litellm': litellm,
  }
  client, run = clients[name], asyncio.run
  if name not in ('openai', 'litellm'):
    import uvloop

    run = uvloop.run
  run(client(url, max(count // 10, 10)))  # imports, connections, caches
  began, cpu = time.perf_counter(), time.process_time()
  run(client(url, count))
  cpu, seconds = time.process_time() - cpu, time.perf_counter() - began
  print(json.dumps({'cpu_us': cpu / count * 1e6, 'seconds': seconds}))


def measured(python: str, name: str, url: str, count: int) -> dict[str, float]:
  """One client in a process of its own."""
  command = [python, __file__, f'--client={name}', f'--url={url}', f'--requests={count}']
  environment = os.environ | {'PYTHONPATH': str(pathlib.Path(__file__).parents[1])}
  done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=environment)
  result: dict[str, float] = {}
  for line in done.stdout.splitlines():
    result |= json.loads(line)
  return result


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--requests', type=int, default=20_000, help='per round; a tenth of it for the SDKs')
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--long', type=int, default=200_000, help='requests of the run whose memory is watched')
  parser.add_argument('--openai', help='a Python that has the openai SDK')
  parser.add_argument('--litellm', help='a Python that has litellm')
  parser.add_argument('--client', help=argparse.SUPPRESS)
  parser.add_argument('--url', help=argparse.SUPPRESS)
  parser.add_argument('--delay_s', type=float, default=0.0, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.client == 'server':
    import uvloop

    uvloop.run(serve(args.delay_s))
  elif args.client:
    be_client(args.client, args.url, args.requests)
  else:
    compare(args)


@contextlib.contextmanager
def serving(delay_s: float = 0.0) -> collections.abc.Iterator[str]:
  """A server in a process of its own; gives its base URL."""
  command = [sys.executable, __file__, '--client=server', f'--delay_s={delay_s}']
  server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
  assert server.stdout is not None
  try:
    yield f'http://127.0.0.1:{int(server.stdout.readline())}/v1'
  finally:
    server.kill()
    server.wait()


def compare(args: argparse.Namespace) -> None:
  """Runs everything and prints it."""
  with serving() as url:
    compare_clients(args, url)
    if args.long:
      long = measured(sys.executable, 'ours', url, args.long)
      print(
        f'{args.long:,} requests in {long["seconds"]:,.0f} s: resident memory grew by {long["growth_mb"]:.1f} MB, '
        f'journal of {long["journal_mb"]:.0f} MB'
      )
  with serving(0.05) as url:
    runs = [[measured(sys.executable, name, url, 5000)['per_s'] for name in ('alone', 'beside_dead')] for _ in range(3)]
  alone_per_s, beside_per_s = (statistics.median(column) for column in zip(*runs, strict=True))
  print(
    f'an endpoint alone {alone_per_s:,.0f} responses/s, beside a dead one {beside_per_s:,.0f}: '
    f'{beside_per_s / alone_per_s:.1%}'
  )


def compare_clients(args: argparse.Namespace, url: str) -> None:
  """Prints the CPU time per request of all clients."""
  pythons = {'ours': sys.executable, 'bare': sys.executable, 'openai': args.openai, 'litellm': args.litellm}
  figures: dict[str, list[float]] = {name: [] for name, python in pythons.items() if python}
  for _ in range(args.rounds):
    for name, cpu_us in figures.items():
      count = args.requests if name in ('ours', 'bare') else args.requests // 10
      cpu_us.append(measured(pythons[name], name, url, count)['cpu_us'])
  print(f'CPU per request, median of {args.rounds} rounds (lowest, highest)')
  ours_us = statistics.median(figures['ours'])
  for name, cpu_us in figures.items():
    median = statistics.median(cpu_us)
    ratio = f'ours takes {ours_us / median:.2f}x of it' if name == 'bare' else f'{median / ours_us:.1f}x ours'
    print(f'  {name:8} {median:8.0f} us ({min(cpu_us):.0f}, {max(cpu_us):.0f})  {"" if name == "ours" else ratio}')


if __name__ == '__main__':
  main()
