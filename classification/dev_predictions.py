"""The dev splits' predictions: predictions/dev.tsv, and what a report shows of them."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import pathlib
import re

import numpy as np

from classification import tasks
from classification.splits import RunData
from support import report
from support.files import written_whole
from support.report import Html, Series

MOST_EXAMPLES = 100  # of the wrong ones in a report
_MOST_CHARACTERS = 1000  # of a text in a report
_MOST_CLASSES = 12  # of a confusion matrix that fits a page
_MOST_CONFUSIONS = 30
_MOST_DOTS = 2000


@dataclasses.dataclass(frozen=True)
class DevPredictions:
  """The predictions of one dev split.

  Attributes:
    name: of its file: "dev", or "dev_mismatched" for MNLI's second.
    rows: [examples] each row's own id, or its number in the source, from 0.
    texts: column -> [examples].
    gold: [examples] class numbers in the model's order, or values; or [examples, classes] of 0
      and 1 where a text is of any number of classes.
    predictions: likewise.
    probabilities: [examples, classes]; [examples, 0] for regression.
    label_names: the classes in the model's order; () for regression.
  """

  name: str
  rows: Sequence[str]
  texts: Mapping[str, Sequence[str]]
  gold: np.ndarray
  predictions: np.ndarray
  probabilities: np.ndarray
  label_names: tuple[str, ...]

  def __len__(self) -> int:
    return len(self.gold)

  @functools.cached_property
  def wrong(self) -> np.ndarray:
    """The numbers of the wrong examples, the surest first; of a regression all, the worst first."""
    if not self.label_names:
      return np.argsort(-np.abs(self.gold - self.predictions), kind="stable")
    differs = self.gold != self.predictions
    wrong = np.flatnonzero(differs.any(axis=-1) if self.multi_label else differs)
    return wrong[np.argsort(-self.confidence[wrong], kind="stable")]

  @functools.cached_property
  def confidence(self) -> np.ndarray:
    """[examples]: the probability of the predicted class, or of the surest wrong answer of several.
    """
    if self.multi_label:
      sure = np.maximum(self.probabilities, 1 - self.probabilities)
      return np.where(self.gold != self.predictions, sure, 0.0).max(axis=-1)
    return self.probabilities.max(axis=-1)

  @property
  def multi_label(self) -> bool:
    return self.gold.ndim == 2

  def has(self, values: np.ndarray, code: int) -> np.ndarray:
    """Returns [examples] bool: whether `gold` or `predictions` have a class."""
    return values[:, code] == 1 if self.multi_label else values == code

  def said(self, values: np.ndarray) -> list[str]:
    """Returns `gold` or `predictions` as text: the classes' names, or all digits of the values."""
    if self.multi_label:
      return [tasks.joined_names(marks, self.label_names) for marks in values]
    return [self.label_names[value] for value in values] if self.label_names else [
        str(value) for value in values]


def dev_predictions(run_data: RunData, logits: Mapping[str, np.ndarray]) -> list[DevPredictions]:
  """Returns the predictions of each dev split that was scored.

  Args:
    run_data: has the splits with their texts.
    logits: split -> [examples, outputs].
  """
  task, result = run_data.task, []
  for split, suffix in task.eval_splits.items():
    if split in logits:
      of = run_data.splits[split]
      probabilities = (tasks.probabilities_from(logits[split], multi_label=task.multi_label)
                       if run_data.label_names else np.zeros((len(of.examples), 0)))
      texts = {name: [str(text) for text in of.texts[name]] for name in of.texts.column_names}
      result.append(DevPredictions(
          f"dev{suffix}", of.row_ids, texts, of.examples.labels,
          tasks.predictions_from(task, logits[split]), probabilities, run_data.label_names))
  return result


def write_dev_file(path: pathlib.Path, dev: DevPredictions) -> None:
  """Writes row, texts, gold, prediction and the probability of each class, separated by tabs.

  A field with a tab, a quote or the end of a line in it is quoted, as in csv.

  Args:
    path: the file; written whole or not at all.
    dev: what is written.
  """
  header = ("row", *dev.texts, "gold", "prediction",
            *(f"probability_{name}" for name in dev.label_names))
  rows = zip(dev.rows, *dev.texts.values(), dev.said(dev.gold), dev.said(dev.predictions),
             *([f"{p:.6f}" for p in column] for column in dev.probabilities.T), strict=True)
  with (written_whole(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file):
    file.writelines("\t".join(map(_field, row)) + "\n" for row in (header, *rows))


def _field(text: str) -> str:
  # The csv module does not quote a lone carriage return, where its reader then ends the row.
  return '"' + text.replace('"', '""') + '"' if re.search(r'[\t\r\n"]', text) else text


# --- The report -----------------------------------------------------------------------------


def dev_sections(dev: DevPredictions, trained: Mapping[str, int]) -> Iterator[Html]:
  """Yields the report's sections of a dev split: right and wrong by class, the wrong examples.

  Args:
    dev: the split's predictions.
    trained: class -> its training examples; {} where nothing was trained on.
  """
  name = dev.name.replace("_", " ").replace("dev", "dev set")
  if dev.label_names:
    yield report.section(f"Right and wrong, {name}", *_confusions(dev),
                         _class_table(dev, trained))
  else:
    yield report.section(f"Predicted values, {name}", report.charts(_value_chart(dev)))
  yield report.section(
      f"{'What it got wrong' if dev.label_names else 'Largest errors'}, {name}", *_examples(dev))


def _confusions(dev: DevPredictions) -> Iterator[Html]:
  """Yields the confusion matrix, or the largest confusions of many classes, if a text has one."""
  if dev.multi_label:
    return
  size = len(dev.label_names)
  counts = np.bincount(dev.gold.astype(int) * size + dev.predictions, minlength=size * size)
  counts = counts.reshape(size, size)
  if size <= _MOST_CLASSES:
    yield report.matrix(dev.label_names, counts.tolist(), "gold \u2193  predicted \u2192")
    return
  between = counts * (1 - np.eye(size, dtype=int))
  largest = np.argsort(-between, axis=None, kind="stable")[:_MOST_CONFUSIONS]
  yield report.paragraph("The largest confusions, and their share of the class's examples.")
  yield report.table(("gold", "predicted", "examples", "share"), [
      (dev.label_names[i], dev.label_names[j], f"{between[i, j]:,}",
       f"{between[i, j] / counts[i].sum():.1%}")
      for i, j in zip(*np.unravel_index(largest, between.shape), strict=True) if between[i, j]])


def _class_table(dev: DevPredictions, trained: Mapping[str, int]) -> Html:
  """Returns precision and recall of each class, beside how often it is there."""
  rows = []
  for code, name in enumerate(dev.label_names):
    gold, predicted = dev.has(dev.gold, code), dev.has(dev.predictions, code)
    right = int((gold & predicted).sum())
    rows.append((Html(f"<bdi>{report.escaped(name)}</bdi>"),
                 *([f"{trained.get(name, 0):,}"] if trained else ()), f"{gold.sum():,}",
                 f"{predicted.sum():,}", _share(right, predicted.sum()), _share(right, gold.sum())))
  return report.table(("class", *(["training examples"] if trained else ()), "dev examples",
                       "predicted", "precision", "recall"), rows, ("class",))


def _share(part: int, whole: int) -> str:
  return f"{part / whole:.1%}" if whole else "-"


def _value_chart(dev: DevPredictions) -> Html:
  some = slice(None, None, -(-len(dev) // _MOST_DOTS))  # evenly, of many
  points = list(zip(dev.gold[some].tolist(), dev.predictions[some].tolist(), strict=True))
  return report.chart("Predicted over gold values", [Series("examples", points, "cloud")],
                      "gold", y_name="predicted", diagonal=True)


def _examples(dev: DevPredictions) -> Iterator[Html]:
  """Yields the wrong examples, the surest first, with their texts."""
  shown = dev.wrong[:MOST_EXAMPLES]
  cut = any(len(column[i]) > _MOST_CHARACTERS for column in dev.texts.values() for i in shown)
  if dev.label_names:
    note = (f"{len(dev.wrong):,} of {len(dev):,} examples"
            + (f", of which the {len(shown)} that it was surest of" if len(dev.wrong) > len(shown)
               else ", the surest first" if len(shown) else "") + ".")
    last, figures = "probability", [f"{p:.1%}" for p in dev.confidence[shown]]
  else:
    note = f"The {len(shown)} of {len(dev):,} examples whose value is furthest from the gold one."
    last, figures = "error", [f"{e:+.3f}" for e in (dev.predictions - dev.gold)[shown]]
  note += " Row 0 is the first of the dev set." * (list(dev.rows[:1]) == ["0"])
  yield report.paragraph(
      f"{note} All are in ", report.link(f"predictions/{dev.name}.tsv"),
      (f", with their whole texts; here they end after {_MOST_CHARACTERS:,} characters."
       if cut else "."))
  said = [[f"{value:.3f}" for value in values[shown]] if not dev.label_names
          else dev.said(values[shown]) for values in (dev.gold, dev.predictions)]
  rows = zip((dev.rows[i] for i in shown), *said, figures,
             *([_beginning(column[i]) for i in shown] for column in dev.texts.values()),
             strict=True)
  if len(shown):  # the texts last: a narrow window shows the beginning of a row
    yield report.table(("row", "gold", "predicted", last, *dev.texts), rows, texts=tuple(dev.texts))


def _beginning(text: str) -> str:
  return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + " \u2026"
