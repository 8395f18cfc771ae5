"""Tokenizers: the files of a folder or of the hub in, WordPiece ids out.

Needs the `tokenizers` library alone; importing transformers takes seconds.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

import tokenizers

from support import hub
from support.errors import first_line, UserError
from support.reporting import say

SPECIAL_TOKENS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]",
                  "sep_token": "[SEP]", "mask_token": "[MASK]"}
# Settings of a tokenizer_config.json -> fields of the library's BertNormalizer.
_NORMALIZER_FIELDS = {"do_lower_case": "lowercase", "strip_accents": "strip_accents",
                      "tokenize_chinese_chars": "handle_chinese_chars"}
_LONGEST_WORD = 100  # characters; HuggingFace's BERT, the original's is 200


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """A tokenizer and its special tokens.

  Attributes:
    backend: normalizes, splits and looks up.
    special_tokens: "cls_token" and so on -> the token in the vocabulary.
    model_max_length: tokens, as the tokenizer's folder has it; None where it does not say.
  """

  backend: tokenizers.Tokenizer
  special_tokens: Mapping[str, str]
  model_max_length: int | None = None

  def encode(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each text, without [CLS] and [SEP]; all cores work."""
    encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
    return [encoding.ids for encoding in encodings]

  def get_vocab(self) -> dict[str, int]:
    """Returns entry -> id, added tokens included."""
    return self.backend.get_vocab()

  @property
  def vocab_size(self) -> int:
    """Embedding-table size: the largest token id plus one (ids may have gaps)."""
    return max(self.get_vocab().values()) + 1

  @property
  def cls_token_id(self) -> int:
    return self._id("cls_token")

  @property
  def sep_token_id(self) -> int:
    return self._id("sep_token")

  @property
  def mask_token_id(self) -> int | None:
    """None for a tokenizer without [MASK], which can be fine-tuned with but not pre-trained."""
    return self._id("mask_token")

  def _id(self, name: str) -> int | None:
    token = self.special_tokens.get(name)
    return None if token is None else self.backend.token_to_id(token)

  @property
  def fingerprint(self) -> str:
    """A short hash of everything that determines the ids."""
    content = json.dumps([self.backend.to_str(), dict(self.special_tokens)])
    return hashlib.sha256(content.encode()).hexdigest()[:16]

  def save_pretrained(self, folder: str | pathlib.Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json, which transformers loads too."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    content = json.loads(self.backend.to_str())
    if _is_bert(content):  # transformers builds this class from the settings and the vocabulary
      settings = {"tokenizer_class": "BertTokenizer"} | {
          name: content["normalizer"][field] for name, field in _NORMALIZER_FIELDS.items()}
    settings |= {**self.special_tokens,
                 "model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    if self.model_max_length is not None:
      settings["model_max_length"] = self.model_max_length
    self.backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")


def _is_bert(content: Mapping[str, Any]) -> bool:
  """Whether a tokenizer.json has BERT's own pipeline, as `tokenizer_from_vocab` makes it."""
  normalizer, model = content["normalizer"] or {}, content["model"]
  return (normalizer.get("type") == "BertNormalizer" and normalizer["clean_text"]
          and (content["pre_tokenizer"] or {}).get("type") == "BertPreTokenizer"
          and model.get("type") == "WordPiece" and model["continuing_subword_prefix"] == "##"
          and model["max_input_chars_per_word"] == _LONGEST_WORD
          and all(token["special"] for token in content["added_tokens"]))


# --- Loading --------------------------------------------------------------------------------


def load_tokenizer(source: str, do_lower_case: bool | None) -> Tokenizer:
  """Loads a BERT tokenizer from a folder or by its hub name.

  Args:
    source: a HuggingFace folder, a folder with a bare `vocab.txt`, or a hub name.
    do_lower_case: None takes the folder's setting; for a bare vocab.txt: True unless a word of
      the vocabulary has an upper-case letter.

  Raises:
    UserError: nothing usable there, or special tokens missing.
  """
  advice = "give a folder with tokenizer.json or vocab.txt: --config.tokenizer=/path/to/dir"
  folder = pathlib.Path(os.path.expanduser(source))
  if not folder.is_dir():
    try:
      folder = hub.snapshot(source, ("*.json", "*.txt"))
    except UserError as error:
      raise UserError(f"tokenizer {error}; {advice}") from error
  try:
    settings = _settings(folder)
    if (folder / "tokenizer.json").exists():
      backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
      backend.no_truncation()
      backend.no_padding()
      _apply(backend, settings, do_lower_case)
      tokenizer = Tokenizer(backend, _special_tokens(backend, settings),
                            settings.get("model_max_length"))
    elif (folder / "vocab.txt").exists():
      tokenizer = tokenizer_from_vocab(folder / "vocab.txt", do_lower_case, settings)
    else:
      raise UserError(f"no tokenizer at {source!r}; {advice}")
  except UserError:
    raise
  except Exception as error:  # malformed JSON, a tokenizer.json of another kind: many types
    raise UserError(f"no tokenizer at {source!r}: {first_line(error)}; {advice}") from error
  missing = [name for name in ("cls_token", "sep_token", "pad_token", "unk_token")
             if name not in tokenizer.special_tokens]
  if missing:
    raise UserError(f"the tokenizer at {source!r} lacks {', '.join(missing)}")
  return tokenizer


def _settings(folder: pathlib.Path) -> dict[str, Any]:
  """Reads the settings beside a vocabulary; {} without any."""
  settings = {}
  for name in ("special_tokens_map.json", "tokenizer_config.json"):
    if (folder / name).exists():
      settings |= json.loads((folder / name).read_text("utf-8"))
  return settings


def _special_tokens(backend: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> dict[str, str]:
  """The special tokens, by the settings' names or BERT's own, that the vocabulary has."""
  names = {}
  for name, usual in SPECIAL_TOKENS.items():
    token = settings.get(name) or usual
    token = token["content"] if isinstance(token, dict) else token
    if backend.token_to_id(token) is not None:
      names[name] = token
  return names


def _apply(backend: tokenizers.Tokenizer, settings: Mapping[str, Any],
           do_lower_case: bool | None) -> None:
  """Sets tokenizer.json's normalizer as a flag or tokenizer_config.json has it, and says so."""
  own = json.loads(backend.to_str())["normalizer"] or {}
  if own.get("type") != "BertNormalizer":
    if do_lower_case is not None:
      raise UserError("do_lower_case needs a tokenizer.json with a BertNormalizer; this one's is "
                      f"{own.get('type')!r}")
    return
  asked = dict(settings) | ({} if do_lower_case is None else {"do_lower_case": do_lower_case})
  changes = {name: field for name, field in _NORMALIZER_FIELDS.items()
             if name in asked and asked[name] != own[field]}
  if changes:
    say("tokenizer: " + ", ".join(f"{name}={asked[name]} replaces tokenizer.json's {own[field]}"
                                  for name, field in changes.items()))
    fields = {name: value for name, value in own.items() if name != "type"}
    fields |= {field: asked[name] for name, field in changes.items()}
    backend.normalizer = tokenizers.normalizers.BertNormalizer(**fields)


def tokenizer_from_vocab(file: str | pathlib.Path, do_lower_case: bool | None = None,
                         settings: Mapping[str, Any] | None = None) -> Tokenizer:
  """Makes BERT's tokenizer from a bare vocabulary, one entry a line.

  Args:
    file: the vocab.txt.
    do_lower_case: None takes the settings', or True unless an entry has an upper-case letter.
    settings: of a tokenizer_config.json beside it.

  Raises:
    UserError: no such file, or special tokens missing.
  """
  advice = "give a BERT vocab.txt, one entry a line"
  try:
    text = pathlib.Path(os.path.expanduser(file)).read_text("utf-8")
  except (OSError, UnicodeDecodeError) as error:
    reason = getattr(error, "strerror", None) or "not UTF-8"
    raise UserError(f"vocab_file {file} cannot be read ({reason}); {advice}") from error
  words = [line.strip() for line in text.rstrip("\n").split("\n")]
  missing = sorted(set(SPECIAL_TOKENS.values()).difference(words))
  if missing:
    raise UserError(f"vocab_file {file} lacks {', '.join(missing)}; {advice}")
  settings = settings or {}
  if do_lower_case is None:
    do_lower_case = settings.get("do_lower_case", not has_upper_case(words))
  backend = bert_backend({word: i for i, word in enumerate(words)}, do_lower_case,
                         settings.get("strip_accents"),
                         settings.get("tokenize_chinese_chars", True))
  ids = {name: backend.token_to_id(token) for name, token in SPECIAL_TOKENS.items()}
  backend.post_processor = tokenizers.processors.BertProcessing(
      ("[SEP]", ids["sep_token"]), ("[CLS]", ids["cls_token"]))
  backend.decoder = tokenizers.decoders.WordPiece(prefix="##")
  backend.add_special_tokens(list(SPECIAL_TOKENS.values()))
  return Tokenizer(backend, SPECIAL_TOKENS, settings.get("model_max_length"))


def has_upper_case(words: Sequence[str]) -> bool:
  """Whether an entry of a vocabulary has an upper-case letter, special tokens aside."""
  return any(word != word.lower() for word in words if not word.startswith("["))


def bert_backend(vocab: Mapping[str, int], do_lower_case: bool, strip_accents: bool | None = None,
                 tokenize_chinese_chars: bool = True) -> tokenizers.Tokenizer:
  """Makes BERT's basic and WordPiece tokenizer for a vocabulary of entry -> id that has [UNK]."""
  model = tokenizers.models.WordPiece(dict(vocab), unk_token="[UNK]",
                                      max_input_chars_per_word=_LONGEST_WORD)
  backend = tokenizers.Tokenizer(model)
  backend.normalizer = tokenizers.normalizers.BertNormalizer(
      lowercase=do_lower_case, strip_accents=strip_accents,
      handle_chinese_chars=tokenize_chinese_chars)
  backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  return backend
