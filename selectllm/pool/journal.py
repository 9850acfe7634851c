"""An append-only JSONL file with a checksum on every line, in which a collection survives anything.

A line is `{"crc":"<8 hex digits>","entry":{...}}`, the CRC-32 taken over the bytes of the entry. Lines are written in
groups: whoever appends may wait until the group is on the disk.
"""

import asyncio
import collections.abc
import concurrent.futures
import contextlib
import fcntl
import json
import os
import pathlib
import zlib
from typing import Any, BinaryIO

import orjson
from absl import logging

FORMAT = 1
_HEAD, _MIDDLE, _TAIL = b'{"crc":"', b'","entry":', b'}\n'
_ENTRY_AT = len(_HEAD) + 8 + len(_MIDDLE)
_GROUP_S = 0.005  # how long a group waits for company before it is written


class JournalError(RuntimeError):
  """A journal that cannot be used or written; the message names the file and what to do."""


def encode(entry: Any) -> bytes:
  """One line of an entry (a dict or dataclass). Text that is no valid Unicode is kept by JSON escapes."""
  try:
    body = orjson.dumps(entry)
  except TypeError:  # a lone surrogate: what undecodable bytes of a reply became
    plain = entry if isinstance(entry, dict) else {name: getattr(entry, name) for name in entry.__slots__}
    body = json.dumps(plain, separators=(',', ':')).encode()
  return b'%b%08x%b%b%b' % (_HEAD, zlib.crc32(body), _MIDDLE, body, _TAIL)


def decode(line: bytes) -> dict[str, Any] | None:
  """The entry of a line, None when the line is torn or damaged."""
  body = line[_ENTRY_AT : -len(_TAIL)]
  if not line.endswith(_TAIL) or line[:_ENTRY_AT] != b'%b%08x%b' % (_HEAD, zlib.crc32(body), _MIDDLE):
    return None
  try:
    return orjson.loads(body)
  except orjson.JSONDecodeError:  # escaped lone surrogates, which only the standard library reads
    return json.loads(body)


def _scan(file: BinaryIO) -> collections.abc.Iterator[tuple[int, bytes, dict[str, Any] | None]]:
  """Yields offset, line and entry (None for a damaged line)."""
  offset = 0
  for line in file:
    yield offset, line, decode(line)
    offset += len(line)


def _good_lines(path: str | pathlib.Path) -> collections.abc.Iterator[tuple[int, bytes, dict[str, Any]]]:
  """`_scan` without a torn last line, and with everything else checked."""
  damaged = None
  with open(path, 'rb') as file:
    for number, (offset, line, entry) in enumerate(_scan(file), start=1):
      if damaged:
        raise JournalError(
          f'{path}:{damaged} is damaged: its checksum does not match. '
          'With --config.collect.salvage=True damaged lines are set aside and what they held is asked again.'
        )
      if number == 1 and not line.startswith(_HEAD[: len(line)]):
        raise JournalError(f'{path} is not a journal of responses: its first line is {line[:60]!r}')
      if entry is None:
        damaged = number
        continue
      if number == 1 and (entry.get('kind'), entry.get('format')) != ('journal', FORMAT):
        raise JournalError(f'{path} has format {entry.get("format")!r}; this version reads format {FORMAT}')
      yield offset, line, entry
  if damaged:
    logging.warning('%s: the last line was torn by a crash; it is dropped and asked again', path)


def read(path: str | pathlib.Path) -> collections.abc.Iterator[tuple[int, dict[str, Any]]]:
  """Yields offset and entry of every line; a damaged last line, torn by a crash, is left out with a warning.

  Raises:
    JournalError: a line in the middle is damaged, or the file is no journal.
    FileNotFoundError: when the file is not there.
  """
  for offset, _, entry in _good_lines(path):
    yield offset, entry


def _set_damaged_lines_aside(path: pathlib.Path) -> None:
  """Moves damaged lines of a journal to `<path>.damaged`."""
  kept, aside = path.with_name(path.name + '.salvaged'), path.with_name(path.name + '.damaged')
  count = 0
  with open(path, 'rb') as file, open(kept, 'wb') as good, open(aside, 'ab') as bad:
    for _, line, entry in _scan(file):
      count += entry is None
      (bad if entry is None else good).write(line)
    for written in (good, bad):
      written.flush()
      os.fsync(written.fileno())
  os.replace(kept, path)
  logging.warning('%s: %d damaged lines were moved to %s', path, count, aside)


class Journal:
  """The one writer of a journal file.

  Append freely, then `await commit()`: it returns when everything appended so far is on the disk.
  """

  def __init__(self, path: str | pathlib.Path, salvage: bool = False):
    """Locks the file, creating it when it is not there.

    Args:
      path: The file.
      salvage: Whether to set damaged lines aside instead of refusing them.

    Raises:
      JournalError: another process writes to it.
    """
    self.path = pathlib.Path(path)
    self.path.parent.mkdir(parents=True, exist_ok=True)
    self._lock = os.open(f'{self.path}.lock', os.O_RDWR | os.O_CREAT, 0o644)
    try:
      fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      owner = os.pread(self._lock, 100, 0).decode() or 'another process'
      os.close(self._lock)
      raise JournalError(f'{self.path} is being written by {owner}; two runners cannot share a journal') from None
    os.ftruncate(self._lock, 0)
    os.pwrite(self._lock, f'process {os.getpid()} on {os.uname().nodename}'.encode(), 0)
    if salvage and self.path.exists():
      _set_damaged_lines_aside(self.path)
    self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
    self._end = 0  # where the next appended line will start
    self._pending: list[bytes] = []
    self._group: asyncio.Task[None] | None = None  # collects what is appended now
    self._written: asyncio.Task[None] | None = None  # the last one to be handed to the disk
    self._error: JournalError | None = None
    self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix='journal')

  def recover(self) -> collections.abc.Iterator[tuple[int, dict[str, Any]]]:
    """Yields what is recorded as `read` does and makes the file ready to append to; must be exhausted before that."""
    for offset, line, entry in _good_lines(self.path):
      yield offset, entry
      self._end = offset + len(line)
    os.ftruncate(self._file, self._end)
    if not self._end:
      self.append({'kind': 'journal', 'format': FORMAT})

  def append(self, entry: Any) -> int:
    """Puts an entry into the current group and returns the offset at which it will stand.

    Raises:
      JournalError: an earlier write failed.
    """
    if self._error:
      raise self._error
    line = encode(entry)
    offset = self._end
    self._end += len(line)
    self._pending.append(line)
    return offset

  def entry_at(self, offset: int) -> dict[str, Any]:
    """The entry at an offset; it must have been committed."""
    size = 4096
    while b'\n' not in (line := os.pread(self._file, size, offset)) and len(line) == size:
      size *= 4
    entry = decode(line[: line.find(b'\n') + 1])
    if entry is None:
      raise JournalError(f'{self.path}: the line at byte {offset:,} is damaged')
    return entry

  async def commit(self) -> None:
    """Waits until everything appended so far is on the disk.

    Raises:
      JournalError: it could not be written, as when the disk is full; nothing of the group is kept.
    """
    if self._group is None and self._pending:
      self._group = asyncio.create_task(self._write_group())
    if group := self._group or self._written:
      await asyncio.shield(group)  # a waiter that is cancelled must not take the others' group with it

  async def _write_group(self) -> None:
    await asyncio.sleep(_GROUP_S)
    lines, self._pending = b''.join(self._pending), []
    self._written, self._group = self._group, None
    await asyncio.get_running_loop().run_in_executor(self._thread, self._write, lines, self._end)

  def _write(self, lines: bytes, end: int) -> None:
    if self._error:
      raise self._error
    start = end - len(lines)
    try:
      written = 0
      while written < len(lines):
        written += os.pwrite(self._file, lines[written:], start + written)
      os.fdatasync(self._file)
    except OSError as error:
      self._error = JournalError(
        f'{self.path} could not be written: {error.strerror}. Everything before is safe; '
        'put that right and run the same command again to go on.'
      )
      with contextlib.suppress(OSError):
        os.ftruncate(self._file, start)
      raise self._error from error

  async def close(self) -> None:
    """Writes what is pending and gives the lock back."""
    try:
      await self.commit()
    finally:
      self.release()

  def release(self) -> None:
    """Gives the lock back without writing what is pending."""
    self._thread.shutdown()
    os.close(self._file)
    os.close(self._lock)
