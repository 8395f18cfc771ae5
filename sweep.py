r"""Fine-tunes many times: tasks x settings x seeds, and a table of the scores at the end.

    python3 sweep.py --config=configs/classifier.py --config.init_checkpoint=DIR \
        --config.dataset_path=glue_data --tasks=cola,mrpc --seeds=0..4 \
        --sweep.learning_rate=2e-5,3e-5 --output_dir=OUT

--config.NAME=VALUE holds for all runs, --sweep.NAME=A,B for one setting each. Every run is an
ordinary run of run_classifier.py in OUT/TASK/SETTING/seed-N. The same command goes on after an
interruption, and several processes of it share the work.
"""

if __name__ == "__main__":
  from support import stopping

  stopping.catch_signals()  # first: the imports below take seconds

from collections.abc import Iterator, Sequence
import dataclasses
import pathlib
import re
import shlex
import sys
import time
from typing import Any, NamedTuple

from absl import flags
import ml_collections
from ml_collections import config_flags

from classification import scoreboard, sources, splits, tasks
from configs import rules
import experiment
import modeling
import run_classifier
from support import command_line, devices, files, remote, reporting, stopping
from support.command_line import run_script
from support.errors import shown, UserError
from support.reporting import say
from support.study import Claim, name_of, Record, Search, Setting, Study

SAMPLERS = ("grid", "random", "tpe")
# Appendix A.3 of Devlin et al., 2019 (https://arxiv.org/abs/1810.04805).
GRIDS = {"paper": {"learning_rate": (5e-5, 3e-5, 2e-5), "train_batch_size": (16, 32),
                   "num_train_epochs": (2.0, 3.0, 4.0)}}
_MOST_SEEDS = 10_000
_HAVE_A_FLAG = {"seed": "--seeds=0..4", "dataset_name": "--tasks=cola,mrpc"}


class SweepFlags(NamedTuple):
  """The parsed flags, as they were given."""

  asked: experiment.Asked
  tasks: str
  seeds: str
  lists: dict[str, str]  # knob -> its values
  grid: str
  sampler: str
  num_trials: int
  storage: str


@dataclasses.dataclass(frozen=True)
class Sweep:
  """The runs to make.

  Attributes:
    asked: what all runs have in common.
    folder: has the runs' folders and the results.
    storage: URL of the database.
    tasks: names of GLUE; one "" for the user's own data.
    search: the settings and the seeds.
  """

  asked: experiment.Asked
  folder: pathlib.Path
  storage: str
  tasks: tuple[str, ...]
  search: Search


def main() -> None:
  sweep = plan_sweep(parsed_sweep_flags())
  devices.prepare_devices(sweep.asked.config, "sweep")
  check_runs(sweep)
  sweep.folder.mkdir(parents=True, exist_ok=True)
  stopping.advise(lambda: "finished runs are recorded; the same command goes on"
                  + new_folder_flag(sweep))
  studies = {task: open_study(sweep, task) for task in sweep.tasks}
  say_sweep(sweep)
  for task, study in studies.items():
    while claim := study.claim():
      make_run(sweep, task, study, claim)
  write_scores(sweep, [row for task, study in studies.items() for row in scoreboard.rows_of(
      title_of(sweep, task), study.records())])


# --- Flags ------------------------------------------------------------------------------------


def define_flags() -> None:
  """Defines the flags: run_classifier.py's and the sweep's own."""
  file = experiment.define_flags("configs/classifier.py")
  flags.DEFINE_string("tasks", "", "GLUE tasks, comma-separated, or glue for all eight; blank: "
                      "config.dataset_name, or your own data.")
  flags.DEFINE_string("seeds", "", "Seeds of each setting: 0..4 or 0,1,2; blank: config.seed.")
  flags.DEFINE_string("grid", "", "A grid by name: paper (BERT's appendix A.3: 3 learning rates x "
                      "2 batch sizes x 3 numbers of epochs).")
  flags.DEFINE_string("sampler", "grid", "grid: all settings; random or tpe: --num_trials of them.")
  flags.DEFINE_integer("num_trials", 0, "Settings that random and tpe draw.")
  flags.DEFINE_string("storage", "", "URL of the database; blank: study.db in the folder.")
  for name in ("tasks", "seeds", "grid", "sampler", "num_trials", "storage"):
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])  # for --help
  command_line.define_value_lists("sweep", file)


def parsed_sweep_flags() -> SweepFlags:
  """Returns the flags that `define_flags` defined."""
  values = flags.FLAGS
  return SweepFlags(experiment.parsed_flags(), values.tasks, values.seeds,
                    config_flags.get_override_values(values["sweep"]), values.grid,
                    values.sampler, values.num_trials, values.storage)


def plan_sweep(given: SweepFlags) -> Sweep:
  """Reads the flags.

  Raises:
    UserError: one of them cannot be read, or does not go with another.
  """
  config, output_dir = given.asked.config, given.asked.output_dir
  if remote.is_url(output_dir):
    raise UserError(f"output_dir {output_dir}: a sweep's is a folder; a single run's may be a URL")
  if config.distributed:
    raise UserError("a sweep runs on one host; start the same command on each, with --storage=URL "
                    "of one database, and without --config.distributed")
  if config.push_to_hub:
    raise UserError("push_to_hub: each run of a sweep would replace the one before it; upload the "
                    "one that you choose, with run_classifier.py --output_dir=ITS_FOLDER")
  if not (config.do_train and config.do_eval):
    raise UserError("a sweep trains and evaluates; leave do_train and do_eval True")
  rules.check_values(config)
  names = read_tasks(given.tasks) or (config.dataset_name,)
  title = "-".join(filter(None, names)) or data_folder(config)
  folder = (pathlib.Path(output_dir).expanduser() if output_dir
            else experiment.default_folder("sweep", title))
  search = Search(read_space(config, given.grid, given.lists),
                  read_seeds(given.seeds, config.seed),
                  *read_sampler(given.sampler, given.num_trials))
  storage = given.storage or f"sqlite:///{folder.resolve() / 'study.db'}"
  return Sweep(given.asked, folder, storage, names, search)


def data_folder(config: ml_collections.ConfigDict) -> str:
  """Returns a folder's name for the user's own data."""
  return pathlib.Path(config.dataset_path).resolve().stem or "own"


def read_tasks(text: str) -> tuple[str, ...]:
  """Reads --tasks; () for a blank one.

  Raises:
    UserError: no such task, or one that stands twice.
  """
  if text == "glue":
    return tuple(tasks.GLUE_TASKS)
  names = tuple(tasks.glue_task(name.strip()).name for name in text.split(",")) if text else ()
  return _without_repeats("tasks", text, names)


def read_seeds(text: str, default: int) -> tuple[int, ...]:
  """Reads --seeds: numbers and ranges such as 0..4, both ends included.

  Raises:
    UserError: it cannot be read, has a seed twice, or more than 10,000.
  """
  seeds: list[int] = []
  for part in text.split(",") if text else [str(default)]:
    numbers = re.fullmatch(r"\s*(\d{1,10})\s*(?:\.\.\s*(\d{1,10})\s*)?", part)
    first, last = (int(numbers[1]), int(numbers[2] or numbers[1])) if numbers else (1, 0)
    if first > last or last >= 1 << 32 or last - first >= _MOST_SEEDS:
      raise UserError(f"seeds must be such as 0..4 or 0,1,2, not {shown(text)}")
    seeds += range(first, last + 1)
  return _without_repeats("seeds", text, tuple(seeds))


def read_sampler(sampler: str, num_trials: int) -> tuple[str, int]:
  """Checks --sampler and --num_trials, which belong together.

  Raises:
    UserError: they do not.
  """
  if sampler not in SAMPLERS:
    raise UserError(f"sampler {shown(sampler)} is not one of {', '.join(SAMPLERS)}")
  if (sampler == "grid") != (num_trials == 0) or num_trials < 0:
    raise UserError(f"num_trials {num_trials}: --sampler=grid runs all settings (leave it out), "
                    "random and tpe draw --num_trials=N of them")
  return sampler, num_trials


def read_space(config: ml_collections.ConfigDict, grid: str,
               lists: dict[str, str]) -> dict[str, tuple[Any, ...]]:
  """Returns the values of each swept knob; a list of one's own comes before the grid's.

  Raises:
    UserError: no such grid, or a value that the knob cannot have.
  """
  if grid and grid not in GRIDS:
    raise UserError(f"grid {shown(grid)} is not one of {', '.join(GRIDS)}")
  own = {knob: read_values(config, knob, text) for knob, text in lists.items()}
  return {**(GRIDS[grid] if grid else {}), **own}


def read_values(config: ml_collections.ConfigDict, knob: str, text: str) -> tuple[Any, ...]:
  """Reads the values of --sweep.KNOB by the knob's type, and checks them by its rule.

  Raises:
    UserError: a value that is none for the knob, or a knob that is not to be swept.
  """
  flag = f"sweep.{knob}"
  if knob in _HAVE_A_FLAG:
    raise UserError(f"{flag} is no flag: give {_HAVE_A_FLAG[knob]}")
  if knob in rules.FREE_KEYS:
    raise UserError(f"{flag}: the trained weights do not depend on {knob}; set it for all runs "
                    f"with --config.{knob}")
  at, name = _place_of(config, knob)
  kind = at.get_type(name)
  values = []
  for part in map(str.strip, text.split(",")):
    try:
      values.append({"True": True, "False": False}[part] if kind is bool else kind(part))
    except (KeyError, TypeError, ValueError):
      raise UserError(f"{flag} must be values such as {_example(kind)}, not "
                      f"{shown(text)}") from None
    trial = config.copy_and_resolve_references()
    trial.update_from_flattened_dict({knob: values[-1]})
    rules.check_values(trial)
    _check_architecture(trial)
  return _without_repeats(flag, text, tuple(values))


def _example(kind: type) -> str:
  return {bool: "True,False", int: "16,32", float: "2e-5,3e-5"}.get(kind, "a,b")


def _place_of(config: ml_collections.ConfigDict, knob: str
              ) -> tuple[ml_collections.ConfigDict, str]:
  """Returns the node of a dotted knob's name, and the last part of the name."""
  *above, name = knob.split(".")
  for part in above:
    config = config[part]
  return config, name


def _check_architecture(config: ml_collections.ConfigDict) -> None:
  """Raises UserError for a value that no BERT has; what the weights allow is checked later."""
  changes = {name: value for name, value in config.model.items() if value is not None}
  if not {"hidden_size", "num_attention_heads"} & changes.keys():  # one must divide the other
    try:
      dataclasses.replace(modeling.BertConfig(), **changes)
    except ValueError as error:
      raise UserError(f"sweep.model: {error}") from error


def _without_repeats(flag: str, text: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
  if len(set(values)) < len(values):
    raise UserError(f"{flag} {shown(text)} has a value twice")
  return values


# --- Before anything is run -------------------------------------------------------------------


def asked_of(sweep: Sweep, task: str, setting: Setting, seed: int,
             folder: pathlib.Path) -> experiment.Asked:
  """Returns a run's flags, as run_classifier.py would parse them."""
  own = {"dataset_name": task, **setting, "seed": seed}
  config = sweep.asked.config.copy_and_resolve_references()
  config.update_from_flattened_dict(own)
  return experiment.Asked(config, sweep.asked.overrides | own, str(folder))


def check_runs(sweep: Sweep) -> None:
  """Looks for everything that the runs need: weights, tokenizer, the data of all tasks.

  Raises:
    UserError: something is missing, or a setting cannot be run on these devices.
  """
  config = sweep.asked.config
  run = experiment.Run(sweep.folder, config, finished=False)
  experiment.find_tokenizer(run, experiment.find_weights(run), usual="")
  cache_dir = splits.cache_folder(config.cache_dir)
  for task in sweep.tasks:
    asked = asked_of(sweep, task, {}, 0, sweep.folder).config
    path = remote.local_copies(config.dataset_path, "dataset_path", config.cache_dir)
    splits.wanted_splits(asked, sources.find_source(task, path, config.skip_bad_rows, cache_dir))
  for setting in sweep.search.grid():
    asked = asked_of(sweep, sweep.tasks[0], setting, 0, sweep.folder).config
    run_classifier.check_batch_sizes(experiment.Run(sweep.folder, asked, finished=False))


def title_of(sweep: Sweep, task: str) -> str:
  """Returns the name of a task's folder, and in the table."""
  return task or data_folder(sweep.asked.config)


def open_study(sweep: Sweep, task: str) -> Study:
  """Opens a task's study, or begins it.

  Raises:
    UserError: the study in the database is that of another command.
  """
  title = title_of(sweep, task)
  study = Study(sweep.storage, f"{sweep.folder.name}/{title}", sweep.search, sweep.folder / title)
  asked = asked_of(sweep, task, {}, 0, sweep.folder)
  here = {"config": asked.config.to_dict(), "space": {
      knob: list(values) for knob, values in sweep.search.space.items()}}
  there = study.stored("sweep")
  if there is None:
    study.store("sweep", here)
    return study
  experiment.check_same_run(sweep.folder, there["config"], here["config"], asked.overrides)
  if there["space"] != here["space"]:
    raise UserError(f"output_dir {sweep.folder} already holds a sweep over "
                    f"{shown(there['space'])}; choose another --output_dir")
  return study


def new_folder_flag(sweep: Sweep) -> str:
  """Returns the flag that the same command needs to find its folder again."""
  return "" if sweep.asked.output_dir else f" with --output_dir={sweep.folder}"


def say_sweep(sweep: Sweep) -> None:
  """Prints what is going to be run."""
  search, seeds = sweep.search, len(sweep.search.seeds)
  settings = search.num_settings or sum(1 for _ in search.grid())
  total = len(sweep.tasks) * settings * seeds
  say(f"sweep: {len(sweep.tasks)} task{'s' * (len(sweep.tasks) > 1)} x {settings} "
      f"setting{'s' * (settings > 1)} x {seeds} seed{'s' * (seeds > 1)} = {total} runs in "
      f"{sweep.folder}")


# --- The runs ---------------------------------------------------------------------------------


def make_run(sweep: Sweep, task: str, study: Study, claim: Claim) -> None:
  """Makes a run and records its score, or the line with which it failed."""
  name = " ".join(filter(None, (title_of(sweep, task), name_of(claim.setting),
                                f"seed {claim.seed}")))
  asked = asked_of(sweep, task, claim.setting, claim.seed, claim.folder)
  began = time.perf_counter()
  try:
    with reporting.said_to(claim.folder.with_suffix(".log")):
      done = run_classifier.run_command(asked)
  except BaseException as error:
    line = failure_of(error)
    if not line:  # a signal, or an error of this program: the run is to be continued
      study.give_back(claim)
      saved = stopping.advice()
      stopping.advise(lambda: saved + new_folder_flag(sweep))
      raise
    study.fail(claim, line)
    say(f"{name}: failed: {line}")
    return
  summary = claim.folder / "summary.json"
  trained = files.read_json(summary).get("train_seconds", 0.0) if summary.exists() else 0.0
  results = scoreboard.run_results(done.task, done.scores, trained)
  study.finish(claim, scoreboard.score_of(results), results)
  say(f"{name}: " + ", ".join(
      f"{metric.removeprefix('eval_')} {done.scores[metric]:.4f}" for metric in results["metrics"])
      + (", collapsed" if done.scores["eval_collapsed"] else "")
      + f", {time.perf_counter() - began:.0f} s, {trained:.0f} s of them training")


def failure_of(error: BaseException) -> str:
  """Returns the line of an error that may be this run's alone; "" for any other."""
  if isinstance(error, UserError):
    return str(error)
  return command_line.memory_line(error) if isinstance(error, RuntimeError) else ""


# --- The end ----------------------------------------------------------------------------------


def write_scores(sweep: Sweep, rows: Sequence[scoreboard.Row]) -> None:
  """Prints the table, and writes results.csv, results.md, scores.png and report.html."""
  folder, rate = sweep.folder, sweep.asked.config.learning_rate
  scoreboard.write_csv(folder / "results.csv", rows)
  scoreboard.write_markdown(folder / "results.md", rows)
  scoreboard.draw_scores(folder / "scores.png", rows, rate)
  scoreboard.write_report(folder / "report.html", rows, rate,
                          shlex.join(command_line.given_command()))
  say((folder / "results.md").read_text("utf-8").rstrip())
  left = [record for record in _records(rows) if record.state in ("under way", "waiting")]
  if left:
    say(f"{len(left)} runs are not finished: another process works on them; the same command "
        "completes the table")
  say(f"done: {folder}")


def _records(rows: Sequence[scoreboard.Row]) -> Iterator[Record]:
  for row in rows:
    yield from row.records


if __name__ == "__main__":
  define_flags()
  run_script(main)
