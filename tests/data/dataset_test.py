import collections
import dataclasses
import itertools
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import selectllm
from selectllm.data import dataset, pool_file, records
from selectllm.selection import voting

Record, Sample = records.Record, records.Sample
LLMS = ('c', 'a', 'd', 'b')
PACKAGE = pathlib.Path(selectllm.__file__).parent


def build(recorded, *, llms=(), pool=None, extractor='', unlabelled=False):
  """What `load` does, without files."""
  present = list(dict.fromkeys(name for record in recorded for name in (record.responses or record.scores)))
  samples = max((len(s) for record in recorded for s in record.responses.values()), default=0)
  return dataset.build(
    recorded,
    name='data',
    size=len(recorded),
    present=present,
    samples=samples,
    llms=llms,
    pool=pool,
    extractor=extractor,
    unlabelled=unlabelled,
  )


def answered(reference='4', **answers):
  """A record of samples that hold nothing but these answers."""
  name = f'{reference}/{answers}'
  return Record(name, name, 't', reference, {llm: [Sample(answer=a) for a in given] for llm, given in answers.items()})


def random_records(seed, count=60, samples=5):
  """Few different answers, so that there are many ties; some failed samples, some absent LLMs."""
  random = np.random.default_rng(seed)
  recorded = []
  for number in range(count):
    called = {}
    for llm in LLMS:
      drawn = random.integers(-2, 3, random.integers(0, samples + 1)).tolist()  # -2: failed, -1: no answer
      called[llm] = [
        Sample(error='failed') if a == -2 else Sample(answer=None if a == -1 else f'{number}.{a}') for a in drawn
      ]
      if random.random() < 0.1:
        del called[llm]
    recorded.append(Record(f'q{number}', 'x', 't', f'{number}.{random.integers(3)}', called))
  return recorded


def expected_label(record, llm):
  """The answer given most often; among those, the one that was given that often first."""
  given = [s.answer for s in record.responses.get(llm, []) if s.error is None and s.answer is not None]
  counts = collections.Counter(given)
  winners = [answer for answer in counts if counts[answer] == max(counts.values())]
  last_place = {answer: max(i for i, a in enumerate(given) if a == answer) for answer in winners}
  return bool(winners) and min(winners, key=last_place.__getitem__) == record.reference


@pytest.mark.parametrize('seed', range(5))
def test_labels_against_a_reference(seed):
  recorded = random_records(seed)
  table = build(recorded, llms=LLMS)
  np.testing.assert_array_equal(table.responses.majority, dataset.majorities(table.responses.answers))
  expected = [[expected_label(record, llm) for llm in LLMS] for record in recorded]
  np.testing.assert_array_equal(table.responses.labels, np.array(expected, np.float32))
  assert 0.1 < table.responses.labels.mean() < 0.9
  heard = [[any(s.error is None for s in r.responses.get(llm, [])) for llm in LLMS] for r in recorded]
  np.testing.assert_array_equal(table.responses.observed, heard)
  assert 0.05 < 1 - table.responses.observed.mean() < 0.5


@pytest.mark.parametrize(
  ('given', 'right'),
  [
    (['4'], True),
    (['5', '4', '4'], True),
    (['4', '5', '5'], False),
    (['4', '5'], True),  # a tie: '4' came first
    (['5', '4'], False),
    (['5', '4', '4', '5'], True),  # '4' was first to be given twice
    (['4', '5', '5', '4'], False),
    ([None, None, '4'], True),  # what is no answer casts no vote
    ([None], False),
    ([None, '5', None, '4', '4'], True),
  ],
)
def test_majority_and_ties(given, right):
  table = build([answered(a=given, b=['9'])])
  assert table.responses.labels.tolist() == [[right, 0]]
  assert table.responses.observed.all()


def test_shapes_and_types():
  table = build([answered(a=['4', None], b=['5']), answered(b=['7', '4', '7'])])
  assert table.responses.answers.tolist() == [[[0, -1, -1], [1, -1, -1]], [[-1, -1, -1], [0, 1, 0]]]
  assert table.responses.accepted.tolist() == [[0], [1]]
  kinds = {'answers': 'int16', 'accepted': 'int16', 'labels': 'float32', 'observed': 'bool', 'latency_s': 'float32'}
  kinds |= {'majority': 'int16', 'cost_usd': 'float32', 'completion_tokens': 'float32', 'task': 'int16'}
  assert {name: str(array.dtype) for name, array in table.responses._asdict().items()} == kinds
  assert table.responses.has_answers
  assert table.responses.rows(np.array([False, True])).accepted.tolist() == [[1]]
  assert table.responses.rows(np.array([1, 0, 0])).labels.tolist() == [[0, 0], [1, 0], [1, 0]]


def test_tokens_are_the_mean_of_the_samples_where_all_are_known():
  def called(*written):
    return [Sample(answer='4', completion_tokens=count) for count in written]

  table = build([Record('q', 'q', 't', '4', {'a': called(10, 20, None), 'b': called(30, 50)})])
  np.testing.assert_array_equal(table.responses.completion_tokens, [[np.nan, 40]])


def test_ids_tell_nothing_about_the_reference():
  """The answers' ids are the same whatever the reference, and so they are no hint to it."""
  recorded = random_records(0)
  known = build(recorded, llms=LLMS)
  for reference in ('nobody said this', '7.0'):
    other = build([Record(r.query_id, r.query, r.task, reference, r.responses) for r in recorded], llms=LLMS)
    np.testing.assert_array_equal(other.responses.answers, known.responses.answers)
  # Among answered queries, the right one is no special id: wrong answers are as often the first.
  told = (known.responses.answers[:, 0, 0] == 0) & known.responses.observed[:, 0]
  assert 0.1 < (known.responses.accepted[told] == 0).mean() < 0.6


@pytest.mark.parametrize('order', list(itertools.permutations(LLMS))[1::5])
def test_the_order_of_llms_changes_no_label(order):
  recorded = random_records(1)
  table, shuffled = build(recorded, llms=LLMS), build(recorded, llms=order)
  columns = [LLMS.index(llm) for llm in order]
  assert shuffled.llms == order
  np.testing.assert_array_equal(shuffled.responses.labels, table.responses.labels[:, columns])
  np.testing.assert_array_equal(shuffled.responses.observed, table.responses.observed[:, columns])
  same = shuffled.responses.answers == shuffled.responses.accepted[..., None]
  np.testing.assert_array_equal(same, (table.responses.answers == table.responses.accepted[..., None])[:, columns])


def test_the_names_of_answers_change_no_label():
  recorded = random_records(2)
  names = {f'{number}.{a}': f'{"zyx"[a]}{number}' for number in range(len(recorded)) for a in range(3)}
  renamed = [
    Record(
      r.query_id, r.query, r.task, names[r.reference],
      {llm: [Sample(answer=names.get(s.answer), error=s.error) for s in given] for llm, given in r.responses.items()},
    )
    for r in recorded
  ]  # fmt: skip
  np.testing.assert_array_equal(build(renamed, llms=LLMS).responses.labels, build(recorded, llms=LLMS).responses.labels)


def timed(*samples, **others):
  return Record('q', 'x', 't', '4', {'a': list(samples), 'b': [Sample(answer='4')], **others})


def test_latency_is_the_slowest_samples():
  slow = timed(
    Sample(answer='4', latency_s=1.5, latency_is='measured'),
    Sample(answer=None, latency_s=3.5, latency_is='measured'),
    Sample(error='timeout', latency_s=60.0, latency_is='measured'),  # was no observation
  )
  table = build([slow])
  assert table.responses.latency_s[0, 0] == 3.5
  assert np.isnan(table.responses.latency_s[0, 1])
  assert table.latency_is == 'unknown'


def test_latency_is_estimated_where_it_was_not_recorded():
  pool = pool_file.Pool(
    {'a': pool_file.LLM('a', parameters_b=7), 'b': pool_file.LLM('b', parameters_b=70, seconds_per_token=0.5)}
  )
  spoke = Sample(answer='4', completion_tokens=100)
  table = build([timed(spoke, Sample(completion_tokens=300), b=[spoke])], pool=pool)
  np.testing.assert_allclose(
    table.responses.latency_s, [[0.3 + 7 * (300 / 1000 + 1.3e-5 / 4), 0.3 + 50 + 70 * 1.3e-5 / 4]], rtol=1e-6
  )
  assert table.latency_is == 'estimated'
  # What was recorded counts, and where neither is known nothing is.
  recorded = Sample(completion_tokens=100, latency_s=0.0, latency_is='measured')
  table = build([timed(recorded, b=[spoke, Sample(answer='4')])], pool=pool)
  assert table.responses.latency_s[0, 0] == 0
  assert np.isnan(table.responses.latency_s[0, 1])
  assert table.latency_is == 'unknown'
  assert np.isnan(build([timed(spoke)]).responses.latency_s).all()  # no pool file: no speed


def test_published_latency_counts_where_neither_latency_nor_length_is_known():
  pool = pool_file.Pool({name: pool_file.LLM(name, parameters_b=7, published_latency_s=4.5) for name in 'ab'})
  silent, spoke = Sample(answer='4'), Sample(answer='4', completion_tokens=100)
  measured = Sample(answer='4', latency_s=1.0, latency_is='measured')
  table = build([timed(silent, silent, b=[measured]), timed(spoke, b=[silent])], pool=pool)
  np.testing.assert_allclose(table.responses.latency_s, [[4.5, 1.0], [0.3 + 0.7 + 7 * 1.3e-5 / 4, 4.5]])
  assert table.latency_is == 'estimated'
  assert build([timed(silent, b=[measured])], pool=pool).latency_is == 'published'
  nobody = pool_file.Pool({'a': pool_file.LLM('a', published_latency_s=4.5)})
  assert build([timed(silent, b=[silent])], pool=nobody).latency_is == 'unknown'


@pytest.mark.parametrize(
  ('kinds', 'weakest'),
  [
    (['measured'], 'measured'),
    (['measured', 'published'], 'published'),
    (['published', 'estimated', 'measured'], 'estimated'),
    (['measured', 'estimated', 'measured'], 'estimated'),
    (['estimated', 'unknown', 'measured'], 'unknown'),
    ([], 'unknown'),
  ],
)
def test_a_mixture_of_latencies_is_called_by_its_weakest(kinds, weakest):
  assert dataset.weakest(kinds) == weakest
  if kinds:
    samples = [Sample(answer='4', latency_s=1.0, latency_is=kind) for kind in kinds]
    measured = Sample(answer='4', latency_s=1.0, latency_is='measured')
    assert build([timed(*samples, b=[measured])]).latency_is == weakest
    # Also where the weakest stands in another query's call.
    recorded = [timed(measured, b=[measured]), timed(measured, b=samples)]
    assert build(recorded).latency_is == weakest


def test_missing_calls_weaken_no_evidence():
  measured = Sample(answer='4', latency_s=1.0, latency_is='measured')
  assert build([timed(measured, b=[measured]), timed(measured, b=[Sample(error='failed')])]).latency_is == 'measured'


def test_cost_sums_over_samples_and_over_samples_drawn():
  price = pool_file.Price(2.0, 10.0, '2025-01-31')
  pool = pool_file.Pool({'a': pool_file.LLM('a', price=price), 'b': pool_file.LLM('b', price=price, samples_drawn=100)})
  one = Sample(answer='4', prompt_tokens=1000, completion_tokens=500)
  failed = Sample(error='failed', prompt_tokens=1000, completion_tokens=500)
  table = build([timed(one, one, failed, b=[one])], pool=pool)
  # The prompt is paid once a response, each drawn sample's tokens are.
  expected = [[2 * (1000 * 2 + 500 * 10) / 1e6, (1000 * 2 + 100 * 500 * 10) / 1e6]]
  np.testing.assert_allclose(table.responses.cost_usd, expected, rtol=1e-6)


def test_cost_is_unknown_without_price_or_tokens():
  priced = pool_file.LLM('a', price=pool_file.Price(2.0, 10.0, '2025-01-31'))
  known, unknown = Sample(answer='4', prompt_tokens=1, completion_tokens=1), Sample(answer='4', prompt_tokens=1)
  for pool in (None, pool_file.Pool({}), pool_file.Pool({'a': pool_file.LLM('a', parameters_b=1)})):
    assert np.isnan(build([timed(known, b=[known])], pool=pool).responses.cost_usd).all()
  pool = pool_file.Pool({'a': priced})
  assert np.isnan(build([timed(known, unknown)], pool=pool).responses.cost_usd).all()
  assert np.isfinite(build([timed(known)], pool=pool).responses.cost_usd).tolist() == [[True, False]]


def test_tasks():
  recorded = [Record(name, name, task, '4', answered(a=['4'], b=['5']).responses) for name, task in ('1x', '2y', '3x')]
  table = build(recorded)
  assert [table.tasks[i] for i in table.responses.task] == ['x', 'y', 'x']
  assert table.query_ids == table.queries == ['1', '2', '3']


def test_texts_are_graded_again():
  samples = {
    'a': [Sample('The answer is 1,000.', answer='7'), Sample('so 1000')],
    'b': [Sample('no idea', answer='1000')],
    'c': [Sample('1000', error='failed')],
  }
  record = Record('q', 'x', 't', '1,000', samples)
  recorded, again = build([record]), build([record], extractor='number-v1')
  assert recorded.responses.labels.tolist() == [[0, 0, 0]]
  assert again.responses.labels.tolist() == [[1, 0, 0]]
  assert again.responses.answers.tolist() == [[[0, 0], [-1, -1], [-1, -1]]]
  assert again.responses.observed.tolist() == [[True, True, False]]
  letters = Record('q', 'x', 't', 'C', {'a': [Sample('Answer: (C)')], 'b': [Sample('B.')]})
  assert build([letters], extractor='option_letter-v1').responses.labels.tolist() == [[1, 0]]


def test_an_llm_with_an_extractor_of_its_own_is_graded_again_by_it():
  record = Record('q', 'x', 't', '7', {'a': [Sample('3 + 4 = 8')], 'b': [Sample('3 + 4 = 8')]})
  endpoint = pool_file.Endpoint('http://127.0.0.1/v1', 'chat', 'm', extractor='calculation-v1')
  pool = pool_file.Pool({'a': pool_file.LLM('a', endpoint=endpoint)})
  assert build([record], pool=pool, extractor='number-v1').responses.labels.tolist() == [[1, 0]]


def test_a_response_without_its_text_is_graded_by_its_answer():
  samples = {'a': [Sample(answer='1000.0')], 'b': [Sample('The answer is 1,000.')], 'c': [Sample(answer='no idea')]}
  for extractor in ('number-v1', 'program_output-v1'):
    table = build([Record('q', 'x', 't', '1,000', samples)], extractor=extractor)
    assert table.responses.labels[0, [0, 2]].tolist() == [1, 0]
  assert build([Record('q', 'x', 't', '1,000', samples)], extractor='number-v1').responses.labels.tolist() == [
    [1, 1, 0]
  ]


def test_a_reference_without_an_answer():
  record = Record('q7', 'x', 't', 'forty', {'a': [Sample('40')], 'b': [Sample('40')]})
  with pytest.raises(
    records.RecordError, match="record 1, query 'q7': its reference 'forty' is no answer as number-v1"
  ):
    build([record], extractor='number-v1')


@pytest.mark.parametrize('extractor', ['', 'number-v1'])
def test_a_query_without_a_reference(extractor):
  recorded = [answered(None, a=['4'], b=[None]), answered('5', a=['4'], b=['5'])]
  data = build(recorded, extractor=extractor, unlabelled=True).responses
  assert data.answers[0].tolist() == [[0], [-1]]
  assert data.accepted.tolist() == [[-1], [1]]
  assert data.labels.tolist() == [[0, 0], [0, 1]]  # who says nothing is not right because nothing is known
  with pytest.raises(records.RecordError, match=r'has no reference.*--config\.dataset\.labels=agreement'):
    build(recorded, extractor=extractor)


def test_an_unknown_extractor():
  with pytest.raises(ValueError, match=r"no extractor 'numbr-v1'.* did you mean 'number-v1'"):
    build([answered(a=['4'], b=['4'])], extractor='numbr-v1')


def test_the_order_of_llms():
  record = answered(z=['1'], b=['2'], a=['3'])
  pool = pool_file.Pool({name: pool_file.LLM(name) for name in ('b', 'elsewhere', 'z')})
  assert build([record]).llms == ('a', 'b', 'z')
  assert build([record], pool=pool).llms == ('b', 'z', 'a')
  assert build([record], pool=pool, llms=('z', 'a')).llms == ('z', 'a')


def test_llms_that_the_data_lack():
  with pytest.raises(ValueError, match=r'config\.pool\.llms names x, y, which the data lack; present: b, a'):
    build([answered(b=['1'], a=['2'])], llms=('a', 'x', 'y'))
  with pytest.raises(ValueError, match='names an LLM twice: a, b, a'):
    build([answered(b=['1'], a=['2'])], llms=('a', 'b', 'a'))


def test_a_pool_of_one():
  with pytest.raises(ValueError, match='a pool of one has nothing to select from: a; the data hold a'):
    build([answered(a=['4'])])
  with pytest.raises(ValueError, match='a pool of one has nothing to select from: b; the data hold a, b'):
    build([answered(a=['4'], b=['4'])], llms=('b',))


def test_no_answers_at_all():
  silent = Record('q', 'x', 't', '4', {'a': [Sample('4')], 'b': [Sample('5')]})
  with pytest.raises(ValueError, match='no response of data has an answer') as error:
    build([silent, silent])
  for words in ('--config.dataset.extractor=', 'number-v1', 'option_letter-v1', 'program_output-v1'):
    assert words in str(error.value)
  assert build([silent], extractor='number-v1').responses.labels.tolist() == [[1, 0]]


def scored(name, **scores):
  return Record(name, name, scores=scores)


def test_scores_only():
  table = build([scored('1', b=0.25, a=1.0), scored('2', a=0.0)])
  assert table.responses.labels.tolist() == [[1, 0.25], [0, 0]]
  assert table.responses.observed.tolist() == [[True, True], [True, False]]
  assert table.responses.answers.shape == (2, 2, 0)
  assert not table.responses.has_answers
  assert table.responses.accepted.tolist() == [[-1], [-1]]
  assert np.isnan(table.responses.latency_s).all()
  assert np.isnan(table.responses.cost_usd).all()
  assert table.latency_is == 'unknown'


def test_responses_and_scores_do_not_mix():
  with pytest.raises(ValueError, match=r"query '2' has scores: .* either responses or scores"):
    build([answered(a=['4'], b=['4']), scored('2', a=1.0, b=0.0)])
  with pytest.raises(ValueError, match=r"query 'x' has no scores: .* either responses or scores"):
    build([scored('2', a=1.0, b=0.0), Record('x', 'x', 't', '4', {'a': []})])


@pytest.mark.parametrize('extractor', ['', 'number-v1'])
def test_an_llm_that_joins_later_is_as_if_it_had_been_there(extractor):
  random = np.random.default_rng(7)
  recorded = []
  for number in range(40):
    called = {}
    for llm in LLMS:
      called[llm] = [
        Sample(
          text=f'The answer is {answer}.',
          answer=str(answer),
          error='failed' if random.random() < 0.2 else None,
          latency_s=float(random.random()) if llm == 'a' else None,
          latency_is='measured' if llm == 'a' else 'unknown',
          prompt_tokens=10,
          completion_tokens=int(random.integers(1, 50)),
        )
        for answer in random.integers(0, 3, 6 if llm == 'b' else random.integers(1, 4))
      ]
    recorded.append(Record(f'q{number}', 'x', 't', str(random.integers(3)), called))
  price = pool_file.Price(1.0, 2.0, '2026-01-01')
  pool = pool_file.Pool(
    {llm: pool_file.LLM(llm, parameters_b=7.0, parameters_assumed=llm == 'b', price=price) for llm in LLMS}
  )
  whole = build(recorded, llms=LLMS, pool=pool, extractor=extractor)
  most = [
    records.Record(r.query_id, r.query, r.task, r.reference, {llm: r.responses[llm] for llm in LLMS[:-1]})
    for r in recorded
  ]
  given = {
    row: observed for row, r in enumerate(recorded) if (observed := [s for s in r.responses['b'] if s.error is None])
  }
  before = build(most, llms=LLMS[:-1], pool=pool, extractor=extractor)
  kept = before.responses.answers.copy()
  joined = dataset.join(before, 'b', given, pool=pool, extractor=extractor)
  assert np.array_equal(before.responses.answers, kept)
  assert (joined.llms, joined.latency_is, joined.sizes_assumed) == (whole.llms, whole.latency_is, whole.sizes_assumed)
  for name in ('labels', 'observed', 'latency_s', 'cost_usd', 'task'):
    assert np.array_equal(getattr(joined.responses, name), getattr(whole.responses, name), equal_nan=True), name

  def texts(table: dataset.Dataset) -> list[list[list[str]]]:
    return [
      [[names[place] if place >= 0 else '' for place in llm] for llm in query]
      for names, query in zip(table.answers, table.responses.answers, strict=True)
    ]

  assert texts(joined) == texts(whole)


@pytest.mark.parametrize('seed', range(5))
def test_an_llm_that_joins_answers_nobody_has_a_reference_for(seed):
  """Where a query has no reference, the LLM is graded as `build` grades it, but counts as unobserved."""
  recorded = [
    dataclasses.replace(r, reference=None if row % 3 == 0 else r.reference)
    for row, r in enumerate(random_records(seed))
  ]
  whole = build(recorded, llms=LLMS, unlabelled=True)
  before = build(recorded, llms=LLMS[:-1], unlabelled=True)
  given = {
    row: heard
    for row, r in enumerate(recorded)
    if (heard := [s for s in r.responses.get(LLMS[-1], []) if s.error is None])
  }
  joined = dataset.join(before, LLMS[-1], given)
  known = np.arange(len(recorded)) % 3 > 0
  for name in ('labels', 'observed', 'latency_s', 'cost_usd', 'task'):
    of_joined, of_whole = getattr(joined.responses, name), getattr(whole.responses, name)
    np.testing.assert_array_equal(of_joined[known], of_whole[known])
  np.testing.assert_array_equal(joined.responses.labels, whole.responses.labels)
  assert whole.responses.observed[~known, -1].any()
  assert not joined.responses.observed[~known, -1].any()
  np.testing.assert_array_equal(joined.responses.majority, dataset.majorities(joined.responses.answers))


@pytest.mark.parametrize('samples', [0, 1, 2, 7])
def test_majorities_on_the_host_are_those_on_the_device(samples):
  answers = np.random.default_rng(samples).integers(-1, 3, (200, 5, samples), np.int16)
  majority = dataset.majorities(answers)
  assert majority.dtype == np.int16
  expected = jax.vmap(voting.majority)(answers) if samples else np.full((200, 5), -1)
  np.testing.assert_array_equal(majority, expected)


def test_reading_data_loads_no_jax():
  modules = sorted(
    '.'.join(path.relative_to(PACKAGE.parent).with_suffix('').parts) for path in (PACKAGE / 'data').rglob('*.py')
  )
  assert 'selectllm.data.builders.mini' in modules
  imports = '\n'.join(f'import {name}' for name in modules if '__init__' not in name)
  subprocess.run([sys.executable, '-c', f"{imports}\nimport sys\nassert 'jax' not in sys.modules"], check=True)


def test_several_references_are_accepted_and_no_votes_are_put_together():
  """What is accepted says which answers are right, not that LLMs agree."""
  asked = Record(
    'q', 'x', 't', ('four', '4'), {'a': [Sample(answer='4')], 'b': [Sample(answer='four')], 'c': [Sample()]}
  )
  table = build([asked, answered(a=['4'], b=['5'], c=[''])])
  assert table.responses.answers[0].tolist() == [[0], [1], [-1]]
  assert table.responses.accepted.tolist() == [[1, 0], [0, -1]]
  assert table.responses.labels.tolist() == [[1, 1, 0], [1, 0, 0]]
  assert table.answers == [('4', 'four'), ('4', '5', '')]
  spoken = dataclasses.replace(
    asked, responses={'a': [Sample('It is 4.')], 'b': [Sample('So 5.')]}, reference=('5.0', '7')
  )
  assert build([spoken], extractor='number-v1').responses.labels.tolist() == [[0, 1]]


def test_nothing_said_is_an_answer_where_it_is_what_is_asked_for():
  table = build([answered('', a=[''], b=['x'], c=[None])])
  assert table.responses.labels.tolist() == [[1, 0, 0]]


def judged(reference=None, **responses):
  samples = {llm: [Sample(answer=a, text=t, correct=c) for a, t, c in given] for llm, given in responses.items()}
  return Record('q', 'x', 't', reference, samples)


def test_verdicts_decide_which_answers_are_right():
  table = build([judged(a=[('7', '', True)], b=[('8', '', False)], c=[('7', '', None)])])
  assert table.responses.labels.tolist() == [[1, 0, 1]]  # who gives a right answer is right
  # Against the reference too, which equality with it misses; who was not judged is held against it.
  table = build([judged('seven', a=[('7', '', True)], b=[('seven', '', False)], c=[('x', '', None)])])
  assert table.responses.labels.tolist() == [[1, 0, 0]]
  # Texts are answers where nothing else was taken from them, right or wrong.
  table = build([judged(a=[(None, 'def f(): ...', True)], b=[(None, 'no', False)], c=[(None, '', False)])])
  assert table.responses.answers[0, :, 0].tolist() == [0, 1, -1]
  assert table.responses.labels.tolist() == [[1, 0, 0]]


def test_verdicts_that_differ_on_one_answer():
  table = build([judged(a=[('7', '', True)], b=[('7', '', False)], c=[('7', '', True), ('8', '', False)])])
  assert table.responses.labels.tolist() == [[1, 1, 1]]
  assert table.notes == ('1 answers were judged right in one response and wrong in another: most of them decide.',)
  assert build([judged(a=[('7', '', True)], b=[('7', '', False)])]).responses.labels.tolist() == [[0, 0]]


def test_queries_that_nobody_has_right_are_known_those_without_any_word_are_not():
  wrong, open_ = judged(a=[('7', '', False)], b=[('8', '', False)]), judged(a=[('7', '', False)], b=[('8', '', None)])
  table = build([wrong, open_], unlabelled=True)
  assert (table.responses.accepted != dataset.NO_ANSWER).any(1).tolist() == [True, False]
  assert not dataset.is_right(table.responses.answers[..., 0], table.responses.accepted[:, None]).any()
  with pytest.raises(records.RecordError, match=r"query 'q' has no reference, nor all of its responses a verdict"):
    build([open_])


def test_an_llm_that_joins_may_give_what_nobody_else_gave():
  before = build([answered(('4', 'four'), a=['4'], b=['5']), judged(a=[('7', '', True)], b=[('8', '', False)])])
  given = {0: [Sample(answer='four')], 1: [Sample(answer='seven', correct=True)]}
  joined = dataset.join(before, 'c', given).responses
  assert joined.labels.tolist() == [[1, 0, 1], [1, 0, 1]]
  assert dataset.is_right(joined.majority, joined.accepted[:, None]).tolist() == joined.labels.astype(bool).tolist()
  wrong = dataset.join(before, 'c', {1: [Sample(answer='8', correct=True)]}).responses
  assert wrong.labels[1].tolist() == [1, 0, 0]  # it is judged already


def test_estimated_latencies_say_by_which_model():
  pool = pool_file.Pool({'a': pool_file.LLM('a', 7), 'b': pool_file.LLM('b', seconds_per_token=0.5)})
  spoke, timed_ = Sample(answer='4', completion_tokens=9), Sample(answer='4', latency_s=1.0, latency_is='measured')
  words = build([timed(spoke, b=[spoke])], pool=pool).latency_model
  assert words.startswith('0.3 s a call + 0.013 ms a prompt token + 1 ms a written token')
  assert words.endswith('b at speeds of their own')
  assert not build([timed(timed_, b=[timed_])], pool=pool).latency_model
  # A prompt whose tokens were counted is not guessed from the query.
  told = build([timed(spoke._replace(prompt_tokens=1000), b=[spoke])], pool=pool).responses.latency_s
  np.testing.assert_allclose(told[0, 0], 0.3 + 7 * (0.013 + 0.009), rtol=1e-6)


def test_names_that_only_look_alike_are_hinted_at():
  table = build([Record('q', 'x', 't', '4', {name: [Sample(answer='4')] for name in ('GPT 4', 'gpt4', 'other')})])
  assert table.notes == ("Names that differ only by case or blanks stand for different LLMs: 'GPT 4' and 'gpt4'.",)
  pool = pool_file.Pool({'A': pool_file.LLM('A')})
  assert "'a' and 'A'" in build([answered(a=['4'], b=['4'])], pool=pool).notes[0]
  with pytest.raises(ValueError, match="names A, which the data lack; present: a, b; did you mean 'a'"):
    build([answered(a=['4'], b=['4'])], llms=('A', 'b'))
