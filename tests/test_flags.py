"""The command line of the four scripts: --help, mistyped flags and wrong values."""

import os
import re
import subprocess
import sys

from conftest import ROOT
import pytest

from support import command_line

SCRIPTS = {  # script: its config file, and a flag that --help shows
    "run_classifier": ("configs/classifier.py", "--config:"),
    "run_pretraining": ("configs/pretraining.py", "--output_dir:"),
    "create_pretraining_data": ("", "--input_file:"),
    "train_tokenizer": ("", "--errors:")}


def script(name, *arguments):
  return subprocess.run((sys.executable, f"{name}.py", *arguments), cwd=ROOT, text=True,
                        capture_output=True, check=False, env=os.environ | {"COLUMNS": "80"})


def all_knobs(file):
  """Dotted names of the config's values; not of the ConfigDicts that hold them."""
  return set(command_line.load_config(f"{ROOT}/{file}").to_dict()) - {"model"} | {
      f"model.{name}" for name in command_line.load_config(f"{ROOT}/{file}").model}


@pytest.mark.parametrize("name", SCRIPTS)
def test_help(name):
  """Shows the docstring, the flags (also those of another module) and every knob, explained."""
  file, flag = SCRIPTS[name]
  done = script(name, "--help")
  assert (done.returncode, done.stderr) == (1, "")  # absl's own --help ends with 1
  docstring, _, flags = done.stdout.partition("\nflags:\n")
  assert f"python3 {name}.py" in docstring
  assert flag in flags
  shown = re.findall(r"^  --config\.([\w.]+)=", done.stdout, re.MULTILINE)
  assert sorted(shown) == sorted(all_knobs(file) if file else ())
  knobs = done.stdout.partition("\nknobs of ")[2]
  assert all(len(line) <= 80 for line in knobs.splitlines())
  # Nothing but an explanation or another knob of the same explanation follows a knob.
  assert not re.search(r"^  --config.*\n(?!  --config|      \S)", knobs, re.MULTILINE)


def test_help_of_a_named_model():
  done = script("run_classifier", "--help", "--config=configs/classifier.py:bert-base-uncased")
  assert done.returncode == 1
  assert ("\n  --config.init_checkpoint=google-bert/bert-base-uncased\n      Initial weights: "
          in done.stdout)
  assert "\n  --config.learning_rate=5e-05\n      Peak learning rate" in done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_helpfull_lists_all_flags(name):
  done = script(name, "--helpfull")
  assert (done.returncode, done.stderr) == (1, "")
  assert SCRIPTS[name][1] in done.stdout
  assert "absl.logging" in done.stdout


def test_a_comment_belongs_to_the_knobs_below_it(tmp_path):
  """A sub-config's own comment goes to its values; long comments are wrapped."""
  (tmp_path / "config.py").write_text('''
import ml_collections
def get_config(size: str = "7"):
  config = ml_collections.ConfigDict()
  # Neither is
  # alone.
  config.size = int(size)
  config.name = ""

  config.bare = None
  # Inner.
  config.model = ml_collections.ConfigDict()
  config.model.rate = 1e-3
  # A second one.
  config.model.act = "relu"
  return config
''')
  assert command_line.describe_knobs(f"{tmp_path}/config.py:9", 20).split("\n") == [
      "  --config.size=9", "  --config.name=", "      Neither is", "      alone.",
      "  --config.bare=None",
      "  --config.model.rate=0.001", "      Inner.",
      "  --config.model.act=relu", "      A second one."]


KNOBS = " All knobs: configs/classifier.py, or --help"
MISTAKES = [  # script, arguments, the error
    ("run_classifier", ["--config.learning_rat=1"],
     "unknown knob --config.learning_rat; did you mean --config.learning_rate?" + KNOBS),
    ("run_classifier", ["--config=configs/classifier.py", "--noconfig.do_trai"],
     "unknown knob --config.do_trai; did you mean --config.do_train?" + KNOBS),
    ("run_classifier", ["--config.model.hidden_siz", "3"],
     "unknown knob --config.model.hidden_siz; did you mean --config.model.hidden_size?" + KNOBS),
    ("run_classifier", ["--config.hidden_size=3"],
     "unknown knob --config.hidden_size; did you mean --config.model.hidden_size?" + KNOBS),
    ("run_classifier", ["--config.modl.x=1"],
     "unknown knob --config.modl.x; did you mean --config.model?" + KNOBS),
    ("run_classifier", ["--config.seed.x=1"],
     "unknown knob --config.seed.x; did you mean --config.seed?" + KNOBS),
    ("run_classifier", ["--config.output_dir=out"],
     "unknown knob --config.output_dir; did you mean --output_dir?" + KNOBS),
    ("run_classifier", ["--config.zzz=1"], "unknown knob --config.zzz." + KNOBS),
    ("run_classifier", ["--learning_rate=1e-4"],
     "unknown flag --learning_rate; did you mean --config.learning_rate? All flags: --help"),
    ("run_classifier", ["--confg.seed=1"],
     "unknown flag --confg.seed; did you mean --config.seed? All flags: --help"),
    ("run_pretraining", ["--config=configs/pretraining.py", "--outputdir=out"],
     "unknown flag --outputdir; did you mean --output_dir? All flags: --help"),
    ("run_pretraining", ["--zzz"], "unknown flag --zzz. All flags: --help"),
    ("train_tokenizer", ["--vocabsize=9"],
     "unknown flag --vocabsize; did you mean --vocab_size? All flags: --help"),
    ("create_pretraining_data", ["--seed=9"],
     "unknown flag --seed; did you mean --random_seed? All flags: --help"),
    ("run_classifier", ["--config.seed=abc"],
     "flag --config.seed=abc: must be an integer, not 'abc'"),
    ("run_classifier", ["--config.learning_rate=3e-5x"],
     "flag --config.learning_rate=3e-5x: must be a number, not '3e-5x'"),
    ("run_classifier", ["--config.model=3"],
     "flag --config.model=3: Failed to parse '3' as a ConfigDict: `3` is not a dict."),
    ("run_classifier", ["--config.seed"], "Missing value for flag --config.seed"),
]


@pytest.mark.parametrize("name,arguments,message", MISTAKES)
def test_a_mistake_is_one_line(name, arguments, message):
  done = script(name, *arguments)
  assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {message}\n")


def test_a_config_file_that_is_none(tmp_path):
  file = tmp_path / "config.py"
  for content, message in ((None, "config file .*config.py. does not exist$"),
                           ("import nothing_of_this_name", "cannot be loaded: .*:1: No module"),
                           ("x = 1", "cannot be loaded: .* defines no get_config"),
                           ("x =\n", "cannot be loaded: .*config.py, line 1"),
                           ("x = 1\ny = x.z\n", "cannot be loaded: .*config.py:2: 'int' object"),
                           ("def get_config():\n  return {}[1]", "config.py:2: KeyError: 1$"),
                           ("def get_config(): return [3]", "must return a ConfigDict, not .3."),
                           ("def get_config(): raise ValueError('no such model')",
                            "^no such model$")):
    if content:
      file.write_text(content)
    with pytest.raises(command_line.UserError, match=message):
      command_line.load_config(str(file))


def test_the_default_config_lies_beside_the_script(tmp_path):
  done = subprocess.run((sys.executable, ROOT / "run_classifier.py", "--config.sed=3"),
                        cwd=tmp_path, text=True, capture_output=True, check=False)
  assert (done.returncode, done.stdout) == (1, "")
  assert done.stderr.startswith("error: unknown knob --config.sed; did you mean --config.seed?")


PROGRAM = """
from support.command_line import run_script
def main():
  {}
run_script(main)
"""


def program(statement, **environment):
  return subprocess.run((sys.executable, "-c", PROGRAM.format(statement)), cwd=ROOT, text=True,
                        capture_output=True, check=False, env={**os.environ, **environment})


@pytest.mark.parametrize("statement, message", [
    ("with open('/dev/full', 'w', buffering=1) as file: file.write('text\\n')",
     "a file could not be written: No space left on device; nothing is saved; the same command "
     "begins again"),
    ("open('nothing/here', 'w')", "nothing/here: No such file or directory"),
    ("raise MemoryError", "not enough memory; nothing is saved; the same command begins again"),
])
def test_an_exhausted_machine_is_one_line(statement, message):
  done = program(statement.replace("\n", "\\n"))
  assert (done.returncode, done.stderr.splitlines()[0]) == (1, f"error: {message}")


def test_a_terminal_without_the_letters_prints_their_numbers():
  done = program(r"print('caf\u00e9 \ud800')", PYTHONIOENCODING="ascii")
  assert (done.returncode, done.stdout) == (0, "caf\\xe9 \\ud800\n")


def test_a_password_in_a_flag_is_stored_nowhere(monkeypatch):
  monkeypatch.setattr(sys, "argv", ["sweep.py", "--storage=postgresql://me:a:secret@host/db",
                                    "--output_dir=s3://bucket/run", "--config.x=a:b@c"])
  assert command_line.given_command() == [
      "sweep.py", "--storage=postgresql://me:***@host/db", *sys.argv[2:]]
