"""The cache of a corpus: what is kept, when it is made again, what bad input gets."""

import os
import pathlib
import shutil

import numpy as np
import pytest

from pretraining import corpus, tfrecords
from pretraining.corpus import open_corpus, part_of, Reading, Records
from support.errors import UserError

READING = Reading("auto", "text", "en", "strict", "")
LINES = "The film is good .\nIt was great .\n\nA bad plot .\n\n\nThe actor is dull .\n"


def features(n, length=8, predictions=2, largest=30):
  rng = np.random.default_rng(0)
  return {"input_ids": rng.integers(5, largest, (n, length)),
          "input_mask": np.ones((n, length), int), "segment_ids": np.zeros((n, length), int),
          "masked_lm_positions": np.tile([1, 3], (n, 1))[:, :predictions],
          "masked_lm_ids": rng.integers(5, largest, (n, predictions)),
          "masked_lm_weights": np.ones((n, predictions), np.float32),
          "next_sentence_labels": rng.integers(0, 2, (n, 1))}


def write_records(path, arrays):
  tfrecords.write_records(path, (
      tfrecords.encode_example({name: value[i].tolist() for name, value in arrays.items()})
      for i in range(len(arrays["input_ids"]))))
  return path


def test_text_is_tokenized_once(tmp_path, tokenizer, monkeypatch, capsys):
  (tmp_path / "a.txt").write_text(LINES)
  text = open_corpus(str(tmp_path / "*.txt"), "train_files", tokenizer, READING)
  assert text.folder.parent == tmp_path / ".bert_cache"
  assert text.tokens.dtype == np.uint16
  ids, = tokenizer.encode(["The film is good ."])
  np.testing.assert_array_equal(text.tokens[text.sentences[0]:text.sentences[1]], ids)
  assert len(text.sentences) == 5
  np.testing.assert_array_equal(text.documents, [0, 2, 3, 4])
  assert text.sentences[-1] == len(text.tokens)
  assert "3 documents, 4 sentences" in capsys.readouterr().out
  for array in (text.tokens, text.sentences, text.documents):
    assert isinstance(array, np.memmap)  # nothing is read into memory

  def never(*_):
    raise AssertionError("tokenized again")

  monkeypatch.setattr(corpus, "_tokenize", never)
  again = open_corpus(str(tmp_path / "*.txt"), "train_files", tokenizer, READING)
  np.testing.assert_array_equal(again.tokens, text.tokens)
  (tmp_path / "a.txt").write_text(LINES + "More .\n")
  with pytest.raises(AssertionError, match="tokenized again"):
    open_corpus(str(tmp_path / "*.txt"), "train_files", tokenizer, READING)


def test_processes_change_nothing(tmp_path, tokenizer, monkeypatch):
  (tmp_path / "a.txt").write_text(LINES * 50)
  monkeypatch.setattr(corpus, "_BLOCK", 200)
  monkeypatch.setattr(os, "cpu_count", lambda: 2)
  one = open_corpus(str(tmp_path / "a.txt"), "train_files", tokenizer, READING)
  monkeypatch.setattr(corpus, "_BYTES_A_WORKER", 100)
  elsewhere = Reading("auto", "text", "en", "strict", str(tmp_path / "elsewhere"))
  two = open_corpus(str(tmp_path / "a.txt"), "train_files", tokenizer, elsewhere)
  assert two.folder.parent == tmp_path / "elsewhere"
  for name in ("tokens", "sentences", "documents"):
    np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_a_failure_leaves_no_cache(tmp_path, tokenizer):
  (tmp_path / "a.txt").write_bytes(b"good film\nbad \xff film\n")
  with pytest.raises(UserError, match=r"a.txt, line 2.*0xff.*errors=replace"):
    open_corpus(str(tmp_path / "a.txt"), "train_files", tokenizer, READING)
  assert not list((tmp_path / ".bert_cache").iterdir())
  replaced = Reading("auto", "text", "en", "replace", "")
  assert len(open_corpus(str(tmp_path / "a.txt"), "train_files", tokenizer,
                         replaced).sentences) == 3


def test_a_cache_that_cannot_be_written(tmp_path, tokenizer):
  (tmp_path / "a.txt").write_text(LINES)
  (tmp_path / ".bert_cache").write_text("in the way")
  with pytest.raises(UserError, match="cannot be written .*; name another place.*cache_dir=DIR"):
    open_corpus(str(tmp_path / "a.txt"), "train_files", tokenizer, READING)


def test_what_a_killed_process_left_is_no_obstacle(tmp_path, tokenizer):
  (tmp_path / "a.txt").write_text(LINES)
  first = open_corpus(str(tmp_path / "a.txt"), "train_files", tokenizer, READING)
  shutil.copytree(first.folder, first.folder.with_name(f".{first.folder.name}.{os.getpid()}.tmp"))
  shutil.rmtree(first.folder)
  again = open_corpus(str(tmp_path / "**"), "train_files", tokenizer, READING)
  assert again.digest == first.digest


@pytest.mark.parametrize("link", [False, True])
def test_a_file_in_a_caches_place_is_no_obstacle(tmp_path, tokenizer, link, capsys):
  (tmp_path / "a.txt").write_text(LINES)
  first = open_corpus(str(tmp_path / "a.txt"), "train_files", tokenizer, READING)
  shutil.rmtree(first.folder)
  first.folder.symlink_to(tmp_path / "a.txt") if link else first.folder.write_text("in the way")
  again = open_corpus(str(tmp_path / "a.txt"), "train_files", tokenizer, READING)
  assert again.digest == first.digest and again.folder.is_dir()
  assert "is damaged" in capsys.readouterr().out
  assert (tmp_path / "a.txt").read_text() == LINES


def test_the_cache_is_not_read_as_text(tmp_path, tokenizer):
  (tmp_path / "a.txt").write_text(LINES)
  for _ in range(2):
    text = open_corpus(str(tmp_path / "**"), "train_files", tokenizer, READING)
    assert text.sources == (str(tmp_path / "a.txt"),)


def test_another_process_may_be_faster(tmp_path, tokenizer, monkeypatch):
  (tmp_path / "a.txt").write_text(LINES)
  elsewhere = Reading("auto", "text", "en", "strict", str(tmp_path / "elsewhere"))
  other = open_corpus(str(tmp_path / "a.txt"), "train_files", tokenizer, elsewhere).folder
  write = corpus._tokenize

  def slowly(*arguments):
    shutil.copytree(other, tmp_path / ".bert_cache" / other.name)
    return write(*arguments)

  monkeypatch.setattr(corpus, "_tokenize", slowly)
  assert len(open_corpus(str(tmp_path / "a.txt"), "train_files", tokenizer, READING).tokens)
  assert len(list((tmp_path / ".bert_cache").iterdir())) == 1


def flip(content):
  """Changes one bit in the middle."""
  middle = len(content) // 2
  return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1:]


DAMAGES = {"flipped": flip, "cut": lambda content: content[:-8], "empty": lambda _: b"",
           "longer": lambda content: content + b"\0", "zeros": lambda content: bytes(len(content))}


@pytest.mark.parametrize("damage", [*DAMAGES, "gone"])
@pytest.mark.parametrize("name", ["layout.json", "tokens", "sentences", "documents",
                                  "documents-training-0.5/values",
                                  "spans-training-0.5-5/layout.json"])
def test_a_damaged_cache_is_made_again(tmp_path, tokenizer, name, damage, capsys):
  (tmp_path / "a.txt").write_text(LINES)

  def opened():
    text = open_corpus(str(tmp_path / "a.txt"), "train_files", tokenizer, READING)
    part = part_of(text, False, 0.5, 5)
    arrays = text.tokens, text.sentences, text.documents, part.documents, part.spans
    return text.folder / name, [array.tolist() for array in arrays]

  file, whole = opened()
  content = file.read_bytes()
  file.unlink()
  if damage != "gone":
    file.write_bytes(DAMAGES[damage](content))
  capsys.readouterr()
  assert opened() == (file, whole)
  lines = capsys.readouterr().out.splitlines()
  assert [line for line in lines if "is damaged" in line and line.endswith("; it is made again")]
  assert file.read_bytes() == content
  opened()
  assert "is damaged" not in capsys.readouterr().out


def test_a_damaged_cache_of_records_is_made_again(tmp_path, tokenizer, capsys):
  path = write_records(tmp_path / "a.tfrecord", features(5))
  records = open_corpus(str(path), "train_files", tokenizer, READING)
  expected = records.features["input_ids"].copy()
  file = pathlib.Path(records.features["input_ids"].filename)
  file.write_bytes(flip(file.read_bytes()))
  again = open_corpus(str(path), "train_files", tokenizer, READING)
  np.testing.assert_array_equal(again.features["input_ids"], expected)
  assert (f"the cache {file.parent} is damaged (input_ids is not as it was written); it is made "
          "again\n") in capsys.readouterr().out


def test_the_cache_of_a_symbolic_link_lies_beside_it(tmp_path, tokenizer):
  (tmp_path / "theirs").mkdir()
  (tmp_path / "theirs" / "a.txt").write_text(LINES)
  (tmp_path / "ours").mkdir()
  (tmp_path / "ours" / "b.txt").symlink_to("../theirs/a.txt")
  text = open_corpus(str(tmp_path / "ours" / "*.txt"), "train_files", tokenizer, READING)
  assert text.folder.parent == tmp_path / "ours" / ".bert_cache"
  assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["a.txt"]


def test_the_share_of_unknown_tokens_is_said(tmp_path, tokenizer, capsys):
  (tmp_path / "a.txt").write_text("The film is xyz .\n" + "It was great .\n" * 10)
  open_corpus(str(tmp_path / "a.txt"), "train_files", tokenizer, READING)
  assert "45 tokens (2.2% [UNK]) in " in (out := capsys.readouterr().out) and "warning" not in out
  (tmp_path / "a.txt").write_text("The film is xyz .\n")
  for _ in range(2):
    open_corpus(str(tmp_path / "a.txt"), "train_files", tokenizer, READING)
    out = capsys.readouterr().out
    assert "warning: 20.0% of the tokens are [UNK]" in out and "(20.0% [UNK])" in out
  arrays = features(4)
  arrays["input_ids"][:, 5:] = 1
  arrays["input_mask"][:, 6:] = 0  # so that one of six tokens is [UNK]
  write_records(tmp_path / "a.tfrecord", arrays)
  open_corpus(str(tmp_path / "a.tfrecord"), "train_files", tokenizer, READING)
  assert "4 records of length 8 (16.7% [UNK])" in (out := capsys.readouterr().out)
  assert "warning: 16.7% of the tokens are [UNK]" in out


def test_ids_beyond_the_vocabulary(tmp_path, tokenizer):
  path = write_records(tmp_path / "a.tfrecord",
                       features(3) | {"masked_lm_ids": np.full((3, 2), 99)})
  with pytest.raises(UserError, match="record 1 has 99 in masked_lm_ids, at 0; it must be from 0 "
                                      f"to {tokenizer.vocab_size - 1}, the last of the vocab"):
    open_corpus(str(path), "train_files", tokenizer, READING)


def test_a_file_by_two_names_is_read_once(tmp_path, tokenizer):
  (tmp_path / "a.txt").write_text(LINES)
  (tmp_path / "b.txt").symlink_to(tmp_path / "a.txt")
  text = open_corpus(str(tmp_path / "*.txt"), "train_files", tokenizer, READING)
  assert len(text.documents) == 4


@pytest.mark.parametrize("content", ["", "\n\n \n"])
def test_no_text(tmp_path, tokenizer, content):
  (tmp_path / "a.txt").write_text(content)
  with pytest.raises(UserError, match="train_files: no text in .*a.txt"):
    open_corpus(str(tmp_path / "a.txt"), "train_files", tokenizer, READING)


def test_no_file(tmp_path, tokenizer):
  with pytest.raises(UserError, match="eval_files.*no file matches"):
    open_corpus(str(tmp_path / "*.txt"), "eval_files", tokenizer, READING)


# --- Held-out documents -----------------------------------------------------------------------


def test_held_out_documents_are_never_trained_on(tmp_path, tokenizer):
  (tmp_path / "a.txt").write_text("the film is good\nit was bad\n\n" * 200)
  text = open_corpus(str(tmp_path / "a.txt"), "train_files", tokenizer, READING)
  train, held_out = (part_of(text, which, 0.1, 29) for which in (False, True))
  assert len(held_out.documents) == 20
  assert set(train.documents) | set(held_out.documents) == set(range(200))
  assert not set(train.documents) & set(held_out.documents)
  for part in (train, held_out):
    owners = np.searchsorted(text.documents, part.spans[:, 0], side="right") - 1
    assert set(owners) == set(part.documents)
  again = part_of(text, True, 0.1, 61)  # another length, the same documents
  np.testing.assert_array_equal(again.documents, held_out.documents)
  everything = part_of(text, False, 0.0, 29)
  assert len(everything.documents) == 200


def test_a_single_document_cannot_be_held_out(tmp_path, tokenizer):
  (tmp_path / "a.txt").write_text("the film is good\nit was bad\n")
  text = open_corpus(str(tmp_path / "a.txt"), "train_files", tokenizer, READING)
  with pytest.raises(UserError, match="a single document.*blank lines.*eval_fraction=0"):
    part_of(text, False, 0.1, 29)


# --- Records ----------------------------------------------------------------------------------


def test_records_are_decoded_once(tmp_path, tokenizer, monkeypatch):
  expected = features(30)
  for i, part in enumerate(np.split(np.arange(30), [11, 12])):
    write_records(tmp_path / f"{i}.tfrecord", {k: v[part] for k, v in expected.items()})
  records = open_corpus(str(tmp_path / "*.tfrecord"), "train_files", tokenizer, READING)
  assert isinstance(records, Records)
  assert (len(records), records.max_seq_length) == (30, 8)
  for name, value in expected.items():
    np.testing.assert_array_equal(records.features[name].reshape(value.shape), value)
    assert isinstance(records.features[name], np.memmap)
  monkeypatch.setattr(corpus, "_decode", None)
  assert len(open_corpus(str(tmp_path / "*.tfrecord"), "train_files", tokenizer, READING)) == 30


def test_a_damaged_record_is_named(tmp_path, tokenizer):
  file = write_records(tmp_path / "a.tfrecord", features(5))
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1  # in the third of five equal records
  file.write_bytes(content)
  with pytest.raises(UserError, match="a.tfrecord: record 3 "):
    open_corpus(str(file), "train_files", tokenizer, READING)
  whole = write_records(file, features(5)).read_bytes()
  file.write_bytes(whole[:-3])
  with pytest.raises(UserError, match="a.tfrecord: record 5 "):
    open_corpus(str(file), "train_files", tokenizer, READING)
  file.write_bytes(whole[1:])  # nothing but its name says what it is
  with pytest.raises(UserError, match="a.tfrecord: record 1 "):
    open_corpus(str(file), "train_files", tokenizer, READING)
  assert not list((tmp_path / ".bert_cache").iterdir())


def test_files_of_different_lengths(tmp_path, tokenizer):
  write_records(tmp_path / "a.tfrecord", features(3))
  write_records(tmp_path / "b.tfrecord", features(3, length=12))
  with pytest.raises(UserError, match="b.tfrecord holds records of length 12 with 2 predictions, "
                                      ".*a.tfrecord of length 8 with 2"):
    open_corpus(str(tmp_path / "*.tfrecord"), "train_files", tokenizer, READING)


def test_an_empty_shard_is_no_obstacle(tmp_path, tokenizer):
  write_records(tmp_path / "a.tfrecord", features(3))
  (tmp_path / "b.tfrecord").write_bytes(b"")
  records = open_corpus(str(tmp_path / "*.tfrecord"), "train_files", tokenizer, READING)
  assert len(records) == 3


def test_text_and_records_do_not_mix(tmp_path, tokenizer):
  write_records(tmp_path / "a.tfrecord", features(3))
  (tmp_path / "b.txt").write_text(LINES)
  with pytest.raises(UserError, match="a.tfrecord holds TFRecords and .*b.txt does not"):
    open_corpus(f"{tmp_path}/a.tfrecord,{tmp_path}/b.txt", "train_files", tokenizer, READING)
