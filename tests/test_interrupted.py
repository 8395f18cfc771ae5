"""A run that is killed and stopped again and again ends like one that never was."""

import json
import os
import signal
import time

import pytest

from tests.stress import harness


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
  return harness.Inputs.make(tmp_path_factory.mktemp("stress") / "inputs")


@pytest.fixture(scope="module")
def environment(inputs):
  return inputs.environment(XLA_FLAGS="")  # one device


@pytest.fixture(scope="module")
def whole(inputs, environment, tmp_path_factory):
  """The folder of an unbroken run."""
  folder = tmp_path_factory.mktemp("whole") / "run"
  ended = harness.run(inputs.command("run_pretraining", folder, **harness.SHORT), environment)
  assert (ended.status, ended.lines) == (0, [])
  return folder


def entries(folder):
  return os.listdir(folder) if folder.is_dir() else []


def test_seven_interruptions_lose_nothing(inputs, environment, whole, tmp_path):
  out = tmp_path / "run"
  command = inputs.command("run_pretraining", out, **harness.SHORT)
  saved = set()  # the steps that were saved when the process began
  continues = "step {} is saved; the same command continues from it"

  def is_saving():
    return any("tmp" in name for name in entries(out / "checkpoints"))

  def has_saved():
    return set(harness.steps_saved(out)) - saved

  def trains():
    return harness.steps_logged(out) >= max(saved, default=0) + 6

  for number, has_come, line in (
      (signal.SIGTERM, (out / "config.json").exists,
       "there is no saved step; the same command begins again"),
      (signal.SIGKILL, (out / "checkpoints").exists, ""),
      (signal.SIGKILL, is_saving, ""),
      (signal.SIGTERM, trains, continues),
      (signal.SIGKILL, has_saved, ""),
      (signal.SIGTERM, is_saving, continues),
      (signal.SIGKILL, lambda: any(name.startswith(".model") for name in entries(out)), "")):
    process = harness.start(command, environment)
    assert harness.wait_until(process, has_come), process.communicate()
    os.killpg(process.pid, number)
    ended = harness.end(process, time.monotonic())
    saved.clear()
    saved.update(harness.steps_saved(out))
    if number == signal.SIGKILL:
      assert ended.status == -signal.SIGKILL
    else:
      assert ended.status == 143
      assert ended.lines[-1] == f"stopped by SIGTERM; {line.format(max(saved, default=''))}"
      assert len(ended.lines) <= 2
  ended = harness.run(command, environment)
  assert (ended.status, ended.lines) == (0, [])
  assert harness.differences(out, whole) == []


def test_the_folder_is_one_process_s(inputs, environment, tmp_path):
  out = tmp_path / "run"
  command = inputs.command("run_pretraining", out, **harness.SHORT)
  first = harness.start(command, environment)
  assert harness.wait_until(first, (out / "checkpoints").exists)
  second = harness.run(command, environment)
  os.killpg(first.pid, signal.SIGKILL)
  first.communicate()
  assert second.status == 1
  assert len(second.lines) == 1
  assert f"{out} is in use by process {first.pid} on " in second.err


def test_an_interrupted_run_has_one_record_a_step(whole):
  """What `harness.differences` compares with holds each record once itself."""
  steps = [(record["step"], "eval_loss" in record) for record in map(
      json.loads, (whole / "metrics.jsonl").read_text().splitlines())]
  assert len(set(steps)) == len(steps) == 40 + 4
