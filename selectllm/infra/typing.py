"""Types of arrays."""

from typing import Any

Array = Any  # of NumPy on the host, of JAX on the device
