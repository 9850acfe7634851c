"""Talks to one endpoint: requests have an identity, replies are checked, every way to fail is typed."""

import asyncio
import dataclasses
import hashlib
import json
import os
import zlib
from typing import Any

import aiohttp
import orjson
import yarl

from selectllm.client import rate_limits
from selectllm.data import pool_file, queries

LARGEST_REPLY = 16 << 20  # bytes, after decompression
_DETAIL = 300  # characters of a server's words that are kept
_BYTES_PER_TOKEN = 4  # a rough estimate, where no tokenizer is at hand


@dataclasses.dataclass(slots=True)
class RawReply:
  """A reply as it came over the wire."""

  status: int
  headers: Any  # a case-insensitive mapping
  body: bytes


@dataclasses.dataclass(slots=True)
class Reply:
  """A checked response.

  Attributes:
    text: As it was written; bytes that are no UTF-8 become lone surrogates, so that nothing is lost.
    prompt_tokens: As the server counted, None when it does not say.
    completion_tokens: As the server counted, None when it does not say.
    finish_reason: As the server says, for instance `length` when it was cut off.
  """

  text: str
  prompt_tokens: int | None
  completion_tokens: int | None
  finish_reason: str | None


@dataclasses.dataclass(slots=True)
class Request:
  """One request, ready to be sent.

  Attributes:
    body: JSON.
    identity: 16 bytes: the hash of everything that the response depends on, sample index included.
    prompt_tokens: An estimate.
    max_tokens: Prompt and completion together, at most (the prompt as estimated).
  """

  body: bytes
  identity: bytes
  prompt_tokens: int
  max_tokens: int


class Transport:
  """HTTP with limits on time and size; nothing of the environment (proxies, netrc) has a say."""

  def __init__(self, headers: dict[str, str], timeouts: pool_file.Limits):
    self._session = aiohttp.ClientSession(
      connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60),
      headers={'Accept-Encoding': 'identity', 'User-Agent': 'selectllm', **headers},
      timeout=aiohttp.ClientTimeout(total=timeouts.timeout_s, sock_connect=timeouts.connect_timeout_s),
      cookie_jar=aiohttp.DummyCookieJar(),
      auto_decompress=False,
      trust_env=False,
    )

  async def exchange(self, url: yarl.URL, body: bytes | None = None) -> RawReply:
    """POSTs a body, or GETs where there is none.

    Raises:
      rate_limits.Failure: nothing usable came back; aiohttp's own errors hold request headers and go no further.
    """
    try:
      async with self._session.request(
        'GET' if body is None else 'POST', url, data=body, allow_redirects=False
      ) as response:
        return RawReply(response.status, response.headers, await _capped_body(response))
    except Exception as error:
      failure = _as_failure(error)
      if failure is None:
        raise
    raise failure

  async def close(self) -> None:
    """Closes all connections."""
    await self._session.close()


async def _capped_body(response: aiohttp.ClientResponse) -> bytes:
  declared, size, parts = response.content_length or 0, 0, []
  while max(declared, size) <= LARGEST_REPLY and (part := await response.content.readany()):
    parts.append(part)
    size += len(part)
  body = b''.join(parts)
  encoding = response.headers.get('Content-Encoding', 'identity')
  if max(declared, size) <= LARGEST_REPLY and encoding in ('gzip', 'deflate'):  # though it was not asked for
    body = zlib.decompressobj(wbits=47).decompress(body, LARGEST_REPLY + 1)
    size = len(body)
  if max(declared, size) > LARGEST_REPLY:
    response.close()
    raise rate_limits.Failure('too_large', f'the reply is larger than {LARGEST_REPLY >> 20} MiB', billed=True)
  if encoding not in ('gzip', 'deflate', 'identity'):
    raise rate_limits.Failure('bad_reply', f'unknown Content-Encoding {encoding!r:.40}', billed=True)
  return body


def _as_failure(error: Exception) -> rate_limits.Failure | None:
  """Returns the failure that a transport error means, None for a bug; it keeps but the class and the OS message."""
  if isinstance(error, rate_limits.Failure):
    return error
  name = type(error).__name__
  if isinstance(error, aiohttp.ClientConnectorDNSError):
    return rate_limits.Failure('dns', f'the host {error.host!r} has no address', retry=True, alive=False)
  if isinstance(error, aiohttp.ClientConnectorCertificateError):
    return rate_limits.Failure('certificate', str(error.certificate_error), stops=True)
  if isinstance(error, aiohttp.ClientSSLError):
    return rate_limits.Failure('connection', f'{name}: {error.os_error}', retry=True, alive=False)
  if isinstance(error, aiohttp.ConnectionTimeoutError):
    return rate_limits.Failure('timeout', 'no connection in time', retry=True, alive=False)
  if isinstance(error, asyncio.TimeoutError):
    return rate_limits.Failure('timeout', 'no complete reply in time', retry=True, alive=False, billed=True)
  if isinstance(error, aiohttp.ClientConnectorError):
    return rate_limits.Failure('connection', f'{name}: {error.strerror}', retry=True, alive=False)
  if isinstance(error, aiohttp.ClientResponseError | zlib.error):
    return rate_limits.Failure('bad_reply', f'{name}: not HTTP as it should be', retry=True, alive=False, billed=True)
  if isinstance(error, aiohttp.ClientError | OSError):
    return rate_limits.Failure('connection', f'{name}: broken off', retry=True, alive=False, billed=True)
  return None


def _decoded(body: bytes) -> Any:
  """Returns the JSON of a reply, bytes that are no UTF-8 and escaped lone surrogates kept."""
  try:
    return orjson.loads(body)
  except orjson.JSONDecodeError:
    try:
      return json.loads(body.decode('utf-8', 'surrogateescape'))
    except ValueError:
      shown = body[:_DETAIL].decode('utf-8', 'replace')
      raise rate_limits.Failure(
        'bad_reply', f'not valid JSON: {shown!r}', retry=True, alive=False, billed=True
      ) from None


# Status -> kind, for what has a meaning of its own; other 4xx are the request's fault, 5xx the server's.
_STATUS_KINDS = {
  401: 'unauthorized',
  403: 'unauthorized',
  408: 'server_error',
  425: 'server_error',
  429: 'rate_limited',
}


def _status_failure(status: int, headers: Any, detail: str) -> rate_limits.Failure:
  kind = _STATUS_KINDS.get(status) or ('server_error' if status >= 500 else 'bad_request')
  detail = f'HTTP {status}: {detail[:_DETAIL]}'
  if kind == 'rate_limited' and 'insufficient_quota' in detail:  # no waiting helps against an empty account
    return rate_limits.Failure('no_quota', detail, stops=True)
  return rate_limits.Failure(
    kind,
    detail,
    retry=kind in ('server_error', 'rate_limited'),
    stops=kind == 'unauthorized',
    alive=status < 500,
    retry_after_s=rate_limits.retry_after_s(headers),
  )


def _error_failure(error: Any, headers: Any) -> rate_limits.Failure:
  """Returns what an `error` object within a reply of status 200 means: its code where it has one of HTTP's."""
  code = error.get('code') if isinstance(error, dict) else None
  detail = str(error.get('message', error) if isinstance(error, dict) else error)[:_DETAIL]
  if isinstance(code, int) and 400 <= code < 600:
    return _status_failure(code, headers, detail)
  return rate_limits.Failure('error_reply', detail, retry=True)


def _count(usage: Any, name: str) -> int | None:
  value = usage.get(name) if isinstance(usage, dict) else None
  return value if isinstance(value, int) and value >= 0 else None


class Endpoint:
  """A live endpoint of one LLM. Use as an async context manager."""

  def __init__(self, llm: pool_file.LLM):
    """Prepares requests and reads the key from the environment; nothing is opened yet.

    Raises:
      pool_file.PoolError: the LLM has no endpoint.
    """
    if llm.endpoint is None:
      raise pool_file.PoolError(f'{llm.name!r} has no endpoint in the pool file; it cannot be asked')
    self.llm, self.spec = llm, llm.endpoint
    self._key, self._key_problem = _key_of(llm.name, self.spec.api_key_env)
    self._base = yarl.URL(self.spec.base_url.rstrip('/'))
    path = 'chat/completions' if self.spec.api == 'chat' else 'completions'
    self._url = self._base.joinpath(*path.split('/'))
    self._user = pool_file.parse_template(self.spec.prompt.user)
    self._system = pool_file.parse_template(self.spec.prompt.system)
    sampling = dataclasses.asdict(self.spec.sampling)
    self._extra = sampling.pop('extra')
    del sampling['seed']  # each sample has its own
    self._sampling = {name: value for name, value in sampling.items() if value not in (None, ())}
    shots = [(_rendered(self._user, shot), shot['answer']) for shot in self.spec.prompt.few_shot]
    turns = [({'role': 'user', 'content': u}, {'role': 'assistant', 'content': a}) for u, a in shots]
    self._turns = [turn for pair in turns for turn in pair]
    self._shots = [u + a for u, a in shots]
    self._name, self._api = llm.name.encode(), self.spec.api.encode()
    self._fields = self.spec.prompt.fields()
    self._last: tuple[queries.Query | None, bytes] = None, b''

  async def __aenter__(self) -> 'Endpoint':
    headers = {'Content-Type': 'application/json'}
    if self._key:
      headers['Authorization'] = f'Bearer {self._key}'
    self._transport = Transport(headers, self.spec.limits)
    return self

  async def __aexit__(self, *exc_info: object) -> None:
    await self._transport.close()

  def request(self, query: queries.Query, sample: int) -> Request:
    """Returns the request for one sample of the response to a query.

    Raises:
      pool_file.PoolError: the template names a field that the query lacks.
    """
    if query is not self._last[0]:  # samples of a query come one after the other
      if missing := self._fields - query.texts().keys():
        raise pool_file.PoolError(
          f'{self.llm.name!r}: its prompt names {{{min(missing)}}}, which query {query.query_id!r} lacks; '
          f'it has {", ".join(sorted(query.texts()))}'
        )
      self._last = query, self._content(query.texts())
    content = self._last[1]
    body = content if self.spec.sampling.seed is None else _with_seed(content, self.spec.sampling.seed + sample)
    identity = hashlib.blake2b(b'%b\0%b\0%d\0' % (self._name, self._api, sample), digest_size=16)
    identity.update(body)
    prompt_tokens = len(body) // _BYTES_PER_TOKEN
    return Request(body, identity.digest(), prompt_tokens, prompt_tokens + (self.spec.sampling.max_tokens or 0))

  def _content(self, texts: dict[str, str]) -> bytes:
    user, system = _rendered(self._user, texts), _rendered(self._system, texts)
    content: dict[str, Any] = {'model': self.spec.model}
    if self.spec.api == 'chat':
      said = [{'role': 'system', 'content': system}] if system else []
      content['messages'] = [*said, *self._turns, {'role': 'user', 'content': user}]
    else:
      content['prompt'] = '\n\n'.join([*([system] if system else []), *self._shots, user])
    return orjson.dumps(content | self._sampling | self._extra)

  async def call(self, body: bytes) -> Reply:
    """Makes one attempt.

    Raises:
      rate_limits.Failure: it brought no answer.
    """
    raw = await self._exchange(self._url, body)
    if raw.status != 200:
      raise _status_failure(raw.status, raw.headers, _said(raw.body))
    return self._checked(_decoded(raw.body), raw.headers)

  async def problem(self) -> str | None:
    """Returns what keeps the endpoint from being used: a key that is not set, or what it says when it is asked.

    It is asked for its list of models or, when it has none, for a response of one token.
    """
    if self._key_problem:
      return self._key_problem
    try:
      served = await self._served_models()
      if served is None:
        probe = {'temperature': 0, 'max_tokens': 1, 'model': self.spec.model} | self._extra
        probe |= {'messages': [{'role': 'user', 'content': 'Hi'}]} if self.spec.api == 'chat' else {'prompt': 'Hi'}
        await self.call(orjson.dumps(probe))
      elif self.spec.model not in served:
        return f'{self.llm.name!r} at {self._base}: serves {", ".join(sorted(served))}; not {self.spec.model!r}'
    except rate_limits.Failure as failure:
      if failure.kind not in ('no_content', 'rate_limited'):  # these two at least answered
        return f'{self.llm.name!r} at {self._base}: {failure}'
    return None

  async def _served_models(self) -> set[str] | None:
    raw = await self._exchange(self._base / 'models')
    if raw.status in (401, 403):
      raise _status_failure(raw.status, raw.headers, _said(raw.body))
    try:
      return {entry['id'] for entry in _decoded(raw.body)['data']} or None if raw.status == 200 else None
    except (rate_limits.Failure, LookupError, TypeError):
      return None

  async def _exchange(self, url: yarl.URL, body: bytes | None = None) -> RawReply:
    raw = await self._transport.exchange(url, body)
    if self._key and (key := self._key.encode()) in raw.body:  # who repeats the key does not get it into our files
      raw.body = raw.body.replace(key, b'[key]')
    return raw

  def _checked(self, content: Any, headers: Any) -> Reply:
    if not isinstance(content, dict):
      raise rate_limits.Failure('bad_reply', f'not an object: {content!r:.80}', retry=True, alive=False, billed=True)
    if content.get('error'):
      raise _error_failure(content['error'], headers)
    model = content.get('model')
    if isinstance(model, str) and model and not self._is_ours(model):
      raise rate_limits.Failure(
        'wrong_model',
        f'asked {self.spec.model!r}, {model!r} answered; list it under answers_as if it is the same',
        stops=True,
        billed=True,
      )
    choices = content.get('choices')
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
      raise rate_limits.Failure('no_choices', f'choices is {choices!r:.80}', retry=True, billed=True)
    choice = choices[0]
    message = choice.get('message') if self.spec.api == 'chat' else choice
    text = message.get('content' if self.spec.api == 'chat' else 'text') if isinstance(message, dict) else None
    reason = choice.get('finish_reason')
    if not isinstance(text, str):
      raise rate_limits.Failure('no_content', f'the text is {text!r:.80}, finish_reason {reason!r:.40}', billed=True)
    usage = content.get('usage')
    return Reply(
      text,
      _count(usage, 'prompt_tokens'),
      _count(usage, 'completion_tokens'),
      reason if isinstance(reason, str) else None,
    )

  def _is_ours(self, model: str) -> bool:
    """Tells whether a model is the one asked: the same, a dated version of it, or without the owner's prefix."""
    asked = self.spec.model
    if model in (asked, *self.spec.answers_as) or model.startswith((f'{asked}-', f'{asked}:', f'{asked}@')):
      return True
    return model.rsplit('/', 1)[-1] == asked.rsplit('/', 1)[-1]


def _key_of(llm: str, variable: str | None) -> tuple[str, str | None]:
  """Returns the key in an environment variable, and what is wrong with it."""
  if variable is None:
    return '', None
  key = os.environ.get(variable, '').strip()
  if not key:
    return '', f'{llm!r}: the environment variable {variable}, for its key, is not set'
  if not (key.isascii() and key.isprintable()):
    return '', f'{llm!r}: the environment variable {variable} holds characters that no key can have'
  return key, None


def _rendered(template: list[tuple[str, str | None]], texts: dict[str, str]) -> str:
  return ''.join([literal + texts[field] if field else literal for literal, field in template])


def _with_seed(body: bytes, seed: int) -> bytes:
  return b'%b,"seed":%d}' % (body[:-1], seed)


def _said(body: bytes) -> str:
  """Returns what an error body says, on one line."""
  return ' '.join(body[:_DETAIL].decode('utf-8', 'replace').split())
