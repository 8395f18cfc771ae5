"""The labelled, tokenized splits of a classification run: which ones, and what labels mean.

Between the readers (`tables.py`), the tasks (`tasks.py`) and the tokens (`data.py`).
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import ml_collections
import numpy as np

import checkpoint_utils
from classification import tables, tasks
import data
from support.errors import UserError
from support.reporting import say


@dataclasses.dataclass(frozen=True)
class Split:
  """A tokenized split and the ids of its rows."""

  examples: data.Examples
  row_ids: list[str]


def read_splits(config: ml_collections.ConfigDict, source: tables.Source,
                checkpoint: checkpoint_utils.Checkpoint | None, tokenizer: Any
                ) -> tuple[tasks.Task, tuple[str, ...], dict[str, Split]]:
  """Reads and tokenizes the splits that are asked for.

  Returns:
    The task, its classes in the order of the model's outputs, and split name -> Split.
  """
  say(f"data: {source.description}")
  read = {split: source.read(split) for split in wanted_splits(config, source)}
  layout = find_layout(config, source, next(iter(read.values())), checkpoint)
  task = source.glue_task or own_task(config, layout, read, checkpoint)
  label_names = order_labels(config, task, checkpoint)
  splits = {}
  for split, table in read.items():
    if split in task.test_splits:  # no labels there, or none that may be looked at
      labels = np.zeros(len(table), np.float32 if task.regression else np.int32)
    else:
      labels = tables.encode_labels(table, tables.label_values(table, layout), task, label_names)
    texts = [table.texts(name) for name in layout.texts]
    examples = data.tokenize(tokenizer, texts[0], texts[1] if len(texts) > 1 else None, labels,
                             config.max_seq_length)
    splits[split] = Split(examples, tables.row_ids(table))
    say(f"  {split}: {len(examples):,} examples, {examples.lengths.mean():.1f} tokens on average, "
        f"{examples.lengths.max()} at most"
        + (f"; {examples.truncated:,} truncated" if examples.truncated else "")
        + (f"; {table.skipped} bad rows left out" if table.skipped else ""))
  return task, label_names, splits


def find_layout(config: ml_collections.ConfigDict, source: tables.Source, table: tables.Table,
                checkpoint: checkpoint_utils.Checkpoint | None) -> tables.Layout:
  """The columns: as configured, or for scoring as the model was trained, or recognized.

  Raises:
    UserError: another number of texts than the model to be scored was trained on.
  """
  trained = checkpoint.text_columns if checkpoint and not config.do_train else ()
  inherited = trained if all(name in table.columns for name in trained) else ()
  layout = tables.find_layout(source, table, names_in(config.text_columns) or inherited,
                              config.label_column)
  if trained and len(trained) != len(layout.texts):
    raise UserError(f"{checkpoint.path} was trained on {len(trained)} texts ({', '.join(trained)}) "
                    f"and {table.source} gives {len(layout.texts)} ({', '.join(layout.texts)}); "
                    "name them: --config.text_columns=a,b")
  return layout


def wanted_splits(config: ml_collections.ConfigDict, source: tables.Source) -> list[str]:
  """The splits that the config needs.

  Raises:
    UserError: one of them is not there.
  """
  task = source.glue_task or tasks.own_task((), ())
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
  """The names in a comma-separated flag, each once."""
  names = tuple(name.strip() for name in text.split(",") if name.strip())
  if len(set(names)) < len(names):
    raise UserError(f"{text!r} names something twice")
  return names


def own_task(config: ml_collections.ConfigDict, layout: tables.Layout,
             read: Mapping[str, tables.Table],
             checkpoint: checkpoint_utils.Checkpoint | None) -> tasks.Task:
  """The task of the user's own files: classes as configured, in training, or as trained."""
  if config.label_names:
    names = names_in(config.label_names)
  elif "train" in read:
    names = tables.infer_label_names(read["train"], tables.label_values(read["train"], layout),
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
  """The task's classes in the order of the model's outputs: the checkpoint's, where it has them.

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
