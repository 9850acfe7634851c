"""Training: examples a second, against the Hugging Face Trainer as the paper's authors run it, and the share of input.

  python -m benchmarks.training --manual_dir=DIR --save       # needs the extra `benchmarks`

Both fine-tune the same encoder on the same GSM8K queries for the same labels, in float32, with AdamW, clipping and
dropout: ours as `selectllm.train.loop` does, with its batches, the Trainer on queries padded to 128 tokens. An epoch of
ours and some steps of the Trainer's take turns; the first of each, which compile and warm up, do not count. The last
column is the share of our time in which the next batch was waited for.
"""

import argparse
import pathlib
import statistics
import tempfile
import time
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
import transformers

from benchmarks import results, scoring
from configs import gsm8k
from selectllm.data import load
from selectllm.infra import distributed
from selectllm.models import inference, pretrained, sharding
from selectllm.models import options as model_options
from selectllm.report import tables
from selectllm.train import input_pipeline, loop, optimizers
from selectllm.train import options as train_options

GOAL, MOST_INPUT = 2.0, 0.05
THEIR_STEPS = 4


class Task(NamedTuple):
  """What both train on: an encoder's folder, T queries, labels float32[T, K], the batch size."""

  folder: pathlib.Path
  queries: list[str]
  labels: np.ndarray
  batch_size: int


class Ours:
  """Our training step, compiled for all lengths by a first epoch."""

  def __init__(self, task: Task, config: ml_collections.ConfigDict):
    """Makes model, optimiser and state."""
    config.encoder.name, config.train.batch_size = str(task.folder), task.batch_size
    config.encoder.max_length = scoring.LENGTH
    self.model = inference.make_model(model_options.from_config(config), task.labels.shape[1])
    self.tokens = self.model.tokenize(task.queries)
    self.task = task
    optimizer = optimizers.make_optimizer(train_options.from_config(config), 1000)
    self.state = loop.init_state(self.model, optimizer)
    self.step = loop.jit_train_step(self.model, optimizer, sharding.abstract(self.model.mesh, self.state), 0)

  def epoch(self) -> tuple[float, float]:
    """Examples a second, and the share of the time in which a batch was waited for."""
    labels, waited = self.task.labels, 0.0
    source = input_pipeline.TrainingBatches(
      self.tokens,
      np.arange(len(labels)),
      labels,
      np.ones_like(labels),
      batch_size=self.task.batch_size,
      epochs=1,
      max_length=scoring.LENGTH,
      seed=0,
    )
    begun = time.perf_counter()
    iterator = input_pipeline.training_iterator(source, 0)
    with sharding.use(self.model.mesh):
      for _ in range(len(source)):
        asked = time.perf_counter()
        batch = loop.on_mesh(next(iterator), self.model.mesh)
        waited += time.perf_counter() - asked
        self.state, _ = self.step(self.state, batch)
        jax.block_until_ready(self.state)
    taken = time.perf_counter() - begun
    return len(labels) / taken, waited / taken


class Clock(transformers.TrainerCallback):
  """When each step of the Trainer ended."""

  def __init__(self):
    """Starts with none."""
    self.ended: list[float] = []

  def on_step_end(self, *_, **__) -> None:
    """Notes one more."""
    self.ended.append(time.perf_counter())


def theirs(task: Task, folder: str) -> float:
  """Examples a second of the Hugging Face Trainer, its first step left out."""
  model = transformers.AutoModelForSequenceClassification.from_pretrained(
    str(task.folder), num_labels=task.labels.shape[1], problem_type='multi_label_classification'
  )
  tokenizer = transformers.AutoTokenizer.from_pretrained(str(task.folder))
  encoded = tokenizer(task.queries, padding='max_length', truncation=True, max_length=scoring.LENGTH)
  rows = [
    {'input_ids': ids, 'attention_mask': mask, 'labels': labels}
    for ids, mask, labels in zip(encoded['input_ids'], encoded['attention_mask'], task.labels, strict=True)
  ]
  clock = Clock()
  options = transformers.TrainingArguments(
    output_dir=folder,
    max_steps=THEIR_STEPS + 1,
    per_device_train_batch_size=task.batch_size,
    learning_rate=5e-5,
    save_strategy='no',
    report_to='none',
    disable_tqdm=True,
    use_cpu=True,
  )
  transformers.Trainer(model, options, train_dataset=rows, callbacks=[clock]).train()
  return THEIR_STEPS * task.batch_size / (clock.ended[-1] - clock.ended[0])


def tasks(options: argparse.Namespace, folder: pathlib.Path) -> dict[str, Task]:
  """The encoders, each with as many queries as it can train on within a minute or two."""
  config = gsm8k.get_config()
  config.dataset.manual_dir = str(options.manual_dir / 'gsm8k')
  data, _ = load.load(config)
  chosen = np.random.default_rng(0).permutation(len(data.queries))[: options.queries]
  queries, labels = [data.queries[i] for i in chosen], data.responses.labels[chosen]
  few = options.queries // 8
  return {
    'MiniLM, batches of 32': Task(pretrained.find(config.encoder.name), queries, labels, 32),
    'RoBERTa-base, batches of 8': Task(scoring.roberta_base(folder), queries[:few], labels[:few], 8),
  }


def main() -> None:
  """Prints the comparison; see the module's description."""
  parser = results.parser(__doc__)
  parser.add_argument('--manual_dir', type=pathlib.Path, required=True, help='holds gsm8k/')
  parser.add_argument('--queries', type=int, default=512, help='for MiniLM; an eighth of it for RoBERTa-base')
  parser.add_argument('--repeats', type=int, default=3)
  options = parser.parse_args()
  distributed.enable_compilation_cache()
  cells, ratios, notes = [], [], []
  with tempfile.TemporaryDirectory() as temporary:
    for name, task in tasks(options, pathlib.Path(temporary, 'roberta')).items():
      ours = Ours(task, gsm8k.get_config())
      ours.epoch()
      rounds = [(*ours.epoch(), theirs(task, temporary)) for _ in range(options.repeats)]
      ours_rate, waited, their_rate = (statistics.median(column) for column in zip(*rounds, strict=True))
      length = float(ours.tokens.lengths.mean())
      flops = 3 * scoring.products(task.folder, int(ours.tokens.lengths.sum())) / len(task.queries) * ours_rate
      ceiling = scoring.matmul_rate()
      notes.append(
        f'{name}: {length:.0f} tokens a query; without padding, our layers multiply at {flops / 1e9:.0f} GFLOP/s, '
        f'{flops / ceiling:.0%} of the {ceiling / 1e9:.0f} that numpy reaches on one matrix.'
      )
      cells.append([name, 'selectllm', f'{ours_rate:.1f}', f'{waited:.2%}'])
      cells.append([name, 'Hugging Face Trainer, padded to 128', f'{their_rate:.1f}', '-'])
      ratio = ours_rate / their_rate
      ratios.append(f'{name}: {ratio:.2f}x the Trainer; goal {GOAL}x: {"met" if ratio >= GOAL else "MISSED"}')
      ratios.append(
        f'{name}: {waited:.2%} of the time waiting for input; goal under {MOST_INPUT:.0%}: '
        f'{"met" if waited < MOST_INPUT else "MISSED"}'
      )
  table = tables.Table(['encoder', 'contestant', 'examples/s', 'waiting for input'], cells)
  results.publish(
    'Training', table, ratios, save=options.save, packages=('jax', 'torch', 'transformers', 'accelerate'), notes=notes
  )


if __name__ == '__main__':
  main()
