"""Times the labels of a file of texts: here, transformers' pipeline and ONNX Runtime, by turns.

    python3 -m benchmarks.predict --model=demo/run --texts=texts.txt

The pipeline is used as its documentation says, with batch_size=32. ONNX Runtime runs the model as
torch exports it, in batches of 32 that are padded to their longest text. Each round takes the next
texts of the file. Also times predict.py from its start to its first line, the first time and again.
Needs torch, transformers, onnx and onnxruntime.
"""

import argparse
from collections.abc import Callable, Sequence
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnxruntime
import torch
import transformers

from benchmarks import compare
from classification.prediction import load_classifier

ROOT = pathlib.Path(__file__).parent.parent
BATCH_SIZE = 32

Predict = Callable[[Sequence[str]], np.ndarray]  # texts -> [texts, classes] probabilities


def softmax(logits: np.ndarray) -> np.ndarray:
  """Returns probabilities of [texts, classes]."""
  exponentials = np.exp(logits - logits.max(-1, keepdims=True))
  return exponentials / exponentials.sum(-1, keepdims=True)


def ours(model: str) -> Predict:
  """Returns this project's predictions."""
  classifier = load_classifier(model)

  def predict(texts: Sequence[str]) -> np.ndarray:
    return np.asarray([list(p.probabilities.values()) for p in classifier.predict(texts)])

  return predict


def pipeline(model: str) -> Predict:
  """Returns the predictions of transformers' pipeline."""
  pipe = transformers.pipeline("text-classification", f"{model}/model", batch_size=BATCH_SIZE,
                               device="cpu", top_k=None)
  order = pipe.model.config.id2label.values()

  def predict(texts: Sequence[str]) -> np.ndarray:
    found = ({entry["label"]: entry["score"] for entry in row} for row in pipe(list(texts)))
    return np.asarray([[row[name] for name in order] for row in found])

  return predict


def onnx(model: str, threads: int) -> Predict:
  """Returns the predictions of ONNX Runtime."""
  peer = transformers.AutoModelForSequenceClassification.from_pretrained(
      f"{model}/model", attn_implementation="eager").eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(f"{model}/model")
  names = ("input_ids", "attention_mask", "token_type_ids")
  example = tokenizer(["a good film", "a dull one , by far"], padding=True, return_tensors="pt")
  axes = {name: {0: "batch", 1: "length"} for name in names} | {"logits": {0: "batch"}}
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = threads
  with tempfile.TemporaryDirectory() as folder:
    torch.onnx.export(peer, tuple(example[name] for name in names), f"{folder}/model.onnx",
                      input_names=list(names), output_names=["logits"], dynamic_axes=axes,
                      opset_version=17, dynamo=False)
    session = onnxruntime.InferenceSession(f"{folder}/model.onnx", options,
                                           providers=["CPUExecutionProvider"])

  def predict(texts: Sequence[str]) -> np.ndarray:
    logits = []
    for first in range(0, len(texts), BATCH_SIZE):
      batch = tokenizer(list(texts[first:first + BATCH_SIZE]), padding=True, return_tensors="np")
      logits.append(session.run(None, {name: batch[name] for name in names})[0])
    return softmax(np.concatenate(logits))

  return predict


def first_line_seconds(model: str, texts: str, cache: str) -> float:
  """Returns the seconds from the start of predict.py to its first line."""
  command = [sys.executable, str(ROOT / "predict.py"), f"--model={model}", f"--input={texts}"]
  start = time.perf_counter()
  with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}) as process:
    process.stdout.readline()
    seconds = time.perf_counter() - start
    process.kill()
  return seconds


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--model", required=True, help="a finished run's folder")
  parser.add_argument("--texts", required=True, help="a text a line")
  parser.add_argument("--count", type=int, default=10_000, help="texts of the file to take")
  parser.add_argument("--rounds", type=int, default=10)
  parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
  parser.add_argument("--starts", type=int, default=3, help="starts of predict.py")
  parser.add_argument("--output", default="", help="the JSON file")
  args = parser.parse_args()
  torch.set_num_threads(args.threads)
  texts = pathlib.Path(args.texts).read_text("utf-8").splitlines()[:args.count]
  contestants = {"here": ours(args.model), "pipeline": pipeline(args.model),
                 "ONNX Runtime": onnx(args.model, args.threads)}
  probabilities = [predict(texts[:100]) for predict in contestants.values()]
  error = max(float(np.abs(p - probabilities[0]).max()) for p in probabilities)
  wall, cpu = compare_rounds(contestants, np.array_split(texts, args.rounds))
  rows = [{"of": name, "texts/s": len(texts) / sum(wall[name]),
           "times as long as here": compare.ratio(wall[name], wall["here"]),
           "CPU seconds, likewise": compare.ratio(cpu[name], cpu["here"]),
           "all": wall[name]} for name in contestants]
  with tempfile.TemporaryDirectory() as cache:
    starts = [first_line_seconds(args.model, args.texts, cache) for _ in range(1 + args.starts)]
  compare.report(rows, args.output, largest_difference=error, first_line_seconds={
      "first start": starts[0], "later starts": starts[1:]})
  print(f"largest difference of a probability: {error:.1e}; first line after {starts[0]:.1f} s, in "
        f"later starts after {statistics.median(starts[1:]):.1f} s")


def compare_rounds(contestants: dict[str, Predict], parts: Sequence[Sequence[str]]
                   ) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
  """Returns the seconds and CPU seconds of every contestant for every part of the texts."""
  wall: dict[str, list[float]] = {name: [] for name in contestants}
  cpu: dict[str, list[float]] = {name: [] for name in contestants}
  for predict in contestants.values():
    predict(parts[0][:300])  # compiles, fills caches
  for i, part in enumerate(parts):
    for name, predict in list(contestants.items())[::-1 if i % 2 else 1]:
      start, start_cpu = time.perf_counter(), time.process_time()
      predict(part)
      wall[name].append(time.perf_counter() - start)
      cpu[name].append(time.process_time() - start_cpu)
  return wall, cpu


if __name__ == "__main__":
  main()
