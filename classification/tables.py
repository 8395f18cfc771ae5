"""Labelled tables in: GLUE from the hub or in its TSV layout, saved datasets, the user's files.

Every source gives a `Table`: a `datasets.Dataset`, memory-mapped from the disk, whose rows know
the file and line that they came from, so that an error can name them. A user's file is parsed
once and kept in the cache folder under a hash of its content.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
from typing import Any, TYPE_CHECKING

import numpy as np

from classification import parsers, tasks
import data
from support import files, hub
from support.errors import first_line, quoted, shown, UserError

if TYPE_CHECKING:
  import datasets
  import pyarrow

HUB_GLUE = ("glue", "nyu-mll/glue")
# Ending of a user's file -> its parser.
PARSERS = {".csv": parsers.parse_csv, ".tsv": parsers.parse_tsv, ".json": parsers.parse_json,
           ".jsonl": parsers.parse_json, ".parquet": parsers.parse_parquet}
FORMATS = "csv, tsv, json, jsonl or parquet"
# Name of a file or of a dataset's split -> the split.
SPLIT_NAMES = {"train": "train", "validation": "validation", "dev": "validation",
               "valid": "validation", "val": "validation", "test": "test"}
TEXT_NAMES = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"),
              ("question", "sentence"), ("question", "passage"), ("question", "context"),
              ("question", "answer"), ("query", "passage"), ("text_a", "text_b"),
              ("text1", "text2"), ("sentence",), ("text",), ("review",), ("comment",),
              ("content",), ("body",))
# Often not the whole text: these are taken where there is no other column.
PARTIAL_TEXT_NAMES = (("question",), ("title",))
LABEL_NAMES = ("label", "labels", "class", "category", "sentiment", "target", "gold_label",
               "rating", "stars", "score", "similarity_score")
ID_NAMES = ("index", "id", "idx")

_CHUNK_ROWS = 4096  # of a cached file, so that reading some rows does not map all
_CACHE_VERSION = 6


@dataclasses.dataclass(frozen=True)
class Table:
  """One split.

  Attributes:
    source: the file or dataset, for messages.
    rows: its rows.
    line_numbers: gives each row's line in the source, from 1; parses the file again, for errors.
    notes: for the log: the rows left out and why.
    ids: each row's number in the source where rows are left out; None where none are.
  """

  source: str
  rows: "datasets.Dataset"
  line_numbers: Callable[[], Iterable[int]] = lambda: itertools.count(1)
  notes: tuple[str, ...] = ()
  ids: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.rows)

  def where(self, row: int) -> str:
    """Returns a row's file and line."""
    place = row if self.ids is None else int(self.ids[row])
    return f"{self.source}:{next(itertools.islice(self.line_numbers(), place, None))}"

  def without(self, left_out: np.ndarray, note: str) -> "Table":
    """Leaves out rows. left_out: [rows] bool."""
    kept = np.flatnonzero(~left_out)
    if not len(kept):
      raise UserError(f"{self.source} has no row left: {note}")
    return dataclasses.replace(
        self, rows=self.rows.select(kept), notes=(*self.notes, note),
        ids=kept if self.ids is None else self.ids[kept])

  def check_column(self, name: str) -> None:
    """Raises UserError for a column that is not there."""
    if name not in self.rows.column_names:
      raise UserError(f"{self.source} has no column {shown(name)}; it has "
                      f"{quoted(self.rows.column_names)}")

  def class_names(self, name: str) -> tuple[str, ...]:
    """Returns the classes of a column of class numbers (ClassLabel); () for another column."""
    self.check_column(name)
    names = tuple(getattr(self.rows.features[name], "names", None) or ())
    for odd in (name for name in names if not isinstance(name, str)):
      raise UserError(f"{self.source}: the classes of column {shown(name)} must be called by text, "
                      f"not {shown(odd)}")
    return names

  def content_of(self, name: str) -> str:
    """Says what a column holds: "text", "numbers", "lists", ..."""
    self.check_column(name)
    return _content_of(self.rows.data.schema.field(name).type)

  def column(self, name: str) -> list[Any]:
    """Reads a column; a ClassLabel's numbers become names, and -1 (a withheld label) None."""
    values = self.raw(name).to_pylist()
    names = self.class_names(name)
    if not names:
      return values
    for row, value in enumerate(values):
      if value is not None and value >= len(names):
        raise UserError(f"{self.where(row)}: column {shown(name)} is {value}, beyond its "
                        f"{len(names)} classes")
    return [names[value] if value is not None and value >= 0 else None for value in values]

  def raw(self, name: str) -> "pyarrow.ChunkedArray":
    """Returns a column as it is stored; text is checked to be UTF-8, which parquet does not."""
    import pyarrow

    self.check_column(name)
    column = self.rows.select_columns([name]).with_format("arrow")[:].column(0)
    if self.content_of(name) != "text":
      return column
    try:
      column.validate(full=True)
    except pyarrow.ArrowInvalid as error:
      for row, value in enumerate(column.cast(pyarrow.large_binary()).to_pylist()):
        if value is not None and not _is_utf8(value):
          raise UserError(f"{self.where(row)}: column {shown(name)} is not UTF-8: {shown(value)}"
                          ) from error
      raise UserError(f"{self.source}: column {shown(name)}: {first_line(error)}") from error
    return column

  def missing(self, name: str) -> np.ndarray:
    """Returns [rows] bool: no value (null, NaN, a ClassLabel of -1) or blank text."""
    import pyarrow.compute

    column = self.raw(name)
    missing = column.is_null(nan_is_null=True)
    if self.content_of(name) == "text":
      blank = pyarrow.compute.equal(pyarrow.compute.utf8_trim_whitespace(column), "")
      missing = pyarrow.compute.or_(missing, blank.fill_null(True))
    elif self.class_names(name):
      missing = pyarrow.compute.or_(missing, pyarrow.compute.less(column, 0).fill_null(True))
    return missing.to_numpy().astype(bool)

  def check_texts(self, names: Sequence[str]) -> None:
    """Raises UserError for a text column whose cells are neither text nor numbers."""
    for name in names:
      content = "class numbers" if self.class_names(name) else self.content_of(name)
      if content not in ("text", "numbers", "nothing"):
        raise UserError(f"{self.source}: column {shown(name)} holds {content}, not text")

  def check_label(self, name: str) -> None:
    """Raises UserError for a label column whose cells are no labels."""
    content = self.content_of(name)
    if content == "lists":
      raise UserError(f"{self.source}: column {shown(name)} holds lists of labels: a multi-label "
                      "task, which is not supported yet")
    if content not in ("text", "numbers", "true or false", "nothing"):
      raise UserError(f"{self.source}: column {shown(name)} holds {content}, not labels")


def _is_utf8(value: bytes) -> bool:
  try:
    value.decode()
  except UnicodeDecodeError:
    return False
  return True


def _content_of(kind: "pyarrow.DataType") -> str:
  """Names what cells of an Arrow type hold."""
  from pyarrow import types

  names = {
      "text": (types.is_string, types.is_large_string, types.is_string_view),
      "numbers": (types.is_integer, types.is_floating, types.is_decimal),
      "true or false": (types.is_boolean,),
      "nothing": (types.is_null,),
      "lists": (types.is_list, types.is_large_list, types.is_fixed_size_list),
      "objects": (types.is_struct, types.is_map),
      "bytes": (types.is_binary, types.is_large_binary, types.is_fixed_size_binary)}
  return next((name for name, tests in names.items() if any(test(kind) for test in tests)),
              str(kind))


@dataclasses.dataclass(frozen=True)
class LabelledSource:
  """A dataset's place, and how to read one split of it.

  Attributes:
    description: for the log.
    glue_task: the GLUE task that it holds; None for the user's own.
    read: split name -> Table.
    splits: names of the splits that are there.
    one_file: it is a single file, which may be any split, but one alone.
  """

  description: str
  glue_task: tasks.Task | None
  read: Callable[[str], Table]
  splits: tuple[str, ...]
  one_file: bool = False


@dataclasses.dataclass(frozen=True)
class Layout:
  """The names of the text and label columns in a task's tables, and of a user's other ones."""

  texts: tuple[str, ...]
  label: str
  unused: tuple[str, ...] = ()


# --- Finding the dataset --------------------------------------------------------------------


def find_source(dataset_name: str, dataset_path: str, skip_bad_rows: bool,
                cache_dir: pathlib.Path) -> LabelledSource:
  """Finds the dataset that the config names, without reading its rows.

  Args:
    dataset_name: a GLUE task; blank for the user's own files.
    dataset_path: a GLUE hub name, any other hub dataset, a folder, or a file.
    skip_bad_rows: leave out csv and tsv rows with a wrong number of fields.
    cache_dir: an existing folder for parsed files.

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
    return _one_file_source(folder, task, skip_bad_rows, cache_dir)
  if (folder / "dataset_dict.json").exists():
    return _saved_source(folder, task)
  if (folder / "state.json").exists():
    raise UserError(f"{folder} holds a single saved split; save a datasets.DatasetDict with train, "
                    "validation and test")
  if task is not None:
    return _glue_folder_source(folder, task, skip_bad_rows, cache_dir)
  return _own_files_source(folder, skip_bad_rows, cache_dir)


def _hub_source(path: str, task: tasks.Task | None) -> LabelledSource:
  arguments = (path, task.name) if task else (path,)
  try:
    loaded = hub.load_dataset(*arguments)
  except UserError as error:
    raise UserError(f"dataset {error}; for local data use "
                    "--config.dataset_path=/path/to/glue_data") from error
  return _datasets_source(f"{' '.join(arguments)} (hub)", loaded, task)


def _saved_source(folder: pathlib.Path, task: tasks.Task | None) -> LabelledSource:
  import datasets

  try:
    loaded = datasets.load_from_disk(str(folder))
  except Exception as error:  # a damaged folder: pyarrow's, json's and datasets' own types
    reason = first_line(error)
    raise UserError(f"{folder} is no readable save_to_disk folder: {reason}") from error
  return _datasets_source(str(folder), loaded, task)


def _datasets_source(name: str, loaded: Any, task: tasks.Task | None) -> LabelledSource:
  """Returns a source backed by a `datasets.DatasetDict`."""
  found = _splits_named(name, {split: split for split in loaded})

  def read(split: str) -> Table:
    rows = loaded[found[split]]
    if not len(rows):
      raise UserError(f"{name} [{split}] is empty: it has no row")
    stripped = [column.strip() for column in rows.column_names]
    if len(set(stripped)) == len(stripped):
      rows = rows.rename_columns(dict(zip(rows.column_names, stripped, strict=True)))
    return Table(f"{name} [{found[split]}]", rows)

  return LabelledSource(name, task, read, tuple(found))


def _splits_named(place: str, names: Mapping[str, str]) -> dict[str, str]:
  """Turns {name: its split's name as found} into {split: name}; dev is validation."""
  found: dict[str, list[str]] = {}
  for name, as_found in names.items():
    found.setdefault(SPLIT_NAMES.get(as_found.lower(), as_found), []).append(name)
  for split, several in found.items():
    if len(several) > 1:
      raise UserError(f"{place} holds several {split} files: {', '.join(several)}; keep one")
  usual = list(dict.fromkeys(SPLIT_NAMES.values()))
  return {split: found[split][0] for split in (*filter(found.get, usual), *found)}


def _glue_folder_source(folder: pathlib.Path, task: tasks.Task, skip_bad_rows: bool,
                        cache_dir: pathlib.Path) -> LabelledSource:
  """Returns a source in GLUE's own layout: CoLA/train.tsv, MNLI/dev_matched.tsv ..."""
  own_folder = folder.resolve().name == task.folder
  if not (folder / task.folder).is_dir() and not own_folder:
    raise UserError(f"{folder} has no folder {task.folder}/ (GLUE's layout of {task.name}); for "
                    "your own files leave dataset_name blank")
  folder = folder if own_folder else folder / task.folder
  found = {split: folder / f"{split.replace('validation', 'dev')}.tsv"
           for split in ("train", *task.eval_splits, *task.test_splits)}

  def read(split: str) -> Table:
    header = () if split == "test" else task.tsv_header
    return _file_table(found[split], cache_dir, parsers.parse_plain_tsv, header=header,
                       skip_bad_rows=skip_bad_rows)

  there = tuple(split for split, file in found.items() if file.exists())
  return LabelledSource(str(folder), task, read, there)


def _own_files_source(folder: pathlib.Path, skip_bad_rows: bool,
                      cache_dir: pathlib.Path) -> LabelledSource:
  """Returns a source of train, validation (or dev, valid, val) and test files."""
  stems = {file.name: file.stem for file in sorted(folder.iterdir())
           if file.stem.lower() in SPLIT_NAMES and file.suffix.lower() in PARSERS}
  found = _splits_named(str(folder), stems)
  if not found:
    raise UserError(f"{folder} holds no train, validation or test file in {FORMATS}; for GLUE's "
                    "layout give --config.dataset_name")

  def read(split: str) -> Table:
    return _own_table(folder / found[split], cache_dir, skip_bad_rows)

  return LabelledSource(str(folder), None, read, tuple(found))


def _one_file_source(file: pathlib.Path, task: tasks.Task | None, skip_bad_rows: bool,
                     cache_dir: pathlib.Path) -> LabelledSource:
  """Returns a source of one file, whatever its name: to train on, to score, or to predict."""
  if task is not None:
    raise UserError(f"dataset_path {file} is a file; for {task.name} give the folder above "
                    f"{task.folder}/, or leave dataset_name blank")
  if file.suffix.lower() not in PARSERS:
    raise UserError(f"dataset_path {file} is no file in {FORMATS}")
  return LabelledSource(str(file), None, lambda _: _own_table(file, cache_dir, skip_bad_rows),
                        ("train", "validation", "test"), one_file=True)


def _own_table(file: pathlib.Path, cache_dir: pathlib.Path, skip_bad_rows: bool) -> Table:
  return _file_table(file, cache_dir, PARSERS[file.suffix.lower()], skip_bad_rows=skip_bad_rows)


def _file_table(file: pathlib.Path, cache_dir: pathlib.Path, parse: Callable[..., parsers.Parsed],
                **options: Any) -> Table:
  """Returns a file's rows, mapped from the cache; `parse(file, **options)` fills it once."""
  import datasets  # these two here: a second to import, and pre-training does without them
  import pyarrow

  content = hashlib.sha256(json.dumps([_CACHE_VERSION, parse.__name__, options]).encode())
  with file.open("rb") as stream:
    while block := stream.read(1 << 20):
      content.update(block)
  cached = cache_dir / f"{content.hexdigest()[:32]}.arrow"
  data.remove_damaged(cached)
  if not cached.exists():
    parsed = parse(file, **options)
    if not parsed.columns.num_rows:
      raise UserError(f"{file} is empty: it has no row")
    for name in filter(lambda name: "\0" in name, parsed.columns.column_names):
      raise UserError(f"{file}: the name of column {shown(name)} has a NUL byte; is this a table?")
    columns = _with_plain_names(parsed.columns)
    columns = columns.replace_schema_metadata(
        {**(columns.schema.metadata or {}), b"skipped": str(parsed.skipped).encode()})
    with (files.written_whole(cached, shared=True) as temporary,
          pyarrow.OSFile(str(temporary), "wb") as sink,
          pyarrow.ipc.new_stream(sink, columns.schema) as writer):
      writer.write_table(columns, max_chunksize=_CHUNK_ROWS)
    files.seal(cached)
  os.utime(cached)  # `files.keep_within` deletes the least recently used
  with pyarrow.memory_map(str(cached)) as stream:  # `Dataset.from_file` drops the metadata
    skipped = int(pyarrow.ipc.open_stream(stream).schema.metadata[b"skipped"])
  return Table(str(file), datasets.Dataset.from_file(str(cached)),
               lambda: parse(file, **options).lines,
               (f"rows with a wrong number of fields left out: {skipped}",) if skipped else ())


def _with_plain_names(columns: "pyarrow.Table") -> "pyarrow.Table":
  """Strips blanks around the columns' names, where they stay distinct."""
  names = [name.strip() for name in columns.column_names]
  if names == columns.column_names or len(set(names)) < len(names):
    return columns
  return columns.rename_columns(names).replace_schema_metadata(None)  # it has the old names


# --- Columns --------------------------------------------------------------------------------


def recognize_columns(source: LabelledSource, table: Table, text_columns: Sequence[str],
                      label_column: str) -> Layout:
  """Finds the columns of texts and label: as configured, as GLUE has them, or by usual names.

  Usual names may be written in capitals.
  """
  task, columns = source.glue_task, table.rows.column_names
  there = {name.lower(): name for name in reversed(columns)} | {name: name for name in columns}
  label_column = label_column.strip()
  label = label_column or next(
      (there[name] for name in ((task.tsv_label,) if task else ()) + LABEL_NAMES
       if name in there and there[name] not in text_columns), "")
  if text_columns:
    texts = tuple(text_columns)
  elif task is not None:
    texts = next((names for names in (task.text_columns, task.tsv_texts)
                  if set(names) <= set(columns)), task.tsv_texts)
  else:
    others = [name for name in columns if name != label and name.lower() not in ID_NAMES]
    usual = TEXT_NAMES if len(others) > 1 else TEXT_NAMES + PARTIAL_TEXT_NAMES
    texts = next((tuple(there[name] for name in names) for names in usual
                  if all(name in there for name in names)), ())
  if not texts:
    raise UserError(f"{table.source}: no text column recognized among "
                    f"{quoted(columns)}; name one or two: --config.text_columns=a,b "
                    "(or does the file lack a header?)")
  if len(texts) > 2 or label_column in texts:
    raise UserError(f"text_columns {quoted(texts)} must be one or two, and not the label "
                    "column")
  for name in texts:
    table.check_column(name)
  unused = () if task else tuple(name for name in columns if name not in {*texts, label}
                                 and name.lower() not in ID_NAMES)
  return Layout(texts, label, unused)


def usable_rows(table: Table, layout: Layout, *, labelled: bool, blank_texts: bool,
                skip: bool, missing_label: str = "") -> Table:
  """Returns the rows that have their texts and, where it is `labelled`, a label.

  Args:
    table: a split.
    layout: its columns.
    labelled: whether the labels are used.
    blank_texts: whether blank text is text, as it is for GLUE's original code.
    skip: leave out the others, counted, instead of stopping at the first.
    missing_label: a label that means that there is none; "" for no such label.

  Raises:
    UserError: a row without text or label, and `skip` is False.
  """
  labels = (layout.label,) if labelled and layout.label else ()
  table.check_texts(layout.texts)
  for name in labels:
    table.check_label(name)
  for name in (*layout.texts, *labels):
    missing = table.missing(name)
    what = "label" if name == layout.label else "text"
    if what == "text" and blank_texts and table.content_of(name) == "text":
      column = table.column(name)
      blank = [row for row in np.flatnonzero(missing) if column[row] is not None]
      missing[blank] = False
      if blank:
        table = dataclasses.replace(
            table, notes=(*table.notes, f"blank texts in {shown(name)}: {len(blank)}"))
    if what == "label" and missing_label:
      missing |= np.asarray([str(value).strip() == missing_label for value in table.column(name)])
    if not missing.any():
      continue
    count, row = int(missing.sum()), int(missing.argmax())
    if not skip:
      value = table.raw(name)[row].as_py()
      withheld = what == "label" and value is not None and str(value).strip() not in ("", "nan")
      reason = f"is {value} (no gold label)" if withheld else "is empty"
      raise UserError(f"{table.where(row)}: column {shown(name)} {reason}; "
                      "--config.skip_bad_rows=True leaves such rows out")
    table = table.without(missing, f"rows without {what} left out: {count}")
  return table


def row_ids(table: Table) -> list[str]:
  """Returns the ids that a leaderboard file repeats: the table's own, or 0, 1, 2, ...

  A column in which an id stands twice tells no rows apart, and is passed over.
  """
  for name in ID_NAMES:
    if name in table.rows.column_names:
      ids = [str(value) for value in table.column(name)]
      if len(set(ids)) == len(ids):
        return ids
  return [str(i) for i in (range(len(table)) if table.ids is None else table.ids)]
