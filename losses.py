"""The losses of classification and pre-training, their denominators, and the train steps.

Imports neither tensorflow nor datasets nor transformers, as `training.py`. Shapes have the
letters of `modeling.py`, and c for classes.
"""

from collections.abc import Mapping
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import modeling
import optimization
import training


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns nats [e] from logits [e, c] and labels [e].

  A masked sum picks the label's logit: it and its gradient fuse with the softmax's passes over
  the logits. Indexing would need a scatter and a copy of the logits.
  """
  return jax.nn.logsumexp(logits, axis=-1) - _label_logits(logits, labels)


def _label_logits(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns each label's logit [e] from logits [e, c] and labels [e]."""
  classes = jax.lax.broadcasted_iota(labels.dtype, logits.shape, 1)  # [e, c]
  return jnp.sum(jnp.where(classes == labels[:, None], logits, 0.0), axis=-1)


# --- Classification ---------------------------------------------------------------------------


def example_losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns losses [e] from logits [e, c]: squared errors for float labels, else cross entropy.

  Labels [e, c] of 0 and 1 take the mean over the classes of the cross entropy of each (PyTorch's
  BCEWithLogitsLoss).
  """
  if labels.ndim == 2:
    return jnp.mean(jax.nn.softplus(logits) - logits * labels, axis=-1)
  if jnp.issubdtype(labels.dtype, jnp.floating):
    return jnp.square(logits[:, 0] - labels)
  return cross_entropy(logits, labels)


class Target(NamedTuple):
  """What the classifier's training loss differs in from `example_losses`.

  As `torch.nn.CrossEntropyLoss(weight, label_smoothing)`, whose mean is weighted too.

  Attributes:
    label_smoothing: share of the target that is spread over all classes alike (Szegedy et al.,
      2016, https://arxiv.org/abs/1512.00567, section 7).
    class_weights: [c], what each class counts; () for 1 each.
  """

  label_smoothing: float = 0.0
  class_weights: tuple[float, ...] = ()

  def losses(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns losses [e] from logits [e, c] and labels [e], each times its classes' weights."""
    losses = self.weights(labels) * example_losses(logits, labels)
    if not self.label_smoothing:
      return losses
    nats = -jax.nn.log_softmax(logits)  # [e, c]
    if self.class_weights:
      nats *= jnp.asarray(self.class_weights)[None]
    return ((1 - self.label_smoothing) * losses
            + self.label_smoothing * jnp.mean(nats, axis=-1))

  def weights(self, labels: jax.Array) -> jax.Array | float:
    """Returns the weight of each label's class, in the shape of the labels."""
    return jnp.asarray(self.class_weights)[labels] if self.class_weights else 1.0


PLAIN = Target()


def classifier_loss(params: training.Params, batch: training.Batch, rng: jax.Array,
                    totals: Mapping[str, jax.Array], *,
                    model: modeling.BertForSequenceClassification, target: Target = PLAIN,
                    frozen: optimization.Modules = ()) -> tuple[jax.Array, training.Sums]:
  """Returns this micro-batch's share of the global batch's mean loss (`training.LossFn`).

  Args:
    params: no gradient reaches the modules `frozen` of them.
    batch: a micro-batch.
    rng: of dropout.
    totals: `classifier_weights` of the global batch.
    model: gives the logits.
    target: see there.
    frozen: see `optimization.stop_gradients`.
  """
  logits = model.apply({"params": optimization.stop_gradients(params, frozen)}, batch,
                       deterministic=False, rngs={"dropout": rng})
  loss = jnp.sum(batch["weights"] * target.losses(logits, batch["labels"]))
  return loss / totals["weights"], {}


def classifier_weights(batch: training.Batch, target: Target = PLAIN) -> dict[str, jax.Array]:
  """Returns the denominator of `classifier_loss` (`training.WeighFn`)."""
  return {"weights": jnp.sum(batch["weights"] * target.weights(batch["labels"]))}


# --- Pre-training -----------------------------------------------------------------------------


def metric_sums(masked_lm_logits: jax.Array, next_sentence_logits: jax.Array,
                batch: training.Batch) -> training.Sums:
  """Returns sums and counts of both losses and accuracies (`metric_fn` of the original).

  A prediction is right if no logit [m, v] is above the label's. This maximum costs nothing beside
  the loss; an argmax would add a third to the head's time on XLA's CPU backend.
  """
  sums = {}
  for name, logits, labels, weights in (
      ("masked_lm", masked_lm_logits, batch["masked_lm_ids"], batch["masked_lm_weights"]),
      ("next_sentence", next_sentence_logits, batch["next_sentence_labels"],
       batch["next_sentence_weights"])):
    right = (_label_logits(logits, labels) >= jnp.max(logits, axis=-1)).astype(jnp.float32)
    count = jnp.sum(weights)
    sums[f"{name}_loss"] = jnp.sum(weights * cross_entropy(logits, labels)), count
    sums[f"{name}_accuracy"] = jnp.sum(weights * right), count
  return sums


def pretraining_loss(params: training.Params, batch: training.Batch, rng: jax.Array,
                     totals: Mapping[str, jax.Array], *, model: modeling.BertForPreTraining
                     ) -> tuple[jax.Array, training.Sums]:
  """Returns this micro-batch's share of masked-LM + next-sentence loss (`training.LossFn`).

  Each is a mean over the global batch; the 1e-5 is the original's (`get_masked_lm_output`).
  """
  logits = model.apply({"params": params}, batch, deterministic=False, rngs={"dropout": rng})
  sums = metric_sums(*logits, batch)
  masked_lm = sums["masked_lm_loss"][0] / (totals["masked_lm"] + 1e-5)
  next_sentence = sums["next_sentence_loss"][0] / jnp.maximum(totals["next_sentence"], 1.0)
  return masked_lm + next_sentence, sums


def pretraining_weights(batch: training.Batch) -> dict[str, jax.Array]:
  """Returns the denominators of `pretraining_loss` (`training.WeighFn`)."""
  return {"masked_lm": jnp.sum(batch["masked_lm_weights"]),
          "next_sentence": jnp.sum(batch["next_sentence_weights"])}


# --- Steps ------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=16)  # of equal model and optimizer: traced and compiled once
def make_classifier_step(model: modeling.BertForSequenceClassification,
                         optimizer: optax.GradientTransformation,
                         skip_nonfinite: bool = False, target: Target = PLAIN,
                         frozen: optimization.Modules = ()) -> training.TrainStep:
  """Returns the pmapped `training.train_step` with this loss."""
  return training.pmap_train_step(functools.partial(
      training.train_step,
      loss_fn=functools.partial(classifier_loss, model=model, target=target, frozen=frozen),
      weigh=functools.partial(classifier_weights, target=target), optimizer=optimizer,
      skip_nonfinite=skip_nonfinite))


@functools.lru_cache(maxsize=16)
def make_pretraining_step(model: modeling.BertForPreTraining,
                          optimizer: optax.GradientTransformation,
                          skip_nonfinite: bool = False) -> training.TrainStep:
  """Returns the pmapped `training.train_step` with this loss."""
  return training.pmap_train_step(functools.partial(
      training.train_step, loss_fn=functools.partial(pretraining_loss, model=model),
      weigh=pretraining_weights, optimizer=optimizer, skip_nonfinite=skip_nonfinite))
