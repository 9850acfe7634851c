"""Checks options and plans calls before the first one is made: whatever would fail later is refused now."""

import collections.abc
import dataclasses

import ml_collections

from selectllm.client import endpoints, store
from selectllm.data import grading, pool_file, queries


def check_positive(options: ml_collections.ConfigDict, section: str, *names: str) -> None:
  """Raises `pool_file.PoolError` unless these fields are at least 1."""
  for name in names:
    if options[name] < 1:
      raise pool_file.PoolError(f'{section}.{name} must be at least 1, not {options[name]}')


def extractor(field: str, name: str) -> grading.Extractor:
  """Returns the extractor that a config field names; raises `queries.QueryError` when there is none."""
  try:
    return grading.get_extractor(name)
  except ValueError as error:
    raise queries.QueryError(f'{field}: {error}') from error


def own_extractors(llms: collections.abc.Iterable[pool_file.LLM]) -> dict[str, grading.Extractor]:
  """Returns LLM -> extractor, for the LLMs whose endpoint names one of its own."""
  return {
    llm.name: grading.get_extractor(llm.endpoint.extractor) for llm in llms if llm.endpoint and llm.endpoint.extractor
  }


def refuse(problems: list[str]) -> None:
  """Raises `pool_file.PoolError` with all problems at once, where there are any."""
  if problems:
    raise pool_file.PoolError('nothing was asked, because\n' + '\n'.join(f'  {problem}' for problem in problems))


@dataclasses.dataclass(slots=True)
class Plan:
  """The calls that are to be made to one LLM.

  Attributes:
    wanted: Responses that the collection is to hold.
    calls: Those that it does not hold yet.
    prompt_tokens: Of these calls, estimated.
    completion_tokens: Of these calls, at most; None when they have no limit.
    cost_usd: Of these calls, at most; None when the LLM has no price or no limit.
  """

  wanted: int = 0
  calls: int = 0
  prompt_tokens: int = 0
  completion_tokens: int | None = 0
  cost_usd: float | None = None


def plan_calls(
  llms: list[pool_file.LLM], asked: list[queries.Query], samples: int, recorded: store.Collection
) -> tuple[dict[str, Plan], list[str]]:
  """Returns the plan of each LLM, and what is wrong with any of them: everything that shows before a call is made.

  Raises:
    store.CollectionError: recorded answers were asked for differently.
  """
  plans, problems = {}, []
  for llm in llms:
    try:
      endpoint = endpoints.Endpoint(llm)
      recorded.check_llm(llm.name, endpoint.spec.identity())
      plans[llm.name], problem = _plan(endpoint, asked, samples, recorded)
    except pool_file.PoolError as error:
      problem = str(error)
    problems += [problem] if problem else []
  return plans, problems


def _plan(
  endpoint: endpoints.Endpoint, asked: list[queries.Query], samples: int, recorded: store.Collection
) -> tuple[Plan, str | None]:
  plan, longest = Plan(wanted=len(asked) * samples), (0, '')
  fresh = not recorded.answered[endpoint.llm.name]
  most = endpoint.spec.sampling.max_tokens
  for query in asked:
    request = endpoint.request(query, 0)
    calls = samples
    if not fresh:
      calls = sum(not recorded.holds(endpoint.request(query, sample).identity) for sample in range(samples))
    plan.calls += calls
    plan.prompt_tokens += calls * request.prompt_tokens
    longest = max(longest, (request.max_tokens, query.query_id))
  plan.completion_tokens = None if most is None else plan.calls * most
  if plan.completion_tokens is not None:
    plan.cost_usd = endpoint.llm.cost_usd(plan.prompt_tokens, plan.completion_tokens)
  context = endpoint.spec.context_tokens
  if context is None or longest[0] <= context:
    return plan, None
  return plan, (
    f'{endpoint.llm.name!r}: query {longest[1]!r} needs about {longest[0]:,} tokens (4 bytes each, '
    f'{most or 0:,} of them for the response), its context holds {context:,}'
  )
