"""Times the making of pre-training batches: pairs, dynamic masks, packing, on one core.

    python3 -m benchmarks.data --train_files='/data/*.txt' --tokenizer=/data/tokenizer

Tokenizes the text, unless it is cached, and times the work of run_pretraining.py on the host for
every step, with masks on single tokens and on whole words. benchmarks/pretraining_data.py times
the writing of TFRecords.
"""

import argparse
import math
import statistics
import time
from typing import Any

from benchmarks import compare
from pretraining import batches, corpus, masking
import tokenization


def seconds_a_batch(examples: batches.ExampleSource,
                    args: argparse.Namespace) -> list[float]:
  """Returns the seconds of every batch but the first."""
  phases = [batches.Phase(0, args.steps + 1, args.batch_size, examples)]
  made = batches.phase_batches(phases, seed=0, first_step=0, devices=1, micro_batches=1, pack=True)
  next(made)
  times = []
  for _ in range(args.steps):
    start = time.perf_counter()
    next(made)
    times.append(time.perf_counter() - start)
  return times


def open_examples(text: corpus.TokenizedText, tokenizer: Any, length: int,
                  whole_words: bool) -> batches.ExampleSource:
  """Returns examples with the original's objective and masking rates at one length."""
  part = corpus.part_of(text, False, 0.0, length - 3)
  rates = masking.Masking(0.15, math.ceil(0.15 * length), 0.8, 0.1, whole_words)
  return batches.TextExamples(
      part, masking.vocabulary_of(tokenizer), rates, length, "mlm_nsp", 0.1)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--train_files", required=True)
  parser.add_argument("--tokenizer", required=True)
  parser.add_argument("--lengths", default="128,512")
  parser.add_argument("--batch_size", type=int, default=256)
  parser.add_argument("--steps", type=int, default=50)
  parser.add_argument("--cache_dir", default="", help="of the tokenized text; blank: beside it")
  parser.add_argument("--output", default="", help="the JSON file")
  args = parser.parse_args()
  tokenizer = tokenization.load_tokenizer(args.tokenizer, None)
  reading = corpus.Reading(input_format="auto", text_field="text", language="en",
                           errors="strict", cache_dir=args.cache_dir)
  text = corpus.open_corpus(args.train_files, "train_files", tokenizer, reading)
  rows = []
  for length in map(int, args.lengths.split(",")):
    for whole_words in (False, True):
      times = seconds_a_batch(open_examples(text, tokenizer, length, whole_words), args)
      rows.append({"masks": "whole words" if whole_words else "tokens", "length": length,
                   "batch": args.batch_size, "ms a batch": 1e3 * statistics.median(times),
                   "sequences/s": args.batch_size / statistics.median(times), "all": times})
  compare.report(rows, args.output)


if __name__ == "__main__":
  main()
