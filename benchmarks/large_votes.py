"""Evaluates generated votes under all policies and baselines: seconds and memory, by the number of queries.

    python -m benchmarks.large_votes [--queries 100000 1000000] [--llms 32] [--samples 10] [--save]

The votes are GENERATED: nothing about LLMs follows from them. Each number of queries runs in a process of its own,
which makes votes, confidences and embeddings in memory and then times `evaluator.evaluate`: what a report holds of
policies and baselines at all sizes, with intervals and paired tests. Scoring, strategies, texts and files are left out.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np

from benchmarks import results
from configs import common
from selectllm.data import dataset, splits
from selectllm.evaluate import context, evaluator
from selectllm.evaluate import options as options_lib
from selectllm.report import tables
from selectllm.selection import confidence, voting

GOAL_S, GOAL_QUERIES = 300.0, 1_000_000
_BLOCK = 20_000
_EMBEDDING = 384


def generate(queries: int, llms: int, samples: int) -> tuple[dataset.Dataset, np.ndarray, np.ndarray, np.ndarray]:
  """A table of generated votes with its split int8[N], confidences float32[N, K] and embeddings float32[N, D].

  Better LLMs are right more often, on easier queries more often still; wrong answers are of a few kinds, 2 % of the
  calls are missing, and confidences are noisy.
  """
  rng = np.random.default_rng(0)
  skill = np.linspace(-0.8, 1.2, llms, dtype=np.float32)
  seconds = rng.permutation(np.geomspace(0.5, 20, llms).astype(np.float32))
  data = dataset.Responses(
    answers=np.empty((queries, llms, samples), np.int16),
    majority=np.empty((queries, llms), np.int16),
    accepted=np.zeros((queries, 1), np.int16),
    labels=np.empty((queries, llms), np.float32),
    observed=np.empty((queries, llms), bool),
    latency_s=np.empty((queries, llms), np.float32),
    cost_usd=np.empty((queries, llms), np.float32),
    completion_tokens=np.full((queries, llms), np.nan, np.float32),
    task=np.zeros(queries, np.int16),
  )
  confidences, embeddings = np.empty((queries, llms), np.float32), np.empty((queries, _EMBEDDING), np.float32)
  for start in range(0, queries, _BLOCK):
    rows = slice(start, min(start + _BLOCK, queries))
    shape = data.labels[rows].shape
    ease = skill + rng.standard_normal((len(data.labels[rows]), 1), np.float32)
    ease = ease + 0.7 * rng.standard_normal(shape, np.float32)
    right = rng.random((*shape, samples), np.float32) < 1 / (1 + np.exp(-ease))[..., None]
    seen = data.observed[rows] = rng.random(shape, np.float32) < 0.98
    answers = np.where(right, np.int16(0), rng.integers(-1, 6, right.shape, np.int16))
    data.answers[rows] = np.where(seen[..., None], answers, np.int16(voting.NO_ANSWER))
    data.majority[rows] = dataset.majorities(data.answers[rows])
    data.labels[rows] = data.majority[rows] == 0
    data.latency_s[rows] = np.where(seen, seconds * (0.5 + rng.random(shape, np.float32)), np.nan)
    confidences[rows] = 1 / (1 + np.exp(-ease - 0.5 * rng.standard_normal(shape, np.float32)))
    vectors = rng.standard_normal((shape[0], _EMBEDDING), np.float32)
    embeddings[rows] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
  data.cost_usd[:] = data.latency_s * 1e-3
  table = dataset.Dataset(
    name='generated votes',
    llms=tuple(f'llm-{llm}' for llm in range(llms)),
    tasks=('',),
    query_ids=[str(query) for query in range(queries)],
    queries=[''] * queries,
    responses=data,
    latency_is='estimated',
  )
  parts = np.array([splits.TRAIN, splits.VALIDATION, splits.TEST], np.int8)
  split = rng.choice(parts, queries, p=[0.7, 0.1, 0.2])
  return table, split, confidences, embeddings


def _peak_gb() -> float:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(queries: int, llms: int, samples: int) -> dict[str, float]:
  """Seconds of the evaluation, the process's peak memory in GB, and how much of it the input takes."""
  table, split, confidences, embeddings = generate(queries, llms, samples)
  options = options_lib.evaluate_config(common.get_config())
  arrays = (*table.responses, split, confidences, embeddings)
  wall, processor = time.perf_counter(), time.process_time()
  estimates = [confidence.TEMPLATE]  # strategies alone look at them
  run = context.RunContext(table, split[None], confidences[None], estimates, embeddings, options)
  evaluation = evaluator.evaluate([run])
  return {
    'seconds': time.perf_counter() - wall,
    'processor_s': time.process_time() - processor,
    'peak_gb': _peak_gb(),
    'input_gb': sum(array.nbytes for array in arrays) / 2**30,
    'methods': len(evaluation.methods),
  }


def main(argv: list[str] | None = None) -> None:
  """Measures each number of queries and prints the table."""
  parser = results.parser(__doc__)
  parser.add_argument('--queries', type=int, nargs='+', default=[100_000, GOAL_QUERIES])
  parser.add_argument('--llms', type=int, default=32)
  parser.add_argument('--samples', type=int, default=10)
  parser.add_argument('--one', type=int, help=argparse.SUPPRESS)  # measures here, and prints JSON
  options = parser.parse_args(argv)
  if options.one:
    print(json.dumps(measure(options.one, options.llms, options.samples)))
    return
  measured = {}
  for queries in sorted(options.queries):
    command = [sys.executable, '-m', 'benchmarks.large_votes', '--one', str(queries)]
    command += ['--llms', str(options.llms), '--samples', str(options.samples)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    measured[queries] = json.loads(output.splitlines()[-1])
  table = tables.Table(
    ['queries', 'methods', 'seconds', 'processor seconds', 'peak memory, GB', 'of which input, GB'],
    [
      [
        f'{queries:,}', f'{of["methods"]}', f'{of["seconds"]:.0f}', f'{of["processor_s"]:.0f}', f'{of["peak_gb"]:.1f}',
        f'{of["input_gb"]:.1f}',
      ]
      for queries, of in measured.items()
    ],
  )  # fmt: skip
  fewest, most = min(measured), max(measured)
  growth = measured[most]['seconds'] / measured[fewest]['seconds']
  ratios = [f'{most / fewest:.0f} times the queries take {growth:.1f} times the seconds']
  if GOAL_QUERIES in measured:
    seconds = measured[GOAL_QUERIES]['seconds']
    met = 'met' if seconds < GOAL_S else 'missed'
    ratios.append(f'{GOAL_QUERIES:,} queries: {seconds:.0f} s; goal: under {GOAL_S:.0f} s on 2 cores: {met}')
  notes = [
    f'GENERATED votes of {options.llms} LLMs x {options.samples} samples; 70 % train, 10 % validation, 20 % test. All '
    'policies and baselines at all sizes, intervals and paired tests; scoring, strategies, texts and files left out.'
  ]
  results.publish('Evaluating large votes', table, ratios, save=options.save, packages=('jax', 'numpy'), notes=notes)


if __name__ == '__main__':
  main()
