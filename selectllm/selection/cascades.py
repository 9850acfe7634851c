"""Cascades: several LLMs after one another, until an answer is good enough, each as a strategy."""

import itertools
from collections.abc import Iterator

import numpy as np
import scipy.special

from selectllm.data import dataset
from selectllm.selection import answer_scorer, operating_points, types, voting

# Shares of votes at which a chain is still unsure; the first is satisfied with any answer, the last never.
AGREEMENT = np.array([0.4, 0.5, 0.6, 0.7, 0.75, 1.0])
# Shares of queries that one LLM of a cascade passes on.
PASSED_ON = np.linspace(0, 1, 10, endpoint=False)
# A larger pool's chains and cascades begin with so many of its LLMs.
_MOST_LLMS = 10
# Queries that a search for an order looks at, where there are more.
_MOST_TRIED = 2_000


def _shortlist(queries: types.StrategyQueries) -> tuple[np.ndarray, np.ndarray]:
  """Returns the `_MOST_LLMS` that the fewest others both undercut and outdo, and the rest, from the most accurate."""
  accuracy, cost = queries.accuracy(), np.asarray(queries.expected_cost)
  beaten = np.sum((accuracy[:, None] < accuracy) & (cost[:, None] > cost), 1)
  order = np.lexsort((-accuracy, beaten))
  rest = order[_MOST_LLMS:]
  return order[:_MOST_LLMS], rest[np.argsort(-accuracy[rest], kind='stable')]


def _turns(order: np.ndarray, observed: np.ndarray) -> np.ndarray:
  """Returns the LLMs of each query in a fixed order int[K], those that cannot be called last, int[N, K]."""
  return order[np.argsort(~observed[:, order], axis=1, kind='stable')]


def _decisions(
  turns: list[np.ndarray], calls: list[np.ndarray], answers: list[np.ndarray], p_right: list[np.ndarray]
) -> types.Decisions:
  """Returns what was done where each operating point calls the first few of its own turns, one after another."""
  stage = np.stack([np.argsort(turn, 1) for turn in turns], 1)
  mask = stage < np.stack(calls, 1)[..., None]
  return types.Decisions(
    mask, np.stack(answers, 1).astype(np.int16), np.stack(p_right, 1).astype(np.float32), stage.astype(np.int8)
  )


def _chain_calls(
  order: np.ndarray, answers: np.ndarray, observed: np.ndarray, agreement: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Replays the calls along a chain, for all queries at once.

  Args:
    order: int[K].
    answers: int16[N, K], majorities.
    observed: bool[N, K].
    agreement: float[T], the shares up to which the chain is unsure.

  Yields:
    For each call the LLM int[N], whether it is made bool[T, N] and the answer int[N] elected after it.
  """
  turn, rows = _turns(order, observed), np.arange(len(answers))
  given, callable_llms = np.ascontiguousarray(answers[rows[:, None], turn].T), observed.sum(1)
  elected, votes = np.full(len(answers), voting.NO_ANSWER, np.int32), np.zeros(len(answers))
  going = np.repeat(callable_llms[None] > 0, len(agreement), 0)
  for place in range(len(order)):
    newest = given[place]
    support = np.sum(given[: place + 1] == newest, 0) * (newest != voting.NO_ANSWER)
    elected = np.where(support > votes, newest, elected)
    votes = np.maximum(support, votes)
    yield turn[:, place], going, elected
    # With one more vote imagined against the answer, a few LLMs that agree are less sure than many.
    unsure = votes / (place + 2) <= agreement[:, None]
    going = going & unsure & (place + 1 < callable_llms)


def _chain_outcomes(order: np.ndarray, answers: np.ndarray, train: types.StrategyQueries) -> np.ndarray:
  """Returns the mean accuracy and cost of an order's chains, float[2, T, K]: by agreement and by the most calls."""
  outcomes, count = [], len(answers)
  right, cost = np.zeros((len(AGREEMENT), count), bool), np.zeros((len(AGREEMENT), count))
  for llm, going, elected in _chain_calls(order, answers, train.observed, AGREEMENT):
    right = np.where(going, dataset.is_right(elected, train.accepted), right)
    cost += going * train.cost[np.arange(count), llm]
    outcomes.append((right.sum(1) / count, cost.sum(1) / count))
  return np.moveaxis(np.array(outcomes), 0, -1)


def _moves(order: tuple[int, ...]) -> set[tuple[int, ...]]:
  """Returns all orders with one LLM moved to another place, among the first `_MOST_LLMS`."""
  head, tail = order[:_MOST_LLMS], order[_MOST_LLMS:]
  rests = [(llm, [other for other in head if other != llm]) for llm in head]
  return {(*rest[:place], llm, *rest[place:], *tail) for llm, rest in rests for place in range(len(head))}


def _search_orders(answers: np.ndarray, train: types.StrategyQueries) -> set[tuple[int, ...]]:
  """Searches locally, from three starts, for the orders of a chain that are most accurate within each limit."""
  head, tail = _shortlist(train)
  accuracy, cost = train.accuracy()[head], np.maximum(train.expected_cost, 1e-12)[head]
  starts = [(*head[np.argsort(key, kind='stable')].tolist(), *tail) for key in (cost, -accuracy / cost, -accuracy)]
  seen = {order: _chain_outcomes(np.array(order), answers, train) for order in starts}
  explored: set[tuple[int, ...]] = set()
  for limit in operating_points.cost_limits(train):

    def merit(order: tuple[int, ...], limit: float = limit) -> float:
      accuracy, cost = seen[order]
      return np.max(accuracy, where=cost <= limit, initial=0)

    while (best := max(seen, key=merit)) not in explored:
      explored.add(best)
      for order in sorted(_moves(best) - seen.keys()):
        seen[order] = _chain_outcomes(np.array(order), answers, train)
  return explored


def chain(train: types.StrategyQueries, test: types.StrategyQueries, *, seed: int) -> types.Decisions:
  """Calls LLMs in one order for all queries, each only for those that the ones before leave unsure.

  After Farr et al. (2024), LLM Chain Ensembles for Scalable and Accurate Data Annotation. For want of token
  probabilities, an answer is unsure that has too small a share of the votes so far. All called LLMs vote in the end; a
  tie goes to the answer that had as many votes first. Order, share and most calls are those best on `train`.
  """
  train = train.with_all_costs()
  answers = train.majority
  tried = np.random.default_rng(seed).permutation(len(answers))[:_MOST_TRIED]
  orders = np.array(sorted(_search_orders(answers[tried], train.rows(tried))))
  outcomes = np.stack([_chain_outcomes(order, answers, train) for order in orders], 1)  # [2, O, T, K]
  best = operating_points.best_within(outcomes[0].ravel(), outcomes[1].ravel(), operating_points.cost_limits(train))
  answers = test.majority
  turns, calls, elected = [], [], []
  for index, share, most in zip(*np.unravel_index(best, outcomes.shape[1:]), strict=True):
    made, answer = np.zeros(len(answers), int), np.full(len(answers), voting.NO_ANSWER)
    steps = _chain_calls(orders[index], answers, test.observed, AGREEMENT[share : share + 1])
    for (_, going, now), _ in zip(steps, range(most + 1), strict=False):
      made += going[0]
      answer = np.where(going[0], now, answer)
    turns.append(_turns(orders[index], test.observed))
    calls.append(made)
    elected.append(answer)
  return _decisions(turns, calls, elected, [np.full(len(answers), np.nan)] * len(best))


def _cascade_calls(
  order: np.ndarray, queries: types.StrategyQueries, scores: answer_scorer.Scores
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the calls along a cascade, were no answer accepted; those that cannot be made come last, to be left out.

  Returns:
    The LLMs int[N, 3], their answers int16[N, 3], and each answer's log-odds float[N, 3] when it comes; -inf for none.
  """
  answers, turns = queries.majority, _turns(order, queries.observed)
  rows, llms = np.arange(len(answers))[:, None], turns[:, np.minimum(np.arange(3), len(order) - 1)]
  given, score = answers[rows, llms], scores.alone[rows, llms].astype(np.float64)
  for later, earlier in ((1, 0), (2, 0), (2, 1)):
    both = (given[:, later] != voting.NO_ANSWER) & (given[:, earlier] != voting.NO_ANSWER)
    agree = (given[:, later] == given[:, earlier]).astype(int)
    added = scores.agreement[scores.scorer, later - 1, llms[:, later], llms[:, earlier], agree]
    score[:, later] += np.where(both, added, 0)
  return llms, given, np.where(given == voting.NO_ANSWER, -np.inf, score)


def _cascade_outcomes(
  order: np.ndarray, train: types.StrategyQueries, scores: answer_scorer.Scores
) -> tuple[np.ndarray, np.ndarray]:
  """Returns thresholds float[2, Q] for the first two answers, and each pair's accuracy and cost, float[2, Q, Q]."""
  llms, given, score = _cascade_calls(order, train, scores)
  thresholds = np.quantile(score[:, :2], PASSED_ON, axis=0, method='lower').T
  thresholds[:, 0] = -np.inf  # accepts whatever comes
  called = np.arange(3) < train.observed.sum(1)[:, None]
  passed = [(score[:, i, None] < thresholds[i]) & called[:, i + 1, None] for i in range(2)]
  first, second = (array.astype(np.float32) for array in passed)  # [N, Q]
  right = called * dataset.is_right(given, train.accepted[:, None])
  paid = called * np.take_along_axis(train.cost, llms, 1)
  # A call adds its cost, and its answer in place of the one before.
  added = np.stack([np.diff(right.astype(np.float32), prepend=0), paid]).astype(np.float32)  # [2, N, 3]
  total = added[:, :, 0].sum(1)[:, None, None] + (added[:, :, 1] @ first)[:, :, None]
  total = total + np.stack([(first * each[:, None]).T @ second for each in added[:, :, 2]])
  return thresholds, total / len(given)


def frugal_cascade(train: types.StrategyQueries, test: types.StrategyQueries, *, seed: int) -> types.Decisions:
  """Calls up to three LLMs in one order for all queries, until an answer is accepted; the last one given stands.

  After Chen, Zaharia and Zou (2023), FrugalGPT. There a fine-tuned DistilBERT reads query and answer and scores each
  answer by itself; here a logistic regression does (`answer_scorer`), on numbers that describe query, answer and
  response, and it knows whether the answer agrees with those before it. Order and thresholds are those best on `train`
  within each limit, of all orders, by scores of answers to queries that the scorer was not fitted on.
  """
  train = train.with_all_costs()
  scores = answer_scorer.cross_fit(train, seed=seed)
  best_first = np.argsort(-train.accuracy(), kind='stable').tolist()
  heads = itertools.permutations(_shortlist(train)[0].tolist(), min(3, train.observed.shape[1]))
  orders = np.array([(*head, *(llm for llm in best_first if llm not in head)) for head in heads])
  tried = [_cascade_outcomes(order, train, scores) for order in orders]
  thresholds, outcomes = (np.stack(arrays) for arrays in zip(*tried, strict=True))  # [O, 2, Q], [O, 2, Q, Q]
  limits = operating_points.cost_limits(train)
  best = operating_points.best_within(outcomes[:, 0].ravel(), outcomes[:, 1].ravel(), limits)
  scorer, available = answer_scorer.fit(train, seed=seed), test.observed.sum(1)
  scores = answer_scorer.score([scorer], test, np.zeros(len(available), int))
  turns, calls, accepted, p_right = [], [], [], []
  for index, *cuts in zip(*np.unravel_index(best, outcomes[:, 0].shape), strict=True):
    _, given, score = _cascade_calls(orders[index], test, scores)
    accepts = score[:, :2] >= thresholds[index, [0, 1], cuts]
    made = np.minimum(np.where(accepts.any(1), accepts.argmax(1) + 1, 3), available)
    last = np.maximum(made - 1, 0)[:, None]
    turns.append(_turns(orders[index], test.observed))
    calls.append(made)
    accepted.append(np.where(made > 0, np.take_along_axis(given, last, 1)[:, 0], voting.NO_ANSWER))
    p_right.append(np.where(made > 0, scipy.special.expit(np.take_along_axis(score, last, 1)[:, 0]), np.nan))
  return _decisions(turns, calls, accepted, p_right)


STRATEGIES: dict[str, types.Strategy] = {'chain': chain, 'frugal_cascade': frugal_cascade}
