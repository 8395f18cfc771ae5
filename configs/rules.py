"""The rules of the knobs: their ranges, their choices, and which ones a finished run may change."""

from collections.abc import Callable
import math
from typing import NamedTuple

import ml_collections

from support.errors import UserError


class Rule(NamedTuple):
  """The values that a knob may have, and whether it may differ in a finished run.

  Attributes:
    meaning: completes "must be ..." for a number.
    accepts: whether a number (never None) is allowed; False for NaN and infinities.
    choices: the allowed strings; empty for other types.
    free: the trained weights do not depend on the knob, so two commands on one run may differ
      in it.
  """

  meaning: str = ""
  accepts: Callable[[float], bool] = lambda value: True
  choices: tuple[str, ...] = ()
  free: bool = False


def _one_of(*choices: str) -> Rule:
  return Rule(choices=choices)


def _at_least(least: float) -> Rule:
  return Rule(f"at least {least}", lambda value: least <= value < math.inf)


def _free(rule: Rule) -> Rule:
  return rule._replace(free=True)


_ANY = Rule()
_FROM_0 = Rule("a finite number from 0", lambda value: 0 <= value < math.inf)
_ABOVE_0 = Rule("a finite number above 0 in float32", lambda value: 2**-126 <= value < math.inf)
_SHARE = Rule("a share from 0 to 1", lambda value: 0 <= value <= 1)
_SHARE_ABOVE_0 = Rule("a share above 0, up to 1", lambda value: 0 < value <= 1)
_SHARE_BELOW_1 = Rule("a share from 0, below 1",  # in float32 too
                      lambda value: 0 <= value <= 1 - 2**-24)
_SEED = Rule("from 0 to 4294967295", lambda value: 0 <= value < 1 << 32)

# Knobs without a line here are checked elsewhere or have no wrong value. The last checks of batch
# sizes (the number of devices) and of lengths (the model's positions) need more than the config.
RULES = {
    "label_type": _one_of("auto", "class", "float", "multi"),
    "positive_class": _free(_ANY),
    "eval_split": _free(_ANY),
    "test_split": _free(_ANY),
    "max_train_samples": _at_least(0),
    "max_eval_samples": _free(_at_least(0)),
    "max_predict_samples": _free(_at_least(0)),
    "max_seq_length": _at_least(5),  # three special tokens and one of each text
    "cache_dir": _free(_ANY),
    "cache_gigabytes": _free(_FROM_0),
    "size": _one_of("bert-tiny", "bert-mini", "bert-small", "bert-medium", "bert-base",
                    "bert-large"),
    "eval_fraction": _SHARE_BELOW_1,
    "errors": _one_of("strict", "replace", "ignore"),
    "objective": _one_of("mlm_nsp", "mlm_sop", "mlm"),
    "masked_lm_prob": _SHARE_ABOVE_0,
    "max_predictions_per_seq": _at_least(1),
    "mask_token_prob": _SHARE,
    "random_token_prob": _SHARE,
    "short_seq_prob": _SHARE,
    "do_train": _free(_ANY),
    "do_eval": _free(_ANY),
    "do_predict": _free(_ANY),
    "train_batch_size": _at_least(1),
    "eval_batch_size": _free(_at_least(1)),
    "predict_batch_size": _free(_at_least(1)),
    "gradient_accumulation_steps": _at_least(1),
    "num_train_epochs": _FROM_0,
    "max_steps": _at_least(0),
    "num_train_steps": _at_least(1),
    "num_warmup_steps": Rule("a whole number from 0, or a share below 1",
                             lambda value: 0 <= value < 1 or (value >= 1 and value % 1 == 0)),
    "warmup_proportion": _SHARE,
    "learning_rate": _FROM_0,
    "learning_rate_schedule": _one_of("joined", "original"),
    "optimizer": _one_of("adamw", "lamb"),
    "adam_b1": _SHARE_BELOW_1,
    "adam_b2": _SHARE_BELOW_1,
    "adam_eps": _ABOVE_0,
    "weight_decay": _FROM_0,
    "max_grad_norm": _FROM_0,
    "skip_nonfinite_steps": _at_least(0),
    "label_smoothing": _SHARE_BELOW_1,
    "layerwise_lr_decay": _SHARE_ABOVE_0,
    "reinit_layers": _at_least(0),
    "freeze_layers": _at_least(0),
    "early_stopping_patience": _at_least(0),
    "dtype": _one_of("float32", "bfloat16"),
    "matmul_precision": _one_of("float32", "tensorfloat32", "bfloat16"),
    "seed": _SEED,
    "push_to_hub": _free(_ANY),
    "max_hours": _free(_FROM_0),
    "wandb_project": _free(_ANY),
    "log_every_steps": _free(_at_least(0)),
    "eval_every_epochs": _free(_FROM_0),
    "eval_steps": _free(_at_least(0)),
    "max_eval_examples": _free(_at_least(0)),
    "save_checkpoints_steps": _free(_at_least(0)),
    "keep_checkpoints": _free(_at_least(1)),
    "keep_checkpoint_every": _free(_at_least(0)),
    "restore_step": _free(_at_least(0)),
    "distributed": _free(_ANY),
    "coordinator_address": _free(_ANY),
    "num_processes": _free(_at_least(1)),
    "process_id": _free(_at_least(0)),
}
# What restore_step may change in a run: the same shapes, but other steps.
RETRY_KEYS = ("learning_rate", "learning_rate_schedule", "max_grad_norm", "adam_b1", "adam_b2",
              "adam_eps", "weight_decay", "seed", "skip_nonfinite_steps", "label_smoothing",
              "class_weights",
              "model.hidden_dropout_prob", "model.attention_probs_dropout_prob",
              "model.classifier_dropout")
# Free knobs that may not change in an unfinished run whose evaluations decide on its end or result.
DECIDING_KEYS = ("do_eval", "eval_split", "eval_batch_size", "eval_every_epochs",
                 "max_eval_samples", "positive_class")
# Free knobs that say what the scores are of.
SCORING_KEYS = ("eval_split", "max_eval_samples", "max_eval_examples", "positive_class")
# Knobs of a first try: 0 in a run on all examples, for whole epochs.
LIMITING_KEYS = ("max_steps", "max_train_samples", "max_eval_samples")
FREE_KEYS = tuple(name for name, rule in RULES.items() if rule.free)


def check_values(config: ml_collections.ConfigDict) -> None:
  """Raises a UserError for the first knob whose value is against its rule."""
  for name, value in config.items():
    rule = RULES.get(name, _ANY)
    if rule.choices and value not in rule.choices:
      raise UserError(f"{name} {value!r} is not one of {', '.join(rule.choices)}")
    if value is not None and not rule.accepts(value):
      raise UserError(f"{name} must be {rule.meaning}, not {value}")
