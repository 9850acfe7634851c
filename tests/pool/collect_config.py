"""The fields that a collection reads, with their defaults."""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.mode = 'collect'
  config.pool = ml_collections.ConfigDict()
  config.pool.file = ''
  config.pool.llms = ()
  config.collect = ml_collections.ConfigDict()
  config.collect.queries = ''  # a JSONL file, or gsm8k:train, gsm8k:test, mmlu:test, mmlu:dev, mmlu:validation
  config.collect.manual_dir = ''  # where published query files lie; empty to download them
  config.collect.samples = 10
  config.collect.extractor = 'number-v1'
  config.collect.shard = ''  # 3/16: the third of sixteen parts
  config.collect.merge = ()  # journals whose answers are taken over, file patterns allowed
  config.collect.salvage = False  # set damaged journal lines aside
  config.collect.dry_run = False  # print calls, tokens and cost, ask nobody
  config.collect.budget_usd = config_dict.placeholder(float)  # for the whole collection, earlier runs included
  config.collect.drain_s = 30.0  # how long a first Ctrl-C waits for what is in flight
  return config
