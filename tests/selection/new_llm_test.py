import numpy as np
import scipy.special

from selectllm.data import dataset
from selectllm.selection import new_llm, types, voting


def _logits(rng: np.random.Generator, queries: int, llms: int) -> np.ndarray:
  return (rng.normal(0.3, 1, (queries, 1)) + rng.normal(0, 0.4, (queries, llms))).astype(np.float32)


def _draw(rng: np.random.Generator, logits: np.ndarray) -> np.ndarray:
  return (rng.random(logits.shape) < scipy.special.expit(logits)).astype(np.float32)


def _log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
  return float(np.mean(np.logaddexp(0, logits) - labels * logits))


def _pool(
  seed: int = 0, queries: int = 1500, llms: int = 5, asked: int = 100, samples: int = 1
) -> types.StrategyQueries:
  """Queries whose right answer is 0; the last LLM shares the first one's wrong answers, and was asked some."""
  rng = np.random.default_rng(seed)
  logits = _logits(rng, queries, llms)
  labels = _draw(rng, logits)
  answers = np.where(labels > 0.5, 0, rng.integers(1, 4, labels.shape))
  both = (labels[:, 0] < 0.5) & (labels[:, -1] < 0.5)
  answers[both, -1] = answers[both, 0]
  answers = np.repeat(answers[..., None], samples, 2).astype(np.int16)
  observed = np.ones(labels.shape, bool)
  observed[rng.permutation(queries)[asked:], -1] = False
  price = np.where(observed, 1, np.nan).astype(np.float32)
  return types.StrategyQueries(
    logits, np.zeros((queries, 2), np.float32), answers, dataset.majorities(answers), observed,
    np.zeros((queries, 1), np.int16), labels, price, np.ones(llms, np.float32),
  )  # fmt: skip


def _answering(known: types.StrategyQueries, answers: np.ndarray, **fields: np.ndarray) -> types.StrategyQueries:
  return known._replace(answers=answers, majority=dataset.majorities(answers), **fields)


def test_without_responses_to_speak_of_a_new_llm_is_like_the_pool():
  logits = _logits(np.random.default_rng(0), 2, 4)
  fitted = new_llm.fit(logits, np.array([1, 0], np.float32))
  assert abs(fitted.weights.sum() - 1) < 0.1
  assert np.ptp(fitted.weights) < 0.1


def test_many_responses_find_what_the_llm_goes_by():
  rng = np.random.default_rng(1)
  logits = _logits(rng, 20_000, 4)
  weights, bias = np.array([2.0, 0.0, -0.5, 0.3]), -1.5
  labels = _draw(rng, logits @ weights + bias)
  fitted = new_llm.fit(logits, labels)
  np.testing.assert_allclose(fitted.weights, weights, atol=0.15)
  np.testing.assert_allclose(fitted.bias, bias, atol=0.1)
  np.testing.assert_allclose(new_llm.log_odds(fitted, logits), logits @ fitted.weights + fitted.bias, rtol=1e-6)


def test_confidence_beats_the_constant_from_thirty_responses_on():
  rng = np.random.default_rng(2)
  logits = _logits(rng, 4000, 6)
  labels = _draw(rng, 1.2 * logits.mean(1) + 0.3 * logits[:, 0] - 0.5)
  losses = {}
  for count in (30, 100, 300):
    drawn = [rng.permutation(4000)[:count] for _ in range(10)]
    losses[count] = np.mean(
      [_log_loss(new_llm.log_odds(new_llm.fit(logits[r], labels[r]), logits), labels) for r in drawn]
    )
  constant = _log_loss(np.full(4000, scipy.special.logit(labels.mean())), labels)
  assert constant > losses[30] + 0.02
  assert losses[30] > losses[100] > losses[300]


def test_no_query_asked_is_judged_by_the_response_to_itself():
  rng = np.random.default_rng(3)
  logits = _logits(rng, 60, 3)
  labels = _draw(rng, logits[:, 0])
  asked, fold = np.arange(0, 60, 2), np.arange(60) % 6
  _, found = new_llm.learn(logits, labels, asked, fold)
  turned = labels.copy()
  turned[10] = 1 - turned[10]
  turned[11] = 1 - turned[11]  # was not asked
  fitted, other = new_llm.learn(logits, turned, asked, fold)
  same_fold = asked[fold[asked] == fold[10]]
  assert np.array_equal(found[same_fold], other[same_fold])
  assert not np.array_equal(found[2], other[2])
  rest = np.setdiff1d(np.arange(60), asked)
  assert np.array_equal(other[rest], new_llm.log_odds(fitted, logits)[rest])


def test_what_was_recorded_stays():
  known = _pool()
  given = new_llm.impute(known, seed=0)
  asked = known.observed[:, -1]
  for name in ('answers', 'labels'):
    before, after = getattr(known, name), getattr(given, name)
    assert np.array_equal(after[asked], before[asked])
    assert np.array_equal(after[:, :-1], before[:, :-1])
  assert given.observed.all()
  assert np.array_equal(given.cost, known.cost, equal_nan=True)
  assert not known.observed[:, -1].all()  # left as it was


def test_answers_that_were_not_recorded_are_not_looked_at():
  known = _pool()
  asked = known.observed[:, -1]
  answers, labels = known.answers.copy(), known.labels.copy()
  answers[~asked, -1], labels[~asked, -1] = voting.NO_ANSWER, np.nan
  given, blind = (
    new_llm.impute(known, seed=1),
    new_llm.impute(_answering(known, answers, labels=labels), seed=1),
  )
  assert np.array_equal(given.answers, blind.answers)
  assert np.array_equal(given.labels, blind.labels)


def test_a_drawn_llm_errs_as_often_as_it_did_where_others_err_and_like_them():
  known = _pool(queries=4000, asked=1000)
  given = new_llm.impute(known, seed=0)
  fresh = ~known.observed[:, -1]
  drawn, truth = given.answers[fresh, -1, 0], known.answers[fresh, -1, 0]
  assert np.array_equal(given.labels[fresh, -1] > 0.5, drawn == 0)
  assert abs(np.mean(drawn == 0) - np.mean(truth == 0)) < 0.05

  def with_others(answer: np.ndarray) -> float:
    others = known.answers[fresh, :-1, 0]
    return float(np.mean(np.any(others == answer[:, None], 1)[(answer != 0) & (others != 0).any(1)]))

  assert abs(with_others(drawn) - with_others(truth)) < 0.1
  right = (drawn == 0).astype(float)
  others = known.labels[fresh, :-1].mean(1)
  assert np.corrcoef(right, others)[0, 1] > 0.2


def test_errors_of_its_own_are_nobody_elses():
  known = _pool(asked=200)
  answers = known.answers.copy()
  wrong = known.labels[:, -1] < 0.5
  answers[wrong, -1] = 9  # never agrees
  given = new_llm.impute(_answering(known, answers), seed=0)
  fresh = ~known.observed[:, -1] & (given.labels[:, -1] < 0.5)
  shared = (given.answers[fresh, -1] == given.answers[fresh, :-1, 0]).any(1)
  assert shared.mean() < 0.15


def test_samples_agree_as_they_did():
  known = _pool(asked=150, samples=5)
  answers = known.answers.copy()
  wrong = known.labels[:, -1] < 0.5
  answers[wrong, -1, 3:] = 8  # of five samples two say something else
  answers[np.flatnonzero(wrong)[::3], -1] = voting.NO_ANSWER
  given = new_llm.impute(_answering(known, answers), seed=0)
  fresh = ~known.observed[:, -1]
  drawn, right = given.answers[fresh, -1], given.labels[fresh, -1] > 0.5
  assert (drawn[right] == 0).all()
  silent = (drawn[~right] == voting.NO_ANSWER).all(1)
  assert 0.2 < silent.mean() < 0.5
  said = drawn[~right][~silent]
  assert (said[:, :3] == said[:, :1]).all()
  assert (said[:, 3:] != said[:, :1]).all()
  assert (said != 0).all()


def test_queries_that_nobody_was_asked_stay_so():
  known = _pool()
  observed, answers = known.observed.copy(), known.answers.copy()
  gone = np.flatnonzero(~observed[:, -1])[:7]
  observed[gone], answers[gone] = False, voting.NO_ANSWER
  given = new_llm.impute(_answering(known, answers, observed=observed), seed=0)
  assert not given.observed[gone].any()
  assert (given.answers[gone, -1] == voting.NO_ANSWER).all()


def test_an_llm_that_was_always_right_can_be_drawn_all_the_same():
  known = _pool(asked=25)
  asked = known.observed[:, -1]
  answers, labels = known.answers.copy(), known.labels.copy()
  answers[asked, -1], labels[asked, -1] = 0, 1
  given = new_llm.impute(_answering(known, answers, labels=labels), seed=0)
  wrong = given.labels[:, -1] < 0.5
  assert 0 < wrong.mean() < 0.3
  assert (given.answers[wrong, -1] > 0).all()
