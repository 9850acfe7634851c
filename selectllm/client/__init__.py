"""Asks LLMs over HTTP; needs the extra `collect`."""

import importlib.util

if _missing := [name for name in ('aiohttp', 'uvloop', 'yarl') if importlib.util.find_spec(name) is None]:
  raise ModuleNotFoundError(f"asking LLMs needs {', '.join(_missing)}: pip install 'selectllm[collect]'")
