"""How often limits are kept on new queries: of random splits of a finished run's queries, the share that keeps each.

Rules are cross-fitted on all queries of the run once (no query is replayed by what was fitted on it). Then the queries
are split at random, again and again: on one part an operating point is chosen for each limit, at the probability asked
for and, for comparison, by the mean alone; on the other part it is judged, and its cost compared with that of the
cheapest single LLM that keeps the limit there too.

  python -m benchmarks.limits --run=runs/gsm8k --save
"""

import json
import pathlib

import ml_collections
import numpy as np

from benchmarks import results
from selectllm.data import splits
from selectllm.evaluate import options as options_lib
from selectllm.evaluate import predictions, replay, strategies
from selectllm.modes import experiment
from selectllm.report import tables
from selectllm.selection import confidence, constraints

LIMITS = (
  'accuracy>=best_single', 'accuracy>=all_llms', 'wall_seconds<=35%', 'compute_seconds<=10%', 'compute_seconds<=35%',
  'p95_wall_seconds<=30',
)  # fmt: skip


def _metrics(run: pathlib.Path) -> tuple[str, dict[str, replay.QueryMetrics]]:
  """Returns the metrics of all that a limit may choose, held out, on all queries of a run."""
  config = ml_collections.ConfigDict(json.loads((run / 'config.json').read_text()))
  data, kept = experiment.load_table(config, run), predictions.read_predictions(run / 'predictions.npz')
  split = np.where(np.arange(len(data.queries)) < 2, splits.TEST, splits.TRAIN).astype(np.int8)  # there must be some
  estimates = confidence.fit(
    data.queries, kept.embeddings, kept.labels, kept.observed, split, seed=config.seed, questions=data.questions
  )
  cost_unit = options_lib.cost_unit_of(data.responses, config.tradeoff.cost_unit)
  evaluating = config.evaluate
  options = options_lib.TradeoffOptions(
    cost_unit, strategies.RULES, vote=evaluating.vote, ties=evaluating.ties, seed=config.seed
  )
  found = strategies.fit_and_replay(data, split, estimates, kept.embeddings, options)
  names = [name for name in found.strategies if name in strategies.RULES or strategies.is_fixed(name)]
  return data.name, {name: found.strategies[name].fitting for name in names}


def _rows(of: replay.QueryMetrics, rows: np.ndarray, point: int | None = None) -> replay.QueryMetrics:
  return replay.QueryMetrics(*(array[rows] if point is None else array[rows, point] for array in of))


def _judge(
  methods: dict[str, replay.QueryMetrics], fitting: np.ndarray, test: np.ndarray, confidence: float
) -> dict[str, tuple[bool, float] | None]:
  """Returns by limit whether it was kept, and what that cost, as a share of the cheapest single LLM that keeps it."""
  accuracy = {name: strategies.mean_metrics(_rows(of, fitting, 0))['accuracy'] or 0.0 for name, of in methods.items()}
  best = max((name for name in methods if strategies.is_single(name)), key=lambda name: accuracy[name])
  of_reference = {name: name for name in strategies.VOTES_OF_ALL} | {'best_single': best}
  known = {name: _rows(methods[of], fitting, 0) for name, of in of_reference.items()}
  tested = {name: strategies.mean_metrics(_rows(methods[of], test, 0)) for name, of in of_reference.items()}
  estimated = {
    name: strategies.estimate_points(_rows(of, fitting), known, confidence=confidence, horizon=len(test))
    for name, of in methods.items()
  }
  references = {name: estimated[of][0] for name, of in of_reference.items()}
  found: dict[str, tuple[bool, float] | None] = {}
  for text in LIMITS:
    limit = constraints.parse(text)
    chosen = strategies.choose_from(
      estimated, references, limit, cost_unit='compute_seconds', confidence=confidence, horizon=len(test)
    )
    if chosen is None:
      found[text] = None
      continue
    means = strategies.mean_metrics(_rows(methods[chosen[0]], test, chosen[1]))
    target = constraints.target(limit, tested)
    met, _ = constraints.judge(limit, means, target)
    alone = [strategies.mean_metrics(_rows(of, test, 0)) for name, of in methods.items() if strategies.is_single(name)]
    keeping = [of['compute_seconds'] for of in alone if constraints.judge(limit, of, target)[0]]
    priced = bool(keeping) and limit.quantity == 'accuracy'
    found[text] = met, means['compute_seconds'] / min(keeping) if priced else np.nan
  return found


def main() -> None:
  """Prints the shares; see the module's description."""
  parser = results.parser(__doc__)
  parser.add_argument('--run', type=pathlib.Path, required=True)
  parser.add_argument('--splits', type=int, default=200)
  parser.add_argument('--confidence', type=float, default=0.9)
  options = parser.parse_args()
  name, methods = _metrics(options.run)
  count = len(methods['all_llms'].valid)
  kept: dict[tuple[str, float], list[tuple[bool, float] | None]] = {}
  for seed in range(options.splits):
    order = np.random.default_rng(seed).permutation(count)
    for level in (options.confidence, 0.5):
      for text, outcome in _judge(methods, order[count // 5 :], order[: count // 5], level).items():
        kept.setdefault((text, level), []).append(outcome)
  cells = []
  for text in LIMITS:
    row = [text]
    for level in (options.confidence, 0.5):
      outcomes = [outcome for outcome in kept[text, level] if outcome is not None]
      costs = [cost for _, cost in outcomes if not np.isnan(cost)]
      row += [f'{100 * np.mean([met for met, _ in outcomes]):.0f} %'] if outcomes else ['-']
      row += [f'{100 * np.median(costs):.0f} %' if costs else '-', f'{len(outcomes)}']
    cells.append(row)
  header = ['limit']
  for level in (f'at {options.confidence:.0%}', 'by the mean'):
    header += [f'kept, {level}', 'cost', 'splits']
  notes = [
    f'{name}: {options.splits} random splits of {count:,} queries, a fifth of each judged. `cost`: median, in percent '
    'of the cheapest single LLM that keeps the limit on those; `splits`: those where something could be chosen.'
  ]
  table, packages = tables.Table(header, cells), ('jax', 'scipy')
  results.publish(f'Limits that hold: {name}', table, notes, save=options.save, packages=packages)


if __name__ == '__main__':
  main()
