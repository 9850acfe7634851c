import copy

import matplotlib.image
import numpy as np
import pytest

from selectllm.report import figures, tables

CASES = [(2, 'estimated'), (3, 'unknown'), (3, 'scores'), (3, 'unseen'), (10, 'estimated'), (32, 'estimated')]


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(('llms', 'kind'), CASES)
def test_all_figures_are_drawn_without_a_warning(results_of, llms, kind, tmp_path):
  figures.draw(results_of(llms, kind), tmp_path)
  assert {path.name for path in tmp_path.iterdir()} == {f'{name}.png' for name in figures.FIGURES}
  for path in tmp_path.iterdir():
    height, width, _ = matplotlib.image.imread(path).shape
    assert 200 < height < 2600, path.name
    assert 400 < width < 2600, path.name


def test_the_same_results_give_the_same_bytes(results_of, tmp_path):
  for name in ('one', 'two'):
    figures.draw(results_of(), tmp_path / name)
  for path in (tmp_path / 'one').iterdir():
    assert path.read_bytes() == (tmp_path / 'two' / path.name).read_bytes()


def _lines(results) -> dict[str, np.ndarray]:
  (axes,) = figures.accuracy_and_latency(results).axes
  return {line.get_label(): line.get_xydata() for line in axes.get_lines()}


def test_policies_and_llms_stand_at_their_latency_and_accuracy(results_of):
  results = results_of()
  lines = _lines(results)
  for name in (*tables.policies(results), 'top_s', 'best_s', 'random', 'all_llms', 'knn_top1'):
    rows = [row for row in results['methods'] if row['name'] == name]
    expected = [(row['latency_sequential_s'], 100 * row['accuracy']) for row in rows]
    np.testing.assert_allclose(lines[name], expected)
  assert len(lines['single LLM']) == 3
  oracle = f'oracle {100 * results["oracle"]["accuracy"]:.1f} %'
  assert oracle in lines


def test_no_method_lies_above_the_frontier(results_of):
  results = results_of(10)
  frontier = _lines(results)['frontier']
  assert (np.diff(frontier, axis=0) >= 0).all()
  for row in results['methods']:
    if row['name'] != 'oracle':
      reached = frontier[frontier[:, 0] <= row['latency_sequential_s']]
      assert 100 * row['accuracy'] <= reached[:, 1].max() + 1e-9


@pytest.mark.parametrize('kind', ['unknown', 'scores'])
def test_without_latencies_the_axis_counts_calls(results_of, kind):
  results = results_of(kind=kind)
  (axes,) = figures.accuracy_and_latency(results).axes
  assert 'called per query' in axes.get_xlabel()
  assert axes.get_xscale() == 'linear'
  np.testing.assert_allclose(_lines(results)['single LLM'][:, 0], 1)


def test_seconds_and_calls_are_never_mixed(results_of):
  """Where one LLM's latency is unknown, seconds of the others do not stand on an axis of calls."""
  results = copy.deepcopy(results_of())
  results['dataset']['latency'] = 'unknown'
  for row in results['methods']:
    if row['name'] in ('single:llama-1b-instruct', 'all_llms'):
      row['latency_sequential_s'] = None
  np.testing.assert_allclose(_lines(results)['single LLM'][:, 0], 1)


def test_the_axis_says_how_latencies_are_known(results_of):
  for kind, words in (('estimated', 'seconds (estimated)'), ('priced', 'seconds (measured)')):
    (axes,) = figures.accuracy_and_latency(results_of(kind=kind)).axes
    assert words in axes.get_xlabel()
    assert axes.get_xscale() == 'log'


@pytest.mark.parametrize('llms', [10, 32])
def test_labels_of_methods_do_not_cover_each_other(results_of, llms):
  figure = figures.accuracy_and_latency(results_of(llms))
  figure.draw_without_rendering()
  (axes,) = figure.axes
  # A little slack: the labels' widths are estimates.
  boxes = [text.get_window_extent().shrunk(0.8, 0.6) for text in axes.texts]
  assert len(boxes) > 8
  covered = [(i, j) for i in range(len(boxes)) for j in range(i) if boxes[i].overlaps(boxes[j])]
  assert len(covered) <= len(boxes) // 20


def test_the_best_llm_is_named(results_of):
  results = results_of(10)
  best = max((row for row in results['methods'] if row['name'].startswith('single:')), key=lambda row: row['accuracy'])
  (axes,) = figures.accuracy_and_latency(results).axes
  assert best['name'].removeprefix('single:') in [text.get_text() for text in axes.texts]


def test_selection_shows_the_share_of_queries_each_llm_is_called_for(results_of):
  results = results_of()
  panels = figures.selection(results).axes
  assert [label.get_text() for label in panels[0].get_yticklabels()] == results['dataset']['llms']
  for axes, name in zip(panels, ('max_conf', 'labelled_max_conf'), strict=True):
    assert axes.get_title() == name
    (image,) = axes.get_images()
    np.testing.assert_allclose(image.get_array(), 100 * np.array(results['selected'][name]).T)
    assert len(axes.texts) == 9


def test_confusion_has_one_panel_an_llm_with_its_counts(results_of):
  results = results_of(10)
  panels = figures.confusion(results).axes
  assert [axes.get_title() for axes in panels] == results['dataset']['llms']
  for axes in panels:
    counts = [int(text.get_text()) for text in axes.texts]
    assert counts == np.ravel(results['classifier']['confusion'][axes.get_title()]).tolist()


def test_reliability_leaves_out_empty_bins(results_of):
  bins = results_of()['classifier']['reliability']
  top, bottom = figures.reliability(results_of()).axes
  _, drawn = top.get_lines()
  kept = [i for i, count in enumerate(bins['count']) if count]
  np.testing.assert_allclose(drawn.get_xdata(), [bins['mean_confidence'][i] for i in kept])
  np.testing.assert_allclose(drawn.get_ydata(), [bins['frequency'][i] for i in kept])
  assert [bar.get_height() for bar in bottom.patches] == bins['count']
