"""A pre-training corpus on the disk: tokenized once into a cache, then memory-mapped.

Text becomes three arrays (tokens, first token of each sentence, first sentence of each
document), the original's TFRecords one array per feature. They are mapped rather than streamed
because batch t must be a pure function of (seed, t): any row is read by its number, at once.
"""

import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from typing import Any

import numpy as np

from pretraining import text, tfrecords, wordpieces
from support import files, stateless_random, workers
from support.errors import UserError
from support.reporting import progress_bar, say
from tokenization import Tokenizer

_VERSION = 1
_LONGEST_DOCUMENT = 1 << 24  # characters; longer ones are cut, to bound a worker's memory
_BLOCK = 1 << 20  # characters that are tokenized at a time
_CHUNK = 1 << 20  # documents that are split at a time
_BYTES_A_WORKER = 1 << 26  # input that makes one more process worth its start
_MOST_WORKERS = 16  # a single process cuts the sentences for all of them
_HOLDOUT_KEY = 0x5EED  # not config.seed: all runs hold out the same documents


@dataclasses.dataclass(frozen=True)
class TokenizedText:
  """Tokenized documents; all arrays are memory-mapped.

  Attributes:
    sources: the inputs' paths or hub names, for messages.
    digest: hash of the tokens.
    folder: the cache's.
    tokens: [tokens] uint16 or int32, without [CLS] and [SEP].
    sentences: [sentences + 1] int64, the first token of each, then the number of tokens.
    documents: [documents + 1] int64, the first sentence of each, then the number of sentences.
  """

  sources: tuple[str, ...]
  digest: str
  folder: pathlib.Path
  tokens: np.ndarray
  sentences: np.ndarray
  documents: np.ndarray


@dataclasses.dataclass(frozen=True)
class Part:
  """The training or the held-out documents of a text, cut into spans of sentences.

  Attributes:
    text: the whole text.
    documents: [documents of the part] int64, their numbers in the text, ascending.
    spans: [spans, 2] int64: first sentence and the one after the last; never across documents.
  """

  text: TokenizedText
  documents: np.ndarray
  spans: np.ndarray


@dataclasses.dataclass(frozen=True)
class Records:
  """Pre-training examples with their masks; all arrays are memory-mapped.

  Attributes:
    sources: the files, for messages.
    digest: hash of the records.
    features: name (`tfrecords.FEATURES`) -> [records, ...].
    largest_id: the largest token id in them.
  """

  sources: tuple[str, ...]
  digest: str
  features: dict[str, np.ndarray]
  largest_id: int

  def __len__(self) -> int:
    return len(self.features["next_sentence_labels"])

  @property
  def max_seq_length(self) -> int:
    return self.features["input_ids"].shape[1]


Corpus = TokenizedText | Records


@dataclasses.dataclass(frozen=True)
class Reading:
  """How to read text (see `text.find_sources` and `text.read_documents`) and where to cache it."""

  input_format: str
  text_field: str
  language: str
  errors: str
  cache_dir: str


def open_corpus(patterns: str, knob: str, tokenizer: Tokenizer, reading: Reading) -> Corpus:
  """Finds the inputs, tokenizes or decodes them into the cache unless it has them, and maps it.

  Args:
    patterns: comma-separated files, globs, saved datasets or hub names.
    knob: the name of the knob that holds the patterns, for messages.
    tokenizer: the model's.
    reading: how to read text, and the cache's folder.

  Raises:
    UserError: no input, an empty or bad one, or text mixed with records.
  """
  sources = text.find_sources(patterns, reading.input_format, knob)
  records, texts = [], []
  for source in sources:
    if source.kind == "dataset" or source.size:  # an empty file can be of either kind
      (records if _holds_records(source) else texts).append(source.path)
  if records and texts:
    raise UserError(f"{knob}: {records[0]} holds TFRecords and {texts[0]} does not; give one kind")
  if records:
    return _open_records(sources, knob, reading)
  return _open_text(sources, knob, tokenizer, reading)


def _holds_records(source: text.Source) -> bool:
  """Also checks the file name, so that a damaged TFRecord file is reported, not read as text."""
  return source.kind != "dataset" and (
      ".tfrecord" in os.path.basename(source.path) or tfrecords.is_tfrecord(source.path))


# --- Text -----------------------------------------------------------------------------------


def _open_text(sources: Sequence[text.Source], knob: str, tokenizer: Tokenizer,
               reading: Reading) -> TokenizedText:
  pieces = wordpieces.WordPieces(tokenizer.backend)
  folder = _cache_folder(sources, reading.cache_dir, pieces.fingerprint, reading.text_field,
                         reading.language, reading.errors)
  dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32)
  if not folder.exists():
    with _new_cache(folder) as temporary:
      _tokenize(sources, knob, pieces, reading, dtype, temporary)
  tokenized = TokenizedText(
      _paths(sources), _digest(folder), folder, _map(folder / "tokens", dtype),
      _map(folder / "sentences", np.int64), _map(folder / "documents", np.int64))
  if (tokenized.sentences[-1], tokenized.documents[-1]) != (
      len(tokenized.tokens), len(tokenized.sentences) - 1):
    raise _damaged_cache(folder)
  say(f"{knob}: {len(tokenized.documents) - 1:,} documents, "
      f"{len(tokenized.sentences) - 1:,} sentences, {len(tokenized.tokens):,} tokens in {folder}")
  return tokenized


def _tokenize(sources: Sequence[text.Source], knob: str, pieces: wordpieces.WordPieces,
              reading: Reading, dtype: np.dtype, folder: pathlib.Path) -> None:
  """Writes the arrays of a `TokenizedText` into the folder."""
  size = text.total_size(sources)
  say(f"{knob}: tokenizing {len(sources)} input{'s' if len(sources) > 1 else ''}"
      f"{f', {size / 1e6:,.1f} MB' if size else ''}, once ...")
  num_tokens = num_sentences = 0
  digest = hashlib.sha256()
  with (_appended(folder / "tokens", dtype) as add_tokens,
        _appended(folder / "sentences", np.int64) as add_sentences,
        _appended(folder / "documents", np.int64) as add_documents,
        progress_bar(size, "B") as progress):
    documents = text.read_documents(sources, text_field=reading.text_field,
                                    language=reading.language, errors=reading.errors,
                                    longest=_LONGEST_DOCUMENT, progress=progress)
    for ids, sentence_lengths, document_lengths in _tokenized_blocks(documents, size, pieces):
      add_tokens(ids)
      for array in (ids, sentence_lengths, document_lengths):
        digest.update(array.tobytes())
      add_sentences(num_tokens + np.cumsum(sentence_lengths) - sentence_lengths)
      add_documents(num_sentences + np.cumsum(document_lengths) - document_lengths)
      num_tokens += len(ids)
      num_sentences += len(sentence_lengths)
    add_sentences([num_tokens])
    add_documents([num_sentences])
  if not num_tokens:
    raise UserError(f"{knob}: no text in {', '.join(source.path for source in sources[:3])}"
                    f"{' ...' if len(sources) > 3 else ''}")
  (folder / "digest").write_text(digest.hexdigest()[:16], "utf-8")


_TokenizedBlock = tuple[np.ndarray, np.ndarray, np.ndarray]


def _tokenized_blocks(documents: Iterator[text.Document], size: int,
                      pieces: wordpieces.WordPieces) -> Iterator[_TokenizedBlock]:
  """Tokenizes blocks of documents, in order, with as many processes as the size is worth."""
  blocks = text.blocks(documents, _BLOCK)
  worth = size // _BYTES_A_WORKER if size else _MOST_WORKERS  # a dataset from the hub: be ready
  num_workers = max(min(os.cpu_count() or 1, _MOST_WORKERS, worth), 1)
  return workers.ordered_map(functools.partial(_tokenize_block, pieces), blocks, num_workers,
                             "free some")


def _tokenize_block(pieces: wordpieces.WordPieces, block: list[text.Document]) -> _TokenizedBlock:
  """Returns all ids, the tokens per sentence and the sentences per document, none of them 0."""
  ids, sentence_lengths, document_lengths = [], [], []
  for document in block:
    sentences = [sentence for sentence in pieces(document) if sentence]
    if sentences:
      ids += sentences
      sentence_lengths += map(len, sentences)
      document_lengths.append(len(sentences))
  flat = np.fromiter((i for sentence in ids for i in sentence), np.int32)
  return flat, np.asarray(sentence_lengths, np.int64), np.asarray(document_lengths, np.int64)


# --- Parts and spans of a text --------------------------------------------------------------


def part_of(tokenized: TokenizedText, held_out: bool, eval_fraction: float,
            target: int) -> Part:
  """Cuts the training or the held-out documents into runs of sentences that just reach `target`.

  `create_instances_from_document` of the original does the same; a document's last run may fall
  short. The same documents are held out in every run. The result is kept in the cache.

  Args:
    tokenized: the corpus.
    held_out: selects the held-out part.
    eval_fraction: share of the documents that is held out; 0 holds out none.
    target: tokens.

  Raises:
    UserError: there is only one document, so none can be held out.
  """
  name = f"{'held-out' if held_out else 'training'}-{eval_fraction!r}"
  documents = _cached(tokenized.folder / f"documents-{name}",
                      lambda: _document_numbers(tokenized, held_out, eval_fraction))
  spans = _cached(tokenized.folder / f"spans-{name}-{target}",
                  lambda: _spans(tokenized, documents, target), 2)
  return Part(tokenized, documents, spans)


def _cached(file: pathlib.Path, chunks: Callable[[], Iterable[Any]], *row: int) -> np.ndarray:
  """Maps an int64 file as [n, *row], which is first written from chunks if it is missing."""
  if not file.exists():
    with files.written_whole(file, shared=True) as temporary, _appended(temporary, np.int64) as add:
      for chunk in chunks():
        add(chunk)
  return _map(file, np.int64, *row)


def _document_numbers(tokenized: TokenizedText, held_out: bool,
                      eval_fraction: float) -> Iterator[np.ndarray]:
  """Yields the numbers of the part's documents, ascending, in several arrays."""
  total = len(tokenized.documents) - 1
  if eval_fraction and total < 2:
    raise UserError("train_files hold a single document, of which none can be held out; separate "
                    "documents by blank lines, or give --config.eval_files=FILES or "
                    "--config.eval_fraction=0")
  # At least two, if there are enough: the next-sentence task needs another document.
  least = 2 if total >= 4 else 1
  count = min(max(round(total * eval_fraction), least), total - 1) if eval_fraction else 0
  key = stateless_random.keys(_HOLDOUT_KEY)
  for start in range(0, total, _CHUNK):
    documents = np.arange(start, min(start + _CHUNK, total))
    yield documents[(stateless_random.permute(documents, total, key) < count) == held_out]


def _spans(tokenized: TokenizedText, documents: np.ndarray, target: int
           ) -> Iterator[list[tuple[int, int]]]:
  """Yields the spans of each document (`part_of`)."""
  say(f"cutting {len(documents):,} documents into spans of {target} tokens, once ...")
  begins, sentences = np.asarray(tokenized.documents), np.asarray(tokenized.sentences)
  with progress_bar(len(documents), "documents") as progress:
    for document in np.asarray(documents):
      first, end = int(begins[document]), int(begins[document + 1])
      yield [(first + a, first + b)
             for a, b in _spans_of_one(sentences[first:end + 1].tolist(), target)]
      progress(1)


def _spans_of_one(offsets: list[int], target: int) -> Iterator[tuple[int, int]]:
  """Cuts a document, given the first token of each sentence and, last, the document's end."""
  start, last = 0, len(offsets) - 1
  while start < last:
    end = min(bisect.bisect_left(offsets, offsets[start] + target, start + 1), last)
    yield start, end
    start = end


# --- Records --------------------------------------------------------------------------------


def _open_records(sources: Sequence[text.Source], knob: str, reading: Reading) -> Records:
  folder = _cache_folder(sources, reading.cache_dir, "records")
  if not folder.exists():
    with _new_cache(folder) as temporary:
      _decode(sources, knob, temporary)
  digest = _digest(folder)
  layout = json.loads((folder / "layout.json").read_text("utf-8"))
  features = {name: _map(folder / name, dtype, *row)
              for name, (dtype, row) in layout["arrays"].items()}
  records = Records(_paths(sources), digest, features, layout["largest_id"])
  if {len(value) for value in features.values()} != {len(records)}:
    raise _damaged_cache(folder)
  say(f"{knob}: {len(records):,} records of length {records.max_seq_length} in {folder}")
  return records


def _decode(sources: Sequence[text.Source], knob: str, folder: pathlib.Path) -> None:
  """Writes the arrays of a `Records` into the folder."""
  say(f"{knob}: decoding {len(sources)} TFRecord file{'s' if len(sources) > 1 else ''}, once ...")
  shapes: dict[str, tuple[str, list[int]]] = {}
  add: dict[str, Callable[[Any], None]] = {}
  largest = 0
  digest = hashlib.sha256()
  with contextlib.ExitStack() as opened:
    progress = opened.enter_context(progress_bar(text.total_size(sources), "B"))
    for source in sources:
      for records in tfrecords.read_records(source.path):
        found = {name: (value.dtype.str, list(value.shape[1:])) for name, value in records.items()}
        shapes = shapes or found
        if found != shapes:
          raise UserError(
              f"{source.path} holds records of length {found['input_ids'][1][0]} with "
              f"{found['masked_lm_ids'][1][0]} predictions, {sources[0].path} of length "
              f"{shapes['input_ids'][1][0]} with {shapes['masked_lm_ids'][1][0]}")
        for name, value in records.items():
          if name not in add:
            add[name] = opened.enter_context(_appended(folder / name, value.dtype))
          add[name](value)
          digest.update(value.tobytes())
        largest = max(largest, int(records["input_ids"].max()), int(records["masked_lm_ids"].max()))
      progress(source.size)
  if not shapes:
    raise UserError(f"{knob}: no records in {', '.join(s.path for s in sources[:3])}")
  layout = {"arrays": shapes, "largest_id": largest}
  (folder / "layout.json").write_text(json.dumps(layout), "utf-8")
  (folder / "digest").write_text(digest.hexdigest()[:16], "utf-8")


# --- The cache ------------------------------------------------------------------------------


def _cache_folder(sources: Sequence[text.Source], cache_dir: str, *more: Any) -> pathlib.Path:
  """Names the cache of these inputs in their present state: in cache_dir or beside the first."""
  state = json.dumps([_VERSION, [_state(source) for source in sources], *more])
  if cache_dir:
    parent = pathlib.Path(os.path.expanduser(cache_dir))
  elif os.path.exists(sources[0].path):
    parent = pathlib.Path(sources[0].path).resolve().parent / ".bert_cache"
  else:  # a dataset from the hub
    parent = pathlib.Path("~/.cache/bert_in_flax").expanduser()
  return parent / hashlib.sha256(state.encode()).hexdigest()[:16]


def _state(source: text.Source) -> list[Any]:
  """Returns values that change when the input does; for a folder, its newest file's time."""
  path = pathlib.Path(source.path)
  if not path.exists():
    return [source.path, source.kind]
  found = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
  return [os.path.realpath(path), source.kind, sum(file.stat().st_size for file in found),
          max(file.stat().st_mtime_ns for file in found)]


def _paths(sources: Sequence[text.Source]) -> tuple[str, ...]:
  return tuple(os.path.realpath(s.path) if os.path.exists(s.path) else s.path for s in sources)


@contextlib.contextmanager
def _new_cache(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a temporary folder to fill, which becomes the cache; another process may be first."""
  with contextlib.ExitStack() as stack:
    try:
      temporary = stack.enter_context(files.written_whole(folder, shared=True))
      temporary.mkdir()
    except OSError as error:
      raise UserError(f"{folder.parent} cannot be written ({error.strerror}); name another place "
                      "for the cache: --config.cache_dir=DIR") from error
    yield temporary


@contextlib.contextmanager
def _appended(file: pathlib.Path, dtype: Any) -> Iterator[Callable[[Any], None]]:
  """Opens an array file for appending; yields the append function."""
  try:
    with file.open("wb") as stream:
      yield lambda values: stream.write(np.ascontiguousarray(values, dtype).tobytes())
  except OSError as error:  # a full disk's error, for one, has no file name
    error.filename = error.filename or str(file)
    raise


def _map(file: pathlib.Path, dtype: Any, *row: int) -> np.ndarray:
  """Maps a file of `_appended` as [n, *row]."""
  if not file.stat().st_size:
    return np.empty((0, *row), dtype)
  return np.memmap(file, dtype, "r").reshape(-1, *row)


def _digest(folder: pathlib.Path) -> str:
  try:
    return (folder / "digest").read_text("utf-8")
  except OSError as error:
    raise _damaged_cache(folder) from error


def _damaged_cache(folder: pathlib.Path) -> UserError:
  return UserError(f"the cache {folder} is damaged; delete it and rerun")
