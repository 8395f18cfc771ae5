"""Files are written whole or not at all, read as JSON or refused; a cache keeps its bound."""

import errno
import glob
import os
import socket
import subprocess
import sys
import tempfile

from conftest import ROOT
import pytest

from support import files
from support.errors import UserError


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_takes_its_name_at_the_end(tmp_path, shared):
  path = tmp_path / "made" / "file"
  with files.written_whole(path, shared) as temporary:
    temporary.write_text("new")
    assert not path.exists()
  assert path.read_text() == "new"
  assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_failure_leaves_what_was_there(tmp_path, as_folder):
  path = tmp_path / "made"
  path.write_text("old")
  with pytest.raises(KeyboardInterrupt), files.written_whole(path) as temporary:
    temporary.mkdir() if as_folder else temporary.write_text("half")
    raise KeyboardInterrupt
  assert path.read_text() == "old"
  assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
  for name in ("a", "b"):
    with files.written_whole(tmp_path / "folder") as temporary:
      temporary.mkdir()
      (temporary / name).touch()
  assert [file.name for file in (tmp_path / "folder").iterdir()] == ["b"]


def test_the_first_of_several_processes_wins(tmp_path):
  path = tmp_path / "folder"
  with files.written_whole(path, shared=True) as temporary:
    temporary.mkdir()
    path.mkdir()
    (path / "theirs").touch()
  assert [file.name for file in path.iterdir()] == ["theirs"]
  assert list(tmp_path.iterdir()) == [path]


def test_two_hosts_may_have_the_same_process_number(tmp_path, monkeypatch):
  with files.written_whole(tmp_path / "file", shared=True) as ours:
    ours.write_text("ours")
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    with files.written_whole(tmp_path / "file", shared=True) as theirs:
      theirs.write_text("theirs")
    assert ours.read_text() == "ours"
  assert (tmp_path / "file").read_text() == "ours"


def test_what_a_killed_process_left_is_no_obstacle(tmp_path):
  (tmp_path / ".folder.tmp" / "half").mkdir(parents=True)
  with files.written_whole(tmp_path / "folder") as temporary:
    temporary.mkdir()
  assert list((tmp_path / "folder").iterdir()) == []
  assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


@pytest.mark.parametrize("shared", [False, True])
def test_no_pattern_matches_a_file_half_written(tmp_path, shared):
  with files.written_whole(tmp_path / "a.tfrecord", shared) as temporary:
    temporary.touch()
    assert glob.glob(f"{tmp_path}/**", recursive=True) == [f"{tmp_path}/"]


def test_the_least_recently_used_files_go_first(tmp_path):
  for age, name in enumerate(("new", "used", "old", "oldest")):
    (tmp_path / f"{name}.arrow").write_bytes(bytes(10))
    files.seal(tmp_path / f"{name}.arrow")
    os.utime(tmp_path / f"{name}.arrow", (10**9 - age, 10**9 - age))
  (tmp_path / "notes.txt").write_bytes(bytes(100))  # not the cache's
  files.keep_within(tmp_path, 25)
  assert {file.name for file in tmp_path.iterdir()} == {
      "new.arrow", "new.arrow.crc32c", "used.arrow", "used.arrow.crc32c", "notes.txt"}
  files.keep_within(tmp_path / "none", 0)


@pytest.mark.parametrize("content,message", [
    (b"[1]", r"must hold a JSON object, not \[1\]"), (b"5", "must hold a JSON object, not 5"),
    (b"{", "cannot be read as JSON"), (b"\xff", "cannot be read as JSON"),
    (b'{"a": "\\ud800"}', "cannot be read as JSON: .*surrogates not allowed"),
    (b'{"a":' * 100_000, "cannot be read as JSON: it is nested too deep"),
    (b'{"a": ' + b"9" * 5000 + b"}", "cannot be read as JSON")])
def test_json_is_an_object_or_one_line(tmp_path, content, message):
  (tmp_path / "a.json").write_bytes(content)
  with pytest.raises(UserError, match=f"a.json {message}"):
    files.read_json(tmp_path / "a.json")
  (tmp_path / "a.json").write_text('{"a": "\\ud83d\\ude00"}')  # a whole pair is a character
  assert files.read_json(tmp_path / "a.json") == {"a": "😀"}


@pytest.mark.parametrize("name", ["a[1]", "a\\b", "**", "a?", os.fsdecode(b"\xff")])
def test_a_plain_path_to_files_in_any_folder(tmp_path, name):
  folder = tmp_path / name
  folder.mkdir()
  for suffix in (".index", ".data"):
    (folder / f"x{suffix}").touch()
  with files.plain_path(folder / "x") as plain:
    assert not set("[]*?\\\udcff") & set(str(plain))
    (plain.parent / f"{plain.name}.data").write_text("written")
    assert {file.name for file in plain.parent.iterdir()} == {f"{plain.name}.index",
                                                              f"{plain.name}.data"}
  assert (folder / "x.data").read_text() == "written"
  assert not plain.parent.exists()


def test_a_plain_path_is_itself(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with files.plain_path(tmp_path.relative_to(tmp_path) / "a b é") as plain:
    assert plain == tmp_path / "a b é"


def test_no_plain_path_for_temporary_files_either(tmp_path, monkeypatch):
  (tmp_path / "[x]").mkdir()
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "[x]"))
  with (pytest.raises(UserError, match="; set TMPDIR=/tmp"),
        files.plain_path(tmp_path / "[x]" / "run")):
    pass


def test_a_full_disk_is_named(tmp_path):
  with pytest.raises(OSError) as raised, files.written_whole(tmp_path / "a") as temporary:
    temporary.symlink_to("/dev/full")
    temporary.write_text("content")
  assert (raised.value.filename, raised.value.strerror) == (
      str(tmp_path / "a"), "No space left on device")
  assert list(tmp_path.iterdir()) == []


OWNER = """
import pathlib, sys
from support import files
assert files.own(pathlib.Path(sys.argv[1]))
print("owned", flush=True)
sys.stdin.read()
"""


def test_a_path_that_is_none_has_a_neighbour(tmp_path, monkeypatch):
  (tmp_path / "demo" / "minilm").mkdir(parents=True)
  monkeypatch.chdir(tmp_path)
  assert files.similar("demo/minilmm") == " (there is demo/minilm)"
  assert files.similar(tmp_path / "dmo") == f" (there is {tmp_path / 'demo'})"
  assert files.similar("demo/minilmm/") == " (there is demo/minilm)"
  (tmp_path / "demo" / "broken").symlink_to(tmp_path / "gone")
  for other in ("", "demo/broken", "demo/roberta", "none/minilm", "nyu-mll/glue", "bert-mini"):
    assert files.similar(other) == ""

  def refuse(folder):
    raise PermissionError(errno.EACCES, "Permission denied", folder)

  monkeypatch.setattr(files.os, "listdir", refuse)
  assert files.similar("demo/minilmm") == ""


def test_a_folder_belongs_to_one_process_until_it_is_killed(tmp_path):
  owner = subprocess.Popen((sys.executable, "-c", OWNER, tmp_path), cwd=ROOT, text=True,
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE)
  assert owner.stdout.readline() == "owned\n"
  with pytest.raises(UserError, match=f"is in use by process {owner.pid} on "):
    files.own(tmp_path)
  owner.kill()
  owner.communicate()
  assert files.own(tmp_path)
  assert files.own(tmp_path)  # also through another path of it
  assert (tmp_path / ".lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
