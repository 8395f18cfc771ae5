"""Where labelled data lies: GLUE on the hub or in its TSV layout, saved datasets, user's files.

Every source gives a `Table`: a `datasets.Dataset`, memory-mapped from the disk, whose rows know
the file and line that they came from, so that an error can name them. A user's file is parsed
once and kept in the cache folder under a hash of its content.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import hashlib
import json
import os
import pathlib
import re
from typing import Any, TYPE_CHECKING

from classification import parsers, tasks
from classification.tables import Table
import data
from support import files, hub
from support.errors import first_line, quoted, shown, UserError

if TYPE_CHECKING:
  import pyarrow

# Ending of a user's file -> its parser.
PARSERS = {".csv": parsers.parse_csv, ".tsv": parsers.parse_tsv, ".json": parsers.parse_json,
           ".jsonl": parsers.parse_json, ".parquet": parsers.parse_parquet}
FORMATS = "csv, tsv, json, jsonl or parquet"
# Name of a file or of a dataset's split -> the split.
SPLIT_NAMES = {"train": "train", "validation": "validation", "dev": "validation",
               "valid": "validation", "val": "validation", "test": "test"}

# How the hub names the files of a split: train-00000-of-00002.parquet.
_SHARD = re.compile(r"(?P<split>.+)-(?P<number>[0-9]{5,})-of-(?P<count>[0-9]{5,})")
_CHUNK_ROWS = 4096  # of a cached file, so that reading some rows does not map all
_CACHE_VERSION = 7


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


# --- Finding the dataset --------------------------------------------------------------------


def find_source(dataset_name: str, dataset_path: str, skip_bad_rows: bool,
                cache_dir: pathlib.Path) -> LabelledSource:
  """Finds the dataset that the config names, without reading its rows.

  Args:
    dataset_name: a GLUE task; blank for the user's own files.
    dataset_path: a GLUE hub name, any other hub dataset (`owner/name`, `owner/name:config`), a
      folder, or a file.
    skip_bad_rows: leave out csv and tsv rows with a wrong number of fields.
    cache_dir: an existing folder for parsed files.

  Raises:
    UserError: an unknown task, nothing at the path, no hub in reach.
  """
  hub_name, _, configuration = dataset_path.partition(":")
  task = tasks.named_task(dataset_name, dataset_path)
  if tasks.is_hub_glue(dataset_path):
    same = not configuration or tasks.glue_task(configuration) is task
    return _hub_source(hub_name, task, "" if same else configuration)
  if not dataset_path:
    raise UserError("dataset_path is blank; give a folder, or nyu-mll/glue for GLUE from the hub")
  folder = pathlib.Path(os.path.expanduser(dataset_path))
  if not folder.exists():
    if folder.is_absolute() or hub_name.startswith((".", "~")) or hub_name.count("/") > 1:
      raise UserError(f"dataset_path {dataset_path} does not exist{files.similar(folder)}")
    return _hub_source(hub_name, task, configuration)
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


def _hub_source(path: str, task: tasks.Task | None, configuration: str = "") -> LabelledSource:
  if task and configuration:
    raise UserError(f"dataset_path {path}:{configuration} names a configuration, and dataset_name "
                    f"{task.name} another; leave one out")
  arguments = tuple(filter(None, (path, task.name if task else configuration)))
  try:
    loaded = hub.load_dataset(*arguments)
  except UserError as error:
    advice = ("a configuration is named by --config.dataset_path=OWNER/NAME:CONFIG"
              if "onfig" in str(error) else
              "for local data use --config.dataset_path=/path/to/folder")
    raise UserError(f"dataset {error}; {advice}") from error
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


def usual_name(split: str) -> str:
  """Returns the name by which this project knows a split: dev is validation."""
  return SPLIT_NAMES.get(split.lower(), split)


def _splits_named(place: str, names: Mapping[str, str]) -> dict[str, str]:
  """Turns {name: its split's name as found} into {split: name}, the usual splits first.

  Raises:
    UserError: several names of a usual split.
  """
  found: dict[str, list[str]] = {}
  for name, as_found in names.items():
    found.setdefault(usual_name(as_found), []).append(name)
  usual = list(dict.fromkeys(SPLIT_NAMES.values()))
  for split in usual:
    if len(several := found.get(split, ())) > 1:
      raise UserError(f"{place} holds several {split} files: {', '.join(several)}; keep one")
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
  """Returns a source of train, validation (or dev, valid, val), test and other files.

  A split may be several files by the hub's names. Where there is no file, they lie in data/.
  """
  for place in (folder, folder / "data"):
    tables_there = [file for file in sorted(place.glob("*")) if file.suffix.lower() in PARSERS
                    and file.is_file()]
    if tables_there:
      break
  else:
    raise UserError(f"{folder} holds no train, validation or test file in {FORMATS}; for GLUE's "
                    "layout give --config.dataset_name")
  parts, stems = {}, {}
  for file in tables_there:
    shard = _SHARD.fullmatch(file.stem)
    name = f"{shard['split']}-*-of-{shard['count']}{file.suffix}" if shard else file.name
    parts.setdefault(name, []).append(file)
    stems[name] = shard["split"] if shard else file.stem
  found = _splits_named(str(place), stems)

  def read(split: str) -> Table:
    return _joined(str(place / found[split]), [
        _own_table(file, cache_dir, skip_bad_rows) for file in _all_shards(parts[found[split]])])

  return LabelledSource(str(folder), None, read, tuple(found))


def _all_shards(files_there: Sequence[pathlib.Path]) -> Sequence[pathlib.Path]:
  """Returns the files of a split, which are sorted by their numbers.

  Raises:
    UserError: one of those that their names count is missing.
  """
  counts = {int(shard["number"]): int(shard["count"]) for file in files_there
            if (shard := _SHARD.fullmatch(file.stem))}
  count = max(counts.values(), default=0)
  missing = next((number for number in range(count) if number not in counts), None)
  if missing is not None:
    raise UserError(f"{files_there[0]} is one of {count} files by its name, of which number "
                    f"{missing:05} is missing")
  return files_there


def _joined(name: str, parts: Sequence[Table]) -> Table:
  """Returns the rows of all parts, in their order.

  Raises:
    UserError: the parts' columns differ.
  """
  import datasets

  first, *others = parts
  if not others:
    return first
  for part in others:
    columns, usual = part.rows.features, first.rows.features
    odd = [name for name in {**usual, **columns} if columns.get(name) != usual.get(name)]
    if odd:
      raise UserError(f"{part.source} has other columns than {first.source}, or of other types: "
                      f"{quoted(odd)}")
  return Table(name, datasets.concatenate_datasets([part.rows for part in parts]),
               notes=tuple(note for part in parts for note in part.notes), parts=tuple(parts))


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
    parsed = _parsed(file, parse, **options)
    columns = parsed.columns.replace_schema_metadata(
        {**(parsed.columns.schema.metadata or {}), b"skipped": str(parsed.skipped).encode()})
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


def read_file(file: pathlib.Path) -> Table:
  """Reads a user's file of an ending in `PARSERS` into memory; no copy is left in a cache.

  Raises:
    UserError: it cannot be read as a table, or has no row.
  """
  import datasets

  parsed = _parsed(file, PARSERS[file.suffix.lower()], skip_bad_rows=False)
  return Table(str(file), datasets.Dataset(datasets.table.InMemoryTable(parsed.columns)),
               lambda: parsed.lines)


def _parsed(file: pathlib.Path, parse: Callable[..., parsers.Parsed], **options: Any
            ) -> parsers.Parsed:
  """Parses a file, which must have rows, and column names without NUL bytes."""
  parsed = parse(file, **options)
  if not parsed.columns.num_rows:
    raise UserError(f"{file} is empty: it has no row")
  for name in filter(lambda name: "\0" in name, parsed.columns.column_names):
    raise UserError(f"{file}: the name of column {shown(name)} has a NUL byte; is this a table?")
  return dataclasses.replace(parsed, columns=_with_plain_names(parsed.columns))


def _with_plain_names(columns: "pyarrow.Table") -> "pyarrow.Table":
  """Strips blanks around the columns' names, where they stay distinct."""
  names = [name.strip() for name in columns.column_names]
  if names == columns.column_names or len(set(names)) < len(names):
    return columns
  return columns.rename_columns(names).replace_schema_metadata(None)  # it has the old names
