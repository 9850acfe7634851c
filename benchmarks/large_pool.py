"""What it takes to build and to read a large response set: is memory bounded, does time grow with the queries alone?

The responses are generated: 32 LLMs, ten samples each, short texts. Each size is built from a JSONL file and read as
arrays in fresh processes. Beside that, on a few queries, the record's form is held against TFDS's own for the same, a
sequence of samples.

  python -m benchmarks.large_pool --queries 10000 100000
"""

import collections.abc
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import orjson
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from benchmarks import results
from configs import jsonl
from selectllm.data import load, records
from selectllm.report import tables

LLMS, SAMPLES, ANSWERS, VARIANTS = 32, 10, 8, 64
MOST_BYTES = 6e9
MOST_GROWTH = 1.2  # of the CPU time per query, from the smallest size to the largest
PEER_QUERIES, REPEATS = 100, 3


def generated(count: int, seed: int = 0) -> collections.abc.Iterator[bytes]:
  """Yields lines of generated responses; samples are drawn from a stock, as texts and numbers matter little here."""
  random = np.random.default_rng(seed)
  stock = [
    orjson.dumps(
      {
        'text': f'Adding both gives {answer}. The answer is {answer}.',
        'answer': str(answer),
        'latency_s': round(float(random.exponential()), 3),
        'prompt_tokens': 60,
        'completion_tokens': int(random.integers(10, 300)),
      }
    )
    for answer in range(100, 100 + ANSWERS)
    for _ in range(VARIANTS)
  ]
  names = [f'"llm-{number:02d}":['.encode() for number in range(LLMS)]
  for number in range(count):
    drawn = [stock[place] for place in random.integers(len(stock), size=LLMS * SAMPLES).tolist()]
    calls = (
      name + b','.join(drawn[place : place + SAMPLES]) + b']'
      for name, place in zip(names, range(0, len(drawn), SAMPLES), strict=True)
    )
    query = f'"query_id":"generated/{number}","query":"Query {number}, generated: how much is {number} and {number}?"'
    yield b'{%s,"task":"sums","reference":"100","responses":{%s}}\n' % (query.encode(), b','.join(calls))


def nested_features() -> Any:
  """The samples as TFDS would have them: a sequence with a feature for each field."""
  text, number = tfds.features.Text(), np.int32
  fields = {
    'llm': text, 'text': text, 'answer': text, 'error': text, 'latency_s': np.float32, 'latency_is': text,
    'prompt_tokens': number, 'completion_tokens': number,
  }  # fmt: skip
  return tfds.features.FeaturesDict({'query': text, 'samples': tfds.features.Sequence(fields)})


def nested_example(record: records.Record) -> dict[str, Any]:
  """An example of `nested_features`."""
  rows = [(llm, *sample) for llm, samples in record.responses.items() for sample in samples]
  columns = dict(zip(('llm', *records.Sample._fields), zip(*rows, strict=True), strict=True))
  return {'query': record.query, 'samples': columns | {'error': [''] * len(rows)}}


def nested_samples(example: dict[str, Any]) -> list[records.Sample]:
  """The samples of an example of `nested_features`."""
  columns = (example['samples'][name] for name in records.Sample._fields)
  return [
    records.Sample(text.decode(), answer.decode(), None, latency_s, kind.decode(), prompt, completion)
    for text, answer, _, latency_s, kind, prompt, completion in zip(*columns, strict=True)
  ]


def forms(folder: pathlib.Path) -> dict[str, list[float]]:
  """Milliseconds a query to write and to read, of the record's form and of TFDS's own."""
  path = folder / 'few.jsonl'
  path.write_bytes(b''.join(generated(PEER_QUERIES)))
  recorded = list(records.read_jsonl(path))
  compared = {
    'selectllm': (records.tfds_features(), records.to_example, records.from_example),
    'tfds': (nested_features(), nested_example, nested_samples),
  }
  taken: dict[str, list[tuple[float, float]]] = {name: [] for name in compared}
  for _ in range(REPEATS):
    for name, (features, to_example, from_example) in compared.items():
      started = time.perf_counter()
      writer = array_record_module.ArrayRecordWriter(str(folder / name), 'group_size:1')
      for record in recorded:
        writer.write(features.serialize_example(features.encode_example(to_example(record))))
      writer.close()
      written = time.perf_counter()
      reader = array_record_module.ArrayRecordReader(str(folder / name))
      for place in range(len(recorded)):
        from_example(features.deserialize_example_np(reader.read([place])[0]))
      taken[name].append((written - started, time.perf_counter() - written))
  return {
    name: [1000 * statistics.median(column) / len(recorded) for column in zip(*times, strict=True)]
    for name, times in taken.items()
  }


def step(name: str, path: str) -> None:
  """Builds or reads in this process, and prints the seconds."""
  config = jsonl.get_config()
  config.dataset.path = path
  started = time.perf_counter()
  if name == 'build':
    load.make_builder('jsonl_pool', config).download_and_prepare()
  else:
    load.load(config)
  print(json.dumps(time.perf_counter() - started))


def measured(name: str, path: pathlib.Path, cache: pathlib.Path) -> tuple[float, float, int]:
  """What a step takes in a process of its own: seconds, seconds of processors (with imports), most bytes in memory."""
  command = [sys.executable, '-m', 'benchmarks.large_pool', '--step', name, str(path)]
  environment = os.environ | {'SELECTLLM_CACHE': str(cache)}
  with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
    assert process.stdout
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
  if process.returncode:
    raise subprocess.CalledProcessError(process.returncode, command)
  return float(printed.splitlines()[-1]), usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def main() -> None:
  """Prints the measurements; see the module's description."""
  parser = results.parser(__doc__)
  parser.add_argument('--queries', type=int, nargs='+', default=[10_000, 100_000], help='sizes, the smallest first')
  parser.add_argument('--folder', default=None, help='where 5 GB are needed for a while, for 100,000 queries')
  parser.add_argument('--step', nargs=2, help='used by the benchmark itself')
  options = parser.parse_args()
  if options.step:
    step(*options.step)
    return
  cells, per_query, peak = [], {}, 0
  with tempfile.TemporaryDirectory(dir=options.folder) as name:
    folder = pathlib.Path(name)
    form = forms(folder)
    for size in options.queries:
      path = folder / 'generated.jsonl'
      with path.open('wb') as file:
        file.writelines(generated(size))
      for what in ('build', 'read'):
        seconds, busy, most = measured(what, path, folder / str(size))
        per_query[what, size], peak = busy / size, max(peak, most)
        megabytes = sum(p.stat().st_size for p in (folder / str(size)).rglob('*') if p.is_file()) / 1e6
        cells.append(
          [
            f'{size:,}', what, f'{seconds:.1f}', f'{busy:.1f}', f'{1000 * seconds / size:.2f}', f'{most / 1e6:,.0f}',
            f'{path.stat().st_size / 1e6:,.0f}', f'{megabytes:,.0f}',
          ]
        )  # fmt: skip
  cells += [
    [f'{PEER_QUERIES:,}', f'{what} an example as {of}', '', '', f'{form[name][place]:.2f}', '', '', '']
    for place, what in enumerate(('write', 'read'))
    for name, of in (('selectllm', "selectllm's record"), ('tfds', "TFDS's sequence"))
  ]
  header = ['queries', 'step', 'seconds', 'CPU seconds', 'ms a query', 'peak MB', 'JSONL MB', 'data set MB']
  first, last = min(options.queries), max(options.queries)
  lines = [
    f"{what} an example, against TFDS's sequence of samples: {form['tfds'][place] / form['selectllm'][place]:.1f}x"
    for place, what in enumerate(('write', 'read'))
  ]
  lines.append(f'peak memory: {peak / 1e9:.1f} GB; goal under {MOST_BYTES / 1e9:.0f}: {_met(peak < MOST_BYTES)}')
  for what in ('build', 'read'):
    growth = per_query[what, last] / per_query[what, first]
    lines.append(
      f'{what}: a query of {last:,} takes {growth:.2f}x the CPU time of a query of {first:,}; goal at most '
      f'{MOST_GROWTH} (1 is linear): {_met(growth <= MOST_GROWTH)}'
    )
  results.publish(
    'Large response sets (generated)', tables.Table(header, cells), lines, save=options.save,
    packages=('tensorflow-datasets', 'array_record', 'orjson', 'numpy'),
    notes=[
      f'Generated responses of {LLMS} LLMs, {SAMPLES} samples each. Reading includes hashing the JSONL file again, to '
      'tell whether it changed.'
    ],
  )  # fmt: skip


def _met(reached: bool) -> str:
  return 'met' if reached else 'missed'


if __name__ == '__main__':
  main()
