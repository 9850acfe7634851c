"""Appends to a JSONL file with a checksum on every line, in which a collection survives anything.

A line is `{"crc":"<8 hex digits>","entry":{...}}`, the CRC-32 taken over the bytes of the entry. A line that was
appended outlives this process; once it is committed, with all others of its group, it outlives the machine's power.
"""

import asyncio
import collections.abc
import contextlib
import fcntl
import json
import logging
import os
import pathlib
import zlib
from typing import Any, BinaryIO

import orjson

_LOG = logging.getLogger(__name__)

FORMAT = 1
_HEAD, _MIDDLE, _TAIL = b'{"crc":"', b'","entry":', b'}\n'
_ENTRY_AT = len(_HEAD) + 8 + len(_MIDDLE)


class JournalError(RuntimeError):
  """A journal that cannot be used or written; the message names the file and what to do."""


def encode(entry: Any) -> bytes:
  """Returns one line of an entry (a dict or dataclass). Text that is no valid Unicode is kept by JSON escapes."""
  try:
    body = orjson.dumps(entry)
  except TypeError:  # a lone surrogate: what undecodable bytes of a reply became
    plain = entry if isinstance(entry, dict) else {name: getattr(entry, name) for name in entry.__slots__}
    body = json.dumps(plain, separators=(',', ':')).encode()
  return b'%b%08x%b%b%b' % (_HEAD, zlib.crc32(body), _MIDDLE, body, _TAIL)


def decode(line: bytes) -> dict[str, Any] | None:
  """Returns the entry of a line, None when the line is torn or damaged."""
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
  """Yields what `_scan` does without a torn last line, and with everything else checked."""
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
    _LOG.warning('%s: the last line was torn by a crash; it is dropped and asked again', path)


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
  _LOG.warning('%s: %d damaged lines were moved to %s', path, count, aside)


class Journal:
  """The one writer of a journal file.

  Reading back is possible at once. `recover` must be exhausted before the first `append`.
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
    self._end = 0  # where the next line will start
    self._committed = 0
    self._error: JournalError | None = None

  def recover(self) -> collections.abc.Iterator[tuple[int, dict[str, Any]]]:
    """Yields what is recorded as `read` does, then cuts off a torn last line."""
    for offset, line, entry in _good_lines(self.path):
      yield offset, entry
      self._end = offset + len(line)
    os.ftruncate(self._file, self._end)
    if not self._end:
      self.append({'kind': 'journal', 'format': FORMAT})

  def append(self, entry: Any) -> int:
    """Writes an entry and returns its offset.

    Raises:
      JournalError: it could not be written, as when the disk is full; nothing of it is kept.
    """
    if self._error:
      raise self._error
    line, offset = encode(entry), self._end
    try:
      written = os.pwrite(self._file, line, offset)
      while written < len(line):
        written += os.pwrite(self._file, line[written:], offset + written)
    except OSError as error:
      with contextlib.suppress(OSError):
        os.ftruncate(self._file, offset)
      raise self._failed(error) from error
    self._end += len(line)
    return offset

  def entry_at(self, offset: int) -> dict[str, Any]:
    """Returns the entry at an offset."""
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
      JournalError: it could not be written.
    """
    if self._error:
      raise self._error
    end = self._end
    if end > self._committed:
      try:
        await asyncio.get_running_loop().run_in_executor(None, os.fdatasync, self._file)
      except OSError as error:
        raise self._failed(error) from error
      self._committed = max(self._committed, end)

  def close(self) -> None:
    """Gives the lock back; what was not committed is left to the system to write."""
    os.close(self._file)
    os.close(self._lock)

  def _failed(self, error: OSError) -> JournalError:
    self._error = JournalError(
      f'{self.path} could not be written: {error.strerror}. Everything before is safe; '
      'put that right and run the same command again to go on.'
    )
    return self._error
