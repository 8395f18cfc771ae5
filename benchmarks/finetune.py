"""Times the fine-tuning of a GLUE task here and in HuggingFace PyTorch, with one recipe.

    python3 -m benchmarks.finetune --model=demo/minilm --glue_data=DIR --tasks=cola,mrpc \\
        --output=benchmarks/finetune.json

The recipe is run_classifier.py's default: batch 32, 3 epochs, length 128, learning rate 5e-5,
dropout 0.1, AdamW with clipping, float32. The peers see the same examples in the same batches,
padded to the longest of each batch ("longest") or to 128 (run_glue.py's default, "128"). They
run in the same process, so the C library keeps their freed memory too, which it does not do by
default. All train by turns, --chunk steps at a time, so that a machine whose speed drifts slows
all of them. Compilation is not timed. --share=0.1 times every tenth chunk and scales the seconds
to the whole run (the time does not depend on the weights). Needs torch.
"""

import argparse
from collections.abc import Callable
import dataclasses
import pathlib
import tempfile
import time
from typing import Any

import datasets
import jax
import numpy as np
import transformers

from benchmarks import compare, pytorch_peer, steps
from benchmarks.pytorch_glue import TASKS
import checkpoint_utils
import data
import losses
import modeling
import optimization
from support import devices
import tokenization
import training

BATCH_SIZE = 32
EPOCHS = 3
LENGTH = 128
LEARNING_RATE = 5e-5


def our_step(model_dir: str, examples: data.TokenizedSplit,
             dropout: float) -> tuple[Callable[[int], float], list[int]]:
  """Returns a call that makes update t, and one t for every shape of batch."""
  checkpoint = checkpoint_utils.find_checkpoint(model_dir)
  config = dataclasses.replace(checkpoint.config, hidden_dropout_prob=dropout,
                               attention_probs_dropout_prob=dropout)
  model = modeling.BertForSequenceClassification(config, 2)
  params = jax.jit(model.init)(jax.random.key(0), modeling.one_token())["params"]
  params, _ = checkpoint_utils.load_params(checkpoint, params, reinitialize=("classifier/",))
  schedule = optimization.create_schedule("joined", LEARNING_RATE, *optimization.training_steps(
      len(examples), BATCH_SIZE, EPOCHS, 0.1))
  optimizer = steps.bert_optimizer()
  step_fn = losses.make_classifier_step(model, optimizer)
  state = training.replicate(training.create_state(params, optimizer, seed=0), devices=1)
  length = data.row_length(int(examples.lengths.max()), LENGTH)

  def batch(t: int) -> data.Batch:
    return next(data.shuffled_batches(
        examples, seed=0, first_step=t, num_steps=t + 1, batch_size=BATCH_SIZE, devices=1,
        micro_batches=1, length=length, pack=True))

  def step(t: int) -> float:
    nonlocal state
    state, sums = step_fn(state, batch(t), np.float32(schedule(t)))
    return float(sums["loss"][0])

  total = optimization.training_steps(len(examples), BATCH_SIZE, EPOCHS, 0)[0]
  rows = {batch(t)["input_ids"].shape: t for t in range(total)}
  return step, list(rows.values())


def their_step(model_dir: str, examples: data.TokenizedSplit, dropout: float,
               length: int | None) -> Callable[[int], float]:
  """Returns the same call in PyTorch, padded to `length` (None: to each batch's longest)."""
  model = transformers.AutoModelForSequenceClassification.from_pretrained(
      model_dir, num_labels=2, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
  update = pytorch_peer.make_step(model, pytorch_peer.make_optimizer(model, LEARNING_RATE))

  def step(t: int) -> float:
    indices = data.batch_indices(0, t, BATCH_SIZE, len(examples))
    width = length or int(examples.lengths[indices].max())
    return update(pytorch_peer.classifier_inputs(
        data.make_batch(examples, indices, width, pack=False)))

  return step


def train_by_turns(contestants: dict[str, Callable[[int], float]],
                   chunks: list[range]) -> dict[str, list[float]]:
  """Returns the seconds of every contestant for every chunk of steps."""
  seconds: dict[str, list[float]] = {name: [] for name in contestants}
  for i, chunk in enumerate(chunks):
    for name, step in list(contestants.items())[::-1 if i % 2 else 1]:
      start = time.perf_counter()
      for t in chunk:
        step(t)
      seconds[name].append(time.perf_counter() - start)
  return seconds


def measure(task: str, args: argparse.Namespace) -> list[dict[str, Any]]:
  """Returns the table's rows of one task."""
  tokenizer = tokenization.load_tokenizer(args.model, None)
  folder, read = TASKS[task]
  first, second, labels = read(pathlib.Path(args.glue_data, folder, "train.tsv"))
  texts = datasets.Dataset.from_dict({"first": first} | ({"second": second} if second else {}))
  with tempfile.TemporaryDirectory() as cache:
    examples = data.tokenize(texts, np.asarray(labels, np.int32), tokenizer, LENGTH,
                             pathlib.Path(cache))
  total, _ = optimization.training_steps(len(examples), BATCH_SIZE, EPOCHS, 0)
  ours, one_of_each_shape = our_step(args.model, examples, args.dropout)
  contestants = {"here": ours}
  for padding in args.peers.split(","):
    contestants[f"PyTorch, padded to {padding}"] = their_step(
        args.model, examples, args.dropout, None if padding == "longest" else int(padding))
  for t in one_of_each_shape:
    ours(t)
  for step in contestants.values():
    step(0)
  all_chunks = [range(t, min(t + args.chunk, total)) for t in range(0, total, args.chunk)]
  chunks = all_chunks[::max(round(1 / args.share), 1)]
  timed = sum(map(len, chunks))
  rows = []
  for name, times in train_by_turns(contestants, chunks).items():
    whole = sum(times) * total / timed
    rows.append({"task": task, "of": name, "steps": total, "timed": timed,
                 "seconds of training": whole,
                 "real tokens/s": EPOCHS * int(examples.lengths.sum()) / whole, "all": times})
  return [row | {"times as long as here": sum(row["all"]) / sum(rows[0]["all"])} for row in rows]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--model", required=True)
  parser.add_argument("--glue_data", required=True)
  parser.add_argument("--tasks", default="cola,mrpc")
  parser.add_argument("--peers", default="longest,128", help="how the peers pad")
  parser.add_argument("--dropout", type=float, default=0.1)
  parser.add_argument("--chunk", type=int, default=4)
  parser.add_argument("--share", type=float, default=1.0, help="timed share of the run")
  parser.add_argument("--output", default="", help="the JSON file")
  args = parser.parse_args()
  devices.keep_freed_memory()
  jax.config.update("jax_default_matmul_precision", "float32")
  transformers.set_seed(0)
  transformers.logging.set_verbosity_error()  # it would warn of the new head
  transformers.logging.disable_progress_bar()
  rows = [row for task in args.tasks.split(",") for row in measure(task, args)]
  compare.report(rows, args.output, share=args.share)


if __name__ == "__main__":
  main()
