"""Tables in: every GLUE layout, saved datasets, the user's files; each error names its place."""

import datetime
import decimal
import pathlib
import re

from conftest import TOKENS
import datasets
import huggingface_hub
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from classification import labels, parsers, sources, tables, tasks
from support.errors import shown, UserError

BINARY = ("no", "yes")
ARABIC = ["\u0661", "\u0662"]  # digits, which Python's int() takes


def refuses(*parts):
  """A UserError in one line that holds all parts in this order."""
  return pytest.raises(UserError, match="^.*" + ".*".join(map(re.escape, parts)) + ".*$")


def write(folder, name, content):
  """Writes bytes, or text as UTF-8 with its line ends as they are; returns the folder."""
  file = folder / name
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_bytes(content if isinstance(content, bytes) else content.encode())
  return folder


def find_source(name, path, skip_bad_rows=False):
  return sources.find_source(name, path, skip_bad_rows, pathlib.Path(TOKENS))


def texts_of(table, name):
  """A text column, as it would be tokenized."""
  return [str(text) for text in table.rows.select_columns([name])[:][name]]


def columns_of(table):
  return {name: table.column(name) for name in table.rows.column_names}


def lines_of(table):
  return [int(table.where(row).rpartition(":")[2]) for row in range(len(table))]


def read(folder, split="train", name="", skip_bad_rows=False):
  return find_source(name, str(folder), skip_bad_rows).read(split)


def own_table(tmp_path, name, content, skip_bad_rows=False):
  """The training table of a folder with this one file."""
  return read(write(tmp_path, name, content), skip_bad_rows=skip_bad_rows)


def usable(table, layout, *, labelled=True, blank_texts=False, skip=False):
  return tables.usable_rows(table, layout, labelled=labelled, blank_texts=blank_texts, skip=skip)


def encode(table, task, model_labels=None, label_columns=(), values=None):
  """The encoded labels of a table of the task's; `values` stand for a column of mixed types."""
  own = task.name == "own"
  layout = tables.recognize_columns(None if own else task, table, task.text_columns if own else (),
                                    label_columns)
  return labels.encode_labels(table, values or labels.label_values(table, layout), task,
                              model_labels or task.label_names)


# --- GLUE's TSV layout ------------------------------------------------------------------------

MNLI_HEADER = ("index promptID pairID genre sentence1_binary_parse sentence2_binary_parse "
               "sentence1_parse sentence2_parse sentence1 sentence2 label1 gold_label").split()
STSB_HEADER = ("index genre filename year old_index source1 source2 sentence1 sentence2 "
               "score").split()
QQP_HEADER = "id qid1 qid2 question1 question2 is_duplicate".split()
MRPC_HEADER = ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]
QNLI_HEADER = "index question sentence label".split()
RTE_HEADER = "index sentence1 sentence2 label".split()

# task, folder, header (None: headless), a row, its texts, its encoded label
LAYOUTS = [
    ("cola", "CoLA", None, ["gj04", "0", "*", "A b."], ["A b."], 0),
    ("sst2", "SST-2", ["sentence", "label"], ["a b ", "1"], ["a b "], 1),
    ("mrpc", "MRPC", MRPC_HEADER, ["1", "70", "71", "A.", "B."], ["A.", "B."], 1),
    ("qqp", "QQP", QQP_HEADER, ["4", "5", "6", "A?", "B?", "0"], ["A?", "B?"], 0),
    ("stsb", "STS-B", STSB_HEADER, ["0", "news", "MS", "2012", "1", "n", "n", "A.", "B.", "3.800"],
     ["A.", "B."], np.float32(3.8)),
    ("mnli", "MNLI", MNLI_HEADER, [*"0123", "(A)", "(B)", "(R A)", "(R B)", "A.", "B.", "neutral",
                                   "contradiction"], ["A.", "B."], 2),
    ("qnli", "QNLI", QNLI_HEADER, ["0", "A?", "B.", "not_entailment"], ["A?", "B."], 1),
    ("rte", "RTE", RTE_HEADER, ["0", "A.", "B.", "entailment"], ["A.", "B."], 0),
]


def tsv(*rows):
  return "".join("\t".join(row) + "\n" for row in rows if row)


@pytest.mark.parametrize("name,folder,header,row,texts,label", LAYOUTS)
def test_glue_layouts(tmp_path, name, folder, header, row, texts, label):
  task = tasks.glue_task(name)
  splits = ("train", *task.eval_splits)
  for split in splits:
    write(tmp_path, f"{folder}/{split.replace('validation', 'dev')}.tsv", tsv(header, row))
  source = find_source(name, str(tmp_path), False)
  assert source.splits == splits
  for split in splits:
    table = source.read(split)
    layout = tables.recognize_columns(source.glue_task, table, (), ())
    assert [texts_of(table, column) for column in layout.texts] == [[text] for text in texts]
    encoded = encode(table, task)
    assert encoded.tolist() == [label]
    assert encoded.dtype == (np.float32 if name == "stsb" else np.int32)


TESTS = [
    ("cola", "CoLA/test.tsv", ["index", "sentence"], ["9", "A b."], ["A b."], "9"),
    ("sst2", "SST-2/test.tsv", ["index", "sentence"], ["9", "a b "], ["a b "], "9"),
    ("mrpc", "MRPC/test.tsv", ["index", *MRPC_HEADER[1:]], ["9", "70", "71", "A.", "B."],
     ["A.", "B."], "9"),
    ("qqp", "QQP/test.tsv", ["id", "question1", "question2"], ["9", "A?", "B?"], ["A?", "B?"],
     "9"),
    ("mnli", "MNLI/test_mismatched.tsv", MNLI_HEADER[:-2],
     ["9", *"123", "(A)", "(B)", "(R A)", "(R B)", "A.", "B."], ["A.", "B."], "9"),
    ("stsb", "STS-B/test.tsv", STSB_HEADER[:-1],
     ["9", "news", "MS", "2012", "1", "n", "n", "A.", "B."], ["A.", "B."], "9"),
    ("qnli", "QNLI/test.tsv", QNLI_HEADER[:-1], ["9", "A?", "B."], ["A?", "B."], "9"),
    ("rte", "RTE/test.tsv", RTE_HEADER[:-1], ["9", "A.", "B."], ["A.", "B."], "9"),
]


@pytest.mark.parametrize("name,file,header,row,texts,row_id", TESTS)
def test_glue_test_files_keep_their_ids(tmp_path, name, file, header, row, texts, row_id):
  source = find_source(name, str(write(tmp_path, file, tsv(header, row))))
  split, = source.splits
  assert split == pathlib.Path(file).stem
  table = source.read(split)
  layout = tables.recognize_columns(source.glue_task, table, (), ())
  assert [texts_of(table, column) for column in layout.texts] == [[text] for text in texts]
  assert layout.label == ""
  assert tables.row_ids(table) == [row_id]


def test_mnli_has_two_dev_and_two_test_files(tmp_path):
  for stem in ("train", "dev_matched", "dev_mismatched", "test_matched", "test_mismatched"):
    write(tmp_path, f"MNLI/{stem}.tsv", "sentence1\n" + stem + "\n")
  source = find_source("mnli", str(tmp_path), False)
  assert {split: texts_of(source.read(split), "sentence1") for split in source.splits} == {
      "train": ["train"], "validation_matched": ["dev_matched"],
      "validation_mismatched": ["dev_mismatched"], "test_matched": ["test_matched"],
      "test_mismatched": ["test_mismatched"]}


def test_glue_folder_may_be_the_task_s_own(tmp_path):
  write(tmp_path, "CoLA/dev.tsv", "a\t1\t\tGood.\n")
  assert texts_of(read(tmp_path / "CoLA", "validation", "cola"), "sentence") == ["Good."]


def test_glue_tsv_is_plain(tmp_path):
  """A BOM, CRLF, no last line end, blank lines; quotes and Unicode's line ends are text."""
  texts = ['"A', 'say "b""', "über\u2028c\x85d\x0be"]
  rows = "\r\n\r\n".join(f"1\t0\t0\t{text}\tB" for text in texts)
  write(tmp_path, "MRPC/train.tsv", "\ufeff" + "\t".join(MRPC_HEADER) + "\r\n" + rows)
  table = read(tmp_path, name="mrpc")
  assert texts_of(table, "#1 String") == texts
  assert table.column("Quality") == ["1", "1", "1"]
  assert lines_of(table) == [2, 4, 6]


@pytest.mark.parametrize("name,sizes,ones", [("cola", (8551, 1043), (6023, 719)),
                                             ("mrpc", (4076, 1725), (2753, 1147))])
def test_real_glue(shared, name, sizes, ones):
  """All rows are there; `cut` and `uniq -c` count the same labels 1."""
  source = find_source(name, str(shared / "glue_data"), False)
  assert source.splits == ("train", "validation")
  splits = [source.read(split) for split in source.splits]
  assert tuple(map(len, splits)) == sizes
  assert tuple(encode(table, source.glue_task).sum() for table in splits) == ones


def test_real_glue_texts(shared):
  table = read(shared / "glue_data", name="mrpc")
  assert texts_of(table, "#1 String")[0] == ('Amrozi accused his brother, whom he called '
                                         '"the witness", of deliberately distorting his evidence.')
  assert texts_of(read(shared / "glue_data", name="cola"), "sentence")[0] == (
      "Our friends won't buy this analysis, let alone the next one we propose.")


def test_wrong_number_of_fields(tmp_path):
  folder = write(tmp_path, "SST-2/train.tsv", "sentence\tlabel\na\t1\nb\tc\t0\nd\ne\t0\n")
  with refuses("SST-2/train.tsv:3: 3 fields, must be 2", "--config.skip_bad_rows=True"):
    read(folder, name="sst2")
  table = read(folder, name="sst2", skip_bad_rows=True)
  assert texts_of(table, "sentence") == ["a", "e"]
  assert lines_of(table) == [2, 5]


def test_cola_without_header_counts_four_fields(tmp_path):
  with refuses("CoLA/dev.tsv:1: 2 fields, must be 4"):
    read(write(tmp_path, "CoLA/dev.tsv", "index\tsentence\n"), "validation", "cola")


# --- Finding the dataset ----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/no-such-folder", "./none", "a/b/c"])
def test_missing_path(path):
  with refuses(f"dataset_path {path} does not exist"):
    find_source("", path, False)


def test_path_is_a_file(tmp_path):
  """Whatever its name, it is the split that is asked for."""
  file = write(tmp_path, "Mine.CSV", "text,label\na,1\n") / "Mine.CSV"
  source = find_source("", str(file))
  assert source.one_file
  assert texts_of(source.read("test"), "text") == ["a"]
  with refuses(f"dataset_path {file} is a file; for mrpc give the folder above MRPC/"):
    find_source("mrpc", str(file))
  with refuses("notes.txt is no file in csv, tsv, json, jsonl or parquet"):
    find_source("", str(write(tmp_path, "notes.txt", "a") / "notes.txt"))


def test_missing_task_folder(tmp_path):
  with refuses(f"{tmp_path} has no folder MRPC/", "leave dataset_name blank"):
    find_source("mrpc", str(tmp_path), False)


@pytest.mark.parametrize("path", ["nyu-mll/glue", "."])
def test_unknown_task_is_refused_first(path):
  with refuses("dataset_name 'imdb' is no GLUE task; known: cola, sst2, mrpc"):
    find_source("imdb", path, False)
  with refuses("wnli is refused"):
    find_source("wnli", path, False)


def test_no_files(tmp_path):
  with refuses(f"{tmp_path} holds no train, validation or test file in csv, tsv, json, jsonl or "
               "parquet", "--config.dataset_name"):
    find_source("", str(write(tmp_path, "data.txt", "text,label\n")))


@pytest.mark.parametrize("first,second", [("dev.csv", "valid.jsonl"),
                                          ("validation.csv", "validation.tsv")])
def test_several_files_of_a_split(tmp_path, first, second):
  write(write(tmp_path, first, ""), second, "")
  with refuses(f"{tmp_path} holds several validation files: ", "; keep one") as error:
    find_source("", str(tmp_path), False)
  assert first in str(error.value)
  assert second in str(error.value)


@pytest.mark.parametrize("stem", ["validation", "dev", "valid", "val", "DEV"])
def test_splits_of_own_files(tmp_path, stem):
  write(write(tmp_path, "train.csv", "text\na\n"), "test.jsonl", '{"text": "c"}')
  write(tmp_path, f"{stem}.tsv", "text\nb\n")
  source = find_source("", str(tmp_path), False)
  assert source.splits == ("train", "validation", "test")
  assert [texts_of(source.read(split), "text") for split in source.splits] == [["a"], ["b"], ["c"]]
  assert source.glue_task is None


# --- The hub and saved datasets ---------------------------------------------------------------


def hub_dataset(names=BINARY, labels=(1, 0), test_labels=(-1,)):
  """A dataset in the hub's shape: ClassLabel numbers, idx, and -1 where a label is withheld."""
  features = datasets.Features({"sentence": datasets.Value("string"),
                                "label": datasets.ClassLabel(names=list(names)),
                                "idx": datasets.Value("int32")})

  def split(values, first):
    return datasets.Dataset.from_dict(
        {"sentence": [f"text {i}" for i in range(len(values))], "label": list(values),
         "idx": list(range(first, first + len(values)))}, features=features)

  return datasets.DatasetDict({"train": split(labels, 0), "test": split(test_labels, 7)})


@pytest.mark.parametrize("name,path,arguments", [
    ("sst2", "glue", ("glue", "sst2")), ("", "nyu-mll/glue", ("nyu-mll/glue", "cola")),
    ("", "nyu-mll/glue:rte", ("nyu-mll/glue", "rte")), ("rte", "glue:rte", ("glue", "rte")),
    ("RTE", "glue:rte", ("glue", "rte")),
    ("", "someone/reviews", ("someone/reviews",)), ("cola", "imdb", ("imdb", "cola"))])
def test_hub_is_asked_for(monkeypatch, name, path, arguments):
  asked = []
  monkeypatch.setattr(datasets, "load_dataset",
                      lambda *given: asked.append(given) or hub_dataset())
  monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)
  source = find_source(name, path, False)
  assert asked == [arguments]
  assert source.description == f"{' '.join(arguments)} (hub)"
  assert source.splits == ("train", "test")
  assert source.glue_task is (tasks.GLUE_TASKS[arguments[1]] if len(arguments) > 1 else None)


def test_a_configuration_of_a_hub_dataset(monkeypatch):
  asked = []
  monkeypatch.setattr(datasets, "load_dataset",
                      lambda *given: asked.append(given) or hub_dataset())
  monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)
  source = find_source("", "someone/reviews:en")
  assert asked == [("someone/reviews", "en")]
  assert (source.description, source.glue_task) == ("someone/reviews en (hub)", None)
  with refuses("dataset_path someone/reviews:en names a configuration, and dataset_name cola "):
    find_source("cola", "someone/reviews:en")
  with refuses("dataset_path glue:rte names a configuration, and dataset_name cola another"):
    find_source("cola", "glue:rte")
  with refuses("dataset_name 'marc' is no GLUE task"):
    find_source("", "glue:marc")


def test_hub_out_of_reach():
  """conftest.py sets HF_HUB_OFFLINE=1."""
  with refuses("dataset 'nobody/nothing mrpc' is no local path and could not be fetched",
               "OfflineModeIsEnabled", "--config.dataset_path=/path/to/folder"):
    find_source("mrpc", "nobody/nothing", False)


def test_saved_glue_in_the_hub_s_shape(tmp_path):
  hub_dataset(("unacceptable", "acceptable")).save_to_disk(tmp_path)
  source = find_source("cola", str(tmp_path), False)
  train, test = source.read("train"), source.read("test")
  layout = tables.recognize_columns(source.glue_task, train, (), ())
  assert layout == tables.Layout(("sentence",), "label")
  assert train.column("label") == ["acceptable", "unacceptable"]
  assert encode(train, source.glue_task).tolist() == [1, 0]
  assert test.column("label") == [None]
  assert tables.row_ids(test) == ["7"]
  with refuses("[test]:1: column 'label' is -1 (no gold label); --config.skip_bad_rows=True"):
    usable(test, tables.Layout(("sentence",), "label"), blank_texts=True)


def test_splits_of_a_saved_dataset_have_usual_names(tmp_path):
  rows = datasets.Dataset.from_dict({"text": ["a"]})
  datasets.DatasetDict({"train": rows, "dev": rows, "extra": rows}).save_to_disk(tmp_path)
  source = find_source("", str(tmp_path))
  assert source.splits == ("train", "validation", "extra")
  assert texts_of(source.read("validation"), "text") == ["a"]


def test_saved_mnli_uses_the_hub_s_columns(tmp_path):
  rows = datasets.Dataset.from_dict({"premise": ["A."], "hypothesis": ["B."], "label": [2]})
  datasets.DatasetDict({"validation_matched": rows}).save_to_disk(tmp_path)
  source = find_source("mnli", str(tmp_path), False)
  table = source.read("validation_matched")
  layout = tables.recognize_columns(source.glue_task, table, (), ())
  assert layout.texts == ("premise", "hypothesis")
  assert encode(table, source.glue_task).tolist() == [2]


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_saved_scores_stay_floats(tmp_path, kind):
  """Also where every score in the split happens to be whole."""
  features = datasets.Features({"sentence1": datasets.Value("string"),
                                "sentence2": datasets.Value("string"),
                                "label": datasets.Value(kind)})
  rows = datasets.Dataset.from_dict({"sentence1": ["a", "b"], "sentence2": ["c", "d"],
                                     "label": [5.0, 0.0]}, features=features)
  datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path)
  table = read(tmp_path, name="stsb")
  encoded = encode(table, tasks.glue_task("stsb"))
  assert encoded.dtype == np.float32
  assert encoded.tolist() == [5.0, 0.0]
  assert infer(table.column("label"), "auto") == ()


def test_a_class_number_beyond_the_names(tmp_path):
  hub_dataset(BINARY, labels=(1, 0)).save_to_disk(tmp_path)
  table = read(tmp_path)
  data = table.rows.data.table.set_column(1, "label", [[1, 7]])
  broken = tables.Table("it", datasets.Dataset(data, info=table.rows.info))
  with refuses("it:2: column 'label' is 7, beyond its 2 classes"):
    broken.column("label")


@pytest.mark.parametrize("content", ["{", '{"splits": ["train"]}'])
def test_damaged_saved_dataset(tmp_path, content):
  with refuses(f"{tmp_path} is no readable save_to_disk folder: "):
    find_source("", str(write(tmp_path, "dataset_dict.json", content)))


# --- The user's files -------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter,name", [(",", "train.csv"), ("\t", "train.tsv")])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quoted_fields(tmp_path, delimiter, name, end):
  """Delimiters, doubled quotes and line ends inside quotes; a blank line is no row."""
  texts = [f"a{delimiter}b", 'he said "no"', "two\nlines", 'mid"dle', ""]
  fields = [f'"a{delimiter}b"', '"he said ""no"""', f'"two{end}lines"', 'mid"dle', '""']
  content = end.join([f"text{delimiter}label", *(f"{field}{delimiter}1" for field in fields), ""])
  table = own_table(tmp_path, name, content + end)
  assert texts_of(table, "text") == texts
  assert table.column("label") == list(("1",) * 5)
  assert lines_of(table)[:2] == [2, 3]


@pytest.mark.parametrize("content,texts", [
    ('text\tlabel\n"Never ends\t1\n5" disk\t0\n', ['"Never ends', '5" disk']),
    ('text\tlabel\n"Quoted" start\t1\nb\t0\n', ['"Quoted" start', "b"]),
    ('text\tlabel\n"a\t1\nb"c\t0\n', ['"a', 'b"c'])])
def test_tsv_with_stray_quotes_is_read_plainly(tmp_path, content, texts):
  table = own_table(tmp_path, "train.tsv", content)
  assert texts_of(table, "text") == texts
  assert table.column("label") == ["1", "0"]


def test_stray_quotes_that_balance_swallow_no_row(tmp_path):
  table = own_table(tmp_path, "train.tsv", 'text\tlabel\n"a\t1\nb\t0\nc"\t0\n')
  assert table.column("text") == ['"a', "b", 'c"']


def test_a_short_row_does_not_turn_quoting_off(tmp_path):
  content = 'text\tlabel\n"a\tb"\t1\n"c ""x"""\t0\nd\n'
  table = own_table(tmp_path, "train.tsv", content, skip_bad_rows=True)
  assert table.column("text") == ["a\tb", 'c "x"']
  assert table.notes == ("rows with a wrong number of fields left out: 1",)
  with refuses("train.tsv:4: 1 fields, must be 2"):
    own_table(tmp_path, "train.tsv", content)


@pytest.mark.parametrize("name,comma", [("train.csv", ","), ("train.tsv", "\t")])
def test_a_column_named_twice(tmp_path, name, comma):
  with refuses(name, "the header names column 'text' twice"):
    own_table(tmp_path, name, f"text{comma}text{comma}label\na{comma}b{comma}1\n")


def test_rows_are_named_by_their_first_line(tmp_path):
  content = 'text,label\n"a\nb",1\n"c\nd",2\n'
  assert lines_of(own_table(tmp_path, "train.csv", content)) == [2, 4]


def test_a_single_saved_split_and_an_empty_one(tmp_path):
  datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "single")
  with refuses("single holds a single saved split; save a datasets.DatasetDict"):
    read(tmp_path / "single")
  empty = datasets.Dataset.from_dict({"text": []}, datasets.Features({
      "text": datasets.Value("string")}))
  source = sources._datasets_source("it", {"train": empty}, None)
  with refuses("it [train] is empty: it has no row"):
    source.read("train")


def test_blank_path():
  with refuses("dataset_path is blank; give a folder, or nyu-mll/glue"):
    find_source("", "", False)


def test_tsv_wrong_number_of_fields(tmp_path):
  content = "text\tlabel\na\tb\t1\nc\t0\n"
  with refuses("train.tsv:2: 3 fields, must be 2", "--config.skip_bad_rows=True"):
    own_table(tmp_path, "train.tsv", content)
  assert texts_of(own_table(tmp_path, "train.tsv", content, skip_bad_rows=True), "text") == ["c"]


def test_csv_wrong_number_of_fields(tmp_path):
  with refuses("train.csv:3: 3 fields, must be 2"):
    own_table(tmp_path, "train.csv", "text,label\na,1\nb,c,0\n")


@pytest.mark.parametrize("field", ['"a" b', '"a'])
def test_csv_with_broken_quoting(tmp_path, field):
  with refuses("train.csv", "broken quoting"):
    own_table(tmp_path, "train.csv", f"text,label\n{field},1\n")


@pytest.mark.parametrize("name,content", [
    ("train.csv", "text,label\n{},1\n"), ("train.tsv", "text\tlabel\n{}\t1\n"),
    ("train.jsonl", '{{"text": "{}", "label": "1"}}\n')])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_unicode_and_its_line_ends_are_text(tmp_path, name, content, bom):
  text = "Grüße 你好\u2028b\u2029c\x85d"
  table = own_table(tmp_path, name, bom + content.format(text))
  assert texts_of(table, "text") == [text]
  assert table.column("label") == ["1"]


def test_jsonl(tmp_path):
  """Keys of all rows become columns; blank lines are no rows; fractions stay as written."""
  table = own_table(tmp_path, "train.jsonl", '{"text": "a\\tb", "label": 1}\n\n{"text": "c", '
                                             '"extra": 2.50}\r\n{"label": 0, "text": "\\u00fc"}')
  assert columns_of(table) == {"text": ["a\tb", "c", "ü"], "label": [1, None, 0],
                               "extra": [None, "2.50", None]}
  assert lines_of(table) == [1, 3, 4]


@pytest.mark.parametrize("line,message", [
    ('{"text": ', "not JSON: Expecting value at column "),
    ("text", "not JSON: Expecting value at column 1"),
    ('{"text": "a"} {"text": "b"}', "not JSON: more than one value in the line"),
    ('["a", 1]', "a row must be an object, not ['a', '1']"),
    ("1", "a row must be an object, not '1'"),
    ('{"text": "a", "text": "b"}', "a key stands twice in one object"),
    ("[" * 100_000, "it is nested too deep"), ('{"a":' * 100_000, "it is nested too deep"),
    ('{"text": "a \\ud83d b"}', "column 'text' has half of a surrogate pair"),
    ('{"label": "\\udc00"}', "column 'label' has half of a surrogate pair"),
    ('{"\\ud800": 1}', "column '\\ud800' has half of a surrogate pair")])
def test_broken_json(tmp_path, line, message):
  """One object a line, or an array, whose items know their lines too."""
  with refuses(f"train.jsonl:2: {message}"):
    own_table(tmp_path, "train.jsonl", f'{{"text": "a"}}\n{line}\n')
  place = "train.json:3"
  if message.endswith("column "):  # the value is looked for in the line of the ]
    place = "train.json:4"
  if "more than" in message:
    message = "not JSON: the array must go on with a comma or end with ]"
  with refuses(f"{place}: {message}"):
    own_table(tmp_path / "array", "train.json", f'[\n{{"text": "a"}},\n{line}\n]')


@pytest.mark.parametrize("name", ["train.json", "train.jsonl"])
@pytest.mark.parametrize("content", [
    '\ufeff{"text": "a", "label": 1}\n\n{"text": "\\ud83d\\ude00", "label": 0}',
    ' [{"text": "a", "label": 1}\n\n ,{"text": "\U0001f600", "label": 0}]\n'])
def test_json_is_lines_or_an_array(tmp_path, name, content):
  table = own_table(tmp_path, name, content)
  assert columns_of(table) == {"text": ["a", "\U0001f600"], "label": [1, 0]}
  assert lines_of(table) == [1, 3]


@pytest.mark.parametrize("content", ["[]", "[ ]\n", "[", '[{"text": "a"}', '[{"text": "a"},]',
                                     '[{"text": "a"}]]', '[{"text": "a"} 1]'])
def test_json_array_that_is_broken_or_empty(tmp_path, content):
  with refuses("train.json is empty" if "]" in content and len(content) < 5 else
               "train.json:1: not JSON: "):
    own_table(tmp_path, "train.json", content)


@pytest.mark.parametrize("numbers,cells", [
    (["1", "2", "-3"], [1, 2, -3]), (["1", "1.5", "null"], ["1", "1.5", None]),
    (["1", "12345678901234567890123"], ["1", "12345678901234567890123"]),
    (["9007199254740993", "0.5"], ["9007199254740993", "0.5"]),
    (["1.0", "1.00", "1e5"], ["1.0", "1.00", "1e5"]), (["1" * 5000], ["1" * 5000]),
    (["NaN", "1"], [None, 1]), (["true", "false"], [True, False])])
def test_json_rounds_no_number(tmp_path, numbers, cells):
  content = "\n".join(f'{{"label": {number}}}' for number in numbers)
  assert own_table(tmp_path, "train.jsonl", content).column("label") == cells


def test_json_of_one_and_a_half_has_no_class_1_0(tmp_path):
  content = "\n".join(f'{{"text": "a", "label": {number}}}' for number in (1, 1.5, 2))
  values = own_table(tmp_path, "train.jsonl", content).column("label")
  assert infer(values, "class") == ("1", "1.5", "2")
  assert infer(values, "auto") == ()


def test_jsonl_dates_and_types(tmp_path):
  """A text that reads like a date is a text; a column has one type, or its line is named."""
  table = own_table(tmp_path, "train.jsonl", '{"text": "2020-01-01", "label": "a"}\n')
  assert table.column("text") == ["2020-01-01"]
  with refuses("train.jsonl:2: column 'label' is text here and a number before"):
    own_table(tmp_path, "train.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": "x"}\n')


def test_an_endless_line(tmp_path, monkeypatch):
  monkeypatch.setattr(parsers, "_LONGEST_LINE", 30)
  for name, first in (("train.csv", "text"), ("train.tsv", "text"), ("train.jsonl", "{}")):
    with refuses(f"{name}:2: the line has more than 30 bytes"):
      own_table(tmp_path / name, name, f"{first}\n{'a' * 31}")


@pytest.mark.parametrize("name,header,message", [
    ("train.csv", "text;label", "the header has no comma but semicolons: 'text;label'; write "
                                "the file with commas"),
    ("train.csv", "text\tlabel", "the header has no comma but tabs"),
    ("train.tsv", "text,label", "the header has no tab but commas")])
def test_other_delimiters(tmp_path, name, header, message):
  """Also where the rows have the right ones, as "a warm, and funny film;pos" has."""
  with refuses(f"{name}: {message}"):
    own_table(tmp_path, name, f"{header}\na, b;c\td\n", skip_bad_rows=True)


def test_spreadsheet_headers(tmp_path):
  """Blanks around names are no part of them; empty columns after the last one are none."""
  table = own_table(tmp_path, "train.csv", "text , label,,\na,1,,\nb,0\nc,1, \n")
  assert columns_of(table) == {"text": ["a", "b", "c"], "label": ["1", "0", "1"]}
  for row in ("a,1,x,", "a", "a,1,,,"):
    with refuses(f"train.csv:2: {row.count(',') + 1} fields, must be 2"):
      own_table(tmp_path / row, "train.csv", f"text,label,,\n{row}\n")
  with refuses("train.csv: the header names no column"):
    own_table(tmp_path / "none", "train.csv", ",,\na,b,c\n")


def test_parquet(tmp_path):
  columns = {"text": ["a\nb", "ü"], "label": [1, 0], "score": [0.5, None]}
  pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "train.parquet")
  table = read(tmp_path)
  assert columns_of(table) == columns
  assert lines_of(table) == [1, 2]


def test_parquet_keeps_the_names_of_classes(tmp_path):
  hub_dataset(("spam", "ham", "never"), labels=(0, 1))["train"].to_parquet(
      tmp_path / "train.parquet")
  table = read(tmp_path)
  assert table.class_names("label") == ("spam", "ham", "never")
  assert table.column("label") == ["spam", "ham"]


def test_parquet_text_that_is_not_utf8(tmp_path):
  """It matters in a column that is wanted."""
  raw = pyarrow.array([b"a", b"na\xefve"]).view(pyarrow.string())
  pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": raw, "label2": [1, 0]}),
                              tmp_path / "train.parquet")
  table = read(tmp_path)
  assert table.column("label2") == [1, 0]
  with refuses("train.parquet:2: column 'label' is not UTF-8: b'na\\xefve'"):
    usable(table, tables.Layout(("text",), "label"))


def test_parquet_reads_no_picture(tmp_path):
  """A broken picture and a broken sound that nobody asked for are not even read."""
  features = datasets.Features({"text": datasets.Value("string"), "image": datasets.Image(),
                                "audio": datasets.Audio(), "label": datasets.Value("int64")})
  broken = {"bytes": b"no picture", "path": None}
  cells = {"text": ["a"], "image": [broken], "audio": [broken], "label": [1]}
  rows = datasets.Dataset(pyarrow.Table.from_pydict(cells, features.arrow_schema))
  datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path / "saved")
  (tmp_path / "files").mkdir()
  rows.to_parquet(tmp_path / "files" / "train.parquet")
  for folder in ("saved", "files"):
    table = usable(read(tmp_path / folder), tables.Layout(("text",), "label"))
    assert (texts_of(table, "text"), table.column("label")) == (["a"], [1])
    with refuses("column 'image' holds objects, not text"):
      usable(table, tables.Layout(("image",), "label"))


@pytest.mark.parametrize("about", [b"{", b'{"info": 5}', b"\xff"])
def test_parquet_with_broken_metadata(tmp_path, about):
  table = pyarrow.table({"text": ["a"]}).replace_schema_metadata({b"huggingface": about})
  pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
  with refuses("train.parquet cannot be read as parquet: "):
    read(tmp_path)


def test_broken_parquet(tmp_path):
  with refuses("train.parquet cannot be read as parquet: "):
    own_table(tmp_path, "train.parquet", "no parquet")


@pytest.mark.parametrize("name,header", [("train.csv", "text,label\n"),
                                         ("train.tsv", "text\tlabel\n"), ("train.jsonl", "\n\n")])
def test_empty_file(tmp_path, name, header):
  for content in ("", "\n", "\ufeff", header):
    with refuses(f"{name} is empty: it has no row"):
      own_table(tmp_path, name, content)


def test_empty_parquet_and_glue_files(tmp_path):
  schema = pyarrow.schema([("text", pyarrow.string())])
  pyarrow.parquet.write_table(schema.empty_table(), tmp_path / "train.parquet")
  with refuses("train.parquet is empty: it has no row"):
    read(tmp_path)
  with refuses("RTE/train.tsv is empty: it has no row"):
    read(write(tmp_path, "RTE/train.tsv", tsv(RTE_HEADER)), name="rte")


@pytest.mark.parametrize("file,task,content,byte", [
    ("train.csv", "", b"text\nna\xefve\n", 3), ("train.tsv", "", b"text\nna\xefve\n", 3),
    ("train.jsonl", "", b'{}\n"na\xefve"\n', 4),
    ("CoLA/train.tsv", "cola", b"a\t1\t\tb\na\t1\t\tna\xefve\n", 8)])
def test_not_utf8(tmp_path, file, task, content, byte):
  with refuses(f"{file}:2: not UTF-8 (", f"at byte {byte} of the line)"):
    read(write(tmp_path, file, content), name=task)


# --- Columns ----------------------------------------------------------------------------------


def table_of(**columns):
  """A table of three rows on lines 2 to 4 of f.csv."""
  return tables.Table("f.csv", datasets.Dataset.from_dict(columns), lambda: [2, 3, 4])


def layout_of(names, text_columns=(), label_columns=(), task=None, delimiter=""):
  table = table_of(**{name: ["a", "b", "c"] for name in names})
  return tables.recognize_columns(task, table, text_columns, label_columns, delimiter)


@pytest.mark.parametrize("names,texts,label", [
    (["text", "label"], ("text",), "label"),
    (["id", "premise", "hypothesis", "gold_label"], ("premise", "hypothesis"), "gold_label"),
    (["question", "sentence", "class"], ("question", "sentence"), "class"),
    (["text2", "text1", "similarity_score"], ("text1", "text2"), "similarity_score"),
    (["title", "review", "rating"], ("review",), "rating"),
    (["question", "passage", "label"], ("question", "passage"), "label"),
    (["title", "body", "label"], ("body",), "label"), (["title", "text"], ("text",), ""),
    (["ID", "title", "label"], ("title",), "label"),
    (["Text", "LABEL"], ("Text",), "LABEL"), (["text", "Text", "label"], ("text",), "label"),
    (["text", "stars"], ("text",), "stars")])
def test_usual_column_names(names, texts, label):
  layout = layout_of(names)
  assert (layout.texts, layout.label) == (texts, label)


def test_columns_left_unused():
  assert layout_of(["id", "title", "text", "label", "date"]).unused == ("title", "date")
  assert not layout_of(["sentence", "more", "label"], task=tasks.glue_task("sst2")).unused


@pytest.mark.parametrize("name", ["title", "question"])
def test_a_part_of_the_text_does_not_win(name):
  with refuses(f"no text column recognized among '{name}', 'abstract', 'label'; name one or two"):
    layout_of([name, "abstract", "label"])


def test_configured_columns():
  names = ["text", "label", "body", "stars"]
  assert layout_of(names, ("body",), ("stars",)) == tables.Layout(
      ("body",), "stars", ("text", "label"))
  assert layout_of(names, ("body", "text")) == tables.Layout(("body", "text"), "label", ("stars",))
  with refuses("f.csv has no column 'boddy'; it has 'text', 'label', 'body', 'stars'"):
    layout_of(names, ("boddy",))


def test_missing_columns():
  with refuses("f.csv: no text column recognized among 'sentence1', 'target'",
               "--config.text_columns=a,b"):
    layout_of(["sentence1", "target"])
  with refuses("f.csv has no column '#1 String'; it has 'text'"):
    layout_of(["text"], task=tasks.glue_task("mrpc"))
  table = table_of(text=["a", "b", "c"], stars=["1", "", None])
  with refuses("f.csv: no label column recognized among 'text', 'stars'",
               "--config.label_column=name"):
    labels.label_values(table, tables.Layout(("text",), ""))
  with refuses("f.csv has no column 'label'; it has 'text', 'stars'"):
    labels.label_values(table, tables.Layout(("text",), "label"))


@pytest.mark.parametrize("cells", [
    ["a", "", "b"], ["a", None, "b"], ["a", " \u00a0\t", "b"], [1.5, float("nan"), 2.5]])
@pytest.mark.parametrize("column", ["text", "label"])
def test_missing_cells(cells, column):
  """One rule for blank text, null and NaN, of text and label: refused, or left out and counted."""
  table = table_of(**{"text": ["a", "b", "c"], "label": ["x", "y", "x"], column: cells})
  layout = tables.Layout(("text",), "label")
  with refuses(f"f.csv:3: column '{column}' is empty; --config.skip_bad_rows=True leaves such"):
    usable(table, layout)
  kept = usable(table, layout, skip=True)
  assert kept.column(column) == [cells[0], cells[2]]
  assert kept.notes == (f"rows without {column} left out: 1",)
  assert lines_of(kept) == [2, 4]
  assert tables.row_ids(kept) == ["0", "2"]


def test_rows_left_out_add_up():
  table = table_of(text=["", "b", "c"], label=["x", "", "y"])
  kept = usable(table, tables.Layout(("text",), "label"), skip=True)
  assert (kept.column("text"), lines_of(kept), tables.row_ids(kept)) == (["c"], [4], ["2"])
  assert len(usable(table, tables.Layout(("text",), "label"), skip=True, labelled=False)) == 2
  with refuses("f.csv has no row left: rows without label left out: 3"):
    usable(table_of(text=["a"] * 3, label=[""] * 3), tables.Layout(("text",), "label"), skip=True)


def test_glue_keeps_blank_texts():
  """As the original does; QQP has some."""
  table = table_of(text=["", "b", None], label=["1", "0", "1"])
  with refuses("f.csv:4: column 'text' is empty"):
    usable(table, tables.Layout(("text",), "label"), blank_texts=True)
  kept = usable(table, tables.Layout(("text",), "label"), blank_texts=True, skip=True)
  assert texts_of(kept, "text") == ["", "b"]
  assert kept.notes == ("blank texts in 'text': 1", "rows without text left out: 1")


@pytest.mark.parametrize("cells,content", [
    ([[[1]], [[2]], []], "lists"), ([[0.5], [1.5, 0.0], []], "lists"),
    ([b"a", b"b", b"c"], "bytes"),
    ([{"a": 1}, {"a": 2}, None], "objects"), ([True, False, None], "true or false"),
    ([datetime.date(2020, 1, day) for day in (1, 2, 3)], "date32[day]")])
def test_cells_that_are_no_text(cells, content):
  layout = tables.Layout(("text",), "label")
  with refuses(f"f.csv: column 'text' holds {content}, not text"):
    usable(table_of(text=cells, label=["x"] * 3), layout)
  if content == "lists":
    content = "lists of "
  if content != "true or false":
    with refuses(f"f.csv: column 'label' holds {content}"):
      usable(table_of(text=["x"] * 3, label=cells), layout)


def test_json_cells_that_are_no_text(tmp_path):
  table = own_table(tmp_path, "train.jsonl", '{"text": "a", "b": ["c"], "d": {"e": 1}, "f": null}')
  assert [table.content_of(name) for name in "bdf"] == ["lists", "objects", "nothing"]
  with refuses("train.jsonl:1: column 'f' is empty"):
    usable(table, tables.Layout(("f",), ""))


def test_class_numbers_are_no_text():
  rows = hub_dataset()["train"]
  with refuses("it: column 'label' holds class numbers, not text"):
    usable(tables.Table("it", rows), tables.Layout(("label",), ""))


def test_numbers_are_text():
  assert texts_of(table_of(text=[4, 5, -6]), "text") == ["4", "5", "-6"]
  assert texts_of(table_of(text=[4, 5, 1.5]), "text") == ["4.0", "5.0", "1.5"]


def test_row_ids():
  assert tables.row_ids(table_of(text=["a", "b", "c"])) == ["0", "1", "2"]
  assert tables.row_ids(table_of(id=[7, 8, 9], idx=[1, 2, 3])) == ["7", "8", "9"]
  assert tables.row_ids(table_of(id=[7, 8, 9], index=["x", "y", "z"])) == ["x", "y", "z"]


# --- Labels -----------------------------------------------------------------------------------


def infer(values, label_type):
  return labels.infer_label_names(tables.Table("f.csv", None, lambda: [2, 3, 4]), values,
                                  label_type)


def test_one_bad_score_makes_no_classes():
  with refuses("it:7: label 'n/a' is not a number, as most are; --config.label_type=float"):
    labels.infer_label_names(tables.Table("it", None, lambda: [5, 6, 7]),
                             ["0.5", "1.5", "n/a"], "auto")


@pytest.mark.parametrize("values,label_type,names", [
    (["yes", "no", "yes"], "auto", ("no", "yes")),
    (["10", "9", "-1"], "auto", ("-1", "9", "10")),
    ([10, 9, 9], "auto", ("9", "10")),
    (["01", "1", "2"], "auto", ("01", "1", "2")),
    (["05", "007"], "auto", ("007", "05")), (["10", "9", "-1"], "auto", ("-1", "9", "10")),
    (["1_1", "1_2"], "auto", ("1_1", "1_2")), (ARABIC, "auto", tuple(ARABIC)),
    (["\u0661.5"], "auto", ("\u0661.5",)),
    (["nan", "inf"], "auto", ("inf", "nan")), (["2\x1d", "2"], "auto", ("2", "2\x1d")),
    (["01.10", "02.3"], "auto", ("01.10", "02.3")), (["-0.5", "+1e-3"], "auto", ()),
    (["9" * 400, "9" * 5000], "class", ("9" * 400, "9" * 5000)),
    ([True, False], "auto", ("False", "True")),
    (["1", "b"], "auto", ("1", "b")),
    (["1", "2.5"], "auto", ()),
    ([1, 2.5], "auto", ()),
    (["3.0", "4.0"], "auto", ()),
    ([3.0, 4.0], "auto", ()),
    ([1, 2], "float", ()),
    (["1", "2.5"], "class", ("1", "2.5"))])
def test_inferred_labels(values, label_type, names):
  assert infer(values, label_type) == names


@pytest.mark.parametrize("values,names,encoded", [
    (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
    (["02", "+1", "1"], ("+1", "02", "1"), [1, 0, 2]),
    ([2, 1, "1"], ("1", "2"), [1, 0, 0]),
    (["01", "x", "x"], ("01", "x"), [0, 1, 1]),
    (["01", "1", "x"], ("01", "1", "x"), [0, 1, 2])])
def test_own_labels_are_encoded(values, names, encoded):
  texts = list(map(str, values))
  codes = encode(table_of(text=texts), tasks.own_task(("text",), names), values=values)
  assert codes.tolist() == encoded
  assert codes.dtype == np.int32


def test_labels_follow_the_model_s_order_by_name():
  """Names and GLUE's numbers alike: number 2 is contradiction, wherever the model has it."""
  order = ("contradiction", "entailment", "neutral")
  for values in (["entailment", "neutral", "contradiction"], ["0", "1", "2"], [0, 1, 2]):
    table = table_of(premise=values, hypothesis=values, label=values)
    assert encode(table, tasks.glue_task("mnli"), order).tolist() == [1, 2, 0]


def test_own_numbers_are_names():
  """Label "1" of classes 1 and 2 is the first class, not number 1."""
  table = table_of(text=["a"] * 3, label=["1", "2", "1"])
  assert encode(table, tasks.own_task(("text",), ("1", "2"))).tolist() == [0, 1, 0]
  with refuses("f.csv:2: label '1' is not one of 'no', 'yes'; if it is a class, name all "
               "classes in order: --config.label_names=a,b,c"):
    encode(table, tasks.own_task(("text",), BINARY))


def test_label_outside_the_set(tmp_path):
  with refuses("RTE/train.tsv:3: label 'maybe' is not one of 'entailment', 'not_entailment'"):
    rows = [["0", "a", "b", "entailment"], ["1", "a", "b", "maybe"]]
    folder = write(tmp_path, "RTE/train.tsv", tsv(RTE_HEADER, *rows))
    encode(read(folder, name="rte"), tasks.glue_task("rte"))
  with refuses("f.csv:4: label 3 is not one of '1', '2'"):
    encode(table_of(text=["a"] * 3, label=[1, 2, 3]), tasks.own_task(("text",), ("1", "2")))


@pytest.mark.parametrize("value", [
    "high", "nan", float("inf"), float("nan"), True, "1_1", ARABIC[0], "2\x1d", " 1", "1e39",
    "9" * 400, "9" * 5000, -1e39])
def test_score_that_is_no_number(value):
  with refuses(f"f.csv:3: label {shown(value)} is not a number (in float32)"):
    encode(table_of(text=["a"] * 3), tasks.own_task(("text",), ()), values=["1", value, "2"])


def test_scores_are_floats():
  scores = encode(table_of(text=["a"] * 3), tasks.own_task(("text",), ()),
                  values=["1", 2, "-0.5e1"])
  assert scores.tolist() == [1.0, 2.0, -5.0]
  assert scores.dtype == np.float32


def test_large_and_odd_numbers_stay_apart():
  names = ("12345678901234567", "12345678901234569")
  assert infer(names, "auto") == names
  assert infer(["①", "②"], "auto") == ("①", "②")
  assert infer([decimal.Decimal("1.5"), decimal.Decimal("2.5")], "auto") == ()


def test_blanks_around_a_label_are_no_part_of_it(tmp_path):
  table = own_table(tmp_path, "train.csv", "text,label\na, spam\nb,spam \nc,\u00a0ham\nd,2\x1d\n")
  values = labels.label_values(table, tables.Layout(("text",), "label"))
  assert values == ["spam", "spam", "ham", "2\x1d"]


def test_a_hundred_thousand_classes_and_columns(tmp_path):
  """Nothing is quadratic."""
  names = tuple(f"c{i:06}" for i in range(100_000))
  table = tables.Table("f.csv", None)
  assert infer(names[::-1], "auto") == names
  assert labels.encode_labels(table, names[::-1], tasks.own_task(("text",), names), names)[0] == (
      99_999)
  row = f"{','.join(names)}\n"
  parsed = parsers.parse_csv(write(tmp_path, "a.csv", 2 * row) / "a.csv", skip_bad_rows=False)
  assert parsed.columns.num_columns == 100_000
  with refuses("a.csv: the header names column 'c000000' twice"):
    parsers.parse_csv(write(tmp_path, "a.csv", f"c000000,{row}") / "a.csv", skip_bad_rows=False)


def test_a_damaged_table_in_the_cache_is_parsed_again_and_said(tmp_path, capsys):
  folder = write(tmp_path / "in", "train.csv", "text,label\na good film,1\na bad film,0\n")
  cache = tmp_path / "cache"

  def read_texts():
    return texts_of(sources.find_source("", str(folder), False, cache).read("train"), "text")

  right = read_texts()
  (cached,) = cache.glob("*.arrow")
  cached.write_bytes(cached.read_bytes().replace(b"good", b"gold"))
  assert read_texts() == right
  assert "is damaged or was never finished; it is made again" in capsys.readouterr().out


# --- Several labels a row ---------------------------------------------------------------------


def listed(table, column="labels", names=None):
  """A column of lists as classes of the rows, and encoded."""
  layout = tables.Layout(("text",), column)
  values = labels.label_lists(usable(table, layout), layout)
  names = names or table.class_names(column) or labels.infer_label_names(
      table, [value for row in values for value in row], "class")
  return values, names, labels.encode_label_lists(
      table, values, tasks.own_task(("text",), names, multi_label=True), names).tolist()


@pytest.mark.parametrize("cells,names", [
    ('["toxic ", "rude"] [] ["rude"]', ("rude", "toxic")), ("[10, 9] [] [9]", ("9", "10")),
    ('["10", 9] [] [9]', ("9", "10")), ('[null, "a"] [] ["b"]', None)])
def test_lists_in_json(tmp_path, cells, names):
  """Text or whole numbers, as they are written; an empty list is a row of no class."""
  content = "\n".join(f'{{"text": "a", "labels": {cell}}}'
                      for cell in re.findall(r"\[.*?\]", cells))
  table = own_table(tmp_path, "train.jsonl", content)
  if names is None:
    with refuses("train.jsonl:1: column 'labels' lists a class without a name: [None, 'a']"):
      listed(table)
  else:
    assert listed(table)[1:] == (names, [[1, 1], [0, 0], [1, 0]])


@pytest.mark.parametrize("saved", [True, False])
def test_lists_of_class_labels(tmp_path, saved):
  """By save_to_disk, and in parquet, which keeps the names; all classes, also one of no row."""
  features = datasets.Features({"text": datasets.Value("string"), "labels": datasets.List(
      datasets.ClassLabel(names=["joy", "fear", "never"]))})
  rows = datasets.Dataset.from_dict({"text": ["a", "b"], "labels": [[1, 0], []]}, features)
  if saved:
    datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path)
  else:
    rows.to_parquet(tmp_path / "train.parquet")
  assert listed(read(tmp_path)) == (
      [["fear", "joy"], []], ("joy", "fear", "never"), [[1, 1, 0], [0, 0, 0]])


def test_a_class_number_beyond_the_names_in_a_list(tmp_path):
  features = datasets.Features({"text": datasets.Value("string"), "labels": datasets.List(
      datasets.ClassLabel(names=["joy", "fear"]))})
  rows = datasets.Dataset.from_dict({"text": ["a", "b"], "labels": [[1], [0]]}, features)
  data = rows.data.table.set_column(1, "labels", [[[1], [0, -1]]])
  with refuses("it:2: column 'labels' lists -1, which is none of its 2 classes"):
    listed(tables.Table("it", datasets.Dataset(data, info=rows.info)))


@pytest.mark.parametrize("cells,message", [
    ([["a"], ["b", "b"], []], "f.csv:3: column 'labels' lists a class twice: ['b', 'b'] (lists of "
                              "0 and 1 go into columns of their own: --config.label_column=a,b,c)"),
    ([["a"], ["b", " "], []], "f.csv:3: column 'labels' lists a class without a name: ['b', '']"),
    ([["a"], None, []], "f.csv:3: column 'labels' is empty; --config.skip_bad_rows=True leaves"),
    (["a", "b", "c"], "f.csv: column 'labels' holds text and no lists of classes"),
    ([["a"], ["c"], ["b"]], "f.csv:3: label 'c' is not one of 'a', 'b'; if it is a class, name")])
def test_lists_that_are_wrong(cells, message):
  with refuses(message):
    listed(table_of(text=["x"] * 3, labels=cells), names=("a", "b"))


def test_lists_in_parquet_that_are_not_utf8(tmp_path):
  items = pyarrow.array([b"a", b"na\xefve"]).view(pyarrow.string())
  lists = pyarrow.ListArray.from_arrays(pyarrow.array([0, 1, 2], pyarrow.int32()), items)
  parquet(tmp_path, pyarrow.table({"text": ["a", "b"], "labels": lists}))
  with refuses("train.parquet:2: column 'labels' is not UTF-8: [b'na\\xefve']"):
    listed(read(tmp_path))


def test_a_list_that_means_no_label():
  table = table_of(text=["x"] * 3, labels=[["a"], ["none"], []])
  kept = tables.usable_rows(table, tables.Layout(("text",), "labels"), labelled=True,
                            blank_texts=False, skip=True, missing_label="none")
  assert kept.column("labels") == [["a"], []]
  assert kept.notes == ("rows without label left out: 1",)


MARKED = tables.Layout(("text",), "", (), ("rude", "toxic"))


@pytest.mark.parametrize("rude,toxic", [
    (["1", "0 ", "0"], ["1", "1", "0"]), ([1, 0, 0], [1.0, 1.0, 0.0]),
    ([True, False, False], ["True", "true", "FALSE"])])
def test_columns_of_0_and_1(rude, toxic):
  table = table_of(text=["x"] * 3, rude=rude, toxic=toxic)
  values = labels.label_lists(usable(table, MARKED), MARKED)
  assert values == [["rude", "toxic"], ["toxic"], []]
  task = tasks.own_task(("text",), ("rude", "toxic"), multi_label=True)
  encoded = labels.encode_label_lists(table, values, task, ("toxic", "rude"))
  assert (encoded.tolist(), encoded.dtype) == ([[1, 1], [1, 0], [0, 0]], np.int32)


def test_columns_of_0_and_1_that_are_wrong():
  with refuses("f.csv:4: column 'toxic' is '2', must be 0 or 1, as label_column names several"):
    labels.label_lists(table_of(rude=["0", "0", "1"], toxic=["1", "0", "2"]), MARKED)
  table = table_of(text=["x"] * 3, rude=[0, -1, 1], toxic=[1, -1, 0])
  kept = tables.usable_rows(table, MARKED, labelled=True, blank_texts=False, skip=True,
                            missing_label="-1")
  assert labels.label_lists(kept, MARKED) == [["toxic"], ["rude"]]
  with refuses("f.csv:3: column 'toxic' is empty"):
    usable(table_of(text=["x"] * 3, rude=["0", "0", "1"], toxic=["1", "", "1"]), MARKED)
  names = ["text", "rude", "toxic", "date"]
  assert layout_of(names, (), ("rude", "toxic")) == tables.Layout(
      ("text",), "", ("date",), ("rude", "toxic"))
  with refuses("f.csv has no column 'toxic'"):  # which a split without labels may lack
    usable(table_of(text=["x"] * 3, rude=[0, 0, 1]), MARKED)


# --- Texts that are joined --------------------------------------------------------------------


def test_more_than_two_texts_are_joined(tmp_path):
  """A row needs one of them; numbers are text."""
  table = table_of(title=["a", "", " "], body=["b", "c", None], year=[1, 2, None], label=[0, 1, 0])
  names = ("title", "body", "year")
  with refuses("text_columns 'title', 'body', 'year' must be one or two; --config.text_delimiter"):
    tables.recognize_columns(None, table, names, ())
  layout = tables.recognize_columns(None, table, names, (), " | ")
  assert layout == tables.Layout(names, "label", (), (), " | ")
  with refuses("f.csv:4: each of 'title', 'body', 'year' is empty; --config.skip_bad_rows=True"):
    usable(table, layout)
  kept = usable(table, layout, skip=True)
  texts = tables.texts_to_tokenize(kept, layout)
  assert texts[:] == {"text": ["a | b | 1", " | c | 2"]}
  assert layout_of(["text", "label"], delimiter=" ").delimiter == ""
  assert layout_of(["text_a", "text_b"], delimiter=" ").delimiter == " "


# --- The hub's names --------------------------------------------------------------------------


@pytest.mark.parametrize("place", [".", "data"])
def test_files_by_the_hub_s_names(tmp_path, place):
  """Joined in the order of their numbers; an error names the file and its line."""
  (tmp_path / place).mkdir(exist_ok=True)
  for name, texts in (("train-00001-of-00002", ["c", ""]), ("train-00000-of-00002", ["a", "b"]),
                      ("test-00000-of-00001", ["d"])):
    pyarrow.parquet.write_table(pyarrow.table({"text": texts, "label": [0] * len(texts)}),
                                tmp_path / place / f"{name}.parquet")
  (tmp_path / "README.md").write_text("# Mine\n")
  assert find_source("", str(tmp_path)).splits == ("train", "test")
  table = read(tmp_path)
  assert texts_of(table, "text") == ["a", "b", "c", ""]
  with refuses("train-00001-of-00002.parquet:2: column 'text' is empty"):
    usable(table, tables.Layout(("text",), "label"))
  kept = usable(table, tables.Layout(("text",), "label"), skip=True)
  assert kept.where(2) == f"{tmp_path / place}/train-00001-of-00002.parquet:1"
  (tmp_path / place / "train-00000-of-00002.parquet").unlink()
  with refuses("train-00001-of-00002.parquet is one of 2 files by its name, of which number 00000"):
    read(tmp_path)


def test_files_of_a_split_that_differ(tmp_path):
  for number, cells in enumerate(([1, 2], ["a", "b"])):
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x", "y"], "label": cells}),
                                tmp_path / f"train-{number:05}-of-00002.parquet")
  with refuses("train-00001-of-00002.parquet has other columns than ",
               "or of other types: 'label'"):
    read(tmp_path)


def test_other_names_are_splits_too(tmp_path):
  """Two of them are no error before one is wanted; dev and val are validation."""
  for name in ("notes.csv", "full.csv", "val.csv", "train.csv"):
    write(tmp_path, name, f"text,label\n{name},1\n")
  source = find_source("", str(tmp_path))
  assert source.splits == ("train", "validation", "full", "notes")
  assert texts_of(source.read("full"), "text") == ["full.csv"]


# --- Spellings, blanks and kinds of columns ---------------------------------------------------


def own_labels(values, names):
  return labels.encode_labels(tables.Table("f.csv", None, lambda: [2, 3, 4]), values,
                              tasks.own_task(("text",), names), names).tolist()


@pytest.mark.parametrize("values,names,codes", [
    (["negative", "Positive"], ("NEGATIVE", "POSITIVE"), [0, 1]),
    (["1.0", "0.0"], ("0", "1"), [1, 0]), ([1.0, 0.0], ("0", "1"), [1, 0]),
    ([1, 0], ("0.0", "1.0"), [1, 0]), ([True, False], ("false", "true"), [1, 0]),
    (["a", "A"], ("a", "A"), [0, 1])])
def test_a_class_in_another_spelling(values, names, codes):
  assert own_labels(values, names) == codes


@pytest.mark.parametrize("values,names,odd", [
    (["no", "NO"], ("No", "Yes"), "'no'"), (["yes"], ("YES", "Yes"), "'yes'"),
    (["01"], ("1", "2"), "'01'"), (["1.5"], ("1", "2"), "'1.5'")])
def test_another_spelling_is_not_guessed(values, names, odd):
  with refuses(f"label {odd} is not one of"):
    own_labels(values, names)


def test_blanks_of_a_classlabel_s_names_are_its_own(tmp_path):
  features = datasets.Features({"text": datasets.Value("string"),
                                "label": datasets.ClassLabel(names=[" spam", "spam"])})
  rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
  table = tables.Table("it", rows)
  values = labels.label_values(table, tables.Layout(("text",), "label"))
  assert own_labels(values, (" spam", "spam")) == [0, 1]


@pytest.mark.parametrize("blank", ["\u3000", "\u2003", "\u00a0", "\t", "\ufeff"])
def test_unicode_s_blanks_around_a_label(blank):
  rows = datasets.Dataset.from_dict({"text": ["a"], "label": [f"{blank}spam{blank}"]})
  table = tables.Table("it", rows)
  assert labels.label_values(table, tables.Layout(("text",), "label")) == ["spam"]


@pytest.mark.parametrize("long", ["12345678901234567890", 2**63 + 5, "1" + "9" * 5000])
def test_long_integers_are_classes(long):
  assert set(infer([5, long], "auto")) == {"5", str(long)}


def test_the_label_is_no_text(tmp_path):
  table = own_table(tmp_path, "train.csv", "text,label\na,x\nb,y\n")
  assert tables.recognize_columns(None, table, ("text", "label"), ()).label == ""
  with refuses("text_columns 'text', 'label' and label_column 'label' must not share a column"):
    tables.recognize_columns(None, table, ("text", "label"), ("label",))


@pytest.mark.parametrize("kind", ["map", "list_view", "large_list", "binary_view", "struct"])
def test_a_parquet_column_that_nobody_wants_is_not_read(tmp_path, kind):
  odd = {"map": pyarrow.map_(pyarrow.string(), pyarrow.int32()),
         "list_view": pyarrow.list_(pyarrow.int32()),  # parquet has no other
         "large_list": pyarrow.large_list(pyarrow.int32()),
         "binary_view": pyarrow.binary(), "struct": pyarrow.struct({"a": pyarrow.int32()})}[kind]
  parquet(tmp_path, pyarrow.table({"text": ["a", "b"], "label": [0, 1],
                                   "odd": pyarrow.nulls(2, odd)}))
  table = read(tmp_path)
  assert texts_of(table, "text") == ["a", "b"]
  assert table.content_of("odd") in ("objects", "lists", "bytes")


def test_a_string_view_is_text(tmp_path):
  text = pyarrow.array(["a", "b"]).cast(pyarrow.string_view())
  parquet(tmp_path, pyarrow.table({"text": text, "label": text}))
  table = usable(read(tmp_path), tables.Layout(("text",), "label"))
  assert texts_of(table, "text") == ["a", "b"]


def parquet(folder, columns):
  pyarrow.parquet.write_table(columns, folder / "train.parquet")


@pytest.mark.parametrize("name,content", [
    ("train.jsonl", '{" text ": "a", "label ": 1}\n'), ("train.csv", " text ,label \na,1\n"),
    ("train.tsv", " text \tlabel \na\t1\n")])
def test_blanks_around_a_column_s_name(tmp_path, name, content):
  assert own_table(tmp_path, name, content).rows.column_names == ["text", "label"]


def test_blanks_around_a_saved_column_s_name(tmp_path):
  rows = datasets.Dataset.from_dict({" text ": ["a"], "label ": [1]})
  datasets.DatasetDict({"train": rows}).save_to_disk(str(tmp_path / "saved"))
  assert read(tmp_path / "saved").rows.column_names == ["text", "label"]


def test_no_advice_to_leave_out_every_row(tmp_path):
  with refuses("train.csv:2: 2 fields, must be 1, as in every row; the header is 'sep='"):
    own_table(tmp_path, "train.csv", "sep=,\ntext,label\na,1\n")
  for skip in (False, True):
    with refuses("train.csv:2: 3 fields, must be 2, as in every row; the header is 'text', 'lab"):
      own_table(tmp_path, "train.csv", "text,label\na,1,x\nb,2,x\n", skip_bad_rows=skip)


def test_a_blank_before_a_quote(tmp_path):
  table = own_table(tmp_path, "train.csv", 'text, label\n"a, b", "x"\n"c", y\n')
  assert columns_of(table) == {"text": ["a, b", "c"], "label": ["x", "y"]}
  table = own_table(tmp_path, "train.csv", "text,label\n a,y\n")  # no blank in the header: text
  assert columns_of(table) == {"text": [" a"], "label": ["y"]}


def test_a_label_that_means_none(tmp_path):
  table = own_table(tmp_path, "train.jsonl",
                    '{"text": "a", "label": 1}\n{"text": "b", "label": -1}\n')
  layout = tables.Layout(("text",), "label")

  def rows(**options):
    return tables.usable_rows(table, layout, labelled=True, blank_texts=False, **options)

  assert len(rows(skip=True)) == 2
  with refuses("train.jsonl:2: column 'label' is -1 (no gold label); --config.skip_bad_rows=True"):
    rows(skip=False, missing_label="-1")
  kept = rows(skip=True, missing_label="-1")
  assert (len(kept), kept.notes) == (1, ("rows without label left out: 1",))
  with refuses("label -1 is not one of '0', '1'", "--config.missing_label=-1"):
    own_labels([0, -1], ("0", "1"))


def test_ids_that_stand_twice_are_none(tmp_path):
  table = own_table(tmp_path, "train.csv", "id,text,label\n3,a,x\n3,b,y\n")
  assert tables.row_ids(table) == ["0", "1"]


def test_utf_16_is_named(tmp_path):
  with refuses("train.csv holds UTF-16; convert it: iconv -f UTF-16 -t UTF-8"):
    own_table(tmp_path, "train.csv", "text,label\na,x\n".encode("utf-16"))


@pytest.mark.parametrize("name,content", [
    ("train.csv", "\0text,label\na,x\n"), ("train.tsv", "\0text\tlabel\na\tx\n"),
    ("train.jsonl", '{"\\u0000text": "a", "label": "x"}\n')])
def test_a_nul_in_a_column_s_name(tmp_path, name, content):
  with refuses(f"{name}: the name of column '\\x00text' has a NUL byte"):
    own_table(tmp_path, name, content)
