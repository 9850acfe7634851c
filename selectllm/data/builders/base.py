"""What every builder of recorded responses shares: one TFDS split `full` of response records."""

import abc
import collections.abc
from typing import Any

import ml_collections
import tensorflow_datasets as tfds

from selectllm.data import records


def wanted_llms(config: ml_collections.ConfigDict) -> tuple[str, ...]:
  """Returns the LLMs that `config.pool.llms` names; none for all."""
  return tuple(map(str, config.pool.llms))


class Extent:
  """Bounds that a reader must know before the first record, to lay out its arrays.

  Attributes:
    llms: All LLMs, in the order of their first appearance.
    samples: The most samples that any call has.
  """

  def __init__(self, llms: collections.abc.Iterable[str] = (), samples: int = 0):
    self.llms, self.samples = dict.fromkeys(llms), samples

  def take_in(self, llms: collections.abc.Iterable[str], samples: int) -> None:
    """Adds what is known of further records."""
    self.llms.update(dict.fromkeys(llms))
    self.samples = max(self.samples, samples)

  def examples(
    self, recorded: collections.abc.Iterable[records.Record]
  ) -> collections.abc.Iterator[tuple[int, dict[str, Any]]]:
    """Yields the TFDS example of each record with its position, and takes the record in."""
    for position, record in enumerate(recorded):
      self.take_in(record.responses or record.scores, max(map(len, record.responses.values()), default=0))
      example = records.to_example(record)
      yield position, example
      example.clear()  # has been written; TFDS holds on to it until the shard is complete, to count it


class PoolBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  """Builds a data set of response records in array_record files, without TensorFlow.

  A prepared data set is found again by its identity: a digest of all that it was made from. What changes, be it a
  source file or the code that grades it, makes another identity, so that nothing stale is ever served.

  Records are written as they come, so that there may be more of them than memory holds.
  """

  VERSION = tfds.core.Version('1.0.0')

  def __init__(self, *, identity: str, description: str, data_dir: str):
    self._description = description
    self._extent = Extent()
    self.notes: list[str] = []  # what the report must say about the data; filled by `read_records`
    config = tfds.core.BuilderConfig(name=identity[:16])
    super().__init__(data_dir=data_dir, config=config, file_format='array_record')

  @abc.abstractmethod
  def read_records(self) -> collections.abc.Iterable[records.Record]:
    """Yields the records, in their order."""

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=self._description,
      features=records.tfds_features(),
      metadata=tfds.core.MetadataDict(),
      disable_shuffling=True,
    )

  def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
    del dl_manager  # sources are fetched and verified by us: TFDS checks no other address than the first
    return {'full': [lambda: self._extent.examples(self.read_records())]}

  def _download_and_prepare(
    self, dl_manager: tfds.download.DownloadManager, download_config: tfds.download.DownloadConfig | None = None
  ) -> None:
    super()._download_and_prepare(dl_manager, download_config)
    self._conclude()

  def _conclude(self) -> None:
    """Writes down what is known of the data set, now that its records are written."""
    if not self._extent.llms:
      raise ValueError(f'{self.name} holds no queries: {self._description}')
    self.info.metadata.update(llms=list(self._extent.llms), samples=self._extent.samples, notes=self.notes)
