"""SIGKILL of one of two hosts at random moments; both again until they end; bits as unbroken.

    python -m tests.stress.hosts --times=20 --output_dir=DIR

The moments lie after the hosts have met: before, the one that is left waits minutes for the other.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import contextlib
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

from tests import s3_server
from tests.stress import harness

# Cheap to compile: JAX caches the programs of host 0 alone, so each start of host 1 does it anew.
SMALL = {"model__num_hidden_layers": 1, "model__hidden_size": 16, "model__intermediate_size": 32,
         "pack_sequences": False, "log_every_steps": 1}
_KNOBS = {**SMALL, "num_train_steps": 40, "phases": "((1.0,32,16),)", "save_checkpoints_steps": 4,
          "eval_steps": 10, "max_eval_examples": 32}
_MOST_SECONDS = 60.0  # from a host's death to the other's end


class Hosts:
  """Processes that are the hosts of one run, and all that they print."""

  def __init__(self, command: Iterable[str], environment: Mapping[str, str],
               own: Sequence[Sequence[str]] = ((), ())):
    """Starts them.

    Args:
      command: of one host.
      environment: of each process.
      own: more arguments of each host; as many as there are hosts.
    """
    port = s3_server.free_port()
    self.lines: list[list[str]] = [[] for _ in own]
    self.processes: list[subprocess.Popen] = []
    self._readers: list[threading.Thread] = []
    for host, arguments in enumerate(own):
      self.processes.append(subprocess.Popen(
          [*command, "--config.distributed=True", f"--config.num_processes={len(own)}",
           f"--config.coordinator_address=127.0.0.1:{port}", f"--config.process_id={host}",
           *arguments],
          cwd=harness.ROOT, env=dict(environment), text=True, errors="replace",
          stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
      self._readers.append(threading.Thread(target=self._read, args=(host,)))
      self._readers[-1].start()

  def _read(self, host: int) -> None:
    for line in self.processes[host].stdout or ():
      self.lines[host].append(line.rstrip())

  def await_line(self, host: int, start: str) -> bool:
    """Waits until a host has printed a line that begins so; False if it ended before."""
    return self.wait_until(
        host, lambda: any(line.startswith(start) for line in list(self.lines[host])))

  def wait_until(self, host: int, condition: Callable[[], bool]) -> bool:
    """Waits for a condition; False if the host ended before."""
    while self.processes[host].poll() is None:
      if condition():
        return True
      time.sleep(0.002)
    return condition()

  def ended(self, seconds: float = 300) -> list[int | None]:
    """Returns the exit statuses; None for a host that does not end in time and is killed."""
    end, statuses = time.monotonic() + seconds, []
    for process in self.processes:
      try:
        statuses.append(process.wait(max(0.0, end - time.monotonic())))
      except subprocess.TimeoutExpired:
        statuses.append(None)
    for process, reader in zip(self.processes, self._readers, strict=True):
      process.kill()
      process.wait()
      reader.join()
      if process.stdout:
        process.stdout.close()
    return statuses


def environment(inputs: harness.Inputs, devices: int = 2) -> dict[str, str]:
  """Returns the environment of a process with some CPU devices, whose programs compile fast."""
  flags = (f"--xla_force_host_platform_device_count={devices} "
           "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
  return inputs.environment(PYTHONPATH=str(harness.ROOT), OMP_NUM_THREADS="1", XLA_FLAGS=flags)


def main() -> None:
  options = harness.options(__doc__, times=20)
  sys.exit(kill_hosts(options.output_dir, options.times, options.seed))


def kill_hosts(folder: pathlib.Path, times: int, seed: int = 0) -> int:
  """Kills a host of runs on two, `times` times in all; returns an exit status."""
  table = harness.Table(f"{times} SIGKILLs of one of two hosts, seed {seed}")
  inputs = harness.Inputs.make(harness.fresh(folder) / "inputs")
  whole, out, rng = folder / "whole", folder / "broken", random.Random(seed)
  hosts = Hosts(inputs.command("run_pretraining", whole, **_KNOBS), environment(inputs))
  hosts.await_line(0, "hosts: ")
  since = time.monotonic()
  if found := _faults(hosts):
    table.add("unbroken", found, wrong=True)
    return table.finish()
  span, seconds, runs = time.monotonic() - since, [], 0
  while len(seconds) < times:
    harness.fresh(out)
    runs += 1
    ended = None
    while ended is None and len(seconds) < times:
      ended = _kill_one(inputs, out, rng, span, table, seconds)
    if ended is None:  # the last kill: to the end, now
      ended = _faults(Hosts(inputs.command("run_pretraining", out, **_KNOBS),
                            environment(inputs)))
    found = ended or "; ".join(harness.differences(out, whole))
    table.add(f"run {runs}, after {len(seconds)} kills in all",
              found or "ends with the bits of the unbroken run", wrong=bool(found))
    if found:  # or a fault that never goes away would be met for ever
      break
  if not seconds:
    return table.finish()
  return table.finish(f"{len(seconds)} kills; the other host ended after {min(seconds):.1f} to "
                      f"{max(seconds):.1f} s, median {statistics.median(seconds):.1f} s")


def _faults(hosts: Hosts) -> str:
  """Waits for the end; returns "", or how the hosts ended if not both well."""
  statuses = hosts.ended()
  return "" if statuses == [0, 0] else f"exit {statuses}: {[lines[-4:] for lines in hosts.lines]}"


def _kill_one(inputs: harness.Inputs, out: pathlib.Path, rng: random.Random, span: float,
              table: harness.Table, seconds: list[float]) -> str | None:
  """Starts both hosts and kills one of them at a moment drawn at random.

  Args:
    inputs: of the runs.
    out: the run's folder.
    rng: draws.
    span: seconds of an unbroken run, from the hosts' meeting on.
    table: gets a line.
    seconds: gets the time from the kill to the other's end.

  Returns:
    None, or `_faults` of a run that ended before.
  """
  moment = rng.choice(("a time", "a time", "a save", "an evaluation"))
  dead, nth, delay = rng.randrange(2), rng.randint(1, 3), rng.uniform(0.0, 0.04)
  after = rng.uniform(0.0, span)
  hosts = Hosts(inputs.command("run_pretraining", out, **_KNOBS), environment(inputs))
  hosts.await_line(0, "hosts: ")
  hosts.await_line(1, "host 1 ")
  since = time.monotonic()
  has_come = _coming(moment, out, nth, since + after)
  if not hosts.wait_until(dead, has_come) or hosts.processes[dead].poll() is not None:
    return _faults(hosts)
  if moment != "a time":
    time.sleep(delay)
  os.kill(hosts.processes[dead].pid, signal.SIGKILL)
  killed = time.monotonic()
  with contextlib.suppress(subprocess.TimeoutExpired):
    hosts.processes[1 - dead].wait(_MOST_SECONDS)
  took = time.monotonic() - killed
  statuses = hosts.ended(0)
  if statuses == [0, 0]:  # it was over already
    return ""
  seconds.append(took)
  lines = hosts.lines[1 - dead]
  line = next((line for line in reversed(lines) if f"host {dead} (" in line
               and ("died" in line or "stopped" in line)), "")
  finished = statuses[1 - dead] == 0 and dead == 1 and (out / "eval_results.json").exists()
  wrong = not finished and (statuses[1 - dead] in (0, None) or not line)
  said = "had finished the run" if finished else line or f"{lines[-3:]}"
  table.add(
      f"SIGKILL of host {dead} at {moment}, {killed - since:.1f} s after they met, logged to "
      f"{harness.steps_logged(out)}, saved {harness.steps_saved(out)}",
      f"the other ended after {took:.1f} s with status {statuses[1 - dead]}: {said}", wrong)
  return "" if finished else None


def _coming(moment: str, out: pathlib.Path, nth: int, at: float) -> Callable[[], bool]:
  """Returns the condition for a moment: a time, the nth new save, or the next evaluation."""
  checkpoints = out / "checkpoints"
  logged = harness.steps_logged(out)

  def entries() -> set[str]:  # unfinished ones have other names than the step's number
    names: Any = os.listdir(checkpoints) if checkpoints.is_dir() else ()
    return {name for name in names if not name.isdigit()}

  seen, fresh = entries(), set()

  def has_come() -> bool:
    if moment == "a time":
      return time.monotonic() >= at
    if moment == "a save":
      fresh.update(entries() - seen)
      return len(fresh) >= nth
    step = harness.steps_logged(out)
    return step > logged and step % _KNOBS["eval_steps"] == 0

  return has_come


if __name__ == "__main__":
  main()
