import json
import subprocess
import sys

import pytest

from configs import jsonl
from selectllm.data import records
from selectllm.data.records import Record, Sample
from selectllm.modes import grade_audit


@pytest.fixture
def config(tmp_path, monkeypatch):
  monkeypatch.setenv('SELECTLLM_CACHE', str(tmp_path / 'cache'))
  texts = {'[red]a': 'He pays $64 for 16 </script><b>glasses</b>.', 'b': 'The answer is 64.'}
  rows = [
    Record(f'q{row}', '16 glasses?', 't', '64', {llm: [Sample(text)] for llm, text in texts.items()})
    for row in range(30)
  ]
  records.write_jsonl(tmp_path / 'made.jsonl', rows)
  config = jsonl.get_config()
  config.dataset.path = str(tmp_path / 'made.jsonl')
  config.dataset.extractor = 'number-v1'
  return config


def test_answers_that_are_misread_are_shown(config, tmp_path, capsys):
  grade_audit.grade_audit(config, tmp_path / 'run')
  said = capsys.readouterr().out
  assert '[red]a, q0: 64 is right, 16 was read of: He pays $64' in said
  assert 'Warning: [red]a: in 100 % of its 30 responses' in said
  found = json.loads((tmp_path / 'run' / 'grade_audit.json').read_text())
  assert [(llm, one['wrong'], one['share']) for llm, one in found['llms'].items()] == [
    ('[red]a', 30, 1.0),
    ('b', 0, None),
  ]
  assert len(found['listed']) == 30
  page = (tmp_path / 'run' / 'grade_audit.html').read_text()
  assert '</script><b>' not in page
  assert '\\u003c/script\\u003e\\u003cb\\u003eglasses' in page


def test_read_better_nothing_is_left(config, tmp_path, capsys):
  config.dataset.extractor = 'number-v2'
  grade_audit.grade_audit(config, tmp_path / 'run')
  assert 'Warning' not in capsys.readouterr().out
  assert json.loads((tmp_path / 'run' / 'grade_audit.json').read_text())['listed'] == []


def test_it_needs_responses(config, tmp_path):
  rows = [Record(f'q{row}', 'x', 't', scores={'a': 1.0, 'b': 0.0}) for row in range(3)]
  records.write_jsonl(tmp_path / 'made.jsonl', rows)
  config.dataset.extractor = ''
  with pytest.raises(ValueError, match='holds scores, no responses'):
    grade_audit.grade_audit(config, tmp_path / 'run')


def test_it_starts_without_jax():
  code = "import sys; import selectllm.modes.grade_audit; sys.exit('jax' in sys.modules)"
  assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
