"""What every run begins with: where compiled programs are kept."""

import dataclasses
import datetime
import pathlib
import subprocess
import sys
import unittest.mock

from conftest import WORDS
import jax
from jax._src.lru_cache import LRUCache
import jax.numpy as jnp
import pytest

from configs import classifier, pretraining
import experiment
from support import devices, run_folder
from support.errors import UserError

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


def turn_bit(content):
  return content[:50] + bytes((content[50] ^ 1,)) + content[51:]


@pytest.mark.parametrize("damage", [turn_bit, lambda content: content[:len(content) // 2],
                                    lambda content: b"", lambda content: b"x" * len(content)])
def test_a_damaged_compiled_program_is_replaced(damage, capsys):
  """JAX alone would warn (an error here) in every process."""
  devices.keep_compiled_programs()
  folder = pathlib.Path(jax.config.jax_compilation_cache_dir)

  def run():
    def a_small_program(x):  # a new function each time: JAX keeps the others' in memory
      return jnp.sin(x) + len(damage.__name__)

    assert jax.jit(a_small_program)(0.0) == len(damage.__name__)

  run()
  entry, = folder.glob("jit_a_small_program-*-cache")
  whole = entry.read_bytes()
  entry.write_bytes(damage(whole))
  capsys.readouterr()
  run()
  assert capsys.readouterr().out.startswith(f"the compiled program {entry} is damaged (")
  run()
  assert capsys.readouterr().out == ""
  entry.unlink()


def test_a_compiled_program_of_a_killed_process_keeps_no_other_out(cache_settings, monkeypatch,
                                                                   tmp_path):
  """JAX writes none where it finds one without its time of use."""
  monkeypatch.setenv("HOME", str(tmp_path))
  folder = tmp_path / ".cache/bert_in_flax/compiled"
  folder.mkdir(parents=True)
  (folder / "half-cache").write_bytes(b"")
  jax.config.update("jax_compilation_cache_dir", None)
  devices.keep_compiled_programs()
  cache = LRUCache(str(folder), max_size=1000)
  cache.put("other", b"program")
  assert cache.get("other") == b"program"


@pytest.mark.parametrize("content, message", [
    ("5", "must hold a JSON object, not 5"),
    ("{", "cannot be read as JSON"),
    ("[" * 100_000, "it is nested too deep"),
    ("{}", "holds no config of a run"),
    ('{"config": [1]}', "holds no config of a run"),
    ('{"config": {"seed": 1}}', "holds no config of a run"),
    ('{"config": {"do_train": true}, "script": ["x"]}', "holds a run of ..x..;"),
])
def test_a_config_of_another_shape_is_named(tmp_path, content, message):
  (tmp_path / "config.json").write_text(content)
  with pytest.raises(UserError, match=message) as error:
    run_folder.stored_config(tmp_path, "run_classifier")
  assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("data", ["5", "[1]"])
def test_digests_of_another_shape_are_named(tmp_path, data):
  (tmp_path / "config.json").write_text(f'{{"data": {data}}}')
  with pytest.raises(UserError, match="data must be an object, not"):
    run_folder.check_same_data(tmp_path, {"train_files": "x"})


@pytest.mark.parametrize("there,new,line", [
    ((), False, "there is no saved step; the same command begins again"),
    (("checkpoints/0.orbax-checkpoint-tmp", "checkpoints/9.damaged"), False,
     "there is no saved step; the same command begins again"),
    (("checkpoints/90", "checkpoints/100", "checkpoints/110.orbax-checkpoint-tmp"), False,
     "step 100 is saved; the same command continues from it"),
    (("checkpoints/100",), True,
     "step 100 is saved; the same command with --output_dir={} continues from it"),
    (("checkpoints/100", "model/config.json"), False,
     "the model is trained; the same command goes on with it")])
def test_a_stopped_run_says_what_is_saved(tmp_path, there, new, line):
  """A blank output_dir is a new folder each time: the same command would not continue it."""
  for name in there:
    (tmp_path / name).mkdir(parents=True)
  assert experiment.what_is_saved(tmp_path, new) == line.format(tmp_path)


def test_the_rates_of_the_curve_are_the_schedules():
  plan = unittest.mock.Mock(schedule=lambda step: 1e-3 * step)
  plan.loop.num_train_steps = 2000
  rates = experiment.learning_rates(plan)
  assert len(rates) == 500 and {1, 2000} <= rates.keys()
  assert rates[2000] == pytest.approx(1.999)
  plan.loop.num_train_steps = 3
  assert experiment.learning_rates(plan) == pytest.approx({1: 0.0, 2: 1e-3, 3: 2e-3})


def test_a_blank_output_dir_is_a_new_folder_whatever_the_clock_says(tmp_path, monkeypatch):
  class Stopped(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
      return cls(2026, 1, 2, 3, 4, 5)

  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(run_folder.datetime, "datetime", Stopped)
  names = []
  for _ in range(3):
    folder = run_folder.default_folder("classifier", "cola")
    folder.mkdir(parents=True)
    names.append(folder.name)
  first = "classifier-cola-20260102-030405"
  assert names == [first, f"{first}-2", f"{first}-3"]


# --- The tokenizer and the architecture of a run ------------------------------------------------


def words_in(folder, *words):
  folder.mkdir()
  (folder / "vocab.txt").write_text("\n".join(words) + "\n")
  return str(folder)


@pytest.mark.parametrize("script", [classifier, pretraining])
@pytest.mark.parametrize("resize", [False, True])
def test_another_vocabulary_than_the_checkpoints_is_refused(tmp_path, script, resize):
  """Another order of the same entries too. A longer one only to resize the embeddings."""
  own = words_in(tmp_path / "own", *WORDS)
  checkpoint = unittest.mock.Mock(path="there", tokenizer=own)
  run = unittest.mock.Mock(finished=False, config=script.get_config())
  run.config.resize_embeddings = resize
  vocabularies = {"swapped": (*WORDS[:-2], WORDS[-1], WORDS[-2]), "shorter": WORDS[:-1],
                  "another": (*WORDS[:-1], "new"), "longer": (*WORDS, "new")}
  for name, words in vocabularies.items():
    run.config.tokenizer = words_in(tmp_path / name, *words)
    if resize and name == "longer":
      assert experiment.find_tokenizer(run, checkpoint, "").vocab_size == len(WORDS) + 1
    else:
      with pytest.raises(UserError, match=f"{name} has another vocabulary than init_checkpoint "
                                          "there; .*--config.resize_embeddings=True"):
        experiment.find_tokenizer(run, checkpoint, "")
  run.config.tokenizer = words_in(tmp_path / "same", *WORDS)
  assert experiment.find_tokenizer(run, checkpoint, "").vocab_size == len(WORDS)


def test_the_vocabulary_grows_when_asked(tiny_config):
  config = classifier.get_config()
  size = tiny_config.vocab_size
  with pytest.raises(UserError, match="the model's vocabulary 35; .*--config.resize_embeddings="):
    experiment.model_config(config, tiny_config, size + 1, 16, segments=1)
  config.resize_embeddings = True
  for tokens, expected in ((size + 1, size + 1), (size - 1, size)):  # it never shrinks
    assert experiment.model_config(config, tiny_config, tokens, 16, 1).vocab_size == expected


def test_a_model_of_one_segment_takes_one_text(tiny_config):
  config, one = classifier.get_config(), dataclasses.replace(tiny_config, type_vocab_size=1)
  assert experiment.model_config(config, one, 35, 16, segments=1) == one
  with pytest.raises(UserError, match="type_vocab_size is 1, so it cannot tell 2 texts apart"):
    experiment.model_config(config, one, 35, 16, segments=2)
