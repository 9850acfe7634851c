"""Writes the JSON schemas that ship with the package: `python -m tools.write_schemas` after a change of the types."""

import json
import pathlib

from selectllm.data import records
from selectllm.evaluate import results

DIRECTORY = pathlib.Path(__file__).parents[1] / 'selectllm' / 'schemas'


def schemas() -> dict[str, str]:
  """Returns the text of each schema file."""
  made = {'report.schema.json': results.schema(), 'response_record.schema.json': records.schema()}
  return {name: json.dumps(content, indent=1) + '\n' for name, content in made.items()}


def main() -> None:
  """Writes the schema files of `schemas`."""
  DIRECTORY.mkdir(exist_ok=True)
  for name, text in schemas().items():
    (DIRECTORY / name).write_text(text)


if __name__ == '__main__':
  main()
