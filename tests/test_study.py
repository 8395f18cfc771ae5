"""A study hands every run to one process, and takes up the runs of dead ones."""

import errno
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest.mock

from conftest import ROOT
import optuna
import pytest

from support import files, study
from support.errors import UserError
from support.study import name_of, Record, Search, Study

SPACE = {"learning_rate": (2e-5, 3e-5), "dtype": ("float32", "bfloat16")}
GRID = Search(SPACE, (0, 1), "grid", 0)

# Claims runs and writes their names, a line each; then does as it is told.
WORKER = f"""
import os, pathlib, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from support import files
from support.study import name_of, Search, Study
url, folder, most, end = sys.argv[1:]
if end == "die early":
  files.this_process = lambda: os._exit(1)
study = Study(url, "s", Search({SPACE!r}, (0, 1), "grid", 0), pathlib.Path(folder))
for _ in range(int(most)):
  claim = study.claim()
  if claim is None:
    break
  print(name_of(claim.setting), claim.seed, flush=True)
  if end == "finish":
    study.finish(claim, 0.5, {{}})
if end == "wait":
  sys.stdin.read()
if end == "die":
  os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def url(tmp_path):
  return f"sqlite:///{tmp_path / 'study.db'}"


def opened(url, folder, search=GRID):
  return Study(url, "s", search, folder)


def worker(url, folder, most, end):
  return subprocess.Popen((sys.executable, "-c", WORKER, url, str(folder), str(most), end),
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def lines_of(process):
  """The (setting, seed) that a worker claimed, when it has ended."""
  return [line.rsplit(" ", 1) for line in process.communicate()[0].splitlines()]


def make_all(one, score=lambda claim: 0.5):
  """Claims and finishes runs until there are none; returns their (setting, seed)."""
  made = []
  while claim := one.claim():
    made.append((name_of(claim.setting), claim.seed))
    one.finish(claim, score(claim), {"n": len(made)})
  return made


def wanted(search=GRID):
  return [(name_of(setting), seed) for setting in search.grid() for seed in search.seeds]


def test_a_grid_is_made_once(url, tmp_path):
  made = make_all(opened(url, tmp_path), score=lambda claim: claim.seed / 10)
  assert made == wanted()
  assert made[0][0] == "learning_rate=2e-05,dtype=float32"
  again = opened(url, tmp_path)
  assert again.claim() is None
  assert [(name_of(record.setting), record.seed) for record in again.records()] == made
  assert again.records()[1] == Record({"learning_rate": 2e-5, "dtype": "float32"}, 1, "done", 0.1,
                                      {"n": 2}, owner=files.this_process())
  more = opened(url, tmp_path, Search(SPACE, (1, 2), "grid", 0))
  assert {seed for _, seed in make_all(more)} == {2}  # more seeds later


def test_names_are_folders():
  assert name_of({"init_checkpoint": "a/b,c", "x": None}) == "init_checkpoint=a%2Fb%2Cc,x=None"
  assert name_of({}) == ""
  assert study.run_folder(pathlib.Path("OUT"), {}, 3) == pathlib.Path("OUT/seed-3")


def shares_the_work(url, folder):
  workers = [worker(url, folder, 100, "finish") for _ in range(2)]
  made = [run for process in workers for run in lines_of(process)]
  assert [process.returncode for process in workers] == [0, 0]
  assert sorted((name, int(seed)) for name, seed in made) == sorted(wanted())
  assert {record.state for record in opened(url, folder).records()} == {"done"}


def test_two_processes_share_the_work(url, tmp_path):
  shares_the_work(url, tmp_path)


def test_a_run_of_a_living_process_is_left_to_it(url, tmp_path):
  process = worker(url, tmp_path, 1, "wait")
  name, seed = process.stdout.readline().rsplit(" ", 1)
  here = opened(url, tmp_path)
  made = make_all(here)
  assert made == [run for run in wanted() if run != (name, int(seed))]
  assert [record.state for record in here.records()].count("under way") == 1
  process.communicate()  # it ends without a word
  assert make_all(here) == [(name, int(seed))]


def test_a_run_of_a_dead_process_is_taken_up(url, tmp_path):
  process = worker(url, tmp_path, 2, "die")
  begun = lines_of(process)
  assert (len(begun), process.returncode) == (2, -9)
  assert sorted(make_all(opened(url, tmp_path))) == sorted(wanted())


def test_a_run_that_fails_is_tried_again_by_the_next_command(url, tmp_path):
  here = opened(url, tmp_path)
  here.fail(here.claim(), "the disk is full")
  assert make_all(here) == wanted()[1:]
  assert here.records()[0].state == "failed"
  assert here.records()[0].error == "the disk is full"
  assert make_all(opened(url, tmp_path)) == wanted()[:1]
  assert here.records()[0].state == "done"


def test_a_run_that_is_given_back_is_made(url, tmp_path):
  here = opened(url, tmp_path)
  here.give_back(here.claim())
  assert here.records()[0].state == "waiting"
  assert sorted(make_all(here)) == sorted(wanted())


def test_a_run_of_another_host_is_left_to_it(url, tmp_path):
  """Without a shared file system the folder here is another one, whose lock says nothing."""
  first = opened(url, tmp_path).claim()
  files.disown(first.folder)  # the lock names this process
  first.trial.set_user_attr("owner", "process 1 on elsewhere")
  here = opened(url, tmp_path)
  assert make_all(here) == wanted()[1:]
  assert (here.records()[0].state, here.records()[0].owner) == (
      "under way", "process 1 on elsewhere")
  (first.folder / ".lock").write_text("process 1 on elsewhere\n")  # the file system is shared
  assert make_all(here) == wanted()[:1]


def test_a_lost_host_gives_its_runs_back(url, tmp_path):
  first = opened(url, tmp_path).claim()
  shutil.rmtree(first.folder)
  first.trial.set_user_attr("owner", "process 1 on elsewhere")
  assert make_all(Study(url, "s", GRID, tmp_path, ("nowhere",))) == wanted()[1:]
  assert make_all(Study(url, "s", GRID, tmp_path, ("nowhere", "elsewhere"))) == wanted()[:1]


def test_without_locks_the_process_is_looked_for(url, tmp_path, monkeypatch):
  def no_locks(handle, operation):
    raise OSError(errno.ENOLCK, "No locks available")

  monkeypatch.setattr(files.fcntl, "flock", no_locks)
  first = opened(url, tmp_path).claim()
  here = opened(url, tmp_path)
  assert make_all(here) == wanted()[1:]
  dead = subprocess.Popen(("true",))
  dead.wait()
  first.trial.set_user_attr("owner", files.this_process().replace(str(os.getpid()), str(dead.pid)))
  assert make_all(here) == wanted()[:1]


def test_the_score_of_a_trial_that_another_process_ended_is_kept(url, tmp_path, capsys):
  here = opened(url, tmp_path)
  first = here.claim()
  opened(url, tmp_path)._tell(first.trial.number)
  here.finish(first, 0.75, {"n": 1})
  assert capsys.readouterr().out == (
      "warning: another process took this one for dead and ended the trial of "
      f"{first.folder}; the score is recorded all the same\n")
  assert here.records()[0][2:5] == ("done", 0.75, {"n": 1})
  assert make_all(here) == wanted()[1:]


def test_a_run_that_two_processes_queued_is_made_once(url, tmp_path):
  here = opened(url, tmp_path)
  first = here.claim()
  here._study.enqueue_trial(dict(first.setting), {"setting": first.setting, "seed": first.seed})
  here.finish(first, 0.1, {})
  assert make_all(here) == wanted()[1:]
  assert here.records()[0].score == 0.1


def test_a_folder_that_another_program_uses_is_named(url, tmp_path):
  folder = study.run_folder(tmp_path, next(GRID.grid()), 0)
  folder.mkdir(parents=True)
  holder = subprocess.Popen(
      (sys.executable, "-c", "import fcntl, sys; f = open(sys.argv[1], 'w'); "
       "fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()", folder / ".lock"),
      stdin=subprocess.PIPE, stdout=subprocess.PIPE)
  holder.stdout.readline()
  here = opened(url, tmp_path)
  assert make_all(here) == wanted()[1:]
  holder.communicate()
  assert "is in use by" in here.records()[0].error


def test_a_trial_whose_process_died_before_it_signed_is_given_up(url, tmp_path, monkeypatch):
  here = opened(url, tmp_path)
  dead = worker(url, tmp_path, 1, "die early")
  assert lines_of(dead) == []
  assert dead.returncode == 1
  assert make_all(here) == wanted()[1:]  # it may have begun just now
  monkeypatch.setattr(study, "_BEGIN_SECONDS", 0)
  assert make_all(here) == wanted()[:1]


# --- Samplers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_sampler_draws_settings_and_each_has_all_seeds(url, tmp_path, sampler):
  search = Search({"x": tuple(range(40))}, (3, 4), sampler, 4)
  here = opened(url, tmp_path, search)
  made = make_all(here, score=lambda claim: claim.setting["x"])
  settings = list(dict.fromkeys(name for name, _ in made))
  assert sorted(made) == sorted((name, seed) for name in settings for seed in (3, 4))
  assert len(settings) == 4
  assert settings != [f"x={x}" for x in range(4)]  # drawn, not counted
  kind = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}[sampler]
  assert type(here._study.sampler) is kind
  assert opened(url, tmp_path, search).claim() is None
  assert len(make_all(opened(url, tmp_path, Search(search.space, (3, 4), sampler, 5)))) == 2


def test_a_sampler_ends_when_all_is_drawn(url, tmp_path):
  search = Search({"x": (1, 2)}, (0,), "random", 5)
  here = opened(url, tmp_path, search)
  assert sorted(make_all(here)) == [("x=1", 0), ("x=2", 0)]


# --- Databases --------------------------------------------------------------------------------


@pytest.mark.parametrize("bad,message", [
    ("nonsense", "storage 'nonsense' cannot be opened: "),
    ("sqlite:////no/folder/study.db", "storage sqlite:////no/folder/study.db cannot be opened: "),
    ("postgresql+psycopg://me:secret@127.0.0.1:1/x",
     r"storage postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/x cannot be opened: "),
    ("postgresql+psycopg://me:{secret}@127.0.0.1:1/x", "storage postgresql"),  # no template
    ("nodatabase://host/x", "storage nodatabase://host/x cannot be opened: ")])
def test_a_database_that_is_not_there_is_one_line(tmp_path, bad, message, monkeypatch):
  monkeypatch.setattr(study.time, "sleep", lambda seconds: None)
  with pytest.raises(UserError, match=message) as error:
    opened(bad, tmp_path)
  assert "\n" not in str(error.value)
  assert "secret" not in str(error.value)


@pytest.mark.parametrize("ask", [
    lambda here, claim: here.claim(), lambda here, claim: here.finish(claim, 0.5, {}),
    lambda here, claim: here.fail(claim, "x"), lambda here, claim: here.give_back(claim),
    lambda here, claim: here.records(), lambda here, claim: here.store("x", 1)])
def test_a_database_that_goes_away_is_one_line(url, tmp_path, ask):
  here = opened(url, tmp_path)
  claim = here.claim()
  (tmp_path / "study.db").unlink()
  with pytest.raises(UserError, match=r"^storage sqlite:.*study.db: .*no such table: \w+; finished "
                                      "runs lie in their folders, and the same command goes on"):
    ask(here, claim)


def test_a_study_that_is_deleted_is_one_line(url, tmp_path):
  here = opened(url, tmp_path)
  claim = here.claim()
  optuna.delete_study(study_name="s", storage=url)
  for ask in (here.claim, here.records, lambda: here.finish(claim, 1.0, {})):
    with pytest.raises(UserError, match="the study has been deleted from it; finished runs lie in"):
      ask()
  with pytest.raises(KeyError, match="other"):  # an error of ours is no such line
    here.finish(claim._replace(trial=unittest.mock.Mock(
        set_user_attr=unittest.mock.Mock(side_effect=KeyError("other")))), 1.0, {})


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%20b", "a{b}", "a b", "é"])
def test_a_sqlite_file_lies_in_any_folder(tmp_path, name):
  (tmp_path / name).mkdir()
  opened(study.sqlite_url(tmp_path / name / "study.db"), tmp_path).store("x", 1)
  assert (tmp_path / name / "study.db").stat().st_size > 1000


@pytest.fixture
def postgresql():
  """URL of a database of a PostgreSQL server that lives as long as the test."""
  pytest.importorskip("psycopg", reason="needs psycopg (requirements-dev.txt)")
  found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))
  if not found:
    pytest.skip("needs PostgreSQL: apt-get install postgresql")
  place = pathlib.Path(tempfile.mkdtemp(prefix="pg-"))  # a socket's path must be short
  as_user = ()
  if os.getuid() == 0:  # PostgreSQL refuses to run as root
    shutil.chown(place, "nobody")
    as_user = ("runuser", "-u", "nobody", "--")

  def command(name, *arguments):
    subprocess.run((*as_user, found[-1].with_name(name), "-D", place / "data", *arguments),
                   check=True, capture_output=True, cwd=place)

  command("initdb", "--auth=trust", "--username=me", "--no-sync")
  command("pg_ctl", "--wait", "--log", place / "log", "-o",
          f"-c listen_addresses='' -c fsync=off -k {place}", "start")
  try:
    yield f"postgresql+psycopg://me@/postgres?host={place}"
  finally:
    command("pg_ctl", "--wait", "--mode=immediate", "stop")
    shutil.rmtree(place)


def test_two_processes_share_the_work_on_postgresql(postgresql, tmp_path):
  shares_the_work(postgresql, tmp_path)
  name = "another"
  made = make_all(Study(postgresql, name, Search({"x": (1, 2)}, (0,), "grid", 0), tmp_path / name))
  assert made == [("x=1", 0), ("x=2", 0)]  # a study of its own in the same database


def test_optunas_own_view_of_the_study(url, tmp_path):
  """optuna-dashboard shows the same: values, and knobs as parameters."""
  make_all(opened(url, tmp_path), score=lambda claim: claim.seed)
  frame = optuna.load_study(study_name="s", storage=url)
  assert frame.best_value == 1
  assert frame.best_params == {"learning_rate": 2e-5, "dtype": "float32"}
