"""Writes a run's progress: metrics.jsonl, TensorBoard, and a line (or bar) with the time that is left."""

import contextlib
import logging
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator

import orjson
import rich.progress
import tensorboardX

from selectllm.infra import paths

_LOG = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10


class MetricWriter:
  """Writes scalars by step; on a resumed run, drops what was written beyond the step resumed from."""

  def __init__(self, workdir: pathlib.Path, *, resumed_step: int):
    kept = []
    if (workdir / 'metrics.jsonl').exists():
      for line in (workdir / 'metrics.jsonl').read_bytes().splitlines():
        try:
          if orjson.loads(line)['step'] <= resumed_step:
            kept.append(line)
        except orjson.JSONDecodeError:  # the last line of a killed run
          break
    self._exits = contextlib.ExitStack()
    self._sent_to, self._last_sent = workdir, time.monotonic()
    if paths.is_remote(workdir):  # where nothing can be appended: files grow here, and are sent now and then
      workdir = pathlib.Path(self._exits.enter_context(tempfile.TemporaryDirectory()))
    self._workdir, path = workdir, workdir / 'metrics.jsonl'
    with paths.atomic_write(path) as partial:  # a run killed here keeps its past
      partial.write_bytes(b''.join(line + b'\n' for line in kept))
    self._file = path.open('ab')
    self._board = tensorboardX.SummaryWriter(str(workdir / 'tensorboard'), purge_step=resumed_step + 1)

  def write(self, step: int, **scalars: float) -> None:
    """Writes scalars of one step."""
    self._file.write(orjson.dumps({'step': step, **scalars}, option=orjson.OPT_APPEND_NEWLINE))
    self._file.flush()
    for name, value in scalars.items():
      self._board.add_scalar(name, value, step)
    if time.monotonic() - self._last_sent >= _SECONDS_BETWEEN_LINES:
      self._board.flush()
      self._send()

  def _send(self) -> None:
    if self._workdir != self._sent_to:
      for path in filter(pathlib.Path.is_file, self._workdir.rglob('*')):
        (self._sent_to / path.relative_to(self._workdir)).write_bytes(path.read_bytes())
    self._last_sent = time.monotonic()

  def close(self) -> None:
    """Flushes and closes both files."""
    self._file.close()
    self._board.close()
    self._send()
    self._exits.close()


class Clock:
  """Measures where the time of a loop goes."""

  def __init__(self, *parts: str):
    self._seconds = dict.fromkeys(parts, 0.0)
    self._noted = dict(self._seconds)

  @contextlib.contextmanager
  def on(self, part: str) -> Iterator[None]:
    """Counts the time inside as this part's."""
    begun = time.perf_counter()
    try:
      yield
    finally:
      self._seconds[part] += time.perf_counter() - begun

  def since_last(self) -> dict[str, float]:
    """Returns the seconds of each part since the last call."""
    passed = {part: seconds - self._noted[part] for part, seconds in self._seconds.items()}
    self._noted = dict(self._seconds)
    return passed

  def shares(self) -> str:
    """Says what part takes how much of all that was noted."""
    total = max(sum(self._seconds.values()), 1e-9)
    return ', '.join(f'{part} {100 * seconds / total:.0f} %' for part, seconds in self._seconds.items())


class Progress:
  """Shows a bar on a terminal, else a log line now and then; both with the time that is left."""

  def __init__(self, what: str, total: int, *, start: int = 0):
    self._what, self._total, self._start = what, total, start
    self._begun = self._last_line = time.monotonic()
    self._bar = None
    if sys.stderr.isatty() and _LOG.isEnabledFor(logging.INFO):  # else another process of the job shows it
      self._bar = rich.progress.Progress(
        rich.progress.TextColumn('{task.description}'),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn('{task.fields[note]}'),
        console=rich.console.Console(stderr=True),
        transient=True,
      )
      self._task = self._bar.add_task(what, total=total, completed=start, note='')
      self._bar.start()

  def update(self, done: int, note: str = '') -> None:
    """Shows that `done` of the total are done."""
    if self._bar:
      self._bar.update(self._task, completed=done, note=note)
    elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES or done == self._total:
      self._last_line = time.monotonic()
      elapsed = self._last_line - self._begun
      left = elapsed / max(1, done - self._start) * (self._total - done)
      _LOG.info('%s: %d/%d, %.0f s gone, %.0f s left %s', self._what, done, self._total, elapsed, left, note)

  def close(self) -> None:
    """Takes the bar off the terminal."""
    if self._bar:
      self._bar.stop()
