"""Keeps Orbax checkpoints: the newest, to resume from, and the best by validation loss, to score with."""

import logging
import pathlib
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from selectllm.infra import paths

_LOG = logging.getLogger(__name__)

METRIC = 'validation_loss'


class CheckpointError(RuntimeError):
  """A checkpoint that was committed but cannot be read."""


def _validation_loss(metrics: dict[str, float]) -> float:
  return metrics[METRIC]


def address(directory: pathlib.Path) -> pathlib.Path:
  """Returns what Orbax is to be told of a directory; it writes to gs:// by itself."""
  return directory if paths.is_remote(directory) else directory.absolute()


def open_manager(directory: pathlib.Path) -> ocp.CheckpointManager:
  """Opens `directory`, making it if needed; what a killed run left half written is cleared away."""
  kept = preservation_policy.AnyPreservationPolicy(
    [
      preservation_policy.LatestN(n=1),
      preservation_policy.BestN(
        get_metric_fn=_validation_loss, reverse=True, n=1, keep_checkpoints_without_metrics=False
      ),
    ]
  )
  options = ocp.CheckpointManagerOptions(
    best_fn=_validation_loss, best_mode='min', preservation_policy=kept, cleanup_tmp_directories=True
  )
  return ocp.CheckpointManager(address(directory), options=options)


def save(manager: ocp.CheckpointManager, step: int, state: Any, loss: float | None) -> None:
  """Saves the state after `step` steps, each process its part; writing goes on in the background.

  Nothing is noted of the data: which batch is next depends on the step alone, on any number of processes.

  Args:
    manager: From `open_manager`.
    step: Steps taken.
    state: Any tree of arrays.
    loss: On validation, None where it was not computed: such a checkpoint only serves to resume.
  """
  args = ocp.args.Composite(state=ocp.args.StandardSave(state))
  manager.save(step, args=args, metrics=None if loss is None else {METRIC: loss}, force=True)


def _restore(manager: ocp.CheckpointManager, step: int, **items: Any) -> Any:
  try:
    return manager.restore(step, args=ocp.args.Composite(**items))
  except Exception as error:
    others = [s for s in manager.all_steps() if s != step]
    instead = f'resumes from step {max(others)}' if others else 'starts anew'
    raise CheckpointError(
      f'the checkpoint {manager.directory / str(step)} is damaged or is of another model ({error}). Without that '
      f'folder the run {instead}: remove it, or choose another --workdir.'
    ) from error


def restore_latest(manager: ocp.CheckpointManager, abstract: Any) -> Any | None:
  """Restores the newest state; None where there is no checkpoint.

  Args:
    manager: From `open_manager`.
    abstract: The state as `jax.ShapeDtypeStruct`s with shardings, those of any mesh.

  Raises:
    CheckpointError: names the folder that cannot be read, and what to do.
  """
  step = manager.latest_step()
  if step is None:
    return None
  restored = _restore(manager, step, state=ocp.args.StandardRestore(abstract))
  _LOG.info('Resumed from step %d in %s', step, manager.directory)
  return restored.state


def restore_best(manager: ocp.CheckpointManager, abstract: Any) -> tuple[int, Any]:
  """Restores the state with the lowest validation loss, and its step.

  Raises:
    CheckpointError: where there is none, or it cannot be read.
  """
  manager.wait_until_finished()
  step = manager.best_step()
  if step is None or manager.metrics(step) is None:
    raise CheckpointError(f'{manager.directory} has no checkpoint with a validation loss; train first')
  return step, _restore(manager, step, state=ocp.args.StandardRestore(abstract)).state
