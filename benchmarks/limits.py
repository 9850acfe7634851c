"""How often limits are kept on new queries: of random splits of a finished run's queries, the share that keeps each.

On four fifths of each split's queries the rules are fitted and an operating point is chosen for each limit, at the
probability asked for and, for comparison, by the mean alone; on the other fifth it is judged, and its cost compared
with that of the cheapest single LLM that keeps the limit there too. Confidences are out of fold for all queries.

  python -m benchmarks.limits --run=runs/gsm8k --queries=900 --save
  python -m benchmarks.limits --run=runs/mmlu_pro --queries=1800 --save
"""

import json
import pathlib
from typing import NamedTuple

import ml_collections
import msgspec
import numpy as np
import rich.progress

from benchmarks import results
from selectllm.data import dataset, splits
from selectllm.evaluate import options as options_lib
from selectllm.evaluate import predictions, replay, strategies
from selectllm.modes import experiment
from selectllm.report import tables
from selectllm.selection import confidence, constraints

LIMITS = (
  'accuracy>=best_single', 'accuracy>=all_llms', 'wall_seconds<=20%', 'wall_seconds<=35%', 'compute_seconds<=10%',
  'compute_seconds<=35%', 'p95_wall_seconds<=30',
)  # fmt: skip


class Run(NamedTuple):
  """A finished run: its data set, the estimates of all queries (out of fold), their embeddings, and the options."""

  data: dataset.Dataset
  estimates: confidence.Confidences
  embeddings: np.ndarray
  options: options_lib.TradeoffOptions


class Outcome(NamedTuple):
  """Whether a limit was kept, and for what share of what the cheapest single LLM takes that keeps it; NaN for none."""

  met: bool
  cost: float


def read(run: pathlib.Path) -> Run:
  """Reads a finished run."""
  config = ml_collections.ConfigDict(json.loads((run / 'config.json').read_text()))
  data, kept = experiment.load_table(config, run), predictions.read_predictions(run / 'predictions.npz')
  estimates = confidence.fit(
    data.queries, kept.embeddings, kept.labels, kept.observed, np.zeros(len(data.queries), np.int8),
    seed=config.seed, questions=data.questions,
  )  # fmt: skip
  options = options_lib.TradeoffOptions(
    options_lib.cost_unit_of(data.responses, config.tradeoff.cost_unit), strategies.RULES,
    vote=config.evaluate.vote, ties=config.evaluate.ties, seed=config.seed,
  )  # fmt: skip
  return Run(data, estimates, kept.embeddings, options)


def fit(run: Run, order: np.ndarray) -> strategies.FoldResult:
  """Fits and replays the rules on a split: the first fifth of these queries is test, all others are left out."""
  split = np.full(len(run.data.queries), splits.UNUSED, np.int8)
  split[order], split[order[: len(order) // 5]] = splits.TRAIN, splits.TEST
  fold = np.where(split == splits.TRAIN, run.estimates.fold, -1)
  return strategies.fit_and_replay(run.data, split, run.estimates._replace(fold=fold), run.embeddings, run.options)


def judge(found: strategies.FoldResult, level: float) -> dict[str, Outcome | None]:
  """Returns what came of each limit; None where nothing could be chosen."""
  on_test = {name: replay.at(found.strategies[of].test, 0) for name, of in found.references.items()}
  tested = {name: strategies.mean_metrics(of) for name, of in on_test.items()}
  singles = [
    strategies.mean_metrics(replay.at(of.test, 0))
    for name, of in found.strategies.items()
    if strategies.is_single(name)
  ]
  rules = found.rules._replace(confidence=level)
  if level == 0.5:  # no bound, but the percentile itself
    bare = {name: [msgspec.structs.replace(point, bounds={}) for point in of] for name, of in rules.estimated.items()}
    rules = rules._replace(estimated=bare)
  outcomes: dict[str, Outcome | None] = {}
  for text in LIMITS:
    limit = constraints.parse(text)
    chosen = strategies.choose(rules, limit)
    if chosen is None:
      outcomes[text] = None
      continue
    means = strategies.mean_metrics(replay.at(found.strategies[chosen[0]].test, chosen[1]))
    target = constraints.target(limit, tested)
    met, _ = constraints.judge(limit, means, target)
    keeping = [of['compute_seconds'] for of in singles if constraints.judge(limit, of, target)[0]]
    priced = bool(keeping) and limit.quantity == 'accuracy'
    outcomes[text] = Outcome(met, means['compute_seconds'] / min(keeping) if priced else np.nan)
  return outcomes


def main() -> None:
  """Prints the shares; see the module's description."""
  parser = results.parser(__doc__)
  parser.add_argument('--run', type=pathlib.Path, required=True)
  parser.add_argument('--splits', type=int, default=100)
  parser.add_argument('--queries', type=int, default=0, help='of each split, drawn at random; 0 for all')
  parser.add_argument('--confidence', type=float, default=0.9)
  options = parser.parse_args()
  run = read(options.run)
  count = len(run.data.queries)
  levels = (options.confidence, 0.5)
  kept: dict[tuple[str, float], list[Outcome | None]] = {(text, level): [] for text in LIMITS for level in levels}
  for seed in rich.progress.track(range(options.splits), 'Splits'):
    found = fit(run, np.random.default_rng(seed).permutation(count)[: options.queries or count])
    for level in levels:
      for text, outcome in judge(found, level).items():
        kept[text, level].append(outcome)
  cells = [[text, *(cell for level in levels for cell in _cells(kept[text, level]))] for text in LIMITS]
  header = ['limit']
  for level in (f'at {options.confidence:.0%}', 'by the mean'):
    header += [f'kept, {level}', 'cost', 'splits']
  notes = [
    f'{run.data.name}: {options.splits} random splits of {options.queries or count:,} queries, a fifth of each judged. '
    '`cost`: median, in percent of the cheapest single LLM that keeps the limit on those; `splits`: those where '
    'something could be chosen.'
  ]
  table, packages = tables.Table(header, cells), ('jax', 'scipy')
  results.publish(f'Limits that hold: {run.data.name}', table, notes, save=options.save, packages=packages)


def _cells(outcomes: list[Outcome | None]) -> list[str]:
  """Returns the share of splits on which a limit was kept, the median cost, and how many splits there are."""
  known = [outcome for outcome in outcomes if outcome is not None]
  costs = [outcome.cost for outcome in known if not np.isnan(outcome.cost)]
  return [
    f'{100 * np.mean([outcome.met for outcome in known]):.0f} %' if known else '-',
    f'{100 * np.median(costs):.0f} %' if costs else '-',
    str(len(known)),
  ]


if __name__ == '__main__':
  main()
