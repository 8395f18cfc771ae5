"""The README's first command with a hub on the loopback, with its cache only, and with neither."""

import json
import pathlib
import shlex
import subprocess
import sys
import time
from typing import NamedTuple

from conftest import ROOT
import hub_server
import pytest

COMMAND = ("python3 run_classifier.py --config=configs/classifier.py:bert-base-uncased "
           "--config.dataset_name=cola")


class Done(NamedTuple):
  """A finished process, its run's folder and the seconds it took."""

  process: subprocess.CompletedProcess
  folder: pathlib.Path
  seconds: float


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
  return hub_server.write_hub(tmp_path_factory.mktemp("hub"))


def run(endpoint, home, folder):
  """Runs the README's command in a process of its own."""
  start = time.monotonic()
  process = subprocess.run(
      [sys.executable, *shlex.split(COMMAND)[1:], f"--output_dir={folder}"], cwd=ROOT, timeout=300,
      env=hub_server.environment(endpoint, home), capture_output=True, text=True, check=False)
  return Done(process, folder, time.monotonic() - start)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def fetched(hub, home):
  """The run with the hub in reach, and the endpoint at which the hub then is no more."""
  with hub_server.serve(hub) as endpoint:
    return run(endpoint, home, home / "fetched"), endpoint


def test_the_readme_has_the_command():
  lines = (ROOT / "README.md").read_text().splitlines()
  assert shlex.split(COMMAND) in [shlex.split(line) for line in lines if line.startswith("python3")]


def test_the_first_command_fetches_trains_and_scores(fetched):
  done, _ = fetched
  assert done.process.returncode == 0, done.process.stderr
  assert "Fetching" not in done.process.stderr  # the hub client's progress bars
  assert "23 tensors loaded, 2 freshly initialized (classifier/bias, classifier/kernel)" in (
      done.process.stdout)
  assert "train: 40 examples" in done.process.stdout
  assert "validation: 20 examples" in done.process.stdout
  results = json.loads((done.folder / "eval_results.json").read_text())
  assert set(results) == {"eval_matthews_correlation", "eval_loss"}
  config = json.loads((done.folder / "model" / "config.json").read_text())
  assert config["id2label"] == {"0": "unacceptable", "1": "acceptable"}


def test_it_runs_again_from_the_cache_with_the_hub_gone(fetched, home):
  first, endpoint = fetched
  done = run(endpoint, home, home / "cached")
  assert done.process.returncode == 0, done.process.stderr
  for name in ("eval_results.json", "model/model.safetensors"):
    assert (done.folder / name).read_bytes() == (first.folder / name).read_bytes(), name


def test_without_hub_and_cache_it_ends_in_one_line_within_seconds(fetched, tmp_path):
  done = run(fetched[1], tmp_path / "home", tmp_path / "out")
  assert done.process.returncode == 1
  lines = done.process.stderr.splitlines()
  assert len(lines) == 1, lines
  assert lines[0].startswith(
      "error: init_checkpoint 'google-bert/bert-base-uncased' is no local path and could not be "
      "fetched from the HuggingFace hub (")
  assert not done.folder.exists()
  assert done.seconds < 20
