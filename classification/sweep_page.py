"""What a sweep shows: scores.png, and report.html with charts, tables and links to its runs."""

from collections.abc import Sequence
import datetime
import pathlib
import statistics
from typing import Any, NamedTuple

from classification import scoreboard
from classification.scoreboard import Row
from support import report
from support.files import written_whole
from support.report import Html, Series
from support.study import name_of, run_folder

_GAP = 0.03  # between dots in a column, of the chart's width
_SPREAD = 0.8  # of a column's width, at most
_MOST_GROUPS = 8  # that colours tell apart
_LONGEST_LABEL = 16  # of a column


class Dots(NamedTuple):
  """Dots of one kind: finished runs whose settings differ in the x axis's knob alone.

  Attributes:
    name: of the settings' other knobs, at the first kind of a group; "" at the second, and where
      there are too many groups for a legend.
    group: a number for these from 0, the same in all tasks.
    collapsed: whether these are the runs that have collapsed.
    points: (place, score times 100) of each run. The place is the column's number, moved a little
      for each run, so that equal scores stand side by side.
  """

  name: str
  group: int
  collapsed: bool
  points: list[tuple[float, float]]


class ScoreChart(NamedTuple):
  """The chart of a task's scores.

  Attributes:
    knob: of the x axis: the learning rate, or the first knob swept where that is not.
    columns: the knob's values; of long texts the end.
    kinds: of dots.
  """

  knob: str
  columns: list[str]
  kinds: list[Dots]


def chart_of(rows: Sequence[Row], task: str, learning_rate: float) -> ScoreChart:
  """Returns what is drawn of a task.

  Args:
    rows: of all tasks.
    task: the one to be drawn.
    learning_rate: of all runs, where it is not swept.
  """
  knobs = dict.fromkeys(knob for row in rows for knob in row.setting)
  knob = "learning_rate" if "learning_rate" in knobs else next(iter(knobs), "learning_rate")

  def group_of(row: Row) -> str:
    return name_of({name: value for name, value in row.setting.items() if name != knob})

  groups = list(dict.fromkeys(map(group_of, rows)))
  told = len(groups) <= _MOST_GROUPS
  values = sorted({row.setting.get(knob, learning_rate) for row in rows if row.task == task})
  points: dict[tuple[int, bool], list[tuple[float, float]]] = {}
  for column, value in enumerate(values):
    runs = [(row, record) for row in rows for record in row.records if row.task == task
            and row.setting.get(knob, learning_rate) == value and record.state == "done"]
    step = min(_SPREAD / max(len(runs), 1), _GAP * len(values))
    for i, (row, record) in enumerate(runs):
      key = (groups.index(group_of(row)) if told else 0, scoreboard.is_collapsed(record))
      points.setdefault(key, []).append(
          (column + (i - (len(runs) - 1) / 2) * step, 100 * record.score))
  return ScoreChart(knob, list(map(_label, values)), [
      Dots(groups[group] if told and not (collapsed and (group, False) in points) else "", group,
           collapsed, points[group, collapsed]) for group, collapsed in sorted(points)])


def _label(value: Any) -> str:
  text = str(value)
  return text if len(text) <= _LONGEST_LABEL else f"\u2026{text[1 - _LONGEST_LABEL:]}"


def draw_scores(image: pathlib.Path, rows: Sequence[Row], learning_rate: float) -> None:
  """Plots each task's dev score: a dot a seed, a cross if it collapsed; see `chart_of`."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  names = list(dict.fromkeys(row.task for row in rows))
  figure, axes = pyplot.subplots(1, len(names), figsize=(4.2 * len(names) + 0.8, 3.8),
                                 constrained_layout=True, squeeze=False)
  for axis, task in zip(axes[0], names, strict=True):
    chart = chart_of(rows, task, learning_rate)
    for kind in chart.kinds:
      axis.plot(*zip(*kind.points, strict=True), "x" if kind.collapsed else "o",
                color=f"C{kind.group}", label=kind.name)
    crossed = " (a cross: collapsed)" * any(kind.collapsed for kind in chart.kinds)
    axis.set(title=task, xlabel=chart.knob + crossed,
             ylabel=scoreboard.score_name(rows, task),
             xlim=(-0.5, len(chart.columns) - 0.5))
    axis.set_xticks(range(len(chart.columns)), chart.columns)
    axis.grid(alpha=0.3, axis="y")
    if any(kind.name for kind in chart.kinds):
      axis.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.1))
  with written_whole(image, shared=True) as temporary:
    figure.savefig(temporary, dpi=120, format="png")
  pyplot.close(figure)


def write_sweep_report(file: pathlib.Path, rows: Sequence[Row], *, learning_rate: float,
                       runs: str, limits: str, command: Sequence[str]) -> None:
  """Writes the sweep's page: see `support/report.py`.

  Args:
    file: in the sweep's folder.
    rows: of all tasks.
    learning_rate: see `chart_of`.
    runs: says how many there are.
    limits: see `scoreboard.glue_line`.
    command: its words.
  """
  names = list(dict.fromkeys(row.task for row in rows))
  best = [(f"{task} {name_of(row.setting).replace(',', ', ')}{scoreboard.caveats(row)}",
           scoreboard.times_100(statistics.mean(row.scores)))
          for task in names if (row := scoreboard.best_row(rows, task))]
  sentences = [f"The runs are limited: {limits}."] if limits else []
  sentences += filter(None, (scoreboard.glue_line(rows, limits), *scoreboard.failures(rows)))
  charts = report.charts(*(_chart(rows, task, learning_rate) for task in names))
  report.write_page(
      file, f"Sweep: {', '.join(names)}",
      f"{file.parent} \u00b7 {datetime.datetime.now():%Y-%m-%d %H:%M} \u00b7 {runs}", [
          report.section("Best settings", report.scores(best), *map(report.paragraph, sentences)),
          report.section("Scores", *([report.paragraph(
              "Dev scores times 100; those of runs that collapsed are crosses."), charts]
                                     if charts else [])),
          *_tables(file.parent, rows),
          report.section("Command", report.command(command))])


def _chart(rows: Sequence[Row], task: str, learning_rate: float) -> Html:
  chart = chart_of(rows, task, learning_rate)
  return report.chart(
      task, [Series(kind.name, kind.points, "crosses" if kind.collapsed else "dots", kind.group)
             for kind in chart.kinds], chart.knob,
      y_name=scoreboard.score_name(rows, task), columns=chart.columns)


def _tables(folder: pathlib.Path, rows: Sequence[Row]) -> list[Html]:
  """Returns the sections of the settings and, where a score is made of several, of the metrics."""
  knobs = list(dict.fromkeys(knob for row in rows for knob in row.setting))
  setting = [(row.task, *(str(row.setting[knob]) for knob in knobs)) for row in rows]
  cells = [dict(zip(scoreboard.HEADER, scoreboard.cells_of(row), strict=True)) for row in rows]
  shown = ("mean", "sd", "median", "best", "collapsed")
  metrics = [(*names, *metric) for names, row in zip(setting, rows, strict=True)
             for metric in scoreboard.row_metrics(row)]
  return [
      report.section("Settings", report.paragraph(
          f"The scores are those of seeds {scoreboard.seeds_of(rows)}; a link leads to the run's "
          "page."),
          report.table(("task", *knobs, *shown, "scores"), [
              (*names, *map(cell.get, shown), _linked_scores(folder, row))
              for names, cell, row in zip(setting, cells, rows, strict=True)], ("scores",))),
      *([report.section("Metrics", report.folded(
          "The metrics that the scores are the means of",
          report.table(("task", *knobs, "metric", "mean", "sd"), metrics)))] if metrics else [])]


def _linked_scores(folder: pathlib.Path, row: Row) -> Html:
  """Returns the scores of a setting's seeds, with links to the runs' pages that are here."""
  scores = []
  for record in row.records:
    page = run_folder(folder / row.task, row.setting, record.seed) / "report.html"
    score = scoreboard.score_or_state(record)
    scores.append(report.link(str(page.relative_to(folder)), score, f"seed {record.seed}")
                  if page.exists() else report.escaped(score))
  return Html(", ".join(scores))
