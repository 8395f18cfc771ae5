"""Tokenizers: the files' own pipeline, one way from vocab.txt, and the same in transformers."""

import json
import subprocess
import sys

from conftest import ROOT, WORDS
import pytest
import tokenizers

from support.errors import UserError
import tokenization


def ids(*words):
  return [WORDS.index(word) for word in words]


# --- vocab.txt -------------------------------------------------------------------------------


def test_bare_vocabulary_says_its_case(tmp_path, vocab_dir):
  load = tokenization.load_tokenizer
  assert load(str(vocab_dir), None).encode(["FILM"])[0][0] == ids("film")[0]
  assert load(str(vocab_dir), False).encode(["FILM"])[0][0] == 1
  (tmp_path / "vocab.txt").write_text("\n".join((*WORDS, "Film")) + "\n")
  cased = tokenization.load_tokenizer(str(tmp_path), None)
  assert cased.encode(["Film"])[0][0] == len(WORDS)
  (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
  assert load(str(tmp_path), None).encode(["Film"])[0][0] == ids("film")[0]


def test_settings_beside_a_bare_vocabulary_count(tmp_path):
  (tmp_path / "vocab.txt").write_text("\n".join((*WORDS, "é", "e")) + "\n", "utf-8")
  for strip, expected in ((False, len(WORDS)), (True, len(WORDS) + 1)):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(
        {"do_lower_case": True, "strip_accents": strip}))
    assert tokenization.load_tokenizer(str(tmp_path), None).encode(["É"]) == [[expected]]


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
  tokenizer.save_pretrained(tmp_path)
  again = tokenization.load_tokenizer(str(tmp_path), None)
  text = ["A GOOD film, greatly"]
  assert again.encode(text) == tokenizer.encode(text)


def test_tokenizer_errors(tmp_path):
  with pytest.raises(UserError, match="tokenizer 'a/b' is no local path and could not be fetched "
                                      ".*give a folder with tokenizer.json or vocab.txt"):
    tokenization.load_tokenizer("a/b", None)
  with pytest.raises(UserError, match="no tokenizer at .*give a folder with tokenizer.json or"):
    tokenization.load_tokenizer(str(tmp_path), None)
  (tmp_path / "vocab.txt").write_text("a\nb\n")
  with pytest.raises(UserError, match="vocab.txt lacks .CLS., .MASK., .PAD., .SEP., .UNK."):
    tokenization.load_tokenizer(str(tmp_path), None)


# --- tokenizer.json ---------------------------------------------------------------------------


def saved(tokenizer, folder, **changes):
  """The folder of a saved tokenizer whose tokenizer.json has been changed, without settings."""
  tokenizer.save_pretrained(folder)
  (folder / "tokenizer_config.json").unlink()
  content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
  for part, change in changes.items():
    content[part] = change if part != "model" else content[part] | change
  (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")
  return str(folder)


def test_the_file_s_own_pipeline_tokenizes(tokenizer, tmp_path):
  """Normalizer, pre-tokenizer and longest word are the file's, not BERT's."""
  cased = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
           "strip_accents": False, "lowercase": False}
  load = tokenization.load_tokenizer
  assert load(saved(tokenizer, tmp_path / "a", normalizer=cased), None).encode(["Film"]) == [[1]]
  by_space = {"type": "WhitespaceSplit"}
  assert load(saved(tokenizer, tmp_path / "b", pre_tokenizer=by_space), None).encode(
      ["film."]) == [[1]]
  short = {"max_input_chars_per_word": 3}
  assert load(saved(tokenizer, tmp_path / "c", model=short), None).encode(["film it"]) == [
      [1, *ids("it")]]


def test_a_flag_or_the_settings_replace_the_file_s_case_and_say_so(tokenizer, tmp_path, capsys):
  tokenizer.save_pretrained(tmp_path)
  load = tokenization.load_tokenizer
  assert load(str(tmp_path), None).encode(["FILM"]) == [ids("film")]
  assert capsys.readouterr().out == ""
  assert load(str(tmp_path), False).encode(["FILM"]) == [[1]]
  said = "tokenizer: do_lower_case=False replaces tokenizer.json's True\n"
  assert capsys.readouterr().out == said
  settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"do_lower_case": False}))
  assert load(str(tmp_path), None).encode(["FILM"]) == [[1]]
  assert capsys.readouterr().out == said


def test_the_case_of_another_normalizer_cannot_be_set(tokenizer, tmp_path):
  folder = saved(tokenizer, tmp_path / "a", normalizer={"type": "Lowercase"})
  assert tokenization.load_tokenizer(folder, None).encode(["FILM"]) == [ids("film")]
  with pytest.raises(UserError, match="do_lower_case needs .* BertNormalizer; .* 'Lowercase'"):
    tokenization.load_tokenizer(folder, False)


@pytest.mark.parametrize("changes", [
    {}, {"normalizer": {"type": "Lowercase"}}, {"pre_tokenizer": {"type": "WhitespaceSplit"}},
    {"model": {"max_input_chars_per_word": 3}}])
def test_transformers_loads_the_same(tokenizer, tmp_path, changes):
  """Also a pipeline that is not BERT's, which its BertTokenizer would replace by BERT's."""
  import transformers

  ours = tokenization.load_tokenizer(saved(tokenizer, tmp_path / "a", **changes), None)
  ours.save_pretrained(tmp_path / "b")
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "b")
  texts = ["A GOOD film, greatly", "it was dull."]
  assert theirs(texts, add_special_tokens=False)["input_ids"] == ours.encode(texts)
  pair = theirs("A bad", "it was")
  assert pair["input_ids"] == ids("[CLS]", "a", "bad", "[SEP]", "it", "was", "[SEP]")
  assert pair["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]
  assert (theirs.mask_token_id, theirs.pad_token_id) == (ours.mask_token_id, 0)


def test_special_tokens_by_the_file_s_own_names(tmp_path):
  vocab = {"<pad>": 0, "<unk>": 1, "<s>": 2, "</s>": 3, "a": 4}
  tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab, unk_token="<unk>")).save(
      str(tmp_path / "tokenizer.json"))
  with pytest.raises(UserError, match="lacks cls_token, sep_token, pad_token, unk_token"):
    tokenization.load_tokenizer(str(tmp_path), None)
  (tmp_path / "special_tokens_map.json").write_text(json.dumps(
      {"cls_token": "<s>", "sep_token": {"content": "</s>"}, "pad_token": "<pad>",
       "unk_token": "<unk>"}))
  loaded = tokenization.load_tokenizer(str(tmp_path), None)
  assert (loaded.cls_token_id, loaded.sep_token_id, loaded.mask_token_id) == (2, 3, None)


def test_transformers_is_not_imported(vocab_dir):
  """Neither by the scripts nor for a tokenizer: it takes seconds."""
  program = ("import sys, run_classifier, run_pretraining, tokenization\n"
             f"tokenization.load_tokenizer({str(vocab_dir)!r}, None)\n"
             "sys.exit('transformers' in sys.modules)")
  subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_a_vocabulary_with_windows_line_ends(tmp_path):
  special = tokenization.SPECIAL_TOKENS.values()
  (tmp_path / "vocab.txt").write_bytes("\r\n".join((*special, "a")).encode())
  own = tokenization.tokenizer_from_vocab(tmp_path / "vocab.txt", True)
  assert own.get_vocab() == {**{token: i for i, token in enumerate(special)}, "a": 5}


def test_messages_about_a_vocabulary(tmp_path):
  file = tmp_path / "vocab.txt"
  with pytest.raises(UserError, match=f"{file} cannot be read .No such file.* vocab.txt, one "):
    tokenization.tokenizer_from_vocab(file, True)
  file.write_bytes(b"\xff")
  with pytest.raises(UserError, match="cannot be read .not UTF-8"):
    tokenization.tokenizer_from_vocab(file, True)
  file.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")
  with pytest.raises(UserError, match=r"vocab.txt lacks \[MASK\]; give a BERT vocab.txt"):
    tokenization.tokenizer_from_vocab(file, True)
