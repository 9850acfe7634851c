"""The number that a response states."""

import collections.abc
import itertools
import re
from typing import NamedTuple

from selectllm.data.extractors import numerals, texts

_BETWEEN = texts.BETWEEN
_STATES = re.compile(
  rf"""
  (?:
    (?<![^\W_])answer{_BETWEEN} (?:\s?(?:to|for|of)\s[^.:=?\n]{{1,80}}?)?
      \s? (?:is|was|are|(?:would|should|must|has\s+to|will)\s+be|equals?|comes\s+(?:out\s+)?to|=)(?=n't|[^A-Za-z]|$)
      (?P<negated>n't | \s+(?:not|never|no\s+longer)\b)?
    | \b(?:final|correct|my)\s+answer{_BETWEEN}(?::|--|=>|->|-(?=\s))
    | ^[#\ \t]*(?:the\ )?(?:final|correct)\ answer[:\s]*$
    | ^\W{{0,8}}(?:(?:the|final|correct)\s){{0,2}}answer\s{{1,4}}(?=[-$€£]?[0-9.])
    | (?P<label>(?<![^\W_])answer{_BETWEEN}(?::|--|=>|->|-(?=\s)) | ^\W{{0,8}}ans\W?{_BETWEEN}: | ^[ \t]*(?-i:A):
        | ^[#\ \t]*answer[:\s]*$)
    | {texts.ANSWER_IN_OTHER_LANGUAGES}
  )
  (?!\s?[?!,]|\s?\.(?![0-9])) [\s:]*+
  """,
  re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_HASHES = re.compile(
  r'(?<!\#)\#{4}(?!\#)[ \t*_`"\']*(?=[-+~≈]?\s?(?:\\?\$|[€£¥₹]|USD|Rs\.?)?\s?-?\.?[0-9]|[A-Za-z]\w{0,20}\s?=)'
)
_LIST_ITEM = re.compile(r'[.):][ \t]+\S')
# What comes then gives reasons, and is not part of what is stated.
_REASON = re.compile(
  r'[,;:](?=\s)|\s--\s|\s-\s(?=[A-Za-z])|\s\((?=[^()\n]*=)'
  r'|\s(?:since|because|as|given|where|when|if|so|which|using|via|from|after|considering|being)\s',
  re.IGNORECASE,
)
_INSTEAD = re.compile(r"\b(?:but(?:\s+rather)?|rather|instead|it(?:'s|\s+is)|actually)\b", re.IGNORECASE)
# Who says this after an answer gives another one.
_AMENDS = re.compile(
  r'\b(?:wait|no|actually|sorry|oops|correction|mistake|wrong|incorrect|scratch that|hold on)\b[^\n]{0,160}?'
  r"\b(?:should\s+(?:have\s+been|be)|actually\s+is|is\s+actually|it's\s+actually|really\s+is|make\s+(?:that|it)|i\s+meant?"
  r'|corrected?\s+(?:answer|value|total|number|amount)\s+is|correction:)\s*',
  re.IGNORECASE,
)
_NOT = re.compile(
  r"(?:\bnot|n't|\bnever|\bneither|\bnor|\bcannot)\s+(?:be\s+)?(?:just\s+|only\s+|exactly\s+)?\Z", re.IGNORECASE
)
_WORD = re.compile(r'[^\W\d_]')
# What is said by the way: in brackets, or in a clause before the main one.
_ASIDE = re.compile(r'\([^()\n]*\)|(?<![^\s])(?:since|because|given|if|when|as)\b[^,\n]{0,300},(?=\s)', re.IGNORECASE)
# A block ends where an answer is tagged, and one that is not closed where any is given.
_CODE = re.compile(
  r'```(?:python|py|c|cpp|java|javascript|js)\b(?:.*?(?:```|(?=<(?:final[_ ]?)?answer>))|.*?(?=\\boxed|####|\Z))',
  re.DOTALL | re.IGNORECASE,
)
_GOES_ON = re.compile(r'\s?[-+*/x×÷]\s?[$(]?[0-9]')  # 18 = 9 * 2
# In a place made for one answer: what of '3 * 4', '3x', '5 + tax', '4 / x', '1, 2', '5 or 6' and '3 cats and 4 dogs' is
# no number, and what of 'x + 3', 'x > 3' and 'f(3)'.
_OPERATOR = r'(?:[-+*×÷·^<>≤≥±]|\\(?:times|cdot|div|pm|[lg]eq?)\b)'
_IS_PART_AFTER = re.compile(
  rf"""
  !?\s?{_OPERATOR}\s?[$(]{{0,2}} (?:[0-9\ue000]|[A-Za-z](?![A-Za-z]))
  | \s\+\s[^\W_] | \s?/\s?[(xyzn](?![A-Za-z]) | \s[0-9] | \s?[xyzni]\b
  | (?:\s[A-Za-z]{{2,}}){{0,3}} \s{{1,4}} (?:and|or) \s{{1,4}} \$?[0-9]
  | \s?[,;]\s? (?:(?:and|or)\s)? [-$(]{{0,2}}[0-9]
  """,
  re.VERBOSE,
)
_IS_PART_BEFORE = re.compile(
  rf"""
  (?: (?<![A-Za-z])[A-Za-z0-9)]\s?{_OPERATOR}\s?[$(]{{0,2}} | (?<![A-Za-z])[A-Za-z]\(
    | (?:[<>≤≥±]|\\(?:pm|[lg]eq?))\s? )\Z
  """,
  re.VERBOSE,
)
_NOT_UNDERSTOOD = re.compile(r'(?!.*[A-Za-z]{3}).*[0-9\ue000]', re.DOTALL)
# What follows the answer in some texts.
_AFTERTHOUGHT = re.compile(
  r'^\W{0,6}(?:note|explanation|verification|check|(?:helpful\s)?hint|p\.?s\.?)\b\W{0,4}:', re.IGNORECASE | re.MULTILINE
)
_BREAKS_OFF = re.compile(r'(?:<<[^<>\n]*|[=+*/(×÷]\s{0,9}|(?<!#)#{4}(?!#)[^\d\n]{0,200})\Z')
_ENUMERATES = re.compile(r'\s*(?:[-*•]\s*)?(?:\(?[0-9]{1,3}[.)]\s+(?=\S)|[A-Za-z]{1,12}\s\#?[0-9]{1,3}(?::\s|\.\s))')

# What a chat ends on.
_OFFERS = re.compile(
  r"\s*(?:if\syou(?:'d|\swould)?\s(?:like|want|wish)\b|let\sme\sknow|would\syou\slike|do\syou\s(?:want|need)"
  r'|feel\sfree|i\shope|i\s(?:can|could)\s(?:also|show))',
  re.IGNORECASE,
)
_ITEM = re.compile(r'\s*(?:[-*•]\s*)?[0-9]{1,3}\.')  # of a list, and no sentence


def _clause_end(text: str, start: int, end: int) -> int:
  reason = _REASON.search(text, start, end)
  return reason.start() if reason else end


def _in_clause(text: str, start: int, end: int) -> numerals.Found | None:
  """Finds the number that a box or a phrase states: after the last '=' of its clause, else the first."""
  first = next(numerals.find(text, start, end), None)
  if first is None:
    return None
  end = _clause_end(text, first.end, end)
  equals = text.rfind('=', start, end)
  result = next(numerals.find(text, equals + 1, end), None) if equals >= 0 else None
  return first if result is None or _GOES_ON.match(text, result.end, end) else result


class _Statement(NamedTuple):
  """A number that is stated in so many words, or in a format made for it."""

  start: int
  end: int
  value: str | None
  formatted: bool


def _held(text: str, start: int, end: int, query: str) -> tuple[bool, str | None]:
  """Reads what a place holds that was made for an answer: whether it states one, and which number that is if it is one.

  An expression, several numbers, or that there is no answer, is an answer, too.
  """
  stated = _in_clause(text, start, end)
  if texts.HAS_NONE.search(text, start, stated.start if stated else end):
    return True, None
  if stated is None:
    return _NOT_UNDERSTOOD.match(text, start, end) is not None, None
  if len(texts.sentences(text[start:end])) > 1 and _WORD.search(text, start, stated.start):
    return True, _unmarked(text[start:end], query)
  before = _IS_PART_BEFORE.search(text, max(start, stated.start - 20), stated.start)
  return True, None if before or _IS_PART_AFTER.match(text, stated.end, end) else stated.value


def _formatted(text: str, query: str) -> collections.abc.Iterator[_Statement]:
  for mark in texts.marks(text):
    states, value = _held(text, mark.held, mark.end, query)
    if states or (text[mark.start] == '"' and not text[mark.held : mark.end].strip()):  # a field that is left blank
      yield _Statement(mark.start, mark.end, value, True)
  found = list(_HASHES.finditer(text))
  for hashes, following in itertools.zip_longest(found, found[1:]):
    end = min(texts.line_end(text, hashes.end()), following.start() if following else len(text))
    stated = _in_clause(text, hashes.end(), end)
    if stated and not _LIST_ITEM.match(text, stated.end):
      yield _Statement(hashes.start(), stated.end, stated.value, True)


def _phrased(text: str) -> collections.abc.Iterator[_Statement]:
  phrases = list(_STATES.finditer(text))
  for phrase, following in itertools.zip_longest(phrases, phrases[1:]):
    start = phrase.end()
    end = min(texts.line_end(text, start), following.start() if following else len(text))
    if phrase['negated']:
      instead = _INSTEAD.search(text, start, texts.sentence_end(text, start, end))
      if instead is None:
        continue
      start = instead.end()
    first = next(numerals.find(text, start, end), None)
    if first is None or texts.sentence_end(text, start, end) < first.start:
      continue
    end = texts.sentence_end(text, first.end, end)
    more = text[end : end + 300].strip(' \n.!?*')
    # A bare label ('A:') may open a whole chain of thought.
    if phrase['label'] and more and (_WORD.search(text, start, first.start) or '=' in text[start:end]):
      continue
    stated = _in_clause(text, start, end)
    if stated:
      yield _Statement(phrase.start(), stated.end, stated.value, False)


def _decided(text: str, statements: list[_Statement]) -> _Statement | None:
  """Returns the last statement: a formatted one, unless a later one takes it back."""
  formatted = [statement for statement in statements if statement.formatted]
  if formatted and not texts.corrects(text, formatted[-1].end, max(statements[-1].start, formatted[-1].end)):
    return formatted[-1]
  return statements[-1] if statements else None


def _unmarked(text: str, query: str) -> str | None:
  """Reads the last sentence with a number: after its last '=', else the first number that the question does not name.

  Where it names them all, the one that was calculated last is meant, else the first. A question back is no answer
  where there is another, and a calculation that breaks off states none.
  """
  if _BREAKS_OFF.search(text):
    return None
  known, asked = numerals.named(query), None
  thought = _AFTERTHOUGHT.search(text)
  if thought and _in_sentence(text[: thought.start()]):
    text = text[: thought.start()]
  for start, end in reversed(texts.sentences(text)):
    if (_ITEM.fullmatch(text, start, end) and end < len(text)) or (_OFFERS.match(text, start, end) and start > 0):
      continue
    enumerated = _ENUMERATES.match(text, start, end)
    sentence = text[enumerated.end() if enumerated else start : end].rstrip()
    found = _in_sentence(_ASIDE.sub(' ', sentence)) or _in_sentence(sentence)
    if not found:
      continue
    after_equals = sentence.rpartition('=')
    if after_equals[1] and (results := _in_sentence(after_equals[2])):
      return results[0]
    new = [value for value in found if value not in known]
    value = new[0] if new else _calculated(text, start, found) or found[0]
    if not sentence.endswith('?'):
      return value
    asked = asked or value
  return asked


def _in_sentence(sentence: str) -> list[str]:
  return [
    one.value
    for one in numerals.find(sentence)
    if not one.ordinal and not _NOT.search(sentence, max(0, one.start - 20), one.start)
  ]


def _calculated(text: str, end: int, values: list[str]) -> str | None:
  """Returns the result of the last calculation before, where it is one of these values."""
  equals = text.rfind('=', max(0, end - 2_000), end)
  result = next(numerals.find(text, equals + 1, texts.line_end(text, equals)), None) if equals >= 0 else None
  return result.value if result and result.value in values else None


def number(text: str, query: str) -> str | None:
  r"""Extracts the number that a response states (`number-v2`), in the form of `numerals.canonical`.

  Evidence, in this order: the last place in a format made for answers (a LaTeX box, `<answer>`, the key `answer` of
  JSON, '#### x'), or what a later phrase corrects it to; the last phrase ('the answer is', 'answer:', a line's 'A:')
  that states a number; the last sentence with a number, of which counts what follows its last '=', else the first
  number that does not stand in the question, else the first. Thoughts between tags, what follows an end-of-sequence
  token and what answers another question than the one asked are not read. A number that is not understood as a whole
  is none: clock times, ratios, dates, versions, ranges, powers, roots, '2 hours and 30 minutes'. Nor does a format
  state a number that holds an expression, several numbers, or that there is no answer. A hyphen after a number or a
  word is no minus.
  """
  return texts.first_answer(_read, text, query)


def _read(text: str, query: str) -> str | None:
  text = numerals.flat(_CODE.sub('\n', text))
  statements = sorted([*_formatted(text, query), *_phrased(text)], key=lambda statement: statement[:2])
  places = [(statement.start, statement.end) for statement in statements]
  end = texts.end_of_answer(text, query, places, lambda head: _unmarked(head, query) is not None)
  decided = _decided(text, [statement for statement in statements if statement.start < end])
  if decided is None:
    return _unmarked(text[:end].rstrip(), query)
  amended = _AMENDS.search(text, decided.end, end)
  amendment = _in_clause(text, amended.end(), texts.sentence_end(text, amended.end(), end)) if amended else None
  return amendment.value if amendment else decided.value
