import html.parser
import json
import re
import sys
from pathlib import Path

import pytest

from audited import small_audit
from finished import result
from shiftproof.report import audit_page, runs_page
from shiftproof.report.drawing import Legend, Series, draw_curves, draw_grid, draw_map, draw_strip
from shiftproof.report.words import number, rate_cell
from shiftproof.results import RateResult
from shiftproof.results.audit import ShiftMap, Strip

VOID = {"meta", "link", "img", "input", "br", "rect", "path"}


class Page(html.parser.HTMLParser):
    """Elements of a page; an element that is not closed is an error."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def embedded(page):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    return json.loads(text)


@pytest.fixture(scope="module", params=["plain", "adaptive", "nan"])
def audited(request):
    found = small_audit(request.param)
    return found, audit_page(found)


def test_a_page_is_well_formed_and_needs_no_network(audited):
    _, page = audited
    found = Page(page)
    for _, attrs in found.elements:
        for name in ("src", "href", "action", "data", "srcset"):
            assert attrs.get(name, "data:").startswith(("data:", "#"))
    assert "http" not in re.sub(r"data:image/jpeg;base64,[^\"]*", "", page)
    assert "@import" not in page
    assert "url(" not in page
    assert len(page) < 2_000_000


def test_every_drawing_has_a_text_alternative(audited):
    _, page = audited
    found = Page(page)
    figures = [attrs for _, attrs in found.elements if attrs.get("role") == "img"]
    assert len(figures) > 8
    assert all(len(attrs["aria-label"]) > 20 for attrs in figures)
    assert all(attrs.get("aria-hidden") == "true" for attrs in found.all("svg"))
    assert all("alt" in attrs for attrs in found.all("img"))
    names = [attrs["id"] for _, attrs in found.elements if "id" in attrs]
    assert len(names) == len(set(names))
    for _, attrs in found.elements:
        assert attrs.get("aria-labelledby", names[0]) in names


def test_the_page_says_the_numbers_of_the_audit(audited):
    found, page = audited
    words = Page(page).words
    for network in found.networks:
        for rate in (network.pan.changes, network.pan.pictures, network.accuracy):
            assert f"{rate.successes} of {rate.n}" in words
            assert f"{number(100 * rate.low)} to {number(100 * rate.high)} %" in words
        jitter = network.pan.jitter
        if jitter is not None:
            assert f"{number(100 * jitter.value, 2)} %" in words
        assert f"{network.cost.value:.2f} x" in words
        for distance in network.distances:
            assert f"{distance.consistency.successes} of {distance.consistency.n}" in words
        for cause in network.causes:
            assert cause.reason in words
        for reason in (*network.missing.values(), *network.inapplicable.values()):
            assert reason.lower() in words.lower()
    for value in found.environment.versions.values():
        assert value in words


def test_the_data_of_the_script_is_that_of_the_audit(audited):
    found, page = audited
    data = embedded(page)
    for network, strips, maps in zip(found.networks, data["strips"], data["maps"], strict=True):
        assert [tuple(s["classes"]) for s in strips] == [s.classes for s in network.strips]
        assert [tuple(s["probabilities"]) for s in strips] == [
            s.probabilities for s in network.strips
        ]
        for shown, drawn in zip(network.maps, maps, strict=True):
            assert drawn["motion"] == shown.motion
            assert tuple(map(tuple, drawn["classes"])) == shown.classes
            assert tuple(map(tuple, drawn["probabilities"])) == shown.probabilities


def test_every_strip_and_map_has_its_table(audited):
    found, page = audited
    words = Page(page).words
    picture = found.pictures[0]
    for network in found.networks:
        strip = network.strips[0]
        name = found.class_names.get(strip.classes[0], "no answer")
        value = strip.probabilities[0]
        assert f"{name} ({'-' if value is None else f'{value:.2f}'})" in words
    tables = Page(page).all("table")
    shown = sum(len(n.maps) for n in found.networks)
    assert len(tables) >= 1 + shown + len(found.pictures)
    assert picture.jpeg in page


def test_names_cannot_break_out_of_the_page():
    page = audit_page(small_audit())
    assert "tiny <network>" not in page
    assert "tiny &lt;network&gt;" in page
    (text,) = re.findall(r'id="data">(.*?)</script>', page)
    assert "<" not in text


def test_without_jinja2_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(RuntimeError, match=r"pip install 'shiftproof\[report\]'"):
        audit_page(small_audit())


LEGEND = Legend((7, 3), ("seven", "three"))


def test_a_strip_has_a_column_per_frame_and_a_mark_where_the_answer_is_another():
    strip = Strip(0, (-1, 0, 1), (7, 3, None), (0.5, 0.25, None))
    drawn = draw_strip(strip, LEGEND)
    assert 'class="k0 tint" d="M0 4h1v20h-1z"' in drawn
    assert 'class="k0" d="M0 14.0h1v10.0h-1z"' in drawn
    assert 'class="k1" d="M1 19.0h1v5.0h-1z"' in drawn
    assert 'class="k5 tint" d="M2 4h1v20h-1z"' in drawn
    assert drawn.count("v2h-.6z") == 2


def test_a_map_is_stronger_where_the_reference_is_surer():
    found = ShiftMap(0, "crop", (-1, 0), ((7, 7), (3, None)), ((0.1, 0.99), (0.2, None)))
    drawn = draw_map(found, LEGEND)
    assert 'class="k0 l0" d="M0 0h1v1h-1z"' in drawn
    assert 'class="k0 l4" d="M1 0h1v1h-1z"' in drawn
    assert 'class="k1 l1" d="M0 1h1v1h-1z"' in drawn
    assert 'class="zero" x="1" y="1"' in drawn


def test_answers_beyond_the_alphabet_have_a_letter():
    legend = Legend(tuple(range(30)), tuple(map(str, range(30))))
    letters = [legend.letter(number) for number in range(30)]
    assert len(set(letters)) == 30
    assert legend.colour(29) == 4


@pytest.mark.parametrize("values", [[], [50.0], [99.9, 100.0], [0.0, 1e6], [0.001, 0.002]])
def test_curves_of_any_range_are_drawn(values):
    points = tuple((index / 2, value, None, None) for index, value in enumerate(values))
    assert draw_curves([Series("a", points)], [(0, "1")], "pixels").endswith("</svg>")


def test_a_grid_says_its_numbers():
    drawn = draw_grid([[1.0, 2.0], [3.0, 4.0]], 1.0, 4.0)
    assert [float(v) for v in re.findall(r">([\d.]+)</text>", drawn)] == [1.0, 2.0, 3.0, 4.0]
    assert "g0" in drawn
    assert "g4" in drawn
    assert "g4" in draw_grid([[5.0]], 5.0, 5.0)


def test_a_rate_of_one_picture_has_no_interval():
    cell = rate_cell(RateResult("a", 8, 2, 0.0, 1.0, num_clusters=1), "moves")
    assert "one picture gives no interval" in cell.note


def test_runs_stand_side_by_side():
    runs = [result(stride=2), result(stride=3, model="other"), result(consistency=False)]
    page = runs_page(runs)
    found = Page(page)
    assert "tiny (1)" in found.words
    assert "tiny (2)" in found.words
    for rate in runs[0].rates.values():
        assert f"{number(rate.percent)} %" in found.words
    assert "12,345" in found.words
    assert "missing" in found.words
    figures = [attrs for _, attrs in found.elements if attrs.get("role") == "img"]
    assert len(figures) == 3 + 4
    assert len(page) < 200_000


def test_the_headline_of_runs_names_the_worst_and_the_best():
    page = runs_page([result(), result(consistency=False, model="silent")])
    assert "<h1>Shift a picture around the circle, and tiny changes its answer 20" in page
    assert "<h1>1 finished run.</h1>" in runs_page([result(consistency=False)])


def test_runs_without_epochs_have_no_histories():
    assert "How they were trained" not in runs_page([result(epochs=0)])
    assert "How they were trained" in runs_page([result(epochs=1)])


def test_a_page_of_runs_needs_a_run():
    with pytest.raises(ValueError, match="report: there must be at least one finished run"):
        runs_page([])


def test_the_colours_of_text_have_contrast():
    """4.5 to 1 on paper and on panels, in both themes."""
    style = Path(sys.modules["shiftproof.report"].__file__).with_name("assets") / "page.css"
    blocks = re.findall(r":root[^{]*\{([^}]*)\}", style.read_text(encoding="utf-8"))
    checked = 0
    for block in blocks:
        colours = dict(re.findall(r"--(\w+): (#\w+)", block))
        for text in ("ink", "muted", "link", "hole"):
            for ground in ("paper", "panel"):
                if text in colours and ground in colours:
                    assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
                    checked += 1
    assert checked >= 24


def _contrast(first, second):
    def luminance(colour):
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(map(luminance, (first, second)))
    return (high + 0.05) / (low + 0.05)


def test_curves_stand_apart_where_they_have_whiskers_and_nowhere_else():
    def x_of(points):
        drawn = draw_curves([Series("a", points), Series("b", points)], [], "pixels")
        return [float(x) for x in re.findall(r'class="curve s\d d0" d="M([\d.]+) ', drawn)]

    first, second = x_of(((0.5, 1.0, 0.5, 1.5),))
    assert second - first == 5
    first, second = x_of(((0.5, 1.0, None, None),))
    assert first == second
