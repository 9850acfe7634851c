"""Writes the tables of README.md and docs/ from the reports of finished runs.

  python -m tools.results_tables runs/mini runs/gsm8k runs/gsm8k_folds runs/mmlu_pro
  python -m tools.results_tables --check      # fails when a page is not what docs/results/*.json says

Every run leaves an extract, `docs/results/NAME.json`: its tables as they are printed, with the command and versions
that made them. Pages take their tables from the extracts, between the marks `<!-- results: NAME/TABLE -->` and
`<!-- /results -->`; NAME/sentences are what the report says in words; `summary`, `tradeoff`, `probability` and
`sources` stand for tables of several extracts.
"""

import argparse
import json
import pathlib
import re
import shutil
import sys
from typing import Any

from selectllm.evaluate import results
from selectllm.report import tables, tradeoff

_ROOT = pathlib.Path(__file__).parents[1]
_MARKED = re.compile(r'(<!-- results: ([\w/]+) -->\n)(.*?)(<!-- /results -->)', re.DOTALL)
_COMMAND = 'selectllm --config={config} --workdir=runs/{name}'
_FIGURE = 'figures/tradeoff.png'

# Name of a run directory, and of an extract -> its config.
RUNS = {'gsm8k_folds': 'gsm8k:folds=5', 'gsm8k': 'gsm8k', 'mmlu_pro': 'mmlu_pro', 'mini': 'mini'}
# Those in tables of several, and what they are called there.
COMPARED = {'gsm8k_folds': 'GSM8K', 'mmlu_pro': 'MMLU-Pro'}
# Rows of `tradeoff` that stand in the summary, and what they are called there.
SUMMARY = {
  'vote of all LLMs': 'vote of all LLMs',
  'best single LLM': 'best single LLM',
  '`accuracy>=all_llms`': 'asked to be as accurate as the vote of all',
  '`accuracy>=best_single`': 'asked to be as accurate as the best single LLM',
  '`none`': 'asked for the most accurate',
}

# Columns of the report's tables that pages are too narrow for.
_METHODS_LEFT_OUT = ('of the oracle %',)
_CONSTRAINTS_LEFT_OUT = ('#', 'operating point', 'calls')

Extract = dict[str, Any]


def _without(table: tables.Table, left_out: tuple[str, ...]) -> tables.Table:
  """Returns a table without these columns, and without those that hold nothing but dashes."""
  known = (any(cells[place] != '-' for cells in table.rows) for place in range(len(table.header)))
  places = enumerate(zip(table.header, known, strict=True))
  return table.columns([place for place, (name, said) in places if said and name not in left_out])


def _tradeoff(of: results.Tradeoff, scale: tradeoff.CostScale) -> tables.Table:
  """Tabulates what references, constraints and strategies gave on test, and at what cost."""
  measured = {'vote of all LLMs': of.references['all_llms'], 'best single LLM': of.references['best_single']}
  measured |= {f'`{row.constraint}`': row.measured for row in of.constraints if row.measured}
  measured |= {f'`{name}`': row.measured for name, row in of.best.items()}
  rows = [
    [
      name,
      tables.with_interval(row.accuracy, row.accuracy_ci or (None, None)),
      *(f'{each.percent_of_all(row):.0f}' for each in scale.both),
    ]
    for name, row in measured.items()
  ]
  return tables.Table(['on test', 'accuracy %', *(f'{each.words}, % of all' for each in scale.both)], rows)


def _probability(found: results.AnswerProbability) -> tables.Table:
  """Tabulates how far P(the answer is right) can be trusted."""
  rows = [
    ['ECE of P(right)', tables.measure(found.ece)],
    ['points gained by leaving the least sure 20 % unanswered', f'{100 * found.abstain_20.gain:+.1f}'],
  ]
  return tables.Table(['', found.strategy], rows)


def extract(name: str, run: pathlib.Path) -> Extract:
  """Reads the tables of a finished run.

  Args:
    name: One of `RUNS`.
    run: Its run directory.

  Raises:
    results.ResultsError: when its report is of another version, or damaged.
  """
  found = results.load(run / 'report.json')
  environment = json.loads((run / 'environment.json').read_text())
  sizes = [row for row in found.methods if row.name == tables.policies(found)[0]]
  made = {
    'methods': _without(tables.methods_table(tables.headline_rows(found), found), _METHODS_LEFT_OUT),
    'sizes': _without(tables.methods_table(sizes, found), _METHODS_LEFT_OUT),
  }
  if of := found.tradeoff:
    scale = tradeoff.cost_scale(of)
    made['tradeoff'] = _tradeoff(of, scale)
    made['constraints'] = _without(tradeoff.constraints_table(of, scale), _CONSTRAINTS_LEFT_OUT)
    if of.p_right:
      made['probability'] = _probability(of.p_right)
  return {
    'command': _COMMAND.format(config=RUNS[name], name=name),
    'test_queries': found.dataset.queries_per_split.test,
    'versions': {'python': environment['python'], **environment['packages']},
    'git_commit': environment['git_commit'],
    'sentences': tradeoff.summary(found, found.tradeoff) if found.tradeoff else [],
    'tables': {key: {'header': list(table.header), 'rows': table.rows} for key, table in made.items()},
  }


def _beside(extracts: dict[str, Extract], key: str, shown: dict[str, str] | None = None) -> tables.Table:
  """Puts a table of several extracts side by side: all rows, or these under the names given."""
  header, width = [''], 1
  rows: dict[str, list[str]] = {}
  for name, title in COMPARED.items():
    if found := extracts.get(name, {'tables': {}})['tables'].get(key):
      header[0] = found['header'][0]
      header += [f'{title}: {column}' for column in found['header'][1:]]
      for first, *rest in found['rows']:
        row = rows.setdefault(first, [])
        row += ['-'] * (width - 1 - len(row)) + rest
      width = len(header)
  shown = {first: first for first in rows} if shown is None else shown
  return tables.Table(
    header, [[shown[first], *rows[first]] + ['-'] * (width - 1 - len(rows[first])) for first in shown]
  )


def _sources(extracts: dict[str, Extract]) -> tables.Table:
  rows = []
  for name in RUNS:
    if one := extracts.get(name):
      versions = ', '.join(f'{package} {version}' for package, version in one['versions'].items())
      made_by = versions + (f', commit {one["git_commit"][:7]}' if one['git_commit'] else '')
      rows.append([f'`{one["command"]}`', f'{one["test_queries"]:,}', made_by])
  return tables.Table(['command', 'test queries', 'made with'], rows)


def table(mark: str, extracts: dict[str, Extract]) -> str:
  """Returns the Markdown of the table that a mark names.

  Raises:
    ValueError: for a mark that names no table.
  """
  if mark == 'sources':
    return _sources(extracts).markdown()
  if mark == 'summary':
    return _beside(extracts, 'tradeoff', SUMMARY).markdown()
  if mark in ('tradeoff', 'probability'):
    return _beside(extracts, mark).markdown()
  name, _, key = mark.partition('/')
  if name in extracts and key == 'sentences':
    return ''.join(f'- {sentence}\n' for sentence in extracts[name]['sentences'])
  if name not in RUNS or key not in ('methods', 'sizes', 'tradeoff', 'constraints', 'probability'):
    raise ValueError(f'no table {mark!r}')
  found = extracts.get(name, {'tables': {}})['tables'].get(key)
  if found is None:
    return f'(Not in the extract of this run: {_COMMAND.format(config=RUNS[name], name=name)} makes it.)\n'
  return tables.Table(found['header'], found['rows']).markdown()


def render(page: str, extracts: dict[str, Extract]) -> str:
  """Returns a page with all marked tables as the extracts have them."""
  return _MARKED.sub(lambda match: f'{match[1]}\n{table(match[2], extracts)}\n{match[4]}', page)


def _take_in(run: pathlib.Path, docs: pathlib.Path) -> None:
  """Writes the extract of a run into docs/results and copies its figure."""
  name = run.name
  if name not in RUNS:
    raise ValueError(f'{run}: run directories are named {", ".join(RUNS)}')
  text = json.dumps(extract(name, run), indent=1, ensure_ascii=False) + '\n'
  (docs / 'results' / f'{name}.json').write_text(text, encoding='utf-8')
  if (run / _FIGURE).exists():
    shutil.copyfile(run / _FIGURE, docs / 'figures' / f'tradeoff_{name}.png')


def main(argv: list[str] | None = None, root: pathlib.Path = _ROOT) -> int:
  """Writes extracts, figures and pages, or checks the pages; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('runs', nargs='*', type=pathlib.Path, help='finished run directories')
  parser.add_argument('--check', action='store_true', help='write nothing; fail when a page would change')
  options = parser.parse_args(argv)
  docs = root / 'docs'
  if options.check and options.runs:
    parser.error('--check takes no runs')
  for run in options.runs:
    _take_in(run, docs)
  extracts = {path.stem: json.loads(path.read_text(encoding='utf-8')) for path in docs.glob('results/*.json')}
  changed = []
  for page in [root / 'README.md', *sorted(docs.rglob('*.md'))]:
    text = page.read_text(encoding='utf-8')
    if (rendered := render(text, extracts)) != text:
      changed.append(str(page.relative_to(root)))
      if not options.check:
        page.write_text(rendered, encoding='utf-8')
  if changed:
    print(('Not what docs/results/*.json says: ' if options.check else 'Written: ') + ', '.join(changed))
  return int(options.check and bool(changed))


if __name__ == '__main__':
  sys.exit(main())
