import csv
import json
import pathlib

import pytest

from selectllm.data.extractors import first_versions


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    # Separators, decimals, signs.
    ('18', '18'),
    (' 18.\n', '18'),
    ('1,000', '1000'),
    ('1,234,567.50', '1234567.5'),
    ('1{,}000', '1000'),
    ('1\\,000', '1000'),
    ('1,\\!000', '1000'),
    ('1\u202f000', '1000'),
    ('1 000', '1000'),
    ('1 234 567.5', '1234567.5'),
    ('5 100', None),  # two numbers
    ('15.00', '15'),
    ('100', '100'),
    ('.5', '0.5'),
    ('-.5', '-0.5'),
    ('007', '7'),
    ('-5', '-5'),
    ('\u22125', '-5'),
    ('+5', '5'),
    ('-0', '0'),
    ('-0.0000001', '0'),
    ('３．５', '3.5'),
    ('3,50', '3.5'),  # a decimal comma
    # Currency, percent, units.
    ('$3.50', '3.5'),
    ('\\$3.50', '3.5'),
    ('-$3.50', '-3.5'),
    ('$-3.50', '-3.5'),
    ('$-3$', '-3'),
    ('US$5', None),  # a reference is written plainly; number-v1 reads it in a text
    ('€1,000', '1000'),
    ('50%', '50'),
    ('50\\%', '50'),
    ('18 dollars', '18'),
    ('18\\text{ cm}', '18'),
    # Fractions.
    ('1/2', '0.5'),
    ('1⁄2', '0.5'),
    ('2 1/2', '2.5'),
    ('-2 1/2', '-2.5'),
    ('2½', '2.5'),
    ('\\frac{1}{2}', '0.5'),
    ('-\\dfrac{1}{2}', '-0.5'),
    ('\\tfrac{-1}{2}', '-0.5'),
    ('\\frac12', '0.5'),
    ('2\\frac{1}{2}', '2.5'),
    ('\\frac{1,000}{8}', '125'),
    ('1/3', '0.333333'),
    ('0.333333333', '0.333333'),
    ('1/0', None),
    # Powers of ten and words.
    ('1.5 \\times 10^6', '1500000'),
    ('1.5 × 10⁶', '1500000'),
    ('2 x 10^{-3}', '0.002'),
    ('10^6', '1000000'),
    ('1.5e6', '1500000'),
    ('1e-05', '0.00001'),
    ('3 million', '3000000'),
    ('$1.5\\text{ billion}', '1500000000'),
    ('half a million', None),
    ('50k', '50'),  # a letter is a unit, thousand or kelvin alike
    # Float noise.
    ('106.12080000000002', '106.1208'),
    ('3.999999999999999', '4'),
    ('-2.7272727272727275', '-2.727273'),
    # Not one number.
    ('', None),
    ('nan', None),
    ('inf', None),
    ('-inf', None),
    ('None', None),
    ('True', None),
    ('5-10', None),
    ('5, 10', None),
    ('(160, 300)', None),
    ('[3]', None),
    ('3*y - 8', None),
    ('2\\pi', None),
    ('2^10', None),
    ('3:30', None),
    ('1.2.3', None),
    ('2024-01-05', None),
    ('1e999999', None),
    ('9' * 300, '9' * 300),
    ('9' * 301, None),
  ],
)
def test_canonical_number(text, expected):
  assert first_versions.canonical_number(text) == expected


@pytest.mark.parametrize('text', ['1,000', '-2 1/2', '1/3', '1.5e6', '106.12080000000002', '2e-7'])
def test_canonical_number_is_a_fixed_point(text):
  once = first_versions.canonical_number(text)
  assert once is not None
  assert first_versions.canonical_number(once) == once


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    # The last number, and what is none.
    ('She pays $15.00', '15'),
    ('It costs $3.50.', '3.5'),
    ('He has US$5.', '5'),
    ('He owes Rs.500', '500'),
    ('The total is 1,000 apples and 20 pears', '20'),
    ('No number at all', None),
    ('', None),
    ('5-10 people', '10'),  # not -10
    ('5\u201310 people', '10'),
    ('10%-20%', '20'),
    ('16-3', '3'),
    ('16 - 3', '3'),
    ('it fell to -3 degrees', '-3'),
    ('x = - 5', '-5'),
    ('20 -5', '-5'),
    ('It is 1 000 000', '1000000'),
    ('5 100 gram bags', '100'),
    ('1,0000', '1'),  # malformed; the tail is no number
    ('In 5 cases of COVID-19', '19'),
    ('It takes 20 minutes, until 3:30', '20'),
    ('They mix it 2:1', None),
    ('He needs 525 calories by July 19th', '525'),
    ('He got 12 on 12/25/2020', '12'),
    ('He got 12 on 2020-12-25', '12'),
    ('So 7 with Python 3.11.2', '7'),
    ('We solve x2 in H2O', None),
    ('The area is 18 cm^2', '18'),
    ('The area is 18 cm²', '18'),
    ('The area is 18 cm^{2}', '18'),
    ('That is 7, not 2**10', '7'),
    ('wait...5', '5'),
    ('- 5 apples', '5'),  # a bullet
    ('a half, 1/2', '0.5'),
    ('24 / 2', '12'),
    ('5 and 1/0', '5'),
    ('it is __18__', '18'),
    ('130,00', '130'),  # cut off; never 0
    ('She has 3, 4, or 5', '5'),
    # Calculator annotations.
    ('16-3 = <<16-3=13>>13', '13'),
    ('9*2 = $<<9*2=18>>18.', '18'),
    ('9*2 = <<9*2=18>>.', '18'),
    ('90 - 144 = -<<90-144=-54>>54', '-54'),
    ('It is <<5*2=10.0>>10 for 3', '3'),
    # Boxes.
    ('\\boxed{18} is what 2 people get', '18'),
    ('\\boxed{1} and \\boxed{2}', '2'),
    ('$\\boxed{\\frac{1}{2}}$', '0.5'),
    ('\\boxed{\\text{18 dollars}}', '18'),
    ('\\boxed{x = 18}', '18'),
    ('\\boxed{-\\$1,000}', '-1000'),
    ('\\boxed{50\\%} of 8', '50'),
    ('\\boxed{6^{\\text{th}}}', '6'),
    ('\\boxed 7', '7'),
    ('so \\boxed{18', '18'),  # cut off
    ('18 apples \\boxed{}', '18'),
    ('The answer is 5. \\boxed{6}\n#### 7', '6'),
    # GSM8K's hashes.
    ('She has 5.\n#### 18', '18'),
    ('#### 1,000 dollars in 2 days', '1000'),
    ('#### $20.00', '20'),
    ('#### -5', '-5'),
    ('#### **18**', '18'),
    ('#### 6th place', '6'),
    ('#### 18\nThe answer is 5', '18'),
    ('#### 1. Count\nShe has 7 eggs.\n#### 2. Sum\nIn all 9.', '9'),  # headings
    ('#### Step 1\nSo it is 9', '9'),
    # Phrases.
    ('The answer is 18, as 2 people share', '18'),
    ('The answer is 18. There are 2 people.', '18'),
    ('The answer is $18.50 for 2.', '18.5'),
    ('The answer is .5 for 2.', '0.5'),
    ('The answer is Rs. 500 for 2.', '500'),
    ('the answer is 9 * 2 = 18 dollars in 3 days?', '18'),
    ('The answer is 5. No: the answer is 6. 7 is wrong.', '6'),
    ('The answer is 5. Or the answer is unknown', '5'),
    ('The final answer is **18** of 20.', '18'),
    ('**Final answer:** **$1,800** for 2', '1800'),
    ('**Final Answer**\n\nIn all 18 eggs for 2', '18'),
    ('The answer to the second question is 18 of 20', '18'),
    ('The answer is:\n\n$$18$$\n\nfor 2', '18'),
    ('The answer is $\\frac{3}{4}$ of 2', '0.75'),
    ('The answer is -5 and 2', '-5'),
    ('The answer is 3 million for 2', '3000000'),
    ('We ask what the answer is. We count 5 and 6, in all 11', '11'),
    ('Add 5.\nA: 18\nThis took 2 steps.', '18'),
    ('Answer: 18 of 20', '18'),
    ('ANSWER: $18', '18'),
    ('Answer: she makes $18 in 2 days.', '18'),
    ("Answer: 's 16 - 3 = 13 eggs.\nShe makes 13 * 2 = 26 dollars.", '26'),  # the label of a chain of thought
    ('A: There were 15 trees. Then 21. So 6 were planted.', '6'),
    ('Plan A: 5 of 6', '6'),
  ],
)
def test_number(text, expected):
  assert first_versions.number(text) == expected


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    # Phrases.
    ('The answer is (C).', 'C'),
    ('the answer is C', 'C'),
    ('The answer is **C**.', 'C'),
    ('The answer is **(C) Paris**, not (B)', 'C'),
    ('The answer is option C', 'C'),
    ('The correct option is: C. Paris', 'C'),
    ('Answer: C', 'C'),
    ('**Answer:** C', 'C'),
    ('Answer:\n\n(C)', 'C'),
    ('### Final Answer\nC', 'C'),
    ('A: C', 'C'),
    ('The answer is $C$.', 'C'),
    ("The answer is 'C'", 'C'),
    ('The answer is “C”', 'C'),
    ('The answer is \\(C\\).', 'C'),
    ('The answer is (A). No, the answer is (B). It is not (C).', 'B'),
    ('The answer is (B). The answer is unclear', 'B'),
    ('The answer is Paris (C).', 'C'),
    ('The answer is not (B) but (C).', 'C'),
    ('This makes the answer (H), I think', 'H'),
    ('Hence (C) is correct, unlike (B).', 'C'),
    ('So option A is the right one.', 'A'),
    ('The closest choice is (H) 92 days', 'H'),
    ('The answer is (J', 'J'),  # cut off
    ('The answer is J.', 'J'),
    # Small letters, the article and the pronoun.
    ('The answer is (c)', 'C'),
    ('the answer is c', 'C'),
    ('the answer is c.', 'C'),
    ('the answer is a.', 'A'),
    ('the answer is a city', None),
    ('The answer is A', 'A'),
    ('The answer is A because it is', 'A'),
    ('The answer is (A) because', 'A'),
    ('The answer is A city', None),
    ('Answer: A city by the sea', None),
    ('Answer: I do not know', None),
    ("Answer: I'm not sure", None),
    ('Answer: I', 'I'),
    ('Answer: A - Paris', 'A'),
    ('A city. I think it is big', None),
    ('I', 'I'),
    # Boxes.
    ('\\boxed{C}', 'C'),
    ('\\boxed{\\text{C}} not (B)', 'C'),
    ('$\\boxed{\\textbf{(C)}}$', 'C'),
    ('\\boxed{\\text{(C) Paris}}', 'C'),
    ('\\boxed{c}', 'C'),
    ('\\boxed{11.2}. The answer is (D)', 'D'),
    ('The answer is (D). \\boxed{C}', 'C'),
    # Letters without a phrase.
    ('C', 'C'),
    ('C.', 'C'),
    ('C)', 'C'),
    ('(C)', 'C'),
    ('**C**', 'C'),
    (' C\n', 'C'),
    ('c', None),
    ('C. Paris', 'C'),
    ('C) Paris', 'C'),
    ('(C) Paris is in France.', 'C'),
    ('C, because it is', 'C'),
    ('A. Paris\nB. London\nC. Rome', None),  # the options repeated
    ('Let us see.\n\n**C**', 'C'),
    ('It must be **C. Paris** or **C**, surely', 'C'),
    ('(A) is too low. This is (D).', 'D'),
    ('It could be (A). It could be (B). It is warm', None),
    ('Only one fits:\n(J) means that all', None),
    # No option.
    ('', None),
    ('K', None),
    ('The answer is (K)', None),
    ('The answer is Berlin', None),
    ('The answer is D-glucose', None),
    ('The answer is E = mc^2', None),
    ('The answer is vitamin C', None),
    ('P(A) and E(X) and 4/(B)', None),
    ('The answer is (A, C).', None),  # several options are no choice
    ('The answer is (A) and (C).', None),
    ('The answer is B or C.', None),
    ('The answer is C, and B is wrong', 'C'),
    ('Consider each choice:\n(A) means that\n(B) means', None),
  ],
)
def test_option_letter(text, expected):
  assert first_versions.option_letter(text) == expected


@pytest.mark.parametrize(
  ('value', 'expected'),
  [
    ('18.0', '18'),
    ('18', '18'),
    ('-0.5', '-0.5'),
    ('3.999999999999999', '4'),
    ('1e-05', '0.00001'),
    ('1/8', '0.125'),
    ('', None),
    ('None', None),
    ('nan', None),
    ('True', None),
    ('(14.0, 14.0)', None),
    ('(37,)', None),
    ("['40 - 3*y']", None),
    ('[{x: 16, y: 20}]', None),
    ('{pork: 50}', None),
    ('x/2', None),
    ('3\n4', None),
    ('Traceback: line 3', None),
  ],
)
def test_program_output(value, expected):
  assert first_versions.program_output(f'ans = 7\n```output\n{value}\n```\nThat is 5.') == expected


def test_program_output_reads_the_last_output_block_only():
  assert first_versions.program_output('```output\n1\n```\n```output\n2\n```') == '2'
  assert first_versions.program_output('```output\n2') == '2'
  assert first_versions.program_output('```python\n2\n```') is None
  assert first_versions.program_output('2') is None


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    (' 20 - 3 * 6', '2'),
    ('(10 + 16 + 19) / 3', '15'),
    ('7 / 3', '2.333333'),
    ('0.1 + 0.2', '0.3'),
    ('.5 * 4', '2'),
    ('3 * 60 + 05', '185'),
    ('10 + 0.05', '10.05'),
    ('x²\n5 + 5', '10'),
    ('-3 - -4', '1'),
    ('60', '60'),
    ('12 x 3', '36'),
    ('(20 - 3) × 2', '34'),
    ('24 ÷ 6', '4'),
    ('$20 - 4 * $3', '8'),
    ('$1,200 / 4.', '300'),
    ('`5 + 5`', '10'),
    ('Calculation: 3 * 4', '12'),
    ('17 + 5 = 21', '22'),  # what is calculated is the LLM's, the result is not
    ('Let us see.\n\n 5 * 3\n9', '15'),
    ('3 apples * 4', None),
    ('20% of 10', None),
    ('5 * (3 + 4', None),
    ('6 + ', None),
    ('2 ** 3', None),
    ('7 // 2', None),
    ('3(4)', None),
    ('(1, 2)', None),
    ('1 / 0', None),
    ('1 / (3 - 3)', None),
    ('no number', None),
    ('', None),
    ('9' * 301, None),
    ('(' * 150 + '1' + ')' * 149, None),
  ],
)
def test_calculation(text, expected):
  assert first_versions.calculation(text) == expected


def _jsonl(path: pathlib.Path) -> list[dict]:
  return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines() if line]


@pytest.fixture
def gsm8k(test_data: pathlib.Path) -> pathlib.Path:
  return test_data / 'gsm8k'


@pytest.fixture
def references(gsm8k) -> dict[str, str | None]:
  rows = _jsonl(gsm8k / 'openai/grade-school-math/grade_school_math/data/test.jsonl')
  return {row['question']: first_versions.number(row['answer']) for row in rows}


def _accuracy(answers: dict[str, str | None], references: dict[str, str | None]) -> float:
  assert None not in references.values()
  assert len(references) == 1319
  return 100 * sum(answers.get(question) == reference for question, reference in references.items()) / len(references)


@pytest.mark.parametrize(
  ('name', 'published'),
  [('6b_finetuning', 21.7), ('6b_verification', 39.0), ('175b_finetuning', 34.7), ('175b_verification', 56.3)],
)
def test_gpt3_rows(gsm8k, references, name, published):
  rows = _jsonl(gsm8k / 'openai/grade-school-math/grade_school_math/data/example_model_solutions.jsonl')
  answers = {row['question']: first_versions.number(row[name]['solution']) for row in rows}
  assert _accuracy(answers, references) == pytest.approx(published, abs=0.5)
  for row in rows:
    assert (answers[row['question']] == references[row['question']]) == row[name]['is_correct']


@pytest.mark.parametrize(
  ('name', 'published'), [('mistralai/Mixtral-8x7B-Instruct-v0.1', 63.6), ('gpt-4-1106-preview', 88.9)]
)
def test_chat_rows(gsm8k, references, name, published):
  path = gsm8k / 'lm-sys/RouteLLM/routellm/evals/gsm8k/gsm8k_responses.csv'
  with path.open(encoding='utf-8', newline='') as file:
    answers = {row['prompt']: first_versions.number(row[f'{name}_response']) for row in csv.DictReader(file)}
  assert _accuracy(answers, references) == pytest.approx(published, abs=0.5)


@pytest.mark.parametrize(('name', 'published'), [('tora-code-34b-v1.0', 80.5), ('tora-70b-v1.0', 84.3)])
def test_tora_rows(gsm8k, references, name, published):
  rows = _jsonl(gsm8k / f'microsoft/ToRA/src/outputs/llm-agents/{name}/gsm8k/test_tora_-1_seed0_t0.0_s0_e1319.jsonl')
  stated = {row['question']: first_versions.number(row['code'][0]) for row in rows}
  predicted = {row['question']: first_versions.canonical_number(row['pred'][0]) for row in rows}
  assert _accuracy(stated, references) == pytest.approx(published, abs=0.5)
  assert _accuracy(predicted, references) == pytest.approx(published, abs=0.5)
  # Those few close with a sentence that repeats a number of the question.
  assert sum(stated[question] != predicted[question] for question in stated) <= 4


@pytest.mark.parametrize(
  ('name', 'published'),
  [('gsm8K_s0_e-1_11_17_10_20.jsonl', 71.4), ('gsm8K_zs_s0_e-1_11_19_09_55.jsonl', 56.7)],
)
def test_codex_rows(gsm8k, references, name, published):
  answers: dict[str, str | None] = {}
  for row in _jsonl(gsm8k / 'wenhuchen/Program-of-Thoughts/outputs' / name):
    if 'question' in row:  # some lines hold the prompt
      value = '' if row['executed'] is None else row['executed']
      text = f'{"".join(row["generated"])}\n```output\n{value}\n```'
      answers.setdefault(row['question'], first_versions.program_output(text))
  assert _accuracy(answers, references) == pytest.approx(published, abs=0.5)
