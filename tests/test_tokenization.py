"""Tokenizers: the files' own pipeline, one way from vocab.txt, and the same in transformers."""

import json
import subprocess
import sys

from conftest import ROOT, WORDS
import pytest
import tokenizers

from pretraining import wordpieces
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


def test_the_case_of_another_normalizer_cannot_be_set(tokenizer, tmp_path, capsys):
  folder = saved(tokenizer, tmp_path / "a", normalizer={"type": "Lowercase"})
  assert tokenization.load_tokenizer(folder, None).encode(["FILM"]) == [ids("film")]
  with pytest.raises(UserError, match="do_lower_case needs .* BertNormalizer; .* 'Lowercase'"):
    tokenization.load_tokenizer(folder, False)
  (tmp_path / "a" / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
  capsys.readouterr()
  assert tokenization.load_tokenizer(folder, None).encode(["FILM"]) == [ids("film")]
  assert ("do_lower_case of tokenizer_config.json change nothing: tokenizer.json has a normalizer "
          "of its own, Lowercase" in capsys.readouterr().out)


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


def test_an_entry_that_is_there_twice_is_told(tmp_path, capsys):
  (tmp_path / "vocab.txt").write_text("\n".join((*WORDS, "", "film", "", "a", "last")) + "\n\n\n")
  own = tokenization.load_tokenizer(str(tmp_path), None)
  assert own.encode(["film last"]) == [[len(WORDS) + 1, len(WORDS) + 4]]  # as in the original
  assert own.vocab_size == len(WORDS) + 5
  assert capsys.readouterr().out == (
      f"tokenizer: 2 entries of {tmp_path / 'vocab.txt'} are there twice, such as 'a'; the later "
      "line counts, as in the original\n")


def test_a_flag_replaces_the_settings_of_a_bare_vocabulary_and_says_so(tmp_path, capsys):
  (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
  (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
  assert tokenization.load_tokenizer(str(tmp_path), False).encode(["FILM"]) == [[1]]
  assert capsys.readouterr().out == (
      "tokenizer: do_lower_case=False replaces tokenizer_config.json's True\n")


def test_a_bare_vocabulary_with_other_names_of_special_tokens(tmp_path):
  (tmp_path / "vocab.txt").write_text("<pad>\n<unk>\n<s>\n</s>\n<mask>\nfilm\n")
  (tmp_path / "special_tokens_map.json").write_text(json.dumps(
      {"cls_token": "<s>", "sep_token": {"content": "</s>"}, "pad_token": "<pad>",
       "unk_token": "<unk>", "mask_token": "<mask>"}))
  own = tokenization.load_tokenizer(str(tmp_path), None)
  assert own.encode(["film xyz"]) == [[5, 1]]
  assert (own.cls_token_id, own.sep_token_id, own.mask_token_id) == (2, 3, 4)


# --- Added tokens, and names of special ones ------------------------------------------------------


def both_scripts(own, text):
  """The ids of fine-tuning, which pre-training must give too."""
  ids, = own.encode([text])
  assert wordpieces.WordPieces(own.backend)([text]) == [ids]
  return ids


def test_names_of_special_tokens_in_a_text_are_text(tokenizer, tmp_path):
  (tmp_path / "vocab.txt").write_text("\n".join((*WORDS, "[", "]", "sep", "mask")) + "\n")
  own = tokenization.load_tokenizer(str(tmp_path), None)
  bracket, closing, sep, mask = range(len(WORDS), len(WORDS) + 4)
  expected = [*ids("a"), bracket, sep, closing, bracket, mask, closing, *ids("film")]
  assert both_scripts(own, "a [SEP][MASK] film") == expected
  own.save_pretrained(tmp_path / "saved")
  assert both_scripts(tokenization.load_tokenizer(str(tmp_path / "saved"), None),
                      "a [SEP][MASK] film") == expected


DECODER = {str(len(WORDS)): {"content": "[E1]", "special": True, "lstrip": False, "rstrip": False,
                             "normalized": False, "single_word": False},
           str(len(WORDS) + 1): {"content": "New York", "special": False, "normalized": True}}


@pytest.mark.parametrize("files", [
    {"added_tokens.json": {"New York": len(WORDS) + 1, "[E1]": len(WORDS)}},
    {"tokenizer_config.json": {"added_tokens_decoder": DECODER}},
    {"tokenizer_config.json": {"added_tokens_decoder": DECODER},
     "added_tokens.json": {"[E1]": len(WORDS), "New York": len(WORDS) + 1}},
    {"special_tokens_map.json": {"additional_special_tokens": ["[E1]", {"content": "New York"}]}}])
@pytest.mark.parametrize("as_json", [False, True], ids=["vocab.txt", "tokenizer.json"])
def test_added_tokens_are_one_id_in_both_scripts(tokenizer, tmp_path, files, as_json):
  if as_json:
    saved(tokenizer, tmp_path)
  else:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
  for name, content in files.items():
    (tmp_path / name).write_text(json.dumps(content))
  own = tokenization.load_tokenizer(str(tmp_path), None)
  assert own.vocab_size == len(WORDS) + 2
  expected = [*ids("a"), len(WORDS), *ids("film"), len(WORDS) + 1]
  assert both_scripts(own, "A [E1] film New York") == expected
  own.save_pretrained(tmp_path / "saved")
  again = tokenization.load_tokenizer(str(tmp_path / "saved"), None)
  assert both_scripts(again, "A [E1] film New York") == expected
  assert again.get_vocab() == own.get_vocab()


def test_added_tokens_of_tokenizer_json_alone(tokenizer, tmp_path):
  """The `tokenizers` library's file is enough, and transformers reads what is saved."""
  import transformers

  backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
  backend.add_special_tokens(["[E1]"])
  backend.save(str(tmp_path / "tokenizer.json"))
  own = tokenization.load_tokenizer(str(tmp_path), None)
  assert both_scripts(own, "a [E1] film") == [*ids("a"), len(WORDS), *ids("film")]
  own.save_pretrained(tmp_path / "saved")
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
  assert theirs("a [E1] film", add_special_tokens=False)["input_ids"] == [
      *ids("a"), len(WORDS), *ids("film")]


@pytest.mark.parametrize("name,content,message", [
    ("added_tokens.json", {"[E1]": len(WORDS) + 5},
     r"added token '\[E1\]' should have the id '40'; the vocabulary makes it 35"),
    ("added_tokens.json", {"[E1]": "x"}, "ids of added tokens must be integers, not .'x'."),
    ("added_tokens.json", {"[E1]": 4_000_000_000}, "should have the id '4000000000'"),
    ("added_tokens.json", {"[E1]": -1}, "ids of added tokens must be integers"),
    ("added_tokens.json", {"": 33}, "names no token: ''"),
    ("added_tokens.json", [], "added_tokens.json must hold a JSON object"),
    ("tokenizer_config.json", {"added_tokens_decoder": [1]},
     "tokenizer_config.json: added_tokens_decoder must be of type dict, not .1."),
    ("tokenizer_config.json", {"added_tokens_decoder": {"33": {"content": 5}}}, "names no token"),
    ("tokenizer_config.json", {"added_tokens_decoder": {"33": {"content": "a", "lstrip": "x"}}},
     "no tokenizer at "),
    ("tokenizer_config.json", {"do_lower_case": "yes"}, "do_lower_case must be of type bool, not "),
    ("tokenizer_config.json", {"strip_accents": 1}, "strip_accents must be of type bool, not 1"),
    ("tokenizer_config.json", {"model_max_length": "x"}, "model_max_length must be of type int"),
    ("tokenizer_config.json", {"cls_token": 5}, "cls_token must be of type str or dict, not 5"),
    ("tokenizer_config.json", {"cls_token": {"a": "b"}}, "names no token: {'a': 'b'}"),
    ("tokenizer_config.json", 5, "tokenizer_config.json must hold a JSON object, not 5"),
    ("special_tokens_map.json", {"additional_special_tokens": {"a": 1}},
     "special_tokens_map.json: additional_special_tokens must be of type list")])
def test_files_beside_a_vocabulary_are_checked(tmp_path, name, content, message):
  (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
  (tmp_path / name).write_text(json.dumps(content))
  with pytest.raises(UserError, match=message):
    tokenization.load_tokenizer(str(tmp_path), None)


@pytest.mark.parametrize("change,message", [
    (lambda content: content["model"]["vocab"].update(far=4_000_000_000),
     "has 36 entries and the id 4,000,000,000; ids must follow each other with few gaps"),
    (lambda content: content["model"]["vocab"].update(far=-1), "no tokenizer at "),
    (lambda content: content["model"].update(vocab=5), "no tokenizer at "),
    (lambda content: content.update(normalizer=5), "no tokenizer at "),
    (lambda content: content.update(added_tokens={}), "no tokenizer at "),
    (lambda content: content.clear(), "no tokenizer at ")])
def test_a_damaged_tokenizer_json(tokenizer, tmp_path, change, message):
  folder = saved(tokenizer, tmp_path)
  content = json.loads((tmp_path / "tokenizer.json").read_text())
  change(content)
  (tmp_path / "tokenizer.json").write_text(json.dumps(content))
  with pytest.raises(UserError, match=message):
    tokenization.load_tokenizer(folder, None)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, '{"a": "\\ud800"}', "5"])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_json_that_is_none_is_one_line(tmp_path, name, content):
  (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
  (tmp_path / name).write_text(content)
  with pytest.raises(UserError, match=f"{name} (cannot be read as JSON|must hold a JSON object)"):
    tokenization.load_tokenizer(str(tmp_path), None)
