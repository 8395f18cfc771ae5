"""A run: its folder and config, its architecture and weights, its state, its checkpoints."""

from collections.abc import Mapping
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

from absl import flags
import jax
import ml_collections
from ml_collections import config_flags
import numpy as np

import checkpoint_utils
from configs import rules
import modeling
import optimization
from support import command_line
from support.errors import UserError
from support.reporting import say
import training

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "transformers", "datasets", "numpy")


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
  flags.DEFINE_string("output_dir", "", "The run's folder; blank: a new one in runs/.")
  flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS["output_dir"])  # for --help
  command_line.define_config(config_file)


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
            else default_folder(script.removeprefix("run_"), name))
  stored = stored_config(folder, script)
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
    check_same_run(folder, stored, config.to_dict())
    if config.do_train and not stored["do_train"] and not finished:
      raise UserError(f"output_dir {folder} holds a run that only scored; choose another")
  return Run(folder, config, finished)


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
  if stored_config(run.folder, script) is None:
    write_config(
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
  decayed = jax.tree.map(lambda size, decays: size * decays, sizes, optimization.decay_mask(params))
  total, decaying = sum(jax.tree.leaves(sizes)), sum(jax.tree.leaves(decayed))
  say(f"training: {num_train_steps} steps of {batches}, {num_warmup_steps} of them warm-up; "
      f"weight decay {config.weight_decay} on {decaying:,} parameters, none on "
      f"{total - decaying:,}")
  if first_step:
    say(f"continuing after step {first_step}")
  say("compiling the first step ...")


def create_optimizer(config: ml_collections.ConfigDict, kind: str, schedule: Any) -> Any:
  """`optimization.create_optimizer` with the config's settings."""
  return optimization.create_optimizer(
      kind, schedule, b1=config.adam_b1, b2=config.adam_b2, eps=config.adam_eps,
      weight_decay=config.weight_decay, max_grad_norm=config.max_grad_norm,
      bias_correction=config.adam_bias_correction)


# --- A run's folder --------------------------------------------------------------------------


def default_folder(script: str, name: str) -> pathlib.Path:
  """runs/<script>-<name>-<time>."""
  return pathlib.Path("runs", f"{script}-{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}")


def stored_config(folder: pathlib.Path, script: str) -> dict[str, Any] | None:
  """The config of the script's run that a folder holds; None where there is no folder or content.

  Raises:
    UserError: the folder holds something else.
  """
  if not folder.exists():
    return None
  if not folder.is_dir():
    raise UserError(f"output_dir {folder} is a file")
  if not any(folder.iterdir()):
    return None
  try:
    content = json.loads((folder / "config.json").read_text("utf-8"))
    there, config = content.get("script", "run_classifier"), _tuples(content["config"])
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(f"output_dir {folder} is not empty and holds no run of this script; "
                    "choose another --output_dir") from error
  if there != script:
    raise UserError(f"output_dir {folder} holds a run of {there}; choose another --output_dir")
  return config


def _tuples(value: Any) -> Any:
  """JSON's lists as the tuples that they were."""
  if isinstance(value, dict):
    return {key: _tuples(item) for key, item in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def check_same_run(folder: pathlib.Path, stored: Mapping[str, Any],
                   config: Mapping[str, Any]) -> None:
  """Raises UserError where the two configs would train different weights.

  A key that the stored one lacks came later, and its default is what was done before.
  """
  there, here = _flat(stored), _flat(config)
  differences = [f"{key} is {there.get(key)!r} there and {here.get(key)!r} here"
                 for key in sorted(there.keys() | here.keys())
                 if key not in rules.FREE_KEYS and there.get(key, here.get(key)) != here.get(key)]
  if differences:
    raise UserError(f"output_dir {folder} already holds another run ({'; '.join(differences)}); "
                    "choose another --output_dir")


def check_same_data(folder: pathlib.Path, digests: Mapping[str, str]) -> None:
  """Raises UserError where a run's files no longer hold what it began with.

  Args:
    folder: the run's.
    digests: of the files of each knob (train_files, ...) that this command reads.
  """
  if not (folder / "config.json").exists():
    return
  stored = json.loads((folder / "config.json").read_text("utf-8")).get("data", {})
  for knob, digest in digests.items():
    if stored.get(knob, digest) != digest:
      raise UserError(f"{knob} hold something else than when the run in {folder} began; bring "
                      "back the files as they were, or choose another --output_dir")


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  flat = {}
  for key, value in config.items():
    flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {
        prefix + key: value}
  return flat


def write_config(folder: pathlib.Path, config: Mapping[str, Any], **more: Any) -> None:
  """Makes the folder and writes config.json: all that is needed to run it again."""
  folder.mkdir(parents=True, exist_ok=True)
  packages = {name: importlib.metadata.version(name) for name in _PACKAGES
              if importlib.util.find_spec(name)}
  content = {"config": config, "command": sys.argv, **more, "git_commit": _git_commit(),
             "versions": {"python": platform.python_version(), **packages}}
  temporary = folder / "config.json.tmp"
  temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
  temporary.replace(folder / "config.json")


def _git_commit() -> str:
  """This code's commit, with "+changes" where the work tree differs; "" outside git."""

  def git(*arguments: str) -> str:
    here = pathlib.Path(__file__).parent
    done = subprocess.run(("git", *arguments), cwd=here, capture_output=True, text=True,
                          check=False)
    return done.stdout.strip() if done.returncode == 0 else ""

  try:
    return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
  except OSError:  # no git on this machine
    return ""
