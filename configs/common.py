"""What all experiments share; a config file changes what it needs."""

import pathlib

import ml_collections
from ml_collections import config_dict

POOLS = pathlib.Path(__file__).resolve().parent / 'pools'

STRATEGIES = (
  'learned_vote', 'bayes_vote', 'adaptive', 'adaptive_stages', 'subset',
  'chain', 'frugal_cascade', 'knn_router', 'mf_router', 'clusters',
)  # fmt: skip
LIMITS = (
  'accuracy>=best_single', 'accuracy>=all_llms', 'compute_seconds<=10%', 'compute_seconds<=35%',
  'wall_seconds<=50%', 'wall_seconds<=100%', 'none',
)  # fmt: skip


def parse_argument(argument: str | None, words: tuple[str, ...] = (), **defaults: int | float | str) -> dict:
  """Reads the argument behind a config file's colon, `:word,key=value,...`.

  Args:
    argument: The text; empty or None for none.
    words: Variants that may be named.
    **defaults: The keys that may be set; a value takes the type of its default.

  Returns:
    `defaults` with the values that were set, and `words`: the variants named.

  Raises:
    ValueError: for a word or key that is not known, or a value of another type.
  """
  values: dict = {**defaults, 'words': []}
  for item in filter(None, (argument or '').split(',')):
    key, given, value = item.partition('=')
    if not given and key in words:
      values['words'].append(key)
    elif given and key in defaults:
      try:
        values[key] = type(defaults[key])(value)
      except ValueError:
        wanted = type(defaults[key]).__name__
        raise ValueError(f'config argument {item!r}: {key} must be of type {wanted}') from None
    else:
      known = ', '.join([*words, *(f'{name}=...' for name in defaults)])
      raise ValueError(f'config argument {item!r} is not one of: {known}')
  return values


def get_config() -> ml_collections.ConfigDict:
  """The defaults of an experiment, in sections."""
  config = ml_collections.ConfigDict()
  config.mode = 'train_and_evaluate'  # or evaluate, collect, select, answer, compare, add_llm, grade_audit
  config.seed = 0  # of weights, batches, dropout and all that is fitted
  config.seeds = 1  # above 1: so many classifiers, from `seed` on; results are means, their spread is in the intervals
  config.profile = False  # trace some steps of the training, for TensorBoard or Perfetto

  config.dataset = ml_collections.ConfigDict()
  config.dataset.name = ''  # a builder in selectllm/data: gsm8k_pool, mmlu_pro_pool, mini_pool, jsonl_pool, sldata
  config.dataset.title = ''  # what reports call it; the builder's name by default
  config.dataset.fallback = 'none'  # used where the published files can be neither found nor downloaded: mini_pool
  config.dataset.path = ''  # jsonl_pool: files, comma-separated, * allowed; sldata: SLData.zip, or a folder
  config.dataset.beam = ''  # jsonl_pool: build with Apache Beam, its options such as --direct_num_workers=2
  config.dataset.task = ''  # sldata: gsm8k or mmlu, where the files hold both
  config.dataset.manual_dir = ''  # published files are read from here, not downloaded
  config.dataset.base_url = ''  # a mirror of the published files
  config.dataset.extractor = ''  # grade the texts again: number-v2, option_letter-v2, ...
  config.dataset.labels = 'reference'  # or agreement: the pool's own weighted vote, where there are no references
  config.dataset.query_includes_options = False  # mmlu_pro_pool: the classifier reads the options too
  config.dataset.split = 'hash'  # of the question, by the shares below; or published: the one that each query names
  config.dataset.split_seed = 0  # another seed puts other queries into train, validation and test
  config.dataset.validation_share = 0.1  # of the queries
  config.dataset.test_share = 0.2  # of the queries
  config.dataset.folds = 0  # above 1: cross-validate, every query is tested once
  config.dataset.train_share = 1.0  # of the training queries that are used; a smaller share is part of a larger one

  config.pool = ml_collections.ConfigDict()
  config.pool.file = ''  # facts about the LLMs: sizes, prices
  config.pool.llms = ()  # names; empty for all in the data

  config.encoder = ml_collections.ConfigDict()
  config.encoder.name = 'sentence-transformers/all-MiniLM-L6-v2'  # a folder or a name on the Hugging Face hub
  config.encoder.pooling = 'mean'  # or cls
  config.encoder.max_length = 128  # tokens; longer queries are cut
  config.encoder.dtype = 'float32'  # of activations: float32, bfloat16
  config.encoder.dropout = 0.1  # rate of all dropouts of the encoder
  config.encoder.freeze = 'auto'  # true: a regression on its embeddings; false: fine-tune it; auto: the better one
  config.encoder.remat = False  # compute activations again in the backward pass: less memory, more time

  config.train = ml_collections.ConfigDict()
  config.train.epochs = 10  # passes over the training queries
  config.train.batch_size = 32  # queries a step, over all devices
  config.train.learning_rate = 5e-5  # peak, of the encoder
  config.train.head_learning_rate = 1e-3  # peak, of the layer on top
  config.train.schedule = 'linear'  # or cosine, constant
  config.train.warmup_share = 0.1  # of the steps, in which the learning rate rises
  config.train.weight_decay = 0.01  # AdamW's
  config.train.clip_norm = 1.0  # gradients of a larger norm are scaled down to it
  config.train.loss = 'bce'  # or balanced_bce
  config.train.log_every_steps = 10  # losses go to metrics.jsonl and TensorBoard
  config.train.checkpoint_every_steps = 0  # beside those at the end of each epoch

  config.evaluate = ml_collections.ConfigDict()
  config.evaluate.batch_size = 16  # rows of queries scored together; accelerators like hundreds
  config.evaluate.threshold = 0.5  # above it an LLM is predicted to be right
  config.evaluate.vote = 'majority'  # each LLM's majority answer; or samples: all of them
  config.evaluate.ties = 'confident'  # a tied vote goes to the most confident LLM; or fastest: the paper's rule
  config.evaluate.knn_neighbours = (5, 10, 20, 40, 80, 160)  # tried on validation
  config.evaluate.resamples = 2000  # of the bootstrap
  config.evaluate.near_duplicates = 0.8  # Jaccard similarity of questions across splits, from 0.5; 0: no search

  config.tradeoff = ml_collections.ConfigDict()
  config.tradeoff.strategies = STRATEGIES  # what is compared past the paper's policies; empty: nothing
  config.tradeoff.cost_unit = ''  # calls are paid in compute_seconds, usd or calls; by default the first known
  config.tradeoff.limits = LIMITS  # estimated by cross-validation, measured on test; selection/constraints.py
  config.tradeoff.confidence = 0.9  # how likely a limit is to be kept on as many new queries as are tested

  config.collect = ml_collections.ConfigDict()
  config.collect.queries = ''  # a .jsonl file, or gsm8k:train, gsm8k:test, mmlu:test, mmlu:dev, mmlu:validation
  config.collect.manual_dir = ''  # published queries are read from here, not downloaded
  config.collect.samples = 10  # responses of each LLM to each query
  config.collect.extractor = 'number-v2'  # or option_letter-v2, math-v1, program_output-v1, calculation-v1
  config.collect.shard = ''  # 3/16: ask the third of sixteen parts
  config.collect.merge = ()  # journals whose answers are taken over; * allowed
  config.collect.salvage = False  # set damaged lines of the journal aside; for answers too
  config.collect.dry_run = False  # print the calls, tokens and dollars; ask nobody
  config.collect.budget_usd = config_dict.placeholder(float)  # stop before it is overspent, earlier runs included
  config.collect.drain_s = 30.0  # how long the first Ctrl-C waits for what is in flight

  config.answer = ml_collections.ConfigDict()
  config.answer.run = ''  # the run directory of the classifier to select with, by a fixed policy
  config.answer.selector = ''  # or RUN/selector: calls are chosen stage after stage, as answers come in
  config.answer.limit = 'none'  # what its calls must keep, such as wall_seconds<=50%; see selection/constraints.py
  config.answer.queries = ''  # as for collect; references are optional
  config.answer.manual_dir = ''  # published queries are read from here, not downloaded
  config.answer.policy = 'weighted_max_conf'  # or max_conf, labelled_max_conf
  config.answer.size = 0  # the most LLMs to call for a query; 0: what the run chose on validation
  config.answer.samples = 1  # responses of each called LLM
  config.answer.extractor = 'number-v2'  # or option_letter-v2, math-v1, program_output-v1, calculation-v1
  config.answer.on_failure = 'next'  # an LLM that fails is replaced by the next most confident; or fewer: it is not
  config.answer.abstain_below = 0.0  # withhold an answer that is less likely right than this; 0: give every answer
  config.answer.batch_size = 64  # queries that are scored together
  config.answer.at_once = 64  # queries that are called for at the same time
  config.answer.drain_s = 30.0  # how long the first Ctrl-C waits for what is in flight

  config.select = ml_collections.ConfigDict()
  config.select.selector = ''  # a directory that a run saved, RUN/selector
  config.select.queries = ''  # as for collect; references are not needed
  config.select.manual_dir = ''  # published queries are read from here, not downloaded
  config.select.limit = 'none'  # what the calls must keep, such as wall_seconds<=50%; see selection/constraints.py

  config.add_llm = ml_collections.ConfigDict()
  config.add_llm.run = ''  # the finished run that the LLM is added to; all other fields are the run's
  config.add_llm.responses = ''  # the LLM's responses to some of the run's queries, a .jsonl file
  config.add_llm.llm = ''  # its name there; not needed where it is the only one that the run does not know

  config.compare = ml_collections.ConfigDict()
  config.compare.runs = ''  # directories of finished runs, comma-separated, * allowed; the first is compared with

  config.mesh = ml_collections.ConfigDict()
  config.mesh.data = -1  # devices that split the batch; -1: all that there are
  config.mesh.fsdp = 1  # devices that split parameters and optimiser too
  config.mesh.distributed = False  # this is one process of a job of many; see selectllm/infra/distributed.py
  return config


def paper(config: ml_collections.ConfigDict, *, task: str, epochs: int) -> None:
  """Turns an experiment into the paper's: its recorded answers (SLData), its splits, pool and recipe."""
  config.dataset.name = 'sldata'
  config.dataset.task = task
  config.dataset.fallback = 'none'
  config.dataset.split = 'published'
  config.pool.file = str(POOLS / f'paper_{task}.yaml')
  config.encoder.name = 'FacebookAI/roberta-base'
  config.encoder.pooling = 'cls'
  config.encoder.max_length = 128
  config.encoder.freeze = 'false'
  config.train.epochs = epochs
  config.train.batch_size = 128
  config.train.learning_rate = config.train.head_learning_rate = 2e-5
  # What the paper does not say is as in the trainer that its code uses, Hugging Face's: no warm-up, no weight decay.
  config.train.warmup_share = 0.0
  config.train.weight_decay = 0.0
  config.evaluate.ties = 'fastest'


def collect(config: ml_collections.ConfigDict, *, pool: str, queries: str, extractor: str) -> None:
  """Turns an experiment into the collection of its responses, ten samples of each LLM."""
  config.mode = 'collect'
  config.pool.file = str(POOLS / pool)
  config.collect.queries = queries
  config.collect.extractor = extractor
