"""Parity with google-research/bert: its checkpoint, activations, gradients and 20 steps.

`tests/golden` holds figures computed by the original TensorFlow 1 graph (vocab 128, hidden 32,
2 layers, float32, dropout 0).
"""

import functools

from conftest import GOLDEN, padded_batch
import flax.traverse_util
import jax
import numpy as np
import pytest

import checkpoint_utils
from losses import pretraining_loss, pretraining_weights
import modeling
import optimization
import training

RTOL = 1e-4

# The value of global_step that each of the 20 recorded steps saw. TensorFlow 1 does not order
# the schedule's read of the variable against its increment: most steps of the recording read
# the incremented value, steps 1, 13 and 18 their own. (Every recorded loss singles these out:
# any other value is off by 1e-4 or more.)
GLOBAL_STEPS = np.array([1, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 13, 15, 16, 17, 18, 18, 20])


def close(actual, expected, rtol=RTOL, atol=2e-6):
  np.testing.assert_allclose(np.asarray(actual), expected, rtol=rtol, atol=atol)


@pytest.fixture(scope="module")
def bert():
  """The original's checkpoint in our model: (model, params)."""
  checkpoint = checkpoint_utils.find_checkpoint(str(GOLDEN))
  model = modeling.BertForPreTraining(checkpoint.config)
  fresh = jax.eval_shape(model.init, jax.random.key(0), batch_of(np.load(GOLDEN / "forward.npz")))
  params, report = checkpoint_utils.load_params(checkpoint, fresh["params"])
  assert len(report.loaded) == 46
  assert not report.initialized
  assert not report.ignored
  return model, params


def batch_of(arrays):
  """The original's features [batch, ...] in the project's format."""
  input_ids = arrays["input_ids"]
  rows, length = input_ids.shape
  batch = padded_batch(input_ids, arrays["input_mask"].sum(-1), arrays["segment_ids"])
  positions = arrays["masked_lm_positions"] + np.arange(rows)[:, None] * length
  return batch | {"masked_lm_positions": positions.reshape(-1).astype(np.int32),
                  "masked_lm_ids": arrays["masked_lm_ids"].reshape(-1),
                  "masked_lm_weights": arrays["masked_lm_weights"].reshape(-1),
                  "next_sentence_labels": arrays["next_sentence_labels"].reshape(-1),
                  "next_sentence_weights": np.ones(rows, np.float32)}


def mean(sums, name):
  total, count = sums[name]
  return total / count


def google_names(params, layers=2):
  """Our parameter tree under the original's names and orientations."""
  flat = flax.traverse_util.flatten_dict(params, sep="/")
  names = {w.ours: w for w in checkpoint_utils._expand(checkpoint_utils.WEIGHTS, layers)}
  return {names[k].google.replace("/", "."): v.T if "google" in names[k].transposed else v
          for k, v in flat.items()}


def test_activations_and_losses(bert):
  model, params = bert
  golden = np.load(GOLDEN / "forward.npz")
  batch = batch_of(golden)
  masked_lm, next_sentence = model.apply({"params": params}, batch)
  _, state = modeling.BertModel(model.config).apply(
      {"params": params["bert"]},
      *(batch[name] for name in ("input_ids", "token_type_ids", "position_ids", "sequence_ids",
                                 "cls_positions")),
      capture_intermediates=True, mutable=["intermediates"])
  inner = state["intermediates"]
  real = golden["input_mask"].astype(bool)
  close(inner["embeddings"]["__call__"][0][0], golden["embedding_output"])
  for layer in ("layer_0", "layer_1"):
    close(inner[layer]["__call__"][0][real], golden[layer][real])
  sequence_output, pooled_output, _ = inner["__call__"][0]
  close(sequence_output[real], golden["sequence_output"][real])
  close(pooled_output, golden["pooled_output"])
  close(jax.nn.log_softmax(masked_lm), golden["masked_lm_log_probs"])
  close(jax.nn.log_softmax(next_sentence), golden["next_sentence_log_probs"])
  loss, sums = pretraining_loss(params, batch, jax.random.key(0), pretraining_weights(batch),
                                model=model)
  close(loss, golden["masked_lm_loss"] + golden["next_sentence_loss"])
  close(mean(sums, "masked_lm_loss"), golden["masked_lm_loss"])
  close(mean(sums, "next_sentence_loss"), golden["next_sentence_loss"])


def test_gradients(bert):
  model, params = bert
  batch = batch_of(np.load(GOLDEN / "forward.npz"))
  gradient = jax.jit(jax.grad(functools.partial(pretraining_loss, model=model), has_aux=True))
  grads, _ = gradient(params, batch, jax.random.key(0), pretraining_weights(batch))
  grads, golden = google_names(grads), np.load(GOLDEN / "grads.npz")
  assert set(grads) == set(golden)
  for name, expected in golden.items():
    close(grads[name], expected, atol=1e-4 * np.abs(expected).max() + 1e-8)


@pytest.mark.parametrize("devices,micro_batches", [(1, 1), (2, 2)])
def test_twenty_steps_of_the_original_optimizer(bert, devices, micro_batches):
  """Losses, the norm before clipping, and every variable after 20 steps, however it is split."""
  model, params = bert
  trace = np.load(GOLDEN / "train_trace.npz")
  schedule = optimization.create_schedule("original", float(trace["learning_rate"]),
                                      int(trace["num_train_steps"]),
                                      int(trace["num_warmup_steps"]))
  optimizer = optimization.create_optimizer(
      "adamw", b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01, max_grad_norm=1.0,
      bias_correction=False)
  step = functools.partial(training.train_step, optimizer=optimizer, weigh=pretraining_weights,
                           loss_fn=functools.partial(pretraining_loss, model=model))
  step = jax.pmap(step, axis_name=training.DEVICES, in_axes=(None, 0, None), out_axes=(None, None),
                  devices=jax.local_devices()[:devices])
  state = training.create_state(params, optimizer, seed=0)
  for t in range(20):
    arrays = {name: trace[name][t] for name in trace if trace[name].ndim > 1}
    split = [batch_of({k: v[rows] for k, v in arrays.items()})
             for rows in np.arange(4).reshape(devices * micro_batches, -1)]
    batch = jax.tree.map(lambda *x: np.stack(x).reshape(devices, micro_batches, *x[0].shape),
                         *split)
    state, sums = step(state, batch, np.float32(schedule(GLOBAL_STEPS[t])))
    close(mean(sums, "masked_lm_loss"), trace["masked_lm_loss"][t])
    close(mean(sums, "next_sentence_loss"), trace["next_sentence_loss"][t])
    close(sums["gradient_norm"][0], trace["grad_norm_before_clip"][t])
  after = google_names(jax.device_get(state.params))
  golden = np.load(GOLDEN / "params_after_training.npz")
  for name, expected in golden.items():
    close(after[name], expected, atol=2e-6)
