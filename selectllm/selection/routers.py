"""Rivals: how others choose the LLMs to call, each as a strategy.

Settings mean the same whatever a rival was fitted on. Chains, cascades and clusters do what was most accurate within
limits on the mean price, from the cheapest LLM's to none. Routers do what is best if a call's mean price must bring
`WORTH` of accuracy. An LLM's answer is the majority of its samples.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.special

from selectllm.selection import baselines, types, voting

# The accuracy that a call's mean price must bring, from the cheapest setting to the dearest.
COST_WEIGHTS = np.append(np.geomspace(10, 1e-3, 19), 0.0)
# Shares of votes at which a chain is still unsure; the first is satisfied with any answer, the last never.
AGREEMENT = np.array([0.4, 0.5, 0.6, 0.7, 0.75, 1.0])
# Shares of queries that one LLM of a cascade passes on.
PASSED_ON = np.linspace(0, 1, 10, endpoint=False)
NEIGHBOURS = np.array([5, 10, 20, 40, 80, 160, 320])
CLUSTERS = (1, 2, 4, 8, 16, 32, 64)
DECAYS = np.array([1e-4, 3e-4, 1e-3], np.float32)
# A larger pool's chains and cascades begin with so many of its LLMs.
_MOST_LLMS = 10
# Queries that a search or the choice of a number looks at, where there are more.
_MOST_TRIED = 2_000
_FACTORS, _STEPS, _BATCH, _RATE = 16, 400, 512, 1e-2
# Rounds of k-means, and the LLMs that vote in a cluster.
_ROUNDS, _VOTERS = 10, 3
# Queries of average accuracy that a cluster's accuracies are shrunk with.
_SHRINK = 10


def _rates(queries: types.StrategyQueries) -> np.ndarray:
  """What a unit of price is worth in accuracy at each setting, float64[M]."""
  return COST_WEIGHTS / max(float(np.mean(queries.expected_cost)), 1e-12)


def _priced(queries: types.StrategyQueries) -> types.StrategyQueries:
  """Queries with what is expected for prices that are not known."""
  return queries._replace(cost=np.where(np.isfinite(queries.cost), queries.cost, queries.expected_cost))


def _right(queries: types.StrategyQueries) -> np.ndarray:
  """Labels, float32[N, K]; 0 for LLMs that were not observed."""
  return np.where(queries.observed, queries.labels, 0).astype(np.float32)


def _accuracy(queries: types.StrategyQueries) -> np.ndarray:
  """Each LLM's accuracy, float64[K]; 0 for one that was never observed."""
  return np.nan_to_num(baselines.mean_by_llm(_right(queries), queries.observed))


def _shortlist(queries: types.StrategyQueries) -> tuple[np.ndarray, np.ndarray]:
  """The `_MOST_LLMS` that the fewest others both undercut and outdo, int[], and the rest, from the most accurate."""
  accuracy, price = _accuracy(queries), np.asarray(queries.expected_cost)
  beaten = np.sum((accuracy[:, None] < accuracy) & (price[:, None] > price), 1)
  order = np.lexsort((-accuracy, beaten))
  rest = order[_MOST_LLMS:]
  return order[:_MOST_LLMS], rest[np.argsort(-accuracy[rest], kind='stable')]


def _in_blocks(function: Callable[..., jax.Array], *arrays: np.ndarray) -> np.ndarray:
  """A jitted function of rows, in blocks of one shape, so that not every number of queries is compiled anew."""
  rows = 1024
  blocks = [
    np.asarray(function(*(np.resize(array[start : start + rows], (rows, *array.shape[1:])) for array in arrays)))
    for start in range(0, len(arrays[0]), rows)
  ]
  return np.concatenate(blocks)[: len(arrays[0])]


def _limits(queries: types.StrategyQueries) -> np.ndarray:
  """Limits on the mean price, float64[M]: in even proportions from the cheapest LLM to all of them; last no limit."""
  total = max(float(np.sum(queries.expected_cost)), 1e-12)
  limits = np.geomspace(max(float(np.min(queries.expected_cost)), 1e-6 * total), total, len(COST_WEIGHTS))
  return np.append(limits[:-1], np.inf)


def _best_settings(accuracy: np.ndarray, price: np.ndarray, limits: np.ndarray) -> np.ndarray:
  """The most accurate of C candidates within each limit, int[M], or the cheapest; ties to the cheaper one."""
  cheap = np.lexsort((-accuracy, price))
  within = price <= np.maximum(limits, price.min())[:, None]
  return cheap[np.argmax(np.where(within, accuracy, -np.inf)[:, cheap], -1)]


def _error(estimate: np.ndarray, queries: types.StrategyQueries) -> float:
  """The mean squared error (Brier score) of estimated chances float[N, K] to be right."""
  return float(np.mean((estimate - _right(queries))[queries.observed] ** 2))


def _route(merit: np.ndarray, asked: types.StrategyQueries, rates: np.ndarray) -> types.Decisions:
  """Calls one LLM per query: the one of most merit float[N, K] (its chance to be right) minus price."""
  value = merit[:, None] - rates[:, None] * asked.expected_cost
  # The cheaper one first, for it wins ties.
  cheap = np.argsort(asked.expected_cost, kind='stable')
  llm = cheap[np.argmax(np.where(asked.observed[:, None], value, -np.inf)[..., cheap], -1)]  # [N, M]
  mask = (llm[..., None] == np.arange(merit.shape[1])) & asked.observed[:, None]
  called = mask.any(-1)
  answer = np.where(called, np.take_along_axis(asked.majority, llm, 1), voting.NO_ANSWER)
  p_right = np.where(called, np.take_along_axis(merit, llm, 1), np.nan)
  return types.Decisions(mask, answer.astype(np.int16), p_right.astype(np.float32), np.zeros(mask.shape, np.int8))


def _turns(order: np.ndarray, observed: np.ndarray) -> np.ndarray:
  """The LLMs of each query in a fixed order int[K], those that cannot be called last, int[N, K]."""
  return order[np.argsort(~observed[:, order], axis=1, kind='stable')]


def _played(turns: list, calls: list, answers: list, p_right: list) -> types.Decisions:
  """What was done where each setting calls the first few of its own turns, one after another."""
  stage = np.stack([np.argsort(turn, 1) for turn in turns], 1)
  mask = stage < np.stack(calls, 1)[..., None]
  return types.Decisions(
    mask, np.stack(answers, 1).astype(np.int16), np.stack(p_right, 1).astype(np.float32), stage.astype(np.int8)
  )


def _chain_calls(
  order: np.ndarray, answers: np.ndarray, observed: np.ndarray, agreement: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Calls along a chain, for all queries at once.

  Args:
    order: int[K].
    answers: int32[N, K].
    observed: bool[N, K].
    agreement: float[T], the shares up to which the chain is unsure.

  Yields:
    For each call the LLM int[N], whether it is made bool[N, T] and the answer int32[N] elected after it.
  """
  turn, rows = _turns(order, observed), np.arange(len(answers))
  given, callable_llms = answers[rows[:, None], turn], observed.sum(1)
  elected, votes = np.full(len(answers), voting.NO_ANSWER, np.int32), np.zeros(len(answers))
  going = np.repeat(callable_llms[:, None] > 0, len(agreement), 1)
  for place in range(len(order)):
    newest = given[:, place]
    support = np.sum(given[:, : place + 1] == newest[:, None], 1) * (newest != voting.NO_ANSWER)
    elected = np.where(support > votes, newest, elected)
    votes = np.maximum(support, votes)
    yield turn[:, place], going, elected
    # With one more vote imagined against the answer, a few LLMs that agree are less sure than many.
    unsure = (votes / (place + 2))[:, None] <= agreement
    going = going & unsure & (place + 1 < callable_llms)[:, None]


def _chain_outcomes(order: np.ndarray, answers: np.ndarray, known: types.StrategyQueries) -> np.ndarray:
  """Mean accuracy and price of an order's chains, float[2, T, K]: by agreement and by the most calls."""
  rows, outcomes = np.arange(len(answers)), []
  right, price = np.zeros((2, len(answers), len(AGREEMENT)))
  for llm, going, elected in _chain_calls(order, answers, known.observed, AGREEMENT):
    right = np.where(going, (elected == known.reference)[:, None], right)
    price = price + going * known.cost[rows, llm][:, None]
    outcomes.append((right.mean(0), price.mean(0)))
  return np.moveaxis(np.array(outcomes), 0, -1)


def _moves(order: tuple[int, ...]) -> set[tuple[int, ...]]:
  """All orders with one LLM moved to another place, among the first `_MOST_LLMS`."""
  head, tail = order[:_MOST_LLMS], order[_MOST_LLMS:]
  rests = [(llm, [other for other in head if other != llm]) for llm in head]
  return {(*rest[:place], llm, *rest[place:], *tail) for llm, rest in rests for place in range(len(head))}


def _search_orders(answers: np.ndarray, known: types.StrategyQueries) -> set[tuple[int, ...]]:
  """The orders of a chain that local search, from three starts, finds most accurate within each limit."""
  head, tail = _shortlist(known)
  accuracy, price = _accuracy(known)[head], np.maximum(known.expected_cost, 1e-12)[head]
  starts = [(*head[np.argsort(key, kind='stable')].tolist(), *tail) for key in (price, -accuracy / price, -accuracy)]
  seen = {order: _chain_outcomes(np.array(order), answers, known) for order in starts}
  explored: set[tuple[int, ...]] = set()
  for limit in _limits(known):

    def merit(order: tuple[int, ...], limit: float = limit) -> float:
      accuracy, price = seen[order]
      return np.max(accuracy, where=price <= limit, initial=0)

    while (best := max(seen, key=merit)) not in explored:
      explored.add(best)
      for order in sorted(_moves(best) - seen.keys()):
        seen[order] = _chain_outcomes(np.array(order), answers, known)
  return explored


def chain(known: types.StrategyQueries, asked: types.StrategyQueries, *, seed: int) -> types.Decisions:
  """Chain ensemble: LLMs in one order for all queries, each asked only about those that the ones before leave unsure.

  After Farr et al. (2024), LLM Chain Ensembles for Scalable and Accurate Data Annotation. For want of token
  probabilities, an answer is unsure that has too small a share of the votes so far. All called LLMs vote in the end; a
  tie goes to the answer that had as many votes first. Order, share and most calls are those best on `known`.
  """
  known = _priced(known)
  answers = known.majority
  tried = np.random.default_rng(seed).permutation(len(answers))[:_MOST_TRIED]
  orders = np.array(sorted(_search_orders(answers[tried], known.rows(tried))))
  outcomes = np.stack([_chain_outcomes(order, answers, known) for order in orders], 1)  # [2, O, T, K]
  best = _best_settings(outcomes[0].ravel(), outcomes[1].ravel(), _limits(known))
  answers = asked.majority
  turns, calls, elected = [], [], []
  for index, share, most in zip(*np.unravel_index(best, outcomes.shape[1:]), strict=True):
    made, answer = np.zeros(len(answers), int), np.full(len(answers), voting.NO_ANSWER)
    steps = _chain_calls(orders[index], answers, asked.observed, AGREEMENT[share : share + 1])
    for (_, going, now), _ in zip(steps, range(most + 1), strict=False):
      made += going[:, 0]
      answer = np.where(going[:, 0], now, answer)
    turns.append(_turns(orders[index], asked.observed))
    calls.append(made)
    elected.append(answer)
  return _played(turns, calls, elected, [np.full(len(answers), np.nan)] * len(best))


def _agreement_worth(answers: np.ndarray, known: types.StrategyQueries) -> np.ndarray:
  """What another's answer adds to the log-odds of an LLM's own, float[K, K, 2]: where they differ, where they agree."""
  given = (answers != voting.NO_ANSWER) & known.observed
  right = (answers == known.reference[:, None]) & given
  same = answers[:, :, None] == answers[:, None, :]
  both = given[:, :, None] & given[:, None, :]

  def likelihood(of: np.ndarray) -> np.ndarray:
    counted = both & of[:, :, None]
    agree = (counted & same).sum(0)
    return (np.stack([counted.sum(0) - agree, agree], -1) + 1) / (counted.sum(0) + 2)[..., None]

  return np.log(likelihood(right) / likelihood(given & ~right))


def _cascade_calls(
  order: np.ndarray, answers: np.ndarray, queries: types.StrategyQueries, worth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The calls along a cascade, were no answer accepted; those of LLMs that cannot be called come last, to be left out.

  Returns:
    The LLMs int[N, 3], their answers int32[N, 3], and each answer's log-odds float[N, 3] when it comes; -inf for none.
  """
  turns, rows = _turns(order, queries.observed), np.arange(len(answers))[:, None]
  llms = turns[:, np.minimum(np.arange(3), len(order) - 1)]
  given, score = answers[rows, llms], queries.logits[rows, llms].astype(np.float64)
  for later, earlier in ((1, 0), (2, 0), (2, 1)):
    both = (given[:, later] != voting.NO_ANSWER) & (given[:, earlier] != voting.NO_ANSWER)
    agree = (given[:, later] == given[:, earlier]).astype(int)
    score[:, later] += np.where(both, worth[llms[:, later], llms[:, earlier], agree], 0)
  return llms, given, np.where(given == voting.NO_ANSWER, -np.inf, score)


def _cascade_outcomes(
  order: np.ndarray, answers: np.ndarray, known: types.StrategyQueries, worth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Thresholds float[2, Q] for the first two answers, and what each pair brings: accuracy and price, float[2, Q, Q]."""
  llms, given, score = _cascade_calls(order, answers, known, worth)
  thresholds = np.quantile(score[:, :2], PASSED_ON, axis=0, method='lower').T
  thresholds[:, 0] = -np.inf  # accepts whatever comes
  called = np.arange(3) < known.observed.sum(1)[:, None]
  passed = [(score[:, i, None] < thresholds[i]) & called[:, i + 1, None] for i in range(2)]
  first, second = (array.astype(np.float32) for array in passed)  # [N, Q]
  right = called * (given == known.reference[:, None])
  paid = called * np.take_along_axis(known.cost, llms, 1)
  # A call adds its price, and its answer in place of the one before.
  added = np.stack([np.diff(right.astype(np.float32), prepend=0), paid]).astype(np.float32)  # [2, N, 3]
  total = added[:, :, 0].sum(1)[:, None, None] + (added[:, :, 1] @ first)[:, :, None]
  total = total + np.stack([(first * each[:, None]).T @ second for each in added[:, :, 2]])
  return thresholds, total / len(answers)


def frugal_cascade(known: types.StrategyQueries, asked: types.StrategyQueries, *, seed: int) -> types.Decisions:
  """Cascade: up to three LLMs in one order for all queries, until an answer is accepted; the last one given stands.

  After Chen, Zaharia and Zou (2023), FrugalGPT. An answer is judged by its LLM's log-odds on the query, plus what each
  earlier answer adds by agreeing or not (independently, as in naive Bayes), where FrugalGPT fine-tunes an encoder that
  reads query and answer. Order and thresholds are those best on `known` within each limit, of all orders.
  """
  del seed
  known = _priced(known)
  answers = known.majority
  worth = _agreement_worth(answers, known)
  best_first = np.argsort(-_accuracy(known), kind='stable').tolist()
  heads = itertools.permutations(_shortlist(known)[0].tolist(), min(3, known.observed.shape[1]))
  orders = np.array([(*head, *(llm for llm in best_first if llm not in head)) for head in heads])
  tried = [_cascade_outcomes(order, answers, known, worth) for order in orders]
  thresholds, outcomes = (np.stack(arrays) for arrays in zip(*tried, strict=True))  # [O, 2, Q], [O, 2, Q, Q]
  best = _best_settings(outcomes[:, 0].ravel(), outcomes[:, 1].ravel(), _limits(known))
  answers, available = asked.majority, asked.observed.sum(1)
  turns, calls, accepted, p_right = [], [], [], []
  for index, *cuts in zip(*np.unravel_index(best, outcomes[:, 0].shape), strict=True):
    _, given, score = _cascade_calls(orders[index], answers, asked, worth)
    accepts = score[:, :2] >= thresholds[index, [0, 1], cuts]
    made = np.minimum(np.where(accepts.any(1), accepts.argmax(1) + 1, 3), available)
    last = np.maximum(made - 1, 0)[:, None]
    turns.append(_turns(orders[index], asked.observed))
    calls.append(made)
    accepted.append(np.where(made > 0, np.take_along_axis(given, last, 1)[:, 0], voting.NO_ANSWER))
    p_right.append(np.where(made > 0, scipy.special.expit(np.take_along_axis(score, last, 1)[:, 0]), np.nan))
  return _played(turns, calls, accepted, p_right)


def _accuracy_nearby(
  embeddings: np.ndarray, known: types.StrategyQueries, sizes: np.ndarray, own: np.ndarray | None = None
) -> np.ndarray:
  """Each LLM's accuracy on the most similar known queries, float32[N, sizes, K], with the mean as one more neighbour.

  Args:
    embeddings: float32[N, D].
    known: The queries to look among.
    sizes: int[sizes], ascending: how many neighbours to take.
    own: int[N], the rows of `known` that the queries are themselves, to leave out.
  """
  right, mean, most, blocks = _right(known), _accuracy(known), int(sizes[-1]), []
  for start in range(0, len(embeddings), 1024):
    similarity = embeddings[start : start + 1024] @ known.embeddings.T
    rows = np.arange(len(similarity))[:, None]
    if own is not None:
      similarity[rows[:, 0], own[start : start + 1024]] = -np.inf
    nearest = np.argpartition(-similarity, most - 1, 1)[:, :most]
    nearest = nearest[rows, np.argsort(-similarity[rows, nearest], 1)]
    total, seen = (np.cumsum(array[nearest], 1, dtype=np.float32)[:, sizes - 1] for array in (right, known.observed))
    blocks.append((total + mean) / (seen + 1))
  return np.concatenate(blocks).astype(np.float32)


def knn_router(known: types.StrategyQueries, asked: types.StrategyQueries, *, seed: int) -> types.Decisions:
  """Routes to the LLM of the best accuracy on the k most similar known queries minus its price.

  After Hu et al. (2024), RouterBench. The k is the one whose estimates have the least squared error on known queries,
  each left out of its own neighbours.
  """
  count = len(known.embeddings)
  sizes = np.unique(np.minimum(NEIGHBOURS, count - 1))
  tried = np.random.default_rng(seed).permutation(count)[:_MOST_TRIED]
  estimates = _accuracy_nearby(known.embeddings[tried], known, sizes, tried)
  best = np.argmin([_error(estimates[:, number], known.rows(tried)) for number in range(len(sizes))])
  return _route(_accuracy_nearby(asked.embeddings, known, sizes[[best]])[:, 0], asked, _rates(known))


class Factors(NamedTuple):
  """The parameters of `mf_router`, for K LLMs, embeddings of D numbers and F factors.

  Attributes:
    llm: float32[K, F].
    project: float32[D, F].
    shift: float32[F].
    weight: float32[F].
  """

  llm: types.Array
  project: types.Array
  shift: types.Array
  weight: types.Array


def _scores(factors: Factors, embedding: jax.Array) -> jax.Array:
  """The log-odds that each LLM is right on one query, float32[K]."""
  return (factors.llm * (embedding @ factors.project + factors.shift)) @ factors.weight


@jax.jit
def _factorise(start: Factors, embeddings, right, observed, batches, decay) -> Factors:
  """Adam on the binary cross-entropy of minibatches int[steps, B], all factors pulled towards 0."""
  optimiser = optax.adam(optax.cosine_decay_schedule(_RATE, len(batches)))

  def loss(factors: Factors, rows: jax.Array) -> jax.Array:
    scores = jax.vmap(_scores, in_axes=(None, 0))(factors, embeddings[rows])
    losses = optax.sigmoid_binary_cross_entropy(scores, right[rows])
    return losses.mean(where=observed[rows]) + decay * sum(jnp.sum(leaf**2) for leaf in factors)

  def step(carry, rows):
    factors, state = carry
    updates, state = optimiser.update(jax.grad(loss)(factors, rows), state)
    return (optax.apply_updates(factors, updates), state), None

  (factors, _), _ = jax.lax.scan(step, (start, optimiser.init(start)), batches)
  return factors


def _fit_factors(known: types.StrategyQueries, rows: np.ndarray, decay: float, seed: int) -> Factors:
  """The factors fitted on some rows of `known`."""
  rng = np.random.default_rng(seed)
  (count, width), llms = known.embeddings.shape, known.observed.shape[1]
  shapes = (llms, _FACTORS), (width, _FACTORS), (_FACTORS,), (_FACTORS,)
  start = Factors(*(rng.standard_normal(shape).astype(np.float32) for shape in shapes))
  start = start._replace(weight=start.weight / np.float32(_FACTORS**0.5))
  batches = rng.choice(rows, (_STEPS, _BATCH))
  filled = known.rows(np.arange(-(-count // 1024) * 1024) % count)  # few shapes, so that few are compiled
  return _factorise(start, filled.embeddings, _right(filled), filled.observed, batches, decay)


def _chances(factors: Factors, embeddings: np.ndarray) -> np.ndarray:
  """Each LLM's chance to be right, float[N, K]."""
  return scipy.special.expit(((embeddings @ factors.project + factors.shift) * factors.weight) @ factors.llm.T)


def mf_router(known: types.StrategyQueries, asked: types.StrategyQueries, *, seed: int) -> types.Decisions:
  """Routes by matrix factorisation: the score w . (E_llm * (P q + b)) of a query's embedding q and an LLM.

  After Ong et al. (2024), RouteLLM: there two LLMs' scores are compared and learnt from preferences, here each is the
  log-odds that the LLM is right, learnt from labels. The decay is the one that does best on a fifth of `known`.
  """
  order = np.random.default_rng(seed).permutation(len(known.embeddings))
  fifth = len(order) // 5 + 1
  held, rest = known.rows(order[:fifth]), order[fifth:]
  errors = [_error(_chances(_fit_factors(known, rest, decay, seed), held.embeddings), held) for decay in DECAYS]
  factors = _fit_factors(known, order, DECAYS[np.argmin(errors)], seed)
  return _route(_chances(factors, asked.embeddings), asked, _rates(known))


def _cluster(embeddings: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
  """Centres float32[count, D] by k-means, from centres drawn far from each other (k-means++)."""
  centres = embeddings[rng.integers(len(embeddings), size=1)]
  distance = np.full(len(embeddings), np.inf)
  while len(centres) < count:
    distance = np.minimum(distance, np.maximum(1 - embeddings @ centres[-1], 0))  # of unit vectors, halved and squared
    weight = distance + 1e-9  # were all queries the same
    chosen = rng.choice(len(embeddings), p=weight / weight.sum())
    centres = np.concatenate([centres, embeddings[[chosen]]])
  for _ in range(_ROUNDS):
    members = np.eye(count, dtype=np.float32)[_nearest(embeddings, centres)]
    sizes = members.sum(0)[:, None]
    centres = np.where(sizes > 0, members.T @ embeddings / np.maximum(sizes, 1), centres)
  return centres


def _nearest(embeddings: np.ndarray, centres: np.ndarray) -> np.ndarray:
  """The nearest centre of each query, int[N]."""
  return np.argmax(embeddings @ centres.T - np.sum(centres**2, 1) / 2, 1)


def _cluster_accuracies(centres: np.ndarray, known: types.StrategyQueries) -> np.ndarray:
  """Each LLM's accuracy in each cluster, float[C, K], shrunk to its accuracy everywhere."""
  members = np.eye(len(centres), dtype=np.float32)[_nearest(known.embeddings, centres)].T
  return (members @ _right(known) + _SHRINK * _accuracy(known)) / (members @ known.observed + _SHRINK)


_vote = jax.jit(jax.vmap(jax.vmap(voting.vote, in_axes=(None, 0, None, None)), in_axes=(0, 0, 0, None)))


def _play_clusters(
  accuracy: np.ndarray, queries: types.StrategyQueries, rates: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Calls those of most accuracy float[N, K] minus price: one LLM at each setting, then, as settings more, `_VOTERS`.

  Returns:
    The LLMs called bool[N, 2M, K], the answers int32[N, 2M], and how likely they are right: of one LLM, not of a vote.
  """
  value = np.where(queries.observed[:, None], accuracy[:, None] - rates[:, None] * queries.expected_cost, -np.inf)
  place = np.argsort(np.lexsort((np.broadcast_to(queries.expected_cost, value.shape), -value)))
  mask = np.concatenate([place < 1, place < _VOTERS], 1) & queries.observed[:, None]
  answer = _in_blocks(
    lambda *of_queries: _vote(*of_queries, queries.expected_cost), queries.majority[..., None], mask, accuracy
  )
  p_right = np.where(mask.sum(-1) == 1, np.sum(mask * accuracy[:, None], -1), np.nan)
  return mask, answer, p_right


def clusters(known: types.StrategyQueries, asked: types.StrategyQueries, *, seed: int) -> types.Decisions:
  """Calls the LLM that did best in the query's cluster minus its price, or lets the best three vote.

  After Zhang et al. (2025), The Avengers, whose only parameter is the number of clusters, and Avengers-Pro, which
  weighs accuracy against price. A vote counts its LLM's accuracy in the cluster. A quarter of `known`, held out, tells
  the number of clusters, and within each limit whether one LLM or the vote is better, and at which worth of a price.
  """
  known, rates, rng = _priced(known), _rates(known), np.random.default_rng(seed)
  order = rng.permutation(len(known.embeddings))
  quarter = len(order) // 4 + 1
  held, rest = known.rows(order[:quarter]), known.rows(order[quarter:])

  def estimate(on: types.StrategyQueries, count: int, queries: types.StrategyQueries) -> np.ndarray:
    sample = on.embeddings[rng.permutation(len(on.embeddings))[:_MOST_TRIED]]
    centres = _cluster(sample, min(count, len(sample)), rng)
    return _cluster_accuracies(centres, on)[_nearest(queries.embeddings, centres)]

  estimates = [estimate(rest, count, held) for count in CLUSTERS]
  number = int(np.argmin([_error(each, held) for each in estimates]))
  mask, answer, _ = _play_clusters(estimates[number], held, rates)
  right = (answer == held.reference[:, None]).mean(0)
  best = _best_settings(right, np.sum(mask * held.cost[:, None], -1).mean(0), _limits(known))
  mask, answer, p_right = _play_clusters(estimate(known, CLUSTERS[number], asked), asked, rates)
  mask, answer, p_right = mask[:, best], answer[:, best].astype(np.int16), p_right[:, best].astype(np.float32)
  return types.Decisions(mask, answer, p_right, np.zeros(mask.shape, np.int8))


STRATEGIES: dict[str, types.Strategy] = {
  'chain': chain,
  'frugal_cascade': frugal_cascade,
  'knn_router': knn_router,
  'mf_router': mf_router,
  'clusters': clusters,
}
