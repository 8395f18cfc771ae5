"""Fine-tunes BERT on a GLUE task or on your own labelled text, scores it, and predicts.

    python3 run_classifier.py --config=configs/classifier.py:bert-base-uncased \
        --config.dataset_name=mrpc --output_dir=OUT

Every knob is in configs/classifier.py and can be set as --config.name=value. The same command
continues an interrupted run; --config.do_train=False --output_dir=OUT scores or predicts with
a finished one.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import pathlib
from typing import Any, NamedTuple

from absl import flags
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

import checkpoint_utils
from classification import tables, tasks
from classification.splits import names_in, read_splits, Split
from configs import rules
import data
import experiment
import losses
import modeling
import optimization
from support import devices, reporting
from support.command_line import run_script
from support.errors import UserError
from support.reporting import say
import training

SCRIPT = "run_classifier"


@dataclasses.dataclass(frozen=True)
class Classifier:
  """The model, its parameters and the meaning of its outputs."""

  model: modeling.BertForSequenceClassification
  params: Mapping[str, Any]
  label_names: tuple[str, ...]  # in the order of the outputs; () for regression
  text_columns: tuple[str, ...]  # of the data that it is for


def main() -> None:
  asked = flags.FLAGS.config
  run = experiment.open_run(asked, flags.FLAGS.output_dir, SCRIPT, data_name(asked))
  config = run.config
  rules.check_values(config)
  devices.prepare_devices(config, SCRIPT)
  check_batch_sizes(run)
  checkpoint = experiment.find_weights(run)
  tokenizer = data.load_tokenizer(*tokenizer_source(run, checkpoint))
  source = tables.find_source(config.dataset_name, config.dataset_path, config.skip_bad_rows)
  task, label_names, splits = read_splits(config, source, checkpoint, tokenizer)
  classifier = build_classifier(config, checkpoint, task, label_names, tokenizer)
  plan = make_plan(config, len(splits["train"].examples)) if run.trains else None
  experiment.start_run(run, SCRIPT, classifier.model.config, classifier.params, tokenizer,
                       label_names=classifier.label_names)
  if plan:
    classifier, results = train(run, plan, classifier, task, splits)
    export(run, classifier, task, tokenizer, results)
  elif config.do_eval:
    results = score_splits(config, classifier, task, splits)
  if config.do_eval:
    reporting.write_results(run.folder, "eval_results", results)
  if config.do_predict:
    predict(run, classifier, task, splits)
  say(f"done: {run.folder}")


# --- Before anything is computed --------------------------------------------------------------


def data_name(config: ml_collections.ConfigDict) -> str:
  """What a new run's folder is called after."""
  return config.dataset_name or pathlib.Path(config.dataset_path).name


def check_batch_sizes(run: experiment.Run) -> None:
  """Those that this command uses; training batches are cut into micro-batches too."""
  config = run.config
  if run.trains:
    experiment.check_batch_size("train_batch_size", config.train_batch_size,
                                config.gradient_accumulation_steps)
  experiment.check_batch_size("eval_batch_size", config.eval_batch_size)
  experiment.check_batch_size("predict_batch_size", config.predict_batch_size)


def tokenizer_source(run: experiment.Run, checkpoint: checkpoint_utils.Checkpoint | None
                     ) -> tuple[str, bool | None]:
  """-> (where the tokenizer lies, do_lower_case): the config's, or else the checkpoint's own.

  A finished run's is the one in its model/, which is what it was trained with.
  """
  if run.finished:
    return checkpoint.tokenizer, None
  source = run.config.tokenizer or (checkpoint.tokenizer if checkpoint else "")
  if not source:
    raise UserError(
        f"{checkpoint.path} has no tokenizer; give --config.tokenizer=/path/to/dir (with "
        "tokenizer.json or vocab.txt)" if checkpoint else
        "no model is named: give --config.init_checkpoint, or --config=configs/classifier.py:"
        "bert-base-uncased, or for a random model --config.tokenizer=/path/to/dir")
  return source, run.config.do_lower_case


# --- Model ------------------------------------------------------------------------------------


def build_classifier(config: ml_collections.ConfigDict,
                     checkpoint: checkpoint_utils.Checkpoint | None, task: tasks.Task,
                     label_names: tuple[str, ...], tokenizer: Any) -> Classifier:
  """Builds the model and fills it from the checkpoint; a head for other classes starts afresh."""
  tokenizer_size = data.vocabulary_size(tokenizer)
  base = checkpoint.config if checkpoint else modeling.BertConfig(vocab_size=tokenizer_size)
  bert_config = experiment.model_config(config, base, tokenizer_size, config.max_seq_length)
  model = modeling.BertForSequenceClassification(bert_config, max(len(label_names), 1),
                                                 jnp.dtype(config.dtype))
  params = jax.jit(model.init)(jax.random.key(config.seed), experiment.one_token())["params"]
  if checkpoint is None:
    return Classifier(model, params, label_names, task.text_columns)
  named = checkpoint.label_names or names_in(config.label_names)
  same = checkpoint.regression if task.regression else named == label_names
  params, report = checkpoint_utils.load_params(checkpoint, params,
                                                reinitialize=() if same else ("classifier/",))
  say(f"  {report}")
  if "classifier/kernel" in report.ignored:
    say(f"  the checkpoint's classes ({', '.join(checkpoint.label_names) or 'unnamed'}) are not "
        f"this task's ({', '.join(label_names) or 'regression'}): the classifier starts afresh")
  if report.initialized and not config.do_train:
    raise UserError(f"{checkpoint.path} has no trained {', '.join(report.initialized)} for "
                    f"{task.name} "
                    f"({', '.join(label_names) or 'regression'}): train one first, or, where it "
                    "only numbers its classes, name them in order: --config.label_names=a,b")
  return Classifier(model, params, label_names, task.text_columns)


# --- Training ---------------------------------------------------------------------------------


class Plan(NamedTuple):
  """What `train` is going to do."""

  loop: training.Loop
  num_warmup_steps: int
  schedule: optax.Schedule
  optimizer: optax.GradientTransformation


def make_plan(config: ml_collections.ConfigDict, num_examples: int) -> Plan:
  """How many steps, at which learning rates, with which optimizer."""
  num_train_steps, num_warmup_steps = optimization.training_steps(
      num_examples, config.train_batch_size, config.num_train_epochs, config.warmup_proportion)
  if not num_train_steps:
    raise UserError(f"{num_examples} training examples x {config.num_train_epochs} epochs make "
                    f"not one batch of train_batch_size {config.train_batch_size}")
  eval_every = config.eval_every_epochs * num_examples / config.train_batch_size
  loop = training.Loop(num_train_steps, config.log_every_steps,
                       max(round(eval_every), 1) if config.do_eval and eval_every else 0,
                       config.save_checkpoints_steps)
  schedule = optimization.create_schedule(config.learning_rate_schedule, config.learning_rate,
                                      num_train_steps, num_warmup_steps)
  return Plan(loop, num_warmup_steps, schedule,
              experiment.create_optimizer(config, "adamw", schedule))


def train(run: experiment.Run, plan: Plan, classifier: Classifier, task: tasks.Task,
          splits: Mapping[str, Split]) -> tuple[Classifier, dict[str, float]]:
  """Fine-tunes, from the run's last checkpoint if it has one; writes logs and summary.json.

  Returns:
    The trained classifier, and its dev scores where do_eval asks for them.
  """
  config, num_train_steps = run.config, plan.loop.num_train_steps
  checkpointer = experiment.make_checkpointer(
      run, classifier.model.config, label_names=classifier.label_names,
      text_columns=classifier.text_columns, regression=not classifier.label_names)
  state = experiment.starting_state(run, checkpointer, classifier.params, plan.optimizer)
  first_step = int(state.step)
  experiment.say_plan(config, f"{config.train_batch_size} examples", num_train_steps,
                      plan.num_warmup_steps, classifier.params, first_step)
  reporter = reporting.Reporter(run.folder, num_train_steps, first_step)
  predict_fn = make_predict_fn(classifier.model)

  def score_dev(state: training.TrainState) -> dict[str, float]:
    current = dataclasses.replace(classifier, params=state.params)
    results = score_splits(config, current, task, splits, predict_fn)
    reporter.metrics(int(state.step), results)
    reporter.say(f"step {int(state.step)}: " + "  ".join(
        f"{name} {value:.4f}" for name, value in results.items()))
    return results

  batches = data.prefetch(map(training.place, train_batches(
      config, splits["train"].examples, first_step, num_train_steps)))
  step_fn = losses.make_classifier_step(classifier.model, plan.optimizer)
  try:
    state, summary = training.train(state, step_fn, batches, plan.loop, plan.schedule, reporter,
                                    score_dev, checkpointer)
    results = score_dev(state) if config.do_eval else {}
  except training.NotFiniteError as error:
    raise UserError(str(error)) from error
  finally:
    checkpointer.close()
    reporter.close(f"eval_{task.metrics[0]}")
  if summary["steps"]:
    reporting.write_json(run.folder / "summary.json", {"first_step": first_step, **summary})
  return dataclasses.replace(classifier, params=state.params), results


def train_batches(config: ml_collections.ConfigDict, examples: data.Examples, first_step: int,
                  num_train_steps: int) -> Iterator[data.Batch]:
  """The batches from `first_step` on, for the local devices."""
  return data.train_batches(
      examples, seed=config.seed, first_step=first_step, num_steps=num_train_steps,
      batch_size=config.train_batch_size, devices=jax.local_device_count(),
      micro_batches=config.gradient_accumulation_steps, pack=config.pack_sequences,
      length=data.row_length(int(examples.lengths.max()), config.max_seq_length))


# --- Scoring, predicting, saving --------------------------------------------------------------

PredictFn = Callable[[training.Params, training.Batch], jax.Array]


def make_predict_fn(model: modeling.BertForSequenceClassification) -> PredictFn:
  """(params, batch [devices, ...]) -> logits [devices, examples, outputs]."""

  def logits(params: training.Params, batch: training.Batch) -> jax.Array:
    return model.apply({"params": params}, batch)

  return training.pmap_eval_step(logits)


def split_logits(config: ml_collections.ConfigDict, classifier: Classifier,
                 examples: data.Examples, batch_size: int, predict_fn: PredictFn) -> np.ndarray:
  """[examples, outputs]: every example of a split exactly once, in its order."""
  batches = data.eval_batches(
      examples, batch_size=batch_size, devices=jax.local_device_count(),
      pack=config.pack_sequences,
      length=data.row_length(int(examples.lengths.max()), config.max_seq_length))
  return training.predict(predict_fn, training.replicate(classifier.params),
                          data.prefetch(batches))


def score_splits(config: ml_collections.ConfigDict, classifier: Classifier, task: tasks.Task,
                 splits: Mapping[str, Split], predict_fn: PredictFn | None = None
                 ) -> dict[str, float]:
  """eval_<metric> of every dev split; MNLI's second one ends in _mismatched."""
  predict_fn = predict_fn or make_predict_fn(classifier.model)
  results = {}
  for split, suffix in task.eval_splits.items():
    examples = splits[split].examples
    logits = split_logits(config, classifier, examples, config.eval_batch_size, predict_fn)
    scores = tasks.score(task, tasks.predictions_from(task, logits), examples.labels,
                        classifier.label_names)
    scores["loss"] = float(jnp.mean(losses.example_losses(jnp.asarray(logits), examples.labels)))
    results |= {f"eval_{name}{suffix}": value for name, value in scores.items()}
  return results


def predict(run: experiment.Run, classifier: Classifier, task: tasks.Task,
            splits: Mapping[str, Split]) -> None:
  """Writes predictions/<GLUE's name>.tsv for the test splits."""
  folder = run.folder / "predictions"
  folder.mkdir(exist_ok=True)
  predict_fn = make_predict_fn(classifier.model)
  for split, name in task.test_splits.items():
    logits = split_logits(run.config, classifier, splits[split].examples,
                          run.config.predict_batch_size, predict_fn)
    file = folder / f"{name}.tsv"
    tasks.write_predictions(file, task, tasks.predictions_from(task, logits),
                           classifier.label_names, splits[split].row_ids)
    say(f"predictions: {file}")


def export(run: experiment.Run, classifier: Classifier, task: tasks.Task, tokenizer: Any,
           results: Mapping[str, float]) -> None:
  """Writes model/, a HuggingFace folder that `transformers` and this script load."""
  names = classifier.label_names or ("LABEL_0",)
  checkpoint_utils.export_huggingface(
      run.folder / "model", classifier.model.config, jax.device_get(classifier.params), tokenizer,
      model_card(run, task, classifier.label_names, results),
      architectures=["BertForSequenceClassification"], text_columns=classifier.text_columns,
      id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)},
      problem_type="regression" if task.regression else "single_label_classification")
  say(f"model: {run.folder / 'model'}")


def model_card(run: experiment.Run, task: tasks.Task, label_names: tuple[str, ...],
               results: Mapping[str, float]) -> str:
  """README.md of the exported model: what it is, its recipe, its scores."""
  config = run.config
  scores = "".join(f"| {name} | {value:.4f} |\n" for name, value in results.items())
  return (f"---\nlibrary_name: transformers\npipeline_tag: text-classification\n---\n"
          f"# BERT fine-tuned on {config.dataset_name or config.dataset_path}\n\n"
          f"Fine-tuned from `{config.init_checkpoint or 'random weights'}` with BERT in Flax:\n"
          f"batch {config.train_batch_size}, learning rate {config.learning_rate}, "
          f"{config.num_train_epochs} epochs, length {config.max_seq_length}, "
          f"seed {config.seed}, {config.dtype}.\n"
          f"Task: {task.name}; classes: {', '.join(label_names) or 'none (regression)'}.\n\n"
          + (f"| dev set | |\n|---|---|\n{scores}" if scores else "Not scored.\n"))


if __name__ == "__main__":
  experiment.define_flags("configs/classifier.py")
  run_script(main)
