"""The train steps of this project's scripts, for the benchmarks to time.

Needs only jax, flax and optax, so that it runs on a bare accelerator machine.
"""

from collections.abc import Callable
import time
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

import losses
import modeling
import optimization
import training

SIZES = {"minilm": modeling.BertConfig(hidden_size=384, num_hidden_layers=6,
                                       num_attention_heads=12, intermediate_size=1536),
         **modeling.SIZES}
FIRST_WORD = 999  # bert-base-uncased's ids below it are special and unused tokens


def random_batch(config: modeling.BertConfig, rows: int, length: int,
                 predictions: int) -> training.Batch:
  """Makes random pairs in full rows, for both objectives, without leading axes."""
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


def bert_optimizer() -> optax.GradientTransformationExtraArgs:
  """Returns the scripts' AdamW."""
  return optimization.create_optimizer(
      "adamw", b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01, max_grad_norm=1.0,
      bias_correction=True)


class CompiledStep(NamedTuple):
  """A train step and the compiler's figures of it."""

  update: Callable[[], float]  # makes the updates, returns the last one's loss
  compile_seconds: float
  gigabytes: float  # peak memory, with parameters and optimizer


def train_step_of(model: nn.Module, optimizer: optax.GradientTransformationExtraArgs
                  ) -> training.TrainStep:
  """Returns the pmapped step of a classifier or pre-trainer."""
  make = (losses.make_pretraining_step if isinstance(model, modeling.BertForPreTraining)
          else losses.make_classifier_step)
  return make(model, optimizer)


def held_gigabytes(compiled: jax.stages.Compiled) -> float:
  """Returns the peak memory of a compiled program, arguments and results included."""
  memory = compiled.memory_analysis()
  return (memory.argument_size_in_bytes + memory.output_size_in_bytes
          - memory.alias_size_in_bytes + memory.temp_size_in_bytes) / 1e9


def compile_step(model: nn.Module, batch: training.Batch, updates: int = 1) -> CompiledStep:
  """Compiles the step of a classifier or pre-trainer for one device, `updates` in a call."""
  optimizer, rate = bert_optimizer(), np.float32(1e-5)
  params = jax.jit(model.init)(jax.random.key(0), batch)["params"]
  state = training.replicate(training.create_state(params, optimizer, seed=0), devices=1)
  arrays = training.place({name: value[None, None] for name, value in batch.items()}).arrays
  lowered = train_step_of(model, optimizer).lower(state, arrays, rate)
  start = time.perf_counter()
  step_fn = lowered.compile()
  seconds = time.perf_counter() - start

  def update() -> float:
    nonlocal state
    for _ in range(updates):
      state, sums = step_fn(state, arrays, rate)
    return float(sums["loss"][0])

  return CompiledStep(update, seconds, held_gigabytes(step_fn))


def make_step(model: nn.Module, batch: training.Batch, updates: int = 1) -> Callable[[], float]:
  """Returns a call that makes `updates` updates of a model and returns the last loss."""
  return compile_step(model, batch, updates).update


def step_flops(model: nn.Module, rows: int, length: int, predictions: int) -> float:
  """Counts the floating-point operations of a step's products on full rows.

  In the last layer only the tokens that a head reads go on after attention.
  """
  config, hidden = model.config, model.config.hidden_size
  read = rows
  flops = layers_flops(config, rows, length) + 6.0 * rows * hidden**2  # and the pooler
  if isinstance(model, modeling.BertForPreTraining):
    read += rows * predictions
    flops += 6.0 * rows * predictions * (hidden**2 + hidden * config.vocab_size)
  after_attention = hidden**2 + 2 * hidden * config.intermediate_size
  return flops - 6.0 * after_attention * (rows * length - read)


def layers_flops(config: modeling.BertConfig, rows: int, length: int) -> float:
  """Counts the floating-point operations of all layers' products, forward and backward.

  6 for each weight and token, and 12 * length * hidden for each token's attention.
  """
  hidden = config.hidden_size
  weights = 4 * hidden**2 + 2 * hidden * config.intermediate_size
  return 1.0 * rows * length * config.num_hidden_layers * (6 * weights + 12 * length * hidden)
