import json

import pytest

from selectllm.client import endpoints
from selectllm.data import pool_file, queries
from tests.helpers import asking

QUERY = queries.Query('q', 'What is {this}?', fields={'subject': 'braces'})


def body(sample: int = 0, **changes: object) -> dict:
  endpoint = pool_file.Endpoint(**{'base_url': 'http://localhost:1/v1', 'api': 'chat', 'model': 'm', **changes})
  return json.loads(endpoints.Endpoint(pool_file.LLM('a', endpoint=endpoint)).request(QUERY, sample).body)


PROMPT = pool_file.Prompt('On {subject}: {query}', 'Be {{brief}}.', ({'subject': 's', 'query': 'q', 'answer': ' a'},))


def test_a_chat_gets_system_shots_and_question_as_turns():
  assert body(prompt=PROMPT)['messages'] == [
    {'role': 'system', 'content': 'Be {brief}.'},
    {'role': 'user', 'content': 'On s: q'},
    {'role': 'assistant', 'content': ' a'},
    {'role': 'user', 'content': 'On braces: What is {this}?'},
  ]


def test_a_completion_gets_one_text():
  assert body(api='completions', prompt=PROMPT)['prompt'] == 'Be {brief}.\n\nOn s: q a\n\nOn braces: What is {this}?'


def test_sampling_reaches_the_server_and_each_sample_has_its_seed():
  sampling = pool_file.Sampling(temperature=0.0, max_tokens=5, stop=('x',), seed=7, extra={'top_k': 3})
  sent = body(sample=2, sampling=sampling)
  del sent['messages']
  assert sent == {'model': 'm', 'temperature': 0.0, 'max_tokens': 5, 'stop': ['x'], 'top_k': 3, 'seed': 9}


def test_an_identity_depends_on_everything_that_the_response_does_and_on_nothing_else():
  def identity(name='a', sample=0, query=QUERY, **changes):
    fields = {'base_url': 'http://localhost:1/v1', 'api': 'chat', 'model': 'm', **changes}
    return (
      endpoints.Endpoint(pool_file.LLM(name, endpoint=pool_file.Endpoint(**fields))).request(query, sample).identity
    )

  different = [
    identity(),
    identity(name='b'),
    identity(sample=1),
    identity(api='completions'),
    identity(model='n'),
    identity(query=queries.Query('q', 'Else?')),
    identity(prompt=pool_file.Prompt('Q: {query}')),
    identity(sampling=pool_file.Sampling(temperature=0.1)),
  ]
  assert len(set(different)) == len(different)
  assert identity() == identity(base_url='http://elsewhere/v1', limits=pool_file.Limits(concurrency=1))
  assert identity() == identity(query=queries.Query('other', QUERY.query))


@pytest.mark.parametrize(
  ('url', 'said'),
  [('ftp://x/v1', 'http'), ('http://me:secret@x/v1', 'may hold a key'), ('http://x/v1?key=secret', 'may hold a key')],
)
def test_a_base_url_with_a_key_is_refused_and_not_shown(tmp_path, url, said):
  asking.write_pool(tmp_path / 'pool.yaml', {'a': url})
  with pytest.raises(pool_file.PoolError, match=said) as refused:
    pool_file.read_pool(tmp_path / 'pool.yaml')
  assert 'secret' not in str(refused.value)


def test_a_key_in_the_pool_file_is_refused_and_not_shown(tmp_path):
  asking.write_pool(tmp_path / 'pool.yaml', {'a': 'http://x/v1'})
  text = (tmp_path / 'pool.yaml').read_text()
  for line, said in (('api_key_env: sk-secret', 'not the key'), ('api_key: sk-secret', "did you mean 'api_key_env'")):
    (tmp_path / 'pool.yaml').write_text(text.replace('api: chat', f'api: chat\n    {line}'))
    with pytest.raises(pool_file.PoolError, match=said) as refused:
      pool_file.read_pool(tmp_path / 'pool.yaml')
    assert 'secret' not in str(refused.value)


def test_a_shot_needs_the_fields_of_the_template(tmp_path):
  asking.write_pool(tmp_path / 'pool.yaml', {'a': 'http://x/v1'})
  text = (tmp_path / 'pool.yaml').read_text().replace('user: ', 'few_shot: [{query: x}]\n      user: ')
  (tmp_path / 'pool.yaml').write_text(text)
  with pytest.raises(pool_file.PoolError, match=r'few_shot\[0\] lacks answer'):
    pool_file.read_pool(tmp_path / 'pool.yaml')
