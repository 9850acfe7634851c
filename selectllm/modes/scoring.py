"""Makes the classifier of each split and scores all queries: from a data set to what a report is written from."""

import logging
import math
import pathlib
import time

import jax
import ml_collections
import msgspec
import numpy as np
import scipy.special
from flax import nnx

from selectllm.data import dataset, splits
from selectllm.evaluate import predictions, results
from selectllm.infra import distributed
from selectllm.models import inference, sharding, tokenizer
from selectllm.models import options as model_options
from selectllm.selection import baselines, calibration, confidence, policies
from selectllm.train import loop
from selectllm.train import options as train_options

_LOG = logging.getLogger(__name__)

# Queries that the classifier's own latency is the median of, and that fine-tuning is foreseen from.
_TIMED = 20
# Fine-tuning on a CPU is tried without being asked for where it is foreseen to take less than this.
MOST_FINE_TUNING_S = 120.0
# A step of fine-tuning takes about as long as so many forward passes: three to compute, one for all else.
_PASSES = 4


def predict(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  data: dataset.Dataset,
  split: np.ndarray,
  *,
  trains: bool,
) -> predictions.Predictions:
  """Scores all queries with the classifier of each split, and keeps what the report is made of.

  Args:
    config: The run's.
    workdir: Takes checkpoints and predictions.npz.
    data: The data set.
    split: int8[F, N].
    trains: Whether a classifier may be trained; else what an earlier training left is loaded.
  """
  model = inference.make_model(model_options.from_config(config), len(data.llms))
  tokens = model.tokenize(data.queries)
  if tokens.truncated:
    _LOG.warning(
      '%d of %d queries are longer than %d tokens; their ends were cut off',
      tokens.truncated, len(data.queries), model.tokenize.max_length,
    )  # fmt: skip
  batch_size, responses = config.evaluate.batch_size, data.responses
  with sharding.use(model.mesh):
    embeddings = inference.unit(inference.cached_embeddings(model, tokens, batch_size=batch_size))
    estimates = [
      confidence.fit(
        data.queries, embeddings, responses.labels, responses.observed, part,
        seed=config.seed, questions=data.questions,
      )
      for part in split
    ]  # fmt: skip
    frozen = np.stack([scipy.special.expit(of.logits) for of in estimates])
    choice, params, confidences = results.EncoderChoice(True, config.encoder.freeze), None, frozen
    tries, foreseen_s = _tries_fine_tuning(config, workdir, model, data, split, trains)
    if tries:
      params, tuned = _fine_tune(config, workdir, model, tokens, data, split, trains)
      choice = _choose(config, responses, split, frozen, tuned)
      confidences = frozen if choice.frozen else tuned
    choice = msgspec.structs.replace(choice, foreseen_s=foreseen_s)
    _LOG.info('Encoder: %s', choice.sentence())
    latency_s = np.stack([baselines.expected_latency_s(responses, part) for part in split])
    selecting = policies.PolicyOptions(latency_s[-1], baselines.sizes_of(responses), config.evaluate.threshold)
    scorer = inference.Scorer(model, estimates[-1].estimator if choice.frozen else None, params)
    predicted = predictions.Predictions(
      query_ids=np.array(data.query_ids),
      llms=np.array(data.llms),
      split=split,
      confidences=confidences,
      estimates=estimates,
      encoder=np.array(msgspec.json.encode(choice).decode()),
      labels=responses.labels,
      observed=responses.observed,
      embeddings=embeddings,
      latency_s=latency_s,
      tokens=tokens.lengths,
      truncated=np.array(tokens.truncated),
      classifier_latency_s=np.array(inference.time_one_query(scorer, data.queries[:_TIMED], selecting)),
    )
  if distributed.is_first():
    predictions.save(workdir / 'predictions.npz', predicted)
  return predicted


def _directory(workdir: pathlib.Path, fold: int, folds: int) -> pathlib.Path:
  return workdir / f'fold_{fold}' if folds > 1 else workdir


def _tries_fine_tuning(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  model: inference.Model,
  data: dataset.Dataset,
  split: np.ndarray,
  trains: bool,
) -> tuple[bool, float | None]:
  """Tells whether the encoder is fine-tuned: as asked, or where it takes little time or there is an accelerator.

  Returns:
    That, the same in all processes; and the seconds that it is foreseen to take, None where they do not matter.
  """
  if config.encoder.freeze != 'auto':
    return config.encoder.freeze == 'false', None
  begun = any((_directory(workdir, fold, len(split)) / 'checkpoints').exists() for fold in range(len(split)))
  if distributed.broadcast_from_first(begun):
    return True, None
  if trains and jax.default_backend() != 'cpu':
    return True, None
  foreseen_s = _foresee_s(config, model, data, split)
  tries = trains and foreseen_s < MOST_FINE_TUNING_S
  return tries, None if tries else foreseen_s


def _foresee_s(
  config: ml_collections.ConfigDict, model: inference.Model, data: dataset.Dataset, split: np.ndarray
) -> float:
  """Foresees the seconds of fine-tuning with all seeds, from those that it takes to embed some queries."""
  tokens = model.tokenize(data.queries[:: max(1, len(data.queries) // _TIMED)])
  seconds = []
  for _ in range(3):  # the first time round compiles
    before = time.perf_counter()
    inference.embed(model, tokens, batch_size=config.train.batch_size)
    seconds.append(time.perf_counter() - before)
  trained, validated = np.sum(split == splits.TRAIN), np.sum(split == splits.VALIDATION)
  passes = config.seeds * config.train.epochs * (_PASSES * trained + validated)
  return distributed.number_from_first(float(min(seconds[1:]) / len(tokens.lengths) * passes))


def _fine_tune(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  model: inference.Model,
  tokens: tokenizer.Tokens,
  data: dataset.Dataset,
  split: np.ndarray,
  trains: bool,
) -> tuple[nnx.State, np.ndarray]:
  """Trains (or goes on training) the classifier of each split, or loads it, and scores validation and test with it.

  Returns:
    The parameters of the last one; confidences float32[F, N, K], NaN on all other queries: predictions on training
    queries are overfit, so they are not computed.
  """
  confidences = np.full((len(split), *data.responses.labels.shape), np.nan, np.float32)
  for fold, part in enumerate(split):
    directory = _directory(workdir, fold, len(split))
    directory.mkdir(exist_ok=True)
    wanted = train_options.from_config(config)
    if trains:
      step, params = loop.fit(wanted, model, tokens, data.responses, part, directory)
    else:
      step, params = loop.load_best(wanted, model, directory)
    rows = np.flatnonzero((part == splits.VALIDATION) | (part == splits.TEST))
    _LOG.info('Scoring %d queries with the classifier of step %d', len(rows), step)
    confidences[fold, rows] = inference.score_queries(
      model, params, tokens, rows, data.responses.observed[rows], batch_size=config.evaluate.batch_size
    ).confidences
  return params, confidences


def _choose(
  config: ml_collections.ConfigDict,
  responses: dataset.Responses,
  split: np.ndarray,
  frozen: np.ndarray,
  tuned: np.ndarray,
) -> results.EncoderChoice:
  """Chooses the fine-tuned encoder where asked to, or where its log loss on validation is clearly lower.

  Clearly: by more than a standard error of the mean difference, query by query. (The frozen encoder's estimates there
  are out of fold; the fine-tuned one's checkpoint was chosen by these queries.)
  """
  counted = (split == splits.VALIDATION)[:, :, None] & responses.observed
  labels, queries = np.broadcast_to(responses.labels, frozen.shape), counted.any(-1)
  of_calls = (calibration.log_losses(confidence.log_odds(np.where(counted, of, 0.5)), labels) for of in (frozen, tuned))
  losses = [np.sum(each, -1, where=counted)[queries] / counted.sum(-1)[queries] for each in of_calls]
  gains = losses[0] - losses[1]
  clearly = bool(gains.mean() > gains.std() / math.sqrt(len(gains)))
  keeps = config.encoder.freeze == 'auto' and not clearly
  return results.EncoderChoice(keeps, config.encoder.freeze, None, *(float(of.mean()) for of in losses))
