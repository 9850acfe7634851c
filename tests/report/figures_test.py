import matplotlib.image
import msgspec
import numpy as np
import pytest

from selectllm.evaluate import results
from selectllm.report import figures, tables

CASES = [
  (2, 'estimated'), (3, 'unknown'), (3, 'scores'), (3, 'unseen'), pytest.param(10, 'estimated', marks=pytest.mark.slow),
  (32, 'estimated'), (3, 'tasks'),
]  # fmt: skip


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(('llms', 'kind'), CASES)
def test_all_figures_are_drawn_without_a_warning(results_of, llms, kind, tmp_path):
  figures.draw(results_of(llms, kind), tmp_path)
  drawn = {path.stem for path in tmp_path.iterdir()}
  assert drawn == set(figures.FIGURES) - ({'by_category'} if kind != 'tasks' else set())
  for path in tmp_path.iterdir():
    height, width, _ = matplotlib.image.imread(path).shape
    assert 200 < height < 2600, path.name
    assert 400 < width < 2600, path.name


def test_the_same_results_give_the_same_bytes(results_of, tmp_path):
  for name in ('one', 'two'):
    figures.draw(results_of(), tmp_path / name)
  for path in (tmp_path / 'one').iterdir():
    assert path.read_bytes() == (tmp_path / 'two' / path.name).read_bytes()


def _lines(found: results.Results, panel: int = -1) -> dict[str, np.ndarray]:
  axes = figures.accuracy_and_time(found).axes[panel]
  return {line.get_label(): line.get_xydata() for line in axes.get_lines()}


@pytest.mark.parametrize(('panel', 'field'), [(0, 'wall_clock_s'), (1, 'compute_s')])
def test_policies_and_llms_stand_at_their_time_and_accuracy(results_of, panel, field):
  found = results_of()
  lines = _lines(found, panel)
  for name in (*tables.policies(found), 'top_s', 'static_weighted', 'best_s', 'random', 'all_llms', 'knn_top1'):
    rows = [row for row in found.methods if row.name == name]
    expected = [(getattr(row, field), 100 * row.accuracy) for row in rows]
    np.testing.assert_allclose(lines[name], expected)
  assert len(lines['single LLM']) == 3
  oracle = f'oracle {100 * found.oracle.accuracy:.1f} %'
  assert oracle in lines


@pytest.mark.parametrize(('panel', 'field'), [(0, 'wall_clock_s'), (1, 'compute_s')])
def test_no_method_lies_above_the_tradeoff(results_of, panel, field):
  found = results_of(10)
  tradeoff = _lines(found, panel)['trade-off']
  assert (np.diff(tradeoff, axis=0) >= 0).all()
  for row in found.methods:
    if row.name != 'oracle':
      reached = tradeoff[tradeoff[:, 0] <= getattr(row, field)]
      assert 100 * row.accuracy <= reached[:, 1].max() + 1e-9


@pytest.mark.parametrize('kind', ['unknown', 'scores'])
def test_without_latencies_the_axis_counts_calls(results_of, kind):
  found = results_of(kind=kind)
  (axes,) = figures.accuracy_and_time(found).axes
  assert 'called per query' in axes.get_xlabel()
  assert axes.get_xscale() == 'linear'
  np.testing.assert_allclose(_lines(found)['single LLM'][:, 0], 1)


def test_seconds_and_calls_are_never_mixed(results_of):
  """Where one LLM's latency is unknown, seconds of the others do not stand on an axis of calls."""
  content = msgspec.to_builtins(results_of())
  content['dataset']['latency'] = 'unknown'
  for row in content['methods']:
    if row['name'] in ('single:llama-1b-instruct', 'all_llms'):
      row['compute_s'] = None
  np.testing.assert_allclose(_lines(results.from_builtins(content))['single LLM'][:, 0], 1)


def test_the_axis_says_how_latencies_are_known(results_of):
  for kind, words in (('estimated', 's (estimated)'), ('priced', 's (measured)')):
    left, right = figures.accuracy_and_time(results_of(kind=kind)).axes
    assert left.get_xlabel() == f'wall clock of a query, {words}'
    assert right.get_xlabel() == f'summed compute of a query, {words}'
    assert left.get_xscale() == right.get_xscale() == 'log'


@pytest.mark.parametrize('llms', [10, 32])
def test_labels_of_methods_do_not_cover_each_other(results_of, llms):
  figure = figures.accuracy_and_time(results_of(llms))
  figure.draw_without_rendering()
  for axes in figure.axes:
    # A little slack: the labels' widths are estimates.
    boxes = [text.get_window_extent().shrunk(0.8, 0.6) for text in axes.texts]
    assert len(boxes) > 8
    covered = [(i, j) for i in range(len(boxes)) for j in range(i) if boxes[i].overlaps(boxes[j])]
    assert len(covered) <= len(boxes) // 20


def test_the_best_llm_is_named(results_of):
  found = results_of(10)
  best = max((row for row in found.methods if row.name.startswith('single:')), key=lambda row: row.accuracy)
  for axes in figures.accuracy_and_time(found).axes:
    assert best.name.removeprefix('single:') in [text.get_text() for text in axes.texts]


def test_selection_shows_the_share_of_queries_each_llm_is_called_for(results_of):
  found = results_of()
  panels = figures.selection(found).axes
  assert [label.get_text() for label in panels[0].get_yticklabels()] == found.dataset.llms
  for axes, name in zip(panels, ('max_conf', 'labelled_max_conf'), strict=True):
    assert axes.get_title() == name
    (image,) = axes.get_images()
    np.testing.assert_allclose(image.get_array(), 100 * np.array(found.selected[name]).T)
    assert len(axes.texts) == 9


def test_confusion_has_one_panel_an_llm_with_its_counts(results_of):
  found = results_of(10)
  panels = figures.confusion(found).axes
  assert [axes.get_title() for axes in panels] == found.dataset.llms
  for axes in panels:
    counts = [int(text.get_text()) for text in axes.texts]
    assert counts == np.ravel(found.classifier.confusion[axes.get_title()]).tolist()


def test_reliability_leaves_out_empty_bins(results_of):
  bins = results_of().classifier.reliability
  top, bottom = figures.reliability(results_of()).axes
  _, drawn = top.get_lines()
  kept = [i for i, count in enumerate(bins.count) if count]
  np.testing.assert_allclose(drawn.get_xdata(), [bins.mean_confidence[i] for i in kept])
  np.testing.assert_allclose(drawn.get_ydata(), [bins.frequency[i] for i in kept])
  assert [bar.get_height() for bar in bottom.patches] == bins.count


def _with_categories(found: results.Results, count: int, sizes: list[int]) -> results.Results:
  """The results with so many categories, and the size that was chosen for the headline policy."""
  content = msgspec.to_builtins(found)
  for row in content['chosen']:
    row['sizes'] = sizes
  row = content['by_task'][0]
  content['by_task'] = [row | {'task': f'a category with a longer name {place}'} for place in range(count)]
  category = next(feature for feature in content['error_analysis']['features'] if feature['name'] == 'category')
  category['bins'] = [category['bins'][0] | {'bin': row['task']} for row in content['by_task']]
  return results.from_builtins(content)


@pytest.mark.filterwarnings('error')
def test_many_categories_fit_a_page(results_of, tmp_path):
  for name in ('by_category', 'oracle_gap'):
    found = _with_categories(results_of(32, 'tasks'), 60, [3])
    figures.save(figures.FIGURES[name](found), tmp_path / 'figure.png')
    height, width, _ = matplotlib.image.imread(tmp_path / 'figure.png').shape
    assert max(height, width) < 2600


@pytest.mark.parametrize(('sizes', 'panels'), [([1], 2), ([2], 3), ([1, 3], 3), ([3], 2)])
def test_whom_a_policy_calls_is_shown_where_it_is_neither_one_nor_all(results_of, sizes, panels):
  found = _with_categories(results_of(3, 'tasks'), 2, sizes)
  figure = figures.by_category(found)
  assert len(figure.axes) == panels
  first, accuracy = (figure.axes[place].images[0].get_array() for place in (0, -1))
  for row, of in enumerate(found.by_task):
    np.testing.assert_allclose(first[row], [100 * llm.first for llm in of.llms.values()])
    np.testing.assert_allclose(accuracy[row], [100 * llm.accuracy for llm in of.llms.values()])


def test_an_unseen_llm_has_no_accuracy_in_a_category(results_of):
  content = msgspec.to_builtins(results_of(3, 'tasks'))
  for row in content['by_task']:
    row['llms']['llama-1b-instruct']['accuracy'] = None
  shown = figures.by_category(results.from_builtins(content)).axes[-1].images[0].get_array()
  assert np.isnan(shown.filled(np.nan)[:, 0]).all()


def test_the_gap_has_a_panel_for_each_feature(results_of):
  found = results_of(3, 'tasks')
  features = found.error_analysis.features
  axes = figures.oracle_gap(found).axes
  assert [panel.get_title().split(' (')[0] for panel in axes] == [
    tables.FEATURES[feature.name].split(' (')[0] for feature in features
  ]
  heights = [bar.get_height() for bar in axes[-1].patches]
  np.testing.assert_allclose(heights, [100 * row.lost for row in features[-1].bins])
  analysis = msgspec.structs.replace(found.error_analysis, features=[])
  assert figures.oracle_gap(msgspec.structs.replace(found, error_analysis=analysis)) is None
