"""Makes the results of a run that there never was: as little as a report.json can hold."""

from typing import Any

import ml_collections

from selectllm.evaluate import results

NOTHING = {'mean_confidence': [], 'frequency': [], 'count': []}
# A method of which nothing is known but its name.
METHOD = {
  'size': None, 'queries': 0, 'accuracy': None, 'accuracy_ci': (None, None), 'calls': None, 'wall_clock_s': None,
  'wall_clock_p50_s': None, 'wall_clock_p95_s': None, 'compute_s': None, 'cost_usd': None,
  'gap_to_oracle': None, 'versus': {},
}  # fmt: skip


def comparison(delta: float, p: float, p_holm: float | None = None) -> dict[str, Any]:
  """Makes a gain on 1,000 queries, with an interval that agrees with its test."""
  half = abs(delta) * (0.5 if p < 0.05 else 2)
  return {
    'queries': 1000, 'delta': delta, 'ci': (delta - half, delta + half), 'p': p, 'differ': 100, 'detectable': 0.028,
    'p_holm': p_holm,
  }  # fmt: skip


def make(config: ml_collections.ConfigDict, llms: list[str], **fields: Any) -> results.Results:
  """Makes results of a pool; fields, also of `dataset`, `classifier` and `timing`, replace what is made up here."""
  content = {
    'schema_version': results.SCHEMA_VERSION,
    'dataset': {
      'name': 'Sums', 'llms': llms, 'tasks': [''], 'responses': 'recorded', 'latency': 'measured', 'latency_model': '',
      'sizes_assumed': [], 'in_place_of': '', 'notes': [], 'folds': 0, 'queries': 99, 'unused': 0, 'truncated': 0,
      'labels': 'reference',
      'queries_per_split': {'train': 0, 'validation': 0, 'test': 0},
    },
    'llms': {
      llm: {'accuracy': {}, 'accuracy_ci': {}, 'missing': 0, 'latency_s': None, 'cost_usd': None} for llm in llms
    },
    'encoder': {'frozen': True, 'asked': 'true'},
    'classifier': {
      'weighted_f1': None, 'macro_f1': None, 'auroc': None, 'brier': None, 'ece': None, 'reliability': NOTHING,
      'confusion': {},
    },
    'oracle': {'accuracy': None, 'supported': None, 'repeated': None, 'latency_s': None},
    'best_single': [f'single:{llms[0]}'],
    'policy_tradeoff': None,
    'knn_neighbours': [],
    'methods': [],
    'chosen': [],
    'selected': {},
    'tradeoff': None,
    'by_task': [],
    'error_analysis': {
      'policy': '', 'sizes': [], 'queries': 0, 'lost': None, 'lost_ci': (None, None), 'features': []
    },
    'contamination': {
      'near_duplicates': 0.0, 'distinct': 0, 'searched': 0, 'crowded': 0, 'duplicates': [], 'examples': [], 'tested': 0,
      'clean': 0, 'methods': [],
    },
    'evaluate_config': config.evaluate.to_dict(),
    'timing': {'classifier_latency_s': 0.0, 'evaluate_s': 0.0},
  }  # fmt: skip
  for name, value in fields.items():
    content[name] = content[name] | value if isinstance(value, dict) and content[name] else value
  return results.from_builtins(content)
