import collections
import types

import pytest

from selectllm.client import progress, runner

TALLIES = {
  'fast': runner.Tally(
    recorded=10, answered=25, failed=collections.Counter(timeout=5), attempts=40, tokens=1500, cost_usd=0.25
  ),
  'fresh': runner.Tally(),
  'complete': runner.Tally(recorded=20),
}
IN_FLIGHT = {'fast': 3, 'fresh': 0, 'complete': 0}


@pytest.fixture
def asking():
  gates = {llm: types.SimpleNamespace(in_flight=count) for llm, count in IN_FLIGHT.items()}
  return types.SimpleNamespace(tallies=TALLIES, gates=gates)


def test_rows_hold_counts_rates_and_the_time_that_is_left(asking):
  fast, fresh, complete = progress.rows(asking, {'fast': 100, 'fresh': 20, 'complete': 20}, 10.0)
  # 30 have ended in 10 s, 60 are left.
  assert fast == progress.Row('fast', 100, 35, 5, 3, 4.0, 150.0, 0.25, 20.0)
  assert (fresh.done, fresh.eta_s) == (0, None)  # nothing has ended, so nobody knows
  assert (complete.done, complete.eta_s) == (20, None)  # nothing is left


def test_cells_are_readable():
  row = progress.Row('a', 12_000, 1_500, 2, 8, 3.14, 1234.5, 0.5, 2 * 3600 + 3 * 60 + 4.9)
  assert row.cells() == ['a', '1,500/12,000', '2', '8', '3.1', '1,234', '0.5000', '2:03:04']


def test_the_table_has_a_row_for_each_llm(asking):
  shown = progress.table(progress.rows(asking, {'fast': 100, 'fresh': 20, 'complete': 20}, 10.0))
  assert shown.row_count == 3
  assert [column.header for column in shown.columns][:3] == ['LLM', 'done', 'failed']
  assert [*shown.columns[1].cells] == ['35/100', '0/20', '20/20']
