"""Plots as inline SVG: no plotting package, no colors of their own, every string escaped.

Classes give colors and font sizes from the page's style sheet, so that a plot follows light and dark mode. A drawing is
360 units wide, about the width of a phone, where its text is readable without scaling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from operator import attrgetter, itemgetter

from markupsafe import Markup

WIDTH = 360
MAX_POINTS = 160
"""Longer curves are averaged down to this many points: more would not be visible, only make the file larger."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot with its title, a note, and the names of its curves, or () if there is only one."""

    title: str
    svg: Markup
    legend: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """A curve. points: (x, y), finite, x ascending."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its bounds. tone: "better", "worse" or "same"; note: text on the right."""

    label: str
    low: float
    middle: float
    high: float
    tone: str
    note: str


@dataclass(frozen=True, slots=True)
class Frame:
    """The coordinate system of a plot: data ranges, and the rectangle (in SVG units) to which they are mapped."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: float
    right: float
    top: float
    bottom: float

    def x(self, value: float) -> float:
        """Return the horizontal position of a value."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Return the vertical position of a value; in SVG, y grows downward."""
        low, high = self.y_range
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)


def ticks(low: float, high: float) -> list[float]:
    """Return three to eight round values within [low, high], spaced 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(high - low))
    for step in (5 * power, 2 * power, power, power / 2, power / 5):
        # A tolerance: 0.3 / 0.1 is 2.9999999999999996, and the tick at 0.3 would be lost.
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first >= 2:
            break
    return [number * step for number in range(first, last + 1)]


def tick_label(value: float, step: float) -> str:
    """Return a tick's label, with as many decimals as the step needs, k for thousands, and a true minus sign."""
    if step >= 1000:
        return f"{value / 1000:g}k".replace("-", "−") if value else "0"
    # As many as the step has: two for 0.05. log10(0.001) is slightly below -3, hence the tolerance.
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:.{decimals}f}".replace("-", "−")


def _padded(low: float, high: float, share: float) -> tuple[float, float]:
    """Widen a range by a share of its width on either side; a single value gets a range around it."""
    if high - low < 1e-12 * max(1.0, abs(low), abs(high)):
        half = abs(high) * 0.1 or 1.0
        return low - half, high + half
    return low - share * (high - low), high + share * (high - low)


# Markup.format escapes its arguments, so that no name of a system or metric can become a tag.


def _svg(height: float, label: str, *parts: Markup) -> Markup:
    return Markup('<svg class="plot" viewBox="0 0 {} {:g}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, label, Markup("").join(parts)
    )


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(kind, x, y, anchor, text)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(kind, x1, y1, x2, y2)


def _rectangle(x: float, y: float, width: float, height: float, kind: str, title: str = "") -> Markup:
    # The title is the bar's tooltip. SVG does not allow a negative width.
    return Markup(
        '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="1.5"><title>{}</title></rect>'
    ).format(kind, x, y, max(width, 0.0), max(height, 0.0), title)


def _y_axis(frame: Frame) -> list[Markup]:
    marks = ticks(*frame.y_range)
    step = marks[1] - marks[0]
    parts = []
    for value in marks:
        parts.append(_line(frame.left, frame.y(value), frame.right, frame.y(value), "grid"))
        parts.append(_text(frame.left - 6, frame.y(value) + 4, tick_label(value, step), "end"))
    return parts


def _x_axis(frame: Frame) -> list[Markup]:
    marks = ticks(*frame.x_range)
    step = marks[1] - marks[0]
    parts = []
    for value in marks:
        parts.append(_text(frame.x(value), frame.bottom + 16, tick_label(value, step), "middle"))
    return parts


def thin_out(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Average a long curve down to MAX_POINTS points; a short one stays as it is."""
    if len(points) <= MAX_POINTS:
        return list(points)
    # Groups of adjacent points, whose sizes differ by one at most.
    edges = [round(i * len(points) / MAX_POINTS) for i in range(MAX_POINTS + 1)]
    averages = []
    for start, end in pairwise(edges):
        xs, ys = zip(*points[start:end], strict=True)
        averages.append((sum(xs) / len(xs), sum(ys) / len(ys)))
    return averages


def line_plot(series: Sequence[Series], label: str) -> Markup:
    """Draw curves on common axes; the n-th has the class `s{n}`. Every series needs at least one point."""
    curves = [thin_out(curve.points) for curve in series]
    xs, ys = zip(*chain.from_iterable(curves), strict=True)
    frame = Frame(_padded(min(xs), max(xs), 0.0), _padded(min(ys), max(ys), 0.06), 46, WIDTH - 8, 8, 168)
    parts = _y_axis(frame) + _x_axis(frame)
    for number, (points, curve) in enumerate(zip(curves, series, strict=True), start=1):
        positions = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
        parts.append(Markup('<polyline class="curve s{}" points="{}"/>').format(number, positions))
        # The last point is marked: readers look for it, and a curve with one point would be invisible.
        x, y = points[-1]
        dot = Markup('<circle class="dot s{}" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}</title></circle>')
        parts.append(dot.format(number, frame.x(x), frame.y(y), f"{curve.name}: {y:.4g} at {x:g}"))
    return _svg(190, label, *parts)


def interval_plot(rows: Sequence[Interval], label: str) -> Markup:
    """Draw values with their bounds, one per row, with a line at zero."""
    # Zero is always visible: the plot shows whether an interval excludes it.
    low = min(0.0, *map(attrgetter("low"), rows))
    high = max(0.0, *map(attrgetter("high"), rows))
    height = 10 + 28 * len(rows)
    # Room for labels on the left and for notes on the right.
    frame = Frame(_padded(low, high, 0.06), (0.0, 1.0), 104, WIDTH - 78, 4, height)
    parts = []
    for value in ticks(*frame.x_range):
        parts.append(_line(frame.x(value), frame.top, frame.x(value), height, "grid"))
    parts.append(_line(frame.x(0), frame.top, frame.x(0), height, "zero"))
    for number, row in enumerate(rows):
        parts.append(_interval_row(row, frame, 19 + 28 * number))
    return _svg(height + 22, label, *parts, *_x_axis(frame))


def _interval_row(row: Interval, frame: Frame, y: float) -> Markup:
    return Markup('<g class="tone-{}"><title>{}</title>{}{}{}{}</g>').format(
        row.tone,
        f"{row.label}: {row.note} [{row.low:+.4g}, {row.high:+.4g}]",
        _text(0, y + 4, _shortened(row.label, 14), "start", "label"),
        _line(frame.x(row.low), y, frame.x(row.high), y, "whisker"),
        Markup('<circle class="point" cx="{:.1f}" cy="{}" r="4.5"/>').format(frame.x(row.middle), y),
        _text(WIDTH, y + 4, row.note, "end", "note"),
    )


def _shortened(label: str, length: int) -> str:
    """Shorten a label to fit beside a plot; the tooltip has all of it."""
    return label if len(label) <= length else label[: length - 1] + "…"


def histogram(edges: Sequence[float], counts: Sequence[float], label: str) -> Markup:
    """Draw bars between consecutive edges. Shapes: edges (B + 1,), counts (B,)."""
    # The highest bar ends slightly below the top; the axis is drawn even if all counts are 0.
    frame = Frame((edges[0], edges[-1]), (0.0, max(*counts, 1) * 1.06), 46, WIDTH - 8, 8, 148)
    parts = _y_axis(frame) + _x_axis(frame)
    for (low, high), count in zip(pairwise(edges), counts, strict=True):
        # A gap of half a unit on either side keeps bars apart.
        left, right, top = frame.x(low), frame.x(high), frame.y(count)
        title = f"{low:.4g} to {high:.4g}: {count:g}"
        parts.append(_rectangle(left + 0.5, top, right - left - 1, frame.bottom - top, "bar", title))
    return _svg(170, label, *parts)


def bars(rows: Sequence[tuple[str, float, str]], label: str) -> Markup:
    """Draw horizontal bars from zero, with labels and values. rows: (label, value, tone)."""
    # Never 0: it is a divisor below.
    longest = max([1e-12, *map(itemgetter(1), rows)])
    parts = []
    for number, (name, value, tone) in enumerate(rows):
        y = 4 + 26 * number
        width = value / longest * (WIDTH - 190)
        written = f"{value:,.0f}" if value == int(value) else f"{value:.2f}"
        parts.append(_text(0, y + 14, _shortened(name, 19), "start", "label"))
        # Any value but zero stays visible, however small.
        parts.append(_rectangle(130, y + 3, max(width, 1.5 if value else 0.0), 15, f"bar tone-{tone}", name))
        parts.append(_text(136 + width, y + 15, written, "start", "note"))
    return _svg(8 + 26 * len(rows), label, *parts)
