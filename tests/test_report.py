"""report.html: what a page shows, that a text is no HTML, and that a browser renders it."""

import csv
import html.parser
import json
import re

import browser
import numpy as np
import pytest

from classification import dev_predictions
from classification.dev_predictions import DevPredictions
from support import report, run_page
from support.report import Band, Series

NASTY = "<script>document.title = 'run'</script><img src=http://127.0.0.1/x> & \"'\x00\x1b\ud800"
CONFIG = {"config": {"learning_rate": 5e-5, "init_checkpoint": "demo/minilm",
                     "model": {"hidden_size": None}},
          "command": ["run_classifier.py", "--config.dataset_path=my reviews", "--output_dir=x"],
          "git_commit": "5cb6a74", "versions": {"jax": "0.10.2"}, "devices": ["a", "b"],
          "machine": {"system": "Linux", "cpus": 2, "device_kind": "cpu"}, "parameters": 22713216}


class Page(html.parser.HTMLParser):
  """The text of a page, its elements, and whatever it names elsewhere."""

  def __init__(self, content):
    super().__init__()
    self.elements, self.texts, self.elsewhere, self.open = [], [], [], []
    self.feed(content)
    assert not self.open

  def handle_starttag(self, tag, attributes):
    self.elements.append(tag)
    if tag not in ("meta", "link"):
      self.open.append(tag)
    self.elsewhere += [value for name, value in attributes if name in ("src", "href", "data")]

  def handle_startendtag(self, tag, attributes):
    self.elements.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.texts.append(data)


def predictions(texts, gold, probabilities, names=("bad", "good"), name="dev"):
  probabilities = np.asarray(probabilities, np.float32)
  return DevPredictions(name, [str(7 + i) for i in range(len(gold))], texts, np.asarray(gold),
                        probabilities.argmax(-1), probabilities, names)


@pytest.fixture(scope="module")
def dev():
  texts = {"text": ["fine", NASTY, "a\tb\nc\rd \"e\"", "long " * 500, "dull\rgrey"],
           "other": ["مرحبا"] * 5}
  return predictions(texts, [1, 0, 1, 0, 0],
                     [[.1, .9], [.4, .6], [.8, .2], [.05, .95], [.7, .3]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, dev):
  """A run's folder with report.html: curves with a peak, two phases, a matrix, wrong examples."""
  folder = tmp_path_factory.mktemp("run")
  records = []
  for step in range(1, 2001):
    records.append({"step": step, "loss": 100.0 if step == 777 else 2 - step / 2000,
                    "gradient_norm": 1.5, "learning_rate": 1e-5, "tokens_per_second": 5.0})
    if step % 500 == 0:
      records.append({"step": step, "eval_accuracy": step / 2000, "eval_loss": 1.0,
                      "eval_accuracy_mismatched": 0.5})
  for name, content in (("config.json", CONFIG), ("eval_results.json", {
      "eval_accuracy": 0.9123456, "eval_collapsed": False}), ("summary.json", {
          "train_seconds": 100.0, "examples_per_second": 5.0, "compile_seconds": 3.0,
          "first_step": 0, "best_step": 1500, "model_step": 2000, "peak_host_bytes": 1.25e9})):
    (folder / name).write_text(json.dumps(content))
  (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
  (folder / "predictions").mkdir()
  (folder / "predictions" / "dev.tsv").touch()
  run_page.write_run_report(folder, f"own: {NASTY}",
                        list(dev_predictions.dev_sections(dev, {"bad": 3, "good": 4})),
                        bands=[Band(0, 1800, "phase 1"), Band(1800, 2000, "phase 2")],
                        titles={"accuracy": "Share of right ones"})
  return folder


def test_a_page_shows_the_run(folder):
  page = Page((folder / "report.html").read_text("utf-8"))
  said = " ".join(page.texts)
  for text in ("python3 run_classifier.py", "'--config.dataset_path=my reviews'", "0.9123",
               "Share of right ones", "Loss", "Learning rate", "Gradient norm", "1.25 GB",
               "22,713,216 parameters, from demo/minilm", "2 x cpu", "5cb6a74", "jax 0.10.2",
               "1,500; the model is that of step 2,000", "3 of 5 examples, the surest first",
               "model.hidden_size", "مرحبا"):
    assert text in said, text
  assert "Tokens per second" not in said
  assert page.elements.count("svg") == 4
  # Rows by gold: of three bad ones two are called good.
  assert re.search(r"<th[^>]*>bad</th><td class=\"right\"[^>]*>1<small>33.3%</small></td>"
                   r"<td class=\"wrong\"[^>]*>2<small>66.7%", (folder / "report.html").read_text())


def test_a_text_is_no_html(folder):
  content = (folder / "report.html").read_text("utf-8")
  page = Page(content)
  assert "script" not in page.elements and "img" not in page.elements
  assert sum("<script>document.title = 'run'</script>" in text for text in page.texts) == 3
  assert not set(content) & {"\x00", "\x1b"}


def test_a_page_names_nothing_elsewhere(folder):
  content = (folder / "report.html").read_text("utf-8")
  for place in Page(content).elsewhere:
    assert place == "data:," or place.startswith("#") or (folder / place).exists(), place
  assert "url(" not in content and "@import" not in content
  assert "default-src 'none'" in content


def test_a_page_is_written_whole(folder, tmp_path):
  report.write_page(tmp_path / "a.html", "a", "", [])
  before = (tmp_path / "a.html").read_bytes()
  with pytest.raises(TypeError):
    report.write_page(tmp_path / "a.html", "a", "", [None])
  assert (tmp_path / "a.html").read_bytes() == before
  assert [file.name for file in tmp_path.iterdir()] == ["a.html"]


# --- Charts -----------------------------------------------------------------------------------


def lines(chart):
  """[(x, y), ...] of each path of a chart that has a colour."""
  return [[tuple(map(float, place.split())) for place in re.split("[ML]|h0", path) if place]
          for path in re.findall(r'<path class="c\d[^"]*" d="([^"]*)"', chart)]


def test_a_line_of_many_points_keeps_its_peaks():
  points = [(i, 50.0 if i == 12345 else -50.0 if i == 2345 else i % 2) for i in range(20_000)]
  line, = lines(report.chart("loss", [Series("loss", points)]))
  assert len(line) <= report.MOST_POINTS + 2
  ys = [y for _, y in line]
  whole, = lines(report.chart("loss", [Series("loss", [*points[2340:2350], *points[12340:12350]])]))
  assert (min(ys), max(ys)) == (min(y for _, y in whole), max(y for _, y in whole))
  assert line == sorted(line, key=lambda place: place[0])


def test_points_that_cannot_be_drawn_are_left_out():
  odd = [(1, float("nan")), (2, float("inf")), (3, None), (4, "x"), (float("nan"), 1)]
  assert report.chart("loss", [Series("loss", odd)]) == ""
  assert report.charts("", "") == ""
  one, = lines(report.chart("loss", [Series("loss", [*odd, (5, 1.0), (6, 2.0)])]))
  assert len(one) == 2


def test_columns_stand_apart_alike_and_have_their_names():
  points = [(0, 1), (1, 3), (2, 2)]
  chart = report.chart("score", [Series("seed", points, "dots"), Series("", points, "crosses", 1)],
                       "rate", y_name="dev score", columns=["2e-05", "4e-05", "<1>"])
  dots, crosses = lines(chart)
  assert len(dots) == 3 and len(crosses) == 4 * 3  # the ends of two strokes each
  assert dots[1][0] - dots[0][0] == pytest.approx(dots[2][0] - dots[1][0], abs=0.2)
  labels = re.findall(r">([^<>]+)</text>", chart)
  assert labels[-5:] == ["2e-05", "4e-05", "&lt;1&gt;", "rate", "dev score"]
  assert chart.count('<span class="c') == 1  # a series without a name is not in the legend
  many = report.chart("score", [Series("seed", points)], columns=[f"r{i}" for i in range(40)])
  assert len(re.findall(r">r\d+</text>", many)) == 8


def test_one_point_and_a_constant_have_a_chart():
  for points in ([(1, 0.0)], [(1, 5.0), (2, 5.0)], [(7, -1e-9)]):
    assert "<svg" in report.chart("loss", [Series("loss", points, "dotted")])


def test_ticks_are_short_and_true():
  chart = report.chart("rate", [Series("rate", [(0, 0.0), (1_000_000, 5e-5)])])
  labels = re.findall(r">([^<>]+)</text>", chart)
  assert {"5e-5", "1e-5", "0", "200k", "1M"} <= set(labels)


def test_smoothing_keeps_a_slope_and_drops_noise():
  slope = [(i, 3.0 * i) for i in range(200)]
  assert np.allclose(report.smoothed(slope)[10:-10], slope[10:-10])
  rng = np.random.default_rng(0)
  noisy = list(enumerate(rng.standard_normal(400).tolist()))
  smooth = report.smoothed(noisy)
  assert [x for x, _ in smooth] == list(range(400))
  assert np.std([y for _, y in smooth]) < 0.3
  assert max(abs(y) for _, y in smooth[-5:]) < 1  # also at the ends
  assert report.smoothed([]) == []


def test_the_dev_set_stands_beside_the_training_of_the_same_name():
  records = [*({"step": i, "loss": 2.0, "learning_rate": 1.0, "masked_lm_loss": 1.0}
               for i in range(10)),
             {"step": 9, "eval_loss": 3.0, "eval_loss_mismatched": 4.0, "eval_masked_lm_loss": 1.0,
              "eval_f1": 0.5, "eval_f1_macro": 0.4}]
  figures = run_page.draw_metrics(records, [], {"masked_lm_loss": "Masked LM loss"})
  titles = [re.search("<figcaption>([^<]*)<", figure)[1] for figure in figures]
  assert titles == ["Loss", "Masked LM loss", "F1, dev", "Learning rate, at the steps logged"]
  assert [re.findall(r'<span class="c\d [a-z]*">([^<]*)</span>', figure) for figure in figures] == [
      ["training", "smoothed", "dev", "dev mismatched"], ["training", "smoothed", "dev"],
      ["dev", "dev macro"], []]
  short = run_page.draw_metrics(records[:9], [], {})  # too few to be smoothed
  assert "smoothed" not in "".join(short)


# --- Dev predictions --------------------------------------------------------------------------


def test_the_file_of_a_dev_split(dev, tmp_path):
  """Its texts are the same after csv has read it, whatever they hold."""
  readable = {"text": [text.replace("\ud800", "") for text in dev.texts["text"]],
              "other": dev.texts["other"]}
  file = tmp_path / "predictions" / "dev.tsv"
  dev_predictions.write_dev_file(file, predictions(readable, dev.gold, dev.probabilities))
  csv.field_size_limit(1 << 24)  # of this process: readers under test may have lowered it
  with file.open(encoding="utf-8", newline="") as opened:
    header, *rows = csv.reader(opened, delimiter="\t", strict=True)
  assert header == ["row", "text", "other", "gold", "prediction", "probability_bad",
                    "probability_good"]
  assert [row[1] for row in rows] == readable["text"]
  assert rows[3][:1] + rows[3][3:] == ["10", "bad", "good", "0.050000", "0.950000"]
  assert [row[0] for row in rows] == ["7", "8", "9", "10", "11"]


def test_the_wrong_ones_by_confidence(dev):
  assert dev.wrong.tolist() == [3, 2, 1]
  texts = "".join(dev_predictions.dev_sections(dev, {}))
  assert texts.index("long long") < texts.index("a\tb\nc") < texts.index("&lt;script")
  assert ">95.0%<" in texts and ">dull" not in texts
  assert "long " * 200 + " …" in texts and "long " * 201 not in texts  # 1,000 characters
  assert "Row 0" not in texts  # these rows have names of their own
  head = re.findall(r"<th[^>]*>([^<]*)</th>", texts[texts.index("got wrong,"):])
  assert head == ["row", "gold", "predicted", "probability", "text", "other"]


def test_a_page_shows_a_bounded_number_of_examples():
  count = 3 * dev_predictions.MOST_EXAMPLES
  many = predictions({"text": ["x"] * count}, np.zeros(count, int), [[.4, .6]] * count)
  content = "".join(dev_predictions.dev_sections(many, {}))
  assert f"300 of 300 examples, of which the {dev_predictions.MOST_EXAMPLES} " in content
  assert content.count(">60.0%<") == dev_predictions.MOST_EXAMPLES


def test_many_classes_show_their_largest_confusions():
  names = tuple(f"c{i}" for i in range(20))
  gold = np.asarray([3] * 5 + [4] * 2 + [5] * 4)
  guesses = np.asarray([7] * 5 + [4, 8] + [9, 9, 9, 5])
  many = predictions({"text": ["x"] * 11}, gold, np.eye(20)[guesses], names)
  content = "".join(dev_predictions.dev_sections(many, {}))
  assert 'class="matrix"' not in content
  pairs = re.findall(r">(c\d)</td><td[^>]*>(c\d)</td><td[^>]*>(\d)</td><td[^>]*>([\d.]+%)</td>",
                     content)
  assert pairs == [("c3", "c7", "5", "100.0%"), ("c5", "c9", "3", "75.0%"),
                   ("c4", "c8", "1", "50.0%")]


def test_a_regression_has_a_scatter_and_its_largest_errors(tmp_path):
  gold = np.asarray([0.0, 2.5, 5.0], np.float32)
  values = DevPredictions("dev", ["0", "1", "2"], {"text": ["a", "b", "c"]}, gold,
                          np.asarray([0.5, 2.5, 3.0], np.float32), np.zeros((3, 0)), ())
  content = "".join(dev_predictions.dev_sections(values, {}))
  cloud, = lines(content)
  assert len(cloud) == 3 and 'class="diagonal"' in content
  assert re.findall(r">([-+]\d\.\d{3})<", content) == ["-2.000", "+0.500", "+0.000"]
  dev_predictions.write_dev_file(tmp_path / "dev.tsv", values)
  assert (tmp_path / "dev.tsv").read_text().splitlines() == [
      "row\ttext\tgold\tprediction", "0\ta\t0.0\t0.5", "1\tb\t2.5\t2.5", "2\tc\t5.0\t3.0"]


# --- In a browser -----------------------------------------------------------------------------


def luminance(colour):
  """WCAG's relative luminance of "rgb(r, g, b)"."""
  parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
  linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
  return np.dot(linear, (0.2126, 0.7152, 0.0722))


@pytest.mark.skipif(not browser.CHROMIUM, reason="needs a Chromium (apt-get install chromium)")
def test_a_browser_shows_it(folder, tmp_path):
  """Light and dark, wide and narrow: no message, no request, nothing wider than the window."""
  page = folder / "report.html"
  backgrounds = []
  with browser.chromium() as window:
    for width in (1280, 390):
      for dark in (False, True):
        window.open(page, width=width, dark=dark)
        assert window.messages == [], (width, dark)
        assert window.requests == [page.as_uri()]
        assert window.value("document.title").startswith("own: <script>")
        assert window.value("document.scripts.length + document.images.length") == 0
        assert window.value("document.documentElement.scrollWidth") <= width
        right = window.value("Math.max(...[...document.querySelectorAll('td.text')].map("
                             "cell => cell.getBoundingClientRect().right))")
        assert 200 < right <= width  # a text needs no scrolling
        sizes = window.value("[...document.querySelectorAll('svg')].map(s => s.clientWidth)")
        assert len(sizes) == 4 and min(sizes) > 300
        background = window.value("getComputedStyle(document.body).backgroundColor")
        backgrounds.append(luminance(background))
        for element in ("h1", "header p", "td.text", "figcaption span", "a"):
          colour = window.value(f"getComputedStyle(document.querySelector('{element}')).color")
          low, high = sorted((luminance(colour), luminance(background)))
          assert (high + 0.05) / (low + 0.05) > 4.5, (element, dark)  # WCAG AA
    window.screenshot(tmp_path / "page.png")
  assert min(backgrounds[::2]) > 0.8 and max(backgrounds[1::2]) < 0.05
  assert (tmp_path / "page.png").stat().st_size > 10_000
