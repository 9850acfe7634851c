"""The command: python -m selectllm.main --config=configs/gsm8k.py --workdir=runs/first"""

import logging
import pathlib
import re
import sys

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

DEFAULT_CONFIG = 'configs/gsm8k.py'
_CONFIG = config_flags.DEFINE_config_file('config', None, f'The experiment; {DEFAULT_CONFIG} by default.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'The run directory; runs/<config>/<date-time> by default.')


def _parse_flags(argv: list[str]) -> list[str]:
  """Parses the flags; a config field that does not exist is a mistake of the caller's, not worth a traceback."""
  # Not the flag's own default: overrides would be checked against it, whichever config was asked for.
  if not any(re.match('--?config(=|$)', argument) for argument in argv):
    argv = [argv[0], f'--config={DEFAULT_CONFIG}', *argv[1:]]
  try:
    return app.parse_flags_with_usage(argv)
  except (AttributeError, KeyError, TypeError) as error:  # ml_collections' own; it names the nearest field
    near = re.search('Did you mean "(.+)" instead of "(.+)"', str(error))
    field = f'{near[2]!r}; did you mean {near[1]!r}?' if near else error.args[0]
    sys.exit(f'No such config field: {field}')


def _config_name() -> str:
  """The config file's name and argument as a folder's name: gsm8k, gsm8k-folds=5."""
  path, _, argument = config_flags.get_config_filename(flags.FLAGS['config']).partition(':')
  return '-'.join(filter(None, [pathlib.Path(path).stem, re.sub(r'[^\w=.]+', '-', argument)]))


def main(argv: list[str]) -> None:
  """Hands over to the mode of the config."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}: fields are set as --config.FIELD=VALUE')
  logging.getLogger('selectllm').setLevel(logging.INFO)
  absl_logging.set_verbosity(absl_logging.ERROR)  # Orbax and TFDS narrate all that they do
  mode, workdir = _CONFIG.value.mode, pathlib.Path(_WORKDIR.value or '')
  if mode in ('collect', 'answer') and not _WORKDIR.value:
    raise app.UsageError(f'--config.mode={mode} needs a --workdir: the same one to go on, another to start anew')
  if mode == 'collect':
    from selectllm.pool import collect

    sys.exit(collect.collect(_CONFIG.value, workdir))
  if mode == 'answer':
    from selectllm import answer

    sys.exit(answer.answer(_CONFIG.value, workdir))
  from selectllm import experiment, rundir  # JAX starts here: --help, a mistyped field and collecting go without

  experiment.run(_CONFIG.value, pathlib.Path(_WORKDIR.value or rundir.default_workdir(_config_name())))


if __name__ == '__main__':
  app.run(main, flags_parser=_parse_flags)
