"""A run's folder and its copy at a URL: killed at every moment, damaged, out of reach, twice."""

import contextlib
import itertools
import json
import threading
import uuid

import pytest

from support import files, mirror, remote
from support.errors import UserError


class KilledError(BaseException):
  """Stands for the end of the process: nothing is tried again."""


@pytest.fixture
def url():
  """A URL of its own in fsspec's file system in memory."""
  return f"memory://bucket-{uuid.uuid4().hex}/runs/one"


@pytest.fixture
def client(url):
  return remote.reach(url, "output_dir").system


def write_run(folder, steps, logged, finished=False):
  """Writes what a run leaves; the content of a file names its step."""
  for name, content in {"config.json": "{}", "metrics.jsonl": f"up to {logged}",
                        "tokenizer/vocab.txt": "words", ".lock": "mine",
                        ".metrics.jsonl.tmp": "half"}.items():
    write(folder / name, content)
  for step in steps:
    for part in ("params/manifest", "params/d/0", "optimizer/manifest"):
      write(folder / "checkpoints" / str(step) / part, f"{part} of {step}")
  write(folder / "checkpoints" / f"{max(steps) + 100}.orbax-checkpoint-tmp" / "params", "half")
  if finished:
    write(folder / "model" / "config.json", "{}")
    write(folder / "model" / "model.safetensors", "weights")
  return folder


def write(file, content):
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_text(content)


def remove_step(folder, step):
  mirror.shutil.rmtree(folder / "checkpoints" / str(step))


def upload(url, folder):
  """Uploads all of a folder; returns the mirror."""
  one = mirror.Mirror(url, folder)
  while one.upload_next(True):
    pass
  return one


def fetched(url, folder):
  """Fetches into a new folder; returns relative path -> content."""
  folder.mkdir(exist_ok=True)
  mirror.Mirror(url, folder).fetch()
  return content_of(folder)


def content_of(folder):
  return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*")
          if path.is_file() and not any(part.startswith(".") or "tmp" in part
                                        for part in path.relative_to(folder).parts)}


@contextlib.contextmanager
def killed_at(client, monkeypatch, moment):
  """Ends the process before its `moment`-th change of the store."""
  count = itertools.count()

  def counted(method):
    def change(*args, **kwargs):
      if next(count) == moment:
        raise KilledError
      return method(*args, **kwargs)
    return change

  with monkeypatch.context() as patch:
    for name in ("pipe_file", "put_file", "rm"):
      patch.setattr(client, name, counted(getattr(client, name)))
    yield


# --- Up and down ------------------------------------------------------------------------------


def test_an_empty_machine_gets_all_that_was_finished(url, client, tmp_path):
  here = write_run(tmp_path / "here", (100, 200), 250)
  upload(url, here)
  assert fetched(url, tmp_path / "there") == content_of(here)
  names = client.find(remote.reach(url, "").path)
  assert not [name for name in names if ".lock" in name or "tmp" in name or "probe" in name]


def test_killed_at_every_moment_of_an_upload(url, client, tmp_path, monkeypatch, capsys):
  """There is then the old checkpoint or the new one, whole, with the logs of its steps."""
  here, seen = write_run(tmp_path / "here", (100,), 100), set()
  upload(url, here)
  for moment in itertools.count():
    # Back to the state in which 100 is the last.
    mirror.shutil.rmtree(here)
    client.rm(remote.reach(url, "").path, recursive=True)
    upload(url, write_run(here, (100,), 100))
    one = mirror.Mirror(url, here)
    write_run(here, (200,), 200, finished=True)
    remove_step(here, 100)
    write(here / "tokenizer" / "vocab.txt", "other words")  # replaced whole
    killed = False
    with killed_at(client, monkeypatch, moment):
      try:
        while one.upload_next(True):
          pass
      except KilledError:
        killed = True
    capsys.readouterr()
    there = fetched(url, tmp_path / f"there-{moment}")
    assert "left out" not in capsys.readouterr().out  # what the list names is there
    steps = {name.split("/")[1] for name in there if name.startswith("checkpoints/")}
    seen.add((*sorted(steps), "model" if "model/config.json" in there else ""))
    assert steps
    for step in steps:
      assert there[f"checkpoints/{step}/params/d/0"] == f"params/d/0 of {step}"
      assert f"checkpoints/{step}/optimizer/manifest" in there
    assert int(there["metrics.jsonl"].split()[-1]) >= max(map(int, steps))
    assert ("model/config.json" in there) == ("model/model.safetensors" in there)
    # Another process uploads the rest.
    upload(url, here)
    assert fetched(url, tmp_path / f"again-{moment}") == content_of(here)
    root = remote.reach(url, "")
    assert {name.removeprefix(f"{root.path}/") for name in client.find(root.path)} == {
        "mirrored.json", *content_of(here)}
    if not killed:
      break
  assert moment > 10
  assert seen == {("100", ""), ("100", "200", ""), ("200", ""), ("200", "model")}


def test_killed_at_every_moment_of_the_first_upload(url, client, tmp_path, monkeypatch):
  here = write_run(tmp_path / "here", (100,), 100)
  for moment in itertools.count():
    killed = False
    with killed_at(client, monkeypatch, moment):
      try:
        upload(url, here)
      except KilledError:
        killed = True
    upload(url, here)
    assert fetched(url, tmp_path / f"there-{moment}") == content_of(here)
    client.rm(remote.reach(url, "").path, recursive=True)
    if not killed:
      break
  assert moment > 7


def test_what_is_deleted_here_is_deleted_there_once_a_newer_one_is_there(url, tmp_path):
  here = write_run(tmp_path / "here", (100, 200), 200)
  one = upload(url, here)
  remove_step(here, 200)
  remove_step(here, 100)
  (here / "metrics.jsonl").unlink()
  while one.upload_next(True):
    pass
  there = fetched(url, tmp_path / "a")
  assert "checkpoints/200/params/d/0" in there  # no newer one
  assert "metrics.jsonl" not in there
  write_run(here, (300,), 300)
  while one.upload_next(True):
    pass
  assert fetched(url, tmp_path / "b") == content_of(here)


def test_a_checkpoint_that_the_run_deletes_meanwhile_is_uploaded_whole(url, client, tmp_path,
                                                                       monkeypatch):
  here = write_run(tmp_path / "here", (100,), 100)
  put, whole = client.put_file, content_of(here)

  def delete_first(file, *args, **kwargs):
    if (here / "checkpoints" / "100").exists() and ".uploading" in file and "params" in file:
      remove_step(here, 100)
    return put(file, *args, **kwargs)

  monkeypatch.setattr(client, "put_file", delete_first)
  upload(url, here)
  assert not (here / "checkpoints" / "100").exists()
  assert fetched(url, tmp_path / "there") == whole


def test_a_log_may_grow_while_it_is_uploaded(url, client, tmp_path, monkeypatch):
  here = write_run(tmp_path / "here", (100,), 100)
  pipe = client.pipe_file

  def grow_first(path, content, **kwargs):
    if path.endswith("metrics.jsonl"):
      write(here / "metrics.jsonl", "up to 100, and more")
    return pipe(path, content, **kwargs)

  monkeypatch.setattr(client, "pipe_file", grow_first)
  one = mirror.Mirror(url, here)
  one.upload_next(True)
  assert fetched(url, tmp_path / "there")["metrics.jsonl"] == "up to 100"


# --- Which of the two ---------------------------------------------------------------------------


def test_the_farther_one_is_continued(url, tmp_path, capsys):
  here = write_run(tmp_path / "here", (100, 200), 200)
  upload(url, here)
  behind = write_run(tmp_path / "behind", (100,), 150)
  assert fetched(url, behind)["metrics.jsonl"] == "up to 200"
  assert "fetching the run after step 200" in capsys.readouterr().out
  ahead = write_run(tmp_path / "ahead", (200, 300), 300)
  assert fetched(url, ahead)["metrics.jsonl"] == "up to 300"
  assert "fetching" not in capsys.readouterr().out
  upload(url, ahead)
  assert fetched(url, here)["checkpoints/300/params/d/0"] == "params/d/0 of 300"
  finished = write_run(tmp_path / "finished", (300,), 300, finished=True)
  upload(url, finished)
  assert "model/model.safetensors" in fetched(url, here)


def test_another_run_is_refused(url, tmp_path):
  upload(url, write_run(tmp_path / "here", (100,), 100))
  other = write_run(tmp_path / "other", (100,), 100)
  write(other / "config.json", '{"seed": 2}')
  with pytest.raises(UserError, match="holds another run than .*other, .*choose another"):
    mirror.Mirror(url, other).fetch()


def test_a_run_without_a_checkpoint_keeps_its_config(url, tmp_path):
  """So that another config is refused there too."""
  write(tmp_path / "here" / "config.json", "{}")
  upload(url, tmp_path / "here")
  assert fetched(url, tmp_path / "there") == {"config.json": "{}"}


def test_a_fetch_that_was_cut_short_is_made_again(url, client, tmp_path, monkeypatch):
  upload(url, write_run(tmp_path / "here", (100, 200), 200, finished=True))
  whole, get, moment = content_of(tmp_path / "here"), client.get_file, -1
  while True:
    moment += 1
    count = itertools.count()

    def cut(*args, moment=moment, count=count, **kwargs):
      if next(count) == moment:
        raise KeyboardInterrupt
      return get(*args, **kwargs)

    there = tmp_path / f"there-{moment}"
    monkeypatch.setattr(client, "get_file", cut)
    try:
      fetched(url, there)
      break
    except KeyboardInterrupt:
      monkeypatch.setattr(client, "get_file", get)
      assert fetched(url, there) == whole
  assert moment == len(whole)


# --- Damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_a_damaged_checkpoint_is_named_and_passed_over(url, client, tmp_path, damage, capsys):
  upload(url, write_run(tmp_path / "here", (100, 200), 200))
  place = remote.reach(url, "") / "checkpoints/200/params/d/0"
  content = place.read()
  if damage == "missing":
    place.remove()
  else:
    place.write(content[:-1] if damage == "cut" else bytes([content[0] ^ 1]) + content[1:])
  there = fetched(url, tmp_path / "there")
  assert not [name for name in there if "200/" in name]
  assert "checkpoints/100/params/d/0" in there
  out = capsys.readouterr().out
  assert f"warning: {place.url} is " in out
  assert "checkpoints/200 is left out" in out


def test_a_damaged_config_stops_the_run(url, tmp_path):
  upload(url, write_run(tmp_path / "here", (100,), 100))
  (remote.reach(url, "") / "config.json").write(b"[]")
  with pytest.raises(UserError, match="/config.json is not as it was written; choose another"):
    fetched(url, tmp_path / "there")


@pytest.mark.parametrize("content", [
    b"", b"[]", b'{"files": 1}', b'{"files": {"a": [1]}}', b"\xff"])
def test_a_damaged_list_stops_the_run(url, tmp_path, content):
  (remote.reach(url, "") / "mirrored.json").write(content)
  with pytest.raises(UserError, match="/mirrored.json is damaged .*choose another"):
    mirror.Mirror(url, tmp_path)


def test_something_else_is_not_written_over(url, tmp_path):
  (remote.reach(url, "") / "thesis.txt").write(b"years of work")
  with pytest.raises(UserError, match="is not empty and holds no run; choose another"):
    mirror.Mirror(url, tmp_path)


# --- The thread -----------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
  """No pause of the thread decides how long a test takes."""
  monkeypatch.setattr(mirror, "_POLL", 0.01)
  monkeypatch.setattr(mirror, "_LONGEST_PAUSE", 0.01)
  monkeypatch.setattr(mirror, "_LONGEST_LAST_PAUSE", 0.01)


class Network:
  """A store's client that fails while the network is gone."""

  def __init__(self, client, monkeypatch):
    self.gone = False
    self.failed, self.wrote = threading.Event(), threading.Event()
    for name in ("pipe_file", "put_file", "rm", "cat_file"):
      monkeypatch.setattr(client, name, self._through(getattr(client, name)))

  def _through(self, method):
    def call(*args, **kwargs):
      if self.gone:
        self.failed.set()
        raise ConnectionError("no route to host")
      result = method(*args, **kwargs)
      self.wrote.set()
      return result
    return call


def test_a_network_that_is_gone_is_said_once_and_waited_for(url, client, tmp_path, monkeypatch,
                                                            quick, capsys):
  network = Network(client, monkeypatch)
  here = write_run(tmp_path / "here", (100,), 100)
  with mirror.finished():
    one = mirror.Mirror(url, here)
    network.gone = True
    one.start()
    assert network.failed.wait(20)
    for _ in range(3):  # more failures, and no more words
      network.failed.clear()
      assert network.failed.wait(20)
    network.wrote.clear()
    network.gone = False
    assert network.wrote.wait(20)
  out = capsys.readouterr().out
  assert out.count("cannot be written (ConnectionError: no route to host); the run goes on") == 1
  assert out.count("can be written again") == 1
  assert out.splitlines()[-1] == f"mirrored: {url}"
  assert fetched(url, tmp_path / "there") == content_of(here)


def test_the_end_of_a_run_says_what_is_missing(url, client, tmp_path, monkeypatch, quick):
  network = Network(client, monkeypatch)
  monkeypatch.setattr(mirror, "_PATIENCE", 0.1)
  here = write_run(tmp_path / "here", (100,), 100)
  with (pytest.raises(UserError, match=f"{url} lacks checkpoints/100, tokenizer, the last logs "
                                       ".*no route to host.*; the same command uploads the rest"),
        mirror.finished()):
    one = mirror.Mirror(url, here)
    network.gone = True
    one.start()
  network.gone = False  # so that the thread comes to its end
  one._thread.join(20)
  assert not one._thread.is_alive()


def test_the_reason_of_an_end_is_kept(url, client, tmp_path, monkeypatch, quick, capsys):
  """After a signal or an error the rest is uploaded too; what is missing is a line before."""
  network = Network(client, monkeypatch)
  monkeypatch.setattr(mirror, "_PATIENCE_WHEN_STOPPED", 0.1)
  with pytest.raises(KeyboardInterrupt, match="step 100 is saved"), mirror.finished():
    mirror.Mirror(url, write_run(tmp_path / "here", (100,), 100)).start()
    raise KeyboardInterrupt("step 100 is saved")
  assert fetched(url, tmp_path / "there") == content_of(tmp_path / "here")
  with pytest.raises(KeyboardInterrupt, match="step 200 is saved"), mirror.finished():
    one = mirror.Mirror(url, write_run(tmp_path / "here", (200,), 200))
    network.gone = True
    one.start()
    raise KeyboardInterrupt("step 200 is saved")
  assert f"warning: {url} lacks checkpoints/200, the last logs" in capsys.readouterr().err
  network.gone = False
  one._thread.join(20)


def test_the_process_that_began_last_has_the_url(url, tmp_path, quick, capsys):
  here = write_run(tmp_path / "here", (100,), 100)
  first = upload(url, here)
  upload(url, write_run(tmp_path / "other", (100,), 120))
  with pytest.raises(UserError, match="now writes to memory"), mirror.finished():
    write(here / "metrics.jsonl", "up to 110")
    first.start()
  assert "this run goes on and is not uploaded any more" in capsys.readouterr().out
  assert fetched(url, tmp_path / "there")["metrics.jsonl"] == "up to 120"


def test_what_somebody_removed_is_uploaded_again(url, client, tmp_path, quick):
  here = write_run(tmp_path / "here", (100,), 100)
  one = upload(url, here)
  client.rm(remote.reach(url, "").path, recursive=True)
  write(here / "metrics.jsonl", "up to 110")
  with mirror.finished():
    one.start()
  assert fetched(url, tmp_path / "there") == content_of(here)


# --- Names ----------------------------------------------------------------------------------------


def test_the_local_folder_of_a_url():
  for url, folder in {"s3://b/run/1": "runs/s3/b/run/1", "gs://b": "runs/gs/b",
                      "file:///a/b": "runs/file/a/b", "sftp://me:word@host/x/": "runs/sftp/host/x"
                      }.items():
    assert mirror.local_folder(url).as_posix() == folder
  for url in ("s3://", "s3:///", "s3://b/../c", "://b"):
    with pytest.raises(UserError, match="must name a folder, as in s3://BUCKET/FOLDER"):
      mirror.local_folder(url)


def test_the_list_is_readable(url, tmp_path):
  """Another program may check what is there."""
  write(tmp_path / "here" / "config.json", "{}")
  upload(url, tmp_path / "here")
  content = json.loads((remote.reach(url, "") / "mirrored.json").read())
  assert content["files"] == {
      "config.json": [list(files.size_and_checksum(tmp_path / "here" / "config.json"))]}
