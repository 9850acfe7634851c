"""Response records as arrays: from here on, everything can live on a device."""

import collections.abc
import math
from typing import NamedTuple

import numpy as np

from selectllm.data import grading, pool_file, records, splits
from selectllm.selection import voting


class Responses(NamedTuple):
  """What K LLMs answered to N queries, S samples each.

  Attributes:
    answers: int16[N, K, S], ids that mean something only within one query; -1 where there is no answer.
    reference: int16[N], the right answer's id; -1 where it is unknown, or only scores are known.
    labels: float32[N, K], 1 where the majority of an LLM's samples is right (or its score); 0 where missing.
    observed: bool[N, K], false where an LLM is missing: masked out of losses and metrics.
    latency_s: float32[N, K], seconds of the call (its slowest sample); NaN where unknown.
    cost_usd: float32[N, K], dollars of the call (all samples); NaN where unknown.
    task: int16[N], index of the query's task.
  """

  answers: np.ndarray
  reference: np.ndarray
  labels: np.ndarray
  observed: np.ndarray
  latency_s: np.ndarray
  cost_usd: np.ndarray
  task: np.ndarray

  @property
  def has_answers(self) -> bool:
    """Whether there is something to vote with; false for scores-only data."""
    return self.answers.shape[2] > 0

  def rows(self, index: np.ndarray) -> 'Responses':
    """The votes of some queries, by index or mask."""
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


class _Grader:
  """Answers and references as the record holds them, or extracted from the raw text once more."""

  def __init__(self, extractor: str):
    self._extract = grading.get_extractor(extractor) if extractor else None
    self._name = extractor

  def answer(self, sample: records.Sample) -> str | None:
    if not self._extract:
      return sample.answer
    if sample.answer is not None and not sample.text:  # all that was kept of the response
      return grading.canonical_reference(sample.answer, self._name)
    return self._extract(sample.text)

  def reference(self, record: records.Record) -> str:
    if record.reference is None:
      raise records.RecordError(
        f'query {record.query_id!r} has no reference, so nothing says which responses are right; '
        "--config.dataset.labels=agreement lets the pool's own vote say it"
      )
    if not self._extract:
      return record.reference
    canonical = grading.canonical_reference(record.reference, self._name)
    if canonical is None:
      raise records.RecordError(
        f'query {record.query_id!r}: {self._name} finds no answer in its reference {record.reference!r}'
      )
    return canonical


def _call_latency_s(observed: list[records.Sample], llm: pool_file.LLM) -> tuple[float, str]:
  """Seconds of a call, and where they are from: the slowest sample's; where none was recorded, estimated from its
  length or, where that is unknown too, the LLM's published mean.
  """
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
  """What a mixture of latencies must be called: as the weakest evidence in it."""
  return max(kinds, key=records.LATENCY_KINDS.index, default='unknown')


def join(
  data: Dataset,
  llm: str,
  given: collections.abc.Mapping[int, collections.abc.Sequence[records.Sample]],
  *,
  pool: pool_file.Pool | None = None,
  extractor: str = '',
) -> Dataset:
  """The table with one LLM more, the last one, that was asked some of the queries.

  Args:
    data: N queries, with answers.
    llm: The LLM's name.
    given: Row -> its samples, none of which failed.
    pool: Facts that latencies and costs follow from.
    extractor: See `build`.
  """
  facts = pool.facts(llm) if pool else pool_file.LLM(llm)
  grader = _Grader(extractor and ((facts.endpoint and facts.endpoint.extractor) or extractor))
  size, _, samples = data.responses.answers.shape
  most = max(samples, *map(len, given.values()))
  answers = np.full((size, len(data.llms) + 1, most), voting.NO_ANSWER, np.int16)
  answers[:, :-1, :samples] = data.responses.answers
  observed = np.zeros(size, bool)
  latency_s, cost_usd = np.full((2, size), np.nan, np.float32)
  texts, kinds = list(data.answers), {data.latency_is}
  for row, observations in given.items():
    observed[row] = True
    latency_s[row], kind = _call_latency_s(list(observations), facts)
    cost_usd[row] = _call_cost_usd(list(observations), facts)
    kinds.add(kind)
    ids = {text: place for place, text in enumerate(texts[row])}
    for place, sample in enumerate(observations):
      answer = grader.answer(sample)
      if answer is not None:
        answers[row, -1, place] = ids.setdefault(answer, len(ids))
    texts[row] = tuple(ids)
  own = np.asarray(voting.majorities(answers))[:, -1]
  observed &= data.responses.reference != voting.NO_ANSWER
  right = (own == data.responses.reference) & observed & (own != voting.NO_ANSWER)
  columns = {'labels': right.astype(np.float32), 'observed': observed, 'latency_s': latency_s, 'cost_usd': cost_usd}
  old = data.responses
  votes = old._replace(
    answers=answers,
    **{name: np.concatenate([getattr(old, name), column[:, None]], 1) for name, column in columns.items()},
  )
  assumed = (*data.sizes_assumed, llm) if facts.parameters_assumed else data.sizes_assumed
  return data._replace(
    llms=(*data.llms, llm), responses=votes, latency_is=weakest(kinds), sizes_assumed=assumed, answers=texts
  )


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
    responses.RecordError: for a reference from which the extractor takes no answer, or none where one is needed.
  """
  chosen = _choose_llms(llms, present, pool)
  facts = [pool.facts(llm) if pool else pool_file.LLM(llm) for llm in chosen]
  own = [fact.endpoint.extractor if fact.endpoint else None for fact in facts]
  graders = [_Grader(extractor and (name or extractor)) for name in own]
  grader, count = _Grader(extractor), len(chosen)
  votes = Responses(
    answers=np.full((size, count, samples), voting.NO_ANSWER, np.int16),
    reference=np.full(size, voting.NO_ANSWER, np.int16),
    labels=np.zeros((size, count), np.float32),
    observed=np.zeros((size, count), bool),
    latency_s=np.full((size, count), np.nan, np.float32),
    cost_usd=np.full((size, count), np.nan, np.float32),
    task=np.zeros(size, np.int16),
  )
  tasks: dict[str, int] = {}
  query_ids, queries, questions, kinds = [], [], [], set()
  texts: list[tuple[str, ...]] = []
  published_split = np.full(size, -1, np.int8)
  for row, record in enumerate(recorded):
    if bool(record.scores) == bool(samples):
      raise ValueError(
        f'query {record.query_id!r} has {"scores" if samples else "no scores"}: '
        'the queries of a data set hold either responses or scores, all of them the same'
      )
    query_ids.append(record.query_id)
    queries.append(record.query)
    questions.append(record.question or record.query)
    if record.split:
      published_split[row] = splits.NAMES.index(record.split)
    votes.task[row] = tasks.setdefault(record.task, len(tasks))
    ids: dict[str, int] = {}  # by first appearance, so that an id tells nothing about which answer is right
    for column, llm in enumerate(chosen):
      if llm in record.scores:
        votes.labels[row, column], votes.observed[row, column] = record.scores[llm], True
        kinds.add('unknown')
      observed = [sample for sample in record.responses.get(llm, ()) if sample.error is None]
      if not observed:
        continue
      votes.observed[row, column] = True
      votes.latency_s[row, column], kind = _call_latency_s(observed, facts[column])
      votes.cost_usd[row, column] = _call_cost_usd(observed, facts[column])
      kinds.add(kind)
      for place, sample in enumerate(observed):
        answer = graders[column].answer(sample)
        if answer is not None:
          votes.answers[row, column, place] = ids.setdefault(answer, len(ids))
    if samples and not (unlabelled and record.reference is None):
      votes.reference[row] = ids.setdefault(grader.reference(record), len(ids))
    texts.append(tuple(ids))
  if samples:
    if not (votes.answers != voting.NO_ANSWER).any():
      raise ValueError(
        f'no response of {name} has an answer; have them extracted from the texts with '
        f'--config.dataset.extractor={"|".join(grading.EXTRACTORS)}'
      )
    majority = np.asarray(voting.majorities(votes.answers))
    votes.labels[:] = (majority == votes.reference[:, None]) & (majority != voting.NO_ANSWER)
  assumed = tuple(fact.name for fact in facts if fact.parameters_assumed)
  return Dataset(
    name=name,
    llms=chosen,
    tasks=tuple(tasks),
    query_ids=query_ids,
    queries=queries,
    responses=votes,
    latency_is=weakest(kinds),
    sizes_assumed=assumed,
    questions=questions,
    answers=texts,
    published_split=published_split,
  )
