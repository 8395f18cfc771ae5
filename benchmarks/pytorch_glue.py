"""Fine-tunes the peer, HuggingFace's BERT on PyTorch, with the recipe of run_classifier.py.

    python3 -m benchmarks.pytorch_glue --model DIR --glue_data DIR --task cola --seeds 0,1,2

Same weights, data, truncation length, batch size, steps, warm-up, schedule, AdamW
(bias-corrected, eps 1e-6, decay 0.01 on all but LayerNorm and bias), clipping and dropout
rates. Every batch is padded to its own longest example, which changes no logit. Prints a JSON
line for each seed. Needs torch and transformers (requirements-dev.txt).
"""

import argparse
import json
import pathlib
import time

import numpy as np
from sklearn import metrics
import torch
import transformers

from benchmarks import pytorch_peer


def read_cola(path: pathlib.Path):
  """Returns (sentences, None, labels) of a CoLA TSV: no header, no quoting."""
  rows = [line.split("\t") for line in path.read_text("utf-8").split("\n") if line]
  return [r[3] for r in rows], None, [int(r[1]) for r in rows]


def read_mrpc(path: pathlib.Path):
  """Returns (first sentences, second sentences, labels) of an MRPC TSV with a header."""
  rows = [line.rstrip("\r").split("\t")
          for line in path.read_text("utf-8-sig").split("\n")[1:] if line]
  return [r[3] for r in rows], [r[4] for r in rows], [int(r[0]) for r in rows]


TASKS = {"cola": ("CoLA", read_cola), "mrpc": ("MRPC", read_mrpc)}


def batches(order, encoded, labels, batch_size, tokenizer):
  """Yields batches in the order of the indices `order`, each padded to its longest example."""
  for start in range(0, len(order), batch_size):
    rows = order[start:start + batch_size]
    features = [{key: values[i] for key, values in encoded.items()} for i in rows]
    batch = dict(tokenizer.pad(features, return_tensors="pt"))
    yield batch | {"labels": torch.tensor([labels[i] for i in rows])}


def run(seed, train, dev, tokenizer, args):
  """Fine-tunes once, scores the dev set, and returns a dict for one line of results."""
  transformers.set_seed(seed)
  model = transformers.AutoModelForSequenceClassification.from_pretrained(
      args.model, num_labels=2).to(args.device)
  optimizer = pytorch_peer.make_optimizer(model, args.learning_rate)
  examples = len(train[1])
  steps = int(examples / args.batch_size * args.epochs)
  schedule = transformers.get_linear_schedule_with_warmup(optimizer, int(0.1 * steps), steps)
  order_rng = np.random.default_rng(seed)
  order = np.concatenate([order_rng.permutation(examples) for _ in range(args.epochs + 1)])
  model.train()
  start = time.time()
  for batch in batches(order[:steps * args.batch_size], *train, args.batch_size, tokenizer):
    loss = model(**{k: v.to(args.device) for k, v in batch.items()}).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
  if args.device.startswith("cuda"):
    torch.cuda.synchronize()
  seconds = time.time() - start
  model.eval()
  logits = []
  with torch.no_grad():
    for batch in batches(np.arange(len(dev[1])), *dev, args.batch_size, tokenizer):
      logits.append(model(**{k: v.to(args.device) for k, v in batch.items()}).logits.cpu())
  predictions = torch.cat(logits).argmax(-1).numpy()
  return {"task": args.task, "seed": seed, "steps": steps,
          "accuracy": metrics.accuracy_score(dev[1], predictions),
          "f1": metrics.f1_score(dev[1], predictions),
          "matthews": metrics.matthews_corrcoef(dev[1], predictions),
          "train_seconds": round(seconds, 1), "device": args.device}


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--model", required=True)
  parser.add_argument("--glue_data", required=True)
  parser.add_argument("--task", choices=sorted(TASKS), required=True)
  parser.add_argument("--seeds", default="0,1,2")
  parser.add_argument("--batch_size", type=int, default=32)
  parser.add_argument("--learning_rate", type=float, default=5e-5)
  parser.add_argument("--epochs", type=int, default=3)
  parser.add_argument("--max_seq_length", type=int, default=128)
  parser.add_argument("--device", default="cpu")
  args = parser.parse_args()
  tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
  folder, read = TASKS[args.task]
  splits = []
  for split in ("train", "dev"):
    first, second, labels = read(pathlib.Path(args.glue_data, folder, f"{split}.tsv"))
    encoded = tokenizer(first, second, truncation=True, max_length=args.max_seq_length)
    splits.append((dict(encoded), labels))
  for seed in map(int, args.seeds.split(",")):
    print(json.dumps(run(seed, *splits, tokenizer, args)), flush=True)


if __name__ == "__main__":
  main()
