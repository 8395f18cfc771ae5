"""Batches of pre-training: order, pairs of segments, masks; on text that shows what became of it.

In the fixture, token = 100 * document + 10 * sentence + place, so every token says where it is
from, and the vocabulary says which of them continue a word.
"""

import functools

from conftest import init_params
import jax
import numpy as np
import pytest
import scipy.stats

import data
import losses
import modeling
from pretraining import batches, corpus
from pretraining.batches import Phase, TextExamples
from pretraining.masking import choose_masks, Masking, Rows, Vocabulary
from support import stateless_random

CLS, SEP, MASK = 1, 2, 3
SIZE = 50_000


def vocabulary():
  continues = np.zeros(SIZE, bool)
  continues[10:] = np.arange(10, SIZE) % 10 % 3 == 2  # places 2, 5, 8 of every sentence
  return Vocabulary(SIZE, CLS, SEP, MASK, continues)


def make_text(folder, sentences_of):
  """A document for each list; a sentence for each number in it, of so many tokens."""
  tokens, sentences, documents = [], [0], [0]
  for d, document in enumerate(sentences_of, 1):
    for s, size in enumerate(document):
      tokens += [100 * d + 10 * s + min(i, 9) for i in range(size)]
      sentences.append(len(tokens))
    documents.append(len(sentences) - 1)
  return corpus.TokenizedText(("text",), "", folder, np.array(tokens, np.uint16),
                                 np.array(sentences), np.array(documents))


NO_MASKS = Masking(1e-9, 1, 0.0, 0.0, False)
MASKING = Masking(0.15, 5, 0.8, 0.1, False)
DOCUMENTS = [[5, 7, 9, 4, 6], [8, 3, 8], [9], [4, 4, 4, 4, 4, 4, 4], [6, 9]] * 20


@pytest.fixture
def make(tmp_path):
  """Examples of length 32 from DOCUMENTS, or from what is given."""

  def make(objective="mlm_nsp", masking=NO_MASKS, length=32, short=0.0, documents=DOCUMENTS):
    text = make_text(tmp_path, documents)
    part = corpus.part_of(text, False, 0.0, length - (2 if objective == "mlm" else 3))
    return TextExamples(part, vocabulary(), masking, length, objective, short)

  return make


def rows_of(examples, repeats=40):
  indices = np.tile(np.arange(len(examples)), repeats)
  return examples.rows(indices, stateless_random.keys(0, np.arange(len(indices))))


def segments(rows, i):
  """The two segments of row i, with the structure around them checked."""
  ids, types = rows["input_ids"][i], rows["token_type_ids"][i]
  length = int(rows["sequence_ids"][i].sum())
  assert (rows["sequence_ids"][i] == (np.arange(len(ids)) < length)).all()
  assert (ids[length:] == 0).all()
  assert ids[0] == CLS
  separators = np.flatnonzero(ids == SEP)
  assert separators[-1] == length - 1
  if len(separators) == 1:
    assert not types.any()
    return ids[1:length - 1], None
  first, last = separators
  assert (types == ((np.arange(len(ids)) > first) & (np.arange(len(ids)) <= last))).all()
  return ids[1:first], ids[first + 1:last]


def follows(a, b):
  """b goes on where a ends: the next token of the sentence, or the start of the next sentence."""
  return b[0] - a[-1] == 1 or (b[0] % 10 == 0 and b[0] // 10 - a[-1] // 10 == 1)


def in_order(a, b, whole):
  """b comes after a in the same document, and at once where nothing was cut off."""
  assert a[-1] < b[0]
  assert a[-1] // 100 == b[0] // 100
  assert follows(a, b) or not whole


def consecutive(tokens):
  return all(follows(tokens[i:i + 1], tokens[i + 1:i + 2]) for i in range(len(tokens) - 1))


# --- Pairs ------------------------------------------------------------------------------------


def test_next_sentence_pairs_are_right_and_balanced(make):
  examples = make()
  rows = rows_of(examples)
  counts = [0, 0]
  for i, label in enumerate(rows["next_sentence_labels"]):
    a, b = segments(rows, i)
    assert consecutive(a)
    assert consecutive(b)
    if label == 0:
      in_order(a, b, len(a) + len(b) + 3 < 32)
    else:
      assert a[0] // 100 != b[0] // 100
    first, last = examples._part.spans[i % len(examples)]
    if last - first > 1:
      counts[label] += 1
    else:
      assert label == 1  # a lone sentence has no next: used, with a random one
  assert scipy.stats.binomtest(counts[0], sum(counts)).pvalue > 1e-3
  assert (rows["next_sentence_weights"] == 1).all()


def test_sentence_order_pairs_are_right_and_balanced(make):
  rows = rows_of(make("mlm_sop"))
  for i, label in enumerate(rows["next_sentence_labels"]):
    a, b = segments(rows, i)
    in_order(*((b, a) if label else (a, b)), len(a) + len(b) + 3 < 32)
  ones = int(rows["next_sentence_labels"].sum())
  assert scipy.stats.binomtest(ones, len(rows["next_sentence_labels"])).pvalue > 1e-3
  assert (rows["next_sentence_weights"] == 1).all()  # lone sentences are cut inside


def test_a_sentence_of_one_token_has_no_order(make):
  rows = rows_of(make("mlm_sop", documents=[[1], [1]]), 2)
  assert (rows["next_sentence_weights"] == 0).all()
  assert (rows["sequence_ids"].sum(axis=1) == 4).all()


def test_masked_lm_alone_has_one_segment(make):
  examples = make("mlm")
  rows = rows_of(examples, 1)
  assert not rows["next_sentence_weights"].any()
  seen = set()
  for i in range(len(examples)):
    a, b = segments(rows, i)
    assert b is None
    assert consecutive(a)
    seen |= set(a.tolist())
  whole = set(examples._text.tokens.tolist())
  assert len(seen) > 0.9 * len(whole)


def test_every_sentence_is_in_exactly_one_span(make):
  spans = make()._part.spans
  covered = np.concatenate([np.arange(*span) for span in spans])
  np.testing.assert_array_equal(covered, np.arange(len(covered)))
  text = make()._text
  assert covered[-1] + 1 == len(text.sentences) - 1
  owner = np.searchsorted(text.documents, spans, side="right") - 1
  owner_of_last = np.searchsorted(text.documents, spans[:, 1] - 1, side="right") - 1
  np.testing.assert_array_equal(owner[:, 0], owner_of_last)
  sizes = text.sentences[spans[:, 1]] - text.sentences[spans[:, 0]]
  ends = np.isin(spans[:, 1], text.documents)
  assert (sizes[~ends] >= 29).all()  # only a document's last span falls short


def test_long_segments_lose_tokens_from_both_ends(make):
  examples = make("mlm_sop", documents=[[20, 60], [20, 60]])
  text = examples._text
  object.__setattr__(text, "tokens", np.arange(4, 4 + len(text.tokens), dtype=np.uint16))
  rows = rows_of(examples, 300)
  fronts = []
  for i, label in enumerate(rows["next_sentence_labels"]):
    short, long = segments(rows, i)[::-1 if label else 1]
    assert (len(short), len(long)) == ((14, 15) if label else (15, 14))
    assert (np.diff(long) == 1).all()
    fronts.append((long[0] - 24) % 80)
  removed = 45.5
  assert abs(np.mean(fronts) - removed / 2) < 0.5
  assert abs(np.std(fronts) - np.sqrt(removed) / 2) < 0.5


def test_short_sequences(make):
  def lengths(short):
    return rows_of(make("mlm", short=short, documents=[[1] * 60] * 5))["sequence_ids"].sum(axis=1)
  none, some, every = (lengths(short) for short in (0.0, 0.1, 1.0))
  assert (none == 32).all()
  assert 0.05 < (some < 32).mean() < 0.15
  assert scipy.stats.kstest(every, "randint", (4, 33)).statistic < 0.08  # from 2 tokens on


def test_a_single_document_pairs_with_itself(make):
  rows = rows_of(make(documents=[[5, 7, 9, 4, 6, 8]]))
  assert set(rows["next_sentence_labels"]) == {0, 1}


def test_kept_lengths_are_those_of_one_pair_at_a_time():
  a, b = np.divmod(np.arange(400), 20)
  for budget in (1, 2, 9, 10, 40):
    kept = np.stack(data.pair_lengths(a, b, budget), axis=1)
    np.testing.assert_array_equal(kept, [data.pair_lengths(x, y, budget)
                                         for x, y in zip(a, b, strict=True)])


# --- Masks ------------------------------------------------------------------------------------


def masked(masking, n=4000, length=32, seed=0):
  """Random rows of unequal lengths, and what choose_masks makes of them."""
  rng = np.random.default_rng(seed)
  ids = rng.integers(10, SIZE, (n, length)).astype(np.int32)
  lengths = rng.integers(3, length + 1, n)
  ids[:, 0] = CLS
  middle = rng.integers(1, lengths - 1)
  ids[np.arange(n), middle] = ids[np.arange(n), lengths - 1] = SEP
  ids[np.arange(length) >= lengths[:, None]] = 0
  rows = Rows(ids, np.zeros_like(ids), lengths, np.zeros(n), np.ones(n))
  keys = stateless_random.keys(seed, np.arange(n))
  return rows, choose_masks(
      rows, vocabulary(), masking, stateless_random.keys(keys, 1), stateless_random.keys(keys, 2))


def wanted(rows, masking):
  return np.clip(np.rint(rows.lengths * masking.probability), 1, masking.max_predictions)


@pytest.mark.parametrize("whole_words", [False, True])
def test_what_is_masked(whole_words):
  masking = Masking(0.15, 4, 0.8, 0.1, whole_words)
  rows, out = masked(masking)
  positions, weights = out["masked_lm_positions"], out["masked_lm_weights"] > 0
  row = np.nonzero(weights)[0]
  original = rows.input_ids[row, positions[weights]]
  assert not np.isin(original, (CLS, SEP, 0)).any()  # never a special token, never padding
  np.testing.assert_array_equal(out["masked_lm_ids"][weights], original)
  assert not out["masked_lm_ids"][~weights].any()
  ascending = np.diff(positions, axis=1) > 0
  assert ascending[weights[:, 1:]].all()
  maskable = (rows.input_ids > 3).sum(axis=1)
  count = weights.sum(axis=1)
  if whole_words:
    assert (count <= wanted(rows, masking)).all()
  else:
    np.testing.assert_array_equal(count, np.minimum(wanted(rows, masking), maskable))
  untouched = np.ones(rows.input_ids.shape, bool)
  untouched[row, positions[weights]] = False
  np.testing.assert_array_equal(out["input_ids"][untouched], rows.input_ids[untouched])


@pytest.mark.parametrize("shares", [(0.8, 0.1), (0.5, 0.5), (1.0, 0.0)])
def test_eighty_ten_ten(shares):
  rows, out = masked(Masking(0.15, 5, *shares, False))
  weights = out["masked_lm_weights"] > 0
  row, column = np.nonzero(weights)[0], out["masked_lm_positions"][weights]
  now, before = out["input_ids"][row, column], rows.input_ids[row, column]
  counts = np.array([(now == MASK).sum(), ((now != MASK) & (now != before)).sum(),
                     (now == before).sum()])
  expected = np.array([*shares, 1 - sum(shares)]) * len(now)
  possible = expected > 0.5
  assert counts[~possible].sum() <= 2  # a random token may be the old one
  if possible.sum() > 1:
    expected = expected[possible] * counts[possible].sum() / expected[possible].sum()
    assert scipy.stats.chisquare(counts[possible], expected).pvalue > 1e-3
  random = now[(now != MASK) & (now != before)]
  if len(random):
    assert scipy.stats.kstest(random / SIZE, "uniform").pvalue > 1e-3


def test_every_place_is_equally_likely():
  n, length = 20_000, 22
  ids = np.full((n, length), 4, np.int32)
  ids[:, 0], ids[:, -1] = CLS, SEP
  rows = Rows(ids, np.zeros_like(ids), np.full(n, length), np.zeros(n), np.ones(n))
  keys = stateless_random.keys(5, np.arange(n))
  out = choose_masks(rows, vocabulary(), Masking(0.15, 5, 0.8, 0.1, False),
                                         keys, stateless_random.keys(keys))
  assert out["masked_lm_positions"].shape == (n, 5)
  assert (out["masked_lm_weights"].sum(axis=1) == 3).all()
  counts = np.bincount(out["masked_lm_positions"][:, :3].ravel(), minlength=length)[1:-1]
  assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_whole_words_are_whole():
  masking = Masking(0.3, 9, 0.8, 0.1, True)
  rows, out = masked(masking)
  chosen = np.zeros(rows.input_ids.shape, bool)
  weights = out["masked_lm_weights"] > 0
  chosen[np.nonzero(weights)[0], out["masked_lm_positions"][weights]] = True
  maskable = rows.input_ids > 3
  joined = maskable[:, 1:] & maskable[:, :-1] & vocabulary().continues[rows.input_ids[:, 1:]]
  assert joined.sum() > 1000
  assert (chosen[:, 1:] == chosen[:, :-1])[joined].all()
  # Almost all of what is wanted: only a word too long for the rest is left out.
  assert chosen.sum() > 0.95 * np.minimum(wanted(rows, masking), maskable.sum(axis=1)).sum()


# --- Batches ----------------------------------------------------------------------------------


def two_phases(make):
  return [Phase(0, 6, 8, make(masking=MASKING)),
          Phase(6, 10, 4, make(masking=MASKING, length=40))]


def test_batch_t_is_the_same_from_any_start(make):
  made = functools.partial(batches.phase_batches, two_phases(make), seed=3,
                              devices=2, micro_batches=2, pack=False)
  whole = list(made(first_step=0))
  assert [batch["input_ids"].shape for batch in whole] == [(2, 2, 2, 32)] * 6 + [(2, 2, 1, 40)] * 4
  for start in (1, 5, 6, 9):
    for ours, theirs in zip(made(first_step=start), whole[start:], strict=True):
      for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def test_the_layout_on_devices_changes_no_row(make):
  one = next(batches.phase_batches(two_phases(make), seed=3, first_step=2, devices=1,
                                               micro_batches=1, pack=False))
  many = next(batches.phase_batches(two_phases(make), seed=3, first_step=2, devices=2,
                                                micro_batches=2, pack=False))
  np.testing.assert_array_equal(one["input_ids"].reshape(8, 32), many["input_ids"].reshape(8, 32))
  positions = many["masked_lm_positions"].reshape(4, -1)
  part = many["input_ids"].reshape(4, -1)  # flat positions count inside a part
  flat = np.take_along_axis(part, positions, 1).reshape(-1)
  np.testing.assert_array_equal(
      flat, one["input_ids"].reshape(-1)[one["masked_lm_positions"].reshape(-1)])
  np.testing.assert_array_equal(np.take_along_axis(part, many["cls_positions"].reshape(4, -1), 1),
                                np.full((4, 2), CLS))


def test_an_epoch_shows_every_example_once_and_the_next_another_order(make):
  examples = make()
  n = len(examples)
  seen = []

  class Recorder:
    max_seq_length = 32

    def __len__(self):
      return n

    def rows(self, indices, keys):
      seen.append((indices, keys))
      return {}

  phases = [Phase(0, 3 * n, 4, Recorder())]
  for step in range(3 * n // 4):
    batches.train_rows(phases, 0, step)
  indices = np.concatenate([i for i, _ in seen])[:2 * n // 4 * 4]
  first, second = indices[:n], indices[n:2 * n]
  np.testing.assert_array_equal(np.sort(first), np.arange(n))
  assert (first[:len(second)] != second).any()
  keys = np.concatenate([k for _, k in seen])
  assert len(np.unique(keys)) == len(keys)  # the same example gets other masks each time
  seen.clear()
  batches.train_rows(phases, 1, 0)
  assert (seen[0][0] != indices[:4]).any()  # another seed, another order


def test_masks_are_new_in_every_epoch_and_fixed_in_evaluation(make):
  examples = make(masking=MASKING)
  n = len(examples)
  phases = [Phase(0, 10, n, examples)]
  one, two = (batches.train_rows(phases, 0, step)["input_ids"] for step in (0, 1))
  assert {bytes(row) for row in one} != {bytes(row) for row in two}

  def flat(batch_size):
    made = list(batches.held_out_batches(examples, batch_size=batch_size, max_examples=0,
                                                    devices=1, pack=False))
    ids = np.concatenate([b["input_ids"][0] for b in made])
    weights = np.concatenate([b["next_sentence_weights"][0] for b in made])
    masks = np.concatenate([b["masked_lm_weights"][0].reshape(-1, 5) for b in made])
    assert not masks[weights == 0].any()
    return ids[weights > 0]

  np.testing.assert_array_equal(flat(8), flat(6))
  assert len(flat(8)) == n
  limited = list(batches.held_out_batches(examples, batch_size=8, max_examples=13,
                                                  devices=2, pack=False))
  ids = np.concatenate([b["input_ids"].reshape(8, 32) for b in limited])
  weights = np.concatenate([b["next_sentence_weights"].reshape(8) for b in limited])
  np.testing.assert_array_equal(weights, np.arange(16) < 13)
  np.testing.assert_array_equal(ids[:13], flat(8)[:13])


def test_a_late_step_costs_what_the_first_costs(make):
  """No draw before it is made: step 10**9 asks for just its own rows."""
  examples = make(masking=MASKING)
  phases = [Phase(0, 1 << 40, 8, examples)]
  rows = batches.train_rows(phases, 0, 10**9)
  assert rows["input_ids"].shape == (8, 32)
  assert (rows["input_ids"] != batches.train_rows(phases, 0, 0)["input_ids"]).any()


def test_records_come_as_they_are():
  features = {"input_ids": np.arange(12).reshape(3, 4), "input_mask": np.ones((3, 4), np.int32),
              "segment_ids": np.zeros((3, 4), np.int32),
              "masked_lm_positions": np.ones((3, 2), np.int32),
              "masked_lm_ids": np.ones((3, 2), np.int32),
              "masked_lm_weights": np.ones((3, 2), np.float32),
              "next_sentence_labels": np.array([0, 1, 0], np.int32)}
  records = corpus.Records(("file",), "", features)
  examples = batches.RecordExamples(records, "mlm_nsp")
  assert (len(examples), examples.max_seq_length) == (3, 4)
  rows = examples.rows(np.array([2, 0]), stateless_random.keys(0, np.arange(2)))
  np.testing.assert_array_equal(rows["input_ids"], [[8, 9, 10, 11], [0, 1, 2, 3]])
  np.testing.assert_array_equal(rows["next_sentence_weights"], [1, 1])
  alone = batches.RecordExamples(records, "mlm").rows(np.array([1]), None)
  np.testing.assert_array_equal(alone["next_sentence_weights"], [0])
  batch = batches.pack_rows(rows, 2, 1, pack=False)
  assert batch["input_ids"].shape == (2, 1, 1, 4)
  assert batch["masked_lm_ids"].shape == (2, 1, 2)
  assert batch["next_sentence_labels"].shape == (2, 1, 1)


def packed_and_padded(make, *leading):
  examples = make(masking=MASKING, short=0.9, documents=[[1, 2, 1, 3, 2, 1, 2]] * 30)
  rows = batches.train_rows([Phase(0, 1, 48, examples)], 0, 0)
  return (batches.pack_rows(rows, *leading, pack=True),
          batches.pack_rows(rows, *leading, pack=False))


def test_packing_moves_examples_and_changes_nothing_in_them(make):
  packed, padded = packed_and_padded(make, 2, 2)
  assert packed["input_ids"].shape[2] < padded["input_ids"].shape[2] == 12
  assert (packed["sequence_ids"] > 1).any()
  assert (packed["sequence_ids"] > 0).sum() == (padded["sequence_ids"] > 0).sum()

  def tokens_of(batch, part, example):
    flat = {name: batch[name].reshape(4, -1) for name in (
        "input_ids", "token_type_ids", "position_ids", "sequence_ids")}
    start = batch["cls_positions"].reshape(4, -1)[part, example]
    row = np.arange(flat["input_ids"].shape[1]) // 32 == start // 32
    mine = row & (flat["sequence_ids"][part] == flat["sequence_ids"][part, start])
    masked = batch["masked_lm_positions"].reshape(4, 12, -1)[part, example] - start
    return [*(flat[name][part][mine].tolist() for name in (
        "input_ids", "token_type_ids", "position_ids")), masked.tolist()]

  for part in range(4):
    for example in range(12):
      assert tokens_of(packed, part, example) == tokens_of(padded, part, example)
  for name in ("masked_lm_ids", "masked_lm_weights", "next_sentence_labels",
               "next_sentence_weights"):
    np.testing.assert_array_equal(packed[name], padded[name])


def test_packing_changes_no_loss_and_no_gradient(make):
  config = modeling.BertConfig(
      vocab_size=vocabulary().size, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
      intermediate_size=32, max_position_embeddings=32, hidden_dropout_prob=0.0,
      attention_probs_dropout_prob=0.0)
  model = modeling.BertForPreTraining(config)
  packed, padded = packed_and_padded(make)
  assert len(packed["input_ids"]) < len(padded["input_ids"]) == 48
  params = init_params(model, padded)

  def loss(params, batch):
    return losses.pretraining_loss(params, batch, jax.random.key(0),
                                       losses.pretraining_weights(batch), model=model)[0]

  packed, padded = (jax.jit(jax.value_and_grad(loss))(params, batch)
                    for batch in (packed, padded))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), packed, padded)
