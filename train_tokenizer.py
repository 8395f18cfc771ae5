"""Trains a WordPiece vocabulary on the user's text.

    python3 train_tokenizer.py --input_file='/data/*.txt' --output_dir=/data/tokenizer

OUTPUT_DIR becomes a HuggingFace tokenizer folder; Google's scripts take its vocab.txt.
The same text and flags give the same vocabulary, entry by entry.
"""

if __name__ == "__main__":
  from support import stopping

  stopping.catch_signals()  # first: the imports below take seconds

import collections
from collections.abc import Iterable, Iterator, Sequence
import contextlib
import dataclasses
import itertools
import os
import pathlib
import re
from typing import Any, NamedTuple

from absl import flags
import tokenizers

from pretraining import text, wordpieces
from support import files
from support.command_line import FlagSettings, run_script
from support.errors import shown, UserError
from support.reporting import progress_bar, say
import tokenization
from tokenization import bert_backend, SPECIAL_TOKENS

_LONGEST_DOCUMENT = 1 << 20  # characters
_BLOCK = 1 << 20  # characters that are tokenized at a time
_BLOCKS = 16  # of them, from the text's start, for the share of [UNK]
_MOST = (1 << 31) - 1  # entries
# A word, whose characters are not words themselves as Chinese ones are, that would keep the trainer
# busy for hours; it is [UNK] in any case.
_HUGE_WORD = re.compile(r"[^\W\u3400-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]{10000,}")


@dataclasses.dataclass(frozen=True)
class Settings(FlagSettings):
  """The flags, described in `define_flags`."""

  input_file: str
  output_dir: str
  vocab_size: int
  do_lower_case: bool
  min_frequency: int
  limit_alphabet: int
  input_format: str
  text_field: str
  language: str
  errors: str


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags."""

  def define(kind: Any, name: str, default: Any, meaning: str) -> None:
    kind(name, default, meaning, flag_values=values)

  text.define_flags(values)
  flags.adopt_module_key_flags(text, values)  # --help shows them
  define(flags.DEFINE_string, "output_dir", "", "The tokenizer's folder, which must not be there.")
  define(flags.DEFINE_integer, "vocab_size", 30522, "Most entries.")
  define(flags.DEFINE_bool, "do_lower_case", True, "Lower-case the text and strip accents.")
  define(flags.DEFINE_integer, "min_frequency", 2, "How often pieces must stand side by side to "
         "become a new one.")
  define(flags.DEFINE_integer, "limit_alphabet", 1000, "Characters that get an entry, the most "
         "frequent ones; a word with another one is [UNK].")


def main() -> None:
  train_tokenizer(Settings.from_flags(flags.FLAGS))


def train_tokenizer(settings: Settings) -> None:
  """Trains and saves the tokenizer that the flags describe.

  Raises:
    UserError: a flag out of range, no text, or text that cannot be read. No output is left.
  """
  check_settings(settings)
  sources = text.find_sources(settings.input_file, settings.input_format, "--input_file")
  alphabet = find_alphabet(settings, sources)
  vocabulary = train_vocabulary(settings, sources, alphabet)
  unknown = share_of_unknown(settings, sources, vocabulary)
  save(settings, vocabulary)
  left_out = f"{alphabet.left_out} rarer characters have no entry (--limit_alphabet)"
  if len(vocabulary) < settings.vocab_size:
    say(f"no more than {len(vocabulary)} entries, not {settings.vocab_size}: " + (
        left_out if alphabet.left_out else "the text has no other pieces that stand side by side "
        f"{settings.min_frequency} times (--min_frequency)"))
  say(f"wrote {len(vocabulary)} entries to {settings.output_dir}; of the text's tokens "
      f"{unknown:.1%} are [UNK]")
  wordpieces.warn_of_unknown(unknown, left_out if alphabet.left_out else
                             "words of more than 100 characters are; has the text spaces?")


def check_settings(settings: Settings) -> None:
  """Raises a UserError that names the first flag out of range."""
  for name in ("input_file", "output_dir"):
    if not getattr(settings, name):
      raise UserError(f"--{name} is missing")
  for name in ("vocab_size", "min_frequency", "limit_alphabet"):
    if not 1 <= getattr(settings, name) <= _MOST:
      raise UserError(f"--{name}={shown(getattr(settings, name))} must be from 1 to {_MOST}")
  folder = pathlib.Path(os.path.expanduser(settings.output_dir))
  if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
    raise UserError(f"--output_dir={settings.output_dir} is there already; remove it or choose "
                    "another")


@contextlib.contextmanager
def opened(settings: Settings, sources: Sequence[text.Source]) -> Iterator[
    Iterator[text.Document]]:
  """Opens the input's documents under a progress bar."""
  with progress_bar(text.total_size(sources), "B") as progress:
    yield text.read_documents(
        sources, text_field=settings.text_field, language=settings.language,
        errors=settings.errors, longest=_LONGEST_DOCUMENT, progress=progress)


class Alphabet(NamedTuple):
  """The characters of a text.

  Attributes:
    characters: those that get an entry.
    later: those of them that also occur inside a word.
    left_out: number of those that get none (--limit_alphabet).
  """

  characters: list[str]
  later: list[str]
  left_out: int


def find_alphabet(settings: Settings, sources: Sequence[text.Source]) -> Alphabet:
  """Finds the characters that get an entry.

  The trainer would find them too, but in an order that changes from run to run, and the
  vocabulary with it.

  Raises:
    UserError: no text, or a vocabulary too small for its characters.
  """
  say("counting characters ...")
  splitter = bert_backend({"[UNK]": 0}, settings.do_lower_case)
  counts: collections.Counter[str] = collections.Counter()
  neighbours: set[tuple[str, str]] = set()
  with opened(settings, sources) as documents:
    for document in documents:
      characters = splitter.normalizer.normalize_str("\n".join(document))
      counts.update(characters)
      neighbours.update(itertools.pairwise(characters))
  ranked = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
  if not ranked:
    raise UserError(f"no documents in {settings.input_file}")
  alphabet = sorted(ranked[:settings.limit_alphabet])
  in_a_word = {b for a, b in neighbours if _is_one_word(splitter, a + b)}
  later = sorted(in_a_word.intersection(alphabet))
  least = len(SPECIAL_TOKENS) + len(alphabet) + len(later)
  if least > settings.vocab_size:
    raise UserError(f"--vocab_size={settings.vocab_size} is too small: the special tokens and the "
                    f"text's characters, first and later in a word, need {least} entries; raise "
                    "it or lower --limit_alphabet")
  return Alphabet(alphabet, later, len(ranked) - len(alphabet))


def _is_one_word(splitter: tokenizers.Tokenizer, characters: str) -> bool:
  words = splitter.pre_tokenizer.pre_tokenize_str(characters)
  return len(words) == 1 and words[0][0] == characters


def train_vocabulary(settings: Settings, sources: Sequence[text.Source],
                     alphabet: Alphabet) -> list[str]:
  """Returns the entries: special tokens, characters, ## characters, pieces as they were merged."""
  say(f"training on {len(alphabet.characters)} different characters ...")
  backend = bert_backend({"[UNK]": 0}, settings.do_lower_case)
  characters = [f"##{character}" for character in alphabet.later]
  # "Special" to the trainer, which keeps the order of these.
  first = [*SPECIAL_TOKENS.values(), *characters]
  trainer = tokenizers.trainers.WordPieceTrainer(
      vocab_size=settings.vocab_size, min_frequency=settings.min_frequency, show_progress=False,
      special_tokens=first, limit_alphabet=len(alphabet.characters),
      initial_alphabet=alphabet.characters, continuing_subword_prefix="##")
  with opened(settings, sources) as documents:
    backend.train_from_iterator(
        ([_HUGE_WORD.sub(" ", sentence) for sentence in document] for document in documents),
        trainer)
  vocab = backend.get_vocab()
  merged = sorted(vocab, key=lambda word: vocab[word])[len(first) + len(alphabet.characters):]
  return [*SPECIAL_TOKENS.values(), *alphabet.characters, *characters, *merged]


def share_of_unknown(settings: Settings, sources: Sequence[text.Source],
                  vocabulary: Sequence[str]) -> float:
  """Returns the share of [UNK] among the tokens of the text's first 16 MB."""
  ids = {word: i for i, word in enumerate(vocabulary)}
  pieces = wordpieces.WordPieces(bert_backend(ids, settings.do_lower_case))
  tokens = unknown = 0
  with opened(settings, sources) as documents:
    for block in itertools.islice(text.blocks(documents, _BLOCK), _BLOCKS):
      for sentence in itertools.chain.from_iterable(map(pieces, block)):
        tokens += len(sentence)
        unknown += sentence.count(ids["[UNK]"])
  return unknown / max(tokens, 1)


def save(settings: Settings, vocabulary: Iterable[str]) -> None:
  """Writes the folder, whole or not at all."""
  folder = pathlib.Path(os.path.expanduser(settings.output_dir))
  with files.written_whole(folder) as temporary:
    temporary.mkdir()
    (temporary / "vocab.txt").write_text("".join(f"{word}\n" for word in vocabulary), "utf-8")
    tokenization.tokenizer_from_vocab(temporary / "vocab.txt",
                                      settings.do_lower_case).save_pretrained(temporary)


if __name__ == "__main__":
  define_flags(flags.FLAGS)
  run_script(main, interrupted="nothing was left half-written")
