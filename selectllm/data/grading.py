"""From the text of a response to its answer, and from the answers to a label.

An extractor reads one text, knowing the query, and returns the answer it states in canonical form, so that equal
answers are equal strings, or None when the text states none; it never sees the reference. Extractors are named with
their version: whoever changes what one reads adds a new version, and the answers already stored keep their meaning.
"""

import collections.abc
import difflib

from selectllm.data.extractors import first_versions, maths, number, numerals, option_letter

Extractor = collections.abc.Callable[[str, str], str | None]

EXTRACTORS: dict[str, Extractor] = {
  'number-v2': number.number,
  'option_letter-v2': option_letter.option_letter,
  'math-v1': maths.expression,
  'program_output-v1': first_versions.program_output,
  'calculation-v1': first_versions.calculation,
  'number-v1': first_versions.number,
  'option_letter-v1': first_versions.option_letter,
}

# A reference is no response: it must be an answer as a whole. Of other extractors it is what they read off it.
_REFERENCES: dict[Extractor, collections.abc.Callable[[str], str | None]] = {
  number.number: numerals.reference,
  option_letter.option_letter: option_letter.reference,
  maths.expression: maths.reference,
  first_versions.number: lambda text: None if numerals.reference(text) is None else first_versions.number(text),
  # A plain number also where answers are what programs print, or are to be calculated.
  first_versions.program_output: first_versions.canonical_number,
  first_versions.calculation: first_versions.canonical_number,
}
# Where equal strings are not all that is equal.
_EQUAL: dict[Extractor, collections.abc.Callable[[str, str], bool]] = {maths.expression: maths.equal}


def get_extractor(name: str) -> Extractor:
  """Returns the extractor of that name.

  Raises:
    ValueError: for an unknown name; the message lists the known ones and the nearest. Or for one that needs a package
      which is not installed.
  """
  if name not in EXTRACTORS:
    nearest = difflib.get_close_matches(name, EXTRACTORS, n=1, cutoff=0.0)
    raise ValueError(f'no extractor {name!r}; known are {", ".join(EXTRACTORS)}; did you mean {nearest[0]!r}?')
  if name == 'math-v1' and not maths.installed():
    raise ValueError("the extractor math-v1 needs math-verify: pip install 'selectllm[math]'")
  return EXTRACTORS[name]


def canonical_reference(reference: str, extractor: str) -> str | None:
  """Brings a reference into the form of an extractor's answers; None where it is not of that kind.

  Raises:
    ValueError: for an unknown extractor.
  """
  extract = get_extractor(extractor)
  return _REFERENCES[extract](reference) if extract in _REFERENCES else extract(reference, '')


def known_as(answer: str, known: collections.abc.Iterable[str], extract: Extractor | None) -> str:
  """Returns which of the known answers an answer equals, by the extractor that read it; itself where none."""
  if extract not in _EQUAL:
    return answer
  return next((other for other in known if other == answer or _EQUAL[extract](other, answer)), answer)
