"""Options of a training, as a config gives them."""

import dataclasses

import ml_collections


@dataclasses.dataclass(frozen=True)
class TrainOptions:
  """Options of a training; most fields are those of `config.train`.

  Attributes:
    epochs: How often each training query is seen.
    batch_size: Queries in a step, over all processes.
    learning_rate: Of the encoder, at its peak.
    head_learning_rate: Of the head, at its peak.
    schedule: One of `optimizers.SCHEDULES`.
    warmup_share: Of the steps.
    weight_decay: Of kernels and embeddings.
    clip_norm: The longest that a gradient may be.
    loss: One of `loop.LOSSES`.
    log_every_steps: How often scalars are written.
    checkpoint_every_steps: Beside the checkpoints at the end of each epoch; 0 for none.
    seed: Of the order of queries and of dropout.
    scoring_batch_size: Rows of queries that are scored together on validation.
    profile: Whether some steps are traced.
  """

  epochs: int
  batch_size: int
  learning_rate: float
  head_learning_rate: float
  schedule: str
  warmup_share: float
  weight_decay: float
  clip_norm: float
  loss: str
  log_every_steps: int
  checkpoint_every_steps: int
  seed: int
  scoring_batch_size: int
  profile: bool


def from_config(config: ml_collections.ConfigDict) -> TrainOptions:
  """Takes the options of a training out of a config: `train`, `seed`, `evaluate.batch_size` and `profile`."""
  return TrainOptions(
    **config.train.to_dict(),
    seed=config.seed,
    scoring_batch_size=config.evaluate.batch_size,
    profile=config.profile,
  )
