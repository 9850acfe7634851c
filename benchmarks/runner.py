"""CPU time per request of the pool runner, journal included, against other clients; and its memory over a long run.

Everything happens on loopback, in one run, against the same server: 64 requests in flight, of 0.7 KB, answered by
0.6 KB. The rivals are a bare aiohttp client with uvloop and orjson, which checks and records nothing, and the openai
SDK and litellm where a Python that has them is named (each should have an environment of its own):

  python benchmarks/runner.py --openai=/envs/openai/bin/python --litellm=/envs/litellm/bin/python

Every client runs in a process of its own; the rounds take turns, and the median over the rounds counts.
"""

import argparse
import asyncio
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
      self.transport.write(self.answer)


async def serve() -> None:
  """Prints the port and serves until killed."""
  server = await asyncio.get_running_loop().create_server(Server, '127.0.0.1', 0)
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
  from selectllm.pool import collection, queries, runner, spec

  sampling = spec.Sampling(temperature=0.7)
  endpoint = spec.Endpoint(url, 'chat', 'm', sampling=sampling, limits=spec.Limits(concurrency=IN_FLIGHT))
  asked = [queries.Query(str(i), f'{PROMPT}{i}') for i in range(count // 10)]
  with tempfile.TemporaryDirectory() as folder:
    recorded = collection.Collection(pathlib.Path(folder) / 'journal.jsonl')
    asking = runner.Runner(recorded, [spec.LLM('m', endpoint=endpoint)])
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
  client = {'bare': bare, 'ours': ours, 'openai': openai, 'litellm': litellm}[name]
  run = asyncio.run
  if name in ('bare', 'ours'):
    import uvloop

    run = uvloop.run
  run(client(url, max(count // 10, 10)))  # imports, connections, caches
  began, cpu = time.perf_counter(), time.process_time()
  run(client(url, count))
  cpu, seconds = time.process_time() - cpu, time.perf_counter() - began
  print(json.dumps({'cpu_us': cpu / count * 1e6, 'per_s': count / seconds}))


def measured(python: str, name: str, url: str, count: int) -> dict[str, float]:
  """One client in a process of its own."""
  command = [python, __file__, f'--client={name}', f'--url={url}', f'--requests={count}']
  done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
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
  args = parser.parse_args()
  if args.client == 'server':
    import uvloop

    uvloop.run(serve())
  elif args.client:
    be_client(args.client, args.url, args.requests)
  else:
    compare(args)


def compare(args: argparse.Namespace) -> None:
  """Runs all clients against one server and prints the table."""
  server = subprocess.Popen([sys.executable, __file__, '--client=server'], stdout=subprocess.PIPE, text=True)
  assert server.stdout is not None
  url = f'http://127.0.0.1:{int(server.stdout.readline())}/v1'
  pythons = {'ours': sys.executable, 'bare': sys.executable, 'openai': args.openai, 'litellm': args.litellm}
  figures: dict[str, list[float]] = {name: [] for name, python in pythons.items() if python}
  try:
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
    if args.long:
      long = measured(sys.executable, 'ours', url, args.long)
      print(
        f'{args.long:,} requests: {long["per_s"]:,.0f} a second, resident memory grew by {long["growth_mb"]:.1f} MB, '
        f'journal of {long["journal_mb"]:.0f} MB'
      )
  finally:
    server.kill()
    server.wait()


if __name__ == '__main__':
  main()
