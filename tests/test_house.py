"""The structure of the code: imports run downwards, and one noun has one meaning."""

import ast
import collections

from conftest import ROOT
import pytest

# Every file and room of the house, from the top to the bottom, with all that it may import; files
# of a room may also import each other.
BOTTOM = {
    "checkpoint_utils": ("checkpointing", "tokenization", "modeling", "support"),
    "checkpointing": ("training", "support"),
    "data": ("tokenization", "support"),
    "tokenization": ("support",),
    "configs": ("support",),
    "losses": ("training", "optimization", "modeling"),
    "training": ("support",),
    "optimization": (),
    "modeling": (),
    "support": (),
}
ROOMS = {"classification": ("checkpoint_utils", "data", "tokenization", "losses", "training",
                            "modeling", "support"),
         "pretraining": ("data", "tokenization", "support")}
BELOW_COMMANDS = {"experiment": (*ROOMS, *BOTTOM), **ROOMS, **BOTTOM}
COMMANDS = ("sweep", "run_classifier", "run_pretraining", "create_pretraining_data",
            "train_tokenizer", "predict", "extract_features", "fill_mask", "make_submission")
MAY_IMPORT = {**dict.fromkeys(COMMANDS, tuple(BELOW_COMMANDS)), **BELOW_COMMANDS,
              "sweep": ("run_classifier", *BELOW_COMMANDS)}  # which it runs many times
OUTSIDE = ("tests", "benchmarks", "tools")  # may import anything; nothing imports them
# A step can be built, timed and profiled on a machine without these.
HEAVY = ("tensorflow", "datasets", "transformers")
WITHOUT_HEAVY = ("modeling", "losses", "optimization", "training")

# Public names that several files define on purpose.
SAME_NAME = {
    "main": "every command has one",
    "get_config": "ml_collections asks every config file for it",
    "define_flags": "every command has its own, and one for the flags that it shares",
    "Settings": "each command without a config has its own flags in it",
}


def source_files():
  """{dotted module name: its file}, without tests, benchmarks and tools."""
  files = [file for file in (*ROOT.glob("*.py"), *ROOT.glob("*/*.py"))
           if file.parent == ROOT or file.parent.name in MAY_IMPORT]
  return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
          for file in files}


def imports(tree, modules):
  """Names of the modules that a file imports, also inside functions; ours by their full names."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, "a relative import"
      for name in (f"{node.module}.{alias.name}" for alias in node.names):
        yield name if name in modules else node.module


def import_graph(files):
  """{module: the modules of the house and others that it imports}."""
  return {module: set(imports(ast.parse(file.read_text("utf-8")), files))
          for module, file in files.items()}


def room(module):
  return module.split(".")[0]


def climbs(graph):
  """The imports that MAY_IMPORT does not allow, as "MODULE imports MODULE"."""
  return sorted(
      f"{module} imports {other}" for module, others in graph.items() for other in others
      if room(other) in (*MAY_IMPORT, *OUTSIDE)
      and room(other) not in (room(module), *MAY_IMPORT[room(module)]))


def cycle(graph):
  """Some modules that import each other in a circle; [] if there is no circle."""
  done, path = set(), []

  def visit(module):
    if module in path:
      return path[path.index(module):]
    if module in done or module not in graph:
      return []
    path.append(module)
    found = next(filter(None, map(visit, sorted(graph[module]))), [])
    path.pop()
    done.add(module)
    return found

  return next(filter(None, map(visit, sorted(graph))), [])


def heavy_imports(graph):
  """The imports of HEAVY libraries in the files that must do without."""
  return sorted(f"{module} imports {other}" for module in WITHOUT_HEAVY
                for other in graph.get(module, ()) if room(other) in HEAVY)


def repeated_names(files):
  """{public top-level class or function: the modules that define it}, if several do."""
  found = collections.defaultdict(list)
  for module, file in files.items():
    for node in ast.parse(file.read_text("utf-8")).body:
      if (isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
          and node.name not in SAME_NAME):
        found[node.name].append(module)
  return {name: sorted(modules) for name, modules in found.items() if len(modules) > 1}


def test_every_file_has_its_place():
  assert {room(module) for module in source_files()} == set(MAY_IMPORT)
  others = {file.parent.name for file in ROOT.glob("*/*.py")} - {*MAY_IMPORT, *OUTSIDE}
  assert others <= {"demo"}  # which git ignores, and where a user tries things


def test_the_table_runs_downwards():
  order = list(MAY_IMPORT)
  for name, allowed in MAY_IMPORT.items():
    assert all(order.index(other) > order.index(name) for other in allowed), name


def test_imports_run_downwards():
  assert climbs(import_graph(source_files())) == []


def test_no_files_import_each_other_in_a_circle():
  assert cycle(import_graph(source_files())) == []


def test_a_step_can_be_built_on_a_bare_machine():
  assert heavy_imports(import_graph(source_files())) == []


def test_few_files_lie_at_the_top():
  assert len(list(ROOT.glob("*.py"))) <= 18


def test_one_noun_has_one_meaning():
  assert repeated_names(source_files()) == {}


@pytest.mark.parametrize("code,check,message", [
    ({"modeling": "import training"}, climbs, ["modeling imports training"]),
    ({"classification.tasks": "def f():\n  from pretraining import text"}, climbs,
     ["classification.tasks imports pretraining.text"]),
    ({"support.hub": "import data"}, climbs, ["support.hub imports data"]),
    ({"experiment": "import run_classifier"}, climbs, ["experiment imports run_classifier"]),
    ({"data": "from tests import conftest"}, climbs, ["data imports tests"]),
    ({"run_classifier": "import data\nfrom support.hub import snapshot", "data": "import os"},
     climbs, []),
    ({"support.hub": "import support.files", "support.files": "from support import hub"},
     cycle, ["support.files", "support.hub"]),
    ({"support.hub": "import support.files", "support.files": ""}, cycle, []),
    ({"losses": "import modeling, support.errors"}, climbs, ["losses imports support.errors"]),
    ({"training": "def f():\n  import tensorflow.io", "data": "import datasets"}, heavy_imports,
     ["training imports tensorflow.io"]),
    ({"data": "class Batch: pass\ndef _f(): pass", "training": "def Batch(): pass\ndef _f(): pass",
      "run_classifier": "def main(): pass", "experiment": "def main(): pass"}, repeated_names,
     {"Batch": ["data", "training"]})])
def test_the_checks_find_what_they_look_for(tmp_path, code, check, message):
  names = {"pretraining.text", "support.hub", *code}  # of which some are only imported
  files = {name: tmp_path / f"{name}.py" for name in names}
  for name, file in files.items():
    file.write_text(code.get(name, ""))
  assert check(files if check is repeated_names else import_graph(files)) == message
