"""One random bit of the newest checkpoint is turned; the run must end with the right bits.

    python -m tests.stress.bits --times=50 --output_dir=DIR

The first tenth of the damaged runs is continued by the command to its end; the others are restored
in this process.
"""

import contextlib
import io
import pathlib
import random
import shutil
import sys

import jax
import ml_collections
import numpy as np

import checkpointing
import experiment
import modeling
from support import files
from support.errors import UserError
from tests.stress import harness
import training


def main() -> None:
  options = harness.options(__doc__, times=50)
  sys.exit(turn_bits(options.output_dir, options.times, options.seed))


def turn_bits(folder: pathlib.Path, times: int, seed: int = 0) -> int:
  """Turns a bit of a run that lacks its export, `times` times; returns an exit status."""
  table = harness.Table(f"{times} turned bits, seed {seed}")
  inputs = harness.Inputs.make(harness.fresh(folder) / "inputs")
  rng, whole, broken = random.Random(seed), folder / "whole", folder / "broken"
  command, environment = (inputs.command("run_pretraining", broken, **harness.SHORT),
                          inputs.environment(XLA_FLAGS=""))
  harness.run_whole(inputs.command("run_pretraining", whole, **harness.SHORT), environment)
  right: dict[int, training.TrainState] = {}
  harmless = 0
  for number in range(times):
    shutil.rmtree(broken, ignore_errors=True)
    shutil.copytree(whole, broken)
    shutil.rmtree(broken / "model")
    fault = _turn_one(broken / "checkpoints" / str(harness.steps_saved(broken)[-1]), rng)
    if number < times // 10:
      ended = harness.run(command, environment)
      said = [line for line in ended.out.splitlines() if line.startswith("warning")]
      wrong = ([f"exit {ended.status}: {ended.lines[-1:]}"] if ended.status
               else harness.differences(broken, whole))
    else:
      right = right or _right_states(whole, folder / "earlier")
      said, wrong = _restore(broken, right)
    harmless += not (said or wrong)
    table.add(fault, "; ".join((*(line.replace(f"{folder}/", "") for line in said), *wrong))
              or "harmless: the right bits", wrong=bool(wrong))
  return table.finish(f"{harmless} harmless, the others named")


def _right_states(whole: pathlib.Path, earlier: pathlib.Path
                  ) -> dict[int, training.TrainState]:
  """Returns the states of a run's two newest checkpoints: step -> state."""
  newest, before = _read(whole / "checkpoints", whole), earlier / "checkpoints"
  shutil.copytree(whole / "checkpoints", before)
  shutil.rmtree(before / str(int(newest.step)))
  return {int(state.step): state for state in (newest, _read(before, whole))}


def _read(checkpoints: pathlib.Path, run: pathlib.Path) -> training.TrainState:
  """Restores the newest of a run's checkpoints that is whole."""
  content = files.read_json(run / "config.json")
  config = ml_collections.ConfigDict(content["config"])
  model = modeling.BertForPreTraining(modeling.BertConfig(**content["model"]))
  optimizer = experiment.optimizer_from_config(config)
  state = jax.eval_shape(lambda: training.create_state(
      model.init(jax.random.key(0), modeling.one_token())["params"], optimizer, config.seed))
  checkpointer = checkpointing.Checkpointer(checkpoints, {})
  try:
    return checkpointer.restore(state)
  finally:
    checkpointer.close()


def _restore(run: pathlib.Path, right: dict[int, training.TrainState]
             ) -> tuple[list[str], list[str]]:
  """Restores a run's state; returns what was printed, and what is wrong with the state."""
  printed = io.StringIO()
  try:
    with contextlib.redirect_stdout(printed):
      state = _read(run / "checkpoints", run)
  except UserError as error:
    return [], [f"error: {error}"]
  said, step = printed.getvalue().splitlines(), int(state.step)
  if step != max(right) and not said:
    return said, [f"silently back to step {step}"]
  same = jax.tree.map(np.array_equal, (state.params, state.opt_state),
                      (right[step].params, right[step].opt_state))
  return said, [] if all(jax.tree.leaves(same)) else [f"step {step} has other bits"]


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
