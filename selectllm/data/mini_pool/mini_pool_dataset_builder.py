"""The mini pool: two small LLMs, asked in eight ways, on 900 word problems (CARD.md beside this file)."""

import collections.abc
import hashlib
import pathlib

import ml_collections

from selectllm.data import pool_builder, responses, sources

RECORDING = pathlib.Path(__file__).with_name('responses.jsonl.xz')


class Builder(pool_builder.PoolBuilder):
  """The recording that ships with the package; nothing is downloaded."""

  name = 'mini_pool'

  def __init__(self, config: ml_collections.ConfigDict, cache_dir: pathlib.Path):
    del config  # there is nothing to choose
    super().__init__(
      identity=hashlib.sha256(f'{sources.file_sha256(RECORDING)} {responses.FORM}'.encode()).hexdigest(),
      description='Word problems answered by two small LLMs asked in eight ways; latencies are measured.',
      data_dir=str(cache_dir),
    )

  def read_records(self) -> collections.abc.Iterator[responses.Record]:
    """The records in the order of their questions."""
    return responses.read_jsonl(RECORDING)
