"""The queries that a pool is asked: any JSONL file, or the published questions of GSM8K and MMLU."""

import collections.abc
import dataclasses
import hashlib
import pathlib
from typing import Any

from selectllm.data import grading, records
from selectllm.infra import paths

# name:split -> repository and file at the Hugging Face hub
_PUBLISHED = {
  'gsm8k:train': ('openai/gsm8k', 'main/train-00000-of-00001.parquet'),
  'gsm8k:test': ('openai/gsm8k', 'main/test-00000-of-00001.parquet'),
  'mmlu:test': ('cais/mmlu', 'all/test-00000-of-00001.parquet'),
  'mmlu:dev': ('cais/mmlu', 'all/dev-00000-of-00001.parquet'),
  'mmlu:validation': ('cais/mmlu', 'all/validation-00000-of-00001.parquet'),
}


class QueryError(ValueError):
  """Queries that cannot be asked; the message names the file and line."""


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
  """One query.

  Attributes:
    query_id: Unique within its source.
    query: The text that the classifier reads.
    task: Name of the task or category.
    reference: The right answer in canonical form, None when unknown.
    fields: Further texts that a prompt template may name.
  """

  query_id: str
  query: str
  task: str = ''
  reference: str | None = None
  fields: dict[str, str] = dataclasses.field(default_factory=dict)

  def texts(self) -> dict[str, str]:
    """Returns the fields that a template may name."""
    return {**self.fields, 'query': self.query}


def read(source: str, manual_dir: str = '', extractor: str = '', *, unlabelled: bool = False) -> list[Query]:
  """Reads all queries of a source.

  Args:
    source: The path of a JSONL file with `query_id`, `query` and, optionally, `task`, `reference` and any further
      texts for the prompt; or `gsm8k:train`, `gsm8k:test`, `mmlu:test`, `mmlu:dev`, `mmlu:validation`.
    manual_dir: Where published files lie as `<owner>/<repository>/<path>`; empty to download them.
    extractor: The one that will grade the responses; then every query must have a reference that it can produce, and
      the reference is brought to the extractor's canonical form. Empty to leave references as they are.
    unlabelled: Whether queries may lack a reference nonetheless.

  Raises:
    QueryError: names the file and line of the first query that cannot be asked.
    FileNotFoundError: when a file is not there.
  """
  if source in _PUBLISHED:
    found = _published(source, manual_dir)
  elif source.endswith(('.jsonl', '.jsonl.gz', '.jsonl.xz')):
    found = _jsonl(pathlib.Path(source))
  else:
    raise QueryError(f'queries must be a .jsonl file (also .gz, .xz) or one of {", ".join(_PUBLISHED)}, not {source!r}')
  seen: dict[str, str] = {}
  queries = []
  for where, query in found:
    if query.query_id in seen:
      raise QueryError(f'{where}: query_id {query.query_id!r} already stands at {seen[query.query_id]}')
    seen[query.query_id] = where
    if extractor and not (unlabelled and query.reference is None):
      query = _with_canonical_reference(query, extractor, where)
    queries.append(query)
  if not queries:
    raise QueryError(f'{source} holds no queries')
  return queries


def in_shard(query: Query, shard: tuple[int, int] | None) -> bool:
  """Tells whether a query is in shard i of n (i from 1): by a hash of its id, so that shards need not communicate."""
  if shard is None:
    return True
  digest = hashlib.blake2b(query.query_id.encode(), digest_size=8).digest()
  return int.from_bytes(digest, 'big') % shard[1] == shard[0] - 1


def _with_canonical_reference(query: Query, extractor: str, where: str) -> Query:
  """Returns the query with its reference as the extractor would give it."""
  if query.reference is None:
    raise QueryError(
      f'{where}: query {query.query_id!r} has no reference; without one its responses cannot be labelled, but by the '
      "pool's own vote (--config.dataset.labels=agreement)"
    )
  reference = grading.canonical_reference(query.reference, extractor)
  if reference is None:
    raise QueryError(
      f'{where}: the reference {query.reference!r:.80} of query {query.query_id!r} is no answer as {extractor} gives '
      'them, so no response could ever be right'
    )
  return dataclasses.replace(query, reference=reference)


def _jsonl(path: pathlib.Path) -> collections.abc.Iterator[tuple[str, Query]]:
  try:
    for where, value in records.read_objects(records.Part(str(path))):
      yield where, _query(value, where)
  except records.RecordError as error:
    raise QueryError(str(error)) from error


def _query(value: Any, where: str) -> Query:
  if not isinstance(value, dict):
    raise QueryError(f'{where}: a query must be an object, not {value!r:.80}')
  texts = {}
  for name, text in value.items():
    if text is None:
      continue
    if isinstance(text, bool) or not isinstance(text, str | int | float):
      raise QueryError(f'{where}: {name} must be a text, not {text!r:.80}')
    texts[name] = str(text)
  for name in ('query_id', 'query'):
    if not texts.get(name, '').strip():
      raise QueryError(f'{where}: {name} is {"empty" if name in texts else "missing"}')
  known = {name: texts.pop(name) for name in ('query_id', 'query', 'task', 'reference') if name in texts}
  return Query(**known, fields=texts)


def _published(source: str, manual_dir: str) -> collections.abc.Iterator[tuple[str, Query]]:
  import huggingface_hub  # slow to load, these three, and needed for published files only
  import pyarrow.parquet

  from selectllm.data.builders import download

  repository, file = _PUBLISHED[source]
  if manual_dir:
    path = pathlib.Path(manual_dir) / repository / file
  else:
    fetched = pathlib.Path(huggingface_hub.hf_hub_download(repository, file, repo_type='dataset'))
    origin = download.Source(f'{repository}/{file}', commit='huggingface.co')
    try:
      path = download.hold(fetched, origin, paths.cache_dir())
    except download.SourceError as error:
      raise QueryError(str(error)) from error
  name, split = source.split(':')
  make = {'gsm8k': _gsm8k_query, 'mmlu': _mmlu_query}[name]
  number = 0
  for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
    for row in batch.to_pylist():
      yield f'{path}: row {number}', make(f'{name}/{split}/{number}', row)
      number += 1


def _gsm8k_query(query_id: str, row: dict[str, Any]) -> Query:
  return Query(query_id, row['question'], 'gsm8k', row['answer'].rpartition('####')[2].strip())


def _mmlu_query(query_id: str, row: dict[str, Any]) -> Query:
  options = '\n'.join(f'{letter}. {choice}' for letter, choice in zip('ABCD', row['choices'], strict=True))
  subject = row['subject'].replace('_', ' ')
  query = f'{row["question"]}\n{options}'
  return Query(query_id, query, row['subject'], 'ABCD'[row['answer']], {'subject': subject})
