"""Trains the classifier; `fit` reads from top to bottom."""

import contextlib
import logging
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from selectllm.data import dataset, splits
from selectllm.infra import distributed
from selectllm.models import inference, sharding, tokenizer
from selectllm.train import checkpoints, input_pipeline, log, optimizers, options

_LOG = logging.getLogger(__name__)

LOSSES = ('bce', 'balanced_bce')


class TrainState(NamedTuple):
  """Holds what a step changes: steps taken, parameters, optimiser state."""

  step: jax.Array
  params: nnx.State
  opt_state: optax.OptState


class _Task(NamedTuple):
  """Parts of a training.

  Attributes:
    model: The classifier.
    source: The batches of all steps.
    optimizer: For as many steps.
    validation_loss: Of parameters.
  """

  model: inference.Model
  source: input_pipeline.TrainingBatches
  optimizer: optax.GradientTransformation
  validation_loss: Callable[[nnx.State], float]


def fit(
  wanted: options.TrainOptions,
  model: inference.Model,
  tokens: tokenizer.Tokens,
  responses: dataset.Responses,
  split: np.ndarray,
  workdir: pathlib.Path,
) -> tuple[int, nnx.State]:
  """Trains from wherever the run directory stands.

  Args:
    wanted: How.
    model: From `inference.make_model`.
    tokens: N tokenized queries.
    responses: Their responses.
    split: int8[N], see `splits.assign`; test queries are not looked at.
    workdir: Takes checkpoints, metrics.jsonl and TensorBoard events.

  Returns:
    The step with the lowest validation loss, and its parameters.

  Raises:
    ValueError: when the devices do not divide the batch size.
    FloatingPointError: when loss, gradient or update are no longer finite; names the step.
    checkpoints.CheckpointError: when a checkpoint cannot be read.
    SystemExit: with code 0 on SIGTERM, once the step reached was saved.
  """
  if wanted.batch_size % model.mesh.size:
    raise ValueError(f'config.train.batch_size={wanted.batch_size} does not divide over {model.mesh.size} devices')
  _train(wanted, _make_task(wanted, model, tokens, responses, split), workdir)
  return load_best(wanted, model, workdir)


def load_best(wanted: options.TrainOptions, model: inference.Model, workdir: pathlib.Path) -> tuple[int, nnx.State]:
  """Reads what `fit` returns from the checkpoints that it left; trains nothing.

  Raises:
    checkpoints.CheckpointError: when there is none, or it cannot be read.
  """
  optimizer = optimizers.make_optimizer(wanted, 1)
  abstract = sharding.abstract(model.mesh, jax.eval_shape(lambda: init_state(model, optimizer)))
  with checkpoints.open_manager(workdir / 'checkpoints') as manager:
    step, state = checkpoints.restore_best(manager, abstract)
  _LOG.info('The validation loss was lowest at step %d', step)
  return step, state.params


def _make_task(
  wanted: options.TrainOptions,
  model: inference.Model,
  tokens: tokenizer.Tokens,
  responses: dataset.Responses,
  split: np.ndarray,
) -> _Task:
  """Puts together what is trained, on what, and how; see `fit`."""
  train, validation = (np.flatnonzero(split == part) for part in (splits.TRAIN, splits.VALIDATION))
  weight = loss_weight(responses.labels, responses.observed, train, wanted.loss)
  source = input_pipeline.TrainingBatches(
    tokens,
    train,
    responses.labels,
    weight,
    batch_size=wanted.batch_size,
    epochs=wanted.epochs,
    max_length=model.tokenize.max_length,
    seed=wanted.seed,
    process=(jax.process_index(), jax.process_count()),
  )

  def validation_loss(params: nnx.State) -> float:
    scores = inference.score_queries(
      model, params, tokens, validation, responses.observed[validation], batch_size=wanted.scoring_batch_size
    )
    return _validation_loss(scores.confidences, responses.labels[validation], weight[validation])

  return _Task(model, source, optimizers.make_optimizer(wanted, len(source)), validation_loss)


def _train(wanted: options.TrainOptions, task: _Task, workdir: pathlib.Path) -> None:
  """Takes all steps that are left, and leaves checkpoints."""
  mesh, steps, per_epoch = task.model.mesh, len(task.source), task.source.steps_per_epoch
  state = init_state(task.model, task.optimizer)
  abstract = sharding.abstract(mesh, state)
  with contextlib.ExitStack() as exits:
    manager = exits.enter_context(checkpoints.open_manager(workdir / 'checkpoints'))
    # What an earlier run left takes precedence over a fresh start.
    state = checkpoints.restore_latest(manager, abstract) or state
    start = int(state.step)
    _LOG.info('Parameters and optimiser: %s', sharding.bytes_held(mesh, state))
    batches = input_pipeline.training_iterator(task.source, start)
    told = exits.enter_context(contextlib.closing(log.TrainingLog(workdir, start, steps, per_epoch)))
    profile = wanted.profile and distributed.is_first()
    trace = log.ProfileTrace(workdir / 'profile', start, steps, per_epoch, wanted=profile)
    must_stop = exits.enter_context(distributed.watch_for_sigterm())
    take_step = jit_train_step(task.model, task.optimizer, abstract, wanted.seed)
    for step in range(start + 1, steps + 1):
      trace.before(step)
      with told.clock.on('input'):
        batch = on_mesh(next(batches), mesh)
      with told.clock.on('step'), jax.transfer_guard('disallow'):
        state, scalars = take_step(state, batch)
      told.note(step, scalars)
      trace.after(step, state)
      stops, epoch_ends = must_stop(step), step % per_epoch == 0
      saves = stops or epoch_ends or (wanted.checkpoint_every_steps and step % wanted.checkpoint_every_steps == 0)
      if not saves and step % wanted.log_every_steps:
        continue
      told.flush(step)
      if saves:
        loss = None
        if epoch_ends:
          with told.clock.on('evaluation'):
            loss = task.validation_loss(state.params)
          told.validated(step, loss)
        with told.clock.on('checkpoint'):
          checkpoints.save(manager, step, state, loss)
      told.flush_time(step)
      if stops:
        manager.wait_until_finished()
        _LOG.info('Stopped by SIGTERM: step %d of %d is saved, and the same command goes on from there', step, steps)
        raise SystemExit(0)


def init_state(model: inference.Model, optimizer: optax.GradientTransformation) -> TrainState:
  """Makes the state before the first step, laid out like the parameters, which it copies because steps donate it."""
  step = jax.device_put(jnp.zeros((), jnp.int32), sharding.replicated(model.mesh))
  return TrainState(
    step, jax.tree.map(jnp.copy, model.params), sharding.create(model.mesh, optimizer.init, model.params)
  )


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
    norms = {'gradient_norm': optax.tree.norm(gradient), 'update_norm': optax.tree.norm(updates)}
    return TrainState(state.step + 1, params, opt_state), {'loss': loss, **norms}

  return step


def masked_bce(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> jax.Array:
  """Returns the binary cross-entropy, the weighted mean over all (query, LLM) pairs.

  Args:
    logits: float32[B, K].
    labels: float32[B, K] in [0, 1].
    weight: float32[B, K], 0 for what was not observed.
  """
  losses = optax.sigmoid_binary_cross_entropy(logits, labels)
  return jnp.sum(losses * weight) / jnp.maximum(jnp.sum(weight), 1e-9)


def loss_weight(labels: np.ndarray, observed: np.ndarray, train: np.ndarray, loss: str) -> np.ndarray:
  """Weighs every (query, LLM) pair in the loss.

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


def _validation_loss(confidences: np.ndarray, labels: np.ndarray, weight: np.ndarray) -> float:
  """Returns the weighted mean log loss, in float64."""
  likely = np.clip(confidences.astype(np.float64), 1e-7, 1 - 1e-7)
  losses = -(labels * np.log(likely) + (1 - labels) * np.log1p(-likely))
  return float(np.sum(losses * weight) / np.sum(weight))
