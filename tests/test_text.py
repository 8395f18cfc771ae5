"""Every input format, found and read; every message about a bad one."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import random
import struct
import tarfile
import tracemalloc
import zipfile

import pyarrow.parquet
import pytest

from pretraining import text, tfrecords
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
  assert "owner/name: no field 'body'; it has 'text', 'id'" in complaint(
      "owner/name", text_field="body")
  assert "row 1: field 'id' is 1, not a string" in complaint("owner/name", text_field="id")
  del both["train"]
  assert "owner/name has no split 'train'; it has 'test'" in complaint("owner/name")


# --- Tables ---------------------------------------------------------------------------------


ROWS = (("1", "It rained. It stopped, \"for long\".\nSun."), ("2", " "), ("3", "Two."))
TABLE = [["It rained.", 'It stopped, "for long".', "Sun."], ["Two."]]


@pytest.mark.parametrize("name", ["a.csv", "a.CSV", "a.csv.gz"])
def test_csv_by_its_text_column(tmp_path, name):
  quoted = "".join('{},"{}"\r\n'.format(i, t.replace('"', '""')) for i, t in ROWS)
  file = write(tmp_path / name, f"\ufeffid, text \n\n{quoted}")
  if name == "a.csv.gz":
    assert file.read_bytes()[:2] == b"\x1f\x8b"
  assert read(file) == TABLE
  assert read(file, text_field="id") == [["1"], ["2"], ["3"]]


def test_tsv_by_its_text_column(tmp_path):
  file = write(tmp_path / "a.tsv", 'id\ttext\n1\tA "quote stays.\n\n\tAn empty field before.\n')
  assert read(file) == [['A "quote stays.'], ["An empty field before."]]


@pytest.mark.parametrize("name", ["a.parquet", "no_name"])
def test_parquet_by_its_text_column(tmp_path, name):
  for type_ in (pyarrow.string(), pyarrow.large_string(),
                pyarrow.dictionary(pyarrow.int32(), pyarrow.string())):
    table = pyarrow.table({"id": [1, 2, 3], "text": pyarrow.array([t for _, t in ROWS], type_)})
    pyarrow.parquet.write_table(table, tmp_path / name)
    sources, done = text.find_sources(str(tmp_path / name)), []
    assert list(text.read_documents(sources, progress=done.append)) == TABLE
    assert sum(done) == text.total_size(sources)


def test_bad_tables(tmp_path):
  def message(name, content, **options):
    return complaint(write(tmp_path / name, content), **options).removeprefix(f"{tmp_path}/")

  assert message("a.csv", "id;text\n1;X.\n") == (
      "a.csv, line 2: no field 'text'; it has 'id;text'; name the one with the text: "
      "text_field=NAME")
  assert message("a.csv", "id,text\n1,X.\n2,Y, Z.\n") == (
      "a.csv, line 3: a row of 3 fields under a header of 2")
  assert message("a.csv", 'id,text\n1,"X." Y\n') == (
      "a.csv, line 2: not csv (',' expected after '\"')")
  assert message("a.csv", 'text\n"' + "X.\n" * 9) == (
      "a.csv, line 10: not csv (unexpected end of data)")
  assert message("a.csv", "text,text\nX.,Y.\n") == "a.csv: two columns are called 'text'"
  assert message("a.csv", b"id,text\n1,X.\n2,\xff more and more\n").startswith(
      "a.csv, line 3: byte 0xff is not UTF-8 (offset 15)")
  assert message("a.parquet", "no").startswith("a.parquet is no readable parquet file: ")


def test_bad_parquet(tmp_path):
  def message(column, **options):
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    return complaint(tmp_path / "a.parquet", **options).removeprefix(f"{tmp_path}/")

  assert message(pyarrow.array(["X."]), text_field="body") == (
      "a.parquet: no field 'body'; it has 'text'; name the one with the text: text_field=NAME")
  assert message(pyarrow.array(["X.", None])).startswith(
      "a.parquet, row 2: field 'text' is None, not a string")
  for other in ([["X."]], [1], [b"X."]):
    assert message(pyarrow.array(other)).endswith(", not text")
  latin = pyarrow.array([b"X. or not to be", b"caf\xe9 or not"]).view(pyarrow.string())
  assert message(latin).startswith("a.parquet, row 2: byte 0xe9 is not UTF-8 (offset 3)")
  assert read(tmp_path / "a.parquet", errors="replace")[1] == ["caf\ufffd or not"]


def test_only_the_text_column_of_a_dataset_is_read(tmp_path):
  import datasets

  features = datasets.Features(text=datasets.Value("string"), image=datasets.Image())
  rows = datasets.Dataset.from_dict(
      {"text": ["X."], "image": [{"bytes": b"no image", "path": None}]}, features=features)
  rows.save_to_disk(str(tmp_path / "saved"))
  assert read(tmp_path / "saved") == [["X."]]


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


def test_a_files_name_is_no_pattern(tmp_path):
  for name in ("a,b.txt", " c.txt", "d[1]\\*.txt"):
    file = write(tmp_path / name, name)
    assert read(file) == [[name.strip()]]


@pytest.mark.parametrize("folder", ["g,2", "g[1]", "[x", "g*?", "a,b/[c]"])
def test_a_folders_name_is_no_pattern(tmp_path, folder):
  file = write(tmp_path / folder / "deep" / "a.txt", "One.\n")
  for pattern in ("deep/*.txt", "*/a.txt", "**/?.txt"):
    sources = text.find_sources(f"{tmp_path}/{folder}/{pattern}")
    assert [source.path for source in sources] == [str(file)]


def test_pipes_and_devices_are_refused(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  for path in (tmp_path / "pipe", "/dev/zero", tmp_path / "*"):
    assert "is a pipe or a device; give a file" in complaint(path)


# --- What is no text ------------------------------------------------------------------------


def tar():
  with io.BytesIO() as stream, tarfile.open(fileobj=stream, mode="w") as archive:
    archive.addfile(tarfile.TarInfo("a.txt"))
    archive.close()
    return stream.getvalue()


def zipped():
  with io.BytesIO() as stream:
    with zipfile.ZipFile(stream, "w") as archive:
      archive.writestr("a.txt", TWO)
    return stream.getvalue()


RECORD = struct.pack("<Q", 1)
RECORD += tfrecords._checksum(RECORD) + b"x" + tfrecords._checksum(b"x")
NO_TEXT = [
    (bz2.compress(TWO.encode()), "holds bzip2, not text; unpack it"),
    (bz2.compress(b""), "holds bzip2"),
    (lzma.compress(TWO.encode()), "holds xz"),
    (bytes.fromhex("28b52ffd0458"), "holds zstd"),
    (zipped(), "holds an archive or an office document, not text; unpack it, or save it as text"),
    (tar(), "holds a tar archive"),
    (b"%PDF-1.7\n", "holds a PDF"),
    (b"{\\rtf1 x}", "holds a PDF or an office document, not text; save it as text"),
    (TWO.encode("utf-16"), "holds UTF-16, not text; convert it: iconv -f UTF-16 -t UTF-8"),
    (TWO.encode("utf-16-le"), "iconv -f UTF-16LE -t UTF-8"),
    (TWO.encode("utf-16-be"), "holds UTF-16, not text: every other byte of many is 0; convert it: "
                              "iconv -f UTF-16BE -t UTF-8"),
    (TWO.encode("utf-32-le"), "holds binary data, not text: "),
    (random.Random(0).randbytes(999) + bytes(999), "holds binary data, not text: "),
    (pickle.dumps({"text": TWO}), "holds a Python pickle, not text; save it as text"),
    (b"\x93NUMPY\1\0v\0{'descr': '<f8'}", "holds arrays"),
    (struct.pack("<Q", 300) + b'{"weight":{}}', "holds arrays"),
    (b"\x89PNG\r\n\x1a\n and so on", "holds an image, not text; give a text file"),
    (b"GIF89a and so on", "holds an image"), (b"\xff\xd8\xff\xe0 and so on", "holds an image"),
    (b"\0\0\0\x18ftypmp42 and so on", "holds sound or film"),
    (b"\x7fELF and so on", "holds a program"), (b"SQLite format 3\0x", "holds a database"),
    (b"PK\5\6" + bytes(18), "holds an archive"), (b"PK\7\x08PK\3\4", "holds an archive"),
    (b"\xef\xbb\xbf\n%PDF-1.4\n", "holds a PDF"),
    ("Привет, мир.\n".encode("cp1251"), "is no UTF-8 text: 9 of its first 13 bytes are not UTF-8; "
                                        "for a text of another encoding: iconv -f ENCODING"),
    (TWO.replace("\n", "\r").encode(), r"ends its lines with \r alone"),
    (TWO.encode("utf-32"), "holds UTF-32"),
    (gzip.compress(TWO.encode()), "holds gzip inside gzip"),
    (b"PAR1\x15\x04", "holds parquet"),
    (b"version https://git-lfs.github.com/spec/v1\n", "holds a pointer to the file (Git LFS)"),
    (RECORD, "holds TFRecords, not text; run_pretraining.py reads them, without gzip"),
    (b"<!DOCTYPE html>\n<p>X.", "holds HTML or XML, not text"),
    (b'\n<?xml version="1.0"?>', "holds HTML or XML, not text"),
    (random.Random(0).randbytes(4096).replace(b"\0", b"\1"), "is no UTF-8 text")]


@pytest.mark.parametrize(("content", "message"), NO_TEXT, ids=[m[:30] for _, m in NO_TEXT])
def test_what_is_no_text_is_named(tmp_path, content, message):
  """Whatever its name, also inside gzip, and errors=replace is never advised."""
  names = {"a.gz", "a.parquet.gz", "a.txt", "a.jsonl.gz", "a.csv.gz"}
  if "HTML" in message:  # a csv may begin with anything
    names -= {"a.jsonl.gz", "a.csv.gz"}
  elif message in ("holds gzip inside gzip", "holds parquet"):  # which it may be without gzip
    names -= {"a.txt"}
  for name in names:
    file = write(tmp_path / name, content)
    for errors in text.DECODING_ERRORS:
      assert message in (found := complaint(file, errors=errors)) and "errors=" not in found
      assert found.startswith(str(file)) and len(found) <= 300


@pytest.mark.parametrize("start", [
    "<head>", "<body class='a'>", "<div>", "<p>", "<!-- c -->", '<svg xmlns="x"/>',
    "<rss version='2'>", "<TEI>", "<!DOCTYPE TEI>", "<DOC>", '<DOC id="A" type="story">', "<doc>"])
def test_markup_is_no_text(tmp_path, start):
  file = write(tmp_path / "a.txt", f"\ufeff\n{start}\nHello.\n")
  assert "holds HTML or XML" in (found := complaint(file)) and len(found) <= 300
  assert read(file, "lines") == [[start, "Hello."]]


@pytest.mark.parametrize("start", ["<unk> the", "<s> A", "<3 you", "< p", "<peter@x.org> wrote"])
def test_what_only_looks_like_markup(tmp_path, start):
  assert read(write(tmp_path / "a.txt", start)) == [[start]]


@pytest.mark.parametrize("value", [[{"text": "A."}, {"text": "B."}], ["A.", "B."], [["A.", 1]]])
@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_array_is_no_text(tmp_path, value, indent):
  for name in ("a.txt", "a.json"):
    file = write(tmp_path / name, "\n" + json.dumps(value, indent=indent))
    assert "jq -c '.[]' FILE" in (found := complaint(file)) and len(found) <= 300


@pytest.mark.parametrize("start", ["[1] A note.", "[ what ]", '["So," he said.]', "[[A]]"])
def test_what_only_looks_like_an_array(tmp_path, start):
  assert read(write(tmp_path / "a.txt", start)) == [[start]]


def test_a_stray_zero_is_text(tmp_path):
  assert read(write(tmp_path / "a", "One\0 and a long line to go with it.\n")) == [
      ["One\0 and a long line to go with it."]]


# --- Damage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_bytes_that_are_not_utf8(tmp_path, name):
  file = write(tmp_path / name, b"\xef\xbb\xbfOne.\nab\xffc\n")
  assert complaint(file) == (
      f"{file}, line 2: byte 0xff is not UTF-8 (offset 10); iconv -f LATIN1 -t UTF-8 converts a "
      "file of another encoding; errors=replace reads stray bytes as U+FFFD")
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


@pytest.mark.parametrize("line", ["[" * 100_000, '{"a":' * 100_000, '{"text": ' + "9" * 5000 + "}"],
                         ids=["list", "object", "digits"])
def test_json_that_is_too_deep_or_too_long(tmp_path, line):
  file = write(tmp_path / "a.jsonl", '{"text": "Good."}\n' + line + "\n")
  assert complaint(file).startswith(f"{file}, line 2: not JSON (")


def test_half_a_character(tmp_path):
  file = write(tmp_path / "a.jsonl", '{"text": "A \\ud83d\\ude00."}\n{"text": "A \\ud83d."}\n')
  assert complaint(file) == (
      f"{file}, line 2: field 'text' holds '\\ud83d', half of a character (a lone surrogate); "
      "errors=replace reads it as U+FFFD")
  assert read(file, errors="replace") == [["A 😀."], ["A \ufffd."]]
  assert read(file, errors="ignore") == [["A 😀."], ["A ."]]
  write(file, '{"\\ud83d": 1}')
  assert complaint(file).startswith(f"{file}, line 1: no field 'text'; it has '\\ud83d'; ")


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


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz", "a.csv.gz", "wiki.gz"])
def test_a_line_has_a_bound(tmp_path, monkeypatch, name):
  monkeypatch.setattr(text, "_LONGEST_LINE", 1000)
  start = {"a.jsonl.gz": '{"text": ""}\n', "a.csv.gz": "text\n",
           "wiki.gz": '<doc id="1">\n'}.get(name, "A.\n")
  file = write(tmp_path / name, f"{start}{'a' * 10**7}\n")
  tracemalloc.start()
  try:
    message = complaint(file, text_field="text")
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
  finally:
    tracemalloc.stop()
  assert message == (f"{file}, line 2: longer than 1,000 bytes; break it into shorter lines or "
                     "documents")


@pytest.mark.parametrize("paragraph", ["你好。", "Mr. Abc went. ", "a ", "a", "é"])
def test_a_long_paragraph_is_cut_in_linear_time(tmp_path, monkeypatch, paragraph):
  import sentencex

  longest, segment = [], sentencex.segment
  monkeypatch.setattr(sentencex, "segment", lambda language, piece: longest.append(len(piece)) or
                      segment(language, piece))
  content = (paragraph * 25_000)[:25_000]
  (document,) = read(write(tmp_path / "a.txt", content), "paragraphs")
  assert max(longest) <= 10_000 and len(longest) <= 4
  assert "".join(document).replace(" ", "") == content.replace(" ", "")
  if paragraph == "你好。":
    assert set(document[:-1]) == {paragraph}
  elif paragraph.startswith("Mr"):
    assert set(document[:-1]) == {paragraph.strip()}
  longest.clear()
  whole = content[:10_000]
  read(write(tmp_path / "a.txt", whole), "paragraphs")
  assert longest == [len(whole.strip())]  # as it is


def test_blocks():
  documents = [["aa", "a"], ["b"], ["cccc"], ["d"]]
  assert list(text.blocks(documents, 4)) == [[["aa", "a"], ["b"]], [["cccc"]], [["d"]]]
  assert list(text.blocks(iter(documents), 1000)) == [documents]
  assert list(text.blocks([], 4)) == []


def test_a_stream_without_end_needs_no_memory(tmp_path):
  file = write(tmp_path / "a.txt", "A line of text without any blank line.\n" * 50000)
  documents = text.read_documents(text.find_sources(str(file)), longest=1000)
  assert max(sum(map(len, document)) for document in documents) <= 1000
