"""What a sweep's flags may hold: seeds, samplers, and the values of each swept knob."""

from collections.abc import Mapping
import re
from typing import Any

import ml_collections

from configs import rules
from support.errors import shown, UserError

SAMPLERS = ("grid", "random", "tpe")
# Appendix A.3 of Devlin et al., 2019 (https://arxiv.org/abs/1810.04805).
GRIDS = {"paper": {"learning_rate": (5e-5, 3e-5, 2e-5), "train_batch_size": (16, 32),
                   "num_train_epochs": (2.0, 3.0, 4.0)}}
_MOST_SEEDS = 10_000
_HAVE_A_FLAG = {"seed": "--seeds=0..4", "dataset_name": "--tasks=cola,mrpc"}
# Knobs whose own values have commas.
_HOLD_COMMAS = ("class_weights", "label_column", "label_names", "text_columns")


def read_seeds(text: str, default: int) -> tuple[int, ...]:
  """Reads --seeds: numbers and ranges such as 0..4, both ends included.

  Raises:
    UserError: it cannot be read, has a seed twice, or more than 10,000.
  """
  seeds: list[int] = []
  for part in text.split(",") if text else [str(default)]:
    numbers = re.fullmatch(r"\s*(\d{1,10})\s*(?:\.\.\s*(\d{1,10})\s*)?", part)
    first, last = (int(numbers[1]), int(numbers[2] or numbers[1])) if numbers else (1, 0)
    if first > last or last >= 1 << 32 or last - first >= _MOST_SEEDS:
      raise UserError(f"seeds must be such as 0..4 or 0,1,2, not {shown(text)}")
    seeds += range(first, last + 1)
  return without_repeats("seeds", text, tuple(seeds))


def read_sampler(sampler: str, num_trials: int) -> tuple[str, int]:
  """Checks --sampler and --num_trials, which belong together.

  Raises:
    UserError: they do not.
  """
  if sampler not in SAMPLERS:
    raise UserError(f"sampler {shown(sampler)} is not one of {', '.join(SAMPLERS)}")
  if (sampler == "grid") != (num_trials == 0) or num_trials < 0:
    raise UserError(f"num_trials {num_trials}: --sampler=grid runs all settings (leave it out), "
                    "random and tpe draw --num_trials=N of them")
  return sampler, num_trials


def read_space(config: ml_collections.ConfigDict, grid: str,
               lists: dict[str, str]) -> dict[str, tuple[Any, ...]]:
  """Returns the values of each swept knob; a list of one's own comes before the grid's.

  Raises:
    UserError: no such grid, or a value that the knob cannot have.
  """
  if grid and grid not in GRIDS:
    raise UserError(f"grid {shown(grid)} is not one of {', '.join(GRIDS)}")
  own = {knob: read_values(config, knob, text) for knob, text in lists.items()}
  return {**(GRIDS[grid] if grid else {}), **own}


def read_values(config: ml_collections.ConfigDict, knob: str, text: str) -> tuple[Any, ...]:
  """Reads the values of --sweep.KNOB by the knob's type, and checks them by its rule.

  A comma divides them; a semicolon, where a text has one, so that its values may have commas.

  Raises:
    UserError: a value that is none for the knob, or a knob that is not to be swept.
  """
  flag = f"sweep.{knob}"
  if knob in _HAVE_A_FLAG:
    raise UserError(f"{flag} is no flag: give {_HAVE_A_FLAG[knob]}")
  if knob in rules.FREE_KEYS:
    raise UserError(f"{flag}: the trained weights do not depend on {knob}; set it for all runs "
                    f"with --config.{knob}")
  at, name = _place_of(config, knob)
  kind = at.get_type(name)
  divider = ";" if kind is str and ";" in text else ","
  if knob in _HOLD_COMMAS and divider == "," in text:
    raise UserError(f"{flag} {shown(text)}: a comma is part of a value here; divide the values by "
                    f"semicolons, or set one for all runs with --config.{knob}")
  values = []
  for part in map(str.strip, text.split(divider)):
    try:
      values.append({"True": True, "False": False}[part] if kind is bool else kind(part))
    except (KeyError, TypeError, ValueError):
      raise UserError(f"{flag} must be values such as {_example(kind)}, not "
                      f"{shown(text)}") from None
    rules.check_values(with_values(config, {knob: values[-1]}))
  return without_repeats(flag, text, tuple(values))


def _example(kind: type) -> str:
  return {bool: "True,False", int: "16,32", float: "2e-5,3e-5"}.get(kind, "a,b")


def with_values(config: ml_collections.ConfigDict, values: Mapping[str, Any]
                ) -> ml_collections.ConfigDict:
  """Returns a copy of the config with other values of dotted knobs."""
  changed = config.copy_and_resolve_references()
  changed.update_from_flattened_dict(dict(values))
  return changed


def _place_of(config: ml_collections.ConfigDict, knob: str
              ) -> tuple[ml_collections.ConfigDict, str]:
  """Returns the node of a dotted knob's name, and the last part of the name."""
  *above, name = knob.split(".")
  for part in above:
    config = config[part]
  return config, name


def check_settings_differ(config: ml_collections.ConfigDict, space: Mapping[str, Any]) -> None:
  """Raises UserError for numbers of epochs that max_steps makes equal."""
  steps = max(space.get("max_steps", (config.max_steps,)))
  epochs = space.get("num_train_epochs", ())
  if steps and len(epochs) > 1:
    raise UserError(f"max_steps {steps} makes settings equal that differ in num_train_epochs "
                    f"({', '.join(map(str, epochs))}); leave it out, or give one "
                    f"--sweep.num_train_epochs={epochs[0]}")


def without_repeats(flag: str, text: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
  """Returns the values of a flag.

  Raises:
    UserError: two are equal.
  """
  if len(set(values)) < len(values):
    raise UserError(f"{flag} {shown(text)} has a value twice")
  return values
