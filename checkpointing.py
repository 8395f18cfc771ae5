"""A run's `checkpoints/`: saved in the background, checked, restored.

A folder has a step as its name only when it is complete, on the disk and not only in Linux's
memory. Beside the arrays lie their checksums: a disk or a copy that changes a bit is noticed.
"""

from collections.abc import Callable, Iterator, Mapping
import concurrent.futures
import contextlib
import errno
import functools
import json
import logging
import os
import pathlib
import shutil
import sys
from typing import Any

import jax
import numpy as np

from support import files
from support.errors import first_line, MachineError, UserError
from support.reporting import say
import training

# Of the machine, not of one file: a checkpoint that cannot be read for these is not damaged.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM)
_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, *_EXHAUSTED)
_UNFINISHED = ("*.tmp", "*.orbax-checkpoint-tmp*", ".*.tmp", ".*.orbax-checkpoint-tmp*")


class DamagedCheckpointError(UserError):
  """Raised when a checkpoint is damaged or does not fit; the message names its folder."""


class Checkpointer:
  """A run's `checkpoints/`: Orbax items `params`, `optimizer` (with the step), `model`, checksums.

  `params` is an item of its own, so that it can be loaded without the optimizer. `model`
  describes the architecture, so that the folder of one step is enough to load a model.
  """

  def __init__(self, folder: pathlib.Path, description: Mapping[str, Any], keep: int = 2,
               keep_every: int = 0, needed_at: Callable[[int], int] = lambda step: step):
    """Makes the folder; keeps the last `keep` checkpoints and those of every `keep_every` steps.

    Deletes what an earlier process left unfinished: only one at a time may work in the folder.

    Args:
      folder: see the class.
      description: of the model.
      keep: see above.
      keep_every: see above; 0 for none.
      needed_at: step -> the step whose checkpoint a run that continues from there may need at its
        end, as `Evaluations.needed_at` of support/selection.py; it is kept as long. Called in a
        thread too.

    Raises:
      UserError: see `support.files.plain_path`.
    """
    import orbax.checkpoint as ocp  # here: it takes a second to import

    _silence_threads()
    self._ocp = ocp
    self._folder, self._description = folder, description
    self._keep, self._keep_every, self._needed_at = keep, keep_every, needed_at
    folder.mkdir(parents=True, exist_ok=True)
    self._delete_unfinished()
    self._open = contextlib.ExitStack()
    self._plain = self._open.enter_context(files.plain_path(folder.resolve()))
    # Only host 0 has a Checkpointer: Orbax must not wait for the others.
    alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
    kinds = ocp.type_handlers
    arrays = ocp.PyTreeCheckpointHandler(type_handler_registry=kinds.create_type_handler_registry(
        # Orbax would copy all arrays once more; these are the thread's own already.
        (np.ndarray, kinds.NumpyHandler(deepcopy_host_arrays=False)),
        (jax.Array, kinds.ArrayHandler())),  # without it, a warning
                                        multiprocessing_options=alone)
    json_files = ocp.JsonCheckpointHandler(multiprocessing_options=alone)
    self._checkpointer = self._open.enter_context(ocp.Checkpointer(ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone), params=arrays,
        optimizer=arrays, model=json_files, checksums=json_files), multiprocessing_options=alone))
    self._thread = self._open.enter_context(concurrent.futures.ThreadPoolExecutor(1, "checkpoints"))
    self._saving: tuple[int, concurrent.futures.Future[None]] | None = None

  def steps(self) -> list[int]:
    """Returns the steps of the complete checkpoints, in order."""
    return complete_steps(self._folder)

  def save(self, state: training.TrainState) -> None:
    """Copies a state to the host and writes it in the background, after the one before it.

    Raises:
      MachineError: the checkpoint before it could not be written; see `check`.
    """
    self.wait()
    step = int(state.step)
    if step in self.steps():
      return
    # A copy also where the device's memory is the host's: the next step takes over its buffers.
    items = jax.tree.map(np.array, jax.device_get(_items(state)))
    self._saving = step, self._thread.submit(self._write, step, items)

  def check(self) -> None:
    """Notices a checkpoint that could not be written, without waiting for one that is under way.

    Raises:
      MachineError: names the checkpoint, the reason and the last step that is saved.
    """
    if self._saving and self._saving[1].done():
      self.wait()

  def wait(self) -> None:
    """Waits until the last state is on the disk; raises as `check`."""
    if not self._saving:
      return
    (step, written), self._saving = self._saving, None
    try:
      written.result()
    except Exception as error:  # Orbax and tensorstore raise many types
      self._delete_unfinished()  # makes room
      good = self.steps()
      saved = (f"step {good[-1]} is saved; the same command continues from it" if good else
               "there is no saved step; the same command begins again")
      raise MachineError(f"{self._folder / str(step)} cannot be written: {_reason(error)}; {saved}"
                         ) from error

  def restore(self, state: training.TrainState) -> training.TrainState:
    """Returns the newest saved state that is whole, as numpy arrays, or `state` if none is saved.

    Damaged checkpoints are named and moved aside, so that their steps can be saved again; so are
    those whose run would need a damaged one at its end.

    Raises:
      UserError: there are checkpoints, and all are damaged, or the machine lacks handles, memory
        or the permission to read them.
    """
    damaged: list[DamagedCheckpointError] = []
    steps = self.steps()
    for step in reversed(steps):
      try:
        self._check_best_before(step, state)
        items = self._read(step, state)
      except DamagedCheckpointError as error:
        damaged.append(error)
        continue
      for bad, error in zip(reversed(steps), damaged, strict=False):
        aside = self._move_aside(bad, "damaged")
        say(f"warning: {error}; it is kept as {aside.name}, and steps {step + 1} to {bad} are "
            "repeated")
      return state.replace(params=items["params"], **items["optimizer"])
    if damaged:
      raise UserError(f"{damaged[0]}" + (", and none before it can be used" if len(damaged) > 1
                                         else ", and it is the only one")
                      + f"; bring back a copy, or delete {self._folder} to begin at step 0")
    return state

  def read_params(self, step: int, state: training.TrainState) -> training.Params:
    """Returns the parameters of a saved step, as numpy arrays; `state` gives their shapes.

    Raises:
      UserError: the checkpoint is damaged or missing; or as `check`.
    """
    self.wait()
    try:
      return self._read(step, state)["params"]
    except DamagedCheckpointError as error:  # `restore` passes over all that need it
      raise UserError(f"{error}; the same command goes back before step {step} and repeats the "
                      "steps from there") from error

  def go_back(self, step: int) -> None:
    """Makes an earlier checkpoint the newest; those after it are moved aside.

    Raises:
      UserError: there is none of this step.
    """
    steps = self.steps()
    if step not in steps:
      there = f"there are those of steps {', '.join(map(str, steps))}" if steps else "there is none"
      raise UserError(f"restore_step {step} has no checkpoint in {self._folder}; {there}")
    aside = [self._move_aside(later, "undone").name for later in steps if later > step]
    say(f"going back to step {step}" + (f"; later checkpoints are kept as {', '.join(aside)}"
                                        if aside else ""))

  def close(self) -> None:
    """Waits until all checkpoints are written; raises as `check`."""
    try:
      self.wait()
    finally:
      self._open.close()

  def _write(self, step: int, items: Mapping[str, Any]) -> None:
    """Writes a checkpoint; then deletes those that are to be kept no longer."""
    args, save = self._ocp.args, self._ocp.args.PyTreeSave
    checksums = {"arrays": {name: _checksum(array) for name, array in _named(items).items()},
                 "model": _text_checksum(self._description)}
    with files.written_whole(self._folder / str(step)) as temporary:
      self._checkpointer.save(self._plain / temporary.name, args=args.Composite(
          params=save(items["params"]), optimizer=save(items["optimizer"]),
          model=args.JsonSave(self._description), checksums=args.JsonSave(checksums)))
    steps = self.steps()
    kept = {*steps[-self._keep:],
            *(step for step in steps if self._keep_every and step % self._keep_every == 0)}
    kept |= set(map(self._needed_at, kept))
    for old in set(steps) - kept:
      shutil.rmtree(self._folder / str(old))

  def _read(self, step: int, state: training.TrainState) -> dict[str, Any]:
    """Reads and checks a checkpoint.

    Returns:
      The items `params` and `optimizer`, as numpy arrays on the host.
    """
    folder, like = self._folder / str(step), _items(state)
    as_numpy = jax.tree.map(lambda _: self._ocp.RestoreArgs(restore_type=np.ndarray), like)
    with reading(folder):
      read = self._checkpointer.restore(self._plain / str(step), args=self._ocp.args.Composite(
          **{name: self._ocp.args.PyTreeRestore(like[name], restore_args=as_numpy[name])
             for name in like}))
      items = {name: read[name] for name in like}
    check_arrays(folder, _named(items))
    for (name, there), here in zip(_named(items).items(), jax.tree.leaves(like), strict=True):
      if (there.shape, there.dtype) != (here.shape, here.dtype):
        raise DamagedCheckpointError(
            f"{folder} does not fit: {name} is {there.dtype}{list(there.shape)} there and "
            f"{here.dtype}{list(here.shape)} here")
    if int(items["optimizer"]["step"]) != step:
      raise DamagedCheckpointError(f"{folder} is damaged: it holds step "
                                   f"{int(items['optimizer']['step'])}")
    return items

  def _check_best_before(self, step: int, state: training.TrainState) -> None:
    """Raises DamagedCheckpointError if a run that continues from `step` could not end."""
    best = self._needed_at(step)
    try:
      if best not in self.steps():
        raise DamagedCheckpointError(f"{self._folder / str(best)} is missing")
      if best != step:
        self._read(best, state)
    except DamagedCheckpointError as error:
      raise DamagedCheckpointError(f"checkpoint {step} is of no use without the best before it: "
                                   f"{error}") from error

  def _move_aside(self, step: int, why: str) -> pathlib.Path:
    """Renames a checkpoint to STEP.why; nothing is deleted."""
    taken = len(list(self._folder.glob(f"{step}.{why}*")))
    aside = self._folder / (f"{step}.{why}" + (f"-{taken + 1}" if taken else ""))
    (self._folder / str(step)).rename(aside)
    return aside

  def _delete_unfinished(self) -> None:
    for pattern in _UNFINISHED:
      for path in self._folder.glob(pattern):
        shutil.rmtree(path, ignore_errors=True)


def complete_steps(folder: pathlib.Path) -> list[int]:
  """Returns the steps of the checkpoints in a `checkpoints/`, in order; [] for no folder."""
  return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


# --- Checksums ------------------------------------------------------------------------------


@contextlib.contextmanager
def reading(folder: pathlib.Path) -> Iterator[None]:
  """A context that turns what Orbax raises for a damaged checkpoint into one line.

  Raises:
    DamagedCheckpointError: a file is missing, cut or changed.
    MachineError: the machine lacks handles, memory or the permission.
  """
  try:
    yield
  except (MemoryError, UserError):
    raise
  except Exception as error:  # Orbax and tensorstore raise many types for a damaged folder
    if _number(error, _EXHAUSTED):
      raise MachineError(f"{folder} cannot be read: {_reason(error)}") from error
    raise DamagedCheckpointError(f"{folder} is damaged: {first_line(error)[:100]}") from error


def check_arrays(folder: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Compares arrays with the checksums that lie in their checkpoint.

  Says so if there are none: a checkpoint from before they were written is not checked.

  Args:
    folder: of one step.
    arrays: name -> array; names begin with the item's, "params/" or "optimizer/".

  Raises:
    DamagedCheckpointError: names the first array, or the model's description, that differs.
  """
  file = folder / "checksums" / "metadata"
  if not file.parent.exists():
    say(f"{folder} has no checksums (it is from an older version), so it is not checked")
    return
  with reading(folder):
    checksums = json.loads(file.read_text("utf-8"))
    model = json.loads((folder / "model" / "metadata").read_text("utf-8"))
    stored, model_right = checksums["arrays"], _text_checksum(model) == checksums["model"]
  wrong = [name for name, array in arrays.items() if stored.get(name) != _checksum(array)]
  if not model_right:
    wrong.append("the description of the model")
  if wrong:
    more = f" and {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
    raise DamagedCheckpointError(f"{folder} is damaged: the checksum of {wrong[0]}{more} differs")


def _checksum(array: np.ndarray) -> list[Any]:
  import google_crc32c  # here: who only looks for checkpoints needs no checksum

  content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
  return [str(array.dtype), list(array.shape), f"{google_crc32c.value(content):08x}"]


def _text_checksum(description: Mapping[str, Any]) -> str:
  import google_crc32c

  return f"{google_crc32c.value(json.dumps(description, sort_keys=True).encode()):08x}"


def _items(state: training.TrainState) -> dict[str, Any]:
  return {"params": state.params,
          "optimizer": {"opt_state": state.opt_state, "step": state.step}}


def _named(items: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns the leaves of a pytree by their paths, such as params/bert/pooler/kernel."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(dict(items))
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


# --- Other libraries' errors ----------------------------------------------------------------


@functools.cache
def _silence_threads() -> None:
  """Keeps the threads of Orbax and tensorstore from printing tracebacks of a failed save or read.

  The first failure is raised, and becomes one line. Orbax also logs it, and closes its event
  loop; the threads of the other arrays then find it closed, and asyncio logs their failures.
  """
  logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
  logging.getLogger("asyncio").addFilter(
      lambda record: "never retrieved" not in record.getMessage())
  shown = sys.unraisablehook

  def show(unraisable: Any) -> None:
    if "Event loop is closed" not in str(unraisable.exc_value):
      shown(unraisable)

  sys.unraisablehook = show


def _number(error: BaseException, numbers: tuple[int, ...]) -> int:
  """Returns the one of `numbers` that an error has, or whose text its message holds; else 0."""
  if isinstance(error, OSError) and error.errno in numbers:
    return error.errno
  return next((number for number in numbers if os.strerror(number) in str(error)), 0)


def _reason(error: BaseException) -> str:
  number = _number(error, _WRITING)
  return os.strerror(number) if number else first_line(error)[:100]
