"""Files at URLs (s3://, gs://, all that fsspec knows): written, fetched, kept as local copies."""

from collections.abc import Callable, Mapping
import glob
import json
import logging
import os
import pathlib
import time
from typing import Any, NamedTuple, TypeVar

from support import files
from support.errors import first_line, UserError
from support.reporting import say

Version = tuple[int, int]  # a file's size in bytes and its CRC-32C
Result = TypeVar("Result")

# The parts of an object's description that change with its content, as the stores call them.
_CONTENT_KEYS = ("size", "ETag", "etag", "md5Hash", "content_md5", "crc32c", "generation",
                 "version_id", "mtime", "LastModified", "last_modified", "updated", "created")
_WITHOUT_FOLDERS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "memory")
_TRIES = 5  # of a fetch, 1, 2, 4 and 8 seconds apart; the clients try several times each


def is_url(name: str) -> bool:
  """Returns whether a path is a URL; the name of a model on the hub is none."""
  return "://" in name


class Place(NamedTuple):
  """A URL that fsspec can reach.

  Attributes:
    url: as the user gave it, without a slash at the end.
    system: fsspec's client.
    path: what the client calls the URL.
  """

  url: str
  system: Any
  path: str

  def __truediv__(self, name: str) -> "Place":
    return Place(f"{self.url}/{name}", self.system, f"{self.path}/{name}")

  def read(self) -> bytes:
    """Returns the content of a small object."""
    return self.system.cat_file(self.path)

  def write(self, content: bytes) -> None:
    """Writes an object, whole or not at all."""
    self._make_parent()
    self.system.pipe_file(self.path, content)

  def put(self, file: pathlib.Path, moved: Callable[[int], None]) -> None:
    """Copies a local file there; `moved` is called with the bytes sent since the last call."""
    self._make_parent()
    self.system.put_file(str(file), self.path, callback=_progress(moved))
    found, size = self.system.info(self.path)["size"], file.stat().st_size
    if found != size:
      raise OSError(f"{self.url} has {found} bytes after the upload of {size}")

  def get(self, file: pathlib.Path) -> Version:
    """Copies an object into a new local file; returns its size and CRC-32C."""
    file.parent.mkdir(parents=True, exist_ok=True)
    self.system.get_file(self.path, str(file))
    return files.size_and_checksum(file)

  def remove(self) -> None:
    """Removes an object, or all that is below; it may be gone already."""
    try:
      self.system.rm(self.path, recursive=True)
    except FileNotFoundError:
      return

  def names(self) -> list[str]:
    """Returns the names of what is one level below."""
    try:
      found = self.system.ls(self.path, detail=False)
    except FileNotFoundError:
      return []
    return [name.rstrip("/").rpartition("/")[2] for name in found
            if name.rstrip("/") != self.path.rstrip("/")]

  def _make_parent(self) -> None:
    """Makes the folder above, where there are folders; a bucket is never made."""
    scheme = self.url.split("://")[0]
    if scheme not in _WITHOUT_FOLDERS:
      self.system.makedirs(self.path.rpartition("/")[0], exist_ok=True)


def _progress(moved: Callable[[int], None]) -> Any:
  import fsspec

  callback = fsspec.Callback()
  callback.relative_update = lambda increment=1: moved(increment)
  return callback


def reach(url: str, knob: str) -> Place:
  """Returns the place of a URL; asks no server.

  Raises:
    UserError: fsspec does not know the scheme, or needs a package for it.
  """
  import fsspec.core  # here: local paths do not need it
  from fsspec.registry import known_implementations

  for package in ("botocore", "aiobotocore"):  # they log where they found the credentials
    logging.getLogger(package).setLevel(logging.WARNING)
  scheme, path = url.split("://", 1)
  if not path.strip("/"):
    raise UserError(f"{knob} {url} names no place; give such as s3://BUCKET/FOLDER")
  url = url.rstrip("/")
  try:
    # Another machine may write there too: no listing is kept.
    system, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
  except ImportError as error:
    package = known_implementations[scheme]["class"].split(".")[0]
    advice = "" if package == "fsspec" else f"; pip install {package}"
    raise UserError(f"{knob} {url}: {first_line(error)}{advice}") from error
  except ValueError as error:
    raise UserError(f"{knob} {url}: {first_line(error)}; s3://, gs:// and other schemes of fsspec "
                    "are known") from error
  return Place(url, system, path)


def persistent(action: Callable[[], Result], what: str) -> Result:
  """Returns action(); tries some more times where the network fails.

  Raises:
    FileNotFoundError: there is no such object.
    UserError: no permission, or the network failed each time.
  """
  for attempt in range(_TRIES):
    try:
      return action()
    except FileNotFoundError:
      raise
    except Exception as error:  # the clients of the stores raise many unrelated types
      refused = isinstance(error, PermissionError) or "Credentials" in type(error).__name__
      if refused or attempt == _TRIES - 1:
        raise UserError(f"{what} cannot be reached ({explained(error)})") from error
    time.sleep(2**attempt)
  raise AssertionError("the last attempt returns or raises")


def explained(error: BaseException) -> str:
  """Returns an error of a store's client in one line."""
  return f"{type(error).__name__}: {first_line(error)}"


# --- Inputs -----------------------------------------------------------------------------------


def local_copies(patterns: str, knob: str, cache_dir: str) -> str:
  """Replaces the URLs among comma-separated paths by local copies, fetched unless they are there.

  A copy is fetched again when the store says that the object has changed.

  Args:
    patterns: paths, hub names, and URLs of files, folders or globs (`s3://bucket/*.txt`).
    knob: the knob that holds them, for messages.
    cache_dir: the folder to keep copies in (in downloads/); blank: ~/.cache/bert_in_flax.

  Raises:
    UserError: nothing is there, or it cannot be reached.
  """
  if not is_url(patterns):
    return patterns
  root = pathlib.Path(os.path.expanduser(cache_dir or "~/.cache/bert_in_flax")) / "downloads"
  local = []
  for pattern in filter(None, map(str.strip, patterns.split(","))):
    local += _copies(pattern, knob, root) if is_url(pattern) else [pattern]
  return ",".join(local)


def _copies(url: str, knob: str, root: pathlib.Path) -> list[str]:
  """Returns the local copies of a file, of a folder, or of all that a glob matches."""
  place = reach(url, knob)
  scheme = url.split("://")[0]
  try:
    found = persistent(lambda: _found(place), f"{knob} {url}")
  except FileNotFoundError:
    found = {}
  if not found:
    raise UserError(f"{knob}: nothing is at {url}")
  for path, description in found.items():
    _keep(Place(place.system.unstrip_protocol(path), place.system, path), description,
          _copy_of(root, scheme, path))
  if glob.has_magic(place.path) or place.path in found:
    return [str(_copy_of(root, scheme, path)) for path in found]
  folder = _copy_of(root, scheme, place.path)
  _drop_others(folder, {_copy_of(root, scheme, path) for path in found})
  return [str(folder)]


def _found(place: Place) -> Mapping[str, Mapping[str, Any]]:
  """Returns path -> description of the objects at a URL, below it, or that match it; sorted."""
  if glob.has_magic(place.path):
    found = place.system.glob(place.path, detail=True)
  else:
    found = place.system.find(place.path, detail=True)  # of a file: itself
  described = {path: found[path] or place.system.info(path) for path in sorted(found)}
  return {path: info for path, info in described.items() if info["type"] == "file"}


def _copy_of(root: pathlib.Path, scheme: str, path: str) -> pathlib.Path:
  """Returns where the copy of an object lies: messages that name it show its URL too."""
  parts = [part.replace(",", "_") for part in path.split("/") if part not in ("", ".", "..")]
  return root.joinpath(scheme, *parts)


def _keep(place: Place, description: Mapping[str, Any], copy: pathlib.Path) -> None:
  """Fetches an object unless its copy is of the same version."""
  version = {key: str(description[key]) for key in _CONTENT_KEYS if key in description}
  note = copy.with_name(f".{copy.name}.version")
  size = description.get("size")
  if copy.exists() and _noted(note) == version and size in (None, copy.stat().st_size):
    return
  say(f"fetching {place.url}" + (f" ({size / 1e6:,.1f} MB)" if size else "") + " ...")
  with files.written_whole(copy, shared=True) as temporary:
    found, _ = persistent(lambda: place.get(temporary), place.url)
    if size not in (None, found):
      raise UserError(f"{place.url} has {size} bytes and {found} came")
  with files.written_whole(note, shared=True) as temporary:
    temporary.write_text(json.dumps(version), "utf-8")


def _noted(note: pathlib.Path) -> dict[str, Any] | None:
  try:
    return files.read_json(note)
  except UserError:  # none, or a damaged one: the object is fetched again
    return None


def _drop_others(folder: pathlib.Path, kept: set[pathlib.Path]) -> None:
  """Deletes the copies of objects that are no longer below a folder's URL."""
  for file in [path for path in folder.rglob("*") if path.is_file() and path not in kept]:
    if not any(part.startswith(".") for part in file.relative_to(folder).parts):
      file.unlink()
