"""Options of an evaluation, as a config gives them."""

import dataclasses

import ml_collections
import numpy as np

from selectllm.data import dataset
from selectllm.evaluate import results
from selectllm.selection import constraints

COST_UNITS = ('compute_seconds', 'usd', 'calls')
# Random subsets: of pools of so many LLMs all are looked at, of larger ones so many for each query and size.
MOST_ENUMERATED = 12
RANDOM_DRAWS = 20


def cost_unit_of(responses: dataset.Responses, wanted: str) -> str:
  """Returns what calls are paid in: as asked, or summed compute where known, else dollars, else the number of calls.

  Raises:
    ValueError: when what is asked for is not known of all calls.
  """
  known = {
    'compute_seconds': not np.isnan(responses.latency_s[responses.observed]).any(),
    'usd': not np.isnan(responses.cost_usd[responses.observed]).any(),
    'calls': True,
  }
  wanted = constraints.ALIASES.get(wanted, wanted)
  if not wanted:
    return next(name for name in COST_UNITS if known[name])
  if not known[wanted]:
    raise ValueError(f'config.tradeoff.cost_unit={wanted!r}, but it is not known what every call took; take another')
  return wanted


@dataclasses.dataclass(frozen=True)
class TradeoffOptions:
  """Says which strategies are compared, and how.

  Attributes:
    cost_unit: From `cost_unit_of`.
    strategies: Some of `strategies.STRATEGIES`; `adaptive`, which a selector holds, is always fitted.
    limits: Constraints, see `selectllm.selection.constraints`.
    confidence: How likely a limit is to be kept on new queries, see `constraints.margin`.
    vote: What the votes of all LLMs are over, see `voting.vote`.
    ties: Whose answer wins a tie in them, see `voting.tie_order`.
    resamples: Of the bootstrap.
    seed: Of everything that is drawn.
  """

  cost_unit: str
  strategies: tuple[str, ...] = ()
  limits: tuple[str, ...] = ()
  confidence: float = 0.9
  vote: str = 'majority'
  ties: str = 'confident'
  resamples: int = 2000
  seed: int = 0

  @property
  def timed(self) -> bool:
    """Tells whether calls are paid in time: calling at once saves wall clock, and a query may take too much compute."""
    return self.cost_unit == 'compute_seconds'

  @property
  def budgets(self) -> dict[str, float]:
    """Returns the constraints on single queries, and the most that the calls of one may be expected to take."""
    parsed = [constraints.parse(text) for text in self.limits if self.timed]
    return {limit.text: limit.value for limit in parsed if limit.quantity == 'query_compute_seconds' and limit.value}

  @classmethod
  def from_config(cls, config: ml_collections.ConfigDict, responses: dataset.Responses) -> 'TradeoffOptions':
    """Takes the options from a config; refuses a cost unit as `cost_unit_of` does."""
    return cls(
      cost_unit=cost_unit_of(responses, config.tradeoff.cost_unit),
      strategies=tuple(config.tradeoff.strategies),
      limits=tuple(config.tradeoff.limits),
      confidence=config.tradeoff.confidence,
      vote=config.evaluate.vote,
      ties=config.evaluate.ties,
      resamples=config.evaluate.resamples,
      seed=config.seed,
    )


def evaluate_config(config: ml_collections.ConfigDict) -> results.EvaluateConfig:
  """Takes the fields of `config.evaluate`, which may differ from evaluation to evaluation of one run."""
  fields = {name: config.evaluate[name] for name in results.EvaluateConfig.__struct_fields__}
  return results.EvaluateConfig(**fields | {'knn_neighbours': list(fields['knn_neighbours'])})
