"""Train state, the pure train step and its pmap, and the loop over steps.

Knows no task and no file format, and imports neither tensorflow nor datasets nor transformers: a
step can be built and timed on a bare accelerator machine.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import dataclasses
import math
import time
from typing import Any, NamedTuple, Protocol

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import optax

from support import hosts, stopping
from support.selection import Verdict

Array = jax.Array
Batch = Mapping[str, Any]
Params = Mapping[str, Any]
Sums = dict[str, tuple[Array, Array]]  # metric -> (sum, count), divided once, on the host
DEVICES = "batch"  # the name of the device axis


class TrainState(flax.struct.PyTreeNode):
  """All that a step changes, and the key from which its random numbers are derived."""

  step: Array  # int32 scalar: steps done
  params: Params
  opt_state: optax.OptState
  rng: Array  # typed key; never changes


class NotFiniteError(Exception):
  """Raised when the loss or its gradient is NaN or infinite; the message names the step."""


# --- Steps ----------------------------------------------------------------------------------

LossFn = Callable[[Params, Batch, Array, Mapping[str, Array]], tuple[Array, Sums]]
WeighFn = Callable[[Batch], dict[str, Array]]
# (state, batch, learning rate) -> (next state, sums)
TrainStep = Callable[[TrainState, Batch, Any], tuple[TrainState, Sums]]


def create_state(params: Params, optimizer: optax.GradientTransformation,
                 seed: int) -> TrainState:
  """Returns a state at step 0, with another key than the one that initialized the parameters."""
  return TrainState(step=jnp.zeros((), jnp.int32), params=params,
                    opt_state=optimizer.init(params),
                    rng=jax.random.fold_in(jax.random.key(seed), 1))


def train_step(state: TrainState, batch: Batch, learning_rate: Array, *, loss_fn: LossFn,
               weigh: WeighFn, optimizer: optax.GradientTransformation,
               skip_nonfinite: bool = False) -> tuple[TrainState, Sums]:
  """Makes one update from one device's share of the global batch.

  The denominators of the global batch are summed first. The loss is then linear in examples, and
  the gradients of n devices and k micro-batches add up to the gradient of one big batch.

  Args:
    state: equal on all devices, without a device axis.
    batch: arrays [micro_batches, ...].
    learning_rate: float32 scalar, the optimizer's for this update.
    loss_fn: (params, micro-batch, dropout key, totals) -> this micro-batch's *share* of the
      global loss, and the sums and counts of any other metrics.
    weigh: batch -> named sums of weights; their totals over all devices go to `loss_fn`.
    optimizer: such as `optimization.create_optimizer` makes, whose update takes the
      learning rate by name; any other of optax scales by its own.
    skip_nonfinite: leaves out the update where the loss or the gradient's norm is not finite:
      parameters and moments stay as they are, the step and the schedule go on.

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
  update = optax.with_extra_args_support(optimizer).update
  updates, opt_state = update(grads, state.opt_state, state.params, learning_rate=learning_rate)
  params = optax.apply_updates(state.params, updates)
  one, norm = jnp.ones(()), optax.tree.norm(grads)
  if skip_nonfinite:
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    params, opt_state = _updated_if(finite, (params, opt_state), (state.params, state.opt_state))
  sums |= {"loss": (loss, one), "gradient_norm": (norm, one)}
  return state.replace(step=state.step + 1, params=params, opt_state=opt_state), sums


def _updated_if(condition: Array, new: Any, old: Any) -> Any:
  """Returns `new` where the condition holds, else `old`, but always the new schedule's count.

  So the learning rate of step t is the schedule's at t, whatever was left out before.
  """

  def schedules(node: Any) -> bool:
    return isinstance(node, optax.ScaleByScheduleState)

  return jax.tree.map(lambda n, o: n if schedules(n) else jnp.where(condition, n, o), new, old,
                      is_leaf=schedules)


def _sum_over_devices(tree: Any) -> Any:
  """Adds over devices; skipped on one, where XLA's CPU backend would copy every gradient."""
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


def pmap_train_step(step: TrainStep) -> TrainStep:
  """Maps a step over devices: takes batches [devices, micro_batches, ...], donates the state."""
  return jax.pmap(step, axis_name=DEVICES, in_axes=(None, 0, None), out_axes=(None, None),
                  donate_argnums=(0,))


def pmap_eval_step(step: Callable[[Params, Batch], Any]) -> Callable[[Params, Batch], Any]:
  """Maps a step over devices: takes batches and returns outputs [devices, ...]."""
  return jax.pmap(step, axis_name=DEVICES, in_axes=(None, 0), out_axes=0)


def replicate(tree: Any, devices: int | None = None) -> Any:
  """Replicates a pytree over the first `devices` local devices (default: all).

  It gets no device axis. pmap with in_axes=None then needs no copy.
  """
  return jax.device_put(tree, _sharding(devices, PartitionSpec()))


def _sharding(devices: int | None, spec: PartitionSpec) -> NamedSharding:
  return NamedSharding(Mesh(np.asarray(jax.local_devices()[:devices]), (DEVICES,)), spec)


# --- The loop -------------------------------------------------------------------------------


class StepLog(Protocol):
  """The receiver of the loop's numbers, such as `reporting.Reporter`."""

  def progress(self) -> None:
    """Counts one more step, just sent to the devices."""

  def log(self, step: int, record: Mapping[str, float]) -> None:
    """Takes the averages over the steps since the last record, up to `step`.

    The loss is missing if the updates of all of them were left out.
    """

  def say(self, text: str) -> None:
    """Takes a line for the user."""

  def finish(self, summary: Mapping[str, float]) -> None:
    """Takes the totals of all steps."""


class Saver(Protocol):
  """The keeper of the loop's states, such as `checkpointing.Checkpointer`."""

  def save(self, state: TrainState) -> None:
    """Saves a state; the next step may take over its buffers as soon as this returns."""

  def check(self) -> None:
    """Raises an error if a save has failed in the meantime."""


@dataclasses.dataclass(frozen=True)
class Loop:
  """Length of the training, the steps between logs, evaluations and checkpoints, and a bound."""

  num_train_steps: int
  log_every_steps: int  # 0: every 50, and at least 20 times
  eval_every_steps: int  # 0: never
  save_checkpoints_steps: int  # 0: every 1000, and 4 times or at least every 50
  most_skipped: int = 0  # steps in a row that may be left out: see `train_step`'s skip_nonfinite
  ends_early: bool = False  # an evaluation may end the training: see `Verdict`

  @property
  def log_cadence(self) -> int:
    return self.log_every_steps or max(1, min(50, self.num_train_steps // 20))

  @property
  def save_cadence(self) -> int:
    return self.save_checkpoints_steps or max(50, min(1000, self.num_train_steps // 4))

  def evaluates(self, step: int) -> bool:
    """Whether there is an evaluation after a step.

    The caller evaluates the final state, so there is none shortly before the end.
    """
    return (_due(step, self.eval_every_steps)
            and self.num_train_steps - step > self.eval_every_steps // 2)


def ask_all() -> Array:
  """Asks all hosts, without waiting, whether to stop; `read_answer` reads it [local devices]."""
  return _most_of_all(np.full(jax.local_device_count(), stopping.asked(), np.int32))


_most_of_all = jax.pmap(lambda number: jax.lax.pmax(number, DEVICES), axis_name=DEVICES)


def read_answer(asked: Array) -> None:
  """Reads an answer, at the same place on all hosts: all of them stop at the next check."""
  stopping.learn(int(np.asarray(asked)[0]))


@dataclasses.dataclass
class Totals:
  """Counts over some steps; seconds exclude compilation, evaluation and saving."""

  steps: int = 0
  skipped_steps: int = 0  # of them, without an update
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
    """Returns throughput and shares, or nothing if no step was timed."""
    if not self.steps or self.seconds <= 0:
      return {}
    return {"train_seconds": self.seconds, "examples_per_step": self.examples / self.steps,
            "examples_per_second": self.examples / self.seconds,
            "tokens_per_second": self.real_tokens / self.seconds,
            "padding_share": 1 - self.real_tokens / self.tokens,
            "waiting_share": self.waiting_seconds / self.seconds}

  def summary(self) -> dict[str, float]:
    """Returns the figures of a run's `summary.json`."""
    return {"steps": self.steps, "skipped_steps": self.skipped_steps, "examples": self.examples,
            "real_tokens": self.real_tokens, "compile_seconds": self.compile_seconds,
            **self.rates()}


class PlacedBatch(NamedTuple):
  """A batch on the devices, with the host's counts of it."""

  arrays: Batch
  counts: Totals


def place(batch: Mapping[str, np.ndarray]) -> PlacedBatch:
  """Sends a batch [devices, ...] to the local devices; runs in a thread ahead of the steps.

  With several hosts, the real tokens of the others are taken to be as many as this host's.
  """
  sequence_ids, processes = batch["sequence_ids"], jax.process_count()
  counts = Totals(steps=1, examples=int(sequence_ids.max(axis=-1).sum()) * processes,
                  real_tokens=int((sequence_ids > 0).sum()) * processes,
                  tokens=sequence_ids.size * processes)
  sharding = _sharding(len(sequence_ids), PartitionSpec(DEVICES))
  return PlacedBatch(jax.device_put(dict(batch), sharding), counts)


def train(state: TrainState, step_fn: TrainStep, batches: Iterable[PlacedBatch], loop: Loop,
          schedule: optax.Schedule, reporter: StepLog, evaluate: Callable[[TrainState], Verdict],
          checkpointer: Saver | None) -> TrainState:
  """Trains from the state's step to `loop.num_train_steps`, or to where an evaluation ends it.

  Args:
    state: replicated; unusable afterwards (the first step takes over its buffers).
    step_fn: made by `pmap_train_step`.
    batches: the batch of the state's step and all that follow.
    loop: length and cadences.
    schedule: number of steps done -> the next one's learning rate.
    reporter: gets every step, every log record and, before the last save, the totals.
    evaluate: called every `eval_every_steps`; its time is not training time.
    checkpointer: saves every `loop.save_cadence` steps and at the end; None saves nothing.

  Returns:
    The final state.

  Raises:
    NotFiniteError: a loss or gradient that is not finite, `loop.most_skipped` + 1 times in a
      row; nothing is saved after the last.
    stopping.Stopped: a signal came; the last step is saved.
  """
  meter = _Meter(schedule, reporter, loop.most_skipped)
  batches = iter(batches)
  try:
    for step in range(int(state.step) + 1, loop.num_train_steps + 1):
      last = step == loop.num_train_steps
      score = loop.evaluates(step)
      log = (last or step == 1 or _due(step, loop.log_cadence)
             or (score and loop.ends_early))  # all steps have their records when it ends there
      state = meter.run(step, step_fn, state, batches, log=log, wait=last or step == 1)
      if checkpointer:
        checkpointer.check()
      save = last or _due(step, loop.save_cadence)
      if last or save or score:
        with meter.paused():
          if score:  # first: what is logged of a saved step is logged once, whatever is killed
            verdict = evaluate(state)
            last |= verdict.stop
            save |= verdict.save or verdict.stop
          if last:
            reporter.finish(meter.total.summary())
          if save and checkpointer:
            checkpointer.save(state)
      stopping.check()
      if last:
        break
  except stopping.Stopped:  # between two steps, or in an evaluation
    if checkpointer:
      with meter.paused():
        checkpointer.save(state)
    raise
  return state


def _due(step: int, every: int) -> bool:
  return every > 0 and step > 0 and step % every == 0


HostSums = dict[str, tuple[float, float]]  # metric -> (sum, count), as Sums


def _add(totals: HostSums, sums: Mapping[str, tuple[Any, Any]]) -> None:
  """Adds sums and counts on the host, scalars or [devices], to `totals`."""
  for name, pair in sums.items():
    total, count = (float(np.sum(value, dtype=np.float64)) for value in pair)
    before = totals.get(name, (0.0, 0.0))
    totals[name] = before[0] + total, before[1] + count


class _Meter:
  """Runs steps, times them, and logs their metrics without waiting for the newest step.

  A record covers the steps since the record before it. It ends, and is logged, when the devices
  have finished its last step, usually while they work on later ones.
  """

  def __init__(self, schedule: optax.Schedule, reporter: StepLog, most_skipped: int):
    self._schedule, self._reporter = schedule, reporter
    self._most_skipped, self._skipped_in_a_row = most_skipped, 0
    self._skipped = 0  # of the steps that are read but not in a record yet
    # (step, its sums, and the counts of a record that ends with it), sent but not read yet.
    self._pending: collections.deque[tuple[int, Sums, Totals | None]] = collections.deque()
    self._asked: collections.deque[Array] = collections.deque()  # `ask_all` of the same steps
    self._sums: HostSums = {}  # of the steps that are read but not in a record yet
    self._counts = Totals()  # of the steps since the last record's
    self._shapes: set[tuple[Any, ...]] = set()
    self._mark = time.perf_counter()  # the end of the last record, moved on by untimed seconds
    self.total = Totals()

  def run(self, step: int, step_fn: TrainStep, state: TrainState,
          batches: Iterator[PlacedBatch], *, log: bool, wait: bool) -> TrainState:
    """Sends one step to the devices, at most two ahead of the steps that they have finished.

    Args:
      step: its number, from 1.
      step_fn: see `train`.
      state: donated.
      batches: gives the step's batch.
      log: ends a record with this step.
      wait: returns when the devices have finished the step: the first, so that its record is
        logged at once, and the last, so that its time counts.
    """
    start = time.perf_counter()
    batch, counts = next(batches)
    self._counts.waiting_seconds += time.perf_counter() - start
    self._counts.add(counts)
    state, sums = self._compiled(step, step_fn, state, batch)
    self._pending.append((step, sums, self._counts if log else None))
    if hosts.several():
      self._asked.append(ask_all())
    if log:
      self._counts = Totals()
    self._reporter.progress()
    self._read(0 if wait else 2)
    return state

  def _compiled(self, step: int, step_fn: TrainStep, state: TrainState,
                batch: Batch) -> tuple[TrainState, Sums]:
    """Calls the step; the first call of a shape returns when it has compiled, and is timed."""
    rate = np.float32(self._schedule(step - 1))
    shapes = tuple(array.shape for array in jax.tree.leaves(batch))
    if shapes in self._shapes:
      return step_fn(state, batch, rate)
    self._shapes.add(shapes)
    self._read(0)  # or the time of steps under way, two at most, would count as compilation
    start = time.perf_counter()
    result = step_fn(state, batch, rate)
    seconds = time.perf_counter() - start
    self._counts.compile_seconds += seconds
    self._mark += seconds
    return result

  def _read(self, left: int) -> None:
    """Reads the sums of all steps but the last `left`, and logs the records that they end."""
    while len(self._pending) > left:
      step, sums, counts = self._pending.popleft()
      if self._asked:
        read_answer(self._asked.popleft())
      sums = jax.device_get(sums)
      if self._is_finite(step, sums):
        _add(self._sums, sums)
      if counts is not None:
        now = time.perf_counter()
        counts.seconds, self._mark = now - self._mark, now
        counts.skipped_steps, self._skipped = self._skipped, 0
        self.total.add(counts)
        averages = {name: total / count for name, (total, count) in self._sums.items() if count}
        self._sums = {}
        skipped = {"skipped_steps": counts.skipped_steps} if counts.skipped_steps else {}
        self._reporter.log(step, averages | {
            "learning_rate": float(self._schedule(step - 1))} | counts.rates() | skipped)

  def _is_finite(self, step: int, sums: Sums) -> bool:
    """Checks a step's loss and gradient; False: its update was left out.

    Raises:
      NotFiniteError: this may not be left out, and has spoiled the parameters.
    """
    name = next((name for name in ("loss", "gradient_norm")
                 if not math.isfinite(float(sums[name][0]))), None)
    if name is None:
      self._skipped_in_a_row = 0
      return True
    fault = f"the {name} is {float(sums[name][0])} at step {step} (batch {step - 1})"
    self._skipped_in_a_row += 1
    if self._skipped_in_a_row > self._most_skipped:
      after = f", after {self._most_skipped} skipped in a row" if self._most_skipped else ""
      raise NotFiniteError(f"{fault}{after}; a lower learning rate, a longer warm-up or float32 "
                           "compute may help. Nothing was saved after it.")
    self._skipped += 1
    self._reporter.say(f"warning: {fault}: no update ({self._skipped_in_a_row} in a row; "
                       f"{self._most_skipped} may be left out)")
    return False

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """A context for work on a finished, finite state; its time does not count as training."""
    self._read(0)
    start = time.perf_counter()
    yield
    self._mark += time.perf_counter() - start


# --- Evaluation -----------------------------------------------------------------------------


def outputs_of(eval_fn: Callable[[Params, Batch], Any], params: Params,
             batches: Iterable[Batch]) -> Iterator[tuple[Any, Batch]]:
  """Yields each batch and its outputs, with at most two more batches sent to the devices.

  The devices always have a next batch, and the host keeps no backlog.
  """
  sent: collections.deque[tuple[Any, Batch]] = collections.deque()
  for batch in batches:
    stopping.check()
    sent.append((eval_fn(params, batch), batch))
    if len(sent) > 2:
      yield sent.popleft()
  yield from sent


def collect_outputs(eval_fn: Callable[[Params, Batch], Array], params: Params,
                    batches: Iterable[Batch]) -> np.ndarray:
  """Returns the outputs of all examples of weight > 0, in the order of the batches.

  With several hosts, each gives its devices' part of the batches and gets all outputs.

  Args:
    eval_fn: made by `pmap_eval_step`; its output is [devices, examples, ...].
    params: replicated.
    batches: arrays [devices, ...] with `weights` [devices, examples].

  Returns:
    [examples, ...] float32.
  """
  outputs, weights = [], []
  for output, batch in outputs_of(eval_fn, params, batches):
    outputs.append(np.asarray(output))
    weights.append(batch["weights"])
  outputs, weights = (hosts.gathered(np.stack(parts)) for parts in (outputs, weights))
  return outputs[weights > 0]  # [batches, devices, examples, ...] -> [examples, ...]


def sum_over(eval_fn: Callable[[Params, Batch], Sums], params: Params,
             batches: Iterable[Batch]) -> HostSums:
  """Adds metric sums and counts over all batches and devices, those of other hosts included.

  Args:
    eval_fn: made by `pmap_eval_step`; its sums and counts are [devices].
    params: replicated.
    batches: arrays [devices, ...].
  """
  parts = [jax.device_get(sums) for sums, _ in outputs_of(eval_fn, params, batches)]
  totals: HostSums = {}
  if parts:
    joined = jax.tree.map(lambda *values: hosts.gathered(np.stack(values)), *parts)
    for i in range(len(parts)):  # in the order of one host
      _add(totals, jax.tree.map(lambda value, i=i: value[i], joined))
  return totals
