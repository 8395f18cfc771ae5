"""extract_features.py: the original's JSON lines, with the hidden states of transformers."""

import json

from absl import flags
from conftest import GOLDEN, init_params, WORDS
import numpy as np
import pytest

import checkpoint_utils
import extract_features
import modeling
from support.errors import UserError

LINES = ("the film was good", "it was bad ||| a very dull story", "", "warm , cold xyz .",
         " the plot ", "good ||| fine ||| bad", "the ||| ",
         *(" ".join(WORDS[5:5 + n]) for n in range(1, 30, 4)))


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_config, tokenizer):
  """A pre-trained model's folder with random weights."""
  folder = tmp_path_factory.mktemp("model") / "model"
  pretrained = modeling.BertForPreTraining(tiny_config)
  params = init_params(pretrained, modeling.one_token())
  checkpoint_utils.export_huggingface(folder, tiny_config, params, tokenizer, "",
                                      architectures=["BertForPreTraining"])
  return folder


def run(*arguments):
  """Runs the command on flags, in this process."""
  values = flags.FlagValues()
  extract_features.define_flags(values)
  values(["extract_features.py", *map(str, arguments)])
  extract_features.extract(extract_features.Settings.from_flags(values))


def extracted(tmp_path, model, *arguments, lines=LINES):
  """The objects that the command writes for some lines."""
  (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in lines))
  run(f"--input_file={tmp_path / 'in.txt'}", f"--output_file={tmp_path / 'out'}",
      f"--init_checkpoint={model}", "--max_seq_length=16", "--batch_size=4", *arguments)
  if "--format=npz" in arguments:
    return np.load(tmp_path / "out")
  return [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]


@pytest.fixture(scope="module")
def theirs(model):
  """For each line, by transformers: its tokens, its hidden states [1 + layers, n, h], pooled."""
  torch = pytest.importorskip("torch", reason="the peer is PyTorch")
  import transformers
  peer = transformers.AutoModel.from_pretrained(model).eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(model)
  results = []
  for line in LINES:
    texts = line.strip().rsplit(" ||| ", 1)
    inputs = tokenizer(*texts, truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
      output = peer(**inputs, output_hidden_states=True)
    results.append((tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist()),
                    np.stack([state[0].numpy() for state in output.hidden_states]),
                    output.pooler_output[0].numpy()))
  return results


def test_tokens_and_values_are_those_of_transformers(tmp_path, model, theirs):
  found = extracted(tmp_path, model, "--layers=-1,0")
  assert [list(line) for line in found] == [["linex_index", "features"]] * len(LINES)
  assert [line["linex_index"] for line in found] == list(range(len(LINES)))
  for line, (tokens, states, _) in zip(found, theirs, strict=True):
    assert [list(entry) for entry in line["features"]] == [["token", "layers"]] * len(tokens)
    assert [entry["token"] for entry in line["features"]] == tokens
    for i, entry in enumerate(line["features"]):
      assert [layer["index"] for layer in entry["layers"]] == [-1, 0]
      # Of transformers' states the first one is the embeddings'.
      for layer, expected in zip(entry["layers"], (states[-1, i], states[1, i]), strict=True):
        np.testing.assert_allclose(layer["values"], expected, atol=1e-5)
        assert layer["values"] == [round(value, 6) for value in layer["values"]]


def test_vectors_of_whole_lines(tmp_path, model, theirs):
  for line, (_, _, pooled) in zip(extracted(tmp_path, model, "--vectors=pooled"), theirs,
                                  strict=True):
    np.testing.assert_allclose(line["values"], pooled, atol=1e-5)
  with extracted(tmp_path, model, "--vectors=mean", "--layers=-2", "--format=npz") as arrays:
    assert arrays["layers"].tolist() == [-2]
    for found, (_, states, _) in zip(arrays["values"], theirs, strict=True):
      np.testing.assert_allclose(found, states[-2:-1].mean(axis=1), atol=1e-5)


def test_npz_of_tokens(tmp_path, model):
  found = extracted(tmp_path, model, "--layers=1")
  with extracted(tmp_path, model, "--layers=1", "--format=npz") as arrays:
    assert arrays["values"].dtype == np.float32
    for line, first, last in zip(found, arrays["offsets"], arrays["offsets"][1:], strict=False):
      assert arrays["tokens"][first:last].tolist() == [e["token"] for e in line["features"]]
      np.testing.assert_allclose(
          arrays["values"][0, first:last],
          [entry["layers"][0]["values"] for entry in line["features"]], atol=1e-6)


def test_a_file_without_lines(tmp_path, model):
  assert extracted(tmp_path, model, "--layers=0", lines=()) == []
  for vectors, shape in (("tokens", (4, 0, 16)), ("mean", (0, 4, 16)), ("pooled", (0, 16))):
    layers = () if vectors == "pooled" else ("--layers=-1,-2,0,1",)
    with extracted(tmp_path, model, *layers, "--format=npz", f"--vectors={vectors}",
                   lines=()) as arrays:
      assert arrays["values"].shape == shape and arrays["values"].dtype == np.float32
      assert vectors != "tokens" or arrays["offsets"].tolist() == [0]


def test_the_originals_flags_on_a_google_checkpoint(tmp_path, vocab_dir):
  """bert_config.json may lie elsewhere; do_lower_case is on, as there."""
  for file in GOLDEN.glob("bert_model*"):
    (tmp_path / file.name).symlink_to(file)
  size = json.loads((GOLDEN / "bert_config.json").read_text())["vocab_size"]
  (tmp_path / "vocab.txt").write_text("\n".join(
      (*WORDS, *(f"[unused{i}]" for i in range(size - len(WORDS))))) + "\n")
  found = extracted(
      tmp_path, tmp_path / "bert_model.ckpt", f"--vocab_file={tmp_path}/vocab.txt",
      f"--bert_config_file={GOLDEN}/bert_config.json", "--layers=-1,-2", lines=("The GOOD film",))
  assert [entry["token"] for entry in found[0]["features"]] == [
      "[CLS]", "the", "good", "film", "[SEP]"]
  assert [layer["index"] for layer in found[0]["features"][0]["layers"]] == [-1, -2]
  assert found == extracted(tmp_path, tmp_path, f"--bert_config_file={GOLDEN}/bert_config.json",
                            "--do_lower_case", "--layers=-1,-2", lines=("The GOOD film",))


def test_messages(tmp_path, model, capsys):
  extracted(tmp_path, model, "--vectors=pooled", lines=["good", *["good " * 20] * 12])
  assert ("12 lines longer than 16 tokens are truncated: 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more"
          in capsys.readouterr().out)
  for arguments, message in (
      (("--layers=-3",), "--layers: '-3' is no layer of the model, which has 0 to 1, or -1 to -2"),
      (("--layers=a",), "--layers: 'a' is no layer of the model"),
      (("--max_seq_length=33",), "--max_seq_length=33 must be from 5 to the model's 32 positions"),
      (("--vectors=pooled",), "--vectors=pooled is the pooler's output, of the last layer: leave "),
      (("--batch_size=0",), "--batch_size=0 must be 1 or more"),
      (("--input_file=none",), "--input_file=none does not exist"),
      (("--output_file=-", "--format=npz"), "--format=npz needs a file"),
      ((f"--bert_config_file={GOLDEN}/bert_config.json",), "has a configuration of its own; "
       "leave out bert_config_file"),
      (("--init_checkpoint=./none",), "--init_checkpoint ./none does not exist")):
    with pytest.raises(UserError) as raised:
      extracted(tmp_path, model, "--layers=-1", *arguments)
    assert str(raised.value).startswith(message) or message in str(raised.value)
