"""Times a pre-training step here and in HuggingFace PyTorch, eager and compiled.

    python3 -m benchmarks.pretrain --sizes=minilm,bert-base --output=benchmarks/pretrain.json

Full rows of 128 tokens, 20 predictions a row, next-sentence labels, dropout 0.1, float32, AdamW
with clipping: the whole update, on the same batch of random tokens, with BertForPreTraining as
the peer. Needs torch.
"""

import argparse
from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import numpy as np
import torch
import transformers

from benchmarks import compare, pytorch_peer, steps
import modeling
from support import devices
import training


def their_step(config: modeling.BertConfig, batch: training.Batch,
               compiled: bool) -> Callable[[], Any]:
  """Returns a call that makes the same update in PyTorch."""
  model = transformers.BertForPreTraining(pytorch_peer.bert_config(config))
  step = pytorch_peer.make_step(model, pytorch_peer.make_optimizer(model, 1e-4), compiled)
  inputs = pytorch_peer.pretraining_inputs(batch)
  return lambda: step(inputs)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--sizes", default="minilm,bert-base", help=f"of {', '.join(steps.SIZES)}")
  parser.add_argument("--rows", type=int, default=32)
  parser.add_argument("--max_seq_length", type=int, default=128)
  parser.add_argument("--predictions", type=int, default=20)
  parser.add_argument("--dropout", type=float, default=0.1)
  parser.add_argument("--rounds", type=int, default=7)
  parser.add_argument("--no_compile", action="store_true", help="leave torch.compile out")
  parser.add_argument("--output", default="", help="the JSON file")
  args = parser.parse_args()
  devices.keep_freed_memory()
  jax.config.update("jax_default_matmul_precision", "float32")
  torch.manual_seed(0)
  table = []
  for size in args.sizes.split(","):
    config = dataclasses.replace(steps.SIZES[size], hidden_dropout_prob=args.dropout,
                                 attention_probs_dropout_prob=args.dropout)
    batch = steps.random_batch(config, args.rows, args.max_seq_length, args.predictions)
    contestants = {"here": steps.make_step(modeling.BertForPreTraining(config), batch),
                   "PyTorch": their_step(config, batch, compiled=False)}
    if not args.no_compile:
      contestants["PyTorch compiled"] = their_step(config, batch, compiled=True)
    seconds = compare.alternate(contestants, args.rounds)
    for name, times in seconds.items():
      table.append({"size": size, "rows": args.rows, "length": args.max_seq_length, "of": name,
                    "seconds a step": float(np.median(times)),
                    "times as long as here": compare.ratio(times, seconds["here"]),
                    "all": times})
  compare.report(table, args.output, dropout=args.dropout)


if __name__ == "__main__":
  main()
