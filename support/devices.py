"""The local devices: JAX's settings for them, its compiled programs, the host's allocator."""

import ctypes
import os
import pathlib

from absl import logging
import jax
import ml_collections

from support.reporting import say


def prepare_devices(config: ml_collections.ConfigDict, script: str) -> None:
  """Settings that JAX reads once, before it touches a device; then says what runs where."""
  logging.set_verbosity(logging.WARNING)  # Orbax tells every file at INFO
  if config.deterministic:  # a GPU otherwise adds up embeddings' gradients in any order
    os.environ["XLA_FLAGS"] = "--xla_gpu_deterministic_ops=true " + os.environ.get("XLA_FLAGS", "")
  jax.config.update("jax_default_matmul_precision", config.matmul_precision)
  keep_compiled_programs()
  keep_freed_memory()
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


def keep_freed_memory() -> None:
  """Has the C library keep what is freed for the next step, instead of returning it to Linux.

  XLA's CPU backend allocates its scratch memory anew in every step, and glibc fetches and returns
  large blocks with a system call each: a fifth of a [32, 128] MiniLM step's processor time was
  the kernel clearing 388,000 fresh pages. Call it before JAX makes its threads: those that have
  a heap of their own by then keep it. Does nothing without glibc.
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return
  mallopt(-8, 1)  # M_ARENA_MAX: one heap
  mallopt(-4, 0)  # M_MMAP_MAX: large blocks from it too
  mallopt(-1, -1)  # M_TRIM_THRESHOLD: which never shrinks
