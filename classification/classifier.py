"""A classifier: the model with the meaning of its outputs; a split in, its logits out."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

import jax
import numpy as np

import data
import modeling
from support import hosts
import training

PredictFn = Callable[[training.Params, training.Batch], jax.Array]


@dataclasses.dataclass(frozen=True)
class Classifier:
  """The model, its parameters and the meaning of its outputs."""

  model: modeling.BertForSequenceClassification
  params: Mapping[str, Any]
  label_names: tuple[str, ...]  # in the order of the outputs; () for regression
  text_columns: tuple[str, ...]  # of the data that it is for
  text_delimiter: str = ""  # joins them into one text
  multi_label: bool = False  # any number of classes a text


@functools.lru_cache(maxsize=8)  # or each call would trace and compile the same program again
def make_predict_fn(model: modeling.BertForSequenceClassification) -> PredictFn:
  """Makes (params, batch [devices, ...]) -> logits [devices, examples, outputs]."""

  def logits(params: training.Params, batch: training.Batch) -> jax.Array:
    return model.apply({"params": params}, batch)

  return training.pmap_eval_step(logits)


def split_logits(classifier: Classifier, examples: data.TokenizedSplit, *, batch_size: int,
                 max_seq_length: int, pack: bool) -> np.ndarray:
  """Computes [examples, outputs]: every example of a split exactly once, in its order.

  Args:
    classifier: with parameters on any devices.
    examples: of all hosts.
    batch_size: examples a batch, over all devices.
    max_seq_length: tokens of an example at most.
    pack: several examples may share a row, which changes no number.
  """
  batches = data.ordered_batches(
      examples, batch_size=batch_size, devices=jax.device_count(), mine=hosts.own_devices(),
      pack=pack, length=data.row_length(int(examples.lengths.max()), max_seq_length))
  return training.collect_outputs(make_predict_fn(classifier.model),
                                  training.replicate(classifier.params), data.prefetch(batches))
