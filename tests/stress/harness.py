"""What every stress test needs: small inputs, the two commands, what a run left behind, a table."""

import argparse
from collections.abc import Callable, Iterable, Mapping
import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent.parent

# Of a record in metrics.jsonl or summary.json: what depends on the machine's speed.
_TIMES = ("seconds", "per_second", "waiting")

_MODEL = {"model.hidden_size": 32, "model.num_hidden_layers": 1, "model.num_attention_heads": 2,
          "model.intermediate_size": 64, "model.max_position_embeddings": 64,
          "pack_sequences": False}  # one shape: most of a short run is compilation
_PRETRAINING = {
    **_MODEL, "phases": "((0.6,32,16),(0.4,64,8))", "num_train_steps": 40, "num_warmup_steps": 4,
    "learning_rate": 1e-3, "save_checkpoints_steps": 4, "log_every_steps": 1, "eval_steps": 13,
    "eval_batch_size": 16, "max_eval_examples": 64, "eval_fraction": 0.1}
_FINE_TUNING = {
    **_MODEL, "max_seq_length": 48, "train_batch_size": 16, "num_train_epochs": 3.5,
    "learning_rate": 3e-4, "save_checkpoints_steps": 4, "log_every_steps": 1}

# For `Inputs.command`: a pre-training of one shape, saved every four steps.
SHORT = {"phases": "((1.0,32,8),)", "num_train_steps": 40, "num_warmup_steps": 4,
         "pack_sequences": False, "save_checkpoints_steps": 4,
         "eval_steps": 10, "eval_batch_size": 8, "max_eval_examples": 8, "keep_checkpoints": 2}


@dataclasses.dataclass(frozen=True)
class Inputs:
  """A vocabulary, a text and a table of two classes, made up once; and a cache of programs."""

  folder: pathlib.Path

  @classmethod
  def make(cls, folder: pathlib.Path) -> "Inputs":
    """Writes all of them."""
    folder = folder.resolve()
    rng = random.Random(0)
    words = ["".join(rng.choice("bdfgklmnprst") + rng.choice("aeiou") for _ in range(3))
             for _ in range(400)]

    def sentence() -> str:  # each word but the first follows from the one before it
      start = rng.randrange(len(words))
      return " ".join(words[(start + i) % len(words)] for i in range(rng.randint(4, 16)))

    (folder / "vocabulary").mkdir(parents=True)
    (folder / "vocabulary" / "vocab.txt").write_text("".join(
        f"{word}\n" for word in dict.fromkeys(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
                                               *words))))
    (folder / "text.txt").write_text("".join(
        "".join(f"{sentence()}\n" for _ in range(rng.randint(3, 9))) + "\n" for _ in range(200)))
    (folder / "table").mkdir()
    for split, rows in (("train", 180), ("dev", 60)):
      lines = (f"{rng.randrange(2)}\t{sentence()}\t{sentence()}\n" for _ in range(rows))
      (folder / "table" / f"{split}.tsv").write_text(
          "label\tsentence1\tsentence2\n" + "".join(lines))
    return cls(folder)

  def command(self, script: str, output_dir: pathlib.Path | str, **knobs: Any) -> list[str]:
    """Returns a command that trains for seconds: 40 steps of two phases, or 39 on the table.

    Args:
      script: "run_pretraining" or "run_classifier".
      output_dir: the run's.
      **knobs: other values; "__" stands for the dot of a nested one.
    """
    pretrains = script == "run_pretraining"
    values = {"tokenizer": self.folder / "vocabulary", "cache_dir": self.folder / "cache",
              **(_PRETRAINING if pretrains else _FINE_TUNING),
              ("train_files" if pretrains else "dataset_path"):
                  self.folder / ("text.txt" if pretrains else "table"),
              **{name.replace("__", "."): value for name, value in knobs.items()}}
    config = "pretraining" if pretrains else "classifier"
    return [sys.executable, str(ROOT / f"{script}.py"), f"--config={ROOT}/configs/{config}.py",
            f"--output_dir={output_dir}",
            *(f"--config.{name}={value}" for name, value in values.items())]

  def environment(self, **more: str) -> dict[str, str]:
    """Returns a process's environment: programs are cached and compile fast, no hub."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TF_CPP_MIN_LOG_LEVEL": "3",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"), **more}


@dataclasses.dataclass(frozen=True)
class Ended:
  """How a command ended."""

  status: int  # negative: the signal that killed it
  out: str
  err: str
  seconds: float

  @property
  def lines(self) -> list[str]:
    """The lines of stderr that are not blank."""
    return [line for line in self.err.splitlines() if line.strip()]


def start(command: Iterable[str], environment: Mapping[str, str]) -> subprocess.Popen:
  """Starts a command in a group of its own, hearing all signals, with its output in pipes."""
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:  # as a shell's background jobs, and their own
      signal.signal(number, signal.SIG_DFL)
  return subprocess.Popen(
      list(command), env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      text=True, errors="replace", start_new_session=True)


def end(process: subprocess.Popen, since: float, limit: float = 600) -> Ended:
  """Waits for a process.

  Raises:
    subprocess.TimeoutExpired: it did not end within `limit` seconds; it is killed.
  """
  try:
    out, err = process.communicate(timeout=limit)
  except subprocess.TimeoutExpired:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    raise
  return Ended(process.returncode, out, err, time.monotonic() - since)


def run(command: Iterable[str], environment: Mapping[str, str], limit: float = 600) -> Ended:
  """Runs a command to its end."""
  since = time.monotonic()
  return end(start(command, environment), since, limit)


def run_whole(command: Iterable[str], environment: Mapping[str, str]) -> None:
  """Runs a command to its end, to compare others with; a failure ends this process."""
  ended = run(command, environment)
  if ended.status:
    sys.exit(f"the unbroken run: exit {ended.status}: {ended.lines[-1:]}")


def wait_until(process: subprocess.Popen, condition: Callable[[], bool]) -> bool:
  """Waits for a condition; False if the process ended before."""
  while process.poll() is None:
    if condition():
      return True
    time.sleep(0.001)
  return False


# --- What a run left -------------------------------------------------------------------------


def steps_logged(run_folder: pathlib.Path) -> int:
  """Returns the last step in metrics.jsonl; 0 if there is none."""
  try:
    lines = (run_folder / "metrics.jsonl").read_text().splitlines()
    return max((json.loads(line)["step"] for line in lines), default=0)
  except (OSError, ValueError):  # not there yet, or a line half written
    return 0


def steps_saved(run_folder: pathlib.Path) -> list[int]:
  """Returns the steps of the finished checkpoints, sorted."""
  folder = run_folder / "checkpoints"
  names = os.listdir(folder) if folder.is_dir() else []
  return sorted(int(name) for name in names if name.isdigit())


def differences(run_folder: pathlib.Path, whole: pathlib.Path) -> list[str]:
  """Compares a finished run with an unbroken one, bit by bit but for times; [] if all is equal."""
  found = []
  for name in ("model/model.safetensors", "model/config.json", "eval_results.json"):
    ours, theirs = ((folder / name) for folder in (run_folder, whole))
    if not ours.exists():
      found.append(f"{name} is missing")
    elif ours.read_bytes() != theirs.read_bytes():
      found.append(f"{name} has other bits")
  if _summary(run_folder) != _summary(whole):
    found.append("summary.json has other counts")
  ours, theirs = _records(run_folder), _records(whole)
  found += [f"metrics.jsonl: {key} is there {len(records)} times"
            for key, records in ours.items() if len(records) > 1]
  found += [f"metrics.jsonl: {key} is missing" for key in theirs if key not in ours]
  found += [f"metrics.jsonl: {key} has other values" for key in theirs
            if key in ours and ours[key][0] != theirs[key][0]]
  return found


def _records(run_folder: pathlib.Path) -> dict[tuple[int, str], list[dict[str, float]]]:
  """Returns (step, kind) -> the records of metrics.jsonl, without times."""
  found: dict[tuple[int, str], list[dict[str, float]]] = {}
  for line in (run_folder / "metrics.jsonl").read_text().splitlines():
    record = json.loads(line)
    kind = "evaluation" if any(name.startswith("eval") for name in record) else "training"
    found.setdefault((record["step"], kind), []).append(_without_times(record))
  return found


def _without_times(record: Mapping[str, float]) -> dict[str, float]:
  return {name: value for name, value in record.items()
          if not any(part in name for part in _TIMES)}


def _summary(run_folder: pathlib.Path) -> set[str]:
  """Returns the names in summary.json; after a restart its counts are those of the last part."""
  file = run_folder / "summary.json"
  return set(json.loads(file.read_text())) if file.exists() else set()


# --- A test's flags and table ------------------------------------------------------------------


def options(description: str, times: int) -> argparse.Namespace:
  """Returns the flags of a test that makes random faults.

  Args:
    description: its docstring, of which the first line is shown.
    times: the default number of faults.
  """
  parser = argparse.ArgumentParser(description=description.splitlines()[0])
  parser.add_argument("--times", type=int, default=times)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--output_dir", type=pathlib.Path, required=True)
  return parser.parse_args()


class Table:
  """Lines of "fault: outcome", printed as they come; counts the wrong ones."""

  def __init__(self, title: str):
    self.wrong = self.rows = 0
    print(f"--- {title}", flush=True)

  def add(self, fault: str, outcome: str, wrong: bool = False) -> None:
    """Adds a line."""
    self.rows += 1
    self.wrong += wrong
    print(f"{'WRONG ' if wrong else ''}{fault}: {outcome}", flush=True)

  def finish(self, summary: str = "") -> int:
    """Prints the sum; returns an exit status."""
    print(f"=== {self.rows} faults, {self.wrong} with a wrong outcome{summary and '; '}{summary}",
          flush=True)
    return int(self.wrong > 0)


def fresh(folder: pathlib.Path) -> pathlib.Path:
  """Returns a folder's path, after what was there is deleted."""
  shutil.rmtree(folder, ignore_errors=True)
  return folder
