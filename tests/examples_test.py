"""The examples run, and do what they say."""

import collections.abc
import pathlib

import jax
import pytest

from examples import custom_policy, own_data, read_report, select_llms
from selectllm.selection import policies
from tools import results_tables


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: pathlib.Path) -> collections.abc.Iterator[pathlib.Path]:
  """The run directory that `own_data` leaves."""
  folder = tmp_path_factory.mktemp('examples')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('SELECTLLM_CACHE', str(folder / 'cache'))
    yield own_data.main(folder, str(tiny_encoder))


def test_own_data_writes_a_report_and_a_selector(run):
  assert (run / 'report.md').is_file()
  assert (run / 'selector' / 'selector.json').is_file()


def test_the_selector_names_llms_of_the_pool(run):
  chosen = select_llms.main(str(run / 'selector'), limit='none')
  assert list(chosen) == list(select_llms.QUERIES)
  assert all(llms and set(llms) <= {'adder', 'multiplier', 'guesser'} for llms in chosen.values())


def test_the_report_is_read_into_types(run):
  lines = read_report.main(run / 'report.json')
  assert [line.partition(':')[0] for line in lines][:3] == list(policies.POLICIES)[:3]
  assert any(line.startswith('none: ') for line in lines)


def test_the_tables_of_the_docs_are_taken_from_a_run(run):
  found = results_tables.extract('mini', run)
  assert set(found['tables']) == {'methods', 'sizes', 'tradeoff', 'constraints', 'probability'}
  assert [row[0] for row in found['tables']['constraints']['rows']][-1].startswith('`none`')
  for table in found['tables'].values():
    assert all(len(row) == len(table['header']) for row in table['rows'])
  assert found['versions'].keys() >= {'python', 'jax'}


def test_a_policy_of_ones_own_is_reported_like_the_others(run, monkeypatch):
  monkeypatch.setattr(policies, 'POLICIES', dict(policies.POLICIES))
  row = custom_policy.main(run)
  jax.clear_caches()
  assert row.calls is not None
  assert 1 <= row.calls <= 3
  assert 'near_the_top' in (run / 'report.md').read_text()
