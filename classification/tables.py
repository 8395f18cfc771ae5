"""Labelled tables in: GLUE from the hub or in its TSV layout, saved datasets, the user's files.

Every source gives a `Table`: a `datasets.Dataset`, memory-mapped from the disk, whose rows know
the file and line that they came from, so that an error can name them. A user's file is parsed
once and kept in the cache folder under a hash of its content.
"""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
from typing import Any, TYPE_CHECKING

from classification import parsers, tasks
from support import files, hub
from support.errors import first_line, UserError

if TYPE_CHECKING:
  import datasets

HUB_GLUE = ("glue", "nyu-mll/glue")
# Ending of a user's file -> its parser.
PARSERS = {".csv": parsers.parse_csv, ".tsv": parsers.parse_tsv, ".jsonl": parsers.parse_jsonl,
           ".parquet": parsers.parse_parquet}
SPLIT_FILES = {"train": ("train",), "validation": ("validation", "dev", "valid"),
               "test": ("test",)}
TEXT_NAMES = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"),
              ("question", "sentence"), ("text_a", "text_b"), ("text1", "text2"),
              ("sentence",), ("text",), ("review",), ("comment",), ("content",), ("question",),
              ("title",))
LABEL_NAMES = ("label", "labels", "class", "category", "sentiment", "target", "gold_label",
               "rating", "score", "similarity_score")

_CHUNK_ROWS = 4096  # of a cached file, so that reading some rows does not map all
_CACHE_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Table:
  """One split.

  Attributes:
    source: the file or dataset, for messages.
    rows: its rows.
    line_numbers: gives each row's line in the source, from 1; parses the file again, for errors.
    skipped: number of rows left out for a wrong number of fields.
  """

  source: str
  rows: "datasets.Dataset"
  line_numbers: Callable[[], Iterable[int]] = lambda: itertools.count(1)
  skipped: int = 0

  def __len__(self) -> int:
    return len(self.rows)

  def where(self, row: int) -> str:
    """Returns a row's file and line."""
    return f"{self.source}:{next(itertools.islice(self.line_numbers(), row, None))}"

  def check_column(self, name: str) -> None:
    """Raises UserError for a column that is not there."""
    if name not in self.rows.column_names:
      raise UserError(f"{self.source} has no column {name!r}; it has "
                      f"{', '.join(map(repr, self.rows.column_names))}")

  def column(self, name: str) -> list[Any]:
    """Reads a column; a ClassLabel's numbers become names, and -1 (a withheld label) None."""
    self.check_column(name)
    values = self.rows.select_columns([name])[:][name]
    names = getattr(self.rows.features[name], "names", None)
    if names:
      return [names[value] if value is not None and value >= 0 else None for value in values]
    return values

  def texts(self, names: Sequence[str]) -> "datasets.Dataset":
    """Returns the text columns alone; a missing value is an error."""
    for name in names:
      self.check_column(name)
    texts = self.rows.select_columns(list(names))
    for name, column in zip(names, texts.with_format("arrow")[:].columns, strict=True):
      if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise UserError(f"{self.where(row)}: column {name!r} is empty")
    return texts


@dataclasses.dataclass(frozen=True)
class LabelledSource:
  """A dataset's place, and how to read one split of it.

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
  """The names of the text and label columns in a task's tables."""

  texts: tuple[str, ...]
  label: str


# --- Finding the dataset --------------------------------------------------------------------


def find_source(dataset_name: str, dataset_path: str, skip_bad_rows: bool,
                cache_dir: pathlib.Path) -> LabelledSource:
  """Finds the dataset that the config names, without reading its rows.

  Args:
    dataset_name: a GLUE task; blank for the user's own files.
    dataset_path: a GLUE hub name, any other hub dataset, or a folder.
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
    raise UserError(f"dataset_path {dataset_path} is a file; give the folder that holds "
                    "train, validation and test files")
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

  def read(split: str) -> Table:
    rows = loaded[split]
    if not len(rows):
      raise UserError(f"{name} [{split}] is empty: it has no row")
    return Table(f"{name} [{split}]", rows)

  return LabelledSource(name, task, read, tuple(loaded))


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
  """Returns a source of train, validation (or dev, valid) and test files."""
  found = {}
  for split, stems in SPLIT_FILES.items():
    candidates = [folder / f"{stem}{ext}" for stem in stems for ext in PARSERS
                  if (folder / f"{stem}{ext}").is_file()]
    if len(candidates) > 1:
      raise UserError(f"{folder} holds several {split} files: "
                      f"{', '.join(file.name for file in candidates)}; keep one")
    found |= {split: candidates[0]} if candidates else {}
  if not found:
    raise UserError(f"{folder} holds no train, validation or test file in csv, tsv, jsonl or "
                    "parquet; for GLUE's layout give --config.dataset_name")

  def read(split: str) -> Table:
    file = found[split]
    return _file_table(file, cache_dir, PARSERS[file.suffix], skip_bad_rows=skip_bad_rows)

  return LabelledSource(str(folder), None, read, tuple(found))


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
  if not cached.exists():
    parsed = parse(file, **options)
    if not parsed.columns.num_rows:
      raise UserError(f"{file} is empty: it has no row")
    columns = parsed.columns.replace_schema_metadata({"skipped": str(parsed.skipped)})
    with (files.written_whole(cached, shared=True) as temporary,
          pyarrow.OSFile(str(temporary), "wb") as sink,
          pyarrow.ipc.new_stream(sink, columns.schema) as writer):
      writer.write_table(columns, max_chunksize=_CHUNK_ROWS)
  os.utime(cached)  # `files.keep_within` deletes the least recently used
  with pyarrow.memory_map(str(cached)) as stream:  # `Dataset.from_file` drops the metadata
    skipped = int(pyarrow.ipc.open_stream(stream).schema.metadata[b"skipped"])
  return Table(str(file), datasets.Dataset.from_file(str(cached)),
               lambda: parse(file, **options).lines, skipped)


# --- Columns --------------------------------------------------------------------------------


def recognize_columns(source: LabelledSource, table: Table, text_columns: Sequence[str],
                      label_column: str) -> Layout:
  """Finds the columns of texts and label: as configured, as GLUE has them, or by usual names."""
  task, columns = source.glue_task, table.rows.column_names
  if text_columns:
    texts = tuple(text_columns)
  elif task is not None:
    named = [names for names in (task.text_columns, task.tsv_texts)
             if set(names) <= set(columns)]
    texts = named[0] if named else task.tsv_texts
  else:
    texts = next((names for names in TEXT_NAMES if set(names) <= set(columns)), ())
  if not texts:
    raise UserError(f"{table.source}: no text column recognized among "
                    f"{', '.join(map(repr, columns))}; name one or two: "
                    "--config.text_columns=a,b")
  if len(texts) > 2 or label_column in texts:
    raise UserError(f"text_columns {', '.join(texts)} must be one or two, and not the label column")
  for name in texts:
    table.check_column(name)
  label = label_column or next(
      (name for name in ((task.tsv_label,) if task else ()) + LABEL_NAMES
       if name in columns), "")
  return Layout(texts, label)


def row_ids(table: Table) -> list[str]:
  """Returns the ids that a leaderboard file repeats: the table's own, or 0, 1, 2, ..."""
  for name in ("index", "id", "idx"):
    if name in table.rows.column_names:
      return [str(value) for value in table.column(name)]
  return [str(i) for i in range(len(table))]
