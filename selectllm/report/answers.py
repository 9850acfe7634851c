"""The report of queries that were answered live: what the selection gave, and what it saved."""

import json
import pathlib
from typing import Any

import numpy as np
import rich.console

from selectllm.evaluate import metrics, statistics
from selectllm.report import tables
from selectllm.serve import decider

# Of so many queries with a reference, calibration says something.
_ENOUGH = 50


def _of_calls(lines: list[dict[str, Any]], llms: tuple[str, ...], field: str) -> np.ndarray:
  """A field of every call, float64[N, K]; NaN where there was no call, or it brought none."""
  values = np.full((len(lines), len(llms)), np.nan)
  for row, line in enumerate(lines):
    for llm, call in line['calls'].items():
      if call[field] is not None:
        values[row, llms.index(llm)] = call[field]
  return values


def _mean(values: np.ndarray) -> float | None:
  known = values[~np.isnan(values)]
  return float(known.mean()) if known.size else None


def _with_all(values: np.ndarray, expected: np.ndarray) -> np.ndarray:
  """What all LLMs would have taken: measured where called, else the LLM's mean here, else what was expected of it."""
  means = np.array([expected[place] if (m := _mean(column)) is None else m for place, column in enumerate(values.T)])
  return np.where(np.isnan(values), means, values)


def _p_right(lines: list[dict[str, Any]]) -> dict[str, Any] | None:
  """How likely the answers were said to be right, those set aside too, and how well this was calibrated."""
  said = [line for line in lines if line['p_right'] is not None]
  if not said:
    return None
  known = [line for line in said if line['reference'] is not None]
  likely = np.array([[line['p_right']] for line in known])
  elected = [line['answer_unsure'] if line['abstained'] else line['answer'] for line in known]
  right = np.array([[text == line['reference']] for text, line in zip(elected, known, strict=True)], float)
  enough = len(known) >= _ENOUGH
  return {
    'mean': float(np.mean([line['p_right'] for line in said])),
    'queries': len(said),
    'references': len(known),
    'accuracy': float(right.mean()) if known else None,
    'ece': metrics.ece(right, likely, np.ones_like(right, bool)) if enough else None,
    'brier': metrics.brier(right, likely, np.ones_like(right, bool)) if enough else None,
  }


def results(lines: list[dict[str, Any]], facts: decider.DeciderFacts) -> dict[str, Any]:
  """The content of report.json: the same form as for recorded responses, with one method, and what it saved."""
  latency, cost = (_of_calls(lines, facts.llms, field) for field in ('latency_s', 'cost_usd'))
  all_latency, all_cost = _with_all(latency, facts.expected_latency_s), _with_all(cost, facts.expected_cost_usd)
  right = [float(line['correct']) for line in lines if line['correct'] is not None]
  interval = (
    statistics.bootstrap_ci(np.array(right)[:, None], np.ones((len(right), 1), bool))[0] if right else [None] * 2
  )
  calls = sum(len(line['calls']) for line in lines)
  priced = bool(lines) and not any(line['cost_usd'] is None for line in lines)
  made = {
    'calls': calls,
    'latency_parallel_s': _mean(np.array([line['latency_parallel_s'] for line in lines], float)),
    'latency_sequential_s': _mean(np.array([line['latency_sequential_s'] for line in lines], float)),
    'cost_usd': sum(line['cost_usd'] for line in lines) if priced else None,
  }
  everybody = {
    'calls': len(lines) * len(facts.llms),
    'latency_parallel_s': _mean(all_latency.max(1)),
    'latency_sequential_s': _mean(all_latency.sum(1)),
    'cost_usd': None if not priced or np.isnan(all_cost).any() else float(all_cost.sum()),
  }
  labels = _of_calls(lines, facts.llms, 'correct')
  return {
    'dataset': {
      'name': 'new queries',
      'llms': list(facts.llms),
      'responses': 'live',
      'latency': 'measured',
      'queries': facts.asked,
      'queries_per_split': {'train': 0, 'validation': 0, 'test': len(lines)},
    },
    'llms': {
      llm: {
        'calls': sum(llm in line['calls'] for line in lines),
        'missing': sum(llm in line['failed'] for line in lines),
        'accuracy': {'train': None, 'validation': None, 'test': _mean(labels[:, place])},
        'latency_s': _mean(latency[:, place]),
        'cost_usd': _mean(cost[:, place]),
      }
      for place, llm in enumerate(facts.llms)
    },
    'methods': [
      {
        'name': facts.policy,
        'size': facts.size,
        'queries': len(right),
        'accuracy': float(np.mean(right)) if right else None,
        'accuracy_ci': [None if bound is None else float(bound) for bound in interval],
        'unanswered': sum(line['unanswered'] for line in lines),
        'abstained': sum(line['abstained'] for line in lines),
        'calls': calls / len(lines) if lines else None,
        'latency_parallel_s': made['latency_parallel_s'],
        'latency_sequential_s': made['latency_sequential_s'],
        'cost_usd': float(np.mean([line['cost_usd'] for line in lines])) if priced else None,
      }
    ],
    'p_right': _p_right(lines),
    'savings': {'made': made, 'calling_all': everybody},
    'timing': {'classifier_latency_s': facts.classifier_latency_s},
  }


def savings_table(found: dict[str, Any]) -> tables.Table:
  """What was called, the classifier's own time included, beside what calling every LLM would have taken."""
  made, everybody = dict(found['savings']['made']), found['savings']['calling_all']
  for field in ('latency_parallel_s', 'latency_sequential_s'):
    made[field] = None if made[field] is None else made[field] + found['timing']['classifier_latency_s']
  rows = []
  for name, field, show in (
    ('calls', 'calls', '{:,.0f}'),
    ('seconds a query, parallel', 'latency_parallel_s', '{:.3g}'),
    ('seconds a query, sequential', 'latency_sequential_s', '{:.3g}'),
    ('dollars', 'cost_usd', '{:.4g}'),
  ):
    values = made[field], everybody[field]
    known = None not in values
    share = f'{100 * values[0] / values[1]:.0f} %' if known and values[1] else '-'
    rows.append([name, *('-' if value is None else show.format(value) for value in values), share])
  return tables.Table(['', 'selected LLMs', 'all LLMs (estimated)', 'share'], rows)


def llms_table(found: dict[str, Any]) -> tables.Table:
  """Who was called, how often, and how it went."""
  rows = [
    [
      llm,
      f'{row["calls"]:,}',
      f'{row["missing"]:,}',
      tables.percent(row['accuracy']['test']),
      tables.seconds(row['latency_s']),
      tables.dollars(row['cost_usd']),
    ]
    for llm, row in found['llms'].items()
  ]
  return tables.Table(['LLM', 'calls', 'failed', 'right when called %', 'seconds a call', '$ per 1,000'], rows)


def _sentences(found: dict[str, Any]) -> list[str]:
  method, queries = found['methods'][0], found['dataset']
  lines = [f'{queries["queries_per_split"]["test"]:,} of {queries["queries"]:,} queries were asked.']
  if method['unanswered']:
    lines.append(f'For {method["unanswered"]:,} of them every call failed.')
  if method['abstained']:
    lines.append(f'For {method["abstained"]:,} of them the answer is withheld, being less likely right than asked for.')
  if method['accuracy'] is not None:
    low, high = (tables.percent(bound) for bound in method['accuracy_ci'])
    share = f'{tables.percent(method["accuracy"])} % (95 % interval {low} to {high})'
    lines.append(f'Of the {method["queries"]:,} answered ones with a reference {share} are right.')
  return [*lines, *_on_p_right(found['p_right'])]


def _on_p_right(said: dict[str, Any] | None) -> list[str]:
  if said is None:
    return []
  mean = f'An answer is right with a probability of {tables.percent(said["mean"])} % on average, as the rule has it.'
  if said['ece'] is None:
    return [mean]
  right = f'{said["references"]:,} with a reference, withheld ones included, {tables.percent(said["accuracy"])} %'
  error = f'expected calibration error {said["ece"]:.3f}, Brier score {said["brier"]:.3f}'
  return [mean, f'Of the {right} are right: {error}.']


def write(workdir: pathlib.Path, lines: list[dict[str, Any]], facts: decider.DeciderFacts) -> None:
  """Writes report.json and report.md, and shows the summary on the console.

  Args:
    workdir: Takes both files.
    lines: Of answers.jsonl.
    facts: What the lines do not say.
  """
  found = results(lines, facts)
  (workdir / 'report.json').write_text(json.dumps(found, indent=1, allow_nan=False) + '\n')
  own = tables.seconds(found['timing']['classifier_latency_s']) + ' s'
  size = '' if facts.size is None else f' (s={facts.size})'
  title = f'{facts.policy}{size} on {facts.asked:,} new queries, live responses, measured latencies'
  sections = [
    f'# {title}\n',
    '\n'.join(f'- {sentence}' for sentence in _sentences(found)) + '\n',
    savings_table(found).markdown(),
    'Calls that were not made are counted with what they took on average here, or when the classifier was trained. '
    f'The seconds of the selected LLMs include {own} for the classifier, as measured when it was trained.\n',
    llms_table(found).markdown(),
  ]
  (workdir / 'report.md').write_text('\n'.join(sections), encoding='utf-8')
  console = rich.console.Console()
  console.print(savings_table(found).rich(title))
  console.print(llms_table(found).rich('Who was called'))
  for sentence in _sentences(found):
    console.print(sentence, highlight=False)
  console.print(f'Answers: {workdir / "answers.jsonl"}', highlight=False)
