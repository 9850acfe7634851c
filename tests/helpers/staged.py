"""Answers queries in stages, as a rule that the tests script has it.

As a command (`python tests/helpers/staged.py JOURNAL URL`) it can be killed.
"""

import asyncio
import pathlib
import sys

from selectllm.client import dispatch, runner, store
from tests.helpers import asking

AT_ONCE = 4
QUERIES = asking.some_queries(60)


async def decide(query_id: str, responses: dispatch.Responses) -> tuple[str, ...]:
  """c at last; before it d, where the numbers that a and b name have an odd sum."""
  if 'c' in responses:
    return ()
  numbers = [int(samples[0].text[-2]) for samples in responses.values()]
  return ('d',) if 'd' not in responses and sum(numbers) % 2 else ('c',)


async def answer(path: pathlib.Path, url: str) -> list[dispatch.Called]:
  """Answers all queries, a and b being called first."""

  async def selections():
    for query in QUERIES:
      yield dispatch.Selection(query, ('a', 'b'))

  recorded = store.Collection(path)
  options = {'samples': 1, 'on_failure': 'next', 'at_once': AT_ONCE, 'decide': decide}
  try:
    async with runner.Runner(recorded, [asking.llm(url, name, system=f'You are {name}.') for name in 'abcd']) as run:
      return [called async for called in dispatch.call_selected(run, selections(), **options)]
  finally:
    recorded.journal.close()


if __name__ == '__main__':
  asyncio.run(answer(pathlib.Path(sys.argv[1]), sys.argv[2]))
