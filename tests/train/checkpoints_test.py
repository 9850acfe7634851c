"""Checkpoints that are kept, found again, and refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selectllm.models import sharding
from selectllm.train import checkpoints


def _state(value: float) -> dict[str, jax.Array]:
  return {'step': jnp.array(int(value)), 'kernel': jnp.full((2, 3), value)}


@pytest.fixture
def abstract(mesh):
  return sharding.abstract(mesh, _state(0))


def _save(directory, losses: dict[int, float | None]) -> None:
  with checkpoints.open_manager(directory) as manager:
    for step, loss in losses.items():
      checkpoints.save(manager, step, _state(step), loss)


def test_the_newest_is_resumed_from_and_the_best_is_scored_with(tmp_path, abstract):
  _save(tmp_path, {1: 0.9, 2: 0.3, 3: 0.7, 4: None})
  with checkpoints.open_manager(tmp_path) as manager:
    assert sorted(manager.all_steps()) == [2, 4]
    np.testing.assert_array_equal(checkpoints.restore_latest(manager, abstract)['kernel'], np.full((2, 3), 4.0))
    step, best = checkpoints.restore_best(manager, abstract)
  assert step == 2
  np.testing.assert_array_equal(best['kernel'], np.full((2, 3), 2.0))


def test_of_equal_losses_one_is_kept(tmp_path, abstract):
  _save(tmp_path, {1: 0.5, 2: 0.5})
  with checkpoints.open_manager(tmp_path) as manager:
    step, best = checkpoints.restore_best(manager, abstract)
    assert int(best['step']) == step


def test_where_nothing_was_saved_training_starts_anew_and_scoring_is_refused(tmp_path, abstract):
  with checkpoints.open_manager(tmp_path / 'new') as manager:
    assert checkpoints.restore_latest(manager, abstract) is None
    with pytest.raises(checkpoints.CheckpointError, match='no checkpoint with a validation loss; train first'):
      checkpoints.restore_best(manager, abstract)


def test_a_checkpoint_without_a_loss_only_resumes(tmp_path, abstract):
  _save(tmp_path, {3: None})
  with checkpoints.open_manager(tmp_path) as manager:
    assert int(checkpoints.restore_latest(manager, abstract)['step']) == 3
    with pytest.raises(checkpoints.CheckpointError, match='train first'):
      checkpoints.restore_best(manager, abstract)


def test_a_damaged_checkpoint_is_named_with_what_to_do(tmp_path, mesh):
  _save(tmp_path, {1: 0.5, 2: 0.9})
  other = sharding.abstract(mesh, {'another': jnp.zeros(7)})
  with checkpoints.open_manager(tmp_path) as manager, pytest.raises(checkpoints.CheckpointError) as error:
    checkpoints.restore_latest(manager, other)
  assert str(tmp_path / '2') in str(error.value)
  assert 'resumes from step 1: remove it' in str(error.value)
