"""Parsers: GLUE's tsv, csv, tsv, json, jsonl and parquet into Arrow columns and line numbers.

A column that holds neither text nor numbers nor lists of classes (objects, bytes, pictures, lists
of fractions) keeps its name and type, but none of its content: nobody trains on it.
"""

import codecs
import collections
from collections.abc import Iterable, Iterator, Sequence
import contextlib
import csv
import dataclasses
import itertools
import json
import os
import pathlib
import re
import sys
from typing import Any, BinaryIO, TYPE_CHECKING

from support import files
from support.errors import first_line, quoted, shown, UserError

if TYPE_CHECKING:
  import pyarrow

_LONGEST_LINE = 1 << 24  # bytes of a line, and characters of a quoted field, which spans lines
csv.field_size_limit(_LONGEST_LINE)

_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_SHORT_INTEGER = re.compile("-?[0-9]{1,18}")  # fits in 64 bits
_SURROGATE = re.compile("[\ud800-\udfff]")
_JSON_SPACE = re.compile("[ \t\r\n]*")


@dataclasses.dataclass(frozen=True)
class Parsed:
  """The content of a file: its columns, the line of each row, the number of rows left out."""

  columns: "pyarrow.Table"
  lines: Sequence[int]
  skipped: int = 0


def _lines(file: pathlib.Path) -> Iterator[tuple[int, str]]:
  """Yields `numbered_lines` of a file."""
  with file.open("rb") as stream:
    yield from numbered_lines(stream, str(file))


def lines_of_input(name: str, flag: str) -> Iterator[tuple[int, str]]:
  """Yields `numbered_lines` of a file, or of the standard input where the name is "-".

  Raises:
    UserError: at the first line: no such file; later: like `numbered_lines`.
  """
  if name == "-":
    yield from numbered_lines(sys.stdin.buffer, "the standard input")
    return
  file = pathlib.Path(os.path.expanduser(name))
  if file.is_dir() or not file.exists():
    raise UserError(f"{flag}={name} " + (
        "is a folder" if file.is_dir() else f"does not exist{files.similar(file)}"))
  yield from _lines(file)


def numbered_lines(stream: BinaryIO, name: str) -> Iterator[tuple[int, str]]:
  """Yields (number, line) for every line; only LF and CRLF end a line.

  Args:
    stream: UTF-8, from its start.
    name: of the file, for messages.

  Raises:
    UserError: bytes that are not UTF-8, or an endless line, with file and line.
  """
  for number in itertools.count(1):
    raw = stream.readline(_LONGEST_LINE + 1)
    if not raw:
      return
    if len(raw) > _LONGEST_LINE:
      raise UserError(f"{name}:{number}: the line has more than {_LONGEST_LINE:,} bytes; is "
                      "this a table?")
    line = _decoded(name, number, raw)
    yield number, line.removesuffix("\n").removesuffix("\r")


def _decoded(file: str | pathlib.Path, number: int, raw: bytes) -> str:
  """Decodes UTF-8 that begins in line `number`; line 1 may have a byte order mark."""
  try:
    return raw.decode("utf-8-sig" if number == 1 else "utf-8")
  except UnicodeDecodeError as error:
    if number == 1 and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
      raise UserError(f"{file} holds UTF-16; convert it: iconv -f UTF-16 -t UTF-8") from error
    before = raw[:error.start]
    raise UserError(f"{file}:{number + before.count(10)}: not UTF-8 ({error.reason} at byte "
                    f"{error.start - before.rfind(10)} of the line); save it as UTF-8"
                    ) from error


class _BadRow(UserError):
  """A row with a wrong number of fields."""

  def __init__(self, file: pathlib.Path, line: int, found: int, header: Sequence[str],
               all_bad: bool):
    remedy = (f", as in every row; the header is {quoted(header)}" if all_bad else
              "; --config.skip_bad_rows=True leaves such rows out")
    super().__init__(f"{file}:{line}: {found} fields, must be {len(header)}{remedy}")


class _BadQuoting(UserError):
  """Quotes that make no sense as RFC 4180 quoting."""


# --- csv and tsv ----------------------------------------------------------------------------


def _checked(file: pathlib.Path, header: Sequence[str],
             numbered_rows: Iterable[tuple[int, Sequence[str]]], skip_bad_rows: bool,
             delimiter: str) -> Parsed:
  """Checks the rows against the header. numbered_rows: (line, fields)."""
  import pyarrow

  names = [name.strip() for name in header]
  while names and not names[-1]:  # Excel may write empty columns after the last one
    names.pop()
  _check_names(file, names)
  _check_delimiter(file, names, delimiter)
  if header and not names:
    raise UserError(f"{file}: the header names no column")
  rows, lines, skipped, bad = [], [], 0, None
  for line, fields in numbered_rows:
    if (len(names) <= len(fields) <= len(header)
        and not any(map(str.strip, fields[len(names):]))):
      rows.append(fields)
      lines.append(line)
    else:
      skipped += 1
      bad = bad or (line, len(fields))
  if bad and not (skip_bad_rows and rows):
    raise _BadRow(file, *bad, names, all_bad=not rows)
  columns = zip(*rows, strict=False) if rows else ((),) * len(names)
  return Parsed(pyarrow.table([pyarrow.array(column, pyarrow.string())
                               for column, _ in zip(columns, names, strict=False)],
                              names=names), lines, skipped)


def _check_names(file: pathlib.Path, names: Sequence[str]) -> None:
  """Raises UserError for a column's name that stands twice."""
  name, times = next(iter(collections.Counter(names).most_common(1)), ("", 0))
  if times > 1:
    raise UserError(f"{file}: the header names column {shown(name)} twice")


def _check_delimiter(file: pathlib.Path, names: Sequence[str], delimiter: str) -> None:
  """Raises UserError for a header with other delimiters."""
  other = [word for sign, word in _DELIMITERS.items() if len(names) == 1 and sign in names[0]]
  if other and delimiter not in names[0]:
    raise UserError(f"{file}: the header has no {_DELIMITERS[delimiter]} but {other[0]}s: "
                    f"{shown(names[0])}; write the file with {_DELIMITERS[delimiter]}s")


def parse_plain_tsv(file: pathlib.Path, *, header: Sequence[str] = (),
                    skip_bad_rows: bool = False) -> Parsed:
  """Parses TSV as GLUE writes it: without quoting, quotes are ordinary characters."""
  rows = ((number, line.split("\t")) for number, line in _lines(file) if line)
  if not header:
    _, header = next(rows, (0, ()))
  return _checked(file, header, rows, skip_bad_rows, "\t")


def parse_csv(file: pathlib.Path, *, skip_bad_rows: bool, delimiter: str = ",") -> Parsed:
  """Parses RFC 4180: quoted fields may hold delimiters, doubled quotes and line ends.

  Where the header has blanks after its commas, blanks after commas are no part of any field.
  """

  def numbered_rows(blanks: bool) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((f"{line}\n" for _, line in _lines(file)), delimiter=delimiter, strict=True,
                        skipinitialspace=blanks)
    start = 1
    try:
      for row in reader:
        if row:
          yield start, row
        start = reader.line_num + 1
    except csv.Error as error:
      raise _BadQuoting(f"{file}:{start}: broken quoting, or a carriage return in a field "
                        f"without quotes ({error})") from error

  rows = numbered_rows(blanks=False)
  _, header = next(rows, (0, ()))
  if delimiter == "," and any(name.startswith(" ") for name in header[1:]):
    rows = numbered_rows(blanks=True)
    _, header = next(rows)
  return _checked(file, header, rows, skip_bad_rows, delimiter)


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


# --- json and jsonl -------------------------------------------------------------------------


class _Number(str):
  """A number as JSON writes it."""

  __slots__ = ()


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
  if len(row := dict(pairs)) < len(pairs):
    raise ValueError("a key stands twice in one object")
  return row


# NaN, which JSON does not have, is how Python and pandas write a missing value.
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_Number, parse_float=_Number,
                            parse_constant=lambda _: None)
_KINDS = {str: "text", _Number: "a number", bool: "true or false", list: "a list",
          dict: "an object"}


def parse_json(file: pathlib.Path, *, skip_bad_rows: bool) -> Parsed:
  """Parses one JSON object a line, or one array of objects; all rows' keys become columns.

  A column of integers is one of integers, also in lists. Numbers of any other column stay text, as
  they are written: none is rounded, and 1 beside 1.5 does not become 1.0.

  Raises:
    UserError: anything else than objects, a column of several types, or half of a surrogate
      pair, with file and line.
  """
  del skip_bad_rows  # no row has a wrong number of fields
  import pyarrow

  lines: list[int] = []
  columns: dict[str, list[Any]] = {}
  kinds: dict[str, type] = {}
  with file.open("rb") as stream:
    start = stream.read(1 << 12).removeprefix(codecs.BOM_UTF8).lstrip()
  for line, row in (_array_items if start.startswith(b"[") else _line_values)(file):
    if not isinstance(row, dict):
      raise UserError(f"{file}:{line}: a row must be an object, not {shown(row)}")
    for name, value in row.items():
      cells = columns.setdefault(name, [])
      cells.extend([None] * (len(lines) - len(cells)))
      cells.append(value)
      if value is not None and kinds.setdefault(name, type(value)) is not type(value):
        raise UserError(f"{file}:{line}: column {shown(name)} is {_KINDS[type(value)]} here and "
                        f"{_KINDS[kinds[name]]} before; a column must have one type")
      for text in (name, *(value if isinstance(value, list) else (value,))):
        if isinstance(text, str) and not text.isascii() and _SURROGATE.search(text):
          raise UserError(f"{file}:{line}: column {shown(name)} has half of a surrogate pair "
                          "(such as \\ud83d), which is no character")
    lines.append(line)
  for cells in columns.values():
    cells.extend([None] * (len(lines) - len(cells)))
  return Parsed(pyarrow.table({name: _arrow_column(cells, kinds.get(name))
                               for name, cells in columns.items()}), lines)


def _line_values(file: pathlib.Path) -> Iterator[tuple[int, Any]]:
  """Yields (line, value): one a line."""
  for number, line in _lines(file):
    if line.strip():
      start = _JSON_SPACE.match(line).end()
      value, end = _json_value(file, number, line, start)
      if line[end:].strip():
        raise UserError(f"{file}:{number}: not JSON: more than one value in the line")
      yield number, value


def _array_items(file: pathlib.Path) -> Iterator[tuple[int, Any]]:
  """Yields (line, value) for the items of a file's one array, which may have no line end."""
  text = _decoded(file, 1, file.read_bytes())
  position, line, separator = _JSON_SPACE.match(text).end(), 1, "["
  line += text.count("\n", 0, position)
  while text.startswith(separator, position):
    start = _JSON_SPACE.match(text, position + 1).end()
    line += text.count("\n", position, start)
    position = start
    if separator == "[" and text.startswith("]", position):
      break
    value, end = _json_value(file, 1, text, start)
    yield line, value
    position = _JSON_SPACE.match(text, end).end()
    line += text.count("\n", start, position)
    separator = ","
  if text[position:].strip() != "]":
    raise UserError(f"{file}:{line}: not JSON: the array must go on with a comma or end with ]")


def _json_value(file: pathlib.Path, line: int, text: str, start: int) -> tuple[Any, int]:
  """Decodes the value at text[start:]; returns it and its end. line: where `text` begins."""
  try:
    return _DECODER.raw_decode(text, start)
  except json.JSONDecodeError as error:
    raise UserError(f"{file}:{line + error.lineno - 1}: not JSON: {error.msg} at column "
                    f"{error.colno}") from error
  except (ValueError, RecursionError) as error:  # of `_unique`, and of thousands of brackets
    reason = "it is nested too deep" if isinstance(error, RecursionError) else error
    raise UserError(f"{file}:{line + text.count(chr(10), 0, start)}: {reason}") from error


def _arrow_column(cells: Sequence[Any], kind: type | None) -> "pyarrow.Array":
  """Returns a column of cells of one kind; None: of nulls."""
  import pyarrow

  types = {str: pyarrow.string(), bool: pyarrow.bool_(),
           dict: pyarrow.struct({"": pyarrow.string()}), None: pyarrow.null()}
  if kind is _Number:
    if all(cell is None or _SHORT_INTEGER.fullmatch(cell) for cell in cells):
      return pyarrow.array((cell if cell is None else int(cell) for cell in cells),
                           pyarrow.int64())
    return pyarrow.array(cells, pyarrow.string())
  if kind is list:
    return _list_column(cells)
  if kind is dict:
    return pyarrow.nulls(len(cells), types[kind])
  return pyarrow.array(cells, types[kind])


def _list_column(cells: Sequence[list[Any] | None]) -> "pyarrow.Array":
  """Returns a column of lists of integers or of text; nulls for lists of anything else."""
  import pyarrow

  items = [item for cell in cells for item in cell or () if item is not None]
  if not all(isinstance(item, str) for item in items):
    return pyarrow.nulls(len(cells), pyarrow.list_(pyarrow.struct({"": pyarrow.string()})))
  numbers = [item for item in items if isinstance(item, _Number)]
  if not all(number.lstrip("-").isdecimal() for number in numbers):
    return pyarrow.nulls(len(cells), pyarrow.list_(pyarrow.float64()))
  if items and len(numbers) == len(items) and all(map(_SHORT_INTEGER.fullmatch, numbers)):
    cells = [cell if cell is None else [item if item is None else int(item) for item in cell]
             for cell in cells]
    return pyarrow.array(cells, pyarrow.list_(pyarrow.int64()))
  return pyarrow.array(cells, pyarrow.list_(pyarrow.string()))


# --- parquet --------------------------------------------------------------------------------


def parse_parquet(file: pathlib.Path, *, skip_bad_rows: bool) -> Parsed:
  """Parses parquet; dictionary-encoded columns become plain ones.

  What `datasets` wrote about the columns (the names of classes) is kept.
  """
  del skip_bad_rows  # no row has a wrong number of fields
  import datasets
  import pyarrow.parquet

  try:
    schema = pyarrow.parquet.read_schema(file)
    _check_names(file, schema.names)
    about = (datasets.Features.from_arrow_schema(schema).arrow_schema.metadata
             if b"huggingface" in (schema.metadata or {}) else None)
    unread = {field.name: kind for field in schema if (kind := _placeholder(field.type))}
    read = pyarrow.parquet.read_table(
        file, columns=[name for name in schema.names if name not in unread])
    columns = []
    for name in schema.names:
      column = pyarrow.nulls(read.num_rows, unread[name]) if name in unread else read[name]
      if pyarrow.types.is_dictionary(column.type):  # `datasets` has no such type, nor the next
        column = column.cast(column.type.value_type)
      if pyarrow.types.is_string_view(column.type):
        column = column.cast(pyarrow.string())
      columns.append(column)
  except UserError:
    raise
  except Exception as error:  # ArrowInvalid, OSError, and datasets' own for its metadata
    raise UserError(f"{file} cannot be read as parquet: {first_line(error)}") from error
  return Parsed(pyarrow.table(columns, names=schema.names, metadata=about),
                range(1, read.num_rows + 1))


def _placeholder(kind: "pyarrow.DataType") -> "pyarrow.DataType | None":
  """Returns a type that `datasets` has for a column that is never read; None for other columns."""
  import pyarrow
  from pyarrow import types

  if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
    return pyarrow.binary()
  if types.is_struct(kind) or types.is_map(kind) or types.is_union(kind):
    return pyarrow.struct({"": pyarrow.string()})
  if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
    inner = kind.value_type
    if any(test(inner) for test in (types.is_string, types.is_large_string, types.is_integer,
                                    types.is_null)):
      return None
    return pyarrow.list_(pyarrow.float64() if types.is_floating(inner) else
                         pyarrow.struct({"": pyarrow.string()}))
  return pyarrow.list_(pyarrow.struct({"": pyarrow.string()})) if types.is_nested(kind) else None
