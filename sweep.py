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

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import math
import pathlib
import socket
import sys
import time
from typing import Any, NamedTuple, TypeVar

from absl import flags
import ml_collections
from ml_collections import config_flags

import checkpoint_utils
from classification import scoreboard, sources, splits, sweep_page, tasks
from configs import rules, swept
import experiment
import modeling
import run_classifier
from support import command_line, devices, files, remote, reporting, run_folder, stopping
from support.command_line import run_script
from support.errors import MachineError, shown, UserError
from support.reporting import say
from support.study import Claim, name_of, Search, Setting, sqlite_url, Study
from tokenization import Tokenizer

_LONGEST_NAME = 255  # of a folder, in bytes
_WRITES = ("results.csv", "results.md", "scores.png", "report.html")
_MOST_NAMED = 20  # unfinished runs
# Knobs that can make a run fail before its first step: those of the weights and the tokenizer,
# those of the data, and those that must fit them.
_NAME_WEIGHTS = ("init_checkpoint", "tokenizer", "do_lower_case", "resize_embeddings")
_NAME_SPLITS = ("dataset_path", "train_split", "skip_bad_rows")
_NAME_DATA = (*_NAME_SPLITS, "text_columns", "text_delimiter", "label_column", "label_type",
              "label_names", "missing_label", "max_seq_length", "max_train_samples")
_SIZE_BATCHES = ("train_batch_size", "gradient_accumulation_steps")
_MUST_FIT = (*_SIZE_BATCHES, "num_train_epochs", "max_steps", "freeze_layers", "freeze_embeddings",
             "reinit_layers", "keep_best", "early_stopping_patience", "label_smoothing",
             "class_weights", "model")

_Result = TypeVar("_Result")


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
  study: str
  lost_hosts: str


@dataclasses.dataclass(frozen=True)
class Sweep:
  """The runs to make.

  Attributes:
    asked: what all runs have in common.
    folder: has the runs' folders and the results.
    storage: URL of the database.
    study: its name there, before the task's.
    lost_hosts: machines that are gone.
    tasks: names of GLUE; one "" for the user's own data.
    search: the settings and the seeds.
  """

  asked: experiment.Asked
  folder: pathlib.Path
  storage: str
  study: str
  lost_hosts: tuple[str, ...]
  tasks: tuple[str, ...]
  search: Search


def main() -> None:
  sweep = plan_sweep(parsed_sweep_flags())
  devices.prepare_devices(sweep.asked.config, "sweep")
  check_new_folder(sweep)
  if sweep.folder.exists():
    advise_to_go_on(sweep)
  check_runs(sweep)
  sweep.folder.mkdir(parents=True, exist_ok=True)
  advise_to_go_on(sweep)
  studies = {task: open_study(sweep, task) for task in sweep.tasks}
  say_sweep(sweep, studies.values())
  for task, study in studies.items():
    while claim := uninterrupted(study.claim):
      make_run(sweep, task, study, claim)
      write_scores(sweep, newest_rows(sweep, studies))  # a sweep may take days
  say_scores(sweep, write_newest_scores(sweep, studies))


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
  flags.DEFINE_string("study", "", "The sweep's name in the database of --storage, the same on all "
                      "machines; blank: the folder's.")
  flags.DEFINE_string("lost_hosts", "", "Machines that are gone for good, comma-separated: others "
                      "make their runs.")
  for name in ("tasks", "seeds", "grid", "sampler", "num_trials", "storage", "study", "lost_hosts"):
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])  # for --help
  command_line.define_value_lists("sweep", file)


def parsed_sweep_flags() -> SweepFlags:
  """Returns the flags that `define_flags` defined."""
  values = flags.FLAGS
  return SweepFlags(experiment.parsed_flags(), values.tasks, values.seeds,
                    config_flags.get_override_values(values["sweep"]), values.grid,
                    values.sampler, values.num_trials, values.storage, values.study,
                    values.lost_hosts)


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
  named = tasks.named_task(config.dataset_name, config.dataset_path)
  names = read_tasks(given.tasks) or (named.name if named else "",)
  title = "-".join(filter(None, names)) or data_folder(config)
  folder = (pathlib.Path(output_dir).expanduser() if output_dir
            else run_folder.default_folder("sweep", title))
  search = Search(swept.read_space(config, given.grid, given.lists),
                  swept.read_seeds(given.seeds, config.seed),
                  *swept.read_sampler(given.sampler, given.num_trials))
  check_no_other_value(given, search.space)
  swept.check_settings_differ(config, search.space)
  check_architectures(config, search.space)
  check_folder_names(search.space)
  if given.study and not given.storage:
    raise UserError(f"study {shown(given.study)} is a name in the database of --storage=URL; "
                    "give that too, or leave --study out")
  return Sweep(given.asked, folder, given.storage or own_database(folder),
               given.study or folder.name, tuple(filter(None, given.lost_hosts.split(","))), names,
               search)


def own_database(folder: pathlib.Path) -> str:
  """Returns the URL of a sweep's SQLite file in its folder."""
  return sqlite_url(folder.resolve() / "study.db")


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
  names = tuple(tasks.glue_task(name.strip(), "tasks", "leave --tasks out").name
                for name in text.split(",")) if text else ()
  return swept.without_repeats("tasks", text, names)


def check_architectures(config: ml_collections.ConfigDict,
                        space: Mapping[str, Sequence[Any]]) -> None:
  """Raises UserError for a value that no BERT has; what the weights allow is checked later."""
  for knob, values in space.items():
    for value in values:
      model = swept.with_values(config, {knob: value}).model
      changes = {name: given for name, given in model.items() if given is not None}
      if not {"hidden_size", "num_attention_heads"} & changes.keys():  # one must divide the other
        try:
          dataclasses.replace(modeling.BertConfig(), **changes)
        except ValueError as error:
          raise UserError(f"sweep.model: {error}") from error


def check_no_other_value(given: SweepFlags, space: Mapping[str, Any]) -> None:
  """Raises UserError for a --config.KNOB whose value no run would have."""
  replaced_by = {knob: f"--sweep.{knob}" if knob in given.lists else
                 f"--grid={given.grid} (--sweep.{knob} takes the place of its values)"
                 for knob in space}
  replaced_by |= {"seed": "--seeds"} if given.seeds else {}
  replaced_by |= {"dataset_name": "--tasks"} if given.tasks else {}
  for knob in given.asked.overrides:
    if knob in replaced_by:
      raise UserError(f"--config.{knob} has no effect beside {replaced_by[knob]}; leave it out")


def check_folder_names(space: Mapping[str, Sequence[Any]]) -> None:
  """Raises UserError for a setting whose name is too long for a folder."""
  name = ",".join(max((name_of({knob: value}) for value in values), key=len)
                  for knob, values in space.items())
  if len(name.encode()) > _LONGEST_NAME:
    raise UserError(f"the folder of a setting would be called {shown(name)}, {len(name.encode())} "
                    f"bytes long; {_LONGEST_NAME} fit: sweep fewer knobs, or shorter values")


# --- Before anything is run -------------------------------------------------------------------


def asked_of(sweep: Sweep, task: str, setting: Setting, seed: int,
             folder: pathlib.Path) -> experiment.Asked:
  """Returns a run's flags, as run_classifier.py would parse them."""
  own = {"dataset_name": task, **setting, "seed": seed}
  config = swept.with_values(sweep.asked.config, own)
  overrides = sweep.asked.overrides | own
  words = [f"--config.{knob}={value}" for knob, value in overrides.items()
           if value != "" or knob in sweep.asked.overrides]
  command = ["run_classifier.py", f"--config={sweep.asked.config_file}", *words,
             f"--output_dir={folder}"]
  return experiment.Asked(config, overrides, str(folder), sweep.asked.config_file,
                          command_line.without_passwords(command))


def check_new_folder(sweep: Sweep) -> None:
  """Raises UserError if the folder holds files that a sweep writes too, and not this sweep's."""
  folder = sweep.folder
  if folder.exists() and not folder.is_dir():
    raise UserError(f"output_dir {folder} is a file")
  titles = [title_of(sweep, task) for task in sweep.tasks]
  begun = ((folder / "study.db").exists() or sweep.storage != own_database(folder)
           or any(next((folder / title).rglob("seed-*"), None) for title in titles))
  names = ["config.json", *(() if begun else (*_WRITES, *titles))]  # a run has a config.json
  for name in names:
    if (folder / name).exists():
      raise UserError(f"output_dir {folder} holds no sweep, but a {name}; choose another "
                      "--output_dir")


def check_runs(sweep: Sweep) -> None:
  """Looks for everything that the runs need, and at every row of the data of all tasks.

  What is tokenized here, the runs find in the cache.

  Raises:
    UserError: something is missing, a row is bad, or a value of a knob does not fit the devices,
      the architecture or the data.
  """
  for setting in settings_of(sweep, _SIZE_BATCHES):
    run_classifier.check_batch_sizes(run_of(sweep, sweep.tasks[0], setting))
  cache_dir = splits.cache_folder(sweep.asked.config.cache_dir)
  # What is not there is found before the first task is read, which takes minutes.
  for task, setting in itertools.product(sweep.tasks, settings_of(sweep, _NAME_SPLITS)):
    config = run_of(sweep, task, setting).config
    path = remote.local_copies(config.dataset_path, "dataset_path", config.cache_dir)
    splits.wanted_splits(config, sources.find_source(task, path, config.skip_bad_rows, cache_dir))
  loaded = []
  for setting in settings_of(sweep, _NAME_WEIGHTS):
    run = run_of(sweep, sweep.tasks[0], setting)
    checkpoint = experiment.find_weights(run)
    loaded.append((setting, checkpoint, experiment.find_tokenizer(run, checkpoint, usual="")))
  for task in sweep.tasks:
    refuse_misfits(title_of(sweep, task), list(outcomes_of(sweep, task, loaded)))


def outcomes_of(sweep: Sweep, task: str, loaded: Sequence[tuple[
    Setting, checkpoint_utils.Checkpoint | None, Tokenizer]]) -> Iterator[tuple[Setting, str]]:
  """Yields each setting that may not fit, with the error that its runs would end in or "".

  Args:
    sweep: the sweep.
    task: its data is read.
    loaded: each setting of the weights, with its checkpoint and its tokenizer.
  """
  for (weights, checkpoint, tokenizer), rows in itertools.product(
      loaded, settings_of(sweep, _NAME_DATA)):
    config = run_of(sweep, task, weights | rows).config
    try:
      run_data = splits.read_run_data(config, checkpoint, tokenizer)
    except UserError as error:
      yield weights | rows, str(error)
      continue
    for rest in settings_of(sweep, _MUST_FIT):
      setting = weights | rows | rest
      try:
        run_classifier.check_training(run_of(sweep, task, setting).config, checkpoint, tokenizer,
                                      run_data)
      except UserError as error:
        yield setting, str(error)
      else:
        yield setting, ""


def refuse_misfits(title: str, outcomes: Sequence[tuple[Setting, str]]) -> None:
  """Warns of settings whose runs will fail, as a grid may have some.

  Raises:
    UserError: all settings with a value of a knob will fail.
  """
  for setting, error in outcomes:
    if not error:
      continue
    name = title_of_setting(title, setting)
    if not setting or any(
        all(why for other, why in outcomes if other.get(knob, value) == value)
        for knob, value in setting.items()):
      raise UserError(f"{name}: {error}")
    say(f"warning: {name} will fail: {error}")


def run_of(sweep: Sweep, task: str, setting: Setting) -> experiment.Run:
  """Returns a run with a setting, for checks that need no folder of its own."""
  return experiment.Run(sweep.folder, asked_of(sweep, task, setting, 0, sweep.folder).config,
                        finished=False)


def settings_of(sweep: Sweep, knobs: Collection[str]) -> Iterator[Setting]:
  """Yields each setting of some of the knobs once; {} where none of them is swept."""
  space = {knob: values for knob, values in sweep.search.space.items()
           if knob.partition(".")[0] in knobs}
  return dataclasses.replace(sweep.search, space=space).grid()


def title_of(sweep: Sweep, task: str) -> str:
  """Returns the name of a task's folder, and in the table."""
  return task or data_folder(sweep.asked.config)


def open_study(sweep: Sweep, task: str) -> Study:
  """Opens a task's study, or begins it.

  Raises:
    UserError: the study in the database is that of another command.
  """
  title = title_of(sweep, task)
  study = Study(sweep.storage, f"{sweep.study}/{title}", sweep.search, sweep.folder / title,
                sweep.lost_hosts)
  asked = asked_of(sweep, task, {}, 0, sweep.folder)
  here = {"config": asked.config.to_dict(), "space": {
      knob: list(values) for knob, values in sweep.search.space.items()}}
  there = study.stored("sweep")
  if there is None:
    study.store("sweep", here)
    there = here
  run_folder.check_same_run(sweep.folder, there["config"], here["config"], asked.overrides,
                            set(rules.FREE_KEYS) - set(rules.SCORING_KEYS))  # scores are compared
  if list(there["space"].items()) != list(here["space"].items()):  # the order names the folders
    held = f"over {sweep_flags(there['space'])}" if there["space"] else "of one setting"
    raise UserError(f"output_dir {sweep.folder} already holds a sweep {held}; choose another "
                    "--output_dir")
  check_folder(sweep, study)
  return study


def sweep_flags(space: Mapping[str, Sequence[Any]]) -> str:
  """Returns the flags of a sweep's settings."""
  parts = []
  for knob, values in space.items():
    texts = list(map(str, values))
    divider = ";" if any("," in text for text in texts) else ","
    parts.append(f"--sweep.{knob}={divider.join(texts)}")
  return " ".join(parts)


def check_folder(sweep: Sweep, study: Study) -> None:
  """Raises UserError where this machine has the study's runs in another folder."""
  key, folder = f"folder on {socket.gethostname()}", str(sweep.folder.resolve())
  there = study.stored(key) or folder
  if (there != folder and pathlib.Path(there).exists()
      and sweep.storage != own_database(sweep.folder)):  # which is copied with its folder
    raise UserError(f"output_dir {sweep.folder}: the study {shown(sweep.study)} in the database "
                    f"has its runs in {there}; give that, or another name: --study=NAME")
  study.store(key, folder)


def new_folder_flag(sweep: Sweep) -> str:
  """Returns the flag that the same command needs to find its folder again."""
  return "" if sweep.asked.output_dir else f" with --output_dir={sweep.folder}"


def advise_to_go_on(sweep: Sweep) -> None:
  """Sets what is said where the process is stopped between two runs."""
  stopping.advise(lambda: "finished runs are recorded; the same command goes on"
                  + new_folder_flag(sweep))


def say_sweep(sweep: Sweep, studies: Iterable[Study]) -> None:
  """Prints what is going to be run, and how much of it is done."""
  done = sum(record.state == "done" for study in studies for record in study.records())
  say(f"sweep: {number_of_runs(sweep)} in {sweep.folder}"
      + (f", {done} of them done" if done else ""))


def number_of_runs(sweep: Sweep) -> str:
  """Returns "1 task x 2 settings x 5 seeds = 10 runs"."""
  search = sweep.search
  settings = math.prod(map(len, search.space.values()))
  if search.sampler != "grid":
    settings = min(settings, search.num_settings)
  counts = {"task": len(sweep.tasks), "setting": settings, "seed": len(search.seeds)}
  factors = " x ".join(f"{count} {name}{'s' * (count > 1)}" for name, count in counts.items())
  return f"{factors} = {math.prod(counts.values())} runs"


# --- The runs ---------------------------------------------------------------------------------


def make_run(sweep: Sweep, task: str, study: Study, claim: Claim) -> None:
  """Makes a run and records its score, or the line with which it failed."""
  name = title_of_run(title_of(sweep, task), claim.setting, claim.seed)
  asked = asked_of(sweep, task, claim.setting, claim.seed, claim.folder)
  began = time.perf_counter()
  try:
    with reporting.said_to(claim.folder.with_suffix(".log"), name):
      done = run_classifier.run_command(asked)
  except BaseException as error:
    line = failure_of(error)
    if not line:  # a signal, a full disk, or an error of this program: the run is to be continued
      saved = stopping.advice()
      flag = new_folder_flag(sweep)
      stopping.advise(lambda: f"{name}: {saved}" + (flag if flag not in saved else ""))
      give_back(study, claim)
      raise
    advise_to_go_on(sweep)  # the run has left its own advice
    say(f"{name}: failed: {line}")
    uninterrupted(study.fail, claim, line)
    return
  advise_to_go_on(sweep)
  summary = claim.folder / "summary.json"
  results = scoreboard.run_results(
      done.task, done.scores, files.read_json(summary) if summary.exists() else {})
  say(f"{name}: " + ", ".join(
      f"{metric.removeprefix('eval_')} {done.scores[metric]:.4f}" for metric in results["metrics"])
      + (", collapsed" if done.scores["eval_collapsed"] else "")
      + f", {time.perf_counter() - began:.0f} s here, trained for {results['train_seconds']:.0f} s"
      + f" from step {results['first_step']} on" * bool(results["first_step"]))
  uninterrupted(study.finish, claim, scoreboard.score_of(results), results)


def uninterrupted(call: Callable[..., _Result], *args: Any) -> _Result:
  """Calls a function during which a first signal waits: a trial is then recorded as a whole."""
  with stopping.noted():
    return call(*args)


def title_of_run(title: str, setting: Setting, seed: int) -> str:
  """Returns a run's name for the user: mrpc learning_rate=3e-05 seed 0."""
  return f"{title_of_setting(title, setting)} seed {seed}"


def title_of_setting(title: str, setting: Setting) -> str:
  """Returns the name of a task's setting for the user: mrpc learning_rate=3e-05."""
  return " ".join(filter(None, (title, name_of(setting))))


def give_back(study: Study, claim: Claim) -> None:
  """Leaves a run to any process; what keeps the database from learning so is a line beside."""
  try:
    study.give_back(claim)
  except UserError as error:
    say(f"warning: {error}")


def failure_of(error: BaseException) -> str:
  """Returns the line of an error that may be this run's alone; "" for any other."""
  if isinstance(error, MachineError):
    return ""
  if isinstance(error, UserError):
    return str(error)
  return command_line.memory_line(error) if isinstance(error, RuntimeError) else ""


# --- The end ----------------------------------------------------------------------------------


def write_newest_scores(sweep: Sweep, studies: Mapping[str, Study]) -> list[scoreboard.Row]:
  """Writes the scores as the studies stand, and again if another process ended a run meanwhile.

  Of several processes that end together, the one that writes last has then seen every run.
  """
  written: list[str] | None = None
  while True:
    rows = newest_rows(sweep, studies)
    states = [record.state for row in rows for record in row.records]
    if states == written:
      return rows
    write_scores(sweep, rows)
    written = states


def newest_rows(sweep: Sweep, studies: Mapping[str, Study]) -> list[scoreboard.Row]:
  """Returns the scores of all tasks as the studies stand."""
  return [row for task, study in studies.items()
          for row in scoreboard.rows_of(title_of(sweep, task), study.records(), bool(task))]


def write_scores(sweep: Sweep, rows: Sequence[scoreboard.Row]) -> None:
  """Writes results.csv, results.md, scores.png and report.html."""
  folder, rate, limits = sweep.folder, sweep.asked.config.learning_rate, limits_of(sweep)
  scoreboard.write_csv(folder / "results.csv", rows)
  scoreboard.write_markdown(folder / "results.md", rows, limits)
  sweep_page.draw_scores(folder / "scores.png", rows, rate)
  sweep_page.write_sweep_report(
      folder / "report.html", rows, learning_rate=rate, runs=number_of_runs(sweep), limits=limits,
      command=command_line.given_command())


def limits_of(sweep: Sweep) -> str:
  """Returns what limits all runs to a first try: max_steps=4; "" where nothing does.

  What is swept stands in the table.
  """
  config, space = sweep.asked.config, sweep.search.space
  return ", ".join(f"{knob}={config[knob]}" for knob in rules.LIMITING_KEYS
                   if config[knob] and knob not in space)


def say_scores(sweep: Sweep, rows: Sequence[scoreboard.Row]) -> None:
  """Prints the table, and the runs that it lacks with the processes that have them.

  Raises:
    UserError: every run has failed.
  """
  say((sweep.folder / "results.md").read_text("utf-8").rstrip())
  left = [(row.task, record) for row in rows for record in row.records
          if record.state in ("under way", "waiting")]
  if left:
    names = [title_of_run(task, record.setting, record.seed)
             + (f" ({record.owner})" if record.state == "under way" else "")
             for task, record in left]
    more = f"; and {len(left) - _MOST_NAMED} more" * (len(left) > _MOST_NAMED)
    say(f"not finished: {'; '.join(names[:_MOST_NAMED])}{more}")
    say("  the same command completes the table; what a dead process of another machine had under "
        "way, it takes up there, or here with --lost_hosts=HOST")
  states = [record.state for row in rows for record in row.records]
  if set(states) == {"failed"}:
    raise UserError(f"every run has failed ({len(states)} of {len(states)}); "
                    f"{sweep.folder / 'results.md'} has their lines")
  say(f"report: {sweep.folder / 'report.html'}")
  say(f"done: {sweep.folder}")


if __name__ == "__main__":
  define_flags()
  run_script(main)
