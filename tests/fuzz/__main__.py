"""Runs the fuzz targets with other examples, round after round, until the time is over."""

import argparse
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent.parent


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--minutes", type=float, default=10.0)
  end = time.monotonic() + 60 * parser.parse_args().minutes
  seed = int(time.time())
  while time.monotonic() < end:
    print(f"fuzzing with --hypothesis-seed={seed}", flush=True)
    done = subprocess.run(
        (sys.executable, "-m", "pytest", "tests/fuzz", f"--hypothesis-seed={seed}"), cwd=ROOT,
        env={**os.environ, "FUZZ_PROFILE": "long"}, check=False)
    if done.returncode:
      sys.exit(done.returncode)
    seed += 1
  print("no finding")


if __name__ == "__main__":
  main()
