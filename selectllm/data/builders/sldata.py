"""SLData: the authors' own files, in which several LLMs' ten answers to GSM8K and MMLU are recorded (PAPER: SLData)."""

import collections
import collections.abc
import hashlib
import logging
import pathlib
import re

import ml_collections

from selectllm.data import dataset, records, splits
from selectllm.data.builders import base, sldata_files

_LOG = logging.getLogger(__name__)

_FORM = 'sldata-v1'  # how the files are read: part of the identity of what is prepared from them
_FIRST_OPTION = re.compile(r'\s\(A\)\s')


class Builder(base.PoolBuilder):
  """The files that `config.dataset.path` names, of the task `config.dataset.task`, in their published splits.

  A question that stands in several rows stays in all of them, and an LLM without a list of answers is missing; the
  report says how many there are of both. Labels are made anew from the answers (the majority of those that are valid),
  and the report says how many differ from the published ones; in MMLU these count INVALID as an answer.
  """

  name = 'sldata'

  def __init__(self, config: ml_collections.ConfigDict, cache_dir: pathlib.Path):
    self._task, self._files = sldata_files.find(config.dataset.path, config.dataset.task)
    digests = (f'{name} {hashlib.sha256(file.read_bytes()).hexdigest()}' for name, file in sorted(self._files.items()))
    made_from = f'{self._task} {" ".join(digests)} {_FORM} {records.FORM}'
    super().__init__(
      identity=hashlib.sha256(made_from.encode()).hexdigest(),
      description=f'{self._task} in the files of {config.dataset.path}; there are no latencies.',
      data_dir=str(cache_dir),
    )

  def read_records(self) -> collections.abc.Iterator[records.Record]:
    """Reads training, validation and test queries, in the order of their files; `sldata_files.read` refuses some."""
    by_split = {split: self._read(split) for split in sldata_files.STEMS}
    all_rows = [row for rows in by_split.values() for row in rows]
    recorded = [self._record(row, number, split) for split, rows in by_split.items() for number, row in enumerate(rows)]
    self.notes += _repeated(all_rows) + _disagreements(recorded, [row.labels for row in all_rows])
    for note in self.notes:
      _LOG.warning('%s', note)
    yield from recorded

  def _read(self, split: str) -> list[sldata_files.Row]:
    stem = sldata_files.STEMS[split]
    rows, notes = sldata_files.read(self._files[f'{stem}_top.csv'], split, self._task)
    self.notes += notes
    if bottom := self._files.get(f'{stem}_bot.csv'):
      self.notes += sldata_files.join(rows, sldata_files.read(bottom, split, self._task)[0], stem)
    return rows

  def _record(self, row: sldata_files.Row, number: int, split: str) -> records.Record:
    return records.Record(
      query_id=f'{self._task}/{split}/{number}',
      query=row.query,
      task=row.subject or self._task,
      reference=row.reference,
      responses={llm: [records.Sample(answer=answer) for answer in given] for llm, given in row.answers.items()},
      question=_FIRST_OPTION.split(row.query, maxsplit=1)[0] if self._task == 'mmlu' else '',
      split=split,
    )


def _repeated(rows: list[sldata_files.Row]) -> list[str]:
  """Notes questions that stand in more than one row."""
  counts = collections.Counter((row.subject, splits.normalise(row.query)) for row in rows)
  repeated = sum(count > 1 for count in counts.values())
  return [f'{repeated:,} questions stand in more than one row; all rows are kept as published.'] if repeated else []


def _disagreements(recorded: list[records.Record], labels: list[dict[str, int]]) -> list[str]:
  """Notes where the labels that our pipeline makes of the answers differ from the published ones."""
  present = list(dict.fromkeys(llm for record in recorded for llm in record.responses))
  samples = max((len(given) for record in recorded for given in record.responses.values()), default=0)
  data = dataset.build(recorded, name=Builder.name, size=len(recorded), present=present, samples=samples)
  parts = []
  for column, llm in enumerate(data.llms):
    known = [(row, published[llm]) for row, published in enumerate(labels) if llm in published]
    if differing := sum(data.responses.labels[row, column] != label for row, label in known):
      parts.append(f'{differing:,} of {len(known):,} for {llm}')
  return [f'Labels recomputed from the answers differ from the published ones in {", ".join(parts)}.'] if parts else []
