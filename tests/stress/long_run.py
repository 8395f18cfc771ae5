"""A long run that saves and evaluates often and is mirrored: its memory, handles and logs.

    python -m tests.stress.long_run --steps=10000 --output_dir=DIR

Fails if the resident memory or the number of open handles or threads grows from the second quarter
of the run to the last, or if a log grows by more bytes a step in the last half than in the first.

The threads that read and write files for checkpoints are tensorstore's: a pool that grows where one
more file waits, up to the 128 that Orbax sets, and shrinks when idle. Those are counted apart.
"""

import argparse
import json
import os
import pathlib
import sys
import time
from typing import NamedTuple

from tests.stress import harness

_TINY = {"model.hidden_size": 16, "model.num_hidden_layers": 1, "model.intermediate_size": 32,
         "phases": "((1.0,16,8),)", "num_warmup_steps": 100,
         "eval_steps": 500, "eval_batch_size": 8, "max_eval_examples": 16, "log_every_steps": 10,
         "keep_checkpoints": 2}
_POOL = "ts_pool_worker"  # a thread's name
_POOL_LIMIT = 128
_MOST_MEGABYTES = 1.0  # more of resident memory in 1,000 steps, beyond what the measure scatters


class Sample(NamedTuple):
  """A look at a running process and its folder."""

  step: int
  megabytes: float
  handles: int
  threads: int  # without those of tensorstore's pool
  pool: int
  log_bytes: dict[str, int]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--steps", type=int, default=10_000)
  parser.add_argument("--output_dir", type=pathlib.Path, required=True)
  parser.add_argument("--no_mirror", action="store_true", help="to find out whose memory it is")
  parser.add_argument("--save_steps", type=int, default=100, help="likewise")
  options = parser.parse_args()
  sys.exit(long_run(options.output_dir, options.steps, not options.no_mirror, options.save_steps))


def long_run(folder: pathlib.Path, steps: int, mirrored: bool = True, save_steps: int = 100) -> int:
  """Runs the steps, looks at the process each second, and judges; returns an exit status."""
  table = harness.Table(f"{steps:,} steps, a checkpoint every {save_steps}, an evaluation every "
                        f"{_TINY['eval_steps']}, {'mirrored' if mirrored else 'not mirrored'}")
  folder = harness.fresh(folder).resolve()
  inputs = harness.Inputs.make(folder / "inputs")
  knobs = {**_TINY, "num_train_steps": steps, "save_checkpoints_steps": save_steps}
  out = folder / "runs/file" / str(folder)[1:] / "mirror"
  command = inputs.command("run_pretraining", f"file://{folder}/mirror" if mirrored else out, **{
      name.replace(".", "__"): value for name, value in knobs.items()})
  samples, since = [], time.monotonic()
  with (folder / "output.txt").open("w") as output:
    process = harness.subprocess.Popen(command, env=inputs.environment(), cwd=folder,
                                       stdout=output, stderr=output)
    while process.poll() is None:
      if sample := _look(process.pid, out):
        samples.append(sample)
      time.sleep(1)
  last_lines = (folder / "output.txt").read_text().splitlines()[-3:]
  table.add("the run", f"exit {process.returncode}, {time.monotonic() - since:.0f} s, "
            f"{len(samples)} looks; {' | '.join(last_lines)}", wrong=process.returncode != 0)
  (folder / "samples.json").write_text(json.dumps([sample._asdict() for sample in samples]))
  if process.returncode == 0:
    judge(samples, steps, table)
  return table.finish()


def _look(process: int, out: pathlib.Path) -> Sample | None:
  """Returns a sample, or None before the first step and after the end."""
  step = harness.steps_logged(out)
  try:
    status = dict(line.split(":", 1) for line in
                  pathlib.Path(f"/proc/{process}/status").read_text().splitlines())
    handles = len(os.listdir(f"/proc/{process}/fd"))
    names = [file.read_text().strip() for file in pathlib.Path(f"/proc/{process}/task").glob(
        "*/comm")]
  except OSError:
    return None
  if not step or "RssAnon" not in status:
    return None
  logs = {"metrics.jsonl": 0, "events": 0}
  for file in out.iterdir():
    if (name := file.name.split(".out.")[0]) in logs:
      logs[name] += file.stat().st_size
  # Pages of mapped files are the kernel's: it takes them back when it needs room.
  megabytes = int(status["RssAnon"].split()[0]) / 1024
  pool = names.count(_POOL)
  return Sample(step, megabytes, handles, len(names) - pool, pool, logs)


def judge(samples: list[Sample], steps: int, table: harness.Table) -> None:
  """Compares the second quarter of a run with its last."""
  quarters = [[sample for sample in samples if i * steps / 4 <= sample.step < (i + 1) * steps / 4]
              for i in range(4)]
  if not all(quarters):
    table.add("looks", "none in some quarter of the run: more steps are needed", wrong=True)
    return
  early, late = quarters[1], quarters[3]
  for name, most in (("megabytes", _MOST_MEGABYTES * steps / 2000 + 2), ("handles", 2),
                     ("threads", 2)):
    # The least: a save in progress holds buffers and files for a moment.
    least = [min(getattr(sample, name) for sample in quarter) for quarter in quarters]
    values, slope = ", ".join(f"{value:.4g}" for value in least), (least[3] - least[1]) / steps * 2
    table.add(name, f"at least {values} in the four quarters: {1000 * slope:+.2f} in 1,000 steps "
              "from the second to the last", wrong=least[3] - least[1] > most)
  pools = [max(sample.pool for sample in quarter) for quarter in quarters]
  table.add("tensorstore's pool", f"at most {', '.join(map(str, pools))} threads in the four "
            "quarters", wrong=max(pools) > _POOL_LIMIT)
  for name in early[0].log_bytes:
    first, middle, last = (s.log_bytes[name] for s in (samples[0], early[-1], late[-1]))
    rates = ((middle - first) / (early[-1].step - samples[0].step or 1),
             (last - middle) / (late[-1].step - early[-1].step))
    table.add(name, f"{rates[0]:.1f} bytes a step in the first half, {rates[1]:.1f} in the second "
              f"(a record every {_TINY['log_every_steps']} steps)", wrong=rates[1] > 1.1 * rates[0])


if __name__ == "__main__":
  main()
