"""The output of a run in progress, and the files that it leaves."""

import datetime
import importlib
import json
import resource
import sys
import types

from matplotlib import pyplot
import numpy as np
import pytest
import tensorflow as tf

from support import reporting
from support.errors import UserError

RECORD = {"loss": 1.25, "learning_rate": 2e-4, "examples_per_step": 8.0,
          "examples_per_second": 2.0, "tokens_per_second": 40.0, "padding_share": 0.1,
          "waiting_share": 0.0}


@pytest.mark.parametrize("steps_left, left", [
    (None, "0:00:24 left"),  # 6 of 10 steps, 4 seconds each
    (lambda step: 10.0 * (10 - step), "0:04:00 left")], ids=["all alike", "longer ones to come"])
@pytest.mark.parametrize("terminal", [False, True])
def test_the_time_left(tmp_path, capsys, monkeypatch, steps_left, left, terminal):
  monkeypatch.setattr(reporting, "on_a_terminal", lambda: terminal)
  monkeypatch.setenv("COLUMNS", "120")
  reporter = reporting.Reporter(tmp_path, 10, 0, steps_left)
  for _ in range(4):
    reporter.progress()
  reporter.log(4, RECORD)
  reporter.close("loss", {1: 0.1, 10: 0.0})
  out, err = capsys.readouterr()
  if terminal:
    assert not out
    assert f"4/10 [00:00, loss 1.2500, lr 2.00e-04, 2.0 examples/s, {left}]" in err
  else:
    assert not err
    assert out == (f"step 4/10  loss 1.2500  lr 2.00e-04  2.0 examples/s  40 tokens/s  "
                   f"padding 10.0%  waiting for data 0.0%  {left}\n")


def test_the_first_step_predicts_no_time(tmp_path, capsys):
  reporter = reporting.Reporter(tmp_path, 10)
  reporter.log(1, RECORD)
  reporter.close("loss", {1: 0.1, 10: 0.0})
  assert capsys.readouterr().out == "step 1/10  loss 1.2500  lr 2.00e-04\n"


def test_a_continued_run_drops_the_records_it_lost(tmp_path):
  """Also a line that a killed run cut short; a rerun of the lost steps logs them again."""
  file = tmp_path / "metrics.jsonl"
  file.write_text("".join(f'{{"step": {step}, "loss": 1.0}}\n' for step in (2, 4, 6)) + '{"st')
  reporter = reporting.Reporter(tmp_path, 10, first_step=4)
  reporter.metrics(6, {"loss": 0.5})
  reporter.close("loss", {1: 0.1, 10: 0.0})
  assert reporting.read_metrics(file) == [
      {"step": 2, "loss": 1.0}, {"step": 4, "loss": 1.0}, {"step": 6, "loss": 0.5}]


def test_scores_of_the_last_step_are_written_once(tmp_path):
  """A run killed before its export scores the last step again, and no other."""
  lines = [{"step": 4, "loss": 1.0, "learning_rate": 0.1}, {"step": 4, "eval_f1": 0.5}]
  for last, kept in ((4, lines[:1]), (10, lines)):
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    reporter = reporting.Reporter(tmp_path, last, first_step=4)
    reporter.close("eval_f1", {1: 0.1})
    assert reporting.read_metrics(file) == kept
    assert reporter.scored == (last == 10)


def test_tensorboard_shows_one_curve(tmp_path):
  """Of an interrupted run it drops the steps that are made again."""
  for first, last in ((0, 6), (4, 8)):
    reporter = reporting.Reporter(tmp_path, 8, first_step=first)
    for step in range(first + 1, last + 1):
      reporter.metrics(step, {"loss": float(first)})
    reporter.metrics(last, {"eval_f1": 0.5})
    reporter.close("eval_f1", {1: 0.1})
  assert sorted(file.suffix for file in tmp_path.glob("events*")) == [".0", ".4"]
  curve = {}
  for file in sorted(tmp_path.glob("events*")):
    for event in tf.compat.v1.train.summary_iterator(str(file)):
      if event.HasField("session_log"):  # TensorBoard forgets the steps from there on
        curve = {step: value for step, value in curve.items() if step < event.step}
      for value in event.summary.value:
        if value.tag == "eval/f1":
          continue
        assert value.tag == "train/loss"
        assert event.step not in curve
        curve[event.step] = value.simple_value
  assert curve == {1: 0, 2: 0, 3: 0, 4: 0, 5: 4, 6: 4, 7: 4, 8: 4}


DAMAGED_LINES = (
    b"5", b"\xff\xfe\x00", b"[1]", b'{"loss": 2.0}', b'{"step": "3"}', b"[" * 100_000,
    b'{"step": 1, "loss": 2.', b'2.0}{"step": 1}', b"\x00" * 4096, b"null", b'{"step": NaN}',
    b'{"step": -1, "loss": 1.0}', b'{"step": null}', b'{"step": Infinity}',
    b'{"step": 1' + b"0" * 400 + b"}", b'{"step": 1' + b"0" * 5000 + b"}")
# Records whose values are no numbers, or none that can be drawn.
ODD_VALUES = tuple(b'{"step": 3, "loss": %s}' % value for value in (
    b'"x"', b"null", b"[1.0]", b"NaN", b"-Infinity", b"1" + b"0" * 400, b'{"loss": 1.0}'))


def test_a_damaged_log_keeps_its_records(tmp_path, monkeypatch):
  """It stops no run, and curves.png shows the records that are left."""
  figures = []
  monkeypatch.setattr(pyplot, "close", figures.append)
  file, good = tmp_path / "metrics.jsonl", b'{"step": %d, "loss": 1.0}'
  file.write_bytes(b"\n".join((good % 2, *DAMAGED_LINES, *ODD_VALUES, good % 4, b'{"step": 4, ')))
  assert [record["step"] for record in reporting.read_metrics(file)] == [
      2, *[3] * len(ODD_VALUES), 4]
  reporter = reporting.Reporter(tmp_path, 10, first_step=4)
  reporter.metrics(5, {"loss": 2.0})
  reporter.close("eval_f1", {1: 0.1})
  assert [record["step"] for record in map(json.loads, file.read_text().splitlines())] == [
      2, *[3] * len(ODD_VALUES), 4, 5]
  losses = figures[0].axes[0]
  assert losses.lines[0].get_xydata().tolist() == [[2, 1.0], [4, 1.0], [5, 2.0]]
  assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize("line", DAMAGED_LINES)
def test_a_damaged_line_costs_no_other(tmp_path, line):
  file = tmp_path / "metrics.jsonl"
  file.write_bytes(b'{"step": 2}\n' + line + b'\n{"step": 4}\n')
  assert reporting.read_metrics(file) == [{"step": 2}, {"step": 4}]


def test_a_folder_in_the_place_of_the_log_is_kept(tmp_path, capsys):
  (tmp_path / "metrics.jsonl").mkdir()
  (tmp_path / "metrics.jsonl" / "mine").write_text("text")
  reporter = reporting.Reporter(tmp_path, 10)
  reporter.metrics(1, {"loss": 2.0})
  reporter.close("eval_f1", {1: 0.1})
  assert "metrics.jsonl is a folder; it is kept as " in capsys.readouterr().out
  aside, = tmp_path.glob("metrics.jsonl.damaged-*")
  assert (aside / "mine").read_text() == "text"
  assert reporting.read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 2.0}]


def test_events_that_cannot_be_written_stop_the_run(tmp_path):
  """At once, with the file's name: a limit of the files' sizes stands for a full disk."""
  reporter = reporting.Reporter(tmp_path, 10)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
  try:
    with pytest.raises(OSError, match="File too large: .*/metrics.jsonl"):
      reporter.metrics(1, {"loss": 2.0})
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to("/dev/null")
    with pytest.raises(OSError, match="File too large: .*/events"):
      reporter.metrics(1, {"loss": 2.0})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  (tmp_path / "metrics.jsonl").unlink()
  reporter.close("loss", {1: 0.1})


def test_the_curves(tmp_path, monkeypatch):
  """The schedule itself, the dev loss over the training loss, and whole numbers of steps."""
  figures = []
  monkeypatch.setattr(pyplot, "close", figures.append)
  records = [{"step": 1, "loss": 2.0}, {"step": 20, "loss": 1.0},
             {"step": 20, "eval_loss": 1.5, "eval_f1": 0.5}]
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
  schedule = {1: 0.0, 2: 5e-5, 20: 0.0}
  reporting.draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png", "eval_f1", schedule)
  losses, rates, scores = figures[0].axes
  assert [(line.get_label(), line.get_xydata().tolist()) for line in losses.lines] == [
      ("loss", [[1, 2.0], [20, 1.0]]), ("eval loss", [[20, 1.5]])]
  assert dict(rates.lines[0].get_xydata().tolist()) == schedule
  assert [line.get_label() for line in scores.lines] == ["eval f1"]
  for axis in figures[0].axes:
    ticks = axis.get_xticks()
    assert np.array_equal(ticks, ticks.round()) and len(ticks) <= 8
  assert [path.name for path in tmp_path.iterdir() if path.suffix != ".jsonl"] == ["curves.png"]


def test_results_are_written_whole_or_not_at_all(tmp_path, capsys):
  reporting.write_results(tmp_path, "eval_results", {"eval_loss": 0.25, "eval_accuracy": 0.9})
  assert capsys.readouterr().out == "eval_loss = 0.250000\neval_accuracy = 0.900000\n"
  assert (tmp_path / "eval_results.txt").read_text() == (
      "eval_accuracy = 0.900000\neval_loss = 0.250000\n")
  before = (tmp_path / "eval_results.json").read_bytes()
  assert json.loads(before) == {"eval_loss": 0.25, "eval_accuracy": 0.9}
  with pytest.raises(TypeError):
    reporting.write_json(tmp_path / "eval_results.json", {"eval_loss": object()})
  assert (tmp_path / "eval_results.json").read_bytes() == before
  assert {path.name for path in tmp_path.iterdir()} == {"eval_results.txt", "eval_results.json"}


def test_weights_and_biases_gets_the_metrics(tmp_path, monkeypatch):
  """A continued run goes on with the same run there, and another run is another one."""
  calls = []
  tracker = types.SimpleNamespace(
      log=lambda values, step: calls.append((step, values)), finish=lambda: calls.append("finish"))
  fake = types.ModuleType("wandb")
  fake.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
  fake.init = lambda **given: calls.append(given) or tracker
  monkeypatch.setitem(sys.modules, "wandb", fake)
  reporting.check_tracker("bert")
  for start in ("10:00", "10:00", "11:00"):
    (tmp_path / "config.json").write_text(json.dumps({"start": start}))
    opened = reporting.open_tracker("bert", tmp_path, {"seed": 1})
  assert opened is tracker
  assert calls[0] == {
      "project": "bert", "name": tmp_path.name, "id": calls[0]["id"], "resume": "allow",
      "config": {"seed": 1}}
  with reporting.said_to(tmp_path / "seed-0.log", "mrpc learning_rate=2e-05 seed 0"):
    reporting.open_tracker("bert", tmp_path, {})
  assert calls.pop()["name"] == "mrpc learning_rate=2e-05 seed 0"
  assert calls[0]["id"] == calls[1]["id"] != calls[2]["id"]
  reporter = reporting.Reporter(tmp_path, 10, tracker=opened)
  reporter.metrics(1, {"loss": 2.0})
  reporter.metrics(1, {"eval_f1": 0.5})
  reporter.close("eval_f1", {1: 0.1})
  assert calls[3:] == [(1, {"train/loss": 2.0}), (1, {"eval/f1": 0.5}), "finish"]

  def refuse(**given):
    raise RuntimeError("no API key\nsecond line")

  fake.init = refuse
  with pytest.raises(UserError, match="^wandb_project 'bert': no API key$"):
    reporting.open_tracker("bert", tmp_path, {})
  monkeypatch.setitem(sys.modules, "wandb", None)
  assert reporting.open_tracker("", tmp_path, {}) is None
  reporting.check_tracker("")


def test_weights_and_biases_must_be_installed(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match="^wandb_project 'bert' needs Weights & Biases: pip install "):
    reporting.check_tracker("bert")


@pytest.mark.parametrize("metric, step", [("eval_f1", 4), ("eval_loss", 6)])
def test_the_summary_is_completed(tmp_path, metric, step):
  """The best evaluation is the first of the highest scores, or of the lowest losses."""
  records = [{"step": 2, "eval_f1": 0.5, "eval_loss": 3.0, "loss": 0.1},
             {"step": 4, "eval_f1": 0.75, "eval_loss": 2.0}, {"step": 5, "eval_f1": "x"},
             {"step": 6, "eval_f1": 0.75, "eval_loss": 1.0}]
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
  (tmp_path / "summary.json").write_text('{"steps": 6}')
  reporting.complete_summary(tmp_path, metric, {"eval_f1": 0.75}, class_counts={"a": 1})
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert datetime.datetime.fromisoformat(summary.pop("end")).tzinfo
  assert summary == {"steps": 6, "best_step": step, f"best_{metric}": max(0.75, step == 6),
                     "dev_scores": {"eval_f1": 0.75}, "class_counts": {"a": 1}}
  (tmp_path / "metrics.jsonl").unlink()
  (tmp_path / "summary.json").unlink()
  reporting.complete_summary(tmp_path, metric, {})  # a run that is not scored
  assert set(json.loads((tmp_path / "summary.json").read_text())) == {"dev_scores", "end"}


def test_a_warning_of_one_of_several_runs_has_its_name(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(reporting, "_warned", set())
  for seed in (0, 1):
    with reporting.said_to(tmp_path / "mrpc" / f"seed-{seed}.log", f"mrpc seed {seed}"):
      reporting.say("step 1")
      reporting.say("  warning: odd")
  assert capsys.readouterr().out == "mrpc seed 0: warning: odd\n"
  assert (tmp_path / "mrpc" / "seed-1.log").read_text() == "step 1\n  warning: odd\n"
  reporting.say("  warning: seen before any run")
  with reporting.said_to(tmp_path / "seed-2.log", "mrpc seed 2"):
    reporting.say("  warning: seen before any run")
  assert capsys.readouterr().out == "  warning: seen before any run\n"
