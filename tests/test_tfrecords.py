"""TensorFlow reads what we write, we read what it writes, and damage is named by its record."""

import gzip
import struct
import subprocess
import sys

from conftest import ROOT
import numpy as np
import pytest

from pretraining import tfrecords
from support.errors import UserError


def example(number, length=8, predictions=2):
  """The features of a record; its number is in them."""
  return {"input_ids": [number, 127, 128, 300, 30521, 2**21, 255, 256][:length],
          "input_mask": [1] * length, "segment_ids": [0] * length,
          "masked_lm_positions": [1, 2][:predictions], "masked_lm_ids": [4, 70000][:predictions],
          "masked_lm_weights": [1.0, 0.0][:predictions], "next_sentence_labels": [number % 2]}


def write(path, examples):
  tfrecords.write_records(path, map(tfrecords.encode_example, examples))
  return path


def complaint(path):
  with pytest.raises(UserError) as raised:
    list(tfrecords.read_records(path, batch=3))
  return str(raised.value)


def test_tensorflow_reads_what_is_written(tmp_path):
  import tensorflow as tf

  written = [example(i) | {"empty": [], "negative": [-1, -2**63], "large": [2**62],
                           "bytes": [0, 127, 128, 255],
                           "fraction": [0.5, -1e-30]} for i in range(5)]
  path = write(tmp_path / "a", written)
  read = [tf.train.Example.FromString(record.numpy()) for record in
          tf.data.TFRecordDataset(str(path))]
  assert len(read) == 5
  for features, record in zip(written, read, strict=True):
    assert set(record.features.feature) == set(features)
    for name, values in features.items():
      feature = record.features.feature[name]
      kind = feature.WhichOneof("kind")
      assert kind == ("float_list" if name in ("fraction", "masked_lm_weights") else "int64_list")
      expected = np.asarray(values, np.float32).tolist() if kind == "float_list" else values
      assert list(getattr(feature, kind).value) == expected, name


def test_what_is_written_is_read_again(tmp_path):
  path = write(tmp_path / "a", [example(i) for i in range(7)])
  batches = list(tfrecords.read_records(path, batch=3))
  assert [len(batch["input_ids"]) for batch in batches] == [3, 3, 1]
  for batch in batches:
    assert tuple(batch) == tfrecords.FEATURES
    n = len(batch["input_ids"])
    assert {name: (array.shape, str(array.dtype)) for name, array in batch.items()} == {
        **dict.fromkeys(tfrecords.FEATURES[:3], ((n, 8), "int32")),
        **dict.fromkeys(tfrecords.FEATURES[3:5], ((n, 2), "int32")),
        "masked_lm_weights": ((n, 2), "float32"), "next_sentence_labels": ((n,), "int32")}
  for name in tfrecords.FEATURES:
    together = np.concatenate([batch[name] for batch in batches])
    expected = np.asarray([example(i)[name] for i in range(7)])
    np.testing.assert_array_equal(together.reshape(expected.shape), expected)


def test_what_tensorflow_writes_is_read(tmp_path):
  import tensorflow as tf

  path = tmp_path / "a"
  with tf.io.TFRecordWriter(str(path)) as writer:
    for i in range(4):
      features = {name: tf.train.Feature(float_list=tf.train.FloatList(value=values))
                  if name == "masked_lm_weights" else
                  tf.train.Feature(int64_list=tf.train.Int64List(value=values))
                  for name, values in example(i).items()}
      writer.write(tf.train.Example(features=tf.train.Features(
          feature=features)).SerializeToString())
  assert tfrecords.is_tfrecord(path)
  batch, = tfrecords.read_records(path)
  np.testing.assert_array_equal(batch["input_ids"], [example(i)["input_ids"] for i in range(4)])
  np.testing.assert_array_equal(batch["next_sentence_labels"], [0, 1, 0, 1])


def test_the_originals_records_are_read(shared):
  folder = shared / "golden" / "pretraining_data"
  for name, count in (("bert", 279), ("bert_wwm", 281)):
    batch, = tfrecords.read_records(folder / f"{name}.tfrecord")
    assert batch["input_ids"].shape == (count, 128)
    assert (batch["input_ids"][:, 0] == 101).all()


def test_an_empty_file_yields_nothing(tmp_path):
  assert list(tfrecords.read_records(write(tmp_path / "a", []))) == []


def test_is_tfrecord(tmp_path):
  assert tfrecords.is_tfrecord(write(tmp_path / "a", [example(0)]))
  for content in (b"", b"short", b"Just some text that is long enough.", bytes(40)):
    (tmp_path / "b").write_bytes(content)
    assert not tfrecords.is_tfrecord(tmp_path / "b")


def test_damage_is_named_by_its_record(tmp_path):
  path = write(tmp_path / "a", [example(i) for i in range(10)])
  content = path.read_bytes()
  size = len(content) // 10
  assert len(content) == 10 * size  # all are as long

  def message(damaged):
    path.write_bytes(damaged)
    return complaint(path)

  def flipped(at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1:]

  begin = f"{path}: record 7 is corrupt or cut off "
  assert message(flipped(6 * size + 2)).startswith(begin + "(its length has the wrong checksum)")
  for at in (6 * size + 50, 7 * size - 1):
    assert message(flipped(at)).startswith(begin + "(its data has the wrong checksum); make")
  assert message(content[:6 * size + 5]).startswith(begin + "(the file ends within its length)")
  for end in (6 * size + 12, 6 * size + 40, 7 * size - 1):
    assert message(content[:end]).startswith(begin + "(the file ends within its data: ")
  path.write_text("This is a text, not a file of records.\n")
  assert "record 1 is corrupt or cut off" in complaint(path)
  assert "if it is a TFRecord file at all" in complaint(path)


def test_records_of_something_else(tmp_path):
  path = tmp_path / "a"

  def message(bad):
    write(path, [*map(example, range(4)), bad, example(5)])  # read three at a time
    return complaint(path).removeprefix(f"{path}: ")

  without = {name: values for name, values in example(4).items() if name != "segment_ids"}
  assert message(without).startswith("record 5 has no feature 'segment_ids' but 'input_ids', ")
  assert message(without).endswith("; not a file of BERT pre-training examples")
  assert "record 5 has no int64_list in feature 'input_ids'" in message(
      example(4) | {"input_ids": [0.5] * 8})
  assert message(example(4, length=6)) == (
      "record 5 has 6 input_ids, 2 masked_lm_ids, record 1 has 8 input_ids, 2 masked_lm_ids; "
      "all records of a file must have the same lengths")
  assert "record 5 has 8 input_ids, 8 input_mask, 5 segment_ids, which must" in message(
      example(4) | {"segment_ids": [0] * 5})
  assert "record 5 has 2 next_sentence_labels, not one" in message(
      example(4) | {"next_sentence_labels": [0, 1]})
  write(path, [{"image": [1]}])
  assert complaint(path).startswith(f"{path}: record 1 has no feature 'input_ids' but 'image'; not")
  tfrecords.write_records(path, [b"no protocol buffer"])
  assert "record 1 is no tf.train.Example" in complaint(path)


@pytest.mark.parametrize("length", [2**62, 2**64 - 1, 2**33, 214])
def test_a_length_is_not_believed_beyond_the_file(tmp_path, length):
  path = write(tmp_path / "a", [example(0)])
  size = path.stat().st_size
  head = struct.pack("<Q", length)
  with path.open("ab") as file:
    file.write(head + tfrecords._checksum(head) + b"x" * 99)
  assert complaint(path) == (f"{path}: record 2 is corrupt or cut off (the file ends within its "
                             f"data: {length} bytes, of which 95 are there); make the file again")
  assert size > 99


def test_a_gzipped_file_is_named(tmp_path):
  path = write(tmp_path / "a", [example(0)])
  path.write_bytes(gzip.compress(path.read_bytes()))
  assert complaint(path) == f"{path} is gzipped; unpack it: gunzip"


A_TOKEN = "that of a token in the row, each once"
SEGMENTS = "0, then 1 up to the padding"
AN_ID = "from 0 to 999, the last of the vocabulary; was it another one?"


@pytest.mark.parametrize(("name", "place", "value", "right"), [
    ("input_ids", 3, -1, AN_ID), ("input_ids", 7, -7, AN_ID), ("input_ids", 0, 2**32 + 5, AN_ID),
    ("input_ids", 5, 1000, AN_ID),
    ("input_mask", 2, 0, "1 for the tokens, then 0"), ("input_mask", 7, 1, None),
    ("input_mask", 0, 2, "1 for the tokens, then 0"), ("input_mask", 1, -1, None),
    ("segment_ids", 4, -1, SEGMENTS), ("segment_ids", 7, 9, SEGMENTS),
    ("segment_ids", 5, 0, SEGMENTS), ("masked_lm_positions", 1, 1, A_TOKEN),
    ("masked_lm_positions", 1, 1_000_000, A_TOKEN), ("masked_lm_positions", 0, -3, A_TOKEN),
    ("masked_lm_positions", 0, 8, A_TOKEN), ("masked_lm_positions", 1, 6, A_TOKEN),
    ("masked_lm_ids", 0, -1, AN_ID), ("masked_lm_ids", 1, 2**32 + 5, AN_ID),
    ("masked_lm_weights", 1, float("nan"), "a number from 0 to 1"),
    ("masked_lm_weights", 1, 1.5, "a number from 0 to 1"),
    ("masked_lm_weights", 1, -1.0, "a number from 0 to 1"),
    ("next_sentence_labels", 0, 2, "0 or 1"), ("next_sentence_labels", 0, -1, "0 or 1")])
def test_impossible_values(tmp_path, name, place, value, right):
  def record():
    return {"input_ids": list(range(8)), "input_mask": [1] * 6 + [0] * 2,
            "segment_ids": [0, 0, 0, 0, 1, 1, 0, 0], "masked_lm_positions": [1, 5, 0],
            "masked_lm_ids": [4, 999, 0], "masked_lm_weights": [1.0, 1.0, 0.0],
            "next_sentence_labels": [1]}

  bad = record()
  bad[name][place] = value
  path = write(tmp_path / "a", [*(record() for _ in range(4)), bad, record()])
  with pytest.raises(UserError) as raised:
    list(tfrecords.read_records(path, vocab_size=1000, batch=3))
  if right is None:  # another mask than ones and zeros is named where it first differs from that
    assert str(raised.value).startswith(f"{path}: record 5 has ") and "in input_mask" in str(
        raised.value)
  else:
    at = f", at {place}" if name != "next_sentence_labels" else ""
    assert str(raised.value) == (
        f"{path}: record 5 has {value} in {name}{at}; it must be {right}")


def test_predictions_of_weight_0_may_hold_anything(tmp_path):
  padded = {"masked_lm_positions": [1, 1_000_000], "masked_lm_ids": [4, -2**40],
            "masked_lm_weights": [1.0, 0.0]}
  batch, = tfrecords.read_records(write(tmp_path / "a", [example(0) | padded]))
  assert batch["masked_lm_positions"].tolist() == [[1, 0]]
  assert batch["masked_lm_ids"].tolist() == [[4, 0]]


def test_a_name_that_is_not_utf8(tmp_path):
  content = tfrecords.encode_example(example(0))
  tfrecords.write_records(tmp_path / "a", [content.replace(b"segment_ids", b"segment_\xffds")])
  assert complaint(tmp_path / "a").startswith(f"{tmp_path}/a: record 1 ")
  extra = content + tfrecords.encode_example({"abc": [1]}).replace(b"abc", b"\xff\xfe\xfd")
  for place in (1, 2, 3):  # tensorflow would take it but as the first
    contents = [content] * 3
    contents[place - 1] = extra
    tfrecords.write_records(tmp_path / "a", contents)
    assert complaint(tmp_path / "a") == (
        f"{tmp_path}/a: record {place} is no tf.train.Example, or has a feature whose name is not "
        "UTF-8; not a file of BERT pre-training examples")


def test_what_is_no_token_may_hold_anything_in_range(tmp_path):
  """Padding of another writer: a [PAD] that is not 0, segment 1, the same position of weight 0."""
  padded = {"input_ids": [5, 5, 7, 7], "input_mask": [1, 1, 0, 0], "segment_ids": [0, 1, 0, 1],
            "masked_lm_positions": [1, 0, 1, 0], "masked_lm_ids": [4, 4, 4, 4],
            "masked_lm_weights": [1.0, 0.0, 0.0, 0.0], "next_sentence_labels": [1]}
  batch, = tfrecords.read_records(write(tmp_path / "a", [padded]))
  assert batch["input_ids"].tolist() == [padded["input_ids"]]
  assert batch["segment_ids"].tolist() == [padded["segment_ids"]]


def test_a_failed_write_names_the_file(tmp_path):
  with pytest.raises(OSError) as raised:
    write(tmp_path / "none" / "a", [example(0)])
  assert raised.value.filename == str(tmp_path / "none" / "a")

  def full():
    yield b"content"
    raise OSError(28, "No space left on device")  # as file.write has it: without a name

  with pytest.raises(OSError) as raised:
    tfrecords.write_records(tmp_path / "a", full())
  assert raised.value.filename == str(tmp_path / "a")


def test_writing_imports_no_tensorflow(tmp_path):
  code = ("import sys; from pretraining import tfrecords; "
          f"tfrecords.write_records({str(tmp_path / 'a')!r}, [tfrecords.encode_example("
          "{'x': [1]})]); "
          f"assert tfrecords.is_tfrecord({str(tmp_path / 'a')!r}); "
          "assert 'tensorflow' not in sys.modules")
  subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
