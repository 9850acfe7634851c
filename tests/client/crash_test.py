"""The faults of this machine and its users: crashes, full disks, damaged files, signals. More in faults_test.py."""

import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import time

import pytest

from configs import common
from selectllm.client import command, journal, store
from selectllm.data import records
from selectllm.modes import collect
from tests.helpers import asking, fault_server


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
  return tmp_path / 'run' / 'journal.jsonl'


def prepared(folder: pathlib.Path, urls: dict[str, str], count: int, **limits: object) -> None:
  asking.write_pool(folder / 'pool.yaml', urls, **limits)
  asking.write_queries(folder / 'queries.jsonl', asking.some_queries(count))


def collected(folder: pathlib.Path, workdir: str = 'run', **fields: object) -> int:
  """Runs the mode in this process; returns its exit code."""
  config = common.get_config()
  config.pool.file = str(folder / 'pool.yaml')
  config.collect.update({'queries': str(folder / 'queries.jsonl'), 'samples': 2, 'drain_s': 5.0, **fields})
  return collect.collect(config, folder / workdir)


def texts(path: pathlib.Path) -> dict[store.Key, str | None]:
  return {key: response.text for key, response in asking.recorded_responses(path).items()}


def test_fault_13_a_dead_endpoint_is_named_and_the_others_complete(tmp_path, path, capsys):
  dead = fault_server.FaultServer(rule=lambda body: fault_server.resets_mid_body)  # its list of models is in order
  with fault_server.in_thread(dead), fault_server.in_thread(fault_server.FaultServer()) as good:
    prepared(tmp_path, {'dead': dead.url, 'good': good.url}, 20, give_up_s=0.3)
    code = collected(tmp_path)
  assert code == command.INCOMPLETE
  errors = {key: response.error for key, response in asking.recorded_responses(path).items()}
  assert len(errors) == 80
  assert all((error is None) == (llm == 'good') for (_, llm, _), error in errors.items())
  assert 'incomplete: dead;' in capsys.readouterr().out
  summary = json.loads(path.with_name('summary.json').read_bytes())['llms']
  assert summary['dead']['missing'] == sum(summary['dead']['failed'].values()) == 40
  for record in records.read_jsonl(path.with_name('responses.jsonl')):
    assert all(sample.error for sample in record.responses['dead'])  # missing, not wrong
    assert all(sample.text for sample in record.responses['good'])


@pytest.mark.parametrize('kills', [20, pytest.param(100, marks=pytest.mark.slow)])
def test_fault_15_kill_9_at_random_points(tmp_path, path, kills):
  concurrency, requests = 8, 60 * kills
  moments = random.Random(kills)
  with fault_server.in_thread(fault_server.FaultServer()) as server:
    server.latency_s = 0.02
    prepared(tmp_path, {'a': server.url}, requests // 10, concurrency=concurrency)
    acknowledged: dict[store.Key, str | None] = {}
    for number in range(kills):
      seen = len(server.seen)
      child = asking.start(tmp_path)
      if number % 4 == 0:  # anywhere, be it while it starts
        time.sleep(moments.uniform(0, 0.6))
      else:
        while len(server.seen) == seen and child.poll() is None:
          time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.1))
      assert child.poll() is None, asking.finish(child)
      child.kill()
      asking.finish(child)
      now = texts(path) if path.exists() else {}
      assert acknowledged.items() <= now.items()  # whatever was on the disk stays
      acknowledged = now
    assert 0 < len(acknowledged) < requests
    assert len(server.seen) <= len(acknowledged) + kills * concurrency  # at most what was in flight is repeated
    assert asking.finish(asking.start(tmp_path))[0] == 0
    assert len(server.seen) <= requests + kills * concurrency
    assert asking.finish(asking.start(tmp_path, 'undisturbed'))[0] == 0
  undisturbed = tmp_path / 'undisturbed' / 'journal.jsonl'
  assert texts(path) == texts(undisturbed)
  assert answers(path) == answers(undisturbed)


def answers(path: pathlib.Path) -> list[tuple[str, str | None, list[str | None]]]:
  """The exported data set but for its latencies."""
  recorded = records.read_jsonl(path.with_name('responses.jsonl'))
  return [(r.query_id, r.reference, [s.answer for s in r.responses['a']]) for r in recorded]


def a_journal(path: pathlib.Path) -> None:
  async def main() -> None:
    async with fault_server.FaultServer() as server:
      await asking.ask_all(path, [asking.llm(server.url)], asking.some_queries(5))

  asking.run(main())


@pytest.mark.parametrize('kept', [1, 30, -1])
def test_fault_16_a_torn_last_line_is_dropped_with_a_warning_and_asked_again(path, kept, caplog):
  a_journal(path)
  whole = path.read_bytes()
  last = whole.splitlines(keepends=True)[-1]
  path.write_bytes(whole[: -len(last)] + last[:kept])
  a_journal(path)
  assert 'torn' in caplog.text
  assert len(texts(path)) == 5
  assert path.read_bytes().count(b'\n') == whole.count(b'\n')


def test_fault_16_a_bad_line_in_the_middle_stops_and_can_be_salvaged(tmp_path, path, capsys):
  with fault_server.in_thread(fault_server.FaultServer()) as server:
    prepared(tmp_path, {'a': server.url}, 5)
    assert collected(tmp_path) == 0
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    damaged = lines[-3].replace(b'the answer is', b'the answer iz')
    path.write_bytes(b''.join([*lines[:-3], damaged, *lines[-2:]]))
    assert collected(tmp_path) == command.REFUSED
    said = capsys.readouterr().err
    assert f'{path}:{len(lines) - 2} is damaged' in said
    assert 'config.collect.salvage=True' in said
    assert len(server.seen) == 10
    assert collected(tmp_path, salvage=True) == 0
    assert len(server.seen) == 11
  assert path.with_name('journal.jsonl.damaged').read_bytes() == damaged
  assert b''.join(sorted(path.read_bytes().splitlines())).count(b'the answer is') == 10


@contextlib.contextmanager
def small_disk(folder: pathlib.Path):
  """Mounts a file system of 64 KiB, where that is allowed."""
  folder.mkdir()
  if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', folder], capture_output=True).returncode:
    pytest.skip('may not mount a small file system here')
  try:
    yield
  finally:
    subprocess.run(['umount', '-l', folder], check=True)


def test_fault_17_a_full_disk_stops_with_a_clear_error_and_is_resumable(tmp_path, path, capsys):
  with small_disk(tmp_path / 'run'), fault_server.in_thread(fault_server.FaultServer()) as server:
    prepared(tmp_path, {'a': server.url}, 200)
    assert collected(tmp_path) == command.REFUSED
    said = capsys.readouterr().err
    assert 'No space left on device' in said
    assert 'run the same command again' in said
    kept = texts(path)
    assert 0 < len(kept) < 400
    assert len(server.seen) <= len(kept) + 3 * asking.QUICK['concurrency']
    subprocess.run(['mount', '-o', 'remount,size=8m', tmp_path / 'run'], check=True)
    assert collected(tmp_path) == 0
    assert len(texts(path)) == 400
    assert kept.items() <= texts(path).items()
    assert collected(tmp_path, 'undisturbed') == 0
    assert texts(path) == texts(tmp_path / 'undisturbed' / 'journal.jsonl')


def test_fault_18_a_second_runner_on_the_same_journal_is_refused(tmp_path, path):
  with fault_server.in_thread(fault_server.FaultServer()) as server:
    prepared(tmp_path, {'a': server.url}, 5)
    held = journal.Journal(path)
    code, said = asking.finish(asking.start(tmp_path))
    held.close()
    assert code == command.REFUSED
    assert f'{path} is being written by process {os.getpid()}' in said
    assert server.seen == []
    assert collected(tmp_path) == 0


@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])
def test_fault_21_a_first_signal_drains_and_flushes(tmp_path, path, signum):
  with fault_server.in_thread(fault_server.FaultServer()) as server:
    server.latency_s = 0.3
    prepared(tmp_path, {'a': server.url}, 50)
    child = asking.start(tmp_path)
    while not server.in_flight:
      time.sleep(0.01)
    child.send_signal(signum)
    code, said = asking.finish(child)
    assert code == 128 + signum
    assert signum.name in said
    assert len(texts(path)) == len(server.seen) > 0  # what was in flight was waited for, nothing else was sent
    server.latency_s = 0
    assert collected(tmp_path, samples=10) == 0
    assert len(server.seen) == len(texts(path)) == 500


def test_fault_21_the_drain_has_a_deadline(tmp_path, path):
  with fault_server.in_thread(fault_server.FaultServer(rule=lambda body: fault_server.hangs)) as server:
    prepared(tmp_path, {'a': server.url}, 50, timeout_s=600.0)
    child = asking.start(tmp_path, **{'collect.drain_s': 0.1})
    while not server.in_flight:
      time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    assert asking.finish(child)[0] == 128 + signal.SIGINT
  assert texts(path) == {}


def test_fault_21_a_second_signal_exits_now(tmp_path, path):
  with fault_server.in_thread(fault_server.FaultServer(fault_server.hangs)) as server:
    prepared(tmp_path, {'a': server.url}, 5, timeout_s=600.0)
    child = asking.start(tmp_path, **{'collect.drain_s': 600})
    while len(server.seen) < 50:
      time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    assert 'once more' in child.stderr.readline()
    child.send_signal(signal.SIGINT)
    assert asking.finish(child)[0] == 128 + signal.SIGINT
    assert collected(tmp_path, samples=10) == 0
  assert len(texts(path)) == 50
  assert len(server.seen) <= 50 + asking.QUICK['concurrency']
