"""The table and the plot of the training benchmark, made from its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Rows = Mapping[str, dict[str, Any]]
Curve = list[tuple[float, float]]

SIDES = {"ours": ("mtcpo", "#1f6feb"), "trl": ("TRL", "#6e7781")}
"""Side -> name and colour in the plot."""

# --- table ------------------------------------------------------------------------------------------------------------


def table(rows: Rows) -> str:
    """Return the results as Markdown: medians, with minimum and maximum of all runs in parentheses."""
    steps, gpu, largest, losses = _tables()
    for name, row in rows.items():
        pairs = row["settings"]["pairs"]
        if "largest_relative_difference" in row:
            losses.append(f"| {name}, {pairs} pairs per step | {row['largest_relative_difference']:.1e} |")
        elif "times_faster" in row:
            cells = [_cell(row[key]) for key in ("times_faster", "times_less_cpu_time")]
            cells += [_cell(row[f"{side}_figures"]["above_gib"]) for side in SIDES]
            cells.append(_cell(row["share_of_memory"]))
            steps.append(f"| {name} | {pairs} | {' | '.join(cells)} | {_goal(row['settings'])} |")
        else:
            steps.append(f"| {name} | {pairs} | {row.get('status') or _errors(row)} | | | | | |")
        if "matmul_peak_flops" in row and "largest_relative_difference" not in row:
            figures = [row.get(f"{side}_figures") for side in SIDES]
            shares = ["–" if one is None else _cell(one["share_of_peak"]) for one in figures]
            gpu.append(f"| {name} | {row['matmul_peak_flops'] / 1e12:.0f} | {' | '.join(shares)} |")
        if "largest_batch" in row:
            largest.append(_largest_line(name, row))
    return "\n\n".join("\n".join(part) for part in (steps, gpu, largest, losses) if len(part) > 2) + "\n"


def _tables() -> list[list[str]]:
    heads = (
        "row | pairs per step | speedup, wall time | speedup, CPU time | GiB of mtcpo | GiB of TRL | share | goal",
        "row | matmul peak, TFLOP/s | share used by mtcpo | by TRL",
        "row, largest batch up to 1024 | mtcpo | TRL | pairs per second, mtcpo | TRL | speedup | share of the matmul "
        "peak, mtcpo | TRL",
        "20 steps from the same weights | largest relative difference of a loss",
    )
    return [[f"| {head} |", "|" + "---|" * (head.count("|") + 1)] for head in heads]


def _largest_line(name: str, row: Mapping[str, Any]) -> str:
    found = [row["largest_batch"][side] for side in SIDES]
    sizes = [str(one["pairs_a_step"]) for one in found]
    if any("error" in one for one in found):
        return f"| {name} | {' | '.join(sizes)} | {_errors({'largest': {'runs': found}})} | | | | |"
    rates = [one["pairs"] / one["seconds"] for one in found]
    shares = [one["useful_flops"] / one["seconds"] / row["matmul_peak_flops"] for one in found]
    figures = [*(f"{rate:.1f}" for rate in rates), f"{rates[0] / rates[1]:.2f}", *(f"{share:.2f}" for share in shares)]
    return f"| {name} | {' | '.join([*sizes, *figures])} |"


def _errors(row: Mapping[str, Any]) -> str:
    """Return the errors of each side, each once."""
    found = {run["error"]: side for side, part in row.items() if isinstance(part, dict) and "runs" in part
             for run in part["runs"] if "error" in run}  # fmt: skip
    return "; ".join(f"{side}: {error}".replace("|", "/") for error, side in found.items())


def _goal(settings: Mapping[str, Any]) -> str:
    speed, memory = settings.get("goal") or (None, None)
    return ", ".join(filter(None, [f"{speed:g} times" if speed else "", f"share {memory:.2f}" if memory else ""]))


def _cell(value: Mapping[str, float]) -> str:
    only = value["least"] == value["most"]
    return f"{value['median']:.2f}" + ("" if only else f" ({value['least']:.2f}–{value['most']:.2f})")


# --- curves -----------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT = 460, 320
LEFT, RIGHT, TOP, BOTTOM = 62, 24, 66, 48
"""Margins of a panel's axes."""

AXES = {"pairs": "pairs per step", "target": "tokens of each target"}


def draw(rows: Rows) -> str:
    """Return the scaling curves as SVG: pairs per second by pairs per step and by target length, for each machine."""
    found = []
    for kind, title in (("cpu-mt5-small", "mT5-small, one CPU thread"), ("gpu-mt5-base", "mT5-base, one GPU")):
        for part in AXES:
            curves = {side: sorted(_points(rows, kind, part, side)) for side in SIDES}
            if all(curves.values()):
                found.append((title, AXES[part], curves))
    across, down = min(2, len(found)), (len(found) + 1) // 2
    panels = [_panel(i % 2 * WIDTH, i // 2 * HEIGHT, *panel) for i, panel in enumerate(found)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * max(1, across)} {HEIGHT * max(1, down)}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#57606a">'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(panels)}</svg>\n'
    )  # fmt: skip


def _points(rows: Rows, kind: str, part: str, side: str) -> Curve:
    found = []
    for name, row in rows.items():
        ends = name.removeprefix(kind).strip("-").split("-")
        if not name.startswith(kind) or f"{side}_figures" not in row:
            continue
        if part == "pairs" and (ends[-1] == "pairs" or ends == [""]):
            x = row["settings"]["pairs"]
        elif part == "target" and ends[0] == "target":
            x = int(ends[1])
        else:
            continue
        found.append((float(x), row[f"{side}_figures"]["pairs_per_second"]["median"]))
    return found


def _panel(left: float, top: float, title: str, axis: str, curves: Mapping[str, Curve]) -> str:
    """Draw curves with a linear y axis from 0 and equal steps on the x axis, as the sizes double."""
    xs = sorted({x for curve in curves.values() for x, _ in curve})
    marks = _marks(max(y for curve in curves.values() for _, y in curve))
    x_of = lambda x: LEFT + 14 + xs.index(x) * (WIDTH - LEFT - RIGHT - 28) / max(1, len(xs) - 1)  # noqa: E731
    y_of = lambda y: HEIGHT - BOTTOM - y / marks[-1] * (HEIGHT - TOP - BOTTOM)  # noqa: E731
    parts = [f'<g transform="translate({left},{top})">']
    parts.append(f'<text x="{LEFT}" y="24" font-size="15" font-weight="600" fill="#1f2328">{title}</text>')
    parts.append(f'<text x="{LEFT}" y="44">pairs per second, and mtcpo / TRL</text>')
    for value in marks:
        y = y_of(value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d8dee4"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    parts += [f'<text x="{x_of(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{x:g}</text>' for x in xs]
    parts.append(f'<text x="{WIDTH / 2 + 20}" y="{HEIGHT - 10}" text-anchor="middle">{axis}</text>')
    for number, (side, curve) in enumerate(curves.items()):
        name, colour = SIDES[side]
        places = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in curve)
        parts.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        parts += [f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3.5" fill="{colour}"/>' for x, y in curve]
        place = WIDTH - RIGHT - 132 + 72 * number
        parts.append(f'<rect x="{place}" y="38" width="14" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{place + 19}" y="44" font-weight="600" fill="{colour}">{name}</text>')
    parts += _factors(curves, x_of, y_of)
    return "".join([*parts, "</g>"])


def _factors(curves: Mapping[str, Curve], x_of: Any, y_of: Any) -> Sequence[str]:
    """Write the speed ratio above each of mtcpo's points that TRL has too."""
    ours, trl = (dict(curves[side]) for side in SIDES)
    places = ((x_of(x), y_of(y) - 9, y / trl[x]) for x, y in ours.items() if x in trl)
    style = 'text-anchor="middle" fill="#1f2328"'
    return [f'<text x="{x:.1f}" y="{y:.1f}" {style}>×{factor:.1f}</text>' for x, y, factor in places]


def _marks(largest: float) -> list[float]:
    """Return round axis values from 0 to above the largest: three to six steps of 1, 2 or 5 times a power of ten."""
    step = next(s for power in range(-6, 9) for s in (10.0**power, 2 * 10.0**power, 5 * 10.0**power)
                if largest * 1.12 / s <= 6)  # fmt: skip
    count = int(largest * 1.12 / step) + 1
    return [round(number * step, 6) for number in range(count + 1)]
