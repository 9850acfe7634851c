"""Scoring: from queries to confidences, against PyTorch transformers and ONNX Runtime, with the same weights.

  python -m benchmarks.scoring --manual_dir=DIR --save        # needs the extra `benchmarks`

The queries are those of GSM8K and MMLU-Pro; the encoders are MiniLM and one of RoBERTa-base's shape (random weights,
MiniLM's tokenizer, `cls` pooling as in the paper), in float32. The peers pad every batch of 32 to 128 tokens, as the
script of the paper's authors does, or to its longest query, in the order in which the queries come or, as nobody but a
careful user would, sorted by length. All of them give the same confidences, or the benchmark fails.
"""

import io
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence

import ml_collections
import numpy as np
import onnxruntime
import torch
import transformers

from benchmarks import results
from configs import gsm8k, mmlu_pro
from selectllm.data import load
from selectllm.infra import distributed
from selectllm.models import inference, pretrained, sharding, tokenizer
from selectllm.models import options as model_options
from selectllm.report import tables

LLMS = 10
LENGTH = 128
BATCH = 32
GOALS = {
  'PyTorch, padded to 128': 2.5,
  'PyTorch, padded to the longest': 1.2,
  'ONNX Runtime, padded to the longest': 1.0,
}


class Torch(torch.nn.Module):
  """Our classifier in PyTorch: transformers' encoder, the same pooling, head and sigmoid."""

  def __init__(self, config: ml_collections.ConfigDict, model: inference.Model):
    """Takes the head's weights from our model."""
    super().__init__()
    self.encoder = transformers.AutoModel.from_pretrained(config.encoder.name, attn_implementation='sdpa')
    self.cls = config.encoder.pooling == 'cls'
    kernel, bias = (np.asarray(model.params['head'][name][...]) for name in ('kernel', 'bias'))
    self.head = torch.nn.Linear(*kernel.shape)
    self.head.weight.data, self.head.bias.data = torch.tensor(kernel.T), torch.tensor(bias)
    self.eval()

  def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Confidences [B, K]."""
    hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    counts = attention_mask[..., None].float()
    pooled = hidden[:, 0] if self.cls else (hidden * counts).sum(1) / counts.sum(1)
    return torch.sigmoid(self.head(pooled))


def exported(model: Torch) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
  """The PyTorch model in ONNX Runtime, with all of its graph optimisations."""
  written, names = io.BytesIO(), ['input_ids', 'attention_mask']
  example = torch.ones((2, 16), dtype=torch.long)
  axes = {name: {0: 'batch', 1: 'length'} for name in names}
  torch.onnx.export(
    model, (example, example), written, input_names=names, output_names=['out'], dynamic_axes=axes, dynamo=False
  )
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = torch.get_num_threads()
  session = onnxruntime.InferenceSession(written.getvalue(), options, providers=['CPUExecutionProvider'])
  return lambda batch: session.run(None, {name: batch[name] for name in names})[0]


def contestants(config: ml_collections.ConfigDict, queries: Sequence[str]) -> dict[str, Callable[[], np.ndarray]]:
  """Name -> a function that gives the confidences of all queries, in their order."""
  model = inference.make_model(model_options.from_config(config), LLMS)
  theirs, tokenizer = Torch(config, model), transformers.AutoTokenizer.from_pretrained(config.encoder.name)
  onnx = exported(theirs)
  everyone, everything = np.arange(len(queries)), np.ones((len(queries), LLMS), bool)
  by_length = np.argsort([len(query) for query in queries])

  def in_torch(batch: dict[str, np.ndarray]) -> np.ndarray:
    with torch.inference_mode():
      return theirs(**{name: torch.from_numpy(array) for name, array in batch.items()}).numpy()

  def encoded(order: np.ndarray, padding: bool | str) -> list[dict[str, np.ndarray]]:
    options = {'padding': padding, 'truncation': True, 'max_length': LENGTH, 'return_tensors': 'np'}
    cut = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    made = [tokenizer([queries[i] for i in part], **options) for part in cut]
    return [{name: batch[name].astype(np.int64) for name in ('input_ids', 'attention_mask')} for batch in made]

  def rival(call: Callable, order: np.ndarray, padding: bool | str, ready: list | None = None):
    def run() -> np.ndarray:
      confidences = [call(batch) for batch in ready or encoded(order, padding)]
      return np.concatenate(confidences)[np.argsort(order)]

    return run

  def ours(tokens=None) -> np.ndarray:
    tokens = tokens or model.tokenize(queries)
    with sharding.use(model.mesh):
      return inference.score_queries(
        model, model.params, tokens, everyone, everything, batch_size=config.evaluate.batch_size
      ).confidences

  tokens, padded, dynamic = model.tokenize(queries), encoded(everyone, 'max_length'), encoded(everyone, True)
  return {
    'selectllm': ours,
    'PyTorch, padded to 128': rival(in_torch, everyone, 'max_length'),
    'PyTorch, padded to the longest': rival(in_torch, everyone, True),
    'PyTorch, padded to the longest, sorted': rival(in_torch, by_length, True),
    'ONNX Runtime, padded to the longest': rival(onnx, everyone, True),
    'ONNX Runtime, padded to the longest, sorted': rival(onnx, by_length, True),
    'selectllm, from tokens': lambda: ours(tokens),
    'PyTorch, padded to 128, from tokens': rival(in_torch, everyone, 'max_length', padded),
    'PyTorch, padded to the longest, from tokens': rival(in_torch, everyone, True, dynamic),
    'ONNX Runtime, padded to the longest, from tokens': rival(onnx, everyone, True, dynamic),
  }


def measure(runs: dict[str, Callable[[], np.ndarray]], repeats: int) -> dict[str, float]:
  """Median seconds by contestant; they take turns, after a first round in which they are compared."""
  expected = runs['selectllm']()
  for name, run in runs.items():
    np.testing.assert_allclose(run(), expected, atol=1e-5, err_msg=name)
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  for _ in range(repeats):
    for name, run in runs.items():
      begun = time.perf_counter()
      run()
      seconds[name].append(time.perf_counter() - begun)
  return {name: statistics.median(times) for name, times in seconds.items()}


def roberta_base(folder: pathlib.Path) -> pathlib.Path:
  """An encoder of RoBERTa-base's shape with random weights."""
  torch.manual_seed(0)
  shape = transformers.RobertaConfig(max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
  transformers.RobertaModel(shape, add_pooling_layer=False).save_pretrained(folder)
  transformers.AutoTokenizer.from_pretrained(str(pretrained.find(gsm8k.get_config().encoder.name))).save_pretrained(
    folder
  )
  return folder


def matmul_rate() -> float:
  """What the machine multiplies matrices of this kind at, in numpy: FLOP a second."""
  left, right = np.ones((4096, 768), np.float32), np.ones((768, 3072), np.float32)
  seconds = []
  for _ in range(12):
    begun = time.perf_counter()
    left @ right
    seconds.append(time.perf_counter() - begun)
  return 2 * left.size * right.shape[1] / min(seconds)


def products(folder: pathlib.Path, tokens: int) -> float:
  """FLOP of the layers' weight matrices for so many tokens."""
  shape = pretrained.read_config(folder)
  return tokens * shape.num_layers * shape.hidden_size * (8 * shape.hidden_size + 4 * shape.intermediate_size)


def main() -> None:
  """Prints the comparison; see the module's description."""
  parser = results.parser(__doc__)
  parser.add_argument('--manual_dir', type=pathlib.Path, required=True, help='holds gsm8k/ and mmlu_pro/')
  parser.add_argument('--queries', type=int, default=192, help='for MiniLM; a quarter of it for RoBERTa-base')
  parser.add_argument('--repeats', type=int, default=3)
  options = parser.parse_args()
  distributed.enable_compilation_cache()
  cells, ratios, notes = [], [], []
  with tempfile.TemporaryDirectory() as temporary:
    roberta = roberta_base(pathlib.Path(temporary))
    for name, module, encoder, pooling, count in (
      ('MiniLM, GSM8K', gsm8k, None, 'mean', options.queries),
      ('MiniLM, MMLU-Pro', mmlu_pro, None, 'mean', options.queries),
      ('RoBERTa-base, GSM8K', gsm8k, roberta, 'cls', options.queries // 4),
    ):
      config = module.get_config()
      config.dataset.manual_dir = str(options.manual_dir / config.dataset.name.removesuffix('_pool'))
      config.encoder.max_length, config.encoder.pooling = LENGTH, pooling
      config.encoder.name = str(encoder or pretrained.find(config.encoder.name))
      data, _ = load.load(config)
      chosen = np.random.default_rng(0).permutation(len(data.queries))[:count]
      queries = [data.queries[i] for i in chosen]
      seconds = measure(contestants(config, queries), options.repeats)
      used = int(tokenizer.Tokenizer(pathlib.Path(config.encoder.name), LENGTH)(queries).lengths.sum())
      rate, ceiling = (
        products(pathlib.Path(config.encoder.name), used) / seconds['selectllm, from tokens'],
        matmul_rate(),
      )
      notes.append(
        f'{name}: {len(queries)} queries of {used / len(queries):.0f} tokens; the layers multiply at '
        f'{rate / 1e9:.0f} GFLOP/s, {rate / ceiling:.0%} of the {ceiling / 1e9:.0f} that numpy reaches on one matrix.'
      )
      for contestant, taken in seconds.items():
        reference = seconds['selectllm, from tokens' if contestant.endswith('from tokens') else 'selectllm']
        cells.append([name, contestant, f'{taken:.2f}', f'{len(queries) / taken:.1f}', f'{taken / reference:.2f}'])
      for contestant, goal in GOALS.items():
        ratio = seconds[contestant] / seconds['selectllm']
        verdict = 'met' if ratio >= goal else 'MISSED'
        ratios.append(f'{name}: {ratio:.2f}x {contestant}; goal {goal}x: {verdict}')
  data = tables.Table(['encoder, queries', 'contestant', 'seconds', 'queries/s', 'times ours'], cells)
  packages = ('jax', 'torch', 'transformers', 'onnxruntime')
  results.publish('Scoring', data, ratios, save=options.save, packages=packages, notes=notes)


if __name__ == '__main__':
  main()
