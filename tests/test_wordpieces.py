"""The fast path gives exactly HuggingFace's ids; `original` gives those of Google's script."""

import pickle
import string

import pytest
import tokenizers
import transformers

from pretraining import wordpieces
import tokenization

PIECES = (*string.ascii_letters, *string.digits, *string.punctuation, "the", "##ing", "walk",
          "sep", "mask", "ñ", "é", *"αδεικλοσςτωΔΙΟΣ", "中", "文", "ß", "😀", "”", "\u2b820", "ﬁ",
          "q" * 120)
TRICKY = (
    "", " ", "Walking the walk!", "a [SEP] b [MASK][CLS] [sep]", "ΔΙΟΣ (ΔΙΟΣ), δΙΟς", "café",
    "CAFÉ", "naïve Ñandú", "中文abc中", "a\u00a0b\u2028c\u2029d\u3000e\u202ff",
    "a\x0bb\x0cc\x1cd\x1fe\x85f",
    "zero\u200bwidth\u200d \ufeff \ufffd \0 x", "😀 the😀", "x" * 100, "x" * 101, "y" * 250,
    "q" * 120, "don't-stop... \"quoted\" ”", "İstanbul ẞ ﬁ", "e\u0301\u0301", "\u0301x",
    "\ue000private", "##ing walk##ing", "tab\tand\nnewline\r", "5% $3 <a@b>", "\u2b820a",
    "Å \u212b K")


@pytest.fixture(scope="module", params=[True, False], ids=["lower", "cased"])
def bert(request, tmp_path_factory):
  """HuggingFace's tokenizer with the pieces of the tricky texts, its file, if it lower-cases."""
  folder = tmp_path_factory.mktemp("pieces")
  words = (*tokenization.SPECIAL_TOKENS.values(), *PIECES, *(f"##{piece}" for piece in PIECES
                                                             if len(piece) == 1))
  (folder / "vocab.txt").write_text("\n".join(words) + "\n", "utf-8")
  return huggingfaces(folder / "vocab.txt", request.param), folder / "vocab.txt", request.param


def huggingfaces(vocab_file, lower):
  return transformers.BertTokenizer(str(vocab_file), do_lower_case=lower)


def huggingface(tokenizer, texts):
  return tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]


def tokens(tokenizer, text, original=True):
  return tokenizer.convert_ids_to_tokens(
      wordpieces.WordPieces(tokenizer.backend_tokenizer, original)([text])[0])


def spelled(word):
  return [word[0], *(f"##{character}" for character in word[1:])]


def test_the_ids_are_huggingfaces(bert):
  tokenizer, vocab_file, lower = bert
  own = tokenization.tokenizer_from_vocab(vocab_file, lower)
  expected = huggingface(tokenizer, TRICKY)
  for backend in (tokenizer.backend_tokenizer, own.backend):
    pieces = wordpieces.WordPieces(backend)
    assert pieces._memo is not None
    assert pieces(TRICKY) == pieces(TRICKY) == expected
  assert own.get_vocab() == tokenizer.get_vocab()


def test_every_character_alone_and_between_letters(bert):
  tokenizer = bert[0]
  texts = [f"a{chr(c)}b {chr(c)}" for c in (*range(0x3100), *range(0xf900, 0x10000),
                                            *range(0x1f600, 0x1f650), *range(0x2b700, 0x2b940))]
  backend = tokenizer.backend_tokenizer
  assert wordpieces.WordPieces(backend)(texts) == huggingface(tokenizer, texts)


def test_names_of_special_tokens_are_text(bert):
  tokenizer = bert[0]
  sep = "sep" if bert[2] else "SEP"
  expected = ["a", "[", *(["sep"] if bert[2] else ["S", "##E", "##P"]), "]", "b"]
  for original in (False, True):
    assert tokens(tokenizer, f"a [{sep}] b", original) == expected
    assert tokens(tokenizer, "a [SEP] b", original) == expected


def test_the_original_keeps_longer_words(bert):
  tokenizer = bert[0]
  for length, known in ((100, (True, True)), (101, (False, True)), (200, (False, True)),
                        (201, (False, False))):
    for original in (False, True):
      assert (tokens(tokenizer, "x" * length, original) != ["[UNK]"]) == known[original]


def test_the_original_lower_cases_words_as_a_whole(bert):
  original, huggingfaces = ("διος", "διοσ") if bert[2] else ("ΔΙΟΣ", "ΔΙΟΣ")
  assert tokens(bert[0], "ΔΙΟΣ,") == [*spelled(original), ","]
  assert tokens(bert[0], "ΔΙΟΣ,", False) == [*spelled(huggingfaces), ","]


def test_the_original_keeps_private_characters(bert):
  assert tokens(bert[0], "the\ue000") == ["[UNK]"]
  assert tokens(bert[0], "the\ue000", False) == ["the"]


def test_the_original_agrees_where_nothing_is_special(bert):
  same = [text for text in TRICKY if "Σ" not in text and "\ue000" not in text
          and len(text) <= 100]
  assert len(same) > 15
  backend = bert[0].backend_tokenizer
  assert wordpieces.WordPieces(backend, original=True)(same) == huggingface(bert[0], same)


def test_the_original_splits_chinese_accents_and_unusual_punctuation(bert):
  lower = bert[2]
  assert tokens(bert[0], "中文a”\u200bé")[:4] == ["中", "文", "a", "”"]
  assert tokens(bert[0], "中文a”\u200bé")[4] == ("e" if lower else "é")
  assert tokens(bert[0], "a\x85b\u2028c") == ["a", "##b", "c"]


def test_a_bounded_memo_forgets_and_goes_on(bert, monkeypatch):
  monkeypatch.setattr(wordpieces, "_MEMO_ENTRIES", 3)
  pieces = wordpieces.WordPieces(bert[0].backend_tokenizer)
  texts = [*"abcdefgh", "z" * 65, "a b"]
  assert pieces(texts) == huggingface(bert[0], texts)
  assert len(pieces._memo) <= 3
  assert pieces(["z" * 64, "z" * 65]) == huggingface(bert[0], ["z" * 64, "z" * 65])
  assert "z" * 64 in pieces._memo and "z" * 65 not in pieces._memo


def test_results_do_not_share_memory(bert):
  pieces = wordpieces.WordPieces(bert[0].backend_tokenizer)
  first = pieces(["the"])[0]
  first.append(99)
  assert pieces(["the"]) == [first[:-1]]


def test_pickling_and_fingerprints(bert):
  tokenizer, vocab_file, lower = bert
  plain, original = (wordpieces.WordPieces(tokenizer.backend_tokenizer, flag)
                     for flag in (False, True))
  for pieces in (plain, original):
    copy = pickle.loads(pickle.dumps(pieces))
    assert copy.fingerprint == pieces.fingerprint
    assert copy(TRICKY) == pieces(TRICKY)
  other_case = tokenization.tokenizer_from_vocab(vocab_file, not lower).backend
  longer = tokenizers.Tokenizer.from_str(
      tokenizer.backend_tokenizer.to_str().replace('_per_word":100', '_per_word":200'))
  assert wordpieces.WordPieces(longer).fingerprint != original.fingerprint
  prints = {plain.fingerprint, original.fingerprint,
            wordpieces.WordPieces(other_case).fingerprint}
  assert len(prints) == 3
  assert all(len(fingerprint) == 16 for fingerprint in prints)


def test_truncation_and_added_words_of_the_tokenizer(bert):
  tokenizer = huggingfaces(*bert[1:])
  backend = tokenizer.backend_tokenizer
  tokenizer("the", truncation=True, max_length=3, padding="max_length")  # leaves both set
  texts = [*TRICKY, "the new york walk"]
  assert backend.truncation and backend.padding
  assert wordpieces.WordPieces(backend)(texts) == huggingface(tokenizer, texts)
  tokenizer.add_tokens(["new york"])
  pieces = wordpieces.WordPieces(tokenizer.backend_tokenizer)
  assert pieces._memo is None
  assert pieces(texts) == huggingface(tokenizer, texts)


def test_a_tokenizer_that_is_not_berts_is_used_as_it_is():
  backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a b": 0, "[UNK]": 1}, "[UNK]"))
  for original in (False, True):
    assert wordpieces.WordPieces(backend, original)(["a b", "a"]) == [[0], [1]]
