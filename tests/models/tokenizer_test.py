import numpy as np

from selectllm.models import tokenizer

CLS, SEP, UNKNOWN = 2, 3, 1


def _tokens(*lengths: int) -> tokenizer.Tokens:
  """Query i is i+1 again and again."""
  values = np.concatenate([np.full(length, number + 1, np.int32) for number, length in enumerate(lengths)])
  return tokenizer.Tokens(values, np.cumsum([0, *lengths]), 0)


def test_texts_are_cut_at_the_limit_and_counted(tiny_encoder):
  tokenize = tokenizer.Tokenizer(tiny_encoder, 5)
  tokens = tokenize(['how many cats', '', 'how many cats has dogs plus eggs'])
  assert tokens.lengths.tolist() == [5, 2, 5]
  assert tokens.truncated == 1
  assert tokens.values.dtype == np.int32
  for start, end in zip(tokens.offsets, tokens.offsets[1:], strict=False):
    assert (tokens.values[start], tokens.values[end - 1]) == (CLS, SEP)
  assert UNKNOWN in tokenize(['zebra']).values
  assert tokenize([]).lengths.size == 0


def test_queries_are_tokenized_alike_alone_and_together(tiny_encoder):
  tokenize = tokenizer.Tokenizer(tiny_encoder, 40)
  texts = ['how many cats', 'eggs 12', 'dogs']
  together = tokenize(texts)
  alone = [tokenize([text]).values for text in texts]
  np.testing.assert_array_equal(together.values, np.concatenate(alone))


def test_rows_hold_queries_one_after_the_other():
  tokens, segments = _tokens(2, 3, 1).rows(np.array([[1, 0], [2, -1]]), 6)
  np.testing.assert_array_equal(tokens, [[2, 2, 2, 1, 1, 0], [3, 0, 0, 0, 0, 0]])
  np.testing.assert_array_equal(segments, [[0, 0, 0, 1, 1, -1], [0, -1, -1, -1, -1, -1]])
  assert tokens.dtype == segments.dtype == np.int32


def test_a_query_longer_than_its_row_is_cut():
  tokens, segments = _tokens(9).rows(np.array([[0]]), 4)
  np.testing.assert_array_equal(tokens, [[1, 1, 1, 1]])
  np.testing.assert_array_equal(segments, [[0, 0, 0, 0]])


def test_a_place_before_a_query_may_be_empty():
  tokens, segments = _tokens(2, 1).rows(np.array([[-1, 1], [-1, -1]]), 3)
  np.testing.assert_array_equal(tokens, [[2, 0, 0], [0, 0, 0]])
  np.testing.assert_array_equal(segments, [[1, -1, -1], [-1, -1, -1]])
