import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from selectllm.client import dispatch, rate_limits, runner, store
from tests.helpers import asking, fault_server, staged


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
  return tmp_path / 'journal.jsonl'


async def selections(count, *llms, reserves=()):
  for query in asking.some_queries(count):
    yield dispatch.Selection(query, llms, reserves)


async def called(path, url, chosen, names='abcd', **options):
  recorded = store.Collection(path)
  options = {'samples': 1, 'on_failure': 'next', 'at_once': 4, **options}
  try:
    async with runner.Runner(recorded, [asking.llm(url, name, system=f'You are {name}.') for name in names]) as run:
      return {c.selection.query.query_id: c async for c in dispatch.call_selected(run, chosen, **options)}
  finally:
    recorded.journal.close()


def fails_for(*texts):
  """Fails requests that hold one of these texts."""
  return lambda body: fault_server.status(400) if any(text in str(body) for text in texts) else None


def test_only_the_selected_are_called_with_all_their_samples(path):
  async def main():
    async with fault_server.FaultServer() as server:
      return await called(path, server.url, selections(20, 'a', 'c', reserves=('b', 'd')), samples=3), len(server.seen)

  found, requests = asking.run(main())
  assert requests == 20 * 2 * 3
  for query_id, result in found.items():
    assert list(result.responses) == ['a', 'c']
    for llm, samples in result.responses.items():
      assert [sample.key() for sample in samples] == [(query_id, llm, index) for index in range(3)]


def test_a_failed_llm_is_replaced_by_the_next_most_confident(path):
  async def main():
    async with fault_server.FaultServer(rule=fails_for('You are a.', 'You are b.')) as server:
      return await called(path, server.url, selections(10, 'a', 'd', reserves=('b', 'c')))

  for result in asking.run(main()).values():
    assert sorted(result.responses) == ['a', 'b', 'c', 'd']
    assert result.failed() == ['a', 'b']
    assert result.stages == (('a', 'd'),)
    assert result.chain('a') == ['a', 'b', 'c']
    assert result.chain('d') == ['d']


def test_with_fewer_nobody_is_called_in_place_of_a_failed_llm(path):
  async def main():
    async with fault_server.FaultServer(rule=fails_for('You are a.')) as server:
      return await called(path, server.url, selections(5, 'a', 'd', reserves=('b', 'c')), on_failure='fewer')

  for result in asking.run(main()).values():
    assert list(result.responses) == ['a', 'd']
    assert result.failed() == ['a']


def test_two_failures_do_not_call_the_same_reserve(path):
  async def main():
    async with fault_server.FaultServer(rule=fails_for('You are a.', 'You are b.')) as server:
      return await called(path, server.url, selections(5, 'a', 'b', reserves=('c', 'd'))), len(server.seen)

  found, requests = asking.run(main())
  assert requests == 20
  assert all(set(result.responses) == set('abcd') for result in found.values())


def asked_of(server):
  """The LLM and the query of every request."""
  return [tuple(message['content'] for message in body['messages']) for _, body in server.seen]


def test_stages_follow_each_other_as_decided_on_what_was_answered(path):
  async def main():
    async with fault_server.FaultServer() as server:
      server.latency_s = 0.005
      found = await called(path, server.url, selections(30, 'a', 'b'), decide=staged.decide)
      return found, asked_of(server)

  found, requests = asking.run(main())
  assert {result.stages for result in found.values()} == {
    (('a', 'b'), ('c',)),
    (('a', 'b'), ('d',), ('c',)),
  }
  for result in found.values():
    assert list(result.responses) == [llm for stage in result.stages for llm in stage]
    texts = [f'You are {llm}.' for llm in result.responses]
    asked = [llm for llm, query in requests if query == result.selection.query.query]
    assert sorted(asked[:2]) == texts[:2]
    assert asked[2:] == texts[2:]


def test_a_failure_is_decided_upon_and_replaced_by_nobody_else(path):
  seen = []

  async def decide(query_id, responses):
    seen.append({llm: dispatch.has_failed(samples) for llm, samples in responses.items()})
    return {2: ('c', 'd'), 4: ()}[len(responses)]

  async def main():
    async with fault_server.FaultServer(rule=fails_for('You are a.', 'You are c.')) as server:
      return await called(path, server.url, selections(1, 'a', 'b'), decide=decide)

  (result,) = asking.run(main()).values()
  assert seen == [{'a': True, 'b': False}, {'a': True, 'b': False, 'c': True, 'd': False}]
  assert result.stages == (('a', 'b'), ('c', 'd'))
  assert result.replaced == {}
  assert result.failed() == ['a', 'c']


def test_an_llm_is_not_called_twice_for_a_query(path):
  async def decide(query_id, responses):
    return ('c', 'a')

  async def main():
    async with fault_server.FaultServer() as server:
      await called(path, server.url, selections(1, 'a', 'b'), decide=decide)

  with pytest.raises(ValueError, match="stage 2 of query 'q0' calls a a second time"):
    asking.run(main())


def test_nobody_is_called_where_nobody_is_selected(path):
  async def main():
    async with fault_server.FaultServer() as server:
      return await called(path, server.url, selections(2), decide=staged.decide), len(server.seen)

  found, requests = asking.run(main())
  assert requests == 0
  assert all(result.stages == () and result.responses == {} for result in found.values())


def test_killed_between_stages_a_run_goes_on_and_asks_nothing_twice(path):
  held: list[tuple[str, str]] = []  # requests of a later stage, which get no answer from some time on

  def rule(body):
    llm, query = (message['content'] for message in body['messages'])
    if llm != 'You are c.' or len(server.seen) <= 40 or released:
      return None
    held.append((llm, query))
    return fault_server.hangs

  server, released = fault_server.FaultServer(rule=rule), False
  with fault_server.in_thread(server):
    environment = {**os.environ, 'PYTHONPATH': str(pathlib.Path(__file__).parents[2])}
    child = subprocess.Popen([sys.executable, staged.__file__, str(path), server.url], env=environment)
    while len(held) < staged.AT_ONCE:
      assert child.poll() is None
      time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    released = True
    texts = {query.query_id: query.query for query in staged.QUERIES}
    before = {(f'You are {llm}.', texts[query_id]) for query_id, llm, _ in asking.recorded_responses(path)}
    assert {('You are a.', query) for _, query in held} < before
    assert not before & set(held)
    requests = len(server.seen)
    found = asking.run(staged.answer(path, server.url))
    after = asked_of(server)[requests:]
  assert len(found) == len(staged.QUERIES)
  assert len(set(after)) == len(after)
  assert not before & set(after)
  assert set(held) < set(after)
  assert len(before) + len(after) == sum(len(result.responses) for result in found)


def test_a_second_run_asks_nothing_again(path):
  async def main():
    async with fault_server.FaultServer() as server:
      first = await called(path, server.url, selections(10, 'a', 'b'))
      second = await called(path, server.url, selections(12, 'a', 'b'))
      return first, second, len(server.seen)

  first, second, requests = asking.run(main())
  assert requests == 24
  assert all(second[query_id].responses == result.responses for query_id, result in first.items())


def test_selections_are_drawn_while_earlier_queries_are_called(path):
  async def main():
    async with fault_server.FaultServer() as server:
      drawn_at = []

      async def watched():
        async for selection in selections(12, 'a'):
          drawn_at.append(len(server.seen))
          yield selection

      server.latency_s = 0.02
      return await called(path, server.url, watched(), at_once=2), drawn_at

  found, drawn_at = asking.run(main())
  assert len(found) == 12
  assert 0 < drawn_at[-1] < 12


def test_a_stop_yields_what_was_answered_and_says_so(path):
  async def main():
    async with fault_server.FaultServer() as server:
      recorded = store.Collection(path)
      results: list[dispatch.Called] = []
      run = runner.Runner(recorded, [asking.llm(server.url, 'a')])

      async def answer():
        options = {'samples': 1, 'on_failure': 'next', 'at_once': 2}
        async for result in dispatch.call_selected(run, selections(100, 'a'), **options):
          results.append(result)
          if len(results) == 5:
            run.stop('enough', 1.0)

      async with run:
        with pytest.raises(rate_limits.Stopped, match='enough'):
          await answer()
      recorded.journal.close()
      return results, len(server.seen)

  results, requests = asking.run(main())
  assert 5 <= len(results) <= requests < 100


def test_an_error_in_the_selections_is_raised(path):
  async def broken():
    async for selection in selections(3, 'a'):
      yield selection
    raise RuntimeError('the classifier broke')

  async def main():
    async with fault_server.FaultServer() as server:
      await called(path, server.url, broken())

  with pytest.raises(RuntimeError, match='the classifier broke'):
    asking.run(main())
