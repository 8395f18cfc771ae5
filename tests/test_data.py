"""Tokens, order and batches: what the original does, packed or not, every example once."""

import pathlib

from conftest import init_params, TOKENS, WORDS
import datasets
import jax
import numpy as np
import pytest

import data
import losses
import modeling
from support.errors import UserError
import tokenization
import training

# --- Tokens -----------------------------------------------------------------------------------


def ids(*words):
  return [WORDS.index(word) for word in words]


def tokenize(tokenizer, first, second=None, max_seq_length=32, labels=None):
  columns = {"first": first} | ({} if second is None else {"second": second})
  labels = np.zeros(len(first), np.int32) if labels is None else labels
  return data.tokenize(datasets.Dataset.from_dict(columns), labels, tokenizer, max_seq_length,
                       pathlib.Path(TOKENS))


def test_single_and_pair(tokenizer):
  single = tokenize(tokenizer, ["A Good film", ""])
  assert single.tokens.tolist() == [*ids("[CLS]", "a", "good", "film", "[SEP]"),
                                    *ids("[CLS]", "[SEP]")]
  assert single.first_lengths.tolist() == [5, 2]
  pair = tokenize(tokenizer, ["the film"], ["it is xyz"])
  assert pair.tokens.tolist() == ids("[CLS]", "the", "film", "[SEP]", "it", "is", "[UNK]", "[SEP]")
  assert pair.first_lengths.tolist() == [4]
  assert pair.lengths.tolist() == [8]


def test_truncation_is_the_original_pop(tokenizer):
  """Against the original's loop, for every small pair of lengths and budget."""

  def pop(a, b, budget):
    while a + b > budget:
      if a > b:
        a -= 1
      else:
        b -= 1
    return a, b

  for budget in range(1, 12):
    for a in range(14):
      for b in range(14):
        assert data.pair_lengths(a, b, budget) == pop(a, b, budget), (a, b, budget)
  pair = tokenize(tokenizer, ["a film is good bad"], ["it was"], max_seq_length=8)
  assert pair.tokens.tolist() == ids("[CLS]", "a", "film", "is", "[SEP]", "it", "was", "[SEP]")
  assert pair.truncated == 1
  single = tokenize(tokenizer, ["a film is good bad", "a film is"], max_seq_length=5)
  assert single.truncated == 1
  assert single.tokens.tolist() == 2 * ids("[CLS]", "a", "film", "is", "[SEP]")


def test_tokens_are_cached_by_text_tokenizer_and_length(vocab_dir, tokenizer, tmp_path,
                                                        monkeypatch):
  """A second run encodes nothing; another text, tokenizer or length does."""
  calls = []
  encode = tokenization.Tokenizer.encode
  monkeypatch.setattr(tokenization.Tokenizer, "encode",
                      lambda self, texts: calls.append(len(texts)) or encode(self, texts))

  def tokens(texts, tokenizer=tokenizer, max_seq_length=16, labels=(0, 1, 1)):
    texts = datasets.Dataset.from_dict({"first": texts})
    return data.tokenize(texts, np.asarray(labels), tokenizer, max_seq_length, tmp_path)

  texts = ["a film", "it was good", "the plot"]
  first = tokens(texts)
  again = tokens(texts, labels=(1, 0, 0))  # the labels are no part of it
  assert calls == [3]
  np.testing.assert_array_equal(again.tokens, first.tokens)
  np.testing.assert_array_equal(again.offsets, first.offsets)
  assert again.labels.tolist() == [1, 0, 0]
  tokens(["a film", "it was bad", "the plot"])
  tokens(texts, tokenization.load_tokenizer(str(vocab_dir), False))
  tokens(texts, max_seq_length=4)
  assert calls == [3, 3, 3, 3]
  assert len(list(tmp_path.glob("*.arrow"))) == 4


@pytest.mark.parametrize("fault", ["one bit", "cut", "empty", "never sealed"])
def test_damaged_tokens_are_made_again_and_said(tokenizer, tmp_path, capsys, fault):
  texts = datasets.Dataset.from_dict({"first": ["a film", "it was good", "the plot"]})

  def tokens():
    return data.tokenize(texts, np.zeros(3), tokenizer, 16, tmp_path).tokens.tolist()

  right = tokens()
  assert tokens() == right
  assert "made again" not in capsys.readouterr().out
  (file,) = tmp_path.glob("*.arrow")
  content = bytearray(file.read_bytes())
  if fault == "one bit":
    content[content.index(np.asarray(right[:4], np.int32).tobytes()) + 4] ^= 1
  file.write_bytes(content if fault == "one bit" else {"cut": content[:-40], "empty": b"",
                                                       "never sealed": content}[fault])
  if fault == "never sealed":
    file.with_name(f"{file.name}.crc32c").unlink()
  assert tokens() == right
  assert f"{file} is damaged or was never finished; it is made again" in capsys.readouterr().out


def test_many_chunks_and_a_selection_are_read_in_order(tokenizer, tmp_path, monkeypatch):
  """Arrow's list column comes in chunks; a selected data set has an order of its own."""
  monkeypatch.setattr(data, "_MAP_ROWS", 3)
  words = [" ".join(WORDS[5:6 + i % 7]) for i in range(20)]
  texts = datasets.Dataset.from_dict({"first": words, "second": words[::-1]}).select(
      range(19, -1, -1))
  split = data.tokenize(texts, np.zeros(20), tokenizer, 32, tmp_path)
  for i in range(20):
    pair = [tokenizer.encode([text])[0] for text in (words[19 - i], words[i])]
    expected = [*ids("[CLS]"), *pair[0], *ids("[SEP]"), *pair[1], *ids("[SEP]")]
    assert split.tokens[split.offsets[i]:split.offsets[i + 1]].tolist() == expected
    assert split.first_lengths[i] == len(pair[0]) + 2


# --- Order ------------------------------------------------------------------------------------


def test_batches_cut_up_epochs_that_are_permutations():
  stream = np.concatenate([data.batch_indices(7, t, 4, 10) for t in range(5)])
  assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10))
  assert (stream[:10] != stream[10:]).any()
  assert (data.batch_indices(8, 0, 4, 10) != stream[:4]).any()


def test_batch_t_needs_no_batch_before_it():
  in_turn = [data.batch_indices(1, t, 8, 100) for t in range(1000)]
  data._epoch.cache_clear()
  np.testing.assert_array_equal(data.batch_indices(1, 999, 8, 100), in_turn[999])


def test_batches_are_the_stateless_shuffle():
  stream = np.concatenate([data.batch_indices(3, t, 7, 25) for t in range(20)])
  np.testing.assert_array_equal(stream, data.shuffled(np.arange(140), 25, 3))


def test_a_batch_may_be_larger_than_the_data():
  indices = data.batch_indices(0, 0, 10, 3)
  assert sorted(indices[:9]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


# --- Packing ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def examples(tokenizer):
  """37 examples of 3 to 15 tokens, labelled by their number."""
  rng = np.random.default_rng(0)
  texts = [" ".join(rng.choice(WORDS[5:20], rng.integers(1, 14))) for _ in range(37)]
  return tokenize(tokenizer, texts, labels=np.arange(37, dtype=np.int32))


def test_first_fit_never_overlaps_and_wastes_little():
  lengths = np.random.default_rng(0).integers(0, 33, 200)
  rows, columns, ranks = data.first_fit(lengths, 32)
  grid = np.zeros((rows.max() + 1, 32), int)
  for row, column, length in zip(rows, columns, lengths, strict=True):
    grid[row, column:column + length] += 1
  assert grid.max() == 1
  assert len(grid) <= 1.2 * lengths.sum() / 32
  for row in range(len(grid)):
    assert sorted(ranks[rows == row]) == list(range(1, (rows == row).sum() + 1))


@pytest.mark.parametrize("rows,expected", [
    (1, 1), (7, 7), (8, 8), (9, 10), (13, 14), (16, 16), (17, 20), (33, 40), (100, 112)])
def test_row_ladder(rows, expected):
  assert data.rounded_rows(rows) == expected


def test_row_length():
  assert [data.row_length(n, 128) for n in (3, 64, 65, 128)] == [64, 64, 128, 128]
  assert data.row_length(3, 20) == 20


@pytest.mark.parametrize("pack", [True, False])
def test_a_batch_holds_its_examples(examples, pack):
  indices = np.asarray([[[3, 0, 5], [1, 2, 4]], [[36, 7, -1], [-1, -1, -1]]])
  batch = data.make_batch(examples, indices, 16, pack)
  for device, micro, slot in np.ndindex(indices.shape):
    index = indices[device, micro, slot]
    start = batch["cls_positions"][device, micro, slot]
    flat = {name: batch[name][device, micro].reshape(-1)[start:] for name in (
        "input_ids", "position_ids", "sequence_ids", "token_type_ids")}
    assert batch["weights"][device, micro, slot] == (index >= 0)
    if index >= 0:
      expected = examples.tokens[examples.offsets[index]:examples.offsets[index + 1]]
      np.testing.assert_array_equal(flat["input_ids"][:len(expected)], expected)
      np.testing.assert_array_equal(flat["position_ids"][:len(expected)], np.arange(len(expected)))
      assert len(set(flat["sequence_ids"][:len(expected)])) == 1
      assert batch["labels"][device, micro, slot] == index
  assert (batch["sequence_ids"] > 0).sum() == examples.lengths[indices[indices >= 0]].sum()
  assert batch["sequence_ids"].max(axis=-1).sum() == (indices >= 0).sum()
  assert all(value.dtype == np.int32 for name, value in batch.items() if name != "weights")


def test_packing_changes_no_loss_and_no_gradient(examples, tiny_config):
  model = modeling.BertForSequenceClassification(tiny_config, 40)
  indices = np.arange(12)
  packed = data.make_batch(examples, indices, 32, True)
  padded = data.make_batch(examples, indices, 32, False)
  assert len(packed["input_ids"]) < len(padded["input_ids"]) == 12
  params = init_params(model, padded)

  def loss(params, batch):
    logits = model.apply({"params": params}, batch)
    return losses.example_losses(logits, batch["labels"]).mean()

  for a, b in zip(*(jax.tree.leaves(jax.jit(jax.value_and_grad(loss))(params, batch))
                    for batch in (packed, padded)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


# --- Batches ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, 8, 9])
@pytest.mark.parametrize("pack", [True, False])
def test_evaluation_scores_every_example_once_and_in_order(tokenizer, count, pack):
  words = [" ".join(["film"] * (1 + i % 5)) for i in range(count)]
  examples = tokenize(tokenizer, words, labels=np.arange(count, dtype=np.int32))
  batches = data.ordered_batches(examples, batch_size=8, devices=4, length=32, pack=pack)
  outputs = training.collect_outputs(
      lambda _, batch: np.stack([batch["labels"], batch["labels"]], -1), {}, batches)
  np.testing.assert_array_equal(outputs, np.stack([np.arange(count)] * 2, -1))


def test_train_batches_have_devices_and_micro_batches(examples):
  batches = list(data.shuffled_batches(examples, seed=0, first_step=2, num_steps=4, batch_size=8,
                                    devices=2, micro_batches=2, length=16, pack=True))
  assert len(batches) == 2
  assert batches[0]["labels"].shape == (2, 2, 2)
  np.testing.assert_array_equal(batches[0]["labels"].reshape(-1),
                                data.batch_indices(0, 2, 8, len(examples)))


def test_prefetch_keeps_order_stops_early_and_passes_errors_on():
  assert list(data.prefetch(range(10))) == list(range(10))
  assert next(data.prefetch(iter(range(10**9)))) == 0

  def broken():
    yield 1
    raise UserError("bad row")

  with pytest.raises(UserError, match="bad row"):
    list(data.prefetch(broken()))
