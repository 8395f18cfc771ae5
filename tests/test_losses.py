"""The losses' denominators and targets, beside PyTorch's."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import losses

TARGETS = (losses.Target(0.1), losses.Target(0.0, (0.5, 3.0, 2.0)),
           losses.Target(0.3, (0.5, 3.0, 2.0)))


@pytest.fixture
def outputs():
  """Logits [9, 3] and labels [9], unequally frequent."""
  logits = np.random.default_rng(0).normal(0, 3, (9, 3)).astype(np.float32)
  return logits, np.asarray([0, 0, 0, 0, 0, 2, 2, 1, 0], np.int32)


def shares(logits, labels, target, parts):
  """The parts' shares of the loss of the batch that they make together, added up."""
  model = types.SimpleNamespace(apply=lambda variables, batch, **_: variables["params"][
      batch["rows"]])

  def batch(rows):
    return {"rows": np.asarray(rows), "labels": labels[rows],
            "weights": (np.asarray(rows) != 8).astype(np.float32)}  # the last row is a filler

  def loss(logits):
    totals = losses.classifier_weights(batch(range(9)), target)
    return sum(losses.classifier_loss(logits, batch(rows), None, totals, model=model,
                                      target=target)[0] for rows in parts)

  return jax.value_and_grad(loss)(jnp.asarray(logits))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("parts", [[range(9)], [[0, 1, 5], [2, 7], [3, 4, 6, 8]]])
def test_smoothing_and_class_weights_are_pytorchs(outputs, target, parts):
  """Value and gradient; the mean is weighted over the whole batch, however it is cut."""
  torch = pytest.importorskip("torch")
  logits, labels = outputs
  theirs = torch.tensor(logits, requires_grad=True)
  weight = torch.tensor(target.class_weights) if target.class_weights else None
  expected = torch.nn.CrossEntropyLoss(weight, label_smoothing=target.label_smoothing)(
      theirs[:8], torch.tensor(labels[:8]).long())
  expected.backward()
  loss, gradient = shares(logits, labels, target, parts)
  np.testing.assert_allclose(loss, expected.detach(), rtol=1e-6)
  np.testing.assert_allclose(gradient, theirs.grad, rtol=1e-5, atol=1e-7)


def test_without_them_the_target_is_the_label(outputs):
  logits, labels = outputs
  plain, _ = shares(logits, labels, losses.PLAIN, [range(9)])
  np.testing.assert_allclose(plain, np.mean(losses.example_losses(logits, labels)[:8]), rtol=1e-6)
  equal, _ = shares(logits, labels, losses.Target(0.0, (2.0, 2.0, 2.0)), [range(9)])
  np.testing.assert_allclose(equal, plain, rtol=1e-6)
