"""Runs one job as several processes on the CPU of this machine, as it would run on several hosts.

  python -m launch.local_multihost --processes 2 -- --config=mini --workdir=runs/two

What stands behind `--` is what selectllm.main takes. When a process dies, all are ended, and the same command goes on
from the last checkpoint. SIGTERM and Ctrl-C are passed on; SIGTERM lets the training save the step it has reached.
"""

import math
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from absl import app, flags

from selectllm.sweeps import backends

_PROCESSES = flags.DEFINE_integer('processes', 2, 'Processes of the job.', lower_bound=1)
_DEVICES = flags.DEFINE_integer('devices_per_process', 1, 'Devices that the CPU of each shows.', lower_bound=1)

_POLL_S = 0.1
# After one died, others that fall with it say so themselves; those that wait for it would for minutes.
_FALL_S = 1.0
# How long a Ctrl-C may take.
_PATIENCE_S = 15.0


class Ended(NamedTuple):
  """Says how a process ended: its number, and its exit code as `subprocess` has it, negative for a signal."""

  process: int
  code: int


class Job:
  """Holds the processes of a job, and prints what they print, line by line under their numbers."""

  def __init__(self, command: Sequence[str], environments: Sequence[dict[str, str]]):
    self.processes = [
      subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True, preexec_fn=backends.die_with_parent,
      )
      for environment in environments
    ]  # fmt: skip
    self._ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
    self._threads = [threading.Thread(target=self._follow, args=(i,)) for i in range(len(self.processes))]
    for thread in self._threads:
      thread.start()

  def _follow(self, number: int) -> None:
    process = self.processes[number]
    assert process.stdout
    for line in process.stdout:
      sys.stderr.buffer.write(b'[%d] %b\n' % (number, line.rstrip(b'\r\n')))
      sys.stderr.buffer.flush()
    self._ended.put(Ended(number, process.wait()))

  def next_ended(self, timeout_s: float) -> Ended | None:
    """Returns the next process that has ended; None when none does in time."""
    try:
      return self._ended.get(timeout=timeout_s)
    except queue.Empty:
      return None

  def send(self, number: int) -> None:
    """Sends a signal to all that still run."""
    for process in self.processes:
      backends.send(process, number)

  def close(self) -> None:
    """Kills what still runs; JAX takes SIGTERM for a request to save."""
    self.send(signal.SIGKILL)
    for thread in self._threads:
      thread.join()


def _free_port() -> int:
  with socket.socket() as held:
    held.bind(('127.0.0.1', 0))
    return held.getsockname()[1]


def environments(processes: int, devices: int) -> list[dict[str, str]]:
  """Makes the environment of each process: its place in the job, its devices, its share of the cores."""
  address = f'127.0.0.1:{_free_port()}'
  options = re.sub(r'--xla_force_host_platform_device_count=\S+', '', os.environ.get('XLA_FLAGS', ''))
  shared = {
    **backends.thread_limits((os.cpu_count() or 1) / processes),
    **os.environ,
    'PYTHONUNBUFFERED': '1',
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': f'{options} --xla_force_host_platform_device_count={devices}'.strip(),
    'JAX_COORDINATOR_ADDRESS': address,
    'JAX_COORDINATOR_BIND_ADDRESS': address,
    'JAX_NUM_PROCESSES': str(processes),
  }
  return [{**shared, 'JAX_PROCESS_ID': str(number)} for number in range(processes)]


def _say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


def _how(code: int) -> str:
  return f'was killed by {signal.Signals(-code).name}' if code < 0 else f'ended with exit code {code}'


def run(command: Sequence[str], environments: Sequence[dict[str, str]]) -> int:
  """Runs a job to its end.

  Args:
    command: Of every process.
    environments: One for each process.

  Returns:
    0 when all processes ended well; 130 after Ctrl-C; else the code of the one that died first, as shells have it.
  """
  ended: list[Ended] = []
  with backends.signals() as came:
    job = Job(command, environments)
    try:
      passed_on, deadline = 0, math.inf
      while len(ended) < len(job.processes) and not any(one.code for one in ended) and time.monotonic() < deadline:
        if one := job.next_ended(_POLL_S):
          ended.append(one)
        for number in came[passed_on:]:
          _say(f'{signal.Signals(number).name} is passed on to {len(job.processes) - len(ended)} processes')
          job.send(number)
          passed_on += 1
          if number == signal.SIGINT:
            deadline = time.monotonic() + _PATIENCE_S
      while ended and ended[-1].code and (one := job.next_ended(_FALL_S)):
        ended.append(one)
    finally:
      job.close()
  if signal.SIGINT in came:
    _say('Stopped. The same command goes on from the last checkpoint.')
    return 130
  failed = [one for one in ended if one.code]
  if not failed:
    return 0
  # Who is killed takes others along, which abort; not the other way round.
  first = min(failed, key=lambda one: one.code >= 0 or one.code == -signal.SIGABRT)
  _say(
    f'Process {first.process} of {len(job.processes)} {_how(first.code)}, and the others were ended with it. The same '
    'command goes on from the last checkpoint.'
  )
  return first.code if first.code > 0 else 128 - first.code


def main(argv: list[str]) -> None:
  """Runs the job that the flags ask for."""
  if not any(argument.startswith('--workdir') for argument in argv[1:]):
    raise app.UsageError('give the arguments of selectllm.main behind --, with the --workdir that the processes share')
  command = [sys.executable, '-m', 'selectllm.main', *argv[1:], '--config.mesh.distributed']
  sys.exit(run(command, environments(_PROCESSES.value, _DEVICES.value)))


if __name__ == '__main__':
  app.run(main)
