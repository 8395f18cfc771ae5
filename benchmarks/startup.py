"""Times a command from its start to its first training step, the first time and again.

    python3 -m benchmarks.startup --model=demo/minilm --dataset_path=demo/reviews

Starts run_classifier.py with an empty and then with a filled compilation cache, by turns, and
stops each run at its first logged step. Also times the imports of both scripts.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import compare

ROOT = pathlib.Path(__file__).parent.parent
MODULES = ("run_classifier", "run_pretraining")


def first_step_seconds(cache: str, args: argparse.Namespace) -> float:
  """Returns the seconds from the start of the process to the line of step 1."""
  with tempfile.TemporaryDirectory() as folder:
    command = [sys.executable, "-u", str(ROOT / "run_classifier.py"),
               f"--config={ROOT / 'configs/classifier.py'}",
               f"--config.init_checkpoint={args.model}",
               f"--config.dataset_path={args.dataset_path}",
               f"--config.dataset_name={args.dataset_name}", f"--output_dir={folder}/run"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}) as process:
      lines = []
      for line in process.stdout:
        lines.append(line)
        if line.startswith("step 1/"):
          seconds = time.perf_counter() - start
          process.kill()
          return seconds
  sys.exit("error: no step was made:\n" + "".join(lines))


def import_seconds(module: str) -> float:
  """Returns the seconds that a fresh interpreter needs to import a script."""
  start = time.perf_counter()
  subprocess.run([sys.executable, "-c", f"import {module}"], cwd=ROOT, check=True)
  return time.perf_counter() - start


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--model", required=True)
  parser.add_argument("--dataset_path", required=True)
  parser.add_argument("--dataset_name", default="")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--output", default="", help="the JSON file")
  args = parser.parse_args()
  first, second = [], []
  for _ in range(args.rounds):
    with tempfile.TemporaryDirectory() as cache:
      first.append(first_step_seconds(cache, args))
      second.append(first_step_seconds(cache, args))
  imports = {module: [import_seconds(module) for _ in range(args.rounds)] for module in MODULES}
  rows = [{"what": "first run to its first step", "seconds": statistics.median(first),
           "share of the first": 1.0, "all": first},
          {"what": "second run to its first step", "seconds": statistics.median(second),
           "share of the first": 1 / compare.ratio(first, second), "all": second},
          *({"what": f"import {module}", "seconds": statistics.median(times),
             "share of the first": 1 / compare.ratio(first, times), "all": times}
            for module, times in imports.items())]
  compare.report(rows, args.output)


if __name__ == "__main__":
  main()
