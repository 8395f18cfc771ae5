"""Runs all stress tests, one after another, and prints what each fault did.

    python -m tests.stress --output_dir=DIR [--short]
"""

import argparse
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent.parent

# name -> flags of its long form, and of its short one.
TESTS = {
    "kills": (["--times=50"], ["--times=4"]),
    "signals": ([], []),
    "bits": (["--times=50"], ["--times=5"]),
    "disk": ([], []),
    "hosts": (["--times=20"], ["--times=2"]),
    "bucket": (["--times=10"], ["--times=1"]),
    "long_run": (["--steps=10000"], ["--steps=500"]),
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--output_dir", type=pathlib.Path, required=True)
  parser.add_argument("--short", action="store_true", help="few faults of each kind")
  parser.add_argument("--only", nargs="*", choices=tuple(TESTS), default=tuple(TESTS))
  options = parser.parse_args()
  failed = []
  for name in options.only:
    since = time.monotonic()
    done = subprocess.run(
        (sys.executable, "-m", f"tests.stress.{name}", *TESTS[name][options.short],
         f"--output_dir={options.output_dir / name}"), cwd=ROOT, check=False)
    print(f"{name}: exit {done.returncode} after {time.monotonic() - since:.0f} s\n", flush=True)
    failed += [name] if done.returncode else []
  print(f"failed: {', '.join(failed)}" if failed else "no fault lost anything")
  sys.exit(bool(failed))


if __name__ == "__main__":
  main()
