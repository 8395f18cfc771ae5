"""Files and folders are written whole or not at all; a cache folder keeps its bound."""

import os

import pytest

from support import files


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


def test_what_a_killed_process_left_is_no_obstacle(tmp_path):
  (tmp_path / "folder.tmp" / "half").mkdir(parents=True)
  with files.written_whole(tmp_path / "folder") as temporary:
    temporary.mkdir()
  assert list((tmp_path / "folder").iterdir()) == []


def test_the_least_recently_used_files_go_first(tmp_path):
  for age, name in enumerate(("new", "used", "old", "oldest")):
    (tmp_path / f"{name}.arrow").write_bytes(bytes(10))
    os.utime(tmp_path / f"{name}.arrow", (10**9 - age, 10**9 - age))
  (tmp_path / "notes.txt").write_bytes(bytes(100))  # not the cache's
  files.keep_within(tmp_path, 25)
  assert {file.name for file in tmp_path.iterdir()} == {"new.arrow", "used.arrow", "notes.txt"}
  files.keep_within(tmp_path / "none", 0)
