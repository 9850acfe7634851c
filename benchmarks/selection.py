"""Selection and vote: from confidences and answers of many queries to elected answers, against loops and numpy.

    python -m benchmarks.selection [--repeats 5] [--save]

One policy (`weighted_max_conf`), each LLM's majority answer, ties by latency, by `voting.elect`; and the same by
Python loops over queries, as the paper's authors publish it, and by vectorised numpy, on one thread and on as many as
there are cores. All give the same answers, or the benchmark fails. Loops are timed on a few queries only.
"""

import collections
import concurrent.futures
import os
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import results
from selectllm.report import tables
from selectllm.selection import voting

# Queries, LLMs, samples, and how many LLMs are called.
CASES = (
  (1_000_000, 7, 1, 3),
  (1_000_000, 7, 10, 3),
  (1_000_000, 32, 1, 5),
  (200_000, 32, 10, 5),
  (10_000, 1024, 10, 5),
  (100_000, 1024, 1, 5),
  (10_000_000, 7, 1, 3),
)
GOAL_LOOPS, GOAL_NUMPY = 100.0, 2.0
_LOOPED = 300
_NUMPY_ROWS = 2048
_NONE = -1


class Queries(NamedTuple):
  """Confidences float32[N, K], answers int16[N, K, S], available bool[N, K] and expected latencies float32[K]."""

  confidences: np.ndarray
  answers: np.ndarray
  available: np.ndarray
  latency_s: np.ndarray

  def rows(self, rows: slice) -> 'Queries':
    """Some of the queries."""
    return Queries(self.confidences[rows], self.answers[rows], self.available[rows], self.latency_s)


def make(queries: int, llms: int, samples: int) -> Queries:
  """Random queries. Confidences are multiples of 2^-16: they tie now and then, and add up without rounding."""
  rng = np.random.default_rng(0)
  return Queries(
    rng.integers(0, 1 << 16, (queries, llms), np.uint16).astype(np.float32) / (1 << 16),
    rng.integers(_NONE, 5, (queries, llms, samples), np.int16),
    rng.random((queries, llms), np.float32) < 0.98,
    rng.permutation(np.linspace(0.5, 20, llms).astype(np.float32)),
  )


def by_loops(of: Queries, size: int) -> list[int]:
  """Query by query: sort the LLMs, count each one's samples, add up the votes."""
  elected = []
  latency_s = of.latency_s.tolist()
  for confidences, answers, available in zip(of.confidences, of.answers, of.available, strict=True):
    confidence = confidences.tolist()
    llms = sorted(
      (llm for llm, there in enumerate(available.tolist()) if there), key=lambda llm: (-confidence[llm], latency_s[llm])
    )[:size]
    support: dict[int, float] = collections.defaultdict(float)
    fastest: dict[int, float] = {}
    for llm in llms:
      given = [answer for answer in answers[llm].tolist() if answer != _NONE]
      if not given:
        continue
      most, running = max(collections.Counter(given).values()), collections.Counter[int]()
      for own in given:
        running[own] += 1
        if running[own] == most:
          break
      support[own] += confidence[llm]
      fastest[own] = min(fastest.get(own, np.inf), latency_s[llm])
    elected.append(min(support, key=lambda answer: (-support[answer], fastest[answer]), default=_NONE))
  return elected


def _numpy_block(of: Queries, size: int) -> np.ndarray:
  confidence = np.where(of.available, of.confidences, -1)
  llms = np.argpartition(-confidence, size - 1, axis=1)[:, :size]
  weight = np.take_along_axis(confidence, llms, 1)
  # Where the last confidence is found once more outside, the faster LLM is called: sorted in full, there alone.
  tied = np.flatnonzero((confidence >= weight.min(1, keepdims=True)).sum(1) > size)
  if len(tied):
    order = np.argsort(of.latency_s, kind='stable')
    llms[tied] = order[np.argsort(-confidence[tied][:, order], axis=1, kind='stable')[:, :size]]
    weight[tied] = np.take_along_axis(confidence[tied], llms[tied], 1)
  answers = np.take_along_axis(of.answers, llms[:, :, None], 1)
  own, most = np.full(llms.shape, _NONE, np.int16), np.zeros(llms.shape, np.int8)
  for sample in range(answers.shape[2]):
    answer = answers[:, :, sample]
    reached = (answers[:, :, : sample + 1] == answer[:, :, None]).sum(2, dtype=np.int8)
    better = (reached > most) & (answer != _NONE)
    own[better], most[better] = answer[better], reached[better]
  cast = (own != _NONE) & (weight >= 0)
  weight = np.where(cast, weight, 0)
  support = np.zeros(llms.shape, np.float32)
  for place in range(size):
    support += weight[:, place, None] * (own == own[:, place, None])
  support[~cast] = -np.inf
  latency_s = np.where(support >= support.max(1, keepdims=True), of.latency_s[llms], np.inf)
  winner = np.take_along_axis(own, latency_s.argmin(1)[:, None], 1)[:, 0]
  return np.where(cast.any(1), winner, _NONE)


def by_numpy(of: Queries, size: int, threads: int) -> np.ndarray:
  """All queries of a block at once, in blocks that fit a processor's cache."""
  blocks = [of.rows(slice(start, start + _NUMPY_ROWS)) for start in range(0, len(of.answers), _NUMPY_ROWS)]
  if threads == 1:
    return np.concatenate([_numpy_block(block, size) for block in blocks])
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    return np.concatenate(list(pool.map(lambda block: _numpy_block(block, size), blocks)))


def ours(of: Queries, size: int) -> np.ndarray:
  """What is measured."""
  return voting.elect(*of, policy='weighted_max_conf', size=size, ties='fastest')


def _seconds(function: Callable[[], object]) -> float:
  begun = time.perf_counter()
  function()
  return time.perf_counter() - begun


def bytes_per_second(repeats: int) -> float:
  """How fast all cores together read memory: the sum of an array that no cache holds."""
  array, total = jnp.ones(1 << 26, jnp.float32), jax.jit(jnp.sum)
  total(array).block_until_ready()
  return array.nbytes / min(_seconds(lambda: total(array).block_until_ready()) for _ in range(repeats))


def measure(case: tuple[int, int, int, int], repeats: int, cores: int) -> tuple[float, dict[str, float]]:
  """The bytes of one case's inputs, and the median microseconds per query of each way."""
  queries, llms, samples, size = case
  of = make(queries, llms, samples)
  few = of.rows(slice(_LOOPED))
  elected = ours(of, size)
  np.testing.assert_array_equal(by_numpy(of, size, cores), elected)
  np.testing.assert_array_equal(by_loops(few, size), elected[:_LOOPED])
  ways: dict[str, tuple[int, Callable[[], object]]] = {
    'loops': (_LOOPED, lambda: by_loops(few, size)),
    'numpy': (queries, lambda: by_numpy(of, size, 1)),
    'threads': (queries, lambda: by_numpy(of, size, cores)),
    'ours': (queries, lambda: ours(of, size)),
  }
  taken: dict[str, list[float]] = {name: [] for name in ways}
  for _ in range(repeats):
    for name, (count, function) in ways.items():
      taken[name].append(_seconds(function) / count * 1e6)
  size_of = float(of.confidences.nbytes + of.answers.nbytes + of.available.nbytes)
  return size_of, {name: statistics.median(times) for name, times in taken.items()}


def main(argv: list[str] | None = None) -> None:
  """Measures all cases and prints the table."""
  parser = results.parser(__doc__)
  parser.add_argument('--repeats', type=int, default=5)
  options = parser.parse_args(argv)
  cores, bandwidth = len(os.sched_getaffinity(0)), bytes_per_second(options.repeats)
  cells, worst = [], {'loops': np.inf, 'numpy': np.inf, 'threads': np.inf}
  for case in CASES:
    size_of, taken = measure(case, options.repeats, cores)
    ratio = {name: taken[name] / taken['ours'] for name in worst}
    worst = {name: min(worst[name], ratio[name]) for name in worst}
    read = size_of / bandwidth / case[0] * 1e6
    cells.append(
      [
        *(f'{number:,}' for number in case),
        *(f'{taken[name]:.2f}' for name in ('loops', 'numpy', 'threads', 'ours')),
        *(f'{ratio[name]:.1f}' for name in worst),
        f'{taken["ours"] / read:.0f}',
      ]
    )
  header = ['queries', 'LLMs', 'samples', 'called', 'loops, µs a query', 'numpy', f'numpy, {cores} threads', 'ours']
  header += ['times the loops', 'times numpy', 'times numpy threads', 'times reading the inputs']

  def line(name: str, peer: str, goal: float) -> str:
    met = 'met' if worst[name] >= goal else 'missed'
    return f'against {peer}, in the worst case: {worst[name]:.1f} times as fast; goal {goal:.0f}: {met}'

  results.publish(
    'Selection and vote',
    tables.Table(header, cells),
    [
      line('loops', 'Python loops', GOAL_LOOPS),
      line('numpy', 'vectorised numpy', GOAL_NUMPY),
      line('threads', f'the same on {cores} threads', GOAL_NUMPY),
    ],
    save=options.save,
    packages=('jax', 'numpy'),
    notes=[
      f'Medians of {options.repeats} runs, taking turns; loops on {_LOOPED} queries. All give the same answers. Memory '
      f'is read at {bandwidth / 2**30:.1f} GB/s; the last column holds our time against reading confidences, answers '
      'and availability once at that speed (on a GPU the goal is 3; not measured here).'
    ],
  )


if __name__ == '__main__':
  main()
