"""Text in, batches out: tokenize, order, pack, prefetch.

A batch is a dict of fixed-shape numpy arrays, with R rows of S tokens and B examples a device:

  input_ids, token_type_ids, position_ids  [R, S] int32; positions restart in every example
  sequence_ids                             [R, S] int32: 1, 2, ... by example; 0 is padding
  cls_positions                            [B] int32: each [CLS] in the flattened R * S tokens
  labels, weights                          [B]; weight 0 marks an example that only fills up

with leading axes [devices, micro-batches]. Packing several examples into a row changes no
number: attention stays inside an example (`modeling.attention_bias_from`). Batch t is a pure
function of (seed, t).
"""

import collections
from collections.abc import Iterable, Iterator, Sequence
import concurrent.futures
import dataclasses
import functools
import json
import os
import pathlib
from typing import Any, TypeVar

import numpy as np

from support import hub
from support.errors import first_line, UserError

Batch = dict[str, np.ndarray]
T = TypeVar("T")
IntOrArray = TypeVar("IntOrArray", int, np.ndarray)

ROW_MULTIPLE = 64  # rows are cut to a multiple of this where no example is longer
_END = object()


# --- Tokens ---------------------------------------------------------------------------------


def load_tokenizer(source: str, do_lower_case: bool | None) -> Any:
  """A BERT tokenizer from a folder or hub name.

  Args:
    source: a HuggingFace folder, a folder with a bare `vocab.txt`, or a hub name.
    do_lower_case: None: what the folder says; for a bare vocab.txt: True unless a word of the
      vocabulary has an upper-case letter.

  Raises:
    UserError: nothing usable there, or special tokens missing.
  """
  os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it misses torch, we do not
  import transformers  # here: seconds to import, and a bare accelerator machine may lack it

  advice = ("give a folder with tokenizer.json or vocab.txt: "
            "--config.tokenizer=/path/to/dir")
  folder = pathlib.Path(os.path.expanduser(source))
  if not folder.is_dir():
    try:
      folder = hub.snapshot(source, ("*.json", "*.txt"))
    except UserError as error:
      raise UserError(f"tokenizer {error}; {advice}") from error
  try:
    if (folder / "vocab.txt").exists() and not (folder / "tokenizer.json").exists():
      tokenizer = _tokenizer_from_vocab(folder, do_lower_case)
    else:
      lower = {} if do_lower_case is None else {"do_lower_case": do_lower_case}
      tokenizer = transformers.AutoTokenizer.from_pretrained(folder, use_fast=True, **lower)
  except UserError:
    raise
  except Exception as error:  # missing files, no network, malformed JSON: many types
    raise UserError(f"no tokenizer at {source!r}: {first_line(error)}; {advice}") from error
  missing = [name for name in ("cls_token", "sep_token", "pad_token", "unk_token")
             if getattr(tokenizer, f"{name}_id") is None]
  if missing:
    raise UserError(f"the tokenizer at {source!r} lacks {', '.join(missing)}")
  return tokenizer


def _tokenizer_from_vocab(folder: pathlib.Path, do_lower_case: bool | None) -> Any:
  """A tokenizer for a bare vocab.txt, with the settings of a tokenizer_config.json beside it."""
  import transformers

  settings = {}
  if (folder / "tokenizer_config.json").exists():
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
  words = (folder / "vocab.txt").read_text("utf-8").split("\n")
  missing = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}.difference(words)
  if missing:
    raise UserError(f"{folder / 'vocab.txt'} lacks {', '.join(sorted(missing))}")
  cased = any(w != w.lower() for w in words if not w.startswith("["))
  lower = settings.get("do_lower_case", not cased) if do_lower_case is None else do_lower_case
  known = {name: settings[name] for name in ("strip_accents", "tokenize_chinese_chars")
           if name in settings}
  return transformers.BertTokenizer(str(folder / "vocab.txt"), do_lower_case=lower, **known)


def vocabulary_size(tokenizer: Any) -> int:
  """Rows that an embedding table needs: the largest id, which there may be gaps below, and 1."""
  return max(tokenizer.get_vocab().values()) + 1


@dataclasses.dataclass(frozen=True)
class Examples:
  """Tokenized examples, ragged: example i is tokens[offsets[i]:offsets[i + 1]].

  Attributes:
    tokens: [all tokens] int32, with [CLS] and [SEP].
    offsets: [examples + 1] int64.
    first_lengths: [examples] int32: tokens of the first segment with [CLS] and its [SEP].
    labels: [examples] int32 classes or float32 values; zeros where there are none.
    truncated: how many were longer than allowed.
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


def tokenize(tokenizer: Any, first: Sequence[str], second: Sequence[str] | None,
             labels: np.ndarray, max_seq_length: int) -> Examples:
  """[CLS] first [SEP] (second [SEP]), truncated to `max_seq_length` tokens.

  The longer segment loses tokens from its back, the second one on a tie
  (`_truncate_seq_pair` of the original's run_classifier.py).
  """
  ids = functools.partial(tokenizer, add_special_tokens=False, return_attention_mask=False,
                          return_token_type_ids=False, verbose=False)
  first_ids = ids(list(first))["input_ids"]
  second_ids = ids(list(second))["input_ids"] if second is not None else [None] * len(first_ids)
  cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
  tokens, lengths, first_lengths, truncated = [], [], [], 0
  for a, b in zip(first_ids, second_ids, strict=True):
    truncated += len(a) + 2 + (0 if b is None else len(b) + 1) > max_seq_length
    if b is None:
      a = a[:max_seq_length - 2]
      example = [cls, *a, sep]
    else:
      keep_a, keep_b = pair_lengths(len(a), len(b), max_seq_length - 3)
      a = a[:keep_a]
      example = [cls, *a, sep, *b[:keep_b], sep]
    tokens.append(np.asarray(example, np.int32))
    lengths.append(len(example))
    first_lengths.append(len(a) + 2)
  return Examples(np.concatenate(tokens), np.concatenate([[0], np.cumsum(lengths)]),
                  np.asarray(first_lengths, np.int32), labels, truncated)


def pair_lengths(a: IntOrArray, b: IntOrArray, budget: int) -> tuple[IntOrArray, IntOrArray]:
  """What is left of two segments when the longer one (b on a tie) is popped until both fit."""
  return (np.minimum(a, np.maximum(budget - budget // 2, budget - b)),
          np.minimum(b, np.maximum(budget // 2, budget - a)))


# --- Order ----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
  return np.random.default_rng([seed, epoch]).permutation(size)


def batch_indices(seed: int, step: int, batch_size: int, size: int) -> np.ndarray:
  """Which of `size` examples make up batch `step`: [batch_size] int64.

  The batches cut up an endless stream of epochs, each a fresh permutation of all examples.
  """
  stream = np.arange(step * batch_size, (step + 1) * batch_size)
  epochs, places = np.divmod(stream, size)
  indices = np.empty(batch_size, np.int64)
  for epoch in np.unique(epochs):
    here = epochs == epoch
    indices[here] = _permutation(seed, int(epoch), size)[places[here]]
  return indices


# --- Packing --------------------------------------------------------------------------------


def row_length(longest: int, max_seq_length: int) -> int:
  """Tokens a row: room for the longest example, rounded up, at most `max_seq_length`."""
  return min(max_seq_length, -(-longest // ROW_MULTIPLE) * ROW_MULTIPLE)


def rounded_rows(rows: int, steps_an_octave: int = 4) -> int:
  """The next row count of a short ladder; with 4 steps an octave 1-8, 10, 12, 14, 16, 20, ...

  Few distinct shapes make few compilations.
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
  """`first_fit`'s answer without packing."""
  del length
  return np.arange(len(lengths)), np.zeros(len(lengths), np.int64), np.ones(len(lengths), np.int64)


def place_sequences(lengths: np.ndarray, length: int, pack: bool, steps_an_octave: int = 4
                    ) -> tuple[np.ndarray, np.ndarray, int]:
  """Where the sequences of each group go; groups are packed apart, into equally many rows.

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


def make_batch(examples: Examples, indices: np.ndarray, length: int, pack: bool) -> Batch:
  """Builds one batch.

  Args:
    examples: the tokenized split.
    indices: [..., B] which examples; -1 fills up. Every last-axis group is packed by itself
      (a device, or a device's micro-batch), all into the same number of rows.
    length: tokens a row, at least that of the longest example.
    pack: False gives every example its own row.

  Returns:
    The batch described at the top of this file, with `indices`' leading axes.
  """
  *leading, group_size = indices.shape
  groups = indices.reshape(-1, group_size)
  fills = groups < 0
  sizes = np.where(fills, 0, examples.lengths[groups])
  starts, ranks, num_rows = place_sequences(sizes, length, pack)
  starts = np.where(fills, 0, starts)
  tokens = _scatter(examples, groups, sizes, starts, ranks, num_rows * length)
  return {
      **{name: value.reshape(*leading, num_rows, length) for name, value in tokens.items()},
      "cls_positions": starts.astype(np.int32).reshape(indices.shape),
      "labels": np.where(fills, 0, examples.labels[groups]).astype(
          examples.labels.dtype).reshape(indices.shape),
      "weights": (~fills).astype(np.float32).reshape(indices.shape)}


def _scatter(examples: Examples, groups: np.ndarray, sizes: np.ndarray, starts: np.ndarray,
             ranks: np.ndarray, group_tokens: int) -> Batch:
  """Copies the tokens of `groups` [G, B] to `starts` [G, B] of arrays [G, group_tokens]."""
  total = len(groups) * group_tokens
  starts = starts + np.arange(len(groups))[:, None] * group_tokens
  groups, sizes, starts, ranks = (x.reshape(-1) for x in (groups, sizes, starts, ranks))
  within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
  values = {
      "input_ids": examples.tokens[np.repeat(examples.offsets[groups], sizes) + within],
      "token_type_ids": within >= np.repeat(examples.first_lengths[groups], sizes),
      "position_ids": within,
      "sequence_ids": np.repeat(ranks, sizes)}
  to = np.repeat(starts, sizes) + within
  batch = {}
  for name, value in values.items():
    batch[name] = np.zeros(total, np.int32)
    batch[name][to] = value
  return batch


# --- Batches --------------------------------------------------------------------------------


def train_batches(examples: Examples, *, seed: int, first_step: int, num_steps: int,
                  batch_size: int, devices: int, micro_batches: int, length: int,
                  pack: bool) -> Iterator[Batch]:
  """Batches first_step .. num_steps - 1, as [devices, micro_batches, ...]."""
  for step in range(first_step, num_steps):
    indices = batch_indices(seed, step, batch_size, len(examples))
    yield make_batch(examples, indices.reshape(devices, micro_batches, -1), length, pack)


def eval_batches(examples: Examples, *, batch_size: int, devices: int, length: int,
                 pack: bool) -> Iterator[Batch]:
  """Every example once, in order, as [devices, ...]; the last batch is filled up."""
  indices = np.full(-(-len(examples) // batch_size) * batch_size, -1)
  indices[:len(examples)] = np.arange(len(examples))
  for batch in indices.reshape(-1, devices, batch_size // devices):
    yield make_batch(examples, batch, length, pack)


def prefetch(items: Iterable[T], ahead: int = 2) -> Iterator[T]:
  """Makes `items` in a thread, up to `ahead` before they are asked for."""
  iterator = iter(items)
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    pending = collections.deque(pool.submit(next, iterator, _END) for _ in range(ahead))
    while (item := pending.popleft().result()) is not _END:
      pending.append(pool.submit(next, iterator, _END))
      yield item
