"""What the processes of a job agree on."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from selectllm.infra import distributed

ROOT = pathlib.Path(__file__).parents[2]


def test_other_data_on_another_process_are_refused(monkeypatch):
  distributed.check_same('the data', {'name': 'toy'})
  gather = distributed.multihost_utils.process_allgather
  others = np.zeros((1, 32), np.uint8)
  monkeypatch.setattr(
    distributed.multihost_utils, 'process_allgather', lambda mine: np.concatenate([gather(mine), others, gather(mine)])
  )
  with pytest.raises(ValueError, match='the data are others on process 1 than on process 0'):
    distributed.check_same('the data', {'name': 'toy'})


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    (['--workdir=none'], 'nothing says of which job this is a process'),
    ([], 'in a --workdir that processes share'),
    (['--workdir=none', '--config.mode=select'], 'for training and evaluation'),
  ],
)
def test_what_is_no_job_is_refused(arguments, said, tmp_path):
  command = [sys.executable, '-m', 'selectllm.main', f'--config={ROOT}/configs/mini.py', '--config.mesh.distributed']
  environment = {name: value for name, value in os.environ.items() if not name.startswith(('SLURM', 'JAX_'))}
  environment |= {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
  done = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment)
  assert done.returncode == 1
  assert said in done.stderr + done.stdout
  assert not list(tmp_path.iterdir())
