"""Labels: a column's values, the classes that they name, and their order in the model."""

from collections.abc import Mapping, Sequence, Set
import csv
import numbers
import re
from typing import Any

import numpy as np

from classification import tasks
from classification.tables import Layout, Table
from support.errors import quoted, shown, UserError

# Python's int() and float() also take "1_1", Arabic digits, "nan" and separators as white space.
_INTEGER = re.compile(r"[+-]?[0-9]+")
_PLAIN_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"[+-]?0[0-9]")
# How csv, JSON, pandas and numpy write whether a row is of a class.
_MARKS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
# Around a label these are no part of it: white space without the separators of old terminals.
_BLANKS = " \t\r\n\u0085\u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(
    map(chr, range(0x2000, 0x200b)))


def label_values(table: Table, layout: Layout) -> list[Any]:
  """Reads the label column: text without the blanks around it, numbers, or classes' names.

  Raises:
    UserError: no such column, or a number beyond a ClassLabel's classes.
  """
  if not layout.label:
    raise UserError(f"{table.source}: no label column recognized among "
                    f"{quoted(table.rows.column_names)}; name it: "
                    "--config.label_column=name")
  values = table.column(layout.label)
  if table.class_names(layout.label):
    return values
  return [value.strip(_BLANKS) if isinstance(value, str) else value for value in values]


def label_lists(table: Table, layout: Layout) -> list[list[Any]]:
  """Reads the classes of each row: of a column of lists, or of the columns that are 1 there.

  Raises:
    UserError: no such column, another content, or a list that names nothing or a class twice.
  """
  if layout.label_columns:
    columns = {name: _marks(table, name) for name in layout.label_columns}
    return [[name for name, marked in columns.items() if marked[row]]
            for row in range(len(table))]
  values = label_values(table, layout)
  if table.content_of(layout.label) != "lists":
    raise UserError(f"{table.source}: column {shown(layout.label)} holds "
                    f"{table.content_of(layout.label)} and no lists of classes; several columns of "
                    "0 and 1 are named like this: --config.label_column=a,b,c")
  if not table.class_names(layout.label):
    values = [[item.strip(_BLANKS) if isinstance(item, str) else item for item in items]
              for items in values]
  for row, items in enumerate(values):
    if None in items or "" in items:
      raise UserError(f"{table.where(row)}: column {shown(layout.label)} lists a class without a "
                      f"name: {shown(items)}")
    if len(set(items)) < len(items):
      raise UserError(f"{table.where(row)}: column {shown(layout.label)} lists a class twice: "
                      f"{shown(items)} (lists of 0 and 1 go into columns of their own: "
                      "--config.label_column=a,b,c)")
  return values


def _marks(table: Table, name: str) -> list[bool]:
  """Reads a column of 0 and 1."""
  marks = [_MARKS.get(str(value).strip(_BLANKS).casefold())
           for value in table.raw(name).to_pylist()]
  if None in marks:
    row = marks.index(None)
    raise UserError(f"{table.where(row)}: column {shown(name)} is "
                    f"{shown(table.raw(name)[row].as_py())}, must be 0 or 1, as label_column names "
                    "several columns")
  return marks


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
    plain = all(map(_PLAIN_INTEGER.fullmatch, set(texts)))  # 007 and +1 are text
    return tuple(sorted(set(texts), key=int if plain else str))
  numeric = [_NUMBER.fullmatch(text) and not _LEADING_ZERO.match(text) for text in texts]
  odd = [row for row, is_number in enumerate(numeric) if not is_number]
  fractions = sum(bool(is_number and not _INTEGER.fullmatch(text))
                  for text, is_number in zip(texts, numeric, strict=True))
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
  else:
    codes = _spellings(codes, set(map(str, values)))
  encoded = [codes.get(str(value), -1) for value in values]
  if -1 in encoded:
    row = encoded.index(-1)
    raise _unknown_class(table, row, values[row], task)
  return np.asarray(encoded, np.int32)


def encode_label_lists(table: Table, values: Sequence[Sequence[Any]], task: tasks.Task,
                       model_labels: Sequence[str]) -> np.ndarray:
  """Encodes lists of classes in the model's order: [examples, classes] int32 of 0 and 1.

  See `encode_labels` for the arguments and the errors.
  """
  codes = _spellings({name: code for code, name in enumerate(model_labels)},
                     {str(value) for row in values for value in row})
  encoded = np.zeros((len(values), len(model_labels)), np.int32)
  for row, names in enumerate(values):
    for name in names:
      if str(name) not in codes:
        raise _unknown_class(table, row, name, task)
      encoded[row, codes[str(name)]] = 1
  return encoded


def _unknown_class(table: Table, row: int, value: Any, task: tasks.Task) -> UserError:
  return UserError(f"{table.where(row)}: label {shown(value)} is not one of "
                   f"{quoted(task.label_names)}"
                   + ("" if task.numbered else "; if it is a class, name all classes in order: "
                      "--config.label_names=a,b,c")
                   + ("; if it means no label: --config.missing_label=-1"
                      if str(value) == "-1" else ""))


def weights_of_classes(value: str, label_names: Sequence[str],
                       labels: np.ndarray) -> tuple[float, ...]:
  """Reads the knob class_weights; returns a weight for each of the model's classes in order.

  Args:
    value: "", "balanced", "a=1,b=2" (names quoted as in csv), or "1,2" in the order of the classes.
    label_names: the classes in the order of the model's outputs.
    labels: [examples] class numbers of the training split, for "balanced".

  Returns:
    [classes], or () for a blank value.

  Raises:
    UserError: a class without a weight, or a weight that is no number above 0.
  """
  if not value.strip():
    return ()
  if value.strip() == "balanced":
    counts = np.bincount(labels, minlength=len(label_names))
    for absent in np.flatnonzero(counts == 0):
      raise UserError(f"class_weights: the class {shown(label_names[absent])} has no training "
                      "example, so there is no balance; give the weights: --config.class_weights="
                      "a=1,b=2")
    return tuple((len(labels) / (len(label_names) * counts)).tolist())
  pieces = next(csv.reader([value], skipinitialspace=True), [])
  named = all("=" in piece for piece in pieces)
  names = [piece.rpartition("=")[0].strip() for piece in pieces] if named else list(label_names)
  if len(pieces) != len(label_names) or set(names) != set(label_names):
    raise UserError(f"class_weights {shown(value)} must be balanced, or a number for each of the "
                    f"classes {quoted(label_names)}, in this order or as NAME=NUMBER"
                    + (', a name with a comma in quotes: "a, b"=1' if any(
                        "," in name for name in label_names) else ""))
  weights = {name: _weight(piece.rpartition("=")[2] if named else piece)
             for name, piece in zip(names, pieces, strict=True)}
  return tuple(weights[name] for name in label_names)


def _weight(text: str) -> float:
  number = float(text) if _NUMBER.fullmatch(text.strip()) else 0.0
  if not 1e-30 <= number <= 1e30:
    raise UserError(f"class_weights: {shown(text)} must be a number above 0")
  return number


def _spellings(codes: Mapping[str, int], texts: Set[str]) -> dict[str, int]:
  """Adds texts that spell a class otherwise: in other capitals, or 1.0 for 1.

  Only where no two classes, and no two of the texts, differ in nothing else.
  """

  def same(text: str) -> str:
    whole = re.fullmatch(r"(0|-?[1-9][0-9]*)\.0+", text)
    return whole[1] if whole else text.casefold()

  names = {same(name): code for name, code in codes.items()}
  if len(names) < len(codes) or len(set(map(same, texts))) < len(texts):
    return dict(codes)
  return {**{text: names[same(text)] for text in texts if same(text) in names}, **codes}


def _number(table: Table, row: int, value: Any) -> float:
  """Returns a label as a number that float32 can hold."""
  if (isinstance(value, numbers.Number) and not isinstance(value, bool)) or (
      isinstance(value, str) and _NUMBER.fullmatch(value)):
    number = float(value)
    if abs(number) <= float(np.finfo(np.float32).max):  # False for NaN too
      return number
  raise UserError(f"{table.where(row)}: label {shown(value)} is not a number (in float32)")
