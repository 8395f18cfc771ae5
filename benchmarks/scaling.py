"""Times pre-training steps over the number of rows, their length, the layers and the data.

    python3 -m benchmarks.scaling --output=benchmarks/scaling.json --plot=benchmarks/scaling.png

Rows, length and layers change one at a time, around 8 rows of 128 tokens and 6 layers of hidden
size 384. Data cost time on the host only: a batch of 256 rows with its pairs and masks, from
random texts of a million to a hundred million tokens. All points of one curve are timed by turns.
Prints and draws milliseconds for each step or batch, and for each token of it.
"""

import argparse
from collections.abc import Callable, Sequence
import dataclasses
import itertools
import pathlib
from typing import Any

import jax
import matplotlib
import numpy as np

from benchmarks import compare, steps
import modeling
from pretraining import batches, corpus, masking
from support import devices

CENTRE = {"rows": 8, "length": 128, "layers": 6}
CURVES = {"rows": (1, 2, 4, 8, 16, 32), "length": (32, 64, 128, 256, 512),
          "layers": (1, 2, 4, 6, 12)}
TOKENS = (10**6, 10**7, 10**8)
BATCH_SIZE = 256


def measure(what: str, values: Sequence[int], args: argparse.Namespace) -> list[dict[str, Any]]:
  """Returns the table's rows of one curve."""
  contestants = {}
  for value in values:
    point = CENTRE | {what: value}
    config = dataclasses.replace(
        steps.SIZES["minilm"], num_hidden_layers=point["layers"],
        hidden_dropout_prob=args.dropout, attention_probs_dropout_prob=args.dropout)
    batch = steps.random_batch(config, point["rows"], point["length"],
                               round(0.15 * point["length"]))
    contestants[str(value)] = steps.make_step(modeling.BertForPreTraining(config), batch)
  return [as_row(what, int(value), CENTRE | {what: int(value)}, times)
          for value, times in compare.alternate(contestants, args.rounds).items()]


def as_row(what: str, value: int, point: dict[str, Any], times: list[float]) -> dict[str, Any]:
  """Returns a row of the table."""
  milliseconds = 1e3 * float(np.median(times))
  return {"of": what, "at": value, **point, "ms": milliseconds,
          "ms a token": milliseconds / point["rows"] / point["length"], "all": times}


def random_text(tokens: int, length: int) -> corpus.Part:
  """Makes documents of 50 sentences of 20 word pieces, in memory."""
  ids = np.random.default_rng(0).integers(999, 2**15, tokens, np.uint16)
  sentences = np.arange(0, tokens + 1, 20)
  documents = np.arange(0, len(sentences), 50)
  text = corpus.TokenizedText(("random",), "", pathlib.Path(), ids, sentences, documents)
  sentences_a_span = -(-length // 20)  # the fewest that fill a row, within a document
  starts = np.concatenate([np.arange(0, 50, sentences_a_span) + first
                           for first in documents[:-1]])
  ends = np.minimum(starts + sentences_a_span, (starts // 50 + 1) * 50)
  return corpus.Part(text, np.arange(len(documents) - 1),
                     np.stack([starts, ends], axis=1))


def measure_data(args: argparse.Namespace) -> list[dict[str, Any]]:
  """Returns the table's rows of the host's work."""
  def batch_maker(tokens: int) -> Callable[[], Any]:
    length = CENTRE["length"]
    vocabulary = masking.Vocabulary(2**15, 101, 102, 103, np.zeros(2**15, bool))
    examples = batches.TextExamples(
        random_text(tokens, length), vocabulary, masking.Masking(
            0.15, 20, 0.8, 0.1, False), length, "mlm_nsp", 0.1)
    phase = batches.Phase(0, 10**6, BATCH_SIZE, examples)
    made = batches.phase_batches([phase], seed=0, first_step=0, devices=1, micro_batches=1,
                                 pack=True)
    return lambda: list(itertools.islice(made, 10))

  seconds = compare.alternate({str(n): batch_maker(n) for n in TOKENS}, args.rounds)
  point = {"rows": BATCH_SIZE, "length": CENTRE["length"], "layers": 0}
  return [as_row("data", int(tokens), point, [t / 10 for t in times])
          for tokens, times in seconds.items()]


def draw(table: Sequence[dict[str, Any]], file: str) -> None:
  """Draws a panel for each curve, with the line of equal cost per token through its middle."""
  matplotlib.use("Agg")
  from matplotlib import pyplot  # after its backend

  figure, panels = pyplot.subplots(1, len(CURVES) + 1, figsize=(15, 3.5), layout="constrained")
  for panel, what in zip(panels, (*CURVES, "data"), strict=True):
    rows = [row for row in table if row["of"] == what]
    x, y = [row["at"] for row in rows], [row["ms"] for row in rows]
    panel.loglog(x, y, "o-")
    if what in CURVES:
      middle = x.index(CENTRE[what])
      panel.loglog(x, [y[middle] * value / x[middle] for value in x], ":", color="grey",
                   label="proportional")
      panel.set(xlabel=what, ylabel="ms a step", xticks=x, xticklabels=x)
      panel.minorticks_off()
      panel.legend()
    else:
      panel.set(xlabel="tokens of text", ylabel=f"ms a batch of {BATCH_SIZE}, on the host",
                ylim=(0.1, 100))
  figure.savefig(file, dpi=110)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--dropout", type=float, default=0.1)
  parser.add_argument("--rounds", type=int, default=7)
  parser.add_argument("--plot", default="", help="the PNG file")
  parser.add_argument("--output", default="", help="the JSON file")
  args = parser.parse_args()
  devices.keep_freed_memory()
  jax.config.update("jax_default_matmul_precision", "float32")
  table = [row for what, values in CURVES.items() for row in measure(what, values, args)]
  table += measure_data(args)
  compare.report(table, args.output, dropout=args.dropout)
  if args.plot:
    draw(table, args.plot)


if __name__ == "__main__":
  main()
