"""The script from its flags to its files, on a tiny BERT and tiny tables."""

import csv
import dataclasses
import datetime
import html
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

from conftest import GOLDEN, ROOT, run_script_in_process, WORDS
import jax
import numpy as np
import pytest
import safetensors.numpy

import checkpoint_utils
from classification import labels, splits, tasks
import configs.classifier
import experiment
import run_classifier
from support import command_line, reporting, stopping
from support.errors import UserError

TINY = ("--config.model.hidden_size=16", "--config.model.num_hidden_layers=1",
        "--config.model.num_attention_heads=2", "--config.model.intermediate_size=32",
        "--config.model.max_position_embeddings=32", "--config.max_seq_length=16",
        "--config.train_batch_size=8", "--config.eval_batch_size=8",
        "--config.predict_batch_size=4", "--config.log_every_steps=2",
        "--config.learning_rate=0.01", "--config.model.initializer_range=0.3",
        "--config.model.hidden_dropout_prob=0.0")


def run(*arguments):
  run_script_in_process(run_classifier, "classifier", *arguments)


def write_mrpc(folder, rows=40, seed=0):
  """GLUE's MRPC layout; "equivalent" exactly where a sentence says good or great."""
  rng = np.random.default_rng(seed)
  header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
  (folder / "MRPC").mkdir(parents=True)
  for split, count in (("train", rows), ("dev", rows // 2 + 1), ("test", 7)):
    lines = ["index\t" + header.split("\t", 1)[1] if split == "test" else header]
    for i in range(count):
      label = rng.integers(2)
      first = " ".join((*rng.choice(WORDS[5:8], 3), "good" if label else "bad"))
      lines.append(f"{i if split == 'test' else label}\t1\t2\t{first}\tit was \"{first}\"")
    (folder / "MRPC" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
  return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, vocab_dir):
  """A finished run on MRPC with everything asked for: (its folder, its flags, what it printed)."""
  base = tmp_path_factory.mktemp("finished")
  glue = write_mrpc(base / "glue")
  arguments = (*TINY, f"--config.tokenizer={vocab_dir}", f"--config.dataset_path={glue}",
               "--config.dataset_name=mrpc", "--config.num_train_epochs=6.0",
               "--config.do_predict=True", f"--output_dir={base / 'out'}")
  run(*arguments)
  return base / "out", arguments


def test_a_run_leaves_everything_behind(finished):
  folder, _ = finished
  names = {path.name for path in folder.iterdir()}
  assert names >= {"config.json", "metrics.jsonl", "curves.png", "checkpoints", "model",
                   "eval_results.txt", "eval_results.json", "summary.json", "predictions",
                   "report.html"}
  assert any(name.startswith("events.out.tfevents") for name in names)
  assert not list(folder.rglob("*.tmp"))
  results = json.loads((folder / "eval_results.json").read_text())
  assert set(results) == {"eval_f1", "eval_accuracy", "eval_loss", "eval_collapsed"}
  assert results["eval_collapsed"] is False
  assert f"eval_accuracy = {results['eval_accuracy']:.6f}\n" in (
      folder / "eval_results.txt").read_text()
  summary = json.loads((folder / "summary.json").read_text())
  assert (summary["steps"], summary["examples"]) == (30, 240)
  assert {"real_tokens", "train_seconds", "compile_seconds", "examples_per_second",
          "padding_share", "waiting_share"} <= set(summary)
  assert summary["dev_scores"] == {
      name: value for name, value in results.items() if name != "eval_collapsed"}
  assert summary["class_counts"]["train"]["equivalent"] + summary["class_counts"]["train"][
      "not_equivalent"] == 40
  assert sum(summary["class_counts"]["validation"].values()) == 21
  assert summary["peak_host_bytes"] > 1e8
  times = [datetime.datetime.fromisoformat(summary[name]) for name in ("start", "end")]
  assert times[0] <= times[1] and times[0].tzinfo
  lines = (folder / "predictions" / "MRPC.tsv").read_text().splitlines()
  assert lines[0] == "index\tprediction"
  assert [line.split("\t")[0] for line in lines[1:]] == [str(i) for i in range(7)]
  stored = json.loads((folder / "config.json").read_text())
  assert stored["config"]["learning_rate"] == 0.01
  assert stored["versions"]["jax"] == jax.__version__
  assert stored["model"]["hidden_size"] == 16
  records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  assert [r["step"] for r in records if "eval_f1" in r] == [5, 10, 15, 20, 25, 30]
  assert [r["step"] for r in records if "loss" in r] == [1, *range(2, 31, 2)]
  f1 = {r["step"]: r["eval_f1"] for r in records if "eval_f1" in r}
  assert summary["best_step"] == max(f1, key=f1.get)
  assert summary["best_eval_f1"] == max(f1.values())


def dev_rows(file):
  """{column: its values} of a predictions/dev.tsv."""
  with file.open(encoding="utf-8", newline="") as opened:
    header, *rows = csv.reader(opened, delimiter="\t", strict=True)
  return dict(zip(header, zip(*rows, strict=True), strict=True))


def test_the_dev_split_is_left_with_its_predictions(finished):
  """The texts as they stand in the table, and numbers that agree with the scores."""
  folder, arguments = finished
  columns = dev_rows(folder / "predictions" / "dev.tsv")
  assert list(columns) == ["row", "#1 String", "#2 String", "gold", "prediction",
                           "probability_not_equivalent", "probability_equivalent"]
  assert columns["row"] == tuple(map(str, range(21)))
  glue = pathlib.Path(next(a for a in arguments if "dataset_path" in a).partition("=")[2])
  lines = [line.split("\t") for line in (glue / "MRPC" / "dev.tsv").read_text().splitlines()[1:]]
  assert columns["#1 String"] == tuple(line[3] for line in lines)
  assert columns["#2 String"] == tuple(line[4] for line in lines)
  names = ("not_equivalent", "equivalent")
  assert columns["gold"] == tuple(names[int(line[0])] for line in lines)
  probabilities = np.array([columns[f"probability_{name}"] for name in names], float)
  np.testing.assert_allclose(probabilities.sum(0), 1, atol=2e-6)
  assert columns["prediction"] == tuple(names[i] for i in probabilities.argmax(0))
  right = np.mean([g == p for g, p in zip(columns["gold"], columns["prediction"], strict=True)])
  results = json.loads((folder / "eval_results.json").read_text())
  assert right == pytest.approx(results["eval_accuracy"])


def test_a_run_leaves_a_report(finished):
  folder, _ = finished
  content = (folder / "report.html").read_text("utf-8")
  results = json.loads((folder / "eval_results.json").read_text())
  for text in ("mrpc: fine-tuning", f"{results['eval_f1']:.4f}", "F1, dev", "Gradient norm",
               "Right and wrong, dev set", "train 40, validation 21, test 7",
               "--config.learning_rate=0.01", "Collapsed (learned nothing)",
               "training examples", "Row 0 is the first of the dev set.",
               '<a href="predictions/dev.tsv">', "Learning rate, at the steps logged"):
    assert text in content, text
  assert content.count("<figure>") == 5  # loss, both metrics, learning rate, gradient norm
  said = html.unescape(content)
  columns = dev_rows(folder / "predictions" / "dev.tsv")
  for gold, prediction, text in zip(columns["gold"], columns["prediction"], columns["#2 String"],
                                    strict=True):
    assert gold == prediction or text in said


def test_it_learns(finished):
  assert json.loads((finished[0] / "eval_results.json").read_text())["eval_accuracy"] > 0.9


def test_the_same_flags_give_the_same_bits(finished, tmp_path):
  folder, arguments = finished
  run(*arguments[:-1], f"--output_dir={tmp_path / 'again'}")
  for name in ("model/model.safetensors", "predictions/MRPC.tsv", "eval_results.json"):
    assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


def test_a_finished_run_is_scored_again_without_its_flags(finished, capsys):
  folder, arguments = finished
  before = (folder / "eval_results.json").read_bytes()
  predictions = (folder / "predictions" / "MRPC.tsv").read_bytes()
  dev = (folder / "predictions" / "dev.tsv").read_bytes()
  (folder / "eval_results.json").unlink()
  (folder / "predictions" / "dev.tsv").unlink()
  (folder / "report.html").unlink()
  run("--config.do_train=False", "--config.do_predict=True", "--config.predict_batch_size=8",
      f"--output_dir={folder}")
  assert (folder / "eval_results.json").read_bytes() == before
  assert (folder / "predictions" / "MRPC.tsv").read_bytes() == predictions
  assert (folder / "predictions" / "dev.tsv").read_bytes() == dev
  content = (folder / "report.html").read_text()
  assert content.count("<figure>") == 5  # the curves of its training
  counts = json.loads((folder / "summary.json").read_text())["class_counts"]["train"]
  assert re.findall(r"</bdi></td><td[^>]*>(\d+)</td>", content) == list(map(str, counts.values()))
  run(*arguments)  # the same command again trains nothing
  assert "this run is finished: nothing to train" in capsys.readouterr().out
  assert json.loads((folder / "summary.json").read_text())["steps"] == 30


def test_a_model_that_never_learned_is_marked(finished, tmp_path, monkeypatch):
  """Its loss shows it; its answers are not all alike."""
  monkeypatch.setattr(run_classifier.collapse, "never_learned", lambda *_: True)
  run(*finished[1], f"--output_dir={tmp_path / 'out'}")
  assert json.loads((tmp_path / "out" / "eval_results.json").read_text())["eval_collapsed"] is True
  assert "**It has collapsed" in (tmp_path / "out" / "model" / "README.md").read_text()


def test_the_page_says_what_later_scores_are_of(finished, tmp_path):
  """The knobs and the command on it are the training's."""
  folder = shutil.copytree(finished[0], tmp_path / "out")
  page = folder / "report.html"
  run("--config.do_train=False", "--config.max_eval_samples=5", f"--output_dir={folder}")
  assert ("<p>Scored again after the training, with max_eval_samples 5 (0 in training).</p>"
          ) in page.read_text()
  run("--config.do_train=False", f"--output_dir={folder}")
  assert "Scored again" not in page.read_text()


def test_a_finished_run_goes_to_the_hub(finished, monkeypatch):
  uploaded = []
  monkeypatch.setattr(experiment.hub, "check_upload", lambda name: uploaded.append(name))
  monkeypatch.setattr(experiment.hub, "upload", lambda *what: uploaded.append(what))
  run("--config.do_train=False", "--config.push_to_hub=me/bert", f"--output_dir={finished[0]}")
  assert uploaded == ["me/bert", (finished[0] / "model", "me/bert")]


def test_a_run_of_an_older_version_can_be_scored(finished):
  """It knows nothing of a knob that came later."""
  file = finished[0] / "config.json"
  before = file.read_text()
  content = json.loads(before)
  del content["config"]["deterministic"]
  file.write_text(json.dumps(content))
  run("--config.do_train=False", f"--output_dir={finished[0]}")
  file.write_text(before)


def test_an_interrupt_before_the_first_step_is_not_masked(finished, tmp_path, monkeypatch):
  def interrupt(*_, **__):
    raise KeyboardInterrupt
  monkeypatch.setattr(run_classifier.training, "train", interrupt)
  with pytest.raises(KeyboardInterrupt):
    run(*finished[1], f"--output_dir={tmp_path / 'out'}")


def test_an_evaluation_that_a_signal_cut_short_is_made_again(finished, tmp_path, monkeypatch):
  folder, arguments = finished
  score, calls = run_classifier.score_splits, []

  def stop(*args, **kwargs):
    calls.append(1)
    if len(calls) == 2:
      raise stopping.Stopped
    return score(*args, **kwargs)

  monkeypatch.setattr(run_classifier, "score_splits", stop)
  with pytest.raises(stopping.Stopped):
    run(*arguments, f"--output_dir={tmp_path / 'out'}")
  assert re.search("step [1-9].* is saved; the same command continues from it$",
                   stopping.last_line())
  run(*arguments, f"--output_dir={tmp_path / 'out'}")
  scores = [[record for record in reporting.read_metrics(place / "metrics.jsonl")
             if "eval_loss" in record] for place in (folder, tmp_path / "out")]
  assert len(scores[0]) > 2 and scores[1] == scores[0]


def test_another_run_is_not_written_over(finished):
  folder, arguments = finished
  before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
  with pytest.raises(UserError, match="already holds another run .learning_rate is 0.01 there and "
                                      "0.02 here.; choose another --output_dir"):
    run(*arguments, "--config.learning_rate=0.02")
  with pytest.raises(UserError, match="already holds another run .*seed is 42 there and 7 here"):
    run("--config.do_train=False", "--config.seed=7", f"--output_dir={folder}")
  assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_folder_of_something_else_is_left_alone(finished, tmp_path):
  (tmp_path / "thesis.tex").write_text("")
  with pytest.raises(UserError, match="is not empty and holds no run of this script"):
    run(*finished[1], f"--output_dir={tmp_path}")
  with pytest.raises(UserError, match="thesis.tex is a file"):
    run(*finished[1], f"--output_dir={tmp_path / 'thesis.tex'}")


def test_an_interrupted_run_continues_to_the_same_bits(finished, tmp_path, monkeypatch, capsys):
  folder, arguments = finished
  arguments = (*arguments, "--config.save_checkpoints_steps=10",
               f"--output_dir={tmp_path / 'out'}")
  score, calls = run_classifier.score_splits, []

  def interrupt(*args, **kwargs):
    calls.append(1)
    if len(calls) == 5:  # after step 25: the last checkpoint is that of step 20
      raise KeyboardInterrupt
    return score(*args, **kwargs)

  monkeypatch.setattr(run_classifier, "score_splits", interrupt)
  with pytest.raises(KeyboardInterrupt):
    run(*arguments)
  assert not (tmp_path / "out" / "model").exists()
  with pytest.raises(UserError, match="holds a run that is not finished; continue it with"):
    run("--config.do_train=False", f"--output_dir={tmp_path / 'out'}")
  monkeypatch.setattr(run_classifier, "score_splits", score)
  started = checkpoint_utils.find_checkpoint(str(tmp_path / "out"))
  assert started.tokenizer == str(tmp_path / "out" / "tokenizer")
  with (tmp_path / "out" / "metrics.jsonl").open("a") as file:
    file.write('{"step": 2')  # as a killed run may leave it
  changed = write_mrpc(tmp_path / "changed", seed=1)
  glue = pathlib.Path(next(a for a in arguments if "dataset_path" in a).partition("=")[2])
  for split in ("train", "dev"):
    file = glue / "MRPC" / f"{split}.tsv"
    before = file.read_bytes()
    file.write_bytes((changed / "MRPC" / file.name).read_bytes())
    name = "validation" if split == "dev" else split
    with pytest.raises(UserError, match=f"the rows of {name} hold something else than when the"):
      run(*arguments)
    file.write_bytes(before)
  run(*arguments)
  assert "continuing after step 20" in capsys.readouterr().out
  weights = "model/model.safetensors"
  assert (tmp_path / "out" / weights).read_bytes() == (folder / weights).read_bytes()
  records = [json.loads(line) for line in
             (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
  assert [r["step"] for r in records if "loss" in r] == [1, *range(2, 31, 2)]


def test_going_back_to_a_kept_step(finished, tmp_path, monkeypatch, capsys):
  """With another learning rate, once; then the same command continues from the newest."""
  out = tmp_path / "out"
  arguments = (*finished[1], "--config.save_checkpoints_steps=5", "--config.keep_checkpoints=3",
               f"--output_dir={out}")
  again = (*arguments, "--config.learning_rate=0.005", "--config.restore_step=5")
  score, calls = run_classifier.score_splits, []

  def stop_at(call):
    def stop(*args, **kwargs):
      calls.append(1)
      if len(calls) == call:
        raise stopping.Stopped
      return score(*args, **kwargs)

    calls.clear()
    monkeypatch.setattr(run_classifier, "score_splits", stop)
    with pytest.raises(stopping.Stopped):
      run(*(arguments if call == 3 else again))
    return capsys.readouterr().out.splitlines()

  def steps():
    return sorted(path.name for path in (out / "checkpoints").iterdir())

  stop_at(3)  # in the evaluation of step 15, which is then saved
  assert steps() == ["10", "15", "5"]
  with pytest.raises(UserError, match="learning_rate is 0.01 there and 0.005 here"):
    run(*again[:-1])
  with pytest.raises(UserError, match="restore_step 7 has no checkpoint in .*; there are those of "
                                      "steps 5, 10, 15$"):
    run(*again, "--config.restore_step=7")
  assert steps() == ["10", "15", "5"]
  assert "history" not in json.loads((out / "config.json").read_text())
  lines = stop_at(1)  # in the evaluation of step 10: that of step 5 is in the log
  at = lines.index("going back to step 5; later checkpoints are kept as 10.undone, 15.undone")
  assert lines[at + 1] == "from step 5 on, learning_rate is 0.01 there and 0.005 here"
  assert "continuing after step 5" in lines
  assert steps() == ["10", "10.undone", "15.undone", "5"]
  stored = json.loads((out / "config.json").read_text())
  assert stored["config"]["learning_rate"] == 0.005
  assert stored["history"] == [
      {"step": 5, "changed": ["learning_rate is 0.01 there and 0.005 here"]}]
  capsys.readouterr()
  monkeypatch.setattr(run_classifier, "score_splits", score)
  run(*again)
  printed = capsys.readouterr().out
  assert "already gone back to step 5: continuing from the newest checkpoint" in printed
  assert "continuing after step 10" in printed
  assert json.loads((out / "config.json").read_text()) == stored
  rates = {record["step"]: record["learning_rate"] for record in reporting.read_metrics(
      out / "metrics.jsonl") if "learning_rate" in record}
  before = {record["step"]: record["learning_rate"] for record in reporting.read_metrics(
      finished[0] / "metrics.jsonl") if "learning_rate" in record}
  assert sorted(rates) == sorted(before)
  assert before.pop(1) == rates.pop(1) == 0.0  # warm-up
  assert {step: rates[step] / rate for step, rate in before.items()} == {
      step: 1.0 if step <= 5 else pytest.approx(0.5) for step in before}
  with pytest.raises(UserError, match="is finished and cannot go back to restore_step 20; begin"):
    run(*again, "--config.restore_step=20")


F1_BY_STEP = {5: 0.5, 10: 0.8, 15: 0.8, 20: 0.7}


def test_early_stopping_and_the_best_outlive_every_kill(finished, tmp_path, monkeypatch, capsys):
  """The same bits as unbroken. The scores are made up, by the parameters' bits of each step."""
  arguments = (*finished[1], "--config.early_stopping_patience=2", "--config.keep_best=True",
               "--config.keep_checkpoints=1")
  score, steps_by_bits = run_classifier.score_splits, {}

  def made_up(config, classifier, *more):
    bits = np.asarray(classifier.params["classifier"]["kernel"]).tobytes()
    step = steps_by_bits.setdefault(bits, 5 * (len(steps_by_bits) + 1))
    return score(config, classifier, *more) | {"eval_f1": F1_BY_STEP[step]}

  monkeypatch.setattr(run_classifier, "score_splits", made_up)
  whole, broken = tmp_path / "whole", tmp_path / "broken"
  run(*arguments, f"--output_dir={whole}")
  said = capsys.readouterr().out
  assert "no eval_f1 in 2 evaluations was above that of step 10: the training ends here\n" in said
  assert f"model: {whole / 'model'} (the best, step 10 of 20: eval_f1 0.8000)\n" in said

  def killed(owner, name, at):
    """Kills the run in the `at`-th call of a function."""
    function, calls = getattr(owner, name), []

    def die(*args, **kwargs):
      calls.append(1)
      if len(calls) == at:
        raise KeyboardInterrupt
      return function(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
      patch.setattr(owner, name, die)
      run(*arguments, f"--output_dir={broken}")
    return capsys.readouterr().out

  checkpointer = experiment.checkpointing.Checkpointer
  killed(checkpointer, "save", 2)  # that of step 10, the new best
  with pytest.raises(UserError, match="eval_every_epochs is 1.0 there and 2.0 here"):
    run(*arguments, "--config.eval_every_epochs=2.0", f"--output_dir={broken}")
  assert "continuing after step 5\n" in killed(reporting, "write_json", 1)  # trained to step 20
  assert "continuing after step 10\n" in killed(checkpointer, "read_params", 1)
  assert "the training ends here\n" in killed(experiment, "export", 1)
  run(*arguments, f"--output_dir={broken}")
  assert len(steps_by_bits) == 4  # whatever was made again came to the same bits
  assert {path.name for path in (broken / "checkpoints").iterdir()} == {"10", "20"}
  for name in ("model/model.safetensors", "model/README.md", "evaluations.json",
               "eval_results.json", "predictions/MRPC.tsv"):
    assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
  assert json.loads((whole / "eval_results.json").read_text())["eval_f1"] == 0.8
  for folder in (whole, broken):
    scores = {record["step"]: record["eval_f1"] for record in reporting.read_metrics(
        folder / "metrics.jsonl") if "eval_f1" in record}
    assert scores == F1_BY_STEP
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["best_step"], summary["model_step"]) == (10, 10)
  tensors = safetensors.numpy.load_file(whole / "model" / "model.safetensors")
  assert steps_by_bits[np.ascontiguousarray(tensors["classifier.weight"].T).tobytes()] == 10


def write_nli(folder, task, names):
  """RTE's or MNLI's TSV layout, few rows."""
  mnli = task == "MNLI"
  header = ("index\tpromptID\tpairID\tgenre\tsentence1\tsentence2\tlabel1\tgold_label" if mnli
            else "index\tsentence1\tsentence2\tlabel")
  (folder / task).mkdir(parents=True)
  splits = ("train", "dev_matched", "dev_mismatched", "test_matched", "test_mismatched") if mnli \
      else ("train", "dev", "test")
  for split in splits:
    cut = 2 if mnli and "test" in split else int("test" in split)
    rows = [header.rsplit("\t", cut)[0] if cut else header]
    for i in range(9):
      name = names[i % len(names)]
      row = (f"{i}\t1\t2\tfiction\tthe film\tis good\t{name}\t{name}" if mnli
             else f"{i}\tthe film\tis good\t{name}")
      rows.append(row.rsplit("\t", cut)[0] if cut else row)
    (folder / task / f"{split}.tsv").write_text("\n".join(rows) + "\n")


def test_mnli_then_rte(tmp_path, vocab_dir, capsys):
  """Two dev sets; label names in predictions; a head for other classes starts afresh."""
  write_nli(tmp_path / "glue", "MNLI", ("entailment", "neutral", "contradiction"))
  write_nli(tmp_path / "glue", "RTE", ("entailment", "not_entailment"))
  common = (*TINY, f"--config.dataset_path={tmp_path / 'glue'}", "--config.do_predict=True",
            "--config.eval_every_epochs=0")
  run(*common, f"--config.tokenizer={vocab_dir}", "--config.dataset_name=mnli",
      f"--output_dir={tmp_path / 'mnli'}")
  results = json.loads((tmp_path / "mnli" / "eval_results.json").read_text())
  assert set(results) == {"eval_accuracy", "eval_accuracy_mismatched", "eval_loss",
                          "eval_loss_mismatched", "eval_collapsed"}
  for name in ("MNLI-m", "MNLI-mm"):
    rows = (tmp_path / "mnli" / "predictions" / f"{name}.tsv").read_text().splitlines()[1:]
    assert {row.split("\t")[1] for row in rows} <= {"entailment", "neutral", "contradiction"}
  for suffix in ("", "_mismatched"):
    columns = dev_rows(tmp_path / "mnli" / "predictions" / f"dev{suffix}.tsv")
    assert np.mean([g == p for g, p in zip(columns["gold"], columns["prediction"], strict=True)]
                   ) == pytest.approx(results[f"eval_accuracy{suffix}"])
  content = (tmp_path / "mnli" / "report.html").read_text()
  assert "Right and wrong, dev set</h2>" in content
  assert "Right and wrong, dev set mismatched</h2>" in content
  capsys.readouterr()
  with pytest.raises(UserError, match="has no trained classifier/bias, .* for rte .'ent"):
    run(*common, "--config.dataset_name=rte", "--config.do_train=False",
        f"--config.init_checkpoint={tmp_path / 'mnli'}", f"--output_dir={tmp_path / 'none'}")
  assert not (tmp_path / "none").exists()
  run(*common, "--config.dataset_name=rte", f"--config.init_checkpoint={tmp_path / 'mnli'}",
      f"--output_dir={tmp_path / 'rte'}")
  said = capsys.readouterr().out
  assert "classes ('entailment', 'neutral', 'contradiction') are not this task's" in said
  assert "23 tensors loaded, 2 freshly initialized (classifier/bias, classifier/kernel)" in said
  model = checkpoint_utils.find_checkpoint(str(tmp_path / "rte"))
  assert model.label_names == ("entailment", "not_entailment")


def test_label_order_is_the_checkpoints(finished, tmp_path):
  """The same model with its outputs swapped, and saying so, predicts the same."""
  folder, arguments = finished
  run_copy = tmp_path / "swapped"
  checkpoint = checkpoint_utils.find_checkpoint(str(folder))
  tensors = checkpoint.read()
  import safetensors.numpy
  run_copy.mkdir()
  for file in (folder / "model").iterdir():
    (run_copy / file.name).write_bytes(file.read_bytes())
  safetensors.numpy.save_file(
      {n: np.ascontiguousarray(v[::-1]) if n.startswith("classifier") else v
       for n, v in tensors.items()}, run_copy / "model.safetensors")
  config = json.loads((run_copy / "config.json").read_text())
  config["id2label"] = {"0": "equivalent", "1": "not_equivalent"}
  (run_copy / "config.json").write_text(json.dumps(config))
  glue = next(a for a in arguments if "dataset_path" in a)
  run(glue, "--config.dataset_name=mrpc", "--config.do_train=False", "--config.do_predict=True",
      "--config.max_seq_length=16", f"--config.init_checkpoint={run_copy}",
      f"--output_dir={tmp_path / 'out'}")
  for name in ("predictions/MRPC.tsv",):
    assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
  results = [json.loads((f / "eval_results.json").read_text()) for f in (folder, tmp_path / "out")]
  assert results[0]["eval_f1"] == results[1]["eval_f1"]


def test_regression_keeps_floats(tmp_path, vocab_dir):
  """A user's own files: jsonl with a float score; and the accumulation and bfloat16 flags."""
  rows = [{"text": f"the film is {'good' if i % 2 else 'bad'}", "score": 0.25 + 3.5 * (i % 2)}
          for i in range(16)]
  for split in ("train", "validation"):
    (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
  (tmp_path / "test.jsonl").write_text("\n".join(json.dumps({"text": r["text"]}) for r in rows))
  run(*TINY, f"--config.tokenizer={vocab_dir}", f"--config.dataset_path={tmp_path}",
      "--config.do_predict=True", "--config.gradient_accumulation_steps=2",
      "--config.dtype=bfloat16", "--config.num_train_epochs=20.0", "--config.eval_every_epochs=0",
      f"--output_dir={tmp_path / 'out'}")
  results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
  assert results["eval_pearson"] > 0.9
  assert results["eval_loss"] < 0.5
  values = [float(line.split("\t")[1]) for line in
            (tmp_path / "out" / "predictions" / "test.tsv").read_text().splitlines()[1:]]
  assert abs(values[0] - 0.25) < 0.7
  assert abs(values[1] - 3.75) < 0.7
  columns = dev_rows(tmp_path / "out" / "predictions" / "dev.tsv")
  assert list(columns) == ["row", "text", "gold", "prediction"]
  assert columns["gold"] == ("0.25", "3.75") * 8
  assert np.corrcoef(np.array([columns["gold"], columns["prediction"]], float)
                     )[0, 1] == pytest.approx(results["eval_pearson"], abs=1e-4)
  assert "Predicted over gold values" in (tmp_path / "out" / "report.html").read_text()
  assert "class_counts" not in json.loads((tmp_path / "out" / "summary.json").read_text())
  assert checkpoint_utils.find_checkpoint(str(tmp_path / "out")).regression
  pairs = tmp_path / "pairs"
  pairs.mkdir()
  (pairs / "test.csv").write_text("premise,hypothesis\nthe film,is good\n")
  with pytest.raises(UserError, match="was trained on 1 texts .text. and .* gives 2 .premise, hyp"):
    run("--config.do_train=False", "--config.do_eval=False", "--config.do_predict=True",
        "--config.max_seq_length=16", f"--config.init_checkpoint={tmp_path / 'out'}",
        f"--config.dataset_path={pairs}", f"--output_dir={tmp_path / 'other'}")


@pytest.mark.parametrize("what", ["train", "eval", "predict"])
def test_a_batch_size_must_fit_the_devices_where_it_is_used(tmp_path, what):
  import configs.classifier
  config = configs.classifier.get_config()
  config.do_predict = True
  config[f"{what}_batch_size"] = 6  # there are 4 devices
  with pytest.raises(UserError, match=f"{what}_batch_size 6 is not a positive multiple"):
    run_classifier.check_batch_sizes(experiment.Run(tmp_path, config, finished=False))
  config[f"do_{what}"] = False
  run_classifier.check_batch_sizes(experiment.Run(tmp_path, config, finished=False))
  config[f"do_{what}"] = True
  if what == "train":
    run_classifier.check_batch_sizes(experiment.Run(tmp_path, config, finished=True))


def test_small_data_has_its_tools(finished, tmp_path, capsys):
  """From a trained model: the layer and the pooler afresh, the embeddings kept, first rows only."""
  folder, arguments = finished
  with pytest.raises(UserError, match="freeze_layers 1 and reinit_layers 1 overlap: the model has"):
    run(*arguments, f"--config.init_checkpoint={folder}", "--config.reinit_layers=1",
        "--config.freeze_layers=1", f"--output_dir={tmp_path / 'none'}")
  capsys.readouterr()
  run(*arguments, f"--config.init_checkpoint={folder}", "--config.reinit_layers=1",
      "--config.freeze_embeddings=True", "--config.label_smoothing=0.1",
      "--config.class_weights=balanced", "--config.max_train_samples=16", "--config.max_steps=3",
      "--config.max_eval_samples=12", "--config.max_predict_samples=5",
      f"--output_dir={tmp_path / 'out'}")
  said = capsys.readouterr().out
  assert ("  7 tensors loaded, 18 freshly initialized (bert/layer_0/*, bert/pooler/dense/bias, "
          "bert/pooler/dense/kernel), 18 ignored (bert/layer_0/*, bert/pooler/dense/bias, "
          "bert/pooler/dense/kernel)") in said
  assert re.search(r"train: 16 examples, .*; the first 16 of 40 rows \(max_train_samples\)\n", said)
  assert re.search(r"test: 5 examples, .*; the first 5 of 7 rows \(max_predict_samples\)\n", said)
  assert re.search(r"class weights: 'not_equivalent' [\d.]+, 'equivalent' [\d.]+\n", said)
  assert re.search(r"training: 3 steps of 8 examples, 0 of .* none on [\d,]+; 1,136 frozen\n", said)
  ours, theirs = (safetensors.numpy.load_file(place / "model" / "model.safetensors")
                  for place in (tmp_path / "out", folder))
  for name, tensor in ours.items():
    assert (tensor.tobytes() == theirs[name].tobytes()) == ("embeddings" in name), name
  assert json.loads((tmp_path / "out" / "summary.json").read_text())["steps"] == 3
  assert "learning rate 0.01, 3 steps, length 16" in (
      tmp_path / "out" / "model" / "README.md").read_text()
  capsys.readouterr()
  run(*arguments, f"--config.init_checkpoint={folder}", "--config.reinit_layers=1",
      "--config.freeze_embeddings=True", "--config.label_smoothing=0.1",
      "--config.class_weights=balanced", "--config.max_train_samples=16", "--config.max_steps=3",
      "--config.max_eval_samples=12", "--config.max_predict_samples=6",
      f"--output_dir={tmp_path / 'out'}")  # its own weights, and nothing drawn
  assert "25 tensors loaded, 0 freshly initialized, 0 ignored" in capsys.readouterr().out
  assert len((tmp_path / "out" / "predictions" / "MRPC.tsv").read_text().splitlines()) == 7


def test_added_tokens_cannot_be_frozen(finished, tmp_path):
  """Their embeddings are random."""
  import transformers

  folder, arguments = finished
  shutil.copytree(folder / "model", tmp_path / "tokenizer")
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
  tokenizer.add_tokens(["wonderful", "awful"])
  tokenizer.save_pretrained(tmp_path / "tokenizer")
  arguments = (*arguments, f"--config.init_checkpoint={folder}",
               f"--config.tokenizer={tmp_path / 'tokenizer'}", "--config.resize_embeddings=True")
  for knob in ("freeze_embeddings=True", "freeze_layers=1"):
    with pytest.raises(UserError, match="resize_embeddings draws 2 rows of word embeddings, which "
                       "must be trained; leave out freeze_layers and freeze_embeddings"):
      run(*arguments, f"--config.{knob}", f"--output_dir={tmp_path / 'out'}")
  assert not (tmp_path / "out").exists()


def test_the_results_are_completed_by_host_0(finished, tmp_path, monkeypatch):
  """What it reads there lies in a folder that the others may not have."""
  folder = shutil.copytree(finished[0], tmp_path / "out")

  def told(make):
    value = make()
    return value | {"told": 1.0} if isinstance(value, dict) and "eval_collapsed" in value else value

  monkeypatch.setattr(run_classifier.hosts, "told_by_first", told)
  run("--config.do_train=False", f"--output_dir={folder}")
  assert json.loads((folder / "eval_results.json").read_text())["told"] == 1.0


def test_a_split_of_two_uses_has_one_number_of_rows():
  config = configs.classifier.get_config()
  config.max_eval_samples, config.do_predict = 5, True
  task = tasks.own_task(("text",), ("a", "b"), "test")
  with pytest.raises(UserError, match="test is used twice, and max_eval_samples 5 and max_pred"):
    splits.first_rows(config, task, "test", None)


@pytest.mark.parametrize("knob,value", [("label_smoothing", 0.1), ("class_weights", "balanced")])
@pytest.mark.parametrize("kind,names,multi_label", [("a regression", (), False),
                                                    ("any number of classes", ("a", "b"), True)])
def test_only_one_class_a_text_can_be_smoothed_and_weighed(knob, value, kind, names, multi_label):
  config = configs.classifier.get_config()
  config[knob] = value
  stsb = dataclasses.replace(tasks.GLUE_TASKS["stsb"], multi_label=multi_label)
  for task, subject in ((tasks.own_task(("text",), names, multi_label=multi_label), "this"),
                        (stsb, "stsb")):
    with pytest.raises(UserError, match=f"{knob} {value} is for one class a text; {subject} is "
                                        f"{kind}"):
      run_classifier.training_target(config, splits.RunData(task, names, {}))


@pytest.mark.parametrize("value,expected", [
    ("", ()), ("balanced", (2 / 3, 1, 2)), ("1,2.5,1e-1", (1, 2.5, 0.1)),
    ('c=3, "a, b"=1,d=2', (1, 2, 3)), ('"a, b=1",d=2,c=3', (1, 2, 3)),
    ("balance", "must be balanced, or a number for each of the classes 'a, b', 'd', 'c', in this"),
    ("a, b=1,d=2,c=3", "as NAME=NUMBER, a name with a comma in quotes: \"a, b\"=1"),
    ("1,2", "must be balanced, or a number for each"), ("c=3,d=2,e=1", "must be balanced, or a nu"),
    ("1,2,0", "'0' must be a number above 0"), ("1,2,x", "'x' must be a number above 0"),
    ("1,d=2,3", "'d=2' must be a number")])
def test_class_weights(value, expected):
  arguments = value, ("a, b", "d", "c"), np.asarray([0] * 3 + [1] * 2 + [2], np.int32)
  if isinstance(expected, str):
    with pytest.raises(UserError, match=re.escape(expected)):
      labels.weights_of_classes(*arguments)
  else:
    assert labels.weights_of_classes(*arguments) == pytest.approx(expected)


def test_there_is_no_balance_without_examples():
  with pytest.raises(UserError, match="the class 'b' has no training example, so there is no bal"):
    labels.weights_of_classes("balanced", ("a", "b"), np.zeros(3, np.int32))


# --- The user's own data ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def capitals(tmp_path_factory, vocab_dir):
  """A run on one's own rows with classes POSITIVE and NEGATIVE, in this order, and their folder."""
  base = tmp_path_factory.mktemp("capitals")
  rows = [f"the film is {'good' if i % 2 else 'bad'},{'NEGATIVE' if i % 2 else 'POSITIVE'}"
          for i in range(16)]
  (base / "train.csv").write_text("\n".join(["text,label", *rows, "the film,"]))
  run(*TINY, f"--config.tokenizer={vocab_dir}", f"--config.dataset_path={base / 'train.csv'}",
      "--config.do_eval=False", "--config.label_names=POSITIVE,NEGATIVE",
      "--config.skip_bad_rows=True", "--config.num_train_epochs=8.0",
      f"--output_dir={base / 'out'}")
  return base


def score_with(model, out, *arguments):
  """Scores a model and returns the results."""
  run("--config.do_train=False", "--config.max_seq_length=16", "--config.eval_batch_size=4",
      "--config.predict_batch_size=4", f"--config.init_checkpoint={model}", *arguments,
      f"--output_dir={out}")
  return json.loads((out / "eval_results.json").read_text())


def test_one_file_is_scored_and_predicted(capitals, tmp_path, capsys):
  """A label is missing: the row is left out, counted, and keeps its number."""
  results = score_with(capitals / "out", tmp_path / "out", "--config.do_predict=True",
                       f"--config.dataset_path={capitals / 'train.csv'}",
                       "--config.skip_bad_rows=True", "--config.positive_class=POSITIVE")
  said = capsys.readouterr().out
  assert ("texts: 'text'; label: 'label'; classes: 'POSITIVE', 'NEGATIVE' (F1 is that of "
          "'POSITIVE')") in said
  assert "validation: 16 examples, 6.0 tokens on average, 6 at most, 0.0% [UNK]; rows w" in said
  assert "rows without label left out: 1" in said
  assert results["eval_accuracy"] == results["eval_f1"] == 1.0
  predictions = tmp_path / "out" / "predictions"
  lines = (predictions / "test.tsv").read_text().splitlines()
  assert len(lines) == 18  # to be predicted a row needs no label
  assert lines[:3] == ["index\tprediction", "0\tPOSITIVE", "1\tNEGATIVE"]
  header, first, *_ = (predictions / "test.probabilities.tsv").read_text().splitlines()
  assert header == "index\tPOSITIVE\tNEGATIVE"
  assert float(first.split("\t")[1]) > 0.5
  assert sum(map(float, first.split("\t")[1:])) == pytest.approx(1)


def write_sst2(folder):
  (folder / "SST-2").mkdir(parents=True)
  rows = [f"the film is {'good' if i % 2 else 'bad'}\t{(i + 1) % 2}" for i in range(8)]
  (folder / "SST-2" / "dev.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
  return folder


def test_classes_are_matched_whatever_their_capitals(capitals, tmp_path):
  """The task's 1 is positive, the model's first output."""
  results = score_with(capitals / "out", tmp_path / "out", "--config.dataset_name=SST-2",
                       f"--config.dataset_path={write_sst2(tmp_path)}")
  assert results["eval_accuracy"] == 1.0


@pytest.mark.parametrize("names", [("gut", "schlecht"), ("LABEL_0", "LABEL_1")])
def test_a_flag_names_the_outputs_of_a_model_to_be_scored(capitals, tmp_path, names):
  model = tmp_path / "model"
  shutil.copytree(capitals / "out" / "model", model)
  config = json.loads((model / "config.json").read_text())
  (model / "config.json").write_text(json.dumps(config | {"id2label": dict(enumerate(names))}))
  glue = ("--config.dataset_name=sst2", f"--config.dataset_path={write_sst2(tmp_path)}")
  with pytest.raises(UserError, match="has no trained classifier/bias.* or say what its outputs "
                                      "are called, in their order: --config.label_names=a,b"):
    score_with(model, tmp_path / "out", *glue)
  results = score_with(model, tmp_path / "out", *glue, "--config.label_names=positive,negative")
  assert results["eval_accuracy"] == 1.0


def test_a_model_whose_classes_are_called_label_0_and_1(capitals, tmp_path, vocab_dir):
  rows = (capitals / "train.csv").read_text().replace("NEGATIVE", "LABEL_0")
  for name in ("train", "test"):
    (tmp_path / f"{name}.csv").write_text(rows.replace("POSITIVE", "LABEL_1"))
  run(*TINY, f"--config.tokenizer={vocab_dir}", f"--config.dataset_path={tmp_path}",
      "--config.eval_split=test", "--config.skip_bad_rows=True", "--config.num_train_epochs=8.0",
      f"--output_dir={tmp_path / 'out'}")
  results = score_with(tmp_path / "out", tmp_path / "out2", f"--config.dataset_path={tmp_path}",
                       "--config.eval_split=test", "--config.skip_bad_rows=True",
                       "--config.eval_batch_size=8")  # of another size, it is equal to rounding
  assert results == json.loads((tmp_path / "out" / "eval_results.json").read_text())
  assert results["eval_accuracy"] == 1.0


def test_another_vocabulary_is_warned_of(capitals, tmp_path, capsys):
  (tmp_path / "test.csv").write_text("text,label\nSieben Filme the,POSITIVE\nacht,NEGATIVE\n")
  score_with(capitals / "out", tmp_path / "out", f"--config.dataset_path={tmp_path / 'test.csv'}")
  said = capsys.readouterr().out
  assert "4.0 tokens on average, 5 at most, 75.0% [UNK]" in said
  assert "warning: so many [UNK], all the same to the model, mean that the tokenizer" in said


# --- What bad input gets ------------------------------------------------------------------------


@pytest.mark.parametrize("changes,message", [
    (["--config.dataset_name=mrcp"], "dataset_name 'mrcp' is no GLUE task .did you mean mrpc"),
    (["--config.dataset_name=wnli"], "wnli is refused"),
    (["--config.dataset_name=cola"], r"has no folder CoLA/ \(GLUE's layout of cola\)"),
    (["--config.train_batch_size=6"],
     "train_batch_size 6 is not a positive multiple of 4 devices"),
    (["--config.eval_batch_size=3"], "eval_batch_size 3 is not a positive multiple of 4 devices"),
    (["--config.gradient_accumulation_steps=4"], "train_batch_size 8 is not a positive multiple"),
    (["--config.max_seq_length=33"],
     "max_seq_length 33 is over the model's max_position_embeddings 32"),
    (["--config.model.vocab_size=30"], "the tokenizer has 35 entries and the model's voc.* 30;"),
    (["--config.model.hidden_act=mish"], "config.model: hidden_act 'mish' is unknown"),
    (["--config.dtype=float16"], "dtype 'float16' is not one of float32, bfloat16"),
    (["--config.label_names=yes,no"], "label_names 'yes', 'no' are not the classes of mrpc"),
    (["--config.positive_class=yes"], "positive_class 'yes': the classes are 'not_equivalent',"),
    (["--config.eval_split=test"], "eval_split is for your own data; mrpc is evaluated on valid"),
    (['--config.text_columns="a'], "text_columns must be names such as a,b or \"a, with"),
    (["--config.num_train_epochs=0.01"], "40 training examples x 0.01 epochs make not one batch"),
    (["--config.do_train=False"], "nothing to score: give --config.init_checkpoint"),
    (["--config.do_train=False", "--config.do_eval=False"], "nothing to"),
    (["--config.tokenizer="], "no model is named: give --config.init_checkpoint"),
    (["--config.init_checkpoint=/no/model"], "init_checkpoint /no/model does not exist"),
    (["--config.log_every_steps=-1"], "log_every_steps must be at least 0, not -1"),
    (["--config.num_train_epochs=nan"], "num_train_epochs must be a finite number from 0, not nan"),
    (["--config.seed=-1"], "seed must be from 0 to 4294967295, not -1"),
    (["--config.matmul_precision=foo"], "matmul_precision 'foo' is not one of float32,"),
    (["--config.label_names=equivalent,equivalent"], "names something twice"),
    (["--config.text_columns=#1 ID,#2 ID,Quality"], "must be one or two; --config.text_del"),
    (["--config.reinit_layers=2"], "reinit_layers 2 is over the model's 1 layers"),
    (["--config.reinit_layers=1"], "reinit_layers 1 needs --config.init_checkpoint"),
    (["--config.freeze_layers=2"], "freeze_layers 2 is over the model's 1 layers"),
    (["--config.freeze_layers=1"], "freeze_layers 1 needs --config.init_checkpoint: without"),
    (["--config.freeze_embeddings=True"], "freeze_embeddings True needs --config.init_checkpoint"),
    (["--config.class_weights=1"], "class_weights '1' must be balanced, or a number for each of"),
    (["--config.label_smoothing=1.0"], "label_smoothing must be a share from 0, below 1, not 1.0"),
    (["--config.keep_best=True", "--config.do_eval=False"], "keep_best True needs evaluations wh"),
    (["--config.early_stopping_patience=2", "--config.eval_every_epochs=0"], "patience 2 needs ev"),
    (["--config.max_steps=-1"], "max_steps must be at least 0, not -1"),
    (["--config.model.layer_norm_eps=-1"], "config.model: layer_norm_eps must be a number in"),
])
def test_bad_input_leaves_nothing_behind(finished, tmp_path, changes, message):
  with pytest.raises(UserError, match=message) as error:
    run(*finished[1], *changes, f"--output_dir={tmp_path / 'out'}")
  assert "\n" not in str(error.value)
  assert not (tmp_path / "out").exists()


def test_a_tiny_model_of_another_width_is_refused(finished, tmp_path):
  with pytest.raises(UserError, match=r"has shape \[16\] in the checkpoint and \[32\] in"):
    run(*finished[1], "--config.do_train=False", f"--config.init_checkpoint={finished[0]}",
        "--config.model.hidden_size=32", f"--output_dir={tmp_path / 'out'}")


def test_a_google_checkpoint_needs_a_tokenizer(finished, tmp_path):
  with pytest.raises(UserError, match="golden/bert_model.ckpt has no tokenizer; give"):
    run(*finished[1], f"--config.init_checkpoint={GOLDEN}", "--config.tokenizer=",
        f"--output_dir={tmp_path / 'out'}")


def test_missing_splits(finished, tmp_path):
  glue = write_mrpc(tmp_path / "glue")
  (glue / "MRPC" / "test.tsv").unlink()
  with pytest.raises(UserError, match="MRPC has no test split; it has train, validation"):
    run(*finished[1], f"--config.dataset_path={glue}", f"--output_dir={tmp_path / 'out'}")


def script(*arguments):
  done = subprocess.run((sys.executable, "run_classifier.py", *arguments), cwd=ROOT, text=True,
                        capture_output=True, check=False)
  return done.returncode, done.stderr


@pytest.mark.parametrize("arguments,message", [
    (["--config=configs/classifier.py", "--config.learning_rat=1"],
     "error: unknown knob --config.learning_rat; did you mean --config.learning_rate? All knobs: "
     "configs/classifier.py, or --help\n"),
    (["--config=configs/classifier.py", "--config.modl.hidden_size=8"],
     "error: unknown knob --config.modl.hidden_size; did you mean --config.model.hidden_size? All "
     "knobs: configs/classifier.py, or --help\n"),
    (["--config=configs/classifier.py:bert-bse"],
     "error: configs/classifier.py:bert-bse names no published BERT; known: bert-base-uncased, "),
    (["--config=configs/classifier.py", "--config.seed=x"], "error: flag --config.seed=x: "),
    (["--config=configs/none.py"],
     f"error: config file 'configs/none.py' does not exist in {ROOT}\n"),
    (["--config=configs/clasifier.py:bert-tiny"], "error: config file 'configs/clasifier.py' does "
     f"not exist in {ROOT} (there is configs/classifier.py)\n"),
    (["--config=configs/classifier.py", "--config.do_train=False", "--output_dir=/dev/null/x",
      f"--config.init_checkpoint={GOLDEN}"], "error: "),
    (["cola"], "error: unexpected argument 'cola'; flags start with --\n"),
    (["--config=configs/classifier.py:bert-tiny"],
     "error: init_checkpoint 'google/bert_uncased_L-2_H-128_A-2' is no local path and could not ")])
def test_errors_are_one_line_and_exit_1(arguments, message):
  status, stderr = script(*arguments)
  assert status == 1
  assert stderr.startswith(message)
  assert stderr.count("\n") == 1


def test_a_config_file_is_looked_for_where_one_is(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name, message in (
      ("configs/classifier.py:bert-tiny", f"'configs/classifier.py' does not exist in {tmp_path}; "
       f"the project's is --config={ROOT}/configs/classifier.py:bert-tiny"),
      ("", f"'' does not exist in {tmp_path}"), ("tests", f"'tests' does not exist in {tmp_path}"),
      ("/none.py", "'/none.py' does not exist"),
      ("~/none.py", "'~/none.py' does not exist; a shell leaves ~ as it is here: give "
       f"{os.path.expanduser('~')}/none.py")):
    with pytest.raises(UserError) as error:
      command_line.load_config(name)
    assert str(error.value) == f"config file {message}"


def test_want_of_memory_is_told_in_one_line(monkeypatch, capsys):

  def main():
    raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 58 bytes.\nStack ...")

  monkeypatch.setattr(command_line.app, "run", lambda main, flags_parser: main(["script"]))
  with pytest.raises(SystemExit):
    command_line.run_script(main)
  assert capsys.readouterr().err == (
      "error: the device has not enough memory (RESOURCE_EXHAUSTED: Out of memory allocating 58 "
      "bytes.); a smaller batch, --config.gradient_accumulation_steps or a shorter length needs "
      "less\n")


def test_no_knob_is_read_with_a_default():
  for file in pathlib.Path(ROOT).glob("*.py"):
    assert "config.get(" not in file.read_text("utf-8"), file
