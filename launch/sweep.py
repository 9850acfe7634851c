"""Runs sweeps: see selectllm/sweeps/main.py."""

from absl import app

from selectllm import main as command
from selectllm.sweeps import main

if __name__ == '__main__':
  app.run(main.main, flags_parser=command.parse_flags)
