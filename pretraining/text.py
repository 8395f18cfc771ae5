"""Text files in, documents of sentences out.

A document is a list of sentences, each a stripped, non-empty string. The input formats:

  lines          one sentence a line, a blank line between documents, as for the original's
                 create_pretraining_data.py; the end of a file does not end a document
  paragraphs     running text, one paragraph a line; a blank line or the file's end ends a document
  jsonl          one JSON object a line, whose text field is a document (WikiExtractor --json too)
  wikiextractor  `<doc ... title="...">`, the title, one paragraph a line, `</doc>`
  dataset        a HuggingFace dataset by name or saved by save_to_disk; a row is a document

Files may be gzipped. Text is streamed: at most one document is held in memory.
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
_PROGRESS_LINES = 256  # lines between two calls of `progress`
_HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+(:[\w.-]+)?")
_FILE_EXTENSIONS = (".txt", ".gz", ".json", ".jsonl", ".tfrecord")
_DOC = re.compile(r"<doc\b[^\n]*>")
_DOC_TITLE = re.compile(r'\stitle="(.*)"\s*>')

_SentenceOrEnd = str | None  # None ends the document


@dataclasses.dataclass(frozen=True)
class Source:
  """One input: a file or a HuggingFace dataset.

  Attributes:
    path: the file, the folder of a saved dataset, or a hub name, perhaps with `:config`.
    kind: one of FILE_KINDS, or "dataset".
    size: bytes on disk; 0 for a dataset from the hub.
  """

  path: str
  kind: str
  size: int = 0


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags of scripts that read text: the input files and how to read them."""

  def define(name: str, default: str, meaning: str) -> None:
    flags.DEFINE_string(name, default, meaning, flag_values=values)

  define("input_file", "", "Text: comma-separated files, globs, folders saved by "
         "datasets.save_to_disk or hub names (owner/name:config).")
  define("input_format", "auto", f"{', '.join(INPUT_FORMATS)}.")
  define("text_field", "text", "The field of a JSON line, or the column of a dataset, that holds "
         "the text.")
  define("language", "en", "The language whose rules cut running text into sentences.")
  define("errors", "strict", f"Bytes that are not UTF-8: {', '.join(DECODING_ERRORS)} (the "
         "original's scripts ignore them).")


# --- Finding --------------------------------------------------------------------------------


def find_sources(patterns: str, input_format: str = "auto",
                 flag: str = "input_file") -> list[Source]:
  """Finds the inputs that a flag names.

  Args:
    patterns: comma-separated files, globs (`**` goes into folders), folders saved by
      `datasets.save_to_disk`, and hub names (`owner/name` or `owner/name:config`).
    input_format: one of INPUT_FORMATS. "auto" detects it from a file's name and first line.
    flag: the flag's name, for messages.

  Returns:
    The sources, without duplicates, in the order of the patterns; a glob's files are sorted.

  Raises:
    UserError: an unknown format, a pattern that matches nothing, a folder of files.
  """
  if input_format not in INPUT_FORMATS:
    raise UserError(f"input_format {input_format!r} is not one of {', '.join(INPUT_FORMATS)}")
  wanted = [pattern for pattern in map(str.strip, patterns.split(",")) if pattern]
  if not wanted:
    raise UserError(f"{flag} is blank; give text files, as in {flag}='/data/*.txt'")
  found: dict[str, Source] = {}
  for pattern in wanted:
    for source in _matches(pattern, input_format, flag):
      found.setdefault(os.path.realpath(source.path), source)  # a file may have two names
  return list(found.values())


def _matches(pattern: str, input_format: str, flag: str) -> list[Source]:
  path = os.path.expanduser(pattern)
  if os.path.isdir(path):
    return [_saved_dataset(path, flag)]
  if os.path.exists(path):  # checked before globbing: a file's name may contain a bracket
    files = [path]
  else:
    files = sorted(file for file in glob.glob(path, recursive=True) if not os.path.isdir(file))
  if not files:
    if _HUB_NAME.fullmatch(pattern) and not pattern.endswith(_FILE_EXTENSIONS):
      return [Source(pattern, "dataset")]
    raise UserError(f"{flag}: no file matches {pattern!r}")
  if input_format == "dataset":
    raise UserError(f"{flag}: {files[0]} is a file; input_format=dataset takes a folder saved by "
                    "datasets.save_to_disk or a hub name such as wikimedia/wikipedia:20231101.en")
  return [Source(file, _detect_kind(file) if input_format == "auto" else input_format,
                 os.path.getsize(file)) for file in files]


def _saved_dataset(folder: str, flag: str) -> Source:
  path = pathlib.Path(folder)
  if not (path / "dataset_dict.json").exists() and not (path / "state.json").exists():
    raise UserError(f"{flag}: {folder} is a folder; give its files: '{path}/*'")
  return Source(folder, "dataset", sum(f.stat().st_size for f in path.rglob("*.arrow")))


def _detect_kind(file: str) -> str:
  if file.removesuffix(".gz").endswith((".jsonl", ".json")):
    return "jsonl"
  start = b""
  with open(file, "rb") as raw, contextlib.suppress(*_GZIP_ERRORS):  # reported when read, by line
    stream = _unzipped(raw)
    while not start and (line := stream.readline(_BUFFER_BYTES)):
      start = line.removeprefix(_BOM).lstrip()
  if start.startswith(b"<doc "):
    return "wikiextractor"
  return "jsonl" if start.startswith(b"{") else "lines"


def total_size(sources: Iterable[Source]) -> int:
  """Returns the bytes on disk (compressed, if so): the sum of all progress of `read_documents`."""
  return sum(source.size for source in sources)


# --- Documents ------------------------------------------------------------------------------


def read_documents(sources: Sequence[Source], *, text_field: str = "text", language: str = "en",
                   errors: str = "strict", longest: int | None = None,
                   progress: Callable[[int], None] | None = None) -> Iterator[Document]:
  """Yields the documents of all sources in order, none empty.

  Args:
    sources: from `find_sources`.
    text_field: the field of a JSON line, or a dataset's column, that holds the text.
    language: ISO 639 code of the language whose rules cut running text into sentences.
    errors: what to do with bytes that are not UTF-8: "strict", "replace" or "ignore".
    longest: maximum characters of a document; a longer one is cut between sentences, which
      bounds the memory.
    progress: called with the bytes of input that were consumed since the last call.

  Raises:
    UserError: a source is bad (bytes that are not UTF-8, a damaged .gz, a line without the text
      field, ...); names the file, the line and the remedy.
  """
  if errors not in DECODING_ERRORS:
    raise UserError(f"errors {errors!r} is not one of {', '.join(DECODING_ERRORS)}")
  reader = _Reader(text_field, language, errors, progress or (lambda _: None))
  document: Document = []
  characters = 0
  for sentence in reader.sentences(sources):
    if sentence is not None:
      full = longest is not None and characters + len(sentence) > longest
    if (sentence is None or full) and document:
      yield document
      document, characters = [], 0
    if sentence is not None:
      document.append(sentence)
      characters += len(sentence)
  if document:
    yield document


def blocks(documents: Iterable[Document], max_chars: int) -> Iterator[list[Document]]:
  """Yields blocks of consecutive documents; a block ends once it has `max_chars` characters."""
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
  """Reads sources as a stream of sentences, with a None at the end of each document."""

  text_field: str
  language: str
  errors: str
  progress: Callable[[int], None]

  def sentences(self, sources: Sequence[Source]) -> Iterator[_SentenceOrEnd]:
    readers = {"lines": self._plain_lines, "paragraphs": self._paragraphs, "jsonl": self._jsonl,
               "wikiextractor": self._wikiextractor, "dataset": self._dataset}
    for i, source in enumerate(sources):
      if i and not source.kind == sources[i - 1].kind == "lines":
        yield None
      yield from readers[source.kind](source)

  def _lines(self, source: Source) -> Iterator[tuple[int, str]]:
    """Yields a file's line numbers, from 1, and stripped lines; only \\n ends a line."""
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
          if number % _PROGRESS_LINES == 0:
            self.progress(raw.tell() - reported)
            reported = raw.tell()
      except _GZIP_ERRORS as error:
        raise _damaged_gzip(source.path, number + 1, error) from error
      self.progress(raw.tell() - reported)

  def _cut(self, paragraph: str) -> Iterator[str]:
    """Yields the sentences of a paragraph."""
    import sentencex  # here: input with one sentence a line does not need it

    return filter(None, map(str.strip, sentencex.segment(self.language, paragraph)))

  def _whole_document(self, content: str) -> Iterator[_SentenceOrEnd]:
    """Reads the text of one document, one paragraph a line."""
    for paragraph in content.split("\n"):
      yield from self._cut(paragraph)
    yield None

  def _plain_lines(self, source: Source) -> Iterator[_SentenceOrEnd]:
    for _, line in self._lines(source):
      yield line or None

  def _paragraphs(self, source: Source) -> Iterator[_SentenceOrEnd]:
    for _, line in self._lines(source):
      if line:
        yield from self._cut(line)
      else:
        yield None

  def _wikiextractor(self, source: Source) -> Iterator[_SentenceOrEnd]:
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
        paragraph = html.unescape(line)
        if paragraph != title:
          yield from self._cut(paragraph)
        title = ""  # only the first line can be the title

  def _jsonl(self, source: Source) -> Iterator[_SentenceOrEnd]:
    for number, line in self._lines(source):
      if not line:
        continue
      place = f"{source.path}, line {number}"
      try:
        row = json.loads(line)
      except ValueError as error:
        raise UserError(f"{place}: not JSON ({error}); input_format=lines reads it as plain "
                        "text") from error
      if not isinstance(row, dict):
        raise UserError(f"{place}: a line must be a JSON object, not {line[:40]}")
      yield from self._row(place, row)

  def _row(self, place: str, row: dict[str, Any]) -> Iterator[_SentenceOrEnd]:
    """Reads the document in a JSON line or a dataset's row; `place` is for messages."""
    if self.text_field not in row:
      raise UserError(f"{place}: no field {self.text_field!r}; it has "
                      f"{', '.join(map(repr, row)) or 'none'}; name the one with the text: "
                      "text_field=NAME")
    content = row[self.text_field]
    if not isinstance(content, str):
      raise UserError(f"{place}: field {self.text_field!r} is {str(content)[:40]}, not a string; "
                      f"the fields are {', '.join(map(repr, row))}")
    return self._whole_document(content)

  def _dataset(self, source: Source) -> Iterator[_SentenceOrEnd]:
    rows = _open_dataset(source)
    reported = 0
    for number, row in enumerate(rows, 1):
      yield from self._row(f"{source.path}, row {number}", row)
      done = source.size * number // len(rows)
      if done > reported:
        self.progress(done - reported)
        reported = done


def _open_dataset(source: Source) -> Any:
  """Loads a `datasets.Dataset`; of several splits, the training split."""
  if os.path.isdir(source.path):
    import datasets  # here: importing it takes a second, and only datasets need it

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
  """Returns a stream of an open file's content, unzipped if the first bytes are gzip's."""
  gzipped = raw.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
  raw.seek(0)
  return io.BufferedReader(gzip.GzipFile(fileobj=raw), _BUFFER_BYTES) if gzipped else raw


def _damaged_gzip(file: str, line: int, error: Exception) -> UserError:
  # "Soon after", because lines that were unpacked but not yet read are lost.
  return UserError(f"{file}, line {line} or soon after: the gzip file is cut off or damaged "
                   f"({first_line(error)})")
