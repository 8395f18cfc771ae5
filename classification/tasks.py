"""The tasks: GLUE's (https://gluebenchmark.com) and the user's own; metrics and leaderboard files.

A task says which columns hold the texts and the label, what the classes are called, which
splits are scored and how. Files are read in `sources.py`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import csv
import dataclasses
import difflib
import functools
import io
import pathlib
from typing import Any

import numpy as np

from support import files
from support.errors import quoted, shown, UserError


@dataclasses.dataclass(frozen=True)
class Task:
  """A sentence (pair) classification or regression task.

  Attributes:
    name: GLUE's name on the hub, or "own".
    text_columns: one or two names, as on the hub, or more that `text_delimiter` joins.
    label_names: the classes in the hub's order; () for regression.
    metrics: the first one is followed in curves.
    folder: in GLUE's TSV layout.
    tsv_texts: the TSV header's names of the text columns.
    tsv_label: the TSV header's name of the label column.
    tsv_header: the columns, for a task whose training and dev files have no header.
    numbered: labels may be given as 0, 1, ... in the order of `label_names`.
    train_split: name of the split that is trained on.
    eval_splits: split -> suffix of its metrics' names.
    test_splits: split -> GLUE's name of the prediction file.
    predicts_names: the leaderboard wants label names, not numbers.
    positive_class: of two classes the one whose F1 is computed; "" for the second.
    values: range that a regression's leaderboard file is clipped to, with 3 decimals.
    multi_label: a row is of any number of the classes, also of none.
    text_delimiter: joins the texts into one; "": each is a segment.
  """

  name: str
  text_columns: tuple[str, ...]
  label_names: tuple[str, ...]
  metrics: tuple[str, ...]
  folder: str = ""
  tsv_texts: tuple[str, ...] = ()
  tsv_label: str = "label"
  tsv_header: tuple[str, ...] = ()
  numbered: bool = True
  train_split: str = "train"
  eval_splits: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"validation": ""})
  test_splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
  predicts_names: bool = False
  positive_class: str = ""
  values: tuple[float, float] | None = None
  multi_label: bool = False
  text_delimiter: str = ""

  @property
  def regression(self) -> bool:
    return not self.label_names

  @property
  def segments(self) -> int:
    """Number of texts that the model tells apart."""
    return 1 if self.text_delimiter else len(self.text_columns)


_PAIR = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")

GLUE_TASKS: dict[str, Task] = {task.name: task for task in (
    Task("cola", ("sentence",), ("unacceptable", "acceptable"), ("matthews_correlation",),
         folder="CoLA", tsv_texts=("sentence",),
         tsv_header=("source", "label", "mark", "sentence"), test_splits={"test": "CoLA"}),
    Task("sst2", ("sentence",), ("negative", "positive"), ("accuracy",),
         folder="SST-2", tsv_texts=("sentence",), test_splits={"test": "SST-2"}),
    Task("mrpc", _PAIR, ("not_equivalent", "equivalent"), ("f1", "accuracy"),
         folder="MRPC", tsv_texts=("#1 String", "#2 String"), tsv_label="Quality",
         test_splits={"test": "MRPC"}),
    Task("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("f1", "accuracy"),
         folder="QQP", tsv_texts=("question1", "question2"), tsv_label="is_duplicate",
         test_splits={"test": "QQP"}),
    Task("stsb", _PAIR, (), ("pearson", "spearman"),
         folder="STS-B", tsv_texts=_PAIR, tsv_label="score", test_splits={"test": "STS-B"},
         values=(0.0, 5.0)),
    Task("mnli", ("premise", "hypothesis"), ("entailment", "neutral", "contradiction"),
         ("accuracy",), folder="MNLI", tsv_texts=_PAIR, tsv_label="gold_label",
         eval_splits={"validation_matched": "", "validation_mismatched": "_mismatched"},
         test_splits={"test_matched": "MNLI-m", "test_mismatched": "MNLI-mm"},
         predicts_names=True),
    Task("qnli", ("question", "sentence"), _ENTAILMENT, ("accuracy",),
         folder="QNLI", tsv_texts=("question", "sentence"), test_splits={"test": "QNLI"},
         predicts_names=True),
    Task("rte", _PAIR, _ENTAILMENT, ("accuracy",),
         folder="RTE", tsv_texts=_PAIR, test_splits={"test": "RTE"}, predicts_names=True),
)}

_WNLI = ("wnli is refused: its dev set contradicts its training set by design, so that BERT's "
         "paper leaves it out and a trained model scores below a constant answer")


def is_hub_glue(dataset_path: str) -> bool:
  """Whether a dataset_path is the hub's GLUE, with a configuration (nyu-mll/glue:mrpc) or not."""
  return dataset_path.partition(":")[0] in ("glue", "nyu-mll/glue")


def named_task(dataset_name: str, dataset_path: str) -> Task | None:
  """Returns the GLUE task that a run's two knobs name; None for data of the user's own.

  Raises:
    UserError: no such task, or WNLI.
  """
  configuration = dataset_path.partition(":")[2] or "cola"
  name = dataset_name or (configuration if is_hub_glue(dataset_path) else "")
  return glue_task(name) if name else None


def glue_task(name: str, called: str = "dataset_name", otherwise: str = "blank") -> Task:
  """Looks up a GLUE task by its name on the hub or its folder's: mrpc, MRPC, sst2, SST-2.

  Args:
    name: of the task.
    called: the flag that names it, for messages.
    otherwise: what to give for it where the data is no task of GLUE.

  Raises:
    UserError: no such task, or WNLI.
  """
  known = name.lower().replace("-", "")
  if known == "wnli":
    raise UserError(_WNLI)
  if known not in GLUE_TASKS:
    near = difflib.get_close_matches(known, GLUE_TASKS, n=1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    raise UserError(f"{called} {shown(name)} is no GLUE task{meant}; known: "
                    f"{', '.join(GLUE_TASKS)} ({otherwise} for your own files at dataset_path)")
  return GLUE_TASKS[known]


def own_task(text_columns: tuple[str, ...], label_names: tuple[str, ...],
             eval_split: str = "validation", *, train_split: str = "train",
             test_split: str = "test", multi_label: bool = False, text_delimiter: str = "") -> Task:
  """Makes a task of the user's own; without label names it is a regression."""
  metrics = (("pearson", "spearman") if not label_names else
             ("micro_f1", "macro_f1", "subset_accuracy") if multi_label else
             ("accuracy", "f1", "matthews_correlation"))
  return Task("own", text_columns, label_names, metrics, numbered=False, train_split=train_split,
              eval_splits={eval_split: ""}, test_splits={test_split: test_split},
              predicts_names=True, multi_label=multi_label, text_delimiter=text_delimiter)


def with_positive_class(task: Task, name: str) -> Task:
  """Chooses the class whose F1 is computed; blank: the second of two.

  Raises:
    UserError: no such class, or a task without an F1 of one class.
  """
  binary = len(task.label_names) == 2 and "f1" in task.metrics
  if name and not (binary and name in task.label_names):
    raise UserError(f"positive_class {shown(name)}: " + (
        f"the classes are {quoted(task.label_names)}" if binary else
        f"{task.name} has no F1 of one class (it needs two classes)"))
  return dataclasses.replace(
      task, positive_class=name or task.label_names[1] if binary else "")


# --- Metrics --------------------------------------------------------------------------------


def predictions_from(task: Task, logits: np.ndarray) -> np.ndarray:
  """Turns logits [examples, outputs] into [examples] class numbers or values.

  Of a multi-label task: into [examples, classes] of 0 and 1, which is a probability above 0.5.
  """
  if task.multi_label:
    return (logits > 0).astype(np.int32)
  return logits[:, 0] if task.regression else logits.argmax(axis=-1)


def probabilities_from(logits: np.ndarray, *, multi_label: bool = False) -> np.ndarray:
  """Turns logits [examples, classes] into the probability of each class, alone or among them."""
  logits = logits.astype(np.float64)
  if multi_label:
    return 0.5 * (1 + np.tanh(0.5 * logits))  # the sigmoid, without overflow
  exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return exponentials / exponentials.sum(axis=-1, keepdims=True)


def score(task: Task, predictions: np.ndarray, labels: np.ndarray,
          label_names: Sequence[str]) -> dict[str, float]:
  """Computes GLUE's metrics for the task.

  Args:
    task: names the class whose F1 counts; beyond two classes F1 is the macro mean.
    predictions: what `predictions_from` returns, with the classes in the model's order.
    labels: likewise.
    label_names: the model's classes in its order.

  Returns:
    Metric -> value; a correlation with something constant is 0.
  """
  from scipy import stats  # these two here: a second to import, and only scoring needs them
  from sklearn import metrics

  binary = len(task.label_names) == 2 and not task.multi_label
  positive = task.positive_class or (task.label_names[1] if binary else "")
  f1 = functools.partial(
      metrics.f1_score, average="binary" if positive else "macro", zero_division=0.0,
      pos_label=label_names.index(positive) if positive else 1)
  functions = {
      "accuracy": metrics.accuracy_score,
      "f1": f1,
      "micro_f1": functools.partial(metrics.f1_score, average="micro", zero_division=0.0),
      "macro_f1": functools.partial(metrics.f1_score, average="macro", zero_division=0.0),
      "subset_accuracy": metrics.accuracy_score,
      "matthews_correlation": lambda y, p: _correlation(
          lambda *pair: (metrics.matthews_corrcoef(*pair),), y, p),
      "pearson": lambda y, p: _correlation(stats.pearsonr, y, p),
      "spearman": lambda y, p: _correlation(stats.spearmanr, y, p)}
  return {name: float(functions[name](labels, predictions)) for name in task.metrics}


def _correlation(function: Callable[..., Any], labels: np.ndarray,
                 predictions: np.ndarray) -> float:
  """Returns the function's first result, or 0 if a side is constant and it is not defined."""
  if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
    return 0.0
  return float(function(labels, predictions)[0])


# --- Leaderboard files ----------------------------------------------------------------------


def write_leaderboard_file(path: pathlib.Path, task: Task, predictions: np.ndarray,
                      label_names: Sequence[str], index: Sequence[str]) -> None:
  """Writes `index<TAB>prediction` as GLUE's leaderboard wants it.

  Args:
    path: the file; written whole or not at all.
    task: says whether names, numbers or values are wanted.
    predictions: what `predictions_from` returns, with the classes in the model's order.
    label_names: the model's classes in its order.
    index: [examples] the test rows' ids.
  """
  if task.multi_label:
    values = [joined_names(row, label_names) for row in predictions]
  elif task.values:
    values = [f"{value:.3f}" for value in predictions.clip(*task.values)]
  elif task.regression:
    values = list(map(str, predictions))  # as many digits as tell two floats apart
  elif task.predicts_names:
    values = [label_names[p] for p in predictions]
  else:  # GLUE's numbers, whatever order the model has its classes in
    values = [str(task.label_names.index(label_names[p])) for p in predictions]
  _write_tsv(path, ("index", "prediction"), zip(index, values, strict=True))


def joined_names(marks: np.ndarray, label_names: Sequence[str]) -> str:
  """Returns the names of a row's classes as --config.label_names takes them: a,"b, with comma".

  Args:
    marks: [classes] of 0 and 1.
    label_names: likewise.
  """
  line = io.StringIO()
  csv.writer(line, lineterminator="").writerow(
      [label_names[code] for code in np.flatnonzero(marks)])
  return line.getvalue()


def write_probabilities(path: pathlib.Path, logits: np.ndarray, label_names: Sequence[str],
                        index: Sequence[str], *, multi_label: bool = False) -> None:
  """Writes `index` and the probability of each class, a column each in the model's order.

  Args:
    path: the file; written whole or not at all.
    logits: [examples, classes].
    label_names: the model's classes in its order.
    index: [examples] the test rows' ids.
    multi_label: each class has a probability of its own.
  """
  probabilities = probabilities_from(logits, multi_label=multi_label)
  rows = ((place, *(f"{p:.6f}" for p in row))
          for place, row in zip(index, probabilities, strict=True))
  _write_tsv(path, ("index", *label_names), rows)


def _write_tsv(path: pathlib.Path, header: Sequence[str],
               rows: Iterable[Sequence[str]]) -> None:
  with (files.written_whole(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file):
    writer = csv.writer(file, delimiter="\t", lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
