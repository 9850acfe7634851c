"""What a query looks like, in numbers: what shows in its text, before any LLM is asked."""

import functools
import re
from collections.abc import Callable, Sequence

import numpy as np

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_NUMBER = re.compile(r'\d+(?:[.,]\d+)*')
_SENTENCE_END = re.compile(r'[.!?]+(?=\s|$)')
_VOWELS = re.compile(r'[aeiouy]+')
# What ends a sentence or sets off a title, an option or a line: the next capital says nothing.
_BREAK = re.compile(r'[.!?:;\n]')
# Signs with something to reckon with on both sides; a hyphen or slash inside words is none.
_SIGNS = re.compile(r'(?<=[\w)\]}])\s*[+×·÷*^−]\s*(?=[\w(\[{\\$-])|(?<=[\d)])\s*[-/]\s*(?=[\d($])|(?<=\w) [-/] (?=\w)')
_OPERATION_WORDS = re.compile(
  r'\b(?:plus|minus|times|multipl(?:y|ied)|divided?|sum|total|product|difference|quotient|remainder|half|third|quarter|'
  r'twice|thrice|double|triple|percent|average|ratio|more|less|fewer|each|per)\b|%',
  re.IGNORECASE,
)


def words(query: str) -> float:
  """Counts words: what white space separates."""
  return len(query.split())


def numbers(query: str) -> float:
  """Counts numbers in digits; 1,200.50 is one."""
  return len(_NUMBER.findall(query))


def operations(query: str) -> float:
  """Counts arithmetic operations: signs between two operands, and words such as `twice`, `per` or `percent`."""
  return len(_SIGNS.findall(query)) + len(_OPERATION_WORDS.findall(query))


def entities(query: str) -> float:
  """Counts named entities, by a rule: runs of capitalised words that no sentence, line or option begins with."""
  count, end, inside = 0, 0, False
  for match in _WORD.finditer(query):
    word, between = match[0], query[end : match.start()]
    begins = not end or _BREAK.search(between) is not None
    named = word[0].isupper() and len(word) > 1 and not begins and re.split("['’]", word)[0] != 'I'
    count += named and not (inside and between.isspace())
    inside, end = named, match.end()
  return count


@functools.lru_cache(maxsize=1 << 16)
def syllables(word: str) -> int:
  """Estimates the syllables of an English word: its groups of vowels, without an e that is not spoken."""
  word = word.lower()
  groups = len(_VOWELS.findall(word))
  silent = (
    (word.endswith('e') and not word.endswith(('le', 'ee')))
    or (word.endswith('es') and not word.endswith(('ses', 'zes', 'ches', 'shes', 'xes', 'ces', 'ges')))
    or (word.endswith('ed') and not word.endswith(('ted', 'ded')))
  )
  return max(1, groups - silent)


def reading_ease(query: str) -> float:
  """Computes Flesch's reading ease (1948): 206.835 - 1.015 words a sentence - 84.6 syllables a word; NaN without words.

  From about 100, easy, to 0, for graduates, and beyond both.
  """
  found = _WORD.findall(query)
  if not found:
    return np.nan
  sentences = max(1, len(_SENTENCE_END.findall(query)))
  return 206.835 - 1.015 * len(found) / sentences - 84.6 * sum(map(syllables, found)) / len(found)


# In the order of reports.
FEATURES: dict[str, Callable[[str], float]] = {
  'words': words,
  'numbers': numbers,
  'operations': operations,
  'reading_ease': reading_ease,
  'entities': entities,
}


def of(queries: Sequence[str]) -> dict[str, np.ndarray]:
  """Computes every feature of N queries, float64[N] in whole numbers; NaN where a query has none."""
  return {name: np.round([feature(query) for query in queries]) for name, feature in FEATURES.items()}
