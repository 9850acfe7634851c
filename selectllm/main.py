"""The command: python -m selectllm.main --config=configs/gsm8k.py --workdir=runs/first"""

import logging
import pathlib
import sys

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file('config', 'configs/gsm8k.py', 'The experiment.', lock_config=True)
_WORKDIR = flags.DEFINE_string('workdir', None, 'The run directory; runs/<config>/<date-time> by default.')


def main(argv: list[str]) -> None:
  """Hands over to the mode of the config."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}: fields are set as --config.FIELD=VALUE')
  logging.getLogger('selectllm').setLevel(logging.INFO)
  absl_logging.set_verbosity(absl_logging.ERROR)  # Orbax and TFDS narrate all that they do
  if _CONFIG.value.mode == 'collect':  # needs no JAX
    from selectllm.pool import collect

    if not _WORKDIR.value:
      raise app.UsageError('--config.mode=collect needs a --workdir: the same one to go on, another to start anew')
    sys.exit(collect.collect(_CONFIG.value, pathlib.Path(_WORKDIR.value)))
  from selectllm import experiment, rundir  # JAX starts here: --help and a mistyped field answer at once

  name = config_flags.get_config_filename(flags.FLAGS['config'])
  experiment.run(_CONFIG.value, pathlib.Path(_WORKDIR.value or rundir.default_workdir(name)))


if __name__ == '__main__':
  app.run(main)
