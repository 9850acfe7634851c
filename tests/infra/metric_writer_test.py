import json
import pathlib

import pytest

from selectllm.infra import metric_writer, paths


def _write(workdir: pathlib.Path, steps: range, resumed_step: int) -> None:
  metrics = metric_writer.MetricWriter(workdir, resumed_step=resumed_step)
  for step in steps:
    metrics.write(step, loss=1 / step)
  metrics.close()


def _steps(workdir: pathlib.Path) -> list[int]:
  return [json.loads(line)['step'] for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def test_a_resumed_run_drops_what_it_will_write_again(tmp_path):
  _write(tmp_path, range(1, 8), 0)
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 8, "lo')  # killed here
  _write(tmp_path, range(6, 9), 5)
  assert _steps(tmp_path) == list(range(1, 9))


def test_what_cannot_be_appended_to_is_sent_whole(bucket):
  workdir = paths.place('gs://bucket/run')
  _write(workdir, range(1, 8), 0)
  _write(workdir, range(6, 9), 5)
  assert _steps(bucket / 'run') == list(range(1, 9))
  assert list((bucket / 'run' / 'tensorboard').iterdir())


def test_a_run_killed_while_it_resumes_keeps_its_past(tmp_path, monkeypatch):
  _write(tmp_path, range(1, 8), 0)
  write = pathlib.Path.write_bytes

  def killed(path, content):
    write(path, content[: len(content) // 2])
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(pathlib.Path, 'write_bytes', killed)
    with pytest.raises(KeyboardInterrupt):
      metric_writer.MetricWriter(tmp_path, resumed_step=5)
  assert _steps(tmp_path) == list(range(1, 8))


def test_the_log_tells_what_is_left_and_ends_with_all_done(caplog, monkeypatch):
  monkeypatch.setattr(metric_writer.sys.stderr, 'isatty', lambda: False)
  now = [0.0]
  monkeypatch.setattr(metric_writer.time, 'monotonic', lambda: now[0])
  caplog.set_level('INFO', 'selectllm')
  progress = metric_writer.Progress('Training', 10, start=2)
  for now[0], done, note in ((20.0, 6, 'loss 1'), (21.0, 7, 'too soon after the last line'), (30.0, 10, '')):
    progress.update(done, note)
  assert [record.getMessage().strip() for record in caplog.records] == [
    'Training: 6/10, 20 s gone, 20 s left loss 1',
    'Training: 10/10, 30 s gone, 0 s left',
  ]
