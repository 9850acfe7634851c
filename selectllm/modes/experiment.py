"""The modes of the main job: the road from responses to a report."""

import contextlib
import dataclasses
import itertools
import json
import logging
import pathlib
import time
from typing import Any

import ml_collections
import msgspec
import numpy as np

from selectllm import config as config_lib
from selectllm.data import dataset, load, splits
from selectllm.evaluate import (
  assemble,
  context,
  error_analysis,
  evaluator,
  predictions,
  replay,
  results,
  strategies,
  tradeoff,
)
from selectllm.evaluate import options as evaluate_options
from selectllm.infra import distributed, metric_writer, paths, run_dir
from selectllm.modes import scoring
from selectllm.report import browser, report
from selectllm.selection import pseudo_labels
from selectllm.serve import selector

_LOG = logging.getLogger(__name__)

# Where the report of an earlier evaluation is while a new one is made.
_EARLIER = 'report.json.earlier'


def train_and_evaluate(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Trains (or goes on training), scores all queries and writes the report; with folds, once for each fold."""
  data = load_table(config, workdir)
  begun = time.monotonic()
  predicted = _predict(config, workdir, data, trains=True)
  _report(config, workdir, data, predicted, {'train_and_score_s': time.monotonic() - begun})


def evaluate_only(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Writes a run's report again: from predictions.npz in seconds, else from its best checkpoint."""
  data = load_table(config, workdir)
  _report(config, workdir, data, _predict(config, workdir, data, trains=False), {})


def load_table(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dataset.Dataset:
  """Reads the data set of a run.

  Raises:
    run_dir.RunDirError: when the run directory began with other data.
    ValueError: when the processes of a job found other data.
  """
  data, identity = load.load(config, run_dir.begun_with(workdir))
  distributed.check_same('the data', identity)
  if distributed.is_first():
    run_dir.claim_data(workdir, identity)
  if data.in_place_of:
    taken = ', '.join(config_lib.train_like(config, identity['name']))
    _LOG.info('%s brings its own training settings: %s', data.name, taken or 'none but those given')
  if config.tradeoff.strategies and data.responses.has_answers:
    # Refuses, before anything is done, what is not known.
    evaluate_options.cost_unit_of(data.responses, config.tradeoff.cost_unit)
  return pseudo_labels.label(data, _split(config, data)[0]) if config.dataset.labels == 'agreement' else data


def _split(config: ml_collections.ConfigDict, data: dataset.Dataset) -> np.ndarray:
  """Makes one split, or one for each fold, int8[F, N]; refuses those of which a part is empty."""
  options = config.dataset
  shares = {'validation': options.validation_share, 'test': options.test_share}
  if options.split == 'published':
    folds = [splits.published(data.published_split, data.query_ids)]
  else:
    folds = [
      splits.assign(data.questions, seed=options.split_seed, folds=options.folds, fold=fold, **shares)
      for fold in range(max(1, options.folds))
    ]
  folds = [
    splits.thin_train(part, data.questions, share=options.train_share, seed=options.split_seed) for part in folds
  ]
  for part in folds:
    for which, name in enumerate(splits.NAMES):
      if not (part == which).any():
        raise ValueError(f'the {name} split is empty: none of the {len(data.queries):,} queries falls into it')
  return np.stack(folds)


def _predict(
  config: ml_collections.ConfigDict, workdir: pathlib.Path, data: dataset.Dataset, *, trains: bool
) -> list[predictions.Predictions]:
  """Scores all queries with each seed; or, where nothing is trained, reads what was predicted if it is there."""
  predicted = []
  for place in range(config.seeds):
    directory = workdir / f'seed_{place}' if place else workdir
    directory.mkdir(exist_ok=True)
    path = directory / 'predictions.npz'
    if not trains and distributed.broadcast_from_first(path.exists()):
      predicted.append(predictions.read_predictions(path))
      continue
    split = _split(config, data)
    for part in split:
      _check_labels(data, part == splits.TRAIN)
    seeded = config.copy_and_resolve_references()
    seeded.seed += place
    if predicted:  # one decision for all seeds: else their spread would be that of two encoders
      seeded.encoder.freeze = 'true' if predicted[0].encoder_choice().frozen else 'false'
    predicted.append(scoring.predict(seeded, directory, data, split, trains=trains))
  return predicted


def _check_labels(data: dataset.Dataset, train_rows: np.ndarray) -> None:
  """Refuses an LLM that answered no training query; of one that is right on all or none, says what becomes of it."""
  silent = []
  for column, llm in enumerate(data.llms):
    labels = data.responses.labels[train_rows, column][data.responses.observed[train_rows, column]]
    if not len(labels):
      silent.append(llm)
    elif labels.min() == labels.max():
      _LOG.warning(
        '%s is %s on all %d training queries that it answered: there is nothing to learn about when',
        llm, 'right' if labels[0] >= 0.5 else 'wrong', len(labels),
      )  # fmt: skip
  if silent:
    raise ValueError(
      f'{", ".join(silent)} answered none of the {int(train_rows.sum())} training queries: leave it out '
      '(--config.pool.llms=...) or give more queries'
    )


def _report(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  data: dataset.Dataset,
  seeds: list[predictions.Predictions],
  timing: dict[str, Any],
) -> None:
  """Evaluates what was predicted, and writes it down with the selector: the first process does."""
  distributed.restore_sigterm()  # there is nothing left to save
  if not distributed.is_first():
    return
  begun = time.monotonic()
  options, predicted = evaluate_options.evaluate_config(config), seeds[0]
  runs = [context.RunContext(data, of.split, of.confidences, of.estimates, of.embeddings, options) for of in seeds]
  run = runs[0]
  compared = [_compare_strategies(config, of, config.seed + place) for place, of in enumerate(runs)]
  folds, summary, _ = compared[0]
  evaluation = evaluator.evaluate(runs, [chosen for *_, chosen in compared])
  cases = error_analysis.gather(run, evaluation)
  timing = _earlier_timing(workdir) | timing
  classifier_latency_s = float(predicted.classifier_latency_s)
  found = assemble.assemble(
    run,
    evaluation,
    cases,
    tradeoff=summary,
    encoder=predicted.encoder_choice(),
    tokens=predicted.tokens,
    truncated=int(predicted.truncated),
    labels=config.dataset.labels,
    timing=results.Timing(classifier_latency_s, 0.0, timing.get('train_and_score_s')),
  )
  spent = msgspec.structs.replace(found.timing, evaluate_s=time.monotonic() - begun)
  found = msgspec.structs.replace(found, timing=spent)
  listed = error_analysis.listing(data, cases, config.evaluate.vote)
  # All that can fail has been computed: from here on, files are replaced.
  _retire_report(workdir)
  if len(folds) == 1:  # with folds there is no one selector
    selector.save(workdir / 'selector', config, data, folds[0], classifier_latency_s)
  predictions.save(workdir / 'outcomes.npz', evaluation.outcomes)
  browser.write(workdir / 'queries.html', found.dataset.title, listed)
  report.write(workdir, found)
  (workdir / _EARLIER).unlink(missing_ok=True)


def _earlier_timing(workdir: pathlib.Path) -> dict[str, Any]:
  """Returns the timing of an earlier evaluation, which alone knows that of the training; nothing without one."""
  reports = [path for name in ('report.json', _EARLIER) if (path := workdir / name).exists()]
  return json.loads(reports[0].read_text())['timing'] if reports else {}


def _retire_report(workdir: pathlib.Path) -> None:
  """Moves the report of an earlier evaluation aside, and keeps it until the new one is written.

  Where there is a report.json, all that lies beside it is of the same evaluation, also after a kill in between.
  """
  if (current := workdir / 'report.json').exists():
    current.replace(workdir / _EARLIER)


def _compare_strategies(
  config: ml_collections.ConfigDict, run: context.RunContext, seed: int
) -> tuple[list[strategies.FoldResult], results.Tradeoff | None, dict[str, replay.QueryMetrics]]:
  """Fits and replays what chooses calls past the paper's policies; nothing for scores, or without strategies.

  Returns:
    Each fold's result; the trade-off that reports show; each strategy's metrics on all test queries.
  """
  if not config.tradeoff.strategies or not run.data.responses.has_answers:
    return [], None, {}
  options = dataclasses.replace(evaluate_options.TradeoffOptions.from_config(config, run.data.responses), seed=seed)
  progress = metric_writer.Progress('Fits of strategies', strategies.FITS * len(run.split))
  done = itertools.count(1)
  folds = [
    strategies.fit_and_replay(
      run.data, fold.split, fold.estimates, run.embeddings, options, told=lambda: progress.update(next(done))
    )
    for fold in run.folds()
  ]
  progress.close()
  chosen = tradeoff.best(folds)
  summary = tradeoff.summarise(run.data, folds, chosen, options)
  return folds, summary, {name: each.metrics for name, each in chosen.items()}


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Runs the mode of a config in a run directory.

  Raises:
    ValueError: for invalid options.
    run_dir.RunDirError: when the directory holds another run, or is in use.
  """
  config_lib.check_options(config)
  config = config.copy_and_resolve_references()  # data that take another's place change it
  if config.profile and paths.is_remote(workdir):
    raise ValueError(f'config.profile=True: traces need a --workdir on a disk, not {workdir}')
  if config.mode == 'evaluate' and not (workdir / 'config.json').exists():
    raise FileNotFoundError(f'{workdir} holds no run to evaluate; name the --workdir of one')
  if config.mesh.distributed:
    distributed.join_job()
  with contextlib.ExitStack() as held:
    held.enter_context(distributed.exit_on_error())
    if distributed.is_first():
      held.enter_context(run_dir.lock(workdir))
      run_dir.claim(workdir, config)
    distributed.barrier('claimed')
    distributed.check_same('the configs', run_dir.own_fields(run_dir.flatten(config.to_dict())))
    _LOG.info('Run directory: %s', workdir)
    (evaluate_only if config.mode == 'evaluate' else train_and_evaluate)(config, workdir)
