"""A sweep: its flags, its runs on a tiny BERT, what is made once; runs that collapse."""

import csv
import io
import json
import pathlib
import re
import shutil
import signal
import sys
import unittest.mock

from conftest import run_script_in_process
import jax
import ml_collections
import numpy as np
import optuna
import pytest
from test_run_classifier import TINY, write_mrpc
from test_scoreboard import record

from classification import collapse, scoreboard, tasks
import configs.classifier
import experiment
import run_classifier
from support import stopping
from support.errors import MachineError, UserError
from support.study import Search
import sweep

CONFIG = configs.classifier.get_config()


def run(*arguments):
  run_script_in_process(sweep, "classifier", *arguments)


# --- Flags ------------------------------------------------------------------------------------


def planned(config=CONFIG, output_dir="OUT", overrides=(), **given):
  flags = {"tasks": "", "seeds": "", "lists": {}, "grid": "", "sampler": "grid", "num_trials": 0,
           "storage": "", "study": "", "lost_hosts": ""} | given
  asked = experiment.Asked(config, dict.fromkeys(overrides), output_dir)
  return sweep.plan_sweep(sweep.SweepFlags(asked, **flags))


def test_a_plan():
  plan = planned(tasks="cola, MRPC", seeds="0..2,7", lists={
      "learning_rate": "2e-5, 3e-5", "pack_sequences": "True,False", "optimizer": "adamw",
      "model.hidden_dropout_prob": "0,0.1"})
  assert plan.tasks == ("cola", "mrpc")
  assert plan.search == Search(
      {"learning_rate": (2e-5, 3e-5), "pack_sequences": (True, False), "optimizer": ("adamw",),
       "model.hidden_dropout_prob": (0.0, 0.1)}, (0, 1, 2, 7), "grid", 0)
  assert plan.storage == f"sqlite:///{pathlib.Path('OUT').resolve()}/study.db"
  assert len(planned(tasks="glue").tasks) == 8
  for name, path in (("MRPC", "glue_data"), ("", "nyu-mll/glue:mrpc")):  # the GLUE line knows it
    config = ml_collections.ConfigDict(CONFIG)
    config.update(dataset_name=name, dataset_path=path)
    assert planned(config).tasks == ("mrpc",)
  assert planned().search.seeds == (42,)
  assert len(list(planned(grid="paper").search.grid())) == 18  # 3 rates x 2 sizes x 3 epochs
  own = planned(grid="paper", lists={"learning_rate": "1e-4"})
  assert len(list(own.search.grid())) == 6
  assert planned(lists={"class_weights": "balanced; 1,2;"}).search.space == {
      "class_weights": ("balanced", "1,2", "")}
  assert planned(storage="sqlite:///x.db", study="ours").study == "ours"
  assert planned(output_dir="a/OUT").study == "OUT"
  assert re.fullmatch(r"runs/sweep-cola-mrpc-[\d-]+",
                      str(planned(tasks="cola,mrpc", output_dir="").folder))


@pytest.mark.parametrize("given,message", [
    ({"seeds": "0-4"}, "seeds must be such as 0..4 or 0,1,2, not '0-4'"),
    ({"seeds": "4..0"}, "seeds must be such as"),
    ({"seeds": "0..4,"}, "seeds must be such as"),
    ({"seeds": "0..99999999"}, "seeds must be such as"),
    ({"seeds": "4294967296"}, "seeds must be such as"),
    ({"seeds": "0..2,1"}, "seeds '0..2,1' has a value twice"),
    ({"tasks": "cola,mrcp"},
     r"^tasks 'mrcp' is no GLUE task \(did you mean mrpc\?\); known: cola, .*, rte \(leave --tasks "
     "out for your own"),
    ({"tasks": "cola,wnli"}, "wnli is refused"),
    ({"tasks": "cola,CoLA"}, "tasks 'cola,CoLA' has a value twice"),
    ({"grid": "papers"}, "grid 'papers' is not one of paper"),
    ({"sampler": "bayes"}, "sampler 'bayes' is not one of grid, random, tpe"),
    ({"sampler": "tpe"}, "random and tpe draw --num_trials=N of them"),
    ({"num_trials": 3}, "num_trials 3: --sampler=grid runs all settings"),
    ({"sampler": "tpe", "num_trials": -1}, "num_trials -1: "),
    ({"lists": {"learning_rate": "2e-5;3e-5"}},
     "sweep.learning_rate must be values such as 2e-5,3e-5, not '2e-5;3e-5'"),
    ({"lists": {"learning_rate": "2e-5,"}}, "sweep.learning_rate must be values such as"),
    ({"lists": {"learning_rate": "2e-5,-1"}}, "learning_rate must be a finite number from 0, not"),
    ({"lists": {"learning_rate": "2e-5,0.00002"}}, "has a value twice"),
    ({"lists": {"train_batch_size": "16,32.5"}}, "values such as 16,32, not '16,32.5'"),
    ({"lists": {"pack_sequences": "yes"}}, "values such as True,False, not 'yes'"),
    ({"lists": {"optimizer": "adamw,sgd"}}, "optimizer 'sgd' is not one of adamw, lamb"),
    ({"lists": {"model.hidden_act": "gelu,mish"}}, "sweep.model: hidden_act 'mish' is unknown"),
    ({"lists": {"seed": "1,2"}}, "sweep.seed is no flag: give --seeds=0..4"),
    ({"lists": {"dataset_name": "cola"}}, "sweep.dataset_name is no flag: give --tasks=cola,mrpc"),
    ({"lists": {"keep_checkpoints": "1,2"}},
     "the trained weights do not depend on keep_checkpoints; set it for all runs with"),
    ({"lists": {"class_weights": "1,2"}},
     "sweep.class_weights '1,2': a comma is part of a value here; divide the values by semicolons"),
    ({"lists": {"learning_rate": "1e-5"}, "overrides": ["seed", "learning_rate"]},
     "--config.learning_rate has no effect beside --sweep.learning_rate; leave it out"),
    ({"lists": {"model.hidden_act": "relu"}, "overrides": ["model.hidden_act"]},
     "--config.model.hidden_act has no effect beside --sweep.model.hidden_act; leave it out"),
    ({"grid": "paper", "overrides": ["learning_rate"]},
     r"--config.learning_rate has no effect beside --grid=paper \(--sweep.learning_rate takes"),
    ({"seeds": "0..4", "overrides": ["seed"]}, "--config.seed has no effect beside --seeds;"),
    ({"tasks": "cola", "overrides": ["dataset_name"]},
     "--config.dataset_name has no effect beside --tasks; leave it out"),
    ({"grid": "paper", "lists": {"max_steps": "0,9"}},
     r"max_steps 9 makes settings equal that differ in num_train_epochs \(2.0, 3.0, 4.0\); leave"),
    ({"grid": "paper", "config": ml_collections.ConfigDict(CONFIG.to_dict() | {"max_steps": 7})},
     "max_steps 7 makes settings equal .* or give one --sweep.num_train_epochs=2.0"),
    ({"lists": {"init_checkpoint": f"a,{'é' * 40}", "learning_rate": "1e-05,2e-05"}},
     "folder of a setting would be called 'init_checkpoint=%C3.*, 276 bytes long; 255 fit"),
    ({"study": "ours"}, "study 'ours' is a name in the database of --storage=URL; give that too"),
    ({"output_dir": "s3://bucket/x"}, "output_dir s3://bucket/x: a sweep's is a folder"),
    ({"config": ml_collections.ConfigDict(CONFIG.to_dict() | {"do_eval": False})},
     "a sweep trains and evaluates"),
    ({"config": ml_collections.ConfigDict(CONFIG.to_dict() | {"push_to_hub": "me/x"})},
     "push_to_hub: each run of a sweep would replace the one before it"),
    ({"config": ml_collections.ConfigDict(CONFIG.to_dict() | {"distributed": True})},
     "a sweep runs on one host")])
def test_flags_that_cannot_be_read(given, message):
  with pytest.raises(UserError, match=message) as error:
    planned(**given)
  assert "\n" not in str(error.value)


def test_a_knob_that_does_not_exist(capsys):
  with pytest.raises(SystemExit):
    run("--sweep.learnin_rate=1e-5")
  assert re.match(r"error: unknown knob --sweep.learnin_rate; did you mean --sweep.learning_rate\? "
                  r"All knobs: .*classifier.py, or --help\n", capsys.readouterr().err)


# --- Runs -------------------------------------------------------------------------------------


COMPILED = []  # the seconds of each compilation of this process
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: COMPILED.append(seconds) if "backend_compile" in event else None)


@pytest.fixture(scope="module")
def asked(tmp_path_factory, vocab_dir):
  """The flags of a sweep of 2 learning rates and 2 seeds."""
  base = tmp_path_factory.mktemp("sweep")
  glue = write_mrpc(base / "glue")
  return swept_instead((*TINY, f"--config.tokenizer={vocab_dir}", f"--config.dataset_path={glue}",
                        "--config.num_train_epochs=6.0", "--tasks=mrpc", "--seeds=0,1",
                        f"--output_dir={base / 'out'}"), "--sweep.learning_rate=0.01,1e-9")


def swept_instead(arguments, change):
  """The arguments with a --sweep.KNOB in place of their own value."""
  knob = change.split("=")[0].replace("--sweep.", "--config.")
  return [*(a for a in arguments if not a.startswith(f"{knob}=")), change]


def value_of(arguments, flag):
  return next(a.removeprefix(f"--{flag}=") for a in arguments if a.startswith(f"--{flag}="))


@pytest.fixture(scope="module")
def swept(asked):
  """That sweep: its folder, its flags, compilations of each run."""
  counts, run_command = [], run_classifier.run_command

  def counted(asked):
    COMPILED.clear()
    result = run_command(asked)
    counts.append(len(COMPILED))
    return result

  jax.clear_caches()  # of the tests before, which may have compiled the same
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(run_classifier, "run_command", counted)
    run(*asked)
  return pathlib.Path(value_of(asked, "output_dir")), asked, counts


def rows_of(folder):
  return list(csv.DictReader(io.StringIO((folder / "results.csv").read_text())))


def test_every_run_is_an_ordinary_run(swept):
  folder, _, _ = swept
  for rate in ("0.01", "1e-09"):
    for seed in (0, 1):
      place = folder / "mrpc" / f"learning_rate={rate}" / f"seed-{seed}"
      assert (place / "model" / "model.safetensors").exists()
      stored = json.loads((place / "config.json").read_text())["config"]
      assert (stored["learning_rate"], stored["seed"]) == (float(rate), seed)
      assert f"done: {place}" in (place.parent / f"seed-{seed}.log").read_text()


def test_a_run_has_the_command_that_makes_it_alone(swept, tmp_path):
  folder, arguments, _ = swept
  place = folder / "mrpc" / "learning_rate=0.01" / "seed-1"
  stored = json.loads((place / "config.json").read_text())
  assert set(arguments) < set(stored["made_by"])
  assert "<dt>Made by</dt>" in (place / "report.html").read_text()
  script, *flags, last = stored["command"]
  assert (script, last) == ("run_classifier.py", f"--output_dir={place}")
  run_script_in_process(run_classifier, "classifier", *flags, f"--output_dir={tmp_path / 'alone'}")
  assert ((tmp_path / "alone" / "model" / "model.safetensors").read_bytes()
          == (place / "model" / "model.safetensors").read_bytes())
  alone = json.loads((tmp_path / "alone" / "config.json").read_text())
  assert alone["config"] == stored["config"]
  assert alone["command"][1:-1] == flags
  assert "made_by" not in alone


def test_nothing_is_compiled_twice(swept):
  *_, counts = swept
  assert len(counts) == 4
  assert counts[0] > 0
  assert counts[1:] == [0, 0, 0]


def test_the_table(swept):
  folder, _, _ = swept
  rows = rows_of(folder)
  assert [(row["learning_rate"], row["seed"], row["state"]) for row in rows] == [
      ("0.01", "0", "done"), ("0.01", "1", "done"), ("1e-09", "0", "done"), ("1e-09", "1", "done")]
  for row in rows:
    results = json.loads((folder / "mrpc" / f"learning_rate={row['learning_rate']}"
                          / f"seed-{row['seed']}" / "eval_results.json").read_text())
    assert float(row["score"]) == (results["eval_f1"] + results["eval_accuracy"]) / 2
    assert row["eval_collapsed"] == str(results["eval_collapsed"])
  assert [row["eval_collapsed"] for row in rows] == ["False", "False", "True", "True"]
  text = (folder / "results.md").read_text()
  good = re.search(r"^\| mrpc \| learning_rate=0.01 .*$", text, re.M)[0]
  scores = [100 * float(row["score"]) for row in rows[:2]]
  assert [cell.strip() for cell in good.split("|")[3:-1]] == [
      ", ".join(f"{score:.2f}" for score in scores), f"{np.mean(scores):.2f}",
      f"{np.std(scores, ddof=1):.2f}", f"{np.median(scores):.2f}", f"{max(scores):.2f}", "none"]
  assert re.search(r"learning_rate=1e-09 .*\| seed 0, seed 1 \|$", text, re.M)
  assert "GLUE: " not in text  # an average of one
  for name in ("scores.png", "report.html", "study.db"):
    assert (folder / name).stat().st_size > 1000


def test_the_same_command_runs_nothing_again(swept, monkeypatch, capsys):
  folder, arguments, _ = swept
  before = (folder / "results.csv").read_bytes()
  monkeypatch.setattr(run_classifier, "run_command", None)
  run(*arguments)
  assert (folder / "results.csv").read_bytes() == before
  said = capsys.readouterr().out
  assert "| mrpc | learning_rate=0.01" in said and f" 4 runs in {folder}, 4 of them done\n" in said


def test_another_sweep_needs_another_folder(swept):
  _, arguments, _ = swept
  with pytest.raises(UserError, match="already holds another run .num_train_epochs is 6.0 there"):
    run(*arguments, "--config.num_train_epochs=5.0")
  with pytest.raises(UserError, match="max_eval_samples is 0 there and 5 here"):  # other scores
    run(*arguments, "--config.max_eval_samples=5")
  with pytest.raises(UserError, match="already holds a sweep over "
                     "--sweep.learning_rate=0.01,1e-09; choose another --output_dir"):
    run(*arguments, "--sweep.learning_rate=0.01")


def test_a_sweeps_flags_can_be_typed():
  assert sweep.sweep_flags({"learning_rate": [2e-5, 0.01], "class_weights": ["", "1,2"]}) == (
      "--sweep.learning_rate=2e-05,0.01 --sweep.class_weights=;1,2")


def test_what_limits_all_runs_is_said():
  config = CONFIG.copy_and_resolve_references()
  config.max_steps, config.max_train_samples = 4, 100
  assert sweep.limits_of(planned(config)) == "max_steps=4, max_train_samples=100"
  learning_curve = planned(config, lists={"max_train_samples": "100,1000,0"})
  assert sweep.limits_of(learning_curve) == "max_steps=4"
  assert not sweep.limits_of(planned())


def test_an_interrupted_sweep_goes_on(swept, tmp_path, monkeypatch, capsys):
  """In the middle of the first run: the step is saved, and nothing is recorded."""
  folder, arguments, _ = swept
  arguments = (*arguments, "--sweep.learning_rate=0.01", f"--output_dir={tmp_path / 'out'}")
  score, calls = run_classifier.score_splits, []

  def stop(*args, **kwargs):
    calls.append(1)
    if len(calls) == 2:
      raise stopping.Stopped
    return score(*args, **kwargs)

  monkeypatch.setattr(run_classifier, "score_splits", stop)
  with pytest.raises(stopping.Stopped):
    run(*arguments)
  assert re.search("mrpc learning_rate=0.01 seed 0: step [1-9].* is saved; the same command cont",
                   stopping.last_line())
  assert not (tmp_path / "out" / "results.csv").exists()
  run(*arguments)
  place = pathlib.Path("mrpc", "learning_rate=0.01")
  assert "continuing after step" in (tmp_path / "out" / place / "seed-0.log").read_text()
  assert int(rows_of(tmp_path / "out")[0]["first_step"]) > 0  # the seconds are of a part
  weights = place / "seed-0" / "model" / "model.safetensors"
  assert (tmp_path / "out" / weights).read_bytes() == (folder / weights).read_bytes()
  assert rows_of(tmp_path / "out") == [
      {**row, "train_seconds": there["train_seconds"],
       "first_step": there["first_step"]}
      for row, there in zip(rows_of(folder), rows_of(tmp_path / "out"), strict=False)]


def test_a_run_that_fails_does_not_stop_the_others(swept, tmp_path, capsys):
  """A loss that is not finite is found out by the run itself; a sweep of such runs fails."""
  _, arguments, _ = swept
  run(*swept_instead(arguments, "--sweep.learning_rate=1e38,0.01"), "--seeds=0",
      f"--output_dir={tmp_path / 'out'}")
  failed, done = rows_of(tmp_path / "out")
  assert failed["state"] == "failed"
  assert failed["error"].startswith("the loss is nan at step ")
  assert done["state"] == "done"
  assert f"failed: {failed['error']}" in (tmp_path / "out" / "results.md").read_text()
  assert f"mrpc learning_rate=1e%2B38 seed 0: failed: {failed['error']}" in capsys.readouterr().out
  with pytest.raises(UserError, match=r"^every run has failed \(2 of 2\); .*/none/results.md has "):
    run(*swept_instead(arguments, "--sweep.learning_rate=1e38"),
        f"--output_dir={tmp_path / 'none'}")


@pytest.mark.parametrize("change,message", [
    ("--tasks=mrpc,cola", r"has no folder CoLA/"),
    ("--sweep.train_batch_size=8,6", "train_batch_size 6 is not a positive multiple of 4 devices"),
    ("--config.tokenizer=/no/model", "/no/model"),
    ("--sweep.tokenizer=VOCAB,/no/model", "/no/model"),
    ("--sweep.init_checkpoint=,/no/checkpoint", "/no/checkpoint"),
    ("--sweep.dataset_path=GLUE,/no/data", "dataset_path /no/data does not exist"),
    ("--storage=nodatabase://x", "storage nodatabase://x cannot be opened"),
    ("--sweep.max_seq_length=16,64", "max_seq_length 64 is over the model's max_position_embeddin"),
    ("--sweep.model.hidden_size=16,18,19", "hidden_size 19"),
    ("--sweep.reinit_layers=0,2", "reinit_layers 2 is over the model's 1 layers"),
    ("--sweep.freeze_layers=0,1", "freeze_layers 1 needs --config.init_checkpoint"),
    ("--sweep.num_train_epochs=1,0.01", "not one batch of train_batch_size 8"),
    ("--sweep.class_weights=;balanced;other=1,equivalent=1", "class_weights 'other=1,equivalent=1"),
    ("--sweep.text_delimiter=, | ", "text_delimiter is for your own data; mrpc has the texts"),
    ("--config.dataset_path=BAD", r"BAD/MRPC/train.tsv:3: .*label")])
def test_nothing_is_run_before_all_is_checked(asked, tmp_path, monkeypatch, change, message):
  monkeypatch.setattr(run_classifier, "run_command", None)
  bad = shutil.copytree(pathlib.Path(value_of(asked, "config.dataset_path")), tmp_path / "BAD")
  lines = (bad / "MRPC" / "train.tsv").read_text().splitlines(keepends=True)
  (bad / "MRPC" / "train.tsv").write_text("".join([*lines[:2], f"9{lines[2][1:]}", *lines[3:]]))
  change = change.replace("BAD", str(bad))
  for word, flag in (("VOCAB", "config.tokenizer"), ("GLUE", "config.dataset_path")):
    change = change.replace(word, value_of(asked, flag))
  with pytest.raises(UserError, match=message):
    run(*swept_instead(asked, change), f"--output_dir={tmp_path / 'out'}")
  assert not list(tmp_path.glob("out/*"))


def test_a_folder_of_something_else_is_left_alone(asked, tmp_path):
  folder, storage = tmp_path / "out", f"sqlite:///{tmp_path}/study.db"
  folder.mkdir()
  (folder / "results.csv").write_text("mine")
  flags = (*asked, f"--output_dir={folder}")
  with pytest.raises(UserError, match="/out holds no sweep, but a results.csv; choose another"):
    run(*flags)
  # At a URL, the sweep may be one of several machines: the files may be its own.
  sweep.check_new_folder(planned(tasks="mrpc", output_dir=str(folder), storage=storage))
  (folder / "config.json").touch()
  with pytest.raises(UserError, match="/out holds no sweep, but a config.json; choose another"):
    run(*flags, f"--storage={storage}")
  with pytest.raises(UserError, match="output_dir .*results.csv is a file"):
    run(*flags[:-1], f"--output_dir={tmp_path / 'out' / 'results.csv'}")
  assert (folder / "results.csv").read_text() == "mine"
  assert len(list(folder.iterdir())) == 2
  (folder / "config.json").unlink()
  (folder / "mrpc" / "learning_rate=0.01" / "seed-0").mkdir(parents=True)  # its study.db is lost
  sweep.check_new_folder(planned(tasks="mrpc", output_dir=str(folder)))


def test_a_cell_of_a_grid_that_does_not_fit_is_named(played, capsys):
  """Each value fits in another one."""
  played(lambda folder: None, "--sweep.model.hidden_size=16,18",
         "--sweep.model.num_attention_heads=2,3")
  said = capsys.readouterr().out
  assert re.findall("^warning: .*will fail.*$", said, re.M) == [
      "warning: mrpc model.hidden_size=16,model.num_attention_heads=3 will fail: config.model: "
      "hidden_size 16 is not a multiple of num_attention_heads 3"]


# --- Runs that are only played ----------------------------------------------------------------


@pytest.fixture
def played(asked, tmp_path, monkeypatch):
  """Makes a sweep with a function of the run's folder in place of every run."""

  def play(act, *changes):
    def run_command(one):
      stopping.advise(lambda: "the advice of the run")
      act(pathlib.Path(one.output_dir))
      return run_classifier.CommandResult(
          one.output_dir, tasks.GLUE_TASKS["mrpc"],
          {"eval_accuracy": 0.5, "eval_f1": 0.5, "eval_collapsed": False})

    monkeypatch.setattr(run_classifier, "run_command", run_command)
    flags = [*asked, "--seeds=0", f"--output_dir={tmp_path / 'out'}"]
    for change in changes:
      flags = swept_instead(flags, change)
    run(*flags)

  return play


def test_between_two_runs_the_advice_is_the_sweeps(played):
  played(lambda folder: None)
  assert stopping.advice() == "finished runs are recorded; the same command goes on"


@pytest.mark.parametrize("place,method,recorded", [
    (optuna.Study, "tell", r"learning_rate=0.01 +\| 50.00, 50.00 "),
    (optuna.Trial, "set_user_attr", r"seed 0 \(process \d+ on ")])
def test_a_signal_waits_until_a_trial_is_recorded(played, monkeypatch, capsys, place, method,
                                                  recorded):
  function, calls = getattr(place, method), []

  def interrupted(*args, **kwargs):
    calls.append(1)
    if len(calls) == 1:
      signal.raise_signal(signal.SIGTERM)
    return function(*args, **kwargs)

  monkeypatch.setattr(place, method, interrupted)
  monkeypatch.setattr(stopping, "_received", 0)  # and puts them back
  monkeypatch.setattr(stopping, "_mode", stopping._Mode.RAISE)
  handler = signal.signal(signal.SIGTERM, stopping._answer)
  try:
    with pytest.raises(stopping.Stopped):
      played(lambda folder: None, "--seeds=0,1")
  finally:
    signal.signal(signal.SIGTERM, handler)
  assert stopping.last_line() == (
      "stopped by SIGTERM; finished runs are recorded; the same command goes on")
  monkeypatch.setattr(stopping, "_received", 0)
  capsys.readouterr()
  played(lambda folder: None, "--seeds=0,1")
  assert re.search(recorded, capsys.readouterr().out)


def test_the_scores_are_written_after_each_run(played, tmp_path):
  """A sweep may take days, and be stopped in its last run."""
  states = []

  def act(folder):
    if (tmp_path / "out" / "results.csv").exists():
      states.append([row["state"] for row in rows_of(tmp_path / "out")])

  played(act)
  assert states == [["done", "waiting"]]
  assert "mean of dev f1, accuracy" in (tmp_path / "out" / "report.html").read_text()


def test_a_sampler_is_not_promised_more_settings_than_there_are(played, capsys):
  played(lambda folder: None, "--sampler=random", "--num_trials=5")
  assert "sweep: 1 task x 2 settings x 1 seed = 2 runs in " in capsys.readouterr().out


def test_a_full_disk_ends_the_sweep_and_fails_no_run(played, tmp_path):
  """Each of the other runs would train up to its first checkpoint, and fail there."""
  def act(folder):
    folders.append(folder)
    raise MachineError("OUT/checkpoints/8 cannot be written: No space left on device")

  folders = []
  with pytest.raises(MachineError, match="No space left"):
    played(act)
  assert len(folders) == 1
  assert stopping.advice() == "mrpc learning_rate=0.01 seed 0: the advice of the run"
  made = []
  played(made.append)  # there is room again
  assert len(made) == 2
  assert [row["state"] for row in rows_of(tmp_path / "out")] == ["done", "done"]


def lose_database(folder):
  (folder.parents[2] / "study.db").unlink()


def test_a_database_that_goes_away_hides_no_score(played, capsys):
  with pytest.raises(UserError, match="study.db: .*no such table.* the same command goes on"):
    played(lose_database)
  assert "mrpc learning_rate=0.01 seed 0: f1 0.5000" in capsys.readouterr().out
  played(lambda folder: None)
  assert "| 50.00" in capsys.readouterr().out


@pytest.mark.parametrize("error", [UserError("it does not fit"), OSError("the disk is full")])
def test_a_database_that_goes_away_hides_no_error(played, capsys, error):
  def act(folder):
    lose_database(folder)
    raise error

  if isinstance(error, UserError):
    with pytest.raises(UserError, match="no such table"):
      played(act)
    assert "seed 0: failed: it does not fit" in capsys.readouterr().out
  else:
    with pytest.raises(OSError, match="the disk is full"):
      played(act)
    assert re.search("^warning: storage sqlite:.*no such table", capsys.readouterr().out, re.M)


def test_two_folders_are_not_one_study(played, tmp_path):
  storage = f"--storage=sqlite:///{tmp_path}/shared.db"
  played(lambda folder: None, storage)
  other = (storage, f"--output_dir={tmp_path / 'b' / 'out'}")
  with pytest.raises(UserError, match=f"/b/out: the study 'out' in the database has its runs in "
                                      f"{tmp_path}/out; give that, or another name: --study=NAME"):
    played(lambda folder: None, *other)
  made = []
  played(made.append, *other, "--study=theirs")
  assert len(made) == 2
  (tmp_path / "b" / "out").rename(tmp_path / "moved")
  played(made.append, storage, f"--output_dir={tmp_path / 'moved'}", "--study=theirs")
  assert len(made) == 2


def test_scores_are_written_again_if_a_run_ended_meanwhile(tmp_path):
  states = iter(["under way", "done", "done"])
  study = unittest.mock.Mock(records=lambda: [record(0, 0.5, next(states))])
  plan = planned(tasks="cola", output_dir=str(tmp_path))
  with unittest.mock.patch.object(sys, "argv", ["sweep.py"]):
    sweep.write_newest_scores(plan, {"cola": study})
  assert [row["state"] for row in rows_of(tmp_path)] == ["done"]


def test_runs_that_others_have_are_named(tmp_path, capsys):
  (tmp_path / "results.md").write_text("the table\n")
  runs = [record(0, 0.5), record(1, 0, "waiting"),
          record(2, 0, "under way")._replace(owner="process 7 on gpu-1")]
  sweep.say_scores(planned(output_dir=str(tmp_path)), scoreboard.rows_of("cola", runs))
  assert capsys.readouterr().out.splitlines()[1:3] == [
      "not finished: cola learning_rate=2e-05 seed 1; cola learning_rate=2e-05 seed 2 "
      "(process 7 on gpu-1)",
      "  the same command completes the table; what a dead process of another machine had under "
      "way, it takes up there, or here with --lost_hosts=HOST"]


# --- Collapse ---------------------------------------------------------------------------------


@pytest.mark.parametrize("task,predictions,labels,alike", [
    ("rte", [1, 1, 1], [0, 1, 1], True), ("rte", [0, 1, 1], [0, 1, 1], False),
    ("rte", [1, 1, 1], [1, 1, 1], False),  # nothing to tell apart
    ("rte", [[0, 1], [0, 1]], [[0, 1], [1, 1]], True),  # several classes an example
    ("rte", [[0, 1], [0, 0]], [[0, 1], [1, 1]], False),
    ("stsb", [2.5, 2.501, 2.5], [0.0, 2.0, 5.0], True),
    ("stsb", [2.0, 2.501, 3.0], [0.0, 2.0, 5.0], False)])
def test_answers_that_are_alike(task, predictions, labels, alike):
  assert collapse.answers_alike(tasks.GLUE_TASKS[task], np.asarray(predictions),
                                np.asarray(labels)) is alike


def records_of(*losses):
  return [{"step": 2 * i + 2, "loss": loss, "learning_rate": 1e-5}
          for i, loss in enumerate(losses)] + [{"step": 4, "eval_loss": 0.0}]


def test_a_loss_that_never_left_that_of_the_classes_frequencies():
  counts = [300, 700]
  floor = collapse.entropy(counts)
  assert floor == pytest.approx(0.610864, rel=1e-5)
  low = floor - 0.2
  assert collapse.never_learned(records_of(1.0, low, floor, floor + 0.01), counts)  # one batch
  assert not collapse.never_learned(records_of(1.0, floor, low, floor), counts)
  assert not collapse.never_learned([], counts)
  assert not collapse.never_learned(records_of(9.0), [])  # a regression, or an older run
  assert not collapse.never_learned(records_of(9.0), [0, 700])


def test_a_first_try_may_be_too_short(tmp_path, capsys):
  config = CONFIG.copy_and_resolve_references()
  config.max_steps = 4
  run = experiment.Run(tmp_path, config, finished=False)
  results = run_classifier.with_collapse(run, {"eval_collapsed": True})
  assert results == {"eval_collapsed": True}
  sign = "warning: the model has collapsed: it gives all examples of a dev set one answer; "
  rate = "a lower --config.learning_rate, another --config.seed, "
  assert capsys.readouterr().out.startswith(sign + rate)  # nothing is known of its training
  for max_steps, steps, remedy in (
      (4, 4, "4 steps of training are few: a larger --config.max_steps makes mo"),
      (0, 99, "99 steps of training are few: a larger --config.num_train_epoch"),
      (0, 100, rate)):
    config.max_steps = max_steps
    (tmp_path / "metrics.jsonl").write_text(
        json.dumps({"step": steps, "loss": 0.1, "learning_rate": 0.1}) + "\n")
    run_classifier.with_collapse(run, {"eval_collapsed": True})
    assert capsys.readouterr().out.startswith(sign + remedy)
  assert "reinit_layers" in collapse.remedy(True, 100, 0)
  assert "reinit_layers" not in collapse.remedy(False, 100, 0)  # which random weights are refused


def test_a_collapsed_run_says_so_in_a_line(swept):
  folder, _, _ = swept
  said = (folder / "mrpc" / "learning_rate=1e-09" / "seed-0.log").read_text()
  line = re.search(r"^warning: the model has collapsed: .*$", said, re.M)[0]
  for flag in re.findall(r"--config\.(\w+)", line):
    assert flag in CONFIG
  assert "eval_collapsed = True" in said
  assert "warning: the model has collapsed" not in (
      folder / "mrpc" / "learning_rate=0.01" / "seed-0.log").read_text()
  card = (folder / "mrpc" / "learning_rate=0.01" / "seed-0" / "model" / "README.md").read_text()
  assert "eval_accuracy" in card
  assert "collapsed" not in card
  lost = folder / "mrpc" / "learning_rate=1e-09" / "seed-0"
  assert "**It has collapsed" in (lost / "model" / "README.md").read_text()
