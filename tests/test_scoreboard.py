"""The table of a sweep, its files, its picture and its page."""

import itertools
import re

import browser
import pytest

from classification import scoreboard, sweep_page, tasks
from support.study import Record


def record(seed, score, state="done", collapsed=False, metrics=("eval_matthews_correlation",)):
  scores = dict.fromkeys(metrics, score) | {"eval_collapsed": collapsed}
  return Record({"learning_rate": 2e-5}, seed, state, score if state == "done" else None,
                {"scores": scores, "metrics": list(metrics)} if state == "done" else {},
                "it broke" if state == "failed" else "")


def test_cells():
  row, = scoreboard.rows_of("cola", [record(0, 0.5), record(1, 0.0, collapsed=True),
                                     record(2, 0.6), record(3, 0, "failed"),
                                     record(4, 0, "under way")])
  assert scoreboard.cells_of(row) == (
      "cola", "learning_rate=2e-05", "50.00, 0.00, 60.00, failed, under way",
      "36.67 (3 of 5 seeds)", "32.15", "50.00", "60.00", "seed 1")
  assert scoreboard.metric_cells([row]) == []
  other, = scoreboard.rows_of("rte", [record(0, 0.0, collapsed=True)])
  assert ("average of cola (3 of 5 seeds, 1 collapsed), rte (all collapsed), each" in
          scoreboard.glue_line([row, other], ""))
  assert not scoreboard.glue_line([row], "")  # no average of one
  empty, = scoreboard.rows_of("cola", [record(0, 0, "waiting")])
  assert scoreboard.cells_of(empty)[2:] == ("waiting", "-", "-", "-", "-", "-")
  assert scoreboard.failures([row]) == ["cola learning_rate=2e-05 seed 3 failed: it broke"]


def test_glues_average_takes_each_tasks_mean_first():
  results = scoreboard.run_results(tasks.GLUE_TASKS["mnli"], {
      "eval_accuracy": 0.8, "eval_accuracy_mismatched": 0.7, "eval_loss": 1.0}, {})
  assert scoreboard.score_of(results) == 0.75
  own = scoreboard.run_results(tasks.own_task(("text",), ("a", "b")), {
      "eval_accuracy": 0.8, "eval_f1": 0.1}, {})
  assert scoreboard.score_of(own) == 0.8
  rows = [*scoreboard.rows_of("cola", [record(0, 0.5), record(1, 0.7)]),
          *scoreboard.rows_of("rte", [record(0, 0.8)])]
  worse = rows[0]._replace(setting={"learning_rate": 1.0}, records=[record(0, 0.4)])
  assert scoreboard.glue_line([worse, *rows], "max_steps=4") == (
      "GLUE: 70.00, the average of cola, rte, each with its best setting's mean (without sst2, "
      "mrpc, qqp, stsb, mnli, qnli), of limited runs (max_steps=4); the leaderboard's also has "
      "wnli")
  own = [scoreboard.rows_of(name, [record(0, 0.5)], of_glue=False)[0] for name in ("cola", "rte")]
  assert not scoreboard.glue_line(own, "")  # folders may be called like tasks


# --- The picture and the page -----------------------------------------------------------------


def runs_of(**space):
  """Two done runs and a collapsed one of each setting, all with the same score."""
  knobs = list(space)
  return scoreboard.rows_of("cola", [
      record(seed, 0.5, collapsed=seed > 1)._replace(setting=dict(zip(knobs, values, strict=True)))
      for values in itertools.product(*space.values()) for seed in (0, 1, 2)])


def write_page(folder, rows, limits=""):
  sweep_page.write_sweep_report(
      folder / "report.html", rows, learning_rate=5e-5, runs="1 task x 2 settings", command=[
          "sweep.py", "--tasks=cola,rte", "--output_dir=a b"], limits=limits)
  return (folder / "report.html").read_text()


def test_equal_scores_stand_side_by_side():
  chart = sweep_page.chart_of(runs_of(learning_rate=(0.0, 1e-5)), "cola", 5e-5)
  assert (chart.knob, chart.columns) == ("learning_rate", ["0.0", "1e-05"])
  dots, crosses = chart.kinds
  assert [(kind.name, kind.group, kind.collapsed) for kind in chart.kinds] == [
      ("", 0, False), ("", 0, True)]
  places = [place for place, _ in dots.points + crosses.points]
  assert len(set(places)) == 6
  assert [round(place) for place in places] == [0, 0, 1, 1, 0, 1]
  assert {score for _, score in dots.points} == {50.0}  # as in the table


def test_a_chart_is_over_the_learning_rate_or_else_the_first_knob():
  chart = sweep_page.chart_of(runs_of(layerwise_lr_decay=(1.0, 0.9), reinit_layers=(0, 1)),
                              "cola", 5e-5)
  assert (chart.knob, chart.columns) == ("layerwise_lr_decay", ["0.9", "1.0"])
  assert [(kind.name, kind.group) for kind in chart.kinds] == [
      ("reinit_layers=0", 0), ("", 0), ("reinit_layers=1", 1), ("", 1)]
  chart = sweep_page.chart_of(runs_of(reinit_layers=(0, 1), learning_rate=(1e-5, 3e-5)), "cola", 0)
  assert chart.knob == "learning_rate"
  chart = sweep_page.chart_of(runs_of(), "cola", 5e-5)
  assert (chart.knob, chart.columns) == ("learning_rate", ["5e-05"])


def test_groups_are_the_same_in_all_tasks_and_named_by_their_dots():
  rows = runs_of(learning_rate=(1e-5, 3e-5), reinit_layers=(0, 1))
  rows[0].records[:] = [one._replace(state="failed") for one in rows[0].records]
  rows[2].records[:] = [record(0, 0.1, collapsed=True), *rows[2].records[:2]]
  kinds = sweep_page.chart_of(rows, "cola", 0).kinds
  assert [(kind.name, kind.group, kind.collapsed) for kind in kinds] == [
      ("reinit_layers=0", 0, False), ("", 0, True), ("reinit_layers=1", 1, False), ("", 1, True)]
  other = [row._replace(task="rte") for row in rows if row.setting["reinit_layers"]]
  kinds = sweep_page.chart_of([*rows, *other], "rte", 0).kinds
  assert [(kind.name, kind.group) for kind in kinds] == [("reinit_layers=1", 1), ("", 1)]


def test_a_group_of_collapsed_runs_alone_has_its_name_too():
  rows = runs_of(reinit_layers=(0, 1), learning_rate=(1e-5,))
  rows[1].records[:2] = [one._replace(state="failed") for one in rows[1].records[:2]]
  assert [(kind.name, kind.collapsed) for kind in sweep_page.chart_of(rows, "cola", 0).kinds] == [
      ("reinit_layers=0", False), ("", True), ("reinit_layers=1", True)]


def test_too_many_groups_have_no_legend_and_long_values_no_whole_label():
  rows = runs_of(learning_rate=(1e-5,), reinit_layers=tuple(range(9)))
  assert [(kind.name, kind.group) for kind in sweep_page.chart_of(rows, "cola", 0).kinds] == [
      ("", 0), ("", 0)]
  rows = runs_of(init_checkpoint=("google-bert/bert-base-uncased", "demo/minilm"))
  assert sweep_page.chart_of(rows, "cola", 0).columns == [
      "demo/minilm", "\u2026rt-base-uncased"]


def test_the_page_of_a_sweep(tmp_path):
  rows = runs_of(learning_rate=(3e-5, 1e-5), reinit_layers=(0, 1))
  run_page = tmp_path / "cola" / "learning_rate=1e-05,reinit_layers=0" / "seed-2" / "report.html"
  run_page.parent.mkdir(parents=True)
  run_page.touch()
  rows[-1] = rows[-1]._replace(setting=dict(reversed(rows[-1].setting.items())))
  page = write_page(tmp_path, rows, "max_steps=4")
  assert re.search(r"<td[^>]*>cola</td><td[^>]*>1e-05</td><td[^>]*>1</td><td[^>]*>50.00", page)
  assert re.findall(r'<a href="([^"#][^"]*)" title="([^"]*)">50.00</a>', page) == [
      ("cola/learning_rate%3D1e-05%2Creinit_layers%3D0/seed-2/report.html", "seed 2")]
  assert [dots.count("h0") for dots in re.findall('class="c[01] dots" d="(.*?)"', page)] == [4, 4]
  assert [marks.count("M") for marks in re.findall('class="c[01] crosses" d="(.*?)"', page)
          ] == [4, 4]  # two strokes each
  assert "<th class=\"number\">learning_<wbr>rate</th>" in page  # it may wrap
  for text in (f"{tmp_path} \u00b7 ", "1 task x 2 settings", "The runs are limited: max_steps=4.",
               "cola learning_rate=3e-05, reinit_layers=0 (1 collapsed)",
               "python3 sweep.py \\\n    --tasks=cola,rte \\\n    &#x27;--output_dir=a b&#x27;"):
    assert text in page, text
  assert "limited" not in write_page(tmp_path, rows)
  failed = scoreboard.rows_of("cola", [record(0, 0, "failed")])
  assert "are crosses" not in write_page(tmp_path, failed)  # there is no chart


def test_the_picture_of_the_scores(tmp_path, monkeypatch):
  from matplotlib import pyplot

  monkeypatch.setattr(pyplot, "close", lambda figure: None)
  rows = runs_of(learning_rate=(3e-5, 1e-5), reinit_layers=(0, 1))
  sweep_page.draw_scores(tmp_path / "scores.png", rows, 5e-5)
  axis, = pyplot.gcf().axes
  assert [label.get_text() for label in axis.get_xticklabels()] == ["1e-05", "3e-05"]
  assert axis.get_xlabel() == "learning_rate (a cross: collapsed)"
  assert [text.get_text() for text in axis.get_legend().get_texts()] == [
      "reinit_layers=0", "reinit_layers=1"]
  monkeypatch.undo()
  pyplot.close("all")


def test_another_process_may_write_the_same_files(tmp_path):
  rows = scoreboard.rows_of("cola", [record(0, 0.5)])
  names = ("results.csv", "results.md", "scores.png", "report.html")
  theirs = [tmp_path / f".{name}.tmp" for name in names]
  for file in theirs:
    file.touch()
  scoreboard.write_csv(tmp_path / names[0], rows)
  scoreboard.write_markdown(tmp_path / names[1], rows, "max_steps=4")
  assert "The runs are limited (max_steps=4)." in (tmp_path / names[1]).read_text()
  sweep_page.draw_scores(tmp_path / names[2], rows, 1.0)
  write_page(tmp_path, rows)
  assert all(file.exists() for file in theirs)


@pytest.mark.skipif(not browser.CHROMIUM, reason="needs a Chromium: apt-get install chromium")
def test_a_browser_renders_the_page(tmp_path):
  write_page(tmp_path, runs_of(learning_rate=(5e-5, 3e-5, 2e-5), train_batch_size=(16, 32),
                               num_train_epochs=(2.0, 3.0, 4.0)))
  with browser.chromium() as page:
    for width in (390, 1280):
      page.open(tmp_path / "report.html", width=width)
      assert page.messages == []
      assert page.requests == [(tmp_path / "report.html").as_uri()]
      assert page.value("document.documentElement.scrollWidth") <= width
