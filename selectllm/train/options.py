"""Options of a training, as a config gives them."""

import dataclasses

import ml_collections


@dataclasses.dataclass(frozen=True)
class TrainOptions:
  """Options of a training: the fields of `config.train`, and of others what a training needs.

  Attributes:
    seed: Of the order of queries, and of dropout.
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
  """Takes the options of a training out of a config."""
  others = {'seed': config.seed, 'scoring_batch_size': config.evaluate.batch_size, 'profile': config.profile}
  names = {field.name for field in dataclasses.fields(TrainOptions)} - others.keys()
  return TrainOptions(**{name: config.train[name] for name in names}, **others)
