"""A classification run's data: its tokenized splits, its task, and the order of its classes."""

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import hashlib
import itertools
import json
import pathlib
from typing import Any, TYPE_CHECKING

import ml_collections
import numpy as np

import checkpoint_utils
from classification import labels, sources, tables, tasks
import data
from support import files, remote
from support.errors import quoted, shown, UserError
from support.reporting import say
from tokenization import MUCH_UNKNOWN, Tokenizer

if TYPE_CHECKING:
  import datasets


@dataclasses.dataclass(frozen=True)
class LabelledSplit:
  """A tokenized split.

  Attributes:
    examples: its tokens and labels.
    labelled: whether the labels are true.
    row_ids: of a dev or test split: see `tables.row_ids`.
    texts: of a dev split: the text columns.
  """

  examples: data.TokenizedSplit
  labelled: bool
  row_ids: list[str]
  texts: "datasets.Dataset | None" = None


@dataclasses.dataclass(frozen=True)
class RunData:
  """The data of a run.

  Attributes:
    task: columns, classes, metrics.
    label_names: the task's classes in the order of the model's outputs; () for regression.
    splits: split name -> its examples, for the splits that the run needs.
  """

  task: tasks.Task
  label_names: tuple[str, ...]
  splits: Mapping[str, LabelledSplit]

  def digests(self) -> dict[str, str]:
    """Returns a hash of each labelled split, for `run_folder.check_same_data`."""
    digests = {}
    for name, split in self.splits.items():
      content = hashlib.sha256(json.dumps(self.label_names).encode())
      for array in (split.examples.tokens, split.examples.offsets, split.examples.first_lengths,
                    split.examples.labels):
        content.update(np.ascontiguousarray(array))
      if split.labelled:
        digests[f"the rows of {name}"] = content.hexdigest()
    return digests

  def class_counts(self) -> dict[str, dict[str, int]]:
    """Returns how many examples of each class the labelled splits have: split -> class -> count."""

    def counts(labels: np.ndarray) -> np.ndarray:
      return labels.sum(axis=0) if self.task.multi_label else np.bincount(
          labels, minlength=len(self.label_names))

    return {name: dict(zip(self.label_names, counts(split.examples.labels).tolist(), strict=True))
            for name, split in self.splits.items() if split.labelled and self.label_names}


def read_run_data(config: ml_collections.ConfigDict,
                  checkpoint: checkpoint_utils.Checkpoint | None, tokenizer: Tokenizer) -> RunData:
  """Finds, reads and tokenizes the splits that the config asks for.

  Raises:
    UserError: anything wrong in the data, with its file and line.
  """
  cache_dir = cache_folder(config.cache_dir)
  dataset_path = remote.local_copies(config.dataset_path, "dataset_path", config.cache_dir)
  source = sources.find_source(config.dataset_name, dataset_path, config.skip_bad_rows, cache_dir)
  say(f"data: {source.description}")
  wanted = wanted_splits(config, source)
  read = {split: source.read(split) for split in wanted}
  layout = choose_columns(config, source, next(iter(read.values())), checkpoint)
  labelled = {split: read[split] for split in wanted if wanted[split]}
  multi_label = is_multi_label(config, source, layout, labelled, checkpoint)
  read = {split: tables.usable_rows(
      table, layout, labelled=wanted[split], blank_texts=source.glue_task is not None,
      skip=config.skip_bad_rows, missing_label=config.missing_label)
          for split, table in read.items()}
  values_of = labels.label_lists if multi_label else labels.label_values
  values = {split: values_of(read[split], layout) for split in labelled}
  task = source.glue_task or infer_task(config, layout, read, values, checkpoint, multi_label)
  task = tasks.with_positive_class(task, config.positive_class)
  label_names = order_labels(config, task, checkpoint)
  say_task(layout, task, label_names)
  splits, unknown = {}, {}
  for split, whole in read.items():
    table = first_rows(config, task, split, whole)
    encode = labels.encode_label_lists if multi_label else labels.encode_labels
    shape = (len(table), len(label_names)) if multi_label else len(table)
    encoded = (encode(table, values[split][:len(table)], task, label_names) if split in values
               else np.zeros(shape, np.float32 if task.regression else np.int32))
    texts = tables.texts_to_tokenize(table, layout)
    examples = data.tokenize(texts, encoded, tokenizer, config.max_seq_length, cache_dir)
    scored = split in task.eval_splits
    row_ids = tables.row_ids(table) if scored or split in task.test_splits else []
    splits[split] = LabelledSplit(examples, wanted[split], row_ids, texts if scored else None)
    unknown[split] = data.unknown_share(examples, tokenizer)
    say_split(split, table, examples, unknown[split])
  if max(unknown.values()) > MUCH_UNKNOWN:
    say("  warning: so many [UNK], all the same to the model, mean that the tokenizer is for "
        "another language or spelling (cased, uncased)")
  files.keep_within(cache_dir, config.cache_gigabytes * 1e9)
  return RunData(task, label_names, splits)


def cache_folder(cache_dir: str) -> pathlib.Path:
  """Returns the folder of tokenized text, config.cache_dir or the usual one, which it makes."""
  folder = pathlib.Path(cache_dir or "~/.cache/bert_in_flax/tokenized").expanduser()
  folder.mkdir(parents=True, exist_ok=True)
  return folder


def first_rows(config: ml_collections.ConfigDict, task: tasks.Task, split: str,
               table: tables.Table) -> tables.Table:
  """Returns the rows of a split that max_train_samples and its siblings leave.

  Raises:
    UserError: the split has two uses, with different numbers of rows.
  """
  uses = {"max_train_samples": config.do_train and split == task.train_split,
          "max_eval_samples": config.do_eval and split in task.eval_splits,
          "max_predict_samples": config.do_predict and split in task.test_splits}
  knobs = [knob for knob, used in uses.items() if used]
  for knob in knobs[1:]:
    if config[knob] != config[knobs[0]]:
      raise UserError(f"the split {split} is used twice, and {knobs[0]} {config[knobs[0]]} and "
                      f"{knob} {config[knob]} differ; give both the same value")
  return table.first(config[knobs[0]], knobs[0])


def say_task(layout: tables.Layout, task: tasks.Task, label_names: Sequence[str]) -> None:
  """Prints the columns and classes, as they are configured or were recognized."""
  classes = f"classes: {quoted(label_names)}" if label_names else "regression"
  if task.multi_label:
    classes += ", any number a text"
  if task.positive_class:
    classes += f" (F1 is that of {shown(task.positive_class)})"
  say(f"  texts: {quoted(layout.texts)}"
      + (f", joined by {shown(layout.delimiter)}; " if layout.delimiter else "; ")
      + (f"label: {shown(layout.label)}; " if layout.label else "") + classes)
  if layout.unused:
    say(f"  unused columns: {quoted(layout.unused)} "
        "(--config.text_columns=a,b names the one or two texts)")


def say_split(split: str, table: tables.Table, examples: data.TokenizedSplit,
              unknown: float) -> None:
  """Prints the size of a split, its share of [UNK], and what was cut or left out."""
  say(f"  {split}: {len(examples):,} examples, {examples.lengths.mean():.1f} tokens on average, "
      f"{examples.lengths.max()} at most, {unknown:.1%} [UNK]"
      + (f"; {examples.truncated:,} truncated" if examples.truncated else "")
      + "".join(f"; {note}" for note in table.notes))


def choose_columns(config: ml_collections.ConfigDict, source: sources.LabelledSource,
                   table: tables.Table, checkpoint: checkpoint_utils.Checkpoint | None
                   ) -> tables.Layout:
  """Chooses the columns: as configured, or for scoring as the model was trained, or recognized.

  Raises:
    UserError: the model to be scored was trained on another number of texts.
  """
  there = table.rows.column_names
  scored = checkpoint if checkpoint and not config.do_train else None
  trained = scored.text_columns if scored else ()
  inherited = trained if set(trained) <= set(there) else ()
  delimiter = config.text_delimiter or (scored.text_delimiter if scored else "")
  label = config.label_column.strip()
  label_columns = (label,) if label in there else names_in("label_column", label)
  if scored and scored.multi_label and not label and set(scored.label_names) <= set(there):
    label_columns = scored.label_names
  layout = tables.recognize_columns(
      source.glue_task, table, names_in("text_columns", config.text_columns) or inherited,
      label_columns, delimiter)
  texts = 1 if trained and checkpoint.text_delimiter else len(trained)
  given = 1 if layout.delimiter else len(layout.texts)
  if trained and texts != given:
    raise UserError(f"{checkpoint.path} was trained on {texts} texts ({', '.join(trained)}) "
                    f"and {table.source} gives {given} ({', '.join(layout.texts)}); "
                    "name them: --config.text_columns=a,b")
  return layout


def is_multi_label(config: ml_collections.ConfigDict, source: sources.LabelledSource,
                   layout: tables.Layout, labelled: Mapping[str, tables.Table],
                   checkpoint: checkpoint_utils.Checkpoint | None) -> bool:
  """Whether a row is of any number of classes: as configured, as the labels show, or as the model.

  Args:
    config: label_type and label_column.
    source: for messages.
    layout: the columns.
    labelled: the splits whose labels are used.
    checkpoint: says it where no labels are used.

  Raises:
    UserError: the labels show it and the configuration forbids it.
  """
  if layout.label_columns:
    sign = f"label_column names {len(layout.label_columns)} columns, of 0 and 1"
  else:
    sign = next((f"column {shown(layout.label)} of {table.source} holds lists of classes"
                 for table in labelled.values()
                 if layout.label and table.content_of(layout.label) == "lists"), "")
  if source.glue_task:
    if sign or config.label_type == "multi":
      raise UserError(f"{sign or 'label_type is multi'}, but a text of {source.glue_task.name} "
                      "has one label")
    return False
  if sign and config.label_type not in ("auto", "multi"):
    raise UserError(f"{sign}: --config.label_type must be multi or auto, not {config.label_type}")
  return (bool(sign) or config.label_type == "multi"
          or (not labelled and checkpoint.multi_label))


def wanted_splits(config: ml_collections.ConfigDict,
                  source: sources.LabelledSource) -> dict[str, bool]:
  """Names the splits that the config needs, and whether their labels are used.

  Raises:
    UserError: one of them is not there.
  """
  task = source.glue_task or tasks.own_task((), (), **split_names(config))  # for its splits alone
  check_glue_knobs(config, source.glue_task)
  labelled = [*([task.train_split] if config.do_train else []),
              *(task.eval_splits if config.do_eval else ())]
  wanted = dict.fromkeys(labelled, True)
  for split in task.test_splits if config.do_predict else ():
    wanted.setdefault(split, False)
  if not wanted:
    raise UserError("nothing to do: do_train, do_eval and do_predict are all False")
  if source.one_file and config.do_train and len(wanted) > 1:
    raise UserError(f"dataset_path {source.description} is one file: it can be trained on alone "
                    "(--config.do_eval=False), or scored and predicted (--config.do_train=False); "
                    "otherwise give a folder of train, validation and test files")
  for split in wanted if not source.one_file else ():
    if split not in source.splits:
      role = ("train" if split == task.train_split else
              "eval" if split in task.eval_splits else "test")
      flag = f"do_{role.replace('test', 'predict')}=False needs none" + (
          "" if source.glue_task else f", --config.{role}_split=NAME takes another")
      raise UserError(f"{source.description} has no {split} split; it has "
                      f"{', '.join(source.splits) or 'none'} (--config.{flag})")
  return wanted


def split_names(config: ml_collections.ConfigDict) -> dict[str, str]:
  """Returns the splits that a user's data is trained on, scored on and predicted, by role."""
  return {name: sources.usual_name(config[name])
          for name in ("train_split", "eval_split", "test_split")}


def check_glue_knobs(config: ml_collections.ConfigDict, task: tasks.Task | None) -> None:
  """Raises UserError for a knob that a GLUE task does not take."""
  if task is None:
    return
  for name, usual, reason in (
      ("train_split", "train", f"is trained on {task.train_split}"),
      ("eval_split", "validation", f"is evaluated on {', '.join(task.eval_splits)}"),
      ("test_split", "test", f"has the test splits {', '.join(task.test_splits)}"),
      ("text_delimiter", "", f"has the texts {', '.join(task.text_columns)}")):
    if config[name] != usual:
      raise UserError(f"{name} is for your own data; {task.name} {reason}")


def names_in(knob: str, value: str) -> tuple[str, ...]:
  """Splits a knob's comma-separated names, which may be quoted as in csv.

  Raises:
    UserError: a value that is no text, or a name that stands twice.
  """
  try:
    row = next(csv.reader([value], skipinitialspace=True, strict=True), [])
  except (csv.Error, TypeError) as error:  # of quotes, or of a config file of the user's own
    raise UserError(f'{knob} must be names such as a,b or "a, with comma",b, not {shown(value)}'
                    ) from error
  names = tuple(name.strip() for name in row if name.strip())
  if len(set(names)) < len(names):
    raise UserError(f"{knob} {shown(value)} names something twice")
  return names


def infer_task(config: ml_collections.ConfigDict, layout: tables.Layout,
               read: Mapping[str, tables.Table], values: Mapping[str, Sequence[Any]],
               checkpoint: checkpoint_utils.Checkpoint | None,
               multi_label: bool = False) -> tasks.Task:
  """Makes the task of a user's files.

  Its classes are those that are configured, that the data's ClassLabel names, that the training
  labels hold, or that the model was trained on.
  """
  known = checkpoint.label_names if checkpoint else ()
  named = layout.label_columns or next(
      (read[split].class_names(layout.label) for split in values), ())
  splits_by_role = split_names(config)
  train = splits_by_role["train_split"]
  if config.label_names:
    names = names_in("label_names", config.label_names)
  elif named and config.label_type != "float" and (config.do_train or set(named) == set(known)):
    names = named
  elif train in values:
    names = (labels.infer_label_names(read[train], list(itertools.chain(*values[train])), "class")
             if multi_label else
             labels.infer_label_names(read[train], values[train], config.label_type))
    names = order_labels(config, tasks.own_task((), names), checkpoint)
  elif checkpoint.regression or known:
    names = known
  else:
    raise UserError(f"{checkpoint.path} does not say what its classes are called; name them in "
                    "order: --config.label_names=a,b")
  if multi_label and not names:
    raise UserError(f"no row of {read[train].source} is of a class: every list is empty")
  if len(names) == 1:
    raise UserError(f"the only class is {shown(names[0])}; there is nothing to tell apart")
  return tasks.own_task(layout.texts, names, **splits_by_role, multi_label=multi_label,
                        text_delimiter=layout.delimiter)


def order_labels(config: ml_collections.ConfigDict, task: tasks.Task,
                 checkpoint: checkpoint_utils.Checkpoint | None) -> tuple[str, ...]:
  """Puts the task's classes in the order of the model's outputs: the checkpoint's, if it has one.

  Names that differ in capitals alone are the same, where no two classes of the task do.

  Raises:
    UserError: configured names that are not the task's, or not in the checkpoint's order.
  """
  ours = {name.casefold(): name for name in task.label_names}
  configured = names_in("label_names", config.label_names)
  if len(ours) == len(task.label_names):
    configured = tuple(ours.get(name.casefold(), name) for name in configured)
  if configured and set(configured) != set(task.label_names):
    raise UserError(f"label_names {quoted(configured)} are not the classes of {task.name}: "
                    f"{quoted(task.label_names) or 'none (regression)'}")
  known = checkpoint.label_names if checkpoint else ()
  order = known if set(known) == set(task.label_names) else tuple(
      ours.get(name.casefold(), "") for name in known)
  if sorted(order) != sorted(task.label_names):
    return configured or task.label_names
  if configured and configured != order:
    raise UserError(f"label_names has another order than {checkpoint.path}, whose outputs are "
                    f"{quoted(order)}; leave the flag out")
  return order


def same_names(these: Sequence[str], those: Sequence[str]) -> bool:
  """Whether two lists name the same classes in the same order, whatever the capitals.

  Capitals count where two names of one list differ in nothing else.
  """
  folded = [[name.casefold() for name in names] for names in (these, those)]
  return list(these) == list(those) or (
      folded[0] == folded[1] and len(set(folded[0])) == len(these))
