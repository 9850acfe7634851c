import asyncio
import pathlib

import pytest

from selectllm.client import rate_limits, runner, store
from selectllm.data import pool_file
from tests.helpers import asking, fault_server


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
  return tmp_path / 'journal.jsonl'


def test_when_the_grace_period_ends_nobody_is_left_waiting(path):
  async def main():
    async with fault_server.FaultServer(rule=lambda body: fault_server.hangs) as server:
      recorded = store.Collection(path)
      async with runner.Runner(recorded, [asking.llm(server.url, concurrency=1, timeout_s=600.0)]) as run:
        # One is in flight, two are in the inbox, the others wait for room in it.
        waiting = [asyncio.create_task(run.ask(query, 'a')) for query in asking.some_queries(20)]
        while not server.in_flight:
          await asyncio.sleep(0.01)
        run.stop('enough', 0.05)
        return await asyncio.gather(*waiting, return_exceptions=True)

  outcomes = asking.run(main())
  assert [type(outcome) for outcome in outcomes] == [rate_limits.Stopped] * 20
  assert asking.recorded_responses(path) == {}


def test_an_error_in_the_body_does_not_wait_for_what_is_asked(path):
  async def main():
    async with fault_server.FaultServer(rule=lambda body: fault_server.hangs) as server:
      recorded = store.Collection(path)
      async with runner.Runner(recorded, [asking.llm(server.url, timeout_s=600.0)]) as run:
        for query in asking.some_queries(5):
          await run.submit(runner.Item(query, 'a', 0))
        raise RuntimeError('elsewhere')

  with pytest.raises(RuntimeError, match='elsewhere'):
    asking.run(main())


def test_requests_in_flight_stay_within_the_limit_and_reach_it(path):
  async def main():
    async with fault_server.FaultServer() as server:
      server.latency_s = 0.01
      await asking.ask_all(path, [asking.llm(server.url, concurrency=12)], asking.some_queries(300))
      return server.most_in_flight

  assert asking.run(main()) == 12


def test_an_empty_answer_is_an_answer(path):
  async def main():
    async with fault_server.FaultServer(fault_server.replies(fault_server.with_text(''))) as server:
      await asking.ask_all(path, [asking.llm(server.url)], asking.some_queries(1))

  asking.run(main())
  (response,) = asking.recorded_responses(path).values()
  assert (response.text, response.error) == ('', None)


def test_an_empty_account_is_not_asked_again_and_again(path):
  no_money = fault_server.replies({'error': {'message': 'x', 'code': 'insufficient_quota'}}, 429)

  async def main():
    async with fault_server.FaultServer(rule=lambda body: no_money) as server:
      await asking.ask_all(path, [asking.llm(server.url)], asking.some_queries(50))
      return len(server.seen)

  assert asking.run(main()) <= 4
  assert {r.error for r in asking.recorded_responses(path).values()} == {'no_quota'}


def test_a_query_that_cannot_be_put_stops_with_an_error_and_hangs_nobody(path):
  async def main():
    async with fault_server.FaultServer() as server:
      recorded = store.Collection(path)
      llm = asking.llm(server.url, system='About {subject}.')
      async with runner.Runner(recorded, [llm]) as run:
        with pytest.raises(rate_limits.Stopped, match='subject'):
          await run.ask(asking.some_queries(1)[0], 'a')

  with pytest.raises(pool_file.PoolError, match=r"its prompt names \{subject\}, which query 'q0' lacks; it has query"):
    asking.run(main())
