"""Labels: a column's values, the classes that they name, and their order in the model."""

from collections.abc import Sequence
import re
from typing import Any

import numpy as np

from classification import tasks
from classification.tables import Layout, Table
from support.errors import UserError


def label_values(table: Table, layout: Layout) -> list[Any]:
  """Reads the label column; a missing one or a missing value is an error."""
  if not layout.label:
    raise UserError(f"{table.source}: no label column recognized among "
                    f"{', '.join(map(repr, table.rows.column_names))}; name it: "
                    "--config.label_column=name")
  values = table.column(layout.label)
  for row, value in enumerate(values):
    if value is None or value == "":
      raise UserError(f"{table.where(row)}: column {layout.label!r} is empty")
  return values


def infer_label_names(table: Table, values: Sequence[Any], label_type: str) -> tuple[str, ...]:
  """Finds the classes of a user's training labels; () for regression.

  Args:
    table: for messages.
    values: text, integers or floats, possibly as text.
    label_type: "class", "float", or "auto": numbers that are not all written as integers
      mean regression.

  Raises:
    UserError: "auto", and a label that is no number among others that mean regression.
  """
  if label_type == "float":
    return ()
  integers = [_integer(value) for value in values]
  if all(integer is not None for integer in integers):
    return tuple(str(integer) for integer in sorted(set(integers)))
  fractions = sum(_integer(v) is None and _number(v) is not None for v in values)
  if label_type == "auto" and 2 * fractions >= len(values):
    odd = [i for i, value in enumerate(values) if _number(value) is None]
    if odd:
      raise UserError(f"{table.where(odd[0])}: label {values[odd[0]]!r} is not a "
                      "number, as most are; --config.label_type=float or class settles it")
    return ()
  if label_type == "auto" and all(_number(value) is not None for value in values):
    return ()
  return tuple(sorted({str(value) for value in values}))


def _integer(value: Any) -> int | None:
  """Reads an integer or an integer's text; None for anything else, also for True."""
  if isinstance(value, str):
    return int(value) if re.fullmatch(r"\s*[+-]?[0-9]+\s*", value) else None
  return int(value) if isinstance(value, int | np.integer) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
  if isinstance(value, bool):
    return None
  try:
    return float(value)
  except (TypeError, ValueError):
    return None


def encode_labels(table: Table, values: Sequence[Any], task: tasks.Task,
                  model_labels: Sequence[str]) -> np.ndarray:
  """Encodes labels in the model's order: [examples] int32 classes, or float32 values.

  Args:
    table: for messages.
    values: the label column: class names, or their numbers in the *task's* order.
    task: its classes; none means regression.
    model_labels: the same names in the order of the model's outputs.

  Raises:
    UserError: a label outside the set (file, line, the set), or a value that is no number.
  """
  if task.regression:
    return np.asarray([_value(table, row, value) for row, value in enumerate(values)], np.float32)
  codes = {name: model_labels.index(name) for name in task.label_names}
  if task.numbered:
    codes |= {str(i): codes[name] for i, name in enumerate(task.label_names)}
  encoded = []
  for row, value in enumerate(values):
    code = codes.get(str(value), codes.get(str(_integer(value))))
    if code is None:
      raise UserError(f"{table.where(row)}: label {value!r} is not one of "
                      f"{', '.join(task.label_names)}")
    encoded.append(code)
  return np.asarray(encoded, np.int32)


def _value(table: Table, row: int, value: Any) -> float:
  number = _number(value)
  if number is None or not np.isfinite(number):
    raise UserError(f"{table.where(row)}: label {value!r} is not a number")
  return number
