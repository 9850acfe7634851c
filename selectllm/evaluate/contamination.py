"""Whether test queries were seen in training, and whether that matters: duplicates across splits, accuracy without."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from selectllm.data import dataset, near_duplicates, splits
from selectllm.evaluate import metrics, outcomes, statistics

_EXAMPLES = 10
_EXCERPT = 120  # characters
# Beside the methods at their chosen sizes; `random` has nothing to remember.
_FIXED = ('knn_top1', 'all_llms')


def find(
  data: dataset.Dataset,
  split: np.ndarray,
  results: dict[str, Any],
  played: outcomes.Outcomes,
  *,
  near: float,
  resamples: int,
) -> dict[str, Any]:
  """What a report says about leaks between splits.

  Args:
    data: The data set of N queries.
    split: int8[F, N], one split or all folds, whose test queries are those of `played`, fold by fold.
    results: From `evaluate.evaluate`.
    played: Likewise.
    near: See `near_duplicates.find`.
    resamples: Of the bootstrap.

  Returns:
    JSON: for each of `near_duplicates.LEAKS` how many queries (of all folds) have their question, or nearly theirs
    (None where this was not searched), in the other split; examples; and what methods reach on the test queries
    without any.
  """
  questions = data.questions or data.queries
  found = near_duplicates.find(questions, split, near)
  test_leaks = [leak for leak, (of, _) in enumerate(near_duplicates.LEAKS) if of == splits.TEST]
  touched = (found.exact | found.near)[..., test_leaks].any(-1)  # [F, N]
  clean = ~np.concatenate([row[part == splits.TEST] for row, part in zip(touched, split, strict=True)])
  # From the most alike pair to the least, evenly.
  pairs = sorted(found.pairs, key=lambda pair: -pair.similarity)
  shown = np.unique(np.linspace(0, len(pairs) - 1, min(_EXAMPLES, len(pairs))).round().astype(int))
  return {
    'near_duplicates': near,
    'distinct': found.distinct,
    'searched': found.searched,
    'crowded': found.crowded,
    'leaks': [
      {
        'of': splits.NAMES[of],
        'within': splits.NAMES[within],
        'queries': int((split == of).sum()),
        'exact': int(found.exact[..., leak].sum()),
        'near': int(found.near[..., leak].sum()) if near else None,
      }
      for leak, (of, within) in enumerate(near_duplicates.LEAKS)
    ],
    'examples': [_example(data.query_ids, questions, pairs[place]) for place in shown],
    'tested': len(clean),
    'clean': int(clean.sum()),
    'methods': _without(results['best_single'], played, clean, resamples),
  }


def _without(
  best_single: list[str], played: outcomes.Outcomes, clean: np.ndarray, resamples: int
) -> list[dict[str, Any]]:
  """Accuracies on all test queries, and on the bool[T] clean ones with a 95 % interval."""
  chosen = (played.sizes == outcomes.CHOSEN) & (played.names != 'random')
  fixed = np.isin(played.names, [*_FIXED, *best_single])
  kept = np.concatenate([np.flatnonzero(chosen), np.flatnonzero(fixed)])
  correct, valid = played.correct[:, kept], played.valid[:, kept]
  everywhere, rest = metrics.masked_mean(correct, valid), metrics.masked_mean(correct[clean], valid[clean])
  intervals = statistics.bootstrap_ci(correct[clean], valid[clean], resamples=resamples)
  return [
    {
      'name': str(name),
      'accuracy': _known(accuracy),
      'clean_accuracy': _known(clean_accuracy),
      'clean_ci': [_known(bound) for bound in interval],
    }
    for name, accuracy, clean_accuracy, interval in zip(played.names[kept], everywhere, rest, intervals, strict=True)
  ]


def _known(value: float) -> float | None:
  return None if np.isnan(value) else float(value)


def _example(query_ids: list[str], questions: Sequence[str], pair: near_duplicates.Pair) -> dict[str, Any]:
  """A pair to look at: both texts, if long from a little before they differ."""
  of, within = near_duplicates.LEAKS[pair.leak]
  texts = [' '.join(questions[row].split()) for row in (pair.of, pair.within)]
  shorter = min(map(len, texts))
  differ = next((at for at in range(shorter) if texts[0][at] != texts[1][at]), shorter)
  start = max(0, differ - _EXCERPT // 2) if max(map(len, texts)) > _EXCERPT else 0
  return {
    'of': splits.NAMES[of],
    'within': splits.NAMES[within],
    'ids': [query_ids[pair.of], query_ids[pair.within]],
    'texts': [_cut(text, start) for text in texts],
    'similarity': pair.similarity,
  }


def _cut(text: str, start: int) -> str:
  end = start + _EXCERPT
  return '…' * (start > 0) + text[start:end] + '…' * (end < len(text))
