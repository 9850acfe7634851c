"""The mode that answers new queries: scores them on the device, calls only chosen LLMs, and makes one answer of theirs.

A workdir holds the journal of all calls (`journal.jsonl`), one line for each query (`answers.jsonl`) and, where
references are known, a report. The same command goes on where the last one ended: it asks again for what
failed, and for nothing that was answered.
"""

import asyncio
import collections.abc
import dataclasses
import math
import operator
import pathlib
import sys
from typing import Any

import jax
import ml_collections
import numpy as np
import orjson
import uvloop

from selectllm.client import dispatch, rate_limits, runner, store
from selectllm.data import grading, pool_file, queries
from selectllm.infra import metric_writer, paths
from selectllm.modes import collect
from selectllm.report import answers
from selectllm.selection import voting
from selectllm.serve import decider, fixed_policy, selector
from selectllm.train import checkpoints

_REFUSALS = (*collect.REFUSALS, checkpoints.CheckpointError, selector.SelectorError)


def answer(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
  """Runs the mode; returns 0 when every query has been answered by somebody, else an exit code that says why not."""
  try:
    options = config.answer
    if bool(options.run) == bool(options.selector):
      raise pool_file.PoolError('name either config.answer.selector (RUN/selector) or config.answer.run')
    chosen_by = pathlib.Path(options.run or options.selector).resolve()
    if workdir.resolve() in (chosen_by, chosen_by.parent if options.selector else chosen_by):
      name = 'config.answer.run' if options.run else 'the run of config.answer.selector'
      raise pool_file.PoolError(f'--workdir={str(workdir)!r} is {name}, whose report would be replaced')
    collect.check_positive(options, 'config.answer', 'samples', 'batch_size', 'at_once')
    if not 0 <= options.abstain_below <= 1:
      raise pool_file.PoolError(f'config.answer.abstain_below must be from 0 to 1, not {options.abstain_below}')
    rule = (
      selector.load(options.selector, options.limit, config.mesh) if options.selector else fixed_policy.load_run(config)
    )
    return answer_with(rule, config, workdir)
  except _REFUSALS as error:
    print(f'error: {error}', file=sys.stderr)
    return collect.REFUSED


def answer_with(rule: decider.Decider, config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
  """Answers the queries that the config names with the calls that a rule chooses.

  Args:
    rule: What chooses the calls.
    config: `answer` and `pool` hold the options.
    workdir: Takes all files; goes on where an earlier run ended.

  Returns:
    0 when every query has been answered by somebody, else an exit code that says why not.

  Raises:
    One of `collect.REFUSALS`, before any call, for what cannot be asked.
  """
  with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
    return loop.run(_answer(rule, config, workdir))


async def _answer(rule: decider.Decider, config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
  options = config.answer
  extract = collect.extractor('config.answer.extractor', options.extractor)
  asked = queries.read(options.queries, options.manual_dir, extract, unlabelled=True)
  llms = _callable(rule.llms, config.pool)
  extractors = dict.fromkeys(rule.llms, extract) | collect.own_extractors(llms)
  workdir.mkdir(parents=True, exist_ok=True)
  recorded = store.Collection(workdir / store.journal_name(), config.collect.salvage)
  lines: dict[str, dict[str, Any]] = {}
  interrupted: list[int] = []
  progress = metric_writer.Progress('Answering', len(asked))
  desk = _Session(rule, [llm.name for llm in llms], extractors, options)
  try:
    recorded.check_queries(asked)
    collect.refuse(collect.plan_calls(llms, asked, options.samples, recorded)[1])
    asking = runner.Runner(recorded, llms)
    with collect.stop_on_signals(asking, interrupted, options.drain_s):
      async with asking:
        collect.refuse(await asking.problems([llm.name for llm in llms]))
        try:
          async for called in dispatch.call_selected(
            asking,
            desk.selections(asked),
            samples=options.samples,
            on_failure=options.on_failure,
            at_once=options.at_once,
            decide=desk.decide if rule.in_stages else None,
          ):
            lines[called.selection.query.query_id] = await desk.finish(called)
            progress.update(len(lines))
        except rate_limits.Stopped as stopped:
          print(f'stopped: {stopped}; the same command goes on', file=sys.stderr)
  finally:
    progress.close()
    recorded.journal.close()
  in_order = [lines[query.query_id] for query in asked if query.query_id in lines]
  _write_lines(workdir / 'answers.jsonl', in_order)
  answers.write(workdir, in_order, rule.facts(len(asked)))
  if interrupted:
    return 128 + interrupted[0]
  return 0 if len(lines) == len(asked) and not any(line['unanswered'] for line in in_order) else collect.INCOMPLETE


def _callable(known: tuple[str, ...], pool: ml_collections.ConfigDict) -> list[pool_file.LLM]:
  """The LLMs that may be called: all that the run knows, or those of them that `config.pool.llms` names."""
  in_pool = pool_file.read_pool(pool.file).llms
  wanted = pool.llms or known
  if strange := [llm for llm in wanted if llm not in known]:
    raise pool_file.PoolError(f'config.pool.llms names {", ".join(strange)}; the run knows {", ".join(known)}')
  if absent := [llm for llm in wanted if llm not in in_pool]:
    raise pool_file.PoolError(
      f'{pool.file} lacks {", ".join(absent)}, which the run may select; add them, or name the LLMs to select from '
      'with --config.pool.llms'
    )
  return [in_pool[llm] for llm in wanted]


@dataclasses.dataclass(slots=True)
class _QueryState:
  """A query that is being worked on.

  Attributes:
    query: The query.
    state: What is known of it before any call, without the dimension N.
    revealed: What its calls have brought, likewise.
    given: LLM -> the answers in its samples, None for a sample without.
    ids: Answer -> its id, in the order in which they came up.
  """

  query: queries.Query
  state: decider.State
  revealed: decider.Revealed
  given: dict[str, list[str | None]] = dataclasses.field(default_factory=dict)
  ids: dict[str, int] = dataclasses.field(default_factory=dict)


class _Session:
  """Between the calls, which speak of names and texts, and the rule, which sees arrays."""

  def __init__(
    self,
    rule: decider.Decider,
    llms: list[str],
    extractors: dict[str, grading.Extractor],
    options: ml_collections.ConfigDict,
  ):
    """Takes the rule, the LLMs that may be called, what reads their responses, and `config.answer`."""
    self._rule, self._extractors, self._options = rule, extractors, options
    self._available = np.isin(rule.llms, llms)
    self._together = decider.DynamicBatcher(rule.decide, options.batch_size)
    self._cases: dict[str, _QueryState] = {}

  async def selections(self, asked: list[queries.Query]) -> collections.abc.AsyncIterator[dispatch.Selection]:
    """Scores and selects batch by batch, on the device, while the queries of earlier batches are being called."""
    size, shape = self._options.batch_size, (len(self._rule.llms), self._options.samples)
    for start in range(0, len(asked), size):
      batch = asked[start : start + size]
      texts = [query.query for query in batch]
      states = await asyncio.to_thread(self._rule.score, texts, self._available, batch_size=size)
      for row, query in enumerate(batch):
        nothing = np.full(shape, voting.NO_ANSWER, np.int16), np.zeros(shape[0], bool), self._available.copy()
        state = jax.tree.map(operator.itemgetter(row), states)
        self._cases[query.query_id] = _QueryState(query, state, decider.Revealed(*nothing))
      for query, llms in zip(batch, await asyncio.gather(*(self.decide(q.query_id, {}) for q in batch)), strict=True):
        others = self._available & ~np.isin(self._rule.llms, llms) & (not self._rule.in_stages)
        yield dispatch.Selection(query, llms, self._by_confidence(self._cases[query.query_id], others))

  async def decide(self, query_id: str, responses: dispatch.Responses) -> tuple[str, ...]:
    """The LLMs to call next for a query."""
    case = self._cases[query_id]
    self._reveal(case, responses)
    return self._by_confidence(case, await self._together(case.state, case.revealed))

  async def finish(self, called: dispatch.Called) -> dict[str, Any]:
    """What is written of a query whose calls have all ended."""
    case = self._cases.pop(called.selection.query.query_id)
    self._reveal(case, called.responses)
    answer_id, p_right, majority = await asyncio.to_thread(self._finish, case)
    calls = {
      llm: _call(responses, case.given[llm], float(case.state.confidences[self._rule.llms.index(llm)]))
      for llm, responses in called.responses.items()
    }
    if case.query.reference is not None:
      right = majority == case.ids.get(case.query.reference, len(case.ids))
      for llm, call in calls.items():
        call['correct'] = None if call['error'] else bool(right[self._rule.llms.index(llm)])
    return {
      'query_id': case.query.query_id,
      'query': case.query.query,
      **_verdict(case, answer_id, p_right, self._options.abstain_below),
      'selected': list(called.selection.llms),
      'stages': [list(stage) for stage in called.stages],
      'calls': calls,
      'failed': called.failed(),
      'confidences': {llm: round(float(c), 6) for llm, c in zip(self._rule.llms, case.state.confidences, strict=True)},
      **_account(called, calls),
    }

  def _by_confidence(self, case: _QueryState, mask: np.ndarray) -> tuple[str, ...]:
    order = np.argsort(-case.state.confidences, kind='stable')
    return tuple(self._rule.llms[place] for place in order if mask[place])

  def _reveal(self, case: _QueryState, responses: dispatch.Responses) -> None:
    """Reads the responses that are new."""
    for llm in [llm for llm in responses if llm not in case.given]:
      place, extract, samples = self._rule.llms.index(llm), self._extractors[llm], responses[llm]
      case.given[llm] = given = [None if sample.text is None else extract(sample.text) for sample in samples]
      ids = [voting.NO_ANSWER if text is None else case.ids.setdefault(text, len(case.ids)) for text in given]
      case.revealed.answers[place] = ids
      case.revealed.called[place] = not dispatch.has_failed(samples)
      case.revealed.available[place] = case.revealed.called[place]

  def _finish(self, case: _QueryState) -> tuple[int, float, np.ndarray]:
    """The id of a query's answer, how likely it is right, and each LLM's majority answer, int32[K]."""
    state, revealed = jax.tree.map(lambda array: np.asarray(array)[None], (case.state, case.revealed))
    finished = self._rule.finish(state, revealed)
    return int(finished.answer[0]), float(finished.p_right[0]), jax.device_get(_majority(case.revealed.answers))


_majority = jax.jit(voting.majority)


def _verdict(case: _QueryState, answer_id: int, p_right: float, abstain_below: float) -> dict[str, Any]:
  """A query's answer, and what is known of its being right; an answer that is too unsure is set aside."""
  text = None if answer_id == voting.NO_ANSWER else list(case.ids)[answer_id]
  responded = bool(case.revealed.called.any())
  likely = round(p_right, 6) if responded and not math.isnan(p_right) else None
  abstained = likely is not None and likely < abstain_below
  graded = case.query.reference is not None and responded and not abstained
  return {
    'answer': None if abstained else text,
    'p_right': likely,
    'abstained': abstained,
    'answer_unsure': text if abstained else None,
    'reference': case.query.reference,
    'correct': text == case.query.reference if graded else None,
    'unanswered': not responded,
  }


def _call(responses: list[store.Response], given: list[str | None], confidence: float) -> dict[str, Any]:
  """One LLM's part in a line: a call asks for all samples at once, its latency is the slowest sample's."""
  good = [response for response in responses if response.error is None]
  costs = [None if r.cost_usd is None and r.error is None else (r.cost_usd or 0.0) + r.lost_usd for r in responses]
  return {
    'answers': given,
    'confidence': round(confidence, 6),
    'latency_s': max((response.latency_s for response in good if response.latency_s is not None), default=None),
    'failed_after_s': None if good else max((r.elapsed_s for r in responses if r.elapsed_s is not None), default=None),
    'cost_usd': None if None in costs else sum(c for c in costs if c is not None),
    'error': None if good else responses[0].error,
    'correct': None,
  }


def _account(called: dispatch.Called, calls: dict[str, dict[str, Any]]) -> dict[str, Any]:
  """What a query's calls took together."""
  took = {llm: call['latency_s'] or call['failed_after_s'] or 0.0 for llm, call in calls.items()}
  # An LLM called in another's place begins when that one has failed, and a stage when the one before has ended.
  stages = [max(sum(took[one] for one in called.chain(llm)) for llm in stage) for stage in called.stages]
  costs = [call['cost_usd'] for call in calls.values()]
  return {
    'latency_parallel_s': sum(stages),
    'latency_sequential_s': sum(took.values()),
    'cost_usd': None if None in costs else sum(costs),
  }


def _write_lines(path: pathlib.Path, lines: list[dict[str, Any]]) -> None:
  with paths.atomic_write(path) as partial:
    partial.write_bytes(b''.join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines))
