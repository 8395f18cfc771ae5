"""The evaluations by which a run decides on its end and its result; knows no BERT."""

from collections.abc import Mapping
import json
import math
import pathlib
from typing import NamedTuple

from support import files, hosts
from support.errors import shown, UserError


class Verdict(NamedTuple):
  """What follows from an evaluation: its state is to be saved, or is the last of the training."""

  save: bool = False
  stop: bool = False


class Selection(NamedTuple):
  """How the evaluations of a run decide on its end and its result.

  Attributes:
    metric: the result that counts; higher is better. "": none, and nothing is decided.
    patience: this many evaluations in a row without a new best end the training; 0: none do.
    keep_best: the parameters of the best evaluation are the result, not the last ones.
  """

  metric: str = ""
  patience: int = 0
  keep_best: bool = False

  @property
  def decides(self) -> bool:
    return self.keep_best or self.patience > 0


NO_SELECTION = Selection()


class Evaluations:
  """A run's evaluations by step, in a file if they decide; the best is the first of the highest.

  An evaluation is in the file, which is written whole, before its step's checkpoint is begun. So
  at every checkpoint a killed run finds all evaluations up to it; later ones are made again.
  """

  def __init__(self, file: pathlib.Path, selection: Selection):
    """Reads the file, on host 0 for all; `begin` comes before the first `add`.

    Raises:
      UserError: the file holds something else.
    """
    self._file, self.selection = file, selection
    found = (hosts.told_by_first(lambda: _read_evaluations(file, selection.metric))
             if selection.decides else None)
    self._is_new = found is None
    self.newest = 0  # the step of the last `add` of this process; 0 before
    # Replaced, never changed: see `needed_at`.
    self._results = {int(step): results for step, results in (found or {}).items()}

  def begin(self, step: int) -> None:
    """Forgets what came after the step at which the run begins or continues.

    Raises:
      UserError: the run continues and its evaluations are lost.
    """
    if step and self._is_new and self.selection.decides:
      raise UserError(f"{self._file}, by which {self.selection.metric} decides, is missing; bring "
                      "it back, or choose another --output_dir")
    kept = {at: results for at, results in self._results.items() if at <= step}
    self._replace(kept)

  def add(self, step: int, results: Mapping[str, float]) -> Verdict:
    """Adds an evaluation (host 0's, on all hosts), and returns what follows from it."""
    if self.selection.decides:
      results = hosts.told_by_first(lambda results=results: results)
    self._replace({**self._results, step: results})
    self.newest = step
    return Verdict(save=self.selection.keep_best and self.best_at(step) == step,
                            stop=self.ended)

  def best_at(self, step: int) -> int:
    """Returns the step of the best evaluation up to `step`; 0 if there is none, or no metric."""
    scores = {at: self._score(results) for at, results in self._results.items()
              if at <= step and self.selection.metric}
    return max(scores, key=lambda at: (scores[at], -at), default=0)

  def needed_at(self, step: int) -> int:
    """Returns the step whose parameters may be the result of a run that is at `step`.

    For `Checkpointer`, whose thread may call it while another evaluation is added.
    """
    return (self.best_at(step) if self.selection.keep_best else 0) or step

  @property
  def best(self) -> int:
    """The step of the best evaluation of all; 0 if there is none."""
    return self.best_at(max(self._results, default=0))

  @property
  def ended(self) -> bool:
    """Whether the last evaluation was one too many without a new best."""
    worse = sum(step > self.best for step in self._results)
    return 0 < self.selection.patience <= worse

  def results(self, step: int) -> dict[str, float]:
    """Returns the results of an evaluation; {} if there was none."""
    return dict(self._results.get(step, {}))

  def _score(self, results: Mapping[str, float]) -> float:
    score = results[self.selection.metric]
    return -math.inf if math.isnan(score) else score

  def _replace(self, results: Mapping[int, Mapping[str, float]]) -> None:
    if self.selection.decides and hosts.is_first():
      with files.written_whole(self._file) as temporary:
        temporary.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    self._results = results  # last: by these the thread of the checkpoints deletes


def _read_evaluations(file: pathlib.Path, metric: str) -> dict[str, dict[str, float]] | None:
  """Reads step -> results; None if there is no file."""
  if not file.exists():
    return None
  content = files.read_json(file)
  for step, results in content.items():
    if not (step.isdecimal() and isinstance(results, dict)
            and isinstance(results.get(metric), float)):
      raise UserError(f"{file}: step {shown(step)} has no {metric}; bring back the file, or choose "
                      "another --output_dir")
  return content
