"""fill_mask.py: the words of transformers' fill-mask, best first."""

from absl import flags
import numpy as np
import pytest
from test_extract_features import model  # noqa: F401  a fixture
from test_predict import export

import fill_mask
from support.errors import UserError


def run(*arguments):
  """Runs the command on flags and texts, in this process."""
  values = flags.FlagValues()
  fill_mask.define_flags(values)
  _, *texts = values(["fill_mask.py", *map(str, arguments)])
  fill_mask.fill_masks(fill_mask.Settings.from_flags(values), texts)


def test_words_and_probabilities_are_those_of_transformers(model, capsys):  # noqa: F811
  torch = pytest.importorskip("torch", reason="the peer is PyTorch")
  import transformers
  peer = transformers.AutoModelForMaskedLM.from_pretrained(model).eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(model)
  text = "the [MASK] was[MASK] good"
  inputs = tokenizer(text, return_tensors="pt")
  with torch.no_grad():
    shares = torch.softmax(peer(**inputs).logits[0], -1)[
        inputs["input_ids"][0] == tokenizer.mask_token_id]
  run(f"--model={model}", "--top_k=3", text)
  lines = capsys.readouterr().out.splitlines()[1:]
  assert [lines[0], lines[4]] == [f"{text}   mask 1:", f"{text}   mask 2:"]
  for first, row in zip((1, 5), shares, strict=True):
    expected = torch.topk(row, 3)
    found = [line.split() for line in lines[first:first + 3]]
    np.testing.assert_allclose([float(share) for share, _ in found], expected.values, atol=6e-5)
    assert [word for _, word in found] == tokenizer.convert_ids_to_tokens(expected.indices.tolist())


def test_a_classifier_has_no_words(tmp_path, tiny_config, tokenizer):
  classifier = export(tmp_path / "model", tiny_config, tokenizer)
  with pytest.raises(UserError, match="has no trained masked_lm/.*; a pre-trained model has them"):
    run(f"--model={classifier}", "[MASK]")


def test_messages(model, tmp_path):  # noqa: F811
  for arguments, message in (
      ((), "--model is missing"),
      ((f"--model={model}",), 'no text: python3 fill_mask.py --model=PRETRAINED "a text with'),
      ((f"--model={model}", "the film"), "'the film' has no [MASK]"),
      ((f"--model={model}", "--top_k=0", "[MASK]"), "--top_k=0 must be from 1 to "),
      ((f"--model={model}", "[MASK] " * 31), "has 33 tokens; the model has 32 positions"),
      ((f"--model={tmp_path}/none", "[MASK]"), "/none does not exist")):
    with pytest.raises(UserError) as raised:
      run(*arguments)
    assert message in str(raised.value)
