"""What of a response is its answer: not what was thought before it, nor what was written after its end.

Here is also what the extractors share: characters of other scripts as ASCII, the markers that hold an answer in any
format, and where a response runs on into the next question.
"""

import collections.abc
import itertools
import re
import unicodedata
from typing import NamedTuple

# Of a longer text this much is read, half from each end: an extractor's time is bounded.
MAX_CHARACTERS = 200_000

_THINKING_NAMES = (
  r'(?:(?:seed|longcat|antml)[:_])?think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad|inner_monologue'
)
_THINKING = re.compile(
  rf"""
  (?P<open> <(?:{_THINKING_NAMES})(?:\s[^<>\n]{{0,80}})?> | \[THINK\] | ◁think▷ | <\|begin_of_thought\|>
    | <\|START_THINKING\|> | <\|channel\|>(?:analysis|commentary|thought)\b (?:<\|message\|>)? )
  | </(?:{_THINKING_NAMES})\s?> | \[/THINK\] | ◁/think▷ | <\|end_of_thought\|> | <\|END_THINKING\|>
  | <\|channel\|>final<\|message\|>
  """,
  re.VERBOSE | re.IGNORECASE,
)
# What may stand between a phrase and the answer: markup, quotes, brackets.
BETWEEN = r"""[\s*_"'`~)\]}$]{0,8}"""
# 'The answer is', as a part of an expression that ignores case and blanks.
ANSWER_IN_OTHER_LANGUAGES = rf"""
  (?<![A-Za-z])
  (?:respuesta|réponse|resposta|risposta|antwort|lösung|antwoord|svaret|odpowiedź|cevap|đáp\sán|ответ|jawaban|jibu|答案|答え
    |正解|回答|정답|답|उत्तर|উত্তর|إجابة|الإجابة|جواب|คำตอบ)
  {BETWEEN}(?:\s?(?:correcta|correcte|correta|corretta|finale?)\s?)?
  (?:\s?(?:(?:es|est|é|è|ist|lautet|adalah|ni|is|är|to|là)(?![^\W\d_])|है|হল|হলো|是|为|為|は|은|는|هو|هي|คือ)\s?:?
    |\s?:|\s--?(?=\s))
  (?:\s?(?:la|a|die|de)?\s?(?:opción|option|opção|letra|lettre|lettera|буква|вариант)\b)?
"""

# Says that there is no answer.
HAS_NONE = re.compile(
  r"""
  \b(?: can(?:no|')t | can\s?not | could\snot | unable\sto | unknown | undefined | (?:in|un)determin\w+ | insufficient
    | impossible | none | n/a | not\s(?:enough|possible|determin\w+) | no\s(?:\w+\s){0,2}solutions? | does\snot\sexist
    | infinit\w+ )\b
  | \\(?:varnothing|emptyset) | ∅
  """,
  re.IGNORECASE | re.VERBOSE,
)

# Before a response: tokens of a chat template, and the role that it speaks in.
_BEFORE_START = re.compile(
  r"""
  (?: \s | <(?:s|bos|start_of_turn)> | <BOS_TOKEN> | \[/INST\]
    | <[|｜](?:begin[▁_]of[▁_](?:text|sentence|solution)|startoftext|im_start|start_header_id|end_header_id|start
      |message|assistant|Assistant|START_OF_TURN_TOKEN|CHATBOT_TOKEN|START_RESPONSE)[|｜]>
    | (?:assistant|model)(?=\s*(?:\n|<[|])) )*+
  """,
  re.VERBOSE,
)
_END = re.compile(
  r"""
  </s> | <eos(?:_token)?> | \[eos\] | <(?:pad|unk)> | \[pad\] | <(?:end|start)_of_turn> | <end_of_utterance>
  | \[/?inst\]
  | <[|｜][^<>|｜\n]{0,20}?(?:end|eo[stmd]|pad|user|human|system|im_start|return|start_of_turn|start_header)
    [^<>|｜\n]{0,30}[|｜]>
  """,
  re.VERBOSE | re.IGNORECASE,
)

_OTHERS_TURN = re.compile('user|human|system|start|inst', re.IGNORECASE)

_TRANSLATED = str.maketrans(
  dict.fromkeys('\u2018\u2019\u02bc', "'")
  | dict.fromkeys('\u201c\u201d\u00ab\u00bb', '"')
  | dict.fromkeys('\u2212\ufe63', '-')
  | dict.fromkeys('\u2014\u2015', ' -- ')
  | {'\u2044': '/', '\u066b': '.', '\u066c': ',', '\u066a': '%', '。': '. ', '،': ',', '।': '. ', '→': '->', '⇒': '=>'}
)

_LATEX_FONT = re.compile(
  r'\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|tt|bb|cal)|operatorname|boldsymbol|bm|mbox|hbox|emph'
  r'|underline)\s?\{([^{}]*)\}'
)
_LATEX_BLANK = re.compile(r'\\(?:left|right|big|Big|displaystyle|quad|qquad|bf|rm|it)(?![A-Za-z])|\\[;:!> ]|~')
_LATEX_DELIMITER = re.compile(r'\\[()\[\]]')

_BOX = re.compile(r'(?:\\{1,4}|\x08|\b)(?:f?boxed|fbox|framebox|oxed)\s*(?P<brace>\{)?|\\[{}]|[{}]')
_NEXT_WORD = re.compile(r'\s{0,9}\S{0,80}')
_TAG = re.compile(
  r'[<\[](?P<name>(?:final[_ ]?)?answer)[>\]](?P<held>.*?)(?=[<\[]/?(?P=name)[>\]]|\Z)',
  re.IGNORECASE | re.DOTALL,
)
_KEY = re.compile(
  r"""
  \\?["'](?:(?:final|correct|my|the|predicted|chosen|selected)[_\ -]?)?(?:answer|choice|option|result)
  (?:[_\ -]?(?:letter|choice|option|value|number|text))?\\?["']\s{0,4}:\s{0,4}
  (?:[\[{]\s{0,4}(?:["']\w{1,20}["']\s{0,4}:\s{0,4})?)?
  (?: \\"(?P<escaped>[^"\\\n]*+) | "(?P<quoted>(?:[^"\\\n]|\\[^\n])*+) | '(?P<single>[^'\n]*+)
    | (?P<bare>[^\s,}\]"'][^,}\]\n]*+) )
  """,
  re.VERBOSE | re.IGNORECASE,
)

_CORRECTS = re.compile(
  r"""
  \b(?: wait | hold\ on | actually | correct(?:ion|ed) | oops | sorry | mistake[ns]? | mis\w+ed | forgot(?:ten)?
    | error | re-?(?:check|calculat|consider|evaluat)\w* | scratch\ that | i\ was\ wrong | on\ second\ thought | instead
    | rather | let\ me\ (?:re|double|fix|correct|try) | that(?:'s|\ is)\ (?:wrong|not\ right|incorrect) | no, | hmm )
  """,
  re.VERBOSE | re.IGNORECASE,
)
_QUESTION_HEADING = re.compile(
  r"""
  (?:^|(?<=>)) [ \t]*+ (?:[#>*_\[][ \t]?){0,12}+
  (?: (?:(?:next|new|another|the)\ )?(?:question|problem|exercise|puzzle|task)(?:\ ?\#?\ ?[0-9]{1,4})?
    | q(?:uery)?\ ?[0-9]{0,4} | human | user | instruction | input | example\ [0-9]{1,4}
    | pregunta | frage | pergunta | domanda | вопрос | 问题 | 题目 | 問題 | 질문 )
  [*_\]]{0,3} \s? (?:[:：]|\.(?=\s)|\)(?=\s)|[*_\]]{1,3}[ \t]*$|(?<=[0-9])[ \t]*$)
  | ^[ \t]*\#{2,4}\ (?:instruction|input|question|problem|human|user)\b
  """,
  re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_ANSWER_LABEL = re.compile(
  r'^\W{0,9}(?:answer|solution|assistant|response|a)\b\W{0,9}?[:.]', re.IGNORECASE | re.MULTILINE
)
_ASKS = re.compile(
  r'\b(?:how|what|which|who|whose|where|when|why|find|calculate|compute|determine)\b[^.?!\n]{3,300}\?', re.IGNORECASE
)
_WORDS = re.compile(r'\w+')
_SENTENCE_END = re.compile(
  r"""
  (?: [.!?…]["')\]*_$]{0,4} (?=\s|$) | [?!] | \n )
  (?<!\bRs\.) (?<!\bMr\.) (?<!\bMs\.) (?<!\bDr\.) (?<!\bSt\.) (?<!\bNo\.) (?<!\bvs\.) (?<!\bEq\.) (?<!\bMrs\.)
  (?<!\bapprox\.) (?<!\be\.g\.) (?<!\bi\.e\.)
  """,
  re.VERBOSE,
)


class Mark(NamedTuple):
  """A place that holds an answer in some format.

  Attributes:
    start: Where it begins.
    held: What it holds starts here.
    end: And ends here.
  """

  start: int
  held: int
  end: int


def first_answer(
  read: collections.abc.Callable[[str, str], str | None], text: str, query: str, *, keep_latex: bool = False
) -> str | None:
  """Reads what a response says after its thoughts, up to the token that ends it, or on where that much states nothing.

  A closing tag alone ends thoughts that began in the prompt; thoughts that do not end hold all the rest.

  Args:
    read: Reads a text and the query, both as `plain` has them.
    text: The response.
    query: What was asked.
    keep_latex: Whether the text is left as it is written.
  """
  for part in _parts(text):
    answer = read(part if keep_latex else plain(part), plain(query))
    if answer is not None:
      return answer
  return None


def _parts(text: str) -> collections.abc.Iterator[str]:
  """Yields what stands before, between and after tokens that end a response, as far as it is still this response."""
  text = visible(text)
  begin = _BEFORE_START.match(text)
  start = begin.end() if begin else 0
  for end in itertools.islice(_END.finditer(text, start), 3):
    yield text[start : end.start()]
    start = end.end()
    if _OTHERS_TURN.search(end[0]) or _QUESTION_HEADING.match(
      text, start + len(text[start:]) - len(text[start:].lstrip())
    ):
      return
  end_of_rest = _END.search(text, start)
  yield text[start : end_of_rest.start() if end_of_rest else len(text)]


def visible(text: str) -> str:
  """Returns what a response says besides its thoughts."""
  kept: list[str] = []
  start, thinking = 0, False
  for tag in _THINKING.finditer(text):
    if tag['open'] is None:
      if not thinking:
        kept.clear()
    elif not thinking:
      kept.append(text[start : tag.start()])
    thinking, start = tag['open'] is not None, tag.end()
  if not thinking:
    kept.append(text[start:])
  text = '\n'.join(kept)
  return bounded(text)


def bounded(text: str) -> str:
  """Leaves out the middle of a text that is too long."""
  return text if len(text) <= MAX_CHARACTERS else f'{text[: MAX_CHARACTERS // 2]}\n{text[-MAX_CHARACTERS // 2 :]}'


def _plain_character(character: str) -> str | None:
  digit = unicodedata.decimal(character, None)
  if digit is not None:
    return str(digit)
  kind = unicodedata.decomposition(character).partition('>')[0]
  if kind == '<fraction':
    return ' ' + unicodedata.normalize('NFKC', character).replace('\u2044', '/')
  if kind in ('<wide', '<narrow', '<font'):
    return unicodedata.normalize('NFKC', character)
  if unicodedata.category(character) == 'Cf':  # of no width
    return ''
  return '-' if unicodedata.category(character) == 'Pd' else None


def plain(text: str) -> str:
  """Writes digits of all scripts, full-width forms, minus signs, quotes and fractions in ASCII; drops LaTeX's fonts."""
  text = text.translate(_TRANSLATED)
  if not text.isascii():
    foreign = {ord(c): p for c in set(text) if not c.isascii() and (p := _plain_character(c)) is not None}
    text = text.translate(foreign)
  if '\\' in text:
    text = text.replace('\\!', '')
    text = _LATEX_FONT.sub(r' \1 ', _LATEX_FONT.sub(r' \1 ', text))
    text = _LATEX_DELIMITER.sub(' ', _LATEX_BLANK.sub(' ', text))
  return text


def boxes(text: str) -> list[Mark]:
  r"""Finds what \boxed{...}, \fbox{...} and \boxed x hold, of boxes in boxes the innermost.

  A box cut off by the end of the text counts.
  """
  found: list[Mark] = []
  opened: list[tuple[int, int]] = []
  for token in _BOX.finditer(text):
    if token['brace']:
      opened.append((token.start(), token.end()))
    elif token[0] == '{':
      opened.append((-1, token.end()))
    elif token[0] == '}' and opened:
      start, held = opened.pop()
      if start >= 0 and not (found and found[-1].start > start):
        found.append(Mark(start, held, token.start()))
    elif token[0].startswith('\\') and token[0].strip('\\{}'):  # without braces it holds the next word
      word = _NEXT_WORD.match(text, token.end())
      found.append(Mark(token.start(), token.end(), word.end() if word else token.end()))
  cut_off = next((box for box in reversed(opened) if box[0] >= 0), None)
  if cut_off and not (found and found[-1].start > cut_off[0]):
    found.append(Mark(*cut_off, line_end(text, cut_off[1])))
  return found


def marks(text: str) -> list[Mark]:
  """Finds all places that hold an answer in a format that was made for it, in their order in the text."""
  found = boxes(text) if 'oxed' in text or 'box' in text else []
  found += [Mark(match.start(), *match.span('held')) for match in _TAG.finditer(text)]
  for key in _KEY.finditer(text):
    group = next(name for name in ('escaped', 'quoted', 'single', 'bare') if key[name] is not None)
    found.append(Mark(key.start(), *key.span(group)))
  return sorted(found)


def corrects(text: str, start: int, end: int) -> bool:
  """Tells whether something said there takes back what was said before."""
  return _CORRECTS.search(text, start, end) is not None


def line_end(text: str, start: int) -> int:
  """Returns where the line ends."""
  end = text.find('\n', start)
  return len(text) if end < 0 else end


def sentence_end(text: str, start: int, end: int) -> int:
  """Returns where the sentence ends that is under way there."""
  stop = _SENTENCE_END.search(text, start, end)
  return stop.start() if stop else end


def sentences(text: str) -> list[tuple[int, int]]:
  """Returns where each sentence starts and ends; a line ends one too."""
  spans, start = [], 0
  for stop in _SENTENCE_END.finditer(text):
    spans.append((start, stop.end()))
    start = stop.end()
  spans.append((start, len(text)))
  return [(start, end) for start, end in spans if not text[start:end].isspace() and start < end]


def _words(text: str) -> set[str]:
  return {word.casefold() for word in _WORDS.findall(text)}


def _same_question(asked: str, known: set[str]) -> bool:
  """Tells whether what is asked says nothing new; `known` are the words of the query."""
  words = _words(asked)
  return bool(words & known) and len(words & known) >= 0.7 * len(words)


def end_of_answer(
  text: str, query: str, stated: collections.abc.Sequence[tuple[int, int]], reads: collections.abc.Callable[[str], bool]
) -> int:
  """Finds where a response runs on into another question than the one that it was asked.

  Args:
    text: As `plain` has it.
    query: What was asked, as `plain` has it; may be empty.
    stated: Where the text states answers, in their order.
    reads: Whether a text states any answer, if less plainly.
  """
  known, found = _words(query), list(_QUESTION_HEADING.finditer(text))
  begun = len(text) - len(text.lstrip())
  opens = bool(found) and found[0].start() <= begun
  headings = [heading for heading in found[opens:] if not _same_question(_asked(text, heading.end()), known)]
  if opens and any(character.isdecimal() for character in found[0][0]):
    return len(text)  # one question taken apart into several
  cuts = []
  if stated:
    cuts += [heading.start() for heading in headings if heading.start() >= stated[0][1]][:1]
    for (_, before), (after, _) in itertools.pairwise(stated):
      asks = _ASKS.search(text, before, after)
      if asks and not corrects(text, before, after) and not _same_question(asks[0], known):
        cuts.append(asks.start())
        break
  if headings and not (cuts and cuts[0] <= headings[0].start()) and not any(s < headings[0].start() for s, _ in stated):
    head = text[: headings[0].start()]
    if _ANSWER_LABEL.search(text, headings[0].end()) and reads(head):
      cuts.append(headings[0].start())
  return min(cuts, default=len(text))


def _asked(text: str, start: int) -> str:
  """Returns the question that follows a heading: its line, or the next one."""
  start += len(text[start : start + 200]) - len(text[start : start + 200].lstrip())
  end = text.find('\n', start, start + 2_000)
  return text[start : end if end >= 0 else start + 2_000]
