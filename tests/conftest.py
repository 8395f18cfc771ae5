"""Four fake CPU devices, strict numerics, and the small inputs that many tests share."""

import os
import tempfile

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    # Most of a test's time is compilation, which this takes a third off.
    " --xla_backend_optimization_level=0")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks a hub
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

# Runs of the scripts compile much the same programs again and again.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")

import pathlib
import shutil
import sys
import unittest.mock

from absl import flags
import hypothesis
import jax
import numpy as np
import pytest

import experiment
import modeling
import tokenization

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "float32")

# tests/fuzz: the same few examples in every run of the tests, others in each round of make fuzz.
_COMMON = {"deadline": None, "database": None,
           "suppress_health_check": list(hypothesis.HealthCheck)}
hypothesis.settings.register_profile("short", max_examples=40, derandomize=True, **_COMMON)
hypothesis.settings.register_profile("long", max_examples=400, **_COMMON)
hypothesis.settings.load_profile(os.environ.get("FUZZ_PROFILE", "short"))

ROOT = pathlib.Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
SHARED = ROOT.parent / "shared"
TOKENS = tempfile.mkdtemp(prefix="tokenized-")  # not the user's own cache

WORDS = tuple((
    "[PAD] [UNK] [CLS] [SEP] [MASK] the a film is good bad fine dull very not it was and , . ##s "
    "##ly great poor plot actor story slow fast warm cold i you we they").split())


def pytest_unconfigure() -> None:
  for folder in (os.environ["JAX_COMPILATION_CACHE_DIR"], TOKENS):
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def shared():
  """The folder of real inputs beside the project, where there is one."""
  if not SHARED.is_dir():
    pytest.skip("needs ../shared (real GLUE data), which is not beside this clone")
  return SHARED


@pytest.fixture(scope="session")
def minilm():
  """The real checkpoint that `make demo` brings, where it has been brought."""
  folder = pathlib.Path(os.environ.get("MINILM_DIR", ROOT / "demo" / "minilm"))
  if not (folder / "model.safetensors").exists():
    pytest.skip("needs the MiniLM checkpoint that `make demo` brings (or MINILM_DIR)")
  return folder


@pytest.fixture(scope="session")
def tiny_config():
  return modeling.BertConfig(
      vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
      intermediate_size=32, max_position_embeddings=32)


@pytest.fixture(scope="session")
def vocab_dir(tmp_path_factory):
  """A folder with a bare vocab.txt of WORDS."""
  folder = tmp_path_factory.mktemp("vocab")
  (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", "utf-8")
  return folder


@pytest.fixture(scope="session")
def tokenizer(vocab_dir):
  return tokenization.load_tokenizer(str(vocab_dir), None)


OWN_FLAGS = set()  # of the scripts that ran


def run_script_in_process(script, config_file, *arguments):
  """Runs a script's main() on flags, in this process."""
  values = flags.FLAGS
  for name in [name for name in values
               if name == "output_dir" or name.startswith("config") or name in OWN_FLAGS]:
    delattr(values, name)
  values.unparse_flags()
  others = set(values)
  if script.__name__ != "sweep":
    experiment.define_flags(f"{ROOT}/configs/{config_file}.py")
  if config_file == "classifier":
    arguments = (f"--config.cache_dir={TOKENS}", *arguments)
  last = {str(argument).split("=")[0]: str(argument) for argument in arguments}
  # ml_collections would join tuples given twice, and wants --config first
  argv = [f"{script.__name__}.py", *sorted(last.values(), key=lambda a: a[:9] != "--config=")]
  if not any(a.startswith("--config=") for a in argv):
    argv.insert(1, f"--config={ROOT}/configs/{config_file}.py")
  with unittest.mock.patch.object(sys, "argv", argv):  # ml_collections looks there for overrides
    try:
      if script.__name__ == "sweep":
        script.define_flags()
    finally:
      OWN_FLAGS.update(set(values) - others)
    values(argv)
    script.main()


def padded_batch(input_ids, lengths, token_type_ids=None):
  """An ordinary padded batch, one example a row, in the project's format."""
  input_ids = np.asarray(input_ids, np.int32)
  rows, length = input_ids.shape
  real = np.arange(length)[None, :] < np.asarray(lengths)[:, None]
  zeros = np.zeros_like(input_ids)
  return {"input_ids": input_ids,
          "token_type_ids": zeros if token_type_ids is None else np.asarray(token_type_ids),
          "position_ids": zeros + np.arange(length, dtype=np.int32)[None],
          "sequence_ids": real.astype(np.int32),
          "cls_positions": (np.arange(rows) * length).astype(np.int32)}


def random_batch(config, rows=4, length=12, seed=0, num_labels=2):
  """A padded batch of random tokens with unequal lengths, labels and weights."""
  rng = np.random.default_rng(seed)
  batch = padded_batch(rng.integers(5, config.vocab_size, (rows, length)),
                       rng.integers(length // 2, length + 1, rows),
                       rng.integers(0, 2, (rows, length)).astype(np.int32))
  return batch | {"labels": rng.integers(0, num_labels, rows).astype(np.int32),
                  "weights": np.ones(rows, np.float32)}


def init_params(model, batch, seed=0):
  """Random parameters with biases and LayerNorms moved off 0 and 1, without compiling `init`."""
  shapes = jax.eval_shape(model.init, jax.random.key(seed), batch)["params"]
  rng = np.random.default_rng(seed)
  return jax.tree_util.tree_map_with_path(
      lambda path, x: np.asarray((path[-1].key == "scale") + 0.1 * rng.standard_normal(x.shape),
                                 np.float32), shapes)
