"""The mode that asks every LLM of a pool every query, and leaves a response data set.

A workdir holds the journal (`journal.jsonl`, or `journal-3-of-16.jsonl` for a shard), the data set graded from it
(`responses.jsonl`) and a summary (`summary.json`). The same command goes on where the last one ended: it asks what
has no answer yet, be it that it was interrupted, that it failed, or that samples, queries or LLMs were added.
"""

import asyncio
import collections.abc
import contextlib
import dataclasses
import glob
import os
import pathlib
import re
import signal
import sys
from typing import Any

import ml_collections
import orjson
import rich.console
import rich.table
import uvloop

from selectllm.client import endpoints, journal, progress, rate_limits, runner, store
from selectllm.data import grading, pool_file, queries

REFUSED, INCOMPLETE = 2, 1  # exit codes; an interrupted collection ends with 128 + the signal's number
REFUSALS = (
  pool_file.PoolError,
  queries.QueryError,
  journal.JournalError,
  store.CollectionError,
  FileNotFoundError,
)


@dataclasses.dataclass(slots=True)
class Plan:
  """What is to be asked of one LLM.

  Attributes:
    wanted: Responses that the collection is to hold.
    calls: Those that it does not hold yet.
    prompt_tokens: Of these calls, estimated.
    completion_tokens: Of these calls, at most; None when they have no limit.
    cost_usd: Of these calls, at most; None when the LLM has no price or no limit.
  """

  wanted: int = 0
  calls: int = 0
  prompt_tokens: int = 0
  completion_tokens: int | None = 0
  cost_usd: float | None = None


def collect(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
  """Runs the mode; returns 0 when the collection is complete, else an exit code that says why it is not."""
  try:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
      return loop.run(_collect(config, workdir))
  except REFUSALS as error:
    print(f'error: {error}', file=sys.stderr)
    return REFUSED


async def _collect(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
  options = config.collect
  pool = pool_file.read_pool(config.pool.file)
  llms = _chosen(pool, config.pool.llms)
  shard = _shard(options.shard)
  extract = extractor('config.collect.extractor', options.extractor)
  check_positive(options, 'config.collect', 'samples')
  unlabelled = config.dataset.labels == 'agreement'
  found = queries.read(options.queries, options.manual_dir, extract, unlabelled=unlabelled)
  asked = [query for query in found if queries.in_shard(query, shard)]
  path = workdir / store.journal_name(shard)
  recorded = store.Collection(path, options.salvage)
  try:
    for other in _journals(options.merge):
      print(f'{other}: {recorded.merge(other):,} answers taken over')
    recorded.check_queries(asked)
    plans, problems = plan_calls(llms, asked, options.samples, recorded)
    if options.budget_usd is not None:
      unpriced = [name for name, plan in plans.items() if plan.cost_usd is None]
      problems += [f'{name!r} lacks price or sampling.max_tokens, so no budget can be kept' for name in unpriced]
    refuse(problems)
    if options.dry_run:
      _print_plans(plans)
      return 0
    asking = runner.Runner(recorded, llms, rate_limits.Budget(options.budget_usd, recorded.spent_usd))
    recorded.add_queries(asked)
    code = await _run(asking, asked, plans, options)
  finally:
    recorded.journal.close()
  _write_summary(asking, plans, workdir / path.name.replace('journal', 'summary').replace('.jsonl', '.json'))
  if code < 128:
    target = workdir / path.name.replace('journal', 'responses')
    own = own_extractors(pool.llms.values())
    count = store.export(path, target, extract, own)
    others = f' ({", ".join(own)}: each with its own)' if own else ''
    print(f'{target}: {count:,} queries, graded with {options.extractor}{others}')
  return code


async def _run(
  asking: runner.Runner, asked: list[queries.Query], plans: dict[str, Plan], options: ml_collections.ConfigDict
) -> int:
  interrupted: list[int] = []
  wanted = {name: plan.wanted for name, plan in plans.items()}

  def items(llm: str) -> Any:
    return (runner.Item(query, llm, sample) for query in asked for sample in range(options.samples))

  with stop_on_signals(asking, interrupted, options.drain_s):
    async with asking:
      refuse(await asking.problems([name for name, plan in plans.items() if plan.calls]))
      display = asyncio.create_task(progress.show(asking, wanted))
      try:
        await asking.run({name: items(name) for name in plans})
        await asking.finished()
      finally:
        display.cancel()
        await asyncio.gather(display, return_exceptions=True)
  if interrupted:
    return 128 + interrupted[0]
  return INCOMPLETE if any(line['missing'] for line in _summary(asking, plans).values()) else 0


@contextlib.contextmanager
def stop_on_signals(asking: runner.Runner, interrupted: list[int], drain_s: float) -> collections.abc.Iterator[None]:
  """Lets the first Ctrl-C or SIGTERM end what is in flight, and the second end everything now."""
  loop = asyncio.get_running_loop()

  def interrupt(signum: int) -> None:
    if interrupted:
      os._exit(128 + signum)  # what was acknowledged is on the disk
    interrupted.append(signum)
    name = signal.Signals(signum).name
    print(f'{name}: waiting up to {drain_s:g} s for what is in flight; once more to leave now', file=sys.stderr)
    asking.stop(f'interrupted by {name}', drain_s)

  for signum in (signal.SIGINT, signal.SIGTERM):
    loop.add_signal_handler(signum, interrupt, signum)
  try:
    yield
  finally:
    for signum in (signal.SIGINT, signal.SIGTERM):
      loop.remove_signal_handler(signum)


def _chosen(pool: pool_file.Pool, names: collections.abc.Sequence[str]) -> list[pool_file.LLM]:
  if unknown := [name for name in names if name not in pool.llms]:
    raise pool_file.PoolError(f'config.pool.llms names {", ".join(unknown)}; the pool file has {", ".join(pool.llms)}')
  return [pool.llms[name] for name in names or pool.llms]


def extractor(field: str, name: str) -> grading.Extractor:
  """The extractor that a config field names; raises `queries.QueryError` when there is none."""
  try:
    return grading.get_extractor(name)
  except ValueError as error:
    raise queries.QueryError(f'{field}: {error}') from error


def own_extractors(llms: collections.abc.Iterable[pool_file.LLM]) -> dict[str, grading.Extractor]:
  """LLM -> what reads its responses, for those whose endpoint names an extractor."""
  return {
    llm.name: grading.get_extractor(llm.endpoint.extractor) for llm in llms if llm.endpoint and llm.endpoint.extractor
  }


def check_positive(options: ml_collections.ConfigDict, section: str, *names: str) -> None:
  """Raises `pool_file.PoolError` unless these fields are at least 1."""
  for name in names:
    if options[name] < 1:
      raise pool_file.PoolError(f'{section}.{name} must be at least 1, not {options[name]}')


def _shard(text: str) -> tuple[int, int] | None:
  if not text:
    return None
  match = re.fullmatch(r'(\d+)/(\d+)', text)
  if not match or not 1 <= int(match[1]) <= int(match[2]):
    raise queries.QueryError(f'config.collect.shard must be 1/n to n/n, as 3/16, not {text!r}')
  return int(match[1]), int(match[2])


def _journals(patterns: collections.abc.Iterable[str]) -> list[pathlib.Path]:
  found = []
  for pattern in patterns:
    paths = sorted(glob.glob(pattern))
    if not paths:
      raise FileNotFoundError(f'config.collect.merge: there is no {pattern}')
    found += [pathlib.Path(path) for path in paths]
  return found


def refuse(problems: list[str]) -> None:
  """Raises `pool_file.PoolError` with all problems at once, where there are any."""
  if problems:
    raise pool_file.PoolError('nothing was asked, because\n' + '\n'.join(f'  {problem}' for problem in problems))


def plan_calls(
  llms: list[pool_file.LLM], asked: list[queries.Query], samples: int, recorded: store.Collection
) -> tuple[dict[str, Plan], list[str]]:
  """What is left to ask of each LLM, and what is wrong with any: everything that shows before a call is made.

  Raises:
    collection.CollectionError: recorded answers were asked for differently.
  """
  plans, problems = {}, []
  for llm in llms:
    try:
      endpoint = endpoints.Endpoint(llm)
      recorded.check_llm(llm.name, endpoint.spec.identity())
      plans[llm.name], problem = _plan(endpoint, asked, samples, recorded)
    except pool_file.PoolError as error:
      problem = str(error)
    problems += [problem] if problem else []
  return plans, problems


def _plan(
  endpoint: endpoints.Endpoint, asked: list[queries.Query], samples: int, recorded: store.Collection
) -> tuple[Plan, str | None]:
  plan, longest = Plan(wanted=len(asked) * samples), (0, '')
  fresh = not recorded.answered[endpoint.llm.name]
  most = endpoint.spec.sampling.max_tokens
  for query in asked:
    request = endpoint.request(query, 0)
    calls = samples
    if not fresh:
      calls = sum(not recorded.holds(endpoint.request(query, sample).identity) for sample in range(samples))
    plan.calls += calls
    plan.prompt_tokens += calls * request.prompt_tokens
    longest = max(longest, (request.max_tokens, query.query_id))
  plan.completion_tokens = None if most is None else plan.calls * most
  if plan.completion_tokens is not None:
    plan.cost_usd = endpoint.llm.cost_usd(plan.prompt_tokens, plan.completion_tokens)
  context = endpoint.spec.context_tokens
  if context is None or longest[0] <= context:
    return plan, None
  return plan, (
    f'{endpoint.llm.name!r}: query {longest[1]!r} needs about {longest[0]:,} tokens (4 bytes each, '
    f'{most or 0:,} of them for the response), its context holds {context:,}'
  )


def _print_plans(plans: dict[str, Plan]) -> None:
  table = rich.table.Table(
    'LLM', 'recorded', 'calls', 'prompt tokens (about)', 'completion tokens (at most)', 'at most $'
  )
  total = Plan(
    sum(plan.wanted for plan in plans.values()),
    sum(plan.calls for plan in plans.values()),
    sum(plan.prompt_tokens for plan in plans.values()),
    sum(plan.completion_tokens or 0 for plan in plans.values()),
    sum(known) if (known := [plan.cost_usd for plan in plans.values() if plan.cost_usd is not None]) else None,
  )
  for llm, plan in [*plans.items(), ('all', total)]:
    written = 'no limit' if plan.completion_tokens is None else f'{plan.completion_tokens:,}'
    cost = 'unknown' if plan.cost_usd is None else f'{plan.cost_usd:,.2f}'
    counts = f'{plan.wanted - plan.calls:,}', f'{plan.calls:,}', f'{plan.prompt_tokens:,}'
    table.add_row(llm, *counts, written, cost)
  rich.console.Console(width=120).print(table)


def _summary(asking: runner.Runner, plans: dict[str, Plan]) -> dict[str, dict[str, Any]]:
  """LLM -> what it was asked and what became of it."""
  summary = {}
  for llm, tally in asking.tallies.items():
    done, failed = tally.recorded + tally.answered, dict(tally.failed)
    missing = plans[llm].wanted - done
    summary[llm] = {
      'wanted': plans[llm].wanted,
      'answered': done,
      'missing': missing,
      'failed': failed,
      'not_asked': missing - sum(failed.values()),
      'cut_off': tally.cut_off,
      'attempts': tally.attempts,
      'cost_usd': tally.cost_usd,
    }
  return summary


def _write_summary(asking: runner.Runner, plans: dict[str, Plan], path: pathlib.Path) -> None:
  """Writes the summary and names what is missing."""
  summary = _summary(asking, plans)
  path.write_bytes(orjson.dumps({'stopped': asking.stopped, 'llms': summary}, option=orjson.OPT_INDENT_2))
  table = rich.table.Table('LLM', 'answered', 'missing', 'why', 'cut off', 'requests', 'cost $')
  for llm, line in summary.items():
    why = [f'{count:,} {reason}' for reason, count in line['failed'].items()]
    why += [f'{line["not_asked"]:,} not asked'] if line['not_asked'] else []
    counts = f'{line["answered"]:,}/{line["wanted"]:,}', f'{line["missing"]:,}', ', '.join(why)
    table.add_row(llm, *counts, f'{line["cut_off"]:,}', f'{line["attempts"]:,}', f'{line["cost_usd"]:,.4f}')
  rich.console.Console(width=120).print(table)
  if asking.stopped:
    print(f'stopped: {asking.stopped}')
  if missing := [llm for llm, line in summary.items() if line['missing']]:
    print(f'incomplete: {", ".join(missing)}; the same command asks again for what is missing')
