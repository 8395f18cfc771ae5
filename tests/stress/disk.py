"""The disk is full at one moment after another; with room again, the run must end unharmed.

    python -m tests.stress.disk --output_dir=DIR

Mounts file systems in memory, so it needs root.
"""

import argparse
import os
import pathlib
import subprocess
import sys

from tests.stress import harness

_SIZES = (8, 100, 200, 400, 600, 800, 1000, 1200, 1400, 1600, 1800, 2000)  # kB


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--output_dir", type=pathlib.Path, required=True)
  options = parser.parse_args()
  sys.exit(fill_disks(options.output_dir))


def fill_disks(folder: pathlib.Path) -> int:
  """Runs on disks of growing sizes, each filled and then enlarged; returns an exit status."""
  table = harness.Table("full disks")
  if os.geteuid():
    print("skipped: only root may mount")
    return 0
  inputs = harness.Inputs.make(harness.fresh(folder) / "inputs")
  whole, disk = folder / "whole", folder / "disk"
  disk.mkdir()
  harness.run(inputs.command("run_pretraining", whole), inputs.environment())
  for size in _SIZES:
    subprocess.run(("mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk), check=True)
    try:
      command = inputs.command("run_pretraining", disk / "run")
      full = harness.run(command, inputs.environment())
      subprocess.run(("mount", "-o", "remount,size=99m", disk), check=True)
      again = harness.run(command, inputs.environment())
      found = ([f"exit {again.status}: {again.lines[-1:]}"] if again.status
               else harness.differences(disk / "run", whole))
      bad = bool(found) or (full.status != 0 and len(full.lines) != 1)
      table.add(f"{size} kB: exit {full.status}, {len(full.lines)} lines: {full.lines[-1:]}",
                "; ".join(found) or "with room: the bits of the unbroken run", wrong=bad)
    finally:
      subprocess.run(("umount", disk), check=True)
  return table.finish()


if __name__ == "__main__":
  main()
