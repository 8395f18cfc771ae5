"""A classification run's data: its tokenized splits, its task, and the order of its classes."""

from collections.abc import Mapping
import dataclasses
import pathlib

import ml_collections
import numpy as np

import checkpoint_utils
from classification import labels, tables, tasks
import data
from support import files
from support.errors import UserError
from support.reporting import say
from tokenization import Tokenizer


@dataclasses.dataclass(frozen=True)
class LabelledSplit:
  """A tokenized split and, of a test split, the ids of its rows."""

  examples: data.TokenizedSplit
  row_ids: list[str]


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


def read_run_data(config: ml_collections.ConfigDict,
                  checkpoint: checkpoint_utils.Checkpoint | None, tokenizer: Tokenizer) -> RunData:
  """Finds, reads and tokenizes the splits that the config asks for.

  Raises:
    UserError: anything wrong in the data, with its file and line.
  """
  cache_dir = pathlib.Path(config.cache_dir or "~/.cache/bert_in_flax/tokenized").expanduser()
  cache_dir.mkdir(parents=True, exist_ok=True)
  source = tables.find_source(config.dataset_name, config.dataset_path, config.skip_bad_rows,
                              cache_dir)
  say(f"data: {source.description}")
  read = {split: source.read(split) for split in wanted_splits(config, source)}
  layout = choose_columns(config, source, next(iter(read.values())), checkpoint)
  task = source.glue_task or infer_task(config, layout, read, checkpoint)
  label_names = order_labels(config, task, checkpoint)
  splits = {}
  for split, table in read.items():
    if split in task.test_splits:  # labels are absent or withheld
      encoded = np.zeros(len(table), np.float32 if task.regression else np.int32)
    else:
      encoded = labels.encode_labels(table, labels.label_values(table, layout), task, label_names)
    examples = data.tokenize(table.texts(layout.texts), encoded, tokenizer,
                             config.max_seq_length, cache_dir)
    row_ids = tables.row_ids(table) if split in task.test_splits else []
    splits[split] = LabelledSplit(examples, row_ids)
    say(f"  {split}: {len(examples):,} examples, {examples.lengths.mean():.1f} tokens on average, "
        f"{examples.lengths.max()} at most"
        + (f"; {examples.truncated:,} truncated" if examples.truncated else "")
        + (f"; {table.skipped} bad rows left out" if table.skipped else ""))
  files.keep_within(cache_dir, config.cache_gigabytes * 1e9)
  return RunData(task, label_names, splits)


def choose_columns(config: ml_collections.ConfigDict, source: tables.LabelledSource,
                   table: tables.Table, checkpoint: checkpoint_utils.Checkpoint | None
                   ) -> tables.Layout:
  """Chooses the columns: as configured, or for scoring as the model was trained, or recognized.

  Raises:
    UserError: the model to be scored was trained on another number of texts.
  """
  trained = checkpoint.text_columns if checkpoint and not config.do_train else ()
  inherited = trained if all(name in table.rows.column_names for name in trained) else ()
  layout = tables.recognize_columns(source, table, names_in(config.text_columns) or inherited,
                                    config.label_column)
  if trained and len(trained) != len(layout.texts):
    raise UserError(f"{checkpoint.path} was trained on {len(trained)} texts ({', '.join(trained)}) "
                    f"and {table.source} gives {len(layout.texts)} ({', '.join(layout.texts)}); "
                    "name them: --config.text_columns=a,b")
  return layout


def wanted_splits(config: ml_collections.ConfigDict, source: tables.LabelledSource) -> list[str]:
  """Names the splits that the config needs.

  Raises:
    UserError: one of them is not there.
  """
  task = source.glue_task or tasks.own_task((), ())  # for its splits; its classes come later
  wanted = [*(["train"] if config.do_train else []),
            *(task.eval_splits if config.do_eval else ()),
            *(task.test_splits if config.do_predict else ())]
  if not wanted:
    raise UserError("nothing to do: do_train, do_eval and do_predict are all False")
  for split in wanted:
    if split not in source.splits:
      flag = ("do_train" if split == "train" else "do_eval" if split in task.eval_splits else
              "do_predict")
      raise UserError(f"{source.description} has no {split} split; it has "
                      f"{', '.join(source.splits) or 'none'} (--config.{flag}=False needs none)")
  return wanted


def names_in(text: str) -> tuple[str, ...]:
  """Splits a comma-separated flag into names; one that stands twice is an error."""
  names = tuple(name.strip() for name in text.split(",") if name.strip())
  if len(set(names)) < len(names):
    raise UserError(f"{text!r} names something twice")
  return names


def infer_task(config: ml_collections.ConfigDict, layout: tables.Layout,
               read: Mapping[str, tables.Table],
               checkpoint: checkpoint_utils.Checkpoint | None) -> tasks.Task:
  """Makes the task of a user's files: classes as configured, in the training data, or trained."""
  if config.label_names:
    names = names_in(config.label_names)
  elif "train" in read:
    names = labels.infer_label_names(read["train"], labels.label_values(read["train"], layout),
                                     config.label_type)
  elif checkpoint.regression or checkpoint.label_names:
    names = checkpoint.label_names
  else:
    raise UserError(f"{checkpoint.path} does not say what its classes are called; name them in "
                    "order: --config.label_names=a,b")
  if len(names) == 1:
    raise UserError(f"the only class is {names[0]!r}; there is nothing to tell apart")
  say(f"  texts: {', '.join(layout.texts)}; label: {layout.label}; "
      + (f"classes: {', '.join(names)}" if names else "regression"))
  return tasks.own_task(layout.texts, names)


def order_labels(config: ml_collections.ConfigDict, task: tasks.Task,
                 checkpoint: checkpoint_utils.Checkpoint | None) -> tuple[str, ...]:
  """Puts the task's classes in the order of the model's outputs: the checkpoint's, if it has one.

  Raises:
    UserError: configured names that are not the task's.
  """
  known = checkpoint.label_names if checkpoint else ()
  if set(known) == set(task.label_names):
    return known
  configured = names_in(config.label_names)
  if configured and set(configured) != set(task.label_names):
    raise UserError(f"label_names {', '.join(configured)} are not the classes of {task.name}: "
                    f"{', '.join(task.label_names) or 'none (regression)'}")
  return configured or task.label_names
