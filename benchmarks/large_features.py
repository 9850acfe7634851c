"""A training epoch of a head on the frozen, cached features of a million generated queries, and where its time goes.

  python -m benchmarks.large_features --save

The features, labels and lengths are GENERATED: nothing is learned from them but the time that it takes.
"""

import pathlib
import resource
import tempfile
import time
import unittest.mock

import numpy as np

from benchmarks import results
from configs import gsm8k
from selectllm.data import dataset, splits
from selectllm.infra import distributed
from selectllm.models import inference, sharding, tokenizer
from selectllm.models import options as model_options
from selectllm.report import tables
from selectllm.train import loop
from selectllm.train import options as train_options

GOAL_S = 300


def generated(count: int, width: int, llms: int) -> tuple[np.ndarray, tokenizer.Tokens, dataset.Responses, np.ndarray]:
  """Features float32[N, D], tokens that have lengths only, votes that have labels only, a split."""
  random = np.random.default_rng(0)
  features = random.standard_normal((count, width), np.float32)
  offsets = np.concatenate([[0], random.integers(20, 120, count).cumsum()])
  tokens = tokenizer.Tokens(np.zeros(0, np.int32), offsets, 0)
  labels = random.integers(0, 2, (count, llms)).astype(np.float32)
  nothing = np.zeros(0)
  data = dataset.Responses(nothing, nothing, nothing, labels, np.ones(labels.shape, bool), *[nothing] * 4)
  split = np.where(np.arange(count) % 10 == 0, splits.VALIDATION, splits.TRAIN).astype(np.int8)
  return features, tokens, data, split


def main() -> None:
  """Prints the times; see the module's description."""
  parser = results.parser(__doc__)
  parser.add_argument('--queries', type=int, default=1_000_000)
  parser.add_argument('--llms', type=int, default=32)
  options = parser.parse_args()
  distributed.enable_compilation_cache()
  config = gsm8k.get_config()
  config.encoder.freeze, config.train.epochs, config.train.log_every_steps = True, 1, 1000
  cells = []
  for batch_size in (32, 1024):
    config.train.batch_size = batch_size
    model = inference.make_model(model_options.from_config(config), options.llms)
    width = int(model.params['head']['kernel'].shape[0])
    features, tokens, data, split = generated(options.queries, width, options.llms)
    with (
      tempfile.TemporaryDirectory() as workdir,
      sharding.use(model.mesh),
      unittest.mock.patch.object(inference, 'cached_embeddings', return_value=features),
    ):
      begun = time.perf_counter()
      loop.fit(train_options.from_config(config), model, tokens, data, split, pathlib.Path(workdir))
      seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    cells.append([str(batch_size), f'{seconds:.0f}', f'{0.9 * options.queries / seconds:,.0f}', f'{peak:.1f}'])
  table = tables.Table(['batch size', 'seconds an epoch, validation included', 'queries/s', 'peak GB'], cells)
  worst = max(int(row[1]) for row in cells)
  verdict = 'met' if worst < GOAL_S else 'MISSED'
  results.publish(
    'Training on frozen features',
    table,
    [f'{options.queries:,} generated queries: at most {worst} s an epoch; goal under {GOAL_S} s: {verdict}'],
    save=options.save,
    packages=('jax', 'grain'),
  )


if __name__ == '__main__':
  main()
