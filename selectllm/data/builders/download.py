"""Finds published files in a folder or downloads them, and always checks size and SHA-256.

A file whose digest was not known beforehand is held to the one that it had when it was first used.
"""

import collections.abc
import dataclasses
import hashlib
import json
import logging
import pathlib

import requests
import rich.progress

from selectllm.infra import paths

_LOG = logging.getLogger(__name__)
_TIMEOUT_S = (10, 60)  # connect, read


class SourceError(RuntimeError):
  """Says that a published file cannot be had, or is not what was published."""


class UnavailableError(SourceError):
  """Says that a published file can be neither found nor downloaded."""


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
  """A file in a GitHub repository at one commit.

  Attributes:
    path: `<owner>/<repository>/<path in it>`, also its place below a `manual_dir` or a mirror.
    commit: 40 hex digits.
    size: Bytes; 0 where not known beforehand.
    sha256: 64 hex digits; empty where not known beforehand.
  """

  path: str
  commit: str
  size: int = 0
  sha256: str = ''

  def url(self, base_url: str) -> str:
    """Returns the file's address: at GitHub by commit, on any other host below `base_url` by its path."""
    if base_url:
      return f'{base_url.rstrip("/")}/{self.path}'
    owner, repository, inside = self.path.split('/', 2)
    return f'https://raw.githubusercontent.com/{owner}/{repository}/{self.commit}/{inside}'


def digest(sources: collections.abc.Iterable[Source]) -> str:
  """Returns one hash over all files' hashes: the identity of what is built from them."""
  return hashlib.sha256('\n'.join(sorted(f'{s.path} {s.sha256}' for s in sources)).encode()).hexdigest()


def seen(source: Source, path: pathlib.Path) -> Source:
  """Returns the source with the size and digest of the file at `path`."""
  return dataclasses.replace(source, size=path.stat().st_size, sha256=paths.file_sha256(path))


def remembered(source: Source, cache_dir: pathlib.Path) -> Source:
  """Returns the source with the size and digest that its file had when it was first used, where none was known."""
  note = _note(source, cache_dir)
  if source.sha256 or not note.exists():
    return source
  return dataclasses.replace(source, **json.loads(note.read_text()))


def _note(source: Source, cache_dir: pathlib.Path) -> pathlib.Path:
  return cache_dir / source.commit / f'{source.path}.digest.json'


def remember(source: Source, path: pathlib.Path, cache_dir: pathlib.Path) -> None:
  """Holds a file whose digest was not known to what it is now; to be called once it proved to be usable."""
  if remembered(source, cache_dir).sha256:
    return
  known = seen(source, path)
  note = _note(source, cache_dir)
  note.parent.mkdir(parents=True, exist_ok=True)
  with paths.atomic_write(note) as partial:
    partial.write_text(json.dumps({'size': known.size, 'sha256': known.sha256}) + '\n')
  _LOG.warning(
    '%s: no digest of this file was known beforehand. It has %s bytes and SHA-256 %s, to which it is held as '
    'long as %s is there.',
    source.path, f'{known.size:,}', known.sha256, note,
  )  # fmt: skip


def _problem(path: pathlib.Path, source: Source) -> str | None:
  """Returns what is wrong with a file, None when it is what was published, or nothing is known of that."""
  if not source.sha256:
    return None
  if (size := path.stat().st_size) != source.size:
    return f'{path} has {size:,} bytes, the published file has {source.size:,}'
  if (sha256 := paths.file_sha256(path)) != source.sha256:
    return f'{path} has SHA-256 {sha256}, the published file has {source.sha256}'
  return None


def hold(path: pathlib.Path, source: Source, cache_dir: pathlib.Path) -> pathlib.Path:
  """Holds a file that was fetched by other means to what it was when it was first used; returns its path.

  Raises:
    SourceError: when it has changed.
  """
  if problem := _problem(path, remembered(source, cache_dir)):
    raise SourceError(
      f'{problem}; so it was when it was first used. Delete {_note(source, cache_dir)} to accept the new file'
    )
  remember(source, path, cache_dir)
  return path


def _download(url: str, path: pathlib.Path, source: Source, progress: rich.progress.Progress) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  bar = progress.add_task(source.path.rsplit('/', 1)[-1], total=source.size or None)
  # Not compressed on the way: then the length that is announced is the file's.
  request = requests.get(url, stream=True, timeout=_TIMEOUT_S, headers={'Accept-Encoding': 'identity'})
  with paths.atomic_write(path) as partial:
    with request as response, open(partial, 'wb') as file:
      response.raise_for_status()
      size = source.size or int(response.headers.get('Content-Length', 0))
      progress.update(bar, total=size or None)
      for chunk in response.iter_content(1 << 18):
        file.write(chunk)
        progress.advance(bar, len(chunk))
        if size and file.tell() > size:
          break
    if not source.sha256 and (got := partial.stat().st_size) != (size or got):
      raise SourceError(f'{url} broke off: {got:,} of {size:,} bytes came. Nothing of it was kept.')
    if problem := _problem(partial, source):
      raise SourceError(f'{url} is not the published file: {problem}. Nothing of it was kept.')


def _is_wrong_address(error: requests.RequestException, base_url: str) -> bool:
  """Returns True when it is `base_url` that is wrong: no address at all, or one where the file is not."""
  if isinstance(error, ValueError):  # requests' own for what is no URL
    return True
  return bool(base_url) and error.response is not None and error.response.status_code == requests.codes.not_found


def fetch(
  sources: collections.abc.Sequence[Source], *, manual_dir: str, base_url: str, cache_dir: pathlib.Path
) -> dict[Source, pathlib.Path]:
  """Returns a verified local path for every source.

  Args:
    sources: The files wanted.
    manual_dir: A folder that holds them by their path; when given, nothing is downloaded.
    base_url: A mirror; empty for GitHub itself.
    cache_dir: Where downloads are kept.

  Raises:
    UnavailableError: a file is not in the cache and cannot be downloaded; says how else to get it.
    SourceError: lists what `manual_dir` lacks, which file is not what was published, or says that `base_url` is wrong.
  """
  pinned = {source: remembered(source, cache_dir) for source in sources}
  if manual_dir:
    paths = {source: pathlib.Path(manual_dir).expanduser() / source.path for source in sources}
    if missing := [str(path) for path in paths.values() if not path.is_file()]:
      raise SourceError(
        f'manual_dir={manual_dir!r} lacks {len(missing)} of {len(paths)} files:\n  ' + '\n  '.join(missing)
      )
    if problems := [p for source, path in paths.items() if (p := _problem(path, pinned[source]))]:
      notes = [str(note) for source in sources if not source.sha256 and (note := _note(source, cache_dir)).exists()]
      hint = f'\nWhat is known of some of them is what was first seen, in {", ".join(notes)}.' if notes else ''
      raise SourceError('Not the published files:\n  ' + '\n  '.join(problems) + hint)
    return paths
  paths = {source: cache_dir / source.commit / source.path for source in sources}
  wanted = [source for source, path in paths.items() if not path.is_file() or _problem(path, pinned[source])]
  with rich.progress.Progress(transient=True) as progress:
    for source in wanted:
      url = source.url(base_url)
      try:
        _download(url, paths[source], pinned[source], progress)
      except requests.RequestException as error:
        kind = SourceError if _is_wrong_address(error, base_url) else UnavailableError
        raise kind(
          f'Cannot download {url}: {error}\n'
          'Without access to it, fetch the files elsewhere and name their folder with --config.dataset.manual_dir=DIR '
          '(DIR/<owner>/<repository>/<path>), or name a mirror with --config.dataset.base_url=URL.'
        ) from error
  return paths
