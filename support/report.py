"""A page of HTML in one file: scores, facts, charts, tables. It loads nothing and runs no script.

A page is a list of sections, a section a list of the parts that the functions here make. Whatever
is no `Html` is text, and escaped. A chart is inline SVG, whose colours follow the page's style
sheet: light or dark, on a screen or on paper.
"""

from collections.abc import Iterable, Sequence
import html
import itertools
import pathlib
import re
import shlex
from typing import Any, NamedTuple
from urllib import parse

from support.files import written_whole

MOST_POINTS = 600  # of a line; more are too fine for the eye and make the page large
_WIDTH, _HEIGHT = 420, 250  # of a chart, in units of its view box
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 20, 40  # margins of its plot
_NUMBER = ' class="number"'
_COLOURS = 8  # --c0 ... in the style sheet; the first five by Okabe and Ito, for colour-blind eyes
_MOST_NAMES = 9  # below an axis
# What HTML does not allow in a text, and half surrogate pairs, which no file can hold.
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


class Html(str):
  """HTML that is part of a page as it is; any other text is escaped."""


class Series(NamedTuple):
  """A line or a cloud of points of a chart.

  Attributes:
    name: for the legend; "": not in it.
    points: (x, y) each; a line's in the order of x.
    style: "line", "faint" (a thin line behind others), "dotted" (a line with a dot at each point),
      "cloud" (faint dots that may lie on one another), "dots" or "crosses".
    colour: a number from 0; the same number is the same colour in all charts.
  """

  name: str
  points: Sequence[tuple[float, float]]
  style: str = "line"
  colour: int = 0


class Band(NamedTuple):
  """A marked range of a chart's x axis."""

  first: float
  last: float
  name: str


def write_page(path: pathlib.Path, title: str, lead: str, sections: Sequence[Html]) -> None:
  """Writes a page, whole or not at all; several processes may do so at once.

  Args:
    path: of the file.
    title: the heading, and the window's title.
    lead: a line below it.
    sections: see `section`; their headings are listed below the lead.
  """
  links = " ".join(f'<a href="#{name}">{heading}</a>' for name, heading in re.findall(
      r'^<section id="([^"]*)"><h2>(.*?)</h2>', "\n".join(sections), re.MULTILINE))
  content = (
      '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
      '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
      # The second lock beside escaping: no script runs, and nothing is loaded.
      '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
      'style-src \'unsafe-inline\'; img-src data:">\n<link rel="icon" href="data:,">\n'
      f"<title>{escaped(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
      f"<header><h1>{escaped(title)}</h1><p>{escaped(lead)}</p><nav>{links}</nav></header>\n"
      f"<main>\n" + "\n".join(sections) + "\n</main>\n</body>\n</html>\n")
  with written_whole(path, shared=True) as temporary:
    temporary.write_text(content, "utf-8")


def escaped(value: Any) -> Html:
  """Returns a text as HTML that shows it; `Html` as it is."""
  if isinstance(value, Html):
    return value
  return Html(html.escape(_UNFIT.sub("\ufffd", str(value))))


def section(title: str, *parts: Html) -> Html:
  """Returns a section with its heading; "" where there are no parts."""
  if not any(parts):
    return Html("")
  name = re.sub(r"[^a-z0-9]+", "-", title.lower())
  return Html(f'<section id="{name}"><h2>{escaped(title)}</h2>\n' + "\n".join(parts)
              + "</section>")


def paragraph(*parts: str) -> Html:
  """Returns a paragraph, of texts and links."""
  return Html(f"<p>{''.join(map(escaped, parts))}</p>")


def command(words: Sequence[str]) -> Html:
  """Returns a command of Python, as a shell takes it, with a line for each flag."""
  lines = " \\\n    ".join(map(shlex.quote, words))
  return Html(f'<pre tabindex="0">{escaped(f"python3 {lines}")}</pre>')


def link(path: str, text: str = "", title: str = "") -> Html:
  """Returns a link to a neighbour of the page.

  Args:
    path: from the page's folder on.
    text: of the link; "": the path.
    title: what a pointer that rests on it sees.
  """
  hint = f' title="{escaped(title)}"' if title else ""
  return Html(f'<a href="{parse.quote(path)}"{hint}>{escaped(text or path)}</a>')


def folded(title: str, *parts: Html) -> Html:
  """Returns parts that a click on the title unfolds."""
  return Html(f"<details><summary>{escaped(title)}</summary>\n" + "\n".join(parts)
              + "</details>")


def scores(pairs: Iterable[tuple[str, Any]]) -> Html:
  """Returns large figures side by side, each with its name."""
  return Html('<dl class="scores">' + "".join(
      f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>" for name, value in pairs)
              + "</dl>")


def facts(pairs: Iterable[tuple[str, Any]]) -> Html:
  """Returns a list of names and values; a pair without a value is left out."""
  rows = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>" for name, value in pairs
                 if value not in ("", None))
  return Html(f'<dl class="facts">{rows}</dl>')


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], texts: Sequence[str] = ()) -> Html:
  """Returns a table; in a narrow window it scrolls, or stacks its cells where it has long texts.

  Args:
    header: the columns' names.
    rows: a value each column; numbers stand right.
    texts: the columns of long text, which wrap.
  """
  cells = [[_cell(value, name, name in texts) for name, value in zip(header, row, strict=True)]
           for row in rows]
  body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in cells)
  first = cells[0] if cells else [""] * len(header)
  head = "".join(
      f'<th{_NUMBER if _NUMBER in cell else ""}>{_breakable(name)}</th>'
      for name, cell in zip(header, first, strict=True))
  return _scrolling(f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>",
                    ' class="stacks"' if texts else "")


def _breakable(name: str) -> str:
  """Returns a name, of a knob or a class, that may wrap after each underscore."""
  return escaped(name).replace("_", "_<wbr>")


def _cell(value: Any, name: str, is_text: bool) -> str:
  number = isinstance(value, int | float) or (
      isinstance(value, str) and re.fullmatch(r"[-+±]?[0-9][0-9,.e+-]*%?", value))
  # dir=auto: a text in Arabic or Hebrew runs from the right, in its own cell alone.
  kind = ' class="text" dir="auto"' if is_text else _NUMBER if number else ' dir="auto"'
  return f'<td{kind} data-name="{escaped(name)}">{escaped(value)}</td>'


def _scrolling(content: str, kind: str = "") -> Html:
  # tabindex: the arrow keys scroll it too.
  return Html(f'<div class="scrolls" tabindex="0"><table{kind}>{content}</table></div>')


def matrix(names: Sequence[str], counts: Sequence[Sequence[int]], corner: str) -> Html:
  """Returns a table of counts, with each one's share of its row, by which it is shaded.

  Args:
    names: of the rows, and of the columns.
    counts: [rows, columns].
    corner: says what rows and columns are.
  """
  head = "".join(f"<th>{_breakable(name)}</th>" for name in names)
  body = []
  for i, row in enumerate(counts):
    cells = [f'<th scope="row">{_breakable(names[i])}</th>']
    for j, count in enumerate(row):
      share = count / sum(row) if sum(row) else 0.0
      kind = "right" if i == j else "wrong"
      cells.append(f'<td class="{kind}" style="--share:{share:.3f}">{count:,}'
                   f"<small>{share:.1%}</small></td>")
    body.append(f"<tr>{''.join(cells)}</tr>")
  return _scrolling(f"<thead><tr><th>{escaped(corner)}</th>{head}</tr></thead>\n"
                    f"<tbody>{''.join(body)}</tbody>", ' class="matrix"')


# --- Charts ---------------------------------------------------------------------------------


def charts(*figures: Html) -> Html:
  """Returns charts side by side, as many as the window has room for."""
  return Html(f'<div class="charts">{"".join(figures)}</div>' if any(figures) else "")


def chart(title: str, series: Sequence[Series], x_name: str = "step", *, y_name: str = "",
          columns: Sequence[str] = (), span: Sequence[float] = (), bands: Sequence[Band] = (),
          diagonal: bool = False) -> Html:
  """Returns a chart of lines or points; "" if there is none to draw.

  Args:
    title: stands above it.
    series: drawn in this order; points that are no finite numbers are left out, and of many
      points of a line those that its shape needs are kept.
    x_name: of the x axis, below it.
    y_name: of the y axis, above it, where the title does not say it.
    columns: names of the places 0, 1, ... on the x axis, where it has no numbers.
    span: values that the x axis reaches, whatever the points do.
    bands: of x, shaded by turns and named: phases of a run.
    diagonal: draws y = x, and gives both axes the same range.
  """
  drawn = [one._replace(points=kept) for one in series if (kept := [
      (x, y) for x, y in one.points if _is_finite(x) and _is_finite(y)])]
  if not drawn:
    return Html("")
  x_values, y_values = ([point[i] for one in drawn for point in one.points] for i in (0, 1))
  x_values += [*span, *(edge for band in bands for edge in band[:2])]
  if diagonal:
    x_values = y_values = x_values + y_values
  x_axis = _Axis(x_values, _LEFT, _WIDTH - _RIGHT, whole=x_name == "step", columns=columns)
  y_axis = _Axis(y_values, _HEIGHT - _BOTTOM, _TOP)
  parts = [_band(band, i, x_axis) for i, band in enumerate(bands)]
  parts += [_grid(x_axis, y_axis, x_name, y_name)]
  if diagonal:
    ends = [(x_axis.place(v), y_axis.place(v)) for v in (x_axis.first, x_axis.last)]
    parts.append(f'<path class="diagonal" d="{_path(ends)}"/>')
  parts += [_drawing(one, x_axis, y_axis) for one in drawn]
  legend = "".join(f'<span class="c{one.colour % _COLOURS} {one.style}">{escaped(one.name)}</span>'
                   for one in drawn if one.name) if len(drawn) > 1 else ""
  return Html(
      f"<figure><figcaption>{escaped(title)}<span>{legend}</span></figcaption>"
      f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escaped(title)}">'
      f"{''.join(parts)}</svg></figure>")


def smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
  """Returns each point's mean with its neighbours, a tenth of the points, at least five."""
  points = [(x, y) for x, y in points if _is_finite(x) and _is_finite(y)]
  reach = max(len(points) // 20, 2)
  sums = list(itertools.accumulate((y for _, y in points), initial=0.0))
  result = []
  for i, (x, _) in enumerate(points):
    first, end = max(i - reach, 0), min(i + reach + 1, len(points))
    result.append((x, (sums[end] - sums[first]) / (end - first)))
  return result


def _is_finite(value: Any) -> bool:
  return isinstance(value, int | float) and -1e300 < value < 1e300


class _Axis:
  """An axis: its range, its ticks with their labels, and the place of a value."""

  def __init__(self, values: Sequence[float], start: float, end: float, whole: bool = False,
               columns: Sequence[str] = ()):
    from matplotlib import ticker  # here: half a second

    self._start, self._end = start, end
    if columns:
      self.first, self.last = -0.5, len(columns) - 0.5
      self.ticks = dict(list(enumerate(columns))[::-(-len(columns) // _MOST_NAMES)])
      return
    first, last = min(values), max(values)
    if first == last:
      first, last = first - (abs(first) or 1) / 10, last + (abs(last) or 1) / 10
    ticks = ticker.MaxNLocator(nbins=5, integer=whole).tick_values(first, last).tolist()
    if whole:
      self.first, self.last = first, last
    else:  # up to the next ticks
      self.first, self.last = ticks[0], ticks[-1]
    self.ticks = {tick: _short(tick) for tick in ticks if self.first <= tick <= self.last}

  def place(self, value: float) -> float:
    """Returns a value's place in the view box."""
    share = (value - self.first) / (self.last - self.first)
    return round(self._start + share * (self._end - self._start), 1)


def _short(value: float) -> str:
  """Returns a tick's label: 0.25, 5e-5, 20k, 1M."""
  for least, size, unit in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
    if abs(value) >= least:
      return f"{value / size:.6g}{unit}"
  return re.sub(r"e([-+])0*", lambda sign: "e" + sign[1].strip("+"), f"{value:.6g}")


def _grid(x_axis: _Axis, y_axis: _Axis, x_name: str, y_name: str) -> str:
  parts, bottom, right = [], _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
  for tick, label in y_axis.ticks.items():
    y = y_axis.place(tick)
    parts.append(f'<path class="grid" d="M{_LEFT} {y}H{right}"/>'
                 f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{label}</text>')
  for tick, label in x_axis.ticks.items():
    x = x_axis.place(tick)
    parts.append(f'<path class="tick" d="M{x} {bottom}v4"/>'
                 f'<text x="{x}" y="{bottom + 17}" text-anchor="middle">{escaped(label)}</text>')
  parts.append(f'<path class="axis" d="M{_LEFT} {bottom}H{right}"/>'
               f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 5}" text-anchor="middle">'
               f"{escaped(x_name)}</text>")
  if y_name:
    parts.append(f'<text x="0" y="10">{escaped(y_name)}</text>')
  return "".join(parts)


def _band(band: Band, index: int, x_axis: _Axis) -> str:
  left, right = x_axis.place(band.first), x_axis.place(band.last)
  at_end = left > (_LEFT + _WIDTH) / 2  # where its name would run out of the chart
  return (f'<rect class="band{index % 2}" x="{left}" y="{_TOP}" width="{max(right - left, 1):.1f}" '
          f'height="{_HEIGHT - _BOTTOM - _TOP}"/>'
          f'<text class="name" x="{right if at_end else left}" y="{_TOP - 5}" '
          f'text-anchor="{"end" if at_end else "start"}">{escaped(band.name)}</text>')


def _drawing(series: Series, x_axis: _Axis, y_axis: _Axis) -> str:
  colour = f"c{series.colour % _COLOURS}"
  places = [(x_axis.place(x), y_axis.place(y)) for x, y in series.points]
  if series.style in ("cloud", "dots", "crosses"):
    marks = _crosses(places) if series.style == "crosses" else _dots(places)
    return f'<path class="{colour} {series.style}" d="{marks}"/>'
  line = f'<path class="{colour} {series.style}" d="{_path(_thinned(places))}"/>'
  if len(places) <= (60 if series.style == "dotted" else 1):
    line += f'<path class="{colour} dots" d="{_dots(places)}"/>'
  return line


def _thinned(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
  """Keeps the lowest and the highest point of each stretch, so that no peak is lost."""
  if len(places) <= MOST_POINTS:
    return list(places)
  size, kept = 2 * len(places) / MOST_POINTS, []
  for i in range(MOST_POINTS // 2):
    stretch = range(round(i * size), round((i + 1) * size))
    kept += sorted({min(stretch, key=lambda j: places[j][1]),
                    max(stretch, key=lambda j: places[j][1])})
  return [places[0], *(places[i] for i in kept), places[-1]]


def _path(places: Sequence[tuple[float, float]]) -> str:
  return "M" + "L".join(f"{x:g} {y:g}" for x, y in places)


def _dots(places: Sequence[tuple[float, float]]) -> str:
  return "".join(f"M{x:g} {y:g}h0" for x, y in places)  # a line of no length has round ends


def _crosses(places: Sequence[tuple[float, float]]) -> str:
  return "".join(f"M{x - 3:g} {y - 3:g}L{x + 3:g} {y + 3:g}M{x - 3:g} {y + 3:g}L{x + 3:g} {y - 3:g}"
                 for x, y in places)


_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --line: #d5dbe1;
  --ground: #ffffff; --raised: #f5f7f9; --faint: .45; --c0: #0067a3; --c1: #c24600; --c2: #00795a;
  --c3: #a23f7b; --c4: #7d5c00; --c5: #4f43b5; --c6: #b3261e; --c7: #4a6a00; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --soft: #9ba6b1; --line: #363d46; --ground: #14171a;
    --raised: #1d2126; --faint: .8; --c0: #62bdf5; --c1: #ff9d61; --c2: #46cfa7; --c3: #e896c6;
    --c4: #e5c04e; --c5: #aaa0ff; --c6: #ff8a80; --c7: #a9d45e; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem clamp(1rem, 4vw, 3rem) 4rem;
  background: var(--ground); color: var(--ink); font: 1rem/1.5 system-ui, -apple-system,
  "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "Liberation Sans", Arial, sans-serif;
  font-variant-numeric: tabular-nums; }
h1 { margin: 0; font-size: clamp(1.4rem, 1rem + 2vw, 2rem); line-height: 1.2;
  overflow-wrap: anywhere; text-wrap: balance; }
h2 { margin: 0 0 1rem; font-size: 1.2rem; line-height: 1.3; }
header p { margin: .4rem 0 1rem; color: var(--soft); overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .9rem; }
a { color: var(--c0); text-underline-offset: .15em; }
section { margin-top: 2.2rem; padding-top: 1.4rem; border-top: 1px solid var(--line); }
section > p { max-width: 46rem; color: var(--soft); margin: 0 0 1rem; }
pre { margin: 0 0 1.2rem; padding: .8rem 1rem; background: var(--raised); border-radius: 6px;
  font: .85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace;
  overflow-x: auto; }
.scores { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr));
  gap: .8rem; margin: 0 0 1.2rem; }
.scores div { padding: .7rem 1rem; background: var(--raised); border-radius: 6px; }
.scores dt { color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
.scores dd { margin: 0; font-size: 1.6rem; line-height: 1.3; font-weight: 600; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.5rem; margin: 0; }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr));
  gap: 1.6rem 1.4rem; }
figure { margin: 0; max-width: 36rem; min-width: 0; break-inside: avoid; display: flex;
  flex-direction: column; justify-content: space-between; }
figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem;
  font-weight: 600; font-size: .95rem; margin-bottom: .3rem; }
figcaption > span { display: flex; flex-wrap: wrap; gap: 0 .9rem; font-weight: 400;
  font-size: .82rem; color: var(--soft); overflow-wrap: anywhere; min-width: 0; }
figcaption span span::before { content: ""; display: inline-block; width: 1.1em;
  border-top: 2.5px solid var(--c); vertical-align: .28em; margin-right: .4em; }
figcaption span .faint::before { border-top-width: 1px; opacity: var(--faint); }
figcaption span .dotted::before { border-top-style: dashed; }
figcaption span .cloud::before, figcaption span .dots::before { width: .5em; height: .5em;
  border: 0; border-radius: 50%; background: var(--c); vertical-align: .1em; }
figcaption span .crosses::before { content: "\\d7"; width: auto; border: 0; color: var(--c);
  font-weight: 700; vertical-align: 0; }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); }
.c3 { --c: var(--c3); } .c4 { --c: var(--c4); } .c5 { --c: var(--c5); }
.c6 { --c: var(--c6); } .c7 { --c: var(--c7); }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-size: 12px; fill: var(--soft); }
svg path { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; }
svg .faint { stroke-width: 1; opacity: var(--faint); }
svg .dotted { stroke-dasharray: 6 3; stroke-width: 1.6; }
svg .dots { stroke-width: 6; stroke-linecap: round; }
svg .cloud { stroke-width: 6; stroke-linecap: round; opacity: .45; }
svg .grid { stroke: var(--line); stroke-width: .8; }
svg .axis, svg .tick { stroke: var(--soft); stroke-width: 1; }
svg .diagonal { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 3 4; }
svg .band0 { fill: transparent; } svg .band1 { fill: var(--soft); opacity: .13; }
svg .name { font-weight: 600; }
.scrolls { overflow-x: auto; margin-bottom: 1.2rem; }
table { border-collapse: collapse; font-size: .92rem; }
th { text-align: start; font-weight: 600; color: var(--soft); vertical-align: bottom; }
th, td { padding: .45rem .9rem .45rem 0; border-bottom: 1px solid var(--line); }
th:last-child, td:last-child { padding-right: .2rem; }
td { vertical-align: top; }
td { white-space: nowrap; } .number { text-align: end; }
td.text { min-width: min(15rem, 60vw); max-width: 44rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.matrix th { max-width: 12rem; overflow-wrap: break-word; vertical-align: middle; }
.matrix thead th + th { text-align: center; }
.matrix td { min-width: 6rem; padding: .5rem .8rem; text-align: center; font-size: 1.05rem;
  border: 2px solid var(--ground); border-radius: 4px;
  background: color-mix(in srgb, var(--c) calc(var(--share) * 55%), var(--raised)); }
.matrix th { border: 0; }
.matrix td small { display: block; font-size: .78rem; }
.matrix .right { --c: var(--c0); } .matrix .wrong { --c: var(--c1); }
details { margin-top: 1.2rem; } summary { cursor: pointer; color: var(--c0); }
details[open] summary { margin-bottom: .6rem; }
@media (max-width: 34rem) { .matrix td { min-width: 4.5rem; } .stacks thead { display: none; }
  .stacks tr { display: flex; flex-wrap: wrap; gap: 0 1.2rem; padding: .6rem 0;
    border-bottom: 1px solid var(--line); }
  .stacks td, .stacks td:last-child { border: 0; padding: .1rem 0; }
  .stacks td.text { flex: 1 0 100%; min-width: 0; }
  .stacks td::before { content: attr(data-name) "\\a0"; color: var(--soft); font-size: .85em; }
  .facts { grid-template-columns: 1fr; gap: 0; }
  .facts dd { margin-bottom: .6rem; } .scores { grid-template-columns: 1fr 1fr; } }
@media print { :root { color-scheme: light; } nav { display: none; }
  body { padding: 0; max-width: none; font-size: 10pt; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  .scrolls { overflow: visible; } td.text { min-width: 8rem; }
  tr, figure, .matrix { break-inside: avoid; }
  section { break-inside: auto; } h2 { break-after: avoid; }
  .matrix td, .scores div, svg .band1 { print-color-adjust: exact;
    -webkit-print-color-adjust: exact; }
  .charts { grid-template-columns: 1fr 1fr; } }
"""
