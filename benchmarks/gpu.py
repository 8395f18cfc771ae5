"""Times BERT-base and BERT-large on a GPU, beside HuggingFace PyTorch (SDPA, torch.compile).

    python3 -m benchmarks.gpu --output=benchmarks/gpu.json

Pre-training and fine-tuning steps at lengths 128 and 512: bfloat16 products, float32 parameters,
dropout 0.1, AdamW with clipping, --config.deterministic=False. Rows are full: no padding. Only
operations that really run are counted (steps.py). Prints for each case, timed by turns: sequences
a second here and in PyTorch, the share of the peak of dense bfloat16 products (the datasheet's
and the measured one), the compiler's figures of memory and compilation, and the error of bfloat16
against float32. Needs jax, flax and optax, and torch and transformers for the peer. On a CPU a
small form runs, as a test.
"""

import os

from support import devices

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs room beside it

import argparse
from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import compare, steps
import losses
import modeling
import training

# Dense bfloat16 FLOP/s on the datasheets; the first name that fits.
DATASHEETS = {"H200 NVL": 835e12, "H200": 989e12, "H100 NVL": 835e12, "H100 PCIe": 756e12,
              "H100": 989e12, "A100": 312e12}
# (size, length) -> rows, as many as fit into 80 GB beside the peer
CASES = {("bert-base", 128): 256, ("bert-base", 512): 64,
         ("bert-large", 128): 128, ("bert-large", 512): 32}
SMALL_CASES = {("bert-tiny", 32): 4}
LOSSES = {"pretraining": (losses.pretraining_loss, losses.pretraining_weights),
          "classifier": (losses.classifier_loss, losses.classifier_weights)}
OBJECTIVES = tuple(LOSSES)


def make_model(objective: str, config: modeling.BertConfig, dtype: Any) -> Any:
  """Returns this project's model of an objective."""
  if objective == "pretraining":
    return modeling.BertForPreTraining(config, dtype)
  return modeling.BertForSequenceClassification(config, 2, dtype)


def matrix_product(size: int, dtype: Any) -> Callable[[], Any]:
  """Returns a call that makes ten products of square matrices."""
  a = jax.random.normal(jax.random.key(0), (size, size), dtype)  # ones would draw less power

  @jax.jit
  def multiply(a: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, 10, lambda _, b: (a @ b) * jnp.asarray(size**-0.5, dtype), a)
  return lambda: multiply(a).block_until_ready()


def their_step(objective: str, config: modeling.BertConfig, batch: training.Batch,
               updates: int) -> Callable[[], Any]:
  """Returns a call that makes the same updates in PyTorch."""
  import torch  # here: optional
  import transformers

  from benchmarks import pytorch_peer

  device = "cuda" if torch.cuda.is_available() else "cpu"
  torch.set_float32_matmul_precision("high")
  torch._dynamo.reset()  # else a second length is compiled for all lengths
  settings = pytorch_peer.bert_config(config)
  settings._attn_implementation = "sdpa"
  if objective == "pretraining":
    model, inputs = (transformers.BertForPreTraining(settings),
                     pytorch_peer.pretraining_inputs(batch))
  else:
    model, inputs = (transformers.BertForSequenceClassification(settings),
                     pytorch_peer.classifier_inputs(batch))
  model.to(device)
  step = pytorch_peer.make_step(model, pytorch_peer.make_optimizer(model, 1e-5), compiled=True,
                                updates=updates, autocast=torch.bfloat16)
  inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
  return lambda: step(inputs)


def distance(objective: str, config: modeling.BertConfig,
             batch: training.Batch) -> tuple[float, float]:
  """Returns bfloat16's relative errors of loss and gradient against float32, without dropout.

  The gradient's error is the norm of the difference over the norm.
  """
  config = dataclasses.replace(config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
  loss_fn, weigh = LOSSES[objective]
  params = jax.jit(make_model(objective, config, jnp.float32).init)(
      jax.random.key(0), batch)["params"]
  results = []
  for dtype in (jnp.float32, jnp.bfloat16):
    model = make_model(objective, config, dtype)

    def loss(params: Any, model: Any = model) -> jax.Array:
      return loss_fn(params, batch, jax.random.key(1), weigh(batch), model=model)[0]
    results.append(jax.device_get(jax.jit(jax.value_and_grad(loss))(params)))
  (exact, exact_gradient), (rounded, rounded_gradient) = results
  difference = jax.tree.map(np.subtract, exact_gradient, rounded_gradient)
  norm = [np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in jax.tree.leaves(tree)))
          for tree in (difference, exact_gradient)]
  return abs(float(rounded / exact) - 1), float(norm[0] / norm[1])


def measure(objective: str, size: str, length: int, rows: int,
            args: argparse.Namespace) -> dict[str, Any]:
  """Returns a row of the table."""
  config = dataclasses.replace(modeling.SIZES[size], hidden_dropout_prob=args.dropout,
                               attention_probs_dropout_prob=args.dropout)
  predictions = max(round(0.15 * length), 1)
  batch = steps.random_batch(config, rows, length, predictions)
  model = make_model(objective, config, jnp.bfloat16)
  ours = steps.compile_step(model, batch, args.updates)
  dimension, operations = (8192, jnp.bfloat16) if args.gpu else (256, jnp.float32)
  contestants = {"here": ours.update, "products": matrix_product(dimension, operations)}
  if args.peer:
    contestants["PyTorch"] = their_step(objective, config, batch, args.updates)
  seconds = compare.alternate(contestants, args.rounds)
  here = np.asarray(seconds["here"]) / args.updates
  flops = steps.step_flops(model, rows, length, predictions)
  peak = 20.0 * dimension**3 / np.asarray(seconds["products"])
  loss_error, gradient_error = distance(objective, config, batch)
  row = {"objective": objective, "size": size, "length": length, "rows": rows,
         "sequences/s": rows / float(np.median(here)),
         "TFLOP/s": flops / float(np.median(here)) / 1e12,
         "of the datasheet": (flops / float(np.median(here)) / args.datasheet
                              if args.datasheet else None),
         "of measured products": float(np.median(flops / here / peak)),
         "GB": ours.gigabytes, "compile s": ours.compile_seconds,
         "bf16 loss error": loss_error, "bf16 gradient error": gradient_error,
         "all": seconds["here"]}
  if args.peer:
    row |= {"PyTorch sequences/s": rows * args.updates / float(np.median(seconds["PyTorch"])),
            "PyTorch takes, times": compare.ratio(seconds["PyTorch"], seconds["here"]),
            "all PyTorch": seconds["PyTorch"]}
  return row


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--dropout", type=float, default=0.1)
  parser.add_argument("--rounds", type=int, default=7)
  parser.add_argument("--updates", type=int, default=5, help="per timed call")
  parser.add_argument("--objectives", default=",".join(OBJECTIVES))
  parser.add_argument("--sizes", default="", help="comma-separated sizes to time; blank: all")
  parser.add_argument("--no_peer", dest="peer", action="store_false", help="leave PyTorch out")
  parser.add_argument("--output", default="", help="the JSON file")
  args = parser.parse_args()
  devices.keep_freed_memory()
  jax.config.update("jax_default_matmul_precision", "float32")
  device = jax.local_devices()[0]
  args.gpu = device.platform == "gpu"
  args.datasheet = next((peak for name, peak in DATASHEETS.items() if name in device.device_kind),
                        None)
  cases = CASES if args.gpu else SMALL_CASES
  table = [measure(objective, size, length, rows, args) for (size, length), rows in cases.items()
           if not args.sizes or size in args.sizes.split(",")
           for objective in args.objectives.split(",")]
  compare.report(table, args.output, device=device.device_kind, dropout=args.dropout)


if __name__ == "__main__":
  main()
