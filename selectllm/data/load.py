"""From a config to a table: prepares the data set with its builder where needed, and reads it."""

import dataclasses
import importlib
import logging
import os
import pathlib
from typing import Any

import filelock
import ml_collections

from selectllm.data import pool_builder, responses, votes
from selectllm.pool import spec

_LOG = logging.getLogger(__name__)

BUILDERS = ('gsm8k_pool', 'jsonl_pool')


def cache_dir() -> pathlib.Path:
  """Where prepared data sets and downloads are kept: $SELECTLLM_CACHE, else ~/.cache/selectllm."""
  return pathlib.Path(os.environ.get('SELECTLLM_CACHE', '~/.cache/selectllm')).expanduser()


def make_builder(config: ml_collections.ConfigDict) -> pool_builder.PoolBuilder:
  """The TFDS builder that `config.dataset` names.

  Raises:
    ValueError: for a name that is no builder's.
  """
  if config.name not in BUILDERS:
    raise ValueError(f'config.dataset.name={config.name!r} is not one of {", ".join(BUILDERS)}')
  module = importlib.import_module(f'selectllm.data.{config.name}.{config.name}_dataset_builder')
  return module.Builder(config, cache_dir())


def _prepare(builder: pool_builder.PoolBuilder) -> None:
  """Prepares a data set once, also when several runs start together."""
  path = pathlib.Path(builder.data_path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with filelock.FileLock(path.with_suffix('.lock')):
    builder.download_and_prepare()
    # A builder made before another run prepared the data would go on without what is known of them.
    builder.info.read_from_directory(builder.data_path)


def load(config: ml_collections.ConfigDict) -> tuple[votes.Table, dict[str, Any]]:
  """Reads the data set of a config as arrays.

  Args:
    config: The whole experiment's config; `dataset` and `pool` are used.

  Returns:
    The table, and its identity: what changes when the data or the facts about the pool do.
  """
  builder = make_builder(config.dataset)
  _prepare(builder)
  source = builder.as_data_source(split='full')
  _LOG.info('%s: %d queries, prepared in %s', builder.name, len(source), builder.data_path)
  pool = spec.read_pool(config.pool.file) if config.pool.file else None
  table = votes.build(
    (responses.from_example(source[i]) for i in range(len(source))),
    name=config.dataset.title or builder.name,
    size=len(source),
    present=list(builder.info.metadata['llms']),
    samples=int(builder.info.metadata['samples']),
    llms=[name.strip() for names in config.pool.llms for name in names.split(',')],
    pool=pool,
    extractor=config.dataset.extractor,
  )
  # How an LLM is asked changes nothing about the responses that it gave.
  facts = {
    llm: dataclasses.asdict(dataclasses.replace(pool.facts(llm), endpoint=None)) if pool else {} for llm in table.llms
  }
  return table, {'name': builder.name, 'identity': builder.builder_config.name, 'llms': facts}
