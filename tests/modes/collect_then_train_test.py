"""What a collection is for: the data set that it leaves trains and evaluates, however it came about."""

import json
import pathlib
import time

import numpy as np
import pytest

from configs import jsonl
from selectllm.data import queries, records
from selectllm.modes import experiment
from tests.helpers import asking, fault_server


def trained(path: pathlib.Path, tiny_encoder: pathlib.Path, workdir: pathlib.Path) -> tuple[dict, dict]:
  config = jsonl.get_config()
  config.dataset.path = str(path)
  config.encoder.name = str(tiny_encoder)
  config.mesh.data = 1
  config.encoder.freeze = 'true'
  config.evaluate.update({'resamples': 100, 'knn_neighbours': (5,)})
  config.tradeoff.strategies = ()
  experiment.run(config, workdir)
  with np.load(workdir / 'predictions.npz') as arrays:
    predictions = {name: array for name, array in arrays.items() if not name.endswith('latency_s')}  # measured
  return predictions, json.loads((workdir / 'report.json').read_text())


@pytest.mark.slow
def test_a_killed_and_resumed_collection_trains_like_an_undisturbed_one(tmp_path, tiny_encoder, responses_file):
  recorded = {record.query: record for record in records.read_jsonl(responses_file)}
  llms = sorted(next(iter(recorded.values())).responses)

  def recorded_answer(body):
    llm, query = (message['content'] for message in body['messages'])
    return fault_server.replies(fault_server.with_text(recorded[query].responses[llm][0].text))

  asked = [queries.Query(record.query_id, record.query, record.task, record.reference) for record in recorded.values()]
  asking.write_queries(tmp_path / 'queries.jsonl', asked)
  with fault_server.in_thread(fault_server.FaultServer(rule=recorded_answer)) as server:
    asking.write_pool(tmp_path / 'pool.yaml', dict.fromkeys(llms, server.url), concurrency=2)
    for workdir, kills in (('killed', 3), ('undisturbed', 0)):
      for _ in range(kills):
        seen = len(server.seen)
        child = asking.start(tmp_path, workdir, **{'collect.samples': 1})
        while len(server.seen) < seen + 40 and child.poll() is None:
          time.sleep(0.002)
        child.kill()
        asking.finish(child)
      assert asking.finish(asking.start(tmp_path, workdir, **{'collect.samples': 1}))[0] == 0
  runs = [
    trained(tmp_path / name / 'responses.jsonl', tiny_encoder, tmp_path / f'{name}_run')
    for name in ('killed', 'undisturbed')
  ]
  (killed, killed_report), (undisturbed, undisturbed_report) = runs
  assert killed.keys() == undisturbed.keys()
  for name, array in killed.items():
    np.testing.assert_array_equal(array, undisturbed[name])
  assert killed_report['dataset'] == undisturbed_report['dataset']
  recorded = {record.query_id: record for record in records.read_jsonl(responses_file)}
  for record in records.read_jsonl(tmp_path / 'killed' / 'responses.jsonl'):
    for llm, (sample,) in record.responses.items():
      assert sample.answer == recorded[record.query_id].responses[llm][0].answer
