"""The step and the loop: devices, accumulation, dropout, logs, repeatability, resume."""

import dataclasses
import functools
import platform
import signal
import subprocess
import sys
import unittest.mock

from conftest import init_params, random_batch, ROOT
import flax.traverse_util
import jax
import numpy as np
import optax
import pytest

from benchmarks.steps import bert_optimizer
import checkpointing
import losses
import modeling
import optimization
from support import stopping
from support.errors import UserError
from support.selection import Verdict
import training

RATE = np.float32(1e-2)  # a learning rate

# --- The step ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tiny_config):
  """(model without dropout, params, batch of 8 with unequal weights)."""
  model = modeling.BertForSequenceClassification(
      dataclasses.replace(tiny_config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
      2)
  batch = random_batch(tiny_config, rows=8)
  batch["weights"] = np.asarray([1, 1, 0, 1, 1, 1, 1, 0], np.float32)
  return model, init_params(model, batch), batch


def split(batch, devices, micro_batches):
  """[8, ...] -> [devices, micro_batches, ...], with [CLS] counted inside each part."""
  parts = devices * micro_batches
  rows, length = batch["input_ids"].shape
  batch = {**batch, "cls_positions": np.tile(np.arange(rows // parts, dtype=np.int32) * length,
                                             parts)}
  return {name: value.reshape(devices, micro_batches, -1, *value.shape[1:])
          for name, value in batch.items()}


def make_step(model, optimizer, devices=1, counter=None, skip_nonfinite=False):

  def loss_fn(params, batch, rng, totals):
    if counter is not None:
      counter.append(batch["input_ids"].shape)
    return losses.classifier_loss(params, batch, rng, totals, model=model)

  step = functools.partial(training.train_step, loss_fn=loss_fn, optimizer=optimizer,
                           weigh=losses.classifier_weights, skip_nonfinite=skip_nonfinite)
  return jax.pmap(step, axis_name=training.DEVICES, in_axes=(None, 0, None), out_axes=(None, None),
                  devices=jax.local_devices()[:devices])


def test_devices_and_accumulation_equal_one_big_batch(tiny):
  """An SGD step shows the gradient itself; Adam would hide a factor."""
  model, params, batch = tiny
  optimizer = optax.sgd(1.0)
  results = {}
  for shape in ((1, 1), (4, 1), (2, 2), (1, 4)):
    state = training.create_state(params, optimizer, seed=0)
    state, sums = make_step(model, optimizer, shape[0])(state, split(batch, *shape), RATE)
    results[shape] = jax.device_get((state.params, sums["loss"], sums["gradient_norm"][0]))
    if shape == (4, 1):  # out_axes=None would hide replicas that have drifted apart
      for leaf in jax.tree.leaves(state.params):
        for shard in leaf.addressable_shards:
          np.testing.assert_array_equal(shard.data, leaf)
  for shape, result in results.items():
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6,
                                   err_msg=str(shape)), result, results[1, 1])
  errors = losses.example_losses(model.apply({"params": params}, batch), batch["labels"])
  np.testing.assert_allclose(  # the two fillers do not count
      results[1, 1][1][0], np.mean(errors[batch["weights"] > 0]), rtol=1e-5)


def test_a_placed_batch_is_with_its_devices_before_the_step(tiny):
  model, params, batch = tiny
  batch = split(batch, 2, 1)
  placed = training.place(batch)
  assert placed.counts.examples == 8
  assert placed.counts.tokens == batch["sequence_ids"].size
  assert placed.counts.real_tokens == (batch["sequence_ids"] > 0).sum()
  optimizer, rate = optax.sgd(0.1), training.replicate(RATE, devices=2)
  step = make_step(model, optimizer, devices=2)
  state, _ = step(training.create_state(params, optimizer, seed=0), placed.arrays, rate)
  with jax.transfer_guard("disallow"):  # whatever is still to be sent fails
    state, sums = step(state, placed.arrays, rate)
    with pytest.raises(Exception, match="Disallowed host-to-device"):
      step(state, batch, rate)
  assert np.isfinite(sums["loss"][0])


def test_the_first_step_of_a_warm_up_moves_nothing(tiny):
  model, params, batch = tiny
  optimizer = bert_optimizer()
  schedule = optimization.create_schedule("joined", 1e-2, 10, 4)
  step = make_step(model, optimizer)
  state, _ = step(training.create_state(params, optimizer, seed=0), split(batch, 1, 1),
                  np.float32(schedule(0)))
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params), params)
  state, _ = step(state, split(batch, 1, 1), np.float32(schedule(1)))
  for name, leaf in flax.traverse_util.flatten_dict(jax.device_get(state.params), sep="/").items():
    before = flax.traverse_util.flatten_dict(params, sep="/")[name]
    assert (leaf != before).any(), name
  assert int(state.step) == 2


def test_dropout_differs_by_step_device_and_micro_batch(tiny, tiny_config):
  """The same examples everywhere: without independent masks their losses would be equal."""
  _, params, _ = tiny
  model = modeling.BertForSequenceClassification(tiny_config, 2)
  one = random_batch(tiny_config, rows=2)
  batch = jax.tree.map(lambda x: np.broadcast_to(x, (2, 2, *x.shape)), one)
  seen = []

  def record(params, batch, rng, totals):
    loss, sums = losses.classifier_loss(params, batch, rng, totals, model=model)
    jax.debug.callback(lambda x: seen.append(float(x)), loss)
    return loss, sums

  step = jax.pmap(functools.partial(training.train_step, loss_fn=record, optimizer=optax.sgd(0.0),
                                    weigh=losses.classifier_weights),
                  axis_name=training.DEVICES, in_axes=(None, 0, None), out_axes=(None, None),
                  devices=jax.local_devices()[:2])
  state = training.create_state(params, optax.sgd(0.0), seed=0)
  for _ in range(2):
    state, _ = step(state, batch, RATE)
  jax.block_until_ready(state)
  jax.effects_barrier()
  assert len(seen) == 8
  assert len(set(seen)) == 8


def test_frozen_modules_keep_their_bits_and_need_no_moments(tiny):
  """Their gradients would be large; neither the norm nor the clipping knows of them."""
  model, params, batch = tiny
  modules = (("bert", "embeddings"), ("bert", "layer_0"))
  optimizer = optimization.train_all_but(bert_optimizer(), modules)
  state = training.create_state(params, optimizer, seed=0)
  step = losses.make_classifier_step(model, optimizer, frozen=modules)
  after, sums = step(training.replicate(state), split(batch, 4, 2), 1e-2)
  is_frozen = flax.traverse_util.flatten_dict(optimization.parameters_of(modules, params), sep="/")
  before = flax.traverse_util.flatten_dict(params, sep="/")
  for name, leaf in flax.traverse_util.flatten_dict(jax.device_get(after.params), sep="/").items():
    assert (leaf.tobytes() == before[name].tobytes()) == is_frozen[name], name
  trained = [leaf.shape for name, leaf in before.items() if not is_frozen[name]]
  moments = [leaf.shape for leaf in jax.tree.leaves(after.opt_state) if leaf.ndim]
  assert sorted(moments) == sorted(2 * trained)

  @jax.jit
  def gradients(params):
    totals = losses.classifier_weights(batch)
    return jax.grad(lambda params: losses.classifier_loss(
        params, batch, jax.random.key(0), totals, model=model)[0])(params)

  grads = flax.traverse_util.flatten_dict(gradients(params), sep="/")
  norm = np.sqrt(sum(np.sum(grads[name]**2) for name in grads if not is_frozen[name]))
  np.testing.assert_allclose(sums["gradient_norm"][0], norm, rtol=1e-4)


# --- The loop ---------------------------------------------------------------------------------


class Log:
  """A reporter that remembers."""

  def __init__(self):
    self.steps, self.records, self.lines = 0, [], []

  def progress(self):
    self.steps += 1

  def log(self, step, record):
    self.records.append((step, record))

  def say(self, text):
    self.lines.append(text)

  def finish(self, summary):
    self.summary = summary


class InterruptedLog(Log):
  """A reporter that ends the run when step 7 is under way."""

  def progress(self):
    super().progress()
    if self.steps == 7:
      raise KeyboardInterrupt


def loop_batches(config, first_step, last_step, rows=(8, 8, 4)):
  """A batch for every step, of shapes that recur, as [1, 1, ...]."""
  for step in range(first_step, last_step):
    yield training.place(split(random_batch(config, rows=rows[step % len(rows)], seed=step), 1, 1))


@pytest.fixture(scope="module")
def compiled(tiny_config):
  """One step function for all loop tests: (step, optimizer, schedule, params, trace counter)."""
  model = modeling.BertForSequenceClassification(tiny_config, 2)
  schedule = optimization.create_schedule("joined", 1e-2, 8, 2)
  optimizer, counter = bert_optimizer(), []
  params = init_params(model, random_batch(tiny_config))
  return make_step(model, optimizer, counter=counter), optimizer, schedule, params, counter


def run_loop(compiled, config, last_step=8, state=None, checkpointer=None, evaluate=None, save=0,
             log=None, ends_early=False):
  step, optimizer, schedule, params, _ = compiled
  state = state or training.create_state(params, optimizer, seed=3)
  loop = training.Loop(last_step, log_every_steps=3, eval_every_steps=2 if evaluate else 0,
                       save_checkpoints_steps=save, ends_early=ends_early)

  def verdict(state):
    return evaluate(state) or Verdict()

  return training.train(state, step, loop_batches(config, int(state.step), last_step), loop,
                        schedule, log or Log(), verdict, checkpointer)


def test_loop_logs_and_repeats_bit_for_bit(compiled, tiny_config):
  log, evaluated = Log(), []
  first = run_loop(compiled, tiny_config, log=log,
                   evaluate=lambda state: evaluated.append(int(state.step)))
  second = run_loop(compiled, tiny_config)
  summary = log.summary
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(first.params),
               jax.device_get(second.params))
  assert log.steps == 8
  assert [step for step, _ in log.records] == [1, 3, 6, 8]
  assert evaluated == [2, 4, 6]  # the end is the caller's
  assert summary["steps"] == 8
  assert summary["examples"] == 3 * 16 + 4 + 8 + 8 - 16 + 8 - 4
  assert 0 < summary["padding_share"] < 1
  assert summary["compile_seconds"] > 0
  np.testing.assert_allclose(log.records[-1][1]["learning_rate"], 1e-2 / 6, rtol=1e-5)


class Device:
  """A device that works on one step after another, and the host's clock, both made up."""

  def __init__(self, step_seconds, compile_seconds, host_seconds=0.0):
    self.now, self.free = 0.0, 0.0  # the host's time, and when the device has done all
    self.step_seconds, self.compile_seconds = step_seconds, compile_seconds
    self.host_seconds, self.shapes, self.waited = host_seconds, set(), []

  def step(self, state, batch, rate):
    shape = batch["input_ids"].shape
    if shape not in self.shapes:
      self.shapes.add(shape)
      self.now += self.compile_seconds
    self.now += self.host_seconds
    self.free = max(self.free, self.now) + self.step_seconds
    return state.replace(step=state.step + 1), {
        "loss": (Promise(self, self.free), 1.0), "gradient_norm": (1.0, 1.0)}


class Promise:
  """A number that the device has at some time."""

  def __init__(self, device, done):
    self.device, self.done = device, done

  def __array__(self, dtype=None, copy=None):
    self.device.now = max(self.device.now, self.done)
    return np.asarray(1.0, dtype)


@pytest.mark.parametrize("host_seconds", [0.0, 0.5, 3.0])
def test_records_tell_when_their_steps_were_done(compiled, tiny_config, monkeypatch, host_seconds):
  """Their seconds add up to the run's, and the first are like the last, whoever is the slower."""
  device, log, untimed = Device(2.0, 10.0, host_seconds), Log(), []
  monkeypatch.setattr(training.time, "perf_counter", lambda: device.now)

  def evaluate(state):
    device.now += 100.0
    untimed.append(100.0)
    return Verdict()

  _, optimizer, schedule, params, _ = compiled
  state = training.create_state(params, optimizer, seed=3)
  training.train(state, device.step, loop_batches(tiny_config, 0, 60),
                 training.Loop(60, 5, 20, 0), schedule, log, evaluate, None)
  summary = log.summary
  seconds = {step: record["train_seconds"] for step, record in log.records}
  each = max(2.0, host_seconds)
  assert list(seconds) == [1, *range(5, 61, 5)]
  assert summary["compile_seconds"] == pytest.approx(2 * (10.0 + host_seconds))
  assert summary["train_seconds"] == pytest.approx(sum(seconds.values()))
  assert device.now == pytest.approx(summary["train_seconds"] + summary["compile_seconds"]
                                     + sum(untimed))
  for step, value in seconds.items():  # a step or two fall to a neighbour
    right = (1 if step == 1 else 4 if step == 5 else 5) * each
    assert value == pytest.approx(right, rel=0.5 if host_seconds else 1e-9), step


def test_what_belongs_to_a_saved_step_is_told_before_it_is_saved(compiled, tiny_config):
  """So that it is there, once, whenever the process is killed."""
  told = []
  log = Log()
  log.log = lambda step, record: told.append(f"log {step}")
  log.finish = lambda summary: told.append("finish")
  checkpointer = unittest.mock.Mock(save=lambda state: told.append(f"save {int(state.step)}"))
  run_loop(compiled, tiny_config, last_step=5, checkpointer=checkpointer, save=2, log=log,
           evaluate=lambda state: told.append(f"score {int(state.step)}"))
  assert told == ["log 1", "score 2", "save 2", "log 3", "save 4", "log 5", "finish", "save 5"]


def test_an_evaluation_may_save_its_state_and_end_the_training(compiled, tiny_config):
  """All steps are in the totals, also those after the last record that was due."""
  log, saved = Log(), []
  verdicts = {2: Verdict(save=True), 4: Verdict(stop=True)}
  state = run_loop(compiled, tiny_config, log=log, ends_early=True,
                   checkpointer=unittest.mock.Mock(save=lambda state: saved.append(
                       int(state.step))),
                   evaluate=lambda state: verdicts[int(state.step)])
  assert int(state.step) == 4
  assert saved == [2, 4]
  assert [step for step, _ in log.records] == [1, 2, 3, 4]
  assert log.summary["steps"] == 4


def test_one_compile_a_shape(compiled, tiny_config):
  *_, counter = compiled
  run_loop(compiled, tiny_config)
  traced = list(counter)
  run_loop(compiled, tiny_config)
  assert counter == traced
  assert len(set(traced)) == 2


def test_another_learning_rate_compiles_nothing(compiled, tiny_config):
  step, optimizer, _, params, counter = compiled
  run_loop(compiled, tiny_config)
  traced = list(counter)
  other = optimization.create_schedule("original", 3e-3, 5, 0)
  run_loop((step, optimizer, other, params, counter), tiny_config, last_step=5)
  assert counter == traced


def test_a_step_is_given_the_schedules_rate_of_the_steps_before_it(compiled, tiny_config):
  _, optimizer, schedule, params, _ = compiled
  rates = []

  def step(state, batch, rate):
    rates.append(rate)
    return state.replace(step=state.step + 1), {"loss": (1.0, 1.0), "gradient_norm": (1.0, 1.0)}

  state = training.create_state(params, optimizer, seed=3).replace(step=2)
  run_loop((step, optimizer, schedule, params, None), tiny_config, state=state)
  assert rates == [np.float32(schedule(t)) for t in range(2, 8)]
  assert {rate.dtype for rate in rates} == {np.dtype("float32")}  # one type: one program


def test_equal_models_and_optimizers_share_a_step(tiny_config):
  make = losses.make_classifier_step
  models = [modeling.BertForSequenceClassification(tiny_config, n) for n in (2, 2, 3)]
  assert make(models[0], bert_optimizer()) is make(models[1], bert_optimizer())
  assert make(models[0], bert_optimizer()) is not make(models[2], bert_optimizer())


def test_resume_equals_uninterrupted_bit_for_bit(compiled, tiny_config, tmp_path):
  _, optimizer, _, params, _ = compiled
  whole = run_loop(compiled, tiny_config)
  fresh = functools.partial(training.create_state, params, optimizer, 3)

  first = checkpointing.Checkpointer(tmp_path, {"config": {}}, keep=1, keep_every=4)
  assert int(first.restore(fresh()).step) == 0
  with pytest.raises(KeyboardInterrupt):
    run_loop(compiled, tiny_config, checkpointer=first, save=2, log=InterruptedLog())
  first.close()
  assert {p.name for p in tmp_path.iterdir()} == {"4", "6"}  # the last, and every 4th

  second = checkpointing.Checkpointer(tmp_path, {"config": {}}, keep=1, keep_every=4)
  state = training.replicate(second.restore(fresh()))
  assert int(state.step) == 6
  log, whole_log = Log(), Log()
  resumed = run_loop(compiled, tiny_config, state=state, checkpointer=second, log=log)
  run_loop(compiled, tiny_config, log=whole_log)
  assert [(s, r["loss"]) for s, r in log.records] == [
      (s, r["loss"]) for s, r in whole_log.records if s > 6]
  second.close()
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(resumed.params),
               jax.device_get(whole.params))
  assert (tmp_path / "8").is_dir()


def test_a_damaged_checkpoint_is_named(compiled, tiny_config, tmp_path):
  _, optimizer, _, params, _ = compiled
  checkpointer = checkpointing.Checkpointer(tmp_path, {"config": {}})
  state = training.replicate(training.create_state(params, optimizer, 3))
  checkpointer.save(state)
  checkpointer.close()
  for file in (tmp_path / "0" / "optimizer").rglob("*"):
    if file.is_file():
      file.write_bytes(file.read_bytes()[:10])
  checkpointer = checkpointing.Checkpointer(tmp_path, {"config": {}})
  with pytest.raises(UserError, match="0 is damaged: .* the only one; bring back"):
    checkpointer.restore(state)
  checkpointer.close()


def test_a_gradient_without_end_stops_the_run_before_it_is_saved(compiled, tiny_config, tmp_path):
  """The loss is finite then, and the parameters are not; after step 1, which is waited for."""
  _, optimizer, schedule, params, _ = compiled

  def step(state, batch, rate):
    norm = np.inf if int(state.step) == 4 else 1.0
    return state.replace(step=state.step + 1), {"loss": (1.0, 1.0), "gradient_norm": (norm, 1.0)}

  checkpointer = checkpointing.Checkpointer(tmp_path, {"config": {}})
  with pytest.raises(training.NotFiniteError, match="the gradient_norm is inf at step 5 "):
    training.train(training.create_state(params, optimizer, seed=3), step,
                   loop_batches(tiny_config, 0, 8), training.Loop(8, 3, 0, 1), schedule, Log(),
                   lambda state: None, checkpointer)
  checkpointer.close()
  assert sorted(folder.name for folder in tmp_path.iterdir()) == ["3", "4"]


def test_an_update_that_is_not_finite_is_left_out(tiny):
  """Parameters and moments keep their bits; step and schedule go on, as after an empty batch."""
  model, params, batch = tiny
  optimizer = bert_optimizer()
  step = make_step(model, optimizer, devices=2, skip_nonfinite=True)
  whole = split(batch, 2, 1)
  spoiled = {**whole, "weights": whole["weights"].copy()}
  spoiled["weights"][1, 0, 0] = np.nan  # on one of the two devices
  start = training.create_state(params, optimizer, seed=0)
  first, _ = step(start, whole, RATE)
  same, sums = step(first, spoiled, RATE)
  assert np.isnan(sums["loss"][0])
  assert int(same.step) == 2
  assert flat(same.params) == flat(first.params)
  counts = [leaf for leaf in jax.tree.leaves(same.opt_state) if leaf.dtype == np.int32]
  assert sorted(map(int, counts)) == [1, 2]  # Adam's, the schedule's

  def moments(state):
    return flat([leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim])

  assert moments(same) == moments(first)
  after, _ = step(same, whole, RATE)
  plain, _ = step(first, whole, RATE)
  assert flat(after.params) != flat(first.params)
  assert moments(after) == moments(plain)  # the same gradient: nothing of the NaN is left


def flat(tree):
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("bad,most,ends", [
    ({3}, 1, None), ({3, 4}, 2, None), ({3, 5}, 1, None),
    ({3, 4}, 1, "the loss is nan at step 4 \\(batch 3\\), after 1 skipped in a row; a lower"),
    ({5, 6, 7}, 2, "the loss is nan at step 7 \\(batch 6\\), after 2 skipped in a row; a lower")])
def test_skipped_steps_are_named_and_counted(compiled, tiny_config, bad, most, ends):
  _, optimizer, schedule, params, _ = compiled
  log = Log()

  def step(state, batch, rate):
    number = int(state.step) + 1
    loss = np.nan if number in bad else float(number)
    return state.replace(step=state.step + 1), {"loss": (loss, 1.0), "gradient_norm": (1.0, 1.0)}

  def train():
    training.train(training.create_state(params, optimizer, seed=3), step,
                   loop_batches(tiny_config, 0, 8), training.Loop(8, 2, 0, 0, most), schedule, log,
                   lambda state: None, None)

  if ends:
    with pytest.raises(training.NotFiniteError, match=ends):
      train()
    return
  train()
  assert log.summary["skipped_steps"] == len(bad)
  assert [line.split(";")[0] for line in log.lines] == [
      f"warning: the loss is nan at step {number} (batch {number - 1}): no update "
      f"({1 + (number - 1 in bad)} in a row" for number in sorted(bad)]
  for number, record in log.records[1:]:
    covered = {number - 1, number} - {1}  # step 1 has a record of its own
    counted = covered - bad
    assert record.get("skipped_steps", 0) == len(covered - counted)
    assert record.get("loss") == (np.mean(list(counted)) if counted else None)


def test_the_first_step_is_told_before_the_second(compiled, tiny_config):
  step, optimizer, schedule, params, _ = compiled
  log, told = Log(), []

  def watched():
    for batch in loop_batches(tiny_config, 0, 4):
      told.append([step for step, _ in log.records])
      yield batch

  training.train(training.create_state(params, optimizer, seed=3), step, watched(),
                 training.Loop(4, 10, 0, 0), schedule, log, lambda state: None, None)
  assert told == [[], [1], [1], [1]]


def test_a_signal_is_obeyed_between_two_steps_and_the_step_is_saved(compiled, tiny_config,
                                                                    tmp_path, monkeypatch):
  monkeypatch.setattr(stopping, "_received", 0)  # and puts it back
  handler = signal.signal(signal.SIGTERM, stopping._answer)
  _, optimizer, schedule, params, _ = compiled
  checkpointer, log = checkpointing.Checkpointer(tmp_path, {"config": {}}), Log()

  def step(state, batch, rate):
    if int(state.step) == 4:
      signal.raise_signal(signal.SIGTERM)
    return state.replace(step=state.step + 1), {"loss": (1.0, 1.0), "gradient_norm": (1.0, 1.0)}

  with pytest.raises(stopping.Stopped), stopping.noted():
    training.train(training.create_state(params, optimizer, seed=3), step,
                   loop_batches(tiny_config, 0, 8), training.Loop(8, 1, 0, 0), schedule, log,
                   lambda state: None, checkpointer)
  assert stopping.exit_status() == 143
  signal.signal(signal.SIGTERM, handler)
  checkpointer.close()
  assert [folder.name for folder in tmp_path.iterdir()] == ["5"]
  assert log.records[-1][0] == 5


def test_a_nan_stops_the_run_and_saves_nothing(compiled, tiny_config, tmp_path):
  _, optimizer, _, params, _ = compiled
  broken = jax.tree.map(lambda x: np.full_like(x, np.nan), params)
  checkpointer = checkpointing.Checkpointer(tmp_path, {"config": {}})
  with pytest.raises(training.NotFiniteError, match="the loss is nan at step 1 "):
    run_loop(compiled, tiny_config, state=training.create_state(broken, optimizer, 0),
             checkpointer=checkpointer, save=1)
  checkpointer.close()
  assert not list(tmp_path.iterdir())


def test_freed_memory_is_used_again():
  """The second time a large block is asked for, Linux has no page to bring."""
  script = ("import resource, sys; sys.path.insert(0, sys.argv[1]); import ctypes\n"
            "from support import devices\n"
            "devices.keep_freed_memory()\n"
            "libc = ctypes.CDLL(None)\n"
            "libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]\n"
            "libc.free.argtypes = [ctypes.c_void_p]\n"
            "def faults():\n"
            "  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
            "  block = libc.malloc(1 << 28)\n"
            "  ctypes.memset(block, 1, 1 << 28)\n"
            "  libc.free(block)\n"
            "  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
            "print(faults(), faults())")
  if platform.libc_ver()[0] != "glibc":
    pytest.skip("only glibc has the settings")
  run = subprocess.run([sys.executable, "-c", script, str(ROOT)], check=True, text=True,
                       capture_output=True)
  first, second = map(int, run.stdout.split())
  assert second < 100 <= first
