"""Makes the zip file for GLUE's leaderboard (https://gluebenchmark.com) from finished runs.

    python3 make_submission.py --runs=OUT --output=submission.zip

OUT is a run's folder or holds them at any depth, as those of a sweep. Of several runs on a task the
one with the best dev score is taken, the mean of the task's metrics as in a sweep. First tries
(max_steps, max_train_samples, max_eval_samples) are left out. A run without predictions/ predicts
now. AX, the diagnostic set, is predicted with the MNLI model. WNLI is its majority class: its dev
set contradicts its training set, so that this project does not train on it.
"""

if __name__ == "__main__":
  from support import stopping

  stopping.catch_signals()  # first: the imports below take seconds

from collections.abc import Collection, Iterable, Iterator, Mapping
import dataclasses
import math
import os
import pathlib
import tempfile
from typing import Any, NamedTuple
import zipfile

from absl import flags
import numpy as np

from classification import parsers, scoreboard, sources, splits, tables, tasks
from classification.prediction import load_classifier
from configs import rules
from support import devices, files, hub, remote
from support.command_line import FlagSettings, run_script
from support.errors import quoted, shown, UserError
from support.reporting import say

_DIAGNOSTIC_FILES = ("AX/AX.tsv", "AX/test.tsv", "diagnostic/diagnostic.tsv",
                     "diagnostic/diagnostic-full.tsv")
_DIAGNOSTIC_TEXTS = (("sentence1", "sentence2"), ("premise", "hypothesis"),
                     ("Premise", "Hypothesis"))
# Of WNLI, where its files are not at hand: 323 of 635 training rows are of class 0.
_WNLI_ROWS, _WNLI_MAJORITY = 146, "0"
_NOT_RUNS = ("checkpoints", "model", "predictions", "tokenizer")  # folders in a run


@dataclasses.dataclass(frozen=True)
class Settings(FlagSettings):
  """The flags, described in `define_flags`."""

  runs: str
  output: str
  glue_data: str
  partial: bool


class FinishedRun(NamedTuple):
  """A finished run on a GLUE task, its knobs, and its dev score (-inf: it has none)."""

  folder: pathlib.Path
  task: tasks.Task
  knobs: Mapping[str, Any]
  score: float


class TestRows(NamedTuple):
  """The rows of a test split: where they are from, their ids and texts."""

  source: str
  ids: list[str]
  texts: list[tuple[str, ...]]


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags."""

  def define(kind: Any, name: str, default: Any, meaning: str) -> None:
    kind(name, default, meaning, flag_values=values)

  define(flags.DEFINE_string, "runs", "", "A folder of finished runs, at any depth.")
  define(flags.DEFINE_string, "output", "", "The zip file to write.")
  define(flags.DEFINE_string, "glue_data", "", "A folder in GLUE's TSV layout with the test files. "
         "Default: the dataset_path of each run.")
  define(flags.DEFINE_bool, "partial", False, "Write the zip file even if tasks are missing, which "
         "the leaderboard refuses.")


def main() -> None:
  make_submission(Settings.from_flags(flags.FLAGS))


def make_submission(settings: Settings) -> None:
  """Writes the zip file that the flags describe; a failure leaves none.

  Raises:
    UserError: a bad flag, a task without a finished run, or predictions that do not fit the test
      files.
  """
  for name in ("runs", "output"):
    if not getattr(settings, name):
      raise UserError(f"--{name} is missing")
  chosen = best_runs(find_runs(pathlib.Path(os.path.expanduser(settings.runs))))
  missing = [name for name in tasks.GLUE_TASKS if name not in chosen]
  if missing and not (settings.partial and chosen):
    raise UserError(f"{settings.runs} has no finished run of {', '.join(missing)}"
                    + ("; --partial writes the other files" if chosen else
                       " or of any other GLUE task"))
  output = files.output_file(settings.output)
  devices.prepare_to_use("make_submission")
  with tempfile.TemporaryDirectory() as folder:
    for run in chosen.values():
      write_task(pathlib.Path(folder), run, settings.glue_data)
    if "mnli" in chosen:
      write_diagnostic(pathlib.Path(folder), chosen["mnli"], settings.glue_data)
    write_wnli(pathlib.Path(folder), glue_folders(settings, chosen.values()))
    written = sorted(pathlib.Path(folder).iterdir())
    with (files.written_whole(output) as temporary,
          zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive):
      for file in written:
        archive.write(file, file.name)
  if missing:
    say(f"missing: {', '.join(missing)}" + (" and so AX" if "mnli" in missing else "")
        + "; the leaderboard takes all eleven files only")
  say(f"{len(written)} files: {settings.output}")


# --- Runs -------------------------------------------------------------------------------------


def find_runs(folder: pathlib.Path) -> list[FinishedRun]:
  """Finds the finished runs on GLUE's tasks in a folder, at any depth; names those left out.

  Raises:
    UserError: no such folder, or a run whose files cannot be read.
  """
  if not folder.is_dir():
    raise UserError(f"--runs={folder} is no folder")
  runs, unfinished, tries = [], [], []
  seen: set[str] = set()  # links may lead back, or twice to the same run
  for place, names, file_names in os.walk(folder, followlinks=True):
    names[:] = sorted(name for name in names if name not in _NOT_RUNS)
    if os.path.realpath(place) in seen:
      names.clear()
      continue
    seen.add(os.path.realpath(place))
    if "config.json" not in file_names:
      continue
    stored = files.read_json(pathlib.Path(place, "config.json"))
    task = task_of(stored)
    if task is None:
      continue
    if not pathlib.Path(place, "model", "config.json").is_file():
      unfinished.append(place)
    elif any(map(stored["config"].get, rules.LIMITING_KEYS)):
      tries.append(place)
    else:
      runs.append(FinishedRun(pathlib.Path(place), task, stored["config"],
                              dev_score(pathlib.Path(place), task)))
  if unfinished:
    say(f"not finished, left out: {quoted(unfinished, 5)}")
  if tries:
    say(f"first tries ({', '.join(rules.LIMITING_KEYS)}), left out: {quoted(tries, 5)}")
  return runs


def task_of(stored: Mapping[str, Any]) -> tasks.Task | None:
  """Returns the GLUE task of a run's config.json; None for another run."""
  knobs = stored.get("config")
  if stored.get("script") != "run_classifier" or not isinstance(knobs, dict):
    return None
  return tasks.named_task(knobs.get("dataset_name", ""), knobs.get("dataset_path", ""))


def dev_score(folder: pathlib.Path, task: tasks.Task) -> float:
  """Returns a run's score on the dev set as in a sweep; -inf for a run without scores.

  Those of the training's end come first: eval_results.json may be of a later command, which scored
  the run on other rows.
  """
  summary, later = (files.read_json(file) if file.is_file() else {}
                    for file in (folder / "summary.json", folder / "eval_results.json"))
  for scores in (summary.get("dev_scores", {}), later):
    results = scoreboard.run_results(task, scores, {})
    if results["scores"].keys() >= set(results["metrics"]):
      return scoreboard.score_of(results)
  return -math.inf


def best_runs(runs: Iterable[FinishedRun]) -> dict[str, FinishedRun]:
  """Returns task -> its run with the best dev score, in GLUE's order; says which ones."""
  by_task: dict[str, list[FinishedRun]] = {}
  for run in runs:
    by_task.setdefault(run.task.name, []).append(run)
  chosen = {}
  for name in filter(by_task.get, tasks.GLUE_TASKS):
    run = chosen[name] = max(by_task[name], key=lambda run: run.score)
    count = len(by_task[name])
    say(f"{name}: {run.folder}"
        + (f", dev {' and '.join(run.task.metrics)} {run.score:.4f}" if run.score > -math.inf
           else ", which has no dev score")
        + (f", the best of {count} runs" if count > 1 else ""))
  return chosen


# --- Test files -------------------------------------------------------------------------------


def test_rows(run: FinishedRun, split: str, glue_data: str) -> TestRows:
  """Reads a test split of a run's task.

  Raises:
    UserError: it is not there.
  """
  source = sources.find_source(run.task.name, data_of(run, glue_data), skip_bad_rows=False,
                               cache_dir=splits.cache_folder(run.knobs.get("cache_dir", "")))
  if split not in source.splits:
    raise UserError(f"{source.description} has no {split} split of {run.task.name}; name the "
                    "folder with GLUE's test files: --glue_data=DIR")
  table = source.read(split)
  layout = tables.recognize_columns(run.task, table, (), ())
  columns = [["" if text is None else str(text) for text in table.column(name)]
             for name in layout.texts]
  return TestRows(table.source, tables.row_ids(table), list(zip(*columns, strict=True)))


def data_of(run: FinishedRun, glue_data: str) -> str:
  """Returns the dataset_path of the test files: --glue_data or the run's, a local copy of a URL."""
  return remote.local_copies(glue_data or run.knobs["dataset_path"],
                             "--glue_data" if glue_data else "dataset_path",
                             run.knobs.get("cache_dir", ""))


def glue_folders(settings: Settings, runs: Iterable[FinishedRun]) -> Iterator[pathlib.Path]:
  """Yields the folders that may hold GLUE's task folders, the first ones first."""
  for path in dict.fromkeys(data_of(run, settings.glue_data) for run in runs):
    if not tasks.is_hub_glue(path):
      yield pathlib.Path(os.path.expanduser(path))
      yield pathlib.Path(os.path.expanduser(path)).resolve().parent


def diagnostic_rows(run: FinishedRun, glue_data: str) -> TestRows:
  """Reads GLUE's diagnostic set: beside the run's data, or the hub's.

  Raises:
    UserError: it is neither here nor there, or it has other columns.
  """
  path = data_of(run, glue_data)
  if tasks.is_hub_glue(path):
    path = path.partition(":")[0]
    rows = hub.load_dataset(path, "ax")["test"]
    return TestRows(f"{path} ax (hub)", list(map(str, rows["idx"])),
                    list(zip(rows["premise"], rows["hypothesis"], strict=True)))
  here = pathlib.Path(os.path.expanduser(path))
  file = next((found for folder in (here, here.resolve().parent) for name in _DIAGNOSTIC_FILES
               if (found := folder / name).is_file()), None)
  if file is None:
    raise UserError(f"{here} has no diagnostic set for AX: {' or '.join(_DIAGNOSTIC_FILES)};"
                    " name the folder with GLUE's test files: --glue_data=DIR")
  table = parsers.parse_plain_tsv(file).columns
  names = next(filter(set(table.column_names).issuperset, _DIAGNOSTIC_TEXTS), None)
  if names is None:
    raise UserError(f"{file} has no columns sentence1 and sentence2; it has "
                    f"{quoted(table.column_names)}")
  texts = list(zip(*(table.column(name).to_pylist() for name in names), strict=True))
  ids = (table.column("index").to_pylist() if "index" in table.column_names else
         list(map(str, range(len(texts)))))
  return TestRows(str(file), ids, texts)


# --- Files of the submission ------------------------------------------------------------------


def write_task(folder: pathlib.Path, run: FinishedRun, glue_data: str) -> None:
  """Writes a task's files: the run's own predictions, checked, or new ones where it has none."""
  for split, name in run.task.test_splits.items():
    rows = test_rows(run, split, glue_data)
    own = run.folder / "predictions" / f"{name}.tsv"
    if own.is_file():
      check_predictions(own, rows, allowed_labels(run.task))
      (folder / own.name).write_bytes(own.read_bytes())
      say(f"  {own.name}: {len(rows.ids):,} rows, from {own}")
    else:
      write_predicted(folder / own.name, run, rows)
      say(f"  {own.name}: {len(rows.ids):,} rows, predicted now: {run.folder} has none")


def write_diagnostic(folder: pathlib.Path, run: FinishedRun, glue_data: str) -> None:
  """Writes AX.tsv with the model of MNLI."""
  rows = diagnostic_rows(run, glue_data)
  write_predicted(folder / "AX.tsv", run, rows)
  say(f"AX: the model of MNLI, {run.folder}\n  AX.tsv: {len(rows.ids):,} rows of {rows.source}")


def write_wnli(folder: pathlib.Path, places: Iterable[pathlib.Path]) -> None:
  """Writes WNLI.tsv: one class for all rows, the most frequent one of the training file."""
  known: dict[str, pathlib.Path] = {}
  for place in places:
    for name in ("train", "test"):
      if (file := place / "WNLI" / f"{name}.tsv").is_file():
        known.setdefault(name, file)
  ids, majority = list(map(str, range(_WNLI_ROWS))), _WNLI_MAJORITY
  if "test" in known:
    ids = column_of(known["test"], "index")
  if "train" in known:
    labels = column_of(known["train"], "label")
    majority = max(sorted(set(labels)), key=labels.count)
  lines = ("index\tprediction", *(f"{i}\t{majority}" for i in ids))
  (folder / "WNLI.tsv").write_text("".join(f"{line}\n" for line in lines), "utf-8")
  say(f"WNLI: no model, its majority class {majority} for all\n  WNLI.tsv: {len(ids):,} rows")


def column_of(file: pathlib.Path, name: str) -> list[str]:
  """Reads a column of a GLUE file; raises UserError for one that is not there."""
  columns = parsers.parse_plain_tsv(file).columns
  if name not in columns.column_names:
    raise UserError(f"{file} has no column {shown(name)}; it has {quoted(columns.column_names)}")
  return columns.column(name).to_pylist()


def write_predicted(file: pathlib.Path, run: FinishedRun, rows: TestRows) -> None:
  """Predicts rows with a run's model, and writes them as the leaderboard wants them."""
  classifier = load_classifier(str(run.folder))
  logits = np.concatenate([outputs.logits for outputs in
                           classifier.outputs(rows.texts, blank_is_text=True)])
  tasks.write_leaderboard_file(file, run.task, tasks.predictions_from(run.task, logits),
                               classifier.classifier.label_names, rows.ids)


def allowed_labels(task: tasks.Task) -> Collection[str]:
  """Returns the labels that a task's file may have; nothing for a regression."""
  numbers = list(map(str, range(len(task.label_names))))
  return task.label_names if task.predicts_names else numbers


def check_predictions(file: pathlib.Path, rows: TestRows, allowed: Collection[str]) -> None:
  """Checks a file of predictions against the test file.

  Raises:
    UserError: another number of rows, other ids, or a label that the task does not have.
  """
  lines = [line.split("\t") for line in file.read_text("utf-8").splitlines()]
  again = f"predict again: delete {file}"
  if not lines or lines[0] != ["index", "prediction"]:
    raise UserError(f"{file} does not begin with index and prediction; {again}")
  if len(lines) - 1 != len(rows.ids):
    raise UserError(f"{file} has {len(lines) - 1} rows, and {rows.source} has {len(rows.ids)}; "
                    f"{again}")
  for number, (line, index) in enumerate(zip(lines[1:], rows.ids, strict=True), start=2):
    if line[0] != index:
      raise UserError(f"{file}:{number}: index {shown(line[0])}, must be {index} as in "
                      f"{rows.source}; {again}")
    if len(line) != 2 or not _is_label(line[1], allowed):
      raise UserError(f"{file}:{number}: label {shown(line[-1])} is not "
                      + (f"one of {quoted(list(allowed))}" if allowed else "a number")
                      + f"; {again}")


def _is_label(text: str, allowed: Collection[str]) -> bool:
  """Whether a prediction is one of a task's labels or, for a regression, a finite number."""
  if allowed:
    return text in allowed
  try:
    return math.isfinite(float(text))
  except ValueError:
    return False


if __name__ == "__main__":
  define_flags(flags.FLAGS)
  run_script(main, interrupted="nothing was left half-written")
