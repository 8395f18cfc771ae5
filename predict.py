r"""Predicts the label of each text of a file with a trained classifier.

    python3 predict.py --model=OUT --input=texts.txt --output=predictions.jsonl

--input is a text a line, or two divided by a tab, or a table (csv, tsv, json, jsonl, parquet) with
the columns that the model was trained on; "-" is the standard input, a text a line. Line i of the
output is row i of the input: {"label": "positive", "probabilities": {...}}, for a regression
{"value": 3.2}, for any number of classes a text {"labels": ["a", "b"], "probabilities": {...}}. A
row without text gets null for each. Texts that are longer than those that the model was trained on
are truncated; both kinds of rows are counted and named at the end.
"""

if __name__ == "__main__":
  from support import stopping

  stopping.catch_signals()  # first: the imports below take seconds

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import json
import os
import pathlib
import time
from typing import Any, TextIO

from absl import flags
import numpy as np

from classification import parsers, sources, tables
from classification.classifier import Classifier
from classification.prediction import load_classifier, Outputs, Prediction, TextClassifier
from support import devices, files, reporting
from support.command_line import FlagSettings, run_script
from support.errors import quoted, shown, UserError
from support.reporting import say

DTYPES = ("float32", "bfloat16")
_MOST_NAMED = 10  # rows that a message names
_DIGITS = 6  # after the point


@dataclasses.dataclass(frozen=True)
class Settings(FlagSettings):
  """The flags, described in `define_flags`."""

  model: str
  input: str
  output: str
  text_columns: Sequence[str]
  max_seq_length: int
  dtype: str


@dataclasses.dataclass(frozen=True)
class InputRows:
  """The input: its texts, None for a row without one, and the line in which a row begins."""

  source: str
  texts: Iterable[tuple[str, ...] | None]
  line_of: Callable[[int], int]


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags."""

  def define(kind: Any, name: str, default: Any, meaning: str, *more: Any) -> None:
    kind(name, default, *more, meaning, flag_values=values)

  define(flags.DEFINE_string, "model", "", "A run's folder, its model/ or a checkpoint of it, a "
         "HuggingFace folder, or a hub name.")
  define(flags.DEFINE_string, "input", "-", "A text a line, two by a tab, or a csv, tsv, json, "
         "jsonl or parquet table. -: the standard input, a text a line.")
  define(flags.DEFINE_string, "output", "-", "The jsonl file. -: the standard output.")
  define(flags.DEFINE_list, "text_columns", [], "Columns of a table that hold the texts, "
         "comma-separated. Default: those that the model was trained on.")
  define(flags.DEFINE_integer, "max_seq_length", 0, "Tokens of an example at most. 0: those of "
         "the model's training or, where it does not say, all its positions.")
  define(flags.DEFINE_enum, "dtype", DTYPES[0], "Type of the matrix products.", DTYPES)


def main() -> None:
  predict(Settings.from_flags(flags.FLAGS))


def predict(settings: Settings) -> None:
  """Writes the predictions that the flags describe.

  Raises:
    UserError: a bad flag, no classifier, or input that cannot be read.
  """
  if not settings.model:
    raise UserError("--model is missing: a run's folder, or that of a HuggingFace classifier")
  files.check_other_file(settings.output, settings.input, ("output", "input"))
  with reporting.beside_results(settings.output):
    devices.prepare_to_use("predict")
    classifier = load_classifier(settings.model, settings.max_seq_length, settings.dtype,
                                 "--model")
    rows = open_rows(settings, classifier)
    start, tally = time.perf_counter(), Tally()
    with files.opened_output(settings.output) as stream:
      for outputs in classifier.outputs(rows.texts):
        tally.add(outputs)
        write_lines(stream, classifier, outputs.logits)
      tally.say(rows, classifier.max_seq_length, time.perf_counter() - start)


# --- Input ------------------------------------------------------------------------------------


def open_rows(settings: Settings, classifier: TextClassifier) -> InputRows:
  """Opens the input.

  Raises:
    UserError: no such file, or a table without the columns.
  """
  file = pathlib.Path(os.path.expanduser(settings.input))
  if file.suffix.lower() in sources.PARSERS and file.is_file():
    return read_table(file, settings.text_columns, classifier)
  if settings.text_columns:
    raise UserError(f"--text_columns names columns of a table, and --input={settings.input} is no "
                    f"{sources.FORMATS} file")
  name = "the standard input" if settings.input == "-" else settings.input
  lines = parsers.lines_of_input(settings.input, "--input")
  return InputRows(name, texts_of_lines(lines, name, classifier.num_texts), lambda i: i + 1)


def texts_of_lines(lines: Iterator[tuple[int, str]], name: str,
                   num_texts: int) -> Iterator[tuple[str, ...] | None]:
  """Yields the texts of each line, divided by tabs; None for a line in which one is blank.

  Args:
    lines: (number, line).
    name: of the file, for messages.
    num_texts: texts of a line; 0: as many as the first line has, one or two.

  Raises:
    UserError: another number of texts in a line.
  """
  for number, line in lines:
    texts = tuple(line.split("\t"))
    if not line.strip():
      yield None
      continue
    num_texts = num_texts or min(len(texts), 2)
    if len(texts) != num_texts:
      raise UserError(f"{name}:{number}: {len(texts)} texts (a tab divides them), must be "
                      f"{num_texts}")
    yield texts if all(map(str.strip, texts)) else None


def read_table(file: pathlib.Path, text_columns: Sequence[str],
               classifier: TextClassifier) -> InputRows:
  """Reads the texts of a table as training does; None for a row without them.

  Raises:
    UserError: no such columns, cells that are no text, a bad row, or no row at all.
  """
  try:
    table = sources.read_file(file)
  except UserError as error:  # a row left out would shift all later ones
    raise UserError(str(error).split("; --config.skip_bad_rows")[0]) from error
  there = table.rows.column_names
  names = tuple(text_columns) or classifier.classifier.text_columns
  missing = [name for name in names if name not in there]
  if missing or not names:
    problem = (f"has no column {shown(missing[0])}" if missing else
               "has columns, of which the model does not say which ones hold the texts")
    raise UserError(f"{file} {problem}; it has {quoted(there)}; name the texts: "
                    "--text_columns=NAME (or write a text a line into a .txt)")
  delimiter, needed = classifier.classifier.text_delimiter, classifier.num_texts
  if needed and not delimiter and len(names) != needed:
    raise UserError(f"--text_columns names {len(names)} columns of {file}; the model takes "
                    f"{needed} text{'s' * (needed > 1)}: "
                    f"{quoted(classifier.classifier.text_columns)} in training")
  table.check_texts(names)
  layout = tables.Layout(names, "", delimiter=delimiter)
  # A row has text where all its columns have or, of those that are joined, one.
  blank = (np.all if layout.delimiter else np.any)([table.missing(name) for name in names], axis=0)
  cells = tables.texts_to_tokenize(table, layout).with_format("arrow")[:]
  rows = zip(*(map(str, column.to_pylist()) for column in cells.columns), strict=True)
  lines = list(table.line_numbers())
  return InputRows(str(file), (None if no_text else row for no_text, row in
                               zip(blank.tolist(), rows, strict=True)), lines.__getitem__)


# --- Output -----------------------------------------------------------------------------------


def write_lines(stream: TextIO, classifier: TextClassifier, logits: np.ndarray) -> None:
  """Writes a line for each of [examples, outputs]."""
  for prediction in classifier.predictions(logits):
    content = prediction_as_json(prediction, classifier.classifier)
    stream.write(json.dumps(content, ensure_ascii=False) + "\n")
  stream.flush()


def prediction_as_json(prediction: Prediction, classifier: Classifier) -> dict[str, Any]:
  """Returns the object of a line of the output."""
  if not classifier.label_names:
    value = prediction.value
    return {"value": value if value is None else round(value, _DIGITS)}
  shares = prediction.probabilities
  label = {"labels": prediction.labels} if classifier.multi_label else {"label": prediction.label}
  return label | {"probabilities": shares and {
      name: round(p, _DIGITS) for name, p in shares.items()}}


class Tally:
  """Counts the rows, and remembers some of those that a user should know of."""

  def __init__(self) -> None:
    self._rows = 0
    self._odd: dict[str, list[int]] = {"without text": [], "truncated": []}
    self._counts = dict.fromkeys(self._odd, 0)

  def add(self, outputs: Outputs) -> None:
    """Counts the rows of some outputs."""
    found = {"without text": np.isnan(outputs.logits[:, 0]), "truncated": outputs.truncated}
    for what, rows in found.items():
      named = self._odd[what]
      named += (self._rows + np.flatnonzero(rows)[:_MOST_NAMED - len(named)]).tolist()
      self._counts[what] += int(rows.sum())
    self._rows += len(outputs.logits)

  def say(self, rows: InputRows, max_seq_length: int, seconds: float) -> None:
    """Prints the counts, and the lines of the first odd rows."""
    meaning = {"without text": "their predictions are null",
               "truncated": f"longer than {max_seq_length} tokens"}
    for what, count in self._counts.items():
      if count:
        lines = ", ".join(str(rows.line_of(i)) for i in self._odd[what])
        more = f" and {count - len(self._odd[what]):,} more" if count > _MOST_NAMED else ""
        say(f"{count:,} row{'s' * (count > 1)} {what} ({meaning[what]}): "
            f"line{'s' * (count > 1)} {lines}{more} of {rows.source}")
    say(f"{self._rows:,} prediction{'s' * (self._rows != 1)} in {seconds:.1f} s "
        f"({self._rows / seconds:.1f}/s)")


if __name__ == "__main__":
  define_flags(flags.FLAGS)
  run_script(main, interrupted="a file of predictions is whole or not there")
