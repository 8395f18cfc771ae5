"""A pre-training corpus on the disk: tokenized once into a cache, then memory-mapped.

Text becomes three arrays (tokens, first token of each sentence, first sentence of each
document), the original's TFRecords one array per feature. They are mapped rather than streamed
because batch t must be a pure function of (seed, t): any row is read by its number, at once.

A cache is a folder of array files and a layout.json with the type, size and checksum of each;
all are verified at every start (0.2 s a GB that lies in memory), and a damaged cache is made again.
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
from typing import Any, BinaryIO

import google_crc32c
import numpy as np

from pretraining import text, tfrecords, wordpieces
from support import files, remote, stateless_random, workers
from support.errors import UserError
from support.reporting import progress_bar, say
from tokenization import Tokenizer

_VERSION = 2
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
  """

  sources: tuple[str, ...]
  digest: str
  features: dict[str, np.ndarray]

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
    patterns: comma-separated files, globs, saved datasets or hub names, or URLs of such.
    knob: the name of the knob that holds the patterns, for messages.
    tokenizer: the model's.
    reading: how to read text, and the cache's folder.

  Raises:
    UserError: no input, an empty or bad one, or text mixed with records.
  """
  patterns = remote.local_copies(patterns, knob, reading.cache_dir)
  sources = text.find_sources(patterns, reading.input_format, knob)
  records, texts = [], []
  for source in sources:
    if source.kind == "dataset" or source.size:  # an empty file can be of either kind
      (records if _holds_records(source) else texts).append(source.path)
  if records and texts:
    raise UserError(f"{knob}: {records[0]} holds TFRecords and {texts[0]} does not; give one kind")
  if records:
    return _open_records(sources, knob, tokenizer, reading)
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
  unknown = tokenizer.get_vocab()[tokenizer.special_tokens["unk_token"]]
  dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32)
  cache = _cached(folder, lambda arrays: _tokenize(sources, knob, pieces, reading, dtype, unknown,
                                                   arrays))
  tokenized = TokenizedText(_paths(sources), cache.facts["digest"], folder, **cache.arrays)
  _say_size(knob, f"{len(tokenized.documents) - 1:,} documents, "
            f"{len(tokenized.sentences) - 1:,} sentences, {len(tokenized.tokens):,} tokens",
            cache.facts["unknown"] / len(tokenized.tokens), folder)
  return tokenized


def _say_size(knob: str, size: str, unknown: float, folder: pathlib.Path) -> None:
  """Prints what a corpus holds; warns if too many of its tokens are [UNK]."""
  say(f"{knob}: {size} ({unknown:.1%} [UNK]) in {folder}")
  wordpieces.warn_of_unknown(unknown)


def _tokenize(sources: Sequence[text.Source], knob: str, pieces: wordpieces.WordPieces,
              reading: Reading, dtype: np.dtype, unknown: int, arrays: "_NewArrays"
              ) -> dict[str, Any]:
  """Writes the arrays of a `TokenizedText`; returns their digest and the number of [UNK]."""
  size = text.total_size(sources)
  say(f"{knob}: tokenizing {len(sources)} input{'s' if len(sources) > 1 else ''}"
      f"{f', {size / 1e6:,.1f} MB' if size else ''}, once ...")
  num_tokens = num_sentences = num_unknown = 0
  digest = hashlib.sha256()
  with progress_bar(size, "B") as progress:
    documents = text.read_documents(sources, text_field=reading.text_field,
                                    language=reading.language, errors=reading.errors,
                                    longest=_LONGEST_DOCUMENT, progress=progress)
    for ids, sentence_lengths, document_lengths in _tokenized_blocks(documents, size, pieces):
      for array in (ids, sentence_lengths, document_lengths):
        digest.update(array.tobytes())
      arrays.append("tokens", ids.astype(dtype))
      arrays.append("sentences", num_tokens + np.cumsum(sentence_lengths) - sentence_lengths)
      arrays.append("documents", num_sentences + np.cumsum(document_lengths) - document_lengths)
      num_tokens += len(ids)
      num_sentences += len(sentence_lengths)
      num_unknown += int(np.count_nonzero(ids == unknown))
  arrays.append("sentences", np.asarray([num_tokens]))
  arrays.append("documents", np.asarray([num_sentences]))
  if not num_tokens:
    raise UserError(f"{knob}: no text in {', '.join(source.path for source in sources[:3])}"
                    f"{' ...' if len(sources) > 3 else ''}")
  return {"digest": digest.hexdigest()[:16], "unknown": num_unknown}


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
  documents = _cached_array(tokenized.folder / f"documents-{name}",
                            lambda: _document_numbers(tokenized, held_out, eval_fraction))
  spans = _cached_array(tokenized.folder / f"spans-{name}-{target}",
                        lambda: _spans(tokenized, documents, target))
  return Part(tokenized, documents, spans)


def _cached_array(folder: pathlib.Path,
                  chunks: Callable[[], Iterable[np.ndarray]]) -> np.ndarray:
  """Maps the array of a cache, which is first written from chunks if it is missing."""

  def write(arrays: _NewArrays) -> dict[str, Any]:
    for chunk in chunks():
      arrays.append("values", chunk)
    return {}

  return _cached(folder, write).arrays["values"]


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
           ) -> Iterator[np.ndarray]:
  """Yields the spans [n, 2] of each document (`part_of`)."""
  say(f"cutting {len(documents):,} documents into spans of {target} tokens, once ...")
  begins, sentences = np.asarray(tokenized.documents), np.asarray(tokenized.sentences)
  with progress_bar(len(documents), "documents") as progress:
    for document in np.asarray(documents):
      first, end = int(begins[document]), int(begins[document + 1])
      yield first + np.asarray(list(_spans_of_one(sentences[first:end + 1].tolist(), target)))
      progress(1)


def _spans_of_one(offsets: list[int], target: int) -> Iterator[tuple[int, int]]:
  """Cuts a document, given the first token of each sentence and, last, the document's end."""
  start, last = 0, len(offsets) - 1
  while start < last:
    end = min(bisect.bisect_left(offsets, offsets[start] + target, start + 1), last)
    yield start, end
    start = end


# --- Records --------------------------------------------------------------------------------


def _open_records(sources: Sequence[text.Source], knob: str, tokenizer: Tokenizer,
                  reading: Reading) -> Records:
  unknown = tokenizer.get_vocab()[tokenizer.special_tokens["unk_token"]]
  folder = _cache_folder(sources, reading.cache_dir, "records", tokenizer.vocab_size, unknown)
  cache = _cached(folder, lambda arrays: _decode(sources, knob, tokenizer.vocab_size, unknown,
                                                 arrays))
  records = Records(_paths(sources), cache.facts["digest"], cache.arrays)
  _say_size(knob, f"{len(records):,} records of length {records.max_seq_length}",
            cache.facts["unknown"] / cache.facts["tokens"], folder)
  return records


def _decode(sources: Sequence[text.Source], knob: str, vocab_size: int, unknown: int,
            arrays: "_NewArrays") -> dict[str, Any]:
  """Writes the arrays of a `Records`; returns their digest, and the tokens and [UNK] in them."""
  say(f"{knob}: decoding {len(sources)} TFRecord file{'s' if len(sources) > 1 else ''}, once ...")
  shapes: dict[str, tuple[int, ...]] = {}
  num_tokens = num_unknown = 0
  digest = hashlib.sha256()
  with progress_bar(text.total_size(sources), "B") as progress:
    for source in sources:
      for records in tfrecords.read_records(source.path, vocab_size):
        found = {name: value.shape[1:] for name, value in records.items()}
        shapes = shapes or found
        if found != shapes:
          raise UserError(
              f"{source.path} holds records of length {found['input_ids'][0]} with "
              f"{found['masked_lm_ids'][0]} predictions, {sources[0].path} of length "
              f"{shapes['input_ids'][0]} with {shapes['masked_lm_ids'][0]}")
        for name, value in records.items():
          arrays.append(name, value)
          digest.update(value.tobytes())
        num_tokens += int(records["input_mask"].sum())
        num_unknown += int(((records["input_ids"] == unknown) & (records["input_mask"] == 1)).sum())
      progress(source.size)
  if not shapes:
    raise UserError(f"{knob}: no records in {', '.join(s.path for s in sources[:3])}")
  return {"digest": digest.hexdigest()[:16], "tokens": num_tokens, "unknown": num_unknown}


# --- The cache ------------------------------------------------------------------------------


def _cache_folder(sources: Sequence[text.Source], cache_dir: str, *more: Any) -> pathlib.Path:
  """Names the cache of these inputs in their present state: in cache_dir or beside the first."""
  state = json.dumps([_VERSION, [_state(source) for source in sources], *more])
  if cache_dir:
    parent = pathlib.Path(os.path.expanduser(cache_dir))
  elif os.path.exists(sources[0].path):  # beside a symbolic link, not where it leads
    parent = pathlib.Path(sources[0].path).absolute().parent / ".bert_cache"
  else:  # a dataset from the hub
    parent = pathlib.Path("~/.cache/bert_in_flax").expanduser()
  return parent / hashlib.sha256(state.encode()).hexdigest()[:16]


def _state(source: text.Source) -> list[Any]:
  """Returns values that change when the input does; the clock may have gone back in between."""
  path = pathlib.Path(source.path)
  if not path.exists():
    return [source.path, source.kind]
  found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
  state: list[Any] = [os.path.realpath(path), source.kind]
  for file in found:
    state += [file.stat().st_size, file.stat().st_mtime_ns]
  return state


def _paths(sources: Sequence[text.Source]) -> tuple[str, ...]:
  return tuple(os.path.realpath(s.path) if os.path.exists(s.path) else s.path for s in sources)


@dataclasses.dataclass(frozen=True)
class _Cache:
  """An open cache: its arrays, memory-mapped, and what else its layout says."""

  arrays: dict[str, np.ndarray]
  facts: dict[str, Any]


def _cached(folder: pathlib.Path, write: Callable[["_NewArrays"], dict[str, Any]]) -> _Cache:
  """Opens a cache; makes it first if it is missing or damaged.

  Args:
    folder: the cache's.
    write: appends to the arrays and returns the facts.
  """
  if folder.exists():
    try:
      return _opened(folder)
    except UserError as fault:
      say(f"the cache {folder} is damaged ({fault}); it is made again")
  with _new_cache(folder) as temporary, contextlib.ExitStack() as opened:
    arrays = _NewArrays(temporary, opened)
    arrays.finish(write(arrays))
  return _opened(folder)


@contextlib.contextmanager
def _new_cache(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a temporary folder to fill, which becomes the cache; another process may be first."""
  with contextlib.ExitStack() as stack:
    try:
      if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
      else:
        folder.unlink(missing_ok=True)
      temporary = stack.enter_context(files.written_whole(folder, shared=True))
      temporary.mkdir()
    except OSError as error:
      raise UserError(f"{folder.parent} cannot be written ({error.strerror}); name another place "
                      "for the cache: --config.cache_dir=DIR") from error
    yield temporary


class _NewArrays:
  """Writer of a cache's array files and of its layout."""

  def __init__(self, folder: pathlib.Path, opened: contextlib.ExitStack):
    self._folder = folder
    self._opened = opened
    self._files: dict[str, BinaryIO] = {}
    self._layout: dict[str, dict[str, Any]] = {}

  def append(self, name: str, values: np.ndarray) -> None:
    """Appends rows to an array; all of its rows have one type and shape."""
    if name not in self._files:
      self._files[name] = self._opened.enter_context((self._folder / name).open("wb"))
      self._layout[name] = {"dtype": values.dtype.str, "row": values.shape[1:], "size": 0,
                            "crc32c": 0}
    content, array = values.tobytes(), self._layout[name]
    self._files[name].write(content)
    array["size"] += len(content)
    array["crc32c"] = google_crc32c.extend(array["crc32c"], content)

  def finish(self, facts: dict[str, Any]) -> None:
    """Writes layout.json, and all files to the disk: a power failure cannot cut them."""
    content = json.dumps({"arrays": self._layout, "facts": facts}).encode()
    layout = self._opened.enter_context((self._folder / "layout.json").open("wb"))
    layout.write(b"%08x\n" % google_crc32c.value(content) + content)
    for stream in (*self._files.values(), layout):
      stream.flush()
      os.fsync(stream.fileno())


def _opened(folder: pathlib.Path) -> _Cache:
  """Maps the arrays of a cache; raises a UserError if a file is not as it was written."""
  try:
    checksum, _, content = (folder / "layout.json").read_bytes().partition(b"\n")
    if checksum != b"%08x" % google_crc32c.value(content):
      raise UserError("layout.json is not as it was written")
    layout = json.loads(content)
    arrays = {name: _map(folder / name, array) for name, array in layout["arrays"].items()}
  except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
    raise UserError(f"{error.filename}: {error.strerror}") from error
  return _Cache(arrays, layout["facts"])


def _map(file: pathlib.Path, array: dict[str, Any]) -> np.ndarray:
  """Maps a file of `_NewArrays` as [n, *row]."""
  size, checksum = files.size_and_checksum(file)  # a mapping would count as this process's memory
  if size != array["size"]:
    raise UserError(f"{file.name} has {size} bytes, not {array['size']}")
  if checksum != array["crc32c"]:
    raise UserError(f"{file.name} is not as it was written")
  if not size:
    return np.empty((0, *array["row"]), array["dtype"])
  return np.memmap(file, array["dtype"], "r").reshape(-1, *array["row"])
