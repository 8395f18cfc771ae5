"""What every run begins with: its folder, its values checked, its devices, its architecture."""

import dataclasses
import os
import pathlib
import sys
from typing import Any

from absl import flags, logging
import jax
import ml_collections
from ml_collections import config_flags
import numpy as np

import checkpoint_utils
from errors import UserError
import modeling
from reporting import say
import run_directory
import training


@dataclasses.dataclass(frozen=True)
class Run:
  """A run's folder and effective config; `finished` means that its model/ is written."""

  folder: pathlib.Path
  config: ml_collections.ConfigDict
  finished: bool

  @property
  def trains(self) -> bool:
    """Whether this command makes training steps."""
    return self.config.do_train and not self.finished


def define_flags(config_file: str) -> None:
  """The flags of a script; not defined on import, so that one program can use both scripts."""
  config_flags.DEFINE_config_file("config", config_file, "Configuration file, with :MODEL.")
  flags.DEFINE_string("output_dir", "", "The run's folder; blank: a new one in runs/.")
  for name in ("config", "output_dir"):  # so that the script's --help shows them
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])


def prepare_devices(config: ml_collections.ConfigDict, script: str) -> None:
  """Settings that JAX reads once, before it touches a device; then says what runs where."""
  logging.set_verbosity(logging.WARNING)  # Orbax tells every file at INFO
  if config.deterministic:  # a GPU otherwise adds up embeddings' gradients in any order
    os.environ["XLA_FLAGS"] = "--xla_gpu_deterministic_ops=true " + os.environ.get("XLA_FLAGS", "")
  jax.config.update("jax_default_matmul_precision", config.matmul_precision)
  keep_compiled_programs()
  training.keep_freed_memory()
  devices = jax.local_devices()
  say(f"{script}: JAX {jax.__version__} on {len(devices)} {devices[0].device_kind} "
      f"device{'s' if len(devices) > 1 else ''}")


def keep_compiled_programs() -> None:
  """Has JAX keep what it compiles for later runs, in ~/.cache/bert_in_flax/compiled, up to 4 GB.

  JAX's own JAX_COMPILATION_CACHE_DIR names another folder, with no bound but the user's, and
  JAX_ENABLE_COMPILATION_CACHE=false turns it off. Its key holds the program, the versions, the
  flags and the kind of machine.
  """
  if jax.config.jax_compilation_cache_dir is None:
    folder = pathlib.Path("~/.cache/bert_in_flax/compiled").expanduser()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # With a bound JAX also locks the folder, so that runs side by side can share it.
    jax.config.update("jax_compilation_cache_max_size", 4 << 30)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def open_run(config: ml_collections.ConfigDict, output_dir: str, script: str, name: str) -> Run:
  """Finds out whether the folder is new, to be continued, or finished.

  Args:
    config: what the flags ask for.
    output_dir: the folder; blank: a new one in runs/, called after the script and `name`.
    script: "run_classifier" or "run_pretraining".
    name: of the data.

  Raises:
    UserError: the folder holds another run, or is to be used untrained.
  """
  folder = (pathlib.Path(os.path.expanduser(output_dir)) if output_dir
            else run_directory.default_folder(script.removeprefix("run_"), name))
  stored = run_directory.stored_config(folder, script)
  finished = (folder / "model" / "config.json").exists()
  if stored is not None and not config.do_train:  # the run's own config, and what is free in it
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    config = config.copy_and_resolve_references()
    config.update(stored)
    config.update_from_flattened_dict(overrides)
    if not finished and (folder / "checkpoints").exists():
      raise UserError(f"output_dir {folder} holds a run that is not finished; continue it with "
                      "--config.do_train=True and its other flags first")
  if stored is not None:
    run_directory.check_same_run(folder, stored, config.to_dict())
    if config.do_train and not stored["do_train"] and not finished:
      raise UserError(f"output_dir {folder} holds a run that only scored; choose another")
  return Run(folder, config, finished)


CHOICES = {"dtype": ("float32", "bfloat16"),
           "matmul_precision": ("float32", "tensorfloat32", "bfloat16"),
           "learning_rate_schedule": ("joined", "original"),
           "label_type": ("auto", "class", "float"),
           "optimizer": ("adamw", "lamb"),
           "errors": ("strict", "replace", "ignore"),
           "objective": ("mlm_nsp", "mlm_sop", "mlm"),
           "size": tuple(modeling.SIZES)}
LIMITS = {"max_seq_length": (5, 1 << 20), "gradient_accumulation_steps": (1, 1 << 20),
          "num_train_epochs": (0, 1e6), "eval_every_epochs": (0, 1e6), "learning_rate": (0, 1e3),
          "warmup_proportion": (0, 1), "adam_b1": (0, 0.999999), "adam_b2": (0, 0.999999),
          "adam_eps": (1e-30, 1), "weight_decay": (0, 1e3), "max_grad_norm": (0, 1e9),
          "seed": (0, (1 << 32) - 1), "log_every_steps": (1, 1 << 30),
          "save_checkpoints_steps": (0, 1 << 30), "keep_checkpoints": (1, 1 << 30),
          "keep_checkpoint_every": (0, 1 << 30), "num_train_steps": (1, 1 << 30),
          "num_warmup_steps": (0, 1 << 30), "eval_steps": (0, 1 << 30),
          "max_eval_examples": (0, 1 << 40), "eval_fraction": (0, 0.9),
          "masked_lm_prob": (1e-6, 1), "mask_token_prob": (0, 1), "random_token_prob": (0, 1),
          "short_seq_prob": (0, 1)}


def check_values(config: ml_collections.ConfigDict) -> None:
  """Refuses values that would only fail, or mislead, later; says what would be right."""
  for name, known in CHOICES.items():
    if name in config and config[name] not in known:
      raise UserError(f"{name} {config[name]!r} is not one of {', '.join(known)}")
  for name, (low, high) in LIMITS.items():
    if name in config and not low <= config[name] <= high:  # so put, it refuses NaN
      raise UserError(f"{name} must lie in {low} ... {high}, not {config[name]}")


def check_batch_size(name: str, size: int, micro_batches: int = 1) -> None:
  """Every batch size is a total that the devices (and micro-batches) divide."""
  devices = jax.local_device_count()
  if size < 1 or size % (devices * micro_batches):
    parts = f"{devices} devices"
    if micro_batches > 1:
      parts += f" x {micro_batches} gradient_accumulation_steps"
    raise UserError(f"{name} {size} is not a positive multiple of {parts}")


def find_weights(run: Run) -> checkpoint_utils.Checkpoint | None:
  """The finished run's own model, else init_checkpoint; None for random weights."""
  name = str(run.folder / "model") if run.finished else run.config.init_checkpoint
  if name:
    say(f"weights: {name}" + (" (this run is finished: nothing to train)" if run.finished else ""))
    return checkpoint_utils.find_checkpoint(name)
  if not run.config.do_train:
    raise UserError("nothing to score: give --config.init_checkpoint, the --output_dir of a "
                    "finished run, or --config.do_train=True")
  say("weights: random")
  return None


def model_config(config: ml_collections.ConfigDict, base: modeling.BertConfig,
                 tokenizer_size: int, max_seq_length: int) -> modeling.BertConfig:
  """An architecture with config.model's overrides, which the tokenizer and the length fit."""
  overrides = {name: value for name, value in config.model.items() if value is not None}
  try:
    bert_config = dataclasses.replace(base, **overrides)
  except ValueError as error:
    raise UserError(f"config.model: {error}") from error
  if tokenizer_size > bert_config.vocab_size:
    raise UserError(f"the tokenizer has {tokenizer_size} entries and the model's vocabulary "
                    f"{bert_config.vocab_size}; they do not belong together")
  if max_seq_length > bert_config.max_position_embeddings:
    raise UserError(f"max_seq_length {max_seq_length} is over the model's "
                    f"max_position_embeddings {bert_config.max_position_embeddings}")
  return bert_config


def one_token() -> dict[str, np.ndarray]:
  """The smallest batch, to initialize parameters with."""
  one = np.ones((1, 1), np.int32)
  zero = np.zeros(1, np.int32)
  return {"input_ids": 0 * one, "token_type_ids": 0 * one, "position_ids": 0 * one,
          "sequence_ids": one, "cls_positions": zero, "masked_lm_positions": zero}


def start_run(run: Run, script: str, bert_config: modeling.BertConfig, params: training.Params,
              tokenizer: Any, **more: Any) -> None:
  """All input is good: makes the run's folder, and says how large the model is.

  A tokenizer is laid beside the checkpoints, so that they can be loaded with nothing else.
  """
  size = sum(np.size(leaf) for leaf in jax.tree.leaves(params))
  say(f"model: {bert_config.num_hidden_layers} layers, hidden {bert_config.hidden_size}, "
      f"{bert_config.num_attention_heads} heads, {bert_config.hidden_act}, {size:,} parameters, "
      f"{run.config.dtype} compute")
  if run_directory.stored_config(run.folder, script) is None:
    run_directory.write_config(
        run.folder, run.config.to_dict(), script=script, model=dataclasses.asdict(bert_config),
        devices=[str(d) for d in jax.local_devices()], **more)
  if run.config.do_train and not (run.folder / "tokenizer").exists():
    tokenizer.save_pretrained(run.folder / "tokenizer")


def make_checkpointer(run: Run, bert_config: modeling.BertConfig, *,
                      label_names: tuple[str, ...] = (), text_columns: tuple[str, ...] = (),
                      regression: bool = False) -> training.Checkpointer:
  """The run's checkpoints/, each with what `checkpoint_utils` needs to load it."""
  return training.Checkpointer(
      run.folder / "checkpoints", keep=run.config.keep_checkpoints,
      keep_every=run.config.keep_checkpoint_every,
      description={"config": dataclasses.asdict(bert_config), "label_names": label_names,
                   "text_columns": text_columns, "regression": regression})


def starting_state(run: Run, checkpointer: training.Checkpointer, params: training.Params,
                   optimizer: Any) -> training.TrainState:
  """The run's last saved state, or the one at step 0, on all devices."""
  state = training.replicate(training.create_state(params, optimizer, run.config.seed))
  try:
    return checkpointer.restore(state)
  except training.DamagedCheckpointError as error:
    raise UserError(str(error)) from error


def say_plan(config: ml_collections.ConfigDict, batches: str, num_train_steps: int,
             num_warmup_steps: int, params: training.Params, first_step: int) -> None:
  """Steps, batch and decay split, before the first step compiles."""
  sizes = jax.tree.map(np.size, params)
  decayed = jax.tree.map(lambda size, decays: size * decays, sizes, training.decay_mask(params))
  total, decaying = sum(jax.tree.leaves(sizes)), sum(jax.tree.leaves(decayed))
  say(f"training: {num_train_steps} steps of {batches}, {num_warmup_steps} of them warm-up; "
      f"weight decay {config.weight_decay} on {decaying:,} parameters, none on "
      f"{total - decaying:,}")
  if first_step:
    say(f"continuing after step {first_step}")
  say("compiling the first step ...")


def create_optimizer(config: ml_collections.ConfigDict, kind: str, schedule: Any) -> Any:
  """`training.create_optimizer` with the config's settings."""
  return training.create_optimizer(
      kind, schedule, b1=config.adam_b1, b2=config.adam_b2, eps=config.adam_eps,
      weight_decay=config.weight_decay, max_grad_norm=config.max_grad_norm,
      bias_correction=config.adam_bias_correction)
