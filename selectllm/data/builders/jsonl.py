"""Anybody's own responses, or scores, from JSONL files."""

import collections.abc
import dataclasses
import functools
import hashlib
import pathlib
import shlex
from typing import Any

import ml_collections
import orjson
import tensorflow_datasets as tfds
from etils import epath

from selectllm.data import records
from selectllm.data.builders import base
from selectllm.infra import paths


@dataclasses.dataclass(frozen=True)
class _Shard:
  """Turns one part of the files into TFDS examples, in this process or in a worker of Apache Beam.

  Attributes:
    part: Where the records are.
    facts: The file that receives what only all parts together can judge, as JSON: `query_ids` with their places, `llms`
      and `samples` (see `base.Extent`), and the `error` of a line that cannot be used, after which it ends.
  """

  part: records.Part
  facts: epath.Path

  def __call__(self) -> collections.abc.Iterator[tuple[int, dict[str, Any]]]:
    extent, places, problem = base.Extent(), [], ''

    def recorded() -> collections.abc.Iterator[records.Record]:
      for where, record in records.read_part(self.part):
        places.append((record.query_id, where))
        yield record

    try:
      yield from extent.examples(recorded())
    except records.RecordError as error:
      problem = str(error)
    facts = {'query_ids': places, 'llms': list(extent.llms), 'samples': extent.samples, 'error': problem}
    self.facts.write_bytes(orjson.dumps(facts))


def _find(path: str) -> list[str]:
  """Returns the files that a path names: the one there is by this name, or else those of its comma-separated parts."""
  patterns = [part.strip() for part in path.split(',') if part.strip()]
  if not patterns:
    raise ValueError('jsonl_pool needs --config.dataset.path=FILE.jsonl (several: comma-separated, or with *)')
  if pathlib.Path(path.strip()).expanduser().exists():  # also one with a comma
    patterns = [path.strip()]
  found: list[str] = []
  for pattern in patterns:
    matching = paths.matches(pattern)
    if not matching:
      raise FileNotFoundError(f'--config.dataset.path: no file matches {pattern!r}')
    found += map(str, matching)
  return found


class Builder(base.PoolBuilder):
  """Response records from the JSONL files that `config.dataset.path` names (comma-separated, `*` allowed).

  What is a file is read, whatever signs are in its name.

  The files are read part by part, by this process, or by the workers of Apache Beam where `config.dataset.beam` holds
  options of a pipeline; workers must find the files and the cache folder at the same paths. Both make the same data set
  and refuse the same, for the same reasons.
  """

  name = 'jsonl_pool'

  def __init__(self, config: ml_collections.ConfigDict, cache_dir: pathlib.Path):
    self._paths = _find(config.dataset.path)
    self._beam = config.dataset.get('beam', '')
    self._shards: list[_Shard] = []
    self._first_seen: dict[str, str] = {}
    digests = ' '.join(paths.file_sha256(pathlib.Path(path)) for path in self._paths)
    super().__init__(
      identity=hashlib.sha256(f'{digests} {records.FORM}'.encode()).hexdigest(),
      description=f'Responses from {", ".join(self._paths)}.',
      data_dir=str(cache_dir),
    )

  def read_records(self) -> collections.abc.Iterator[records.Record]:
    """Reads the records of all files, in order; see `records.read_jsonl` for what is refused."""
    return records.read_jsonl(*self._paths)

  def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
    parts = [part for path in self._paths for part in records.cut(path)] or [records.Part(self._paths[0])]
    self._shards = [_Shard(part, self.data_path / f'facts-{i:05d}.json') for i, part in enumerate(parts)]
    return {'full': self._shards if self._beam else [functools.partial(self._checked, shard) for shard in self._shards]}

  def _checked(self, shard: _Shard) -> collections.abc.Iterator[tuple[int, dict[str, Any]]]:
    yield from shard()
    self._check(shard)

  def _check(self, shard: _Shard) -> int:
    """Holds a shard against those before it, and returns how many records it has."""
    facts = orjson.loads(shard.facts.read_bytes())
    shard.facts.unlink()
    for query_id, where in facts['query_ids']:
      records.check_new(query_id, where, self._first_seen)
    if facts['error']:
      raise records.RecordError(facts['error'])
    self._extent.take_in(facts['llms'], facts['samples'])
    return len(facts['query_ids'])

  def _download_and_prepare(
    self, dl_manager: tfds.download.DownloadManager, download_config: tfds.download.DownloadConfig | None = None
  ) -> None:
    if self._beam:
      try:
        from apache_beam.options import pipeline_options
      except ImportError as error:
        raise RuntimeError("config.dataset.beam needs Apache Beam: pip install 'selectllm[beam]'") from error
      options = pipeline_options.PipelineOptions(shlex.split(self._beam))
      runner = options.view_as(pipeline_options.StandardOptions).runner or 'DirectRunner'
      download_config = tfds.download.DownloadConfig(beam_runner=runner, beam_options=options)
    super()._download_and_prepare(dl_manager, download_config)

  def _conclude(self) -> None:
    if self._beam:
      # TFDS puts the lengths of more than ten shards into another order than the shards.
      lengths = [self._check(shard) for shard in self._shards]
      full = dataclasses.replace(self.info.splits['full'], shard_lengths=lengths)
      self.info.set_splits(tfds.core.SplitDict([full]))
    super()._conclude()
