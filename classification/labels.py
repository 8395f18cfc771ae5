"""Labels: a column's values, the classes that they name, and their order in the model."""

from collections.abc import Sequence
import numbers
import re
from typing import Any

import numpy as np

from classification import tasks
from classification.tables import Layout, Table
from support.errors import shown, UserError

# Python's int() and float() also take "1_1", Arabic digits, "nan" and separators as white space.
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"[+-]?0[0-9]")
_BLANKS = " \t\r\n\u00a0"  # around a label these are no part of it


def label_values(table: Table, layout: Layout) -> list[Any]:
  """Reads the label column: text without the blanks around it, numbers, or classes' names.

  Raises:
    UserError: no such column, or a number beyond a ClassLabel's classes.
  """
  if not layout.label:
    raise UserError(f"{table.source}: no label column recognized among "
                    f"{tasks.quoted(table.rows.column_names)}; name it: "
                    "--config.label_column=name (or --config.do_eval=False needs none)")
  return [value.strip(_BLANKS) if isinstance(value, str) else value
          for value in table.column(layout.label)]


def infer_label_names(table: Table, values: Sequence[Any], label_type: str) -> tuple[str, ...]:
  """Finds the classes of a user's training labels, as they are written; () for regression.

  Args:
    table: for messages.
    values: text, integers or floats, possibly as text.
    label_type: "class", "float", or "auto": numbers that are not all written as integers
      mean regression. Numbers with leading zeros are codes, hence classes.

  Raises:
    UserError: "auto", and a label that is no number among others that mean regression.
  """
  if label_type == "float":
    return ()
  texts = list(map(str, values))
  if all(map(_INTEGER.fullmatch, texts)):
    plain = all(str(int(text)) == text for text in set(texts))  # 007 and +1 are text
    return tuple(sorted(set(texts), key=int if plain else str))
  odd = [row for row, text in enumerate(texts)
         if not _NUMBER.fullmatch(text) or _LEADING_ZERO.match(text)]
  fractions = len(texts) - len(odd) - sum(bool(_INTEGER.fullmatch(texts[row])) for row in
                                          set(range(len(texts))).difference(odd))
  if label_type == "auto" and not odd:
    return ()
  if label_type == "auto" and 2 * fractions >= len(texts):
    raise UserError(f"{table.where(odd[0])}: label {shown(values[odd[0]])} is not a number, as "
                    "most are; --config.label_type=float or class settles it")
  return tuple(sorted(set(texts)))


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
    return np.asarray([_number(table, row, value) for row, value in enumerate(values)],
                      np.float32)
  codes = {name: code for code, name in enumerate(model_labels)}
  if task.numbered:
    codes |= {str(i): codes[name] for i, name in enumerate(task.label_names)}
  encoded = [codes.get(str(value), -1) for value in values]
  if -1 in encoded:
    row = encoded.index(-1)
    raise UserError(f"{table.where(row)}: label {shown(values[row])} is not one of "
                    f"{tasks.quoted(task.label_names)}"
                    + ("" if task.numbered else "; if it is a class, name all classes in order: "
                       "--config.label_names=a,b,c"))
  return np.asarray(encoded, np.int32)


def _number(table: Table, row: int, value: Any) -> float:
  """Returns a label as a number that float32 can hold."""
  if (isinstance(value, numbers.Number) and not isinstance(value, bool)) or (
      isinstance(value, str) and _NUMBER.fullmatch(value)):
    number = float(value)
    if abs(number) <= float(np.finfo(np.float32).max):  # False for NaN too
      return number
  raise UserError(f"{table.where(row)}: label {shown(value)} is not a number (in float32)")
