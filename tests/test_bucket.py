"""A pre-training run kept in a bucket of a real S3 server: killed, cut off, stopped; the same bits.

Each restart is on an empty machine: in an empty folder, which has no runs/.
"""

import json
import os
import pathlib
import signal

import pytest
import s3_server

from support import mirror, remote
from support.errors import UserError
from tests.stress import harness

URL = f"s3://{s3_server.BUCKET}/runs/one"


@pytest.fixture(scope="module")
def server_port():
  s3_server.skip_without_s3()
  port = s3_server.free_port()
  with s3_server.serve(port):
    yield port


@pytest.fixture
def s3(server_port, monkeypatch):
  """The server, for the client of this process."""
  use(server_port, monkeypatch)
  return server_port


@pytest.fixture
def network(s3):
  network = s3_server.Network(s3)
  yield network
  network.cut()


def use(port, monkeypatch):
  import s3fs

  for name, value in s3_server.environment(port).items():
    monkeypatch.setenv(name, value)
  s3fs.S3FileSystem.clear_instance_cache()


def listed(url):
  """Names of the files that are there, whole."""
  try:
    content = (remote.reach(url, "output_dir") / "mirrored.json").read()
  except FileNotFoundError:
    return set()
  return set(json.loads(content)["files"])


def steps_there(url):
  return sorted({int(name.split("/")[1]) for name in listed(url)
                 if name.startswith("checkpoints/")})


def test_an_interrupted_run_ends_with_the_bits_of_an_unbroken_one(network, tmp_path):
  inputs = harness.Inputs.make(tmp_path / "inputs")
  environment = inputs.environment(**s3_server.environment(network.port), PYTHONUNBUFFERED="1")
  long = {"num_train_steps": 120, "save_checkpoints_steps": 10, "eval_steps": 0}

  def start(machine):
    (tmp_path / machine).mkdir()
    return harness.start(["env", f"--chdir={tmp_path / machine}", *inputs.command(
        "run_pretraining", URL, **long)], environment)

  whole = harness.run(inputs.command("run_pretraining", tmp_path / "whole", **long), environment)
  assert whole.status == 0, whole.err

  killed = start("first")
  assert harness.wait_until(killed, lambda: steps_there(URL)), killed.communicate()
  os.killpg(killed.pid, signal.SIGKILL)
  killed.communicate()
  at = steps_there(URL)[-1]

  stopped = start("second")
  lines = iter(stopped.stdout.readline, "")
  assert f"fetching the run after step {at} at {URL}" in " ".join(
      line for line, _ in zip(lines, range(2), strict=False))
  next(line for line in lines if "compiling" in line)
  network.cut()
  next(line for line in lines if f"warning: {URL} cannot be written (" in line)
  stopped.send_signal(signal.SIGTERM)
  next(line for line in lines if "uploading the rest" in line)
  network.mend()
  rest, errors = "".join(lines), stopped.stderr.read()
  assert stopped.wait(60) == 143, errors
  stopped.stdout.close(), stopped.stderr.close()
  assert f"{URL} can be written again" in rest
  saved = steps_there(URL)[-1]
  assert f"step {saved} is saved" in errors

  last = harness.end(start("third"), 0)
  assert last.status == 0, last.err
  assert f"continuing after step {saved}" in last.out
  assert last.out.endswith(f"mirrored: {URL}\n")
  folder = tmp_path / "third" / mirror.local_folder(URL)
  assert harness.differences(folder, tmp_path / "whole") == []
  here = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
  assert listed(URL) == here - {".lock"}


def test_a_bucket_that_is_not_there_is_one_line(s3, tmp_path):
  with pytest.raises(UserError, match="s3://nobodys/run: .*bucket does not exist"):
    mirror.Mirror("s3://nobodys/run", tmp_path)


def test_wrong_credentials_are_one_line(tmp_path, monkeypatch):
  s3_server.skip_without_s3()
  port = s3_server.free_port()
  with s3_server.serve(port, INITIAL_NO_AUTH_ACTION_COUNT="1"):  # the making of the bucket
    use(port, monkeypatch)
    with pytest.raises(UserError, match=f"{URL} cannot be reached .PermissionError: "):
      mirror.Mirror(URL, tmp_path)


def test_a_server_that_is_not_there_is_one_line(tmp_path, monkeypatch):
  s3_server.skip_without_s3()
  use(s3_server.free_port(), monkeypatch)
  monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
  with pytest.raises(UserError, match=f"{URL} cannot be reached .EndpointConnectionError: "):
    mirror.Mirror(URL, tmp_path)


def test_inputs_come_from_a_bucket(s3, tmp_path, capsys):
  for name, content in (("a.txt", b"one"), ("b.txt", b"two"), ("c.csv", b"no")):
    (remote.reach(f"s3://{s3_server.BUCKET}/data", "") / name).write(content)
  pattern = f"s3://{s3_server.BUCKET}/data/*.txt"

  def copies():
    paths = remote.local_copies(pattern, "train_files", str(tmp_path)).split(",")
    return [pathlib.Path(path).read_text() for path in paths]

  assert copies() == ["one", "two"]
  (remote.reach(f"s3://{s3_server.BUCKET}/data", "") / "b.txt").write(b"TWO")
  capsys.readouterr()
  assert copies() == ["one", "TWO"]
  assert capsys.readouterr().out.splitlines() == [
      f"fetching s3://{s3_server.BUCKET}/data/b.txt (0.0 MB) ..."]
