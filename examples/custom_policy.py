"""Adds a policy and evaluates a finished run with it: `python -m examples.custom_policy runs/own_data/run`.

A policy is a pure function of one query's arrays. Once its name is in `policies.POLICIES`, it is scored, voted and
reported like the paper's.
"""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import ml_collections

from selectllm.evaluate import results
from selectllm.modes import experiment
from selectllm.report import tables
from selectllm.selection import policies

MARGIN = 0.1


def near_the_top(confidences, latency_s, available, *, size, threshold) -> policies.Selection:
  """Selects, among the `size` most confident LLMs, those less than `MARGIN` below the most confident one."""
  top = policies.max_conf(confidences, latency_s, available, size=size, threshold=threshold)
  best = jnp.max(jnp.where(available, confidences, -jnp.inf))
  return policies.Selection(top.mask & (confidences > best - MARGIN), confidences)


def main(run: pathlib.Path) -> results.MethodResult:
  """Writes the report of a run again, with the policy in it; returns its results at the size chosen on validation."""
  policies.POLICIES['near_the_top'] = near_the_top
  jax.clear_caches()  # what was compiled before knows the other policies only
  config = ml_collections.ConfigDict(json.loads((run / 'config.json').read_text()))
  config.mode = 'evaluate'
  experiment.run(config, run)
  found = next(row for row in results.load(run / 'report.json').chosen if row.name == 'near_the_top')
  print(f'near_the_top: {tables.percent(found.accuracy)} % right with {found.calls} calls a query')
  return found


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
