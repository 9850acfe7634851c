import time

import pytest

from selectllm.data import grading
from selectllm.data.extractors import maths


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('so \\boxed{2\\sqrt{3}} in 2 steps', '2\\sqrt{3}'),
    ('The answer is $\\frac{1}{2}$.', '0.5'),
    ('\\boxed{18\\text{ cm}}', '18'),
    ('<think>\\boxed{3}</think>\\boxed{5}', '5'),
    ('\\boxed{3}\n\nQuestion: And 2?\n\\boxed{2}', '3'),
    # All that the place holds, or none of it.
    ('\\boxed{2 + 3*sqrt(5)}', '2 + 3 \\cdot \\sqrt{5}'),
    ('\\boxed{-2√3}', '-2\\sqrt{3}'),
    ('\\boxed{log2(x + 5}', 'log2(x + 5'),
    ('\\boxed{Cannot be found in 2 steps}', 'cannot be found in 2 steps'),
    ('{"answer": "\\\\frac{13}{8}"}', '1.625'),
    ('\\boxed{1,150 cups}', '1150'),
    ('no mathematics', None),
  ],
)
def test_expression(text, expected):
  assert maths.expression(text, '') == expected


@pytest.mark.parametrize(
  ('reference', 'answer', 'same'),
  [
    ('2\\sqrt{3}', '\\sqrt{12}', True),
    ('2\\sqrt{3}', '3', False),
    ('x^2+3x+2', '(x+1)(x+2)', True),
    ('(3,\\frac{\\pi}{2})', '(3, \\pi/2)', True),
    ('\\{1,2\\}', '\\{2,1\\}', True),
    ('\\frac{1}{3}', '1/3', True),
    ('[1,2)', '[1,2]', False),
    ('5*x**2/2 + 3', '\\frac{5}{2}x^2 + 3', True),
    ('5*x**2/2 + 3', '3', False),
    ('4', '4*sqrt(2*(1 + m)*a)', False),
    ('\\frac{\\pi}{2}', 'pi/2', True),
    ('25000', '2.5e4', True),
    ('0', '10^{-9}', False),
  ],
)
def test_answers_are_compared_as_mathematics(reference, answer, same):
  reference = grading.canonical_reference(reference, 'math-v1')
  answer = maths.expression(f'\\boxed{{{answer}}}', '')
  assert (grading.known_as(answer, [reference], maths.expression) == reference) == same


def test_what_takes_too_long_is_given_up(monkeypatch):
  worker = maths._Worker()
  monkeypatch.setattr(maths, 'SECONDS', 1)
  start = time.monotonic()
  assert worker.ask('equal', '9^{9^{9^9}}', '3') in (None, False)
  assert time.monotonic() - start < 30
  assert worker.ask('equal', '2', '2') is True  # and the next is answered
  worker.stop()


def test_without_the_package_it_says_what_to_install(monkeypatch):
  monkeypatch.setattr(maths, 'installed', lambda: False)
  with pytest.raises(ValueError, match=r"pip install 'selectllm\[math\]'"):
    grading.get_extractor('math-v1')
