"""Prints the most probable words for each [MASK] of a text, by a pre-trained BERT.

    python3 fill_mask.py --model=PRETRAINED "the film was [MASK] ."
"""

if __name__ == "__main__":
  from support import stopping

  stopping.catch_signals()  # first: the imports below take seconds

from collections.abc import Iterator, Sequence
import dataclasses
from typing import Any, NamedTuple

from absl import flags
import jax
import numpy as np

import checkpoint_utils
import data
import modeling
from support import devices
from support.command_line import FlagSettings, run_script
from support.errors import shown, UserError
from support.reporting import say
from tokenization import Tokenizer

_ROW_MULTIPLE = 32  # tokens; few lengths are compiled


@dataclasses.dataclass(frozen=True)
class Settings(FlagSettings):
  """The flags, described in `define_flags`."""

  model: str
  top_k: int


class MaskedLm(NamedTuple):
  """A pre-trained model, its parameters, and its tokenizer."""

  model: modeling.BertForPreTraining
  params: dict[str, Any]
  tokenizer: Tokenizer


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags."""

  def define(kind: Any, name: str, default: Any, meaning: str) -> None:
    kind(name, default, meaning, flag_values=values)

  define(flags.DEFINE_string, "model", "", "A run of run_pretraining.py, a HuggingFace folder, a "
         "Google TF1 checkpoint, or a hub name.")
  define(flags.DEFINE_integer, "top_k", 5, "Words for each [MASK].")


def main(*texts: str) -> None:
  fill_masks(Settings.from_flags(flags.FLAGS), texts)


def fill_masks(settings: Settings, texts: Sequence[str]) -> None:
  """Prints a list of words for each mask of each text.

  Raises:
    UserError: no model with a masked-LM head, or a text without a mask.
  """
  if not settings.model:
    raise UserError("--model is missing: a run of run_pretraining.py, or another pre-trained BERT")
  if not texts:
    raise UserError('no text: python3 fill_mask.py --model=PRETRAINED "a text with [MASK]"')
  devices.prepare_to_use("fill_mask")
  masked_lm = load_masked_lm(settings.model)
  if not 1 <= settings.top_k <= masked_lm.model.config.vocab_size:
    raise UserError(f"--top_k={settings.top_k} must be from 1 to "
                    f"{masked_lm.model.config.vocab_size}")
  encoded = [encode_masked(masked_lm, text) for text in texts]  # first: a text may be wrong
  for text, ids in zip(texts, encoded, strict=True):
    for mask, words in enumerate(fill(masked_lm, ids, settings.top_k), start=1):
      say(f"{text}   mask {mask}:")
      for word, share in words:
        say(f"  {share:.4f}  {word}")


def load_masked_lm(path: str) -> MaskedLm:
  """Loads a pre-trained model.

  Raises:
    UserError: no checkpoint, no masked-LM head, no tokenizer with [MASK].
  """
  checkpoint = checkpoint_utils.find_checkpoint(path, "--model")
  tokenizer = checkpoint_utils.own_tokenizer(checkpoint)
  if tokenizer.mask_token_id is None:
    raise UserError(f"the tokenizer at {checkpoint.tokenizer!r} lacks mask_token")
  model = modeling.BertForPreTraining(checkpoint.config)
  params = checkpoint_utils.load_trained(
      checkpoint, model, ("masked_lm/",), "; a pre-trained model has them, as run_pretraining.py "
      "makes one, not a classifier or a sentence encoder")
  return MaskedLm(model, params, tokenizer)


def encode_masked(masked_lm: MaskedLm, text: str) -> list[int]:
  """Returns [CLS] text [SEP]; the mask token's name in the text is the mask.

  Raises:
    UserError: no mask, or a text that is longer than the model's positions.
  """
  tokenizer, longest = masked_lm.tokenizer, masked_lm.model.config.max_position_embeddings
  mask = tokenizer.special_tokens["mask_token"]
  first, *parts = tokenizer.encode(text.split(mask))
  if not parts:
    raise UserError(f"{shown(text)} has no {mask}")
  ids = [tokenizer.cls_token_id, *first]
  for part in parts:
    ids += [tokenizer.mask_token_id, *part]
  ids.append(tokenizer.sep_token_id)
  if len(ids) > longest:
    raise UserError(f"{shown(text)} has {len(ids)} tokens; the model has {longest} positions")
  return ids


def fill(masked_lm: MaskedLm, ids: Sequence[int], top_k: int
         ) -> Iterator[list[tuple[str, float]]]:
  """Yields the most probable words and their probabilities for each mask of a text."""
  length = -(-len(ids) // _ROW_MULTIPLE) * _ROW_MULTIPLE
  positions = np.flatnonzero(np.asarray(ids) == masked_lm.tokenizer.mask_token_id)
  batch = data.pack_batch(
      {"input_ids": np.asarray(ids), "token_type_ids": np.zeros(len(ids), int)},
      np.asarray([len(ids)]), length, pack=False) | {
          "masked_lm_positions": positions.astype(np.int32)}
  with jax.default_matmul_precision("float32"):
    logits, _ = jax.jit(masked_lm.model.apply)({"params": masked_lm.params}, batch)
  words = {i: word for word, i in masked_lm.tokenizer.get_vocab().items()}
  for shares in np.asarray(jax.nn.softmax(logits)):  # [v] each
    best = np.argsort(-shares, kind="stable")[:top_k]
    yield [(words.get(i, f"id {i}"), float(shares[i])) for i in best.tolist()]


if __name__ == "__main__":
  define_flags(flags.FLAGS)
  run_script(main, interrupted="nothing is saved", takes_texts=True)
