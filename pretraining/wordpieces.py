"""Fast WordPiece tokenization.

BERT splits text at white space first, and the pieces of a word do not depend on its neighbours.
So each distinct word is tokenized once and then looked up in a dictionary.
"""

from collections.abc import Sequence
import hashlib
import itertools
import json
import re
from typing import Any
import unicodedata

import tokenizers

from support.reporting import say
from tokenization import MUCH_UNKNOWN

ORIGINAL_LONGEST_WORD = 200  # characters; a longer word is [UNK]. HuggingFace's limit: 100
_MEMO_ENTRIES = 1 << 20
_MEMO_WORD = 64  # characters; a longer word is unlikely to come again

# BERT deletes these, which joins their neighbours, but str.split() would cut there.
_DELETED = re.compile("[\x0b\x0c\x1c-\x1f\x85]")
_ASCII_PARTS = re.compile("[0-9A-Za-z]+|[^0-9A-Za-z]")  # BERT cuts at every ASCII punctuation
_CHINESE = re.compile("([\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f"
                      "\U0002b740-\U0002b81f\U0002b820-\U0002ceaf\uf900-\ufaff"
                      "\U0002f800-\U0002fa1f])")


def warn_of_unknown(share: float, cause: str = "the tokenizer is for other text (its language, its "
                    "case), or was trained with too small a --limit_alphabet") -> None:
  """Prints a warning with its probable cause if this share of the tokens, being [UNK], is large."""
  if share > MUCH_UNKNOWN:
    say(f"  warning: {share:.1%} of the tokens are [UNK], all the same to the model: {cause}")


class WordPieces:
  """A function from sentences to ids, without [CLS] and [SEP]; it can be pickled.

  The names of special tokens in a text are split like any other text.
  """

  def __init__(self, backend: tokenizers.Tokenizer, original: bool = False):
    """Copies a tokenizer.

    Args:
      backend: the tokenizer of the `tokenizers` library (`tokenization.Tokenizer.backend`).
      original: splits like the original's `FullTokenizer` instead of HuggingFace's: words up to
        200 characters, a word lower-cased as a whole (a final sigma), Python's classes of
        Unicode characters. No effect on a tokenizer that is not BERT's.
    """
    settings = json.loads(backend.to_str())
    settings.update(truncation=None, padding=None, post_processor=None)
    local = _splits_locally(settings)
    if original and local:
      settings["model"]["max_input_chars_per_word"] = ORIGINAL_LONGEST_WORD
    self._original = original
    self._backend = tokenizers.Tokenizer.from_str(json.dumps(settings))
    self._backend.encode_special_tokens = True
    self._memo = _Memo(self._backend, settings, original) if local else None

  def __call__(self, sentences: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each sentence."""
    if self._memo is None:
      encoded = self._backend.encode_batch(list(sentences), add_special_tokens=False)
      return [encoding.ids for encoding in encoded]
    return [self._memo.ids(sentence) for sentence in sentences]

  @property
  def fingerprint(self) -> str:
    """A short hash of everything that determines the ids."""
    content = f"{self._backend.to_str()} original={self._original}"
    return hashlib.sha256(content.encode()).hexdigest()[:16]

  def __reduce__(self) -> tuple[Any, ...]:
    return WordPieces, (self._backend, self._original)


def _splits_locally(settings: dict[str, Any]) -> bool:
  """Tells whether words can be tokenized one by one once control characters are deleted."""
  normalizer = settings["normalizer"] or {}
  return (settings["model"].get("type") == "WordPiece"
          and normalizer.get("type") == "BertNormalizer" and normalizer["clean_text"]
          and (settings["pre_tokenizer"] or {}).get("type") == "BertPreTokenizer"
          and all(token["special"] for token in settings["added_tokens"]))


class _Memo(dict[str, Sequence[int]]):
  """Word without white space -> its ids, computed on first use."""

  def __init__(self, backend: tokenizers.Tokenizer, settings: dict[str, Any], original: bool):
    super().__init__()
    model, normalizer = settings["model"], settings["normalizer"]
    self._backend = backend
    self._pieces = backend.model.tokenize
    self._lower = normalizer["lowercase"]
    accents = normalizer["strip_accents"]
    self._strip_accents = self._lower if accents is None else accents
    self._chinese = normalizer["handle_chinese_chars"]
    self._original = original
    self._whole = {word: [i] for word, i in model["vocab"].items()
                   if len(word) <= model["max_input_chars_per_word"]}

  def ids(self, sentence: str) -> list[int]:
    """Returns the ids of a sentence."""
    if _DELETED.search(sentence):
      sentence = _DELETED.sub("", sentence)
    # Known words are looked up in C: __getitem__ calls __missing__ for the others only.
    return list(itertools.chain.from_iterable(map(self.__getitem__, sentence.split())))

  def __missing__(self, word: str) -> Sequence[int]:
    if word.isascii() and word.isprintable():
      tokens = _ASCII_PARTS.findall(word.lower() if self._lower else word)
      ids = self._join(tokens)
    elif self._original:
      ids = self._join(self._original_tokens(word))
    else:
      ids = self._backend.encode(word, add_special_tokens=False).ids
    if len(word) <= _MEMO_WORD:
      if len(self) >= _MEMO_ENTRIES:
        self.clear()
      self[word] = ids
    return ids

  def _join(self, tokens: Sequence[str]) -> Sequence[int]:
    """Returns the ids of the pieces of tokens that need no further splitting."""
    if len(tokens) == 1 and tokens[0] in self._whole:
      return self._whole[tokens[0]]
    ids: list[int] = []
    for token in tokens:
      ids += self._whole.get(token) or (piece.id for piece in self._pieces(token))
    return ids

  def _original_tokens(self, word: str) -> list[str]:
    """Splits a word like `BasicTokenizer.tokenize` of the original."""
    word = "".join(c for c in word if not _is_removed(c))
    if self._chinese:
      word = _CHINESE.sub(r" \1 ", word)
    tokens: list[str] = []
    for token in word.split():
      if self._lower:
        token = token.lower()
      if self._strip_accents:
        token = "".join(c for c in unicodedata.normalize("NFD", token)
                        if unicodedata.category(c) != "Mn")
      tokens += "".join(f" {c} " if _is_punctuation(c) else c for c in token).split()
    return tokens


def _is_removed(character: str) -> bool:
  """Tells whether a character, not white space, is a control character or U+FFFD."""
  return character in "\0\ufffd" or unicodedata.category(character) in ("Cc", "Cf")


def _is_punctuation(character: str) -> bool:
  """Tells whether it is ASCII but no letter or digit, or punctuation by its Unicode category."""
  if character.isascii():
    return character.isprintable() and not character.isalnum() and character != " "
  return unicodedata.category(character).startswith("P")
