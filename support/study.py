"""A study of many runs on Optuna: which run is next, and what became of each; knows no BERT.

Several processes may work on one study: a database hands every trial to one of them. A trial is
a run: a setting of knobs, and a seed. What Optuna cannot know, whether the process that took a
trial still lives, the lock of the run's folder says, which the kernel lets go of.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
import contextlib
import dataclasses
import datetime
import functools
import itertools
import math
import pathlib
import time
from typing import Any, NamedTuple, TypeVar
import urllib.parse

import optuna
from optuna.trial import FrozenTrial, TrialState
import sqlalchemy

from support import files
from support.errors import first_line, shown, UserError
from support.reporting import say

_MOST_REPEATS = 10  # draws in a row of settings that were drawn before
_BEGIN_SECONDS = 60  # after which a trial that no process has signed is given up
_DELETED = ("Record does not exist.",)  # of Optuna's KeyError, as after a click in its dashboard
_DATABASE_ERRORS = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)

Setting = Mapping[str, Any]  # knob -> value


@dataclasses.dataclass(frozen=True)
class Search:
  """The runs of a study.

  Attributes:
    space: knob -> its values.
    seeds: of each setting's runs.
    sampler: "grid" takes all settings; "random" and "tpe" draw some.
    num_settings: that are drawn.
  """

  space: Mapping[str, tuple[Any, ...]]
  seeds: tuple[int, ...]
  sampler: str
  num_settings: int

  def grid(self) -> Iterator[Setting]:
    """Yields every setting, the last knob's value changing fastest."""
    for values in itertools.product(*self.space.values()):
      yield dict(zip(self.space, values, strict=True))


class Claim(NamedTuple):
  """A run that is this process's to make."""

  trial: optuna.Trial
  setting: Setting
  seed: int
  folder: pathlib.Path


class Record(NamedTuple):
  """A run and what became of it.

  Attributes:
    setting: its knobs' values.
    seed: its seed.
    state: "done", "failed", "under way" or "waiting".
    score: of a run that is done.
    results: what `Study.finish` was given.
    error: the line of a run that failed.
    owner: the process that took the run last: see `files.this_process`.
  """

  setting: Setting
  seed: int
  state: str
  score: float | None = None
  results: Mapping[str, Any] = {}
  error: str = ""
  owner: str = ""


def name_of(setting: Setting) -> str:
  """Returns a setting's name, also of its folder: learning_rate=2e-05,train_batch_size=16."""
  return ",".join(f"{knob}={urllib.parse.quote(str(value), safe='')}"
                  for knob, value in setting.items())


def run_folder(folder: pathlib.Path, setting: Setting, seed: int) -> pathlib.Path:
  """Returns the folder of a run in its study's folder."""
  return folder / name_of(setting) / f"seed-{seed}"


_Method = TypeVar("_Method", bound=Callable[..., Any])


def _using_database(method: _Method) -> _Method:
  """Makes a method of `Study` raise a UserError where the database does not answer."""

  @functools.wraps(method)
  def with_one_line(study: "Study", *args: Any) -> Any:
    try:
      return method(study, *args)
    except _DATABASE_ERRORS as error:
      raise UserError(f"storage {_without_password(study.url)}: {_cause(error)}; finished runs lie "
                      "in their folders, and the same command goes on once it answers") from error
    except KeyError as error:
      if error.args != _DELETED:
        raise
      raise UserError(f"storage {_without_password(study.url)}: the study has been deleted from "
                      "it; finished runs lie in their folders, and the same command records their "
                      "scores in a new study") from error

  return with_one_line


class Study:
  """The runs of a `Search`, in a database that several processes may share.

  Every method raises a UserError where the database does not answer.
  """

  def __init__(self, url: str, name: str, search: Search, folder: pathlib.Path,
               lost_hosts: Collection[str] = ()):
    """Opens the study of this name, or begins it.

    Args:
      url: of the database, as SQLAlchemy has it.
      name: unique in the database.
      search: its space must be the one that the study began with; seeds and settings may grow.
      folder: has the runs' folders.
      lost_hosts: machines that are gone for good; what they had under way is given up.

    Raises:
      UserError: the database cannot be opened.
    """
    self.url = url
    self._search, self._folder, self._lost_hosts = search, folder, lost_hosts
    self._study = _opened(url, name)
    before = self._trials()
    self._study.sampler = _sampler(search.sampler, len(before))
    # A run that failed is tried again by each command, once.
    self._failed_before = {trial.number for trial in before if trial.state is TrialState.FAIL}
    self._repeats = 0

  # --- What belongs to the study ---

  @_using_database
  def stored(self, key: str) -> Any:
    """Returns a value that `store` has left with the study; None for none."""
    return self._study.user_attrs.get(key)

  @_using_database
  def store(self, key: str, value: Any) -> None:
    """Leaves a JSON value with the study."""
    self._study.set_user_attr(key, value)

  # --- One run after another ---

  @_using_database
  def claim(self) -> Claim | None:
    """Takes a run that nobody has made or is making; None if there is none left."""
    while True:
      self._give_up_abandoned()
      trials = self._trials()
      run = next(self._missing(trials), None) or self._undrawn(trials)
      if run:
        self._study.enqueue_trial(dict(run[0]), {"setting": run[0], "seed": run[1]})
      elif not (self._draws(trials)
                or any(trial.state is TrialState.WAITING for trial in trials)):
        return None
      claim = None
      # Until it is signed, another process may take this one for dead, and end the trial.
      with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        claim = self._claimed(self._study.ask())
      if claim:
        self._repeats = 0
        return claim

  @_using_database
  def finish(self, claim: Claim, score: float, results: Mapping[str, Any]) -> None:
    """Records the score of a claimed run, and JSON values beside it."""
    if not self._end(claim, "results", dict(results), score):
      say(f"warning: another process took this one for dead and ended the trial of {claim.folder}; "
          "the score is recorded all the same")
      self._study.add_trial(optuna.trial.create_trial(
          value=score, params=claim.trial.params, distributions=claim.trial.distributions,
          user_attrs={"setting": dict(claim.setting), "seed": claim.seed,
                      "results": dict(results)}))

  @_using_database
  def fail(self, claim: Claim, error: str) -> None:
    """Records why a claimed run failed; the next command tries it again."""
    self._end(claim, "error", error)

  @_using_database
  def give_back(self, claim: Claim) -> None:
    """Leaves a claimed run, which is not finished, to any process."""
    self._tell(claim.trial.number)
    files.disown(claim.folder)

  @_using_database
  def records(self) -> list[Record]:
    """Returns every run, setting by setting, as the study stands."""
    trials = self._trials()
    runs: dict[tuple[str, int], list[FrozenTrial]] = {}
    for trial in filter(_is_run, trials):
      runs.setdefault(_identity(trial), []).append(trial)
    return [_record(runs.get((name_of(setting), seed), ()), setting, seed)
            for setting in self._settings(trials) for seed in self._search.seeds]

  # --- Trials ---

  def _trials(self) -> list[FrozenTrial]:
    return self._study.get_trials(deepcopy=False)

  def _settings(self, trials: Iterable[FrozenTrial]) -> list[Setting]:
    """Returns the settings to run: all of the grid, or those drawn first."""
    if self._search.sampler == "grid":
      return list(self._search.grid())
    drawn = {name_of(trial.user_attrs["setting"]): trial.user_attrs["setting"]
             for trial in trials if _is_run(trial)}
    return list(drawn.values())[:self._search.num_settings]

  def _missing(self, trials: list[FrozenTrial]) -> Iterator[tuple[Setting, int]]:
    """Yields the runs that nobody has made or is to make."""
    covered = {_identity(trial) for trial in trials if _is_run(trial) and (
        trial.state is not TrialState.FAIL
        or ("error" in trial.user_attrs and trial.number not in self._failed_before))}
    for setting in self._settings(trials):
      for seed in self._search.seeds:
        if (name_of(setting), seed) not in covered:
          yield setting, seed

  def _draws(self, trials: list[FrozenTrial]) -> bool:
    """Returns whether another setting is to be drawn."""
    there_are = math.prod(map(len, self._search.space.values()))
    return (self._search.sampler != "grid"
            and len(self._settings(trials)) < min(self._search.num_settings, there_are))

  def _undrawn(self, trials: list[FrozenTrial]) -> tuple[Setting, int] | None:
    """Returns the first setting that is not drawn yet, where the sampler finds none."""
    if not (self._draws(trials) and self._repeats >= _MOST_REPEATS):
      return None
    drawn = set(map(name_of, self._settings(trials)))
    return next(setting for setting in self._search.grid() if name_of(setting) not in drawn
                ), self._search.seeds[0]

  def _claimed(self, trial: optuna.Trial) -> Claim | None:
    """Makes a trial's run this process's; None if another has it."""
    trial.set_user_attr("owner", files.this_process())
    drawn = "seed" not in trial.user_attrs
    if drawn and self._search.sampler == "grid":  # another process took the last that waited
      return self._discard(trial)
    setting = {knob: trial.suggest_categorical(knob, values)
               for knob, values in self._search.space.items()}
    seed = self._search.seeds[0] if drawn else trial.user_attrs["seed"]
    if drawn:
      trial.set_user_attr("setting", setting)
      trial.set_user_attr("seed", seed)
    earlier = [other for other in self._trials() if other.number < trial.number]
    if self._is_repeated(setting, seed, earlier) or (drawn and self._is_surplus(earlier)):
      self._repeats += drawn
      return self._discard(trial)
    claim = Claim(trial, setting, seed, run_folder(self._folder, setting, seed))
    return claim if self._own(claim) else None

  def _is_repeated(self, setting: Setting, seed: int, earlier: Iterable[FrozenTrial]) -> bool:
    """Returns whether a trial of a lower number is the same run: then that one counts."""
    return any(_identity(other) == (name_of(setting), seed) for other in earlier
               if _is_run(other) and other.state is not TrialState.FAIL)

  def _is_surplus(self, earlier: list[FrozenTrial]) -> bool:
    """Returns whether enough settings are drawn, those that are just being drawn included."""
    drawing = sum(other.state is TrialState.RUNNING and "seed" not in other.user_attrs
                  for other in earlier)
    return len(self._settings(earlier)) + drawing >= self._search.num_settings

  def _own(self, claim: Claim) -> bool:
    """Locks a run's folder; False if the trial went to another process, or has failed."""
    claim.folder.mkdir(parents=True, exist_ok=True)
    try:
      _own_soon(claim.folder)
    except UserError as error:
      self.fail(claim, str(error))
      return False
    if self._trials()[claim.trial.number].state is TrialState.RUNNING:
      return True
    files.disown(claim.folder)  # another process took this one for dead, before the lock
    return False

  def _discard(self, trial: optuna.Trial) -> None:
    trial.set_user_attr("discarded", True)
    self._tell(trial.number)

  def _give_up_abandoned(self) -> None:
    """Fails the trials whose process is gone, so that their runs are taken up again."""
    for trial in self._trials():
      if trial.state is TrialState.RUNNING and self._is_abandoned(trial):
        self._tell(trial.number)

  def _is_abandoned(self, trial: FrozenTrial) -> bool:
    """Returns whether a trial's process is gone, as far as this machine can know."""
    attributes = trial.user_attrs
    owner = attributes.get("owner")
    if not owner:  # the process takes the trial at this moment, or was killed as it did
      return datetime.datetime.now() - trial.datetime_start > (
          datetime.timedelta(seconds=_BEGIN_SECONDS))
    folder = (run_folder(self._folder, attributes["setting"], attributes["seed"])
              if _is_run(trial) else self._folder)
    lives = files.lives(owner, folder)
    return files.host_of(owner) in self._lost_hosts if lives is None else not lives

  def _end(self, claim: Claim, key: str, value: Any, score: float | None = None) -> bool:
    """Ends a claimed trial; False if another process has ended it."""
    ended = False
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
      claim.trial.set_user_attr(key, value)
      ended = self._tell(claim.trial.number, score)
    files.disown(claim.folder)
    return ended

  def _tell(self, number: int, score: float | None = None) -> bool:
    """Ends a trial, with a score or as one that failed; False if another process has ended it."""
    state = TrialState.FAIL if score is None else TrialState.COMPLETE
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
      return self._study.tell(number, score, state, skip_if_finished=True).state is state
    return False


def _record(trials: Iterable[FrozenTrial], setting: Setting, seed: int) -> Record:
  """Returns a run as its trials say: done, if one of them is."""
  states = {TrialState.COMPLETE: "done", TrialState.RUNNING: "under way",
            TrialState.WAITING: "waiting", TrialState.FAIL: "failed"}
  found = {}
  for trial in trials:
    state = "waiting" if trial.state is TrialState.FAIL and (
        "error" not in trial.user_attrs) else states[trial.state]
    found[state] = trial
  for state in states.values():
    if state in found:
      attributes = found[state].user_attrs
      return Record(setting, seed, state, found[state].value, attributes.get("results", {}),
                    attributes.get("error", ""), attributes.get("owner", ""))
  return Record(setting, seed, "waiting")


def _is_run(trial: FrozenTrial) -> bool:
  """Returns whether a trial stands for a run, and not for a draw that was of no use."""
  return "seed" in trial.user_attrs and "discarded" not in trial.user_attrs


def _identity(trial: FrozenTrial) -> tuple[str, int]:
  return name_of(trial.user_attrs["setting"]), trial.user_attrs["seed"]


def _own_soon(folder: pathlib.Path) -> None:
  """Owns a folder, that another process may look at for a moment.

  Raises:
    UserError: it has another owner.
  """
  for attempt in itertools.count():
    try:
      files.own(folder)
      return
    except UserError:
      if attempt == 20:
        raise
      time.sleep(0.05)


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
  if name == "tpe":
    return optuna.samplers.TPESampler(seed=seed)
  return optuna.samplers.RandomSampler(seed=seed)


def sqlite_url(file: pathlib.Path) -> str:
  """Returns the URL of a SQLite database, whatever characters its path has."""
  return sqlalchemy.URL.create("sqlite", database=str(file)).render_as_string()


def _opened(url: str, name: str) -> optuna.Study:
  """Opens a study, or begins it; several processes may do so at once.

  Raises:
    UserError: no such database, or no driver for it.
  """
  optuna.logging.set_verbosity(optuna.logging.WARNING)
  for attempt in itertools.count():
    try:
      address = sqlalchemy.make_url(url)
      waits = {"timeout": 60} if address.get_backend_name() == "sqlite" else {}
      # A run takes minutes or hours: no connection is kept that long.
      # As SQLAlchemy writes it, quoted: Optuna takes braces for a template's.
      storage = optuna.storages.RDBStorage(
          address.render_as_string(hide_password=False), engine_kwargs={
              "poolclass": sqlalchemy.pool.NullPool, "connect_args": waits})
      return optuna.create_study(storage=storage, study_name=name, direction="maximize",
                                 load_if_exists=True)
    except (*_DATABASE_ERRORS, optuna.exceptions.OptunaError, ImportError, RuntimeError,
            ValueError) as error:
      # Two processes that make the tables at once: one finds them there.
      if not isinstance(error, sqlalchemy.exc.DBAPIError | optuna.exceptions.StorageInternalError
                        ) or attempt == 5:
        raise UserError(f"storage {_without_password(url)} cannot be opened: "
                        f"{_cause(error)}") from error
      time.sleep(0.2)
  return None


def _cause(error: Exception) -> str:
  """Returns the line of the database's own error, that Optuna wraps."""
  wrapped = isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__
  return first_line(wrapped or error)


def _without_password(url: str) -> str:
  try:
    return sqlalchemy.make_url(url).render_as_string()
  except sqlalchemy.exc.ArgumentError:
    return shown(url)
