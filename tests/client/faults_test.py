"""The faults of endpoints, networks and servers; each test's number is the fault's. See crash_test.py for the rest."""

import asyncio
import dataclasses
import datetime
import email.utils
import json
import logging
import os
import pathlib
import shutil
import ssl
import subprocess
import sys
import time
import traceback

import pytest

from selectllm.client import endpoints, rate_limits, runner, store
from selectllm.data import pool_file, queries
from tests.helpers import asking, fault_server


def only(path: pathlib.Path) -> store.Response:
  (response,) = asking.recorded_responses(path).values()
  return response


def ask_one(path: pathlib.Path, *script: fault_server.Fault, **limits: object) -> tuple[store.Response, int]:
  """Asks one query of a server with this script; returns the terminal record and how many requests came."""

  async def main() -> int:
    async with fault_server.FaultServer(*script) as server:
      await asking.ask_all(path, [asking.llm(server.url, **limits)], asking.some_queries(1))
      return len(server.seen)

  requests = asking.run(main())
  return only(path), requests


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
  return tmp_path / 'journal.jsonl'


def test_fault_01_retry_after_seconds_holds_all_back_and_cuts_once(path):
  async def main():
    async with fault_server.FaultServer(*[fault_server.status(429, Retry_After='1')] * 4) as server:
      run = await asking.ask_all(path, [asking.llm(server.url)], asking.some_queries(30))
      return server.seen, run

  seen, run = asking.run(main())
  assert all(r.error is None for r in asking.recorded_responses(path).values())
  assert len(seen) == 34
  assert seen[4][0] - seen[3][0] >= 1.0  # the first four were under way together
  assert run.gates['a'].cuts == 1
  assert sum(r.attempts for r in asking.recorded_responses(path).values()) == 34


def test_fault_02_retry_after_date_is_obeyed(path):
  async def tomorrow_s_clock(request):
    # The server's clock is a day ahead: only its own Date tells what its Retry-After means.
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    later = email.utils.format_datetime(now + datetime.timedelta(seconds=1), usegmt=True)
    reply = fault_server.status(429, Retry_After=later, Date=email.utils.format_datetime(now, usegmt=True))
    return await reply(request)

  async def main():
    async with fault_server.FaultServer(tomorrow_s_clock) as server:
      await asking.ask_all(path, [asking.llm(server.url)], asking.some_queries(1))
      return server.seen

  first, second = asking.run(main())
  assert second[0] - first[0] >= 1.0
  assert only(path).error is None


@pytest.mark.parametrize('value', ['Wed, 21 Oct 2015 07:28:00 GMT', 'inf', 'nan', '-1', '1e9', 'soon', ''])
def test_fault_02_nonsense_retry_after_falls_back_to_backoff(path, value):
  assert rate_limits.retry_after_s({'Retry-After': value}) is None
  response, requests = ask_one(path, fault_server.status(429, Retry_After=value))
  assert (response.error, response.attempts, requests) == (None, 2, 2)


@pytest.mark.parametrize('code', [500, 502, 503])
def test_fault_03_server_errors_are_retried(path, code):
  response, requests = ask_one(path, fault_server.status(code), fault_server.status(code))
  assert (response.error, response.attempts, requests) == (None, 3, 3)


def test_fault_03_a_permanent_500_is_capped_and_recorded_failed(path):
  response, requests = ask_one(path, *[fault_server.status(500)] * 9)
  assert (response.error, response.text, response.attempts, requests) == ('server_error', None, 3, 3)


@pytest.mark.parametrize('code', [400, 404, 422])
def test_fault_04_the_request_s_own_fault_is_not_retried(path, code):
  response, requests = ask_one(path, *[fault_server.status(code)] * 9)
  assert (response.error, response.attempts, requests) == ('bad_request', 1, 1)


def test_fault_04_a_401_stops_the_endpoint_loudly(path, caplog):
  async def main():
    async with fault_server.FaultServer(rule=lambda body: fault_server.status(401)) as server:
      await asking.ask_all(path, [asking.llm(server.url)], asking.some_queries(100))
      return len(server.seen)

  with caplog.at_level(logging.ERROR):
    requests = asking.run(main())
  assert requests <= 4  # those under way when the first reply came
  responses = asking.recorded_responses(path)
  assert len(responses) == 100
  assert {r.error for r in responses.values()} == {'unauthorized'}
  assert 'a is not asked any more' in caplog.text


@pytest.mark.parametrize('fault', [fault_server.resets_mid_body, fault_server.ends_short])
def test_fault_05_a_broken_off_body_is_retried(path, fault):
  response, requests = ask_one(path, fault)
  assert (response.error, response.attempts, requests) == (None, 2, 2)


def test_fault_06_truncated_json_is_retried_and_never_stored(path):
  truncated = fault_server.replies(json.dumps(fault_server.with_text('the answer is TRUNCATED')).encode()[:-20])
  response, requests = ask_one(path, truncated)
  assert (response.error, response.attempts, requests) == (None, 2, 2)
  assert b'TRUNCATED' not in path.read_bytes()


def test_fault_06_truncated_json_for_ever_is_a_failure(path):
  response, _ = ask_one(path, *[fault_server.replies(b'{"choices": [{"message"')] * 9)
  assert (response.error, response.text, response.attempts) == ('bad_reply', None, 3)


def test_fault_07_a_dripped_body_is_killed_at_the_total_deadline(path):
  response, _ = ask_one(path, *[fault_server.drips] * 9, timeout_s=0.2, attempts=2)
  assert (response.error, response.attempts) == ('timeout', 2)


@pytest.mark.parametrize(
  ('body', 'error', 'attempts'),
  [
    (b'<html><body>Bad gateway</body></html>', 'bad_reply', 3),
    (b'', 'bad_reply', 3),
    (b'[]', 'bad_reply', 3),
    ({'error': {'message': 'overloaded'}}, 'error_reply', 3),
    ({'error': {'message': 'no such thing', 'code': 400}}, 'bad_request', 1),
    ({'error': {'message': 'overloaded', 'code': 503}}, 'server_error', 3),
    ({'choices': []}, 'no_choices', 3),
    ({'choices': None}, 'no_choices', 3),
    ({'choices': [{'message': None}]}, 'no_content', 1),
    (fault_server.with_text(None), 'no_content', 1),
  ],
)
def test_fault_08_a_200_without_an_answer_is_a_typed_failure(path, body, error, attempts):
  response, _ = ask_one(path, *[fault_server.replies(body)] * 9)
  assert (response.error, response.text, response.attempts) == (error, None, attempts)


@pytest.mark.parametrize(
  ('raw', 'text'),
  [
    (b'caf\xe9 \xff', 'caf\udce9 \udcff'),
    (b'\\ud800 alone', '\ud800 alone'),
    (b'nul \\u0000 end', 'nul \0 end'),
    ('line\u2028separator\u2029\u0085'.encode(), 'line\u2028separator\u2029\u0085'),
    (b'two\\nlines\\r\\n', 'two\nlines\r\n'),
    ('\N{FACE WITH TEARS OF JOY}'.encode(), '\N{FACE WITH TEARS OF JOY}'),
    (b'\\ud83d\\ude02', '\N{FACE WITH TEARS OF JOY}'),
  ],
)
def test_fault_09_any_text_makes_the_round_trip_on_one_line(path, raw, text):
  body = json.dumps(fault_server.with_text('TEXT')).encode().replace(b'TEXT', raw)
  response, _ = ask_one(path, fault_server.replies(body))
  assert response.text == text
  assert path.read_bytes().count(b'\n') == 4  # journal, llm, query, response
  exported = path.with_name('responses.jsonl')
  store.export(path, exported, lambda text, query: None)
  assert exported.read_bytes().count(b'\n') == 1


async def peak_memory_growth(work) -> int:
  """Bytes by which the resident memory of this process grew, at most, while something was awaited."""

  def resident() -> int:
    return int(pathlib.Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')

  async def watch():
    nonlocal peak
    while True:
      peak = max(peak, resident())
      await asyncio.sleep(0.01)

  before = peak = resident()
  watching = asyncio.create_task(watch())
  await work
  watching.cancel()
  return peak - before


needs_proc = pytest.mark.skipif(not os.path.exists('/proc/self/statm'), reason='reads the resident memory from /proc')


@needs_proc
@pytest.mark.parametrize('fault', ['flood', 'declared', 'bomb'])
def test_fault_10_a_huge_body_is_aborted_at_the_cap(path, fault):
  faults = {
    'flood': lambda: fault_server.floods(1 << 30),
    'declared': lambda: fault_server.floods(1 << 30, declared=True),
    'bomb': lambda: fault_server.gzip_bomb(1 << 28),
  }

  async def main():
    async with fault_server.FaultServer(faults[fault]()) as server:
      return await peak_memory_growth(asking.ask_all(path, [asking.llm(server.url)], asking.some_queries(1)))

  growth = asking.run(main())
  assert only(path).error == 'too_large'
  assert growth < 6 * endpoints.LARGEST_REPLY


def test_fault_11_an_endpoint_that_never_answers_opens_its_breaker_and_harms_no_other(path):
  async def main():
    silent = fault_server.FaultServer(rule=lambda body: fault_server.hangs)
    async with silent, fault_server.FaultServer() as good:
      llms = [asking.llm(silent.url, 'silent', timeout_s=0.1, give_up_s=0.5), asking.llm(good.url, 'good')]
      await asking.ask_all(path, llms, asking.some_queries(100))
      return len(silent.seen)

  requests = asking.run(main())
  responses = asking.recorded_responses(path)
  assert [r.error for r in responses.values() if r.llm == 'good'] == [None] * 100
  silent = [r.error for r in responses.values() if r.llm == 'silent']
  assert len(silent) == 100
  assert set(silent) == {'timeout', 'endpoint_down'} or set(silent) == {'endpoint_down'}
  assert requests < 50  # of 300 attempts that would have been allowed


def test_fault_12_a_host_without_address_opens_the_breaker(path):
  llm = asking.llm('http://no-such-host.invalid/v1', give_up_s=0.2)
  asking.run(asking.ask_all(path, [llm], asking.some_queries(50)))
  responses = asking.recorded_responses(path)
  assert len(responses) == 50
  assert {r.error for r in responses.values()} <= {'dns', 'endpoint_down'}
  assert sum(r.attempts for r in responses.values()) < 50


def test_fault_12_a_bad_certificate_is_permanent_and_never_downgraded(path, tmp_path):
  if not shutil.which('openssl'):
    pytest.skip('makes its certificate with the openssl command')
  made = f'openssl req -x509 -newkey rsa:2048 -nodes -keyout {tmp_path}/k -out {tmp_path}/c -subj /CN=localhost -days 2'
  subprocess.run(made.split(), check=True, capture_output=True)
  tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
  tls.load_cert_chain(tmp_path / 'c', tmp_path / 'k')

  async def main():
    server = fault_server.FaultServer()
    await server.start(tls=tls)
    await asking.ask_all(path, [asking.llm(server.url)], asking.some_queries(20))
    await server.__aexit__()
    return len(server.seen)

  assert asking.run(main()) == 0
  responses = asking.recorded_responses(path)
  assert len(responses) == 20
  assert {r.error for r in responses.values()} == {'certificate'}


def test_fault_14_a_slow_endpoint_does_not_hold_up_the_others(path):
  async def main():
    async with fault_server.FaultServer() as fast, fault_server.FaultServer() as slow:
      slow.latency_s = 0.5
      llms = [asking.llm(slow.url, 'slow', concurrency=1), asking.llm(fast.url, 'fast', concurrency=1)]
      await asking.ask_all(path, llms, asking.some_queries(4), samples=1)

  asking.run(main())
  order = [llm for _, llm, _ in asking.recorded_responses(path)]
  assert order == ['fast'] * 4 + ['slow'] * 4


def test_fault_19_samples_are_calls_and_a_resubmitted_identity_is_one_call(path):
  twins = [queries.Query('one', 'The same?'), queries.Query('two', 'The same?')]

  async def main():
    async with fault_server.FaultServer() as server:
      server.latency_s = 0.01
      llm = asking.llm(server.url)
      await asking.ask_all(path, [llm], [*twins, twins[0]], samples=3)
      assert len(server.seen) == 3
      await asking.ask_all(path, [llm], twins, samples=3)  # again
      assert len(server.seen) == 3
      await asking.ask_all(path, [llm], [*twins, queries.Query('three', 'The same?')], samples=4)
      assert len(server.seen) == 4

  asking.run(main())
  responses = asking.recorded_responses(path)
  assert set(responses) == {(q, 'a', s) for q in ('one', 'two', 'three') for s in range(4)}
  assert len({r.identity for r in responses.values()}) == 4
  assert sum(r.attempts for r in responses.values()) == 4


def test_fault_19_results_are_aligned_by_key_not_by_order(path):
  async def echoes(request):
    body = json.loads(await request.read())
    await asyncio.sleep(0.03 * (int(body['messages'][-1]['content'].split()[2]) % 3))
    return await fault_server.replies(fault_server.with_text(body['messages'][-1]['content']))(request)

  async def main():
    async with fault_server.FaultServer(rule=lambda body: echoes) as server:
      recorded = store.Collection(path)
      async with runner.Runner(recorded, [asking.llm(server.url)]) as run:
        asked = asking.some_queries(40)
        found = await asyncio.gather(*(run.ask(query, 'a') for query in asked))
      recorded.journal.close()
      return [(query.query, response.text) for query, response in zip(asked, found, strict=True)]

  assert all(query == text for query, text in asking.run(main()))


def test_fault_20_jumps_of_the_wall_clock_have_no_effect(path, monkeypatch):
  true_time, jumps = time.time, iter(range(10**9))
  monkeypatch.setattr(time, 'time', lambda: true_time() + (3600 if next(jumps) % 2 else -3600))
  limited = fault_server.status(429, Retry_After='0.1')

  async def main():
    async with fault_server.FaultServer(limited, fault_server.status(500), limited) as server:
      await asking.ask_all(path, [asking.llm(server.url, requests_per_minute=6000)], asking.some_queries(50))
      return len(server.seen)

  assert asking.run(main()) == 53
  assert all(r.error is None and 0 <= r.latency_s < 60 for r in asking.recorded_responses(path).values())


def test_fault_22_after_a_storm_of_cancelled_calls_every_probe_succeeds(path):
  async def main():
    async with fault_server.FaultServer() as server:
      server.latency_s = 0.05
      recorded = store.Collection(path)
      llm = asking.llm(server.url, concurrency=4)
      async with runner.Runner(recorded, [llm]) as run, endpoints.Endpoint(llm) as endpoint:
        for _ in range(5):
          storm = [asyncio.create_task(run.ask(query, 'a')) for query in asking.some_queries(50)]
          storm += [asyncio.create_task(endpoint.call(endpoint.request(q, 0).body)) for q in asking.some_queries(50)]
          storm += [asyncio.create_task(run.gates['a'].enter(1)) for _ in range(50)]
          await asyncio.sleep(0.02)
          entered = [task for task in storm[100:] if task.done()]
          for task in storm:
            task.cancel()
          await asyncio.gather(*storm, return_exceptions=True)
          for _ in entered:
            run.gates['a'].abandon()
        probes = [run.ask(queries.Query(f'probe {i}', f'Probe {i}?'), 'a') for i in range(20)]
        answered = await asyncio.gather(*probes)
        direct = [await endpoint.call(endpoint.request(query, 0).body) for query in asking.some_queries(20)]
      recorded.journal.close()
      return answered, direct

  answered, direct = asking.run(main())
  assert [response.error for response in answered] == [None] * 20
  assert len(direct) == 20


def changed(llm: pool_file.LLM, **changes: object) -> pool_file.LLM:
  assert llm.endpoint is not None
  return dataclasses.replace(llm, endpoint=dataclasses.replace(llm.endpoint, **changes))


def test_fault_23_a_change_of_recorded_identities_is_refused_and_shown(path):
  async def main():
    async with fault_server.FaultServer() as server:
      llm = asking.llm(server.url)
      asked = asking.some_queries(3)
      await asking.ask_all(path, [llm], asked)
      before = path.read_bytes()
      for change, shown in [
        ({'sampling': pool_file.Sampling(temperature=0.2)}, 'a.sampling.temperature was None, is now 0.2'),
        ({'prompt': pool_file.Prompt(user='Q: {query}')}, "a.prompt.user was '{query}', is now 'Q: {query}'"),
        ({'model': 'm-other'}, "a.model was 'm', is now 'm-other'"),
      ]:
        with pytest.raises(store.CollectionError, match='asked for differently') as refused:
          await asking.ask_all(path, [changed(llm, **change)], asked)
        assert shown in str(refused.value)
      with pytest.raises(store.CollectionError, match=r"q0.query was 'What is 0 \+ 1\?', is now 'Other\?'"):
        await asking.ask_all(path, [llm], [queries.Query('q0', 'Other?')])
      assert len(server.seen) == 3
      assert path.read_bytes() == before
      # More samples, another LLM, other limits, another address of the same server, a corrected reference are fine.
      moved = changed(
        llm, limits=pool_file.Limits(concurrency=2), base_url=server.url.replace('127.0.0.1', 'localhost')
      )
      corrected = [queries.Query(q.query_id, q.query, q.task, '7') for q in asked]
      await asking.ask_all(path, [moved, asking.llm(server.url, 'b')], corrected, samples=2)
      assert len(server.seen) == 3 + 3 + 6

  asking.run(main())
  assert len(asking.recorded_responses(path)) == 12


@needs_proc
@pytest.mark.parametrize('count', [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_fault_24_many_items_need_bounded_memory_and_few_descriptors(path, count):
  serving = subprocess.Popen([sys.executable, fault_server.__file__], stdout=subprocess.PIPE)
  assert serving.stdout is not None
  url = f'http://127.0.0.1:{int(serving.stdout.readline())}/v1'
  descriptors: list[int] = []

  async def main():
    recorded = store.Collection(path)
    run = runner.Runner(recorded, [asking.llm(url, concurrency=64)])
    asked = asking.some_queries(count // 100)
    recorded.add_queries(asked)

    def items(start, stop):
      for query in asked[start:stop]:
        descriptors.append(len(os.listdir('/proc/self/fd')))
        yield from (runner.Item(query, 'a', sample) for sample in range(100))

    async with run:
      await run.run({'a': items(0, 10)})
      growth = await peak_memory_growth(run.run({'a': items(10, None)}))
    recorded.journal.close()
    return run.tallies['a'], growth

  try:
    tally, growth = asking.uvloop.run(main())
  finally:
    serving.kill()
    serving.wait()
  assert (tally.answered, tally.failed.total()) == (count, 0)
  assert growth < 10e6 + 200 * count  # the index of identities is all that grows
  assert max(descriptors[len(descriptors) // 10 :]) <= descriptors[len(descriptors) // 10] + 5


def test_fault_25_the_key_is_nowhere_but_in_the_request(tmp_path, path, monkeypatch, caplog, capfd):
  key = 'sk-planted-4f1c9'
  monkeypatch.setenv('PLANTED_KEY', key)
  got = []

  async def repeats_the_key(request):
    got.append(request.headers['Authorization'])
    said = {'error': {'message': f'the key {request.headers["Authorization"]} is not good enough'}}
    return await fault_server.replies(said, 400)(request)

  async def answers_with_the_key(request):
    return await fault_server.replies(fault_server.with_text(f'your key is {key}'))(request)

  async def speaks_no_http(request):
    request.transport.write(b'nonsense ' + request.headers['Authorization'].encode() + b'\r\n\r\n')
    request.transport.close()
    return await fault_server.status(500)(request)

  async def main():
    script = [
      repeats_the_key,
      answers_with_the_key,
      speaks_no_http,
      fault_server.resets_mid_body,
      fault_server.ends_short,
    ]
    async with fault_server.FaultServer(*script, fault_server.status(401)) as server:
      llm = asking.llm(server.url, key='PLANTED_KEY', concurrency=1)
      said = [repr(llm), str(llm)]
      async with endpoints.Endpoint(llm) as endpoint:
        said += [repr(endpoint), repr(vars(endpoint)['spec']), repr(endpoint.request(asking.some_queries(1)[0], 0))]
      recorded = store.Collection(path)
      run = runner.Runner(recorded, [llm])
      async with run:
        said += [repr(run), repr(await run.problems(['a']))]
        for query in asking.some_queries(8):
          said.append(repr(await run.ask(query, 'a')))
      recorded.journal.close()
      await server.__aexit__()
      async with endpoints.Endpoint(llm) as endpoint:
        with pytest.raises(rate_limits.Failure) as failed:
          await endpoint.call(b'{}')
      assert failed.value.__context__ is None  # aiohttp's own error would show the headers
      said += [repr(failed.value), *traceback.format_exception(failed.value)]
      return said

  with caplog.at_level(logging.DEBUG):
    said = asking.run(main())
  assert got == [f'Bearer {key}']
  errors = [r.error for r in asking.recorded_responses(path).values()]
  assert errors[:2] == ['bad_request', None]
  shown = capfd.readouterr()
  everything = [*said, caplog.text, shown.out, shown.err, *(p.read_text('latin-1') for p in tmp_path.iterdir())]
  assert [text for text in everything if key in text] == []
