"""Several hosts: two processes with two devices each, as one process with four."""

import csv
import json
import re
import signal
import subprocess
import sys

from conftest import ROOT
import numpy as np
import pytest
import safetensors.numpy

from configs import pretraining as defaults
from support import hosts as hosts_of_a_run
from support.errors import UserError
from tests.stress.harness import Inputs
from tests.stress.hosts import environment, Hosts, SMALL

# Both scripts, one after the other, in one process: their imports take longer than the runs.
BOTH = """
import sys, traceback
from absl import flags
import experiment, run_classifier, run_pretraining
from support import hosts
own = sys.argv[1:]
try:
  for script, file, arguments in ((run_pretraining, "pretraining", {pretraining}),
                                  (run_classifier, "classifier", {classifier})):
    for name in [name for name in flags.FLAGS if name == "output_dir" or name[:6] == "config"]:
      delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()
    sys.argv = [script.__name__ + ".py", *arguments, *own]
    experiment.define_flags("configs/" + file + ".py")
    flags.FLAGS(sys.argv)
    script.main()
except BaseException as error:
  traceback.print_exc()
  hosts.stop(repr(error), 1)
  raise
hosts.finish()
"""
PRETRAINING = {**SMALL, "num_train_steps": 24, "phases": "((1.0,32,16),)", "eval_steps": 0,
               "save_checkpoints_steps": 4, "max_eval_examples": 24}
CLASSIFIER = {**SMALL, "num_train_epochs": 0.5, "do_predict": True}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
  made = Inputs.make(tmp_path_factory.mktemp("hosts") / "inputs")
  dev = (made.folder / "table" / "dev.tsv").read_text().splitlines(keepends=True)
  (made.folder / "table" / "test.tsv").write_text("".join(
      f"{i - 1 if i else 'index'}\t{line.split(chr(9), 1)[1]}" for i, line in enumerate(dev[:38])))
  return made


def pretraining(inputs, folder, **knobs):
  return inputs.command("run_pretraining", folder, **(PRETRAINING | knobs))


def classifier(inputs, folder, **knobs):
  return inputs.command("run_classifier", folder, **(CLASSIFIER | knobs))


@pytest.fixture(scope="module")
def runs(inputs):
  """{number of hosts: the folder with both scripts' runs on four devices in all}."""
  folders = {}
  for count in (1, 2):
    folder = inputs.folder.parent / f"runs{count}"
    arguments = {script: repr(command(inputs, folder / script)[2:])
                 for script, command in (("pretraining", pretraining), ("classifier", classifier))}
    code = BOTH.format(**arguments)
    command = [sys.executable, "-c", code]
    if count == 2:
      hosts = Hosts(command, environment(inputs))
      assert hosts.ended() == [0, 0], hosts.lines
    else:
      subprocess.run(command, cwd=ROOT, env=environment(inputs, 4), check=True,
                     stdout=subprocess.DEVNULL)
    folders[count] = folder
  return folders


def records(folder, *names):
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  return {(record["step"], name): record[name] for record in map(json.loads, lines)
          for name in record if name in names or name.startswith("eval_")}


@pytest.mark.parametrize("script", ["pretraining", "classifier"])
def test_two_hosts_train_and_score_as_one(runs, script):
  """Dropout included: loss and gradient of each step, dev scores, parameters."""
  one, two = (records(runs[count] / script, "loss", "gradient_norm") for count in (1, 2))
  assert one.keys() == two.keys()
  assert any(name.startswith("eval_") for _, name in one)
  np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=1e-5)
  first = [(key, value) for key, value in one.items() if key[0] <= 2]
  np.testing.assert_allclose([two[key] for key, _ in first], [value for _, value in first],
                             rtol=2e-6)
  theirs, ours = (safetensors.numpy.load_file(
      runs[count] / script / "model" / "model.safetensors") for count in (1, 2))
  assert ours.keys() == theirs.keys()
  for name, value in ours.items():
    np.testing.assert_allclose(value, theirs[name], atol=1e-5, err_msg=name)


def test_predictions_cover_each_row_once(inputs, runs):
  dev_rows = len((inputs.folder / "table" / "dev.tsv").read_text().splitlines()) - 1
  one, two = (sorted((runs[count] / "classifier" / "predictions").iterdir()) for count in (1, 2))
  assert [file.name for file in one] == [file.name for file in two]
  assert one
  assert "dev.tsv" in [file.name for file in one]
  for theirs, ours in zip(one, two, strict=True):
    count = dev_rows if ours.name == "dev.tsv" else 37
    theirs, ours = (list(csv.reader(file.read_text().splitlines()[1:], delimiter="\t"))
                    for file in (theirs, ours))
    assert len(ours) == count
    assert [row[0] for row in theirs] == [row[0] for row in ours]
    assert {len(row) for row in theirs} == {len(row) for row in ours} == {len(ours[0])}


def only_line(hosts, host, part):
  """Returns a host's last line, which holds `part`."""
  assert part in hosts.lines[host][-1], hosts.lines[host]
  return hosts.lines[host][-1]


def test_stopped_killed_and_continued_ends_with_the_same_bits(inputs, runs, tmp_path):
  """A signal to one host stops both after the same step; a dead host is named."""
  command = pretraining(inputs, tmp_path / "out")
  hosts = Hosts(command, environment(inputs))
  hosts.await_line(0, "step ")  # both are in the loop
  hosts.processes[1].send_signal(signal.SIGTERM)
  assert hosts.ended() == [143, 143]
  assert "stopped by SIGTERM; step " in only_line(hosts, 0, "is saved")
  only_line(hosts, 1, "stopped: stopped by SIGTERM; step ")

  hosts = Hosts(command, environment(inputs))
  hosts.await_line(0, "step ")
  hosts.processes[1].kill()
  assert hosts.ended() == [1, -signal.SIGKILL]
  line = only_line(hosts, 0, " is saved; the same command on all hosts continues from it")
  assert re.match(r"error: host 1 \(.+\) died or cannot be reached; step \d+ is saved", line)
  assert not any("Traceback" in line for line in hosts.lines[0])

  hosts = Hosts(command, environment(inputs))
  assert hosts.ended() == [0, 0]
  assert any(line.startswith("continuing after step ") for line in hosts.lines[0])
  for name in ("model/model.safetensors", "eval_results.json"):
    assert (tmp_path / "out" / name).read_bytes() == (
        runs[2] / "pretraining" / name).read_bytes(), name


def test_hosts_that_differ_all_stop_with_the_difference(inputs, tmp_path):
  command = pretraining(inputs, tmp_path / "out")
  hosts = Hosts(command, environment(inputs), ([], ["--config.seed=7"]))
  assert hosts.ended() == [1, 1]
  lines = {only_line(hosts, host, "config.seed is 42 on host 0 (") for host in (0, 1)}
  assert len(lines) == 1
  assert lines.pop().startswith("error: the hosts must agree; ")
  assert not (tmp_path / "out").exists()


def test_a_host_that_stops_ends_the_others_with_its_message(inputs, tmp_path):
  hosts = Hosts(pretraining(inputs, tmp_path / "out"), environment(inputs),
                ([], ["--config.cache_dir=/dev/null/none"]))
  assert hosts.ended() == [1, 1]
  assert only_line(hosts, 0, "/dev/null/none").startswith("host 1 (")


@pytest.mark.parametrize("knobs, message", [
    (["coordinator_address=a:1"], "coordinator_address is for several hosts: give "
     "--config.distributed=True too"),
    (["distributed=True", "process_id=1"], "coordinator_address, num_processes and process_id "
     "belong together"),
    (["distributed=True", "num_processes=2", "process_id=2", "coordinator_address=a:1"],
     "process_id must be from 0 to 1 (num_processes - 1), not 2"),
    (["distributed=True", "num_processes=2", "process_id=1", "coordinator_address=node1"],
     "coordinator_address must be HOST:PORT of host 0, such as node1:12321, not 'node1'")])
def test_wrong_knobs(knobs, message):
  config = defaults.get_config()
  for knob in knobs:
    name, value = knob.split("=")
    with config.unlocked():
      config[name] = {"True": True}.get(value, int(value) if value.isdigit() else value)
  with pytest.raises(UserError) as error:
    hosts_of_a_run.start(config)
  assert str(error.value).startswith(message)
