"""Schedules, weight decay by path, clipping, and one update of each optimizer by hand."""

from conftest import random_batch
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import modeling
import optimization


@pytest.mark.parametrize("examples,batch,epochs,expected", [
    (8551, 32, 3, (801, 80)), (4076, 32, 3.0, (382, 38)), (31, 32, 1, (0, 0))])
def test_training_steps(examples, batch, epochs, expected):
  assert optimization.training_steps(examples, batch, epochs, 0.1) == expected
  assert optimization.training_steps(examples, batch, epochs, 0.1, max_steps=25) == (25, 2)


def test_joined_schedule_peaks_and_ends_at_zero():
  rates = [float(optimization.create_schedule("joined", 2.0, 10, 4)(t)) for t in range(11)]
  np.testing.assert_allclose(rates, [0, .5, 1, 1.5, 2, 5 / 3, 4 / 3, 1, 2 / 3, 1 / 3, 0], rtol=1e-6)


def test_original_schedule_drops_where_warm_up_ends():
  rates = [float(optimization.create_schedule("original", 2.0, 10, 4)(t)) for t in range(11)]
  np.testing.assert_allclose(rates, [0, .5, 1, 1.5, 1.2, 1, .8, .6, .4, .2, 0], rtol=1e-6,
                             atol=1e-7)


def test_a_schedule_without_warm_up_starts_at_its_peak():
  for kind in ("joined", "original"):
    assert float(optimization.create_schedule(kind, 2.0, 10, 0)(0)) == 2.0
  with pytest.raises(ValueError, match="must be 'joined' or 'original', not 'cosine'"):
    optimization.create_schedule("cosine", 2.0, 10, 0)


def test_equal_settings_give_one_optimizer():
  assert make_optimizer() is make_optimizer()
  assert make_optimizer() is not make_optimizer(weight_decay=0.1)


def test_decay_mask_by_name(tiny_config):
  """Only LayerNorms and biases are spared: 5 x 2 LayerNorm leaves, 2 x 6 + 2 biases."""
  batch = random_batch(tiny_config)
  model = modeling.BertForSequenceClassification(tiny_config, 2)
  shapes = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
  mask = flax.traverse_util.flatten_dict(optimization.decay_mask(shapes), sep="/")
  spared = {name for name, decays in mask.items() if not decays}
  assert len(spared) == 10 + 14
  assert all(name.endswith("/bias") or "layer_norm/" in name for name in spared)
  assert mask["bert/embeddings/position_embeddings/embedding"]
  assert mask["bert/pooler/dense/kernel"]
  assert mask["classifier/kernel"]
  assert not mask["bert/layer_0/attention/query/bias"]
  assert not mask["bert/layer_1/layer_norm/scale"]


def make_optimizer(**changes):
  settings = {"b1": 0.9, "b2": 0.999, "eps": 1e-6, "weight_decay": 0.01, "max_grad_norm": 1.0,
              "bias_correction": True} | changes
  return optimization.create_optimizer("adamw", **settings)


@pytest.mark.parametrize("bias_correction", [True, False])
def test_one_adamw_update_by_hand(bias_correction):
  params = {"kernel": jnp.asarray([3.0, -4.0]), "bias": jnp.asarray([1.0])}
  grads = {"kernel": jnp.asarray([30.0, 40.0]), "bias": jnp.asarray([0.0])}
  optimizer = make_optimizer(bias_correction=bias_correction)
  updates, _ = optimizer.update(grads, optimizer.init(params), params, learning_rate=0.1)
  clipped = np.asarray([0.6, 0.8])  # the norm is 50, not 2,500
  m, v = 0.1 * clipped, 0.001 * clipped**2
  if bias_correction:
    m, v = m / 0.1, v / 0.001
  expected = -0.1 * (m / (np.sqrt(v) + 1e-6) + 0.01 * np.asarray([3.0, -4.0]))
  np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-5)
  np.testing.assert_allclose(updates["bias"], [0.0], atol=1e-12)


@pytest.mark.parametrize("limit,expected", [(1.0, [0.06, 0.08]), (0.0, [3.0, 4.0])])
def test_clipping_is_by_the_norm_and_can_be_off(limit, expected):
  """Seen in Adam's first moment, before its own scaling hides a factor."""
  params = {"kernel": jnp.zeros(2)}
  optimizer = make_optimizer(max_grad_norm=limit)
  grads = {"kernel": jnp.asarray([30.0, 40.0])}  # the norm is 50, not 2,500
  _, state = optimizer.update(grads, optimizer.init(params), params, learning_rate=1.0)
  np.testing.assert_allclose(state[1].mu["kernel"], expected, rtol=1e-5)


@pytest.mark.parametrize("bias_correction", [True, False])
def test_one_lamb_update_by_hand(bias_correction):
  """Algorithm 2 of the paper; biases and LayerNorm keep Adam's step."""
  params = {"kernel": jnp.asarray([3.0, -4.0]), "zero": jnp.zeros(2), "bias": jnp.asarray([2.0])}
  grads = {"kernel": jnp.asarray([0.3, 0.4]), "zero": jnp.asarray([0.1, 0.0]),
           "bias": jnp.asarray([0.5])}
  optimizer = optimization.create_optimizer(
      "lamb", b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01, max_grad_norm=0.0,
      bias_correction=bias_correction)
  updates, _ = optimizer.update(grads, optimizer.init(params), params, learning_rate=0.1)

  def direction(g):
    m, v = (g, g**2) if bias_correction else (0.1 * g, 0.001 * g**2)
    return m / (np.sqrt(v) + 1e-6)

  ratio = direction(np.asarray([0.3, 0.4])) + 0.01 * np.asarray([3.0, -4.0])
  expected = -0.1 * 5.0 / np.linalg.norm(ratio) * ratio  # the kernel's norm is 5
  np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-4)
  np.testing.assert_allclose(updates["zero"], -0.1 * direction(np.asarray([0.1, 0.0])), rtol=1e-4)
  np.testing.assert_allclose(updates["bias"], -0.1 * direction(np.asarray([0.5])), rtol=1e-4)


def tree_of(layers, value):
  """Parameters of `layers` layers and what is below and above them; each is `value`."""
  names = ("embeddings/layer_norm/scale", *(f"layer_{i}/output/kernel" for i in range(layers)),
           "pooler/dense/kernel")
  flat = {f"bert/{name}": jnp.asarray(value) for name in names}
  return flax.traverse_util.unflatten_dict({**flat, "classifier/kernel": jnp.asarray(value)}, "/")


@pytest.mark.parametrize("kind", ["adamw", "lamb"])
@pytest.mark.parametrize("frozen", [(), (("bert", "embeddings"), ("bert", "layer_0"))])
def test_learning_rates_by_depth(kind, frozen):
  """Of 11 layers, so that layer_10 is not taken for layer_1; 0.5 is exact."""
  params, grads = tree_of(11, [3.0, -4.0]), tree_of(11, [0.3, 0.4])
  updates = {}
  for decay in (1.0, 0.5):
    optimizer = optimization.train_all_but(optimization.create_optimizer(
        kind, b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01, max_grad_norm=1.0,
        bias_correction=True, layerwise_lr_decay=decay), frozen)
    update, _ = optimizer.update(grads, optimizer.init(params), params, learning_rate=0.1)
    updates[decay] = flax.traverse_util.flatten_dict(update["bert"] | {
        "classifier": update["classifier"]}, sep="/")
  expected = {"embeddings/layer_norm/scale": 0.5**12, "pooler/dense/kernel": 1.0,
              "classifier/kernel": 1.0,
              **{f"layer_{i}/output/kernel": 0.5**(11 - i) for i in range(11)}}
  assert set(updates[0.5]) == set(expected)
  for name, factor in expected.items():
    np.testing.assert_array_equal(updates[0.5][name], factor * updates[1.0][name], name)
    assert updates[1.0][name].any() != any(("bert", *name.split("/"))[:2] == m for m in frozen)


def test_one_step_with_rates_by_depth_by_hand():
  """AdamW's first step of two layers: lr * decay^k * (sign of the gradient + weight decay)."""
  params, grads = tree_of(2, [3.0, -4.0]), tree_of(2, [0.3, 0.4])
  optimizer = make_optimizer(layerwise_lr_decay=0.9)
  updates, _ = optimizer.update(grads, optimizer.init(params), params, learning_rate=0.1)
  params = optax.apply_updates(params, updates)
  kernel = np.asarray([1.0, 1.0]) + 0.01 * np.asarray([3.0, -4.0])
  for leaf, rate, step in ((params["bert"]["embeddings"]["layer_norm"]["scale"], 0.0729, 1.0),
                           (params["bert"]["layer_0"]["output"]["kernel"], 0.081, kernel),
                           (params["bert"]["layer_1"]["output"]["kernel"], 0.09, kernel),
                           (params["bert"]["pooler"]["dense"]["kernel"], 0.1, kernel),
                           (params["classifier"]["kernel"], 0.1, kernel)):
    np.testing.assert_allclose(leaf, np.asarray([3.0, -4.0]) - rate * step, rtol=1e-5)


def test_an_unknown_optimizer_is_refused():
  with pytest.raises(ValueError, match="optimizer must be 'adamw' or 'lamb', not 'sgd'"):
    optimization.create_optimizer("sgd", b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.0,
                                  max_grad_norm=0.0, bias_correction=True)
