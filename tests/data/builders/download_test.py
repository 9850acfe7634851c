import hashlib
import http.server

import pytest

from selectllm.data.builders import download

CONTENT = {'owner/repo/data/one.jsonl': b'{"a": 1}\n' * 1000, 'other/repo/two.csv': 'ä,b\n'.encode()}


def source(path, content=None):
  content = CONTENT[path] if content is None else content
  return download.Source(
    path, hashlib.sha1(path.encode()).hexdigest(), len(content), hashlib.sha256(content).hexdigest()
  )


ONE, TWO = (source(path) for path in CONTENT)


class Mirror:
  """What the server below answers: bodies by path, and the requests that it saw."""

  def __init__(self):
    self.content = {f'/{path}': body for path, body in CONTENT.items()}
    self.promised_length = len  # what the headers say of a body
    self.requests = []


@pytest.fixture
def mirror():
  return Mirror()


@pytest.fixture
def base_url(serve, mirror):
  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      mirror.requests.append(self.path)
      body = mirror.content.get(self.path)
      if body is None:
        self.send_error(404)
        return
      self.send_response(200)
      length = mirror.promised_length(body)
      if length is not None:
        self.send_header('Content-Length', str(length))
      self.end_headers()
      self.wfile.write(body)

    def log_message(self, *args):
      pass

  return serve(Handler)


@pytest.fixture
def cache_dir(tmp_path):
  return tmp_path / 'cache'


@pytest.fixture
def manual_dir(tmp_path):
  for path, content in CONTENT.items():
    file = tmp_path / 'manual' / path
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
  return tmp_path / 'manual'


def fetch(*wanted, manual_dir='', base_url='', cache_dir):
  return download.fetch(wanted or (ONE, TWO), manual_dir=str(manual_dir), base_url=base_url, cache_dir=cache_dir)


def files(folder):
  return [path for path in folder.rglob('*') if path.is_file()]


def test_addresses():
  one = download.Source('owner/repo/data/one two.jsonl', 'c0ffee', 1, 'x')
  assert one.url('') == 'https://raw.githubusercontent.com/owner/repo/c0ffee/data/one two.jsonl'
  assert one.url('http://mirror:80/deep') == one.url('http://mirror:80/deep/')
  assert one.url('http://mirror:80/deep') == 'http://mirror:80/deep/owner/repo/data/one two.jsonl'


def test_download_is_verified_and_kept(base_url, mirror, cache_dir):
  paths = fetch(base_url=base_url, cache_dir=cache_dir)
  assert {key.path: path.read_bytes() for key, path in paths.items()} == CONTENT
  assert sorted(mirror.requests) == sorted(f'/{path}' for path in CONTENT)
  assert sorted(files(cache_dir)) == sorted(paths.values())
  assert fetch(base_url=base_url, cache_dir=cache_dir) == paths
  assert len(mirror.requests) == 2


def test_a_mirror_in_a_folder(base_url, mirror, cache_dir):
  mirror.content = {f'/a/b{path}': body for path, body in mirror.content.items()}
  fetch(base_url=f'{base_url}/a/b/', cache_dir=cache_dir)
  assert sorted(mirror.requests) == sorted(mirror.content)


def test_only_what_is_lacking_or_damaged_is_downloaded_again(base_url, mirror, cache_dir):
  paths = fetch(base_url=base_url, cache_dir=cache_dir)
  mirror.requests.clear()
  damaged = bytearray(CONTENT[ONE.path])
  damaged[3] ^= 1
  paths[ONE].write_bytes(damaged)
  assert fetch(base_url=base_url, cache_dir=cache_dir)[ONE].read_bytes() == CONTENT[ONE.path]
  assert mirror.requests == [f'/{ONE.path}']
  paths[TWO].unlink()
  fetch(base_url=base_url, cache_dir=cache_dir)
  assert mirror.requests == [f'/{ONE.path}', f'/{TWO.path}']


def test_another_commit_is_another_file(base_url, mirror, cache_dir):
  old = fetch(ONE, base_url=base_url, cache_dir=cache_dir)[ONE]
  mirror.content[f'/{ONE.path}'] = b'new'
  newer = download.Source(ONE.path, 'f' * 40, 3, hashlib.sha256(b'new').hexdigest())
  assert fetch(newer, base_url=base_url, cache_dir=cache_dir)[newer].read_bytes() == b'new'
  assert old.read_bytes() == CONTENT[ONE.path]


def test_wrong_checksum_keeps_nothing(base_url, mirror, cache_dir):
  wrong = CONTENT[ONE.path].replace(b'1', b'2')
  mirror.content[f'/{ONE.path}'] = wrong
  with pytest.raises(download.SourceError) as error:
    fetch(base_url=base_url, cache_dir=cache_dir)
  assert f'{base_url}/{ONE.path} is not the published file' in str(error.value)
  assert hashlib.sha256(wrong).hexdigest() in str(error.value)
  assert ONE.sha256 in str(error.value)
  assert not files(cache_dir)


@pytest.mark.parametrize('body', [b'', b'<html>moved</html>', CONTENT[ONE.path] + b'\n', b'x' * 3_000_000])
@pytest.mark.parametrize('promised', [len, lambda body: None])
def test_wrong_size_keeps_nothing(base_url, mirror, cache_dir, body, promised):
  mirror.content[f'/{ONE.path}'], mirror.promised_length = body, promised
  with pytest.raises(download.SourceError, match=r'is not the published file.* the published file has 9,000'):
    fetch(base_url=base_url, cache_dir=cache_dir)
  assert not files(cache_dir)


def test_a_body_that_breaks_off_keeps_nothing(base_url, mirror, cache_dir):
  mirror.content[f'/{ONE.path}'] = CONTENT[ONE.path][:-100]
  mirror.promised_length = lambda body: len(body) + 100
  with pytest.raises(download.SourceError, match=f'Cannot download {base_url}/{ONE.path}'):
    fetch(base_url=base_url, cache_dir=cache_dir)
  assert not files(cache_dir)


def test_what_was_downloaded_before_a_failure_is_kept(base_url, mirror, cache_dir):
  del mirror.content[f'/{TWO.path}']
  with pytest.raises(download.SourceError, match=f'Cannot download {base_url}/{TWO.path}: 404') as error:
    fetch(base_url=base_url, cache_dir=cache_dir)
  assert not isinstance(error.value, download.UnavailableError)
  mirror.content[f'/{TWO.path}'] = CONTENT[TWO.path]
  fetch(base_url=base_url, cache_dir=cache_dir)
  assert mirror.requests == [f'/{ONE.path}', f'/{TWO.path}', f'/{TWO.path}']


def test_without_network_the_remedies_are_named(dead_url, cache_dir):
  with pytest.raises(download.UnavailableError) as error:
    fetch(base_url=dead_url, cache_dir=cache_dir)
  for words in (f'{dead_url}/{ONE.path}', '--config.dataset.manual_dir=DIR', '--config.dataset.base_url=URL'):
    assert words in str(error.value)
  assert not files(cache_dir)


@pytest.mark.parametrize('url', ['mirror.example/data', 'ftp://127.0.0.1'])
def test_an_address_that_is_none(url, cache_dir):
  with pytest.raises(download.SourceError, match=f'Cannot download {url}/owner') as error:
    fetch(base_url=url, cache_dir=cache_dir)
  assert not isinstance(error.value, download.UnavailableError)  # a mistake, and no reason to do without


def test_manual_dir_needs_no_network(manual_dir, dead_url, cache_dir):
  paths = fetch(manual_dir=manual_dir, base_url=dead_url, cache_dir=cache_dir)
  assert paths == {key: manual_dir / key.path for key in (ONE, TWO)}
  assert not cache_dir.exists()


def test_manual_dir_under_home(manual_dir, monkeypatch, cache_dir):
  monkeypatch.setenv('HOME', str(manual_dir.parent))
  assert fetch(manual_dir='~/manual', cache_dir=cache_dir)[ONE] == manual_dir / ONE.path


def test_files_that_manual_dir_lacks_are_listed(manual_dir, tmp_path, cache_dir):
  (manual_dir / TWO.path).unlink()
  with pytest.raises(download.SourceError) as error:
    fetch(manual_dir=manual_dir, cache_dir=cache_dir)
  assert str(error.value) == f"manual_dir='{manual_dir}' lacks 1 of 2 files:\n  {manual_dir / TWO.path}"
  with pytest.raises(download.SourceError, match='lacks 2 of 2 files'):
    fetch(manual_dir=tmp_path / 'nowhere', cache_dir=cache_dir)


def test_damaged_files_in_manual_dir_are_listed_and_left_alone(manual_dir, cache_dir):
  damaged = CONTENT[ONE.path].replace(b'1', b'2')
  (manual_dir / ONE.path).write_bytes(damaged)
  (manual_dir / TWO.path).write_bytes(b'')
  with pytest.raises(download.SourceError) as error:
    fetch(manual_dir=manual_dir, cache_dir=cache_dir)
  assert f'{manual_dir / ONE.path} has SHA-256 {hashlib.sha256(damaged).hexdigest()}' in str(error.value)
  assert f'{manual_dir / TWO.path} has 0 bytes, the published file has 5' in str(error.value)
  assert (manual_dir / ONE.path).read_bytes() == damaged


def test_digest_tells_sources_apart():
  assert download.digest([ONE, TWO]) == download.digest([TWO, ONE])
  changed = source(ONE.path, b'changed')
  moved = download.Source('elsewhere/repo/one', ONE.commit, ONE.size, ONE.sha256)
  assert len({download.digest(some) for some in ([ONE, TWO], [ONE], [changed, TWO], [moved, TWO], [])}) == 5


UNKNOWN = download.Source(ONE.path, ONE.commit)


def test_a_file_of_unknown_digest_is_held_to_what_it_was_when_first_used(base_url, mirror, cache_dir):
  path = fetch(UNKNOWN, base_url=base_url, cache_dir=cache_dir)[UNKNOWN]
  assert download.remembered(UNKNOWN, cache_dir) == UNKNOWN  # not before it proved to be usable
  download.remember(UNKNOWN, path, cache_dir)
  assert download.remembered(UNKNOWN, cache_dir) == download.seen(UNKNOWN, path) == ONE
  assert download.remembered(TWO, cache_dir) == TWO
  path.unlink()
  mirror.content[f'/{ONE.path}'] = b'{"a": 2}\n' * 1000
  with pytest.raises(download.SourceError, match='is not the published file'):
    fetch(UNKNOWN, base_url=base_url, cache_dir=cache_dir)
  assert not path.exists()


def test_a_download_of_unknown_size_has_the_length_that_was_announced(base_url, mirror, cache_dir):
  mirror.promised_length = lambda body: len(body) + 1
  with pytest.raises(download.SourceError):
    fetch(UNKNOWN, base_url=base_url, cache_dir=cache_dir)
  assert not files(cache_dir)
