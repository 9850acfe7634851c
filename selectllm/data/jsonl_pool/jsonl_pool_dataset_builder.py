"""Anybody's own responses, or scores, from JSONL files."""

import collections.abc
import glob
import hashlib
import pathlib

import ml_collections

from selectllm.data import pool_builder, responses, sources


class Builder(pool_builder.PoolBuilder):
  """Response records from the JSONL files that `config.dataset.path` names (comma-separated, `*` allowed)."""

  name = 'jsonl_pool'

  def __init__(self, config: ml_collections.ConfigDict, cache_dir: pathlib.Path):
    patterns = [pattern.strip() for pattern in config.dataset.path.split(',') if pattern.strip()]
    if not patterns:
      raise ValueError('jsonl_pool needs --config.dataset.path=FILE.jsonl (several: comma-separated, or with *)')
    self._paths: list[str] = []
    for pattern in patterns:
      found = sorted(glob.glob(str(pathlib.Path(pattern).expanduser())))
      if not found:
        raise FileNotFoundError(f'--config.dataset.path: no file matches {pattern!r}')
      self._paths += found
    digests = ' '.join(sources.file_sha256(pathlib.Path(path)) for path in self._paths)
    super().__init__(
      identity=hashlib.sha256(f'{digests} {responses.FORM}'.encode()).hexdigest(),
      description=f'Responses from {", ".join(self._paths)}.',
      data_dir=str(cache_dir),
    )

  def records(self) -> collections.abc.Iterable[responses.Record]:
    """The records of all files, in order; see `responses.read_jsonl` for what is refused."""
    return responses.read_jsonl(*self._paths)
