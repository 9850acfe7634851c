"""The regressions on the frozen encoder's embeddings, cross-fitted and calibrated: seconds and memory on many queries.

  python -m benchmarks.large_features --save

The embeddings and labels are GENERATED: nothing about LLMs follows from them.
"""

import resource
import time

import numpy as np

from benchmarks import results
from selectllm.data import splits
from selectllm.infra import distributed
from selectllm.report import tables
from selectllm.selection import confidence

GOAL_S = 300
WIDTH = 384  # of MiniLM's embeddings


def main() -> None:
  """Prints the times; see the module's description."""
  parser = results.parser(__doc__)
  parser.add_argument('--queries', type=int, nargs='+', default=[10_000, 100_000])
  parser.add_argument('--llms', type=int, default=32)
  options = parser.parse_args()
  distributed.enable_compilation_cache()
  cells, random = [], np.random.default_rng(0)
  for count in options.queries:
    embeddings = random.standard_normal((count, WIDTH), np.float32) / WIDTH**0.5
    truth = 10 * embeddings @ random.standard_normal((WIDTH, options.llms), np.float32) / WIDTH**0.5
    labels = (random.random(truth.shape, np.float32) < 1 / (1 + np.exp(-truth))).astype(np.float32)
    split = np.where(np.arange(count) % 10, splits.TRAIN, splits.VALIDATION).astype(np.int8)
    queries = [f'How much is {place} times {place % 97}?' for place in range(count)]
    wall, processor = time.perf_counter(), time.process_time()
    confidence.fit(queries, embeddings, labels, np.ones(labels.shape, bool), split, seed=0)
    spent = time.perf_counter() - wall, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    cells.append([f'{count:,}', *(f'{seconds:.0f}' for seconds in spent), f'{peak:.1f}'])
  worst = int(cells[-1][1])
  results.publish(
    'Regressions on frozen embeddings',
    tables.Table(['queries', 'seconds', 'processor s', 'peak GB'], cells),
    [
      f'{cells[-1][0]} generated queries of {options.llms} LLMs: {worst} s; goal under {GOAL_S} s: '
      f'{"met" if worst < GOAL_S else "MISSED"}'
    ],
    save=options.save,
    packages=('jax', 'numpy', 'scipy'),
  )


if __name__ == '__main__':
  main()
