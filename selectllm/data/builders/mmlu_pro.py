"""MMLU-Pro's 12,032 questions, answered by any of the LLMs whose responses its repository publishes."""

import collections
import collections.abc
import hashlib
import json
import logging
import pathlib
import zipfile
import zlib
from typing import Any, NamedTuple

import ml_collections

from selectllm.data import grading, records
from selectllm.data.builders import base, download
from selectllm.data.extractors import option_letter

_LOG = logging.getLogger(__name__)

QUESTIONS = 12_032
EXTRACTOR = 'option_letter-v2'

_COMMIT = 'f418b116db00b065c2aea046518d8fcf74d39872'
_PATH = 'TIGER-AI-Lab/MMLU-Pro/eval_results/model_outputs_{}_5shots.zip'
# The pool where none is named: size and SHA-256 of each LLM's file.
CHECKED = {
  'Phi-3-mini-4k-instruct': (3_696_740, '7f45083108479ef586cc6c855325294c1220a9fcb614066abf22234a26d7037e'),
  'Meta-Llama-3_1-8B-Instruct': (3_937_818, 'd5e76b2564b5baad90892c3664287a51f562a3be792a130acaec458b8560a1cf'),
  'mathstral-7B': (3_596_659, 'c5613c4778e8dfe18d53015aa5f163fd86141cde22cdb7667f235d496e025f9a'),
  'Mixtral-8x7B-Instruct-v0.1': (3_521_102, '4716478ca233a86baa39b1c99452589191d8db3df3b398c871ff2832959408aa'),
  'Yi-34B': (3_230_333, '17e44df39275a324a250fee8b98f96d8cddcdc00e68f171f07996db9012c5f27'),
  'c4ai-command-r-v01': (3_738_583, '246e2da80791811b1f5a283b40b4f7d62dafc5128d2653edcfe9b81557762e52'),
  'gemma-7b': (3_293_512, '479a85f9f3598c5db75279e95452dd972a719f09eda983925be3595cb60767d9'),
}
# Published in the same form; their files are held to what they were when first used.
OTHERS = (
  'DeepSeek-Coder-V2',
  'Llama-2-13b-hf',
  'Llama-2-70b-hf',
  'Llama-2-7b-hf',
  'Meta-Llama-3-70B',
  'Meta-Llama-3-8B',
  'Meta-Llama-3_1-70B',
  'Meta-Llama-3_1-70B-Instruct',
  'Meta-Llama-3_1-8B',
  'Mistral-7B-Instruct-v0.1',
  'Mistral-7B-Instruct-v0.2',
  'Mistral-7B-v0.1',
  'Mistral-7B-v0.2-hf',
  'Mixtral-8x7B-v0.1',
  'Qwen1.5-110B',
  'Qwen1.5-72B-Chat',
  'Qwen1.5-7B-Chat',
  'Yi-6B',
  'Yi-6b-Chat',
  'gemini-1.5-flash-002',
  'gemini-1.5-pro-002',
  'jamba-1.5-large',
)


class Question(NamedTuple):
  """A question; in a few rows it differs between the files of two LLMs."""

  text: str
  options: tuple[str, ...]
  reference: str

  def query(self, include_options: bool) -> str:
    """Returns the text that the classifier reads."""
    lettered = (f'{letter}. {option}' for letter, option in zip(option_letter.OPTIONS, self.options, strict=False))
    return '\n'.join([self.text, *lettered]) if include_options else self.text


class Row(NamedTuple):
  """One LLM's response to one question, with the question's category and the answer that was published for it."""

  question: Question
  category: str
  response: str
  published: str | None


def source(llm: str) -> download.Source:
  """Returns the published file of an LLM.

  Raises:
    ValueError: for an LLM that has none.
  """
  if llm not in CHECKED and llm not in OTHERS:
    raise ValueError(
      f'config.pool.llms names {llm!r}, of which MMLU-Pro publishes no responses; there are: '
      + ', '.join((*CHECKED, *OTHERS))
    )
  return download.Source(_PATH.format(llm), _COMMIT, *CHECKED.get(llm, ()))


def _read_rows(path: pathlib.Path) -> list[Any]:
  try:
    with zipfile.ZipFile(path) as archive:
      [name] = [n for n in archive.namelist() if n.endswith('.json') and not n.startswith('__MACOSX')]
      rows = json.loads(archive.read(name))  # their writer's: it takes NaN and halves of surrogate pairs
  except (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError) as error:
    raise download.SourceError(f'{path} is not an archive of one JSON file: {error}') from error
  if not isinstance(rows, list) or not 0 < len(rows) <= QUESTIONS:
    found = f'{len(rows):,} rows' if isinstance(rows, list) else type(rows).__name__
    raise download.SourceError(f'{path} holds {found}; it should be a list of up to {QUESTIONS:,} rows')
  return rows


def _parse(row: Any) -> tuple[int, Row] | None:
  """Reads the id and content of a row; None for what is no response to a question."""
  if not isinstance(row, dict):
    return None
  # Some files call the text one thing, some another.
  response, number = row.get('generated_text', row.get('model_outputs')), row.get('question_id')
  text, options, reference, published = (row.get(name) for name in ('question', 'options', 'answer', 'pred'))
  if not isinstance(response, str) or not isinstance(text, str) or not isinstance(options, list):
    return None
  if not text.strip() or not str(number).isdecimal() or reference not in option_letter.OPTIONS:
    return None
  question = Question(_clean(text), tuple(_clean(str(option)) for option in options), str(reference))
  return int(str(number)), Row(question, _clean(str(row.get('category', ''))), _clean(response), published)


def _clean(text: str) -> str:
  """Removes halves of surrogate pairs, which cannot be stored."""
  return text.encode(errors='replace').decode()


def _read(path: pathlib.Path) -> tuple[dict[int, Row], int]:
  """Reads the responses in a file by question id, and counts the rows that are none (or repeat a question)."""
  rows, left_out = {}, 0
  for value in _read_rows(path):
    parsed = _parse(value)
    if parsed is None or parsed[0] in rows:
      left_out += 1
    else:
      rows[parsed[0]] = parsed[1]
  if not rows:
    raise download.SourceError(f'{path}: none of its {left_out:,} rows is a response to a question')
  return rows, left_out


def answer(row: Row) -> str | None:
  """Extracts the option that a response states, of those that the question has."""
  return grading.get_extractor(EXTRACTOR)(row.response, row.question.query(include_options=True))


class Builder(base.PoolBuilder):
  """MMLU-Pro with the LLMs that `config.pool.llms` names (see `CHECKED` and `OTHERS`), one sample each.

  Fourteen questions differ between files in text, options or answer: what most files of the pool say is the question
  (where as many say one thing as another, the file's that comes first in `CHECKED` and `OTHERS`), and responses to
  anything else are missing. So these questions may be other ones in another pool.
  """

  name = 'mmlu_pro_pool'

  def __init__(self, config: ml_collections.ConfigDict, cache_dir: pathlib.Path):
    self._options, self._downloads = config.dataset, cache_dir / 'downloads'
    wanted = {llm: source(llm) for llm in base.wanted_llms(config) or CHECKED}
    # In one order, so that the same LLMs make the same data.
    self._sources = {llm: wanted[llm] for llm in (*CHECKED, *OTHERS) if llm in wanted}
    self._paths: dict[download.Source, pathlib.Path] = {}
    known = [download.remembered(s, self._downloads) for s in self._sources.values()]
    # With a folder checked on every run: a file that changed is an error, not a silent reuse of old data.
    if config.dataset.manual_dir or not all(s.sha256 for s in known):
      paths = self._fetch()
      known = [s if s.sha256 else download.seen(s, paths[s]) for s in known]
    made_from = f'{download.digest(known)} {EXTRACTOR} {records.FORM} {self._options.query_includes_options}'
    super().__init__(
      identity=hashlib.sha256(made_from.encode()).hexdigest(),
      description=f'MMLU-Pro answered by {len(known)} LLMs; latencies are estimated from lengths.',
      data_dir=str(cache_dir),
    )

  def _fetch(self) -> dict[download.Source, pathlib.Path]:
    if not self._paths:
      self._paths = download.fetch(
        list(self._sources.values()),
        manual_dir=self._options.manual_dir,
        base_url=self._options.base_url,
        cache_dir=self._downloads,
      )
    return self._paths

  def read_records(self) -> collections.abc.Iterator[records.Record]:
    """Joins the LLMs' files on the question's id, in the order of the ids."""
    by_llm = {llm: self._read(llm) for llm in self._sources}
    questions = self._agreed_questions(by_llm)
    graded: dict[str, list[tuple[bool, bool, bool]]] = {llm: [] for llm in by_llm}
    for number, question in sorted(questions.items()):
      samples = {}
      for llm, rows in by_llm.items():
        row = rows.get(number)
        if row is None or row.question != question:
          continue
        letter = answer(row)
        right = (letter == question.reference, row.published == question.reference)
        graded[llm].append((*right, letter != row.published))
        samples[llm] = [
          records.Sample(
            text=row.response,
            answer=letter,
            latency_is='estimated',
            completion_tokens=max(1, round(len(row.response) / 4)),
          )
        ]
      yield records.Record(
        query_id=f'mmlu_pro/{number}',
        query=question.query(self._options.query_includes_options),
        task=next(rows[number].category for rows in by_llm.values() if number in rows),
        reference=question.reference,
        responses=samples,
        question=question.text if self._options.query_includes_options else '',
      )
    self.notes.append(_comparison(graded))
    for note in self.notes:
      _LOG.warning('%s', note)

  def _read(self, llm: str) -> dict[int, Row]:
    published = self._sources[llm]
    path = self._fetch()[published]
    try:
      rows, left_out = _read(path)
    except download.SourceError:
      if not published.sha256 and not self._options.manual_dir:
        path.unlink()  # nothing else tells that this download is not the file: the next run tries again
      raise
    download.remember(published, path, self._downloads)
    if absent := QUESTIONS - len(rows):
      self.notes.append(f'{llm} has no response to {absent:,} questions ({left_out:,} rows of its file are none).')
    return rows

  def _agreed_questions(self, by_llm: dict[str, dict[int, Row]]) -> dict[int, Question]:
    asked: dict[int, collections.Counter[Question]] = {}
    for rows in by_llm.values():
      for number, row in rows.items():
        asked.setdefault(number, collections.Counter())[row.question] += 1
    agreed = {number: variants.most_common(1)[0][0] for number, variants in asked.items()}
    missing = {llm: sum(row.question != agreed[number] for number, row in rows.items()) for llm, rows in by_llm.items()}
    if lost := [llm for llm, count in missing.items() if count == len(by_llm[llm])]:
      raise download.SourceError(f'all questions of {", ".join(lost)} differ from those of the other files')
    if differing := sum(len(variants) > 1 for variants in asked.values()):
      of = ', '.join(f'{count:,} of {llm}' for llm, count in missing.items() if count)
      self.notes.append(
        f'{differing:,} questions differ between the published files; responses to what fewer files say are missing: '
        f'{of}.'
      )
    return agreed


def _comparison(graded: dict[str, list[tuple[bool, bool, bool]]]) -> str:
  """Notes what grading the texts changed against the published answers."""
  parts = []
  for llm, rows in graded.items():
    ours, theirs, differ = (sum(column) for column in zip(*rows, strict=True))
    parts.append(f'{llm} {100 * ours / len(rows):.1f} (published {100 * theirs / len(rows):.1f}, {differ:,} differ)')
  return (
    'Answers are taken from the texts, not from the published letters: some of these were filled in where the text '
    f'gives none, others overlooked. Right by the text, in percent: {"; ".join(parts)}.'
  )
