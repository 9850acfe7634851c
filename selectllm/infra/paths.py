"""Paths of run directories, on a disk or on gs://, Google's object store, and of the cache.

Objects are written whole, take no appending and no locks, and have no folders. What a run keeps is read and written by
what `pathlib` and `etils.epath` share; Orbax finds its own way to the store.
"""

import contextlib
import glob
import hashlib
import importlib.util
import os
import pathlib
import secrets
import shutil
import typing
from collections.abc import Iterator

_STORE = 'gs://'
REACHED_BY = 'gcsfs'


def place(name: str | pathlib.Path) -> pathlib.Path:
  """Makes a path of a name, of `pathlib` on a disk and of `etils.epath` on gs://.

  Raises:
    ValueError: when gs:// is named and what it is reached by is not installed.
  """
  if not str(name).startswith(_STORE):
    return pathlib.Path(name)
  from etils import epath  # takes its time, and most runs lie on a disk

  if importlib.util.find_spec(REACHED_BY) is None:
    raise ValueError(f"{name}: gs:// is reached by {REACHED_BY}: pip install 'selectllm[gcs]'")
  return typing.cast(pathlib.Path, epath.Path(name))


def is_remote(path: str | pathlib.Path) -> bool:
  """Tells whether a path is on gs://."""
  return str(path).startswith(_STORE)


def remove(directory: pathlib.Path) -> None:
  """Removes a directory with all that is in it; nothing happens where there is none."""
  if not is_remote(directory):
    shutil.rmtree(directory, ignore_errors=True)
  elif directory.exists():
    directory.rmtree()  # type: ignore[attr-defined]


@contextlib.contextmanager
def atomic_write(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Gives a path beside `path` to write a file to; when that is complete, it takes the place of `path`.

  Readers find the old file or the new one, never half of it, also after a kill. Several processes on several hosts may
  write the same file: each writes its own, and the last one stays.
  """
  partial = path.with_name(f'{path.name}.{secrets.token_hex(4)}.part')
  try:
    yield partial
    partial.replace(path)
  finally:  # also where `partial` is a hard link to `path`: a rename then does nothing
    with contextlib.suppress(OSError):  # else it would hide what went wrong
      partial.unlink(missing_ok=True)


def matches(pattern: str) -> list[pathlib.Path]:
  """Returns what there is of exactly this name, whatever signs it holds; else all that matches, sorted (`*`, `~`)."""
  path = pathlib.Path(pattern).expanduser()
  return [path] if path.exists() else list(map(pathlib.Path, sorted(glob.glob(str(path)))))


def cache_dir() -> pathlib.Path:
  """Returns the folder of what many runs share: $SELECTLLM_CACHE, else ~/.cache/selectllm."""
  return pathlib.Path(os.environ.get('SELECTLLM_CACHE', '~/.cache/selectllm')).expanduser()


def file_sha256(path: pathlib.Path) -> str:
  """Returns the SHA-256 of a file, hexadecimal."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
