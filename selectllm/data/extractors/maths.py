"""Mathematical answers (fractions, roots, intervals, sets), read and compared by math-verify.

Its parser and SymPy may take forever, or all memory, on what LLMs write; so they work in a process of their own that is
given a limit for each question.
"""

import atexit
import functools
import importlib.util
import json
import re
import selectors
import subprocess
import sys
import threading
from typing import Any

from selectllm.data.extractors import numerals, texts

# For reading one answer, and for each comparison.
SECONDS = 5
_MAX_CHARACTERS = 10_000

_PI = re.compile(r'(?<![\\A-Za-z])pi(?![A-Za-z])')
_POWER = re.compile(r'\*\*\s?(?:\(([^()]*)\)|(-?\w+))')
_ROOT = re.compile(r'(?:(?<![\\A-Za-z])sqrt\s?|√)\(([^()]*)\)|√\{([^{}]*)\}|√([0-9]+)')
_EXPONENT = re.compile(r'(?<![\w.])([0-9]+(?:\.[0-9]+)?)[eE]\+?([0-9]+)(?!\w)')
# With groups of digits, and a unit: LaTeX would have two numbers.
_LONG_NUMBER = re.compile(r'[-+$]{0,2}[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?\s[A-Za-z]{2,}')
_PROSE = re.compile(r'(?!.*\\)(?=.*[A-Za-z]{3}\s+[A-Za-z]{2})', re.DOTALL)

_WORKER = r"""
import fractions, json, logging, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
import math_verify, sympy
logging.disable(logging.CRITICAL)
def parsed(text, whole=True):
  kinds = [math_verify.LatexExtractionConfig()] + [math_verify.ExprExtractionConfig()] * (not whole)
  return math_verify.parse(text, kinds, parsing_timeout=SECONDS)
def read(text, whole):
  found = parsed(text, whole)
  if not found: return None
  value = found[0]
  if isinstance(value, sympy.Basic) and value.is_Rational: return [str(value.p), str(value.q)]
  if isinstance(value, sympy.Float): return [str(f) for f in fractions.Fraction(str(value)).as_integer_ratio()]
  return found[-1] if isinstance(found[-1], str) else str(value)
def equal(one, other):
  return math_verify.verify(parsed('$' + one + '$'), parsed('$' + other + '$'), timeout_seconds=SECONDS)
answers = sys.stdout
sys.stdout = sys.stderr
for line in sys.stdin:
  name, *arguments = json.loads(line)
  try: answer = {'read': read, 'equal': equal}[name](*arguments)
  except BaseException: answer = None
  print(json.dumps(answer), file=answers, flush=True)
"""


class _Worker:
  """The process that knows mathematics; started when first needed, and anew after it has been stopped."""

  def __init__(self) -> None:
    self._process: subprocess.Popen[str] | None = None
    self._lock = threading.Lock()
    atexit.register(self.stop)

  def stop(self) -> None:
    """Ends the process, whatever it does."""
    if self._process:
      self._process.kill()
      self._process.communicate()
      self._process = None

  def ask(self, *question: str | bool) -> Any:
    """Returns the answer to a question, None where there is none in time."""
    with self._lock:
      if self._process is None:
        code = _WORKER.replace('SECONDS', str(SECONDS))
        self._process = subprocess.Popen(
          [sys.executable, '-c', code],
          stdin=subprocess.PIPE,
          stdout=subprocess.PIPE,
          stderr=subprocess.DEVNULL,
          text=True,
        )
        self._ask('read', '$1$', True, seconds=60)  # it takes a while to load
      return self._ask(*question, seconds=2 * SECONDS)

  def _ask(self, *question: str | bool, seconds: float) -> Any:
    process = self._process
    assert process
    assert process.stdin
    assert process.stdout
    try:
      process.stdin.write(json.dumps(question) + '\n')
      process.stdin.flush()
      with selectors.DefaultSelector() as waiting:
        waiting.register(process.stdout, selectors.EVENT_READ)
        if waiting.select(seconds) and (line := process.stdout.readline()):
          return json.loads(line)
    except BrokenPipeError:
      pass
    self.stop()
    return None


_worker = _Worker()


def installed() -> bool:
  """Tells whether there is math-verify."""
  return importlib.util.find_spec('math_verify') is not None


@functools.lru_cache(maxsize=100_000)
def _parsed(text: str, whole: bool) -> str | None:
  """Reads mathematics: the whole of what stands between delimiters, or else any part of a text."""
  found = _worker.ask('read', text, whole)
  if isinstance(found, list):
    value = numerals.fraction(*found)
    canonical = None if value is None else numerals.canonical_value(value)
    return '/'.join(found) if value and canonical == '0' else canonical
  return found


def _latex(text: str) -> str:
  """Writes as LaTeX what is written as in a program: 3*x**2, sqrt(2), pi, 1e9."""
  text = _EXPONENT.sub(r'\1 \\cdot 10^{\2}', text)
  text = _PI.sub(r'\\pi ', text)
  text = _POWER.sub(r'^{\1\2}', text.strip('* '))
  return _ROOT.sub(r'\\sqrt{\1\2\3}', text).replace('*', r' \cdot ')


def _held(text: str) -> str | None:
  """Reads what a box or the like holds: mathematics, all of it, else the words themselves."""
  held = ' '.join(texts.plain(text).split()).strip(' .$')
  if not held:
    return None
  if _LONG_NUMBER.match(held) and (value := numerals.canonical(held)):
    return value
  if _PROSE.match(text):
    return (None if texts.HAS_NONE.search(held) else _parsed(text, False)) or held.casefold()
  text = _latex(text)
  return _parsed(f'${text}$', True) or _parsed(text, True) or held.casefold()


def expression(text: str, query: str) -> str | None:
  r"""Extracts the mathematical answer that a response states (`math-v1`).

  That is all that the last place in a format made for answers holds (a LaTeX box, `<answer>`, the key `answer` of
  JSON), written in LaTeX or as in a program; where there is none, what math-verify finds. Numbers are decimals, as
  `number-v2` has them, all else is LaTeX; `equal` tells which are the same.
  """
  return texts.first_answer(_read, text, query, keep_latex=True)


def _read(text: str, query: str) -> str | None:
  marks = texts.marks(text)
  places = [(mark.start, mark.end) for mark in marks]
  end = texts.end_of_answer(text, query, places, lambda head: False)
  held = [text[mark.held : mark.end] for mark in marks if mark.start < end]
  return _held(held[-1][:_MAX_CHARACTERS]) if held else _parsed(text[:end][-_MAX_CHARACTERS:], False)


def reference(text: str) -> str | None:
  """Brings a reference into the form of the answers; None for an empty one."""
  marks = texts.marks(text)
  return _held((text[marks[-1].held : marks[-1].end] if marks else text)[:_MAX_CHARACTERS])


@functools.lru_cache(maxsize=100_000)
def equal(one: str, other: str) -> bool:
  """Tells whether two answers are the same; what cannot be told in time is not."""
  return one == other or _worker.ask('equal', one, other) is True
