import numpy as np
import pytest

from selectllm.selection import cascades, voting
from tests.helpers import strategy_queries


def test_a_chain_asks_on_where_its_llms_disagree():
  """LLMs 0 and 1, cheap, are right together or wrong apart; 2 and 3, dear, err on different queries."""
  hard, row = np.arange(400) % 2 == 0, np.arange(400)
  right = np.stack([~hard, ~hard, row % 20 != 1, row % 20 != 3], 1)
  train = strategy_queries.make(right, np.float32([1, 1, 10, 10]), 0)
  decisions = cascades.chain(train, strategy_queries.hide(train), seed=0)
  assert (decisions.answer[:, -1] == train.accepted[:, 0]).all()
  assert decisions.mask[:, -1, :2].all()
  assert (decisions.mask[:, -1, 2:] == hard[:, None]).all()
  order = np.where(decisions.mask[:, -1], decisions.stage[:, -1], -1)
  assert np.sort(order[hard], 1).tolist() == [[0, 1, 2, 3]] * hard.sum()
  assert np.sort(order[~hard], 1).tolist() == [[-1, -1, 0, 1]] * (~hard).sum()


def test_the_called_llms_of_a_chain_vote_and_a_tie_goes_to_the_earlier_answer():
  train, test = strategy_queries.topics(0, 300), strategy_queries.topics(1, 60)
  decisions = cascades.chain(train, strategy_queries.hide(test), seed=0)
  for query, point in np.ndindex(decisions.answer.shape):
    called = np.flatnonzero(decisions.mask[query, point])
    votes = [int(test.answers[query, llm, 0]) for llm in called[np.argsort(decisions.stage[query, point, called])]]
    given = [answer for answer in votes if answer != voting.NO_ANSWER]
    # All answers with the most votes; of these, the one that had as many first.
    reached = [given[: place + 1].count(answer) for place, answer in enumerate(given)]
    assert decisions.answer[query, point] == (given[int(np.argmax(reached))] if given else voting.NO_ANSWER)


def test_a_cascade_passes_on_what_its_scorer_doubts_and_takes_the_last_answer():
  doubted = np.arange(300) % 5 < 2
  right = np.stack([~doubted, np.ones(300, bool)], 1)
  logits = np.stack([np.where(doubted, -3, 3), np.full(300, 2)], 1)
  train = strategy_queries.make(right, np.float32([1, 5]), 0, logits=logits)
  decisions = cascades.frugal_cascade(train, strategy_queries.hide(train), seed=0)
  assert (decisions.mask[:, -1] == np.stack([np.ones(300, bool), doubted], 1)).all()
  assert (decisions.answer[:, -1] == train.accepted[:, 0]).all()
  assert (decisions.stage[doubted, -1] == [0, 1]).all()
  assert decisions.p_right[~doubted, -1].min() > 0.9


def test_an_answer_that_agrees_with_an_earlier_one_is_likelier_right():
  """On every other query the first LLM looks poor, and is; there it gives another answer than the second, or none."""
  rng, doubted = np.random.default_rng(0), np.arange(600) % 2 == 0
  right = np.stack([rng.random(600) < np.where(doubted, 0.3, 0.9), rng.random(600) < 0.7], 1)
  logits = np.stack([np.where(doubted, -1, 2), np.ones(600)], 1)
  train = strategy_queries.make(right, np.float32([1, 2]), 0, logits=logits)
  train.answers[~right[:, 0] & (np.arange(600) % 4 == 0), 0] = -1
  decisions = cascades.frugal_cascade(train, strategy_queries.hide(train), seed=0)
  assert (decisions.mask[doubted, -1]).all()
  first, second = train.answers[doubted, :, 0].T
  sure = decisions.p_right[doubted, -1]
  agrees, silent = first == second, first == -1
  differs = ~agrees & ~silent
  assert sure[differs].max() < sure[silent].min() <= sure[silent].max() < sure[agrees].min()


def test_a_cascade_passes_on_an_answer_that_does_not_look_right():
  """Nothing is known of a query beforehand; the first LLM's wrong answers are long. One response says nothing."""
  rng = np.random.default_rng(0)
  wrong = rng.random(500) < 0.4
  right = np.stack([~wrong, rng.random(500) < 0.95], 1)
  train = strategy_queries.make(right, np.float32([1, 5]), 0)
  features = np.stack([wrong + 0.1 * rng.standard_normal(500), rng.standard_normal(500)], 1)[..., None]
  features[7] = np.nan
  looked = train._replace(features=features.astype(np.float32))
  decisions = cascades.frugal_cascade(looked, strategy_queries.hide(looked), seed=0)
  passed_on = decisions.mask[:, -1, 1]
  assert passed_on[wrong].mean() > 0.95
  blind = train._replace(features=None)
  unseen = cascades.frugal_cascade(blind, strategy_queries.hide(blind), seed=0)
  seeing, guessing = ((each.answer[:, 5:15] == train.accepted).mean() for each in (decisions, unseen))
  assert seeing > guessing + 0.02


@pytest.mark.parametrize('name', ['chain', 'frugal_cascade'])
def test_a_large_pool_is_searched_from_its_promising_llms(name):
  rng = np.random.default_rng(0)
  accuracy, cost = np.linspace(0.2, 0.9, 12), np.linspace(1, 6, 12)
  accuracy[5:7], cost[5:7] = 0.1, 9  # poor and dear
  train = strategy_queries.make(rng.random((60, 12)) < accuracy, cost, 0)
  decisions = cascades.STRATEGIES[name](train, strategy_queries.hide(train), seed=0)
  assert not decisions.mask[..., 5:7].any()
  assert (decisions.mask[:, 0] == (np.arange(12) == 0)).all()
  assert (decisions.answer[:, -1] == train.accepted[:, 0]).mean() > 0.85
