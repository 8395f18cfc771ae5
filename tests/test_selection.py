"""The evaluations that decide on a run's end and result."""

import pytest

from support.errors import UserError
from support.selection import Evaluations, Selection


def scored(folder, scores, metric="eval_f1", **options):
  """Evaluations at steps 1, 2, ... with these scores, and what followed from each."""
  evaluations = Evaluations(folder / "evaluations.json", Selection(metric, **options))
  evaluations.begin(0)
  return evaluations, [evaluations.add(step, {"eval_f1": score, "eval_loss": 1.0})
                       for step, score in enumerate(scores, 1)]


def test_the_best_is_the_first_of_the_highest(tmp_path):
  evaluations, verdicts = scored(tmp_path, [0.5, 0.75, 0.75, float("nan"), 0.7], patience=3,
                                 keep_best=True)
  assert [evaluations.best_at(step) for step in range(6)] == [0, 1, 2, 2, 2, 2]
  assert verdicts == [(True, False), (True, False), (False, False), (False, False), (False, True)]
  assert evaluations.ended
  _, verdicts = scored(tmp_path, [0.5, 0.75, 0.7, 0.6, 0.5], patience=3)
  assert verdicts[-2:] == [(False, False), (False, True)]
  for options in ({"keep_best": True}, {}):
    evaluations, verdicts = scored(tmp_path, [float("nan"), 0.5, 0.4, 0.3, 0.2], **options)
    assert evaluations.best == 2 and not any(verdict.stop for verdict in verdicts)
  assert not any(verdict.save for verdict in verdicts)
  evaluations, _ = scored(tmp_path, [0.5, 0.6], metric="")
  assert (evaluations.best, evaluations.results(2)["eval_f1"]) == (0, 0.6)


def test_evaluations_outlive_their_process(tmp_path):
  """Those after the step that a run continues from are made again."""
  selection = Selection("eval_f1", patience=2, keep_best=True)
  file = tmp_path / "evaluations.json"
  for first_step, best, ended in ((4, 2, True), (3, 2, False), (1, 1, False)):
    scored(tmp_path, [0.1, 1 / 3, 0.2, 0.3], patience=2)
    evaluations = Evaluations(file, selection)
    evaluations.begin(first_step)
    assert (evaluations.best, evaluations.ended) == (best, ended)
    assert evaluations.results(first_step)
  assert Evaluations(file, selection).best == 1
  evaluations.add(2, {"eval_f1": 1 / 3})
  assert Evaluations(file, selection).results(2) == {"eval_f1": 1 / 3}
  file.write_text('{"2": {"eval_loss": 1.0}}')
  with pytest.raises(UserError, match="evaluations.json: step '2' has no eval_f1; bring back the"):
    Evaluations(file, selection)
  file.unlink()
  with pytest.raises(UserError, match="evaluations.json, by which eval_f1 decides, is missing; br"):
    Evaluations(file, selection).begin(4)
  Evaluations(file, selection._replace(patience=0, keep_best=False)).begin(4)
