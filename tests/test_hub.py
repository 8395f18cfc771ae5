"""The README's first command with a hub on the loopback, with its cache only, and with neither.

And models to the hub.
"""

import json
import pathlib
import shlex
import subprocess
import sys
import time
from typing import NamedTuple

from conftest import ROOT
import hub_server
import ml_collections
import pytest

import configs.classifier
import experiment
from support.errors import UserError

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
  assert set(results) == {"eval_matthews_correlation", "eval_loss", "eval_collapsed"}
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


# --- To the hub ---------------------------------------------------------------------------------


@pytest.fixture
def in_reach(tmp_path, monkeypatch):
  """The root of an empty hub that this process reaches, with a token."""
  import huggingface_hub.constants

  (tmp_path / "hub").mkdir()
  with hub_server.serve(tmp_path / "hub") as endpoint:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
    huggingface_hub.close_session()
    yield tmp_path / "hub"
  huggingface_hub.close_session()


def finished_run(folder, name):
  """A finished run whose model is to go to a repository."""
  (folder / "model").mkdir(parents=True)
  (folder / "model" / "config.json").write_text("{}")
  (folder / "model" / "model.safetensors").write_bytes(bytes(range(256)) * 9)
  (folder / "model" / "README.md").write_text("---\nlibrary_name: transformers\n---\n# A BERT\n")
  config = ml_collections.ConfigDict({"push_to_hub": name, "do_train": False})
  return experiment.Run(folder, config, finished=True)


def test_a_finished_model_is_uploaded(in_reach, tmp_path, capsys):
  finished = finished_run(tmp_path / "run", "me/bert-mrpc")
  experiment.check_push(finished)
  experiment.push(finished)
  there = in_reach / "models" / "me" / "bert-mrpc"
  names = {"config.json", "model.safetensors", "README.md"}
  assert {path.name for path in there.iterdir()} == names
  for name in names:
    assert (there / name).read_bytes() == (finished.folder / "model" / name).read_bytes()
  assert capsys.readouterr().out.splitlines()[-1].endswith("/me/bert-mrpc")
  (finished.folder / "model" / "config.json").write_text("{ }")
  experiment.push(finished)  # the repository is there already
  assert (there / "config.json").read_text() == "{ }"


def test_an_upload_that_fails_is_one_line(in_reach, tmp_path, monkeypatch):
  import huggingface_hub.constants

  finished = finished_run(tmp_path / "run", "me/bert-mrpc")

  def complaint(action):
    with pytest.raises(UserError) as raised:
      action(finished)
    return str(raised.value)

  monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
  message = complaint(experiment.push)
  assert message.startswith(f"{finished.folder}/model could not be uploaded to me/bert-mrpc (")
  assert "401" in message and message.endswith("; the token may not write there: hf auth login")
  monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
  assert complaint(experiment.push).endswith(
      "; the model is whole in its folder: the same command uploads it later")
  monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
  assert "this machine has no token of the HuggingFace hub" in complaint(experiment.check_push)
  finished.config.push_to_hub = "bert"
  assert complaint(experiment.check_push) == (
      "push_to_hub must be OWNER/NAME, such as me/bert-mrpc, not 'bert'")
  assert not (in_reach / "models").exists()


def test_only_host_0_needs_a_token_and_a_tracker(tmp_path, monkeypatch):
  import huggingface_hub

  monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
  monkeypatch.setitem(sys.modules, "wandb", None)
  finished = finished_run(tmp_path / "run", "me/bert")
  config = configs.classifier.get_config()
  config.wandb_project = "bert"
  asked = experiment.Asked(config, {}, str(tmp_path / "new"))
  for check in (lambda: experiment.check_push(finished),
                lambda: experiment.open_run(asked, "run_classifier", "name")):
    with pytest.raises(UserError, match="no token of the HuggingFace hub|needs Weights & Biases"):
      check()
    with monkeypatch.context() as patch:
      patch.setattr(experiment.hosts, "is_first", lambda: False)
      check()


def test_only_a_runs_own_model_is_uploaded(in_reach, tmp_path):
  config = finished_run(tmp_path / "run", "me/bert").config
  scores = experiment.Run(tmp_path, config, finished=False)
  with pytest.raises(UserError, match="push_to_hub uploads a run's own model, and this run trains"):
    experiment.check_push(scores)


FIND = """
import json, pathlib, sys
from classification import sources
from support.errors import UserError

def found(path):
  try:
    source = sources.find_source("", path, False, pathlib.Path(sys.argv[1]))
    return [source.description, *source.splits, len(source.read("train")),
            source.read("train").class_names("label")]
  except UserError as error:
    return str(error)

print(json.dumps([found(path) for path in sys.argv[2:]]))
"""


def test_a_configuration_of_ones_own_data_set(tmp_path):
  """It is named after a colon; an error lists those that there are."""
  hub_server.write_glue(tmp_path / "hub" / "datasets" / "someone" / "reviews")
  names = ("someone/reviews:mrpc", "someone/reviews", "someone/reviews:none")
  with hub_server.serve(tmp_path / "hub") as endpoint:
    done = subprocess.run(
        [sys.executable, "-c", FIND, str(tmp_path), *names], cwd=ROOT, timeout=120, text=True,
        env=hub_server.environment(endpoint, tmp_path / "home"), capture_output=True, check=False)
  assert done.returncode == 0, done.stderr
  found, unnamed, unknown = json.loads(done.stdout.splitlines()[-1])
  assert found == ["someone/reviews mrpc (hub)", "train", "validation", "test", 40,
                   ["not_equivalent", "equivalent"]]
  for message in (unnamed, unknown):
    assert "'cola', 'mrpc'" in message
    assert message.endswith("a configuration is named by --config.dataset_path=OWNER/NAME:CONFIG")
