"""A run's folder that is also kept at a URL: uploaded in the background, fetched on a new machine.

What the object mirrored.json at the URL lists is there, whole: it holds the size and the checksum
of every file, and is written after them. So the process may be killed at any moment of an upload. A
checkpoint becomes part of the list together with the logs of its steps. Before a log is replaced,
the list allows its old and its new content.

The uploading thread reads finished files on the disk and nothing else; no step waits for it. It
sees a checkpoint when Orbax has given it its final name, and links its files, so that a checkpoint
that the run deletes meanwhile is still uploaded whole.
"""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import json
import math
import os
import pathlib
import shutil
import socket
import sys
import threading
import time
from typing import Any
import urllib.parse
import uuid

import google_crc32c

from support import files, remote
from support.errors import shown, UserError
from support.remote import Version
from support.reporting import say

Listing = Mapping[str, list[Version]]  # name of a file -> the versions that may be there

_LIST = "mirrored.json"
_PROBE = ".probe-"
_LINKS = ".uploading"
_POLL = 1.0  # seconds between two looks at the folder
_LOGS_EVERY = 60.0  # seconds between two uploads of logs without a checkpoint
_LONGEST_PAUSE = 60.0  # seconds between two attempts while the network is gone
_LONGEST_LAST_PAUSE = 5.0  # when the run has ended
# Seconds without any progress after which the end of a run no longer waits for the upload.
_PATIENCE = 600.0
_PATIENCE_WHEN_STOPPED = 120.0  # whoever sent the signal ends the process sooner or later


class _ChangedError(Exception):
  """Raised when a local file changes or goes while it is read."""


class _DamagedError(Exception):
  """Raised when an object is not what the list says."""


class _TakenError(Exception):
  """Raised when another process has begun to write to the URL."""


def local_folder(url: str) -> pathlib.Path:
  """Returns runs/SCHEME/HOST/PATH, where the run at a URL lives.

  Raises:
    UserError: no host and no path, or ".." in it.
  """
  host, *path = url.split("://", 1)[1].split("/")
  scheme = urllib.parse.urlsplit(url).scheme
  names = [name for name in (host.rpartition("@")[2], *path) if name]
  if not scheme or not names or {".", ".."} & set(names):
    raise UserError(f"output_dir {url} must name a folder, as in s3://BUCKET/FOLDER")
  return pathlib.Path("runs", scheme, *names)


class Mirror:
  """A run's folder and its copy at a URL."""

  def __init__(self, url: str, folder: pathlib.Path):
    """Reads the list of what is at the URL, and tries to write there.

    Args:
      url: such as s3://bucket/run.
      folder: the run's, on a local disk.

    Raises:
      UserError: an unknown scheme, a missing package, no such bucket, no permission, or the URL
        holds something else than a run.
    """
    self._place = remote.reach(url, "output_dir")
    self._folder = folder
    self._writer = f"process {os.getpid()} on {socket.gethostname()} ({uuid.uuid4().hex[:8]})"
    self._there = _read_list(self._place)
    _try_to_write(self._place)
    self._known: dict[str, tuple[Any, dict[str, Version]]] = {}  # see _versions
    self._tidied = self._has_written = False
    self._logs_sent = -math.inf  # when
    self._last_progress = 0.0  # when
    self._failure = ""  # of the last attempt; "" after a successful one
    self._state = threading.Condition()
    self._ending = False  # the run has ended: upload the rest
    self._whole = False  # all of the folder is there
    self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)

  # --- Down ---------------------------------------------------------------------------------

  def fetch(self) -> None:
    """Brings the folder to the state of the URL, if that is farther.

    Raises:
      UserError: folder and URL hold different runs, or the network fails.
    """
    units = _units(self._there)
    own = self._folder / "config.json"
    if own.exists() and "config.json" in units and not self._has("config.json"):
      raise UserError(f"output_dir {self._place.url} holds another run than {self._folder}, the "
                      "folder for it on this machine; move one of the two away, or choose another "
                      "--output_dir")
    there, here = _reached(units), _reached(self._local_units() | set(_logs(self._folder)))
    if there <= here:
      return
    finished, step = there
    say(f"fetching the {'finished run' if finished else f'run after step {step}'} at "
        f"{self._place.url} into {self._folder} ...")
    for unit in sorted(units, key=_fetching_order):
      if not self._has(unit):
        self._fetch_unit(unit, units[unit])

  def _has(self, unit: str) -> bool:
    """Returns whether the folder holds a file or a folder as the URL does."""
    path = self._folder / unit
    if path.is_file():
      return files.size_and_checksum(path) in self._there[unit]
    return path.is_dir() and not self._is_new(unit)

  def _fetch_unit(self, unit: str, names: Iterable[str]) -> None:
    """Fetches a file or a folder whole, or says why not."""
    try:
      with files.written_whole(self._folder / unit) as temporary:
        for name in names:
          self._fetch_file(name, temporary / os.path.relpath(name, unit))
    except _DamagedError as error:
      if unit == "config.json":
        raise UserError(f"{error}; choose another --output_dir") from error
      say(f"warning: {error}: {unit} is left out")

  def _fetch_file(self, name: str, file: pathlib.Path) -> None:
    place = self._place / name
    try:
      version = remote.persistent(lambda: place.get(file), place.url)
    except FileNotFoundError as error:
      raise _DamagedError(f"{place.url} is missing") from error
    if version not in self._there[name]:
      raise _DamagedError(f"{place.url} is not as it was written")

  # --- Up -----------------------------------------------------------------------------------

  def start(self) -> None:
    """Begins to upload, until the end of `finished`."""
    global _running
    _running = self
    self._thread.start()

  def finish(self, patience: float) -> str:
    """Waits until all of the folder is there.

    Args:
      patience: seconds without progress after which it waits no longer.

    Returns:
      A line that says what is missing; "" if nothing is.

    Raises:
      KeyboardInterrupt: a signal came meanwhile; the upload was waited for, with less patience.
    """
    self._moved()
    with self._state:
      self._ending = True
      self._state.notify_all()
    try:
      self._join(patience)
    except KeyboardInterrupt:
      self._join(_PATIENCE_WHEN_STOPPED)
      raise
    if self._whole:
      say(f"mirrored: {self._place.url}")
      return ""
    missing = sorted(unit for unit in self._local_units() if self._is_new(unit))
    return (f"{self._place.url} lacks {', '.join((*missing, 'the last logs'))} "
            f"({self._failure or 'too slow'}); the same command uploads the rest")

  def _join(self, patience: float) -> None:
    self._thread.join(0.5)
    if self._thread.is_alive():
      say(f"uploading the rest to {self._place.url} ...")
    while self._thread.is_alive() and time.monotonic() - self._last_progress < patience:
      self._thread.join(0.5)

  def _work(self) -> None:
    """Uploads until the run has ended and all is there; in a thread."""
    pause = 1.0
    while True:
      ending = self._ending
      try:
        while self.upload_next(ending or time.monotonic() > self._logs_sent + _LOGS_EVERY):
          pass
        self._say_success()
        pause = 1.0
        if ending:
          self._whole = True
          return
        self._wait_for_end(_POLL)
      except _ChangedError:  # look again
        self._wait_for_end(0.1)
      except _TakenError as error:
        self._failure = str(error)
        say(f"warning: {error}; this run goes on and is not uploaded any more")
        return
      except Exception as error:  # the clients of the stores raise many unrelated types
        self._say_failure(remote.explained(error))
        if ending:
          time.sleep(min(pause, _LONGEST_LAST_PAUSE))
        else:
          self._wait_for_end(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)

  def _wait_for_end(self, seconds: float) -> None:
    """Waits so long, or until the run has ended."""
    with self._state:
      self._state.wait_for(lambda: self._ending, seconds)

  def _say_failure(self, failure: str) -> None:
    if not self._failure:
      say(f"warning: {self._place.url} cannot be written ({failure}); the run goes on, and the "
          "upload is tried again")
    self._failure = failure

  def _say_success(self) -> None:
    if self._failure:
      self._failure = ""
      say(f"{self._place.url} can be written again; nothing is missing there")

  def _moved(self, size: int = 0) -> None:
    """Takes note of progress, `size` bytes or some other."""
    del size
    self._last_progress = time.monotonic()

  def upload_next(self, logs: bool) -> bool:
    """Uploads one new folder and the logs, or only those; removes there what is gone here.

    Args:
      logs: whether to upload the logs if no folder is new.

    Returns:
      Whether there may be more to do.
    """
    if not self._tidied:
      self._write_list(self._there)  # first: a list says that what is there is a run's
      self._remove_remains()
      self._tidied = True
    here = self._local_units()
    self._known = {unit: known for unit, known in self._known.items() if unit in here}
    new = next((unit for unit in sorted(here, key=_sending_order) if self._is_new(unit)), None)
    gone = self._gone(here)
    if not (new or gone or logs):
      return False
    sent = self._send_folder(new) if new else {}
    listing = self._send_logs(self._there | sent)
    self._write_list({name: versions for name, versions in listing.items()
                      if _unit(name) not in gone})
    for unit in gone:
      (self._place / unit).remove()
    self._logs_sent = time.monotonic()
    return bool(new or gone)

  def _local_units(self) -> set[str]:
    """Returns the names of finished folders: "tokenizer", "checkpoints/100", ..."""
    names = {path.name for path in self._folder.iterdir() if path.is_dir()} - {"checkpoints"}
    steps = {f"checkpoints/{path.name}" for path in self._folder.glob("checkpoints/*")
             if path.name.isdigit()}
    return {name for name in names if not _is_temporary(name)} | steps

  def _gone(self, here: set[str]) -> set[str]:
    """Returns what is there and not here; a checkpoint only if a newer one is there."""
    there = _units(self._there)
    newest = max(map(_step, there), default=-1)
    return {unit for unit in there.keys() - here - set(_logs(self._folder))
            if _step(unit) < newest}

  def _is_new(self, unit: str) -> bool:
    """Returns whether a folder here differs from the one there."""
    there = {name: self._there[name] for name in self._there if _unit(name) == unit}
    return {name: [version] for name, version in self._versions(unit).items()} != there

  def _versions(self, unit: str) -> Mapping[str, Version]:
    """Returns the files of a folder; reads it only if it is not as it was the last time."""
    signature = _signature(self._folder / unit)
    if unit not in self._known or self._known[unit][0] != signature:
      self._known[unit] = signature, _contents(self._folder / unit, unit)
    return self._known[unit][1]

  def _send_folder(self, unit: str) -> Listing:
    """Uploads a folder, which the list does not name until it is whole; returns its files."""
    listing = {name: versions for name, versions in self._there.items() if _unit(name) != unit}
    with self._linked(unit) as folder:
      found = _contents(folder, unit)
      self._write_list(listing)
      (self._place / unit).remove()
      for name in found:
        try:
          (self._place / name).put(folder / os.path.relpath(name, unit), self._moved)
        except FileNotFoundError as error:
          raise error if (folder / os.path.relpath(name, unit)).exists() else _ChangedError(
              ) from error
        self._moved()
    return {name: [version] for name, version in found.items()}

  @contextlib.contextmanager
  def _linked(self, unit: str) -> Iterator[pathlib.Path]:
    """Yields a folder with links to the files of another, which may be deleted meanwhile."""
    folder, links = self._folder / unit, self._folder / _LINKS
    shutil.rmtree(links, ignore_errors=True)  # of a process that was killed
    before = _signature(folder)
    try:
      shutil.copytree(folder, links, copy_function=os.link, ignore=lambda _, names: {
          name for name in names if _is_temporary(name)})
      linked = links
    except OSError:  # a file system without links, or the folder is being deleted
      linked = folder
    try:
      if _signature(folder) != before:
        raise _ChangedError
      yield linked
    finally:
      shutil.rmtree(links, ignore_errors=True)

  def _send_logs(self, listing: Listing) -> Listing:
    """Uploads the files beside the folders where they have changed; returns the list with them.

    They may be appended to meanwhile: what is read is sent.
    """
    contents = _logs(self._folder)
    versions = {name: (len(content), google_crc32c.value(content))
                for name, content in contents.items()}
    changed = [name for name in contents if listing.get(name) != [versions[name]]]
    both = {name: [*self._there[name], versions[name]] for name in changed if name in self._there}
    if both:
      self._write_list(self._there | both)
    for name in changed:
      (self._place / name).write(contents[name])
      self._moved()
    return listing | {name: [version] for name, version in versions.items()}

  def _write_list(self, listing: Listing) -> None:
    """Writes the list of what is there, if it has changed.

    Raises:
      _TakenError: another process has written it since this one did.
    """
    if self._has_written and listing == self._there:
      return
    place = self._place / _LIST
    if self._has_written:
      try:
        writer = json.loads(place.read())["writer"]
      except FileNotFoundError as error:  # somebody has removed it: all goes there again
        self._there, self._has_written = {}, False
        raise _ChangedError from error
      if writer != self._writer:
        raise _TakenError(f"{writer} now writes to {self._place.url}")
    place.write(json.dumps({"writer": self._writer, "files": listing}).encode())
    self._there, self._has_written = listing, True

  def _remove_remains(self) -> None:
    """Removes checkpoints of which a process that was killed has uploaded a part."""
    listed = _units(self._there)
    for name in (self._place / "checkpoints").names():
      if name.isdigit() and f"checkpoints/{name}" not in listed:
        (self._place / "checkpoints" / name).remove()


_running: Mirror | None = None  # this process's


@contextlib.contextmanager
def finished() -> Iterator[None]:
  """A context whose end, whatever the reason, waits until the mirror of this process is whole.

  Raises:
    UserError: it is not; where the block raised something itself, that goes first, after a line.
  """
  try:
    yield
  except BaseException:
    if missing := _finish(_PATIENCE_WHEN_STOPPED):
      print(f"warning: {missing}", file=sys.stderr)
    raise
  if missing := _finish(_PATIENCE):
    raise UserError(missing)


def _finish(patience: float) -> str:
  global _running
  mirror, _running = _running, None
  return mirror.finish(patience) if mirror else ""


# --- The list -------------------------------------------------------------------------------


def _read_list(place: remote.Place) -> Listing:
  """Returns the list of what is at a URL; empty if there is nothing.

  Raises:
    UserError: no run is there, but something else.
  """
  what = f"output_dir {place.url}"
  try:
    content = remote.persistent((place / _LIST).read, what)
  except FileNotFoundError:
    names = remote.persistent(place.names, what)
    if not all(name.startswith(_PROBE) for name in names):
      raise UserError(f"{what} is not empty and holds no run; choose another --output_dir"
                      ) from None
    return {}
  try:
    return {name: [(int(size), int(checksum)) for size, checksum in versions]
            for name, versions in json.loads(content)["files"].items()}
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(f"{place.url}/{_LIST} is damaged ({shown(content[:40])}); choose another "
                    "--output_dir") from error


def _try_to_write(place: remote.Place) -> None:
  """Raises UserError unless this process may write and delete at a URL."""
  probe, what = place / f"{_PROBE}{uuid.uuid4().hex[:8]}", f"output_dir {place.url}"
  try:
    remote.persistent(lambda: probe.write(b"written and removed when a run starts\n"), what)
  except FileNotFoundError as error:
    raise UserError(f"{what}: {remote.explained(error)}") from error
  remote.persistent(probe.remove, what)


def _unit(name: str) -> str:
  """Returns what is there whole or not at all: "config.json", "tokenizer", "checkpoints/100"."""
  return "/".join(name.split("/")[:2 if name.startswith("checkpoints/") else 1])


def _units(listing: Listing) -> dict[str, list[str]]:
  """Returns unit -> the names of its files."""
  units: dict[str, list[str]] = {}
  for name in listing:
    units.setdefault(_unit(name), []).append(name)
  return units


def _step(unit: str) -> int:
  """Returns the step of a checkpoint, -1 for anything else."""
  step = unit.removeprefix("checkpoints/")
  return int(step) if step != unit and step.isdigit() else -1


def _reached(units: Iterable[str]) -> tuple[bool, int]:
  """Returns whether a run is finished, and its last checkpoint's step; -1 if it has not begun."""
  units = set(units)
  return "model" in units, max(0 if "config.json" in units else -1, *map(_step, units), -1)


def _fetching_order(unit: str) -> tuple[bool, int, bool]:
  """Orders units so that `_reached` of a part that was fetched is less than of the whole."""
  return unit == "model", _step(unit), unit != "config.json"


def _sending_order(unit: str) -> tuple[bool, int, str]:
  """Orders units: the newest checkpoint, the older ones, others, and the model last."""
  return unit == "model", -_step(unit), unit


# --- Local files ----------------------------------------------------------------------------


def _is_temporary(name: str) -> bool:
  return name.startswith(".") or name.endswith(".tmp") or "orbax-checkpoint-tmp" in name


def _logs(folder: pathlib.Path) -> dict[str, bytes]:
  """Returns name -> content of the files of a run's folder itself; they are small."""
  try:
    return {path.name: path.read_bytes() for path in folder.iterdir()
            if path.is_file() and not _is_temporary(path.name)}
  except FileNotFoundError as error:
    raise _ChangedError from error


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(path for path in folder.rglob("*") if path.is_file()
                and not any(map(_is_temporary, path.relative_to(folder).parts)))


def _contents(folder: pathlib.Path, unit: str) -> dict[str, Version]:
  """Returns the names, below the run's folder, and the versions of a unit's files."""
  try:
    return {f"{unit}/{path.relative_to(folder).as_posix()}": files.size_and_checksum(path)
            for path in _files(folder)}
  except FileNotFoundError as error:
    raise _ChangedError from error


def _signature(folder: pathlib.Path) -> list[tuple[str, int, int, int]]:
  """Returns what changes when a file of a folder is replaced or changed."""
  if not folder.is_dir():
    raise _ChangedError
  try:
    stats = [(str(path.relative_to(folder)), path.stat()) for path in _files(folder)]
  except FileNotFoundError as error:
    raise _ChangedError from error
  return [(name, stat.st_size, stat.st_ino, stat.st_mtime_ns) for name, stat in stats]
