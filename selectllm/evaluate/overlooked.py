"""Sums up in which wrong responses a right answer may have been overlooked, and lists them to go through by hand."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from selectllm.data import dataset, grade_audit, records
from selectllm.evaluate import results, statistics

# A warning is given above this share, of so many wrong responses at least.
SHARE = 0.2
LEAST = 20
# Of each LLM so many responses are listed, a random sample.
LISTED = 200


def summarise(audit: grade_audit.Audit) -> results.Overlooked:
  """Returns the share of an LLM's wrong responses that end on the reference, with its interval."""
  share = audit.share
  bounds = (math.nan, math.nan) if share is None else statistics.wilson_ci(share, audit.wrong)
  return results.Overlooked(audit.wrong, share, results.interval(bounds))


def warning(llm: str, found: results.Overlooked | None) -> str:
  """Returns a warning of an LLM that may be misread; nothing of others."""
  if found is None or found.share is None or found.share <= SHARE or found.wrong < LEAST:
    return ''
  return (
    f'{llm}: in {100 * found.share:.0f} % of its {found.wrong:,} responses that were graded wrong the reference stands '
    'in the last sentence. Its answers may be misread, which makes it look worse than it is: '
    '--config.mode=grade_audit lists them.'
  )


def listing(data: dataset.Dataset, record_at: Callable[[int], records.Record]) -> list[dict[str, Any]]:
  """Lists the responses in question, LLM by LLM: what was asked, said and read.

  Args:
    data: The data set.
    record_at: Row -> its record.
  """
  listed = []
  for column, (llm, audit) in enumerate(zip(data.llms, data.audits, strict=True)):
    chosen = np.random.default_rng(0).permutation(len(audit.overlooked))[:LISTED]
    for row, place in sorted(audit.overlooked[index] for index in chosen):
      record = record_at(row)
      sample = [sample for sample in record.responses[llm] if sample.error is None][place]
      answer = int(data.responses.answers[row, column, place])
      listed.append(
        {
          'llm': llm,
          'id': data.query_ids[row],
          'query': data.queries[row],
          'text': sample.text,
          'sentence': grade_audit.last_sentence(sample.text),
          'references': list(record.references),
          'read': None if answer == dataset.NO_ANSWER else data.answers[row][answer],
        }
      )
  return listed
