"""Grade-school word problems made from a seed: what the mini pool was asked, and any number of fresh ones.

  python -m tools.mini_pool_questions > recorded.jsonl
  python -m tools.mini_pool_questions --seed=7 --count=20 > fresh.jsonl

A family is a structure: one to four steps of arithmetic, put in several phrasings, with other people, things and
numbers each time. A quarter of the questions also tell something that has nothing to do with the answer.
"""

import argparse
import collections.abc
import itertools
import random
import sys
from typing import NamedTuple

import orjson

from selectllm.data.extractors import first_versions

_NAMES = [
  'Ada', 'Ben', 'Carla', 'Dev', 'Elif', 'Finn', 'Grace', 'Hugo', 'Ines', 'Jonas', 'Kira', 'Liam', 'Mona', 'Nils',
  'Olga', 'Paul', 'Rosa', 'Sami', 'Tara', 'Uwe', 'Vera', 'Will', 'Yara', 'Zoe'
]  # fmt: skip
_THINGS = [
  'apples', 'books', 'buttons', 'cards', 'coins', 'cookies', 'marbles', 'mugs', 'pears', 'pencils', 'shells',
  'stamps', 'stickers', 'tickets'
]  # fmt: skip
_GOODS = [  # with a plural in s
  'ball', 'candle', 'cap', 'lamp', 'notebook', 'pen', 'plant', 'poster', 'puzzle', 'toy'
]  # fmt: skip


# The questions of the recording.
SEED, COUNT = 2408, 900
# A family that finds no new question so often in a row has no more.
_TRIES = 1000


class Problem(NamedTuple):
  """A word problem.

  Attributes:
    facts: What is told.
    asks: The question itself.
    calculation: What gives the answer.
  """

  facts: str
  asks: str
  calculation: str


class Draw:
  """Draws what varies within a family, from one generator of random numbers."""

  def __init__(self, rng: random.Random):
    self._rng = rng
    self.pick = rng.choice

  def number(self, least: int, most: int, step: int = 1) -> int:
    """Draws a multiple of `step` from `least`, itself one, to `most`."""
    return self._rng.randrange(least, most + 1, step)

  def names(self, count: int) -> list[str]:
    """Draws different first names."""
    return self._rng.sample(_NAMES, count)

  def things(self, count: int) -> list[str]:
    """Draws different plurals."""
    return self._rng.sample(_THINGS, count)

  def goods(self, count: int) -> list[str]:
    """Draws different things to buy, in the singular."""
    return self._rng.sample(_GOODS, count)

  def aside(self) -> str:
    """Draws, in one of four cases, a sentence that does not matter, else nothing."""
    if self.number(1, 4) > 1:
      return ''
    (who,), number = self.names(1), self.number(3, 20)
    return self.pick([
      f'It is a sunny day, and {who} is singing. ',
      f'The school is {number} minutes away. ',
      f'The dog of {who} is {number} months old. ',
      f'There are {number} children in the class. ',
      f'Last year there were {number} rainy days in May. ',
      f'{who} lives at number {number}. ',
    ])  # fmt: skip


def _sum(draw: Draw) -> Problem:
  (one, two), (thing,), first, second = draw.names(2), draw.things(1), draw.number(2, 30), draw.number(2, 30)
  facts = draw.pick([
    f'{one} has {first} {thing} and {two} has {second} {thing}.',
    f'{one} found {first} {thing} in the morning and {second} more {thing} in the afternoon.',
    f'There are {first} {thing} on the table and {second} {thing} on the shelf.',
  ])  # fmt: skip
  asks = [f'How many {thing} is that in total?', f'How many {thing} are there?']
  return Problem(facts, draw.pick(asks), f'{first} + {second}')


def _difference(draw: Draw) -> Problem:
  (one, two), (thing,), rest, less = draw.names(2), draw.things(1), draw.number(2, 20), draw.number(2, 15)
  facts = draw.pick([
    f'{one} had {rest + less} {thing} and gave {less} of them to {two}.',
    f'There were {rest + less} {thing} in a box. {one} took out {less} of them.',
    f'{one} had {rest + less} {thing}, but lost {less} of them on the way home.',
  ])  # fmt: skip
  asks = [f'How many {thing} are left?', f'How many {thing} remain?']
  return Problem(facts, draw.pick(asks), f'{rest + less} - {less}')


def _groups(draw: Draw) -> Problem:
  (one,), (thing,), groups, each = draw.names(1), draw.things(1), draw.number(2, 9), draw.number(2, 12)
  facts = draw.pick([
    f'{one} has {groups} bags with {each} {thing} in each bag.',
    f'There are {groups} boxes, and each box holds {each} {thing}.',
    f'{one} makes {groups} rows of {each} {thing}.',
  ])  # fmt: skip
  asks = [f'How many {thing} are there in all?', f'What is the number of {thing}?']
  return Problem(facts, draw.pick(asks), f'{groups} * {each}')


def _sharing(draw: Draw) -> Problem:
  (one,), (thing,), people, each = draw.names(1), draw.things(1), draw.number(2, 6), draw.number(2, 10)
  facts = draw.pick([
    f'{one} shares {people * each} {thing} equally among {people} children.',
    f'{people * each} {thing} are divided equally among {people} friends.',
    f'{one} puts {people * each} {thing} into {people} bags, the same number into each.',
  ])  # fmt: skip
  asks = [f'How many {thing} are in one part?', f'How many {thing} is that for each?']
  return Problem(facts, draw.pick(asks), f'{people * each} / {people}')


def _change(draw: Draw) -> Problem:
  (one,), (goods,), price, count = draw.names(1), draw.goods(1), draw.number(2, 6), draw.number(2, 6)
  paid = next(note for note in (10, 20, 50) if note > price * count)
  facts = draw.pick([
    f'{one} has a ${paid} note and buys {count} {goods}s. Each {goods} costs ${price}.',
    f'{one} has ${paid} and buys {count} {goods}s for ${price} each.',
    f'With ${paid} in the pocket {one} goes out and buys {count} {goods}s that cost ${price} each.',
  ])  # fmt: skip
  asks = [f'How many dollars does {one} have left?', f'How many dollars does {one} still have?']
  return Problem(facts, draw.pick(asks), f'{paid} - {count} * {price}')


def _comparison(draw: Draw) -> Problem:
  (one, two), (thing,), first, more = draw.names(2), draw.things(1), draw.number(3, 20), draw.number(2, 10)
  facts = draw.pick([
    f'{one} has {first} {thing}. {two} has {more} more {thing} than {one}.',
    f'{one} collected {first} {thing}, and {two} collected {more} more than {one}.',
    f'{one} has {first} {thing}, which is {more} fewer than {two} has.',
  ])  # fmt: skip
  asks = [f'How many {thing} do they have together?', f'How many {thing} do {one} and {two} have in all?']
  return Problem(facts, draw.pick(asks), f'{first} + {first} + {more}')


def _bus(draw: Draw) -> Problem:
  start, leave, board = draw.number(10, 30), draw.number(2, 9), draw.number(2, 9)
  vehicle, place = draw.pick([('bus', 'stop'), ('train', 'station'), ('ferry', 'pier')])
  facts = draw.pick([
    f'There are {start} people on a {vehicle}. At the next {place} {leave} people get off and {board} get on.',
    f'A {vehicle} leaves with {start} people on board. '
    f'At the first {place} {leave} of them leave and {board} others board.',
    f'Of the {start} people on a {vehicle} {leave} get off at the {place}, then {board} others get on.',
  ])  # fmt: skip
  return Problem(facts, f'How many people are on the {vehicle} now?', f'{start} - {leave} + {board}')


def _wages(draw: Draw) -> Problem:
  (one,), rate, hours, days = draw.names(1), draw.number(5, 12), draw.number(2, 6), draw.number(2, 5)
  facts = draw.pick([
    f'{one} earns ${rate} an hour and works {hours} hours a day for {days} days.',
    f'For each hour of work {one} is paid ${rate}. {one} works {hours} hours a day on {days} days.',
    f'At ${rate} per hour, {one} worked {hours} hours on each of {days} days.',
  ])  # fmt: skip
  asks = [f'How many dollars does {one} earn?', 'What is the total pay in dollars?']
  return Problem(facts, draw.pick(asks), f'{rate} * {hours} * {days}')


def _half_or_double(draw: Draw) -> Problem:
  (one, two), (thing,), half = draw.names(2), draw.things(1), draw.number(2, 12)
  many, sign = draw.pick([('twice', '*'), ('half', '/')])
  facts = draw.pick([
    f'{one} has {2 * half} {thing}. {two} has {many} as many as {one}.',
    f'{one} owns {2 * half} {thing}, and {two} owns {many} as many.',
  ])  # fmt: skip
  return Problem(facts, f'How many {thing} do they have together?', f'{2 * half} + {2 * half} {sign} 2')


def _discount(draw: Draw) -> Problem:
  (one,), (goods,), percent, price = draw.names(1), draw.goods(1), draw.pick([10, 20, 25, 50]), draw.number(20, 100, 20)
  facts = draw.pick([
    f'A {goods} costs ${price}. Today it is {percent}% cheaper.',
    f'{one} wants a {goods} that costs ${price}, and there is a discount of {percent}%.',
    f'The price of a {goods} was ${price} before it was reduced by {percent}%.',
  ])  # fmt: skip
  asks = ['What is the new price in dollars?', 'How many dollars does it cost now?']
  return Problem(facts, draw.pick(asks), f'{price} - {price} * {percent} / 100')


def _rectangle(draw: Draw) -> Problem:
  (one,), wide, long = draw.names(1), draw.number(2, 8), draw.number(4, 12)
  place = draw.pick(['garden', 'field', 'yard', 'playground'])
  facts = draw.pick([
    f'A rectangular {place} is {long} meters long and {wide} meters wide.',
    f'{one} has a rectangular {place} with sides of {long} meters and {wide} meters.',
  ])  # fmt: skip
  if draw.pick([True, False]):
    asks = ['What is its area in square meters?', 'How many square meters is it?']
    return Problem(facts, draw.pick(asks), f'{long} * {wide}')
  asks = ['What is its perimeter in meters?', 'How many meters of fence go all around it?']
  return Problem(facts, draw.pick(asks), f'2 * ({long} + {wide})')


def _age(draw: Draw) -> Problem:
  (one, two), young, times, years = draw.names(2), draw.number(3, 10), draw.number(2, 4), draw.number(2, 9)
  facts = draw.pick([
    f'{one} is {young} years old. {two} is {times} times as old as {one}.',
    f'{one} is {young}, and {two} is {times} times as old.',
  ])  # fmt: skip
  return Problem(facts, f'How old will {two} be in {years} years?', f'{young} * {times} + {years}')


def _minutes(draw: Draw) -> Problem:
  (one,), hours, minutes, more = draw.names(1), draw.number(2, 4), draw.number(5, 30, 5), draw.number(5, 25, 5)
  facts = draw.pick([
    f'{one} reads for {hours} hours and {minutes} minutes, then writes for {more} minutes.',
    f'A film lasts {hours} hours and {minutes} minutes. Before it there are {more} minutes of advertisements.',
    f'{one} rides a bike for {hours} hours and {minutes} minutes and then walks for {more} minutes.',
  ])  # fmt: skip
  return Problem(facts, 'How many minutes is that in total?', f'{hours} * 60 + {minutes} + {more}')


def _leftover(draw: Draw) -> Problem:
  (one,), (thing,), size, boxes = draw.names(1), draw.things(1), draw.number(3, 8), draw.number(2, 6)
  count = size * boxes + draw.number(1, size - 1)
  facts = draw.pick([
    f'{one} has {count} {thing} and fills {boxes} boxes with {size} {thing} each.',
    f'Of {count} {thing} {one} puts {size} into each of {boxes} boxes.',
  ])  # fmt: skip
  return Problem(facts, f'How many {thing} are left over?', f'{count} - {boxes} * {size}')


def _average(draw: Draw) -> Problem:
  (one,), mean, low, high = draw.names(1), draw.number(6, 15), draw.number(1, 5), draw.number(1, 5)
  first, second, third = mean - low, mean + high, mean + low - high
  facts = draw.pick([
    f'{one} scored {first}, {second} and {third} points in three games.',
    f'{one} ran {first}, {second} and {third} miles in three weeks.',
    f'{one} read {first}, {second} and {third} pages on three days.',
  ])  # fmt: skip
  asks = ['What is the average?', 'What is the mean of these numbers?']
  return Problem(facts, draw.pick(asks), f'({first} + {second} + {third}) / 3')


def _recipe(draw: Draw) -> Problem:
  (one,), people, each, times = draw.names(1), draw.number(2, 4), draw.number(2, 5), draw.number(2, 5)
  food = draw.pick(['spoons of sugar', 'cups of rice', 'eggs', 'grams of salt'])
  facts = draw.pick([
    f'A recipe for {people} people needs {people * each} {food}.',
    f'To cook for {people} people {one} uses {people * each} {food}.',
  ])  # fmt: skip
  asks = f'How many {food} are needed for {people * times} people?'
  return Problem(facts, asks, f'{people * each} / {people} * {people * times}')


def _savings(draw: Draw) -> Problem:
  (one,), start, weekly, weeks = draw.names(1), draw.number(5, 30), draw.number(2, 10), draw.number(2, 6)
  spent = draw.number(2, start + weekly * weeks - 1)
  facts = draw.pick([
    f'{one} has ${start} and saves ${weekly} a week for {weeks} weeks. Then {one} spends ${spent}.',
    f'Starting with ${start}, {one} adds ${weekly} a week for {weeks} weeks, then takes out ${spent}.',
  ])  # fmt: skip
  return Problem(facts, f'How many dollars does {one} have then?', f'{start} + {weekly} * {weeks} - {spent}')


def _basket(draw: Draw) -> Problem:
  (one,), (goods, other) = draw.names(1), draw.goods(2)
  count, price, other_count, other_price = (draw.number(2, 6) for _ in range(4))
  coupon = draw.pick([0, draw.number(1, 5)])
  facts = draw.pick([
    f'{one} buys {count} {goods}s at ${price} each and {other_count} {other}s at ${other_price} each.',
    f'{one} takes {count} {goods}s for ${price} each and {other_count} {other}s for ${other_price} each.',
  ])  # fmt: skip
  facts += f' A coupon takes ${coupon} off the bill.' if coupon else ''
  asks = [f'How many dollars does {one} pay?', 'What does it cost in dollars?']
  bill = f'{count} * {price} + {other_count} * {other_price}'
  return Problem(facts, draw.pick(asks), f'{bill} - {coupon}' if coupon else bill)


FAMILIES: dict[str, collections.abc.Callable[[Draw], Problem]] = {
  'sum': _sum,
  'difference': _difference,
  'groups': _groups,
  'sharing': _sharing,
  'change': _change,
  'comparison': _comparison,
  'bus': _bus,
  'wages': _wages,
  'half_or_double': _half_or_double,
  'discount': _discount,
  'rectangle': _rectangle,
  'age': _age,
  'minutes': _minutes,
  'leftover': _leftover,
  'average': _average,
  'recipe': _recipe,
  'savings': _savings,
  'basket': _basket,
}


def generate(seed: int, count: int) -> collections.abc.Iterator[dict[str, str]]:
  """Yields `count` different questions as `selectllm.data.queries` reads them, the families taking turns.

  The first questions of a seed are the same whatever the count.

  Raises:
    ValueError: when a family has no more questions.
  """
  draws = {family: Draw(random.Random(f'{seed}/{family}')) for family in FAMILIES}
  seen: set[str] = set()
  for position, family in zip(range(count), itertools.cycle(FAMILIES)):
    round_ = position // len(FAMILIES)
    for _ in range(_TRIES):
      problem = FAMILIES[family](draws[family])
      text = f'{draws[family].aside()}{problem.facts} {problem.asks}'
      if text not in seen:
        break
    else:
      raise ValueError(f'the family {family} has no more than {round_} questions; {count} questions are too many')
    seen.add(text)
    reference = first_versions.calculation(problem.calculation)
    if reference is None:
      raise ValueError(f'{problem.calculation} of the family {family} is no calculation')
    yield {'query_id': f'{seed}/{family}/{round_}', 'query': text, 'task': family, 'reference': reference}


def main() -> None:
  """Prints questions as JSON lines."""
  parser = argparse.ArgumentParser(description='Prints grade-school word problems as JSON lines.')
  parser.add_argument('--seed', type=int, default=SEED, help=f'another seed gives other questions; {SEED} by default')
  parser.add_argument('--count', type=int, default=COUNT, help=f'how many; {COUNT} by default')
  options = parser.parse_args()
  for question in generate(options.seed, options.count):
    sys.stdout.buffer.write(orjson.dumps(question, option=orjson.OPT_APPEND_NEWLINE))


if __name__ == '__main__':
  main()
