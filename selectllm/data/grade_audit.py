"""Whether right answers are overlooked: an extractor that misreads makes an LLM look worse, one-sidedly.

Where the reference stands in the last sentence of a response that was graded wrong, the response may well have been
right. Values are compared, not characters: a 5 does not stand in '15', nor does 'yes' in 'yesterday'.
"""

import re
from typing import NamedTuple

from selectllm.data.extractors import numerals, option_letter, texts

# Of a text only so much is looked at; a last sentence is shorter.
_END = 2_000
_WORDS = re.compile(r'\w+')


class Audit(NamedTuple):
  """How the responses of an LLM end that were graded wrong.

  Attributes:
    wrong: How many there are, of those whose text is known and that have a reference.
    overlooked: (Row, sample) of those in whose last sentence the reference stands.
  """

  wrong: int = 0
  overlooked: tuple[tuple[int, int], ...] = ()

  @property
  def share(self) -> float | None:
    """Returns how often the reference stands there; None where nothing was graded wrong."""
    return len(self.overlooked) / self.wrong if self.wrong else None


def last_sentence(text: str) -> str:
  """Returns the last sentence of a response in which there are words or digits, thoughts left out."""
  end = texts.plain(texts.visible(text).rstrip()[-_END:])
  worded = [(start, stop) for start, stop in texts.sentences(end) if _WORDS.search(end, start, stop)]
  return end[slice(*worded[-1])].strip() if worded else ''


def names(sentence: str, reference: str) -> bool:
  """Tells whether a canonical answer stands in a sentence: as a number, as an option's letter, or as whole words."""
  value = numerals.canonical(reference)
  if value is not None:
    return any(found.value == value for found in numerals.find(numerals.flat(sentence)))
  if reference in option_letter.OPTIONS:
    found = re.search(rf'\({reference}\)|(?<![\w\'(]){reference}(?![\w\'])', sentence)
    # A and I are words, too.
    return found is not None and (reference not in 'AI' or re.search(rf'{reference}(?!\s\w)', sentence) is not None)
  words, sought = _WORDS.findall(sentence.casefold()), _WORDS.findall(reference.casefold())
  return bool(sought) and f' {" ".join(sought)} ' in f' {" ".join(words)} '


def stands_at_the_end(text: str, references: list[str]) -> bool:
  """Tells whether any of the references stands in the last sentence of a response."""
  sentence = last_sentence(text)
  return any(names(sentence, reference) for reference in references)
