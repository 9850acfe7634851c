"""Runs sweeps: see selectllm/sweeps/main.py."""

import runpy

if __name__ == '__main__':
  runpy.run_module('selectllm.sweeps.main', run_name='__main__', alter_sys=True)
