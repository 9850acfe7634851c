"""What a response looks like, in numbers: what shows in it and its answer once it is there, beside the query."""

import math
import re
from collections.abc import Sequence

import numpy as np

from selectllm.data import dataset

# Of an answer, then of the response: how long it is, whether it is a number, a whole one, how large, whether it stands
# in the query, its place in the alphabet if it is a letter; tokens written, and the share of samples that agree.
NAMES = ('characters', 'number', 'whole', 'magnitude', 'in_query', 'letter', 'tokens', 'samples')


def _of_answer(answer: str, query: str) -> tuple[float, ...]:
  try:
    value = float(answer.replace(',', ''))
  except ValueError:
    value = math.nan
  number = math.isfinite(value)
  stands = re.search(rf'(?<![\w.]){re.escape(answer)}(?![\w]|\.\d)', query) is not None
  return (
    math.log1p(len(answer)),
    number,
    number and value.is_integer(),
    math.log10(1 + abs(value)) if number else 0,
    bool(answer) and stands,
    ord(answer.upper()) - ord('A') + 1 if re.fullmatch('[A-Za-z]', answer) else 0,
  )


def of(queries: Sequence[str], answers: Sequence[tuple[str, ...]], responses: dataset.Responses) -> np.ndarray:
  """Computes the features of every LLM's response, float32[N, K, F] in the order of `NAMES`.

  Args:
    queries: N texts.
    answers: For each query the answers that ids stand for, see `dataset.Dataset.answers`.
    responses: Of N queries.

  Returns:
    The features; NaN for what is not known, and of an answer for a response without one.
  """
  count = len(NAMES)
  features = np.full((*responses.majority.shape, count), np.nan, np.float32)
  for row, (query, texts) in enumerate(zip(queries, answers, strict=True)):
    table = np.array([_of_answer(text, query) for text in texts], np.float32).reshape(-1, count - 2)
    given = responses.majority[row] != dataset.NO_ANSWER
    features[row, given, : count - 2] = table[responses.majority[row, given]]
  features[..., -2] = np.log1p(responses.completion_tokens)
  if responses.has_answers:
    features[..., -1] = np.mean(responses.answers == responses.majority[..., None], -1)
  features[~responses.observed] = np.nan
  return features
