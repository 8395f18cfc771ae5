"""SIGINT, SIGTERM, SIGHUP, a second one and two processes, at every stage of both scripts.

    python -m tests.stress.signals --output_dir=DIR
"""

import argparse
from collections.abc import Callable, Iterator
import os
import pathlib
import signal
import sys
import time

from tests.stress import harness

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
_MOST_LINES = 2  # the answer to the signal, and the last line


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--output_dir", type=pathlib.Path, required=True)
  sys.exit(send_signals(parser.parse_args().output_dir))


def send_signals(folder: pathlib.Path) -> int:
  """Sends signals at all moments; every run is then finished and compared with an unbroken one."""
  table = harness.Table("signals, and two processes on one folder")
  inputs = harness.Inputs.make(harness.fresh(folder) / "inputs")
  for script in ("run_pretraining", "run_classifier"):
    whole = folder / script
    harness.run_whole(inputs.command(script, whole), inputs.environment())
    for moment, has_come in _moments(folder / "stopped"):
      for number in STATUS if moment == "in training" else (signal.SIGTERM,):
        _send(inputs, script, folder / "stopped", whole, moment, has_come, number, table)
    _send_twice(inputs, script, folder / "stopped", table)
    _second_process(inputs, script, folder / "stopped", whole, table)
  return table.finish()


def _moments(out: pathlib.Path) -> Iterator[tuple[str, Callable[[float], bool]]]:
  """Yields moments of a run in `out`, each with: seconds since the start -> whether it has come."""

  def entries(folder: pathlib.Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []

  yield "at an import", lambda seconds: seconds > 0.5
  yield "while compiling", lambda _: (out / "config.json").exists()
  yield "in training", lambda _: harness.steps_logged(out) >= 20
  yield "in a save", lambda _: any("tmp" in name for name in entries(out / "checkpoints"))
  yield "in the last evaluation", lambda _: (out / "summary.json").exists()
  yield "in the export", lambda _: any(name.startswith(".model") for name in entries(out))


def _send(inputs: harness.Inputs, script: str, out: pathlib.Path, whole: pathlib.Path, moment: str,
          has_come: Callable[[float], bool], number: signal.Signals, table: harness.Table) -> None:
  """Sends one signal at a moment, runs the same command again, compares."""
  command = inputs.command(script, harness.fresh(out))
  process, since = harness.start(command, inputs.environment()), time.monotonic()
  fault = f"{script}, {number.name} {moment}"
  if not harness.wait_until(process, lambda: has_come(time.monotonic() - since)):
    table.add(fault, "the moment did not come", wrong=True)
    return
  process.send_signal(number)
  sent = time.monotonic()
  ended = harness.end(process, sent)
  saved = harness.steps_saved(out)
  claimed = f"step {saved[-1]} is saved" if saved else "saved step"
  fine = (ended.status == STATUS[number] and len(ended.lines) <= _MOST_LINES
          and (claimed in ended.lines[-1] or moment in ("at an import", "in the export")))
  again = harness.run(command, inputs.environment())
  found = [f"exit {again.status}"] if again.status else harness.differences(out, whole)
  table.add(fault, f"exit {ended.status} after {ended.seconds:.1f} s, {ended.lines[-1:]}; then "
            + ("; ".join(found) or "the bits of the unbroken run"), wrong=not fine or bool(found))


def _send_twice(inputs: harness.Inputs, script: str, out: pathlib.Path, table: harness.Table
                ) -> None:
  process = harness.start(inputs.command(script, harness.fresh(out)), inputs.environment())
  harness.wait_until(process, lambda: harness.steps_logged(out) >= 20)
  process.send_signal(signal.SIGINT)
  assert process.stderr is not None
  first = process.stderr.readline()  # the answer: the first one has arrived
  process.send_signal(signal.SIGINT)
  ended = harness.end(process, time.monotonic())
  at_once = ended.lines == ["ended at once"] or "is saved" in "".join(ended.lines)
  table.add(f"{script}, SIGINT twice", f"exit {ended.status} after {ended.seconds:.1f} s, "
            f"{[first.strip(), *ended.lines]}", wrong=ended.status != 130 or not at_once)


def _second_process(inputs: harness.Inputs, script: str, out: pathlib.Path, whole: pathlib.Path,
                    table: harness.Table) -> None:
  """Starts the same command twice; one runs to its end, the other says whose the folder is."""
  command = inputs.command(script, harness.fresh(out))
  both = [harness.start(command, inputs.environment()) for _ in range(2)]
  ended = [harness.end(process, time.monotonic()) for process in both]
  ended.sort(key=lambda one: one.status)
  found = harness.differences(out, whole) if not ended[0].status else ["none ended well"]
  refused = ended[1].status == 1 and len(ended[1].lines) == 1 and "is in use by" in ended[1].err
  table.add(f"{script}, two processes", f"exits {[one.status for one in ended]}, "
            f"{ended[1].lines}; " + ("; ".join(found) or "the bits of the unbroken run"),
            wrong=bool(found) or not refused)


if __name__ == "__main__":
  main()
