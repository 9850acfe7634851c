"""The policy of a finished run scores new queries as the run scored those that it had not learned from."""

import ml_collections
import numpy as np
import pytest

from selectllm.data import records, splits
from selectllm.evaluate import predictions
from selectllm.serve import decider, fixed_policy


@pytest.mark.parametrize('encoder', ['frozen_run', 'tuned_run'])
def test_confidences_and_votes_are_those_of_the_run(encoder, responses_file, request):
  run = request.getfixturevalue(encoder)
  policy = fixed_policy.load(run, 'weighted_max_conf', 2, ml_collections.ConfigDict({'data': 1, 'fsdp': 1}))
  kept = predictions.read_predictions(run / 'predictions.npz')
  test = np.flatnonzero(kept.split[0] == splits.TEST)
  texts = {record.query_id: record.query for record in records.read_jsonl(responses_file)}
  state = policy.score([texts[kept.query_ids[row]] for row in test], np.ones(len(policy.llms), bool), batch_size=8)
  np.testing.assert_allclose(state.confidences, kept.confidences[0][test], atol=1e-5)
  chosen = policy.decide(state, None)
  assert (chosen.sum(1) == 2).all()
  for confidences, mask in zip(state.confidences, chosen, strict=True):
    assert confidences[mask].min() >= confidences[~mask].max()
  answers = np.where(chosen[:, :, None], np.arange(len(policy.llms))[:, None], -1).astype(np.int16)
  finished = policy.finish(state, decider.Revealed(answers, chosen, chosen))
  # Of two votes the more confident one's counts more.
  np.testing.assert_array_equal(finished.answer, np.argmax(state.confidences, 1))
