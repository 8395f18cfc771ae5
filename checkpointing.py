"""A run's `checkpoints/`: saved in the background, checked, restored."""

import contextlib
import pathlib
from typing import Any

from support import files
import training


class DamagedCheckpointError(Exception):
  """Raised when a checkpoint cannot be read; the message names its folder."""


class Checkpointer:
  """A run's `checkpoints/`: Orbax items `params`, `optimizer` (with the step) and `model`.

  `params` is an item of its own, so that it can be loaded without the optimizer. `model`
  describes the architecture, so that the folder of one step is enough to load a model.
  """

  def __init__(self, folder: pathlib.Path, description: dict[str, Any], keep: int = 1,
               keep_every: int = 0):
    """Makes the folder; keeps the last `keep` checkpoints and those of every `keep_every` steps.

    Raises:
      UserError: see `support.files.plain_path`.
    """
    import orbax.checkpoint as ocp  # here: it takes a second to import

    self._ocp = ocp
    self._description = description
    self._folder = folder
    folder.mkdir(parents=True, exist_ok=True)
    self._link = contextlib.ExitStack()
    plain = self._link.enter_context(files.plain_path(folder.resolve()))
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, keep_period=keep_every or None)
    self._manager = ocp.CheckpointManager(
        plain, options=options, item_names=("params", "optimizer", "model"))

  def save(self, state: training.TrainState) -> None:
    """Saves in the background; the folder gets its final name only when it is complete."""
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    save = self._ocp.args.StandardSave
    self._manager.save(step, args=self._ocp.args.Composite(
        params=save(state.params),
        optimizer=save({"opt_state": state.opt_state, "step": state.step}),
        model=self._ocp.args.JsonSave(self._description)))

  def restore(self, state: training.TrainState) -> training.TrainState:
    """Returns the latest saved state, placed like `state`, or `state` if nothing is saved.

    Raises:
      DamagedCheckpointError: the latest checkpoint cannot be read.
    """
    step = self._manager.latest_step()
    if step is None:
      return state
    restore = self._ocp.args.StandardRestore
    try:
      restored = self._manager.restore(step, args=self._ocp.args.Composite(
          params=restore(state.params),
          optimizer=restore({"opt_state": state.opt_state, "step": state.step})))
    except Exception as error:  # Orbax and tensorstore raise many types for a damaged folder
      raise DamagedCheckpointError(
          f"{self._folder / str(step)} cannot be read; delete it to continue from the "
          "checkpoint before it, or from the start") from error
    return state.replace(params=restored.params, **restored.optimizer)

  def close(self) -> None:
    """Waits until all checkpoints are written."""
    self._manager.close()
    self._link.close()
