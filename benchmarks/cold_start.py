"""How long a user waits: for `--help`, and for the first confidence from a saved selector, each in a fresh process.

  python -m benchmarks.cold_start --run=runs/first --save

The run is one without folds. The first confidence comes twice: with nothing compiled, and with what the time before
left in the compilation cache.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import results
from selectllm.report import tables

HELP_S, CONFIDENCE_S = 1.5, 6.0
QUERY = 'Natalia sold clips to 48 of her friends in April, and then half as many clips in May. How many in all?'
FIRST_CONFIDENCE = """
import sys
import selectllm
from selectllm.infra import distributed
distributed.enable_compilation_cache()
assert selectllm.load(sys.argv[1]).select([sys.argv[2]])[0].confidences
"""


def seconds(command: list[str], cache: str, *, code: int = 0, shows: str = '') -> float:
  """Wall time of a process that ends with that exit code and prints that."""
  begun = time.perf_counter()
  environment = os.environ | {'JAX_COMPILATION_CACHE_DIR': cache, 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.2'}
  ended = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, check=False)
  if ended.returncode != code or shows not in ended.stdout:
    raise RuntimeError(f'{command} ended with {ended.returncode}: {ended.stderr}')
  return time.perf_counter() - begun


def main() -> None:
  """Prints the times; see the module's description."""
  parser = results.parser(__doc__)
  parser.add_argument('--run', type=pathlib.Path, required=True)
  parser.add_argument('--repeats', type=int, default=5)
  options = parser.parse_args()
  first = ['-c', FIRST_CONFIDENCE, str(options.run / 'selector'), QUERY]
  with tempfile.TemporaryDirectory() as cache:
    cold = seconds(first, cache)
    warm = statistics.median(seconds(first, cache) for _ in range(options.repeats))
    shown = statistics.median(
      seconds(['-m', 'selectllm.main', '--help'], cache, code=1, shows='--workdir') for _ in range(options.repeats)
    )
    bare = statistics.median(seconds(['-c', 'import jax'], cache) for _ in range(options.repeats))
  rows = {
    'selectllm.main --help': shown,
    'first confidence, nothing compiled': cold,
    'first confidence, compiled before': warm,
    'python -c "import jax"': bare,
  }
  table = tables.Table(['what', 'seconds'], [[name, f'{taken:.2f}'] for name, taken in rows.items()])
  verdicts = [
    f'{name}: {taken:.2f} s; goal under {goal} s: {"met" if taken < goal else "MISSED"}'
    for name, taken, goal in (('--help', shown, HELP_S), ('first confidence, compiled before', warm, CONFIDENCE_S))
  ]
  results.publish('Cold start', table, verdicts, save=options.save, packages=('jax', 'flax', 'transformers'))


if __name__ == '__main__':
  main()
