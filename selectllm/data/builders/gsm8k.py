"""GSM8K's 1,319 test questions, answered by ten LLMs whose responses were published."""

import collections.abc
import csv
import hashlib
import pathlib

import ml_collections
import orjson

from selectllm.data import grading, records
from selectllm.data.builders import base, download

QUESTIONS = download.Source(
  path='openai/grade-school-math/grade_school_math/data/test.jsonl',
  commit='3101c7d5072418e28b9008a6636bde82a006892c',
  size=749_738,
  sha256='3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14',
)
GPT3 = download.Source(
  path='openai/grade-school-math/grade_school_math/data/example_model_solutions.jsonl',
  commit='3101c7d5072418e28b9008a6636bde82a006892c',
  size=2_563_513,
  sha256='4bc62db838f8418365d51c627bd66294cbdca9fb7f01519cb13f0dce8c51580b',
)
ROUTE_LLM = download.Source(
  path='lm-sys/RouteLLM/routellm/evals/gsm8k/gsm8k_responses.csv',
  commit='0b64fdafe049e596a3f5657c219329f24af24198',
  size=1_291_062,
  sha256='1f38ed03db354a020f71e92022383dc3cf37bbf2694dea4daaeea7b6c43fe57b',
)
TORA_34B = download.Source(
  path='microsoft/ToRA/src/outputs/llm-agents/tora-code-34b-v1.0/gsm8k/test_tora_-1_seed0_t0.0_s0_e1319.jsonl',
  commit='213c1c995038c73fab10343814df7a42f990f026',
  size=1_767_921,
  sha256='f5bec001fd6d1a9c29df8911939e7864b3a10e89d778d418def335481619271f',
)
TORA_70B = download.Source(
  path='microsoft/ToRA/src/outputs/llm-agents/tora-70b-v1.0/gsm8k/test_tora_-1_seed0_t0.0_s0_e1319.jsonl',
  commit='213c1c995038c73fab10343814df7a42f990f026',
  size=1_763_715,
  sha256='abca7acb32cf9293fff2d4c7c39b14b5294c05827eeec9584e68446a35475ba0',
)
CODEX_FEWSHOT = download.Source(
  path='wenhuchen/Program-of-Thoughts/outputs/gsm8K_s0_e-1_11_17_10_20.jsonl',
  commit='850399c3eff8c37458a9d642c4a98df287f50f3a',
  size=687_882,
  sha256='902e008f3059b9d868456de45b90f1012bc61d5fcdb7556deb0d1830970109eb',
)
CODEX_ZEROSHOT = download.Source(
  path='wenhuchen/Program-of-Thoughts/outputs/gsm8K_zs_s0_e-1_11_19_09_55.jsonl',
  commit='850399c3eff8c37458a9d642c4a98df287f50f3a',
  size=1_720_784,
  sha256='64786be03f02099a67baac7be6a5764355f1554a8247ea14c87d1a0dbeaa8c87',
)
SOURCES = (QUESTIONS, GPT3, ROUTE_LLM, TORA_34B, TORA_70B, CODEX_FEWSHOT, CODEX_ZEROSHOT)

GPT3_LLMS = {
  f'gpt3-{size}-{kind}': f'{size}_{kind}' for size in ('6b', '175b') for kind in ('finetuning', 'verification')
}
ROUTE_LLM_LLMS = {
  'mixtral-8x7b-instruct': 'mistralai/Mixtral-8x7B-Instruct-v0.1_response',
  'gpt-4-1106': 'gpt-4-1106-preview_response',
}
TEXT_EXTRACTOR = 'number-v2'
PROGRAM_EXTRACTOR = 'program_output-v1'

# What codex-pot-zeroshot was given, and what was added to it; its published texts repeat both.
_PROMPT = """# Question: {question}
# Answer this question by implementing a solver() function.
def solver():
    # Let's write a Python program step by step, and then return the answer
    # Firstly, we need define the following variable:
"""
_PROMPTED_END = '\nans = solver()'

Responses = collections.abc.Iterator[tuple[str, str, records.Sample]]


def _sample(question: str, text: str, *, written: str | None = None, extractor: str = TEXT_EXTRACTOR) -> records.Sample:
  """Makes a sample whose latency is to be estimated from its length: about four characters make a token.

  Args:
    question: What was asked.
    text: The response.
    written: What of it the LLM wrote; None for all of it.
    extractor: Which extractor grades it.
  """
  return records.Sample(
    text=text,
    answer=grading.get_extractor(extractor)(text, question),
    latency_is='estimated',
    completion_tokens=max(1, round(len(text if written is None else written) / 4)),
  )


def _read_gpt3(path: pathlib.Path) -> Responses:
  for line in path.read_bytes().splitlines():
    row = orjson.loads(line)
    for llm, key in GPT3_LLMS.items():
      yield row['question'], llm, _sample(row['question'], row[key]['solution'])


def _read_route_llm(path: pathlib.Path) -> Responses:
  with open(path, encoding='utf-8', newline='') as file:
    for row in csv.DictReader(file):
      for llm, column in ROUTE_LLM_LLMS.items():
        yield row['prompt'], llm, _sample(row['prompt'], row[column])


def _read_tora(path: pathlib.Path, llm: str) -> Responses:
  for line in path.read_bytes().splitlines():
    row = orjson.loads(line)
    yield row['question'], llm, _sample(row['question'], row['code'][0])


def _read_program_of_thoughts(path: pathlib.Path, llm: str) -> Responses:
  for line in path.read_bytes().splitlines():
    row = orjson.loads(line)
    if 'question' not in row:  # two lines of the few-shot file hold a prompt
      continue
    program = row['generated'] if isinstance(row['generated'], str) else row['generated'][0]
    # A program that failed printed nothing: its response is observed, and has no answer.
    output = '' if row['executed'] is None else f'\n```output\n{row["executed"]}\n```'
    question, extractor = row['question'], PROGRAM_EXTRACTOR
    yield question, llm, _sample(question, program + output, written=_written(program, question), extractor=extractor)


def _written(program: str, question: str) -> str:
  """Takes off what an LLM did not write; without examples it was given the beginning of the program."""
  _, prompt, written = program.partition(_PROMPT.format(question=question))
  return written.removesuffix(_PROMPTED_END) if prompt else program


class Builder(base.PoolBuilder):
  """GSM8K with ten LLMs, one sample each, from seven published files (see `SOURCES`)."""

  name = 'gsm8k_pool'

  def __init__(self, config: ml_collections.ConfigDict, cache_dir: pathlib.Path):
    self._cache_dir = cache_dir / 'downloads'
    self._options = config.dataset
    self._paths: dict[download.Source, pathlib.Path] = {}
    made_from = f'{download.digest(SOURCES)} {TEXT_EXTRACTOR} {PROGRAM_EXTRACTOR} written {records.FORM}'
    super().__init__(
      identity=hashlib.sha256(made_from.encode()).hexdigest(),
      description='1,319 GSM8K test questions answered by ten LLMs; latencies are estimated from lengths.',
      data_dir=str(cache_dir),
    )
    if (
      config.dataset.manual_dir
    ):  # checked on every run: a file that changed is an error, not a silent reuse of old data
      self._fetch()

  def _fetch(self) -> dict[download.Source, pathlib.Path]:
    if not self._paths:
      self._paths = download.fetch(
        SOURCES, manual_dir=self._options.manual_dir, base_url=self._options.base_url, cache_dir=self._cache_dir
      )
    return self._paths

  def read_records(self) -> collections.abc.Iterator[records.Record]:
    """Joins the seven files on the question's text."""
    paths = self._fetch()
    by_question: dict[str, dict[str, list[records.Sample]]] = {}
    readers = (
      _read_gpt3(paths[GPT3]),
      _read_route_llm(paths[ROUTE_LLM]),
      _read_tora(paths[TORA_34B], 'tora-code-34b'),
      _read_tora(paths[TORA_70B], 'tora-70b'),
      _read_program_of_thoughts(paths[CODEX_FEWSHOT], 'codex-pot-fewshot'),
      _read_program_of_thoughts(paths[CODEX_ZEROSHOT], 'codex-pot-zeroshot'),
    )
    for reader in readers:
      for question, llm, sample in reader:
        by_question.setdefault(question, {})[llm] = [sample]
    for position, line in enumerate(paths[QUESTIONS].read_bytes().splitlines()):
      row = orjson.loads(line)
      yield records.Record(
        query_id=f'gsm8k/{position}',
        query=row['question'],
        task='gsm8k',
        reference=grading.canonical_reference(row['answer'], TEXT_EXTRACTOR),
        responses=by_question[row['question']],
      )
