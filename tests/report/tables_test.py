import io

import msgspec
import pytest
import rich.console

from selectllm.evaluate import results
from selectllm.report import tables
from tests.helpers import made_results


def _cells(table: tables.Table, column: str) -> dict[str, str]:
  """A column by the first cell of each row."""
  place = list(table.header).index(column)
  return {row[0]: row[place] for row in table.rows}


def _headline(found: results.Results) -> tables.Table:
  return tables.methods_table(tables.headline_rows(found), found)


def _any_method(found: results.Results, **fields) -> results.MethodResult:
  return msgspec.structs.replace(found.methods[0], **fields)


@pytest.mark.parametrize(
  ('value', 'text'),
  [(None, '-'), (0, '0.00'), (0.01234, '0.0123'), (1.5, '1.50'), (22.94, '22.9'), (120.4, '120'), (1234.5, '1.23e+03')],
)
def test_seconds_have_three_significant_digits(value, text):
  assert tables.seconds(value) == text


def test_shares_are_percent_and_dollars_are_per_thousand_queries():
  assert [tables.percent(share) for share in (None, 0, -1e-17, 0.6666, 1)] == ['-', '0.0', '0.0', '66.7', '100.0']
  assert [tables.dollars(cost) for cost in (None, 0.0004, 0.0123456)] == ['-', '0.400', '12.3']


@pytest.mark.parametrize(
  ('comparison', 'text'),
  [
    (None, '-'),
    ((0.035, 0.064), '+3.5 (not resolved)'),
    ((-0.001, 1.0), '-0.1 (not resolved)'),
    ((0.02, 0.034), '+2.0 (p=0.034)'),
    ((0.02, 0.034, 0.04), '+2.0 (p=0.034)'),
    ((0.02, 0.034, 0.06), '+2.0 (p=0.034, not after Holm)'),
    ((0.02, 0.05, 0.06), '+2.0 (not resolved)'),
    ((0.0517, 0.00071), '+5.2 (p<0.001)'),
    ((-0.2, 3e-12), '-20.0 (p<0.001)'),
  ],
)
def test_a_difference_inside_the_noise_is_not_resolved_and_others_have_their_p(results_of, comparison, text):
  versus = {'best_single': comparison and results.Comparison(**made_results.comparison(*comparison))}
  assert tables.versus(_any_method(results_of(), versus=versus), 'best_single') == text


def test_methods_that_never_differ_are_the_same():
  same = results.Comparison(**made_results.comparison(0.0, 1.0) | {'differ': 0})
  assert tables.gain(same) == '+0.0 (same)'


@pytest.mark.parametrize('kind', ['estimated', 'priced', 'unknown', 'scores', 'unseen', 'folds'])
def test_tables_are_rectangular(results_of, kind):
  found = results_of(kind=kind)
  made = [
    _headline(found),
    tables.methods_table(found.methods, found),
    tables.console_table(found),
    tables.llms_table(found),
    tables.classifier_table(found.classifier),
  ]
  for table in made:
    assert table.rows
    assert {len(row) for row in table.rows} == {len(table.header)}
    assert all(isinstance(cell, str) and 'nan' not in cell and 'None' not in cell for row in table.rows for cell in row)


def test_the_main_table_has_the_methods_that_matter_at_the_chosen_sizes(results_of):
  found = results_of()
  names = [row.name for row in tables.headline_rows(found)]
  baselines = ['knn_top1', 'top_s', 'static_weighted', 'best_s', 'random', 'all_llms', *found.best_single, 'oracle']
  assert names == [*tables.policies(found), *baselines]
  sizes = {row.name: row.sizes for row in found.chosen}
  shown = _cells(_headline(found), 's')
  for name in (*tables.policies(found), 'top_s', 'static_weighted', 'best_s'):
    assert shown[name] == str(sizes[name][0])
  assert shown['random'] == shown['weighted_max_conf']
  assert shown['oracle'] == '-'


def test_folds_of_different_sizes_show_them_all(results_of):
  assert tables.size_of(_any_method(results_of(), size=None, sizes=[3, 1, 3])) == '1, 3'
  assert tables.size_of(_any_method(results_of(), size=2)) == '2'
  assert tables.size_of(_any_method(results_of(), size=None)) == '-'


def test_scores_alone_have_no_votes_to_compare_with(results_of):
  names = [row.name for row in tables.headline_rows(results_of(kind='scores'))]
  assert 'all_llms' not in names
  assert 'best_s' not in names
  assert set(_cells(_headline(results_of(kind='scores')), 'vs all LLMs').values()) == {'-'}


def test_the_classifiers_own_latency_is_added_to_who_uses_it(results_of):
  found = results_of()
  own = found.timing.classifier_latency_s
  for column, field in (('wall clock, s (estimated)', 'wall_clock_s'), ('summed compute, s (estimated)', 'compute_s')):
    shown = _cells(_headline(found), column)
    for row in tables.headline_rows(found):
      classified = row.name in (*tables.policies(found), 'knn_top1')
      assert shown[row.name] == tables.seconds(getattr(row, field) + (own if classified else 0))


def test_a_policy_that_no_table_knows_is_reported_like_the_others(results_of):
  content = msgspec.to_builtins(results_of())
  for rows in (content['methods'], content['chosen']):
    rows += [row | {'name': 'newest'} for row in rows if row['name'] == 'max_conf']
  content['selected']['newest'] = content['selected']['max_conf']
  for column in ('accuracy %', 'summed compute, s (estimated)'):
    shown = _cells(_headline(results.from_builtins(content)), column)
    assert shown['newest'] == shown['max_conf']


def test_estimated_seconds_are_called_so_in_every_table(results_of):
  for kind, mark in (('estimated', ' (estimated)'), ('priced', '')):
    found = results_of(kind=kind)
    assert f'wall clock, s{mark}' in _headline(found).header
    assert f'summed compute, s{mark}' in tables.console_table(found).header
    assert f'seconds a call{mark}' in tables.llms_table(found).header


def test_unknown_latencies_are_dashes_even_where_the_classifier_is_timed(results_of):
  for kind in ('unknown', 'scores'):
    assert set(_cells(_headline(results_of(kind=kind)), 'summed compute, s').values()) == {'-'}


def test_costs_have_a_column_where_prices_are_known(results_of):
  assert '$ per 1,000' not in _headline(results_of()).header
  priced = results_of(kind='priced')
  shown = _cells(_headline(priced), '$ per 1,000')
  whole = next(row for row in priced.methods if row.name == 'all_llms')
  assert shown['all_llms'] == f'{1000 * whole.cost_usd:#.3g}'.rstrip('.')


def test_an_llm_without_a_test_response_is_all_dashes(results_of):
  found = results_of(kind='unseen')
  table = tables.methods_table(found.methods, found)
  row = next(row for row in table.rows if row[0] == 'single:llama-1b-instruct')
  assert row == ['single:llama-1b-instruct', '1', '-', '- to -', *['-'] * 7]


def test_splits_stand_side_by_side(results_of):
  found = results_of(kind='unseen')
  table = tables.llms_table(found)
  assert [name for name in table.header if name in ('train %', 'validation %', 'test %')] == [
    'train %',
    'validation %',
    'test %',
  ]
  assert _cells(table, 'test %')['llama-1b-instruct'] == '-'
  assert _cells(table, 'missing')['llama-1b-instruct'] == '9'
  row = found.llms['llama-2b-instruct']
  low, high = map(tables.percent, row.accuracy_ci['train'])
  assert _cells(table, 'train %')['llama-2b-instruct'] == f'{tables.percent(row.accuracy["train"])} ({low} to {high})'


def test_duplicates_have_counts_and_shares(results_of):
  table = tables.duplicates_table(results_of().contamination)
  assert table.rows == [
    ['test in train', '8', '1 (12.5 %)', '1 (12.5 %)'],
    ['test in validation', '8', '0 (0.0 %)', '0 (0.0 %)'],
    ['validation in train', '8', '0 (0.0 %)', '0 (0.0 %)'],
  ]
  content = msgspec.to_builtins(results_of())
  content['contamination']['duplicates'][0]['near'] = None
  assert tables.duplicates_table(results.from_builtins(content).contamination).rows[0][-1] == '-'


def test_pairs_that_are_alike_are_shown_as_they_are(results_of):
  content = msgspec.to_builtins(results_of())
  content['contamination']['examples'][1]['texts'] = ('a | b *c* `d`', '<e>')
  exact, near = tables.duplicate_examples_table(results.from_builtins(content).contamination).rows
  assert exact[0] == '1.00'
  assert near[1:] == ["question 21 (test): `a | b *c* 'd'`", 'question 1 (train): `<e>`']


def test_accuracies_without_duplicates_stand_beside_those_with(results_of):
  content = msgspec.to_builtins(results_of())
  rows = content['contamination']['methods']
  rows[0].update({'accuracy': 0.75, 'clean_accuracy': 0.5, 'clean_ci': (0.25, 0.625)})
  rows[1].update({'clean_accuracy': None, 'clean_ci': (None, None)})
  found = results.from_builtins(content)
  table = tables.clean_table(found.contamination)
  assert table.rows[0] == [rows[0]['name'], '75.0', '50.0 (25.0 to 62.5)', '-25.0']
  assert table.rows[1][2:] == ['-', '-']
  assert [row[0] for row in table.rows] == [
    *tables.policies(found), 'top_s', 'static_weighted', 'best_s', 'all_llms', 'knn_top1', *found.best_single
  ]  # fmt: skip


def test_markdown_has_a_header_a_rule_and_all_rows():
  text = tables.Table(['LLM', 'right', 'wrong'], [['a', '1', '2'], ['b', '3', '4']]).markdown()
  assert text == '| LLM | right | wrong |\n| --- | ---: | ---: |\n| a | 1 | 2 |\n| b | 3 | 4 |\n'


def test_the_console_has_gains_that_do_not_hold_in_brackets(results_of):
  content = msgspec.to_builtins(results_of())
  gains = {'all_llms': (0.02, 0.3), 'single:llama-3b-instruct': (0.02, 0.03, 0.3), 'knn_top1': (-0.05, 0.001, 0.02)}
  for row in content['methods']:
    if row['name'] in gains:
      row['versus']['best_single'] = made_results.comparison(*gains[row['name']])
  shown = _cells(tables.console_table(results.from_builtins(content)), 'vs best single')
  assert [shown[name.removeprefix('single:')] for name in gains] == ['(+2.0)', '(+2.0)', '-5.0']


@pytest.mark.parametrize('llms', [3, 10])
def test_a_narrow_console_cuts_nothing_off(results_of, llms):
  content = msgspec.to_builtins(results_of(llms))
  for row in (*content['methods'], *content['chosen']):
    row['versus']['best_single'] = made_results.comparison(-0.22, 1e-6)
  file = io.StringIO()
  table = tables.console_table(results.from_builtins(content))
  rich.console.Console(file=file, width=80).print(table.rich('A title'))
  assert '…' not in file.getvalue()


def test_the_console_shows_each_method_on_one_line(results_of):
  found = results_of(10)
  file = io.StringIO()
  rich.console.Console(file=file, width=100).print(tables.console_table(found).rich('A title'))
  lines = file.getvalue().splitlines()
  assert 'A title' in lines[0]
  for name, accuracy in _cells(tables.console_table(found), 'accuracy %').items():
    assert [line for line in lines if name in line.split() and accuracy in line.split()], name


def test_gains_carry_intervals(results_of):
  found = results_of()
  table = tables.gains_table(found)
  assert [row[0] for row in table.rows] == tables.policies(found)
  row = next(row for row in found.chosen if row.name == table.rows[0][0])
  of = row.versus['best_s']
  bounds = f'{100 * of.ci[0]:+.1f} to {100 * of.ci[1]:+.1f}'
  assert table.rows[0][-1] == f'{tables.versus(row, "best_s")}, {bounds} [{100 * of.detectable:.1f}]'
  without = tables.gains_table(results_of(kind='scores'))
  assert '-' in without.rows[0]


@pytest.mark.parametrize(
  ('p', 'text'),
  [
    (0.0495, 'p=0.0495'),
    (0.04999, 'p=0.04999'),
    (0.05, 'p=0.05'),
    (0.012, 'p=0.012'),
    (0.0004, 'p<0.001'),
    (0.9, 'p=0.9'),
  ],
)
def test_a_p_value_stays_on_its_side_of_what_is_resolved(p, text):
  assert tables.p_value(p) == text
