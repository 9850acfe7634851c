"""Writes the report of a run: report.json, report.md, the figures, and a table on the console."""

import pathlib

import rich.console
import rich.markup

from selectllm.evaluate import options, overlooked, results
from selectllm.infra import paths
from selectllm.report import figures, tables, tradeoff, tradeoff_figures

# Accuracies of one LLM that differ by more between splits (in points) hint at data that it has seen.
SHIFT_POINTS = 10
# More near duplicates across splits than this share of a split are warned of; of equal questions, any.
NEAR_SHARE = 0.01


# The findings and their limits, a sentence each.


def warnings(found: results.Results) -> list[str]:
  """Returns what a reader should know before relying on the numbers."""
  data = found.dataset
  lines = []
  if data.in_place_of:
    lines.append(
      f'{data.in_place_of} could be neither found nor downloaded: this report is about {data.name}, which ships with '
      'selectllm; its own config is configs/mini.py, its pool file configs/pools/mini.yaml.'
    )
  lines += data.notes
  if data.unused:
    lines.append(
      f'{data.unused:,} of {data.queries_per_split.train + data.unused:,} training queries were left out on purpose '
      '(config.dataset.train_share).'
    )
  if data.truncated:
    lines.append(f'{data.truncated} queries were longer than the encoder reads; their ends were cut off.')
  lines += filter(None, (_constant(llm, row) for llm, row in found.llms.items()))
  lines += filter(None, (overlooked.warning(llm, row.overlooked) for llm, row in found.llms.items()))
  if data.labels == 'reference':  # else the labels of the splits come from different sources
    lines += filter(None, (_shift(llm, row) for llm, row in found.llms.items()))
  return lines + _contaminated(found.contamination) + _latencies_and_costs(found)


def _constant(llm: str, row: results.LLMSummary) -> str:
  """Returns a warning of an LLM that is right, or wrong, on all training queries; nothing of others."""
  share = row.accuracy['train']
  if share not in (0, 1):
    return ''
  known, other = ('right', 'wrong') if share else ('wrong', 'right')
  return f'{llm} is {known} on every training query: nothing tells when it is {other}, so its confidence is constant.'


def _shift(llm: str, row: results.LLMSummary) -> str:
  """Returns a warning of an LLM whose accuracy differs much between splits; nothing where it does not."""
  known = {
    split: share for split in ('train', 'validation', 'test') if (share := row.accuracy[split]) is not None
  }  # fmt: skip
  if not known:
    return ''
  lowest, highest = (choose(known, key=known.__getitem__) for choose in (min, max))
  if 100 * (known[highest] - known[lowest]) <= SHIFT_POINTS:
    return ''
  shares = ', '.join(f'{split} {tables.with_interval(known[split], row.accuracy_ci[split])}' for split in known)
  (low, _), (_, high) = row.accuracy_ci[highest], row.accuracy_ci[lowest]
  apart = low is not None and high is not None and low > high
  return f'{llm} differs by more than {SHIFT_POINTS} points between splits: {shares} %. ' + (
    f'The intervals of {highest} and {lowest} lie apart: the two hold different kinds of queries, or {llm} has seen '
    f'{highest} before (few-shot examples, training data).'
    if apart
    else f'The intervals of {highest} and {lowest} overlap: on so few queries it may be chance.'
  )


def _contaminated(contamination: results.Contamination) -> list[str]:
  """Returns warnings of questions that occur in two splits."""
  lines: list[str] = []
  last_of_test = None
  for row in contamination.duplicates:
    asked, before = f'of {row.queries:,} {row.of} queries', len(lines)
    if row.exact:
      lines.append(f'{row.exact:,} {asked} ask exactly what a {row.within} query asks.')
    if (row.near or 0) > NEAR_SHARE * row.queries:
      share = tables.percent((row.near or 0) / row.queries)
      lines.append(f'{row.near:,} {asked} ({share} %) ask nearly the same as a {row.within} query.')
    if len(lines) > before and row.of == 'test':
      last_of_test = len(lines) - 1
  policy = contamination.methods[0]
  if last_of_test is not None and policy.clean_accuracy is not None and contamination.clean < contamination.tested:
    lines[last_of_test] += (
      f' On the {contamination.clean:,} test queries without a duplicate in another split, {policy.name} answers '
      f'{tables.percent(policy.clean_accuracy)} % right, on all {contamination.tested:,} '
      f'{tables.percent(policy.accuracy)} %.'
    )
  return lines


def _latencies_and_costs(found: results.Results) -> list[str]:
  """Returns what is not measured about latencies, and that costs are unknown where they are."""
  lines, model = [], found.dataset.latency_model
  if found.dataset.latency == 'estimated' or model:
    lines.append(
      f'{"Latencies" if found.dataset.latency == "estimated" else "Some latencies"} are estimated, not measured: '
      f'{model or "by whoever recorded them"}.'
    )
    if assumed := found.dataset.sizes_assumed:
      lines.append(f'The sizes of {", ".join(assumed)} are not published but assumed; so are their latencies.')
  if found.dataset.latency == 'published':
    lines.append(
      'A response without a latency of its own has the published mean of its LLM (published_latency_s in the pool '
      'file): the same for every query, and measured by others, on their machines.'
    )
  if found.dataset.latency == 'unknown':
    lines.append(
      'The latencies of some or all calls are not known: times that they would be part of are left open (-).'
    )
  if all(row.cost_usd is None for row in found.llms.values()):
    lines.append('No prices are known, so no costs are shown.')
  return lines


def _verdict(row: results.MethodResult, reference: str, name: str) -> str:
  """Returns how a method compares with a reference; nothing where there is no such reference."""
  comparison = row.versus[reference]
  if comparison is None:
    return ''
  points, p = 100 * comparison.delta, tables.p_value(comparison.p)
  if not comparison.differ:
    return f'the same as {name}'
  if not comparison.resolved:
    least = comparison.detectable
    shown = '' if least is None else f'; so many queries show gains from {100 * least:.1f} points on'
    return f'not resolved against {name} ({points:+.1f} points, {p}{shown})'
  verdict = f'{"better" if points > 0 else "worse"} than {name} by {abs(points):.1f} points ({p})'
  return verdict if comparison.holds else f'{verdict}, but not after Holm'


def _of_policy(row: results.MethodResult, everybody: results.MethodResult | None) -> str:
  """Returns the sentence about a policy at its chosen size, beside the vote of all LLMs where there is one."""
  calls = tables.known(row.calls, lambda calls: f'{calls:.1f} calls')
  if everybody:
    calls += f' instead of {tables.known(everybody.calls, lambda calls: f"{calls:.1f}")}'
    times = {
      'wall clock': (row.wall_clock_s, everybody.wall_clock_s),
      'summed compute': (row.compute_s, everybody.compute_s),
    }
    shares = [f'{100 * own / of_all:.0f} % of its {words}' for words, (own, of_all) in times.items() if own and of_all]
    calls += f' ({", ".join(shares)})' if shares else ''
  verdicts = [
    _verdict(row, 'best_single', 'the best single LLM'),
    _verdict(row, 'all_llms', 'the vote of all LLMs'),
    _verdict(row, 'static_weighted', 'their vote with fixed weights'),
    _verdict(row, 'top_s', 'the vote of as many of the most accurate LLMs'),
    _verdict(row, 'best_s', 'the best subset of that size'),
  ]
  return (
    f'**{row.name}** (s={tables.size_of(row)}, chosen on validation) answers {tables.percent(row.accuracy)} % right '
    f'with {calls}: {"; ".join(filter(None, verdicts))}.'
  )


def _of_oracle(oracle: results.OracleSummary) -> str:
  """Returns the sentence about the oracle, and how much of it is more than luck."""
  text = f'Some LLM is right (the **oracle**) on {tables.percent(oracle.accuracy)} % of the test queries'
  less = {'two LLMs give the right answer': oracle.supported, 'an LLM is right in two samples': oracle.repeated}
  shares = [f'on {tables.percent(share)} % {words}' for words, share in less.items() if share is not None]
  return text + (f', partly by luck: {", ".join(shares)}.' if shares else '.')


def summary(found: results.Results) -> list[str]:
  """Returns the findings, one sentence each."""
  by_name = {row.name: row for row in tables.headline_rows(found)}
  lines = [
    f'**{name}** answers {tables.percent(by_name[name].accuracy)} % of the test queries right.'
    for name in [*found.best_single, 'all_llms']
    if name in by_name
  ]
  lines.append(_of_oracle(found.oracle))
  return lines + [_of_policy(by_name[policy], by_name.get('all_llms')) for policy in tables.policies(found)]


# Sections.


def _bullets(lines: list[str]) -> str:
  return '\n'.join(f'- {tables.plain(line)}' for line in lines) + '\n'


def _contamination(contamination: results.Contamination) -> list[str]:
  """Returns the section on questions that occur in two splits."""
  explained = ['Questions are the same when they are equal but for case and white space.']
  if contamination.near_duplicates:
    explained.append(
      'They are nearly the same when their sets of five-character pieces have a Jaccard similarity of '
      f'{contamination.near_duplicates:g} or more (config.evaluate.near_duplicates); this may also hold for questions '
      'with different answers that differ in a number or share a long passage.'
    )
    if contamination.searched < contamination.distinct:
      explained.append(
        f'Only a random sample of {contamination.searched:,} of {contamination.distinct:,} different questions was '
        'searched for near duplicates: there are more.'
      )
    if contamination.crowded:
      explained.append(
        f'{contamination.crowded:,} questions have so many similar ones that not all were compared: there may be more.'
      )
  sections = ['## Contamination: questions in more than one split\n', ' '.join(explained) + '\n']
  sections.append(tables.duplicates_table(contamination).markdown())
  if contamination.examples:
    sections.append(tables.duplicate_examples_table(contamination).markdown())
  if contamination.clean < contamination.tested:
    sections += [
      f'Accuracy on the {contamination.clean:,} of {contamination.tested:,} test queries without a duplicate in train '
      'or validation, with 95 % intervals (sizes as chosen on validation):\n',
      tables.clean_table(contamination).markdown(),
    ]
  return sections


def _by_task(found: results.Results) -> list[str]:
  """Returns the sections on categories; none where there is one only."""
  rows, policy = found.by_task, tables.policies(found)[0]
  if not rows:
    return []
  followed = 0
  for row in rows:
    first = max(llm.first for llm in row.llms.values())
    best = max(llm.accuracy or 0 for llm in row.llms.values())
    followed += any(llm.first == first and llm.accuracy == best for llm in row.llms.values())
  return [
    '## Accuracy by category\n',
    'Accuracy on test in %, policies at the size chosen on validation, with 95 % intervals (Wilson: some categories '
    'hold few queries).\n',
    tables.by_task_table(rows).markdown(),
    '## Called LLMs by category\n',
    f'In {followed} of {len(rows)} categories the LLM that is most often the first choice of **{policy}** is also the '
    'most accurate one.\n',
    '![Called LLMs and their accuracy by category](figures/by_category.png)\n',
  ]


def _difference(feature: results.FeatureResult) -> str:
  """Returns a sentence on how much the gap to the oracle varies with a feature of the queries."""
  name, p = f'**{tables.FEATURES[feature.name]}**', tables.p_value(feature.p)
  if feature.p is None or feature.p >= results.SIGNIFICANT:
    return f'{name}: no significant difference ({p}).'
  low, high = (choose(feature.bins, key=lambda row: row.lost) for choose in (min, max))
  correlation = '' if feature.correlation is None else f', rank correlation {feature.correlation:+.2f}'
  hindsight = ' Known only once all LLMs have answered.' if feature.hindsight else ''
  return (
    f'{name}: from {tables.percent(low.lost)} % ({low.bin}) to {tables.percent(high.lost)} % '
    f'({high.bin}; {p}{correlation}).{hindsight}'
  )


def _error_analysis(found: results.Results) -> list[str]:
  """Returns the section on queries that the oracle answers right and the headline policy does not."""
  analysis = found.error_analysis
  sections = ['## Error analysis: the gap to the oracle\n']
  if analysis.features:
    sections += [
      f'On {tables.percent(analysis.lost)} % of {analysis.queries:,} test queries '
      f'({tables.interval(analysis.lost_ci)}) some LLM is right and **{analysis.policy}** '
      f'(s={tables.joined(analysis.sizes)}) is not. This share varies with the queries as follows:\n',
      _bullets([_difference(feature) for feature in analysis.features]),
      'Differences between bins are tested by Kruskal and Wallis, p adjusted for the number of features (Holm). All '
      'bins are in the table at the end.\n',
      '![Accuracy of oracle and policy, and the gap between them, by features of the queries]'
      '(figures/oracle_gap.png)\n',
    ]
  return [*sections, 'Every test query with confidences, answers and votes: [queries.html](queries.html).\n']


def _appendix(analysis: results.ErrorAnalysis) -> list[str]:
  if not analysis.features:
    return []
  return [
    '## The gap to the oracle by features of the queries\n',
    'Lengths in words and tokens, numbers in digits, operations (signs and words such as `twice`), reading ease '
    '(206.835 - 1.015 words a sentence - 84.6 syllables a word; lower is harder) and named entities (capitalised words '
    'inside sentences) are of the text that the classifier reads, counted by rules. Bins hold about as many queries '
    "each as equal values allow. Intervals are Wilson's.\n",
    tables.gap_table(analysis).markdown(),
  ]


_EXPLANATION = """\
*Accuracy* is the share of test queries whose elected answer is right, with a 95 % interval over queries: Wilson's,
for mean scores and random subsets the bootstrap's. *Wall clock* is what the user of one query waits, the called LLMs
answering in parallel; *summed compute* is the seconds of all calls, added up. Both include the classifier's own {own}
s (measured here, one query at a time) where it takes part. *s* is the subset size; in this table policies and subsets
have the size that was most accurate on validation, and `random` that of the first policy. The *vs* columns give
points gained on the same queries (`top_s` at the same size) with the p-value of a paired test (McNemar's). A gain
whose 95 % interval holds 0, which is where p >= 0.05, is *not resolved*: so many queries cannot tell. Intervals and
p-values are of one comparison; *not after Holm* is said of what is no longer resolved once the report's {family}
headline comparisons are taken together (policies, strategies and constraints, against the best single LLM, all LLMs
and their weighted vote; and, without a constraint, the best baseline strategy). `max_conf` calls the s LLMs with the
highest confidence, `labelled_max_conf` those of them that are predicted to be right (all where none is), and
`weighted_max_conf` weighs the votes of `max_conf` by confidence. `all_llms` is the vote of all LLMs; the *oracle* is
right when any LLM is. `top_s` calls the s LLMs most accurate on train; `static_weighted` calls the same, each vote
weighing the log-odds that its LLM is right, whatever the query. `best_s` calls the subset of size s whose vote was
most accurate on train and validation, `random` any s (the mean over {random}), `knn_top1` the LLM most often right on
the {neighbours} most similar training queries.
*Missing* responses are left out; an answer that could not be extracted is wrong.
"""


def _family(found: results.Results) -> int:
  """Returns how many headline comparisons there are; those of strategies stand in two places."""
  compared = [row.versus for row in found.chosen]
  compared += [row.versus for row in (found.tradeoff.constraints if found.tradeoff else []) if row.versus]
  return sum(gain is not None and gain.p_holm is not None for versus in compared for gain in versus.values())


def _on_seeds(found: results.Results) -> list[str]:
  """Returns what several seeds of the training mean for the numbers; nothing where there is one."""
  seeds = found.chosen[0].seeds
  if seeds is None:
    return []
  return [
    f'Methods are means over the classifiers of {len(seeds)} seeds ({found.chosen[0].name}: '
    f'{", ".join(map(tables.percent, seeds))} %). Intervals and p-values hold the variance between seeds beside that '
    'of the queries: they are of what one further training brings. Operating points and constraints, below, are of the '
    'first seed.\n'
  ]


def _methods(found: results.Results) -> list[str]:
  """Returns the section on the methods at their chosen sizes, and what the policies gain."""
  explanation = _EXPLANATION.format(
    own=tables.seconds(found.timing.classifier_latency_s),
    family=_family(found),
    random=(
      'all subsets'
      if len(found.dataset.llms) <= options.MOST_ENUMERATED
      else f'{options.RANDOM_DRAWS} subsets drawn for each query'
    ),
    neighbours=' or '.join(str(n) for n in sorted(set(found.knn_neighbours))),
  )
  return [
    tables.methods_table(tables.headline_rows(found), found).markdown(),
    explanation,
    *_on_seeds(found),
    '## The oracle\n',
    'Nothing that selects one LLM can be right more often than the oracle, but part of it is luck: the more LLMs, the '
    'more often one of them hits the answer by chance, which nobody can foresee. What two LLMs support, or one LLM '
    'repeats, is less so.\n',
    tables.oracle_table(found).markdown(),
    '## Gains of the policies\n',
    'Over fixed choices on the same queries (`top_s`, `best_s`: of the same size), with 95 % intervals; in square '
    'brackets, of what is not resolved, the smallest gain that so many queries show with a power of 80 %.\n',
    tables.gains_table(found).markdown(),
    '![Accuracy and time of policies, fixed subsets and single LLMs](figures/accuracy_time.png)\n',
    *([tables.policy_tradeoff_table(found.policy_tradeoff).markdown()] if found.policy_tradeoff else []),
  ]


def markdown(found: results.Results) -> str:
  """Returns the report as Markdown."""
  notes = warnings(found)
  sections = [
    f'# {tables.plain(found.dataset.title)}\n',
    _bullets(summary(found)),
    *(['**Note**\n', _bullets(notes)] if notes else []),
    *_methods(found),
    *tradeoff.section(found),
    '## The LLMs\n',
    'Accuracy with 95 % intervals in brackets.'
    + (' With folds nearly every query is in each of the splits once.' if found.dataset.folds else '')
    + '\n',
    tables.llms_table(found).markdown(),
    *_contamination(found.contamination),
    '## The classifier\n',
    f'The encoder is {found.encoder.sentence()}\n',
    tables.classifier_table(found.classifier).markdown(),
    '![Reliability of the confidences](figures/reliability.png)\n',
    '![Confusion of predicted and true labels](figures/confusion.png)\n',
    '## Called LLMs\n',
    '![How often each LLM is called](figures/selection.png)\n',
    *_by_task(found),
    *_error_analysis(found),
    '## Every method at every size\n',
    tables.methods_table(found.methods, found).markdown(),
    *_appendix(found.error_analysis),
  ]
  return '\n'.join(sections)


def write(workdir: pathlib.Path, found: results.Results) -> None:
  """Writes report.json, report.md and figures/ into a run directory, and shows the main table on the console."""
  content = results.to_json(found)  # first, for it refuses what is not finite
  (workdir / 'report.md').write_text(markdown(found), encoding='utf-8')
  figures.draw(found, workdir / 'figures', figures.FIGURES | tradeoff_figures.FIGURES)
  # Last: a run whose report.json is there has finished.
  with paths.atomic_write(workdir / 'report.json') as partial:
    partial.write_text(content)
  console = rich.console.Console()
  console.print(tables.console_table(found).rich(found.dataset.title))
  console.print('vs: points gained; in brackets what is not resolved, alone or after Holm', highlight=False)
  for line in [*warnings(found), f'The encoder is {found.encoder.sentence()}']:
    console.print('[yellow]Note:[/]', rich.markup.escape(line), highlight=False)
  console.print(f'Report: {workdir / "report.md"}', highlight=False, markup=False)
