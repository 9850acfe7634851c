"""Runs a collection from the command line."""

import pathlib
import sys

from absl import app, flags
from ml_collections import config_flags

from selectllm.pool import collect

config_flags.DEFINE_config_file('config')
flags.DEFINE_string('workdir', None, '')

if __name__ == '__main__':
  app.run(lambda argv: sys.exit(collect.collect(flags.FLAGS.config, pathlib.Path(flags.FLAGS.workdir))))
