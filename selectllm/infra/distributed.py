"""Starts JAX: keeps what is compiled for later runs, and makes one job of many processes.

All processes of a job run the same command on the same run directory, which they share. They train and score together,
each with its own devices and its share of the data; the first alone keeps the run directory, reports and narrates.
"""

import atexit
import contextlib
import hashlib
import itertools
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from selectllm.infra import paths

_LOG = logging.getLogger(__name__)

_SYNC_POINTS = itertools.count(1)

# Compilations that take less are done again.
_WORTH_KEEPING_S = 0.2
# Processes wait at the end for the first one, which writes the report.
_LONGEST_REPORT_S = 24 * 3600


def enable_compilation_cache() -> None:
  """Keeps what is compiled for later runs, in the cache or where JAX_COMPILATION_CACHE_DIR says."""
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    jax.config.update('jax_compilation_cache_dir', str(paths.cache_dir() / 'compiled'))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', _WORTH_KEEPING_S)


def join_job() -> None:
  """Makes this one of the processes of a job; before any device is used.

  Slurm and TPU pods say themselves which process this is, of how many, and where the first one is. Elsewhere
  JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID do.

  Raises:
    ValueError: when nothing says so.
  """
  try:
    count, index = (
      int(os.environ[name]) if name in os.environ else None for name in ('JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
    )
    jax.distributed.initialize(num_processes=count, process_id=index, shutdown_timeout_seconds=_LONGEST_REPORT_S)
  except ValueError as error:
    raise ValueError(
      f'config.mesh.distributed=True, but nothing says of which job this is a process ({error}). Start it with srun, '
      'on a TPU pod, with python -m launch.local_multihost, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and '
      'JAX_PROCESS_ID.'
    ) from error
  if not is_first():
    logging.getLogger('selectllm').setLevel(logging.WARNING)
  _LOG.info('%d processes with %d devices in all', jax.process_count(), jax.device_count())


def is_first() -> bool:
  """Tells whether this process writes and narrates; so does a process that is alone."""
  return jax.process_index() == 0


def barrier(where: str) -> None:
  """Waits until all processes have come here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(where)


def broadcast_from_first(value: bool) -> bool:
  """Gives all processes the value of the first: if they saw other files, they would part ways and wait for ever."""
  return bool(multihost_utils.broadcast_one_to_all(np.array(value)))


def number_from_first(value: float) -> float:
  """Gives all processes the number of the first, such as a time that decides what all do next."""
  return float(multihost_utils.broadcast_one_to_all(np.array(value)))


def all_true(value: bool) -> bool:
  """Tells whether all processes give True."""
  return bool(np.all(multihost_utils.process_allgather(np.array(value))))


def check_same(what: str, value: Any) -> None:
  """Refuses, on all processes, what is not the same on all.

  Raises:
    ValueError: when the JSON of a value differs; says on which processes.
  """
  digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
  everyone = multihost_utils.process_allgather(np.frombuffer(digest, np.uint8))
  if others := np.flatnonzero((everyone != everyone[0]).any(-1)).tolist():
    raise ValueError(f'{what} are others on process {", ".join(map(str, others))} than on process 0')


def gather_to_host(tree: Any) -> Any:
  """Gathers arrays that lie on the devices of all processes as whole NumPy arrays on each; all call it together."""
  return multihost_utils.process_allgather(tree, tiled=True)


@contextlib.contextmanager
def exit_on_error() -> Iterator[None]:
  """Ends a process of a job once its error was shown: JAX would wait for the others, and they for this one."""
  try:
    yield
  except BaseException as error:
    if jax.process_count() > 1 and not (isinstance(error, SystemExit) and not error.code):
      atexit.register(_end)  # what is registered last comes first
    raise


def _end() -> None:
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(1)


@contextlib.contextmanager
def watch_for_sigterm() -> Iterator[Callable[[int], bool]]:
  """Gives a function to call after every step, which tells whether to stop because of SIGTERM.

  It does so after the same step on all processes, whichever of them were sent the signal.
  """
  if jax.process_count() > 1:
    # JAX has been listening since the processes joined. It names the call at which all stop, so calls of later folds
    # are counted on.
    yield lambda step: multihost_utils.reached_preemption_sync_point(next(_SYNC_POINTS))
    return
  came: list[int] = []
  before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
  try:
    yield lambda step: bool(came)
  finally:
    signal.signal(signal.SIGTERM, before)


def restore_sigterm() -> None:
  """Lets SIGTERM end this process again: JAX, which listens in the processes of a job, would only note it."""
  if jax.process_count() > 1:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
