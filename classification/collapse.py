"""Runs that have collapsed: what they predict says nothing about the examples.

Fine-tuning a large model on little data ends so now and then (Mosbach et al., 2021,
https://arxiv.org/abs/2006.04884): the gradients vanish, and the model answers one class for all.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from classification import tasks

# Mosbach et al.; Zhang et al., 2021 (https://arxiv.org/abs/2006.05987), whose tools need
# pre-trained weights.
_REMEDY = ("a lower --config.learning_rate, another --config.seed, a longer "
           "--config.warmup_proportion or a larger --config.num_train_epochs helps")
_TOOLS = "; so may --config.layerwise_lr_decay=0.9 or --config.reinit_layers=1"
_FEW_STEPS = 100  # they teach MiniLM little more than MRPC's larger class
_MORE_STEPS = "a larger --config.num_train_epochs or a smaller --config.train_batch_size makes more"
_CONSTANT = 0.01  # a spread of predicted values that is so small a share of the labels' is none
_NEAR = 0.99  # of the loss at the classes' frequencies


def answers_alike(task: tasks.Task, predictions: np.ndarray, labels: np.ndarray) -> bool:
  """Returns whether all predictions are one class, or nearly one value, and the labels are not.

  Args:
    task: of classes or values.
    predictions: [examples] class numbers or values, or [examples, classes] of 0 and 1.
    labels: likewise.
  """
  if (labels == labels[:1]).all():
    return False
  if task.regression:
    return bool(np.std(predictions) < _CONSTANT * np.std(labels))
  return bool((predictions == predictions[:1]).all())


def remedy(pretrained: bool, steps: int, max_steps: int) -> str:
  """Returns what helps a run that has collapsed.

  Args:
    pretrained: whether it began from pre-trained weights.
    steps: of its training; 0 where they are not known, or early stopping chose them.
    max_steps: of its config.
  """
  if not 0 < steps < _FEW_STEPS:
    return _REMEDY + _TOOLS * pretrained
  return (f"{steps} step{'s' * (steps > 1)} of training are few: "
          + ("a larger --config.max_steps makes more" if max_steps else _MORE_STEPS))


def entropy(counts: Sequence[int]) -> float:
  """Returns the cross entropy, in nats, of answering each class as often as it occurs."""
  shares = np.asarray([count for count in counts if count], np.float64)
  shares /= shares.sum()
  return float(-(shares * np.log(shares)).sum())


def _trained(records: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
  """Returns those of a metrics.jsonl that are of training steps."""
  return [record for record in records if "loss" in record and "learning_rate" in record]


def steps_trained(records: Sequence[Mapping[str, float]]) -> int:
  """Returns the last training step of a metrics.jsonl; 0 where it has none."""
  return max((record["step"] for record in _trained(records)), default=0)


def never_learned(records: Sequence[Mapping[str, float]], counts: Sequence[int]) -> bool:
  """Returns whether the second half of the training had the loss of the classes' frequencies.

  A single step's loss of a run that has not learned falls below that by chance.

  Args:
    records: of a metrics.jsonl: averages of the steps up to `step`, since the record before.
    counts: training examples of each class; nothing is known of [] and of one class.
  """
  trained = _trained(records)
  if len([count for count in counts if count]) < 2 or not trained:
    return False
  steps = np.diff([0, *(record["step"] for record in trained)])
  late = [record["step"] > trained[-1]["step"] / 2 for record in trained]
  losses = np.asarray([record["loss"] for record in trained])
  return bool(np.average(losses[late], weights=steps[late]) >= _NEAR * entropy(counts))
