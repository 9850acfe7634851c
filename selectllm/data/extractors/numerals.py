"""Numbers as LLMs write them, and what of digits is none: read exactly, whole or not at all."""

import collections.abc
import fractions
import re
from typing import NamedTuple

from selectllm.data.extractors import texts

# Canonical numbers are rounded to this many decimals: 3.999999999999999 is 4, and 1/3 is 0.333333333.
DECIMALS = 6
# Longer numbers are no answers; Python also refuses to convert very long ones.
_MAX_DIGITS = 300

_SCALES = {
  'hundred': 10**2, 'thousand': 10**3, 'lakh': 10**5, 'lakhs': 10**5, 'lac': 10**5, 'million': 10**6, 'millions': 10**6,
  'crore': 10**7, 'crores': 10**7, 'billion': 10**9, 'trillion': 10**12, 'dozen': 12, '百': 10**2, '千': 10**3,
  '万': 10**4, '萬': 10**4, '만': 10**4, '億': 10**8, '亿': 10**8, '억': 10**8,
}  # fmt: skip
# After a sign of currency these are no units; k is none at all.
_MONEY_SCALES = {'k': 10**3, 'm': 10**6, 'mn': 10**6, 'b': 10**9, 'bn': 10**9, 't': 10**12}
_PARTS = {'half': '1/2', 'third': '1/3', 'quarter': '1/4', 'three quarters': '3/4', 'two thirds': '2/3'}
_WORDS: dict[str, int | fractions.Fraction] = {
  'zero': 0, 'one': 1, 'two': 2, 'three': 3, 'four': 4, 'five': 5, 'six': 6, 'seven': 7, 'eight': 8, 'nine': 9,
  'ten': 10, 'eleven': 11, 'twelve': 12, 'thirteen': 13, 'fourteen': 14, 'fifteen': 15, 'sixteen': 16, 'seventeen': 17,
  'eighteen': 18, 'nineteen': 19, 'twenty': 20, 'thirty': 30, 'forty': 40, 'fifty': 50, 'sixty': 60, 'seventy': 70,
  'eighty': 80, 'ninety': 90, 'hundred': 100, 'dozen': 12, 'once': 1, 'twice': 2, 'double': 2, 'triple': 3,
  'half': fractions.Fraction(1, 2),
}  # fmt: skip
_WORD_NUMBER = re.compile(rf'\b(?:{"|".join(_WORDS)})\b', re.IGNORECASE)

_SUPERSCRIPTS = str.maketrans('⁻⁰¹²³⁴⁵⁶⁷⁸⁹', '-0123456789')
_SUPERSCRIPT = re.compile('[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+')
_SPACED_MONEY = re.compile(r'((?:[$€£₹]|Rs\.?\s?)[0-9]{1,3}) (?=[0-9]{3}(?![0-9]))')  # $9 500
_CALCULATOR = re.compile(r'<<[^<>\n]*=([^<>\n=]*)>>(\s?[-$]{0,2}\.?[0-9])?')  # GSM8K's <<16-3=13>>
_LATEX_FRACTION = re.compile(r'((?<=[0-9])\s?)?\\[cdt]?frac\s?(?:\{([^{}]*)\}|([0-9]))\s?(?:\{([^{}]*)\}|([0-9]))')
_LATEX_GROUP = re.compile(r'(?<=[0-9])(?:\{,\}|\\,|,\\!|,(?=[0-9]))(?=[0-9]{3}(?![0-9]))')
# What is left of LaTeX is mathematics: whatever of it holds or touches a number is more than that number.
_LATEX_MATHS = re.compile(
  r'\\{1,2}(?:sqrt|root|log|ln|sin|cos|tan|pi|binom|sum|int|infty|alpha|beta|theta)(?![A-Za-z])\s?'
  r'(?:\[[^\[\]{}]{0,40}\])?(?:\s?\{[^{}]*\}|\s?[0-9]+)?(?:\s?\{[^{}]*\})?'
  r'|(?<![A-Za-z])(?:sqrt|log|ln|sin|cos|tan)\s?\([^()\n]*\)?|[√∛π∞]\s?(?:[0-9]+)?'
)
_MATHS = '\ue000'  # stands for it
_MATHS_AFTER = re.compile(rf'\s?[-+*/^]?\s?{_MATHS}')
_MATHS_BEFORE = re.compile(rf'{_MATHS}\s?[-+*/^]?\s?\Z')
_DETACHED_MINUS = re.compile(r'=\s?-\s(?=[0-9.$\\])')  # x = - 5
_BOLD = re.compile(r'\*\*(?![0-9])|(?<![0-9])\*\*')  # but not the power of 2**3
_ITALIC = re.compile(r'(?<![\w)*])\*(?=[^\W\d_]|[$"\'(])|(?<=[^\W\d_]|["\').:!?])\*(?![\w(*])|`')
_UNDERSCORE = re.compile(r'(?<![^\W_])_|_(?![^\W_]|\{)')  # but not that of x_2
_FULL_HOUR = re.compile(r"(?<=[0-9]):00(?=\s?(?:[apAP]\.?[mM]\b|o'clock))")
_AND_A_PART = re.compile(rf'(?<=[0-9])\s(?:and\s)(?:an?\s|one\s)?({"|".join(sorted(_PARTS, key=len, reverse=True))})\b')
_AND_FRACTION = re.compile(r'(?<=[0-9])\sand\s(?=[0-9]{1,3}/[0-9]{1,3}(?![0-9]))')

# One number without its sign, atomic, so that no shorter reading is tried. A space separates thousands only where that
# is plain, as '5 100' may be two numbers.
_PLAIN = r"""(?>
  [0-9]{1,3} (?:[\ \u00a0\u2009\u202f][0-9]{3}){2,99}+ ,[0-9]{1,2} (?![0-9,])
  | [0-9]{1,3} (?:(?:,[0-9]{3}){1,99}+ | (?:[\u00a0\u2009\u202f][0-9]{3}){1,99}+ | (?:'[0-9]{3}){1,99}+
      | (?:_[0-9]{3}){1,99}+ | (?:\ [0-9]{3}){2,99}+ | \ 0[0-9]{2}) (?![0-9]) (?:\.[0-9]++)?
  | [0-9]{1,2} (?:,[0-9]{2}(?=,)){1,99}+ ,[0-9]{3} (?![0-9]) (?:\.[0-9]++)?   # lakhs: 1,50,000
  | [0-9]{1,3} (?:\.[0-9]{3}){1,99}+ ,[0-9]++                            # 1.000,50
  | [0-9]{1,3} (?:\.[0-9]{3}){2,99}+ (?![0-9.])                          # 1.000.000
  | [0-9]++,[0-9]{1,2} (?![0-9]|,[0-9])                                  # a decimal comma
  | 0,[0-9]++ (?!,)
  | [0-9]++ (?:\.[0-9]++)?
  | (?<!\.)\.[0-9]++
)"""

_DIGITS = re.compile(_PLAIN, re.VERBOSE)
_DECIMAL_COMMA = re.compile(r'[0-9\s]+,[0-9]{1,2}|0,[0-9]+|[0-9.]+\.[0-9]{3},[0-9]+')

_LARGER_UNIT = r'(?P<larger>(?i:year|week|day|hour|hr|h|minute|min|feet|foot|ft|pound|lb))s?'
_SMALLER_UNIT = (
  r'(?!(?P=larger))(?i:months?|weeks?|days?|hours?|hrs?|minutes?|mins?|m|seconds?|secs?|inch(?:es)?|ounces?|oz)'
)

# A number never starts inside a word, an exponent, a divisor or another number.
_NUMBER = re.compile(
  rf"""
  (?:(?<![\w)\]}}%-]) (?P<sign>-))?
  (?<![\w^/]) (?<!\^\{{) (?<![0-9][.,]) (?<![A-Za-z]-)
  (?P<money>(?:\\?\$|[€£¥₹₩]|USD|EUR|GBP|INR|Rs\.?|US\$)\s?(?P<inner_sign>-)?)?
  (?:
    (?P<not_one_number>
      [0-9]++(?::[0-9]++)++                                             # a clock time or a ratio
      | (?![0-9]{{1,3}}(?:\.[0-9]{{3}}){{2,99}}(?![0-9.])) [0-9]++(?:\.[0-9]++){{2,}}+  # a version
      | [0-9]{{4}}-[0-9]{{1,2}}-[0-9]{{1,2}}(?![0-9])                   # a date
      | [0-9]{{1,2}}(?P<joint>[/.-])[0-9]{{1,2}}(?P=joint)[0-9]{{4}}(?![0-9])
      | (?!10\s?(?:\^|\*\*)){_PLAIN}\s?(?:\^|\*\*)\s?\{{?-?[0-9]++      # a power
      | {_PLAIN}-\$?{_PLAIN}(?![0-9]|\s?[-=+*/(])                         # a range
      | (?:(?<=[bB]etween\s)|(?<=[bB]etween\s\$)) {_PLAIN}\sand\s\$?{_PLAIN}
      | {_PLAIN}\s?{_LARGER_UNIT}\b(?:,\s(?:and\s)?|\sand\s|\s){_PLAIN}\s?{_SMALLER_UNIT}\b  # 5 feet 6 inches
      | {_PLAIN}\s?{_MATHS} | 0[xX][0-9a-fA-F]++ | {_PLAIN}(?![eE][0-9]++(?!\w))[A-Za-z]{{1,3}}[0-9]\w*+
      | (?<=[(\[{{]) [0-9]++(?:,\s?-?[0-9]++)++ (?=\\?[)\]}}])           # a pair, a list, a set
    )
    | (?P<whole>[0-9]{{1,6}})\s(?P<numerator>[0-9]{{1,3}})/(?P<denominator>[0-9]{{1,3}})(?![0-9])
    | (?:(?P<mantissa>{_PLAIN})\s?(?:\\times|\\cdot|[x*\u00d7\u00b7])\s?)?
      10\s?(?:\^|\*\*)\s?\{{?(?P<power>[-+]?[0-9]{{1,4}})(?![0-9])\}}?
    | (?P<number>{_PLAIN}) (?:
        (?P<ordinal>st|nd|rd|th)\b
        | (?:[eE](?P<exponent>[-+]?[0-9]{{1,4}})(?![0-9]))? (?:\s?/\s?(?P<divisor>{_PLAIN}))?
      )
      (?P<torn>[,.'_]?[0-9])?                                           # more digits than were understood
  )
  (?:\$?[ -]{{0,3}}(?P<scale>(?i:{'|'.join(sorted(_SCALES, key=len, reverse=True))})(?![A-Za-z]))
    | (?P<unit>(?i:k|mn?|bn?|t)\b))?
  """,
  re.VERBOSE | re.ASCII,
)

# What may stand around a number that is alone: currency and brackets before, a unit in words after.
_BEFORE_ALONE = re.compile(r'[\s$(+~≈]*+')
_AFTER_ALONE = re.compile(
  r'(?!\s?[xyzn]\b)(?:[\s$)°]|\\?%)*+(?:[^\W\d_](?:[^\W\d_]|[ ./])*+(?:\^\{?[23]\}?)?+)?+[\s.$]*+'
)
_HASHES = re.compile(r'\A.*####(?!#)', re.DOTALL)


class Found(NamedTuple):
  """A number in a text.

  Attributes:
    start: Where it starts.
    end: Where it ends.
    value: In canonical form.
    ordinal: Whether it is a '6th'.
  """

  start: int
  end: int
  value: str
  ordinal: bool


def _flat_fraction(match: re.Match[str]) -> str:
  mixed, numerator, numerator_digit, denominator, denominator_digit = match.groups()
  above, below = (numerator or numerator_digit or '').strip(), (denominator or denominator_digit or '').strip()
  return f'{"" if mixed is None else " "}{above}/{below} '


def flat(text: str) -> str:
  """Writes fractions, powers and annotations of a text, as `texts.plain` has it, on one line; removes emphasis."""
  text = _CALCULATOR.sub(lambda match: match[2] or match[1], text)
  if not text.isascii():
    text = _SUPERSCRIPT.sub(lambda match: '^' + match[0].translate(_SUPERSCRIPTS), text)
  text = _LATEX_MATHS.sub(_MATHS, text)
  text = _SPACED_MONEY.sub(r'\1,', _LATEX_GROUP.sub(',', text))
  if '\\' in text:
    text = _LATEX_FRACTION.sub(_flat_fraction, text.replace('\\,', ' '))
  text = _ITALIC.sub(' ', _UNDERSCORE.sub(' ', _BOLD.sub(' ', text)))
  text = _FULL_HOUR.sub('', text)
  text = _AND_FRACTION.sub(' ', _AND_A_PART.sub(lambda match: f' {_PARTS[match[1]]}', text))
  return _DETACHED_MINUS.sub('= -', text)


def _plain_value(digits: str) -> fractions.Fraction:
  if digits.isdecimal():
    return fractions.Fraction(int(digits))
  if _DECIMAL_COMMA.fullmatch(digits):
    digits = digits.replace('.', '').replace(',', '.')
  elif digits.count('.') > 1:
    digits = digits.replace('.', '')
  return fractions.Fraction(re.sub(r'[^0-9.]', '', digits))


def _value(match: re.Match[str]) -> fractions.Fraction | None:
  power = int(match['power'] or match['exponent'] or 0)
  if match['not_one_number'] or match['torn'] or len(match[0]) > _MAX_DIGITS or abs(power) > _MAX_DIGITS:
    return None
  if match['number'] and not (power or match['divisor'] or match['scale'] or match['unit']):  # as most are
    size = _plain_value(match['number'])
    return -size if match['sign'] or match['inner_sign'] else size
  above = _plain_value(match['numerator'] or match['mantissa'] or match['number'] or '1')
  below = _plain_value(match['denominator'] or match['divisor'] or '1')
  if below == 0:
    return None
  size = _plain_value(match['whole'] or '0') + above / below * fractions.Fraction(10) ** power
  size *= _SCALES[match['scale'].lower()] if match['scale'] else 1
  if match['unit'] and (match['money'] or match['unit'] == 'k'):
    size *= _MONEY_SCALES[match['unit'].lower()]
  return -size if match['sign'] or match['inner_sign'] else size


def canonical_value(value: fractions.Fraction) -> str:
  """Writes a number: no separators, no '-0', no trailing zeros, rounded to `DECIMALS` decimals (half to even)."""
  rounded = round(value * 10**DECIMALS)
  whole, part = divmod(abs(rounded), 10**DECIMALS)
  digits = f'{whole}.{part:0{DECIMALS}d}'.rstrip('0').rstrip('.')
  return f'-{digits}' if rounded < 0 else digits


def _after_maths(text: str, start: int) -> bool:
  return _MATHS_BEFORE.search(text, max(0, start - 5), start) is not None


def fraction(above: str, below: str) -> fractions.Fraction | None:
  """Returns the number of which these are numerator and denominator; None for one that is too long."""
  if max(len(above), len(below)) > _MAX_DIGITS:
    return None
  return fractions.Fraction(int(above), int(below))


def find(text: str, start: int = 0, end: int | None = None) -> collections.abc.Iterator[Found]:
  """Yields the numbers of a text, as `flat` has it, in their order; what is not understood is left out."""
  for match in _NUMBER.finditer(text, start, len(text) if end is None else end):
    value = _value(match)
    if value is not None and not (_MATHS_AFTER.match(text, match.end()) or _after_maths(text, match.start())):
      yield Found(match.start(), match.end(), canonical_value(value), match['ordinal'] is not None)


def named(query: str) -> set[str]:
  """Returns the numbers that a question names, in digits or in words; also those of ranges, times and the like."""
  text = flat(texts.plain(query))
  parts = {canonical_value(_plain_value(part[0])) for part in _DIGITS.finditer(text) if len(part[0]) <= _MAX_DIGITS}
  words = (canonical_value(fractions.Fraction(_WORDS[word[0].lower()])) for word in _WORD_NUMBER.finditer(text))
  return {found.value for found in find(text)} | parts | set(words)


def canonical(text: str) -> str | None:
  """Brings a text that is one number, maybe with a currency or unit, into canonical form; None for anything else."""
  text = flat(texts.plain(text))
  before = _BEFORE_ALONE.match(text)
  match = _NUMBER.match(text, before.end()) if before else None
  if match is None or not _AFTER_ALONE.fullmatch(text, match.end()):
    return None
  value = _value(match)
  return None if value is None else canonical_value(value)


def reference(text: str) -> str | None:
  r"""Brings a reference into canonical form: a number alone, in a box, or after GSM8K's '####'; None for others."""
  text = texts.plain(_HASHES.sub('', text)).strip().strip('$').strip()
  held = texts.boxes(text)
  if held and held[-1].start == 0 and held[-1].end >= len(text) - 1:
    text = text[held[-1].held : held[-1].end]
  return canonical(text)
