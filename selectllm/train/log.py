"""Tells of a training while it runs: metrics, progress, and a profile of some steps."""

import logging
import pathlib
from typing import Any

import jax
import numpy as np

from selectllm.infra import distributed, metric_writer

_LOG = logging.getLogger(__name__)

# Steps that a profile is of.
_TRACED = 5


class TrainingLog:
  """Tells of a training its losses, where its time goes, and how much is left. Only the first process is heard.

  Steps are dispatched ahead, and only `flush` waits for them: `step` is the time of both. `input` is how long the next
  batch was waited for; the devices may have been busy meanwhile with what was dispatched, so it is the most that they
  can have been idle for want of input. Checkpoints are written in the background: `checkpoint` is what held up the
  loop.
  """

  def __init__(self, workdir: pathlib.Path, start: int, steps: int, per_epoch: int):
    self.clock = metric_writer.Clock('input', 'step', 'evaluation', 'checkpoint')
    self._metrics = metric_writer.MetricWriter(workdir, resumed_step=start) if distributed.is_first() else None
    self._progress = metric_writer.Progress('Training', steps, start=start)
    self._per_epoch = per_epoch
    self._pending: list[tuple[int, dict[str, jax.Array]]] = []
    self._validation = ''

  def note(self, step: int, scalars: dict[str, jax.Array]) -> None:
    """Takes the scalars of a step, for which nobody waits yet."""
    self._pending.append((step, scalars))

  def flush(self, step: int) -> None:
    """Writes the scalars of the steps since the last time.

    Called before every checkpoint, so that no step after which something is not finite is ever saved.

    Raises:
      FloatingPointError: names the first such step.
    """
    with self.clock.on('step'):
      pending = jax.device_get(self._pending)
    self._pending.clear()
    for number, scalars in pending:
      values = {name: float(value) for name, value in scalars.items()}
      if strange := {name: value for name, value in values.items() if not np.isfinite(value)}:
        raise FloatingPointError(
          f'not finite at step {number}: {strange}; the last checkpoint is from before it. Lower '
          'config.train.learning_rate, head_learning_rate or clip_norm, or use config.encoder.dtype=float32.'
        )
      self._write(number, **values)
    note = f'epoch {step / self._per_epoch:.1f}, loss {values["loss"]:.4f}{self._validation}'
    self._progress.update(step, f'{note} ({self.clock.shares()})')

  def validated(self, step: int, loss: float) -> None:
    """Writes the loss on validation."""
    self._write(step, validation_loss=loss)
    self._validation = f', validation loss {loss:.4f}'

  def flush_time(self, step: int) -> None:
    """Writes where the time since the last time went."""
    self._write(step, **{f'{part}_s': seconds for part, seconds in self.clock.since_last().items()})

  def _write(self, step: int, **scalars: float) -> None:
    if self._metrics:
      self._metrics.write(step, **scalars)

  def close(self) -> None:
    """Closes files and takes the bar off the terminal."""
    self._progress.close()
    if self._metrics:
      self._metrics.close()


class ProfileTrace:
  """Traces a few steps: of the second epoch, when all lengths have been compiled, or the last of a short training."""

  def __init__(self, folder: pathlib.Path, start: int, steps: int, per_epoch: int, *, wanted: bool):
    self._folder, self._steps = folder, range(0)
    if wanted:
      first = max(start + 1, min(start + per_epoch + 1, steps - _TRACED + 1))
      self._steps = range(first, min(first + _TRACED, steps + 1))

  def before(self, step: int) -> None:
    """Begins the trace where it is time."""
    if self._steps and step == self._steps.start:
      options = jax.profiler.ProfileOptions()
      options.python_tracer_level = 0  # every call of Python's would be traced, and slowed down
      jax.profiler.start_trace(self._folder, profiler_options=options)

  def after(self, step: int, state: Any) -> None:
    """Ends the trace, once the devices have done the steps that it is of."""
    if self._steps and step == self._steps[-1]:
      jax.block_until_ready(state)
      jax.profiler.stop_trace()
      _LOG.info(
        'Steps %d to %d were traced: tensorboard --logdir %s (with tensorboard-plugin-profile), or open the '
        '*.trace.json.gz below it at ui.perfetto.dev',
        self._steps.start, step, self._folder,
      )  # fmt: skip
