"""What the knobs of both configs may be: choices, ranges, and which a finished run may change."""

import ml_collections

import modeling
from support.errors import UserError

# What may change between two commands on one run: it leaves the trained weights as they are.
FREE_KEYS = ("do_train", "do_eval", "do_predict", "eval_batch_size", "predict_batch_size",
             "log_every_steps", "eval_every_epochs", "eval_steps", "max_eval_examples",
             "save_checkpoints_steps", "keep_checkpoints", "keep_checkpoint_every", "cache_dir",
             "cache_gigabytes")
CHOICES = {"dtype": ("float32", "bfloat16"),
           "matmul_precision": ("float32", "tensorfloat32", "bfloat16"),
           "learning_rate_schedule": ("joined", "original"),
           "label_type": ("auto", "class", "float"),
           "optimizer": ("adamw", "lamb"),
           "errors": ("strict", "replace", "ignore"),
           "objective": ("mlm_nsp", "mlm_sop", "mlm"),
           "size": tuple(modeling.SIZES)}
LIMITS = {"max_seq_length": (5, 1 << 20), "gradient_accumulation_steps": (1, 1 << 20),
          "num_train_epochs": (0, 1e6), "eval_every_epochs": (0, 1e6), "learning_rate": (0, 1e3),
          "warmup_proportion": (0, 1), "adam_b1": (0, 0.999999), "adam_b2": (0, 0.999999),
          "adam_eps": (1e-30, 1), "weight_decay": (0, 1e3), "max_grad_norm": (0, 1e9),
          "seed": (0, (1 << 32) - 1), "log_every_steps": (1, 1 << 30),
          "save_checkpoints_steps": (0, 1 << 30), "keep_checkpoints": (1, 1 << 30),
          "keep_checkpoint_every": (0, 1 << 30), "num_train_steps": (1, 1 << 30),
          "num_warmup_steps": (0, 1 << 30), "eval_steps": (0, 1 << 30),
          "max_eval_examples": (0, 1 << 40), "eval_fraction": (0, 0.9),
          "masked_lm_prob": (1e-6, 1), "mask_token_prob": (0, 1), "random_token_prob": (0, 1),
          "short_seq_prob": (0, 1), "cache_gigabytes": (0, 1e6)}


def check_values(config: ml_collections.ConfigDict) -> None:
  """Refuses values that would only fail, or mislead, later; says what would be right."""
  for name, known in CHOICES.items():
    if name in config and config[name] not in known:
      raise UserError(f"{name} {config[name]!r} is not one of {', '.join(known)}")
  for name, (low, high) in LIMITS.items():
    if name in config and not low <= config[name] <= high:  # so put, it refuses NaN
      raise UserError(f"{name} must lie in {low} ... {high}, not {config[name]}")
