import json

import numpy as np
import pytest

from configs import jsonl
from selectllm import config as config_lib
from selectllm.data import dataset, load, splits
from selectllm.evaluate import predictions
from selectllm.modes import experiment
from selectllm.selection import pseudo_labels, voting

pytestmark = pytest.mark.usefixtures('no_figures')

NONE = voting.NO_ANSWER


def table_of(answers, reference=None, observed=None):
  """A table of answer ids [N, K] or [N, K, S]; without references where none are given."""
  answers = np.asarray(answers, np.int16)
  answers = answers[..., None] if answers.ndim == 2 else answers
  queries, llms = answers.shape[:2]
  nothing = np.full((queries, llms), np.nan, np.float32)
  data = dataset.Responses(
    answers=answers,
    majority=dataset.majorities(answers),
    accepted=np.full((queries, 1), NONE, np.int16) if reference is None else np.asarray(reference, np.int16)[:, None],
    labels=np.zeros((queries, llms), np.float32),
    observed=np.ones((queries, llms), bool) if observed is None else np.asarray(observed),
    latency_s=nothing,
    cost_usd=nothing,
    completion_tokens=nothing,
    task=np.zeros(queries, np.int16),
  )
  ids = [f'q{row}' for row in range(queries)]
  return dataset.Dataset('toy', tuple('abcdefgh'[:llms]), ('',), ids, ids, data, 'unknown')


def pool(right, queries=400, wrong_answers=9, seed=0):
  """References, and answers [N, K] of LLMs that err independently, each right with its own chance."""
  random = np.random.default_rng(seed)
  reference = random.integers(0, wrong_answers + 1, queries)
  error = (reference[:, None] + random.integers(1, wrong_answers + 1, (queries, len(right)))) % (wrong_answers + 1)
  return reference, np.where(random.random((queries, len(right))) < right, reference[:, None], error)


def plain(answers):
  """Accuracy needs no ties here: the answer given most often, the first of equals."""
  return np.array([max(row.tolist(), key=row.tolist().count) for row in answers])


def test_the_better_llms_weigh_more_though_nobody_says_who_is_better():
  reference, answers = pool([0.95, 0.9, 0.3, 0.3, 0.3, 0.3], wrong_answers=2)
  agreed = pseudo_labels.pseudo_reference(table_of(answers).responses)
  assert agreed.dtype == np.int16
  assert np.mean(agreed == reference) > np.mean(plain(answers) == reference) + 0.03
  assert np.mean(agreed == reference) > 0.9


@pytest.mark.parametrize('right', [0.3, 0.4])
@pytest.mark.parametrize('wrong_answers', [4, 9])
def test_llms_that_are_mostly_wrong_do_not_vote_against_themselves(right, wrong_answers):
  reference, answers = pool([right] * 7, wrong_answers=wrong_answers)
  agreed = pseudo_labels.pseudo_reference(table_of(answers).responses)
  assert np.mean(agreed == reference) > np.mean(plain(answers) == reference) - 0.02


def test_an_llm_is_held_against_the_others_not_against_itself():
  # The loner answers alone everywhere, the two others always agree: however heavy, its own vote proves nothing.
  agreed = pseudo_labels.pseudo_reference(table_of([[0, 1, 1]] * 50).responses)
  assert agreed.tolist() == [1] * 50


def test_the_order_of_the_llms_changes_nothing_but_ties():
  _, answers = pool([0.8, 0.7, 0.6, 0.5, 0.4], wrong_answers=50)
  order = np.array([3, 0, 4, 2, 1])
  np.testing.assert_array_equal(
    pseudo_labels.pseudo_reference(table_of(answers).responses),
    pseudo_labels.pseudo_reference(table_of(answers[:, order]).responses),
  )


def test_samples_count_by_their_majority_and_missing_llms_do_not_vote():
  two, one = [2, 2, 1], [1, NONE, NONE]
  answers = [[two, one, two], [[NONE] * 3] * 3, [one, two, two]]
  observed = np.array([[True, True, True], [True, True, True], [True, False, False]])
  assert pseudo_labels.pseudo_reference(table_of(answers, observed=observed).responses).tolist() == [2, NONE, 1]


def test_relabel_touches_the_rows_alone():
  reference, answers = pool([0.9, 0.8, 0.7], queries=60)
  table = table_of(answers, reference)
  before = [array.copy() for array in table.responses]
  rows = np.arange(60) < 40
  data = pseudo_labels.relabel(table, rows).responses
  np.testing.assert_array_equal(data.accepted[:, 0][:40], pseudo_labels.pseudo_reference(table.responses.rows(rows)))
  np.testing.assert_array_equal(data.accepted[:, 0][40:], reference[40:])
  np.testing.assert_array_equal(data.labels, answers == data.accepted[:, 0][:, None])
  assert data.labels.dtype == np.float32
  assert data.observed.all()
  for array, kept in zip(table.responses, before, strict=True):
    np.testing.assert_array_equal(array, kept)


def test_answers_outside_the_rows_weigh_nothing():
  _, answers = pool([0.9, 0.8, 0.7, 0.2], queries=60)
  rows = np.arange(60) < 40
  other = np.where(rows[:, None], answers, answers[:, ::-1])
  tables = [table_of(given, np.zeros(60)) for given in (answers, other)]
  agreed = [pseudo_labels.relabel(table, rows).responses.accepted[rows, 0] for table in tables]
  np.testing.assert_array_equal(*agreed)


def test_where_nobody_answers_nobody_is_observed():
  table = table_of([[0, 0, NONE], [NONE] * 3, [0, 1, 1]], reference=[0, 0, 0])
  data = pseudo_labels.relabel(table, np.ones(3, bool)).responses
  assert data.accepted[:, 0].tolist() == [0, NONE, 1]
  assert data.labels.tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 1]]
  assert data.observed.any(axis=1).tolist() == [True, False, True]


def test_scores_cannot_agree():
  with pytest.raises(ValueError, match=r'labels=agreement, but toy holds scores.*labels=reference'):
    pseudo_labels.relabel(table_of(np.zeros((4, 2, 0))), np.ones(4, bool))


SPLIT = np.repeat([splits.TRAIN, splits.VALIDATION, splits.TEST, splits.UNUSED], [30, 10, 15, 5])


def test_an_llm_is_taught_by_the_vote_of_the_others():
  # The first LLM is the heaviest. It is alone with its answer; alone with any answer; against all others.
  usual = [[0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0]] * 10
  answers = np.array([[0, 1, 2, 3], [0, NONE, NONE, NONE], [0, 1, 1, 1], *usual])
  split = np.repeat([splits.TRAIN, splits.VALIDATION, splits.TEST], 11)
  data = pseudo_labels.label(table_of(answers), split).responses
  assert data.accepted[:, 0][:3].tolist() == [0, 0, 1]
  assert data.labels[:3].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1]]
  assert data.observed[:3].tolist() == [[True] * 4, [False, True, True, True], [True] * 4]
  np.testing.assert_array_equal(data.labels[3:], answers[3:] == 0)
  assert data.observed[3:].all()


def test_test_queries_are_judged_by_their_references():
  reference, answers = pool([0.9, 0.8, 0.7], queries=60)
  table = pseudo_labels.label(table_of(answers, reference), SPLIT)
  learned, test = SPLIT <= splits.VALIDATION, SPLIT == splits.TEST
  np.testing.assert_array_equal(table.responses.accepted[:, 0][~learned], reference[~learned])
  agreed = table.responses.accepted[:, 0][learned]
  np.testing.assert_array_equal(agreed, pseudo_labels.pseudo_reference(table_of(answers[learned]).responses))
  assert table.responses.observed[test].all()
  assert table.name == 'toy'
  (note,) = table.notes
  assert f'it is right on {np.mean(agreed == reference[learned]):.1%} of the 40 whose reference is known' in note
  assert note.endswith('Test queries are judged by their references.')


def test_test_queries_without_a_reference_are_not_counted_where_others_have_one():
  reference, answers = pool([0.9, 0.8, 0.7], queries=60)
  reference[SPLIT != splits.TEST] = reference[40] = NONE
  table = pseudo_labels.label(table_of(answers, reference), SPLIT)
  np.testing.assert_array_equal(table.responses.observed.all(axis=1), (SPLIT != splits.UNUSED) & (np.arange(60) != 40))
  np.testing.assert_array_equal(table.responses.accepted[:, 0][41:55], reference[41:55])
  assert 'whose reference is known' not in table.notes[0]
  assert table.notes[0].endswith('; the 1 without are not counted.')


def test_without_any_reference_test_is_judged_by_agreement_and_that_is_said_first():
  _, answers = pool([0.9, 0.8, 0.7], queries=60)
  table = pseudo_labels.label(table_of(answers)._replace(notes=('Old.',)), SPLIT)
  used = SPLIT != splits.UNUSED
  np.testing.assert_array_equal(
    table.responses.accepted[:, 0][used], pseudo_labels.pseudo_reference(table_of(answers[used]).responses)
  )
  assert table.responses.labels[SPLIT == splits.TEST].any()
  assert table.name == "toy, judged by the pool's own vote"
  assert table.notes[0].startswith('NO REFERENCES: every accuracy in this report, also on test, is agreement')
  assert table.notes[1] == 'Old.'


def without_references(path, responses_file, kept=()):
  """The file's records, without the references of all but those of the numbers in `kept`."""
  records = [json.loads(line) for line in responses_file.read_text().splitlines()]
  for number, record in enumerate(records):
    if number not in kept:
      record['reference'] = None
  path.write_text('\n'.join(map(json.dumps, records)))
  return path


@pytest.fixture
def config(tmp_path, monkeypatch, tiny_encoder):
  """A run of seconds, learned from agreement; its file of responses is still to be named."""
  monkeypatch.setenv('SELECTLLM_CACHE', str(tmp_path / 'cache'))
  config = jsonl.get_config()
  config.update_from_flattened_dict(
    {
      'dataset.title': 'Sums',
      'dataset.labels': 'agreement',
      'encoder.name': str(tiny_encoder),
      'mesh.data': 1,
      'encoder.freeze': 'true',
      'evaluate.resamples': 20,
      'evaluate.knn_neighbours': (5,),
    }
  )
  return config


def test_data_without_references_are_refused_unless_agreement_is_asked_for(tmp_path, config, responses_file):
  config.dataset.path = str(without_references(tmp_path / 'r.jsonl', responses_file, kept=(0, 1)))
  reference = load.load(config)[0].responses.accepted[:, 0]
  assert (reference[:2] != NONE).all()
  assert (reference[2:] == NONE).all()
  config.dataset.labels = 'reference'  # also where the data are prepared already
  with pytest.raises(ValueError, match=r"query 'q2' has no reference.*--config.dataset.labels=agreement"):
    load.load(config)


@pytest.mark.parametrize('known', [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_run_learns_from_agreement_and_evaluates_to_the_same_again(tmp_path, config, responses_file, known):
  config.dataset.path = str(
    responses_file if known else without_references(tmp_path / 'responses.jsonl', responses_file)
  )
  config.tradeoff.strategies = ('adaptive',)
  reports = []
  for mode in ('train_and_evaluate', 'evaluate'):
    config.mode = mode
    experiment.run(config, tmp_path / 'run')
    reports.append(json.loads((tmp_path / 'run' / 'report.json').read_text()) | {'timing': None})
  assert reports[0] == reports[1]
  report = (tmp_path / 'run' / 'report.md').read_text()
  table, _ = load.load(config)
  predicted = predictions.read_predictions(tmp_path / 'run' / 'predictions.npz')
  expected = pseudo_labels.label(table, predicted.split[0]).responses
  np.testing.assert_array_equal(predicted.labels, expected.labels)
  np.testing.assert_array_equal(predicted.observed, expected.observed)
  assert reports[0]['dataset']['labels'] == 'agreement'
  assert ('NO REFERENCES' in report) != known
  assert ("Sums, judged by the pool's own vote: 3 LLMs" in report) != known
  assert ('Test queries are judged by their references.' in report) == known
  assert 'differs by more than' not in report


def test_folds_and_agreement_do_not_go_together(config):
  config.dataset.folds = 3
  with pytest.raises(ValueError, match=r'dataset\.folds=3: 0 with dataset\.labels=agreement'):
    config_lib.check_options(config)
  config.dataset.labels = 'agreed'
  with pytest.raises(ValueError, match=r"dataset\.labels='agreed': one of reference, agreement"):
    config_lib.check_options(config)
