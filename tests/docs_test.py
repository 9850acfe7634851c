"""README and docs say what the code and the stored results say."""

import pathlib
import re

import pytest

from selectllm.configs import common
from tools import mkdocs_hooks, results_tables

ROOT = pathlib.Path(__file__).parents[1]


def test_every_table_is_what_the_extracts_say():
  assert results_tables.main(['--check']) == 0


def test_a_table_that_differs_is_written_or_refused(tmp_path, capsys):
  docs = tmp_path / 'docs'
  (docs / 'results').mkdir(parents=True)
  (docs / 'results' / 'mini.json').write_text(
    '{"tables": {"methods": {"header": ["method", "accuracy %"], "rows": [["max_conf", "49.5"]]}}}'
  )
  (tmp_path / 'README.md').write_text('Before\n<!-- results: mini/methods -->\nstale\n<!-- /results -->\nafter\n')
  assert results_tables.main(['--check'], tmp_path) == 1
  assert 'README.md' in capsys.readouterr().out
  assert results_tables.main([], tmp_path) == 0
  text = (tmp_path / 'README.md').read_text()
  assert text.startswith('Before\n<!--')
  assert text.endswith('-->\nafter\n')
  assert '| max_conf | 49.5 |' in text
  assert 'stale' not in text
  assert results_tables.main(['--check'], tmp_path) == 0


def test_a_mark_that_names_no_table_is_an_error():
  with pytest.raises(ValueError, match="no table 'mini/other'"):
    results_tables.render('<!-- results: mini/other -->\n<!-- /results -->', {})


def test_a_run_of_another_name_is_refused(tmp_path):
  with pytest.raises(ValueError, match='run directories are named gsm8k_folds'):
    results_tables.main([str(tmp_path / 'mine')], tmp_path)


def test_every_config_field_is_in_the_reference():
  text = mkdocs_hooks.config_fields()
  fields = re.findall(r'^\| `config\.([\w.]+)`', text, re.MULTILINE)
  config = common.get_config()
  flat = [name for name in config if not hasattr(config[name], 'items')]
  flat += [f'{name}.{field}' for name in config if hasattr(config[name], 'items') for field in config[name]]
  assert sorted(fields) == sorted(flat)
  assert "| `config.train.loss` | `'bce'` | or balanced\\_bce |" in text


@pytest.mark.parametrize('page', ['README.md', 'WORKSPACE.md', 'CONTRIBUTING.md'])
def test_links_lead_to_files_and_headings(page):
  for target in re.findall(r'\]\((?!https?:)([^)\s]+)\)', (ROOT / page).read_text()):
    path, _, anchor = target.partition('#')
    assert (ROOT / path).exists(), f'{page}: {target}'
    if anchor:
      headings = re.findall(r'^#+ (.+)$', (ROOT / path).read_text(), re.MULTILINE)
      slugs = [re.sub(r'[^\w -]', '', heading).strip().lower().replace(' ', '-') for heading in headings]
      assert anchor in slugs, f'{page}: {target} is none of {slugs}'
