"""predict.py: the predictions of transformers, in the input's order, whatever the input holds."""

import dataclasses
import json
import pathlib
import subprocess
import sys

from absl import flags
from conftest import init_params, ROOT, WORDS
import jax
import numpy as np
import pytest

import checkpoint_utils
from classification import prediction
from classification.prediction import load_classifier
import data
import modeling
import predict
from support.errors import UserError

LABELS = ("bad", "good")


def export(folder, config, tokenizer, labels=LABELS, texts=("text",), kind="single_label", seed=0):
  """A fine-tuned classifier's model/ with random weights."""
  model = modeling.BertForSequenceClassification(config, len(labels))
  checkpoint_utils.export_huggingface(
      folder, config, init_params(model, modeling.one_token(), seed), tokenizer, "",
      architectures=["BertForSequenceClassification"], text_columns=texts,
      id2label=dict(enumerate(labels)),
      label2id={name: i for i, name in enumerate(labels)},
      problem_type="regression" if kind == "regression" else f"{kind}_classification")
  return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_config, tokenizer):
  return export(tmp_path_factory.mktemp("model") / "model", tiny_config, tokenizer)


@pytest.fixture(autouse=True)
def few_shapes(monkeypatch):
  """So that few programs are compiled."""
  monkeypatch.setattr(prediction, "_CPU_TOKENS", 64)
  monkeypatch.setattr(prediction, "_SHORTEST_ROW", 32)


def sentences(count, longest=25, seed=0):
  rng = np.random.default_rng(seed)
  return [" ".join(rng.choice(WORDS[5:], rng.integers(1, longest + 1))) for _ in range(count)]


def run(*arguments):
  """Runs the command on flags, in this process."""
  values = flags.FlagValues()
  predict.define_flags(values)
  values(["predict.py", *map(str, arguments)])
  predict.predict(predict.Settings.from_flags(values))


def predicted(tmp_path, model, content, *arguments, name="texts.txt"):
  """The objects that the command writes for a file."""
  (tmp_path / name).write_text(content, "utf-8")
  run(f"--model={model}", f"--input={tmp_path / name}", f"--output={tmp_path / 'out.jsonl'}",
      *arguments)
  return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]


# --- What is predicted --------------------------------------------------------------------------


def theirs(model, *columns):
  """[examples, classes]: the probabilities of transformers, a text at a time."""
  torch = pytest.importorskip("torch", reason="the peer is PyTorch")
  import transformers
  peer = transformers.AutoModelForSequenceClassification.from_pretrained(model).eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(model)
  with torch.no_grad():
    return np.stack([
        torch.softmax(peer(**tokenizer(*texts, truncation=True, max_length=32,
                                       return_tensors="pt")).logits[0], -1).numpy()
        for texts in zip(*columns, strict=True)])


def test_probabilities_are_those_of_transformers(model, tmp_path, monkeypatch):
  """Through chunks of several sizes and rows of two lengths, on four devices."""
  monkeypatch.setattr(prediction, "_CHUNKS", (3, 20, 70))
  monkeypatch.setattr(prediction, "_SHORTEST_ROW", 16)
  texts = sentences(100, longest=40)
  found = predicted(tmp_path, model, "".join(f"{text}\n" for text in texts))
  assert len(found) == 100
  expected = theirs(model, texts)
  ours = np.asarray([[row["probabilities"][name] for name in LABELS] for row in found])
  np.testing.assert_allclose(ours, expected, atol=2e-6)
  assert np.ptp(expected[:, 0]) > 0.01  # or the order would not matter
  assert [row["label"] for row in found] == [LABELS[i] for i in expected.argmax(-1)]


def test_pairs_are_those_of_transformers(tmp_path, tiny_config, tokenizer):
  model = export(tmp_path / "model", tiny_config, tokenizer, ("no", "maybe", "yes"), ("a", "b"))
  firsts, seconds = sentences(20, 12), sentences(20, 12, seed=1)
  lines = [f"{a}\t{b}\n" for a, b in zip(firsts, seconds, strict=True)]
  found = predicted(tmp_path, model, "".join(lines))
  ours = [list(row["probabilities"].values()) for row in found]
  np.testing.assert_allclose(ours, theirs(model, firsts, seconds), atol=2e-6)
  with pytest.raises(UserError, match=r"texts\.txt:1: 1 texts \(a tab divides them\), must be 2"):
    predicted(tmp_path, model, "the film\n")


def test_a_regression_has_values(tmp_path, tiny_config, tokenizer):
  model = export(tmp_path / "model", tiny_config, tokenizer, ("LABEL_0",), kind="regression")
  found = predicted(tmp_path, model, "the film\n\nit was good\n")
  assert [list(row) for row in found] == [["value"]] * 3
  assert found[1]["value"] is None and found[0]["value"] != found[2]["value"]


def test_five_lines_of_python(model):
  classifier = load_classifier(str(model))
  assert classifier.max_seq_length == 32  # its positions: no run is around it
  first, blank, second = classifier.predict(["it was good", "", "it was bad"])
  assert first.label in LABELS and sum(first.probabilities.values()) == pytest.approx(1)
  assert set(blank) == {None}
  (alone,) = classifier.predict(["it was bad"])
  assert alone.probabilities == pytest.approx(second.probabilities, abs=2e-6)
  with pytest.warns(UserWarning, match="1 of 2 texts are longer than 32 tokens and were truncated"):
    classifier.predict(["it was bad", "bad " * 40])
  assert classifier.predict("it was bad") == [alone]  # not a prediction for each letter
  with pytest.raises(UserError, match="example 2 has 2 texts; the model takes 1"):
    classifier.predict(["it was good", ("it was", "good")])
  for wrong in (3.5, ("it was", None)):
    with pytest.raises(UserError, match="^example 1 is .*, must be a text or a pair of texts$"):
      classifier.predict([wrong])
  params = jax.tree.map(lambda leaf: leaf * np.nan, classifier.classifier.params)
  damaged = dataclasses.replace(classifier, classifier=dataclasses.replace(
      classifier.classifier, params=params))
  with pytest.raises(UserError, match="outputs are not finite numbers: its weights are damaged"):
    damaged.predict(["it was good"])


def test_a_runs_own_length_is_taken(tmp_path, model):
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "model").symlink_to(model)
  stored = {"script": "run_classifier", "config": {"max_seq_length": 9}}
  (tmp_path / "run" / "config.json").write_text(json.dumps(stored))
  checkpoint = checkpoint_utils.find_checkpoint(str(tmp_path / "run"))
  assert prediction.trained_length(checkpoint) is None  # the link's place
  (tmp_path / "run" / "model").unlink()
  (tmp_path / "run" / "model").mkdir()
  for file in model.iterdir():
    (tmp_path / "run" / "model" / file.name).symlink_to(file)
  assert load_classifier(str(tmp_path / "run")).max_seq_length == 9


def test_rows_are_filled_with_each_example_once():
  rng = np.random.default_rng(0)
  lengths = rng.integers(2, 33, 300)
  split = data.unlabelled_split(data.Encoded(
      [[i] * n for i, n in enumerate(lengths)], lengths.tolist(), [False] * 300))
  seen, tokens, room = [], 0, 0
  for indices, batch in data.filled_batches(split, np.arange(50, 300), devices=2, num_rows=4,
                                            length=32, slots=16):
    assert batch["input_ids"].shape == (2, 4, 32) and batch["cls_positions"].shape == (2, 16)
    for device in range(2):
      flat = batch["input_ids"][device].reshape(-1)
      for place, example in zip(batch["cls_positions"][device], indices[device], strict=True):
        if example >= 0:
          seen.append(example)
          np.testing.assert_array_equal(flat[place:place + lengths[example]], example)
    tokens, room = tokens + np.count_nonzero(batch["sequence_ids"]), room + 256
  assert sorted(seen) == list(range(50, 300))
  assert tokens == lengths[50:].sum() and tokens / room > 0.8


# --- What goes in -------------------------------------------------------------------------------


def test_blank_and_long_lines_are_named_and_nothing_shifts(model, tmp_path, capsys):
  long = " ".join(["good"] * 40)
  lines = ["it was good", "", "the film", "   ", long, "it was bad"]
  found = predicted(tmp_path, model, "\n".join(lines))
  assert [row["label"] is None for row in found] == [not line.strip() for line in lines]
  assert found[1] == {"label": None, "probabilities": None}
  alone = predicted(tmp_path, model, "it was bad\n")
  assert found[-1]["probabilities"] == pytest.approx(alone[0]["probabilities"], abs=2e-6)
  said = capsys.readouterr().out
  assert (f"2 rows without text (their predictions are null): lines 2, 4 of {tmp_path}/texts.txt"
          in said)
  assert f"1 row truncated (longer than 32 tokens): line 5 of {tmp_path}/texts.txt" in said
  predicted(tmp_path, model, "\n" * 25)
  assert "25 rows without text (their predictions are null): lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 "\
         "and 15 more of" in capsys.readouterr().out


@pytest.mark.parametrize("name,content", [
    ("rows.csv", 'label,text\nx,"it was\ngood"\ny,\nz,the film\n'),
    ("rows.jsonl", '{"text": "it was good"}\n\n{"text": null}\n{"text": "the film"}\n')])
def test_tables_have_the_models_columns(model, tmp_path, capsys, name, content):
  found = predicted(tmp_path, model, content, name=name)
  expected = predicted(tmp_path, model, "it was good\n\nthe film\n")
  assert found == expected
  assert "1 row without text (their predictions are null): line " in capsys.readouterr().out


def test_bad_input_is_one_line(model, tmp_path, capsys):
  def complaint(content, *arguments, name="texts.txt"):
    with pytest.raises(UserError) as raised:
      predicted(tmp_path, model, content, *arguments, name=name)
    assert not (tmp_path / "out.jsonl").exists()
    return str(raised.value)

  assert complaint("a,b\n1,2\n", name="rows.csv") == (
      f"{tmp_path}/rows.csv has no column 'text'; it has 'a', 'b'; name the texts: "
      "--text_columns=NAME (or write a text a line into a .txt)")
  assert complaint("text,b\n1,2\n", "--text_columns=text,b", name="rows.csv") == (
      f"--text_columns names 2 columns of {tmp_path}/rows.csv; the model takes 1 text: 'text' in "
      "training")
  assert complaint("text,b\n1\n1,2\n", name="rows.csv") == (
      f"{tmp_path}/rows.csv:2: 1 fields, must be 2")
  for cell, message in (('["a"]', ": column 'text' holds lists, not text"),
                        ('{"a": 1}', ": column 'text' holds objects, not text"),
                        ('"a"}\n{"text": 1',
                         ":2: column 'text' is a number here and text before; a column must have")):
    assert complaint(f'{{"text": {cell}}}\n', name="rows.jsonl").startswith(
        f"{tmp_path}/rows.jsonl{message}")
  assert "texts.txt:2: 2 texts (a tab divides them), must be 1" in complaint("the film\na\tb\n")
  (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
  with pytest.raises(UserError, match=r"latin\.txt:1: not UTF-8"):
    run(f"--model={model}", f"--input={tmp_path}/latin.txt", f"--output={tmp_path}/o")
  for arguments, message in (
      ((), "--model is missing: a run's folder, or that of a HuggingFace classifier"),
      ((f"--model={tmp_path}/none",), f"--model {tmp_path}/none does not exist"),
      ((f"--model={model}", "--input=none.txt"), "--input=none.txt does not exist"),
      ((f"--model={model}", "--max_seq_length=33"),
       "max_seq_length must be from 5 to the model's 32 positions, not 33")):
    with pytest.raises(UserError) as raised:
      run(*arguments)
    assert str(raised.value) == message
  (tmp_path / "link.txt").symlink_to(tmp_path / "texts.txt")
  with pytest.raises(UserError, match=r"^--output=.*link\.txt is the file of --input too"):
    run(f"--model={model}", f"--input={tmp_path}/texts.txt", f"--output={tmp_path}/link.txt")
  assert (tmp_path / "texts.txt").read_text() == "the film\na\tb\n"
  assert capsys.readouterr().out.count("{") == 0


@pytest.mark.parametrize("name,header", [("a.txt", ""), ("a.csv", "text\n"),
                                         ("a.tsv", "b\ttext\n")])
def test_a_byte_order_mark_and_line_ends_are_no_text(model, tmp_path, name, header):
  rows = f"{header}it was good\nthe film".replace("\n", "\r\n")
  if "\t" in header:
    rows = rows.replace("\r\n", "\r\n1\t")
  assert predicted(tmp_path, model, f"\ufeff{rows}", name=name) == predicted(
      tmp_path, model, "it was good\nthe film\n")


def test_a_parquet_file_is_read_as_for_training(model, tmp_path):
  """Numbers are text as they are written; NaN and null are none; anything else is refused."""
  import pyarrow.parquet
  file, out = tmp_path / "rows.parquet", tmp_path / "out.jsonl"

  def found(cells, kind):
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array(cells, kind)}), file)
    run(f"--model={model}", f"--input={file}", f"--output={out}")
    return out.read_text().splitlines()

  expected = found(["1.5", None, " ", "2.0"], pyarrow.string())
  assert expected[1] == expected[2] == '{"label": null, "probabilities": null}' != expected[0]
  assert found([1.5, None, float("nan"), 2], pyarrow.float64()) == expected
  latin = pyarrow.Array.from_buffers(pyarrow.string(), 2, pyarrow.array([b"a", b"\xe9"]).buffers())
  for cells, kind, message in (
      ([["a"]], pyarrow.list_(pyarrow.string()), f"{file}: column 'text' holds lists, not text"),
      ([b"a"], pyarrow.binary(), f"{file}: column 'text' holds bytes, not text"),
      ([True], pyarrow.bool_(), f"{file}: column 'text' holds true or false, not text"),
      (latin, None, f"{file}:2: column 'text' is not UTF-8: b'\\xe9'"),
      ([], pyarrow.string(), f"{file} is empty: it has no row")):
    with pytest.raises(UserError) as raised:
      found(cells, kind)
    assert str(raised.value) == message
  file.write_bytes(file.read_bytes()[:-8])
  with pytest.raises(UserError, match=r"rows\.parquet cannot be read as parquet: "):
    run(f"--model={model}", f"--input={file}")


def test_no_folder_and_no_device_is_replaced(model, tmp_path):
  (tmp_path / "kept" / "inside").mkdir(parents=True)
  with pytest.raises(UserError, match="kept is a folder; name a file to write"):
    predicted(tmp_path, model, "the film\n", f"--output={tmp_path}/kept")
  assert (tmp_path / "kept" / "inside").is_dir()
  (tmp_path / "texts.txt").write_text("\n")
  run(f"--model={model}", f"--input={tmp_path}/texts.txt", "--output=/dev/null")
  assert pathlib.Path("/dev/null").is_char_device()


def test_a_model_without_a_classifier_is_refused(tmp_path, tiny_config, tokenizer):
  pretrained = modeling.BertForPreTraining(tiny_config)
  params = init_params(pretrained, modeling.one_token())
  checkpoint_utils.export_huggingface(tmp_path / "model", tiny_config, params, tokenizer, "",
                                      architectures=["BertForPreTraining"])
  with pytest.raises(UserError, match="has no trained classifier; run_classifier.py trains one"):
    load_classifier(str(tmp_path / "model"))


def test_the_command_line_reads_stdin_and_survives_head(model):
  """A reader that leaves early ends the command quietly, whatever is still to come."""
  command = [sys.executable, str(ROOT / "predict.py"), f"--model={model}"]
  with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE) as process:
    text = b"it was good\n" * 3000
    process.stdin.write(text)
    process.stdin.close()
    first = json.loads(process.stdout.readline())
    process.stdout.close()
    said = process.stderr.read().decode()
    assert process.wait(timeout=120) == 0, said
  assert first["label"] in LABELS
  assert said.startswith("predict: JAX ") and "Traceback" not in said and "Broken" not in said
