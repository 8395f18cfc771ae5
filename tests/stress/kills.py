"""SIGKILL at random moments; the same command again until it ends; bits as in an unbroken run.

    python -m tests.stress.kills --times=50 --output_dir=DIR
"""

import os
import pathlib
import random
import sys
import time

from tests.stress import harness

# Of each script, and what its command has beside the usual: evaluations that decide.
SCRIPTS = {"run_pretraining": {},
           "run_classifier": {"keep_best": True, "early_stopping_patience": 5,
                              "eval_every_epochs": 0.3, "keep_checkpoints": 1}}


def main() -> None:
  options = harness.options(__doc__, times=50)
  sys.exit(kill_runs(options.output_dir, options.times, options.seed))


def kill_runs(folder: pathlib.Path, times: int, seed: int = 0) -> int:
  """Kills runs of both scripts in turn, `times` times in all; returns an exit status."""
  table = harness.Table(f"{times} SIGKILLs, seed {seed}")
  inputs = harness.Inputs.make(harness.fresh(folder) / "inputs")
  rng = random.Random(seed)
  kills, runs = 0, 0
  for script, knobs in SCRIPTS.items():
    harness.run_whole(inputs.command(script, folder / script, **knobs), inputs.environment())
  while kills < times:
    script = list(SCRIPTS)[runs % len(SCRIPTS)]
    broken = harness.fresh(folder / "broken")
    runs += 1
    while (status := _kill_once(inputs, script, broken, rng, table)) is None:
      kills += 1
    found = [f"exit {status}"] if status else harness.differences(broken, folder / script)
    table.add(f"run {runs}, {script}, after {kills} kills in all",
              "; ".join(found) or "ends with the bits of the unbroken run", wrong=bool(found))
  return table.finish(f"{kills} kills")


def _kill_once(inputs: harness.Inputs, script: str, out: pathlib.Path, rng: random.Random,
               table: harness.Table) -> int | None:
  """Starts a run and kills it at a moment drawn at random; its exit status if it ends before."""
  moment = rng.choice(("a time", "a time", "a save", "a save", "the end of a save", "the export"))
  nth, delay = rng.randint(1, 4), rng.uniform(0.0, 0.04)
  process = harness.start(inputs.command(script, out, **SCRIPTS[script]), inputs.environment())
  since = time.monotonic()
  after = rng.uniform(1.0, 15.0)
  seen: set[str] = _entries(out, moment)
  fresh: set[str] = set()

  def has_come() -> bool:
    nonlocal fresh
    if moment == "a time":
      return time.monotonic() - since > after
    fresh |= _entries(out, moment) - seen
    return len(fresh) >= (1 if moment == "the export" else nth)

  if harness.wait_until(process, has_come):
    if moment != "a time":
      time.sleep(delay)
    if process.poll() is None:
      os.killpg(process.pid, 9)
      process.communicate()
      table.add(f"SIGKILL at {moment}, {time.monotonic() - since:.1f} s after the start",
                f"saved steps {harness.steps_saved(out)}, logged to {harness.steps_logged(out)}")
      return None
  ended = harness.end(process, since)
  if ended.status:
    table.add(f"{script} again", f"exit {ended.status}: {ended.lines[-1:]}", wrong=True)
  return ended.status


def _entries(out: pathlib.Path, moment: str) -> set[str]:
  """Returns the names whose coming marks a moment."""
  folder = out if moment == "the export" else out / "checkpoints"
  names = os.listdir(folder) if folder.is_dir() else []
  if moment == "the export":
    return {name for name in names if name.startswith(".model.")}
  return {name for name in names if name.isdigit() == (moment == "the end of a save")}


if __name__ == "__main__":
  main()
