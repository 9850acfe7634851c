import numpy as np
import pytest

from selectllm.selection import constraints

REFERENCES = {
  'best_single': {'accuracy': 0.8, 'compute_seconds': 10.0, 'usd': 0.02},
  'all_llms': {'accuracy': 0.85, 'compute_seconds': 40.0, 'usd': None},
}
SETTINGS = [
  {'accuracy': 0.70, 'compute_seconds': 2.0, 'usd': 0.01, 'p95_wall_seconds': 5.0, 'query_compute_seconds': 2.0},
  {'accuracy': 0.82, 'compute_seconds': 8.0, 'usd': 0.02, 'p95_wall_seconds': 20.0, 'query_compute_seconds': 40.0},
  {'accuracy': 0.82, 'compute_seconds': 6.0, 'usd': 0.03, 'p95_wall_seconds': 25.0, 'query_compute_seconds': 30.0},
  {'accuracy': 0.90, 'compute_seconds': 20.0, 'usd': 0.05, 'p95_wall_seconds': 30.0, 'query_compute_seconds': None},
]


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('accuracy>=best_single', ('accuracy', None, 'best_single', False)),
    ('accuracy>=all_llms', ('accuracy', None, 'all_llms', False)),
    ('accuracy>=0.9', ('accuracy', 0.9, None, False)),
    ('accuracy>=1', ('accuracy', 1.0, None, False)),
    ('compute_seconds<=20', ('compute_seconds', 20.0, None, False)),
    ('compute_seconds<=35%', ('compute_seconds', 35.0, 'all_llms', True)),
    ('wall_seconds<=20', ('wall_seconds', 20.0, None, False)),
    ('wall_seconds<=35%', ('wall_seconds', 35.0, 'all_llms', True)),
    ('usd<=0.001', ('usd', 0.001, None, False)),
    ('usd<=1e-3', ('usd', 0.001, None, False)),
    ('usd<=2.5%', ('usd', 2.5, 'all_llms', True)),
    ('p95_wall_seconds<=30', ('p95_wall_seconds', 30.0, None, False)),
    ('query_compute_seconds<=.5', ('query_compute_seconds', 0.5, None, False)),
    ('none', ('none', None, None, False)),
  ],
)
def test_limits_are_read(text, expected):
  assert constraints.parse(text) == (*expected, text)
  spaced = f' {text} '.replace('<=', ' <= ').replace('%', ' %')
  assert constraints.parse(spaced) == (*expected, text)


@pytest.mark.parametrize(
  ('earlier', 'now'),
  [
    ('seconds<=35%', 'compute_seconds<=35%'),
    ('seconds <= 20', 'compute_seconds<=20'),
    ('p95_seconds<=30', 'p95_wall_seconds<=30'),
    ('query_seconds<=4', 'query_compute_seconds<=4'),
  ],
)
def test_earlier_names_are_read_as_todays(earlier, now):
  assert constraints.parse(earlier) == constraints.parse(now)
  assert constraints.parse(earlier).text == now


@pytest.mark.parametrize(
  'text',
  [
    '',
    'fast',
    'accuracy',
    'accuracy<=0.9',
    'accuracy>=90',
    'accuracy>=90%',
    'accuracy>=best_single%',
    'accuracy>=oracle',
    'accuracy>0.9',
    'seconds>=20',
    'compute_seconds<=-1',
    'compute_seconds<=0',
    'compute_seconds<=nan',
    'compute_seconds<=inf',
    'compute_seconds<=1.2.3',
    'compute_seconds<=all_llms',
    'compute_seconds<=20s',
    'p95_wall_seconds<=30%',
    'query_compute_seconds<=30%',
    'none<=3',
    'usd<=1 or none',
  ],
)
def test_what_is_no_limit_is_named_and_the_grammar_shown(text):
  with pytest.raises(ValueError, match='it must be accuracy>=X') as raised:
    constraints.parse(text)
  assert repr(text) in str(raised.value)
  assert 'p95_wall_seconds' in str(raised.value)


def test_a_target_is_the_number_that_a_limit_comes_to():
  for text, expected in (
    ('accuracy>=best_single', 0.8),
    ('accuracy>=0.9', 0.9),
    ('compute_seconds<=20', 20),
    ('compute_seconds<=35%', 14),
    ('usd<=10%', None),  # what all LLMs cost is unknown
    ('p95_wall_seconds<=30', 30),
    ('none', None),
  ):
    assert constraints.target(constraints.parse(text), REFERENCES) == expected


def _points(settings) -> list[constraints.Point]:
  """Operating points that are known as if from endless queries."""
  return [constraints.Point(means=means, spread={}, covariance={}, bounds={}, queries=1) for means in settings]


KNOWN = dict(zip(REFERENCES, _points(REFERENCES.values()), strict=True))


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('none', 3),
    ('compute_seconds<=20', 3),
    ('compute_seconds<=19.9', 2),  # the faster one of two equally accurate
    ('compute_seconds<=10%', 0),
    ('compute_seconds<=1', None),
    ('usd<=0.04', 1),  # the less expensive one of two equally accurate
    ('usd<=10%', None),
    ('p95_wall_seconds<=29', 1),
    ('query_compute_seconds<=100', 2),  # the most accurate one does not say
    ('accuracy>=best_single', 2),
    ('accuracy>=all_llms', 3),
    ('accuracy>=0.5', 0),
    ('accuracy>=0.95', None),
  ],
)
def test_the_setting_chosen_serves_the_limit_best(text, expected):
  assert constraints.choose(constraints.parse(text), _points(SETTINGS), KNOWN) == expected


def test_the_cheapest_is_so_in_what_is_paid():
  settings = [{**setting, 'compute_seconds': None} for setting in SETTINGS]
  limit = constraints.parse('accuracy>=best_single')
  assert constraints.choose(limit, _points(settings), KNOWN, cost_unit='usd') == 1
  assert constraints.choose(constraints.parse('compute_seconds<=20'), _points(settings), KNOWN) is None
  counted = [{'accuracy': 0.9, 'calls': 3.0}, {'accuracy': 0.85, 'calls': 2.0}]
  assert constraints.choose(limit, _points(counted), KNOWN, cost_unit='calls') == 1


def test_a_few_queries_all_right_are_no_proof_of_a_high_accuracy():
  limit, few = constraints.parse('accuracy>=0.99'), np.ones(30)
  point = _estimated(few, few, (few, few))
  assert constraints.choose(limit, [point], {'all_llms': point}, confidence=0.9, horizon=100) is None
  assert constraints.choose(limit, [point], {'all_llms': point}, confidence=0.5, horizon=100) == 0


def test_settings_of_unknown_accuracy_are_never_chosen():
  unknown = _points([{'accuracy': None, 'compute_seconds': 1.0}])
  assert constraints.choose(constraints.parse('none'), unknown, KNOWN) is None
  assert constraints.choose(constraints.parse('none'), [], KNOWN) is None


def _estimated(
  accuracy: np.ndarray, seconds: np.ndarray, reference: tuple[np.ndarray, np.ndarray]
) -> constraints.Point:
  """An operating point as estimated from values query by query, beside those of the reference `all_llms`."""
  values, others = ({'accuracy': of[0], 'compute_seconds': of[1]} for of in ((accuracy, seconds), reference))
  return constraints.Point(
    means={name: float(of.mean()) for name, of in values.items()},
    spread={name: float(of.std()) for name, of in values.items()},
    covariance={'all_llms': {name: float(np.cov(of, others[name], bias=True)[0, 1]) for name, of in values.items()}},
    bounds={},
    queries=len(accuracy),
  )


@pytest.mark.parametrize(
  'text', ['accuracy>=all_llms', 'accuracy>=0.78', 'compute_seconds<=52%', 'compute_seconds<=5.2']
)
def test_the_bound_holds_on_new_queries_as_often_as_is_said(text):
  limit, rng, known, new = constraints.parse(text), np.random.default_rng(0), 400, 100
  held = 0
  for _ in range(800):
    hard = rng.random(known + new)  # both methods err on the hard queries, and take long
    values = (hard < 0.81).astype(float), 10 * hard * rng.random(len(hard)) * 2
    reference = (hard + 0.1 * rng.normal(size=len(hard)) < 0.8).astype(float), 20 * hard
    part = slice(0, known)
    points = [
      _estimated(*(of[part] for of in pair), tuple(of[part] for of in reference)) for pair in (values, reference)
    ]
    margin = constraints.margin(limit, points[0], {'all_llms': points[1]}, confidence=0.9, horizon=new)
    # Moved by its margin the bound is just reached, and has to be kept nine times of ten.
    tested, target = values[limit.quantity != 'accuracy'][known:].mean(), limit.value or 0.0
    if limit.reference:
      target = reference[limit.quantity != 'accuracy'][known:].mean() * (limit.value / 100 if limit.percent else 1)
    gap = tested - target if limit.quantity == 'accuracy' else target - tested
    held += gap >= margin
  assert 0.86 < held / 800 < 0.94


def test_what_is_compared_with_itself_keeps_what_it_equals():
  rng = np.random.default_rng(0)
  values = (rng.random(50) < 0.5).astype(float), rng.random(50)
  point = _estimated(*values, values)
  for text in ('accuracy>=all_llms', 'compute_seconds<=100%'):
    chosen = constraints.choose(constraints.parse(text), [point], {'all_llms': point}, confidence=0.99, horizon=5)
    assert chosen == 0


def test_of_points_that_the_mean_alone_cannot_tell_apart_the_surer_one_is_chosen():
  rng = np.random.default_rng(0)
  steady, wild = np.full(100, 5.0), rng.exponential(4.9, 100)
  right = np.ones(100)
  points = [_estimated(right, of, (right, steady)) for of in (wild * 4.9 / wild.mean(), steady)]
  limit, references = constraints.parse('compute_seconds<=5'), {'all_llms': points[1]}
  assert constraints.choose(limit, points, references) == 0
  assert constraints.choose(limit, points, references, confidence=0.9, horizon=50) == 1


@pytest.mark.parametrize(
  ('text', 'value', 'interval', 'target', 'expected'),
  [
    ('accuracy>=0.9', 0.9, [0.88, 0.92], 0.9, (True, True)),
    ('accuracy>=0.9', 0.89, [0.87, 0.91], 0.9, (False, True)),
    ('accuracy>=0.9', 0.8, [0.78, 0.82], 0.9, (False, False)),
    ('accuracy>=best_single', 0.95, [0.93, 0.97], 0.8, (True, True)),
    ('compute_seconds<=20', 20, [19, 21], 20, (True, True)),
    ('compute_seconds<=20', 21, [19, 23], 20, (False, True)),
    ('compute_seconds<=20', 25, [24, 26], 20, (False, False)),
    ('compute_seconds<=35%', 5, [4, 6], 14, (True, True)),
    ('query_compute_seconds<=30', 31, None, 30, (False, False)),
    ('query_compute_seconds<=30', 30, None, 30, (True, True)),
    ('compute_seconds<=20', 21, [None, None], 20, (False, False)),
  ],
)
def test_a_limit_is_met_by_the_number_and_within_by_its_interval(text, value, interval, target, expected):
  limit = constraints.parse(text)
  test = {limit.quantity: value, f'{limit.quantity}_ci': interval}
  assert constraints.judge(limit, test, target) == expected


def test_no_limit_is_always_kept():
  assert constraints.judge(constraints.parse('none'), {}, None) == (True, True)


def test_what_was_not_tested_cannot_be_judged():
  with pytest.raises(ValueError, match='constraint usd<=3: nothing to judge by'):
    constraints.judge(constraints.parse('usd<=3'), {'compute_seconds': 3, 'usd': None}, 3)
