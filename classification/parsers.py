"""Parsers: GLUE's tsv, csv, tsv, jsonl and parquet into Arrow columns and line numbers."""

import codecs
from collections.abc import Iterable, Iterator, Sequence
import contextlib
import csv
import dataclasses
import io
import json
import pathlib
from typing import Any, TYPE_CHECKING

from support.errors import first_line, UserError

if TYPE_CHECKING:
  import pyarrow

csv.field_size_limit(1 << 30)


@dataclasses.dataclass(frozen=True)
class Parsed:
  """The content of a file: its columns, the line of each row, the number of rows left out."""

  columns: "pyarrow.Table"
  lines: Sequence[int]
  skipped: int = 0


def _lines(file: pathlib.Path) -> Iterator[tuple[int, str]]:
  """Yields (number, line) for every line; only LF and CRLF end a line.

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


def _checked(file: pathlib.Path, header: Sequence[str],
             numbered_rows: Iterable[tuple[int, Sequence[str]]], skip_bad_rows: bool) -> Parsed:
  """Checks the rows against the header. numbered_rows: (line, fields)."""
  import pyarrow

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
  columns = zip(*rows, strict=True) if rows else ((),) * len(header)
  return Parsed(pyarrow.table([pyarrow.array(column, pyarrow.string()) for column in columns],
                              names=list(header)), lines, skipped)


def parse_plain_tsv(file: pathlib.Path, *, header: Sequence[str] = (),
                    skip_bad_rows: bool = False) -> Parsed:
  """Parses TSV as GLUE writes it: without quoting, quotes are ordinary characters."""
  rows = ((number, line.split("\t")) for number, line in _lines(file) if line)
  if not header:
    _, header = next(rows, (0, ()))
  return _checked(file, header, rows, skip_bad_rows)


def parse_csv(file: pathlib.Path, *, skip_bad_rows: bool, delimiter: str = ",") -> Parsed:
  """Parses RFC 4180: quoted fields may hold delimiters, doubled quotes and line ends."""
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
  return _checked(file, header, rows, skip_bad_rows)


def parse_tsv(file: pathlib.Path, *, skip_bad_rows: bool) -> Parsed:
  """Parses a user's TSV: quoted if every quote in it makes sense as quoting, else plain.

  Stray quotes can balance by accident and swallow the rows between them: if plain reading
  gives more rows, all of the right length, plain reading is right.
  """
  plain = None
  with contextlib.suppress(_BadRow):
    plain = parse_plain_tsv(file)
  try:
    quoted = parse_csv(file, skip_bad_rows=skip_bad_rows, delimiter="\t")
  except _BadQuoting:
    return plain or parse_plain_tsv(file, skip_bad_rows=skip_bad_rows)
  except _BadRow:
    if plain is None:
      raise
    return plain
  return plain if plain is not None and len(plain.lines) > len(quoted.lines) else quoted


def parse_jsonl(file: pathlib.Path, *, skip_bad_rows: bool) -> Parsed:
  """Parses one JSON object a line; the keys of all rows become columns."""
  del skip_bad_rows  # no row has a wrong number of fields
  import pyarrow.json

  lines = [(number, len(line)) for number, line in _lines(file) if line.strip()]
  if not lines:
    return Parsed(pyarrow.table({}), ())
  content = file.read_bytes().removeprefix(codecs.BOM_UTF8)
  longest = max(size for _, size in lines)
  options = pyarrow.json.ReadOptions(block_size=max(1 << 20, 8 * longest))

  def parsed(**schema: Any) -> "pyarrow.Table":
    return pyarrow.json.read_json(io.BytesIO(content), options,
                                  pyarrow.json.ParseOptions(**schema))

  try:
    columns = parsed()
    dates = [pyarrow.field(field.name, pyarrow.string()) for field in columns.schema
             if pyarrow.types.is_timestamp(field.type)]
    if dates:  # a text that reads like a date is a text
      columns = parsed(explicit_schema=pyarrow.schema(dates))
  except pyarrow.ArrowInvalid as error:
    raise _bad_line(file, error) from error
  _check_integers(file, [field.name for field in columns.schema
                         if pyarrow.types.is_floating(field.type)])
  return Parsed(columns, [number for number, _ in lines])


def _check_integers(file: pathlib.Path, float_columns: Sequence[str]) -> None:
  """Raises UserError for an integer of a jsonl that pyarrow has rounded to a float."""
  for number, line in _lines(file) if float_columns else ():
    row = json.loads(line) if line.strip() else {}
    for name in float_columns:
      if type(row.get(name)) is int and abs(row[name]) > 1 << 53:
        raise UserError(f"{file}:{number}: column {name!r} would round the integer "
                        f"{str(row[name])[:40]}; write the column as strings")


def _bad_line(file: pathlib.Path, error: Exception) -> UserError:
  """Finds the line of a jsonl that pyarrow could not read."""
  types: dict[str, type] = {}
  for number, line in _lines(file):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except ValueError as reason:
      return UserError(f"{file}:{number}: not JSON: {reason}")
    if not isinstance(row, dict):
      return UserError(f"{file}:{number}: a row must be an object, not {line[:40]}")
    for name, value in row.items():
      kind = float if type(value) is int else type(value)
      if value is not None and types.setdefault(name, kind) is not kind:
        return UserError(f"{file}:{number}: column {name!r} is {str(value)[:40]!r} here and of "
                         "another type before; a column must have one type")
  return UserError(f"{file} cannot be read: {first_line(error)}")


def parse_parquet(file: pathlib.Path, *, skip_bad_rows: bool) -> Parsed:
  """Parses parquet; dictionary-encoded columns become plain ones."""
  del skip_bad_rows  # no row has a wrong number of fields
  import pyarrow.parquet

  try:
    columns = pyarrow.parquet.read_table(file)
  except Exception as error:  # ArrowInvalid, OSError
    raise UserError(f"{file} cannot be read as parquet: {first_line(error)}") from error
  for i, field in enumerate(columns.schema):
    if pyarrow.types.is_dictionary(field.type):  # `datasets` has no such type
      columns = columns.set_column(i, field.name, columns[i].cast(field.type.value_type))
  return Parsed(columns, range(1, columns.num_rows + 1))
