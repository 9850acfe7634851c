"""Results to report on, by the evaluation itself, so that no test knows another form of them."""

import hashlib
from collections.abc import Callable

import numpy as np
import pytest

from selectllm.data import dataset
from selectllm.evaluate import assemble, context, error_analysis, evaluator, results
from selectllm.selection import baselines, confidence

# Twelve queries train, eight validate, eight test.
SPLIT = np.repeat(np.int8([0, 1, 2]), (12, 8, 8))
OPTIONS = results.EvaluateConfig(
  batch_size=8,
  knn_neighbours=[3],
  near_duplicates=0.8,
  resamples=20,
  threshold=0.5,
  ties='confident',
  vote='majority',
)


def _evaluate(llms: int, kind: str) -> results.Results:
  tasks = 3 if kind == 'tasks' else 1
  rng = np.random.default_rng(llms)
  shape = (len(SPLIT), llms)
  answers = np.where(rng.random(shape) < np.linspace(0.3, 0.8, llms), 0, rng.choice([-1, 1, 2], shape))[..., None]
  nothing = np.full(shape, np.nan, np.float32)
  latency_s = np.exp(rng.normal(0, 0.1, shape) + np.linspace(-1, 3, llms)).astype(np.float32)
  observed = np.ones(shape, bool)
  observed[0, 0] = False
  if kind == 'unseen':
    observed[SPLIT == 2, 0] = False
  answered = (answers[..., :0] if kind == 'scores' else answers).astype(np.int16)
  data = dataset.Responses(
    answers=answered,
    majority=dataset.majorities(answered),
    accepted=np.zeros((len(SPLIT), 1), np.int16),
    labels=(answers[..., 0] == 0).astype(np.float32) * observed,
    observed=observed,
    latency_s=nothing if kind in ('unknown', 'scores') else latency_s,
    cost_usd=latency_s / 1000 if kind == 'priced' else nothing,
    completion_tokens=nothing,
    task=(np.arange(len(SPLIT)) % tasks).astype(np.int16),
  )
  names = tuple(f'llama-{size}b-instruct' for size in range(1, llms + 1))
  queries = [f'question {n}' for n in range(len(SPLIT))]
  kinds = {'unknown': 'unknown', 'scores': 'unknown', 'priced': 'measured'}
  table = dataset.Dataset(
    'Sums', names, ('sums', 'products', 'a|b')[:tasks], queries, queries, data, kinds.get(kind, 'estimated')
  )
  # All unlike each other, but for a test query that asks what a training query asks, and one that nearly does.
  questions = [hashlib.sha256(bytes([n])).hexdigest() for n in range(len(SPLIT))]
  questions[20], questions[21] = questions[0], questions[1] + '?'
  table = table._replace(questions=questions)
  confidences = np.clip(np.linspace(0.3, 0.8, llms) + rng.normal(0, 0.1, shape), 0, 1).astype(np.float32)
  folds = 2 if kind == 'folds' else 1
  run = context.RunContext(
    table,
    np.stack([SPLIT] * folds),
    np.stack([confidences] * folds),
    [confidence.TEMPLATE] * folds,
    np.eye(len(SPLIT), dtype=np.float32),
    OPTIONS,
  )
  evaluation = evaluator.evaluate([run])
  return assemble.assemble(
    run, evaluation, error_analysis.gather(run, evaluation), tradeoff=None, encoder=results.EncoderChoice(True, 'true'),
    tokens=np.arange(len(SPLIT), dtype=np.int32), truncated=0, labels='reference', timing=results.Timing(0.25, 1.0),
  )  # fmt: skip


@pytest.fixture(scope='session')
def results_of() -> Callable[..., results.Results]:
  """Makes the results of a pool: of so many LLMs, `estimated`, `priced`, `unknown`, `scores`, `unseen`, `folds` or
  `tasks` (three categories)."""
  made: dict[tuple[int, str], results.Results] = {}

  def make(llms: int = 3, kind: str = 'estimated') -> results.Results:
    if (llms, kind) not in made:
      with pytest.MonkeyPatch.context() as patch:
        # Any subsets do here, and the best of 32 LLMs would take a while to find.
        patch.setattr(baselines, 'best_subsets', lambda *_, **__: np.tri(llms, dtype=bool))
        made[llms, kind] = _evaluate(llms, kind)
    return made[llms, kind]

  return make
