"""Answers new queries: scores them on the device, calls only chosen LLMs, and makes one answer of theirs.

A workdir holds the journal of all calls (`journal.jsonl`), one line for each query (`answers.jsonl`) and, where
references are known, a report. The same command goes on where the last one ended: it asks again for what
failed, and for nothing that was answered.
"""

import contextlib
import pathlib
import sys
from typing import Any

import ml_collections
import orjson

from selectllm.client import command, dispatch, preflight, rate_limits, runner, store
from selectllm.data import pool_file, queries
from selectllm.evaluate import results
from selectllm.infra import metric_writer, paths, run_dir
from selectllm.report import answers
from selectllm.serve import decider, fixed_policy, selector, session
from selectllm.train import checkpoints

_REFUSALS = (
  *command.REFUSALS,
  run_dir.RunDirError,
  results.ResultsError,
  checkpoints.CheckpointError,
  selector.SelectorError,
)


def answer(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
  """Runs the mode; returns 0 when every query has been answered by somebody, else an exit code that says why not."""
  try:
    options = config.answer
    _check(options, workdir)
    if options.selector:
      rule: decider.Decider = selector.load(options.selector, options.limit, config.mesh)
    else:
      rule = fixed_policy.load(pathlib.Path(options.run), options.policy, options.size, config.mesh)
    return answer_with(rule, config, workdir)
  except _REFUSALS as error:
    return command.refused(error)


def _check(options: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Raises `pool_file.PoolError` for invalid options."""
  if bool(options.run) == bool(options.selector):
    raise pool_file.PoolError('name either config.answer.selector (RUN/selector) or config.answer.run')
  chosen_by = pathlib.Path(options.run or options.selector).resolve()
  if workdir.resolve() in (chosen_by, chosen_by.parent if options.selector else chosen_by):
    name = 'config.answer.run' if options.run else 'the run of config.answer.selector'
    raise pool_file.PoolError(f'--workdir={str(workdir)!r} is {name}, whose report would be replaced')
  preflight.check_positive(options, 'config.answer', 'samples', 'batch_size', 'at_once')
  if options.on_failure not in dispatch.ON_FAILURE:
    choices = ' or '.join(dispatch.ON_FAILURE)
    raise pool_file.PoolError(f'config.answer.on_failure must be {choices}, not {options.on_failure!r}')
  if not 0 <= options.abstain_below <= 1:
    raise pool_file.PoolError(f'config.answer.abstain_below must be from 0 to 1, not {options.abstain_below}')
  if options.run and options.abstain_below:
    raise pool_file.PoolError(
      f'config.answer.abstain_below={options.abstain_below} needs to know how likely an answer is right, which '
      f'{options.policy} does not say'
    )


def answer_with(rule: decider.Decider, config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
  """Answers the queries that the config names with the calls that a rule chooses.

  Args:
    rule: Chooses the calls.
    config: `answer` and `pool` hold the options.
    workdir: Takes all files; goes on where an earlier run ended.

  Returns:
    0 when every query has been answered by somebody, else an exit code that says why not.

  Raises:
    One of `command.REFUSALS`, before any call, for what cannot be asked.
  """
  return command.run(_answer(rule, config, workdir))


async def _answer(rule: decider.Decider, config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
  options = config.answer
  extract = preflight.extractor('config.answer.extractor', options.extractor)
  asked = queries.read(options.queries, options.manual_dir, options.extractor, unlabelled=True)
  llms = _callable(rule.llms, config.pool)
  workdir.mkdir(parents=True, exist_ok=True)
  recorded = store.Collection(workdir / store.journal_name(), config.collect.salvage)
  live = session.Session(
    rule,
    [llm.name for llm in llms],
    dict.fromkeys(rule.llms, extract) | preflight.own_extractors(llms),
    samples=options.samples,
    batch_size=options.batch_size,
    abstain_below=options.abstain_below,
  )
  try:
    recorded.check_queries(asked)
    preflight.refuse(preflight.plan_calls(llms, asked, options.samples, recorded)[1])
    lines, signals = await _lines(live, runner.Runner(recorded, llms), asked, options, rule.in_stages)
  finally:
    recorded.journal.close()
  in_order = [lines[query.query_id] for query in asked if query.query_id in lines]
  with paths.atomic_write(workdir / 'answers.jsonl') as partial:
    partial.write_bytes(b''.join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in in_order))
  answers.write(workdir, in_order, rule.facts(len(asked)))
  if signals:
    return 128 + signals[0]
  return 0 if len(lines) == len(asked) and not any(line['unanswered'] for line in in_order) else command.INCOMPLETE


async def _lines(
  live: session.Session,
  asking: runner.Runner,
  asked: list[queries.Query],
  options: ml_collections.ConfigDict,
  in_stages: bool,
) -> tuple[dict[str, dict[str, Any]], list[int]]:
  """Returns a line for each query that was answered, by its id, and the signals that ended the work."""
  lines: dict[str, dict[str, Any]] = {}
  async with command.running(asking, asking.llms, options.drain_s) as signals:
    with contextlib.closing(metric_writer.Progress('Answering', len(asked))) as progress:
      calling = dispatch.call_selected(
        asking,
        live.selections(asked),
        samples=options.samples,
        on_failure=options.on_failure,
        at_once=options.at_once,
        decide=live.decide if in_stages else None,
      )
      try:
        async for called in calling:
          lines[called.selection.query.query_id] = await live.finish(called)
          progress.update(len(lines))
      except rate_limits.Stopped as stopped:
        print(f'stopped: {stopped}; the same command goes on', file=sys.stderr)
  return lines, signals


def _callable(known: tuple[str, ...], pool: ml_collections.ConfigDict) -> list[pool_file.LLM]:
  """Returns the LLMs that may be called: all that the rule knows, or those of them that `config.pool.llms` names."""
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
