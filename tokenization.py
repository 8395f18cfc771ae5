"""Tokenizers: the files of a folder or of the hub in, WordPiece ids out.

Needs the `tokenizers` library alone; importing transformers takes seconds.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

import tokenizers

from support import files, hub
from support.errors import first_line, shown, UserError
from support.reporting import say

SPECIAL_TOKENS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]",
                  "sep_token": "[SEP]", "mask_token": "[MASK]"}
# Settings of a tokenizer_config.json -> fields of the library's BertNormalizer.
_NORMALIZER_FIELDS = {"do_lower_case": "lowercase", "strip_accents": "strip_accents",
                      "tokenize_chinese_chars": "handle_chinese_chars"}
# Settings that are read, and the types that they may have.
_SETTINGS = {
    **dict.fromkeys(_NORMALIZER_FIELDS, (bool,)), **dict.fromkeys(SPECIAL_TOKENS, (str, dict)),
    "model_max_length": (int, float), "added_tokens_decoder": (dict,),
    "additional_special_tokens": (list,)}
_ADDED_TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
MUCH_UNKNOWN = 0.03  # of a text's tokens: beyond it the vocabulary is another text's
_LONGEST_WORD = 100  # characters; HuggingFace's BERT, the original's is 200


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """A tokenizer and its special tokens.

  Attributes:
    backend: normalizes, splits and looks up. Of its added tokens, only `special_tokens` are
      special to it: their names in a text are text, and any other added token is one id.
    special_tokens: "cls_token" and so on -> the token in the vocabulary.
    model_max_length: tokens, as the tokenizer's folder has it; None where it does not say.
  """

  backend: tokenizers.Tokenizer
  special_tokens: Mapping[str, str]
  model_max_length: int | None = None

  def encode(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each text, without [CLS] and [SEP]; all cores work.

    "[SEP]" in a text is three tokens, as in the original.
    """
    self.backend.encode_special_tokens = True  # tokenizers does not save it with the rest
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
    content = json.dumps([self.backend.to_str(), dict(self.special_tokens), "names are text"])
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
    # Not its save(), which has an exception of its own for a full disk.
    (folder / "tokenizer.json").write_text(self.backend.to_str(pretty=True), "utf-8")
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
      content = json.dumps(files.read_json(folder / "tokenizer.json"))
      backend = tokenizers.Tokenizer.from_str(content)
      _check_ids(source, backend)
      backend.no_truncation()
      backend.no_padding()
      _apply(backend, settings, do_lower_case)
      special_tokens = _special_tokens(backend, settings)
    elif (folder / "vocab.txt").exists():
      own = tokenizer_from_vocab(folder / "vocab.txt", do_lower_case, settings)
      backend, special_tokens = own.backend, own.special_tokens
    else:
      raise UserError(f"no tokenizer at {source!r}; {advice}")
    _add_tokens(backend, folder, settings)
    tokenizer = Tokenizer(_without_other_specials(backend, special_tokens), special_tokens,
                          settings.get("model_max_length"))
  except UserError:
    raise
  except Exception as error:  # malformed JSON, a tokenizer.json of another kind: many types
    raise UserError(f"no tokenizer at {source!r}: {first_line(error)}; {advice}") from error
  missing = [name for name in ("cls_token", "sep_token", "pad_token", "unk_token")
             if name not in tokenizer.special_tokens]
  if missing:
    raise UserError(f"the tokenizer at {source!r} lacks {', '.join(missing)}")
  return tokenizer


def _check_ids(source: str, backend: tokenizers.Tokenizer) -> None:
  """Raises UserError for a far id: a model would have a row, and the library a turn, for each."""
  vocabulary = backend.get_vocab()
  largest = max(vocabulary.values(), default=0)
  if largest > 2 * len(vocabulary) + 1000:
    raise UserError(f"the tokenizer at {source!r} has {len(vocabulary):,} entries and the id "
                    f"{largest:,}; ids must follow each other with few gaps")


def _settings(folder: pathlib.Path) -> dict[str, Any]:
  """Reads the settings beside a vocabulary; {} without any.

  Raises:
    UserError: no JSON, or a setting of another type.
  """
  settings = {}
  for name in ("special_tokens_map.json", "tokenizer_config.json"):
    if (folder / name).exists():
      read = files.read_json(folder / name)
      for key, kinds in _SETTINGS.items():
        if read.get(key) is not None and type(read[key]) not in kinds:
          raise UserError(f"{folder / name}: {key} must be of type "
                          f"{' or '.join(kind.__name__ for kind in kinds)}, not {shown(read[key])}")
      # strip_accents is null where the accents go with the case.
      settings |= {key: value for key, value in read.items()
                   if value is not None or key == "strip_accents"}
  return settings


def _special_names(settings: Mapping[str, Any]) -> dict[str, str]:
  """Returns "cls_token" and so on -> the token, by the settings or BERT's own."""
  named = {name: settings.get(name) or usual for name, usual in SPECIAL_TOKENS.items()}
  return {name: _content(token) for name, token in named.items()}


def _special_tokens(backend: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> dict[str, str]:
  """Returns the special tokens that the vocabulary has."""
  return {name: token for name, token in _special_names(settings).items()
          if backend.token_to_id(token) is not None}


def _content(token: Any) -> str:
  """Reads a token that JSON has as a string or, with its flags, as an object."""
  content = token.get("content") if isinstance(token, dict) else token
  if not (isinstance(content, str) and content):
    raise UserError(f"a tokenizer's setting names no token: {shown(token)}")
  return content


def _add_tokens(backend: tokenizers.Tokenizer, folder: pathlib.Path,
                settings: Mapping[str, Any]) -> None:
  """Adds the tokens that lie beside a vocabulary, as `transformers` does.

  Raises:
    UserError: one whose id is another than its file says.
  """
  known = {token.content for token in backend.get_added_tokens_decoder().values()}
  for token, said in _tokens_beside(folder, settings):
    content = _content(token)
    if content not in known:
      options = token if isinstance(token, dict) else {"normalized": False}
      backend.add_tokens([tokenizers.AddedToken(
          content, **{flag: options[flag] for flag in _ADDED_TOKEN_FLAGS if flag in options})])
    if said is not None and str(backend.token_to_id(content)) != str(said):
      raise UserError(f"{folder}: the added token {shown(content)} should have the id "
                      f"{shown(said)}; the vocabulary makes it {backend.token_to_id(content)}")


def _tokens_beside(folder: pathlib.Path,
                   settings: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
  """Yields (token, its id or None) of added_tokens.json and the settings."""
  file = folder / "added_tokens.json"
  added = files.read_json(file) if file.exists() else {}
  decoder = settings.get("added_tokens_decoder", {})
  by_id = {str(i): token for token, i in added.items()} | decoder
  if not all(i.isascii() and i.isdigit() and len(i) < 11 for i in by_id):
    raise UserError(f"{folder}: ids of added tokens must be integers, not {shown(list(by_id))}")
  for i in sorted(by_id, key=int):
    yield by_id[i], i
  for token in settings.get("additional_special_tokens", ()):
    yield token, None


def _without_other_specials(backend: tokenizers.Tokenizer,
                            special_tokens: Mapping[str, str]) -> tokenizers.Tokenizer:
  """Returns the tokenizer that `Tokenizer.backend` describes."""
  if all(token.special == (token.content in special_tokens.values())
         for token in backend.get_added_tokens_decoder().values()):
    return backend  # a tenth of a second saved
  content = json.loads(backend.to_str())
  for token in content["added_tokens"]:
    token["special"] = token["content"] in special_tokens.values()
  return tokenizers.Tokenizer.from_str(json.dumps(content))


def _apply(backend: tokenizers.Tokenizer, settings: Mapping[str, Any],
           do_lower_case: bool | None) -> None:
  """Sets tokenizer.json's normalizer as a flag or tokenizer_config.json has it, and says so."""
  own = json.loads(backend.to_str())["normalizer"] or {}
  if own.get("type") != "BertNormalizer":
    if do_lower_case is not None:
      raise UserError("do_lower_case needs a tokenizer.json with a BertNormalizer; this one's is "
                      f"{own.get('type')!r}")
    if ignored := sorted(_NORMALIZER_FIELDS.keys() & settings.keys()):
      say(f"tokenizer: {', '.join(ignored)} of tokenizer_config.json change nothing: "
          f"tokenizer.json has a normalizer of its own, {own.get('type')}")
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
  settings = settings or {}
  special_tokens = _special_names(settings)
  missing = sorted(set(special_tokens.values()).difference(words))
  if missing:
    raise UserError(f"vocab_file {file} lacks {', '.join(missing)}; {advice}")
  repeated = [word for word, times in collections.Counter(words).items() if times > 1 and word]
  if repeated:
    say(f"tokenizer: {len(repeated)} entries of {file} are there twice, such as "
        f"{shown(repeated[0])}; the later line counts, as in the original")
  own = settings.get("do_lower_case")
  if do_lower_case is None:
    do_lower_case = not has_upper_case(words) if own is None else own
  elif own not in (None, do_lower_case):
    say(f"tokenizer: do_lower_case={do_lower_case} replaces tokenizer_config.json's {own}")
  backend = bert_backend({word: i for i, word in enumerate(words)}, do_lower_case,
                         settings.get("strip_accents"),
                         settings.get("tokenize_chinese_chars", True), special_tokens["unk_token"])
  cls, sep = special_tokens["cls_token"], special_tokens["sep_token"]
  backend.post_processor = tokenizers.processors.BertProcessing(
      (sep, backend.token_to_id(sep)), (cls, backend.token_to_id(cls)))
  backend.decoder = tokenizers.decoders.WordPiece(prefix="##")
  backend.add_special_tokens(list(special_tokens.values()))
  return Tokenizer(backend, special_tokens, settings.get("model_max_length"))


def has_upper_case(words: Sequence[str]) -> bool:
  """Whether an entry of a vocabulary has an upper-case letter, special tokens aside."""
  return any(word != word.lower() for word in words if not word.startswith("["))


def bert_backend(vocab: Mapping[str, int], do_lower_case: bool, strip_accents: bool | None = None,
                 tokenize_chinese_chars: bool = True,
                 unk_token: str = SPECIAL_TOKENS["unk_token"]) -> tokenizers.Tokenizer:
  """Makes BERT's basic and WordPiece tokenizer for a vocabulary of entry -> id with `unk_token`."""
  model = tokenizers.models.WordPiece(dict(vocab), unk_token=unk_token,
                                      max_input_chars_per_word=_LONGEST_WORD)
  backend = tokenizers.Tokenizer(model)
  backend.normalizer = tokenizers.normalizers.BertNormalizer(
      lowercase=do_lower_case, strip_accents=strip_accents,
      handle_chinese_chars=tokenize_chinese_chars)
  backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  return backend
