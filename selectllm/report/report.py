"""The written report: report.json, report.md, the figures, and a table on the console."""

import json
import pathlib
from typing import Any

import rich.console

from selectllm.infra import paths
from selectllm.report import figures, tables, tradeoff

# Accuracies of one LLM that differ by more between splits (in points) hint at data that it has seen.
SHIFT_POINTS = 10
# More near duplicates across splits than this share of a split are warned of; of equal questions, any.
NEAR_SHARE = 0.01


def title(results: dict[str, Any]) -> str:
  """Data set, pool, queries, and where responses and latencies come from."""
  dataset = results['dataset']
  tested = f'{dataset["queries_per_split"]["test"]:,} test queries'
  if dataset['folds']:
    tested += f' in {dataset["folds"]} folds'
  return (
    f'{dataset["name"]}: {len(dataset["llms"])} LLMs, {tested} of {dataset["queries"]:,}, '
    f'{dataset["responses"]} responses, {dataset["latency"]} latencies'
  )


def warnings(results: dict[str, Any]) -> list[str]:
  """What a reader should know before believing the numbers."""
  found = []
  if asked_for := results['dataset']['in_place_of']:
    found.append(
      f'{asked_for} could be neither found nor downloaded: all of this is about {results["dataset"]["name"]}, '
      'which ships with selectllm; its own config is configs/mini.py, its pool file configs/pools/mini.yaml.'
    )
  found += results['dataset']['notes']
  if unused := results['dataset']['unused']:
    trained_on = results['dataset']['queries_per_split']['train']
    found.append(
      f'{unused:,} of {trained_on + unused:,} training queries were left out on purpose (config.dataset.train_share).'
    )
  if truncated := results['dataset']['truncated']:
    found.append(f'{truncated} queries were longer than the encoder reads; their ends were cut off.')
  if results['dataset']['labels'] == 'reference':  # else the splits differ in who judges, not in the queries
    found += filter(None, (_shift(llm, row) for llm, row in results['llms'].items()))
  found += _leaked(results)
  if results['dataset']['latency'] == 'estimated':
    found.append('Latencies are estimates from response lengths and model sizes; nobody measured them.')
    if assumed := results['dataset']['sizes_assumed']:
      found.append(f'The sizes of {", ".join(assumed)} are not published but assumed; so are their latencies.')
  if results['dataset']['latency'] == 'published':
    found.append(
      'A response without a latency of its own has the published mean of its LLM (published_latency_s in the pool '
      'file): the same for every query, and measured by others, on their machines.'
    )
  if all(row['cost_usd'] is None for row in results['llms'].values()):
    found.append('No prices are known, so no costs are shown.')
  return found


def _shift(llm: str, row: dict[str, Any]) -> str:
  """What to say of an LLM whose accuracy differs much between splits; nothing where it does not."""
  known = {part: row['accuracy'][part] for part in ('train', 'validation', 'test') if row['accuracy'][part] is not None}
  if not known:
    return ''
  lowest, highest = (choose(known, key=known.__getitem__) for choose in (min, max))
  if 100 * (known[highest] - known[lowest]) <= SHIFT_POINTS:
    return ''
  shares = ', '.join(f'{part} {tables.with_interval(known[part], row["accuracy_ci"][part])}' for part in known)
  return f'{llm} differs by more than {SHIFT_POINTS} points between splits: {shares} %. ' + (
    f'The intervals of {highest} and {lowest} lie apart: the two hold different kinds of queries, or {llm} has seen '
    f'{highest} before (few-shot examples, training data).'
    if row['accuracy_ci'][highest][0] > row['accuracy_ci'][lowest][1]
    else f'The intervals of {highest} and {lowest} overlap: on so few queries it may be chance.'
  )


def _leaked(results: dict[str, Any]) -> list[str]:
  """Warnings of questions that stand in two splits."""
  found: list[str] = []
  of_test, overlap = False, results['contamination']
  for row in overlap['leaks']:
    asked, before = f'of {row["queries"]:,} {row["of"]} queries', len(found)
    if row['exact']:
      found.append(f'{row["exact"]:,} {asked} ask exactly what a {row["within"]} query asks.')
    if (row['near'] or 0) > NEAR_SHARE * row['queries']:
      share = tables.percent(row['near'] / row['queries'])
      found.append(f'{row["near"]:,} {asked} ({share} %) ask nearly the same as a {row["within"]} query.')
    of_test |= len(found) > before and row['of'] == 'test'
  policy = overlap['methods'][0]
  if of_test and policy['clean_accuracy'] is not None and overlap['clean'] < overlap['tested']:
    found[-1] += (
      f' On the {overlap["clean"]:,} test queries without a duplicate in another split, {policy["name"]} answers '
      f'{tables.percent(policy["clean_accuracy"])} % right, on all {overlap["tested"]:,} '
      f'{tables.percent(policy["accuracy"])} %.'
    )
  return found


def _leaks(results: dict[str, Any]) -> list[str]:
  """The section on questions that stand in two splits."""
  overlap = results['contamination']
  near = overlap['near_duplicates']
  explained = ['Questions are the same when they are equal but for case and white space.']
  if near:
    explained.append(
      f'They are nearly the same when their sets of five-character pieces have a Jaccard similarity of {near:g} or '
      'more (config.evaluate.near_duplicates); so may be questions of different answers that differ in a number or '
      'share a long passage.'
    )
    if overlap['searched'] < overlap['distinct']:
      explained.append(
        f'Only a random sample of {overlap["searched"]:,} of {overlap["distinct"]:,} different questions was searched '
        'for these: there are more.'
      )
    if overlap['crowded']:
      explained.append(
        f'{overlap["crowded"]:,} questions have so many like them that not all were compared: there may be more.'
      )
  sections = ['## Leaks between splits\n', ' '.join(explained) + '\n', tables.leaks_table(results).markdown()]
  if overlap['examples']:
    sections.append(tables.leak_examples_table(results).markdown())
  if overlap['clean'] < overlap['tested']:
    sections += [
      f'What remains on the {overlap["clean"]:,} of {overlap["tested"]:,} test queries that neither train nor '
      'validation holds, with 95 % bootstrap intervals (sizes as chosen on validation):\n',
      tables.clean_table(results).markdown(),
    ]
  return sections


def _verdict(row: dict[str, Any], reference: str, name: str) -> str:
  comparison = row['versus'][reference]
  if comparison is None:
    return ''
  points, p = 100 * comparison['delta'], comparison['p']
  if p > tables.SIGNIFICANT:
    return f'a tie with {name} ({points:+.1f} points, p={p:.2g})'
  return f'{"better" if points > 0 else "worse"} than {name} by {abs(points):.1f} points (p={p:.1g})'


def summary(results: dict[str, Any]) -> list[str]:
  """The findings in plain words, one sentence each."""
  by_name = {row['name']: row for row in tables.headline_rows(results)}
  lines = [
    f'**{name}** answers {tables.percent(by_name[name]["accuracy"])} % of the test queries right.'
    for name in [*results['best_single'], 'all_llms', 'oracle']
    if name in by_name
  ]
  whole = by_name.get('all_llms')
  for policy in tables.policies(results):
    row = by_name[policy]
    verdicts = [
      _verdict(row, 'best_single', 'the best single LLM'),
      _verdict(row, 'all_llms', 'the vote of all LLMs'),
      _verdict(row, 'top_s', 'as many of the most accurate LLMs'),
      _verdict(row, 'best_s', 'the best subset of that size'),
    ]
    share = ''
    if whole and row['latency_sequential_s'] is not None and whole['latency_sequential_s']:
      share = f' and {100 * row["latency_sequential_s"] / whole["latency_sequential_s"]:.0f} % of its summed latency'
    calls = f'{row["calls"]:.1f} calls' + (f' instead of {whole["calls"]:.1f}{share}' if whole else '')
    lines.append(
      f'**{policy}** (s={tables.size_of(row)}, chosen on validation) answers {tables.percent(row["accuracy"])} % right '
      f'with {calls}: {"; ".join(filter(None, verdicts))}.'
    )
  return lines


def _by_task(results: dict[str, Any]) -> list[str]:
  """The sections on categories; none where there is one only."""
  rows, policy = results['by_task'], tables.policies(results)[0]
  if not rows:
    return []
  followed = 0
  for row in rows:
    first = max(llm['first'] for llm in row['llms'].values())
    best = max(llm['accuracy'] or 0 for llm in row['llms'].values())
    followed += any(llm['first'] == first and llm['accuracy'] == best for llm in row['llms'].values())
  return [
    '## By category\n',
    'Accuracy on test in %, policies at the size chosen on validation, with 95 % intervals (Wilson: some categories '
    'hold few queries).\n',
    tables.by_task_table(results).markdown(),
    '## Who is called, by category\n',
    f'In {followed} of {len(rows)} categories the LLM that is most often the first choice of **{policy}** is also the '
    'most accurate one.\n',
    '![Who is called, and who is right, by category](figures/by_category.png)\n',
  ]


def _difference(feature: dict[str, Any]) -> str:
  """In one sentence, whether a feature of the queries matters at all."""
  name, p = f'**{tables.FEATURES[feature["name"]]}**', tables.p_value(feature['p'])
  if feature['p'] is None or feature['p'] > tables.SIGNIFICANT:
    return f'{name}: no difference beyond noise ({p}).'
  low, high = (choose(feature['bins'], key=lambda row: row['lost']) for choose in (min, max))
  correlation = '' if feature['correlation'] is None else f', rank correlation {feature["correlation"]:+.2f}'
  known = ' Known only once all LLMs have answered.' if feature['hindsight'] else ''
  return (
    f'{name}: from {tables.percent(low["lost"])} % ({low["bin"]}) to {tables.percent(high["lost"])} % '
    f'({high["bin"]}; {p}{correlation}).{known}'
  )


def _gap(results: dict[str, Any]) -> list[str]:
  """The section on what the headline policy misses."""
  found = results['error_analysis']
  row = next(row for row in results['chosen'] if row['name'] == found['policy'])
  every = 'Every test query with confidences, answers and votes, to browse: [queries.html](queries.html).\n'
  if not found['features']:
    return ['## Where the oracle is right and we are not\n', every]
  low, high = map(tables.percent, found['lost_ci'])
  return [
    '## Where the oracle is right and we are not\n',
    f'On {tables.percent(found["lost"])} % of {found["queries"]:,} test queries ({low} to {high}) some LLM is right '
    f'and **{found["policy"]}** (s={tables.size_of(row)}) is not. How that share varies with the queries:\n',
    '\n'.join(f'- {_difference(feature)}' for feature in found['features']) + '\n',
    'Differences between bins are tested by Kruskal and Wallis, p adjusted for the number of features (Holm). All bins '
    'are in the table at the end.\n',
    '![Oracle, policy and the gap between them, by what the queries are like](figures/oracle_gap.png)\n',
    every,
  ]


def _appendix(results: dict[str, Any]) -> list[str]:
  if not results['error_analysis']['features']:
    return []
  return [
    '## The gap to the oracle, by what the queries are like\n',
    'Lengths in words and tokens, numbers in digits, operations (signs and words such as `twice`), reading ease '
    '(206.835 - 1.015 words a sentence - 84.6 syllables a word; lower is harder) and named entities (capitalised words '
    'inside sentences) are of the text that the classifier reads, counted by rules. Bins hold about as many queries '
    "each as equal values allow. Intervals are Wilson's.\n",
    tables.gap_table(results).markdown(),
  ]


_EXPLANATION = """\
*Accuracy* is the share of test queries whose elected answer is right, with a 95 % bootstrap interval over queries.
*Seconds*: parallel waits for the slowest called LLM, sequential asks one after the other; both include the
classifier's own {own} s (measured here, one query at a time) where it takes part. *s* is the subset size; in this
table policies and subsets have the size that was most accurate on validation. *vs* columns give points gained on the
same queries (`top_s` at the same size); a difference that a paired test finds inside the noise (p > {significant}) is
a tie. The *oracle* is right when any LLM is. `top_s` asks the s LLMs most accurate on train, `best_s` the subset of
size s whose vote was most accurate on train and validation, `random` any s, `knn_top1` the LLM most often right on the
{neighbours} most similar training queries. *Missing* responses are left out; an answer that could not be extracted is
wrong.
"""


def markdown(results: dict[str, Any]) -> str:
  """The report as Markdown."""
  explanation = _EXPLANATION.format(
    own=tables.seconds(results['timing']['classifier_latency_s']),
    significant=tables.SIGNIFICANT,
    neighbours=' or '.join(str(n) for n in sorted(set(results['knn_neighbours']))),
  )
  found = warnings(results)
  sections = [
    f'# {title(results)}\n',
    '\n'.join(f'- {line}' for line in summary(results)) + '\n',
    *(['**Note**\n', '\n'.join(f'- {line}' for line in found) + '\n'] if found else []),
    tables.methods_table(tables.headline_rows(results), results).markdown(),
    explanation,
    '## What the policies gain\n',
    'Over fixed choices on the same queries (`top_s`, `best_s`: of the same size), with 95 % bootstrap intervals.\n',
    tables.gains_table(results).markdown(),
    '![Accuracy against latency](figures/accuracy_latency.png)\n',
    *([tables.policy_tradeoff_table(results).markdown()] if results['policy_tradeoff'] else []),
    *tradeoff.section(results),
    '## The LLMs\n',
    'Accuracy with 95 % intervals in brackets.'
    + (' With folds nearly every query is in each of the splits once.' if results['dataset']['folds'] else '')
    + '\n',
    tables.llms_table(results).markdown(),
    *_leaks(results),
    '## The classifier\n',
    tables.classifier_table(results).markdown(),
    '![Reliability](figures/reliability.png)\n',
    '![Confusion of predicted and true labels](figures/confusion.png)\n',
    '## Who is called\n',
    '![How often each LLM is called](figures/selection.png)\n',
    *_by_task(results),
    *_gap(results),
    '## Every method at every size\n',
    tables.methods_table(results['methods'], results).markdown(),
    *_appendix(results),
  ]
  return '\n'.join(sections)


def write(workdir: pathlib.Path, results: dict[str, Any]) -> None:
  """Writes the report into the run directory and shows its main table on the console.

  Args:
    workdir: Takes report.json, report.md and figures/.
    results: From `evaluate.evaluate`, with `timing`.
  """
  (workdir / 'report.md').write_text(markdown(results), encoding='utf-8')
  figures.draw(results, workdir / 'figures', figures.FIGURES | tradeoff.FIGURES)
  # Last: a run whose report.json is there has finished.
  with paths.atomic_write(workdir / 'report.json') as partial:
    partial.write_text(json.dumps(results, indent=1, allow_nan=False) + '\n')
  console = rich.console.Console()
  console.print(tables.console_table(results).rich(title(results)))
  for line in warnings(results):
    console.print(f'[yellow]Note:[/] {line}', highlight=False)
  console.print(f'Report: {workdir / "report.md"}', highlight=False)
