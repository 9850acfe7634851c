"""Collects responses: asks every LLM of a pool every query, and leaves a response data set.

A workdir holds the journal (`journal.jsonl`, or `journal-3-of-16.jsonl` for a shard), the data set graded from it
(`responses.jsonl`) and a summary (`summary.json`). The same command goes on where the last one ended: it asks what
has no answer yet, be it that it was interrupted, that it failed, or that samples, queries or LLMs were added.
"""

import collections.abc
import pathlib
import re
from typing import Any

import ml_collections
import orjson
import rich.console
import rich.table

from selectllm.client import command, preflight, progress, rate_limits, runner, store
from selectllm.data import grading, pool_file, queries
from selectllm.infra import paths


def collect(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
  """Runs the mode; returns 0 when the collection is complete, else an exit code that says why it is not."""
  try:
    return command.run(_collect(config, workdir))
  except command.REFUSALS as error:
    return command.refused(error)


async def _collect(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
  options, pool = config.collect, pool_file.read_pool(config.pool.file)
  llms = _chosen(pool, config.pool.llms)
  shard = _shard(options.shard)
  extract = preflight.extractor('config.collect.extractor', options.extractor)
  preflight.check_positive(options, 'config.collect', 'samples')
  unlabelled = config.dataset.labels == 'agreement'
  found = queries.read(options.queries, options.manual_dir, options.extractor, unlabelled=unlabelled)
  asked = [query for query in found if queries.in_shard(query, shard)]
  path = workdir / store.journal_name(shard)
  recorded = store.Collection(path, options.salvage)
  try:
    for other in _journals(options.merge):
      print(f'{other}: {recorded.merge(other):,} answers taken over')
    plans = _plans(llms, asked, recorded, options)
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
    own = preflight.own_extractors(pool.llms.values())
    _export(path, extract, own, options.extractor)
  return code


def _plans(
  llms: list[pool_file.LLM], asked: list[queries.Query], recorded: store.Collection, options: ml_collections.ConfigDict
) -> dict[str, preflight.Plan]:
  """Returns what is left to ask of each LLM; refuses what cannot be asked, or not within the budget."""
  recorded.check_queries(asked)
  plans, problems = preflight.plan_calls(llms, asked, options.samples, recorded)
  if options.budget_usd is not None:
    unpriced = [name for name, plan in plans.items() if plan.cost_usd is None]
    problems += [f'{name!r} lacks price or sampling.max_tokens, so no budget can be kept' for name in unpriced]
  preflight.refuse(problems)
  return plans


async def _run(
  asking: runner.Runner,
  asked: list[queries.Query],
  plans: dict[str, preflight.Plan],
  options: ml_collections.ConfigDict,
) -> int:
  def items(llm: str) -> collections.abc.Iterator[runner.Item]:
    return (runner.Item(query, llm, sample) for query in asked for sample in range(options.samples))

  wanted = {name: plan.wanted for name, plan in plans.items()}
  called = [name for name, plan in plans.items() if plan.calls]
  async with command.running(asking, called, options.drain_s) as signals, progress.shown(asking, wanted):
    await asking.run({name: items(name) for name in plans})
    await asking.finished()
  if signals:
    return 128 + signals[0]
  return command.INCOMPLETE if any(line['missing'] for line in _summary(asking, plans).values()) else 0


def _export(
  journal: pathlib.Path, extract: grading.Extractor, own: dict[str, grading.Extractor], graded_with: str
) -> None:
  target = journal.with_name(journal.name.replace('journal', 'responses'))
  count = store.export(journal, target, extract, own)
  others = f' ({", ".join(own)}: each with its own)' if own else ''
  print(f'{target}: {count:,} queries, graded with {graded_with}{others}')


def _chosen(pool: pool_file.Pool, names: collections.abc.Sequence[str]) -> list[pool_file.LLM]:
  if unknown := [name for name in names if name not in pool.llms]:
    raise pool_file.PoolError(f'config.pool.llms names {", ".join(unknown)}; the pool file has {", ".join(pool.llms)}')
  return [pool.llms[name] for name in names or pool.llms]


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
    matching = paths.matches(pattern)
    if not matching:
      raise FileNotFoundError(f'config.collect.merge: there is no {pattern}')
    found += matching
  return found


def _print_plans(plans: dict[str, preflight.Plan]) -> None:
  table = rich.table.Table(
    'LLM', 'recorded', 'calls', 'prompt tokens (about)', 'completion tokens (at most)', 'at most $'
  )
  total = preflight.Plan(
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
  rich.console.Console(width=120, markup=False).print(table)


def _summary(asking: runner.Runner, plans: dict[str, preflight.Plan]) -> dict[str, dict[str, Any]]:
  """Returns LLM -> what it was asked and what became of it."""
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


def _write_summary(asking: runner.Runner, plans: dict[str, preflight.Plan], path: pathlib.Path) -> None:
  """Writes the summary and names what is missing."""
  summary = _summary(asking, plans)
  path.write_bytes(orjson.dumps({'stopped': asking.stopped, 'llms': summary}, option=orjson.OPT_INDENT_2))
  table = rich.table.Table('LLM', 'answered', 'missing', 'why', 'cut off', 'requests', 'cost $')
  for llm, line in summary.items():
    why = [f'{count:,} {reason}' for reason, count in line['failed'].items()]
    why += [f'{line["not_asked"]:,} not asked'] if line['not_asked'] else []
    counts = f'{line["answered"]:,}/{line["wanted"]:,}', f'{line["missing"]:,}', ', '.join(why)
    table.add_row(llm, *counts, f'{line["cut_off"]:,}', f'{line["attempts"]:,}', f'{line["cost_usd"]:,.4f}')
  rich.console.Console(width=120, markup=False).print(table)
  if asking.stopped:
    print(f'stopped: {asking.stopped}')
  if missing := [llm for llm, line in summary.items() if line['missing']]:
    print(f'incomplete: {", ".join(missing)}; the same command asks again for what is missing')
