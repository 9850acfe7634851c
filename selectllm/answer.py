"""The mode that answers new queries: scores them on the device, calls only the selected LLMs, and lets these vote.

A workdir holds the journal of all calls (`journal.jsonl`), one line for each query (`answers.jsonl`) and, where
references are known, a report. The same command goes on where the last one ended: it asks again for what
failed, and for nothing that was answered.
"""

import asyncio
import collections.abc
import functools
import json
import os
import pathlib
import sys
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import orjson
import uvloop

from selectllm import checkpoint, score, sharding, train, writer
from selectllm.data import grading
from selectllm.pool import answering, collect, collection, limits, queries, runner, spec
from selectllm.report import answered
from selectllm.selection import policies, voting

_REFUSALS = (*collect.REFUSALS, checkpoint.CheckpointError)


class Trained(NamedTuple):
  """The classifier of a finished run, and what it selects by.

  Attributes:
    llms: K names, the order of all arrays.
    model: On its mesh.
    params: Of the step with the lowest validation loss.
    selecting: Expected latencies, the one size, the threshold.
    policy: Name of the policy.
    over: What the vote is over, see `voting.vote`.
    cost_usd: What a call of each LLM cost when the run was trained, NaN where unknown.
    classifier_latency_s: Seconds from one query's text to its selection, measured when the run was trained.
  """

  llms: tuple[str, ...]
  model: train.Model
  params: Any
  selecting: score.Selecting
  policy: str
  over: str
  cost_usd: np.ndarray
  classifier_latency_s: float


class Scored(NamedTuple):
  """What the classifier says of one query: confidence and weight of every LLM, float32[K] each."""

  confidences: np.ndarray
  weight: np.ndarray


def answer(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
  """Runs the mode; returns 0 when every query has been answered by somebody, else an exit code that says why not."""
  try:
    run = pathlib.Path(config.answer.run)
    if workdir.resolve() == run.resolve():
      raise spec.PoolError(f'--workdir={str(workdir)!r} is config.answer.run, whose report would be replaced')
    collect.check_positive(config.answer, 'config.answer', 'samples', 'batch_size', 'at_once')
    trained = load_run(run, config)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop, sharding.use(trained.model.mesh):
      return loop.run(_answer(config, workdir, trained))
  except _REFUSALS as error:
    print(f'error: {error}', file=sys.stderr)
    return collect.REFUSED


def load_run(run: pathlib.Path, config: ml_collections.ConfigDict) -> Trained:
  """Loads the classifier that a run trained.

  Args:
    run: The run directory of a finished run without folds.
    config: `answer` holds the options, `mesh` says where to compute.

  Raises:
    FileNotFoundError: when the directory holds no finished run.
    spec.PoolError: for an option that there is not.
    checkpoint.CheckpointError: when its checkpoint cannot be read.
  """
  for name in ('config.json', 'report.json', 'predictions.npz'):
    if not (run / name).is_file():
      raise FileNotFoundError(f'config.answer.run={str(run)!r} is not a finished run: it has no {name}')
  report = json.loads((run / 'report.json').read_text())
  if report['dataset']['folds']:
    raise FileNotFoundError(f'config.answer.run={str(run)!r} cross-validated: it has a classifier for each fold')
  options, llms = config.answer, tuple(report['dataset']['llms'])
  if options.on_failure not in answering.ON_FAILURE:
    choices = ' or '.join(answering.ON_FAILURE)
    raise spec.PoolError(f'config.answer.on_failure must be {choices}, not {options.on_failure!r}')
  if options.policy not in policies.POLICIES:
    raise spec.PoolError(f'config.answer.policy={options.policy!r} is not one of {", ".join(policies.POLICIES)}')
  chosen = {row['name']: row['sizes'][0] for row in report['chosen']}
  size = options.size or chosen[options.policy]
  if not 1 <= size <= len(llms):
    raise spec.PoolError(f'config.answer.size={size}: the run knows {len(llms)} LLMs')
  trained_with = ml_collections.ConfigDict(json.loads((run / 'config.json').read_text()))
  trained_with.mesh = config.mesh
  model = train.make_model(trained_with, len(llms))
  with sharding.use(model.mesh):
    _, params = train.load_best(trained_with, model, run)
  with np.load(run / 'predictions.npz') as arrays:
    latency_s, classifier_latency_s = arrays['latency_s'][0], float(arrays['classifier_latency_s'])
  selecting = score.Selecting(latency_s, np.array([size], np.int32), trained_with.evaluate.threshold)
  costs = np.array([report['llms'][llm]['cost_usd'] for llm in llms], np.float32)
  vote = trained_with.evaluate.vote
  return Trained(llms, model, params, selecting, options.policy, vote, costs, classifier_latency_s)


async def _answer(config: ml_collections.ConfigDict, workdir: pathlib.Path, trained: Trained) -> int:
  options = config.answer
  extract = collect.extractor('config.answer.extractor', options.extractor)
  asked = queries.read(options.queries, options.manual_dir, extract, unlabelled=True)
  llms = _callable(trained, config.pool)
  extractors = dict.fromkeys(trained.llms, extract) | collect.own_extractors(llms)
  workdir.mkdir(parents=True, exist_ok=True)
  recorded = collection.Collection(workdir / collection.journal_name(), config.collect.salvage)
  lines: dict[str, dict[str, Any]] = {}
  interrupted: list[int] = []
  progress = writer.Progress('Answering', len(asked))
  scored: dict[str, Scored] = {}
  try:
    recorded.check_queries(asked)
    collect.refuse(collect.plan_calls(llms, asked, options.samples, recorded)[1])
    asking = runner.Runner(recorded, llms)
    with collect.stop_on_signals(asking, interrupted, options.drain_s):
      async with asking:
        collect.refuse(await asking.problems([llm.name for llm in llms]))
        selections = _selections(trained, asked, [llm.name for llm in llms], options.batch_size, scored)
        try:
          async for called in answering.call_selected(
            asking, selections, samples=options.samples, on_failure=options.on_failure, at_once=options.at_once
          ):
            query = called.selection.query
            lines[query.query_id] = _line(called, scored.pop(query.query_id), trained, extractors)
            progress.update(len(lines))
        except limits.Stopped as stopped:
          print(f'stopped: {stopped}; the same command goes on', file=sys.stderr)
  finally:
    progress.close()
    recorded.journal.close()
  in_order = [lines[query.query_id] for query in asked if query.query_id in lines]
  _write_lines(workdir / 'answers.jsonl', in_order)
  answered.write(workdir, in_order, _run_facts(trained, len(asked)))
  if interrupted:
    return 128 + interrupted[0]
  return 0 if len(lines) == len(asked) and not any(line['unanswered'] for line in in_order) else collect.INCOMPLETE


def _callable(trained: Trained, pool: ml_collections.ConfigDict) -> list[spec.LLM]:
  """The LLMs that may be called: all that the run knows, or those of them that `config.pool.llms` names."""
  known = spec.read_pool(pool.file).llms
  wanted = pool.llms or trained.llms
  if strange := [llm for llm in wanted if llm not in trained.llms]:
    raise spec.PoolError(f'config.pool.llms names {", ".join(strange)}; the run knows {", ".join(trained.llms)}')
  if absent := [llm for llm in wanted if llm not in known]:
    raise spec.PoolError(
      f'{pool.file} lacks {", ".join(absent)}, which the run may select; add them, or name the LLMs to select from '
      'with --config.pool.llms'
    )
  return [known[llm] for llm in wanted]


async def _selections(
  trained: Trained, asked: list[queries.Query], llms: list[str], batch_size: int, scored: dict[str, Scored]
) -> collections.abc.AsyncIterator[answering.Selection]:
  """Selects batch by batch, on the device, while the queries of earlier batches are being called."""
  available = np.isin(trained.llms, llms)
  for start in range(0, len(asked), batch_size):
    batch = asked[start : start + batch_size]
    scores = await asyncio.to_thread(_score, trained, [query.query for query in batch], available, batch_size)
    selection = scores.selections[trained.policy]
    for query, confidences, mask, weight in zip(
      batch, scores.confidences, selection.mask[:, 0], selection.weight[:, 0], strict=True
    ):
      order = [place for place in np.argsort(-confidences, kind='stable') if available[place]]
      scored[query.query_id] = Scored(confidences, weight)
      yield answering.Selection(
        query,
        tuple(trained.llms[place] for place in order if mask[place]),
        tuple(trained.llms[place] for place in order if not mask[place]),
      )


def _score(trained: Trained, texts: list[str], available: np.ndarray, batch_size: int) -> score.Scores:
  tokens, rows = trained.model.tokenize(texts), np.arange(len(texts))
  mask = np.broadcast_to(available, (len(texts), len(available)))
  with sharding.use(trained.model.mesh):  # a thread has a mesh of its own
    return train.score_queries(
      trained.model, trained.params, tokens, rows, mask, batch_size=batch_size, selecting=trained.selecting
    )


@functools.partial(jax.jit, static_argnames='over')
def _vote(answers, mask, weight, latency_s, over):
  return voting.vote(answers, mask, weight, latency_s, over=over), voting.majority(answers)


def _line(
  called: answering.Called, scored: Scored, trained: Trained, extractors: dict[str, grading.Extractor]
) -> dict[str, Any]:
  """What is written of one query."""
  query = called.selection.query
  samples = max(len(responses) for responses in called.responses.values())
  answers = np.full((len(trained.llms), samples), voting.NO_ANSWER, np.int16)
  ids: dict[str, int] = {}
  calls = {}
  for llm, responses in called.responses.items():
    given = [None if response.text is None else extractors[llm](response.text) for response in responses]
    place = trained.llms.index(llm)
    answers[place] = [voting.NO_ANSWER if text is None else ids.setdefault(text, len(ids)) for text in given]
    calls[llm] = _call(responses, given, float(scored.confidences[place]))
  mask = np.isin(trained.llms, [llm for llm, call in calls.items() if call['error'] is None])
  elected, majority = jax.device_get(_vote(answers, mask, scored.weight, trained.selecting.latency_s, trained.over))
  if query.reference is not None:
    right = majority == ids.get(query.reference, len(ids))
    for llm, call in calls.items():
      call['correct'] = None if call['error'] else bool(right[trained.llms.index(llm)])
  text = None if elected == voting.NO_ANSWER else list(ids)[elected]
  # An LLM called in another's place begins when that one has failed: along a chain, seconds add up.
  seconds = [sum(calls[llm]['latency_s'] or calls[llm]['failed_after_s'] or 0.0 for llm in c) for c in called.chains]
  costs = [call['cost_usd'] for call in calls.values()]
  return {
    'query_id': query.query_id,
    'query': query.query,
    'answer': text,
    'reference': query.reference,
    'correct': text == query.reference if query.reference is not None and mask.any() else None,
    'selected': list(called.selection.llms),
    'calls': calls,
    'failed': called.failed(),
    'unanswered': not mask.any(),
    'confidences': {llm: round(float(c), 6) for llm, c in zip(trained.llms, scored.confidences, strict=True)},
    'latency_parallel_s': max(seconds),
    'latency_sequential_s': sum(seconds),
    'cost_usd': None if None in costs else sum(costs),
  }


def _call(responses: list[collection.Response], given: list[str | None], confidence: float) -> dict[str, Any]:
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


def _write_lines(path: pathlib.Path, lines: list[dict[str, Any]]) -> None:
  partial = path.with_name(path.name + '.part')
  partial.write_bytes(b''.join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines))
  os.replace(partial, path)


def _run_facts(trained: Trained, asked: int) -> answered.Facts:
  return answered.Facts(
    llms=trained.llms,
    policy=trained.policy,
    size=int(trained.selecting.sizes[0]),
    asked=asked,
    expected_latency_s=trained.selecting.latency_s,
    expected_cost_usd=trained.cost_usd,
    classifier_latency_s=trained.classifier_latency_s,
  )
