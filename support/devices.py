"""Settings of JAX, its cache of compiled programs, and the host's memory allocator."""

import contextlib
import ctypes
import functools
import os
import pathlib
import resource
import sys
from typing import Any

from absl import logging
import jax
from jax._src import compilation_cache  # JAX has no public way to a damaged entry
import ml_collections

from support.errors import first_line
from support.reporting import say


def prepare_devices(config: ml_collections.ConfigDict, script: str) -> None:
  """Makes the settings that JAX reads before it first touches a device; prints the devices.

  Args:
    config: has `deterministic` and `matmul_precision`.
    script: its name, for the printed line.
  """
  logging.set_verbosity(logging.ERROR)  # below, Orbax logs every file, and each slow save
  given, flag = os.environ.get("XLA_FLAGS", ""), "--xla_gpu_deterministic_ops=true"
  # Otherwise a GPU sums the gradients of embeddings in any order. Once: a repeated flag changes
  # the key of the compiled programs.
  if config.deterministic and flag not in given:
    os.environ["XLA_FLAGS"] = f"{flag} {given}"
  jax.config.update("jax_default_matmul_precision", config.matmul_precision)
  keep_compiled_programs()
  keep_freed_memory()
  devices = jax.local_devices()
  say(f"{script}: JAX {jax.__version__} on {len(devices)} {devices[0].device_kind} "
      f"device{'s' if len(devices) > 1 else ''}")


def prepare_to_use(script: str) -> None:
  """Makes the settings for a trained model: `prepare_devices` with exact float32 products."""
  prepare_devices(ml_collections.ConfigDict(
      {"deterministic": False, "matmul_precision": "float32"}), script)


def keep_compiled_programs() -> None:
  """Caches compiled programs for later runs in ~/.cache/bert_in_flax/compiled, up to 4 GB.

  JAX's own variables come first: JAX_COMPILATION_CACHE_DIR names another folder, and
  JAX_ENABLE_COMPILATION_CACHE=false turns the cache off. JAX finds a program again by a key of
  its code, the versions, the flags and the kind of machine.
  """
  if jax.config.jax_compilation_cache_dir is None:
    folder = pathlib.Path("~/.cache/bert_in_flax/compiled").expanduser()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # A bound also makes JAX lock the folder, so that concurrent runs can share it.
    jax.config.update("jax_compilation_cache_max_size", 4 << 30)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  if jax.config.jax_compilation_cache_max_size != -1:
    _mend_times_of_use(pathlib.Path(jax.config.jax_compilation_cache_dir))
  _replace_damaged_programs()


def _mend_times_of_use(folder: pathlib.Path) -> None:
  """Writes the missing times of use of cached programs, such as a killed process leaves.

  JAX, which deletes the least recently used ones, could not write a single one without them.
  """
  with contextlib.suppress(OSError):  # deleted by another process, or a folder to read only
    for entry in folder.glob("*-cache"):
      used = entry.with_name(entry.name.removesuffix("-cache") + "-atime")
      if not used.exists():
        used.write_bytes(entry.stat().st_mtime_ns.to_bytes(8, "little"))


@functools.cache
def _replace_damaged_programs() -> None:
  """Deletes a cached program that cannot be read, so that JAX writes it again.

  JAX itself warns, compiles, and never writes over what is there: it would warn for ever.
  """
  read = compilation_cache.get_executable_and_time

  def read_or_delete(key: str, *args: Any, **kwargs: Any) -> Any:
    try:
      return read(key, *args, **kwargs)
    except OSError:  # such as too many open files: not the entry's fault
      raise
    except Exception as error:  # zlib and XLA raise several types
      entry = pathlib.Path(jax.config.jax_compilation_cache_dir, f"{key}-cache")
      entry.unlink(missing_ok=True)
      say(f"the compiled program {entry} is damaged ({first_line(error)[:100]}); it is replaced")
      return None, None

  compilation_cache.get_executable_and_time = read_or_delete


def keep_freed_memory() -> None:
  """Makes the C library keep freed memory for the next step instead of returning it to Linux.

  XLA's CPU backend allocates its scratch memory again in every step, and glibc fetches and returns
  each large block with a system call: the kernel spent a fifth of a [32, 128] MiniLM step's
  processor time on clearing 388,000 fresh pages. Call this before JAX starts its threads: a
  thread that has a heap of its own keeps it. Does nothing without glibc.
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return
  mallopt(-8, 1)  # M_ARENA_MAX: one heap for all threads
  mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap too
  mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap never shrinks


def peak_memory() -> dict[str, int]:
  """Returns the most bytes that this process has held so far, and that its fullest device has.

  A CPU device has no figure of its own.
  """
  unit = 1 if sys.platform == "darwin" else 1024
  peak = {"peak_host_bytes": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
  figures = [device.memory_stats() or {} for device in jax.local_devices()]
  on_devices = [each["peak_bytes_in_use"] for each in figures if "peak_bytes_in_use" in each]
  return peak | ({"peak_device_bytes": max(on_devices)} if on_devices else {})
