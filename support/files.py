"""Files: written whole or not at all, read as JSON, named plainly; cache folders with a bound."""

from collections.abc import Iterator
import contextlib
import difflib
import errno
import fcntl
import json
import os
import pathlib
import re
import shutil
import socket
import sys
import tempfile
from typing import Any, TextIO

from support.errors import first_line, shown, UserError

# Orbax and TensorFlow take these for a pattern, or cannot pass them to their C++ (the last ones
# stand for bytes that are not UTF-8).
_NOT_PLAIN = re.compile(r"[\[\]*?\\\ud800-\udfff]")


def read_json(file: pathlib.Path) -> dict[str, Any]:
  """Reads a JSON object.

  Raises:
    UserError: no such file, no JSON, no object, nested too deep, or half a surrogate pair in it.
  """
  try:
    content = json.loads(file.read_text("utf-8"))
    json.dumps(content, ensure_ascii=False).encode()
  except (OSError, ValueError) as error:
    raise UserError(f"{file} cannot be read as JSON: {first_line(error)}") from error
  except RecursionError as error:
    raise UserError(f"{file} cannot be read as JSON: it is nested too deep") from error
  if not isinstance(content, dict):
    raise UserError(f"{file} must hold a JSON object, not {shown(content)}")
  return content


def similar(path: str | os.PathLike) -> str:
  """Returns " (there is demo/minilm)" for a path that does not exist; "" if none is like it."""
  path = os.fspath(path).rstrip("/")
  parent, name = os.path.split(os.path.abspath(os.path.expanduser(path)))
  names: list[str] = []
  with contextlib.suppress(OSError):  # no such folder, or one that may not be listed
    names = [other for other in os.listdir(parent) if other != name]  # itself: a dangling link
  near = difflib.get_close_matches(name, names, n=1) if path else []
  return f" (there is {os.path.join(os.path.dirname(path), near[0])})" if near else ""


@contextlib.contextmanager
def plain_path(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a path to the same file or folder for a library that cannot take every path.

  That is the absolute path itself, or, where it has a `[`, `*`, a backslash or the like, a symbolic
  link in a temporary folder. Files whose names begin with the path's name are linked alike, so
  that a prefix (of a TF1 checkpoint) is a path too.

  Args:
    path: a file, a folder or a prefix; what is there when the block begins is linked.

  Raises:
    UserError: the folder for temporary files has such a path itself.
  """
  path = pathlib.Path(os.path.abspath(path))
  if not _NOT_PLAIN.search(str(path)):
    yield path
    return
  with tempfile.TemporaryDirectory(prefix="plain-path-") as links:
    if _NOT_PLAIN.search(links):
      raise UserError(f"neither {path} nor the folder for temporary files ({links}) has a path "
                      "without [ ] * ? and backslashes; set TMPDIR=/tmp")
    for file in path.parent.iterdir():
      if file.name.startswith(path.name):
        pathlib.Path(links, "link" + file.name.removeprefix(path.name)).symlink_to(file)
    yield pathlib.Path(links, "link")


@contextlib.contextmanager
def written_whole(path: pathlib.Path, shared: bool = False) -> Iterator[pathlib.Path]:
  """Yields a temporary neighbour of `path`, which takes its name when all went well.

  It is flushed to the disk first: a machine that loses power leaves the old content or the new.

  Args:
    path: the file or folder to write; its parent folder is made. An earlier one is replaced.
    shared: several processes, also of several hosts, may write it at once: each has a temporary
      of its own. Of folders the first to finish stays, of files the last.

  Yields:
    A path that does not exist yet: open it for writing, or make it a folder.

  Raises:
    OSError: with a file's name, also when the disk is full.
  """
  # Hidden, so that patterns like *.tfrecord* do not match one that a killed process left.
  writer = f".{socket.gethostname()}.{os.getpid()}" if shared else ""
  temporary = path.with_name(f".{path.name}{writer}.tmp")
  path.parent.mkdir(parents=True, exist_ok=True)
  _remove(temporary)  # left by a process that was killed
  try:
    with names_errors(path):
      yield temporary
      for folder, _, names in os.walk(temporary):
        for name in names:
          _flush(os.path.join(folder, name))
        _flush(folder)
      if not temporary.is_dir():
        _flush(temporary)
      if path.is_dir() and not shared:
        shutil.rmtree(path)
      try:
        temporary.replace(path)
      except OSError:  # a folder that is there
        if not (shared and path.exists()):
          raise
      _flush(path.parent)
  finally:
    _remove(temporary)


def output_file(name: str) -> pathlib.Path:
  """Returns the path of a file that a command is to write whole.

  Raises:
    UserError: a folder is there, or a device: neither is to be replaced.
  """
  path = pathlib.Path(os.path.expanduser(name))
  if path.exists() and not path.is_file():
    raise UserError(f"{name} is {'a folder' if path.is_dir() else 'no regular file'}; name a file "
                    "to write")
  return path


def check_other_file(output: str, given: str, flags: tuple[str, str]) -> None:
  """Raises UserError where a command would replace the file that it reads.

  Args:
    output: the file that it writes; "-" is none.
    given: the file that it reads; "-" is none.
    flags: what the two are called in messages.
  """
  paths = [pathlib.Path(os.path.expanduser(name)) for name in (output, given)]
  if "-" not in (output, given) and all(path.is_file() for path in paths) and paths[0].samefile(
      paths[1]):
    raise UserError(f"--{flags[0]}={output} is the file of --{flags[1]} too, which it would "
                    "replace; name another")


@contextlib.contextmanager
def opened_output(name: str) -> Iterator[TextIO]:
  """Yields the text stream of a command's results.

  Args:
    name: of a file, which is written whole or not at all; of a device or a named pipe; or "-" for
      the standard output, whose reader may leave (`| head`): that ends the block quietly.

  Raises:
    UserError: like `output_file`.
  """
  path = pathlib.Path(os.path.expanduser(name))
  if path.is_char_device() or path.is_fifo():
    with path.open("w", encoding="utf-8") as stream:
      yield stream
    return
  if name != "-":
    with (written_whole(output_file(name)) as temporary,
          temporary.open("w", encoding="utf-8", newline="\n") as stream):
      yield stream
    return
  try:
    yield sys.stdout
    sys.stdout.flush()
  except BrokenPipeError:  # Python would flush once more at its end, and complain
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def names_errors(path: pathlib.Path) -> Iterator[None]:
  """A context that gives an OSError without a file's name, as of a full disk, the name `path`."""
  try:
    yield
  except OSError as error:
    if error.errno and not error.filename:
      error.filename = str(path)
    raise


def _flush(path: str | os.PathLike[str]) -> None:
  """Waits until a file's content, or a folder's list of names, is on the disk."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  except OSError as error:
    if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot
      raise
  finally:
    os.close(handle)


def _remove(path: pathlib.Path) -> None:
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path, ignore_errors=True)
  else:
    path.unlink(missing_ok=True)


def keep_within(folder: pathlib.Path, most_bytes: float) -> None:
  """Deletes the least recently used files of a cache folder until the rest fit `most_bytes`.

  A process that has mapped a deleted file can still read it. Readers mark a file as used with
  `os.utime`.
  """
  with contextlib.suppress(FileNotFoundError):  # another process deleted it first
    used = sorted(((file.stat().st_mtime, file.stat().st_size, file)
                   for file in folder.glob("*.arrow")), reverse=True)
    total = 0
    for _, size, file in used:
      total += size
      if total > most_bytes:
        file.unlink()
        _seal_of(file).unlink(missing_ok=True)


def seal(file: pathlib.Path) -> None:
  """Writes size and checksum of a finished file beside it, for `is_whole`."""
  with written_whole(_seal_of(file), shared=True) as temporary:
    temporary.write_text(_seal(file))


def is_whole(file: pathlib.Path) -> bool:
  """Returns whether a file is as it was when it was sealed."""
  try:
    return _seal_of(file).read_bytes() == _seal(file).encode()
  except FileNotFoundError:
    return False


def _seal_of(file: pathlib.Path) -> pathlib.Path:
  return file.with_name(f"{file.name}.crc32c")


def _seal(file: pathlib.Path) -> str:
  size, checksum = size_and_checksum(file)
  return f"{size} {checksum:08x}\n"


def size_and_checksum(file: pathlib.Path) -> tuple[int, int]:
  """Returns a file's size in bytes and its CRC-32C; a block at a time is in memory."""
  import google_crc32c  # here: most of what uses this file needs no checksum

  size = checksum = 0
  with file.open("rb") as stream:
    while content := stream.read(1 << 20):
      size, checksum = size + len(content), google_crc32c.extend(checksum, content)
  return size, checksum


_owned: dict[pathlib.Path, int] = {}  # the handles of this process's lock files


def own(folder: pathlib.Path) -> bool:
  """Makes a folder this process's until it ends; the kernel lets go of it however it ends.

  Returns:
    False if the file system has no locks, so that nothing is known of other processes.

  Raises:
    UserError: another process owns it; the message names it and its host.
  """
  path = folder.resolve() / ".lock"
  if path in _owned:
    return True
  handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
  try:
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    owner = os.pread(handle, 200, 0).decode("utf-8", "replace").strip()
    os.close(handle)
    if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
      return False
    raise UserError(f"{folder} is in use by {owner or 'another process'}; wait until that ends, or "
                    "choose another --output_dir") from error
  os.truncate(handle, 0)
  os.write(handle, f"{this_process()}\n".encode())
  _owned[path] = handle
  return True


def this_process() -> str:
  """Returns the name that this process's locks hold: process 12 on HOST."""
  return f"process {os.getpid()} on {socket.gethostname()}"


def host_of(process: str) -> str:
  """Returns the host in a name that `this_process` returned."""
  return process.split(" on ", 1)[1]


def lives(process: str, folder: pathlib.Path) -> bool | None:
  """Returns whether a process is alive; None if this machine cannot know.

  Its lock tells, on a shared file system also from another host. A folder whose lock names another
  process tells nothing: another host's may have the same path.

  Args:
    process: its `this_process`.
    folder: the one that it owns, or is to own.
  """
  with contextlib.suppress(FileNotFoundError), (folder / ".lock").open(errors="replace") as lock:
    if lock.read().strip() == process:
      try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
      except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
          return True
  if host_of(process) != socket.gethostname():
    return None
  try:
    os.kill(int(process.split()[1]), 0)
  except ProcessLookupError:
    return False
  except PermissionError:  # another user's
    pass
  return True


def disown(folder: pathlib.Path) -> None:
  """Lets other processes have a folder that this one owned."""
  handle = _owned.pop(folder.resolve() / ".lock", None)
  if handle is not None:
    os.close(handle)
