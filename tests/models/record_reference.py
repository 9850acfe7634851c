"""Records what PyTorch transformers computes, for encoders with small random weights: `python record_reference.py`.

Needs PyTorch (the extra `parity`). Writes, for each family, a folder `reference/<family>` with a model's
`config.json` and `model.safetensors`, and `activations.npz`: a ragged batch and its last hidden states.
"""

import pathlib
from typing import Any

import numpy as np
import torch
import transformers

FAMILIES = {
  'bert': (transformers.BertConfig, transformers.BertModel),
  'roberta': (transformers.RobertaConfig, transformers.RobertaModel),
}


def make_model(family: str, seed: int) -> Any:
  """Makes a small model whose every parameter is random, biases and layer norms too."""
  torch.manual_seed(seed)
  make_config, make = FAMILIES[family]
  config = make_config(
    vocab_size=97,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=20,
    type_vocab_size=2 if family == 'bert' else 1,
  )
  model = make(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(torch.randn_like(parameter), alpha=0.2)
  return model


def record(model: Any, folder: pathlib.Path, seed: int) -> None:
  """Saves a model and its last hidden states on a ragged batch, in which the longest query fills all positions."""
  config, generator = model.config, np.random.default_rng(seed)
  offset = config.pad_token_id + 1 if config.model_type == 'roberta' else 0
  longest = min(config.max_position_embeddings - offset, 64)
  lengths = np.array([longest, 1, longest // 2, longest - 3], np.int32)
  mask = np.arange(longest) < lengths[:, None]
  tokens = np.where(
    mask, generator.integers(config.pad_token_id + 1, config.vocab_size, mask.shape), config.pad_token_id
  )
  with torch.no_grad():
    hidden = model(input_ids=torch.from_numpy(tokens), attention_mask=torch.from_numpy(mask).long()).last_hidden_state
  model.save_pretrained(folder)
  np.savez(folder / 'activations.npz', tokens=tokens.astype(np.int32), lengths=lengths, hidden=hidden.numpy())


if __name__ == '__main__':
  for name in FAMILIES:
    record(make_model(name, seed=0), pathlib.Path(__file__).parent / 'reference' / name, seed=0)
