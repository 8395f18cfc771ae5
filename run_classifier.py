r"""Fine-tunes BERT on a GLUE task or on your own labelled text, scores it, and predicts.

    python3 run_classifier.py --config=configs/classifier.py:bert-base-uncased \
        --config.dataset_name=mrpc --output_dir=OUT

Every knob is in configs/classifier.py and can be set as --config.name=value. The same command
continues an interrupted run; --config.do_train=False --output_dir=OUT scores or predicts with
a finished one.
"""

if __name__ == "__main__":
  from support import stopping

  stopping.catch_signals()  # first: the imports below take seconds

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

import checkpoint_utils
from classification import collapse, tasks
from classification.classifier import Classifier, split_logits
from classification.dev_predictions import dev_predictions, dev_sections, write_dev_file
from classification.labels import weights_of_classes
from classification.splits import names_in, read_run_data, RunData, same_names
from configs import rules
import data
import experiment
import losses
import modeling
import optimization
from support import devices, files, hosts, reporting, run_folder, run_page
from support.command_line import run_script
from support.errors import quoted, shown, UserError
from support.reporting import say
from support.selection import Selection
from tokenization import Tokenizer
import training

SCRIPT = "run_classifier"


def main() -> None:
  run_command(experiment.parsed_flags())


def run_command(asked: experiment.Asked) -> "CommandResult":
  """Trains, scores and predicts, as the flags say; a program may do so many times.

  Raises:
    UserError: bad input.
  """
  hosts.start(asked.config)
  run = experiment.open_run(asked, SCRIPT, data_name(asked.config))
  config = run.config
  rules.check_values(config)
  experiment.check_push(run)
  devices.prepare_devices(config, SCRIPT)
  check_batch_sizes(run)
  checkpoint = experiment.find_weights(run)
  tokenizer = experiment.find_tokenizer(run, checkpoint, usual="")
  with hosts.first_before_others():
    run_data = read_run_data(config, checkpoint, tokenizer)
  digests = run_data.digests() if config.do_train or hosts.several() else {}
  run_folder.check_same_data(run.folder, digests if config.do_train else {})
  classifier = build_classifier(run, checkpoint, run_data, tokenizer)
  experiment.check_hosts(classifier.params, tokenizer, digests)
  dev_logits: dict[str, np.ndarray] = {}  # split -> the last evaluation's
  plan = plan_fine_tuning(config, classifier, run_data, dev_logits) if run.trains else None
  experiment.start_run(run, SCRIPT, classifier.model.config, classifier.params, tokenizer,
                       label_names=classifier.label_names, data=digests,
                       class_counts=counts_to_learn(run_data))
  if plan:
    trained = experiment.run_training(run, plan)
    classifier, results = dataclasses.replace(classifier, params=trained.params), trained.results
  else:
    results = score_splits(config, classifier, run_data, dev_logits) if config.do_eval else {}
  if config.do_eval:
    results = hosts.told_by_first(functools.partial(with_collapse, run, results))
  if plan:
    export_classifier(run, classifier, run_data.task, tokenizer, trained._replace(results=results))
  if config.do_eval:
    hosts.only_first(reporting.write_results)(run.folder, "eval_results", results)
  if config.do_predict:
    write_predictions(run, classifier, run_data)
  if plan or config.do_eval:
    report_fine_tuning(run, run_data, dev_logits)
  experiment.push(run)
  say(f"done: {run.folder}")
  return CommandResult(run.folder, run_data.task, results)


class CommandResult(NamedTuple):
  """What a command leaves: its run's folder, its task, its eval_results ({} without do_eval)."""

  folder: pathlib.Path
  task: tasks.Task
  scores: Mapping[str, float]


# --- Before anything is computed --------------------------------------------------------------


def data_name(config: ml_collections.ConfigDict) -> str:
  """Returns a name for a new run's folder."""
  return config.dataset_name or pathlib.Path(config.dataset_path).name


def check_batch_sizes(run: experiment.Run) -> None:
  """Checks the batch sizes in use; training batches are cut into micro-batches too."""
  config = run.config
  if run.trains:
    experiment.check_batch_size("train_batch_size", config.train_batch_size,
                                config.gradient_accumulation_steps)
  if config.do_eval:
    experiment.check_batch_size("eval_batch_size", config.eval_batch_size)
  if config.do_predict:
    experiment.check_batch_size("predict_batch_size", config.predict_batch_size)


# --- Model ------------------------------------------------------------------------------------


def build_classifier(run: experiment.Run, checkpoint: checkpoint_utils.Checkpoint | None,
                     run_data: RunData, tokenizer: Tokenizer) -> Classifier:
  """Builds the model and fills it from the checkpoint.

  A head for other classes starts afresh, and so do the layers of config.reinit_layers.
  """
  config, task, label_names = run.config, run_data.task, run_data.label_names
  bert_config = architecture_of(config, checkpoint, task, tokenizer)
  model = modeling.BertForSequenceClassification(bert_config, max(len(label_names), 1),
                                                 jnp.dtype(config.dtype))
  classifier = Classifier(model, {}, label_names, task.text_columns, task.text_delimiter,
                          task.multi_label)
  redrawn = redrawn_modules(config, bert_config.num_hidden_layers) if run.trains else ()
  if checkpoint is None:
    return dataclasses.replace(classifier, params=experiment.random_params(model, config.seed))
  configured = names_in("label_names", config.label_names)
  # To score, the flag names the outputs whatever the checkpoint calls them.
  named = checkpoint.label_names if config.do_train and checkpoint.label_names else (
      configured or checkpoint.label_names)
  same = checkpoint.regression if task.regression else (
      same_names(named, label_names) and checkpoint.multi_label == task.multi_label)
  params, report = checkpoint_utils.load_params(
      checkpoint, modeling.parameter_shapes(model),
      reinitialize=redrawn if same else (*redrawn, "classifier/"),
      resize_embeddings=config.resize_embeddings,
      draw=functools.partial(experiment.draw_params, model, config.seed))
  say(f"  {report}")
  if "classifier/kernel" in report.ignored:
    say(f"  the checkpoint's classes ({quoted(checkpoint.label_names) or 'unnamed'}"
        f"{_several(checkpoint.multi_label)}) are not this task's "
        f"({quoted(label_names) or 'regression'}{_several(task.multi_label)}): the classifier "
        "starts afresh")
  if report.new_rows and run.trains and (config.freeze_layers or config.freeze_embeddings):
    raise UserError(f"resize_embeddings draws {report.new_rows} rows of word embeddings, which "
                    "must be trained; leave out freeze_layers and freeze_embeddings")
  if report.initialized and not config.do_train:
    raise UserError(f"{checkpoint.path} has no trained {', '.join(report.initialized)} for "
                    f"{task.name} ({quoted(label_names, 5) or 'regression'}"
                    f"{_several(task.multi_label)}): train one first, or say what its outputs are "
                    "called, in their order: --config.label_names=a,b")
  return dataclasses.replace(classifier, params=params)


def architecture_of(config: ml_collections.ConfigDict,
                    checkpoint: checkpoint_utils.Checkpoint | None, task: tasks.Task,
                    tokenizer: Tokenizer) -> modeling.BertConfig:
  """Returns the checkpoint's architecture, BERT-base's without one, with config.model's changes.

  Raises:
    UserError: the tokenizer, the length or the task's texts do not fit it.
  """
  base = checkpoint.config if checkpoint else modeling.BertConfig(vocab_size=tokenizer.vocab_size)
  return experiment.model_config(config, base, tokenizer.vocab_size, config.max_seq_length,
                                 segments=task.segments)


def _several(multi_label: bool) -> str:
  return ", any number a text" if multi_label else ""


def redrawn_modules(config: ml_collections.ConfigDict, num_hidden_layers: int) -> tuple[str, ...]:
  """Returns the prefixes of the parameters that config.reinit_layers draws afresh.

  Raises:
    UserError: more layers than there are, or weights that are random anyway.
  """
  redrawn = config.reinit_layers
  if redrawn > num_hidden_layers:
    raise UserError(f"reinit_layers {redrawn} is over the model's {num_hidden_layers} layers")
  if redrawn and not config.init_checkpoint:
    raise UserError(f"reinit_layers {redrawn} needs --config.init_checkpoint: without it all "
                    "weights are random")
  layers = range(num_hidden_layers - redrawn, num_hidden_layers)
  return (*(f"bert/layer_{i}/" for i in layers), "bert/pooler/") if redrawn else ()


def frozen_modules(config: ml_collections.ConfigDict,
                   num_hidden_layers: int) -> optimization.Modules:
  """Returns the modules that config.freeze_embeddings and freeze_layers keep as they are.

  Raises:
    UserError: more layers than there are, or weights that are random.
  """
  frozen = config.freeze_layers
  if not (frozen or config.freeze_embeddings):
    return ()
  if frozen > num_hidden_layers:
    raise UserError(f"freeze_layers {frozen} is over the model's {num_hidden_layers} layers")
  if frozen and frozen + config.reinit_layers > num_hidden_layers:
    raise UserError(f"freeze_layers {frozen} and reinit_layers {config.reinit_layers} overlap: the "
                    f"model has {num_hidden_layers} layers, and random ones must be trained")
  if not config.init_checkpoint:
    knob = f"freeze_layers {frozen}" if frozen else "freeze_embeddings True"
    raise UserError(f"{knob} needs --config.init_checkpoint: without it all weights are random")
  return (("bert", "embeddings"), *(("bert", f"layer_{i}") for i in range(frozen)))


# --- Training ---------------------------------------------------------------------------------


def plan_fine_tuning(config: ml_collections.ConfigDict, classifier: Classifier,
                     run_data: RunData, dev_logits: dict[str, np.ndarray]
                     ) -> experiment.TrainingPlan:
  """Plans the training: how many steps, on which batches, at which learning rates.

  Args:
    config: the run's.
    classifier: at step 0.
    run_data: its splits.
    dev_logits: gets each evaluation's: see `score_splits`.
  """
  examples = run_data.splits[run_data.task.train_split].examples
  num_train_steps, num_warmup_steps = number_of_steps(config, len(examples))
  eval_steps = config.eval_every_epochs * len(examples) / config.train_batch_size
  schedule = optimization.create_schedule(config.learning_rate_schedule, config.learning_rate,
                                          num_train_steps, num_warmup_steps)
  target = training_target(config, run_data)
  say_class_weights(target, classifier.label_names)
  frozen = frozen_modules(config, classifier.model.config.num_hidden_layers)
  optimizer = optimization.train_all_but(
      experiment.optimizer_from_config(config, config.layerwise_lr_decay), frozen)
  return experiment.TrainingPlan(
      description=experiment.model_description(
          classifier.model.config, label_names=classifier.label_names,
          text_columns=classifier.text_columns, text_delimiter=classifier.text_delimiter,
          regression=run_data.task.regression, multi_label=classifier.multi_label),
      params=classifier.params, optimizer=optimizer, schedule=schedule,
      loop=training.Loop(num_train_steps, config.log_every_steps,
                         max(round(eval_steps), 1) if config.do_eval and eval_steps else 0,
                         config.save_checkpoints_steps, config.skip_nonfinite_steps,
                         ends_early=config.early_stopping_patience > 0),
      num_warmup_steps=num_warmup_steps, batch_description=f"{config.train_batch_size} examples",
      step_fn=losses.make_classifier_step(
          classifier.model, optimizer, skip_nonfinite=config.skip_nonfinite_steps > 0,
          target=target, frozen=frozen),
      batches_from=functools.partial(train_batches, config, examples, num_train_steps),
      evaluate=(lambda params, _: score_splits(
          config, dataclasses.replace(classifier, params=params), run_data, dev_logits)
                ) if config.do_eval else None,
      curve=f"eval_{run_data.task.metrics[0]}", frozen=frozen,
      summary={"class_counts": run_data.class_counts()} if classifier.label_names else {},
      selection=selection_of(config, run_data.task))


def check_training(config: ml_collections.ConfigDict,
                   checkpoint: checkpoint_utils.Checkpoint | None, tokenizer: Tokenizer,
                   run_data: RunData) -> None:
  """Checks all of a training that is known before its weights are read.

  Raises:
    UserError: a knob that does not fit the architecture or the data.
  """
  num_layers = architecture_of(config, checkpoint, run_data.task, tokenizer).num_hidden_layers
  redrawn_modules(config, num_layers)
  frozen_modules(config, num_layers)
  selection_of(config, run_data.task)
  training_target(config, run_data)
  number_of_steps(config, len(run_data.splits[run_data.task.train_split].examples))


def number_of_steps(config: ml_collections.ConfigDict, num_examples: int) -> tuple[int, int]:
  """Returns the number of training steps, and how many of them are warm-up.

  Raises:
    UserError: the examples do not make one batch.
  """
  steps, warmup = optimization.training_steps(
      num_examples, config.train_batch_size, config.num_train_epochs, config.warmup_proportion,
      config.max_steps)
  if not steps:
    raise UserError(f"{num_examples} training examples x {config.num_train_epochs} epochs make "
                    f"not one batch of train_batch_size {config.train_batch_size}")
  return steps, warmup


def selection_of(config: ml_collections.ConfigDict, task: tasks.Task) -> Selection:
  """Returns how the evaluations decide: by the task's first metric (MNLI: of the matched split).

  Raises:
    UserError: they decide, and there are none.
  """
  for knob in ("early_stopping_patience", "keep_best"):
    if config[knob] and not (config.do_eval and config.eval_every_epochs):
      raise UserError(f"{knob} {config[knob]} needs evaluations while training: "
                      "--config.do_eval=True and --config.eval_every_epochs=1.0")
  return Selection(f"eval_{task.metrics[0]}", config.early_stopping_patience,
                                 config.keep_best)


def training_target(config: ml_collections.ConfigDict, run_data: RunData) -> losses.Target:
  """Returns what label_smoothing and class_weights make of the training loss.

  Raises:
    UserError: a regression or several classes a text, or weights that do not fit the classes.
  """
  task = run_data.task
  for knob in ("label_smoothing", "class_weights"):
    if config[knob] and (task.multi_label or not run_data.label_names):
      raise UserError(f"{knob} {config[knob]} is for one class a text; "
                      f"{task.name if task.folder else 'this'} is " + (
          "any number of classes" if task.multi_label else "a regression"))
  weights = weights_of_classes(config.class_weights, run_data.label_names,
                               run_data.splits[task.train_split].examples.labels)
  return losses.Target(config.label_smoothing, weights)


def say_class_weights(target: losses.Target, label_names: Sequence[str]) -> None:
  """Prints the weight of each class, where there are any."""
  if target.class_weights:
    say("class weights: " + ", ".join(f"{shown(name)} {weight:.4g}" for name, weight in zip(
        label_names, target.class_weights, strict=True)))


def train_batches(config: ml_collections.ConfigDict, examples: data.TokenizedSplit,
                  num_train_steps: int, first_step: int) -> Iterator[data.Batch]:
  """Yields the batches from `first_step` on, for the local devices."""
  return data.shuffled_batches(
      examples, seed=config.seed, first_step=first_step, num_steps=num_train_steps,
      batch_size=config.train_batch_size, devices=jax.device_count(), mine=hosts.own_devices(),
      micro_batches=config.gradient_accumulation_steps, pack=config.pack_sequences,
      length=data.row_length(int(examples.lengths.max()), config.max_seq_length))


# --- Scoring, predicting, saving --------------------------------------------------------------

def logits_of(config: ml_collections.ConfigDict, classifier: Classifier,
              examples: data.TokenizedSplit, batch_size: int) -> np.ndarray:
  """Computes [examples, outputs] of a split with the config's rows."""
  return split_logits(classifier, examples, batch_size=batch_size,
                      max_seq_length=config.max_seq_length, pack=config.pack_sequences)


def score_splits(config: ml_collections.ConfigDict, classifier: Classifier,
                 run_data: RunData, dev_logits: dict[str, np.ndarray]) -> dict[str, float]:
  """Computes eval_<metric> of every dev split; those of MNLI's second end in _mismatched.

  eval_collapsed says whether all predictions of a dev split are alike.

  Args:
    config: batch size and rows.
    classifier: the model.
    run_data: its dev splits are scored.
    dev_logits: gets split -> [examples, outputs].
  """
  task = run_data.task
  results, alike = {}, []
  for split, suffix in task.eval_splits.items():
    examples = run_data.splits[split].examples
    logits = logits_of(config, classifier, examples, config.eval_batch_size)
    dev_logits[split] = logits
    predictions = tasks.predictions_from(task, logits)
    scores = tasks.score(task, predictions, examples.labels, classifier.label_names)
    scores["loss"] = float(jnp.mean(losses.example_losses(jnp.asarray(logits), examples.labels)))
    results |= {f"eval_{name}{suffix}": value for name, value in scores.items()}
    alike.append(collapse.answers_alike(task, predictions, examples.labels))
  return results | {"eval_collapsed": any(alike)}


def counts_to_learn(run_data: RunData) -> dict[str, int]:
  """Returns the training examples of each class, whose frequencies `with_collapse` looks at.

  {} where nothing is trained on, and where a text is of any number of classes: the loss at their
  frequencies is another one.
  """
  task = run_data.task
  return {} if task.multi_label else run_data.class_counts().get(task.train_split, {})


def with_collapse(run: experiment.Run, results: Mapping[str, float]) -> dict[str, float]:
  """Completes eval_collapsed by what the run's training loss shows; prints what helps."""
  config_file = run.folder / "config.json"
  stored = files.read_json(config_file) if config_file.exists() else {}
  counts = list(stored.get("class_counts", {}).values())
  plain = not (run.config.label_smoothing or run.config.class_weights)  # else another loss
  records = reporting.read_metrics(run.folder / "metrics.jsonl")
  idle = plain and collapse.never_learned(records, counts)
  if results["eval_collapsed"] or idle:
    sign = ("it gives all examples of a dev set one answer" if results["eval_collapsed"] else
            "its training loss stayed at the "
            f"{collapse.entropy(counts):.2f} of the classes' frequencies")
    steps = 0 if run.config.early_stopping_patience else collapse.steps_trained(records)
    remedy = collapse.remedy(bool(run.config.init_checkpoint), steps, run.config.max_steps)
    say(f"warning: the model has collapsed: {sign}; {remedy}")
  return {**results, "eval_collapsed": results["eval_collapsed"] or idle}


def write_predictions(run: experiment.Run, classifier: Classifier, run_data: RunData) -> None:
  """Writes predictions/<GLUE's name>.tsv for the test splits, and the probabilities beside."""
  for split, name in run_data.task.test_splits.items():
    examples, row_ids = run_data.splits[split].examples, run_data.splits[split].row_ids
    logits = logits_of(run.config, classifier, examples, run.config.predict_batch_size)
    file = run.folder / "predictions" / f"{name}.tsv"
    if not hosts.is_first():
      continue
    tasks.write_leaderboard_file(file, run_data.task,
                                 tasks.predictions_from(run_data.task, logits),
                                 classifier.label_names, row_ids)
    say(f"predictions: {file}")
    if classifier.label_names:
      tasks.write_probabilities(file.with_name(f"{name}.probabilities.tsv"), logits,
                                classifier.label_names, row_ids,
                                multi_label=classifier.multi_label)


@hosts.only_first
def report_fine_tuning(run: experiment.Run, run_data: RunData, dev_logits: Mapping[str, np.ndarray]
                       ) -> None:
  """Writes predictions/dev.tsv of the dev splits that were scored, and report.html."""
  task, sections = run_data.task, []
  trained = (run_data.class_counts() if run.config.do_train else counts_of_training(run)
             ).get(task.train_split, {})
  for dev in dev_predictions(run_data, dev_logits):
    write_dev_file(run.folder / "predictions" / f"{dev.name}.tsv", dev)
    sections += dev_sections(dev, trained)
  run_page.write_run_report(
      run.folder, f"{task.name if task.folder else data_name(run.config)}: "
      f"{'fine-tuning' if run.config.do_train or run.finished else 'scores'}", sections,
      more_facts=(("Examples", ", ".join(f"{name} {len(split.examples):,}"
                                         for name, split in run_data.splits.items())),),
      titles={"collapsed": "Collapsed (learned nothing)"}, note=experiment.scored_again(run))
  say(f"report: {run.folder / 'report.html'}")


def counts_of_training(run: experiment.Run) -> Mapping[str, Mapping[str, int]]:
  """Returns the class counts of a run's splits when it was trained; {} where it was not."""
  file = run.folder / "summary.json"
  return files.read_json(file).get("class_counts", {}) if file.exists() else {}


def export_classifier(run: experiment.Run, classifier: Classifier, task: tasks.Task,
                      tokenizer: Tokenizer, trained: experiment.Trained) -> None:
  """Writes model/, with the names of the classes."""
  config = run.config
  duration = (f"{config.max_steps} steps" if config.max_steps else
              f"{config.num_train_epochs} epochs")
  # LABEL_0 is the name that transformers gives to the output of a regression.
  names = classifier.label_names or ("LABEL_0",)
  card = experiment.model_card(
      f"BERT fine-tuned on {config.dataset_name or config.dataset_path}", "text-classification",
      f"Fine-tuned from `{config.init_checkpoint or 'random weights'}` with BERT in Flax:\n"
      f"batch {config.train_batch_size}, learning rate {config.learning_rate}, "
      f"{duration}, length {config.max_seq_length}, "
      f"seed {config.seed}, {config.dtype}. The parameters are {trained.origin}.\n"
      f"Task: {task.name}; classes: {quoted(classifier.label_names) or 'none (regression)'}"
      f"{_several(task.multi_label)}."
      + " **It has collapsed: it learned nothing.**" * trained.results.get("eval_collapsed", False),
      "dev set", trained.results)
  experiment.export(
      run, classifier.model.config, classifier.params, tokenizer, card, trained.origin,
      architectures=["BertForSequenceClassification"], text_columns=classifier.text_columns,
      id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)},
      text_delimiter=classifier.text_delimiter,
      problem_type="regression" if task.regression else
      "multi_label_classification" if task.multi_label else "single_label_classification")


if __name__ == "__main__":
  experiment.define_flags("configs/classifier.py")
  run_script(main)
