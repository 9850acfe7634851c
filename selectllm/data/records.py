"""The response record: what every LLM of a pool answered to one query.

The record is the door between where responses come from (builders, the pool runner) and what is learned from
them. It has three forms: `Record` in memory, one line of JSONL in files, one example in TFDS.
"""

import collections.abc
import dataclasses
import itertools
import lzma
import math
import pathlib
from typing import IO, Any, Literal, NamedTuple

import orjson

from selectllm.data import splits
from selectllm.infra import paths

# Part of the identity of what is prepared from records: another form, another identity.
FORM = 'record-v3'
# From the strongest evidence to the weakest.
LATENCY_KINDS = ('measured', 'published', 'estimated', 'unknown')
_MOST_TOKENS = 2**31 - 1  # what an int32 holds
_PART = 64 << 20


class RecordError(ValueError):
  """A response record that cannot be used; the message names where it stands and what is wrong."""


class Sample(NamedTuple):
  """One sampled response of one LLM.

  Attributes:
    text: The raw response; it can be graded again later.
    answer: The extracted answer in canonical form, None when no answer could be extracted.
    error: Why the call failed, None when it did not. A failed call is no observation of the LLM.
    latency_s: Seconds the call took, None when unknown (or to be estimated from the pool file).
    latency_is: `measured`, `published` (a mean over other queries), `estimated` or `unknown`.
    prompt_tokens: Tokens read, None when unknown.
    completion_tokens: Tokens written, None when unknown.
  """

  text: str = ''
  answer: str | None = None
  error: str | None = None
  latency_s: float | None = None
  latency_is: str = 'unknown'
  prompt_tokens: int | None = None
  completion_tokens: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
  """All responses to one query; holds either `responses` or `scores`.

  Attributes:
    query_id: Unique within its data set.
    query: The text that the classifier reads.
    task: Name of the task or category that the query belongs to.
    reference: The right answer in canonical form, None when unknown (always so with scores).
    responses: LLM name -> its samples. An LLM that is absent, or all of whose samples failed, is missing.
    scores: LLM name -> score in [0, 1], for data without texts and answers.
    question: What decides which split the query falls into, empty when that is the query itself: queries that hold the
      same question with other additions (such as its options) share a split.
    split: The split that the query was published in (`train`, `validation`, `test`), empty for none.
  """

  query_id: str
  query: str
  task: str = ''
  reference: str | None = None
  responses: dict[str, list[Sample]] = dataclasses.field(default_factory=dict)
  scores: dict[str, float] = dataclasses.field(default_factory=dict)
  question: str = ''
  split: str = ''


_SAMPLE_TYPES: dict[str, tuple[type, ...]] = {
  'text': (str,),
  'answer': (str, type(None)),
  'error': (str, type(None)),
  'latency_s': (float, int, type(None)),
  'latency_is': (str,),
  'prompt_tokens': (int, type(None)),
  'completion_tokens': (int, type(None)),
}
_RECORD_TYPES: dict[str, tuple[type, ...]] = {
  'query_id': (str,),
  'query': (str,),
  'task': (str,),
  'reference': (str, type(None)),
  'responses': (dict,),
  'scores': (dict,),
  'question': (str,),
  'split': (str,),
}


# Of the JSON schema of a record; raised when a field is renamed, removed or means something else.
SCHEMA_VERSION = 1
_JSON_TYPES = {str: 'string', type(None): 'null', int: 'integer', float: 'number', dict: 'object'}
# What a value must be beside its type, and what is true of objects as a whole.
_TOKENS = {'minimum': 0, 'maximum': _MOST_TOKENS}
_SAMPLE_RULES: dict[str, dict[str, Any]] = {
  'answer': {'minLength': 1},
  'error': {'minLength': 1},
  'latency_s': {'minimum': 0},
  'latency_is': {'enum': list(LATENCY_KINDS)},
  'prompt_tokens': _TOKENS,
  'completion_tokens': _TOKENS,
}
_NOT_BLANK = {'pattern': r'\S'}
_RECORD_RULES: dict[str, dict[str, Any]] = {
  'query_id': _NOT_BLANK,
  'query': _NOT_BLANK,
  'responses': {'additionalProperties': {'type': 'array', 'items': {'$ref': '#/$defs/Sample'}}},
  'scores': {'additionalProperties': {'type': 'number', 'minimum': 0, 'maximum': 1}},
  'split': {'enum': ['', *splits.NAMES]},
}
_EITHER = [
  {'required': ['responses'], 'properties': {'responses': {'minProperties': 1}, 'reference': _NOT_BLANK}},
  {'required': ['scores'], 'properties': {'scores': {'minProperties': 1}}},
]


def _object_schema(types: dict[str, tuple[type, ...]], rules: dict[str, dict[str, Any]]) -> dict[str, Any]:
  properties = {
    name: {'type': [_JSON_TYPES[each] for each in wanted], **rules.get(name, {})} for name, wanted in types.items()
  }
  return {'type': 'object', 'additionalProperties': False, 'properties': properties}


def schema() -> dict[str, Any]:
  """Returns the JSON schema (2020-12) of a response record, a line of JSONL; `from_json` reads what it accepts."""
  return {
    '$schema': 'https://json-schema.org/draft/2020-12/schema',
    '$id': f'urn:selectllm:response_record:{SCHEMA_VERSION}',
    'title': 'Response record',
    **_object_schema(_RECORD_TYPES, _RECORD_RULES),
    'required': ['query_id', 'query'],
    'oneOf': _EITHER,
    '$defs': {'Sample': _object_schema(_SAMPLE_TYPES, _SAMPLE_RULES)},
  }


def _checked_fields(value: Any, types: dict[str, tuple[type, ...]], what: str, where: str) -> dict[str, Any]:
  if not isinstance(value, dict):
    raise RecordError(f'{where}: {what} must be an object, not {value!r:.80}')
  for name, field in value.items():
    if name not in types:
      raise RecordError(f'{where}: {what} has an unknown field {name!r}; the fields are {", ".join(types)}')
    if not isinstance(field, types[name]) or isinstance(field, bool):
      wanted = ' or '.join('null' if t is type(None) else t.__name__ for t in types[name])
      raise RecordError(f'{where}: {what}.{name} must be {wanted}, not {field!r:.80}')
  return value


def _sample_from_json(value: Any, llm: str, where: str) -> Sample:
  fields = _checked_fields(value, _SAMPLE_TYPES, f'a sample of {llm!r}', where)
  latency = fields.get('latency_s')
  if latency is not None and not (math.isfinite(latency) and latency >= 0):
    raise RecordError(f'{where}: latency_s of {llm!r} must be a finite number of seconds >= 0, not {latency!r}')
  kind = fields.get('latency_is', 'unknown' if latency is None else 'measured')
  if kind not in LATENCY_KINDS:
    raise RecordError(f'{where}: latency_is of {llm!r} must be one of {", ".join(LATENCY_KINDS)}, not {kind!r}')
  for name in ('prompt_tokens', 'completion_tokens'):
    if not 0 <= (fields.get(name) or 0) <= _MOST_TOKENS:
      raise RecordError(f'{where}: {name} of {llm!r} must be from 0 to {_MOST_TOKENS}, not {fields[name]!r}')
  for name in ('answer', 'error'):  # an error without words would look like none once it is stored
    if fields.get(name) == '':
      raise RecordError(f'{where}: {name} of {llm!r} is empty; give null where there is none')
  return Sample(**{**fields, 'latency_is': kind})


def _samples_from_json(values: dict[str, list[Any]], where: str) -> dict[str, list[Sample]]:
  """Reads the samples of all LLMs: checked by column, and one after the other only where something is wrong."""
  try:
    samples = {llm: [_unchecked(value) for value in given] for llm, given in values.items()}
    if _are_right(list(itertools.chain.from_iterable(samples.values()))):
      return samples
  except (TypeError, AttributeError):  # an unknown field, or no object
    pass
  return {llm: [_sample_from_json(value, llm, where) for value in given] for llm, given in values.items()}


def _unchecked(value: Any) -> Sample:
  measured = value.get('latency_s') is not None and 'latency_is' not in value
  return Sample(**value, latency_is='measured') if measured else Sample(**value)


def _are_right(samples: list[Sample]) -> bool:
  """Tells whether `_sample_from_json` would find nothing wrong."""
  columns = dict(zip(Sample._fields, zip(*samples, strict=True), strict=False))  # no columns without samples
  return (
    all(set(map(type, column)).issubset(_SAMPLE_TYPES[name]) for name, column in columns.items())
    and not any('' in columns.get(name, ()) for name in ('answer', 'error'))
    and set(columns.get('latency_is', ())).issubset(LATENCY_KINDS)
    and all(0 <= seconds < math.inf for seconds in columns.get('latency_s', ()) if seconds is not None)
    and all(
      0 <= tokens <= _MOST_TOKENS
      for name in ('prompt_tokens', 'completion_tokens')
      for tokens in columns.get(name, ())
      if tokens is not None
    )
  )


def from_json(value: Any, where: str) -> Record:
  """Turns one decoded JSON object into a checked record.

  Args:
    value: The decoded object.
    where: File and line, for the message.

  Raises:
    RecordError: for anything that is not a record; nothing is guessed or dropped.
  """
  fields = _checked_fields(value, _RECORD_TYPES, 'the record', where)
  for name in ('query_id', 'query'):
    if not fields.get(name, '').strip():
      raise RecordError(f'{where}: {name} is {"empty" if name in fields else "missing"}')
  if (split := fields.get('split', '')) not in ('', *splits.NAMES):
    raise RecordError(f'{where}: split must be one of {", ".join(splits.NAMES)}, not {split!r}')
  scores, responses = fields.get('scores', {}), fields.get('responses', {})
  if bool(scores) == bool(responses):
    raise RecordError(f'{where}: a record holds either responses or scores, this one {"both" if scores else "neither"}')
  for llm, score in scores.items():
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
      raise RecordError(f'{where}: the score of {llm!r} must be a number in [0, 1], not {score!r}')
  for llm, samples in responses.items():
    if not isinstance(samples, list):
      raise RecordError(f'{where}: responses[{llm!r}] must be a list of samples, not {samples!r:.80}')
  if responses and (reference := fields.get('reference')) is not None and not reference.strip():
    raise RecordError(f'{where}: reference is empty; give null where there is none')
  return Record(
    **{
      **fields,
      'responses': _samples_from_json(responses, where),
      'scores': {llm: float(score) for llm, score in scores.items()},
    }
  )


def to_json(record: Record) -> dict[str, Any]:
  """Makes the JSON object of a record; `from_json` reads it back unchanged."""
  value = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
  value['responses'] = {llm: [sample._asdict() for sample in samples] for llm, samples in record.responses.items()}
  del value['responses' if record.scores else 'scores']
  for name in ('question', 'split'):  # most data sets have neither
    if not value[name]:
      del value[name]
  return value


def read_jsonl(*paths: str | pathlib.Path) -> collections.abc.Iterator[Record]:
  """Yields the records of JSONL files (also `.jsonl.xz`), one at a time.

  Raises:
    RecordError: names the file and line of a broken or truncated line, a bad record or a second `query_id`.
    FileNotFoundError: when the file is not there.
  """
  first_seen: dict[str, str] = {}
  for path in paths:
    for where, record in read_part(Part(str(path))):
      check_new(record.query_id, where, first_seen)
      yield record


def check_new(query_id: str, where: str, first_seen: dict[str, str]) -> None:
  """Notes in `first_seen` where a query_id stands.

  Raises:
    RecordError: when it stands somewhere already.
  """
  if (there := first_seen.setdefault(query_id, where)) is not where:
    raise RecordError(f'{where}: query_id {query_id!r} already stands at {there}')


class Part(NamedTuple):
  """Lines of a JSONL file.

  Attributes:
    path: The file, which may be compressed where the part is all of it.
    start: Its first byte.
    size: Bytes; -1 for all that follow.
    number: Of its first line.
  """

  path: str
  start: int = 0
  size: int = -1
  number: int = 1


def cut(path: str) -> list[Part]:
  """Cuts a file at line ends into parts of about `_PART` bytes; a compressed one, which has no middle, stays whole."""
  if path.endswith('.xz'):
    return [Part(path)]
  parts, start, number = [], 0, 1
  with open(path, 'rb') as file:
    while lines := file.read(_PART):
      rest = file.readline()
      parts.append(Part(path, start, len(lines) + len(rest), number))
      start, number = file.tell(), number + lines.count(b'\n') + rest.count(b'\n')
  return parts


def read_part(part: Part) -> collections.abc.Iterator[tuple[str, Record]]:
  """Yields file:line and record of every line of a part that is not blank; see `read_jsonl` for what is refused."""
  for where, value in _read_lines(part):
    yield where, from_json(value, where)


def _open(path: str | pathlib.Path, mode: Literal['rb', 'wb'], *, like: str | pathlib.Path) -> IO[bytes]:
  """Opens a file, compressed if the name `like` ends in `.xz`."""
  return lzma.open(path, mode) if str(like).endswith('.xz') else open(path, mode)


def _read_lines(part: Part) -> collections.abc.Iterator[tuple[str, Any]]:
  """Yields (file:line, decoded object) for every line that is not blank."""
  left = part.size
  try:
    with _open(part.path, 'rb', like=part.path) as lines:
      lines.seek(part.start)
      for number, line in enumerate(lines, start=part.number):
        if not left:
          break
        left -= len(line)
        where = f'{part.path}:{number}'
        try:
          if line.strip():
            yield where, orjson.loads(line)
        except orjson.JSONDecodeError as error:
          end = '' if line.endswith(b'\n') else '; the file ends within this line, it may have been cut off'
          raise RecordError(f'{where}: not valid JSON ({error}){end}') from error
  except (lzma.LZMAError, EOFError) as error:
    raise RecordError(f'{part.path} is damaged or no xz file ({error})') from error


def write_jsonl(path: str | pathlib.Path, records: collections.abc.Iterable[Record]) -> None:
  """Writes records as JSONL, one line each, compressed where the path ends in `.xz`; the file appears when complete."""
  with paths.atomic_write(pathlib.Path(path)) as partial, _open(partial, 'wb', like=path) as file:
    for record in records:
      file.write(orjson.dumps(to_json(record), option=orjson.OPT_APPEND_NEWLINE))


def tfds_features() -> Any:
  """Describes a record as TFDS features: texts, two of which hold JSON.

  TFDS encodes a sequence value by value, which takes longer than all else where there are hundreds of samples. So
  `responses` is one text, LLM -> field -> a list with an entry for each sample (`json.loads(example['responses'])`),
  and `scores` is another, LLM -> score. TFDS has no optional features: an empty reference stands for none.
  """
  import tensorflow_datasets as tfds  # heavy, and needed only where a data set is built

  return tfds.features.FeaturesDict({field.name: tfds.features.Text() for field in dataclasses.fields(Record)})


def to_example(record: Record) -> dict[str, Any]:
  """Makes the TFDS example of a record."""
  columns = {
    llm: dict(zip(Sample._fields, zip(*samples, strict=True), strict=False))  # none where there are no samples
    for llm, samples in record.responses.items()
  }
  return {
    **{field.name: getattr(record, field.name) for field in dataclasses.fields(record)},
    'reference': record.reference or '',
    'responses': orjson.dumps(columns),
    'scores': orjson.dumps(record.scores),
  }


def from_example(example: dict[str, Any]) -> Record:
  """Reads the record of a TFDS example (texts as bytes, as `as_data_source` gives them)."""
  columns = orjson.loads(example['responses'])
  texts = {name: example[name].decode() for name in ('query_id', 'query', 'task', 'reference', 'question', 'split')}
  return Record(
    **{
      **texts,
      'reference': texts['reference'] or None,
      'responses': {
        llm: list(map(Sample._make, zip(*fields.values(), strict=True))) for llm, fields in columns.items()
      },
      'scores': orjson.loads(example['scores']),
    }
  )
