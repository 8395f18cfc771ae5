"""The peer of the benchmarks: HuggingFace's BERT on PyTorch, with equal architecture and recipe.

The optimizer is torch's fused AdamW (the HuggingFace Trainer's default), with decay on all but
LayerNorm and biases and clipping to 1.0, as here.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import numpy as np
import torch
import transformers

import modeling

Tensors = dict[str, torch.Tensor]


def bert_config(config: modeling.BertConfig) -> transformers.BertConfig:
  """Returns the same architecture for transformers."""
  return transformers.BertConfig(**dataclasses.asdict(config))


def make_optimizer(model: torch.nn.Module, learning_rate: float,
                   weight_decay: float = 0.01) -> torch.optim.Optimizer:
  """Returns AdamW, eps 1e-6, with two groups of parameters: with and without decay."""
  decayed, plain = [], []
  for name, parameter in model.named_parameters():
    (plain if "LayerNorm" in name or name.endswith("bias") else decayed).append(parameter)
  return torch.optim.AdamW(
      [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}],
      lr=learning_rate, eps=1e-6, fused=True)


def make_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, compiled: bool = False,
              updates: int = 1, autocast: torch.dtype | None = None
              ) -> Callable[[Tensors], float]:
  """Returns a call that makes `updates` updates on its inputs and returns the last one's loss.

  Args:
    model: its parameters stay in float32.
    optimizer: over them.
    compiled: whether torch.compile compiles the forward pass.
    updates: number of updates in a call.
    autocast: the type of the matrix products; None: float32.
  """
  forward = torch.compile(model, dynamic=False) if compiled else model
  model.train()

  def step(inputs: Tensors) -> float:
    for _ in range(updates):
      optimizer.zero_grad()
      with torch.autocast(model.device.type, dtype=autocast, enabled=autocast is not None):
        loss = forward(**inputs).loss
      loss.backward()
      torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
      optimizer.step()
    return loss.item()

  return step


def classifier_inputs(batch: Mapping[str, Any]) -> Tensors:
  """Converts an unpacked batch, without leading axes, for BertForSequenceClassification."""
  arrays = {"input_ids": batch["input_ids"], "token_type_ids": batch["token_type_ids"],
            "attention_mask": batch["sequence_ids"], "labels": batch["labels"]}
  return {name: torch.from_numpy(np.asarray(value, np.int64)) for name, value in arrays.items()}


def pretraining_inputs(batch: Mapping[str, Any]) -> Tensors:
  """Converts an unpacked batch, without leading axes, for BertForPreTraining.

  The labels are [b, s], -100 at tokens that are not predicted.
  """
  shape = batch["input_ids"].shape
  labels = np.full(shape, -100)
  masked = batch["masked_lm_weights"] > 0
  labels.reshape(-1)[batch["masked_lm_positions"][masked]] = batch["masked_lm_ids"][masked]
  arrays = {"input_ids": batch["input_ids"], "token_type_ids": batch["token_type_ids"],
            "attention_mask": batch["sequence_ids"] > 0, "labels": labels,
            "next_sentence_label": batch["next_sentence_labels"]}
  return {name: torch.from_numpy(np.asarray(value, np.int64)) for name, value in arrays.items()}
