"""Makes the optimiser: AdamW, warmed up and decayed, the head faster than the encoder."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from selectllm.models import classifier
from selectllm.train import options

# By name, the learning rate from its peak on: (peak, steps) -> schedule.
SCHEDULES: dict[str, Callable[[float, int], optax.Schedule]] = {
  'linear': lambda peak, steps: optax.linear_schedule(peak, 0.0, steps),
  'cosine': optax.cosine_decay_schedule,
  'constant': lambda peak, _: optax.constant_schedule(peak),
}


def make_schedule(wanted: options.TrainOptions, steps: int, peak: float) -> optax.Schedule:
  """Returns the learning rate by step: a linear warm-up to `peak`, then `wanted.schedule` down to zero at `steps`.

  Raises:
    ValueError: for a schedule that is not one of `SCHEDULES`.
  """
  if wanted.schedule not in SCHEDULES:
    raise ValueError(f'config.train.schedule={wanted.schedule!r} is not one of {", ".join(SCHEDULES)}')
  warmup = round(wanted.warmup_share * steps)
  # The first step is taken at a rate above zero, else it would teach nothing.
  rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup) if warmup else optax.constant_schedule(peak)
  return optax.join_schedules([rise, SCHEDULES[wanted.schedule](peak, max(1, steps - warmup))], [warmup])


def _matrices(params: Any) -> Any:
  """Marks what weight decay pulls on: kernels and embeddings, not biases and norms."""
  return jax.tree.map(lambda p: p.ndim > 1, params)


def make_optimizer(wanted: options.TrainOptions, steps: int) -> optax.GradientTransformation:
  """Makes AdamW (Loshchilov and Hutter 2019) on clipped gradients, with one learning rate for encoder and head each.

  Args:
    wanted: Rates, schedule, decay and clipping.
    steps: Of the whole training.

  Raises:
    ValueError: for a schedule that is not one of `SCHEDULES`.
  """

  def adamw(peak: float) -> optax.GradientTransformation:
    return optax.adamw(make_schedule(wanted, steps, peak), weight_decay=wanted.weight_decay, mask=_matrices)

  groups = {'encoder': adamw(wanted.learning_rate), 'head': adamw(wanted.head_learning_rate)}
  return optax.chain(
    optax.clip_by_global_norm(wanted.clip_norm), optax.multi_transform(groups, classifier.param_groups)
  )
