"""The importer of the authors' files, on small files in exactly their form."""

import csv
import logging
import pathlib
import zipfile

import pytest

from configs import gsm8k, mmlu
from selectllm.data import load, records, splits
from selectllm.data.builders import sldata_files


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('SELECTLLM_CACHE', str(tmp_path / 'cache'))


def row(question, gold='18.0', split='train', *, subject=None, **answers):
  """A row in the notebooks' form; `answers` are LLM=(list, label), with `gemma_it` and `gemma` for their names."""
  names = {'gemma_it': 'gemma-7b-it_CHAT', 'gemma': 'gemma-7b_LM', 'mystery': 'mystery-3b_LM'}
  cells = {'question': question, 'gold_answer': gold, 'split': split}
  if subject is not None:
    cells = {'uid': 'train-x-0', **cells, 'subject': subject}
  for name, (given, _) in answers.items():
    cells[f'auto_answers_maj_{names[name]}'] = given if isinstance(given, str) else str(given)
  for name, (_, label) in answers.items():
    cells[f'maj_{names[name]}'] = label
  return cells | {'maj_2': '[1, 0]', 'maj_2_model': "['maj_gemma-7b_LM']"}


def write(path, rows, encoding='utf-8'):
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('w', newline='', encoding=encoding) as file:
    writer = csv.DictWriter(file, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
  return path


RIGHT, WRONG = ([18.0, 18.0, 'INVALID'], 1), ([17.0, 18.0, 17.0], 0)
GSM8K = {
  'train': [row('How many eggs?', gemma_it=RIGHT, gemma=WRONG), row('How\nmany "cats"?', gemma_it=WRONG, gemma=RIGHT)],
  'val': [row('How many dogs?', gemma_it=RIGHT, gemma=RIGHT)],
}
GSM8K['test'] = [*GSM8K['train'], *GSM8K['val'], row('How many hats?', '5.0', 'test', gemma_it=WRONG, gemma=WRONG)]


def gsm8k_folder(folder, **changed):
  for stem, rows in (GSM8K | changed).items():
    write(folder / f'{stem}_all_top.csv', rows)
  return folder


def letters(question, split, gold='B', subject='law', **answers):
  return row(f'{question} (A) x (B) y', gold, split, subject=subject, **answers)


B, D = (['B', 'B', 'A'], 1), (['D', 'INVALID', 'D'], 0)
MMLU = {
  'train': [letters('Who?', 'train', gemma_it=B, gemma=D), letters('Why?', 'train', gemma_it=D, gemma=B)],
  'val': [letters('When?', 'val', gemma_it=B, gemma=B)],
}
MMLU['test'] = [*MMLU['train'], *MMLU['val'], letters('Where?', 'test', subject='physics', gemma_it=B, gemma=D)]


def mmlu_folder(folder, bottom=None, **changed):
  for stem, rows in (MMLU | changed).items():
    write(folder / f'{stem}_all_top.csv', rows)
  for stem, rows in (bottom or {}).items():
    write(folder / f'{stem}_all_bot.csv', rows)
  return folder


def load_table(path, config=None, **fields):
  config = config or gsm8k.get_config('sldata')
  config.update_from_flattened_dict({'dataset.path': str(path), **{f'dataset.{k}': v for k, v in fields.items()}})
  return load.load(config)[0]


def zipped(folder: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
  """The folder as macOS zips it: nested, with a shadow of every file."""
  with zipfile.ZipFile(path, 'w') as archive:
    for file in sorted(folder.rglob('*.csv')):
      inside = file.relative_to(folder.parent)
      archive.write(file, inside)
      archive.writestr(f'__MACOSX/{inside.parent}/._{file.name}', b'\0\1')
      archive.writestr(f'__MACOSX/{inside}', b'\0\1')
  return path


def test_gsm8k(tmp_path):
  table = load_table(gsm8k_folder(tmp_path / 'sl'))
  assert table.llms == ('gemma-7b-it', 'gemma-7b')  # our names, in the pool file's order
  assert table.queries == ['How many eggs?', 'How\nmany "cats"?', 'How many dogs?', 'How many hats?']
  assert table.query_ids == ['gsm8k/train/0', 'gsm8k/train/1', 'gsm8k/validation/0', 'gsm8k/test/0']
  # The validation file's rows say `train`, the test file holds all rows.
  assert table.published_split.tolist() == [splits.TRAIN, splits.TRAIN, splits.VALIDATION, splits.TEST]
  assert table.responses.labels.tolist() == [[1, 0], [0, 1], [1, 1], [0, 0]]
  assert table.tasks == ('gsm8k',)
  assert table.answers[0] == ('18', '17')  # 18.0 and 18 are the same answer
  assert (table.responses.answers[0, 0] >= 0).tolist() == [True, True, False]
  assert table.notes == ()


def test_latencies_are_the_published_ones(tmp_path):
  table = load_table(gsm8k_folder(tmp_path / 'sl'))
  assert table.latency_is == 'published'
  assert table.responses.latency_s.tolist() == [[pytest.approx(0.7), pytest.approx(7.1)]] * 4
  assert load_table(tmp_path / 'sl', split='hash').latency_is == 'published'
  config = gsm8k.get_config('sldata')
  config.pool.file = ''
  assert load_table(tmp_path / 'sl', config).latency_is == 'unknown'


def test_an_archive_says_what_its_folder_says(tmp_path):
  gsm8k_folder(tmp_path / 'SLData' / 'gsm8k')
  mmlu_folder(tmp_path / 'SLData' / 'deep' / 'mmlu')
  archive = zipped(tmp_path / 'SLData', tmp_path / 'SLData.zip')
  for config in (gsm8k.get_config('sldata'), mmlu.get_config()):
    identities = []
    for path in (archive, tmp_path / 'SLData'):
      config.dataset.path = str(path)
      identities.append(load.load(config)[1])
    assert identities[0] == identities[1]
  assert load_table(archive).queries[0] == 'How many eggs?'
  assert load_table(archive, mmlu.get_config()).queries[0] == 'Who? (A) x (B) y'


def test_mmlu(tmp_path):
  table = load_table(mmlu_folder(tmp_path / 'sl'), mmlu.get_config())
  assert table.tasks == ('law', 'physics')
  assert table.published_split.tolist() == [splits.TRAIN, splits.TRAIN, splits.VALIDATION, splits.TEST]
  assert table.responses.labels.tolist() == [[1, 0], [0, 1], [1, 1], [1, 0]]
  assert table.questions[0] == 'Who?'  # without the options, which decide no split
  assert table.responses.latency_s[0].tolist() == [1, 3]


def test_the_bottom_files_add_llms_and_change_nothing_else(tmp_path):
  def bottom(rows):
    return [
      {name: value for name, value in cells.items() if 'gemma-7b_LM' not in name}
      | {'auto_answers_maj_mystery-3b_LM': "['C', 'b', '(B)']", 'maj_mystery-3b_LM': 1}
      for cells in reversed(rows)
    ]

  folder = mmlu_folder(tmp_path / 'sl', {stem: bottom(rows) for stem, rows in MMLU.items()})
  table = load_table(folder, mmlu.get_config())
  assert table.llms == ('gemma-7b-it', 'gemma-7b', 'mystery-3b_LM')  # an unknown LLM keeps its name
  assert table.queries[0] == 'Who? (A) x (B) y'
  assert table.responses.labels.tolist() == [[1, 0, 1], [0, 1, 1], [1, 1, 1], [1, 0, 1]]
  assert table.notes == ()


def test_what_the_bottom_files_say_otherwise_is_noted(tmp_path):
  stranger = letters('Else?', 'train', gemma_it=B, gemma=D)
  other = [letters('Who?', 'train', gemma_it=D, gemma=D), letters('Why?', 'train', gold='A', gemma_it=D, gemma=B)]
  folder = mmlu_folder(tmp_path / 'sl', {'train': [*other, stranger]})
  table = load_table(folder, mmlu.get_config())
  assert table.queries == load_table(mmlu_folder(tmp_path / 'top'), mmlu.get_config()).queries
  assert table.responses.labels.tolist() == [[1, 0], [0, 1], [1, 1], [1, 0]]
  assert table.notes == (
    '2 rows of train_all_bot.csv are not in train_all_top.csv; they were left out.',
    '1 lists of answers differ between train_all_top.csv and train_all_bot.csv; the former were used.',
  )


def test_rows_that_agree_in_everything_are_joined_in_their_order(tmp_path):
  twice = [letters('Who?', 'train', gemma_it=B), letters('Who?', 'train', gemma_it=D)]
  more = [letters('Who?', 'train', gemma=D), letters('Who?', 'train', gemma=B)]
  table = load_table(mmlu_folder(tmp_path / 'sl', {'train': more}, train=twice), mmlu.get_config())
  assert table.responses.labels[:2].tolist() == [[1, 0], [0, 1]]


def test_a_question_in_several_rows_is_kept_and_noted(tmp_path):
  again = [*GSM8K['train'], row('how many  EGGS?', gemma_it=WRONG, gemma=WRONG)]
  table = load_table(gsm8k_folder(tmp_path / 'sl', train=again))
  assert len(table.queries) == 5
  assert table.notes == ('1 questions stand in more than one row; all rows are kept as published.',)


def test_the_files_name_decides_also_about_rows_that_are_marked_as_test_rows(tmp_path):
  rows = [row('How many eggs?', split='test', gemma_it=RIGHT, gemma=WRONG), *GSM8K['train'][1:]]
  table = load_table(gsm8k_folder(tmp_path / 'sl', train=rows))
  assert table.published_split.tolist() == [splits.TRAIN, splits.TRAIN, splits.VALIDATION, splits.TEST]
  assert table.notes == (
    '1 rows of train_all_top.csv are marked as test rows; they were taken for train rows, as it is named.',
  )


def test_labels_are_made_anew_and_disagreements_said(tmp_path, caplog):
  rows = [
    row('Mostly invalid', gemma_it=(['INVALID', 'INVALID', 18.0], 0), gemma=RIGHT),
    row('A tie', gemma_it=([17.0, 18.0, 18.0, 17.0], 0), gemma=WRONG),  # 18 is the first that is given twice
    row('Nothing valid', gemma_it=(['INVALID'], 0), gemma=(['INVALID', ''], 1)),
  ]
  with caplog.at_level(logging.WARNING):
    table = load_table(gsm8k_folder(tmp_path / 'sl', train=rows))
  assert table.responses.labels[:3].tolist() == [[1, 1], [1, 0], [0, 0]]
  assert table.responses.observed.all()
  note = (
    'Labels recomputed from the answers differ from the published ones in 1 of 5 for gemma-7b, 2 of 5 for gemma-7b-it.'
  )
  assert table.notes == (note,)
  assert note in caplog.text
  assert load_table(tmp_path / 'sl').notes == (note,)  # also when the data are only read again


def test_answers_that_are_no_numbers_are_wrong_but_vote(tmp_path):
  odd = (['eighteen', 'eighteen', 18.0, float('inf'), -18, '$18', '1e400'], 0)
  table = load_table(gsm8k_folder(tmp_path / 'sl', train=[row('?', gemma_it=odd, gemma=RIGHT), *GSM8K['train']]))
  assert table.answers[0] == ('eighteen', '18', 'inf', '-18', '1e400')
  assert table.responses.labels[0].tolist() == [0, 1]


def test_an_llm_that_was_not_asked_is_missing(tmp_path):
  rows = [row('?', gemma_it=('', ''), gemma=RIGHT), row('!', gemma_it=('[]', 0), gemma=RIGHT), *GSM8K['train']]
  table = load_table(gsm8k_folder(tmp_path / 'sl', train=rows))
  assert table.responses.observed[:3].tolist() == [[False, True], [False, True], [True, True]]
  assert table.notes == ()


def test_another_file_is_another_identity(tmp_path):
  assert load_table(gsm8k_folder(tmp_path / 'sl')).responses.labels[0].tolist() == [1, 0]
  gsm8k_folder(tmp_path / 'sl', train=[row('How many eggs?', '17', gemma_it=RIGHT, gemma=WRONG), GSM8K['train'][1]])
  assert load_table(tmp_path / 'sl').responses.labels[0].tolist() == [0, 1]


@pytest.mark.parametrize(
  ('change', 'problem'),
  [
    ({'auto_answers_maj_gemma-7b_LM': '[18.0, 1'}, "auto_answers_maj_gemma-7b_LM must be a list of answers, not '[18"),
    ({'auto_answers_maj_gemma-7b_LM': '18.0'}, 'auto_answers_maj_gemma-7b_LM must be a list of texts or numbers'),
    ({'auto_answers_maj_gemma-7b_LM': '[[18]]'}, 'must be a list of texts or numbers'),
    ({'auto_answers_maj_gemma-7b_LM': '[True]'}, 'must be a list of texts or numbers'),
    ({'auto_answers_maj_gemma-7b_LM': '[open("x")]'}, 'must be a list of answers'),
    ({'gold_answer': 'many'}, "column gold_answer must be a number, not 'many'"),
    ({'question': ' '}, 'column question is empty'),
    ({'maj_gemma-7b_LM': '0.5'}, "column maj_gemma-7b_LM must be 0 or 1, not '0.5'"),
    ({'split': 'dev'}, "column split must be train, val or test, not 'dev'"),
  ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path, change, problem):
  folder = gsm8k_folder(tmp_path / 'sl', train=[GSM8K['train'][0], GSM8K['train'][1] | change])
  with pytest.raises(records.RecordError) as error:
    load_table(folder)
  assert 'train_all_top.csv: row 3, column' in str(error.value)
  assert problem in str(error.value)


def test_a_letter_that_is_none_is_named(tmp_path):
  folder = mmlu_folder(tmp_path / 'sl', val=[letters('When?', 'val', gold='K', gemma_it=B, gemma=B)])
  with pytest.raises(records.RecordError, match=r"val_all_top\.csv: row 2, column gold_answer .* A to J, not 'K'"):
    load_table(folder, mmlu.get_config())


@pytest.mark.parametrize('column', ['question', 'gold_answer', 'split', 'maj_gemma-7b_LM'])
def test_a_missing_column_is_named(tmp_path, column):
  rows = [{name: value for name, value in cells.items() if name != column} for cells in GSM8K['val']]
  with pytest.raises(records.RecordError, match=rf'val_all_top\.csv lacks the columns {column}; it has .*maj_2'):
    load_table(gsm8k_folder(tmp_path / 'sl', val=rows))


def test_files_that_cannot_be_read_are_named(tmp_path):
  folder = gsm8k_folder(tmp_path / 'sl')
  whole = (folder / 'test_all_top.csv').read_text()
  for broken, problem in (
    (whole.replace('"cats""?"', '"cats'), r'test_all_top\.csv: row 3 is broken'),
    (whole + 'one,two\n', r'test_all_top\.csv: row 6 does not have the 9 cells'),
    (whole.replace(',test,', ',val,'), r'test_all_top\.csv holds no test rows'),
    (whole.replace('auto_answers_maj', 'auto'), r'test_all_top\.csv has no column auto_answers_maj_<LLM>'),
    (whole.replace('gemma-7b_LM', 'gemma-7b-it_CHAT'), r'test_all_top\.csv has more than one column for auto_answers'),
  ):
    (folder / 'test_all_top.csv').write_text(broken)
    with pytest.raises(records.RecordError, match=problem):
      load_table(folder)
  (folder / 'test_all_top.csv').write_bytes(b'question,\xff\xfe')
  with pytest.raises(records.RecordError, match=r'test_all_top\.csv is damaged or no CSV file'):
    load_table(folder)
  (folder / 'test_all_top.csv').unlink()
  with pytest.raises(FileNotFoundError, match=r'sl lacks test_all_top\.csv'):
    load_table(folder)


def test_a_damaged_archive_is_named(tmp_path):
  archive = zipped(gsm8k_folder(tmp_path / 'SLData'), tmp_path / 'SLData.zip')
  content = archive.read_bytes()
  archive.write_bytes(content.replace(b'How many hats', b'How many bats'))
  with pytest.raises(records.RecordError, match=r'SLData\.zip/SLData/test_all_top\.csv is damaged .* CRC'):
    load_table(archive)


def test_which_task_must_be_plain(tmp_path):
  both = tmp_path / 'both'
  gsm8k_folder(both / 'gsm8k')
  mmlu_folder(both / 'mmlu')
  assert sldata_files.find(str(both), 'mmlu')[0] == 'mmlu'
  assert sldata_files.find(str(both / 'mmlu'), '')[0] == 'mmlu'
  with pytest.raises(ValueError, match=r'config\.dataset\.task must name it; there are: gsm8k in .*, mmlu in '):
    sldata_files.find(str(both), '')
  gsm8k_folder(both / 'copy')
  with pytest.raises(ValueError, match=r'must hold the files of gsm8k once; there are: gsm8k in .*copy, gsm8k in '):
    sldata_files.find(str(both), 'gsm8k')
  with pytest.raises(ValueError, match='must hold the files of gsm8k once; there are: mmlu in'):
    sldata_files.find(str(both / 'mmlu'), 'gsm8k')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match='files of gsm8k once; there are: none'):
    sldata_files.find(str(tmp_path / 'empty'), 'gsm8k')
  with pytest.raises(ValueError, match="task='arc' is not one of gsm8k, mmlu"):
    sldata_files.find(str(both), 'arc')


def test_a_path_that_is_none(tmp_path):
  with pytest.raises(ValueError, match=r'sldata needs --config\.dataset\.path=SLData\.zip'):
    load_table('')
  with pytest.raises(FileNotFoundError, match='no such file or folder'):
    load_table(tmp_path / 'SLData.zip')
  (tmp_path / 'SLData.zip').write_text('<html>')
  with pytest.raises(ValueError, match='neither a folder nor a zip archive'):
    load_table(tmp_path / 'SLData.zip')
