"""Labelled tables in: GLUE from the hub or in its TSV layout, saved datasets, the user's files.

Whatever the source, a split comes out as a `Table` whose rows know the file and line that they
came from, so that a bad label can be pointed at.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import csv
import dataclasses
import itertools
import json
import os
import pathlib
import re
from typing import Any

import numpy as np

from classification import tasks
from support import hub
from support.errors import first_line, UserError

HUB_GLUE = ("glue", "nyu-mll/glue")
EXTENSIONS = (".csv", ".tsv", ".jsonl", ".parquet")
SPLIT_FILES = {"train": ("train",), "validation": ("validation", "dev", "valid"),
               "test": ("test",)}
TEXT_NAMES = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"),
              ("question", "sentence"), ("text_a", "text_b"), ("text1", "text2"),
              ("sentence",), ("text",), ("review",), ("comment",), ("content",), ("question",),
              ("title",))
LABEL_NAMES = ("label", "labels", "class", "category", "sentiment", "target", "gold_label",
               "rating", "score", "similarity_score")

csv.field_size_limit(1 << 30)


@dataclasses.dataclass(frozen=True)
class Table:
  """One split.

  Attributes:
    source: the file or dataset, for messages.
    columns: column name -> values.
    lines: where each row stands in the source, from 1.
    skipped: rows left out for a wrong number of fields.
  """

  source: str
  columns: dict[str, Sequence[Any]]
  lines: Sequence[int]
  skipped: int = 0

  def __len__(self) -> int:
    return len(self.lines)

  def column(self, name: str) -> Sequence[Any]:
    """The values of a column.

    Raises:
      UserError: there is no such column.
    """
    if name not in self.columns:
      raise UserError(f"{self.source} has no column {name!r}; it has "
                      f"{', '.join(map(repr, self.columns))}")
    return self.columns[name]

  def texts(self, name: str) -> list[str]:
    """A column as text; a missing value is an error."""
    values = self.column(name)
    for line, value in zip(self.lines, values, strict=True):
      if value is None:
        raise UserError(f"{self.source}:{line}: column {name!r} is empty")
    return [str(value) for value in values]


@dataclasses.dataclass(frozen=True)
class Source:
  """Where a dataset lies and how to read one split of it.

  Attributes:
    description: for the log.
    glue_task: the GLUE task that it holds; None for the user's own.
    read: split name -> Table.
    splits: names of the splits that are there.
  """

  description: str
  glue_task: tasks.Task | None
  read: Callable[[str], Table]
  splits: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
  """The names of the columns that a task's tables really have."""

  texts: tuple[str, ...]
  label: str


# --- Finding the dataset --------------------------------------------------------------------


def find_source(dataset_name: str, dataset_path: str, skip_bad_rows: bool) -> Source:
  """Finds the dataset that the config means, without reading its rows.

  Args:
    dataset_name: a GLUE task; blank for the user's own files.
    dataset_path: a GLUE hub name, any other hub dataset, or a folder.
    skip_bad_rows: leave out TSV rows with a wrong number of fields.

  Raises:
    UserError: an unknown task, nothing at the path, no hub in reach.
  """
  if dataset_path in HUB_GLUE:
    return _hub_source(dataset_path, tasks.glue_task(dataset_name or "cola"))
  task = tasks.glue_task(dataset_name) if dataset_name else None
  if not dataset_path:
    raise UserError("dataset_path is blank; give a folder, or nyu-mll/glue for GLUE from the hub")
  folder = pathlib.Path(os.path.expanduser(dataset_path))
  if not folder.exists():
    if folder.is_absolute() or dataset_path.startswith((".", "~")) or dataset_path.count("/") > 1:
      raise UserError(f"dataset_path {dataset_path} does not exist")
    return _hub_source(dataset_path, task)
  if not folder.is_dir():
    raise UserError(f"dataset_path {dataset_path} is a file; give the folder that holds "
                    "train, validation and test files")
  if (folder / "dataset_dict.json").exists():
    return _saved_source(folder, task)
  if (folder / "state.json").exists():
    raise UserError(f"{folder} holds a single saved split; save a datasets.DatasetDict with train, "
                    "validation and test")
  if task is not None:
    return _glue_folder_source(folder, task, skip_bad_rows)
  return _own_files_source(folder, skip_bad_rows)


def _hub_source(path: str, task: tasks.Task | None) -> Source:
  arguments = (path, task.name) if task else (path,)
  try:
    loaded = hub.load_dataset(*arguments)
  except UserError as error:
    raise UserError(f"dataset {error}; for local data use "
                    "--config.dataset_path=/path/to/glue_data") from error
  return _datasets_source(f"{' '.join(arguments)} (hub)", loaded, task)


def _saved_source(folder: pathlib.Path, task: tasks.Task | None) -> Source:
  import datasets

  try:
    loaded = datasets.load_from_disk(str(folder))
  except Exception as error:  # a damaged folder: pyarrow's, json's and datasets' own types
    reason = first_line(error)
    raise UserError(f"{folder} is no readable save_to_disk folder: {reason}") from error
  return _datasets_source(str(folder), loaded, task)


def _datasets_source(name: str, loaded: Any, task: tasks.Task | None) -> Source:
  """A source backed by a `datasets.DatasetDict`; ClassLabel numbers become names."""

  def read(split: str) -> Table:
    rows = loaded[split]
    if not len(rows):
      raise UserError(f"{name} [{split}] is empty: it has no row")
    columns = {}
    for column, feature in rows.features.items():
      values = rows[column][:]
      names = getattr(feature, "names", None)
      if names:  # the hub marks a missing label (GLUE's test splits) as -1
        values = [names[v] if v is not None and v >= 0 else None for v in values]
      columns[column] = values
    return Table(f"{name} [{split}]", columns, range(1, len(rows) + 1))

  return Source(name, task, read, tuple(loaded))


def _glue_folder_source(folder: pathlib.Path, task: tasks.Task, skip_bad_rows: bool) -> Source:
  """GLUE's own layout: CoLA/train.tsv, MNLI/dev_matched.tsv ..."""
  own_folder = folder.resolve().name == task.folder
  if not (folder / task.folder).is_dir() and not own_folder:
    raise UserError(f"{folder} has no folder {task.folder}/ (GLUE's layout of {task.name}); for "
                    "your own files leave dataset_name blank")
  folder = folder if own_folder else folder / task.folder
  files = {split: folder / f"{split.replace('validation', 'dev')}.tsv"
           for split in ("train", *task.eval_splits, *task.test_splits)}

  def read(split: str) -> Table:
    headless = task.name == "cola" and split != "test"
    header = ("source", "label", "mark", "sentence") if headless else None
    return _read_plain_tsv(files[split], header, skip_bad_rows)

  there = tuple(split for split, file in files.items() if file.exists())
  return Source(str(folder), task, read, there)


def _own_files_source(folder: pathlib.Path, skip_bad_rows: bool) -> Source:
  """train, validation (or dev, valid) and test files in csv, tsv, jsonl or parquet."""
  files = {}
  for split, stems in SPLIT_FILES.items():
    found = [folder / f"{stem}{ext}" for stem in stems for ext in EXTENSIONS
             if (folder / f"{stem}{ext}").is_file()]
    if len(found) > 1:
      raise UserError(f"{folder} holds several {split} files: "
                      f"{', '.join(file.name for file in found)}; keep one")
    files |= {split: found[0]} if found else {}
  if not files:
    raise UserError(f"{folder} holds no train, validation or test file in csv, tsv, jsonl or "
                    "parquet; for GLUE's layout give --config.dataset_name")

  def read(split: str) -> Table:
    file = files[split]
    if file.suffix == ".csv":
      return _read_quoted(file, ",", skip_bad_rows)
    if file.suffix == ".tsv":
      return _read_tsv(file, skip_bad_rows)
    return {".jsonl": _read_jsonl, ".parquet": _read_parquet}[file.suffix](file)

  return Source(str(folder), None, read, tuple(files))


# --- Files ----------------------------------------------------------------------------------


def _lines(file: pathlib.Path) -> Iterator[tuple[int, str]]:
  """(number, line) for every line that ends in LF or CRLF, and in nothing else.

  Raises:
    UserError: bytes that are not UTF-8, with file and line.
  """
  with file.open("rb") as stream:
    for number, raw in enumerate(stream, 1):
      try:
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
      except UnicodeDecodeError as error:
        raise UserError(f"{file}:{number}: not UTF-8 ({error.reason} at byte "
                        f"{error.start + 1} of the line)") from error
      yield number, line.removesuffix("\n").removesuffix("\r")


class _BadRow(UserError):
  """A row with a wrong number of fields."""

  def __init__(self, file: pathlib.Path, line: int, found: int, expected: int):
    super().__init__(f"{file}:{line}: {found} fields, must be {expected}; "
                     "--config.skip_bad_rows=True leaves such rows out")


class _BadQuoting(UserError):
  """Quotes that make no sense as RFC 4180 quoting."""


def _table(file: pathlib.Path, header: Sequence[str],
           numbered_rows: Iterable[tuple[int, Sequence[Any]]], skip_bad_rows: bool) -> Table:
  """Checks the rows against the header. numbered_rows: (line, fields)."""
  twice = [name for i, name in enumerate(header) if name in header[:i]]
  if twice:
    raise UserError(f"{file}: the header names column {twice[0]!r} twice")
  rows, lines, skipped = [], [], 0
  for line, fields in numbered_rows:
    if len(fields) == len(header):
      rows.append(fields)
      lines.append(line)
    elif skip_bad_rows:
      skipped += 1
    else:
      raise _BadRow(file, line, len(fields), len(header))
  if not rows:
    raise UserError(f"{file} is empty: it has no row")
  columns = dict(zip(header, zip(*rows, strict=True), strict=True))
  return Table(str(file), columns, lines, skipped)


def _read_plain_tsv(file: pathlib.Path, header: Sequence[str] | None,
                    skip_bad_rows: bool) -> Table:
  """TSV as GLUE writes it: no quoting, quotes are ordinary characters."""
  rows = ((number, line.split("\t")) for number, line in _lines(file) if line)
  if header is None:
    _, header = next(rows, (0, ()))
  return _table(file, header, rows, skip_bad_rows)


def _read_quoted(file: pathlib.Path, delimiter: str, skip_bad_rows: bool) -> Table:
  """RFC 4180 rows: quoted fields may hold delimiters, doubled quotes and line ends."""
  reader = csv.reader((f"{line}\n" for _, line in _lines(file)), delimiter=delimiter, strict=True)

  def numbered_rows() -> Iterator[tuple[int, list[str]]]:
    start = 1
    try:
      for row in reader:
        if row:
          yield start, row
        start = reader.line_num + 1
    except csv.Error as error:
      raise _BadQuoting(f"{file}:{start}: broken quoting, or a carriage return in a field "
                        f"without quotes ({error})") from error

  rows = numbered_rows()
  _, header = next(rows, (0, ()))
  return _table(file, header, rows, skip_bad_rows)


def _read_tsv(file: pathlib.Path, skip_bad_rows: bool) -> Table:
  """A user's TSV: quoted if every quote in it makes sense as quoting, else plain.

  Stray quotes can balance by accident and swallow the rows between them; where reading
  plainly gives more rows, all of the right length, it is right.
  """
  plain = None
  with contextlib.suppress(_BadRow):
    plain = _read_plain_tsv(file, None, skip_bad_rows=False)
  try:
    quoted = _read_quoted(file, "\t", skip_bad_rows)
  except _BadQuoting:
    return plain or _read_plain_tsv(file, None, skip_bad_rows)
  except _BadRow:
    if plain is None:
      raise
    return plain
  return plain if plain is not None and len(plain) > len(quoted) else quoted


def _read_jsonl(file: pathlib.Path) -> Table:
  rows = []
  for number, line in _lines(file):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except ValueError as error:
      raise UserError(f"{file}:{number}: not JSON: {error}") from error
    if not isinstance(row, dict):
      raise UserError(f"{file}:{number}: a row must be an object, not {line[:40]}")
    rows.append((number, row))
  header = tuple(dict.fromkeys(itertools.chain.from_iterable(row for _, row in rows)))
  filled = ((number, [row.get(name) for name in header]) for number, row in rows)
  return _table(file, header, filled, skip_bad_rows=False)


def _read_parquet(file: pathlib.Path) -> Table:
  import pyarrow.parquet  # here: only this format needs it

  try:
    table = pyarrow.parquet.read_table(file)
  except Exception as error:  # ArrowInvalid, OSError
    reason = first_line(error)
    raise UserError(f"{file} cannot be read as parquet: {reason}") from error
  if not table.num_rows:
    raise UserError(f"{file} is empty: it has no row")
  return Table(str(file), table.to_pydict(), range(1, table.num_rows + 1))


# --- Columns and labels ---------------------------------------------------------------------


def find_layout(source: Source, table: Table, text_columns: Sequence[str],
                label_column: str) -> Layout:
  """Which columns hold texts and label: as configured, as GLUE has them, or by usual names."""
  task = source.glue_task
  if text_columns:
    texts = tuple(text_columns)
  elif task is not None:
    named = [names for names in (task.text_columns, task.tsv_texts)
             if all(name in table.columns for name in names)]
    texts = named[0] if named else task.tsv_texts
  else:
    texts = next((names for names in TEXT_NAMES if all(n in table.columns for n in names)), ())
  if not texts:
    raise UserError(f"{table.source}: no text column recognized among "
                    f"{', '.join(map(repr, table.columns))}; name one or two: "
                    "--config.text_columns=a,b")
  if len(texts) > 2 or label_column in texts:
    raise UserError(f"text_columns {', '.join(texts)} must be one or two, and not the label column")
  for name in texts:
    table.column(name)
  label = label_column or next(
      (name for name in ((task.tsv_label,) if task else ()) + LABEL_NAMES
       if name in table.columns), "")
  return Layout(texts, label)


def label_values(table: Table, layout: Layout) -> list[Any]:
  """The label column; a missing one or a missing value is an error."""
  if not layout.label:
    raise UserError(f"{table.source}: no label column recognized among "
                    f"{', '.join(map(repr, table.columns))}; name it: --config.label_column=name")
  values = table.column(layout.label)
  for line, value in zip(table.lines, values, strict=True):
    if value is None or value == "":
      raise UserError(f"{table.source}:{line}: column {layout.label!r} is empty")
  return list(values)


def infer_label_names(table: Table, values: Sequence[Any], label_type: str) -> tuple[str, ...]:
  """The classes of a user's training labels; () for regression.

  Args:
    table: says where a label stands.
    values: text, integers or floats, possibly as text.
    label_type: "class", "float", or "auto": numbers that are not all written as integers
      mean regression.

  Raises:
    UserError: "auto", and a label that is no number among others that mean regression.
  """
  if label_type == "float":
    return ()
  integers = [_integer(value) for value in values]
  if all(integer is not None for integer in integers):
    return tuple(str(integer) for integer in sorted(set(integers)))
  fractions = sum(_integer(v) is None and _number(v) is not None for v in values)
  if label_type == "auto" and 2 * fractions >= len(values):
    odd = [i for i, value in enumerate(values) if _number(value) is None]
    if odd:
      raise UserError(f"{table.source}:{table.lines[odd[0]]}: label {values[odd[0]]!r} is not a "
                      "number, as most are; --config.label_type=float or class settles it")
    return ()
  if label_type == "auto" and all(_number(value) is not None for value in values):
    return ()
  return tuple(sorted({str(value) for value in values}))


def _integer(value: Any) -> int | None:
  """An integer or an integer's text; True is neither."""
  if isinstance(value, str):
    return int(value) if re.fullmatch(r"\s*[+-]?[0-9]+\s*", value) else None
  return int(value) if isinstance(value, int | np.integer) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
  if isinstance(value, bool):
    return None
  try:
    return float(value)
  except (TypeError, ValueError):
    return None


def encode_labels(table: Table, values: Sequence[Any], task: tasks.Task,
                  model_labels: Sequence[str]) -> np.ndarray:
  """Labels as the model counts them: [examples] int32 classes, or float32 values.

  Args:
    table: says where a bad label stands.
    values: the label column: class names, or their numbers in the *task's* order.
    task: its classes; none means regression.
    model_labels: the same names in the order of the model's outputs.

  Raises:
    UserError: a label outside the set (file, line, the set), or a value that is no number.
  """
  if task.regression:
    return np.asarray([_value(table, line, v) for line, v in zip(table.lines, values, strict=True)],
                      np.float32)
  names = {name: model_labels.index(name) for name in task.label_names}
  if task.name != "own":  # GLUE's files number the classes; a user's file has only names
    names |= {str(i): names[name] for i, name in enumerate(task.label_names)}
  encoded = []
  for line, value in zip(table.lines, values, strict=True):
    code = names.get(str(value), names.get(str(_integer(value))))
    if code is None:
      raise UserError(f"{table.source}:{line}: label {value!r} is not one of "
                      f"{', '.join(task.label_names)}")
    encoded.append(code)
  return np.asarray(encoded, np.int32)


def _value(table: Table, line: int, value: Any) -> float:
  number = _number(value)
  if number is None or not np.isfinite(number):
    raise UserError(f"{table.source}:{line}: label {value!r} is not a number")
  return number


def row_ids(table: Table) -> list[str]:
  """The ids that a leaderboard file repeats: the table's own, or 0, 1, 2, ..."""
  for name in ("index", "id", "idx"):
    if name in table.columns:
      return [str(value) for value in table.columns[name]]
  return [str(i) for i in range(len(table))]
