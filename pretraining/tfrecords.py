"""TFRecord files of pre-training examples, in the format of the original's scripts.

A record is the length of its data (8 bytes), the length's checksum (4), the data and the data's
checksum (4), little-endian; a checksum is a masked CRC-32C. The data is a serialized
`tf.train.Example`. tensorflow reads the files, but writing does without it: every worker process
would import it, which takes seconds and 400 MB.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import os
import pathlib
import struct
from typing import Any

import google_crc32c
import numpy as np

from support.errors import UserError

FEATURES = ("input_ids", "input_mask", "segment_ids", "masked_lm_positions", "masked_lm_ids",
            "masked_lm_weights", "next_sentence_labels")
_FLOATS = ("masked_lm_weights",)
_SAME_LENGTH = (FEATURES[:3], FEATURES[3:6])

_HEAD = struct.Struct("<QI")
_TAIL = struct.Struct("<I")
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


def read_records(path: str | os.PathLike[str],
                 batch: int = 1024) -> Iterator[dict[str, np.ndarray]]:
  """Yields a file's examples in order, `batch` at a time, all checksums verified.

  Yields:
    Dicts with the keys FEATURES. input_ids, input_mask and segment_ids are [n, length], the
    masked_lm_ features [n, predictions], next_sentence_labels [n]; int32, but for
    masked_lm_weights: float32. An empty file yields nothing.

  Raises:
    UserError: the file is damaged or holds other records; names the file, the record (from 1)
      and its fault.
  """
  tf = _tensorflow()
  file = pathlib.Path(path)
  lengths: dict[str, int] = {}
  for first, serialized in _read_serialized(file, batch):
    lengths = lengths or _feature_lengths(file, first, serialized[0].numpy())
    specification = {
        name: tf.io.FixedLenFeature([length], tf.float32 if name in _FLOATS else tf.int64)
        for name, length in lengths.items()}
    try:
      parsed = tf.io.parse_example(serialized, specification)
    except tf.errors.InvalidArgumentError as error:
      for number, record in enumerate(serialized.numpy(), first):
        found = _feature_lengths(file, number, record)
        if found != lengths:
          raise _differs(file, number, found, lengths) from error
      raise
    arrays = {name: parsed[name].numpy() for name in FEATURES}
    arrays["next_sentence_labels"] = arrays["next_sentence_labels"][:, 0]
    yield {name: array if name in _FLOATS else array.astype(np.int32)
           for name, array in arrays.items()}


def _tensorflow() -> Any:
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # else it writes a notice to stderr
  import tensorflow as tf  # here: it takes seconds to import, and only reading needs it

  tf.config.set_visible_devices([], "GPU")  # it would take all the memory that JAX needs
  return tf


def _read_serialized(file: pathlib.Path, batch: int) -> Iterator[tuple[int, Any]]:
  """Yields `batch` serialized examples as a string tensor, with the number of the first."""
  tf = _tensorflow()
  number, offset = 1, 0  # of the next record, in records and in bytes
  try:
    for serialized in tf.data.TFRecordDataset(str(file)).batch(batch):
      yield number, serialized
      number += len(serialized)
      offset += int(tf.reduce_sum(tf.strings.length(serialized) + _HEAD.size + _TAIL.size))
  except tf.errors.DataLossError as error:
    raise _damaged(file, number, offset) from error
  if offset != file.stat().st_size:  # tensorflow takes part of a head for the end of the file
    raise _damaged(file, number, offset)


def _damaged(file: pathlib.Path, number: int, offset: int) -> UserError:
  """Finds the first damaged record from a sound one on, whose number and first byte are given.

  tensorflow's error names a byte, and drops the records that the batch had before it.
  """
  tf = _tensorflow()
  fault, advice = "the file ends within its length", "make the file again"
  try:
    for record in tf.data.TFRecordDataset(str(file)).skip(number - 1).as_numpy_iterator():
      number += 1
      offset += _HEAD.size + len(record) + _TAIL.size
  except tf.errors.DataLossError as error:
    if "truncated record" in error.message:
      fault = "the file ends within its data"
    elif f"at {offset} " in error.message:
      fault = "its length has the wrong checksum"
      advice += ", if it is a TFRecord file at all"
    else:
      fault = "its data has the wrong checksum"
  return UserError(f"{file}: record {number} is corrupt or cut off ({fault}); {advice}")


def _feature_lengths(file: pathlib.Path, number: int, record: bytes) -> dict[str, int]:
  """Returns feature -> number of values in a record, which must have all of FEATURES."""
  tf = _tensorflow()
  where = f"{file}: record {number}"
  advice = "not a file of BERT pre-training examples"
  try:
    features = tf.train.Example.FromString(record).features.feature
  except Exception as error:  # protobuf's DecodeError, whose module has moved between versions
    raise UserError(f"{where} is no tf.train.Example; {advice}") from error
  lengths = {}
  for name in FEATURES:
    if name not in features:
      raise UserError(f"{where} has no feature {name!r} but "
                      f"{', '.join(map(repr, sorted(features))) or 'none'}; {advice}")
    kind = "float_list" if name in _FLOATS else "int64_list"
    if features[name].WhichOneof("kind") != kind:
      raise UserError(f"{where} has no {kind} in feature {name!r}; {advice}")
    lengths[name] = len(getattr(features[name], kind).value)
  for names in _SAME_LENGTH:
    if len({lengths[name] for name in names}) > 1:
      raise UserError(f"{where} has {_listed(lengths, names)}, which must be as many of each; "
                      f"{advice}")
  if lengths["next_sentence_labels"] != 1:
    raise UserError(f"{where} has {lengths['next_sentence_labels']} next_sentence_labels, not "
                    f"one; {advice}")
  return lengths


def _differs(file: pathlib.Path, number: int, found: Mapping[str, int],
             first: Mapping[str, int]) -> UserError:
  names = ("input_ids", "masked_lm_ids")
  return UserError(f"{file}: record {number} has {_listed(found, names)}, record 1 has "
                   f"{_listed(first, names)}; all records of a file must have the same lengths")


def _listed(lengths: Mapping[str, int], names: Sequence[str]) -> str:
  return ", ".join(f"{lengths[name]} {name}" for name in names)
