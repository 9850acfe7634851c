"""Keeps which LLM answered what in a journal, added to while a collection runs and read when it is exported.

A journal holds four kinds of entry: `journal` (its format), `llm` (what the identities of an LLM's requests were made
of), `query`, and `response` (one terminal record each). Of several entries about the same thing the last one counts,
but a failure never hides an answer.
"""

import collections
import collections.abc
import dataclasses
import hashlib
import pathlib
import types
from typing import Any

import orjson

from selectllm.client import journal
from selectllm.data import grading, queries, records

Key = tuple[str, str, int]  # query_id, LLM, sample index


class CollectionError(ValueError):
  """A collection that does not fit the configuration; the message shows the difference."""


@dataclasses.dataclass(slots=True)
class Response:
  """The terminal record of one (query, LLM, sample index).

  Attributes:
    query_id: The query that was asked.
    llm: The LLM that was asked.
    sample: Sample index, from 0.
    identity: Hash of everything that the response depends on, 32 hex digits.
    text: The raw response, None when the call failed.
    error: The typed reason of a failure, None when there is a response.
    detail: What was seen of the failure.
    latency_s: Seconds that the successful attempt took.
    elapsed_s: Seconds from the first attempt until this record, with all attempts and the waits between them.
    prompt_tokens: As counted by the server.
    completion_tokens: As counted by the server.
    finish_reason: As told by the server.
    cost_usd: Dollars for this response, None when no price is known.
    lost_usd: Dollars that failed attempts may have cost, at most.
    attempts: Requests sent.
    kind: Kind of journal entry.
  """

  query_id: str
  llm: str
  sample: int
  identity: str
  text: str | None = None
  error: str | None = None
  detail: str | None = None
  latency_s: float | None = None
  prompt_tokens: int | None = None
  completion_tokens: int | None = None
  finish_reason: str | None = None
  cost_usd: float | None = None
  lost_usd: float = 0.0
  attempts: int = 0
  elapsed_s: float | None = None
  kind: str = 'response'

  def key(self) -> Key:
    """Returns what the response belongs to."""
    return self.query_id, self.llm, self.sample


def journal_name(shard: tuple[int, int] | None = None) -> str:
  """Returns the file name of a collection's journal; each shard has its own."""
  return f'journal-{shard[0]}-of-{shard[1]}.jsonl' if shard else 'journal.jsonl'


class Collection:
  """A journal and the index of what it holds: 16 bytes and an offset for each answer, no texts."""

  def __init__(self, path: pathlib.Path, salvage: bool = False):
    """Locks and reads a journal, creating it when it is not there; see `journal.Journal`.

    Raises:
      journal.JournalError: the journal is damaged or in use.
    """
    self.journal = journal.Journal(path, salvage)
    self.answered: collections.Counter[str] = collections.Counter()  # LLM -> recorded answers
    self.spent_usd = 0.0
    self._llms: dict[str, dict[str, Any]] = {}
    self._queries: dict[str, bytes] = {}  # query_id -> digest of the query
    self._offsets: dict[bytes, int] = {}  # identity -> where its answer stands
    self._copies: dict[Key, int] = {}  # key of an answer that was copied from an equal request -> where it stands
    try:
      for offset, entry in self.journal.recover():
        self._index(offset, entry)
    except BaseException:
      self.journal.close()
      raise

  def _index(self, offset: int, entry: dict[str, Any]) -> None:
    if entry['kind'] == 'llm':
      self._llms[entry['name']] = entry['identity']
    elif entry['kind'] == 'query':
      self._queries[entry['query_id']] = _digest(_query(entry))
    elif entry['kind'] == 'response':
      self._index_response(offset, Response(**entry))

  def _index_response(self, offset: int, response: Response) -> None:
    self.spent_usd += (response.cost_usd or 0) + response.lost_usd
    if response.error is not None:
      return
    self.answered[response.llm] += 1
    if self._offsets.setdefault(bytes.fromhex(response.identity), offset) != offset:
      self._copies[response.key()] = offset

  def holds(self, identity: bytes) -> bool:
    """Tells whether an equal request has an answer."""
    return identity in self._offsets

  def find(self, identity: bytes, key: Key) -> Response | None:
    """Returns the recorded answer to an equal request: this key's own, or else another's."""
    offset = self._copies.get(key) if self._copies else None
    if offset is None:
      offset = self._offsets.get(identity)
    return None if offset is None else Response(**self.journal.entry_at(offset))

  def add(self, response: Response) -> None:
    """Records a response."""
    self._index_response(self.journal.append(response), response)

  def check_llm(self, name: str, identity: dict[str, Any]) -> None:
    """Refuses an LLM whose recorded answers were asked for differently.

    Raises:
      CollectionError: the message shows the difference.
    """
    changes = list(_differences(self._llms.get(name, identity), identity, name))
    if changes and self.answered[name]:
      raise CollectionError(
        f'{self.journal.path} holds {self.answered[name]:,} answers of {name!r} that were asked for differently:\n'
        + '\n'.join(changes)
        + '\nUndo the change, give the LLM a new name, or collect into another workdir.'
      )

  def add_llm(self, name: str, identity: dict[str, Any]) -> None:
    """Notes what an LLM's requests are made of, when that is new; raises as `check_llm` does."""
    self.check_llm(name, identity)
    if self._llms.get(name) != identity:
      self._llms[name] = identity
      self.journal.append({'kind': 'llm', 'name': name, 'identity': identity})

  def check_queries(self, asked: collections.abc.Iterable[queries.Query]) -> None:
    """Refuses queries that have answers under another text; a reference or task may be put right.

    Raises:
      CollectionError: the message shows the first difference.
    """
    changed = {query.query_id: query for query in asked if self._is_known(query) is False}
    if not changed or not self.answered:
      return
    texts: dict[str, dict[str, Any]] = {}
    for _, entry in journal.read(self.journal.path):
      if entry['kind'] == 'query' and entry['query_id'] in changed:
        texts[entry['query_id']] = {'query': entry['query'], 'fields': entry['fields']}
      elif entry['kind'] == 'response' and entry['query_id'] in changed and entry['error'] is None:
        query = changed[entry['query_id']]
        now = {'query': query.query, 'fields': query.fields}
        if changes := list(_differences(texts[query.query_id], now, query.query_id)):
          raise CollectionError(
            f'{self.journal.path} holds answers to another text of a query:\n' + '\n'.join(changes) + '\n'
            'Undo the change, give the query a new id, or collect into another workdir.'
          )

  def add_queries(self, asked: collections.abc.Iterable[queries.Query]) -> None:
    """Notes the queries that are new or were put right; raises as `check_queries` does."""
    new = [query for query in asked if not self._is_known(query)]
    self.check_queries(new)
    for query in new:
      self._queries[query.query_id] = _digest(query)
      self.journal.append({'kind': 'query', **dataclasses.asdict(query)})

  def _is_known(self, query: queries.Query) -> bool | None:
    """Tells whether the query is recorded as it is; None when it is not recorded at all."""
    recorded = self._queries.get(query.query_id)
    return None if recorded is None else recorded == _digest(query)

  def merge(self, path: pathlib.Path) -> int:
    """Takes over from another journal the answers that are not here yet; returns their number.

    Raises:
      CollectionError: the two were asked for differently.
      journal.JournalError: the other is damaged.
    """
    taken = 0
    for _, entry in journal.read(path):
      if entry['kind'] == 'llm':
        self.add_llm(entry['name'], entry['identity'])
      elif entry['kind'] == 'query':
        self.add_queries([_query(entry)])
      elif entry['kind'] == 'response':
        response = Response(**entry)
        known = self.find(bytes.fromhex(response.identity), response.key())
        if response.error is None and (known is None or known.key() != response.key()):
          self.add(response)
          taken += 1
    return taken


def _query(entry: dict[str, Any]) -> queries.Query:
  return queries.Query(**{name: entry[name] for name in queries.Query.__slots__})


def _digest(query: queries.Query) -> bytes:
  return hashlib.blake2b(orjson.dumps(query), digest_size=8).digest()


def _differences(old: Any, new: Any, where: str) -> collections.abc.Iterator[str]:
  """Yields one line for each leaf that differs."""
  if isinstance(old, dict) and isinstance(new, dict):
    for name in [*old, *(n for n in new if n not in old)]:
      yield from _differences(old.get(name), new.get(name), f'{where}.{name}')
  elif old != new:
    yield f'  {where} was {old!r:.200}, is now {new!r:.200}'


def export(
  path: pathlib.Path,
  target: pathlib.Path,
  extract: grading.Extractor,
  own: collections.abc.Mapping[str, grading.Extractor] = types.MappingProxyType({}),
) -> int:
  """Writes the response data set of a journal, graded from the raw texts; nobody is called.

  A failed call becomes a sample with an error; a sample that is not recorded does too, so that sample i stays sample i.

  Args:
    path: The journal.
    target: The JSONL file to write; it appears only when complete.
    extract: Text, query -> answer in canonical form, None when there is none.
    own: The same for the LLMs that need one of their own.

  Returns:
    The number of records written.

  Raises:
    journal.JournalError: the journal is damaged.
  """
  responses: dict[str, list[int]] = {}  # query_id -> where its responses stand
  asked: dict[str, int] = {}  # query_id -> where the query itself stands
  for offset, entry in journal.read(path):
    if entry['kind'] == 'response':
      responses.setdefault(entry['query_id'], []).append(offset)
    elif entry['kind'] == 'query':
      asked[entry['query_id']] = offset
  found = [query_id for query_id in asked if query_id in responses]
  with open(path, 'rb') as file:
    recorded = ([Response(**_entry_at(file, offset)) for offset in responses[query_id]] for query_id in found)
    lines = (
      _record(_entry_at(file, asked[query_id]), given, extract, own)
      for query_id, given in zip(found, recorded, strict=True)
    )
    records.write_jsonl(target, lines)
  return len(found)


def _entry_at(file: Any, offset: int) -> dict[str, Any]:
  file.seek(offset)
  return journal.decode(file.readline()) or {}


def _record(
  query: dict[str, Any],
  recorded: list[Response],
  extract: grading.Extractor,
  own: collections.abc.Mapping[str, grading.Extractor],
) -> records.Record:
  by_llm: dict[str, dict[int, Response]] = {}
  for response in recorded:
    samples = by_llm.setdefault(response.llm, {})
    if response.error is None or samples.get(response.sample, response).error is not None:
      samples[response.sample] = response
  known = dict.fromkeys([query['reference']] if query['reference'] is not None else [])
  return records.Record(
    query_id=query['query_id'],
    query=query['query'],
    task=query['task'],
    reference=query['reference'],
    responses={
      llm: [
        _sample(samples.get(index), own.get(llm, extract), query['query'], known) for index in range(max(samples) + 1)
      ]
      for llm, samples in sorted(by_llm.items())
    },
  )


def _sample(
  response: Response | None, extract: grading.Extractor, query: str, known: dict[str, None]
) -> records.Sample:
  """Makes a sample of a response; its answer is written as it is known already, and known from now on."""
  if response is None:
    return records.Sample(error='not_asked')
  if response.text is None:
    return records.Sample(error=response.error)
  text = response.text.encode('utf-8', 'surrogatepass').decode('utf-8', 'replace')  # records are valid Unicode
  answer = extract(text, query)
  if answer is not None:
    answer = grading.known_as(answer, known, extract)
    known[answer] = None
  return records.Sample(
    text=text,
    answer=answer,
    latency_s=response.latency_s,
    latency_is='unknown' if response.latency_s is None else 'measured',
    prompt_tokens=response.prompt_tokens,
    completion_tokens=response.completion_tokens,
  )
