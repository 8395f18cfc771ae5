"""Weights in and out: HuggingFace folders, Google's TF1 checkpoints, and this project's own.

One table (`WEIGHTS`) names every parameter in the three formats and is read both ways.
safetensors and TF1 files are read without torch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import glob
import math
import os
import pathlib
import re
import shutil
from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np

import checkpointing
import modeling
from support import files, hub
from support.errors import first_line, shown, UserError
from support.reporting import say
from tokenization import load_tokenizer, Tokenizer

Tensors = dict[str, np.ndarray]
Params = Mapping[str, Any]
Draw = Callable[[Sequence[str]], Mapping[str, np.ndarray]]  # names -> their fresh parameters


class Weight(NamedTuple):
  """A parameter's name in each format; `{i}` stands for the number of the layer."""

  ours: str
  huggingface: str
  google: str
  transposed: tuple[str, ...] = ()  # the formats that store its transpose


def _dense(ours: str, huggingface: str, google: str) -> tuple[Weight, Weight]:
  """Names a dense layer. PyTorch's Linear stores [out, in]; TF1 and Flax store [in, out]."""
  return (Weight(f"{ours}/kernel", f"{huggingface}.weight", f"{google}/kernel", ("huggingface",)),
          Weight(f"{ours}/bias", f"{huggingface}.bias", f"{google}/bias"))


def _layer_norm(ours: str, huggingface: str, google: str) -> tuple[Weight, Weight]:
  return (Weight(f"{ours}/scale", f"{huggingface}.weight", f"{google}/gamma"),
          Weight(f"{ours}/bias", f"{huggingface}.bias", f"{google}/beta"))


def _embedding(name: str) -> Weight:
  return Weight(f"bert/embeddings/{name}/embedding", f"bert.embeddings.{name}.weight",
                f"bert/embeddings/{name}")


def _head(ours: str, huggingface: str, weights: str, bias: str) -> tuple[Weight, Weight]:
  """Names an output layer, which the original too stores as [classes, hidden]."""
  return (Weight(f"{ours}/kernel", f"{huggingface}.weight", weights, ("huggingface", "google")),
          Weight(f"{ours}/bias", f"{huggingface}.bias", bias))


_LAYER, _HF_LAYER, _TF_LAYER = "bert/layer_{i}", "bert.encoder.layer.{i}", "bert/encoder/layer_{i}"

WEIGHTS: tuple[Weight, ...] = (
    _embedding("word_embeddings"),
    _embedding("token_type_embeddings"),
    _embedding("position_embeddings"),
    *_layer_norm("bert/embeddings/layer_norm", "bert.embeddings.LayerNorm",
                 "bert/embeddings/LayerNorm"),
    *_dense(f"{_LAYER}/attention/query", f"{_HF_LAYER}.attention.self.query",
            f"{_TF_LAYER}/attention/self/query"),
    *_dense(f"{_LAYER}/attention/key", f"{_HF_LAYER}.attention.self.key",
            f"{_TF_LAYER}/attention/self/key"),
    *_dense(f"{_LAYER}/attention/value", f"{_HF_LAYER}.attention.self.value",
            f"{_TF_LAYER}/attention/self/value"),
    *_dense(f"{_LAYER}/attention/output", f"{_HF_LAYER}.attention.output.dense",
            f"{_TF_LAYER}/attention/output/dense"),
    *_layer_norm(f"{_LAYER}/attention/layer_norm", f"{_HF_LAYER}.attention.output.LayerNorm",
                 f"{_TF_LAYER}/attention/output/LayerNorm"),
    *_dense(f"{_LAYER}/intermediate", f"{_HF_LAYER}.intermediate.dense",
            f"{_TF_LAYER}/intermediate/dense"),
    *_dense(f"{_LAYER}/output", f"{_HF_LAYER}.output.dense", f"{_TF_LAYER}/output/dense"),
    *_layer_norm(f"{_LAYER}/layer_norm", f"{_HF_LAYER}.output.LayerNorm",
                 f"{_TF_LAYER}/output/LayerNorm"),
    *_dense("bert/pooler/dense", "bert.pooler.dense", "bert/pooler/dense"),
    *_dense("masked_lm/transform", "cls.predictions.transform.dense",
            "cls/predictions/transform/dense"),
    *_layer_norm("masked_lm/layer_norm", "cls.predictions.transform.LayerNorm",
                 "cls/predictions/transform/LayerNorm"),
    Weight("masked_lm/bias", "cls.predictions.bias", "cls/predictions/output_bias"),
    *_head("next_sentence", "cls.seq_relationship", "cls/seq_relationship/output_weights",
           "cls/seq_relationship/output_bias"),
    *_head("classifier", "classifier", "output_weights", "output_bias"),
)

# `torch.compile` and DataParallel put these before names, also before each other.
_WRAPPERS = re.compile(r"(?<![^.])(module|_orig_mod)\.")

# transformers' names of two kinds of classifiers.
_SINGLE_LABEL, _MULTI_LABEL = "single_label_classification", "multi_label_classification"

# Entries under which people save a model's state beside its optimizer's.
_STATES = ("state_dict", "model_state_dict", "model")

# A checkpoint may lack these; anything else that is missing means a broken file.
HEADS = ("bert/pooler/", "masked_lm/", "next_sentence/", "classifier/")

# These have a row for each word of the vocabulary.
_ROW_PER_WORD = ("bert/embeddings/word_embeddings/embedding", "masked_lm/bias")

# Not weights, copies of weights, optimizer slots, or heads that this project does not have.
_IGNORABLE = re.compile(
    r"bert\.embeddings\.position_ids|cls\.predictions\.decoder\.(weight|bias)|qa_outputs\..*"
    r"|global_step|.*/adam_[mv]|good_steps|loss_scale")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """A checkpoint on the disk; its weights are not read yet.

  Attributes:
    path: the folder or file prefix, for messages.
    format: "huggingface", "google" or "ours".
    config: the architecture, before any override.
    regression: its classifier has one output, a value.
    label_names: names of the classifier's classes in the order of its outputs; empty where
      the checkpoint has none or only numbers them (LABEL_0, ...).
    text_columns: names of the columns that it was fine-tuned on; () where it does not say.
    tokenizer: where its tokenizer lies; "" where it has none.
    read: reads all its tensors, by the format's names.
    multi_label: each of its classes has a probability of its own (the sigmoid of its output).
    text_delimiter: joined its text columns into one text; "": each was a text.
  """

  path: str
  format: str
  config: modeling.BertConfig
  regression: bool
  label_names: tuple[str, ...]
  text_columns: tuple[str, ...]
  tokenizer: str
  read: Callable[[], Tensors]
  multi_label: bool = False
  text_delimiter: str = ""


@dataclasses.dataclass(frozen=True)
class LoadReport:
  """Names of the parameters loaded, freshly initialized, and left in the file.

  `new_rows` counts the fresh rows of the word embeddings, for tokens that the file does not know.
  """

  loaded: tuple[str, ...]
  initialized: tuple[str, ...]
  ignored: tuple[str, ...]
  new_rows: int = 0

  def __str__(self) -> str:
    def named(names: tuple[str, ...]) -> str:
      short = dict.fromkeys(re.sub(r"^(bert/layer_\d+/).*", r"\1*", name) for name in names)
      return f" ({', '.join(short)})" if names else ""

    return (f"{len(self.loaded)} tensors loaded, "
            f"{len(self.initialized)} freshly initialized{named(self.initialized)}, "
            f"{len(self.ignored)} ignored{named(self.ignored)}"
            + (f"; {self.new_rows} freshly initialized rows of word embeddings for added tokens"
               if self.new_rows else ""))


# --- Finding a checkpoint -------------------------------------------------------------------


def find_checkpoint(name: str, called: str = "init_checkpoint",
                    bert_config_file: str = "") -> Checkpoint:
  """Finds a checkpoint: a local folder or file prefix, or else a hub name.

  Args:
    name: of the folder, of the prefix, or on the hub.
    called: the knob or flag that it is from, for messages.
    bert_config_file: of a TF1 checkpoint; "": the bert_config.json beside it.

  Raises:
    UserError: nothing there, no known format, another architecture, or no hub in reach; or a
      bert_config_file for a checkpoint of another kind, which has its own.
  """
  path = pathlib.Path(os.path.expanduser(name))
  if path.name.endswith(".index") and path.is_file():
    path = path.with_suffix("")
  if os.path.exists(f"{path}.index"):
    return _google_checkpoint(path, bert_config_file)
  if path.is_file():
    raise UserError(f"{called} {name} is a file; give the model's folder, or a TF1 "
                    "checkpoint's prefix (.../bert_model.ckpt)")
  if not path.exists():
    if path.is_absolute() or name.startswith(("./", "../", "~")) or name.count("/") > 1:
      raise UserError(f"{called} {name} does not exist{files.similar(name)}")
    path = _download(name, called)
  checkpoint = _local_checkpoint(path, bert_config_file)
  if bert_config_file and checkpoint.format != "google":
    raise UserError(f"{called} {name} has a configuration of its own; leave out bert_config_file "
                    f"{bert_config_file}, which is for Google's TF1 checkpoints")
  return checkpoint


def _local_checkpoint(folder: pathlib.Path, bert_config_file: str = "") -> Checkpoint:
  """Recognizes a checkpoint's format by the files in its folder."""
  if (folder / "model" / "config.json").exists():  # a finished run directory of this project
    return _huggingface_checkpoint(folder / "model")
  if (folder / "checkpoints").is_dir():  # an unfinished one
    steps = checkpointing.complete_steps(folder / "checkpoints")
    if not steps:
      raise UserError(f"{folder} holds a run that has saved no checkpoint yet")
    say(f"warning: the run in {folder} is not finished; its newest checkpoint is taken, of step "
        f"{steps[-1]}")
    return _our_checkpoint(folder / "checkpoints" / str(steps[-1]))
  if (folder / "params").is_dir() and (folder / "model").is_dir():
    return _our_checkpoint(folder)
  if (bert_config_file or (folder / "bert_config.json").exists()) and any(folder.glob("*.index")):
    return _google_checkpoint(_google_prefix(folder), bert_config_file)
  if (folder / "config.json").exists():
    return _huggingface_checkpoint(folder)
  if (folder / "bert_config.json").exists():
    raise UserError(f"{folder} has a bert_config.json but no bert_model.ckpt.index")
  raise UserError(f"{folder} holds no checkpoint: expected config.json with model.safetensors or "
                  "pytorch_model.bin, bert_config.json with bert_model.ckpt.index, or a run "
                  "directory of this project")


def _download(name: str, called: str) -> pathlib.Path:
  """Fetches a model from the HuggingFace hub or its cache; prefers safetensors."""
  try:
    for weights in ("model*.safetensors", "pytorch_model*.bin"):
      folder = hub.snapshot(name, ("*.json", "*.txt", weights))
      if any(folder.glob(weights)):
        return folder
  except UserError as error:
    flag = "--config.init_checkpoint" if called == "init_checkpoint" else called
    raise UserError(f"{called} {error}; for a local model use {flag}=/path/to/model/dir"
                    ) from error
  raise UserError(f"{name} on the HuggingFace hub has neither safetensors nor pytorch_model.bin")


# --- HuggingFace ----------------------------------------------------------------------------


def _huggingface_checkpoint(folder: pathlib.Path) -> Checkpoint:
  file = folder / "config.json"
  fields = files.read_json(file)
  if fields.get("model_type", "bert") != "bert" or "hidden_size" not in fields:
    raise UserError(f"{file}: model_type is {shown(fields.get('model_type'))}; only 'bert' can be "
                    "loaded")
  for key, right in (("position_embedding_type", "absolute"), ("is_decoder", False),
                     ("add_cross_attention", False)):
    if fields.get(key, right) != right:
      raise UserError(f"{file}: {key} is {shown(fields[key])}, must be {right!r}")
  weights = _huggingface_files(folder)
  names = _class_names(fields, file)
  _check_problem_type(fields, file, len(names))
  config = _bert_config(fields, file)
  _check_size(config, file, weights[0], sum(part.stat().st_size for part in weights))
  has_tokenizer = any((folder / f).exists() for f in ("tokenizer.json", "vocab.txt"))
  # This project alone writes text_columns; it names the classes, even where the data calls them
  # LABEL_0, LABEL_1.
  text_columns = _names(fields, "text_columns", file)
  unnamed = _only_numbered(names) and not text_columns
  return Checkpoint(
      path=str(folder), format="huggingface", config=config, regression=len(names) == 1,
      label_names=() if len(names) == 1 or unnamed else names, text_columns=text_columns,
      tokenizer=str(folder) if has_tokenizer else "", read=lambda: _read_huggingface(weights),
      multi_label=fields.get("problem_type") == _MULTI_LABEL,
      text_delimiter=_entry({"text_delimiter": "", **fields}, "text_delimiter", file, str))


def _class_names(fields: Mapping[str, Any], file: pathlib.Path) -> tuple[str, ...]:
  """Reads the names of the classifier's outputs in order; a single output is a regression.

  transformers numbers those without a name LABEL_0, LABEL_1, ...
  """
  id2label = fields.get("id2label") or {}
  if not id2label and fields.get("num_labels") == 1:
    id2label = {"0": "LABEL_0"}
  if not id2label and fields.get("problem_type") in (_SINGLE_LABEL, _MULTI_LABEL):
    id2label = {"0": "LABEL_0", "1": "LABEL_1"}  # transformers leaves these two out
  right = isinstance(id2label, dict) and all(
      str(i) in id2label and isinstance(id2label[str(i)], str | int) for i in range(len(id2label)))
  if not right:
    raise UserError(f"{file}: id2label must map 0, 1, ... to names, not {shown(id2label)}")
  names = tuple(str(id2label[str(i)]) for i in range(len(id2label)))
  if len(set(names)) < len(names):
    raise UserError(f"{file}: id2label gives two classes the same name: {shown(id2label)}")
  return names


def _only_numbered(names: tuple[str, ...]) -> bool:
  return names == tuple(f"LABEL_{i}" for i in range(len(names)))


def _check_problem_type(fields: Mapping[str, Any], file: pathlib.Path, outputs: int) -> None:
  """Raises UserError for a classifier of a kind that this project does not have.

  transformers infers a type that is null from the number of outputs: one is a regression.
  """
  kind = fields.get("problem_type")
  right = {None: True, "regression": outputs == 1, _SINGLE_LABEL: outputs != 1,
           _MULTI_LABEL: outputs != 1}
  if kind not in tuple(right) or not right[kind]:
    raise UserError(f"{file}: problem_type {shown(kind)} with {outputs} names in id2label is "
                    "neither a regression on one value nor one or more of several classes; delete "
                    "both entries to start from the encoder")


def _huggingface_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """Lists the weight files of a folder, sharded or not; prefers safetensors to pickles."""
  for single in ("model.safetensors", "pytorch_model.bin"):
    if (folder / single).is_file():
      return [folder / single]
    index = folder / f"{single}.index.json"
    if index.exists():
      weight_map = _entry(files.read_json(index), "weight_map", index, dict)
      shards = list(dict.fromkeys(weight_map.values())) if all(
          isinstance(shard, str) for shard in weight_map.values()) else []
      suffix = pathlib.Path(single).suffix
      if not shards or any(pathlib.Path(shard).name != shard or not shard.endswith(suffix)
                           for shard in shards):
        raise UserError(f"{index}: weight_map must map tensors to names of {suffix} files beside "
                        f"it, not {shown(weight_map)}")
      for shard in shards:
        if not (folder / shard).is_file():
          raise UserError(f"{folder / shard} is missing; {index.name} names it")
      return [folder / shard for shard in sorted(shards)]
  raise UserError(f"{folder} has a config.json but no model.safetensors or pytorch_model.bin")


def _read_huggingface(weights: list[pathlib.Path]) -> Tensors:
  """Reads all tensors under canonical names: `bert.` prefix, LayerNorm weight and bias."""
  tensors = {}
  for file in weights:
    read = _read_safetensors if file.suffix == ".safetensors" else _read_torch
    for name, value in read(file).items():
      if _canonical(name) in tensors:
        raise UserError(f"{file}: {name} is there twice, under two names or in two files")
      tensors[_canonical(name)] = value
  return tensors


def _canonical(name: str) -> str:
  name = _WRAPPERS.sub("", name)
  name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
  name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
  return re.sub(r"^(embeddings|encoder|pooler)\.", r"bert.\1.", name)


def _read_safetensors(file: pathlib.Path) -> Tensors:
  import ml_dtypes  # noqa: F401  teaches numpy the name bfloat16
  import safetensors.numpy

  try:
    with files.plain_path(file) as plain:
      return safetensors.numpy.load_file(plain)
  except Exception as error:  # SafetensorError is a bare Exception
    raise UserError(f"{file} cannot be read (truncated?): {first_line(error)}") from error


def _read_torch(file: pathlib.Path) -> Tensors:
  try:
    import torch  # here: only a .bin needs torch
  except ImportError as error:
    raise UserError(f"{file} needs torch to be read: pip install torch, or give a folder with "
                    "model.safetensors") from error
  try:
    state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
      raise UserError(f"{file} holds a {type(state).__name__}, not tensors by their names")
    for key in _STATES:
      state = state[key] if isinstance(state.get(key), dict) else state
    odd = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if odd:
      raise UserError(f"{file} holds {shown(odd[0])}, which is no tensor, among the weights; save "
                      "the weights alone, or under \"state_dict\"")
    # An expanded tensor repeats few numbers: its size is not bounded by the file's.
    _check_stored(file, sum(value.numel() for value in state.values()), file.stat().st_size)
    # Integers stay what they are, so that a quantized weight is refused by its name.
    return {name: (value.float() if value.is_floating_point() else value).numpy()
            for name, value in state.items()}
  except UserError:
    raise
  except Exception as error:  # truncated archives raise anything from EOFError to RuntimeError
    raise UserError(f"{file} cannot be read (truncated, or not only weights by their names?): "
                    f"{first_line(error)}") from error


# --- Google's TF1 checkpoints ---------------------------------------------------------------


def _google_prefix(folder: pathlib.Path) -> pathlib.Path:
  """Finds the checkpoint in a folder: bert_model.ckpt, or the only one."""
  found = {path[:-len(".index")] for path in glob.glob(f"{glob.escape(str(folder))}/*.index")}
  preferred = str(folder / "bert_model.ckpt")
  if preferred in found or len(found) == 1:
    return pathlib.Path(preferred if preferred in found else found.pop())
  raise UserError(f"{folder} holds several checkpoints; name one: "
                  f"{', '.join(sorted(found))}")


def _google_checkpoint(prefix: pathlib.Path, bert_config_file: str = "") -> Checkpoint:
  config_file = pathlib.Path(os.path.expanduser(bert_config_file)
                             or prefix.parent / "bert_config.json")
  if not config_file.exists():
    raise UserError(f"{prefix} needs its bert_config.json; {config_file} does not exist")
  fields = files.read_json(config_file)
  if "hidden_size" not in fields:
    raise UserError(f"{config_file} is no BERT configuration: it has no hidden_size")
  if fields.get("hidden_act") == "gelu":
    fields["hidden_act"] = "gelu_new"  # what the original's code computes under this name
  config, vocab = _bert_config(fields, config_file), prefix.parent / "vocab.txt"
  _check_size(config, config_file, prefix, _google_bytes(prefix))
  return Checkpoint(
      path=str(prefix), format="google", config=config, regression=False, label_names=(),
      text_columns=(), tokenizer=str(prefix.parent) if vocab.exists() else "",
      read=lambda: _read_google(prefix))


def _google_bytes(prefix: pathlib.Path) -> int:
  return sum(file.stat().st_size for file in prefix.parent.iterdir()
             if file.name.startswith(f"{prefix.name}.data-"))


def _read_google(prefix: pathlib.Path) -> Tensors:
  import tensorflow as tf  # here: it takes seconds to import and only this format needs it

  try:
    with files.plain_path(prefix) as plain:
      reader = tf.train.load_checkpoint(str(plain))
      shapes = {name: shape for name, shape in reader.get_variable_to_shape_map().items()
                if not _IGNORABLE.fullmatch(name)}
      _check_stored(prefix, sum(map(math.prod, shapes.values())), _google_bytes(prefix))
      return {name: reader.get_tensor(name) for name in shapes}
  except UserError:
    raise
  except Exception as error:  # DataLossError, NotFoundError, OutOfRangeError, ValueError ...
    raise UserError(f"{prefix} cannot be read (truncated?): {first_line(error)}") from error


# --- This project's own ---------------------------------------------------------------------


def _our_checkpoint(folder: pathlib.Path) -> Checkpoint:
  """Opens a step of a run's `checkpoints/`: Orbax items `params` and `model`."""
  file = folder / "model" / "metadata"
  with _older_named(folder):
    # The two entries are younger than the others: a model without them has neither.
    description = {"multi_label": False, "text_delimiter": "", **files.read_json(file)}
    config = _bert_config(_entry(description, "config", file, dict), file)
    _check_size(config, file, folder, _our_bytes(folder))
  tokenizer = folder.resolve().parent.parent / "tokenizer"
  return Checkpoint(
      path=str(folder), format="ours", config=config,
      regression=_entry(description, "regression", file, bool),
      label_names=_names(description, "label_names", file),
      text_columns=_names(description, "text_columns", file),
      tokenizer=str(tokenizer) if tokenizer.is_dir() else "", read=lambda: _read_ours(folder),
      multi_label=_entry(description, "multi_label", file, bool),
      text_delimiter=_entry(description, "text_delimiter", file, str))


def _our_bytes(folder: pathlib.Path) -> int:
  """Returns the size of the parameters in memory: Orbax compresses its files."""
  with _opened(folder) as (_, _, tree):
    return sum(4 * math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@contextlib.contextmanager
def _opened(folder: pathlib.Path) -> Iterator[tuple[Any, pathlib.Path, Any]]:
  """Yields Orbax's checkpointer, the path of the item `params`, and its tree of shapes."""
  import orbax.checkpoint as ocp  # here: importing it takes a second

  with (checkpointing.reading(folder), files.plain_path(folder / "params") as params,
        ocp.PyTreeCheckpointer() as checkpointer):
    # The checkpointer's own `metadata` would warn that the whole step's file is not here.
    yield checkpointer, params, ocp.PyTreeCheckpointHandler().metadata(params).tree


@contextlib.contextmanager
def _older_named(folder: pathlib.Path) -> Iterator[None]:
  """A context whose UserErrors name the checkpoint before `folder`; it is never taken unasked."""
  try:
    yield
  except UserError as error:
    older = [step for step in checkpointing.complete_steps(folder.parent)
             if folder.name.isdecimal() and step < int(folder.name)]
    if not older:
      raise
    raise UserError(f"{error}; the one before it is {folder.parent / str(older[-1])}") from error


def _read_ours(folder: pathlib.Path) -> Tensors:
  import orbax.checkpoint as ocp

  with _older_named(folder), _opened(folder) as (checkpointer, params, tree):
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    restored = checkpointer.restore(params, restore_args=as_numpy)
    tensors = flax.traverse_util.flatten_dict(restored, sep="/")
    checkpointing.check_arrays(folder, {f"params/{name}": x for name, x in tensors.items()})
    return tensors


# --- Into parameters and out ----------------------------------------------------------------


def _entry(content: Mapping[str, Any], key: str, file: pathlib.Path, kind: type) -> Any:
  if key not in content:
    raise UserError(f"{file} has no {key!r}")
  if not isinstance(content[key], kind):
    raise UserError(f"{file}: {key} must be a {kind.__name__}, not {shown(content[key])}")
  return content[key]


def _names(content: Mapping[str, Any], key: str, file: pathlib.Path) -> tuple[str, ...]:
  """Reads a list of names; () for an entry that is missing or null."""
  names = content.get(key) or []
  if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
    raise UserError(f"{file}: {key} must be a list of names, not {shown(names)}")
  return tuple(names)


def _check_size(config: modeling.BertConfig, config_file: pathlib.Path, weights: pathlib.Path,
                size: int) -> None:
  """Raises UserError if a configuration describes more parameters than bytes are stored.

  Nothing is allocated before: a layer count of 10**9 in a damaged file would take all memory.
  """
  hidden = config.hidden_size
  embeddings = hidden * (config.vocab_size + config.max_position_embeddings
                         + config.type_vocab_size)
  layer = 4 * hidden**2 + 2 * hidden * config.intermediate_size  # the matrices
  if embeddings + config.num_hidden_layers * layer > size:
    raise UserError(f"{weights} cannot be read (truncated?): {config_file.name} describes "
                    f"{shown(embeddings + config.num_hidden_layers * layer)} parameters and more, "
                    f"which {size:,} bytes cannot hold")


def _check_stored(file: pathlib.Path, values: int, size: int) -> None:
  """Raises UserError if tensors are said to have more values than the file has bytes."""
  if values > size:
    raise UserError(f"{file} cannot be read (truncated?): its tensors have {shown(values)} values, "
                    f"which {size:,} bytes cannot hold")


def _bert_config(fields: Mapping[str, Any], file: pathlib.Path) -> modeling.BertConfig:
  known = {field.name for field in dataclasses.fields(modeling.BertConfig)}
  try:
    return modeling.BertConfig(**{k: v for k, v in fields.items() if k in known})
  except ValueError as error:
    raise UserError(f"{file}: {error}") from error


def _expand(weights: tuple[Weight, ...], num_hidden_layers: int) -> list[Weight]:
  """Writes out `{i}` of the table for every layer."""
  expanded = []
  for weight in weights:
    layers = range(num_hidden_layers) if "{i}" in weight.ours else range(1)
    expanded += [Weight(*(name.format(i=i) for name in weight[:3]), weight.transposed)
                 for i in layers]
  return expanded


def own_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
  """Loads the tokenizer that lies beside a model.

  Raises:
    UserError: there is none, or it has more entries than the model's vocabulary.
  """
  if not checkpoint.tokenizer:
    raise UserError(f"{checkpoint.path} has no tokenizer beside it (tokenizer.json or vocab.txt)")
  tokenizer = load_tokenizer(checkpoint.tokenizer, None)
  if tokenizer.vocab_size > checkpoint.config.vocab_size:
    raise UserError(f"the tokenizer of {checkpoint.path} has {tokenizer.vocab_size} entries and "
                    f"the model's vocabulary {checkpoint.config.vocab_size}; they do not belong "
                    "together")
  return tokenizer


def load_params(checkpoint: Checkpoint, fresh: Params,
                reinitialize: tuple[str, ...] = (), resize_embeddings: bool = False,
                draw: Draw | None = None) -> tuple[Params, LoadReport]:
  """Merges a checkpoint's weights into freshly initialized parameters.

  Args:
    checkpoint: what `find_checkpoint` found.
    fresh: the model's initialized parameters, kept where the checkpoint has no such head; or, with
      `draw`, their shapes.
    reinitialize: prefixes of parameters to keep fresh even if the checkpoint has them.
    resize_embeddings: the model may have more words than the checkpoint; their rows stay fresh.
    draw: makes the fresh parameters that are needed, "classifier/kernel" and so on; all of them
      would take seconds to draw.

  Returns:
    The parameters as float32 numpy arrays, and what came from where.

  Raises:
    UserError: a tensor that is unknown, missing (and no head's), of another shape, or with values
      that are not finite.
  """
  flat = flax.traverse_util.flatten_dict(fresh, sep="/")
  tensors = checkpoint.read()
  if "masked_lm/bias" in flat:
    _check_tied_decoder(checkpoint.path, tensors)
  by_ours = _by_our_name(checkpoint, tensors)
  loaded = [name for name in flat if name in by_ours and not name.startswith(reinitialize)]
  initialized = [name for name in flat if name not in loaded]
  for name in initialized:
    if not name.startswith((*HEADS, *reinitialize)):
      raise UserError(f"{checkpoint.path} has no tensor for {name} {list(flat[name].shape)}")
  grown = {name: len(flat[name]) - len(by_ours[name]) for name in loaded if resize_embeddings
           and name in _ROW_PER_WORD and len(by_ours[name]) < len(flat[name])}
  drawn = draw((*initialized, *grown)) if draw and (initialized or grown) else flat
  params = {name: np.asarray(drawn[name]) for name in initialized}
  for name in loaded:
    value = by_ours.pop(name)
    if name in grown:
      value = np.concatenate([value, drawn[name][-grown[name]:]])
    if value.shape != flat[name].shape:
      raise UserError(f"{checkpoint.path}: {name} has shape {list(value.shape)} in the "
                      f"checkpoint and {list(flat[name].shape)} in the model")
    params[name] = _finite(value, f"{checkpoint.path}: {name}")
  for head in HEADS:
    missing = [name for name in initialized if name.startswith(head) and name not in by_ours]
    there = [name for name in loaded if name.startswith(head)]
    if missing and there:
      raise UserError(f"{checkpoint.path} has {', '.join(there)} but not {', '.join(missing)}")
  report = LoadReport(tuple(loaded), tuple(initialized), tuple(sorted(by_ours)),
                      max(grown.values(), default=0))
  return flax.traverse_util.unflatten_dict({name: params[name] for name in flat}, sep="/"), report


def count_outputs(checkpoint: Checkpoint) -> int:
  """Returns the number of outputs of a checkpoint's classifier; 0 if it has none."""
  bias = next(weight for weight in WEIGHTS if weight.ours == "classifier/bias")
  return len(checkpoint.read().get(getattr(bias, checkpoint.format), ()))


def load_trained(checkpoint: Checkpoint, model: nn.Module, needed: tuple[str, ...],
                 remedy: str = "") -> Params:
  """Loads a model to be used as it is; heads that the checkpoint lacks are zeros.

  Args:
    checkpoint: what `find_checkpoint` found.
    model: takes a batch.
    needed: prefixes of HEADS that must be there.
    remedy: ends the message where one is not.

  Raises:
    UserError: like `load_params`; or a needed head is missing.
  """
  params, report = load_params(checkpoint, jax.tree.map(
      lambda x: np.zeros(x.shape, x.dtype), modeling.parameter_shapes(model)))
  missing = [name for name in report.initialized if name.startswith(needed)]
  if missing:
    raise UserError(f"{checkpoint.path} has no trained {', '.join(missing)}{remedy}")
  return params


def _finite(value: np.ndarray, name: str) -> np.ndarray:
  """Returns a tensor as float32; `name` is the tensor's, with its file.

  Raises:
    UserError: numbers that are no floats, as of a quantized model, or NaN or infinite.
  """
  if not jax.dtypes.issubdtype(value.dtype, np.floating):
    raise UserError(f"{name} holds {value.dtype} and not floating-point numbers; quantized weights "
                    "cannot be loaded")
  with np.errstate(over="ignore"):  # of float64: counted below
    value = np.asarray(value, np.float32)
  bad = value.size - np.count_nonzero(np.isfinite(value))
  if bad:
    raise UserError(f"{name} is broken: {bad:,} of its {value.size:,} values are NaN or infinite")
  return value


def _check_tied_decoder(path: str, tensors: Tensors) -> None:
  """Raises UserError for a HuggingFace masked-LM head with an output matrix of its own."""
  decoder = tensors.get("cls.predictions.decoder.weight")
  words = tensors.get("bert.embeddings.word_embeddings.weight")
  if decoder is not None and not np.array_equal(decoder, words):
    raise UserError(f"{path}: cls.predictions.decoder.weight differs from the word embeddings; "
                    "BERT's masked-LM head is tied to them")


def _by_our_name(checkpoint: Checkpoint, tensors: Tensors) -> Tensors:
  """Gives tensors this project's names and orientations."""
  table = {getattr(weight, checkpoint.format): weight
           for weight in _expand(WEIGHTS, checkpoint.config.num_hidden_layers)}
  ours = {}
  for name, value in tensors.items():
    if name in table:
      weight = table[name]
      ours[weight.ours] = value.T if checkpoint.format in weight.transposed else value
    elif not _IGNORABLE.fullmatch(name):
      raise UserError(f"{checkpoint.path} holds a tensor that no BERT has: {name} "
                      f"{list(value.shape)}; the configuration promises "
                      f"{checkpoint.config.num_hidden_layers} layers")
  return ours


def to_huggingface(params: Params, num_hidden_layers: int) -> Tensors:
  """Renames our parameters to HuggingFace's names: contiguous float32, for safetensors."""
  flat = flax.traverse_util.flatten_dict(params, sep="/")
  tensors = {}
  for weight in _expand(WEIGHTS, num_hidden_layers):
    if weight.ours in flat:
      value = np.asarray(flat.pop(weight.ours), np.float32)
      transposed = "huggingface" in weight.transposed
      tensors[weight.huggingface] = np.ascontiguousarray(value.T if transposed else value)
  assert not flat, f"the table does not name {sorted(flat)}"
  return tensors


def export_huggingface(folder: pathlib.Path, config: modeling.BertConfig, params: Params,
                       tokenizer: Tokenizer, model_card: str, **extra: Any) -> None:
  """Writes a folder that both `transformers` and `find_checkpoint` load.

  Args:
    folder: written whole or not at all.
    config: the architecture.
    params: float32 parameters of BertForSequenceClassification or BertForPreTraining.
    tokenizer: saved beside the weights.
    model_card: text of README.md.
    **extra: more fields of transformers' BertConfig: architectures, id2label, problem_type ...
  """
  # transformers would say that PyTorch is not there, which nothing here needs.
  os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
  import safetensors.numpy  # these two here: only the end of a run needs them
  import transformers

  with files.written_whole(folder) as temporary:
    tokenizer.save_pretrained(temporary)
    transformers.BertConfig(**dataclasses.asdict(config), **extra).save_pretrained(temporary)
    tensors = to_huggingface(params, config.num_hidden_layers)
    with files.plain_path(temporary) as plain:
      safetensors.numpy.save_file(tensors, plain / "model.safetensors", {"format": "pt"})
    (temporary / "README.md").write_text(model_card, "utf-8")
    # safetensors lets only the owner read its file.
    shutil.copymode(temporary / "README.md", temporary / "model.safetensors")
