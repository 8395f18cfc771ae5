"""What every run begins with: where compiled programs are kept."""

import pathlib
import subprocess
import sys

import jax
import pytest

from support import devices

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def cache_settings():
  """JAX's settings of the compilation cache, put back after the test."""
  names = ("jax_compilation_cache_dir", "jax_compilation_cache_max_size",
           "jax_persistent_cache_min_compile_time_secs")
  before = {name: getattr(jax.config, name) for name in names}
  yield
  for name, value in before.items():
    jax.config.update(name, value)


def test_compiled_programs_are_kept_in_the_users_cache(cache_settings, monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  jax.config.update("jax_compilation_cache_dir", None)
  devices.keep_compiled_programs()
  assert jax.config.jax_compilation_cache_dir == str(tmp_path / ".cache/bert_in_flax/compiled")


def test_jaxs_own_setting_of_the_cache_goes_first(cache_settings, tmp_path):
  """With its own bound: the user's other programs may lie there."""
  jax.config.update("jax_compilation_cache_dir", str(tmp_path))
  jax.config.update("jax_compilation_cache_max_size", -1)
  devices.keep_compiled_programs()
  assert jax.config.jax_compilation_cache_dir == str(tmp_path)
  assert jax.config.jax_compilation_cache_max_size == -1


PROGRAM = """
import jax, jax.numpy as jnp
from support import devices
devices.keep_compiled_programs()
hits = []
jax.monitoring.register_event_listener(
    lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None)
jax.jit(lambda x: jnp.tanh(x @ x))(jnp.ones((8, 8)))
print(len(hits))
"""


def test_a_second_process_compiles_nothing_again(tmp_path):
  """Also where the folder cannot be made: the run goes on, and compiles."""

  def hits(home):
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True,
                          check=True, env={"HOME": str(home), "PATH": "/usr/bin:/bin"})
    return int(done.stdout)

  assert hits(tmp_path) == 0
  assert hits(tmp_path) > 0
  (tmp_path / "file").write_text("no folder")
  assert hits(tmp_path / "file") == 0
