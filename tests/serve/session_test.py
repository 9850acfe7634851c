"""What is written of a query whose calls have ended."""

import pytest

from selectllm.client import dispatch
from selectllm.data import queries
from selectllm.serve import session


def _call(latency_s=None, failed_after_s=None, cost_usd=0.5):
  return {'latency_s': latency_s, 'failed_after_s': failed_after_s, 'cost_usd': cost_usd}


def _called(*stages, replaced=None):
  selection = dispatch.Selection(queries.Query('q', 'How many?'), stages[0])
  return dispatch.Called(selection, {}, stages, replaced or {})


def test_stages_are_waited_for_and_a_call_in_anothers_place_begins_when_that_one_has_failed():
  calls = {'a': _call(2.0), 'b': _call(failed_after_s=1.0), 'c': _call(4.0), 'd': _call(3.0)}
  found = session._totals(_called(('a', 'b'), ('d',), replaced={'b': 'c'}), calls)
  assert found == {'wall_clock_s': 1 + 4 + 3, 'compute_s': 2 + 1 + 4 + 3, 'cost_usd': 2.0}


@pytest.mark.parametrize('unknown', [_call(), _call(cost_usd=None)])
def test_what_one_call_took_is_not_known_and_so_the_sum_is_not(unknown):
  found = session._totals(_called(('a', 'b')), {'a': _call(2.0), 'b': unknown})
  assert found['wall_clock_s'] is found['compute_s'] is None
  assert found['cost_usd'] == (None if unknown['cost_usd'] is None else 1.0)


def test_a_call_that_failed_at_once_took_no_time():
  assert session._totals(_called(('a',)), {'a': _call(failed_after_s=0.0)})['wall_clock_s'] == 0
