"""A saved selector: everything it takes to choose calls for new queries, in one directory.

  selector = selectllm.load('runs/mine/selector', limit='seconds<=35%')
  selector.select(['What is 6 x 7?'])

It holds the classifier, the calibration, the learned vote, the rules of `selectllm.selection.adaptive` at all their
settings with what these promise, the pool's expected prices, and the versions that made it. The pretrained encoder is
found by its name, and is checked to be the same.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import orbax.checkpoint as ocp

from selectllm.data import dataset
from selectllm.evaluate import answers, strategies
from selectllm.infra import paths, run_dir
from selectllm.infra.typing import Array
from selectllm.models import inference, options, pretrained, sharding
from selectllm.selection import adaptive, calibration, confidence, constraints, learned_vote, voting
from selectllm.serve import decider
from selectllm.train import checkpoints

_FORMAT = 2
_FACTS, _ARRAYS, _CLASSIFIER = 'selector.json', 'arrays.npz', 'classifier'
_BATCH = 64


class SelectorError(RuntimeError):
  """A directory that holds no selector, or one that cannot be used here."""


class Arrays(NamedTuple):
  """What a selector decides by.

  Attributes:
    estimator: Confidences to log-odds.
    weights: Of the learned vote.
    rules: By name, at all settings.
    calibrators: By rule, and by limit on single queries, of P(the answer is right); one for each setting along the
      first dimension.
    expected: float32[K], what a call is expected to take, in the selector's cost_unit.
    latency_s: float32[K], what it is expected to take in seconds; NaN where unknown.
    cost_usd: float32[K], in dollars; NaN where unknown.
  """

  estimator: confidence.Estimator
  weights: learned_vote.Weights
  rules: dict[str, adaptive.Rule]
  calibrators: dict[str, calibration.Calibrator]
  expected: np.ndarray
  latency_s: np.ndarray
  cost_usd: np.ndarray


class State(NamedTuple):
  """What is known of N queries before any call: confidences and calibrated log-odds float32[N, K]."""

  confidences: Array
  logits: Array


class Choice(NamedTuple):
  """Whom to call first for one query.

  Attributes:
    query: Its text.
    llms: The LLMs to call at once.
    confidences: How likely each LLM of the pool is right, most likely first.
  """

  query: str
  llms: tuple[str, ...]
  confidences: dict[str, float]


def _names(tree: Any) -> dict[str, Any]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


def _template(rules: Sequence[str], calibrated: Sequence[str]) -> Arrays:
  """The structure of the arrays of a selector with these rules, and these names of calibrators."""
  leaf: Any = 0
  calibrator = calibration.Calibrator(*[leaf] * len(calibration.Calibrator._fields))
  pool = calibration.Pool(leaf, calibrator)
  return Arrays(
    confidence.Estimator(confidence.Text(leaf, leaf), leaf, leaf, leaf, pool, leaf),
    learned_vote.Weights(*[leaf] * len(learned_vote.Weights._fields)),
    dict.fromkeys(rules, adaptive.Rule(leaf, leaf, leaf)),
    dict.fromkeys(calibrated, calibrator),
    *[leaf] * 3,
  )


def _encoder_sha256(config: ml_collections.ConfigDict) -> str:
  return paths.file_sha256(pretrained.find(config.encoder.name) / 'model.safetensors')


def save(
  directory: pathlib.Path,
  config: ml_collections.ConfigDict,
  data: dataset.Dataset,
  part: strategies.FoldResult,
  params: Any,
  classifier_latency_s: float,
  added: dict[str, Any] | None = None,
) -> None:
  """Saves the selector of a run, in place of what is there; complete or not at all.

  Args:
    directory: `selector/` of a run directory.
    config: The run's.
    data: Its data set.
    part: Its one split.
    params: Of the classifier.
    classifier_latency_s: Seconds from one query's text to its confidences.
    added: What a reader must know of LLMs that were added later.
  """
  # On gs:// nothing is renamed: there it is complete once the facts are there, which come last.
  partial = directory if paths.is_remote(directory) else directory.with_name(directory.name + '.part')
  paths.remove(partial)
  partial.mkdir(parents=True)
  responses, develops = data.responses, part.fitting_rows
  with np.errstate(invalid='ignore'):
    seen = responses.observed[develops]
    latency_s, cost_usd = (
      (np.where(seen, values[develops], 0).sum(0) / seen.sum(0)).astype(np.float32)
      for values in (responses.latency_s, responses.cost_usd)
    )
  rules = part.rules
  arrays = Arrays(
    part.confidences.estimator, rules.weights, rules.rules, rules.calibrators, rules.expected_cost, latency_s, cost_usd
  )
  with (partial / _ARRAYS).open('wb') as file:
    np.savez_compressed(file, **_names(arrays))
  # One process of a job may save alone.
  alone = ocp.options.MultiprocessingOptions(
    primary_host=jax.process_index(), active_processes={jax.process_index()}, barrier_sync_key_prefix='selector'
  )
  with ocp.StandardCheckpointer(multiprocessing_options=alone) as checkpointer:
    checkpointer.save(checkpoints.address(partial / _CLASSIFIER), params)
  facts = {
    'format': _FORMAT,
    'dataset': data.name,
    'llms': list(data.llms),
    'rules': list(rules.rules),
    'cost_unit': rules.cost_unit,
    'latency': data.latency_is,
    'estimated': rules.estimated,
    'references': rules.references,
    'classifier_latency_s': classifier_latency_s,
    'added': added,
    'encoder_sha256': _encoder_sha256(config),
    'config': json.loads(config.to_json_best_effort()),
    'environment': run_dir.environment(),
  }
  (partial / _FACTS).write_text(json.dumps(facts, indent=2) + '\n')
  if partial != directory:
    paths.remove(directory)
    partial.rename(directory)


def load(
  directory: str | pathlib.Path, limit: str = 'none', mesh: ml_collections.ConfigDict | None = None
) -> 'Selector':
  """Loads a selector.

  Args:
    directory: What `save` wrote, `selector/` of a run directory.
    limit: What the calls must keep, see `selectllm.selection.constraints`; by default the most accurate setting.
    mesh: `data` and `fsdp`, devices; one by default.

  Raises:
    SelectorError: when there is none, its encoder is not the one that it was made with, or no setting keeps the limit.
    ValueError: for a limit that is none.
  """
  directory = paths.place(directory)
  if not (directory / _FACTS).is_file():
    raise SelectorError(f'{str(directory)!r} holds no selector: it has no {_FACTS}. Runs keep theirs in selector/')
  facts = json.loads((directory / _FACTS).read_text())
  if facts['format'] != _FORMAT:
    raise SelectorError(f'{directory} is of format {facts["format"]}, this version reads {_FORMAT}; run the run again')
  config = ml_collections.ConfigDict(facts['config'])
  config.mesh = ml_collections.ConfigDict({'data': 1, 'fsdp': 1}) if mesh is None else mesh
  if (found := _encoder_sha256(config)) != facts['encoder_sha256']:
    raise SelectorError(
      f'the encoder {config.encoder.name} found here has other weights ({found[:12]}...) than the one that '
      f'{directory} was made with ({facts["encoder_sha256"][:12]}...)'
    )
  with (directory / _ARRAYS).open('rb') as file, np.load(file) as stored:
    template = _template(facts['rules'], list(facts['estimated']))
    named = {name: stored[name] for name in _names(template)}
  arrays = jax.tree.unflatten(jax.tree.structure(template), list(named.values()))
  model = inference.make_model(options.from_config(config), len(facts['llms']) - len(arrays.estimator.added))
  with ocp.StandardCheckpointer() as checkpointer:
    abstract = sharding.abstract(model.mesh, model.params)
    params = checkpointer.restore(checkpoints.address(directory / _CLASSIFIER), abstract)
  return Selector(facts, arrays, model, params, constraints.parse(limit))


class Selector:
  """Chooses calls for new queries; also live, stage after stage: see `decider.Decider`."""

  in_stages = True

  def __init__(
    self, facts: dict[str, Any], arrays: Arrays, model: inference.Model, params: Any, limit: constraints.Constraint
  ):
    """Takes what `load` read; raises SelectorError when no setting keeps the limit."""
    self.llms: tuple[str, ...] = tuple(facts['llms'])
    self.limit = limit
    self._facts, self._arrays, self._model, self._params = facts, arrays, model, params
    chosen = strategies.choose(facts['estimated'], facts['references'], limit)
    if chosen is None:
      raise SelectorError(f'no setting keeps {limit.text!r} on the development queries; {self._reach()}')
    self._played, self.setting = chosen
    self.rule = self._played if self._played in arrays.rules else 'adaptive'
    self._rule = arrays.rules[self.rule]
    self._budget = np.float32(limit.value if limit.quantity == 'query_seconds' else np.inf)

  @property
  def latency_is(self) -> str:
    """What the seconds of its pool are: measured, published, estimated or unknown."""
    return self._facts['latency']

  @property
  def estimated(self) -> dict[str, float | None]:
    """What the setting was worth on development queries, held out."""
    return self._facts['estimated'][self._played][self.setting]

  def _reach(self) -> str:
    worth = [worth for estimated in self._facts['estimated'].values() for worth in estimated]
    accuracies = [each['accuracy'] for each in worth if each['accuracy'] is not None]
    seconds = [each['seconds'] for each in worth if each['seconds'] is not None]
    reach = f'accuracy goes up to {max(accuracies):.3f}'
    return reach + (f', mean seconds down to {min(seconds):.3g}' if seconds else '')

  def facts(self, asked: int) -> answers.DeciderFacts:
    """What the report of answers says of it."""
    return answers.DeciderFacts(
      llms=self.llms,
      policy=f'{self.rule} ({self.limit.text})',
      size=None,
      asked=asked,
      expected_latency_s=self._arrays.latency_s,
      expected_cost_usd=self._arrays.cost_usd,
      classifier_latency_s=self._facts['classifier_latency_s'],
    )

  def score(self, texts: Sequence[str], available: np.ndarray | None = None, *, batch_size: int = _BATCH) -> State:
    """What the classifier makes of N queries; `available` changes nothing here."""
    del available
    model = self._model
    tokens, rows = model.tokenize(list(texts)), np.arange(len(texts))
    with sharding.use(model.mesh):  # a thread has a mesh of its own
      confidences = inference.score_queries(
        model,
        self._params,
        tokens,
        rows,
        np.ones((len(texts), self._arrays.estimator.bias.size), bool),
        batch_size=batch_size,
      ).confidences
      embedded = inference.unit(inference.embed(model, tokens, batch_size=batch_size))
    logits = confidence.estimate(self._arrays.estimator, list(texts), embedded, confidences)
    return State(1 / (1 + np.exp(-logits)), logits)

  def decide(self, state: State, revealed: decider.Revealed) -> np.ndarray:
    """The LLMs to call next, bool[N, K]; nobody, to stop."""
    return np.asarray(
      _next(
        self._rule, self._arrays.weights, self.setting, state.logits, *revealed, self._arrays.expected, self._budget
      )
    )

  def finish(self, state: State, revealed: decider.Revealed) -> decider.Finished:
    """The likeliest answers, and how likely they are right."""
    answer, top = _finish(self._arrays.weights, state.logits, revealed.answers, revealed.called)
    calibrator = calibration.Calibrator(*(array[self.setting] for array in self._arrays.calibrators[self._played]))
    p_right = strategies.probability(calibrator, np.asarray(top))
    return decider.Finished(np.asarray(answer), np.where(np.asarray(answer) == voting.NO_ANSWER, 0.0, p_right))

  def select(self, queries: Sequence[str]) -> list[Choice]:
    """Whom to call first for each query."""
    state = self.score(queries)
    count, pool = len(queries), len(self.llms)
    nothing = decider.Revealed(
      np.full((count, pool, 1), voting.NO_ANSWER, np.int16), np.zeros((count, pool), bool), np.ones((count, pool), bool)
    )
    choices = []
    for query, confidences, mask in zip(queries, state.confidences, self.decide(state, nothing), strict=True):
      order = np.argsort(-confidences, kind='stable')
      likely = {self.llms[place]: float(confidences[place]) for place in order}
      choices.append(Choice(query, tuple(self.llms[place] for place in order if mask[place]), likely))
    return choices


@jax.jit
def _next(rule, weights, setting, logits, answers, called, available, expected, budget):
  def one(logits, answers, called, available):
    says = learned_vote.count_votes(answers)
    action = adaptive.decide(rule, weights, setting, logits, says, called, available, expected, budget).action
    chosen = jnp.zeros(logits.size, bool).at[rule.llms].set(rule.actions[action])
    return chosen & (action >= 0)

  return jax.vmap(one)(logits, answers, called, available)


@jax.jit
def _finish(weights, logits, answers, called):
  def one(logits, answers, called):
    found = learned_vote.posterior(weights, logits, learned_vote.count_votes(answers), called)
    return found.answer, found.top

  return jax.vmap(one)(logits, answers, called)
