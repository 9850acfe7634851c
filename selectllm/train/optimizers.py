"""The optimiser: AdamW, warmed up and decayed, the head faster than the encoder, or the encoder frozen."""

from typing import Any

import jax
import ml_collections
import optax

from selectllm.models import classifier

SCHEDULES = ('linear', 'cosine', 'constant')


def make_schedule(config: ml_collections.ConfigDict, steps: int, peak: float) -> optax.Schedule:
  """The learning rate by step: a linear warm-up to `peak`, then `config.schedule` down to zero at `steps`.

  Raises:
    ValueError: for a schedule that is not one of `SCHEDULES`.
  """
  warmup = round(config.warmup_share * steps)
  falling = max(1, steps - warmup)
  after = {
    'linear': optax.linear_schedule(peak, 0.0, falling),
    'cosine': optax.cosine_decay_schedule(peak, falling),
    'constant': optax.constant_schedule(peak),
  }
  if config.schedule not in after:
    raise ValueError(f'config.train.schedule={config.schedule!r} is not one of {", ".join(SCHEDULES)}')
  # The first step is taken at a rate above zero, else it would teach nothing.
  rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup) if warmup else optax.constant_schedule(peak)
  return optax.join_schedules([rise, after[config.schedule]], [warmup])


def _matrices(params: Any) -> Any:
  """What weight decay pulls on: kernels and embeddings, not biases and norms."""
  return jax.tree.map(lambda p: p.ndim > 1, params)


def make_optimizer(
  config: ml_collections.ConfigDict, steps: int, *, freeze_encoder: bool
) -> optax.GradientTransformation:
  """AdamW on clipped gradients with one learning rate for the encoder and one for the head.

  Args:
    config: `config.train`.
    steps: Of the whole training.
    freeze_encoder: Whether the head's parameters are all that is trained.
  """

  def adamw(peak: float) -> optax.GradientTransformation:
    return optax.adamw(make_schedule(config, steps, peak), weight_decay=config.weight_decay, mask=_matrices)

  head = adamw(config.head_learning_rate)
  groups = {'encoder': adamw(config.learning_rate), 'head': head}
  return optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    head if freeze_encoder else optax.multi_transform(groups, classifier.param_groups),
  )
