"""`report.html`: a page that shows whether the tuned model is better, on what, how surely, with translations to read.

It is made from the files in a run directory. Every file is optional; the page names those that are missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError
from mtcpo.core.files import read_json, write_text
from mtcpo.data.pair_report import PairReport, read_pair_report
from mtcpo.evaluation.document import EvaluationDocument, read_document
from mtcpo.evaluation.results import EVALUATION_FILE
from mtcpo.report.pair_figures import length_note, pair_figures
from mtcpo.report.paper_tables import write_paper_tables
from mtcpo.report.provenance import flatten, stage_views, with_command_line
from mtcpo.report.rendering import render_page
from mtcpo.report.training_figures import read_training_log, training_figures
from mtcpo.report.views import overview_of, view_of

REPORT_FILE = "report.html"


def write_report(run_dir: Path, document: EvaluationDocument | None = None) -> Path:
    """Write `report.html` into a run directory, from the files there; return its path.

    document: the content of evaluation.json; None: read the file.

    Raises:
        UserError: no such directory, no files of a run in it, or an unreadable file.
    """
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: no such directory; a run directory is needed")
    if document is None and (run_dir / EVALUATION_FILE).exists():
        document = read_document(run_dir / EVALUATION_FILE)
    logs = read_training_log(run_dir / "metrics.jsonl")
    pairs_file = run_dir / "prefs-report.json"
    pair_report = read_pair_report(pairs_file) if pairs_file.exists() else None
    if document is None and not logs and pair_report is None:
        raise UserError(f"{run_dir}: no evaluation.json, prefs-report.json or metrics.jsonl; nothing to report on")
    page = render_page(
        "report.html",
        title=run_dir.resolve().name,
        **_evaluation_parts(run_dir, document),
        **_pair_parts(pair_report),
        stages=[(stage, training_figures(rows)) for stage, rows in logs.items()],
        **_provenance_parts(run_dir),
    )
    if document is not None:
        write_paper_tables(run_dir, document)
    write_text(run_dir / REPORT_FILE, page)
    return run_dir / REPORT_FILE


def _evaluation_parts(run_dir: Path, document: EvaluationDocument | None) -> dict[str, Any]:
    entries = () if document is None else document.entries
    made = {} if document is None or document.made is None else document.made
    return {
        "sets": [view_of(entry, run_dir) for entry in entries],
        "overview": overview_of(entries),
        "made": flatten(with_command_line(made)),
    }


def _pair_parts(pair_report: PairReport | None) -> dict[str, Any]:
    if pair_report is None:
        return {"prefs": None, "pair_figures": [], "length_note": ""}
    return {
        "prefs": flatten(pair_report.numbers()),
        "pair_figures": pair_figures(pair_report),
        "length_note": length_note(pair_report.lengths),
    }


def _provenance_parts(run_dir: Path) -> dict[str, Any]:
    recipe, stamp = run_dir / "recipe.toml", _read_if_there(run_dir / "stamp.json")
    parts: dict[str, Any] = {
        "recipe": recipe.read_text(encoding="utf-8") if recipe.exists() else None,
        "stamp": None,
        "run_stages": (),
    }
    if stamp is not None:
        parts["run_stages"] = stage_views(stamp)
        # Without the stages, which have a table of their own.
        parts["stamp"] = flatten({key: value for key, value in stamp.items() if key != "stages"})
    return parts


def _read_if_there(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.exists() else None
