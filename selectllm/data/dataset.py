"""Response records as arrays: from here on, everything can live on a device."""

import collections.abc
import math
from typing import NamedTuple

import numpy as np

from selectllm.data import grading, pool_file, records, splits

NO_ANSWER = -1


def majorities(answers: np.ndarray) -> np.ndarray:
  """Returns each LLM's majority answer, int16[N, K], of its samples int16[N, K, S]; -1 where there is none.

  It is the answer given most often; of equals, the one that was given that often first.
  """
  majority = np.full(answers.shape[:2], NO_ANSWER, np.int16)
  most = np.zeros(answers.shape[:2], int)
  for place in range(answers.shape[2]):
    newest = answers[..., place]
    count = np.sum(answers[..., : place + 1] == newest[..., None], -1) * (newest != NO_ANSWER)
    majority = np.where(count > most, newest, majority)
    most = np.maximum(count, most)
  return majority


class Responses(NamedTuple):
  """The answers of K LLMs to N queries, S samples each.

  Attributes:
    answers: int16[N, K, S], ids that mean something only within one query; -1 where there is no answer.
    majority: int16[N, K], see `majorities`.
    reference: int16[N], the right answer's id; -1 where it is unknown, or only scores are known.
    labels: float32[N, K], 1 where the majority of an LLM's samples is right (or its score); 0 where missing.
    observed: bool[N, K], false where an LLM is missing: masked out of losses and metrics.
    latency_s: float32[N, K], seconds of the call (its slowest sample); NaN where unknown.
    cost_usd: float32[N, K], dollars of the call (all samples); NaN where unknown.
    task: int16[N], index of the query's task.
  """

  answers: np.ndarray
  majority: np.ndarray
  reference: np.ndarray
  labels: np.ndarray
  observed: np.ndarray
  latency_s: np.ndarray
  cost_usd: np.ndarray
  task: np.ndarray

  @property
  def has_answers(self) -> bool:
    """Tells whether there is something to vote with; false for scores-only data."""
    return self.answers.shape[2] > 0

  def ballots(self, over: str) -> np.ndarray:
    """Returns the answers that vote, int16[N, K, 1 or S]: the majorities, or all samples where `over` says so."""
    return self.majority[..., None] if over == 'majority' else self.answers

  def rows(self, index: np.ndarray) -> 'Responses':
    """Returns the responses to some queries, by index or mask."""
    return Responses(*(array[index] for array in self))


class Dataset(NamedTuple):
  """A data set in memory: the queries' texts and what the pool answered.

  Attributes:
    name: The data set's name, for titles.
    llms: K names, the order of all arrays.
    tasks: Names that `responses.task` points to.
    query_ids: N ids.
    queries: N texts.
    responses: The arrays.
    latency_is: `measured`, `published`, `estimated` or `unknown`: the weakest kind among all calls.
    sizes_assumed: LLMs whose size, from which latencies are estimated, is itself assumed.
    in_place_of: The data set that was asked for and could not be had; empty when this is the one.
    questions: N texts whose hashes decide the splits; the queries themselves unless they say otherwise.
    answers: For each query the answers that the ids of `responses.answers` and `responses.reference` stand for.
    published_split: int8[N], the split that each query was published in; -1 for none.
    notes: What a reader of any result must know about the data.
  """

  name: str
  llms: tuple[str, ...]
  tasks: tuple[str, ...]
  query_ids: list[str]
  queries: list[str]
  responses: Responses
  latency_is: str
  sizes_assumed: tuple[str, ...] = ()
  in_place_of: str = ''
  questions: collections.abc.Sequence[str] = ()
  answers: collections.abc.Sequence[tuple[str, ...]] = ()
  published_split: np.ndarray = np.zeros(0, np.int8)
  notes: tuple[str, ...] = ()


def _choose_llms(
  wanted: collections.abc.Sequence[str], present: list[str], pool: pool_file.Pool | None
) -> tuple[str, ...]:
  if wanted:
    if absent := [llm for llm in wanted if llm not in present]:
      raise ValueError(
        f'config.pool.llms names {", ".join(absent)}, which the data lack; present: {", ".join(present)}'
      )
    if len(set(wanted)) < len(wanted):
      raise ValueError(f'config.pool.llms names an LLM twice: {", ".join(wanted)}')
    chosen = tuple(wanted)
  else:
    listed = [llm for llm in pool.llms if llm in present] if pool else []
    chosen = (*listed, *sorted(set(present) - set(listed)))
  if len(chosen) < 2:
    raise ValueError(
      f'a pool of one has nothing to select from: {", ".join(chosen)}; the data hold {", ".join(present)}'
    )
  return chosen


def _call_latency_s(observed: list[records.Sample], llm: pool_file.LLM) -> tuple[float, str]:
  """Returns seconds and kind of a call: its slowest sample's, as recorded, else by length, else the published mean."""
  kinds, slowest = set(), 0.0
  for sample in observed:
    latency, kind = sample.latency_s, sample.latency_is
    if latency is None and sample.completion_tokens is not None:
      latency, kind = llm.estimated_latency_s(sample.completion_tokens), 'estimated'
    if latency is None:
      latency, kind = llm.published_latency_s, 'published'
    if latency is None:
      return math.nan, 'unknown'
    kinds.add(kind)
    slowest = max(slowest, latency)
  return slowest, weakest(kinds)


def _call_cost_usd(observed: list[records.Sample], llm: pool_file.LLM) -> float:
  costs = [
    math.nan
    if (s.prompt_tokens is None or s.completion_tokens is None)
    else llm.cost_usd(s.prompt_tokens, s.completion_tokens)
    for s in observed
  ]
  return math.nan if None in costs else math.fsum(costs)  # type: ignore[arg-type]


def weakest(kinds: collections.abc.Collection[str]) -> str:
  """Returns the kind that a mixture of latencies is of: that of its weakest evidence."""
  return max(kinds, key=records.LATENCY_KINDS.index, default='unknown')


class _Grader:
  """Grades the calls of one LLM: takes answers as recorded, or extracts them from the raw texts once more.

  Attributes:
    llm: The facts about the LLM.
  """

  def __init__(self, llm: pool_file.LLM, extractor: str):
    self.llm = llm
    self._name = extractor and ((llm.endpoint and llm.endpoint.extractor) or extractor)
    self._extract = grading.get_extractor(self._name) if self._name else None

  def _answer(self, sample: records.Sample) -> str | None:
    if not self._extract:
      return sample.answer
    if sample.answer is not None and not sample.text:  # all that was kept of the response
      return grading.canonical_reference(sample.answer, self._name)
    return self._extract(sample.text)

  def grade(
    self, responses: Responses, row: int, column: int, samples: list[records.Sample], ids: dict[str, int]
  ) -> str:
    """Writes one call into the arrays, gives new answers the next ids, and returns where the latency is from."""
    responses.observed[row, column] = True
    responses.latency_s[row, column], kind = _call_latency_s(samples, self.llm)
    responses.cost_usd[row, column] = _call_cost_usd(samples, self.llm)
    for place, sample in enumerate(samples):
      answer = self._answer(sample)
      if answer is not None:
        responses.answers[row, column, place] = ids.setdefault(answer, len(ids))
    return kind


def _empty(size: int, llms: int, samples: int) -> Responses:
  return Responses(
    answers=np.full((size, llms, samples), NO_ANSWER, np.int16),
    majority=np.full((size, llms), NO_ANSWER, np.int16),
    reference=np.full(size, NO_ANSWER, np.int16),
    labels=np.zeros((size, llms), np.float32),
    observed=np.zeros((size, llms), bool),
    latency_s=np.full((size, llms), np.nan, np.float32),
    cost_usd=np.full((size, llms), np.nan, np.float32),
    task=np.zeros(size, np.int16),
  )


def _judge(responses: Responses) -> None:
  """Takes majorities and labels from the answers; an LLM without an answer is never right."""
  responses.majority[:] = majorities(responses.answers)
  right = responses.majority == responses.reference[:, None]
  responses.labels[:] = right & (responses.majority != NO_ANSWER)


def join(
  data: Dataset,
  llm: str,
  given: collections.abc.Mapping[int, collections.abc.Sequence[records.Sample]],
  *,
  pool: pool_file.Pool | None = None,
  extractor: str = '',
) -> Dataset:
  """Adds one LLM, the last one, that was asked some of the queries.

  Args:
    data: N queries, with answers.
    llm: The LLM's name.
    given: Row -> its samples, none of which failed.
    pool: Facts that latencies and costs follow from.
    extractor: See `build`.

  Returns:
    The data set. As from `build`, but that the LLM counts as unobserved where there is no reference to judge it by.
  """
  old, grader = data.responses, _Grader(pool.facts(llm) if pool else pool_file.LLM(llm), extractor)
  new = _empty(len(old.reference), 1, max(old.answers.shape[2], *map(len, given.values())))
  new.reference[:] = old.reference
  texts, kinds = list(data.answers), {data.latency_is}
  for row, samples in given.items():
    ids = {text: place for place, text in enumerate(texts[row])}
    kinds.add(grader.grade(new, row, 0, list(samples), ids))
    texts[row] = tuple(ids)
  _judge(new)
  known = old.reference[:, None] != NO_ANSWER
  new.observed[:] &= known
  new.labels[:] *= new.observed
  wider = ((0, 0), (0, 0), (0, new.answers.shape[2] - old.answers.shape[2]))
  old = old._replace(answers=np.pad(old.answers, wider, constant_values=NO_ANSWER))
  columns = ('answers', 'majority', 'labels', 'observed', 'latency_s', 'cost_usd')
  joined = {name: np.concatenate([getattr(old, name), getattr(new, name)], 1) for name in columns}
  return data._replace(
    llms=(*data.llms, llm),
    responses=old._replace(**joined),
    latency_is=weakest(kinds),
    sizes_assumed=(*data.sizes_assumed, llm) if grader.llm.parameters_assumed else data.sizes_assumed,
    answers=texts,
  )


def _canonical_reference(record: records.Record, extractor: str) -> str:
  if record.reference is None:
    raise records.RecordError(
      f'query {record.query_id!r} has no reference, so nothing says which responses are right; '
      "--config.dataset.labels=agreement lets the pool's own vote say it"
    )
  if not extractor:
    return record.reference
  canonical = grading.canonical_reference(record.reference, extractor)
  if canonical is None:
    raise records.RecordError(
      f'query {record.query_id!r}: {extractor} finds no answer in its reference {record.reference!r}'
    )
  return canonical


def _grade_record(
  responses: Responses, row: int, record: records.Record, graders: list[_Grader]
) -> tuple[dict[str, int], set[str]]:
  """Writes all calls of one query into the arrays, and returns the ids of answers and where latencies are from.

  Raises:
    ValueError: for scores among answers, or answers among scores.
  """
  samples = responses.answers.shape[2]
  if bool(record.scores) == bool(samples):
    raise ValueError(
      f'query {record.query_id!r} has {"scores" if samples else "no scores"}: '
      'the queries of a data set hold either responses or scores, all of them the same'
    )
  ids: dict[str, int] = {}  # by first appearance, so that an id tells nothing about which answer is right
  kinds = set()
  for column, grader in enumerate(graders):
    if grader.llm.name in record.scores:
      responses.labels[row, column], responses.observed[row, column] = record.scores[grader.llm.name], True
      kinds.add('unknown')
    if given := [sample for sample in record.responses.get(grader.llm.name, ()) if sample.error is None]:
      kinds.add(grader.grade(responses, row, column, given, ids))
  return ids, kinds


def build(
  recorded: collections.abc.Iterable[records.Record],
  *,
  name: str,
  size: int,
  present: list[str],
  samples: int,
  llms: collections.abc.Sequence[str] = (),
  pool: pool_file.Pool | None = None,
  extractor: str = '',
  unlabelled: bool = False,
) -> Dataset:
  """Fills the arrays record by record.

  Args:
    recorded: `size` response records.
    name: The data set's name.
    size: N.
    present: Names of all LLMs in the records.
    samples: The most samples that any call has, S.
    llms: Which LLMs to keep, in this order; empty for all (the pool file's order first).
    pool: Facts that latencies and costs follow from.
    extractor: Grade the raw texts again with this extractor, or with an LLM's own where the pool file names one (where
      there is no text, the recorded answer); empty to take the recorded answers.
    unlabelled: Whether queries may lack a reference; no response to such a query is labelled as right.

  Raises:
    ValueError: for LLMs that the data lack, a pool of one, or records that mix answers and scores.
    records.RecordError: for a reference from which the extractor takes no answer, or none where one is needed.
  """
  chosen = _choose_llms(llms, present, pool)
  graders = [_Grader(pool.facts(llm) if pool else pool_file.LLM(llm), extractor) for llm in chosen]
  responses = _empty(size, len(chosen), samples)
  tasks: dict[str, int] = {}
  query_ids, queries, questions, texts = [], [], [], []
  published_split, kinds = np.full(size, -1, np.int8), set()
  for row, record in enumerate(recorded):
    ids, of_record = _grade_record(responses, row, record, graders)
    kinds |= of_record
    if samples and not (unlabelled and record.reference is None):
      responses.reference[row] = ids.setdefault(_canonical_reference(record, extractor), len(ids))
    if record.split:
      published_split[row] = splits.NAMES.index(record.split)
    responses.task[row] = tasks.setdefault(record.task, len(tasks))
    query_ids.append(record.query_id)
    queries.append(record.query)
    questions.append(record.question or record.query)
    texts.append(tuple(ids))
  if samples:
    if not (responses.answers != NO_ANSWER).any():
      raise ValueError(
        f'no response of {name} has an answer; have them extracted from the texts with '
        f'--config.dataset.extractor={"|".join(grading.EXTRACTORS)}'
      )
    _judge(responses)
  return Dataset(
    name=name,
    llms=chosen,
    tasks=tuple(tasks),
    query_ids=query_ids,
    queries=queries,
    responses=responses,
    latency_is=weakest(kinds),
    sizes_assumed=tuple(grader.llm.name for grader in graders if grader.llm.parameters_assumed),
    questions=questions,
    answers=texts,
    published_split=published_split,
  )
