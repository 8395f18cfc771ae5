"""Batches of pre-training: the order of examples, the pairs of segments, the packed rows.

Batch t is a pure function of (seed, t): it is computed from nothing but the seed, the step and
the corpus on the disk (`corpus.py`), so any step can be the first, shuffling is over
the whole corpus and needs no buffer. A batch has the keys of `data.py` with one example a row and

  masked_lm_positions, masked_lm_ids     [P] int32: flat positions, over the whole batch
  masked_lm_weights                      [P] float32; 0 where there is no prediction
  next_sentence_labels                   [B] int32: 0 is the original order or the real next
  next_sentence_weights                  [B] float32
"""

from collections.abc import Iterator, Sequence
import dataclasses
from typing import Protocol

import numpy as np
import scipy.stats

from data import ALL, Batch, pack_batch, pair_lengths, rows_of_all, share_of, shuffled
from pretraining.corpus import Part, Records
from pretraining.masking import below, choose_masks, Masking, Rows, Vocabulary
from support import stateless_random

# What a random number is for: streams never share a draw.
_ORDER, _TRAIN, _EVAL = range(3)
_STEPS_AN_OCTAVE = 16  # a batch of hundreds nearly always needs the same few numbers of rows


class ExampleSource(Protocol):
  """A source of examples of one length."""

  max_seq_length: int

  def __len__(self) -> int:
    """Returns the number of examples."""

  def rows(self, indices: np.ndarray, keys: np.ndarray) -> dict[str, np.ndarray]:
    """Makes the examples `indices` [n] with the randomness of `keys` [n] uint64.

    Returns:
      input_ids, token_type_ids, sequence_ids [n, length]; masked_lm_positions (within the row),
      masked_lm_ids, masked_lm_weights [n, predictions]; next_sentence_labels,
      next_sentence_weights [n].
    """

  def lengths(self, indices: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Returns the tokens [n] of the rows that `rows` would make, for less."""


# --- Examples from text ---------------------------------------------------------------------


class TextExamples:
  """Pairs of segments and masks, drawn afresh each time that an example comes up.

  Example i is a span of sentences of one document, cut in two at a random sentence. The
  objective says what becomes of the second part: with "mlm_nsp" it is kept (label 0) or
  replaced by a random stretch of another document (label 1; always for a lone sentence), as in
  `create_instances_from_document` of the original; with "mlm_sop" the two keep or change their
  order (labels 0 and 1; Lan et al., 2019), a lone sentence being cut inside; with "mlm" the
  span stays one segment.
  """

  # Columns of a row's random numbers.
  (_IS_SHORT, _SHORT_LENGTH, _OTHER, _CUT, _DOCUMENT, _SENTENCE, _FRONT_A, _FRONT_B,
   _COLUMNS) = range(9)

  def __init__(self, part: Part, vocabulary: Vocabulary, masking: Masking, max_seq_length: int,
               objective: str, short_seq_prob: float):
    self.max_seq_length = max_seq_length
    self._part = part
    self._text = part.text
    self._vocabulary = vocabulary
    self._masking = masking
    self._objective = objective
    self._short_seq_prob = short_seq_prob

  def __len__(self) -> int:
    return len(self._part.spans)

  def rows(self, indices: np.ndarray, keys: np.ndarray) -> dict[str, np.ndarray]:
    """See `ExampleSource`."""
    draws = stateless_random.uniform(keys, self._COLUMNS)
    rows = self._assemble(*self._segments(indices, draws), draws)
    masks = choose_masks(rows, self._vocabulary, self._masking,
                         stateless_random.keys(keys, 1), stateless_random.keys(keys, 2))
    real = np.arange(self.max_seq_length) < rows.lengths[:, None]
    return {"token_type_ids": rows.token_type_ids, "sequence_ids": real.astype(np.int32),
            **masks, "next_sentence_labels": rows.labels,
            "next_sentence_weights": rows.label_weights}

  def lengths(self, indices: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """See `ExampleSource`."""
    a, b, *_ = self._segments(indices, stateless_random.uniform(keys, self._COLUMNS))
    return sum(self._kept(a, b)) + self._specials

  @property
  def _specials(self) -> int:
    return 2 if self._objective == "mlm" else 3

  def _kept(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lengths [n] of two segments [n, 2], cut to fit a row."""
    return pair_lengths(a[:, 1] - a[:, 0], b[:, 1] - b[:, 0],
                        self.max_seq_length - self._specials)

  def _segments(self, indices: np.ndarray, draws: np.ndarray
                ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Chooses two segments [n, 2] (begin and end in `tokens`), labels and their weights [n]."""
    sentences = self._text.sentences
    first, last = self._part.spans[indices].T
    budget = self.max_seq_length - self._specials
    target = np.where(draws[:, self._IS_SHORT] < self._short_seq_prob,
                      2 + below(draws[:, self._SHORT_LENGTH], budget - 1), budget)
    begin = sentences[first]
    last = np.minimum(last, np.searchsorted(sentences, begin + target))
    end, count = sentences[last], last - first
    if self._objective == "mlm":
      nothing = np.zeros(len(indices))
      return (np.stack([begin, end], 1), np.stack([end, end], 1), nothing.astype(np.int32),
              nothing.astype(np.float32))
    lone = count == 1
    cut = sentences[np.where(lone, last, first + 1 + below(draws[:, self._CUT], count - 1))]
    other = draws[:, self._OTHER] < 0.5
    if self._objective == "mlm_sop":
      cut = np.where(lone, begin + 1 + below(draws[:, self._CUT], end - begin - 1), cut)
      a, b = np.stack([begin, cut], 1), np.stack([cut, end], 1)
      a, b = np.where(other[:, None], b, a), np.where(other[:, None], a, b)
      return a, b, other.astype(np.int32), (end - begin > 1).astype(np.float32)
    other |= lone
    random = self._random_segments(first, np.maximum(target - (cut - begin), 1), draws)
    b = np.where(other[:, None], random, np.stack([cut, end], 1))
    return np.stack([begin, cut], 1), b, other.astype(np.int32), np.ones(len(indices), np.float32)

  def _random_segments(self, first: np.ndarray, target: np.ndarray, draws: np.ndarray
                       ) -> np.ndarray:
    """Chooses sentences of another document [n, 2], from a random one on, for `target` tokens."""
    sentences, documents = self._text.sentences, self._text.documents
    own = np.searchsorted(documents, first, side="right") - 1
    place, others = np.searchsorted(self._part.documents, own), len(self._part.documents) - 1
    document = self._part.documents[
        (place + 1 + below(draws[:, self._DOCUMENT], others)) % (others + 1)]
    begin, end = documents[document], documents[document + 1]
    start = begin + below(draws[:, self._SENTENCE], end - begin)
    stop = np.minimum(end, np.searchsorted(sentences, sentences[start] + target))
    return np.stack([sentences[start], sentences[stop]], 1)

  def _assemble(self, a: np.ndarray, b: np.ndarray, labels: np.ndarray, weights: np.ndarray,
                draws: np.ndarray) -> Rows:
    """Makes [CLS] a [SEP] b [SEP], truncated, or [CLS] a [SEP]."""
    kept_a, kept_b = self._kept(a, b)
    begin_a = a[:, 0] + _front(a[:, 1] - a[:, 0] - kept_a, draws[:, self._FRONT_A])
    begin_b = b[:, 0] + _front(b[:, 1] - b[:, 0] - kept_b, draws[:, self._FRONT_B])
    lengths = kept_a + kept_b + self._specials
    column = np.arange(self.max_seq_length)[None]
    start_b = (kept_a + 2)[:, None]
    in_a = (column >= 1) & (column < start_b - 1)
    in_b = (column >= start_b) & (column < start_b + kept_b[:, None])
    source = np.where(in_a, begin_a[:, None] + column - 1,
                      np.where(in_b, begin_b[:, None] + column - start_b, 0))
    separator = (column == start_b - 1) | (column == (lengths - 1)[:, None])
    ids = np.where(in_a | in_b, self._text.tokens[source].astype(np.int32), 0)
    ids = np.where(separator, self._vocabulary.sep, ids)
    ids[:, 0] = self._vocabulary.cls
    types = (column >= start_b) & (column < lengths[:, None])
    return Rows(ids.astype(np.int32), types.astype(np.int32), lengths, labels, weights)


def _front(removed: np.ndarray, draws: np.ndarray) -> np.ndarray:
  """Draws the number of removed tokens that come off the front, each with probability 1/2."""
  return scipy.stats.binom.ppf(draws, removed, 0.5).clip(0).astype(np.int64)


# --- Examples from records ------------------------------------------------------------------


class RecordExamples:
  """Examples of the original's TFRecords, with their own pairs and masks; keys change nothing."""

  def __init__(self, records: Records, objective: str):
    self.max_seq_length = records.max_seq_length
    self._features = records.features
    self._label_weight = np.float32(objective != "mlm")

  def __len__(self) -> int:
    return len(self._features["next_sentence_labels"])

  def rows(self, indices: np.ndarray, keys: np.ndarray) -> dict[str, np.ndarray]:
    """See `ExampleSource`."""
    del keys
    names = {"segment_ids": "token_type_ids", "input_mask": "sequence_ids"}
    rows = {names.get(name, name): np.asarray(value[indices])
            for name, value in self._features.items()}
    return {**rows, "next_sentence_weights": np.full(len(indices), self._label_weight)}

  def lengths(self, indices: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """See `ExampleSource`."""
    del keys
    return (self._features["input_mask"][indices] > 0).sum(axis=1)


# --- Batches --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Phase:
  """A stretch of training with one length and one batch size.

  Attributes:
    first_step: its first step, from 0.
    last_step: the one after its last.
    batch_size: examples a step, over all devices and accumulation steps.
    examples: what they are taken from.
  """

  first_step: int
  last_step: int
  batch_size: int
  examples: ExampleSource


def pack_rows(rows: dict[str, np.ndarray], *leading: int, pack: bool,
              num_rows: int | None = None) -> Batch:
  """Packs the examples of a whole batch, one a row, into [*leading, ...] with flat positions.

  Args:
    rows: see `ExampleSource.rows`.
    *leading: devices and micro-batches; each gets equally many examples, in the order given,
      and packs them by itself.
    pack: False leaves every example its own row.
    num_rows: see `data.pack_batch`.
  """
  real = rows["sequence_ids"] > 0
  batch = pack_batch({name: rows[name][real] for name in ("input_ids", "token_type_ids")},
                     real.sum(axis=1).reshape(*leading, -1), real.shape[1], pack,
                     _STEPS_AN_OCTAVE, num_rows)
  positions = rows["masked_lm_positions"].reshape(*batch["cls_positions"].shape, -1)
  positions = positions + batch["cls_positions"][..., None]
  return batch | {"masked_lm_positions": positions.astype(np.int32).reshape(*leading, -1)} | {
      name: rows[name].reshape(*leading, -1)
      for name in ("masked_lm_ids", "masked_lm_weights", "next_sentence_labels",
                   "next_sentence_weights")}


def train_rows(phases: Sequence[Phase], seed: int, step: int,
               mine: slice = ALL) -> dict[str, np.ndarray]:
  """Returns the rows of batch `step`, a pure function of the seed and the step.

  A phase cuts up an endless stream of epochs, each a fresh permutation of all its examples.

  Args:
    phases: of the training.
    seed: of the run.
    step: from 0.
    mine: the rows to make, of the batch's.
  """
  phase, indices, keys = _drawn(phases, seed, step)
  return phase.examples.rows(indices[mine], keys[mine])


def _drawn(phases: Sequence[Phase], seed: int, step: int) -> tuple[Phase, np.ndarray, np.ndarray]:
  """Returns a step's phase, and the examples and the keys of its rows."""
  number, phase = next((i, p) for i, p in enumerate(phases) if step < p.last_step)
  row = np.arange(phase.batch_size)
  places = (step - phase.first_step) * phase.batch_size + row
  indices = shuffled(places, len(phase.examples), seed, _ORDER, number)
  return phase, indices, stateless_random.keys(seed, _TRAIN, step, row)


def phase_batches(phases: Sequence[Phase], *, seed: int, first_step: int, devices: int,
                  micro_batches: int, pack: bool, mine: slice = ALL) -> Iterator[Batch]:
  """Yields batches from `first_step` to the end of all phases: [devices, micro_batches, ...].

  `devices` are those of all hosts; `mine` are this host's positions among them.
  """
  here = len(range(devices)[mine])
  for step in range(first_step, phases[-1].last_step):
    num_rows = None
    rows = ()
    if mine != ALL:
      phase, indices, keys = _drawn(phases, seed, step)
      num_rows = _rows_of_all(phase.examples, indices, keys, devices * micro_batches, pack)
      rows = (share_of(phase.batch_size, devices, mine),)
    yield pack_rows(train_rows(phases, seed, step, *rows), here, micro_batches, pack=pack,
                    num_rows=num_rows)


def _rows_of_all(examples: ExampleSource, indices: np.ndarray, keys: np.ndarray, groups: int,
                 pack: bool) -> int:
  """Returns the packed rows a group of a whole batch, of which this host makes a part."""
  lengths = examples.lengths(indices, keys).reshape(groups, -1)
  return rows_of_all(lengths, examples.max_seq_length, pack, _STEPS_AN_OCTAVE)


def held_out_batches(examples: ExampleSource, *, batch_size: int, max_examples: int, devices: int,
                     pack: bool, mine: slice = ALL) -> Iterator[Batch]:
  """Yields examples in a fixed random order with fixed pairs and masks, as [devices, ...].

  Nothing of it depends on a seed or on the batch size: losses compare across runs. The last
  batch is filled up with rows of weight 0.

  Args:
    examples: the held-out ones.
    batch_size: rows over all devices.
    max_examples: so many of them; 0 goes through all.
    devices: number of them, on all hosts.
    pack: see `pack_rows`.
    mine: this host's positions among the devices.
  """
  total = len(examples)
  wanted = min(max_examples or total, total)
  part, here = share_of(batch_size, devices, mine), len(range(devices)[mine])
  for start in range(0, wanted, batch_size):
    places = np.arange(start, start + batch_size)
    indices = stateless_random.permute(places % total, total, stateless_random.keys(_EVAL))
    keys = stateless_random.keys(_EVAL, indices)
    num_rows = None if mine == ALL else _rows_of_all(examples, indices, keys, devices, pack)
    rows = examples.rows(indices[part], keys[part])
    filled = places[part] < wanted
    for weights in ("masked_lm_weights", "next_sentence_weights"):
      rows[weights] = rows[weights] * filled.reshape(-1, *(1,) * (rows[weights].ndim - 1))
    yield pack_rows(rows, here, pack=pack, num_rows=num_rows)
