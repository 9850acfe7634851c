import asyncio
import pathlib
import random

import pytest

from selectllm.client import journal


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
  return tmp_path / 'journal.jsonl'


def written(path: pathlib.Path, *entries: dict) -> list[int]:
  book = journal.Journal(path)
  list(book.recover())
  offsets = [book.append(entry) for entry in entries]
  asyncio.run(book.commit())
  book.close()
  return offsets


def test_entries_come_back_in_order_and_by_offset(path):
  entries = [{'text': 'x' * size} for size in (0, 10, 5000, 100_000)]
  offsets = written(path, *entries)
  assert list(journal.read(path))[1:] == list(zip(offsets, entries, strict=True))
  book = journal.Journal(path)
  list(book.recover())
  assert [book.entry_at(offset) for offset in reversed(offsets)] == entries[::-1]
  book.close()


def test_what_is_appended_can_be_read_at_once(path):
  book = journal.Journal(path)
  list(book.recover())
  assert book.entry_at(book.append({'a': 1})) == {'a': 1}
  book.close()


def test_any_single_damage_is_found(path):
  written(path, *({'number': i, 'text': 'some text'} for i in range(5)))
  whole = path.read_bytes()
  lines = whole.splitlines(keepends=True)
  last = len(whole) - len(lines[-1]) - 1  # without its end of line, the last but one would be part of a torn line
  chance = random.Random(0)
  for _ in range(300):
    at = chance.randrange(len(lines[0]), last)
    damaged = bytearray(whole)
    damaged[at] ^= 1 << chance.randrange(8)
    path.write_bytes(damaged)
    with pytest.raises(journal.JournalError, match='is damaged'):
      list(journal.read(path))


def test_every_torn_end_is_dropped_and_everything_before_is_kept(path):
  written(path, {'number': 1}, {'number': 2})
  whole = path.read_bytes()
  complete = len(whole) - len(whole.splitlines(keepends=True)[-1])
  for size in range(complete + 1, len(whole)):
    path.write_bytes(whole[:size])
    assert [entry for _, entry in journal.read(path)][1:] == [{'number': 1}]
  for tail in (b'\0' * 100, b'garbage', b'\n'):
    path.write_bytes(whole + tail)
    assert [entry for _, entry in journal.read(path)][1:] == [{'number': 1}, {'number': 2}]


def test_another_file_is_not_touched(path):
  path.write_text('{"precious": 1}\n')
  book = journal.Journal(path)
  with pytest.raises(journal.JournalError, match='is not a journal of responses'):
    list(book.recover())
  book.close()
  assert path.read_text() == '{"precious": 1}\n'


def test_a_later_format_is_refused(path, monkeypatch):
  monkeypatch.setattr(journal, 'FORMAT', 2)
  written(path, {'a': 1})
  monkeypatch.undo()
  with pytest.raises(journal.JournalError, match='has format 2; this version reads format 1'):
    list(journal.read(path))
