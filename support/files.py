"""Files and folders that are written whole or not at all, and cache folders with a bound."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import shutil


@contextlib.contextmanager
def written_whole(path: pathlib.Path, shared: bool = False) -> Iterator[pathlib.Path]:
  """Yields a temporary neighbour of `path`, which takes its name when all went well.

  Args:
    path: the file or folder to write; its parent folder is made. An earlier one is replaced.
    shared: several processes may write the same content at once: each has a temporary of its
      own, and the first to finish wins.

  Yields:
    A path that does not exist yet: open it for writing, or make it a folder.
  """
  temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp" if shared else f"{path.name}.tmp")
  path.parent.mkdir(parents=True, exist_ok=True)
  _remove(temporary)  # left by a process that was killed
  try:
    yield temporary
    if path.is_dir() and not shared:
      shutil.rmtree(path)
    try:
      temporary.replace(path)
    except OSError:  # a folder that is there
      if not (shared and path.exists()):
        raise
  finally:
    _remove(temporary)


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
