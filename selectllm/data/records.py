"""The response record: what every LLM of a pool answered to one query.

The record is the door between where responses come from (builders, the pool runner) and what is learned from
them. It has three forms: `Record` in memory, one line of JSONL in files, one example in TFDS.
"""

import collections.abc
import dataclasses
import functools
import gzip
import itertools
import json
import lzma
import math
import pathlib
import re
import zlib
from typing import IO, Any, NamedTuple

import orjson

from selectllm.data import splits
from selectllm.infra import paths

# Part of the identity of what is prepared from records: another form, another identity.
FORM = 'record-v4'
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
    answer: The extracted answer in canonical form, which may be empty; None when no answer could be extracted.
    error: Why the call failed, None when it did not. A failed call is no observation of the LLM.
    latency_s: Seconds the call took, None when unknown (or to be estimated from the pool file).
    latency_is: `measured`, `published` (a mean over other queries), `estimated` or `unknown`.
    prompt_tokens: Tokens read, None when unknown.
    completion_tokens: Tokens written, None when unknown.
    correct: A verdict on the response, where equality with a reference cannot tell whether it is right; None for none.
      It decides for all responses to the query that give the same answer (which is the text, where there is none).
  """

  text: str = ''
  answer: str | None = None
  error: str | None = None
  latency_s: float | None = None
  latency_is: str = 'unknown'
  prompt_tokens: int | None = None
  completion_tokens: int | None = None
  correct: bool | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
  """All responses to one query; holds either `responses` or `scores`.

  Attributes:
    query_id: Unique within its data set.
    query: The text that the classifier reads.
    task: Name of the task or category that the query belongs to.
    reference: The right answer in canonical form, or all that are accepted; None when unknown (always so with scores).
    responses: LLM name -> its samples. An LLM that is absent, or all of whose samples failed, is missing.
    scores: LLM name -> score in [0, 1], for data without texts and answers.
    question: What decides which split the query falls into, empty when that is the query itself: queries that hold the
      same question with other additions (such as its options) share a split.
    split: The split that the query was published in (`train`, `validation`, `test`), empty for none.
  """

  query_id: str
  query: str
  task: str = ''
  reference: str | tuple[str, ...] | None = None
  responses: dict[str, list[Sample]] = dataclasses.field(default_factory=dict)
  scores: dict[str, float] = dataclasses.field(default_factory=dict)
  question: str = ''
  split: str = ''

  @property
  def references(self) -> tuple[str, ...]:
    """All answers that are accepted as right; none when unknown."""
    return (self.reference,) if isinstance(self.reference, str) else self.reference or ()


# Field -> its types; null stands for what is absent, in all but the first two.
_SAMPLE_TYPES: dict[str, tuple[type, ...]] = {
  'text': (str,),
  'answer': (str,),
  'error': (str,),
  'latency_s': (float, int),
  'latency_is': (str,),
  'prompt_tokens': (int,),
  'completion_tokens': (int,),
  'correct': (bool,),
}
_RECORD_TYPES: dict[str, tuple[type, ...]] = {
  'query_id': (str, int),
  'query': (str,),
  'task': (str,),
  'reference': (str, list),
  'responses': (dict,),
  'scores': (dict,),
  'question': (str,),
  'split': (str,),
}
_REQUIRED = ('query_id', 'query')
# What a sample may hold once it is read.
_SAMPLE_OR_NULL = {
  name: types if name in ('text', 'latency_is') else (*types, type(None)) for name, types in _SAMPLE_TYPES.items()
}


# Of the JSON schema of a record; raised when a field is renamed, removed or means something else.
SCHEMA_VERSION = 1
_JSON_TYPES = {str: 'string', int: 'integer', float: 'number', bool: 'boolean', dict: 'object', list: 'array'}
# What a value must be beside its type, and what is true of objects as a whole.
_TOKENS = {'minimum': 0, 'maximum': _MOST_TOKENS}
_SAMPLE_RULES: dict[str, dict[str, Any]] = {
  'error': {'minLength': 1},
  'latency_s': {'minimum': 0},
  'latency_is': {'enum': [*LATENCY_KINDS, None]},
  'prompt_tokens': _TOKENS,
  'completion_tokens': _TOKENS,
}
_NOT_BLANK = {'pattern': r'\S'}
_RECORD_RULES: dict[str, dict[str, Any]] = {
  'query_id': _NOT_BLANK,
  'query': _NOT_BLANK,
  'reference': {'items': {'type': 'string'}},
  'responses': {
    'propertyNames': _NOT_BLANK,
    'additionalProperties': {'type': ['array', 'null'], 'items': {'$ref': '#/$defs/Sample'}},
  },
  'scores': {
    'propertyNames': _NOT_BLANK,
    'additionalProperties': {'type': ['number', 'null'], 'minimum': 0, 'maximum': 1},
  },
  'split': {'enum': ['', *splits.NAMES, None]},
}
_EITHER = [
  {'required': ['responses'], 'properties': {'responses': {'type': 'object', 'minProperties': 1}}},
  {
    'required': ['scores'],
    'properties': {'scores': {'type': 'object', 'not': {'additionalProperties': {'type': 'null'}}}},
  },
]
# A verdict is on an answer: no failed call was right or wrong, and nothing that was not said was right.
_VERDICTS = {
  'if': {'required': ['correct'], 'properties': {'correct': {'type': 'boolean'}}},
  'then': {
    'properties': {'error': {'type': 'null'}},
    'anyOf': [
      {'properties': {'correct': {'const': False}}},
      {'required': ['answer'], 'properties': {'answer': {'type': 'string'}}},
      {'required': ['text'], 'properties': {'text': {'type': 'string', 'minLength': 1}}},
    ],
  },
}


def _object_schema(types: dict[str, tuple[type, ...]], rules: dict[str, dict[str, Any]]) -> dict[str, Any]:
  properties = {
    name: {
      'type': [*(_JSON_TYPES[each] for each in wanted), *(() if name in _REQUIRED else ('null',))],
      **rules.get(name, {}),
    }
    for name, wanted in types.items()
  }
  return {'type': 'object', 'additionalProperties': False, 'properties': properties}


def schema() -> dict[str, Any]:
  """Returns the JSON schema (2020-12) of a response record, a line of JSONL; `from_json` reads what it accepts."""
  return {
    '$schema': 'https://json-schema.org/draft/2020-12/schema',
    '$id': f'urn:selectllm:response_record:{SCHEMA_VERSION}',
    'title': 'Response record',
    **_object_schema(_RECORD_TYPES, _RECORD_RULES),
    'required': list(_REQUIRED),
    'oneOf': _EITHER,
    '$defs': {'Sample': {**_object_schema(_SAMPLE_TYPES, _SAMPLE_RULES), **_VERDICTS}},
  }


def _checked_fields(value: Any, types: dict[str, tuple[type, ...]], what: str, where: str) -> dict[str, Any]:
  """Returns the fields of an object that are not null; refuses unknown ones, and those of another type."""
  if not isinstance(value, dict):
    raise RecordError(f'{where}: {what} must be an object, not {value!r:.80}')
  for name, field in value.items():
    if name not in types:
      raise RecordError(f'{where}: {what} has an unknown field {name!r}; the fields are {", ".join(types)}')
    if field is not None and type(field) not in types[name]:
      wanted = ' or '.join([*(kind.__name__ for kind in types[name]), *(() if name in _REQUIRED else ('null',))])
      raise RecordError(f'{where}: {what}.{name} must be {wanted}, not {field!r:.80}')
  return {name: field for name, field in value.items() if field is not None}


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
  if fields.get('error') == '':
    raise RecordError(f'{where}: error of {llm!r} is empty; give null where there is none')
  sample = Sample(**{**fields, 'latency_is': kind})
  if not _is_fair(sample):
    problem = 'which failed' if sample.error else 'which says nothing: give its text or answer, or scores instead'
    raise RecordError(f'{where}: correct={sample.correct} is a verdict on a response of {llm!r} {problem}')
  return sample


def _is_fair(sample: Sample) -> bool:
  """Tells whether the verdict on a sample, if any, is on an answer: no failed call, nothing unsaid that is right."""
  said = sample.answer is not None or bool(sample.text)
  return sample.correct is None or (sample.error is None and (said or not sample.correct))


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
    all(set(map(type, column)).issubset(_SAMPLE_OR_NULL[name]) for name, column in columns.items())
    and '' not in columns.get('error', ())
    and all(map(_is_fair, samples if any(each is not None for each in columns.get('correct', ())) else ()))
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
  for name in _REQUIRED:
    if not str(fields.get(name, '')).strip():
      raise RecordError(f'{where}: {name} is {"empty" if name in fields else "missing"}')
  if (split := fields.get('split', '')) not in ('', *splits.NAMES):
    raise RecordError(f'{where}: split must be one of {", ".join(splits.NAMES)}, not {split!r}')
  scores = {llm: score for llm, score in fields.get('scores', {}).items() if score is not None}
  responses = {llm: [] if samples is None else samples for llm, samples in fields.get('responses', {}).items()}
  if bool(scores) == bool(responses):
    raise RecordError(f'{where}: a record holds either responses or scores, this one {"both" if scores else "neither"}')
  if not all(map(str.strip, (*scores, *responses))):
    raise RecordError(f'{where}: an LLM without a name')
  for llm, score in scores.items():
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
      raise RecordError(f'{where}: the score of {llm!r} must be a number in [0, 1], not {score!r}')
  for llm, samples in responses.items():
    if not isinstance(samples, list):
      raise RecordError(f'{where}: responses[{llm!r}] must be a list of samples, not {samples!r:.80}')
  reference = fields.get('reference')
  if isinstance(reference, list):
    if wrong := [each for each in reference if not isinstance(each, str)]:
      raise RecordError(f'{where}: reference is a list that holds {wrong[0]!r:.80}; it may hold texts only')
    reference = tuple(reference) or None
  return Record(
    **{
      **fields,
      'query_id': str(fields['query_id']),
      'reference': reference,
      'responses': _samples_from_json(responses, where),
      'scores': {llm: float(score) for llm, score in scores.items()},
    }
  )


def to_json(record: Record) -> dict[str, Any]:
  """Makes the JSON object of a record; `from_json` reads it back unchanged."""
  value = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
  value['responses'] = {llm: list(map(_sample_to_json, samples)) for llm, samples in record.responses.items()}
  del value['responses' if record.scores else 'scores']
  for name in ('question', 'split'):  # most data sets have neither
    if not value[name]:
      del value[name]
  return value


def _sample_to_json(sample: Sample) -> dict[str, Any]:
  value = sample._asdict()
  if sample.correct is None:  # most data sets have no verdicts
    del value['correct']
  return value


def read_jsonl(*paths: str | pathlib.Path) -> collections.abc.Iterator[Record]:
  """Yields the records of JSONL files, one at a time; files may be compressed (gzip, xz), or hold one JSON array.

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
  """Cuts a file at line ends into parts of about `_PART` bytes; a compressed one or an array stays whole."""
  if _compression(path) is not open or _is_array(path):
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
  for where, value in read_objects(part):
    yield where, from_json(value, where)


# What a file begins with that is opened by a library; `open` where it is plain.
_Opener = collections.abc.Callable[..., Any]
_MAGIC: dict[bytes, _Opener] = {b'\x1f\x8b': gzip.open, b'\xfd7zXZ\x00': lzma.open}
_SUFFIXES: dict[str, _Opener] = {'.gz': gzip.open, '.xz': lzma.open}
_NOT_READ = {b'PAR1': 'Parquet', b'PK\x03\x04': 'a zip archive', b'\x28\xb5\x2f\xfd': 'zstd', b'BZh': 'bzip2'}
_BOM = b'\xef\xbb\xbf'
# The end of a key; also found where a text begins with a colon, or holds an escaped quote before one.
_KEY_END, _ESCAPED = re.compile(rb'"\s*:'), re.compile(rb'\\"\s*:')


def _compression(path: str | pathlib.Path) -> _Opener:
  """Returns what opens a file, by its first bytes, or else by its name."""
  with open(path, 'rb') as file:
    head = file.read(8)
  by_name = _SUFFIXES.get(pathlib.Path(path).suffix, open)
  return next((opener for magic, opener in _MAGIC.items() if head.startswith(magic)), by_name)


def _is_array(path: str | pathlib.Path) -> bool:
  with _compression(path)(path, 'rb') as file:
    return file.read(1024).removeprefix(_BOM).lstrip().startswith(b'[')


def _check_head(head: bytes, path: str) -> None:
  """Refuses, by its first bytes, a file that holds no UTF-8; says what to do."""
  if kind := next((kind for magic, kind in _NOT_READ.items() if head.startswith(magic)), ''):
    raise RecordError(f'{path} is {kind}; JSON lines are read as they are, or compressed as .jsonl.gz or .jsonl.xz')
  if head.startswith((b'\xff\xfe', b'\xfe\xff')) or b'\0' in head:
    raise RecordError(
      f'{path}:1: not valid JSON: the file is UTF-16 or UTF-32; save it as UTF-8, as iconv -f UTF-16 -t UTF-8 does'
    )


def read_objects(part: Part) -> collections.abc.Iterator[tuple[str, Any]]:
  """Yields (file:line, decoded object) for every line that is not blank, or every element of a JSON array.

  Raises:
    RecordError: names the file and line of what is not JSON, or a key that stands twice in one object.
  """
  try:
    with _compression(part.path)(part.path, 'rb') as lines:
      if not part.start:
        _check_head(lines.read(4), part.path)
      lines.seek(part.start)
      if not part.start and _is_array(part.path):
        yield from _elements(lines.read(), part.path)
      else:
        yield from _lines(lines, part)
  except (lzma.LZMAError, gzip.BadGzipFile, zlib.error, EOFError) as error:
    kind = 'xz' if isinstance(error, lzma.LZMAError) or part.path.endswith('.xz') else 'gzip'
    raise RecordError(f'{part.path} is damaged or no {kind} file ({error})') from error


def _lines(lines: IO[bytes], part: Part) -> collections.abc.Iterator[tuple[str, Any]]:
  left = part.size
  for number, line in enumerate(lines, start=part.number):
    if not left:
      break
    left -= len(line)
    text = line if part.start or number > 1 else line.removeprefix(_BOM)
    if text.strip():
      where = f'{part.path}:{number}'
      end = '' if line.endswith(b'\n') else '; the file ends within this line, it may have been cut off'
      yield where, _decode(text, where, end)


def _elements(content: bytes, path: str) -> collections.abc.Iterator[tuple[str, Any]]:
  """Yields (file:line, decoded element) of a JSON array."""
  blank, scan = re.compile(r'\s*'), json.JSONDecoder().raw_decode

  def skip(place: int) -> int:
    return blank.match(text, place).end()  # type: ignore[union-attr]  # it matches everywhere

  try:
    text = content.removeprefix(_BOM).decode()
    place = skip(text.index('[') + 1)
    line, ended = 1 + text.count('\n', 0, place), text.startswith(']', place)
    while not ended:
      end = scan(text, place)[1]
      yield f'{path}:{line}', _decode(text[place:end].encode(), f'{path}:{line}')
      comma = skip(end)
      ended = not text.startswith(',', comma)
      following = comma if ended else skip(comma + 1)
      line += text.count('\n', place, following)
      place = following
    if text[place:].strip() != ']':
      raise json.JSONDecodeError("Expecting ',' or the one ']' that ends the array", text, place)
  except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
    raise RecordError(f'{path}: not a valid JSON array ({error})') from error


def _decode(line: bytes, where: str, end: str = '') -> Any:
  """Decodes JSON; refuses a key that stands twice in one object, of which decoders drop all but the last."""
  try:
    value = orjson.loads(line)
    escaped = 0 if b'\\\\"' in line else len(_ESCAPED.findall(line))  # unless it is the backslash that is escaped
    # Texts may look like ends of keys, so a second look tells.
    if len(_KEY_END.findall(line)) - escaped > _count_keys(value):
      json.loads(line, object_pairs_hook=functools.partial(_once, where))
  except (orjson.JSONDecodeError, RecursionError) as error:
    raise RecordError(f'{where}: not valid JSON ({error}){end}') from error
  return value


def _count_keys(value: Any) -> int:
  count, left = 0, [value]
  while left:
    inner = left.pop()
    if isinstance(inner, dict):
      count += len(inner)
      left += [each for each in inner.values() if isinstance(each, dict | list)]
    elif isinstance(inner, list):
      left += inner
  return count


def _once(where: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found: dict[str, Any] = {}
  for key, value in pairs:
    if key in found:
      raise RecordError(f'{where}: {key!r} stands twice in one object')
    found[key] = value
  return found


def write_jsonl(path: str | pathlib.Path, records: collections.abc.Iterable[Record]) -> None:
  """Writes records as JSONL, one line each, compressed if the path ends in `.gz` or `.xz`; it appears when complete."""
  opener = _SUFFIXES.get(pathlib.Path(path).suffix, open)
  with paths.atomic_write(pathlib.Path(path)) as partial, opener(partial, 'wb') as file:
    for record in records:
      file.write(orjson.dumps(to_json(record), option=orjson.OPT_APPEND_NEWLINE))


def tfds_features() -> Any:
  """Describes a record as TFDS features: texts, three of which hold JSON.

  TFDS encodes a sequence value by value, which takes longer than all else where there are hundreds of samples. So
  `responses` is one text, LLM -> field -> a list with an entry for each sample (`json.loads(example['responses'])`),
  `scores` is another, LLM -> score, and `reference` a third: null, a text, or a list of texts.
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
    'reference': orjson.dumps(record.reference),
    'responses': orjson.dumps(columns),
    'scores': orjson.dumps(record.scores),
  }


def from_example(example: dict[str, Any]) -> Record:
  """Reads the record of a TFDS example (texts as bytes, as `as_data_source` gives them)."""
  columns = orjson.loads(example['responses'])
  texts = {name: example[name].decode() for name in ('query_id', 'query', 'task', 'question', 'split')}
  reference = orjson.loads(example['reference'])
  return Record(
    **{
      **texts,
      'reference': tuple(reference) if isinstance(reference, list) else reference,
      'responses': {
        llm: list(map(Sample._make, zip(*fields.values(), strict=True))) for llm, fields in columns.items()
      },
      'scores': orjson.loads(example['scores']),
    }
  )
