"""Finds test queries that were seen in training, and what that changes: duplicates across splits, accuracy without."""

from collections.abc import Sequence

import numpy as np

from selectllm.data import dataset, near_duplicates, splits
from selectllm.evaluate import metrics, outcomes, results, statistics

_EXAMPLES = 10
_EXCERPT = 120  # characters
# Beside the methods at their chosen sizes; `random` has nothing to remember.
_FIXED = ('knn_top1', 'all_llms')


def find(
  data: dataset.Dataset,
  split: np.ndarray,
  best_single: Sequence[str],
  kept: outcomes.Outcomes,
  *,
  near: float,
  resamples: int,
) -> results.Contamination:
  """Counts the queries of a split whose question, or nearly theirs, is in another, and evaluates without them.

  Args:
    data: The data set of N queries.
    split: int8[F, N], one split or all folds, whose test queries are those of `kept`, fold by fold.
    best_single: The names of the best single LLMs, as methods.
    kept: How methods fared on the test queries.
    near: See `near_duplicates.find`.
    resamples: Of the bootstrap.

  Returns:
    Counts over all folds, examples, and what methods reach on the test queries without any duplicate.
  """
  questions = data.questions or data.queries
  found = near_duplicates.find(questions, split, near)
  of_test = [place for place, (of, _) in enumerate(near_duplicates.SPLIT_PAIRS) if of == splits.TEST]
  touched = (found.exact | found.near)[..., of_test].any(-1)  # [F, N]
  clean = ~np.concatenate([row[part == splits.TEST] for row, part in zip(touched, split, strict=True)])
  # From the most alike pair to the least, evenly.
  pairs = sorted(found.pairs, key=lambda pair: -pair.similarity)
  shown = np.unique(np.linspace(0, len(pairs) - 1, min(_EXAMPLES, len(pairs))).round().astype(int))
  return results.Contamination(
    near_duplicates=near,
    distinct=found.distinct,
    searched=found.searched,
    crowded=found.crowded,
    duplicates=[
      results.DuplicateCount(
        of=splits.NAMES[of],
        within=splits.NAMES[within],
        queries=int((split == of).sum()),
        exact=int(found.exact[..., place].sum()),
        near=int(found.near[..., place].sum()) if near else None,
      )
      for place, (of, within) in enumerate(near_duplicates.SPLIT_PAIRS)
    ],
    examples=[_example(data.query_ids, questions, pairs[place]) for place in shown],
    tested=len(clean),
    clean=int(clean.sum()),
    methods=_evaluate_clean(best_single, kept, clean, resamples),
  )


def _evaluate_clean(
  best_single: Sequence[str], kept: outcomes.Outcomes, clean: np.ndarray, resamples: int
) -> list[results.CleanAccuracy]:
  """Returns accuracies on all test queries, and on the bool[T] clean ones with a 95 % interval."""
  chosen = (kept.sizes == outcomes.CHOSEN) & (kept.names != 'random')
  fixed = np.isin(kept.names, [*_FIXED, *best_single])
  columns = np.concatenate([np.flatnonzero(chosen), np.flatnonzero(fixed)])
  correct, valid = kept.correct[:, columns], kept.valid[:, columns]
  everywhere, rest = metrics.masked_mean(correct, valid), metrics.masked_mean(correct[clean], valid[clean])
  intervals = statistics.accuracy_ci(correct[clean], valid[clean], resamples=resamples)
  return [
    results.CleanAccuracy(str(name), results.known(accuracy), results.known(clean_accuracy), results.interval(interval))
    for name, accuracy, clean_accuracy, interval in zip(kept.names[columns], everywhere, rest, intervals, strict=True)
  ]


def _example(
  query_ids: Sequence[str], questions: Sequence[str], pair: near_duplicates.Pair
) -> results.DuplicateExample:
  """Returns a pair to look at: both texts, if long from a little before they differ."""
  of, within = near_duplicates.SPLIT_PAIRS[pair.splits]
  one, other = (' '.join(questions[row].split()) for row in (pair.of, pair.within))
  shorter, longer = sorted(map(len, (one, other)))
  differ = next((at for at in range(shorter) if one[at] != other[at]), shorter)
  start = max(0, differ - _EXCERPT // 2) if longer > _EXCERPT else 0
  return results.DuplicateExample(
    of=splits.NAMES[of],
    within=splits.NAMES[within],
    ids=(query_ids[pair.of], query_ids[pair.within]),
    texts=(_cut(one, start), _cut(other, start)),
    similarity=float(pair.similarity),
  )


def _cut(text: str, start: int) -> str:
  end = start + _EXCERPT
  return '…' * (start > 0) + text[start:end] + '…' * (end < len(text))
