"""Signals: where they are obeyed, what they print, how the process ends."""

import os
import signal
import subprocess
import sys
import time

from conftest import ROOT
import pytest

# A shell's background jobs ignore Ctrl-C, and so may this test.
HEARING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
# A script that says "ready" when a signal may come. {} is the part of it under test.
SCRIPT = """
import gc, sys, time
from support import stopping
stopping.catch_signals()
def work():
  print("ready", flush=True)
  time.sleep(20)
{}
"""
RUN = "from support.command_line import run_script\n"
NOTED = RUN + """
def main():
  with stopping.noted():
    print("ready", flush=True)
    end = time.monotonic() + 2
    while time.monotonic() < end:
      time.sleep(0.01)
    print("whole", flush=True)
run_script(main)
"""
# As JAX does at each collection; what is raised there is printed and lost.
IN_A_CALLBACK = RUN + """
def main():
  with stopping.noted():
    gc.callbacks.append(lambda *_: time.sleep(0.2))
    print("ready", flush=True)
    for _ in range(10):
      gc.collect()
      stopping.check()
run_script(main)
"""


def ended(script: str, *numbers: signal.Signals) -> tuple[int, str, str]:
  """Runs a script, sends it signals once it is ready; returns exit status, stdout, stderr."""
  process = subprocess.Popen(
      [sys.executable, "-c", HEARING + script], cwd=ROOT, text=True, stdout=subprocess.PIPE,
      stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
  assert process.stdout.readline() == "ready\n"
  for number in numbers:
    process.send_signal(number)
    time.sleep(0.3)
  out, err = process.communicate(timeout=60)
  return process.returncode, out, err


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143),
                                            (signal.SIGHUP, 129)])
def test_before_the_script_runs_one_line(number, status):
  assert ended(SCRIPT.format("work()"), number) == (status, "", "interrupted before it began\n")


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_script_ends_at_once_with_its_advice(number, status):
  script = SCRIPT.format(RUN + 'run_script(work, interrupted="nothing was written")')
  reason = "stopped by SIGTERM" if number == signal.SIGTERM else "interrupted"
  assert ended(script, number) == (status, "", f"{reason}; nothing was written\n")


def test_where_signals_are_noted_the_work_is_finished():
  status, out, err = ended(SCRIPT.format(NOTED), signal.SIGTERM)
  assert (status, out) == (143, "whole\n")
  assert err.splitlines() == [
      "SIGTERM: stopping after the steps under way; once more ends it at once",
      "stopped by SIGTERM; nothing is saved; the same command begins again"]


def test_a_second_signal_ends_at_once():
  status, out, err = ended(SCRIPT.format(NOTED), signal.SIGINT, signal.SIGINT)
  assert (status, out) == (130, "")
  assert err.splitlines()[1:] == ["ended at once"]


def test_a_signal_in_a_callback_of_the_collector_is_not_lost():
  status, _, err = ended(SCRIPT.format(IN_A_CALLBACK), signal.SIGINT)
  assert status == 130
  assert "ignored" not in err


def test_a_run_ends_when_its_time_is_over():
  script = ("from support import stopping; import time\n" + RUN + "def main():\n"
            "  print('ready', flush=True)\n  stopping.end_after(0)\n  stopping.check()\n"
            "  stopping.end_after(1e-3)\n  stopping.check()\n" "run_script(main, 'go on')")
  assert ended(script) == (143, "", "max_hours are over; go on\n")


def test_a_signal_after_that_of_another_host_breaks_nothing_off():
  """As a queue sends it to all hosts, to some a little later: the first one saves by now."""
  script = (SCRIPT.format("stopping.raise_stopped(); stopping.leave_to_all()")
            + "stopping.learn(15)\nprint('ready', flush=True)\n"
              "while not stopping.asked():\n  time.sleep(0.01)\nprint('saved')\n")
  assert ended(script, signal.SIGTERM) == (
      0, "saved\n", "SIGTERM: stopping after the steps under way; once more ends it at once\n")


def test_an_ignored_signal_stays_ignored():
  """As nohup and a shell's background jobs ask."""
  script = ("import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
            + SCRIPT.format("print('ready', flush=True); time.sleep(0.3); print('went on')"))
  assert ended(script, signal.SIGHUP) == (0, "went on\n", "")


@pytest.mark.parametrize("script", ["run_classifier.py", "run_pretraining.py",
                                    "create_pretraining_data.py", "train_tokenizer.py"])
def test_every_script_catches_signals_before_its_imports(script):
  lines = (ROOT / script).read_text().splitlines()
  first = next(i for i, line in enumerate(lines) if line.lstrip().startswith(("import ", "from ")))
  assert lines[first - 1:first + 3] == [
      'if __name__ == "__main__":', "  from support import stopping", "",
      "  stopping.catch_signals()  # first: the imports below take seconds"]
