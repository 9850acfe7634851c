import asyncio

import pytest

from selectllm.client import rate_limits
from selectllm.data import pool_file
from tests.helpers import asking, fault_server

DOWN = rate_limits.Failure('server_error', 'x', retry=True, alive=False)
THROTTLED = rate_limits.Failure('rate_limited', 'x', retry=True, retry_after_s=0.01)


def test_concurrency_doubles_until_the_first_429_then_grows_by_one_per_round():
  async def main():
    gate = rate_limits.Gate('a', pool_file.Limits(concurrency=100))
    widths = []
    for failure in [None, None, None, THROTTLED, None, None, None]:
      entered = [await gate.enter(1) for _ in range(gate.concurrency)]
      widths.append(len(entered))
      for each in entered:
        gate.leave(each, failure)
    return widths

  assert asking.run(main()) == [4, 8, 16, 32, 16, 16, 17]  # 32 failures in one episode are one cut


def test_nobody_waits_for_ever_when_those_in_front_are_cancelled():
  async def main():
    gate = rate_limits.Gate('a', pool_file.Limits(concurrency=1))
    entered = await gate.enter(1)
    waiting = [asyncio.create_task(gate.enter(1)) for _ in range(10)]
    await asyncio.sleep(0)
    for task in waiting[:9]:
      task.cancel()
    gate.leave(entered)
    return await waiting[9]

  assert asking.run(main()) > 0


def test_one_woken_and_cancelled_at_once_passes_its_turn_on():
  async def main():
    gate = rate_limits.Gate('a', pool_file.Limits(concurrency=1))
    entered = await gate.enter(1)
    first, second = (asyncio.create_task(gate.enter(1)) for _ in range(2))
    await asyncio.sleep(0)
    gate.leave(entered)  # wakes the first
    first.cancel()
    return await second

  assert asking.run(main()) > 0


def test_the_breaker_opens_after_failures_in_a_row_and_lets_one_probe_through(monkeypatch):
  monkeypatch.setattr(rate_limits, '_COOLDOWN_S', (0.5, 0.5))

  async def main():
    gate = rate_limits.Gate('a', pool_file.Limits(concurrency=4, give_up_s=60))
    for _ in range(10):
      gate.leave(await gate.enter(1), DOWN)
    assert gate.concurrency == 1
    waiting = [asyncio.create_task(gate.enter(1)) for _ in range(4)]
    await asyncio.sleep(0.02)
    assert not any(task.done() for task in waiting)
    (probe,), _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0.02)
    assert gate.in_flight == sum(task.done() for task in waiting) == 1
    gate.leave(probe.result())  # it succeeds, and the others follow
    await asyncio.gather(*waiting)

  asking.run(main())


def test_an_endpoint_that_only_fails_is_given_up():
  async def main():
    gate = rate_limits.Gate('a', pool_file.Limits(give_up_s=0.05))
    while True:
      gate.leave(await gate.enter(1), DOWN)

  with pytest.raises(rate_limits.Failure, match='endpoint_down: nothing but failures'):
    asking.run(main())


def test_requests_per_minute_are_kept(tmp_path):
  async def main():
    async with fault_server.FaultServer() as server:
      llm = asking.llm(server.url, requests_per_minute=1200)  # one each 50 ms
      await asking.ask_all(tmp_path / 'journal.jsonl', [llm], asking.some_queries(41))
      return server.seen

  seen = asking.run(main())
  # A burst may make up for a second at most.
  assert seen[-1][0] - seen[0][0] >= 41 * 0.05 - 1.1


def test_tokens_per_minute_count_what_was_used_not_what_was_reserved(tmp_path):
  async def main():
    async with fault_server.FaultServer() as server:
      # Ten times 30 tokens are used, of 5,000 that might have been: within a second's burst of 60,000 a minute.
      pool = asking.llm(server.url, tokens_per_minute=60_000, concurrency=1)
      await asking.ask_all(tmp_path / 'journal.jsonl', [pool], asking.some_queries(10))
      return server.seen

  seen = asking.run(main())
  assert seen[-1][0] - seen[0][0] < 30


def test_backoff_has_full_jitter_and_an_end():
  options = pool_file.Limits(first_backoff_s=1, longest_backoff_s=8)
  for failures, most in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (5000, 8)]:
    waits = [rate_limits.backoff_s(failures, options) for _ in range(500)]
    assert 0 <= min(waits) < most / 4
    assert most * 3 / 4 < max(waits) <= most


def test_a_budget_waits_for_what_is_in_flight_before_it_gives_up():
  async def main():
    budget = rate_limits.Budget(1.0)
    await budget.reserve(0.9)
    second = asyncio.create_task(budget.reserve(0.9))
    await asyncio.sleep(0)
    budget.settle(0.9, 0.1)
    await second  # 0.1 spent and 0.9 set aside
    budget.settle(0.9, 0.5)
    with pytest.raises(rate_limits.Stopped, match=r'budget of \$1 is used up'):
      await budget.reserve(0.9)
    assert budget.spent_usd == pytest.approx(0.6)

  asking.run(main())
