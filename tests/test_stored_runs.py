"""Runs of an earlier version go on: a run's folder on the disk is the contract.

stored_runs.tar.gz was made at commit 86b3b1e, before the house was rebuilt: tiny runs of both
scripts, finished and interrupted, with their data, by commands with relative paths.
"""

import json
import pathlib
import tarfile

from conftest import run_script_in_process
import pytest

import run_classifier
import run_pretraining
from support.errors import UserError


@pytest.fixture
def stored(tmp_path, monkeypatch):
  with tarfile.open(pathlib.Path(__file__).with_name("stored_runs.tar.gz")) as archive:
    archive.extractall(tmp_path, filter="data")
  monkeypatch.chdir(tmp_path)


def results(folder):
  return json.loads(pathlib.Path(folder, "eval_results.json").read_text())


def the_same_command(script, config, folder, *more):
  """Runs the command that a run's config.json holds, with more flags."""
  command = json.loads(pathlib.Path(folder, "config.json").read_text())["command"]
  run_script_in_process(script, config, *(argument for argument in command[1:]
                                          if not argument.startswith("--config=")), *more)


def test_a_finished_run_is_scored_and_predicts(stored):
  folder = pathlib.Path("classifier-finished")
  before, predictions = results(folder), (folder / "predictions" / "test.tsv").read_bytes()
  (folder / "eval_results.json").unlink()
  (folder / "predictions" / "test.tsv").unlink()
  run_script_in_process(run_classifier, "classifier", "--config.do_train=False",
                        "--config.do_predict=True", f"--output_dir={folder}")
  assert results(folder) == pytest.approx({**before, "eval_collapsed": False}, rel=1e-4)
  assert (folder / "predictions" / "test.tsv").read_bytes() == predictions


def test_an_interrupted_classifier_goes_on(stored, capsys):
  """Its last 15 steps see other examples than they would have: the shuffle is another."""
  the_same_command(run_classifier, "classifier", "classifier-interrupted")
  assert "continuing after step 5\n" in capsys.readouterr().out
  assert set(results("classifier-interrupted")) == {
      *results("classifier-finished"), "eval_collapsed"}  # which runs have since then
  summary = json.loads(pathlib.Path("classifier-interrupted", "summary.json").read_text())
  assert (summary["first_step"], summary["steps"]) == (5, 15)


def test_an_interrupted_pre_training_ends_as_if_never_stopped(stored, capsys):
  the_same_command(run_pretraining, "pretraining", "pretraining-interrupted")
  assert "continuing after step 5\n" in capsys.readouterr().out
  expected = {f"eval_{name}": value  # as metrics.jsonl called them then, and all files do now
              for name, value in results("pretraining-finished").items()}
  assert results("pretraining-interrupted") == pytest.approx(expected, rel=1e-4)


def test_a_knob_that_is_newer_than_a_run_may_not_change_it(stored):
  with pytest.raises(UserError, match="holds another run .optimizer is None there and 'lamb' here"):
    the_same_command(run_classifier, "classifier", "classifier-interrupted",
                     "--config.optimizer=lamb")
