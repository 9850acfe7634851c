"""Stands between the calls for queries, which speak of names and texts, and a decider, which sees arrays."""

import asyncio
import collections.abc
import dataclasses
import math
from typing import Any

import jax
import numpy as np

from selectllm.client import dispatch, store
from selectllm.data import grading, queries
from selectllm.selection import voting
from selectllm.serve import decider


@dataclasses.dataclass(slots=True)
class QueryState:
  """A query that is being worked on.

  Attributes:
    query: The query.
    state: Of the decider, before any call, without the dimension N.
    revealed: What its calls have brought, likewise.
    given: LLM -> the answers in its samples, None for a sample without.
    ids: Answer -> its id, in the order in which they came up.
  """

  query: queries.Query
  state: decider.State
  revealed: decider.Revealed
  given: dict[str, list[str | None]] = dataclasses.field(default_factory=dict)
  ids: dict[str, int] = dataclasses.field(default_factory=dict)


class Session:
  """Queries that a decider answers, from their selection to the line that is written of each."""

  def __init__(
    self,
    rule: decider.Decider,
    llms: list[str],
    extractors: dict[str, grading.Extractor],
    *,
    samples: int,
    batch_size: int,
    abstain_below: float,
  ):
    """Prepares a session; nothing is scored yet.

    Args:
      rule: Chooses the calls.
      llms: Those of its LLMs that may be called.
      extractors: LLM -> what reads an answer from its responses.
      samples: Responses of each called LLM.
      batch_size: Queries that are scored, or decided, together.
      abstain_below: Answers less likely right than this are set aside.
    """
    self._rule, self._extractors = rule, extractors
    self._samples, self._batch_size, self._abstain_below = samples, batch_size, abstain_below
    self._available = np.isin(rule.llms, llms)
    self._decide = decider.DynamicBatcher(rule.decide, batch_size)
    self._queries: dict[str, QueryState] = {}

  async def selections(self, asked: list[queries.Query]) -> collections.abc.AsyncIterator[dispatch.Selection]:
    """Scores and selects batch by batch, on the device, while the queries of earlier batches are being called."""
    for start in range(0, len(asked), self._batch_size):
      batch = asked[start : start + self._batch_size]
      texts = [query.query for query in batch]
      states = await asyncio.to_thread(self._rule.score, texts, self._available, batch_size=self._batch_size)
      for row, query in enumerate(batch):
        self._queries[query.query_id] = QueryState(query, decider.row(states, row), self._nothing())
      for query, llms in zip(batch, await asyncio.gather(*(self.decide(q.query_id, {}) for q in batch)), strict=True):
        others = self._available & ~np.isin(self._rule.llms, llms) & (not self._rule.in_stages)
        yield dispatch.Selection(query, llms, self._by_confidence(self._queries[query.query_id], others))

  def _nothing(self) -> decider.Revealed:
    count = len(self._rule.llms)
    answers = np.full((count, self._samples), voting.NO_ANSWER, np.int16)
    return decider.Revealed(answers, np.zeros(count, bool), self._available.copy())

  async def decide(self, query_id: str, responses: dispatch.Responses) -> tuple[str, ...]:
    """Returns the LLMs to call next for a query."""
    query = self._queries[query_id]
    self._reveal(query, responses)
    return self._by_confidence(query, await self._decide(query.state, query.revealed))

  async def finish(self, called: dispatch.Called) -> dict[str, Any]:
    """Returns what is written of a query whose calls have all ended."""
    query = self._queries.pop(called.selection.query.query_id)
    self._reveal(query, called.responses)
    finished, majority = await asyncio.to_thread(self._finish, query)
    confidences = dict(zip(self._rule.llms, query.state.confidences.tolist(), strict=True))
    calls = {
      llm: _call(responses, query.given[llm], confidences[llm])
      | {'correct': _is_right(query, responses, majority[llm])}
      for llm, responses in called.responses.items()
    }
    return {
      'query_id': query.query.query_id,
      'query': query.query.query,
      **_verdict(query, finished, self._abstain_below),
      'selected': list(called.selection.llms),
      'stages': [list(stage) for stage in called.stages],
      'calls': calls,
      'failed': called.failed(),
      'confidences': {llm: round(confidence, 6) for llm, confidence in confidences.items()},
      **_totals(called, calls),
    }

  def _by_confidence(self, query: QueryState, mask: np.ndarray) -> tuple[str, ...]:
    order = np.argsort(-query.state.confidences, kind='stable')
    return tuple(self._rule.llms[place] for place in order if mask[place])

  def _reveal(self, query: QueryState, responses: dispatch.Responses) -> None:
    """Reads the responses that are new."""
    for llm in [llm for llm in responses if llm not in query.given]:
      place, extract, samples = self._rule.llms.index(llm), self._extractors[llm], responses[llm]
      query.given[llm] = given = [self._read(query, sample.text, extract) for sample in samples]
      ids = [voting.NO_ANSWER if text is None else query.ids[text] for text in given]
      query.revealed.answers[place] = ids
      query.revealed.called[place] = query.revealed.available[place] = not dispatch.has_failed(samples)

  @staticmethod
  def _read(query: QueryState, text: str | None, extract: grading.Extractor) -> str | None:
    """Reads the answer of a response, as it is known already or by a new id."""
    answer = None if text is None else extract(text, query.query.query)
    if answer is None:
      return None
    reference = [query.query.reference] if query.query.reference is not None else []
    answer = grading.known_as(answer, [*query.ids, *reference], extract)
    query.ids.setdefault(answer, len(query.ids))
    return answer

  def _finish(self, query: QueryState) -> tuple[decider.Finished, dict[str, int]]:
    """Returns a query's answer, without the dimension N, and each LLM's majority answer."""
    finished = self._rule.finish(decider.stack([query.state]), decider.stack([query.revealed]))
    majority = np.asarray(_majority(query.revealed.answers)).tolist()
    return decider.row(finished, 0), dict(zip(self._rule.llms, majority, strict=True))


_majority = jax.jit(voting.majority)


def _is_right(query: QueryState, responses: list[store.Response], majority: int) -> bool | None:
  """Returns whether an LLM's majority answer is right; None for a failure, or where there is no reference."""
  if query.query.reference is None or dispatch.has_failed(responses):
    return None
  return majority == query.ids.get(query.query.reference, len(query.ids))


def _verdict(query: QueryState, finished: decider.Finished, abstain_below: float) -> dict[str, Any]:
  """Returns a query's answer, and what is known of its being right; an answer that is too unsure is set aside."""
  text = None if finished.answer == voting.NO_ANSWER else list(query.ids)[finished.answer]
  responded = bool(query.revealed.called.any())
  likely = round(float(finished.p_right), 6) if responded and not math.isnan(finished.p_right) else None
  abstained = likely is not None and likely < abstain_below
  reference = query.query.reference
  graded = reference is not None and responded and not abstained
  return {
    'answer': None if abstained else text,
    'p_right': likely,
    'abstained': abstained,
    'answer_unsure': text if abstained else None,
    'reference': reference,
    'correct': text == reference if graded else None,
    'unanswered': not responded,
  }


def _call(responses: list[store.Response], given: list[str | None], confidence: float) -> dict[str, Any]:
  """Returns one LLM's part in a line: a call asks for all samples at once, its latency is the slowest sample's."""
  good = [response for response in responses if response.error is None]
  costs = [None if r.cost_usd is None and r.error is None else (r.cost_usd or 0.0) + r.lost_usd for r in responses]
  return {
    'answers': given,
    'confidence': round(confidence, 6),
    'latency_s': max((response.latency_s for response in good if response.latency_s is not None), default=None),
    'failed_after_s': None if good else max((r.elapsed_s for r in responses if r.elapsed_s is not None), default=None),
    'cost_usd': None if None in costs else sum(c for c in costs if c is not None),
    'error': None if good else responses[0].error,
  }


def _totals(called: dispatch.Called, calls: dict[str, dict[str, Any]]) -> dict[str, Any]:
  """Returns what a query's calls took together."""
  took = {
    llm: call['failed_after_s'] if call['latency_s'] is None else call['latency_s'] for llm, call in calls.items()
  }
  known = {llm: seconds for llm, seconds in took.items() if seconds is not None}
  costs = [call['cost_usd'] for call in calls.values()]
  wall_clock_s = compute_s = None
  if len(known) == len(took):
    # An LLM called in another's place begins when that one has failed, and a stage when the one before has ended.
    wall_clock_s = sum(max(sum(known[one] for one in called.chain(llm)) for llm in stage) for stage in called.stages)
    compute_s = sum(known.values())
  return {
    'wall_clock_s': wall_clock_s,
    'compute_s': compute_s,
    'cost_usd': None if None in costs else sum(costs),
  }
