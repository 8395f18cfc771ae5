"""Masking: chooses the tokens that are predicted and replaces them."""

import dataclasses
from typing import NamedTuple

import numpy as np

from support import stateless_random
from tokenization import Tokenizer


class Rows(NamedTuple):
  """Examples before masking, one per row.

  Attributes:
    input_ids: [n, length] int32.
    token_type_ids: [n, length] int32.
    lengths: [n] tokens, [CLS] and [SEP] included.
    labels: [n] int32, of the sentence-pair task.
    label_weights: [n] float32: 0 for a row without a second segment.
  """

  input_ids: np.ndarray
  token_type_ids: np.ndarray
  lengths: np.ndarray
  labels: np.ndarray
  label_weights: np.ndarray


@dataclasses.dataclass(frozen=True)
class Masking:
  """The rates of masking (Devlin et al., 2018, section 3.1).

  Attributes:
    probability: share of a row's tokens, [CLS] and [SEP] counted, that is predicted.
    max_predictions: maximum number of predictions per row.
    mask_share: share of the predicted tokens that become [MASK].
    random_share: share of them that become a random token; the rest stay as they are.
    whole_words: whether all pieces of a word are predicted together.
  """

  probability: float
  max_predictions: int
  mask_share: float
  random_share: float
  whole_words: bool


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """The facts about a tokenizer's vocabulary that pairing and masking need.

  Attributes:
    size: number of entries; random tokens are drawn from all of them, as in the original.
    cls: id of [CLS].
    sep: id of [SEP].
    mask: id of [MASK].
    continues: [size] bool: whether a piece continues a word (##).
  """

  size: int
  cls: int
  sep: int
  mask: int
  continues: np.ndarray


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
  """Reads a tokenizer's vocabulary."""
  continues = np.zeros(tokenizer.vocab_size, bool)
  for piece, i in tokenizer.get_vocab().items():
    continues[i] = piece.startswith("##")
  return Vocabulary(len(continues), tokenizer.cls_token_id, tokenizer.sep_token_id,
                    tokenizer.mask_token_id, continues)


def choose_masks(rows: Rows, vocabulary: Vocabulary, masking: Masking, choice_keys: np.ndarray,
                 token_keys: np.ndarray) -> dict[str, np.ndarray]:
  """Chooses the tokens that are predicted and replaces them in `input_ids`.

  Follows `create_masked_lm_predictions` of the original, for all rows at once; but a piece that
  continues a word never joins a word before [SEP].

  Args:
    rows: the examples, n of them.
    vocabulary: the tokenizer's.
    masking: the rates.
    choice_keys: [n] uint64, the randomness of the choice.
    token_keys: [n] uint64, the randomness of the replacements.

  Returns:
    The masked input_ids [n, length]; masked_lm_positions (within the row, ascending),
    masked_lm_ids and masked_lm_weights [n, max_predictions].
  """
  ids = rows.input_ids
  column = np.arange(ids.shape[1])[None]
  real = column < rows.lengths[:, None]
  maskable = real & (ids != vocabulary.cls) & (ids != vocabulary.sep)
  wanted = np.clip(np.rint(rows.lengths * masking.probability), 1, masking.max_predictions)
  draws = stateless_random.uniform(choice_keys, ids.shape[1])
  chosen = (_choose_words(maskable, vocabulary.continues[ids], wanted, draws)
            if masking.whole_words else _choose_tokens(maskable, wanted, draws))
  count = chosen.sum(axis=1)
  positions = np.argsort(~chosen, axis=1, kind="stable")[:, :masking.max_predictions]
  filled = np.arange(positions.shape[1])[None] < count[:, None]
  positions = np.where(filled, positions, 0)
  labels = np.where(filled, np.take_along_axis(ids, positions, 1), 0)
  return {"input_ids": _hide(ids, positions, labels, filled, vocabulary, masking, token_keys),
          "masked_lm_positions": positions.astype(np.int32),
          "masked_lm_ids": labels.astype(np.int32),
          "masked_lm_weights": filled.astype(np.float32)}


def _choose_tokens(maskable: np.ndarray, wanted: np.ndarray, draws: np.ndarray) -> np.ndarray:
  """Chooses the `wanted` [n] maskable tokens with the lowest draws. -> [n, length] bool."""
  order = np.argsort(np.where(maskable, draws, 2.0), axis=1)
  chosen = np.zeros_like(maskable)
  np.put_along_axis(chosen, order, np.arange(order.shape[1])[None] < wanted[:, None], axis=1)
  return chosen & maskable


def _choose_words(maskable: np.ndarray, continues: np.ndarray, wanted: np.ndarray,
                  draws: np.ndarray) -> np.ndarray:
  """Takes whole words in random order, but none that would pass `wanted`. -> [n, length] bool."""
  follows = np.zeros_like(maskable)
  follows[:, 1:] = maskable[:, :-1]
  starts = maskable & ~(continues & follows)
  word = np.cumsum(starts, axis=1) - 1  # [n, length]: each maskable token's word, from 0
  rows, columns = np.nonzero(maskable)
  sizes = np.zeros(maskable.shape, np.int64)
  np.add.at(sizes, (rows, word[rows, columns]), 1)
  order = np.argsort(np.where(sizes > 0, draws, 2.0), axis=1)
  sizes = np.take_along_axis(sizes, order, 1)
  taken, count = np.zeros_like(maskable), np.zeros(len(maskable), np.int64)
  for i in range(int(starts.sum(axis=1).max(initial=0))):
    taken[:, i] = (sizes[:, i] > 0) & (count + sizes[:, i] <= wanted)
    count += np.where(taken[:, i], sizes[:, i], 0)
  by_word = np.zeros_like(taken)
  np.put_along_axis(by_word, order, taken, axis=1)
  return maskable & np.take_along_axis(by_word, word.clip(0), 1)


def _hide(ids: np.ndarray, positions: np.ndarray, labels: np.ndarray, filled: np.ndarray,
          vocabulary: Vocabulary, masking: Masking, token_keys: np.ndarray) -> np.ndarray:
  """Replaces the chosen tokens in a copy of ids by [MASK], a random token, or themselves."""
  share, draws = np.split(stateless_random.uniform(token_keys, 2 * positions.shape[1]), 2, axis=1)
  hidden = np.where(share < masking.mask_share, vocabulary.mask,
                    np.where(share < masking.mask_share + masking.random_share,
                             below(draws, vocabulary.size), labels))
  ids = ids.copy()
  ids[np.nonzero(filled)[0], positions[filled]] = hidden[filled]
  return ids


def below(draws: np.ndarray, bounds: np.ndarray | int) -> np.ndarray:
  """Turns uniform draws in [0, 1) into integers in range(bounds); 0 if a bound is 0."""
  return (draws * bounds).astype(np.int64)
