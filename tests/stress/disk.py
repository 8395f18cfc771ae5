"""The disk is full, or read-only, at one moment after another; with room again the run goes on.

    python -m tests.stress.disk --output_dir=DIR

Mounts file systems in memory, so it needs root. Each run must end with a line, and the same command
must then end with the bits of an unbroken run.
"""

import argparse
from collections.abc import Callable
import os
import pathlib
import subprocess
import sys
import time

from tests.stress import harness

_SIZES = (8, 60, 160, 300, 500, 700, 900, 1100, 1300, 1500)  # kB
_UNSAVED = {"save_checkpoints_steps": 1000}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--output_dir", type=pathlib.Path, required=True)
  parser.add_argument("--only", default="", help="a part of the faults' names, such as export")
  options = parser.parse_args()
  sys.exit(fill_disks(options.output_dir, options.only))


def fill_disks(folder: pathlib.Path, only: str = "") -> int:
  """Spoils a disk at one moment after another; returns an exit status."""
  table = harness.Table("full and read-only disks")
  if os.geteuid():
    print("skipped: only root may mount")
    return 0
  folder = harness.fresh(folder).resolve()
  inputs = harness.Inputs.make(folder / "inputs")
  whole, disk = folder / "whole", folder / "disk"
  disk.mkdir()
  harness.run_whole(inputs.command("run_pretraining", whole, **harness.SHORT),
                    inputs.environment(XLA_FLAGS=""))
  run = disk / "run"
  faults: list[tuple[str, int, dict[str, int], Callable[[], object] | None,
                     Callable[[], bool]]] = [
      (f"a disk of {size} kB", size, {}, None, bool) for size in _SIZES]

  def logged(step: int) -> Callable[[], bool]:
    return lambda: harness.steps_logged(run) >= step

  def exports() -> bool:
    return (run / "summary.json").exists()

  for moment, knobs, has_come in (
      ("at step 6, before any save", _UNSAVED, logged(6)),  # metrics.jsonl, TensorBoard events
      ("at step 6, between saves", {}, logged(6)), ("at the export", {}, exports)):
    faults += [(f"{way} {moment}", 99_000, knobs, spoil, has_come) for way, spoil in (
        ("full", lambda: _fill(disk)), ("read-only", lambda: _forbid_writing(run)))]
  for name, size, knobs, spoil, has_come in faults:
    if only not in name:
      continue
    _mount(f"size={size}k", disk)
    try:
      _try(table, name, inputs, (run, whole), knobs, spoil, has_come)
    finally:
      _unmount(run)
      _unmount(disk)
  return table.finish()


def _try(table: harness.Table, name: str, inputs: harness.Inputs,
         folders: tuple[pathlib.Path, pathlib.Path], knobs: dict[str, int],
         spoil: Callable[[], object] | None, has_come: Callable[[], bool]) -> None:
  """Runs on a disk that is spoiled when a moment has come, mends it, and runs again."""
  run, whole = folders
  environment = inputs.environment(XLA_FLAGS="")
  command = inputs.command("run_pretraining", run, **{**harness.SHORT, **knobs})
  process, since = harness.start(command, environment), time.monotonic()
  if spoil and harness.wait_until(process, has_come):
    spoil()
  spoiled = harness.end(process, since, limit=60)
  _unmount(run)
  (run.parent / "filler").unlink(missing_ok=True)
  _mount("remount,size=99m", run.parent)
  again = harness.run(command, environment)
  found = ([f"exit {again.status}: {again.lines[-3:]}"] if again.status
           else harness.differences(run, whole))
  fits = not (spoil or spoiled.status or spoiled.lines)
  if not fits and not (0 < spoiled.status < 128 and len(spoiled.lines) in (1, 2)):
    found.append(f"{len(spoiled.lines)} lines")
  room = "it fits" if fits else "with room"
  table.add(f"{name}: exit {spoiled.status}: {' | '.join(spoiled.lines[-2:])}",
            "; ".join(found) or f"{room}: the bits of the unbroken run", wrong=bool(found))


def _fill(disk: pathlib.Path) -> None:
  """Leaves no room."""
  with (disk / "filler").open("wb", buffering=0) as file:
    size = 1 << 20
    while size:
      try:
        file.write(bytes(size))
      except OSError:
        size //= 2


def _forbid_writing(folder: pathlib.Path) -> None:
  """Makes a folder read-only, for root too; what is open there stays writable."""
  subprocess.run(("mount", "--bind", folder, folder), check=True)
  _mount("remount,bind,ro", folder)


def _mount(options: str, folder: pathlib.Path) -> None:
  subprocess.run(("mount", "-t", "tmpfs", "-o", options, "tmpfs", folder)
                 if not options.startswith("remount") else
                 ("mount", "-o", options, folder), check=True)


def _unmount(folder: pathlib.Path) -> None:
  while f" {folder} " in pathlib.Path("/proc/self/mounts").read_text():
    subprocess.run(("umount", folder), check=True)


if __name__ == "__main__":
  main()
