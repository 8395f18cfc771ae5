"""make_submission.py: GLUE's eleven files from finished runs, checked against the test files."""

import json
import zipfile

from absl import flags
import numpy as np
import pytest
from test_predict import export, sentences

from classification import tasks
from classification.prediction import load_classifier
import make_submission
from support.errors import UserError

ROWS = 6  # of each test file
ELEVEN = ("CoLA SST-2 MRPC STS-B QQP MNLI-m MNLI-mm QNLI RTE WNLI AX").split()


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
  """GLUE's test files, with the diagnostic set and WNLI."""
  folder = tmp_path_factory.mktemp("glue")

  def write(file, header, texts, first=0):
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    rows = [(first + i, *(sentences(1, 8, seed=i * 7 + j)[0] for j in range(texts)))
            for i in range(ROWS)]
    (folder / file).write_text("".join(
        "\t".join(map(str, row)) + "\n" for row in (("index", *header), *rows)))

  for task in tasks.GLUE_TASKS.values():
    for split in task.test_splits:
      write(f"{task.folder}/{split}.tsv", task.tsv_texts, len(task.tsv_texts), first=3)
  write("diagnostic/diagnostic.tsv", ("sentence1", "sentence2"), 2)
  write("WNLI/test.tsv", ("sentence1", "sentence2"), 2)
  (folder / "WNLI" / "train.tsv").write_text("index\tsentence1\tsentence2\tlabel\n"
                                             "0\ta\tb\t1\n1\ta\tb\t0\n2\ta\tb\t1\n")
  return folder


def write_run(folder, task, glue, score=0.5, predicts=True, **knobs):
  """A finished run's files, but for its weights."""
  (folder / "model").mkdir(parents=True)
  (folder / "model" / "config.json").write_text("{}")
  (folder / "config.json").write_text(json.dumps({
      "script": "run_classifier",
      "config": {"dataset_name": task.name, "dataset_path": str(glue), "cache_dir": str(
          glue / "cache"), "max_seq_length": 16, **knobs}}))
  (folder / "eval_results.json").write_text(json.dumps({
      f"eval_{metric}{suffix}": score for suffix in task.eval_splits.values()
      for metric in task.metrics}))
  for name in task.test_splits.values() if predicts else ():
    label = "2.5" if task.regression else task.label_names[1] if task.predicts_names else "1"
    (folder / "predictions").mkdir(exist_ok=True)
    (folder / "predictions" / f"{name}.tsv").write_text("index\tprediction\n" + "".join(
        f"{i + 3}\t{label}\n" for i in range(ROWS)))
  return folder


def with_model(run, task, config, tokenizer):
  """Gives a run weights."""
  for file in (run / "model").iterdir():
    file.unlink()
  (run / "model").rmdir()
  export(run / "model", config, tokenizer, task.label_names, task.text_columns)
  return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory, glue, tiny_config, tokenizer):
  """A run of each task, as a sweep leaves them: mnli has weights, rte has several runs."""
  folder = tmp_path_factory.mktemp("runs")
  for task in tasks.GLUE_TASKS.values():
    run = write_run(folder / task.name / "seed-0", task, glue)
    if task.name == "mnli":
      with_model(run, task, tiny_config, tokenizer)
  write_run(folder / "rte" / "seed-1", tasks.GLUE_TASKS["rte"], glue, score=0.7)
  (folder / "rte" / "seed-1" / "predictions" / "RTE.tsv").write_text(
      "index\tprediction\n" + "".join(f"{i + 3}\tentailment\n" for i in range(ROWS)))
  return folder


def run(*arguments):
  """Runs the command on flags, in this process."""
  values = flags.FlagValues()
  make_submission.define_flags(values)
  values(["make_submission.py", *map(str, arguments)])
  make_submission.make_submission(make_submission.Settings.from_flags(values))


def unpacked(file):
  """{name of a file of the submission: its rows}."""
  with zipfile.ZipFile(file) as archive:
    return {name: [line.split("\t") for line in archive.read(name).decode().splitlines()]
            for name in archive.namelist()}


def test_eleven_files_of_the_best_runs(tmp_path, runs, glue, capsys):
  run(f"--runs={runs}", f"--output={tmp_path / 'submission.zip'}")
  found = unpacked(tmp_path / "submission.zip")
  assert sorted(found) == sorted(f"{name}.tsv" for name in ELEVEN)
  for name, lines in found.items():
    first = 0 if name in ("AX.tsv", "WNLI.tsv") else 3
    assert lines[0] == ["index", "prediction"]
    assert [line[0] for line in lines[1:]] == [str(first + i) for i in range(ROWS)], name
  assert {line[1] for line in found["WNLI.tsv"][1:]} == {"1"}  # two of its three training rows
  assert {line[1] for line in found["RTE.tsv"][1:]} == {"entailment"}
  said = capsys.readouterr().out
  assert f"rte: {runs}/rte/seed-1, dev accuracy 0.7000, the best of 2 runs" in said
  assert "WNLI: no model, its majority class 1 for all" in said
  assert f"  CoLA.tsv: 6 rows, from {runs}/cola/seed-0/predictions/CoLA.tsv" in said
  assert said.endswith(f"11 files: {tmp_path}/submission.zip\n")
  # AX: the model of MNLI on the diagnostic set's own texts.
  classifier = load_classifier(str(runs / "mnli" / "seed-0"))
  texts = [tuple(line.split("\t")[1:]) for line in
           (glue / "diagnostic" / "diagnostic.tsv").read_text().splitlines()[1:]]
  with pytest.warns(UserWarning, match="3 of 6 texts are longer than 16 tokens"):
    predictions = classifier.predict(texts)
  assert [line[1] for line in found["AX.tsv"][1:]] == [
      prediction.label for prediction in predictions]
  assert classifier.max_seq_length == 16


def test_a_run_without_predictions_predicts_now(tmp_path, runs, glue, tiny_config, tokenizer,
                                                capsys):
  task = tasks.GLUE_TASKS["mrpc"]
  mine = with_model(write_run(tmp_path / "run", task, glue, predicts=False), task, tiny_config,
                    tokenizer)
  run(f"--runs={mine}", f"--output={tmp_path / 'submission.zip'}", "--partial")
  found = unpacked(tmp_path / "submission.zip")
  assert sorted(found) == ["MRPC.tsv", "WNLI.tsv"]
  texts = [tuple(line.split("\t")[1:]) for line in
           (glue / "MRPC" / "test.tsv").read_text().splitlines()[1:]]
  logits = np.concatenate([o.logits for o in load_classifier(str(mine)).outputs(texts)])
  assert [line[1] for line in found["MRPC.tsv"][1:]] == [str(i) for i in logits.argmax(-1)]
  said = capsys.readouterr().out
  assert f"  MRPC.tsv: 6 rows, predicted now: {mine} has none" in said
  assert "missing: cola, sst2, qqp, stsb, mnli, qnli, rte and so AX; the leaderboard takes" in said


@pytest.mark.parametrize("file,change,message", [
    ("CoLA", lambda text: text + "9\t1\n", r"CoLA.tsv has 7 rows, and .*test.tsv has 6; predict"),
    ("CoLA", lambda text: text.replace("4\t", "9\t"), r"CoLA.tsv:3: index '9', must be 4 as in "),
    ("CoLA", lambda text: text.replace("4\t1", "4\tyes"),
     r"CoLA.tsv:3: label 'yes' is not one of '0', '1'; predict again: delete .*CoLA.tsv"),
    ("STS-B", lambda text: text.replace("4\t2.5", "4\tnan"), r"label 'nan' is not a number"),
    ("QNLI", lambda text: "", r"does not begin with index and prediction")])
def test_files_that_do_not_fit_are_named(tmp_path, runs, file, change, message):
  task = next(t for t in tasks.GLUE_TASKS.values() if file in t.test_splits.values())
  path = runs / task.name / "seed-0" / "predictions" / f"{file}.tsv"
  before = path.read_text()
  path.write_text(change(before))
  try:
    with pytest.raises(UserError, match=message):
      run(f"--runs={runs}", f"--output={tmp_path / 'submission.zip'}")
  finally:
    path.write_text(before)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name,path,task", [
    ("mrpc", "glue_data", "mrpc"), ("MRPC", "glue_data", "mrpc"), ("SST-2", "nyu-mll/glue", "sst2"),
    ("", "nyu-mll/glue:mrpc", "mrpc"), ("", "glue", "cola"), ("rte", "glue:rte", "rte"),
    ("", "glue_data", None), ("", "someone/reviews:mrpc", None), ("", "", None)])
def test_the_task_of_a_run(name, path, task):
  stored = {"script": "run_classifier", "config": {"dataset_name": name, "dataset_path": path}}
  assert make_submission.task_of(stored) is (task and tasks.GLUE_TASKS[task])
  assert make_submission.task_of({**stored, "script": "run_pretraining"}) is None


def test_runs_compete_by_a_sweeps_score_and_first_tries_do_not(tmp_path, glue, capsys):
  task = tasks.GLUE_TASKS["mrpc"]
  write_run(tmp_path / "good", task, glue, score=0.8)
  other = write_run(tmp_path / "other", task, glue)
  (other / "eval_results.json").write_text('{"eval_f1": 0.9, "eval_accuracy": 0.6}')
  write_run(tmp_path / "newer", task, glue, score=0.9, max_train_samples=0, max_steps=0)
  for knob in ("max_steps", "max_train_samples", "max_eval_samples"):
    write_run(tmp_path / "tries" / knob, task, glue, score=1.0, **{knob: 100})
  later = write_run(tmp_path / "later", task, glue, score=1.0)  # scored again, on a few rows
  (later / "summary.json").write_text('{"dev_scores": {"eval_f1": 0.7, "eval_accuracy": 0.6}}')
  scores = {run.folder.name: run.score for run in make_submission.find_runs(tmp_path)}
  assert scores == {"good": 0.8, "newer": 0.9, "other": pytest.approx(0.75),
                    "later": pytest.approx(0.65)}
  tries = ", ".join(repr(f"{tmp_path}/tries/{knob}") for knob in (
      "max_eval_samples", "max_steps", "max_train_samples"))
  assert capsys.readouterr().out == (
      f"first tries (max_steps, max_train_samples, max_eval_samples), left out: {tries}\n")
  (tmp_path / "chosen").mkdir()  # by hand, with links; one leads back
  (tmp_path / "chosen" / "mine").symlink_to(tmp_path / "good")
  (tmp_path / "chosen" / "again").symlink_to(tmp_path / "chosen")
  assert [run.folder for run in make_submission.find_runs(tmp_path / "chosen")] == [
      tmp_path / "chosen" / "mine"]
  with pytest.raises(UserError, match="has no finished run of cola, .* or of any other GLUE task"):
    run(f"--runs={tmp_path}/tries", f"--output={tmp_path / 'submission.zip'}", "--partial")


def test_wnli_is_that_of_glue_data_whatever_the_runs_had(tmp_path, glue, capsys):
  file = tmp_path / "there" / "WNLI" / "train.tsv"
  file.parent.mkdir(parents=True)
  file.write_text("index\tlabel\n0\t0\n")
  make_submission.write_wnli(tmp_path, (tmp_path / "there", glue))
  assert capsys.readouterr().out.startswith("WNLI: no model, its majority class 0 for all\n")
  file.write_text("index\tgold\n0\t0\n")
  with pytest.raises(UserError, match="train.tsv has no column 'label'; it has 'index', 'gold'"):
    make_submission.write_wnli(tmp_path, (tmp_path / "there", glue))


def test_the_test_files_may_be_at_a_url(tmp_path, glue, monkeypatch):
  copies = {("s3://bucket/glue", "dataset_path", "kept"): str(glue)}
  monkeypatch.setattr(make_submission.remote, "local_copies",
                      lambda path, *more: copies.get((path, *more), path))
  task = tasks.GLUE_TASKS["rte"]
  write_run(tmp_path / "run", task, glue, dataset_path="s3://bucket/glue", cache_dir="kept")
  (found,) = make_submission.find_runs(tmp_path)
  assert make_submission.data_of(found, "") == str(glue)
  assert make_submission.data_of(found, "other") == "other"
  assert len(make_submission.diagnostic_rows(found, "").ids) == ROWS
  settings = make_submission.Settings("", "", "", False)
  assert glue in make_submission.glue_folders(settings, [found])


def test_messages(tmp_path, runs, glue, capsys):
  out = f"--output={tmp_path / 'submission.zip'}"
  cola = write_run(tmp_path / "runs" / "a", tasks.GLUE_TASKS["cola"], glue)
  (cola / "model" / "config.json").unlink()
  for arguments, message in (
      ((), "--runs is missing"),
      ((f"--runs={runs}",), "--output is missing"),
      ((f"--runs={tmp_path}/none", out), f"--runs={tmp_path}/none is no folder"),
      ((f"--runs={cola}", out), f"{cola} has no finished run of cola, sst2, mrpc, qqp, stsb, mnli, "
       "qnli, rte or of any other GLUE task"),
      ((f"--runs={runs}/mrpc", out), f"{runs}/mrpc has no finished run of cola, sst2, qqp, stsb, "
       "mnli, qnli, rte; --partial writes the other files")):
    with pytest.raises(UserError) as raised:
      run(*arguments)
    assert str(raised.value) == message
  assert f"not finished, left out: '{cola}'" in capsys.readouterr().out
  (tmp_path / "glue").mkdir()
  with pytest.raises(UserError, match="has no folder CoLA/"):
    run(f"--runs={runs}", out, f"--glue_data={tmp_path / 'glue'}")
