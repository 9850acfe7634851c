"""Runs the mode that looks for right answers among the responses that were graded wrong; trains nothing."""

import pathlib

import ml_collections

from selectllm.data import load, records
from selectllm.evaluate import overlooked
from selectllm.report import grade_audit as grade_audit_report


def grade_audit(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Prints, for each LLM, how often the reference stands in the last sentence of a wrong response, and writes a page.

  Raises:
    ValueError: for a data set that holds scores instead of responses.
  """
  data, identity = load.load(config)
  if not data.audits:
    raise ValueError(f'{data.name} holds scores, no responses: there is nothing that could have been misread')
  examples = load.recorded(config, identity['name'])
  found = {llm: overlooked.summarise(audit) for llm, audit in zip(data.llms, data.audits, strict=True)}
  listed = overlooked.listing(data, lambda row: records.from_example(examples[row]))
  grade_audit_report.write(workdir, data.name, found, listed)
