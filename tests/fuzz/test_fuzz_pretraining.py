"""Text and TFRecords of pre-training, whatever bytes they hold."""

import gzip
import io
import json

import hypothesis
from hypothesis import strategies as st
import pyarrow
import pyarrow.parquet
import pytest

from fuzz.harness import damaged, read
from pretraining import text

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
