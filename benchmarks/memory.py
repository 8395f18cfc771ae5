"""Prints how much memory a train step needs, by size, length, batch and the knobs that save some.

    python3 -m benchmarks.memory [--rows=0,1,2]

A row is a train step that is not run. "state" is its parameters, gradients and AdamW's two moments;
"kept" is what JAX keeps of the forward pass for the backward pass, before XLA fuses anything;
"compiled" is the compiler's own figure of the whole step on the device that JAX has here. XLA's CPU
compiler merges what `remat` computes again with what it computed first, so that only "kept" shows
what `remat` saves on a GPU or TPU.
"""

import argparse
from collections.abc import Callable
import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import steps
import losses
import modeling
import training


@dataclasses.dataclass(frozen=True)
class Case:
  """A train step: what is trained, on how many sequences of how many tokens, and how."""

  objective: str  # "fine-tuning" or "pre-training"
  size: str
  length: int
  batch: int
  micro_batches: int = 1
  remat: bool = False
  dtype: str = "float32"


CASES = (
    Case("fine-tuning", "bert-base", 128, 32), Case("fine-tuning", "bert-base", 128, 32, 4),
    Case("fine-tuning", "bert-base", 512, 32), Case("fine-tuning", "bert-large", 128, 32),
    Case("fine-tuning", "bert-large", 512, 32), Case("fine-tuning", "bert-large", 512, 32, 8),
    Case("pre-training", "bert-base", 128, 256), Case("pre-training", "bert-base", 128, 256,
                                                      remat=True),
    Case("pre-training", "bert-base", 512, 256), Case("pre-training", "bert-base", 512, 256,
                                                      remat=True),
    Case("pre-training", "bert-large", 128, 256, remat=True))


def model_and_batch(case: Case, config: modeling.BertConfig) -> tuple[nn.Module, training.Batch]:
  """Returns a case's model and one of its micro-batches."""
  dtype = jnp.dtype(case.dtype)
  model = (modeling.BertForPreTraining(config, dtype, case.remat)
           if case.objective == "pre-training" else
           modeling.BertForSequenceClassification(config, 2, dtype, case.remat))
  predictions = math.ceil(0.15 * case.length)
  return model, steps.random_batch(config, case.batch // case.micro_batches, case.length,
                                   predictions)


def state_gigabytes(case: Case, config: modeling.BertConfig) -> float:
  """Returns the size of the parameters, their gradients and two moments, in 10^9 bytes."""
  model, _ = model_and_batch(case, config)
  return 16e-9 * sum(math.prod(x.shape) for x in jax.tree.leaves(modeling.parameter_shapes(model)))


def kept_gigabytes(case: Case, config: modeling.BertConfig) -> float:
  """Returns the size of what the backward pass of a micro-batch is given, in 10^9 bytes."""
  model, batch = model_and_batch(case, config)
  pretraining = case.objective == "pre-training"
  loss_fn = losses.pretraining_loss if pretraining else losses.classifier_loss
  weigh = losses.pretraining_weights if pretraining else losses.classifier_weights

  def backward(params: training.Params) -> Callable[..., Any]:
    return jax.vjp(lambda p: loss_fn(p, batch, jax.random.key(1), weigh(batch), model=model)[0],
                   params)[1]

  params = modeling.parameter_shapes(model)
  weights = {x.shape for x in jax.tree.leaves(params)}  # these are kept anyway
  kept = jax.tree.leaves(jax.eval_shape(backward, params))
  return 1e-9 * sum(math.prod(x.shape) * x.dtype.itemsize for x in kept if x.shape not in weights)


def step_gigabytes(case: Case, config: modeling.BertConfig) -> float:
  """Compiles a step for one device and returns its peak memory in 10^9 bytes."""
  model, micro_batch = model_and_batch(case, config)
  batch = {name: jax.ShapeDtypeStruct((1, case.micro_batches, *value.shape), value.dtype)
           for name, value in micro_batch.items()}
  optimizer = steps.bert_optimizer()

  def state() -> training.TrainState:
    params = model.init(jax.random.key(0), micro_batch)["params"]
    return training.create_state(params, optimizer, seed=0)

  lowered = steps.train_step_of(model, optimizer).lower(
      jax.eval_shape(state), batch, np.float32(1e-5))
  return steps.held_gigabytes(lowered.compile())


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rows", default="", help="numbers of the rows to print; blank: all")
  parser.add_argument("--no_compile", action="store_true", help="leave out the compiled step")
  args = parser.parse_args()
  numbers = map(int, args.rows.split(",")) if args.rows else range(len(CASES))
  names = [field.name.replace("_", " ") for field in dataclasses.fields(Case)]
  names += ["state, GB", "kept, GB", f"compiled ({jax.default_backend()}), GB"]
  print(f"| {' | '.join(names)} |\n{'|---' * len(names)}|")
  for case in map(CASES.__getitem__, numbers):
    config = steps.SIZES[case.size]
    figures = [state_gigabytes(case, config), kept_gigabytes(case, config)]
    figures += [] if args.no_compile else [step_gigabytes(case, config)]
    cells = [*map(str, dataclasses.astuple(case)), *(f"{figure:.1f}" for figure in figures)]
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
  main()
