"""Text, TFRecords and caches of pre-training, whatever bytes they hold."""

import gzip
import io
import json
import struct

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from fuzz.harness import damaged, read
from pretraining import corpus, text, tfrecords

SENTENCES = "The film is good. It was great.\n\nA bad plot: «é», 中文 😀.\n"
JSON = "".join(json.dumps({"text": SENTENCES, "id": i}, ensure_ascii=bool(i)) + "\n"
               for i in range(2))
CSV = 'id,text\r\n1,"The film, ""good"".\nIt was great."\r\n2,Bad.\r\n'


def parquet(compression):
  with io.BytesIO() as stream:
    pyarrow.parquet.write_table(pyarrow.table({"text": [SENTENCES, "Two.", None], "id": [1, 2, 3]}),
                                stream, compression=compression)
    return stream.getvalue()


WIKI = f'<doc id="1" title="Film">\nFilm\n\n{SENTENCES}</doc>\n<doc id="2" title="B">\nB.\n</doc>\n'
# Ending of the file's name -> what it may hold.
TEXTS = {".txt": (SENTENCES, WIKI, JSON), ".jsonl": (JSON,), ".csv": (CSV,),
         ".tsv": (CSV.replace(",", "\t"),)}
VALID = {ending: tuple(content.encode() for content in contents)
         for ending, contents in TEXTS.items()}
VALID |= {f"{ending}.gz": tuple(map(gzip.compress, contents))
          for ending, contents in VALID.items()}
VALID[".parquet"] = (parquet("NONE"), parquet("SNAPPY"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("fuzz")


@hypothesis.given(st.data())
def test_documents(folder, data):
  """Documents of non-empty, encodable sentences, or one line of complaint."""
  ending = data.draw(st.sampled_from(sorted(VALID)))
  content = data.draw(damaged(*VALID[ending]))
  if ending.endswith(".gz") and data.draw(st.booleans()):  # damaged text, whole gzip
    content = gzip.compress(data.draw(damaged(*VALID[ending.removesuffix(".gz")])))
  errors = data.draw(st.sampled_from(text.DECODING_ERRORS))
  kind = data.draw(st.sampled_from(("auto", "auto", *text.FILE_KINDS)))
  path = folder / f"a{ending}"
  path.write_bytes(content)
  documents = read(lambda file: list(text.read_documents(
      text.find_sources(str(file), kind), errors=errors, longest=40)), path)
  for document in documents or ():
    assert document and all(document)
    "".join(document).encode()  # without half a character


LENGTH, PREDICTIONS, ENTRIES = 6, 2, 300
VALUES = {
    "input_ids": [2, 5, 299, 3, 0, 0], "input_mask": [1, 1, 1, 1, 0, 0],
    "segment_ids": [0, 0, 1, 1, 0, 0], "masked_lm_positions": [2, 0], "masked_lm_ids": [7, 0],
    "masked_lm_weights": [1.0, 0.0], "next_sentence_labels": [1]}
ODD = st.one_of(st.integers(-3, 10), st.sampled_from((300, 2**31, 2**32 + 5, -2**63, 2**63 - 1)))


def framed(*contents):
  """The bytes of a TFRecord file, with right checksums."""
  heads = [struct.pack("<Q", len(content)) for content in contents]
  return b"".join(
      head + tfrecords._checksum(head) + content + tfrecords._checksum(content)
      for head, content in zip(heads, contents, strict=True))


@st.composite
def examples(draw):
  """The values of an example, perhaps with odd numbers, or more or fewer of them."""
  values = {name: list(numbers) for name, numbers in VALUES.items()}
  for name in draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=2)):
    odd = st.floats(width=32) if name == "masked_lm_weights" else ODD
    place = draw(st.integers(0, len(values[name])))
    values[name][place:place + 1] = draw(st.lists(odd, min_size=1, max_size=1 + (place == 0)))
  return tfrecords.encode_example(values)


@hypothesis.given(st.data())
def test_records(folder, data):
  """Arrays whose values a batch can be made of, or one line of complaint."""
  contents = data.draw(st.lists(st.one_of(
      examples(), damaged(tfrecords.encode_example(VALUES))), min_size=1, max_size=3))
  whole = framed(*contents)
  path = folder / "a.tfrecord"
  path.write_bytes(data.draw(st.one_of(st.just(whole), damaged(whole))))
  for arrays in read(lambda file: list(tfrecords.read_records(file, ENTRIES, 2)), path) or ():
    tokens = arrays["input_mask"].sum(1)
    length = arrays["input_ids"].shape[1]
    np.testing.assert_array_equal(arrays["input_mask"], np.arange(length) < tokens[:, None])
    for name, end in (("input_ids", ENTRIES), ("masked_lm_ids", ENTRIES), ("segment_ids", 2),
                      ("next_sentence_labels", 2), ("masked_lm_positions", tokens[:, None])):
      assert (arrays[name] >= 0).all() and (arrays[name] < end).all(), name
    weights = arrays["masked_lm_weights"]
    assert ((weights >= 0) & (weights <= 1)).all()
    for positions, weight in zip(arrays["masked_lm_positions"], weights, strict=True):
      assert len(set(positions[weight > 0])) == (weight > 0).sum()


@hypothesis.given(st.data())
def test_caches(folder, tokenizer, data):
  """A damaged cache is made again: what is mapped is what the text holds."""
  path = folder / "cached.txt"
  if not path.exists():
    path.write_text("The film is good .\nIt was great .\n\nA bad plot .\n\nIt is dull .\n" * 3)

  def opened():
    tokenized = corpus.open_corpus(str(path), "train_files", tokenizer,
                                   corpus.Reading("auto", "text", "en", "strict", ""))
    part = corpus.part_of(tokenized, False, 0.5, 5)
    return tokenized.folder, [array.tobytes() for array in (
        tokenized.tokens, tokenized.sentences, tokenized.documents, part.documents, part.spans)]

  cache, whole = opened()
  for file in data.draw(st.lists(st.sampled_from(sorted(
      file for file in cache.rglob("*") if file.is_file())), max_size=2)):
    file.write_bytes(data.draw(damaged(file.read_bytes())))
  assert opened() == (cache, whole)
