"""Training: the state, the step, and the loop that reads from top to bottom."""

import contextlib
import logging
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import nnx

from selectllm.data import dataset, splits
from selectllm.infra import distributed, metric_writer
from selectllm.models import inference, sharding, tokenizer
from selectllm.train import checkpoints, input_pipeline, optimizers

_LOG = logging.getLogger(__name__)

LOSSES = ('bce', 'balanced_bce')
# Steps that a profile is of.
_TRACED = 5


class TrainState(NamedTuple):
  """What a step changes: steps taken, parameters, optimiser state."""

  step: jax.Array
  params: nnx.State
  opt_state: optax.OptState


def masked_bce(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> jax.Array:
  """Binary cross-entropy (PAPER: classifier), the weighted mean over all (query, LLM) pairs.

  Args:
    logits: float32[B, K].
    labels: float32[B, K] in [0, 1].
    weight: float32[B, K], 0 for what was not observed.
  """
  losses = optax.sigmoid_binary_cross_entropy(logits, labels)
  return jnp.sum(losses * weight) / jnp.maximum(jnp.sum(weight), 1e-9)


def loss_weight(labels: np.ndarray, observed: np.ndarray, train: np.ndarray, loss: str) -> np.ndarray:
  """What every (query, LLM) pair counts in the loss.

  Args:
    labels: float32[N, K].
    observed: bool[N, K].
    train: int[T], the training queries; only their labels are looked at.
    loss: `bce`: 1 where observed. `balanced_bce`: right and wrong answers of each LLM weigh the same in total.

  Returns:
    float32[N, K].

  Raises:
    ValueError: for another loss.
  """
  if loss not in LOSSES:
    raise ValueError(f'config.train.loss={loss!r} is not one of {", ".join(LOSSES)}')
  if loss == 'bce':
    return observed.astype(np.float32)
  seen = observed[train]
  count = np.maximum(seen.sum(0), 2)
  right = np.clip(np.sum(labels[train] * seen, 0) / count, 1 / count, 1 - 1 / count)
  return (observed * np.where(labels >= 0.5, 0.5 / right, 0.5 / (1 - right))).astype(np.float32)


def make_train_step(
  graphdef: nnx.GraphDef, optimizer: optax.GradientTransformation, seed: int
) -> Callable[[TrainState, input_pipeline.Batch], tuple[TrainState, dict[str, jax.Array]]]:
  """Makes the pure function of one step; see `fit` for how it is jitted."""

  def step(state: TrainState, batch: input_pipeline.Batch) -> tuple[TrainState, dict[str, jax.Array]]:
    def loss_fn(params: nnx.State) -> jax.Array:
      rngs = nnx.Rngs(dropout=jax.random.fold_in(jax.random.key(seed), state.step))
      logits = nnx.merge(graphdef, params)(*batch.inputs, deterministic=False, rngs=rngs)
      return masked_bce(logits.reshape(batch.labels.shape), batch.labels, batch.weight)

    loss, gradient = jax.value_and_grad(loss_fn)(state.params)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    norms = {'gradient_norm': optax.global_norm(gradient), 'update_norm': optax.global_norm(updates)}
    return TrainState(state.step + 1, params, opt_state), {'loss': loss, **norms}

  return step


def _validation_loss(
  confidences: np.ndarray, responses: dataset.Responses, rows: np.ndarray, weight: np.ndarray
) -> float:
  likely = np.clip(confidences.astype(np.float64), 1e-7, 1 - 1e-7)
  losses = -(responses.labels[rows] * np.log(likely) + (1 - responses.labels[rows]) * np.log1p(-likely))
  return float(np.sum(losses * weight[rows]) / np.sum(weight[rows]))


def _scorer(
  trained: inference.Model,
  inputs: tokenizer.Tokens | input_pipeline.Features,
  rows: np.ndarray,
  available: np.ndarray,
  batch_size: int,
) -> Callable[[nnx.State], np.ndarray]:
  """What gives the confidences float32[N, K] of the queries `rows` by some parameters of what is trained."""
  if isinstance(inputs, tokenizer.Tokens):
    tokens = inputs
    return lambda params: (
      inference.score_queries(trained, params, tokens, rows, available, batch_size=batch_size).confidences
    )
  features = inputs.values[rows]
  head = jax.jit(
    lambda params, features: jax.nn.sigmoid(nnx.merge(trained.graphdef, params)(features)),
    out_shardings=sharding.replicated(trained.mesh),
  )
  return lambda params: np.asarray(head(params, features))


def _what_is_trained(config: ml_collections.ConfigDict, model: inference.Model) -> inference.Model:
  """The model, or where the encoder is frozen its head alone, which reads `input_pipeline.Features`."""
  if not config.encoder.freeze:
    return model
  graphdef, params = nnx.split(nnx.merge(model.graphdef, model.params).head)
  return model._replace(graphdef=graphdef, params=params)


def init_state(model: inference.Model, optimizer: optax.GradientTransformation) -> TrainState:
  """The state before the first step, laid out like the parameters, of which it holds a copy: steps donate it."""
  step = jax.device_put(jnp.zeros((), jnp.int32), sharding.replicated(model.mesh))
  return TrainState(
    step, jax.tree.map(jnp.copy, model.params), sharding.create(model.mesh, optimizer.init, model.params)
  )


class _TrainingLog:
  """What a training tells: its losses, where its time goes, how much is left. Only the first process is heard.

  Steps are dispatched ahead, and only `flush` waits for them: `step` is the time of both. `input` is how long the next
  batch was waited for; the devices may have been busy meanwhile with what was dispatched, so it is the most that they
  can have been idle for want of input. Checkpoints are written in the background: `checkpoint` is what held up the
  loop.
  """

  def __init__(self, workdir: pathlib.Path, start: int, steps: int, per_epoch: int):
    self.clock = metric_writer.Clock('input', 'step', 'evaluation', 'checkpoint')
    self._metrics = metric_writer.MetricWriter(workdir, resumed_step=start) if distributed.is_first() else None
    self._progress = metric_writer.Progress('Training', steps, start=start)
    self._per_epoch = per_epoch
    self._pending: list[tuple[int, dict[str, jax.Array]]] = []
    self._validation = ''

  def note(self, step: int, scalars: dict[str, jax.Array]) -> None:
    """Takes the scalars of a step, for which nobody waits yet."""
    self._pending.append((step, scalars))

  def flush(self, step: int) -> None:
    """Writes the scalars of the steps since the last time.

    Called before every checkpoint, so that no step after which something is not finite is ever saved.

    Raises:
      FloatingPointError: names the first such step.
    """
    with self.clock.on('step'):
      pending = jax.device_get(self._pending)
    self._pending.clear()
    for number, scalars in pending:
      values = {name: float(value) for name, value in scalars.items()}
      if strange := {name: value for name, value in values.items() if not np.isfinite(value)}:
        raise FloatingPointError(
          f'not finite at step {number}: {strange}; the last checkpoint is from before it. Lower '
          'config.train.learning_rate, head_learning_rate or clip_norm, or use config.encoder.dtype=float32.'
        )
      self._write(number, **values)
    note = f'epoch {step / self._per_epoch:.1f}, loss {values["loss"]:.4f}{self._validation}'
    self._progress.update(step, f'{note} ({self.clock.shares()})')

  def validated(self, step: int, loss: float) -> None:
    """Writes the loss on validation."""
    self._write(step, validation_loss=loss)
    self._validation = f', validation loss {loss:.4f}'

  def flush_time(self, step: int) -> None:
    """Writes where the time since the last time went."""
    self._write(step, **{f'{part}_s': seconds for part, seconds in self.clock.since_last().items()})

  def _write(self, step: int, **scalars: float) -> None:
    if self._metrics:
      self._metrics.write(step, **scalars)

  def close(self) -> None:
    """Closes files and takes the bar off the terminal."""
    self._progress.close()
    if self._metrics:
      self._metrics.close()


class _ProfileTrace:
  """Traces a few steps: of the second epoch, when all lengths have been compiled, or the last of a short training."""

  def __init__(self, folder: pathlib.Path, start: int, steps: int, per_epoch: int, *, wanted: bool):
    self._folder, self._steps = folder, range(0)
    if wanted:
      first = max(start + 1, min(start + per_epoch + 1, steps - _TRACED + 1))
      self._steps = range(first, min(first + _TRACED, steps + 1))

  def before(self, step: int) -> None:
    """Begins the trace where it is time."""
    if self._steps and step == self._steps.start:
      options = jax.profiler.ProfileOptions()
      options.python_tracer_level = 0  # every call of Python's would be traced, and slowed down
      jax.profiler.start_trace(self._folder, profiler_options=options)

  def after(self, step: int, state: TrainState) -> None:
    """Ends the trace, once the devices have done the steps that it is of."""
    if self._steps and step == self._steps[-1]:
      jax.block_until_ready(state)
      jax.profiler.stop_trace()
      _LOG.info(
        'Steps %d to %d were traced: tensorboard --logdir %s (with tensorboard-plugin-profile), or open the '
        '*.trace.json.gz below it at ui.perfetto.dev',
        self._steps.start, step, self._folder,
      )  # fmt: skip


def fit(
  config: ml_collections.ConfigDict,
  model: inference.Model,
  tokens: tokenizer.Tokens,
  responses: dataset.Responses,
  split: np.ndarray,
  workdir: pathlib.Path,
) -> tuple[int, nnx.State]:
  """Trains from wherever the run directory stands.

  Args:
    config: The whole config.
    model: From `inference.make_model`.
    tokens: N tokenized queries.
    responses: Their votes.
    split: int8[N], see `splits.assign`; test queries are not looked at.
    workdir: Takes checkpoints, metrics.jsonl and TensorBoard events.

  Returns:
    The step with the lowest validation loss, and its parameters.

  Raises:
    ValueError: when the devices do not divide the batch size.
    FloatingPointError: when loss, gradient or update are no longer finite; names the step.
    checkpoint.CheckpointError: when a checkpoint cannot be read.
    SystemExit: with code 0 on SIGTERM, once the step reached was saved.
  """
  options = config.train
  if options.batch_size % model.mesh.size:
    raise ValueError(f'config.train.batch_size={options.batch_size} does not divide over {model.mesh.size} devices')
  train, validation = (np.flatnonzero(split == part) for part in (splits.TRAIN, splits.VALIDATION))
  weight = loss_weight(responses.labels, responses.observed, train, options.loss)
  trained = _what_is_trained(config, model)
  inputs: tokenizer.Tokens | input_pipeline.Features = tokens
  if config.encoder.freeze:
    inputs = input_pipeline.Features(inference.cached_embeddings(config, model, tokens), tokens.lengths)
  source = input_pipeline.TrainingBatches(
    inputs,
    train,
    responses.labels,
    weight,
    batch_size=options.batch_size,
    epochs=options.epochs,
    max_length=model.tokenize.max_length,
    seed=config.seed,
    process=(jax.process_index(), jax.process_count()),
  )
  steps, per_epoch = len(source), source.steps_per_epoch

  optimizer = optimizers.make_optimizer(options, steps, freeze_encoder=config.encoder.freeze)
  state = init_state(trained, optimizer)
  abstract = sharding.abstract(model.mesh, state)
  with contextlib.ExitStack() as exits:
    manager = exits.enter_context(checkpoints.open_manager(workdir / 'checkpoints'))
    # What an earlier run left takes precedence over a fresh start.
    state = checkpoints.restore_latest(manager, abstract) or state
    start = int(state.step)
    _LOG.info('Parameters and optimiser: %s', sharding.bytes_held(model.mesh, state))
    iterator = input_pipeline.training_iterator(source, start)
    account = exits.enter_context(contextlib.closing(_TrainingLog(workdir, start, steps, per_epoch)))
    wanted = config.profile and distributed.is_first()
    trace = _ProfileTrace(workdir / 'profile', start, steps, per_epoch, wanted=wanted)
    must_stop = exits.enter_context(distributed.asked_to_stop())
    step_fn = jit_train_step(trained, optimizer, abstract, config.seed)
    validate = _scorer(trained, inputs, validation, responses.observed[validation], config.evaluate.batch_size)
    for step in range(start + 1, steps + 1):
      trace.before(step)
      with account.clock.on('input'):
        batch = on_mesh(next(iterator), model.mesh)
      with account.clock.on('step'), jax.transfer_guard('disallow'):
        state, scalars = step_fn(state, batch)
      account.note(step, scalars)
      trace.after(step, state)
      stops, epoch_ends = must_stop(step), step % per_epoch == 0
      saves = stops or epoch_ends or (options.checkpoint_every_steps and step % options.checkpoint_every_steps == 0)
      if not saves and step % options.log_every_steps:
        continue
      account.flush(step)
      if saves:
        loss = None
        if epoch_ends:
          with account.clock.on('evaluation'):
            loss = _validation_loss(validate(state.params), responses, validation, weight)
          account.validated(step, loss)
        with account.clock.on('checkpoint'):
          checkpoints.save(manager, step, state, loss)
      account.flush_time(step)
      if stops:
        manager.wait_until_finished()
        _LOG.info('Stopped by SIGTERM: step %d of %d is saved, and the same command goes on from there', step, steps)
        raise SystemExit(0)
  return load_best(config, model, workdir)


def load_best(
  config: ml_collections.ConfigDict, model: inference.Model, workdir: pathlib.Path
) -> tuple[int, nnx.State]:
  """What `fit` returns, from the checkpoints that it left; trains nothing.

  Raises:
    checkpoint.CheckpointError: when there is none, or it cannot be read.
  """
  optimizer = optimizers.make_optimizer(config.train, 1, freeze_encoder=config.encoder.freeze)
  trained = _what_is_trained(config, model)
  abstract = sharding.abstract(model.mesh, jax.eval_shape(lambda: init_state(trained, optimizer)))
  with checkpoints.open_manager(workdir / 'checkpoints') as manager:
    step, state = checkpoints.restore_best(manager, abstract)
  _LOG.info('The validation loss was lowest at step %d', step)
  if trained is model:
    return step, state.params
  whole = nnx.merge(model.graphdef, jax.tree.map(lambda array: array, model.params))  # a copy: it is updated in place
  nnx.update(whole.head, state.params)
  return step, nnx.state(whole)


def jit_train_step(
  model: inference.Model, optimizer: optax.GradientTransformation, abstract: TrainState, seed: int
) -> Callable[[TrainState, input_pipeline.Batch], tuple[TrainState, dict[str, jax.Array]]]:
  """Compiles the step on the model's mesh; it donates the state, so keep none that was passed in."""
  shardings = jax.tree.map(lambda array: array.sharding, abstract)
  return jax.jit(
    make_train_step(model.graphdef, optimizer, seed),
    in_shardings=(shardings, sharding.batch_sharding(model.mesh)),
    out_shardings=(shardings, sharding.replicated(model.mesh)),
    donate_argnums=0,
  )


def on_mesh(batch: input_pipeline.Batch, mesh: jax.sharding.Mesh) -> input_pipeline.Batch:
  """Lays this process's share of a batch over the mesh."""
  place = sharding.batch_sharding(mesh)
  return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(place, rows), batch)
