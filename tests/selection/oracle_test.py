import numpy as np

from selectllm.selection import policies


def _select(labels, observed, latency_s) -> list[int | None]:
  mask = np.asarray(policies.oracle(np.float32(labels), np.array(observed), np.float32(latency_s)))
  assert (mask.sum(1) <= 1).all()
  return [int(row.argmax()) if row.any() else None for row in mask]


def test_the_oracle_is_right_whenever_any_llm_is_and_takes_the_fastest_right_one():
  rng = np.random.default_rng(0)
  labels = (rng.random((400, 5)) < 0.3).astype(np.float32)
  observed = rng.random(labels.shape) < 0.8
  latency_s = rng.permuted(np.tile(np.float32([1, 2, 3, 4, 5]), (400, 1)), axis=1)
  for row, llm in enumerate(_select(labels, observed, latency_s)):
    seen = np.flatnonzero(observed[row])
    right = [k for k in seen if labels[row, k] == 1]
    expected = min(right or seen, key=lambda k: latency_s[row, k], default=None)
    assert llm == expected


def test_a_missing_llm_is_never_called_however_right_and_fast():
  assert _select([[1, 1, 0]], [[False, True, True]], [[0.1, 9, 1]]) == [1]
  assert _select([[1, 0, 0]], [[False, True, True]], [[0.1, 9, 1]]) == [2]
  assert _select([[1, 1, 1]], [[False, False, False]], [[1, 2, 3]]) == [None]


def test_of_scores_the_oracle_takes_the_highest_then_the_fastest():
  assert _select([[0.2, 0.7, 0.7]], [[True] * 3], [[1, 5, 4]]) == [2]
  assert _select([[0, 0, 0]], [[True] * 3], [[3, 1, 2]]) == [1]
