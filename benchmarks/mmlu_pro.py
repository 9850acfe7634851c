"""What fine-tuning gains on MMLU-Pro over the frozen encoder, query by query.

Compared are the estimates of the frozen encoder, which the run has too, and a peer, scikit-learn's: one regression for
each LLM on the embedding of the question, or of the question with its options, and the category; its strength is chosen
on validation by log loss. Split, subsets, votes and test queries are those of the run.

  python -m selectllm.main --config=configs/mmlu_pro.py --config.encoder.freeze=false --workdir=runs/mmlu_pro
  python -m benchmarks.mmlu_pro --run=runs/mmlu_pro
"""

import argparse
import json
import pathlib
import time
from typing import NamedTuple

import ml_collections
import numpy as np
import rich.console
import scipy.special
from sklearn import linear_model

from selectllm.data import dataset, load, splits
from selectllm.evaluate import metrics, predictions, replay, results
from selectllm.models import inference, pretrained, sharding
from selectllm.models import options as model_options
from selectllm.report import tables
from selectllm.selection import baselines, policies, voting

SIZES = (1, 3, 5, 7)
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # scikit-learn's C
QUESTION_TOKENS = 128


class Rival(NamedTuple):
  """Confidences float[N, K] of a classifier, how it came to them, and in what time."""

  name: str
  confidences: np.ndarray
  seconds: float


def embed(config: ml_collections.ConfigDict, texts: list[str], max_length: int, num_llms: int) -> np.ndarray:
  """Unit vectors float32[N, D] of MiniLM as it was pretrained, whatever encoder the run fine-tuned."""
  config = ml_collections.ConfigDict(config)
  config.encoder.update(name=pretrained.DEFAULT, pooling='mean', dtype='float32', max_length=max_length)
  model = inference.make_model(model_options.from_config(config), num_llms)
  with sharding.use(model.mesh):
    return inference.unit(
      inference.cached_embeddings(model, model.tokenize(texts), batch_size=config.evaluate.batch_size)
    )


def log_loss(confidences: np.ndarray, responses: dataset.Responses, rows: np.ndarray) -> float:
  """Mean over the observed (query, LLM) pairs of some queries."""
  likely = np.clip(confidences[rows], 1e-6, 1 - 1e-6)
  losses = -np.where(responses.labels[rows] > 0.5, np.log(likely), np.log1p(-likely))
  return float(losses[responses.observed[rows]].mean())


def regression(name: str, features: np.ndarray, responses: dataset.Responses, split: np.ndarray) -> Rival:
  """Logistic regressions on train, as strong as suits validation."""
  train_rows, validation = (np.flatnonzero(split == part) for part in (splits.TRAIN, splits.VALIDATION))

  def fitted(strength: float) -> np.ndarray:
    confidences = np.zeros(responses.labels.shape)
    for column in range(responses.labels.shape[1]):
      rows = train_rows[responses.observed[train_rows, column]]
      model = linear_model.LogisticRegression(C=strength, max_iter=2000)
      model.fit(features[rows], responses.labels[rows, column])
      confidences[:, column] = model.predict_proba(features)[:, 1]
    return confidences

  losses = {strength: log_loss(fitted(strength), responses, validation) for strength in STRENGTHS}
  strength = min(losses, key=lambda value: losses[value])
  return Rival(f'{name}, C={strength:g}', fitted(strength), np.nan)


def correct(confidences: np.ndarray, responses: dataset.Responses, split: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """Whether weighted_max_conf is right on the queries `rows` at `SIZES`, float32[len(rows), M]."""
  latency_s = baselines.expected_latency_s(responses, split)
  selecting = policies.PolicyOptions(latency_s, np.array(SIZES, np.int32), 0.5)
  picked = policies.select_all(confidences[rows].astype(np.float32), responses.observed[rows], selecting)[
    'weighted_max_conf'
  ]
  priority = voting.tie_orders(confidences[rows].astype(np.float32), latency_s, ties='confident')
  replayed = replay.replay(responses.rows(rows), *picked, priority, over='majority')
  return np.asarray(replayed.metrics.correct)


def main() -> None:
  """Prints the comparison; see the module's description."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--run', required=True, type=pathlib.Path, help='run directory of configs/mmlu_pro.py')
  run = parser.parse_args().run
  config = ml_collections.ConfigDict(json.loads((run / 'config.json').read_text()))
  data, _ = load.load(config, config.dataset.name)
  predicted = predictions.read_predictions(run / 'predictions.npz')
  if not np.array_equal(predicted.query_ids, data.query_ids):
    parser.error(f'{run} was made of other data than there are now')
  if len(predicted.split) > 1:
    parser.error(f'{run} has {len(predicted.split)} folds; this benchmark takes a run with one split')
  responses, split = data.responses, predicted.split[0]
  seconds = results.load(run / 'report.json').timing.train_and_score_s or np.nan

  category = np.eye(len(data.tasks))[responses.task]
  texts = {'question': (list(data.questions), QUESTION_TOKENS)}
  if config.dataset.query_includes_options:
    texts['question and options'] = (data.queries, config.encoder.max_length)
  rivals = [
    Rival('selectllm, fine-tuned', predicted.confidences[0], seconds),
    Rival('selectllm, frozen', scipy.special.expit(predicted.estimates[0].logits), np.nan),
  ]
  for name, (queries, max_length) in texts.items():
    begun = time.monotonic()
    features = np.concatenate([embed(config, queries, max_length, len(data.llms)), category], axis=1)
    rival = regression(f'regression, {name} + category', features, responses, split)
    rivals.append(rival._replace(seconds=time.monotonic() - begun))

  console = rich.console.Console(width=200)
  for which, part in (('validation', splits.VALIDATION), ('test', splits.TEST)):
    rows = np.flatnonzero(split == part)
    right = [correct(rival.confidences, responses, split, rows) for rival in rivals]
    everywhere = np.ones(len(rows), bool)
    cells = []
    for rival, ours in zip(rivals, right, strict=True):
      line = [
        rival.name,
        '-' if np.isnan(rival.seconds) else f'{rival.seconds:.0f} s',
        f'{log_loss(rival.confidences, responses, rows):.4f}',
      ]
      for column in range(len(SIZES)):
        text = tables.percent(float(ours[:, column].mean()))
        if rival is not rivals[0]:
          (gain,) = metrics.compare_pairs(right[0][:, [column]], ours[:, [column]], everywhere[:, None])
          text += f'  {tables.gain(gain)}, {tables.gain_interval(gain)}'
        line.append(text)
      cells.append(line)
    header = ['classifier', 'time', 'log loss', *(f's={size} %, gain of ours' for size in SIZES)]
    console.print(tables.Table(header, cells).rich(f'weighted_max_conf on {len(rows):,} {which} queries'))


if __name__ == '__main__':
  main()
