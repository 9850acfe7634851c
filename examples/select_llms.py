"""Chooses whom to ask, with the selector of a run: `python -m examples.select_llms runs/own_data/run/selector`."""

import sys

import selectllm

QUERIES = ('how many has 4 plus 8', 'how many has 4 times 8')


def main(directory: str, limit: str = 'none') -> dict[str, tuple[str, ...]]:
  """Returns the LLMs to call first for each query, under a constraint such as `compute_seconds<=50%`."""
  selector = selectllm.load(directory, limit=limit)
  chosen = {}
  for choice in selector.select(QUERIES):
    chosen[choice.query] = choice.llms
    confidences = ', '.join(f'{llm} {confidence:.2f}' for llm, confidence in choice.confidences.items())
    print(f'{choice.query}: call {" and ".join(choice.llms)} ({confidences})')
  return chosen


if __name__ == '__main__':
  main(*sys.argv[1:])
