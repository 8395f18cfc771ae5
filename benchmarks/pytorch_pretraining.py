"""Pre-trains here and in HuggingFace PyTorch alike, and compares the losses step by step.

    python3 -m benchmarks.pytorch_pretraining --train_files 'wiki/*' --tokenizer DIR --steps 200

Same initial weights (ours, exported), batches (packed here), dropout 0, losses (HuggingFace's own
BertForPreTraining), AdamW (bias-corrected, eps 1e-6, decay 0.01 on all but LayerNorm and bias),
clipping and schedule. Prints both losses and their relative difference, and writes them to a
JSON file. Needs torch (requirements-dev.txt).
"""

import argparse
import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from benchmarks import pytorch_peer, steps
from benchmarks.data import open_examples
import checkpoint_utils
import losses
import modeling
import optimization
from pretraining import batches, corpus
import tokenization
import training


def our_run(model, params, inputs, schedule):
  """Returns the losses of all steps."""
  optimizer = steps.bert_optimizer()
  step = losses.make_pretraining_step(model, optimizer)
  state = training.replicate(training.create_state(params, optimizer, seed=0))
  values = []
  for i, batch in enumerate(inputs):
    state, sums = step(state, batch, np.float32(schedule(i)))
    values.append(float(sums["loss"][0]))
  return values


def their_run(config, params, inputs, schedule):
  """Returns the same in PyTorch, from the same weights, on the batches without leading axes."""
  twin = transformers.BertForPreTraining(pytorch_peer.bert_config(config))
  tensors = checkpoint_utils.to_huggingface(params, config.num_hidden_layers)
  missing, unexpected = twin.load_state_dict(
      {name: torch.tensor(value) for name, value in tensors.items()}, strict=False)
  assert not unexpected, unexpected
  assert all("decoder" in name for name in missing), missing  # tied to the embeddings
  optimizer = pytorch_peer.make_optimizer(twin, 1.0)
  step = pytorch_peer.make_step(twin, optimizer)
  values = []
  for i, batch in enumerate(inputs):
    for group in optimizer.param_groups:
      group["lr"] = float(schedule(i))
    values.append(step(pytorch_peer.pretraining_inputs(batch)))
  return values


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--train_files", required=True)
  parser.add_argument("--tokenizer", required=True)
  parser.add_argument("--size", choices=sorted(modeling.SIZES), default="bert-mini")
  parser.add_argument("--steps", type=int, default=200)
  parser.add_argument("--batch_size", type=int, default=16)
  parser.add_argument("--max_seq_length", type=int, default=128)
  parser.add_argument("--learning_rate", type=float, default=5e-4)
  parser.add_argument("--cache_dir", default="", help="of the tokenized text; blank: beside it")
  parser.add_argument("--output", default="pytorch_pretraining.json")
  args = parser.parse_args()
  jax.config.update("jax_default_matmul_precision", "float32")
  tokenizer = tokenization.load_tokenizer(args.tokenizer, None)
  reading = corpus.Reading("auto", "text", "en", "strict", args.cache_dir)
  text = corpus.open_corpus(args.train_files, "train_files", tokenizer, reading)
  examples = open_examples(text, tokenizer, args.max_seq_length, whole_words=False)
  phases = [batches.Phase(0, args.steps, args.batch_size, examples)]
  config = dataclasses.replace(
      modeling.SIZES[args.size], vocab_size=tokenizer.vocab_size,
      hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
  model = modeling.BertForPreTraining(config)
  params = jax.device_get(
      jax.jit(model.init)(jax.random.key(0), modeling.one_token())["params"])
  schedule = optimization.create_schedule("joined", args.learning_rate, args.steps,
                                          args.steps // 10)

  def inputs(*leading, pack):
    for t in range(args.steps):
      yield batches.pack_rows(batches.train_rows(phases, 0, t), *leading, pack=pack)

  ours = our_run(model, jax.tree.map(jnp.asarray, params),
                 inputs(jax.local_device_count(), 1, pack=True), schedule)
  theirs = their_run(config, params, inputs(pack=False), schedule)
  difference = np.abs(np.array(ours) / np.array(theirs) - 1)
  for t in sorted({0, 1, *range(9, args.steps, max(args.steps // 10, 1)), args.steps - 1}):
    print(f"step {t + 1:4d}  here {ours[t]:.6f}  PyTorch {theirs[t]:.6f}  "
          f"relative difference {difference[t]:.1e}")
  print(f"largest relative difference {difference.max():.1e}")
  pathlib.Path(args.output).write_text(json.dumps({
      "arguments": vars(args), "ours": ours, "pytorch": theirs,
      "largest_difference": float(difference.max())}, indent=2) + "\n")


if __name__ == "__main__":
  main()
