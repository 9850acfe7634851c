"""What it costs to have no references: labels from the pool's own agreement against true ones, judged by the truth.

On the queries of a finished run, both kinds of labels teach the same logistic regressions on the pretrained encoder's
embeddings (`selectllm.selection.confidence.fit_probe`), as strong as suits validation; weighted_max_conf then selects
and votes on the test queries, whose references are true.

  python -m benchmarks.agreement --run=runs/mmlu_pro --manual_dir=FOLDER
"""

import argparse
import json
import pathlib

import ml_collections
import numpy as np
import rich.console

from selectllm.data import dataset, load, splits
from selectllm.evaluate import metrics, predictions, replay
from selectllm.report import tables
from selectllm.selection import baselines, confidence, policies, pseudo_labels, voting

SIZES = (1, 3)
RIDGES = (0.3, 1.0, 3.0, 10.0, 30.0)


def confidences(responses: dataset.Responses, embeddings: np.ndarray, split: np.ndarray) -> np.ndarray:
  """Confidences of all queries, float32[N, K], learned from the labels on train."""
  inputs = np.append(embeddings, np.ones((len(embeddings), 1)), 1).astype(np.float32)
  train, validation = split == splits.TRAIN, split == splits.VALIDATION

  def loss(logits: np.ndarray) -> float:
    losses = np.logaddexp(0, logits) - responses.labels * logits
    return float(losses[validation][responses.observed[validation]].mean())

  fitted = [
    inputs @ confidence.fit_probe(inputs[train], responses.labels[train], responses.observed[train], r) for r in RIDGES
  ]
  return 1 / (1 + np.exp(-min(fitted, key=loss)))


def correct(chances: np.ndarray, responses: dataset.Responses, split: np.ndarray) -> np.ndarray:
  """Whether weighted_max_conf is right on the test queries at `SIZES`, float32[T, M]."""
  rows, latency_s = np.flatnonzero(split == splits.TEST), baselines.expected_latency_s(responses, split)
  selecting = policies.PolicyOptions(latency_s, np.array(SIZES, np.int32), 0.5)
  picked = policies.select_all(chances[rows].astype(np.float32), responses.observed[rows], selecting)[
    'weighted_max_conf'
  ]
  priority = voting.tie_orders(chances[rows].astype(np.float32), latency_s, ties='confident')
  replayed = replay.replay(responses.rows(rows), *picked, priority, over='majority')
  return np.asarray(replayed.metrics.correct)


def main() -> None:
  """Prints the comparison; see the module's description."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--run', required=True, type=pathlib.Path, help='directory of a finished run; folds are welcome')
  parser.add_argument('--manual_dir', default='', help='where the published files lie; empty to download them')
  options = parser.parse_args()
  config = ml_collections.ConfigDict(json.loads((options.run / 'config.json').read_text()))
  config.dataset.manual_dir = options.manual_dir or config.dataset.manual_dir
  data, _ = load.load(config, config.dataset.name)
  predicted = predictions.read_predictions(options.run / 'predictions.npz')
  if not np.array_equal(predicted.query_ids, data.query_ids):
    parser.error(f'{options.run} was made of other data than there are now')
  responses, right = data.responses, {'references': [], 'agreement': []}
  for split in predicted.split:
    taught = {'references': responses, 'agreement': pseudo_labels.label(data, split).responses}
    for name, labelled in taught.items():
      right[name].append(correct(confidences(labelled, predicted.embeddings, split), responses, split))
  joined = {name: np.concatenate(parts) for name, parts in right.items()}
  cells = []
  everywhere = np.ones(joined['agreement'].shape, bool)
  gains = metrics.compare_pairs(joined['agreement'], joined['references'], everywhere)
  for column, size in enumerate(SIZES):
    means = [tables.percent(float(joined[name][:, column].mean())) for name in ('references', 'agreement')]
    cells.append([str(size), *means, tables.gain(gains[column])])
  console = rich.console.Console(width=120)
  header = ['s', 'taught by references %', 'taught by agreement %', 'difference']
  console.print(tables.Table(header, cells).rich(f'weighted_max_conf on {len(everywhere):,} test queries'))
  known = (responses.accepted >= 0).any(1)
  agreed = dataset.is_right(pseudo_labels.pseudo_reference(responses), responses.accepted)
  console.print(
    f'The weighted vote of all LLMs is right on {tables.percent(float(agreed[known].mean()))} % of all queries.'
  )


if __name__ == '__main__':
  main()
