"""The command: what it refuses by itself."""

import pytest

from configs import jsonl
from selectllm import main, modes


def test_an_unknown_mode_is_refused():
  config = jsonl.get_config()
  config.mode = 'predict'
  with pytest.raises(
    ValueError,
    match=r"'predict' is not one of train_and_evaluate, evaluate, collect, .*, add_llm, grade_audit",
  ):
    main._run(config, None)


def test_every_mode_is_there():
  for name, mode in modes.MODES.items():
    assert callable(mode.load()), name


@pytest.mark.parametrize('mode', ['evaluate', 'collect', 'answer', 'add_llm'])
def test_a_mode_that_needs_a_workdir_says_so(mode):
  config = jsonl.get_config()
  config.mode = mode
  with pytest.raises(main.app.UsageError, match=f'--config.mode={mode} needs a --workdir'):
    main._run(config, None)
