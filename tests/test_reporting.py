"""What a user sees of a run while it goes on."""

import pytest

from support import reporting

RECORD = {"loss": 1.25, "learning_rate": 2e-4, "examples_per_step": 8.0,
          "examples_per_second": 2.0, "tokens_per_second": 40.0, "padding_share": 0.1,
          "waiting_share": 0.0}


@pytest.mark.parametrize("steps_left, left", [
    (None, "0:00:24 left"),  # 6 of 10 steps, 4 seconds each
    (lambda step: 10.0 * (10 - step), "0:04:00 left")], ids=["all alike", "longer ones to come"])
@pytest.mark.parametrize("terminal", [False, True])
def test_the_time_left(tmp_path, capsys, monkeypatch, steps_left, left, terminal):
  monkeypatch.setattr(reporting, "on_a_terminal", lambda: terminal)
  monkeypatch.setenv("COLUMNS", "120")
  reporter = reporting.Reporter(tmp_path, 10, 0, steps_left)
  for _ in range(4):
    reporter.progress()
  reporter.log(4, RECORD)
  reporter.close("loss")
  out, err = capsys.readouterr()
  if terminal:
    assert not out
    assert f"4/10 [00:00, loss 1.2500, lr 2.00e-04, 2.0 examples/s, {left}]" in err
  else:
    assert not err
    assert out == (f"step 4/10  loss 1.2500  lr 2.00e-04  2.0 examples/s  40 tokens/s  "
                   f"padding 10.0%  waiting for data 0.0%  {left}\n")


def test_the_first_step_foretells_nothing(tmp_path, capsys):
  reporter = reporting.Reporter(tmp_path, 10)
  reporter.log(1, RECORD)
  reporter.close("loss")
  assert capsys.readouterr().out == "step 1/10  loss 1.2500  lr 2.00e-04\n"
