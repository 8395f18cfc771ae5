"""report.html of a run, from the files in its folder: command, machine, scores and curves."""

from collections.abc import Mapping, Sequence
import datetime
import functools
import pathlib
import shlex
from typing import Any

from flax.traverse_util import flatten_dict

from support import report
from support.files import read_json
from support.report import Band, Html, Series
from support.reporting import read_metrics

_SPEED = ("train_seconds", "examples_per_step", "examples_per_second", "tokens_per_second",
          "padding_share", "waiting_share", "skipped_steps")
_FEWEST_SMOOTHED = 10  # points
_LINKED = ("eval_results.json", "summary.json", "metrics.jsonl", "config.json", "predictions",
           "model")


def write_run_report(folder: pathlib.Path, title: str, sections: Sequence[Html] = (), *,
                 more_facts: Sequence[tuple[str, Any]] = (), bands: Sequence[Band] = (),
                 titles: Mapping[str, str] | None = None, note: str = "") -> None:
  """Writes report.html of the whole run, whichever of its processes made which step.

  Args:
    folder: the run's, with its config.json; a file that is not there leaves its part out.
    title: the heading.
    sections: of the task, below the curves.
    more_facts: names and values beside those of the command and the machine.
    bands: of steps, marked in each curve.
    titles: metric's name without eval_ -> its heading, where it is not the name itself.
    note: of the scores; "" for none.
  """
  config, summary, results = (
      read_json(folder / name) if (folder / name).exists() else {}
      for name in ("config.json", "summary.json", "eval_results.json"))
  curves = draw_metrics(read_metrics(folder / "metrics.jsonl"), bands, titles or {})
  report.write_page(
      folder / "report.html", title, f"{folder} · {datetime.datetime.now():%Y-%m-%d %H:%M}",
      (report.section("Scores", report.paragraph(note) if note else Html(""), report.scores(
          (_heading(name, titles or {}), _score(value)) for name, value in results.items())
                      if results else Html("")),
       report.section("Curves", report.charts(*curves)), *sections,
       report.section("The run", *_about(folder, config, summary, more_facts))))


def _heading(name: str, titles: Mapping[str, str]) -> str:
  """Returns "Matthews correlation" for eval_matthews_correlation."""
  name = name.removeprefix("eval_")
  words = titles.get(name, name.replace("_", " "))
  return words[:1].upper() + words[1:]


def _score(value: Any) -> str:
  return {True: "yes", False: "no"}[value] if isinstance(value, bool) else (
      f"{value:.4f}" if isinstance(value, float) else str(value))


def _about(folder: pathlib.Path, config: Mapping[str, Any], summary: Mapping[str, Any],
           more_facts: Sequence[tuple[str, Any]]) -> list[Html]:
  """Returns the command, the facts of the run and its machine, and all knobs."""
  machine, versions = config.get("machine", {}), config.get("versions", {})
  seconds = summary.get("train_seconds")
  last_not_best = (config.get("config", {}).get("keep_best") is False
                   and summary.get("model_step", 0) > summary.get("best_step", 0))
  facts = [
      ("Model", "parameters" in config and f"{config['parameters']:,} parameters, from "
       + (config["config"].get("init_checkpoint") or "random weights")),
      *more_facts,
      ("Made by", shlex.join(("python3", *config["made_by"])) if "made_by" in config else ""),
      ("Started", summary.get("start")), ("Ended", summary.get("end")),
      ("Training", seconds and f"{seconds:,.1f} s, {summary['examples_per_second']:,.1f} examples/s"
       f"; compilation {summary['compile_seconds']:,.1f} s"
       + (f" (from step {summary['first_step']} on)" if summary.get("first_step") else "")),
      ("Best step", "best_step" in summary and f"{summary['best_step']:,}"
       + (f"; the model is that of step {summary['model_step']:,}" if "model_step" in summary
          else "") + " (--config.keep_best=True would take the best)" * last_not_best),
      ("Peak memory", "; ".join(
          f"{summary[name] / 1e9:.2f} GB of {what}" for name, what in (
              ("peak_host_bytes", "the process"), ("peak_device_bytes", "the fullest device"))
          if name in summary)),
      ("Devices", f"{len(config.get('devices', ()))} x {machine.get('device_kind', 'device')}"),
      ("Machine", machine.get("system") and f"{machine['system']}, {machine['cpus']} CPU cores"),
      ("Commit", config.get("git_commit")),
      ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
      ("Changed", "; ".join(f"from step {entry['step']} on, {line}"
                            for entry in config.get("history", ()) for line in entry["changed"])),
      ("Files", Html(", ".join(report.link(name) for name in _LINKED
                               if (folder / name).exists())))]
  knobs = sorted(flatten_dict(config.get("config", {}), sep=".").items())
  return [report.command(config.get("command", ())),
          report.facts((name, value) for name, value in facts if value),
          report.folded("Every knob", report.table(
              ("knob", "value"), ((name, str(value)) for name, value in knobs), texts=("value",)))]


def draw_metrics(records: Sequence[Mapping[str, float]], bands: Sequence[Band],
                 titles: Mapping[str, str]) -> list[Html]:
  """Draws every metric of a metrics.jsonl: training's and the dev set's of a name in one chart.

  Args:
    records: see `reporting.read_metrics`; training's are those with a learning rate.
    bands: see `report.chart`.
    titles: see `write_run_report`.
  """
  trained = [record for record in records if "learning_rate" in record]
  scored = [record for record in records if "learning_rate" not in record]
  names = [name for name in dict.fromkeys(key for record in trained for key in record)
           if name not in ("step", "learning_rate", *_SPEED)]
  last = [name for name in names if name == "gradient_norm"]
  grouped = {name: [] for name in names if name not in last}
  for name in dict.fromkeys(key for record in scored for key in record if key != "step"):
    plain = name.removeprefix("eval_")  # eval_loss_mismatched belongs to loss
    group = next((known for known in grouped if f"{plain}_".startswith(f"{known}_")), plain)
    grouped.setdefault(group, []).append(name)
  draw = functools.partial(report.chart, bands=bands, span=[r["step"] for r in records])
  charts = []
  for group, dev_names in grouped.items():
    series = _training_series(trained, group) if group in names else []
    series += [Series(" ".join(("dev", *name.removeprefix(f"eval_{group}").split("_")[1:])),
                      _points(scored, name), "dotted", 1 + i)
               for i, name in enumerate(dev_names)]
    charts.append(draw(_heading(group, titles) + ("" if group in names else ", dev"), series))
  charts.append(draw("Learning rate, at the steps logged", [
      Series("rate", _points(trained, "learning_rate"))]))
  charts += [draw(_heading(name, titles), _training_series(trained, name)) for name in last]
  return charts


def _training_series(records: Sequence[Mapping[str, float]], name: str) -> list[Series]:
  points = _points(records, name)
  if len(points) < _FEWEST_SMOOTHED:
    return [Series("training", points)]
  return [Series("training", points, "faint"), Series("smoothed", report.smoothed(points))]


def _points(records: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
  return [(record["step"], record[name]) for record in records if name in record]
