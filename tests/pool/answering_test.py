import pathlib

import asking
import fault_server
import pytest

from selectllm.pool import answering, collection, limits, runner


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
  return tmp_path / 'journal.jsonl'


async def selections(count, *llms, reserves=()):
  for query in asking.some_queries(count):
    yield answering.Selection(query, llms, reserves)


async def called(path, url, chosen, names='abcd', **options):
  recorded = collection.Collection(path)
  options = {'samples': 1, 'on_failure': 'next', 'at_once': 4, **options}
  try:
    async with runner.Runner(recorded, [asking.llm(url, name, system=f'You are {name}.') for name in names]) as run:
      return {c.selection.query.query_id: c async for c in answering.call_selected(run, chosen, **options)}
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
      recorded = collection.Collection(path)
      results: list[answering.Called] = []
      run = runner.Runner(recorded, [asking.llm(server.url, 'a')])

      async def answer():
        options = {'samples': 1, 'on_failure': 'next', 'at_once': 2}
        async for result in answering.call_selected(run, selections(100, 'a'), **options):
          results.append(result)
          if len(results) == 5:
            run.stop('enough', 1.0)

      async with run:
        with pytest.raises(limits.Stopped, match='enough'):
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
