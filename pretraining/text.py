"""Text files in, documents of sentences out.

A document is a list of sentences, each a stripped, non-empty string. The input formats:

  lines          one sentence a line, a blank line between documents, as for the original's
                 create_pretraining_data.py; the end of a file does not end a document
  paragraphs     running text, one paragraph a line; a blank line or the file's end ends a document
  jsonl          one JSON object a line, whose text field is a document (WikiExtractor --json too)
  wikiextractor  `<doc ... title="...">`, the title, one paragraph a line, `</doc>`
  csv, tsv       a header, then one document a row, in its text column; quotes mean nothing in tsv
  parquet        one document a row, in its text column
  dataset        a HuggingFace dataset by name or saved by save_to_disk; a row is a document

Files may be gzipped, but for parquet. Text is streamed: at most one document is held in memory,
and no line may be longer than 16 MB.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import csv
import dataclasses
import glob
import gzip
import html
import io
import itertools
import json
import os
import pathlib
import re
from typing import Any, BinaryIO
import zlib

from absl import flags

from pretraining import tfrecords
from support import hub
from support.errors import first_line, shown, UserError

Document = list[str]

FILE_KINDS = ("lines", "paragraphs", "jsonl", "wikiextractor", "csv", "tsv", "parquet")
INPUT_FORMATS = ("auto", *FILE_KINDS, "dataset")
DECODING_ERRORS = ("strict", "replace", "ignore")

_LONGEST_LINE = 1 << 24  # bytes: a .gz of 100 kB can hold a line of 100 MB
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error)
_BOM = b"\xef\xbb\xbf"
_BUFFER_BYTES = 1 << 16
_PARQUET_ROWS = 64  # that are held at a time
_PIECE = 10_000  # characters of a paragraph that are cut into sentences at a time
_PROGRESS_LINES = 256  # lines between two calls of `progress`
_HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+(:[\w.-]+)?")
_FILE_EXTENSIONS = (".txt", ".gz", ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".tfrecord")
_KINDS_BY_NAME = {".jsonl": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv"}
_PARQUET = re.compile(rb"PAR1\x15")  # the byte begins its first structure
_MARKUP = re.compile(
    rb"(?i)<(!--|(!doctype|\?xml|html|head|body|title|meta|div|span|p|a|h[1-6]|ul|ol|table|script|"
    rb"style|article|section|svg|rss|feed|tei|teicorpus|mediawiki|page|corpus|text|doc)[\s/>])")
_JSON_ARRAY = re.compile(rb"""\[\s*(\{\s*"|\[?\s*"(\\.|[^"\\\n])*"\s*[,\]])""")
# The first bytes of files that are not text: (their pattern, their name, the remedy).
_UNPACK, _GIVE, _SAVE = "unpack it", "give a text file", "save it as text"
_NO_TEXT = tuple((re.compile(start, re.DOTALL), name, remedy) for start, name, remedy in (
    (rb"BZh[1-9][1\x17]", "bzip2", _UNPACK),
    (rb"\xfd7zXZ\x00", "xz", _UNPACK),
    (rb"\x28\xb5\x2f\xfd", "zstd", _UNPACK),
    (rb"\x04\x22\x4d\x18", "lz4", _UNPACK),
    (_GZIP_MAGIC, "gzip inside gzip", _UNPACK),
    (rb"\x1f\x9d|\x5d\x00\x00", "compressed data", _UNPACK),
    (rb"PK(\x03\x04|\x05\x06|\x07\x08)|7z\xbc\xaf|Rar!\x1a", "an archive or an office document",
     "unpack it, or save it as text"),
    (rb"\x89PNG|GIF8[79]a|\xff\xd8\xff|II\*\x00|MM\x00\*|RIFF.{4}WEBP", "an image", _GIVE),
    (rb"RIFF.{4}(WAVE|AVI )|ID3[\x02-\x04]|OggS\x00|fLaC\x00|\x00.{3}ftyp", "sound or film",
     _GIVE),
    (rb"\x7fELF|\x00asm|\xca\xfe\xba\xbe", "a program", _GIVE),
    (rb"\x80[\x02-\x05]", "a Python pickle", _SAVE),
    (rb"\x93NUMPY|\x89HDF|.{3}\x00{5}\{\"", "arrays", _SAVE),
    (rb"SQLite format 3\x00", "a database", _SAVE),
    (rb".{257}ustar", "a tar archive", _UNPACK),
    (rb"%PDF-|\{\\rtf|\xd0\xcf\x11\xe0", "a PDF or an office document", _SAVE),
    (rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff", "UTF-32", "convert it: iconv -f UTF-32 -t UTF-8"),
    (rb"\xff\xfe|\xfe\xff", "UTF-16", "convert it: iconv -f UTF-16 -t UTF-8"),
    (_PARQUET.pattern, "parquet", "it is read without gzip, by input_format=parquet"),
    (rb"version https://git-lfs\.", "a pointer to the file (Git LFS)", "fetch it: git lfs pull"),
    (rb"ARROW1\x00", "Arrow", "give its save_to_disk folder, or save it as parquet")))
_SURROGATE = re.compile("[\ud800-\udfff]")
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
  define("text_field", "text", "The field of a JSON line, or the column of a table or dataset, "
         "that holds the text.")
  define("language", "en", "The language whose rules cut running text into sentences.")
  define("errors", "strict", f"Bytes that are not UTF-8: {', '.join(DECODING_ERRORS)} (the "
         "original's scripts ignore them).")


# --- Finding --------------------------------------------------------------------------------


def find_sources(patterns: str, input_format: str = "auto",
                 flag: str = "input_file") -> list[Source]:
  """Finds the inputs that a flag names.

  Args:
    patterns: comma-separated files, globs (`**` goes into folders), folders saved by
      `datasets.save_to_disk`, and hub names (`owner/name` or `owner/name:config`). The name of
      an existing file or folder is no pattern, whatever its characters.
    input_format: one of INPUT_FORMATS. "auto" detects it from a file's name and first line.
    flag: the flag's name, for messages.

  Returns:
    The sources, without duplicates, in the order of the patterns; a glob's files are sorted.

  Raises:
    UserError: an unknown format, a pattern that matches nothing, a folder of files.
  """
  if input_format not in INPUT_FORMATS:
    raise UserError(f"input_format {input_format!r} is not one of {', '.join(INPUT_FORMATS)}")
  wanted = [patterns] if any(_paths(patterns)) else [  # a folder's name may contain a comma
      pattern for pattern in map(str.strip, patterns.split(",")) if pattern]
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
  files = sorted(file for file in _paths(pattern) if not os.path.isdir(file))
  if not files:
    if _HUB_NAME.fullmatch(pattern) and not pattern.endswith(_FILE_EXTENSIONS):
      return [Source(pattern, "dataset")]
    raise UserError(f"{flag}: no file matches {pattern!r}")
  for file in files:
    if not os.path.isfile(file):  # it is read more than once
      raise UserError(f"{flag}: {file} is a pipe or a device; give a file")
  if input_format == "dataset":
    raise UserError(f"{flag}: {files[0]} is a file; input_format=dataset takes a folder saved by "
                    "datasets.save_to_disk or a hub name such as wikimedia/wikipedia:20231101.en")
  return [Source(file, _detect_kind(file) if input_format == "auto" else input_format,
                 os.path.getsize(file)) for file in files]


def _paths(pattern: str) -> Iterator[str]:
  """Yields what a pattern matches; what exists by its name, a file or a folder, is no pattern."""
  path = existing = os.path.expanduser(pattern)
  while existing and not os.path.exists(existing):
    existing = os.path.dirname(existing)
  return glob.iglob(glob.escape(existing) + path[len(existing):], recursive=True)


def _saved_dataset(folder: str, flag: str) -> Source:
  path = pathlib.Path(folder)
  if not (path / "dataset_dict.json").exists() and not (path / "state.json").exists():
    raise UserError(f"{flag}: {folder} is a folder; give its files: '{path}/*'")
  return Source(folder, "dataset", sum(f.stat().st_size for f in path.rglob("*.arrow")))


def _detect_kind(file: str) -> str:
  name = file.lower()
  if name.endswith(".parquet"):
    return "parquet"
  if kind := _KINDS_BY_NAME.get(os.path.splitext(name.removesuffix(".gz"))[1]):
    return kind
  start = b""
  with open(file, "rb") as raw, contextlib.suppress(*_GZIP_ERRORS):  # reported when read, by line
    stream = _unzipped(raw)
    while not start and (content := stream.read(_BUFFER_BYTES)):
      start = _stripped(content)
  if start.startswith(b"<doc id="):
    return "wikiextractor"
  as_it_is = "input_format=lines reads it as it is"
  if _MARKUP.match(start):
    raise UserError(f"{file} holds HTML or XML, not text; extract its text first (WikiExtractor "
                    f"does so for a dump of Wikipedia); {as_it_is}")
  if _JSON_ARRAY.match(start):
    raise UserError(f"{file} holds a JSON array, not text; make a line of each of its objects: "
                    f"jq -c '.[]' FILE > NEW.jsonl; {as_it_is}")
  if _PARQUET.match(start) and stream is raw:
    return "parquet"
  return "jsonl" if start.startswith(b"{") and not start.startswith(b"{\\rtf") else "lines"


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
               "wikiextractor": self._wikiextractor, "csv": self._table, "tsv": self._table,
               "parquet": self._parquet, "dataset": self._dataset}
    for i, source in enumerate(sources):
      if i and not source.kind == sources[i - 1].kind == "lines":
        yield None
      yield from readers[source.kind](source)

  def _lines(self, source: Source) -> Iterator[tuple[int, str]]:
    """Yields a file's line numbers, from 1, and stripped lines; only \\n ends a line."""
    return ((number, line.strip()) for number, line in self._whole_lines(source))

  def _whole_lines(self, source: Source) -> Iterator[tuple[int, str]]:
    """Yields a file's line numbers, from 1, and lines as they are, but for a byte order mark."""
    offset = reported = number = 0
    with open(source.path, "rb", _BUFFER_BYTES) as raw:
      try:
        stream = _unzipped(raw)
        _check_is_text(source.path, stream.peek(_BUFFER_BYTES))
        for number, line in enumerate(iter(lambda: stream.readline(_LONGEST_LINE), b""), 1):
          if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
            raise UserError(f"{source.path}, line {number}: longer than {_LONGEST_LINE:,} bytes; "
                            "break it into shorter lines or documents")
          if number == 1 and line.startswith(_BOM):
            line = line[len(_BOM):]
            offset += len(_BOM)
          yield number, self._decoded(line, f"{source.path}, line {number}", offset)
          offset += len(line)
          if number % _PROGRESS_LINES == 0:
            self.progress(raw.tell() - reported)
            reported = raw.tell()
      except _GZIP_ERRORS as error:
        raise _damaged_gzip(source.path, number + 1, error) from error
      self.progress(raw.tell() - reported)

  def _decoded(self, content: bytes, place: str, offset: int = 0) -> str:
    """Decodes UTF-8; `place` and the content's offset in the file are for messages."""
    try:
      return content.decode("utf-8", self.errors)
    except UnicodeDecodeError as error:
      bad = content.decode("utf-8", "replace").count("\ufffd")
      advice = ("is this a text file?" if bad > len(content) // 5 else
                "iconv -f LATIN1 -t UTF-8 converts a file of another encoding; errors=replace "
                "reads stray bytes as U+FFFD")
      raise UserError(f"{place}: byte 0x{content[error.start]:02x} is not UTF-8 (offset "
                      f"{offset + error.start}); {advice}") from error

  def _cut(self, paragraph: str) -> Iterator[str]:
    """Yields the sentences of a paragraph; one longer than _PIECE is cut at a space, or within."""
    import sentencex  # here: input with one sentence a line does not need it

    start = 0
    while start < len(paragraph):  # piece by piece: the time for one may grow quadratically
      piece = paragraph[start:start + _PIECE]
      sentences = list(sentencex.segment(self.language, piece))  # together they are the piece
      if start + len(piece) < len(paragraph):
        sentences = sentences[:-1] or [piece.rpartition(" ")[0] or piece]  # the last may go on
      yield from filter(None, map(str.strip, sentences))
      start += sum(map(len, sentences))

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
        raise UserError(f"{source.path}, line {number}: {shown(line)} stands outside of "
                        "<doc ...> and </doc>; is this all WikiExtractor's output?")
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
      except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not JSON ({first_line(error)}); a line must be a JSON object "
                        "with the text; jq -c . FILE makes lines of objects, jq -c '.[]' FILE of "
                        "an array") from error
      if not isinstance(row, dict):
        raise UserError(f"{place}: a line must be a JSON object, not {shown(row)}"
                        + ("; jq -c '.[]' FILE makes lines of an array" * isinstance(row, list)))
      yield from self._row(place, row)

  def _table(self, source: Source) -> Iterator[_SentenceOrEnd]:
    """Reads csv or tsv by the column `text_field`."""
    lines = (line for _, line in self._whole_lines(source))
    csv.field_size_limit(_LONGEST_LINE)  # a quote that never closes would take the whole file
    rows = (csv.reader(lines, strict=True) if source.kind == "csv" else
            csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    try:
      header = [name.strip() for name in next(rows, ())]
      if header.count(self.text_field) > 1:
        raise UserError(f"{source.path}: two columns are called {self.text_field!r}")
      for row in filter(None, rows):  # a blank line is no row
        place = f"{source.path}, line {rows.line_num}"
        if len(row) != len(header):
          raise UserError(f"{place}: a row of {len(row)} fields under a header of {len(header)}")
        yield from self._row(place, dict(zip(header, row, strict=True)))
    except csv.Error as error:
      raise UserError(
          f"{source.path}, line {rows.line_num}: not {source.kind} ({error})") from error

  def _row(self, place: str, row: dict[str, Any]) -> Iterator[_SentenceOrEnd]:
    """Reads the document in a JSON line or a table's row; `place` is for messages."""
    if self.text_field not in row:
      raise self._no_field(place, row)
    content = row[self.text_field]
    if not isinstance(content, str):
      raise UserError(f"{place}: field {self.text_field!r} is {shown(content)}, not a string; "
                      f"the fields are {', '.join(map(repr, row))}")
    if found := _SURROGATE.search(content):  # JSON can spell half of a character
      if self.errors == "strict":
        raise UserError(f"{place}: field {self.text_field!r} holds {found[0]!a}, half of a "
                        "character (a lone surrogate); errors=replace reads it as U+FFFD")
      content = _SURROGATE.sub("\ufffd" if self.errors == "replace" else "", content)
    return self._whole_document(content)

  def _no_field(self, place: str, names: Iterable[str]) -> UserError:
    return UserError(f"{place}: no field {self.text_field!r}; it has "
                     f"{', '.join(map(repr, names)) or 'none'}; name the one with the text: "
                     "text_field=NAME")

  def _parquet(self, source: Source) -> Iterator[_SentenceOrEnd]:
    import pyarrow.parquet  # here: other input does not need it

    try:
      file = pyarrow.parquet.ParquetFile(source.path)
      yield from self._rows(source, self._parquet_rows(source.path, file), file.metadata.num_rows)
    except (pyarrow.ArrowException, OSError) as error:
      raise UserError(f"{source.path} is no readable parquet file: {first_line(error)}") from error

  def _parquet_rows(self, path: str, file: Any) -> Iterator[dict[str, str | None]]:
    """Yields the text column of an open `pyarrow.parquet.ParquetFile`, row by row."""
    import pyarrow

    if file.schema_arrow.names.count(self.text_field) != 1:
      raise self._no_field(path, file.schema_arrow.names)
    numbers = itertools.count(1)
    for batch in file.iter_batches(_PARQUET_ROWS, columns=[self.text_field]):
      column = batch.column(0)
      if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
      if column.type not in (pyarrow.string(), pyarrow.large_string()):
        raise UserError(f"{path}: column {self.text_field!r} holds {column.type}, not text")
      for value in column.cast(pyarrow.large_binary()).to_pylist():
        place = f"{path}, row {next(numbers)}"
        yield {self.text_field: None if value is None else self._decoded(value, place)}

  def _dataset(self, source: Source) -> Iterator[_SentenceOrEnd]:
    rows = _open_dataset(source)
    if self.text_field not in rows.column_names:
      raise self._no_field(source.path, rows.column_names)
    # The other columns may be images, which would be decoded.
    yield from self._rows(source, rows.select_columns([self.text_field]), len(rows))

  def _rows(self, source: Source, rows: Iterable[dict[str, Any]],
            total: int) -> Iterator[_SentenceOrEnd]:
    """Reads the documents of a table whose rows have no lines."""
    reported = 0
    for number, row in enumerate(rows, 1):
      yield from self._row(f"{source.path}, row {number}", row)
      done = source.size * number // total
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


def _stripped(start: bytes) -> bytes:
  """Returns a file's first bytes without byte order mark and white space before its content."""
  return start.removeprefix(_BOM).lstrip()


def _check_is_text(path: str, start: bytes) -> None:
  """Raises a UserError if a file's first bytes, unzipped, are not those of a text."""
  for pattern, name, remedy in _NO_TEXT:
    if pattern.match(_stripped(start)):
      raise UserError(f"{path} holds {name}, not text; {remedy}")
  if tfrecords.begins_record(start):
    raise UserError(f"{path} holds TFRecords, not text; run_pretraining.py reads them, without "
                    "gzip")
  even, odd = start[::2].count(0), start[1::2].count(0)
  if even + odd > len(start) // 20:  # some crawled texts have a few, which BERT deletes
    if 20 * min(even, odd) > even + odd:
      raise UserError(f"{path} holds binary data, not text: {even + odd} of its first "
                      f"{len(start)} bytes are 0")
    raise UserError(f"{path} holds UTF-16, not text: every other byte of many is 0; convert it: "
                    f"iconv -f UTF-16{'LE' if odd > even else 'BE'} -t UTF-8")
  bad = len(start) - len(start.decode("utf-8", "ignore").encode())
  if bad > len(start) // 10:
    raise UserError(f"{path} is no UTF-8 text: {bad} of its first {len(start)} bytes are not "
                    "UTF-8; for a text of another encoding: iconv -f ENCODING -t UTF-8")
  content = _stripped(start).rstrip()
  if b"\r" in content and b"\n" not in content:
    raise UserError(f"{path} ends its lines with \\r alone, as old Macs did; convert it: "
                    "tr '\\r' '\\n' < FILE > NEW")


def _damaged_gzip(file: str, line: int, error: Exception) -> UserError:
  # "Soon after", because lines that were unpacked but not yet read are lost.
  return UserError(f"{file}, line {line} or soon after: the gzip file is cut off or damaged "
                   f"({first_line(error)})")
