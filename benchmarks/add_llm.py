"""What a new LLM is worth to a run that learns of it from few labelled responses: each LLM of the pool in turn.

One LLM is hidden from a finished run, and added to the others from n labelled responses, drawn anew several times, as
`--config.mode=add_llm` does. On the run's test queries its confidence is compared with the constant and with that of
the full training on all labels; and the learned vote of the three most confident LLMs, or the adaptive rule at one of
its settings, with that of the pool without it and of the pool with it, trained in full.

  python -m benchmarks.add_llm --run=runs/gsm8k --draws=5
  python -m benchmarks.add_llm --run=runs/gsm8k --draws=5 --selection_draws=1 --adaptive
"""

import argparse
import json
import pathlib
from typing import Any, NamedTuple

import ml_collections
import numpy as np
import rich.console
import scipy.special
import scipy.stats

from selectllm.data import dataset, splits
from selectllm.evaluate import metrics, predictions, strategies
from selectllm.evaluate import options as options_lib
from selectllm.infra import metric_writer
from selectllm.modes import experiment
from selectllm.report import tables
from selectllm.selection import adaptive, learned_vote, new_llm, types

LABELLED = (30, 100, 300)
SIZE = 3  # LLMs that the learned vote calls
PRICE = 0.5  # the adaptive rule's setting, one of `adaptive.COST_WEIGHTS`

Numbers = Any  # one float, or float[K]


class Data(NamedTuple):
  """A finished run: all queries, which of them develop, which votes are fitted on, which test, and folds."""

  queries: types.StrategyQueries
  development: np.ndarray
  fitted: np.ndarray
  test: np.ndarray
  fold: np.ndarray
  llms: tuple[str, ...]


def read(run: pathlib.Path, most: int) -> Data:
  """The data of a finished run without folds; votes are fitted on so many fitting queries at most."""
  config = ml_collections.ConfigDict(json.loads((run / 'config.json').read_text()))
  data, predicted = experiment.load_table(config, run), predictions.read_predictions(run / 'predictions.npz')
  responses, split = data.responses, predicted.split[0]
  development = predicted.estimates[0]
  cost_unit = options_lib.cost_unit_of(responses, '')
  queries = strategies.queries_of(data, development, predicted.embeddings, split, cost_unit)
  fold = development.fold
  develops = np.flatnonzero(fold >= 0)
  fitted = np.sort(np.random.default_rng(0).permutation(develops)[:most])
  return Data(queries, develops, fitted, np.flatnonzero(split == splits.TEST), fold, data.llms)


def reordered(queries: types.StrategyQueries, llms: list[int]) -> types.StrategyQueries:
  """The queries with some LLMs of the pool, in this order."""
  per_llm = ('logits', 'answers', 'majority', 'observed', 'labels', 'cost')
  columns = {name: getattr(queries, name)[:, llms] for name in per_llm}
  return queries._replace(**columns, expected_cost=queries.expected_cost[llms])


def learned(queries: types.StrategyQueries, asked: np.ndarray, fold: np.ndarray) -> types.StrategyQueries:
  """All queries, with the last LLM's log-odds as its responses to some teach them."""
  logits = queries.logits.copy()
  _, logits[:, -1] = new_llm.learn(queries.logits[:, :-1], queries.labels[:, -1], asked, fold)
  return queries._replace(logits=logits)


def imputed(queries: types.StrategyQueries, asked: np.ndarray, rows: np.ndarray, *, seed: int) -> types.StrategyQueries:
  """Some of the queries, with drawn answers of the last LLM wherever it was not asked."""
  observed = queries.observed.copy()
  observed[:, -1] = np.isin(np.arange(len(observed)), asked)
  return new_llm.impute(queries._replace(observed=observed).rows(rows), seed=seed)


def selected(known: types.StrategyQueries, asked: types.StrategyQueries, rule: bool) -> tuple[float, float]:
  """Accuracy and mean price on `asked` of the learned vote of the most confident, or of the adaptive rule."""
  weights = learned_vote.fit(known.logits, known.answers, known.accepted, known.observed, seed=0)
  if rule:
    played, setting = (
      adaptive.replay(adaptive.fit(weights, known, seed=0), weights, asked),
      adaptive.COST_WEIGHTS.index(PRICE),
    )
  else:
    played, setting = learned_vote.by_confidence(weights, asked), SIZE - 1
  price = np.sum(np.where(played.mask[:, setting] & asked.observed, asked.cost, 0), 1)
  return float(np.mean(dataset.is_right(played.answer[:, setting], asked.accepted))), float(price.mean())


def log_loss(logits: np.ndarray, labels: np.ndarray, observed: np.ndarray) -> float:
  """The mean over observed queries."""
  return float(np.mean(np.logaddexp(0, logits) - labels * logits, where=observed))


def auroc(logits: np.ndarray, labels: np.ndarray, observed: np.ndarray) -> float:
  """Of one LLM; NaN where it is always right or always wrong."""
  area = metrics.auroc(labels[:, None], scipy.special.expit(logits)[:, None], observed[:, None])
  return np.nan if area is None else area


class Fared(NamedTuple):
  """How an LLM fared in one way, or each of K LLMs, float[K]; NaN for what was not tried."""

  log_loss: Numbers = np.nan
  constant: Numbers = np.nan
  auroc: Numbers = np.nan
  accuracy: Numbers = np.nan
  price: Numbers = np.nan


def added(data: Data, queries: types.StrategyQueries, number: int, options: argparse.Namespace) -> Fared:
  """The last LLM added from so many responses: means over draws."""
  test = queries.rows(data.test)
  labels, observed = test.labels[:, -1], test.observed[:, -1]
  askable = data.development[queries.observed[data.development, -1]]
  drawn = []
  for draw in range(options.draws):
    asked = np.sort(np.random.default_rng([options.seed, draw, number]).permutation(askable)[:number])
    right = queries.labels[asked, -1]
    if right.all() or not right.any():
      continue  # refused by the mode too
    seen = learned(queries, asked, data.fold)
    logits = seen.logits[data.test, -1]
    constant = np.full(len(labels), scipy.special.logit((right.sum() + 1) / (len(right) + 2)))
    fared = Fared(
      log_loss(logits, labels, observed), log_loss(constant, labels, observed), auroc(logits, labels, observed)
    )
    if draw < options.selection_draws:
      known = imputed(seen, asked, data.fitted, seed=draw)
      accuracy, price = selected(known, seen.rows(data.test), options.adaptive)
      fared = fared._replace(accuracy=accuracy, price=price)
    drawn.append(fared)
  if not drawn:
    return Fared()
  columns: np.ndarray = np.array(drawn).T
  return Fared(*(column[~np.isnan(column)].mean() if not np.isnan(column).all() else np.nan for column in columns))


def compare(data: Data, options: argparse.Namespace) -> dict[str, list[Fared]]:
  """For each line of the table how each LLM fared."""
  count = len(data.llms)
  found: dict[str, list[Fared]] = {'without it': [], **{f'{number:,} responses': [] for number in LABELLED}, 'all': []}
  progress = metric_writer.Progress('LLMs', count)
  for llm in range(count):
    queries = reordered(data.queries, [*(other for other in range(count) if other != llm), llm])
    known, test = queries.rows(data.fitted), queries.rows(data.test)
    others = list(range(count - 1))
    accuracy, price = selected(reordered(known, others), reordered(test, others), options.adaptive)
    found['without it'].append(Fared(accuracy=accuracy, price=price))
    for number in LABELLED:
      found[f'{number:,} responses'].append(added(data, queries, number, options))
    judged = test.logits[:, -1], test.labels[:, -1], test.observed[:, -1]
    accuracy, price = selected(known, test, options.adaptive)
    found['all'].append(Fared(log_loss(*judged), np.nan, auroc(*judged), accuracy, price))
    progress.update(llm + 1)
  progress.close()
  return found


def spread(values: np.ndarray, digits: int, sign: str = '') -> str:
  """The mean over LLMs and a 95 % interval by the spread between them."""
  values = values[~np.isnan(values)]
  if len(values) < 2:
    return ''.join(f'{value:{sign}.{digits}f}' for value in values) or '-'
  off = scipy.stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
  return f'{values.mean():{sign}.{digits}f} ± {off:.{digits}f}'


def main() -> None:
  """Prints the table; see the module's description."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--run', type=pathlib.Path, required=True, help='directory of a finished run without folds')
  parser.add_argument('--draws', type=int, default=5, help='of the labelled responses')
  parser.add_argument('--selection_draws', type=int, default=1, help='of these, for how many selection is fitted too')
  parser.add_argument('--fit_on', type=int, default=20_000, help='fitting queries (train, validation) of the votes')
  parser.add_argument('--adaptive', action='store_true', help='the adaptive rule in place of the learned vote')
  parser.add_argument('--seed', type=int, default=0)
  options = parser.parse_args()
  data = read(options.run, options.fit_on)
  columns = {name: Fared(*np.array(rows).T) for name, rows in compare(data, options).items()}
  total = float(data.queries.expected_cost.sum())
  without, full = columns['without it'], columns['all']
  rows = [
    [
      name,
      spread(fared.log_loss, 3),
      spread(fared.log_loss - fared.constant, 3, '+'),
      spread(fared.log_loss - full.log_loss, 3, '+'),
      spread(fared.auroc, 3),
      spread(100 * fared.accuracy, 1),
      spread(100 * (fared.accuracy - without.accuracy), 1, '+'),
      spread(100 * (fared.accuracy - full.accuracy), 1, '+'),
      spread(100 * fared.price / total, 1),
    ]
    for name, fared in columns.items()
  ]
  header = [
    'the LLM learned from', 'log loss', '- constant', '- all', 'AUROC',
    'accuracy %', '- without it', '- all', 'price %',
  ]  # fmt: skip
  what = f'the adaptive rule at {PRICE}' if options.adaptive else f'the learned vote of {SIZE}'
  title = (
    f'{len(data.llms)} LLMs, each added to the others: {len(data.test):,} test queries, {what}; mean ± 95 % over LLMs'
  )
  rich.console.Console(width=160).print(tables.Table(header, rows).rich(title))


if __name__ == '__main__':
  main()
