"""What is in a labelled table: rows that know their lines, the columns, which rows are usable."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
import contextlib
import dataclasses
import itertools
from typing import Any, TYPE_CHECKING

import numpy as np

from classification import tasks
from support.errors import first_line, quoted, shown, UserError

if TYPE_CHECKING:
  import datasets
  import pyarrow

TEXT_NAMES = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"),
              ("question", "sentence"), ("question", "passage"), ("question", "context"),
              ("question", "answer"), ("query", "passage"), ("text_a", "text_b"),
              ("text1", "text2"), ("sentence",), ("text",), ("review",), ("comment",),
              ("content",), ("body",))
# Often not the whole text: these are taken where there is no other column.
PARTIAL_TEXT_NAMES = (("question",), ("title",))
LABEL_NAMES = ("label", "labels", "class", "category", "sentiment", "target", "gold_label",
               "rating", "stars", "score", "similarity_score")
ID_NAMES = ("index", "id", "idx")


@dataclasses.dataclass(frozen=True)
class Table:
  """One split.

  Attributes:
    source: the file or dataset, for messages.
    rows: its rows.
    line_numbers: gives each row's line in the source, from 1; parses the file again, for errors.
    notes: for the log: the rows left out and why.
    ids: each row's number in the source where rows are left out; None where none are.
    parts: the tables that these rows are joined from, whose sources and lines an error names.
  """

  source: str
  rows: "datasets.Dataset"
  line_numbers: Callable[[], Iterable[int]] = lambda: itertools.count(1)
  notes: tuple[str, ...] = ()
  ids: np.ndarray | None = None
  parts: tuple["Table", ...] = ()

  def __len__(self) -> int:
    return len(self.rows)

  def where(self, row: int) -> str:
    """Returns a row's file and line."""
    place = row if self.ids is None else int(self.ids[row])
    for part in self.parts:
      if place < len(part):
        return part.where(place)
      place -= len(part)
    return f"{self.source}:{next(itertools.islice(self.line_numbers(), place, None))}"

  def without(self, left_out: np.ndarray, note: str) -> "Table":
    """Leaves out rows. left_out: [rows] bool."""
    kept = np.flatnonzero(~left_out)
    if not len(kept):
      raise UserError(f"{self.source} has no row left: {note}")
    return dataclasses.replace(
        self, rows=self.rows.select(kept), notes=(*self.notes, note),
        ids=kept if self.ids is None else self.ids[kept])

  def first(self, count: int, knob: str) -> "Table":
    """Returns the first `count` rows (0: all); a note names the knob that leaves out the rest."""
    if not 0 < count < len(self):
      return self
    note = f"the first {count:,} of {len(self):,} rows ({knob})"
    return dataclasses.replace(self, rows=self.rows.select(range(count)),
                               notes=(*self.notes, note),
                               ids=None if self.ids is None else self.ids[:count])

  def check_column(self, name: str) -> None:
    """Raises UserError for a column that is not there."""
    if name not in self.rows.column_names:
      raise UserError(f"{self.source} has no column {shown(name)}; it has "
                      f"{quoted(self.rows.column_names)}")

  def class_names(self, name: str) -> tuple[str, ...]:
    """Returns the classes of a column of ClassLabels, or of lists of them; () for another one."""
    self.check_column(name)
    feature = self.rows.features[name]
    names = tuple(getattr(getattr(feature, "feature", feature), "names", None) or ())
    for odd in (name for name in names if not isinstance(name, str)):
      raise UserError(f"{self.source}: the classes of column {shown(name)} must be called by text, "
                      f"not {shown(odd)}")
    return names

  def content_of(self, name: str) -> str:
    """Says what a column holds: "text", "numbers", "lists", ..."""
    self.check_column(name)
    return _content_of(self.rows.data.schema.field(name).type)

  def column(self, name: str) -> list[Any]:
    """Reads a column; a ClassLabel's numbers become names, and -1 (a withheld label) None."""
    values = self.raw(name).to_pylist()
    names = self.class_names(name)
    if not names:
      return values
    if self.content_of(name) == "lists":
      return [value if value is None else self._names_of(name, row, value, names)
              for row, value in enumerate(values)]
    for row, value in enumerate(values):
      if value is not None and value >= len(names):
        raise UserError(f"{self.where(row)}: column {shown(name)} is {value}, beyond its "
                        f"{len(names)} classes")
    return [names[value] if value is not None and value >= 0 else None for value in values]

  def _names_of(self, name: str, row: int, numbers: Sequence[int | None], names: Sequence[str]
                ) -> list[str]:
    """Names the classes of a row of a column of lists of ClassLabels."""
    odd = [number for number in numbers if number is None or not 0 <= number < len(names)]
    if odd:
      raise UserError(f"{self.where(row)}: column {shown(name)} lists {odd[0]}, which is none of "
                      f"its {len(names)} classes")
    return [names[number] for number in numbers]

  def raw(self, name: str) -> "pyarrow.ChunkedArray":
    """Returns a column as it is stored; text is checked to be UTF-8, which parquet does not."""
    import pyarrow

    self.check_column(name)
    column = self.rows.select_columns([name]).with_format("arrow")[:].column(0)
    content = self.content_of(name)
    if content not in ("text", "lists"):
      return column
    try:
      column.validate(full=True)
    except pyarrow.ArrowInvalid as error:
      kind = pyarrow.large_binary()
      with contextlib.suppress(pyarrow.ArrowException):  # lists of something else than text
        cells = column.cast(kind if content == "text" else pyarrow.list_(kind)).to_pylist()
        for row, value in enumerate(cells):
          if not all(map(_is_utf8, value if content == "lists" and value else [value])):
            raise UserError(f"{self.where(row)}: column {shown(name)} is not UTF-8: "
                            f"{shown(value)}") from error
      raise UserError(f"{self.source}: column {shown(name)}: {first_line(error)}") from error
    return column

  def missing(self, name: str) -> np.ndarray:
    """Returns [rows] bool: no value (null, NaN, a ClassLabel of -1) or blank text."""
    import pyarrow.compute

    column = self.raw(name)
    missing = column.is_null(nan_is_null=True)
    if self.content_of(name) == "text":
      blank = pyarrow.compute.equal(pyarrow.compute.utf8_trim_whitespace(column), "")
      missing = pyarrow.compute.or_(missing, blank.fill_null(True))
    elif self.class_names(name) and self.content_of(name) != "lists":
      missing = pyarrow.compute.or_(missing, pyarrow.compute.less(column, 0).fill_null(True))
    return missing.to_numpy().astype(bool)

  def check_texts(self, names: Sequence[str]) -> None:
    """Raises UserError for a text column whose cells are neither text nor numbers."""
    for name in names:
      content = self.content_of(name)
      if self.class_names(name) and content != "lists":
        content = "class numbers"
      if content not in ("text", "numbers", "nothing"):
        raise UserError(f"{self.source}: column {shown(name)} holds {content}, not text")

  def check_label(self, name: str) -> None:
    """Raises UserError for a label column whose cells are no labels."""
    from pyarrow import types

    content = self.content_of(name)
    if content == "lists":
      inner = self.rows.data.schema.field(name).type.value_type
      if not (_content_of(inner) in ("text", "nothing") or types.is_integer(inner)):
        raise UserError(f"{self.source}: column {shown(name)} holds lists of {inner}, not of "
                        "classes (text or integers)")
      return
    if content not in ("text", "numbers", "true or false", "nothing"):
      raise UserError(f"{self.source}: column {shown(name)} holds {content}, not labels")


def _is_utf8(value: bytes | None) -> bool:
  try:
    (value or b"").decode()
  except UnicodeDecodeError:
    return False
  return True


def _content_of(kind: "pyarrow.DataType") -> str:
  """Names what cells of an Arrow type hold."""
  from pyarrow import types

  names = {
      "text": (types.is_string, types.is_large_string, types.is_string_view),
      "numbers": (types.is_integer, types.is_floating, types.is_decimal),
      "true or false": (types.is_boolean,),
      "nothing": (types.is_null,),
      "lists": (types.is_list, types.is_large_list, types.is_fixed_size_list),
      "objects": (types.is_struct, types.is_map),
      "bytes": (types.is_binary, types.is_large_binary, types.is_fixed_size_binary)}
  return next((name for name, tests in names.items() if any(test(kind) for test in tests)),
              str(kind))


@dataclasses.dataclass(frozen=True)
class Layout:
  """The names of the columns in a task's tables, and of those that are left over.

  Attributes:
    texts: one or two, or more that are joined.
    label: "" where there is none, or several.
    unused: a user's other columns, ids apart.
    label_columns: several columns of 0 and 1, each of which says whether a row is of one class.
    delimiter: joins the texts into one; "": each is a text.
  """

  texts: tuple[str, ...]
  label: str
  unused: tuple[str, ...] = ()
  label_columns: tuple[str, ...] = ()
  delimiter: str = ""

  @property
  def labels(self) -> tuple[str, ...]:
    return self.label_columns or tuple(filter(None, [self.label]))


# --- Columns --------------------------------------------------------------------------------


def recognize_columns(task: tasks.Task | None, table: Table, text_columns: Sequence[str],
                      label_columns: Sequence[str], delimiter: str = "") -> Layout:
  """Finds the columns of texts and label: as configured, as GLUE has them, or by usual names.

  Usual names may be written in capitals.

  Args:
    task: a GLUE task; None for the user's own.
    table: a split.
    text_columns: those that are configured; () to recognize them.
    label_columns: likewise; several hold 0 and 1.
    delimiter: joins the texts into one; "": each is a text.
  """
  columns = table.rows.column_names
  there = {name.lower(): name for name in reversed(columns)} | {name: name for name in columns}
  several = tuple(label_columns) if len(label_columns) > 1 else ()
  label = "" if several else next(iter(label_columns), "") or next(
      (there[name] for name in ((task.tsv_label,) if task else ()) + LABEL_NAMES
       if name in there and there[name] not in text_columns), "")
  if text_columns:
    texts = tuple(text_columns)
  elif task is not None:
    texts = next((names for names in (task.text_columns, task.tsv_texts)
                  if set(names) <= set(columns)), task.tsv_texts)
  else:
    texts = _usual_texts(columns, there, {label, *several})
  if not texts:
    raise UserError(f"{table.source}: no text column recognized among "
                    f"{quoted(columns)}; name one or two: --config.text_columns=a,b "
                    "(or does the file lack a header?)")
  if len(texts) > 2 and not delimiter:
    raise UserError(f"text_columns {quoted(texts)} must be one or two; "
                    "--config.text_delimiter=' ' joins more into one text")
  if {*texts} & {*label_columns}:
    raise UserError(f"text_columns {quoted(texts)} and label_column {quoted(label_columns)} must "
                    "not share a column")
  for name in texts:
    table.check_column(name)
  unused = () if task else tuple(name for name in columns if name not in {*texts, label, *several}
                                 and name.lower() not in ID_NAMES)
  return Layout(texts, label, unused, several, delimiter if len(texts) > 1 else "")


def _usual_texts(columns: Sequence[str], there: Mapping[str, str], labels: Collection[str]
                 ) -> tuple[str, ...]:
  """Finds text columns with usual names. there: name, also in small letters -> column."""
  others = [name for name in columns if name not in labels and name.lower() not in ID_NAMES]
  usual = TEXT_NAMES if len(others) > 1 else TEXT_NAMES + PARTIAL_TEXT_NAMES
  return next((tuple(there[name] for name in names) for names in usual
               if all(name in there for name in names)), ())


def texts_to_tokenize(table: Table, layout: Layout) -> "datasets.Dataset":
  """Returns the text of each row, or its two texts, and no other column."""
  import datasets

  if not layout.delimiter:
    return table.rows.select_columns(list(layout.texts))
  cells = zip(*map(table.column, layout.texts), strict=True)
  return datasets.Dataset.from_dict({"text": [
      layout.delimiter.join("" if cell is None else str(cell) for cell in row) for row in cells]})


def usable_rows(table: Table, layout: Layout, *, labelled: bool, blank_texts: bool,
                skip: bool, missing_label: str = "") -> Table:
  """Returns the rows that have their texts and, where it is `labelled`, a label.

  A row of texts that are joined needs one of them. A list of no class is a label.

  Args:
    table: a split.
    layout: its columns.
    labelled: whether the labels are used.
    blank_texts: whether blank text is text, as it is for GLUE's original code.
    skip: leave out the others, counted, instead of stopping at the first.
    missing_label: a label that means that there is none; "" for no such label.

  Raises:
    UserError: a row without text or label, and `skip` is False.
  """
  labels = layout.labels if labelled else ()
  table.check_texts(layout.texts)
  for name in labels:
    table.check_label(name)
  texts = [layout.texts] if layout.delimiter else [(name,) for name in layout.texts]
  for names in (*texts, *((name,) for name in labels)):
    missing = np.logical_and.reduce([table.missing(name) for name in names])
    name, what = names[0], "label" if names[0] in labels else "text"
    if what == "text" and blank_texts and table.content_of(name) == "text":
      column = table.column(name)
      blank = [row for row in np.flatnonzero(missing) if column[row] is not None]
      missing[blank] = False
      if blank:
        table = dataclasses.replace(
            table, notes=(*table.notes, f"blank texts in {shown(name)}: {len(blank)}"))
    if what == "label" and missing_label:
      missing |= _is_label(table, name, missing_label)
    if not missing.any():
      continue
    count, row = int(missing.sum()), int(missing.argmax())
    if not skip:
      value = table.raw(name)[row].as_py()
      withheld = what == "label" and value is not None and str(value).strip() not in ("", "nan")
      place = f"column {shown(name)}" if len(names) == 1 else f"each of {quoted(names)}"
      reason = f"is {value} (no gold label)" if withheld else "is empty"
      raise UserError(f"{table.where(row)}: {place} {reason}; "
                      "--config.skip_bad_rows=True leaves such rows out")
    table = table.without(missing, f"rows without {what} left out: {count}")
  return table


def _is_label(table: Table, name: str, label: str) -> np.ndarray:
  """Returns [rows] bool: where a column is this label, or a list of it alone."""
  if table.content_of(name) == "lists":
    return np.asarray([[str(item).strip() for item in items or ()] == [label]
                       for items in table.raw(name).to_pylist()])
  return np.asarray([str(value).strip() == label for value in table.column(name)])


def row_ids(table: Table) -> list[str]:
  """Returns the ids that a leaderboard file repeats: the table's own, or 0, 1, 2, ...

  A column in which an id stands twice tells no rows apart, and is passed over.
  """
  for name in ID_NAMES:
    if name in table.rows.column_names:
      ids = [str(value) for value in table.column(name)]
      if len(set(ids)) == len(ids):
        return ids
  return [str(i) for i in (range(len(table)) if table.ids is None else table.ids)]
