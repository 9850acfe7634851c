"""Labels without references: the pool's own weighted vote stands in for the right answer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from selectllm.data import dataset, splits
from selectllm.selection import voting

# The weights of GSM8K's and MMLU-Pro's pools stand still after five.
_ROUNDS = 10
# Queries whose LLMs x LLMs comparisons are held at once.
_BLOCK = 4096


class _Counts(NamedTuple):
  """Counts of how the LLMs' answers to N queries agree, under weights for their votes.

  Attributes:
    agreed: float32[N, K], 1 where the vote of the others elects the LLM's answer, and 0.5 where it is a tie.
    asked: float32[N, K], 1 where the LLM was asked and any other has an answer.
    alike: float32[N], pairs of LLMs that differ from the elected answer and give the same one.
    apart: float32[N], pairs that differ from it and from each other.
  """

  agreed: jax.Array
  asked: jax.Array
  alike: jax.Array
  apart: jax.Array


def _elect(own: jax.Array, weight: jax.Array) -> jax.Array:
  """Elects the answer, int32[], of majority answers int32[K]; a tie goes to the LLM that comes first."""
  return voting.vote(own[:, None], own != voting.NO_ANSWER, weight, jnp.zeros_like(weight))


def _count(own: jax.Array, observed: jax.Array, weight: jax.Array) -> _Counts:
  """Counts for one query, from majority answers int32[K]."""
  given = own != voting.NO_ANSWER
  same = (own[:, None] == own) & given[:, None] & given
  support = same @ weight
  # Each LLM is held against the vote of the others: with its own vote counted, the heaviest LLM would always be right.
  backed = support - weight
  strongest = jnp.max(jnp.where(given & ~same, support, 0.0), axis=-1)
  others = jnp.sum(given) > given
  agreed = jnp.where(given, jnp.heaviside(backed - strongest, 0.5), 0.0)
  differs = given & (own != _elect(own, weight))
  pairs = jnp.triu(differs[:, None] & differs, k=1)
  return _Counts(
    agreed=agreed * (observed & others),
    asked=(observed & others).astype(jnp.float32),
    alike=jnp.sum(pairs & same, dtype=jnp.float32),
    apart=jnp.sum(pairs & ~same, dtype=jnp.float32),
  )


def _counts(own: jax.Array, observed: jax.Array, weight: jax.Array) -> _Counts:
  return jax.lax.map(lambda query: _count(query[0], query[1], weight), (own, observed), batch_size=_BLOCK)


@jax.jit
def _weigh(own: jax.Array, observed: jax.Array) -> jax.Array:
  """Weighs each LLM's vote, float32[K], from majority answers int32[N, K] alone."""

  def again(weight: jax.Array, _: None) -> tuple[jax.Array, None]:
    agreed, asked, alike, apart = (count.sum(axis=0) for count in _counts(own, observed, weight))
    right = (agreed + 1) / (asked + 2)
    coincide = (alike + 1) / (alike + apart + 2)
    # Never against its own answer: a vote that does feeds on itself until it elects what nobody else says.
    return jnp.maximum(jnp.log(right / (1 - right)) - jnp.log(coincide), 0.0), None

  return jax.lax.scan(again, jnp.ones(own.shape[1]), length=_ROUNDS)[0]


def _own(responses: dataset.Responses) -> np.ndarray:
  """Returns the majority answers of observed LLMs, int32[N, K]."""
  return np.where(responses.observed, responses.majority, voting.NO_ANSWER).astype(np.int32)


def pseudo_reference(responses: dataset.Responses) -> np.ndarray:
  """Elects the answers of all LLMs together, each weighted by how far the others bear it out.

  Dawid and Skene's estimate (1979) with one parameter for each LLM, from hard votes. It begins with the plain vote of
  the LLMs' majority answers; then weights follow from agreement, and agreement from weights, for some rounds. A weight
  is log(p / (1 - p)) - log(c), where p is how often the vote of the *other* LLMs elects the LLM's answer and c how
  often two LLMs that both differ from the elected answer give the same one. Were c left out, as if there were two
  answers to choose from, LLMs that are seldom right would vote against themselves.

  Args:
    responses: N queries with answers; neither references nor labels are looked at.

  Returns:
    int16[N], ids as in `data.answers`; `voting.NO_ANSWER` where no LLM has an answer.
  """
  own = _own(responses)
  return np.asarray(jax.jit(jax.vmap(_elect, in_axes=(0, None)))(own, _weigh(own, responses.observed)), np.int16)


def relabel(data: dataset.Dataset, rows: np.ndarray) -> dataset.Dataset:
  """Puts the pool's agreement in the place of references and labels.

  Args:
    data: N queries.
    rows: bool[N], where; also all that the agreement's weights are made from.

  Returns:
    The table. A query without a reference, given or agreed, is unobserved: nobody knows who is right, so it is neither
    learned from nor counted.

  Raises:
    ValueError: for scores, which cannot agree.
  """
  responses = data.responses
  if not responses.has_answers:
    raise ValueError(
      f'config.dataset.labels=agreement, but {data.name} holds scores, and only answers can agree; scores are labels '
      'themselves: --config.dataset.labels=reference'
    )
  accepted = responses.accepted.copy()
  accepted[rows] = voting.NO_ANSWER
  accepted[rows, 0] = pseudo_reference(responses.rows(rows))
  known = (accepted != voting.NO_ANSWER).any(1)[:, None]
  labels = dataset.is_right(responses.majority, accepted[:, None])
  return data._replace(
    responses=responses._replace(
      accepted=accepted, labels=labels.astype(np.float32), observed=responses.observed & known
    )
  )


def _to_learn_from(responses: dataset.Responses, rows: np.ndarray) -> dataset.Responses:
  """Labels the queries `rows`, bool[N], by whether the vote of the *other* LLMs bears an LLM out; 0.5 is a tie.

  What an LLM's own vote decides says nothing about it. Where no other LLM has an answer, it counts as unobserved.
  """
  labels, observed = responses.labels.copy(), responses.observed.copy()
  own = _own(responses.rows(rows))
  counts = jax.jit(_counts)(own, observed[rows], _weigh(own, observed[rows]))
  labels[rows], observed[rows] = np.asarray(counts.agreed), np.asarray(counts.asked) > 0
  return responses._replace(labels=labels, observed=observed)


def label(data: dataset.Dataset, split: np.ndarray) -> dataset.Dataset:
  """Labels train and validation by the pool's agreement, and test by the references; if it has none, likewise.

  Args:
    data: N queries.
    split: int8[N], see `splits.assign`.

  Returns:
    The table, with notes that say what its labels are. As from `relabel`, but that on train and validation an LLM is
    labelled by the vote of the others: what is learned from that chooses better.

  Raises:
    ValueError: for scores.
  """
  truth = (data.responses.accepted != voting.NO_ANSWER).any(1)
  test, learned = split == splits.TEST, np.isin(split, (splits.TRAIN, splits.VALIDATION))
  judged = bool((test & truth).any())
  labelled = relabel(data, learned if judged else learned | test)
  labelled = labelled._replace(responses=_to_learn_from(labelled.responses, learned))
  known = learned & truth
  right = dataset.is_right(labelled.responses.accepted[known, 0], data.responses.accepted[known])
  note = (
    f"On {learned.sum():,} train and validation queries the pool's own weighted vote stands in for the reference "
    '(config.dataset.labels=agreement)'
    + (
      f'; it is right on {right.mean():.1%} of the {known.sum():,} whose reference is known. ' if known.any() else '. '
    )
  )
  if judged:
    note += 'All that is said of these queries is agreement with that vote. Test queries are judged by their references'
    note += f'; the {absent:,} without are not counted.' if (absent := int((test & ~truth).sum())) else '.'
    return labelled._replace(notes=(*labelled.notes, note))
  warning = (
    'NO REFERENCES: every accuracy in this report, also on test, is agreement with the vote of the pool itself, not '
    'truth. The vote of all LLMs looks nearly perfect by it, whatever it is worth, and an LLM that is right where most '
    'others are wrong looks wrong. Give some test queries a reference to learn what is true.'
  )
  name = f"{labelled.name}, judged by the pool's own vote"
  return labelled._replace(name=name, notes=(warning, *labelled.notes, note))
