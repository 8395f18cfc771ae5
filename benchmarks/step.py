"""Compares the speed of a train step with the machine's matrix products, on given shapes.

    python3 -m benchmarks.step --shapes=32x128,3x128,8x512 --output=benchmarks/step.json

Times by turns: the gradient of the encoder's layers alone (no embeddings, head or optimizer),
with dropout; the whole fine-tuning step, one example in a row; and bare matrix products of three
sizes, the fastest of which is the machine's rate. `steps.layers_flops` counts a layer's arithmetic.
"""

import argparse
from collections.abc import Callable
import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import compare, steps
import modeling
from support import devices

PRODUCTS = ((4096, 384, 1536), (4096, 768, 3072), (2048, 2048, 2048))


class Layers(nn.Module):
  """The encoder without embeddings and pooler."""

  config: modeling.BertConfig

  @nn.compact
  def __call__(self, x: jax.Array, sequence_ids: jax.Array) -> jax.Array:
    """Takes and returns [b, s, h]."""
    bias = modeling.attention_bias_from(sequence_ids)
    for i in range(self.config.num_hidden_layers):
      x = modeling.BertLayer(self.config, name=f"layer_{i}")(x, bias, False)
    return x


def layers_gradient(config: modeling.BertConfig, rows: int, length: int) -> Callable[[], Any]:
  """Returns a call that computes the gradients of all layers' weights and of their input."""
  model = Layers(config)
  x = jax.random.normal(jax.random.key(0), (rows, length, config.hidden_size))
  ids = jnp.ones((rows, length), jnp.int32)
  keys = {"params": jax.random.key(1), "dropout": jax.random.key(2)}
  params = jax.jit(model.init)(keys, x, ids)

  @jax.jit
  def gradient(params: Any, x: jax.Array, step: int) -> Any:
    key = jax.random.fold_in(jax.random.key(3), step)

    def loss(params: Any, x: jax.Array) -> jax.Array:
      return jnp.sum(jnp.square(model.apply(params, x, ids, rngs={"dropout": key})))
    return jax.grad(loss, argnums=(0, 1))(params, x)

  return lambda: jax.block_until_ready(gradient(params, x, 0))


def product(rows: int, inner: int, columns: int) -> Callable[[], Any]:
  """Returns a call that multiplies two matrices."""
  a, b = jnp.ones((rows, inner)), jnp.ones((inner, columns))
  multiply = jax.jit(jnp.matmul)
  return lambda: multiply(a, b).block_until_ready()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--size", choices=sorted(steps.SIZES), default="minilm")
  parser.add_argument("--shapes", default="32x128,3x128", help="rows x length, comma-separated")
  parser.add_argument("--dropout", type=float, default=0.1)
  parser.add_argument("--rounds", type=int, default=9)
  parser.add_argument("--output", default="", help="the JSON file")
  args = parser.parse_args()
  devices.keep_freed_memory()
  jax.config.update("jax_default_matmul_precision", "float32")
  config = dataclasses.replace(steps.SIZES[args.size], hidden_dropout_prob=args.dropout,
                               attention_probs_dropout_prob=args.dropout)
  table = []
  for shape in args.shapes.split(","):
    rows, length = map(int, shape.split("x"))
    products = {f"{m} x {k} x {n}": product(m, k, n) for m, k, n in PRODUCTS}
    step = steps.make_step(modeling.BertForSequenceClassification(config, 2),
                           steps.random_batch(config, rows, length, 1))
    seconds = compare.alternate({"layers": layers_gradient(config, rows, length), "step": step,
                                 **products}, args.rounds)
    flops = {f"{m} x {k} x {n}": 2.0 * m * k * n for m, k, n in PRODUCTS}
    best = np.max([flops[name] / np.asarray(seconds[name]) for name in products], axis=0)
    rate = steps.layers_flops(config, rows, length) / np.asarray(seconds["layers"])
    table.append({"size": args.size, "shape": shape,
                  "layers ms": 1e3 * float(np.median(seconds["layers"])),
                  "whole step ms": 1e3 * float(np.median(seconds["step"])),
                  "layers GFLOP/s": float(np.median(rate)) / 1e9,
                  "best product GFLOP/s": float(np.median(best)) / 1e9,
                  "share": float(np.median(rate / best)), "all": list(seconds.values())})
  compare.report(table, args.output, dropout=args.dropout)


if __name__ == "__main__":
  main()
