"""A run's folder: whose run it holds, and the config.json that lets it run again."""

from collections.abc import Mapping
import datetime
import importlib.metadata
import importlib.util
import json
import pathlib
import platform
import subprocess
import sys
from typing import Any

from errors import UserError

# What may change between two commands on one run: it leaves the trained weights as they are.
FREE_KEYS = ("do_train", "do_eval", "do_predict", "eval_batch_size", "predict_batch_size",
             "log_every_steps", "eval_every_epochs", "eval_steps", "max_eval_examples",
             "save_checkpoints_steps", "keep_checkpoints", "keep_checkpoint_every", "cache_dir")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "transformers", "datasets", "numpy")


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
                 if key not in FREE_KEYS and there.get(key, here.get(key)) != here.get(key)]
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
