"""What every builder of recorded responses shares: one TFDS split `full` of response records."""

import abc
import collections.abc
from typing import Any

import ml_collections
import tensorflow_datasets as tfds

from selectllm.data import responses


def wanted_llms(config: ml_collections.ConfigDict) -> tuple[str, ...]:
  """The LLMs that `config.pool.llms` names, with commas between or as a tuple; none for all."""
  return tuple(name.strip() for names in config.pool.llms for name in names.split(','))


class PoolBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  """Builds a data set of response records in array_record files, without TensorFlow.

  A prepared data set is found again by its identity: a digest of all that it was made from. What changes, be it a
  source file or the code that grades it, makes another identity, so that nothing stale is ever served.
  """

  VERSION = tfds.core.Version('1.0.0')

  def __init__(self, *, identity: str, description: str, data_dir: str):
    self._description = description
    self.notes: list[str] = []  # what the report must say about the data; filled by `records`
    config = tfds.core.BuilderConfig(name=identity[:16])
    super().__init__(data_dir=data_dir, config=config, file_format='array_record')

  @abc.abstractmethod
  def records(self) -> collections.abc.Iterable[responses.Record]:
    """The records, in their order."""

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=self._description,
      features=responses.tfds_features(),
      metadata=tfds.core.MetadataDict(),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
    del dl_manager  # sources are fetched and verified by us: TFDS checks no other address than the first
    return {'full': self._generate_examples()}

  def _generate_examples(self) -> collections.abc.Iterator[tuple[int, dict[str, Any]]]:
    llms: dict[str, None] = {}
    most_samples = 0
    for position, record in enumerate(self.records()):
      llms.update(dict.fromkeys(record.responses or record.scores))
      most_samples = max([most_samples, *map(len, record.responses.values())])
      yield position, responses.to_example(record)
    if not llms:
      raise ValueError(f'{self.name} holds no queries: {self._description}')
    # What a reader must know before the first record, to lay out its arrays.
    self.info.metadata.update(llms=list(llms), samples=most_samples, notes=self.notes)
