"""Train state, the pure steps, their pmap, the loop over steps, and its checkpoints.

Knows no task and no file format but its own checkpoints, and imports neither tensorflow nor
datasets nor transformers: a step can be built and timed on a bare accelerator machine.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import dataclasses
import itertools
import math
import pathlib
import time
from typing import Any, NamedTuple, Protocol

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import optax

Array = jax.Array
Batch = Mapping[str, Any]
Params = Mapping[str, Any]
Sums = dict[str, tuple[Array, Array]]  # metric -> (sum, count), divided once, on the host
DEVICES = "batch"  # the name of the device axis


class TrainState(flax.struct.PyTreeNode):
  """What a step changes, and the key that its randomness is derived from."""

  step: Array  # int32 scalar: steps done
  params: Params
  opt_state: optax.OptState
  rng: Array  # typed key; never changes


class NotFiniteError(Exception):
  """The loss or its gradient became NaN or infinite; the message names the step."""


class DamagedCheckpointError(Exception):
  """A checkpoint cannot be read; the message names its folder."""


# --- Steps ----------------------------------------------------------------------------------

LossFn = Callable[[Params, Batch, Array, Mapping[str, Array]], tuple[Array, Sums]]
WeighFn = Callable[[Batch], dict[str, Array]]


def create_state(params: Params, optimizer: optax.GradientTransformation,
                 seed: int) -> TrainState:
  """A state at step 0. Its key is independent of the one that initialized the parameters."""
  return TrainState(step=jnp.zeros((), jnp.int32), params=params,
                    opt_state=optimizer.init(params),
                    rng=jax.random.fold_in(jax.random.key(seed), 1))


def train_step(state: TrainState, batch: Batch, *, loss_fn: LossFn, weigh: WeighFn,
               optimizer: optax.GradientTransformation) -> tuple[TrainState, Sums]:
  """One update from one device's share of the global batch.

  The denominators are those of the global batch, taken first: the loss is then linear in
  examples, and n devices and k micro-batches add up to the gradient of one big batch.

  Args:
    state: equal on all devices, without a device axis.
    batch: arrays [micro_batches, ...].
    loss_fn: (params, micro-batch, dropout key, totals) -> this micro-batch's *share* of the
      global loss, and the sums and counts of any other metrics.
    weigh: batch -> named sums of weights; their totals over all devices go to `loss_fn`.
    optimizer: see `create_optimizer`.

  Returns:
    The next state and the global batch's metric sums and counts, with its loss and the norm of
    its gradient before clipping.
  """
  rng = jax.random.fold_in(jax.random.fold_in(state.rng, state.step),
                           jax.lax.axis_index(DEVICES))
  totals = _sum_over_devices(weigh(batch))
  grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

  def gradients(index: Any, micro_batch: Batch) -> tuple[tuple[Array, Sums], Params]:
    return grad_fn(state.params, micro_batch, jax.random.fold_in(rng, index), totals)

  (loss, sums), grads = _sum_over_devices(_accumulate(gradients, batch))
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  one = jnp.ones(())
  sums |= {"loss": (loss, one), "gradient_norm": (optax.tree.norm(grads), one)}
  return state.replace(step=state.step + 1, params=optax.apply_updates(state.params, updates),
                       opt_state=opt_state), sums


def _sum_over_devices(tree: Any) -> Any:
  """psum; nothing on one device, where XLA's CPU backend would still copy every gradient."""
  return tree if jax.lax.axis_size(DEVICES) == 1 else jax.lax.psum(tree, DEVICES)


def _accumulate(gradients: Callable[[Any, Batch], Any], batch: Batch) -> Any:
  """Sums `gradients(index, micro_batch)` over the leading axis of the batch."""
  micro_batches = jax.tree.leaves(batch)[0].shape[0]
  first = gradients(0, jax.tree.map(lambda x: x[0], batch))
  if micro_batches == 1:
    return first

  def add(sums: Any, item: tuple[Array, Batch]) -> tuple[Any, None]:
    return jax.tree.map(jnp.add, sums, gradients(*item)), None

  rest = jax.tree.map(lambda x: x[1:], batch)
  return jax.lax.scan(add, first, (jnp.arange(1, micro_batches), rest))[0]


def pmap_train_step(step: Callable[[TrainState, Batch], tuple[TrainState, Sums]]
                    ) -> Callable[[TrainState, Batch], tuple[TrainState, Sums]]:
  """(state, batch [devices, micro_batches, ...]) -> (state, sums); the old state is donated."""
  return jax.pmap(step, axis_name=DEVICES, in_axes=(None, 0), out_axes=(None, None),
                  donate_argnums=(0,))


def pmap_eval_step(step: Callable[[Params, Batch], Any]) -> Callable[[Params, Batch], Any]:
  """(params, batch [devices, ...]) -> outputs [devices, ...]."""
  return jax.pmap(step, axis_name=DEVICES, in_axes=(None, 0), out_axes=0)


def replicate(tree: Any, devices: int | None = None) -> Any:
  """Places a tree on so many local devices (None: all), without adding a device axis.

  That is what pmap's in_axes=None takes without copying it first.
  """
  return jax.device_put(tree, _sharding(devices, PartitionSpec()))


def _sharding(devices: int | None, spec: PartitionSpec) -> NamedSharding:
  return NamedSharding(Mesh(np.asarray(jax.local_devices()[:devices]), (DEVICES,)), spec)


# --- Checkpoints ----------------------------------------------------------------------------


class Checkpointer:
  """A run's `checkpoints/`: Orbax items `params`, `optimizer` (with the step) and `model`.

  `params` lies apart so that a checkpoint can be loaded without the optimizer; `model`
  describes the architecture, so that a step's folder is enough to load from.
  """

  def __init__(self, folder: pathlib.Path, description: dict[str, Any], keep: int = 1,
               keep_every: int = 0):
    """Keeps the last `keep` checkpoints, and every one at a multiple of `keep_every` steps."""
    import orbax.checkpoint as ocp  # here: it takes a second to import

    self._ocp = ocp
    self._description = description
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, keep_period=keep_every or None)
    self._manager = ocp.CheckpointManager(
        folder.resolve(), options=options, item_names=("params", "optimizer", "model"))

  def save(self, state: TrainState) -> None:
    """Saves in the background; a folder appears under its final name only when complete."""
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    save = self._ocp.args.StandardSave
    self._manager.save(step, args=self._ocp.args.Composite(
        params=save(state.params),
        optimizer=save({"opt_state": state.opt_state, "step": state.step}),
        model=self._ocp.args.JsonSave(self._description)))

  def restore(self, state: TrainState) -> TrainState:
    """The latest saved state, placed like `state`; `state` itself where nothing is saved.

    Raises:
      DamagedCheckpointError: it cannot be read.
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
          f"{self._manager.directory / str(step)} cannot be read; delete it to continue from the "
          "checkpoint before it, or from the start") from error
    return state.replace(params=restored.params, **restored.optimizer)

  def close(self) -> None:
    """Waits for what is being written."""
    self._manager.close()


# --- The loop -------------------------------------------------------------------------------


class Reporter(Protocol):
  """Where the loop's numbers go (`reporting.py`)."""

  def progress(self) -> None:
    """One more step is sent."""

  def log(self, step: int, record: Mapping[str, float]) -> None:
    """The averages over the steps since the last record, up to `step`."""


@dataclasses.dataclass(frozen=True)
class Loop:
  """How long to train and what to do on the way, in steps; 0 means never, where allowed."""

  num_train_steps: int
  log_every_steps: int  # at least 1
  eval_every_steps: int  # or 0
  save_checkpoints_steps: int  # or 0: only at the end


@dataclasses.dataclass
class Totals:
  """Host-side counts over a stretch of steps; seconds exclude compilation and evaluation."""

  steps: int = 0
  examples: int = 0
  real_tokens: int = 0
  tokens: int = 0
  seconds: float = 0.0
  waiting_seconds: float = 0.0
  compile_seconds: float = 0.0

  def add(self, other: "Totals") -> None:
    for field in dataclasses.fields(self):
      setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

  def rates(self) -> dict[str, float]:
    """Throughput and shares; empty where nothing was timed."""
    if not self.steps or self.seconds <= 0:
      return {}
    return {"examples_per_step": self.examples / self.steps,
            "examples_per_second": self.examples / self.seconds,
            "tokens_per_second": self.real_tokens / self.seconds,
            "padding_share": 1 - self.real_tokens / self.tokens,
            "waiting_share": self.waiting_seconds / self.seconds}

  def summary(self) -> dict[str, float]:
    """The figures of a run's `summary.json`."""
    return {"steps": self.steps, "examples": self.examples, "real_tokens": self.real_tokens,
            "train_seconds": self.seconds, "compile_seconds": self.compile_seconds, **self.rates()}


class PlacedBatch(NamedTuple):
  """A batch on the devices, and what the host has counted of it."""

  arrays: Batch
  counts: Totals


def place(batch: Mapping[str, np.ndarray]) -> PlacedBatch:
  """Sends a batch [devices, ...] to the local devices; for a thread that is ahead of the step."""
  sequence_ids = batch["sequence_ids"]
  counts = Totals(steps=1, examples=int(sequence_ids.max(axis=-1).sum()),
                  real_tokens=int((sequence_ids > 0).sum()), tokens=sequence_ids.size)
  sharding = _sharding(len(sequence_ids), PartitionSpec(DEVICES))
  return PlacedBatch(jax.device_put(dict(batch), sharding), counts)


def train(state: TrainState, step_fn: Callable[[TrainState, Batch], tuple[TrainState, Sums]],
          batches: Iterable[PlacedBatch], loop: Loop, schedule: optax.Schedule,
          reporter: Reporter, evaluate: Callable[[TrainState], None],
          checkpointer: Checkpointer | None) -> tuple[TrainState, dict[str, float]]:
  """Trains from the state's step to `loop.num_train_steps`.

  Args:
    state: replicated; consumed (its buffers are donated to the first step).
    step_fn: what `pmap_train_step` made.
    batches: the batch of the state's step and all that follow.
    loop: cadences.
    schedule: the optimizer's, for the log.
    reporter: gets every step and every log record.
    evaluate: called every `eval_every_steps`; its time is not training time.
    checkpointer: saves every `save_checkpoints_steps` and at the end; None saves nothing.

  Returns:
    The final state and the run's totals.

  Raises:
    NotFiniteError: a loss or gradient that is not finite; nothing is saved after it.
  """
  meter = _Meter(schedule, int(state.step))
  batches = iter(batches)
  for step in range(int(state.step) + 1, loop.num_train_steps + 1):
    last = step == loop.num_train_steps
    log = last or step == 1 or _due(step, loop.log_every_steps)
    state = meter.run(step_fn, state, batches, log=log, wait=last or step == 1)
    reporter.progress()
    save = checkpointer and (last or _due(step, loop.save_checkpoints_steps))
    # The caller scores the end: what comes due shortly before it is left out.
    score = (loop.num_train_steps - step > loop.eval_every_steps // 2
             and _due(step, loop.eval_every_steps))
    if save or score:
      meter.check()
    for record in meter.records():
      reporter.log(*record)
    with meter.paused():
      if save:
        checkpointer.save(state)
      if score:
        evaluate(state)
  return state, meter.total.summary()


def _due(step: int, every: int) -> bool:
  return every > 0 and step % every == 0


class _Meter:
  """Runs steps, times them, and reads their metrics without waiting for the newest.

  A record covers exactly the steps since the one before it; it is ready when the devices have
  finished its last step, so usually while later ones are on their way.
  """

  def __init__(self, schedule: optax.Schedule, first_step: int):
    self._schedule = schedule
    self._step = first_step
    self._pending: list[tuple[int, Sums, Totals | None]] = []  # sent, not read yet
    self._read: list[dict[str, tuple[float, float]]] = []  # read, not in a record yet
    self._ready: list[tuple[int, dict[str, float]]] = []
    self._stretch = Totals()
    self._shapes: set[tuple[Any, ...]] = set()
    self._mark = time.perf_counter()
    self.total = Totals()

  def run(self, step_fn: Callable[..., Any], state: TrainState, batches: Iterator[PlacedBatch],
          *, log: bool, wait: bool) -> TrainState:
    """Sends one step to the devices, at most two ahead of what they have finished.

    Args:
      step_fn: see `train`.
      state: donated.
      batches: gives the step's batch.
      log: end a record with this step.
      wait: return when the devices have finished it (the first, for its record to be seen at
        once, and the last, for its time).
    """
    start = time.perf_counter()
    batch, counts = next(batches)
    self._stretch.waiting_seconds += time.perf_counter() - start
    self._stretch.add(counts)
    shapes = tuple((name, np.shape(value)) for name, value in sorted(batch.items()))
    start = time.perf_counter()
    state, sums = step_fn(state, batch)
    if shapes not in self._shapes:  # the first call of a shape returns when it has compiled
      self._shapes.add(shapes)
      seconds = time.perf_counter() - start
      self._stretch.compile_seconds += seconds
      self._mark += seconds
    self._step += 1
    if wait:
      jax.block_until_ready(sums)
    self._pending.append((self._step, sums, self._end_stretch() if log else None))
    while len(self._pending) > (0 if wait else 2):
      self._read_oldest()
    return state

  def _end_stretch(self) -> Totals:
    stretch, self._stretch = self._stretch, Totals()
    now = time.perf_counter()
    stretch.seconds, self._mark = now - self._mark, now
    self.total.add(stretch)
    return stretch

  def _read_oldest(self) -> None:
    step, sums, stretch = self._pending.pop(0)
    sums = jax.device_get(sums)
    for name in ("loss", "gradient_norm"):  # a bad gradient spoils what this step leaves behind
      value = float(sums[name][0])
      if not math.isfinite(value):
        raise NotFiniteError(f"the {name} is {value} at step {step}; a lower learning rate, a "
                             "longer warm-up or float32 compute may help. Nothing was saved after "
                             "it.")
    self._read.append({name: (float(a), float(b)) for name, (a, b) in sums.items()})
    if stretch is not None:
      self._ready.append((step, self._average() | {
          "learning_rate": float(self._schedule(step - 1))} | stretch.rates()))

  def _average(self) -> dict[str, float]:
    read, self._read = self._read, []
    counts = {name: sum(sums[name][1] for sums in read) for name in read[0]}
    return {name: sum(sums[name][0] for sums in read) / count
            for name, count in counts.items() if count}

  def check(self) -> None:
    """Reads what is pending: raises NotFiniteError if any step so far went wrong."""
    while self._pending:
      self._read_oldest()

  def records(self) -> list[tuple[int, dict[str, float]]]:
    """The records that have become ready, each once."""
    ready, self._ready = self._ready, []
    return ready

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """A context whose time does not count as training."""
    start = time.perf_counter()
    yield
    self._mark += time.perf_counter() - start


def predict(eval_fn: Callable[[Params, Batch], Array], params: Params,
            batches: Iterable[Batch]) -> np.ndarray:
  """Outputs for every example of weight > 0, in the order of the batches.

  Args:
    eval_fn: what `pmap_eval_step` made; its output is [devices, examples, ...].
    params: replicated.
    batches: arrays [devices, ...] with `weights` [devices, examples].

  Returns:
    [examples, ...] float32.
  """
  outputs, sent = [], []

  def read_oldest() -> None:
    output, weights = sent.pop(0)
    output = np.asarray(output)
    outputs.append(output.reshape(-1, *output.shape[2:])[weights.reshape(-1) > 0])

  for batch in batches:
    sent.append((eval_fn(params, batch), batch["weights"]))
    if len(sent) > 2:  # the devices always have a next batch, and the host no backlog
      read_oldest()
  while sent:
    read_oldest()
  return np.concatenate(outputs)


def sum_over(eval_fn: Callable[[Params, Batch], Sums], params: Params,
             batches: Iterable[Batch]) -> dict[str, tuple[float, float]]:
  """Metric sums and counts over all batches and devices.

  Args:
    eval_fn: what `pmap_eval_step` made; its sums and counts are [devices].
    params: replicated.
    batches: arrays [devices, ...].
  """
  totals: dict[str, tuple[float, float]] = {}
  sent = None
  for batch in itertools.chain(batches, (None,)):
    read, sent = sent, None if batch is None else eval_fn(params, batch)
    if read is not None:  # while the devices have the next one
      for name, (total, count) in jax.device_get(read).items():
        before = totals.get(name, (0.0, 0.0))
        totals[name] = (before[0] + float(np.sum(total, dtype=np.float64)),
                        before[1] + float(np.sum(count, dtype=np.float64)))
  return totals
