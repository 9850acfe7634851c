import pytest

from selectllm.data import grade_audit
from selectllm.evaluate import overlooked


def audit(wrong, suspicious):
  return overlooked.summarise(grade_audit.Audit(wrong, tuple((row, 0) for row in range(suspicious))))


def test_a_share_has_wilson_s_interval():
  found = audit(145, 75)
  assert found.share == pytest.approx(75 / 145)
  assert found.share_ci == pytest.approx((0.437, 0.597), abs=0.001)


def test_without_wrong_responses_nothing_is_known():
  found = audit(0, 0)
  assert (found.wrong, found.share, found.share_ci) == (0, None, (None, None))
  assert overlooked.warning('a', found) == ''


def test_only_what_is_often_so_among_enough_responses_is_warned_of():
  assert '52 % of its 145 responses' in overlooked.warning('a', audit(145, 75))
  assert overlooked.warning('a', audit(145, 29)) == ''  # 20 % just
  assert overlooked.warning('a', audit(19, 19)) == ''
  assert overlooked.warning('a', None) == ''
