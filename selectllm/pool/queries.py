"""The queries that a pool is asked."""

import dataclasses


class QueryError(ValueError):
  """Queries that cannot be asked; the message names the file and line."""


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
  """One query.

  Attributes:
    query_id: Unique within its file.
    query: The text that the classifier reads.
    task: Name of the task or category.
    reference: The right answer in canonical form, None when unknown.
    fields: Further texts that a prompt template may name.
  """

  query_id: str
  query: str
  task: str = ''
  reference: str | None = None
  fields: dict[str, str] = dataclasses.field(default_factory=dict)

  def texts(self) -> dict[str, str]:
    """What a template may name."""
    return {**self.fields, 'query': self.query}
