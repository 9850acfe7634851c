"""The pool file: facts about each LLM of a pool that no response carries (size, price, speed)."""

import collections.abc
import dataclasses
import difflib
import math
import pathlib
from typing import Any

import yaml

# Where only a size is known, a token is taken to cost this long per billion active parameters.
SECONDS_PER_TOKEN_AND_BILLION = 1e-3


class PoolError(ValueError):
  """A pool file that cannot be used; the message names the file, the LLM and the field."""


@dataclasses.dataclass(frozen=True, slots=True)
class Price:
  """Dollars per million tokens, and the day on which the price was read."""

  prompt_usd_per_million: float
  completion_usd_per_million: float
  read_on: str


@dataclasses.dataclass(frozen=True, slots=True)
class LLM:
  """One LLM of a pool.

  Attributes:
    name: As in the response records.
    parameters_b: Active parameters, in billions.
    parameters_assumed: The size is not published; what follows from it is doubly an estimate.
    seconds_per_token: For estimated latencies; by default 1 ms per billion active parameters.
    samples_drawn: Samples generated to produce one response (a ranker of 100 samples costs a hundred times one,
      and takes as long as one, since they are drawn in parallel).
    price: None when no price is known; then no cost is shown.
  """

  name: str
  parameters_b: float | None = None
  parameters_assumed: bool = False
  seconds_per_token: float | None = None
  samples_drawn: int = 1
  price: Price | None = None

  def estimated_latency_s(self, completion_tokens: float) -> float | None:
    """Seconds to write so many tokens, None when neither speed nor size is known."""
    seconds = self.seconds_per_token
    if seconds is None and self.parameters_b is not None:
      seconds = self.parameters_b * SECONDS_PER_TOKEN_AND_BILLION
    return None if seconds is None else seconds * completion_tokens

  def cost_usd(self, prompt_tokens: float, completion_tokens: float) -> float | None:
    """Dollars for one response, None when the price is unknown."""
    if self.price is None:
      return None
    written = completion_tokens * self.samples_drawn
    return (prompt_tokens * self.price.prompt_usd_per_million + written * self.price.completion_usd_per_million) / 1e6


@dataclasses.dataclass(frozen=True, slots=True)
class Pool:
  """The LLMs of a pool file by name, in the file's order."""

  llms: dict[str, LLM]

  def facts(self, name: str) -> LLM:
    """What is known of an LLM; nothing but its name where the file does not list it."""
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
  required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
  if missing := [name for name in required if fields.get(name) is None]:
    raise PoolError(f'{where} lacks {", ".join(missing)}')
  return cls(**{name: value for name, value in fields.items() if value is not None})


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read_price(fields: Any, where: str) -> Price:
  price = _build(Price, fields, where)
  for name in ('prompt_usd_per_million', 'completion_usd_per_million'):
    value = getattr(price, name)
    if not (_is_number(value) and value >= 0):
      raise PoolError(f'{where}.{name} must be a number of at least 0, not {value!r}')
  return dataclasses.replace(price, read_on=str(price.read_on))  # YAML reads 2025-01-31 as a date


def _read_llm(entry: Any, where: str) -> LLM:
  if isinstance(entry, dict) and entry.get('price') is not None:
    entry = {**entry, 'price': _read_price(entry['price'], f'{where}.price')}
  llm = _build(LLM, entry, where)
  if not isinstance(llm.name, str):
    raise PoolError(f'{where}.name must be text, not {llm.name!r}; put it in quotes')
  for name in ('parameters_b', 'seconds_per_token', 'samples_drawn'):
    value = getattr(llm, name)
    if value is not None and not (_is_number(value) and value > 0):
      raise PoolError(f'{where}.{name} must be a number above 0, not {value!r}')
  return llm


def read_pool(path: str | pathlib.Path) -> Pool:
  """Reads a pool file.

  Raises:
    PoolError: names the file, LLM and field of the first thing that is wrong.
    FileNotFoundError: when the file is not there.
  """
  try:
    content = yaml.safe_load(pathlib.Path(path).read_text(encoding='utf-8'))
  except yaml.YAMLError as error:
    raise PoolError(f'{path} is not valid YAML: {error}') from error
  entries = content.get('llms') if isinstance(content, dict) else None
  if not isinstance(entries, list) or not entries:
    raise PoolError(f'{path} needs a list `llms`, one entry for each LLM')
  llms: dict[str, LLM] = {}
  for position, entry in enumerate(entries):
    where = f'{path}: llms[{position}]'
    llm = _read_llm(entry, where)
    if llm.name in llms:
      raise PoolError(f'{where}: the name {llm.name!r} is already taken by an earlier entry')
    llms[llm.name] = llm
  return Pool(llms)
