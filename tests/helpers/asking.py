"""Short ways to say what most tests of the client need: an LLM, some queries, a run, a command."""

import asyncio
import collections.abc
import json
import pathlib
import subprocess
import sys
from typing import Any

import uvloop
import yaml

from selectllm.client import journal, runner, store
from selectllm.data import pool_file, queries

HERE = pathlib.Path(__file__).parent
# Small waits, so that tests of failures are quick.
QUICK = {'concurrency': 8, 'timeout_s': 5.0, 'attempts': 3, 'first_backoff_s': 0.01, 'longest_backoff_s': 0.05}


def llm(url: str, name: str = 'a', *, key: str | None = None, system: str = '', **limits: Any) -> pool_file.LLM:
  """An LLM at this address."""
  quick = pool_file.Limits(**{**QUICK, **limits})
  prompt = pool_file.Prompt(system=system)
  return pool_file.LLM(name, endpoint=pool_file.Endpoint(url, 'chat', 'm', prompt, limits=quick, api_key_env=key))


def some_queries(count: int) -> list[queries.Query]:
  """Queries with different texts."""
  return [queries.Query(f'q{i}', f'What is {i} + 1?', 'sums', str(i + 1)) for i in range(count)]


def run(main: collections.abc.Coroutine[Any, Any, Any]) -> Any:
  """Runs a coroutine as the command does, but not for ever."""
  return uvloop.run(asyncio.wait_for(main, 60))


async def ask_all(
  path: pathlib.Path, llms: list[pool_file.LLM], asked: list[queries.Query], samples: int = 1, **options: Any
) -> runner.Runner:
  """Asks everything through a runner with a journal, and returns the runner."""
  recorded = store.Collection(path)
  try:
    asking = runner.Runner(recorded, llms, **options)
    recorded.add_queries(asked)
    async with asking:
      await asking.run({one.name: [runner.Item(q, one.name, s) for q in asked for s in range(samples)] for one in llms})
    return asking
  finally:
    recorded.journal.close()


def recorded_responses(path: pathlib.Path) -> dict[store.Key, store.Response]:
  """Key -> terminal record; there must not be two answers for one key."""
  found: dict[store.Key, store.Response] = {}
  for _, entry in journal.read(path):
    if entry['kind'] == 'response':
      response = store.Response(**entry)
      assert response.key() not in found or found[response.key()].error is not None
      found[response.key()] = response
  return found


def write_pool(path: pathlib.Path, urls: dict[str, str], **limits: Any) -> None:
  """Writes a pool file: name -> base URL. Each LLM is told its name, so that the server can tell them apart."""
  entry = {'api': 'chat', 'model': 'm', 'sampling': {'max_tokens': 50}}
  price = {'prompt_usd_per_million': 1.0, 'completion_usd_per_million': 2.0, 'read_on': '2026-01-01'}
  llms = []
  for name, url in urls.items():
    own = {'base_url': url, 'prompt': {'system': name, 'user': '{query}'}, 'limits': {**QUICK, **limits}}
    llms.append({'name': name, 'price': price, 'endpoint': entry | own})
  path.write_text(yaml.safe_dump({'llms': llms}))


def write_queries(path: pathlib.Path, asked: list[queries.Query]) -> None:
  """Writes a query file."""
  names = ('query_id', 'query', 'task', 'reference')
  path.write_text(''.join(json.dumps({name: getattr(query, name) for name in names}) + '\n' for query in asked))


def start(
  folder: pathlib.Path, workdir: str = 'run', stderr: int = subprocess.PIPE, **fields: Any
) -> subprocess.Popen[str]:
  """Starts the command that collects `folder/queries.jsonl` from `folder/pool.yaml`."""
  files = {'pool.file': folder / 'pool.yaml', 'collect.queries': folder / 'queries.jsonl'}
  command = [
    *(sys.executable, '-m', 'selectllm.main'),
    '--config=configs/common.py',
    '--config.mode=collect',
    f'--workdir={folder / workdir}',
    *(f'--config.{name}={value}' for name, value in (files | fields).items()),
  ]
  root = HERE.parent.parent
  return subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=stderr, text=True)


def finish(started: subprocess.Popen[str]) -> tuple[int, str]:
  """Waits for a started command; returns its exit code and what it said on stderr."""
  _, said = started.communicate()
  return started.returncode, said
