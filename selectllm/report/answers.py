"""Writes the report of queries that were answered live: accuracy, called LLMs, and what the selection saved."""

import json
import pathlib
from collections.abc import Sequence

import msgspec
import rich.console

from selectllm.evaluate import answers
from selectllm.infra import paths
from selectllm.report import tables


def savings_table(found: answers.LiveResults) -> tables.Table:
  """Tabulates what was called, the classifier's own time included, beside what calling every LLM would have taken."""
  rows = []
  for name, field, own, show in (
    ('calls', 'calls', 0, '{:,.0f}'),
    ('wall clock, s a query', 'wall_clock_s', found.timing.classifier_latency_s, '{:.3g}'),
    ('summed compute, s a query', 'compute_s', found.timing.classifier_latency_s, '{:.3g}'),
    ('dollars', 'cost_usd', 0, '{:.4g}'),
  ):
    made, everybody = getattr(found.savings.made, field), getattr(found.savings.calling_all, field)
    made = None if made is None else made + own
    share = f'{100 * made / everybody:.0f} %' if made is not None and everybody else '-'
    rows.append([name, *(tables.known(value, show.format) for value in (made, everybody)), share])
  return tables.Table(['', 'selected LLMs', 'all LLMs (estimated)', 'share'], rows)


def llms_table(found: answers.LiveResults) -> tables.Table:
  """Tabulates the calls of each LLM, those that failed, and its accuracy, latency and cost."""
  rows = [
    [
      llm,
      f'{row.calls:,}',
      f'{row.missing:,}',
      tables.percent(row.accuracy['test']),
      tables.seconds(row.latency_s),
      tables.dollars(row.cost_usd),
    ]
    for llm, row in found.llms.items()
  ]
  return tables.Table(['LLM', 'calls', 'failed', 'right when called %', 'seconds a call', '$ per 1,000'], rows)


def _sentences(found: answers.LiveResults) -> list[str]:
  """Returns the findings, one sentence each."""
  method, data = found.methods[0], found.dataset
  lines = [f'{data.queries_per_split.test:,} of {data.queries:,} queries were asked.']
  if method.unanswered:
    lines.append(f'For {method.unanswered:,} of them every call failed.')
  if method.abstained:
    lines.append(f'For {method.abstained:,} of them the answer is withheld: it is less likely right than required.')
  if method.accuracy is not None:
    share = f'{tables.percent(method.accuracy)} % (95 % interval {tables.interval(method.accuracy_ci)})'
    lines.append(f'Of the {method.queries:,} answered ones with a reference {share} are right.')
  return [*lines, *_on_p_right(found.p_right)]


def _on_p_right(p_right: answers.LiveProbability | None) -> list[str]:
  if p_right is None:
    return []
  mean = f'An answer is right with an estimated probability of {tables.percent(p_right.mean)} % on average.'
  if p_right.ece is None:
    return [mean]
  right = f'{p_right.references:,} with a reference, withheld ones included, {tables.percent(p_right.accuracy)} %'
  error = f'expected calibration error {tables.measure(p_right.ece)}, Brier score {tables.measure(p_right.brier)}'
  return [mean, f'Of the {right} are right: {error}.']


def write(workdir: pathlib.Path, lines: Sequence[answers.Line], facts: answers.DeciderFacts) -> None:
  """Writes report.json and report.md, and shows the summary on the console.

  Args:
    workdir: Takes both files.
    lines: Of answers.jsonl.
    facts: About the policy or rule that selected.
  """
  found = answers.summarise(lines, facts)
  with paths.atomic_write(workdir / 'report.json') as partial:
    partial.write_text(json.dumps(msgspec.to_builtins(found), indent=1, allow_nan=False) + '\n')
  size = '' if facts.size is None else f' (s={facts.size})'
  title = f'{facts.policy}{size} on {facts.asked:,} new queries, live responses, measured latencies'
  sections = [
    f'# {title}\n',
    '\n'.join(f'- {sentence}' for sentence in _sentences(found)) + '\n',
    savings_table(found).markdown(),
    'Calls that were not made are counted with what they took on average here, or when the classifier was trained. '
    f'Both times of the selected LLMs include {tables.seconds(facts.classifier_latency_s)} s for the classifier, as '
    'measured when it was trained.\n',
    llms_table(found).markdown(),
  ]
  (workdir / 'report.md').write_text('\n'.join(sections), encoding='utf-8')
  console = rich.console.Console()
  console.print(savings_table(found).rich(title))
  console.print(llms_table(found).rich('Called LLMs'))
  for sentence in _sentences(found):
    console.print(sentence, highlight=False, markup=False)
  console.print(f'Answers: {workdir / "answers.jsonl"}', highlight=False, markup=False)
