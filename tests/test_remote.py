"""URLs as inputs: copied once, again when they change; what cannot be reached is one line."""

import pathlib
import uuid

import fsspec.core
import pytest

from classification import splits
from configs import classifier
from pretraining import corpus
from support import remote
from support.errors import UserError
from support.remote import local_copies

READING = {"input_format": "auto", "text_field": "text", "language": "en", "errors": "strict"}


@pytest.fixture
def place():
  """A URL of its own in fsspec's file system in memory."""
  return remote.reach(f"memory://bucket-{uuid.uuid4().hex}", "train_files")


@pytest.fixture
def fetch(tmp_path, capsys):
  """Returns a function: patterns -> (local paths, names of the objects that were fetched)."""

  def fetch_copies(patterns):
    capsys.readouterr()
    paths = local_copies(patterns, "train_files", str(tmp_path / "cache"))
    lines = capsys.readouterr().out.splitlines()
    return paths, [line.split()[1].rpartition("/")[2] for line in lines]

  return fetch_copies


def test_a_file_is_copied_once(place, fetch):
  (place / "text.txt").write(b"one")
  path, names = fetch(f"{place.url}/text.txt")
  assert pathlib.Path(path).read_text() == "one"
  assert path.endswith(f"cache/downloads/{place.url.replace('://', '/')}/text.txt")
  assert names == ["text.txt"]
  assert fetch(f"{place.url}/text.txt") == (path, [])
  (place / "text.txt").write(b"two")
  assert fetch(f"{place.url}/text.txt") == (path, ["text.txt"])
  assert pathlib.Path(path).read_text() == "two"
  pathlib.Path(path).write_text("cut"[:1])  # of another size than the object
  assert fetch(f"{place.url}/text.txt") == (path, ["text.txt"])


def test_globs_lists_and_folders(place, fetch):
  for name in ("b.txt", "a.txt", "c.csv", "deep/d.txt"):
    (place / name).write(name.encode())
  paths, names = fetch(f"/local/*.txt, {place.url}/*.txt")
  local, *copies = paths.split(",")
  assert local == "/local/*.txt"
  assert [pathlib.Path(copy).name for copy in copies] == names == ["a.txt", "b.txt"]
  folder, names = fetch(place.url)
  assert sorted(names) == ["c.csv", "d.txt"]
  assert {path.name for path in pathlib.Path(folder).rglob("*.*") if path.name[0] != "."} == {
      "a.txt", "b.txt", "c.csv", "d.txt"}
  (place / "c.csv").remove()
  assert fetch(place.url) == (folder, [])
  assert not (pathlib.Path(folder) / "c.csv").exists()


@pytest.mark.parametrize("name", ["", "text.txt", "/data/*.txt,b.txt", "nyu-mll/glue",
                                  "wikimedia/wikipedia:20231101.en"])
def test_what_is_no_url_stays(name):
  assert local_copies(name, "train_files", "nowhere") == name


@pytest.mark.parametrize("url,message", [
    ("memory://nothing/here/*.txt", "train_files: nothing is at memory://nothing/here/.*.txt"),
    ("memory://nothing/here", "train_files: nothing is at memory://nothing/here"),
    ("s4://bucket/a.txt", "train_files s4://bucket/a.txt: Protocol not known: s4; s3://"),
    ("s3://", "train_files s3:// names no place; give such as s3://BUCKET/FOLDER")])
def test_errors_are_one_line(url, message, tmp_path):
  with pytest.raises(UserError, match=message):
    local_copies(url, "train_files", str(tmp_path))


def test_a_missing_package_is_named(monkeypatch, tmp_path):
  def missing(url, **options):
    raise ImportError("Install s3fs to access S3")

  monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
  with pytest.raises(UserError, match="s3://b/a: Install s3fs to access S3; pip install s3fs"):
    local_copies("s3://b/a", "train_files", str(tmp_path))


def test_a_network_that_fails_now_and_then(place, monkeypatch):
  pauses, failures = [], iter([ConnectionError("gone"), TimeoutError("slow")])
  monkeypatch.setattr(remote.time, "sleep", pauses.append)

  def read():
    for error in failures:
      raise error
    return b"content"

  assert remote.persistent(read, "it") == b"content"
  assert pauses == [1, 2]
  pauses.clear()
  failures = iter([ConnectionError("gone")] * 5)
  with pytest.raises(UserError, match="it cannot be reached .ConnectionError: gone"):
    remote.persistent(read, "it")
  failures = iter([PermissionError("no key")])
  pauses.clear()
  with pytest.raises(UserError, match="it cannot be reached .PermissionError: no key"):
    remote.persistent(read, "it")
  assert pauses == []  # that will not pass


def test_a_corpus_has_the_digest_of_the_local_files(place, tokenizer, tmp_path):
  content = b"the film is good .\n\nit was bad .\n"
  (place / "text.txt").write(content)
  (tmp_path / "text.txt").write_bytes(content)
  digests = {corpus.open_corpus(path, "train_files", tokenizer, corpus.Reading(
      **READING, cache_dir=str(tmp_path / "cache"))).digest
             for path in (f"{place.url}/*.txt", str(tmp_path / "text.txt"))}
  assert len(digests) == 1


def test_labelled_data_comes_from_a_url(place, tokenizer, tmp_path):
  for split in ("train", "validation"):
    (place / "reviews" / f"{split}.csv").write(b"text,label\nthe film is good,a\nit was bad,b\n")
  config = classifier.get_config()
  config.dataset_path, config.cache_dir = f"{place.url}/reviews", str(tmp_path)
  read = splits.read_run_data(config, None, tokenizer)
  assert {name: len(split.examples) for name, split in read.splits.items()} == {
      "train": 2, "validation": 2}
