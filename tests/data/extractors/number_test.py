import csv
import json
import pathlib

import pytest

from selectllm.data import grading
from selectllm.data.extractors import number, numerals

QUERY = 'Glasses cost $5 each, every second one 60% of that. How much do 16 glasses cost? There are two shelves.'
READ_BY_HAND = pathlib.Path(__file__).parents[1] / 'hand_read_gsm8k.csv'
# LLM, row -> why it is not read as a human reads it.
MISSED = {
  ('mixtral-8x7b-instruct', 2): 'breaks off within 130,000: 130,00 is a decimal comma',
  ('mixtral-8x7b-instruct', 1038): 'breaks off within 100,000',
  ('mixtral-8x7b-instruct', 1048): 'breaks off within a year',
  ('mixtral-8x7b-instruct', 1142): 'says in words that it cannot be determined',
  ('tora-code-34b', 855): 'a box for each of four unknowns',
  ('codex-pot-zeroshot', 687): 'prints a tuple of one',
  ('codex-pot-zeroshot', 813): 'prints a tuple of one',
}


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    # It runs on into the next question.
    ('9*2=18.\n#### 18\n\nQuestion: A robe takes 2 bolts and 1 more. How many?\nAnswer: 2+1=3\n#### 3', '18'),
    ('The answer is 18.\n\nQ: 2 + 1?\nA: The answer is 3.', '18'),
    ('A: 18\n\nProblem 2: Tom has 3 pens.\nA: 3', '18'),
    ('She pays $18.\n\n**Question:** How many are left?\n**Answer:** 3', '18'),
    ('\\boxed{18}\n\nHuman: And what is 2 + 1?\n\nAssistant: \\boxed{3}', '18'),
    ('<answer>66</answer>Human: There are 30 students.\n<answer>4</answer>', '66'),
    ('#### 18\n\n### Instruction:\nAdd 2 and 1.\n### Response:\n#### 3', '18'),
    ('#### 18\n\nTom has 2 pens and buys 1 more. How many pens does Tom have?\n2+1=3\n#### 3', '18'),
    ('#### 18</s>Question: 2 + 1?\n#### 3', '18'),
    ('#### 18<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nThanks. The answer is 3', '18'),
    # But a correction is the answer, and so is the last of several steps.
    ('#### 5\nWait, I forgot the tip.\n#### 6', '6'),
    ('The answer is 5. Wait, did I add the tip? No. The answer is 6.', '6'),
    ('\\boxed{5} is wrong: I forgot the tip. The answer is 6.', '6'),
    ('The answer is 5. Sorry, it should be 6.', '6'),
    ('Question 1: How many are left? Answer: 9.\nQuestion 2: What do they cost? Answer: 18.', '18'),
    ('Question: how much do 16 glasses cost?\nAnswer: 18', '18'),
    # Thoughts are not the answer.
    ('<think>Maybe the answer is 5. No, 7.</think>\n\nShe has 8.', '8'),
    ('The answer is 5. On the other hand...\n</think>6', '6'),
    ('<think>\nMaybe the answer is 5, let me', None),
    ('The answer is 8.\n<think>Is it 9?</think>', '8'),
    ('<thinking>5</thinking><answer>6</answer>', '6'),
    ('[THINK]5[/THINK]6', '6'),
    ('◁think▷5◁/think▷6', '6'),
    ('<|channel|>analysis<|message|>So 5?<|end|><|start|>assistant<|channel|>final<|message|>6<|return|>', '6'),
    ('<reasoning>5 + 1 = 6, or 7?</reasoning>\n6', '6'),
    # Markup and other formats.
    ('**Answer**: 18, for 2', '18'),
    ('*Answer*: 18, for 2', '18'),
    ('__Answer__: 18, for 2', '18'),
    ('"Answer": 18, for 2', '18'),
    ('`Final answer`: **18**, for 2', '18'),
    ('Final answer — 18 in 2 days', '18'),
    ('Answer → 18 in 2 days', '18'),
    ('{"answer": 18, "confidence": 0.9}', '18'),
    ('{"reasoning": "The answer is 5, no 9 * 2", "final_answer": "$1,800", "confidence": 90}', '1800'),
    ("{'answer': '18', 'steps': 3}", '18'),
    ('```json\n{\n  "answer": {"value": 18, "unit": "eggs"},\n  "sure": 1\n}\n```', '18'),
    ('<answer>18</answer> in 2 days', '18'),
    ('<answer>\\boxed{18}</answer> in 2 days', '18'),
    # What is denied is not stated.
    ('The answer is not 5 but 6.', '6'),
    ("The answer is not 5, it's 6.", '6'),
    ("The answer isn't 5.", None),
    ('The answer is 6, not 5.', '6'),
    ('The answer is 6. The answer is not 5.', '6'),
    # Boxes.
    ('\\boxed{18}. I used \\boxed as step 2 asked.', '18'),
    ('\\fbox{42} for the 3 days', '42'),
    ('\\boxed{\\boxed{42}} for the 3 days', '42'),
    ('\\boxed {42} for the 3 days', '42'),
    ('\x08oxed{42} for the 3 days', '42'),
    ('$\\boxed{9 \\times 2 = 18}$ for the 3 days', '18'),
    ('\\boxed{18 \\text{ eggs in } 3 \\text{ days}}', '18'),
    ('\\boxed{} 5\\boxed 7 of 8', '7'),
    ('\\boxed{2\\sqrt{3}}', None),
    ('\\boxed{\\frac{\\sqrt{3}}{2}}', None),
    ('\\boxed{3x + 5\\pi}', None),
    ('\\boxed{2n+1}', None),
    ('\\boxed{3i}', None),
    ('\\boxed{3 in}', '3'),
    # '='.
    ('#### 9 * 2 = 18', '18'),
    ('#### x = 18 in 2 days', '18'),
    ('the answer is 5, since 3x = 15', '5'),
    ('the answer is 5 because 15/3 = 5 and 2 = 2', '5'),
    ('the answer is 5 (3x = 15)', '5'),
    ('The answer is 9 * 2 = 18 dollars in 3 days', '18'),
    ('The answer is x = 18.', '18'),
    # Digits.
    ('₹1,50,000', '150000'),
    ('It is 12,34,56,789 in all', '123456789'),
    ('2⅛', '2.125'),
    ('It is ⅚', '0.833333'),
    ('১৮', '18'),
    ('उत्तर है १,५०,०००।', '150000'),
    ('الجواب هو ١٬٢٣٤٫٥', '1234.5'),
    ('答案是１８，共2天。', '18'),
    ('答えは18です', '18'),
    ('La respuesta es 18 en 2 días.', '18'),
    ('3万', '30000'),
    ('the answer is 2 lakh', '200000'),
    ('the answer is $50k', '50000'),
    ('the answer is $1.5M', '1500000'),
    ('the answer is 5 m', '5'),
    ("1'000'000", '1000000'),
    ('1.000.000', '1000000'),
    ('1.234,56', '1234.56'),
    ('It is 0,125', '0.125'),
    ('It is 3,5 km', '3.5'),
    ('She walks 2 and a half miles', '2.5'),
    ('She walks 2 and 1/4 miles', '2.25'),
    ('18\u200b', '18'),
    # A number that is not understood is not cut.
    ('1,0000', None),
    ('12,34,5', None),
    ('5-10', None),
    ('The point (3,5)', None),
    ('0x1F', None),
    ('It is 2^10', None),
    ('F-16', None),
    ('At 3:30', None),
    ('The answer is between 3 and 5.', None),
    ('He has between $3 and $5 left.', None),
    ('The number between 3 and 5 is 4.', '4'),
    ('It takes 2 hours and 30 minutes.', None),
    ('It takes 2 hours, 30 minutes or 150 minutes.', '150'),
    ('He is 5 feet 6 inches tall.', None),
    ('It takes 5 hours and 3 hours for the rest.', '5'),
    ('It takes 5 hours and 3 people.', '5'),
    ('At 2:00 pm', '2'),
    # A place for the answer holds more than a number, or several: no part of it is the answer.
    ('{"answer": "7 * sqrt(5)"}', None),
    ('{"answer": "sqrt(15)"}', None),
    ('{"answer": "7√5"}', None),
    ('2 ways.\n{"answer": "7√5"}', None),
    ('{"answer": "7\\\\sqrt{5}"}', None),
    ('{"answer": "\\\\frac{7}{2}"}', '3.5'),
    ('<answer>7 - 2d</answer>', None),
    ('<answer>r + 7</answer>', None),
    ('<answer>$70 + the fee</answer>', None),
    ('<answer>3 × 5 × 7</answer>', None),
    ('<answer>(70 + 30) / n</answer>', None),
    ('\\boxed{7 \\pm \\sqrt{5}}', None),
    ('\\boxed{x \\geq 7}', None),
    ('\\boxed{f(7)}', None),
    ('\\boxed{5, 7}', None),
    ('\\boxed{\\{5,7\\}}', None),
    ('\\boxed{5 \\text{ or } 7}', None),
    ('<answer>5 cats and 7 dogs</answer>', None),
    # But one number with its unit, reason or calculation.
    ('\\boxed{7,\\!500}', '7500'),
    ('{"answer": "$7 500"}', '7500'),
    ('{"answer": "$7,500/year"}', '7500'),
    ('{"answer": "7 - the others left"}', '7'),
    ('{"answer": "7 and no more"}', '7'),
    ('{"answer": "3 * 2 + 1 = 7"}', '7'),
    # It says that there is none.
    ('2 + 3 = 5.\n{"answer": "Cannot be determined"}', None),
    ('2 + 3 = 5.\n{"answer": "unknown, without the price of the 5 books"}', None),
    ('So 5 = 5: \\boxed{\\infty}', None),
    ('{"reasoning": "It is 5, maybe.", "answer": " "}', None),
    # It says it in whole sentences.
    ('<answer>The pens cost 2 * $3 = $6. The ink costs $1. Therefore, they pay $6 + $1 = $7.</answer>', '7'),
    ('<answer>7. They pay $6 for the pens.</answer>', '7'),
    # Code that does not end, a list that does not, and what a chat ends on.
    ('```python\nx = 5\nprint(x)\n\n<answer>7</answer>', '7'),
    ('```python\nx = 5\n<answer>7</answer>\n```', '7'),
    ('```python\n#### Input\nx = 5\n```\n7 pens', '7'),
    ('There are 7 shapes:\n1. A square\n2. A', '7'),
    ('They pay **$7** in all.\n\nIf you like, I can show 2 other ways.', '7'),
    ('They pay $5 each.\n\nIf there are 3 of them, they pay $15.', '15'),
    # Nothing is said.
    ('', None),
    ('So 20 + 5 = <<20+5', None),
    ('There are 5 and 3.\n#### Cannot be shared.', None),
    ('```python\nx = 5\nprint(x)', None),
    # End-of-sequence tokens.
    ('18 eggs<EOS_TOKEN>7', '18'),
    ('<s>18 eggs<|im_end|>\n<|im_start|>user\n7', '18'),
    ('<|im_start|>assistant\n18 eggs', '18'),
  ],
)
def test_kinds_of_texts(text, expected):
  assert number.number(text, '') == expected


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('Kylar needs to pay $64 for the 16 glasses.', '64'),
    ('For the 16 glasses he pays $64.', '64'),
    ('On the 2 shelves stand 8 of them.', '8'),  # 'two shelves'
    ('8 * $5 = $40, and 8 * $3 = $24.', '24'),
    ('So it is $40 + $24 = $64 for 16 glasses.', '64'),
    ('That is 16 glasses for 5 dollars.', '16'),  # nothing new: the first
    ('11 - 6 = 5.\n\nFor 16 glasses it is $5.', '5'),  # nothing new: what was calculated
    ('He pays $64.\nThank you!', '64'),
    ('He pays $64. Do you want me to compute 3 more?', '64'),
    ('1. He pays $40.\n2. He pays $24.\n3. In all he pays $64.', '64'),
    ('Since a box holds 24, he needs 3 boxes.', '3'),
    ('He needs (8 * 100) ml, which is 800 ml.', '800'),
    ('He comes 3rd with 7 points', '7'),
  ],
)
def test_without_a_marker_the_first_number_counts_that_the_question_does_not_name(text, expected):
  assert number.number(text, QUERY) == expected


def test_numbers_of_a_range_are_named_too():
  assert number.number('From 30 to 49 there are 5 primes.', 'How many primes are between 30 and 49?') == '5'


def test_the_same_question_again_is_no_next_one():
  text = 'The answer is 5 eggs. How much do 16 glasses cost? 16 * 4 = 64\n#### 64'
  assert number.number(text, QUERY) == '64'


@pytest.mark.parametrize(
  'text', ['1,000', '-2 1/2', '1/3', '1.5e6', '₹1,50,000', '2e-7', '$1.5\\text{ million}', '50 %']
)
def test_canonical_is_a_fixed_point(text):
  once = numerals.canonical(text)
  assert once is not None
  assert numerals.canonical(once) == once


@pytest.fixture(scope='module')
def published(test_data):
  """LLM -> its texts by the row of their question, and the questions and references."""
  from selectllm.data.builders import gsm8k

  path = test_data / 'gsm8k'
  rows = [json.loads(line) for line in (path / gsm8k.QUESTIONS.path).read_text(encoding='utf-8').splitlines()]
  places = {row['question']: place for place, row in enumerate(rows)}
  texts: dict[str, dict[int, str]] = {}
  readers = (
    gsm8k._read_gpt3(path / gsm8k.GPT3.path),
    gsm8k._read_route_llm(path / gsm8k.ROUTE_LLM.path),
    gsm8k._read_tora(path / gsm8k.TORA_34B.path, 'tora-code-34b'),
    gsm8k._read_tora(path / gsm8k.TORA_70B.path, 'tora-70b'),
    gsm8k._read_program_of_thoughts(path / gsm8k.CODEX_FEWSHOT.path, 'codex-pot-fewshot'),
    gsm8k._read_program_of_thoughts(path / gsm8k.CODEX_ZEROSHOT.path, 'codex-pot-zeroshot'),
  )
  for reader in readers:
    for question, llm, sample in reader:
      texts.setdefault(llm, {})[places[question]] = sample.answer
  return texts, [grading.canonical_reference(row['answer'], 'number-v2') for row in rows]


def test_texts_are_read_as_they_were_by_hand(published):
  answers, _ = published
  with READ_BY_HAND.open(encoding='utf-8', newline='') as file:
    by_hand = {(row['llm'], int(row['row'])): row['value'] for row in csv.DictReader(file)}
  assert len({llm for llm, _ in by_hand}) == 10
  assert len(by_hand) >= 600
  expected = {place: numerals.canonical(value) if value else None for place, value in by_hand.items()}
  differing = {place for place, value in expected.items() if answers[place[0]][place[1]] != value}
  assert differing == set(MISSED)


def test_gpt_4_is_as_right_as_its_texts_say(published):
  answers, references = published
  right = sum(answers['gpt-4-1106'][row] == reference for row, reference in enumerate(references))
  assert 93.5 < 100 * right / len(references) < 94.6
