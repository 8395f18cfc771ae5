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
  """Returns the seconds of every contestant in every round.

  A shared machine's speed drifts within seconds, by more than the differences between the
  contestants: compare only times of the same round. Every other round runs in reverse order.

  Args:
    contestants: name -> a call that returns when its work is done.
    rounds: number of timed calls of each.
    warm_up: number of untimed calls of each before, which compile and fill caches.
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
  """Returns the median over rounds of slower / faster."""
  return statistics.median(np.asarray(slower) / np.asarray(faster))


def machine() -> dict[str, Any]:
  """Describes this machine and the versions of the packages."""
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
  """Prints a table with a line per row, and writes rows and machine as JSON if asked.

  Args:
    rows: dicts with equal keys, the heads of the columns; lists (all seconds) are not printed.
    output: the JSON file; blank: none.
    **more: further entries of the JSON file.
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
