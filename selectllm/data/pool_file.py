"""Reads pool files: facts about each LLM that no response carries (size, price, speed), and how it is asked."""

import collections.abc
import dataclasses
import datetime
import difflib
import math
import pathlib
import re
import string
import typing
import urllib.parse
from typing import Any

import yaml

from selectllm.data import grading

# What a request's body holds by itself; `extra` cannot change it unseen.
_OWN_FIELDS = frozenset(
  ('model', 'messages', 'prompt', 'n', 'stream', 'temperature', 'top_p', 'max_tokens', 'stop', 'seed')
)


class PoolError(ValueError):
  """A pool file that cannot be used; the message names the file, the LLM and the field."""


@dataclasses.dataclass(frozen=True, slots=True)
class Price:
  """Dollars per million tokens, and the day on which the price was read."""

  prompt_usd_per_million: float
  completion_usd_per_million: float
  read_on: str


@dataclasses.dataclass(frozen=True, slots=True)
class Prompt:
  """A prompt; `{name}` stands for a field of the query, `{{` for a brace.

  Attributes:
    user: The question as it is put, for instance `Question: {query}`.
    system: Said first, when it is not empty.
    few_shot: Worked examples: the fields that `user` needs, and `answer`. A chat gets them as turns; a completion as
      text, the parts set apart by an empty line.
  """

  user: str = '{query}'
  system: str = ''
  few_shot: tuple[dict[str, str], ...] = ()

  def fields(self) -> set[str]:
    """Returns the fields of the query that the prompt needs."""
    return {field for _, field in parse_template(self.user) + parse_template(self.system) if field}


def parse_template(template: str) -> list[tuple[str, str | None]]:
  """Cuts a template into (literal text, name of the field after it).

  Raises:
    PoolError: a brace without its partner, or anything but a plain name in braces.
  """
  try:
    parts = list(string.Formatter().parse(template))
  except ValueError as error:
    raise PoolError(f'the template {template!r:.60} is broken ({error}); write {{{{ for a brace') from error
  for _, field, form, conversion in parts:
    if field is not None and (not field.isidentifier() or form or conversion):
      raise PoolError(f'the template {template!r:.60} may hold only names of fields in braces, not {field!r}')
  return [(literal, field) for literal, field, _, _ in parts]


@dataclasses.dataclass(frozen=True, slots=True)
class Sampling:
  """Options of drawing responses; what is None is left to the server.

  Attributes:
    temperature: As in the API.
    top_p: As in the API.
    max_tokens: Most tokens written. None is possible, but then neither cost nor context can be checked beforehand.
    stop: Texts that end the response.
    seed: Sample i is drawn with seed + i.
    extra: Further fields of the request's body, as the server wants them; none that the request has by itself.
  """

  temperature: float | None = None
  top_p: float | None = None
  max_tokens: int | None = None
  stop: tuple[str, ...] = ()
  seed: int | None = None
  extra: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
  """Limits on the use of an endpoint; none of this changes what is asked.

  Attributes:
    concurrency: Most requests in flight. Fewer are used when the server asks for it by status 429.
    requests_per_minute: None for no limit.
    tokens_per_minute: Read and written, None for no limit.
    timeout_s: One attempt, from connecting to the last byte.
    connect_timeout_s: Connecting alone.
    attempts: Attempts per response, those answered by 429 not counted.
    rate_limited_attempts: Attempts per response that may be answered by 429.
    first_backoff_s: Upper end of the first wait after a failure; it doubles from then on.
    longest_backoff_s: Where the doubling ends.
    give_up_s: An endpoint that does nothing but fail for so long is given up for this run.
  """

  concurrency: int = 16
  requests_per_minute: float | None = None
  tokens_per_minute: float | None = None
  timeout_s: float = 300.0
  connect_timeout_s: float = 10.0
  attempts: int = 6
  rate_limited_attempts: int = 60
  first_backoff_s: float = 1.0
  longest_backoff_s: float = 60.0
  give_up_s: float = 600.0


APIS = ('chat', 'completions')


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
  """An OpenAI-compatible server, and how an LLM is asked there.

  Attributes:
    base_url: Up to and with `/v1`.
    api: `chat` or `completions`.
    model: The server's id of the model.
    prompt: What is sent.
    sampling: How responses are drawn.
    limits: How the endpoint may be used.
    api_key_env: Name of the environment variable that holds the key, None when no key is needed.
    context_tokens: Most tokens of prompt and response together, None when unknown.
    answers_as: Other model ids in the replies that are known to be this model.
    extractor: Reads the answers off its responses, None for the one of the config. It changes nothing that is asked.
  """

  base_url: str
  api: str
  model: str
  prompt: Prompt = Prompt()
  sampling: Sampling = Sampling()
  limits: Limits = Limits()
  api_key_env: str | None = None
  context_tokens: int | None = None
  answers_as: tuple[str, ...] = ()
  extractor: str | None = None

  def identity(self) -> dict[str, Any]:
    """Returns, as JSON has it, all that a response depends on: part of the identity of a request."""
    prompt = dataclasses.asdict(self.prompt) | {'few_shot': list(self.prompt.few_shot)}
    sampling = dataclasses.asdict(self.sampling) | {'stop': list(self.sampling.stop)}
    return {'api': self.api, 'model': self.model, 'prompt': prompt, 'sampling': sampling}


@dataclasses.dataclass(frozen=True, slots=True)
class LatencyModel:
  """How the seconds of a call are estimated that nobody recorded, for LLMs of which no more than the size is known.

  By default a billion 16-bit weights are read for every written token from the 2 TB/s memory of an A100, and a prompt
  is computed at half of its 312 TFLOP/s, 2 FLOP a weight and token (after Pope et al. 2022, Efficiently Scaling
  Transformer Inference); network and queue take what public probes of hosted LLMs find before a short prompt's first
  token (medians of 0.15 to 0.4 s for fast ones).

  Attributes:
    overhead_s: Seconds of every call, whatever is read and written.
    seconds_per_prompt_token_and_billion: To read a token, for each billion active parameters.
    seconds_per_token_and_billion: To write one.
  """

  overhead_s: float = 0.3
  seconds_per_prompt_token_and_billion: float = 1.3e-5
  seconds_per_token_and_billion: float = 1e-3

  def in_words(self) -> str:
    """Returns the formula as reports state it."""
    read, written = 1e3 * self.seconds_per_prompt_token_and_billion, 1e3 * self.seconds_per_token_and_billion
    return (
      f'{self.overhead_s:g} s a call + {read:.3g} ms a prompt token + {written:.3g} ms a written token, '
      'the tokens times billions of active parameters'
    )


@dataclasses.dataclass(frozen=True, slots=True)
class LLM:
  """One LLM of a pool.

  Attributes:
    name: As in the response records.
    parameters_b: Active parameters, in billions.
    parameters_assumed: The size is not published; what follows from it is doubly an estimate.
    seconds_per_token: To write a token, for estimated latencies; by default it follows from the size.
    seconds_per_prompt_token: To read one; by default it follows from the size, or else from `seconds_per_token`.
    overhead_s: Of every call; by default the file's.
    samples_drawn: Samples generated to produce one response (a ranker of 100 samples costs a hundred times one,
      and takes as long as one, since they are drawn in parallel).
    price: None when no price is known; then no cost is shown.
    published_latency_s: Mean seconds of a call as somebody published it; used where a response carries neither its
      latency nor its length.
    endpoint: Where it can be asked, None for an LLM that is only known from recorded responses.
    latency_model: The file's, for what is not stated here.
  """

  name: str
  parameters_b: float | None = None
  parameters_assumed: bool = False
  seconds_per_token: float | None = None
  samples_drawn: int = 1
  price: Price | None = None
  published_latency_s: float | None = None
  endpoint: Endpoint | None = None
  seconds_per_prompt_token: float | None = None
  overhead_s: float | None = None
  latency_model: LatencyModel = LatencyModel()

  def estimated_latency_s(self, prompt_tokens: float, completion_tokens: float) -> float | None:
    """Estimates the seconds of a call, `overhead_s` + read + written; None when neither speed nor size is known."""
    model, billions = self.latency_model, self.parameters_b
    write, read = self.seconds_per_token, self.seconds_per_prompt_token
    if write is None and billions is not None:
      write = billions * model.seconds_per_token_and_billion
    if write is None:
      return None
    if read is None and billions is not None:
      read = billions * model.seconds_per_prompt_token_and_billion
    if read is None:
      read = write * model.seconds_per_prompt_token_and_billion / model.seconds_per_token_and_billion
    overhead = model.overhead_s if self.overhead_s is None else self.overhead_s
    return overhead + prompt_tokens * read + completion_tokens * write

  @property
  def has_own_speed(self) -> bool:
    """Tells whether its estimated latencies are not those that the file's model makes of its size."""
    return any(of is not None for of in (self.seconds_per_token, self.seconds_per_prompt_token, self.overhead_s))

  def cost_usd(self, prompt_tokens: float, completion_tokens: float) -> float | None:
    """Returns dollars for one response, None when the price is unknown."""
    if self.price is None:
      return None
    written = completion_tokens * self.samples_drawn
    return (prompt_tokens * self.price.prompt_usd_per_million + written * self.price.completion_usd_per_million) / 1e6


@dataclasses.dataclass(frozen=True, slots=True)
class Pool:
  """The LLMs of a pool file by name, in the file's order, and how their latencies are estimated."""

  llms: dict[str, LLM]
  latency: LatencyModel = LatencyModel()

  def facts(self, name: str) -> LLM:
    """Returns the facts about an LLM; nothing but its name where the file does not list it."""
    return self.llms.get(name, LLM(name))


def _build(cls: type, fields: Any, where: str) -> Any:
  """Makes a dataclass of a YAML mapping, refusing fields that it does not have."""
  if not isinstance(fields, collections.abc.Mapping):
    raise PoolError(f'{where} must be a mapping, not {fields!r:.80}')
  known = [field.name for field in dataclasses.fields(cls)]
  for name in fields:
    if name not in known:
      near = difflib.get_close_matches(str(name), known, n=1)
      raise PoolError(f'{where} has an unknown field {name!r}' + (f'; did you mean {near[0]!r}?' if near else ''))
  required = [f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING]
  if missing := [name for name in required if fields.get(name) is None]:
    raise PoolError(f'{where} lacks {", ".join(missing)}')
  types = {field.name: field.type for field in dataclasses.fields(cls)}
  given = {name: value for name, value in fields.items() if value is not None}
  return cls(**{name: _fitting(value, types[name], f'{where}.{name}') for name, value in given.items()})


_TYPE_NAMES = {int: 'a whole number', float: 'a number', str: 'text', bool: 'true or false', tuple: 'a list'}


def _fitting(value: Any, wanted: Any, where: str) -> Any:
  """Converts a YAML value to the type of its field: lists to tuples, dates to text, whole numbers to fractions."""
  kinds = [typing.get_origin(kind) or kind for kind in (typing.get_args(wanted) or (wanted,))]
  if typing.get_origin(wanted) in (tuple, dict):
    kinds = [typing.get_origin(wanted)]
  if tuple in kinds and isinstance(value, list):
    return tuple(value)
  if str in kinds and isinstance(value, datetime.date):
    return value.isoformat()
  if float in kinds and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if not isinstance(value, tuple(kinds)) or (isinstance(value, bool) and bool not in kinds):
    names = ' or '.join(_TYPE_NAMES.get(kind, kind.__name__) for kind in kinds if kind is not type(None))
    raise PoolError(f'{where} must be {names}, not {value!r:.80}' + ('; put it in quotes' if str in kinds else ''))
  return value


def _read_endpoint(fields: Any, where: str) -> Endpoint:
  """Makes an endpoint with its parts and checks what can be checked without asking it."""
  if isinstance(fields, dict):
    fields = dict(fields)
    for name, cls in (('prompt', Prompt), ('sampling', Sampling), ('limits', Limits)):
      if name in fields:
        fields[name] = _build(cls, fields[name], f'{where}.{name}')
  endpoint: Endpoint = _build(Endpoint, fields, where)
  if endpoint.api not in APIS:
    raise PoolError(f'{where}.api must be {" or ".join(APIS)}, not {endpoint.api!r}')
  if endpoint.extractor is not None:
    try:
      grading.get_extractor(endpoint.extractor)
    except ValueError as error:
      raise PoolError(f'{where}.extractor: {error}') from error
  if endpoint.api_key_env and not re.fullmatch('[A-Za-z_][A-Za-z0-9_]*', endpoint.api_key_env):
    raise PoolError(f'{where}.api_key_env must be the name of an environment variable, not the key (not shown here)')
  if taken := sorted(_OWN_FIELDS & endpoint.sampling.extra.keys()):
    raise PoolError(f'{where}.sampling.extra may not hold {", ".join(taken)}: the request has its own')
  url = urllib.parse.urlsplit(endpoint.base_url)
  if url.scheme not in ('http', 'https') or not url.hostname or url.username or url.query:
    shown = endpoint.base_url if not (url.username or url.query) else '(not shown, it may hold a key)'
    raise PoolError(f'{where}.base_url must be http(s)://host[:port]/path without user or query, not {shown}')
  try:
    needed = {field for _, field in parse_template(endpoint.prompt.user) if field} | {'answer'}
    parse_template(endpoint.prompt.system)
  except PoolError as error:
    raise PoolError(f'{where}.prompt: {error}') from error
  for number, shot in enumerate(endpoint.prompt.few_shot):
    missing = needed - shot.keys() if isinstance(shot, dict) else needed
    if missing:
      raise PoolError(f'{where}.prompt.few_shot[{number}] lacks {", ".join(sorted(missing))}')
    if numbers := [name for name in needed if not isinstance(shot[name], str)]:
      raise PoolError(f'{where}.prompt.few_shot[{number}].{numbers[0]} must be text; put it in quotes')
  _check_number(dataclasses.asdict(endpoint), 'context_tokens', where, above_zero=True)
  _check_number(dataclasses.asdict(endpoint.sampling), 'max_tokens', f'{where}.sampling', above_zero=True)
  for name in dataclasses.asdict(endpoint.limits):
    _check_number(dataclasses.asdict(endpoint.limits), name, f'{where}.limits', above_zero=True)
  return endpoint


def _check_number(fields: Any, name: str, where: str, *, above_zero: bool) -> None:
  value = fields.get(name) if isinstance(fields, collections.abc.Mapping) else None
  is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
  if value is not None and not (is_number and (value > 0 if above_zero else value >= 0)):
    raise PoolError(f'{where}.{name} must be a number {"above 0" if above_zero else "of at least 0"}, not {value!r}')


def _read_price(fields: Any, where: str) -> Price:
  for name in ('prompt_usd_per_million', 'completion_usd_per_million'):
    _check_number(fields, name, where, above_zero=False)
  return _build(Price, fields, where)


def _read_latency(fields: Any, where: str) -> LatencyModel:
  for field in dataclasses.fields(LatencyModel):
    _check_number(fields, field.name, where, above_zero=field.name == 'seconds_per_token_and_billion')
  return _build(LatencyModel, fields, where)


def _read_llm(entry: Any, where: str, latency: LatencyModel) -> LLM:
  for name in ('parameters_b', 'seconds_per_token', 'samples_drawn', 'published_latency_s'):
    _check_number(entry, name, where, above_zero=True)
  for name in ('seconds_per_prompt_token', 'overhead_s'):
    _check_number(entry, name, where, above_zero=False)
  if isinstance(entry, dict) and 'latency_model' in entry:
    raise PoolError(f'{where}.latency_model: the model is one for all LLMs, `latency` at the top of the file')
  fields = dict(entry) if isinstance(entry, dict) else entry
  for name, read_part in (('price', _read_price), ('endpoint', _read_endpoint)):
    if isinstance(fields, dict) and fields.get(name) is not None:
      fields[name] = read_part(fields[name], f'{where}.{name}')
  return dataclasses.replace(_build(LLM, fields, where), latency_model=latency)


def read_pool(path: str | pathlib.Path) -> Pool:
  """Reads a pool file.

  Raises:
    PoolError: names the file, LLM and field of the first thing that is wrong.
    FileNotFoundError: when there is no such file.
  """
  if not pathlib.Path(path).is_file():
    raise FileNotFoundError(f'config.pool.file={str(path)!r} is not a file')
  try:
    content = yaml.safe_load(pathlib.Path(path).read_text(encoding='utf-8'))
  except (yaml.YAMLError, UnicodeDecodeError) as error:
    raise PoolError(f'{path} is not valid YAML: {error}') from error
  entries = content.get('llms') if isinstance(content, dict) else None
  if not isinstance(entries, list) or not entries:
    raise PoolError(f'{path} needs a list `llms`, one entry for each LLM')
  latency = _read_latency(content.get('latency') or {}, f'{path}: latency')
  llms: dict[str, LLM] = {}
  for position, entry in enumerate(entries):
    where = f'{path}: llms[{position}]'
    llm = _read_llm(entry, where, latency)
    if llm.name in llms:
      raise PoolError(f'{where}: the name {llm.name!r} is already taken by an earlier entry')
    llms[llm.name] = llm
  return Pool(llms, latency)
