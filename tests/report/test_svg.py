import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtcpo.report.svg import (
    MAX_POINTS,
    Interval,
    Series,
    bars,
    histogram,
    interval_plot,
    line_plot,
    thin_out,
    tick_label,
    ticks,
)

FINITE = st.floats(-1e6, 1e6, allow_nan=False)


@settings(deadline=None)
@given(FINITE, st.floats(1e-4, 1e6))
def test_ticks_are_few_and_inside_the_range(low, width):
    high = low + width
    marks = ticks(low, high)
    assert 3 <= len(marks) <= 10
    slack = 1e-6 * max(1.0, abs(low), abs(high))
    assert all(low - slack <= mark <= high + slack for mark in marks)


def test_ticks_by_hand():
    assert ticks(0, 10) == [0, 5, 10]
    assert ticks(0.16, 1.02) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(-21, -9.5) == [-20, -15, -10]


@pytest.mark.parametrize(
    ("value", "step", "text"),
    [(0.25, 0.05, "0.25"), (-1.5, 0.5, "−1.5"), (20.0, 10.0, "20"), (5000.0, 5000.0, "5k"), (0.0, 1000.0, "0")],
)
def test_tick_labels(value, step, text):
    assert tick_label(value, step) == text


def test_a_long_curve_is_averaged_and_keeps_its_shape():
    points = [(float(x), 2.0 * x) for x in range(1000)]
    thin = thin_out(points)
    assert len(thin) == MAX_POINTS
    assert all(y == pytest.approx(2 * x) for x, y in thin)
    assert thin_out(points[:10]) == points[:10]


def parse(svg):
    """Well-formed, or an error; numbers are finite."""
    assert "nan" not in svg
    assert "inf" not in svg
    return ElementTree.fromstring(str(svg))


@settings(deadline=None)
@given(st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=30))
def test_any_curve_can_be_drawn_inside_its_frame(points):
    root = parse(line_plot([Series("loss", sorted(points))], "loss"))
    places = root.find("polyline").get("points").split()
    assert len(places) == len(points)
    for place in places:
        x, y = map(float, place.split(","))
        assert 45.9 <= x <= 352.1
        assert 7.9 <= y <= 168.1


def test_a_curve_by_hand():
    root = parse(line_plot([Series("a", [(0, 0), (1, 1)]), Series("b", [(0, 1)])], "two"))
    first, second = root.findall("polyline")
    assert first.get("class") == "curve s1"
    assert second.get("class") == "curve s2"
    (x0, y0), (x1, y1) = [tuple(map(float, p.split(","))) for p in first.get("points").split()]
    assert (x0, x1) == (46.0, 352.0)
    assert y0 > y1  # higher values are higher up
    assert second.get("points") == f"46.0,{y1}"


def test_better_intervals_are_right_of_zero_and_worse_ones_left():
    rows = [Interval("up", 1, 2, 3, "better", "p < 0.001"), Interval("down", -3, -2, -1, "worse", "p = 0.01")]
    root = parse(interval_plot(rows, "deltas"))
    zero = float(next(line for line in root.iter("line") if line.get("class") == "zero").get("x1"))
    up, down = root.findall("g")
    assert (up.get("class"), down.get("class")) == ("tone-better", "tone-worse")
    assert (
        zero < float(up.find("line").get("x1")) < float(up.find("circle").get("cx")) < float(up.find("line").get("x2"))
    )
    assert float(down.find("line").get("x2")) < zero


def test_equal_values_are_drawn_without_dividing_by_zero():
    parse(interval_plot([Interval("same", 0.0, 0.0, 0.0, "same", "p = 1.00")], "nothing"))
    parse(line_plot([Series("flat", [(1, 5.0), (2, 5.0)])], "flat"))
    parse(histogram([0.0, 1.0], [0.0], "empty"))
    assert "nan" not in str(line_plot([Series("flat", [(1, 5.0), (2, 5.0)])], "flat")).lower()


def test_histogram_by_hand():
    root = parse(histogram([0, 1, 2], [2, 1], "h"))
    high, low = [float(rect.get("height")) for rect in root.findall("rect")]
    assert high == pytest.approx(2 * low, abs=0.2)
    assert [rect.find("title").text for rect in root.findall("rect")] == ["0 to 1: 2", "1 to 2: 1"]


def test_bars_by_hand():
    root = parse(bars([("kept", 100.0, "main"), ("none", 0.0, "same"), ("half", 50.0, "same")], "b"))
    widths = [float(rect.get("width")) for rect in root.findall("rect")]
    assert widths[0] == pytest.approx(2 * widths[2], abs=0.2)
    assert widths[1] == 0
    assert [text.text for text in root.findall("text")] == ["kept", "100", "none", "0", "half", "50"]


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"><img src=x>', "a & b"])
def test_names_are_escaped(name):
    rows = [Interval(name, 0, 1, 2, "better", name)]
    for svg in (interval_plot(rows, name), line_plot([Series(name, [(0, 1)])], name), bars([(name, 1, "main")], name)):
        root = parse(svg)
        assert root.get("aria-label") == name
        assert not re.search(r"<(script|img)", str(svg))


def test_a_long_label_is_shortened_and_complete_in_the_title():
    root = parse(interval_plot([Interval("a very long system name", 0, 1, 2, "same", "p")], "x"))
    assert root.find("g/text").text == "a very long s…"
    assert root.find("g/title").text.startswith("a very long system name")
