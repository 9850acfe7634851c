"""Fixtures for all tests, and the devices that they run on."""

import os
import pathlib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
  import jax

# Read when jax is first imported: eight fake devices on the CPU, and compilation that is quick, not thorough.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('XLA_FLAGS', '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0')


@pytest.fixture
def mesh() -> 'jax.sharding.Mesh':
  """A mesh of one device."""
  from selectllm import sharding

  return sharding.make_mesh(data=1, fsdp=1)


@pytest.fixture(scope='session')
def test_data() -> pathlib.Path:
  """The folder with the published responses; tests on real rows are skipped without it."""
  folder = os.environ.get('SELECTLLM_TEST_DATA')
  if not folder:
    pytest.skip('SELECTLLM_TEST_DATA names no folder with the published responses')
  return pathlib.Path(folder)
