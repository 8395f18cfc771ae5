"""The table of a sweep: settings, the scores of their seeds, GLUE's average, and its files."""

from collections.abc import Iterator, Mapping, Sequence
import csv
import io
import pathlib
import statistics
from typing import Any, NamedTuple

from classification import tasks
from support.files import written_whole
from support.study import name_of, Record, Setting


class Row(NamedTuple):
  """A setting on a task: the runs of all its seeds.

  Attributes:
    task: the name in the table.
    setting: knob -> value.
    records: a run each, in the order of the seeds.
    of_glue: whether the task is GLUE's: the folder of one's own data may be called like one.
  """

  task: str
  setting: Setting
  records: list[Record]
  of_glue: bool = True

  @property
  def scores(self) -> list[float]:
    """The scores of the runs that are done."""
    return [record.score for record in self.records if record.state == "done"]

  @property
  def collapsed(self) -> list[int]:
    """The seeds of the runs that have collapsed."""
    return [record.seed for record in self.records if is_collapsed(record)]

  def metric(self, name: str) -> list[float]:
    """Returns one of the results of the runs that are done."""
    return [record.results["scores"][name] for record in self.records if record.state == "done"]


def is_collapsed(record: Record) -> bool:
  """Returns whether a run is done and has collapsed."""
  return record.state == "done" and bool(record.results["scores"].get("eval_collapsed"))


def run_results(task: tasks.Task, scores: Mapping[str, Any],
                summary: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what a sweep keeps of a finished run, for `Study.finish`.

  Args:
    task: of the run.
    scores: its eval_results.
    summary: its summary.json, for the seconds of training, which are those from `first_step` on.
  """
  timing = {"train_seconds": summary.get("train_seconds", 0.0),
            "first_step": summary.get("first_step", 0)}
  return {"scores": dict(scores), "metrics": _counted(task), **timing}


def _counted(task: tasks.Task) -> list[str]:
  """Names the results that make a task's score: GLUE's all, the first of one's own data."""
  metrics = task.metrics if task.name in tasks.GLUE_TASKS else task.metrics[:1]
  return [f"eval_{metric}{suffix}" for suffix in task.eval_splits.values() for metric in metrics]


def score_of(results: Mapping[str, Any]) -> float:
  """Returns a run's score: the mean of its task's metrics and dev sets, as GLUE takes it."""
  return statistics.mean(results["scores"][name] for name in results["metrics"])


def rows_of(task: str, records: Sequence[Record], of_glue: bool = True) -> list[Row]:
  """Gathers a task's runs by setting; see `Row`."""
  rows: dict[str, Row] = {}
  for record in records:
    row = rows.setdefault(name_of(record.setting), Row(task, record.setting, [], of_glue))
    row.records.append(record)
  return list(rows.values())


def score_name(rows: Sequence[Row], task: str) -> str:
  """Returns what a task's scores are: dev accuracy, or the mean of dev f1, accuracy."""
  names = next((record.results["metrics"] for row in rows if row.task == task
                for record in row.records if record.state == "done"), ["eval_score"])
  said = ", ".join(name.removeprefix("eval_") for name in names)
  return f"mean of dev {said}" if len(names) > 1 else f"dev {said}"


def best_row(rows: Sequence[Row], task: str) -> Row | None:
  """Returns a task's setting with the highest mean; None if no run is done."""
  scored = [row for row in rows if row.task == task and row.scores]
  return max(scored, key=lambda row: statistics.mean(row.scores), default=None)


# --- Text -------------------------------------------------------------------------------------


HEADER = ("task", "setting", "scores", "mean", "sd", "median", "best", "collapsed")


def cells_of(row: Row) -> tuple[str, ...]:
  """Returns a row of the table; scores are times 100."""
  scores = row.scores
  collapsed = ", ".join(f"seed {seed}" for seed in row.collapsed) or "none"
  return (row.task, name_of(row.setting) or "-", ", ".join(map(score_or_state, row.records)),
          _mean(scores) + _behind(_finished(row)), _deviation(scores), *(
              (times_100(statistics.median(scores)), times_100(max(scores))) if scores
              else ("-", "-")), collapsed if scores else "-")


def times_100(value: float) -> str:
  """Returns a score as the tables have it."""
  return f"{100 * value:.2f}"


def score_or_state(record: Record) -> str:
  """Returns a run's score times 100, or its state where it has none."""
  return times_100(record.score) if record.state == "done" else record.state


def _mean(values: Sequence[float]) -> str:
  return times_100(statistics.mean(values)) if values else "-"


def _deviation(values: Sequence[float]) -> str:
  return times_100(statistics.stdev(values)) if len(values) > 1 else "-"


def _finished(row: Row) -> str:
  """Returns "3 of 5 seeds" where a mean has only these runs; "" where all are done, or none."""
  done, all_runs = len(row.scores), len(row.records)
  return f"{done} of {all_runs} seeds" if 0 < done < all_runs else ""


def _behind(*remarks: str) -> str:
  """Returns remarks in brackets, to stand behind a number or a name; "" without any."""
  said = ", ".join(filter(None, remarks))
  return f" ({said})" if said else ""


def caveats(row: Row) -> str:
  """Returns " (3 of 5 seeds, all collapsed)" of a mean that is to be read with care; or ""."""
  count = len(row.collapsed)
  collapsed = f"{'all' if count == len(row.scores) else count} collapsed" if count else ""
  return _behind(_finished(row), collapsed)


def seeds_of(rows: Sequence[Row]) -> str:
  """Returns the seeds of each setting's runs: 0, 1, 2."""
  return ", ".join(str(record.seed) for row in rows[:1] for record in row.records)


def metric_cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
  """Returns mean and deviation of each metric, of the tasks whose score is made of several."""
  return [(row.task, name_of(row.setting) or "-", *cells)
          for row in rows for cells in row_metrics(row)]


def row_metrics(row: Row) -> Iterator[tuple[str, str, str]]:
  """Yields name, mean and deviation of each metric, where a score is made of several."""
  done = [record for record in row.records if record.state == "done"]
  names = done[0].results["metrics"] if done else ()
  for name in names if len(names) > 1 else ():
    values = row.metric(name)
    mean = _mean(values) + _behind(_finished(row))
    yield name.removeprefix("eval_"), mean, _deviation(values)


def glue_line(rows: Sequence[Row], limits: str) -> str:
  """Returns the average of the tasks' best settings in a sentence; "" without two GLUE tasks.

  As the leaderboard takes it: a task's metrics are averaged first, and each task counts once.

  Args:
    rows: of all tasks.
    limits: the knobs that limit all runs to a first try; "" where nothing does.
  """
  of_glue = [row for row in rows if row.of_glue]
  best = {task: row for task in tasks.GLUE_TASKS if (row := best_row(of_glue, task))}
  if len(best) < 2:
    return ""
  score = statistics.mean(statistics.mean(row.scores) for row in best.values())
  missing = [task for task in tasks.GLUE_TASKS if task not in best]
  names = ", ".join(task + caveats(row) for task, row in best.items())
  return (f"GLUE: {times_100(score)}, the average of {names}, each with its best "
          "setting's mean" + (f" (without {', '.join(missing)})" if missing else "")
          + (f", of limited runs ({limits})" if limits else "")
          + "; the leaderboard's also has wnli")


def aligned(header: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
  """Returns a table in Markdown whose columns are aligned as text too."""
  widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
  lines = [header, ["-" * width for width in widths], *cells]
  return ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
          + " |" for line in lines]


def failures(rows: Sequence[Row]) -> list[str]:
  """Returns a line for each run that failed, with its reason."""
  return [f"{row.task} {name_of(row.setting)} seed {record.seed} failed: {record.error}"
          for row in rows for record in row.records if record.state == "failed"]


# --- Files ------------------------------------------------------------------------------------


def write_csv(file: pathlib.Path, rows: Sequence[Row]) -> None:
  """Writes a line for each run, whatever became of it."""
  knobs = list(dict.fromkeys(knob for row in rows for knob in row.setting))
  metrics = list(dict.fromkeys(
      name for row in rows for record in row.records for name in record.results.get("scores", ())))
  table = io.StringIO()
  writer = csv.writer(table, lineterminator="\n")
  writer.writerow(("task", *knobs, "seed", "state", "score", *metrics, "train_seconds",
                   "first_step", "error"))
  for row in rows:
    for record in row.records:
      scores = record.results.get("scores", {})
      writer.writerow((
          row.task, *(row.setting[knob] for knob in knobs), record.seed, record.state,
          record.score, *(scores.get(name) for name in metrics),
          record.results.get("train_seconds"), record.results.get("first_step"), record.error))
  with written_whole(file, shared=True) as temporary:
    temporary.write_text(table.getvalue(), "utf-8")


def write_markdown(file: pathlib.Path, rows: Sequence[Row], limits: str) -> None:
  """Writes the tables, GLUE's average and the failures; for `limits` see `glue_line`."""
  parts = [f"Dev scores times 100 of seeds {seeds_of(rows)}; sd is the sample standard deviation."
           + f" The runs are limited ({limits})." * bool(limits), "",
           *aligned(HEADER, list(map(cells_of, rows)))]
  if cells := metric_cells(rows):
    parts += ["", "The metrics that these scores are the means of:", "",
              *aligned(("task", "setting", "metric", "mean", "sd"), cells)]
  lines = filter(None, (glue_line(rows, limits), *failures(rows)))
  parts += [part for line in lines for part in ("", line)]
  with written_whole(file, shared=True) as temporary:
    temporary.write_text("\n".join(parts) + "\n", "utf-8")
