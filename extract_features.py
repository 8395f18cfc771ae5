r"""Writes the hidden states of a BERT for each line of a text file.

    python3 extract_features.py --input_file=texts.txt --output_file=features.jsonl \
        --vocab_file=DIR/vocab.txt --bert_config_file=DIR/bert_config.json \
        --init_checkpoint=DIR/bert_model.ckpt --layers=-1,-2,-3,-4 --max_seq_length=128

The flags and the JSON lines are those of google-research/bert's extract_features.py: a line is one
text, or two with " ||| " between them, and becomes
{"linex_index": 0, "features": [{"token": "[CLS]", "layers": [{"index": -1, "values": [...]}]}]}.
--init_checkpoint may also be a HuggingFace folder, a run of this project or a hub name, which need
neither --vocab_file nor --bert_config_file. --vectors=mean or pooled writes a vector a text instead
of one a token, and --format=npz arrays instead of JSON.
"""

if __name__ == "__main__":
  from support import stopping

  stopping.catch_signals()  # first: the imports below take seconds

from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import dataclasses
import itertools
import json
import re
from typing import Any, NamedTuple

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

import checkpoint_utils
from classification import parsers
import data
import modeling
from support import devices, files, reporting
from support.command_line import FlagSettings, run_script
from support.errors import shown, UserError
from support.reporting import say
import tokenization
from tokenization import Tokenizer
import training

_LAYERS = ("-1", "-2", "-3", "-4")  # unless --layers names others: the original's
_LINES = 1024  # that are tokenized at a time
_DIGITS = 6  # of a value in JSON, as in the original
_PAIR = re.compile(r"(.*) \|\|\| (.*)")


@dataclasses.dataclass(frozen=True)
class Settings(FlagSettings):
  """The flags, described in `define_flags`."""

  input_file: str
  output_file: str
  layers: Sequence[str] | None
  bert_config_file: str
  init_checkpoint: str
  vocab_file: str
  do_lower_case: bool | None
  max_seq_length: int
  batch_size: int
  vectors: str
  format: str


class Encoder(NamedTuple):
  """A BERT without heads, its parameters on all devices, and its tokenizer."""

  config: modeling.BertConfig
  params: training.Params
  tokenizer: Tokenizer


class Features(NamedTuple):
  """The vectors of a line.

  Attributes:
    tokens: [n] word pieces with [CLS] and [SEP].
    layers: [layers, n, hidden] float32, in the order of --layers.
    pooled: [hidden] float32: the pooler's output.
  """

  tokens: list[str]
  layers: np.ndarray
  pooled: np.ndarray


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags: the original's, then our own."""

  def define(kind: Any, name: str, default: Any, meaning: str, *more: Any) -> None:
    kind(name, default, *more, meaning, flag_values=values)

  define(flags.DEFINE_string, "input_file", "", "UTF-8 text: a line is a text, or two with "
         "\" ||| \" between them. -: the standard input.")
  define(flags.DEFINE_string, "output_file", "", "The file to write. -: the standard output.")
  define(flags.DEFINE_list, "layers", None, "Layers, from 0 for the first or backwards from -1 for "
         "the last. Default: -1,-2,-3,-4.")
  define(flags.DEFINE_string, "bert_config_file", "", "Of a Google checkpoint. Default: the one "
         "beside it.")
  define(flags.DEFINE_string, "init_checkpoint", "", "A Google TF1 prefix or folder, a HuggingFace "
         "folder, a run or checkpoint of this project, or a hub name.")
  define(flags.DEFINE_string, "vocab_file", "", "BERT's vocab.txt. Default: the tokenizer of the "
         "checkpoint.")
  define(flags.DEFINE_bool, "do_lower_case", None, "Lower-case the text and strip accents. "
         "Default: true with --vocab_file, else the tokenizer's own setting.")
  define(flags.DEFINE_integer, "max_seq_length", 128, "Tokens of a line at most; longer ones are "
         "truncated.")
  define(flags.DEFINE_integer, "batch_size", 32, "Lines a batch.")
  define(flags.DEFINE_enum, "vectors", "tokens", "tokens: of each token in each layer. mean: their "
         "mean in each layer. pooled: the pooler's output.", ["tokens", "mean", "pooled"])
  define(flags.DEFINE_enum, "format", "jsonl", "jsonl, or npz: arrays float32.", ["jsonl", "npz"])


def main() -> None:
  extract(Settings.from_flags(flags.FLAGS))


def extract(settings: Settings) -> None:
  """Writes the features that the flags describe.

  Raises:
    UserError: a bad flag, no checkpoint, or input that cannot be read.
  """
  for name in ("input_file", "output_file", "init_checkpoint"):
    if not getattr(settings, name):
      raise UserError(f"--{name} is missing")
  if settings.output_file == "-" and settings.format == "npz":
    raise UserError("--format=npz needs a file: --output_file=features.npz")
  if settings.vectors == "pooled" and settings.layers is not None:
    raise UserError("--vectors=pooled is the pooler's output, of the last layer: leave --layers "
                    "out")
  files.check_other_file(settings.output_file, settings.input_file, ("output_file", "input_file"))
  with reporting.beside_results(settings.output_file):
    devices.prepare_to_use("extract_features")
    write_features(settings)


def write_features(settings: Settings) -> None:
  """Loads the model, writes the features, and counts the lines."""
  encoder = load_encoder(settings)
  layers = layer_numbers(_LAYERS[:1] if settings.vectors == "pooled" else
                         _LAYERS if settings.layers is None else settings.layers,
                         encoder.config.num_hidden_layers)
  truncated: list[int] = []
  features = features_of(encoder, lines_of(settings.input_file), layers, settings, truncated)
  count = (write_npz(settings, layers, features, encoder.config.hidden_size)
           if settings.format == "npz" else write_json_lines(settings, layers, features))
  if truncated:
    more = f" and {len(truncated) - 10:,} more" if len(truncated) > 10 else ""
    several = len(truncated) > 1
    say(f"{len(truncated):,} line{'s' * several} longer than {settings.max_seq_length} tokens "
        f"{'are' if several else 'is'} truncated: {', '.join(map(str, truncated[:10]))}{more}")
  say(f"{count:,} line{'s' * (count != 1)}: {settings.output_file}")


# --- Model ------------------------------------------------------------------------------------


def load_encoder(settings: Settings) -> Encoder:
  """Loads the checkpoint and its tokenizer.

  Raises:
    UserError: no checkpoint, no tokenizer, or one that does not fit, or --vectors=pooled and no
      pooler; or --max_seq_length or --batch_size out of range.
  """
  checkpoint = checkpoint_utils.find_checkpoint(
      settings.init_checkpoint, "--init_checkpoint", settings.bert_config_file)
  config = checkpoint.config
  if settings.vocab_file:
    lower = settings.do_lower_case
    tokenizer = tokenization.tokenizer_from_vocab(settings.vocab_file,
                                                  True if lower is None else lower)
  elif checkpoint.tokenizer:
    tokenizer = tokenization.load_tokenizer(checkpoint.tokenizer, settings.do_lower_case)
  else:
    raise UserError(f"{checkpoint.path} has no tokenizer; give --vocab_file=/path/to/vocab.txt")
  if tokenizer.vocab_size > config.vocab_size:
    raise UserError(f"the tokenizer has {tokenizer.vocab_size} entries and the vocabulary of "
                    f"{checkpoint.path} {config.vocab_size}; they do not belong together")
  if not 5 <= settings.max_seq_length <= config.max_position_embeddings:
    raise UserError(f"--max_seq_length={settings.max_seq_length} must be from 5 to the model's "
                    f"{config.max_position_embeddings} positions")
  if settings.batch_size < 1:
    raise UserError(f"--batch_size={settings.batch_size} must be 1 or more")
  params = checkpoint_utils.load_trained(
      checkpoint, modeling.BertForPreTraining(config),
      ("bert/pooler/",) if settings.vectors == "pooled" else ())
  return Encoder(config, training.replicate(params["bert"]), tokenizer)


def layer_numbers(layers: Sequence[str], num_hidden_layers: int) -> list[int]:
  """Returns the integers of --layers, as they are given.

  Raises:
    UserError: no integer, or a layer that the model does not have.
  """
  numbers = [int(layer) if re.fullmatch("-?[0-9]+", layer.strip()) else None for layer in layers]
  for layer, number in zip(layers, numbers, strict=True):
    if number is None or not -num_hidden_layers <= number < num_hidden_layers:
      raise UserError(f"--layers: {shown(layer)} is no layer of the model, which has "
                      f"0 to {num_hidden_layers - 1}, or -1 to -{num_hidden_layers}")
  if not numbers:
    raise UserError("--layers is blank")
  return numbers


def make_encode_fn(config: modeling.BertConfig, layers: Sequence[int]) -> Callable[..., Any]:
  """Makes (params, batch [devices, ..]) -> [devices, layers, R, S, h], pooled [devices, B, h]."""
  model = modeling.BertModel(config)
  names = [f"layer_{range(config.num_hidden_layers)[layer]}" for layer in layers]

  def encode(params: training.Params, batch: training.Batch) -> tuple[jax.Array, jax.Array]:
    inputs = (batch[name] for name in ("input_ids", "token_type_ids", "position_ids",
                                       "sequence_ids", "cls_positions"))
    (_, pooled, _), state = model.apply(
        {"params": params}, *inputs, mutable=["intermediates"],
        capture_intermediates=lambda module, _: isinstance(module, modeling.BertLayer))
    states = [state["intermediates"][name]["__call__"][0] for name in names]  # [R, S, h] each
    return jnp.stack(states), pooled

  return training.pmap_eval_step(encode)


# --- From lines to features -------------------------------------------------------------------


def lines_of(input_file: str) -> Iterator[str]:
  """Yields the lines without the blanks around them.

  Raises:
    UserError: no such file, or text that is not UTF-8.
  """
  for _, line in parsers.lines_of_input(input_file, "--input_file"):
    yield line.strip()


def texts_of(line: str) -> tuple[str, ...]:
  """Returns a line's one or two texts; the original takes the last ||| for the border."""
  pair = _PAIR.fullmatch(line)
  return pair.groups() if pair and pair[2].strip() else (pair[1] if pair else line,)


def features_of(encoder: Encoder, lines: Iterator[str], layers: Sequence[int],
                settings: Settings, truncated: list[int]) -> Iterator[Features]:
  """Yields the features of each line, in their order; appends the truncated lines' numbers."""
  encode_fn = make_encode_fn(encoder.config, layers)
  words = {i: word for word, i in encoder.tokenizer.get_vocab().items()}
  batches = data.prefetch(_batches(encoder, lines, settings, truncated))
  with jax.default_matmul_precision("float32"):
    for (states, pooled), batch in training.outputs_of(encode_fn, encoder.params, batches):
      yield from _unpacked(np.asarray(states), np.asarray(pooled), batch, words)


def _batches(encoder: Encoder, lines: Iterator[str], settings: Settings,
             truncated: list[int]) -> Iterator[data.Batch]:
  """Yields the lines in batches, some examples of it in a row."""
  count = jax.device_count()
  size = -(-settings.batch_size // count) * count
  done = 0
  while some := [texts_of(line) for line in itertools.islice(lines, _LINES)]:
    encoded = _encoded(some, encoder.tokenizer, settings.max_seq_length)
    truncated += (done + 1 + np.flatnonzero(encoded.truncated)).tolist()
    done += len(some)
    split = data.unlabelled_split(encoded)
    yield from data.ordered_batches(
        split, batch_size=size, devices=count, pack=True,
        length=data.row_length(int(split.lengths.max()), settings.max_seq_length))


def _encoded(texts: Sequence[tuple[str, ...]], tokenizer: Tokenizer,
             max_seq_length: int) -> data.Encoded:
  """Tokenizes single texts and pairs, in their order."""
  encoded = data.Encoded(*([None] * len(texts) for _ in data.Encoded._fields))
  for count in (1, 2):
    rows = [row for row, some in enumerate(texts) if len(some) == count]
    if rows:
      found = data.encode_examples(list(zip(*(texts[row] for row in rows), strict=True)),
                                   tokenizer, max_seq_length)
      for place, row in enumerate(rows):
        for into, values in zip(encoded, found, strict=True):
          into[row] = values[place]
  return encoded


def _unpacked(states: np.ndarray, pooled: np.ndarray, batch: data.Batch,
              words: dict[int, str]) -> Iterator[Features]:
  """Yields the features of each example of a batch.

  Args:
    states: [devices, layers, R, S, h].
    pooled: [devices, B, h].
    batch: [devices, ...].
    words: id -> word piece.
  """
  for device, weights in enumerate(batch["weights"]):
    flat = states[device].reshape(states.shape[1], -1, states.shape[-1])  # [layers, R * S, h]
    ids, sequences = batch["input_ids"][device], batch["sequence_ids"][device]
    for example in np.flatnonzero(weights):
      row, first = divmod(int(batch["cls_positions"][device, example]), ids.shape[1])
      last = first + np.count_nonzero(sequences[row] == sequences[row, first])
      start = row * ids.shape[1]
      yield Features([words[i] for i in ids[row, first:last].tolist()],
                     flat[:, start + first:start + last], pooled[device, example])


# --- Output -----------------------------------------------------------------------------------


def write_json_lines(settings: Settings, layers: Sequence[int],
                     features: Iterable[Features]) -> int:
  """Writes a JSON object a line, the values rounded to 6 decimals; returns the number of lines."""
  count = 0
  with (files.opened_output(settings.output_file) as stream,
        contextlib.closing(features)):
    for line in features:
      entries = line_as_json(line, layers, settings.vectors)
      stream.write(json.dumps({"linex_index": count, **entries}) + "\n")
      count += 1
  return count


def line_as_json(line: Features, layers: Sequence[int], vectors: str) -> dict[str, Any]:
  """Returns the entries of a line's object."""
  if vectors == "pooled":
    return {"values": _rounded(line.pooled)}
  if vectors == "mean":
    return {"layers": _layers(layers, line.layers.mean(axis=1))}
  return {"features": [{"token": token, "layers": _layers(layers, line.layers[:, i])}
                       for i, token in enumerate(line.tokens)]}


def _layers(layers: Sequence[int], values: np.ndarray) -> list[dict[str, Any]]:
  """Returns the original's list of layers. values: [layers, h]."""
  return [{"index": layer, "values": _rounded(vector)}
          for layer, vector in zip(layers, values, strict=True)]


def _rounded(vector: np.ndarray) -> list[float]:
  return [round(value, _DIGITS) for value in vector.tolist()]


def write_npz(settings: Settings, layers: Sequence[int], features: Iterable[Features],
              hidden_size: int) -> int:
  """Writes numpy arrays float32; returns the number of lines.

  tokens: `values` [layers, all tokens, h] with `tokens` [all tokens] and `offsets` [lines + 1]:
  line i has the tokens offsets[i] to offsets[i + 1]. mean: `values` [lines, layers, h]. pooled:
  `values` [lines, h]. `layers` are the numbers of the layers.
  """
  values, tokens, offsets = [], [], [0]
  for line in features:
    values.append({"pooled": line.pooled, "mean": line.layers.mean(axis=1),
                   "tokens": line.layers}[settings.vectors])
    tokens += line.tokens
    offsets.append(len(tokens))
  arrays: dict[str, Any] = {"layers": np.asarray(layers)}
  if settings.vectors == "tokens":
    none = np.zeros((len(layers), 0, hidden_size), np.float32)  # of a file without lines
    arrays |= {"tokens": np.asarray(tokens, str), "offsets": np.asarray(offsets),
               "values": np.concatenate([none, *values], axis=1)}
  else:
    of_a_line = (len(layers), hidden_size) if settings.vectors == "mean" else (hidden_size,)
    arrays["values"] = np.asarray(values, np.float32).reshape(len(values), *of_a_line)
  with (files.written_whole(files.output_file(settings.output_file)) as temporary,
        temporary.open("wb") as stream):
    np.savez(stream, **arrays)
  return len(values)


if __name__ == "__main__":
  define_flags(flags.FLAGS)
  run_script(main, interrupted="a file of features is whole or not there")
