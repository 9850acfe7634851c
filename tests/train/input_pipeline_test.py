import itertools
import json

import jax
import numpy as np
import pytest

from selectllm.models import inference, tokenizer
from selectllm.train import input_pipeline

MAX_LENGTH = 128


def make_tokens(lengths, truncated=0):
  """Queries whose tokens are all different, and none 0, so that each place in a batch tells where it is from."""
  offsets = np.cumsum([0, *lengths], dtype=np.int64)
  return tokenizer.Tokens(np.arange(1, offsets[-1] + 1, dtype=np.int32), offsets, truncated)


def question_lengths(count, seed=0):
  """Lengths like those of GSM8K's questions: 58 tokens on average, some much longer."""
  lengths = np.random.default_rng(seed).lognormal(4.0, 0.35, count)
  return np.clip(lengths, 8, MAX_LENGTH).astype(int)


COUNT, LLMS = 203, 3
TOKENS = make_tokens(question_lengths(COUNT))
INDEX = np.arange(1, COUNT, 2)  # 101 queries to train on
LABELS = np.random.default_rng(1).integers(0, 2, (COUNT, LLMS)).astype(np.float32)
WEIGHT = (np.random.default_rng(2).random((COUNT, LLMS)) < 0.8).astype(np.float32)


def make_source(tokens=TOKENS, index=INDEX, **options):
  options = {'batch_size': 8, 'epochs': 3, 'max_length': MAX_LENGTH, 'seed': 0} | options
  return input_pipeline.TrainingBatches(tokens, index, LABELS, WEIGHT, **options)


def queries(batch, tokens=TOKENS):
  """Which queries a batch holds, by the first token of its rows; -1 for rows without one."""
  known = {int(tokens.values[start]): i for i, start in enumerate(tokens.offsets[:-1])}
  return [known.get(int(first), -1) for first in batch.inputs[0][:, 0]]


def assert_same(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_every_query_once_an_epoch():
  source = make_source()
  assert source.steps_per_epoch == 13
  assert len(source) == 39
  orders = []
  for epoch in range(3):
    seen = [queries(source[epoch * 13 + place]) for place in range(13)]
    orders.append([query for batch in seen for query in batch if query >= 0])
    assert sorted(orders[-1]) == INDEX.tolist()
  assert orders[0] != orders[1] != orders[2]


def test_rows_hold_their_query_whole():
  source = make_source()
  for step in range(len(source)):
    batch = source[step]
    assert batch.inputs[0].shape == (8, batch.inputs[0].shape[1])
    assert (batch.inputs[0].dtype, batch.inputs[1].dtype) == (np.int32, np.int32)
    assert (batch.labels.dtype, batch.weight.dtype) == (np.float32, np.float32)
    for row, query in enumerate(queries(batch)):
      if query < 0:
        continue
      length = TOKENS.lengths[query]
      assert (batch.inputs[1][row] == 0).sum() == (batch.inputs[1][row, :length] == 0).sum() == length
      values = TOKENS.values[TOKENS.offsets[query] : TOKENS.offsets[query + 1]]
      np.testing.assert_array_equal(batch.inputs[0][row, :length], values)
      assert not batch.inputs[0][row, length:].any()
      np.testing.assert_array_equal(batch.labels[row], LABELS[query])
      np.testing.assert_array_equal(batch.weight[row], WEIGHT[query])


def test_filler_rows_weigh_nothing():
  source = make_source()
  fillers = 0
  for place in range(source.steps_per_epoch):
    batch = source[place]
    filler = np.array(queries(batch)) < 0
    fillers += filler.sum()
    assert not batch.weight[filler].any()
    assert not batch.inputs[0][filler].any()
    assert (batch.inputs[1][filler] == -1).all()
  assert fillers == 13 * 8 - 101


def test_a_batch_is_a_function_of_seed_and_step():
  source, again = make_source(), make_source()
  for step in (38, 0, 20, 5):  # in any order
    assert_same(source[step], again[step])
  assert_same(source[20], make_source(epochs=2)[20])  # however long the run is to last
  order = [queries(source[step]) for step in range(13)]
  assert order != [queries(make_source(seed=1)[step]) for step in range(13)]


@pytest.mark.parametrize('count', [2, 4])
def test_processes_share_the_rows(count):
  whole = make_source()
  parts = [make_source(process=(rank, count)) for rank in range(count)]
  for step in (0, 6, 12, 38):
    shares = [part[step] for part in parts]
    assert {share.inputs[0].shape[0] for share in shares} == {8 // count}
    assert_same(jax.tree.map(lambda *arrays: np.concatenate(arrays), *shares), whole[step])


@pytest.mark.parametrize('batch_size', [8, 32])
def test_little_is_padding(batch_size):
  tokens, size = make_tokens(question_lengths(1000)), 0
  source = input_pipeline.TrainingBatches(
    tokens, np.arange(1000), np.zeros((1000, 1)), np.ones((1000, 1)),
    batch_size=batch_size, epochs=1, max_length=MAX_LENGTH, seed=0,
  )  # fmt: skip
  widths = set()
  for step in range(len(source)):
    size += source[step].inputs[0].size
    widths.add(source[step].inputs[0].shape[1])
  padding = 1 - tokens.lengths.sum() / size
  assert padding <= 0.25
  assert len(widths) <= input_pipeline.MOST_BUCKETS  # each is a compilation
  assert max(widths) <= MAX_LENGTH


def test_batches_do_not_come_from_short_to_long():
  source = make_source(index=np.arange(COUNT), batch_size=13, epochs=20)
  steps = np.arange(len(source)).reshape(20, -1)
  lengths = np.array([[np.sum(source[step].inputs[1] == 0, axis=1).max() for step in epoch] for epoch in steps])
  assert abs(np.mean([np.corrcoef(of_epoch, np.arange(len(of_epoch)))[0, 1] for of_epoch in lengths])) < 0.2


def test_queries_meet_others_in_the_next_epoch():
  source = make_source(index=np.arange(COUNT))
  steps = np.arange(2 * source.steps_per_epoch).reshape(2, -1)
  first, second = ({frozenset(queries(source[step])) for step in epoch} for epoch in steps)
  assert len(first & second) <= 2


def test_buckets():
  lengths = question_lengths(1000)
  edges = input_pipeline.buckets(lengths, MAX_LENGTH)
  assert (np.diff(edges) > 0).all()
  assert len(edges) <= input_pipeline.MOST_BUCKETS
  assert edges[-1] >= lengths.max()
  assert all(edge % tokenizer.LENGTH_MULTIPLE == 0 for edge in edges)
  for length in range(1, int(edges[-1]) + 1):
    fit = input_pipeline.fitting(edges, length)
    assert fit >= length
    assert not any(length <= edge < fit for edge in edges)
  assert input_pipeline.buckets(np.full(10, 17), MAX_LENGTH).tolist() == [24]
  assert input_pipeline.buckets(np.full(10, 99), 100).tolist() == [100]  # an encoder that reads no more
  assert input_pipeline.buckets(np.zeros(0, int), MAX_LENGTH).tolist() == [MAX_LENGTH]


def test_iterator_goes_on_after_any_step():
  whole = list(input_pipeline.training_iterator(make_source(), 0))
  assert len(whole) == 39
  for step, batch in enumerate(whole):
    assert_same(batch, make_source()[step])
  for taken in (1, 13, 38, 39):
    rest = list(input_pipeline.training_iterator(make_source(), taken))
    for one, other in zip(rest, whole[taken:], strict=True):
      assert_same(one, other)


@pytest.mark.parametrize(('batch_size', 'multiple'), [(1, 1), (7, 1), (64, 8), (500, 4)])
def test_scoring_packs_all_queries_once(batch_size, multiple):
  rows = np.random.default_rng(0).permutation(COUNT)[:100]
  seen, shapes = [], set()
  for index, tokens, segments in inference.scoring_batches(
    TOKENS, rows, batch_size=batch_size, multiple=multiple, max_length=MAX_LENGTH
  ):
    shapes.add((index.shape, tokens.shape, segments.shape))
    for row, slot in np.argwhere(index >= 0):
      query = rows[index[row, slot]]
      values = TOKENS.values[TOKENS.offsets[query] : TOKENS.offsets[query + 1]]
      np.testing.assert_array_equal(tokens[row][segments[row] == slot], values)
    assert not tokens[segments < 0].any()
    seen += index[index >= 0].tolist()
  assert sorted(seen) == list(range(100))
  ((of_index, of_tokens, of_segments),) = shapes  # one, so that there is one compilation
  assert of_index[0] == of_tokens[0] == of_segments[0] <= -(-batch_size // multiple) * multiple
  assert of_tokens[0] % multiple == 0


def test_scoring_nothing():
  options = {'batch_size': 4, 'multiple': 1, 'max_length': MAX_LENGTH}
  assert not list(inference.scoring_batches(TOKENS, np.zeros(0, int), **options))


def test_packing_fills_the_fullest_row_that_has_room():
  packed = inference.pack(np.array([3, 9, 4, 1, 5, 2]), 10)
  assert packed.tolist() == [[1, -1, -1, -1], [4, 2, 3, -1], [0, 5, -1, -1]]


def test_packing_wastes_little():
  lengths = question_lengths(1000)
  packed = inference.pack(lengths, MAX_LENGTH)
  assert sorted(packed[packed >= 0].tolist()) == list(range(1000))
  assert np.where(packed >= 0, np.array(lengths)[packed], 0).sum(1).max() <= MAX_LENGTH
  assert np.sum(lengths) / (len(packed) * MAX_LENGTH) > 0.97


def test_a_query_longer_than_a_row_is_cut():
  assert inference.pack(np.array([12, 2]), 10).tolist() == [[0], [1]]
  tokens, segments = make_tokens([3, 1, 2]).rows(np.array([[0]]), 2)
  assert (tokens.tolist(), segments.tolist()) == ([[1, 2]], [[0, 0]])


def test_rows_of_several_queries():
  tokens, segments = make_tokens([3, 1, 2]).rows(np.array([[2, 0], [-1, 1], [-1, -1]]), 6)
  assert tokens.tolist() == [[5, 6, 1, 2, 3, 0], [4, 0, 0, 0, 0, 0], [0] * 6]
  assert segments.tolist() == [[0, 0, 1, 1, 1, -1], [1, -1, -1, -1, -1, -1], [-1] * 6]


def test_buckets_pad_least():
  random = np.random.default_rng(0)
  for size in (1, 5, 200):
    rounded = random.integers(1, 10, size) * tokenizer.LENGTH_MULTIPLE
    edges, present = input_pipeline.buckets(rounded, 128), np.unique(rounded)
    count = min(input_pipeline.MOST_BUCKETS, len(present))
    padded = [
      np.array([*lower, present[-1]])[np.searchsorted([*lower, present[-1]], rounded)].sum()
      for lower in itertools.combinations(present[:-1], count - 1)
    ]
    assert edges[np.searchsorted(edges, rounded)].sum() == min(padded)


def test_tokenizer_counts_what_it_cuts(tiny_encoder):
  queries = ['cats', '', 'how many cats', 'how many eggs has', 'how many cats plus dogs', 'unheard-of']
  whole = tokenizer.Tokenizer(tiny_encoder, 40)(queries)
  assert whole.lengths.tolist() == [3, 2, 5, 6, 7, 5]  # with the two marks of begin and end
  assert whole.truncated == 0
  cut = tokenizer.Tokenizer(tiny_encoder, 5)(queries)
  assert cut.lengths.tolist() == [3, 2, 5, 5, 5, 5]
  assert cut.truncated == 2
  assert (cut.offsets.dtype, cut.values.dtype) == (np.int64, np.int32)
  for query in range(len(queries)):
    start = cut.offsets[query]
    ours, theirs = cut.values[start : cut.offsets[query + 1]], whole.rows(np.array([[query]]), 7)[0][0]
    np.testing.assert_array_equal(ours[:-1], theirs[: len(ours) - 1])  # the end is cut off
    assert ours[-1] == 3  # and the mark of the end stays


def test_tokenizing_nothing(tiny_encoder):
  tokens = tokenizer.Tokenizer(tiny_encoder, 5)([])
  assert (len(tokens.values), tokens.offsets.tolist(), tokens.truncated) == (0, [0], 0)


def test_real_questions_are_little_padded(test_data, tiny_encoder):
  lines = (test_data / 'gsm8k/openai/grade-school-math/grade_school_math/data/test.jsonl').read_bytes().splitlines()
  tokens = tokenizer.Tokenizer(tiny_encoder, MAX_LENGTH)([json.loads(line)['question'] for line in lines])
  everything = np.arange(len(lines))
  options = {'batch_size': 64, 'multiple': 1, 'max_length': MAX_LENGTH}
  padded = sum(rows.size for _, rows, _ in inference.scoring_batches(tokens, everything, **options))
  assert 1 - tokens.lengths.sum() / padded <= 0.05
