"""The train steps that the benchmarks time, as this project's scripts make them.

Needs jax, flax and optax only, so that it runs on a bare accelerator machine.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import modeling
import objectives
import training

SIZES = {"minilm": modeling.BertConfig(hidden_size=384, num_hidden_layers=6,
                                       num_attention_heads=12, intermediate_size=1536),
         **modeling.SIZES}
FIRST_WORD = 999  # below it bert-base-uncased's vocabulary has special and unused tokens


def random_batch(config: modeling.BertConfig, rows: int, length: int,
                 predictions: int) -> training.Batch:
  """Random pairs in full rows, for both objectives, without the leading axes of a device."""
  rng = np.random.default_rng(0)
  positions = np.argsort(rng.random((rows, length - 2)), axis=1)[:, :predictions] + 1
  positions += np.arange(rows)[:, None] * length
  words = rng.integers(min(FIRST_WORD, config.vocab_size - 1), config.vocab_size,
                       rows * (length + predictions)).astype(np.int32)
  return {
      "input_ids": words[:rows * length].reshape(rows, length),
      "token_type_ids": np.tile(np.arange(length) >= length // 2, (rows, 1)).astype(np.int32),
      "position_ids": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
      "sequence_ids": np.ones((rows, length), np.int32),
      "cls_positions": np.arange(rows, dtype=np.int32) * length,
      "labels": rng.integers(0, 2, rows).astype(np.int32),
      "weights": np.ones(rows, np.float32),
      "masked_lm_positions": positions.reshape(-1).astype(np.int32),
      "masked_lm_ids": words[rows * length:],
      "masked_lm_weights": np.ones(rows * predictions, np.float32),
      "next_sentence_labels": rng.integers(0, 2, rows).astype(np.int32),
      "next_sentence_weights": np.ones(rows, np.float32)}


def bert_optimizer() -> optax.GradientTransformation:
  """The scripts' AdamW at a constant rate."""
  return training.create_optimizer(
      "adamw", lambda step: jnp.float32(1e-5), b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01,
      max_grad_norm=1.0, bias_correction=True)


def make_step(model: nn.Module, batch: training.Batch, updates: int = 1) -> Callable[[], float]:
  """A call that updates a classifier or pre-trainer so many times, and returns the last loss."""
  optimizer = bert_optimizer()
  make = (objectives.make_pretraining_step if isinstance(model, modeling.BertForPreTraining)
          else objectives.make_classifier_step)
  step_fn = make(model, optimizer)
  params = jax.jit(model.init)(jax.random.key(0), batch)["params"]
  state = training.replicate(training.create_state(params, optimizer, seed=0))
  batch = jax.device_put({name: value[None, None] for name, value in batch.items()})

  def step() -> float:
    nonlocal state
    for _ in range(updates):
      state, sums = step_fn(state, batch)
    return float(sums["loss"][0])

  return step


def layers_flops(config: modeling.BertConfig, rows: int, length: int) -> float:
  """Floating-point operations of all layers' products, forward and backward, at full rows.

  6 for each weight and token, and 12 * length * hidden for a token's attention.
  """
  hidden = config.hidden_size
  weights = 4 * hidden**2 + 2 * hidden * config.intermediate_size
  return 1.0 * rows * length * config.num_hidden_layers * (6 * weights + 12 * length * hidden)


def head_flops(config: modeling.BertConfig, model: Any, rows: int, predictions: int) -> float:
  """The same for pooler and heads."""
  hidden = config.hidden_size
  flops = 6.0 * rows * hidden**2
  if isinstance(model, modeling.BertForPreTraining):
    flops += 6.0 * rows * predictions * (hidden**2 + hidden * config.vocab_size)
  return flops
