"""The model: parity with HuggingFace's PyTorch BERT, parameter counts, and properties."""

import dataclasses

from conftest import init_params, padded_batch, random_batch
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import checkpoint_utils
import modeling


def size(config):
  """Parameters of encoder and pooler."""
  shapes = jax.eval_shape(modeling.BertModel(config).init, jax.random.key(0),
                          *padded_batch([[0]], [1]).values())
  return sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(shapes))


PUBLISHED_SIZES = {  # encoder and pooler, with bert-base-uncased's vocabulary
    "bert-tiny": 4_385_920, "bert-mini": 11_170_560, "bert-small": 28_763_648,
    "bert-medium": 41_373_184, "bert-base": 109_482_240, "bert-large": 335_141_888}


def test_published_parameter_counts():
  assert {name: size(config) for name, config in modeling.SIZES.items()} == PUBLISHED_SIZES


@pytest.mark.parametrize("make", [
    modeling.BertForPreTraining,
    lambda config: modeling.BertForSequenceClassification(config, 3)])
def test_shapes_of_all_layers_are_those_of_one(tiny_config, make):
  model = make(dataclasses.replace(tiny_config, num_hidden_layers=3))
  initialized = jax.eval_shape(model.init, jax.random.key(0), modeling.one_token())["params"]
  assert modeling.parameter_shapes(model) == initialized


# --- Memory -----------------------------------------------------------------------------------


def test_remat_changes_no_number_and_keeps_less(tiny_config):
  """The same loss and gradients, dropout included; activations are computed again."""
  batch = random_batch(tiny_config)
  batch["masked_lm_positions"] = np.array([1, 2, 14], np.int32)
  plain, again = (modeling.BertForPreTraining(tiny_config, remat=remat) for remat in (False, True))
  params = init_params(plain, batch)

  def gradient(model):
    def loss(params):
      logits, _ = model.apply({"params": params}, batch, deterministic=False,
                              rngs={"dropout": jax.random.key(3)})
      return jnp.sum(jnp.square(logits))
    return jax.value_and_grad(loss)

  kept, recomputed = (jax.jit(gradient(model))(params) for model in (plain, again))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-4, atol=1e-4 * np.abs(a).max()), kept, recomputed)
  assert "remat" not in str(jax.make_jaxpr(gradient(plain))(params))
  assert str(jax.make_jaxpr(gradient(again))(params)).count("remat") >= 2  # one a layer


# --- PyTorch ----------------------------------------------------------------------------------


def torch_twin(model, params, num_labels):
  """HuggingFace's model with our parameters."""
  torch = pytest.importorskip("torch", reason="parity with PyTorch needs torch")
  import transformers

  config = transformers.BertConfig(**dataclasses.asdict(model.config), num_labels=num_labels)
  twin = transformers.BertForSequenceClassification(config).eval()
  tensors = checkpoint_utils.to_huggingface(params, model.config.num_hidden_layers)
  twin.load_state_dict({name: torch.tensor(value) for name, value in tensors.items()})
  return torch, twin


def torch_inputs(torch, batch):
  return {"input_ids": torch.from_numpy(batch["input_ids"]).long(),
          "token_type_ids": torch.from_numpy(batch["token_type_ids"]).long(),
          "attention_mask": torch.from_numpy((batch["sequence_ids"] > 0).astype(np.int64))}


def mean_loss(params, model, batch):
  log_probs = jax.nn.log_softmax(model.apply({"params": params}, batch))
  return -jnp.mean(jnp.take_along_axis(log_probs, batch["labels"][:, None], axis=-1))


loss_and_gradient = jax.jit(jax.value_and_grad(mean_loss), static_argnums=1)


@pytest.mark.parametrize("hidden_act", ["gelu", "gelu_new"])
def test_logits_and_gradients_equal_pytorch(tiny_config, hidden_act):
  config = dataclasses.replace(tiny_config, hidden_act=hidden_act)
  model = modeling.BertForSequenceClassification(config, 3)
  batch = random_batch(config, num_labels=3)
  params = init_params(model, batch)
  torch, twin = torch_twin(model, params, 3)
  output = twin(**torch_inputs(torch, batch), labels=torch.from_numpy(batch["labels"]).long())
  output.loss.backward()
  logits = model.apply({"params": params}, batch)
  np.testing.assert_allclose(logits, output.logits.detach().numpy(), atol=1e-5)
  grads = checkpoint_utils.to_huggingface(loss_and_gradient(params, model, batch)[1],
                                          config.num_hidden_layers)
  expected = {name: p.grad.numpy() for name, p in twin.named_parameters()}
  assert set(grads) == set(expected)
  for name, value in expected.items():
    np.testing.assert_allclose(grads[name], value, atol=1e-5, err_msg=name)


def test_real_minilm_equals_pytorch(minilm):
  checkpoint = checkpoint_utils.find_checkpoint(str(minilm))
  model = modeling.BertForSequenceClassification(checkpoint.config, 2)
  batch = random_batch(checkpoint.config, rows=3, length=40)
  params = jax.jit(model.init)(jax.random.key(0), batch)["params"]
  params, _ = checkpoint_utils.load_params(checkpoint, params)
  torch, twin = torch_twin(model, params, 2)
  logits = model.apply({"params": params}, batch)
  with torch.no_grad():
    expected = twin(**torch_inputs(torch, batch)).logits.numpy()
  np.testing.assert_allclose(logits, expected, atol=1e-5)


# --- Properties -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tiny_config):
  """(model, params, batch) of a tiny classifier."""
  model = modeling.BertForSequenceClassification(tiny_config, 2)
  batch = random_batch(tiny_config)
  return model, init_params(model, batch), batch


def test_padding_changes_nothing(tiny):
  model, params, batch = tiny
  logits = model.apply({"params": params}, batch)
  garbage = {**batch, "input_ids": np.where(batch["sequence_ids"] > 0, batch["input_ids"], 7),
             "token_type_ids": np.where(batch["sequence_ids"] > 0, batch["token_type_ids"], 1)}
  np.testing.assert_array_equal(model.apply({"params": params}, garbage), logits)
  rows, length = batch["input_ids"].shape
  longer = {name: np.pad(value, ((0, 0), (0, 5))) for name, value in batch.items()
            if value.shape == (rows, length)}
  longer["cls_positions"] = (np.arange(rows) * (length + 5)).astype(np.int32)
  np.testing.assert_allclose(model.apply({"params": params}, longer), logits, atol=1e-6)


def test_every_input_matters(tiny):
  model, params, batch = tiny
  logits = model.apply({"params": params}, batch)
  for name in ("input_ids", "token_type_ids", "position_ids"):
    changed = batch[name].copy()
    changed[:, 1] = 1 - changed[:, 1] if name == "token_type_ids" else 9
    different = np.abs(model.apply({"params": params}, {**batch, name: changed}) - logits)
    assert (different.max(axis=-1) > 1e-5).all(), name


def test_a_gradient_reaches_every_parameter(tiny):
  model, params, batch = tiny
  _, grads = loss_and_gradient(params, model, batch)
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    name = jax.tree_util.keystr(path)
    if "['key']['bias']" not in name:  # a shift of all keys leaves the softmax as it is
      assert np.abs(grad).max() > 1e-8, name


def test_initialization(tiny_config):
  config = dataclasses.replace(tiny_config, hidden_size=64, vocab_size=2000)
  model = modeling.BertForSequenceClassification(config, 2)
  params = jax.jit(model.init)(jax.random.key(0), padded_batch([[0]], [1]))["params"]
  table = np.asarray(params["bert"]["embeddings"]["word_embeddings"]["embedding"])
  assert np.abs(table).max() <= 0.04
  # A normal of 0.02 cut at two deviations has 0.8796 of it: no correction for the cut.
  np.testing.assert_allclose(table.std(), 0.02 * 0.8796, rtol=0.01)
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = path[-1].key
    expected = {"bias": 0.0, "scale": 1.0}.get(name)
    assert expected is None or (leaf == expected).all(), path


@pytest.mark.parametrize("remat", [False, True])
def test_only_the_wanted_tokens_leave_the_last_layer(tiny_config, remat):
  """With the values and gradients that they have among all tokens; repeats and order too."""
  config = dataclasses.replace(tiny_config, hidden_dropout_prob=0.0,
                               attention_probs_dropout_prob=0.0)
  model = modeling.BertModel(config, remat=remat)
  batch = padded_batch(np.arange(48).reshape(3, 16) % 11 + 1, [16, 9, 12])
  inputs = [batch[name] for name in ("input_ids", "token_type_ids", "position_ids",
                                     "sequence_ids", "cls_positions")]
  params = jax.jit(model.init)(jax.random.key(0), *inputs)
  positions = np.asarray([33, 5, 5, 16, 24], np.int32)

  def outputs(params, wanted):
    x, pooled, _ = model.apply(params, *inputs, positions if wanted else None)
    x = x if wanted else x.reshape(-1, config.hidden_size)[positions]
    return jnp.sum(jnp.sin(3 * x)) + jnp.sum(jnp.cos(pooled)), (x, pooled)

  gradient = jax.jit(jax.grad(outputs, has_aux=True), static_argnums=1)
  few, of_few = gradient(params, True)
  full, of_full = gradient(params, False)
  assert of_few[0].shape == (5, config.hidden_size)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), of_few, of_full)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(  # gradients go up to 500
      a, b, atol=max(2e-5, 1e-6 * np.abs(b).max())), few, full)


def test_layer_norm_keeps_a_tiny_variance(tiny_config):
  """1e-12 and two passes: numbers that a fast variance or 1e-6 would flatten."""
  x = np.asarray([[1000.0, 1000.001, 999.999, 1000.0]], np.float32)

  class Norm(modeling.nn.Module):
    @modeling.nn.compact
    def __call__(self, x):
      return modeling._layer_norm(x, tiny_config, jnp.float32)

  y, _ = Norm().init_with_output(jax.random.key(0), x)
  expected = (x.astype(np.float64) - x.mean(dtype=np.float64)) / x.std(dtype=np.float64)
  np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-3)


def dropout_masks(tiny_config, seed):
  """Where attention probabilities were kept: [layers, rows, heads, queries, keys] bool."""
  config = dataclasses.replace(tiny_config, hidden_dropout_prob=0.0,
                               attention_probs_dropout_prob=0.5)
  model = modeling.BertForSequenceClassification(config, 2)
  batch = padded_batch(np.full((3, 16), 7), [16] * 3)
  params = jax.jit(model.init)(jax.random.key(0), batch)["params"]
  _, state = model.apply(
      {"params": params}, batch, deterministic=False, rngs={"dropout": jax.random.key(seed)},
      capture_intermediates=lambda module, _: isinstance(module, modeling.Dropout),
      mutable=["intermediates"])
  layers = state["intermediates"]["bert"]
  return np.stack([np.asarray(layers[f"layer_{i}"]["attention"]["Dropout_0"]["__call__"][0]) > 0
                   for i in range(config.num_hidden_layers)])


def test_dropout_masks_are_independent(tiny_config):
  masks, others = dropout_masks(tiny_config, 0), dropout_masks(tiny_config, 1)
  np.testing.assert_allclose(masks.mean(), 0.5, atol=0.03)

  def agreement(a, b):
    return (a == b).mean()

  pairs = {"layer": (masks[0], masks[1]), "example": (masks[:, 0], masks[:, 1]),
           "head": (masks[:, :, 0], masks[:, :, 1]), "key": (masks, others),
           "query": (masks[..., 0, :], masks[..., 1, :])}
  for what, (a, b) in pairs.items():
    assert abs(agreement(a, b) - 0.5) < 0.12, what


def test_keep_mask_keeps_its_rate():
  """The share of zeros, over many keys, is the rate to 1e-4 (4 standard deviations: 6e-5)."""
  masks = jax.jit(jax.vmap(lambda key: jnp.mean(modeling.keep_mask(key, (1 << 20,), 0.1))))
  kept = np.asarray(masks(jax.random.split(jax.random.key(0), 400)), np.float64)
  np.testing.assert_allclose(kept.mean(), 0.9, atol=1e-4)
  # One key's share spreads as that of independent draws: chi-square over the 400 keys.
  spread = ((kept - 0.9) ** 2).sum() / (0.9 * 0.1 / (1 << 20))
  assert 0.001 < scipy.stats.chi2(400).cdf(spread) < 0.999


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_keep_mask_elements_are_independent(rate):
  """Of neighbours and elements any power of two apart, and of eight in a row."""
  size = 1 << 20
  mask = np.asarray(modeling.keep_mask(jax.random.key(3), (size,), rate))
  centred = mask - (1 - rate)
  for lag in 1 << np.arange(19):
    correlation = np.mean(centred[lag:] * centred[:-lag]) / (rate * (1 - rate))
    assert abs(correlation) * np.sqrt(size - lag) < 5, lag
  patterns = np.bincount(np.packbits(mask.reshape(-1, 8), axis=1)[:, 0], minlength=256)
  kept = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1)
  expected = size / 8 * (1 - rate) ** kept * rate ** (8 - kept)
  usual = expected > 5
  statistic = ((patterns - expected) ** 2 / expected)[usual].sum()
  assert 0.0005 < scipy.stats.chi2(usual.sum()).cdf(statistic) < 0.9995


def test_keep_masks_of_neighbouring_keys_are_independent():
  """Steps, devices and layers fold consecutive integers into a key."""
  fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
  keys = jnp.concatenate([fold(jax.random.key(0), jnp.arange(24)),
                          fold(jax.random.fold_in(jax.random.key(0), 1), jnp.arange(24))])
  masks = np.asarray(jax.vmap(lambda key: modeling.keep_mask(key, (1 << 16,), 0.1))(keys))
  centred = (masks - 0.9).astype(np.float64)
  for shift in (0, 1, 7, 128):  # the masks themselves, and one moved against the other
    z = centred @ np.roll(centred, shift, axis=1).T / 0.09 / np.sqrt(1 << 16)
    pairs = z[np.triu_indices(len(z), 1)]
    assert np.abs(pairs).max() < 5
    assert 0.9 < pairs.std() < 1.1


def test_keep_mask_refuses_more_elements_than_it_can_count():
  with pytest.raises(ValueError, match=r"shape \(65536, 65537\) has more than 2\*\*32 elements"):
    jax.eval_shape(lambda key: modeling.keep_mask(key, (65536, 65537), 0.1), jax.random.key(0))


def test_bfloat16_stays_near_float32(tiny, tiny_config):
  """Logits, and the loss and its gradient to a hundredth and a twentieth of themselves."""
  model, params, batch = tiny
  half = modeling.BertForSequenceClassification(tiny_config, 2, jnp.bfloat16)
  logits = half.apply({"params": params}, batch)
  assert logits.dtype == jnp.float32
  np.testing.assert_allclose(logits, model.apply({"params": params}, batch), atol=0.05)
  (loss, gradient), (exact, exact_gradient) = (
      loss_and_gradient(params, m, batch) for m in (half, model))
  np.testing.assert_allclose(loss, exact, rtol=0.01)
  difference = jax.tree.map(jnp.subtract, gradient, exact_gradient)
  assert optax.tree.norm(difference) < 0.05 * optax.tree.norm(exact_gradient)
  fresh = jax.eval_shape(half.init, jax.random.key(0), batch)["params"]
  assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("field,value,message", [
    ("hidden_act", "swish", "'swish' is unknown; known: gelu"),
    ("num_attention_heads", 3, "not a multiple of num_attention_heads 3"),
    ("hidden_dropout_prob", 1.0, r"hidden_dropout_prob must be a number in \[0, 1\), not 1.0"),
    ("layer_norm_eps", float("nan"), r"layer_norm_eps must be a number in \[0, 1\), not nan"),
    ("hidden_size", "16", "hidden_size must be an integer of at least 1, not '16'"),
    ("num_hidden_layers", 0, "num_hidden_layers must be an integer of at least 1, not 0")])
def test_config_errors(tiny_config, field, value, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(tiny_config, **{field: value})


def test_gelu_and_its_gradient_are_those_of_the_normal_distribution():
  x = np.concatenate([np.linspace(-12, 12, 4801), [-40.0, 40.0]])
  value, gradient = jax.vmap(jax.value_and_grad(modeling.ACTIVATIONS["gelu"]))(jnp.asarray(x))
  normal = scipy.stats.norm
  np.testing.assert_allclose(value, x * normal.cdf(x), rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(gradient, normal.cdf(x) + x * normal.pdf(x), rtol=1e-6, atol=1e-6)
