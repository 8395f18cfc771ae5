"""A vocabulary trained on small texts: usable everywhere, the same every time, and its messages."""

import os
import shutil
import subprocess
import sys

from absl import flags
from conftest import ROOT
import pytest

from pretraining import wordpieces
from support.errors import UserError
import tokenization
import train_tokenizer

TEXT = ("The lowest lowered light.\nLights are lighter, lower lights; the lightest is lit.\n\n"
        "A slow low glow slows the slowest slower light.\nÉté été Widest wide width, newest new!\n"
        ) * 5


def run(*arguments):
  """Runs the script on flags, in this process."""
  values = flags.FlagValues()
  train_tokenizer.define_flags(values)
  values(["train_tokenizer.py", *map(str, arguments)])
  train_tokenizer.train_tokenizer(train_tokenizer.Settings.from_flags(values))


def train(folder, *arguments, text=TEXT):
  """-> the entries that a text gives."""
  file = folder.with_name("text.txt")
  file.write_text(text, "utf-8")
  run(f"--input_file={file}", f"--output_dir={folder}", *arguments)
  return (folder / "vocab.txt").read_text("utf-8").split("\n")[:-1]


def test_the_folder_serves_everyone(tmp_path, capsys):
  entries = train(tmp_path / "tokenizer", "--vocab_size=70")
  assert len(entries) == len(set(entries)) == 70
  assert entries[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
  assert capsys.readouterr().out.endswith(
      f"wrote 70 entries to {tmp_path}/tokenizer; of the text's tokens 0.0% are [UNK]\n")
  assert set(os.listdir(tmp_path)) == {"tokenizer", "text.txt"}
  (tmp_path / "bare").mkdir()
  shutil.copy(tmp_path / "tokenizer" / "vocab.txt", tmp_path / "bare")
  loaded = tokenization.load_tokenizer(str(tmp_path / "tokenizer"), None)
  bare = tokenization.load_tokenizer(str(tmp_path / "bare"), None)
  own = tokenization.tokenizer_from_vocab(str(tmp_path / "bare" / "vocab.txt"), True)
  expected = {entry: i for i, entry in enumerate(entries)}
  assert loaded.get_vocab() == bare.get_vocab() == own.get_vocab() == expected
  lines = TEXT.splitlines()
  ids = loaded.encode(lines)
  assert ids == bare.encode(lines)
  assert ids == wordpieces.WordPieces(own.backend)(lines)
  assert not any(1 in sentence for sentence in ids)  # no [UNK] in what it was trained on
  assert loaded.backend.encode("THE light", add_special_tokens=False).tokens == ["the", "light"]


def test_case_is_kept_on_demand(tmp_path):
  entries = train(tmp_path / "tokenizer", "--vocab_size=120", "--do_lower_case=False")
  assert {"T", "É", "The"} <= set(entries)
  loaded = tokenization.load_tokenizer(str(tmp_path / "tokenizer"), None)
  assert loaded.backend.encode("The Été", add_special_tokens=False).tokens == ["The", "Été"]


def test_the_same_text_gives_the_same_entries(tmp_path):
  """The trainer alone does not: ties and characters come in the order of a hash."""
  text = TEXT + "".join(f"{chr(0x3b1 + i % 25)}{chr(0x430 + i % 32)}x\n" for i in range(200))
  trained = [train(tmp_path / name, "--vocab_size=110", "--limit_alphabet=40", text=text)
             for name in "abcde"]
  assert all(entries == trained[0] for entries in trained)


def test_the_alphabet_is_the_most_frequent_characters(tmp_path):
  text = "aaaa bbb cc dd\n" + "é" * 9
  entries = train(tmp_path / "tokenizer", "--limit_alphabet=3", "--do_lower_case=False", text=text)
  assert {entry for entry in entries if len(entry) == 1} == {"é", "a", "b"}
  assert entries[5:11] == ["a", "b", "é", "##a", "##b", "##é"]
  assert train(tmp_path / "ties", "--limit_alphabet=3", text="dd cc bb aa")[5:8] == ["a", "b", "c"]


def test_later_characters_only_where_there_are_some(tmp_path):
  entries = train(tmp_path / "tokenizer", text="ab, 中文! c\n" * 2)
  assert [entry for entry in entries[5:] if len(entry.removeprefix("##")) == 1] == [
      "!", ",", "a", "b", "c", "中", "文", "##b"]
  assert entries[-1] == "ab"


def test_a_small_text_gives_fewer_entries_and_says_so(tmp_path, capsys):
  entries = train(tmp_path / "tokenizer", text="hello hello\n")
  assert len(entries) < 30
  assert f"no more than {len(entries)} entries, not 30522: the text has no" in (
      capsys.readouterr().out)


def test_characters_without_an_entry_are_the_cause(tmp_path, capsys):
  train(tmp_path / "tokenizer", "--limit_alphabet=3", text="aab ab abc\n" * 9 + "xy ab\n" * 9)
  lines = capsys.readouterr().out.splitlines()[-3:]
  assert lines[0].startswith("no more than ") and lines[0].endswith(
      "not 30522: 2 rarer characters have no entry (--limit_alphabet)")
  assert lines[1].endswith("; of the text's tokens 20.0% are [UNK]")
  assert lines[2] == ("  warning: 20.0% of the tokens are [UNK], all the same to the model: 2 "
                      "rarer characters have no entry (--limit_alphabet)")
  train(tmp_path / "long", text="a b " + "ab" * 60)
  assert "words of more than 100 characters are; has the text spaces?" in capsys.readouterr().out


def test_a_huge_word_does_not_stop_the_trainer(tmp_path):
  entries = train(tmp_path / "tokenizer", text="abc " + "cabd" * 250_000 + " abc 中" + "中" * 20000)
  assert {"abc", "##d", "中"} <= set(entries)


def test_min_frequency(tmp_path):
  assert "hello" in train(tmp_path / "a", text="hello hello\n")
  assert "hello" not in train(tmp_path / "b", "--min_frequency=3", text="hello hello\n")


def test_other_formats(tmp_path):
  (tmp_path / "rows.jsonl").write_text('{"body": "hello hello hello"}\n')
  run(f"--input_file={tmp_path}/rows.jsonl", f"--output_dir={tmp_path}/out", "--text_field=body")
  assert "hello" in (tmp_path / "out" / "vocab.txt").read_text().split("\n")


def test_messages(tmp_path):
  text = tmp_path / "text.txt"
  text.write_text(TEXT)
  out = tmp_path / "out"

  def complaint(*arguments):
    with pytest.raises(UserError) as raised:
      run(*arguments)
    assert not out.exists()
    return str(raised.value)

  common = (f"--input_file={text}", f"--output_dir={out}")
  assert complaint(common[0]) == "--output_dir is missing"
  assert complaint(common[1]) == "--input_file is missing"
  assert complaint(*common, "--vocab_size=0") == "--vocab_size=0 must be from 1 to 2147483647"
  for flag in ("vocab_size", "min_frequency", "limit_alphabet"):
    assert complaint(*common, f"--{flag}={10**30}").endswith("0 must be from 1 to 2147483647")
  message = complaint(*common, "--vocab_size=20")
  assert message.startswith("--vocab_size=20 is too small") and "need 33 entries" in message
  assert complaint("--input_file=/none", common[1]) == "--input_file: no file matches '/none'"
  assert "is there already" in complaint(common[0], f"--output_dir={tmp_path}")
  assert "is there already" in complaint(common[0], f"--output_dir={text}")
  text.write_bytes(b"a\nA longer \xff line.\n")
  assert "line 2: byte 0xff is not UTF-8" in complaint(*common)
  text.write_text("\n")
  assert complaint(*common) == f"no documents in {text}"


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
  def fail(*arguments, **options):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(tokenization.Tokenizer, "save_pretrained", fail)
  with pytest.raises(OSError) as raised:
    train(tmp_path / "out")
  assert raised.value.filename == str(tmp_path / "out")
  assert os.listdir(tmp_path) == ["text.txt"]


def test_the_command_line(tmp_path):
  (tmp_path / "text.txt").write_text(TEXT)
  (tmp_path / "out").mkdir()  # an empty folder is no obstacle
  command = [sys.executable, str(ROOT / "train_tokenizer.py"), f"--input_file={tmp_path}/text.txt",
             f"--output_dir={tmp_path}/out", "--vocab_size=60"]
  result = subprocess.run(command, capture_output=True, text=True, check=False)
  assert (result.returncode, result.stderr) == (0, "")
  assert len((tmp_path / "out" / "vocab.txt").read_text().splitlines()) == 60
  result = subprocess.run(command, capture_output=True, text=True, check=False)
  assert result.returncode == 1
  assert result.stderr.startswith("error: --output_dir=") and result.stderr.count("\n") == 1
