import json
import re

import msgspec
import pytest

from selectllm.evaluate import results
from selectllm.report import report, tables
from tests.helpers import made_results


def _changed(
  found: results.Results, name: str, reference: str, delta: float, p: float, p_holm: float | None = None
) -> results.Results:
  """The results, where a policy at its chosen size compares otherwise."""
  content = msgspec.to_builtins(found)
  row = next(row for row in content['chosen'] if row['name'] == name)
  row['versus'][reference] = made_results.comparison(delta, p, p_holm)
  return results.from_builtins(content)


def _line(lines: list[str], word: str) -> str:
  (found,) = [line for line in lines if word in line]
  return found


@pytest.mark.parametrize(
  ('kind', 'words'),
  [('priced', 'measured latencies'), ('estimated', 'estimated latencies'), ('unknown', 'unknown latencies')],
)
def test_the_title_names_data_pool_queries_and_where_numbers_come_from(results_of, kind, words):
  title = results_of(kind=kind).dataset.title
  assert title == f'Sums: 3 LLMs, 8 test queries of 28, recorded responses, {words}'
  assert report.markdown(results_of(kind=kind)).startswith(f'# {title}\n')


def test_the_title_of_a_cross_validation_names_the_folds(results_of):
  assert '16 test queries in 2 folds' in results_of(kind='folds').dataset.title


def test_a_difference_that_so_many_queries_cannot_show_is_not_resolved(results_of):
  found = _changed(results_of(), 'max_conf', 'best_single', 0.035, 0.064)
  line = _line(report.summary(found), '**max_conf**')
  assert 'not resolved against the best single LLM (+3.5 points, p=0.064; so many queries show gains from 2.8' in line


@pytest.mark.parametrize(('delta', 'words'), [(0.052, 'better than'), (-0.052, 'worse than')])
def test_a_significant_difference_is_named_with_its_p(results_of, delta, words):
  found = _changed(results_of(), 'weighted_max_conf', 'all_llms', delta, 0.0034)
  line = _line(report.summary(found), '**weighted_max_conf**')
  assert f'{words} the vote of all LLMs by 5.2 points (p=0.0034)' in line
  assert 'Holm' not in line


def test_a_difference_that_does_not_hold_among_all_headline_comparisons_is_said(results_of):
  found = _changed(results_of(), 'max_conf', 'all_llms', 0.021, 0.034, p_holm=0.27)
  line = _line(report.summary(found), '**max_conf**')
  assert 'better than the vote of all LLMs by 2.1 points (p=0.034), but not after Holm' in line
  assert '+2.1 (p=0.034, not after Holm)' in report.markdown(found)


def test_several_seeds_are_told_with_the_accuracy_of_each(results_of):
  content = msgspec.to_builtins(results_of())
  assert 'seeds' not in report.markdown(results.from_builtins(content))
  content['chosen'][0]['seeds'] = [0.5, 0.625]
  text = report.markdown(results.from_builtins(content))
  assert f'the classifiers of 2 seeds ({content["chosen"][0]["name"]}: 50.0, 62.5 %)' in text


def test_the_summary_holds_best_llm_vote_oracle_and_every_policy(results_of):
  found = results_of()
  lines = report.summary(found)
  for name in (*found.best_single, 'all_llms', 'oracle', *tables.policies(found)):
    assert _line(lines, f'**{name}**')
  oracle = tables.percent(found.oracle.accuracy)
  assert f'{oracle} %' in _line(lines, '**oracle**')
  assert f'on {tables.percent(found.oracle.supported)} % two LLMs give the right answer' in _line(lines, '**oracle**')


def test_the_summary_of_scores_speaks_of_no_vote(results_of):
  text = '\n'.join(report.summary(results_of(kind='scores')))
  assert 'all_llms' not in text
  assert 'vote of all' not in text
  assert 'instead of' not in text


def test_the_summary_without_latencies_names_no_share_of_them(results_of):
  unknown, known = ('\n'.join(report.summary(results_of(kind=kind))) for kind in ('unknown', 'estimated'))
  for words in ('% of its wall clock', '% of its summed compute'):
    assert words in known
    assert words not in unknown


def _with_accuracies(found: results.Results, llm: str, points: int, **accuracy: float | None) -> results.Results:
  """The results, where all LLMs are alike on all splits but one, whose intervals reach so many points to both sides."""
  content = msgspec.to_builtins(found)
  for name, row in content['llms'].items():
    row['accuracy'] = {'train': 0.5, 'validation': 0.55, 'test': 0.5, 'all': 0.5} | (accuracy if name == llm else {})
    row['accuracy_ci'] = {
      part: [None, None] if share is None else [share - points / 100, share + points / 100]
      for part, share in row['accuracy'].items()
    }
  return results.from_builtins(content)


@pytest.mark.parametrize(('test', 'warned'), [(0.71, True), (0.59, False), (0.39, True), (None, False)])
def test_an_llm_that_differs_by_more_than_ten_points_between_splits_is_warned_of(results_of, test, warned):
  llm = 'llama-2b-instruct'
  assert not [line for line in report.warnings(_with_accuracies(results_of(), llm, 3)) if 'differs' in line]
  found = [line for line in report.warnings(_with_accuracies(results_of(), llm, 3, test=test)) if 'differs' in line]
  assert len(found) == warned
  if warned:
    assert found[0].startswith(
      f'{llm} differs by more than 10 points between splits: '
      'train 50.0 (47.0 to 53.0), validation 55.0 (52.0 to 58.0), '
      f'test {100 * test:.1f} ({100 * test - 3:.1f} to {100 * test + 3:.1f}) %. '
    )


@pytest.mark.parametrize(('points', 'words'), [(5, 'lie apart'), (9, 'lie apart'), (12, 'overlap: on so few queries')])
def test_a_difference_between_splits_is_a_shift_only_where_the_intervals_lie_apart(results_of, points, words):
  llm = 'llama-2b-instruct'
  line = _line(report.warnings(_with_accuracies(results_of(), llm, points, test=0.30, validation=0.5)), 'differs')
  assert f'The intervals of train and test {words}' in line


@pytest.mark.parametrize(
  ('llm', 'accuracy', 'words'),
  [
    # Few-shot exemplars for validation: whoever was prompted with them has them right.
    ('llama-3b-instruct', {'train': 0.71, 'validation': 0.97, 'test': 0.70}, 'of validation and test lie apart'),
    # One LLM was trained on the training split.
    ('llama-1b-instruct', {'train': 0.92, 'validation': 0.91, 'test': 0.67}, 'of train and test lie apart'),
  ],
)
def test_the_classic_contaminations_are_named(results_of, llm, accuracy, words):
  line = _line(report.warnings(_with_accuracies(results_of(), llm, 2, **accuracy)), 'differs')
  assert line.startswith(llm)
  assert words in line
  assert f'or {llm} has seen {words.split()[1]} before' in line
  assert line in report.markdown(_with_accuracies(results_of(), llm, 2, **accuracy))


def _with_duplicates(found: results.Results, exact: int, near: int | None, clean: int = 780) -> results.Results:
  """The results, where 1,000 test queries have so many duplicates in train, and other splits none."""
  content = msgspec.to_builtins(found)
  content['contamination'] |= {'tested': 1000, 'clean': clean}
  for row in content['contamination']['duplicates']:
    counts = {'exact': exact, 'near': near} if (row['of'], row['within']) == ('test', 'train') else {}
    row.update({'queries': 1000, 'exact': 0, 'near': 0 if near is not None else None} | counts)
  content['contamination']['methods'][0].update({'accuracy': 0.655, 'clean_accuracy': 0.612})
  return results.from_builtins(content)


@pytest.mark.parametrize(
  ('exact', 'near', 'words'),
  [
    (0, 0, []),
    (0, 10, []),
    (0, None, []),
    (1, 0, ['1 of 1,000 test queries ask exactly what a train query asks.']),
    (0, 11, ['11 of 1,000 test queries (1.1 %) ask nearly the same as a train query.']),
    (20, 200, ['20 of 1,000 test queries ask exactly', '200 of 1,000 test queries (20.0 %) ask nearly the same']),
  ],
)
def test_duplicates_across_splits_are_warned_of(results_of, exact, near, words):
  found = _with_duplicates(results_of(), exact, near)
  lines = [line for line in report.warnings(found) if ' query' in line and ' ask ' in line]
  assert len(lines) == len(words)
  for line, start in zip(lines, words, strict=True):
    assert line.startswith(start)
  if words:
    policy = tables.policies(found)[0]
    assert lines[-1].endswith(
      f'On the 780 test queries without a duplicate in another split, {policy} answers 61.2 % right, '
      'on all 1,000 65.5 %.'
    )


def test_the_section_on_contamination_holds_counts_examples_and_clean_accuracies(results_of):
  found = results_of()
  section = report.markdown(found).split('## Contamination')[1].split('\n## ')[0]
  assert 'Jaccard similarity of 0.8' in section
  assert tables.duplicates_table(found.contamination).markdown() in section
  assert 'question 20 (test)' in section
  assert 'Accuracy on the 6 of 8 test queries' in section
  assert tables.clean_table(found.contamination).markdown() in section
  assert 'random sample' not in section
  assert 'not all were compared' not in section


def test_what_was_not_searched_is_said(results_of):
  content = msgspec.to_builtins(results_of())
  content['contamination'] |= {'distinct': 3_000_000, 'searched': 1_000_000, 'crowded': 12}
  text = report.markdown(results.from_builtins(content))
  assert 'Only a random sample of 1,000,000 of 3,000,000 different questions' in text
  assert '12 questions have so many similar ones that not all were compared' in text
  content['contamination'] |= {'near_duplicates': 0, 'searched': 0, 'crowded': 0}
  text = report.markdown(results.from_builtins(content))
  assert 'random sample' not in text
  assert 'nearly the same when' not in text


def test_without_duplicates_the_section_is_its_table(results_of):
  content = msgspec.to_builtins(results_of())
  content['contamination'] |= {'clean': 8, 'examples': []}
  section = report.markdown(results.from_builtins(content)).split('## Contamination')[1].split('\n## ')[0]
  assert section.count('| --- |') == 1
  assert 'Accuracy on the' not in section


def _of_data(found: results.Results, **fields) -> results.Results:
  """The results, where facts about the data set are others."""
  return msgspec.structs.replace(found, dataset=msgspec.structs.replace(found.dataset, **fields))


def test_truncated_queries_are_warned_of(results_of):
  assert not [line for line in report.warnings(results_of()) if 'longer' in line]
  found = _of_data(results_of(), truncated=8)
  assert _line(report.warnings(found), 'longer than the encoder').startswith('8 queries')
  assert '8 queries' in report.markdown(found)


def test_estimated_latencies_and_missing_prices_are_said(results_of):
  assert _line(report.warnings(results_of()), 'not measured')
  assert _line(report.warnings(results_of()), 'No prices')
  priced = report.warnings(results_of(kind='priced'))
  assert not [line for line in priced if 'not measured' in line or 'No prices' in line]


def test_published_latencies_are_never_called_measured(results_of):
  found = _of_data(results_of(kind='priced'), latency='published')
  assert found.dataset.title.endswith('published latencies')
  assert 'the same for every query' in _line(report.warnings(found), 'published mean')
  assert not [line for line in report.warnings(results_of(kind='priced')) if 'published mean' in line]


def test_training_queries_that_were_left_out_are_counted(results_of):
  assert not [line for line in report.warnings(results_of()) if 'left out' in line]
  found = _of_data(results_of(), unused=1_200)
  assert _line(report.warnings(found), 'left out').startswith('1,200 of 1,212 training queries')


def test_assumed_sizes_are_said(results_of):
  found = _of_data(results_of(kind='estimated'), sizes_assumed=['a', 'b'])
  assert 'sizes of a, b are not published' in _line(report.warnings(found), 'assumed')


def test_estimated_latencies_are_said_to_be_and_by_which_model(results_of):
  model = '0.3 s a call + 1 ms a written token'
  found = _of_data(results_of(kind='estimated'), latency_model=model)
  assert _line(report.warnings(found), 'estimated').startswith(f'Latencies are estimated, not measured: {model}')
  some = _of_data(results_of(kind='unknown'), latency_model=model)
  assert _line(report.warnings(some), 'estimated').startswith('Some latencies are estimated')
  others = _of_data(results_of(kind='estimated'), latency_model='')
  assert 'by whoever recorded them' in _line(report.warnings(others), 'estimated')
  assert 'left open' in _line(report.warnings(some), 'not known')


def test_names_are_shown_as_they_are(results_of, tmp_path, capsys):
  """No name is taken for a formula, for markup or for HTML."""
  names = [
    'cost $x_{ model$',
    'gpt-4o ($2.5 in, $10 out)',
    'L[lora] [/]',
    '<img src=x onerror=y>',
    '_a|b',
    'two\nlines',
  ]
  content = json.loads(results.to_json(results_of(llms=6)))
  text = json.dumps(content)
  for old, new in zip(content['dataset']['llms'], names, strict=True):
    text = text.replace(old, json.dumps(new)[1:-1])
  found = results.from_builtins(json.loads(text))
  report.write(tmp_path, found)
  assert (tmp_path / 'figures' / 'confusion.png').exists()
  written = (tmp_path / 'report.md').read_text()
  assert '<img' not in written
  assert '| gpt-4o ($2.5 in, $10 out) |' in written
  shown = capsys.readouterr().out
  assert 'L[lora] [/]' in shown or 'L[lora] [/]' in written


def test_another_data_set_than_was_asked_for_is_said(results_of):
  assert not [line for line in report.warnings(results_of()) if 'neither found' in line]
  found = _of_data(results_of(), in_place_of='GSM8K')
  assert _line(report.warnings(found), 'neither found nor downloaded').startswith('GSM8K could')
  assert report.markdown(found).startswith('# Sums: ')
  assert 'GSM8K could be neither found' in report.markdown(found)


@pytest.mark.parametrize('kind', ['estimated', 'priced', 'unknown', 'scores', 'unseen', 'folds', 'tasks'])
def test_the_markdown_is_whole_for_every_kind_of_results(results_of, kind):
  found = results_of(kind=kind)
  text = report.markdown(found)
  assert ('$ per 1,000' in text.split('## The LLMs')[0]) == (kind == 'priced')
  assert '{' not in text
  assert not re.search(r'\bnan\b|\bNone\b', text)
  for name in {row.name for row in found.methods} | set(found.llms):
    assert f'| {name} |' in text
  # The rows of a table have as many cells as its header.
  for table in re.findall(r'(?:^\|.*\n)+', text, re.MULTILINE):
    assert len({len(re.findall(r'(?<!\\)\|', line)) for line in table.splitlines()}) == 1


@pytest.mark.parametrize(('kind', 'count'), [('estimated', 5), ('scores', 5), ('tasks', 6)])
def test_writing_leaves_a_whole_report_and_shows_it(results_of, kind, count, tmp_path, capsys):
  found = results_of(kind=kind)
  report.write(tmp_path, found)
  assert results.load(tmp_path / 'report.json') == found
  assert json.loads((tmp_path / 'report.json').read_text()) == json.loads(results.to_json(found))
  text = (tmp_path / 'report.md').read_text()
  assert text == report.markdown(found)
  pictures = re.findall(r'!\[.*?\]\((.*?)\)', text)
  assert len(pictures) == count
  for picture in pictures:
    assert (tmp_path / picture).is_file()
  shown = capsys.readouterr().out
  assert 'weighted_max_conf' in shown
  assert 'report.md' in shown.replace('\n', '')


def test_writing_again_replaces_the_report(results_of, tmp_path, monkeypatch):
  monkeypatch.setattr(report.figures, 'draw', lambda *_: None)
  report.write(tmp_path, results_of())
  report.write(tmp_path, results_of(kind='scores'))
  assert results.load(tmp_path / 'report.json') == results_of(kind='scores')
  assert [path.name for path in tmp_path.iterdir() if '.part' in path.name] == []


def test_categories_are_shown_where_there_are_some(results_of):
  text = report.markdown(results_of(kind='tasks'))
  table = text.split('## Accuracy by category')[1].split('\n## ')[0]
  assert '| category | queries | weighted_max_conf | max_conf | labelled_max_conf |' in table
  assert r'| a\|b |' in table
  assert 'of 3 categories' in text.split('## Called LLMs by category')[1]
  assert 'category' not in report.markdown(results_of())


def _with_followers(found, followers):
  """Three categories, in so many of which the LLM that is called first is the one that is right."""
  content = msgspec.to_builtins(found)
  for place, row in enumerate(content['by_task']):
    for llm, values in row['llms'].items():
      values['first'] = float(llm.startswith('llama-1b'))
      values['accuracy'] = 0.9 if llm.startswith('llama-1b' if place < followers else 'llama-2b') else 0.5
  return results.from_builtins(content)


@pytest.mark.parametrize('followers', [0, 2, 3])
def test_whether_selection_follows_strength_is_counted(results_of, followers):
  text = report.markdown(_with_followers(results_of(kind='tasks'), followers))
  assert f'In {followers} of 3 categories' in text


def _gap_line(found, **changes):
  content = msgspec.to_builtins(found)
  feature = next(feature for feature in content['error_analysis']['features'] if feature['name'] == 'llms_right')
  feature |= changes
  return _line(report.markdown(results.from_builtins(content)).splitlines(), '- **LLMs that are right**')


def test_a_feature_that_does_not_matter_is_said_not_to(results_of):
  assert _gap_line(results_of(), p=0.3).endswith('no significant difference (p=0.3).')
  assert _gap_line(results_of(), p=None).endswith('no significant difference (the same everywhere).')


def test_a_feature_that_matters_is_told_from_its_lowest_bin_to_its_highest(results_of):
  bins = [{'bin': name, 'queries': 9, 'accuracy': 0.5, 'oracle': 0.9, 'lost': lost, 'lost_ci': (0, 1)}
          for name, lost in (('1 to 2', 0.25), ('3', 0.125), ('4', 0.5))]  # fmt: skip
  line = _gap_line(results_of(), p=0.0004, correlation=0.125, bins=bins)
  assert 'from 12.5 % (3) to 50.0 % (4; p<0.001, rank correlation +0.12)' in line
  assert 'only once all LLMs have answered' in line


def test_the_gap_ends_in_its_table_and_the_page_of_queries(results_of):
  text = report.markdown(results_of(kind='tasks'))
  assert '(queries.html)' in text
  assert text.split('\n## ')[-1].startswith('The gap to the oracle')
  assert '| category |' in text.split('\n## ')[-1]
