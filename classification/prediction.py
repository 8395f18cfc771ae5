"""A trained classifier for use: texts in, labels and probabilities out.

    classifier = load_classifier("OUT")
    for prediction in classifier.predict(["a good film", "a dull one"]):
      print(prediction.label, prediction.probabilities)
"""

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import functools
import itertools
import pathlib
from typing import Any, NamedTuple
import warnings

import jax
import jax.numpy as jnp
import numpy as np

import checkpoint_utils
from classification import tasks
from classification.classifier import Classifier, make_predict_fn
import data
import modeling
from support import devices, files
from support.errors import shown, UserError
from tokenization import Tokenizer
import training

Texts = str | tuple[str, ...]  # of an example: one text, or a pair

# Texts that are tokenized at a time. The first ones are few, so that their outputs come early.
_CHUNKS = (32, 256, 2048, 4096)
# Tokens of a device's batch. More make a CPU no faster: the activations no longer fit its caches.
_CPU_TOKENS, _TOKENS = 1 << 10, 1 << 14
_SHORTEST_ROW = 64  # tokens


class Prediction(NamedTuple):
  """What a classifier says of an example.

  Attributes:
    label: the most probable class; None for a regression, for any number of classes, and for an
      example without text.
    probabilities: class -> its probability; None for a regression and without text.
    value: of a regression; None for classes and for an example without text.
    labels: of a model for any number of classes a text: those that are more probable than not;
      None for other models and for an example without text.
  """

  label: str | None = None
  probabilities: dict[str, float] | None = None
  value: float | None = None
  labels: tuple[str, ...] | None = None


class Outputs(NamedTuple):
  """The outputs of some consecutive examples.

  Attributes:
    logits: [examples, outputs] float32; NaN for an example without text.
    truncated: [examples] bool: whether the text was longer than allowed.
  """

  logits: np.ndarray
  truncated: np.ndarray


class _Chunk(NamedTuple):
  """Tokenized texts: their number, the places of those that are there, their tokens and batches."""

  size: int
  places: np.ndarray
  truncated: list[bool]
  batches: list[tuple[np.ndarray, data.Batch]]


@dataclasses.dataclass(frozen=True)
class TextClassifier:
  """A trained classifier, its parameters on all devices, with its tokenizer.

  Attributes:
    classifier: its `text_columns` are () where the model does not say.
    tokenizer: the model's.
    max_seq_length: tokens of an example at most; longer ones are truncated.
  """

  classifier: Classifier
  tokenizer: Tokenizer
  max_seq_length: int

  def predict(self, examples: Iterable[Texts]) -> list[Prediction]:
    """Predicts the label of each text, or pair of texts, in their order.

    A string alone is one text. Warns of truncated texts.

    Raises:
      UserError: another number of texts than the model was trained on, or no list of texts.
    """
    outputs = list(self.outputs([examples] if isinstance(examples, str) else examples))
    truncated = sum(int(some.truncated.sum()) for some in outputs)
    if truncated:
      warnings.warn(f"{truncated:,} of {sum(len(some.truncated) for some in outputs):,} texts are "
                    f"longer than {self.max_seq_length} tokens and were truncated", stacklevel=2)
    return [prediction for some in outputs for prediction in self.predictions(some.logits)]

  def predictions(self, logits: np.ndarray) -> Iterator[Prediction]:
    """Yields what [examples, outputs] mean."""
    names = self.classifier.label_names
    if not names:
      yield from (Prediction(value=None if np.isnan(value) else value)
                  for value in logits[:, 0].tolist())
      return
    multi_label = self.classifier.multi_label
    shares = tasks.probabilities_from(logits, multi_label=multi_label)
    best = shares.argmax(axis=-1)
    for i, row in enumerate(shares.tolist()):
      if np.isnan(row[0]):
        yield Prediction()
        continue
      likely = tuple(name for name, p in zip(names, row, strict=True) if p > 0.5)
      yield Prediction(None if multi_label else names[best[i]], dict(zip(names, row, strict=True)),
                       labels=likely if multi_label else None)

  def outputs(self, examples: Iterable[Texts | None],
              blank_is_text: bool = False) -> Iterator[Outputs]:
    """Yields the outputs of all examples in their order, a chunk at a time.

    The next chunk is read and tokenized while the devices compute.

    Args:
      examples: texts; None, or one in which a text is blank, makes a row of NaN.
      blank_is_text: blank texts are predicted too, as GLUE's original code does.

    Raises:
      UserError: like `predict`; or outputs that are not finite.
    """
    predict_fn = make_predict_fn(self.classifier.model)
    for chunk in data.prefetch(self._chunks(iter(examples), blank_is_text)):
      logits = np.full((chunk.size, self.classifier.model.num_labels), np.nan, np.float32)
      truncated = np.zeros(chunk.size, bool)
      truncated[chunk.places] = chunk.truncated
      with jax.default_matmul_precision("float32"):
        found = training.outputs_of(predict_fn, self.classifier.params,
                                    (batch for _, batch in chunk.batches))
        for (output, _), (indices, _) in zip(found, chunk.batches, strict=True):
          there = indices >= 0
          logits[chunk.places[indices[there]]] = np.asarray(output)[there]
      if not np.isfinite(logits[chunk.places]).all():  # NaN is that of a row without text
        raise UserError("the model's outputs are not finite numbers: its weights are damaged")
      yield Outputs(logits, truncated)

  def _chunks(self, examples: Iterator[Texts | None], blank_is_text: bool) -> Iterator[_Chunk]:
    """Yields the tokens of all examples; chunks of several sizes, see `_CHUNKS`."""
    done = 0
    for chunk in itertools.count():
      size = _CHUNKS[min(chunk, len(_CHUNKS) - 1)]
      some = [_as_tuple(texts, number) for number, texts in enumerate(
          itertools.islice(examples, size), start=done + 1)]
      if not some:
        return
      places = np.asarray([i for i, texts in enumerate(some)
                           if blank_is_text or all(map(str.strip, texts))], int)
      self._check_texts([some[i] for i in places], done + places)
      done += len(some)
      columns = list(zip(*(some[i] for i in places), strict=True)) or [()]
      encoded = data.encode_examples(columns, self.tokenizer, self.max_seq_length)
      split = data.unlabelled_split(encoded)
      batches = list(self._batches(split, first=not chunk, last=len(some) < size))
      yield _Chunk(len(some), places, encoded.truncated, batches)

  @property
  def num_texts(self) -> int:
    """Texts of an example; 0 where the model does not say, and takes one or a pair."""
    return 1 if self.classifier.text_delimiter else len(self.classifier.text_columns)

  def _check_texts(self, examples: Sequence[tuple[str, ...]], numbers: np.ndarray) -> None:
    """Raises UserError for another number of texts than the model takes, or than before."""
    most = min(self.classifier.model.config.type_vocab_size, 2)
    for texts, number in zip(examples, numbers, strict=True):
      if len(texts) > most or len(texts) != (self.num_texts or len(examples[0])):
        raise UserError(f"example {number + 1} has {len(texts)} texts; the model takes "
                        f"{self.num_texts or (most if most == 1 else 'one, or always two')}")

  def _batches(self, split: data.TokenizedSplit, first: bool, last: bool
               ) -> Iterator[tuple[np.ndarray, data.Batch]]:
    """Packs a chunk into few shapes: one for each length of rows, whatever the chunk holds.

    Args:
      split: the chunk.
      first: it is the first one: all its rows are of one length, so that the first outputs wait
        for one program only.
      last: no more follow. If it is also the first, the batches are no larger than it needs.
    """
    tokens = _CPU_TOKENS if jax.default_backend() == "cpu" else _TOKENS
    lengths = split.lengths
    row_lengths = np.maximum(_SHORTEST_ROW, 1 << np.ceil(np.log2(lengths)).astype(int))
    row_lengths = np.minimum(row_lengths, self.max_seq_length)
    if first and len(split):
      row_lengths[:] = row_lengths.max()
    for length in np.unique(row_lengths).tolist():
      examples = np.flatnonzero(row_lengths == length)
      num_rows = max(1, tokens // length)
      if first and last:
        needed = data.first_fit(lengths[examples], length)[0].max() + 1
        num_rows = min(num_rows, 1 << int(needed - 1).bit_length())
      # Room for as many [CLS] as examples of 16 tokens need, or of 4.
      short = lengths[examples].mean() < 16
      yield from data.filled_batches(
          split, examples, devices=jax.device_count(), num_rows=num_rows, length=length,
          slots=num_rows * length // (4 if short else 16) or 1)


def _as_tuple(texts: Texts | None, number: int) -> tuple[str, ...]:
  """Returns the texts of the example of a number, from 1; a blank one where there is none."""
  if texts is None:
    return ("",)
  if isinstance(texts, str):
    return (texts,)
  if isinstance(texts, (tuple, list)) and all(isinstance(text, str) for text in texts):
    return tuple(texts)
  raise UserError(f"example {number} is {shown(texts)}, must be a text or a pair of texts")


# --- Loading ----------------------------------------------------------------------------------


def load_classifier(path: str, max_seq_length: int = 0, dtype: str = "float32",
                    called: str = "model") -> TextClassifier:
  """Loads a trained classifier and its tokenizer.

  Args:
    path: a run's folder, its model/ or a checkpoint of it, a HuggingFace folder, or a hub name.
    max_seq_length: tokens of an example at most. 0: those of the run's training or, if there is no
      run around the model, all that it has positions for.
    dtype: of the matrix products: "float32" or "bfloat16".
    called: what to call `path` in messages.

  Raises:
    UserError: nothing there, no trained classifier in it, or no tokenizer.
  """
  devices.keep_compiled_programs()
  checkpoint = checkpoint_utils.find_checkpoint(path, called)
  checkpoint = dataclasses.replace(checkpoint, read=functools.cache(checkpoint.read))
  outputs = checkpoint_utils.count_outputs(checkpoint)
  if not outputs:
    raise UserError(f"{checkpoint.path} has no trained classifier; run_classifier.py trains one")
  tokenizer, config = checkpoint_utils.own_tokenizer(checkpoint), checkpoint.config
  length = max_seq_length or min(trained_length(checkpoint) or config.max_position_embeddings,
                                 config.max_position_embeddings)
  if not 5 <= length <= config.max_position_embeddings:
    raise UserError(f"max_seq_length must be from 5 to the model's {config.max_position_embeddings}"
                    f" positions, not {shown(length)}")
  names = checkpoint.label_names
  if not names and not checkpoint.regression and outputs > 1:  # as transformers calls them
    names = tuple(f"LABEL_{i}" for i in range(outputs))
  model = modeling.BertForSequenceClassification(config, outputs, jnp.dtype(dtype))
  params = checkpoint_utils.load_trained(checkpoint, model, ("classifier/", "bert/pooler/"))
  return TextClassifier(
      Classifier(model, training.replicate(params), names, checkpoint.text_columns,
                 checkpoint.text_delimiter, checkpoint.multi_label), tokenizer, length)


def trained_length(checkpoint: checkpoint_utils.Checkpoint) -> int | None:
  """Returns the max_seq_length of the run that a checkpoint lies in; None where there is none."""
  for folder in itertools.islice(pathlib.Path(checkpoint.path).resolve().parents, 2):
    if (folder / "config.json").is_file():
      stored: dict[str, Any] = files.read_json(folder / "config.json")
      if stored.get("script") == "run_classifier":
        return stored["config"]["max_seq_length"]
  return None
