"""Holds what a run's classifiers predict for every query (predictions.npz): a report can be written from it."""

import pathlib
from typing import NamedTuple

import msgspec
import numpy as np

from selectllm.evaluate import outcomes, results
from selectllm.infra import paths, trees
from selectllm.selection import confidence


class Predictions(NamedTuple):
  """Holds what a run keeps of its classifiers: enough to evaluate anew in seconds (predictions.npz).

  Attributes:
    query_ids: str[N].
    llms: str[K].
    split: int8[F, N], one split or all folds; see `splits.assign`.
    confidences: float32[F, N, K], what policies select by; NaN on train where the encoder was fine-tuned on it.
    estimates: Of each split, what strategies select by.
    encoder: str[], how the encoder was chosen: `results.EncoderChoice` as JSON.
    labels: float32[N, K].
    observed: bool[N, K].
    embeddings: float32[N, D], unit vectors of the pretrained encoder.
    latency_s: float32[F, K], expected seconds of a call of each LLM, fitted on train.
    tokens: int32[N], how many of each query the encoder read.
    truncated: int[], queries that were longer than the encoder reads.
    classifier_latency_s: float[], seconds from one query's text to its selection, the median over some.
  """

  query_ids: np.ndarray
  llms: np.ndarray
  split: np.ndarray
  confidences: np.ndarray
  estimates: list[confidence.Confidences]
  encoder: np.ndarray
  labels: np.ndarray
  observed: np.ndarray
  embeddings: np.ndarray
  latency_s: np.ndarray
  tokens: np.ndarray
  truncated: np.ndarray
  classifier_latency_s: np.ndarray

  def encoder_choice(self) -> results.EncoderChoice:
    """Returns how the encoder was chosen."""
    return msgspec.json.decode(str(self.encoder), type=results.EncoderChoice)


def read_predictions(path: pathlib.Path) -> Predictions:
  """Reads the predictions of a run.

  Raises:
    ValueError: when another version wrote them; says what helps.
  """
  with path.open('rb') as file, np.load(file) as arrays:
    fields = dict(arrays)
  template = Predictions._make(Predictions._fields)._replace(
    estimates=[confidence.TEMPLATE] * len(fields['split']) if 'split' in fields else []
  )
  known = trees.named(template).keys()
  if fields.keys() != known:
    absent, more = known - fields.keys(), fields.keys() - known
    raise ValueError(
      f'{path} was written by another version: it lacks {", ".join(sorted(absent)) or "nothing"} and has '
      f'{", ".join(sorted(more)) or "nothing"} beyond what is known. Remove it to score the queries again from the '
      'checkpoints.'
    )
  return trees.restore(template, fields)


def save(path: pathlib.Path, arrays: Predictions | outcomes.Outcomes) -> None:
  """Writes arrays; no half-written file is ever taken for a run's."""
  with paths.atomic_write(path) as partial, partial.open('wb') as file:
    np.savez_compressed(file, **trees.named(arrays))
