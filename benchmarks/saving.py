"""Times pre-training that saves every 100 steps: an earlier commit beside this one with a mirror.

    git worktree add /tmp/before a592341
    python3 -m benchmarks.saving --before=/tmp/before --mirror=s3

Whole runs take turns. A run's seconds are those between its lines of steps 100 and the last: with
the pauses of the saves, without start and compilation. The mirror is a folder (file), or a bucket
of moto's server on this machine (s3), which takes some of its processors, as no real one would: the
server runs at the lowest priority. --mirror=none leaves the checksums and the lock.
"""

import argparse
import contextlib
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import compare
from tests import s3_server
from tests.stress import harness

_FIRST = 100  # the step from which on time is taken, and the steps between two saves


def run_seconds(code: pathlib.Path, machine: pathlib.Path, output_dir: str, inputs: harness.Inputs,
                environment: dict[str, str], args: argparse.Namespace) -> float:
  """Returns the seconds from step 100 to the last of a run by the code in a folder."""
  knobs = {"num_train_steps": args.steps, "num_warmup_steps": 10, "size": args.size,
           "phases": f"((1.0,{args.max_seq_length},{args.rows}),)", "eval_fraction": 0.0,
           "save_checkpoints_steps": _FIRST, "log_every_steps": _FIRST}
  command = [sys.executable, "-u", str(code / "run_pretraining.py"),
             f"--config={code / 'configs/pretraining.py'}", f"--output_dir={output_dir}",
             f"--config.tokenizer={inputs.folder / 'vocabulary'}",
             f"--config.train_files={inputs.folder / 'text.txt'}",
             *(f"--config.{name}={value}" for name, value in knobs.items())]
  machine.mkdir(parents=True)
  times, lines = {}, []
  with subprocess.Popen(command, cwd=machine, env=environment, text=True, stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT) as process:
    for line in process.stdout:
      lines.append(line)
      if line.startswith("step "):
        times[int(line.split()[1].split("/")[0])] = time.perf_counter()
  if process.returncode or args.steps not in times:
    sys.exit("error: a run failed:\n" + "".join(lines))
  return times[args.steps] - times[_FIRST]


@contextlib.contextmanager
def mirror_url(kind: str, folder: pathlib.Path):
  """Yields the URL to mirror to, and the environment that a client needs."""
  if kind == "s3":
    port = s3_server.free_port()
    with s3_server.serve(port) as server:
      os.setpriority(os.PRIO_PROCESS, server.pid, 19)
      yield f"s3://{s3_server.BUCKET}", s3_server.environment(port)
  else:
    yield f"file://{folder / 'mirror'}" if kind == "file" else str(folder / "unmirrored"), {}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--before", type=pathlib.Path, required=True)
  parser.add_argument("--mirror", choices=("s3", "file", "none"), default="s3")
  parser.add_argument("--size", default="bert-mini")
  parser.add_argument("--rows", type=int, default=16)
  parser.add_argument("--max_seq_length", type=int, default=128)
  parser.add_argument("--steps", type=int, default=500)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--output", default="", help="the JSON file")
  args = parser.parse_args()
  seconds: dict[str, list[float]] = {"before": [], "now": []}
  with tempfile.TemporaryDirectory() as place:
    folder = pathlib.Path(place)
    inputs = harness.Inputs.make(folder / "inputs")
    with mirror_url(args.mirror, folder) as (url, environment):
      environment = inputs.environment(**environment)
      for i in range(args.rounds):
        turns = {"before": (args.before.resolve(), str(folder / f"before-{i}")),
                 "now": (harness.ROOT, f"{url}/{i}")}
        for name in list(turns)[::-1 if i % 2 else 1]:
          code, output_dir = turns[name]
          seconds[name].append(run_seconds(code, folder / f"machine-{name}-{i}", output_dir, inputs,
                                           environment, args))
  steps = args.steps - _FIRST
  compare.report([{"of": name, "ms a step": 1000 * statistics.median(times) / steps,
                   "times as long as before": compare.ratio(times, seconds["before"]),
                   "all": times} for name, times in seconds.items()],
                 args.output, mirror=args.mirror)


if __name__ == "__main__":
  main()
