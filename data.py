"""The pipeline: a `datasets.Dataset` of text in, packed batches out.

A batch is a dict of fixed-shape numpy arrays, with R rows of S tokens and B examples a micro-batch:

  input_ids, token_type_ids, position_ids  [R, S] int32; positions restart in every example
  sequence_ids                             [R, S] int32: 1, 2, ... by example; 0 is padding
  cls_positions                            [B] int32: each [CLS] in the flattened R * S tokens
  labels, weights                          [B]; weight 0 marks an example that only fills up;
                                           labels of a multi-label task are [B, classes]

with leading axes [devices, micro-batches], or [devices] for evaluation. Packing several examples
into a row changes no number but dropout's draws: attention stays inside an example
(`modeling.attention_bias_from`). Batch t is a pure
function of (seed, t). With several hosts it is the batch of all their devices: each host makes
the part of its own devices (`mine`), with as many rows a device as all hosts have.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
import concurrent.futures
import dataclasses
import functools
import hashlib
import itertools
import math
import os
import pathlib
from typing import NamedTuple, TYPE_CHECKING, TypeVar

import numpy as np

from support import files, stateless_random
from support.reporting import on_a_terminal, say
from tokenization import Tokenizer

if TYPE_CHECKING:
  import datasets
  import pyarrow

Batch = dict[str, np.ndarray]
T = TypeVar("T")
IntOrArray = TypeVar("IntOrArray", int, np.ndarray)

ALL = slice(None)  # one host: all devices are its own
ROW_MULTIPLE = 64  # rows are cut to a multiple of this if no example is longer
_MAP_ROWS = 4096  # rows that are tokenized at a time
_CACHE_VERSION = 2
_END = object()


# --- Tokens ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TokenizedSplit:
  """Tokenized examples, ragged: example i is tokens[offsets[i]:offsets[i + 1]].

  Attributes:
    tokens: [all tokens] int32, with [CLS] and [SEP].
    offsets: [examples + 1] int64.
    first_lengths: [examples] int32: tokens of the first segment with [CLS] and its [SEP].
    labels: [examples] int32 classes or float32 values, or [examples, classes] int32 of 0 and 1
      where a row is of any number of classes; zeros in a test split.
    truncated: number of examples that were longer than allowed.
  """

  tokens: np.ndarray
  offsets: np.ndarray
  first_lengths: np.ndarray
  labels: np.ndarray
  truncated: int

  def __len__(self) -> int:
    return len(self.first_lengths)

  @functools.cached_property
  def lengths(self) -> np.ndarray:
    """[examples]: tokens of each example."""
    return np.diff(self.offsets)


def tokenize(texts: "datasets.Dataset", labels: np.ndarray, tokenizer: Tokenizer,
             max_seq_length: int, cache_dir: pathlib.Path) -> TokenizedSplit:
  """Tokenizes a split by `Dataset.map`, or reads the tokens from the cache.

  The cached file is named by a hash of the texts, the tokenizer and the length.

  Args:
    texts: one or two text columns and no other; a pair's first segment is the first column.
    labels: [examples, ...], kept as they are.
    tokenizer: see `tokenization.py`.
    max_seq_length: tokens of an example at most, with [CLS] and [SEP].
    cache_dir: an existing folder.
  """
  import datasets  # here: a second to import, and pre-training does without it

  if not on_a_terminal():
    datasets.disable_progress_bars()
  fingerprint = _fingerprint(texts, tokenizer, max_seq_length)
  file = cache_dir / f"{fingerprint}.arrow"
  remove_damaged(file)
  is_new = not file.exists()
  tokenized = texts.with_format("arrow").map(
      functools.partial(_encode, tokenizer=tokenizer, max_seq_length=max_seq_length),
      batched=True, batch_size=_MAP_ROWS, remove_columns=texts.column_names,
      cache_file_name=str(file), new_fingerprint=fingerprint, desc="tokenizing")
  if is_new:
    files.seal(file)
  os.utime(file)  # `support.files.keep_within` deletes the least recently used
  # A list column is the tokens and the offsets; a chunk is some thousand examples.
  chunks = tokenized.data.column("input_ids").chunks
  lengths = np.concatenate([np.diff(chunk.offsets.to_numpy()) for chunk in chunks])
  return TokenizedSplit(
      np.concatenate([chunk.flatten().to_numpy() for chunk in chunks]),
      np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
      tokenized.data.column("first_length").to_numpy(), labels,
      int(tokenized.data.column("truncated").to_numpy().sum()))


def remove_damaged(file: pathlib.Path) -> None:
  """Deletes a cached file that is not as it was written; a line says so."""
  if file.exists() and not files.is_whole(file):
    say(f"the cached {file} is damaged or was never finished; it is made again")
    file.unlink()


def unknown_share(split: TokenizedSplit, tokenizer: Tokenizer) -> float:
  """Returns the share of a split's tokens that are [UNK], [CLS] and [SEP] not counted."""
  vocabulary = tokenizer.get_vocab()
  unknown = np.count_nonzero(split.tokens == vocabulary[tokenizer.special_tokens["unk_token"]])
  pairs = np.count_nonzero(split.first_lengths < split.lengths)
  return unknown / max(len(split.tokens) - 2 * len(split) - pairs, 1)


def _fingerprint(texts: "datasets.Dataset", tokenizer: Tokenizer, max_seq_length: int) -> str:
  """Hashes everything that determines the tokens."""
  content = hashlib.sha256(f"{_CACHE_VERSION} {tokenizer.fingerprint} {max_seq_length}".encode())
  for table in texts.with_format("arrow").iter(_MAP_ROWS):
    for batch in table.combine_chunks().to_batches():
      content.update(batch.serialize())
  return content.hexdigest()[:32]


def _encode(texts: "pyarrow.Table", tokenizer: Tokenizer, max_seq_length: int) -> "pyarrow.Table":
  """Returns `encode_examples` of each row as columns."""
  import pyarrow

  encoded = encode_examples([list(map(str, column.to_pylist())) for column in texts.columns],
                            tokenizer, max_seq_length)
  return pyarrow.table({"input_ids": pyarrow.array(encoded.ids, pyarrow.list_(pyarrow.int32())),
                        "first_length": pyarrow.array(encoded.first_lengths, pyarrow.int32()),
                        "truncated": pyarrow.array(encoded.truncated, pyarrow.bool_())})


class Encoded(NamedTuple):
  """Examples as lists: the ids of each, the tokens of its first segment, whether it was cut."""

  ids: list[list[int]]
  first_lengths: list[int]
  truncated: list[bool]


def encode_examples(columns: Sequence[Sequence[str]], tokenizer: Tokenizer,
                    max_seq_length: int) -> Encoded:
  """Makes [CLS] first [SEP] (second [SEP]) of each row, cut to `max_seq_length` tokens.

  The longer segment loses tokens from its back, the second one on a tie
  (`_truncate_seq_pair` of the original's run_classifier.py).

  Args:
    columns: the first texts and, for pairs, the second ones.
    tokenizer: see `tokenization.py`.
    max_seq_length: tokens of an example at most, with [CLS] and [SEP].
  """
  first, *second = (tokenizer.encode(column) for column in columns)
  cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
  encoded = Encoded([], [], [])
  for a, b in zip(first, *second or ([None] * len(first),), strict=True):
    if b is None:
      kept = a[:max_seq_length - 2]
      encoded.ids.append([cls, *kept, sep])
      encoded.truncated.append(len(kept) < len(a))
    else:
      keep_a, keep_b = pair_lengths(len(a), len(b), max_seq_length - 3)
      kept = a[:keep_a]
      encoded.ids.append([cls, *kept, sep, *b[:keep_b], sep])
      encoded.truncated.append(keep_a + keep_b < len(a) + len(b))
    encoded.first_lengths.append(len(kept) + 2)
  return encoded


def unlabelled_split(encoded: Encoded) -> TokenizedSplit:
  """Returns examples as a split whose labels are zeros, as of a test split."""
  lengths = np.fromiter(map(len, encoded.ids), np.int64, len(encoded.ids))
  return TokenizedSplit(
      np.fromiter(itertools.chain.from_iterable(encoded.ids), np.int32, lengths.sum()),
      np.concatenate([[0], np.cumsum(lengths)]), np.asarray(encoded.first_lengths, np.int32),
      np.zeros(len(lengths), np.int32), sum(encoded.truncated))


def pair_lengths(a: IntOrArray, b: IntOrArray, budget: int) -> tuple[IntOrArray, IntOrArray]:
  """Computes the lengths of two segments cut to fit: the longer (b on a tie) loses each token."""
  lower, upper = np.minimum, np.maximum
  if isinstance(a, int):
    lower, upper = min, max  # ten times as fast on two numbers
  return (lower(a, upper(budget - budget // 2, budget - b)),
          lower(b, upper(budget // 2, budget - a)))


# --- Order ----------------------------------------------------------------------------------


def shuffled(places: np.ndarray, size: int, *key: int) -> np.ndarray:
  """Returns the examples at some places of an endless stream of epochs.

  Each epoch is a fresh permutation of all `size` examples; no epoch is held in memory.

  Args:
    places: [n] int64, from 0.
    size: number of examples.
    *key: names the stream: the seed, and more where there are several streams.

  Returns:
    [n] int64 in range(size).
  """
  epochs, within = np.divmod(places, size)
  return stateless_random.permute(within, size, stateless_random.keys(*key, epochs))


@functools.lru_cache(maxsize=2)
def _epoch(seed: int, epoch: int, size: int) -> np.ndarray:
  """Returns a whole epoch of `shuffled`, whose cost for some places is that for thousands."""
  return shuffled(np.arange(epoch * size, (epoch + 1) * size), size, seed)


def batch_indices(seed: int, step: int, batch_size: int, size: int) -> np.ndarray:
  """Returns the indices, in range(size), of the examples in fine-tuning's batch `step`."""
  epochs, within = np.divmod(np.arange(step * batch_size, (step + 1) * batch_size), size)
  return np.concatenate([_epoch(seed, int(epoch), size)[within[epochs == epoch]]
                         for epoch in np.unique(epochs)])


# --- Packing --------------------------------------------------------------------------------


def row_length(longest: int, max_seq_length: int) -> int:
  """Chooses the tokens a row: room for the longest example, rounded up, within the limit."""
  return min(max_seq_length, -(-longest // ROW_MULTIPLE) * ROW_MULTIPLE)


def rounded_rows(rows: int, steps_an_octave: int = 4) -> int:
  """Rounds up to a ladder of row counts, so that few distinct shapes are compiled.

  With 4 steps an octave the ladder is 1 to 8, 10, 12, 14, 16, 20, ...
  """
  step = 1 << max(0, (rows - 1).bit_length() - steps_an_octave.bit_length())
  return -(-rows // step) * step


def first_fit(lengths: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Packs sequences into rows, longest first, each into the first row with room.

  Args:
    lengths: [examples] tokens; 0 takes no room.
    length: tokens a row.

  Returns:
    Three [examples] arrays: the row, the first column, and the rank in its row, from 1.
  """
  rows, columns, ranks = np.zeros((3, len(lengths)), np.int64)
  used: list[int] = []
  members: list[int] = []
  smallest = int(lengths[lengths > 0].min(initial=length))
  with_room: list[int] = []  # for the smallest: a batch of long sequences stays quick
  for i in np.argsort(-lengths, kind="stable"):
    size = int(lengths[i])
    row = next((r for r in with_room if used[r] + size <= length), len(used)) if size else 0
    if row == len(used):
      used.append(0)
      members.append(0)
      with_room.append(row)
    rows[i], columns[i], ranks[i] = row, used[row], members[row] + 1
    used[row] += size
    members[row] += 1
    if size and used[row] + smallest > length:
      with_room.remove(row)
  return rows, columns, ranks


def _one_a_row(lengths: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the result of `first_fit` without packing."""
  del length
  return np.arange(len(lengths)), np.zeros(len(lengths), np.int64), np.ones(len(lengths), np.int64)


def share_of(size: int, devices: int, mine: slice) -> slice:
  """Returns the stretch of `size` examples, equally many a device, that some devices get."""
  first, last, _ = mine.indices(devices)
  return slice(size * first // devices, size * last // devices)


def place_sequences(lengths: np.ndarray, length: int, pack: bool, steps_an_octave: int = 4
                    ) -> tuple[np.ndarray, np.ndarray, int]:
  """Chooses each sequence's place; every group is packed by itself, into equally many rows.

  Args:
    lengths: [groups, B] tokens; 0 takes no room.
    length: tokens a row, at least that of the longest sequence.
    pack: False gives every sequence its own row.
    steps_an_octave: of the ladder that the number of rows is rounded up on.

  Returns:
    Two [groups, B] arrays, the first token in the group's flattened rows and the rank in its
    row from 1; and the number of rows.
  """
  choose = first_fit if pack else _one_a_row
  rows, columns, ranks = np.stack([choose(group, length) for group in lengths], axis=1)
  num_rows = min(rounded_rows(int(rows.max()) + 1, steps_an_octave), lengths.shape[1])
  return rows * length + columns, ranks, num_rows


def pack_batch(features: Mapping[str, np.ndarray], lengths: np.ndarray, length: int,
               pack: bool, steps_an_octave: int = 4, num_rows: int | None = None) -> Batch:
  """Packs sequences into the rows of a batch.

  Args:
    features: name -> [all tokens] int, sequence after sequence.
    lengths: [..., B] tokens of each sequence; 0 only fills up. Every group along the last axis
      (a device's, or a device's micro-batch) is packed by itself, all into equally many rows.
    length: tokens a row, at least those of the longest sequence.
    pack: False gives every sequence its own row.
    steps_an_octave: of the ladder that the number of rows is rounded up on.
    num_rows: of a group, where groups on other hosts may need more than these (`rows_of_all`).

  Returns:
    The features, position_ids and sequence_ids as [..., R, length], and cls_positions
    [..., B], each sequence's first token in its group's flattened rows; all int32.
  """
  *leading, group_size = lengths.shape
  sizes = lengths.reshape(-1, group_size)
  starts, ranks, enough = place_sequences(sizes, length, pack, steps_an_octave)
  num_rows = num_rows or enough
  starts = np.where(sizes > 0, starts, 0)
  group_starts = np.arange(len(sizes))[:, None] * num_rows * length
  sizes, firsts, ranks = (x.reshape(-1) for x in (sizes, starts + group_starts, ranks))
  position_ids = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
  to = np.repeat(firsts, sizes) + position_ids
  batch = {}
  for name, value in {**features, "position_ids": position_ids,
                      "sequence_ids": np.repeat(ranks, sizes)}.items():
    rows = np.zeros(math.prod(leading) * num_rows * length, np.int32)
    rows[to] = value
    batch[name] = rows.reshape(*leading, num_rows, length)
  return batch | {"cls_positions": starts.astype(np.int32).reshape(lengths.shape)}


def rows_of_all(lengths: np.ndarray, length: int, pack: bool, steps_an_octave: int = 4) -> int:
  """Returns the rows of each group of a batch; see `pack_batch` for the arguments."""
  return place_sequences(lengths.reshape(-1, lengths.shape[-1]), length, pack, steps_an_octave)[2]


# --- Batches --------------------------------------------------------------------------------


def make_batch(split: TokenizedSplit, indices: np.ndarray, length: int, pack: bool,
               mine: slice = ALL, num_rows: int | None = None) -> Batch:
  """Builds one batch of labelled examples.

  Args:
    split: the tokenized split.
    indices: [..., B] the examples; -1 makes an empty one of weight 0.
    length: tokens a row, at least those of the longest example.
    pack: False gives every example its own row.
    mine: positions of this host's devices on the first axis.
    num_rows: rows of each group, enough for it; None: as few of the ladder as are needed.

  Returns:
    The batch described at the top of this file, with the leading axes of `indices[mine]`.
  """
  if mine != ALL:
    num_rows = rows_of_all(np.where(indices < 0, 0, split.lengths[indices]), length, pack)
    indices = indices[mine]
  fills = indices < 0
  lengths = np.where(fills, 0, split.lengths[indices])
  flat, sizes = indices.reshape(-1), lengths.reshape(-1)
  within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
  features = {"input_ids": split.tokens[np.repeat(split.offsets[flat], sizes) + within],
              "token_type_ids": within >= np.repeat(split.first_lengths[flat], sizes)}
  labels = split.labels[indices]
  labels[fills] = 0
  return pack_batch(features, lengths, length, pack, num_rows=num_rows) | {
      "labels": labels, "weights": (~fills).astype(np.float32)}


def shuffled_batches(split: TokenizedSplit, *, seed: int, first_step: int, num_steps: int,
                     batch_size: int, devices: int, micro_batches: int, length: int,
                     pack: bool, mine: slice = ALL) -> Iterator[Batch]:
  """Yields training batches first_step .. num_steps - 1, as [devices, micro_batches, ...].

  `devices` are those of all hosts; `mine` are this host's positions among them.
  """
  for step in range(first_step, num_steps):
    indices = batch_indices(seed, step, batch_size, len(split))
    yield make_batch(split, indices.reshape(devices, micro_batches, -1), length, pack, mine)


def ordered_batches(split: TokenizedSplit, *, batch_size: int, devices: int, length: int,
                    pack: bool, mine: slice = ALL) -> Iterator[Batch]:
  """Yields every example once, in order, as [devices, ...]; the last batch is filled up.

  `devices` are those of all hosts; `mine` are this host's positions among them.
  """
  indices = np.full(-(-len(split) // batch_size) * batch_size, -1)
  indices[:len(split)] = np.arange(len(split))
  for batch in indices.reshape(-1, devices, batch_size // devices):
    yield make_batch(split, batch, length, pack, mine)


def filled_batches(split: TokenizedSplit, examples: np.ndarray, *, devices: int, num_rows: int,
                   length: int, slots: int) -> Iterator[tuple[np.ndarray, Batch]]:
  """Yields some examples once, in batches of one shape whose rows are as full as they can be.

  Where `ordered_batches` gives each batch equally many examples and the rows that they need, this
  gives each batch the same rows and as many examples as fit.

  Args:
    split: the tokenized split.
    examples: [n] the ones to take, about in this order.
    devices: the leading axis.
    num_rows: rows of a device's batch.
    length: tokens a row, at least those of the longest of the examples.
    slots: examples of a device's batch at most.

  Yields:
    [devices, slots] the examples of the batch, -1 for an empty one, and the batch.
  """
  waiting = examples
  while len(waiting):
    indices = np.full((devices, slots), -1)
    for group in indices:
      some = waiting[:slots]
      some = some[:np.searchsorted(np.cumsum(split.lengths[some]), num_rows * length, "right")]
      fits = first_fit(split.lengths[some], length)[0] < num_rows
      group[:fits.sum()] = some[fits]
      waiting = np.concatenate([some[~fits], waiting[len(some):]])
    yield indices, make_batch(split, indices, length, pack=True, num_rows=num_rows)


def prefetch(items: Iterable[T], ahead: int = 2) -> Iterator[T]:
  """Makes `items` in a thread, up to `ahead` before they are asked for."""
  iterator = iter(items)
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    pending = collections.deque(pool.submit(next, iterator, _END) for _ in range(ahead))
    while (item := pending.popleft().result()) is not _END:
      pending.append(pool.submit(next, iterator, _END))
      yield item
