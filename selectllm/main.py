"""Runs the command `selectllm --config=gsm8k --workdir=runs/first`."""

import itertools
import logging
import pathlib
import re
import sys
import traceback

import ml_collections
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from selectllm import config as config_lib
from selectllm import modes
from selectllm.infra import paths, run_dir

config_flags.register_flag_parser_for_type(tuple, config_lib.TupleParser())

DEFAULT_CONFIG = 'gsm8k'
_CONFIGS = pathlib.Path(__file__).parent / 'configs'
_CONFIG = config_flags.DEFINE_config_file('config', None, f'The experiment: file or name; {DEFAULT_CONFIG} by default.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'The run directory; runs/<config>/<date-time> by default.')


def find_config(name: str) -> str:
  """Returns the path of a config that comes with selectllm, `gsm8k:folds=5`; what names a file stays as it is."""
  stem, colon, argument = name.partition(':')
  if '/' in stem or stem.endswith('.py'):
    return name
  known = sorted({path.stem for path in _CONFIGS.glob('*.py')} - {'__init__', 'ablations', 'common'})
  if stem not in known:
    sys.exit(f'error: --config={name}: {stem!r} is neither a .py file nor one of {", ".join(known)}')
  return f'{_CONFIGS.resolve() / stem}.py{colon}{argument}'


def parse_flags(argv: list[str]) -> list[str]:
  """Parses the flags; a config field that does not exist is a mistake of the caller's, not worth a traceback."""
  # Not the flag's own default: overrides would be checked against it, whichever config was asked for.
  if not any(re.match('--?config(=|$)', argument) for argument in argv):
    argv = [argv[0], f'--config={DEFAULT_CONFIG}', *argv[1:]]
  # One argument, --config=NAME, or two.
  argv = [
    find_config(argument)
    if before in ('--config', '-config')
    else re.sub('^(--?config=)(.+)', lambda found: found[1] + find_config(found[2]), argument)
    for before, argument in itertools.pairwise(['', *argv])
  ]
  try:
    return app.parse_flags_with_usage(argv)
  except (AttributeError, KeyError, TypeError) as error:  # ml_collections' own; it names the nearest field
    near = re.search('Did you mean "(.+)" instead of "(.+)"', str(error))
    field = f'{near[2]!r}; did you mean {near[1]!r}?' if near else error.args[0]
    sys.exit(f'No such config field: {field}')


def config_name() -> str:
  """Returns the config file's name and argument as a folder's name: gsm8k, gsm8k-folds=5."""
  path, _, argument = config_flags.get_config_filename(flags.FLAGS['config']).partition(':')
  return '-'.join(filter(None, [pathlib.Path(path).stem, re.sub(r'[^\w=.]+', '-', argument)]))


def _run(config: ml_collections.ConfigDict, workdir: str | None) -> int:
  """Hands over to the mode of the config; returns the exit code."""
  mode = modes.find(config.mode)
  workdir = workdir or None  # --workdir= names none
  if workdir is None and mode.workdir:
    raise app.UsageError(f'--config.mode={config.mode} needs a --workdir')
  if config.mesh.distributed and (workdir is None or not mode.distributed):
    raise app.UsageError(
      '--config.mesh.distributed is for training and evaluation, in a --workdir that processes share'
    )
  if workdir and paths.is_remote(workdir) and not mode.bucket:
    raise app.UsageError(f'--workdir={workdir}: --config.mode={config.mode} needs one on a disk')
  place = paths.place(workdir) if workdir else None
  if place is None and mode.default:
    place = run_dir.default_workdir(mode.default.format(config=config_name()))
  if mode.jax:
    from selectllm.infra import distributed  # collecting and comparing do without JAX

    distributed.enable_compilation_cache()
  return mode.load()(config, place) or 0


def _is_ours(error: Exception) -> bool:
  """Tells whether our own code raised an error: then its message says all there is to say."""
  *_, (frame, _) = traceback.walk_tb(error.__traceback__)
  return frame.f_globals.get('__name__', '').startswith('selectllm')


def main(argv: list[str]) -> None:
  """Runs the experiment that the flags ask for."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}: fields are set as --config.FIELD=VALUE')
  logging.getLogger('selectllm').setLevel(logging.INFO)
  absl_logging.set_verbosity(absl_logging.ERROR)  # Orbax and TFDS narrate all that they do
  try:
    sys.exit(_run(_CONFIG.value, _WORKDIR.value))
  except (ValueError, RuntimeError, OSError, ArithmeticError, ModuleNotFoundError) as error:
    if not _is_ours(error):
      raise
    sys.exit(f'error: {error}')


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
