"""Constraints as users state them: one string each, kept by a choice of operating point, judged by the test.

A constraint is one of

  accuracy>=best_single, accuracy>=all_llms, accuracy>=0.9    right as often as the best single LLM, as all, as that
  accuracy>=static_weighted                                   as all, each vote weighted by how often its LLM is right
  wall_seconds<=20, compute_seconds<=60, usd<=0.001           the mean wall clock, summed compute or dollars of a query
  wall_seconds<=50%, compute_seconds<=35%, usd<=10%           the same in percent of calling all LLMs
  p95_wall_seconds<=30                                        the 95th percentile of the wall clock
  query_compute_seconds<=30                                   what no query's summed compute is expected to exceed
  none                                                        the most accurate, whatever it takes

An operating point is chosen so that it keeps a constraint on new queries with a stated probability, see `margin`.

The *wall clock* of a query is what its user waits: calls of one stage run in parallel, stages one after the other. Its
*summed compute* is the seconds of all its calls, added up. `seconds`, `p95_seconds` and `query_seconds`, earlier names,
are read as `compute_seconds`, `p95_wall_seconds` and `query_compute_seconds`.
"""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

# Fixed choices of LLMs that constraints may refer to.
REFERENCES = ('best_single', 'all_llms', 'static_weighted')
# What may have to stay below a number, and of these what the number may be a percentage of calling all LLMs for.
CEILINGS = ('wall_seconds', 'compute_seconds', 'usd', 'p95_wall_seconds', 'query_compute_seconds')
SHARES = ('wall_seconds', 'compute_seconds', 'usd')
# Earlier names of quantities.
ALIASES = {'seconds': 'compute_seconds', 'p95_seconds': 'p95_wall_seconds', 'query_seconds': 'query_compute_seconds'}

# What is less than this is an error of rounding.
_ROUNDING = 1e-9

_FORM = re.compile(r'(\w+)(>=|<=)([\w.+-]+)(%?)')
_NUMBER = re.compile(r'\d+(\.\d+)?(e[+-]?\d+)?|\.\d+')

# Numbers by quantity (`accuracy`, `CEILINGS`, `calls`), None where unknown.
Quantities = Mapping[str, float | None]


class Constraint(NamedTuple):
  """A constraint that a user stated.

  Attributes:
    quantity: `accuracy`, one of `CEILINGS`, or `none`.
    value: The number stated, None where there is none.
    reference: Which of `REFERENCES` the quantity is compared with, None where with `value` alone.
    percent: Whether `value` is in percent of the reference.
    text: As it was stated, without spaces and by today's names.
  """

  quantity: str
  value: float | None
  reference: str | None
  percent: bool
  text: str


class Point(msgspec.Struct, frozen=True):
  """An operating point, as estimated on n queries.

  Attributes:
    means: By quantity; None where unknown.
    spread: Standard deviations over queries of the known means.
    covariance: Reference -> covariances over queries with the same quantity of that reference.
    bounds: Upper bounds of quantities that are no means, at the probability that the run asked for.
    queries: n.
  """

  means: dict[str, float | None]
  spread: dict[str, float]
  covariance: dict[str, dict[str, float]]
  bounds: dict[str, float]
  queries: int


def parse(text: str) -> Constraint:
  """Reads a constraint.

  Raises:
    ValueError: If it is none of those in this module's description.
  """
  stated = ''.join(text.split())
  if stated == 'none':
    return Constraint('none', None, None, False, stated)
  if match := _FORM.fullmatch(stated):
    name, sign, bound, percent = match.groups()
    quantity = ALIASES.get(name, name)
    stated = f'{quantity}{sign}{bound}{percent}'
    value = float(bound) if _NUMBER.fullmatch(bound) else None
    if (quantity, sign, percent) == ('accuracy', '>=', ''):
      if bound in REFERENCES:
        return Constraint(quantity, None, bound, False, stated)
      if value is not None and value <= 1:
        return Constraint(quantity, value, None, False, stated)
    elif sign == '<=' and quantity in (SHARES if percent else CEILINGS) and value:
      return Constraint(quantity, value, 'all_llms' if percent else None, bool(percent), stated)
  raise ValueError(
    f'constraint {text!r}; it must be accuracy>=X, X being {", ".join(REFERENCES)} or a number up to 1; Q<=X, Q being '
    f'{", ".join(CEILINGS)} and X a number above 0; Q<=X%, Q being {", ".join(SHARES)}; or none'
  )


def target(constraint: Constraint, references: Mapping[str, Quantities]) -> float | None:
  """Returns the number that a constraint comes to.

  Args:
    constraint: From `parse`.
    references: What each of `REFERENCES` gives.

  Returns:
    The number, in the constraint's quantity; None without a constraint, or where the reference's is unknown.
  """
  if constraint.reference is None:
    return constraint.value
  known = references[constraint.reference].get(constraint.quantity)
  if known is None or constraint.value is None:
    return known
  return known * constraint.value / 100


def margin(
  constraint: Constraint, point: Point, references: Mapping[str, Point], *, confidence: float, horizon: int
) -> float | None:
  """Returns by how much an operating point keeps a constraint even where it goes badly, in the constraint's quantity.

  A mean over `horizon` new queries lies on the right side of its one-sided prediction bound with the probability
  `confidence`: the bound is z * sd * sqrt(1 / n + 1 / horizon) from the mean over the n queries known (Hahn and Meeker
  1991, section 4), sd being that of the difference from the reference, query by query.

  Args:
    constraint: From `parse`, but not `none`.
    point: As estimated.
    references: Each of `REFERENCES`, as estimated.
    confidence: From 0.5, where nothing is added, to below 1.
    horizon: How many new queries the mean is over.

  Returns:
    At least 0 where the constraint is kept; None where a number is not known.
  """
  name = constraint.quantity
  value = point.bounds.get(name, point.means.get(name))
  bound = target(constraint, {reference: of.means for reference, of in references.items()})
  if value is None or bound is None:
    return None
  gap = value - bound if name == 'accuracy' else bound - value
  if name in point.bounds or name not in point.spread:
    return gap
  variance = point.spread[name] ** 2
  if name == 'accuracy' and constraint.reference is None:
    likely = (value * point.queries + 1) / (point.queries + 2)  # all of a few being right leaves doubt
    variance = max(variance, likely * (1 - likely))
  if constraint.reference is not None:
    share = 1.0 if constraint.value is None else constraint.value / 100
    of = references[constraint.reference].spread[name]
    variance += (share * of) ** 2 - 2 * share * point.covariance.get(constraint.reference, {}).get(name, 0.0)
    # A point compared with itself differs in nothing, but for rounding.
    variance = variance if variance > _ROUNDING * point.spread[name] ** 2 else 0.0
  z = statistics.NormalDist().inv_cdf(confidence)
  return gap - z * math.sqrt(variance * (1 / point.queries + 1 / horizon))


def choose(
  constraint: Constraint,
  points: Sequence[Point],
  references: Mapping[str, Point],
  *,
  cost_unit: str = 'compute_seconds',
  confidence: float = 0.5,
  horizon: int = 1,
) -> int | None:
  """Chooses the operating point that serves a constraint best, of those that keep it with a probability.

  Args:
    constraint: From `parse`.
    points: The estimates of each operating point.
    references: The estimates of each of `REFERENCES`.
    cost_unit: The quantity that is paid, known of all points.
    confidence: See `margin`.
    horizon: Likewise.

  Returns:
    Under a ceiling, the most accurate point that keeps it, of equal ones the one that takes least. For an accuracy,
    the cheapest point that reaches it, of equal ones the more accurate. None where no point is known to.
  """
  ranks: dict[int, tuple[float, ...]] = {}
  for index, point in enumerate(points):
    accuracy = point.means.get('accuracy')
    if accuracy is None:
      continue
    if constraint.quantity != 'none':
      kept = margin(constraint, point, references, confidence=confidence, horizon=horizon)
      if kept is None or kept < -_ROUNDING:
        continue
    paid = point.means.get(cost_unit)
    taken = math.inf if paid is None else paid
    if constraint.quantity == 'accuracy':
      ranks[index] = (taken, -accuracy)
    else:
      ranks[index] = (-accuracy, point.means.get(constraint.quantity) or 0.0, taken)
  return min(ranks, key=lambda index: ranks[index]) if ranks else None


def judge(constraint: Constraint, test: Mapping[str, Any], target: float | None) -> tuple[bool, bool]:
  """Tells whether a test kept a constraint.

  Args:
    constraint: From `parse`.
    test: The constraint's quantity as tested and, under `<quantity>_ci`, its 95 % interval, a pair; without one, the
      quantity is taken to be exact.
    target: The number that the constraint came to, from `target`.

  Returns:
    Whether the tested number keeps the constraint; whether anything in its interval does. Both are true of `none`.

  Raises:
    ValueError: If the quantity or the target is unknown.
  """
  if constraint.quantity == 'none':
    return True, True
  value = test.get(constraint.quantity)
  if value is None or target is None:
    raise ValueError(f'constraint {constraint.text}: nothing to judge by, tested {value} against {target}')
  interval = [value, *(bound for bound in test.get(f'{constraint.quantity}_ci') or () if bound is not None)]
  if constraint.quantity == 'accuracy':
    return value >= target, max(interval) >= target
  return value <= target, min(interval) <= target
