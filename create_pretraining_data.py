r"""Makes TFRecord files of masked-LM and next-sentence examples from text.

    python3 create_pretraining_data.py --input_file='/data/*.txt' --vocab_file=vocab.txt \
        --output_file=/data/examples.tfrecord

The flags are the original's, and the same flags give the same records as google-research/bert's
create_pretraining_data.py, one by one. As there, the whole corpus is held in memory and one core
works. With --num_workers=N the same functions run on N blocks of the text at a time, in bounded
memory; the files /data/examples.tfrecord-00000-of-00012 and so on hold the same bytes for every
N, but not the original's.
"""

if __name__ == "__main__":
  from support import stopping

  stopping.catch_signals()  # first: the imports below take seconds

from collections.abc import Iterable, Iterator, Sequence
import contextlib
import dataclasses
import functools
import glob
import math
import os
import pathlib
import random
from typing import Any, NamedTuple

from absl import flags

from pretraining import text, tfrecords, wordpieces
from support import files, stopping, workers
from support.errors import shown, UserError
from support.reporting import progress_bar, say
import tokenization

TokenizedDocument = list[list[int]]  # the ids of each sentence, none empty

_RANDOM_DOCUMENT_TRIES = 10
_SHORTEST = 5  # tokens of an example: three special tokens and one of each segment
_LONGEST = 1 << 20
_MOST_WORKERS = 1024


@dataclasses.dataclass(frozen=True)
class Settings:
  """The flags, described in `define_flags`."""

  input_file: str
  output_file: str
  vocab_file: str
  tokenizer: str
  do_lower_case: bool | None
  do_whole_word_mask: bool
  max_seq_length: int
  max_predictions_per_seq: int
  random_seed: int
  dupe_factor: int
  masked_lm_prob: float
  short_seq_prob: float
  num_workers: int
  shard_megabytes: float
  input_format: str
  text_field: str
  language: str
  errors: str

  @classmethod
  def from_flags(cls, values: flags.FlagValues) -> "Settings":
    """Returns the settings of parsed flags."""
    return cls(**{field.name: values[field.name].value for field in dataclasses.fields(cls)})


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags: the original's, then our own."""

  def define(kind: Any, name: str, default: Any, meaning: str) -> None:
    kind(name, default, meaning, flag_values=values)

  text.define_flags(values)
  flags.adopt_module_key_flags(text, values)  # --help shows them
  define(flags.DEFINE_string, "output_file", "", "TFRecord files to write, comma-separated.")
  define(flags.DEFINE_string, "vocab_file", "", "BERT's vocab.txt.")
  define(flags.DEFINE_bool, "do_lower_case", None, "Lower-case the text and strip accents. "
         "Default: true with --vocab_file, the tokenizer's own setting with --tokenizer.")
  define(flags.DEFINE_bool, "do_whole_word_mask", False, "Mask all pieces of a word together.")
  define(flags.DEFINE_integer, "max_seq_length", 128, "Tokens of an example at most.")
  define(flags.DEFINE_integer, "max_predictions_per_seq", 20, "Masked tokens of an example at "
         "most.")
  define(flags.DEFINE_integer, "random_seed", 12345, "Seed of all random choices.")
  define(flags.DEFINE_integer, "dupe_factor", 10, "Passes over the text, each with other masks.")
  define(flags.DEFINE_float, "masked_lm_prob", 0.15, "Share of the tokens to mask.")
  define(flags.DEFINE_float, "short_seq_prob", 0.1, "Share of documents cut into shorter "
         "examples.")
  define(flags.DEFINE_string, "tokenizer", "", "A HuggingFace folder or hub name, instead of "
         "--vocab_file.")
  define(flags.DEFINE_integer, "num_workers", 0, "Worker processes. 0: exactly the original's "
         "records.")
  define(flags.DEFINE_float, "shard_megabytes", 16.0, "With --num_workers: text of a shard. "
         "A worker's memory grows with it and with --dupe_factor: 0.5 GB with both defaults.")


def main() -> None:
  create(Settings.from_flags(flags.FLAGS))


def create(settings: Settings) -> None:
  """Makes the files; a failure leaves no output.

  Raises:
    UserError: a bad flag, no text, or text that cannot be read.
  """
  check_flags(settings)
  sources = text.find_sources(settings.input_file, settings.input_format, "--input_file")
  outputs = find_outputs(settings, sources)
  maker = load_maker(settings)
  for output in outputs:
    output.parent.mkdir(parents=True, exist_ok=True)
  write = write_shards if settings.num_workers else write_as_the_original
  write(settings, sources, maker, outputs)


# --- Flags ----------------------------------------------------------------------------------


def check_flags(settings: Settings) -> None:
  """Raises a UserError that names the first bad flag."""
  for name in ("input_file", "output_file"):
    if not getattr(settings, name).strip(" ,"):
      raise UserError(f"--{name} is missing")
  if bool(settings.vocab_file) == bool(settings.tokenizer):
    raise UserError("give either --vocab_file=/path/to/vocab.txt or --tokenizer=/path/to/dir")
  limits = {"max_seq_length": (_SHORTEST, _LONGEST), "max_predictions_per_seq": (1, _LONGEST),
            "dupe_factor": (1, math.inf), "num_workers": (0, _MOST_WORKERS)}
  for name, (least, most) in limits.items():
    if getattr(settings, name) < least:
      raise UserError(f"--{name}={shown(getattr(settings, name))} must be {least} or more")
    if getattr(settings, name) > most:
      raise UserError(f"--{name}={shown(getattr(settings, name))} must be at most {most}")
  if not 0 <= settings.short_seq_prob <= 1:
    raise UserError(f"--short_seq_prob={settings.short_seq_prob} must be a share from 0 to 1")
  if not 0 < settings.masked_lm_prob <= 1:
    raise UserError(f"--masked_lm_prob={settings.masked_lm_prob} must be a share above 0, up to 1")
  if not 0 < settings.shard_megabytes < float("inf"):
    raise UserError(f"--shard_megabytes={settings.shard_megabytes} must be a number above 0")


def find_outputs(settings: Settings, sources: Sequence[text.Source]) -> list[pathlib.Path]:
  """Returns the files of --output_file; raises UserError if they must not be written."""
  names = [os.path.expanduser(name) for name in settings.output_file.split(",") if name.strip()]
  outputs = [pathlib.Path(name.strip()) for name in names]
  inputs = {os.path.realpath(source.path) for source in sources}
  for output in outputs:
    if output.exists() and not output.is_file():  # it would be replaced
      raise UserError(f"--output_file={output} is a folder or a device; name a file")
    if os.path.realpath(output) in inputs:
      raise UserError(f"--output_file={output} is one of the input files too")
  if len(set(outputs)) < len(outputs):
    raise UserError(f"--output_file={settings.output_file} names a file twice")
  if settings.num_workers:
    if len(outputs) > 1:
      raise UserError(f"--output_file={settings.output_file} names {len(outputs)} files; with "
                      "--num_workers give one, which the shards are named after")
    earlier = sorted(outputs[0].parent.glob(
        f"{glob.escape(outputs[0].name)}-?????-of-?????"))
    if earlier:  # the glob of a later reader would match the shards of both runs
      raise UserError(f"{earlier[0]} is there from an earlier run; remove its shards or choose "
                      "another --output_file")
  return outputs


def load_maker(settings: Settings) -> "InstanceMaker":
  """Loads the tokenizer that the flags name."""
  if settings.vocab_file:
    lower = settings.do_lower_case is not False
    tokenizer = tokenization.tokenizer_from_vocab(settings.vocab_file, lower)
    if lower and tokenization.has_upper_case(tokenizer.get_vocab()):
      say("note: the vocabulary has upper-case words; --do_lower_case=False keeps the text's case")
  else:
    tokenizer = tokenization.load_tokenizer(settings.tokenizer, settings.do_lower_case)
    if tokenizer.mask_token_id is None:
      raise UserError(f"the tokenizer at {settings.tokenizer!r} has no mask token")
  vocab = tokenizer.get_vocab()
  continuing = frozenset(i for word, i in vocab.items() if word.startswith("##"))
  if settings.do_whole_word_mask and not continuing:
    raise UserError("--do_whole_word_mask needs a WordPiece vocabulary, where ## begins the later "
                    "pieces of a word")
  return InstanceMaker(settings, wordpieces.WordPieces(tokenizer.backend, original=True),
                       tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id,
                       vocab[tokenizer.special_tokens["unk_token"]], sorted(vocab.values()),
                       continuing)


# --- Instances: the original's functions ----------------------------------------------------


class Instance(NamedTuple):
  """An example before it is padded.

  Attributes:
    tokens: ids of [CLS] A [SEP] B [SEP], masked.
    first_length: tokens of [CLS] A [SEP].
    random_next: whether B is from another place, not the text after A.
    positions: positions of the masked tokens, ascending.
    labels: their ids before masking.
  """

  tokens: list[int]
  first_length: int
  random_next: bool
  positions: list[int]
  labels: list[int]


@dataclasses.dataclass(frozen=True)
class InstanceMaker:
  """Makes instances from documents; draws random numbers exactly like the original."""

  settings: Settings
  pieces: wordpieces.WordPieces
  cls: int
  sep: int
  mask: int
  unknown: int
  all_ids: list[int]  # in the vocabulary's order
  continuing: frozenset[int]  # ids of the ## pieces

  def tokenize(self, documents: Iterable[text.Document]) -> list[TokenizedDocument]:
    """Returns the documents' ids, without empty sentences and documents."""
    tokenized = ([ids for ids in self.pieces(document) if ids] for document in documents)
    return [document for document in tokenized if document]

  def examples(self, documents: list[TokenizedDocument], rng: random.Random) -> list[bytes]:
    """Serializes the instances of all passes over the documents (`create_training_instances`).

    Args:
      documents: shuffled in place.
      rng: the only source of randomness.
    """
    rng.shuffle(documents)
    examples = [self.serialize(instance) for _ in range(self.settings.dupe_factor)
                for i in range(len(documents)) for instance in self.instances(documents, i, rng)]
    rng.shuffle(examples)
    return examples

  def instances(self, documents: list[TokenizedDocument], index: int,
                rng: random.Random) -> Iterator[Instance]:
    """Yields the instances of one document (`create_instances_from_document`)."""
    document = documents[index]
    max_tokens = target = self.settings.max_seq_length - 3
    if rng.random() < self.settings.short_seq_prob:
      target = rng.randint(2, max_tokens)
    chunk: TokenizedDocument = []
    length = i = 0
    while i < len(document):
      chunk.append(document[i])
      length += len(document[i])
      if i == len(document) - 1 or length >= target:
        a_end = rng.randint(1, len(chunk) - 1) if len(chunk) >= 2 else 1
        a = _joined(chunk[:a_end])
        random_next = len(chunk) == 1 or rng.random() < 0.5
        if random_next:
          b = _random_next(documents, index, target - len(a), rng)
          i -= len(chunk) - a_end  # the sentences after A have not been used
        else:
          b = _joined(chunk[a_end:])
        yield self._masked_instance(*truncate_pair(a, b, max_tokens, rng), random_next, rng)
        chunk, length = [], 0
      i += 1

  def _masked_instance(self, a: list[int], b: list[int], random_next: bool,
                       rng: random.Random) -> Instance:
    """Masks a pair (`create_masked_lm_predictions`)."""
    tokens = [self.cls, *a, self.sep, *b, self.sep]
    first_length = len(a) + 2
    candidates = self.candidates(tokens, first_length)
    rng.shuffle(candidates)
    wanted = min(self.settings.max_predictions_per_seq,
                 max(1, round(len(tokens) * self.settings.masked_lm_prob)))
    labels: dict[int, int] = {}
    for word in candidates:
      if len(labels) >= wanted:
        break
      if len(labels) + len(word) <= wanted:
        for position in word:
          labels[position] = tokens[position]
          if rng.random() < 0.8:
            tokens[position] = self.mask
          elif rng.random() >= 0.5:
            tokens[position] = self.all_ids[rng.randint(0, len(self.all_ids) - 1)]
    positions = sorted(labels)
    return Instance(tokens, first_length, random_next, positions, [labels[p] for p in positions])

  def candidates(self, tokens: Sequence[int], first_length: int) -> list[Sequence[int]]:
    """Returns the groups of positions that are masked together: single tokens, or words.

    A ## piece joins the token before it even across [SEP], as in the original.
    """
    positions = (*range(1, first_length - 1), *range(first_length, len(tokens) - 1))
    if not self.settings.do_whole_word_mask:
      return [(position,) for position in positions]
    words: list[list[int]] = []
    for position in positions:
      if words and tokens[position] in self.continuing:
        words[-1].append(position)
      else:
        words.append([position])
    return words

  def serialize(self, instance: Instance) -> bytes:
    """Makes a `tf.train.Example` padded with zeros (`write_instance_to_example_files`)."""
    length, first = len(instance.tokens), instance.first_length
    masked = len(instance.labels)
    padding = [0] * (self.settings.max_seq_length - length)
    free = [0] * (self.settings.max_predictions_per_seq - masked)
    return tfrecords.encode_example({
        "input_ids": instance.tokens + padding,
        "input_mask": [1] * length + padding,
        "segment_ids": [0] * first + [1] * (length - first) + padding,
        "masked_lm_positions": instance.positions + free,
        "masked_lm_ids": instance.labels + free,
        "masked_lm_weights": [1.0] * masked + [0.0] * len(free),
        "next_sentence_labels": [int(instance.random_next)]})


def _joined(sentences: Iterable[Sequence[int]]) -> list[int]:
  return [token for sentence in sentences for token in sentence]


def _random_next(documents: Sequence[TokenizedDocument], index: int, target: int,
                 rng: random.Random) -> list[int]:
  """Takes sentences from a random place of another document until there are `target` tokens."""
  for _ in range(_RANDOM_DOCUMENT_TRIES):
    other = rng.randint(0, len(documents) - 1)
    if other != index:
      break
  document = documents[other]
  tokens: list[int] = []
  for sentence in document[rng.randint(0, len(document) - 1):]:
    tokens += sentence
    if len(tokens) >= target:
      break
  return tokens


def truncate_pair(a: list[int], b: list[int], budget: int,
                  rng: random.Random) -> tuple[list[int], list[int]]:
  """Removes tokens from the longer of a and b (b on a tie) until `budget` are left.

  Each comes off the front or the back at random, as in `truncate_seq_pair` of the original;
  fine-tuning truncates differently.
  """
  starts, ends = [0, 0], [len(a), len(b)]
  for _ in range(len(a) + len(b) - budget):
    longer = 0 if ends[0] - starts[0] > ends[1] - starts[1] else 1
    if rng.random() < 0.5:
      starts[longer] += 1
    else:
      ends[longer] -= 1
  return a[starts[0]:ends[0]], b[starts[1]:ends[1]]


# --- Files ----------------------------------------------------------------------------------


def write_as_the_original(settings: Settings, sources: Sequence[text.Source],
                          maker: InstanceMaker, outputs: Sequence[pathlib.Path]) -> None:
  """Holds all documents in memory, draws from one generator and fills the files in turn."""
  with progress_bar(text.total_size(sources), "B") as progress:
    documents = maker.tokenize(text.read_documents(
        sources, text_field=settings.text_field, language=settings.language,
        errors=settings.errors, progress=progress))
  if not documents:
    raise UserError(f"no documents in {settings.input_file}")
  read = TextCounts.of(documents, maker.unknown)
  say(f"read {read.documents} documents of {read.sentences} sentences")
  say_text([read])
  examples = maker.examples(documents, random.Random(settings.random_seed))
  with contextlib.ExitStack() as stack:  # no file takes its name before all are written
    temporaries = [stack.enter_context(files.written_whole(output)) for output in outputs]
    for i, temporary in enumerate(temporaries):
      tfrecords.write_records(temporary, examples[i::len(outputs)])
    with stopping.noted():
      stack.close()
  say(f"wrote {len(examples)} instances of {len(documents)} documents to "
      f"{', '.join(map(str, outputs))}")


class TextCounts(NamedTuple):
  """The size of the text that examples are made from, all of it or a shard's."""

  documents: int
  sentences: int
  tokens: int
  unknown: int  # tokens that are [UNK]

  @classmethod
  def of(cls, documents: Sequence[TokenizedDocument], unknown: int) -> "TextCounts":
    """Counts documents whose [UNK] has the id `unknown`."""
    sentences = [sentence for document in documents for sentence in document]
    return cls(len(documents), len(sentences), sum(map(len, sentences)),
               sum(sentence.count(unknown) for sentence in sentences))


def say_text(counts: Sequence[TextCounts]) -> None:
  """Prints the share of [UNK], and warns of text that makes no use of the next-sentence task."""
  documents, sentences, tokens, unknown = map(sum, zip(*counts, strict=True))
  say(f"{tokens} tokens ({unknown / tokens:.1%} [UNK])")
  wordpieces.warn_of_unknown(unknown / tokens)
  if documents == sentences > 1:
    say("  warning: every document is one sentence, so that all next_sentence_labels are 1; leave "
        "blank lines between documents only")
  single = sum(count.documents == 1 for count in counts)
  if single:
    say(f"  warning: {'the text' if len(counts) == 1 else f'the text of {single} shards'} is one "
        "document, which the random next sentences come from too; leave a blank line between "
        "documents" + (", or raise --shard_megabytes" if len(counts) > 1 else ""))


class ShardTask(NamedTuple):
  """The work of one worker process on one shard.

  Attributes:
    number: of the shard, from 0.
    block: consecutive documents, the shard's text.
    size: bytes of input that were read for the block.
    file: the shard's temporary file.
  """

  number: int
  block: list[text.Document]
  size: int
  file: pathlib.Path


class Shard(NamedTuple):
  """A finished shard; a block without a token leaves no file and has 0 instances."""

  file: pathlib.Path
  text: TextCounts
  instances: int
  size: int


def make_shard(maker: InstanceMaker, task: ShardTask) -> Shard:
  """Writes a block's instances; their randomness depends on the seed and the number alone."""
  documents = maker.tokenize(task.block)
  counts = TextCounts.of(documents, maker.unknown)
  rng = random.Random(f"{maker.settings.random_seed} {task.number}")
  examples = maker.examples(documents, rng)
  if examples:
    tfrecords.write_records(task.file, examples)
  return Shard(task.file, counts, len(examples), task.size)


def write_shards(settings: Settings, sources: Sequence[text.Source], maker: InstanceMaker,
                 outputs: Sequence[pathlib.Path]) -> None:
  """Writes a shard for each block of the text; the number of workers changes nothing in them."""
  output, = outputs
  for left in output.parent.glob(f".{glob.escape(output.name)}-{'[0-9]' * 5}.tmp"):
    left.unlink()  # by a run that was killed
  shards: list[Shard] = []
  with removed_on_failure() as temporaries:
    made = workers.ordered_map(
        functools.partial(make_shard, maker), shard_tasks(settings, sources, output, temporaries),
        settings.num_workers, "fewer --num_workers or --shard_megabytes need less")
    with progress_bar(text.total_size(sources), "B") as progress, contextlib.closing(made):
      for shard in made:
        progress(shard.size)
        if shard.instances:
          shards.append(shard)
    if not shards:
      raise UserError(f"no documents in {settings.input_file}")
    names = [output.with_name(f"{output.name}-{i:05d}-of-{len(shards):05d}")
             for i in range(len(shards))]
    with stopping.noted():
      for shard, name in zip(shards, names, strict=True):
        shard.file.replace(name)
  say_text([shard.text for shard in shards])
  say(f"wrote {sum(shard.instances for shard in shards)} instances of "
      f"{sum(shard.text.documents for shard in shards)} documents to {names[0]}"
      + (f" ... {names[-1]}" if len(names) > 1 else ""))


@contextlib.contextmanager
def removed_on_failure() -> Iterator[list[pathlib.Path]]:
  """Yields an empty list; the files added to it are removed on a failure or an interrupt.

  `files.written_whole` does not fit: a shard's name has the number of all shards.
  """
  temporaries: list[pathlib.Path] = []
  try:
    yield temporaries
  except BaseException:
    for file in temporaries:
      file.unlink(missing_ok=True)
    raise


def shard_tasks(settings: Settings, sources: Sequence[text.Source], output: pathlib.Path,
                temporaries: list[pathlib.Path]) -> Iterator[ShardTask]:
  """Yields tasks of `shard_megabytes` of text each; adds their files to temporaries."""
  consumed = 0

  def progress(size: int) -> None:
    nonlocal consumed
    consumed += size

  characters = max(1, int(settings.shard_megabytes * 1e6))
  documents = text.read_documents(
      sources, text_field=settings.text_field, language=settings.language, errors=settings.errors,
      longest=characters, progress=progress)
  for number, block in enumerate(text.blocks(documents, characters)):
    temporaries.append(output.with_name(f".{output.name}-{number:05d}.tmp"))
    yield ShardTask(number, block, consumed, temporaries[-1])
    consumed = 0


if __name__ == "__main__":
  from support.command_line import run_script  # here: the worker processes do without it

  define_flags(flags.FLAGS)
  run_script(main, interrupted="no output was left half-written")
