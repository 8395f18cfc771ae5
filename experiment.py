"""A run: its start, its architecture and weights, its training, its end."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import os
import pathlib
import platform
import sys
from typing import Any, NamedTuple
import zlib

from absl import flags
import flax.linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
import jax
import jax.numpy as jnp
import ml_collections
from ml_collections import config_flags
import numpy as np
import optax

import checkpoint_utils
import checkpointing
from configs import rules
import data
import modeling
import optimization
from support import devices, files, hosts, hub, remote, reporting, run_folder, stopping
from support.command_line import define_config
from support.errors import first_line, UserError
from support.mirror import local_folder, Mirror
from support.reporting import say
from support.selection import Evaluations, NO_SELECTION, Selection, Verdict
import tokenization
from tokenization import Tokenizer
import training

_HOSTS_OWN = ("process_id", "cache_dir")  # knobs that may differ between hosts


@dataclasses.dataclass(frozen=True)
class Run:
  """A run's folder and effective config; `finished` means that its model/ is written."""

  folder: pathlib.Path
  config: ml_collections.ConfigDict
  finished: bool
  mirror: Mirror | None = None  # of an output_dir that is a URL
  command: Sequence[str] = ()  # see `Asked`

  @property
  def trains(self) -> bool:
    """Whether this command makes training steps."""
    return self.config.do_train and not self.finished


def define_flags(config_file: str) -> str:
  """Defines the flags of a script, and returns the config file in use.

  Not on import, so that one program can use both scripts.
  """
  flags.DEFINE_string("output_dir", "", "The run's folder, or its URL (s3://BUCKET/FOLDER, gs://"
                      "...); blank: a new folder in runs/.")
  flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS["output_dir"])  # for --help
  # Beside this script, whatever the current folder is.
  return define_config(os.path.relpath(pathlib.Path(__file__).parent / config_file))


class Asked(NamedTuple):
  """The parsed flags of a script."""

  config: ml_collections.ConfigDict
  overrides: dict[str, Any]  # dotted name -> value of each --config.name on the command line
  output_dir: str
  config_file: str = ""  # with its :ARGUMENT
  command: Sequence[str] = ()  # of this run alone, if that of the process makes others too


def parsed_flags() -> Asked:
  """Returns the flags that `define_flags` defined."""
  values = flags.FLAGS
  return Asked(values.config, config_flags.get_override_values(values["config"]),
               values.output_dir, values["config"].config_filename)


def open_run(asked: Asked, script: str, name: str) -> Run:
  """Finds out whether the run's folder is new, to be continued, or finished.

  With several hosts, host 0 looks there, and all compare their configs and their code.

  Args:
    asked: the flags; a blank output_dir is a new folder in runs/, named after the script and
      `name`.
    script: "run_classifier" or "run_pretraining".
    name: of the data.

  Raises:
    UserError: the folder holds another run, or an unfinished one and do_train is False; or the
      hosts differ; or a package that a knob needs is not installed.
  """
  hosts.only_first(reporting.check_tracker)(asked.config.wandb_project)
  mirror = (run_folder.mirror_of(asked.output_dir)
            if remote.is_url(asked.output_dir) and hosts.is_first() else None)
  path, stored, finished, began = hosts.told_by_first(
      functools.partial(_find_run, asked.output_dir, script, name))
  folder, stored, config = pathlib.Path(path), run_folder.as_tuples(stored), asked.config
  if stored is not None and not config.do_train:  # the run's own config, and what is free in it
    config = config.copy_and_resolve_references()
    try:
      config.update(stored)
    except (KeyError, TypeError, ValueError) as error:
      raise UserError(f"{folder / 'config.json'} holds another config than this script's: "
                      f"{first_line(error)}") from error
    config.update_from_flattened_dict(asked.overrides)
    if not finished and began:
      raise UserError(f"output_dir {folder} holds a run that is not finished; continue it with "
                      "--config.do_train=True and its other flags first")
  if stored is not None:
    run_folder.check_same_run(folder, stored, config.to_dict(), asked.overrides,
                              _free_keys(stored, config, finished))
    if finished and config.restore_step not in (
        0, run_folder.gone_back_to(files.read_json(folder / "config.json"))):
      raise UserError(f"the run in {folder} is finished and cannot go back to restore_step "
                      f"{config.restore_step}; begin another with --config.init_checkpoint="
                      f"{folder}/checkpoints/{config.restore_step}")
    if config.do_train and not stored["do_train"] and not finished:
      raise UserError(f"output_dir {folder} holds a run that only scored; choose another")
  if hosts.several():  # git takes a while
    code = run_folder.code_version()
    hosts.agree({"git_commit": code["git_commit"], **code["versions"], **{
        f"config.{name}": value for name, value in flatten_dict(config.to_dict(), sep=".").items()
        if name not in _HOSTS_OWN}})
  return Run(folder, config, finished, mirror, asked.command)


def _find_run(output_dir: str, script: str, name: str
              ) -> tuple[str, dict[str, Any] | None, bool, bool]:
  """Returns the run's folder, its stored config, and whether it is finished, and has begun."""
  folder = (local_folder(output_dir) if remote.is_url(output_dir)
            else pathlib.Path(os.path.expanduser(output_dir)) if output_dir
            else run_folder.default_folder(script.removeprefix("run_"), name))
  stopping.advise(lambda: what_is_saved(folder, new=not output_dir))
  stored = run_folder.stored_config(folder, script)
  if stored is not None:
    run_folder.own_folder(folder)
  return (str(folder), stored, (folder / "model" / "config.json").exists(),
          (folder / "checkpoints").exists())


def what_is_saved(folder: pathlib.Path, new: bool) -> str:
  """Returns a line for the user of a stopped run: its last saved step, and how to go on.

  Args:
    folder: the run's.
    new: it was made up by this command, so that the same command would make another.
  """
  steps = checkpointing.complete_steps(folder / "checkpoints")
  command = "the same command" + (f" with --output_dir={folder}" if new else "") + (
      " on all hosts" if hosts.several() else "")
  if (folder / "model" / "config.json").exists():
    return f"the model is trained; {command} goes on with it"
  if not steps:
    return "there is no saved step; the same command begins again"
  return f"step {steps[-1]} is saved; {command} continues from it"


def _free_keys(stored: Mapping[str, Any], config: ml_collections.ConfigDict,
               finished: bool) -> set[str]:
  """Returns the knobs that this command may change in the stored run."""
  free = set(rules.FREE_KEYS)
  if config.restore_step and not finished:
    free |= set(rules.RETRY_KEYS)
  # The evaluations decide on the run's end or result; older runs have no such knobs.
  if (stored.get("keep_best") or stored.get("early_stopping_patience")) and not finished:
    free -= set(rules.DECIDING_KEYS)
  return free


def check_batch_size(name: str, size: int, micro_batches: int = 1) -> None:
  """Raises UserError unless the devices (and micro-batches) divide a batch size, a total."""
  count = jax.device_count()
  if size < 1 or size % (count * micro_batches):
    parts = f"{count} devices"
    if hosts.several():
      parts += " of all hosts"
    if micro_batches > 1:
      parts += f" x {micro_batches} gradient_accumulation_steps"
    raise UserError(f"{name} {size} is not a positive multiple of {parts}")


@hosts.only_first
def check_push(run: Run) -> None:
  """Raises UserError where the end of a run could not upload its model to config.push_to_hub."""
  if not run.config.push_to_hub:
    return
  hub.check_upload(run.config.push_to_hub)
  if not (run.finished or run.config.do_train):
    raise UserError("push_to_hub uploads a run's own model, and this run trains none; give the "
                    "--output_dir of a finished run")


def find_weights(run: Run) -> checkpoint_utils.Checkpoint | None:
  """Finds the finished run's own model, or init_checkpoint; None for random weights."""
  name = str(run.folder / "model") if run.finished else run.config.init_checkpoint
  if name:
    say(f"weights: {name}" + (" (this run is finished: nothing to train)" if run.finished else ""))
    return checkpoint_utils.find_checkpoint(
        remote.local_copies(name, "init_checkpoint", run.config.cache_dir))
  if not run.config.do_train:
    raise UserError("nothing to score: give --config.init_checkpoint, the --output_dir of a "
                    "finished run, or --config.do_train=True")
  say("weights: random")
  return None


def find_tokenizer(run: Run, checkpoint: checkpoint_utils.Checkpoint | None,
                   usual: str) -> Tokenizer:
  """Loads a finished run's own tokenizer, or config.tokenizer, or the checkpoint's, or `usual`.

  Args:
    run: the run.
    checkpoint: the weights' origin; None for random weights.
    usual: the hub name to fall back on; "" for none.

  Raises:
    UserError: none to be had, or one with another vocabulary than the checkpoint's.
  """
  config = run.config
  own = checkpoint.tokenizer if checkpoint else ""
  if run.finished:
    return tokenization.load_tokenizer(own, None)
  if checkpoint and not (own or config.tokenizer):
    raise UserError(f"{checkpoint.path} has no tokenizer; give --config.tokenizer=/path/to/dir "
                    "(with tokenizer.json or vocab.txt)")
  source = remote.local_copies(config.tokenizer, "tokenizer", config.cache_dir) or own or usual
  if not source:
    raise UserError("no model is named: give --config.init_checkpoint, or "
                    "--config=configs/classifier.py:bert-base-uncased, or for a random model "
                    "--config.tokenizer=/path/to/dir")
  tokenizer = tokenization.load_tokenizer(source, config.do_lower_case)
  if config.tokenizer and own:
    vocabulary = tokenization.load_tokenizer(own, None).get_vocab()
    same = tokenizer.get_vocab() == vocabulary
    if not same and not (config.resize_embeddings
                         and vocabulary.items() <= tokenizer.get_vocab().items()):
      raise UserError(f"tokenizer {config.tokenizer} has another vocabulary than init_checkpoint "
                      f"{checkpoint.path}; leave --config.tokenizer out to use the checkpoint's "
                      "(or, if it only adds tokens, give --config.resize_embeddings=True)")
  return tokenizer


def model_config(config: ml_collections.ConfigDict, base: modeling.BertConfig,
                 tokenizer_size: int, max_seq_length: int, segments: int) -> modeling.BertConfig:
  """Applies config.model's overrides; tokenizer, length and number of texts must fit the result.

  With config.resize_embeddings the vocabulary grows to the tokenizer's.
  """
  overrides = {name: value for name, value in config.model.items() if value is not None}
  if config.resize_embeddings:
    overrides.setdefault("vocab_size", max(tokenizer_size, base.vocab_size))
  try:
    bert_config = dataclasses.replace(base, **overrides)
  except ValueError as error:
    raise UserError(f"config.model: {error}") from error
  if tokenizer_size > bert_config.vocab_size:
    raise UserError(f"the tokenizer has {tokenizer_size} entries and the model's vocabulary "
                    f"{bert_config.vocab_size}; they do not belong together, unless tokens were "
                    "added to the model's own: --config.resize_embeddings=True")
  if segments > bert_config.type_vocab_size:
    raise UserError(f"the model's type_vocab_size is {bert_config.type_vocab_size}, so it cannot "
                    f"tell {segments} texts apart; give it one text (classification: "
                    "--config.text_columns=NAME; pre-training: --config.objective=mlm)")
  if max_seq_length > bert_config.max_position_embeddings:
    raise UserError(f"max_seq_length {max_seq_length} is over the model's "
                    f"max_position_embeddings {bert_config.max_position_embeddings}")
  return bert_config


def random_params(model: nn.Module, seed: int) -> training.Params:
  """Returns a model's random parameters."""
  names = flatten_dict(modeling.parameter_shapes(model), sep="/")
  return unflatten_dict(draw_params(model, seed, names), sep="/")


def draw_params(model: nn.Module, seed: int, names: Iterable[str]) -> dict[str, jax.Array]:
  """Returns some of `random_params`, without drawing the others: by names like bert/pooler/kernel.

  A process compiles this once for equal models and names.
  """
  return _initializer(model, tuple(names))(jax.random.key(seed))


@functools.lru_cache(maxsize=16)
def _initializer(model: nn.Module, names: tuple[str, ...]) -> Callable[..., dict[str, jax.Array]]:

  def initialize(key: jax.Array) -> dict[str, jax.Array]:
    params = model.init(key, modeling.one_token())["params"]
    flat = flatten_dict(params, sep="/")
    return {name: flat[name] for name in names}

  return jax.jit(initialize)


def check_hosts(params: training.Params, tokenizer: Tokenizer,
                digests: Mapping[str, str]) -> None:
  """Connects the devices of several hosts, which must agree on all that a step depends on.

  Raises:
    UserError: they do not have the same devices, weights, vocabulary and data.
  """
  if not hosts.several():
    return
  checksum = 0
  for leaf in jax.tree.leaves(jax.device_get(params)):
    checksum = zlib.crc32(np.ascontiguousarray(leaf), checksum)
  local = jax.local_devices()
  hosts.agree({"number of devices": len(local), "kind of devices": local[0].device_kind,
               "vocabulary": tokenizer.fingerprint, "checksum of the weights": checksum,
               **{f"digest of {knob}": digest for knob, digest in digests.items()}})
  hosts.connect_devices()


@hosts.only_first
def start_run(run: Run, script: str, bert_config: modeling.BertConfig, params: training.Params,
              tokenizer: Tokenizer, **more: Any) -> None:
  """Creates the run folder and prints the model size; call once all input is validated.

  The tokenizer is saved beside the checkpoints, so that they can be loaded with nothing else.
  """
  size = sum(np.size(leaf) for leaf in jax.tree.leaves(params))
  say(f"model: {bert_config.num_hidden_layers} layers, hidden {bert_config.hidden_size}, "
      f"{bert_config.num_attention_heads} heads, {bert_config.hidden_act}, {size:,} parameters, "
      f"{run.config.dtype} compute")
  run_folder.own_folder(run.folder)
  if run_folder.stored_config(run.folder, script) is None:
    run_folder.write_config(
        run.folder, run.config.to_dict(), run.command, script=script,
        model=dataclasses.asdict(bert_config), devices=[str(d) for d in jax.devices()],
        machine=_machine(), parameters=size, **more)
  if run.config.do_train and not (run.folder / "tokenizer").exists():
    with files.written_whole(run.folder / "tokenizer") as folder:
      tokenizer.save_pretrained(folder)
  if run.mirror:
    run.mirror.start()


def _machine() -> dict[str, Any]:
  """Returns what the report calls the machine."""
  return {"system": platform.platform(), "cpus": os.cpu_count(),
          "device_kind": jax.devices()[0].device_kind}


# --- Training -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
  """A script's training, for `run_training`.

  Attributes:
    description: of the model, enough to load a checkpoint.
    params: at step 0.
    optimizer: see `optimization.create_optimizer`.
    schedule: number of steps done -> the next one's learning rate.
    loop: number of steps and cadences.
    num_warmup_steps: for the log.
    batch_description: a step's batch, for the log.
    step_fn: see `training.pmap_train_step`.
    batches_from: first step -> the batches from there on, for the local devices.
    evaluate: (parameters, step) -> results; None: nothing to evaluate.
    curve: the name in metrics.jsonl of the result that curves.png shows.
    selection: how the evaluations decide on the end and the result.
    frozen: modules that the optimizer and the step keep as they are.
    steps_left: see `reporting.Reporter`.
    summary: what else summary.json is to hold.
  """

  description: Mapping[str, Any]
  params: training.Params
  optimizer: optax.GradientTransformation
  schedule: optax.Schedule
  loop: training.Loop
  num_warmup_steps: int
  batch_description: str
  step_fn: training.TrainStep
  batches_from: Callable[[int], Iterator[data.Batch]]
  evaluate: Callable[[training.Params, int], dict[str, float]] | None
  curve: str
  selection: Selection = NO_SELECTION
  frozen: optimization.Modules = ()
  steps_left: Callable[[int], float] | None = None
  summary: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def model_description(bert_config: modeling.BertConfig, *, label_names: tuple[str, ...] = (),
                      text_columns: tuple[str, ...] = (), text_delimiter: str = "",
                      regression: bool = False, multi_label: bool = False) -> dict[str, Any]:
  """Returns a checkpoint's description of its model, which `checkpoint_utils` reads."""
  return {"config": dataclasses.asdict(bert_config), "label_names": label_names,
          "text_columns": text_columns, "text_delimiter": text_delimiter,
          "regression": regression, "multi_label": multi_label}


class Trained(NamedTuple):
  """The result of a training.

  Attributes:
    params: of the last step, or of the best evaluation's: see `TrainingPlan.selection`.
    results: theirs; {} where the plan does not evaluate.
    step: theirs.
    origin: in words, such as "the last, step 30".
  """

  params: training.Params
  results: dict[str, float]
  step: int
  origin: str


def run_training(run: Run, plan: TrainingPlan) -> Trained:
  """Trains, from the run's last checkpoint if it has one; writes logs and summary.json.

  Raises:
    UserError: a loss or gradient that is not finite, or a checkpoint that cannot be read.
  """
  evaluations = Evaluations(run.folder / "evaluations.json", plan.selection)
  checkpointer = open_checkpointer(run, plan, evaluations) if hosts.is_first() else None
  state = starting_state(run, checkpointer, plan)
  first_step = int(state.step)
  evaluations.begin(first_step)
  say_plan(run.config, plan, first_step)
  reporter = (open_reporter(run, plan, first_step) if hosts.is_first()
              else reporting.NoReporter())
  scored = hosts.told_by_first(lambda: reporter.scored)

  def evaluate(state: training.TrainState) -> Verdict:
    step = int(state.step)
    results = plan.evaluate(state.params, step)
    verdict = evaluations.add(step, results)  # first: what is in metrics.jsonl is not made again
    numbers = reporting.numbers_in(results)
    reporter.metrics(step, numbers)
    reporter.say(f"step {step}: " + "  ".join(
        f"{name} {value:.4f}" for name, value in numbers.items()))
    return verdict

  batches = data.prefetch(map(training.place, plan.batches_from(first_step)))
  try:
    stopping.end_after(run.config.max_hours * 3600)
    with stopping.noted():
      if plan.evaluate and plan.loop.evaluates(first_step) and not scored:
        evaluate(state)  # the signal that stopped the run came in between
      if not evaluations.ended:
        state = training.train(state, plan.step_fn, batches, plan.loop, plan.schedule, reporter,
                               evaluate, checkpointer)
      if evaluations.ended and int(state.step) < plan.loop.num_train_steps:
        reporter.say(f"no {plan.selection.metric} in {plan.selection.patience} evaluations was "
                     f"above that of step {evaluations.best}: the training ends here")
      elif plan.evaluate:
        evaluate(state)
      trained = choose_result(plan, state, evaluations, checkpointer)
      if hosts.several():
        training.read_answer(training.ask_all())
  except training.NotFiniteError as error:
    raise UserError(str(error)) from error
  finally:
    if checkpointer:
      checkpointer.close()
    reporter.close(plan.curve, learning_rates(plan))
  summarize(run, plan, trained)
  return trained


def open_checkpointer(run: Run, plan: TrainingPlan,
                      evaluations: Evaluations) -> checkpointing.Checkpointer:
  """Opens the run's checkpoints, and goes back to config.restore_step if it asks for that.

  Raises:
    UserError: there is no checkpoint of this step.
  """
  checkpointer = checkpointing.Checkpointer(
      run.folder / "checkpoints", dict(plan.description), keep=run.config.keep_checkpoints,
      keep_every=run.config.keep_checkpoint_every, needed_at=evaluations.needed_at)
  if run.config.restore_step:
    go_back(run, checkpointer, plan.description["config"])
  return checkpointer


def open_reporter(run: Run, plan: TrainingPlan, first_step: int) -> reporting.Reporter:
  """Opens the run's logs."""
  tracker = reporting.open_tracker(run.config.wandb_project, run.folder, run.config.to_dict())
  return reporting.Reporter(run.folder, plan.loop.num_train_steps, first_step, plan.steps_left,
                            tracker)


def choose_result(plan: TrainingPlan, state: training.TrainState,
                  evaluations: Evaluations,
                  checkpointer: checkpointing.Checkpointer | None) -> Trained:
  """Returns the last parameters, or the best evaluation's from its checkpoint.

  Raises:
    UserError: this checkpoint is damaged.
  """
  selection, last, params = plan.selection, int(state.step), state.params
  step = evaluations.best if selection.keep_best else last
  if step != last:
    params = hosts.same_as_first(checkpointer.read_params(step, state) if checkpointer else params)
  if plan.evaluate and step != evaluations.newest:  # its results are elsewhere, not its logits
    results = plan.evaluate(params, step)
  else:
    results = evaluations.results(step)
  origin = (f"the best, step {step} of {last}: {selection.metric} {results[selection.metric]:.4f}"
            if selection.keep_best else f"the last, step {last}")
  return Trained(params, results, step, origin)


@hosts.only_first
def summarize(run: Run, plan: TrainingPlan, trained: Trained) -> None:
  """Completes summary.json after the last evaluation."""
  start = files.read_json(run.folder / "config.json").get("start", "")
  reporting.complete_summary(run.folder, plan.curve, trained.results, model_step=trained.step,
                             **plan.summary, **devices.peak_memory(), start=start)


def go_back(run: Run, checkpointer: checkpointing.Checkpointer,
            model: Mapping[str, Any]) -> None:
  """Goes back to the checkpoint of config.restore_step, and stores the config that follows it.

  Once: the same command again, as of a queue that restarts it, continues from the newest one.

  Args:
    run: an unfinished one.
    checkpointer: of its checkpoints.
    model: the architecture's fields, with the dropout rates of the new config.

  Raises:
    UserError: there is no such checkpoint.
  """
  step, file = run.config.restore_step, run.folder / "config.json"
  content = files.read_json(file)
  changed = run_folder.differences(content["config"], run.config.to_dict(), rules.FREE_KEYS)
  if run_folder.gone_back_to(content) == step and not changed:
    say(f"already gone back to step {step}: continuing from the newest checkpoint")
    return
  checkpointer.go_back(step)  # first: a command that is killed here goes back again
  for line in changed:
    say(f"from step {step} on, {line}")
  content |= {"config": run.config.to_dict(), "model": model, "history": [
      *content.get("history", ()), {"step": step, "changed": changed}]}
  reporting.write_json(file, content)


def learning_rates(plan: TrainingPlan) -> dict[int, float]:
  """Returns the schedule at up to 500 steps of the training, the first and the last included."""
  last = plan.loop.num_train_steps
  steps = np.unique(np.linspace(1, last, min(last, 500)).astype(int))
  rates = jax.vmap(plan.schedule)(jnp.asarray(steps - 1))
  return dict(zip(steps.tolist(), rates.tolist(), strict=True))


def starting_state(run: Run, checkpointer: checkpointing.Checkpointer | None,
                   plan: TrainingPlan) -> training.TrainState:
  """Returns the run's last saved state, or the one at step 0, on all devices of all hosts."""
  state = training.create_state(plan.params, plan.optimizer, run.config.seed)
  state = checkpointer.restore(state) if checkpointer else state
  if hosts.several():
    step, params, opt_state = hosts.same_as_first((state.step, state.params, state.opt_state))
    state = state.replace(step=step, params=params, opt_state=opt_state)
  return training.replicate(state)


def say_plan(config: ml_collections.ConfigDict, plan: TrainingPlan, first_step: int) -> None:
  """Prints steps, batch and decay split, before the first step compiles."""

  def count(mask: training.Params) -> int:
    return sum(jax.tree.leaves(jax.tree.map(
        lambda leaf, counts: np.size(leaf) * counts, plan.params, mask)))

  is_frozen = optimization.parameters_of(plan.frozen, plan.params)
  decays = jax.tree.map(lambda decays, is_frozen: decays and not is_frozen,
                        optimization.decay_mask(plan.params), is_frozen)
  trained, frozen = count(jax.tree.map(lambda fixed: not fixed, is_frozen)), count(is_frozen)
  decaying = count(decays)
  say(f"training: {plan.loop.num_train_steps} steps of {plan.batch_description}, "
      f"{plan.num_warmup_steps} of them warm-up; weight decay {config.weight_decay} on "
      f"{decaying:,} parameters, none on {trained - decaying:,}"
      + (f"; {frozen:,} frozen" if frozen else ""))
  if first_step:
    say(f"continuing after step {first_step}")
  say("compiling the first step ...")


def optimizer_from_config(config: ml_collections.ConfigDict, layerwise_lr_decay: float = 1.0
                          ) -> optax.GradientTransformationExtraArgs:
  """Returns `optimization.create_optimizer` with the config's settings."""
  return optimization.create_optimizer(
      config.optimizer, b1=config.adam_b1, b2=config.adam_b2, eps=config.adam_eps,
      weight_decay=config.weight_decay, max_grad_norm=config.max_grad_norm,
      bias_correction=config.adam_bias_correction, layerwise_lr_decay=layerwise_lr_decay)


# --- The end --------------------------------------------------------------------------------


@hosts.only_first
def export(run: Run, bert_config: modeling.BertConfig, params: training.Params,
           tokenizer: Tokenizer, card: str, origin: str, **extra: Any) -> None:
  """Writes model/, a HuggingFace folder that `transformers` and both scripts load.

  Args:
    run: the run.
    bert_config: the architecture.
    params: on any devices.
    tokenizer: saved beside the weights.
    card: see `model_card`.
    origin: see `Trained`.
    **extra: see `checkpoint_utils.export_huggingface`.
  """
  checkpoint_utils.export_huggingface(run.folder / "model", bert_config, jax.device_get(params),
                                      tokenizer, card, **extra)
  say(f"model: {run.folder / 'model'} ({origin})")


def scored_again(run: Run) -> str:
  """Returns a sentence for the page of a finished run that is scored in another way than before.

  "" where the scores are those of the training's end.
  """
  if not run.finished:
    return ""
  stored = files.read_json(run.folder / "config.json")["config"]
  changed = [f"{knob} {run.config[knob]!r} ({stored[knob]!r} in training)"
             for knob in rules.SCORING_KEYS
             if knob in stored and stored[knob] != run.config[knob]]
  return f"Scored again after the training, with {', '.join(changed)}." if changed else ""


@hosts.only_first
def push(run: Run) -> None:
  """Uploads model/ to the hub, if config.push_to_hub asks for it."""
  if run.config.push_to_hub:
    hub.upload(run.folder / "model", run.config.push_to_hub)


def model_card(title: str, pipeline_tag: str, recipe: str, scored_on: str,
               results: Mapping[str, float]) -> str:
  """Returns the README.md of an exported model: its name, its recipe, its scores.

  Args:
    title: a heading.
    pipeline_tag: the hub's name of the task.
    recipe: one paragraph.
    scored_on: heading of the scores.
    results: metric -> value; {} where the model was not scored.
  """
  import huggingface_hub  # here: the end of a run needs it

  metadata = huggingface_hub.ModelCardData(library_name="transformers", pipeline_tag=pipeline_tag)
  rows = "".join(f"| {name} | {value:.4f} |\n"
                 for name, value in reporting.numbers_in(results).items())
  scores = f"| {scored_on} | |\n|---|---|\n{rows}" if rows else "Not scored.\n"
  return str(huggingface_hub.ModelCard(
      f"---\n{metadata.to_yaml()}\n---\n# {title}\n\n{recipe}\n\n{scores}"))
