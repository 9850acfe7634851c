import numpy as np
import pytest

from selectllm.data import splits

QUESTIONS = [f'How many apples cost {number} cents?' for number in range(10_000)]


def assign(questions=QUESTIONS, *, seed=0, validation=0.1, test=0.2, **folds):
  return splits.assign(questions, seed=seed, validation=validation, test=test, **folds)


def test_shares():
  shares = np.bincount(assign(), minlength=3) / len(QUESTIONS)
  np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.015)


def test_stable_for_ever():
  """Whoever changes these numbers moves the test questions of every run that there ever was."""
  questions = [*QUESTIONS[40:70], 'ÄPFEL', '', '日本語']
  assert ''.join(map(str, assign(questions))) == '010100021202020000020000000021000'
  assert ''.join(map(str, assign(questions, folds=5, fold=2))) == '202001200020000222202022000000020'
  assert splits.uniform_hash(['abc'], 'salt')[0] == 0.2200806226682961


def test_hashes_are_uniform():
  position = splits.uniform_hash(QUESTIONS, 'salt')
  assert position.dtype == np.float64
  assert 0 <= position.min() <= position.max() < 1
  counts = np.histogram(position, bins=20, range=(0, 1))[0]
  assert (abs(counts - 500) < 5 * np.sqrt(500)).all()


@pytest.mark.parametrize(
  ('one', 'other'),
  [
    ('How  many\n apples?', ' how many APPLES? '),
    ('½ of ﬁve', '1⁄2 OF FIVE'),
    ('１２ Äpfel', '12 a\u0308pfel'),
    ('Straße', 'STRASSE'),
    ('a\u00a0b\u2028c', 'a b c'),
  ],
)
def test_equal_questions_share_a_split(one, other):
  assert splits.normalise(one) == splits.normalise(other)
  assert splits.uniform_hash([one], 's') == splits.uniform_hash([other], 's')
  assert splits.normalise('1,5 cats') != splits.normalise('15 cats')


def test_only_the_question_and_the_seed_decide():
  split = assign()
  np.testing.assert_array_equal(assign(QUESTIONS[::-1]), split[::-1])
  np.testing.assert_array_equal(assign(QUESTIONS[:100]), split[:100])
  other = assign(seed=1)
  # Independent: as many fall into test in both as chance lets.
  both = ((split == splits.TEST) & (other == splits.TEST)).mean()
  assert both == pytest.approx(0.04, abs=0.01)


@pytest.mark.parametrize('folds', [2, 5])
def test_folds_test_every_question_once(folds):
  parts = np.stack([assign(folds=folds, fold=fold) for fold in range(folds)])
  tests = parts == splits.TEST
  assert (tests.sum(axis=0) == 1).all()
  np.testing.assert_allclose(tests.mean(axis=1), 1 / folds, atol=0.02)
  for part in parts:
    rest = part[part != splits.TEST]
    assert (rest == splits.VALIDATION).mean() == pytest.approx(0.1, abs=0.015)
  # A question that validates does so in every fold that does not test it.
  assert ((parts == splits.VALIDATION).any(axis=0) <= (parts != splits.TRAIN).all(axis=0)).all()


def test_no_question():
  assert assign([]).shape == (0,)


@pytest.mark.parametrize(
  'shares', [(0, 0.2), (0.1, 0), (-0.1, 0.2), (0.5, 0.5), (0.8, 0.8), (float('nan'), 0.2), (0.1, float('nan'))]
)
def test_bad_shares_are_refused(shares):
  validation, test = shares
  with pytest.raises(ValueError, match=f'validation={validation} and test={test} must be above 0'):
    assign(validation=validation, test=test)


@pytest.mark.parametrize('folds', [(1, 0), (-2, 0), (5, 5), (5, -1), (0, 1)])
def test_folds_that_do_not_exist_are_refused(folds):
  with pytest.raises(ValueError, match=f'folds={folds[0]}, fold={folds[1]}'):
    assign(folds=folds[0], fold=folds[1])


def test_published_splits_are_taken_as_they_are():
  split = np.int8([splits.TEST, splits.TRAIN, splits.VALIDATION])
  assert splits.published(split, ['a', 'b', 'c']).tolist() == [2, 0, 1]
  with pytest.raises(
    ValueError, match=r"2 of 3 queries name no split, 'b' for one; take --config\.dataset\.split=hash"
  ):
    splits.published(np.int8([0, -1, -1]), ['a', 'b', 'c'])


def test_a_smaller_share_of_train_is_part_of_a_larger_one():
  split = assign()
  kept = {}
  for share in (0.1, 0.3, 1.0):
    thin = splits.thin_train(split, QUESTIONS, share=share, seed=0)
    assert thin.dtype == np.int8
    kept[share] = thin == splits.TRAIN
    assert kept[share].sum() / (split == splits.TRAIN).sum() == pytest.approx(share, abs=0.02)
    # The others stay what they are, and what is left out is nothing else.
    np.testing.assert_array_equal(thin[split != splits.TRAIN], split[split != splits.TRAIN])
    assert set(thin[(split == splits.TRAIN) & ~kept[share]]) <= {splits.UNUSED}
  assert (kept[0.1] <= kept[0.3]).all()
  assert (kept[0.3] <= kept[1.0]).all()
  # What is left out was not chosen by where the split put it, nor by another seed.
  other = splits.thin_train(split, QUESTIONS, share=0.3, seed=1) == splits.TRAIN
  assert (other & kept[0.3]).sum() / (split == splits.TRAIN).sum() == pytest.approx(0.09, abs=0.02)


def test_what_is_unused_has_no_name():
  assert splits.UNUSED not in range(len(splits.NAMES))
  assert splits.UNUSED not in (splits.TRAIN, splits.VALIDATION, splits.TEST)
