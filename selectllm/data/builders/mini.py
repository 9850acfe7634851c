"""The mini pool: two small LLMs, asked in eight ways, on 900 word problems (mini_recording/CARD.md)."""

import collections.abc
import hashlib
import pathlib

import ml_collections

from selectllm.data import records
from selectllm.data.builders import base
from selectllm.infra import paths

RECORDING = pathlib.Path(__file__).parent / 'mini_recording' / 'responses.jsonl.xz'


class Builder(base.PoolBuilder):
  """The recording that ships with the package; nothing is downloaded."""

  name = 'mini_pool'

  def __init__(self, config: ml_collections.ConfigDict, cache_dir: pathlib.Path):
    del config  # there is nothing to choose
    super().__init__(
      identity=hashlib.sha256(f'{paths.file_sha256(RECORDING)} {records.FORM}'.encode()).hexdigest(),
      description='Word problems answered by two small LLMs asked in eight ways; latencies are measured.',
      data_dir=str(cache_dir),
    )

  def read_records(self) -> collections.abc.Iterator[records.Record]:
    """Reads the records in the order of their questions."""
    return records.read_jsonl(RECORDING)
