"""From a config to a table: prepares the data set with its builder where needed, and reads it."""

import collections.abc
import dataclasses
import importlib
import logging
import pathlib
from typing import Any

import filelock
import ml_collections

from selectllm.data import dataset, pool_file, records
from selectllm.data.builders import base, download
from selectllm.infra import paths

_LOG = logging.getLogger(__name__)

# Data set -> the module of its builder in `selectllm.data.builders`.
BUILDERS = {
  'gsm8k_pool': 'gsm8k',
  'mmlu_pro_pool': 'mmlu_pro',
  'mini_pool': 'mini',
  'jsonl_pool': 'jsonl',
  'sldata': 'sldata',
}
FALLBACKS = {'none': '', 'mini_pool': 'Mini pool'}  # name -> title


def make_builder(name: str, config: ml_collections.ConfigDict) -> base.PoolBuilder:
  """Makes the TFDS builder of that name.

  Args:
    name: One of `BUILDERS`.
    config: The whole experiment's config.

  Raises:
    ValueError: for a name that is no builder's.
  """
  if name not in BUILDERS:
    raise ValueError(f'config.dataset.name={name!r} is not one of {", ".join(BUILDERS)}')
  module = importlib.import_module(f'selectllm.data.builders.{BUILDERS[name]}')
  return module.Builder(config, paths.cache_dir())


def _prepared(name: str, config: ml_collections.ConfigDict) -> base.PoolBuilder:
  """Makes the builder of that name and prepares its data set: once, also when several runs start together."""
  builder = make_builder(name, config)
  path = pathlib.Path(builder.data_path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with filelock.FileLock(path.with_suffix('.lock')):
    builder.download_and_prepare()
    # A builder made before another run prepared the data would go on without what is known of them.
    builder.info.read_from_directory(builder.data_path)
  return builder


def _prepared_or_fallback(config: ml_collections.ConfigDict, begun_with: str) -> base.PoolBuilder:
  """Prepares the data set of a config; its fallback where files cannot be had or the run began with it."""
  options = config.dataset
  if options.fallback not in FALLBACKS:
    raise ValueError(f'config.dataset.fallback={options.fallback!r} is not one of {", ".join(FALLBACKS)}')
  if begun_with in FALLBACKS and begun_with != options.name:
    return _prepared(begun_with, config)
  try:
    return _prepared(options.name, config)
  except download.UnavailableError as error:
    if options.fallback == 'none' or begun_with:
      raise
    if config.pool.llms:
      raise download.UnavailableError(
        f'{error}\nconfig.pool.llms names LLMs, so no other pool can take its place.'
      ) from error
    _LOG.warning(
      '%s\n%s\n%s can be neither found nor downloaded: this run is on %s instead, which ships with selectllm '
      '(--config.dataset.fallback=none makes this an error).\n%s',
      error, '!' * 100, options.name, options.fallback, '!' * 100,
    )  # fmt: skip
  return _prepared(options.fallback, config)


def _facts(llm: pool_file.LLM, regraded: bool) -> dict[str, Any]:
  """Returns the facts that an LLM's arrays depend on: how it is asked changes nothing about its responses."""
  facts = dataclasses.asdict(dataclasses.replace(llm, endpoint=None))
  return facts | ({'extractor': llm.endpoint.extractor} if regraded and llm.endpoint else {})


def recorded(config: ml_collections.ConfigDict, name: str) -> collections.abc.Sequence[Any]:
  """Returns the TFDS examples that `load` read with the builder of this name, in its order."""
  return _prepared_or_fallback(config, name).as_data_source(split='full')


def load(config: ml_collections.ConfigDict, begun_with: str = '') -> tuple[dataset.Dataset, dict[str, Any]]:
  """Reads the data set of a config as arrays.

  Args:
    config: The whole experiment's config; `dataset` and `pool` are used.
    begun_with: The name of the builder whose data the run has already used; no other takes its place any more.

  Returns:
    The data set, and its identity: it changes when the data or the facts about the pool do.

  Raises:
    download.SourceError: a published file cannot be had, and there is no fallback, or it is not what was published.
    ValueError: for a name that is no builder's or no fallback's.
  """
  options = config.dataset
  builder = _prepared_or_fallback(config, begun_with)
  source = builder.as_data_source(split='full')
  _LOG.info('%s: %d queries, prepared in %s', builder.name, len(source), builder.data_path)
  # Title, extractor and pool file belong to the data set that was asked for.
  asked_for = builder.name == options.name
  pool = pool_file.read_pool(config.pool.file) if config.pool.file and asked_for else None
  data = dataset.build(
    (records.from_example(source[i]) for i in range(len(source))),
    name=(options.title or builder.name) if asked_for else FALLBACKS[builder.name],
    size=len(source),
    present=list(builder.info.metadata['llms']),
    samples=int(builder.info.metadata['samples']),
    llms=base.wanted_llms(config),
    pool=pool,
    extractor=options.extractor if asked_for else '',
    unlabelled=options.labels == 'agreement',
  )
  facts = {llm: _facts(pool.facts(llm), bool(options.extractor)) if pool else {} for llm in data.llms}
  identity = {'name': builder.name, 'identity': builder.builder_config.name, 'llms': facts}
  for note in data.notes:
    _LOG.warning('%s', note)
  notes = (*data.notes, *builder.info.metadata.get('notes', ()))
  return data._replace(notes=notes, in_place_of='' if asked_for else options.title or options.name), identity
