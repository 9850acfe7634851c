"""Trains on responses of your own and writes a report: `python -m examples.own_data runs/own_data`.

Here the responses are made up: `adder` is good at sums, `multiplier` at products, `guesser` at neither.
"""

import json
import pathlib
import random
import sys

from selectllm.configs import jsonl
from selectllm.modes import experiment

DEFAULT_ENCODER = 'sentence-transformers/all-MiniLM-L6-v2'


def made_up_records(count: int = 160) -> list[dict]:
  """Returns response records as JSON, see docs/reference/records.md."""
  chance = random.Random(0)
  records = []
  for number in range(count):
    a, b, kind = chance.randint(1, 9), chance.randint(1, 9), chance.choice(['plus', 'times'])
    right = a + b if kind == 'plus' else a * b
    skill = {'adder': 0.9 if kind == 'plus' else 0.2, 'multiplier': 0.9 if kind == 'times' else 0.2, 'guesser': 0.4}
    responses = {}
    for llm, share in skill.items():
      said = right if chance.random() < share else chance.randint(100, 200)
      responses[llm] = [{'text': f'The answer is {said}.', 'latency_s': chance.uniform(0.5, 2.0)}]
    query = f'{chance.choice(["cats", "dogs", "eggs", "apples"])} {number}: how many has {a} {kind} {b}'
    records.append(
      {'query_id': f'q{number}', 'query': query, 'task': kind, 'reference': str(right), 'responses': responses}
    )
  return records


def main(workdir: pathlib.Path, encoder: str = DEFAULT_ENCODER) -> pathlib.Path:
  """Writes the records, trains and evaluates; returns the run directory.

  Args:
    workdir: Takes responses.jsonl and the run directory, run/.
    encoder: A folder with a pretrained encoder, or its name on the Hugging Face hub.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  responses = workdir / 'responses.jsonl'
  responses.write_text(''.join(json.dumps(record) + '\n' for record in made_up_records()))
  config = jsonl.get_config()
  config.dataset.path = str(responses)
  config.dataset.extractor = 'number-v2'  # answers are taken from the texts
  config.encoder.name = encoder
  config.train.epochs = 3
  config.mesh.data = 1  # one device is enough for so little
  config.tradeoff.strategies = ('adaptive',)
  config.tradeoff.limits = ('accuracy>=best_single', 'compute_seconds<=50%', 'none')
  experiment.run(config, workdir / 'run')
  return workdir / 'run'


if __name__ == '__main__':
  print(main(pathlib.Path(sys.argv[1])))
