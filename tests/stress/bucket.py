"""Kills a run that is kept in a bucket, and the network; restarts it on empty machines; compares.

    python -m tests.stress.bucket --times=20 --output_dir=DIR

The bucket is one of moto's S3 server on the loopback. A machine is an empty folder, which the run's
folder is relative to. In between the network is cut, at random moments and for random times.
"""

import contextlib
import os
import pathlib
import random
import signal
import sys
import threading
import time

from support import mirror
from tests import s3_server
from tests.stress import harness

_KNOBS = harness.SHORT | {"num_train_steps": 120, "save_checkpoints_steps": 10}


def main() -> None:
  options = harness.options(__doc__, times=20)
  sys.exit(kill_machines(options.output_dir, options.times, options.seed))


def kill_machines(folder: pathlib.Path, times: int, seed: int = 0) -> int:
  """Takes `times` machines away from runs in a bucket; returns an exit status."""
  table = harness.Table(f"{times} machines taken from runs in a bucket, seed {seed}")
  folder = harness.fresh(folder).resolve()
  inputs, rng = harness.Inputs.make(folder / "inputs"), random.Random(seed)
  harness.run_whole(inputs.command("run_pretraining", folder / "whole", **_KNOBS),
                    inputs.environment())
  port, taken, runs = s3_server.free_port(), 0, 0
  with s3_server.serve(port):
    network = s3_server.Network(port)
    while taken < times:
      runs += 1
      url = f"s3://{s3_server.BUCKET}/run-{runs}"
      command = inputs.command("run_pretraining", url, **_KNOBS)
      environment = inputs.environment(**s3_server.environment(network.port))
      while (ended := _one_machine(command, environment, folder / "machine", network, rng, table)
             ) is None:
        taken += 1
      found = [f"exit {ended.status}: {ended.lines[-1:]}"] if ended.status else harness.differences(
          folder / "machine" / mirror.local_folder(url), folder / "whole")
      table.add(f"run {runs}, {taken} machines taken in all",
                "; ".join(found) or "ends with the bits of the unbroken run", wrong=bool(found))
  return table.finish(f"{taken} machines taken")


def _one_machine(command: list[str], environment: dict[str, str], machine: pathlib.Path,
                 network: s3_server.Network, rng: random.Random,
                 table: harness.Table) -> harness.Ended | None:
  """Runs the command on an empty machine, which is taken away or not; how it ended if not."""
  harness.fresh(machine).mkdir()
  how = rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, None))
  after, since = rng.uniform(4.0, 20.0), time.monotonic()
  cut_at, cut_for = rng.uniform(3.0, 20.0), rng.uniform(0.1, 8.0)
  process = harness.start(["env", f"--chdir={machine}", *command], environment)
  with _cut_in_between(network, cut_at, cut_for):
    if how is None or not harness.wait_until(process, lambda: time.monotonic() - since > after):
      return harness.end(process, since)
    os.killpg(process.pid, how)
    ended = harness.end(process, since)
  said = "; ".join(line.strip() for line in ended.out.splitlines()
                   if line.startswith(("fetching", "continuing", "warning: s3")))
  right = {signal.SIGKILL: (-9,), signal.SIGTERM: (0, 143)}[how]
  table.add(f"{signal.Signals(how).name} after {after:.1f} s, network cut at {cut_at:.1f} s for "
            f"{cut_for:.1f} s", f"exit {ended.status}; {said}", wrong=ended.status not in right)
  return None


@contextlib.contextmanager
def _cut_in_between(network: s3_server.Network, at: float, seconds: float):
  """Cuts the network once; it is whole again when the block ends."""
  over = threading.Event()

  def cut() -> None:
    if not over.wait(at):
      network.cut()
      over.wait(seconds)
      network.mend()

  thread = threading.Thread(target=cut)
  thread.start()
  try:
    yield
  finally:
    over.set()
    thread.join()


if __name__ == "__main__":
  main()
