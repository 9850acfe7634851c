"""How a benchmark shows what it measured, and keeps it in RESULTS.md beside it, with machine and versions."""

import argparse
import collections.abc
import importlib.metadata
import os
import pathlib
import platform
import re
import sys

from selectllm.report import tables

PATH = pathlib.Path(__file__).with_name('RESULTS.md')


def parser(description: str | None) -> argparse.ArgumentParser:
  """The arguments that all benchmarks share: --save."""
  made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
  made.add_argument('--save', action='store_true', help=f'keep the results in {PATH.name}')
  return made


def machine() -> str:
  """The processor, how many cores of it may be used, the memory, and the system."""
  info = pathlib.Path('/proc/cpuinfo')
  found = re.search(r'model name\s*:\s*(.+)', info.read_text()) if info.exists() else None
  cores = f'{len(os.sched_getaffinity(0))} cores of {found[1] if found else platform.machine()}'
  memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30
  return f'{cores}, {memory:.0f} GB, {platform.system()}'


def publish(
  section: str,
  table: tables.Table,
  ratios: collections.abc.Sequence[str],
  *,
  save: bool,
  packages: collections.abc.Sequence[str] = (),
  notes: collections.abc.Sequence[str] = (),
) -> None:
  """Prints what was measured, the ratios last, and puts it in place of the section's last results if it is to be kept.

  Args:
    section: The heading in RESULTS.md.
    table: The measurements.
    ratios: A line each: what was compared, the ratio, the goal, met or missed.
    save: Whether to keep them.
    packages: Those whose versions matter.
    notes: What a reader has to know; for a miss, what was tried and what bounds it.
  """
  versions = [
    f'Python {platform.python_version()}',
    *(f'{name} {importlib.metadata.version(name)}' for name in packages),
  ]
  command = ' '.join(['python -m', f'benchmarks.{pathlib.Path(sys.argv[0]).stem}', *sys.argv[1:]])
  text = '\n'.join(
    [
      f'## {section}\n',
      f'`{command}`\n',
      f'{machine()}; {", ".join(versions)}.\n',
      table.markdown(),
      *(f'{note}\n' for note in notes),
      *(f'- {ratio}' for ratio in ratios),
    ]
  )
  print(text)
  if save:
    _keep(section, text)


def _keep(section: str, text: str) -> None:
  """Replaces a section of RESULTS.md, or adds it at the end."""
  head, *sections = re.split(r'^(?=## )', PATH.read_text(encoding='utf-8'), flags=re.MULTILINE)
  kept = {part.partition('\n')[0]: part.rstrip('\n') for part in sections}
  kept[f'## {section}'] = text
  PATH.write_text('\n\n'.join([head.rstrip('\n'), *kept.values()]) + '\n', encoding='utf-8')
