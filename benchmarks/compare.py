"""Times alternatives by turns in one process, and writes the tables and JSON of the benchmarks."""

from collections.abc import Callable, Mapping, Sequence
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import time
from typing import Any

import numpy as np

Row = Mapping[str, Any]


def alternate(contestants: Mapping[str, Callable[[], Any]], rounds: int,
              warm_up: int = 2) -> dict[str, list[float]]:
  """Seconds of every contestant in every round.

  A shared machine's speed drifts by more than what is compared, and within seconds: only times
  of one round belong together. The order is turned around in every other round.

  Args:
    contestants: name -> a call that returns when its work is done.
    rounds: how often each is timed.
    warm_up: calls of each before that, which compile and fill caches.
  """
  for call in contestants.values():
    for _ in range(warm_up):
      call()
  seconds: dict[str, list[float]] = {name: [] for name in contestants}
  for i in range(rounds):
    for name, call in list(contestants.items())[::-1 if i % 2 else 1]:
      start = time.perf_counter()
      call()
      seconds[name].append(time.perf_counter() - start)
  return seconds


def ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
  """The median over rounds of slower / faster."""
  return statistics.median(np.asarray(slower) / np.asarray(faster))


def machine() -> dict[str, Any]:
  """What a table was measured on."""
  packages = ("jax", "jaxlib", "flax", "optax", "torch", "transformers")
  versions = {}
  for name in packages:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return {"processor": _processor(), "cpus": os.cpu_count(), "python": platform.python_version(),
          **versions}


def _processor() -> str:
  info = pathlib.Path("/proc/cpuinfo")
  names = [line.partition(":")[2].strip() for line in
           (info.read_text("utf-8").splitlines() if info.exists() else ())
           if line.startswith("model name")]
  return names[0] if names else platform.processor() or platform.machine()


def report(rows: Sequence[Row], output: str, **more: Any) -> None:
  """Prints a table with a line per row, and writes rows and machine as JSON where asked to.

  Args:
    rows: with equal keys, which head the columns; lists (all rounds' seconds) are only written.
    output: the JSON file; blank: none.
    **more: goes into the JSON file beside them.
  """
  columns = [name for name, value in rows[0].items() if not isinstance(value, list)]
  lines = [columns] + [[_cell(row[name]) for name in columns] for row in rows]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  for line in lines:
    print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
  if output:
    pathlib.Path(output).write_text(json.dumps(
        {"machine": machine(), **more, "results": list(rows)}, indent=2) + "\n", "utf-8")


def _cell(value: Any) -> str:
  return f"{value:.4g}" if isinstance(value, float) else str(value)
