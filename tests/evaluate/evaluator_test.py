import functools
import itertools
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest
import scipy.stats

from selectllm.data import dataset, splits
from selectllm.evaluate import assemble, context, error_analysis, evaluator, options, replay, results, statistics
from selectllm.infra import batching
from selectllm.selection import baselines, confidence, policies, voting

SIZED = ('max_conf', 'labelled_max_conf', 'weighted_max_conf', 'top_s', 'static_weighted', 'best_s', 'random')


def _options(**changes: Any) -> results.EvaluateConfig:
  fields = {'threshold': 0.5, 'vote': 'majority', 'knn_neighbours': [2, 5], 'resamples': 20}
  return results.EvaluateConfig(**{'batch_size': 1, 'near_duplicates': 0.0, 'ties': 'confident'} | fields | changes)


def _report(
  data: dataset.Dataset,
  split: Sequence[np.ndarray],
  confidences: Sequence[np.ndarray],
  embeddings: np.ndarray,
  **changes: Any,
) -> dict[str, Any]:
  """What report.json holds, by the way that it goes there."""
  estimates = [confidence.TEMPLATE] * len(split)  # strategies alone look at them
  run = context.RunContext(data, np.stack(split), np.stack(confidences), estimates, embeddings, _options(**changes))
  evaluation = evaluator.evaluate([run])
  found = assemble.assemble(
    run, evaluation, error_analysis.gather(run, evaluation), tradeoff=None, encoder=results.EncoderChoice(True, 'true'),
    tokens=np.zeros(len(data.queries), int), truncated=0, labels='reference', timing=results.Timing(0.0, 0.0),
  )  # fmt: skip
  content = json.loads(results.to_json(found))
  assert results.from_builtins(content) == found
  return content


def _table(answers, reference, latency_s, cost_usd, observed, latency_is: str = 'measured') -> dataset.Dataset:
  """A table whose labels follow from the majority answers, in plain Python."""
  answers, observed = np.asarray(answers, np.int16), np.asarray(observed, bool)
  labels = np.zeros(observed.shape, np.float32)
  for (n, k), seen in np.ndenumerate(observed):
    given = [a for a in answers[n, k].tolist() if a != voting.NO_ANSWER]
    majority = max(given, key=given.count, default=None)  # the first of equals, right for up to two samples
    labels[n, k] = seen and majority == reference[n]
  queries, count = observed.shape
  return dataset.Dataset(
    name='toy',
    llms=tuple('abcdefgh'[:count]),
    tasks=('sums',),
    query_ids=[f'q{n}' for n in range(queries)],
    queries=[f'query {n}' for n in range(queries)],
    responses=dataset.Responses(
      answers=answers,
      majority=dataset.majorities(answers),
      accepted=np.asarray(reference, np.int16)[:, None],
      labels=labels,
      observed=observed,
      latency_s=np.where(observed, np.asarray(latency_s, np.float32), np.float32(np.nan)),
      cost_usd=np.where(observed, np.asarray(cost_usd, np.float32), np.float32(np.nan)),
      completion_tokens=np.full(observed.shape, np.nan, np.float32),
      task=np.zeros(queries, np.int16),
    ),
    latency_is=latency_is,
  )


def _selections(table: dataset.Dataset) -> dict[str, policies.Selection]:
  latency_s = baselines.expected_latency_s(table.responses, SPLIT)
  selecting = policies.PolicyOptions(latency_s, baselines.sizes_of(table.responses), 0.5)
  return jax.device_get(policies.select_all(_confidences(), table.responses.observed, selecting))


def _rows(content: dict[str, Any]) -> dict[tuple[str, int | None], dict[str, Any]]:
  return {(row['name'], row['size']): row for row in content['methods']}


# A case small enough to be reckoned by hand.
#
# Three LLMs: a (fast, weak), b, c (slow, strong). Queries 0 to 2 train, 3 validates, 4 to 7 test. The right answer is
# 0; the one LLM that is missing is a on query 7.
HAND_SPLIT = np.array([0, 0, 0, 1, 2, 2, 2, 2], np.int8)
HAND_ANSWERS = [
  [0, 0, 0], [1, 0, 0], [1, 1, 0],
  [0, 1, 0],
  [0, 1, 1], [1, 0, 0], [1, 0, 2], [-1, -1, 0],
]  # fmt: skip
HAND_LATENCY_S = [
  [1, 2, 4], [1, 2, 4], [1, 2, 4],
  [1, 2, 4],
  [1, 3, 4], [1, 2, 4], [1, 2, 8], [9, 2, 4],
]  # fmt: skip
HAND_CONFIDENCES = np.float32([
  [0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5],
  [0.2, 0.9, 0.3],
  [0.9, 0.6, 0.2], [0.4, 0.7, 0.6], [0.3, 0.2, 0.1], [0.9, 0.8, 0.7],
])  # fmt: skip


def _by_hand(ties: str) -> dict[str, Any]:
  observed = np.ones((8, 3), bool)
  observed[7, 0] = False
  cost_usd = np.tile(np.float32([1, 2, 4]), (8, 1))
  table = _table(np.array(HAND_ANSWERS)[..., None], [0] * 8, HAND_LATENCY_S, cost_usd, observed)
  embeddings = np.float32([[1, 0], [0, 1], [-1, 0], [1, 0], [1, 0], [0, 1], [-1, 0], [-1, 0]])
  return _report(table, [HAND_SPLIT], [HAND_CONFIDENCES], embeddings, knn_neighbours=[1], ties=ties)


@pytest.fixture(scope='module')
def by_hand() -> dict[str, Any]:
  return _by_hand('fastest')


@pytest.mark.parametrize(
  ('name', 'size', 'accuracy', 'calls', 'parallel_s'),
  [
    # a against b, a being more confident: right, then wrong.
    ('max_conf', 2, 3 / 4, 2, (3 + 4 + 2 + 4) / 4),
    # b and c are wrong together; both right; c, the more accurate one, is wrong; c.
    ('top_s', 2, 2 / 4, 2, (4 + 4 + 8 + 4) / 4),
    # Where c wins all ties, it is as right with any other: a is the fastest.
    ('best_s', 2, 2 / 4, 7 / 4, (4 + 4 + 8 + 4) / 4),
    # a and b are right on two of the four known queries, c on all.
    ('static_weighted', 3, 2 / 4, 11 / 4, (4 + 4 + 8 + 4) / 4),
    ('static_weighted', 1, 2 / 4, 1, (4 + 4 + 8 + 4) / 4),
  ],
)
def test_a_tie_goes_to_the_most_confident_or_the_most_accurate_llm(name, size, accuracy, calls, parallel_s):
  row = _rows(_confident_by_hand())[name, size]
  assert (row['accuracy'], row['calls'], row['wall_clock_s']) == pytest.approx((accuracy, calls, parallel_s))


@functools.cache
def _confident_by_hand() -> dict[str, Any]:
  return _by_hand('confident')


@pytest.mark.parametrize(
  ('name', 'size', 'accuracy', 'calls', 'parallel_s', 'sequential_s', 'cost_usd'),
  [
    # a right; b right; a wrong; a is missing, so b, which has no answer.
    ('max_conf', 1, 2 / 4, 1, (1 + 2 + 1 + 2) / 4, (1 + 2 + 1 + 2) / 4, (1 + 2 + 1 + 2) / 4),
    # a against b, the faster is right; b and c; a against b, the faster is wrong; c, since b abstains.
    ('max_conf', 2, 3 / 4, 2, (3 + 4 + 2 + 4) / 4, (4 + 6 + 3 + 6) / 4, (3 + 6 + 3 + 6) / 4),
    # b and c are wrong together; b and c right; all differ, the fastest is wrong; c.
    ('max_conf', 3, 2 / 4, 11 / 4, (4 + 4 + 8 + 4) / 4, (8 + 7 + 11 + 6) / 4, (7 + 7 + 7 + 6) / 4),
    # a and b; b and c; nobody above 0.5, so all three; b and c.
    ('labelled_max_conf', 3, 3 / 4, 9 / 4, (3 + 4 + 8 + 4) / 4, (4 + 6 + 11 + 6) / 4, (3 + 6 + 7 + 6) / 4),
    # a outweighs b and c together; right; a outweighs b and c one by one; c.
    ('weighted_max_conf', 3, 3 / 4, 11 / 4, (4 + 4 + 8 + 4) / 4, (8 + 7 + 11 + 6) / 4, (7 + 7 + 7 + 6) / 4),
    ('all_llms', 3, 2 / 4, 11 / 4, (4 + 4 + 8 + 4) / 4, (8 + 7 + 11 + 6) / 4, (7 + 7 + 7 + 6) / 4),
    # c is the most accurate on train, then b.
    ('top_s', 1, 2 / 4, 1, (4 + 4 + 8 + 4) / 4, (4 + 4 + 8 + 4) / 4, 4),
    ('top_s', 2, 3 / 4, 2, (4 + 4 + 8 + 4) / 4, (7 + 6 + 10 + 6) / 4, 6),
    # c is never wrong on train and validation; all pairs are right on two of four, and a and b are the fastest.
    ('best_s', 1, 2 / 4, 1, (4 + 4 + 8 + 4) / 4, (4 + 4 + 8 + 4) / 4, 4),
    ('best_s', 2, 1 / 4, 7 / 4, (3 + 2 + 2 + 2) / 4, (4 + 3 + 3 + 2) / 4, (3 + 3 + 3 + 2) / 4),
    # c is right on every training query, so next to every test query too.
    ('knn_top1', 1, 2 / 4, 1, (4 + 4 + 8 + 4) / 4, (4 + 4 + 8 + 4) / 4, 4),
    ('single:a', 1, 1 / 3, 1, 1, 1, 1),
    ('single:b', 1, 2 / 4, 1, (3 + 2 + 2 + 2) / 4, (3 + 2 + 2 + 2) / 4, 2),
    ('single:c', 1, 2 / 4, 1, (4 + 4 + 8 + 4) / 4, (4 + 4 + 8 + 4) / 4, 4),
    # a; b, faster than c; b; c.
    ('oracle', None, 1, 1, (1 + 2 + 2 + 4) / 4, (1 + 2 + 2 + 4) / 4, (1 + 2 + 2 + 4) / 4),
    # All LLMs together, whatever the order they were drawn in.
    ('random', 3, 2 / 4, 11 / 4, (4 + 4 + 8 + 4) / 4, (8 + 7 + 11 + 6) / 4, (7 + 7 + 7 + 6) / 4),
  ],
)  # fmt: skip
def test_methods_are_accounted_for_as_by_hand(by_hand, name, size, accuracy, calls, parallel_s, sequential_s, cost_usd):
  row = _rows(by_hand)[name, size]
  assert row['accuracy'] == pytest.approx(accuracy)
  assert row['calls'] == pytest.approx(calls)
  assert row['wall_clock_s'] == pytest.approx(parallel_s)
  assert row['compute_s'] == pytest.approx(sequential_s)
  assert row['cost_usd'] == pytest.approx(cost_usd)
  assert row['gap_to_oracle'] == pytest.approx(1 - accuracy)


def test_an_llm_alone_is_judged_where_it_was_observed(by_hand):
  assert {name: row['queries'] for (name, _), row in _rows(by_hand).items() if name.startswith('single:')} == {
    'single:a': 3,
    'single:b': 4,
    'single:c': 4,
  }
  assert by_hand['llms']['a']['accuracy'] == {'train': 1 / 3, 'validation': 1, 'test': 1 / 3, 'all': 3 / 7}
  assert by_hand['llms']['a']['missing'] == 1
  assert by_hand['llms']['a']['latency_s'] == pytest.approx(1)  # not the 9 s of the call that failed
  assert by_hand['llms']['c']['accuracy']['train'] == 1
  low, high = by_hand['llms']['c']['accuracy_ci']['train']
  assert low < 0.5  # three of three: resampling alone would be sure
  assert high == pytest.approx(1)
  assert by_hand['llms']['c']['missing'] == 0


def test_the_references_are_chosen_before_test_and_compared_on_the_same_queries(by_hand):
  assert by_hand['best_single'] == ['single:c']
  row = _rows(by_hand)['max_conf', 2]
  for name, gain in {'best_single': 1 / 4, 'all_llms': 1 / 4, 'top_s': 0}.items():
    assert row['versus'][name]['delta'] == pytest.approx(gain)
  # One query of four is gained: that shows nothing.
  found = row['versus']['best_single']
  assert (found['queries'], found['differ'], found['p_holm']) == (4, 1, None)
  assert found['p'] == pytest.approx(scipy.stats.chi2.sf(1, 1))
  assert found['ci'][0] < 0 < 1 / 2 <= found['ci'][1] <= 1
  # The first LLM is compared on the three queries it was observed on, where c is right once too.
  versus = _rows(by_hand)['single:a', 1]['versus']['best_single']
  assert (versus['delta'], versus['p']) == (pytest.approx(0), 1)


def test_sizes_are_chosen_on_validation(by_hand):
  """There b alone is confident and wrong: only with all three calls do a and c win, and only if votes are equal."""
  chosen = {row['name']: row for row in by_hand['chosen']}
  assert chosen['max_conf']['sizes'] == [3]
  assert chosen['weighted_max_conf']['sizes'] == [1]  # never right: the smallest
  assert chosen['labelled_max_conf']['sizes'] == [1]
  assert chosen['top_s']['sizes'] == [1]  # c is right alone
  rows = _rows(by_hand)
  for name, row in chosen.items():
    alike = rows[name, row['sizes'][0]]
    assert {field for field in alike if alike[field] != row[field]} - {'sizes', 'versus'} == {'size'}
    for reference, gain in row['versus'].items():
      assert gain | {'p_holm': None} == alike['versus'][reference]


def test_the_oracle_is_judged_by_how_much_is_luck(by_hand):
  # On one of the four test queries two LLMs are right.
  assert by_hand['oracle']['supported'] == 1 / 4
  assert by_hand['oracle']['repeated'] is None  # there is one sample


def test_an_oracle_that_is_right_again_is_right_in_two_samples_of_one_llm():
  # a is right in one sample of three, b in two, c in another one: of three pairs of samples one is b's.
  answers = np.tile(np.int16([[0, 1, 1], [0, 0, 2], [3, 3, 0]]), (8, 1, 1))
  table = _table(answers, [0] * 8, HAND_LATENCY_S, np.ones((8, 3)), np.ones((8, 3), bool))
  oracle = _report(table, [HAND_SPLIT], [HAND_CONFIDENCES], np.ones((8, 2), np.float32), knn_neighbours=[1])['oracle']
  assert oracle['accuracy'] == 1
  assert oracle['supported'] == 0  # by majorities, b alone is right
  assert oracle['repeated'] == pytest.approx(1 / 3)


def test_headline_comparisons_are_corrected_together(by_hand):
  headline = [
    row['versus'][name]
    for row in by_hand['chosen']
    if row['name'] in policies.POLICIES
    for name in ('best_single', 'all_llms', 'static_weighted')
  ]
  assert len(headline) == 9
  corrected = statistics.holm(np.array([gain['p'] for gain in headline]))
  assert [gain['p_holm'] for gain in headline] == pytest.approx(corrected.tolist())
  others = [row for row in (*by_hand['methods'], *by_hand['chosen']) if row['name'] not in policies.POLICIES]
  assert all(gain is None or gain['p_holm'] is None for row in others for gain in row['versus'].values())


# Larger random cases; all share their shapes, so that little is compiled.

QUERIES, LLMS = 50, 4
SPLIT = np.repeat(np.int8([splits.TRAIN, splits.VALIDATION, splits.TEST]), (22, 14, 14))


@functools.cache
def _embeddings() -> np.ndarray:
  vectors = np.random.default_rng(99).normal(size=(QUERIES, 6)).astype(np.float32)
  return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@functools.cache
def _confidences() -> np.ndarray:
  return np.random.default_rng(98).random((QUERIES, LLMS), np.float32)


def _random_table(seed: int = 0, missing: float = 0.15) -> dataset.Dataset:
  rng = np.random.default_rng(seed)
  shape = (QUERIES, LLMS)
  right = rng.random((*shape, 2)) < np.linspace(0.3, 0.7, LLMS)[:, None]
  answers = np.where(right, 0, rng.choice([-1, 1, 2], right.shape))
  observed = rng.random(shape) >= missing
  answers[~observed] = voting.NO_ANSWER
  latency_s = rng.uniform(0.5, 1.5, shape) * [1, 3, 2, 6]
  return _table(answers, np.zeros(QUERIES, int), latency_s, latency_s / 100, observed)


def _with(table: dataset.Dataset, **arrays: np.ndarray) -> dataset.Dataset:
  return table._replace(responses=table.responses._replace(**arrays))


def _evaluate(table: dataset.Dataset, split: np.ndarray = SPLIT, **changes: Any) -> dict[str, Any]:
  return _report(table, [split], [_confidences()], _embeddings(), **changes)


@pytest.fixture(name='found', scope='module')
def _found() -> dict[str, Any]:
  return _evaluate(_random_table())


def _number(value: Any) -> bool:
  return isinstance(value, float | int) and not isinstance(value, bool)


def test_the_report_holds_what_was_promised(found):
  dataset = found['dataset']
  assert {'name', 'llms', 'responses', 'latency', 'queries_per_split'} <= dataset.keys()
  assert (dataset['name'], dataset['llms']) == ('toy', ['a', 'b', 'c', 'd'])
  assert dataset['responses'] == 'recorded'
  assert dataset['latency'] == 'measured'
  assert dataset['queries_per_split'] == {'train': 22, 'validation': 14, 'test': 14}
  assert list(found['llms']) == dataset['llms']
  for row in found['llms'].values():
    assert {'accuracy', 'missing', 'latency_s', 'cost_usd'} <= row.keys()
    for part in ('train', 'validation', 'test', 'all'):
      low, high = row['accuracy_ci'][part]
      assert -1e-9 <= low < high <= 1 + 1e-9
      assert low <= row['accuracy'][part] <= high
  for measure in ('weighted_f1', 'macro_f1', 'auroc', 'brier', 'ece'):
    assert _number(found['classifier'][measure])
  assert _number(found['oracle']['accuracy'])
  assert _number(found['oracle']['latency_s'])
  for row in found['methods']:
    for field in ('accuracy', 'calls', 'wall_clock_s', 'compute_s', 'cost_usd', 'gap_to_oracle'):
      assert _number(row[field]), (row['name'], field)
    low, high = row['accuracy_ci']
    assert 0 <= low <= row['accuracy'] + 1e-9
    assert row['accuracy'] - 1e-9 <= high <= 1
    assert set(row['versus']) == {'best_single', 'all_llms', 'static_weighted', 'top_s', 'best_s'}
    for reference, comparison in row['versus'].items():
      if row['name'] != 'oracle' or reference not in ('top_s', 'best_s'):  # the oracle has no size
        assert set(comparison) == {'queries', 'delta', 'ci', 'p', 'differ', 'detectable', 'p_holm'}
        assert 0 <= comparison['p'] <= 1
        low, high = comparison['ci']
        assert (low > 0 or high < 0) == (comparison['p'] < 0.05)
        low, high = comparison['ci']
        assert low - 1e-9 <= comparison['delta'] <= high + 1e-9
  json.dumps(found, allow_nan=False)


def test_every_method_is_there_at_every_size(found):
  keys = [(row['name'], row['size']) for row in found['methods']]
  expected = {(name, size) for name in SIZED for size in range(1, LLMS + 1)}
  expected |= {(f'single:{llm}', 1) for llm in 'abcd'} | {('all_llms', LLMS), ('knn_top1', 1), ('oracle', None)}
  assert set(keys) == expected
  assert len(keys) == len(set(keys))
  assert {row['name'] for row in found['chosen']} == set(SIZED)


@pytest.mark.parametrize('ties', voting.TIES)
def test_whoever_calls_everybody_fares_like_all_llms(ties):
  rows = _rows(_evaluate(_random_table(), ties=ties))
  # The policies' ties go to whom they are confident in.
  for name in ('top_s', 'best_s', 'random', *(['max_conf'] if ties == 'fastest' else [])):
    alike = {field: value for field, value in rows[name, LLMS].items() if field not in ('name', 'size')}
    # Sums in another order may differ in the last bits.
    for field in ('accuracy', 'calls', 'wall_clock_s', 'compute_s', 'cost_usd'):
      assert alike[field] == pytest.approx(rows['all_llms', LLMS][field], rel=1e-5)


def test_nothing_beats_the_oracle_and_nothing_is_faster_at_its_accuracy(found):
  for row in found['methods']:
    if not row['name'].startswith('single:'):  # which may have been spared hard queries
      assert row['accuracy'] <= found['oracle']['accuracy']
    assert row['wall_clock_s'] <= row['compute_s'] + 1e-6
    assert row['wall_clock_p50_s'] <= row['wall_clock_p95_s']


@pytest.mark.parametrize('vote', voting.VOTES)
def test_an_llm_alone_is_as_accurate_as_its_labels_say(vote):
  table = _random_table(seed=5)
  evaluated = _evaluate(table, vote=vote)
  test = SPLIT == splits.TEST
  for column, llm in enumerate(table.llms):
    seen = test & table.responses.observed[:, column]
    expected = table.responses.labels[seen, column].mean()
    assert _rows(evaluated)[f'single:{llm}', 1]['accuracy'] == pytest.approx(expected)
    assert evaluated['llms'][llm]['accuracy']['test'] == pytest.approx(expected)
  right = (table.responses.labels * table.responses.observed).max(1)
  assert evaluated['oracle']['accuracy'] == pytest.approx(right[test & table.responses.observed.any(1)].mean())


def test_two_evaluations_are_equal(found):
  assert _evaluate(_random_table()) == found


@pytest.mark.parametrize('vote', voting.VOTES)
def test_how_queries_are_blocked_changes_nothing(monkeypatch, vote):
  whole = _evaluate(_random_table(), vote=vote)
  monkeypatch.setattr(batching, 'block_size', lambda ballots: 5)  # test and validation have 14 queries
  assert _evaluate(_random_table(), vote=vote) == whole


def test_how_gains_are_blocked_changes_nothing(found, monkeypatch):
  monkeypatch.setattr(evaluator, '_GAINS', 14 * 10)
  in_blocks = _evaluate(_random_table())
  for row, other in zip(in_blocks['methods'], found['methods'], strict=True):
    for name, versus in row['versus'].items():
      expected = other['versus'][name]
      assert (versus is None) == (expected is None)
      if versus:
        assert versus['p'] == expected['p']
        assert versus['ci'] == pytest.approx(expected['ci'])


def test_a_sample_of_many_known_queries_is_looked_at(monkeypatch):
  """Which LLMs are best is still told by all of them."""
  table = _random_table()
  everything = _fit(table)
  monkeypatch.setattr(baselines, 'MOST_KNOWN', 6)
  some = _fit(table)
  assert some.top.tolist() == everything.top.tolist()
  assert some.best.sum(1).tolist() == [1, 2, 3, 4]
  assert not np.array_equal(some.knn, everything.knn)


def _all_subsets_by_hand(table: dataset.Dataset, size: int, vote: str) -> dict[str, float]:
  """Every subset of the LLMs that answered a query is called, and accounts are kept of each."""
  data, kept = table.responses, []
  priority = _fit(table, vote=vote).vote.priority
  elect = jax.jit(functools.partial(voting.vote, over=vote))
  for row in np.flatnonzero(data.observed.any(1) & (SPLIT == splits.TEST)):
    available = np.flatnonzero(data.observed[row])
    of_query = []
    for members in itertools.combinations(available, min(size, len(available))):
      mask, called = np.isin(np.arange(LLMS), members), list(members)
      answer = elect(data.ballots(vote)[row], mask, np.ones(LLMS, np.float32), priority)
      latency_s, cost_usd = data.latency_s[row, called], data.cost_usd[row, called]
      of_query.append([answer in data.accepted[row], len(called), latency_s.max(), latency_s.sum(), cost_usd.sum()])
    kept.append(np.mean(of_query, 0))
  fields = ('accuracy', 'calls', 'wall_clock_s', 'compute_s', 'cost_usd')
  return dict(zip(fields, np.mean(kept, 0).tolist(), strict=True))


@pytest.mark.parametrize('vote', voting.VOTES)
def test_random_is_the_mean_over_all_subsets(vote):
  table = _random_table(missing=0.3)
  rows = _rows(_evaluate(table, vote=vote))
  for size in range(1, LLMS + 1):
    expected = _all_subsets_by_hand(table, size, vote)
    assert {name: rows['random', size][name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_random_subsets_of_a_large_pool_are_drawn_for_each_query(monkeypatch):
  """What they take is still exact; how right they are follows from some of them."""
  table = _random_table()
  everything = _rows(_evaluate(table))
  monkeypatch.setattr(options, 'MOST_ENUMERATED', 3)
  monkeypatch.setattr(options, 'RANDOM_DRAWS', 300)
  drawn = _rows(_evaluate(table))
  for size in range(1, LLMS + 1):
    one, other = (rows['random', size] for rows in (everything, drawn))
    assert one['accuracy'] == pytest.approx(other['accuracy'], abs=0.03)
    assert one['wall_clock_s'] == other['wall_clock_s']


@pytest.mark.parametrize('seed', range(3))
def test_nearest_neighbours_are_tuned_on_validation_and_ask_the_best_llm_there_is(seed):
  table = _random_table(seed)
  data, train = table.responses, SPLIT == splits.TRAIN
  accuracy = {}
  for neighbours in (1, 3, 9):
    near = baselines.nearest(_embeddings(), _embeddings()[train], neighbours=neighbours)
    scores = baselines.knn_scores(near, data.labels[train], data.observed[train])
    right = data.labels[np.arange(QUERIES), np.where(data.observed, scores, -1).argmax(1)]
    accuracy[neighbours] = [right[part == SPLIT].mean() for part in (splits.VALIDATION, splits.TEST)]
  evaluated = _evaluate(table, knn_neighbours=[3, 9, 1])
  best = max(accuracy, key=lambda neighbours: (accuracy[neighbours][0], neighbours))
  assert evaluated['knn_neighbours'] == [best]
  assert _rows(evaluated)['knn_top1', 1]['accuracy'] == pytest.approx(accuracy[best][1])


# No leak: what is fitted or chosen must not know the test.


def _adverse(table: dataset.Dataset, which: int, rng: np.random.Generator) -> dataset.Dataset:
  """The same queries, where all answers, labels, latencies, prices and missing LLMs of one split are others."""
  data, rows = table.responses, which == SPLIT
  changed = {name: array.copy() for name, array in data._asdict().items()}
  changed['answers'][rows] = np.where(rng.random(changed['answers'][rows].shape) < 0.5, 3, 4)
  changed['answers'][rows, 0] = 0  # the weakest LLM is now always right, and alone
  changed['majority'] = dataset.majorities(changed['answers'])
  changed['accepted'][rows] = 0
  changed['labels'][rows] = [1, 0, 0, 0]
  changed['latency_s'][rows] = rng.uniform(100, 200, changed['latency_s'][rows].shape)
  changed['cost_usd'][rows] = 7
  changed['observed'][rows] = True
  return table._replace(responses=dataset.Responses(**changed))


def _fit(table: dataset.Dataset, split: np.ndarray = SPLIT, vote: str = 'majority') -> baselines.FittedBaselines:
  return baselines.fit_baselines(
    table.responses, split, _embeddings(), over=vote, ties='confident', knn_neighbours=[2, 5]
  )


def _same(one: baselines.FittedBaselines, other: baselines.FittedBaselines) -> dict[str, bool]:
  return {name: np.array_equal(getattr(one, name), getattr(other, name)) for name in baselines.FittedBaselines._fields}


CHOSEN = ('best_single', 'knn_neighbours')


@pytest.mark.parametrize('seed', range(2))
def test_nothing_fitted_or_chosen_knows_the_test_split(seed):
  table = _random_table(seed)
  other = _adverse(table, splits.TEST, np.random.default_rng(seed))
  assert all(_same(_fit(table), _fit(other)).values())
  here, there = _evaluate(table), _evaluate(other)
  assert {row['name']: row['sizes'] for row in here['chosen']} == {row['name']: row['sizes'] for row in there['chosen']}
  assert [here[name] for name in CHOSEN] == [there[name] for name in CHOSEN]
  assert [row['accuracy'] for row in here['methods']] != [row['accuracy'] for row in there['methods']]


def test_the_change_that_must_not_matter_on_test_matters_elsewhere():
  """Else the test above could not see a leak."""
  table, rng = _random_table(), np.random.default_rng(0)
  on_train = _same(_fit(table), _fit(_adverse(table, splits.TRAIN, rng)))
  assert not any(on_train[name] for name in ('latency_s', 'top', 'best_single', 'best', 'knn'))
  other = _adverse(table, splits.VALIDATION, rng)
  on_validation = _same(_fit(table), _fit(other))
  assert on_validation['latency_s']
  assert on_validation['top']
  assert not on_validation['best']
  sizes = [{row['name']: row['sizes'] for row in _evaluate(t)['chosen']} for t in (table, other)]
  assert sizes[0] != sizes[1]


def test_queries_that_are_unused_change_nothing():
  split = SPLIT.copy()
  split[:4] = splits.UNUSED
  table = _random_table()
  other = table
  for name, array in _adverse(table, splits.TRAIN, np.random.default_rng(0)).responses._asdict().items():
    mixed = getattr(table.responses, name).copy()
    mixed[:4] = array[:4]
    other = _with(other, **{name: mixed})
  one, two = (_fit(t, split) for t in (table, other))
  assert all(_same(one, two).values())
  here, there = (_evaluate(t, split) for t in (table, other))
  assert here['methods'] == there['methods']
  assert here['chosen'] == there['chosen']
  assert here['dataset']['queries_per_split'] == {'train': 18, 'validation': 14, 'test': 14}
  assert here['dataset']['unused'] == 4


def test_shuffled_test_references_leave_what_is_fitted_bit_identical():
  table = _random_table()
  accepted = table.responses.accepted.copy()
  test = np.flatnonzero(SPLIT == splits.TEST)
  accepted[test, 0] = np.random.default_rng(0).integers(0, 3, len(test))
  other = _with(table, accepted=accepted)
  for one, two in zip(jax.tree.leaves(_fit(table)), jax.tree.leaves(_fit(other)), strict=True):
    assert np.asarray(one).tobytes() == np.asarray(two).tobytes()


def test_selections_do_not_see_the_answers_latencies_or_labels_of_their_query():
  table = _random_table(missing=0)
  other = _adverse(table, splits.TEST, np.random.default_rng(1))
  here, there = (_selections(t) for t in (table, other))
  for name in policies.POLICIES:
    np.testing.assert_array_equal(here[name].mask, there[name].mask)
    np.testing.assert_array_equal(here[name].weight, there[name].weight)


# Missing responses.


def test_a_policy_selects_the_next_llm_where_its_first_is_missing():
  table = _random_table(missing=0)
  observed = np.ones((QUERIES, LLMS), bool)
  order = (-_confidences()).argsort(1)
  observed[np.arange(QUERIES), order[:, 0]] = False
  mask = _selections(_with(table, observed=observed))['max_conf'].mask
  np.testing.assert_array_equal(mask[:, 0].argmax(1), order[:, 1])
  np.testing.assert_array_equal(mask[:, 0].sum(1), 1)
  np.testing.assert_array_equal(mask[:, LLMS - 1].sum(1), LLMS - 1)


def test_what_a_missing_call_would_have_answered_or_taken_changes_nothing(found):
  table = _random_table()
  gone = ~table.responses.observed
  filled = {name: getattr(table.responses, name).copy() for name in ('answers', 'labels', 'latency_s', 'cost_usd')}
  for array, value in zip(filled.values(), (0, 1, 1e6, 1e6), strict=True):
    array[gone] = value
  assert _evaluate(_with(table, **filled)) == found


def test_queries_that_nobody_answered_are_not_counted():
  table = _random_table(missing=0)
  observed = np.ones((QUERIES, LLMS), bool)
  observed[[0, 25, 40, 41]] = False  # of train, of validation, two of test
  evaluated = _evaluate(_with(table, observed=observed))
  assert {row['queries'] for row in evaluated['methods']} == {12}
  counted = np.flatnonzero(SPLIT == splits.TEST)
  counted = counted[~np.isin(counted, (40, 41))]
  for column, llm in enumerate('abcd'):
    expected = table.responses.labels[counted, column].mean()
    assert _rows(evaluated)[f'single:{llm}', 1]['accuracy'] == pytest.approx(expected)
  assert evaluated['llms']['a']['missing'] == 4


def test_an_llm_missing_from_all_of_test_has_no_accuracy_and_breaks_nothing():
  table = _random_table(missing=0)
  observed = np.ones((QUERIES, LLMS), bool)
  observed[SPLIT == splits.TEST, 0] = False
  evaluated = _evaluate(_with(table, observed=observed))
  json.dumps(evaluated, allow_nan=False)
  row = _rows(evaluated)['single:a', 1]
  assert (row['queries'], row['accuracy'], row['accuracy_ci'], row['calls']) == (0, None, [None, None], None)
  assert set(row['versus'].values()) == {None}
  assert evaluated['llms']['a']['accuracy']['test'] is None
  assert evaluated['llms']['a']['accuracy_ci']['test'] == [None, None]
  assert evaluated['llms']['a']['accuracy']['train'] is not None


# Latencies and prices that nobody knows.


def test_unknown_latencies_and_costs_are_none_and_valid_json(found):
  table = _random_table()
  nothing = np.full((QUERIES, LLMS), np.nan, np.float32)
  evaluated = _evaluate(_with(table, latency_s=nothing, cost_usd=nothing)._replace(latency_is='unknown'))
  json.dumps(evaluated, allow_nan=False)
  for row in evaluated['methods']:
    for field in ('wall_clock_s', 'wall_clock_p50_s', 'wall_clock_p95_s', 'compute_s'):
      assert row[field] is None
    assert row['cost_usd'] is None
    assert row['accuracy'] is not None
  assert evaluated['policy_tradeoff'] is None
  assert evaluated['oracle']['latency_s'] is None
  assert evaluated['dataset']['latency'] == 'unknown'
  assert all(row['latency_s'] is None and row['cost_usd'] is None for row in evaluated['llms'].values())


def test_an_llm_of_unknown_latency_makes_only_those_who_call_it_unknown():
  table = _random_table(missing=0)
  latency_s = table.responses.latency_s.copy()
  latency_s[:, 1] = np.nan
  rows = _rows(_evaluate(_with(table, latency_s=latency_s)))
  assert rows['single:b', 1]['compute_s'] is None
  assert rows['all_llms', LLMS]['wall_clock_s'] is None
  assert rows['single:a', 1]['compute_s'] == pytest.approx(latency_s[SPLIT == 2, 0].mean())


def test_expected_latency_is_the_mean_over_known_calls_of_train():
  table = _random_table(missing=0)
  latency_s = np.tile(np.float32([1, 2, 3, 4]), (QUERIES, 1))
  latency_s[SPLIT != splits.TRAIN] = 50
  latency_s[:2] = [[3, 2, np.nan, 4], [5, 2, np.nan, 4]]
  observed = np.ones((QUERIES, LLMS), bool)
  observed[1, 0] = False
  data = table.responses._replace(latency_s=latency_s, observed=observed)
  np.testing.assert_allclose(baselines.expected_latency_s(data, SPLIT), [(20 + 3) / 21, 2, 3, 4], rtol=1e-6)


def test_an_llm_of_unknown_latency_is_not_taken_for_the_fastest():
  table = _random_table(missing=0)
  latency_s = np.tile(np.float32([1, 2, np.nan, 4]), (QUERIES, 1))
  expected = baselines.expected_latency_s(table.responses._replace(latency_s=latency_s), SPLIT)
  assert expected.tolist() == [1, 2, 4, 4]
  unknown = table.responses._replace(latency_s=np.full_like(latency_s, np.nan))
  assert baselines.expected_latency_s(unknown, SPLIT).tolist() == [0, 0, 0, 0]


# Scores without answers.


@pytest.fixture(scope='module')
def scored() -> dict[str, Any]:
  return _evaluate(_scores_table())


def _scores_table() -> dataset.Dataset:
  rng = np.random.default_rng(4)
  table = _random_table()
  nothing = np.full((QUERIES, LLMS), np.nan, np.float32)
  return _with(
    table,
    answers=np.zeros((QUERIES, LLMS, 0), np.int16),
    majority=np.full((QUERIES, LLMS), voting.NO_ANSWER, np.int16),
    accepted=np.full((QUERIES, 1), voting.NO_ANSWER, np.int16),
    labels=np.where(table.responses.observed, rng.random((QUERIES, LLMS)), 0).astype(np.float32),
    latency_s=nothing,
    cost_usd=nothing,
  )._replace(latency_is='unknown')


def test_scores_alone_know_no_votes(scored):
  names = {(row['name'], row['size']) for row in scored['methods']}
  expected = {(name, 1) for name in (*policies.POLICIES, 'top_s', 'random', 'knn_top1')}
  assert names == expected | {(f'single:{llm}', 1) for llm in 'abcd'} | {('oracle', None)}
  assert all(row['versus']['all_llms'] is None for row in scored['methods'])
  assert {row['name'] for row in scored['chosen']} == {*policies.POLICIES, 'top_s', 'random'}
  assert all(row['sizes'] == [1] for row in scored['chosen'])
  json.dumps(scored, allow_nan=False)


def test_scores_are_averaged_over_the_called_llms(scored):
  data, test = _scores_table().responses, np.flatnonzero(SPLIT == splits.TEST)
  best = np.where(data.observed, _confidences(), -1).argmax(1)
  rows = _rows(scored)
  assert rows['max_conf', 1]['accuracy'] == pytest.approx(data.labels[test, best[test]].mean())
  highest = np.where(data.observed, data.labels, -1).max(1)
  assert scored['oracle']['accuracy'] == pytest.approx(highest[test].mean())
  assert rows['max_conf', 1]['versus']['best_single']['delta'] is not None


# Folds.


@pytest.fixture(scope='module')
def folded() -> tuple[dict[str, Any], list[dict[str, Any]], dataset.Dataset]:
  """A cross-validation in three folds of 14 tests, 14 validations and 22 trains, and each fold for itself.

  Query 42 to 49 never test.
  """
  table = _random_table(missing=0.1)
  split = [np.roll(SPLIT, 14 * (fold + 1)) for fold in range(3)]
  confidences = [_confidences() ** (fold + 1) for fold in range(3)]
  apart = [_report(table, [of], [its], _embeddings()) for of, its in zip(split, confidences, strict=True)]
  return _report(table, split, confidences, _embeddings()), apart, table


def test_every_query_of_the_folds_is_counted_once(folded):
  together, _, table = folded
  assert together['dataset']['folds'] == 3
  assert together['dataset']['queries_per_split'] == {'train': 22, 'validation': 14, 'test': 42}
  for column, llm in enumerate(table.llms):
    seen = table.responses.observed[:42, column]
    row = _rows(together)[f'single:{llm}', 1]
    assert row['queries'] == seen.sum()
    assert row['accuracy'] == pytest.approx(table.responses.labels[:42, column][seen].mean())
    assert np.sum(together['classifier']['confusion'][llm]) == seen.sum()
  assert _rows(together)['all_llms', LLMS]['queries'] == table.responses.observed[:42].any(1).sum()


def test_folds_do_not_make_more_queries_of_what_trains_in_each():
  """Twice the same split says as much about the LLMs as once."""
  table = _random_table()
  once, twice = (
    _report(table, [SPLIT] * folds, [_confidences()] * folds, _embeddings(), resamples=200)['llms'] for folds in (1, 2)
  )
  assert twice == once


def test_an_llms_accuracy_is_over_the_queries_that_are_in_a_split_in_any_fold(folded):
  together, _, table = folded
  data = table.responses
  row = together['llms']['b']
  for part, queries in {'test': slice(42), 'train': slice(None), 'all': slice(None)}.items():
    observed = data.observed[queries, 1]
    assert row['accuracy'][part] == pytest.approx(data.labels[queries, 1][observed].mean())
  low, high = row['accuracy_ci']['train']
  assert low < row['accuracy']['train'] < high


@pytest.mark.parametrize(('which', 'name'), [(splits.VALIDATION, 'validation'), (splits.TRAIN, 'train')])
def test_a_split_that_one_llm_has_seen_stands_out(which, name):
  table = _random_table(missing=0)
  labels = np.tile(np.float32([1, 0]), QUERIES * LLMS // 2).reshape(QUERIES, LLMS)  # half right everywhere
  labels[:, 1] = np.arange(QUERIES) % 3 == 0
  labels[which == SPLIT, 1] = 1
  rows = _evaluate(_with(table, labels=labels), resamples=200)['llms']
  for part in {'train', 'validation', 'test'} - {name}:
    assert rows['b']['accuracy_ci'][part][1] < rows['b']['accuracy_ci'][name][0]
    (low, high), (other_low, other_high) = (rows['c']['accuracy_ci'][p] for p in (name, part))
    assert low <= other_high
    assert other_low <= high


def test_folds_together_are_what_they_are_one_by_one(folded):
  together, apart, _ = folded

  def joined(rows: list[dict[str, Any]], field: str) -> float:
    return np.average([row[field] for row in rows], weights=[row['queries'] for row in rows])

  for key, row in _rows(together).items():
    for field in ('accuracy', 'calls', 'wall_clock_s', 'compute_s', 'cost_usd'):
      assert row[field] == pytest.approx(joined([_rows(one)[key] for one in apart], field), rel=1e-5), (key, field)
  chosen = [{row['name']: row for row in one['chosen']} for one in apart]
  for row in together['chosen']:
    assert row['sizes'] == [one[row['name']]['sizes'][0] for one in chosen]
    assert row['accuracy'] == pytest.approx(joined([one[row['name']] for one in chosen], 'accuracy'))
  assert together['knn_neighbours'] == [one['knn_neighbours'][0] for one in apart]
  assert together['best_single'] == sorted({name for one in apart for name in one['best_single']})


def test_what_takes_an_unknown_time_takes_none_that_is_known():
  """Of many LLMs and samples, where compilers may let a maximum pass over NaN."""
  rng, shape = np.random.default_rng(0), (100, 16)
  latency_s = np.where(rng.random(shape) < 0.3, np.nan, 1)
  table = _table(
    rng.integers(0, 4, (*shape, 4)), np.zeros(100), latency_s, np.full(shape, np.nan), np.ones(shape), 'unknown'
  )
  mask = rng.random((100, 5, 16)) < 0.4
  played = replay.replay(
    table.responses, mask, np.ones(16, np.float32), np.arange(16.0, dtype=np.float32), over='majority'
  ).metrics
  unknown = (mask & np.isnan(latency_s)[:, None]).any(-1)
  assert 0.2 < unknown.mean() < 0.99
  np.testing.assert_array_equal(np.isnan(played.wall_clock_s), unknown)
  np.testing.assert_array_equal(np.isnan(played.compute_s), unknown)
  assert (played.wall_clock_s[~unknown] <= 1).all()
  np.testing.assert_array_equal(np.isnan(played.cost_usd), mask.any(-1))


def test_methods_are_means_over_seeds_whose_spread_is_in_intervals_and_tests():
  table = _table(np.array(HAND_ANSWERS)[..., None], [0] * 8, HAND_LATENCY_S, HAND_LATENCY_S, np.ones((8, 3), bool))
  embeddings, estimates = np.eye(8, dtype=np.float32), [confidence.TEMPLATE]

  def run(confidences: np.ndarray) -> context.RunContext:
    return context.RunContext(table, HAND_SPLIT[None], confidences[None], estimates, embeddings, _options())

  def row(runs: list[context.RunContext], name: str) -> results.MethodResult:
    return next(row for row in evaluator.evaluate(runs).methods if (row.name, row.size) == (name, 1))

  one, other = run(HAND_CONFIDENCES), run(1 - HAND_CONFIDENCES)
  alone = [row([each], 'max_conf') for each in (one, other)]
  assert alone[0].accuracy != alone[1].accuracy
  both = row([one, other], 'max_conf')
  assert both.seeds == pytest.approx([each.accuracy for each in alone])
  assert both.accuracy == pytest.approx(np.mean(both.seeds))
  assert alone[0].seeds is None
  same = row([one, one], 'max_conf')
  assert same.accuracy == alone[0].accuracy
  assert both.accuracy_ci[1] - both.accuracy_ci[0] > same.accuracy_ci[1] - same.accuracy_ci[0]
  single = row([one, other], 'single:b')
  assert single.seeds[0] == single.seeds[1] == single.accuracy
  for gain in (both.versus['best_single'], same.versus['best_single']):
    assert (gain.ci[0] > 0 or gain.ci[1] < 0) == (gain.p < 0.05)
