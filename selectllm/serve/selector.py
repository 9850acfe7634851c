"""Saves and loads selectors: everything it takes to choose calls for new queries, in one directory.

  selector = selectllm.load('runs/mine/selector', limit='compute_seconds<=35%')
  selector.select(['What is 6 x 7?'])

It holds the estimator of confidences, the learned vote, the rules of `selectllm.selection.adaptive` at all their
operating points with the cross-validated estimates of these, the pool's expected costs, and the versions that made it.
The pretrained encoder is found by its name, and is checked to be the same.
"""

import json
import pathlib
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import msgspec
import numpy as np

from selectllm.data import dataset
from selectllm.evaluate import answers, strategies
from selectllm.infra import paths, run_dir, trees
from selectllm.infra.typing import Array
from selectllm.models import inference, options, pretrained, sharding, tokenizer
from selectllm.selection import adaptive, baselines, calibration, confidence, constraints, learned_vote, voting
from selectllm.serve import decider

_FORMAT = 5
_FACTS = 'selector.json'
# Queries that are scored together, at most.
_BATCH = 64


class SelectorError(RuntimeError):
  """A directory that holds no selector, or one that cannot be used here."""


class Arrays(NamedTuple):
  """The numbers that a selector decides by.

  Attributes:
    estimator: Of log-odds, from an embedding and a text.
    weights: Of the learned vote.
    vote: Of `strategies.VOTES_OF_ALL`.
    rules: By name, at all operating points.
    calibrators: Of P(the answer is right), see `strategies.Rules`.
    expected: float32[K], the expected cost of a call, in the selector's cost_unit.
    latency_s: float32[K], its expected seconds; NaN where unknown.
    cost_usd: float32[K], its expected dollars; NaN where unknown.
  """

  estimator: confidence.Estimator
  weights: learned_vote.Weights
  vote: baselines.FixedVote
  rules: dict[str, adaptive.Rule]
  calibrators: dict[str, calibration.Calibrator]
  expected: np.ndarray
  latency_s: np.ndarray
  cost_usd: np.ndarray


class State(NamedTuple):
  """N queries before any call: confidences and calibrated log-odds, float32[N, K]."""

  confidences: Array
  logits: Array


class Choice(NamedTuple):
  """The LLMs to call first for one query.

  Attributes:
    query: Its text.
    llms: The LLMs to call at once.
    confidences: How likely each LLM of the pool is right, most likely first.
  """

  query: str
  llms: tuple[str, ...]
  confidences: dict[str, float]


def _template(rules: Sequence[str], calibrated: Sequence[str]) -> Arrays:
  """Returns the structure of the arrays of a selector with these rules, and these names of calibrators."""
  leaf: Any = 0
  calibrator = calibration.Calibrator(*[leaf] * len(calibration.Calibrator._fields))
  return Arrays(
    confidence.TEMPLATE.estimator,
    learned_vote.Weights(*[leaf] * len(learned_vote.Weights._fields)),
    baselines.FixedVote(leaf, leaf),
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
  fold: strategies.FoldResult,
  classifier_latency_s: float,
  added: dict[str, Any] | None = None,
) -> None:
  """Saves the selector of a run, in place of what is there; complete or not at all.

  The facts name the files that belong to them and are written last: until then the selector that was there stands.

  Args:
    directory: `selector/` of a run directory.
    config: The run's, kept with the selector.
    data: Its data set.
    fold: The results of its one split.
    classifier_latency_s: Seconds from one query's text to its confidences.
    added: Facts of LLMs that were added later.
  """
  directory.mkdir(parents=True, exist_ok=True)
  arrays = f'arrays-{secrets.token_hex(4)}.npz'
  with (directory / arrays).open('wb') as file:
    np.savez_compressed(file, **trees.named(_arrays(data.responses, fold)))
  facts = {
    'format': _FORMAT,
    'dataset': data.name,
    'llms': list(data.llms),
    'rules': list(fold.rules.rules),
    'cost_unit': fold.rules.cost_unit,
    'latency': data.latency_is,
    'estimated': msgspec.to_builtins(fold.rules.estimated),
    'references': msgspec.to_builtins(fold.rules.references),
    'confidence': fold.rules.confidence,
    'horizon': fold.rules.horizon,
    'classifier_latency_s': classifier_latency_s,
    'added': added,
    'arrays': arrays,
    'encoder_sha256': _encoder_sha256(config),
    'config': json.loads(config.to_json_best_effort()),
    'environment': run_dir.environment(),
  }
  with paths.atomic_write(directory / _FACTS) as partial:
    partial.write_text(json.dumps(facts, indent=2) + '\n')
  for path in directory.iterdir():
    if path.name not in (_FACTS, arrays):
      if path.is_dir():
        paths.remove(path)
      else:
        path.unlink(missing_ok=True)


def _arrays(responses: dataset.Responses, fold: strategies.FoldResult) -> Arrays:
  seen = responses.observed[fold.fitting_rows]

  def mean_of_calls(values: np.ndarray) -> np.ndarray:
    return (np.where(seen, values[fold.fitting_rows], 0).sum(0) / seen.sum(0)).astype(np.float32)

  with np.errstate(invalid='ignore'):
    latency_s, cost_usd = mean_of_calls(responses.latency_s), mean_of_calls(responses.cost_usd)
  rules, estimator = fold.rules, fold.confidences.estimator
  return Arrays(
    estimator, rules.weights, rules.vote, rules.rules, rules.calibrators, rules.expected_cost, latency_s, cost_usd
  )


def load(
  directory: str | pathlib.Path, limit: str = 'none', mesh: ml_collections.ConfigDict | None = None
) -> 'Selector':
  """Loads a selector.

  Args:
    directory: What `save` wrote, `selector/` of a run directory.
    limit: A constraint on the calls, see `selectllm.selection.constraints`; none for the most accurate operating point.
    mesh: `data` and `fsdp`, devices; one by default.

  Raises:
    SelectorError: when there is none, it is of another format, its encoder is not the one that it was made with, or no
      operating point keeps the constraint.
    ValueError: for a text that is no constraint.
  """
  directory = paths.place(directory)
  if not (directory / _FACTS).is_file():
    raise SelectorError(f'{str(directory)!r} holds no selector: it has no {_FACTS}. Runs keep theirs in selector/')
  facts = json.loads((directory / _FACTS).read_text())
  if facts['format'] != _FORMAT:
    raise SelectorError(
      f'{directory} was saved by another version of selectllm (format {facts["format"]}, this one reads {_FORMAT}): '
      'run its experiment again, in another workdir'
    )
  config = ml_collections.ConfigDict(facts['config'])
  config.mesh = ml_collections.ConfigDict({'data': 1, 'fsdp': 1}) if mesh is None else mesh
  if (found := _encoder_sha256(config)) != facts['encoder_sha256']:
    raise SelectorError(
      f'the encoder {config.encoder.name} found here has other weights ({found[:12]}...) than the one that '
      f'{directory} was made with ({facts["encoder_sha256"][:12]}...)'
    )
  with (directory / facts['arrays']).open('rb') as file, np.load(file) as stored:
    arrays = trees.restore(_template(facts['rules'], list(facts['estimated'])), stored)
  model = inference.make_model(options.from_config(config), len(facts['llms']) - len(arrays.estimator.added))
  return Selector(facts, arrays, model, constraints.parse(limit))


class Selector:
  """Chooses calls for new queries; also live, stage after stage: see `decider.Decider`."""

  in_stages = True

  def __init__(self, facts: dict[str, Any], arrays: Arrays, model: inference.Model, limit: constraints.Constraint):
    """Takes what `load` read; raises SelectorError when no operating point keeps the constraint."""
    self.llms: tuple[str, ...] = tuple(facts['llms'])
    self.limit = limit
    self._facts, self._arrays, self._model = facts, arrays, model
    points = msgspec.convert(facts['estimated'], dict[str, list[constraints.Point]])
    chosen = strategies.choose_from(
      points,
      msgspec.convert(facts['references'], dict[str, constraints.Point]),
      limit,
      cost_unit=facts['cost_unit'],
      confidence=facts['confidence'],
      horizon=facts['horizon'],
    )
    if chosen is None:
      raise SelectorError(
        f'no operating point keeps {limit.text!r} with probability {facts["confidence"]:g} on {facts["horizon"]:,} new '
        f'queries; {_reach(points)}'
      )
    self._name, self.operating_point = chosen
    self.estimated = points[self._name][self.operating_point].means
    # A constraint on single queries is one on what `adaptive` does, with estimates and calibrators of its own.
    fixed, rules = strategies.is_fixed(self._name), arrays.rules
    self.rule = self._name if fixed or self._name in rules else 'adaptive'
    self._rule = None if fixed else rules[self.rule]
    alone = [self._name == f'single:{llm}' for llm in self.llms]
    self._same = np.array(alone) if any(alone) else np.ones(len(alone), bool)
    self._budget = np.float32(limit.value if limit.quantity == 'query_compute_seconds' else np.inf)

  @property
  def latency_is(self) -> str:
    """Says where the seconds of its pool are from: measured, published, estimated or unknown."""
    return self._facts['latency']

  def facts(self, asked: int) -> answers.DeciderFacts:
    """Describes the selector in the report of answers."""
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
    """Scores N queries; `available` changes nothing here."""
    del available
    rows = _rows(len(texts), batch_size)
    blocks = [texts[start : start + rows] for start in range(0, len(texts), rows)]
    scored = [State(*(array[: len(block)] for array in self._score(block, rows))) for block in blocks]
    return State(*map(np.concatenate, zip(*scored, strict=True)))

  def _score(self, texts: Sequence[str], rows: int) -> State:
    """Scores at most `rows` queries, some of them twice where there are fewer: arrays [rows, K].

    Rows are as long as a power of two, so that what is compiled serves other queries too.
    """
    model = self._model
    rows = -(-rows // model.mesh.size) * model.mesh.size
    filled = [texts[row % len(texts)] for row in range(rows)]
    tokens = model.tokenize(filled)
    length = min(_power_of_two(max(int(tokens.lengths.max()), tokenizer.LENGTH_MULTIPLE)), model.tokenize.max_length)
    place = sharding.batch_sharding(model.mesh)
    with sharding.use(model.mesh):  # a thread has a mesh of its own
      batch = (
        jax.make_array_from_callback(array.shape, place, array.__getitem__)
        for array in (*tokens.rows(np.arange(rows)[:, None], length), np.ones((rows, 1, 1), bool))
      )
      embedded = inference.unit(np.asarray(model.embed_step(model.params, *batch)))
    logits = confidence.estimate(self._arrays.estimator, filled, embedded)
    return State(1 / (1 + np.exp(-logits)), logits)

  def decide(self, state: State, revealed: decider.Revealed) -> np.ndarray:
    """Returns the LLMs to call next, bool[N, K]; nobody, to stop."""
    if self._rule is None:
      return self._decide_same(state, revealed)
    weights, expected = self._arrays.weights, self._arrays.expected
    found = _next(self._rule, weights, self.operating_point, state.logits, *revealed, expected, self._budget)
    return np.asarray(found)

  def _decide_same(self, state: State, revealed: decider.Revealed) -> np.ndarray:
    """Returns the same LLMs, bool[N, K], or where none can be called the most confident other; nobody once one was."""
    same = self._same & revealed.available
    other = np.eye(len(self.llms), dtype=bool)[np.argmax(np.where(revealed.available, state.logits, -np.inf), 1)]
    first = np.where(same.any(1, keepdims=True), same, other & revealed.available)
    return first & ~revealed.called.any(1, keepdims=True)

  def finish(self, state: State, revealed: decider.Revealed) -> decider.Finished:
    """Returns the likeliest answers (or those that the vote of all elects), and how likely they are right."""
    weights, seen = self._arrays.weights, (state.logits, revealed.answers, revealed.called)
    if self._name in strategies.VOTES_OF_ALL:
      vote, over = self._arrays.vote.of(self._name), self._facts['config']['evaluate']['vote']
      answer, top = map(np.asarray, learned_vote.elect(weights, *seen, *vote, over=over))
    else:
      answer, top = map(np.asarray, _finish(weights, *seen))
    p_right = self._probability(self._name, top)
    if strategies.is_single(self._name):  # where another LLM took its place, that one's own calibrator counts
      for place in np.flatnonzero(revealed.called.any(0) & ~self._same):
        name, rows = f'single:{self.llms[place]}', revealed.called[:, place]
        if name in self._arrays.calibrators:
          p_right[rows] = self._probability(name, top[rows])
    return decider.Finished(answer, np.where(answer == voting.NO_ANSWER, 0.0, p_right))

  def _probability(self, name: str, top: np.ndarray) -> np.ndarray:
    point = self.operating_point if name == self._name else 0
    calibrator = calibration.Calibrator(*(array[point] for array in self._arrays.calibrators[name]))
    return strategies.probability(calibrator, top)

  def select(self, queries: Sequence[str]) -> list[Choice]:
    """Chooses the LLMs to call first for each query.

    Queries are taken in blocks of one shape, those of like length together: nothing is compiled anew for another
    number of them, and memory does not grow with it but for the results.
    """
    rows = _rows(len(queries), _BATCH)
    order = sorted(range(len(queries)), key=lambda place: len(queries[place]))
    choices: dict[int, Choice] = {}
    for start in range(0, len(queries), rows):
      block = order[start : start + rows]
      choices |= zip(block, self._select([queries[place] for place in block], rows), strict=True)
    return [choices[place] for place in range(len(queries))]

  def _select(self, queries: Sequence[str], rows: int) -> list[Choice]:
    state = self._score(queries, rows)
    count, pool = state.logits.shape
    answers = np.full((count, pool, 1), voting.NO_ANSWER, np.int16)
    called = np.zeros((count, pool), bool)
    masks = self.decide(state, decider.Revealed(answers, called, ~called))
    choices = []
    for query, confidences, mask in zip(queries, state.confidences, masks, strict=False):
      order = np.argsort(-confidences, kind='stable')
      likely = {self.llms[place]: float(confidences[place]) for place in order}
      choices.append(Choice(query, tuple(self.llms[place] for place in order if mask[place]), likely))
    return choices


def _reach(points: dict[str, list[constraints.Point]]) -> str:
  means = [point.means for of in points.values() for point in of]
  accuracies, seconds = (
    [value for of in means if (value := of[unit]) is not None] for unit in ('accuracy', 'compute_seconds')
  )
  reach = f'accuracy goes up to {max(accuracies):.3f}'
  return reach + (f', mean summed compute down to {min(seconds):.3g} s' if seconds else '')


def _rows(count: int, most: int) -> int:
  """Returns how many rows blocks of `count` queries have: a power of two for a few, so that few shapes are compiled."""
  return min(_power_of_two(count), most)


def _power_of_two(least: int) -> int:
  return 1 << max(least - 1, 0).bit_length()


@jax.jit
def _next(rule, weights, operating_point, logits, answers, called, available, expected, budget):
  def one(logits, answers, called, available):
    says = learned_vote.count_votes(answers)
    action = adaptive.decide(rule, weights, operating_point, logits, says, called, available, expected, budget).action
    chosen = jnp.zeros(logits.size, bool).at[rule.llms].set(rule.actions[action])
    return chosen & (action >= 0)

  return jax.vmap(one)(logits, answers, called, available)


@jax.jit
def _finish(weights, logits, answers, called):
  def one(logits, answers, called):
    found = learned_vote.posterior(weights, logits, learned_vote.count_votes(answers), called)
    return found.answer, found.top

  return jax.vmap(one)(logits, answers, called)
