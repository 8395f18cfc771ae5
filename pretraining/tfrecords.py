"""TFRecord files of pre-training examples, as the original's create_pretraining_data.py has them.

A file is a row of records: the length of the data (8 bytes), its checksum (4), the data, its
checksum (4), little-endian; the checksum is a masked CRC-32C. The data is a serialized
`tf.train.Example`. Writing needs no tensorflow, whose import takes seconds and 400 MB.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import itertools
import os
import pathlib
import struct
from typing import Any, BinaryIO

import google_crc32c
import numpy as np

from support.errors import UserError

FEATURES = ("input_ids", "input_mask", "segment_ids", "masked_lm_positions", "masked_lm_ids",
            "masked_lm_weights", "next_sentence_labels")
_FLOATS = ("masked_lm_weights",)
_SAME_LENGTH = (FEATURES[:3], FEATURES[3:6])

_HEAD = struct.Struct("<QI")
_TAIL = struct.Struct("<I")
# Tags of the protocol: field number << 3 | 2, for what carries its own length.
_FIELD_1, _FIELD_2, _FIELD_3 = b"\x0a", b"\x12", b"\x1a"


# --- Writing --------------------------------------------------------------------------------


class _Varints(dict[int, bytes]):
  """Integer -> its bytes in the protocol, each worked out once."""

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
  """A serialized `tf.train.Example`: a float list where the first value is a float."""
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

  The file grows under its own name; give a temporary one where a half-written file would hurt.

  Raises:
    OSError: with the file's name, as where the disk is full.
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
  """Whether a file begins as a TFRecord file does; an empty file does not."""
  with open(path, "rb") as file:
    head = file.read(_HEAD.size)
  return len(head) == _HEAD.size and _HEAD.unpack(head)[1] == _masked_crc(head[:8])


def read_records(path: str | os.PathLike[str],
                 batch: int = 1024) -> Iterator[dict[str, np.ndarray]]:
  """Yields a file's examples in order, `batch` at a time, all checksums verified.

  Returns:
    Dicts with the keys FEATURES. input_ids, input_mask and segment_ids are [n, length], the
    masked_lm_ features [n, predictions], next_sentence_labels [n]; int32, but for
    masked_lm_weights: float32. An empty file yields nothing.

  Raises:
    UserError: a damaged file, or one of something else: the file, the record (from 1), what.
  """
  file = pathlib.Path(path)
  specification = None
  number = 1
  records = _records(file)
  while serialized := list(itertools.islice(records, batch)):
    tf = _tensorflow()
    if specification is None:
      lengths = _lengths(file, 1, serialized[0])
      specification = {
          name: tf.io.FixedLenFeature([length], tf.float32 if name in _FLOATS else tf.int64)
          for name, length in lengths.items()}
    try:
      parsed = tf.io.parse_example(serialized, specification)
    except tf.errors.InvalidArgumentError as error:
      for i, record in enumerate(serialized, number):
        found = _lengths(file, i, record)
        if found != lengths:
          raise _differs(file, i, found, lengths) from error
      raise
    arrays = {name: parsed[name].numpy() for name in FEATURES}
    yield {name: array if name in _FLOATS else array.astype(np.int32)
           for name, array in arrays.items()} | {
               "next_sentence_labels": arrays["next_sentence_labels"][:, 0].astype(np.int32)}
    number += len(serialized)


def _tensorflow() -> Any:
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it would say so on stderr
  import tensorflow as tf  # here: it takes seconds to import and only reading needs it

  tf.config.set_visible_devices([], "GPU")  # it would take all of the memory that JAX needs
  return tf


def _records(path: pathlib.Path) -> Iterator[bytes]:
  """The data of every record, its checksums verified."""
  with path.open("rb") as file:
    for number in itertools.count(1):
      head = file.read(_HEAD.size)
      if not head:
        return
      yield _record(file, head, f"{path}: record {number} is corrupt or cut off")


def _record(file: BinaryIO, head: bytes, complaint: str) -> bytes:
  if len(head) < _HEAD.size:
    raise UserError(f"{complaint} (the file ends within its length); make the file anew")
  length, crc = _HEAD.unpack(head)
  if crc != _masked_crc(head[:8]):
    raise UserError(f"{complaint} (its length has the wrong checksum); make the file anew, if "
                    "it is a TFRecord file at all")
  content, tail = file.read(length), file.read(_TAIL.size)
  if len(tail) < _TAIL.size:
    raise UserError(f"{complaint} (the file ends within its {length} bytes); make the file anew")
  if _TAIL.unpack(tail)[0] != _masked_crc(content):
    raise UserError(f"{complaint} (its {length} bytes have the wrong checksum); make the file "
                    "anew")
  return content


def _lengths(file: pathlib.Path, number: int, record: bytes) -> dict[str, int]:
  """Feature -> number of values in a record, which must be one of BERT's."""
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
