import pytest

from selectllm.evaluate import results


@pytest.mark.parametrize(
  ('choice', 'said'),
  [
    (results.EncoderChoice(True, 'true'), ['frozen, as config.encoder.freeze=true asks.']),
    (results.EncoderChoice(False, 'false', None, 0.55, 0.54), ['fine-tuned, as config.encoder.freeze=false asks.']),
    (
      results.EncoderChoice(True, 'auto', 301.0),
      ['frozen; fine-tuning would take about 5 minutes here. --config.encoder.freeze=false asks for it.'],
    ),
    (
      results.EncoderChoice(False, 'auto', None, 0.55, 0.54),
      ['fine-tuned, chosen by the log loss on validation: 0.550 frozen, 0.540 fine-tuned', 'standard error'],
    ),
    (results.EncoderChoice(True, 'auto', None, 0.55, 0.56), ['frozen, chosen by', '0.560 fine-tuned']),
  ],
)
def test_the_choice_of_the_encoder_is_said_and_how_to_choose_otherwise(choice, said):
  assert choice.sentence().startswith(said[0])
  assert all(words in choice.sentence() for words in said)
