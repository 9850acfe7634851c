import numpy as np

from selectllm.selection import answer_scorer
from tests.helpers import strategy_queries


def _log_loss(scores: np.ndarray, right: np.ndarray) -> float:
  return float(np.mean(np.logaddexp(0, scores) - right * scores))


def _queries(seed: int, count: int = 900):
  """Three LLMs, whose log-odds are known; what a response looks like tells as much again."""
  rng = np.random.default_rng(seed)
  logits, looks = rng.standard_normal((2, count, 3))
  right = rng.random((count, 3)) < 1 / (1 + np.exp(-logits - looks))
  made = strategy_queries.make(right, np.float32([1, 2, 3]), seed, logits=logits)
  return made._replace(features=(5 - 10 * looks)[..., None].astype(np.float32))


def test_a_score_reads_the_response_where_it_tells_something():
  train, test = _queries(0), _queries(1)
  scored = answer_scorer.score([answer_scorer.fit(train, seed=0)], test, np.zeros(len(test.logits), int))
  right = test.right()
  best = _log_loss(test.logits + (5 - test.features[..., 0]) / 10, right)
  assert best < _log_loss(scored.alone, right) < best + 0.02
  assert _log_loss(test.logits, right) > best + 0.05


def test_without_anything_to_see_scores_stay_near_log_odds():
  rng = np.random.default_rng(0)
  logits = rng.standard_normal((900, 3))
  right = rng.random((900, 3)) < 1 / (1 + np.exp(-logits))
  train = strategy_queries.make(right, np.float32([1, 2, 3]), 0, logits=logits)._replace(features=None)
  scored = answer_scorer.cross_fit(train, seed=0)
  assert np.abs(scored.alone - logits).mean() < 0.25


def test_queries_are_scored_by_what_was_fitted_on_others():
  """Labels of one part change nothing about its own scores."""
  train = _queries(0)
  before = answer_scorer.cross_fit(train, seed=0)
  part = before.scorer == 1
  labels, accepted = train.labels.copy(), train.accepted.copy()
  labels[part], accepted[part] = 1 - labels[part], accepted[part] + 1
  after = answer_scorer.cross_fit(train._replace(labels=labels, accepted=accepted), seed=0)
  np.testing.assert_array_equal(after.alone[part], before.alone[part])
  np.testing.assert_array_equal(after.agreement[1], before.agreement[1])
  assert np.abs(after.alone[~part] - before.alone[~part]).mean() > 0.1


def test_agreement_of_good_llms_says_more():
  rng = np.random.default_rng(0)
  right = rng.random((800, 3)) < [0.9, 0.8, 0.4]
  train = strategy_queries.make(right, np.float32([1, 2, 3]), 0)
  differing, agreeing = np.moveaxis(answer_scorer.fit(train, seed=0).agreement, -1, 0)
  assert agreeing[1, 0] > agreeing[1, 2] > 0
  assert differing[1, 0] < differing[1, 2] < 0


def test_what_was_held_out_together_is_scored_together():
  train = _queries(0)
  fold = np.random.default_rng(0).integers(0, 6, len(train.logits)).astype(np.int8)
  scorer = answer_scorer.cross_fit(train._replace(fold=fold), seed=0).scorer
  assert set(scorer) == {0, 1, 2}
  assert all(len(set(scorer[fold == one])) == 1 for one in range(6))


def test_of_two_llms_only_one_can_have_answered_before():
  right = np.random.default_rng(0).random((200, 2)) < [0.9, 0.6]
  train = strategy_queries.make(right, np.float32([1, 2]), 0)
  agreement = answer_scorer.fit(train, seed=0).agreement
  earlier = answer_scorer._draw_earlier(train, agreement, np.random.default_rng(0))
  np.testing.assert_array_equal(earlier[..., 2], earlier[..., 1])
