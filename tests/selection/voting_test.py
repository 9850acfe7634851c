import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selectllm.selection import voting

QUERIES, LLMS, SAMPLES = 250, 5, 4


def _ballots(seed: int) -> dict[str, np.ndarray]:
  """Random answers from few choices, with weights that add exactly in float32; query 0 has no answer at all."""
  rng = np.random.default_rng(seed)
  answers = rng.choice(np.int16([-1, 0, 1, 2]), (QUERIES, LLMS, SAMPLES))
  answers[0] = -1
  mask = rng.random((QUERIES, LLMS)) < 0.7
  mask[1] = False
  return {
    'answers': answers,
    'mask': mask,
    'weight': rng.choice(np.float32([0.25, 0.5, 1]), (QUERIES, LLMS)),
    'priority': rng.permuted(np.tile(np.float32([0.5, 1, 2, 4, 8]), (QUERIES, 1)), axis=1),
  }


@functools.cache
def _vmapped(over: str):
  return jax.jit(jax.vmap(functools.partial(voting.vote, over=over)))


def _vote(over: str, answers, mask, weight, priority) -> list[int]:
  return np.asarray(_vmapped(over)(answers, mask, weight, priority)).tolist()


def _majority(samples) -> int:
  """The answer that is first to be given as often as the most frequent one."""
  counts: collections.Counter = collections.Counter(answer for answer in samples if answer != -1)
  running: collections.Counter = collections.Counter()
  for answer in samples:
    running[answer] += 1
    if answer != -1 and running[answer] == max(counts.values()):
      return int(answer)
  return -1


def _elected(over: str, answers, mask, weight, priority) -> int:
  """The vote in plain Python, for LLMs of different priority."""
  support: dict[int, float] = collections.defaultdict(float)
  backed: dict[int, list[int]] = {}  # the answers that each called LLM votes for
  for llm in np.flatnonzero(mask):
    votes = [_majority(answers[llm])] if over == 'majority' else answers[llm].tolist()
    backed[llm] = [answer for answer in votes if answer != -1]
    for answer in backed[llm]:
      support[answer] += float(weight[llm])
  tied = [answer for answer, total in support.items() if total == max(support.values())]
  for llm in sorted(backed, key=lambda llm: priority[llm]):
    if of_llm := [answer for answer in backed[llm] if answer in tied]:
      majority = _majority(answers[llm])
      return majority if majority in of_llm else of_llm[0]
  return -1


@pytest.mark.parametrize('over', voting.VOTES)
@pytest.mark.parametrize('seed', range(3))
def test_the_vote_is_that_of_plain_python(over, seed):
  ballots = _ballots(seed)
  expected = [_elected(over, *(values[row] for values in ballots.values())) for row in range(QUERIES)]
  assert _vote(over, **ballots) == expected
  assert expected[:2] == [-1, -1]


@pytest.mark.parametrize('seed', range(2))
def test_the_majority_is_that_of_plain_python(seed):
  answers = _ballots(seed)['answers']
  expected = [[_majority(samples) for samples in query] for query in answers]
  assert jax.vmap(voting.majority)(answers).tolist() == expected


@pytest.mark.parametrize(
  ('samples', 'majority'),
  [
    ([3, 7, 7, 3], 7),  # both twice; 7 was there first
    ([3, 7, 3, 7], 3),
    ([-1, -1, -1, 5], 5),  # what gives no answer outvotes nobody
    ([-1, -1, -1, -1], -1),
    ([4, 5, 6, -1], 4),
    ([4, 5, 6, 6], 6),
    ([0, 1, 1, 0], 1),  # the answer 0 is an answer like others
  ],
)
def test_a_tied_majority_goes_to_the_answer_first_to_reach_it(samples, majority):
  assert voting.majority(jnp.array([samples], jnp.int16)).tolist() == [majority]


ALL = np.ones(3, bool)
EVEN = np.ones(3, np.float32)


def _majority_vote(answers, mask=ALL, weight=EVEN, priority=(1, 2, 3)) -> int:
  column = np.array(answers, np.int16)[:, None]
  return int(voting.vote(column, np.array(mask), np.float32(weight), np.float32(priority)))


def test_a_tie_goes_to_the_answer_that_the_first_llm_backs():
  assert _majority_vote([5, 6, 7], priority=(3, 1, 2)) == 6
  assert _majority_vote([5, 6, 7], priority=(1, 1, 1)) == 5


def test_the_first_llm_breaks_no_tie_that_it_has_no_part_in():
  two = [np.array([1, 1, 1, 1, 1], bool), np.ones(5, np.float32), (0.1, 5, 4, 3, 2)]
  assert _majority_vote([9, 5, 6, 6, 5], *two) == 5
  assert _majority_vote([-1, 5, 6, 6, 5], *two) == 5
  assert (
    _majority_vote([6, 5, 6, 5, 7], mask=[False, True, True, True, True], weight=np.ones(5), priority=(1,) * 5) == 5
  )


def test_an_llm_that_is_not_called_has_no_vote():
  assert _majority_vote([5, 5, 6], mask=[False, False, True]) == 6
  assert _majority_vote([5, 5, -1], mask=[False, False, True]) == -1


def test_weights_outvote_numbers():
  assert _majority_vote([5, 6, 6], weight=(0.9, 0.4, 0.4)) == 5
  assert _majority_vote([5, 6, 6], weight=(0.75, 0.4, 0.4)) == 6


def test_the_order_of_a_sum_decides_no_tie():
  """The same weights in another order may add to another last bit in float32, but they are as many votes."""
  rng = np.random.default_rng(0)
  half = rng.random((QUERIES, 4), np.float32)
  elected = rng.integers(8, 10, QUERIES)
  priority = np.ones((QUERIES, 8), np.float32)
  priority[np.arange(QUERIES), np.where(elected == 8, 2, 5)] = 0.5
  answers = np.tile(np.repeat(np.int16([8, 9]), 4)[:, None], (QUERIES, 1, 1))
  weight = np.concatenate([half, rng.permuted(half, axis=1)], axis=1)
  assert _vote('majority', answers, np.ones((QUERIES, 8), bool), weight, priority) == elected.tolist()


def test_votes_below_zero_are_counted_like_others():
  assert _majority_vote([5, 6, 6], weight=(-0.5, -1, -1)) == 5
  assert _majority_vote([5, 6, 7], weight=(-1, -0.5, -0.5), priority=(1, 3, 2)) == 7


def test_the_most_confident_llm_wins_a_tie_and_the_faster_one_of_equals():
  confidences, latency_s = np.float32([0.4, 0.9, 0.9, 0.1]), np.float32([1, 4, 3, 2])
  assert np.argsort(voting.tie_order(confidences, latency_s, ties='confident')).tolist() == [2, 1, 0, 3]
  assert np.argsort(voting.tie_order(confidences, latency_s, ties='fastest')).tolist() == [0, 3, 2, 1]
  with pytest.raises(ValueError, match=r"'slowest'.*confident, fastest"):
    voting.tie_order(confidences, latency_s, ties='slowest')


def test_votes_of_no_weight_still_name_an_answer():
  assert _majority_vote([-1, 6, 7], weight=(0, 0, 0)) == 6


def test_over_samples_an_llm_casts_one_vote_a_sample():
  answers = np.int16([[1, 1, 2], [2, 2, 2], [1, 1, 3]])  # two majorities for 1, but 2 is given as often: four times
  assert int(voting.vote(answers, ALL, EVEN, np.float32([1, 2, 3]), over='majority')) == 1
  assert int(voting.vote(answers, ALL, EVEN, np.float32([2, 1, 3]), over='samples')) == 2
  assert int(voting.vote(answers, ALL, EVEN, np.float32([2, 3, 1]), over='samples')) == 1


@pytest.mark.parametrize('over', voting.VOTES)
@pytest.mark.parametrize('seed', range(2))
def test_one_llm_alone_elects_its_majority_answer(over, seed):
  """Otherwise an LLM alone would fare differently from its label."""
  ballots = _ballots(seed)
  ballots['mask'] = np.eye(LLMS, dtype=bool)[np.random.default_rng(seed).integers(LLMS, size=QUERIES)]
  expected = [_majority(samples) for samples in ballots['answers'][ballots['mask']]]
  assert _vote(over, **ballots) == expected


@pytest.mark.parametrize('over', voting.VOTES)
def test_renaming_the_answers_renames_the_elected_one(over):
  ballots = _ballots(11)
  names = np.array([40, 3, 17, -1], np.int16)  # of 0, 1, 2 and of none, which is last
  renamed = _vote(over, **(ballots | {'answers': names[ballots['answers']]}))
  assert renamed == names[_vote(over, **ballots)].tolist()


@pytest.mark.parametrize('over', voting.VOTES)
def test_the_order_of_the_llms_does_not_matter(over):
  ballots = _ballots(12)
  order = np.random.default_rng(12).permutation(LLMS)
  assert _vote(over, **{name: values[:, order] for name, values in ballots.items()}) == _vote(over, **ballots)


def test_an_unknown_kind_of_vote_is_refused():
  with pytest.raises(ValueError, match=r"'plurality'.*majority, samples"):
    voting.vote(np.zeros((2, 1), np.int16), ALL[:2], EVEN[:2], EVEN[:2], over='plurality')
