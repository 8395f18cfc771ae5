"""A run's folder: whose it is, and config.json, by which the same command finds its run again."""

from collections.abc import Collection, Mapping, Sequence
import datetime
import functools
import importlib.metadata
import importlib.util
import itertools
import pathlib
import platform
import subprocess
from typing import Any

from flax.traverse_util import flatten_dict

from support import command_line, files, hosts, reporting
from support.errors import shown, UserError
from support.mirror import local_folder, Mirror
from support.reporting import say

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "transformers", "datasets", "numpy")


def default_folder(script: str, name: str) -> pathlib.Path:
  """Returns runs/<script>-<name>-<time>; a number follows where the clock gave that before."""
  folder = pathlib.Path("runs", f"{script}-{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}")
  numbered = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
  return folder if not folder.exists() else next(f for f in numbered if not f.exists())


def own_folder(folder: pathlib.Path) -> None:
  """Makes the folder, if it is new, and keeps other processes out of it while this one lives.

  Raises:
    UserError: another process works there.
  """
  folder.mkdir(parents=True, exist_ok=True)
  if not files.own(folder):
    say(f"warning: the file system of {folder} has no locks; nothing keeps a second process out")


def mirror_of(url: str) -> Mirror:
  """Brings the local folder of a run that is kept at a URL to the state of the URL.

  Raises:
    UserError: see `Mirror`; or another process works in the folder.
  """
  folder = local_folder(url)
  say(f"output_dir: {url}, through {folder} on this machine")
  mirror = Mirror(url, folder)
  own_folder(folder)
  mirror.fetch()
  return mirror


# --- config.json ---------------------------------------------------------------------------


def write_config(folder: pathlib.Path, config: Mapping[str, Any], command: Sequence[str],
                 **more: Any) -> None:
  """Creates the folder and writes config.json: everything needed to run it again.

  Args:
    folder: the run's.
    config: every knob.
    command: of this run alone, if that of this process makes others too.
    more: other entries.
  """
  folder.mkdir(parents=True, exist_ok=True)
  start = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
  given = command_line.given_command()
  content = {"config": config, "command": list(command) or given,
             **({"made_by": given} if command else {}), **more,
             **code_version(), "start": start}
  reporting.write_json(folder / "config.json", content)


def stored_config(folder: pathlib.Path, script: str) -> dict[str, Any] | None:
  """Reads the config of the script's run in a folder; None for no folder or an empty one.

  Raises:
    UserError: the folder holds something else.
  """
  if not folder.exists():
    return None
  if not folder.is_dir():
    raise UserError(f"output_dir {folder} is a file")
  if all(file.name == ".lock" for file in folder.iterdir()):
    return None
  if not (folder / "config.json").exists():
    raise UserError(f"output_dir {folder} is not empty and holds no run of this script; "
                    "choose another --output_dir")
  content = files.read_json(folder / "config.json")
  there, config = content.get("script", "run_classifier"), as_tuples(content.get("config"))
  if not isinstance(config, dict) or "do_train" not in config:
    raise UserError(f"{folder / 'config.json'} holds no config of a run; choose another "
                    "--output_dir")
  if there != script:
    raise UserError(f"output_dir {folder} holds a run of {str(there)[:40]}; choose another "
                    "--output_dir")
  return config


def as_tuples(value: Any) -> Any:
  """Turns JSON's lists back into tuples."""
  if isinstance(value, dict):
    return {key: as_tuples(item) for key, item in value.items()}
  return tuple(map(as_tuples, value)) if isinstance(value, list) else value


def check_same_run(folder: pathlib.Path, stored: Mapping[str, Any],
                   config: Mapping[str, Any], overrides: Mapping[str, Any],
                   free: Collection[str]) -> None:
  """Raises UserError where the two configs would train different weights.

  `free` are the knobs on which the weights do not depend.

  A knob that the stored config lacks is newer than the run: its default keeps what the run did,
  and another value on the command line (`overrides`) is a difference.
  """
  found = differences(stored, config, free, overrides)
  if found:
    raise UserError(f"output_dir {folder} already holds another run ({'; '.join(found)}); "
                    "choose another --output_dir")


def differences(stored: Mapping[str, Any], config: Mapping[str, Any], free: Collection[str],
                overrides: Collection[str] = ()) -> list[str]:
  """Returns "KNOB is VALUE there and VALUE here" for each that differs; see `check_same_run`."""
  there, here = (flatten_dict(knobs, sep=".") for knobs in (as_tuples(stored), config))
  return [f"{key} is {there.get(key)!r} there and {here.get(key)!r} here"
          for key in sorted(there.keys() | here.keys()) if key not in free
          and (there[key] != here.get(key) if key in there else key in overrides)]


def gone_back_to(content: Mapping[str, Any]) -> int:
  """Returns the step that a config.json's run went back to last; 0 for none."""
  history = content.get("history") or [{}]
  return history[-1].get("step", 0)


@hosts.only_first
def check_same_data(folder: pathlib.Path, digests: Mapping[str, str]) -> None:
  """Raises UserError where a run's files no longer hold what it began with.

  Args:
    folder: the run's.
    digests: of the files of each knob (train_files, ...) that this command reads.
  """
  if not (folder / "config.json").exists():
    return
  stored = files.read_json(folder / "config.json").get("data", {})
  if not isinstance(stored, dict):
    raise UserError(f"{folder / 'config.json'}: data must be an object, not {shown(stored)}")
  for knob, digest in digests.items():
    if stored.get(knob, digest) != digest:
      raise UserError(f"{knob} hold something else than when the run in {folder} began; bring "
                      "back the files as they were, or choose another --output_dir")


def code_version() -> dict[str, Any]:
  """Returns what a run's numbers may depend on beside its config: this code, and the packages."""
  return {"git_commit": _git_commit(), "versions": _versions()}


def _versions() -> dict[str, str]:
  """Returns the versions of Python and of the packages that a run's numbers may depend on."""
  return {"python": platform.python_version()} | {
      name: importlib.metadata.version(name) for name in _PACKAGES
      if importlib.util.find_spec(name)}


@functools.cache  # of the code that runs, whatever becomes of the files
def _git_commit() -> str:
  """Returns this code's commit, with "+changes" if the work tree differs; "" outside git."""

  def git(*arguments: str) -> str:
    here = pathlib.Path(__file__).parent
    done = subprocess.run(("git", *arguments), cwd=here, capture_output=True, text=True,
                          check=False)
    return done.stdout.strip() if done.returncode == 0 else ""

  try:
    return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
  except OSError:  # no git on this machine
    return ""
