"""The CSV files of SLData: where they lie, and what their rows say."""

import ast
import collections
import collections.abc
import csv
import dataclasses
import io
import logging
import pathlib
import re
import zipfile
import zlib
from importlib.resources import abc

from selectllm.data import records, splits
from selectllm.data.extractors import first_versions, option_letter

_LOG = logging.getLogger(__name__)

TASKS = ('gsm8k', 'mmlu')
# Split -> how the names of its files begin.
STEMS = {'train': 'train_all', 'validation': 'val_all', 'test': 'test_all'}
# Their names of the LLMs -> those of configs/pools/paper_gsm8k.yaml and paper_mmlu.yaml; others keep their own.
LLMS = {
  'gemma-7b_LM': 'gemma-7b',
  'gemma-7b-it_CHAT': 'gemma-7b-it',
  'llama2-7b-lm_LM': 'llama2-7b',
  'llama2-13b-chat_CHAT': 'llama2-13b-chat',
  'metamath-7b_LM': 'metamath-7b',
  'mistral-7b-lm_LM': 'mistral-7b',
  'mistral-7b-inst_CHAT': 'mistral-7b-instruct-v0.1',
}

_ANSWERS, _LABEL = 'auto_answers_maj_', 'maj_'  # columns of an LLM; maj_2, maj_2_model and so on are not used
_LABELS = {'0': 0, '0.0': 0, '1': 1, '1.0': 1}
# What Python writes into a list for numbers that no literal stands for.
_NOT_FINITE = re.compile(r'(?<=[\[ ])-?(?:inf|nan)(?=[,\]])')

File = abc.Traversable  # on disk or in an archive


@dataclasses.dataclass(slots=True)
class Row:
  """One row of a file.

  Attributes:
    query: The question, in MMLU with its options.
    subject: Of MMLU; empty for GSM8K.
    reference: The right answer, in canonical form.
    answers: LLM -> its samples' answers in canonical form, None for no answer.
    labels: LLM -> the published label, 1 where the majority of its answers is right.
  """

  query: str
  subject: str
  reference: str
  answers: dict[str, list[str | None]]
  labels: dict[str, int]


def find(path: str, task: str) -> tuple[str, dict[str, File]]:
  """Finds the files of a task, however deep they lie; those of MMLU are the ones with a column `subject`.

  Args:
    path: A folder, or an archive such as SLData.zip.
    task: One of `TASKS`, or empty for the one that is there.

  Returns:
    The task, and its files by name.

  Raises:
    FileNotFoundError: when there is no such path, or a file is missing.
    ValueError: when the path is neither folder nor archive, or holds not exactly one set of files of the task.
  """
  if task not in ('', *TASKS):
    raise ValueError(f'config.dataset.task={task!r} is not one of {", ".join(TASKS)}')
  if not path:
    raise ValueError('sldata needs --config.dataset.path=SLData.zip, or the folder that it was unpacked into')
  place = pathlib.Path(path).expanduser()
  if not place.exists():
    raise FileNotFoundError(f'config.dataset.path={path!r}: there is no such file or folder')
  if not place.is_dir() and not zipfile.is_zipfile(place):
    raise ValueError(f'config.dataset.path={path!r} is neither a folder nor a zip archive')
  found = []
  for folder, files in _folders(place if place.is_dir() else zipfile.Path(place)):
    header = _text(min(files.items())[1]).partition('\n')[0]
    found.append(('mmlu' if 'subject' in next(csv.reader([header.strip()]), []) else 'gsm8k', folder, files))
  fitting = [entry for entry in found if task in ('', entry[0])]
  if len(fitting) != 1:
    there = ', '.join(f'{kind} in {folder}' for kind, folder, _ in found) or 'none'
    wanted = f'the files of {task} once' if task else 'the files of one task, or --config.dataset.task must name it'
    raise ValueError(f'config.dataset.path={path!r} must hold {wanted}; there are: {there}')
  kind, folder, files = fitting[0]
  if missing := [name for stem in STEMS.values() if (name := f'{stem}_top.csv') not in files]:
    raise FileNotFoundError(f'{folder} lacks {", ".join(missing)}')
  return kind, files


def _folders(folder: File) -> collections.abc.Iterator[tuple[File, dict[str, File]]]:
  """Finds every folder that holds files of SLData, with these by name, but for what macOS adds to an archive."""
  names = {f'{stem}_{part}.csv' for stem in STEMS.values() for part in ('top', 'bot')}
  entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
  if files := {entry.name: entry for entry in entries if entry.name in names}:
    yield folder, files
  for entry in entries:
    if entry.is_dir() and entry.name != '__MACOSX':
      yield from _folders(entry)


def _text(file: File) -> str:
  try:
    return file.read_bytes().decode('utf-8-sig')
  except (UnicodeDecodeError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:  # the last: encrypted
    raise records.RecordError(f'{file} is damaged or no CSV file: {error}') from error


def read(file: File, split: str, task: str) -> tuple[list[Row], list[str]]:
  """Reads the rows of one file that belong to its split.

  The test file holds all rows, of which the column `split` marks the test rows. In the other two the file's name
  decides: GSM8K's validation rows were taken out of the training rows, and are still marked so.

  Returns:
    The rows, and a note where the name decided about rows that are marked as test rows.

  Raises:
    records.RecordError: names file, row (the header is row 1), column and value of what cannot be used.
  """
  reader = csv.DictReader(io.StringIO(_text(file), newline=''), strict=True)
  rows, number, marked_test = [], 1, 0
  try:
    llms = _llms(list(reader.fieldnames or []), file, task)
    for number, cells in enumerate(reader, start=2):
      where = f'{file}: row {number}'
      if None in cells or None in cells.values():
        raise records.RecordError(f'{where} does not have the {len(reader.fieldnames or [])} cells of the header')
      if (marked := cells['split'].strip()) not in ('train', 'val', 'test'):
        raise records.RecordError(f'{where}, column split must be train, val or test, not {marked!r:.80}')
      if split != 'test' or marked == 'test':
        rows.append(_row(cells, llms, task, where))
        marked_test += split != 'test' and marked == 'test'
  except csv.Error as error:
    raise records.RecordError(f'{file}: row {number + 1} is broken ({error})') from error
  if not any(row.answers for row in rows):
    raise records.RecordError(f'{file} holds no {"answers in its " if rows else ""}{split} rows')
  _LOG.info('%s: %d of %d rows are the %s split', file, len(rows), number - 1, split)
  note = (
    f'{marked_test:,} rows of {file.name} are marked as test rows; they were taken for {split} rows, as it is named.'
  )
  return rows, [note] if marked_test else []


def _llms(columns: list[str], file: File, task: str) -> dict[str, str]:
  """Maps the names of the LLMs in a file to ours; refuses a file that lacks a column."""
  llms = {
    (theirs := name.removeprefix(_ANSWERS)): LLMS.get(theirs, theirs) for name in columns if name.startswith(_ANSWERS)
  }
  needed = ['question', 'gold_answer', 'split', *(['subject'] if task == 'mmlu' else [])]
  needed += [_LABEL + name for name in llms]
  if missing := [name for name in needed if name not in columns]:
    raise records.RecordError(f'{file} lacks the columns {", ".join(missing)}; it has {", ".join(columns)}')
  if not llms:
    raise records.RecordError(f'{file} has no column {_ANSWERS}<LLM>; it has {", ".join(columns)}')
  for names in (columns, list(llms.values())):
    if twice := [name for name, count in collections.Counter(names).items() if count > 1]:
      raise records.RecordError(f'{file} has more than one column for {", ".join(twice)}')
  return llms


def _row(cells: dict[str, str], llms: dict[str, str], task: str, where: str) -> Row:
  """Checks one row; `llms` holds the names in the file and ours."""
  query, subject, gold = (cells.get(name, '').strip() for name in ('question', 'subject', 'gold_answer'))
  if not query or (task == 'mmlu' and not subject):
    raise records.RecordError(f'{where}, column {"subject" if query else "question"} is empty')
  reference = _canonical(gold, task)
  if reference is None:
    wanted = 'a number' if task == 'gsm8k' else 'a letter from A to J'
    raise records.RecordError(f'{where}, column gold_answer must be {wanted}, not {gold!r:.80}')
  row = Row(query, subject, reference, {}, {})
  for theirs, ours in llms.items():
    cell, label = cells[_ANSWERS + theirs].strip(), cells[_LABEL + theirs].strip()
    answers = _answers(cell, task, f'{where}, column {_ANSWERS}{theirs}') if cell else []
    if not answers:
      continue  # it was not asked: missing, which the report counts
    if label not in _LABELS:
      raise records.RecordError(f'{where}, column {_LABEL}{theirs} must be 0 or 1, not {label!r:.80}')
    row.answers[ours], row.labels[ours] = answers, _LABELS[label]
  return row


def _canonical(text: str, task: str) -> str | None:
  """Brings a number or an option letter into the form of our extractors; None for what is neither."""
  if task == 'gsm8k':
    return first_versions.canonical_number(text)
  letter = text.strip('(). ').upper()
  return letter if letter in option_letter.OPTIONS else None


def _answers(cell: str, task: str, where: str) -> list[str | None]:
  """Reads the answers of a stringified list.

  INVALID and empty texts are no answers. Any other text that is neither number nor letter stays as it stands: the
  authors' extractor took it for an answer, so it takes part in the vote, where it can only be wrong.
  """
  try:
    values = ast.literal_eval(_NOT_FINITE.sub(lambda match: repr(match[0]), cell))
  except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
    raise records.RecordError(f'{where} must be a list of answers, not {cell!r:.80}') from error
  if not isinstance(values, list) or not all(type(value) in (str, int, float) for value in values):
    raise records.RecordError(f'{where} must be a list of texts or numbers, not {cell!r:.80}')
  texts = [str(value).strip() for value in values]
  return [None if text in ('', 'INVALID') else _canonical(text, task) or text for text in texts]


def join(top: list[Row], bottom: list[Row], stem: str) -> list[str]:
  """Adds to the rows of a `_top` file, in place, the further LLMs of the `_bot` file beside it.

  The notebooks that wrote the files put the same rows into both, which differ in the order in which they combine LLMs
  (`maj_2` and so on, not used here). So the `_top` file decides which rows there are, and where both have answers of
  an LLM, what these are. Rows are the same that have the same subject, question and right answer; of several such, in
  their order.

  Returns:
    Notes on what was not taken over.
  """
  partners, alone, differ = _by_key(top), 0, 0
  for key, row in _by_key(bottom).items():
    partner = partners.get(key)
    if partner is None:
      alone += 1
      continue
    differ += sum(partner.answers[llm] != answers for llm, answers in row.answers.items() if llm in partner.answers)
    partner.answers = row.answers | partner.answers
    partner.labels = row.labels | partner.labels
  notes = []
  if alone:
    notes.append(f'{alone:,} rows of {stem}_bot.csv are not in {stem}_top.csv; they were left out.')
  if differ:
    notes.append(f'{differ:,} lists of answers differ between {stem}_top.csv and {stem}_bot.csv; the former were used.')
  return notes


def _by_key(rows: list[Row]) -> dict[tuple[str, str, str, int], Row]:
  seen: collections.Counter[tuple[str, str, str]] = collections.Counter()
  keyed = {}
  for row in rows:
    key = (row.subject, splits.normalise(row.query), row.reference)
    keyed[*key, seen[key]] = row
    seen[key] += 1
  return keyed
