"""The response record: what every LLM of a pool answered to one query.

The record is the door between where responses come from (builders, the pool runner) and what is learned from
them. It has three forms: `Record` in memory, one line of JSONL in files, one flat example in TFDS.
"""

import collections.abc
import dataclasses
import itertools
import lzma
import math
import pathlib
from typing import IO, Any, Literal

import numpy as np
import orjson

from selectllm.data import splits

# Part of the identity of what is prepared from records: another form, another identity.
FORM = 'record-v2'
# From the strongest evidence to the weakest.
LATENCY_KINDS = ('measured', 'published', 'estimated', 'unknown')
_MOST_TOKENS = 2**31 - 1  # what an int32 holds


class RecordError(ValueError):
  """A response record that cannot be used; the message names where it stands and what is wrong."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
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
      'responses': {llm: [_sample_from_json(s, llm, where) for s in samples] for llm, samples in responses.items()},
      'scores': {llm: float(score) for llm, score in scores.items()},
    }
  )


def to_json(record: Record) -> dict[str, Any]:
  """The JSON object of a record; `from_json` reads it back unchanged."""
  value = dataclasses.asdict(record)
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
  for where, value in itertools.chain.from_iterable(map(_read_lines, paths)):
    record = from_json(value, where)
    if record.query_id in first_seen:
      raise RecordError(f'{where}: query_id {record.query_id!r} already stands at {first_seen[record.query_id]}')
    first_seen[record.query_id] = where
    yield record


def _open(path: str | pathlib.Path, mode: Literal['rb', 'wb']) -> IO[bytes]:
  return lzma.open(path, mode) if str(path).endswith('.xz') else open(path, mode)


def _read_lines(path: str | pathlib.Path) -> collections.abc.Iterator[tuple[str, Any]]:
  """Yields (file:line, decoded object) for every line that is not blank."""
  try:
    with _open(path, 'rb') as lines:
      for number, line in enumerate(lines, start=1):
        where = f'{path}:{number}'
        try:
          if line.strip():
            yield where, orjson.loads(line)
        except orjson.JSONDecodeError as error:
          end = '' if line.endswith(b'\n') else '; the file ends within this line, it may have been cut off'
          raise RecordError(f'{where}: not valid JSON ({error}){end}') from error
  except (lzma.LZMAError, EOFError) as error:
    raise RecordError(f'{path} is damaged or no xz file ({error})') from error


def write_jsonl(path: str | pathlib.Path, records: collections.abc.Iterable[Record]) -> None:
  """Writes records as JSONL, one line each; compressed where the path ends in `.xz`."""
  with _open(path, 'wb') as file:
    for record in records:
      file.write(orjson.dumps(to_json(record), option=orjson.OPT_APPEND_NEWLINE))


def tfds_features() -> Any:
  """The record as TFDS features: samples are flat rows, which TFDS reads and writes several times faster than a
  sequence for each LLM, and which let an LLM be absent.

  TFDS has no optional features: '' stands for no text, NaN for no latency, -1 for no token count.
  """
  import tensorflow_datasets as tfds  # heavy, and needed only where a data set is built

  return tfds.features.FeaturesDict(
    {
      'query_id': tfds.features.Text(),
      'query': tfds.features.Text(),
      'task': tfds.features.Text(),
      'reference': tfds.features.Text(),
      'samples': tfds.features.Sequence(
        {
          'llm': tfds.features.Text(),
          'text': tfds.features.Text(),
          'answer': tfds.features.Text(),
          'error': tfds.features.Text(),
          'latency_s': np.float32,
          'latency_is': tfds.features.Text(),
          'prompt_tokens': np.int32,
          'completion_tokens': np.int32,
        }
      ),
      'scores': tfds.features.Sequence({'llm': tfds.features.Text(), 'score': np.float32}),
      'question': tfds.features.Text(),
      'split': tfds.features.Text(),
    }
  )


def to_example(record: Record) -> dict[str, Any]:
  """The TFDS example of a record."""
  rows = [(llm, sample) for llm, samples in record.responses.items() for sample in samples]
  return {
    'query_id': record.query_id,
    'query': record.query,
    'task': record.task,
    'reference': record.reference or '',
    'samples': {
      'llm': [llm for llm, _ in rows],
      'text': [s.text for _, s in rows],
      'answer': [s.answer or '' for _, s in rows],
      'error': [s.error or '' for _, s in rows],
      'latency_s': [math.nan if s.latency_s is None else s.latency_s for _, s in rows],
      'latency_is': [s.latency_is for _, s in rows],
      'prompt_tokens': [-1 if s.prompt_tokens is None else s.prompt_tokens for _, s in rows],
      'completion_tokens': [-1 if s.completion_tokens is None else s.completion_tokens for _, s in rows],
    },
    'scores': {'llm': list(record.scores), 'score': list(record.scores.values())},
    'question': record.question,
    'split': record.split,
  }


def from_example(example: dict[str, Any]) -> Record:
  """The record of a TFDS example (texts as bytes, as `as_data_source` gives them)."""
  rows = example['samples']
  responses: dict[str, list[Sample]] = {}
  for llm, text, answer, error, latency, kind, prompt, completion in zip(
    *(rows[name] for name in ('llm', *_SAMPLE_TYPES)), strict=True
  ):
    sample = Sample(
      text=text.decode(),
      answer=answer.decode() or None,
      error=error.decode() or None,
      latency_s=None if math.isnan(latency) else float(latency),
      latency_is=kind.decode(),
      prompt_tokens=None if prompt < 0 else int(prompt),
      completion_tokens=None if completion < 0 else int(completion),
    )
    responses.setdefault(llm.decode(), []).append(sample)
  return Record(
    query_id=example['query_id'].decode(),
    query=example['query'].decode(),
    task=example['task'].decode(),
    reference=example['reference'].decode() or None,
    responses=responses,
    scores={k.decode(): float(v) for k, v in zip(example['scores']['llm'], example['scores']['score'], strict=True)},
    question=example['question'].decode(),
    split=example['split'].decode(),
  )
