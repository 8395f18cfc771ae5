"""Runs every command of the README and of docs/ on tiny inputs, in order, as a reader would.

A new command is run too, if it is a script's or a plain shell line; any other one must be listed in
NOT_RUN with the reason. Flags, links, files and names that the text mentions must exist.
"""

import ast
import functools
import importlib
import importlib.util
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import unittest.mock

from absl import flags
from conftest import GOLDEN, ROOT, run_script_in_process, WORDS
import hub_server
import numpy as np
import pytest

from configs import classifier, pretraining, rules
import create_pretraining_data
import extract_features
import fill_mask
import make_submission
import predict
import train_tokenizer
import training

DOCUMENTS = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
             for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}

NOT_RUN = {
    "make demo": "installs packages and downloads; it is the two commands of the Makefile",
    "make test": "runs this test",
    ". .venv/bin/activate": "enters the environment that make made",
    "pip install torch": "installs",
    "pip install s3fs": "installs",
    "pip install gcsfs": "installs",
    **dict.fromkeys((line for line in DOCUMENTS["docs/bucket.md"].splitlines()
                     if "python3 run_" in line), "needs a bucket; tests/test_bucket.py has one"),
    "python3 make_submission.py --runs=RUNS --output=submission.zip":
        "needs runs of all tasks; tests/test_make_submission.py has them",
    **dict.fromkeys((line for line in DOCUMENTS["docs/using-a-model.md"].splitlines()
                     if "push_to_hub=" in line and line.startswith("python3")),
                    "needs an account; tests/test_hub.py has one"),
    **dict.fromkeys((line for line in DOCUMENTS["docs/sweeps.md"].splitlines()
                     if "--storage=post" in line), "needs a server; tests/test_study.py has one"),
    **dict.fromkeys((line for line in DOCUMENTS["docs/fine-tuning.md"].splitlines()
                     if line.startswith("for tool in ")), "makes 80 runs"),
    'pip install "jax[cuda13]"': "installs, and needs a GPU",
    'pip install "jax[tpu]"': "installs, and needs a TPU",
}
SHELL = ("mkdir ", "awk ", "python3 -c ")  # the other commands that are run as they stand
CONFIGS = {"run_classifier": "classifier", "run_pretraining": "pretraining",
           "sweep": "classifier"}

# What makes the commands small: one tiny shape everywhere, so that it compiles once.
TINY_MODEL = {"config.model.hidden_size": 16, "config.model.num_hidden_layers": 1,
              "config.model.num_attention_heads": 2, "config.model.intermediate_size": 32}
SMALLER = {
    "run_classifier": {"config.max_seq_length": 32, "config.cache_dir": ""},
    "run_pretraining": {"config.num_train_steps": 2, "config.num_warmup_steps": 1,
                        "config.eval_batch_size": 16, "config.max_eval_examples": 16},
    "sweep": {"config.max_seq_length": 32, "config.cache_dir": "", "tasks": "mrpc", "seeds": 0,
              "sweep.learning_rate": 5e-5},
    "create_pretraining_data": {"max_seq_length": 16, "max_predictions_per_seq": 3,
                                "dupe_factor": 2, "num_workers": 2},
    "train_tokenizer": {}, "predict": {}, "fill_mask": {},
    "extract_features": {"max_seq_length": 16},
}


def blocks(text):
  """(language, lines) of every fenced block."""
  return [(language, content.splitlines())
          for language, content in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)]


# --- Inputs that stand for the reader's ---------------------------------------------------------


def write_place(folder):
  """Writes a reader's working folder: the demo's assets, text, GLUE, a Google checkpoint."""
  hub_server.write_bert(folder / "demo" / "minilm")
  rng = np.random.default_rng(0)

  def sentences(count):
    return [f"{' '.join(rng.choice(WORDS[5:16], 4))} {('bad', 'good')[i % 2]} ."
            for i in range(count)]

  def write(file, header, rows, separator=","):
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [separator.join(map(str, row)) for row in (header, *rows)]
    file.write_text("\n".join(lines) + "\n")

  labels = ("negative", "positive")
  for split, count in (("train", 200), ("validation", 60)):  # of which awk takes 40 and 20
    rows = [(text, labels[i % 2]) for i, text in enumerate(sentences(count))]
    for data in ("demo/reviews", "OTHER_DATA"):
      write(folder / data / f"{split}.csv", ("text", "label"), rows)
  for split, count in (("train", 40), ("dev", 20)):
    pairs = zip(sentences(count), sentences(count), [i % 2 for i in range(count)], strict=True)
    write(folder / "data" / "questions" / f"{split}.csv", ("question", "answer", "grade"), pairs)
    write(folder / "data" / "toxic" / f"{split}.csv", ("text", "toxic", "rude", "threat"),
          [(text, i % 2, int(i % 3 == 0), 0) for i, text in enumerate(sentences(count))])
    write(folder / "data" / "papers" / f"{split}.csv", ("title", "abstract", "year", "label"),
          [("the film", text, i, i % 2) for i, text in enumerate(sentences(count))])
    pairs = [(i % 2, 1, 2, a, b) for i, (a, b) in
             enumerate(zip(sentences(count), sentences(count), strict=True))]
    write(folder / "glue" / "MRPC" / f"{split}.tsv",
          ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"), pairs, "\t")
    write(folder / "glue" / "CoLA" / f"{split}.tsv", ("gj04", 1, "", "the film ."),
          [("gj04", i % 2, "", text) for i, text in enumerate(sentences(count))], "\t")
  documents = "\n\n".join("\n".join(sentences(6)) for _ in range(40))
  (folder / "data" / "text.txt").write_text(documents + "\n")
  (folder / "wiki" / "AA").mkdir(parents=True)
  (folder / "wiki" / "AA" / "wiki_00").write_text(documents + "\n")
  google = folder / "uncased_L-12_H-768_A-12"
  google.mkdir()
  for file in GOLDEN.glob("bert_*"):
    shutil.copy(file, google)
  (google / "vocab.txt").write_text("\n".join(WORDS) + "\n")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
  """A hub and an empty home folder for this process, which else asks no hub."""
  import datasets
  import huggingface_hub

  root = hub_server.write_hub(tmp_path_factory.mktemp("hub"))
  home = tmp_path_factory.mktemp("home")
  with hub_server.serve(root) as endpoint, pytest.MonkeyPatch.context() as patch:
    patch.setenv("HOME", str(home))
    for constants, cache in ((huggingface_hub.constants, "HF_HUB_CACHE"),
                             (datasets.config, "HF_DATASETS_CACHE")):
      patch.setattr(constants, "HF_HUB_OFFLINE", False)
      patch.setattr(constants, cache, str(home / cache))
    patch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    patch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                  endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(datasets.config, "HF_ENDPOINT", endpoint)
    huggingface_hub.close_session()
    yield
  huggingface_hub.close_session()


@pytest.fixture(scope="module")
def read(tmp_path_factory, hub):
  """Returns a function that does what a document says, once; returns the working folder."""

  @functools.cache
  def read_document(name):
    place = tmp_path_factory.mktemp("place")
    write_place(place)
    if name != "README.md":  # whose reader has runs from there
      before = read_document("README.md")
      shutil.copytree(before / "demo" / "mine", place / "demo" / "mine")
      if name != "docs/pre-training.md":
        shutil.copytree(before / "demo" / "mine_run", place / "OUT")
        shutil.copytree(before / "demo" / "pretrained", place / "PRETRAINED")
    with pytest.MonkeyPatch.context() as patch:
      patch.chdir(place)
      for language, lines in blocks(DOCUMENTS[name]):
        if language:
          assert language == "python"
          run_snippet("\n".join(lines))
        else:
          for line in lines:
            run_line(line, place)
    return place

  return read_document


# --- Running ------------------------------------------------------------------------------------


def run_line(line, place):
  """Runs one command line in this process, in a shell, or not at all."""
  if line in NOT_RUN:
    return
  words = shlex.split(substituted(line, place))
  while re.fullmatch(r"[A-Z_]+=.*", words[0]):  # conftest.py has set XLA_FLAGS
    words.pop(0)
  script = pathlib.Path(words[1]).stem if len(words) > 1 else ""
  if words[0] == "python3" and script in SMALLER:
    assert (ROOT / words[1]).is_file()
    run_script(script, words[2:])
  elif line.startswith(SHELL):
    python = f'python3() {{ "{sys.executable}" "$@"; }}; '
    subprocess.run(["bash", "-euc", python + line], check=True)
  else:
    pytest.fail(f"neither run nor listed: {line}")


def substituted(line, place):
  """Puts the tiny inputs in the place of the reader's folders."""
  for theirs, ours in (("/path/to/glue_data", "/glue"), ("/path/to/model/dir", "/demo/minilm"),
                       ("/path/to/uncased", "/uncased"), ("/data/", "/data/"),
                       ("/wiki/", "/wiki/")):
    line = re.sub(rf"(?<=[='\"]){theirs}", f"{place}{ours}", line)
  return line.replace("=configs/", f"={ROOT}/configs/")


class FirstStepError(Exception):
  """Ends a run that would now train; all input has been read and found good."""


def run_script(script, arguments):
  """Runs a script with its own flags and the ones that make it small; checks its results."""
  given = dict(argument.removeprefix("--").split("=", 1) for argument in arguments
               if argument.startswith("--"))
  smaller = {name: value for name, value in SMALLER[script].items()
             if "." in name or name != "num_workers" or name in given}
  if given.get("config.do_train") == "False":
    smaller = {"config.cache_dir": ""}  # the finished run says the rest
  elif script == "run_pretraining":
    if "config.max_seq_length" in given:  # one phase
      smaller |= {"config.max_seq_length": 16, "config.train_batch_size": 16}
    else:
      phases = ast.literal_eval(given.get("config.phases") or repr(
          pretraining.get_config().phases))
      assert all(np.isclose(sum(phase[0] for phase in phases), 1) and length <= 512
                 for _, length, _ in phases)
      smaller["config.phases"] = tuple((share, 16, 16) for share, _, _ in phases)
    smaller |= TINY_MODEL if not given.get("config.init_checkpoint") else {}
  command = [f"--{name}={value}" for name, value in (given | smaller).items()]
  module = importlib.import_module(script)
  if script in CONFIGS and "output_dir" in given:
    run_script_in_process(module, CONFIGS[script], *command)
    folder = pathlib.Path(given["output_dir"])
    scores = "results.md" if script == "sweep" else "eval_results.txt"
    assert (folder / scores).exists() or given.get("config.eval_fraction") == "0"
    assert bool(given.get("config.do_predict")) <= (folder / "predictions").is_dir()
  elif script in CONFIGS:  # no later command reads its folder: up to the first step is enough
    with (unittest.mock.patch.object(training, "train", side_effect=FirstStepError),
          pytest.raises(FirstStepError)):
      run_script_in_process(module, CONFIGS[script], *command)
  else:
    values = flags.FlagValues()
    module.define_flags(values)
    values([script, *command])
    with unittest.mock.patch.object(flags, "FLAGS", values):
      module.main(*(argument for argument in arguments if not argument.startswith("--")))


def run_snippet(code):
  """Runs Python code of a document; it needs torch, which requirements.txt does not bring."""
  if importlib.util.find_spec("torch"):
    exec(code, {})
  else:
    compile(code, "snippet", "exec")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_commands_run(read, name):
  read(name)


def test_what_the_readme_promises_is_there(read):
  place = read("README.md")
  run = place / "demo" / "mine_run"
  lines = (run / "predictions" / "test.tsv").read_text().splitlines()
  assert lines[0] == "index\tprediction"
  assert [line.split("\t")[0] for line in lines[1:]] == ["0", "1"]
  for name in ("eval_results.txt", "eval_results.json", "metrics.jsonl", "curves.png",
               "summary.json", "config.json", "model/model.safetensors", "checkpoints",
               "tokenizer", "report.html", "predictions/dev.tsv"):
    assert (run / name).exists(), name
  assert list(run.glob("events.out.tfevents.*"))
  assert (pathlib.Path(os.environ["HOME"]) / ".cache/bert_in_flax/tokenized").is_dir()


def test_an_unknown_command_fails(tmp_path):
  for line in ("make everything", "python3 run_everything.py", "rm -r demo"):
    with pytest.raises(pytest.fail.Exception, match="neither run nor listed"):
      run_line(line, tmp_path)


def test_nothing_is_listed_that_no_document_says():
  lines = {line for text in DOCUMENTS.values() for _, block in blocks(text) for line in block}
  assert set(NOT_RUN) <= lines


# --- The text -----------------------------------------------------------------------------------


def all_flags():
  """name -> config or None, of every flag of every script."""
  known = {"config": None, "output_dir": None, "help": None, "tasks": None, "seeds": None,
           "grid": None, "sampler": None, "num_trials": None, "storage": None, "study": None,
           "lost_hosts": None, "sweep.KNOB": None}
  for script in (create_pretraining_data, train_tokenizer, predict, extract_features, fill_mask,
                 make_submission):
    values = flags.FlagValues()
    script.define_flags(values)
    known |= dict.fromkeys(values)
  for config in (classifier.get_config(), pretraining.get_config()):
    known |= {f"{flag}.{name}": config for name in config for flag in ("config", "sweep")}
    known |= {f"{flag}.model.{name}": config for name in config.model
              for flag in ("config", "sweep")}
  return known


THEIRS = {"json", "xla_force_host_platform_device_count",  # WikiExtractor's, XLA's
          "time", "signal", "requeue", "open", "nodes", "ntasks", "gpus",  # Slurm's
          "map", "zone", "worker", "command",  # Open MPI's, gcloud's
          "times", "logdir"}  # of tests.stress, of TensorBoard


@pytest.mark.parametrize("name", DOCUMENTS)
def test_flags_and_their_choices_exist(name):
  known = all_flags()
  for flag, value in re.findall(r"--([a-z][\w.]*)(?:=([\w.]+))?", DOCUMENTS[name]):
    assert flag in known or flag in THEIRS, flag
    choices = rules.RULES.get(flag.removeprefix("config."), rules.Rule()).choices
    assert not (value and choices) or value in choices, (flag, value)


def test_the_readme_shows_the_defaults():
  config = classifier.get_config()
  table = re.findall(r"^\| `--config\.([\w.]+)=(.*?)` \|", DOCUMENTS["README.md"], re.M)
  assert len(table) == 10
  for name, value in table:
    at = config.model if name.startswith("model.") else config
    default = at[name.removeprefix("model.")]
    assert value == str(default) or ast.literal_eval(value) == default, name


def slug(heading):
  return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
  for target in re.findall(r"\]\(([^)]+)\)", DOCUMENTS[name]):
    if target.startswith("https://"):
      continue
    path, _, anchor = target.partition("#")
    file = (ROOT / name).parent / path
    assert file.exists(), target
    if anchor:
      headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.M)
      assert anchor in map(slug, headings), target


@pytest.mark.parametrize("name", DOCUMENTS)
def test_named_files_and_definitions_exist(name):
  text = DOCUMENTS[name]
  for file in re.findall(r"`([\w/]+\.py)`", text):
    assert (ROOT / file).is_file(), file
  modules = {path.stem: path for path in ROOT.glob("**/*.py")
             if path.relative_to(ROOT).parts[0] not in ("tests", "benchmarks", ".venv")}
  for module, definition in re.findall(r"`([a-z_]+)\.(\w+)`", text):
    if module in modules and definition != "py":
      assert re.search(rf"^(?:def |class )?{definition}\b", modules[module].read_text(), re.M), (
          f"{module}.{definition}")


def test_the_readme_names_every_command_and_part():
  table = DOCUMENTS["README.md"].split("## The files")[1].split("## ")[0]
  tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True,
                           check=False).stdout.splitlines()
  names = {line.split("/")[0] + "/" if "/" in line else line for line in tracked}
  parts = {name for name in names if name.endswith((".py", "/")) and not name.startswith(".")}
  assert not [name for name in parts if f"`{name}`" not in table]
