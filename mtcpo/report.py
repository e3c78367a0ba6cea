"""`report.html`: one page that says whether the tuned model is better, on what, how surely, and shows the sentences.

It is made of what lies in a run directory. Every file is optional: what is missing is named on the page. The page
needs no network; its only script is our own, named by its hash, so that nothing else on the page could run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mtcpo import __version__
from mtcpo.errors import UserError
from mtcpo.evaluation import ERRORS, translations_dir
from mtcpo.figures import (
    MAX_CURVES,
    Figure,
    delta_figures,
    length_figure,
    pair_figures,
    read_pairs,
    read_training_log,
    training_figures,
)
from mtcpo.files import write_text
from mtcpo.howmade import flatten, stages_of, with_command, without_plots
from mtcpo.languages import english_name, script_of
from mtcpo.overview import Tile, overview_of, tiles_of
from mtcpo.papertables import write_paper_tables
from mtcpo.records import read_segments
from mtcpo.sidebyside import Selection, select_rows
from mtcpo.significance import ALPHA
from mtcpo.tables import (
    FEW_SYSTEMS,
    checked_symptoms,
    count_text,
    decisive_p,
    format_p,
    format_score,
    judge,
    metric_title,
    ranked,
    shows_clusters,
    signed_delta,
    significance_in_words,
    summarise,
    too_few_resamples,
    warn_of_choosers,
)
from mtcpo.tallies import main_metrics

MAX_FIGURES = 3
"""Metrics that are plotted against the length of the source: one row of the page."""

RTL_SCRIPTS = ("Arab", "Hebr", "Syrc", "Thaa", "Nkoo", "Adlm", "Rohg", "Mand", "Samr")
RTL_LETTER = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]")

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class SetView:
    """A test set as the page shows it. `entry` is its part of evaluation.json.

    order: all systems as they are listed; others: those but the baseline. first: the metric by which systems are
    ranked; leading: that by which translations are sorted first. by_length: scores by length.
    symptoms: which faults of outputs were counted. errors_by: the first metric that finds errors; they are marked.
    best: the systems with the best score, by metric. gains, changed: for each shown segment JSON of numbers, for the
    page's script.
    """

    entry: Mapping[str, Any]
    order: tuple[str, ...]
    title: str
    others: tuple[str, ...]
    leading: str
    first: str
    best: Mapping[str, frozenset[str]]
    tiles: tuple[Tile, ...]
    figures: tuple[Figure, ...]
    by_length: tuple[Figure, ...]
    symptoms: tuple[str, ...]
    translations: Selection | None
    errors_by: str | None = None
    gains: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


def write_report(run_dir: Path) -> Path:
    """Make `report.html` in a run directory from what lies there; return its path.

    Raises:
        UserError: no such directory, nothing of a run in it, or a file in it that cannot be read.
    """
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: no such directory; a run directory is needed")
    evaluation = _read_json(run_dir / "evaluation.json")
    stages = read_training_log(run_dir / "metrics.jsonl")
    prefs = _read_json(run_dir / "prefs-report.json")
    if evaluation is None and not stages and prefs is None:
        raise UserError(f"{run_dir}: no evaluation.json, prefs-report.json or metrics.jsonl; nothing to report on")
    recipe, stamp = run_dir / "recipe.toml", _read_json(run_dir / "stamp.json")
    entries = [] if evaluation is None else evaluation["pairs"].values()
    page = (
        page_environment()
        .get_template("report.html")
        .render(
            title=run_dir.resolve().name,
            version=__version__,
            **inline_files(),
            sets=[view_of(entry, run_dir) for entry in entries],
            overview=overview_of(list(entries)),
            stages=[(stage, training_figures(rows)) for stage, rows in stages.items()],
            prefs=None if prefs is None else flatten(without_plots(prefs)),
            pair_figures=[] if prefs is None else pair_figures(prefs, read_pairs(run_dir / "prefs.jsonl")),
            recipe=recipe.read_text(encoding="utf-8") if recipe.exists() else None,
            stamp=None if stamp is None else flatten({key: stamp[key] for key in stamp if key != "stages"}),
            run_stages=stages_of(stamp or {}),
            made=flatten(with_command((evaluation or {}).get("made", {}))),
        )
    )
    if evaluation is not None:
        write_paper_tables(run_dir, evaluation)
    write_text(run_dir / "report.html", page)
    return run_dir / "report.html"


def page_environment() -> jinja2.Environment:
    """Return the environment that pages are made in: everything escaped, nothing undefined passed over."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        direction=direction,
        metric_title=metric_title,
        judge=judge,
        summarise=summarise,
        warn_of_choosers=warn_of_choosers,
        alpha=ALPHA,
        count_text=count_text,
        shows_clusters=shows_clusters,
        significance_in_words=significance_in_words,
        too_few_resamples=too_few_resamples,
    )
    environment.filters.update(score=format_score, delta=signed_delta, p=format_p, decisive_p=decisive_p)
    return environment


def inline_files() -> dict[str, Markup | str]:
    """Return our own style sheet and script, with the script's hash: the page's policy lets nothing else run."""
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8").strip() for name in ("report.css", "report.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return {"style": Markup(style), "script": Markup(script), "script_hash": digest}


def _read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where the file is not there."""
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error}); make it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: a JSON object is needed, not {type(value).__name__}")
    return value


@lru_cache(maxsize=256)
def language_name(tag: str) -> str:
    """Return a language's English name, or the tag itself where it names none."""
    try:
        return english_name(tag)
    except UserError:
        return tag


@lru_cache(maxsize=256)
def _is_rtl(tag: str) -> bool:
    try:
        return script_of(tag) in RTL_SCRIPTS
    except UserError:
        return False


def direction(text: str, tag: str) -> str:
    """Return a text's base direction, for `dir`: "auto", by its first letter, but for a right-to-left language's own.

    A sentence of Arabic or Hebrew that begins with a name in Latin letters still reads from the right.
    """
    return "rtl" if _is_rtl(tag) and RTL_LETTER.search(text) else "auto"


def view_of(entry: Mapping[str, Any], run_dir: Path) -> SetView:
    """Return what the page shows of one test set."""
    baseline, metrics = entry["baseline"], entry["metrics"]
    order = ranked(entry)
    others = tuple(system for system in order if system != baseline)
    leading = "chrf" if "chrf" in metrics else next(iter(metrics))
    segments = translations_dir(run_dir, entry["suite"], f"{entry['src_lang']}-{entry['tgt_lang']}") / "segments.jsonl"
    errors_by = next((name for name, row in entry["systems"][baseline]["metrics"].items() if ERRORS in row), None)
    shown = select_rows(read_segments(segments), baseline, others, leading, errors_by) if segments.exists() else None
    rows = shown.rows if shown is not None else ()
    return SetView(
        entry=entry,
        order=tuple(order),
        title=f"{language_name(entry['src_lang'])} → {language_name(entry['tgt_lang'])}",
        others=others,
        leading=leading,
        first=next(iter(metrics)),
        best={metric: _best(entry, metric) for metric in metrics},
        tiles=tiles_of(entry, others[-1]) if 0 < len(others) <= FEW_SYSTEMS else (),
        figures=delta_figures(entry, others),
        by_length=_by_length(entry, others),
        symptoms=checked_symptoms(entry),
        translations=shown,
        errors_by=errors_by,
        gains=tuple(json.dumps([[o.gains.get(m) for m in metrics] for o in row.outputs[1:]]) for row in rows),
        changed=tuple(json.dumps([int(output.changed) for output in row.outputs[1:]]) for row in rows),
    )


def _by_length(entry: Mapping[str, Any], others: Sequence[str]) -> tuple[Figure, ...]:
    found = (length_figure(entry, _strongest(entry, others, one), one) for one in main_metrics(entry)[:MAX_FIGURES])
    return tuple(figure for figure in found if figure is not None)


def _strongest(entry: Mapping[str, Any], systems: Sequence[str], metric: str) -> list[str]:
    """Return as many systems as a plot can hold beside the baseline, the best ones, as they are listed."""
    sign = -1 if entry["metrics"][metric]["higher_is_better"] else 1
    best = sorted(systems, key=lambda system: sign * entry["systems"][system]["metrics"][metric]["score"])
    return [system for system in systems if system in best[: MAX_CURVES - 1]]


def _best(entry: Mapping[str, Any], metric: str) -> frozenset[str]:
    """Return the systems with the best score; none where there is one system only."""
    scores = {system: row["metrics"][metric]["score"] for system, row in entry["systems"].items()}
    best = (max if entry["metrics"][metric]["higher_is_better"] else min)(scores.values())
    return frozenset(system for system, score in scores.items() if score == best and len(scores) > 1)
