"""Response records as arrays: from here on, everything can live on a device."""

import collections
import collections.abc
import difflib
import math
from typing import NamedTuple

import numpy as np

from selectllm.data import grade_audit, grading, pool_file, records, splits
from selectllm.infra.typing import Array

NO_ANSWER = -1
# The right answer of a query whose responses were all judged wrong: known, and given by nobody.
_NOBODY = -2
# Of a prompt that nobody counted the tokens of; what was asked is at least the query.
_CHARACTERS_PER_TOKEN = 4


def is_right(answer: Array, accepted: Array) -> Array:
  """Tells which answers are right, bool[...].

  Args:
    answer: int[...], ids of answers; -1, no answer, is never right.
    accepted: int[..., R], ids of the right answers; negative ones fill up.
  """
  return ((answer[..., None] == accepted) & (accepted != NO_ANSWER)).any(-1)


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
    accepted: int16[N, R], ids of the right answers, filled up with -1; all -1 where it is unknown what is right, or
      only scores are known. See `is_right`.
    labels: float32[N, K], 1 where the majority of an LLM's samples is right (or its score); 0 where missing.
    observed: bool[N, K], false where an LLM is missing: masked out of losses and metrics.
    latency_s: float32[N, K], seconds of the call (its slowest sample); NaN where unknown.
    cost_usd: float32[N, K], dollars of the call (all samples); NaN where unknown.
    completion_tokens: float32[N, K], tokens written, the mean of the call's samples; NaN where unknown.
    task: int16[N], index of the query's task.
  """

  answers: np.ndarray
  majority: np.ndarray
  accepted: np.ndarray
  labels: np.ndarray
  observed: np.ndarray
  latency_s: np.ndarray
  cost_usd: np.ndarray
  completion_tokens: np.ndarray
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
    answers: For each query the answers that the ids of `responses.answers` and `responses.accepted` stand for.
    published_split: int8[N], the split that each query was published in; -1 for none.
    notes: What a reader of any result must know about the data.
    latency_model: By which formula latencies are estimated, in words; empty where none is.
    audits: Of each LLM, in whose wrong responses a right answer may have been overlooked; empty without responses.
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
  latency_model: str = ''
  audits: tuple[grade_audit.Audit, ...] = ()


def _folded(name: str) -> str:
  return ''.join(name.casefold().split())


def _choose_llms(
  wanted: collections.abc.Sequence[str], present: list[str], pool: pool_file.Pool | None
) -> tuple[str, ...]:
  if wanted:
    if absent := [llm for llm in wanted if llm not in present]:
      folded = {_folded(llm): llm for llm in present}
      near = difflib.get_close_matches(_folded(absent[0]), folded, n=1)
      hint = f'; did you mean {folded[near[0]]!r}?' if near else ''
      raise ValueError(
        f'config.pool.llms names {", ".join(absent)}, which the data lack; present: {", ".join(present)}{hint}'
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


def _call_latency_s(observed: list[records.Sample], llm: pool_file.LLM, query: str) -> tuple[float, str]:
  """Returns seconds and kind of a call: its slowest sample's, as recorded, else by length, else the published mean.

  Of a prompt whose tokens are not known, the query's are counted.
  """
  kinds, slowest = set(), 0.0
  for sample in observed:
    latency, kind = sample.latency_s, sample.latency_is
    if latency is None and sample.completion_tokens is not None:
      asked = len(query) / _CHARACTERS_PER_TOKEN if sample.prompt_tokens is None else sample.prompt_tokens
      latency, kind = llm.estimated_latency_s(asked, sample.completion_tokens), 'estimated'
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


class _Query:
  """The answers to one query, while they are read.

  Attributes:
    text: Of the query.
    ids: Answer -> its id, by first appearance, so that an id tells nothing about which answer is right.
    verdicts: Id -> what was judged of the responses that gave the answer.
  """

  def __init__(self, text: str, answers: collections.abc.Iterable[str] = ()):
    self.text = text
    self.ids = {answer: place for place, answer in enumerate(answers)}
    self.verdicts: dict[int, list[bool]] = {}

  def add(self, answer: str, verdict: bool | None) -> int:
    """Takes an answer in, and returns its id."""
    place = self.ids.setdefault(answer, len(self.ids))
    if verdict is not None:
      self.verdicts.setdefault(place, []).append(verdict)
    return place

  @property
  def judged(self) -> bool:
    """Tells whether verdicts alone say of every answer that was given whether it is right."""
    return bool(self.ids) and len(self.verdicts) == len(self.ids)

  @property
  def disputed(self) -> int:
    """Returns how many answers were judged right in one response and wrong in another."""
    return sum(0 < sum(given) < len(given) for given in self.verdicts.values())

  def named(self, ids: collections.abc.Collection[int]) -> list[str]:
    """Returns the answers that have these ids."""
    return [answer for answer, place in self.ids.items() if place in ids]

  def accept(self, references: collections.abc.Iterable[str]) -> list[int]:
    """Returns the ids of the right answers: verdicts decide where there are any (most of them, if they differ)."""
    accepted = dict.fromkeys(self.add(reference, None) for reference in references)
    for place, given in self.verdicts.items():
      if 2 * sum(given) > len(given):
        accepted[place] = None
      else:
        accepted.pop(place, None)
    return list(accepted) or [_NOBODY]


def _stack(accepted: collections.abc.Sequence[collections.abc.Sequence[int]]) -> np.ndarray:
  """Returns the ids of right answers as `Responses.accepted`."""
  stacked = np.full((len(accepted), max(map(len, accepted), default=0) or 1), NO_ANSWER, np.int16)
  for row, ids in enumerate(accepted):
    stacked[row, : len(ids)] = ids
  return stacked


class _Grader:
  """Grades the calls of one LLM: takes answers as recorded, or extracts them from the raw texts once more.

  Attributes:
    llm: The facts about the LLM.
    estimates: Whether any latency was estimated from its speed.
    wrong: How many of the responses that were checked are graded wrong.
    overlooked: Row and sample of those in which the reference stands at the end.
  """

  def __init__(self, llm: pool_file.LLM, extractor: str):
    self.llm, self.estimates, self.wrong = llm, False, 0
    self.overlooked: list[tuple[int, int]] = []
    self._name = extractor and ((llm.endpoint and llm.endpoint.extractor) or extractor)
    self._extract = grading.get_extractor(self._name) if self._name else None

  def _answer(self, sample: records.Sample, query: _Query) -> str | None:
    if not self._extract:
      # What was judged was the text, whether it is right or wrong.
      return (sample.text or None) if sample.answer is None and sample.correct is not None else sample.answer
    if sample.answer is not None and not sample.text:  # all that was kept of the response
      return grading.canonical_reference(sample.answer, self._name)
    answer = self._extract(sample.text, query.text)
    return None if answer is None else grading.known_as(answer, query.ids, self._extract)

  def grade(self, responses: Responses, row: int, column: int, samples: list[records.Sample], query: _Query) -> str:
    """Writes one call into the arrays, gives new answers the next ids, and returns where the latency is from."""
    responses.observed[row, column] = True
    responses.latency_s[row, column], kind = _call_latency_s(samples, self.llm, query.text)
    responses.cost_usd[row, column] = _call_cost_usd(samples, self.llm)
    written = [sample.completion_tokens for sample in samples]
    responses.completion_tokens[row, column] = np.mean(np.array(written, np.float32))  # NaN for None
    self.estimates |= kind == 'estimated' and any(sample.latency_s is None for sample in samples)
    for place, sample in enumerate(samples):
      answer = self._answer(sample, query)
      if answer is not None:
        responses.answers[row, column, place] = query.add(answer, sample.correct)
    return kind

  def check(
    self,
    row: int,
    samples: collections.abc.Sequence[records.Sample],
    given: list[int],
    accepted: list[int],
    right: list[str],
  ) -> None:
    """Looks for right answers in those responses to one query that are graded wrong.

    Args:
      row: The query's.
      samples: The responses.
      given: The ids of their answers.
      accepted: The ids of right answers.
      right: The references; without any there is nothing to look for.
    """
    for place, sample in enumerate(samples if right else ()):
      if sample.text and given[place] not in accepted:
        self.wrong += 1
        if grade_audit.stands_at_the_end(sample.text, right):
          self.overlooked.append((row, place))


def _latency_model(graders: collections.abc.Iterable[_Grader]) -> str:
  """Returns by which formula latencies were estimated, in words; nothing where none was."""
  estimated = [grader.llm for grader in graders if grader.estimates]
  if not estimated:
    return ''
  own = [llm.name for llm in estimated if llm.has_own_speed]
  return estimated[0].latency_model.in_words() + (f'; {", ".join(own)} at speeds of their own' if own else '')


def _alike(present: collections.abc.Iterable[str], pool: pool_file.Pool | None) -> str:
  """Returns a hint at names that differ only by case or blanks, in the data or from those of the pool file."""
  names: dict[str, dict[str, None]] = collections.defaultdict(dict)
  for name in (*present, *(pool.llms if pool else ())):
    names[_folded(name)][name] = None
  pairs = [' and '.join(map(repr, of)) for of in names.values() if len(of) > 1]
  return f'Names that differ only by case or blanks stand for different LLMs: {"; ".join(pairs)}.' if pairs else ''


def _notes(disputed: int, present: collections.abc.Iterable[str], pool: pool_file.Pool | None) -> tuple[str, ...]:
  """Returns what a reader must know about names and verdicts."""
  verdicts = f'{disputed:,} answers were judged right in one response and wrong in another: most of them decide.'
  return tuple(filter(None, (verdicts if disputed else '', _alike(present, pool))))


def _audits(graders: collections.abc.Iterable[_Grader]) -> tuple[grade_audit.Audit, ...]:
  return tuple(grade_audit.Audit(grader.wrong, tuple(grader.overlooked)) for grader in graders)


def _empty(size: int, llms: int, samples: int) -> Responses:
  return Responses(
    answers=np.full((size, llms, samples), NO_ANSWER, np.int16),
    majority=np.full((size, llms), NO_ANSWER, np.int16),
    accepted=np.full((size, 1), NO_ANSWER, np.int16),
    labels=np.zeros((size, llms), np.float32),
    observed=np.zeros((size, llms), bool),
    latency_s=np.full((size, llms), np.nan, np.float32),
    cost_usd=np.full((size, llms), np.nan, np.float32),
    completion_tokens=np.full((size, llms), np.nan, np.float32),
    task=np.zeros(size, np.int16),
  )


def _judge(responses: Responses) -> None:
  """Takes majorities and labels from the answers; an LLM without an answer is never right."""
  responses.majority[:] = majorities(responses.answers)
  responses.labels[:] = is_right(responses.majority, responses.accepted[:, None])


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
  new = _empty(len(old.labels), 1, max(old.answers.shape[2], *map(len, given.values())))
  texts, kinds = list(data.answers), {data.latency_is}
  accepted = [[place for place in ids if place != NO_ANSWER] for ids in old.accepted.tolist()]
  for row, samples in given.items():
    query = _Query(data.queries[row], texts[row])
    kinds.add(grader.grade(new, row, 0, list(samples), query))
    fresh = [place for place in query.accept(()) if place >= len(texts[row])]  # others are judged already
    accepted[row] += fresh if accepted[row] else []
    texts[row] = tuple(query.ids)
    grader.check(row, samples, new.answers[row, 0].tolist(), accepted[row], query.named(accepted[row]))
  new = new._replace(accepted=_stack(accepted))
  _judge(new)
  new.observed[:] &= (new.accepted != NO_ANSWER).any(1, keepdims=True)
  new.labels[:] *= new.observed
  wider = ((0, 0), (0, 0), (0, new.answers.shape[2] - old.answers.shape[2]))
  old = old._replace(answers=np.pad(old.answers, wider, constant_values=NO_ANSWER))
  columns = ('answers', 'majority', 'labels', 'observed', 'latency_s', 'cost_usd', 'completion_tokens')
  joined = {name: np.concatenate([getattr(old, name), getattr(new, name)], 1) for name in columns}
  return data._replace(
    llms=(*data.llms, llm),
    responses=old._replace(accepted=new.accepted, **joined),
    latency_is=weakest(kinds),
    latency_model=data.latency_model or _latency_model([grader]),
    sizes_assumed=(*data.sizes_assumed, llm) if grader.llm.parameters_assumed else data.sizes_assumed,
    answers=texts,
    audits=(*data.audits, *_audits([grader])),
  )


def _accepted(record: records.Record, row: int, query: _Query, extractor: str, unlabelled: bool) -> list[int]:
  """Returns the ids of the right answers to a query; none where it is not known which are right."""
  if not record.references and not query.judged:
    if unlabelled:
      return []
    raise records.RecordError(
      f'query {record.query_id!r} has no reference, nor all of its responses a verdict (`correct`), so nothing says '
      "which responses are right; --config.dataset.labels=agreement lets the pool's own vote say it"
    )
  return query.accept(
    _canonical(reference, f'record {row + 1}, query {record.query_id!r}', query, extractor)
    for reference in record.references
  )


def _canonical(reference: str, where: str, query: _Query, extractor: str) -> str:
  if not extractor:
    return reference
  canonical = grading.canonical_reference(reference, extractor)
  if canonical is None:
    raise records.RecordError(
      f'{where}: its reference {reference!r} is no answer as {extractor} gives them, so no response could ever be right'
    )
  return grading.known_as(canonical, query.ids, grading.get_extractor(extractor))


def _observed(record: records.Record, grader: _Grader) -> list[records.Sample]:
  return [sample for sample in record.responses.get(grader.llm.name, ()) if sample.error is None]


def _grade_record(
  responses: Responses, row: int, record: records.Record, graders: list[_Grader]
) -> tuple[_Query, set[str]]:
  """Writes all calls of one query into the arrays, and returns its answers and where latencies are from.

  Raises:
    ValueError: for scores among answers, or answers among scores.
  """
  samples = responses.answers.shape[2]
  if bool(record.scores) == bool(samples):
    raise ValueError(
      f'query {record.query_id!r} has {"scores" if samples else "no scores"}: '
      'the queries of a data set hold either responses or scores, all of them the same'
    )
  query, kinds = _Query(record.query), set()
  for column, grader in enumerate(graders):
    if grader.llm.name in record.scores:
      responses.labels[row, column], responses.observed[row, column] = record.scores[grader.llm.name], True
      kinds.add('unknown')
    if given := _observed(record, grader):
      kinds.add(grader.grade(responses, row, column, given, query))
  return query, kinds


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
  published_split, kinds, accepted, disputed = np.full(size, -1, np.int8), set(), [], 0
  for row, record in enumerate(recorded):
    query, of_record = _grade_record(responses, row, record, graders)
    kinds |= of_record
    accepted.append(_accepted(record, row, query, extractor, unlabelled) if samples else [])
    disputed += query.disputed
    right = query.named(accepted[-1]) if record.references else []
    for column, grader in enumerate(graders):
      grader.check(row, _observed(record, grader), responses.answers[row, column].tolist(), accepted[-1], right)
    if record.split:
      published_split[row] = splits.NAMES.index(record.split)
    responses.task[row] = tasks.setdefault(record.task, len(tasks))
    query_ids.append(record.query_id)
    queries.append(record.query)
    questions.append(record.question or record.query)
    texts.append(tuple(query.ids))
  responses = responses._replace(accepted=_stack(accepted))
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
    notes=_notes(disputed, present, pool),
    latency_model=_latency_model(graders),
    audits=_audits(graders) if samples else (),
  )
