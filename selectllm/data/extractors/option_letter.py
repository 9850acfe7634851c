"""The option that a response to a multiple-choice question chooses."""

import collections.abc
import itertools
import re
from typing import NamedTuple

from selectllm.data.extractors import texts

# The letters that multiple-choice options go by.
OPTIONS = tuple('ABCDEFGHIJ')

_BETWEEN = texts.BETWEEN
_STATES = re.compile(
  rf"""
  (?:
    (?i:(?<!incorrect\ )(?<!wrong\ )(?<!false\ )(?<![^\W_])
      (?:answer{_BETWEEN}(?:\s?(?:to|for|of|here)(?:\s[^.:=?()\n]{{1,80}}?)?)?|
        (?:option|choice|response|(?:correct|right|best)\ one)(?:\shere)?{_BETWEEN})
      \s?(?:is|was|would\s+be|should\s+be|must\s+be|has\s+to\s+be|will\s+be
        |(?:seems|appears)\s+to\s+be)(?=n't|[^A-Za-z]|$))
    | (?i:(?<![^\W_])(?:answer|ans\.?|correction
      |(?:correct|right|best|my|final|selected|chosen|answer)\s(?:option|choice)|(?:my|final)\s(?:pick|guess))
      {_BETWEEN}\s?(?::|=>|->|--|=|-(?=\s)))
    | (?P<chooses>(?i:\b(?:i|we)(?:'d|'ll|'m|\s+am|\s+are|\s+will|\s+would)?(?:\s+(?:therefore|thus|then|also))?
      \s+(?:(?:going\s+)?(?:to\s+)?(?:go|going)\s+with|pick|choose|chose|select|opt\s+for|vote\s+for|guess|answer|conclude)
      (?:\s+(?:that|it\s+is|it's))?(?!\w)) | (?i:\bi(?:'d|'ll|\s+would|\s+will)\s+say\b(?:\s+(?:that|it's|it\s+is)\b)?)
      | (?:故|应|应该|所以|因此,?\s?|我)选择?
      | (?i:\blet(?:'s|\sus)\s+(?:go\s+with|choose|pick|select)\b)
      | (?i:\b(?:leaving|(?:that|which)\s+leaves)(?:\s+(?:us\s+with|only|just))?\b))
    | (?i:\banswer(?=\s?\()) | ^[ \t]*A:
    | (?i:^\W{{0,8}}(?:(?:the|final|correct)\s){{0,2}}answer[ \t]{{1,4}}(?=\(?[A-J]\)?\W*$))
    | (?i:^[\#* \t]*(?:the\ )?(?:final|correct)\ answer[*: \t]*$)
    | (?i:{texts.ANSWER_IN_OTHER_LANGUAGES})
  ) [\s:*]*+
  | (?P<before>(?<![\w(])(?=(?:\([A-J]\)|[A-J]\)?)[*"'`_]{{0,3}}[,]?\ (?:is|would\ be|must\ be|seems|looks)
      \ (?:to\ be\ )?(?:the\ |my\ )?(?:(?:most|only|single|best|final|likely)\ ){{0,2}}
      (?:correct|right|best|answer|choice|option
        |(?<=most\ )(?:appropriate|suitable|accurate|plausible|reasonable|fitting))\b (?!\s(?:if|when|unless|only)\b)
    | (?:\([A-J]\)|[A-J])\ (?:as\ )?the\ (?:correct|right|best)\ (?:answer|choice|option)\b
    | (?:\([A-J]\)|[A-J])\ best\ (?:describes|explains|fits|matches|represents|answers|reflects)\b
    | (?:\([A-J]\)|[A-J])\ it\ is\b))
  """,
  re.VERBOSE | re.MULTILINE,
)
# Before a letter that is a sentence's subject: 'So B is', 'option B is', but not 'Vitamin B is'.
_OPENS_CLAUSE = re.compile(
  r"(?:^|[.,;:!?()\n\"'*`>-]|\b(?:so|thus|hence|therefore|then|option|options|choice|answer|letter|that|and|but|because|since"
  r'|means|makes|making|select|choose|only|is|think|believe|say|clearly|finally|conclude))\s*\Z',
  re.IGNORECASE,
)
_SEVERAL_BEFORE = re.compile(r'\b[A-J]\)?,?\s(?:(?:and|or|nor|both)\s)?(?:option\s)?\Z')
# Capitals that are words too, and small letters, are options only where nothing but an end or a reason follows.
_OPTION = re.compile(
  r"""
  (?:[\s:*_"'`$\[{\\<-]
    | (?i:the|correct|final|best|option|choice|letter|answer|most\ likely|probably|clearly|thus|therefore|indeed|likely
      |definitely|actually|simply|is|that|it(?:'s|\ is)|i(?:'d|\ would)?\ (?:think|believe|guess|suspect|say))\b)*+
  (?:
    \(\s?(?P<bracketed>[A-Ja-j])\s?(?:\\?\)|$)
    | (?P<plain>[B-HJ])(?![^\W\u3040-\ud7a3]|[+/]|['-]\w|\s?[=^])
    | (?P<guarded>[AIa-j])(?=[.,;:)\]}>*"'`$\\]+(?:\s|$)|\s*$|\s\(|\s--?\s|\ (?:because|since|as|for|is|and|or)\b)
  )
  (?!\)?(?:,?\s(?:and|or)|,|\s?/|\s?&)\s?(?:option\s)?\(?(?:[A-J]|[IVX]{2,4})\b(?!'|\)?\s(?:is|was|would)\b))  # several
  """,
  re.VERBOSE,
)
_REJECTED_BEFORE = re.compile(
  r"""
  (?: \b(?: not | nor | neither | never | unlike | than | over | versus | cannot | can\ not | without | instead\ of
      | rul\w+\ out | eliminat\w+ | reject\w* | discard\w* | dismiss\w* | (?:anything|all|everything|nothing)\ but
      | (?:incorrect|wrong|false)\ (?:answers?|options?|choices?)(?:\ (?:is|are|was))? )
    | n't ) \s+ (?:(?:be|the|an?|options?|choice|answer|letter)\s+)* [(*"'`]*\Z
  """,
  re.IGNORECASE | re.VERBOSE,
)
# In small letters: '(B) Does not apply' is an option that says so.
_REJECTED_AFTER = re.compile(
  r"""
  [)*"'`\]]* (?:[:,]?\s(?:which|because\ it|since\ it|as\ it|it))? \s*
  (?: (?:is|was|are|seems|looks|would\ be)
      (?:n't | \s+(?:(?:definitely|clearly|also)\s+)?
        (?i:not|never|in-?correct|wrong|false|ruled|eliminated|impossible|unlikely|irrelevant|too|out))
    | can(?:'t|not|\ not) | couldn't | could\ not | doesn't | does\ not | won't | wouldn't | would\ not )\b
  """,
  re.VERBOSE,
)
_NOT_BUT = re.compile(
  r"(?:n't|\s*\bnot\b|\s*\bneither\b)[^.\n]{0,120}?\b(?:but(?:\s+rather)?|rather|instead|it\s+is|it's)(?=\s)",
  re.IGNORECASE,
)
_NEGATED = re.compile(r"n't|(?:\w{4,10}ly\s)?(?:not|neither)\b", re.IGNORECASE)
_BRACKETED = re.compile(r'(?<![\w\\/])\(([A-J])\)')
_BOLD = re.compile(r'\*\*\s?\(?([A-J])[.):]?\s?\*\*')
_BOLD_WITH_TEXT = re.compile(r'\*\*\s?(?:\(([A-J])\)|([A-J])[.):])\s[^*\n]{1,300}\*\*')
_ALONE = re.compile(r'[\W_]*(?:(?i:option|choice)\s\W?)?([A-J])[\W_]*')
_SMALL = re.compile(r'\(?([a-j])[.)]{0,2}')
_OPENING = re.compile(
  r'^[ \t]*(?:[-*•>][ \t]?)?(?:\(([A-J])\)|([A-J])(?:[).:]\s|,\s(?:because|since|as)\b))', re.MULTILINE
)
_CONCLUDES = re.compile(
  r'\b(?:therefore|thus|hence|so|conclusion|matches|corresponds\s+to'
  r"|(?:it|that|which|this)(?:'s|\s+(?:is|(?:must|has\s+to|should)\s+be)))[,:\s]{1,3}",
  re.IGNORECASE,
)
_LISTED = re.compile(r'^[ \t]*\(?([A-J])[).:]\s*(.*\S)', re.MULTILINE)
_BARE_I = re.compile(r'(?<![\w(])I(?![\w)])')
_ROMAN = re.compile(r'\bI(?:I|V)I?\b')


class _Choice(NamedTuple):
  """An option that is stated in so many words, or in a format made for it."""

  start: int
  end: int
  letter: str
  formatted: bool


class _Options(NamedTuple):
  """What may be chosen.

  Attributes:
    texts: Letter -> what the option says; empty where the query does not list its options.
    numerals: Whether roman numerals number something else, so that an I may be one of them.
  """

  texts: dict[str, str]
  numerals: bool

  def allowed(self, letter: str) -> bool:
    """Tells whether the question has this option."""
    return not self.texts or letter in self.texts


def _normal(text: str) -> str:
  return ' '.join(re.sub(r'[\s$*_`"\'().,;:]+', ' ', text).split()).casefold()


def _listed(query: str) -> dict[str, str]:
  """Reads the options that the last lines of a question list, A first."""
  listed: dict[str, str] = {}
  for letter, text in _LISTED.findall(query):
    if letter == 'A':
      listed = {}
    if letter == OPTIONS[len(listed) % len(OPTIONS)]:
      listed[letter] = _normal(text)
  return listed if len(listed) > 1 else {}


def _only(letters: collections.abc.Iterable[str]) -> str | None:
  distinct = set(letters)
  return distinct.pop() if len(distinct) == 1 else None


def _rejected(text: str, start: int, end: int) -> bool:
  return bool(_REJECTED_BEFORE.search(text, max(0, start - 50), start) or _REJECTED_AFTER.match(text, end))


def _at(text: str, start: int, end: int, options: _Options, *, small: bool = True) -> str | None:
  """Reads the one option that stands there, maybe as a small letter."""
  match = _OPTION.match(text, start, end)
  if match is None:
    return None
  group = match.lastgroup or ''
  letter = match[group].upper()
  roman = letter == 'I' and group != 'bracketed' and options.numerals
  if (
    roman
    or (match[group].islower() and not small)
    or not options.allowed(letter)
    or _rejected(text, match.start(group), match.end(group))
  ):
    return None
  return letter


def _bracketed(text: str, start: int, end: int, options: _Options) -> str | None:
  """Reads the only option in round brackets that is not rejected."""
  found = [
    match
    for match in _BRACKETED.finditer(text, start, end)
    if options.allowed(match[1]) and not _REJECTED_BEFORE.search(text, max(0, match.start() - 50), match.start())
  ]
  letter = _only(match[1] for match in found)
  return letter if letter and not _REJECTED_AFTER.match(text, found[-1].end()) else None


def _by_text(text: str, options: _Options) -> str | None:
  """Finds the option that says just this."""
  said = _normal(text)
  found = [
    letter for letter, option in options.texts.items() if said and said in (option, f'{letter.lower()} {option}')
  ]
  return found[0] if len(found) == 1 else None


def _formatted(text: str, options: _Options) -> collections.abc.Iterator[_Choice]:
  for mark in texts.marks(text):
    held = _at(text, mark.held, mark.end, options) or _by_text(
      text[mark.held : min(mark.end, mark.held + 500)], options
    )
    if held:
      yield _Choice(mark.start, mark.end, held, True)


def _opens_clause(text: str, start: int) -> bool:
  if _SEVERAL_BEFORE.search(text, max(0, start - 20), start):
    return False
  return text[start] == '(' or _OPENS_CLAUSE.search(text, max(0, start - 20), start) is not None


def _phrased(
  text: str, phrases: collections.abc.Sequence[re.Match[str]], options: _Options
) -> collections.abc.Iterator[_Choice]:
  for phrase, following in itertools.zip_longest(phrases, phrases[1:]):
    start = phrase.end()
    if phrase['before'] is not None and not _opens_clause(text, start):
      continue
    end = min(texts.line_end(text, start), following.start() if following else len(text))
    if phrase['before'] is not None:
      end = min(len(text), max(end, start + 4))
    if instead := _NOT_BUT.match(text, start, end):
      start = instead.end()
    sentence = texts.sentence_end(text, start, end)
    letter = (
      _at(text, start, end, options, small=phrase['chooses'] is None)
      or _bracketed(text, start, sentence, options)
      or _by_text(text[start : min(sentence, start + 500)], options)
    )
    if letter:
      yield _Choice(phrase.start(), sentence, letter, False)


def _decided(text: str, choices: list[_Choice]) -> str | None:
  """Returns the last choice: a formatted one, unless a later one takes it back."""
  formatted = [choice for choice in choices if choice.formatted]
  if formatted and not texts.corrects(text, formatted[-1].end, max(choices[-1].start, formatted[-1].end)):
    return formatted[-1].letter
  return choices[-1].letter if choices else None


def _standing_out(text: str, options: _Options, *, stated: bool) -> collections.abc.Iterator[str | None]:
  """Yields the options that stand out without a phrase, strongest evidence first; weak ones where nothing is stated."""
  if options.numerals:
    text = _BARE_I.sub(' ', text)
  last_line = text.rstrip().rpartition('\n')[2]
  alone = _ALONE.fullmatch(last_line)
  yield alone[1] if alone else None
  small = _SMALL.fullmatch(text.strip())
  yield small[1].upper() if small else _by_text(text, options) if len(text) <= 500 else None
  bold = [match for match in _BOLD.finditer(text) if not _rejected(text, match.start(1), match.end())]
  yield bold[-1][1] if bold else None
  yield _only(
    match[1] or match[2] for match in _BOLD_WITH_TEXT.finditer(text) if not _REJECTED_AFTER.match(text, match.end())
  )
  if stated:
    return
  last = re.search(r'[^\s].*\Z', last_line[texts.sentences(last_line)[-1][0] :] if last_line else '')
  sentence = last[0] if last else ''
  concluding = [
    found for match in _CONCLUDES.finditer(sentence) if (found := _concluded(sentence, match.end(), options))
  ]
  yield concluding[-1] if concluding else None
  yield _bracketed(sentence, 1, len(sentence), options)  # the bracket that opens it lists
  if _OPENING.match(text.lstrip()):
    yield _only(
      match[1] or match[2] for match in _OPENING.finditer(text) if not _rejected(text, match.start(), match.end())
    )


def _concluded(text: str, start: int, options: _Options) -> str | None:
  """Reads 'so (B).' and 'it must be B.': an option with which the sentence ends."""
  letter = _at(text, start, len(text), options, small=False)
  said = text[start:].strip(' *()_"\'`$.!').rpartition(' ')
  return letter if said[2].strip('*(') == letter and said[0].casefold() in ('', 'option', 'choice', 'answer') else None


def option_letter(text: str, query: str) -> str | None:
  r"""Extracts the option from A to J that a response chooses (`option_letter-v2`).

  Evidence, in this order: the last place in a format made for answers (a LaTeX box, `<answer>`, the key `answer` of
  JSON), or what a later phrase corrects it to; the last phrase ('the answer is', 'answer:', 'I would pick', '... is
  correct') that states one letter, or just what one of the options says; a last line that is nothing but a letter; the
  last letter in bold, or the only option in bold; 'so B.'; and in a text without any such phrase the only letter in
  round brackets within the last sentence, then a letter that opens the text ('C.', 'C)', '(C)'). What is rejected ('not
  (A)', 'A is wrong') is not chosen; several options are no choice, nor is a letter that the question does not offer.
  Small letters count only after a phrase or in a format, and like 'A' and 'I', which are words too, only in brackets or
  before an end or a reason. Thoughts between tags, what follows an end-of-sequence token and what answers another
  question than the one asked are not read.
  """
  return texts.first_answer(_read, text, query)


def _read(text: str, query: str) -> str | None:
  options = _Options(_listed(query), bool(_ROMAN.search(text) or _ROMAN.search(query)))
  phrases = list(_STATES.finditer(text))
  choices = sorted([*_formatted(text, options), *_phrased(text, phrases, options)])
  places = [(choice.start, choice.end) for choice in choices]
  end = texts.end_of_answer(text, query, places, lambda head: any(_standing_out(head, options, stated=False)))
  decided = _decided(text, [choice for choice in choices if choice.start < end])
  if decided:
    return decided
  stated = any(phrase.start() < end and not _NEGATED.match(text, phrase.end()) for phrase in phrases)
  standing = (letter for letter in _standing_out(text[:end], options, stated=stated) if letter)
  return next((letter for letter in standing if options.allowed(letter)), None)


def reference(text: str) -> str | None:
  """Brings a reference into canonical form: a letter alone, or in front of what the option says; None for others."""
  text = texts.plain(text).strip()
  match = re.fullmatch(r'[\W_]*([A-Ja-j])[\W_]*', text) or re.match(r'\(?([A-J])[).:]\s+\S', text)
  return match[1].upper() if match else None
