import copy
import json
import re
from typing import Any

import pytest

from selectllm.report import document, tables


def _changed(results: dict[str, Any], name: str, reference: str, delta: float, p: float) -> dict[str, Any]:
  """The results, where a policy at its chosen size compares otherwise."""
  results = copy.deepcopy(results)
  row = next(row for row in results['chosen'] if row['name'] == name)
  row['versus'][reference] = {'delta': delta, 'p': p}
  return results


def _line(lines: list[str], word: str) -> str:
  (found,) = [line for line in lines if word in line]
  return found


@pytest.mark.parametrize(
  ('kind', 'words'),
  [('priced', 'measured latencies'), ('estimated', 'estimated latencies'), ('unknown', 'unknown latencies')],
)
def test_the_title_names_data_pool_queries_and_where_numbers_come_from(results_of, kind, words):
  title = document.title(results_of(kind=kind))
  assert title == f'Sums: 3 LLMs, 8 test queries of 28, recorded responses, {words}'
  assert document.markdown(results_of(kind=kind)).startswith(f'# {title}\n')


def test_the_title_of_a_cross_validation_names_the_folds(results_of):
  assert '16 test queries in 2 folds' in document.title(results_of(kind='folds'))


def test_an_insignificant_difference_is_called_a_tie(results_of):
  results = _changed(results_of(), 'max_conf', 'best_single', 0.035, 0.064)
  line = _line(document.summary(results), '**max_conf**')
  assert 'a tie with the best single LLM (+3.5 points, p=0.064)' in line


@pytest.mark.parametrize(('delta', 'words'), [(0.052, 'better than'), (-0.052, 'worse than')])
def test_a_significant_difference_is_named_with_its_p(results_of, delta, words):
  results = _changed(results_of(), 'weighted_max_conf', 'all_llms', delta, 0.0007)
  line = _line(document.summary(results), '**weighted_max_conf**')
  assert f'{words} the vote of all LLMs by 5.2 points (p=0.0007)' in line


def test_the_summary_holds_best_llm_vote_oracle_and_every_policy(results_of):
  results = results_of()
  lines = document.summary(results)
  for name in (*results['best_single'], 'all_llms', 'oracle', *tables.policies(results)):
    assert _line(lines, f'**{name}**')
  oracle = tables.percent(results['oracle']['accuracy'])
  assert f'{oracle} %' in _line(lines, '**oracle**')


def test_the_summary_of_scores_speaks_of_no_vote(results_of):
  text = '\n'.join(document.summary(results_of(kind='scores')))
  assert 'all_llms' not in text
  assert 'vote of all' not in text
  assert 'instead of' not in text


def test_the_summary_without_latencies_names_no_share_of_them(results_of):
  assert 'latency' not in '\n'.join(document.summary(results_of(kind='unknown')))
  assert 'of its summed latency' in '\n'.join(document.summary(results_of()))


@pytest.mark.parametrize(('test', 'warned'), [(0.71, True), (0.59, False), (0.39, True), (None, False)])
def test_an_llm_that_differs_by_more_than_ten_points_between_splits_is_warned_of(results_of, test, warned):
  results = copy.deepcopy(results_of())
  for row in results['llms'].values():
    row['accuracy'] = {'train': 0.5, 'validation': 0.55, 'test': 0.5, 'all': 0.5}
  assert not [line for line in document.warnings(results) if 'differs' in line]
  results['llms']['llama-2b-instruct']['accuracy']['test'] = test
  found = [line for line in document.warnings(results) if 'differs' in line]
  if warned:
    assert found == [
      'llama-2b-instruct differs by more than 10 points between splits: '
      f'train 50.0, validation 55.0, test {100 * test:.1f} %.'
    ]
  else:
    assert found == []


def test_truncated_queries_are_warned_of(results_of):
  results = copy.deepcopy(results_of())
  assert not [line for line in document.warnings(results) if 'longer' in line]
  results['dataset']['truncated'] = 8
  assert _line(document.warnings(results), 'longer than the encoder').startswith('8 queries')
  assert '8 queries' in document.markdown(results)


def test_estimated_latencies_and_missing_prices_are_said(results_of):
  assert _line(document.warnings(results_of()), 'nobody measured')
  assert _line(document.warnings(results_of()), 'No prices')
  priced = document.warnings(results_of(kind='priced'))
  assert not [line for line in priced if 'nobody measured' in line or 'No prices' in line]


def test_assumed_sizes_are_said(results_of):
  results = copy.deepcopy(results_of(kind='estimated'))
  results['dataset']['sizes_assumed'] = ['a', 'b']
  assert 'sizes of a, b are not published' in _line(document.warnings(results), 'assumed')


def test_another_data_set_than_was_asked_for_is_said(results_of):
  results = copy.deepcopy(results_of())
  assert not [line for line in document.warnings(results) if 'neither found' in line]
  results['dataset']['in_place_of'] = 'GSM8K'
  assert _line(document.warnings(results), 'neither found nor downloaded').startswith('GSM8K could')
  assert document.markdown(results).startswith('# Sums: ')
  assert 'GSM8K could be neither found' in document.markdown(results)


@pytest.mark.parametrize('kind', ['estimated', 'priced', 'unknown', 'scores', 'unseen', 'folds'])
def test_the_markdown_is_whole_for_every_kind_of_results(results_of, kind):
  results = results_of(kind=kind)
  text = document.markdown(results)
  assert ('$ per 1,000' in text.split('## The LLMs')[0]) == (kind == 'priced')
  assert '{' not in text
  assert not re.search(r'\bnan\b|\bNone\b', text)
  for name in {row['name'] for row in results['methods']} | set(results['llms']):
    assert f'| {name} |' in text
  # The rows of a table have as many cells as its header.
  for table in re.findall(r'(?:^\|.*\n)+', text, re.MULTILINE):
    assert len({line.count('|') for line in table.splitlines()}) == 1


@pytest.mark.parametrize('kind', ['estimated', 'scores'])
def test_writing_leaves_a_whole_report_and_shows_it(results_of, kind, tmp_path, capsys):
  results = results_of(kind=kind)
  document.write(tmp_path, results)
  assert json.loads((tmp_path / 'report.json').read_text()) == results
  text = (tmp_path / 'report.md').read_text()
  assert text == document.markdown(results)
  pictures = re.findall(r'\]\((.*?)\)', text)
  assert len(pictures) == 4
  for picture in pictures:
    assert (tmp_path / picture).is_file()
  shown = capsys.readouterr().out
  assert 'weighted_max_conf' in shown
  assert 'report.md' in shown.replace('\n', '')


def test_writing_again_replaces_the_report(results_of, tmp_path, monkeypatch):
  monkeypatch.setattr(document.figures, 'draw', lambda *_: None)
  document.write(tmp_path, results_of())
  document.write(tmp_path, results_of(kind='scores'))
  assert json.loads((tmp_path / 'report.json').read_text()) == results_of(kind='scores')
