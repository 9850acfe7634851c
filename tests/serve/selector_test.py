"""Saved selectors: what is loaded chooses what the run chose."""

import json
import pathlib
import shutil
import subprocess
import sys

import jax
import ml_collections
import numpy as np
import pytest

import selectllm
from selectllm.data import dataset, load, splits
from selectllm.evaluate import options, predictions, strategies
from selectllm.infra import paths, run_dir
from selectllm.selection import adaptive, learned_vote
from selectllm.serve import decider, selector


@pytest.fixture(scope='module')
def run(frozen_run: pathlib.Path) -> pathlib.Path:
  return frozen_run


@pytest.fixture(scope='module')
def as_the_run_chose(run: pathlib.Path) -> tuple[list[str], strategies.FoldResult]:
  """The test queries, and everything that the run fitted and chose, made again from what it kept."""
  config, table = _config_and_table(run)
  kept = predictions.read_predictions(run / 'predictions.npz')
  wanted = options.TradeoffOptions.from_config(config, table.responses)
  part = strategies.fit_and_replay(table, kept.split[0], kept.estimates[0], kept.embeddings, wanted)
  return [table.queries[row] for row in part.test_rows], part


def _config_and_table(run: pathlib.Path) -> tuple[ml_collections.ConfigDict, dataset.Dataset]:
  config = ml_collections.ConfigDict(json.loads((run / 'config.json').read_text()))
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('SELECTLLM_CACHE', str(run.parent / 'cache'))
    return config, load.load(config, run_dir.begun_with(run))[0]


def test_two_lines_choose_what_the_run_chose(run, as_the_run_chose):
  queries, part = as_the_run_chose
  for limit in ('none', 'compute_seconds<=60%'):
    loaded = selectllm.load(run / 'selector', limit=limit)
    choices = loaded.select(queries)
    rule, weights = part.rules.rules[loaded.rule], part.rules.weights
    state = loaded.score(queries)
    test = np.flatnonzero(predictions.read_predictions(run / 'predictions.npz').split[0] == splits.TEST)
    np.testing.assert_allclose(state.logits, part.confidences.logits[test], atol=1e-4)
    first = [
      set(np.flatnonzero(_first(rule, weights, loaded.operating_point, logits, part.rules.expected_cost)))
      for logits in part.confidences.logits[test]
    ]
    assert [{loaded.llms.index(llm) for llm in choice.llms} for choice in choices] == first
    assert all(choice.llms for choice in choices)


def _first(rule, weights, operating_point, logits, expected) -> np.ndarray:
  count = len(logits)
  nothing = learned_vote.count_votes(np.full((count, 1), -1, np.int16))
  called = np.zeros(count, bool)
  state = adaptive.decide(rule, weights, operating_point, logits, nothing, called, ~called, expected, np.inf)
  mask = np.zeros(count, bool)
  mask[rule.llms] = rule.actions[state.action]
  return mask


def test_what_is_loaded_is_what_was_saved_bit_by_bit(run, as_the_run_chose, tmp_path):
  shutil.copytree(run / 'selector', tmp_path / 'elsewhere')
  queries, _ = as_the_run_chose
  here, there = (selectllm.load(where).select(queries) for where in (run / 'selector', tmp_path / 'elsewhere'))
  assert here == there


def test_a_selector_in_a_bucket_chooses_the_same(run, as_the_run_chose, bucket):
  queries, part = as_the_run_chose
  for _ in range(2):  # in place of what is there
    _save(run, paths.place('gs://bucket/selector'), part)
  here, there = (selectllm.load(where).select(queries) for where in (run / 'selector', 'gs://bucket/selector'))
  assert here == there
  assert {path.name for path in bucket.iterdir()} == {'selector'}
  assert len(list((bucket / 'selector').iterdir())) == 2


def test_live_calls_end_with_an_answer_and_its_probability(run):
  loaded = selectllm.load(run / 'selector')
  state = loaded.score(['How many eggs has 3 plus 4?', 'How many cats?'])
  count = len(loaded.llms)
  answers = np.full((2, count, 1), -1, np.int16)
  called, available = np.zeros((2, count), bool), np.ones((2, count), bool)
  available[:, 1] = False  # has failed
  for _ in range(count + 1):
    chosen = loaded.decide(state, decider.Revealed(answers, called, available))
    assert not (chosen & (called | ~available)).any()
    answers = np.where(chosen[:, :, None], 3, answers).astype(np.int16)
    called = called | chosen
  assert not chosen.any()
  assert called.any(1).all()
  finished = loaded.finish(state, decider.Revealed(answers, called, available))
  np.testing.assert_array_equal(finished.answer, 3)
  assert ((finished.p_right > 0) & (finished.p_right <= 1)).all()


def test_one_llm_alone_may_be_what_keeps_a_limit(run, tmp_path):
  shutil.copytree(run / 'selector', tmp_path / 'selector')
  facts = json.loads((tmp_path / 'selector' / 'selector.json').read_text())
  facts['estimated'] = {name: of for name, of in facts['estimated'].items() if name.startswith('single:')}
  (tmp_path / 'selector' / 'selector.json').write_text(json.dumps(facts))
  loaded = selectllm.load(tmp_path / 'selector')
  best = max(facts['estimated'], key=lambda name: facts['estimated'][name][0]['means']['accuracy'])
  assert loaded.rule == best
  place = loaded.llms.index(best.removeprefix('single:'))
  state = loaded.score(['How many eggs has 3 plus 4?', 'How many cats?'])
  count = len(loaded.llms)
  nothing, nobody = np.full((2, count, 1), -1, np.int16), np.zeros((2, count), bool)
  available = np.ones((2, count), bool)
  available[1, place] = False  # has failed there, and another takes its place
  chosen = loaded.decide(state, decider.Revealed(nothing, nobody, available))
  np.testing.assert_array_equal(np.flatnonzero(chosen[0]), [place])
  assert chosen[1].sum() == 1
  assert not chosen[1, place]
  answers = np.where(chosen[..., None], 3, -1).astype(np.int16)
  assert not loaded.decide(state, decider.Revealed(answers, chosen, available)).any()
  finished = loaded.finish(state, decider.Revealed(answers, chosen, available))
  np.testing.assert_array_equal(finished.answer, 3)
  assert ((finished.p_right > 0) & (finished.p_right <= 1)).all()


@pytest.mark.parametrize('vote', strategies.VOTES_OF_ALL)
def test_the_vote_of_all_may_be_what_keeps_a_limit(run, tmp_path, vote):
  shutil.copytree(run / 'selector', tmp_path / 'selector')
  facts = json.loads((tmp_path / 'selector' / 'selector.json').read_text())
  assert vote in facts['estimated']
  facts['estimated'] = {vote: facts['estimated'][vote]}
  (tmp_path / 'selector' / 'selector.json').write_text(json.dumps(facts))
  loaded = selectllm.load(tmp_path / 'selector')
  assert loaded.rule == vote
  state, count = loaded.score(['How many eggs has 3 plus 4?', 'How many cats?']), len(loaded.llms)
  nothing, nobody = np.full((2, count, 1), -1, np.int16), np.zeros((2, count), bool)
  available = np.ones((2, count), bool)
  available[1, 0] = False  # has failed there
  chosen = loaded.decide(state, decider.Revealed(nothing, nobody, available))
  np.testing.assert_array_equal(chosen, available)
  answers = np.where(chosen[..., None], 3, -1).astype(np.int16)
  answers[0, 0] = 4  # one against all others
  assert not loaded.decide(state, decider.Revealed(answers, chosen, available)).any()
  finished = loaded.finish(state, decider.Revealed(answers, chosen, available))
  np.testing.assert_array_equal(finished.answer, 3)
  assert ((finished.p_right > 0) & (finished.p_right <= 1)).all()


def test_what_cannot_be_loaded_says_why(run, tmp_path):
  with pytest.raises(selector.SelectorError, match='holds no selector'):
    selectllm.load(tmp_path)
  with pytest.raises(selector.SelectorError, match=r'no operating point keeps .accuracy>=1.0. .* accuracy goes up to'):
    selectllm.load(run / 'selector', limit='accuracy>=1.0')
  with pytest.raises(ValueError, match='fast'):
    selectllm.load(run / 'selector', limit='fast')
  shutil.copytree(run / 'selector', tmp_path / 'other')
  facts = json.loads((tmp_path / 'other' / 'selector.json').read_text())
  (tmp_path / 'other' / 'selector.json').write_text(json.dumps(facts | {'encoder_sha256': '0' * 64}))
  with pytest.raises(selector.SelectorError, match='other weights'):
    selectllm.load(tmp_path / 'other')
  (tmp_path / 'other' / 'selector.json').write_text(json.dumps(facts | {'format': 3}))
  with pytest.raises(selector.SelectorError, match=r'.format 3, this one reads 5.: run its experiment'):
    selectllm.load(tmp_path / 'other')


def _save(run, directory, part):
  selector.save(directory, *_config_and_table(run), part, 0.0)


@pytest.mark.parametrize('step', ['savez_compressed', 'dumps', 'rename'])
def test_a_crash_while_saving_leaves_the_selector_that_was_there(run, as_the_run_chose, tmp_path, monkeypatch, step):
  queries, part = as_the_run_chose
  directory = tmp_path / 'selector'
  shutil.copytree(run / 'selector', directory)
  before = selectllm.load(directory).select(queries)

  def crash(*args, **options):
    raise OSError('the disk is full')

  with monkeypatch.context() as patch:
    if step == 'rename':
      patch.setattr(pathlib.Path, 'replace', crash)
    else:
      patch.setattr(np if step == 'savez_compressed' else json, step, crash)
    with pytest.raises(OSError, match='the disk is full'):
      _save(run, directory, part)
  assert selectllm.load(directory).select(queries) == before
  _save(run, directory, part)
  assert len(list(directory.iterdir())) == 2  # nothing is left of what failed, or of the old one
  assert selectllm.load(directory).select(queries) == before


def test_another_number_of_queries_compiles_nothing_and_chooses_the_same(run, as_the_run_chose, caplog):
  queries = [text for text in as_the_run_chose[0] for _ in range(5)]
  loaded = selectllm.load(run / 'selector')
  with jax.log_compiles(), caplog.at_level('WARNING'):
    many = loaded.select(queries[:100])
    loaded.select(queries[:3])
    assert any('Compiling' in record.message for record in caplog.records)
    caplog.clear()
    fewer, few = loaded.select(queries[:70]), loaded.select(queries[:4])
    assert [record.message for record in caplog.records if 'Compiling' in record.message] == []
  for choices in (fewer, few):
    for one, other in zip(choices, many, strict=False):
      assert (one.query, one.llms) == (other.query, other.llms)
      assert one.confidences == pytest.approx(other.confidences, abs=1e-5)
  assert loaded.select([]) == []


def test_the_command_prints_whom_to_call_first(run, tmp_path):
  queries = tmp_path / 'queries.jsonl'
  queries.write_text('{"query_id": "q1", "query": "How many eggs are 3 plus 4?"}\n')
  command = [
    sys.executable, '-m', 'selectllm.main', '--config=configs/jsonl.py', '--config.mode=select',
    f'--config.select.selector={run / "selector"}', f'--config.select.queries={queries}',
    '--config.mesh.data=1', f'--workdir={tmp_path / "chosen"}',
  ]  # fmt: skip
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  assert 'q1' in done.stdout
  assert 'In cross-validation this operating point answered' in done.stdout
  line = json.loads((tmp_path / 'chosen' / 'selections.jsonl').read_text())
  assert line['call']
  assert set(line['call']) <= set(line['confidences'])
  refused = subprocess.run([*command, '--config.select.selector=nowhere'], capture_output=True, text=True, check=False)
  assert refused.returncode == 1
  assert 'holds no selector' in refused.stderr
  assert 'Traceback' not in refused.stderr


def test_a_fine_tuned_classifier_changes_no_selector(tuned_run, as_the_run_chose, run):
  queries, _ = as_the_run_chose
  tuned, frozen = (selectllm.load(path / 'selector').select(queries) for path in (tuned_run, run))
  assert tuned == frozen
