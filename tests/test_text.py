"""Every input format, found and read; every message about a bad one."""

import gzip
import json

import pytest

from pretraining import text
from support import hub
from support.errors import UserError

TWO = "One a.\nOne b.\n\n\nTwo a.\n"
WIKI = ('<doc id="1" url="u" title="Tom &amp; &quot;J&quot;">\nTom &amp; "J"\n\nFirst one. Second '
        'one.\n\nTom &amp; "J"\n</doc>\n\n<doc id="2" url="u" title="Empty">\nEmpty\n\n</doc>\n'
        '<doc id="3" url="u" title="Other">\nNo title here.\n</doc>\n')


def write(path, content):
  """Writes text or bytes, gzipped where the name says so."""
  content = content.encode() if isinstance(content, str) else content
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
  return path


def read(patterns, input_format="auto", **options):
  return list(text.read_documents(text.find_sources(str(patterns), input_format), **options))


def complaint(patterns, input_format="auto", **options):
  with pytest.raises(UserError) as raised:
    read(patterns, input_format, **options)
  assert "\n" not in str(raised.value)
  return str(raised.value)


# --- Formats --------------------------------------------------------------------------------


def test_lines(tmp_path):
  file = write(tmp_path / "a.txt", "\n \n One a. \r\nOne b.\n\n\nTwo\x0ba\u2028b.\n\t\nThree")
  assert read(file) == [["One a.", "One b."], ["Two\x0ba\u2028b."], ["Three"]]


def test_the_end_of_a_file_of_lines_ends_no_document(tmp_path):
  write(tmp_path / "b.txt", "Two a.\n\nThree.\n")
  write(tmp_path / "a.txt", "One.\n\nTwo.")
  assert read(tmp_path / "*.txt") == [["One."], ["Two.", "Two a."], ["Three."]]


def test_other_formats_end_a_document_with_the_file(tmp_path):
  write(tmp_path / "a.txt", "One.")
  write(tmp_path / "b.jsonl", '{"text": "Two."}')
  write(tmp_path / "c.txt", "Three.")
  assert read(tmp_path / "*") == [["One."], ["Two."], ["Three."]]
  paragraphs = read(tmp_path / "?.txt", "paragraphs")
  assert paragraphs == [["One."], ["Three."]]


def test_paragraphs_are_cut_into_sentences(tmp_path):
  file = write(tmp_path / "a.txt", "See e.g. Rome.  He left.\nThen rain.\n\nSnow fell.\n")
  assert read(file, "paragraphs") == [["See e.g. Rome.", "He left.", "Then rain."], ["Snow fell."]]
  german = write(tmp_path / "b.txt", "Am 3. Mai kam er. Gut.")
  assert read(german, "paragraphs", language="de") == [["Am 3. Mai kam er.", "Gut."]]
  assert read(german, "paragraphs") == [["Am 3.", "Mai kam er.", "Gut."]]


def test_jsonl_by_name_and_by_content(tmp_path):
  lines = ('\n{"id": 1, "text": "It rained. It stopped\\nfor long\\n\\nSun."}\n\n{"text": " "}\n'
           '{"text": "Two."}\n')
  for name in ("a.jsonl", "b.json", "c.json.gz", "wiki_00"):
    assert read(write(tmp_path / name, lines)) == [
        ["It rained.", "It stopped", "for long", "Sun."], ["Two."]], name
  assert read(write(tmp_path / "d", '{"body": "X."}'), text_field="body") == [["X."]]


def test_wikiextractor(tmp_path):
  expected = [["First one.", "Second one.", 'Tom & "J"'], ["No title here."]]
  assert read(write(tmp_path / "wiki_00", WIKI)) == expected
  assert read(write(tmp_path / "wiki_01.gz", "\n" + WIKI)) == expected


def test_a_wikiextractor_document_without_its_end_tag(tmp_path):
  cut = '<doc id="1" title="A">\nA\n\nOne.\n<doc id="2" title="B">\nTwo.\n'
  assert read(write(tmp_path / "wiki", cut)) == [["One."], ["Two."]]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_a_byte_order_mark_goes(tmp_path, name):
  file = write(tmp_path / name, b"\xef\xbb\xbfOne.\nTwo.\n")
  assert read(file) == [["One.", "Two."]]
  assert text.find_sources(str(write(tmp_path / "b", b'\xef\xbb\xbf{"text": "X."}')))[0].kind == (
      "jsonl")


def test_gzip_is_told_by_its_bytes(tmp_path):
  (tmp_path / "zipped.txt").write_bytes(gzip.compress(TWO.encode()))
  (tmp_path / "plain.gz").write_text(TWO)
  assert read(tmp_path / "zipped.txt") == read(tmp_path / "plain.gz") == [
      ["One a.", "One b."], ["Two a."]]


def test_nothing_in_a_file_is_no_document(tmp_path):
  for name in ("a.txt", "b.jsonl", "c.gz"):
    assert read(write(tmp_path / name, "")) == []
  assert read(write(tmp_path / "d.txt", "\n \n\n")) == []


def test_saved_datasets_and_hub_names(tmp_path, monkeypatch):
  import datasets

  rows = datasets.Dataset.from_dict({"text": ["It rained. It stopped.", "", "Two."],
                                     "id": [1, 2, 3]})
  both = datasets.DatasetDict(train=rows, test=rows.select([0]))
  rows.save_to_disk(str(tmp_path / "single"))
  both.save_to_disk(str(tmp_path / "both"))
  expected = [["It rained.", "It stopped."], ["Two."]]
  asked, done = [], []
  monkeypatch.setattr(hub, "load_dataset", lambda *names: asked.append(names) or both)
  for patterns in (tmp_path / "single", tmp_path / "both", "owner/name", "owner/name:20231101.en"):
    sources = text.find_sources(str(patterns))
    assert [source.kind for source in sources] == ["dataset"]
    assert list(text.read_documents(sources, progress=done.append)) == expected
    assert sum(done) == text.total_size(sources)
    assert (text.total_size(sources) > 0) == (patterns not in ("owner/name",
                                                                 "owner/name:20231101.en"))
    done.clear()
  assert asked == [("owner/name",), ("owner/name", "20231101.en")]
  assert "row 1: no field 'body'; it has 'text', 'id'" in complaint("owner/name", text_field="body")
  assert "row 1: field 'id' is 1, not a string" in complaint("owner/name", text_field="id")
  del both["train"]
  assert "owner/name has no split 'train'; it has 'test'" in complaint("owner/name")


# --- Finding --------------------------------------------------------------------------------


def test_patterns(tmp_path, monkeypatch):
  for name in ("b.txt", "a.txt", "deep/er/c.txt", "folder.txt/d", "[1].txt"):
    write(tmp_path / name, TWO)
  monkeypatch.setenv("HOME", str(tmp_path))

  def names(patterns):
    return [source.path.removeprefix(f"{tmp_path}/") for source in text.find_sources(patterns)]

  assert names(f"{tmp_path}/b.txt, {tmp_path}/*.txt,") == ["b.txt", "[1].txt", "a.txt"]
  assert names("~/a.txt") == ["a.txt"]
  assert names(f"{tmp_path}/[1].txt") == ["[1].txt"]
  assert names(f"{tmp_path}/**/*.txt") == ["[1].txt", "a.txt", "b.txt", "deep/er/c.txt"]


def test_messages_about_patterns(tmp_path):
  write(tmp_path / "a.txt", TWO)
  with pytest.raises(UserError, match=r"^train_files: no file matches '/none/\*.txt'$"):
    text.find_sources("/none/*.txt", flag="train_files")
  for missing in ("data/a.txt", "./data", "a/b/c", "none", "data/a.tfrecord", "data/wiki_*"):
    with pytest.raises(UserError, match="input_file: no file matches"):
      text.find_sources(missing)
  with pytest.raises(UserError, match=f"{tmp_path} is a folder; give its files: '{tmp_path}/\\*'"):
    text.find_sources(str(tmp_path))
  with pytest.raises(UserError, match="input_file is blank; give text files"):
    text.find_sources(" , ")
  with pytest.raises(UserError, match="'text' is not one of auto, lines, paragraphs, jsonl, "):
    text.find_sources(str(tmp_path / "a.txt"), "text")
  with pytest.raises(UserError, match="a.txt is a file; input_format=dataset takes a folder"):
    text.find_sources(str(tmp_path / "a.txt"), "dataset")
  assert "errors 'strikt' is not one of strict, replace, ignore" in complaint(
      tmp_path / "a.txt", errors="strikt")


# --- Damage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_bytes_that_are_not_utf8(tmp_path, name):
  file = write(tmp_path / name, b"\xef\xbb\xbfOne.\nab\xffc\n")
  assert complaint(file) == (f"{file}, line 2: byte 0xff is not UTF-8 (offset 10); errors=replace "
                             "goes on with U+FFFD in its place")
  assert read(file, errors="replace") == [["One.", "ab\ufffdc"]]
  assert read(file, errors="ignore") == [["One.", "abc"]]


def test_a_gzip_file_that_is_cut_off(tmp_path):
  content = gzip.compress("".join(f"Line {i} {i * i}.\n" for i in range(30000)).encode())
  file = tmp_path / "a.gz"
  file.write_bytes(content[:len(content) // 2])
  message = complaint(file)
  assert message.startswith(f"{file}, line ") and "cut off or damaged" in message
  assert 10000 < int(message.split("line ")[1].split(" ")[0]) < 20000
  file.write_bytes(content[:-8] + b"12345678")
  assert "or soon after: the gzip file is cut off or damaged (CRC check" in complaint(file)


def test_bad_json_lines(tmp_path):
  def message(line):
    return complaint(write(tmp_path / "a.jsonl", f'{{"text": "Good."}}\n{line}\n'))

  assert "a.jsonl, line 2: not JSON (Expecting" in message("{text}")
  assert "line 2: a line must be a JSON object, not [1, 2]" in message("[1, 2]")
  assert message('{"body": "X.", "id": 1}').endswith(
      "a.jsonl, line 2: no field 'text'; it has 'body', 'id'; name the one with the text: "
      "text_field=NAME")
  assert "line 2: field 'text' is None, not a string; the fields are 'text'" in message(
      json.dumps({"text": None}))


def test_text_outside_of_wikiextractor_documents(tmp_path):
  file = write(tmp_path / "a", '<doc id="1" title="A">\nX.\n</doc>\nstray\n')
  assert f"{file}, line 4: 'stray' stands outside of <doc ...> and </doc>" in complaint(file)


# --- Sizes ----------------------------------------------------------------------------------


def test_documents_are_cut_at_longest(tmp_path):
  file = write(tmp_path / "a.txt", "aaa\nbbb\nccc\ndddddddddd\ne\n\nf\n")
  assert read(file, longest=6) == [["aaa", "bbb"], ["ccc"], ["dddddddddd"], ["e"], ["f"]]
  assert read(file, longest=100) == read(file)


def test_progress_adds_up_to_the_size(tmp_path):
  for name in ("a.txt", "b.txt.gz"):
    write(tmp_path / name, "A line of text.\n" * 3000)
  sources = text.find_sources(str(tmp_path / "*"))
  steps = []
  documents = text.read_documents(sources, longest=100, progress=steps.append)
  next(documents)
  assert sum(steps) == 0
  list(documents)
  assert sum(steps) == text.total_size(sources) == sum(
      file.stat().st_size for file in tmp_path.iterdir())
  assert len(steps) > 10


def test_blocks():
  documents = [["aa", "a"], ["b"], ["cccc"], ["d"]]
  assert list(text.blocks(documents, 4)) == [[["aa", "a"], ["b"]], [["cccc"]], [["d"]]]
  assert list(text.blocks(iter(documents), 1000)) == [documents]
  assert list(text.blocks([], 4)) == []


def test_a_stream_without_end_needs_no_memory(tmp_path):
  file = write(tmp_path / "a.txt", "A line of text without any blank line.\n" * 50000)
  documents = text.read_documents(text.find_sources(str(file)), longest=1000)
  assert max(sum(map(len, document)) for document in documents) <= 1000
