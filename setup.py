"""Installs selectllm; all that it says of itself is in pyproject.toml."""

import setuptools

setuptools.setup()
