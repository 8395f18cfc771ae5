"""A pre-training corpus on the disk: tokenized once into a cache, then memory-mapped.

Text becomes three arrays (tokens, where sentences begin, where documents begin), the original's
TFRecords become one array a feature. Neither is read into memory: an example is fetched by its
number from wherever it lies, and the operating system keeps what is often used.
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
import shutil
import tempfile
from typing import Any

import numpy as np

from data import vocabulary_size
from pretraining import text, tfrecords, wordpieces
from support import stateless_random, workers
from support.errors import UserError
from support.reporting import progress_bar, say

_VERSION = 1
_LONGEST_DOCUMENT = 1 << 24  # characters; longer ones are cut, for the memory of one worker
_BLOCK = 1 << 20  # characters that are tokenized at a time
_CHUNK = 1 << 20  # documents looked at together
_BYTES_A_WORKER = 1 << 26  # input that is worth the start of one more process
_MOST_WORKERS = 16  # one process cuts the sentences for all of them
_HOLDOUT_KEY = 0x5EED  # not config.seed: all runs hold out the same documents


@dataclasses.dataclass(frozen=True)
class TokenizedText:
  """Tokenized documents; all arrays are memory-mapped.

  Attributes:
    sources: what was read, for messages.
    digest: hash of the tokens.
    folder: the cache's.
    tokens: [tokens] uint16 or int32, without [CLS] and [SEP].
    sentences: [sentences + 1] int64, where each begins in `tokens`.
    documents: [documents + 1] int64, where each begins in `sentences`.
  """

  sources: tuple[str, ...]
  digest: str
  folder: pathlib.Path
  tokens: np.ndarray
  sentences: np.ndarray
  documents: np.ndarray


@dataclasses.dataclass(frozen=True)
class Part:
  """The documents of a text that one split uses, cut into spans of sentences.

  Attributes:
    text: the whole text.
    documents: [documents of the part] int64, ascending.
    spans: [spans, 2] int64: first sentence and the one after the last; never across documents.
  """

  text: TokenizedText
  documents: np.ndarray
  spans: np.ndarray


@dataclasses.dataclass(frozen=True)
class Records:
  """Pre-training examples with their masks; every array is memory-mapped.

  Attributes:
    sources: the files, for messages.
    digest: hash of the records.
    features: name (`tfrecords.FEATURES`) -> [records, ...].
    largest_id: of all their tokens.
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
  """How text is read (see `text.find_sources` and `text.documents`)."""

  input_format: str
  text_field: str
  language: str
  errors: str
  cache_dir: str


# --- Opening --------------------------------------------------------------------------------


def open_corpus(patterns: str, what: str, tokenizer: Any, reading: Reading) -> Corpus:
  """Finds the files, caches what they hold if that has not been done, and maps it.

  Args:
    patterns: comma-separated files, globs, saved datasets or hub names.
    what: the knob that they came from, for messages.
    tokenizer: the model's, from transformers.
    reading: how text is read, and where the cache lies.

  Raises:
    UserError: no file, nothing in it, text and records mixed, or anything wrong in a file.
  """
  sources = text.find_sources(patterns, reading.input_format, what)
  records, texts = [], []
  for source in sources:
    if source.kind == "dataset" or source.size:  # an empty file is no obstacle to either
      (records if _holds_records(source) else texts).append(source.path)
  if records and texts:
    raise UserError(f"{what}: {records[0]} holds TFRecords and {texts[0]} does not; give one kind")
  if records:
    return _open_records(sources, what, reading)
  return _open_text(sources, what, tokenizer, reading)


def _holds_records(source: text.Source) -> bool:
  """By the name too: then a damaged first record is found out, and not taken for text."""
  return source.kind != "dataset" and (
      ".tfrecord" in os.path.basename(source.path) or tfrecords.is_tfrecord(source.path))


def _cache_folder(sources: Sequence[text.Source], cache_dir: str, *more: Any) -> pathlib.Path:
  """Where the cache of these inputs, in this state, lies: beside the first, or in cache_dir."""
  state = json.dumps([_VERSION, [_state(source) for source in sources], *more])
  if cache_dir:
    parent = pathlib.Path(os.path.expanduser(cache_dir))
  elif os.path.exists(sources[0].path):
    parent = pathlib.Path(sources[0].path).resolve().parent / ".bert_cache"
  else:  # a hub's dataset
    parent = pathlib.Path("~/.cache/bert_in_flax").expanduser()
  return parent / hashlib.sha256(state.encode()).hexdigest()[:16]


def _state(source: text.Source) -> list[Any]:
  """What changes when the input does: of a saved dataset's folder, its newest file."""
  path = pathlib.Path(source.path)
  if not path.exists():
    return [source.path, source.kind]
  files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
  return [os.path.realpath(path), source.kind, sum(file.stat().st_size for file in files),
          max(file.stat().st_mtime_ns for file in files)]


def _digest(folder: pathlib.Path) -> str:
  try:
    return (folder / "digest").read_text("utf-8")
  except OSError as error:
    raise _damaged(folder) from error


def _damaged(folder: pathlib.Path) -> UserError:
  return UserError(f"the cache {folder} is damaged; delete it, and it is made anew")


def _paths(sources: Sequence[text.Source]) -> tuple[str, ...]:
  return tuple(os.path.realpath(s.path) if os.path.exists(s.path) else s.path for s in sources)


@contextlib.contextmanager
def _whole_or_nothing(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """A neighbour of `folder` to write into; it takes the name when all went well."""
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(".tmp", f"{folder.name}.", folder.parent))
  except OSError as error:
    raise UserError(f"{folder.parent} cannot be written ({error.strerror}); name another place "
                    "for the cache: --config.cache_dir=DIR") from error
  try:
    yield temporary
    temporary.chmod(0o755)  # mkdtemp's are for their maker alone
    try:
      temporary.rename(folder)
    except OSError:
      if not folder.exists():  # another process was faster
        raise
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _growing(file: pathlib.Path, dtype: Any) -> Iterator[Callable[[Any], None]]:
  """An array that grows on the disk; gives what to call with each stretch of it."""
  try:
    with file.open("wb") as stream:
      yield lambda values: stream.write(np.ascontiguousarray(values, dtype).tobytes())
  except OSError as error:  # as where the disk is full
    error.filename = error.filename or str(file)
    raise


def _map(file: pathlib.Path, dtype: Any, *row: int) -> np.ndarray:
  """A file of `_growing` as [n, *row]."""
  if not file.stat().st_size:
    return np.empty((0, *row), dtype)
  return np.memmap(file, dtype, "r").reshape(-1, *row)


# --- Text -----------------------------------------------------------------------------------


def _open_text(sources: Sequence[text.Source], what: str, tokenizer: Any,
               reading: Reading) -> TokenizedText:
  pieces = wordpieces.WordPieces(tokenizer)
  folder = _cache_folder(sources, reading.cache_dir, pieces.fingerprint, reading.text_field,
                         reading.language, reading.errors)
  dtype = np.dtype(np.uint16 if vocabulary_size(tokenizer) <= 1 << 16 else np.int32)
  if not folder.exists():
    with _whole_or_nothing(folder) as temporary:
      _tokenize(sources, what, pieces, reading, dtype, temporary)
  tokenized = TokenizedText(
      _paths(sources), _digest(folder), folder, _map(folder / "tokens", dtype),
      _map(folder / "sentences", np.int64), _map(folder / "documents", np.int64))
  if (tokenized.sentences[-1], tokenized.documents[-1]) != (
      len(tokenized.tokens), len(tokenized.sentences) - 1):
    raise _damaged(folder)
  say(f"{what}: {len(tokenized.documents) - 1:,} documents, "
      f"{len(tokenized.sentences) - 1:,} sentences, {len(tokenized.tokens):,} tokens in {folder}")
  return tokenized


def _tokenize(sources: Sequence[text.Source], what: str, pieces: wordpieces.WordPieces,
              reading: Reading, dtype: np.dtype, folder: pathlib.Path) -> None:
  size = text.total_size(sources)
  say(f"{what}: tokenizing {len(sources)} input{'s' if len(sources) > 1 else ''}"
      f"{f', {size / 1e6:,.1f} MB' if size else ''}, once ...")
  num_tokens = num_sentences = 0
  digest = hashlib.sha256()
  with (_growing(folder / "tokens", dtype) as add_tokens,
        _growing(folder / "sentences", np.int64) as add_sentences,
        _growing(folder / "documents", np.int64) as add_documents,
        progress_bar(size, "B") as progress):
    documents = text.documents(sources, text_field=reading.text_field, language=reading.language,
                               errors=reading.errors, longest=_LONGEST_DOCUMENT,
                               progress=progress)
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
    raise UserError(f"{what}: no text in {', '.join(source.path for source in sources[:3])}"
                    f"{' ...' if len(sources) > 3 else ''}")
  (folder / "digest").write_text(digest.hexdigest()[:16], "utf-8")


Block = tuple[np.ndarray, np.ndarray, np.ndarray]


def _tokenized_blocks(documents: Iterator[text.Document], size: int,
                      pieces: wordpieces.WordPieces) -> Iterator[Block]:
  """Tokenizes blocks of documents, in order, in as many processes as the size is worth."""
  blocks = text.blocks(documents, _BLOCK)
  worth = size // _BYTES_A_WORKER if size else _MOST_WORKERS  # a hub's dataset: likely large
  num_workers = max(min(os.cpu_count() or 1, _MOST_WORKERS, worth), 1)
  return workers.ordered_map(functools.partial(_tokenize_block, pieces), blocks, num_workers,
                             "free some")


def _tokenize_block(pieces: wordpieces.WordPieces, block: list[text.Document]) -> Block:
  """-> (ids, tokens of each sentence, sentences of each document), all of them at least 1."""
  ids, sentence_lengths, document_lengths = [], [], []
  for document in block:
    sentences = [sentence for sentence in pieces(document) if sentence]
    if sentences:
      ids += sentences
      sentence_lengths += map(len, sentences)
      document_lengths.append(len(sentences))
  flat = np.fromiter((i for sentence in ids for i in sentence), np.int32)
  return flat, np.asarray(sentence_lengths, np.int64), np.asarray(document_lengths, np.int64)


# --- Splits and spans -----------------------------------------------------------------------


def part_of(tokenized: TokenizedText, held_out: bool, eval_fraction: float,
            target: int) -> Part:
  """The training or the held-out documents, cut into runs of sentences that just reach `target`.

  So does `create_instances_from_document` of the original; a document's last run may fall
  short. The same documents are held out in every run. What is found is kept in the cache.

  Args:
    tokenized: the corpus.
    held_out: which of the two parts.
    eval_fraction: share of the documents that is held out; 0 holds out none.
    target: tokens.

  Raises:
    UserError: a single document, of which none can be held out.
  """
  name = f"{'held-out' if held_out else 'training'}-{eval_fraction!r}"
  documents = tokenized.folder / f"documents-{name}"
  if not documents.exists():
    _write(documents, _document_numbers(tokenized, held_out, eval_fraction))
  documents = _map(documents, np.int64)
  spans = tokenized.folder / f"spans-{name}-{target}"
  if not spans.exists():
    _write(spans, _all_spans(tokenized, documents, target))
  return Part(tokenized, documents, _map(spans, np.int64, 2))


def _write(file: pathlib.Path, chunks: Iterable[Any]) -> None:
  with tempfile.TemporaryDirectory(dir=file.parent) as folder:
    temporary = pathlib.Path(folder, file.name)
    with _growing(temporary, np.int64) as add:
      for chunk in chunks:
        add(chunk)
    temporary.replace(file)


def _document_numbers(tokenized: TokenizedText, held_out: bool,
                      eval_fraction: float) -> Iterator[np.ndarray]:
  total = len(tokenized.documents) - 1
  if eval_fraction and total < 2:
    raise UserError("train_files hold a single document, of which none can be held out; separate "
                    "documents by blank lines, or give --config.eval_files=FILES or "
                    "--config.eval_fraction=0")
  # Two at least, where there are enough: the next-sentence task needs another document.
  least = 2 if total >= 4 else 1
  count = min(max(round(total * eval_fraction), least), total - 1) if eval_fraction else 0
  key = stateless_random.keys(_HOLDOUT_KEY)
  for start in range(0, total, _CHUNK):
    documents = np.arange(start, min(start + _CHUNK, total))
    yield documents[(stateless_random.permute(documents, total, key) < count) == held_out]


def _all_spans(tokenized: TokenizedText, documents: np.ndarray, target: int
               ) -> Iterator[list[tuple[int, int]]]:
  """The spans of each document (`part_of`)."""
  say(f"cutting {len(documents):,} documents into spans of {target} tokens, once ...")
  begins, sentences = np.asarray(tokenized.documents), np.asarray(tokenized.sentences)
  with progress_bar(len(documents), "documents") as progress:
    for document in np.asarray(documents):
      first, end = int(begins[document]), int(begins[document + 1])
      yield [(first + a, first + b) for a, b in _spans(sentences[first:end + 1].tolist(), target)]
      progress(1)


def _spans(offsets: list[int], target: int) -> Iterator[tuple[int, int]]:
  """Cuts one document, whose sentences begin at all offsets but the last, its end."""
  start, last = 0, len(offsets) - 1
  while start < last:
    end = min(bisect.bisect_left(offsets, offsets[start] + target, start + 1), last)
    yield start, end
    start = end


# --- Records --------------------------------------------------------------------------------


def _open_records(sources: Sequence[text.Source], what: str, reading: Reading) -> Records:
  folder = _cache_folder(sources, reading.cache_dir, "records")
  if not folder.exists():
    with _whole_or_nothing(folder) as temporary:
      _decode(sources, what, temporary)
  digest = _digest(folder)
  layout = json.loads((folder / "layout.json").read_text("utf-8"))
  features = {name: _map(folder / name, dtype, *row)
              for name, (dtype, row) in layout["arrays"].items()}
  records = Records(_paths(sources), digest, features, layout["largest_id"])
  if {len(value) for value in features.values()} != {len(records)}:
    raise _damaged(folder)
  say(f"{what}: {len(records):,} records of length {records.max_seq_length} in {folder}")
  return records


def _decode(sources: Sequence[text.Source], what: str, folder: pathlib.Path) -> None:
  say(f"{what}: decoding {len(sources)} TFRecord file{'s' if len(sources) > 1 else ''}, once ...")
  shapes: dict[str, tuple[str, list[int]]] = {}
  add: dict[str, Callable[[Any], None]] = {}
  largest = 0
  digest = hashlib.sha256()
  with contextlib.ExitStack() as files:
    progress = files.enter_context(progress_bar(text.total_size(sources), "B"))
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
            add[name] = files.enter_context(_growing(folder / name, value.dtype))
          add[name](value)
          digest.update(value.tobytes())
        largest = max(largest, int(records["input_ids"].max()), int(records["masked_lm_ids"].max()))
      progress(os.path.getsize(source.path))
  if not shapes:
    raise UserError(f"{what}: no records in {', '.join(s.path for s in sources[:3])}")
  layout = {"arrays": shapes, "largest_id": largest}
  (folder / "layout.json").write_text(json.dumps(layout), "utf-8")
  (folder / "digest").write_text(digest.hexdigest()[:16], "utf-8")
