"""TFRecord files of pre-training examples, in the format of the original's scripts.

A record is the length of its data (8 bytes), the length's checksum (4), the data and the data's
checksum (4), little-endian; a checksum is a masked CRC-32C. The data is a serialized
`tf.train.Example`, which tensorflow parses. Writing does without it: every worker process would
import it, which takes seconds and 400 MB.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import itertools
import os
import pathlib
import struct
from typing import Any

import google_crc32c
import numpy as np

from support.errors import first_line, UserError

FEATURES = ("input_ids", "input_mask", "segment_ids", "masked_lm_positions", "masked_lm_ids",
            "masked_lm_weights", "next_sentence_labels")
_FLOATS = ("masked_lm_weights",)
_SAME_LENGTH = (FEATURES[:3], FEATURES[3:6])

_HEAD = struct.Struct("<QI")
_TAIL = struct.Struct("<I")
_GZIP_MAGIC = b"\x1f\x8b"
_OTHER = "not a file of BERT pre-training examples"
# Tags of the protocol: field number << 3 | 2; 2 means that the length comes before the content.
_FIELD_1, _FIELD_2, _FIELD_3 = b"\x0a", b"\x12", b"\x1a"


# --- Writing --------------------------------------------------------------------------------


class _Varints(dict[int, bytes]):
  """Integer -> its bytes in the protocol, each computed once."""

  def __missing__(self, value: int) -> bytes:
    rest, encoded = value % (1 << 64), bytearray()
    while rest >= 0x80:
      encoded.append(rest & 0x7f | 0x80)
      rest >>= 7
    encoded.append(rest)
    self[value] = bytes(encoded)
    return self[value]


_VARINTS = _Varints()


def encode_example(features: Mapping[str, Sequence[int] | Sequence[float]]) -> bytes:
  """Serializes a `tf.train.Example`; a feature whose first value is a float is a float list."""
  entries = []
  for name, values in features.items():
    if values and isinstance(values[0], float):
      feature = _message(_FIELD_2, _message(_FIELD_1, struct.pack(f"<{len(values)}f", *values)))
    else:
      feature = _message(_FIELD_3, _message(_FIELD_1, _packed(values)))
    entry = _message(_FIELD_1, name.encode()) + _message(_FIELD_2, feature)
    entries.append(_message(_FIELD_1, entry))
  return _message(_FIELD_1, b"".join(entries))


def _packed(values: Sequence[int]) -> bytes:
  try:
    if (small := bytes(values)).isascii():  # below 128 an integer is its own byte
      return small
  except ValueError:  # one is above 255
    pass
  return b"".join(map(_VARINTS.__getitem__, values))


def _message(tag: bytes, content: bytes) -> bytes:
  return tag + _VARINTS[len(content)] + content


def write_records(path: str | os.PathLike[str], examples: Iterable[bytes]) -> None:
  """Writes serialized examples to a TFRecord file.

  A failure leaves a half-written file: give a temporary name if that matters.

  Raises:
    OSError: with the file's name, also when the disk is full.
  """
  try:
    with open(path, "wb") as file:
      for content in examples:
        length = struct.pack("<Q", len(content))
        file.write(b"".join((length, _checksum(length), content, _checksum(content))))
  except OSError as error:
    error.filename = error.filename or str(path)
    raise


def _checksum(content: bytes) -> bytes:
  return _TAIL.pack(_masked_crc(content))


def _masked_crc(content: bytes) -> int:
  crc = google_crc32c.value(content)
  return ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff


# --- Reading --------------------------------------------------------------------------------


def is_tfrecord(path: str | os.PathLike[str]) -> bool:
  """Tells whether a file begins with a record's length and its checksum; an empty one does not."""
  with open(path, "rb") as file:
    return begins_record(file.read(_HEAD.size))


def begins_record(content: bytes) -> bool:
  """Tells whether bytes begin with a record's length and its checksum."""
  head = content[:_HEAD.size]
  return len(head) == _HEAD.size and _HEAD.unpack(head)[1] == _masked_crc(head[:8])


def read_records(path: str | os.PathLike[str], vocab_size: int = 1 << 31,
                 batch: int = 1024) -> Iterator[dict[str, np.ndarray]]:
  """Yields a file's examples in order, `batch` at a time, all checksums and values verified.

  Args:
    path: the file.
    vocab_size: every token id must be below it.
    batch: examples of a batch.

  Yields:
    Dicts with the keys FEATURES. input_ids, input_mask and segment_ids are [n, length], the
    masked_lm_ features [n, predictions], next_sentence_labels [n]; int32, but for
    masked_lm_weights: float32. An empty file yields nothing.

  Raises:
    UserError: the file is damaged, holds other records or impossible values; names the file, the
      record (from 1) and its fault.
  """
  tf = _tensorflow()
  file = pathlib.Path(path)
  lengths: dict[str, int] = {}
  numbered = enumerate(_serialized(file), 1)
  while chunk := list(itertools.islice(numbered, batch)):
    (first, *_), serialized = zip(*chunk, strict=True)
    for number, record in chunk:  # parse_example alone takes names that are not UTF-8
      _features(file, number, record)
    lengths = lengths or _feature_lengths(file, first, serialized[0])
    specification = {
        name: tf.io.FixedLenFeature([length], tf.float32 if name in _FLOATS else tf.int64)
        for name, length in lengths.items()}
    try:
      parsed = tf.io.parse_example(serialized, specification)
    except (tf.errors.InvalidArgumentError, UnicodeDecodeError) as error:  # its message has bytes
      for number, record in chunk:
        found = _feature_lengths(file, number, record)
        if found != lengths:
          raise _differs(file, number, found, lengths) from error
      raise UserError(f"{file}: one of the records {first} to {chunk[-1][0]} cannot be read: "
                      f"{first_line(error)}") from error
    arrays = {name: parsed[name].numpy() for name in FEATURES}
    arrays["next_sentence_labels"] = arrays["next_sentence_labels"][:, 0]
    _check_values(file, first, arrays, vocab_size)
    yield {name: array if name in _FLOATS else array.astype(np.int32)
           for name, array in arrays.items()}


def _check_values(file: pathlib.Path, first: int, arrays: dict[str, np.ndarray],
                  vocab_size: int) -> None:
  """Raises a UserError for the first impossible value; `first` is the number of row 0.

  Predictions of weight 0 are padding, which may hold anything: what is outside becomes 0.
  Padding after the tokens may have any id of the vocabulary and either segment.
  """
  mask, weights = arrays["input_mask"], arrays["masked_lm_weights"]
  tokens = np.maximum(mask.sum(1, keepdims=True), 1)  # [n, 1]; at least [CLS]
  ids, positions = arrays["masked_lm_ids"], arrays["masked_lm_positions"]
  for padded, end in ((ids, vocab_size), (positions, tokens)):
    padded[(weights == 0) & _outside(padded, end)] = 0
  segments = arrays["segment_ids"]
  falls = np.diff(segments, axis=1, prepend=0) < 0
  an_id = f"from 0 to {vocab_size - 1}, the last of the vocabulary; was it another one?"
  faults = {
      "input_ids": (_outside(arrays["input_ids"], vocab_size), an_id),
      "input_mask": (mask != (np.arange(mask.shape[1]) < tokens), "1 for the tokens, then 0"),
      "segment_ids": (_outside(segments, 2) | falls & (mask == 1), "0, then 1 up to the padding"),
      "masked_lm_positions": (_outside(positions, tokens) | _repeated(positions, weights > 0),
                              "that of a token in the row, each once"),
      "masked_lm_ids": (_outside(ids, vocab_size), an_id),
      "masked_lm_weights": (~((weights >= 0) & (weights <= 1)), "a number from 0 to 1"),
      "next_sentence_labels": (_outside(arrays["next_sentence_labels"], 2), "0 or 1")}
  for name, (wrong, right) in faults.items():
    if wrong.any():
      place = np.unravel_index(wrong.argmax(), wrong.shape)
      raise UserError(f"{file}: record {first + place[0]} has {arrays[name][place]} in {name}"
                      + (f", at {place[1]}" if len(place) > 1 else "") + f"; it must be {right}")


def _outside(values: np.ndarray, end: int | np.ndarray) -> np.ndarray:
  return (values < 0) | (values >= end)


def _repeated(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
  """Marks the counted values, [n, k], that stand earlier in their row too."""
  distinct = np.where(counted, values, -1 - np.arange(values.shape[1]))
  order = np.argsort(distinct, axis=1, kind="stable")
  repeated = np.zeros(values.shape, bool)
  same = np.diff(np.take_along_axis(distinct, order, 1), axis=1) == 0
  np.put_along_axis(repeated, order[:, 1:], same, axis=1)
  return repeated


def _tensorflow() -> Any:
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # else it writes a notice to stderr
  import tensorflow as tf  # here: it takes seconds to import, and only reading needs it

  tf.config.set_visible_devices([], "GPU")  # it would take all the memory that JAX needs
  return tf


def _serialized(file: pathlib.Path) -> Iterator[bytes]:
  """Yields the data of a file's records; no length is believed beyond the file's end."""
  left = file.stat().st_size
  with file.open("rb") as stream:
    for number in itertools.count(1):
      head = stream.read(_HEAD.size)
      if not head:
        return
      if len(head) < _HEAD.size:
        raise _damaged(file, number, "the file ends within its length")
      if head.startswith(_GZIP_MAGIC) and number == 1:
        raise UserError(f"{file} is gzipped; unpack it: gunzip")
      if not begins_record(head):
        raise _damaged(file, number, "its length has the wrong checksum")
      length, left = _HEAD.unpack(head)[0], left - _HEAD.size
      if length + _TAIL.size > left:
        raise _damaged(file, number, f"the file ends within its data: {length} bytes, of which "
                       f"{max(left - _TAIL.size, 0)} are there")
      content, tail = stream.read(length), stream.read(_TAIL.size)
      if tail != _checksum(content):
        raise _damaged(file, number, "its data has the wrong checksum")
      left -= length + _TAIL.size
      yield content


def _damaged(file: pathlib.Path, number: int, fault: str) -> UserError:
  advice = ", if it is a TFRecord file at all" if number == 1 else ""
  return UserError(f"{file}: record {number} is corrupt or cut off ({fault}); make the file again"
                   f"{advice}")


def _features(file: pathlib.Path, number: int, record: bytes) -> Mapping[str, Any]:
  """Returns a record's name -> `tf.train.Feature`; refuses names that tensorflow would not."""
  try:
    return _tensorflow().train.Example.FromString(record).features.feature
  except Exception as error:  # protobuf's DecodeError, whose module has moved between versions
    raise UserError(f"{file}: record {number} is no tf.train.Example, or has a feature whose name "
                    f"is not UTF-8; {_OTHER}") from error


def _feature_lengths(file: pathlib.Path, number: int, record: bytes) -> dict[str, int]:
  """Returns feature -> number of values in a record, which must have all of FEATURES."""
  where = f"{file}: record {number}"
  features = _features(file, number, record)
  lengths = {}
  for name in FEATURES:
    if name not in features:
      raise UserError(f"{where} has no feature {name!r} but "
                      f"{', '.join(map(repr, sorted(features))) or 'none'}; {_OTHER}")
    kind = "float_list" if name in _FLOATS else "int64_list"
    if features[name].WhichOneof("kind") != kind:
      raise UserError(f"{where} has no {kind} in feature {name!r}; {_OTHER}")
    lengths[name] = len(getattr(features[name], kind).value)
    if not lengths[name]:
      raise UserError(f"{where} has nothing in feature {name!r}; {_OTHER}")
  for names in _SAME_LENGTH:
    if len({lengths[name] for name in names}) > 1:
      raise UserError(f"{where} has {_listed(lengths, names)}, which must be as many of each; "
                      f"{_OTHER}")
  if lengths["next_sentence_labels"] != 1:
    raise UserError(f"{where} has {lengths['next_sentence_labels']} next_sentence_labels, not "
                    f"one; {_OTHER}")
  return lengths


def _differs(file: pathlib.Path, number: int, found: Mapping[str, int],
             first: Mapping[str, int]) -> UserError:
  names = ("input_ids", "masked_lm_ids")
  return UserError(f"{file}: record {number} has {_listed(found, names)}, record 1 has "
                   f"{_listed(first, names)}; all records of a file must have the same lengths")


def _listed(lengths: Mapping[str, int], names: Sequence[str]) -> str:
  return ", ".join(f"{lengths[name]} {name}" for name in names)
