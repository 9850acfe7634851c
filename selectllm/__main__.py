"""The command `selectllm`: the same as python -m selectllm and python -m selectllm.main."""

import os
import runpy
import sys


def run() -> None:
  """Runs the main command, which imports from the current folder as `python -m` does."""
  sys.path.insert(0, os.getcwd())
  runpy.run_module('selectllm.main', run_name='__main__', alter_sys=True)


if __name__ == '__main__':
  run()
