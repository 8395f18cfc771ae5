"""Labelled tables: whatever bytes, rows or one UserError; what was written is what is read."""

import csv
import io
import json
import pathlib
import tempfile

from conftest import TOKENS
import datasets
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from classification import labels, parsers, sources, tables, tasks
from fuzz import harness
from support.errors import UserError

ROWS = [{"text": "a \"warm\"\tfilm", "label": "pos", "n": 1}, {"text": "über, 你", "label": "neg",
                                                             "n": None}]
CSV = b'text,label,\n"a, ""b""\n c",pos,\n\xc3\xbc,neg,\n'
TSV = CSV.replace(b",", b"\t")
LINES = "\n".join(json.dumps(row) for row in ROWS).encode()
LISTS = "\n".join(json.dumps({"text": "a", "labels": x}) for x in (["a", "ü"], [], [1])).encode()
ARRAY = json.dumps([ROWS[0], {"text": "x", "label": ["a", {"b": 1.5}]}], indent=1).encode()
READERS = {
    "csv": (lambda file: parsers.parse_csv(file, skip_bad_rows=False), (CSV,)),
    "csv_skipping": (lambda file: parsers.parse_csv(file, skip_bad_rows=True), (CSV,)),
    "tsv": (lambda file: parsers.parse_tsv(file, skip_bad_rows=False), (TSV,)),
    "tsv_skipping": (lambda file: parsers.parse_tsv(file, skip_bad_rows=True), (TSV,)),
    "plain_tsv": (parsers.parse_plain_tsv, (TSV,)),
    "headless_tsv": (lambda file: parsers.parse_plain_tsv(file, header=("a", "b")), (TSV,)),
    "json": (lambda file: parsers.parse_json(file, skip_bad_rows=False), (LINES, LISTS, ARRAY))}


def parquet(lists=False):
  """A file with every kind of column, and what `datasets` writes about it; lists: as labels."""
  features = datasets.Features({
      "text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"]),
      "image": datasets.Image(), "words": datasets.List(datasets.Value("string"))})
  cells = {"text": ["x", None], "label": [1, -1], "image": [{"bytes": b"no", "path": "p"}, None],
           "words": [["a"], []]}
  if lists:
    features["labels"] = datasets.List(features.pop("label"))
    cells["labels"] = [[value] * (value >= 0) for value in cells.pop("label")]
  sink = io.BytesIO()
  pyarrow.parquet.write_table(pyarrow.Table.from_pydict(cells, features.arrow_schema), sink)
  return sink.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("tables")


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_parsers(folder, name, data):
  reader, valid = READERS[name]
  (folder / name).write_bytes(data.draw(harness.damaged(*valid)))
  parsed = harness.read(reader, folder / name)
  if parsed is not None:
    assert parsed.columns.num_rows == len(parsed.lines) or not parsed.columns.num_columns
    parsed.columns.validate(full=True)
    assert list(parsed.lines) == sorted(parsed.lines)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "parquet"])
@given(data=st.data())
def test_a_file_becomes_texts_and_labels_or_is_refused(ending, data):
  """The way of a user's file up to what is tokenized and trained on."""
  valid = {"csv": (CSV,), "tsv": (TSV,), "parquet": (parquet(), parquet(lists=True))}.get(
      ending, (LINES, LISTS, ARRAY))

  def rows(file):
    source = sources.find_source("", str(file), False, pathlib.Path(TOKENS))
    table = source.read("train")
    layout = tables.recognize_columns(source.glue_task, table, (), ())
    table = tables.usable_rows(table, layout, labelled=True, blank_texts=False, skip=True)
    lists = layout.label and table.content_of(layout.label) == "lists"
    values = (labels.label_lists if lists else labels.label_values)(table, layout)
    flat = [value for row in values for value in row] if lists else values
    names = table.class_names(layout.label) or labels.infer_label_names(
        table, flat, "class" if lists else "auto")
    encode = labels.encode_label_lists if lists else labels.encode_labels
    encoded = encode(table, values, tasks.own_task(layout.texts, names), names)
    assert len(encoded) == len(table) > 0
    assert np.isfinite(encoded).all()
    for name in layout.texts:
      assert not any(text is None or not str(text).strip() for text in table.column(name))

  with tempfile.TemporaryDirectory() as place:
    file = pathlib.Path(place, f"train.{ending}")
    file.write_bytes(data.draw(harness.damaged(*valid)))
    harness.read(rows, file)


TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\x00"), min_size=1)


@given(texts=st.lists(TEXT, min_size=1, max_size=4))
def test_csv_and_json_read_what_was_written(folder, texts):
  written = io.StringIO()
  csv.writer(written, lineterminator="\n").writerows([("text", "n"), *((t, "1") for t in texts)])
  (folder / "written.csv").write_text(written.getvalue(), "utf-8", newline="")
  parsed = parsers.parse_csv(folder / "written.csv", skip_bad_rows=False)
  assert parsed.columns["text"].to_pylist() == texts
  rows = [{"text": text} for text in texts]
  for content in ("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), json.dumps(rows)):
    (folder / "written.json").write_text(content, "utf-8", newline="")
    parsed = parsers.parse_json(folder / "written.json", skip_bad_rows=False)
    assert parsed.columns["text"].to_pylist() == texts


NUMBERS = st.from_regex(r"\A[+-]?[0-9]{1,3}(\.[0-9]{1,2})?(e[0-9])?\Z")
LABELS = st.one_of(TEXT, NUMBERS, st.integers(), st.floats(), st.booleans())


@given(values=st.lists(LABELS, min_size=1, max_size=6),
       label_type=st.sampled_from(["auto", "class", "float"]))
def test_classes_are_labels_as_they_are_written(values, label_type):
  """Every label is one of the classes under its own name, or all are finite numbers."""
  table = tables.Table("f.csv", None)
  try:
    names = labels.infer_label_names(table, values, label_type)
    encoded = labels.encode_labels(table, values, tasks.own_task(("text",), names), names)
  except UserError as error:
    assert 0 < len(str(error)) <= 300
    return
  if names:
    assert [names[code] for code in encoded] == [str(value) for value in values]
    assert set(names) == set(map(str, values))
  else:
    assert [float(value) for value in encoded] == [
        float(np.float32(float(value))) for value in values]
