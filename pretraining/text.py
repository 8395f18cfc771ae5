"""Text files in, documents of sentences out.

A document is a list of sentences, each a stripped, non-empty string. What is read is one of

  lines          one sentence a line, a blank line between documents, as for the original's
                 create_pretraining_data.py; the end of a file does not end a document
  paragraphs     running text, one paragraph a line; a blank line or the file's end ends a document
  jsonl          one JSON object a line, whose text field is a document (WikiExtractor --json too)
  wikiextractor  `<doc ... title="...">`, the title, one paragraph a line, `</doc>`
  dataset        a HuggingFace dataset by name or saved by save_to_disk; a row is a document

Files may be gzipped. Everything is streamed: no more than one document is held in memory.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import dataclasses
import glob
import gzip
import html
import io
import json
import os
import pathlib
import re
from typing import Any, BinaryIO
import zlib

from absl import flags

from support import hub
from support.errors import first_line, UserError

Document = list[str]

FILE_KINDS = ("lines", "paragraphs", "jsonl", "wikiextractor")
INPUT_FORMATS = ("auto", *FILE_KINDS, "dataset")
DECODING_ERRORS = ("strict", "replace", "ignore")

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error)
_BOM = b"\xef\xbb\xbf"
_BUFFER_BYTES = 1 << 16
_REPORT_LINES = 256  # lines between two reports of progress
_HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+(:[\w.-]+)?")
_FILE_EXTENSIONS = (".txt", ".gz", ".json", ".jsonl", ".tfrecord")
_DOC = re.compile(r"<doc\b[^\n]*>")
_DOC_TITLE = re.compile(r'\stitle="(.*)"\s*>')

_Part = str | None  # a sentence, or None: the document ends here


@dataclasses.dataclass(frozen=True)
class Source:
  """One input: a file or a HuggingFace dataset.

  Attributes:
    path: the file, the folder of a saved dataset, or a hub name with its `:config`.
    kind: one of FILE_KINDS, or "dataset".
    size: bytes on disk; 0 for a dataset from the hub.
  """

  path: str
  kind: str
  size: int = 0


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags of scripts that read text: which input, and how."""

  def define(name: str, default: str, text: str) -> None:
    flags.DEFINE_string(name, default, text, flag_values=values)

  define("input_file", "", "Text: comma-separated files, globs, folders saved by "
         "datasets.save_to_disk or hub names (owner/name:config).")
  define("input_format", "auto", f"{', '.join(INPUT_FORMATS)}.")
  define("text_field", "text", "Field of a JSON line, column of a dataset.")
  define("language", "en", "Whose rules cut running text into sentences.")
  define("errors", "strict", f"Bytes that are not UTF-8: {', '.join(DECODING_ERRORS)} (the "
         "original's scripts ignore them).")


# --- Finding --------------------------------------------------------------------------------


def find_sources(patterns: str, input_format: str = "auto",
                 what: str = "input_file") -> list[Source]:
  """Finds the inputs that a flag means.

  Args:
    patterns: comma-separated files, globs (`**` goes into folders), folders saved by
      `datasets.save_to_disk`, and hub names (`owner/name` or `owner/name:config`).
    input_format: one of INPUT_FORMATS. "auto" tells a file's format by its name and first line.
    what: the flag, for messages.

  Returns:
    The sources in the order of the patterns, a glob's files sorted, each once.

  Raises:
    UserError: an unknown format, a pattern that matches nothing, a folder of files.
  """
  if input_format not in INPUT_FORMATS:
    raise UserError(f"input_format {input_format!r} is not one of {', '.join(INPUT_FORMATS)}")
  wanted = [pattern for pattern in map(str.strip, patterns.split(",")) if pattern]
  if not wanted:
    raise UserError(f"{what} is blank; give text files, as in {what}='/data/*.txt'")
  found: dict[str, Source] = {}
  for pattern in wanted:
    for source in _matches(pattern, input_format, what):
      found.setdefault(os.path.realpath(source.path), source)  # a file may go by two names
  return list(found.values())


def _matches(pattern: str, input_format: str, what: str) -> list[Source]:
  path = os.path.expanduser(pattern)
  if os.path.isdir(path):
    return [_saved_dataset(path, what)]
  if os.path.exists(path):  # before the wildcards: a file's name may hold a bracket
    files = [path]
  else:
    files = sorted(file for file in glob.glob(path, recursive=True) if not os.path.isdir(file))
  if not files:
    if _HUB_NAME.fullmatch(pattern) and not pattern.endswith(_FILE_EXTENSIONS):
      return [Source(pattern, "dataset")]
    raise UserError(f"{what}: no file matches {pattern!r}")
  if input_format == "dataset":
    raise UserError(f"{what}: {files[0]} is a file; input_format=dataset takes a folder saved by "
                    "datasets.save_to_disk or a hub name such as wikimedia/wikipedia:20231101.en")
  return [Source(file, _kind(file) if input_format == "auto" else input_format,
                 os.path.getsize(file)) for file in files]


def _saved_dataset(folder: str, what: str) -> Source:
  path = pathlib.Path(folder)
  if not (path / "dataset_dict.json").exists() and not (path / "state.json").exists():
    raise UserError(f"{what}: {folder} is a folder; give its files: '{path}/*'")
  return Source(folder, "dataset", sum(f.stat().st_size for f in path.rglob("*.arrow")))


def _kind(file: str) -> str:
  if file.removesuffix(".gz").endswith((".jsonl", ".json")):
    return "jsonl"
  start = b""
  with open(file, "rb") as raw, contextlib.suppress(*_GZIP_ERRORS):  # reading names its line
    stream = _unzipped(raw)
    while not start and (line := stream.readline(_BUFFER_BYTES)):
      start = line.removeprefix(_BOM).lstrip()
  if start.startswith(b"<doc "):
    return "wikiextractor"
  return "jsonl" if start.startswith(b"{") else "lines"


def total_size(sources: Iterable[Source]) -> int:
  """Bytes on disk, compressed ones as they are; what `documents` reports adds up to this."""
  return sum(source.size for source in sources)


# --- Documents ------------------------------------------------------------------------------


def documents(sources: Sequence[Source], *, text_field: str = "text", language: str = "en",
              errors: str = "strict", longest: int | None = None,
              progress: Callable[[int], None] | None = None) -> Iterator[Document]:
  """Yields the documents of all sources in order, none empty.

  Args:
    sources: of `find_sources`.
    text_field: the field of a JSON line, or a dataset's column, that holds the text.
    language: ISO 639 code, by whose rules running text is cut into sentences.
    errors: "strict", "replace" or "ignore" bytes that are not UTF-8.
    longest: characters; a document with more is cut in several, between sentences. A document
      without an end then needs no memory without end.
    progress: is called with the bytes of input that were consumed since its last call.

  Raises:
    UserError: bytes that are not UTF-8, a damaged .gz, a line without the text field, and what
      else is wrong with a source: its file, its line, and what would be right.
  """
  if errors not in DECODING_ERRORS:
    raise UserError(f"errors {errors!r} is not one of {', '.join(DECODING_ERRORS)}")
  reader = _Reader(text_field, language, errors, progress or (lambda _: None))
  document: Document = []
  characters = 0
  for part in reader.parts(sources):
    if part is not None:
      full = longest is not None and characters + len(part) > longest
    if (part is None or full) and document:
      yield document
      document, characters = [], 0
    if part is not None:
      document.append(part)
      characters += len(part)
  if document:
    yield document


def blocks(documents: Iterable[Document], max_chars: int) -> Iterator[list[Document]]:
  """Groups consecutive documents; a group is full as soon as it has `max_chars` characters."""
  block: list[Document] = []
  characters = 0
  for document in documents:
    block.append(document)
    characters += sum(map(len, document))
    if characters >= max_chars:
      yield block
      block, characters = [], 0
  if block:
    yield block


@dataclasses.dataclass(frozen=True)
class _Reader:
  """Reads sources as streams of sentences, with None wherever a document ends."""

  text_field: str
  language: str
  errors: str
  progress: Callable[[int], None]

  def parts(self, sources: Sequence[Source]) -> Iterator[_Part]:
    readers = {"lines": self._plain_lines, "paragraphs": self._paragraphs, "jsonl": self._jsonl,
               "wikiextractor": self._wikiextractor, "dataset": self._dataset}
    for i, source in enumerate(sources):
      if i and not source.kind == sources[i - 1].kind == "lines":
        yield None
      yield from readers[source.kind](source)

  def _lines(self, source: Source) -> Iterator[tuple[int, str]]:
    """The stripped lines of a file with their numbers, from 1; only a \\n ends a line."""
    offset = reported = number = 0
    with open(source.path, "rb") as raw:
      try:
        for number, line in enumerate(_unzipped(raw), 1):
          if number == 1 and line.startswith(_BOM):
            line = line[len(_BOM):]
            offset += len(_BOM)
          try:
            text = line.decode("utf-8", self.errors)
          except UnicodeDecodeError as error:
            raise UserError(
                f"{source.path}, line {number}: byte 0x{line[error.start]:02x} is not UTF-8 "
                f"(offset {offset + error.start}); errors=replace goes on with U+FFFD in its "
                "place") from error
          yield number, text.strip()
          offset += len(line)
          if number % _REPORT_LINES == 0:
            self.progress(raw.tell() - reported)
            reported = raw.tell()
      except _GZIP_ERRORS as error:
        raise _damaged(source.path, number + 1, error) from error
      self.progress(raw.tell() - reported)

  def _sentences(self, paragraph: str) -> Iterator[str]:
    import sentencex  # here: text with one sentence a line does without it

    return filter(None, map(str.strip, sentencex.segment(self.language, paragraph)))

  def _text(self, text: str) -> Iterator[_Part]:
    """A whole document's text, one paragraph a line."""
    for paragraph in text.split("\n"):
      yield from self._sentences(paragraph)
    yield None

  def _plain_lines(self, source: Source) -> Iterator[_Part]:
    for _, line in self._lines(source):
      yield line or None

  def _paragraphs(self, source: Source) -> Iterator[_Part]:
    for _, line in self._lines(source):
      if line:
        yield from self._sentences(line)
      else:
        yield None

  def _wikiextractor(self, source: Source) -> Iterator[_Part]:
    inside, title = False, ""
    for number, line in self._lines(source):
      if not inside and not line:
        continue
      if line == "</doc>" or _DOC.fullmatch(line):
        yield None
        inside = line != "</doc>"
        match = _DOC_TITLE.search(line)
        title = html.unescape(match[1]) if match else ""
      elif not inside:
        raise UserError(f"{source.path}, line {number}: {line[:40]!r} stands outside of "
                        "<doc ...> and </doc>; input_format=lines reads it as plain text")
      elif line:
        text = html.unescape(line)
        if text != title:
          yield from self._sentences(text)
        title = ""  # only the first line can be the title

  def _jsonl(self, source: Source) -> Iterator[_Part]:
    for number, line in self._lines(source):
      if not line:
        continue
      where = f"{source.path}, line {number}"
      try:
        row = json.loads(line)
      except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}); input_format=lines reads it as plain "
                        "text") from error
      if not isinstance(row, dict):
        raise UserError(f"{where}: a line must be a JSON object, not {line[:40]}")
      yield from self._row(where, row)

  def _row(self, where: str, row: dict[str, Any]) -> Iterator[_Part]:
    """The text of a JSON line or of a dataset's row."""
    if self.text_field not in row:
      raise UserError(f"{where}: no field {self.text_field!r}; it has "
                      f"{', '.join(map(repr, row)) or 'none'}; name the one with the text: "
                      "text_field=NAME")
    text = row[self.text_field]
    if not isinstance(text, str):
      raise UserError(f"{where}: field {self.text_field!r} is {str(text)[:40]}, not a string; "
                      f"the fields are {', '.join(map(repr, row))}")
    return self._text(text)

  def _dataset(self, source: Source) -> Iterator[_Part]:
    rows = _load_dataset(source)
    reported = 0
    for number, row in enumerate(rows, 1):
      yield from self._row(f"{source.path}, row {number}", row)
      done = source.size * number // len(rows)
      if done > reported:
        self.progress(done - reported)
        reported = done


def _load_dataset(source: Source) -> Any:
  """A `datasets.Dataset`: the training split where there are splits."""
  if os.path.isdir(source.path):
    import datasets  # here: a second to import, and only datasets need it

    try:
      loaded = datasets.load_from_disk(source.path)
    except Exception as error:  # a damaged folder: pyarrow's, json's and datasets' own types
      raise UserError(f"{source.path} is no readable save_to_disk folder: "
                      f"{first_line(error)}") from error
  else:
    loaded = hub.load_dataset(*source.path.split(":"))
  if not isinstance(loaded, dict):  # a DatasetDict is one
    return loaded
  if "train" not in loaded:
    raise UserError(f"{source.path} has no split 'train'; it has {', '.join(map(repr, loaded))}")
  return loaded["train"]


# --- Bytes ----------------------------------------------------------------------------------


def _unzipped(raw: BinaryIO) -> BinaryIO:
  """The content of an open file; whether it is gzipped is told by its first bytes."""
  gzipped = raw.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
  raw.seek(0)
  return io.BufferedReader(gzip.GzipFile(fileobj=raw), _BUFFER_BYTES) if gzipped else raw


def _damaged(file: str, line: int, error: Exception) -> UserError:
  # What was unpacked but not yet cut into lines is lost, hence "soon after".
  return UserError(f"{file}, line {line} or soon after: the gzip file is cut off or damaged "
                   f"({first_line(error)})")
