import dataclasses
import functools
import types

import numpy as np
import pytest

from configs import jsonl
from selectllm.models import inference, options, sharding, tokenizer


@pytest.fixture
def config(tiny_encoder, tmp_path, monkeypatch):
  monkeypatch.setenv('SELECTLLM_CACHE', str(tmp_path))
  config = jsonl.get_config()
  config.encoder.name = str(tiny_encoder)
  return config


def test_made_once_for_each_encoder_and_queries(config, monkeypatch):
  made = []

  def embed(_, tokens, *, batch_size):
    del batch_size
    made.append(tokens)
    return np.full((len(tokens.lengths), 2), len(made), np.float32)

  monkeypatch.setattr(inference, 'embed', embed)
  one, other = (tokenizer.Tokens(np.array([2, last, 3], np.int32), np.array([0, 3]), 0) for last in (4, 5))
  cached = functools.partial(inference.cached_embeddings, batch_size=4)
  model = types.SimpleNamespace(encoder=options.from_config(config).encoder)
  first = cached(model, one)
  np.testing.assert_array_equal(cached(model, one), first)
  assert len(made) == 1
  cached(model, other)
  model.encoder = dataclasses.replace(model.encoder, pooling='cls')
  cached(model, one)
  assert len(made) == 3


def test_a_query_is_the_same_whoever_shares_its_row(config):
  model = inference.make_model(options.from_config(config), 3)
  tokens = model.tokenize(['cats', 'how many cats', 'eggs', '', 'how many eggs has dogs plus cats', 'dogs'])
  with sharding.use(model.mesh):
    together = inference.embed(model, tokens, batch_size=64)
    alone = [inference.embed(model, model.tokenize([text]), batch_size=1)[0] for text in ('how many cats', '')]
  np.testing.assert_allclose(together[[1, 3]], alone, atol=1e-5)
  np.testing.assert_allclose(np.linalg.norm(inference.unit(together), axis=1), 1, atol=1e-6)


def test_nothing_has_no_direction():
  assert not inference.unit(np.zeros((2, 3), np.float32)).any()
