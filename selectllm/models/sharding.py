"""Places arrays on devices: the mesh, and the rules that lay parameters and batches over it.

The mesh has two axes. `data` splits batches only; `fsdp` splits batches and, along their embedding dimension,
the parameters, so that a model (and its optimiser) may be larger than one device.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ('data', 'fsdp')

# Logical axis -> the mesh axes that split it. The devices along `data` hold replicas of the parameters.
RULES: dict[str, str | tuple[str, ...] | None] = {
  'batch': AXES,
  'embed': 'fsdp',
  'heads': None,
  'llm': None,
  'mlp': None,
  'replica': 'data',
  'vocab': None,
}


def make_mesh(data: int = -1, fsdp: int = 1) -> Mesh:
  """Makes the mesh.

  Args:
    data: Devices along `data`; -1 for as many as `fsdp` leaves.
    fsdp: Devices along `fsdp`; -1 for as many as `data` leaves.

  Returns:
    A mesh of the first `data * fsdp` devices.

  Raises:
    ValueError: when the sizes make no mesh of the devices that there are.
  """
  available, asked = jax.device_count(), f'a mesh of data={data} x fsdp={fsdp}'
  sizes = [data, fsdp]
  if any(size < 1 and size != -1 for size in sizes) or sizes == [-1, -1]:
    raise ValueError(f'{asked} has no size: give positive numbers, at most one of them -1')
  if -1 in sizes:
    given = max(sizes)
    if available % given:
      raise ValueError(f'{asked}: {given} does not divide the {available} devices that there are')
    sizes[sizes.index(-1)] = available // given
  wanted = math.prod(sizes)
  if wanted > available:
    raise ValueError(f'{asked} takes {wanted} devices, there are {available} ({jax.default_backend()})')
  if wanted < available and jax.process_count() > 1:
    raise ValueError(f'{asked} takes {wanted} devices; {jax.process_count()} hosts have to use all {available}')
  return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:wanted])


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of a batch: its first dimension, which `data * fsdp` has to divide, over all devices."""
  return NamedSharding(mesh, PartitionSpec(RULES['batch']))


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of what every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


@contextlib.contextmanager
def use(mesh: Mesh) -> Iterator[None]:
  """Lays the activations of modules that are traced inside over the mesh.

  Results are the same without; memory and speed on more than one device are not.
  """
  with jax.set_mesh(mesh), nnx.logical_axis_rules(tuple(RULES.items())):
    yield


def abstract(mesh: Mesh, tree: Any) -> Any:
  """Describes the arrays of a tree, each with the sharding that it is to have.

  Parameters follow `RULES` by their logical axes, and so does what an optimiser keeps per parameter; all other
  arrays are replicated.

  Args:
    mesh: The mesh.
    tree: Any tree of arrays or of their descriptions; parameters in it are `nnx.Variable`s.

  Returns:
    The same tree of `jax.ShapeDtypeStruct`s with shardings: what Orbax restores into.

  Raises:
    ValueError: when a parameter's dimension does not divide over the devices that are to split it.
  """

  def describe(path: jax.tree_util.KeyPath, node: Any) -> Any:
    axes = node.get_metadata().get('out_sharding', ()) if isinstance(node, nnx.Variable) else ()
    spec = PartitionSpec(*(RULES[axis] if axis else None for axis in axes))
    return jax.tree.map(lambda array: _describe_array(path, array, NamedSharding(mesh, spec)), node)

  return jax.tree.map_with_path(describe, tree, is_leaf=lambda node: isinstance(node, nnx.Variable))


def _describe_array(path: jax.tree_util.KeyPath, array: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
  for size, axis in zip(array.shape, sharding.spec, strict=False):
    if axis and size % sharding.mesh.shape[axis]:
      raise ValueError(
        f'{jax.tree_util.keystr(path, simple=True, separator=".")} has the shape {array.shape}; its {size} does not '
        f'divide over {axis}={sharding.mesh.shape[axis]}: choose a divisor of {size}'
      )
  return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


def bytes_held(mesh: Mesh, tree: Any) -> str:
  """Says how large the arrays of a tree are, and what of them each device holds."""
  whole = held = 0
  for array in jax.tree.leaves(tree):
    whole += array.nbytes
    held += math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
  sizes = ' x '.join(f'{axis}={size}' for axis, size in mesh.shape.items())
  return f'{whole / 1e6:,.1f} MB, {held / 1e6:,.1f} MB on each of {mesh.size} devices ({sizes})'


def create(mesh: Mesh, init: Callable[..., Any], *args: Any) -> Any:
  """Runs `init(*args)` so that no device ever holds more than its own share of the result.

  Args:
    mesh: The mesh.
    init: A function of arrays to a tree of arrays, for example an optimiser's `init`.
    *args: Its arguments.

  Returns:
    The result, laid out as `abstract` describes it.

  Raises:
    ValueError: as `abstract` does.
  """
  shapes = abstract(mesh, jax.eval_shape(init, *args))
  return jax.jit(init, out_shardings=jax.tree.map(lambda array: array.sharding, shapes))(*args)


def create_sharded(
  mesh: Mesh, make_module: Callable[[nnx.Rngs], nnx.Module], seed: int
) -> tuple[nnx.GraphDef, nnx.State]:
  """Makes a module whose parameters are born sharded.

  Args:
    mesh: The mesh.
    make_module: Makes the module; the same seed gives the same parameters on any mesh.
    seed: Seeds the `nnx.Rngs` that `make_module` gets.

  Returns:
    The module's graph definition and its parameters: `nnx.merge(graphdef, params)` is the module.

  Raises:
    ValueError: as `abstract` does.
  """
  return create(mesh, lambda: nnx.split(make_module(nnx.Rngs(seed))))
