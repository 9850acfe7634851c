"""Answers with the policy of a finished run: all calls for a query are chosen beforehand, and they vote."""

import functools
import pathlib
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from selectllm.data import pool_file
from selectllm.evaluate import answers, predictions, results
from selectllm.infra import run_dir
from selectllm.infra.typing import Array
from selectllm.models import inference, sharding
from selectllm.models import options as model_options
from selectllm.selection import policies, voting
from selectllm.serve import decider
from selectllm.train import loop
from selectllm.train import options as train_options


class State(NamedTuple):
  """Scores of N queries: every LLM's confidence, whether to call it, and its weight in the vote, [N, K] each."""

  confidences: Array
  mask: Array
  weight: Array


class FixedPolicy(NamedTuple):
  """A run's classifier and one of its policies; see `decider.Decider`.

  Attributes:
    llms: K names, the order of all arrays.
    scorer: The classifier.
    selecting: Expected latencies, the one size, the threshold.
    policy: Name of the policy.
    over: What the vote is over, see `voting.vote`.
    ties: Whose answer wins a tie, see `voting.tie_order`.
    latency_s: Seconds of a call of each LLM when the run was trained, NaN where unknown.
    cost_usd: What a call of each LLM cost when the run was trained, NaN where unknown.
    classifier_latency_s: Seconds from one query's text to its selection, measured when the run was trained.
    in_stages: Never; the calls are chosen beforehand.
  """

  llms: tuple[str, ...]
  scorer: inference.Scorer
  selecting: policies.PolicyOptions
  policy: str
  over: str
  ties: str
  latency_s: np.ndarray
  cost_usd: np.ndarray
  classifier_latency_s: float
  in_stages: bool = False

  def facts(self, asked: int) -> answers.DeciderFacts:
    """Describes the policy as of when the run was trained."""
    return answers.DeciderFacts(
      llms=self.llms,
      policy=self.policy,
      size=int(self.selecting.sizes[0]),
      asked=asked,
      expected_latency_s=self.latency_s,
      expected_cost_usd=self.cost_usd,
      classifier_latency_s=self.classifier_latency_s,
    )

  def score(self, texts: list[str], available: np.ndarray, *, batch_size: int) -> State:
    """Scores and selects."""
    mask = np.broadcast_to(available, (len(texts), len(available)))
    with sharding.use(self.scorer.model.mesh):  # a thread has a mesh of its own
      scores = self.scorer(texts, mask, self.selecting, batch_size=batch_size)
    selection = scores.selections[self.policy]
    return State(scores.confidences, selection.mask[:, 0], selection.weight[:, 0])

  def decide(self, state: State, revealed: decider.Revealed) -> np.ndarray:
    """Returns the selected LLMs."""
    del revealed
    return state.mask

  def finish(self, state: State, revealed: decider.Revealed) -> decider.Finished:
    """Returns the vote of the LLMs that responded."""
    priority = voting.tie_orders(state.confidences, self.selecting.latency_s, ties=self.ties)
    elected = _vote(revealed.answers, revealed.called, state.weight, priority, self.over)
    return decider.Finished(np.asarray(elected), np.full(len(elected), np.nan, np.float32))


@functools.partial(jax.jit, static_argnames='over')
def _vote(answers, mask, weight, priority, over):
  return jax.vmap(functools.partial(voting.vote, over=over))(answers, mask, weight, priority)


def load(run: pathlib.Path, policy: str, size: int, mesh: ml_collections.ConfigDict) -> FixedPolicy:
  """Loads the classifier that a run trained.

  Args:
    run: The directory of a finished run without folds.
    policy: One of `policies.POLICIES`.
    size: LLMs to call for each query; 0 for as many as the run chose.
    mesh: `data` and `fsdp`, devices.

  Raises:
    FileNotFoundError: when the directory holds no such run.
    results.ResultsError: when another version wrote its report.json.
    run_dir.RunDirError: when it is damaged, or of an earlier version.
    pool_file.PoolError: for a policy or size that there is not.
    checkpoints.CheckpointError: when its checkpoint cannot be read.
  """
  for name in ('config.json', 'report.json', 'predictions.npz'):
    if not (run / name).is_file():
      raise FileNotFoundError(f'config.answer.run={str(run)!r} is not a finished run: it has no {name}')
  trained_with = ml_collections.ConfigDict(run_dir.read(run / 'config.json'))
  found = results.load(run / 'report.json')
  if found.dataset.folds:
    raise FileNotFoundError(f'config.answer.run={str(run)!r} cross-validated: it has a classifier for each fold')
  if policy not in policies.POLICIES:
    raise pool_file.PoolError(f'config.answer.policy={policy!r} is not one of {", ".join(policies.POLICIES)}')
  llms = tuple(found.dataset.llms)
  size = size or next(row.sizes[0] for row in found.chosen if row.name == policy and row.sizes)
  if not 1 <= size <= len(llms):
    raise pool_file.PoolError(f'config.answer.size={size}: the run knows {len(llms)} LLMs')
  trained_with.mesh = mesh
  model = inference.make_model(model_options.from_config(trained_with), len(llms))
  kept = predictions.read_predictions(run / 'predictions.npz')
  if found.encoder.frozen:
    scorer = inference.Scorer(model, kept.estimates[0].estimator, None)
  else:
    with sharding.use(model.mesh):
      scorer = inference.Scorer(model, None, loop.load_best(train_options.from_config(trained_with), model, run)[1])
  selecting = policies.PolicyOptions(kept.latency_s[0], np.array([size], np.int32), trained_with.evaluate.threshold)
  seconds, costs = (
    np.array([getattr(found.llms[llm], name) for llm in llms], np.float32) for name in ('latency_s', 'cost_usd')
  )
  vote, ties = trained_with.evaluate.vote, trained_with.evaluate.ties
  own_s = float(kept.classifier_latency_s)
  return FixedPolicy(llms, scorer, selecting, policy, vote, ties, seconds, costs, own_s)
