"""An LLM is added to a finished run: the real files, a shrunk run."""

import json
import pathlib
import shutil

import ml_collections
import numpy as np
import pytest

import selectllm
from selectllm.data import splits
from selectllm.evaluate import predictions
from selectllm.infra import run_dir
from selectllm.modes import add_llm
from selectllm.serve import decider


@pytest.fixture(scope='module')
def run(frozen_run: pathlib.Path) -> pathlib.Path:
  return frozen_run


@pytest.fixture(scope='module')
def config(run: pathlib.Path) -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(json.loads((run / 'config.json').read_text())).lock()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setenv('SELECTLLM_CACHE', str(tmp_path_factory.getbasetemp() / 'cache'))


@pytest.fixture(scope='module')
def records(responses_file: pathlib.Path) -> list[dict]:
  """A careful LLM's responses to all queries: right on nine of ten sums, whatever they are about, slow."""
  random = np.random.default_rng(5)
  found = []
  for line in responses_file.read_text().splitlines():
    record = json.loads(line)
    answer = record['reference'] if random.random() < 0.9 else '77777'
    sample = {'text': f'The answer is {answer}.', 'answer': answer, 'latency_s': 3.0}
    found.append({**record, 'responses': {'careful': [sample]}})
  return found


def _write(path: pathlib.Path, records: list[dict]) -> str:
  path.write_text(''.join(json.dumps(record) + '\n' for record in records))
  return str(path)


def _add(config, run: pathlib.Path, path: str, workdir: pathlib.Path, **fields: str) -> None:
  config = config.copy_and_resolve_references()
  config.update_from_flattened_dict(
    {'mode': 'add_llm', 'add_llm.run': str(run), 'add_llm.responses': path}
    | {f'add_llm.{name}': value for name, value in fields.items()}
  )
  add_llm.add_llm(config, workdir)


def _split(run: pathlib.Path) -> np.ndarray:
  return predictions.read_predictions(run / 'predictions.npz').split[0]


@pytest.fixture(scope='module')
def added(config, run, records, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """The selector of the run and the careful LLM; half of the queries are known by their texts alone."""
  asked = [
    {**record, 'query_id': f'x{place}', 'query': record['query'].upper() + ' '} if place % 2 else record
    for place, record in enumerate(records)
  ]
  folder = tmp_path_factory.mktemp('added')
  path = _write(folder / 'new.jsonl', [*asked, {**records[0], 'query_id': 'new', 'query': 'how many eggs'}])
  before = {path: path.stat().st_mtime_ns for path in run.rglob('*')}
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('SELECTLLM_CACHE', str(tmp_path_factory.getbasetemp() / 'cache'))
    _add(config, run, path, folder)
  assert {path: path.stat().st_mtime_ns for path in run.rglob('*')} == before
  return folder / 'selector'


def test_the_selector_of_the_run_gets_one_llm_more(run, records, added):
  split = _split(run)
  facts = json.loads((added / 'selector.json').read_text())
  learned = facts['added']
  assert facts['llms'] == ['adder', 'guesser', 'multiplier', 'careful']
  assert (learned['responses'], learned['on_test'], learned['on_others']) == (
    np.sum(split < splits.TEST),
    np.sum(split == splits.TEST),
    1,
  )
  assert learned['accuracy_ci'][0] < learned['accuracy'] < learned['accuracy_ci'][1]
  assert (learned['cost_unit'], learned['expected']) == ('compute_seconds', pytest.approx(3.0))
  old, new = selectllm.load(run / 'selector'), selectllm.load(added)
  queries = [record['query'] for record in records[:20]]
  available = np.ones(4, bool)
  scored = new.score(queries, available)
  assert np.array_equal(scored.logits[:, :3], old.score(queries, available[:3]).logits)
  assert 0.75 < scored.confidences[:, 3].mean() < 0.98
  assert new.estimated['accuracy'] > old.estimated['accuracy']
  called, _ = _play(new, scored, np.broadcast_to(available, (20, 4)))
  assert called[:, 3].any()


def _play(chooser, state, available: np.ndarray) -> tuple[np.ndarray, decider.Finished]:
  """Who is called, bool[N, K], until all queries stop, whatever is answered; and what is answered."""
  rng, called = np.random.default_rng(0), np.zeros(available.shape, bool)
  answers = np.full((*available.shape, 1), -1, np.int16)
  for _ in range(available.shape[1]):
    fresh = chooser.decide(state, decider.Revealed(answers, called, available))
    assert not (fresh & ~available).any()
    called = called | fresh
    answers = np.where(fresh[..., None], rng.integers(0, 4, answers.shape), answers).astype(np.int16)
  return called, chooser.finish(state, decider.Revealed(answers, called, available))


def test_an_llm_that_is_not_available_is_never_called(records, added):
  chooser = selectllm.load(added)
  count, pool = 30, len(chooser.llms)
  state = chooser.score([record['query'] for record in records[:count]], np.ones(pool, bool))
  wanted = set()
  for gone in range(pool):
    called, finished = _play(chooser, state, np.broadcast_to(np.arange(pool) != gone, (count, pool)))
    wanted |= set(np.flatnonzero(called.any(0)))
    assert called.any(1).all()
    assert (finished.answer >= 0).all()
  assert wanted == set(range(pool))


def test_what_cannot_be_added_is_refused(config, run, records, tmp_path):
  development = [record for record, part in zip(records, _split(run), strict=True) if part < splits.TEST]
  tested = [record for record, part in zip(records, _split(run), strict=True) if part == splits.TEST]

  def refused(records: list[dict], **fields: str) -> str:
    with pytest.raises(ValueError, match=r'careful|config|query') as error:
      _add(config, run, _write(tmp_path / 'new.jsonl', records), tmp_path / 'more', **fields)
    assert not (tmp_path / 'more').exists()
    return str(error.value)

  def answering(answer: str | None, **sample: object) -> list[dict]:
    return [
      {**record, 'responses': {'careful': [{'answer': answer or record['reference'], 'latency_s': 1.0} | sample]}}
      for record in development
    ]

  few = refused([*development[:19], *tested])
  assert f'19 responses of careful are too few, {len(tested)} to test queries' in few
  assert f'is right on all {len(development)}' in refused(answering(None))
  assert f'is wrong on all {len(development)}' in refused(answering('77777'))
  assert 'give latencies or tokens' in refused(
    [
      {**record, 'responses': {'careful': [record['responses']['careful'][0] | {'latency_s': None}]}}
      for record in records
    ]
  )
  assert "'adder' is in the pool of the run already" in refused(development, llm='adder')
  assert "'other' must be one that" in refused(development, llm='other')
  assert 'ids those of other data' in refused([{**development[0], 'query': 'how many cats'}, *development[1:]])
  with pytest.raises(ValueError, match='would be replaced'):
    _add(config, run, str(tmp_path / 'new.jsonl'), run)
  with pytest.raises(FileNotFoundError, match='is no file'):
    _add(config, run, str(tmp_path / 'none.jsonl'), tmp_path / 'more')
  with pytest.raises(FileNotFoundError, match='not a finished run'):
    _add(config, tmp_path, str(tmp_path / 'new.jsonl'), tmp_path / 'more')
  other = config.copy_and_resolve_references()
  other.seed = 7
  with pytest.raises(run_dir.RunDirError, match='seed'):
    _add(other, run, str(tmp_path / 'new.jsonl'), tmp_path / 'more')


def test_a_run_with_a_classifier_for_each_fold_is_refused(config, run, records, tmp_path):
  folds = tmp_path / 'folds'
  folds.mkdir()
  for name in ('config.json', 'data.json', 'report.json'):
    shutil.copy(run / name, folds)
  predicted = predictions.read_predictions(run / 'predictions.npz')
  twice = predicted._replace(split=np.repeat(predicted.split, 2, 0), estimates=predicted.estimates * 2)
  predictions.save(folds / 'predictions.npz', twice)
  with pytest.raises(ValueError, match='cross-validated'):
    _add(config, folds, _write(tmp_path / 'new.jsonl', records), tmp_path / 'more')
