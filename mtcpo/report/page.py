"""`report.html`: one page that says whether the tuned model is better, on what, how surely, and shows the sentences.

It is made of what lies in a run directory. Every file is optional: what is missing is named on the page. The page
needs no network; its only script is our own, named by its hash, so that nothing else on the page could run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mtcpo.core.errors import UserError
from mtcpo.core.files import write_text
from mtcpo.core.version import __version__
from mtcpo.data.languages import script_of
from mtcpo.data.pair_report import read_pair_report
from mtcpo.evaluation.significance import ALPHA
from mtcpo.report.figures import read_training_log, training_figures
from mtcpo.report.pair_figures import length_note, pair_figures
from mtcpo.report.paper_tables import write_paper_tables
from mtcpo.report.views import flatten, overview_of, stages_of, view_of, with_command
from mtcpo.report.wording import (
    count_text,
    decisive_p,
    format_p,
    format_score,
    judge,
    metric_title,
    selection_metric_note,
    shows_clusters,
    signed_delta,
    significance_in_words,
    summarise,
    too_few_resamples,
)

RTL_SCRIPTS = ("Arab", "Hebr", "Syrc", "Thaa", "Nkoo", "Adlm", "Rohg", "Mand", "Samr")
RTL_LETTER = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]")

TEMPLATES = Path(__file__).parent / "templates"


def write_report(run_dir: Path) -> Path:
    """Make `report.html` in a run directory from what lies there; return its path.

    Raises:
        UserError: no such directory, nothing of a run in it, or a file in it that cannot be read.
    """
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: no such directory; a run directory is needed")
    evaluation = _read_json(run_dir / "evaluation.json")
    stages = read_training_log(run_dir / "metrics.jsonl")
    pairs_file = run_dir / "prefs-report.json"
    pair_report = read_pair_report(pairs_file) if pairs_file.exists() else None
    if evaluation is None and not stages and pair_report is None:
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
            prefs=None if pair_report is None else flatten(pair_report.numbers()),
            pair_figures=[] if pair_report is None else pair_figures(pair_report),
            length_note="" if pair_report is None else length_note(pair_report.lengths),
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
        selection_metric_note=selection_metric_note,
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
