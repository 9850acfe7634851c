"""Options of a classifier, as a config gives them."""

import dataclasses

import ml_collections


@dataclasses.dataclass(frozen=True)
class EncoderOptions:
  """Options of the encoder that reads the queries: the fields of `config.encoder`."""

  name: str
  pooling: str
  max_length: int
  dtype: str
  dropout: float
  remat: bool


@dataclasses.dataclass(frozen=True)
class ModelOptions:
  """Options that a classifier is built by, whatever its pool.

  Attributes:
    encoder: What reads the queries.
    data: Devices along the mesh axis `data`, see `sharding.make_mesh`.
    fsdp: Devices along `fsdp`.
    seed: Of the head's first parameters.
  """

  encoder: EncoderOptions
  data: int
  fsdp: int
  seed: int


def from_config(config: ml_collections.ConfigDict) -> ModelOptions:
  """Takes the options of a classifier out of a config: `encoder`, `mesh` and `seed`."""
  encoder = EncoderOptions(**{field.name: config.encoder[field.name] for field in dataclasses.fields(EncoderOptions)})
  return ModelOptions(encoder, config.mesh.data, config.mesh.fsdp, config.seed)
