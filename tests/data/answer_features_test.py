import numpy as np
import pytest

from selectllm.data import answer_features, dataset


def _of(query: str, *answers: str | None, tokens=None, observed=None) -> dict[str, list[float]]:
  """The features of LLMs that answer one query, by name."""
  texts = tuple(dict.fromkeys(answer for answer in answers if answer is not None))
  ids = [dataset.NO_ANSWER if answer is None else texts.index(answer) for answer in answers]
  samples = np.array(ids, np.int16)[None, :, None]
  shape = (1, len(answers))
  nothing = np.full(shape, np.nan, np.float32)
  responses = dataset.Responses(
    samples, samples[..., 0], np.zeros((1, 1), np.int16), np.zeros(shape, np.float32),
    np.ones(shape, bool) if observed is None else np.array([observed]), nothing, nothing,
    nothing if tokens is None else np.float32([tokens]), np.zeros(1, np.int16),
  )  # fmt: skip
  features = answer_features.of([query], [texts], responses)[0]
  return {name: features[:, place].tolist() for place, name in enumerate(answer_features.NAMES)}


def test_numbers_are_known_by_size_and_kind():
  found = _of('?', '1,999', '-9', '2.5', 'nine', 'inf')
  assert found['number'] == [1, 1, 1, 0, 0]
  assert found['whole'] == [1, 1, 0, 0, 0]
  assert found['magnitude'] == pytest.approx([np.log10(2000), 1, np.log10(3.5), 0, 0])
  assert found['characters'] == pytest.approx(np.log1p([5, 2, 3, 4, 3]).tolist())


@pytest.mark.parametrize(
  ('answer', 'query', 'stands'),
  [
    ('12', 'She has 12 eggs.', 1), ('12', 'It is 12.', 1), ('12', 'She has 112 eggs, or 12.5.', 0), ('2', '1.2 m', 0),
    ('(B)', 'A or (B)?', 1), ('', 'Anything?', 0), ('a+b', 'Is it a+b', 1),
  ],
)  # fmt: skip
def test_an_answer_may_stand_in_the_query(answer, query, stands):
  assert _of(query, answer)['in_query'] == [stands]


def test_letters_have_a_place():
  assert _of('?', 'A', 'c', 'AB', '7')['letter'] == [1, 3, 0, 0]


def test_what_is_not_known_is_nan():
  found = _of('?', '7', None, '8', tokens=[3, 7, np.nan], observed=[True, True, False])
  assert np.isnan(found['number']).tolist() == [False, True, True]
  np.testing.assert_allclose(found['tokens'], [np.log(4), np.log(8), np.nan], rtol=1e-6)


def test_samples_that_agree_are_a_share():
  samples = np.int16([[[0, 0, 1, 0], [1, 0, -1, -1]]])
  nothing = np.full((1, 2), np.nan, np.float32)
  responses = dataset.Responses(
    samples, dataset.majorities(samples), np.zeros((1, 1), np.int16), nothing, np.ones((1, 2), bool),
    nothing, nothing, nothing, np.zeros(1, np.int16),
  )  # fmt: skip
  shares = answer_features.of(['?'], [('x', 'y')], responses)[0, :, answer_features.NAMES.index('samples')]
  assert shares.tolist() == [0.75, 0.25]
