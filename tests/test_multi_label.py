"""Any number of classes a text: the loss beside PyTorch's, batches, metrics, and a whole run."""

import csv
import json
import types

from conftest import padded_batch, run_script_in_process, WORDS
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checkpoint_utils
from classification import collapse, dev_predictions, tasks
from classification.splits import names_in
import data
import losses
import predict
import run_classifier
from support.errors import UserError
import tokenization

TASK = tasks.own_task(("text",), ("bad", "good", "slow"), multi_label=True)


# --- Numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [[range(9)], [[0, 1, 5], [2, 7], [3, 4, 6, 8]]])
def test_the_loss_is_pytorchs(parts):
  """Value and gradient, however a batch is cut; the last row only fills it up."""
  torch = pytest.importorskip("torch", reason="PyTorch's loss is the measure")
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 5, (9, 4)).astype(np.float32)
  labels = rng.integers(0, 2, (9, 4)).astype(np.int32)
  theirs = torch.tensor(logits, requires_grad=True)
  expected = torch.nn.BCEWithLogitsLoss()(theirs[:8], torch.tensor(labels[:8], dtype=torch.float32))
  expected.backward()
  model = types.SimpleNamespace(
      apply=lambda variables, batch, **_: variables["params"][batch["rows"]])

  def batch(rows):
    rows = np.asarray(rows)
    return {"rows": rows, "labels": labels[rows], "weights": (rows != 8).astype(np.float32)}

  def loss(logits):
    totals = losses.classifier_weights(batch(range(9)))
    return sum(losses.classifier_loss(logits, batch(rows), None, totals, model=model)[0]
               for rows in parts)

  value, gradient = jax.value_and_grad(loss)(jnp.asarray(logits))
  np.testing.assert_allclose(value, expected.detach(), rtol=1e-6)
  np.testing.assert_allclose(gradient, theirs.grad, rtol=1e-5, atol=1e-8)


def test_large_logits_overflow_nothing():
  logits, labels = jnp.asarray([[200.0, -200.0], [200.0, -200.0]]), jnp.asarray([[1, 0], [0, 1]])
  assert losses.example_losses(logits, labels).tolist() == [0.0, 200.0]


def test_labels_in_batches():
  """A row of 0 and 1 for each example; fillers have zeros."""
  labels = np.asarray([[1, 1, 0], [0, 0, 0], [0, 1, 1]], np.int32)
  numbers = np.arange(6, dtype=np.int32)
  split = data.TokenizedSplit(numbers, np.asarray([0, 2, 4, 6]), numbers[:3], labels, 0)
  batch = data.make_batch(split, np.asarray([[2, 0], [1, -1]]), 4, pack=True)
  assert batch["labels"].tolist() == [[[0, 1, 1], [1, 1, 0]], [[0, 0, 0], [0, 0, 0]]]
  assert batch["weights"].tolist() == [[1, 1], [1, 0]]
  assert labels[2].tolist() == [0, 1, 1]  # the split's own are untouched


def test_metrics():
  """Class by class 1 tp; 1 tp and 1 fp; 1 missed: F1 1, 2/3, 0; together 2 tp, 1 fp, 1 fn."""
  labels = np.asarray([[1, 0, 1], [0, 1, 0], [0, 0, 0]])
  predictions = np.asarray([[1, 0, 0], [0, 1, 0], [0, 1, 0]])
  assert tasks.score(TASK, predictions, labels, TASK.label_names) == pytest.approx({
      "micro_f1": 4 / 6, "macro_f1": (1 + 2 / 3 + 0) / 3, "subset_accuracy": 1 / 3})
  assert tasks.score(TASK, predictions * 0, labels, TASK.label_names)["macro_f1"] == 0.0


def test_predictions_and_their_probabilities():
  """Above a half, of each class alone."""
  logits = np.asarray([[np.log(3), 0.0, 800.0], [-1000.0, -1.0, -2.0]], np.float32)
  assert tasks.predictions_from(TASK, logits).tolist() == [[1, 0, 1], [0, 0, 0]]
  np.testing.assert_allclose(tasks.probabilities_from(logits, multi_label=True)[0],
                             [0.75, 0.5, 1.0], rtol=1e-6)


def test_names_in_a_file(tmp_path):
  """As the flag takes them; a row of no class has none."""
  names = ("a, b", 'say "c"', "d")
  marks = np.asarray([[1, 0, 1], [0, 0, 0], [0, 1, 1]])
  tasks.write_leaderboard_file(tmp_path / "p.tsv", TASK, marks, names, ("0", "1", "2"))
  with (tmp_path / "p.tsv").open(newline="") as file:
    rows = [row["prediction"] for row in csv.DictReader(file, delimiter="\t")]
  assert rows == ['"a, b",d', "", '"say ""c""",d']
  assert [names_in("label_names", row) for row in rows] == [("a, b", "d"), (), ('say "c"', "d")]


# --- A run --------------------------------------------------------------------------------------

TINY = ("--config.model.hidden_size=16", "--config.model.num_hidden_layers=1",
        "--config.model.num_attention_heads=2", "--config.model.intermediate_size=32",
        "--config.model.max_position_embeddings=32", "--config.max_seq_length=16",
        "--config.train_batch_size=8", "--config.eval_batch_size=8",
        "--config.predict_batch_size=8", "--config.learning_rate=0.01",
        "--config.model.initializer_range=0.3", "--config.model.hidden_dropout_prob=0.0")


def run(*arguments):
  run_script_in_process(run_classifier, "classifier", *arguments)


def write_reviews(folder, rows=40):
  """Three joined texts; the classes are the words of the second one that are classes, or none."""
  rng = np.random.default_rng(0)
  for split in ("full", "dev", "extra"):
    lines = []
    for i in range(rows):
      words = [name for name in TASK.label_names if rng.integers(2)]
      row = {"title": "the film", "text": " ".join(("it was", *words)), "year": i}
      lines.append(json.dumps(row | ({} if split == "extra" else {"labels": words[::-1]})))
    (folder / f"{split}.jsonl").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, vocab_dir):
  """A finished run on splits with names of their own, and the folder above it."""
  base = tmp_path_factory.mktemp("multi_label")
  write_reviews(base)
  run(*TINY, f"--config.tokenizer={vocab_dir}", f"--config.dataset_path={base}",
      "--config.text_columns=title,text,year", "--config.text_delimiter= ,",
      "--config.train_split=full", "--config.test_split=extra", "--config.do_predict=True",
      "--config.num_train_epochs=30.0", "--config.eval_every_epochs=0",
      "--config.gradient_accumulation_steps=2", f"--output_dir={base / 'out'}")
  return base


def results_of(folder):
  return json.loads((folder / "eval_results.json").read_text())


def test_it_learns_and_says_what_it_is(trained):
  results = results_of(trained / "out")
  assert {"eval_micro_f1", "eval_macro_f1", "eval_subset_accuracy", "eval_loss"} <= set(results)
  assert results["eval_micro_f1"] > 0.95
  config = json.loads((trained / "out" / "model" / "config.json").read_text())
  assert config["problem_type"] == "multi_label_classification"
  assert list(config["id2label"].values()) == list(TASK.label_names)
  step = max((trained / "out" / "checkpoints").glob("*[0-9]"), key=lambda path: int(path.name))
  for place in (trained / "out", step):  # the exported model, and a saved step
    model = checkpoint_utils.find_checkpoint(str(place))
    assert model.multi_label
    assert (model.label_names, model.text_columns, model.text_delimiter) == (
        TASK.label_names, ("title", "text", "year"), " ,")


def test_its_predictions(trained):
  """Names by the knobs' own rules, and beside them the probability of each class."""
  with (trained / "out" / "predictions" / "extra.tsv").open(newline="") as file:
    named = [row["prediction"] for row in csv.DictReader(file, delimiter="\t")]
  file = trained / "out" / "predictions" / "extra.probabilities.tsv"
  header, *rows = [line.split("\t") for line in file.read_text().splitlines()]
  assert header == ["index", *TASK.label_names]
  assert named == [",".join(name for name, p in zip(header[1:], row[1:], strict=True)
                            if float(p) > 0.5) for row in rows]
  texts = [json.loads(line)["text"] for line in
           (trained / "extra.jsonl").read_text().splitlines()]
  right = [",".join(n for n in TASK.label_names if n in text) == name
           for text, name in zip(texts, named, strict=True)]
  assert np.mean(right) > 0.7  # of all three at once; an eighth by chance


def test_its_dev_predictions_and_report(trained):
  with (trained / "out" / "predictions" / "dev.tsv").open(newline="") as file:
    rows = list(csv.DictReader(file, delimiter="\t"))
  gold = [json.loads(line)["labels"] for line in (trained / "dev.jsonl").read_text().splitlines()]
  assert [set(names_in("label_names", row["gold"])) for row in rows] == [*map(set, gold)]
  assert [row["prediction"].split(",").count("slow") for row in rows] == [
      int(float(row["probability_slow"]) > 0.5) for row in rows]
  summary = json.loads((trained / "out" / "summary.json").read_text())
  assert summary["class_counts"]["validation"] == {
      name: sum(name in names for names in gold) for name in TASK.label_names}
  assert "precision" in (trained / "out" / "report.html").read_text()


def test_one_answer_for_all_is_a_collapse():
  labels = np.asarray([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
  assert collapse.answers_alike(TASK, np.tile([[1, 0, 0]], (3, 1)), labels)
  assert not collapse.answers_alike(TASK, labels[::-1], labels)
  assert not collapse.answers_alike(TASK, labels * 0, labels * 0)


def test_wrong_examples_of_several_classes():
  """The surest wrong answer first."""
  gold = np.asarray([[1, 0], [0, 0], [1, 1]])
  probabilities = np.asarray([[0.4, 0.3], [0.2, 0.1], [0.9, 0.05]])
  dev = dev_predictions.DevPredictions("dev", "012", {"text": ["x", "y", "z"]}, gold,
                                       (probabilities > 0.5).astype(int), probabilities, ("a", "b"))
  assert dev.wrong.tolist() == [2, 0]
  assert dev.confidence[dev.wrong].tolist() == [0.95, 0.6]
  assert (dev.said(dev.gold), dev.said(dev.predictions)) == (["a", "", "a,b"], ["", "", "a"])
  page = "".join(dev_predictions.dev_sections(dev, {"a": 7, "b": 5}))
  assert "95.0%" in page and "100.0%" in page


def test_it_is_scored_again(trained, tmp_path):
  """From its folder; and as a model, whose columns, delimiter and classes are those it names."""
  before = results_of(trained / "out")
  run("--config.do_train=False", f"--output_dir={trained / 'out'}")
  assert results_of(trained / "out") == before
  rows = [json.loads(line) for line in (trained / "dev.jsonl").read_text().splitlines()]
  with (tmp_path / "validation.csv").open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["year", "text", "title", *TASK.label_names])
    writer.writerows([row["year"], row["text"], row["title"],
                      *(int(name in row["labels"]) for name in TASK.label_names)] for row in rows)
  scoring = ("--config.do_train=False", "--config.max_seq_length=16", "--config.eval_batch_size=8",
             f"--config.init_checkpoint={trained / 'out'}")
  run(*scoring, f"--config.dataset_path={tmp_path}", f"--output_dir={tmp_path / 'out'}")
  assert results_of(tmp_path / "out") == pytest.approx(before)
  (tmp_path / "one").mkdir()
  (tmp_path / "one" / "validation.csv").write_text("title,text,year,label\na,b,1,good\n")
  with pytest.raises(UserError, match="has no trained classifier/bias, classifier/kernel for own "):
    run(*scoring, f"--config.dataset_path={tmp_path / 'one'}", f"--output_dir={tmp_path / 'no'}")


def test_transformers_computes_the_same_logits(trained):
  """The loss that transformers trains it further with is the sigmoid's."""
  torch = pytest.importorskip("torch", reason="needs torch to run transformers' BERT")
  import transformers

  folder = trained / "out" / "model"
  twin = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
  tokenizer = tokenization.load_tokenizer(str(folder), None)
  cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
  ids = [cls, *tokenizer.encode(["it was good and slow"])[0], sep]
  labels = torch.tensor([[0.0, 1.0, 1.0]])
  with torch.no_grad():
    theirs = twin(input_ids=torch.tensor([ids]), labels=labels)
  checkpoint = checkpoint_utils.find_checkpoint(str(folder))
  model = run_classifier.modeling.BertForSequenceClassification(checkpoint.config, 3)
  params, _ = checkpoint_utils.load_params(checkpoint, jax.jit(model.init)(
      jax.random.key(0), padded_batch([ids], [len(ids)]))["params"])
  ours = model.apply({"params": params}, padded_batch([ids], [len(ids)]))
  np.testing.assert_allclose(ours, theirs.logits, atol=1e-5)
  np.testing.assert_allclose(jnp.mean(losses.example_losses(ours, jnp.asarray(labels.int()))),
                             theirs.loss, rtol=1e-5)
  assert set(WORDS) >= {*TASK.label_names}


@pytest.mark.parametrize("flags,message", [
    (["--config.label_type=class"], "column 'labels' of .*full.jsonl holds lists of classes: "
                                    "--config.label_type must be multi or auto, not class"),
    (["--config.label_column=year", "--config.text_columns=title,text"],
     "column 'year' holds numbers and no lists of classes"),
    (["--config.label_column=good,slow"], "full.jsonl has no column .good.; it has .title."),
    (["--config.label_names=good,slow"], "full.jsonl:[0-9]+: label 'bad' is not one of 'good'"),
    (["--config.text_delimiter="], "text_columns 'title', 'text', 'year' must be one or two; "),
    (["--config.eval_split=eval"], "has no eval split; it has validation, extra, full .*"
                                   "--config.eval_split=NAME takes another"),
    (["--config.train_split=none"], "has no none split; .*do_train=False needs none, --config.tra"),
    (["--config.test_split=none"], "has no none split; .*do_predict=False needs none, --config.te"),
    (["--config.positive_class=good"], "positive_class 'good': own has no F1 of one class")])
def test_bad_input_is_one_line(trained, tmp_path, vocab_dir, flags, message):
  multi = [] if "label_type" in flags[0] else ["--config.label_type=multi"]
  with pytest.raises(UserError, match=message) as error:
    run(*TINY, f"--config.tokenizer={vocab_dir}", f"--config.dataset_path={trained}",
        "--config.text_columns=title,text,year", "--config.text_delimiter= ",
        "--config.train_split=full", "--config.test_split=extra", "--config.do_predict=True",
        *multi, *flags, f"--output_dir={tmp_path / 'out'}")
  assert "\n" not in str(error.value)
  assert not (tmp_path / "out").exists()


def test_a_train_split_without_any_class(tmp_path, vocab_dir):
  (tmp_path / "train.jsonl").write_text('{"text": "good", "labels": []}\n')
  with pytest.raises(UserError, match="no row of .*train.jsonl is of a class: every list is empty"):
    run(*TINY, f"--config.tokenizer={vocab_dir}", f"--config.dataset_path={tmp_path}",
        "--config.do_eval=False", f"--output_dir={tmp_path / 'out'}")


def test_predict_names_all_classes_of_a_text(trained, tmp_path):
  """The columns are joined as in training; a row without any text has null."""
  lines = (trained / "extra.jsonl").read_text() + '\n{"title": " "}\n'
  (tmp_path / "in.jsonl").write_text(lines)
  predict.predict(predict.Settings(str(trained / "out"), str(tmp_path / "in.jsonl"),
                                   str(tmp_path / "out.jsonl"), (), 0, "float32"))
  *said, last = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
  with (trained / "out" / "predictions" / "extra.tsv").open(newline="") as file:
    named = [row["prediction"] for row in csv.DictReader(file, delimiter="\t")]
  assert [",".join(row["labels"]) for row in said] == named
  assert last == {"labels": None, "probabilities": None}
  for row in said:
    assert [name for name, p in row["probabilities"].items() if p > 0.5] == row["labels"]
