"""How the cost of a pre-training step grows with rows, length and layers.

    python3 -m benchmarks.scaling --output=benchmarks/scaling.json --plot=benchmarks/scaling.png

One of the three changes at a time, around 8 rows of 128 tokens and 6 layers of hidden size 384; all
points of one curve are timed by turns. Prints milliseconds a step and a token, and draws them.
"""

import argparse
from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import matplotlib
import numpy as np

from benchmarks import compare, steps
import modeling
import training

CENTRE = {"rows": 8, "length": 128, "layers": 6}
CURVES = {"rows": (1, 2, 4, 8, 16, 32), "length": (32, 64, 128, 256, 512),
          "layers": (1, 2, 4, 6, 12)}


def measure(what: str, values: Sequence[int], args: argparse.Namespace) -> list[dict[str, Any]]:
  """The table's rows of one curve."""
  contestants = {}
  for value in values:
    point = CENTRE | {what: value}
    config = dataclasses.replace(
        steps.SIZES["minilm"], num_hidden_layers=point["layers"],
        hidden_dropout_prob=args.dropout, attention_probs_dropout_prob=args.dropout)
    batch = steps.random_batch(config, point["rows"], point["length"],
                               round(0.15 * point["length"]))
    contestants[str(value)] = steps.make_step(modeling.BertForPreTraining(config), batch)
  rows = []
  for value, times in compare.alternate(contestants, args.rounds).items():
    point = CENTRE | {what: int(value)}
    milliseconds = 1e3 * float(np.median(times))
    rows.append({"of": what, **point, "ms a step": milliseconds,
                 "ms a token": milliseconds / point["rows"] / point["length"], "all": times})
  return rows


def draw(table: Sequence[dict[str, Any]], file: str) -> None:
  """A panel for each curve, with the line of equal cost a token through its middle."""
  matplotlib.use("Agg")
  from matplotlib import pyplot  # after its backend

  figure, panels = pyplot.subplots(1, len(CURVES), figsize=(12, 3.5), layout="constrained")
  for panel, what in zip(panels, CURVES, strict=True):
    rows = [row for row in table if row["of"] == what]
    x, y = [row[what] for row in rows], [row["ms a step"] for row in rows]
    panel.loglog(x, y, "o-", base=2)
    middle = x.index(CENTRE[what])
    panel.loglog(x, [y[middle] * value / x[middle] for value in x], ":", base=2, color="grey",
                 label="proportional")
    panel.set(xlabel=what, ylabel="ms a step", xticks=x, xticklabels=x)
    panel.legend()
  figure.savefig(file, dpi=110)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--dropout", type=float, default=0.1)
  parser.add_argument("--rounds", type=int, default=7)
  parser.add_argument("--plot", default="", help="the picture")
  parser.add_argument("--output", default="", help="the JSON file")
  args = parser.parse_args()
  training.keep_freed_memory()
  jax.config.update("jax_default_matmul_precision", "float32")
  table = [row for what, values in CURVES.items() for row in measure(what, values, args)]
  compare.report(table, args.output, dropout=args.dropout)
  if args.plot:
    draw(table, args.plot)


if __name__ == "__main__":
  main()
