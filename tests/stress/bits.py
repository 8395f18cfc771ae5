"""One random bit of the newest checkpoint is turned; the run must end with the right bits.

    python -m tests.stress.bits --times=50 --output_dir=DIR
"""

import argparse
import pathlib
import random
import shutil
import sys

from tests.stress import harness


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--times", type=int, default=50)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--output_dir", type=pathlib.Path, required=True)
  options = parser.parse_args()
  sys.exit(turn_bits(options.output_dir, options.times, options.seed))


def turn_bits(folder: pathlib.Path, times: int, seed: int = 0) -> int:
  """Turns a bit of a run that lacks its export, `times` times; returns an exit status."""
  table = harness.Table(f"{times} turned bits, seed {seed}")
  inputs = harness.Inputs.make(harness.fresh(folder) / "inputs")
  rng, whole, broken = random.Random(seed), folder / "whole", folder / "broken"
  ended = harness.run(inputs.command("run_pretraining", whole), inputs.environment())
  if ended.status:
    table.add("unbroken", f"exit {ended.status}: {ended.lines[-1:]}", wrong=True)
    return table.finish()
  for _ in range(times):
    shutil.rmtree(broken, ignore_errors=True)
    shutil.copytree(whole, broken)
    shutil.rmtree(broken / "model")
    fault = _turn_one(broken / "checkpoints" / str(harness.steps_saved(broken)[-1]), rng)
    ended = harness.run(inputs.command("run_pretraining", broken), inputs.environment())
    found = ([f"exit {ended.status}: {ended.lines[-1:]}"] if ended.status
             else harness.differences(broken, whole))
    said = [line for line in ended.out.splitlines() if line.startswith("warning")]
    table.add(fault, "; ".join((*said, *found)) or "harmless: the right bits", wrong=bool(found))
  return table.finish()


def _turn_one(checkpoint: pathlib.Path, rng: random.Random) -> str:
  """Turns a bit of a file that is drawn by its size; returns its description."""
  names = sorted(file for file in checkpoint.rglob("*") if file.is_file() and file.stat().st_size)
  file = rng.choices(names, [file.stat().st_size for file in names])[0]
  content = bytearray(file.read_bytes())
  at, bit = rng.randrange(len(content)), rng.randrange(8)
  content[at] ^= 1 << bit
  file.write_bytes(content)
  return f"bit {bit} of byte {at} of {file.relative_to(checkpoint)}"


if __name__ == "__main__":
  main()
