import csv
import pathlib

import pytest

from selectllm.data.extractors import option_letter

QUERY = 'What is the capital of France?\nA. Rome\nB. London\nC. Paris\nD. $11.5'
READ_BY_HAND = pathlib.Path(__file__).parents[1] / 'hand_read_mmlu_pro.csv'
# LLM, question -> why it is not read as a human reads it.
MISSED = {('c4ai-command-r-v01', 9489): 'no letter; a box with what an option says, but for the unit'}


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    # It runs on into the next question.
    ('The answer is (B).\n\nQuestion: Which is red?\n(A) sky (C) rose\nAnswer: The answer is (C).', 'B'),
    ('The answer is B.\n\nWhich planet is red?\n(A) Mars (B) Venus\nThe answer is A.', 'B'),
    ('B\n\nQ: Which is red?\nA: C', 'B'),
    ('The answer is B</s> Question: The answer is C', 'B'),
    ('The answer is (A). No, the answer is (B).', 'B'),
    ('\\boxed{B}\nWait, I misread it. The answer is C.', 'C'),
    # Thoughts are not the answer.
    ('<think>Maybe the answer is (A). No, B.</think>\n\nB) Paris', 'B'),
    ('The answer is B. On the other hand...\n</think>A', 'A'),
    ('<think>\nMaybe the answer is (A), let me', None),
    # Markup and other formats.
    ('**Answer**: D', 'D'),
    ('*Answer*: D', 'D'),
    ('__Answer__: D', 'D'),
    ('***ANSWER***: ***D***', 'D'),
    ('"Answer": D', 'D'),
    ('`Answer`: D', 'D'),
    ('ANSWER: $D$', 'D'),
    ('<answer>C</answer>', 'C'),
    ('{"answer": "C", "confidence": 0.9, "rejected": "A"}', 'C'),
    ('{"answer": "C. Paris"}', 'C'),
    ('Final answer — C', 'C'),
    ('Answer → C', 'C'),
    ('Antwort:\n\nAntwort: C', 'C'),
    ('答案是B。', 'B'),
    ('La respuesta correcta es (B).', 'B'),
    ('The answer is 𝐁', 'B'),
    ('The answer is Ｂ', 'B'),
    ('\\boxed{\\langle H\\rangle}\n**Answer: D**', 'D'),
    ('\\fbox{C}', 'C'),
    # What is denied is not chosen.
    ('The answer is (B). So the answer is not option (A).', 'B'),
    ("The answer isn't (A).", None),
    ('The answer cannot be (A).', None),
    ('The answer is not A but B.', 'B'),
    ('The answer is B, not A.', 'B'),
    ("It's not (B), it's (C).", 'C'),
    ('The answer is neither (A) nor (B). It is (C).', 'C'),
    ('Answer: It is not B, the answer is D', 'D'),
    ('Answer: rules out C, leaving D', 'D'),
    ('The incorrect answer is (A).', None),
    ('Option A is not the correct answer.', None),
    ('A is incorrect. B is incorrect. So it must be C.', 'C'),
    ('I considered (A), but it is incorrect. Final answer: D.', 'D'),
    # A weak mention gives way.
    ('**C. Paris**\n\nParis is in France, while (A) is not.', 'C'),
    ('C. A pretty girl', 'C'),
    # Phrases.
    ('So B is the answer.', 'B'),
    ('I would pick B', 'B'),
    ("I'd go with option D.", 'D'),
    ("Let's go with (D), then.", 'D'),
    ('My choice is D.', 'D'),
    ('Answer: I think it is C', 'C'),
    ('The best option is B) London since', 'B'),
    ('The correct answer is d.', 'D'),
    ('The answer is C because I computed the integral.', 'C'),
    ('The answer seems to be D.', 'D'),
    ('Option C is the most appropriate.', 'C'),
    ('So option C best describes it.', 'C'),
    ('That makes C the right answer.', 'C'),
    ('This corresponds to option C.', 'C'),
    ('Hence option C.', 'C'),
    ('Selected option: C', 'C'),
    ('Final answer: D\n\nC is right only in summer, and C is correct if it rains.', 'D'),
    # An option that says no.
    ('(D) Does not say so.', 'D'),
    ('The answer is (D) Cannot be known.', 'D'),
    ('(D) does not say so.', None),
    # Nothing but a small letter.
    ('c', 'C'),
    ('(c)', 'C'),
    ('a) The speed follows from the force, and b) the time from the speed', None),
    ('a red apple', None),
    # Other languages.
    ('La réponse est C.', 'C'),
    ('La respuesta correcta es la opción C.', 'C'),
    ('Правильный ответ - C', 'C'),
    ('정답은 C입니다.', 'C'),
    ('所以选C', 'C'),
    ('Cevap: C', 'C'),
    # Words and numerals are no letters.
    ("ANSWER: Don't know", None),
    ("ANSWER: I don't know", None),
    ('ANSWER: None of the above', None),
    ('Statement I is correct, II is not.', None),
    ('Only I and II are true. The answer is I only.', None),
    ('Vitamin B is the best choice for nerves', None),
    ('The answer is (A) and (C).', None),
    ('We conclude that (B), (G), and (H) must be the correct answers.', None),
    ('This is a', None),
    ('We conclude that a is even', None),
    # End-of-sequence tokens.
    ('The answer is A<EOS_TOKEN>', 'A'),
    ('$\\boxed{3}$.<EOS_TOKEN>\nTherefore, the final answer is A.<EOS_TOKEN>\n', 'A'),
    ('It is unclear.<|im_end|>\n<|im_start|>user\nThe answer is C', None),
    ('<|start_header_id|>assistant<|end_header_id|>\n\nB<|eot_id|>', 'B'),
  ],
)
def test_kinds_of_texts(text, expected):
  assert option_letter.option_letter(text, '') == expected


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('The answer is Paris.', 'C'),
    ('The answer is **Paris**', 'C'),
    ('The answer is A Rome', 'A'),
    ('c) Paris', 'C'),
    ('Paris.', 'C'),
    ('\\boxed{11.5}', 'D'),
    ('The answer is (E).', None),  # there is none
    ('The answer is (I).', None),
    ('Paris is in France.', None),
  ],
)
def test_the_options_are_those_of_the_question(text, expected):
  assert option_letter.option_letter(text, QUERY) == expected


@pytest.fixture(scope='module')
def published(test_data):
  from selectllm.data.builders import mmlu_pro

  sources = {llm: mmlu_pro.source(llm) for llm in mmlu_pro.CHECKED}
  return {llm: mmlu_pro._read(test_data / 'mmlu_pro' / source.path)[0] for llm, source in sources.items()}


def test_texts_are_read_as_they_were_by_hand(published):
  from selectllm.data.builders import mmlu_pro

  with READ_BY_HAND.open(encoding='utf-8', newline='') as file:
    by_hand = {(row['llm'], int(row['question_id'])): row['value'] or None for row in csv.DictReader(file)}
  assert len(by_hand) >= 240
  read = {(llm, number): mmlu_pro.answer(published[llm][number]) for llm, number in by_hand}
  assert {place for place, value in by_hand.items() if read[place] != value} == set(MISSED)
