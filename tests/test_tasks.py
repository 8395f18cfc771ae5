"""GLUE's tasks, metrics against figures computed by hand, and leaderboard files to the byte."""

import numpy as np
import pytest

from classification import tasks
from support.errors import quoted, UserError

# --- Tasks ------------------------------------------------------------------------------------


def test_tasks():
  """Eight tasks; the hub's order of classes, which is that of the numbers in GLUE's files."""
  assert {name: task.label_names for name, task in tasks.GLUE_TASKS.items()} == {
      "cola": ("unacceptable", "acceptable"), "sst2": ("negative", "positive"),
      "mrpc": ("not_equivalent", "equivalent"), "qqp": ("not_duplicate", "duplicate"),
      "stsb": (), "mnli": ("entailment", "neutral", "contradiction"),
      "qnli": ("entailment", "not_entailment"), "rte": ("entailment", "not_entailment")}
  assert [name for name, task in tasks.GLUE_TASKS.items() if task.regression] == ["stsb"]


def test_leaderboard_file_names():
  names = {name for task in tasks.GLUE_TASKS.values() for name in task.test_splits.values()}
  assert names == {"CoLA", "SST-2", "MRPC", "QQP", "STS-B", "MNLI-m", "MNLI-mm", "QNLI", "RTE"}


def test_unknown_task():
  with pytest.raises(UserError, match="^dataset_name 'MRCP' is no GLUE task .did you mean mrpc.*; "
                                      "known: cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte "
                                      ".*blank for your own"):
    tasks.glue_task("MRCP")


def test_a_task_may_be_called_like_its_folder():
  for task in tasks.GLUE_TASKS.values():
    assert tasks.glue_task(task.folder) is tasks.glue_task(task.name) is task


@pytest.mark.parametrize("name", ["wnli", "WNLI"])
def test_wnli_is_refused(name):
  with pytest.raises(UserError, match="^wnli is refused: its dev set contradicts"):
    tasks.glue_task(name)


def test_own_task():
  task = tasks.own_task(("text",), ("a", "b", "c"))
  assert task.metrics == ("accuracy", "f1", "matthews_correlation")
  assert task.eval_splits == {"validation": ""}
  assert task.test_splits == {"test": "test"}
  assert tasks.own_task(("text",), ()).metrics == ("pearson", "spearman")


# --- Metrics ----------------------------------------------------------------------------------


def score(task, predictions, labels):
  """The scores of a model whose classes are in the task's order."""
  return tasks.score(task, predictions, labels, task.label_names)


@pytest.mark.parametrize("name,metrics", [
    ("cola", {"matthews_correlation"}), ("sst2", {"accuracy"}), ("mrpc", {"f1", "accuracy"}),
    ("qqp", {"f1", "accuracy"}), ("stsb", {"pearson", "spearman"}), ("mnli", {"accuracy"}),
    ("qnli", {"accuracy"}), ("rte", {"accuracy"})])
def test_metrics_are_glue_s(name, metrics):
  values = np.arange(2)
  scores = score(tasks.glue_task(name), values, values)
  assert scores.keys() == metrics
  assert scores == pytest.approx(dict.fromkeys(metrics, 1.0))


# 3 true positives, 1 false positive, 2 false negatives, 2 true negatives
LABELS = np.array([1, 1, 1, 0, 1, 1, 0, 0])
PREDICTIONS = np.array([1, 1, 1, 1, 0, 0, 0, 0])


def test_binary_metrics():
  scores = score(tasks.own_task(("text",), ("no", "yes")), PREDICTIONS, LABELS)
  assert scores == pytest.approx({
      "accuracy": 5 / 8, "f1": 2 * 3 / (2 * 3 + 1 + 2),
      "matthews_correlation": (3 * 2 - 1 * 2) / (4 * 5 * 3 * 4) ** 0.5})


def test_positive_class():
  """The second one, or that of the flag: then what was negative counts."""
  task = tasks.with_positive_class(tasks.own_task(("text",), ("no", "yes")), "no")
  assert score(task, PREDICTIONS, LABELS)["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
  assert tasks.with_positive_class(tasks.glue_task("mrpc"), "").positive_class == "equivalent"
  assert tasks.with_positive_class(tasks.glue_task("mnli"), "").positive_class == ""
  for task, names in ((tasks.own_task(("text",), ("no", "yes")), "the classes are 'no', 'yes'"),
                      (tasks.glue_task("stsb"), "stsb has no F1 of one class"),
                      (tasks.glue_task("cola"), "cola has no F1 of one class"),
                      (tasks.own_task(("text",), ("a", "b", "c")), "own has no F1 of one class")):
    with pytest.raises(UserError, match=f"^positive_class 'maybe': {names}"):
      tasks.with_positive_class(task, "maybe")


def test_quoted():
  assert quoted((" a", "b,c")) == "' a', 'b,c'"
  assert quoted([str(i) for i in range(1234)], 2) == "'0', '1' and 1,232 more"


def test_scores_do_not_depend_on_the_model_s_order():
  task = tasks.glue_task("mrpc")
  assert tasks.score(task, 1 - PREDICTIONS, 1 - LABELS, task.label_names[::-1]) == score(
      task, PREDICTIONS, LABELS)


def test_f1_beyond_two_classes_is_the_macro_mean():
  """Per class: 2/3 (tp 1, fp 1), 1 (tp 1), 0 (one missed)."""
  scores = score(tasks.own_task(("text",), ("a", "b", "c")), np.array([0, 1, 0]),
                      np.array([0, 1, 2]))
  assert scores["f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)
  assert scores["accuracy"] == pytest.approx(2 / 3)


def test_correlations():
  """Pearson of (1, 2, 3, 6): centred (-2, -1, 0, 3), with (-1.5, -0.5, 0.5, 1.5) of the labels."""
  scores = score(tasks.glue_task("stsb"), np.array([1, 2, 3, 6], np.float32),
                      np.array([1, 2, 3, 4], np.float32))
  assert scores == pytest.approx({"pearson": 8 / (14 * 5) ** 0.5, "spearman": 1.0})
  scores = score(tasks.glue_task("stsb"), np.array([3.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0]))
  assert scores == pytest.approx({"pearson": -0.5, "spearman": -0.5})


def test_spearman_shares_the_ranks_of_ties():
  """Ranks (1.5, 1.5, 3) and (1, 2, 3)."""
  scores = score(tasks.glue_task("stsb"), np.array([1.0, 1.0, 5.0]), np.array([1.0, 2.0, 3.0]))
  assert scores["spearman"] == pytest.approx(1.5 / (1.5 * 2) ** 0.5)


def test_constant_predictions_score_zero_without_a_warning():
  constant = np.ones(3, np.int32)
  scores = score(tasks.glue_task("stsb"), constant.astype(np.float32), np.arange(3.0))
  assert scores == {"pearson": 0.0, "spearman": 0.0}
  assert score(tasks.glue_task("stsb"), np.arange(3.0), np.ones(3))["pearson"] == 0.0
  labels = np.array([0, 1, 0])
  assert score(tasks.glue_task("cola"), constant, labels) == {"matthews_correlation": 0.0}
  assert score(tasks.glue_task("mrpc"), 0 * constant, labels)["f1"] == 0.0


def test_predictions_from_logits():
  logits = np.array([[0.1, 0.9, 0.5], [2.0, -1.0, 0.0]], np.float32)
  assert tasks.predictions_from(tasks.glue_task("mnli"), logits).tolist() == [1, 0]
  values = tasks.predictions_from(tasks.glue_task("stsb"), logits[:, 1:2])
  np.testing.assert_array_equal(values, np.array([0.9, -1.0], np.float32))


# --- Leaderboard files ------------------------------------------------------------------------


def written(folder, task, predictions, label_names, index=("0", "1", "2")):
  """The bytes of the file, which lies alone in its folder."""
  file = folder / "predictions.tsv"
  tasks.write_leaderboard_file(file, task, np.asarray(predictions), label_names, index)
  assert list(folder.iterdir()) == [file]
  return file.read_bytes()


@pytest.mark.parametrize("name", ["cola", "sst2", "mrpc", "qqp"])
def test_numbers_in_glue_s_order(tmp_path, name):
  """The same classes with the model's outputs in GLUE's order and reversed."""
  task = tasks.glue_task(name)
  expected = b"index\tprediction\n0\t1\n1\t0\n2\t0\n"
  assert written(tmp_path, task, [1, 0, 0], task.label_names) == expected
  assert written(tmp_path, task, [0, 1, 1], task.label_names[::-1]) == expected


@pytest.mark.parametrize("name,predictions,order,expected", [
    ("mnli", [2, 0, 1], ("contradiction", "entailment", "neutral"),
     b"0\tneutral\n1\tcontradiction\n2\tentailment\n"),
    ("qnli", [0, 1, 1], ("entailment", "not_entailment"),
     b"0\tentailment\n1\tnot_entailment\n2\tnot_entailment\n"),
    ("rte", [0, 1, 1], ("not_entailment", "entailment"),
     b"0\tnot_entailment\n1\tentailment\n2\tentailment\n")])
def test_names(tmp_path, name, predictions, order, expected):
  assert written(tmp_path, tasks.glue_task(name), predictions, order) == (
      b"index\tprediction\n" + expected)


def test_values(tmp_path):
  values = np.array([5.0, 2.34567, 0.0], np.float32)
  assert written(tmp_path, tasks.glue_task("stsb"), values, ()) == (
      b"index\tprediction\n0\t5.000\n1\t2.346\n2\t0.000\n")


def test_values_of_stsb_are_clipped_and_own_ones_exact(tmp_path):
  values = np.array([5.25, -0.1, 1e-4], np.float32)
  assert written(tmp_path, tasks.glue_task("stsb"), values, ()) == (
      b"index\tprediction\n0\t5.000\n1\t0.000\n2\t0.000\n")
  assert written(tmp_path, tasks.own_task(("text",), ()), values, ()) == (
      b"index\tprediction\n0\t5.25\n1\t-0.1\n2\t1e-04\n")


def test_probabilities(tmp_path):
  """exp(ln 3) / (exp(ln 3) + 1) = 3/4; a large logit overflows nothing."""
  logits = np.array([[np.log(3), 0], [1000, -1000]], np.float32)
  tasks.write_probabilities(tmp_path / "p.tsv", logits, ("no", "yes\t"), ("7", "8"))
  assert (tmp_path / "p.tsv").read_text() == (
      'index\tno\t"yes\t"\n7\t0.750000\t0.250000\n8\t1.000000\t0.000000\n')


def test_own_names_and_ids(tmp_path):
  """UTF-8 names; an earlier file is replaced."""
  task = tasks.own_task(("text",), ("ja", "weiß nicht"))
  (tmp_path / "predictions.tsv").write_text("earlier, and longer than the new one" * 9, "utf-8")
  assert written(tmp_path, task, [1, 0], task.label_names, ("x7", "x8")) == (
      "index\tprediction\nx7\tweiß nicht\nx8\tja\n".encode())


def test_an_id_for_every_prediction(tmp_path):
  """A mismatch is refused, and no file is left under the name."""
  with pytest.raises(ValueError, match="zip"):
    written(tmp_path, tasks.glue_task("stsb"), [1.0, 2.0], (), ("0",))
  assert not (tmp_path / "predictions.tsv").exists()
