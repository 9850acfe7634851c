"""Adds an LLM to a finished run from few labelled responses; nothing is trained again.

Its confidence follows from the pool's (see `selectllm.selection.new_llm`). The vote and the rules are fitted anew, on
fitting queries that it answered or might have answered so; their estimates are counted on recorded answers alone.
"""

import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

import ml_collections
import numpy as np
import rich.console
import scipy.special

from selectllm import config as config_lib
from selectllm.data import dataset, load, pool_file, records, splits
from selectllm.evaluate import options as options_lib
from selectllm.evaluate import predictions, statistics, strategies
from selectllm.infra import run_dir
from selectllm.selection import confidence, new_llm, pseudo_labels
from selectllm.serve import selector

# Fewer labelled responses say next to nothing.
FEWEST = 20


@dataclasses.dataclass(frozen=True)
class Learned:
  """Describes an added LLM; selectors keep it among their facts.

  Attributes:
    llm: Its name.
    responses: Fitting queries that it answered, all learned from.
    on_test: Responses to test queries of the run, left out.
    on_others: Responses to queries that the run does not know or use, left out.
    accuracy: On the fitting queries that it answered.
    accuracy_ci: Wilson's 95 % interval.
    log_loss: Of its confidence there, each query held out in turn.
    log_loss_constant: Of its accuracy as the confidence everywhere, held out likewise.
    expected: The expected cost of a call, in the run's cost_unit.
    cost_unit: See `options.COST_UNITS`.
    estimated_on: The queries that the selector's estimates are counted on, in words.
  """

  llm: str
  responses: int
  on_test: int
  on_others: int
  accuracy: float
  accuracy_ci: tuple[float, float]
  log_loss: float
  log_loss_constant: float
  expected: float
  cost_unit: str
  estimated_on: str


class _Given(NamedTuple):
  """Responses to fitting queries (row -> samples), and how many to other queries were left out."""

  samples: dict[int, list[records.Sample]]
  on_test: int
  on_others: int


def add_llm(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Saves the selector of a run and one LLM more as `selector/` in a directory of its own, and says what was learned.

  Args:
    config: The run's; `add_llm` says what is added to it.
    workdir: Not the run's.

  Raises:
    ValueError: for an LLM that cannot be added; says why.
    FileNotFoundError: when there is no finished run.
    run_dir.RunDirError: when the config or the data are not the run's.
    records.RecordError: for responses that cannot be read.
  """
  options, run = config.add_llm, pathlib.Path(config.add_llm.run)
  config_lib.check_options(config)
  _check(options, run, workdir)
  run_dir.claim_config(run, config)
  predicted = predictions.read_predictions(run / 'predictions.npz')
  if len(predicted.split) > 1:
    raise ValueError(f'config.add_llm.run={options.run!r} cross-validated: it has a classifier for each fold')
  data, split = _data(config, run, predicted.split[0]), predicted.split[0]
  recorded = list(records.read_jsonl(options.responses))
  llm = _name(options.llm, recorded, data.llms, options.responses)
  fold, joined, learned = join(config, data, predicted, llm, _match(recorded, llm, data, split))
  directory, latency_s = workdir / 'selector', float(predicted.classifier_latency_s)
  selector.save(directory, config, joined, fold, latency_s, dataclasses.asdict(learned))
  _print(learned, joined, directory)


def _check(options: ml_collections.ConfigDict, run: pathlib.Path, workdir: pathlib.Path) -> None:
  for name in ('config.json', 'data.json', 'report.json', 'predictions.npz'):
    if not (run / name).is_file():
      raise FileNotFoundError(f'config.add_llm.run={options.run!r} is not a finished run: it has no {name}')
  if workdir.resolve() == run.resolve():
    raise ValueError(f'--workdir={str(workdir)!r} is config.add_llm.run, whose selector would be replaced')
  if not pathlib.Path(options.responses).is_file():
    raise FileNotFoundError(f'config.add_llm.responses={options.responses!r} is no file')


def _data(config: ml_collections.ConfigDict, run: pathlib.Path, split: np.ndarray) -> dataset.Dataset:
  """Reads the data set of the run; refuses another one, and one with which nothing can be voted for."""
  data, identity = load.load(config, run_dir.begun_with(run))
  run_dir.claim_data(run, identity)
  if not data.responses.has_answers:
    raise ValueError(f'config.add_llm.run={str(run)!r} is on scores, with which nothing can be voted for')
  return pseudo_labels.label(data, split) if config.dataset.labels == 'agreement' else data


def _name(wanted: str, recorded: list[records.Record], known: tuple[str, ...], path: str) -> str:
  """Returns the name of the LLM to add."""
  present = dict.fromkeys(llm for record in recorded for llm in record.responses)
  fresh = [llm for llm in present if llm not in known]
  if wanted in known:
    raise ValueError(f'config.add_llm.llm={wanted!r} is in the pool of the run already: {", ".join(known)}')
  if (wanted and wanted not in present) or (not wanted and len(fresh) != 1):
    raise ValueError(
      f'config.add_llm.llm={wanted!r} must be one that {path} has responses of and the run does not know: '
      f'{", ".join(fresh) or "there is none"}'
    )
  return wanted or fresh[0]


def _match(recorded: list[records.Record], llm: str, data: dataset.Dataset, split: np.ndarray) -> _Given:
  """Finds the queries of the run that an LLM answered, by their ids or else by their texts."""
  by_id = {query_id: row for row, query_id in enumerate(data.query_ids)}
  texts = [
    {splits.normalise(text) for text in both} for both in zip(data.queries, data.questions or data.queries, strict=True)
  ]
  by_text = {text: row for row, both in reversed(list(enumerate(texts))) for text in both}
  samples: dict[int, list[records.Sample]] = {}
  on_test = on_others = 0
  for record in recorded:
    observed = [sample for sample in record.responses.get(llm, ()) if sample.error is None]
    if not observed:
      continue
    asked = {splits.normalise(text) for text in (record.query, record.question) if text}
    row = by_id.get(record.query_id)
    if row is not None and not asked & texts[row]:
      raise ValueError(
        f'query {record.query_id!r} reads {record.query!r:.80} in the responses, but {data.queries[row]!r:.80} in the '
        'run; are the ids those of other data?'
      )
    if row is None:
      row = next((by_text[text] for text in asked if text in by_text), None)
    if row is None or split[row] == splits.UNUSED:
      on_others += 1
    elif split[row] == splits.TEST:
      on_test += 1
    else:
      samples[row] = observed
  return _Given(samples, on_test, on_others)


def join(
  config: ml_collections.ConfigDict, data: dataset.Dataset, predicted: predictions.Predictions, llm: str, given: _Given
) -> tuple[strategies.FoldResult, dataset.Dataset, Learned]:
  """Learns an LLM's confidence, and fits vote and rules with it.

  Args:
    config: The run's.
    data: Its data set.
    predicted: Its predictions.
    llm: The LLM's name.
    given: Its responses.

  Returns:
    All that a selector is made of; the data set with the LLM as the last one; a description of the LLM.

  Raises:
    ValueError: for too few responses, for an LLM that is always right or always wrong, or when the cost of its calls
      is not known.
  """
  joined = _checked(config, data, llm, given)
  cost_unit = options_lib.cost_unit_of(data.responses, config.tradeoff.cost_unit)
  confidences = _with_llm(predicted.estimates[0], joined.responses)
  rules = tuple(name for name in strategies.RULES if name in config.tradeoff.strategies)  # all that a selector holds
  options = dataclasses.replace(
    options_lib.TradeoffOptions.from_config(config, data.responses), cost_unit=cost_unit, strategies=rules
  )
  fold = strategies.fit_and_replay(
    joined, predicted.split[0], confidences, predicted.embeddings, options,
    functools.partial(new_llm.impute, seed=config.seed),
  )  # fmt: skip
  asked = np.flatnonzero(joined.responses.observed[:, -1])
  labels = joined.responses.labels[asked, -1]
  accuracy = float(labels.mean())
  learned = Learned(
    llm=llm,
    responses=len(asked),
    on_test=given.on_test,
    on_others=given.on_others,
    accuracy=accuracy,
    accuracy_ci=statistics.wilson_ci(accuracy, len(asked)),
    log_loss=_log_loss(confidences.logits[asked, -1], labels),
    log_loss_constant=_log_loss(_constant(labels, confidences.fold[asked]), labels),
    expected=float(fold.rules.expected_cost[-1]),
    cost_unit=cost_unit,
    estimated_on=(
      f'{len(fold.fitting_rows):,} fitting queries, held out; {llm} takes part in the {len(asked):,} that it was '
      'asked, on all others it counts as one that cannot be called'
    ),
  )
  return fold, joined, learned


def _with_llm(known: confidence.Confidences, joined: dataset.Responses) -> confidence.Confidences:
  """Returns the confidences of the run, and those of an LLM that is the last one of the responses."""
  asked = np.flatnonzero(joined.observed[:, -1])
  fitted, column = new_llm.learn(known.logits, joined.labels[:, -1], asked, known.fold)
  added = np.append(fitted.weights, fitted.bias)[None]
  estimator = known.estimator._replace(added=added)
  return known._replace(estimator=estimator, logits=np.concatenate([known.logits, column[:, None]], 1))


def _checked(config: ml_collections.ConfigDict, data: dataset.Dataset, llm: str, given: _Given) -> dataset.Dataset:
  """Returns the data set with the LLM; refuses one that nothing can be learned of."""
  left_out = (
    f'{given.on_test} to test queries of the run and {given.on_others} to queries that it does not use left out'
  )
  if len(given.samples) < FEWEST:
    raise ValueError(f'{len(given.samples)} responses of {llm} are too few, {left_out}; give at least {FEWEST}')
  pool = pool_file.read_pool(config.pool.file) if config.pool.file and not data.in_place_of else None
  extractor = '' if data.in_place_of else config.dataset.extractor
  joined = dataset.join(data, llm, given.samples, pool=pool, extractor=extractor)
  labels = joined.responses.labels[joined.responses.observed[:, -1], -1]
  if labels.all() or not labels.any():
    raise ValueError(
      f'{llm} is {"right" if labels.all() else "wrong"} on all {len(labels)} queries ({left_out}). Nothing can be '
      'learned about when such an LLM is right; give responses to more queries.'
    )
  cost_unit = options_lib.cost_unit_of(data.responses, config.tradeoff.cost_unit)
  try:
    options_lib.cost_unit_of(joined.responses, cost_unit)
  except ValueError as error:
    raise ValueError(
      f'the run counts in {cost_unit}, but what calls of {llm} take is not known: give latencies or tokens with its '
      'responses, and its size or price in config.pool.file'
    ) from error
  return joined


def _log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
  return float(np.mean(np.logaddexp(0, logits) - labels * logits))


def _constant(labels: np.ndarray, fold: np.ndarray) -> np.ndarray:
  """Returns the log-odds float64[n] of the accuracy in all other folds, one query more being right, and one wrong."""
  shares = [(labels[fold != part].sum() + 1) / (np.sum(fold != part) + 2) for part in fold]
  return scipy.special.logit(shares)


def _print(learned: Learned, data: dataset.Dataset, directory: pathlib.Path) -> None:
  """Prints what was learned, in words."""
  low, high = (100 * bound for bound in learned.accuracy_ci)
  units: dict[str, Any] = {'compute_seconds': f's ({data.latency_is})', 'usd': 'USD', 'calls': 'call'}
  console = rich.console.Console(highlight=False, markup=False)
  console.print(
    f'{learned.llm}: learned from {learned.responses:,} responses; left out are {learned.on_test:,} to test queries of '
    f'the run and {learned.on_others:,} to queries that it does not use.\n'
    f'Accuracy {100 * learned.accuracy:.1f} % (95 %: {low:.1f} to {high:.1f}).\n'
    f'Log loss of its confidence, held out: {learned.log_loss:.3f}; of its accuracy alone: '
    f'{learned.log_loss_constant:.3f}.\n'
    f'A call is expected to take {learned.expected:.3g} {units[learned.cost_unit]}.\n'
    f'The estimates of the selector are counted on {learned.estimated_on}.\nSaved: {directory}'
  )
