"""Runs the commands of a sweep, some at a time, on this machine or on a Ray cluster."""

import collections
import contextlib
import ctypes
import logging
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import rich.console
import rich.markup
import rich.progress

ATTEMPTS = 2
_POLL_S = 0.1
_PATIENCE_S = 15.0  # how long a command that was asked to end may take
# The variables that a run on another machine of the cluster should see as well.
_PASSED_ON = ('SELECTLLM_', 'JAX_', 'XLA_', 'HF_')


class Job(NamedTuple):
  """Describes a command to run.

  Attributes:
    name: Of the run.
    kind: What it does; those of a kind take about the same time.
    command: Its arguments.
    log: Takes what it prints.
    after: The job that must have succeeded before; empty for none.
    prepare: Called right before it starts.
  """

  name: str
  kind: str
  command: list[str]
  log: pathlib.Path
  after: str = ''
  prepare: Callable[[], None] = lambda: None


class Backend(Protocol):
  """Runs commands somewhere. A handle stands for one that was started."""

  def start(self, command: list[str], log: pathlib.Path) -> Any:
    """Starts a command; its output is appended to `log`."""

  def poll(self, handle: Any) -> int | None:
    """Returns the exit code, None while it runs."""

  def stop(self, handles: Sequence[Any]) -> None:
    """Ends commands and all that they started."""


def die_with_parent() -> None:
  """Lets a command end when whoever started it is killed, so that nothing is left behind (Linux; no-op elsewhere)."""
  if sys.platform == 'linux':
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _spawn(command: list[str], log: pathlib.Path, **options: Any) -> subprocess.Popen:
  log.parent.mkdir(parents=True, exist_ok=True)
  with log.open('ab') as output:
    # A group of its own: Ctrl-C is for the sweep, which then ends the whole group.
    return subprocess.Popen(
      command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
      preexec_fn=die_with_parent, **options,
    )  # fmt: skip


def _end(processes: Sequence[subprocess.Popen]) -> None:
  """Ends processes with their groups: asks, waits, kills."""
  for process in processes:
    send(process, signal.SIGTERM)
  deadline = time.monotonic() + _PATIENCE_S
  for process in processes:
    try:
      process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
      send(process, signal.SIGKILL)
      process.wait()


def send(process: subprocess.Popen, number: int) -> None:
  """Sends a signal to a process with its group, if it still runs."""
  if process.poll() is None:
    with contextlib.suppress(ProcessLookupError):  # it ended just now
      os.killpg(process.pid, number)


def thread_limits(cores: float) -> dict[str, str]:
  """Returns the environment that keeps a command's threads to its share of the cores.

  XLA and BLAS start as many threads as the machine has cores, in every process: many runs on a machine of many cores
  would wait for each other. Runs are not bound to certain cores, for others may be busy there.
  """
  threads = str(max(1, int(cores)))
  return {'NPROC': threads, 'OMP_NUM_THREADS': threads, 'OPENBLAS_NUM_THREADS': threads}


class Local:
  """Runs subprocesses on this machine; each of several gets an equal share of its cores."""

  def __init__(self, at_once: int):
    self._variables = thread_limits((os.cpu_count() or 1) / at_once) if at_once > 1 else {}

  def start(self, command: list[str], log: pathlib.Path) -> subprocess.Popen:
    """See `Backend`."""
    return _spawn(command, log, env={**self._variables, **os.environ})

  def poll(self, handle: subprocess.Popen) -> int | None:
    """See `Backend`."""
    return handle.poll()

  def stop(self, handles: Sequence[subprocess.Popen]) -> None:
    """See `Backend`."""
    _end(handles)


def _run_to_end(command: list[str], log: str, cwd: str, variables: dict[str, str]) -> int:
  """Runs a command until it ends or the task is cancelled; this is what a Ray worker does."""
  process = _spawn(command, pathlib.Path(log), cwd=cwd, env={**os.environ, **variables})
  try:
    while process.poll() is None:
      time.sleep(_POLL_S)  # cancelling interrupts this, and would not interrupt process.wait()
    return process.returncode
  finally:
    _end([process])


class Cluster:
  """Runs tasks on a Ray cluster, all of whose machines see checkout, Python and sweep directory under the same paths.

  Args:
    address: Of a cluster; `auto` finds it, `local` starts one on this machine.
    cpus: Cores that a run is given.
    gpus: GPUs that a run is given.

  Raises:
    RuntimeError: when Ray is not installed, the cluster cannot be reached, or no machine of it has room for a run.
  """

  def __init__(self, address: str, *, cpus: float, gpus: float):
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    try:
      import ray
    except ImportError as error:
      raise RuntimeError("--ray needs Ray: pip install 'selectllm[ray]'") from error
    self._ray, self._cpus = ray, cpus
    try:
      dashboard = False if address == 'local' else None
      ray.init(address, include_dashboard=dashboard, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError) as error:
      raise RuntimeError(f'--ray={address}: {error}') from error
    self._check_room(cpus, gpus)
    self._task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_run_to_end)
    self._logs: dict[Any, pathlib.Path] = {}

  def _check_room(self, cpus: float, gpus: float) -> None:
    """Refuses runs that would wait for ever."""
    machines = [node['Resources'] for node in self._ray.nodes() if node['Alive']]
    room = [(machine.get('CPU', 0.0), machine.get('GPU', 0.0)) for machine in machines]
    if not any(cores >= cpus and devices >= gpus for cores, devices in room):
      found = ', '.join(f'{cores:g} cores and {devices:g} GPUs' for cores, devices in room)
      raise RuntimeError(
        f'--cpus_per_run={cpus:g} --gpus_per_run={gpus:g}: no machine of the cluster has as much; they have {found}'
      )

  def start(self, command: list[str], log: pathlib.Path) -> Any:
    """See `Backend`."""
    passed_on = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    variables = {**thread_limits(self._cpus), **passed_on}
    handle = self._task.remote(command, str(log.absolute()), os.getcwd(), variables)
    self._logs[handle] = log
    return handle

  def poll(self, handle: Any) -> int | None:
    """See `Backend`."""
    if not self._ray.wait([handle], timeout=0)[0]:
      return None
    try:
      return self._ray.get(handle)
    except self._ray.exceptions.RayError as error:  # the worker died, or its machine
      with self._logs[handle].open('a') as log:
        log.write(f'{error}\n')
      return 1

  def stop(self, handles: Sequence[Any]) -> None:
    """See `Backend`."""
    for handle in handles:
      self._ray.cancel(handle, force=False)
    if handles:
      self._ray.wait(list(handles), num_returns=len(handles), timeout=_PATIENCE_S)


def _clock(seconds: float) -> str:
  return f'{seconds:.0f} s' if seconds < 100 else f'{seconds / 60:.0f} min'


class _Progress:
  """Shows a line for everything that ends, and on a terminal a bar."""

  def __init__(self, total: int):
    self._begun = time.monotonic()
    self._seconds: dict[str, list[float]] = {}
    console = rich.console.Console(stderr=True)
    self._bar = rich.progress.Progress(
      rich.progress.BarColumn(),
      rich.progress.MofNCompleteColumn(),
      rich.progress.TimeElapsedColumn(),
      rich.progress.TextColumn('{task.fields[note]}'),
      console=console,
      transient=True,
      disable=not console.is_terminal,
    )
    self._task = self._bar.add_task('', total=total, note='')
    self._total, self._ended = total, 0

  def __enter__(self) -> '_Progress':
    self._bar.start()
    return self

  def __exit__(self, *_: Any) -> None:
    self._bar.stop()

  def say(self, text: str) -> None:
    """Prints a line."""
    self._bar.console.print(rich.markup.escape(text), highlight=False, soft_wrap=True)

  def count(self, job: Job, seconds: float) -> str:
    """Counts a job that was done; returns how many of how many."""
    self._seconds.setdefault(job.kind, []).append(seconds)
    self._ended += 1
    return f'[{self._ended}/{self._total}]'

  def note(self, waiting: Sequence[Job], running: Sequence[Job], failed: int) -> str:
    """Returns how many run and have failed, and the time that is left; updates the bar."""
    parts = [f'{len(running)} running', f'{failed} failed']
    known = [seconds for times in self._seconds.values() for seconds in times]
    if known and (left := [*waiting, *running]):
      # Of a kind that has not ended yet nothing is known; it will take as long as the others.
      work = sum(statistics.mean(self._seconds.get(job.kind, known)) for job in left)
      parts.append(f'about {_clock((time.monotonic() - self._begun) * work / sum(known))} left')
    text = ', '.join(parts)
    self._bar.update(self._task, completed=self._ended, note=text)
    return text


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
  """Collects Ctrl-C and SIGTERM: raised anywhere, they could come between the start of a job and its being noted."""
  came: list[int] = []
  before = {
    number: signal.signal(number, lambda number, _: came.append(number)) for number in (signal.SIGINT, signal.SIGTERM)
  }
  try:
    yield came
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


class _Queue:
  """Keeps track of the jobs that wait, run and have failed.

  Attributes:
    waiting: Jobs in the order in which they start.
    running: Handle of the backend -> the job, and when it began.
    failed: Name of a job -> why it failed.
  """

  def __init__(self, jobs: Sequence[Job], backend: Backend, progress: _Progress):
    self.waiting, self.running = list(jobs), dict[Any, tuple[Job, float]]()
    self.failed: dict[str, str] = {}
    self._backend, self._progress = backend, progress
    self._unfinished = {job.name for job in jobs}
    self._attempts: collections.Counter[str] = collections.Counter()

  def start(self, at_once: int) -> None:
    """Starts jobs whose predecessor is done, until so many run."""
    while len(self.running) < at_once:
      job = next((job for job in self.waiting if job.after not in self._unfinished), None)
      if job is None:
        return
      self.waiting.remove(job)
      self._attempts[job.name] += 1
      job.prepare()
      self.running[self._backend.start(job.command, job.log)] = job, time.monotonic()

  def poll(self) -> None:
    """Takes note of the jobs that have ended, and says so."""
    for handle, (job, begun) in list(self.running.items()):
      if (code := self._backend.poll(handle)) is None:
        continue
      del self.running[handle]
      line = self._end(job, code, time.monotonic() - begun)
      note = self._progress.note(self.waiting, [job for job, _ in self.running.values()], len(self.failed))
      self._progress.say(f'{line}; {note}')

  def _end(self, job: Job, code: int, seconds: float) -> str:
    line = f'{job.kind} {job.name}'
    if code == 0:
      self._unfinished.remove(job.name)
      return f'{self._progress.count(job, seconds)} {line}: {_clock(seconds)}'
    if self._attempts[job.name] < ATTEMPTS:
      self.waiting.insert(0, job)
      return f'{line}: ended with {code} after {_clock(seconds)}, and is tried again'
    self.failed[job.name] = f'ended with {code}, {ATTEMPTS} times'
    for other in [other for other in self.waiting if other.after == job.name]:
      self.waiting.remove(other)
      self.failed[other.name] = f'it needs the classifier of {job.name}, which failed'
    return f'{line}: ended with {code} again'

  def stop(self) -> None:
    """Stops what runs."""
    if self.running:
      self._progress.say(f'Stopping {len(self.running)} runs')
      self._backend.stop(list(self.running))


def run_all(jobs: Sequence[Job], backend: Backend, at_once: int) -> dict[str, str]:
  """Runs all jobs, a crashed one twice; goes on with the others when one fails for good.

  Args:
    jobs: In the order in which they start as far as `after` allows.
    backend: Where they run.
    at_once: How many run at the same time.

  Returns:
    Why jobs failed, by name; empty when all succeeded.

  Raises:
    KeyboardInterrupt: on Ctrl-C or SIGTERM, when all that ran has been stopped.
  """
  with _Progress(len(jobs)) as progress, signals() as interrupted:
    queue = _Queue(jobs, backend, progress)
    try:
      while queue.waiting or queue.running:
        if interrupted:
          raise KeyboardInterrupt
        queue.start(at_once)
        queue.poll()
        time.sleep(_POLL_S)
    finally:
      queue.stop()
  return queue.failed


def tail(log: pathlib.Path, lines: int = 15) -> str:
  """Returns the end of what a command printed."""
  try:
    return '\n'.join(log.read_text(errors='replace').splitlines()[-lines:])
  except FileNotFoundError:
    return ''
