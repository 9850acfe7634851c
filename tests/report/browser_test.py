import html.parser
import json

import pytest

from selectllm.report import browser

NASTY = [
  '</script><script>alert(1)</script>',
  '<!-- <script> <![CDATA[ ]]> -->',
  '& &lt; &amp;amp; " \' ` ${x} {{title}} {{data}}',
  'line\u2028separator\u2029 \x00 \x1b tab\t \r\n',
  'unpaired \ud800 surrogate, emoji 🦙, עברית',
  '\\u003c \\\\ \\n',
]


def _listed(texts):
  llm = {'confidence': 0.5, 'answers': [[texts[0], 2]], 'right': 1.0, 'called': True, 'weight': 0.5}
  return {
    'policy': 'weighted_max_conf', 'sizes': [1], 'llms': ['a<b'], 'tasks': ['</script>'], 'votes': True, 'tested': 9,
    'queries': [
      {'id': str(n), 'query': text, 'task': 0, 'references': [text], 'llms': [llm], 'tally': [[text, 0.5]],
       'elected': text, 'right': 1.0, 'oracle': 1.0}
      for n, text in enumerate(texts)
    ],
  }  # fmt: skip


class _Page(html.parser.HTMLParser):
  """Collects elements, what stands in them, and what they link to."""

  VOID = ('meta', 'input', 'link', 'br', 'img')

  def __init__(self, text: str):
    super().__init__()
    self.tags, self.open, self.texts, self.ids, self.links = [], [], {}, set(), []
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attrs):
    attributes = dict(attrs)
    self.tags.append(tag)
    self.links += [value for name, value in attrs if name in ('src', 'href', 'action')]
    if 'id' in attributes:
      assert attributes['id'] not in self.ids
      self.ids.add(attributes['id'])
    if tag not in self.VOID:
      self.open.append((tag, attributes.get('id', '')))

  def handle_endtag(self, tag):
    assert self.open[-1][0] == tag
    self.open.pop()

  def handle_data(self, data):
    if self.open:
      key = self.open[-1][1] or self.open[-1][0]
      self.texts[key] = self.texts.get(key, '') + data


def test_the_data_survive_whatever_the_queries_hold():
  listed = _listed(NASTY)
  page = _Page(browser.page('Sums', listed))
  assert page.open == []
  assert page.tags.count('script') == 2
  assert json.loads(page.texts['data']) == listed


@pytest.mark.parametrize('title', ['A < B & "C"', '{{data}}', '</title><script>alert(1)</script>'])
def test_the_title_is_shown_as_it_is(title):
  page = _Page(browser.page(title, _listed(['x'])))
  assert page.texts['h1'] == title
  assert page.texts['title'] == f'Queries of {title}'
  assert page.tags.count('script') == 2


def test_the_page_needs_no_other(tmp_path):
  browser.write(tmp_path / 'queries.html', 'Sums', _listed(NASTY))
  text = (tmp_path / 'queries.html').read_text(encoding='utf-8')
  page = _Page(text)
  assert page.links == []
  assert not {'link', 'img', 'iframe', 'object'} & set(page.tags)
  assert 'url(' not in text
  assert '@import' not in text
  assert text.startswith('<!doctype html>')


def test_texts_are_never_made_html_by_the_script():
  script = _Page(browser.page('Sums', _listed(['x']))).texts['script']
  for word in ('innerHTML', 'outerHTML', 'insertAdjacentHTML', 'document.write', 'eval('):
    assert word not in script
  # All that the script looks for is there.
  page = _Page(browser.page('Sums', _listed(['x'])))
  for part in script.split("find('")[1:]:
    assert part.split("'")[0] in page.ids
