"""From a config to a table: prepares the data set with its builder where needed, and reads it."""

import copy
import dataclasses
import importlib
import logging
import os
import pathlib
from typing import Any

import filelock
import ml_collections

from selectllm.data import pool_builder, responses, sources, votes
from selectllm.pool import spec

_LOG = logging.getLogger(__name__)

BUILDERS = ('gsm8k_pool', 'mini_pool', 'jsonl_pool')
FALLBACKS = ('none', 'mini_pool')


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


def _have(config: ml_collections.ConfigDict) -> tuple[pool_builder.PoolBuilder, str]:
  """The prepared data set of a config, or its fallback; and the title of what could not be had, empty otherwise."""
  options = config.dataset
  if options.fallback not in FALLBACKS:
    raise ValueError(f'config.dataset.fallback={options.fallback!r} is not one of {", ".join(FALLBACKS)}')
  builder = make_builder(options)
  try:
    _prepare(builder)
    return builder, ''
  except sources.UnavailableError as error:
    if options.fallback == 'none' or config.pool.llms:  # LLMs chosen by name are not in another pool
      raise
    asked_for = options.title or builder.title
    _LOG.warning(
      '%s\n%s\n%s can be neither found nor downloaded: this run is on the %s instead, which ships with selectllm '
      '(--config.dataset.fallback=none makes this an error).\n%s',
      error, '!' * 100, asked_for, options.fallback, '!' * 100,
    )  # fmt: skip
  instead = copy.deepcopy(options)
  instead.name = options.fallback
  builder = make_builder(instead)
  _prepare(builder)
  return builder, asked_for


def load(config: ml_collections.ConfigDict) -> tuple[votes.Table, dict[str, Any]]:
  """Reads the data set of a config as arrays.

  Args:
    config: The whole experiment's config; `dataset` and `pool` are used.

  Returns:
    The table, and its identity: what changes when the data or the facts about the pool do.

  Raises:
    sources.SourceError: a published file cannot be had, and there is no fallback, or it is not what was published.
    ValueError: for a name that is no builder's or no fallback's.
  """
  builder, asked_for = _have(config)
  source = builder.as_data_source(split='full')
  _LOG.info('%s: %d queries, prepared in %s', builder.name, len(source), builder.data_path)
  # The pool file and the title belong to the data set that was asked for.
  pool = spec.read_pool(config.pool.file) if config.pool.file and not asked_for else None
  table = votes.build(
    (responses.from_example(source[i]) for i in range(len(source))),
    name=builder.title if asked_for else config.dataset.title or builder.title,
    size=len(source),
    present=list(builder.info.metadata['llms']),
    samples=int(builder.info.metadata['samples']),
    llms=[name.strip() for names in config.pool.llms for name in names.split(',')],
    pool=pool,
    extractor='' if asked_for else config.dataset.extractor,
  )
  # How an LLM is asked changes nothing about the responses that it gave.
  facts = {
    llm: dataclasses.asdict(dataclasses.replace(pool.facts(llm), endpoint=None)) if pool else {} for llm in table.llms
  }
  identity = {'name': builder.name, 'identity': builder.builder_config.name, 'llms': facts}
  return table._replace(in_place_of=asked_for), identity
