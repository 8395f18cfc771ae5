"""Output of a run: a bar or log lines, metrics.jsonl, TensorBoard events, W&B, curves.png."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import datetime
import hashlib
import importlib.util
import json
import os
import pathlib
import sys
import time
from typing import Any, TextIO

from support.errors import first_line, shown, UserError
from support.files import names_errors, read_json, written_whole

_muted = False
_on_stderr = False
_log: TextIO | None = None  # takes the lines of one of several runs
_run = ""  # the name of that one
_warned: set[str] = set()  # the warnings of all of them


def mute() -> None:
  """Makes `say` and the bars silent: another host prints."""
  global _muted
  _muted = True


@contextlib.contextmanager
def beside_results(output: str) -> Iterator[None]:
  """A context in which `say` prints on stderr, if the results go to stdout (`output` is "-")."""
  global _on_stderr
  _on_stderr = output == "-"
  try:
    yield
  finally:
    _on_stderr = False


@contextlib.contextmanager
def said_to(file: pathlib.Path, run: str) -> Iterator[None]:
  """A context in which `say` writes to the end of a file, and prints only new warnings.

  Args:
    file: takes all lines.
    run: the name that stands before a warning that is printed.
  """
  global _log, _run
  _run = run
  file.parent.mkdir(parents=True, exist_ok=True)
  with names_errors(file), file.open("a", encoding="utf-8", errors="backslashreplace") as _log:
    try:
      yield
    finally:
      _log = None


def say(text: str) -> None:
  """Prints one line and flushes it."""
  warns = text.lstrip().startswith("warning")
  if _log:
    _log.write(f"{text}\n")
    _log.flush()
    if text in _warned or not warns:
      return
    _warned.add(text)
    text = f"{_run}: {text.lstrip()}"
  elif warns:
    _warned.add(text)
  if not _muted:
    print(text, file=sys.stderr if _on_stderr else sys.stdout, flush=True)


def on_a_terminal() -> bool:
  """Returns whether stderr is a terminal wide enough for a bar (some launchers give width 0)."""
  return (not _muted and sys.stderr.isatty()
          and os.get_terminal_size(sys.stderr.fileno()).columns > 0)


@contextlib.contextmanager
def progress_bar(total: int, unit: str) -> Iterator[Callable[[int], None]]:
  """Shows a progress bar if stderr is a terminal.

  Args:
    total: amount of work; 0 if unknown.
    unit: of the amounts.

  Yields:
    The function to call with each amount of work done.
  """
  import tqdm  # here: `say` does not need it

  with tqdm.tqdm(total=total or None, unit=unit, unit_scale=True, dynamic_ncols=True, leave=False,
                 disable=not on_a_terminal()) as bar:
    yield bar.update


class Reporter:
  """Logger of a run's metrics: to a bar or as lines, to metrics.jsonl and to TensorBoard events."""

  def __init__(self, folder: pathlib.Path, num_train_steps: int, first_step: int = 0,
               steps_left: Callable[[int], float] | None = None, tracker: Any = None):
    """Opens the log; drops records after `first_step`, which an interrupted run has lost.

    Args:
      folder: the run's.
      num_train_steps: last step of the run.
      first_step: number of steps done before.
      steps_left: step -> the work that is left after it, in units of that step's work. None: all
        steps take the same time.
      tracker: see `open_tracker`.
    """
    import tqdm  # here: `say` does not need it

    self._file = folder / "metrics.jsonl"
    self._first, self._last = first_step, num_train_steps
    self._rewind()
    self._events = _Events(folder, first_step)
    self._tracker = tracker
    self._steps_left = steps_left or (lambda step: num_train_steps - step)
    # Leaves out tqdm's own forecast, which assumes that all steps take the same time.
    bar = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
    self._bar = tqdm.tqdm(total=num_train_steps, initial=first_step, bar_format=bar,
                          disable=not on_a_terminal(), dynamic_ncols=True)

  def _rewind(self) -> None:
    """Drops records that will be written again: of later steps, and the last step's scores."""
    if self._file.is_dir():
      aside = f"{self._file}.damaged-{time.time_ns()}"
      self._file.rename(aside)
      say(f"warning: {self._file} is a folder; it is kept as {aside}")
    done = self._first - (self._first == self._last)
    kept = [record for record in read_metrics(self._file)
            if record["step"] <= (self._first if "learning_rate" in record else done)]
    with written_whole(self._file) as file:
      file.write_text("".join(json.dumps(record) + "\n" for record in kept), "utf-8")
    # Whether the step after which this process begins has its scores.
    self.scored = any(record["step"] == self._first and "learning_rate" not in record
                      for record in kept)

  def progress(self) -> None:
    """Advances the bar by one step."""
    self._bar.update(1)

  def log(self, step: int, record: Mapping[str, float]) -> None:
    """Logs the averages of the steps up to `step`, to the files and to the user."""
    self.metrics(step, record)
    loss = f"loss {record['loss']:.4f}" if "loss" in record else "no update"
    parts = [loss, f"lr {record['learning_rate']:.2e}"]
    if "examples_per_second" in record and step > 1:  # step 1 alone predicts nothing
      examples = record["examples_per_second"]
      left = self._steps_left(step) * record["examples_per_step"] / examples
      parts += [f"{examples:.1f} examples/s", f"{record['tokens_per_second']:.0f} tokens/s",
                f"padding {record['padding_share']:.1%}",
                f"waiting for data {record['waiting_share']:.1%}",
                f"{datetime.timedelta(seconds=round(left))} left"]
    if self._bar.disable:
      say("  ".join((f"step {step}/{self._last}", *parts)))
    else:  # a bar has room for less
      self._bar.set_postfix_str(", ".join((*parts[:3], *parts[6:])))

  def metrics(self, step: int, record: Mapping[str, float]) -> None:
    """Appends a record to metrics.jsonl, to the TensorBoard events and to Weights & Biases."""
    with names_errors(self._file), self._file.open("a", encoding="utf-8") as file:
      file.write(json.dumps({"step": step, **record}) + "\n")
    self._events.add(step, record)
    if self._tracker:
      self._tracker.log({grouped_name(name): value for name, value in record.items()}, step=step)

  def finish(self, summary: Mapping[str, float]) -> None:
    """Writes summary.json: the totals, and the step after which this process began."""
    write_json(self._file.with_name("summary.json"), {"first_step": self._first, **summary})

  def say(self, text: str) -> None:
    """Prints one line without breaking the progress bar."""
    self._bar.clear()
    say(text)

  def close(self, curve: str, learning_rates: Mapping[int, float]) -> None:
    """Closes the bar and the events, and draws curves.png: see `draw_curves`."""
    self._bar.close()
    self._events.close()
    if self._tracker:
      self._tracker.finish()
    draw_curves(self._file, self._file.with_name("curves.png"), curve, learning_rates)


_LONGEST_RUN_NAME = 128  # at Weights & Biases


def check_tracker(project: str) -> None:
  """Raises UserError for a project of Weights & Biases where its package is not installed."""
  if project and not importlib.util.find_spec("wandb"):
    raise UserError(f"wandb_project {shown(project)} needs Weights & Biases: pip install wandb, "
                    "or leave --config.wandb_project out")


def open_tracker(project: str, folder: pathlib.Path, config: Mapping[str, Any]) -> Any:
  """Opens the run at Weights & Biases, or goes on with it; None for a blank project.

  Steps that a continued run makes again keep what was logged of them first.

  Args:
    project: its name.
    folder: the run's, with its config.json.
    config: every knob.

  Raises:
    UserError: Weights & Biases refuses, as without a login.
  """
  if not project:
    return None
  import wandb

  start = read_json(folder / "config.json").get("start", "")
  key = hashlib.sha256(f"{folder.absolute()} {start}".encode()).hexdigest()[:16]
  try:
    name = (_run if _log else folder.name)[-_LONGEST_RUN_NAME:]  # one of several runs has its own
    return wandb.init(project=project, name=name, id=key, resume="allow", config=dict(config))
  except Exception as error:  # of several types
    raise UserError(f"wandb_project {shown(project)}: {first_line(error)}") from error


class NoReporter:
  """A reporter that keeps nothing: on hosts other than the first, which reports for all."""

  scored = False

  def __getattr__(self, name: str) -> Callable[..., None]:
    return lambda *args, **kwargs: None


def grouped_name(metric: str) -> str:
  """Returns eval/loss for eval_loss, and train/loss for loss: a group each in TensorBoard."""
  return f"eval/{metric.removeprefix('eval_')}" if metric.startswith("eval_") else f"train/{metric}"


class _Events:
  """TensorBoard events of one process, written at once.

  tensorboardX's SummaryWriter writes them in a thread: a full disk ends it with a traceback, and
  the run then waits for it for ever.
  """

  def __init__(self, folder: pathlib.Path, first_step: int):
    with _without_torch():
      from tensorboardX import event_file_writer
      from tensorboardX.proto import event_pb2, summary_pb2
    self._event, self._summary = event_pb2.Event, summary_pb2.Summary
    self._file = folder / "events"  # .out.tfevents.TIME.HOST.STEP
    with names_errors(self._file):
      self._writer = event_file_writer.EventsWriter(str(self._file), f".{first_step}")
    if first_step:
      # TensorBoard then shows one curve, not also the records that an interrupted run has lost.
      session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._write(step=first_step + 1, session_log=session)

  def add(self, step: int, record: Mapping[str, float]) -> None:
    """Appends a record, the dev scores under eval/ and all else under train/."""
    values = [self._summary.Value(tag=grouped_name(name), simple_value=value)
              for name, value in record.items()]
    self._write(step=step, summary=self._summary(value=values))

  def close(self) -> None:
    """Closes the file."""
    with names_errors(self._file):
      self._writer.close()

  def _write(self, **content: Any) -> None:
    with names_errors(self._file):
      self._writer.write_event(self._event(wall_time=time.time(), **content))
      self._writer.flush()


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
  """A context in which tensorboardX does not import the torch that may be installed.

  That import takes seconds, and scalars need none of it.
  """
  torch = sys.modules.get("torch")
  sys.modules["torch"] = None  # an import then raises ImportError, which tensorboardX expects
  try:
    yield
  finally:
    del sys.modules["torch"]
    if torch is not None:
      sys.modules["torch"] = torch


def read_metrics(file: pathlib.Path) -> list[dict[str, float]]:
  """Returns the records of a metrics.jsonl, without lines that are none.

  Such are a last line that a killed run cut short, and what a damaged disk left.
  """
  records = []
  for line in file.read_text("utf-8", "replace").splitlines() if file.exists() else ():
    with contextlib.suppress(ValueError, RecursionError):
      record = json.loads(line)
      if isinstance(record, dict) and _is_number(record.get("step")) and record["step"] >= 0:
        records.append(record)
  return records


def _is_number(value: Any) -> bool:
  """Returns whether a value is a number that can be compared and drawn."""
  return isinstance(value, int | float) and -1e300 < value < 1e300  # NaN is neither


def draw_curves(metrics: pathlib.Path, image: pathlib.Path, curve: str,
                learning_rates: Mapping[int, float]) -> None:
  """Plots over the steps: the losses of training and dev set, learning rate, a dev metric.

  Args:
    metrics: a metrics.jsonl.
    image: the file to write.
    curve: the metric's name in `metrics`.
    learning_rates: step -> the schedule's.
  """
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot, ticker

  records = read_metrics(metrics)
  figure, (losses, rates, scores) = pyplot.subplots(1, 3, figsize=(13, 3.6),
                                                    constrained_layout=True)

  def draw(axis: Any, name: str, style: str) -> None:
    points = [(r["step"], r[name]) for r in records if _is_number(r.get(name))]
    if points:
      axis.plot(*zip(*points, strict=True), style, label=name.replace("_", " "))

  draw(losses, "loss", ".-")
  draw(losses, "eval_loss", "o-")
  rates.plot(learning_rates.keys(), learning_rates.values(), label="learning rate")
  draw(scores, curve, "o-")
  for axis in (losses, rates, scores):
    axis.set(xlabel="step")
    axis.xaxis.set_major_locator(ticker.MaxNLocator(nbins=6, integer=True))
    axis.grid(alpha=0.3)
    if axis.lines:
      axis.legend()
  with written_whole(image) as temporary:
    figure.savefig(temporary, dpi=120, format="png")
  pyplot.close(figure)


def write_results(folder: pathlib.Path, name: str, results: Mapping[str, Any]) -> None:
  """Writes `name`.txt (`eval_accuracy = 0.912345`, one a line) and `name`.json; prints them."""
  lines = {key: f"{key} = {value:.6f}" if isinstance(value, float) else f"{key} = {value}"
           for key, value in results.items()}
  with written_whole(folder / f"{name}.txt") as file:
    file.write_text("".join(f"{lines[key]}\n" for key in sorted(lines)), "utf-8")
  write_json(folder / f"{name}.json", results)
  for line in lines.values():
    say(line)


def complete_summary(folder: pathlib.Path, curve: str, dev_scores: Mapping[str, float],
                     **more: Any) -> None:
  """Adds to summary.json the dev scores, the evaluation that was the best, and the end's time.

  Args:
    folder: the run's.
    curve: the metric that says which evaluation was the best: the lowest of a loss, or else the
      highest.
    dev_scores: of the trained model; {} where it was not scored. Its numbers are kept: whether it
      has collapsed is found out later.
    **more: what else the summary is to hold.
  """
  file = folder / "summary.json"
  content = read_json(file) if file.exists() else {}
  best = best_record(read_metrics(folder / "metrics.jsonl"), curve)
  if best:
    content |= {"best_step": best["step"], f"best_{curve}": best[curve]}
  end = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
  write_json(file, {**content, "dev_scores": numbers_in(dev_scores), **more, "end": end})


def numbers_in(results: Mapping[str, float]) -> dict[str, float]:
  """Returns the results that are numbers, without what is true or false: eval_collapsed."""
  return {name: value for name, value in results.items() if not isinstance(value, bool)}


def best_record(records: Sequence[Mapping[str, float]], metric: str) -> Mapping[str, float]:
  """Returns the first record with the best value of a metric; {} if none has it."""
  scored = [record for record in records if _is_number(record.get(metric))]
  best = min if metric.endswith("loss") else max
  return best(scored, key=lambda record: record[metric], default={})


def write_json(file: pathlib.Path, content: Mapping[str, Any]) -> None:
  """Writes an indented JSON file, whole or not at all."""
  with written_whole(file) as temporary:
    temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
