"""A stand-in for gcsfs: gs:// is a folder, in which objects are written whole, and which has no folders."""

import io
import pathlib

from fsspec.implementations import local


class _Upload(io.BytesIO):
  """An object is there once it was written; nothing goes back in it before."""

  def __init__(self, path: str):
    super().__init__()
    self._path = path

  def seekable(self) -> bool:
    return False

  def seek(self, *_: int) -> int:
    raise OSError('Seek only available in read mode')

  def close(self) -> None:
    if not self.closed:
      pathlib.Path(self._path).parent.mkdir(parents=True, exist_ok=True)
      pathlib.Path(self._path).write_bytes(self.getvalue())
    super().close()


class Store(local.LocalFileSystem):
  """What `etils.epath` asks of gcsfs."""

  protocol = ('gs', 'gcs')
  root = pathlib.Path()

  @classmethod
  def _strip_protocol(cls, path):
    return f'{cls.root}/{str(path).partition("://")[2]}' if '://' in str(path) else str(path)

  def mkdir(self, path, create_parents=True, **_):
    """There are no folders."""

  makedirs = mkdir

  def _open(self, path, mode='rb', block_size=None, **_):
    assert mode in ('rb', 'wb'), f'{path} cannot be opened as {mode}'
    return open(path, 'rb') if mode == 'rb' else _Upload(path)
