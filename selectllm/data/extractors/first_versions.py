"""The first version of each extractor; what they read stays as it is, so that old runs can be graded as they were.

None of them looks at the query.
"""

import ast
import collections
import collections.abc
import fractions
import operator
import re

from selectllm.data.extractors import texts

# Canonical numbers are rounded to this many decimals: 3.999999999999999 is 4, and 1/3 is 0.333333333.
DECIMALS = 6
# Longer numbers are no answers; Python also refuses to convert very long ones.
_MAX_DIGITS = 300

_SCALES = {'hundred': 10**2, 'thousand': 10**3, 'million': 10**6, 'billion': 10**9, 'trillion': 10**12}

_SUPERSCRIPTS = str.maketrans('⁻⁰¹²³⁴⁵⁶⁷⁸⁹', '-0123456789')
_ASCII = str.maketrans(
  {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
  | dict.fromkeys('\u2018\u2019', "'")
  | dict.fromkeys('\u201c\u201d', '"')
  | dict.fromkeys('\u2212\u2010\u2011\u2013\ufe63', '-')
  | {'\u2044': '/', '½': ' 1/2', '¼': ' 1/4', '¾': ' 3/4', '⅓': ' 1/3', '⅔': ' 2/3'}
)

_LATEX_FONT = re.compile(r'\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox)\s?\{([^{}]*)\}')
_LATEX_FRACTION = re.compile(r'((?<=[0-9]))?\\[cdt]?frac\s?(?:\{([^{}]*)\}|([0-9]))\s?(?:\{([^{}]*)\}|([0-9]))')
_CALCULATOR = re.compile(r'<<[^<>\n]*=([^<>\n=]*)>>(\s?[-$]{0,2}\.?[0-9])?')  # GSM8K's <<16-3=13>>
_SUPERSCRIPT = re.compile('[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+')
_DETACHED_MINUS = re.compile(r'=\s?-\s(?=[0-9.$\\])')  # x = - 5
_BOLD = re.compile(r'\*\*(?![0-9])|(?<![0-9])\*\*')  # but not the power of 2**3
_UNDERSCORE = re.compile(r'(?<![^\W_])_|_(?![^\W_]|\{)')  # but not that of x_2

# One number without its sign: 1,000.50 or 1 000 000 or 3,50 or 15.00 or .5; atomic, so that no shorter reading is
# tried. A space separates thousands only where that is plain, as '5 100' may be two numbers.
_PLAIN = r"""(?>
  [0-9]{1,3} (?:(?:(?:,|\{,\}|,\\!|\\,|[\u00a0\u2009\u202f])[0-9]{3}){1,999}+ | (?:\ [0-9]{3}){2,999}+ | \ 0[0-9]{2})
    (?![0-9]) (?:\.[0-9]++)?
  | [0-9]++,[0-9]{2} (?![0-9]|,[0-9])
  | [0-9]++ (?:\.[0-9]++)?
  | (?<!\.)\.[0-9]++
)"""

_DECIMAL_COMMA = re.compile(r'[0-9]+,[0-9]{2}')

# A number never starts inside a word, an exponent, a divisor or another number.
_NUMBER = re.compile(
  rf"""
  (?:(?<![\w)\]}}%-]) (?P<sign>-))?
  (?<![\w^/]) (?<!\^\{{) (?<![0-9][.,])
  (?:(?:\\?\$|[€£¥₹]|USD|EUR|GBP|INR|Rs\.?)\s?(?P<inner_sign>-)?)?
  (?:
    (?P<not_one_number>
      [0-9]++(?::[0-9]++)++                                             # a clock time or a ratio
      | [0-9]++(?:\.[0-9]++){{2,}}+                                     # a version
      | [0-9]{{4}}-[0-9]{{1,2}}-[0-9]{{1,2}}(?![0-9])                   # a date
      | [0-9]{{1,2}}(?P<joint>[/-])[0-9]{{1,2}}(?P=joint)[0-9]{{4}}(?![0-9])
      | (?!10\s?(?:\^|\*\*)){_PLAIN}\s?(?:\^|\*\*)\s?\{{?-?[0-9]++      # a power
    )
    | (?P<whole>[0-9]{{1,4}})\s(?P<numerator>[0-9]{{1,3}})/(?P<denominator>[0-9]{{1,3}})(?![0-9])
    | (?:(?P<mantissa>{_PLAIN})\s?(?:\\times|\\cdot|[x*\u00d7\u00b7])\s?)?
      10\s?(?:\^|\*\*)\s?\{{?(?P<power>[-+]?[0-9]{{1,4}})(?![0-9])\}}?
    | (?P<number>{_PLAIN}) (?:
        (?P<ordinal>st|nd|rd|th)\b
        | (?:[eE](?P<exponent>[-+]?[0-9]{{1,4}})(?![0-9]))? (?:\s?/\s?(?P<divisor>{_PLAIN}))?
      )
  )
  (?:\$?[ -]{{0,3}}(?P<scale>(?i:{'|'.join(_SCALES)}))\b)?
  """,
  re.VERBOSE | re.ASCII,
)
# What may stand around a number that is alone: currency and brackets before, a unit in words after.
_BEFORE_ALONE = re.compile(r'[\s$(+~≈]*+')
_AFTER_ALONE = re.compile(r'(?:[\s$)°]|\\?%)*+(?:[A-Za-z][A-Za-z ./]*+)?+[\s.$]*+')

_WORD = re.compile(r'[A-Za-z]')
_SENTENCE_END = re.compile(r'[.!?](?=\s|$)|\n')
_HASHES = re.compile(r'(?<!#)####(?!#)[ \t]*')
_LIST_ITEM = re.compile(r'[.):][ \t]+\S')
_STATES_NUMBER = re.compile(
  r"""
  (?:
    \banswer (?:\ to\ [^.:=\n]{1,60}?)? \s? (?:is|would\ be|should\ be|must\ be|equals|=)
    | \bfinal\ answer\s?: | ^[#\ \t]*(?:the\ )?final\ answer[ \t]*$
    | (?P<label>\banswer\s?: | ^[ \t]*(?-i:A):)
  )
  (?!\s?[?!,]|\s?\.(?![0-9])) [\s:]*+
  """,
  re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)

_STATES_OPTION = re.compile(
  r"""
  (?:
    (?i:\b(?:answer|option|choice|response)\s?(?:is|would\ be|should\ be|must\ be))
    | (?i:\b(?:answer|(?:correct|right|best|my)\ (?:option|choice))\s?[:=])
    | (?i:\banswer(?=\s?\())
    | ^[ \t]*A:
    | (?i:^[\#* \t]*(?:the\ )?(?:final|correct)\ answer[* \t]*$)
  ) [\s:*]*+
  | (?<!\w)(?=\(?[A-J]\)?\ is\ (?:the\ )?(?:correct|right|best)\b)
  """,
  re.VERBOSE | re.MULTILINE,
)
# Capitals that are words too, and small letters, are options only where nothing but an end or a reason follows.
_OPTION = re.compile(
  r"""
  (?:[\s:*_"'`$\[{\\-]
    | (?i:the|correct|final|best|option|choice|letter|answer|most\ likely|probably|clearly|thus|therefore|indeed)\b)*+
  (?:
    \(\s?(?P<bracketed>[A-Ja-j])\s?(?:\\?\)|$)
    | (?P<plain>[B-HJ])(?![\w+/]|['-]\w|\s?[=^])
    | (?P<guarded>[AIa-j])(?=[.,;:)\]}*"'`$\\]+(?:\s|$)|\s*$|\s\(|\s-\s|\ (?:because|since|as|for|is|and|or)\b)
  )
  (?!\)?(?:,?\s(?:and|or)|,|\s?/|\s?&)\s?\(?[A-J]\b(?!'|\)?\s(?:is|was|would)\b))  # several options are no choice
  """,
  re.VERBOSE,
)
_BRACKETED_OPTION = re.compile(r'(?<![\w\\/])(?<!not )\(([A-J])\)')
_BOLD_OPTION = re.compile(r'\*\*\(?([A-J])[.):]?\*\*')
_OPTION_ALONE = re.compile(r'[\W_]*([A-J])[\W_]*')
_OPENING_OPTION = re.compile(r'^[ \t]*(?:\(([A-J])\)|([A-J])(?:[).:]\s|,\s(?:because|since|as)\b))', re.MULTILINE)
_LAST_SENTENCE = re.compile(r'.*(?<=[.!?])\s')


def _ascii(text: str) -> str:
  """Writes minus signs, full-width forms and fractions in ASCII; replaces LaTeX's font commands by what they set."""
  return _LATEX_FONT.sub(r' \1 ', text.translate(_ASCII))


def _flat_fraction(match: re.Match[str]) -> str:
  mixed, numerator, numerator_digit, denominator, denominator_digit = match.groups()
  above, below = (numerator or numerator_digit or '').strip(), (denominator or denominator_digit or '').strip()
  return f'{"" if mixed is None else " "}{above}/{below} '


def _without_markup(text: str) -> str:
  text = _CALCULATOR.sub(lambda match: match[2] or match[1], _ascii(text))
  text = _SUPERSCRIPT.sub(lambda match: '^' + match[0].translate(_SUPERSCRIPTS), text)
  text = _LATEX_FRACTION.sub(_flat_fraction, text)
  text = _UNDERSCORE.sub(' ', _BOLD.sub(' ', text))
  return _DETACHED_MINUS.sub('= -', text)


def _boxed_span(text: str) -> tuple[int, int] | None:
  """Finds the content of the last LaTeX box; a box cut off by the end of the text counts."""
  command = text.rfind('\\boxed')
  if command < 0:
    return None
  start = command + len('\\boxed')
  if not text.startswith('{', start):
    return start, len(text)
  depth = 0
  for end in range(start, len(text)):
    depth += (text[end] == '{') - (text[end] == '}')
    if depth == 0:
      return start + 1, end
  return start + 1, len(text)


def _segments(
  phrases: collections.abc.Sequence[re.Match[str]], text: str
) -> collections.abc.Iterator[tuple[re.Match[str], int]]:
  """Yields stating phrases, the last first, with the end of what each may speak of (its line, or the next phrase)."""
  end = len(text)
  for phrase in reversed(phrases):
    line_end = text.find('\n', phrase.end(), end)
    yield phrase, end if line_end < 0 else line_end
    end = phrase.start()


def _plain_value(digits: str) -> fractions.Fraction:
  if _DECIMAL_COMMA.fullmatch(digits):
    digits = digits.replace(',', '.')
  return fractions.Fraction(re.sub(r'[^0-9.]', '', digits))


def _value(match: re.Match[str]) -> fractions.Fraction | None:
  power = int(match['power'] or match['exponent'] or 0)
  if match['not_one_number'] or len(match[0]) > _MAX_DIGITS or abs(power) > _MAX_DIGITS:
    return None
  above = _plain_value(match['numerator'] or match['mantissa'] or match['number'] or '1')
  below = _plain_value(match['denominator'] or match['divisor'] or '1')
  if below == 0:
    return None
  size = _plain_value(match['whole'] or '0') + above / below * fractions.Fraction(10) ** power
  size *= _SCALES[match['scale'].lower()] if match['scale'] else 1
  return -size if match['sign'] or match['inner_sign'] else size


def _canonical(value: fractions.Fraction) -> str:
  rounded = round(value * 10**DECIMALS)
  whole, part = divmod(abs(rounded), 10**DECIMALS)
  digits = f'{whole}.{part:0{DECIMALS}d}'.rstrip('0').rstrip('.')
  return f'-{digits}' if rounded < 0 else digits


def _first(matches: collections.abc.Iterable[re.Match[str]]) -> tuple[re.Match[str], str] | None:
  """Returns the first match that has a value, with its canonical number."""
  for match in matches:
    value = _value(match)
    if value is not None:
      return match, _canonical(value)
  return None


def _stated_number(text: str, start: int, end: int, *, bare_label: bool = False) -> str | None:
  """Finds the number that a box or a phrase states: after the last '=' of its sentence, else the first.

  A bare label ('A:') may open a whole chain of thought: it states a number only when one follows at once, or when
  nothing but one sentence follows.
  """
  found = _first(_NUMBER.finditer(text, start, end))
  if found is None:
    return None
  first, answer = found
  full_stop = _SENTENCE_END.search(text, first.end(), end)
  end = full_stop.start() if full_stop else end
  if bare_label and _WORD.search(text, start, first.start()) and text[end : end + _MAX_DIGITS].strip(' \n.!?*'):
    return None
  equals = text.rfind('=', start, end)
  result = _first(_NUMBER.finditer(text, equals + 1, end)) if equals >= 0 else None
  return result[1] if result else answer


def _stated_numbers(text: str) -> collections.abc.Iterator[str | None]:
  """Yields the numbers that the text states explicitly, strongest evidence first."""
  box = _boxed_span(text)
  if box:
    yield _stated_number(text, *box)
  for hashes in reversed(list(_HASHES.finditer(text))):
    match = _NUMBER.match(text, hashes.end())
    if match and not _LIST_ITEM.match(text, match.end()):
      yield _stated_number(text, *match.span())
  for phrase, end in _segments(list(_STATES_NUMBER.finditer(text)), text):
    yield _stated_number(text, phrase.end(), end, bare_label=bool(phrase['label']))


def canonical_number(text: str) -> str | None:
  """Brings a text that is one number into canonical form, None for anything else; raises nothing.

  The canonical form has no separators, no currency, no percent sign, no unit, no '-0' and no trailing zeros; it is
  exact arithmetic rounded to `DECIMALS` decimals (half to even). Fractions become decimals and the words thousand,
  million and so on factors. A comma before exactly two last digits is a decimal comma. Numbers of more than 300
  characters, powers beyond 10^300, nan and inf have none.
  """
  text = _without_markup(text)
  before = _BEFORE_ALONE.match(text)
  match = _NUMBER.match(text, before.end()) if before else None
  if match is None or not _AFTER_ALONE.fullmatch(text, match.end()):
    return None
  value = _value(match)
  return None if value is None else _canonical(value)


def number(text: str, query: str = '') -> str | None:
  r"""Extracts the number that a response ends on (`number-v1`), in the form of `canonical_number`.

  Evidence, in this order: the last LaTeX box; the last '#### x'; the last of 'the answer is', 'final answer:',
  'answer:' and a line's 'A:' that states a number; the last number of the text. Clock times, ratios, dates,
  versions and powers are not numbers; an ordinal ('6th') is one only where it is stated explicitly; digits inside a
  word ('x2') are none; a hyphen after a number or a word is no minus sign.
  """
  del query
  text = _without_markup(texts.bounded(text))
  for answer in _stated_numbers(text):
    if answer is not None:
      return answer
  last = _first(match for match in reversed(list(_NUMBER.finditer(text))) if not match['ordinal'])
  return last[1] if last else None


def _option_at(text: str, start: int, end: int) -> str | None:
  match = _OPTION.match(text, start, end)
  return (match['bracketed'] or match['plain'] or match['guarded']).upper() if match else None


def _only(letters: collections.abc.Iterable[str]) -> str | None:
  distinct = set(letters)
  return distinct.pop() if len(distinct) == 1 else None


def _stated_options(
  text: str, phrases: collections.abc.Sequence[re.Match[str]]
) -> collections.abc.Iterator[str | None]:
  """Yields the options that the box and the phrases state, strongest evidence first."""
  box = _boxed_span(text)
  if box:
    yield _option_at(text, *box)
  for phrase, end in _segments(phrases, text):
    yield _option_at(text, phrase.end(), end)
    full_stop = _SENTENCE_END.search(text, phrase.end(), end)
    yield _only(_BRACKETED_OPTION.findall(text, phrase.end(), full_stop.start() if full_stop else end))


def _marked_options(text: str, *, stated: bool) -> collections.abc.Iterator[str | None]:
  """Yields the options that stand out without a phrase, strongest evidence first; weak ones where nothing is stated."""
  last_line = text.rstrip().rpartition('\n')[2]
  alone = _OPTION_ALONE.fullmatch(last_line)
  yield alone[1] if alone else None
  yield next(reversed(_BOLD_OPTION.findall(text)), None)
  if not stated:
    before = _LAST_SENTENCE.match(last_line)
    yield _only(_BRACKETED_OPTION.findall(last_line, (before.end() if before else 0) + 1))  # the opening one lists
    if _OPENING_OPTION.match(text):
      yield _only(bracketed or plain for bracketed, plain in _OPENING_OPTION.findall(text))


def option_letter(text: str, query: str = '') -> str | None:
  r"""Extracts the option from A to J that a response chooses (`option_letter-v1`).

  Evidence, in this order: the last LaTeX box; the last phrase ('the answer is', 'answer:', 'option ... is', '... is
  correct') that states one letter; a last line that is nothing but a letter; the last letter in bold; and in a text
  without any such phrase the only letter in round brackets within the last sentence, then a letter that opens the text
  ('C.', 'C)', '(C)'). Small letters count only after a phrase or in a box, and like 'A' and 'I', which are words too,
  only in brackets or before an end or a reason.
  A phrase with several options states none.
  """
  del query
  text = _ascii(texts.bounded(text))
  phrases = list(_STATES_OPTION.finditer(text))
  for option in (*_stated_options(text, phrases), *_marked_options(text, stated=bool(phrases))):
    if option is not None:
      return option
  return None


def program_output(text: str, query: str = '') -> str | None:
  """Extracts the number that a program printed or returned (`program_output-v1`), as `canonical_number` has it.

  The last block opened by ```output holds it; a tuple, list, dict, symbolic expression or nothing is no answer.
  """
  del query
  _, fence, block = texts.bounded(text).rpartition('```output')
  return canonical_number(block.partition('```')[0]) if fence else None


_OPERATIONS: dict[type, collections.abc.Callable[..., fractions.Fraction]] = {
  ast.Add: operator.add,
  ast.Sub: operator.sub,
  ast.Mult: operator.mul,
  ast.Div: operator.truediv,
  ast.UAdd: operator.pos,
  ast.USub: operator.neg,
}


def _evaluated(node: ast.AST, text: str) -> fractions.Fraction:
  """Evaluates an expression of numbers, + - * / and brackets exactly; raises `ValueError` for anything else."""
  match node:
    case ast.Expression(body):
      return _evaluated(body, text)
    case ast.Constant(value) if type(value) in (int, float):
      return fractions.Fraction(ast.get_source_segment(text, node) or '')  # 0.1 is a tenth, not the float next to it
    case ast.UnaryOp(sign, operand) if type(sign) in _OPERATIONS:
      return _OPERATIONS[type(sign)](_evaluated(operand, text))
    case ast.BinOp(left, sign, right) if type(sign) in _OPERATIONS:
      return _OPERATIONS[type(sign)](_evaluated(left, text), _evaluated(right, text))
  raise ValueError(f'not arithmetic: {text!r:.80}')


def calculation(text: str, query: str = '') -> str | None:
  """Extracts the value of the calculation that a response states (`calculation-v1`), as `canonical_number` has it.

  The first line with a number counts, what stands before a colon and after an equals sign does not: the LLM says what
  is to be calculated, and the calculation is ours. Numbers, + - * / x ÷ and brackets make a calculation; a line with
  other words, a division by zero or a broken expression states none.
  """
  del query
  line = next((line for line in _ascii(texts.bounded(text)).splitlines() if any(map(str.isdecimal, line))), '')
  written = line.rpartition(':')[2].strip().partition('=')[0]
  written = re.sub(r'(?<=[0-9]),(?=[0-9]{3})|[$`]', '', written).replace('÷', '/')
  written = re.sub(r'(?<=[0-9)\s])[x×](?=[0-9(\s])', '*', written).strip().rstrip(' .')
  written = re.sub(r'(?<![0-9.])0+(?=[0-9])', '', written)  # 05 is 5, which Python's grammar forbids
  if len(written) > _MAX_DIGITS or not re.fullmatch(r'[0-9+*/(). -]+', written):
    return None
  try:
    value = _evaluated(ast.parse(written, mode='eval'), written)
  except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):  # the last two: nested too deep
    return None
  return _canonical(value)
